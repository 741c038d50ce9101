"""A size is (height, width), everywhere."""

Size = tuple[int, int]

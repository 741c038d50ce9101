"""RGB of pictures with any channels."""

from __future__ import annotations

import pytest
import torch
from megapixel.scaling.colours import rgb


@pytest.mark.parametrize(
    ("channels", "like"), [(1, [0, 0, 0]), (2, [0, 0, 0]), (3, [0, 1, 2]), (4, [0, 1, 2])]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_grey_is_repeated_and_transparency_left_out(channels, like, dtype, draw):
    first = draw(2, channels, 5, 7).to(dtype)
    last = first.movedim(1, -1)
    expected = first[:, like]
    for dimension in (1, -3):
        assert torch.equal(rgb(first, dimension), expected)
    for dimension in (3, -1):
        assert torch.equal(rgb(last, dimension), expected.movedim(1, -1))
    assert rgb(first, 1).data_ptr() == first.data_ptr()

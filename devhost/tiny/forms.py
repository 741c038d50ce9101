"""The forms of the toy world and its prompts.

There is one person or ring, or the number of balls that the prompt names. An object has a colour: a body in
that colour, exactly one light part (the person's head, the ring's bar, the ball's core) and, for the person,
dark legs. Shapes are given in object coordinates: v runs down and u to the right from the object's centre, in
units of the object's height. Only plain operators are used, so NumPy arrays and torch tensors both work.
"""

from typing import Any, NamedTuple

FORMS = ("person", "ring")
COLOURS = ("red", "green", "blue")
CROWD_COUNTS = (2, 3, 4, 5)
NUMBER_WORDS = ("two", "three", "four", "five")
"""The words for ``CROWD_COUNTS``."""

CLASS_TEXTS = tuple(f"a {colour} {form}" for form in FORMS for colour in COLOURS)
"""A prompt for each class of one object, in the order of the class ids."""
CROWD_TEXTS = tuple(f"{number} {colour} balls" for number in NUMBER_WORDS for colour in COLOURS)
"""A prompt for each class of several objects; their ids go on behind those of ``CLASS_TEXTS``."""
TEXTS = CLASS_TEXTS + CROWD_TEXTS
"""All prompts by class id."""
FIRST_CROWD = len(CLASS_TEXTS)
EMPTY_CLASS = len(TEXTS)
"""Class id of the empty prompt."""

RING_EXTENT = 0.8
"""Side of the ring's bounding box in units of the object's height."""
PERSON_WIDTH = 0.5
"""Width of the person's bounding box in units of the object's height."""


class Parts(NamedTuple):
    """Boolean arrays of one shape: where the class colour, the light and the dark part lie."""

    body: Any
    light: Any
    dark: Any

    @property
    def whole(self) -> Any:
        """Return the union of all parts."""
        return self.body | self.light | self.dark


def person_parts(u: Any, v: Any) -> Parts:
    """Return torso, head and legs at object coordinates (u, v)."""
    torso = (abs(u) < 0.2) & (v > -0.22) & (v < 0.16)
    head = (u / 0.15) ** 2 + ((v + 0.35) / 0.15) ** 2 < 1
    legs = (abs(abs(u) - 0.12) < 0.075) & (v >= 0.16) & (v < 0.5)
    return Parts(torso, head, legs)


def ring_parts(u: Any, v: Any) -> Parts:
    """Return the ring and its upright bar at object coordinates (u, v); nothing of it is dark."""
    radius = (u**2 + v**2) ** 0.5
    ring = (radius < 0.4) & (radius > 0.24)
    bar = (abs(u) < 0.075) & (abs(v) < 0.26)
    return Parts(ring, bar, ring & ~ring)


def ball_parts(u: Any, v: Any) -> Parts:
    """Return the ball and its core at object coordinates (u, v); nothing of it is dark."""
    radius = (u**2 + v**2) ** 0.5
    ball = radius < 0.5
    return Parts(ball, radius < 0.24, ball & ~ball)


def parts_of(class_id: int, u: Any, v: Any) -> Parts:
    """Return the parts of one object of a class at object coordinates (u, v)."""
    if is_crowd(class_id):
        return ball_parts(u, v)
    return person_parts(u, v) if is_person(class_id) else ring_parts(u, v)


def is_person(classes: Any) -> Any:
    """Return which class ids are a person."""
    return classes < len(COLOURS)


def is_crowd(classes: Any) -> Any:
    """Return which class ids are several balls."""
    return classes >= FIRST_CROWD


def crowd_count(class_id: int) -> int:
    """Return how many objects a class shows."""
    return CROWD_COUNTS[(class_id - FIRST_CROWD) // len(COLOURS)] if is_crowd(class_id) else 1

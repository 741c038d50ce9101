"""The two forms of the toy world and their classes.

An object has a form (person or ring) and a colour; it has a body in that colour, exactly one light part (the
person's head, the ring's bar) and, for the person, dark legs. Shapes are given in object coordinates: v runs
down and u to the right from the object's centre, in units of the object's height. Only plain operators are
used, so NumPy arrays and torch tensors both work.
"""

from typing import Any, NamedTuple

FORMS = ("person", "ring")
COLOURS = ("red", "green", "blue")
CLASS_NAMES = tuple(f"{form} {colour}" for form in FORMS for colour in COLOURS)
CLASS_TEXTS = tuple(f"a {colour} {form}" for form in FORMS for colour in COLOURS)
"""A prompt for each class, in the order of the class ids."""
CLOSE_UP_OFFSET = len(CLASS_NAMES)
"""Class ids from here on are the same classes as close-ups: larger than the frame and cut by it."""
EMPTY_CLASS = 2 * len(CLASS_NAMES)
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


def is_person(classes: Any) -> Any:
    """Tell which class ids (close-ups included) are persons."""
    return classes % CLOSE_UP_OFFSET < len(COLOURS)

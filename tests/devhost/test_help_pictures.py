"""The pictures of the README and the help pages were drawn with the settings of today."""

from __future__ import annotations

import pytest
from PIL import Image

from devhost.help_pictures import DEMO, DOCS, EXAMPLES, PLAN, draw_plan_picture, recipe_in, sheet_recipe

SHEETS = [
    DEMO,
    *(folder / f"{name}.jpg" for folder in (DOCS, EXAMPLES) for name in ("deep_shrink", "hidiffusion")),
]


@pytest.mark.parametrize("picture", SHEETS, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_a_sheet_has_todays_recipe(picture):
    assert recipe_in(picture) == sheet_recipe(), "draw it again: python -m devhost.help_pictures"


def test_the_plan_is_what_hidiffusion_plans_today():
    picture, recipe = draw_plan_picture()
    assert recipe_in(PLAN) == recipe, "draw it again: python -m devhost.help_pictures"
    with Image.open(PLAN) as shown:
        assert shown.size == picture.size


def test_a_picture_without_a_recipe_has_none():
    assert recipe_in(DOCS / "segs.jpg") is None

"""What the registry reads of the pack: the fields that people search by, and the pictures of its page."""

from __future__ import annotations

import re

from PIL import Image

from devhost.environment import ROOT

TEXT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def field(name):
    [value] = re.findall(rf'^{name} = "(.+)"$', TEXT, re.MULTILINE)
    return value


def picture_of(address):
    """The file in this repository that an address on its page shows."""
    return ROOT / address.partition("/main/")[2]


def test_the_banner_is_21_to_9_and_the_icon_a_square():
    with Image.open(picture_of(field("Banner"))) as banner:
        assert banner.width * 9 == banner.height * 21
    with Image.open(picture_of(field("Icon"))) as icon:
        assert icon.width == icon.height <= 400


def test_the_description_has_the_words_that_people_search_for():
    words = ("Deep Shrink", "HiDiffusion", "RAU-Net", "MSW-MSA", "InstantID", "upscaling", "SEGS", "faces")
    assert [word for word in words if word not in field("description")] == []


def test_dependencies_are_those_of_the_requirements():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert re.search(r"^dependencies = \[\]", TEXT, re.MULTILINE)
    assert [line for line in lines if line and not line.startswith("#")] == []

"""The nodes in the languages of their users: what is translated exists, and has the numbers and settings of
the English text.

A translation that is missing fails no test, nor does one whose English text has changed since: `dev.py
locales` lists them.
"""

from __future__ import annotations

import json
import re

import pytest
from megapixel.nodes import NODES

from devhost.locales import LANGUAGES, Language, english_texts

NUMBER = r"\d+(?:\.\d+)?"
ID = r"[a-z0-9]+(?:_[a-z0-9]+)+"  # of an input or a setting
MESSAGE_SYNTAX = set("{}@|")  # the front end would take these for instructions
ENGLISH = english_texts(NODES)


@pytest.fixture(params=LANGUAGES)
def language(request):
    return Language(request.param, ENGLISH)


def own(language, path):
    """Return a translation without the id that a tooltip begins with."""
    text = language.texts[path]
    *_, name, kind = path.split(".")
    return text.removeprefix(f"{name}: ") if kind == "tooltip" else text


def options_by_path():
    """Return the choices of each input that has some, by the path of its tooltip;
    the host's own lists are left out.
    """
    return {
        f"{node.__name__}.inputs.{socket.id}.tooltip": socket.options
        for node in NODES
        for socket in node.GET_SCHEMA().inputs
        if socket.io_type == "COMBO" and isinstance(socket.options, list)
    }


def mentioned(option, text):
    return re.search(rf"(?<![a-z]){re.escape(option)}(?![a-z])", text) is not None


def test_every_translation_is_of_something(language):
    assert language.unknown == []


def test_no_translation_is_empty_or_taken_for_an_instruction(language):
    for path, text in language.texts.items():
        assert text.strip(), f"{path}: remove it, and the English text is shown"
        assert not MESSAGE_SYNTAX & set(text), path


@pytest.mark.parametrize("pattern", [NUMBER, ID], ids=["numbers", "ids"])
def test_a_translation_names_what_english_names(language, pattern):
    for path in language.current:
        if path.endswith((".tooltip", ".description")):
            found = sorted(re.findall(pattern, own(language, path)))
            assert found == sorted(re.findall(pattern, ENGLISH[path])), (path, language.texts[path])


def test_a_translation_names_the_choices_that_english_names(language):
    current = set(language.current)
    for path, options in options_by_path().items():
        for option in options if path in current else ():
            if mentioned(option, ENGLISH[path]):
                assert mentioned(option, language.texts[path]), (path, option)


def test_a_translated_tooltip_begins_with_the_id_of_its_input(language):
    for path, text in language.texts.items():
        if ".inputs." in path and path.endswith(".tooltip"):
            assert text.startswith(f"{path.split('.')[-2]}: "), path


def test_a_language_has_names_for_the_menus_that_the_host_has_not(language):
    menus = {part for node in NODES for part in node.GET_SCHEMA().category.split("/")}
    categories = language.read("main")["nodeCategories"]
    assert categories.keys() == {"segments"}
    assert categories.keys() <= menus


def test_every_translation_has_its_record(language):
    """Without it, a change of the English text would go unseen: `dev.py locales` writes it."""
    assert [path for path in language.texts if path not in language.record] == []


PATH, OTHER = "Upscale.inputs.image.tooltip", "Upscale.description"
SOURCE = {PATH: "The image.", OTHER: "Enlarges."}
CHANGED = {**SOURCE, PATH: "The image, at most 512 px."}


@pytest.fixture
def small(tmp_path):
    """A function (english, **texts) that writes a small language's texts,
    where some are given, and returns it.
    """
    (tmp_path / "zh").mkdir()
    (tmp_path / "zh" / "translated.json").write_text("{}")

    def write(english, image=None, description="D"):
        if image is not None:
            inputs = {"image": {"tooltip": image} if image else {}}
            words = {"Upscale": {"description": description, "inputs": inputs}}
            (tmp_path / "zh" / "nodeDefs.json").write_text(json.dumps(words))
        return Language("zh", english, tmp_path)

    write(SOURCE, image="A").remember()
    return write


def test_a_text_that_has_changed_makes_its_translation_stale_until_it_is_written_anew(small):
    assert (small(SOURCE).stale, small(SOURCE).missing) == ([], [])
    small(CHANGED).remember()  # to list it is not to translate it
    assert (small(CHANGED).stale, small(CHANGED).current) == ([PATH], [OTHER])
    assert small(CHANGED, image="B").stale == []
    small(CHANGED).remember()
    assert (small(CHANGED).stale, small(SOURCE).stale) == ([], [PATH])


def test_a_translation_that_is_still_right_is_kept(small):
    small(CHANGED).remember(keep=["Upscale.inputs"])
    assert small(CHANGED).stale == []


def test_a_translation_that_is_missing_is_listed_and_forgotten(small):
    language = small(SOURCE, image="")
    assert (language.missing, language.stale) == ([PATH], [])
    language.remember()
    assert PATH not in small(SOURCE).record

"""The nodes in the languages of their users: complete, nothing too many, and the same numbers and settings."""

from __future__ import annotations

import json
import re

import pytest
from megapixel.nodes import NODES

from devhost.locales import ENGLISH, LOCALES, as_text, english_words

LANGUAGES = ["zh", "ja", "ko"]
NUMBER = r"\d+(?:\.\d+)?"
ID = r"[a-z0-9]+(?:_[a-z0-9]+)+"  # of an input or a setting
MESSAGE_SYNTAX = set("{}@|")  # the front end would take these for instructions


def read(language, file="nodeDefs"):
    return json.loads((LOCALES / language / f"{file}.json").read_text(encoding="utf-8"))


def flat(words, path=()):
    """Return the sentences in nested words by their paths."""
    if isinstance(words, str):
        return {path: words}
    return {key: text for name, inner in words.items() for key, text in flat(inner, (*path, name)).items()}


def options_by_path():
    """Return the choices of each input that has some, by the path of its tooltip; the host's own lists are left out."""
    return {
        (node.__name__, "inputs", socket.id, "tooltip"): socket.options
        for node in NODES
        for socket in node.GET_SCHEMA().inputs
        if socket.io_type == "COMBO" and isinstance(socket.options, list)
    }


def mentioned(option, text):
    return re.search(rf"(?<![a-z]){re.escape(option)}(?![a-z])", text) is not None


def test_english_is_what_the_schemas_say():
    assert ENGLISH.read_text(encoding="utf-8") == as_text(english_words(NODES))


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_language_has_the_same_words_as_english_and_none_is_empty(language):
    words = flat(read(language))
    assert words.keys() == flat(read("en")).keys()
    assert all(text.strip() for text in words.values())


@pytest.mark.parametrize("language", ["en", *LANGUAGES])
def test_no_text_is_taken_for_an_instruction_by_the_front_end(language):
    for path, text in flat(read(language)).items():
        assert not MESSAGE_SYNTAX & set(text), path


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("pattern", [NUMBER, ID], ids=["numbers", "ids"])
def test_a_translation_names_what_english_names(language, pattern):
    words = flat(read(language))
    for path, text in flat(read("en")).items():
        if path[-1] in ("tooltip", "description"):
            own = words[path].removeprefix(f"{path[-2]}: ")
            assert sorted(re.findall(pattern, own)) == sorted(re.findall(pattern, text)), (path, own)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_translation_names_the_choices_that_english_names(language):
    english, words = flat(read("en")), flat(read(language))
    for path, options in options_by_path().items():
        for option in options:
            if mentioned(option, english[path]):
                assert mentioned(option, words[path]), (path, option)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_translated_tooltip_begins_with_the_id_of_its_input(language):
    for node, words in read(language).items():
        for name, texts in words["inputs"].items():
            assert texts["tooltip"].startswith(f"{name}: "), (node, name)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_language_has_names_for_the_menus_that_the_host_has_not(language):
    menus = {part for node in NODES for part in node.GET_SCHEMA().category.split("/")}
    categories = read(language, "main")["nodeCategories"]
    assert categories.keys() == {"segments"}
    assert categories.keys() <= menus

"""Records behave like frozen dataclasses, which are the oracle here."""

from __future__ import annotations

import copy
import pickle
import re
from dataclasses import FrozenInstanceError, asdict, dataclass, field, fields, replace
from functools import cached_property

import pytest
from megapixel.record import record

from devhost.environment import ROOT
from devhost.house import FOLDERS


@record
class Size:
    """A record with a default, a field that does not count, and a derived value."""

    height: int
    width: int = 3
    note: str = field(default="", compare=False, repr=False)
    tags: list[str] = field(default_factory=list, compare=False)

    @cached_property
    def area(self) -> int:
        return self.height * self.width


@dataclass(frozen=True)
class Oracle:
    height: int
    width: int = 3
    note: str = field(default="", compare=False, repr=False)
    tags: list[str] = field(default_factory=list, compare=False)


@record(eq=False)
class Held:
    value: int


@record
class Named:
    value: int

    def __repr__(self) -> str:
        return "own"


@record
class Wide(Size):
    """A record that has the fields of another."""

    depth: int = 1


def test_a_record_is_a_dataclass():
    one = Size(2, note="n")
    assert asdict(one) == asdict(Oracle(2, note="n"))
    assert [each.name for each in fields(Wide)] == ["height", "width", "note", "tags", "depth"]
    assert replace(one, width=5) == Size(2, 5)
    assert (one.area, Wide(2, 4).area) == (6, 8)
    assert Size.__match_args__ == Oracle.__match_args__
    assert Size(1).tags is not Size(1).tags


@pytest.mark.parametrize("given", [(1,), (1, 2), (1, 3, "x")])
def test_it_is_shown_compared_and_hashed_like_a_frozen_dataclass(given):
    assert repr(Size(*given)) == repr(Oracle(*given)).replace("Oracle", "Size")
    for other in [(1,), (1, 2), (2, 3, "x")]:
        assert (Size(*given) == Size(*other)) is (Oracle(*given) == Oracle(*other))
        assert (hash(Size(*given)) == hash(Size(*other))) is (hash(Oracle(*given)) == hash(Oracle(*other)))
    assert hash(Size(*given)) == hash(Oracle(*given))
    assert Size(*given) != Wide(*given)
    assert Size(*given) != Oracle(*given)
    assert repr(Named(1)) == "own"


@pytest.mark.parametrize("kind", [Size, Oracle])
def test_its_fields_are_assigned_once(kind):
    one = kind(1)
    for name in ("height", "width", "other"):
        with pytest.raises(FrozenInstanceError, match=f"cannot assign to field '{name}'"):
            setattr(one, name, 2)
        with pytest.raises(FrozenInstanceError, match=f"cannot delete field '{name}'"):
            delattr(one, name)
    with pytest.raises(TypeError):
        kind(1, 2, "", [], 5)
    assert (one.height, one.width) == (1, 3)


def test_without_eq_it_is_compared_by_identity():
    one = Held(1)
    assert one != Held(1)
    assert {one: 1}[one] == 1
    with pytest.raises(FrozenInstanceError):
        one.value = 2


def test_it_can_be_copied_and_pickled():
    one = Size(2, tags=["a"])
    assert copy.copy(one) == copy.deepcopy(one) == pickle.loads(pickle.dumps(one)) == one
    assert copy.deepcopy(one).tags is not one.tags


def test_the_pack_has_no_other_frozen_dataclasses():
    files = [file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")]
    assert not [str(file) for file in files if re.search(r"frozen=True", file.read_text(encoding="utf-8"))]

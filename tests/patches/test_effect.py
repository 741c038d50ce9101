"""What an effect has to bring, and how effects stack, on a tiny real model."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import pytest
import torch
from megapixel.patches.effect import Effect, merge_with_earlier, replace_earlier, stand_beside
from megapixel.patches.plan import Plan
from megapixel.patches.plan_picture import draw_plan
from megapixel.patches.run_plan import plan_run
from megapixel.patches.wrapper import add_effect, effects_of, planned

from devhost.sampling import sample

SIZE = (16, 12)
SIGMAS = torch.linspace(10.0, 0.0, 4)


class FactorPlan(Plan):
    def __init__(self, factor):
        self.factor = factor

    def marks(self, sizes):
        return {("input", 2): f"x {self.factor}"}


@dataclass(frozen=True)
class Brighten(Effect):
    """Multiplies the features after input block 2."""

    factors: tuple[float, ...] = (2.0,)

    name = "brighten"
    label = "Brighten"
    colour = (10, 20, 250)
    resizes = False

    def stacked(self, effects):
        return merge_with_earlier(self, effects, lambda earlier: Brighten((*earlier.factors, *self.factors)))

    def install(self, model, name, earlier):
        if earlier is None:
            model.set_model_input_block_patch(
                lambda features, options: self.multiply(name, features, options)
            )

    @staticmethod
    def multiply(name, features, options):
        plan = planned(name, features)
        return features if plan is None or options["block"][1] != 2 else features * plan.factor

    def idle(self, call):
        return "all factors are 1" if set(self.factors) == {1.0} else None

    def describe(self, call):
        return f"factors {self.factors}"

    def plan(self, call):
        return None if self.idle(call) else FactorPlan(float(torch.tensor(self.factors).prod()))


class Replacing(Brighten):
    def stacked(self, effects):
        return replace_earlier(self, effects)


class Beside(Brighten):
    def stacked(self, effects):
        return stand_beside(self, effects)


@pytest.mark.parametrize("part", ["name", "label", "colour", "resizes"])
def test_an_effect_without_a_part_cannot_be_defined(part):
    parts = {"name": "x", "label": "X", "colour": (1, 2, 3), "resizes": False}
    del parts[part]
    with pytest.raises(TypeError, match=f"^Half: an effect without {part}$"):
        type("Half", (Effect,), parts)


@pytest.mark.parametrize("part", ["stacked", "install", "idle", "describe", "plan"])
def test_an_effect_without_a_method_cannot_be_made(part):
    methods = {name: lambda self, *_: None for name in ("stacked", "install", "idle", "describe", "plan")}
    del methods[part]
    half = type(
        "Half", (Effect,), {"name": "x", "label": "X", "colour": (1, 2, 3), "resizes": False} | methods
    )
    with pytest.raises(TypeError, match=part):
        half()


@pytest.mark.parametrize(
    ("kind", "names", "factors"),
    [
        (Brighten, ["brighten"], [(2.0, 3.0)]),
        (Replacing, ["brighten"], [(3.0,)]),
        (Beside, ["brighten", "brighten 2"], [(2.0,), (3.0,)]),
    ],
)
def test_a_second_effect_stacks_as_it_asks_for(sd15, kind, names, factors):
    first = add_effect(sd15, kind((2.0,)))
    second = add_effect(first, kind((3.0,)))
    assert list(effects_of(second)) == names
    assert [effect.factors for effect in effects_of(second).values()] == factors
    assert [effect.factors for effect in effects_of(first).values()] == [(2.0,)]
    assert not effects_of(sd15)
    product = 3.0 if kind is Replacing else 6.0
    expected = sample(add_effect(sd15, kind((product,))), SIZE, steps=1)
    assert torch.equal(sample(second, SIZE, steps=1), expected)
    assert not torch.equal(sample(first, SIZE, steps=1), expected)


def test_two_kinds_of_one_name_are_an_error(sd15):
    with pytest.raises(TypeError, match=r"^brighten: the name of two kinds of effects"):
        add_effect(add_effect(sd15, Brighten()), Replacing())


def test_plan_preview_shows_a_new_effect_by_what_it_brings(sd15):
    plan = plan_run(add_effect(sd15, Brighten()), SIZE, SIGMAS)
    assert plan.words == {"brighten": "Brighten: factors (2.0,)"}
    assert Brighten.colour in {colour for _, colour in draw_plan(plan).getcolors(1 << 20)}


def test_an_idle_effect_is_logged_with_its_reason_and_changes_nothing(sd15, caplog):
    with caplog.at_level(logging.INFO, "megapixel"):
        result = sample(add_effect(sd15, Brighten((1.0,))), SIZE, steps=1)
    assert "Brighten at latent 16x12: nothing to do (all factors are 1)" in caplog.text
    assert torch.equal(result, sample(sd15, SIZE, steps=1))

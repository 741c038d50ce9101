"""InstantID's attention on tiny real SDXL UNets, sampled by the host,
beside a literal transcription of the method.
"""

from __future__ import annotations

import gc
import logging
import math
from dataclasses import replace

import comfy.model_patcher
import comfy.samplers
import comfy.supported_models
import pytest
import torch
from comfy.ldm.modules.attention import optimized_attention
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_custom_sampler import Guider_DualCFG
from comfy_extras.nodes_freelunch import FreeU_V2
from comfy_extras.nodes_pag import PerturbedAttentionGuidance
from comfy_extras.nodes_perpneg import Guider_PerpNeg
from comfy_extras.nodes_tomesd import TomePatchModel
from megapixel.attention.instant_id import FaceKeys, InstantID, shapes_of
from megapixel.attention.resampler import ResamplerShape
from megapixel.patches import instant_id, wrapper
from megapixel.patches.conditions import MARK, Condition
from megapixel.patches.deep_shrink import DeepShrink, apply_deep_shrink
from megapixel.patches.instant_id import Person, apply_instant_id, check_base_model, cross_attentions
from megapixel.patches.model_call import first_call
from megapixel.patches.msw_msa import MSWMSA, apply_msw_msa
from megapixel.patches.rau_net import apply_rau_net
from megapixel.patches.rau_net_published import pairs_of
from megapixel.patches.rau_net_settings import RAUNet
from megapixel.patches.run_plan import plan_run
from megapixel.patches.topology import cross_attention, topology_of
from megapixel.patches.wrapper import effects_of, planned
from torch.utils._python_dispatch import TorchDispatchMode

from devhost.sampling import sample
from devhost.tiny import random_models, topology
from devhost.tiny.random_faces import instant_id_state
from devhost.tiny.unet import build_unet

from .conftest import HostSyncs, syncs_inside, syncs_inside_the_unet

UNET = topology.SDXL | topology.SHALLOW
CONTEXT = UNET["context_dim"]
SIZE = (17, 22)  # latent pixels: no side of the tokens' grids is that of another
PIXELS = (136, 176)
TOLERANCE = 1e-5


def relative(result, expected):
    assert result.shape == expected.shape
    return ((result - expected).abs().max() / expected.abs().max()).item()


def plain_attention(q, k, v, heads):
    return optimized_attention(q, k, v, heads)


@pytest.fixture(scope="module")
def state():
    return instant_id_state(UNET)


@pytest.fixture(scope="module")
def network(state):
    shape, widths = shapes_of(state)
    network = InstantID(shape, widths, plain_attention)
    network.load_state_dict(state)
    return network.requires_grad_(False)


class Face:
    """The tokens (1, T, D) of a face and of none."""

    def __init__(self, seed, tokens=16):
        generator = torch.Generator().manual_seed(1000 + seed)
        self.tokens = 2 * torch.randn(2, tokens, CONTEXT, generator=generator)


@pytest.fixture(scope="module")
def person(network):
    """A function (face, **settings) that returns what is applied."""
    return lambda face, **settings: Person(FaceKeys(network.project(face.tokens), network.widths), **settings)


def mean_on_grid(mask, grid):
    """A mask (H, W) on a grid of tokens, pixel by pixel."""
    (height, width), (rows, columns) = mask.shape, grid
    return torch.stack(
        [
            mask[y * height // rows : -(-(y + 1) * height // rows), x * width // columns : -(-(x + 1) * width // columns)].mean()
            for y in range(rows)
            for x in range(columns)
        ]
    )  # fmt: skip


class LiteralFaces:
    """InstantID's added attention, picture by picture and head by head,
    with nothing prepared and nothing shared.

    `of_none` holds the numbers in the host's `cond_or_uncond` that get the tokens of no face.
    """

    def __init__(self, state, faces, of_none=(1,), area=None):
        self.state = state
        self.faces = faces  # (face, weight, mask, window of sigmas, middle block)
        self.of_none = of_none
        self.area = area  # (height, width, top, left): where a smaller call lies
        self.grids = {}

    def on(self, model):
        clone = model.clone()
        for number, (kind, block, depth) in enumerate(known_layers()):
            clone.set_model_attn2_replace(self.layer(number, kind), kind, block, depth)
        return clone

    def layer(self, number, kind):
        weights = [self.state[f"ip_adapter.{2 * number + 1}.to_{part}_ip.weight"] for part in "kv"]

        def replacement(q, k, v, options):
            result = optimized_attention(q, k, v, options["n_heads"])
            for face in self.faces:
                result = result + self.added(face, kind, weights, q, options)
            return result

        return replacement

    def added(self, face, kind, weights, q, options):
        face, weight, mask, (high, low), middle = face
        result = torch.zeros_like(q)
        sigma = options["sigmas"][0].item()
        if not low <= sigma <= high or (kind == "middle" and not middle):
            return result
        pictures = len(q) // len(options["cond_or_uncond"])
        heads, width = options["n_heads"], options["dim_head"]
        for i, queries in enumerate(q):
            number = options["cond_or_uncond"][i // pictures]
            tokens = face.tokens[1 if number in self.of_none else 0]
            keys, values = (tokens @ w.T for w in weights)
            for head in range(heads):
                own = slice(head * width, (head + 1) * width)
                scores = queries[:, own] @ keys[:, own].T / math.sqrt(width)
                result[i, :, own] = weight * scores.softmax(-1) @ values[:, own]
            if mask is not None:
                picture = mask[min(i % pictures, len(mask) - 1)]
                result[i] *= self.on_grid(picture, options)[:, None]
        return result

    def on_grid(self, mask, options):
        grid, latent = tuple(options["activations_shape"][-2:]), tuple(options["original_shape"][-2:])
        key = id(mask), mask.data_ptr(), grid, latent
        if key not in self.grids:
            if self.area and latent == self.area[:2]:
                (height, width, top, left), scale = self.area, PIXELS[0] // SIZE[0]
                mask = mask[top * scale : (top + height) * scale, left * scale : (left + width) * scale]
            self.grids[key] = mean_on_grid(mask, grid)
        return self.grids[key]


def known_layers():
    """The cross-attentions of the tiny SDXL in the known order."""
    depths = {("input", 4): 2, ("input", 5): 2, ("input", 7): 1, ("input", 8): 1}
    depths |= (
        {("output", i): 1 for i in range(3)} | {("output", i): 2 for i in range(3, 6)} | {("middle", 0): 1}
    )
    return [(*block, depth) for block, count in depths.items() for depth in range(count)]


ALWAYS = (math.inf, -math.inf)


def spot(*box, pictures=1):
    """A soft mask (M, H, W) around a box of shares of the picture, another for each picture."""
    top, left, bottom, right = box
    y, x = (torch.linspace(0, 1, n) for n in PIXELS)
    rows, columns = ((y - top) * 30).sigmoid() * ((bottom - y) * 30).sigmoid(), (x > left) & (x < right)
    mask = rows[:, None] * columns
    return torch.stack([mask.roll(number * 40, 1) for number in range(pictures)])


LEFT, RIGHT = spot(0.1, 0.0, 0.9, 0.45), spot(0.2, 0.55, 1.1, 1.1)
CASES = {
    "one": [(0, 1.0, None)],
    "weak": [(0, 0.35, None)],
    "strong": [(0, 2.5, None)],
    "away": [(0, -0.7, None)],
    "masked": [(0, 1.0, LEFT)],
    "hard mask": [(0, 0.8, (LEFT > 0.5).float())],
    "a mask of its own for each picture": [(0, 1.0, spot(0.1, 0.1, 0.8, 0.4, pictures=2))],
    "more masks than pictures": [(0, 1.0, spot(0.1, 0.1, 0.8, 0.4, pictures=5))],
    "two people": [(0, 1.0, LEFT), (1, 0.6, RIGHT)],
    "two people without masks": [(0, 0.5, None), (1, 0.5, None)],
    "three people": [(0, 1.0, LEFT), (1, -0.4, None), (2, 0.8, RIGHT)],
}
FACES = [Face(0), Face(1, tokens=5), Face(2, tokens=32)]


def applied(model, person, case, **settings):
    for number, weight, mask in CASES[case]:
        model = apply_instant_id(model, person(FACES[number], weight=weight, mask=mask, **settings))
    return model


def literal(model, state, case, window=ALWAYS, middle=True, **settings):
    faces = [(FACES[number], weight, mask, window, middle) for number, weight, mask in CASES[case]]
    return LiteralFaces(state, faces, **settings).on(model)


def guided_by(guider, cfg):
    """A function (model) that samples under one of the host's guiders of three conditionings."""

    def run(model):
        conditions = [random_models.conditioning(model, seed) for seed in (1, 2, 3)]
        own = guider(model)
        own.set_conds(*conditions)
        own.set_cfg(*cfg)
        noise = torch.randn(1, 4, *SIZE, generator=torch.Generator().manual_seed(5))
        with torch.inference_mode():
            return own.sample(
                noise, torch.zeros_like(noise), comfy.samplers.sampler_object("euler"), torch.tensor([9.0, 4.0, 1.0]),
                disable_pbar=True, seed=0,
            )  # fmt: skip

    return run


class TestAgainstTheTranscription:
    @pytest.mark.parametrize("case", CASES)
    def test_weights_masks_and_people_in_a_batch(self, sdxl, person, state, case):
        result = sample(applied(sdxl, person, case), SIZE, batch=2, steps=1)
        assert relative(result, sample(literal(sdxl, state, case), SIZE, batch=2, steps=1)) < TOLERANCE
        assert relative(result, sample(sdxl, SIZE, batch=2, steps=1)) > 1e-3

    @pytest.mark.parametrize("case", ["one", "masked", "three people"])
    def test_both_halves_of_the_guidance_in_one_call_or_two(self, sdxl, person, state, watch, apart, case):
        base = sdxl.clone()
        watcher = watch(base)
        ours, expected = applied(base, person, case), literal(base, state, case)
        together = sample(ours, SIZE, batch=2)
        assert {call.batch for call in watcher.calls} == {4}
        assert relative(together, sample(expected, SIZE, batch=2)) < TOLERANCE
        watcher.calls.clear()
        apart(base)
        assert relative(sample(ours, SIZE, batch=2), together) < TOLERANCE
        assert {call.batch for call in watcher.calls} == {2}

    def test_without_guidance(self, sdxl, person, state):
        result = sample(applied(sdxl, person, "masked"), SIZE, cfg=1.0)
        assert relative(result, sample(literal(sdxl, state, "masked"), SIZE, cfg=1.0)) < TOLERANCE

    @pytest.mark.parametrize("strength", [1.0, 0.5])
    @pytest.mark.parametrize("case", ["one", "masked", "two people"])
    def test_prompts_for_areas_see_their_part_of_the_mask(self, sdxl, person, state, case, strength):
        area = (9, 12, 6, 7)
        whole, part = (random_models.conditioning(sdxl, seed)[0] for seed in (1, 3))
        part[1] |= {"area": area, "strength": strength}
        result = sample(applied(sdxl, person, case), SIZE, batch=2, steps=1, positive=[whole, part])
        expected = literal(sdxl, state, case, area=area)
        assert relative(result, sample(expected, SIZE, batch=2, steps=1, positive=[whole, part])) < TOLERANCE

    def test_areas_in_shares_of_the_picture(self, sdxl, person):
        def run(area):
            part = random_models.conditioning(sdxl, 3)[0]
            part[1]["area"] = area
            positive = [random_models.conditioning(sdxl, 1)[0], part]
            return sample(applied(sdxl, person, "masked"), SIZE, steps=1, positive=positive)

        assert torch.equal(run(("percentage", 0.5, 0.5, 0.25, 0.5)), run((8, 11, 4, 11)))

    @pytest.mark.parametrize(
        ("guider", "cfg", "of_none"),
        [
            (Guider_DualCFG, (5.0, 3.0), (0,)),
            (Guider_DualCFG, (5.0, 3.0, True), (0,)),
            (Guider_PerpNeg, (5.0, 1.0), (1, 2)),
        ],
        ids=["DualCFG", "DualCFG nested", "PerpNeg"],
    )
    @pytest.mark.parametrize("case", ["one", "three people"])
    def test_three_conditionings(self, sdxl, person, state, case, guider, cfg, of_none):
        run = guided_by(guider, cfg)
        result = run(applied(sdxl, person, case))
        assert relative(result, run(literal(sdxl, state, case, of_none=of_none))) < TOLERANCE
        assert relative(result, run(literal(sdxl, state, case, of_none=()))) > 1e-4

    def test_several_prompts_of_one_kind_all_see_the_face(self, sdxl, person, state):
        positive = [random_models.conditioning(sdxl, seed)[0] for seed in (1, 3, 4)]
        result = sample(applied(sdxl, person, "two people"), SIZE, steps=1, positive=positive)
        expected = literal(sdxl, state, "two people")
        assert relative(result, sample(expected, SIZE, steps=1, positive=positive)) < TOLERANCE

    def test_a_window_of_steps_both_ends_included(self, sdxl, person, state):
        sampling = sdxl.get_model_object("model_sampling")
        sigmas = [sampling.percent_to_sigma(percent) for percent in (0.2, 0.4, 0.6, 0.8)]
        run = {"sigmas": torch.tensor([*sigmas, 0.0]), "steps": 4}
        ours = applied(sdxl, person, "masked", start_at=0.4, end_at=0.6)
        tight = literal(sdxl, state, "masked", window=(sigmas[1], sigmas[2]))
        assert relative(sample(ours, SIZE, **run), sample(tight, SIZE, **run)) < TOLERANCE
        for wrong in ((sigmas[1], sigmas[1]), (sigmas[2], sigmas[2]), (sigmas[0], sigmas[2])):
            other = literal(sdxl, state, "masked", window=wrong)
            assert relative(sample(ours, SIZE, **run), sample(other, SIZE, **run)) > 1e-4

    def test_without_the_middle_block(self, sdxl, person, state):
        result = sample(applied(sdxl, person, "one", middle_block=False), SIZE)
        assert relative(result, sample(literal(sdxl, state, "one", middle=False), SIZE)) < TOLERANCE
        assert relative(result, sample(literal(sdxl, state, "one"), SIZE)) > 1e-4

    def test_people_in_any_order(self, sdxl, person):
        people = [person(FACES[i], weight=w, mask=m) for i, w, m in CASES["three people"]]
        forward, backward = sdxl, sdxl
        for each, other in zip(people, reversed(people), strict=True):
            forward, backward = apply_instant_id(forward, each), apply_instant_id(backward, other)
        assert relative(sample(forward, SIZE), sample(backward, SIZE)) < TOLERANCE

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    def test_half_precision(self, person, state, dtype):
        def build(dtype):
            return build_unet(
                comfy.supported_models.SDXL,
                UNET,
                lambda network: random_models.random_state(network, 0),
                dtype,
            )

        exact = sample(applied(build(torch.float32), person, "three people"), SIZE, steps=1)
        half, plain = (
            sample(model, SIZE, steps=1)
            for model in (applied(build(dtype), person, "three people"), build(dtype))
        )
        assert half.isfinite().all()
        assert relative(half, exact) < (0.1 if dtype == torch.bfloat16 else 0.02)
        assert relative(plain, exact) > relative(half, exact)


class TestTilesAndWindows:
    """As packs do it that call the model for parts of a picture, several in one batch, or of a long batch."""

    TILES = ((0, 0), (0, 10), (7, 0), (7, 10))  # top, left of 10 x 12 latent pixels

    def in_tiles(self, model, together):
        """A clone that is called for tiles, `together` of them at once:
        each with all rows of the batch, one after another.
        """

        def call(apply_model, arguments):
            x, t, c = (arguments[name] for name in ("input", "timestep", "c"))
            total, times = torch.zeros_like(x), torch.zeros_like(x)
            for first in range(0, len(self.TILES), together):
                slices = [
                    (..., slice(top, top + 10), slice(left, left + 12))
                    for top, left in self.TILES[first : first + together]
                ]
                cut = {name: self.cut(value, x, slices) for name, value in c.items()}
                tiles = torch.cat([x[each] for each in slices])
                results = apply_model(tiles, t.repeat(len(slices)), **cut).split(len(x))
                for each, result in zip(slices, results, strict=True):
                    total[each] += result
                    times[each] += 1
            return total / times

        clone = model.clone()
        clone.set_model_unet_function_wrapper(call)
        return clone

    def cut(self, value, x, slices):
        if not isinstance(value, torch.Tensor):
            return value
        return value.repeat(len(slices), *[1] * (value.ndim - 1))

    @pytest.mark.parametrize("case", ["one", "three people", "a mask of its own for each picture"])
    def test_several_tiles_in_one_batch_are_as_one_after_another(self, sdxl, person, case):
        model = applied(sdxl, person, case)
        single, several = (
            sample(self.in_tiles(model, together), SIZE, batch=2, steps=1) for together in (1, 2)
        )
        assert relative(several, single) < TOLERANCE

    def test_a_mask_in_tiles_of_unknown_place_is_reported(self, sdxl, person, caplog):
        sample(self.in_tiles(applied(sdxl, person, "one"), 2), SIZE, steps=1)
        assert "in tiles" not in caplog.text
        sample(self.in_tiles(applied(sdxl, person, "masked"), 2), SIZE, steps=1)
        assert caplog.text.count("without publishing their positions, so every tile gets the whole mask") == 1

    def test_a_window_of_a_long_batch_sees_the_masks_of_its_pictures(self, sdxl, person):
        mask = spot(0.1, 0.1, 0.8, 0.4, pictures=3)
        windowed = apply_instant_id(sdxl, person(FACES[0], mask=mask)).clone()
        windowed.model_options["transformer_options"]["ad_params"] = {"sub_idxs": [1, 2], "full_length": 3}
        own = apply_instant_id(sdxl, person(FACES[0], mask=mask[1:]))
        assert torch.equal(sample(windowed, SIZE, batch=2, steps=1), sample(own, SIZE, batch=2, steps=1))


def shrunk(model):
    return apply_deep_shrink(model, DeepShrink(3, 1.5, end_percent=1.0))


def pooled(model):
    found = topology_of(model.get_model_object("diffusion_model"))
    pairs = pairs_of(found, found.downsamplers[:1], (4,))
    return apply_rau_net(
        model, RAUNet(**pairs, time_mode="percent", start_time=0.0, end_time=1.0, ca_end_time=1.0)
    )


class TestMasksOnOtherSizes:
    @pytest.mark.parametrize(
        "effect",
        [shrunk, pooled, lambda model: apply_msw_msa(model, MSWMSA((4, 5), (), (3, 4, 5)))],
        ids=["Deep Shrink", "RAU-Net", "MSW-MSA"],
    )
    @pytest.mark.parametrize("ours_first", [True, False])
    def test_beside_another_effect(self, sdxl, person, state, effect, ours_first):
        expected = sample(literal(effect(sdxl), state, "two people"), SIZE, batch=2, steps=1)
        if ours_first:
            result = sample(effect(applied(sdxl, person, "two people")), SIZE, batch=2, steps=1)
        else:
            result = sample(applied(effect(sdxl), person, "two people"), SIZE, batch=2, steps=1)
        assert relative(result, expected) < TOLERANCE
        assert relative(result, sample(applied(sdxl, person, "two people"), SIZE, batch=2, steps=1)) > 1e-4

    @pytest.mark.parametrize("size", [(16, 12), (33, 21), (9, 40)], ids=str)
    def test_any_size(self, sdxl, person, state, size):
        result = sample(applied(sdxl, person, "masked"), size, steps=1)
        assert relative(result, sample(literal(sdxl, state, "masked"), size, steps=1)) < TOLERANCE

    def test_tokens_that_are_no_grid_get_no_masked_face_and_it_is_said_once(self, sdxl, person, caplog):
        base = sdxl.clone()
        base.set_model_attn2_patch(lambda n, context, value, options: (n[:, :-1], context, value))
        base.set_model_attn2_output_patch(lambda n, options: torch.cat([n, n[:, -1:]], 1))
        with caplog.at_level(logging.INFO, "megapixel"):
            assert torch.equal(sample(applied(base, person, "masked"), SIZE), sample(base, SIZE))
        assert not torch.equal(sample(applied(base, person, "one"), SIZE), sample(base, SIZE))
        assert (
            caplog.text.count(
                "InstantID: skipped middle block 0, because its tokens are not those of the image"
            )
            == 1
        )


class TestAlone:
    @pytest.mark.parametrize(
        "settings",
        [
            {"weight": 0.0},
            {"mask": torch.zeros(1, 64, 48)},
            {"mask": torch.zeros(2, 5, 5)},
            {"start_at": 0.7, "end_at": 0.3},
        ],
        ids=["weight", "mask", "masks", "window"],
    )
    def test_a_person_that_adds_nothing_leaves_the_model_as_it_is(self, sdxl, person, settings):
        assert apply_instant_id(sdxl, person(FACES[0], **settings)) is sdxl

    def test_outside_the_window_the_bits_are_the_plain_ones(self, sdxl, person):
        late = applied(sdxl, person, "one", start_at=1.0)
        sigmas = torch.tensor([14.0, 8.0, 3.0])
        assert torch.equal(sample(late, SIZE, sigmas=sigmas), sample(sdxl, SIZE, sigmas=sigmas))

    def test_where_the_mask_is_zero_the_attention_has_the_plain_bits(self, sdxl, person):
        """At the first layer with attention: what follows mixes the tokens."""
        seen = []

        def note(n, options):
            if options["block"] == ("input", 4) and options["block_index"] == 0:
                seen.append(n)
            return n

        masked = torch.zeros(1, 17, 22)
        masked[:, :, 12:] = 1.0
        for mask in (None, masked):
            model = sdxl.clone()
            model.set_model_attn2_output_patch(note)
            if mask is not None:
                model = apply_instant_id(model, person(FACES[0], mask=mask))
            sample(model, (34, 44), steps=1, cfg=1.0)
        plain, ours = (n.reshape(17, 22, -1) for n in seen)
        assert torch.equal(plain[:, :12], ours[:, :12])
        assert not torch.isclose(plain[:, 12:], ours[:, 12:]).all(-1).any()

    def test_twice_the_same_and_plain_is_plain_again_even_after_an_exception(self, sdxl, person):
        before = sample(sdxl, SIZE)
        patched = applied(sdxl, person, "three people")
        expected = sample(patched, SIZE)
        assert torch.equal(sample(patched, SIZE), expected)
        assert torch.equal(sample(applied(sdxl, person, "three people"), SIZE), expected)

        def fail(n, options):
            raise RuntimeError("inside the UNet")

        broken = patched.clone()
        broken.set_model_attn2_output_patch(fail)
        with pytest.raises(RuntimeError, match="inside the UNet"):
            sample(broken, SIZE)
        assert planned("instant_id", before) is None
        assert torch.equal(sample(sdxl, SIZE), before)
        assert torch.equal(sample(patched, SIZE), expected)

    def test_stacking_does_not_change_what_it_stands_on(self, sdxl, person):
        """The original pack appends the second face to the first model as well,
        and once more with every execution.
        """
        first = applied(sdxl, person, "masked")
        alone = sample(first, SIZE)
        stacked = [sample(apply_instant_id(first, person(FACES[1], weight=0.6)), SIZE) for _ in range(3)]
        assert torch.equal(sample(first, SIZE), alone)
        assert torch.equal(stacked[0], stacked[1])
        assert torch.equal(stacked[0], stacked[2])
        assert not torch.equal(stacked[0], alone)
        assert list(effects_of(first)) == ["instant_id"]

    def test_the_conditionings_of_the_run_are_not_changed(self, sdxl, person):
        conditions = [random_models.conditioning(sdxl, seed) for seed in (1, 2)]
        keys = [set(condition[0][1]) for condition in conditions]
        sample(applied(sdxl, person, "one"), SIZE, positive=conditions[0], negative=conditions[1])
        assert [set(condition[0][1]) for condition in conditions] == keys


class Foreign:
    """A replacement as other packs write them: it knows nothing of ours."""

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, q, k, v, options):
        return self.factor * optimized_attention(q, k, v, options["n_heads"])


class Regions:
    """Two texts for the positive conditioning, one for each half of the picture,
    as packs for regional prompts do it.

    The options have under `key` which conditioning each part of the batch belongs to; both texts are that of
    the conditioning.
    """

    def __init__(self, key="cond_or_uncond_hook_couple"):
        self.key = key

    def on(self, model):
        clone = model.clone()
        clone.set_model_attn2_patch(self.repeat)
        clone.set_model_attn2_output_patch(self.join)
        return clone

    def repeat(self, queries, keys, values, options):
        numbers = options["cond_or_uncond"]
        options[self.key] = [number for number in numbers for _ in range(2 - number)]

        def repeated(tokens):
            parts = zip(numbers, tokens.chunk(len(numbers)), strict=True)
            return torch.cat([part for number, part in parts for _ in range(2 - number)])

        return repeated(queries), repeated(keys), repeated(values)

    def join(self, tokens, options):
        height, width = options["activations_shape"][-2:]
        left = (torch.arange(width) < width // 2).repeat(height).unsqueeze(-1)
        parts = iter(tokens.chunk(len(options[self.key])))
        return torch.cat(
            [
                next(parts) if number else next(parts) * left + next(parts) * ~left
                for number in options["cond_or_uncond"]
            ]
        )


class TestOtherPacks:
    @pytest.mark.parametrize("index", [0, None], ids=["one layer", "the whole block"])
    def test_a_replacement_that_is_there_is_kept(self, sdxl, person, index):
        other = sdxl.clone()
        other.set_model_attn2_replace(Foreign(0.5), "input", 4, index)
        both = sample(applied(other, person, "one"), SIZE)
        assert relative(both, sample(other, SIZE)) > 1e-3
        assert relative(both, sample(applied(sdxl, person, "one"), SIZE)) > 1e-3
        replaced = other.model_options["transformer_options"]["patches_replace"]["attn2"]
        assert list(replaced) == [("input", 4) if index is None else ("input", 4, 0)]

        neutral = sdxl.clone()
        neutral.set_model_attn2_replace(Foreign(1.0), "input", 4, index)
        assert torch.equal(
            sample(applied(neutral, person, "one"), SIZE), sample(applied(sdxl, person, "one"), SIZE)
        )

    def test_ours_may_be_wrapped_and_a_second_person_laid_on_it(self, sdxl, person, state):
        wrapped = applied(sdxl, person, "masked")
        replaced = wrapped.model_options["transformer_options"]["patches_replace"]["attn2"]
        for layer, ours in list(replaced.items()):
            wrapped.set_model_attn2_replace(lambda q, k, v, o, ours=ours: ours(q, k, v, o), *layer)
        second = person(FACES[1], weight=0.6, mask=RIGHT)
        result = sample(apply_instant_id(wrapped, second), SIZE)
        assert relative(result, sample(literal(sdxl, state, "two people"), SIZE)) < TOLERANCE

    def test_others_append_theirs_within_their_noise_levels_to_their_own_clone_alone(self, sdxl, person):
        base = applied(sdxl, person, "one")
        alone = sample(base, SIZE)
        seen = []

        def theirs(out, q, k, v, options, module_key="", sigma_start=0.0, sigma_end=1.0):
            seen.append((module_key, options["sigmas"][0].item()))
            assert out.shape == q.shape
            return 0.1 * q.double()  # in a type that the layers behind could not take

        clone = base.clone()  # as IPAdapter does: clone, then append in place
        attention = clone.model_options["transformer_options"]["patches_replace"]["attn2"]["input", 4, 1]
        attention.add(theirs, module_key="1", sigma_start=8.0, sigma_end=3.0)
        run = {"sigmas": torch.tensor([10.0, 8.0, 3.0, 1.0, 0.0]), "steps": 4}
        with_theirs = sample(clone, SIZE, **run)
        assert seen == [("1", 8.0), ("1", 3.0)]
        assert not torch.equal(with_theirs, sample(base, SIZE, **run))
        assert len(seen) == 2
        assert torch.equal(sample(base, SIZE), alone)
        again = clone.clone()
        assert torch.equal(sample(again, SIZE, **run), with_theirs)

    @pytest.mark.parametrize(
        "lay",
        [
            lambda model: PerturbedAttentionGuidance.execute(model, 3.0)[0],
            lambda model: FreeU_V2.execute(model, 1.3, 1.4, 0.9, 0.2)[0],
            lambda model: TomePatchModel.execute(model, 0.4)[0],
        ],
        ids=["PAG", "FreeU", "ToMe"],
    )
    def test_beside_what_the_host_lays_on(self, sdxl, person, state, lay):
        with torch.random.fork_rng(devices=[]):
            results = []
            for model in (
                lay(applied(sdxl, person, "masked")),
                applied(lay(sdxl), person, "masked"),
                literal(lay(sdxl), state, "masked"),
            ):
                torch.manual_seed(0)
                results.append(sample(model, (24, 32), steps=1))
        assert torch.equal(results[0], results[1])
        assert relative(results[0], results[2]) < TOLERANCE

    @pytest.mark.parametrize("batch", [1, 2])
    @pytest.mark.parametrize("case", ["one", "masked", "three people"])
    def test_regional_prompts_that_give_a_conditioning_several_texts(self, sdxl, person, case, batch):
        """The same text in both regions is one text."""
        regional = Regions("cond_or_uncond_couple").on(sdxl)
        expected = sample(applied(sdxl, person, case), SIZE, batch=batch)
        for both in (applied(regional, person, case), Regions().on(applied(sdxl, person, case))):
            assert relative(sample(both, SIZE, batch=batch), expected) < TOLERANCE

    def test_a_batch_that_is_changed_in_an_unknown_way_gets_no_face_and_a_log_line(
        self, sdxl, person, caplog
    ):
        regional = Regions("a name that nobody knows").on(sdxl)
        with caplog.at_level(logging.INFO, "megapixel"):
            result = sample(applied(regional, person, "masked"), SIZE)
        assert torch.equal(result, sample(regional, SIZE))
        assert "InstantID: skipped input block 4, because another patch changed its batch" in caplog.text

    def test_conditionings_that_a_pack_makes_itself_while_sampling(self, sdxl, person, state):
        """They carry no mark of ours; the first of a call then counts as the positive one."""

        def strip(executor, model, conds, *args):
            for entry in (entry for group in conds for entry in group or ()):
                entry["model_conds"] = {k: v for k, v in entry["model_conds"].items() if "megapixel" not in k}
            return executor(model, conds, *args)

        stripped = applied(sdxl, person, "masked").clone()
        stripped.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "strip", strip)
        assert relative(sample(stripped, SIZE), sample(literal(sdxl, state, "masked"), SIZE)) < TOLERANCE


def test_each_layer_keeps_the_kernel_that_it_asks_for(sdxl, person, monkeypatch):
    """Newer hosts let a checkpoint choose the attention of a layer;
    a replacement has to ask the layer for it.
    """
    unet = sdxl.get_model_object("diffusion_model")
    kernels = {layer: object() for layer in cross_attentions(unet)}
    for layer, kernel in kernels.items():
        monkeypatch.setattr(cross_attention(unet, layer), "comfy_attention", kernel, raising=False)
    asked = []

    def note(attention, q, k, v, heads, preferred_attention=None, transformer_options=None, **settings):
        if preferred_attention is not None:
            layer = (*transformer_options["block"], transformer_options["block_index"])
            asked.append((layer, k.shape[1]))
            assert preferred_attention is kernels[layer]
        return attention(q, k, v, heads, transformer_options=transformer_options, **settings)

    model = sdxl.clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = note
    sample(applied(model, person, "one"), SIZE, steps=1, cfg=1.0)
    assert sorted(asked) == sorted(
        (layer, tokens) for layer in kernels for tokens in (16, random_models.TOKENS)
    )


class Products(TorchDispatchMode):
    """Counts the products with a weight: every Linear is one of these."""

    KINDS = (
        torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.matmul.default,
        torch.ops.aten.linear.default,
    )  # fmt: skip
    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func in self.KINDS
        return func(*args, **(kwargs or {}))


def products_in_a_run(model):
    with Products() as products:
        sample(model, SIZE, steps=2)
    return products.count


FULL_SDXL = {
    "model_channels": 320, "num_head_channels": 64, "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10], "transformer_depth_middle": 10,
}  # fmt: skip


@pytest.fixture(scope="module")
def full_sdxl():
    """SDXL at its full size, of which only the shapes are there."""
    with torch.device("meta"):
        config = comfy.supported_models.SDXL(topology.SDXL | FULL_SDXL)
        config.unet_config.update(topology.SDXL | FULL_SDXL)
        config.set_inference_dtype(torch.float16, None)
        model = config.get_model({}, prefix="")
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


@pytest.fixture(scope="module")
def full_network():
    """InstantID at its full size; the weights are views of one random pool, so all of it takes 26 MB."""
    with torch.device("meta"):
        network = InstantID(
            ResamplerShape(), [640] * 4 + [1280] * 50 + [640] * 6 + [1280] * 10, plain_attention
        )
    pool = torch.randn(5120 * 1280, generator=torch.Generator().manual_seed(0)) * 0.02
    state = {name: pool[: value.numel()].view(value.shape) for name, value in network.state_dict().items()}
    network.load_state_dict(state, assign=True)
    return network.requires_grad_(False)


class TestCost:
    def test_nothing_inside_the_unet_waits_for_the_device(self, sdxl, person):
        assert syncs_inside_the_unet(sdxl) == 0
        assert syncs_inside_the_unet(applied(sdxl, person, "three people")) == 0

    def test_a_step_waits_no_more_often_than_without_a_face(self, sdxl, person):
        """Everything between the sampler and its result, our own planning included;
        a window has to read the time once.
        """
        plain = syncs_inside(sdxl, WrappersMP.CALC_COND_BATCH)
        sample(always := applied(sdxl, person, "three people"), (37, 29), steps=1)
        assert syncs_inside(always, WrappersMP.CALC_COND_BATCH) == plain
        late = applied(sdxl, person, "three people", start_at=0.1)
        sample(late, (37, 29), steps=3)
        assert syncs_inside(late, WrappersMP.CALC_COND_BATCH) == plain + 3

    def test_nothing_is_projected_while_sampling(self, sdxl, person, state):
        plain = products_in_a_run(sdxl)
        assert plain > 2 * 16 * 4
        assert products_in_a_run(applied(sdxl, person, "three people")) == plain
        assert (
            products_in_a_run(literal(sdxl, state, "one")) >= plain + 2 * 16 * 2
        )  # the count sees one that does

    def test_at_full_size_every_layer_has_its_face_and_all_of_them_take_little_memory(
        self, full_sdxl, full_network
    ):
        unet = full_sdxl.get_model_object("diffusion_model")
        check_base_model(full_sdxl, full_network.widths, full_network.context)
        assert len(cross_attentions(unet)) == 70
        tokens = torch.randn(2, 16, 2048, generator=torch.Generator().manual_seed(1))
        face = FaceKeys(full_network.project(tokens).half(), full_network.widths)
        one_set = face.packed.nbytes / 2
        assert one_set == 16 * 83_200 * 2 * 2
        assert one_set <= 12e6
        patched = apply_instant_id(full_sdxl, Person(face))
        assert len(patched.model_options["transformer_options"]["patches_replace"]["attn2"]) == 70
        assert not patched.get_nested_additional_models()
        known_look = apply_instant_id(full_sdxl, Person(face, middle_block=False))
        assert len(known_look.model_options["transformer_options"]["patches_replace"]["attn2"]) == 60

    def test_at_full_size_a_call_projects_nothing_and_waits_for_nothing(self, full_sdxl, full_network):
        """The patches of all 70 layers, called as the UNet calls them, on few tokens."""
        tokens = torch.randn(2, 16, 2048, generator=torch.Generator().manual_seed(1))
        patched = apply_instant_id(
            full_sdxl, Person(FaceKeys(full_network.project(tokens), full_network.widths))
        )
        [effect] = effects_of(patched).values()
        call = first_call(patched, (3, 5), torch.tensor([5.0, 0.0]))
        plan = effect.plan(replace(call, marks={MARK: (Condition("negative"), Condition("positive"))}))
        replaced = patched.model_options["transformer_options"]["patches_replace"]["attn2"]
        syncs, products = HostSyncs(), Products()
        with wrapper._published({"instant_id": plan}, torch.device("cpu")), syncs, syncs.dispatched, products:
            for layer, width in cross_attentions(full_sdxl.get_model_object("diffusion_model")).items():
                q, k = (
                    torch.ones(2, 15, width, dtype=torch.float16),
                    torch.ones(2, 77, width, dtype=torch.float16),
                )
                options = {"n_heads": width // 64, "block": layer[:2], "activations_shape": [2, width, 3, 5]}
                assert not torch.equal(replaced[layer](q, k, k, options), torch.ones_like(q))
        assert (products.count, syncs.count) == (0, 0)

    def test_a_face_is_copied_to_the_device_once(self, sdxl, person, monkeypatch):
        one = person(FACES[0], mask=LEFT)
        model = apply_instant_id(sdxl, one)
        sample(model, SIZE)
        monkeypatch.setattr(FaceKeys, "weighted", None)
        sample(model, SIZE, steps=3)

    def test_what_was_copied_goes_with_the_face(self, sdxl, person):
        model = applied(sdxl, person, "one")
        sample(model, SIZE, steps=1)
        before = len(instant_id._PLACED)
        del model
        gc.collect()
        assert len(instant_id._PLACED) < before

    def test_compiled_it_is_right_and_traced_for_two_states_alone(self, person_for_short, compiled):
        model, face = person_for_short
        ours, backend = compiled(face(model, 0.3, 0.6))
        sigmas = [
            model.get_model_object("model_sampling").percent_to_sigma(p)
            for p in (0.1, 0.2, 0.4, 0.5, 0.7, 0.8)
        ]
        run = {"sigmas": torch.tensor([*sigmas, 0.0]), "steps": 6, "cfg": 1.0}
        result = sample(ours, (20, 26), **run)
        assert relative(result, sample(face(model, 0.3, 0.6), (20, 26), **run)) < TOLERANCE
        assert relative(result, sample(model, (20, 26), **run)) > 1e-4
        assert [bool(added) for added in backend.added] == [True, False, True, False, False, False]


@pytest.fixture(scope="module")
def person_for_short():
    """An SDXL of few layers, and a function that lays two people on it."""
    weights = instant_id_state(topology.SDXL | topology.TWO_LEVELS)
    shape, widths = shapes_of(weights)
    network = InstantID(shape, widths, plain_attention).requires_grad_(False)
    network.load_state_dict(weights)

    def lay(model, start, end):
        for number, mask in enumerate((LEFT, None)):
            keys = FaceKeys(network.project(FACES[number].tokens), widths)
            model = apply_instant_id(model, Person(keys, 0.8, start, end, mask))
        return model

    return random_models.sdxl(**topology.TWO_LEVELS), lay


class TestBaseModel:
    def test_the_tiny_one_fits(self, sdxl, network):
        check_base_model(sdxl, network.widths, network.context)

    def test_layers_come_in_the_known_order(self, sdxl):
        found = cross_attentions(sdxl.get_model_object("diffusion_model"))
        assert list(found) == known_layers()
        assert set(found.values()) == {64, 128}

    @pytest.mark.parametrize(("middle", "count"), [(-2, 12), (-1, 12), (2, 14)])
    def test_smaller_ones_made_from_sdxl(self, network, middle, count):
        """Such as KOALA, which may have no middle block at all."""
        koala = random_models.sdxl(
            num_res_blocks=[1, 1, 1], transformer_depth=[0, 2, 2], transformer_depth_output=[0, 0, 2, 2, 2, 2],
            transformer_depth_middle=middle,
        )  # fmt: skip
        with pytest.raises(ValueError, match=rf"got SDXL with {count} for tokens of 2048 values\. .*KOALA"):
            check_base_model(koala, network.widths, network.context)

    def test_others_are_one_sentence(self, sd15, network):
        for model, got in (
            (sd15, "SD15 with 16 for tokens of 768 values"),
            (random_models.sdxl(), "SDXL with 70 for tokens of 2048 values"),
        ):
            with pytest.raises(
                ValueError, match=rf"^model: expected an SDXL model \(16 cross-.*, got {got}\. Load an"
            ):
                check_base_model(model, network.widths, network.context)
        with pytest.raises(ValueError, match=r"^model: expected an SD 1\.x, .*, got Flux\. [A-Z]"):
            check_base_model(random_models.flux(), network.widths, network.context)


class TestWords:
    def test_the_log_line_says_what_will_happen(self, sdxl, person, caplog):
        with caplog.at_level(logging.INFO, "megapixel"):
            sample(applied(sdxl, person, "two people", end_at=0.9), SIZE, steps=1)
        line = "InstantID: weight {}, start_at 0, end_at 0.9, in the mask, 16 layers"
        assert " | ".join(line.format(weight) for weight in (1, 0.6)) in caplog.text

    @pytest.mark.parametrize(
        ("size", "hint"), [((128, 128), True), ((127, 127), False), ((128, 96), False), ((136, 128), False)]
    )
    def test_a_hint_at_watermarks(self, sdxl, person, size, hint):
        [effect] = effects_of(applied(sdxl, person, "one")).values()
        words = effect.describe(first_call(sdxl, size, torch.tensor([5.0, 0.0])))
        assert ("watermarks" in words) == hint

    def test_the_plan_shows_where_the_face_is_seen(self, sdxl, person):
        model = applied(sdxl, person, "one", end_at=0.5, middle_block=False)
        plan = plan_run(model, SIZE, torch.tensor([14.0, 0.05, 0.0]))
        seen = {("input", 4), ("input", 5), ("input", 7), ("input", 8), *(("output", i) for i in range(6))}
        assert {
            place for place, marks in plan.steps[0].marks.items() if ("instant_id", "face") in marks
        } == seen
        assert not plan.steps[1].marks

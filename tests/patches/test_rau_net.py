"""RAU-Net on tiny real UNets, sampled by the host: sizes, factors, weights, states and bad input."""

from __future__ import annotations

import logging
import random
import re
from itertools import product

import comfy.lora
import comfy.supported_models
import comfy.utils
import pytest
import torch
import torch.nn.functional as F
from comfy.samplers import calculate_sigmas
from megapixel.host.upsample import reaches_upsample
from megapixel.patches.deep_shrink import DeepShrink, apply_deep_shrink
from megapixel.patches.rau_net import apply_rau_net
from megapixel.patches.rau_net_effect import Pooling, RescalePlan, _pool_before_skip
from megapixel.patches.rau_net_preset import original_preset
from megapixel.patches.rau_net_published import Published
from megapixel.patches.rau_net_settings import RAUNet
from megapixel.patches.run_plan import plan_run
from megapixel.patches.topology import topology_of
from megapixel.patches.wrapper import _published, planned

from devhost.sampling import sample
from devhost.tiny import random_models, topology

needs_upsample = pytest.mark.skipif(
    not reaches_upsample(), reason="this ComfyUI offers no Upsample to patches; upscale_mode has no effect"
)

SIZE = (37, 29)
BOTH = RAUNet(end_time=0.5, ca_end_time=0.5, ca_latent_pixel_increment=1)
MODES = ("bicubic", "bislerp", "bilinear", "nearest-exact", "nearest", "area")


def only_ca(block=4, **settings):
    return RAUNet(
        input_blocks=(), output_blocks=(), ca_input_blocks=(block,), ca_output_blocks=(),
        **{"ca_latent_pixel_increment": 1, **settings},
    )  # fmt: skip


def only_downsample(*blocks, **settings):
    return RAUNet(
        input_blocks=blocks or (3,), output_blocks=(), ca_input_blocks=(), ca_output_blocks=(), **settings
    )


def sigma_at(model, percent):
    return model.get_model_object("model_sampling").percent_to_sigma(percent)


def relative(result, expected):
    assert result.shape == expected.shape
    return ((result - expected).abs().max() / expected.abs().max()).item()


def half(size):
    return -(-size[0] // 2), -(-size[1] // 2)


class TestWindow:
    @pytest.mark.parametrize(
        ("sampler", "unit"),
        [
            ("euler", "percent"), ("euler", "timestep"), ("euler", "sigma"), ("heun", "percent"),
            ("dpmpp_2s_ancestral", "timestep"),
        ],
    )  # fmt: skip
    def test_each_pair_is_on_exactly_inside_its_own_window(self, sd15, watch, sampler, unit):
        def time(percent):
            sigma = sigma_at(sd15, percent)
            sampling = sd15.get_model_object("model_sampling")
            timestep = float(sampling.timestep(torch.tensor(sigma)))
            return {"percent": percent, "timestep": timestep, "sigma": sigma}[unit]

        settings = RAUNet(
            start_time=time(0.1), end_time=time(0.4), ca_start_time=time(0.3), ca_end_time=time(0.7),
            ca_input_blocks=(5,), ca_output_blocks=(7,), time_mode=unit, ca_latent_pixel_increment=1,
        )  # fmt: skip
        base = sd15.clone()
        watcher = watch(base)
        sample(apply_rau_net(base, settings), (32, 24), steps=10, cfg=1.0, sampler=sampler)
        assert len(watcher.calls) >= 10
        seen = set()
        for call in watcher.calls:
            sampling = sd15.get_model_object("model_sampling")
            dilated, pooled = (
                round(float(sampling.sigma(torch.tensor(stop))), 4)
                <= call.sigma
                <= round(float(sampling.sigma(torch.tensor(start))), 4)
                if unit == "timestep"
                else sigma_at(sd15, end) <= call.sigma <= sigma_at(sd15, begin)
                if unit == "sigma"
                else round(sigma_at(sd15, end), 4) <= call.sigma <= round(sigma_at(sd15, begin), 4)
                for (begin, end), (start, stop) in (
                    ((0.1, 0.4), (settings.start_time, settings.end_time)),
                    ((0.3, 0.7), (settings.ca_start_time, settings.ca_end_time)),
                )
            )
            seen.add((dilated, pooled))
            assert call.sizes["input", 3] == ((8, 6) if dilated else (16, 12)), call.sigma
            height = (8 if dilated else 16) // (2 if pooled else 1)
            assert call.sizes["input", 6][0] == height // 2, call.sigma
            assert call.sizes["input", 2] == call.sizes["output", 11] == (32, 24)
        assert len(seen) == 4

    @pytest.mark.parametrize("size", [(32, 24), SIZE], ids=str)
    def test_outside_both_windows_the_bits_are_the_plain_ones(self, sd15, size):
        multipliers = {name: 1.7 for name in MULTIPLIERS}
        late = RAUNet(start_time=0.99, end_time=0.99, ca_start_time=0.99, ca_end_time=0.99, **multipliers)
        result = sample(apply_rau_net(sd15, late), size, steps=3)
        assert torch.equal(result, sample(sd15, size, steps=3))

    def test_shares_of_steps_count_what_the_run_executes(self, sd15, watch):
        base = sd15.clone()
        watcher = watch(base)
        model = apply_rau_net(base, only_downsample(time_mode="steps", end_time=0.5))
        for denoise in (1.0, 0.4):
            watcher.calls.clear()
            sample(model, (32, 24), steps=6, cfg=1.0, denoise=denoise)
            assert [call.sizes["input", 3] for call in watcher.calls] == [(8, 6)] * 3 + [(16, 12)] * 3

    @pytest.mark.parametrize(
        ("end", "is_on"), [(0.35, False), (0.4, True), (0.45, True), (0.5, False), (0.6, False)]
    )
    @pytest.mark.parametrize("unit", ["percent", "timestep"])
    def test_a_step_exactly_on_the_end_is_decided_by_four_decimals(self, sd15, end, is_on, unit):
        """As in the original: the end's noise level is rounded, up or down. The steps before and after it are
        not in question.
        """
        times = {"percent": (0.0, end), "timestep": (999.0, 999.0 * (1 - end))}[unit]
        settings = only_downsample(time_mode=unit, start_time=times[0], end_time=times[1])
        sampling = sd15.get_model_object("model_sampling")
        sigmas = calculate_sigmas(sampling, "sgm_uniform", 20)
        [step] = [i for i in range(20) if abs(sigmas[i] - sigma_at(sd15, end)) < 1e-4]
        window = settings.schedule.resolve(sampling, sigmas)
        on = [window.strength(sigma) for sigma in sigmas[:-1].tolist()]
        assert on == [float(i < step or (i == step and is_on)) for i in range(20)]


def fuzzed(number, family):
    """Return a size and what is laid on a model of that family, drawn by number."""
    rng = random.Random(f"{family} {number}")
    last, downsamplers = (11, (3, 6, 9)) if family == "sd15" else (8, (3, 6))
    size = rng.randint(17, 70), rng.randint(17, 70)
    layers = []
    for _ in range(rng.choice([1, 1, 2])):
        mode = rng.choice(["avg_pool2d", "adaptive_avg_pool2d", "bilinear", "area"])
        whole = mode == "avg_pool2d"
        factor = rng.choice([2, 3] if whole else [0.7, 1.3, 2, 2, 2.6])
        settings = RAUNet(
            input_blocks=tuple(rng.sample(downsamplers, rng.randint(0, len(downsamplers)))),
            output_blocks=(),
            ca_input_blocks=tuple(rng.sample(range(1, last + 1), rng.randint(0, 2))),
            ca_output_blocks=(),
            ca_downscale_mode=mode,
            ca_downscale_factor=factor,
            ca_downscale_factor_w=rng.choice([None, 1, 2 if whole else 1.5]),
            ca_input_after_skip_mode=rng.random() < 0.5,
            ca_latent_pixel_increment=rng.choice([1, 1, 4, 8]),
            ca_avg_pool2d_ceil_mode=rng.random() < 0.5,
            upscale_mode=rng.choice(MODES),
            two_stage_upscale_mode=rng.choice(["disabled", *MODES]),
        )
        layers.append(("rau", settings))
    if rng.random() < 0.4:
        shrink = DeepShrink(
            block_number=rng.randint(1, last),
            downscale_factor=rng.choice([1.4, 2.0]),
            downscale_after_skip=rng.random() < 0.5,
        )
        layers.insert(rng.randint(0, len(layers)), ("shrink", shrink))
    return size, layers


class TestSizes:
    @pytest.mark.parametrize("family", ["sd15", "sdxl"])
    def test_every_block_works_on_the_size_that_the_plan_tells(self, request, watch, family):
        """Sizes from the host's hooks; those of attention are the features' own, behind every rescaling."""
        plain = request.getfixturevalue(family)
        changed = 0
        for number in range(40):
            size, layers = fuzzed(number, family)
            model = plain.clone()
            watcher = watch(model)
            for kind, settings in layers:
                model = (apply_rau_net if kind == "rau" else apply_deep_shrink)(model, settings)
            sigmas = torch.tensor([14.0, 0.0])
            plan = plan_run(model, size, sigmas)
            sample(model, size, cfg=1.0, sigmas=sigmas)
            [call], [told] = watcher.calls, plan.steps
            assert call.sizes == {place: told.sizes[place] for place in call.sizes}, (size, layers)
            assert call.attention == {place: told.sizes[place] for place in call.attention}, (size, layers)
            assert ("middle", 0) in call.attention
            assert len(call.sizes) == len(plan.plain) - 1
            changed += told.sizes != plan.plain
        assert changed > 30

    @pytest.mark.parametrize("size", [(32, 24), (33, 47), (18, 50)], ids=str)
    def test_the_features_are_those_of_a_picture_half_as_large(self, sd15, watch, size):
        base = sd15.clone()
        watcher = watch(base)
        sample(apply_rau_net(base, only_downsample()), size, steps=1, cfg=1.0)
        quarter = half(half(size))
        [call] = watcher.calls
        assert call.sizes["input", 3] == call.sizes["output", 8] == quarter
        assert call.attention["input", 4] == call.attention["output", 8] == quarter
        assert call.sizes["output", 9] == call.attention["output", 9] == size

    @pytest.mark.parametrize(
        ("size", "increment", "expected"),
        [
            ((60, 44), 8, (8, 8)),  # features 30 x 22; half is 15 x 11
            ((60, 44), 4, (12, 8)),
            ((60, 44), 1, (15, 11)),
            ((61, 89), 8, (8, 16)),  # 31 x 45
            ((12, 60), 8, (6, 8)),  # 6 x 30: never enlarged
        ],
    )
    def test_pooled_sides_are_whole_increments(self, sd15, watch, size, increment, expected):
        base = sd15.clone()
        watcher = watch(base)
        model = apply_rau_net(base, only_ca(ca_latent_pixel_increment=increment))
        sample(model, size, steps=1, cfg=1.0)
        assert watcher.calls[0].sizes["input", 5] == expected
        assert watcher.calls[0].sizes["output", 7] == expected
        assert watcher.calls[0].attention["output", 8] == half(size)

    @pytest.mark.parametrize(
        ("increment", "ceil", "expected"),
        [(1, True, (10, 5)), (1, False, (9, 5)), (4, True, (10, 5)), (8, True, (10, 15))],
    )
    def test_avg_pool2d_takes_whole_squares(self, sd15, watch, increment, ceil, expected):
        """Features of 19 x 15: the targets are 9 x 5, 8 x 4 and 8 x 8 pixels."""
        base = sd15.clone()
        watcher = watch(base)
        settings = only_ca(
            ca_downscale_mode="avg_pool2d", ca_downscale_factor=2, ca_downscale_factor_w=3,
            ca_avg_pool2d_ceil_mode=ceil, ca_latent_pixel_increment=increment,
        )  # fmt: skip
        sample(apply_rau_net(base, settings), SIZE, steps=1, cfg=1.0)
        assert watcher.calls[0].sizes["input", 5] == expected

    def test_after_the_skip_the_skip_keeps_its_size(self, sd15, watch):
        for after_skip, skip in ((False, (10, 8)), (True, (19, 15))):
            base = sd15.clone()
            watcher = watch(base)
            settings = only_ca(ca_input_after_skip_mode=after_skip, ca_downscale_mode="avg_pool2d")
            sample(apply_rau_net(base, settings), SIZE, steps=1, cfg=1.0)
            [call] = watcher.calls
            assert call.sizes["input", 5] == call.sizes["output", 6] == (10, 8)
            assert call.sizes["output", 7] == skip
            assert call.attention["output", 7] == skip


def side_of_the_rule(side, factor, increment):
    """A side's target: rounded down to increments, at least one,
    never beyond the side in the direction of the factor.
    """
    increments = 0
    while (increments + 1) * factor <= side / increment:
        increments += 1
    target = max(increments, 1) * increment
    return min(target, side) if factor >= 1 else max(target, side)


class TestRule:
    """The rule of the pooled size, on 200 sizes and all modes that average."""

    @pytest.mark.parametrize("mode", ["avg_pool2d", "adaptive_avg_pool2d"])
    @pytest.mark.parametrize("factors", [(2.0, None), (3.0, 2.0), (40.0, 1.0)], ids=str)
    def test_on_200_sizes(self, sd15, draw, mode, factors):
        rng = random.Random(7)
        for number in range(200):
            increment, ceil = rng.choice([1, 4, 8, 8]), number % 2 == 0
            settings = only_ca(
                ca_downscale_mode=mode, ca_downscale_factor=factors[0], ca_downscale_factor_w=factors[1],
                ca_latent_pixel_increment=increment, ca_avg_pool2d_ceil_mode=ceil,
            )  # fmt: skip
            size = rng.randint(1, 40), rng.randint(1, 40)
            features = draw(1, 2, *size, seed=number)
            target = tuple(
                side_of_the_rule(side, factor or factors[0], increment)
                for side, factor in zip(size, factors, strict=True)
            )
            if target == size:
                expected = features
            elif mode == "avg_pool2d":
                kernel = tuple(max(1, side // aim) for side, aim in zip(size, target, strict=True))
                expected = averaged_in_squares(features, kernel, ceil)
            else:
                expected = averaged(features, target)
            pooling = Pooling(settings, settings.factors)
            plan = RescalePlan(pooled={4: pooling})
            with _published({"rau_net": plan}, features.device):
                result = _pool_before_skip(features, {"block": ("input", 4)})
            assert tuple(result.shape[2:]) == pooling.size(size) == tuple(expected.shape[2:]), (
                size,
                increment,
            )
            assert torch.allclose(result, expected, atol=1e-6)

    def test_nothing_happens_to_features_that_have_the_size(self, sd15):
        """Not even the multipliers: 15 x 12 pixels hold one increment of 8, and more than a half of them."""
        settings = only_ca(
            ca_downscale_mode="avg_pool2d", ca_latent_pixel_increment=8, ca_pre_downscale_multiplier=3.0
        )
        assert Pooling(settings, settings.factors).size((15, 12)) == (15, 12)
        plain = sample(sd15, (14, 10), steps=1, cfg=1.0)
        assert torch.equal(sample(apply_rau_net(sd15, settings), (14, 10), steps=1, cfg=1.0), plain)

    def test_the_simple_preset_pools_in_squares(self, sd15):
        settings = original_preset(topology_of(sd15.model.diffusion_model), "high")
        assert Pooling(settings, settings.factors).size((48, 40)) == (24, 20)


class TestFade:
    def test_the_pool_weakens_to_nothing(self, light_model, watch):
        base = light_model.clone()
        watcher = watch(base)
        settings = only_ca(ca_downscale_factor=4.0, ca_fadeout_start_time=0.2, ca_end_time=0.8)
        sample(apply_rau_net(base, settings), (64, 48), steps=15, cfg=1.0, scheduler="sgm_uniform")
        heights = [call.sizes["input", 5][0] for call in watcher.calls]
        assert heights == sorted(heights)
        assert len(set(heights)) > 6
        for call in watcher.calls:
            if call.sigma >= sigma_at(light_model, 0.2):
                assert call.sizes["input", 5] == (8, 6)
            if call.sigma < sigma_at(light_model, 0.8):
                assert call.sizes["input", 5] == (32, 24)

    def test_the_cap_holds_a_strength_until_the_end(self, sd15):
        def heights(cap):
            settings = only_ca(
                ca_downscale_factor=4.0, ca_fadeout_start_time=0.2, ca_fadeout_cap=cap, ca_end_time=0.8
            )
            sigmas = calculate_sigmas(sd15.get_model_object("model_sampling"), "sgm_uniform", 20)
            planned_heights = [
                step.sizes["input", 5][0]
                for step in plan_run(apply_rau_net(sd15, settings), (64, 48), sigmas).steps
            ]
            count = int((sigmas[:-1] >= round(sigma_at(sd15, 0.8), 4)).sum())
            assert set(planned_heights[count:]) == {32}
            return planned_heights[:count]

        free, capped, full = heights(0.0), heights(0.5), heights(1.0)
        assert set(full) == {8}
        least = max(capped)
        assert least < max(free)
        assert capped == [min(height, least) for height in free]
        assert capped.count(least) > 4

    def test_avg_pool2d_fades_through_whole_numbers(self, light_model, watch):
        base = light_model.clone()
        watcher = watch(base)
        settings = only_ca(
            ca_downscale_mode="avg_pool2d",
            ca_downscale_factor=4.0,
            ca_fadeout_start_time=0.2,
            ca_end_time=0.8,
        )
        result = sample(apply_rau_net(base, settings), (64, 48), steps=12, cfg=1.0, scheduler="sgm_uniform")
        heights = [call.sizes["input", 5][0] for call in watcher.calls]
        assert heights == sorted(heights)
        assert set(heights) == {8, 11, 16, 32}
        assert result.isfinite().all()


class Features:
    """The features around one rescaling of a model: what the patch or layer was given,
    and what came of it.
    """

    def __init__(self, model, settings):
        self.before, self.after = {}, {}
        self.model = model.clone()
        self.model.set_model_input_block_patch(self._keep(self.before, "input"))
        self.model.set_model_output_block_patch(self._keep_output(self.before))
        self.model = apply_rau_net(self.model, settings)
        self.model.set_model_input_block_patch(self._keep(self.after, "input"))
        self.model.set_model_output_block_patch(self._keep_output(self.after))
        unet = model.get_model_object("diffusion_model")
        into_upsample = unet.output_blocks[8][-2].register_forward_hook(self._into_upsample)
        try:
            sample(self.model, SIZE, steps=1, cfg=1.0, batch=2)
        finally:
            into_upsample.remove()

    def _keep(self, kept, kind):
        def keep(features, options):
            kept[kind, options["block"][1]] = features.clone()
            return features

        return keep

    def _keep_output(self, kept):
        def keep(features, skip, options):
            kept["output", options["block"][1]] = features.clone()
            return features, skip

        return keep

    def _into_upsample(self, layer, given, result):
        self.before["upsample"] = result.clone()


MULTIPLIERS = (
    "pre_downscale_multiplier", "post_downscale_multiplier", "pre_upscale_multiplier", "post_upscale_multiplier",
    "ca_pre_downscale_multiplier", "ca_post_downscale_multiplier", "ca_pre_upscale_multiplier",
    "ca_post_upscale_multiplier",
)  # fmt: skip


@pytest.fixture(scope="module")
def biased():
    """An SD 1.5 whose resampling convolutions have a bias,
    which tells a factor before them from one behind.
    """
    model = random_models.sd15(seed=3)
    unet = model.get_model_object("diffusion_model")
    for convolution in (unet.input_blocks[3][0].op, unet.output_blocks[8][-1].conv):
        with torch.no_grad():
            convolution.bias.copy_(torch.linspace(-2, 2, len(convolution.bias)))
    return model


def interpolated(features, size, mode):
    """The host's upscale, from PyTorch alone but for bislerp."""
    if mode == "bislerp":
        return comfy.utils.bislerp(features, size[1], size[0])
    return F.interpolate(features, size=size, mode=mode)


def averaged(features, size):
    """`adaptive_avg_pool2d` pixel by pixel."""
    height, width = features.shape[-2:]
    result = features.new_zeros(*features.shape[:2], *size)
    for y, x in product(range(size[0]), range(size[1])):
        rows = slice(y * height // size[0], -(-(y + 1) * height // size[0]))
        columns = slice(x * width // size[1], -(-(x + 1) * width // size[1]))
        result[:, :, y, x] = features[:, :, rows, columns].mean((2, 3))
    return result


def averaged_in_squares(features, kernel, ceil):
    """`avg_pool2d` square by square; at the edge, what there is of it."""
    height, width = features.shape[-2:]
    rows, columns = (
        -(-side // k) if ceil else side // k for side, k in zip((height, width), kernel, strict=True)
    )
    result = features.new_zeros(*features.shape[:2], rows, columns)
    for y, x in product(range(rows), range(columns)):
        square = features[:, :, y * kernel[0] : (y + 1) * kernel[0], x * kernel[1] : (x + 1) * kernel[1]]
        result[:, :, y, x] = square.mean((2, 3))
    return result


class TestNumbers:
    """What happens to the features, against the operations written out."""

    @needs_upsample
    @pytest.mark.parametrize("name", [None, *MULTIPLIERS])
    def test_each_multiplier_acts_once_at_its_place(self, biased, name):
        values = dict.fromkeys(MULTIPLIERS, 1.0)
        if name is not None:
            values[name] = 1.625
        seen = Features(
            biased,
            RAUNet(upscale_mode="bilinear", ca_upscale_mode="nearest", ca_latent_pixel_increment=1, **values),
        )
        unet = biased.get_model_object("diffusion_model")
        down, up = unet.input_blocks[3][0].op, unet.output_blocks[8][-1].conv
        # The Downsample is the only layer of its block: what enters it left the block before.
        dilated = F.conv2d(
            seen.after["input", 2] * values["pre_downscale_multiplier"],
            down.weight, down.bias, stride=4, padding=2, dilation=2,
        ) * values["post_downscale_multiplier"]  # fmt: skip
        assert relative(seen.before["input", 3], dilated) < 1e-5
        pooled = averaged(seen.before["input", 4] * values["ca_pre_downscale_multiplier"], (5, 4))
        pooled = pooled * values["ca_post_downscale_multiplier"]
        assert relative(seen.after["input", 4], pooled) < 1e-5
        restored = F.interpolate(
            seen.before["output", 8] * values["ca_pre_upscale_multiplier"], (10, 8), mode="nearest"
        )
        assert relative(seen.after["output", 8], restored * values["ca_post_upscale_multiplier"]) < 1e-5
        enlarged = F.interpolate(
            seen.before["upsample"] * values["pre_upscale_multiplier"], SIZE, mode="bilinear"
        )
        enlarged = F.conv2d(enlarged, up.weight, up.bias, padding=1) * values["post_upscale_multiplier"]
        assert relative(seen.before["output", 9], enlarged) < 1e-5
        others = {("input", block) for block in range(12) if block != 4}
        others |= {("output", block) for block in range(12) if block != 8}
        assert all(torch.equal(seen.before[place], seen.after[place]) for place in others)

    @needs_upsample
    @pytest.mark.parametrize("first", ["disabled", *MODES])
    @pytest.mark.parametrize("mode", ["bicubic", "nearest"])
    def test_the_upscale_takes_one_stage_or_two(self, biased, mode, first):
        settings = only_downsample(upscale_mode=mode, two_stage_upscale_mode=first)
        seen = Features(biased, settings)
        features = seen.before["upsample"]
        assert tuple(features.shape[-2:]) == (10, 8)
        if first != "disabled":
            features = interpolated(features, (18, 14), first)  # half of 37 x 29
        up = biased.get_model_object("diffusion_model").output_blocks[8][-1].conv
        expected = F.conv2d(interpolated(features, SIZE, mode), up.weight, up.bias, padding=1)
        assert relative(seen.before["output", 9], expected) < 1e-5

    @pytest.mark.parametrize("mode", MODES)
    def test_the_ca_pair_resizes_in_every_mode(self, biased, mode):
        settings = only_ca(ca_downscale_mode=mode, ca_upscale_mode=mode, ca_downscale_factor=1.7)
        seen = Features(biased, settings)
        pooled = interpolated(seen.before["input", 4], (11, 8), mode)  # 19 x 15 over 1.7
        assert relative(seen.after["input", 4], pooled) < 1e-5
        restored = interpolated(seen.before["output", 8], (19, 15), mode)
        assert relative(seen.after["output", 8], restored) < 1e-5

    def test_adaptive_pooling_averages(self, biased):
        settings = only_ca(ca_downscale_factor=1.7, ca_downscale_factor_w=3.0)
        seen = Features(biased, settings)
        assert relative(seen.after["input", 4], averaged(seen.before["input", 4], (11, 5))) < 1e-5

    @pytest.mark.parametrize("ceil", [True, False])
    @pytest.mark.parametrize(("factors", "kernel"), [((2, None), (2, 2)), ((3, 2), (3, 2)), ((2, 4), (2, 5))])
    def test_avg_pool2d_averages_squares(self, biased, factors, kernel, ceil):
        """Of features of 19 x 15."""
        height, width = factors
        settings = only_ca(
            ca_downscale_mode="avg_pool2d", ca_downscale_factor=height, ca_downscale_factor_w=width,
            ca_avg_pool2d_ceil_mode=ceil,
        )  # fmt: skip
        seen = Features(biased, settings)
        expected = averaged_in_squares(seen.before["input", 4], kernel, ceil)
        assert relative(seen.after["input", 4], expected) < 1e-5


class TestSeveral:
    def test_two_in_a_row_are_one_with_both_settings(self, sd15):
        ca = only_ca(ca_end_time=0.5)
        downsample = only_downsample(end_time=0.5)
        expected = sample(apply_rau_net(sd15, BOTH), SIZE, steps=4)
        for pair in ((ca, downsample), (downsample, ca)):
            model = apply_rau_net(apply_rau_net(sd15, pair[0]), pair[1])
            assert torch.equal(sample(model, SIZE, steps=4), expected)

    def test_at_one_block_the_earlier_counts_while_it_is_on(self, light_model, watch):
        base = light_model.clone()
        watcher = watch(base)
        model = apply_rau_net(base, only_ca(ca_downscale_factor=4.0, ca_end_time=0.3))
        model = apply_rau_net(model, only_ca(ca_downscale_factor=2.0, ca_end_time=0.6))
        sample(model, (64, 48), steps=12, cfg=1.0)
        for call in watcher.calls:
            first, second = sigma_at(light_model, 0.3), sigma_at(light_model, 0.6)
            height = 8 if call.sigma >= first else 16 if call.sigma >= second else 32
            assert call.sizes["input", 5][0] == height
        assert {call.sizes["input", 5][0] for call in watcher.calls} == {8, 16, 32}

    def test_the_earlier_clone_is_not_changed(self, sd15):
        one = apply_rau_net(sd15, only_downsample())
        before = sample(one, SIZE)
        apply_rau_net(one, only_ca())
        assert torch.equal(sample(one, SIZE), before)


class TestState:
    def test_plain_is_plain_again_even_after_an_exception(self, sd15):
        before = sample(sd15, SIZE)
        patched = apply_rau_net(sd15, BOTH)
        expected = sample(patched, SIZE)
        assert not torch.equal(expected, before)

        def fail(features, options):
            if options["block"] == ("input", 5):
                raise RuntimeError("inside the UNet")
            return features

        broken = patched.clone()
        broken.set_model_input_block_patch(fail)
        with pytest.raises(RuntimeError, match="inside the UNet"):
            sample(broken, SIZE)
        assert planned("rau_net", before) is None
        assert torch.equal(sample(sd15, SIZE), before)
        assert torch.equal(sample(patched, SIZE), expected)

    def test_two_models_do_not_see_each_other(self, sd15, sdxl):
        a = apply_rau_net(sd15, BOTH)
        b = apply_rau_net(sdxl, original_preset(topology_of(sdxl.model.diffusion_model), "ultra"))
        alone = [sample(model, SIZE) for model in (a, b)]

        nested = a.clone()

        def call_another_model(features, options):
            if options["block"] == ("input", 2):
                sample(b, (22, 14), steps=1)
            return features

        nested.set_model_input_block_patch(call_another_model)
        assert torch.equal(sample(nested, SIZE), alone[0])
        assert all(torch.equal(sample(m, SIZE), x) for m, x in zip((a, b), alone, strict=True))

    def test_two_samplers_in_a_row_at_two_sizes(self, sd15):
        model = apply_rau_net(sd15, BOTH)
        sizes = [(20, 26), (37, 18)]
        alone = [sample(model, size, steps=3) for size in sizes]
        for _ in range(2):
            for size, expected in zip(sizes, alone, strict=True):
                assert torch.equal(sample(model, size, steps=3), expected)

    @pytest.mark.parametrize("settings", [BOTH, Published()], ids=["both", "published"])
    def test_both_halves_of_the_guidance_in_one_call_or_two(self, sd15, watch, apart, settings):
        base = sd15.clone()
        watcher = watch(base)
        model = apply_rau_net(base, settings)
        together = sample(model, SIZE, steps=4)
        assert {call.batch for call in watcher.calls} == {2}
        watcher.calls.clear()
        apart(model)
        assert relative(sample(model, SIZE, steps=4), together) < 1e-5
        assert {call.batch for call in watcher.calls} == {1}

    def test_a_batch_is_its_pictures_one_by_one(self, sd15):
        model = apply_rau_net(sd15, BOTH)
        latents = torch.randn(3, 4, *SIZE, generator=torch.Generator().manual_seed(1))
        together = sample(model, latent=latents, denoise=0.9)
        noise = torch.randn(3, 4, *SIZE, generator=torch.Generator().manual_seed(0))
        for number in range(3):
            # the same noise for this picture: the rest of a run's start is linear in both
            alone = sample_with_noise(model, noise[number : number + 1], latents[number : number + 1])
            assert relative(together[number : number + 1], alone) < 1e-5

    def test_an_area_is_planned_by_its_own_size(self, sd15, watch):
        base = sd15.clone()
        watcher = watch(base)
        model = apply_rau_net(base, BOTH)
        small = random_models.conditioning(model, 3, area=(16, 18, 8, 4))
        odd = random_models.conditioning(model, 4, area=(21, 33, 0, 10))
        whole = random_models.conditioning(model, 1)
        result = sample(model, (32, 48), steps=1, cfg=1.0, positive=small + odd + whole)
        assert result.isfinite().all()
        assert not torch.equal(result, sample(model, (32, 48), steps=1, cfg=1.0, positive=whole))
        assert {(call.sizes["input", 0], call.sizes["input", 3]) for call in watcher.calls} == {
            ((16, 18), (4, 5)), ((21, 33), (6, 9)), ((32, 48), (8, 12))
        }  # fmt: skip

    def test_an_inpainting_model(self):
        plain = random_models.sd15(in_channels=9)
        assert plain.model.concat_keys
        settings = only_downsample()
        mask = torch.zeros(1, 1, *SIZE)
        mask[:, :, 10:25, 5:20] = 1.0
        extra = {"concat_mask": mask, "concat_latent_image": torch.ones(1, 4, *SIZE)}
        conditioning = random_models.conditioning(plain, 1, **extra)
        results = [
            sample(model, SIZE, batch=2, positive=conditioning, negative=conditioning)
            for model in (plain, apply_rau_net(plain, settings), plain)
        ]
        assert results[1].isfinite().all()
        assert torch.equal(results[0], results[2])
        assert not torch.equal(results[0], results[1])


def sample_with_noise(model, noise, latent):
    """As `sample` with a denoise of 0.9, with that noise."""
    import comfy.sample

    with torch.inference_mode():
        return comfy.sample.sample(
            model, noise, 2, 7.0, "euler", "normal", random_models.conditioning(model, 1),
            random_models.conditioning(model, 2), latent, denoise=0.9, disable_pbar=True, seed=0,
        )  # fmt: skip


def sd15_stored_in(dtype, compute):
    config = comfy.supported_models.SD15(topology.SD15)
    config.unet_config.update(topology.SD15)
    config.set_inference_dtype(dtype, compute)
    model = config.get_model({}, prefix="").eval()
    patcher = random_models.sd15().clone()
    patcher.model = model
    state = random_models.random_state(model.diffusion_model, 0)
    model.load_model_weights({name: value.to(dtype) for name, value in state.items()}, "")
    return patcher


def downsample(model):
    return model.get_model_object("diffusion_model").input_blocks[3][0].op


def with_weight(weight):
    """An SD 1.5 with that weight in its first Downsample."""
    model = random_models.sd15()
    with torch.no_grad():
        downsample(model).weight.copy_(weight)
    return model


class TestWeights:
    KEY = "diffusion_model.input_blocks.3.0.op.weight"

    def test_weights_stored_in_another_type_are_cast(self, sd15):
        stored = sd15_stored_in(torch.bfloat16, torch.float32)
        assert downsample(stored).weight.dtype == torch.bfloat16
        baked = random_models.sd15()
        with torch.no_grad():
            for parameter in baked.model.diffusion_model.parameters():
                parameter.copy_(parameter.bfloat16().float())
        result = sample(apply_rau_net(stored, BOTH), SIZE)
        assert relative(result, sample(apply_rau_net(baked, BOTH), SIZE)) < 1e-5
        assert not torch.equal(result, sample(apply_rau_net(sd15, BOTH), SIZE))

    def test_a_unet_that_computes_in_bfloat16(self, sd15):
        model = sd15_stored_in(torch.bfloat16, None)
        result = sample(apply_rau_net(model, BOTH), SIZE, steps=1, cfg=1.0)
        expected = sample(apply_rau_net(sd15, BOTH), SIZE, steps=1, cfg=1.0)
        plain = sample(sd15, SIZE, steps=1, cfg=1.0)
        assert relative(result, expected) < 0.05 < relative(plain, expected)

    def test_a_lora_on_the_downsample_is_as_if_baked(self, draw):
        model = random_models.sd15()
        channels, *kernel = downsample(model).weight.shape
        up, down = draw(channels, 4, 1, 1) - 0.5, draw(4, *kernel, seed=1) - 0.5
        lora = {"x.lora_up.weight": up, "x.lora_down.weight": down}
        patched = model.clone()
        loaded = comfy.lora.load_lora(lora, {"x": self.KEY})
        assert patched.add_patches(loaded, 1.0) == [self.KEY]
        delta = torch.einsum("or,rihw->oihw", up[:, :, 0, 0], down)
        baked = with_weight(downsample(model).weight + delta)
        expected = sample(apply_rau_net(baked, BOTH), SIZE)
        without = sample(apply_rau_net(model, BOTH), SIZE)
        assert relative(without, expected) > 1e-3
        for lora_first in (True, False):
            ours = apply_rau_net(patched, BOTH)
            if not lora_first:
                ours = apply_rau_net(model, BOTH)
                ours.add_patches(loaded, 1.0)
            assert relative(sample(ours, SIZE), expected) < 1e-5
        assert torch.equal(sample(apply_rau_net(model, BOTH), SIZE), without)

    def test_a_weight_that_waits_for_its_lora_gets_it(self, draw):
        """With little memory the host keeps the LoRA beside the layer and adds it in the casting."""
        model = random_models.sd15()
        layer = downsample(model)
        delta = draw(*layer.weight.shape) - 0.5
        expected = sample(apply_rau_net(with_weight(layer.weight + delta), BOTH), SIZE)
        patched = apply_rau_net(model, BOTH)
        without = sample(patched, SIZE)  # loads the model, which would clear what follows
        layer.comfy_cast_weights = True
        layer.weight_function = [lambda weight: weight + delta]
        assert relative(sample(patched, SIZE), expected) < 1e-5
        assert relative(without, expected) > 1e-3

    def test_a_layer_that_brings_its_own_casting_is_asked(self):
        model = random_models.sd15()
        layer = downsample(model)
        # One step: outside the window the layer runs by itself, with the weight that lies in it.
        expected = sample(apply_rau_net(with_weight(layer.weight * 2), BOTH), SIZE, steps=1)
        without = sample(apply_rau_net(model, BOTH), SIZE, steps=1)
        layer.cast_bias_weight = lambda features: (layer.weight * 2, layer.bias)
        assert relative(sample(apply_rau_net(model, BOTH), SIZE, steps=1), expected) < 1e-5
        assert relative(without, expected) > 1e-3


class TestCompiled:
    def test_it_is_traced_once_a_state_not_once_a_step(self, two_levels, compiled):
        settings = RAUNet(
            (2,), (1,), end_time=0.6, ca_end_time=0.3, ca_input_blocks=(3,), ca_output_blocks=()
        )
        model = apply_rau_net(two_levels, settings)
        ours, backend = compiled(model)
        expected = sample(model, (40, 52), steps=8, cfg=1.0)
        assert relative(sample(ours, (40, 52), steps=8, cfg=1.0), expected) < 1e-5
        assert not torch.equal(expected, sample(two_levels, (40, 52), steps=8, cfg=1.0))
        sigmas = calculate_sigmas(model.get_model_object("model_sampling"), "normal", 8)
        states = [set(step.marks) for step in plan_run(model, (40, 52), sigmas).steps]
        is_new = [state not in states[:step] for step, state in enumerate(states)]
        assert sum(is_new) == 3
        assert [bool(added) for added in backend.added] == is_new
        assert max(backend.added) == backend.added[0]
        backend.added.clear()
        sample(ours, (40, 52), steps=8, cfg=1.0, seed=1)
        assert not any(backend.added)


def said(sentence):
    return "^" + re.escape(sentence)


class TestBadInput:
    PAIRS = r"The pairs \(input-output\) of this UNet are 3-8, 6-5, 9-2\.$"

    @pytest.mark.parametrize("block", [0, 1, 4, 12, 40])
    def test_a_block_without_a_downsample(self, sd15, block):
        with pytest.raises(
            ValueError,
            match=rf"^input_blocks: expected blocks with a Downsample, got {block}\. " + self.PAIRS,
        ):
            apply_rau_net(sd15, RAUNet(input_blocks=(3, block), output_blocks=()))

    def test_the_pairs_are_those_of_the_model_at_hand(self, sdxl):
        with pytest.raises(ValueError, match=r"^input_blocks: .*, got 9\. .* are 3-5, 6-2\.$"):
            apply_rau_net(sdxl, RAUNet(input_blocks=(9,), output_blocks=()))

    @pytest.mark.parametrize("output", [(5,), (8, 5), (7,)])
    def test_output_blocks_that_are_no_partners(self, sd15, output):
        listed = ",".join(map(str, sorted(output)))
        with pytest.raises(
            ValueError, match=rf"^output_blocks: expected 8 for input_blocks 3, got {listed}\. " + self.PAIRS
        ):
            apply_rau_net(sd15, RAUNet(output_blocks=output))

    @pytest.mark.parametrize(("block", "after_skip", "right"), [(4, False, 8), (4, True, 7), (1, False, 11)])
    def test_ca_blocks_that_are_no_partners(self, sd15, block, after_skip, right):
        settings = RAUNet(
            ca_input_blocks=(block,), ca_output_blocks=(6,), ca_input_after_skip_mode=after_skip
        )
        with pytest.raises(
            ValueError,
            match=rf"^ca_output_blocks: expected {right} for ca_input_blocks {block}, got 6\. "
            rf"The pairs \(input-output\) of this UNet are .*\b{block}-{right}\b",
        ):
            apply_rau_net(sd15, settings)

    @pytest.mark.parametrize("block", [0, 12])
    def test_a_ca_block_that_the_unet_does_not_have(self, sd15, block):
        with pytest.raises(
            ValueError,
            match=rf"^ca_input_blocks: expected 1 to 11 for this UNet, got {block}\. .* 3 and 6 and 9 ",
        ):
            apply_rau_net(sd15, RAUNet(ca_input_blocks=(block,), ca_output_blocks=()))

    @pytest.mark.parametrize("recipe", [RAUNet(), Published()], ids=["fixed", "published"])
    def test_a_model_without_input_blocks(self, recipe):
        with pytest.raises(ValueError, match=r"^model: expected an SD 1\.x, .*, got Flux\. [A-Z]"):
            apply_rau_net(random_models.flux(), recipe)

    @pytest.mark.parametrize("socket", ["ca_downscale_factor", "ca_downscale_factor_w"])
    @pytest.mark.parametrize("factor", [0.0, -2.0])
    def test_a_factor_that_is_no_factor(self, socket, factor):
        with pytest.raises(
            ValueError, match=said(f"{socket}: expected a number above 0, got {factor:g}. 2 halves")
        ):
            RAUNet(**{socket: factor})

    @pytest.mark.parametrize("socket", ["ca_downscale_factor", "ca_downscale_factor_w"])
    def test_a_broken_factor_for_squares(self, socket):
        with pytest.raises(
            ValueError,
            match=said(
                f"{socket}: expected a whole number for ca_downscale_mode avg_pool2d, got 1.5. Use adaptive_avg_pool2d"
            ),
        ):
            RAUNet(ca_downscale_mode="avg_pool2d", **{socket: 1.5})

    @pytest.mark.parametrize(
        ("fade", "end", "unit"), [(0.4, 0.3, "percent"), (200, 400, "timestep"), (0.4, 0.3, "steps")]
    )
    def test_a_fade_that_starts_behind_its_end(self, fade, end, unit):
        with pytest.raises(
            ValueError,
            match=said(
                f"ca_fadeout_start_time: expected a time before ca_end_time ({end:g}), got {fade:g}. The"
            ),
        ):
            RAUNet(ca_fadeout_start_time=fade, ca_end_time=end, time_mode=unit)

    def test_a_run_that_changes_nothing_says_why(self, sd15, caplog):
        model = apply_rau_net(
            sd15, RAUNet(start_time=0.6, end_time=0.2, ca_input_blocks=(), ca_output_blocks=())
        )
        with caplog.at_level(logging.INFO, "megapixel"):
            assert torch.equal(sample(model, SIZE), sample(sd15, SIZE))
        assert "nothing to do (no block is set, or start_time is after end_time)" in caplog.text


@pytest.mark.parametrize("emptied", [{"input_blocks": ()}, {"ca_input_blocks": ()}], ids=str)
def test_a_pair_without_input_blocks_is_off_whatever_its_output_blocks_are(sd15, emptied):
    patched = apply_rau_net(sd15, RAUNet(**emptied, end_time=1.0, ca_end_time=1.0))
    everything_off = {"input_blocks": (), "output_blocks": (), "ca_input_blocks": (), "ca_output_blocks": ()}
    [kept] = {"input_blocks", "ca_input_blocks"} - set(emptied)
    other = {kept: (3,) if kept == "input_blocks" else (4,)}
    alone = apply_rau_net(sd15, RAUNet(**everything_off | other, end_time=1.0, ca_end_time=1.0))
    assert torch.equal(sample(patched), sample(alone))
    assert not torch.equal(sample(patched), sample(sd15))


def test_the_log_line_has_every_setting_that_is_not_the_usual_one(sd15, caplog):
    settings = RAUNet(
        two_stage_upscale_mode="area", ca_fadeout_start_time=0.1, ca_fadeout_cap=0.25, ca_latent_pixel_increment=1,
        ca_avg_pool2d_ceil_mode=False, post_upscale_multiplier=1.05,
    )  # fmt: skip
    with caplog.at_level(logging.INFO, "megapixel"):
        sample(apply_rau_net(sd15, settings), steps=1, cfg=1.0)
    for told in (
        "two_stage_upscale_mode area", "ca_fadeout_start_time 0.1", "ca_fadeout_cap 0.25",
        "ca_latent_pixel_increment 1", "ca_avg_pool2d_ceil_mode false", "post_upscale_multiplier 1.05",
    ):  # fmt: skip
        assert told in caplog.text
    assert "pre_upscale_multiplier" not in caplog.text
    assert "ca_input_after_skip_mode" not in caplog.text

"""Deep Shrink on tiny real UNets, sampled by the host; its own node is the oracle."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import get_args

import comfy.controlnet
import pytest
import torch
from comfy_extras.nodes_custom_sampler import FlipSigmas
from comfy_extras.nodes_model_downscale import PatchModelAddDownscale
from megapixel.patches.deep_shrink import AUTOMATIC, DeepShrink, ScaleMethod, apply_deep_shrink
from megapixel.patches.model_call import ModelCall
from megapixel.patches.wrapper import planned
from megapixel.scaling.deep_shrink import automatic_factor, shrunk_size

from devhost.sampling import sample
from devhost.tiny import random_models, topology


def host_shrink(
    model, block=3, factor=2.0, start=0.0, end=0.35, after_skip=True, down="bicubic", up="bicubic"
):
    return PatchModelAddDownscale.execute(model, block, factor, start, end, after_skip, down, up)[0]


def sigma_at(model, percent):
    return model.get_model_object("model_sampling").percent_to_sigma(percent)


BLOCKS = [("sd15", block) for block in range(1, 12)] + [("sdxl", block) for block in range(1, 9)]


METHODS = [(down, "bicubic") for down in get_args(ScaleMethod)] + [
    ("area", up) for up in get_args(ScaleMethod)
]


class TestEqualsTheHostsNode:
    @pytest.mark.parametrize("after_skip", [True, False], ids=["after", "before"])
    @pytest.mark.parametrize(("family", "block"), BLOCKS)
    def test_every_block(self, family, block, after_skip, request):
        model = request.getfixturevalue(family)
        host = host_shrink(model, block, after_skip=after_skip)
        ours = apply_deep_shrink(model, DeepShrink(block_number=block, downscale_after_skip=after_skip))
        size = (24, 18) if block % 2 else (17, 30)
        expected = sample(host, size, steps=1, cfg=1.0, batch=2)
        assert torch.equal(sample(ours, size, steps=1, cfg=1.0, batch=2), expected)
        assert not torch.equal(sample(model, size, steps=1, cfg=1.0, batch=2), expected)

    @pytest.mark.parametrize(("down", "up"), METHODS)
    @pytest.mark.parametrize("family", ["sd15", "sdxl"])
    def test_every_method(self, family, down, up, request):
        model = request.getfixturevalue(family)
        config = DeepShrink(downscale_factor=1.7, downscale_method=down, upscale_method=up)
        expected = sample(host_shrink(model, factor=1.7, down=down, up=up), (26, 19), steps=1, cfg=1.0)
        assert torch.equal(sample(apply_deep_shrink(model, config), (26, 19), steps=1, cfg=1.0), expected)

    @pytest.mark.parametrize("factor", [0.5, 1.3, 3.0, 9.0])
    def test_every_factor_over_a_run(self, sd15, factor):
        config = DeepShrink(downscale_factor=factor, start_percent=0.1, end_percent=0.6)
        expected = sample(host_shrink(sd15, factor=factor, start=0.1, end=0.6), (40, 28), steps=6)
        assert torch.equal(sample(apply_deep_shrink(sd15, config), (40, 28), steps=6), expected)


class TestWindow:
    @pytest.mark.parametrize(
        ("sampler", "cfg"),
        [
            *((name, 1.0) for name in ("euler", "heun", "dpmpp_2s_ancestral", "dpm_2", "dpmpp_sde")),
            ("dpmpp_2m", 7.0),
        ],
    )
    @pytest.mark.parametrize("denoise", [1.0, 0.5])
    def test_on_exactly_inside_the_window(self, sd15, record_sizes, sampler, cfg, denoise):
        start, end = (0.1, 0.35) if denoise == 1.0 else (0.55, 0.8)
        model = apply_deep_shrink(sd15, DeepShrink(start_percent=start, end_percent=end))
        recorder = record_sizes(model, 4)
        sample(model, (20, 26), steps=8, cfg=cfg, sampler=sampler, denoise=denoise)
        high, low = sigma_at(sd15, start), sigma_at(sd15, end)
        assert {size for _, size in recorder.calls} == {(10, 13), (5, 6)}
        for sigma, size in recorder.calls:
            assert size == ((5, 6) if low <= sigma <= high else (10, 13)), sigma

    @pytest.mark.parametrize("start", [0.0, 0.5])
    def test_a_run_that_adds_noise_is_the_hosts_too(self, sd15, start):
        sigmas = FlipSigmas.execute(torch.tensor([14.0, 6.0, 3.0, 1.0, 0.3, 0.0]))[0]
        ours = apply_deep_shrink(sd15, DeepShrink(start_percent=start, end_percent=0.9))
        host = host_shrink(sd15, start=start, end=0.9)
        given = {"sigmas": sigmas, "latent": torch.zeros(1, 4, 16, 24), "cfg": 1.0}
        assert torch.equal(sample(ours, **given), sample(host, **given))
        assert not torch.equal(sample(ours, **given), sample(sd15, **given))

    def test_a_second_sampler_in_a_row_starts_afresh(self, sd15):
        model = apply_deep_shrink(sd15, DeepShrink())
        first = sample(model, (20, 26), steps=4)
        once = sample(model, (20, 26), steps=4, denoise=0.5, latent=first)
        assert torch.equal(sample(model, (20, 26), steps=4), first)
        assert torch.equal(sample(model, (20, 26), steps=4, denoise=0.5, latent=first), once)

    def test_a_later_model_sampling_node_counts(self, sd15, record_sizes):
        from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

        model = apply_deep_shrink(sd15, DeepShrink(end_percent=0.3))
        resampled = ModelSamplingDiscrete().patch(model, "eps", zsnr=True)[0]
        recorder = record_sizes(resampled, 4)
        sample(resampled, (16, 24), steps=8, cfg=1.0)
        low = sigma_at(resampled, 0.3)
        assert low != sigma_at(sd15, 0.3)
        for sigma, size in recorder.calls:
            assert (size == (4, 6)) == (sigma >= low)

    def test_a_fade_shrinks_less_and_less(self, light_model, record_sizes):
        config = DeepShrink(downscale_factor=4.0, end_percent=0.2, fade_percent=0.6)
        model = apply_deep_shrink(light_model, config)
        recorder = record_sizes(model, 4)
        sample(model, (64, 48), steps=12, cfg=1.0, scheduler="sgm_uniform")
        heights = [height for height, _ in recorder.sizes]
        assert heights[0] == 8
        assert heights[-1] == 32
        assert heights == sorted(heights)
        assert len(set(heights)) > 6
        for sigma, size in recorder.calls:
            if sigma >= sigma_at(light_model, 0.2):
                assert size == (8, 6)
            if sigma < sigma_at(light_model, 0.8):
                assert size == (32, 24)

    def test_a_batch_of_mixed_noise_levels_follows_its_weakest_entry(self, sd15):
        def strength(*sigmas):
            sampling = sd15.get_model_object("model_sampling")
            call = ModelCall(sigmas, (8, 6), None, sampling, sd15.model, topology=None)
            return call.strength(DeepShrink(end_percent=0.35).schedule)

        assert strength(10.0, 8.0) == 1.0
        assert strength(10.0, 0.1) == strength(0.1, 10.0) == strength(0.1) == 0.0


class TestSeveralShrinks:
    def test_four_then_two_then_none(self, light_model, record_sizes):
        model = apply_deep_shrink(light_model, DeepShrink(downscale_factor=4.0, end_percent=0.3))
        model = apply_deep_shrink(model, DeepShrink(downscale_factor=2.0, start_percent=0.3, end_percent=0.6))
        recorder = record_sizes(model, 4)
        sample(model, (64, 48), steps=12, cfg=1.0)
        first, second = sigma_at(light_model, 0.3), sigma_at(light_model, 0.6)
        for sigma, (height, _) in recorder.calls:
            assert height == (8 if sigma >= first else 16 if sigma >= second else 32)
        assert {height for height, _ in recorder.sizes} == {8, 16, 32}

    @pytest.mark.parametrize("blocks", [(3, 3), (3, 4)], ids=["one block", "two blocks"])
    def test_the_moment_at_which_two_meet_belongs_to_the_earlier(self, sd15, record_sizes, blocks):
        model = apply_deep_shrink(sd15, DeepShrink(blocks[0], 4.0, end_percent=0.3))
        model = apply_deep_shrink(model, DeepShrink(blocks[1], 2.0, start_percent=0.3, end_percent=0.6))
        recorder = record_sizes(model, 5)
        meeting = sigma_at(sd15, 0.3)
        sample(model, (64, 48), cfg=1.0, sigmas=torch.tensor([14.0, meeting, meeting * 0.9, 0.0]))
        assert [height for height, _ in recorder.sizes] == [8, 8, 16]

    def test_at_one_block_the_strongest_counts(self, sd15, record_sizes):
        for factors in ((2.0, 3.0), (3.0, 2.0), (3.0, 3.0)):
            model = sd15
            for factor in factors:
                model = apply_deep_shrink(model, DeepShrink(downscale_factor=factor))
            recorder = record_sizes(model, 4)
            sample(model, (48, 36), steps=1, cfg=1.0)
            assert recorder.sizes == [shrunk_size((24, 18), 3.0)]

    def test_a_shrink_that_is_off_does_not_hide_an_enlargement(self, sd15, record_sizes):
        model = apply_deep_shrink(sd15, DeepShrink(downscale_factor=2.0, start_percent=0.5, end_percent=0.6))
        model = apply_deep_shrink(model, DeepShrink(downscale_factor=0.5))
        recorder = record_sizes(model, 4)
        sample(model, (16, 12), steps=1, cfg=1.0)
        assert recorder.sizes == [(16, 12)]

    def test_two_blocks_multiply_as_with_the_hosts_nodes(self, sd15):
        host = host_shrink(host_shrink(sd15, 3, 2.0), 6, 1.5)
        ours = apply_deep_shrink(apply_deep_shrink(sd15, DeepShrink(3, 2.0)), DeepShrink(6, 1.5))
        assert torch.equal(sample(ours, (48, 36), steps=3), sample(host, (48, 36), steps=3))

    def test_the_earlier_clone_is_not_changed(self, sd15):
        one = apply_deep_shrink(sd15, DeepShrink())
        before = sample(one, (32, 24))
        apply_deep_shrink(one, DeepShrink(downscale_factor=4.0))
        assert torch.equal(sample(one, (32, 24)), before)


class TestAuto:
    def test_nothing_at_or_below_the_trained_size(self, sd15, sdxl):
        for model, size, trained in ((sd15, (64, 48), 0), (sdxl, (24, 32), 0), (sd15, (16, 17), 128)):
            auto = apply_deep_shrink(model, DeepShrink(mode="auto", trained_size=trained))
            assert torch.equal(sample(auto, size, steps=1, cfg=1.0), sample(model, size, steps=1, cfg=1.0))

    @pytest.mark.parametrize("size", [(40, 32), (32, 48), (31, 65), (16, 48)])
    def test_above_it_features_come_down_and_grow_back(self, sd15, record_sizes, size):
        model = apply_deep_shrink(sd15, DeepShrink(mode="auto", trained_size=128))
        recorder = record_sizes(model, 4)
        sample(model, size, steps=10, cfg=1.0)
        full = tuple(-(-side // 2) for side in size)
        assert recorder.sizes[0] == shrunk_size(full, automatic_factor(size, 16))
        assert recorder.sizes[-1] == full
        assert set(recorder.sizes) == {recorder.sizes[0], full}

    def test_at_twice_the_trained_side_auto_is_the_known_node(self, sd15):
        auto = apply_deep_shrink(sd15, DeepShrink(mode="auto", trained_size=128))
        assert torch.equal(sample(auto, (32, 32), steps=6), sample(host_shrink(sd15), (32, 32), steps=6))

    def test_the_manual_settings_do_not_count(self, sd15):
        plain = apply_deep_shrink(sd15, DeepShrink(mode="auto", trained_size=128))
        odd = apply_deep_shrink(
            sd15,
            DeepShrink(
                40, 7.0, 0.9, 0.95, False, "bislerp", "area", mode="auto", fade_percent=0.5, trained_size=128
            ),
        )
        assert torch.equal(sample(odd, (32, 40)), sample(plain, (32, 40)))

    @pytest.mark.parametrize("size", [(32, 40), (16, 16)])
    def test_the_log_line_says_what_to_type(self, sd15, caplog, size):
        auto = apply_deep_shrink(sd15, DeepShrink(mode="auto", trained_size=128))
        with caplog.at_level(logging.INFO, logger="megapixel"):
            result = sample(auto, size, steps=6)
        [line] = [record.getMessage() for record in caplog.records if record.name == "megapixel"]
        if size == (16, 16):
            assert "Deep Shrink at latent 16x16: nothing to do (not clearly above the trained size)" in line
        else:
            factor = automatic_factor(size, 16)
            assert f"block_number {AUTOMATIC.block_number}, downscale_factor {factor:g}, " in line
            assert f"end_percent {AUTOMATIC.end_percent:g}, fade_percent {AUTOMATIC.fade_percent:g}" in line
            assert "downscale_after_skip true, bicubic down, bicubic up" in line
            typed = apply_deep_shrink(sd15, replace(AUTOMATIC, mode="manual", downscale_factor=factor))
            assert torch.equal(sample(typed, size, steps=6), result)


class TestState:
    def test_plain_is_plain_again_even_after_an_exception(self, sd15):
        before = sample(sd15, (20, 26))
        patched = apply_deep_shrink(sd15, DeepShrink())
        expected = sample(patched, (20, 26))

        def fail(features, options):
            if options["block"] == ("input", 5):
                raise RuntimeError("inside the UNet")
            return features

        broken = patched.clone()
        broken.set_model_input_block_patch(fail)
        with pytest.raises(RuntimeError, match="inside the UNet"):
            sample(broken, (20, 26))
        assert planned("deep_shrink", before) is None
        assert torch.equal(sample(sd15, (20, 26)), before)
        assert torch.equal(sample(patched, (20, 26)), expected)

    def test_two_models_do_not_see_each_other(self, sd15, sdxl):
        a = apply_deep_shrink(sd15, DeepShrink(3))
        b = apply_deep_shrink(sdxl, DeepShrink(5, 1.5))
        c = apply_deep_shrink(sd15, DeepShrink(6, 3.0))
        alone = [sample(model, (20, 26)) for model in (a, b, c)]

        nested = a.clone()

        def call_another_model(features, options):
            if options["block"] == ("input", 2):
                sample(b, (12, 14), steps=1)
            return features

        nested.set_model_input_block_patch(call_another_model)
        assert torch.equal(sample(nested, (20, 26)), alone[0])
        assert all(torch.equal(sample(m, (20, 26)), x) for m, x in zip((a, b, c), alone, strict=True))

    @pytest.mark.slow
    def test_a_compiled_model_fades_at_the_same_steps(self):
        from comfy_api.torch_helpers import set_torch_compile_wrapper
        from comfy_extras.nodes_torch_compile import skip_torch_compile_dict

        torch._dynamo.reset()
        plain = random_models.sd15(**topology.SMALLEST | {"transformer_depth": [0]})
        model = apply_deep_shrink(plain, DeepShrink(2, fade_percent=0.4))
        compiled = model.clone()
        options = {"guard_filter_fn": skip_torch_compile_dict}  # as the host's TorchCompileModel node
        set_torch_compile_wrapper(compiled, backend="eager", options=options)
        expected = sample(model, (20, 26), steps=5, cfg=1.0)
        torch.testing.assert_close(sample(compiled, (20, 26), steps=5, cfg=1.0), expected, rtol=0, atol=0)
        assert not torch.equal(expected, sample(plain, (20, 26), steps=5, cfg=1.0))


class OneResidual(comfy.controlnet.ControlBase):
    """A control that gives a single residual, the k-th of those that a ControlNet for SD 1.5 gives."""

    def __init__(self, place, index, shape):
        super().__init__()
        self.place, self.index, self.shape = place, index, shape

    def get_control(self, x_noisy, *args):
        residual = torch.ones(x_noisy.shape[0], *self.shape)
        count = 12 if self.place == "output" else 1
        residuals = [residual if k == self.index else None for k in range(count)]
        return {"input": [], "middle": [], "output": [], self.place: residuals}

    def copy(self):
        return self


def with_control(model, control):
    conditioning = random_models.conditioning(model, 1)
    conditioning[0][1].update(control=control, control_apply_to_uncond=True)
    return conditioning


class TestControlNet:
    SIZE = (37, 29)
    SHAPES = (
        [(32, 37, 29)] * 3 + [(32, 19, 15)] + [(64, 19, 15)] * 2 + [(64, 10, 8)] + [(128, 10, 8)] * 2
        + [(128, 5, 4)] * 3
    )  # fmt: skip

    @pytest.mark.parametrize("index", range(13))
    @pytest.mark.parametrize("after_skip", [True, False])
    def test_each_residual_changes_the_picture(self, sd15, caplog, index, after_skip):
        control = (
            OneResidual("output", index, self.SHAPES[index]) if index < 12
            else OneResidual("middle", 0, (128, 5, 4))
        )  # fmt: skip
        model = apply_deep_shrink(sd15, DeepShrink(downscale_after_skip=after_skip))
        without = sample(model, self.SIZE, steps=1, cfg=1.0)
        result = sample(model, self.SIZE, steps=1, cfg=1.0, positive=with_control(model, control))
        assert "could not be applied" not in caplog.text
        assert result.isfinite().all()
        assert not torch.equal(result, without)

    def test_an_adapters_residual_fits_too(self, sd15, caplog):
        """T2I-Adapters add to the features of the input blocks, on the way down."""

        class Adapter(OneResidual):
            def get_control(self, x_noisy, *args):
                residual = torch.ones(x_noisy.shape[0], *self.shape)
                return {"input": [None, residual] + [None] * 5, "middle": [], "output": []}

        control = Adapter(
            "input", 5, (64, 19, 15)
        )  # added behind input block 5, which sees half of that size
        model = apply_deep_shrink(sd15, DeepShrink())
        without = sample(model, self.SIZE, steps=1, cfg=1.0)
        result = sample(model, self.SIZE, steps=1, cfg=1.0, positive=with_control(model, control))
        assert "could not be applied" not in caplog.text
        assert not torch.equal(result, without)

    def test_outside_the_window_the_bits_are_the_unpatched_ones(self, sd15):
        control = random_models.controlnet().set_cond_hint(torch.full((1, 3, 64, 48), 0.5), 1.0, (0.0, 1.0))
        positive = with_control(sd15, control)
        model = apply_deep_shrink(sd15, DeepShrink(start_percent=0.99, end_percent=0.99))
        expected = sample(sd15, (20, 26), positive=positive)
        assert torch.equal(sample(model, (20, 26), positive=positive), expected)


class TestNeighbours:
    def test_free_u(self, sd15):
        from comfy_extras.nodes_freelunch import FreeU_V2

        shrink = DeepShrink(end_percent=0.5)
        plain = sample(apply_deep_shrink(sd15, shrink), (37, 29), steps=3)
        for model in (
            FreeU_V2.execute(apply_deep_shrink(sd15, shrink), 1.3, 1.4, 0.9, 0.2)[0],
            apply_deep_shrink(FreeU_V2.execute(sd15, 1.3, 1.4, 0.9, 0.2)[0], shrink),
        ):
            result = sample(model, (37, 29), steps=3)
            assert result.isfinite().all()
            assert not torch.equal(result, plain)

    def test_perturbed_attention_guidance(self, sd15):
        from comfy_extras.nodes_pag import PerturbedAttentionGuidance

        model = PerturbedAttentionGuidance.execute(apply_deep_shrink(sd15, DeepShrink(end_percent=0.5)), 3.0)[
            0
        ]
        assert sample(model, (37, 29), steps=3).isfinite().all()

    def test_an_area_is_planned_by_its_own_size(self, sd15, record_sizes):
        model = apply_deep_shrink(sd15, DeepShrink(mode="auto", trained_size=128))
        recorder = record_sizes(model, 4)
        area = random_models.conditioning(model, 3, area=(16, 16, 8, 4))
        whole = random_models.conditioning(model, 1)
        assert sample(model, (32, 48), steps=1, cfg=1.0, positive=area + whole).isfinite().all()
        assert (8, 8) in recorder.sizes  # the area, at the trained size: nothing to do
        assert shrunk_size((16, 24), automatic_factor((32, 48), 16)) in recorder.sizes


class TestBadInput:
    @pytest.mark.parametrize("number", [12, 32, 40])
    def test_a_block_that_the_unet_does_not_have(self, sd15, number):
        with pytest.raises(
            ValueError, match=rf"^block_number: expected 1 to 11 for this UNet, got {number}\. "
        ):
            apply_deep_shrink(sd15, DeepShrink(block_number=number))

    def test_start_after_end(self):
        with pytest.raises(
            ValueError, match=r"^start_percent: expected at most end_percent \(0\.2\), got 0\.5\. "
        ):
            DeepShrink(start_percent=0.5, end_percent=0.2)

    def test_factor_zero(self):
        with pytest.raises(ValueError, match=r"^downscale_factor: expected a number above 0, got 0\. "):
            DeepShrink(downscale_factor=0.0)

    def test_factor_one_changes_nothing_and_says_so(self, sd15, caplog):
        model = apply_deep_shrink(sd15, DeepShrink(downscale_factor=1.0))
        with caplog.at_level(logging.INFO, logger="megapixel"):
            assert torch.equal(sample(model, (20, 26)), sample(sd15, (20, 26)))
        assert "Deep Shrink at latent 20x26: nothing to do (downscale_factor is 1)" in caplog.text

    def test_a_model_without_input_blocks(self):
        flux = random_models.flux()
        with pytest.raises(ValueError, match=r"^model: expected an SD 1\.x, .*, got Flux\. "):
            apply_deep_shrink(flux, DeepShrink())

    def test_a_video_latent(self, sd15):
        model = apply_deep_shrink(sd15, DeepShrink())
        with pytest.raises(
            ValueError, match=r"^latent_image: expected a latent B x C x H x W, got 5 dimensions"
        ):
            sample(model, latent=torch.zeros(1, 4, 2, 16, 24))

"""MSW-MSA on tiny real UNets, sampled by the host: what attention sees,
the moves of the windows, and neighbours.
"""

from __future__ import annotations

import logging
from itertools import cycle, pairwise

import comfy.sample
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_freelunch import FreeU_V2
from comfy_extras.nodes_hypertile import HyperTile
from comfy_extras.nodes_pag import PerturbedAttentionGuidance
from comfy_extras.nodes_sag import SelfAttentionGuidance
from comfy_extras.nodes_tomesd import TomePatchModel
from megapixel.patches import msw_msa
from megapixel.patches.deep_shrink import DeepShrink, apply_deep_shrink
from megapixel.patches.msw_msa import MSWMSA, apply_msw_msa, original_preset
from megapixel.patches.topology import topology_of
from megapixel.patches.wrapper import planned
from torch.overrides import TorchFunctionMode

from devhost.sampling import sample
from devhost.tiny import random_models

from .conftest import syncs_inside_the_unet

SIZE = (37, 29)
TEXT = random_models.TOKENS  # no window here has that many
BLOCKS = {("input", 1), ("input", 2), ("output", 9), ("output", 10), ("output", 11)}


def relative(result, expected):
    assert result.shape == expected.shape
    return ((result - expected).abs().max() / expected.abs().max()).item()


class SelfAttention:
    """What reaches the host's attention in a clone's self-attention: (block, grid, shape of the queries)."""

    def __init__(self, model):
        self.seen = []
        model.model_options["transformer_options"]["optimized_attention_override"] = self.attend

    def attend(self, attention, q, k, v, heads, *args, transformer_options, **kwargs):
        if k.shape[1] != TEXT:
            assert q.shape == k.shape == v.shape
            grid = tuple(transformer_options["activations_shape"][-2:])
            self.seen.append((transformer_options["block"], grid, tuple(q.shape[:2])))
        return attention(q, k, v, heads, *args, transformer_options=transformer_options, **kwargs)


def attention_of(model, config, size, batch=1):
    clone = model.clone()
    recorder = SelfAttention(clone)
    sample(apply_msw_msa(clone, config), size, steps=1, cfg=1.0, batch=batch)
    assert recorder.seen
    return recorder.seen


class TestWhatAttentionSees:
    @pytest.mark.parametrize("size", [(32, 24), (33, 24), (20, 31), SIZE], ids=str)
    def test_four_windows_of_half_the_sides_at_the_chosen_blocks_alone(self, sd15, size):
        for block, (height, width), shape in attention_of(sd15, MSWMSA(), size, batch=2):
            if block in BLOCKS:
                assert shape == (2 * 4, -(-height // 2) * -(-width // 2)), block
            else:
                assert shape == (2, height * width), block

    def test_native_windows_hold_the_trained_count(self, sd15):
        config = MSWMSA(
            (1, 2, 4, 5), (), (6, 7, 8, 9, 10, 11), windows="native", trained_size=64
        )  # 8 x 8 latent pixels
        for block, grid, shape in attention_of(sd15, config, (32, 24)):
            if grid in ((32, 24), (16, 12)):
                assert shape[0] == 4 * 3, block
                assert shape[1] == grid[0] * grid[1] // 12, block
            else:
                assert shape == (1, grid[0] * grid[1]), block

    @pytest.mark.parametrize(
        ("size", "windows", "tokens"),
        [
            ((64, 64), 4 * 4, 16 * 16),
            ((33, 65), 2 * 4, 17 * 17),
            ((70, 41), 4 * 2, 18 * 21),
            ((28, 26), 2 * 1, 14 * 26),
        ],
    )
    def test_native_windows_stay_near_the_trained_count_at_any_size(self, sd15, size, windows, tokens):
        config = MSWMSA(windows="native", trained_size=128)  # 16 x 16 latent pixels
        shapes = {shape for block, _, shape in attention_of(sd15, config, size) if block in BLOCKS}
        assert shapes == {(windows, tokens)}

    def test_the_middle_block(self, sd15):
        config = MSWMSA((), (0,), ())
        seen = [cell for cell in attention_of(sd15, config, (80, 96)) if cell[0] == ("middle", 0)]
        assert seen == [(("middle", 0), (10, 12), (4, 30))]

    def test_a_grid_of_one_row_has_windows_along_the_other_side_alone(self, sd15):
        seen = attention_of(sd15, MSWMSA((), (0,), ()), (8, 64))
        assert (("middle", 0), (1, 8), (2, 4)) in seen

    def test_windows_follow_features_that_another_effect_shrinks(self, sd15):
        clone = sd15.clone()
        recorder = SelfAttention(clone)
        model = apply_msw_msa(apply_deep_shrink(clone, DeepShrink(1, 1.5)), MSWMSA())
        sample(model, (32, 24), steps=1, cfg=1.0)
        small = [(grid, shape) for block, grid, shape in recorder.seen if block == ("input", 2)]
        assert small == [((21, 16), (4, 11 * 8))]
        large = [(grid, shape) for block, grid, shape in recorder.seen if block == ("output", 11)]
        assert large == [((32, 24), (4, 16 * 12))]

    def test_nothing_is_resized_for_an_odd_size(self, sd15):
        class CountResizes(TorchFunctionMode):
            count = 0

            def __torch_function__(self, func, types, args=(), kwargs=None):
                self.count += func in (torch.nn.functional.interpolate, torch.nn.functional.pad)
                return func(*args, **(kwargs or {}))

        counts = []
        for model in (sd15, apply_msw_msa(sd15, MSWMSA())):
            with CountResizes() as resizes:
                sample(model, SIZE, steps=1, cfg=1.0)
            counts.append(resizes.count)
        assert counts[0] == counts[1] > 0  # the UNet's own Upsamples


class TestAlone:
    def test_native_windows_at_the_trained_size_are_the_plain_bits(self, sd15):
        native = apply_msw_msa(sd15, MSWMSA(windows="native", trained_size=256))
        for size in ((32, 32), (30, 36), (41, 37)):
            assert torch.equal(sample(native, size, steps=1), sample(sd15, size, steps=1))
        assert not torch.equal(sample(native, (32, 64), steps=1), sample(sd15, (32, 64), steps=1))

    def test_above_the_trained_size_only_where_asked(self, sd15):
        config = MSWMSA(above_trained_size=True, trained_size=256)
        confined = apply_msw_msa(sd15, config)
        free = apply_msw_msa(sd15, MSWMSA())
        for size, on in (((32, 32), False), ((34, 30), False), ((48, 64), True), ((64, 64), True)):
            result = sample(confined, size, steps=1)
            assert torch.equal(result, sample(free if on else sd15, size, steps=1)), size
            assert not torch.equal(result, sample(sd15 if on else free, size, steps=1)), size

    def test_outside_the_window_the_bits_are_the_plain_ones(self, sd15):
        late = apply_msw_msa(sd15, MSWMSA(start_time=0.99, end_time=0.99, pre_window_multiplier=1.5))
        assert torch.equal(sample(late, SIZE, steps=3), sample(sd15, SIZE, steps=3))

    def test_applied_again_the_later_settings_replace_the_earlier(self, sd15):
        twice = apply_msw_msa(apply_msw_msa(sd15, MSWMSA()), MSWMSA((1,), (), (11,)))
        assert torch.equal(sample(twice), sample(apply_msw_msa(sd15, MSWMSA((1,), (), (11,)))))

    @pytest.mark.parametrize(
        "name",
        [
            "pre_window_multiplier", "post_window_multiplier", "pre_window_reverse_multiplier",
            "post_window_reverse_multiplier",
        ],
    )  # fmt: skip
    def test_each_multiplier_acts_once(self, sd15, name):
        """A factor on the tokens (or on the result), as a patch of its own around plain windows."""
        factor = 1.25
        ours = apply_msw_msa(sd15, MSWMSA(**{name: factor}))
        by_hand = sd15.clone()
        if "reverse" in name:
            by_hand.set_model_attn1_output_patch(
                lambda tokens, options: tokens * factor if options["block"] in BLOCKS else tokens
            )
        else:
            by_hand.set_model_attn1_patch(
                lambda q, k, v, options: (
                    (q * factor, k * factor, v * factor) if options["block"] in BLOCKS else (q, k, v)
                )
            )
        expected = sample(apply_msw_msa(by_hand, MSWMSA()), SIZE, steps=1)
        assert relative(sample(ours, SIZE, steps=1), expected) < 1e-5
        assert relative(sample(apply_msw_msa(sd15, MSWMSA()), SIZE, steps=1), expected) > 1e-3

    def test_plain_is_plain_again_even_after_an_exception(self, sd15):
        before = sample(sd15, SIZE)
        patched = apply_msw_msa(sd15, MSWMSA())
        expected = sample(patched, SIZE)
        assert not torch.equal(expected, before)

        def fail(tokens, context, value, options):
            if options["block"] == ("input", 2):
                raise RuntimeError("inside the UNet")
            return tokens, context, value

        broken = patched.clone()
        broken.set_model_attn2_patch(fail)
        with pytest.raises(RuntimeError, match="inside the UNet"):
            sample(broken, SIZE)
        assert planned("msw_msa", before) is None
        assert torch.equal(sample(sd15, SIZE), before)
        assert torch.equal(sample(patched, SIZE), expected)

    def test_two_samplers_in_a_row_at_two_sizes(self, sd15):
        model = apply_msw_msa(sd15, MSWMSA())
        sizes = [(20, 26), (37, 18)]
        alone = [sample(model, size) for size in sizes]
        for _ in range(2):
            for size, expected in zip(sizes, alone, strict=True):
                assert torch.equal(sample(model, size), expected)

    def test_both_halves_of_the_guidance_in_one_call_or_two(self, sd15, watch, apart):
        base = sd15.clone()
        watcher = watch(base)
        model = apply_msw_msa(base, MSWMSA())
        together = sample(model, SIZE, steps=3)
        assert {call.batch for call in watcher.calls} == {2}
        watcher.calls.clear()
        apart(model)
        assert relative(sample(model, SIZE, steps=3), together) < 1e-5
        assert {call.batch for call in watcher.calls} == {1}


def quarters_of(model, config, steps=6, seed=0, run_unet=False, **settings):
    """Return how far the windows are moved, by model call and layer."""
    calls = []

    def record(executor, x, *args, **kwargs):
        plan = planned("msw_msa", x)
        calls.append(None if plan is None else plan.quarters)
        if plan is not None:
            assert tuple(plan.shifts.tolist()) == plan.quarters
        return executor(x, *args, **kwargs) if run_unet else x

    clone = apply_msw_msa(model, config)
    clone.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "record", record)
    sample(clone, (16, 12), steps=steps, seed=seed, **settings)
    return calls


class TestShifts:
    def test_they_follow_from_the_seed_and_the_noise_level(self, sd15):
        first = quarters_of(sd15, MSWMSA(), seed=5)
        assert len(first) == 6
        assert all(len(row) == 5 for row in first)
        assert len(set(first)) > 3
        assert quarters_of(sd15, MSWMSA(), seed=5) == first
        assert quarters_of(sd15, MSWMSA(), seed=6) != first
        assert quarters_of(sd15, MSWMSA(), seed=5, cfg=1.0) == first
        sampling = sd15.get_model_object("model_sampling")
        sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", 6)
        assert quarters_of(sd15, MSWMSA(), seed=5, sigmas=sigmas[2:]) == first[2:]
        assert quarters_of(sd15, MSWMSA(), seed=5, sigmas=sigmas[:5]) == first[:4]

    def test_a_window_that_begins_late_meets_the_same_shifts(self, sd15):
        whole = quarters_of(sd15, MSWMSA())
        late = quarters_of(sd15, MSWMSA(start_time=0.5))
        assert late[0] is None
        assert late[-1] is not None
        assert all(row in (None, same) for row, same in zip(late, whole, strict=True))

    def test_other_seeds_move_the_picture_too(self, sd15):
        """With the same noise, so that the windows alone tell the two runs apart."""
        model = apply_msw_msa(sd15, MSWMSA())

        def run(seed, model=model):
            latent = torch.randn(1, 4, *SIZE, generator=torch.Generator().manual_seed(1))
            conditions = [random_models.conditioning(model, number) for number in (1, 2)]
            with torch.inference_mode():
                return comfy.sample.sample(
                    model, torch.zeros_like(latent), 6, 7.0, "euler", "normal", *conditions, latent,
                    disable_noise=True, start_step=2, last_step=4, force_full_denoise=True,
                    disable_pbar=True, seed=seed,
                )  # fmt: skip

        assert torch.equal(run(3), run(3))
        assert not torch.equal(run(3), run(4))
        assert torch.equal(run(3, sd15), run(4, sd15))

    def test_a_single_late_step_repeats(self, sd15):
        model = apply_msw_msa(sd15, MSWMSA())
        latent = torch.randn(1, 4, *SIZE, generator=torch.Generator().manual_seed(1))
        first = sample(model, latent=latent, steps=1, denoise=0.5, seed=8)
        assert torch.equal(sample(model, latent=latent, steps=1, denoise=0.5, seed=8), first)
        assert not torch.equal(sample(sd15, latent=latent, steps=1, denoise=0.5, seed=8), first)

    @pytest.mark.parametrize("sampler", ["heun", "dpmpp_2s_ancestral"])
    def test_two_evaluations_at_one_noise_level_have_the_same_shifts(self, sd15, sampler):
        rows = quarters_of(sd15, MSWMSA(), steps=6, seed=2, sampler=sampler)
        assert len(rows) > 6
        assert len(dict.fromkeys(rows)) <= 6

    @pytest.mark.parametrize("strategy", ["increment", "decrement", "retry"])
    @pytest.mark.parametrize("mode", ["global", "block", "both", "ignore"])
    def test_never_the_shift_of_the_layer_before(self, sd15, mode, strategy):
        config = MSWMSA((1, 2), (0,), (9, 10, 11), last_shift_mode=mode, last_shift_strategy=strategy)
        rows = quarters_of(sd15, config, steps=40, seed=3)
        repeats = sum(one == after for row in rows for one, after in pairwise(row))
        assert {quarter for row in rows for quarter in row} == {0, 1, 2, 3}
        assert (repeats == 0) == (mode in ("global", "both"))

    @pytest.mark.parametrize(("strategy", "step"), [("increment", 1), ("decrement", 3)])
    def test_a_strategy_moves_on_from_the_draw_that_would_repeat(self, sd15, strategy, step):
        drawn = quarters_of(sd15, MSWMSA(last_shift_mode="ignore"), steps=20)
        moved = quarters_of(sd15, MSWMSA(last_shift_mode="global", last_shift_strategy=strategy), steps=20)
        for free, row in zip(drawn, moved, strict=True):
            expected = []
            for quarter in free:
                expected.append((quarter + step) % 4 if expected[-1:] == [quarter] else quarter)
            assert row == tuple(expected)


class TestSpeed:
    def test_nothing_inside_the_unet_waits_for_the_device(self, sd15):
        msw_msa._cached_indices.cache_clear()
        assert syncs_inside_the_unet(sd15) == 0
        assert syncs_inside_the_unet(apply_msw_msa(sd15, MSWMSA())) == 0
        assert syncs_inside_the_unet(apply_msw_msa(sd15, MSWMSA(windows="native", trained_size=64))) == 0

    @pytest.mark.parametrize(
        "read", [lambda t: t.sum().item(), lambda t: t[0, 0].tolist(), lambda t: bool(t.any())]
    )
    def test_the_count_above_sees_a_number_that_is_read(self, sd15, read):
        reading = sd15.clone()

        def patch(tokens, context, value, options):
            read(tokens)
            return tokens, context, value

        reading.set_model_attn1_patch(patch)
        assert syncs_inside_the_unet(reading) >= 3 * 15  # layers with self-attention, in each step

    def test_shifts_that_change_cause_no_new_graphs(self, two_levels, compiled):
        model = apply_msw_msa(two_levels, MSWMSA((3,), (), (0, 1)))
        assert len(set(quarters_of(model, MSWMSA((3,), (), (0, 1))))) > 3
        ours, backend = compiled(model)
        result = sample(ours, (40, 52), steps=6, cfg=1.0)
        assert backend.added[0] > 0
        assert backend.added[1:] == [0] * 5
        assert relative(result, sample(model, (40, 52), steps=6, cfg=1.0)) < 1e-5
        assert not torch.equal(result, sample(two_levels, (40, 52), steps=6, cfg=1.0))
        sample(ours, (40, 52), steps=6, cfg=1.0, seed=9)
        assert not any(backend.added[6:])


# What the host's own nodes lay on a model, with settings that are in force at these sizes.
NEIGHBOURS = {
    "HyperTile": lambda model: HyperTile.execute(model, 64, 4, 1, False)[0],
    "ToMe": lambda model: TomePatchModel.execute(model, 0.4)[0],
    "SAG": lambda model: SelfAttentionGuidance.execute(model, 0.6, 2.0)[0],
    "PAG": lambda model: PerturbedAttentionGuidance.execute(model, 3.0)[0],
    "FreeU": lambda model: FreeU_V2.execute(model, 1.3, 1.4, 0.9, 0.2)[0],
}


def repeatable(model, size, steps=2):
    """Sample with the global random state set, for neighbours that draw from it, and left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return sample(model, size, steps=steps)


class TestNeighbours:
    @pytest.mark.parametrize(("name", "size"), zip(NEIGHBOURS, cycle([(32, 24), (24, 40)])))
    def test_in_both_orders(self, sd15, name, size):
        lay = NEIGHBOURS[name]
        before, neighbour = repeatable(sd15, size), repeatable(lay(sd15), size)
        assert not torch.equal(neighbour, before)
        for middle in ((), (0,)):
            config = MSWMSA(middle_blocks=middle)
            alone = repeatable(apply_msw_msa(sd15, config), size)
            both = []
            for model in (apply_msw_msa(lay(sd15), config), lay(apply_msw_msa(sd15, config))):
                result = repeatable(model, size)
                assert result.isfinite().all()
                assert not torch.equal(result, alone)
                # At the level where one of these changes the tokens there is no grid, so windows are skipped.
                assert torch.equal(result, neighbour) == (name in ("HyperTile", "ToMe") and not middle)
                both.append(result)
            assert torch.equal(*both)
            assert torch.equal(repeatable(model, size), result)
        assert torch.equal(repeatable(sd15, size), before)

    @pytest.mark.parametrize("ours_first", [True, False])
    def test_where_tokens_are_no_grid_the_windows_step_aside_and_say_so_once(self, sd15, caplog, ours_first):
        lay, windows = NEIGHBOURS["ToMe"], lambda model: apply_msw_msa(model, MSWMSA())
        model = lay(windows(sd15)) if ours_first else windows(lay(sd15))
        with caplog.at_level(logging.INFO, "megapixel"):
            result = repeatable(model, (32, 24), steps=3)
        assert torch.equal(result, repeatable(lay(sd15), (32, 24), steps=3))
        said = [record.message for record in caplog.records if ": skipped " in record.message]
        assert sorted(said) == sorted(
            f"MSW-MSA: skipped {kind} block {number}, because its tokens are not those of the image"
            for kind, number in BLOCKS
        )

    def test_a_later_node_is_not_disturbed_by_the_order_of_one_run(self, sd15):
        """Ours goes innermost in a run's own lists; those of the model stay as they were laid."""
        model = NEIGHBOURS["ToMe"](apply_msw_msa(sd15, MSWMSA()))
        lists = {
            name: list(each) for name, each in model.model_options["transformer_options"]["patches"].items()
        }
        repeatable(model, (32, 24))
        assert model.model_options["transformer_options"]["patches"] == lists
        assert lists["attn1_patch"][0] is msw_msa._partition


class TestBadInput:
    @pytest.mark.parametrize(
        ("socket", "block", "valid"),
        [
            ("input_blocks", 3, "1, 2, 4, 5, 7, 8"),
            ("input_blocks", 40, "1, 2, 4, 5, 7, 8"),
            ("middle_blocks", 1, "0"),
            ("output_blocks", 2, "3, 4, 5, 6, 7, 8, 9, 10, 11"),
            ("output_blocks", -1, "3, 4, 5, 6, 7, 8, 9, 10, 11"),
        ],
    )
    def test_a_block_without_attention(self, sd15, socket, block, valid):
        with pytest.raises(
            ValueError,
            match=rf"^{socket}: expected blocks with attention \({valid} in this UNet\), got {block}\. Choose",
        ):
            apply_msw_msa(sd15, MSWMSA(**{socket: (block,)}))

    def test_the_blocks_are_those_of_the_model_at_hand(self, sdxl):
        with pytest.raises(
            ValueError, match=r"^input_blocks: .* \(4, 5, 7, 8 in this UNet\), got 1\. Choose"
        ):
            apply_msw_msa(sdxl, MSWMSA())
        apply_msw_msa(sdxl, original_preset(topology_of(sdxl.get_model_object("diffusion_model"))))

    def test_a_model_without_input_blocks(self):
        with pytest.raises(ValueError, match=r"^model: expected an SD 1\.x, .*, got Flux\. [A-Z]"):
            apply_msw_msa(random_models.flux(), MSWMSA())

    @pytest.mark.parametrize("settings", [{"windows": "native"}, {"above_trained_size": True}])
    def test_a_family_whose_trained_size_is_not_known(self, sd15, monkeypatch, settings):
        monkeypatch.setattr(sd15.model, "latent_format", object())
        apply_msw_msa(sd15, MSWMSA())
        apply_msw_msa(sd15, MSWMSA(trained_size=512, **settings))
        with pytest.raises(
            ValueError,
            match=r"^trained_size: expected a size in pixels, because the trained size of BaseModel is unknown, got 0\. Enter",
        ):
            apply_msw_msa(sd15, MSWMSA(**settings))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (MSWMSA((), (), ()), ": nothing to do (no block is set, or start_time is after end_time)"),
        (MSWMSA(start_time=1.0, end_time=0.0), ": nothing to do (no block is set, or start_time"),
        (MSWMSA(windows="native", trained_size=128), "windows native, trained_size 128"),
        (MSWMSA(time_mode="steps", end_time=0.5), "start_time 0, end_time 0.5 steps, windows 2x2"),
    ],
    ids=["no block", "never", "native", "steps"],
)
def test_the_log_line_says_what_will_happen(sd15, caplog, settings, told):
    with caplog.at_level(logging.INFO, "megapixel"):
        sample(apply_msw_msa(sd15, settings), steps=2, cfg=1.0)
    assert told in caplog.text

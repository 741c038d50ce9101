"""When effects are on follows from the noise level: a run over two samplers is one run,
and the level is read once.
"""

from __future__ import annotations

import comfy.samplers
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from megapixel.attention.instant_id import FaceKeys
from megapixel.patches.deep_shrink import DeepShrink, apply_deep_shrink
from megapixel.patches.hidiffusion import HiDiffusion, apply_hidiffusion
from megapixel.patches.instant_id import Person, apply_instant_id, cross_attentions
from megapixel.patches.model_call import first_call
from megapixel.patches.msw_msa import MSWMSA, apply_msw_msa
from megapixel.patches.rau_net import apply_rau_net
from megapixel.patches.rau_net_settings import RAUNet
from megapixel.patches.wrapper import effects_of

from devhost.sampling import sample

from .conftest import HostSyncs, split

SIZE, SMALL = (32, 28), (24, 20)
STEPS = 4
EFFECTS = {
    "nothing": lambda model: model,
    "Deep Shrink": lambda model: apply_deep_shrink(model, DeepShrink(end_percent=0.4, fade_percent=0.4)),
    "Deep Shrink auto": lambda model: apply_deep_shrink(model, DeepShrink(mode="auto", trained_size=128)),
    "RAU-Net": lambda model: apply_rau_net(model, RAUNet()),
    "RAU-Net in sigmas": lambda model: apply_rau_net(
        model, RAUNet(time_mode="sigma", start_time=20, end_time=1.5, ca_start_time=20, ca_end_time=3)
    ),
    "MSW-MSA": lambda model: apply_msw_msa(model, MSWMSA(start_time=0.2)),
    "MSW-MSA in timesteps": lambda model: apply_msw_msa(
        model, MSWMSA(time_mode="timestep", start_time=999, end_time=200)
    ),
    "HiDiffusion": lambda model: apply_hidiffusion(model, HiDiffusion(trained_size=128)),
    "InstantID": lambda model: with_face(model, start_at=0.2, end_at=0.7),
}
ALWAYS = {
    "windows of the trained size": lambda model: apply_msw_msa(
        model, MSWMSA(windows="native", trained_size=64)
    ),
    "HiDiffusion published": lambda model: apply_hidiffusion(
        model, HiDiffusion(mode="published", trained_size=128)
    ),
    "a face in a mask": lambda model: with_face(model, mask=torch.linspace(0, 1, 64).repeat(2, 64, 1)),
    "all together": lambda model: with_face(EFFECTS["HiDiffusion"](EFFECTS["RAU-Net"](model)), end_at=0.5),
}


def with_face(model, **settings):
    """Put a random face on any UNet."""
    widths = tuple(cross_attentions(model.get_model_object("diffusion_model")).values())
    keys = torch.randn(2, 2, 4, sum(widths), generator=torch.Generator().manual_seed(0))
    return apply_instant_id(model, Person(FaceKeys(keys, widths), **settings))


def sigmas_of(model, steps=STEPS):
    return comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", steps)


@pytest.mark.parametrize("sampler", ["euler", "heun"])
@pytest.mark.parametrize("effect", EFFECTS)
def test_a_run_over_two_samplers_is_the_whole_run(sd15, effect, sampler):
    model, sigmas = EFFECTS[effect](sd15), sigmas_of(sd15)
    whole = sample(model, SIZE, sampler=sampler, sigmas=sigmas, seed=3, cfg=2.0)
    for cut in range(1, STEPS):
        first = sample(model, SIZE, sampler=sampler, sigmas=sigmas[: cut + 1], seed=3, cfg=2.0)
        both = sample(
            model,
            sampler=sampler,
            sigmas=sigmas[cut:],
            seed=3,
            cfg=2.0,
            latent=first,
            noise=torch.zeros_like(first),
        )
        assert (both - whole).norm() < 1e-5 * whole.norm(), cut


@pytest.mark.parametrize(
    ("first", "last", "counted"),
    [(0, 4, None), (0, 2, "the 2 steps"), (2, 4, "the 2 steps"), (1, 2, "the one step")],
)
@pytest.mark.parametrize("effect", ["RAU-Net", "MSW-MSA"])
def test_shares_of_the_steps_of_a_part_are_logged(sd15, effect, first, last, counted):
    if effect == "RAU-Net":
        model = apply_rau_net(sd15, RAUNet(time_mode="steps", end_time=0.4, ca_end_time=0.4))
    else:
        model = apply_msw_msa(sd15, MSWMSA(time_mode="steps"))
    sigmas = sigmas_of(sd15)[first : last + 1]
    [only] = effects_of(model).values()
    line = only.log_line(start := first_call(model, SIZE, sigmas), only.why_idle(start))
    assert ("of this run only" in line) == (counted is not None)
    assert counted is None or f"shares of {counted} of this run only" in line
    assert ("nothing to do" in line) == (effect == "RAU-Net" and counted is not None)  # int(0.4 * 2) is 0


def reads(model, **settings):
    """Return how often each evaluation of a run takes a number out of a tensor."""
    counts = []

    def count(executor, *args, **kwargs):
        syncs = HostSyncs()
        result = syncs.watch(executor, *args, **kwargs)
        counts.append(syncs.count)
        return result

    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "count", count)
    sample(clone, SMALL, steps=3, **settings)
    return counts


NEVER = {
    "the trained size": lambda model: apply_hidiffusion(model, HiDiffusion()),
    "the trained size, published": lambda model: apply_hidiffusion(model, HiDiffusion(mode="published")),
    "factor 1": lambda model: apply_deep_shrink(model, DeepShrink(downscale_factor=1.0)),
    "no blocks": lambda model: apply_rau_net(
        model, RAUNet(input_blocks=(), output_blocks=(), ca_input_blocks=(), ca_output_blocks=())
    ),
    "weight 0": lambda model: with_face(model, weight=0.0),
    "a black mask": lambda model: with_face(model, mask=torch.zeros(1, 8, 8)),
    "a face without a window": with_face,
}


@pytest.fixture(scope="module")
def plain_reads(sd15):
    return reads(sd15)


@pytest.fixture(scope="module")
def plain_reads_apart(sd15):
    with pytest.MonkeyPatch.context() as patch:
        split(sd15, patch)
        return reads(sd15)


@pytest.mark.parametrize("effect", NEVER)
def test_an_effect_that_needs_no_noise_level_reads_nothing(sd15, plain_reads, effect):
    ours = NEVER[effect](sd15)
    sample(ours, SMALL, steps=1)  # copies to the device what stays there
    assert reads(ours) == plain_reads


def test_a_window_outside_the_run_reads_nothing(sd15):
    early = apply_deep_shrink(
        apply_rau_net(sd15, RAUNet(end_time=0.3, ca_end_time=0.3)), DeepShrink(end_percent=0.3)
    )
    early = with_face(apply_msw_msa(early, MSWMSA(end_time=0.3)), end_at=0.3)
    assert reads(early, denoise=0.4) == reads(sd15, denoise=0.4)


@pytest.mark.parametrize("effect", [name for name in (*EFFECTS, *ALWAYS) if name != "nothing"])
def test_every_other_reads_the_noise_level_once_a_step(sd15, apart, plain_reads_apart, effect):
    apart(sd15)  # one call for each half of the guidance
    model = {**EFFECTS, **ALWAYS}[effect](sd15)
    sample(model, SMALL, steps=3)  # copies to the device what stays there
    ours = reads(model)
    assert all(mine - without <= 1 for mine, without in zip(ours, plain_reads_apart, strict=True))
    assert (ours != plain_reads_apart) == (effect != "a face in a mask")

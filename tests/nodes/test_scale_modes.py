"""The scale modes of the ComfyUI-bleh pack: offered and used where it is loaded, never needed."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
from megapixel.host.scale_modes import SCALE_MODES, resize, scale_modes
from megapixel.host.upsample import reaches_upsample
from megapixel.nodes.rau_net import MegapixelRAUNet, MegapixelRAUNetSimple
from megapixel.patches.rau_net import apply_rau_net
from megapixel.patches.rau_net_settings import RAUNet

from devhost.sampling import sample

EXTRA = ("adaptive_avg_pool2d", "doubled", "short")


def scale_samples(samples, width, height, *, mode="bicubic", sigma=None):
    """As that pack's function is called; twice the host's nearest, so that it shows."""
    if mode == "short":
        height -= 1
    return torch.nn.functional.interpolate(samples, (height, width), mode="nearest") * 2


@pytest.fixture
def loaded(monkeypatch):
    """A function (name) that registers a module with scale modes under that name until the test ends."""

    def load(name):
        module = ModuleType(name)
        module.UPSCALE_METHODS = ("bicubic", "nearest-exact", "area", *EXTRA)
        module.scale_samples = scale_samples
        monkeypatch.setitem(sys.modules, name, module)
        return module

    return load


def options(node):
    return {socket.id: socket.options for socket in node.define_schema().inputs if hasattr(socket, "options")}


@pytest.mark.parametrize(
    "folder",
    ["/opt/comfy/custom_nodes/ComfyUI-bleh", "C:\\comfy\\custom_nodes\\comfyui-bleh", "custom_nodes.ComfyUI-bleh",
     "bleh"],
)  # fmt: skip
def test_they_are_found_by_the_name_that_the_host_gives_a_pack(loaded, folder):
    assert scale_modes() == SCALE_MODES
    loaded(f"{folder}.py.latent_utils")
    assert scale_modes() == (*SCALE_MODES, *EXTRA)


@pytest.mark.parametrize(
    "name",
    [
        "/x/ComfyUI-other.py.latent_utils",
        "/bleh/other.py.latent_utils",
        "/x/ComfyUI-bleh.py.latent_utils.more",
    ],
)
def test_modules_of_others_are_left_alone(loaded, name):
    loaded(name)
    assert scale_modes() == SCALE_MODES


def test_a_module_without_them_is_left_alone(loaded):
    del loaded("ComfyUI-bleh.py.latent_utils").scale_samples
    assert scale_modes() == SCALE_MODES


def test_they_are_offered_behind_the_hosts_own(loaded):
    before = {node: options(node) for node in (MegapixelRAUNet, MegapixelRAUNetSimple)}
    loaded("/x/ComfyUI-bleh.py.latent_utils")
    for node, known in before.items():
        for name, choices in options(node).items():
            added = [mode for mode in EXTRA if mode not in known[name]] if "scale_mode" in name else []
            assert choices == known[name] + added
    assert options(MegapixelRAUNet)["two_stage_upscale_mode"][0] == "disabled"
    assert options(MegapixelRAUNetSimple)["ca_upscale_mode"][-1] == "short"


def test_features_are_resized_by_that_pack_in_its_own_modes_alone(loaded, draw):
    features = draw(2, 3, 5, 7)
    own = {mode: resize(features, (10, 4), mode) for mode in SCALE_MODES}
    loaded("/x/ComfyUI-bleh.py.latent_utils")
    assert all(torch.equal(resize(features, (10, 4), mode), own[mode]) for mode in SCALE_MODES)
    assert torch.equal(resize(features, (10, 4), "doubled"), own["nearest"] * 2)


def test_a_mode_that_misses_the_size_is_an_error_message(loaded, draw):
    loaded("/x/ComfyUI-bleh.py.latent_utils")
    with pytest.raises(
        ValueError, match=r"^scale mode: expected one that makes 10x4 features, got short\. Choose"
    ):
        resize(draw(1, 3, 5, 7), (10, 4), "short")


def test_a_mode_that_nobody_knows_is_an_error_message(loaded, draw):
    sentence = r"^scale mode: expected one of bicubic, .*, got doubled\. Choose"
    with pytest.raises(ValueError, match=sentence):
        resize(draw(1, 3, 5, 7), (10, 4), "doubled")
    loaded("/x/ComfyUI-bleh.py.latent_utils")
    with pytest.raises(ValueError, match=sentence.replace("doubled", "tripled")):
        resize(draw(1, 3, 5, 7), (10, 4), "tripled")


@pytest.mark.skipif(not reaches_upsample(), reason="this ComfyUI offers no Upsample to patches")
def test_a_node_samples_with_them(loaded, sd15):
    loaded("/x/ComfyUI-bleh.py.latent_utils")
    shown = {name: choices[0] for name, choices in options(MegapixelRAUNetSimple).items()}
    [model] = MegapixelRAUNetSimple.execute(model=sd15, **shown | {"upscale_mode": "doubled"}).args
    # Twice the features into the same convolution: a multiplier ahead of it does the same.
    same = RAUNet(
        (3,), (8,), end_time=0.5, upscale_mode="nearest", ca_input_blocks=(1,), ca_output_blocks=(11,),
        ca_end_time=0.35, pre_upscale_multiplier=2.0,
    )  # fmt: skip
    result = sample(model, cfg=1.0)
    assert torch.equal(result, sample(apply_rau_net(sd15, same), cfg=1.0))
    other = sample(MegapixelRAUNetSimple.execute(model=sd15, **shown).args[0], cfg=1.0)
    assert not torch.equal(result, other)

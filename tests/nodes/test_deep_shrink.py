from __future__ import annotations

import pytest
import torch
from comfy_extras.nodes_model_downscale import PatchModelAddDownscale
from megapixel.nodes.deep_shrink import MegapixelDeepShrink

from devhost.sampling import sample

KNOWN = {
    "block_number": 3, "downscale_factor": 2.0, "start_percent": 0.0, "end_percent": 0.35,
    "downscale_after_skip": True, "downscale_method": "bicubic", "upscale_method": "bicubic",
}  # fmt: skip


def test_the_original_inputs_alone_give_the_known_picture(sd15):
    [ours] = MegapixelDeepShrink.execute(model=sd15, **KNOWN).args
    [host] = PatchModelAddDownscale.execute(sd15, **KNOWN).args
    assert torch.equal(sample(ours, steps=4), sample(host, steps=4))


def test_original_inputs_come_first_with_the_known_defaults_and_ranges():
    host = PatchModelAddDownscale.GET_SCHEMA().get_v1_info(PatchModelAddDownscale).input["required"]
    ours = MegapixelDeepShrink.GET_SCHEMA().get_v1_info(MegapixelDeepShrink).input["required"]
    assert list(ours) == list(host)
    for name, (kind, options) in host.items():
        assert ours[name][0] == kind
        for key in ("default", "min", "max", "step", "options"):
            assert ours[name][1].get(key) == options.get(key) or (key, name) == ("step", "block_number")


def test_a_fresh_node_shows_the_numbers_that_it_uses(sd15):
    """The widgets' defaults and the defaults of a prompt that leaves inputs out are the same."""
    schema = MegapixelDeepShrink.GET_SCHEMA()
    widgets = {
        socket.id: socket.default for socket in schema.inputs if getattr(socket, "default", None) is not None
    }
    [by_widgets] = MegapixelDeepShrink.execute(model=sd15, **KNOWN | widgets).args
    [by_prompt] = MegapixelDeepShrink.execute(model=sd15, **KNOWN).args
    assert torch.equal(sample(by_widgets, steps=4), sample(by_prompt, steps=4))


@pytest.mark.parametrize(
    ("socket", "settings"),
    [("block_number", {"block_number": 32}), ("start_percent", {"start_percent": 0.9})],
)
def test_bad_input_names_its_socket(sd15, socket, settings):
    with pytest.raises(ValueError, match=rf"^{socket}: expected .*, got .*\. [A-Z].*"):
        MegapixelDeepShrink.execute(model=sd15, **KNOWN | settings)

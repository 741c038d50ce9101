from __future__ import annotations

import pytest
import torch
from megapixel.nodes.hidiffusion import MegapixelHiDiffusion
from megapixel.patches.hidiffusion import HiDiffusion, apply_hidiffusion

from devhost.sampling import sample
from devhost.tiny import random_models


def test_a_fresh_node_does_what_it_shows(sd15):
    schema = MegapixelHiDiffusion.GET_SCHEMA()
    shown = {socket.id: getattr(socket, "default", None) for socket in schema.inputs if socket.id != "model"}
    shown |= {socket.id: socket.options[0] for socket in schema.inputs if getattr(socket, "options", None)}
    shown["trained_size"] = 128
    [by_widgets] = MegapixelHiDiffusion.execute(model=sd15, **shown).args
    [by_prompt] = MegapixelHiDiffusion.execute(model=sd15, trained_size=128, mode="auto").args
    direct = apply_hidiffusion(sd15, HiDiffusion(trained_size=128))
    pictures = [sample(model, (40, 32), steps=3) for model in (by_widgets, by_prompt, direct)]
    assert torch.equal(pictures[0], pictures[1])
    assert torch.equal(pictures[0], pictures[2])
    assert not torch.equal(pictures[0], sample(sd15, (40, 32), steps=3))


def test_one_switch_is_all_that_is_required():
    required = MegapixelHiDiffusion.GET_SCHEMA().get_v1_info(MegapixelHiDiffusion).input["required"]
    assert list(required) == ["model", "mode"]


def test_a_model_without_input_blocks_is_an_error_message():
    with pytest.raises(ValueError, match=r"^model: expected an SD 1\.x, .*, got Flux\. Models without"):
        MegapixelHiDiffusion.execute(model=random_models.flux(), mode="auto")

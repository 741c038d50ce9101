from __future__ import annotations

import pytest
import torch
from megapixel.patches.topology import topology_of

from devhost.tiny import random_models


def unet(model):
    return model.get_model_object("diffusion_model")


def test_sd15(sd15):
    topology = topology_of(unet(sd15))
    assert (len(topology.inputs), len(topology.outputs)) == (12, 12)
    assert topology.downsamplers == (3, 6, 9)
    assert [i for i, block in enumerate(topology.outputs) if block.resample == "up"] == [2, 5, 8]
    assert [i for i, block in enumerate(topology.inputs) if block.transformers] == [1, 2, 4, 5, 7, 8]
    assert [i for i, block in enumerate(topology.outputs) if block.transformers] == list(range(3, 12))
    assert topology.middle.transformers == 1


def test_sdxl():
    topology = topology_of(unet(random_models.sdxl()))  # with transformers of ten layers
    assert (len(topology.inputs), len(topology.outputs)) == (9, 9)
    assert topology.downsamplers == (3, 6)
    assert [i for i, block in enumerate(topology.outputs) if block.resample == "up"] == [2, 5]
    assert [block.transformers for block in topology.inputs] == [0, 0, 0, 0, 2, 2, 0, 10, 10]
    assert [block.transformers for block in topology.outputs] == [10, 10, 10, 2, 2, 2, 0, 0, 0]
    assert topology.middle.transformers == 10


def test_skip_partner_is_its_own_inverse(sd15, sdxl):
    for model in (sd15, sdxl):
        topology = topology_of(unet(model))
        for block in range(len(topology.inputs)):
            assert topology.skip_partner(topology.skip_partner(block)) == block
    assert topology_of(unet(sd15)).skip_partner(3) == 8
    assert topology_of(unet(sdxl)).skip_partner(3) == 5


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
@pytest.mark.parametrize("size", [(32, 24), (33, 17), (5, 9)])
def test_feature_sizes_are_those_of_the_running_unet(family, size, request, record_sizes):
    from devhost.sampling import sample

    model = request.getfixturevalue(family)
    topology = topology_of(unet(model))
    clone = model.clone()
    recorders = [record_sizes(clone, block) for block in range(len(topology.inputs))]
    sample(clone, size, steps=1, cfg=1.0)
    for block, recorder in enumerate(recorders):
        assert recorder.sizes == [topology.feature_size(size, block)]


def test_block_numbers_are_checked_against_the_unet(sdxl):
    topology = topology_of(unet(sdxl))
    for block in range(1, 9):
        topology.check_input_block(block, "block_number")
    for block in (-1, 0, 9, 40):
        with pytest.raises(
            ValueError, match=rf"^block_number: expected 1 to 8 for this UNet, got {block}\. "
        ):
            topology.check_input_block(block, "block_number")


def test_a_model_without_blocks_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match=r"^model: expected an SD 1\.x, .*, got Identity\. "):
        topology_of(torch.nn.Identity())

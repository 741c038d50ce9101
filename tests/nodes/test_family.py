from __future__ import annotations

import re

import pytest
from megapixel.nodes.hidiffusion_sockets import check_model_type
from megapixel.patches.topology import topology_of


@pytest.mark.parametrize(("family", "right", "wrong"), [("sd15", "SD15", "SDXL"), ("sdxl", "SDXL", "SD15")])
def test_a_family_that_the_model_is_not_is_an_error_message(request, family, right, wrong):
    topology = topology_of(request.getfixturevalue(family).model.diffusion_model)
    check_model_type("auto", topology)
    check_model_type(right, topology)
    sentence = f"model_type: expected {right} for this model, got {wrong}. Choose auto"
    with pytest.raises(ValueError, match="^" + re.escape(sentence)):
        check_model_type(wrong, topology)

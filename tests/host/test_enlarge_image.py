"""The image that Upscale SEGS enlarges first: its messages name the inputs of that node."""

from __future__ import annotations

import pytest
import torch
from megapixel.host.segs import Enlargement, enlarge_image

from devhost.tiny.random_upscalers import random_upscaler


def test_something_else_than_an_upscale_model_is_named_by_this_nodes_socket():
    image = torch.full((1, 16, 16, 3), 0.5)
    for method in ("lanczos", "bilinear"):
        with pytest.raises(ValueError, match=r"^upscale_model_opt: expected a model from Load Upscale Model"):
            enlarge_image(image, Enlargement(upscale_model=object(), resampling_method=method), (32, 32))


def test_too_little_memory_for_the_models_own_size_advises_what_needs_less():
    image = torch.full((1, 1, 1, 3), 0.5).expand(64, 16384, 16384, 3)  # one pixel in memory
    enlargement = Enlargement(
        rescale_factor=0.01, resampling_method="bilinear", upscale_model=random_upscaler("Compact 16x4")
    )
    sentence = (
        r"^image: expected a result that fits .* got .* for 64 of 65536x65536\. Use resampling_method lanczos"
    )
    with torch.inference_mode(), pytest.raises(MemoryError, match=sentence):
        enlarge_image(image, enlargement, (164, 164))

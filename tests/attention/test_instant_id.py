"""InstantID's network against slow literal transcriptions of the published method."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from megapixel.attention.instant_id import (
    FaceKeys,
    InstantID,
    attend_to_face,
    combine_embeddings,
    negative_embedding,
    projection_key,
    shapes_of,
)
from megapixel.attention.resampler import ResamplerShape

from devhost.tiny.random_faces import attention_widths, instant_id_state

SMALL = {
    "model_channels": 32, "channel_mult": (1, 2), "num_res_blocks": [1, 1], "transformer_depth": [1, 2],
    "transformer_depth_output": [1, 0, 2, 1], "transformer_depth_middle": 3, "context_dim": 96,
}  # fmt: skip


def attend(q, k, v, heads):
    """Plain attention by its definition, in double precision."""
    parts = []
    for head in range(heads):
        width = q.shape[-1] // heads
        own = slice(head * width, (head + 1) * width)
        scores = q[..., own].double() @ k[..., own].double().mT / math.sqrt(width)
        parts.append(scores.softmax(-1) @ v[..., own].double())
    return torch.cat(parts, -1).to(q.dtype)


def network_of(state):
    network = InstantID(*shapes_of(state), attend)
    network.load_state_dict(state)
    return network.requires_grad_(False)


def read_face(state, embedding, heads, depth):
    """InstantID's resampler, one face, step by step."""
    w = {name.removeprefix("image_proj."): value for name, value in state.items()}

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0)

    def norm(x, name):
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]

    source = linear(embedding[None], "proj_in")  # (1, D)
    queries = w["latents"][0]  # (T, D)
    for i in range(depth):
        read = f"layers.{i}.0"
        a, b = norm(source, f"{read}.norm1"), norm(queries, f"{read}.norm2")
        q = linear(b, f"{read}.to_q")
        k, v = linear(torch.cat([a, b]), f"{read}.to_kv").chunk(2, -1)
        queries = queries + linear(attend(q[None], k[None], v[None], heads)[0], f"{read}.to_out")
        wide = linear(norm(queries, f"layers.{i}.1.0"), f"layers.{i}.1.1")
        queries = queries + linear(0.5 * wide * (1 + torch.erf(wide / math.sqrt(2))), f"layers.{i}.1.3")
    return norm(linear(queries, "proj_out"), "norm_out")


@pytest.fixture(scope="module")
def state():
    return instant_id_state(SMALL, tokens=5)


@pytest.fixture(scope="module")
def network(state):
    return network_of(state)


class TestNetwork:
    def test_sizes_are_read_from_the_weights(self, state):
        shape, widths = shapes_of(state)
        assert shape == ResamplerShape(512, 128, 128, 512, 5, 96, 2)
        assert list(widths) == attention_widths(SMALL) == [32, 64, 64, 64, 64, 64, 32, 64, 64, 64]

    @pytest.mark.parametrize(
        "name", ["image_proj.latents", "image_proj.proj_in.weight", "ip_adapter.1.to_k_ip.weight"]
    )
    def test_a_missing_weight_is_named(self, state, name):
        with pytest.raises(KeyError) as error:
            shapes_of({other: value for other, value in state.items() if other != name})
        if name.startswith("image_proj"):
            assert error.value.args == (name,)
        else:
            assert error.value.args[0].startswith("ip_adapter.")

    def test_the_published_sizes_are_the_defaults(self):
        with torch.device("meta"):
            network = InstantID(ResamplerShape(), [640] * 10 + [1280] * 60, attend)
        counts = {name: value.numel() for name, value in network.named_parameters()}
        assert sum(n for name, n in counts.items() if name.startswith("ip_adapter")) == 340_787_200
        assert len(counts) == 140 + 1 + 6 + 4 * 11
        assert "ip_adapter.139.to_v_ip.weight" in counts

    def test_tokens_are_those_of_the_transcription(self, state, network, draw):
        faces = 20 * draw(3, 512) - 10
        expected = torch.stack([read_face(state, face, heads=2, depth=2) for face in faces])
        assert network.tokens(faces).shape == (3, 5, 96)
        assert torch.allclose(network.tokens(faces), expected, atol=1e-5)

    def test_keys_and_values_lie_side_by_side_in_the_order_of_the_layers(self, state, network, draw):
        tokens = draw(2, 5, 96)
        packed = network.project(tokens)
        assert packed.shape == (2, 2, 5, sum(network.widths))
        face = FaceKeys(packed, network.widths)
        for number, width in enumerate(network.widths):
            assert face.packed[..., face.span(number)].shape[-1] == width
            for kind, name in enumerate(("to_k_ip", "to_v_ip")):
                expected = tokens @ state[f"ip_adapter.{projection_key(number)}.{name}.weight"].T
                assert torch.allclose(face.packed[:, kind, :, face.span(number)], expected, atol=1e-5)

    def test_layers_are_numbered_by_odd_keys(self):
        assert [projection_key(number) for number in (0, 1, 69)] == ["1", "3", "139"]


class TestAttention:
    @pytest.mark.parametrize(("conditions", "pictures"), [(1, 1), (2, 1), (3, 2)])
    def test_each_picture_attends_to_the_face_of_its_conditioning(self, draw, conditions, pictures):
        queries = draw(conditions * pictures, 35, 24)
        keys, values = draw(conditions, 7, 24, seed=1), draw(conditions, 7, 24, seed=2)
        expected = torch.cat(
            [
                attend(queries[i : i + 1], keys[i // pictures][None], values[i // pictures][None], 3)
                for i in range(conditions * pictures)
            ]
        )
        assert torch.allclose(attend_to_face(queries, keys, values, 3, attend), expected, atol=1e-6)

    def test_a_weight_scales_the_values_and_thereby_the_result(self, draw):
        packed = draw(2, 2, 7, 24)
        weighted = FaceKeys(packed, (24,)).weighted(-0.3)
        assert torch.equal(weighted[:, 0], packed[:, 0])
        q = draw(2, 9, 24, seed=1)
        plain = attend_to_face(q, *packed.unbind(1), 3, attend)
        assert torch.allclose(attend_to_face(q, *weighted.unbind(1), 3, attend), -0.3 * plain, atol=1e-6)


class TestEmbeddings:
    def test_one_is_kept_as_it_is(self, draw):
        one = draw(1, 512)
        for how in ("average", "norm average", "concat"):
            assert torch.equal(combine_embeddings(one, how), one)

    def test_several(self, draw):
        faces = draw(3, 512) - 0.5
        assert torch.allclose(combine_embeddings(faces, "average"), (faces[:1] + faces[1:2] + faces[2:]) / 3)
        norms = faces.square().sum(0).sqrt()
        assert torch.allclose(
            combine_embeddings(faces, "norm average"), sum(face / norms for face in faces)[None] / 3
        )
        assert torch.equal(combine_embeddings(faces, "concat"), faces)

    @pytest.mark.parametrize("sign", [1, -1])
    def test_noise_is_the_known_one_and_follows_from_the_face(self, draw, sign):
        face = sign * 30 * draw(1, 512)
        noise = negative_embedding(face, 0.35)
        known = torch.Generator().manual_seed(int(face.sum().item()) % 1000000007)
        assert torch.equal(noise, 0.35 * torch.rand(1, 512, generator=known))
        assert torch.equal(noise, negative_embedding(face, 0.35))
        assert not torch.equal(noise, negative_embedding(face + 1, 0.35))

    def test_no_noise_is_zeros_for_a_face_of_negative_sum_too(self, draw):
        face = -draw(2, 512)
        assert torch.equal(negative_embedding(face, 0.0), torch.zeros(2, 512))
        assert negative_embedding(face, 1.0).shape == (2, 512)
        assert F.relu(negative_embedding(face, 1.0)).max() > 0.9

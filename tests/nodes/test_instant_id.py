"""The nodes of InstantID: drawn faces, the real insightface, files of random weights,
tiny real SDXL models.
"""

from __future__ import annotations

import gc
import logging
import os
import pickle
import re
import weakref
from types import SimpleNamespace

import comfy.memory_management
import folder_paths
import numpy as np
import pytest
import safetensors.torch
import torch
from megapixel.attention.instant_id import combine_embeddings, negative_embedding
from megapixel.faces.draw import draw_keypoints
from megapixel.host.instant_id_files import instant_id_files, offer_instant_id_folder
from megapixel.nodes.instant_id import (
    MegapixelInstantIDApply,
    MegapixelInstantIDAttention,
    MegapixelInstantIDControlNet,
)
from megapixel.nodes.instant_id_loader import MegapixelInstantIDLoader
from megapixel.patches.wrapper import effects_of
from torch import nn

from devhost.sampling import sample
from devhost.tiny import random_models, topology
from devhost.tiny.faces import Portrait, draw_portraits
from devhost.tiny.random_faces import as_bin, instant_id_state

UNET = topology.SDXL | {
    "transformer_depth": [0, 0, 1, 1, 1, 1],
    "transformer_depth_output": [0, 0, 0, 1, 1, 1, 1, 1, 1],
    "transformer_depth_middle": 1,
}
SIZE = (17, 22)
KNOWN = {"weight": 0.8, "start_at": 0.0, "end_at": 1.0}


def relative(result, expected):
    return ((result - expected).abs().max() / expected.abs().max()).item()


def picture_of(*people, size=(200, 260), place=0.5):
    """An IMAGE (1, H, W, 3) of people side by side, by their numbers; the first is the largest."""
    portraits = [
        Portrait(person, ((i + place) * size[1] / len(people), size[0] / 2), (70 - 12 * i) * size[0] / 200)
        for i, person in enumerate(people)
    ]
    return torch.from_numpy(draw_portraits(size, *portraits)).float()[None] / 255


ALICE, BOB = picture_of(1), picture_of(2)
NOBODY = torch.full((1, 200, 260, 3), 0.5)


@pytest.fixture(scope="module")
def analysis(face_analysis):
    return face_analysis


@pytest.fixture(scope="module")
def embedding(analysis):
    """A function that returns what insightface itself says of the only face in a picture."""

    def of(picture):
        [face] = analysis.get((picture[0] * 255).round().byte().numpy()[..., ::-1])
        return torch.from_numpy(face.embedding)[None]

    return of


@pytest.fixture(scope="module")
def model():
    return random_models.sdxl(**{key: UNET[key] for key in UNET if key.startswith("transformer_depth")})


@pytest.fixture(scope="module")
def control_net():
    return random_models.controlnet(UNET, effect=0.3)


@pytest.fixture(scope="module")
def state():
    return instant_id_state(UNET)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The only folder that is registered for InstantID."""
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, "instantid", ([str(tmp_path)], {".bin", ".safetensors"})
    )
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return tmp_path


@pytest.fixture
def instantid(folder, state):
    safetensors.torch.save_file(state, folder / "face.safetensors")
    [loaded] = MegapixelInstantIDLoader.execute("face.safetensors").args
    return loaded


@pytest.fixture
def conditions(model):
    return [random_models.conditioning(model, seed) for seed in (1, 2)]


@pytest.fixture
def attention(instantid, analysis, model):
    """A function that runs the attention's node."""

    def run(image=ALICE, model=model, instantid=instantid, insightface=analysis, **settings):
        settings = {"noise": 0.0, **KNOWN, **settings}
        return MegapixelInstantIDAttention.execute(instantid, insightface, image, model, **settings).args

    return run


@pytest.fixture
def apply(instantid, analysis, model, control_net, conditions):
    """A function that runs the node with all in one."""

    def run(image=ALICE, model=model, control_net=control_net, conditions=conditions, **settings):
        return MegapixelInstantIDApply.execute(
            instantid, analysis, control_net, image, model, *conditions, **KNOWN | settings
        ).args

    return run


class TestLoader:
    @pytest.mark.parametrize("name", ["ip-adapter.bin", "face.safetensors"])
    def test_both_kinds_of_files(self, folder, state, name):
        if name.endswith(".bin"):
            torch.save(as_bin(state), folder / name)
        else:
            safetensors.torch.save_file(state, folder / name)
        assert instant_id_files() == [name]
        [loaded] = MegapixelInstantIDLoader.execute(name).args
        found = loaded.network.state_dict()
        assert found.keys() == state.keys()
        assert all(torch.equal(found[key], state[key]) for key in state)

    def test_weights_are_kept_as_they_are_in_the_file(self, folder, state):
        safetensors.torch.save_file(
            {key: value.half() for key, value in state.items()}, folder / "half.safetensors"
        )
        [loaded] = MegapixelInstantIDLoader.execute("half.safetensors").args
        assert {value.dtype for value in loaded.network.state_dict().values()} == {torch.float16}
        assert loaded.tokens(torch.ones(1, 512)).dtype == torch.float32
        assert not any(value.requires_grad for value in loaded.network.parameters())

    def test_where_the_host_makes_layers_without_weights(self, folder, state, monkeypatch):
        """As it does with dynamic memory, on NVIDIA's cards."""
        monkeypatch.setattr(comfy.memory_management, "aimdo_enabled", True)
        torch.save(as_bin(state), folder / "face.bin")
        [loaded] = MegapixelInstantIDLoader.execute("face.bin").args
        monkeypatch.undo()
        found = loaded.network.state_dict()
        assert found.keys() == state.keys()
        assert all(torch.equal(found[key], state[key]) for key in state)

    def test_what_else_is_in_a_file_does_not_disturb(self, folder, state):
        torch.save(as_bin(state) | {"step": 3, "extra": torch.zeros(1)}, folder / "more.bin")
        [loaded] = MegapixelInstantIDLoader.execute("more.bin").args
        assert loaded.network.state_dict().keys() == state.keys()

    def test_a_pickle_with_code_is_refused_and_the_code_not_run(self, folder):
        trace = folder / "it ran"

        class Code:
            def __reduce__(self):
                return os.mkdir, (str(trace),)

        torch.save({"image_proj": Code(), "ip_adapter": {}}, folder / "bad.bin")
        with pytest.raises(
            ValueError,
            match=r"^instantid_file: expected a file of weights only, got bad\.bin, which would run code",
        ):
            MegapixelInstantIDLoader.execute("bad.bin")
        (folder / "worse.bin").write_bytes(pickle.dumps(Code(), protocol=2))
        with pytest.raises(
            ValueError,
            match=r"^instantid_file: expected a file of weights only, got worse\.bin, which would run code",
        ):
            MegapixelInstantIDLoader.execute("worse.bin")
        assert not trace.exists()

    @pytest.mark.parametrize("name", ["cut.bin", "cut.safetensors"])
    @pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
    def test_a_truncated_file(self, folder, state, name, share):
        if name.endswith(".bin"):
            torch.save(as_bin(state), folder / name)
        else:
            safetensors.torch.save_file(state, folder / name)
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(
            ValueError,
            match=rf"^instantid_file: expected a complete file of weights, got {re.escape(name)}, which is damaged",
        ):
            MegapixelInstantIDLoader.execute(name)

    def test_a_page_that_was_saved_in_place_of_the_file(self, folder):
        (folder / "page.bin").write_text("<!DOCTYPE html><html><body>Not found</body></html>")
        with pytest.raises(
            ValueError, match=r"^instantid_file: expected a complete file of weights, got page\.bin"
        ):
            MegapixelInstantIDLoader.execute("page.bin")

    def test_a_file_that_is_no_instantid_says_what_is_missing(self, folder, state):
        def complaint(weights):
            safetensors.torch.save_file(weights, folder / "other.safetensors")
            with pytest.raises(ValueError, match=r"^instantid_file: ") as refused:
                MegapixelInstantIDLoader.execute("other.safetensors")
            return str(refused.value)

        start = "instantid_file: expected an InstantID model, got other.safetensors"
        assert complaint({"x": torch.zeros(1)}).startswith(
            f"{start} without image_proj.proj_in.weight. Download"
        )
        without = {key: value for key, value in state.items() if "norm_out" not in key}
        assert complaint(without).startswith(
            f"{start} in which image_proj.norm_out.weight, image_proj.norm_out.bias is missing or has another shape. Download"
        )
        more = state | {f"ip_adapter.{key}.to_k_ip.weight": torch.zeros(1, 1) for key in (2, 4, 6, 8)}
        assert "without ip_adapter." in complaint(more)
        few = {
            key: value
            for key, value in state.items()
            if "layers.1" not in key or "norm1" in key or "to_q" in key
        }
        assert re.search(
            r"in which image_proj\.layers\.1\.[^,]+, [^,]+, [^,]+ and \d+ more is missing", complaint(few)
        )
        odd = state | {"image_proj.proj_out.bias": torch.zeros(3)}
        assert complaint(odd).startswith(
            f"{start} in which image_proj.proj_out.bias is missing or has another shape. "
        )
        adapter = state | {"image_proj.proj_in.weight": torch.zeros(128, 1280)}
        assert complaint(adapter).startswith(
            f"{start} for face embeddings of 1280 values instead of 512. An IP-Adapter is not"
        )

    def test_the_folder_is_offered_beside_those_of_others(self, monkeypatch, tmp_path):
        monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path))
        monkeypatch.setattr(folder_paths, "filename_list_cache", {})
        monkeypatch.setattr(folder_paths, "folder_names_and_paths", {})
        assert instant_id_files() == []
        offer_instant_id_folder()
        offer_instant_id_folder()
        assert folder_paths.folder_names_and_paths["instantid"][0] == [str(tmp_path / "instantid")]
        assert instant_id_files() == []  # the folder is not there, which is no error
        (tmp_path / "instantid").mkdir()
        for name in ("a.bin", "b.safetensors", "c.txt"):
            (tmp_path / "instantid" / name).touch()
        monkeypatch.setattr(folder_paths, "filename_list_cache", {})
        assert instant_id_files() == ["a.bin", "b.safetensors"]

        theirs = {"instantid": (["elsewhere"], {".bin"})}
        monkeypatch.setattr(folder_paths, "folder_names_and_paths", theirs)
        offer_instant_id_folder()
        assert theirs["instantid"] == (["elsewhere", str(tmp_path / "instantid")], {".bin"})


class TestAttention:
    def test_the_face_is_the_one_that_insightface_finds(self, attention, instantid, embedding):
        patched, embeds = attention()
        expected = instantid.network.tokens(embedding(ALICE))
        assert embeds["cond"].shape == embeds["uncond"].shape == (1, 16, 2048)
        assert torch.allclose(embeds["cond"], expected, atol=1e-5)
        assert torch.allclose(embeds["uncond"], instantid.network.tokens(torch.zeros(1, 512)), atol=1e-5)
        [effect] = effects_of(patched).values()
        keys = instantid.network.project(torch.cat([embeds["cond"], embeds["uncond"]]))
        assert torch.allclose(effect.person.face.packed, keys, atol=1e-5)
        assert (effect.person.weight, effect.person.mask, effect.person.middle_block) == (0.8, None, True)

    def test_the_picture_follows_the_face(self, attention, model):
        plain = sample(model, SIZE)
        alice, bob = (sample(attention(image, weight=1.0)[0], SIZE) for image in (ALICE, BOB))
        assert relative(alice, plain) > 1e-3
        assert relative(alice, bob) > 1e-3
        assert torch.equal(alice, sample(attention(ALICE, weight=1.0)[0], SIZE))
        assert torch.equal(sample(model, SIZE), plain)

    @pytest.mark.parametrize("how", ["average", "norm average", "concat"])
    def test_several_references(self, attention, instantid, embedding, how):
        both = torch.cat([ALICE, BOB])
        _, embeds = attention(both, combine_embeds=how, noise=0.2)
        faces = combine_embeddings(torch.cat([embedding(ALICE), embedding(BOB)]), how)
        assert embeds["cond"].shape == (2 if how == "concat" else 1, 16, 2048)
        assert torch.allclose(embeds["cond"], instantid.network.tokens(faces), atol=1e-4)
        assert torch.allclose(
            embeds["uncond"], instantid.network.tokens(negative_embedding(faces, 0.2)), atol=1e-4
        )

    def test_which_face(self, attention):
        def chosen(image, **settings):
            return attention(image, **settings)[1]["cond"]

        both = picture_of(1, 2)  # Alice is larger and on the left
        alone = {name: chosen(image) for name, image in (("alice", ALICE), ("bob", BOB))}

        def who(found):
            return min(alone, key=lambda name: (alone[name] - found).abs().max())

        assert who(chosen(both)) == "alice"
        assert who(chosen(both, which_face="index", face_index=1)) == "bob"
        assert who(chosen(both, which_face="left to right", face_index=1)) == "bob"
        assert who(chosen(both.flip(2), which_face="left to right", face_index=0)) == who(chosen(BOB.flip(2)))

    def test_a_reference_that_is_left_out_is_reported_at_the_node(
        self, instantid, analysis, model, control_net, conditions, caplog
    ):
        caplog.set_level(logging.INFO, logger="megapixel")
        image, choice = torch.cat([ALICE, NOBODY]), {**KNOWN, "on_no_face": "pass through"}
        text = "image: expected the chosen face, got none in image 2 of 2 (0 found). InstantID skips them."
        attention = MegapixelInstantIDAttention.execute(
            instantid, analysis, image, model, noise=0.0, **choice
        )
        applied = MegapixelInstantIDApply.execute(
            instantid, analysis, control_net, image, model, *conditions, **choice
        )
        assert shown(attention) == shown(applied) == text
        assert caplog.messages.count(text) == 2

    def test_two_faces_are_said_unless_one_was_chosen(self, attention, caplog):
        with caplog.at_level(logging.INFO, "megapixel"):
            attention(picture_of(1, 2), which_face="index")
            assert "faces" not in caplog.text
            attention(picture_of(1, 2))
        assert (
            "InstantID: a reference image shows 2 faces; the largest is used. Set which_face to choose another."
            in caplog.text
        )

    def test_a_mask_of_two_dimensions_and_a_bool_one(self, attention, draw):
        mask = draw(30, 40) > 0.5
        two, three = (sample(attention(mask=each)[0], SIZE, steps=1) for each in (mask, mask.float()[None]))
        assert torch.equal(two, three)

    def test_weight_0_is_the_model_itself(self, attention, model):
        assert attention(weight=0.0)[0] is model
        assert attention(mask=torch.zeros(1, 8, 8))[0] is model

    def test_the_type_of_the_keys_is_the_models(self, attention, model, monkeypatch):
        monkeypatch.setattr(model.model, "manual_cast_dtype", torch.bfloat16)
        [effect] = effects_of(attention()[0]).values()
        assert effect.person.face.packed.dtype == torch.bfloat16

    def test_the_weights_do_not_follow_the_model(self, attention, instantid, model):
        """No model on the patched one is loaded while sampling, and nothing of it knows the network."""
        patched, _ = attention()
        assert not patched.get_nested_additional_models()
        before = sample(patched, SIZE)
        for parameter in instantid.network.parameters():
            parameter.data = torch.empty(0)
        assert torch.equal(sample(patched, SIZE), before)

    def test_again_with_the_same_inputs_it_is_the_same_model(self, attention):
        first, _ = attention()
        results = []
        for _ in range(3):  # as the host does when a later node is changed
            second, _ = attention(BOB, model=first)
            results.append(sample(second, SIZE, steps=1))
        assert torch.equal(results[0], results[1])
        assert torch.equal(results[0], results[2])
        assert list(effects_of(first)) == ["instant_id"]
        assert list(effects_of(second)) == ["instant_id", "instant_id 2"]


class TestReferences:
    @pytest.mark.parametrize("node", ["attention", "apply"])
    def test_a_missing_face_names_its_picture(self, request, node):
        run = request.getfixturevalue(node)
        for batch, told in (
            (NOBODY, r"image 1 of 1 \(0 found\)"),
            (torch.cat([ALICE, NOBODY, BOB]), r"image 2 of 3 \(0 found\)"),
        ):
            with pytest.raises(ValueError, match=rf"^image: expected the chosen face, got none in {told}\. "):
                run(batch)
        with pytest.raises(ValueError, match=r"got none in image 1 of 1 \(2 found\)\. "):
            run(picture_of(1, 2), which_face="index", face_index=2)

    def test_passed_through_the_others_are_enough(self, attention, caplog):
        caplog.set_level("INFO")
        _, embeds = attention(torch.cat([ALICE, NOBODY, BOB]), on_no_face="pass through")
        _, expected = attention(torch.cat([ALICE, BOB]))
        assert torch.equal(embeds["cond"], expected["cond"])
        assert "got none in image 2 of 3 (0 found). InstantID skips them." in caplog.text

    def test_passed_through_without_any_face_nothing_changes(
        self, attention, apply, model, conditions, control_net
    ):
        assert attention(NOBODY, on_no_face="pass through") == (model, None)
        assert apply(NOBODY, on_no_face="pass through") == (model, *conditions)
        none = MegapixelInstantIDControlNet.execute(None, control_net, ALICE, *conditions, 1.0, 0.0, 1.0).args
        assert none == tuple(conditions)

    @pytest.mark.parametrize("kind", ["grey", "RGBA", "half", "bfloat16"])
    def test_pictures_of_other_kinds(self, attention, kind):
        picture = {
            "grey": lambda: NOBODY[..., :1],
            "RGBA": lambda: torch.cat([ALICE, torch.rand(1, 200, 260, 1, generator=torch.Generator())], -1),
            "half": lambda: ALICE.half(),
            "bfloat16": lambda: ALICE.bfloat16(),
        }[kind]()
        if kind == "grey":  # the drawn faces are known by their colours
            with pytest.raises(ValueError, match=r"^image: expected the chosen face"):
                attention(picture)
        else:
            close = 1e-5 if kind == "RGBA" else 0.05
            assert relative(attention(picture)[1]["cond"], attention(ALICE)[1]["cond"]) < close

    def test_a_picture_of_16_pixels(self, attention):
        with pytest.raises(ValueError, match=r"^image: expected the chosen face, got none in image 1 of 1"):
            attention(torch.rand(1, 16, 16, 3, generator=torch.Generator()))


class TestApply:
    def test_it_is_the_attention_and_the_controlnet(
        self, apply, attention, conditions, control_net, analysis, draw
    ):
        from megapixel.nodes.face_keypoints import MegapixelFaceKeypoints

        mask = draw(1, 34, 44)
        whole = apply(mask=mask, noise=0.35)
        patched, embeds = attention(noise=0.35, mask=mask)
        keypoints, _ = MegapixelFaceKeypoints.execute(analysis, ALICE).args
        apart = MegapixelInstantIDControlNet.execute(
            embeds, control_net, keypoints, *conditions, 0.8, 0.0, 1.0, mask
        ).args
        ours, expected = (
            sample(model, SIZE, positive=positive, negative=negative)
            for model, positive, negative in (whole, (patched, *apart))
        )
        assert torch.equal(ours, expected)
        assert relative(ours, sample(patched, SIZE, positive=conditions[0], negative=conditions[1])) > 1e-4

    def test_weight_sets_both_strengths_unless_the_controlnet_has_its_own(self, apply, conditions):
        def strength(**settings):
            return apply(**settings)[1][0][1]["control"].network.strength

        assert strength(weight=0.6) == 0.6
        assert strength(weight=0.6, cn_strength=0.3) == 0.3
        assert apply(cn_strength=0.0)[1] is conditions[0]

    def test_weight_0_changes_nothing(self, apply, model, conditions):
        for result, given in zip(apply(weight=0.0), (model, *conditions), strict=True):
            assert result is given

    def test_the_window_is_that_of_both(self, apply):
        patched, positive, _ = apply(start_at=0.2, end_at=0.7)
        [effect] = effects_of(patched).values()
        assert (effect.person.start_at, effect.person.end_at) == (0.2, 0.7)
        assert positive[0][1]["control"].network.timestep_percent_range == (0.2, 0.7)

    def hint(self, result):
        return result[1][0][1]["control"].network.cond_hint_original.movedim(1, -1)

    def test_the_keypoints_are_those_of_the_reference(self, apply, analysis):
        from megapixel.nodes.face_keypoints import MegapixelFaceKeypoints

        drawn, _ = MegapixelFaceKeypoints.execute(analysis, ALICE).args
        assert drawn.any()
        assert torch.equal(self.hint(apply()), drawn)
        assert torch.equal(self.hint(apply(torch.cat([NOBODY, ALICE]), on_no_face="pass through")), drawn)

    def test_or_of_another_picture(self, apply, analysis):
        from megapixel.nodes.face_keypoints import MegapixelFaceKeypoints

        poses = torch.cat([picture_of(3, place=0.3), NOBODY, picture_of(4, place=0.7)])
        drawn, _ = MegapixelFaceKeypoints.execute(analysis, poses).args
        assert [bool(picture.any()) for picture in drawn] == [True, False, True]
        assert torch.equal(self.hint(apply(image_kps=poses)), drawn)

    def test_or_drawn_already(self, apply, analysis, draw):
        keypoints = draw(2, 40, 56, 3)
        assert torch.equal(self.hint(apply(image_kps=keypoints)), keypoints)

    def test_two_people_each_with_a_mask_and_a_face_for_the_controlnet(self, apply, model, conditions):
        left, right = torch.zeros(2, 1, 34, 44)
        left[..., :20] = 1.0
        right[..., 24:] = 1.0
        first = apply(ALICE, mask=left)
        both = apply(BOB, model=first[0], conditions=first[1:], mask=right)
        assert list(effects_of(both[0])) == ["instant_id", "instant_id 2"]
        run = {"positive": both[1], "negative": both[2]}
        result = sample(both[0], SIZE, batch=2, **run)
        assert result.isfinite().all()
        assert torch.equal(sample(both[0], SIZE, batch=2, **run), result)
        assert relative(result, sample(first[0], SIZE, batch=2, positive=first[1], negative=first[2])) > 1e-3


class TestOtherPacks:
    """What the original pack asks of a value on the INSTANTID socket, and the value that it gives."""

    def known_value(self, state):
        """An nn.Module as the known loader makes it: the resampler, and one Linear for each projection."""
        own = MegapixelInstantIDLoader.execute("face.safetensors").args[0].network
        layers = nn.ModuleDict()
        for name, value in state.items():
            if name.startswith("ip_adapter."):
                with torch.device("meta"):
                    layer = nn.Linear(value.shape[1], value.shape[0], bias=False)
                layer.load_state_dict({"weight": value}, assign=True)
                layers[name.removeprefix("ip_adapter.").removesuffix(".weight").replace(".", "_")] = layer
        known = nn.Module()
        known.image_proj_model = own.image_proj
        known.ip_layers = SimpleNamespace(to_kvs=layers)
        return known

    def test_theirs_works_here(self, attention, instantid, state):
        expected = attention()[1]["cond"]
        for value in (self.known_value(state), as_bin(state)):
            patched, embeds = attention(instantid=value)
            assert torch.equal(embeds["cond"], expected)
            assert torch.equal(sample(patched, SIZE, steps=1), sample(attention()[0], SIZE, steps=1))

    def test_ours_works_there(self, instantid, state, draw):
        moved = instantid.to("cpu", dtype=torch.float16)
        face = draw(2, 1, 512)
        positive, negative = moved.get_image_embeds(face, torch.zeros_like(face))
        assert positive.shape == negative.shape == (2, 16, 2048)
        assert torch.allclose(positive, instantid.tokens(face[:, 0]), atol=1e-5)
        projections = instantid.ip_layers.to_kvs
        assert len(projections) == 2 * 11
        assert "101_to_k_ip" not in projections
        expected = positive @ state["ip_adapter.21.to_v_ip.weight"].T
        assert torch.allclose(projections["21_to_v_ip"](positive), expected, atol=1e-4)

    def test_something_else_is_an_error_message(self, attention, state):
        with pytest.raises(
            ValueError, match=r"^instantid: expected a model from an InstantID loader, got int\. Connect"
        ):
            attention(instantid=3)
        with pytest.raises(
            ValueError, match=r"^instantid: expected a model from an InstantID loader, got one without image_"
        ):
            attention(instantid={"image_proj": {}})

    def test_their_face_embeds_work_here_and_others_are_one_sentence(self, conditions, control_net, draw):
        def run(embeds):
            return MegapixelInstantIDControlNet.execute(
                embeds, control_net, ALICE, *conditions, 1.0, 0.0, 1.0
            ).args

        theirs = {"cond": draw(1, 16, 2048), "uncond": draw(1, 16, 2048, seed=1)}
        positive, _ = run(theirs)
        assert torch.equal(positive[0][1]["model_conds"]["megapixel_face_control_0"].cond, theirs["cond"])
        for wrong in ({"cond": 1}, 7, draw(2), {"cond": None, "uncond": None}):
            with pytest.raises(
                ValueError,
                match=r"^face_embeds: expected FACE_EMBEDS of an InstantID node, got \w+\. Connect",
            ):
                run(wrong)


class TestWrongModels:
    def test_sd15_is_refused_before_any_face_is_looked_for(self, attention, sd15):
        with pytest.raises(
            ValueError, match=r"^model: expected an SDXL model .* got SD15 with 16 for tokens of 768 values\."
        ):
            attention(model=sd15, insightface=None)

    def test_a_transformer(self, attention):
        with pytest.raises(ValueError, match=r"^model: expected an SD 1\.x, .* got Flux\. "):
            attention(model=random_models.flux(), insightface=None)

    def test_a_controlnet_of_sd15(self, apply):
        with pytest.raises(
            ValueError, match=r"^control_net: expected InstantID's ControlNet for SDXL, got one that reads"
        ):
            apply(control_net=random_models.controlnet())

    def test_no_face_analysis(self, attention):
        with pytest.raises(
            ValueError, match=r"^insightface: expected insightface's FaceAnalysis, got NoneType\. "
        ):
            attention(insightface=None)

    @pytest.mark.parametrize("wrong", [None, "x", 3, []], ids=str)
    def test_what_is_no_model_no_text_and_no_controlnet(
        self, attention, apply, conditions, control_net, draw, wrong
    ):
        embeds = {"cond": draw(1, 16, 2048), "uncond": draw(1, 16, 2048, seed=1)}

        def pose(network, texts):
            MegapixelInstantIDControlNet.execute(embeds, network, ALICE, *texts, 1.0, 0.0, 1.0)

        for call in (attention, apply):
            with pytest.raises(ValueError, match=r"^model: expected a MODEL .*, got .+\. "):
                call(model=wrong)
        for call in (lambda: apply(control_net=wrong), lambda: pose(wrong, conditions)):
            with pytest.raises(ValueError, match=r"^control_net: expected a ControlNet, got .+\. "):
                call()
        if wrong == []:
            return  # a conditioning without texts
        for place, socket in enumerate(("positive", "negative")):
            texts = [wrong if place == number else each for number, each in enumerate(conditions)]
            for call in (
                lambda texts=texts: apply(conditions=texts),
                lambda texts=texts: pose(control_net, texts),
            ):
                with pytest.raises(ValueError, match=rf"^{socket}: expected a CONDITIONING, got .+\. "):
                    call()


class TestKnownInputs:
    def names(self, node):
        return [socket.id for socket in node.GET_SCHEMA().inputs]

    def test_they_come_first_with_their_defaults_and_widgets_in_their_order(self):
        shown = {s.id: getattr(s, "default", None) for s in MegapixelInstantIDApply.GET_SCHEMA().inputs}
        assert list(shown)[:12] == [
            "model", "positive", "negative", "instantid", "insightface", "control_net", "image", "weight", "start_at",
            "end_at", "image_kps", "mask",
        ]  # fmt: skip
        assert [shown[name] for name in ("weight", "start_at", "end_at", "noise")] == [0.8, 0.0, 1.0, 0.35]
        assert self.names(MegapixelInstantIDAttention)[:9] == [
            "model", "instantid", "insightface", "image", "weight", "start_at", "end_at", "noise", "mask"
        ]  # fmt: skip
        assert self.names(MegapixelInstantIDControlNet) == [
            "positive", "negative", "face_embeds", "control_net", "image_kps", "strength", "start_at", "end_at", "mask"
        ]  # fmt: skip
        assert self.names(MegapixelInstantIDLoader) == ["instantid_file"]

    @pytest.mark.parametrize("node", [MegapixelInstantIDApply, MegapixelInstantIDAttention])
    def test_additions_are_optional(self, node):
        known = {"Apply": 10, "Attention": 8}[node.__name__.removeprefix("MegapixelInstantID")]
        assert all(socket.optional for socket in node.GET_SCHEMA().inputs[known:])
        assert not any(socket.optional for socket in node.GET_SCHEMA().inputs[:known])


def test_a_loaded_model_goes_when_nobody_holds_it(folder, state):
    safetensors.torch.save_file(state, folder / "face.safetensors")
    [loaded] = MegapixelInstantIDLoader.execute("face.safetensors").args
    network = weakref.ref(loaded.network)
    del loaded
    gc.collect()
    assert network() is None


# Nothing to do


POINTS = np.array([[110, 80], [150, 80], [130, 100], [115, 125], [145, 125]], np.float32)
KEYPOINTS = draw_keypoints([SimpleNamespace(points=POINTS)], (200, 260))[None]
IDLE = {
    "weight 0": ({"weight": 0.0}, "weight is 0"),
    "order": ({"start_at": 0.8, "end_at": 0.2}, "start_at is after end_at"),
    "black mask": ({"mask": torch.zeros(1, 8, 8)}, "the mask is black"),
}


def shown(result):
    """The text at the node, which must be one line of the log."""
    return "" if result.ui is None else "\n".join(result.ui.as_dict()["text"])


@pytest.mark.parametrize("case", IDLE)
def test_a_face_that_adds_nothing_is_reported_and_leaves_everything(
    case, instantid, analysis, model, control_net, conditions, caplog
):
    caplog.set_level(logging.INFO, logger="megapixel")
    settings, reason = IDLE[case]
    given = KNOWN | settings
    applied = MegapixelInstantIDApply.execute(
        instantid, analysis, control_net, ALICE, model, *conditions, **given
    )
    attention = MegapixelInstantIDAttention.execute(instantid, analysis, ALICE, model, noise=0.0, **given)
    for result in (applied, attention):
        assert shown(result) == f"InstantID: nothing to do, {reason}."
    assert caplog.messages.count(f"InstantID: nothing to do, {reason}.") == 2
    assert all(one is other for one, other in zip(applied.args, [model, *conditions], strict=True))
    assert attention.args[0] is model
    strength = {"strength": given.pop("weight"), **given}
    guided = MegapixelInstantIDControlNet.execute(
        attention.args[1], control_net, ALICE, *conditions, **strength
    )
    reason = reason.replace("weight", "strength")
    assert shown(guided) == f"InstantID ControlNet: nothing to do, {reason}."
    assert caplog.messages.count(shown(guided)) == 1
    assert all(one is other for one, other in zip(guided.args, conditions, strict=True))


def test_a_reference_without_a_face_is_reported_by_each_of_the_three_nodes(
    instantid, analysis, model, control_net, conditions, caplog
):
    caplog.set_level(logging.INFO, logger="megapixel")
    choice = {**KNOWN, "on_no_face": "pass through"}
    applied = MegapixelInstantIDApply.execute(
        instantid, analysis, control_net, NOBODY, model, *conditions, **choice
    )
    attention = MegapixelInstantIDAttention.execute(instantid, analysis, NOBODY, model, noise=0.0, **choice)
    guided = MegapixelInstantIDControlNet.execute(
        attention.args[1], control_net, NOBODY, *conditions, 1.0, 0.0, 1.0
    )
    text = "InstantID: nothing to do, no reference image shows the chosen face."
    assert shown(applied) == shown(attention) == text
    assert shown(guided) == "InstantID ControlNet: nothing to do, InstantID Attention found no face."
    assert caplog.messages.count(text) == 2
    assert shown(guided) in caplog.messages


def test_a_picture_in_the_place_of_drawn_keypoints_is_reported(
    instantid, analysis, model, control_net, conditions, caplog
):
    """What a bypassed Face Keypoints hands on."""
    caplog.set_level(logging.INFO, logger="megapixel")
    attention = MegapixelInstantIDAttention.execute(instantid, analysis, ALICE, model, noise=0.0, **KNOWN)
    guided = MegapixelInstantIDControlNet.execute(
        attention.args[1], control_net, ALICE, *conditions, 1.0, 0.0, 1.0
    )
    applied = MegapixelInstantIDApply.execute(
        instantid, analysis, control_net, ALICE, model, *conditions, **KNOWN, image_kps=NOBODY
    )
    assert shown(guided).startswith("image_kps: expected keypoints on black, got another image")
    assert shown(applied) == shown(guided)
    assert caplog.messages.count(shown(guided)) == 2


SOME_BLACK = torch.zeros(2, 40, 40, 3)
SOME_BLACK[0, 10:12, 10:30] = 1
PARTLY_IDLE = {
    "attention": ({"weight": 0.0, "cn_strength": 0.5}, "InstantID: nothing to do in the attention, weight is 0."),
    "ControlNet": ({"cn_strength": 0.0}, "InstantID: nothing to do in the ControlNet, strength is 0."),
    "keypoints": (
        {"image_kps": torch.zeros(1, 40, 40, 3)}, "image_kps: expected keypoints on black, got black, which has "
        "no pose to follow. Choose an image that shows a face.",
    ),
    "some keypoints": (
        {"image_kps": SOME_BLACK}, "image_kps: expected keypoints on black, got black in 1 of 2, which has no pose to follow. "
        "Choose an image that shows a face.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("part", PARTLY_IDLE)
def test_a_part_that_adds_nothing_is_reported(
    part, instantid, analysis, model, control_net, conditions, caplog
):
    caplog.set_level(logging.INFO, logger="megapixel")
    settings, text = PARTLY_IDLE[part]
    applied = MegapixelInstantIDApply.execute(
        instantid, analysis, control_net, ALICE, model, *conditions, **KNOWN | settings
    )
    assert shown(applied) == text
    assert caplog.messages.count(text) == 1


def test_a_face_that_is_added_is_not_reported(instantid, analysis, model, control_net, conditions, caplog):
    caplog.set_level(logging.INFO, logger="megapixel")
    applied = MegapixelInstantIDApply.execute(
        instantid, analysis, control_net, ALICE, model, *conditions, **KNOWN
    )
    attention = MegapixelInstantIDAttention.execute(instantid, analysis, ALICE, model, noise=0.0, **KNOWN)
    guided = MegapixelInstantIDControlNet.execute(
        attention.args[1], control_net, KEYPOINTS, *conditions, 1.0, 0.0, 1.0
    )
    assert shown(applied) == shown(attention) == shown(guided) == ""
    assert not [line for line in caplog.messages if line.startswith("image_kps")]
    assert not [line for line in caplog.messages if "nothing to do" in line]

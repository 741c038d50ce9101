"""ControlNets that read a face, on tiny real ones, sampled by the host."""

from __future__ import annotations

import comfy.cldm.cldm
import comfy.controlnet
import comfy.ops
import comfy.t2i_adapter.adapter
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from megapixel.patches.face_control import FaceControl, FaceGuide, check_control_net, guide_by_face

from devhost.sampling import sample
from devhost.tiny import random_models, topology
from nodes import ConditioningSetMask, ControlNetApply, ControlNetApplyAdvanced

UNET = topology.SDXL | topology.SHALLOW
SIZE = (17, 22)


def relative(result, expected):
    return ((result - expected).abs().max() / expected.abs().max()).item()


def tokens_of(seed, count=16):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(1, count, UNET["context_dim"], generator=generator) for _ in range(2))


@pytest.fixture(scope="module")
def network():
    return random_models.controlnet(UNET, effect=0.3)


@pytest.fixture(scope="module")
def other_network():
    return random_models.controlnet(UNET, seed=1, effect=0.3)


@pytest.fixture
def conditions(sdxl):
    return [random_models.conditioning(sdxl, seed) for seed in (1, 2)]


@pytest.fixture(scope="module")
def keypoints(draw):
    return draw(1, 40, 56, 3)


def run(model, conditions, **settings):
    positive, negative = conditions
    return sample(model, SIZE, positive=positive, negative=negative, **settings)


class Texts:
    """The texts (B, T, D) that a ControlNet reads, call by call."""

    def __init__(self, network):
        self.read = []
        self.handle = network.control_model.register_forward_pre_hook(self.note, with_kwargs=True)

    def note(self, module, args, kwargs):
        self.read.append(kwargs["context"])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.handle.remove()


class TestOne:
    def test_it_is_what_the_host_does_with_another_text_for_all(self, sdxl, conditions, network, keypoints):
        of_face, of_none = tokens_of(0)
        guide = FaceGuide(network, keypoints, 0.7, 0.0, 0.8)
        result = run(sdxl, guide_by_face(*conditions, guide, (of_face, of_none)), batch=2)
        known = ControlNetApplyAdvanced().apply_controlnet(*conditions, network, keypoints, 0.7, 0.0, 0.8)
        for conditioning, text in zip(known, (of_face, of_none), strict=True):
            conditioning[0][1]["cross_attn_controlnet"] = text
        assert torch.equal(result, run(sdxl, known, batch=2))
        plain = ControlNetApplyAdvanced().apply_controlnet(*conditions, network, keypoints, 0.7, 0.0, 0.8)
        assert relative(result, run(sdxl, plain, batch=2)) > 1e-4

    def test_each_half_of_the_guidance_reads_its_own_in_one_call(self, sdxl, conditions, network, keypoints):
        of_face, of_none = tokens_of(0)
        with Texts(network) as texts:
            run(sdxl, guide_by_face(*conditions, FaceGuide(network, keypoints), (of_face, of_none)), batch=2)
        assert [len(text) for text in texts.read] == [4, 4]
        assert torch.equal(texts.read[0], torch.cat([of_none, of_none, of_face, of_face]))

    def test_of_several_references_each_picture_reads_one_in_turn(self, sdxl, conditions, network, keypoints):
        of_face, of_none = (torch.cat(pair) for pair in zip(tokens_of(0), tokens_of(1), strict=True))
        guided = guide_by_face(*conditions, FaceGuide(network, keypoints), (of_face, of_none))
        with Texts(network) as texts:
            run(sdxl, guided, batch=3, steps=1)
        assert torch.equal(texts.read[0], torch.cat([of_none, of_none[:1], of_face, of_face[:1]]))

    def test_apart_it_is_the_same(self, sdxl, conditions, network, keypoints, apart):
        guided = guide_by_face(*conditions, FaceGuide(network, keypoints), tokens_of(0))
        together = run(sdxl, guided)
        apart(sdxl)
        assert relative(run(sdxl, guided), together) < 1e-5

    def test_outside_its_window_it_does_not_run(self, sdxl, conditions, network, keypoints):
        guided = guide_by_face(*conditions, FaceGuide(network, keypoints, 1.0, 0.5, 1.0), tokens_of(0))
        early = torch.tensor([14.0, 10.0, 8.0])
        with Texts(network) as texts:
            assert torch.equal(run(sdxl, guided, sigmas=early), run(sdxl, conditions, sigmas=early))
            assert not texts.read
            run(sdxl, guided)
            assert texts.read

    def test_strength_0_changes_nothing(self, conditions, network, keypoints):
        guided = guide_by_face(
            *conditions, FaceGuide(network, keypoints, 0.0, mask=torch.zeros(1, 4, 4)), tokens_of(0)
        )
        assert guided[0] is conditions[0]
        assert guided[1] is conditions[1]

    def test_what_it_is_given_is_not_changed(self, conditions, network, keypoints):
        before = [set(conditioning[0][1]) for conditioning in conditions]
        first = guide_by_face(*conditions, FaceGuide(network, keypoints), tokens_of(0))
        marks = [dict(conditioning[0][1]["model_conds"]) for conditioning in first]
        guide_by_face(*first, FaceGuide(network, keypoints), tokens_of(1))
        assert [set(conditioning[0][1]) for conditioning in conditions] == before
        assert [conditioning[0][1]["model_conds"] for conditioning in first] == marks
        assert network.previous_controlnet is None
        assert network.cond_hint_original is None

    def test_the_mask_limits_the_positive_one(self, sdxl, conditions, network, keypoints):
        mask = torch.zeros(1, 34, 44)
        mask[:, :, 20:] = 1.0
        tokens = tokens_of(0)
        result = run(sdxl, guide_by_face(*conditions, FaceGuide(network, keypoints, mask=mask), tokens))
        positive, negative = guide_by_face(*conditions, FaceGuide(network, keypoints), tokens)
        [masked] = ConditioningSetMask().append(positive, mask, "default", 1.0)
        assert torch.equal(result, run(sdxl, (masked, negative)))
        assert not torch.equal(result, run(sdxl, (positive, negative)))

    @pytest.mark.parametrize("channels", [1, 4])
    def test_grey_keypoints_and_transparent_ones(self, sdxl, conditions, network, draw, channels):
        picture = draw(1, 40, 56, channels)
        colours = picture[..., :3].expand(-1, -1, -1, 3)
        results = [
            run(sdxl, guide_by_face(*conditions, FaceGuide(network, each), tokens_of(0)), steps=1)
            for each in (picture, colours)
        ]
        assert torch.equal(*results)


class TestChains:
    def test_one_that_was_there_keeps_reading_the_prompt(
        self, sdxl, conditions, network, other_network, keypoints
    ):
        pose = ControlNetApplyAdvanced().apply_controlnet(
            *conditions, other_network, keypoints, 0.5, 0.0, 1.0
        )
        both = guide_by_face(*pose, FaceGuide(network, keypoints), tokens_of(0))
        with Texts(network) as faces, Texts(other_network) as prompts:
            result = run(sdxl, both)
        prompt = torch.cat([conditions[1][0][0], conditions[0][0][0]])
        assert torch.equal(prompts.read[0], prompt)
        assert torch.equal(faces.read[0], torch.cat(tokens_of(0)[::-1]))
        for alone in (pose, guide_by_face(*conditions, FaceGuide(network, keypoints), tokens_of(0))):
            assert relative(result, run(sdxl, alone)) > 1e-4

    def test_one_on_the_positive_alone_that_is_meant_for_both_halves_reaches_both(
        self, sdxl, conditions, network, other_network, keypoints
    ):
        positive, negative = conditions
        [pose] = ControlNetApply().apply_controlnet(positive, other_network, keypoints, 0.5)
        guide = FaceGuide(network, keypoints)
        result = run(sdxl, guide_by_face(pose, negative, guide, tokens_of(0)))
        on_each = ControlNetApplyAdvanced().apply_controlnet(
            *conditions, other_network, keypoints, 0.5, 0.0, 1.0
        )
        assert relative(result, run(sdxl, guide_by_face(*on_each, guide, tokens_of(0)))) < 1e-5

    def test_outside_its_window_those_before_it_stay(
        self, sdxl, conditions, network, other_network, keypoints
    ):
        pose = ControlNetApplyAdvanced().apply_controlnet(
            *conditions, other_network, keypoints, 0.5, 0.0, 1.0
        )
        both = guide_by_face(*pose, FaceGuide(network, keypoints, 1.0, 0.5, 1.0), tokens_of(0))
        early = torch.tensor([14.0, 10.0, 8.0])
        result = run(sdxl, both, sigmas=early)
        assert torch.equal(result, run(sdxl, pose, sigmas=early))
        assert not torch.equal(result, run(sdxl, conditions, sigmas=early))

    def test_one_that_comes_later_reads_the_prompt_too(
        self, sdxl, conditions, network, other_network, keypoints
    ):
        face = guide_by_face(*conditions, FaceGuide(network, keypoints), tokens_of(0))
        later = ControlNetApplyAdvanced().apply_controlnet(*face, other_network, keypoints, 0.5, 0.0, 1.0)
        first = ControlNetApplyAdvanced().apply_controlnet(
            *conditions, other_network, keypoints, 0.5, 0.0, 1.0
        )
        earlier = guide_by_face(*first, FaceGuide(network, keypoints), tokens_of(0))
        assert relative(run(sdxl, later), run(sdxl, earlier)) < 1e-5

    def test_two_people_each_have_their_own_face(self, sdxl, conditions, network, keypoints, draw):
        alice, bob = tokens_of(1), tokens_of(2, count=5)
        one = guide_by_face(*conditions, FaceGuide(network, keypoints), alice)
        two = guide_by_face(*one, FaceGuide(network, draw(1, 30, 30, 3, seed=3)), bob)
        with Texts(network) as texts:
            result = run(sdxl, two, steps=1)
        assert torch.equal(texts.read[0], torch.cat(alice[::-1]))
        assert torch.equal(texts.read[1], torch.cat(bob[::-1]))
        assert relative(result, run(sdxl, one, steps=1)) > 1e-4

    def test_a_text_that_another_node_gives_to_all_reaches_the_others_alone(
        self, sdxl, conditions, network, other_network, keypoints
    ):
        pose = ControlNetApplyAdvanced().apply_controlnet(
            *conditions, other_network, keypoints, 0.5, 0.0, 1.0
        )
        text = torch.ones(1, 77, UNET["context_dim"])
        for conditioning in pose:
            conditioning[0][1]["cross_attn_controlnet"] = text
        both = guide_by_face(*pose, FaceGuide(network, keypoints), tokens_of(0))
        with Texts(network) as faces, Texts(other_network) as others:
            run(sdxl, both, steps=1)
        assert torch.equal(others.read[0], torch.cat([text, text]))
        assert torch.equal(faces.read[0], torch.cat(tokens_of(0)[::-1]))

    def test_a_conditioning_without_the_face_reads_its_prompt(self, sdxl, conditions, network, keypoints):
        """As where another node puts our ControlNet on the negative one alone."""
        positive, _ = guide_by_face(*conditions, FaceGuide(network, keypoints), tokens_of(0))
        options = positive[0][1]
        negative = [[conditions[1][0][0], conditions[1][0][1] | {"control": options["control"]}]]
        with Texts(network) as texts:
            run(sdxl, (positive, negative), steps=1)
        assert sorted(text.shape[1] for text in texts.read) == sorted([16, random_models.TOKENS])

    def test_models_and_memory_of_the_whole_chain_are_told(
        self, conditions, network, other_network, keypoints
    ):
        pose = ControlNetApplyAdvanced().apply_controlnet(
            *conditions, other_network, keypoints, 0.5, 0.0, 1.0
        )
        link = guide_by_face(*pose, FaceGuide(network, keypoints), tokens_of(0))[0][0][1]["control"]
        models = [network.control_model_wrapped, other_network.control_model_wrapped]
        assert link.get_models() == models
        if hasattr(link, "get_models_only_self"):  # new with several devices, after 0.18
            assert link.get_models_only_self() == models[:1]
        clone = link.copy()
        assert isinstance(clone, FaceControl)
        assert clone.previous_controlnet is None
        assert clone.get_models() == models[:1]
        assert clone.key == link.key
        assert clone.network is not link.network

    def test_a_run_leaves_nothing_behind(self, sdxl, conditions, network, keypoints):
        guided = guide_by_face(*conditions, FaceGuide(network, keypoints), tokens_of(0))
        first = run(sdxl, guided)
        inner = guided[0][0][1]["control"].network
        assert inner.cond_hint is None
        assert inner.timestep_range is None
        assert torch.equal(run(sdxl, guided), first)


def masks(*shown, size=(34, 44)):
    """A mask for each picture: the right half of it where it is shown, else black."""
    found = torch.zeros(len(shown), *size)
    found[list(shown), :, size[1] // 2 :] = 1.0
    return found


class TestMasks:
    """The mask of a face is one decision: for the prompt, for the residuals,
    and by the same picture as in the attention.
    """

    @pytest.mark.parametrize(("given", "pictures"), [(2, 3), (2, 4), (3, 2)])
    def test_each_picture_has_its_own_and_the_last_one_is_for_those_that_follow(
        self, sdxl, conditions, network, keypoints, draw, given, pictures
    ):
        mask, tokens = draw(given, 34, 44), tokens_of(0)
        own = FaceGuide(network, keypoints, mask=mask)
        all_of_them = FaceGuide(network, keypoints, mask=mask[[min(i, given - 1) for i in range(pictures)]])
        results = [
            run(sdxl, guide_by_face(*conditions, guide, tokens), batch=pictures, steps=1)
            for guide in (own, all_of_them)
        ]
        assert torch.equal(*results)

    def test_a_picture_with_a_black_mask_is_that_of_the_prompt(self, sdxl, conditions, network, keypoints):
        plain = run(sdxl, conditions, batch=3)
        guide = FaceGuide(network, keypoints, mask=masks(False, True, False))
        result = run(sdxl, guide_by_face(*conditions, guide, tokens_of(0)), batch=3)
        assert torch.equal(result[[0, 2]], plain[[0, 2]])
        assert relative(result[1], plain[1]) > 1e-3

    def test_of_two_people_each_may_be_in_some_pictures_alone(self, sdxl, conditions, network, keypoints):
        alice, bob = tokens_of(1), tokens_of(2)
        first = guide_by_face(*conditions, FaceGuide(network, keypoints, mask=masks(True, False)), alice)
        both = guide_by_face(*first, FaceGuide(network, keypoints, mask=masks(False, True)), bob)
        result = run(sdxl, both, batch=2)
        for picture, (tokens, shown) in enumerate(((alice, (True, False)), (bob, (False, True)))):
            alone = guide_by_face(*conditions, FaceGuide(network, keypoints, mask=masks(*shown)), tokens)
            assert torch.equal(result[picture], run(sdxl, alone, batch=2)[picture])

    def test_the_prompt_of_two_people_goes_wherever_one_of_them_may(self, conditions, network, keypoints):
        left, right = torch.zeros(2, 1, 8, 10)
        left[..., :3], right[..., 6:] = 1.0, 0.5
        first = guide_by_face(*conditions, FaceGuide(network, keypoints, mask=left), tokens_of(1))
        second = guide_by_face(*first, FaceGuide(network, keypoints, mask=right), tokens_of(2))
        assert torch.equal(second[0][0][1]["mask"], left + right)
        anywhere = guide_by_face(*first, FaceGuide(network, keypoints), tokens_of(2))
        assert "mask" not in anywhere[0][0][1]
        assert "mask" not in second[1][0][1]

    def test_a_mask_of_the_prompts_own_stays_where_the_face_has_none(self, conditions, network, keypoints):
        own = masks(True)
        [masked] = ConditioningSetMask().append(conditions[0], own, "default", 1.0)
        guided, _ = guide_by_face(masked, conditions[1], FaceGuide(network, keypoints), tokens_of(0))
        assert torch.equal(guided[0][1]["mask"], own)

    def test_a_copy_whose_hint_is_cut_where_no_mask_is_adds_nothing(
        self, sdxl, conditions, network, keypoints
    ):
        """As for a crop of the picture that lies beside the face."""
        positive, _ = guide_by_face(
            *conditions, FaceGuide(network, keypoints, mask=masks(True)), tokens_of(0)
        )
        options = positive[0][1]
        crop = options["control"].copy()
        crop.mask = crop.mask[..., :10]
        beside = [[positive[0][0], {**options, "control": crop, "mask": torch.ones(1, 4, 4)}]]
        result = run(sdxl, (beside, conditions[1]), steps=1)
        assert relative(result, run(sdxl, conditions, steps=1)) < 1e-5


class TestTilesAndWindows:
    """As packs do it that call the model for parts of a picture, or of a long batch."""

    def test_keypoints_that_a_pack_cuts_for_its_tiles_are_those_that_are_seen(
        self, sdxl, conditions, network, keypoints, draw
    ):
        guided = guide_by_face(*conditions, FaceGuide(network, keypoints), tokens_of(0))
        link = guided[0][0][1]["control"]
        tile = draw(1, 3, SIZE[0] * 8, SIZE[1] * 8, seed=5)

        def put_it_there(executor, model, conds, x, *args):
            link.cond_hint = tile.repeat(2 * len(x), 1, 1, 1)
            return executor(model, conds, x, *args)

        tiled = sdxl.clone()
        tiled.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "tiles", put_it_there)
        result = run(tiled, guided)
        expected = guide_by_face(*conditions, FaceGuide(network, tile.movedim(1, -1)), tokens_of(0))
        assert torch.equal(result, run(sdxl, expected))
        assert relative(result, run(sdxl, guided)) > 1e-4
        del link.cond_hint
        assert link.network.cond_hint is None

    def test_a_window_of_a_long_batch_sees_the_keypoints_and_masks_of_its_pictures(
        self, sdxl, conditions, network, draw
    ):
        poses, mask = draw(3, 40, 56, 3), masks(True, False, True)
        guided = guide_by_face(*conditions, FaceGuide(network, poses, mask=mask), tokens_of(0))
        link = guided[0][0][1]["control"]

        def of_the_window(executor, model, conds, x, *args):
            link.sub_idxs = [1, 2]
            return executor(model, conds, x, *args)

        windowed = sdxl.clone()
        windowed.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "window", of_the_window)
        positive = [[guided[0][0][0], {**guided[0][0][1], "mask": torch.ones(1, 4, 4)}]]
        result = run(windowed, (positive, guided[1]), batch=2)
        own = guide_by_face(*conditions, FaceGuide(network, poses[1:], mask=mask[1:]), tokens_of(0))
        own[0][0][1]["mask"] = torch.ones(1, 4, 4)
        assert relative(result, run(sdxl, own, batch=2)) < 1e-5
        assert torch.equal(link.cond_hint_original, poses.movedim(-1, 1))
        assert link.sub_idxs is None

    def test_the_window_of_a_cancelled_run_is_forgotten(self, sdxl, conditions, network, draw):
        guided = guide_by_face(*conditions, FaceGuide(network, draw(3, 40, 56, 3)), tokens_of(0))
        plain = run(sdxl, guided, batch=2, steps=1)
        link = guided[0][0][1]["control"]

        def cancel(executor, *args):
            link.sub_idxs = [2, 1]
            executor(*args)
            raise InterruptedError

        cancelled = sdxl.clone()
        cancelled.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "window", cancel)
        with pytest.raises(InterruptedError):
            run(cancelled, guided, batch=2, steps=1)
        assert torch.equal(run(sdxl, guided, batch=2, steps=1), plain)


class TestGuard:
    def test_a_control_net_for_sdxl_passes(self, network):
        check_control_net(network, UNET["context_dim"])

    def test_one_for_sd15(self):
        with pytest.raises(
            ValueError,
            match=r"^control_net: expected InstantID's ControlNet for SDXL, got one that reads tokens of 768 instead of 2048 values\. Load",
        ):
            check_control_net(random_models.controlnet(), 2048)

    def test_a_union_control_net(self):
        config = topology.controlnet_config(UNET)
        with torch.device("meta"):
            model = comfy.cldm.cldm.ControlNet(
                **config, union_controlnet_num_control_type=6, operations=comfy.ops.disable_weight_init
            )
        with pytest.raises(ValueError, match=r"^control_net: .*, got a union ControlNet\. Load"):
            check_control_net(comfy.controlnet.ControlNet(model, load_device="cpu"), 2048)

    def test_a_t2i_adapter(self):
        with torch.device("meta"):
            adapter = comfy.t2i_adapter.adapter.Adapter(
                cin=192, channels=[32, 64, 128, 128], nums_rb=1, ksize=1, sk=True
            )
        with pytest.raises(
            ValueError, match=r"^control_net: .*, got a T2I adapter, which reads no text\. Load"
        ):
            check_control_net(comfy.controlnet.T2IAdapter(adapter, 3, 8, "nearest-exact"), 2048)

    def test_one_for_a_transformer(self):
        with torch.device("meta"):
            control = comfy.controlnet.ControlNet(torch.nn.Linear(1, 1), load_device="cpu")
        with pytest.raises(
            ValueError, match=r"^control_net: .*, got one for another model family \(Linear\)\. Load"
        ):
            check_control_net(control, 2048)

    def test_a_control_lora_has_no_layers_before_it_runs(self):
        check_control_net(comfy.controlnet.ControlLora({}), 2048)

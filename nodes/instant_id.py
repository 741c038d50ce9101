"""The nodes of InstantID: all in one, and the attention and the ControlNet apart."""

from __future__ import annotations

from comfy_api.latest import io

from ..host.compat import SHOWN_AGAIN
from ..host.images import check_pixels
from ..host.instant_id_faces import (
    as_masks,
    embeds_of,
    face_tokens,
    keypoints_for,
    reference_faces,
    tokens_of,
    undrawn,
)
from ..host.notice import logged, nothing_to_do, with_notices
from ..patches.face_control import FaceGuide, check_control_net, guide_by_face
from ..patches.instant_id import apply_instant_id, instant_id_for, person_in
from .instant_id_sockets import (
    FaceEmbedsSocket,
    analysis_socket,
    conditioning_sockets,
    control_net_socket,
    instant_id_socket,
    keypoints_socket,
    mask_socket,
    middle_block_socket,
    noise_socket,
    reading_sockets,
    reference_socket,
    sdxl_socket,
    strength_socket,
    window_sockets,
)

NO_FACE = "InstantID: nothing to do, no reference shows the face that is asked for."
AS_WEIGHT = -1.0  # of cn_strength


class MegapixelInstantIDApply(io.ComfyNode):
    """InstantID as people know it: the face in the attention, and the ControlNet that holds its pose."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MegapixelInstantIDApply",
            display_name="Apply InstantID (Megapixel)",
            category="model/patch/unet",
            description=(
                "Puts a person's face into SDXL pictures: the model attends to the face, and InstantID's ControlNet holds its "
                "pose. All of it is computed here, once; sampling is hardly slower. For several people put one of these "
                "behind the other, each with its own mask, weight and window. A cfg of 4 to 5 suits it best."
            ),
            search_aliases=[
                "ApplyInstantID",
                "ApplyInstantIDAdvanced",
                "InstantID",
                "face identity",
                "faceid",
            ],
            inputs=[
                sdxl_socket(),  # first in the order of the outputs: what a bypassed node hands on
                *conditioning_sockets(),
                instant_id_socket(),
                analysis_socket(),
                control_net_socket(),
                reference_socket(),
                strength_socket(
                    "weight",
                    0.8,
                    (0.0, 5.0),
                    "How strongly the face is kept, for the attention and, unless cn_strength is set, the ControlNet. 0.6 to 1 "
                    "works; 0 changes nothing.",
                ),
                *window_sockets(),
                keypoints_socket(
                    "A picture of a face in the wanted pose, or drawn keypoints. Without it the pose is the reference's.",
                    optional=True,
                ),
                mask_socket(
                    "Where the face and the prompt may go, at any size; one for each picture of a batch, or one for all."
                ),
                strength_socket(
                    "cn_strength",
                    AS_WEIGHT,
                    (AS_WEIGHT, 10.0),
                    "Strength of the ControlNet alone. -1 takes weight; 0 leaves the ControlNet out; less than weight frees the "
                    "pose.",
                    optional=True,
                ),
                noise_socket(0.35, optional=True),
                *reading_sockets(),
                middle_block_socket(),
            ],
            outputs=[
                io.Model.Output(),
                io.Conditioning.Output(display_name="positive"),
                io.Conditioning.Output(display_name="negative"),
            ],
            **SHOWN_AGAIN,
        )

    @classmethod
    def execute(
        cls, instantid, insightface, control_net, image, model, positive, negative, weight, start_at, end_at,
        image_kps=None, mask=None, cn_strength=AS_WEIGHT, noise=0.35, combine_embeds="average", middle_block=True,
        **choice,
    ) -> io.NodeOutput:  # fmt: skip
        instantid = instant_id_for(instantid, model)
        check_control_net(control_net, instantid.network.context)
        faces, guesses = reference_faces(insightface, image, **choice)
        if not any(faces):
            return nothing_to_do(NO_FACE, model, positive, negative)
        tokens = face_tokens(instantid, faces, combine_embeds, noise)
        window = {"start_at": start_at, "end_at": end_at}
        person = person_in(instantid, model, tokens, mask, weight=weight, middle_block=middle_block, **window)
        keypoints = keypoints_for(insightface, image_kps, image, faces)
        strength = weight if cn_strength < 0 else cn_strength
        guide = FaceGuide(control_net, keypoints, strength, mask=as_masks(mask), **window)
        if person.idle and guide.idle:
            return nothing_to_do(f"InstantID: nothing to do, {person.idle}.", model, positive, negative)
        idle = {"attention": person.idle, "ControlNet": guide.idle}
        texts = [
            *guesses,
            *(f"InstantID: nothing to do in the {part}, {why}." for part, why in idle.items() if why),
        ]
        texts += [] if guide.idle else undrawn(keypoints)
        return with_notices(
            logged(texts), apply_instant_id(model, person), *guide_by_face(positive, negative, guide, tokens)
        )


class MegapixelInstantIDAttention(io.ComfyNode):
    """The face in the attention, without a ControlNet."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MegapixelInstantIDAttention",
            display_name="InstantID Attention (Megapixel)",
            category="model/patch/unet",
            description=(
                "Puts a person's face into SDXL pictures through the attention alone; the pose stays free. FACE_EMBEDS goes to "
                "InstantID ControlNet where the pose is wanted too. For several people put one of these behind the other, each "
                "with its own mask, weight and window."
            ),
            search_aliases=["InstantIDAttentionPatch", "InstantID Patch Attention", "InstantID", "face identity"],
            inputs=[
                sdxl_socket(),  # first like the output: what a bypassed node hands on
                instant_id_socket(),
                analysis_socket(),
                reference_socket(),
                strength_socket(
                    "weight", 1.0, (-1.0, 3.0), "How strongly the face is kept. 0.6 to 1.2 works; 0 changes nothing, less than 0 "
                    "leads away from the face.",
                ),
                *window_sockets(),
                noise_socket(0.0),
                mask_socket("Where the face may go, at any size; one for each picture of a batch, or one for all."),
                *reading_sockets(),
                middle_block_socket(),
            ],
            outputs=[io.Model.Output(), FaceEmbedsSocket.Output(display_name="FACE_EMBEDS")],
            **SHOWN_AGAIN,
        )  # fmt: skip

    @classmethod
    def execute(
        cls, instantid, insightface, image, model, weight, start_at, end_at, noise, mask=None,
        combine_embeds="average", middle_block=True, **choice,
    ) -> io.NodeOutput:  # fmt: skip
        instantid = instant_id_for(instantid, model)
        faces, guesses = reference_faces(insightface, image, **choice)
        if not any(faces):
            return nothing_to_do(NO_FACE, model, None)
        tokens = face_tokens(instantid, faces, combine_embeds, noise)
        settings = {"weight": weight, "start_at": start_at, "end_at": end_at, "middle_block": middle_block}
        person = person_in(instantid, model, tokens, mask, **settings)
        if person.idle:
            return nothing_to_do(f"InstantID: nothing to do, {person.idle}.", model, embeds_of(tokens))
        return with_notices(logged(guesses), apply_instant_id(model, person), embeds_of(tokens))


class MegapixelInstantIDControlNet(io.ComfyNode):
    """The ControlNet that holds the pose of a face, and reads the face in place of the prompt."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MegapixelInstantIDControlNet",
            display_name="InstantID ControlNet (Megapixel)",
            category="model/conditioning/controlnet",
            description=(
                "Holds the pose of a face with InstantID's ControlNet, which reads the face in the place of the prompt. It "
                "belongs behind InstantID Attention, which gives FACE_EMBEDS. ControlNets that are there already stay, and keep "
                "reading the prompt."
            ),
            search_aliases=["ApplyInstantIDControlNet", "InstantID Apply ControlNet", "InstantID", "face pose"],
            inputs=[
                *conditioning_sockets(),  # first in the order of the outputs: what a bypassed node hands on
                FaceEmbedsSocket.Input("face_embeds", tooltip="From InstantID Attention, ours or the original pack's."),
                control_net_socket(),
                keypoints_socket("Drawn keypoints of the face, from Face Keypoints."),
                strength_socket(
                    "strength", 1.0, (0.0, 10.0), "How strictly the pose is held. 0.4 to 1 works; 0 changes nothing."
                ),
                *window_sockets(),
                mask_socket("Where the prompt may go; it limits the positive conditioning."),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive"),
                io.Conditioning.Output(display_name="negative"),
            ],
            **SHOWN_AGAIN,
        )  # fmt: skip

    @classmethod
    def execute(
        cls, face_embeds, control_net, image_kps, positive, negative, strength, start_at, end_at, mask=None
    ) -> io.NodeOutput:
        if face_embeds is None:  # passed through
            text = "InstantID ControlNet: nothing to do, InstantID Attention has found no face."
            return nothing_to_do(text, positive, negative)
        tokens = tokens_of(face_embeds)
        check_pixels(image_kps, "image_kps")
        check_control_net(control_net, tokens[0].shape[-1])
        guide = FaceGuide(control_net, image_kps, strength, start_at, end_at, as_masks(mask))
        if guide.idle:
            return nothing_to_do(f"InstantID ControlNet: nothing to do, {guide.idle}.", positive, negative)
        texts = logged(undrawn(image_kps))
        return with_notices(texts, *guide_by_face(positive, negative, guide, tokens))

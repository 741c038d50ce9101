"""The nodes of InstantID: all in one, and separate ones for attention and ControlNet."""

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

NO_FACE = "InstantID: nothing to do, no reference image shows the chosen face."
AS_WEIGHT = -1.0  # of cn_strength


class MegapixelInstantIDApply(io.ComfyNode):
    """InstantID as a whole: the face in the attention, and the ControlNet for its pose."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MegapixelInstantIDApply",
            display_name="Apply InstantID (Megapixel)",
            category="model/patch/unet",
            description=(
                "Puts a person's face into SDXL images: attention to the face keeps the identity, and "
                "InstantID's ControlNet controls the pose. The face is computed once, so sampling is hardly "
                "slower. For several people chain these nodes, each with its own mask, weight, start_at and "
                "end_at. Use a cfg of 4 to 5."
            ),
            search_aliases=[
                "ApplyInstantID",
                "ApplyInstantIDAdvanced",
                "InstantID",
                "face identity",
                "faceid",
            ],
            inputs=[
                sdxl_socket(),  # in the order of the outputs, for Bypass
                *conditioning_sockets(),
                instant_id_socket(),
                analysis_socket(),
                control_net_socket(),
                reference_socket(),
                strength_socket(
                    "weight",
                    0.8,
                    (0.0, 5.0),
                    "Strength of the face in the attention, and of the ControlNet unless cn_strength is "
                    "set. 0.6 to 1 is usual; 0 turns the face off.",
                ),
                *window_sockets(),
                keypoints_socket(
                    "An image of a face in the wanted pose, or keypoints from Face Keypoints. If empty, the "
                    "pose comes from the reference image.",
                    optional=True,
                ),
                mask_socket(
                    "Region of the image for the face and the prompt, at any size. One mask for each image "
                    "of a batch, or one for all."
                ),
                strength_socket(
                    "cn_strength",
                    AS_WEIGHT,
                    (AS_WEIGHT, 10.0),
                    "Strength of the ControlNet only. -1 uses weight; 0 turns the ControlNet off; less than "
                    "weight gives a freer pose.",
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
                "Puts a person's face into SDXL images through the attention only; the pose stays free. To "
                "control the pose too, connect FACE_EMBEDS to InstantID ControlNet. For several people "
                "chain these nodes, each with its own mask, weight, start_at and end_at."
            ),
            search_aliases=["InstantIDAttentionPatch", "InstantID Patch Attention", "InstantID", "face identity"],
            inputs=[
                sdxl_socket(),  # first, like the output: a bypassed node passes it through
                instant_id_socket(),
                analysis_socket(),
                reference_socket(),
                strength_socket(
                    "weight", 1.0, (-1.0, 3.0), "Strength of the face. 0.6 to 1.2 is usual; 0 changes "
                                                "nothing, below 0 moves away from the face.",
                ),
                *window_sockets(),
                noise_socket(0.0),
                mask_socket("Region of the image for the face, at any size. One mask for each image of a "
                "batch, or one for all."),
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
    """The ControlNet for the pose of a face, which reads the face instead of the prompt."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MegapixelInstantIDControlNet",
            display_name="InstantID ControlNet (Megapixel)",
            category="model/conditioning/controlnet",
            description=(
                "Controls the pose of a face with InstantID's ControlNet, which reads the face instead of "
                "the prompt. Use it after InstantID Attention, which outputs FACE_EMBEDS. Other ControlNets "
                "on the conditioning stay and keep reading the prompt."
            ),
            search_aliases=["ApplyInstantIDControlNet", "InstantID Apply ControlNet", "InstantID", "face pose"],
            inputs=[
                *conditioning_sockets(),  # in the order of the outputs, for Bypass
                FaceEmbedsSocket.Input("face_embeds", tooltip="From InstantID Attention, or from the "
                "original pack's node."),
                control_net_socket(),
                keypoints_socket("Keypoints of the face, from Face Keypoints."),
                strength_socket(
                    "strength", 1.0, (0.0, 10.0), "Strength of the ControlNet. 0.4 to 1 is usual; 0 changes "
                                                  "nothing."
                ),
                *window_sockets(),
                mask_socket("Region of the image for the prompt: it limits the positive conditioning."),
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
            text = "InstantID ControlNet: nothing to do, InstantID Attention found no face."
            return nothing_to_do(text, positive, negative)
        tokens = tokens_of(face_embeds)
        check_pixels(image_kps, "image_kps")
        check_control_net(control_net, tokens[0].shape[-1])
        guide = FaceGuide(control_net, image_kps, strength, start_at, end_at, as_masks(mask))
        if guide.idle:
            return nothing_to_do(f"InstantID ControlNet: nothing to do, {guide.idle}.", positive, negative)
        texts = logged(undrawn(image_kps))
        return with_notices(texts, *guide_by_face(positive, negative, guide, tokens))

"""The node that draws the keypoints of a face for InstantID's ControlNet."""

from __future__ import annotations

import comfy.model_management
import torch
from comfy_api.latest import io

from ..faces.boxes import draw_boxes
from ..faces.choose import WHICH, order_faces
from ..faces.draw import draw_keypoints
from ..host.faces import ALL, ERROR, PASS_THROUGH, choose_faces, faces_in, to_bytes
from ..host.notice import nothing_to_do
from .face_sockets import FaceAnalysis, face_index_socket, which_face_socket


class MegapixelFaceKeypoints(io.ComfyNode):
    """The keypoints image, one for each image."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MegapixelFaceKeypoints",
            display_name="Face Keypoints (Megapixel)",
            category="image/preprocessors",
            description=(
                "Draws eyes, nose and mouth corners as keypoints for InstantID's ControlNet. They set the "
                "position, size and direction of the face, not who it is. Each image gives one result, "
                "black if it has no face. The second output shows every face with its number."
            ),
            search_aliases=["FaceKeypointsPreprocessor", "InstantID", "face keypoints", "landmarks", "kps"],
            inputs=[
                FaceAnalysis.Input(
                    "faceanalysis",
                    tooltip="From Face Analysis, or from another pack's InstantID face analysis.",
                ),
                io.Image.Input("image", tooltip="One image or a batch: grey, RGB or RGBA, any size."),
                which_face_socket(ALL),
                face_index_socket(),
                io.Combo.Input(
                    "on_no_face",
                    options=[PASS_THROUGH, ERROR],
                    optional=True,
                    tooltip="What to do if an image does not have the chosen face. pass through: its result "
                    "is black, and the log lists it. error: stop with an error that lists it.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="keypoints", tooltip="For image_kps of the InstantID nodes."),
                io.Image.Output(display_name="boxes", tooltip="Every face with its number, for viewing."),
            ],
        )

    @classmethod
    def execute(
        cls, faceanalysis, image, which_face=WHICH[0], face_index=0, on_no_face=PASS_THROUGH
    ) -> io.NodeOutput:
        found, size = faces_in(faceanalysis, image), (image.shape[1], image.shape[2])
        chosen = choose_faces(found, size, which_face, face_index, on_no_face, "The result is black there.")
        keypoints = [draw_keypoints(faces, size) for faces in chosen]
        boxes = [
            draw_boxes(to_bytes(picture), order_faces(faces, size, which_face))
            for picture, faces in zip(image, found, strict=True)
        ]
        device = comfy.model_management.intermediate_device()
        result = torch.stack(keypoints).to(device), torch.stack(boxes).to(device)
        if any(chosen):
            return io.NodeOutput(*result)
        text = "image: nothing to do, no image shows the chosen face: the keypoints are black."
        return nothing_to_do(text, *result)

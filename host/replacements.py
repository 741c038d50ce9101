"""Nodes of other packs, and which of ours replace them if no installed pack has them.

ComfyUI offers the replacement when such a graph is opened, and replaces nodes in a prompt that is sent to the
API. In such a prompt it fails on a node without `_meta`, and on a node with an optional input that is not
connected; so a handler of this pack replaces them earlier.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from comfy_api.latest import ComfyAPI, io

from .compat import prompt_server

SEED_CONTROL = "control_after_generate"  # saved by the front end after a seed; in no prompt
ENLARGING = "rescale_factor resampling_method supersample rounding_modulus"
SAMPLING = f"seed {SEED_CONTROL} steps cfg sampler_name scheduler"
PASTING = "denoise feather inpaint_model noise_mask_feather"
SEGS_OPTIONS = "upscale_model_opt upscaler_hook_opt scheduler_func_opt"
ORIGINAL_LOOK = {"middle_block": False}  # which the original Apply nodes skip
ORIGINAL_SEGS = {
    "overlaps": "in order",
    "smallest_crop": 8,
}  # each sees those before it, and no more than its crop


def replacement(
    known: str,
    ours: str,
    links: str,
    widgets: str = "",
    outputs: int = 1,
    renamed: Mapping[str, str] = MappingProxyType({}),
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> io.NodeReplace:
    """Return the data that ComfyUI needs for one replacement.

    Args:
        known, ours: ids of nodes.
        links, widgets: the original node's inputs. Graphs save the values of widgets in this order only.
        outputs: number of outputs of the original node; ours begin with the same ones.
        renamed: the name of an input in ours, if it differs.
        settings: values for ours, if its default differs from the original node's behaviour.
    """
    inputs = [name for name in (*links.split(), *widgets.split()) if name != SEED_CONTROL]
    return io.NodeReplace(
        new_node_id=ours,
        old_node_id=known,
        old_widget_ids=widgets.split(),
        input_mapping=[
            *({"new_id": renamed.get(name, name), "old_id": name} for name in inputs),
            *({"new_id": name, "set_value": value} for name, value in settings.items()),
        ],
        output_mapping=[{"new_idx": index, "old_idx": index} for index in range(outputs)],
    )


REPLACEMENTS = (
    replacement(
        "ApplyRAUNet", "MegapixelRAUNet", "model",
        "input_blocks output_blocks time_mode start_time end_time upscale_mode ca_start_time ca_end_time "
        "ca_input_blocks ca_output_blocks ca_upscale_mode ca_downscale_mode ca_downscale_factor "
        "two_stage_upscale_mode yaml_parameters",
    ),
    replacement(
        "ApplyRAUNetSimple", "MegapixelRAUNetSimple", "model",
        "model_type res_mode upscale_mode ca_upscale_mode",
    ),
    replacement(
        "ApplyMSWMSAAttention", "MegapixelMSWMSA", "model",
        "input_blocks middle_blocks output_blocks time_mode start_time end_time yaml_parameters",
    ),
    replacement("ApplyMSWMSAAttentionSimple", "MegapixelMSWMSASimple", "model", "model_type"),
    replacement("InstantIDModelLoader", "MegapixelInstantIDLoader", "", "instantid_file"),
    replacement("InstantIDFaceAnalysis", "MegapixelFaceAnalysis", "", "provider"),
    replacement(
        "ApplyInstantID", "MegapixelInstantIDApply",
        "instantid insightface control_net image model positive negative image_kps mask",
        "weight start_at end_at", outputs=3, settings=ORIGINAL_LOOK,
    ),
    replacement(
        "ApplyInstantIDAdvanced", "MegapixelInstantIDApply",
        "instantid insightface control_net image model positive negative image_kps mask",
        "ip_weight cn_strength start_at end_at noise combine_embeds",
        outputs=3, renamed={"ip_weight": "weight"}, settings=ORIGINAL_LOOK,
    ),
    replacement(
        "InstantIDAttentionPatch", "MegapixelInstantIDAttention", "instantid insightface image model mask",
        "weight start_at end_at noise", outputs=2,
    ),
    replacement(
        "ApplyInstantIDControlNet", "MegapixelInstantIDControlNet",
        "face_embeds control_net image_kps positive negative mask", "strength start_at end_at", outputs=2,
    ),
    replacement("FaceKeypointsPreprocessor", "MegapixelFaceKeypoints", "faceanalysis image"),
    replacement(
        "SEGSUpscaler", "MegapixelSEGSUpscale", f"image segs model clip vae positive negative {SEGS_OPTIONS}",
        f"{ENLARGING} {SAMPLING} {PASTING}", settings=ORIGINAL_SEGS,
    ),
    replacement(
        "SEGSUpscalerPipe", "MegapixelSEGSUpscalePipe", f"image segs basic_pipe {SEGS_OPTIONS}",
        f"{ENLARGING} {SAMPLING} {PASTING}", settings=ORIGINAL_SEGS,
    ),
    replacement(
        "MaskToSEGS", "MegapixelMaskToSEGS", "mask", "combined crop_factor bbox_fill drop_size contour_fill"
    ),
)  # fmt: skip


async def offer_replacements() -> None:
    """Register all replacements with ComfyUI, and make them in prompts over HTTP."""
    if (server := prompt_server()) is None:
        return
    for entry in REPLACEMENTS:
        await ComfyAPI().node_replacement.register(entry)
    server.add_on_prompt_handler(replace_known)


def replace_known(body: dict[str, Any]) -> dict[str, Any]:
    """Replace original nodes by ours in a posted prompt, and return it."""
    for node in body.get("prompt", {}).values():
        if chosen := _replacement_of(node.get("class_type")):
            node["class_type"] = chosen.new_node_id
            node["inputs"] = _inputs(node.get("inputs", {}), chosen.input_mapping)
    return body


def _replacement_of(known: Any) -> io.NodeReplace | None:
    """Return our replacement of a node that no pack has, unless another pack's comes first."""
    if known in sys.modules["nodes"].NODE_CLASS_MAPPINGS:  # the host's nodes.py
        return None
    offered = prompt_server().node_replace_manager.get_replacement(known)
    return offered[0] if offered and offered[0] in REPLACEMENTS else None


def _inputs(given: dict[str, Any], mapping: Any) -> dict[str, Any]:
    """Return the inputs of our node: the given ones, by our names, and the fixed settings."""
    kept = {entry["new_id"]: given[entry["old_id"]] for entry in mapping if entry.get("old_id") in given}
    return kept | {entry["new_id"]: entry["set_value"] for entry in mapping if "set_value" in entry}

"""Nodes of other packs as they appear in workflows, and packs that define such nodes without any function.

Only names, types, order, defaults and ranges: the parts that saved graphs and prompts contain.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Inputs = dict[str, dict[str, Any]]  # as a node's INPUT_TYPES gives them

SEED_CONTROL = "control_after_generate"
_WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}

_SCALES = ["bicubic", "bislerp", "bilinear", "nearest-exact", "nearest", "area"]
_TIME_MODE = [["percent", "timestep", "sigma"]]
_MODEL_TYPE = [["auto", "SD15", "SDXL"]]
_YAML = ["STRING", {"default": "", "multiline": True}]
_START = ["FLOAT", {"default": 0.0, "min": 0.0, "max": 1.0, "step": 0.001}]
_END = ["FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.001}]
_NOISE = ["FLOAT", {"default": 0.0, "min": 0.0, "max": 1.0, "step": 0.1}]


def _text(default: str) -> list[Any]:
    return ["STRING", {"default": default}]


def _time(default: float) -> list[Any]:
    return ["FLOAT", {"default": default, "min": 0.0, "max": 999.0, "step": 0.01}]


def _strength(default: float, low: float, high: float) -> list[Any]:
    return ["FLOAT", {"default": default, "min": low, "max": high, "step": 0.01}]


def _face_and_prompt(widgets: dict[str, Any]) -> Inputs:
    required = {
        "instantid": ["INSTANTID"], "insightface": ["FACEANALYSIS"], "control_net": ["CONTROL_NET"],
        "image": ["IMAGE"],
        "model": ["MODEL"], "positive": ["CONDITIONING"], "negative": ["CONDITIONING"],
    }  # fmt: skip
    return {"required": required | widgets, "optional": {"image_kps": ["IMAGE"], "mask": ["MASK"]}}


def _segs_upscaler(models: dict[str, Any], prompts: dict[str, Any]) -> Inputs:
    return {
        "required": {
            "image": ["IMAGE"], "segs": ["SEGS"], **models,
            "rescale_factor": ["FLOAT", {"default": 2, "min": 0.01, "max": 100.0, "step": 0.01}],
            "resampling_method": [["lanczos", "nearest", "bilinear", "bicubic"]],
            "supersample": [["true", "false"]],
            "rounding_modulus": ["INT", {"default": 8, "min": 8, "max": 1024, "step": 8}],
            "seed": ["INT", {"default": 0, "min": 0, "max": 0xFFFFFFFFFFFFFFFF}],
            "steps": ["INT", {"default": 20, "min": 1, "max": 10000}],
            "cfg": ["FLOAT", {"default": 8.0, "min": 0.0, "max": 100.0}],
            "sampler_name": [["euler"]],
            "scheduler": [["normal", "AYS SDXL", "AYS SD1", "AYS SVD", "GITS[coeff=1.2]"]],
            **prompts,
            "denoise": ["FLOAT", {"default": 0.5, "min": 0.0001, "max": 1.0, "step": 0.01}],
            "feather": ["INT", {"default": 5, "min": 0, "max": 100}],
            "inpaint_model": ["BOOLEAN", {"default": False}],
            "noise_mask_feather": ["INT", {"default": 20, "min": 0, "max": 100}],
        },
        "optional": {
            "upscale_model_opt": ["UPSCALE_MODEL"], "upscaler_hook_opt": ["UPSCALER_HOOK"],
            "scheduler_func_opt": ["SCHEDULER_FUNC"],
        },
    }  # fmt: skip


HIDIFFUSION: dict[str, tuple[Inputs, list[str]]] = {  # id -> inputs and outputs
    "ApplyRAUNet": ({
        "required": {
            "model": ["MODEL"], "input_blocks": _text("3"), "output_blocks": _text("8"),
            "time_mode": _TIME_MODE, "start_time": _time(0.0), "end_time": _time(0.45),
            "upscale_mode": [_SCALES], "ca_start_time": _time(0.0), "ca_end_time": _time(0.3),
            "ca_input_blocks": _text("4"), "ca_output_blocks": _text("8"), "ca_upscale_mode": [_SCALES],
            "ca_downscale_mode": [["avg_pool2d", "adaptive_avg_pool2d", *_SCALES]],
            "ca_downscale_factor": ["FLOAT", {"default": 2.0, "min": 0.01, "step": 0.1}],
            "two_stage_upscale_mode": [["disabled", *_SCALES]],
        },
        "optional": {"yaml_parameters": _YAML},
    }, ["MODEL"]),
    "ApplyRAUNetSimple": ({
        "required": {
            "model": ["MODEL"], "model_type": _MODEL_TYPE,
            "res_mode": [["low (1024 or lower)", "high (1536-2048)", "ultra (over 2048)"]],
            "upscale_mode": [["default", *_SCALES]], "ca_upscale_mode": [["default", *_SCALES]],
        },
    }, ["MODEL"]),
    "ApplyMSWMSAAttention": ({
        "required": {
            "input_blocks": _text("1,2"), "middle_blocks": _text(""), "output_blocks": _text("9,10,11"),
            "time_mode": _TIME_MODE, "start_time": _time(0.0), "end_time": _time(1.0), "model": ["MODEL"],
        },
        "optional": {"yaml_parameters": _YAML},
    }, ["MODEL"]),
    "ApplyMSWMSAAttentionSimple": ({"required": {"model_type": _MODEL_TYPE, "model": ["MODEL"]}}, ["MODEL"]),
}  # fmt: skip
INSTANT_ID: dict[str, tuple[Inputs, list[str]]] = {
    "InstantIDModelLoader": ({"required": {"instantid_file": [[]]}}, ["INSTANTID"]),
    "InstantIDFaceAnalysis": ({"required": {"provider": [["CPU", "CUDA", "ROCM"]]}}, ["FACEANALYSIS"]),
    "ApplyInstantID": (
        _face_and_prompt({"weight": _strength(0.8, 0.0, 5.0), "start_at": _START, "end_at": _END}),
        ["MODEL", "CONDITIONING", "CONDITIONING"],
    ),
    "ApplyInstantIDAdvanced": (
        _face_and_prompt({
            "ip_weight": _strength(0.8, 0.0, 3.0), "cn_strength": _strength(0.8, 0.0, 10.0),
            "start_at": _START, "end_at": _END, "noise": _NOISE,
            "combine_embeds": [["average", "norm average", "concat"], {"default": "average"}],
        }),
        ["MODEL", "CONDITIONING", "CONDITIONING"],
    ),
    "InstantIDAttentionPatch": ({
        "required": {
            "instantid": ["INSTANTID"], "insightface": ["FACEANALYSIS"], "image": ["IMAGE"],
            "model": ["MODEL"],
            "weight": _strength(1.0, -1.0, 3.0), "start_at": _START, "end_at": _END, "noise": _NOISE,
        },
        "optional": {"mask": ["MASK"]},
    }, ["MODEL", "FACE_EMBEDS"]),
    "ApplyInstantIDControlNet": ({
        "required": {
            "face_embeds": ["FACE_EMBEDS"], "control_net": ["CONTROL_NET"], "image_kps": ["IMAGE"],
            "positive": ["CONDITIONING"], "negative": ["CONDITIONING"],
            "strength": _strength(1.0, 0.0, 10.0), "start_at": _START, "end_at": _END,
        },
        "optional": {"mask": ["MASK"]},
    }, ["CONDITIONING", "CONDITIONING"]),
    "FaceKeypointsPreprocessor": (
        {"required": {"faceanalysis": ["FACEANALYSIS"], "image": ["IMAGE"]}}, ["IMAGE"]
    ),
}  # fmt: skip
_PROMPTS = {"positive": ["CONDITIONING"], "negative": ["CONDITIONING"]}
SEGS: dict[str, tuple[Inputs, list[str]]] = {
    "SEGSUpscaler": (
        _segs_upscaler({"model": ["MODEL"], "clip": ["CLIP"], "vae": ["VAE"]}, _PROMPTS), ["IMAGE"]
    ),
    "SEGSUpscalerPipe": (_segs_upscaler({"basic_pipe": ["BASIC_PIPE"]}, {}), ["IMAGE"]),
    "MaskToSEGS": ({
        "required": {
            "mask": ["MASK"], "combined": ["BOOLEAN", {"default": False}],
            "crop_factor": ["FLOAT", {"default": 3.0, "min": 1.0, "max": 100, "step": 0.1}],
            "bbox_fill": ["BOOLEAN", {"default": False}],
            "drop_size": ["INT", {"min": 1, "max": 8192, "step": 1, "default": 10}],
            "contour_fill": ["BOOLEAN", {"default": False}],
        },
    }, ["SEGS"]),
}  # fmt: skip
KNOWN = {**HIDIFFUSION, **INSTANT_ID, **SEGS}


def saved_widgets(inputs: Inputs) -> list[str]:
    """Return the names of the widget values that a saved graph has for such a node, in their order."""
    names: list[str] = []
    for group in inputs.values():
        for name, (kind, *_) in group.items():
            if isinstance(kind, list) or kind in _WIDGETS:
                names += [name, SEED_CONTROL] if name == "seed" else [name]
    return names


_PACK = '''"""Nodes that log that they ran, and return what they were given of each output's type."""

import json
from pathlib import Path


def node(name, inputs, outputs):
    kinds = {key: kind for group in inputs.values() for key, (kind, *_) in group.items()}

    def run(self, **given):
        print("original node ran:", name)
        return tuple(next((v for k, v in given.items() if kinds[k] == kind), None) for kind in outputs)

    return type(name, (), {
        "INPUT_TYPES": classmethod(lambda cls: inputs), "RETURN_TYPES": tuple(outputs), "FUNCTION": "run",
        "CATEGORY": "known", "run": run,
    })


TABLE = json.loads(Path(__file__).with_name("nodes.json").read_text(encoding="utf-8"))
NODE_CLASS_MAPPINGS = {name: node(name, *sides) for name, sides in TABLE.items()}
'''


def write_pack(folder: Path, known: Iterable[str]) -> Path:
    """Write a custom node pack that defines nodes with these ids, and return its folder."""
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(_PACK, encoding="utf-8")
    (folder / "nodes.json").write_text(json.dumps({name: KNOWN[name] for name in known}), encoding="utf-8")
    return folder

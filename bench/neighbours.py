"""Effects together with other packs: whether each effect acts, or logs that it does not, and leaves
everything else unchanged.

    python3 dev.py bench neighbours --packs FOLDER

FOLDER contains other packs like ComfyUI's `custom_nodes`; missing packs have no row. Nodes of the host always
have rows. For every neighbour and effect: ours before it at an even size, twice, and after it at an odd size,
two images in a batch. A cell states:

    acts            the effect changes the images that the neighbour gives alone
    logs            it changes nothing, and a log line of this run says so
    SILENT          it changes nothing, and no line says so
    FAILS: ...      the error message

InstantID is for SDXL alone; its two images have two masks. `plain` is whether the model without effects gives
the same bits afterwards, `same seed` whether both runs did; where they did not, whether the neighbour alone
does. Weights are random.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from devhost.host import import_host, import_pack

import_host()

import comfy.hooks
import comfy.model_management
import comfy.samplers
import torch
from megapixel.attention.instant_id import FaceKeys
from megapixel.patches.deep_shrink import DeepShrink, apply_deep_shrink
from megapixel.patches.hidiffusion import HiDiffusion, apply_hidiffusion
from megapixel.patches.instant_id import Person, apply_instant_id, cross_attentions
from megapixel.patches.rau_net import apply_rau_net
from megapixel.patches.rau_net_preset import original_preset
from megapixel.patches.rau_net_published import kind_of
from megapixel.patches.topology import topology_of

from devhost.sampling import sample
from devhost.tiny import random_models, topology
from devhost.tiny.random_faces import as_bin

from .originals import INSTANT_ID, JANK, RESOLUTIONS, Analysis, instant_id_state, people, simple_rau_net

SIZES = ((24, 20), (25, 19))  # with ours first, with ours last
TRAINED = 96
SHALLOW = {
    "transformer_depth": [0, 0, 2, 2, 1, 1],
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 1, 1, 1],
    "transformer_depth_middle": 1,
}
UNETS: dict[str, Callable[[], Any]] = {
    "SD 1.5": random_models.sd15,
    "SDXL": partial(random_models.sdxl, **SHALLOW),
}
ZERO123 = "Stable Zero123"
MODELS: dict[str, Callable[[], Any]] = {**UNETS, ZERO123: random_models.zero123}


def _rau_net(model: Any) -> Any:
    found = topology_of(model.get_model_object("diffusion_model"))
    lightest = "low" if kind_of(found) == "sd" else "ultra"  # the first that rescales SDXL with both pairs
    return apply_rau_net(model, original_preset(found, lightest))


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _face(model: Any) -> Any:
    widths = tuple(cross_attentions(model.get_model_object("diffusion_model")).values())
    left = (torch.arange(64) < 32).float().repeat(64, 1)
    person = Person(FaceKeys(random(2, 2, 16, sum(widths)), widths), 0.8, mask=torch.stack([left, 1 - left]))
    return apply_instant_id(model, person)


Effects = dict[str, Callable[[Any], Any]]
ONLY_SDXL = "InstantID"
EFFECTS: Effects = {
    "Deep Shrink": lambda model: apply_deep_shrink(model, DeepShrink(mode="auto", trained_size=TRAINED)),
    "RAU-Net": _rau_net,
    "HiDiffusion": lambda model: apply_hidiffusion(model, HiDiffusion(trained_size=TRAINED)),
    "HiDiffusion published": lambda model: apply_hidiffusion(
        model, HiDiffusion(mode="published", trained_size=TRAINED)
    ),
    "InstantID": _face,
}
DID_NOTHING = ("nothing to do", "did nothing in this run", ": skipped ")


@dataclass(frozen=True)
class Neighbour:
    """Other code: `apply(model, pack)` returns the model with it, `settings(model, pack)` further inputs of
    the sampler.

    `guider(model)` samples in the place of the usual one; `surroundings(model)` is what all runs happen in.
    """

    name: str
    apply: Callable[[Any, Any], Any] = lambda model, pack: model
    pack: str | None = None
    settings: Callable[[Any, Any], dict[str, Any]] = lambda model, pack: {}
    families: tuple[str, ...] = tuple(UNETS)
    surroundings: Callable[[Any], Any] | None = None
    guider: Callable[[Any], Any] | None = None


@dataclass
class Outcome:
    """The results of one effect together with one neighbour."""

    cells: list[str] = field(default_factory=list[str])
    repeats: bool = True

    def __str__(self) -> str:
        different = list(dict.fromkeys(self.cells))
        if len(different) == 1:
            return different[0]
        return f"{self.cells[0]}; behind it {self.cells[1]}"


def host_node(module: str, name: str) -> Any:
    return getattr(importlib.import_module(f"comfy_extras.{module}"), name)


def of_host(module: str, name: str, *settings: Any) -> Callable[[Any, Any], Any]:
    return lambda model, pack: host_node(module, name).execute(model, *settings)[0]


def of_pack(name: str, method: str, *settings: Any, **named: Any) -> Callable[[Any, Any], Any]:
    """Return the function of a node of a pack, found by the name of its class."""

    def apply(model: Any, pack: Any) -> Any:
        return getattr(pack.NODE_CLASS_MAPPINGS[name](), method)(model, *settings, **named)[0]

    return apply


def from_module(
    module: str, name: str, method: str, *settings: Any, **named: Any
) -> Callable[[Any, Any], Any]:
    def apply(model: Any, pack: Any) -> Any:
        owner = getattr(importlib.import_module(f"{pack.__name__}.{module}"), name)
        return getattr(owner(), method)(model, *settings, **named)[0]

    return apply


def _computing_in(dtype: torch.dtype) -> Callable[[Any, Any], Any]:
    def apply(model: Any, pack: Any) -> Any:
        clone = model.clone()
        clone.set_model_compute_dtype(dtype)
        return clone

    return apply


@contextmanager
def _lowvram(model: Any) -> Iterator[None]:
    """As under `--lowvram` with no memory for weights: the host casts them layer by layer.

    It thinks of this CPU as a GPU.
    """
    management = comfy.model_management
    before = management.is_device_cpu, management.vram_state
    management.unload_all_models()
    management.is_device_cpu, management.vram_state = lambda device: False, management.VRAMState.NO_VRAM
    try:
        yield
    finally:
        management.unload_all_models()
        management.is_device_cpu, management.vram_state = before


def _guided(module: str, name: str, *cfg: Any) -> Callable[[Any], Any]:
    """Return a guider of three conditionings."""

    def make(model: Any) -> Any:
        guider = host_node(module, name)(model)
        guider.set_conds(*(random_models.conditioning(model, seed) for seed in (1, 2, 3)))
        guider.set_cfg(*cfg)
        return guider

    return make


def _projections(model: Any) -> dict[str, torch.Tensor]:
    """Return random projections of image tokens, one pair for each cross-attention that
    a pack numbers in a full-size model.
    """
    unet = model.get_model_object("diffusion_model")
    context = model.model.model_config.unet_config["context_dim"]
    widths = {layer[:2]: width for layer, width in cross_attentions(unet).items()}
    if context == 768:
        layers: list[tuple[Any, int]] = [(("input", each), 1) for each in (1, 2, 4, 5, 7, 8)]
        layers += [(("output", each), 1) for each in range(3, 12)]
        layers += [(("middle", 0), 1)]
    else:
        layers = [(("input", each), 2 if each < 6 else 10) for each in (4, 5, 7, 8)]
        layers += [(("output", each), 2 if each > 2 else 10) for each in range(6)]
        layers += [(("middle", 0), 10)]
    each = [widths[block] for block, depth in layers for _ in range(depth)]
    return {
        f"{2 * number + 1}.{part}.weight": random(width, context, seed=number) / context**0.5
        for number, width in enumerate(each)
        for part in ("to_k_ip", "to_v_ip")
    }


def _ip_adapter(model: Any, pack: Any) -> Any:
    context, size = model.model.model_config.unet_config["context_dim"], 16
    projection = {
        "proj.weight": random(4 * context, size), "proj.bias": torch.zeros(4 * context),
        "norm.weight": torch.ones(context), "norm.bias": torch.zeros(context),
    }  # fmt: skip
    weights = {"image_proj": projection, "ip_adapter": _projections(model)}
    node, image, none = pack.NODE_CLASS_MAPPINGS["IPAdapterEmbeds"](), random(1, size), torch.zeros(1, size)
    return node.apply_ipadapter(model, weights, image, 1.0, "linear", 0.0, 1.0, neg_embed=none)[0]


def _pulid(model: Any, pack: Any) -> Any:
    """PuLID's own node, with random tokens in the place of what its networks would read from a picture."""
    module: Any = importlib.import_module(f"{pack.__name__}.pulid")
    context = model.model.model_config.unet_config["context_dim"]

    class Helper:
        def __init__(self, **_: Any) -> None:
            self.cropped_faces = [(random(32, 32, 3).sigmoid() * 255).byte().numpy()]
            self.face_parse: Any = None

        def __getattr__(self, name: str) -> Any:
            return lambda *args, **kwargs: None

    class Pulid(torch.nn.Module):
        ip_layers = module.To_KV(_projections(model))

        def get_image_embeds(self, face: torch.Tensor, hidden: Any) -> torch.Tensor:
            return random(1, 16, context, seed=int(face.abs().sum() > 0))

    class Eyes(torch.nn.Module):
        image_size, image_mean, image_std = 16, (0.5,) * 3, (0.5,) * 3

        def forward(self, picture: torch.Tensor, **_: Any) -> Any:
            return random(1, 8), [random(1, 8)]

    module.FaceRestoreHelper = Helper
    module.init_parsing_model = lambda **_: lambda picture: [torch.zeros(1, 19, 32, 32)]
    faces = SimpleNamespace(
        det_model=SimpleNamespace(),
        get=lambda picture: [SimpleNamespace(bbox=(0, 0, 9, 9), embedding=random(512).numpy())],
    )
    return module.ApplyPulid().apply_pulid(
        model,
        Pulid(),
        Eyes(),
        faces,
        torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(0)),
        1.0,
        0.0,
        1.0,
        "fidelity",
    )[0]


def _original_face(model: Any, pack: Any) -> tuple[Any, Any, Any]:
    """InstantID by its original node: the model and both conditionings."""
    network = sys.modules[f"{pack.__name__}.InstantID"].InstantID(as_bin(instant_id_state()), 128, 2048)
    conditions = [random_models.conditioning(model, seed) for seed in (1, 2)]
    control = random_models.controlnet(topology.SDXL, effect=0.3)
    apply = pack.NODE_CLASS_MAPPINGS["ApplyInstantIDAdvanced"]().apply_instantid
    with torch.inference_mode():
        return apply(
            network, Analysis(), control, people(2), model, *conditions, ip_weight=0.8, cn_strength=0.8,
            start_at=0.0, end_at=1.0, noise=0.35,
        )  # fmt: skip


def _original_face_conditions(model: Any, pack: Any) -> dict[str, Any]:
    _, positive, negative = _original_face(model, pack)
    return {"positive": positive, "negative": negative}


def _original_rau_net(model: Any, pack: Any) -> Any:
    sys.modules[f"{pack.__name__}.py.raunet"].GLOBAL_STATE.no_controlnet_workaround = True
    return simple_rau_net(pack.NODE_CLASS_MAPPINGS, model, RESOLUTIONS["ultra"])


def _original_windows(model: Any, pack: Any) -> Any:
    return pack.NODE_CLASS_MAPPINGS["ApplyMSWMSAAttentionSimple"].go("auto", model)[0]


def _attention_couple(model: Any, pack: Any) -> dict[str, Any]:
    couple = importlib.import_module(f"{pack.__name__}.prompt_control.attention_couple_ppm").set_cond_attnmask
    [base], [other] = (random_models.conditioning(model, seed) for seed in (1, 5))
    left = (torch.arange(64) < 32).float().repeat(1, 64, 1)
    other[1].update(mask=left, mask_strength=1.0)
    return {"positive": couple([base], [other], fill=True)}


def _motion(model: Any, pack: Any, frames: int = 2) -> Any:
    """AnimateDiff with random motion weights a tenth as wide as the real ones,
    in contexts of `frames` of the batch.
    """
    module: Any = importlib.import_module(f"{pack.__name__}.animatediff.motion_module_ad")
    injection = importlib.import_module(f"{pack.__name__}.animatediff.model_injection")
    context = 2 if model.model.model_config.unet_config["context_dim"] == 2048 else 3
    place = "transformer_blocks.0.attention_blocks.1.pos_encoder.pe"
    keys = {
        f"{part}.{context}.motion_modules.0.temporal_transformer.{place}": torch.zeros(1, 24, 1)
        for part in ("down_blocks", "up_blocks")
    }
    kind = "SDXL" if context == 2 else "SD1.5"
    info = module.AnimateDiffInfo(
        sd_type=kind,
        mm_format=module.AnimateDiffFormat.ANIMATEDIFF,
        mm_version=module.AnimateDiffVersion.V2,
        mm_name="random",
    )
    whole = module.MotionModule
    module.MotionModule = lambda channels, **named: whole(channels // 10, **named)
    try:
        network = module.AnimateDiffModel(mm_state_dict=keys, mm_info=info)
    finally:
        module.MotionModule = whole
    weights = random_models.random_state(network, 0)
    network.load_state_dict(weights, strict=False)
    cpu = torch.device("cpu")
    motion = injection.create_MotionModelPatcher(model=network, load_device=cpu, offload_device=cpu)
    nodes = pack.NODE_CLASS_MAPPINGS
    [models] = nodes["ADE_ApplyAnimateDiffModel"]().apply_motion_model(motion)
    [options] = nodes["ADE_StandardStaticContextOptions"]().create_options(
        context_length=frames, context_overlap=1
    )
    return nodes["ADE_UseEvolvedSampling"]().use_evolved_sampling(
        model, "autoselect", m_models=models, context_options=options
    )[0]


def _areas(model: Any, pack: Any) -> dict[str, Any]:
    quarter = (0.5, 0.5)
    areas = [
        random_models.conditioning(model, 3 + index, area=("percentage", *quarter, top, left))
        for index, (top, left) in enumerate(((0, 0), (0, 0.5), (0.5, 0), (0.5, 0.5)))
    ]
    return {"positive": [entry for area in areas for entry in area]}


def _hooks(model: Any, pack: Any) -> dict[str, Any]:
    group = comfy.hooks.HookGroup()
    weight = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    if weight not in model.model.state_dict():
        weight = "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight"
    hook = comfy.hooks.WeightHook(strength_model=1.0, strength_clip=0.0)
    shape = model.model.state_dict()[weight].shape
    delta = torch.randn(shape, generator=torch.Generator().manual_seed(9)) * 0.1
    hook.weights = {weight: ("diff", (delta,))}
    hook.need_weight_init = False
    frames = comfy.hooks.HookKeyframeGroup()
    frames.add(comfy.hooks.HookKeyframe(strength=1.0, start_percent=0.0))
    frames.add(comfy.hooks.HookKeyframe(strength=0.3, start_percent=0.5))
    hook.hook_keyframe = frames
    group.add(hook)
    return {"positive": random_models.conditioning(model, 1, hooks=group)}


def _lora_hooks(model: Any, pack: Any) -> dict[str, Any]:
    """A LoRA on all attention of the first block with it, as the host's node makes a hook of its file."""
    level = topology_of(model.get_model_object("diffusion_model")).attention_level
    block = "input_blocks_1_1" if level == 0 else "input_blocks_4_1"
    weights = {name.removesuffix(".weight").removeprefix("diffusion_model.").replace(".", "_"): weight
               for name, weight in model.model.state_dict().items() if name.endswith(".weight") and ".attn" in name}  # fmt: skip
    lora: dict[str, torch.Tensor] = {}
    for number, (name, weight) in enumerate(weights.items()):
        if name.startswith(block) and weight.ndim == 2:
            lora[f"lora_unet_{name}.lora_up.weight"] = random(weight.shape[0], 4, seed=number) * 0.1
            lora[f"lora_unet_{name}.lora_down.weight"] = random(4, weight.shape[1], seed=number)
    group = comfy.hooks.create_hook_lora(lora, 1.0, 0.0)
    frames = comfy.hooks.HookKeyframeGroup()
    frames.add(comfy.hooks.HookKeyframe(strength=1.0, start_percent=0.0))
    frames.add(comfy.hooks.HookKeyframe(strength=0.3, start_percent=0.5))
    group.set_keyframes_on_hooks(frames)
    return {"positive": random_models.conditioning(model, 1, hooks=group)}


def _adapter(model: Any, pack: Any) -> dict[str, Any]:
    is_sdxl = model.model.model_config.unet_config["context_dim"] == 2048
    control = random_models.t2i_adapter(is_sdxl)
    hint = torch.linspace(0, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)
    control = control.set_cond_hint(hint, 1.0, (0.0, 1.0))
    return {"positive": random_models.conditioning(model, 1, control=control, control_apply_to_uncond=True)}


def _views(model: Any, pack: Any) -> dict[str, Any]:
    """The conditionings of Zero123: the encoded picture and the camera in one token, and the latent of it."""
    width = model.model.cc_projection.weight.shape[1]
    return {
        name: [[random(1, 1, width, seed=seed), {"concat_latent_image": random(1, 4, 16, 16, seed=seed)}]]
        for seed, name in enumerate(("positive", "negative"))
    }


@contextmanager
def _little_memory(model: Any) -> Iterator[None]:
    """The host calls the UNet once for each conditioning."""
    base = model.model
    base.memory_required = lambda *args, **kwargs: float("inf")
    try:
        yield
    finally:
        del base.memory_required


def _control(model: Any, pack: Any) -> dict[str, Any]:
    advanced = importlib.import_module(f"{pack.__name__}.adv_control.control")
    hint = torch.linspace(0, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)
    control = advanced.convert_to_advanced(random_models.controlnet()).set_cond_hint(hint, 1.0, (0.0, 1.0))
    return {"positive": random_models.conditioning(model, 1, control=control, control_apply_to_uncond=True)}


def _windows(model: Any, pack: Any) -> Any:
    execute = host_node("nodes_context_windows", "ContextWindowsManualNode").execute
    return execute(model, 12, 4, "standard_static", 1, False, "pyramid", 2, False, "", False)[0]


def _sliding(model: Any, pack: Any) -> Any:
    nodes = pack.NODE_CLASS_MAPPINGS
    [context] = nodes["ADE_StandardStaticContextOptions"]().create_options(
        context_length=1, context_overlap=0
    )
    return nodes["ADE_UseEvolvedSampling"]().use_evolved_sampling(
        model, "autoselect", context_options=context
    )[0]


HOST = [
    Neighbour("nothing"),
    Neighbour("ToMe", of_host("nodes_tomesd", "TomePatchModel", 0.3)),
    Neighbour("HyperTile", of_host("nodes_hypertile", "HyperTile", 64, 4, 1, False)),
    Neighbour("SAG", of_host("nodes_sag", "SelfAttentionGuidance", 0.5, 2.0)),
    Neighbour("PAG", of_host("nodes_pag", "PerturbedAttentionGuidance", 3.0)),
    Neighbour("FreeU V2", of_host("nodes_freelunch", "FreeU_V2", 1.3, 1.4, 0.9, 0.2)),
    Neighbour("NAG", of_host("nodes_nag", "NAGuidance", 5.0, 0.5, 1.5)),
    Neighbour("TCFG", of_host("nodes_tcfg", "TCFG")),
    Neighbour("FreSca", of_host("nodes_fresca", "FreSca", 1.0, 1.25, 4)),
    Neighbour("EasyCache", of_host("nodes_easycache", "EasyCacheNode", 0.5, 0.15, 0.95, False)),
    Neighbour("LazyCache", of_host("nodes_easycache", "LazyCacheNode", 0.5, 0.15, 0.95, False)),
    Neighbour("context windows of the trained height", _windows, settings=lambda model, pack: {"batch": 1}),
    Neighbour("four areas of the trained size", settings=_areas),
    Neighbour("hooks with keyframes", settings=_hooks),
    Neighbour("LoRA as a hook with keyframes", settings=_lora_hooks),
    Neighbour("T2I-Adapter", settings=_adapter),
    Neighbour("its own conditionings", settings=_views, families=(ZERO123,)),
    Neighbour("heun, two calls a step", settings=lambda model, pack: {"sampler": "heun"}),
    Neighbour("dpmpp_2s_ancestral", settings=lambda model, pack: {"sampler": "dpmpp_2s_ancestral"}),
    Neighbour("one call a conditioning, as in little memory", surroundings=_little_memory),
    Neighbour("bf16", _computing_in(torch.bfloat16)),
    Neighbour("fp16", _computing_in(torch.float16)),
    Neighbour("low memory: weights cast layer by layer", surroundings=_lowvram),
    Neighbour("CFGNorm", of_host("nodes_cfg", "CFGNorm", 1.0)),
    Neighbour("DualCFGGuider", guider=_guided("nodes_custom_sampler", "Guider_DualCFG", 5.0, 3.0)),
    Neighbour(
        "DualCFGGuider, nested", guider=_guided("nodes_custom_sampler", "Guider_DualCFG", 5.0, 3.0, True)
    ),
    Neighbour("PerpNegGuider", guider=_guided("nodes_perpneg", "Guider_PerpNeg", 5.0, 1.0)),
]
DIFFUSION, GUIDANCE = "ComfyUI-TiledDiffusion", "sd-perturbed-attention"
PACKS = [
    *(
        Neighbour(f"{method}, tiles of {side} px, {batch} a batch",
                  of_pack("TiledDiffusion", "apply", method, side, side, 32, batch), DIFFUSION)
        for method, side, batch in (
            ("MultiDiffusion", 96, 4), ("Mixture of Diffusers", 96, 1), ("Mixture of Diffusers", 144, 4),
            ("SpotDiffusion", 96, 4),
        )
    ),
    Neighbour("DeepCache, every 2nd step", of_pack("DeepCache", "apply", 2, 3, 0, 1000), "ComfyUI-deepcache"),
    Neighbour("WaveSpeed, first block cached", of_pack("ApplyFBCacheOnModel", "patch", "diffusion_model", 0.5, -1, 0.0, 1.0), "Comfy-WaveSpeed"),
    Neighbour("PAG advanced", from_module("pag_nodes", "PerturbedAttention", "patch"), GUIDANCE),
    Neighbour("SEG", from_module("pag_nodes", "SmoothedEnergyGuidanceAdvanced", "patch"), GUIDANCE),
    Neighbour("sliding window guidance", from_module("pag_nodes", "SlidingWindowGuidanceAdvanced", "patch", 5.0, 128, 128, 64), GUIDANCE),
    Neighbour("TPG", from_module("tpg_nodes", "TokenPerturbationGuidance", "patch", 3.0), GUIDANCE),
    Neighbour("PLADIS", from_module("pladis_nodes", "Pladis", "patch", 2.0), GUIDANCE),
    Neighbour("AnimateDiff Evolved, random motion, contexts of two of four frames", _motion, "ComfyUI-AnimateDiff-Evolved", lambda model, pack: {"batch": 4}),
    Neighbour("IPAdapter", _ip_adapter, "ComfyUI_IPAdapter_plus"),
    Neighbour("PuLID", _pulid, "PuLID_ComfyUI", families=("SDXL",)),
    Neighbour("InstantID of cubiq's pack", lambda model, pack: _original_face(model, pack)[0], INSTANT_ID, _original_face_conditions, families=("SDXL",)),
    Neighbour("RAU-Net of jank's pack", _original_rau_net, JANK),
    Neighbour("MSW-MSA of jank's pack", _original_windows, JANK),
    Neighbour("Attention Couple", pack="comfyui-prompt-control", settings=_attention_couple),
    Neighbour("AnimateDiff Evolved, contexts of one frame", _sliding, "ComfyUI-AnimateDiff-Evolved"),
    Neighbour("Advanced ControlNet", pack="ComfyUI-Advanced-ControlNet", settings=_control, families=("SD 1.5",)),
]  # fmt: skip


class Lines(logging.Handler):
    """The log lines of this pack."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        logger = logging.getLogger("megapixel")
        logger.addHandler(self)
        logger.setLevel(logging.INFO)
        logger.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def say_nothing_happened(self) -> bool:
        return any(words in line for line in self.lines for words in DID_NOTHING)


def load_pack(folder: Path) -> Any:
    """Import a pack under the name of its folder."""
    return import_pack(folder, folder.name.replace("-", "_"))


def run(neighbour: Neighbour, model: Any, pack: Any, size: tuple[int, int]) -> torch.Tensor:
    """Sample with a fixed global random state, for neighbours that draw from it, and restore the state."""
    settings: dict[str, Any] = {"batch": 2, "steps": 2, **neighbour.settings(model, pack)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if neighbour.guider:
            return _sample_with(neighbour.guider(model), size)
        return sample(model, size, **settings)


def _sample_with(guider: Any, size: tuple[int, int]) -> torch.Tensor:
    noise, sampler = random(2, 4, *size), comfy.samplers.sampler_object("euler")
    with torch.inference_mode():
        return guider.sample(
            noise, torch.zeros_like(noise), sampler, torch.tensor([9.0, 4.0, 0.0]), disable_pbar=True, seed=0
        )


def compare(
    neighbour: Neighbour, plain: Any, pack: Any, lines: Lines, effects: Effects
) -> dict[str, Outcome]:
    """Return the result of each effect by its name; "" is the neighbour alone."""
    alone = {size: run(neighbour, neighbour.apply(plain, pack), pack, size) for size in SIZES}
    again = run(neighbour, neighbour.apply(plain, pack), pack, SIZES[0])
    outcomes = {"": Outcome(repeats=torch.equal(alone[SIZES[0]], again))}
    for name, effect in effects.items():
        outcome = outcomes[name] = Outcome()
        for size, ours_first in zip(SIZES, (True, False), strict=True):
            lines.lines.clear()
            try:
                results = [
                    run(neighbour, neighbour.apply(effect(plain), pack) if ours_first else effect(neighbour.apply(plain, pack)), pack, size)
                    for _ in range(2 if ours_first else 1)
                ]  # fmt: skip
            except Exception as error:  # any error is a result here
                outcome.cells.append(f"FAILS: {error}".split("\n")[0][:80])
                continue
            outcome.repeats &= torch.equal(results[0], results[-1])
            if not results[0].isfinite().all():
                outcome.cells.append("FAILS: not finite")
            elif not torch.equal(results[0], alone[size]):
                outcome.cells.append("acts")
            else:
                outcome.cells.append("logs" if lines.say_nothing_happened() else "SILENT")
    return outcomes


def rows(family: str, packs: Path | None, only: list[str], done: str) -> Iterator[str]:
    plain, lines = MODELS[family](), Lines()
    effects = {name: effect for name, effect in EFFECTS.items() if family == "SDXL" or name != ONLY_SDXL}
    before = sample(plain, SIZES[1])
    for neighbour in (*HOST, *PACKS):
        folder = packs / neighbour.pack if packs and neighbour.pack else None
        missing = neighbour.pack is not None and (folder is None or not folder.is_dir())
        is_wanted = not only or any(part in neighbour.name for part in only)
        is_done = f"| {neighbour.name} | {family} |" in done
        if missing or family not in neighbour.families or not is_wanted or is_done:
            continue
        try:
            pack = load_pack(folder) if folder else None
            around = neighbour.surroundings
            if around is None:
                outcomes = compare(neighbour, plain, pack, lines, effects)
            else:
                with around(plain):
                    outcomes = compare(neighbour, plain, pack, lines, effects)
        except Exception as error:  # the neighbour itself does not work here
            yield f"| {neighbour.pack or 'ComfyUI'} | {neighbour.name} | {family} | fails alone: {type(error).__name__} {str(error)[:90]} |"
            continue
        same = torch.equal(sample(plain, SIZES[1]), before)
        repeats = "same" if all(outcome.repeats for outcome in outcomes.values()) else "OTHER"
        if not outcomes[""].repeats:
            repeats = "other, alone too"
        cells = " | ".join(str(outcomes.get(name, "")) for name in EFFECTS)
        yield (
            f"| {neighbour.pack or 'ComfyUI'} | {neighbour.name} | {family} | {cells} | {'same' if same else 'CHANGED'} | "
            f"{repeats} |"
        )
        gc.collect()


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--packs", type=Path, help="a folder of other packs")
    parser.add_argument(
        "--only", action="append", help="a part of a neighbour's name; may be given several times"
    )
    parser.add_argument("--done", type=Path, help="a table of an earlier run: its rows are left out")
    parser.add_argument("--family", choices=list(MODELS), help="one family alone")
    options = parser.parse_args()
    done = options.done.read_text() if options.done and options.done.is_file() else ""
    if not done:
        print("| code | neighbour | model |", " | ".join(EFFECTS), "| plain | same seed |")
        print("| --- " * (5 + len(EFFECTS)) + "|")
    for family in [options.family] if options.family else MODELS:
        for row in rows(family, options.packs, options.only or [], done):
            print(row, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Effects beside other people's code: does each act, or log that it does not, and leave everything else as it was?

    python3 dev.py bench neighbours --packs FOLDER

FOLDER holds other packs as ComfyUI's `custom_nodes` does; those that are not there have no row. What the host brings is always there.
For every neighbour and effect: ours before it at an even size, twice, and behind it at an odd one, two images in a batch.
A cell states:

    acts            the effect changes the images that the neighbour gives alone
    logs            it changes nothing, and a log line of this run says so
    SILENT          it changes nothing, and no line says so
    FAILS: ...      the error message

`plain` is whether the model without effects gives the same bits afterwards, `same seed` whether both runs did; where they did not, whether
the neighbour alone does. Weights are random.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import importlib.util
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from devhost.host import import_host

import_host()

import comfy.hooks
import torch
from megapixel.patches.deep_shrink import DeepShrink, apply_deep_shrink
from megapixel.patches.hidiffusion import HiDiffusion, apply_hidiffusion
from megapixel.patches.rau_net import apply_rau_net
from megapixel.patches.rau_net_preset import original_preset
from megapixel.patches.topology import topology_of

from devhost.sampling import sample
from devhost.tiny import random_models

SIZES = ((24, 20), (25, 19))  # with ours first, with ours last
TRAINED = 96
SHALLOW = {
    "transformer_depth": [0, 0, 2, 2, 1, 1],
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 1, 1, 1],
    "transformer_depth_middle": 1,
}
MODELS: dict[str, Callable[[], Any]] = {
    "SD 1.5": random_models.sd15,
    "SDXL": partial(random_models.sdxl, **SHALLOW),
}


def _rau_net(model: Any) -> Any:
    topology = topology_of(model.get_model_object("diffusion_model"))
    return apply_rau_net(model, original_preset(topology, "low"))


EFFECTS: dict[str, Callable[[Any], Any]] = {
    "Deep Shrink": lambda model: apply_deep_shrink(model, DeepShrink(mode="auto", trained_size=TRAINED)),
    "RAU-Net": _rau_net,
    "HiDiffusion": lambda model: apply_hidiffusion(model, HiDiffusion(trained_size=TRAINED)),
    "HiDiffusion published": lambda model: apply_hidiffusion(
        model, HiDiffusion(mode="published", trained_size=TRAINED)
    ),
}
DID_NOTHING = ("nothing to do", "did nothing in this run", ": skipped ")


@dataclass(frozen=True)
class Neighbour:
    """Other code: `apply(model, pack)` returns the model with it, `settings(model, pack)` what else the sampler is given."""

    name: str
    apply: Callable[[Any, Any], Any] = lambda model, pack: model
    pack: str | None = None
    settings: Callable[[Any, Any], dict[str, Any]] = lambda model, pack: {}
    families: tuple[str, ...] = tuple(MODELS)
    surroundings: Callable[[Any], Any] | None = None


@dataclass
class Outcome:
    """What was seen of one effect beside one neighbour."""

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
    """Return what a node of a pack does, found by the name of its class."""

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


def _fp16(model: Any, pack: Any) -> Any:
    clone = model.clone()
    clone.set_model_compute_dtype(torch.bfloat16)  # the CPU has no half precision for every layer
    return clone


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
    Neighbour("heun, two calls a step", settings=lambda model, pack: {"sampler": "heun"}),
    Neighbour("dpmpp_2s_ancestral", settings=lambda model, pack: {"sampler": "dpmpp_2s_ancestral"}),
    Neighbour("one call a conditioning, as in little memory", surroundings=_little_memory),
    Neighbour("bf16", _fp16),
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
    """Import a pack as the host does, by its folder."""
    name = folder.name.replace("-", "_")
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            name, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


def run(neighbour: Neighbour, model: Any, pack: Any, size: tuple[int, int]) -> torch.Tensor:
    """Sample with the global random state set, for neighbours that draw from it, and left as it was."""
    settings: dict[str, Any] = {"batch": 2, "steps": 2, **neighbour.settings(model, pack)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return sample(model, size, **settings)


def compare(neighbour: Neighbour, plain: Any, pack: Any, lines: Lines) -> dict[str, Outcome]:
    """Return what came of each effect, by its name; "" has the neighbour alone."""
    alone = {size: run(neighbour, neighbour.apply(plain, pack), pack, size) for size in SIZES}
    again = run(neighbour, neighbour.apply(plain, pack), pack, SIZES[0])
    outcomes = {"": Outcome(repeats=torch.equal(alone[SIZES[0]], again))}
    for name, effect in EFFECTS.items():
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


def rows(family: str, packs: Path | None, only: str | None) -> Iterator[str]:
    plain, lines = MODELS[family](), Lines()
    before = sample(plain, SIZES[1])
    for neighbour in (*HOST, *PACKS):
        folder = packs / neighbour.pack if packs and neighbour.pack else None
        missing = neighbour.pack is not None and (folder is None or not folder.is_dir())
        if missing or family not in neighbour.families or (only and only not in neighbour.name):
            continue
        try:
            pack = load_pack(folder) if folder else None
            around = neighbour.surroundings
            if around is None:
                outcomes = compare(neighbour, plain, pack, lines)
            else:
                with around(plain):
                    outcomes = compare(neighbour, plain, pack, lines)
        except Exception as error:  # the neighbour itself does not work here
            yield f"| {neighbour.pack or 'ComfyUI'} | {neighbour.name} | {family} | fails alone: {type(error).__name__} {str(error)[:90]} |"
            continue
        same = torch.equal(sample(plain, SIZES[1]), before)
        repeats = "same" if all(outcome.repeats for outcome in outcomes.values()) else "OTHER"
        if not outcomes[""].repeats:
            repeats = "other, alone too"
        cells = " | ".join(str(outcomes[name]) for name in EFFECTS)
        yield (
            f"| {neighbour.pack or 'ComfyUI'} | {neighbour.name} | {family} | {cells} | {'same' if same else 'CHANGED'} | "
            f"{repeats} |"
        )
        gc.collect()


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--packs", type=Path, help="a folder of other packs")
    parser.add_argument("--only", help="a part of a neighbour's name")
    parser.add_argument("--family", choices=list(MODELS), help="one family alone")
    options = parser.parse_args()
    print("| code | neighbour | model |", " | ".join(EFFECTS), "| plain | same seed |")
    print("| --- " * (5 + len(EFFECTS)) + "|")
    for family in [options.family] if options.family else MODELS:
        for row in rows(family, options.packs, options.only):
            print(row, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

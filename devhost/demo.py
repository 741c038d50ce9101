"""The demo: runs one workflow in a real ComfyUI, with the same seeds without and with each effect for large
images.

By default it runs on the tiny model at twice its trained size, counts the objects in every image and draws
all images with their counts; then it enlarges photographs with the upscale model of the pack. With
`--checkpoint` it only samples, on that checkpoint. Everything is written to `output/`; the images there open
in ComfyUI as the workflow that made them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from PIL.PngImagePlugin import PngInfo

from .environment import ROOT, Environment
from .families_demo import EXAMPLES as FAMILY_EXAMPLES, example_of
from .segs_demo import EXAMPLE as SEGS_EXAMPLE, example_prompt as segs_example_prompt
from .server import Prompt, PromptFailure, Server, ServerFailure, current_environment, running_server
from .sheet import Block, Cell, draw_sheet
from .tiny.counting import PictureCount, count_objects, summarise
from .tiny.forms import CLASS_TEXTS
from .upscale_demo import EXAMPLE as UPSCALE_EXAMPLE, upscale_photographs, upscale_prompt
from .video_demo import EXAMPLE as VIDEO_EXAMPLE, video_prompt
from .workers_demo import (
    EXAMPLE as WORKERS_EXAMPLE,
    VIDEO_EXAMPLE as WORKERS_VIDEO_EXAMPLE,
    with_collector,
    workers_prompt,
    workers_video_prompt,
)
from .workflow import Graph, prompt_node, to_graph

OUTPUT = ROOT / "output"
PACK = {"megapixel": ROOT}
TINY_PACK = {"megapixel-tiny": ROOT / "devhost" / "tiny"}

BRANCHES = {"plain": "Plain", "deep_shrink": "Deep Shrink", "hidiffusion": "HiDiffusion"}
EXAMPLES = {  # shipped workflow -> its branches
    ROOT / "example_workflows" / f"{effect}.json": ("plain", effect)
    for effect in ("deep_shrink", "hidiffusion")
}
TINY_PICTURES, CHECKPOINT_PICTURES = 24, 4
TINY_TRAINED_SIZE = 128
SHEET_COLUMNS, SHEET_LINES = 6, 4
SEED = 2026
SUBTITLE = (
    "The first pictures of each batch; the same place is the same noise, and only the effect differs. "
    "Whole: one object in its true shape, though the frame may cut it."
)

EXAMPLE_CHECKPOINT = "v1-5-pruned-emaonly-fp16.safetensors"
# The front end offers to download a missing model that its loader node names like this.
EXAMPLE_MODEL = {
    "name": EXAMPLE_CHECKPOINT,
    "url": "https://huggingface.co/Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/"
    "v1-5-pruned-emaonly-fp16.safetensors?download=true",
    "directory": "checkpoints",
}
TEXT = "full-body photo of a woman in a red coat on a forest path, autumn leaves, soft light, detailed"
NEGATIVE_TEXT = "blurry, lowres, deformed, watermark, text"

# Node ids in `workflow_prompt`; a branch adds to its first id.
_CHECKPOINT, _POSITIVE, _NEGATIVE, _LATENT, _PLAN = "1", "2", "3", "4", "7"
_EFFECTS = {"deep_shrink": "5", "hidiffusion": "6"}
_FIRST_IDS = {"plain": 10, "deep_shrink": 20, "hidiffusion": 30}
_SAMPLE, _DECODE, _SAVE, _SAVE_LATENT, _PICK = range(5)


class DemoFailure(Exception):
    """The demo cannot run; the message is shown in the terminal."""


@dataclass(frozen=True)
class Task:
    """One prompt to queue: `pictures` images of one text on every branch, from the same noise."""

    label: str
    prompt: Prompt
    pictures: int


@dataclass(frozen=True)
class Plan:
    """The settings of the demo that depend on the kind of model."""

    model: str
    size: int
    trained_size: int
    packs: Mapping[str, Path]
    cpu: bool
    tasks: Sequence[Task]


@dataclass(frozen=True)
class Outcome:
    """The results of one task by branch: files in `output/`, and counts if its objects can be counted."""

    label: str
    pictures: Mapping[str, Sequence[Path]]
    counts: Mapping[str, Sequence[PictureCount]]


def workflow_prompt(
    branches: Sequence[str] = tuple(BRANCHES),
    *,
    checkpoint: str = EXAMPLE_CHECKPOINT,
    checkpoint_class: str = "CheckpointLoaderSimple",
    text: str = TEXT,
    negative_text: str = NEGATIVE_TEXT,
    size: int = 1024,
    batch: int = 1,
    steps: int = 25,
    cfg: float = 7.0,
    sampler: str = "dpmpp_2m",
    scheduler: str = "karras",
    seed: int = SEED,
    trained_size: int = 0,
) -> Prompt:
    """Return a workflow as an API prompt: one checkpoint, sampled on each of `branches`.

    The branches share every setting and the seed; the branch of HiDiffusion also draws its plan. Images are
    square, sizes in pixels; a `trained_size` of 0 is read from the model.
    """
    settings = {
        "seed": seed, "steps": steps, "cfg": cfg,
        "sampler_name": sampler, "scheduler": scheduler, "denoise": 1.0,
    }  # fmt: skip
    prompt = {
        _CHECKPOINT: prompt_node(checkpoint_class, "Checkpoint", ckpt_name=checkpoint),
        _POSITIVE: prompt_node("CLIPTextEncode", "Prompt", text=text, clip=[_CHECKPOINT, 1]),
        _NEGATIVE: prompt_node(
            "CLIPTextEncode", "Negative prompt", text=negative_text, clip=[_CHECKPOINT, 1]
        ),
        _LATENT: prompt_node("EmptyLatentImage", "Image size", width=size, height=size, batch_size=batch),
    }
    effects = {
        "deep_shrink": prompt_node(
            "MegapixelDeepShrink", "Deep Shrink",
            model=[_CHECKPOINT, 0], block_number=3, downscale_factor=2.0, start_percent=0.0, end_percent=0.35,
            downscale_after_skip=True, downscale_method="bicubic", upscale_method="bicubic",
            mode="auto", fade_percent=0.0, trained_size=trained_size,
        ),
        "hidiffusion": prompt_node(
            "MegapixelHiDiffusion", "HiDiffusion",
            model=[_CHECKPOINT, 0], mode="auto", windows="auto", trained_size=trained_size,
        ),
    }  # fmt: skip
    for branch in branches:
        if branch in effects:
            prompt[_EFFECTS[branch]] = effects[branch]
        if branch == "hidiffusion":
            prompt[_PLAN] = prompt_node(
                "MegapixelPlan", "Plan Preview",
                model=[_EFFECTS[branch], 0], latent_image=[_LATENT, 0], steps=steps, scheduler=scheduler, denoise=1.0,
            )  # fmt: skip
        prompt |= _branch(branch, _EFFECTS.get(branch, _CHECKPOINT), settings)
    return prompt


def with_latents(prompt: Prompt, pictures: int) -> Prompt:
    """Return the prompt with every latent saved as well, and only the first `pictures` of a batch decoded."""
    prompt = dict(prompt)
    for branch, title in BRANCHES.items():
        latent = [_id(branch, _SAMPLE), 0]
        prompt[_id(branch, _PICK)] = prompt_node(
            "LatentFromBatch", f"First of the batch: {title}", samples=latent, batch_index=0, length=pictures
        )
        prompt[_id(branch, _SAVE_LATENT)] = prompt_node(
            "SaveLatent", f"To count in: {title}", samples=latent, filename_prefix=f"megapixel/{branch}"
        )
        decoder = prompt[_id(branch, _DECODE)]
        inputs = decoder["inputs"] | {"samples": [_id(branch, _PICK), 0]}
        prompt[_id(branch, _DECODE)] = {**decoder, "inputs": inputs}
    return prompt


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo and return its exit status: 0 only if everything ran."""
    signal.signal(signal.SIGTERM, _leave)
    options = _parse(arguments)
    try:
        environment = current_environment()
        if options.write_workflow:
            _write_examples(environment)
        else:
            _run(options, environment)
    except (DemoFailure, PromptFailure, ServerFailure) as failure:
        print(f"demo: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="dev.py demo", description="Run one workflow in ComfyUI, without and with each effect."
    )
    parser.add_argument(
        "--serve", action="store_true", help="leave the server running afterwards, until Ctrl-C"
    )
    parser.add_argument(
        "--checkpoint", type=Path, metavar="FILE", help="a checkpoint to use instead of the tiny model"
    )
    parser.add_argument(
        "--pictures", type=_positive, metavar="N",
        help=f"images for each method (default: {TINY_PICTURES}, with --checkpoint {CHECKPOINT_PICTURES})",
    )  # fmt: skip
    parser.add_argument(
        "--size",
        type=_size,
        metavar="PIXELS",
        help="width and height of the images (default: twice the trained size)",
    )
    parser.add_argument("--write-workflow", action="store_true", help="only write the shipped workflows")
    return parser.parse_args(arguments)


def _run(options: argparse.Namespace, environment: Environment) -> None:
    plan = _checkpoint_plan(options) if options.checkpoint else _tiny_plan(options)
    _clear_output()
    _say(f"starting ComfyUI with {plan.model}")
    with running_server(environment, {**PACK, **plan.packs}, cpu=plan.cpu) as server:
        if options.checkpoint:
            _link_checkpoint(server, options.checkpoint)
        shutil.rmtree(server.base / "output" / "megapixel", ignore_errors=True)
        object_info = server.object_info()
        outcomes = [_run_task(server, task, to_graph(task.prompt, object_info)) for task in plan.tasks]
        if not options.checkpoint:
            for enlarged in upscale_photographs(server, object_info, OUTPUT):
                print(enlarged, flush=True)
        _write_results(plan, outcomes, _example(tuple(BRANCHES), object_info))
        if options.serve:
            print(f"ComfyUI with the pack: {server.address} (Ctrl-C ends it)", flush=True)
            server.wait()


def _tiny_plan(options: argparse.Namespace) -> Plan:
    size = options.size or 2 * TINY_TRAINED_SIZE
    pictures = options.pictures or TINY_PICTURES
    batch = math.ceil(pictures / len(CLASS_TEXTS))
    tasks = [
        Task(text, with_latents(_tiny_prompt(text, size, batch, SEED + index), SHEET_LINES), batch)
        for index, text in enumerate(CLASS_TEXTS)
    ]
    return Plan("Tiny SD 1.5", size, TINY_TRAINED_SIZE, TINY_PACK, cpu=True, tasks=tasks)


def _tiny_prompt(text: str, size: int, batch: int, seed: int) -> Prompt:
    return workflow_prompt(
        checkpoint="tiny_sd15.safetensors", checkpoint_class="MegapixelDevCheckpoint",
        text=text, negative_text="", size=size, batch=batch, trained_size=TINY_TRAINED_SIZE,
        steps=20, cfg=2.5, scheduler="normal", seed=seed,
    )  # fmt: skip


def _checkpoint_plan(options: argparse.Namespace) -> Plan:
    file: Path = options.checkpoint
    if not file.is_file():
        raise DemoFailure(f"--checkpoint: expected a checkpoint file, got {file.absolute()}. Check the path.")
    trained_size = _trained_size(file)
    size = options.size or 2 * trained_size
    seeds = range(SEED, SEED + (options.pictures or CHECKPOINT_PICTURES))
    prompt = workflow_prompt(checkpoint=file.name, size=size)
    tasks = [Task(f"seed {seed}", _with_seed(prompt, seed), 1) for seed in seeds]
    return Plan(file.stem, size, trained_size, packs={}, cpu=not _has_accelerator(), tasks=tasks)


def _trained_size(checkpoint: Path) -> int:
    """Return the side that the model was trained at: 1024 for SDXL, 512 for any other."""
    with checkpoint.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(min(length, 1 << 25))
    return 1024 if b'"conditioner.embedders.1.' in header else 512


def _has_accelerator() -> bool:
    import torch

    return torch.accelerator.is_available()


def _with_seed(prompt: Prompt, seed: int) -> Prompt:
    changed = dict(prompt)
    for branch in BRANCHES:
        sampler = prompt[_id(branch, _SAMPLE)]
        changed[_id(branch, _SAMPLE)] = {**sampler, "inputs": sampler["inputs"] | {"seed": seed}}
    return changed


def _run_task(server: Server, task: Task, graph: Graph) -> Outcome:
    started = time.monotonic()
    history = server.run(task.prompt, graph, timeout=24 * 3600.0)
    pictures: dict[str, list[Path]] = {}
    counts: dict[str, list[PictureCount]] = {}
    for branch in BRANCHES:
        saved = server.images(history, _id(branch, _SAVE))
        pictures[branch] = [_take(file, branch, task.label, n) for n, file in enumerate(saved, start=1)]
        for file in server.files(history, "latents", _id(branch, _SAVE_LATENT)):
            counts[branch] = _count(file, task.label)
            file.unlink()
    _say(f"{task.label}: {task.pictures} picture(s) on each branch, {time.monotonic() - started:.1f} s")
    return Outcome(task.label, pictures, counts)


def _count(latents: Path, text: str) -> list[PictureCount]:
    from safetensors.numpy import load_file

    pictures = load_file(latents)["latent_tensor"]
    return count_objects(pictures, [CLASS_TEXTS.index(text)] * len(pictures))


def _take(file: Path, branch: str, label: str, number: int) -> Path:
    target = OUTPUT / f"{branch}_{label.removeprefix('a ').replace(' ', '_')}_{number}.png"
    shutil.copyfile(file, target)
    return target


def _clear_output() -> None:
    """Make `output/` and remove what an earlier demo left in it."""
    OUTPUT.mkdir(exist_ok=True)
    sheets = ("sheet.png", "counts.json", "upscaled.png")
    for pattern in (*(f"{branch}_*.png" for branch in (*BRANCHES, "upscaled")), *sheets):
        for file in OUTPUT.glob(pattern):
            file.unlink()


def _write_results(plan: Plan, outcomes: Sequence[Outcome], example: Graph) -> None:
    sheet = draw_sheet(
        title=f"{plan.model}, trained at {plan.trained_size} px, asked for {plan.size} px",
        subtitle=SUBTITLE,
        labels=[outcome.label for outcome in outcomes[:SHEET_COLUMNS]],
        blocks=[_block(branch, outcomes) for branch in BRANCHES],
    )
    sheet.save(OUTPUT / "sheet.png", pnginfo=_chunks(example))
    if any(outcome.counts for outcome in outcomes):
        _write_json(OUTPUT / "counts.json", _counts(plan, outcomes))
    print(f"{OUTPUT / 'sheet.png'} and {len(list(OUTPUT.glob('*_*.png')))} pictures beside it", flush=True)


def _chunks(example: Graph) -> PngInfo:
    """Return a shipped workflow as text chunks, so that the sheet opens in ComfyUI as well."""
    chunks = PngInfo()
    chunks.add_text("workflow", json.dumps(example))
    chunks.add_text("prompt", json.dumps(workflow_prompt()))
    return chunks


def _block(branch: str, outcomes: Sequence[Outcome]) -> Block:
    columns = [_cells(branch, outcome) for outcome in outcomes[:SHEET_COLUMNS]]
    counts = [count for outcome in outcomes for count in outcome.counts.get(branch, ())]
    return Block(
        BRANCHES[branch], summarise(counts).finding if counts else "", lines=list(zip(*columns, strict=True))
    )


def _cells(branch: str, outcome: Outcome) -> list[Cell]:
    """Return the images of one column, each with its count; there are at least as many counts, or none."""
    pictures, counts = outcome.pictures[branch], outcome.counts.get(branch)
    if counts is None:
        return [Cell(picture) for picture in pictures]
    return [
        Cell(picture, count.verdict, count.whole) for picture, count in zip(pictures, counts, strict=False)
    ]


def _counts(plan: Plan, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    def summaries(branch: str) -> Iterator[tuple[str, Any]]:
        groups = {outcome.label: outcome.counts[branch] for outcome in outcomes}
        yield "all", asdict(summarise([count for group in groups.values() for count in group]))
        yield "by_text", {label: asdict(summarise(group)) for label, group in groups.items()}

    return {
        "model": plan.model,
        "size": plan.size,
        "trained_size": plan.trained_size,
        **{branch: dict(summaries(branch)) for branch in BRANCHES},
    }


def _write_examples(environment: Environment) -> None:
    with running_server(environment, PACK) as server:
        object_info = server.object_info()
    graphs = {file: _example(branches, object_info) for file, branches in EXAMPLES.items()}
    graphs[UPSCALE_EXAMPLE] = to_graph(upscale_prompt(), object_info)
    graphs[VIDEO_EXAMPLE] = to_graph(video_prompt(), object_info)
    graphs[SEGS_EXAMPLE] = _with_download(to_graph(segs_example_prompt(EXAMPLE_CHECKPOINT), object_info))
    for name, make in FAMILY_EXAMPLES.items():
        graphs[example_of(name)] = to_graph(make(), object_info)
    for file, make in ((WORKERS_EXAMPLE, workers_prompt), (WORKERS_VIDEO_EXAMPLE, workers_video_prompt)):
        graphs[file] = _with_download(to_graph(make(EXAMPLE_CHECKPOINT), with_collector(object_info)))
    for file, graph in graphs.items():
        file.parent.mkdir(exist_ok=True)
        _write_json(file, graph)
        print(file)


def _example(branches: Sequence[str], object_info: Mapping[str, Any]) -> Graph:
    """Return the workflow of these branches on the checkpoint that people are likely to
    have, or are offered.
    """
    return _with_download(to_graph(workflow_prompt(branches), object_info))


def _with_download(graph: Graph) -> Graph:
    [loader] = [node for node in graph["nodes"] if node["type"] == "CheckpointLoaderSimple"]
    loader["properties"]["models"] = [EXAMPLE_MODEL]
    return graph


def _branch(branch: str, model: str, settings: Mapping[str, Any]) -> Prompt:
    title = BRANCHES[branch]
    return {
        _id(branch, _SAMPLE): prompt_node(
            "KSampler", f"Sample: {title}",
            model=[model, 0], positive=[_POSITIVE, 0], negative=[_NEGATIVE, 0], latent_image=[_LATENT, 0],
            **settings,
        ),
        _id(branch, _DECODE): prompt_node(
            "VAEDecode", f"Decode: {title}", samples=[_id(branch, _SAMPLE), 0], vae=[_CHECKPOINT, 2]
        ),
        _id(branch, _SAVE): prompt_node(
            "SaveImage", f"Save: {title}",
            images=[_id(branch, _DECODE), 0], filename_prefix=f"megapixel/{branch}",
        ),
    }  # fmt: skip


def _id(branch: str, role: int) -> str:
    return str(_FIRST_IDS[branch] + role)


def _link_checkpoint(server: Server, file: Path) -> None:
    """Give the server a checkpoint without copying its gigabytes."""
    file = file.resolve()
    link = server.base / "models" / "checkpoints" / file.name
    if os.path.lexists(link):
        link.unlink()
    try:
        link.symlink_to(file)
    except OSError:  # Windows asks for a special right; a hard link does not, on the same drive
        try:
            os.link(file, link)
        except OSError as error:
            raise DemoFailure(f"--checkpoint: could not link {file} to {link}: {error.strerror}.") from None


def _write_json(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("expected at least 1")
    return number


def _size(text: str) -> int:
    if (size := int(text)) < 64 or size % 8:
        raise argparse.ArgumentTypeError("expected a multiple of 8 from 64 on")
    return size


def _leave(signal_number: int, frame: FrameType | None) -> None:
    sys.exit(128 + signal_number)  # unlike the default, this lets the server be stopped


def _say(message: str) -> None:
    print(f"demo: {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

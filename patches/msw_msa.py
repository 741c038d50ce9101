"""MSW-MSA on a UNet: the self-attention of high-resolution blocks runs in windows that
are shifted between steps.

Two patches around a self-attention split its tokens into windows, folded into the batch, and merge the result
again; the attention between them is the host's. The pair shares the layer's `extra_options` and has no state.

Source: HiDiffusion (arXiv 2311.17528v2) and the settings of the original node (`ApplyMSWMSAAttention`). We
depart where those fail: every size works without resizing the features, the shifts depend only on the
sampling seed and the noise level (the same for positive and negative, however the host batches them, and for
a run over two samplers), and windows may have the token count that the model was trained at instead of always
being two by two.

B batch, N = H * W tokens, D their width.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Literal

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..attention.windows import (
    QUARTERS,
    WindowGrid,
    merge_windows,
    native_count,
    partition_windows,
    window_indices,
)
from ..errors import bad_input
from ..record import record
from ..scaling.multiplier import times
from ..scaling.size import Size
from .effect import Effect, Effects, Run, Stacked, replace_earlier
from .executed_steps import begun_at, counted_steps, schedule_in
from .model_call import ModelCall
from .plan import Plan
from .schedule import NEVER_ON, Schedule, Unit
from .token_grid import token_grid
from .topology import BlockId, Blocks, LayerId, Topology, listed, topology_in
from .trained_size import NOT_LARGER, is_above_trained, trained_side
from .wrapper import add_effect, planned

MOST_WINDOWS = 2  # to a side of a latent that is not large
POSITION = "megapixel_windows"  # in a layer's extra_options: (positions for merging, windows, multiplier)

Windows = Literal["2x2", "native"]
ShiftMode = Literal["global", "block", "both", "ignore"]
ShiftStrategy = Literal["increment", "decrement", "retry"]


@record
class MSWMSA:
    """The settings of MSW-MSA; the names are those of the node's sockets.

    `above_trained_size` limits it to latents clearly larger than the trained size. `large_start_time` replaces
    `start_time` for latents of which a side takes more than two windows of the trained size.
    """

    input_blocks: Blocks = (1, 2)
    middle_blocks: Blocks = ()
    output_blocks: Blocks = (9, 10, 11)
    time_mode: Unit = "percent"
    start_time: float = 0.0
    end_time: float = 1.0
    windows: Windows = "2x2"
    trained_size: int = 0
    last_shift_mode: ShiftMode = "both"
    last_shift_strategy: ShiftStrategy = "decrement"
    pre_window_multiplier: float = 1.0
    post_window_multiplier: float = 1.0
    pre_window_reverse_multiplier: float = 1.0
    post_window_reverse_multiplier: float = 1.0
    above_trained_size: bool = False
    large_start_time: float | None = None

    def at(self, call: ModelCall) -> MSWMSA:
        """Return the settings for the latent of a call: with `large_start_time` where it applies."""
        if self.large_start_time is None:
            return self
        side = trained_side(call.model, self.trained_size)
        if max(native_count(call.latent_size, (side, side))) <= MOST_WINDOWS:
            return self
        return replace(self, start_time=self.large_start_time)

    @property
    def schedule(self) -> Schedule:
        """When the windows are on."""
        return schedule_in(self.time_mode, self.start_time, self.end_time)

    @property
    def never_on(self) -> str | None:
        """Why these settings do nothing with any model and size, or None."""
        has_blocks = self.input_blocks or self.middle_blocks or self.output_blocks
        return None if has_blocks and self.schedule.is_ordered else NEVER_ON


def original_preset(topology: Topology, start: float = 0.2, **settings: Any) -> MSWMSA:
    """Return the preset of the original simple node:
    all blocks of the shallowest level with attention, from 0.2 on.
    """
    level = topology.attention_level
    return MSWMSA(
        input_blocks=topology.attention_inputs(level),
        output_blocks=topology.attention_outputs(level),
        start_time=start,
        **settings,
    )


def apply_msw_msa(model: ModelPatcher, config: MSWMSA) -> ModelPatcher:
    """Return a clone of `model` whose self-attention runs in windows at the blocks of `config`.

    Applied again, the later settings replace the earlier ones.

    Raises:
        ValueError: when `model` is not a UNet, or a block has no attention.
    """
    topology = topology_in(model)
    _check(config, topology)
    if config.windows == "native" or config.above_trained_size:
        trained_side(model.model, config.trained_size)  # fail here rather than inside the sampler
    return add_effect(model, WindowedAttention(config))


def _check(config: MSWMSA, topology: Topology) -> None:
    having = {
        "input_blocks": [i for i, block in enumerate(topology.inputs) if block.transformers],
        "middle_blocks": [0] if topology.middle.transformers else [],
        "output_blocks": [i for i, block in enumerate(topology.outputs) if block.transformers],
    }
    for socket, valid in having.items():
        for block in getattr(config, socket):
            if block not in valid:
                expected = f"blocks with attention ({', '.join(map(str, valid))} in this UNet)"
                raise bad_input(
                    socket, expected, block, ("Choose some of these; the shallow ones save the most time.")
                )


@record
class WindowPlan(Plan):
    """The windows of one call.

    `numbers` gives each layer its index in `quarters`, the shifts of the layers' grids; `shifts` are the same
    numbers as a tensor on the model's device, for compiled code, which would be traced again for every new
    number. `trained` gives the trained size of the features by level for native windows, or None for two by
    two.
    """

    numbers: Mapping[LayerId, int]
    quarters: tuple[int, ...]
    shifts: Tensor
    levels: tuple[int, ...]
    trained: int | None
    multiplier: float = 1.0
    reverse_multiplier: float = 1.0

    def count(self, number: int, size: Size) -> Size:
        """Return the (rows, columns) of windows for a layer's grid of `size`."""
        if self.trained is None:
            return min(2, size[0]), min(2, size[1])
        own = max(1, self.trained >> self.levels[number])
        return native_count(size, (own, own))

    def marks(self, sizes: Mapping[BlockId, Size]) -> Mapping[BlockId, str]:
        marks: dict[BlockId, str] = {}
        for (kind, block, _), number in self.numbers.items():
            block_id: Any = (kind, block)
            rows, columns = self.count(number, sizes[block_id])
            if rows * columns > 1:
                marks[block_id] = f"{rows}x{columns} windows"
        return marks


@record
class WindowedAttention(Effect):
    """The windows of one model."""

    config: MSWMSA

    name = "msw_msa"
    label = "MSW-MSA"
    colour = (20, 132, 74)
    resizes = False

    def stacked(self, effects: Effects) -> Stacked:
        return replace_earlier(self, effects)

    def install(self, model: ModelPatcher, name: str, earlier: Effect | None) -> None:
        if earlier is None:
            model.set_model_attn1_patch(_partition)
            model.set_model_attn1_output_patch(_merge)

    def begin(self, run: Run) -> None:
        """Make ours the innermost pair, so that every other pack's patches see all tokens in their grid."""
        run.patches["attn1_patch"].sort(key=lambda patch: patch is _partition)
        run.patches["attn1_output_patch"].sort(key=lambda patch: patch is not _merge)

    def idle(self, call: ModelCall) -> str | None:
        if self._is_too_small(call):
            return NOT_LARGER
        return self.config.never_on

    def describe(self, call: ModelCall) -> str:
        config = self.config.at(call)
        unit = "" if config.time_mode == "percent" else f" {config.time_mode}"
        size = f", trained_size {config.trained_size}" if config.trained_size else ""
        return (
            f"{', '.join(self._lists())}, start_time {config.start_time:g}, end_time {config.end_time:g}{unit}, "
            f"windows {config.windows}{size}"
        )

    def remark(self, call: ModelCall) -> str:
        return counted_steps(call) if self.config.time_mode == "steps" else ""

    def _lists(self) -> list[str]:
        sockets = ("input_blocks", "middle_blocks", "output_blocks")
        chosen = {socket: getattr(self.config, socket) for socket in sockets}
        return [f"{socket} {listed(blocks)}" for socket, blocks in chosen.items() if blocks]

    def _is_too_small(self, call: ModelCall) -> bool:
        config = self.config
        return config.above_trained_size and not is_above_trained(
            call.model, call.latent_size, config.trained_size
        )

    def plan(self, call: ModelCall) -> WindowPlan | None:
        config = self.config.at(call)
        if self._is_too_small(call) or not call.strength(config.schedule):
            return None
        layers, levels = _layers(call.topology, config)
        begun = begun_at(max(call.sigmas), call.sample_sigmas)
        quarters = _quarters(
            call.seed, begun, len(layers), config.last_shift_mode, config.last_shift_strategy
        )
        return WindowPlan(
            numbers={layer: number for number, layer in enumerate(layers)},
            quarters=quarters,
            shifts=_shifts(quarters, call.device),
            levels=levels,
            trained=trained_side(call.model, config.trained_size) if config.windows == "native" else None,
            multiplier=config.pre_window_multiplier * config.post_window_multiplier,
            reverse_multiplier=config.pre_window_reverse_multiplier * config.post_window_reverse_multiplier,
        )


@lru_cache(maxsize=16)
def _layers(topology: Topology, config: MSWMSA) -> tuple[tuple[LayerId, ...], tuple[int, ...]]:
    """Return the layers with windows in the order in which they run, and the level of each."""
    chosen = {"input": config.input_blocks, "middle": config.middle_blocks, "output": config.output_blocks}
    layers = tuple(layer for layer in topology.layers if layer[1] in chosen[layer[0]])
    return layers, tuple(topology.blocks[kind, number].level for kind, number, _ in layers)


@lru_cache(maxsize=16)
def _quarters(
    seed: int, sigma: float, layers: int, mode: ShiftMode, strategy: ShiftStrategy
) -> tuple[int, ...]:
    """Return the shift of each layer's grid in the step that begins at `sigma`:
    the same draws for the same seed.

    With "global" and "both" no layer gets the shift of the previous layer; `strategy` is how such a draw is
    replaced. In the original, "block" avoids a layer's own shift of the previous step, which a run that
    begins in the middle cannot know: here all draws are free, as with "ignore".
    """
    generator = random.Random(f"megapixel windows {seed} {sigma:.6g}")
    quarters: list[int] = []
    for _ in range(layers):
        taken = quarters[-1:] if mode in ("global", "both") else []
        quarters.append(_draw(generator, taken, strategy))
    return tuple(quarters)


@lru_cache(maxsize=16)
def _shifts(quarters: tuple[int, ...], device: torch.device | None) -> Tensor:
    """Return the same as a tensor: copied to the device once, not once for every call of a step."""
    with torch.inference_mode(False):  # it outlives this run
        return torch.tensor(quarters).to(device, non_blocking=True)


def _draw(generator: random.Random, taken: Sequence[int], strategy: ShiftStrategy) -> int:
    quarter = generator.randrange(QUARTERS)
    while quarter in taken:
        if strategy == "retry":
            quarter = generator.randrange(QUARTERS)
        else:
            quarter = (quarter + (1 if strategy == "increment" else -1)) % QUARTERS
    return quarter


def _partition(
    tokens: Tensor, context: Tensor, value: Tensor, options: dict[str, Any]
) -> tuple[Tensor, Tensor, Tensor]:
    plan = planned(WindowedAttention.name, tokens, options)
    if not isinstance(plan, WindowPlan):
        return tokens, context, value
    number = plan.numbers.get((*options["block"], options["block_index"]))
    if number is None:
        return tokens, context, value
    size = token_grid(WindowedAttention.label, options, tokens, context, value)
    if size is None:
        return tokens, context, value
    count = plan.count(number, size)
    windows = count[0] * count[1]
    if windows == 1:
        return tokens, context, value
    source, position = _indices(WindowGrid(size, count), plan, number, tokens.device)
    options[POSITION] = (position, windows, plan.reverse_multiplier)
    parts = partition_windows(times(tokens, plan.multiplier), source, windows)

    def cut(other: Tensor) -> Tensor:
        if other is tokens:
            return parts
        return partition_windows(times(other, plan.multiplier), source, windows)

    return parts, cut(context), cut(value)


def _merge(tokens: Tensor, options: dict[str, Any]) -> Tensor:
    if POSITION not in options:
        return tokens
    position, windows, multiplier = options.pop(POSITION)
    return merge_windows(times(tokens, multiplier), position, windows)


def _indices(grid: WindowGrid, plan: WindowPlan, number: int, device: torch.device) -> tuple[Tensor, Tensor]:
    if torch.compiler.is_compiling():
        return window_indices(grid, plan.shifts[number], device)
    return _cached_indices(grid, plan.quarters[number], device)


@lru_cache(maxsize=64)
def _cached_indices(grid: WindowGrid, quarter: int, device: torch.device) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):  # they outlive this run, and may serve one that keeps gradients
        return window_indices(grid, quarter, device)

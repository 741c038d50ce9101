"""Nodes before this one that compute noise levels or positions from an image size that was entered by hand.

Segments are sampled at the size of their crops. ComfyUI itself never uses the sampled size: a model's shift
is one number, and the nodes that compute it from a size (ModelSamplingFlux, Flux2Scheduler) have inputs for
the size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..scaling.size import Size
from .compat import executing_node, executing_prompt, output_types

INPUTS = ("model", "basic_pipe", "scheduler_func_opt")  # of the node that samples
WAYS = frozenset({"MODEL", "SIGMAS", "SCHEDULER_FUNC", "BASIC_PIPE"})
CHOSEN = frozenset({"MODEL", "SIGMAS"})  # all outputs of a node that computes them from a size
TOLERANCE = 0.1  # relative, of the area: rounding to multiples stays below it

Nodes = Mapping[str, Mapping[str, Any]]


def typed_size_notices(sizes: Iterable[Size]) -> list[str]:
    """Return a text for each node before the executing one whose size is not that of the crops.

    Args:
        sizes: the sampled sizes (height, width); read only if such a node is found.
    """
    prompt, (_, node) = executing_prompt(), executing_node()
    found = dict.fromkeys(_sized_nodes(prompt, node)) if node in prompt else {}
    if not found:
        return []
    sampled = sorted(set(sizes), key=lambda size: size[0] * size[1])
    return [text for name in found if (text := _notice(prompt, name, sampled))]


def _notice(prompt: Nodes, name: str, sampled: list[Size]) -> str:
    """Return the text about one node; empty where its size fits all crops."""
    node = prompt[name]
    width, height = (_number(prompt, node["inputs"].get(side)) for side in ("width", "height"))
    if not sampled:
        return ""
    crops = " to ".join(dict.fromkeys(f"{size[1]}x{size[0]}" for size in (sampled[0], sampled[-1])))
    middle = sampled[len(sampled) // 2]
    hint = f"Enter the size of the crops there: width {middle[1]}, height {middle[0]}."
    start = f"{node['class_type']} ({name})"
    if width is None or height is None:
        return f"{start} takes its size from another node, but the crops are {crops}. {hint}"
    if all(abs(width * height / (size[0] * size[1]) - 1) < TOLERANCE for size in sampled):
        return ""
    return f"{start} is set to {width}x{height}, but the crops are {crops}. {hint}"


def chooses_by_size(outputs: Iterable[str], inputs: Iterable[str]) -> bool:
    """Return whether a node with these types of outputs and names of inputs computes a
    model or noise levels from an image size.

    A node that also outputs a latent prepares a video: its size is that of the whole image, not of a crop.
    """
    return set() < set(outputs) <= CHOSEN and {"width", "height"} <= set(inputs)


def _sized_nodes(prompt: Nodes, node: str | None) -> Iterator[str]:
    """Yield the ids of nodes on the way to what a node samples with, that have a width and a height."""
    waiting = [source for name in INPUTS for source in _sources(prompt, node, name)]
    seen: set[str] = set()
    while waiting:
        source, slot = waiting.pop(0)
        if source in seen:
            continue
        seen.add(source)
        inputs = prompt[source].get("inputs", {})
        outputs = output_types(prompt[source].get("class_type", ""))
        if chooses_by_size(outputs, inputs):
            yield source
        if slot >= len(outputs) or outputs[slot] in WAYS:
            waiting += [link for name in inputs for link in _sources(prompt, source, name)]


def _sources(prompt: Nodes, node: str | None, name: str) -> list[tuple[str, int]]:
    """Return the link into an input, as a list that is empty where there is none."""
    link = prompt[node or ""].get("inputs", {}).get(name)
    return [(link[0], link[1])] if _is_link(link) and link[0] in prompt else []


def _number(prompt: Nodes, value: Any) -> int | None:
    """Return a number that was typed, here or in a node that holds one;
    None where it comes from elsewhere.
    """
    if _is_link(value):
        value = prompt.get(value[0], {}).get("inputs", {}).get("value")
    return value if isinstance(value, int) and value > 0 else None


def _is_link(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and isinstance(value[0], str)

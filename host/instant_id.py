"""InstantID's weights on the host's devices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import comfy.model_management
import comfy.ops
import torch
from torch import Tensor

from ..attention.instant_id import InstantID, shapes_of
from ..errors import bad_input
from ..record import record
from .layers import attend

EMBEDDING = 512  # numbers of a face, by antelopev2
REMEDY = "Download ip-adapter.bin of InstantX/InstantID (Hugging Face) again into models/instantid."

State = Mapping[str, Tensor]


@record(eq=False)
class InstantIDModel:
    """An InstantID model on the INSTANTID socket.

    Its weights stay in main memory; the host loads each layer's when it runs.

    The nodes of the original pack accept it too: they use the last three members.
    """

    network: InstantID

    @torch.inference_mode()
    def tokens(self, embeddings: Tensor) -> Tensor:
        """Return the tokens (R, T, D) of R references (R, 512), on the compute device."""
        return self.network.tokens(embeddings.to(comfy.model_management.get_torch_device(), torch.float32))

    @torch.inference_mode()
    def project(self, tokens: Tensor) -> Tensor:
        """Return the keys and values (F, 2, T, S) of F token sets (F, T, D)."""
        return self.network.project(tokens.to(comfy.model_management.get_torch_device(), torch.float32))

    def to(self, *_: Any, **__: Any) -> InstantIDModel:
        """Return itself: the host decides where the weights are."""
        return self

    def get_image_embeds(self, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens (R, T, D) of references (R, 1, 512) and of the empty face."""
        read = self.network.image_proj
        return read(positive), read(negative)

    @property
    def ip_layers(self) -> SimpleNamespace:
        """The projections by the names that the original pack gives them, such as 1_to_k_ip."""
        projections = self.network.ip_adapter.items()
        return SimpleNamespace(
            to_kvs={
                f"{key}_{name}": layer for key, pair in projections for name, layer in pair.named_children()
            }
        )


def flat_weights(state: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the weights in nested mappings by names joined with dots."""
    for name, value in state.items():
        if isinstance(value, Mapping):
            yield from flat_weights(value, f"{prefix}{name}.")
        elif isinstance(value, Tensor):
            yield f"{prefix}{name}", value


def build_instant_id(state: State, socket: str, expected: str, got: str) -> InstantIDModel:
    """Build a model around weights, which are neither copied nor changed.

    Args:
        state: weights by their flat names.
        socket, expected, got: parts of the message for weights that do not fit; see `bad_input`.

    Raises:
        ValueError: when a weight is missing or has another shape, or the face embeddings are not those of
            antelopev2.
    """

    def refused(why: str, hint: str = REMEDY) -> ValueError:
        return bad_input(socket, expected, f"{got} {why}", hint)

    try:
        shape, widths = shapes_of(state)
    except KeyError as error:
        raise refused(f"without {error.args[0]}") from None
    if shape.embedding != EMBEDDING:
        why = f"for face embeddings of {shape.embedding} values instead of {EMBEDDING}"
        raise refused(why, f"An IP-Adapter is not an InstantID. {REMEDY}")
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in InstantID(shape, widths, attend).state_dict().items()}
        # The host's layers may have no weights before they are loaded.
        network = InstantID(shape, widths, attend, comfy.ops.manual_cast).eval()
    wrong = [name for name, shape in shapes.items() if name not in state or state[name].shape != shape]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise refused(f"in which {', '.join(wrong[:3])}{more} is missing or has another shape")
    network.load_state_dict({name: state[name] for name in shapes}, assign=True)
    return InstantIDModel(network.requires_grad_(False))


def as_instant_id(value: Any) -> InstantIDModel:
    """Convert a value of an INSTANTID socket to our model: our own, or that of the original pack's loader.

    Raises:
        ValueError: when it is neither, or has other weights than an InstantID model.
    """
    if isinstance(value, InstantIDModel):
        return value
    expected = "a model from an InstantID loader"
    if isinstance(value, Mapping):  # the original loader's value in its first versions
        return build_instant_id(dict(flat_weights(value)), "instantid", expected, "one")
    if hasattr(value, "image_proj_model") and hasattr(value, "ip_layers"):
        return build_instant_id(_original_state(value), "instantid", expected, "one")
    raise bad_input("instantid", expected, type(value).__name__, "Connect Load InstantID Model.")


def _original_state(model: Any) -> State:
    resampler = {f"image_proj.{name}": value for name, value in model.image_proj_model.state_dict().items()}
    projections = {
        f"ip_adapter.{name.replace('_', '.', 1)}.weight": layer.weight
        for name, layer in model.ip_layers.to_kvs.items()
    }
    return resampler | projections

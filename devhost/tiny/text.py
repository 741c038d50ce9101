"""A text encoder for the prompts of a tiny model: a table of token sequences, one row for each prompt.

In the toy world "a red person" or "three blue balls" choose a row, in any wording that names a colour and a
form or number; any other text is the empty prompt. It is a genuine ``comfy.sd.CLIP``, so the host's text
nodes work with it.

Dimensions: K rows, T tokens, D their width, P the pooled width.
"""

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import comfy.model_management
import comfy.ops
import comfy.sd
import comfy.supported_models_base
import torch

from .forms import TEXTS

WeightedTokens = dict[str, list[list[tuple[Any, ...]]]]


def class_of_prompt(text: str, names: Sequence[str] = TEXTS) -> int:
    """Return which of `names` a prompt has all words of, articles aside,
    in any order and wording; else their number.
    """
    words = set(re.findall(r"[a-z]+", text.lower()))
    classes = ({*name.split()} - {"a"} for name in names)
    return next((number for number, wanted in enumerate(classes) if wanted <= words), len(names))


class ClassTokenizer:
    """A tokenizer whose only token is the class id of the prompt."""

    def __init__(
        self,
        names: Sequence[str],
        embedding_directory: Any = None,
        tokenizer_data: dict[str, Any] | None = None,
    ) -> None:
        del embedding_directory, tokenizer_data  # the host passes them to every tokenizer
        self.names = names

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **_: Any) -> WeightedTokens:
        """Return the class id in the host's nesting: encoder name, sections, weighted tokens."""
        number = class_of_prompt(text, self.names)
        token = (number, 1.0, 0) if return_word_ids else (number, 1.0)
        return {"classes": [[token]]}

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return nothing: there is no vocabulary to save."""
        return {}


class ClassTable(torch.nn.Module):
    """A text encoder that looks up token sequences (1, T, D) and pooled vectors (1, P) by class id."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        pooled_width: int,
        dtype: torch.dtype,
        device: Any,
        model_options: Any,
    ) -> None:
        super().__init__()
        del model_options  # the host passes them to every text encoder
        rows, tokens, width = shape
        self.dtypes = {dtype}
        self.sequence_shape = (tokens, width)
        self.execution_device = device
        layers = comfy.ops.manual_cast
        self.sequences = layers.Embedding(rows, tokens * width, dtype=dtype, device=device)
        self.pooled = layers.Embedding(rows, pooled_width, dtype=dtype, device=device)

    def set_clip_options(self, options: dict[str, Any]) -> None:
        """Take the device to work on; there are no layers to choose from."""
        self.execution_device = options.get("execution_device", self.execution_device)

    def reset_clip_options(self) -> None:
        """Keep everything: no option outlives a call."""

    def encode_token_weights(self, tokens: WeightedTokens) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the sequence (1, T, D) and the pooled vector (1, P) of the prompt's class."""
        class_id = torch.tensor([tokens["classes"][0][0][0]], device=self.execution_device)
        sequence = self.sequences(class_id, out_dtype=torch.float32).unflatten(1, self.sequence_shape)
        pooled = self.pooled(class_id, out_dtype=torch.float32)
        device = comfy.model_management.intermediate_device()
        return sequence.to(device), pooled.to(device)

    def load_sd(self, state: dict[str, torch.Tensor]) -> Any:
        """Load the table; the host sets ``can_assign_sd`` where it wants to keep the given tensors."""
        return self.load_state_dict(state, strict=False, assign=getattr(self, "can_assign_sd", False))


def build_clip(
    sequences: torch.Tensor, pooled: torch.Tensor | None = None, names: Sequence[str] = TEXTS
) -> comfy.sd.CLIP:
    """Build the host's CLIP around sequences (K, T, D) of `names` and the empty prompt, and pooled vectors
    (K, P), else token means.
    """
    if pooled is None:
        pooled = sequences.mean(1)
    target = comfy.supported_models_base.ClipTarget(partial(ClassTokenizer, names), ClassTable)
    target.params = {"shape": tuple(sequences.shape), "pooled_width": pooled.shape[1]}
    state = {"sequences.weight": sequences.flatten(1), "pooled.weight": pooled}
    return comfy.sd.CLIP(target, state_dict=[state], model_options={"dtype": torch.float32})

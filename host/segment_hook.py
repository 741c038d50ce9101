"""An upscaler hook of another pack, called after each paste. An error in it does not end the run."""

from __future__ import annotations

from logging import WARNING
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from .log import log_once


class PasteHook:
    """Gives the image (F, H, W, C) to a hook's `post_paste`, and uses its result.

    Attributes:
        calls, failures: how often it was called, and how often it failed.
    """

    def __init__(self, frames: Tensor, hook: Any) -> None:
        self._frames, self._hook = frames, hook
        self._post_paste: Any = getattr(hook, "post_paste", None)
        self._before = torch.empty_like(frames) if self._post_paste else frames
        self.calls = self.failures = 0

    @property
    def may_change(self) -> bool:
        """Whether it may change the image: not if it says `only_reads`, as Save Progress Hook does."""
        return self._post_paste is not None and not getattr(self._hook, "only_reads", False)

    def __call__(self) -> None:
        """Call the hook with the image. After an error in it, the image is restored."""
        if self._post_paste is None:
            return
        self.calls += 1
        self._before.copy_(self._frames)
        try:
            changed = self._post_paste(self._frames)
            if changed.shape != self._frames.shape:
                raise ValueError(
                    f"it changed the shape {tuple(self._frames.shape)} to {tuple(changed.shape)}"
                )
            if changed is not self._frames:
                self._frames.copy_(changed)
        except comfy.model_management.InterruptProcessingException:
            raise
        except Exception as error:
            self._frames.copy_(self._before)
            self.failures += 1
            kind = type(error).__name__
            log_once(
                "upscaler_hook_opt: %s raised %s: %s",
                self._name,
                kind,
                " ".join(str(error).split()),
                level=WARNING,
            )

    def texts(self) -> list[str]:
        """Return the notices for the node at the end."""
        if self._hook is not None and self._post_paste is None:
            return [
                f"upscaler_hook_opt: nothing to do, {self._name} has no post_paste. Connect a hook for pasted "
                "segments, such as Save Progress Hook."
            ]
        if not self.failures:
            return []
        return [
            f"upscaler_hook_opt: {self._name} failed in {self.failures} of {self.calls} calls; the image "
            "before each of them was kept. The log has the error."
        ]

    @property
    def _name(self) -> str:
        return type(self._hook).__name__

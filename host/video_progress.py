"""Progress of a video: the bar, frames per second, the time left, and the last frame as a preview."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import comfy.model_management
import comfy.utils
from torch import Tensor

from .compat import executing_node, prompt_server
from .progress import LONGEST, LivePreview

SECONDS = 0.5  # between two previews, and two lines of text
WINDOW = 50  # frames over which the speed is measured


class VideoProgress:
    """Progress of `total` frames, of which `done` are already finished; a total of 0 is unknown."""

    def __init__(self, total: int, done: int) -> None:
        self._total, self._done, self._before = total, done, done
        self._bar = comfy.utils.ProgressBar(max(total, 1))
        self._times = deque([time.monotonic()], maxlen=WINDOW)
        self._started = self._times[0]
        self._shown = 0.0

    def __call__(self, picture: Tensor) -> None:
        """Count one more finished frame, (3, H, W)."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        self._done += 1
        self._times.append(time.monotonic())
        preview = None
        if self._times[-1] >= self._shown + SECONDS or self._done == self._total:
            self._shown = self._times[-1]
            preview = ("JPEG", LivePreview(picture, ()).image(), LONGEST)
            _show_text(self.text)
        self._bar.update_absolute(self._done, max(self._total, self._done), preview)

    @property
    def text(self) -> str:
        """Frames done, per second, and the time left."""
        rate = (len(self._times) - 1) / max(self._times[-1] - self._times[0], 1e-6)
        if not self._total:
            return f"{self._done} frames, {rate:.1f} per second"
        left = max(0, self._total - self._done) / max(rate, 1e-6)
        return f"{self._done} of {self._total} frames, {rate:.1f} per second, {clock(left)} left"

    @property
    def summary(self) -> str:
        """A summary of this run."""
        seconds = time.monotonic() - self._started
        computed = self._done - self._before
        text = f"{self._done} frames, {computed} of them in {clock(seconds)} ({computed / max(seconds, 1e-6):.1f} per second)"
        return text if self._before else text.replace(f", {computed} of them in", " in")


def clock(seconds: float) -> str:
    """Return a duration as 1:02:03 or 2:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _show_text(text: str) -> None:
    server: Any = prompt_server()
    _, node = executing_node()
    if server is not None and node is not None:
        server.send_progress_text(text, node)

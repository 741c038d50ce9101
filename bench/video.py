"""Memory and time of Upscale Video with Model, compared with the host's own nodes and a plain script.

    python3 dev.py bench video                                   # short: 10 and 50 frames
    python3 dev.py bench video --frames 10 100 1000 --ways node script --codec ffv1

Expected: the node's peak does not grow with the number of frames and lies within 300 MB of the script's; its
time is no longer than the script's, because reading and writing overlap with computing; with 90 % of each
frame unchanged it takes at most a fifth. H.264 looks 40 frames ahead, so the encoder holds 40 frames of 2 MB,
but not in a video of 10 frames. FFV1 holds none. The host's nodes hold every frame as floats: 12 bytes a
pixel, of the video and of the 4x result.

Each value is measured in a separate process; the ways alternate, `--runs` times, and the median is printed
with the spread.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from devhost.environment import ROOT
from devhost.host import import_host

WAYS = ("node", "script", "host", "node still")
MODEL = ROOT / "assets" / "upscale_models" / "megapixel-compact-4x.safetensors"
HEIGHT, WIDTH, SCALE = 270, 480, 2
PATCH = 40  # side of what moves in the video that stands still elsewhere


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--frames", type=int, nargs="+", default=[10, 50])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["node", "script", "host"])
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--size", type=int, nargs=2, default=[HEIGHT, WIDTH], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--codec", choices=("h264", "ffv1"), default="h264")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        way, codec, source, folder = options.child
        print(json.dumps(_measure(way, codec, Path(source), Path(folder))))
        return
    with tempfile.TemporaryDirectory() as folder:
        for frames in options.frames:
            _compare(options, frames, Path(folder))


def _compare(options: argparse.Namespace, frames: int, folder: Path) -> None:
    results: dict[str, list[dict[str, float]]] = {way: [] for way in options.ways}
    for run in range(options.runs):
        for way in options.ways:
            source = folder / f"{frames} {way == 'node still'}.mkv"
            if not source.exists():
                _write_source(source, frames, options.size, still=way == "node still")
            work = folder / f"{frames}-{run}-{way.replace(' ', '_')}"
            results[way].append(_in_a_process(way, options.codec, source, work))
    for way, found in results.items():
        seconds = sorted(one["seconds"] for one in found)
        peak = max(one["peak"] for one in found)
        print(
            f"{frames:5} frames  {way:12} {statistics.median(seconds):8.1f} s ({seconds[0]:.1f} to {seconds[-1]:.1f})  "
            f"{statistics.median(seconds) / frames * 1000:7.0f} ms a frame  "
            f"{statistics.median(one['cpu'] for one in found):8.1f} s of CPU  peak {peak:6.0f} MB",
            flush=True,
        )


def _in_a_process(way: str, codec: str, source: Path, work: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "bench.video", "--child", way, codec, str(source), str(work)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def _write_source(file: Path, frames: int, size: list[int], still: bool) -> None:
    from devhost.tiny.videos import moving_pictures, write_video

    height, width = size
    pictures = moving_pictures(frames, height, width)
    if still:
        pictures = _Still(pictures)
    write_video(file, pictures, "ffv1", "bgr0", options={})  # pyright: ignore[reportArgumentType]


class _Still:
    """Frames of which only a patch on the border of two tiles moves: 2 of 18 tiles change.

    Made one at a time.
    """

    def __init__(self, moving: Any) -> None:
        self._moving, self.shape = moving, moving.shape

    def __len__(self) -> int:
        return len(self._moving)

    def __iter__(self) -> Iterator[Any]:
        for picture in self._moving:
            still = self._moving[0].clone()
            still[:, 20 : 20 + PATCH, 75 : 75 + PATCH] = picture[:, :PATCH, :PATCH]
            yield still


def _measure(way: str, codec: str, source: Path, work: Path) -> dict[str, float]:
    work.mkdir()
    if way == "script":
        work_through = _script(source, work, codec)
    else:
        import_host()
        work_through = _host(source, work) if way == "host" else _node(source, work, codec)
    started, computed = time.perf_counter(), time.process_time()
    work_through()
    seconds, computed = time.perf_counter() - started, time.process_time() - computed
    return {
        "seconds": seconds,
        "cpu": computed,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _node(source: Path, work: Path, codec: str):
    import folder_paths
    import torch
    from megapixel.host.upscale import ready_network
    from megapixel.host.upscale_video import VideoSettings, upscale_video
    from megapixel.upscale.budget import Budget
    from megapixel.video.file_reader import FileReader
    from spandrel import ModelLoader

    folder_paths.set_output_directory(str(work))
    folder_paths.set_user_directory(str(source.parent))  # measurements of the model are shared by all runs
    model = ModelLoader().load_from_file(str(MODEL)).eval()
    with torch.inference_mode():
        form = FileReader(str(source)).form
        budget = Budget(form.height * form.width)
        network = ready_network(model, "float32", False, (form.height, form.width), budget)
        network.stages[0].receptive_field()  # measured once a model, not once a video

    def work_through() -> None:
        with torch.inference_mode():
            settings = VideoSettings(scale_by=SCALE, codec=codec, filename_prefix="a", precision="float32")
            print(upscale_video(model, FileReader(str(source)), settings).notes)

    return work_through


def _host(source: Path, work: Path):
    """Get Video Components, Upscale Image (using Model), Upscale Image By, Create Video, Save Video."""
    from fractions import Fraction

    import comfy.utils
    import folder_paths
    import torch
    from comfy_api.latest import InputImpl, Types
    from comfy_extras.nodes_upscale_model import ImageUpscaleWithModel, UpscaleModelLoader

    folder_paths.add_model_folder_path("upscale_models", str(MODEL.parent))
    [model] = UpscaleModelLoader.execute(MODEL.name).args

    def work_through() -> None:
        with torch.inference_mode():
            parts = InputImpl.VideoFromFile(str(source)).get_components()
            [images] = ImageUpscaleWithModel.execute(model, parts.images).args
            height, width = (side * SCALE // 4 for side in (images.shape[1], images.shape[2]))
            images = comfy.utils.common_upscale(
                images.movedim(-1, 1), width, height, "area", "disabled"
            ).movedim(1, -1)
            components = Types.VideoComponents(
                images=images, audio=parts.audio, frame_rate=Fraction(parts.frame_rate)
            )
            InputImpl.VideoFromComponents(components).save_to(str(work / "a.mp4"))

    return work_through


def _script(source: Path, work: Path, codec: str):
    """What people run outside ComfyUI: decode a frame, network, encode, one after the other."""
    import av
    import torch
    import torch.nn.functional as F
    from spandrel import ModelLoader

    encoder, pixels_of_file = {"h264": ("libx264", "yuv420p"), "ffv1": ("ffv1", "bgr0")}[codec]
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    model = ModelLoader().load_from_file(str(MODEL)).eval()

    def work_through() -> None:
        with (
            torch.inference_mode(),
            av.open(str(source)) as opened,
            av.open(str(work / "a.mkv"), "w") as output,
        ):
            stream = output.add_stream(encoder, rate=24)
            given = opened.streams.video[0]
            stream.width, stream.height, stream.pix_fmt = (
                given.width * SCALE,
                given.height * SCALE,
                pixels_of_file,
            )
            for frame in opened.decode(video=0):
                pixels = torch.from_numpy(frame.to_ndarray(format="rgb24")).movedim(-1, 0)[None].float() / 255
                enlarged = F.interpolate(model(pixels), scale_factor=SCALE / 4, mode="area")[0].clamp(0, 1)
                numbers = (enlarged.movedim(0, -1) * 255).round().to(torch.uint8).contiguous().numpy()
                made = av.VideoFrame.from_ndarray(numbers, format="rgb24")
                output.mux(stream.encode(made))
            output.mux(stream.encode(None))

    return work_through


if __name__ == "__main__":
    main()

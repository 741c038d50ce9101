"""The node on the real host: the host's own loader and node beside it,
real architectures with random weights.
"""

from __future__ import annotations

import copy
import gc
import json
import re
import weakref
from itertools import count, pairwise

import comfy.model_management
import comfy.model_patcher
import comfy.utils
import folder_paths
import numpy as np
import pytest
import torch
from comfy_execution.utils import CurrentNodeContext
from comfy_extras.nodes_upscale_model import ImageUpscaleWithModel, UpscaleModelLoader
from megapixel.host import progress, upscale as host_upscale_module
from megapixel.host.log import forget_lines
from megapixel.host.measurements import FORMAT, fingerprint
from megapixel.host.upscale import offer_models, result_size
from megapixel.nodes.upscale import MegapixelUpscale
from megapixel.upscale import tensor_format
from PIL import Image
from spandrel import ImageModelDescriptor, MaskedImageModelDescriptor, ModelLoader, ModelTiling
from spandrel.architectures.Compact import Compact, CompactArch
from spandrel.architectures.DnCNN import DnCNN
from spandrel.architectures.ESRGAN import ESRGAN
from spandrel.architectures.LaMa import LaMaArch
from spandrel.architectures.SwinIR import SwinIR

from devhost.tiny.random_models import random_state
from devhost.tiny.random_upscalers import random_upscaler

# float32 in the memory format that is faster on this processor; half of half an 8-bit step is 1e-3.
SAME = 5e-6
SHIPPED = "megapixel-compact-4x.safetensors"
SCARCE = 100 * 2**20  # bytes, for an image that needs more in one piece
MEASURING = (
    "Upscale: measuring this model's receptive field and the fastest settings, once per model and device."
)


def compact(channels=3, scale=2):
    return Compact(num_in_ch=channels, num_out_ch=channels, num_feat=8, num_conv=3, upscale=scale), 0.05, 0.0


def dncnn(channels=3):
    return DnCNN(in_nc=channels, out_nc=channels, nc=8, nb=9, act_mode="R"), 0.05, 0.0


def esrgan():
    return ESRGAN(num_filters=8, num_blocks=1), 0.05, 0.5


def swinir():
    network = SwinIR(
        upscale=2, img_size=16, window_size=8, depths=[1], embed_dim=8, num_heads=[2], mlp_ratio=2,
        upsampler="pixelshuffledirect",
    )  # fmt: skip
    return network, 0.05, 0.1


NETWORKS = {"compact": compact, "dncnn": dncnn, "esrgan": esrgan, "swinir": swinir}


def described(make, **settings):
    """Return a network with random weights as spandrel's loader gives it: no `patcher`,
    results inside (0, 1).
    """
    with torch.random.fork_rng():  # a fresh network draws its weights globally
        network, gain, bias = make(**settings)
        state = network.state_dict() | random_state(network, seed=1)
        last = [name for name, weights in state.items() if weights.dim() == 4][-1].removesuffix(".weight")
        state[f"{last}.weight"] = state[f"{last}.weight"] * gain
        state[f"{last}.bias"] = state[f"{last}.bias"] + bias
        return ModelLoader().load_from_state_dict(state).eval()


def with_patcher(descriptor):
    """Return a copy as the host's loader hands it out."""
    descriptor = copy.deepcopy(descriptor)
    descriptor.patcher = comfy.model_patcher.CoreModelPatcher(
        descriptor.model,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )
    return descriptor


def upscale(model, image, **settings):
    with torch.inference_mode():  # as the host runs every node
        [enlarged] = MegapixelUpscale.execute(model, image, **settings).args
    return enlarged


def host_upscale(model, image):
    with torch.inference_mode():
        [enlarged] = ImageUpscaleWithModel.execute(model, image).args
    return enlarged


def assert_inside(enlarged):
    """Nothing was clamped away, so every value counts in a comparison."""
    assert 0 < enlarged.min() < enlarged.max() < 1


def state_of(model):
    """All that another node could notice: bits, types,
    places and memory formats of the weights, hooks and mode.
    """
    weights = {
        name: (value.clone(), value.dtype, value.device, value.stride(), value.data_ptr())
        for name, value in model.model.state_dict().items()
    }
    hooks = [len(module._forward_pre_hooks) for module in model.model.modules()]
    gradients = [parameter.requires_grad for parameter in model.model.parameters()]
    return (
        weights,
        hooks,
        gradients,
        model.model.training,
        getattr(model, "patcher", None),
        vars(model).keys(),
    )


def assert_same_state(before, after):
    assert before[0].keys() == after[0].keys()
    for name, (bits, *rest) in before[0].items():
        assert torch.equal(bits, after[0][name][0]), name
        assert rest == list(after[0][name][1:]), name
    assert before[1:] == after[1:]


def count_calls(model):
    """Return a list that gets the shape of every picture that the network or a copy of it is given."""
    shapes = []

    def note(module, arguments):
        shapes.append(tuple(arguments[0].shape))

    model.model.register_forward_pre_hook(note)  # a copy of the network has it too
    return shapes


@pytest.fixture(autouse=True)
def user_folder(tmp_path):
    """What is measured lands in a folder of the test's own."""
    kept = folder_paths.get_user_directory()
    folder_paths.set_user_directory(str(tmp_path))
    yield tmp_path
    folder_paths.set_user_directory(kept)


@pytest.fixture(scope="module")
def picture():
    """A function (*shape, seed=0) that draws pictures in (0.2, 0.8)."""

    def drawn(*shape, seed=0):
        return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 0.6 + 0.2

    return drawn


@pytest.fixture
def native_half(monkeypatch):
    """As on a processor with instructions for half precision."""
    monkeypatch.setattr(tensor_format, "computes_natively", lambda dtype, device: True)


@pytest.fixture
def shipped():
    offer_models()
    assert SHIPPED in folder_paths.get_filename_list("upscale_models")
    with torch.random.fork_rng():
        return UpscaleModelLoader.execute(SHIPPED).args[0]


@pytest.fixture
def on_progress(monkeypatch):
    """A function that installs what the host's progress bars call."""
    return lambda hook: monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", hook)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (200, 300)),
        ({"scale_by": 2.0}, (100, 150)),
        ({"scale_by": 0.01}, (1, 1)),
        ({"scale_by": 1.35}, (68, 101)),
        ({"width": 100}, (67, 100)),
        ({"height": 100}, (100, 150)),
        ({"width": 7, "height": 900}, (900, 7)),
        ({"width": 150, "scale_by": 8.0}, (100, 150)),
        ({"width": 1}, (1, 1)),
    ],
    ids=str,
)
def test_the_size_of_the_result(settings, expected):
    assert result_size((50, 75), 4, **{"scale_by": 0.0, "width": 0, "height": 0} | settings) == expected


@pytest.mark.parametrize("name", NETWORKS)
def test_a_picture_of_one_tile_is_the_hosts(name, picture):
    bare = described(NETWORKS[name])
    hosted = with_patcher(bare)
    image = picture(2, 40, 51, 3)
    expected = host_upscale(hosted, image)
    ours = upscale(hosted, image, precision="float32")
    assert_inside(expected)
    assert expected.std() > 0.01
    assert (ours.dtype, ours.shape) == (torch.float32, expected.shape)
    torch.testing.assert_close(ours, expected, rtol=0, atol=SAME)
    torch.testing.assert_close(upscale(bare, image, precision="float32"), ours, rtol=0, atol=SAME)


def test_the_shipped_model_comes_through_the_hosts_loader_and_gives_what_its_node_gives(shipped, picture):
    image = picture(1, 60, 45, 3)
    ours = upscale(shipped, image, precision="float32")
    assert ours.shape == (1, 240, 180, 3)
    torch.testing.assert_close(ours, host_upscale(shipped, image), rtol=0, atol=SAME)


@pytest.mark.parametrize("name", ["compact", "dncnn", "esrgan"])
def test_tiles_give_what_one_piece_gives_and_the_log_tells_how_many(name, picture, caplog):
    model = described(NETWORKS[name])
    image = picture(2, 150, 131, 3)
    with caplog.at_level("INFO", "megapixel"):
        whole, tiled = (upscale(model, image, precision="float32", tile_size=size) for size in (4096, 64))
    assert_inside(whole)
    torch.testing.assert_close(tiled, whole, rtol=0, atol=2e-6)
    assert caplog.messages[:2] == [MEASURING, "Upscale: 131x150 in one piece"]
    assert caplog.messages.count(MEASURING) == 1
    assert re.fullmatch(r"Upscale: 131x150 in \d+ tiles of \d+x\d+, exact, [\d.]+ of its pixels computed",
                        caplog.messages[-1])  # fmt: skip


@pytest.mark.slow
def test_a_picture_in_blended_tiles_for_lack_of_memory_says_so_and_is_not_final(picture, caplog, monkeypatch):
    model, image = with_patcher(random_upscaler("RCAN 16")), picture(1, 140, 160, 3)

    def run():
        with CurrentNodeContext("prompt", "8"), torch.inference_mode():
            before = MegapixelUpscale.fingerprint_inputs(upscale_model=model)
            result = MegapixelUpscale.execute(model, image, precision="float32")
            after = MegapixelUpscale.fingerprint_inputs(upscale_model=model)
        return (result.ui.as_dict()["text"] if result.ui else ()), before == after

    monkeypatch.setattr(host_upscale_module, "free_memory", lambda device: SCARCE // 16)
    assert run() == ((host_upscale_module.BLENDED,), False)
    assert caplog.messages.count(host_upscale_module.BLENDED) == 1
    monkeypatch.undo()
    assert run() == ((), True)


def test_a_third_party_descriptor_of_its_own_class_serves_as_well(picture):
    class Wrapper:
        """What a loader of another pack may hand out: the attributes,
        without spandrel's class or the host's.
        """

        def __init__(self, descriptor):
            self.model = descriptor.model
            for name in (
                "scale", "input_channels", "output_channels", "supports_half", "supports_bfloat16",
                "size_requirements", "tiling",
            ):  # fmt: skip
                setattr(self, name, getattr(descriptor, name))

        def __call__(self, pictures):
            return self.model(pictures).clamp(0, 1)

    model = described(compact)
    image = picture(1, 90, 41, 3)
    expected = upscale(model, image, precision="float32", tile_size=48)
    assert torch.equal(upscale(Wrapper(model), image, precision="float32", tile_size=48), expected)


def test_grey_is_the_mean_of_what_becomes_of_three_equal_channels(picture):
    model = with_patcher(described(compact))
    image = picture(2, 20, 31, 1)
    expected = host_upscale(model, image.expand(2, 20, 31, 3)).mean(dim=-1, keepdim=True)
    ours = upscale(model, image, precision="float32")
    assert ours.shape == (2, 40, 62, 1)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("colours", [1, 3])
def test_transparency_goes_through_the_model_as_a_grey_picture(colours, picture):
    model = with_patcher(described(compact))
    image = picture(2, 20, 31, colours + 1)
    coloured = host_upscale(model, image[..., :colours].expand(2, 20, 31, 3))
    coloured = coloured if colours == 3 else coloured.mean(dim=-1, keepdim=True)
    alpha = host_upscale(model, image[..., colours:].expand(2, 20, 31, 3)).mean(dim=-1, keepdim=True)
    ours = upscale(model, image, precision="float32")
    torch.testing.assert_close(ours, torch.cat([coloured, alpha], dim=-1), rtol=0, atol=1e-6)
    resampled = upscale(model, image, precision="float32", alpha="resample")
    assert torch.equal(resampled[..., :colours], ours[..., :colours])
    assert 0.01 < (resampled - ours).abs().max() < 0.5
    dropped = upscale(model, image, precision="float32", alpha="drop")
    assert torch.equal(dropped, ours[..., :colours])


def test_a_model_for_grey_takes_every_colour_by_itself(picture):
    model = described(compact, channels=1)
    image = picture(1, 20, 31, 3)
    with torch.inference_mode():  # the host's node takes models for three channels only
        by_colour = [model(image[..., number][:, None])[:, 0] for number in range(3)]
    ours = upscale(model, image, precision="float32")
    assert_inside(ours)
    torch.testing.assert_close(ours, torch.stack(by_colour, dim=-1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_images_of_another_type_give_a_picture_in_the_hosts_type(dtype, picture):
    model = described(compact)
    image = picture(1, 20, 31, 3).to(dtype)
    ours = upscale(model, image, precision="float32")
    assert ours.dtype == torch.float32
    assert torch.equal(ours, upscale(model, image.float(), precision="float32"))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_batch_is_its_pictures_one_by_one(channels, picture):
    model = described(esrgan)
    image = picture(3, 20, 31, channels)
    single = [upscale(model, frame[None], precision="float32") for frame in image]
    torch.testing.assert_close(
        upscale(model, image, precision="float32"), torch.cat(single), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({"scale_by": 1.0}, (70, 51)),
        ({"scale_by": 1.5}, (105, 76)),
        ({"scale_by": 3.3}, (231, 168)),
        ({"width": 90, "height": 33}, (33, 90)),
    ],
    ids=str,
)
@pytest.mark.parametrize("tile_size", [0, 48])
def test_another_size_is_the_models_result_resampled_by_lanczos(settings, size, tile_size, picture):
    model = with_patcher(described(compact))
    image = picture(1, 70, 51, 3) * 0.5 + 0.25  # the kernel overshoots, and a clamp would hide differences
    [own] = host_upscale(model, image).movedim(-1, 1)
    resampled = [
        np.asarray(Image.fromarray(channel.numpy()).resize(size[::-1], Image.Resampling.LANCZOS))
        for channel in own
    ]
    expected = torch.from_numpy(np.stack(resampled, axis=-1))
    [ours] = upscale(model, image, precision="float32", tile_size=tile_size, **settings)
    assert_inside(expected)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


def test_half_precision_stays_close_and_auto_closer(picture, native_half):
    model = described(compact)
    image = picture(1, 64, 51, 3)
    exact = upscale(model, image, precision="float32")
    assert 0 < (upscale(model, image, precision="bfloat16") - exact).abs().max() < 0.02
    assert (upscale(model, image) - exact).abs().max() < 2 / 255


def bare_inpainting():
    """spandrel's own class for models that fill masked parts, around the smallest network."""
    network = torch.nn.Conv2d(4, 3, 1)
    return MaskedImageModelDescriptor(
        network, network.state_dict(), LaMaArch(), "Inpainting", [], False, True, 3, 3
    )  # fmt: skip


REFUSED = {
    "no picture": (
        "compact", (0, 5, 6, 3), {},
        "image: expected images of at least 1x1 pixels, got a tensor of 0x5x6x3. Check the node that made it.",
    ),
    "no height": (
        "compact", (1, 0, 6, 3), {},
        "image: expected images of at least 1x1 pixels, got a tensor of 1x0x6x3. Check the node that made it.",
    ),
    "no batch": (
        "compact", (5, 6, 3), {},
        "image: expected images of at least 1x1 pixels, got a tensor of 5x6x3. Check the node that made it.",
    ),
    "five channels": (
        "compact", (1, 5, 6, 5), {},
        "image: expected 1 to 4 channels (grey, RGB, with or without alpha), got 5. Convert it to RGB or RGBA first.",
    ),
    "inpainting": (
        bare_inpainting, (1, 5, 6, 3), {},
        "upscale_model: expected a model that enlarges images, got an inpainting model. "
        "Choose an upscale model.",
    ),
    "a layer": (
        lambda: torch.nn.Linear(2, 2), (1, 5, 6, 3), {},
        "upscale_model: expected a model from Load Upscale Model, got Linear. Connect Load Upscale Model.",
    ),
    "nothing": (
        lambda: None, (1, 5, 6, 3), {},
        "upscale_model: expected a model from Load Upscale Model, got NoneType. Connect Load Upscale Model.",
    ),
    "two channels": (
        "two channels", (1, 5, 6, 3), {},
        "upscale_model: expected a model for images with 1, 3 or 4 channels, got one for 2. Choose another model.",
    ),
    "float16": (
        "swinir", (1, 20, 26, 3), {"precision": "float16"},
        "precision: expected a type that this model supports, got float16. Use auto or bfloat16.",
    ),
    "no half precision at all": (
        "compact, float32 only", (1, 20, 26, 3), {"precision": "bfloat16"},
        "precision: expected a type that this model supports, got bfloat16. Use auto or float32.",
    ),
}  # fmt: skip


def refused_model(kind):
    if callable(kind):
        with torch.random.fork_rng():
            return kind()
    model = described(NETWORKS.get(kind, compact))
    if kind == "two channels":
        model.input_channels = 2
    if kind == "compact, float32 only":
        model.supports_half = model.supports_bfloat16 = False
    return model


@pytest.mark.parametrize(("kind", "shape", "settings", "sentence"), REFUSED.values(), ids=list(REFUSED))
def test_bad_input_is_an_error_message(kind, shape, settings, sentence):
    model, image = refused_model(kind), torch.full(shape, 0.5)
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        upscale(model, image, **settings)


def test_a_result_beyond_the_memory_is_refused_at_once_with_the_numbers(picture):
    model = described(compact)
    calls = count_calls(model)
    video = picture(1, 1, 1, 3).expand(1000, 512, 512, 3)  # one pixel in memory
    sentence = (
        r"^image: expected a result that fits [\d.]+ GB of free memory, got 3000\.0 GB for 1000 of 16384x16384\. "
        r"Use a smaller scale factor or fewer frames\.$"
    )
    with pytest.raises(MemoryError, match=sentence):
        upscale(model, video, scale_by=32.0)
    assert calls == []


def test_what_is_no_number_becomes_black_and_is_told_once(picture, caplog):
    model = described(compact)
    spoiled = picture(2, 20, 31, 3)
    spoiled[1, 3, 4] = torch.nan
    given = spoiled.clone()
    with caplog.at_level("WARNING", "megapixel"):
        ours = upscale(model, given, precision="float32")
    assert caplog.messages == [
        "image: expected finite numbers, got 3 values that are NaN or infinite. NaN is treated as black."
    ]
    assert torch.equal(given.nan_to_num(7.0), spoiled.nan_to_num(7.0))
    assert torch.equal(ours, upscale(model, spoiled.nan_to_num(0.0), precision="float32"))
    assert bool(ours.isfinite().all())


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("size", [(1, 1), (1, 2), (3, 1), (2, 5), (1, 40)])
def test_the_smallest_pictures_work(name, size, picture):
    model = described(NETWORKS[name])
    image = picture(1, *size, 4)
    ours = upscale(model, image, precision="float32")
    assert ours.shape == (1, size[0] * model.scale, size[1] * model.scale, 4)
    assert_inside(ours)
    colours = model(image[..., :3].movedim(-1, 1)).movedim(1, -1)
    torch.testing.assert_close(ours[..., :3], colours, rtol=0, atol=1e-6)


def test_a_model_that_cuts_pictures_itself_is_given_them_whole(picture):
    plain = described(compact)
    image = picture(2, 150, 131, 3)
    expected = upscale(plain, image, precision="float32")  # measures
    model = ImageModelDescriptor(
        plain.model, plain.model.state_dict(), CompactArch(), "SR", [], False, False, 2, 3, 3,
        tiling=ModelTiling.INTERNAL,
    )  # fmt: skip
    calls = count_calls(model)
    ours = upscale(model, image, precision="float32", tile_size=64)
    assert calls == [(1, 3, 150, 131)] * 2
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["compact", "esrgan"])
@pytest.mark.parametrize("told", [2, 3])
def test_cancelling_stops_within_one_tile(name, told, picture, on_progress, monkeypatch):
    monkeypatch.setattr(progress, "PREVIEW_SECONDS", 0.0)  # so that the host is told about every tile
    image, settings = picture(2, 150, 131, 3), {"precision": "float32", "tile_size": 48}
    expected = upscale(described(NETWORKS[name]), image, **settings)  # measures
    model = described(NETWORKS[name])
    values, tiles = [], []  # told to the host; how many of those before a tile was computed

    def hook(value, total, preview, node_id=None):
        values.append(value)
        if len(values) == told:
            comfy.model_management.interrupt_current_processing(True)

    convolutions = [module for module in model.model.modules() if isinstance(module, torch.nn.Conv2d)]
    convolutions[-1].register_forward_hook(lambda module, arguments, result: tiles.append(len(values)))
    on_progress(hook)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        upscale(model, image, **settings)
    assert len(values) == told
    assert values[-1] < 1000
    assert tiles
    assert sum(before >= told for before in tiles) <= 1
    assert not comfy.model_management.processing_interrupted()
    on_progress(None)
    torch.testing.assert_close(upscale(model, image, **settings), expected, rtol=0, atol=1e-6)


def test_cancelling_stops_a_compiled_model_too(picture, on_progress):
    model, image = described(compact), picture(1, 150, 131, 3)
    settings = {"precision": "float32", "tile_size": 48, "compile": True}
    with torch.compiler.set_stance("force_eager"):
        upscale(model, image, **settings)
        values = []

        def hook(value, total, preview, node_id=None):
            values.append(value)
            comfy.model_management.interrupt_current_processing(True)

        on_progress(hook)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            upscale(model, image, **settings)
    assert len(values) == 1
    assert not comfy.model_management.processing_interrupted()


def test_cancelling_in_the_middle_of_a_tile_stops_at_the_next_layer(picture):
    model, image = described(compact), picture(1, 40, 51, 3)
    upscale(described(compact), image)  # measures
    layers = []

    def cancel(module, arguments, result):
        layers.append(module)
        comfy.model_management.interrupt_current_processing(True)

    for layer in model.model.body:
        layer.register_forward_hook(cancel)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        upscale(model, image)
    assert len(layers) == 1
    assert not comfy.model_management.processing_interrupted()


def test_cancelling_a_measurement_stops_at_the_next_layer_and_what_is_left_is_measured_later(picture):
    model, image = described(compact), picture(1, 150, 131, 3)
    expected = upscale(described(compact), image, precision="float32")
    layers = []

    def cancel(module, arguments, result):
        layers.append(module)
        if len(layers) == 1:
            comfy.model_management.interrupt_current_processing(True)

    folder_paths.set_user_directory(folder_paths.get_user_directory() + "/other")  # nothing is measured there
    model.model.body[0].register_forward_hook(cancel)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        upscale(model, image, precision="float32")
    assert len(layers) == 1
    torch.testing.assert_close(upscale(model, image, precision="float32"), expected, rtol=0, atol=SAME)


def work_of(model):
    """Return a list that gets the multiplications of every convolution of the network and its copies."""
    work = []

    def note(layer, arguments, result):
        work.append(result[0, 0].numel() * result.shape[0] * layer.weight.numel())

    for layer in model.model.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(note)
    return work


@pytest.mark.parametrize("name", ["compact", "dncnn", "esrgan"])
@pytest.mark.parametrize("precision", ["auto", "bfloat16"])
def test_the_first_use_costs_at_most_three_plain_passes_and_the_bar_rises_meanwhile(
    name, precision, picture, on_progress, monkeypatch
):
    # Or a fast machine hears of the ends alone.
    monkeypatch.setattr(comfy.utils, "PROGRESS_THROTTLE_MIN_INTERVAL", 0.0)
    image, model = picture(1, 128, 128, 3), described(NETWORKS[name])
    work, values = work_of(model), []
    with torch.inference_mode():
        model(image.movedim(-1, 1))
    plain = sum(work)
    work.clear()
    on_progress(lambda value, total, preview, node_id=None: values.append(value))
    upscale(model, image, precision=precision)
    assert plain < sum(work) <= 3 * plain
    assert values == sorted(values)
    assert (values[0], values[-1]) == (0, 1000)
    assert any(0 < value < 600 for value in values)
    work.clear()
    upscale(model, image, precision=precision)
    assert sum(work) <= 2 * plain  # only what was left for later is measured again


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("name", ["compact", "esrgan"])
def test_progress_rises_to_the_end_and_the_preview_fills(name, channels, picture, on_progress, monkeypatch):
    monkeypatch.setattr(progress, "PREVIEW_SECONDS", 0.0)
    told = []
    on_progress(lambda value, total, preview, node_id=None: told.append((value, total, preview)))
    upscale(described(NETWORKS[name]), picture(2, 150, 131, channels), precision="float32", tile_size=64)
    values = [value for value, _, _ in told]
    assert {total for _, total, _ in told} == {1000}
    assert values == sorted(values)
    assert values[0] == 0
    assert values[-1] == 1000
    previews = [preview for _, _, preview in told if preview]
    assert len(previews) > 8
    assert {(kind, longest) for kind, _, longest in previews} == {("JPEG", 512)}
    pictures = [np.asarray(shown) for _, shown, _ in previews]
    assert {shown.shape for shown in pictures} == {(150, 131, 3)}
    changes = [not np.array_equal(before, after) for before, after in pairwise(pictures)]
    assert sum(changes) > 8
    brightness = [shown.mean() for shown in pictures]  # dark is what is still to come
    assert brightness[-1] > 1.5 * brightness[0]
    darker = [after < before for before, after in pairwise(brightness)]
    assert sum(darker) == 1  # where the second picture begins
    assert not np.array_equal(pictures[darker.index(True)], pictures[-1])


def test_a_model_that_draws_noise_gives_the_same_every_time(picture):
    model, image = described(compact), picture(1, 40, 51, 3)
    quiet = upscale(model, image, precision="float32")
    noisy = described(compact)
    noisy.model.body[0].register_forward_hook(
        lambda layer, given, result: result + torch.randn(result.shape) / 100
    )
    state = torch.get_rng_state()
    first = upscale(noisy, image, precision="float32")  # measures too, which draws as well
    assert not torch.equal(first, quiet)
    assert torch.equal(upscale(noisy, image, precision="float32"), first)
    assert torch.equal(torch.get_rng_state(), state)


def test_progress_moves_within_a_tile_too(picture, on_progress, monkeypatch):
    clock = count()
    monkeypatch.setattr(
        comfy.utils.time, "perf_counter", lambda: next(clock)
    )  # the host drops what comes too fast
    values = []
    on_progress(lambda value, total, preview, node_id=None: values.append(value))
    model = described(compact)
    upscale(model, picture(1, 40, 51, 3), precision="float32")
    layers = [layer for layer in model.model.modules() if not any(layer.children())]
    assert len(values) >= len(layers)
    assert values == sorted(values)
    assert max(after - before for before, after in pairwise(values)) <= 1000 / len(layers) + 1


def test_progress_never_falls_back_whatever_is_measured_between(picture, monkeypatch):
    values = []
    monkeypatch.setattr(
        comfy.utils.ProgressBar, "update_absolute", lambda bar, value, *rest: values.append(value)
    )
    upscale(described(esrgan), picture(2, 150, 131, 4), precision="float32", tile_size=64)
    assert values == sorted(values)
    assert values[-1] == 1000


@pytest.mark.parametrize("patched", [False, True], ids=["bare", "with patcher"])
@pytest.mark.parametrize("precision", ["auto", "float32", "bfloat16"])
def test_the_model_that_others_hold_stays_as_it_is(patched, precision, picture, native_half):
    model = described(esrgan)
    model = with_patcher(model) if patched else model
    before = state_of(model)
    upscale(model, picture(1, 60, 51, 4), precision=precision, tile_size=32)
    assert_same_state(before, state_of(model))


def test_the_model_stays_as_it_is_after_an_exception_too(picture, on_progress):
    model = with_patcher(described(compact))
    before = state_of(model)

    def fail(value, total, preview, node_id=None):
        raise RuntimeError("the host's hook")

    on_progress(fail)
    with pytest.raises(RuntimeError, match="the host's hook"):
        upscale(model, picture(1, 60, 51, 3), precision="bfloat16")
    assert_same_state(before, state_of(model))


def test_the_picture_that_others_hold_stays_as_it_is(picture):
    image = picture(2, 60, 51, 4)
    image[:, :9, :, 3] = 0.0
    before = image.clone()
    upscale(described(compact), image, tile_size=32)
    assert torch.equal(image, before)


def test_one_copy_of_the_model_stays_ready_for_the_next_run_and_goes_with_it(picture, native_half):
    def living():
        gc.collect()
        layers = [thing for thing in gc.get_objects() if type(thing) is kind]
        return sum(hasattr(layer, "of_this_test") for layer in layers)

    image, model = picture(1, 60, 51, 3), described(compact)
    first = model.model.body[0]
    kind, first.of_this_test = type(first), True
    del first
    assert living() == 1
    for precision in ("float32", "float32", "bfloat16", "float32"):
        upscale(model, image, precision=precision)
        assert living() == 2
    del model
    assert living() == 0


def test_the_copy_of_another_precision_is_gone_before_the_new_one_is_made(picture, monkeypatch, native_half):
    image, model = picture(1, 60, 51, 3), described(compact)
    kept, living = [], []
    make = host_upscale_module._new_network

    def watch(*wanted):
        living.append([reference() is not None for reference in kept])
        network = make(*wanted)
        kept[:] = [weakref.ref(network), *map(weakref.ref, network.modules)]
        return network

    monkeypatch.setattr(host_upscale_module, "_new_network", watch)
    gc.collect()
    gc.disable()
    try:
        for precision in ("float32", "bfloat16", "bfloat16", "float32"):
            upscale(model, image, precision=precision, tile_size=32)
    finally:
        gc.enable()
    assert living == [[], [False, False], [False, False]]


def test_what_was_measured_is_kept_in_the_users_folder_and_not_measured_again(picture, user_folder):
    image = picture(2, 150, 131, 3)
    first = described(compact)
    upscale(first, image, tile_size=64)
    file = user_folder / "megapixel" / "upscale_models.json"
    [(key, entry)] = json.loads(file.read_text(encoding="utf-8")).items()
    assert key == f"{fingerprint(first)} cpu torch {torch.__version__}"
    assert entry["format"] == FORMAT
    assert {name.split()[0] for name in entry["values"]} == {
        "tensor_format",
        "memory_estimate",
        "receptive_field",
    }
    written = file.stat().st_mtime_ns
    fresh = described(compact)  # as after a restart
    calls = count_calls(fresh)
    for runs in (1, 2):
        upscale(fresh, image, tile_size=64)
        assert len(calls) == runs * 2 * 9  # pictures of 3x3 tiles, no probe
    assert len(set(calls)) == 1
    assert file.stat().st_mtime_ns == written
    assert [path.name for path in file.parent.iterdir()] == ["upscale_models.json"]


def test_every_model_has_its_own_entry(picture, user_folder):
    image = picture(1, 20, 31, 3)
    for name in ("compact", "esrgan", "compact"):
        upscale(described(NETWORKS[name]), image)
    file = user_folder / "megapixel" / "upscale_models.json"
    assert len(json.loads(file.read_text(encoding="utf-8"))) == 2


def test_the_fingerprint_tells_architectures_and_weights_apart():
    models = [described(compact), described(compact, scale=4), described(dncnn), described(compact)]
    with torch.no_grad():
        models.append(described(compact))
        next(models[-1].model.parameters()).view(-1)[-1] += 1e-3  # at the end of the first tensor
    names = [fingerprint(model) for model in models]
    assert names[0] == names[3]
    assert len(set(names)) == 4


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "\x00\xff",
        "[]",
        "5",
        "NaN",
        "[" * 100_000,
        '{"KEY": 5}',
        '{"KEY": []}',
        '{"KEY": {"receptive_field whole": 5}}',
        '{"KEY": {"format": 2, "seal": "", "values": {"receptive_field whole": 5}}}',
    ],
    ids=lambda content: content[:9],
)
def test_a_damaged_file_of_measured_values_is_no_obstacle(content, picture, user_folder):
    image = picture(1, 60, 51, 3)
    expected = upscale(described(compact), image, tile_size=32)
    file = user_folder / "megapixel" / "upscale_models.json"
    [key] = json.loads(file.read_text(encoding="utf-8"))
    file.write_bytes(content.replace("KEY", key).encode("latin-1"))
    torch.testing.assert_close(
        upscale(described(compact), image, tile_size=32), expected, rtol=0, atol=2 / 255
    )
    assert json.loads(file.read_text(encoding="utf-8"))[key]  # whole again


def test_a_folder_that_cannot_be_written_is_no_obstacle(picture, user_folder):
    (user_folder / "megapixel").write_text("a file where the folder should be")
    assert upscale(described(compact), picture(1, 60, 51, 3), tile_size=32).shape == (1, 120, 102, 3)


def test_compiling_changes_neither_the_picture_nor_the_model(picture):
    model, image = described(compact), picture(1, 60, 51, 3)
    expected = upscale(model, image, precision="float32", tile_size=48)
    with torch.compiler.set_stance("force_eager"):  # all of it but the compiler, which takes a minute
        compiled = upscale(model, image, precision="float32", tile_size=48, compile=True)
    assert torch.equal(compiled, expected)
    assert model.model._compiled_call_impl is None


@pytest.mark.usefixtures("broken_compiler")
def test_a_compiler_that_fails_is_one_log_line_and_a_text_at_the_node(picture, caplog):
    model, image = described(compact), picture(2, 60, 51, 3)
    expected = upscale(model, image, precision="float32", tile_size=48)
    settings = {"precision": "float32", "tile_size": 48, "compile": True}
    for _ in range(2):  # also where the network is ready from before
        forget_lines()
        caplog.clear()
        with caplog.at_level("WARNING", "megapixel"), torch.inference_mode():
            output = MegapixelUpscale.execute(model, image, **settings)
        # The memory format is chosen again.
        torch.testing.assert_close(output.args[0], expected, rtol=0, atol=SAME)
        [line] = caplog.messages
        assert re.fullmatch(r"compile: torch\.compile failed \(\w+\)\. Continuing without it\.", line)
        assert output.ui.as_dict()["text"] == (line,)


def test_a_fresh_node_does_what_it_shows(picture):
    schema = MegapixelUpscale.GET_SCHEMA()
    sockets = [socket for socket in schema.inputs if socket.id not in ("upscale_model", "image")]
    shown = {socket.id: getattr(socket, "default", None) for socket in sockets}
    shown |= {socket.id: socket.options[0] for socket in sockets if getattr(socket, "options", None)}
    model, image = described(compact), picture(1, 20, 31, 4)
    assert torch.equal(upscale(model, image, **shown), upscale(model, image))

"""Upscale models of real architectures with random weights: small,
and with results inside the range of an image.

Each is built by spandrel's own class and loaded from its weights by spandrel's own loader, as a file would
be. The last convolution is scaled so that images in [0.25, 0.75] give values inside (0, 1): a clamp must not
hide differences.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from spandrel import ImageModelDescriptor, ModelLoader
from torch import Tensor, nn

SPREAD = 0.05  # standard deviation of what the last convolution adds
LARGEST = 0.15  # of that, at corners for one; a quarter of the range is free on either side


def _of(name: str, **settings: Any) -> Callable[[], nn.Module]:
    architecture, network = name.split(".") if "." in name else (name, name)

    def build() -> nn.Module:
        module = importlib.import_module(f"spandrel.architectures.{architecture}")
        return getattr(module, network)(**settings)

    return build


_COLOURS: dict[str, Any] = {"num_in_ch": 3, "num_out_ch": 3}
_SWIN: dict[str, Any] = {"upscale": 4, "img_size": 48, "window_size": 8, "embed_dim": 24, "mlp_ratio": 2}
_BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "Compact 16x4": _of("Compact", **_COLOURS, num_feat=16, num_conv=4, upscale=4),
    "Compact 64x16": _of("Compact", **_COLOURS, num_feat=64, num_conv=16, upscale=4),
    "Compact 64x32": _of("Compact", **_COLOURS, num_feat=64, num_conv=32, upscale=4),
    "SPAN 48": _of("SPAN", **_COLOURS, feature_channels=48, upscale=4),
    "ESRGAN 32x2": _of("ESRGAN", num_filters=32, num_blocks=2),
    "ESRGAN 64x6": _of("ESRGAN", num_filters=64, num_blocks=6),
    "ESRGAN 64x23": _of("ESRGAN", num_filters=64, num_blocks=23),
    "ESRGAN 32x2 2x": _of("ESRGAN", in_nc=12, num_filters=32, num_blocks=2, scale=4, shuffle_factor=2),
    "PLKSR 12": _of("PLKSR", dim=64, n_blocks=12, upscaling_factor=4, kernel_size=17),
    "PLKSR 4": _of("PLKSR", dim=32, n_blocks=4, upscaling_factor=4, kernel_size=17),
    "RealPLKSR 8": _of("PLKSR.RealPLKSR", dim=64, n_blocks=8, upscaling_factor=4, kernel_size=17),
    "RealPLKSR 2 layer norm": _of(
        "PLKSR.RealPLKSR", dim=32, n_blocks=2, upscaling_factor=4, kernel_size=17, layer_norm=True
    ),
    "SwinIR": _of("SwinIR", **_SWIN, depths=[2, 2], num_heads=[2, 2], upsampler="pixelshuffledirect"),
    "Swin2SR": _of("Swin2SR", **_SWIN, depths=[2, 2], num_heads=[2, 2], upsampler="pixelshuffledirect"),
    "DITN": _of("DITN"),
    "DITN 1": _of("DITN", ITL_blocks=1, SAL_blocks=1),
    "SAFMN": _of("SAFMN", dim=36, n_blocks=4, upscaling_factor=4),
    "SwiftSRGAN": _of("SwiftSRGAN"),
    "SwiftSRGAN 4": _of("SwiftSRGAN", num_blocks=4),
    "MoSR": _of("MoSR"),
    "DnCNN": _of("DnCNN"),
    "OmniSR": _of("OmniSR"),
    "RCAN": _of("RCAN", scale=4, n_resgroups=2, n_resblocks=4),
    "RCAN 16": _of("RCAN", scale=4, n_resgroups=1, n_resblocks=2, n_feats=16),
    "HAT": _of(
        "HAT", img_size=64, upscale=4, window_size=16, depths=(2, 2), embed_dim=48, num_heads=(4, 4), upsampler="pixelshuffle"
    ),
    "DAT": _of("DAT", upscale=4, depth=(2,), embed_dim=24, num_heads=(2,), split_size=(8, 16)),
}  # fmt: skip
NAMES = tuple(_BUILDERS)


def random_upscaler(name: str, seed: int = 0, centred: bool = True) -> ImageModelDescriptor[nn.Module]:
    """Return one of `NAMES` as spandrel's loader gives it, with results inside the range of an image if
    `centred`.
    """
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(seed)
        network = _BUILDERS[name]().eval()
        descriptor = ModelLoader().load_from_state_dict(network.state_dict())  # draws weights first, too
    assert isinstance(descriptor, ImageModelDescriptor)
    descriptor.eval()
    if centred:
        with torch.inference_mode():
            _centre(descriptor)
    return descriptor


def pictures(*shape: int, seed: int = 1) -> Tensor:
    """Return noise in [0.25, 0.75]."""
    return 0.25 + 0.5 * torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def _centre(descriptor: ImageModelDescriptor[nn.Module]) -> None:
    """Scale the last convolution that runs, so that the result lies about the middle."""
    probe = pictures(1, descriptor.input_channels, 64, 64)
    used: list[nn.Module] = []
    hooks = [
        module.register_forward_hook(lambda module, *_: used.append(module))
        for module in descriptor.model.modules()
    ]
    descriptor.model(probe.clone())
    for hook in hooks:
        hook.remove()
    convolutions = [module for module in used if isinstance(module, nn.Conv2d)]
    last = next(module for module in reversed(convolutions) if module.kernel_size != (1, 1))

    def result() -> Tensor:
        return descriptor.model(probe.clone())

    weight = last.weight.clone()
    last.weight.zero_()
    if last.bias is not None:
        last.bias.zero_()
    without = result()
    last.weight.copy_(weight)
    added = result() - without
    added = added - added.mean()
    last.weight.mul_(min(float(SPREAD / added.std()), float(LARGEST / added.abs().max())))
    if last.bias is not None:
        mean = result().mean()
        last.bias.fill_(1.0)
        last.bias.fill_(float((0.5 - mean) / (result().mean() - mean)))

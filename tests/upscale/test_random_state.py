"""The global random generators are seeded inside, and as before afterwards."""

from __future__ import annotations

import pytest
import torch
from megapixel.upscale.random_state import seeded


def test_inside_the_draws_are_the_seeds_and_outside_nothing_changed():
    before = torch.get_rng_state()
    with seeded(7):
        drawn = torch.rand(3)
        with seeded(7):
            assert torch.equal(torch.rand(3), drawn)
        assert not torch.equal(torch.rand(3), drawn)
    with pytest.raises(ZeroDivisionError), seeded(7):
        _ = torch.rand(3) / (1 // 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_every_accelerator_is_restored_too(monkeypatch):
    """The devices are replaced by numbers: no machine has an XPU and an MPS device."""
    states = {"xpu 0": 5, "xpu 1": 6, "mps": 7}

    def replace(module, **functions):
        for name, function in functions.items():
            monkeypatch.setattr(module, name, function)

    replace(
        torch.xpu,
        is_initialized=lambda: True,
        device_count=lambda: 2,
        get_rng_state=lambda device: states[f"xpu {device}"],
        set_rng_state=lambda state, device: states.update({f"xpu {device}": state}),
        manual_seed_all=lambda seed: states.update({"xpu 0": seed, "xpu 1": seed}),
    )
    replace(
        torch.mps,
        get_rng_state=lambda: states["mps"],
        set_rng_state=lambda state: states.update(mps=state),
        manual_seed=lambda seed: states.update(mps=seed),
    )
    replace(torch.backends.mps, is_available=lambda: True)
    with seeded(1):
        assert states == {"xpu 0": 1, "xpu 1": 1, "mps": 1}
    assert states == {"xpu 0": 5, "xpu 1": 6, "mps": 7}

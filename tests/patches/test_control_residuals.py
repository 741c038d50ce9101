from __future__ import annotations

import pytest
import torch
from megapixel.patches.control_residuals import fit_control, fit_residual


def test_the_same_size_is_the_residual_itself(draw):
    residual = draw(2, 3, 5, 4)
    assert fit_residual(residual, (5, 4)) is residual


@pytest.mark.parametrize("size", [(2, 2), (3, 4), (5, 3), (1, 1)])
def test_a_smaller_size_keeps_a_constant_and_its_strength(size):
    residual = torch.full((2, 3, 5, 4), 0.7)
    torch.testing.assert_close(fit_residual(residual, size), torch.full((2, 3, *size), 0.7))


def test_halving_averages_two_by_two(draw):
    residual = draw(2, 3, 6, 4)
    oracle = torch.stack(
        [residual[..., i::2, j::2] for i in (0, 1) for j in (0, 1)]
    ).mean(0)  # fmt: skip
    torch.testing.assert_close(fit_residual(residual, (3, 2)), oracle)


@pytest.mark.parametrize("size", [(6, 4), (3, 2), (7, 4), (9, 11)])
def test_an_addition_in_place_fits_itself(draw, size):
    features, residual = draw(2, 3, *size), draw(2, 3, 6, 4, seed=1)
    [fitted] = fit_control({"input": [residual]})["input"]
    result = features.clone()
    result += fitted
    assert type(result) is torch.Tensor
    assert torch.equal(result, features + fit_residual(residual, size))


def test_anything_else_sees_an_ordinary_tensor(draw):
    residual = draw(2, 3, 6, 4)
    [fitted] = fit_control({"middle": [residual]})["middle"]
    assert isinstance(fitted, torch.Tensor)
    for result in (fitted * 2, fitted.to(torch.float16), fitted.mean(), torch.cat([fitted, fitted])):
        assert type(result) is torch.Tensor
    assert torch.equal(fitted * 2, residual * 2)
    assert fitted.shape == residual.shape


def test_the_argument_is_left_alone(draw):
    residual = draw(1, 2, 4, 3)
    control = {"input": [], "output": [None, residual]}
    fitted = fit_control(control)
    fitted["output"].pop()
    assert control["output"] == [None, residual]
    assert fitted["output"] == [None]
    assert type(residual) is torch.Tensor
    assert fit_control(None) is None

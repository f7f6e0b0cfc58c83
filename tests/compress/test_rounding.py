"""The grid, its noise, and the gradient that passes it."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from distill_lib import CE, compress, distill
from distill_lib.compress import FakeQuant, bake, calibrate, convert, grid, qat, quantize

VALUES = st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=40).map(torch.tensor)
BITS = st.integers(2, 8)


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(16, 3)
    )


IMAGES = [
    {"inputs": torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(s)) + s}
    for s in range(3)
]


# ---- the grid ----


@given(VALUES, BITS, st.booleans())
def test_rounding_errs_by_half_a_step_at_most(values, bits: int, symmetric: bool) -> None:
    scale, zero = grid(values, bits, symmetric=symmetric)
    found = quantize(values, bits, scale, zero)
    assert len(found.unique()) <= 2**bits
    # an asymmetric grid moves by up to half a step, so that zero lies on it
    reach = 0.5 if symmetric else 1.0
    assert ((found - values).abs() <= reach * scale * 1.001 + 1e-30).all()


@given(VALUES, BITS)
def test_zero_stays_zero_and_signs_are_alike(values, bits: int) -> None:
    with_zero = torch.cat([values, torch.zeros(1)])
    for symmetric in (True, False):
        scale, zero = grid(with_zero, bits, symmetric=symmetric)
        assert quantize(with_zero, bits, scale, zero)[-1] == 0
    assert torch.equal(quantize(-values, bits), -quantize(values, bits))


@pytest.mark.parametrize("bits", [2, 4, 6, 8, 10])
def test_the_noise_is_a_twelfth_of_the_squared_step(bits: int) -> None:
    x = torch.rand(200_000, dtype=torch.float64) * 2 - 1
    scale, _ = grid(x, bits)
    noise = (quantize(x, bits, scale) - x).square().mean()
    assert abs(noise / (scale**2 / 12) - 1) < 0.02


def test_a_bit_is_worth_six_decibels() -> None:
    x = torch.rand(100_000, dtype=torch.float64) * 2 - 1
    ratios = [x.var() / (quantize(x, b) - x).square().mean() for b in (4, 5, 6, 7)]
    gains = [10 * (b / a).log10().item() for a, b in itertools.pairwise(ratios)]
    assert all(5.8 < gain < 6.7 for gain in gains)  # 6.02, more where a symmetric grid is coarse


def test_a_step_for_each_channel_serves_channels_of_different_size() -> None:
    w = torch.randn(8, 50) * torch.logspace(-3, 0, 8)[:, None]
    whole = (quantize(w, 8) - w).square().sum(1)
    each = (quantize(w, 8, axis=0) - w).square().sum(1)
    assert (each <= whole * 1.01).all() and each[0] < 1e-3 * whole[0]
    assert grid(w, 8, axis=0)[0].shape == (8, 1) and grid(w, 8, axis=-1)[0].shape == (1, 50)


def test_the_gradient_passes_inside_the_grid_and_stops_outside() -> None:
    x = torch.tensor([-9.0, -0.4, 0.26, 1.0, 9.0], requires_grad=True)
    quantize(x, 4, scale=torch.tensor(0.5)).sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 1, 0]
    y = torch.tensor([-1.0, 0.3, 9.0], requires_grad=True)
    quantize(y, 2, torch.tensor(1.0), torch.tensor(0.0)).sum().backward()
    assert y.grad.tolist() == [0, 1, 0]


def test_the_step_can_learn() -> None:
    scale = torch.tensor(0.1, requires_grad=True)
    quantize(torch.tensor([5.0]), 4, scale).backward()
    assert scale.grad.item() == 7  # a clipped value is seven steps


@pytest.mark.parametrize("bits", [1, 17, 2.5])
def test_bits_have_their_range(bits) -> None:
    wanted = f"from 2 to 16, got {bits}|bits to be a whole number, got float {bits}"
    with pytest.raises(ValueError, match=wanted):
        quantize(torch.ones(2), bits)
    with pytest.raises(ValueError, match=wanted):
        FakeQuant(bits)


# ---- activations ----


def test_the_range_follows_in_training_and_rests_in_eval() -> None:
    fake = FakeQuant(8, momentum=0.5)
    fake(torch.tensor([0.0, 1.0]))
    fake(torch.tensor([0.0, 3.0]))
    assert fake.high == 2.0
    fake.eval()
    assert fake(torch.tensor([9.0])) == pytest.approx(2.0)
    assert fake.high == 2.0 and "high=2" in repr(fake)


def test_a_range_that_was_never_seen_is_asked_for() -> None:
    with pytest.raises(RuntimeError, match=r"call compress\.calibrate"):
        qat(net()).eval()(IMAGES[0]["inputs"])


# ---- models ----


def test_calibration_sees_the_widest_range_and_trains_nothing() -> None:
    model = net().train()
    plain = copy.deepcopy(model).eval()
    calibrate(qat(model), IMAGES)
    x = torch.cat([b["inputs"] for b in IMAGES])
    first = model[0].input_rounding
    assert first.low == x.min() and first.high == x.max()
    hidden = plain[:4](x)
    assert model[4].input_rounding.high == pytest.approx(hidden.max().item(), rel=0.05)
    assert model.training and not first.watching
    error = (model.eval()(x) - plain(x)).abs().max()
    assert 0 < error < 0.05
    for empty in ([], ()):
        with pytest.raises(ValueError, match="batches is empty"):
            calibrate(model, empty)
    with pytest.raises(ValueError, match="rounds no activations"):
        calibrate(net(), IMAGES)


def test_the_error_falls_with_the_bits() -> None:
    plain, x = net().eval(), IMAGES[0]["inputs"]
    errors = []
    for bits in (2, 4, 8, 12):
        model = calibrate(qat(copy.deepcopy(plain), bits, bits), IMAGES).eval()
        errors.append((model(x) - plain(x)).square().mean().item())
    assert errors == sorted(errors, reverse=True) and errors[0] > 100 * errors[2]


def test_integers_say_what_the_rounded_model_said() -> None:
    model = calibrate(qat(net(), weight_bits=4, per_channel=False), IMAGES).eval()
    x = IMAGES[0]["inputs"]
    said = model(x)
    convert(model)
    torch.testing.assert_close(model(x), said)
    state = model.state_dict()
    integers = state["0.parametrizations.weight.original0"]
    assert integers.dtype == torch.int8 and integers.abs().max() == 7
    other = convert(qat(net(), weight_bits=4, per_channel=False)).eval()
    other.load_state_dict(state)
    assert torch.equal(other(x), model(x))
    wide = convert(qat(net(), weight_bits=12)).state_dict()
    assert wide["4.parametrizations.weight.original0"].dtype == torch.int16
    with pytest.raises(ValueError, match=r"call qat\(model\) first"):
        convert(net())


def test_integers_make_a_file_four_times_smaller() -> None:
    model = nn.Linear(256, 256)
    dense = compress.file_bytes(model)
    assert 3.8 < dense / compress.file_bytes(convert(qat(model, activation_bits=None))) < 4


def test_training_through_the_rounding_learns_to_be_rounded() -> None:
    """At two bits, training with the rounding in place beats rounding afterwards."""
    torch.manual_seed(3)
    x = torch.randn(256, 10)
    y = (x[:, :5].sum(1) * x[:, 5] > 0).long()
    batches = [{"inputs": a, "labels": b} for a, b in zip(x.split(64), y.split(64), strict=True)]
    model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 2))
    distill(model, None, batches, CE(), epochs=40, lr=0.02)

    def loss(found: nn.Module) -> float:
        with torch.no_grad():
            return nn.functional.cross_entropy(found.eval()(x), y).item()

    after = calibrate(qat(copy.deepcopy(model), 2, 8), batches)
    trained = copy.deepcopy(after).train()
    distill(trained, None, batches, CE(), epochs=30, lr=0.005)
    assert loss(model) < loss(trained) < 0.7 * loss(after)
    bake(trained)
    assert trained[0].weight.unique().numel() <= 32 * 3


def test_baking_takes_the_rounding_of_inputs_off_only_when_asked() -> None:
    model = calibrate(qat(net(), 4, 4), IMAGES).eval()
    x = IMAGES[0]["inputs"]
    said = model(x)
    same = bake(copy.deepcopy(model))
    assert torch.equal(same(x), said)
    plain = bake(copy.deepcopy(model), inputs=False)
    assert not torch.equal(plain(x), said)
    assert sorted(plain.state_dict()) == sorted(net().state_dict())
    assert torch.equal(model(x), said)  # the original is as it was


def test_an_embedding_has_rounded_weights_and_no_rounded_inputs() -> None:
    model = qat(nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 2)), layers=["0", "1"])
    ids = torch.tensor([[1, 2]])
    calibrate(model, [{"inputs": ids}])
    said = model.eval()(ids)
    convert(model)
    torch.testing.assert_close(model(ids), said)
    assert model.state_dict()["0.parametrizations.weight.original0"].dtype == torch.int8


def test_named_layers_only_and_not_twice() -> None:
    model = qat(net(), layers=["4"], activation_bits=None)
    assert type(model[0]) is nn.Conv2d and "parametrizations" in dict(model[4].named_children())
    with pytest.raises(ValueError, match="'4' is computed from something else"):
        qat(model)


def test_a_layer_with_other_parametrizations_is_left_to_its_owner() -> None:
    model = nn.Linear(3, 2)
    nn.utils.parametrize.register_parametrization(model, "bias", nn.Identity())
    qat(model, activation_bits=None)
    with pytest.raises(ValueError, match="also bias of a layer is parametrized"):
        bake(model)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("kind", [float, torch.tensor, lambda s: torch.tensor([[1.0], [s]])])
def test_steps_that_are_none_are_refused(scale: float, kind) -> None:
    with pytest.raises(ValueError, match="scale expected steps > 0 and finite"):
        quantize(torch.tensor([[1.0, 5.0], [2.0, 7.0]]), 4, scale=kind(scale))


@given(VALUES, BITS)
def test_a_zero_point_is_not_replaced_in_silence(values, bits: int) -> None:
    with pytest.raises(ValueError, match=r"zero_point is where zero lies .* give scale="):
        quantize(values, bits, zero_point=3.0)
    found = quantize(values, bits, *grid(values, bits, symmetric=False))
    assert len(found.unique()) <= 2**bits

"""Along which axis the units lie: what moves with them, and what a normalization is over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from distill_lib.fusion import align, fold_batchnorm, permute, symmetries


class Steps(nn.Module):
    """Layers between two others, which treat some axes alike and mix others."""

    def __init__(self, first: nn.Module, steps: tuple[Any, ...], last: nn.Module) -> None:
        super().__init__()
        self.first, self.last = first, last
        self.steps = steps
        self.modules_of = nn.ModuleList(one for one in steps if isinstance(one, nn.Module))

    def forward(self, x: Tensor) -> Any:
        x = self.first(x)
        for step in self.steps:
            x = step(x)
        return self.last(x) if x.shape[-1] == getattr(self.last, "in_features", None) else x


def lively(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 2)
    return model.eval()


UNITS = 6
OPERATORS: dict[str, Callable[[], Any]] = {
    "relu": lambda: F.relu,
    "tanh": lambda: torch.tanh,
    "max_pool1d over three": lambda: lambda x: F.max_pool1d(x, 3, 1, 1),
    "avg_pool1d over three": lambda: lambda x: F.avg_pool1d(x, 3, 1, 1),
    "max_pool2d": lambda: lambda x: F.max_pool2d(x, 3, 1, 1) if x.ndim > 2 else x,
    "maxout": lambda: lambda x: F.max_pool1d(x, 2).repeat_interleave(2, -1),
    "adaptive": lambda: lambda x: F.adaptive_avg_pool1d(x, UNITS) if x.ndim < 4 else x,
    "norm": lambda: nn.BatchNorm1d(UNITS),
    "mean": lambda: lambda x: x.mean(1, keepdim=True) if x.ndim > 2 else x,
    "mean of all": lambda: lambda x: x + x.mean(dim=[]),
    "residual": lambda: lambda x: x + torch.sigmoid(x),
    "flat": lambda: lambda x: x.flatten(1) if x.ndim > 3 else x,
    "transposed": lambda: lambda x: x.mT if x.ndim == 3 else x,
    "sum of neighbors": lambda: lambda x: x.cumsum(-1),
    "vector": lambda: lambda x: x * F.linear(x, torch.linspace(0, 1, UNITS))[..., None],
    "linear": lambda: nn.Linear(UNITS, UNITS),
    "linear without an axis": lambda: Flat(),
}


class Flat(nn.Module):
    """A weight of one axis: its product has none for the outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(UNITS))

    def forward(self, x: Tensor) -> Tensor:
        return x + F.linear(x, self.weight)[..., None]


FIRST: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(4, UNITS), (3, 4)),
    "linear over steps": (lambda: nn.Linear(4, UNITS), (3, UNITS, 4)),
    "convolution": (lambda: nn.Conv1d(3, UNITS, 1), (2, 3, UNITS)),
    "convolution of one": (lambda: nn.Conv1d(3, UNITS, 1), (3, UNITS)),
    "images": (lambda: nn.Conv2d(1, UNITS, 1), (2, 1, UNITS, UNITS)),
    "image alone": (lambda: nn.Conv2d(1, UNITS, 1), (1, UNITS, UNITS)),
}


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(FIRST)),
    st.lists(st.sampled_from(sorted(OPERATORS)), max_size=4),
    st.integers(0, 99),
)
def test_a_permuted_network_says_the_same_whatever_axis_its_operators_mix(
    first: str, steps: list[str], seed: int
) -> None:
    torch.manual_seed(seed)
    build, shape = FIRST[first]
    if "images" in first:
        steps = [step for step in steps if step != "norm"]
    net = Steps(build(), tuple(OPERATORS[step]() for step in steps), nn.Linear(UNITS, 2))
    model, x = lively(net), torch.randn(shape)
    try:
        expected = model(x)
    except (RuntimeError, ValueError):  # it does not fit the shapes
        return
    groups = symmetries(model, x)
    mixed = permute(model, groups, [torch.randperm(axes.size) for axes in groups])
    torch.testing.assert_close(mixed(x), expected, rtol=1e-3, atol=1e-4)
    if first == "linear" and set(steps) <= {"relu", "tanh", "norm", "residual"}:
        assert [axes.size for axes in groups] == [UNITS]  # and what can be moved is


def test_units_that_a_window_is_over_are_in_their_order() -> None:
    pytest.importorskip("scipy")
    net = Steps(nn.Linear(4, 8), (lambda x: F.max_pool1d(x, 2),), nn.Linear(4, 2)).eval()
    assert not symmetries(net, torch.randn(3, 4))
    with pytest.raises(ValueError, match="no hidden units of this network can be permuted"):
        align(net, net, torch.randn(3, 4))


def test_a_normalization_over_the_steps_leaves_the_units_free() -> None:
    net = Steps(nn.Linear(4, 8), (nn.BatchNorm1d(5), F.relu), nn.Linear(8, 2))
    model, x = lively(net), torch.randn(3, 5, 4)
    groups = symmetries(model, x)
    assert [{name for name, *_ in axes.places} for axes in groups] == [
        {"first.weight", "first.bias", "last.weight"}
    ]
    mixed = permute(model, groups, [torch.randperm(8)])
    torch.testing.assert_close(mixed(x), model(x))


def test_groups_of_a_model_of_other_sizes_are_refused() -> None:
    small, large = (nn.Sequential(nn.Linear(4, n), nn.ReLU(), nn.Linear(n, 2)) for n in (3, 5))
    groups = symmetries(large, torch.ones(2, 4))
    with pytest.raises(ValueError, match=r"'0\.weight' is \[3, 4\], and its axis 0 .* 5 units"):
        permute(small, groups, [torch.randperm(5)])


# ---- folding ----

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(4, UNITS), (UNITS, 4)),
    "linear over steps": (lambda: nn.Linear(4, UNITS), (2, UNITS, 4)),
    "linear of images": (lambda: nn.Linear(4, UNITS), (2, UNITS, UNITS, 4)),
    **{name: FIRST[name] for name in FIRST if name.startswith(("conv", "image"))},
}
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


@pytest.mark.filterwarnings("ignore:nothing is folded")
@pytest.mark.parametrize("pairs", [None, [("0", "1")]])
@pytest.mark.parametrize("name", sorted(LAYERS))
@pytest.mark.parametrize("axes", NORMS)
def test_a_folded_normalization_says_the_same_or_refuses(
    name: str, axes: int, pairs: list[tuple[str, str]] | None
) -> None:
    torch.manual_seed(0)
    build, shape = LAYERS[name]
    model, x = lively(nn.Sequential(build(), NORMS[axes](UNITS))), torch.randn(shape)
    try:
        expected = model(x)
    except ValueError:  # the normalization is for other shapes
        return
    try:
        found = fold_batchnorm(model, pairs)(x)
    except ValueError as error:
        assert name not in ("linear", "convolution", "images")
        assert "other shapes" in str(error) or "Leave it out" in str(error)
        return
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_what_follows_a_linear_layer_can_still_be_traced_copied_and_exported() -> None:
    model = lively(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)))
    x = torch.randn(3, 4)
    folded = fold_batchnorm(model)
    assert repr(folded[1]) == "Passed(axes=2)" and isinstance(folded[1], nn.Identity)
    traced = torch.fx.symbolic_trace(folded)
    program = torch.export.export(folded, (x,)).module()
    for one in (folded, traced, program):
        torch.testing.assert_close(one(x), model(x))
    with pytest.raises(ValueError, match=r"are \[3, 5, 5\]\. Leave it out"):
        folded(torch.randn(3, 5, 4))


class Doubled(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class Same(nn.Conv2d):
    """Of torch's in all but the name."""


def hooked(place: int, kind: str) -> nn.Module:
    net = nn.Sequential(nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5))
    if kind == "hook":
        net[place].register_forward_hook(lambda module, given, out: out * 2)
    elif kind == "pre-hook":
        net[place].register_forward_pre_hook(lambda module, given: (given[0] * 2,))
    elif kind == "method":
        module = net[place]
        plain = module.forward
        module.forward = lambda x: plain(x) * 2
    elif kind == "parametrization":
        nn.utils.parametrize.register_parametrization(net[place], "bias", nn.Tanh())
    return net


@pytest.mark.filterwarnings("ignore:nothing is folded")
@pytest.mark.parametrize("kind", ["hook", "pre-hook", "method", "parametrization"])
@pytest.mark.parametrize("place", [0, 1])
def test_what_a_user_changed_is_not_folded(place: int, kind: str) -> None:
    model, x = lively(hooked(place, kind)), torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(fold_batchnorm(model)(x), model(x))
    with pytest.raises(ValueError, match=r"'1' cannot be folded into '0'"):
        fold_batchnorm(model, [("0", "1")])


def test_a_forward_of_ones_own_is_not_folded_and_a_name_of_ones_own_is() -> None:
    x = torch.randn(2, 3, 4, 4)

    class Decides(nn.Module):
        def __init__(self, norm: nn.Module) -> None:
            super().__init__()
            self.conv, self.norm = Same(3, 5, 1), norm

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.conv(x)) if x.sum() > -1e9 else x

    with pytest.raises(ValueError, match="another forward is that of the Doubled"):
        fold_batchnorm(lively(Decides(Doubled(5))), [("conv", "norm")])
    plain = lively(Decides(nn.BatchNorm2d(5)))
    torch.testing.assert_close(fold_batchnorm(plain, [("conv", "norm")])(x), plain(x))

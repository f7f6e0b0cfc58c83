r"""What is passed on beside the lesson, in float64: one step, shuffled units, a shared reader.

A network gives class outputs c and auxiliary outputs a. The teacher learns classes only; the
student imitates auxiliary outputs only.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

D, W, C, M = 6, 16, 4, 3
Net = list[Tensor]
Squash = Callable[[Tensor], Tensor]
SQUASHES = {"relu": torch.relu, "tanh": torch.tanh}


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(seed: int, outputs: int = C + M, sizes: tuple[int, ...] = (D, W, W)) -> Net:
    """Weights and biases of a multilayer perceptron, in turns."""
    shapes = [s for i, o in pairwise((*sizes, outputs)) for s in ((i, o), (o,))]
    return [draw(*s, seed=97 * seed + k) / s[0] ** 0.5 for k, s in enumerate(shapes)]


def hidden(net: Net, x: Tensor, squash: Squash = torch.relu) -> Tensor:
    for w, b in zip(net[:-2:2], net[1:-2:2], strict=True):
        x = squash(x @ w + b)
    return x


def outputs(net: Net, x: Tensor, squash: Squash = torch.relu) -> Tensor:
    return hidden(net, x, squash) @ net[-2] + net[-1]


def gradient(net: Net, loss: Callable[[Net], Tensor]) -> Net:
    leaves = [w.clone().requires_grad_() for w in net]
    return list(torch.autograd.grad(loss(leaves), leaves))


def moved(net: Net, step: Net, rate: float) -> Net:
    return [w + rate * d for w, d in zip(net, step, strict=True)]


def inner(a: Net, b: Net) -> float:
    return sum(float((u * v).sum()) for u, v in zip(a, b, strict=True))


def on_labels(seed: int, squash: Squash) -> Callable[[Net], Tensor]:
    x, y = draw(40, D, seed=seed), torch.arange(40) % C
    return lambda net: F.cross_entropy(outputs(net, x, squash)[:, :C], y)


def imitation(teacher: Net, x: Tensor, squash: Squash) -> Callable[[Net], Tensor]:
    said = outputs(teacher, x, squash)[:, C:]
    return lambda net: 0.5 * (outputs(net, x, squash)[:, C:] - said).square().sum(-1).mean()


def one_step(seed: int, rate: float, squash: Squash, start: Net, x: Tensor) -> tuple[float, Net]:
    """<student's step, teacher's step> over its limit, and the student's step, of rate 1."""
    home, lesson = network(seed), on_labels(seed, squash)
    slope = gradient(home, lesson)
    teacher = moved(home, slope, -rate)
    step = [-d for d in gradient(start, imitation(teacher, x, squash))]
    _, seen = torch.autograd.functional.jvp(
        lambda *net: outputs(list(net), x, squash)[:, C:], tuple(home), tuple(slope)
    )
    limit = rate**2 * float(seen.square().sum(-1).mean())
    return -rate * inner(step, slope) / limit, step


inputs = pytest.mark.parametrize("source", ["noise", "far away", "one point"])


def lesson_inputs(source: str, seed: int) -> Tensor:
    x = draw(30, D, seed=seed + 500)
    return {"noise": x, "far away": 5 * x + 3, "one point": x[:1]}[source]


@inputs
@pytest.mark.parametrize("squash", SQUASHES.values(), ids=SQUASHES)
@given(seed=st.integers(0, 200))
def test_one_step_goes_the_teachers_way(squash: Squash, source: str, seed: int) -> None:
    """<Δ_S, Δ_T> = η' η² E |J g|² up to a relative error of the order of η; whatever the inputs."""
    x, home = lesson_inputs(source, seed), network(seed)
    ratio, step = one_step(seed, 1e-6, squash, home, x)
    assert ratio == pytest.approx(1, abs=1e-3)
    assert inner(step, gradient(home, on_labels(seed, squash))) < 0


@pytest.mark.parametrize("seed", range(5))
def test_one_step_has_a_remainder_of_the_next_order(seed: int) -> None:
    """Ten times the teacher's rate, ten times the relative error (where nothing has a kink)."""
    x = lesson_inputs("noise", seed)
    off = [one_step(seed, r, torch.tanh, network(seed), x)[0] - 1 for r in (1e-4, 1e-3)]
    assert off[1] / off[0] == pytest.approx(10, rel=0.1)


@inputs
@pytest.mark.parametrize("seed", range(5))
def test_one_step_lowers_a_loss_that_the_student_never_sees(source: str, seed: int) -> None:
    x, home, lesson = lesson_inputs(source, seed), network(seed), on_labels(seed, torch.relu)
    _, step = one_step(seed, 1e-4, torch.relu, home, x)
    size = inner(step, step) ** 0.5
    assert lesson(moved(home, step, 1e-4 / size)) < lesson(home)


def test_one_step_from_elsewhere_has_no_sign() -> None:
    """From another initialization about half of the steps raise the teacher's loss."""
    signs = []
    for seed in range(60):
        away, x = network(seed + 1000), lesson_inputs("noise", seed)
        _, step = one_step(seed, 1e-3, torch.relu, away, x)
        signs.append(inner(step, gradient(network(seed), on_labels(seed, torch.relu))) < 0)
    assert 15 <= sum(signs) <= 45


def test_one_step_passes_nothing_where_the_outputs_share_no_weight() -> None:
    """Two networks side by side: J g = 0, and the class loss does not move."""
    first, second = network(0, C), network(1, M)
    x, y = draw(40, D, seed=2), torch.arange(40) % C

    def both(net: Net, x: Tensor) -> Tensor:
        return torch.cat([outputs(net[:6], x), outputs(net[6:], x)], -1)

    home = [*first, *second]
    slope = gradient(home, lambda net: F.cross_entropy(both(net, x)[:, :C], y))
    said = both(moved(home, slope, -0.1), x)[:, C:]
    step = gradient(home, lambda net: (both(net, x)[:, C:] - said).square().sum())
    assert inner(step, slope) == 0


def shuffled(net: Net, seed: int) -> Net:
    """The same function: the hidden units of both layers in another order."""
    generator = torch.Generator().manual_seed(seed)
    one, two = (torch.randperm(W, generator=generator) for _ in range(2))
    w1, b1, w2, b2, w3, b3 = net
    return [w1[:, one], b1[one], w2[one][:, two], b2[two], w3[two], b3]


def trained(net: Net, teacher: Net, optimizer: type[Any], **options: Any) -> Net:
    leaves = [w.clone().requires_grad_() for w in net]
    stepper = optimizer(leaves, **options)
    for k in range(50):
        stepper.zero_grad()
        imitation(teacher, draw(20, D, seed=900 + k), torch.relu)(leaves).backward()
        stepper.step()
    return [w.detach() for w in leaves]


OPTIMIZERS = {
    "gd": (torch.optim.SGD, {"lr": 0.05}),
    "momentum": (torch.optim.SGD, {"lr": 0.02, "momentum": 0.9}),
    "adam": (torch.optim.Adam, {"lr": 3e-3}),
    "adamw": (torch.optim.AdamW, {"lr": 3e-3}),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_hidden_units_does_not_matter(
    optimizer: tuple[type[Any], dict[str, Any]], seed: int
) -> None:
    """Students of one function and one tangent stay one function, after fifty steps as well."""
    kind, options = optimizer
    home, x = network(seed), draw(25, D, seed=seed + 70)
    teacher = moved(home, gradient(home, on_labels(seed, torch.relu)), -0.5)
    plain = trained(home, teacher, kind, **options)
    other = trained(shuffled(home, seed), teacher, kind, **options)
    torch.testing.assert_close(outputs(other, x), outputs(plain, x), rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(other, shuffled(plain, seed), rtol=1e-7, atol=1e-8)
    assert (outputs(plain, x) - outputs(home, x)).abs().max() > 1e-2  # something was learned


def test_the_same_function_need_not_have_the_same_tangent() -> None:
    """A unit scaled up before the ReLU and down after it: one function, another student."""
    home, x = network(0), draw(25, D, seed=70)
    w1, b1, w2, *rest = home
    factor = torch.linspace(0.2, 5, W, dtype=torch.float64)
    scaled = [w1 * factor, b1 * factor, w2 / factor[:, None], *rest]
    torch.testing.assert_close(outputs(scaled, x), outputs(home, x))
    teacher = moved(home, gradient(home, on_labels(0, torch.relu)), -0.5)
    found = [outputs(trained(n, teacher, torch.optim.SGD, lr=0.05), x) for n in (home, scaled)]
    assert (found[0] - found[1]).abs().max() > 1e-2


@given(seed=st.integers(0, 200), more=st.integers(0, 5), layers=st.integers(1, 3))
def test_as_many_outputs_as_units_read_the_hidden_layer(seed: int, more: int, layers: int) -> None:
    """Equal outputs through one reader of full rank: equal hidden units, whatever lies below."""
    reader, h = draw(W, W + more, seed=seed), torch.relu(draw(8, W, seed=seed + 1))
    below = hidden(network(seed, sizes=(D, *(W,) * layers)), draw(8, D, seed=seed))
    # a student whose hidden layer differs gives other outputs, by the least singular value at least
    gap, apart = (below - h).norm(dim=1), (below @ reader - h @ reader).norm(dim=1)
    least = torch.linalg.svdvals(reader)[-1]
    assert least > 0
    assert bool((apart >= least * gap * (1 - 1e-9)).all())
    torch.testing.assert_close(h @ reader @ torch.linalg.pinv(reader), h, rtol=1e-6, atol=1e-6)


@given(seed=st.integers(0, 200), m=st.integers(1, W - 1))
def test_fewer_outputs_than_units_leave_room(seed: int, m: int) -> None:
    """Two hidden layers that m < W outputs cannot tell apart, and classes read differently."""
    reader, classes = draw(W, m, seed=seed), draw(W, C, seed=seed + 1)
    h = 5 + draw(W, seed=seed + 2).abs()
    null = torch.linalg.svd(reader.T).Vh[m:]
    other = h + null[0]
    torch.testing.assert_close(other @ reader, h @ reader, rtol=1e-9, atol=1e-9)
    assert (other > 0).all()  # so that it can be the output of a ReLU
    assert (other @ classes - h @ classes).abs().max() > 1e-6

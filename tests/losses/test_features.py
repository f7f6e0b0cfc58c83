"""Losses on features: definitions written with loops, invariances, and the edges."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from distill_lib import losses

RELATIONAL = ("similarity", "rkd_distance", "rkd_angle", "pkt")
VECTOR = ("hint", "cosine")
SHAPES = ((4, 6), (4, 3, 6), (4, 3, 2, 2))


def features(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(size: int, seed: int = 0) -> Tensor:
    return torch.linalg.qr(features(size, size, seed=seed))[0]


# One vector against one vector


@pytest.mark.parametrize("shape", SHAPES)
def test_hint_has_the_mean_of_the_mean_squared_error(shape: tuple[int, ...]) -> None:
    s, t = features(*shape), features(*shape, seed=1)
    got = losses.hint(student=s, teacher=t)
    assert got.shape == (shape[:2] if len(shape) == 3 else shape[:1])
    assert got.mean().item() == pytest.approx(F.mse_loss(s, t).item())


@pytest.mark.parametrize("shape", SHAPES)
def test_cosine_equals_its_definition(shape: tuple[int, ...]) -> None:
    s, t = features(*shape), features(*shape, seed=1)
    got = losses.cosine(student=s, teacher=t)
    flat = [x.flatten(1) if x.ndim == 4 else x for x in (s, t)]
    torch.testing.assert_close(got, 1 - F.cosine_similarity(*flat, dim=-1))


@given(a=st.floats(1e-3, 1e3), b=st.floats(1e-3, 1e3))
def test_cosine_does_not_see_lengths(a: float, b: float) -> None:
    s, t = features(4, 6), features(4, 6, seed=1)
    scaled = losses.cosine(student=a * s, teacher=b * t)
    torch.testing.assert_close(scaled, losses.cosine(student=s, teacher=t))


@pytest.mark.parametrize(("t", "value"), [((2.0, 0.0), 0.0), ((0.0, 1.0), 1.0), ((-3.0, 0.0), 2.0)])
def test_cosine_of_known_angles(t: tuple[float, float], value: float) -> None:
    got = losses.cosine(student=torch.tensor([[1.0, 0.0]]), teacher=torch.tensor([t]))
    assert got.item() == pytest.approx(value)


# Maps


def naive_attention(x: Tensor) -> Tensor:
    out = torch.zeros(x.shape[0], x.shape[2], x.shape[3], dtype=x.dtype)
    for c in range(x.shape[1]):
        out += x[:, c] ** 2
    return torch.stack([(m / math.sqrt((m**2).sum().item())).flatten() for m in out])


def test_attention_transfer_equals_its_definition_for_other_widths() -> None:
    s, t = features(4, 3, 5, 2), features(4, 7, 5, 2, seed=1)
    want = ((naive_attention(s) - naive_attention(t)) ** 2).sum(-1)
    torch.testing.assert_close(losses.attention_transfer(student=s, teacher=t), want)


@given(scale=st.floats(1e-2, 1e2))
def test_attention_transfer_sees_neither_scale_nor_sign_nor_order_of_channels(scale: float) -> None:
    s, t = features(4, 3, 5, 2), features(4, 3, 5, 2, seed=1)
    got = losses.attention_transfer(student=-scale * s[:, [2, 0, 1]], teacher=t)
    torch.testing.assert_close(got, losses.attention_transfer(student=s, teacher=t))


def test_the_power_sharpens_the_maps() -> None:
    s = torch.tensor([3.0, 1.0]).view(1, 1, 1, 2)
    t = torch.tensor([1.0, 3.0]).view(1, 1, 1, 2)
    values = [losses.attention_transfer(student=s, teacher=t, power=p).item() for p in (1, 2, 8)]
    assert values[0] == pytest.approx(2 * (2 / math.sqrt(10)) ** 2)
    assert values[0] < values[1] < values[2] <= 2


@pytest.mark.parametrize("shape", [(4, 3, 5, 3), (4, 3, 5), (4, 15)])
def test_attention_transfer_wants_maps_of_one_size(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"one height and width.*nn\.AdaptiveAvgPool2d"):
        losses.attention_transfer(student=features(4, 3, 5, 2), teacher=features(*shape))


# Relations within a batch


def naive_similarity(s: Tensor, t: Tensor) -> Tensor:
    total = torch.zeros(len(s), dtype=s.dtype)
    for b in range(len(s)):
        row_s, row_t = (torch.stack([x[b] @ x[j] for j in range(len(x))]) for x in (s, t))
        total[b] = ((row_s / row_s.norm() - row_t / row_t.norm()) ** 2).sum() / len(s)
    return total


def huber(x: float) -> float:
    return 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5


def naive_rkd_distance(s: Tensor, t: Tensor) -> Tensor:
    n = len(s)
    tables = [[[(x[i] - x[j]).norm().item() for j in range(n)] for i in range(n)] for x in (s, t)]
    means = [sum(map(sum, table)) / (n * (n - 1)) for table in tables]
    d_s, d_t = ([[d / m for d in row] for row in x] for x, m in zip(tables, means, strict=True))
    return torch.tensor(
        [sum(huber(d_s[b][j] - d_t[b][j]) for j in range(n)) / n for b in range(n)],
        dtype=s.dtype,
    )


def angle(x: Tensor, i: int, b: int, j: int) -> float:
    if b in (i, j):
        return 0.0
    one, other = x[i] - x[b], x[j] - x[b]
    return ((one @ other) / (one.norm() * other.norm())).item()


def naive_rkd_angle(s: Tensor, t: Tensor) -> Tensor:
    n = len(s)
    return torch.tensor(
        [
            sum(huber(angle(s, i, b, j) - angle(t, i, b, j)) for i in range(n) for j in range(n))
            / n**2
            for b in range(n)
        ],
        dtype=s.dtype,
    )


def naive_pkt(s: Tensor, t: Tensor) -> Tensor:
    def rows(x: Tensor) -> list[list[float]]:
        kernel = [[(1 + (a @ b / (a.norm() * b.norm())).item()) / 2 for b in x] for a in x]
        return [[k / sum(row) for k in row] for row in kernel]

    both = zip(rows(t), rows(s), strict=True)
    values = [sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) for p, q in both]
    return torch.tensor(values, dtype=s.dtype)


NAIVE = {
    "pkt": naive_pkt,
    "similarity": naive_similarity,
    "rkd_distance": naive_rkd_distance,
    "rkd_angle": naive_rkd_angle,
}


@pytest.mark.parametrize("widths", [(6, 6), (3, 8)])
@pytest.mark.parametrize("items", [2, 5])
@pytest.mark.parametrize("name", RELATIONAL)
def test_relations_equal_their_definitions(name: str, items: int, widths: tuple[int, int]) -> None:
    s, t = features(items, widths[0]), features(items, widths[1], seed=1)
    got = getattr(losses, name)(student=s, teacher=t)
    torch.testing.assert_close(got, NAIVE[name](s, t), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", RELATIONAL)
def test_relations_flatten_all_but_the_items(name: str) -> None:
    s, t = features(5, 3, 2, 2), features(5, 4, 2, seed=1)
    got = getattr(losses, name)(student=s, teacher=t)
    want = getattr(losses, name)(student=s.flatten(1), teacher=t.flatten(1))
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("name", RELATIONAL)
def test_relations_follow_the_order_of_the_items(name: str) -> None:
    s, t, order = features(5, 6), features(5, 4, seed=1), torch.tensor([3, 0, 4, 1, 2])
    loss = getattr(losses, name)
    got = loss(student=s[order], teacher=t[order])
    torch.testing.assert_close(got, loss(student=s, teacher=t)[order])
    assert (loss(student=s[order], teacher=t).mean() - got.mean()).abs() > 1e-4


@pytest.mark.parametrize("name", RELATIONAL)
def test_one_item_alone_has_no_relations(name: str) -> None:
    s = features(1, 6).requires_grad_()
    got = getattr(losses, name)(student=s, teacher=features(1, 3, seed=1).abs())
    assert got.tolist() == [0.0]
    (grad,) = torch.autograd.grad(got.sum(), s)
    assert grad.isfinite().all()


@given(scale=st.floats(1e-2, 1e2), shift=st.floats(-10, 10), seed=st.integers(0, 99))
def test_rkd_does_not_see_similarity_transforms(scale: float, shift: float, seed: int) -> None:
    s, t = features(5, 6), features(5, 4, seed=1)
    moved = scale * s @ rotation(6, seed) + shift
    for loss in (losses.rkd_distance, losses.rkd_angle):
        got = loss(student=moved, teacher=t)
        torch.testing.assert_close(got, loss(student=s, teacher=t), rtol=1e-8, atol=1e-10)


@given(scale=st.floats(1e-2, 1e2), seed=st.integers(0, 99))
def test_similarity_sees_a_shift_but_no_rotation_or_scale(scale: float, seed: int) -> None:
    s, t = features(5, 6), features(5, 4, seed=1)
    plain = losses.similarity(student=s, teacher=t)
    turned = losses.similarity(student=scale * s @ rotation(6, seed), teacher=t)
    torch.testing.assert_close(turned, plain)
    assert (losses.similarity(student=s + 3, teacher=t) - plain).abs().max() > 1e-3


@given(lengths=st.lists(st.floats(1e-2, 1e2), min_size=5, max_size=5), seed=st.integers(0, 99))
def test_pkt_sees_a_shift_but_no_rotation_and_no_length(lengths: list[float], seed: int) -> None:
    s, t = features(5, 6), features(5, 4, seed=1)
    plain = losses.pkt(student=s, teacher=t)
    turned = torch.tensor(lengths, dtype=s.dtype)[:, None] * s @ rotation(6, seed)
    torch.testing.assert_close(losses.pkt(student=turned, teacher=t), plain)
    assert (losses.pkt(student=s + 3, teacher=t) - plain).abs().max() > 1e-3


def test_pkt_is_the_authors_up_to_their_mean_over_pairs() -> None:
    """Their formula, derived anew: cosines to [0, 1], rows to sum 1, the mean over all pairs."""
    s, t, tiny = features(6, 8), features(6, 5, seed=1), 1e-7
    p, q = ((F.normalize(x, dim=1) @ F.normalize(x, dim=1).T + 1).div(2) for x in (t, s))
    p, q = (x / x.sum(1, keepdim=True) for x in (p, q))
    theirs = (p * torch.log((p + tiny) / (q + tiny))).mean()
    torch.testing.assert_close(
        losses.pkt(student=s, teacher=t).mean() / 6, theirs, rtol=1e-5, atol=0
    )


def test_pkt_of_opposite_features_is_finite_and_so_is_its_gradient() -> None:
    for dtype in (torch.float32, torch.float64):
        s = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=dtype, requires_grad=True)
        got = losses.pkt(student=s, teacher=torch.ones(2, 1, dtype=dtype))
        assert got.isfinite().all() and got.min() > 1
        assert torch.autograd.grad(got.sum(), s)[0].isfinite().all()


# The edges


@pytest.mark.parametrize("kind", ["equal", "zero student", "zero teacher", "repeated items"])
@pytest.mark.parametrize("name", [*VECTOR, *RELATIONAL, "attention_transfer"])
def test_gradients_are_finite_where_roots_have_none(name: str, kind: str) -> None:
    shape = (4, 3, 2, 2)
    s = {
        "zero student": torch.zeros(shape),
        "repeated items": features(1, *shape[1:]).expand(shape).float(),
    }.get(kind, features(*shape).float())
    t = {
        "equal": s,
        "zero teacher": torch.zeros(shape),
    }.get(kind, features(*shape, seed=1).float())
    s, t = s.clone().requires_grad_(), t.clone().requires_grad_()
    got = getattr(losses, name)(student=s, teacher=t)
    assert got.isfinite().all()
    for grad in torch.autograd.grad(got.sum(), [s, t]):
        assert grad.isfinite().all()
        if kind == "equal":
            assert grad.abs().max() < 1e-5


def test_a_hand_written_root_has_no_gradient_there() -> None:
    """The mutation that the test above is for."""
    s = features(4, 3).requires_grad_()
    ((s.unsqueeze(0) - s.unsqueeze(1)) ** 2).sum(-1).sqrt().sum().backward()
    assert s.grad is not None and s.grad.isnan().any()


@pytest.mark.parametrize("name", VECTOR)
@pytest.mark.parametrize(
    ("shape", "way_out"),
    [((4, 8), r"nn\.Linear\(mine, theirs\)"), ((4, 3, 2, 2), r"nn\.Conv2d\(mine, theirs, 1\)")],
)
def test_other_shapes_are_refused_with_a_projector(
    name: str, shape: tuple[int, ...], way_out: str
) -> None:
    s, t = features(*shape), features(shape[0], shape[1] + 1, *shape[2:])
    with pytest.raises(ValueError, match=rf"{name}.*differ.*project={way_out}"):
        getattr(losses, name)(student=s, teacher=t)


@pytest.mark.parametrize("name", [*RELATIONAL, "attention_transfer"])
def test_other_items_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"\[5, 3, 2, 2\].*show both the same batch"):
        getattr(losses, name)(student=features(4, 3, 2, 2), teacher=features(5, 3, 2, 2))


@pytest.mark.parametrize("power", [0.1, 0.5, 1.0, 2.0, 3.0])
def test_what_a_relu_shuts_has_a_finite_gradient_for_every_power(power: float) -> None:
    """The slope of a root is infinite at 0, and half of what a ReLU lets through is 0."""
    student = features(4, 3, 2, 2).relu().requires_grad_()
    teacher = features(4, 5, 2, 2, seed=1).relu()
    values = losses.attention_transfer(student=student, teacher=teacher, power=power)
    a = [x.detach().pow(power).sum(1).flatten(1) for x in (student, teacher)]
    gap = F.normalize(a[0], dim=-1) - F.normalize(a[1], dim=-1)
    torch.testing.assert_close(values.detach(), gap.square().sum(-1))
    (grad,) = torch.autograd.grad(values.sum(), student)
    assert grad.isfinite().all() and grad.abs().sum() > 0

"""Sliders of measured positions: what they show is what the library computes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from distill_lib import CE, KD, compress, evaluate, zoo
from distill_lib.booktools import students
from distill_lib.booktools.students import bits, budget, mixture, sparsity

NAMES = ("bits", "sparsity", "mixture", "budget")


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return {name: students.figure(name).html for name in NAMES}


def expected_bits(place: int) -> dict[str, float]:
    w = zoo.load_teacher("fashion_resnet20").layer2[0].conv1.weight.detach()
    b = bits.BITS[place]
    values, codes = compress.kmeans(w.flatten(), 2**b)
    near = {"kmeans": values[codes].view_as(w), "even": torch.zeros_like(w)}
    if b > 1:
        near["even"] = compress.quantize(w, b)
    found = {"position": b, "kmeans_values": len(values), "even_values": max(1, 2**b - 1)}
    for name, x in near.items():
        ratio = w.square().sum() / (x - w).square().sum()
        found[f"{name}_db"] = 10 * math.log10(ratio)
    return found


def expected_sparsity(place: int) -> dict[str, float]:
    net, share = zoo.load_teacher("fashion_resnet20"), sparsity.SPARSITIES[place]
    before = net.layer2[0].conv1.weight.detach().clone()
    compress.magnitude(net, share, "layer").apply(net)
    after = net.layer2[0].conv1.weight.detach()
    return {
        "position": share,
        "kept": after.count_nonzero().item() / after.numel(),
        "squares": (after.square().sum() / before.square().sum()).item(),
        "threshold": after[after != 0].abs().min().item(),
    }


class Odd(nn.Module):
    """A logit for odd beside a zero for even, so that two classes are a student of the library."""

    def __init__(self, weights: torch.Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights.clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = x @ self.weights
        return torch.stack([torch.zeros_like(z), z], -1)


def expected_mixture(place: int) -> dict[str, Any]:
    mix, wrong = mixture.LAMBDAS[place], []
    for n in mixture.COUNTS:
        scores = []
        for one in mixture.lessons():
            student, _ = taught(one, n, mix)
            batches = [{"inputs": one["exam"], "labels": one["truth"]}]
            scores.append(100 * (1 - evaluate(student, batches)["accuracy"]))
        wrong.append(sum(scores) / len(scores))
    return {"position": mix, "wrong": wrong}


def taught(one: dict[str, torch.Tensor], n: int, mix: float) -> tuple[Odd, torch.Tensor]:
    """The student of a draw, and the gradient of the library's objective there."""
    x, labels = one["x"][:n], one["labels"][:n]
    target = (1 - mix) * labels + mix * torch.sigmoid(x @ one["teacher"])
    student = Odd(mixture.solved(x, target[None])[0])
    objective = (1 - mix) * CE() + mix * KD()
    loss, _ = objective(student(x), Odd(one["teacher"])(x).detach(), {"labels": labels})
    (loss + mixture.RIDGE / 2 * student.weights.square().sum()).backward()
    return student, student.weights.grad


def expected_budget(place: int) -> dict[str, float]:
    rows = [
        json.loads(line)
        for line in (zoo.FOLDER / "scaling_grid.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    found: dict[str, float] = {"position": budget.BUDGETS[place]}

    def macs(width: int) -> int:
        return 206 * width

    for name in ("labels", "paid", "given"):
        best = (math.inf,)
        for r in (r for r in rows if r["part"] == "student"):
            t, w, s = r["teacher"], r["width"], r["steps"]
            if (t > 0) != (name != "labels"):
                continue
            # forward, and backward to the weights; to the hidden units the last layer alone
            bill = 128 * s * 2 * (2 * macs(w) + 10 * w)
            if t:
                bill += min(60_000, 128 * s) * 2 * macs(t)
            if name == "paid":
                bill += 128 * 3200 * 2 * (2 * macs(t) + 10 * t)
            if bill <= 10 ** budget.BUDGETS[place]:
                best = min(best, (sum(r["loss"]) / 5, w, s, t))
        if best[0] < math.inf:
            keys = (f"{name}_{k}" for k in ("loss", "width", "steps", "teacher"))
            found |= dict(zip(keys, best, strict=True))
    return found


EXPECTED = {
    "bits": expected_bits,
    "sparsity": expected_sparsity,
    "mixture": expected_mixture,
    "budget": expected_budget,
}


def move(page, place: int) -> dict[str, Any]:
    page.locator("input[type=range]").evaluate(
        "(e, i) => { e.value = i; e.dispatchEvent(new Event('input', {bubbles: true})); }", place
    )
    return json.loads(page.locator(".dl-fig").get_attribute("data-values"))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_shown_is_what_the_library_computes(page, made: dict[str, str], name: str) -> None:
    html = made[name]
    page.set_content(f"<!doctype html><html lang=en><title>x</title><body>{html}</body></html>")
    last = int(page.locator("input[type=range]").get_attribute("max"))
    places = range(last + 1) if name != "mixture" else (0, 3, last // 2, last)
    tall, worst = set(), 0.0
    for place in places:
        shown, wanted = move(page, place), EXPECTED[name](place)
        assert shown.keys() == wanted.keys()
        for key, value in wanted.items():
            assert shown[key] == pytest.approx(value, abs=1e-6, rel=1e-6), (place, key)
            if isinstance(value, float):
                worst = max(worst, abs(shown[key] - value))
        tall.add(page.locator(".dl-fig").evaluate("e => e.offsetHeight"))
        words = page.locator(".dl-fig p").text_content()
        assert "NaN" not in words and "undefined" not in words
    print(f"{name}: {len(html):,} bytes; {len(places)} positions, at most {worst:.1e} apart")
    assert len(tall) == 1  # the page does not move under the thumb
    page.locator("input[type=range]").focus()
    page.keyboard.press("Home")
    first = page.locator(".dl-fig").get_attribute("data-values")
    page.keyboard.press("ArrowRight")
    assert page.locator(".dl-fig").get_attribute("data-values") != first


@pytest.mark.parametrize("name", NAMES)
def test_it_excludes_nobody(page, made: dict[str, str], name: str, excludes_nobody) -> None:
    html = made[name]
    page.set_content(f"<!doctype html><html lang=en><title>x</title><body>{html}</body></html>")
    excludes_nobody(page)
    small = page.locator(".dl-fig svg text").evaluate_all(
        "all => all.map(e => e.getBoundingClientRect().height)"
    )
    assert min(small) >= 9


def test_a_student_of_the_mixture_is_where_the_objective_is_flat() -> None:
    steepest = 0.0
    for place, n in ((0, 50), (10, 200), (20, 1000), (7, 50)):
        for one in mixture.lessons()[:3]:
            _, slope = taught(one, n, mixture.LAMBDAS[place])
            steepest = max(steepest, slope.abs().max().item())
    print(f"gradient of the objective at its students: {steepest:.1e} at most")
    assert steepest < 1e-7


def test_with_more_labels_the_best_weight_of_the_teacher_is_smaller() -> None:
    wrong = torch.tensor([fit["wrong"] for fit in mixture.fits()])
    best = wrong.argmin(0).tolist()
    assert best == sorted(best, reverse=True)
    assert best[0] > best[-1]


def test_the_marks_are_the_values_that_the_weights_take() -> None:
    for b in bits.BITS:
        for name, (values, near) in bits.rounded(bits.weights(), b).items():
            gap = (near.unique()[:, None] - values).abs().min(-1).values.max().item()
            assert gap <= 1e-6, (b, name)
            drawn = bits.fits()[b - 1][name]
            assert drawn == pytest.approx(values.tolist(), abs=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.floats(1e-3, 1e3), st.integers(2, 8))
def test_more_values_are_never_worse(seed: int, scale: float, b: int) -> None:
    w = scale * torch.randn(200, generator=torch.Generator().manual_seed(seed))
    error = {
        (name, n): (near - w).square().mean().item()
        for n in (b - 1, b)
        for name, (_, near) in bits.rounded(w, n).items()
    }
    assert error["kmeans", b] <= error["kmeans", b - 1] * (1 + 1e-4)
    assert error["kmeans", b] <= error["even", b] * (1 + 1e-4)


def test_operations_are_those_of_the_counter_of_multiplications() -> None:
    for width in (3, 16, 256):
        net = nn.Sequential(nn.Linear(196, width), nn.ReLU(), nn.Linear(width, 10))
        macs = compress.macs(net, torch.zeros(1, 196))
        assert budget.operations(width)[0] == 2 * macs


@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_the_same_each_time(made: dict[str, str], name: str) -> None:
    assert students.figure(name).html == made[name]
    assert "(This figure needs JavaScript.)" in made[name]
    assert not students.figure(name).files


def test_the_chapters_say_what_the_figures_are_made_of() -> None:
    chapters = Path(__file__).resolve().parents[2] / "chapters"
    for page, name, words in (
        ("small/sharing_and_quantization", "bits", "rounds one layer."),
        ("small/pruning", "sparsity", "removes the smallest weights of one layer."),
        ("foundations/when_the_teacher_is_wrong", "mixture", f"{mixture.TAUGHT} correct ones."),
        ("foundations/when_the_teacher_is_wrong", "mixture", "one label in five is wrong"),
        ("foundations/what_teaching_costs", "budget", "adds its training and its answers."),
        ("foundations/temperature_and_kl", "step", "a student of 15 weights, $T = 2$"),
    ):
        before, _ = (
            (chapters / f"{page}.md").read_text(encoding="utf-8").split(f"{{student}} {name}\n")
        )
        assert words in before.splitlines()[-3], page
    assert mixture.WRONG == 1 / 5

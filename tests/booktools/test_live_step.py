"""One step of distillation in the page: its numbers are those of the library and of its code."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from distill_lib import CE, KD, distill
from distill_lib.booktools import students
from distill_lib.booktools.students import step

T, RATE = 2.0, 2.0


@pytest.fixture(scope="module")
def trace() -> dict[str, Any]:
    return step.trace()


@pytest.fixture(scope="module")
def html() -> str:
    return students.figure("step").html


@pytest.fixture
def shown(page, html: str):
    page.set_content(f"<!doctype html><html lang=en><title>x</title><body>{html}</body></html>")
    return page


def stage(page) -> dict[str, Any]:
    return json.loads(page.locator(".dl-live").get_attribute("data-values"))


def test_distill_takes_the_same_step(trace: dict[str, Any]) -> None:
    student, objective = copy.deepcopy(trace["start"]), 0.1 * CE() + 0.9 * KD(temperature=T)
    history = distill(
        student,
        trace["teacher"],
        [trace["batch"]],
        objective,
        steps=1,
        optimizer=lambda weights: torch.optim.SGD(weights, lr=RATE),
    )
    weight, bias = student.parameters()
    apart = (torch.cat([weight, bias[:, None]], 1) - trace["after"]).abs().max().item()
    print(f"weights after the step: {apart:.1e} apart")
    assert apart < 1e-12
    assert history["loss"][0] == pytest.approx(trace["loss"].item(), abs=1e-6)
    assert trace["loss_after"] < trace["loss"]


def test_the_code_that_is_shown_computes_what_is_shown(trace: dict[str, Any]) -> None:
    student = copy.deepcopy(trace["start"])
    names: dict[str, Any] = {
        "torch": torch,
        "F": F,
        "T": T,
        "batch": trace["batch"],
        "teacher": trace["teacher"],
        "student": student,
        "optimizer": torch.optim.SGD(student.parameters(), lr=RATE),
    }
    exec("\n".join(step.CODE), names)
    for name in ("z", "v", "kd", "ce", "loss"):
        assert torch.allclose(names[name], trace[name], rtol=0, atol=1e-12), name
    weight, bias = student.parameters()
    for found, name in (((weight, bias), "after"), ((weight.grad, bias.grad), "dw")):
        both = torch.cat([found[0], found[1][:, None]], 1)
        assert torch.allclose(both, trace[name], rtol=0, atol=1e-12), name
    soft = step.stages()[3]["tables"]
    assert soft[0]["values"] == pytest.approx(names["p"].numpy(), abs=1e-12)
    assert soft[1]["values"] == pytest.approx(names["q"].detach().numpy(), abs=1e-12)


def test_the_gradient_is_that_of_the_theorem(trace: dict[str, Any]) -> None:
    z, v, y = trace["z"], trace["v"], trace["batch"]["labels"]
    p, q = (v / T).softmax(-1), (z / T).softmax(-1)
    assert torch.allclose(trace["dz_kd"], 0.9 * T * (q - p) / 3, rtol=0, atol=1e-12)
    of_labels = 0.1 * (z.softmax(-1) - F.one_hot(y, 3)) / 3
    assert torch.allclose(trace["dz_ce"], of_labels, rtol=0, atol=1e-12)
    assert torch.allclose(trace["dz"], trace["dz_kd"] + trace["dz_ce"], rtol=0, atol=1e-12)
    assert torch.allclose(trace["after"], trace["before"] - RATE * trace["dw"], rtol=0, atol=1e-12)


def test_the_images_are_some_that_the_teacher_has_right_and_doubts(trace: dict[str, Any]) -> None:
    p = (trace["v"] / T).softmax(-1)
    assert trace["batch"]["labels"].tolist() == p.argmax(-1).tolist() == [0, 1, 2]
    assert p.max() < 0.95


def test_every_stage_shows_its_numbers(shown, trace: dict[str, Any]) -> None:
    stages = step.stages()
    numbers = 0
    for place, wanted in enumerate(stages):
        now = stage(shown)
        assert now == {"stage": place, "tables": [t["values"] for t in wanted["tables"]]}
        sheet = shown.locator(".dl-live pre + div > div").nth(place)
        assert sheet.is_visible()
        assert shown.locator(".dl-live pre + div > div:visible").count() == 1
        cells = sheet.locator("tbody td").all_text_contents()
        flat = [v for t in now["tables"] for row in t for v in row]
        assert [float(c.replace("−", "-")) for c in cells] == pytest.approx(flat, abs=5.001e-4)
        lit = shown.locator(".dl-live pre span").evaluate_all(
            "all => all.map(e => e.style.background !== 'none')"
        )
        assert [i for i, on in enumerate(lit) if on] == list(wanted["lines"])
        assert wanted["name"] in shown.locator(".dl-live > p").text_content()
        numbers += len(flat)
        shown.get_by_role("button", name="next").click(force=True)
    assert stage(shown)["stage"] == len(stages) - 1  # there is no stage after the last
    print(f"{numbers} numbers in {len(stages)} stages")


def test_it_walks_by_keys_and_by_touch_and_the_page_stays_in_place(shown) -> None:
    tall = shown.locator(".dl-live").evaluate("e => e.offsetHeight")
    back, onward = (shown.get_by_role("button", name=n) for n in ("back", "next"))
    assert back.get_attribute("aria-disabled") == "true"
    onward.focus()
    for key, place in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("Enter", 2)):
        shown.keyboard.press(key)
        assert stage(shown)["stage"] == place
    shown.locator(".dl-live > p").click()  # not a control: the keys work all the same
    shown.keyboard.press("ArrowLeft")
    assert stage(shown)["stage"] == 1
    handle = shown.locator(".dl-live input")
    handle.focus()
    shown.keyboard.press("ArrowRight")
    assert stage(shown)["stage"] == 2  # one stage, not two
    shown.keyboard.press("End")
    assert onward.get_attribute("aria-disabled") == "true"
    assert re.match(r"11 of 11", handle.get_attribute("aria-valuetext"))
    assert shown.locator(".dl-live").evaluate("e => e.offsetHeight") == tall


def test_it_excludes_nobody(shown, excludes_nobody) -> None:
    for place in (0, 1, 7, 10):
        shown.locator(".dl-live input").evaluate(
            "(e, i) => { e.value = i; e.dispatchEvent(new Event('input')); }", place
        )
        excludes_nobody(shown)


def test_the_page_is_the_same_each_time_and_says_what_is_missing(html: str) -> None:
    step.trace.cache_clear()
    state = torch.random.get_rng_state()
    assert students.figure("step").html == html
    assert torch.equal(torch.random.get_rng_state(), state)
    assert "<noscript>One step of distillation" in html
    print(f"{len(html)} bytes")

"""Policies that live in the page: their fragment, and what a browser computes with them."""

from __future__ import annotations

import re

import gymnasium as gym
import numpy as np
import pytest
import torch

from distill_lib import zoo
from distill_lib.booktools import LivePoles
from distill_lib.models import Policy


def taught(seed: int = 0, hidden: tuple[int, ...] = (1,)) -> Policy:
    torch.manual_seed(seed)
    policy = Policy(4, 2, hidden).normalize_as(zoo.load_teacher("cartpole_ppo"))
    with torch.no_grad():  # the library's own initialization leaves biases zero
        for p in policy.net.parameters():
            p.uniform_(-1, 1)
    return policy


@pytest.fixture(scope="module")
def teacher() -> Policy:
    return zoo.load_teacher("cartpole_ppo")


def states(count: int) -> torch.Tensor:
    """On the rail and some of them beyond, and faster than any policy has seen."""
    draw = torch.Generator().manual_seed(0)
    scale = torch.tensor([2.4, 4.0, 0.21, 4.0], dtype=torch.float64)
    return (2 * torch.rand(count, 4, generator=draw, dtype=torch.float64) - 1) * scale


@pytest.mark.parametrize("seed", range(8))
def test_five_numbers_decide_as_the_student(teacher: Policy, seed: int) -> None:
    policy = taught(seed)
    try:
        folded = LivePoles(teacher, {"so": policy}).students["so"]
    except ValueError as error:
        assert "the same side" in str(error)
        return
    seen = states(500)
    bound = policy.clip * policy.obs_var.double().add(1e-8).sqrt()
    cut = (seen - policy.obs_mean).clamp(-bound, bound) + policy.obs_mean
    right = cut @ torch.tensor(folded[:4], dtype=torch.float64) + folded[4] > 0
    said = policy.double()(seen)["logits"]
    sure = (said[:, 1] - said[:, 0]).abs() > 1e-6
    assert torch.equal(right[sure], said.argmax(-1).bool()[sure])


def test_a_browser_acts_as_torch_and_moves_as_gymnasium(page, teacher: Policy) -> None:
    students = {f"of seed {seed}": taught(seed) for seed in (1, 2)}
    live = LivePoles(teacher, students)
    page.set_content(f"<!doctype html><html lang=en><body>{live._repr_html_()}</body></html>")
    seen = states(300)
    ask = "([who, all]) => all.map(s => document.querySelector('.dl-live').live[who](s))"
    for name, policy in (("teacher", teacher), ("student", students["of seed 1"])):
        logits = policy(seen.float())["logits"]
        sure = (logits[:, 1] - logits[:, 0]).abs() > 1e-4
        acts = torch.tensor(page.evaluate(ask, [name, seen.tolist()]))
        assert sure.float().mean() > 0.99
        assert torch.equal(acts[sure], logits.argmax(-1)[sure])
    env = gym.make("CartPole-v1").unwrapped
    env.reset(seed=0)
    step = "([s, a]) => document.querySelector('.dl-live').live.step(s, a)"
    for state, action in zip(seen[:50].tolist(), [0, 1] * 25, strict=True):
        env.state = np.array(state)
        env.steps_beyond_terminated = None
        env.step(action)
        moved = page.evaluate(step, [state, action])
        assert moved == pytest.approx(list(env.state), abs=1e-9)


def test_it_is_pushed_by_buttons_keys_and_taps_and_taught_by_choice(page, teacher: Policy) -> None:
    live = LivePoles(teacher, {"briefly": taught(1), "for long": taught(2)})
    page.set_content(f"<!doctype html><html lang=en><body>{live._repr_html_()}</body></html>")
    page.get_by_role("button", name="pause").click()
    note = page.locator("figcaption span").first
    page.get_by_role("button", name="new start").click()
    page.get_by_role("button", name="push ▶").click()
    assert "pushed once" in note.text_content()
    page.get_by_role("button", name="◀ push").focus()
    page.keyboard.press("Enter")
    page.locator("canvas").first.click()
    assert "pushed 3 times" in note.text_content()
    page.locator("summary").click()
    output = page.locator("output").first
    before = output.text_content()
    page.get_by_label("for long").check()
    assert output.text_content() != before
    assert float(output.text_content().replace("−", "-")) == pytest.approx(
        live.students["for long"][0], abs=5e-3
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    tall = page.locator("button, input").evaluate_all(
        "all => all.map(e => (e.type === 'radio' ? e.parentElement : e).clientHeight)"
    )
    assert min(tall) >= 42  # a border belongs to the 44 pixels of a thumb


def test_a_page_without_scripts_says_what_is_missing(teacher: Policy) -> None:
    live = LivePoles(teacher, {"briefly": taught(1)})
    assert "4,610 numbers, and 9 (briefly)" in repr(live)
    assert re.search(r"<noscript>.+pole side by side", live._repr_html_())
    assert live._repr_html_() == live._repr_html_()


def test_what_does_not_fit_is_refused(teacher: Policy) -> None:
    constant = taught(1)
    with torch.no_grad():
        constant.net[2].bias.copy_(torch.tensor([-9.0, 9.0]))
    torch.manual_seed(0)
    for students, words in (
        ({}, "at least one student"),
        ({"a": taught(1, (2,))}, "one hidden unit"),
        ({"a": taught(1, ())}, "one hidden unit"),
        ({"a": Policy(8, 4, (1,))}, "sees 8 and has 4"),
        ({"a": Policy(4, 2, (1,))}, "other statistics"),
        ({"a": constant}, "the same side"),
        ({"a": Policy(4, 2, (1,), activation="relu").normalize_as(teacher)}, "units of Tanh"),
    ):
        with pytest.raises(ValueError, match=words):
            LivePoles(teacher, students)

"""The sliders: their numbers in Python, their fragment, and what a browser shows."""

from __future__ import annotations

import itertools
import json
import math

import pytest
import torch

from distill_lib import losses
from distill_lib.booktools import BetaSlider, DirectionSlider, TemperatureSlider

LOGITS = [3.0, 1.0, 0.2, -1.0]
STUDENT, TEACHER = [1.0, 0.0, -1.0, 2.0], [-1.0, 2.0, 0.0, 0.5]


@pytest.fixture(scope="module")
def directions():
    return {path: DirectionSlider(path=path, positions=9) for path in ("mix", "jsd")}


@pytest.mark.parametrize("path", ["mix", "jsd"])
def test_the_ends_are_the_two_known_fits(directions, path):
    fits = directions[path].fits
    assert fits[0]["mu"] == pytest.approx(-0.4, abs=1e-9)
    assert fits[0]["sigma"] == pytest.approx(math.sqrt(0.25 + 0.24 * 16), abs=1e-9)
    assert fits[-1]["mu"] == pytest.approx(-1.9998, abs=1e-4)
    assert fits[-1]["sigma"] == pytest.approx(0.5003, abs=1e-4)
    assert fits[-1]["value"] == pytest.approx(-math.log(0.6), abs=1e-3)


@pytest.mark.parametrize("path", ["mix", "jsd"])
def test_along_the_way_forward_grows_and_reverse_falls(directions, path):
    fits = directions[path].fits
    for before, after in itertools.pairwise(fits):
        assert after["forward"] >= before["forward"] - 1e-9
        assert after["reverse"] <= before["reverse"] + 1e-9


def test_each_fit_is_a_minimum(directions):
    slider = directions["mix"]
    x = slider.target.grid()
    teacher = slider.target.log_density(x)

    def value(mu, sigma, position):
        pair = {"student": -(((x - mu) / sigma) ** 2) / 2, "teacher": teacher}
        return ((1 - position) * losses.kl(**pair) + position * losses.reverse_kl(**pair)).item()

    for position, fit in zip(slider.positions, slider.fits, strict=True):
        best = value(fit["mu"], fit["sigma"], position)
        assert best == pytest.approx(fit["value"], abs=1e-9)
        for mu, sigma in ((1e-3, 0), (-1e-3, 0), (0, 1e-3), (0, -1e-3)):
            assert value(fit["mu"] + mu, fit["sigma"] + sigma, position) > best


def test_the_grid_integrates_the_target_exactly(directions):
    x = directions["mix"].target.grid()
    mass = directions["mix"].target.log_density(x).exp().sum() * (x[1] - x[0])
    assert mass.item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: TemperatureSlider([1.0]), "at least two finite logits"),
        (lambda: TemperatureSlider([1.0, math.inf]), "at least two finite logits"),
        (lambda: TemperatureSlider([1.0, 2.0], ["a"]), "2 logits but 1 labels"),
        (lambda: TemperatureSlider([1.0, 2.0], t=99.0), "0 < t_min <= t <= t_max"),
        (lambda: DirectionSlider(weight=1.0), "0 < weight < 1"),
        (lambda: DirectionSlider(positions=1), "positions >= 2"),
        (lambda: DirectionSlider(path="kl"), "path is 'mix' or 'jsd'"),
        (
            lambda: BetaSlider(student=[1.0, 2.0], teacher=[1.0, 2.0, 3.0]),
            "2 classes and teacher 3",
        ),
        (lambda: BetaSlider(student=[1.0, 2.0], teacher=[1.0, 2.0], beta=2), r"in \[0, 1\]"),
    ],
)
def test_sliders_refuse(build, words):
    with pytest.raises(ValueError, match=words):
        build()


def test_the_text_fallbacks_say_the_numbers():
    assert "cat 0.881, dog 0.119" in repr(TemperatureSlider([3.0, 1.0], ["cat", "dog"]))
    assert "mean -0.400, std 2.022" in repr(DirectionSlider(positions=2))
    assert "D = 0.0895, forward KL 0.3278" in repr(BetaSlider(student=[0, 0], teacher=[0, 2]))
    assert "at β = 1.0 D = 0.0000" in repr(BetaSlider(student=[0, 0], teacher=[0, 2], beta=1))


def test_positions_hold_the_start_and_the_ends():
    slider = TemperatureSlider(LOGITS, t_min=0.3, t_max=17.3, t=2.345)
    assert {0.3, 2.345, 17.3} <= set(slider.positions)
    assert slider.positions == sorted(slider.positions)
    beta = BetaSlider(student=STUDENT, teacher=TEACHER, beta=0.123)
    assert {0.0, 0.123, 1.0} <= set(beta.positions)


def test_a_fragment_is_self_contained_stable_and_safe():
    html = TemperatureSlider([1.0, 2.0], ["</script><b>", "b"])._repr_html_()
    assert html == TemperatureSlider([1.0, 2.0], ["</script><b>", "b"])._repr_html_()
    assert html.count("</script>") == 1
    assert "src=" not in html
    assert "<b>" not in html


def show(page, *sliders):
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    body = "".join(slider._repr_html_() for slider in sliders)
    page.set_content(f"<!doctype html><html lang=en><body>{body}</body></html>")
    assert not errors
    return page.locator("input[type=range]")


def values_at(page, control, position, figure=0):
    control.evaluate(
        "(e, v) => { e.value = v; e.dispatchEvent(new Event('input', {bubbles: true})); }", position
    )
    return json.loads(page.locator(".dl-fig").nth(figure).get_attribute("data-values"))


def test_browser_temperature_equals_torch(page):
    slider = TemperatureSlider(LOGITS, ["cat", "dog", "fox", "car"])
    control = show(page, slider)
    for at in range(0, len(slider.positions), 10):
        shown = values_at(page, control, at)
        assert shown["T"] == slider.positions[at]
        p = (torch.tensor(LOGITS, dtype=torch.float64) / shown["T"]).softmax(0)
        assert shown["p"] == pytest.approx(p.tolist(), abs=1e-12)
        assert shown["entropy"] == pytest.approx(-(p * p.log()).sum().item(), abs=1e-12)


def test_browser_beta_equals_the_library(page):
    slider = BetaSlider(student=STUDENT, teacher=TEACHER)
    control = show(page, slider)
    pair = {
        "student": torch.tensor(STUDENT, dtype=torch.float64),
        "teacher": torch.tensor(TEACHER, dtype=torch.float64),
    }
    forward, reverse = losses.kl(**pair).item(), losses.reverse_kl(**pair).item()
    for at, beta in enumerate(slider.positions):
        shown = values_at(page, control, at)
        d = losses.jsd(**pair, beta=beta).item() if 0 < beta < 1 else 0.0
        assert shown["beta"] == beta
        assert shown["d"] == pytest.approx(d, abs=1e-9)
        assert shown["over_beta"] == pytest.approx(d / beta if beta else forward, abs=1e-9)
        rest = 1 - beta
        assert shown["over_rest"] == pytest.approx(d / rest if rest else reverse, abs=1e-9)


def test_browser_direction_shows_the_fits(page, directions):
    slider = directions["mix"]
    control = show(page, slider)
    for at, fit in enumerate(slider.fits):
        shown = values_at(page, control, at)
        assert shown == {"position": slider.positions[at], **fit}


def test_browser_keyboard_label_title_and_value_text(page):
    control = show(page, TemperatureSlider(LOGITS))
    assert page.get_by_label("Temperature T").count() == 1
    before = page.locator("svg title").text_content()
    control.focus()
    page.keyboard.press("End")
    assert control.get_attribute("aria-valuetext") == "Temperature T 20"
    assert page.locator("svg title").text_content() != before
    assert page.locator("output").text_content() == "20"


def test_browser_shows_both_ends_and_leads_back_to_the_start(page):
    control = show(page, TemperatureSlider(LOGITS, t_min=0.5, t_max=20, t=4))
    assert page.locator(".dl-fig span").all_text_contents() == ["0.5", "20"]
    start = page.locator(".dl-fig").get_attribute("data-values")
    control.focus()
    page.keyboard.press("End")
    assert page.locator(".dl-fig").get_attribute("data-values") != start
    page.get_by_role("button", name="back to 4").click()
    assert page.locator(".dl-fig").get_attribute("data-values") == start
    assert control.get_attribute("aria-valuetext") == "Temperature T 4"


def test_browser_the_same_figure_twice_gives_two_working_ones(page, directions):
    control = show(page, TemperatureSlider(LOGITS), TemperatureSlider(LOGITS), directions["jsd"])
    assert control.count() == 3
    first = values_at(page, control.nth(0), 0, figure=0)
    second = values_at(page, control.nth(1), 5, figure=1)
    assert first["T"] != second["T"]
    ids = page.eval_on_selector_all("input", "all => all.map(e => e.id)")
    assert len(set(ids)) == 3


def test_browser_fits_a_phone_and_passes_axe(page, directions, excludes_nobody):
    show(
        page,
        TemperatureSlider([float(v) for v in range(10)], [f"sandal {i}" for i in range(10)]),
        directions["mix"],
        BetaSlider(student=STUDENT, teacher=TEACHER),
    )
    excludes_nobody(page)


def test_a_picture_stands_before_the_slider_and_has_words():
    slider = TemperatureSlider([1.0, 0.0], picture=[[0.0, 1.0], [0.5, 2.0]], alt='A "shirt"')
    shown = slider._repr_html_()
    assert shown.startswith("<img") and 'alt="A &quot;shirt&quot;"' in shown
    assert shown.index("<img") < shown.index("dl-fig")
    with pytest.raises(ValueError, match="needs alt="):
        TemperatureSlider([1.0, 0.0], picture=[[0.0]])

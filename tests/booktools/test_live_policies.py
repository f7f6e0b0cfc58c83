"""Acrobot, Pendulum and the recorded lander in a page: motion, answers, hands, and refusals."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distill_lib import zoo
from distill_lib.booktools import students
from distill_lib.booktools.students import policies
from distill_lib.booktools.students.policies import Lesson, differ, physics
from distill_lib.models import Policy

NAMES = {"acrobot": "acrobot_ppo", "pendulum": "pendulum_rsl_rl"}
TASKS = [*NAMES, "lander"]
LIVE = "document.querySelector('.dl-policies').live"


@pytest.fixture(scope="module")
def made() -> students.Figure:
    return students.figure("policies")


@pytest.fixture(scope="module")
def data(made: students.Figure) -> dict[str, Any]:
    texts = {task: made.files[f"policies_{task}.js"].decode() for task in TASKS}
    return {task: json.loads(text[text.index('= {"') + 2 : -2]) for task, text in texts.items()}


@pytest.fixture(scope="module")
def shown(page: Any, made: students.Figure, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The figure from files, as a reader without a network has it."""
    folder: Path = tmp_path_factory.mktemp("policies")
    for name, content in made.files.items():
        (folder / name).write_bytes(content)
    html = made.html.replace(students.STATIC, ".")
    (folder / "page.html").write_text(
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Policies</title>"
        f"<body><main><h1>Policies</h1>{html}</main></body></html>",
        encoding="utf-8",
    )
    page.wrong = []
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    page.emulate_media(reduced_motion="reduce")  # nothing moves but what a test moves
    page.goto((folder / "page.html").as_uri())
    return page


def choose(page: Any, task: str, lesson: str | None = None) -> None:
    page.get_by_label(policies.TITLES[task]).check()
    page.wait_for_function(
        "doing => document.querySelector('.dl-policies canvas').ariaLabel?.endsWith(doing)",
        arg=policies.DOING[task],
    )
    if lesson:
        page.get_by_label(lesson, exact=True).check()


def states(task: str, count: int) -> torch.Tensor:
    """All that Gymnasium allows, and more."""
    most = {"acrobot": [3.1, 3.1, 12.0, 28.0], "pendulum": [12.0, 8.0]}[task]
    draw = torch.Generator().manual_seed(0)
    scale = torch.tensor(most, dtype=torch.float64)
    return (2 * torch.rand(count, len(most), generator=draw, dtype=torch.float64) - 1) * scale


def seen(task: str, state: torch.Tensor) -> torch.Tensor:
    first, *others = state.unbind(-1)
    if task == "pendulum":
        return torch.stack([first.cos(), first.sin(), *others], -1).float()
    second, *speeds = others
    columns = [first.cos(), first.sin(), second.cos(), second.sin(), *speeds]
    return torch.stack(columns, -1).float()


@pytest.mark.parametrize(("task", "actions"), [("acrobot", [0, 1, 2]), ("pendulum", [-3, 0.7, 2])])
def test_the_page_moves_as_gymnasium(shown: Any, task: str, actions: list[float]) -> None:
    env: Any = gym.make({"acrobot": "Acrobot-v1", "pendulum": "Pendulum-v1"}[task]).unwrapped
    env.reset(seed=0)
    begun, many = states(task, 300), [actions[i % 3] for i in range(300)]
    torques = [a - 1 for a in many] if task == "acrobot" else many
    moved = shown.evaluate(
        f"([s, a]) => s.map((one, i) => {LIVE}.steps.{task}(one, a[i]))", [begun.tolist(), torques]
    )
    gap = 0.0
    for state, action, after in zip(begun.numpy(), many, moved, strict=True):
        env.state = state.copy()
        env.step(action if task == "acrobot" else np.array([action], dtype=np.float64))
        gap = max(gap, float(np.abs(np.array(after) - env.state).max()))
    print(f"{task}: largest difference from Gymnasium {gap:.1e}")
    assert gap < 1e-9


@pytest.mark.parametrize("task", NAMES)
def test_the_page_answers_as_torch(shown: Any, data: dict[str, Any], task: str) -> None:
    state = states(task, 200)
    rows, stored, _ = policies._stored()
    teacher: Any = zoo.load_teacher(NAMES[task])
    choose(shown, task)
    for pair, lesson in enumerate(data[task]["lessons"]):
        if pair:  # the second of each kind
            shown.get_by_role("button", name="new start").click()
        shown.get_by_label(lesson["label"], exact=True).check()
        for place, kind in enumerate(("teacher", "clone", "dagger")):
            net = teacher
            if kind != "teacher":
                name = f"{task}.{kind}.{lesson['label'].replace(',', '')}."
                (row,) = policies._of(rows, task=task, kind=kind, labels=int(name.split(".")[2]))
                net = Policy(*policies.SIZES[task], row["hidden"]).normalize_as(teacher)
                mine = {k[len(name) :]: v[pair] for k, v in stored.items() if k.startswith(name)}
                net.net.load_state_dict(mine)
            with torch.no_grad():
                said = net(seen(task, state))
            wanted = said["mean" if "mean" in said else "logits"].double()
            got = shown.evaluate(
                f"([i, all]) => all.map(s => {LIVE}.answer(i, s))", [place, state.tolist()]
            )
            gap = (torch.tensor(got, dtype=torch.float64) - wanted).abs().max().item()
            print(f"{task}, {lesson['label']} labels, {kind}: {gap:.1e} from PyTorch")
            assert gap < 1e-4


def test_an_answer_is_quick(shown: Any) -> None:
    choose(shown, "pendulum")
    took = shown.evaluate(
        f"() => {{ const t = performance.now(); for (let i = 0; i < 100; i++)"
        f" {LIVE}.answer(0, [1, 0]); return (performance.now() - t) / 100; }}"
    )
    print(f"the largest teacher answers in {took:.2f} ms")
    assert took > 0


@pytest.mark.parametrize(("task", "most"), [("acrobot", 500), ("pendulum", 200)])
def test_an_episode_has_gymnasiums_return(shown: Any, task: str, most: int) -> None:
    choose(shown, task)
    told = shown.evaluate(
        f"""most => {{
            const w = {LIVE}.worlds[0], told = [[w.s, w.a, w.sum, w.over]];
            for (let i = 0; i < most && !w.over; i++) {{
                {LIVE}.tick();
                told.push([w.s, w.a, w.sum, w.over]);
            }}
            return told;
        }}""",
        most,
    )
    env: Any = gym.make({"acrobot": "Acrobot-v1", "pendulum": "Pendulum-v1"}[task]).unwrapped
    env.reset(seed=0)
    # each step from where the page was: upright, what rounding changes would grow with each step
    for (state, action, before, _), (after, _, total, over) in pairwise(told):
        env.state = np.array(state)
        act = int(action) + 1 if task == "acrobot" else np.array([action], dtype=np.float64)
        _, reward, ended, _, _ = env.step(act)
        assert after == pytest.approx(list(env.state), abs=1e-9)
        assert total - before == pytest.approx(float(reward), abs=1e-9)
        assert over == ended or len(told) == most + 1
    assert over or len(told) == most + 1


def test_it_is_pushed_by_buttons_keys_and_taps(shown: Any) -> None:
    choose(shown, "acrobot")
    notes = shown.locator("figcaption span:last-child")
    before = shown.evaluate(f"{LIVE}.worlds.map(w => w.s[2])")
    assert before[0] == before[1] == before[2]
    shown.get_by_role("button", name="push ▶").click()
    pushed = shown.evaluate(f"{LIVE}.worlds.map(w => w.s[2])")
    assert pushed == pytest.approx([v + policies.PUSH["acrobot"] for v in before])
    assert [text.split(", ")[1] for text in notes.all_text_contents()] == 3 * ["pushed once"]
    shown.get_by_role("button", name="◀ push").focus()
    shown.keyboard.press("Enter")
    assert shown.evaluate(f"{LIVE}.worlds.map(w => w.s[2])") == pytest.approx(before)
    shown.locator("canvas").nth(1).click(position={"x": 5, "y": 20})
    assert shown.evaluate(f"{LIVE}.worlds[2].s[2]") == pytest.approx(pushed[2])
    assert all("pushed 3 times" in text for text in notes.all_text_contents())
    shown.get_by_role("button", name="new start").click()
    assert not any("pushed" in text for text in notes.all_text_contents())
    shown.get_by_label("400", exact=True).focus()
    shown.keyboard.press("ArrowRight")
    assert shown.get_by_label("4,000", exact=True).is_checked()


def test_it_stands_still_until_it_is_told_to_play(shown: Any) -> None:
    choose(shown, "pendulum")
    assert shown.evaluate(f"{LIVE}.worlds[0].n") == 0
    shown.get_by_role("button", name="play").click()
    shown.wait_for_function(f"{LIVE}.worlds[0].n > 3")
    shown.get_by_role("button", name="pause").click()
    assert shown.get_by_role("button", name="play").is_visible()
    drawn = shown.locator("canvas").evaluate_all(
        "all => all.map(c => c.getContext('2d').getImageData(0, 0, c.width, c.height)"
        ".data.some(v => v))"
    )
    assert drawn == 3 * [True]


def test_the_lander_is_a_film_and_says_so(shown: Any, data: dict[str, Any]) -> None:
    choose(shown, "lander")
    said = shown.locator("p").nth(1)
    assert "recording" in said.text_content() and "Box2D" in said.text_content()
    assert not shown.get_by_role("button", name="push ▶").is_visible()
    ends = shown.evaluate(
        f"() => {{ while (!{LIVE}.worlds.every(w => w.over)) {LIVE}.tick();"
        f" return {LIVE}.worlds.map(w => w.n); }}"
    )
    flown = [row["steps"] for row in policies._of(policies._stored()[0], part="flight", start=0)]
    assert [abs(2 * n - steps) <= 2 for n, steps in zip(ends, flown, strict=True)] == 3 * [True]
    shown.get_by_role("button", name="new start").click()
    assert shown.get_by_label("2", exact=True).is_checked()
    shown.locator("canvas").first.click()  # nothing to push
    assert not shown.wrong


def test_it_excludes_nobody(shown: Any, excludes_nobody) -> None:
    for task in TASKS:
        choose(shown, task)
        excludes_nobody(shown)
    small = shown.locator("figcaption *").evaluate_all(
        "all => all.map(e => parseFloat(getComputedStyle(e).fontSize))"
    )
    assert min(small) >= 9


def test_nothing_jumps_between_tasks(shown: Any) -> None:
    found = []
    for task in TASKS:
        choose(shown, task)
        parts = shown.locator(".dl-policies > div > *, .dl-policies figcaption > *")
        found.append(parts.evaluate_all("all => all.map(e => e.getBoundingClientRect().height)"))
    assert found[0] == found[1] == found[2]


def test_files_are_small_and_numbers_stand_under_the_figure(
    made: students.Figure, data: dict[str, Any]
) -> None:
    print({name: len(content) for name, content in made.files.items()}, len(made.html))
    assert len(made.files["policies_lander.js"]) <= 60_000
    assert sum(map(len, made.files.values())) <= 200_000
    assert re.search(r"<noscript>[^<]*Acrobot: [^<]*mean return", made.html)
    assert students.figure("policies") == made
    rows = policies._stored()[0]
    for task in NAMES:
        for lesson in data[task]["lessons"]:
            labels = int(lesson["label"].replace(",", ""))
            clone, dagger = (
                policies._of(rows, task=task, kind=kind, labels=labels)[0]["return"]
                for kind in ("clone", "dagger")
            )
            gap, half = differ(clone, dagger)
            assert ("no clear difference" in lesson["said"]) == (abs(gap) <= half)
            assert len(clone) == len(dagger) == len(lesson["who"][1]) >= 5


returns = st.lists(st.tuples(*2 * [st.floats(-1e4, 1e4)]), min_size=2, max_size=12)


@given(returns)
def test_a_difference_is_the_same_from_both_sides(pairs: list[tuple[float, float]]) -> None:
    one, other = zip(*pairs, strict=True)
    gap, half = differ(one, other)
    back, same = differ(other, one)
    assert gap == pytest.approx(-back, abs=1e-6) and half == pytest.approx(same, abs=1e-6)
    assert half >= 0


def test_students_t_agrees_with_the_librarys_interval() -> None:
    from distill_lib.rl import Returns

    values = torch.tensor([[1.0], [4.0], [2.0], [8.0]])
    low, high = Returns(values, values).interval()
    gap, half = differ([0.0] * 4, values.flatten().tolist())
    assert (gap - half, gap + half) == pytest.approx((low, high), rel=1e-6)
    for one, other in (([1.0], [1.0]), ([1.0, 2.0], [1.0])):
        with pytest.raises(ValueError, match="at least two pairs"):
            differ(one, other)


def test_what_does_not_fit_is_refused() -> None:
    teacher: Any = zoo.load_teacher("acrobot_ppo")
    small = Policy(6, 3, (4,)).normalize_as(teacher)
    broken = Policy(6, 3, (4,)).normalize_as(teacher)
    with torch.no_grad():
        broken.net[0].bias.fill_(torch.nan)

    def lesson(clone: Policy) -> list[Lesson]:
        return [Lesson("few", [clone], [small], [[""], [""], [""]], "")]

    physics("acrobot", teacher, lesson(small), 1.0)
    for task, lessons, push, words in (
        ("hopper", lesson(small), 1.0, "a task is one of"),
        ("acrobot", [], 1.0, "at least one lesson"),
        ("acrobot", lesson(small), float("nan"), "a finite push"),
        ("acrobot", lesson(Policy(8, 3, (4,))), 1.0, r"has shape \(6, 3\)"),
        ("pendulum", lesson(small), 1.0, r"has shape \(3, 1\)"),
        ("acrobot", lesson(Policy(6, 3, (4,))), 1.0, "other statistics"),
        ("acrobot", lesson(Policy(6, 3, (4,), "relu").normalize_as(teacher)), 1.0, "Tanh or of"),
        ("acrobot", lesson(broken), 1.0, "not finite"),
        ("acrobot", [Lesson("few", [small], [small], [[""]], "")], 1.0, "shorter"),
        ("acrobot", [Lesson("few", [small], [], [[""], [""], []], "")], 1.0, "1 clones and 0"),
    ):
        with pytest.raises(ValueError, match=words):
            physics(task, teacher, lessons, push)


def test_a_file_that_is_not_the_tables_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for file in zoo.FOLDER.glob("live_*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(zoo, "FOLDER", tmp_path)
    assert len(policies._stored()[1]) > 0
    (tmp_path / "live_flights.safetensors").write_bytes(b"{}")
    with pytest.raises(ValueError, match=r"live_flights\.safetensors is not the file"):
        policies._stored()


def test_a_missing_file_is_named(page: Any, made: students.Figure, tmp_path: Path) -> None:
    html = made.html.replace(students.STATIC, "nowhere")
    (tmp_path / "page.html").write_text(f"<!doctype html><body>{html}", encoding="utf-8")
    page.goto((tmp_path / "page.html").as_uri())
    page.get_by_text("A file of this figure is missing: nowhere/policies_acrobot.js").wait_for()

"""Acrobot and Pendulum with teacher, clone and student of DAgger, and recorded flights.

The numbers under the figure are those that ``teachers/live_students.py`` measured.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distill_lib.booktools.sliders import _fragment
from distill_lib.booktools.students import STATIC, Figure
from distill_lib.booktools.students._page import BUTTON, base64_of

if TYPE_CHECKING:  # the tools of the book are there before torch is
    from torch import Tensor

    from distill_lib.models import Policy

__all__ = ["Lesson", "differ", "figure", "physics"]

SIZES = {"acrobot": (6, 3), "pendulum": (3, 1)}  # numbers seen, numbers said
PUSH = {"acrobot": 2.0, "pendulum": 4.0}  # rad/s
DOING = {
    "acrobot": "swinging the tip of two links above the line",
    "pendulum": "swinging a rod up and holding it there",
    "lander": "landing, as recorded",
}
TITLES = {"acrobot": "Acrobot", "pendulum": "Pendulum", "lander": "Lander (recorded)"}
NAMES = {"teacher": "Teacher", "clone": "Clone", "alone": "Reward alone"}
LEAD = (
    "A large network has learned by trial and error; two small ones were told what it would do: "
    "the clone along the teacher’s path, the DAgger student along its own. On Acrobot the tip has "
    "to rise above the line; on Pendulum the rod has to stand up. Push them, with the buttons or "
    "by a tap on the side to push from: a push changes a speed by "
    f"{PUSH['acrobot']:g} rad/s on Acrobot and by {PUSH['pendulum']:g} rad/s on Pendulum."
)


@dataclass(frozen=True)
class Lesson:
    """Students of two kinds that had equally many labels, and what is said of them.

    Args:
        label: How it is chosen.
        clones: Taught on states of the teacher.
        daggers: Taught on states of their own, as many.
        sizes: A line under the picture of the teacher, of each clone, and of each of the others.
        said: A line under all of them.
    """

    label: str
    clones: Sequence[Policy]
    daggers: Sequence[Policy]
    sizes: Sequence[Sequence[str]]
    said: str


def physics(
    task: str, teacher: Policy, lessons: Sequence[Lesson], push: float, doing: str = ""
) -> dict[str, Any]:
    """What the page has to know of one task.

    Args:
        task: ``"acrobot"`` or ``"pendulum"``.
        teacher: Its units are all of Tanh, or all of ELU.
        lessons: Students of Tanh that see with the statistics of the teacher.
        push: By how much a push changes a speed, in rad/s.
        doing: What is to be seen.

    Returns:
        Numbers and texts that JSON can hold.

    Raises:
        ValueError: a policy of another task, of other units, with other statistics or with weights
            that are not finite; no lesson, a push that is no number.

    Example:
        >>> from distill_lib import zoo
        >>> teacher = zoo.load_teacher("acrobot_ppo")
        >>> small = zoo.Policy(6, 3, (4,)).normalize_as(teacher)
        >>> lesson = Lesson("none", [small], [small], [[""], [""], [""]], "")
        >>> physics("acrobot", teacher, [lesson], 2.0)["lessons"][0]["who"][1][0]["layers"]
        [4, 3]
    """
    if task not in SIZES:
        raise ValueError(f"a task is one of {', '.join(SIZES)}, got {task!r}.")
    if not lessons or not math.isfinite(push):
        raise ValueError(f"at least one lesson and a finite push, got {len(lessons)} and {push}.")
    every: list[dict[str, Any]] = []
    networks: list[str] = []  # the teacher's stands once
    for lesson in lessons:
        if len(lesson.clones) != len(lesson.daggers) or not lesson.clones:
            raise ValueError(f"{len(lesson.clones)} clones and {len(lesson.daggers)} of DAgger.")
        who: list[list[dict[str, Any]]] = []
        three = {"Teacher": [teacher], "Clone": lesson.clones, "DAgger": lesson.daggers}
        for (name, kind), sizes in zip(three.items(), lesson.sizes, strict=True):
            who.append([])
            for policy, size in zip(kind, sizes, strict=True):
                one = _network(task, policy, teacher)
                weights = one.pop("weights")
                networks += [] if weights in networks else [weights]
                place = networks.index(weights)
                who[-1].append({"name": name, "size": size, **one, "network": place})
        every.append({"label": lesson.label, "said": lesson.said, "who": who})
    return {
        "mean": teacher.obs_mean.tolist(),
        "scale": (teacher.obs_var + 1e-8).rsqrt().tolist(),
        "clip": min(teacher.clip, 1e9),
        "push": push,
        "half": 2.3,
        "floor": -2.3,
        "doing": doing,
        "networks": networks,
        "question": "Labels that each student got",
        "lessons": every,
    }


def _network(task: str, policy: Policy, teacher: Policy) -> dict[str, Any]:
    import torch
    from torch import nn

    linears = [layer for layer in policy.net if isinstance(layer, nn.Linear)]
    curves = {type(m).__name__ for m in policy.net if not isinstance(m, nn.Linear)}
    shape = (linears[0].in_features, linears[-1].out_features)
    if shape != SIZES[task]:
        raise ValueError(f"a policy of {task} has shape {SIZES[task]}, and one has {shape}.")
    if len(curves) > 1 or curves - {"Tanh", "ELU"}:
        raise ValueError(f"the page computes units of Tanh or of ELU, and one has {curves}.")
    same = policy.clip == teacher.clip and all(
        torch.equal(getattr(policy, name), getattr(teacher, name))
        for name in ("obs_mean", "obs_var")
    )
    if not same:
        raise ValueError("a student sees with other statistics: give it normalize_as(teacher).")
    flat = torch.cat([part.detach().flatten() for one in linears for part in one.parameters()])
    if not bool(flat.isfinite().all()):
        raise ValueError(f"weights of a policy of {task} are not finite.")
    return {
        "weights": base64_of(flat.float().numpy().astype("<f4").tobytes()),
        "layers": [one.out_features for one in linears],
        "elu": curves == {"ELU"},
    }


def differ(one: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """The mean difference of pairs, and half of its 95 % interval by Student's t.

    Args:
        one: Mean returns of students, one for each training.
        other: Those of the other kind, on the same episodes.

    Returns:
        ``other - one`` on average, and half the width of its interval.

    Raises:
        ValueError: fewer than two pairs, or returns without a partner.

    Example:
        >>> differ([1.0, 2.0], [1.0, 2.0])
        (0.0, 0.0)
    """
    from distill_lib.rl.evaluation import students_t

    if len(one) != len(other) or len(one) < 2:
        raise ValueError(f"at least two pairs of returns, got {len(one)} and {len(other)}.")
    gaps = [b - a for a, b in zip(one, other, strict=True)]
    n, mean = len(gaps), sum(gaps) / len(gaps)
    spread = math.sqrt(sum((g - mean) ** 2 for g in gaps) / (n - 1))
    return mean, students_t(0.95, n - 1) * spread / math.sqrt(n)


def figure() -> Figure:
    """The figure, and one file of data for each task."""
    rows, students, flights = _stored()
    made = {task: _swings(task, rows, students) for task in SIZES}
    made["lander"] = _films(rows, flights)
    config = {
        "folder": STATIC,
        "tasks": [[task, TITLES[task]] for task in made],
        "longest": max(len(one["said"]) for data in made.values() for one in data["lessons"]),
    }
    fallback = " ".join(f"{TITLES[k]}: {v['lessons'][-1]['said']}" for k, v in made.items())
    html = _fragment("dlPolicies", "policies.js", config, fallback)
    files = {
        f"policies_{task}.js": (
            f"(window.dlLive = window.dlLive || {{}}).{task} = "
            f"{json.dumps(data, allow_nan=False)};\n"
        ).encode()
        for task, data in made.items()
    }
    html = html.replace('class="dl-fig"', 'class="dl-live dl-policies"', 1)
    return Figure(html.replace("</noscript>", f"</noscript>{_parts()}", 1), files)


def _parts() -> str:
    """What the script fills: shown when it runs, with room for the longest texts."""
    field = '<fieldset style="border:0;margin:0;padding:0;min-width:0;min-height:70px"></fieldset>'
    # two lines of text on a wide page, three on a phone
    rows = "display:block;font-weight:400;color:inherit;"
    rows += "min-height:clamp(2.7em,(600px - 100vw)*99,4.05em)"
    picture = (
        '<figure style="margin:0;padding:0;min-width:0"><canvas role="img" style="width:100%;'
        'aspect-ratio:1;display:block;touch-action:manipulation"></canvas><figcaption '
        'style="text-align:start;font-size:.85em;line-height:1.35;padding:0;color:inherit;'
        'font-variant-numeric:tabular-nums"><strong style="display:block;font-weight:700">'
        "</strong>"
        f'<span style="{rows}"></span><span style="{rows}"></span>'
        "</figcaption></figure>"
    )
    button = f'<button type="button" style="{BUTTON};padding:0 .55rem">{{}}</button>'
    words = ("pause", "new start", "◀ push", "push ▶")
    return (
        f'<div hidden><p style="margin:0 0 .6rem">{LEAD}</p>{field}<div style="display:grid;'
        f'grid-template-columns:repeat(3,minmax(0,1fr));gap:.4rem .6rem">{3 * picture}</div>'
        '<div style="display:flex;flex-wrap:wrap;gap:.4rem;margin:.3rem 0 .6rem">'
        f'{"".join(map(button.format, words))}</div>{field}<p style="margin:.2rem 0"></p></div>'
    )


def _stored() -> tuple[list[dict[str, Any]], dict[str, Tensor], dict[str, Tensor]]:
    """The table, the students and the flights, after both files were compared with the table."""
    from safetensors.torch import load

    from distill_lib import zoo

    text = (zoo.FOLDER / "live_students.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    found = []
    for row in _of(rows, part="file"):
        raw = (zoo.FOLDER / row["file"]).read_bytes()
        if hashlib.sha256(raw).hexdigest() != row["sha256"]:
            raise ValueError(f"{row['file']} is not the file that its table describes.")
        found.append(load(raw))
    return rows, found[0], found[1]


def _of(rows: list[dict[str, Any]], **wanted: Any) -> list[dict[str, Any]]:
    return [row for row in rows if wanted.items() <= row.items()]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _shown(value: float) -> str:
    return f"{round(value):,}".replace("-", "\N{MINUS SIGN}")


def _sizes(row: dict[str, Any]) -> list[str]:
    """Of each training: the number of weights, and its own mean return."""
    found, many = row["return"], len(row["return"])
    return [
        f"{f'No. {i} of {many}, ' if many > 1 else ''}{row['numbers']:,} numbers, "
        f"mean return {_shown(value)}"
        for i, value in enumerate(found, start=1)
    ]


def _swings(task: str, rows: list[dict[str, Any]], students: dict[str, Tensor]) -> dict[str, Any]:
    from distill_lib import zoo
    from distill_lib.models import Policy

    (about,) = _of(rows, part="teacher", task=task)
    teacher: Any = zoo.load_teacher(about["zoo"])

    def taught(row: dict[str, Any]) -> list[Policy]:
        name, nets = f"{task}.{row['kind']}.{row['labels']}.", []
        parts = {k[len(name) :]: v for k, v in students.items() if k.startswith(name)}
        for seed in range(len(row["return"])):
            nets.append(Policy(*SIZES[task], row["hidden"]).normalize_as(teacher))
            nets[-1].net.load_state_dict({k: v[seed] for k, v in parts.items()})
        return nets

    lessons = []
    clones = _of(rows, part="student", task=task, kind="clone")
    daggers = _of(rows, part="student", task=task, kind="dagger")
    for clone, dagger in zip(clones, daggers, strict=True):
        sizes = [_sizes(row) for row in (about, clone, dagger)]
        said = _compared(about, clone, dagger)
        label = f"{clone['labels']:,}"
        lessons.append(Lesson(label, taught(clone), taught(dagger), sizes, said))
    return physics(task, teacher, lessons, PUSH[task], DOING[task])


def _compared(about: dict[str, Any], clone: dict[str, Any], dagger: dict[str, Any]) -> str:
    """Both kinds in words: a difference is named where its interval leaves zero out."""
    seeds = len(clone["return"])
    gap, half = differ(clone["return"], dagger["return"])
    means = [_shown(_mean(row["return"])) for row in (clone, dagger, about)]
    if abs(gap) > half:
        verdict = f"The {'DAgger students' if gap > 0 else 'clones'} do better"
    else:
        verdict = "Between the two kinds there is no clear difference"
    return (
        f"{seeds} students of each kind, {about['episodes']} new episodes each: mean return "
        f"{means[0]} of the clones, {means[1]} of the DAgger students, {means[2]} of the teacher. "
        f"{verdict} (DAgger minus clone: {_shown(gap)} ± {_shown(half)}, 95 %). Each new start "
        "shows the next of each kind, with its own mean."
    )


def _films(rows: list[dict[str, Any]], flights: dict[str, Tensor]) -> dict[str, Any]:
    """Recorded flights; the view holds all of them."""
    (about,) = _of(rows, part="teacher", task="lander")
    students = {row["kind"]: row for row in _of(rows, part="student", task="lander")}
    who = {"teacher": about, **students}
    means = [_shown(_mean(row["return"])) for row in who.values()]
    said = (
        "A recording of Gymnasium’s lander, which Box2D moves, and no physics of this page: it "
        "cannot be pushed. The starts have consecutive seeds, and none was left out. Over "
        f"{about['episodes']} new episodes each, the mean return is {means[0]} of the teacher, "
        f"{means[1]} of {len(students['clone']['return'])} clones, and {means[2]} of "
        f"{len(students['alone']['return'])} students of the same size that learned from reward "
        "alone. Shown is the first of each kind, with its own mean."
    )
    lessons, widest = [], 6.0
    starts = sorted({row["start"] for row in _of(rows, part="flight")})
    for start in starts:
        flown = []
        for kind, row in who.items():
            film = flights[f"{start}.{kind}"]
            (how,) = _of(rows, part="flight", start=start, kind=kind)
            widest = max(widest, (film[:, 0] / 1000 - 10).abs().max().item() + 1)
            raw = base64_of(film.numpy().astype("<i2").tobytes())
            one = {"name": NAMES[kind], "size": _sizes(row)[0], "film": raw}
            flown.append([{**one, "end": how["end"], "return": how["return"]}])
        ground = (flights[f"{start}.ground"] / 1000).tolist()
        label = str(start + 1)
        lessons.append({"label": label, "said": said, "who": flown, "ground": ground})
    return {
        "films": True,
        "half": widest,
        "floor": 14.2 - 2 * widest,
        "doing": DOING["lander"],
        "question": "Recorded start",
        "lessons": lessons,
    }

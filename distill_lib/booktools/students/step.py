"""``{student} step``: one step of distillation, with every number it computes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from distill_lib.booktools.sliders import _fragment
from distill_lib.booktools.students import Figure
from distill_lib.booktools.students._page import picture_of

if TYPE_CHECKING:  # the tools of the book are there before torch is
    from torch import Tensor, nn

__all__ = ["CODE", "figure", "trace"]

CLASSES, T, OF_LABELS, OF_TEACHER, RATE = 3, 2.0, 0.1, 0.9, 2.0

# What the figure shows is run by its test, which compares what it computes with the trace.
CODE = """\
x, y = batch["inputs"], batch["labels"]
z = student(x)
with torch.no_grad():
    v = teacher(x)
p = F.softmax(v / T, -1)
q = F.softmax(z / T, -1)
kd = T**2 * (p * (p / q).log()).sum(-1)
ce = F.cross_entropy(z, y, reduction="none")
loss = (0.1 * ce + 0.9 * kd).mean()
optimizer.zero_grad()
loss.backward()
optimizer.step()""".splitlines()


@cache
def trace() -> dict[str, Any]:
    """One step by the objective of the library, tensor by tensor, in float64.

    Raises:
        RuntimeError: :func:`distill_lib.distill` takes another step.
    """
    import torch

    from distill_lib import CE, KD, distill

    batch, teacher, student = _lesson()
    kept: dict[str, Any] = {"batch": batch, "teacher": teacher, "start": copy.deepcopy(student)}
    other = copy.deepcopy(student)
    ce, kd = CE(), KD(temperature=T)
    objective = OF_LABELS * ce + OF_TEACHER * kd
    optimizer = torch.optim.SGD(student.parameters(), lr=RATE)

    z = student(batch["inputs"])
    z.retain_grad()
    with torch.no_grad():
        v = teacher(batch["inputs"])
    said, taught = {"logits": z}, {"logits": v}
    loss, parts = objective(said, taught, batch)
    for name, weight, term in (("ce", OF_LABELS, ce), ("kd", OF_TEACHER, kd)):
        kept[name] = term.values(said, taught, batch, 0.0).detach()
        apart = z.detach().requires_grad_()
        alone, _ = (weight * term)({"logits": apart}, taught, batch)
        (kept[f"dz_{name}"],) = torch.autograd.grad(alone, apart)
    kept["before"] = _numbers(student)
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    kept |= {"z": z.detach(), "v": v, "dz": z.grad, "loss": loss.detach(), "parts": parts}
    kept["dw"] = _numbers(student, gradient=True)
    optimizer.step()
    kept["after"] = _numbers(student)
    with torch.no_grad():
        again = {"logits": student(batch["inputs"])}
        kept["z_after"] = again["logits"]
        kept["loss_after"], kept["parts_after"] = objective(again, taught, batch)

    def sgd(weights: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(weights, lr=RATE)

    distill(other, teacher, [batch], objective, steps=1, optimizer=sgd)
    if not torch.allclose(_numbers(other), kept["after"], rtol=0, atol=1e-12):
        raise RuntimeError("the traced step is not the one that distill() takes")
    return kept


def _lesson() -> tuple[dict[str, Tensor], nn.Module, nn.Module]:
    """Three images, a teacher of three digits, and a student that has learned nothing."""
    import torch
    from torch import nn

    from distill_lib import CE, data, distill

    digits = data.load("digits", split="train")
    digits = digits.subset((digits.labels < CLASSES).nonzero()[:, 0])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        teacher = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, CLASSES))
        student = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4, CLASSES))
    distill(teacher, None, digits.batches(64, seed=0), CE(), steps=30, lr=1e-2)
    teacher.double().eval()
    student.double()
    with torch.no_grad():
        p = (teacher(digits.inputs.double()) / T).softmax(-1)
    # Of each class, the image that the teacher has right and doubts most.
    doubt = torch.special.entr(p).sum(-1)
    doubt[p.argmax(-1) != digits.labels] = -1
    chosen = torch.stack([doubt.where(digits.labels == c, -2).argmax() for c in range(CLASSES)])
    some = digits.subset(chosen)
    return {"inputs": some.inputs.double(), "labels": some.labels}, teacher, student


def _numbers(student: nn.Module, gradient: bool = False) -> Tensor:
    """[classes, 5]: the weights of each class, its bias last; or their gradients."""
    import torch

    weight, bias = ((p.grad if gradient else p) for p in student.parameters())
    assert weight is not None and bias is not None
    return torch.cat([weight.detach(), bias.detach()[:, None]], 1).clone()


def _picture(pixels: Tensor) -> str:
    gray = (pixels - pixels.min()) / (pixels.max() - pixels.min())
    return picture_of((255 * gray[0]).round().byte().numpy())


def _table(name: str, head: Sequence[str], values: Tensor, by: str = "", **more: Any) -> Any:
    """A row for each image, unless it has names of its own; ``by`` colors it."""
    return {"name": name, "head": head, "values": values.tolist(), "by": by, **more}


def stages() -> list[dict[str, Any]]:
    """What is said and shown: a name, lines of the code, a sentence, and tables."""
    import torch

    t = trace()
    z, v, y = t["z"], t["v"], t["batch"]["labels"]
    p, q, sure = (v / T).softmax(-1), (z / T).softmax(-1), z.softmax(-1)
    pooled = t["start"][:2](t["batch"]["inputs"])
    each = [f"“{c}”" for c in range(CLASSES)]
    classes = [f"class {c}" for c in each]
    inputs = ["top left", "top right", "bottom left", "bottom right"]
    weights = {"rows": each, "head": ["class", *inputs, "bias"]}
    terms = p * (p / q).log()
    both = torch.stack([OF_LABELS * t["ce"], OF_TEACHER * t["kd"]], 1)
    both = torch.cat([both, both.sum(1, keepdim=True)], 1)
    compared = torch.tensor(
        [[*(parts[k] for k in ("ce", "kd")), loss]
         for parts, loss in ((t["parts"], t["loss"]), (t["parts_after"], t["loss_after"]))],
        dtype=torch.float64,
    )  # fmt: skip
    size = sum(w.numel() for w in t["teacher"].parameters())

    def by_class(name: str, values: Tensor, by: str = "") -> Any:
        return _table(name, ["image", *classes], values, by)

    def of_weights(name: str, values: Tensor, by: str = "") -> Any:
        return _table(name, values=values, by=by, **weights)

    found = [
        ("A batch", [0], "Three images and their labels. Of each image the student sees four "
         "numbers, the mean brightness of its quarters (0 is the mean of all images).",
         [_table("x, as the student sees it", ["image", *inputs], pooled, large=1)]),
        ("Forward: the student", [1], "Each class has four weights and a bias. They make a logit "
         "for each image and class.",
         [of_weights("weights of the student", t["before"], "student"),
          by_class("z, logits of the student", z, "student")]),
        ("Forward: the teacher", [2, 3], f"A network with {size:,} weights, trained on labels, "
         "answers the same images. Nothing will change it, so no gradient is kept.",
         [by_class("v, logits of the teacher", v, "teacher")]),
        ("Forward: soft answers", [4, 5], f"All logits are divided by T = {T:g} before the "
         "softmax. Each row sums to 1.",
         [by_class("p, the teacher's probabilities", p, "teacher"),
          by_class("q, the student's probabilities", q, "student")]),
        ("Forward: the teacher's term", [6], "For each image, the divergence of q from p is a sum "
         f"over the classes, and is multiplied by T² = {T**2:g}.",
         [by_class("p · log(p / q)", terms),
          _table("kd", ["image", "sum", "T² · sum"],
                 torch.stack([terms.sum(-1), t["kd"]], 1), "teacher")]),
        ("Forward: the labels' term", [7], "For each image, minus the logarithm of the "
         "probability of its label, at T = 1.",
         [by_class("softmax of z, at T = 1", sure, "student"),
          _table("ce", ["image", "of the label", "− log"],
                 torch.stack([sure.gather(1, y[:, None])[:, 0], t["ce"]], 1))]),
        ("Forward: the loss", [8], f"{OF_LABELS:g} of the one, {OF_TEACHER:g} of the other, and "
         "the mean over the images.",
         [_table("of each image", ["image", f"{OF_LABELS:g} · ce", f"{OF_TEACHER:g} · kd", "sum"],
                 both),
          _table("loss", ["", f"{OF_LABELS:g} · ce", f"{OF_TEACHER:g} · kd", "loss"],
                 torch.stack([*both[:, :2].mean(0), t["loss"]])[None], rows=["mean"])]),
        ("Backward: to the logits", [9, 10], "Each term's gradient, divided by 3 for the mean: "
         f"{OF_TEACHER:g} · T (q − p) for the teacher's, {OF_LABELS:g} · (softmax of z − 1 at the "
         "label) for the labels'. Where it is negative, a larger logit lowers the loss.",
         [by_class("from the teacher", t["dz_kd"], "teacher"),
          by_class("from the labels", t["dz_ce"]),
          by_class("∂loss / ∂z, their sum", t["dz"], "student")]),
        ("Backward: to the weights", [10], "A weight's gradient is a sum over the images: the "
         "gradient of its class's logit times its input. For a bias the input is 1.",
         [by_class("∂loss / ∂z", t["dz"], "student"),
          _table("x", ["image", *inputs], pooled),
          of_weights("∂loss / ∂weights", t["dw"], "student")]),
        ("The step", [11], f"SGD with a learning rate of {RATE:g}: from each weight, {RATE:g} "
         "times its gradient is subtracted.",
         [of_weights("weights before", t["before"], "student"),
          of_weights(f"− {RATE:g} · gradient", -RATE * t["dw"]),
          of_weights("weights after", t["after"], "student")]),
        ("Forward again", [*range(1, 9)], "The same lines with the new weights: the loss of these "
         "images has fallen. The next step takes three others.",
         [by_class("z, logits of the student, after", t["z_after"], "student"),
          _table("means over the images", ["", "ce", "kd", "loss"], compared,
                 rows=["before", "after"])]),
    ]  # fmt: skip
    return [dict(zip(("name", "lines", "says", "tables"), one, strict=True)) for one in found]


def figure() -> Figure:
    """The figure: no files, all numbers are in the page."""
    batch = trace()["batch"]
    config = {
        "code": CODE,
        "stages": stages(),
        "digits": 3,
        "rows": [f"“{c}”" for c in batch["labels"].tolist()],
        "pictures": [_picture(x) for x in batch["inputs"]],
    }
    fallback = "One step of distillation: its lines of code, and the numbers that each computes."
    html = _fragment("liveStep", "step.js", config, fallback)
    return Figure(html.replace('class="dl-fig"', 'class="dl-live"', 1))

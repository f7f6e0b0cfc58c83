"""Train image students under many teachers, and keep how good they became.

    python teachers/resnet_grid.py           # all parts, 50 min of one core
    python teachers/resnet_grid.py ladder    # one part anew

The runs of the chapter on ResNets that take too long for the page, on Fashion-MNIST at 14 × 14
pixels. ``tuning``: recipes for few labels, judged on training images that were held out. ``views``:
which crops teacher and student see. ``few`` and ``many``: labels, the teacher's classes and its
probabilities, for 300 images and for 12,000. ``both``: the three for 300 images, each with trials
of rates and crops, for two students. ``ladder``: teachers of several lengths that have seen 1,000
labels. ``assistants``: a network of middle size between teacher and student. ``born``: networks
taught by networks of their own kind. Plain PyTorch. The parts were fixed after trials with some of
them.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from cards import ZOO
from torch import Tensor, nn

from distill_lib import Cache, Stacked, Teacher, data, zoo
from distill_lib.models import DepthwiseNet, ResNet

FILE = ZOO / "resnet_grid.jsonl"
S, BATCH, RATE, CLEAN, START = 5, 32, 1e-2, 4, 30_000
Make = Callable[[], nn.Module]
TRAIN, TEST = (data.load("fashion_mnist", split=split) for split in ("train", "test"))
small = lambda x: F.avg_pool2d(x, 2)  # noqa: E731
EXAM = small(TEST.inputs), TEST.labels
HELD = small(TRAIN.inputs[55_000:]), TRAIN.labels[55_000:]


def views(x: Tensor) -> Tensor:
    """[18, n, 1, 28, 28]: moved by -2, 0 or 2 pixels each way, and mirrored; CLEAN is as it was."""
    padded = F.pad(x, (2,) * 4, value=x.min().item())
    moved = [padded[..., r : r + 28, c : c + 28] for r in (0, 2, 4) for c in (0, 2, 4)]
    return torch.stack(moved + [v.flip(-1) for v in moved])


def hot(labels: Tensor) -> Tensor:
    """Logits of a teacher that is certain."""
    return 1e4 * F.one_hot(labels, 10).float()


def kept(name: str, index: Tensor, end: str = "cache", of: data.Dataset = TRAIN) -> Tensor:
    """[n, 10] logits of a teacher of the zoo for images as they are."""
    path = zoo.FOLDER / f"{name}.{end}"
    cache = Cache.build(path, Teacher(zoo.load_teacher(name)), of, dtype=torch.float16)
    return cache({"index": index})["logits"].float()


@torch.no_grad()
def asked(net: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([net.eval()(part) for part in x.split(1_000)], -2)


def trained(
    make: Make, x: Tensor, z: Tensor, steps: int, *, T: float = 1, see: str = "clean",
    rate: float = RATE, decay: float = 0, seeds: int = S, loss: str = "kl", batch: int = BATCH,
    first: int = 0,
) -> Stacked:  # fmt: skip
    """Students of views x [V, n, ...] and logits z [seeds or 1, V or 1, n, 10]."""
    draws, nets = torch.Generator().manual_seed(first), []
    for seed in range(first, first + seeds):
        torch.manual_seed(seed)
        nets.append(make())
    model = Stacked(nets, ndim=4).train()
    adam = torch.optim.AdamW(model.parameters(), rate, weight_decay=decay)
    who = torch.arange(seeds)[:, None] % len(z)
    for step in range(steps):
        adam.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * step / steps)) / 2
        i = torch.randint(x.shape[1], (seeds, batch), generator=draws)
        mine, its = torch.randint(len(x), (2, seeds, batch), generator=draws)
        if see == "clean":
            mine = torch.full_like(mine, CLEAN if len(x) > 1 else 0)
        told = {"same": mine, "apart": its}.get(see, torch.full_like(its, CLEAN)) % z.shape[1]
        q, v = model(x[mine, i]), z[who, told, i]
        if loss == "kl":
            item = -(T**2) * ((v / T).softmax(-1) * (q / T).log_softmax(-1)).sum(-1)
        else:  # the regression of the article: one term, the same twice, and with a second view
            item = (q - v).square().mean(-1) * (2 if loss == "twice" else 1)
            if loss == "two views":
                item = item + (q - model(x[its, i])).square().mean(-1)
        adam.zero_grad()
        item.mean(-1).sum().backward()
        adam.step()
    return model


def score(nets: nn.Module, exam: tuple[Tensor, Tensor] = EXAM, by: Tensor | None = None) -> Any:
    """Accuracy, and agreement with a teacher's logits on the exam, in percent."""
    said = asked(nets, exam[0]).argmax(-1)
    found = {"accuracy": said == exam[1]} | ({} if by is None else {"agree": said == by.argmax(-1)})
    return {k: [round(100 * a, 2) for a in v.float().mean(-1).tolist()] for k, v in found.items()}


def tuning(write: Callable[..., None]) -> None:
    at = torch.arange(START, START + 300)
    x = small(views(TRAIN.inputs[at]).flatten(0, 1)).unflatten(0, (18, -1))
    z = hot(TRAIN.labels[at])
    smooth = (0.9 * F.one_hot(TRAIN.labels[at], 10) + 0.01).log()
    for name, how in {
        "rate 0.003": {"rate": 3e-3}, "rate 0.01": {}, "rate 0.03": {"rate": 3e-2},
        "crops": {"see": "fixed"}, "decay 0.1": {"decay": 0.1},
        "smoothing": {"z": smooth[None, None]},
    }.items():  # fmt: skip
        nets = trained(DepthwiseNet, x, steps=1_500, seeds=3,
                       **{"z": z[None, None], **how})  # fmt: skip
        write("tuning", score(nets, HELD), recipe=name)


def known(part: str, of: dict[str, Any]) -> dict[str, Any] | None:
    """What the file says of these settings."""
    rows = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
    found = (r for r in rows if r["part"] == part and all(r.get(k) == v for k, v in of.items()))
    return next(({"accuracy": row["accuracy"]} for row in found), None)


def put(
    write: Callable[..., None], of: int, kind: str, x: Tensor, z: Tensor, steps: int,
    see: str = "clean", T: float = 1,
) -> None:  # fmt: skip
    nets = trained(DepthwiseNet, x, z[None, None], steps, T=T, see=see)
    write("sizes", score(nets), labels=of, kind=kind, see=see, steps=steps, T=T)


def few(write: Callable[..., None]) -> None:
    at = torch.arange(START, START + 300)
    x = small(views(TRAIN.inputs[at]).flatten(0, 1)).unflatten(0, (18, -1))
    z, y = kept("fashion_resnet20", at), TRAIN.labels[at]
    put(write, 300, "labels", x, hot(y), 1_500, "fixed")
    put(write, 300, "hard", x, hot(z.argmax(-1)), 1_500)
    put(write, 300, "hard", x, hot(z.argmax(-1)), 1_500, "fixed")


def both(write: Callable[..., None]) -> None:
    """Each kind of lesson with its own trials, then five other students of the best.

    Four rates, with crops and without; judged on the images that were held out. With crops, soft
    targets are of the crop; hard ones are tried both ways, of the image as it is and of the crop,
    and labels as they are and smoothed. What an earlier run has found stays.
    """
    at = torch.arange(START, START + 300)
    large = views(TRAIN.inputs[at])
    x = small(large.flatten(0, 1)).unflatten(0, (18, -1))
    own = kept("fashion_resnet20", at)
    moved = asked(zoo.load_teacher("fashion_resnet20"), large.flatten(0, 1)).view(1, 18, 300, 10)
    alone, each = own[None, None], hot(moved.argmax(-1))
    named = hot(own.argmax(-1))[None, None]
    truth = hot(TRAIN.labels[at])[None, None]
    flat = (0.9 * F.one_hot(TRAIN.labels[at], 10) + 0.01).log()[None, None]
    lessons: dict[str, dict[Any, tuple[Tensor, str]]] = {
        "labels": {False: (truth, "clean"), True: (truth, "fixed"), "smooth": (flat, "fixed")},
        "hard": {False: (named, "clean"), True: (named, "fixed"), "each": (each, "same")},
        "soft": {False: (alone, "clean"), True: (moved, "same")},
    }
    makes: dict[str, Make] = {"depthwise": DepthwiseNet, "ResNet-8": lambda: ResNet(1, 8)}
    for student in makes:
        for kind, ways in lessons.items():

            def run(of: dict[str, Any], seeds: int, first: int, *, ways: Any = ways) -> Stacked:
                (z, see), T = ways[of["crops"]], 4 if of["kind"] == "soft" else 1
                return trained(makes[of["student"]], x, z, 1_500, T=T, see=see, rate=of["rate"],
                               seeds=seeds, first=first)  # fmt: skip

            tried: list[tuple[float, dict[str, Any]]] = []
            for rate in (3e-3, 1e-2, 3e-2, 1e-1):
                for crops in ways:
                    of = {"student": student, "kind": kind, "rate": rate, "crops": crops}
                    found = known("trial", of) or score(run(of, 3, 100), HELD)
                    tried.append((sum(found["accuracy"]) / 3, of))
                    write("trial", found, **of)
            of = max(tried, key=lambda one: one[0])[1]
            write("both", known("both", of) or score(run(of, S, 0)), **of)


def many(write: Callable[..., None]) -> None:
    at, own = torch.arange(START, START + 12_000), TRAIN.per_class(100).index
    x, z = small(TRAIN.inputs[at])[None], kept("fashion_resnet20_1k", at)
    put(write, 1_000, "labels", small(TRAIN.inputs[own])[None], hot(TRAIN.labels[own]), 500)
    put(write, 1_000, "hard", x, hot(z.argmax(-1)), 500)
    put(write, 1_000, "soft", x, z, 500, T=2)


def seen(write: Callable[..., None]) -> None:
    at = torch.arange(START, START + 300)
    large = views(TRAIN.inputs[at])
    z = asked(zoo.load_teacher("fashion_resnet20"), large.flatten(0, 1)).view(1, 18, 300, 10)
    x = small(large.flatten(0, 1)).unflatten(0, (18, -1))
    for steps in (200, 1_500):
        for see in ("clean", "fixed", "same", "apart"):
            nets = trained(DepthwiseNet, x, z, steps, T=4, see=see)
            write("views", score(nets), see=see, steps=steps)
    z = z - z.mean(-1, keepdim=True)
    for loss in ("once", "twice", "two views"):
        nets = trained(DepthwiseNet, x, z, 600, see="same", loss=loss)
        write("article", score(nets), loss=loss)


def ladder(write: Callable[..., None]) -> None:
    seeds, n = 5, 1_000
    own, other = TRAIN.per_class(100).index, torch.arange(START, START + n)
    x = {"own": small(TRAIN.inputs[own])[None], "other": small(TRAIN.inputs[other])[None]}
    crops = small(views(TRAIN.inputs[own]).flatten(0, 1)).unflatten(0, (18, -1))
    labels = hot(TRAIN.labels[own])[None, None]
    flat = (0.7 * F.one_hot(TRAIN.labels[own], 10) + 0.03).log()[None, None]
    write("ladder", score(trained(DepthwiseNet, x["own"], labels, 300, seeds=seeds)), on="labels")

    def teach(answers: dict[str, Tensor], by: Tensor, **of: int) -> None:
        for on, T in (("own", 1), ("own", 4), ("other", 4)):
            taught = trained(DepthwiseNet, x[on], answers[on][:, None], 300, T=T, seeds=seeds)
            write("ladder", score(taught, by=by), **of, on=on, T=T)

    truth = {on: TRAIN.labels[i] for on, i in (("own", own), ("other", other))}
    for epochs, smooth in ((5, 0), (15, 0), (30, 0), (30, 1), (150, 0)):
        its = flat if smooth else labels
        nets = trained(lambda: ResNet(1, 8), crops, its, 20 * epochs, see="fixed", seeds=seeds,
                       batch=50)  # fmt: skip
        z = {on: asked(nets, x[on][0]) for on in x}
        right = {f"right_{on}": [round(100 * a, 2) for a in
                                 (v.argmax(-1) == truth[on]).float().mean(-1).tolist()]
                 for on, v in z.items()}  # fmt: skip
        sure = z["own"].softmax(-1).amax(-1).mean(-1).tolist()
        write("teacher", score(nets), blocks=1, epochs=epochs, smooth=smooth, sure=sure, **right)
        teach(z, asked(nets, EXAM[0]), blocks=1, epochs=epochs, smooth=smooth)
    name = "fashion_resnet20_1k"
    z = {"own": kept(name, own)[None], "other": kept(name, other)[None]}
    teach(z, kept(name, TEST.index, "test.cache", TEST), blocks=3, epochs=150, smooth=0)


def assistants(write: Callable[..., None]) -> None:
    """A teacher, its student of middle size, and the student of that; 12,000 images, 1,000 labels.

    In the middle a ResNet-8: taught by the teacher, or by the labels alone.
    """
    at, own = torch.arange(START, START + 12_000), TRAIN.per_class(100).index
    x, z = small(TRAIN.inputs[at])[None], kept("fashion_resnet20_1k", at)
    final = kept("fashion_resnet20_1k", TEST.index, "test.cache", TEST)
    middle = lambda: ResNet(1, 8)  # noqa: E731
    between = {"teacher": z[None]}
    for T in (1, 2, 4):
        nets = trained(middle, x, z[None, None], 1_500, T=T)
        write("assistant", score(nets, by=final), by="teacher", T=T)
        between[f"assistant {T}"] = asked(nets, x[0])
    nets = trained(middle, small(TRAIN.inputs[own])[None], hot(TRAIN.labels[own])[None, None], 600)
    write("assistant", score(nets, by=final), by="labels")
    between["labels"] = asked(nets, x[0])
    for T in (1, 2, 4):
        for by in ("teacher", f"assistant {T}", "labels"):
            for steps in (500, 1_500):
                nets = trained(DepthwiseNet, x, between[by][:, None], steps, T=T)
                write("assisted", score(nets, by=final), by=by.split()[0], T=T, steps=steps)


def born_again(write: Callable[..., None]) -> None:
    """Networks taught by networks of their own kind, on 1,000 labeled images, again and again."""
    own = TRAIN.per_class(100).index
    x, y = small(TRAIN.inputs[own])[None], TRAIN.labels[own]
    one, smooth = F.one_hot(y, 10).float(), (0.9 * F.one_hot(y, 10) + 0.01).log()

    def half(z: Tensor) -> Tensor:
        """Logits of the mean of the labels and a predecessor."""
        return (0.5 * z.softmax(-1) + 0.5 * one).clamp_min(1e-30).log()

    for steps in (600, 2_400):
        nets = trained(DepthwiseNet, x, smooth[None, None], steps)
        write("born", score(nets), kind="smoothing", steps=steps)
        nets = trained(DepthwiseNet, x, hot(y)[None, None], steps)
        write("born", score(nets), kind="labels", steps=steps)
        first = asked(nets, x[0])[:, None]
        for kind, T in (("own", 1), ("own", 4), ("half", 1)):
            z = first
            for generation in (1, 2):
                told = half(z) if kind == "half" else z
                nets = trained(DepthwiseNet, x, told, steps, T=T)
                write("born", score(nets), kind=kind, T=T, generation=generation, steps=steps)
                z = asked(nets, x[0])[:, None]


PARTS = {
    "tuning": tuning,
    "views": seen,
    "few": few,
    "both": both,
    "ladder": ladder,
    "many": many,
    "assistants": assistants,
    "born": born_again,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS])
    parts = parser.parse_args().parts or list(PARTS)
    torch.set_num_threads(1)
    text = FILE.read_text(encoding="utf-8") if FILE.exists() else ""
    old = [json.loads(line) for line in text.splitlines()]
    for part in parts:
        begun, rows = time.process_time(), []

        def write(part_of: str, numbers: Any, /, *, rows: list[Any] = rows, part: str = part,
                  **of: Any) -> None:  # fmt: skip
            rows.append({"part": part_of, "run": part, **of, **numbers})
            print(rows[-1], flush=True)

        PARTS[part](write)
        rows.append({"part": "made", "run": part, "date": time.strftime("%Y-%m-%d"),
                     "torch": torch.__version__, "python": platform.python_version(),
                     "cpu_seconds": round(time.process_time() - begun)})  # fmt: skip
        old = [row for row in old if row.get("run") != part] + rows
        FILE.write_text("".join(json.dumps(row) + "\n" for row in old), encoding="utf-8")


if __name__ == "__main__":
    main()

"""Train a flow on garments of 14 x 14 pixels, and its students of one step, to the zoo.

    python teachers/one_step.py

For the chapter on one step: ``one_step.safetensors`` has the first of three teachers in half
precision, twelve noises, and what a student by distribution matching makes of them;
``one_step.jsonl`` has what was measured of all. Each of three teachers has a student of each kind.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from cards import ZOO
from safetensors.torch import save_file
from torch import Tensor, nn

from distill_lib import Stacked, capture, data, zoo

SEEDS, PIXELS, WIDTH, CALLS, PATHS, BATCH = 3, 196, 184, 48, 8_192, 128


class Ends(nn.Module):
    """The expected end of a state [..., D + 1], whose last number is the time t."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        sizes = (size + 8, width, width, width)
        layers = [nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
        self.hidden = nn.ModuleList(layers)
        self.out = nn.Linear(width, size)

    def forward(self, xt: Tensor) -> Tensor:
        x, t = xt[..., :-1], xt[..., -1:]
        waves = torch.pi * torch.tensor([0.5, 1, 2, 4]) * t
        h = torch.cat([x, waves.cos(), waves.sin()], -1)
        for layer in self.hidden:
            h = F.silu(layer(h))
        return self.out(h)


def at(x: Tensor, t: Tensor | float) -> Tensor:
    return torch.cat([x, torch.as_tensor(t, dtype=x.dtype).expand(*x.shape[:-1], 1)], -1)


@torch.no_grad()
def path(ends: Callable[[Tensor], Tensor], x: Tensor, steps: int) -> Iterator[Tensor]:
    """The states of the flow, from noise to the end."""
    yield x
    for i in range(steps):
        x = x + (ends(at(x, i / steps)) - x) / (steps - i)
        yield x


def garments(split: str) -> tuple[Tensor, Tensor]:
    """Pixels from -1 to 1, and labels."""
    found = data.load("fashion_mnist", split=split)
    return (F.avg_pool2d(found.inputs, 2).flatten(1) * 0.353 + 0.286) * 2 - 1, found.labels


def fresh(teacher: nn.Module | None = None) -> Stacked:
    nets = Stacked([Ends(PIXELS, WIDTH) for _ in range(SEEDS)], ndim=2)
    if teacher is not None:
        nets.load_state_dict(teacher.state_dict())
    return nets


class Steps:
    """Adam with a cosine to zero."""

    def __init__(self, nets: nn.Module, rate: float, steps: int) -> None:
        self.adam = torch.optim.Adam(nets.parameters(), rate, betas=(0.9, 0.99))
        self.rate = torch.optim.lr_scheduler.CosineAnnealingLR(self.adam, steps)

    def __call__(self, loss: Tensor) -> None:
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()
        self.rate.step()


def sq(difference: Tensor) -> Tensor:
    return difference.square().mean((1, 2)).sum()


def between(x: Tensor, t: Tensor | float) -> Tensor:
    return (1 - t) * torch.randn_like(x) + t * x


def teach(pixels: Tensor, steps: int = 10_000) -> Stacked:
    nets = fresh()
    step = Steps(nets, 2e-3, steps)
    for _ in range(steps):
        x, t = pixels[torch.randint(len(pixels), (SEEDS, 256))], torch.rand(SEEDS, 256, 1)
        step(sq(nets(at(between(x, t), t)) - x))
    return nets.requires_grad_(False)


def consistent(
    teacher: Stacked,
    paths: Tensor,
    *,
    levels: int,
    anchor: float = 1.0,
    steps: int = 1_000,
    batch: int = BATCH,
    slow: float = 0.0,
    direct: bool = False,
    skip: bool = False,
    pixels: Tensor | None = None,
) -> Stacked:
    """A student of one step. ``paths`` [S, N, 49, D]; with one level, regression on the ends."""
    nets, lag, each = fresh(teacher), fresh(teacher), torch.arange(SEEDS)[:, None]
    step, jump = Steps(nets, 1e-3, steps), CALLS // levels

    def f(nets: nn.Module, x: Tensor, t: Tensor | float) -> Tensor:
        return t * x + (1 - t) * nets(at(x, t)) if skip else nets(at(x, t))

    often = torch.ones(levels)
    often[-1] = anchor
    for _ in range(steps):
        k = torch.multinomial(often, SEEDS * batch, replacement=True).view(SEEDS, batch)
        t, after = k[..., None] / levels, (k[..., None] + 1) / levels
        if pixels is None:
            i = torch.randint(PATHS, (SEEDS, batch))
            a, b = (paths[each, i, j * jump].float() for j in (k, k + 1))
        else:  # states of the data, and the teacher from there
            a = b = between(pixels[torch.randint(len(pixels), (SEEDS, batch))], t)
            for j in range(jump):
                s = t + j / CALLS
                b = b + (teacher(at(b, s)) - b) / (CALLS * (1 - s))
        with torch.no_grad():
            goal = torch.where(after == 1, b, f(lag if slow else nets, b, after))
            if direct:
                goal = paths[each, i, -1].float()
        step(sq(f(nets, a, t) - goal))
        if slow:
            for old, new in zip(lag.parameters(), nets.parameters(), strict=True):
                old.data.lerp_(new.data, 1 - slow)
    return nets


def matched(teacher: Stacked, start: Stacked, low: float = 0.02, steps: int = 400) -> Stacked:
    """Distribution matching, with three steps of the fake teacher for one of the student."""
    student, fake = fresh(start), fresh(teacher)
    step, watch = Steps(student, 1e-4, steps), Steps(fake, 5e-4, 3 * steps)
    for _ in range(steps):
        for _ in range(3):
            with torch.no_grad():
                x = student(at(torch.randn(SEEDS, BATCH, PIXELS), 0.0))
            t = torch.rand(SEEDS, BATCH, 1)
            watch(sq(fake(at(between(x, t), t)) - x))
        x = student(at(torch.randn(SEEDS, BATCH, PIXELS), 0.0))
        t = low + (0.98 - low) * torch.rand(SEEDS, BATCH, 1)
        with torch.no_grad():
            xt = at(between(x, t), t)
            real = teacher(xt)
            push = (fake(xt) - real) / (x - real).abs().mean(-1, keepdim=True)
        step((push * x).mean((1, 2)).sum())
    return student


class Judge:
    """Distances to the test images, in 32 principal components and in the zoo's features."""

    def __init__(self, pixels: Tensor, exam: Tensor) -> None:
        self.model = capture(zoo.load_teacher("fashion_resnet20").eval(), "layer3")
        self.axes = torch.linalg.eigh(torch.cov(pixels.T))[1][:, -32:]
        self.exam, self.looks = exam, self.look(exam[:2_000])[0]

    @torch.no_grad()
    def look(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features and classes."""
        big = ((x.view(-1, 1, 14, 14) / 2 + 0.5 - 0.286) / 0.353).repeat_interleave(2, 2)
        big = big.repeat_interleave(2, 3)
        found = [self.model(part) for part in big.split(500)]
        features = torch.cat([each["layer3"].mean((2, 3)) for each in found])
        return features, torch.cat([each["logits"].argmax(-1) for each in found])

    def __call__(self, x: Tensor) -> dict[str, float]:
        """Of 2,000 images; precision and recall look at three neighbors."""
        features, classes = self.look(x[:1_000])
        flat, real = x @ self.axes, self.exam[:2_000] @ self.axes
        uneven = (torch.bincount(classes, minlength=10) / len(classes) - 0.1).abs().sum() / 2
        return {"frechet": frechet(flat, self.exam @ self.axes),
                "features": frechet(features, self.looks), "uneven": float(uneven),
                "precision": inside(flat, real), "recall": inside(real, flat)}  # fmt: skip


def frechet(a: Tensor, b: Tensor) -> float:
    """Of the Gaussians with the means and covariances of two samples."""
    ca, cb = torch.cov(a.T.double()), torch.cov(b.T.double())
    root = torch.linalg.eigvals(ca @ cb).real.clamp(min=0).sqrt().sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + ca.trace() + cb.trace() - 2 * root)


def inside(a: Tensor, b: Tensor, k: int = 3) -> float:
    """The share of a within the distance of some b to its k-th neighbor."""
    radius = torch.cdist(b, b).kthvalue(k + 1).values
    return float((torch.cdist(a, b) <= radius).any(-1).float().mean())


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    begun, rows = time.process_time(), []
    (pixels, labels), (exam, _) = garments("train"), garments("test")
    judge = Judge(pixels, exam)

    def write(name: str, samples: Tensor, **of: object) -> None:
        found = [judge(each) for each in samples]
        numbers = {k: [round(each[k], 4) for each in found] for k in found[0]}
        rows.append({"name": name, **of, **numbers})
        print(name, of, numbers, round(time.process_time() - begun), flush=True)

    def real(kept: Tensor) -> Tensor:
        return pixels[kept[torch.randperm(len(kept))[: SEEDS * 2_000]]].view(SEEDS, 2_000, PIXELS)

    write("real", real(torch.arange(len(pixels))))
    for left_out in (6, 8):
        kept = (labels != left_out).nonzero()[:, 0]
        write("real, a class left out", real(kept), left_out=left_out)
    teacher = teach(pixels)
    noise = torch.randn(SEEDS, 2_000, PIXELS)
    for steps in (1, 2, 4, 8, 16, CALLS, 4 * CALLS):
        write("teacher", list(path(teacher, noise, steps))[-1], steps=steps)
    begin = torch.randn(SEEDS, PATHS, PIXELS)
    paths = torch.stack([x.half() for x in path(teacher, begin, CALLS)], 2)

    def student(name: str, **how: object) -> Stacked:
        nets = consistent(teacher, paths, **how)  # type: ignore[arg-type]
        with torch.no_grad():
            write(name, nets(at(noise, 0.0)), **{k: v for k, v in how.items() if k != "pixels"})
        return nets

    taught = student("regression", levels=1)
    for levels in (2, 4, 8, 16, 48):
        student("consistency", levels=levels)
        student("anchored", levels=levels, anchor=levels - 1)
    student("three times as long", levels=16, steps=3_000)
    student("four times the batch", levels=16, batch=4 * BATCH)
    student("slow target", levels=16, slow=0.99)
    student("slow target", levels=16, slow=0.999)
    student("boundary built in", levels=16, skip=True)
    student("ends as targets", levels=16, direct=True)
    student("states of the data", levels=16, pixels=pixels)
    student("states of the data, anchored", levels=16, anchor=15, pixels=pixels)
    for low in (0.02, 0.6):
        nets = matched(teacher, taught, low)
        with torch.no_grad():
            write("matching after regression", nets(at(noise, 0.0)), low=low)
    nets = matched(teacher, teacher)
    with torch.no_grad():
        write("matching", nets(at(noise, 0.0)))
        noises = torch.randn(12, PIXELS).half()
        pictures = nets(at(noises.float(), 0.0))[0].clamp(-1, 1)
    weights = {name: w[0].half() for name, w in teacher.named_parameters()}
    save_file({**{k.removeprefix("weights.").replace("/", "."): w.contiguous()
                  for k, w in weights.items()}, "noises": noises,
               "matching": ((pictures + 1) * 127.5).round().byte()},
              ZOO / "one_step.safetensors")  # fmt: skip
    made = {"date": time.strftime("%Y-%m-%d"), "torch": torch.__version__,
            "python": platform.python_version(),
            "cpu_seconds": round(time.process_time() - begun)}  # fmt: skip
    rows.append({"name": "made", **made})
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (ZOO / "one_step.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

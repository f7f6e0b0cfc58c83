"""The divergence at 128,000 tokens of vocabulary: ours, naive, and TRL's tiled kernel.

Bytes are counted by the allocator, so that they do not depend on the machine: the most that is
alive at once above the inputs, forward and backward, the head's gradient (which all must make)
included. Seconds are those of the processor, in pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from .side_by_side import Result, compare

VOCABULARY, WIDTH = 128_000, 64
POSITIONS = {512: 20.0, 2048: 80.0}  # and how many times less memory than naive is wanted
Job = Callable[[], object]


def peak_bytes(job: Job) -> int:
    """The most bytes that a job has alive at once, by the events of torch's allocator."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        job()
    now = most = 0
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def jobs(positions: int) -> dict[str, Job]:
    """Loss and gradients from the same hidden states and heads, three ways."""
    from trl.trainer.distillation_trainer import _chunked_divergence_loss as tiled

    from distill_lib.losses import fused_divergence

    torch.manual_seed(0)
    h, taught = torch.randn(positions, WIDTH).requires_grad_(), torch.randn(positions, WIDTH)
    w, u = (torch.randn(VOCABULARY, WIDTH) / math.sqrt(WIDTH) for _ in range(2))
    w.requires_grad_()

    def graded(loss: Tensor) -> tuple[Tensor, ...]:
        return loss.detach(), *torch.autograd.grad(loss, (h, w))

    def naive() -> Any:
        log_q = F.log_softmax(h @ w.T, -1)
        with torch.no_grad():
            p = F.softmax(taught @ u.T, -1)
        return graded(F.kl_div(log_q, p, reduction="batchmean"))

    def ours() -> Any:
        sides: dict[str, Any] = {"student": h, "teacher": taught}
        sides |= {"student_head": w, "teacher_head": u}
        return graded(fused_divergence(**sides).mean())

    def trl() -> Any:
        ones = torch.ones(1, positions)
        return graded(tiled(h[None], taught[None], w, u, ones, 0.0)[0])

    return {"naive": naive, "ours": ours, "trl": trl}


def _same(one: Any, other: Any) -> None:
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


def memory(positions: int, peer: str) -> Result:
    """The bytes of ours against a peer's, once both have been seen to give the same."""
    found = jobs(positions)
    _same(found["ours"](), found[peer]())
    ours, theirs = (peak_bytes(found[who]) / 2**20 for who in ("ours", peer))
    bound = POSITIONS[positions] if peer == "naive" else 1.0
    name = _name("memory", positions, peer)
    return Result(name, theirs / ours, ours, theirs, _version(peer), "MiB", bound)


def seconds(positions: int, peer: str) -> Result:
    """The seconds of ours against a peer's, in pairs."""
    found = jobs(positions)
    name = _name("time", positions, peer)
    return compare(name, found["ours"], found[peer], version=_version(peer), bound=1.0)


def _name(what: str, positions: int, peer: str) -> str:
    return f"fused KL, {positions:,} × {VOCABULARY:,}, {what} of {peer}"


def _version(peer: str) -> str:
    return f"TRL {version('trl')}" if peer == "trl" else f"torch {version('torch')}"


def _job(measure: Callable[[int, str], Result], positions: int, peer: str) -> Callable[[], Result]:
    def job() -> Result:
        return measure(positions, peer)

    job.__name__ = f"vocabulary_{measure.__name__}_{positions}_{peer}"
    return job


ALL = [
    _job(measure, positions, peer)
    for measure in (memory, seconds)
    for positions in POSITIONS
    for peer in ("naive", "trl")
]

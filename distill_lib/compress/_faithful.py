"""Whether an exported model says what the model says, at every size that was asked for.

A trace knows one example. What a model decides by a size, torch takes as it is there: a size of 1
against others without a word, any other decision as a guard, which ONNX cannot hold.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .runtime import ExportError

__all__ = ["check_answers", "check_sizes", "difference"]

MOST = 2**28  # numbers in an input: no size beyond is tried, which would take gigabytes
Inputs = Mapping[str, Tensor]
Answers = tuple[Tensor, ...]


def sized(inputs: Inputs, sizes: Mapping[int, int]) -> dict[str, Tensor]:
    """The inputs with so many entries along these axes: the first ones, repeated as needed.

    One alone is that with the fewest zeros in ids and masks: zeros are padding, and nobody asks
    about nothing else.
    """
    found = dict(inputs)
    for axis, size in sizes.items():
        having = {k: v for k, v in found.items() if v.ndim > axis}
        full: dict[int, Tensor] = {}
        for v in having.values():
            old = v.shape[axis]
            known = full.setdefault(old, torch.zeros(old, dtype=torch.long, device=v.device))
            if not (v.is_floating_point() or v.is_complex()):
                known += (v != 0).movedim(axis, 0).reshape(old, -1).sum(1).to(known.device)
        for name, v in having.items():
            old = v.shape[axis]
            order = full[old].argmax()[None] if size == 1 else torch.arange(size) % old
            found[name] = v.index_select(axis, order.to(v.device))
    return found


def _answers(model: Callable[..., Any], inputs: Inputs) -> Answers:
    """What it says on the CPU, with the same random numbers for whoever is asked."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return tuple(one.detach().cpu() for one in model(*inputs.values()))


def _model_at(model: nn.Module, inputs: Inputs, sizes: Mapping[int, int]) -> Any:
    """The inputs of these sizes and the model's answers; None where it has none itself."""
    largest = max((v.numel() // v.shape[a] * n for a, n in sizes.items()
                   for v in inputs.values() if v.ndim > a), default=0)  # fmt: skip
    if largest > MOST:
        return None
    try:
        given = sized(inputs, sizes)
        return given, _answers(model, given)
    except Exception:  # a table of 512 positions, a reshape: such sizes are not the model's
        return None


def _told(sizes: Mapping[int, int], axes: Mapping[int, str]) -> str:
    return " and ".join(f"{axes[axis]} is {size}" for axis, size in sizes.items())


def _way_out(sizes: Mapping[int, int]) -> str:
    named = " and ".join(map(str, sizes))
    return (
        f"the model decides by that size. Let it treat all sizes alike, or leave {named} out of "
        "dynamic=, for a file of the example's size alone"
    )


# ---- sizes ----


def _guards(program: Any, inputs: Inputs, axes: Mapping[int, str]) -> Callable[[Inputs], bool]:
    """Whether a program was traced for inputs of given sizes."""
    entering = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"]
    entering = entering[len(entering) - len(inputs) :]  # weights come before
    bounds = [
        (place, axis, found)
        for place, value in enumerate(entering)
        for axis in axes
        if axis < value.ndim and isinstance(value.shape[axis], torch.SymInt)
        if (found := program.range_constraints.get(value.shape[axis].node.expr)) is not None
    ]
    # torch's own words about a model that it has just traced; nothing of a file comes here
    codes = [compile(code, "guard", "eval") for code in getattr(program, "_guards_code", ())]

    def holds(code: Any, given: Sequence[Tensor]) -> bool:
        try:
            return bool(eval(code, {"L": {"values": given}, "torch": torch}))
        except Exception:  # a division by a size that is there zero
            return False

    def kept(given: Inputs) -> bool:
        values = tuple(given.values())
        within = all(bool(v.upper >= values[place].shape[axis]) for place, axis, v in bounds)
        return within and all(holds(code, values) for code in codes)

    # what does not hold for the example is written in a way that cannot be read here
    codes = [code for code in codes if holds(code, tuple(inputs.values()))]
    return kept


def _tried(program: Any, inputs: Inputs, axes: Mapping[int, str]) -> Iterator[dict[int, int]]:
    """Small sizes, and those around numbers in guards and ranges, of each axis alone and of all."""
    text = f"{program.range_constraints} {getattr(program, '_guards_code', ())}"
    numbers = {int(one) for one in re.findall(r"\b\d{1,9}\b", text)}
    numbers |= {v.shape[a] for a in axes for v in inputs.values() if v.ndim > a}
    around = {n + step for n in numbers for step in (-1, 0, 1)}
    for size in sorted({*range(1, 65), *around} - {-1, 0}):
        yield from ({axis: size} for axis in axes)
        if len(axes) > 1:
            yield dict.fromkeys(axes, size)


def check_sizes(model: nn.Module, program: Any, inputs: Inputs, axes: Mapping[int, str]) -> None:
    """Refuse a program of fewer sizes than the model answers.

    Raises:
        ExportError: names the axis and the size.
    """
    kept = _guards(program, inputs, axes)
    for sizes in _tried(program, inputs, axes):
        shapes = {
            name: torch.empty([sizes.get(axis, n) for axis, n in enumerate(v.shape)], device="meta")
            for name, v in inputs.items()
        }
        if not kept(shapes) and _model_at(model, inputs, sizes) is not None:
            raise ExportError(
                f"the program would not hold where {_told(sizes, axes)}, and the model answers "
                f"there: {_way_out(sizes)}"
            )


# ---- answers ----


def difference(mine: Tensor, theirs: Tensor, tolerance: float) -> str:
    """How an answer differs from the model's; empty where it does not.

    Infinities and nan are the same where they are in both, whole numbers and yes or no exactly.
    """
    if mine.shape != theirs.shape:
        return f"has the shape {list(theirs.shape)}, not {list(mine.shape)}"
    if not (mine.is_floating_point() or mine.is_complex()):
        wrong = int((mine != theirs).sum())
        return f"is another one in {wrong} of {mine.numel()} places" if wrong else ""
    if theirs.is_floating_point() != mine.is_floating_point():
        return f"is of {theirs.dtype}, not {mine.dtype}"
    wide = torch.complex128 if mine.is_complex() else torch.float64
    least = torch.finfo(mine.dtype).max / 2  # masks are as large as the type allows, or infinite
    mine, theirs = mine.to(wide), theirs.to(wide)
    same = (mine == theirs) | (mine.isnan() & theirs.isnan())
    none = mine.new_zeros(1).abs()
    gap = torch.cat([none, (mine - theirs).abs()[~same]]).max().item()  # nan if one of them is
    scale = torch.cat([none, mine.abs()[mine.abs() < least]]).max().item()
    if not gap <= tolerance * max(1.0, scale):
        return f"is off by {gap:.2g}, more than {tolerance:g}"
    return ""


def check_answers(
    model: nn.Module,
    file: Callable[..., Sequence[Tensor]],
    inputs: Inputs,
    axes: Mapping[int, str],
    tolerance: float,
    whose: str,
) -> None:
    """Ask both for the example, for one more along the axes, and for one alone.

    Raises:
        ExportError: other answers, or none where the model has one; says at which size.
    """
    more = {a: max(v.shape[a] for v in inputs.values() if v.ndim > a) + 1 for a in axes}
    alone = [{axis: 1} for axis in axes]
    every = [dict.fromkeys(axes, 1)] if len(axes) > 1 else []
    for sizes in ({}, *([more] if axes else []), *alone, *every):
        asked = _model_at(model, inputs, sizes) if sizes else (inputs, _answers(model, inputs))
        if asked is None:
            continue
        given, expected = asked
        where = f" where {_told(sizes, axes)}: {_way_out(sizes)}" if sizes else ""
        try:
            said = _answers(file, given)
        except Exception as error:  # of many classes, each its own
            if not sizes:
                raise
            reason = (str(error).strip().splitlines() or [""])[0][:200]
            raise ExportError(
                f"{whose} answers cannot be had{where} ({type(error).__name__}: {reason})"
            ) from error
        for name, one, other in zip(model.outputs, expected, said, strict=True):  # type: ignore[arg-type]
            if far := difference(one, other, tolerance):
                raise ExportError(f"{whose} {name} {far}{where}")

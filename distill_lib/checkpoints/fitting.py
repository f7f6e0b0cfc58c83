"""Whether the tensors of a file can be put into a model: their kinds, numbers and names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

__all__ = ["Shapes", "holds", "is_alike", "misfit", "of_one_weight", "prefix_of"]

Shapes = Mapping[str, Sequence[int]]


def misfit(found: Shapes, wanted: Shapes) -> str:
    """Which weights are missing, unexpected or of another shape, in words; "" for none."""
    faults = {
        "missing": sorted(wanted.keys() - found.keys()),
        "unexpected": sorted(found.keys() - wanted.keys()),
        "shapes differ": [
            f"{k}: {tuple(found[k])} where the model has {tuple(wanted[k])}"
            for k in sorted(wanted.keys() & found.keys())
            if tuple(found[k]) != tuple(wanted[k])
        ],
    }
    return "; ".join(
        f"{what}: {', '.join(names[:8])}{', …' * (len(names) > 8)}"
        for what, names in faults.items()
        if names
    )


def prefix_of(found: Shapes, wanted: Shapes) -> str:
    """What stands before the names of all weights that fit, such as ``module``; "" for nothing."""
    shapes = {k: tuple(v) for k, v in wanted.items()}
    for start in sorted({name.partition(".")[0] for name in found}):
        under = {k.partition(".")[2]: v for k, v in found.items() if k.startswith(f"{start}.")}
        if under and {k: tuple(v) for k, v in under.items()} == shapes:
            return start
    return ""


def is_alike(found: Tensor, wanted: Tensor) -> bool:
    """Whether numbers can be copied from one to the other."""
    kinds = [(one.layout, one.is_quantized, one.is_complex()) for one in (found, wanted)]
    if kinds[0] != kinds[1] or (found.is_meta and not wanted.is_meta):
        return False
    if found.dtype != wanted.dtype:  # some types are for storage alone
        try:
            torch.empty(1, dtype=wanted.dtype).copy_(torch.empty(1, dtype=found.dtype))
        except RuntimeError:
            return False
    return True


def holds(wanted: torch.dtype, found: Tensor) -> bool:
    """Whether a type holds the numbers of a tensor: rounded, but neither infinite nor others."""
    if found.dtype == wanted or found.is_meta or found.layout != torch.strided:
        return True
    wider = found.is_floating_point() and wanted in (torch.float32, torch.float64)
    if found.is_quantized or (wider and found.dtype != torch.float64):
        return True
    cast = found.to(wanted)
    if wanted.is_floating_point or wanted.is_complex:
        wide = torch.complex128 if wanted.is_complex else torch.float64
        return torch.equal(cast.to(wide).isfinite(), found.to(wide).isfinite())
    # there and back a number may go round: 200 of uint8 is -56 of int8, and 200 again
    signs = [(x.double() < 0) for x in (cast, found)]
    return torch.equal(cast.to(found.dtype), found) and torch.equal(*signs)


def of_one_weight(
    tensors: Mapping[str, Tensor], same: Mapping[str, str]
) -> tuple[dict[str, Tensor], tuple[str, str] | None]:
    """The tensors of a file under all names that a model has for them.

    Args:
        tensors: By name; of a weight with two names, a file may hold one.
        same: From each later name of a weight to its first, as ``ties`` has it.

    Returns:
        The tensors, and two names of one weight that have two values, if there are such.
    """
    found = dict(tensors)
    for name, first in same.items():
        if name in found:
            found.setdefault(first, found[name])
    for name, first in same.items():
        if first in found and not _equal(found.setdefault(name, found[first]), found[first]):
            return found, (first, name)
    return found, None


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether each bit is the same, as far as it can be told."""
    plain = all(x.layout == torch.strided and not x.is_quantized for x in (one, other))
    if one is other or not plain or one.is_meta or one.shape != other.shape:
        return True  # unlike shapes are told with all others
    flat = [x.detach().resolve_conj().resolve_neg().contiguous().view(-1) for x in (one, other)]
    return one.dtype == other.dtype and torch.equal(*(x.view(torch.uint8) for x in flat))

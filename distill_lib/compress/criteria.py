"""Which weights go: masks, from what each weight is worth.

A mask by itself makes no file smaller and no network faster; :func:`save_packed` writes a pruned
network small, and :func:`prune_channels` makes a network that is really smaller.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distill_lib.arguments import check_numbers, checked, told
from distill_lib.signals import Forward, as_batch, call, eval_mode, place, suggest

from ._inputs import called, watched
from ._layers import TABLES, check_scores, check_share, patches, users_of, weights_of
from .rounding import wide

__all__ = ["Masks", "magnitude", "mask_lowest", "random", "two_four", "wanda"]

SCOPES = ("global", "layer", "row", "2:4")


class Masks(dict[str, Tensor]):
    """Which weights are kept: from the name of a parameter to booleans in its shape.

    A weight that several layers use has one mask, under its first name.

    Example:
        >>> net = nn.Linear(8, 2)
        >>> masks = magnitude(net, 0.75)
        >>> masks, masks.apply(net).weight.count_nonzero().item()
        (Masks(1 weight, 75.0 % removed), 4)
    """

    @property
    def sparsity(self) -> float:
        """The share of the weights that is removed; of no weights, none."""
        kept = sum(int(mask.sum()) for mask in self.values())
        total = sum(mask.numel() for mask in self.values())
        return 1 - kept / total if total else 0.0

    @checked
    @torch.no_grad()
    def apply(self, model: nn.Module) -> nn.Module:
        """Set the removed weights to zero, in place.

        Raises:
            KeyError: the model lacks a parameter of the masks.
            TypeError: a mask that is no tensor of booleans.
            ValueError: a parameter of another shape. The model is then as it was.
        """
        for param, mask in self.of(model).values():
            # filled, not multiplied: a product with a negative weight would leave -0.0
            param.masked_fill_(~mask.to(param.device), 0.0)
        return model

    @checked
    def of(self, model: nn.Module) -> dict[str, tuple[nn.Parameter, Tensor]]:
        """The parameters of the masks, each with its mask, by the names that the masks use.

        Raises:
            KeyError: the model lacks a parameter of the masks.
            TypeError: a mask that is no tensor of booleans.
            ValueError: a parameter of another shape.
        """
        known = dict(model.named_parameters(remove_duplicate=False))
        for name, mask in self.items():
            if name not in known:
                raise KeyError(
                    f"the masks are of another model: this one has no {name!r}."
                    f"{suggest(name, known)}"
                )
            if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
                raise TypeError(
                    f"the mask of {name!r} expected booleans, true for what is kept (mask.bool()), "
                    f"got {told(mask)}"
                )
            if known[name].shape != mask.shape:
                raise ValueError(
                    f"the mask of {name!r} has shape {tuple(mask.shape)}, the parameter "
                    f"{tuple(known[name].shape)}: they are of different models"
                )
        return {name: (known[name], mask) for name, mask in self.items()}

    def __repr__(self) -> str:
        s = "" if len(self) == 1 else "s"
        return f"Masks({len(self)} weight{s}, {self.sparsity:.1%} removed)".replace("%", " %")


@checked
def mask_lowest(scores: Mapping[str, Tensor], sparsity: float, scope: str = "global") -> Masks:
    r"""Remove the weights with the lowest scores.

    .. math:: m_i = \mathbf 1[s_i > s_{(k)}], \qquad k = \mathrm{round}(\text{sparsity} \cdot n)

    With :math:`s = w^2` it is the Euclidean projection on the vectors with at most :math:`n - k`
    entries; with :math:`\tfrac12 H_{ii} w_i^2` it is optimal brain damage.

    Args:
        scores: What each weight is worth, by name, in the shape of the weight.
        sparsity: Share to remove, in (0, 1).
        scope: Where weights compete: in the whole network (``global``), their ``layer``, their
            ``row`` (one output), or in fours of neighboring inputs, of which two go (``2:4``).

    Returns:
        The masks. For ``2:4``, weights whose inputs are no multiple of four are left out.

    Raises:
        ValueError: a sparsity outside (0, 1), an unknown scope, scores that are not finite.

    Reference:
        LeCun et al., *Optimal brain damage*, 1990.

    Example:
        >>> mask_lowest({"w": torch.tensor([[1.0, 3.0, 2.0, 4.0]])}, 0.5)["w"]
        tensor([[False,  True, False,  True]])
    """
    check_share(sparsity, "sparsity")
    if scope not in SCOPES:
        raise ValueError(f"scope is one of {', '.join(SCOPES)}, got {scope!r}")
    if scope == "2:4" and sparsity != 0.5:
        raise ValueError(f"2:4 removes one half, so sparsity is 0.5, got {sparsity:g}")
    if not scores:
        raise ValueError("scores expected one weight at least, got an empty mapping")
    for name, score in scores.items():
        check_numbers(f"the scores of {name!r}", score)
        if scope == "row" and not score.ndim:
            raise ValueError(f"the scores of {name!r} expected rows, got a single number")
        check_scores(repr(name), score)
    if scope == "global":
        flat = torch.cat([score.detach().flatten() for score in scores.values()])
        kept = torch.split(_highest(flat[None], sparsity)[0], [s.numel() for s in scores.values()])
        return Masks({n: m.view_as(s) for (n, s), m in zip(scores.items(), kept, strict=True)})
    if scope == "2:4":
        fours = {n: s for n, s in scores.items() if s.ndim > 1 and s.shape[1] % 4 == 0}
        if not fours:
            raise ValueError("no weight has a multiple of four inputs: 2:4 does not apply")
        return Masks({name: _two_of_four(score.detach()) for name, score in fours.items()})
    rows = {n: s.detach().reshape(len(s) if scope == "row" else 1, -1) for n, s in scores.items()}
    return Masks({n: _highest(rows[n], sparsity).view_as(s) for n, s in scores.items()})


def _highest(scores: Tensor, sparsity: float) -> Tensor:
    """[R, n] booleans: in each row all but the lowest; ties go by position, so counts are exact."""
    k = round(sparsity * scores.shape[1])
    lowest = scores.argsort(dim=1, stable=True)[:, :k]
    return torch.ones_like(scores, dtype=torch.bool).scatter_(1, lowest, False)


def _two_of_four(scores: Tensor) -> Tensor:
    """In each four inputs of one output, at one place of the kernel, the higher two."""
    last = scores.movedim(1, -1)
    kept = _highest(last.reshape(-1, 4), 0.5)
    return kept.view(last.shape).movedim(-1, 1).contiguous()


@checked
def magnitude(
    model: nn.Module,
    sparsity: float,
    scope: str = "global",
    layers: Sequence[str] | None = None,
) -> Masks:
    """Remove the smallest weights of the linear layers and convolutions.

    Args:
        model: Any module; it is not changed.
        sparsity: Share to remove, in (0, 1).
        scope: As in :func:`mask_lowest`.
        layers: Names of modules; all by default.

    Reference:
        Han et al., *Learning both weights and connections*, 2015.

    Example:
        >>> round(magnitude(nn.Linear(10, 10), 0.9).sparsity, 3)
        0.9
    """
    weights = weights_of(model, layers, "magnitude")
    return mask_lowest({n: w.detach().abs() for n, w in weights.items()}, sparsity, scope)


@checked
def two_four(model: nn.Module, layers: Sequence[str] | None = None) -> Masks:
    """Remove the smaller two of each four neighboring inputs: the pattern that GPUs speed up.

    Reference:
        Mishra et al., *Accelerating sparse deep neural networks*, 2021.

    Example:
        >>> two_four(nn.Linear(8, 2))["weight"].sum(1)
        tensor([4, 4])
    """
    return magnitude(model, 0.5, "2:4", layers)


@checked
def random(
    model: nn.Module,
    sparsity: float,
    scope: str = "global",
    layers: Sequence[str] | None = None,
    generator: torch.Generator | None = None,
) -> Masks:
    """Remove weights by lot: what every other criterion has to beat."""
    scores = {
        name: torch.rand(weight.shape, generator=generator)
        for name, weight in weights_of(model, layers, "random").items()
    }
    return mask_lowest(scores, sparsity, scope)


@checked
def wanda(
    model: nn.Module,
    batches: Iterable[Any],
    sparsity: float,
    scope: str = "row",
    layers: Sequence[str] | None = None,
    forward: Forward | None = None,
) -> Masks:
    r"""Remove the weights whose size times the size of their input is smallest.

    .. math:: s_{ij} = |w_{ij}| \cdot \lVert x_j \rVert_2

    It is optimal brain damage for the squared error of each layer's output; of a weight that
    several layers use, for the sum of their errors.

    Args:
        model: Any module; it is asked in eval mode and not changed.
        batches: Inputs like those that the model will see.
        sparsity: Share to remove, in (0, 1).
        scope: As in :func:`mask_lowest`.
        layers: Names of modules; all linear layers and 2D convolutions by default.
        forward: ``forward(model, batch)``, as in :func:`distill_lib.distill`.

    Raises:
        ValueError: no batches, batches or weights that are not finite, or a layer that saw none
            of them.

    Reference:
        Sun et al., *A simple and effective pruning approach for large language models*, 2024.
    """
    weights = weights_of(model, layers, "wanda")
    squares = _input_squares(model, batches, list(weights), forward)
    scores = {}
    for name, weight in weights.items():
        if name not in squares:
            layer = called(name.rpartition(".")[0])
            raise ValueError(f"{layer} saw none of the batches: leave it out with layers=")
        size = wide(weight.detach()).abs()
        scores[name] = size * squares[name].sqrt().to(size)
    return mask_lowest(scores, sparsity, scope)


@torch.no_grad()
def _input_squares(
    model: nn.Module,
    batches: Iterable[Any],
    names: Sequence[str],
    forward: Forward | None,
) -> dict[str, Tensor]:
    """The sum of squares of what each weight is multiplied by, in a shape that spreads over it."""
    sums: dict[str, Tensor] = {}

    def see(weight: str, name: str, module: nn.Module, x: Tensor) -> None:
        if isinstance(module, nn.Linear):
            found = x.double().flatten(0, -2).square().sum(0)
        elif isinstance(module, TABLES):  # its input is one-hot
            found = x.flatten().bincount(minlength=module.num_embeddings).double()[:, None]
        elif isinstance(module, nn.Conv2d):
            found = patches(module, x.double()).square().sum((0, 2)).view(module.groups, 1, -1)
            found = found.expand(-1, module.out_channels // module.groups, -1)
            found = found.reshape(module.weight.shape)
        else:
            raise ValueError(f"wanda knows linear layers and 2D convolutions; {name!r} is neither")
        sums[weight] = sums[weight] + found if weight in sums else found

    users = [(weight, *user) for weight in names for user in users_of(model, weight)]
    with eval_mode([model]), watched(users, see):
        for batch in batches:
            call(model, place(as_batch(batch), model), forward)
    return sums

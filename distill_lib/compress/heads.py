"""Attention heads and hidden units of a BERT, taken out layer by layer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from distill_lib.arguments import checked, told
from distill_lib.signals import as_batch, eval_mode, place, suggest
from distill_lib.ties import copied, memory, readers

from ._inputs import input_of, with_input
from ._layers import check_scores, check_share
from .plans import Plan, follow, plan_of

__all__ = ["prune_transformer", "unit_scores"]

HEADS, UNITS = (
    "attention.output.dense",
    "output.dense",
)  # what reads the heads, and the hidden units


def _blocks(model: nn.Module) -> dict[str, nn.Module]:
    """The layers of a BERT, by name."""
    wanted = ("attention.self.query", HEADS, "intermediate.dense", UNITS)
    known = dict(model.named_modules())
    found = {n: m for n, m in known.items() if all(f"{n}.{part}" in known for part in wanted)}
    if not found:
        raise ValueError(
            f"expected layers as in BERT, with {', '.join(wanted)}; {type(model).__name__} has none"
        )
    return found


@checked
def unit_scores(
    model: nn.Module, batches: Iterable[Any], loss: Callable[[nn.Module, Any], Tensor]
) -> dict[str, Tensor]:
    r"""How much the loss would change without each head and each hidden unit, to first order.

    .. math:: I_j = \sum_{i} \left| \sum_{d \in j} x_{id}
       \frac{\partial L}{\partial x_{id}} \right|

    over the positions i of all batches and the coordinates d of a head or unit j.

    Args:
        model: A BERT; it is asked in eval mode and not changed. Its weights may be frozen, as those
            of a teacher are.
        batches: Batches as :func:`distill_lib.distill` takes them.
        loss: ``loss(model, batch)``, a scalar that depends on the model's answer.

    Returns:
        Scores [H] of heads and [F] of hidden units, by the linear layer that reads them.

    Raises:
        ValueError: a model of other layers, no batches, batches or weights that are not finite, or
            a loss that no gradient comes from.

    Reference:
        Michel et al., *Are sixteen heads really better than one?*, 2019.
    """
    read: list[tuple[str, int, Tensor]] = []

    def watch(name: str, groups: int) -> Callable[..., Any]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            x = input_of(args, kwargs)
            # of a frozen model, the first to be read is where gradients begin
            x = x if x.requires_grad else x.detach().requires_grad_()
            read.append((name, groups, x))
            return with_input(args, kwargs, x)

        return hook

    handles = []
    for name, block in _blocks(model).items():
        heads = _heads(block)
        for part, groups in ((HEADS, heads), (UNITS, _linear(block, UNITS).in_features)):
            hook = watch(f"{name}.{part}", groups)
            handles.append(
                block.get_submodule(part).register_forward_pre_hook(hook, with_kwargs=True)
            )
    sums: dict[str, Tensor] = {}
    try:
        with eval_mode([model]), torch.enable_grad():
            for batch in batches:
                read.clear()
                value = loss(model, place(as_batch(batch), model))
                if not isinstance(value, Tensor) or value.numel() != 1:
                    raise TypeError(f"loss expected to return a scalar tensor, got {told(value)}")
                if not value.requires_grad:
                    raise ValueError("the loss has no gradient: was the model asked in no_grad()?")
                found = torch.autograd.grad(value, [x for *_, x in read], allow_unused=True)
                for (name, groups, x), gradient in zip(read, found, strict=True):
                    if gradient is None:
                        continue  # the loss does not depend on this layer
                    parts = (x.detach() * gradient).view(*x.shape[:-1], groups, -1).sum(-1)
                    worth = parts.abs().flatten(0, -2).sum(0)
                    sums[name] = sums[name] + worth if name in sums else worth
    finally:
        for handle in handles:
            handle.remove()
    if not sums:
        raise ValueError("batches is empty: there is nothing to score from")
    for name, worth in sums.items():
        check_scores(repr(name), worth)
    return sums


def _heads(block: nn.Module) -> int:
    return int(block.get_submodule("attention.self").num_attention_heads)  # type: ignore[arg-type]


@checked
@torch.no_grad()
def prune_transformer(
    model: nn.Module,
    heads: float = 0.0,
    ffn: float = 0.0,
    scores: Mapping[str, Tensor] | None = None,
) -> Plan:
    """Take heads and hidden units out of each layer of a BERT, in place.

    Its parameters are new ones, so make optimizers afterwards. The width of the hidden states stays
    as it is, since every layer adds to them. With units alone taken out, ``model.config`` says the
    new number, and ``save_pretrained`` and ``from_pretrained`` work as before. A layer with fewer
    heads of the same size has no configuration: use :func:`save_pruned` and :func:`load_pruned`.

    Args:
        model: A model with layers as in BERT, of 🤗 transformers.
        heads: Share of each layer's heads to take out, in [0, 1); at least one is left.
        ffn: Share of each layer's hidden units to take out, in [0, 1).
        scores: What they are worth, as :func:`unit_scores` gives it; by default, and for layers
            without scores, the norms of the weights that make and read them.

    Returns:
        The plan, for :func:`save_pruned`.

    Raises:
        KeyError: scores of a layer that the model does not have.
        ValueError: shares outside their range, both zero, a model of other layers, scores that are
            not finite or not one a head or unit, or a weight that several layers use and would cut
            differently. The model is then as it was.
    """
    for share, name in ((heads, "heads"), (ffn, "ffn")):
        if share:
            check_share(share, name)
    if not heads and not ffn:
        raise ValueError("expected a share of heads or of hidden units to take out, got none")
    scores = {} if scores is None else _checked_scores(model, scores)
    before, cuts = copied(model), _Cuts(model)
    for name, block in _blocks(model).items():
        if heads:
            _plan_heads(cuts, block, heads, scores.get(f"{name}.{HEADS}"))
        if ffn:
            made, reads = _linear(block, "intermediate.dense"), _linear(block, UNITS)
            worth = scores.get(f"{name}.{UNITS}")
            left = _best(_norms(made, reads) if worth is None else worth, ffn)
            cuts.add(made, 0, left)
            cuts.add(reads, 1, left)
    cuts.make()
    for block in _blocks(model).values() if heads else ():
        # what the attention remembers of its own size
        attention, size = block.get_submodule("attention.self"), _linear(block, HEADS).in_features
        per_head = attention.all_head_size // attention.num_attention_heads  # type: ignore[operator]
        attention.num_attention_heads = size // per_head
        attention.all_head_size = size  # type: ignore[assignment]
    follow(model)
    return plan_of(before, model)


def _checked_scores(model: nn.Module, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The scores, each of a layer of the model and one for each of its heads or units."""
    sizes = {}
    for name, block in _blocks(model).items():
        sizes[f"{name}.{HEADS}"] = _heads(block), "heads"
        sizes[f"{name}.{UNITS}"] = _linear(block, UNITS).in_features, "units"
    for name, worth in scores.items():
        if name not in sizes:
            raise KeyError(
                f"the model has no heads or units that {name!r} reads, which the scores name."
                f"{suggest(name, sizes)} Scores are by the names of the model that is cut: ask "
                "unit_scores about that one"
            )
        number, what = sizes[name]
        if worth.shape != (number,) or worth.is_complex():
            raise ValueError(
                f"the scores of {name!r} expected a number for each of its {number} {what}, "
                f"got {told(worth)}"
            )
        check_scores(repr(name), worth)
    return dict(scores)


class _Cuts:
    """Which rows (axis 0) and columns (axis 1) of linear layers stay, made all at once."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.left: dict[nn.Linear, dict[int, Tensor]] = defaultdict(dict)

    def add(self, layer: nn.Linear, axis: int, left: Tensor) -> None:
        self.left[layer][axis] = left

    def _of(self, param: Tensor, module: nn.Module) -> dict[int, list[int]]:
        cuts = self.left.get(module, {}) if isinstance(module, nn.Linear) else {}
        return {axis: left.tolist() for axis, left in cuts.items() if axis < param.ndim}

    def make(self) -> None:
        made: dict[Hashable, nn.Parameter] = {}
        for layer in self.left:
            for leaf, param in layer.named_parameters(recurse=False):
                for name, other, _ in readers(self.model, param):
                    if self._of(param, other) != self._of(param, layer):
                        raise ValueError(
                            f"the {leaf} of {name!r} is also another layer's, and the two would be "
                            "cut differently: give them equal scores, or each its own weight first"
                        )
        for layer, cuts in self.left.items():
            for leaf, param in list(layer.named_parameters(recurse=False)):
                if (new := made.get(memory(param))) is None:
                    cut: Tensor = param
                    for axis in self._of(param, layer):
                        cut = cut.index_select(axis, cuts[axis])
                    new = made[memory(param)] = nn.Parameter(cut, param.requires_grad)
                setattr(layer, leaf, new)
            layer.out_features, layer.in_features = layer.weight.shape


def _plan_heads(cuts: _Cuts, block: nn.Module, share: float, worth: Tensor | None) -> None:
    attention, reads = block.get_submodule("attention.self"), _linear(block, HEADS)
    made = [_linear(attention, part) for part in ("query", "key", "value")]
    number = _heads(block)
    if worth is None:
        worth = _norms(made[2], reads).view(number, -1).sum(1)
    left = _best(worth, share)
    size = reads.in_features // number
    rows = (left[:, None] * size + torch.arange(size, device=left.device)).flatten()
    for layer in made:
        cuts.add(layer, 0, rows)
    cuts.add(reads, 1, rows)


def _norms(made: nn.Linear, reads: nn.Linear) -> Tensor:
    """The norm of the weights that make a unit, times that of the weights that read it."""
    return (made.weight.square().sum(1) * reads.weight.square().sum(0)).sqrt()


def _best(worth: Tensor, share: float) -> Tensor:
    """The units that stay, in their order."""
    check_scores("heads or units, the norms of their weights,", worth)
    left = max(round((1 - share) * len(worth)), 1)
    return worth.topk(left).indices.sort().values


def _linear(block: nn.Module, name: str) -> nn.Linear:
    layer = block.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    return layer

"""One head on what several frozen models read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distill_lib.arguments import check_counts, checked, told

__all__ = ["Concatenate"]


@checked
class Concatenate(nn.Module):
    """A head trained on what the last layers of several frozen models read.

    Args:
        models: The models; they are shared, frozen, and stay in eval mode.
        heads: The name of the linear layer whose input is taken; one for all, or one a model.
        num_classes: Outputs of the new head.

    Raises:
        ValueError: no models, or a name that is no linear layer.

    Shape:
        The inputs of the models, to ``[B, num_classes]``. Each head reads [B, D], once a call;
        ``ValueError`` otherwise.

    Example:
        >>> nets = [nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)) for _ in range(2)]
        >>> joined = Concatenate(nets, heads="2", num_classes=3)
        >>> joined(torch.zeros(5, 4)).shape, sum(p.requires_grad for p in joined.parameters())
        (torch.Size([5, 3]), 2)
    """

    def __init__(
        self, models: Sequence[nn.Module], heads: str | Sequence[str], num_classes: int
    ) -> None:
        super().__init__()
        check_counts(num_classes=num_classes)
        names = [heads] * len(models) if isinstance(heads, str) else list(heads)
        if not models or len(names) != len(models):
            raise ValueError(f"expected a head for each model, got {len(names)} for {len(models)}")
        layers = [dict(m.named_modules()).get(n) for m, n in zip(models, names, strict=True)]
        for name, layer in zip(names, layers, strict=True):
            if not isinstance(layer, nn.Linear):
                raise ValueError(f"the head {name!r} is no linear layer of its model")
        self.models: nn.ModuleList = nn.ModuleList(models).requires_grad_(False)
        self.heads = names
        width = sum(layer.in_features for layer in layers if isinstance(layer, nn.Linear))
        # features of all models on one scale
        self.norm: nn.BatchNorm1d = nn.BatchNorm1d(width, affine=False)
        self.head: nn.Linear = nn.Linear(width, num_classes)
        self.train(self.training)

    def train(self, mode: bool = True) -> Concatenate:
        """Only the head is ever trained."""
        super().train(mode)
        self.models.eval()
        return self

    def features(self, *args: Any, **kwargs: Any) -> Tensor:
        """[B, D] what all heads read, side by side."""
        found: list[Tensor] = []
        for number, (model, name) in enumerate(zip(self.models, self.heads, strict=True)):
            read: list[Any] = []

            def keep(_: nn.Module, given: Any, named: Any, read: list[Any] = read) -> None:
                read.append(given[0] if given else named["input"])

            handle = model.get_submodule(name).register_forward_pre_hook(keep, with_kwargs=True)
            try:
                with torch.no_grad():
                    model(*args, **kwargs)
            finally:
                handle.remove()
            if len(read) != 1:
                raise ValueError(
                    f"the head {name!r} of model {number} was called {len(read)} times, and its "
                    "input is taken where it is called once: name a layer that is"
                )
            if read[0].ndim != 2 or (found and len(read[0]) != len(found[0])):
                others = f", as many as {told(found[0])} before it" if found else ""
                raise ValueError(
                    f"the head {name!r} of model {number} reads {told(read[0])}, expected features "
                    f"[B, D]{others}: name a layer that reads one vector an item, after pooling"
                )
            found.append(read[0].to(self.head.weight))
        return torch.cat(found, -1)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """[B, C] logits of the new head."""
        found = self.features(*args, **kwargs)
        if self.training and len(found) == 1:  # one item has no variance: scaled as in eval mode
            mean, var = self.norm.running_mean, self.norm.running_var
            scaled = nn.functional.batch_norm(found, mean, var, eps=self.norm.eps)
        else:
            scaled = self.norm(found)
        logits: Tensor = self.head(scaled)
        return logits

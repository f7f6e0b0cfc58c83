"""When weights go, and how they stay zero while the rest is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from distill_lib.arguments import checked
from distill_lib.checkpoints import Checkpoint
from distill_lib.schedules import Schedule

from ._layers import check_share
from .criteria import Masks, magnitude

__all__ = ["Pruned", "gradual", "rewind"]


@checked
def gradual(start: float, end: float, until: float = 1.0) -> Schedule:
    r"""The sparsity of gradual pruning: fast first, where removing is cheap, slow at the end.

    .. math:: f(s) = e + (b - e)\left(1 - \tfrac{s}{u}\right)^3

    Args:
        start: Sparsity :math:`b` at the beginning, in [0, 1).
        end: Sparsity :math:`e` from progress :math:`u` on, in (0, 1).
        until: :math:`u`, the progress at which the end is reached, in (0, 1].

    Raises:
        ValueError: ends outside their ranges.

    Reference:
        Zhu and Gupta, *To prune, or not to prune*, 2017.

    Example:
        >>> round(gradual(0.0, 0.8)(0.5), 6)
        0.7
    """
    check_share(end, "end")
    if not 0 <= start < 1 or not 0 < until <= 1:
        raise ValueError(f"start lies in [0, 1) and until in (0, 1], got {start:g} and {until:g}")

    def cubic(s: float) -> float:
        return end + (start - end) * (1 - min(s / until, 1.0)) ** 3

    return Schedule(cubic, f"{start:g}⤳{end:g}")


@checked
class Pruned:
    """Keeps removed weights at zero while something else trains the model.

    The masks are applied again after each step of whatever optimizer holds the weights, so that
    momentum and weight decay cannot bring them back, and their gradients are zero, so that they
    count neither in a clipped norm nor in momentum. Parameters keep their names.

    Args:
        model: The model that is trained.
        masks: Masks; or a schedule of sparsity such as :func:`gradual`, with which weights are
            removed while training runs.
        steps: Optimizer steps of the whole training, for a schedule.
        every: With a schedule, how many steps lie between two prunings.
        choose: With a schedule, ``choose(model, sparsity) -> Masks``.

    Raises:
        ValueError: a schedule without its number of steps.

    Example:
        >>> import torch
        >>> from distill_lib import KD, distill
        >>> net, batches = nn.Linear(4, 3), [{"inputs": torch.randn(8, 4)}] * 5
        >>> with Pruned(net, magnitude(net, 0.5)):
        ...     _ = distill(net, nn.Linear(4, 3), batches, KD(), epochs=2)
        >>> net.weight.count_nonzero().item()
        6
    """

    def __init__(
        self,
        model: nn.Module,
        masks: Masks | Schedule,
        *,
        steps: int | None = None,
        every: int = 10,
        choose: Callable[[nn.Module, float], Masks] = magnitude,
    ) -> None:
        self.model: nn.Module = model
        self.schedule: Schedule | None = masks if isinstance(masks, Schedule) else None
        self.masks: Masks = masks if isinstance(masks, Masks) else Masks()
        if self.schedule is not None and (steps is None or steps < 1 or every < 1):
            raise ValueError(
                f"a schedule of sparsity needs the steps of the training, got steps={steps} and "
                f"every={every}"
            )
        self.total: int | None = steps
        self.every: int = every
        self.choose: Callable[[nn.Module, float], Masks] = choose
        self.step: int = 0
        self._handles: list[Any] = []

    def __enter__(self) -> Pruned:
        self._params = dict(self.model.named_parameters(remove_duplicate=False))
        self._update()
        self._handles = [register_optimizer_step_post_hook(self._after_step)]
        for name, param in self._params.items():
            if param.requires_grad and (self.schedule is not None or name in self.masks):
                hook_on: Any = param.register_post_accumulate_grad_hook
                self._handles.append(hook_on(self._still(name)))
        return self

    def __exit__(self, *exception: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self.masks.apply(self.model)

    def _still(self, name: str) -> Callable[[Tensor], None]:
        def hook(param: Tensor) -> None:
            if name in self.masks and param.grad is not None:
                param.grad.masked_fill_(~self.masks[name].to(param.device), 0.0)

        return hook

    def _after_step(self, optimizer: Optimizer, *_: Any) -> None:
        mine = {id(param) for param in self._params.values()}
        if any(id(p) in mine for group in optimizer.param_groups for p in group["params"]):
            self.step += 1
            self._update()

    def _update(self) -> None:
        if self.schedule is not None:
            assert self.total is not None
            if self.step % self.every == 0 or self.step == self.total:
                sparsity = self.schedule(self.step / self.total)
                if 0 < sparsity < 1:
                    self.masks = self.choose(self.model, sparsity)
        self.masks.apply(self.model)


@checked
def rewind(model: nn.Module, early: Mapping[str, Tensor], masks: Masks) -> nn.Module:
    """Give a pruned network its early weights back: a lottery ticket.

    Args:
        model: The network, in place.
        early: The ``state_dict()`` of its start, or of an early step, as it was copied then.
        masks: What was kept at the end of the training.

    Reference:
        Frankle and Carbin, *The lottery ticket hypothesis*, 2019.

    Example:
        >>> net = nn.Linear(4, 2)
        >>> early = {k: v.clone() for k, v in net.state_dict().items()}
        >>> rewind(net, early, magnitude(net, 0.5)).weight.count_nonzero().item()
        4
    """
    Checkpoint("early", dict(early)).load_into(model)
    return masks.apply(model)

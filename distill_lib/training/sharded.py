"""Students whose weights are spread over the processes by ``fully_shard`` (FSDP2)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.optim import Optimizer as TorchOptimizer

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["gathered", "is_sharded", "laid_out", "ready", "reshard"]


def is_sharded(tensor: Any) -> bool:
    """Whether a tensor is a part of one that is spread over the processes."""
    return hasattr(tensor, "full_tensor")


def ready(
    accelerator: Accelerator, student: nn.Module, objective: nn.Module, teacher: Any, optimizer: Any
) -> bool:
    """Shard the student if the accelerator has a plugin for it; whether it is sharded.

    Raises:
        ValueError: what would be trained wrongly: parts that are sharded beside parts that are
            not, or a way to spread a model that :func:`distill_lib.distill` does not know.
    """
    kind = str(getattr(accelerator.distributed_type, "value", ""))
    fsdp2 = bool(getattr(accelerator, "is_fsdp2", False))
    if (kind == "FSDP" and not fsdp2) or _fsdp1(student):
        kind = "FSDP 1"
    if kind in ("DEEPSPEED", "MEGATRON_LM", "FSDP 1"):
        raise ValueError(
            f"distill trains under DDP and FSDP2, and this is {kind}: use "
            "FullyShardedDataParallelPlugin(fsdp_version=2), or torch's fully_shard(student)"
        )
    if fsdp2 and not any(map(is_sharded, student.parameters())):
        if isinstance(optimizer, TorchOptimizer):
            raise ValueError(
                "FSDP2 replaces the parameters that the optimizer holds; pass a function from "
                "parameters to an optimizer, such as lambda params: AdamW(params, lr=1e-3)"
            )
        from accelerate.utils.fsdp_utils import fsdp2_prepare_model

        fsdp2_prepare_model(accelerator, student)
    return _check(student, objective, teacher)


def _fsdp1(student: nn.Module) -> bool:
    return any(type(m).__name__ == "FullyShardedDataParallel" for m in student.modules())


def _check(student: nn.Module, objective: nn.Module, teacher: Any) -> bool:
    learned = {
        f"{whose}{name}": parameter
        for whose, model in (("", student), ("objective.", objective))
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    whole = [name for name, parameter in learned.items() if not is_sharded(parameter)]
    if len(whole) == len(learned):
        return False
    if whole:
        raise ValueError(
            f"the student is sharded, and {len(whole)} of {len(learned)} trained parameters are "
            f"not: {', '.join(whole[:6])}{', …' if len(whole) > 6 else ''}. Their gradients would "
            "not be averaged over the processes: fully_shard them too, projectors as "
            "fully_shard(project)"
        )
    from torch.distributed.fsdp import FSDPModule

    if not any(isinstance(part, FSDPModule) for part in student.modules()):
        raise ValueError(
            "the student is spread over the processes, and not by fully_shard (tensor parallel?): "
            "its gradients would not be averaged over them; wrap it by fully_shard as well"
        )
    average = getattr(teacher, "model", None) if hasattr(teacher, "update") else None
    if average is not None and not all(map(is_sharded, average.parameters())):
        raise ValueError(
            "the student is sharded and its average is not: make EMA(student, decay) of the whole "
            "student, then fully_shard(ema.model) in the same way as the student"
        )
    return True


def reshard(model: nn.Module) -> None:
    """Give back the whole weights that a pass without a gradient left in place."""
    for part in model.modules():
        if callable(again := getattr(part, "reshard", None)):
            again()


def gathered(state: Any) -> Any:
    """A state with whole tensors, for which all processes have to ask."""
    if is_sharded(state):
        return state.full_tensor().cpu()
    if isinstance(state, dict):
        state = copy.copy(state)  # with what else a state_dict carries
        state.update({key: gathered(value) for key, value in state.items()})
    elif isinstance(state, list):
        state = [gathered(value) for value in state]
    return state


def laid_out(part: Any, state: Mapping[str, Any]) -> None:
    """``part.load_state_dict(state)``, of whole tensors also where the part's own are sharded."""
    if isinstance(part, TorchOptimizer):
        part.load_state_dict(dict(state))
        for parameter, held in part.state.items():
            for key, value in held.items():
                held[key] = _like(value, parameter)
        return
    own = part.state_dict()
    if any(map(is_sharded, own.values())):
        state = {key: _like(value, own.get(key)) for key, value in state.items()}
    part.load_state_dict(state)


def _like(value: Any, own: Any) -> Any:
    if not (is_sharded(own) and isinstance(value, Tensor) and value.shape == own.shape):
        return value
    if is_sharded(value) or value.ndim == 0:
        return value
    from torch.distributed.tensor import distribute_tensor

    # every process has read the file: nothing needs to be sent
    return distribute_tensor(
        value.to(own.device), own.device_mesh, own.placements, src_data_rank=None
    )

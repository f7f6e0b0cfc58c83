"""Teachers and students across frameworks: what one says, as the other's arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import torch
from torch import Tensor, nn

from distill_lib.arguments import checked, told
from distill_lib.signals import Batch, Signals, as_batch
from distill_lib.teachers.live import Source, Teacher

from .writes import check_arrays, named

__all__ = ["JaxTeacher", "targets"]


@checked
def targets(teacher: Source | nn.Module, batch: Batch) -> dict[str, Any]:
    """What a teacher of ours says of a batch, as arrays of NumPy, for a student in JAX.

    From a :class:`distill_lib.Cache`, rows on disk by ``batch["index"]``: with targets that were
    cached, a student in JAX never runs PyTorch. From a live teacher, its answers to the inputs.

    Args:
        teacher: Any teacher, or a module that becomes one.
        batch: A mapping or a pair, of arrays of NumPy or JAX, or tensors, also inside mappings.

    Returns:
        Signals by name; half precision that NumPy lacks (bfloat16) as float32.

    Raises:
        CacheError: see :class:`distill_lib.Cache`.

    Example:
        >>> said = targets(nn.Linear(3, 2), {"inputs": np.zeros((4, 3), np.float32)})
        >>> said["logits"].shape
        (4, 2)
    """
    source = Teacher(teacher) if isinstance(teacher, nn.Module) else teacher
    said = source({key: jax.tree.map(_tensor, value) for key, value in as_batch(batch).items()})
    found = {"logits": said} if isinstance(said, Tensor) else dict(said)
    arrays: dict[str, Any] = jax.tree.map(_array, found)
    return arrays


class JaxTeacher:
    """A function of JAX that teaches students in PyTorch: in a loop, an ensemble, or a cache.

    The function is compiled once for each shape of its inputs. What it sees are the batch's inputs
    as they are: of images it may have to move the channels last.

    Args:
        function: ``function(params, inputs)``: an array of logits, or a mapping of names to arrays,
            or to tuples and mappings of them.
        params: A tree of arrays. They are kept as copies, so that no training that donates its
            buffers takes them away.

    Raises:
        TypeError: a function that cannot be called, or no arrays; later, an answer that is neither
            an array nor a mapping.

    Example:
        >>> teacher = JaxTeacher(lambda params, x: x @ params["w"], {"w": np.eye(3)})
        >>> teacher({"inputs": torch.ones(1, 3)})["logits"]
        tensor([[1., 1., 1.]])
    """

    def __init__(self, function: Callable[[Any, Any], Any], params: Any) -> None:
        if not callable(function):
            raise TypeError(f"expected a function of params and inputs, got {told(function)}")
        check_arrays("params", params)
        self.params: Any = jax.tree.map(np.array, params)
        self._function = jax.jit(function)

    def __call__(self, batch: Batch) -> Signals:
        """The function's signals for a batch, on the device of its inputs."""
        given = as_batch(batch)
        if "inputs" not in given:
            raise KeyError(f"a JaxTeacher reads 'inputs', and the batch has {', '.join(given)}")
        inputs = given["inputs"]
        home = inputs.device if isinstance(inputs, Tensor) else torch.device("cpu")
        said = self._function(self.params, jax.tree.map(_array, inputs))
        if not isinstance(said, (Mapping, jax.Array)):
            raise TypeError(
                f"the function returned a {type(said).__name__}; expected an array of logits, or a "
                'mapping of names to arrays: lambda params, x: {"logits": function(params, x)[0]}'
            )
        said = dict(said) if isinstance(said, Mapping) else {"logits": said}
        return {k: jax.tree.map(lambda x: _tensor(x).to(home), v) for k, v in said.items()}

    def fingerprint(self) -> str:
        """SHA-256 of the parameters, with their names, shapes and types."""
        digest = hashlib.sha256()
        for name, leaf in named(self.params).items():
            digest.update(f"{name}{leaf.shape}{leaf.dtype}".encode() + leaf.tobytes())
        return digest.hexdigest()


def _array(value: Any) -> Any:
    """A tensor as an array that shares its memory where it can; other things as they are."""
    if not isinstance(value, Tensor):
        return value
    value = value.detach().cpu()
    return (value.float() if value.dtype == torch.bfloat16 else value).numpy()


def _tensor(value: Any) -> Any:
    """An array as a tensor; other things as they are."""
    if not isinstance(value, (np.ndarray, jax.Array)):
        return value
    array = np.array(value)  # arrays of JAX are not to be written to
    return torch.from_numpy(array.astype(np.float32) if array.dtype == "bfloat16" else array)

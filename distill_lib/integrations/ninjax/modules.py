"""Weights that come from elsewhere, in the flat dictionary of a Ninjax program.

All three ways end in the same entries, ``<path>/params/…``, one array each; a state that was loaded
from a checkpoint wins over the weights given here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ninjax as nj
import numpy as np
from flax.core import unfreeze

from distill_lib.arguments import checked
from distill_lib.integrations.jax.writes import check_arrays, named

__all__ = ["constructed", "injected", "postinit", "put"]

Variables = Mapping[str, Any]


@checked
def injected(module: nn.Module, variables: Variables) -> Callable[..., Any]:
    """A Ninjax module whose weights are written into the state, one value after the other.

    Args:
        module: Of Flax.
        variables: Its weights, ``{"params": …}``.

    Returns:
        A class to be called as ``injected(module, variables)(name="encoder")``.

    Example:
        >>> module = nn.Dense(2)
        >>> made = module.init(jax.random.key(0), np.zeros((1, 3)))
        >>> encoder = injected(module, made)(name="encoder")
        >>> sorted(nj.init(encoder)({}, np.zeros((1, 3))))
        ['encoder/params/bias', 'encoder/params/kernel']
    """
    plain = _plain(variables)
    return constructed(module, lambda: plain)


@checked
def constructed(module: nn.Module, make: Callable[[], Variables]) -> Callable[..., Any]:
    """A Ninjax module that makes its weights when they are first asked for, and keeps them.

    Args:
        module: Of Flax.
        make: Gives the weights, ``{"params": …}``. It is called once in a process, while the
            program is traced; a loaded state then wins.

    Returns:
        A class to be called as ``constructed(module, make)(name="encoder")``.

    Example:
        >>> module = nn.Dense(2)
        >>> made = module.init(jax.random.key(0), np.zeros((1, 3)))
        >>> encoder = constructed(module, lambda: made)(name="encoder")
        >>> sorted(nj.init(encoder)({}, np.zeros((1, 3))))
        ['encoder/params/bias', 'encoder/params/kernel']
    """

    class Constructed(nj.Module):  # type: ignore[misc]  # ninjax has no types
        def __init__(self) -> None:
            self.tree = None

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            if self.tree is None:
                self.flat, self.tree = nj.flatten(_plain(make()))
            found = {name: self.value(name, jnp.asarray, x) for name, x in self.flat.items()}
            return module.apply(nj.unflatten(found, self.tree), *args, **kwargs)

    return Constructed


@checked
def postinit(variables: Variables) -> Callable[[Any], Any]:
    """What ``ninjax.FromFlax(make, postinit=…)`` calls: these weights in place of random ones.

    ``FromFlax`` calls what it is given: of a module that is made already, give ``lambda: module``.

    Args:
        variables: The weights, ``{"params": …}``.

    Returns:
        A function of the module's own variables.

    Raises:
        ValueError: from the function: the module has other arrays; the first difference is named.

    Example:
        >>> made = nn.Dense(2).init(jax.random.key(0), np.zeros((1, 3)))
        >>> encoder = nj.FromFlax(nn.Dense, postinit=postinit(made))(2, name="encoder")
        >>> state = nj.init(encoder)({}, np.zeros((1, 3)), seed=1)
        >>> bool((state["encoder/params/kernel"] == made["params"]["kernel"]).all())
        True
    """

    given = named(_plain(variables))

    def put_in(own: Any) -> Any:
        mine = named(own)
        _check_alike(mine, given, "the module")
        filled = [jnp.asarray(given[name], array.dtype) for name, array in mine.items()]
        return jax.tree.unflatten(jax.tree.structure(own), filled)

    return put_in


@checked
def put(state: Mapping[str, Any], path: str, variables: Variables) -> dict[str, Any]:
    """A state with these weights under a path: for a program that was initialized already.

    The arrays are copies: a training step that donates its state takes its buffers with it, and
    with them everybody's who holds the same array.

    Args:
        state: The flat dictionary of ``ninjax.init``.
        path: Of the module, ``"agent/encoder"``.
        variables: The weights, ``{"params": …}``.

    Returns:
        A new dictionary.

    Raises:
        ValueError: the state has other arrays under that path; the first difference is named.

    Example:
        >>> state = {"encoder/params/kernel": jnp.zeros(2), "head/kernel": jnp.zeros(2)}
        >>> new = put(state, "encoder", {"params": {"kernel": np.ones(2, np.float32)}})
        >>> new["encoder/params/kernel"].tolist(), new["head/kernel"].tolist()
        ([1.0, 1.0], [0.0, 0.0])
    """
    check_arrays("the state", state)
    start = f"{path.strip('/')}/"
    own = {k.removeprefix(start): v for k, v in state.items() if k.startswith(start)}
    flat, _ = nj.flatten(_plain(variables))
    _check_alike(own, flat, f"the state under {path!r}")
    return {**state, **{f"{start}{k}": jnp.array(v, own[k].dtype) for k, v in flat.items()}}


def _plain(variables: Any) -> dict[str, Any]:
    """Weights as a tree of dictionaries, once they are a tree of arrays."""
    check_arrays("the variables", variables)
    return dict(unfreeze(variables))


def _check_alike(own: Mapping[str, Any], given: Mapping[str, Any], where: str) -> None:
    """Both have arrays of the same names and shapes."""
    shapes = [{k: tuple(np.shape(v)) for k, v in one.items()} for one in (own, given)]
    for name in sorted({*own, *given}):
        mine, theirs = (one.get(name, "none") for one in shapes)
        if mine != theirs:
            raise ValueError(
                f"the weights do not fit: {name} has shape {mine} in {where} and {theirs} in what "
                "was given; both must be of one architecture, and for another image size "
                "read_vit(…, image_size=…) makes a table of positions that fits"
            )

"""Which arrays of a state a training step would change, read off its trace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

import jax
import numpy as np
from jax.tree_util import tree_flatten_with_path

from distill_lib.arguments import checked, told
from distill_lib.signals import suggest

__all__ = ["check_arrays", "check_frozen", "named", "written"]


def named(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by name, such as ``agent/head/kernel``."""
    found, _ = tree_flatten_with_path(tree)
    leaves = {"/".join(map(_part, path)): leaf for path, leaf in found}
    if len(leaves) < len(found):
        raise ValueError(f"two arrays of the tree have one name among {_some([*leaves])}")
    return leaves


def check_arrays(what: str, tree: Any) -> None:
    """Refuse what is no tree of arrays, or of numbers."""
    leaves = named(tree)
    wrong = next((name for name, leaf in leaves.items() if not _is_array(leaf)), None)
    if not leaves or wrong is not None:
        where = "" if wrong in (None, "") else f" with {told(leaves[wrong])} at {wrong!r}"
        raise TypeError(f"expected a tree of arrays as {what}, got {told(tree)}{where}")


def _is_array(leaf: Any) -> bool:
    if isinstance(leaf, (jax.Array, Real)):
        return True
    kinds = "biufcV"  # V: those that NumPy lacks, such as bfloat16
    return isinstance(leaf, (np.ndarray, np.generic)) and leaf.dtype.kind in kinds


def _part(key: Any) -> str:
    """Of a path: a key of a mapping, a place in a sequence, or the name of a field."""
    kinds = ("key", "idx", "name")
    return str(next((getattr(key, kind) for kind in kinds if hasattr(key, kind)), key))


@checked
def written(step: Callable[..., Any], state: Any, *args: Any, **kwargs: Any) -> list[str]:
    """The arrays that a step may change.

    The step is traced, not run. An array whose output *is* its input in the trace leaves every run
    with the bits it came with; all others are named, also one to which only zero is added: weight
    decay, averages and slow copies show here, and a gradient that happens to be zero does not hide
    an array.

    Args:
        step: ``step(state, *args, **kwargs)``: the new state, or a tuple that begins with it, as
            ``ninjax.pure(agent.train)`` returns. Under ``jax.jit`` or not.
        state: A tree of arrays; the flat dictionary of Ninjax is one.
        args: Further arguments of the step, as it is called.
        kwargs: Likewise.

    Returns:
        Names, as in ``agent/head/kernel``, in the order of the state.

    Raises:
        TypeError: a state that is no tree of arrays.
        ValueError: the new state has other arrays than the old one.

    Example:
        >>> import jax.numpy as jnp
        >>> def step(state, x):
        ...     grad = jax.grad(lambda head: (x @ state["encoder"] @ head).sum())(state["head"])
        ...     return {**state, "head": state["head"] - 0.1 * grad}
        >>> state = {"encoder": jnp.ones((3, 2)), "head": jnp.ones((2, 1))}
        >>> written(step, state, jnp.ones((4, 3)))
        ['head']
    """
    check_arrays("the state", state)
    leaves, tree = jax.tree.flatten(state)

    def flat(*leaves: Any) -> list[Any]:
        out = step(jax.tree.unflatten(tree, leaves), *args, **kwargs)
        new, after = jax.tree.flatten(out[0] if isinstance(out, tuple) else out)
        if str(after) != str(tree):
            raise ValueError(
                f"the step returned another state than it was given: {after} after {tree}; make "
                "the state first (ninjax.init), and return it whole and first"
            )
        return new

    trace = jax.make_jaxpr(flat)(*leaves).jaxpr
    pairs = zip(named(state), trace.invars, trace.outvars, strict=True)
    return [name for name, before, after in pairs if before is not _source(after, trace)]


@checked
def check_frozen(
    step: Callable[..., Any], state: Any, *args: Any, frozen: Sequence[str], **kwargs: Any
) -> list[str]:
    """Refuse a step that would change frozen arrays, or that keeps moments for them.

    Args:
        step: See :func:`written`.
        state: Likewise.
        args: Likewise.
        frozen: Names of arrays, or of what they lie under: ``["agent/encoder"]``.
        kwargs: Likewise.

    Returns:
        The arrays that the step may change.

    Raises:
        ValueError: it would change a frozen one; the state holds something of a frozen one's name
            elsewhere, such as an optimizer's moments; there is no such array.

    Example:
        >>> import jax.numpy as jnp
        >>> state = {"encoder": jnp.ones(2), "head": jnp.ones(2)}
        >>> decay = lambda state: jax.tree.map(lambda x: 0.99 * x, state)
        >>> check_frozen(decay, state, frozen=["encoder"])  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: the step would change 1 of 1 frozen arrays: encoder. Give only what is ...
    """
    check_arrays("the state", state)
    names = list(named(state))
    places = [place.strip("/") for place in frozen]
    for place in places:
        if not any(_under(name, place) for name in names):
            known = sorted({name.rpartition("/")[0] or name for name in names})
            raise ValueError(
                f"the state has no array under {place!r}; it has {', '.join(known[:20])}"
                f"{', …' if len(known) > 20 else ''}.{suggest(place, known)}"
            )
    found = written(step, state, *args, **kwargs)
    still = [name for name in names if any(_under(name, place) for place in places)]
    if moved := [name for name in still if name in set(found)]:
        raise ValueError(
            f"the step would change {len(moved)} of {len(still)} frozen arrays: "
            f"{_some(moved)}. Give only what is trained to the gradient "
            "(ninjax.grad(loss, [head])) and to the optimizer, and keep decay and averages off "
            "the rest"
        )
    held = [n for n in names if n not in still and any(f"/{p}/" in f"/{n}/" for p in places)]
    if held:
        raise ValueError(
            f"the state keeps {len(held)} arrays for frozen ones: {_some(held)}. Make the "
            "optimizer's state of what is trained only"
        )
    return found


def _source(out: Any, trace: Any) -> Any:
    """Where a variable comes from, through compiled functions that only pass it on."""
    for equation in trace.eqns:
        inner = getattr(equation.params.get("jaxpr"), "jaxpr", None)
        if inner is None or "jit" not in equation.primitive.name:
            continue
        for after, mine in zip(equation.outvars, inner.outvars, strict=True):
            if after is out and (begin := _source(mine, inner)) in inner.invars:
                return _source(equation.invars[inner.invars.index(begin)], trace)
    return out


def _under(name: str, place: str) -> bool:
    return name == place or name.startswith(f"{place}/")


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", …" if len(names) > 4 else "")

r"""Policies in the checkpoints of skrl, as its agents and Isaac Lab write them.

A file ``checkpoints/agent_<step>.pt`` or ``best_agent.pt`` holds a state dict for each part:

===========  ==========================================================================
layers       ``policy``: ``net_container.0.weight``, ``.2.weight``, … (any name for *net*)
last layer   the last of these; ``policy_layer`` where actor and critic share layers
deviation    ``log_std_parameter`` [A]; without it, the outputs are logits
normalizer   ``observation_preprocessor`` or ``state_preprocessor``: ``running_mean``,
             ``running_variance``
===========  ==========================================================================

Observations are normalized by :math:`(o - \mu)/(\sigma + 10^{-8})` and cut at ±5.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from distill_lib.arguments import checked, told
from distill_lib.checkpoints import CheckpointError, load_checkpoint
from distill_lib.models.control import Policy

from .actors import assembled, layers_of, numbers
from .settings import agree, inside, settings_of

__all__ = ["load_teacher"]

EPS, CLIP = 1e-8, 5.0
LOWEST, HIGHEST = -20.0, 2.0  # between which skrl keeps the logarithm of a deviation
KINDS = ("observations", "states")
NAMES = {"leaky_relu": "lrelu"}  # ours, where it is another


@checked
def load_teacher(
    path: str | Path,
    activation: str | None = None,
    inputs: Literal["observations", "states"] | None = None,
) -> Policy:
    """A checkpoint of an agent of skrl as a policy, without running any of its code.

    What is checked, and the memory it may take: see
    :func:`distill_lib.checkpoints.load_checkpoint`.

    Args:
        path: An ``agent_*.pt`` or ``best_agent.pt`` of skrl.
        activation: ``elu``, ``relu``, ``tanh``, … as in its training; weights do not tell. By
            default what Isaac Lab has written into ``params/agent.yaml`` beside its folder. That
            the output has no further function, such as ``tanh(ACTIONS)``, is seen there only.
        inputs: What the policy sees, where the file has statistics of both.

    Returns:
        The policy in eval mode; it says ``logits``, or ``mean`` and ``gaussian``.

    Raises:
        CheckpointError: another layout; convolutions, memories, several branches; settings that a
            policy cannot follow, or an activation that nobody tells.
    """
    if inputs is not None and (not isinstance(inputs, str) or inputs not in KINDS):
        raise ValueError(f"inputs is one of {', '.join(KINDS)} or None, got {told(inputs)}")
    found = load_checkpoint(path)
    tensors = numbers(
        found.tensors, path, "policy.", *(f"{k[:-1]}_preprocessor.running" for k in KINDS)
    )
    part = {k.removeprefix("policy."): v for k, v in tensors.items() if k.startswith("policy.")}
    names = {k.split(".")[0] for k in part}
    heads = names & {"output_layer", "policy_layer"}
    containers = {k for k in names if k.endswith("_container")}
    others = names - heads - containers - {"log_std_parameter", "value_layer"}
    if len(heads) > 1 or len(containers) != 1 or others:
        raise CheckpointError(
            f"the policy in {path} is no chain of layers as skrl's model instantiators write it: "
            f"expected one <name>_container, policy_layer where layers are shared, and "
            f"log_std_parameter, found {', '.join(sorted(names)[:8]) or 'no policy'}. Build it "
            "with skrl, and wrap it: Teacher(module, adapter)"
        )
    file, written = settings_of(path, activation)
    told_activation, seen = (None, None) if written is None else _settings(written, file)
    layers = layers_of(part, f"{containers.pop()}.", path)
    for head in heads:
        if f"{head}.weight" not in part or f"{head}.bias" not in part:
            raise CheckpointError(f"{head} of the policy in {path} has no weight or no bias")
        layers.append((part[f"{head}.weight"], part[f"{head}.bias"]))
    log_std = part.get("log_std_parameter")
    if log_std is not None and not ((log_std >= LOWEST) & (log_std <= HIGHEST)).all():
        raise CheckpointError(
            f"log_std_parameter in {path} lies outside [{LOWEST:g}, {HIGHEST:g}], where skrl cuts "
            "it unless told otherwise: put what acted into the file"
        )
    mean, scale = _statistics(tensors, layers[0][0].shape[-1], inputs or seen, path)
    known = agree(path, file, "policy", told_activation, activation)
    return assembled("skrl", layers, log_std, known, mean, scale, CLIP)


def _settings(written: Any, file: Path) -> tuple[str | None, str | None]:
    """The activation and what the policy sees, if all the rest is what is read here."""
    policy = inside(written, "models", "policy")
    kind = inside(policy, "class")
    if isinstance(kind, str) and kind not in ("GaussianMixin", "CategoricalMixin"):
        raise CheckpointError(
            f"{file} says class: {kind[:40]}; read are GaussianMixin and CategoricalMixin"
        )
    output = inside(policy, "output")
    if output not in (None, "ACTIONS"):
        raise CheckpointError(
            f"{file} says output: {str(output)[:40]}, a function of the last layer, and a policy "
            "here says the last layer itself; build it with skrl, and wrap it: "
            "Teacher(module, adapter)"
        )
    bounds = [inside(policy, name) for name in ("min_log_std", "max_log_std")]
    for said, usual in zip(bounds, (LOWEST, HIGHEST), strict=True):
        if isinstance(said, str) and said not in {f"{usual:g}", f"{usual:.1f}"}:
            raise CheckpointError(f"{file} cuts the deviation at {said[:20]}, not at {usual:g}")
    network = inside(policy, "network")
    network = network[0] if isinstance(network, list) and len(network) == 1 else None
    activations = inside(network, "activations")
    if isinstance(activations, list) and activations and len(set(map(str, activations))) == 1:
        activations = activations[0]
    name = activations.lower() if isinstance(activations, str) else None
    if isinstance(activations, list) and activations:
        raise CheckpointError(f"{file} has several activations: {str(activations)[:60]}")
    source = inside(network, "input")
    seen = {"OBSERVATIONS": "observations", "STATES": "states"}.get(str(source))
    return (None if name is None else NAMES.get(name, name)), seen


def _statistics(
    tensors: dict[str, Tensor], width: int, seen: str | None, path: str | Path
) -> tuple[Tensor | None, Tensor | None]:
    """Mean and divisor of the observations [O], or two times None."""
    kinds = [k for k in KINDS if f"{k[:-1]}_preprocessor.running_mean" in tensors]
    if len(kinds) == 2 and seen in kinds:
        kinds = [seen]
    if len(kinds) == 2:
        raise CheckpointError(
            f"{path} has statistics of observations and of states: pass inputs='observations' or "
            "inputs='states', what the policy sees"
        )
    if not kinds:
        return None, None
    start = f"{kinds[0][:-1]}_preprocessor."
    mean, var = (tensors.get(f"{start}running_{name}") for name in ("mean", "variance"))
    if mean is None or var is None or list(mean.shape) != [width] or mean.shape != var.shape:
        raise CheckpointError(
            f"the statistics {start}* in {path} are not for the {width} numbers that the policy "
            "sees"
        )
    return mean, var.double().sqrt() + EPS

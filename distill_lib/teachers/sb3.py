"""Policies of Stable-Baselines3 as modules that say signals by name."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from distill_lib.arguments import checked

__all__ = ["SB3Policy", "adapted"]


def is_sb3(policy: Any) -> bool:
    """Whether it is an algorithm or a policy of Stable-Baselines3 or its contributions."""
    homes = {kind.__module__.split(".")[0] for kind in type(policy).__mro__}
    return bool(homes & {"stable_baselines3", "sb3_contrib"})


def adapted(policy: Any) -> Any:
    """The policy itself, or an :class:`SB3Policy` around one of Stable-Baselines3."""
    return SB3Policy(policy) if is_sb3(policy) else policy


@checked
class SB3Policy(nn.Module):
    r"""A model of Stable-Baselines3, or its policy, as a policy of this library.

    It reads observations as the environment gives them, and does what the library's ``predict``
    does before: images are put channels first and divided by 255, integers become one-hot, and
    observations are normalized by the statistics of ``VecNormalize``. It says:

    - PPO, A2C and other actor-critics: ``logits`` [N, A], or ``mean`` [N, A] and ``gaussian``
      [N, 2A], the mean and the logarithm of the standard deviation; and ``value`` [N]. In a
      MultiDiscrete of A heads ``logits`` are [N, A, n], -inf where a head has fewer actions.
    - DQN: ``logits`` :math:`Q(s, \cdot) / \tau` [N, A]. Action values are no logits: greedy
      actions are right for every τ, the softmax is a choice. Rusu et al. take τ = 0.01.
    - SAC, TD3, DDPG and others with squashed actions: ``mean`` [N, A], the deterministic action in
      the units of the environment, :math:`l + (h - l)(\tanh(u) + 1)/2`. Its noise is no Gaussian,
      so there is no ``gaussian``, and no noise of :func:`distill_lib.rl.act`.

    Such a model may stand wherever a teacher or a policy does
    (``Teacher(model)``, ``Rollouts(env, model)``, ``evaluate(model, env)``); this class is for
    those who want another τ, or have statistics in a file of their own.

    Args:
        model: The model, or its ``policy``. It is shared, not copied.
        normalize: The ``VecNormalize`` with the statistics of the training; by default that of the
            model's environment. ``False`` says that there was none: only models with an
            environment tell by themselves, and others warn.
        temperature: τ > 0 of action values.

    Raises:
        TypeError: no model of Stable-Baselines3, or a kind that is not known (recurrent, masked); a
            τ that is no number.
        ValueError: spaces that cannot be carried, statistics of another shape, a τ that is not
            positive and finite.

    Reference:
        Raffin et al., *Stable-Baselines3: reliable reinforcement learning implementations*, 2021;
        Rusu et al., *Policy distillation*, 2016.
    """

    normalized: bool

    def __init__(self, model: Any, normalize: Any = None, temperature: float = 1.0) -> None:
        super().__init__()
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature is above 0, got {temperature}; 0.01 is usual for DQN")
        policy: Any = getattr(model, "policy", model)
        if not (is_sb3(policy) and issubclass(type(policy), nn.Module)):
            raise TypeError(
                "SB3Policy expected a model of Stable-Baselines3 or its policy, got "
                f"{type(model).__name__}; for weights without it use checkpoints.load_checkpoint"
            )
        self.policy: Any = policy
        self.obs_mean: Tensor
        self.obs_scale: Tensor
        self.obs_clip: Tensor
        self.low: Tensor
        self.high: Tensor
        self.kind: str = _kind(policy)
        self.shape: tuple[int, ...] = _shape(policy.observation_space)
        self.register_buffer("temperature", torch.tensor(float(temperature)))
        self._normalize(normalize if normalize is not None else _found(model), type(model).__name__)
        self.squashed: bool = self.kind == "real" and bool(policy.squash_output)
        if self.squashed:
            self.register_buffer("low", torch.as_tensor(self.policy.action_space.low))
            self.register_buffer("high", torch.as_tensor(self.policy.action_space.high))
        self.to(self.policy.device)

    def _normalize(self, statistics: Any, name: str) -> None:
        from gymnasium.spaces import Box

        self.normalized = False
        space = self.policy.observation_space
        image = len(self.shape) == 3 and space.dtype == "uint8"
        if statistics is None and isinstance(space, Box) and not image:
            warnings.warn(
                f"this {name} knows no environment, and so not whether its observations were "
                "normalized in training: the statistics of VecNormalize lie in a file of their "
                "own. Pass SB3Policy(model, normalize=VecNormalize.load(path, venv)), or "
                "normalize=False if there were none",
                stacklevel=4,
            )
        if statistics is None or statistics is False:
            return
        if not hasattr(statistics, "norm_obs"):
            raise ValueError(
                "normalize expected a VecNormalize or False, got "
                f"{type(statistics).__name__}; VecNormalize.load(path, venv) reads a file, which "
                "can run code: only one that you trust"
            )
        if not statistics.norm_obs:
            return
        mean, var = statistics.obs_rms.mean, statistics.obs_rms.var
        if mean.shape != self.shape:
            raise ValueError(
                f"the statistics of VecNormalize are for observations {list(mean.shape)}, the "
                f"policy reads {list(self.shape)}: statistics of before VecFrameStack or of "
                "another environment; change the observation in a wrapper instead"
            )
        self.normalized = True
        clip = float(statistics.clip_obs)
        numbers = {"mean": mean, "scale": (var + statistics.epsilon) ** 0.5, "clip": clip}
        for key, value in numbers.items():
            self.register_buffer(f"obs_{key}", torch.tensor(value, dtype=torch.float64))

    def forward(self, observation: Tensor) -> dict[str, Tensor]:
        """What the policy says of observations [N, ...]."""
        x = self._read(observation)
        if self.kind == "values":
            return {"logits": self.policy.q_net(x) / self.temperature}
        if self.kind == "real":
            action = self.policy._predict(x, deterministic=True)
            if self.squashed:
                share = 0.5 * (action.view(-1, *self.low.shape) + 1.0)
                action = self.low + share * (self.high - self.low)
            return {"mean": action.flatten(1)}
        said = self.policy.get_distribution(x).distribution
        value = self.policy.predict_values(x).squeeze(-1)
        if self.kind == "heads":
            longest = max(one.logits.shape[-1] for one in said)
            filled = [
                nn.functional.pad(z, (0, longest - z.shape[-1]), value=-math.inf)
                for z in (one.logits for one in said)
            ]
            return {"logits": torch.stack(filled, -2), "value": value}
        if self.kind == "discrete":
            return {"logits": said.logits, "value": value}
        gaussian = torch.cat([said.mean, said.stddev.log()], -1)
        return {"mean": said.mean, "gaussian": gaussian, "value": value}

    def _read(self, x: Tensor) -> Tensor:
        """Observations as the networks expect them."""
        if self.normalized:
            z = (x.double() - self.obs_mean) / self.obs_scale
            x = z.clamp(-self.obs_clip, self.obs_clip).float()
        if len(self.shape) == 3 and tuple(x.shape[1:]) != self.shape:
            turned = x.movedim(-1, 1) if x.ndim == 4 else x  # as VecTransposeImage
            x = turned if tuple(turned.shape[1:]) == self.shape else x
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(
                f"the policy of Stable-Baselines3 was trained on observations {list(self.shape)}, "
                f"and is asked about {list(x.shape[1:])}: use the wrappers of its training, such "
                "as gym.wrappers.FrameStackObservation for VecFrameStack"
            )
        return x


def _found(model: Any) -> Any:
    """The statistics of the model's environment; False if it has none, None if it is not known."""
    if getattr(model, "env", None) is None:
        return None
    return model.get_vec_normalize_env() or False


def _shape(space: Any) -> tuple[int, ...]:
    from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

    if not isinstance(space, (Box, Discrete, MultiDiscrete, MultiBinary)):
        raise ValueError(
            f"the policy reads several observations at once, {space}, and one tensor is carried: "
            "train it on gym.wrappers.FlattenObservation, or say Teacher(model.policy, forward=...)"
        )
    if isinstance(space, Discrete) and space.start != 0:
        raise ValueError(f"Stable-Baselines3 reads integers from 0 on, the space is {space}")
    return tuple(space.shape or ())


def _kind(policy: Any) -> str:
    from gymnasium.spaces import Box, Discrete, MultiDiscrete
    from stable_baselines3.common.policies import ActorCriticPolicy
    from stable_baselines3.dqn.policies import DQNPolicy

    space = policy.action_space
    heads = isinstance(space, MultiDiscrete) and len(space.shape) == 1
    known = isinstance(space, (Box, Discrete)) or heads
    if not known or bool((torch.as_tensor(getattr(space, "start", 0)) != 0).any()):
        raise ValueError(
            "actions are Discrete or MultiDiscrete from 0 on, or Box; this policy acts in "
            f"{space}: train it on an environment whose actions a gym.wrappers.TransformAction "
            "lists as Discrete"
        )
    critic = isinstance(policy, ActorCriticPolicy) and not hasattr(policy, "lstm_actor")
    if critic and not policy.squash_output:
        return "heads" if heads else "gaussian" if isinstance(space, Box) else "discrete"
    if isinstance(policy, DQNPolicy):
        return "values"
    if isinstance(space, Box) and not hasattr(policy, "lstm_actor") and hasattr(policy, "_predict"):
        return "real"
    raise TypeError(
        f"{type(policy).__name__} is a policy that keeps a memory, masks actions or is not known "
        "here; say what it says in a module of your own, or Teacher(policy, forward=...)"
    )

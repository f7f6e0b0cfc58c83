"""What changes in DreamerV3 for a frozen encoder: a module, and two lines of its agent.

Imported by the test beside it, and quoted by the chapter "Frozen encoders".
"""

from __future__ import annotations

from typing import Any

import embodied.jax
import jax
import jax.numpy as jnp
import ninjax as nj
from dreamerv3.agent import Agent
from embodied.jax import nets

from distill_lib.integrations.ninjax import injected


class FrozenEncoder(nj.Module):
    """Takes the place of ``rssm.Encoder``: the same five names, and tokens of a pretrained net."""

    entry_space = property(lambda self: {})  # the encoder keeps nothing from step to step

    def __init__(self, module: Any, variables: Any) -> None:
        self.net = injected(module, variables)(name="net")
        self.size = module.image

    def initial(self, batch_size: int) -> dict[str, Any]:
        return {}

    def truncate(self, entries: Any, carry: Any = None) -> dict[str, Any]:
        return {}

    def __call__(self, carry: Any, obs: Any, reset: Any, training: bool, single: bool = False):
        x = obs["image"].reshape(-1, *obs["image"].shape[-3:]).astype(jnp.float32) / 127.5 - 1
        x = jax.image.resize(x, (len(x), *self.size, x.shape[-1]), "bilinear")
        tokens = nets.cast(self.net(x)[:, 0])  # the CLS token, in the agent's precision
        return carry, {}, tokens.reshape(*reset.shape, -1)


class FrozenAgent(Agent):
    """DreamerV3's agent, whose optimizer has never heard of the encoder."""

    pretrained: Any = None  # the module and the variables of read_vit

    def __init__(self, obs_space: Any, act_space: Any, config: Any) -> None:
        super().__init__(obs_space, act_space, config)
        self.enc = FrozenEncoder(*self.pretrained, name="enc")
        self.modules = [part for part in self.modules if part.path != self.enc.path]
        settings = self._make_opt(**config.opt)
        self.opt = embodied.jax.Optimizer(self.modules, settings, summary_depth=1, name="opt")

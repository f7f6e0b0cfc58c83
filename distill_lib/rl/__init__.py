"""Teacher and student meet an environment: rollouts as batches for the one loop.

Everything works on Gymnasium's vector environments. A policy is any module that says ``logits``
for discrete actions, or ``mean`` (and ``gaussian``) for real ones, such as
:class:`distill_lib.zoo.Policy`; models of Stable-Baselines3 may stand in its place
(:class:`distill_lib.teachers.SB3Policy`).

>>> import distill_lib as dl
>>> teacher = dl.zoo.Policy(4, 2)
>>> rollouts = dl.rl.Rollouts("CartPole-v1", teacher, episodes=2, updates=3, batch_size=8)
>>> len(dl.distill(dl.zoo.Policy(4, 2, hidden=()), rollouts.teacher, rollouts, dl.KD(), epochs=1))
3
"""

from __future__ import annotations

from . import _needs  # noqa: F401  (first: says what to install)
from .acting import act, ask, two_views
from .bins import Discretized, DiscretizedPolicy, codebook
from .environments import Privileged, make
from .evaluation import Returns, evaluate, sanity
from .onpolicy import OnPolicy, advantages
from .pixels import Pixels
from .rollouts import Rollouts
from .tasks import Tasks
from .videos import Video, video

__all__ = [
    "Discretized",
    "DiscretizedPolicy",
    "OnPolicy",
    "Pixels",
    "Privileged",
    "Returns",
    "Rollouts",
    "Tasks",
    "Video",
    "act",
    "advantages",
    "ask",
    "codebook",
    "evaluate",
    "make",
    "sanity",
    "two_views",
    "video",
]


def __dir__() -> list[str]:
    return __all__

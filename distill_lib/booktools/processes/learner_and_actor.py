"""A learner and an actor in two processes: only what is trained is sent.

python -m distill_lib.booktools.processes.learner_and_actor 1000

Each process builds the frozen encoder for itself. After every training step the learner sends the
head, the actor acts with it, and the learner compares. The last line is JSON.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
from multiprocessing.connection import Connection
from typing import Any

import numpy as np


def build() -> tuple[Any, dict[str, Any], Any, Any]:
    """The same agent in every process, of the same seed."""
    import flax.linen as nn
    import ninjax as nj
    import optax

    class Agent(nj.Module):  # type: ignore[misc]  # ninjax has no types
        def __init__(self) -> None:
            self.encoder = nj.FromFlax(nn.Dense)(512, name="encoder")
            self.head = nj.FromFlax(nn.Dense)(4, name="head")
            self.tx = optax.adam(1e-2)

        def act(self, x: Any) -> Any:
            return self.head(nn.relu(self.encoder(x)))

        def loss(self, x: Any, y: Any) -> Any:
            return optax.softmax_cross_entropy_with_integer_labels(self.act(x), y).mean()

        def train(self, x: Any, y: Any) -> Any:
            loss, params, grads = nj.grad(self.loss, [self.head])(x, y)
            moments = self.sub("opt", nj.Tree, self.tx.init, params)
            updates, new = self.tx.update(grads, moments.read(), params)
            nj.context().update(optax.apply_updates(params, updates))
            moments.write(new)
            return loss

    agent = Agent(name="agent")  # type: ignore[call-arg]
    x = np.random.default_rng(0).normal(size=(8, 64)).astype(np.float32)
    y = np.arange(8) % 4
    return agent, nj.init(agent.train)({}, x, y, seed=0), x, y


def actor(pipe: Connection) -> None:
    """Acts with the newest head until the learner closes the pipe."""
    import jax
    import ninjax as nj

    agent, state, x, _ = build()
    act = jax.jit(nj.pure(agent.act))
    while head := pipe.recv():
        state.update(head)
        pipe.send(np.asarray(act(state, x)[1]))


def main(exchanges: int) -> None:
    import jax
    import ninjax as nj

    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=actor, args=(theirs,), daemon=True)
    process.start()
    theirs.close()  # so that an actor that dies is an error here, and no endless wait
    agent, state, x, y = build()
    step = jax.jit(nj.pure(agent.train), donate_argnums=0)
    act = jax.jit(nj.pure(agent.act))
    head, wrong, actions = {}, 0, set()
    for number in range(exchanges):
        state, _ = step(state, x, y, seed=number)
        head = {k: np.asarray(v) for k, v in state.items() if "/head/" in k}
        mine.send(head)
        answer = mine.recv()
        wrong += not np.array_equal(answer, act(state, x)[1])
        actions.add(answer.tobytes())
    mine.send(None)
    process.join(60)
    sent, whole = (sum(v.nbytes for v in held.values()) for held in (head, state))
    said = {"exchanges": exchanges, "wrong": wrong, "different": len(actions)}
    print(json.dumps({**said, "sent": sent, "whole": whole}))


if __name__ == "__main__":
    main(int(sys.argv[1]))

"""DreamerV3 itself, with a frozen vision transformer as its encoder.

Its present release is on no index, and `dreamerv3` there is one of 2023. The test runs where a
clone of github.com/danijar/dreamerv3 and its requirements lie on PYTHONPATH. Last run with commit
e3f0224 (release 3.3.1), under jax 0.4.33, which it pins, and under jax 0.10.2.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest

REASON = "DreamerV3 is not on PYTHONPATH: clone danijar/dreamerv3 and install its requirements"
elements = pytest.importorskip("elements", reason=REASON)
pytest.importorskip("embodied", reason=REASON)
yaml = pytest.importorskip("ruamel.yaml", reason=REASON)
jax = pytest.importorskip("jax", reason=REASON)

BATCH, LENGTH = 2, 6


@pytest.fixture
def positional_jit(monkeypatch: pytest.MonkeyPatch) -> None:
    """DreamerV3 passes the settings of jax.jit by position; later releases want their names."""
    kind = inspect.signature(jax.jit).parameters["in_shardings"].kind
    if kind is not inspect.Parameter.KEYWORD_ONLY:
        return
    names = ("in_shardings", "out_shardings", "static_argnums", "static_argnames", "donate_argnums")
    real = jax.jit

    def jit(function: Any, *settings: Any, **named: Any) -> Any:
        return real(function, **dict(zip(names, settings, strict=False)), **named)

    monkeypatch.setattr(jax, "jit", jit)


def vit() -> tuple[Any, Any]:
    from transformers import ViTConfig, ViTModel

    from distill_lib.integrations.ninjax import read_vit

    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = ViTModel(ViTConfig(**size, intermediate_size=32, patch_size=14))
    return read_vit(model, image_size=70)


def made(tmp_path: Path) -> Any:
    import dreamerv3.agent
    from embodied.envs import dummy
    from frozen_dreamer import FrozenAgent

    found = Path(dreamerv3.agent.__file__).with_name("configs.yaml").read_text()
    configs = yaml.YAML(typ="safe").load(found)
    config = elements.Config(configs["defaults"]).update(configs["debug"])
    config = config.update({"jax.compute_dtype": "float32", "batch_size": BATCH})
    config = config.update(batch_length=LENGTH, replay_context=0)
    env = dummy.Dummy("disc", size=(64, 64), length=20)
    kept = ("image", "reward", "is_first", "is_last", "is_terminal")
    seen = {k: v for k, v in env.obs_space.items() if k in kept}
    acts = {k: v for k, v in env.act_space.items() if k != "reset"}
    names = ("jax", "batch_size", "batch_length", "report_length", "replay_context")
    settings = {name: getattr(config, name) for name in names}
    whole = elements.Config(
        **config.agent, **settings, logdir=str(tmp_path), seed=0, replica=0, replicas=1
    )
    FrozenAgent.pretrained = vit()
    return FrozenAgent(seen, acts, whole)


def batches(spaces: dict[str, Any]) -> Any:
    rng = np.random.default_rng(0)
    while True:
        batch = {}
        for name, space in spaces.items():
            shape = (BATCH, LENGTH, *space.shape)
            kind = np.dtype(space.dtype)
            few = 255 if kind == np.uint8 else 4
            draw = rng.integers(0, few, shape) if kind.kind in "ui" else rng.normal(size=shape)
            batch[name] = np.zeros(shape, bool) if kind.kind == "b" else draw.astype(kind)
        yield batch


@pytest.mark.peers
@pytest.mark.filterwarnings("default")
@pytest.mark.usefixtures("positional_jit")
def test_the_encoder_of_dreamerv3_is_frozen(tmp_path: Path) -> None:
    agent = made(tmp_path)
    before = {k: np.array(v) for k, v in agent.params.items() if k.startswith("enc/")}
    others = {k: np.array(v) for k, v in agent.params.items() if k.startswith("dyn/")}
    assert len(before) == 22
    assert not [k for k in agent.params if k.startswith("opt/") and "/enc/" in k]
    stream = iter(agent.stream(batches(agent.spaces)))
    learner, actor = agent.init_train(BATCH), agent.init_policy(1)
    seen = {k: np.zeros((1, *v.shape), v.dtype) for k, v in agent.obs_space.items()}
    for _ in range(4):
        learner, _, _ = agent.train(learner, next(stream))
        actor, _, _ = agent.policy(actor, seen)
    for name, array in before.items():
        for place in (agent.params, agent.policy_params):
            assert np.asarray(place[name]).tobytes() == array.tobytes(), name
    assert any((np.asarray(agent.params[k]) != v).any() for k, v in others.items())

"""One side in PyTorch, the other in JAX: targets go over as arrays, fresh or from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jax_helpers import jax, jnp
from torch import nn

from distill_lib import KD, Cache, Ensemble, Teacher, distill
from distill_lib.integrations.jax import JaxTeacher, kl, targets

pytestmark = pytest.mark.usefixtures("own_accelerate")


def items(n: int = 40) -> list[dict[str, Any]]:
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(1))
    return [{"inputs": x[i], "index": i} for i in range(n)]


def function(params: Any, x: Any) -> Any:
    return jnp.tanh(x @ params["first"]) @ params["last"]


def params(seed: int = 0) -> dict[str, Any]:
    keys = jax.random.split(jax.random.key(seed))
    return {
        "first": jax.random.normal(keys[0], (4, 8)),
        "last": jax.random.normal(keys[1], (8, 3)),
    }


def test_a_cache_is_read_as_arrays_in_any_order(tmp_path: Path) -> None:
    teacher, rows = nn.Linear(4, 3), items()
    cache = Cache.build(tmp_path / "a.cache", teacher, rows, progress=False)
    order = np.array([[7, 3], [0, 39]])
    said = targets(cache, {"index": order})["logits"]
    assert isinstance(said, np.ndarray) and said.dtype == np.float32
    x = torch.stack([row["inputs"] for row in rows])
    np.testing.assert_allclose(said, teacher(x).detach().numpy()[order], rtol=1e-6)
    same = targets(cache, {"index": jnp.asarray(order)})["logits"]
    np.testing.assert_array_equal(said, same)


def test_a_student_in_jax_learns_from_a_cache_of_torch(tmp_path: Path) -> None:
    teacher, rows = nn.Linear(4, 3), items()
    cache = Cache.build(tmp_path / "a.cache", teacher, rows, progress=False)
    x = np.stack([row["inputs"].numpy() for row in rows])
    aim = targets(cache, {"index": np.arange(len(x))})["logits"]

    def loss(student: Any) -> Any:
        return kl(student=x @ student["w"] + student["b"], teacher=aim).mean()

    student = {"w": jnp.zeros((4, 3)), "b": jnp.zeros(3)}
    first, step = loss(student), jax.jit(jax.value_and_grad(loss))
    for _ in range(300):
        _, grads = step(student)
        student = jax.tree.map(lambda p, g: p - 2.0 * g, student, grads)
    assert float(loss(student)) < 1e-3 * float(first)


def test_live_teachers_are_asked_with_arrays() -> None:
    model = nn.Linear(4, 3)
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    want = model(torch.from_numpy(x)).detach().numpy()
    both = targets(Ensemble([model, model]), {"inputs": x})["logits"]  # its logits are normalized
    np.testing.assert_allclose(both - both[:, :1], want - want[:, :1], rtol=1e-4, atol=1e-5)
    for teacher in (model, Teacher(model)):
        for given in (x, jnp.asarray(x)):
            np.testing.assert_allclose(targets(teacher, {"inputs": given})["logits"], want, 1e-5)
    named = Teacher(model, forward=lambda model, batch: {"a": (model(batch["inputs"]),)})
    np.testing.assert_allclose(targets(named, {"inputs": x})["a"][0], want, 1e-5)


def test_precision_that_numpy_lacks_arrives_as_float32() -> None:
    model = nn.Linear(4, 3).bfloat16()
    said = targets(model, {"inputs": torch.zeros(1, 4, dtype=torch.bfloat16)})
    assert said["logits"].dtype == np.float32
    np.testing.assert_array_equal(said["logits"][0], model.bias.detach().float().numpy())


def test_a_student_in_torch_learns_from_jax_live_and_cached(tmp_path: Path) -> None:
    teacher, rows = JaxTeacher(function, params()), items()
    x = torch.stack([row["inputs"] for row in rows])
    np.testing.assert_allclose(
        teacher({"inputs": x})["logits"], function(params(), x.numpy()), rtol=1e-5, atol=1e-6
    )
    batch = {"inputs": x, "index": torch.arange(len(x))}
    cache = Cache.build(tmp_path / "b.cache", teacher, rows, progress=False)
    for source in (teacher, cache):
        torch.manual_seed(0)
        student = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 3))
        history = distill(student, source, [batch], KD(), steps=150, lr=1e-2)
        assert history["kd"][-1] < 0.05 * history["kd"][0]


def test_several_outputs_keep_their_names() -> None:
    teacher = JaxTeacher(lambda p, x: {"logits": x * p, "value": x.sum(-1)}, jnp.ones(()))
    said = teacher({"inputs": torch.ones(2, 3)})
    assert sorted(said) == ["logits", "value"] and said["value"].tolist() == [3.0, 3.0]
    half = JaxTeacher(lambda p, x: (x * p).astype(jnp.bfloat16), jnp.ones(()))
    assert half((torch.ones(2, 3), torch.zeros(2)))["logits"].dtype == torch.float32


def test_the_fingerprint_is_that_of_the_parameters(tmp_path: Path) -> None:
    one, same, other = (JaxTeacher(function, params(seed)) for seed in (0, 0, 1))
    assert one.fingerprint() == same.fingerprint() != other.fingerprint()
    renamed = {"FIRST": params()["first"], "last": params()["last"]}
    assert JaxTeacher(function, renamed).fingerprint() != one.fingerprint()
    Cache.build(tmp_path / "c.cache", one, items(), progress=False)
    with pytest.raises(RuntimeError, match="stale: it was made from another teacher"):
        Cache.build(tmp_path / "c.cache", other, items(), progress=False)


def test_a_program_that_donates_the_parameters_takes_nothing_away() -> None:
    mine = params()
    teacher = JaxTeacher(function, mine)
    x = {"inputs": torch.ones(2, 4)}
    before, print_before = teacher(x)["logits"], teacher.fingerprint()
    jax.jit(lambda tree: jax.tree.map(lambda x: 2 * x, tree), donate_argnums=0)(mine)
    with pytest.raises(RuntimeError, match="deleted"):
        np.asarray(mine["first"])
    assert torch.equal(teacher(x)["logits"], before) and teacher.fingerprint() == print_before


@pytest.mark.parametrize(
    ("function", "params", "words"),
    [(3, {"w": np.eye(3)}, "expected a function"), (len, {}, "expected a tree of arrays")],
)
def test_what_cannot_teach_is_refused(function: Any, params: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        JaxTeacher(function, params)


def test_a_batch_without_inputs_is_refused() -> None:
    with pytest.raises(KeyError, match="reads 'inputs', and the batch has index"):
        JaxTeacher(function, params())({"index": torch.arange(2)})
    with pytest.raises(TypeError, match="expected a batch that is a mapping"):
        targets(nn.Linear(4, 3), 7)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="targets expected teacher"):
        targets(7, {})  # type: ignore[arg-type]


def test_signals_and_batches_may_be_trees() -> None:
    """Tuples stay tuples, and are not stacked; what is inside mappings goes over, too."""
    x = torch.randn(5, 4)
    deep = JaxTeacher(
        lambda p, seen: {"logits": seen["a"] * p, "hidden": (seen["a"], {"last": -seen["a"]})},
        jnp.ones(()),
    )({"inputs": {"a": x}})
    assert torch.equal(deep["logits"], x) and isinstance(deep["hidden"], tuple)
    assert torch.equal(deep["hidden"][0], x) and torch.equal(deep["hidden"][1]["last"], -x)
    teacher = Teacher(nn.Linear(4, 3), forward=lambda model, batch: model(batch["inputs"]["a"]))
    said = [targets(teacher, {"inputs": {"a": way}})["logits"] for way in (x, x.numpy())]
    assert np.array_equal(*said)


@pytest.mark.parametrize("answer", [lambda p, x: (x, x), lambda p, x: [x], lambda p, x: None])
def test_an_answer_that_is_no_signals_is_refused(answer: Any) -> None:
    """Two arrays of one shape would be one of another."""
    with pytest.raises(TypeError, match="expected an array of logits, or a mapping"):
        JaxTeacher(answer, jnp.ones(()))({"inputs": torch.ones(2, 4)})

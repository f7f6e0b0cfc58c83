"""Every observation space and every action space: what the environment gave, or the way out."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from worlds import LENGTH, Reads, World

from distill_lib import KD, Teacher, distill, rl
from distill_lib.rl.spaces import Reader, check_action_space, legal

NUMBERS = ["float16", "float32", "float64", "uint8", "int8", "int16", "uint16", "int32", "uint32",
           "int64"]  # fmt: skip


@st.composite
def boxes(draw: Any) -> spaces.Box:
    dtype = np.dtype(draw(st.sampled_from(NUMBERS)))
    shape = tuple(draw(st.lists(st.integers(1, 4), max_size=3)))
    low, high = (-1.0, 1.0) if dtype.kind == "f" else (0, 100)
    if dtype.kind == "i":
        low = draw(st.integers(-100, 0))
    return spaces.Box(low, high, shape, dtype.type)


arrays = st.one_of(
    boxes(),
    st.builds(lambda n, s: spaces.Discrete(n, start=s), st.integers(1, 9), st.integers(-4, 4)),
    st.builds(spaces.MultiDiscrete, st.lists(st.integers(1, 5), min_size=1, max_size=4)),
    st.builds(spaces.MultiBinary, st.integers(1, 6)),
    st.just(spaces.MultiBinary((2, 3))),
    st.just(spaces.MultiDiscrete([[2, 3], [4, 5]])),
)
groups = st.builds(lambda a, b: spaces.Dict({"student": a, "teacher": b}), arrays, arrays)


def read(shown: list[Any], group: str | None) -> Tensor:
    """What a tensor of these observations must be, said in another way."""
    values = [np.asarray(one if group is None else one[group]) for one in shown]
    wide = {"float16": "float32", "float64": "float32", "uint16": "int32", "uint32": "int64"}
    kind = str(values[0].dtype)
    return torch.stack([torch.tensor(v.astype(wide.get(kind, kind))) for v in values])


def same(one: Tensor, two: Tensor) -> bool:
    return one.dtype == two.dtype and torch.equal(one, two)


@given(st.one_of(arrays, groups), st.sampled_from([0.0, 0.5, 1.0]), st.integers(1, 3))
def test_rollouts_carry_what_the_environment_gave(space: Any, beta: float, episodes: int) -> None:
    made: list[World] = []

    def world() -> World:
        made.append(World(space))
        return made[-1]

    teacher, student = Reads(), Reads()
    grouped = isinstance(space, spaces.Dict)
    found = rl.Rollouts(world, teacher, student, beta=beta, episodes=episodes, batch_size=3)
    batch = next(iter(found))
    buffer = found.buffer
    assert len(buffer["inputs"]) == found.labels_used == LENGTH * episodes
    assert found.played["length"].tolist() == [LENGTH] * episodes
    for episode, one in enumerate(made):
        mine = buffer["episode"] == episode
        seen = one.shown[:LENGTH]  # the last was seen by nobody
        assert same(buffer["inputs"][mine], read(seen, "student" if grouped else None))
        if grouped:
            assert same(buffer["privileged"][mine], read(seen, "teacher"))
        assert buffer["actions"][mine].tolist() == one.done
    # the teacher labels exactly what was seen, whoever drove
    asked = buffer["privileged" if grouped else "inputs"]
    assert same(teacher.asked[-1], asked)
    if beta < 1:
        at_first = read([one.shown[0] for one in made], "student" if grouped else None)
        assert same(student.asked[0], at_first)
    assert same(batch["inputs"], buffer["inputs"][batch["index"]])
    assert torch.equal(found.teacher(batch)["logits"], buffer["answer/logits"][batch["index"]])
    student.train()
    history = distill(student, found.teacher, [batch], KD(), epochs=1)
    assert len(history) == 1


@given(st.one_of(arrays, groups))
def test_evaluate_and_segments_see_the_same(space: Any) -> None:
    group = "student" if isinstance(space, spaces.Dict) else None
    made: list[World] = []

    def world() -> World:
        made.append(World(space))
        return made[-1]

    policy = Reads()
    found = rl.evaluate(policy, world, 2)
    assert found.returns.tolist() == found.lengths.tolist() == [LENGTH] * 2
    steps = [read([one.shown[i] for one in made], group) for i in range(LENGTH)]
    assert len(policy.asked) == LENGTH
    assert all(same(a, b) for a, b in zip(policy.asked, steps, strict=True))
    made.clear()
    segment = rl.OnPolicy(world, Reads(), envs=2, steps=LENGTH, batch_size=2 * LENGTH)
    segment.collect()
    inputs = segment.flat["inputs"].unflatten(0, (LENGTH, 2))
    for i, one in enumerate(made):
        assert same(inputs[:, i], read(one.shown[:LENGTH], group))
    if group is not None:
        assert same(segment.flat["privileged"][0], read([made[0].shown[0]], "teacher")[0])


@given(
    st.one_of(
        st.builds(lambda n, s: spaces.Discrete(n, start=s), st.integers(1, 5), st.integers(-3, 3)),
        st.builds(
            lambda shape, dtype: spaces.Box(-0.5, 0.5, tuple(shape), dtype),
            st.lists(st.integers(1, 3), max_size=2),
            st.sampled_from([np.float32, np.float64]),
        ),
    )
)
def test_actions_are_in_the_space_and_counted_from_zero(actions: Any) -> None:
    discrete = isinstance(actions, spaces.Discrete)
    width = int(actions.n) if discrete else 2 * int(np.prod(actions.shape))
    seen = spaces.Box(-1, 1, (2,), np.float32)
    made: list[World] = []

    def world() -> World:
        made.append(World(seen, actions))
        return made[-1]

    policy = Reads("logits" if discrete else "gaussian", width)
    rollouts = rl.Rollouts(world, policy, episodes=2, noise=1.0)
    rollouts.collect()
    segment = rl.OnPolicy(world, policy, envs=2, steps=LENGTH, batch_size=4)
    segment.collect()
    rl.evaluate(policy, world, 2, noise=1.0)
    assert len(made) == 6 and all(len(one.done) == LENGTH for one in made)
    for one, kept in (
        (made[0], rollouts.buffer["actions"][rollouts.buffer["episode"] == 0]),
        (made[2], segment.flat["actions"].unflatten(0, (LENGTH, 2))[:, 0]),
    ):
        done = np.stack(one.done)
        if discrete:
            assert (done - actions.start).tolist() == kept.tolist()
        else:
            assert kept.shape == (LENGTH, width // 2)
            assert np.allclose(done.reshape(LENGTH, -1), kept.clamp(-0.5, 0.5).numpy())


# ---- refused before the first step, with the way out ----

NO_ARRAYS = [
    (spaces.Tuple([spaces.Discrete(3), spaces.Discrete(2)]), "FlattenObservation"),
    (spaces.Text(5), "FlattenObservation"),
    (spaces.OneOf([spaces.Discrete(3), spaces.Box(0, 1, (2,))]), "FlattenObservation"),
    (spaces.Sequence(spaces.Discrete(3)), "no fixed size.*TransformObservation"),
    (spaces.Graph(spaces.Box(0, 1, (2,)), None), "no fixed size.*TransformObservation"),
    (spaces.Box(0, 2**64 - 1, (2,), np.uint64), "integers of 64 bits without sign"),
    (spaces.Dict({"student": spaces.Text(5), "teacher": spaces.Discrete(2)}), "group 'student'"),
]
NO_ACTIONS = [
    (spaces.MultiDiscrete([[3, 4]]), r"\(a, \(3, 4\)\)\).reshape\(1, 2\), gym.spaces.Discrete"),
    (spaces.MultiBinary(3), r"gym.spaces.Discrete\(8\)"),
    (spaces.MultiDiscrete([[16] * 6]), "has 16777216 combinations; choose some"),
    (spaces.Box(0, 9, (2,), np.int64), "real actions would be cut to integers"),
    (spaces.Tuple([spaces.Discrete(2), spaces.Box(0, 1, (2,))]), "gym.ActionWrapper"),
    (spaces.Dict({"a": spaces.Discrete(2)}), "gym.ActionWrapper"),
    (spaces.Text(3), "gym.ActionWrapper"),
]


def everywhere(world: Any) -> list[Any]:
    return [
        lambda: rl.evaluate(Reads(), world, 2),
        lambda: rl.sanity(Reads(), world, episodes=2, sees="student"),
        lambda: rl.Rollouts(world, Reads(), episodes=2).collect(),
        lambda: rl.OnPolicy(world, Reads(), envs=2, steps=4, batch_size=4),
        lambda: rl.video(Reads(), lambda **_: world()),
    ]


@pytest.mark.parametrize(("space", "way"), NO_ARRAYS, ids=lambda x: type(x).__name__)
def test_observations_that_are_no_arrays_are_refused(space: Any, way: str) -> None:
    for job in everywhere(lambda: World(space))[:4]:
        with pytest.raises(ValueError, match=way):
            job()
    with pytest.raises(ValueError, match=way):
        Reader(space)


@pytest.mark.parametrize(("space", "way"), NO_ACTIONS, ids=lambda x: type(x).__name__)
def test_actions_that_no_policy_takes_are_refused(space: Any, way: str) -> None:
    for job in everywhere(lambda: World(spaces.Box(-1, 1, (2,)), space))[:4]:
        with pytest.raises(ValueError, match=way):
            job()
    with pytest.raises(ValueError, match=f"actions are Discrete, .* or Box of real numbers.*{way}"):
        check_action_space(space)


def test_the_way_out_of_combined_actions_leads_out() -> None:
    made: list[World] = []

    def world() -> gym.Env[Any, Any]:
        made.append(World(spaces.Box(-1, 1, (2,)), spaces.MultiDiscrete([3, 4])))
        return gym.wrappers.TransformAction(
            made[-1], lambda a: np.array(np.unravel_index(a, (3, 4))), spaces.Discrete(12)
        )

    found = rl.evaluate(Reads(width=12), world, 3, noise=1.0)
    assert found.lengths.tolist() == [LENGTH] * 3 and np.stack(made[0].done).shape == (LENGTH, 2)


def test_the_way_out_of_observations_leads_out() -> None:
    space = spaces.Tuple([spaces.Discrete(3), spaces.Discrete(2)])

    def flat() -> gym.Env[Any, Any]:
        return gym.wrappers.FlattenObservation(World(space))

    with pytest.raises(ValueError, match=r"of torch.int64: .*DtypeObservation\(env, np.float32\)"):
        rl.evaluate(nn.Linear(5, 2), flat, 2)
    real = lambda: gym.wrappers.DtypeObservation(flat(), np.float32)  # noqa: E731
    assert rl.evaluate(nn.Linear(5, 2), real, 2).lengths.tolist() == [LENGTH] * 2


def test_a_missing_group_is_refused_before_the_first_step() -> None:
    world = lambda: World(spaces.Dict({"observation": spaces.Discrete(2)}))  # noqa: E731
    for job in everywhere(world):
        with pytest.raises(KeyError, match=r"no group 'student'; it has: observation.*Flatten"):
            job()
    assert rl.evaluate(Reads(), world, 2, sees="observation").lengths.tolist() == [LENGTH] * 2


def test_groups_that_nobody_reads_may_be_anything() -> None:
    world = lambda: World(  # noqa: E731
        spaces.Dict({"student": spaces.Discrete(2), "teacher": spaces.Box(0, 1, (2,)),
                     "mission": spaces.Text(9)})
    )  # fmt: skip
    rl.Rollouts(world, Reads(), episodes=2).collect()
    rl.OnPolicy(world, Reads(), envs=2, steps=6, batch_size=4).collect()


def test_a_space_that_lies_about_its_numbers_is_refused() -> None:
    space = spaces.Box(0, 255, (2,), np.uint8)
    read = Reader(space).read([np.array([1.0, 255.0]), np.array([0, 7])])
    assert read.dtype == torch.uint8 and read.tolist() == [[1, 255], [0, 7]]
    for lie in (0.5, 256.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="type float64 where its space says uint8"):
            Reader(space).read([np.array([lie, 0.0])])
    with pytest.raises(ValueError, match="are no arrays of one shape"):
        Reader(space).read([np.zeros(2), np.zeros(3)])
    with pytest.raises(ValueError, match="beyond float32"):
        Reader(spaces.Box(-np.inf, np.inf, (1,), np.float64)).read(np.array([[1e300]]))


def test_answers_of_another_shape_are_refused() -> None:
    image = lambda: World(spaces.Box(0, 1, (3, 3, 4), np.float32))  # noqa: E731
    with pytest.raises(ValueError, match=r"shape \[2, 3, 3, 2\] for \[2\] observations.*Flatten"):
        rl.evaluate(nn.Linear(4, 2), image, 2)

    class Column(Reads):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            said = super().forward(x)
            return {**said, "value": said["value"].unsqueeze(-1)}

    with pytest.raises(ValueError, match=r"'value' of shape \[2, 1\] for \[2\] observations"):
        rl.OnPolicy(image, Column(), envs=2, steps=4, batch_size=4).collect()
    with pytest.raises(TypeError, match="returned a tuple"):
        rl.evaluate(Answering(lambda x: (x, x)), image, 2)
    with pytest.raises(TypeError, match="got a tuple"):
        rl.evaluate(lambda batch: (1, 2), image, 2)
    with pytest.raises(ValueError, match="a policy is a module or a teacher, got int"):
        rl.evaluate(3, image, 2)


class Answering(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def test_changed_images_are_labeled_anew() -> None:
    image = lambda: World(spaces.Box(0, 255, (3, 3, 2), np.uint8))  # noqa: E731
    teacher = Reads()
    for seeds in (None, 3):
        found = rl.Rollouts(image, teacher, episodes=2, batch_size=5, seeds=seeds,
                            augment=lambda x, g: x.flip(-2))  # fmt: skip
        batch = next(iter(found))
        said = found.teacher(batch)["logits"]
        assert said.shape == (*batch["index"].shape, 2)
        wanted = teacher(batch["inputs"].reshape(-1, 3, 3, 2))["logits"]
        assert torch.equal(said.reshape(-1, 2), wanted)


def test_legal_actions_have_the_type_of_the_space() -> None:
    found = legal(torch.tensor([[9.0, -9.0]]), spaces.Box(-1, 1, (1, 2), np.float64))
    assert found.dtype == np.float64 and found.tolist() == [[[1.0, -1.0]]]
    found = legal(torch.tensor([0, 2]), spaces.Discrete(3, start=-1))
    assert found.dtype == np.int64 and found.tolist() == [-1, 1]


def test_a_teacher_is_asked_as_a_module_would_be() -> None:
    image = lambda: World(spaces.Box(0, 255, (3, 3, 2), np.uint8))  # noqa: E731
    teacher = Reads()
    one, two = (
        rl.Rollouts(image, source, episodes=2, noise=1.0) for source in (teacher, Teacher(teacher))
    )
    one.collect(), two.collect()
    assert all(torch.equal(one.buffer[k], two.buffer[k]) for k in one.buffer)

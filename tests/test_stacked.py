"""stacked: S networks as one give what S networks give."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from distill_lib import CE, KD, Cache, Stacked, Teacher, distill
from distill_lib.stacked import fold, unfold


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


def test_shared_inputs_reach_every_network() -> None:
    nets, x = [net().eval() for _ in range(3)], torch.randn(7, 4)
    said = Stacked(nets, ndim=2).eval()(x)
    assert torch.allclose(said, torch.stack([one(x) for one in nets]), atol=1e-6)


def test_separate_inputs_reach_their_network() -> None:
    nets, x = [net().eval() for _ in range(3)], torch.randn(3, 7, 4)
    said = Stacked(nets, ndim=2).eval()(x)
    assert torch.allclose(
        said, torch.stack([one(xi) for one, xi in zip(nets, x, strict=True)]), atol=1e-6
    )


def test_training_together_is_training_alone() -> None:
    nets = [net() for _ in range(3)]
    alone = copy.deepcopy(nets)
    teacher = Teacher(nn.Linear(4, 3))
    batches = [(torch.randn(8, 4), torch.randint(0, 3, (8,))) for _ in range(4)]
    objective = CE() + KD(temperature=2)
    stacked = Stacked(nets, ndim=2)
    distill(
        stacked,
        teacher,
        batches,
        objective,
        epochs=2,
        optimizer=lambda params: torch.optim.SGD(params, lr=0.3, momentum=0.9),
    )
    for model in alone:
        distill(
            model,
            teacher,
            batches,
            objective,
            epochs=2,
            optimizer=lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9),
        )
    for one, other in zip(stacked.unstack(), alone, strict=True):
        for key, value in other.state_dict().items():
            assert torch.allclose(one.state_dict()[key].float(), value.float(), atol=1e-5), key


def test_a_stack_saves_and_loads() -> None:
    one, two = Stacked([net(), net()], ndim=2), Stacked([net(), net()], ndim=2)
    two.load_state_dict(one.state_dict())
    x = torch.randn(5, 4)
    assert torch.equal(one.eval()(x), two.eval()(x))
    assert len(list(one.parameters())) == len(list(net().parameters()))


def test_dropout_differs_between_networks_and_stops_in_eval() -> None:
    model = nn.Sequential(nn.Linear(4, 50), nn.Dropout(0.5))
    both = Stacked([model, model], ndim=2)
    said = both(torch.randn(2, 4))
    assert not torch.equal(said[0], said[1])
    both.eval()
    said = both(torch.randn(2, 4))
    assert torch.equal(said[0], said[1])


def test_unstack_copies() -> None:
    stacked = Stacked([net(), net()], ndim=2)
    one = stacked.unstack()[0]
    with torch.no_grad():
        one[0].weight.zero_()
    assert stacked.unstack()[0][0].weight.abs().sum() > 0


def test_weights_that_are_shared_stay_shared() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
            self.second.weight = self.first.weight
            self.register_buffer("shift", torch.randn(4), persistent=False)
            self.first.register_buffer("shift", self.shift, persistent=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(self.first(x).tanh() + self.first.shift)

    nets, x = [Twice() for _ in range(3)], torch.randn(7, 4)
    stack = Stacked(nets, ndim=2)
    assert torch.allclose(stack(x), torch.stack([one(x) for one in nets]), atol=1e-6)
    with torch.no_grad():
        stack.weights["first/weight"].zero_()
    assert torch.equal(stack(x), stack(x + 1))  # nothing of the template's own weight is left


def test_the_mode_is_that_of_the_stack() -> None:
    nets = [net() for _ in range(2)]
    nets[0][1].eval()
    stack, x = Stacked(nets, ndim=2), torch.randn(2, 7, 4)
    before = stack._buffers["1/running_mean"].clone()
    stack.eval()(x)
    assert torch.equal(stack._buffers["1/running_mean"], before)
    stack.train()(x)
    assert not torch.equal(stack._buffers["1/running_mean"], before)


@pytest.mark.parametrize(
    ("shape", "words"),
    [((4,), r"rank 2 \(shared\) or 3"), ((2, 2, 2, 4), "rank 2"), ((3, 5, 4), "2 networks, but")],
)
def test_other_inputs_are_refused(shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Stacked([net(), net()], ndim=2)(torch.zeros(shape))


def test_a_stack_is_of_one_architecture() -> None:
    with pytest.raises(ValueError, match="one architecture"):
        Stacked([nn.Linear(4, 3), nn.Linear(4, 2)], ndim=2)
    with pytest.raises(ValueError, match="at least one model"):
        Stacked([], ndim=2)


# ---- one teacher for several students, each with its own batch ----


def own_batches() -> dict[str, torch.Tensor]:
    index = torch.stack([torch.randperm(20)[:6] for _ in range(3)])
    return {"index": index, "labels": index % 3, "inputs": torch.randn(20, 4)[index]}


def test_fold_and_unfold_are_inverse() -> None:
    batch = {**own_batches(), "name": "x"}
    folded = fold(batch)
    assert folded["inputs"].shape == (18, 4) and folded["name"] == "x"
    back = unfold({"a": folded["inputs"], "b": (folded["index"],), "c": None}, 3)
    assert torch.equal(back["a"], batch["inputs"])
    assert torch.equal(back["b"][0], batch["index"]) and back["c"] is None


def test_a_teacher_answers_the_batches_of_all_students() -> None:
    model, batch = net().eval(), own_batches()
    said = Teacher(model)(batch)
    assert torch.allclose(said, torch.stack([model(x) for x in batch["inputs"]]), atol=1e-6)


def test_a_cache_answers_the_batches_of_all_students(tmp_path) -> None:
    x, model = torch.randn(20, 4), net().eval()
    cache = Cache.build(tmp_path / "c", model, [{"inputs": a, "index": i} for i, a in enumerate(x)])
    index = own_batches()["index"]
    assert torch.allclose(cache({"index": index})["logits"], model(x)[index], atol=1e-6)


def test_a_stack_teaches_a_stack() -> None:
    nets, batch = [net().eval() for _ in range(3)], own_batches()
    said = Teacher(Stacked(nets, ndim=2))(batch)
    each = [one(x) for one, x in zip(nets, batch["inputs"], strict=True)]
    assert torch.allclose(said, torch.stack(each), atol=1e-6)


class Tabled(nn.Linear):
    """A layer with a table that is in no state_dict(), as the frequencies of Llama are."""

    def __init__(self) -> None:
        super().__init__(4, 3)
        self.register_buffer("table", torch.arange(3.0), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + self.table


def test_buffers_that_are_not_kept_are_unstacked_too() -> None:
    nets, x = [Tabled() for _ in range(3)], torch.randn(5, 4)
    for one, back in zip(nets, Stacked(nets, ndim=2).unstack(), strict=True):
        assert torch.equal(back(x), one(x))


@pytest.mark.parametrize("shapes", [((8, 1), (8, 4)), ((8, 1), (8,)), ((3, 6), (6, 4))])
def test_an_index_of_two_axes_is_of_several_students(shapes: Any) -> None:
    batch = {"index": torch.zeros(shapes[0]).long(), "inputs": torch.zeros(shapes[1])}
    with pytest.raises(ValueError, match=r"of S students and B items each, and batch\['inputs'\]"):
        Teacher(net())(batch)


def test_what_is_said_of_all_items_at_once_is_not_cut_apart() -> None:
    assert unfold(torch.tensor(2.0), 3).shape == ()
    with pytest.raises(ValueError, match=r"answered with \[1, 4\], which are not as many"):
        unfold(torch.zeros(1, 4), 3)


# ---- what a stack runs is what each network is ----


def hooked(model: nn.Module) -> nn.Module:
    model.register_forward_hook(lambda *_: None)
    return model


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Dropout(0.1)), r"'1' of model 1 is Tanh\(\)"),
        (nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Dropout(0.9)), "p=0.9"),
        (hooked(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Dropout(0.1))), "with hooked"),
        (nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Dropout(0.1)).double(), "or type"),
        (
            nn.Sequential(nn.Linear(4, 4).requires_grad_(False), nn.ReLU(), nn.Dropout(0.1)),
            "that trains weight, bias",
        ),
    ],
)
def test_networks_that_differ_in_more_than_weights_are_refused(
    other: nn.Module, words: str
) -> None:
    first = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Dropout(0.1))
    with pytest.raises(ValueError, match=words):
        Stacked([first, copy.deepcopy(first), other][::2], ndim=2)


def test_a_parametrized_layer_alone_is_refused_and_runs_in_a_model() -> None:
    made = [torch.nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3)) for _ in range(2)]
    with pytest.raises(ValueError, match=r"nn\.Sequential\(layer\)"):
        Stacked(made, ndim=2)
    stack = Stacked([nn.Sequential(one) for one in made], ndim=2).eval()
    assert torch.allclose(stack(torch.eye(4))[1], made[1].eval()(torch.eye(4)), atol=1e-6)


def test_what_is_frozen_stays_frozen() -> None:
    def half() -> nn.Sequential:
        made = net()
        made[0].requires_grad_(False)
        return made

    stack = Stacked([half(), half()], ndim=2)
    before = stack.weights["0/weight"].clone()
    batches = [(torch.randn(8, 4), torch.randint(0, 3, (8,)))]
    distill(stack, None, batches, CE(), steps=3)
    assert torch.equal(stack.weights["0/weight"], before)
    assert [one[0].weight.requires_grad for one in stack.unstack()] == [False, False]
    copies = Stacked([net().requires_grad_(False) for _ in range(2)], ndim=2)  # of a teacher
    assert all(weight.requires_grad for weight in copies.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_networks_come_out_in_the_type_of_the_stack(dtype: torch.dtype) -> None:
    nets = [net().double() for _ in range(2)]
    stack = Stacked(nets, ndim=2).to(dtype)
    for one, back in zip(nets, stack.unstack(), strict=True):
        want = one.to(dtype).state_dict()
        assert all(torch.equal(v, want[k]) for k, v in back.state_dict().items())
        assert back[0].weight.dtype == back[1].running_mean.dtype == dtype

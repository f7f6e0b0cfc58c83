"""What a call says is heard: how a model is asked beside its layers, what is trained, what is told.

Members of the laws that were found by attacks.
"""

from __future__ import annotations

import copy
from collections import namedtuple
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from distill_lib import CE, EMA, KD, Match, Teacher, capture, distill, fit_projectors, losses
from distill_lib.objective import Term

X, Y = torch.randn(6, 4), torch.arange(6) % 5
BATCH = {"inputs": X, "labels": Y}


class Net(nn.Module):
    """Parts that a caller may put together otherwise, and an answer in a tuple."""

    def __init__(self, several: bool = False) -> None:
        super().__init__()
        self.trunk: nn.Module = nn.Sequential(nn.Linear(4, 8), nn.Tanh())
        self.head: nn.Module = nn.Linear(8, 5)
        self.several = several

    def forward(self, x: Tensor) -> Any:
        hidden = self.trunk(x)
        return (self.head(hidden), hidden) if self.several else self.head(hidden)


FORWARDS: dict[str, tuple[bool, Callable[[Any, Mapping[str, Any]], Any]]] = {
    "called": (False, lambda net, batch: net(batch["inputs"])),
    "scaled": (False, lambda net, batch: 2 * net(batch["inputs"])),
    "cut": (False, lambda net, batch: {"logits": net(batch["inputs"])[:, :3]}),
    "by its parts": (False, lambda net, batch: net.head(net.trunk(batch["inputs"]))),
    "one of several": (True, lambda net, batch: net(batch["inputs"])[0]),
}


@given(
    mine=st.sampled_from([*FORWARDS]),
    theirs=st.sampled_from([*FORWARDS]),
    layer=st.sampled_from(["trunk", "trunk.0", "head"]),
    wrapped=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_a_forward_is_given_the_model_also_beside_layers(
    mine: str, theirs: str, layer: str, wrapped: bool
) -> None:
    (several, ask), (other, teach) = FORWARDS[mine], FORWARDS[theirs]
    student, teacher = Net(several), Net(other)
    if (mine == "cut") != (theirs == "cut"):
        theirs, other, teach = mine, several, ask
        teacher = Net(other)
    seen: list[nn.Module] = []

    def heard(net: nn.Module, batch: Mapping[str, Any]) -> Any:
        seen.append(net)
        return ask(net, batch)

    want_layer = losses.hint(
        student=student.get_submodule(layer)(X if layer != "head" else student.trunk(X)),
        teacher=teacher.get_submodule(layer)(X if layer != "head" else teacher.trunk(X)),
    ).mean()
    z, v = ask(student, BATCH), teach(teacher, BATCH)
    z, v = (one["logits"] if isinstance(one, dict) else one for one in (z, v))
    want = losses.kl(student=z, teacher=v).mean()
    objective = KD() + Match(layer)
    brought = nn.DataParallel(student) if wrapped and mine != "by its parts" else student
    taught = Teacher(teacher, forward=teach)
    history = distill(brought, taught, [BATCH], objective, steps=1, lr=0.0, forward=heard)
    assert history["kd"] == pytest.approx([want.item()], rel=1e-5, abs=1e-7)
    assert history["match"] == pytest.approx([want_layer.item()], rel=1e-5, abs=1e-7)
    assert seen == [brought] and taught.model is teacher


def test_a_view_of_the_user_s_own_is_given_as_it_is() -> None:
    student = capture(Net(), "trunk")
    ask = FORWARDS["called"][1]
    history = distill(student, None, [BATCH], CE(), steps=1, forward=lambda m, b: {
        "logits": ask(m, b)["trunk"]})  # fmt: skip
    assert len(history) == 1


def test_an_average_in_half_precision_is_exact_also_when_layers_are_read(tmp_path: Any) -> None:
    def ask(net: nn.Module, batch: Mapping[str, Any]) -> Any:
        return net(batch["inputs"].bfloat16())

    whole, rate = Net().bfloat16(), 0.5
    begun = copy.deepcopy(whole.state_dict())

    def trained(steps: int, objective: Any, path: Any = None) -> tuple[nn.Module, EMA]:
        student = Net().bfloat16()
        student.load_state_dict(begun)
        mean = EMA(student, 0.999, forward=ask)
        distill(student, mean, [BATCH], objective, steps=steps, checkpoint=path, forward=ask,
                optimizer=lambda params: torch.optim.SGD(params, lr=rate))  # fmt: skip
        return student, mean

    by_hand = Net().bfloat16()
    by_hand.load_state_dict(begun)
    exact = {name: value.float() for name, value in by_hand.named_parameters()}
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=rate)
    for _ in range(6):
        optimizer.zero_grad()
        CE()(ask(by_hand, BATCH), None, BATCH)[0].backward()
        optimizer.step()
        for name, value in by_hand.named_parameters():
            exact[name] = exact[name] + (1 - 0.999) * (value.detach().float() - exact[name])
    idle = 0.0 * Match("trunk")  # is captured, and pulls nowhere
    for path in (None, tmp_path / "c"):
        if path is not None:
            trained(3, CE() + idle, path)  # goes on from there
        student, mean = trained(6, CE() + idle, path)
        for (name, value), kept in zip(exact.items(), mean.model.parameters(), strict=True):
            assert torch.allclose(mean.state_dict()[f"exact/{name}"], value, atol=1e-6), name
            assert torch.equal(kept, mean.state_dict()[f"exact/{name}"].bfloat16())
        assert not torch.equal(next(student.parameters()), next(mean.model.parameters()))


def test_the_best_of_an_average_that_is_captured_is_kept() -> None:
    student = Net().bfloat16()
    mean = EMA(student, 0.9, forward=lambda net, b: net(b["inputs"].bfloat16()))
    states: list[Any] = []

    def look(epoch: int, history: Any) -> dict[str, float]:
        states.append(copy.deepcopy(mean.state_dict()))
        return {"worth": [1.0, 3.0, 2.0][epoch - 1]}

    distill(student, mean, [BATCH], CE() + Match("trunk"), epochs=3, each_epoch=look,
            keep_best="worth", forward=mean.forward)  # fmt: skip
    assert all(torch.equal(value, states[1][name]) for name, value in mean.state_dict().items())


@given(forgotten=st.sets(st.integers(0, 5), max_size=6))
@settings(max_examples=20, deadline=None)
def test_an_optimizer_forgets_nothing_however_it_is_made(forgotten: set[int]) -> None:
    objective = CE() + Match("trunk", project=nn.Linear(8, 8))

    def make(params: list[nn.Parameter]) -> torch.optim.Optimizer:
        kept = [p for i, p in enumerate(params) if i not in forgotten]
        return torch.optim.SGD(kept or [nn.Parameter(torch.zeros(1))], lr=0.1)

    def train() -> Any:
        return distill(Net(), Net(), [BATCH], objective, steps=1, optimizer=make)

    if not forgotten:
        assert len(train()) == 1
    else:
        with pytest.raises(ValueError, match=rf"forgets {len(forgotten)} of 6 .*requires_grad_"):
            train()


@pytest.mark.parametrize(
    "forward",
    [
        lambda net, batch: net(batch["inputs"]).detach(),
        lambda net, batch: torch.no_grad()(net)(batch["inputs"]),
    ],
)
def test_a_loss_without_a_gradient_is_refused(forward: Any) -> None:
    with pytest.raises(ValueError, match="depends on nothing that is trained"):
        distill(Net(), None, [BATCH], CE(), steps=1, forward=forward)


def test_weights_of_0_train_nothing_whatever_a_model_says_first() -> None:
    def forward(net: nn.Module, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        return {"classes": batch["labels"], "logits": net(batch["inputs"])}

    history = distill(Net(), None, [BATCH], 0 * CE(), steps=1, forward=forward)
    assert history["loss"] == [0.0]


def test_sparse_gradients_are_not_clipped() -> None:
    batch = (torch.zeros(6, 2, dtype=torch.long), Y)
    bag = nn.Sequential(nn.EmbeddingBag(3, 5, sparse=True))
    more: dict[str, Any] = {"steps": 1, "optimizer": torch.optim.SparseAdam}
    with pytest.raises(ValueError, match=r"sparse ones of 0, a EmbeddingBag: set its sparse = F"):
        distill(bag, None, [batch], CE(), clip_norm=1.0, **more)
    assert len(distill(bag, None, [batch], CE(), **more)) == 1
    bag[0].sparse = False
    assert len(distill(bag, None, [batch], CE(), clip_norm=1.0, steps=1)) == 1


class Named(Term):
    """A term of a user's, with any key."""

    def __init__(self, key: str, value: float) -> None:
        super().__init__()
        self.key, self.value = key, value
        self.reads = {"student": ("logits",), "teacher": ()}

    def values(self, student: Any, teacher: Any, batch: Any, progress: float) -> Tensor:
        return 0 * student.sum(-1) + self.value

    def text(self) -> str:
        return self.key


@given(st.lists(st.sampled_from(["loss", "lr", "step", "kd", "kd_2", "loss_2"]), max_size=6))
@settings(max_examples=30, deadline=None)
def test_no_term_hides_another_number_of_the_history(keys: list[str]) -> None:
    terms = [Named(key, 2.0**i) for i, key in enumerate(keys)]
    objective = sum(terms, 1.0 * Named("first", 64.0))
    history = distill(Net(), None, [BATCH], objective, steps=1, lr=0.25)
    row = history.last
    assert len(row) == len(keys) + 4 and row["step"] == 1 and row["lr"] == 0.25
    assert row["loss"] == 64 + 2 ** len(keys) - 1
    found = [row[name] for name in objective.names]
    assert found == [64.0, *(2.0**i for i in range(len(keys)))]
    ordinary = (KD() + KD() + CE() + KD()).names
    assert ordinary == ["kd", "kd_2", "ce", "kd_3"]


@given(order=st.permutations(["inputs", "labels", "index"]), fields=st.integers(2, 3))
@settings(max_examples=20, deadline=None)
def test_named_tuples_keep_their_names(order: list[str], fields: int) -> None:
    names = [name for name in order if fields == 3 or name != "index"]
    batch = namedtuple("batch", names)(**{n: {**BATCH, "index": Y}[n] for n in names})  # type: ignore[misc]
    torch.manual_seed(0)
    student = Net()
    found, want = (
        distill(copy.deepcopy(student), None, [one], CE(), steps=1) for one in (batch, (X, Y))
    )
    assert found.records == want.records
    other = namedtuple("other", ["x", "y"])(X, Y)
    assert distill(copy.deepcopy(student), None, [other], CE(), steps=1).records == want.records


class Aliased(Net):
    """A part under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.body: nn.Module = self.trunk


@pytest.mark.parametrize("layer", ["body", "body.0", "trunk.0"])
@pytest.mark.parametrize("captured", [False, True])
def test_a_layer_has_all_the_names_that_a_model_gives_it(layer: str, captured: bool) -> None:
    student, teacher = Aliased(), Aliased()
    inner = copy.deepcopy(student).get_submodule(layer), teacher.get_submodule(layer)
    want = losses.hint(student=inner[0](X), teacher=inner[1](X)).mean().item()
    brought = capture(student, "head") if captured else student
    history = distill(brought, teacher, [{"inputs": X}], Match(layer), steps=1)
    assert history["match"] == pytest.approx([want])


def test_a_misspelt_signal_is_told_the_layers_as_they_are_written() -> None:
    with pytest.raises(KeyError, match=r"layers are trunk, trunk\.0, trunk\.1, head.$"):
        distill(Net(), Net(), [BATCH], Match("trunk") + Match("logit"), steps=1)


def test_projectors_begin_from_inner_layers_too() -> None:
    student, teacher = Net(), Net()
    objective = 1.0 * Match("trunk", "trunk.0", project=nn.Linear(8, 8))
    fit_projectors(objective, student, teacher, {"inputs": torch.randn(40, 4)}, ridge=0.0)
    assert not student.trunk._forward_hooks
    z = torch.linspace(-1, 1, 20).view(5, 4)
    found = objective.terms[0].project(student.trunk(z)), teacher.trunk[0](z)  # type: ignore
    assert losses.hint(student=found[0], teacher=found[1]).mean() < 0.1 * found[1].square().mean()

"""teachers: they teach, and are never changed."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distill_lib import CE, EMA, KD, Ensemble, Match, Peers, Teacher, capture, distill
from distill_lib.teachers.live import Source, fingerprint


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3))


def data(n: int = 4, size: int = 8) -> list[dict[str, Tensor]]:
    return [
        {"inputs": torch.randn(size, 4), "labels": torch.randint(0, 3, (size,))} for _ in range(n)
    ]


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items()}


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


# ---- Teacher ----


def test_a_teacher_answers_in_eval_mode_even_after_train() -> None:
    model, batch = net(), data(1)[0]
    teacher = Teacher(model)
    first = teacher(batch)
    model.train()
    assert torch.equal(teacher(batch), first)
    assert not any(part.training for part in model.modules())


def test_a_teacher_gives_no_gradient() -> None:
    said = Teacher(net())({"inputs": torch.randn(2, 4, requires_grad=True)})
    assert not said.requires_grad


@pytest.mark.parametrize("bn_train", [False, True])
def test_a_teacher_is_unchanged_bit_for_bit(bn_train: bool) -> None:
    model = net()
    before = state_of(model)
    distill(nn.Linear(4, 3), Teacher(model, bn_train=bn_train), data(), CE() + KD(), epochs=2)
    assert same(before, state_of(model))
    assert all(p.grad is None for p in model.parameters())


def test_a_teacher_is_no_part_of_a_student_that_holds_it() -> None:
    class Student(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 3)
            self.teacher = Teacher(net())

    student = Student()
    assert set(student.state_dict()) == {"head.weight", "head.bias"}
    assert len(list(student.parameters())) == 2
    student.train()
    assert not student.teacher.model.training


def test_preprocess_changes_what_the_teacher_sees() -> None:
    model, x = nn.Linear(4, 3), torch.randn(2, 4)
    teacher = Teacher(model, preprocess=lambda batch: {"inputs": 2 * batch["inputs"]})
    assert torch.equal(teacher((x, None)), model(2 * x))


def test_forward_says_how_the_model_is_called() -> None:
    model, x = nn.Linear(4, 3), torch.randn(2, 4)
    teacher = Teacher(model, forward=lambda m, batch: {"mean": m(batch["x"])})
    assert torch.equal(teacher({"x": x})["mean"], model(x))


def test_bn_train_uses_the_batch_and_leaves_the_running_statistics() -> None:
    model, batch = net(), {"inputs": 5 + 3 * torch.randn(64, 4)}
    seen = {}
    model[1].register_forward_hook(lambda m, args, out: seen.update(out=out))
    Teacher(model, bn_train=True)(batch)
    assert seen["out"].mean(0).abs().max() < 1e-5
    Teacher(model, bn_train=True)(batch)
    assert model[1].running_mean.abs().max() == 0 and model[1].num_batches_tracked == 0
    assert not model[2].training


def test_a_teacher_needs_a_module() -> None:
    with pytest.raises(TypeError, match=r"expected an nn.Module.*Cache\(path\).*Ensemble"):
        Teacher("resnet.pt")


def test_reveal_captures_and_keeps_what_was_captured() -> None:
    teacher = Teacher(net())
    teacher.reveal(["logits", "0"])
    assert set(teacher(data(1)[0])) == {"logits", "0"}
    teacher.reveal(["3"])
    assert set(teacher(data(1)[0])) == {"logits", "0", "3"}
    assert len(teacher.model.model[0]._forward_hooks) == 1
    teacher.reveal(["0"])
    assert set(teacher(data(1)[0])) == {"logits", "0", "3"}


def test_reveal_adds_to_a_captured_model() -> None:
    teacher = Teacher(capture(net(), "0"))
    teacher.reveal(["1"])
    assert set(teacher(data(1)[0])) == {"logits", "0", "1"}


def test_the_same_teacher_serves_objectives_with_other_layers() -> None:
    teacher = Teacher(net())
    for layer in ("0", "1"):
        student = net()
        history = distill(student, teacher, data(), Match(layer), epochs=1)
        assert len(history["match"]) == 4


def test_every_kind_is_a_source() -> None:
    sources = [Teacher(net()), EMA(net(), 0.9), Ensemble([net()]), Peers([net(), net()]).others()]
    assert all(isinstance(source, Source) for source in sources)


# ---- fingerprints ----


def test_a_fingerprint_follows_weights_buffers_and_names() -> None:
    model = net()
    first = fingerprint(model)
    assert first == fingerprint(copy.deepcopy(model)) and len(first) == 64
    model[1].running_mean[0] += 1
    second = fingerprint(model)
    with torch.no_grad():
        model[0].weight[0, 0] += 1e-6
    third = fingerprint(model)
    assert len({first, second, third, fingerprint(nn.Sequential(model))}) == 4


def test_a_fingerprint_follows_the_type() -> None:
    model = nn.Linear(2, 2)
    assert fingerprint(model) != fingerprint(copy.deepcopy(model).double())


def test_capturing_layers_changes_no_fingerprint() -> None:
    teacher = Teacher(net())
    before = teacher.fingerprint()
    teacher.reveal(["0"])
    assert teacher.fingerprint() == before


class Extra(nn.Linear):
    """A state that is no tensor, as models in eight bits have."""

    def __init__(self, extra: Any) -> None:
        super().__init__(2, 2)
        nn.init.zeros_(self.weight), nn.init.zeros_(self.bias)
        self.extra = extra

    def get_extra_state(self) -> Any:
        return self.extra

    def set_extra_state(self, state: Any) -> None:
        self.extra = state


class Buffer(nn.Module):
    def __init__(self, tensor: Tensor) -> None:
        super().__init__()
        self.register_buffer("tensor", tensor)


def quantized(scale: float) -> Tensor:
    return torch.quantize_per_tensor(torch.tensor([0.25, 0.5]), scale, 0, torch.qint8)


ONES, TWOS = torch.eye(3), 2 * torch.eye(3)
DIFFERENT: dict[str, Callable[[], tuple[nn.Module, nn.Module]]] = {
    "numbers": lambda: (Extra({"scale": 1.0}), Extra({"scale": 2.0})),
    "names": lambda: (Extra({"scale": 1.0}), Extra({"amax": 1.0})),
    "tensors": lambda: (Extra([ONES, None]), Extra([TWOS, None])),
    "bytes": lambda: (Extra(io.BytesIO(b"a")), Extra(io.BytesIO(b"b"))),
    "sparse": lambda: (Buffer(ONES.to_sparse()), Buffer(TWOS.to_sparse())),
    "places": lambda: (Buffer(ONES.to_sparse()), Buffer(ONES.flip(0).to_sparse())),
    "compressed": lambda: (Buffer(ONES.to_sparse_csr()), Buffer(TWOS.to_sparse_csr())),
    "complex": lambda: (Buffer(torch.tensor([1j])), Buffer(torch.tensor([1j]).conj())),
    "half": lambda: (Buffer(ONES.bfloat16()), Buffer(TWOS.bfloat16())),
    "quantized": lambda: (Buffer(quantized(0.25)), Buffer(quantized(0.5))),
}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", DIFFERENT)
def test_a_fingerprint_follows_what_is_no_plain_tensor(kind: str) -> None:
    (one, two), (again, _) = DIFFERENT[kind](), DIFFERENT[kind]()
    assert fingerprint(one) == fingerprint(again) != fingerprint(two)


def test_a_state_without_a_fingerprint_is_refused_with_a_way_out() -> None:
    with pytest.raises(ValueError, match=r"'_extra_state/x' is a object.*derive a class"):
        fingerprint(Extra({"x": object()}))


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda m: torch.compile(m, backend="eager")])
def test_wrappers_change_neither_names_nor_fingerprint(wrap: Any) -> None:
    model = net()
    before, said = fingerprint(model), Teacher(capture(model, "0"))(data(1)[0])
    teacher = Teacher(wrap(model))
    undo = teacher.reveal(["0"])
    assert teacher.fingerprint() == before
    assert list(teacher(data(1)[0])) == list(said) == ["logits", "0"]
    undo()
    assert teacher.fingerprint() == before and len(model[0]._forward_hooks) == 1


def test_bn_train_is_part_of_the_fingerprint() -> None:
    model = net()
    assert Teacher(model).fingerprint() != Teacher(model, bn_train=True).fingerprint()


# ---- EMA ----


def test_the_average_moves_towards_the_student() -> None:
    student = nn.Linear(2, 2)
    average = EMA(student, 0.75)
    start = student.weight.detach().clone()
    with torch.no_grad():
        student.weight += 1
    average.update(student)
    assert torch.allclose(average.model.weight, start + 0.25)


def test_the_average_is_a_copy_without_gradient_that_copies_buffers() -> None:
    student = net()
    average = EMA(student, 0.9)
    student.train()
    student(torch.randn(8, 4))
    average.update(student)
    assert torch.equal(average.model[1].running_mean, student[1].running_mean)
    assert average.model[0].weight is not student[0].weight
    assert not any(p.requires_grad for p in average.model.parameters())


def test_distill_updates_the_average_after_every_step() -> None:
    student = nn.Linear(4, 3)
    teacher = EMA(student, 0.5)
    by_hand = copy.deepcopy(student)

    seen = []
    teacher_update = teacher.update
    teacher.update = lambda model: (seen.append(1), teacher_update(model))
    distill(student, teacher, data(3), CE() + KD(), steps=3)
    assert len(seen) == 3
    assert not torch.equal(teacher.model.weight, by_hand.weight)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_decay_lies_below_one(decay: float) -> None:
    with pytest.raises(ValueError, match=r"decay lies in \[0, 1\)"):
        EMA(net(), decay)


def test_the_average_keeps_its_name_and_its_state() -> None:
    student = net()
    one, two = EMA(student, 0.9), EMA(net(), 0.9)
    before = one.fingerprint()
    one.update(net())
    assert one.fingerprint() == before == two.fingerprint() != EMA(student, 0.8).fingerprint()
    two.load_state_dict(one.state_dict())
    assert same(one.state_dict(), two.state_dict())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_average_of_a_half_precision_student_moves(dtype: torch.dtype) -> None:
    student = nn.Linear(2, 2).to(dtype)
    average = EMA(student, 0.9999)
    start = student.weight.detach().float().clone()
    with torch.no_grad():
        student.weight += 1
    goal = student.weight.detach().float()
    for _ in range(1000):
        average.update(student)
    right = goal + (start - goal) * 0.9999**1000
    torch.testing.assert_close(average.model.weight.float(), right, rtol=0.01, atol=0.01)
    again = EMA(student, 0.9999)
    again.load_state_dict(average.state_dict())
    for one in (average, again):
        one.update(student)
    assert torch.equal(again.state_dict()["exact/weight"], average.state_dict()["exact/weight"])
    assert torch.equal(again.model.weight, average.model.weight)


def test_whole_numbers_of_a_student_are_copied() -> None:
    student = nn.Linear(2, 2)
    student.count = nn.Parameter(torch.zeros(3, dtype=torch.long), requires_grad=False)
    average = EMA(student, 0.5)
    student.count += 4
    average.update(student)
    assert average.model.count.tolist() == [4, 4, 4]


def test_bare_inputs_are_a_batch_of_inputs() -> None:
    """As in a loop of one's own: objective(student(x), teacher(x), batch)."""
    x, net = torch.randn(5, 4), nn.Linear(4, 3)
    for teacher in (Teacher(net), EMA(net, 0.9), Ensemble([net], space="logit")):
        torch.testing.assert_close(teacher(x), teacher({"inputs": x}))


@pytest.mark.parametrize("other", [nn.Linear(1, 3), nn.Linear(4, 3, bias=False), net()])
def test_an_average_is_of_weights_of_the_same_shapes(other: nn.Module) -> None:
    """[3, 1] beside [3, 4] would be spread over it."""
    average = EMA(nn.Linear(4, 3), 0.9)
    before = copy.deepcopy(average.model.state_dict())
    with pytest.raises(ValueError, match="not of the shapes that it is the average of"):
        average.update(other)
    assert all(torch.equal(v, before[k]) for k, v in average.model.state_dict().items())

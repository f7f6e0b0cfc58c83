"""teachers: they teach, and are never changed."""

from __future__ import annotations

import copy

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


# ---- Peers ----


def test_each_peer_is_taught_by_the_mean_of_the_others() -> None:
    cohort = Peers([nn.Linear(4, 3) for _ in range(3)])
    said = cohort(torch.randn(5, 4)).detach()
    taught = cohort.others()({})
    mean = (said[1].softmax(-1) + said[2].softmax(-1)) / 2
    assert torch.allclose(taught[0].exp(), mean, atol=1e-6)
    assert not taught.requires_grad


def test_two_peers_teach_each_other() -> None:
    cohort = Peers([nn.Linear(4, 3), nn.Linear(4, 3)])
    said = cohort(torch.randn(5, 4)).detach()
    assert torch.allclose(cohort.others()({}), said.flip(0).log_softmax(-1), atol=1e-6)


def test_peers_in_half_precision_teach_in_full() -> None:
    cohort = Peers([nn.Linear(4, 3).bfloat16(), nn.Linear(4, 3).bfloat16()])
    cohort(torch.randn(5, 4).bfloat16())
    assert cohort.others()({}).dtype == torch.float32


def test_mutual_learning_in_one_run_improves_every_peer() -> None:
    truth = torch.randn(4, 3)
    x = torch.randn(256, 4)
    batches = [{"inputs": x[i::8], "labels": (x[i::8] @ truth).argmax(-1)} for i in range(8)]
    cohort = Peers([nn.Linear(4, 3), nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))])

    def accuracies() -> Tensor:
        with torch.no_grad():
            return (cohort(x).argmax(-1) == (x @ truth).argmax(-1)).float().mean(-1)

    before = accuracies()
    history = distill(cohort, cohort.others(), batches, CE() + KD(), epochs=8, lr=0.02)
    after = accuracies()
    assert (after > before + 0.1).all() and (after > 0.85).all()
    assert history["kd"][-1] < history["kd"][0]


def test_peers_are_several() -> None:
    with pytest.raises(ValueError, match="at least two models, got 1"):
        Peers([net()])


def test_the_others_speak_after_the_cohort() -> None:
    others = Peers([net(), net()]).others()
    with pytest.raises(RuntimeError, match="seen no batch yet"):
        others({})
    assert others.fingerprint() != Peers([net(), net(), net()]).others().fingerprint()

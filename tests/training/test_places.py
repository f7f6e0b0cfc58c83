"""Where models are trained, and where they are found again; with a device that is emulated."""

from __future__ import annotations

import copy
import tempfile
from itertools import chain
from pathlib import Path

import pytest
import torch
from second_device import tried
from torch import nn
from torch.nn import functional as F

from distill_lib import (
    CE,
    EMA,
    KD,
    PPO,
    Adversarial,
    Cache,
    Label,
    Match,
    Stacked,
    agreement,
    distill,
    evaluate,
    linear,
    losses,
    rl,
    zoo,
)
from distill_lib.models import SmallGPT
from distill_lib.sequences import Completions, Walks

CPU, THERE = torch.device("cpu"), torch.device("cuda", 0)


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def batches(n: int = 3) -> list[dict[str, torch.Tensor]]:
    draw = torch.Generator().manual_seed(1)
    return [
        {"inputs": torch.randn(16, 4, generator=draw),
         "labels": torch.randint(3, (16,), generator=draw),
         "index": torch.arange(16 * k, 16 * k + 16)}
        for k in range(n)
    ]  # fmt: skip


def devices(*modules: object) -> set[torch.device]:
    return {t.device for m in modules for t in chain(m.parameters(), m.buffers())}


def models_go_back() -> None:
    student, teacher = net(), net(1)
    same = list(student.parameters())
    seen = []
    look = lambda *_: seen.append(devices(student, teacher))  # noqa: E731
    distill(student, teacher, batches(), CE() + KD(), epochs=2, each_epoch=look)
    assert seen[0] == {THERE} and devices(student, teacher) == {CPU}
    assert all(one is other for one, other in zip(student.parameters(), same, strict=True))
    student(batches()[0]["inputs"])


def models_that_are_there_stay() -> None:
    student, teacher = net().to("cuda"), net(1).to("cuda")
    distill(student, teacher, batches(), KD(), epochs=1)
    assert devices(student, teacher) == {THERE}
    assert evaluate(student, batches())["accuracy"] >= 0
    assert agreement(student, net(1), batches()) >= 0


def also_after_an_error() -> None:
    def broken(epoch: int, history: object) -> None:
        raise KeyError("mine")

    student, teacher = net(), net(1)
    with pytest.raises(KeyError, match="mine"):
        distill(student, teacher, batches(), KD(), epochs=1, each_epoch=broken)
    assert devices(student, teacher) == {CPU}


def an_optimizer_goes_along() -> None:
    student = net()
    adam = torch.optim.AdamW(student.parameters(), lr=1e-2)
    for _ in range(2):
        distill(student, net(1), batches(), KD(), epochs=1, optimizer=adam)
        F.cross_entropy(student(batches()[0]["inputs"]), batches()[0]["labels"]).backward()
        adam.step()


def projectors_averages_and_discriminators_go_along() -> None:
    student = net()
    match = Match("0", project=nn.Linear(8, 8))
    judge = Adversarial(nn.Linear(3, 1))
    mean = EMA(student, 0.9)
    distill(student, net(1), batches(), KD() + match + 0.1 * judge, epochs=1)
    distill(student, mean, batches(), KD(), epochs=1)
    assert devices(student, match, judge, mean.model) == {CPU}
    beside = EMA(student, 0.9)
    follow = lambda *_: beside.update(student)  # noqa: E731
    distill(student, None, batches(), CE(), epochs=2, each_epoch=follow)
    assert devices(beside.model) == {CPU}


def stacked_students_go_along() -> None:
    students = Stacked([net(0), net(1)], ndim=2)
    distill(students, net(2), batches(), KD() + CE(), epochs=1)
    assert devices(students) == {CPU}
    assert students(batches()[0]["inputs"]).shape == (2, 16, 3)


def weights_and_caches_may_stay_behind() -> None:
    rows = [{key: batch[key][i] for key in batch} for batch in batches() for i in range(16)]
    weights = CE(weight=torch.tensor([1.0, 2.0, 3.0]))
    with tempfile.TemporaryDirectory() as folder:
        cache = Cache.build(Path(folder) / "said.cache", net(1), rows, progress=False)
        distill(net(), cache, batches(), KD() + weights, epochs=1)
        distill(net(), cache, batches(), Label(F.cross_entropy) + KD(losses.jsd), epochs=1)


def answers_on_the_cpu_are_carried_there() -> None:
    answers = torch.randn(48, 3)

    def told(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"logits": answers[batch["index"].cpu()]}

    told.fingerprint = lambda: "answers"
    distill(net(), told, batches(), KD() + CE(), epochs=1)


def what_is_kept_as_best_is_right() -> None:
    student = net()
    history = distill(student, net(1), batches(), KD(), epochs=3, keep_best="accuracy",
                      each_epoch=lambda *_: evaluate(student, batches()))  # fmt: skip
    best = max(a for a in history["accuracy"] if a == a)
    assert evaluate(student, batches())["accuracy"] == pytest.approx(best)


def training_is_the_same_there() -> None:
    near, there = net(), copy.deepcopy(net()).to("cuda")
    distill(near, net(1), batches(), KD(), epochs=2, seed=0)
    distill(there, net(1), batches(), KD(), epochs=2, seed=0)
    for one, other in zip(near.parameters(), there.parameters(), strict=True):
        torch.testing.assert_close(one, other.cpu())


def students_play_from_there() -> None:
    student = Stacked([zoo.Policy(4, 2, (16,)) for _ in range(2)], ndim=2)
    teacher = zoo.load_teacher("cartpole_ppo")
    play = rl.Rollouts("CartPole-v1", teacher, student, beta=linear(1, 0), rounds=2, episodes=1,
                       updates=5, batch_size=8)  # fmt: skip
    distill(
        student,
        play.teacher,
        play,
        KD(),
        epochs=2,
        each_epoch=lambda *_: {"return": rl.evaluate(student, "CartPole-v1", 1).mean},
    )
    assert devices(student) == {CPU}


def students_are_rewarded_there() -> None:
    student, teacher = zoo.Policy(4, 2, (16,), critic=True), zoo.load_teacher("cartpole_ppo")
    play = rl.OnPolicy("CartPole-v1", student, envs=2, steps=8, epochs=2, batch_size=8)
    distill(student, teacher, play, PPO() + KD(), epochs=2)
    assert devices(student) == {CPU}


def students_write_there() -> None:
    torch.manual_seed(0)
    walks, teacher = Walks(3), SmallGPT(16)
    student = SmallGPT(16, seeds=2)
    words = Completions(
        walks.prompts, student, teacher, own=0.5, new=walks.new, stop=walks.stop, updates=3, seed=0
    )
    distill(student, teacher, words, KD(losses.jsd), epochs=1)
    student(walks.prompts(2, torch.Generator()))

    def told(prompts: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return walks.answers(prompts.to("cuda"), generator=generator)

    words = Completions(
        walks.prompts, student, texts=told, own=0.5, new=walks.new, stop=walks.stop, updates=2
    )
    distill(student, teacher, words, CE() + KD(), epochs=1)


def tiny_bert(layers: int) -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=50, num_hidden_layers=layers, **sizes)
    return BertForSequenceClassification(config)


def features_of_transformers_are_matched_there() -> None:
    student, teacher = tiny_bert(1), tiny_bert(2)
    ids = {"input_ids": torch.randint(5, 50, (4, 6)), "attention_mask": torch.ones(4, 6).long()}
    rows = [{**ids, "labels": torch.randint(2, (4,))}]
    distill(student, teacher, rows, KD() + Match("hidden_states/1"), epochs=2)
    assert devices(student, teacher) == {CPU}


SCENES = {
    f.__name__: f
    for f in (
        models_go_back, models_that_are_there_stay, also_after_an_error, an_optimizer_goes_along,
        projectors_averages_and_discriminators_go_along, stacked_students_go_along,
        weights_and_caches_may_stay_behind, what_is_kept_as_best_is_right,
        training_is_the_same_there, answers_on_the_cpu_are_carried_there, students_play_from_there,
        students_are_rewarded_there, students_write_there,
        features_of_transformers_are_matched_there,
    )
}  # fmt: skip


@pytest.fixture(scope="module")
def outcomes() -> dict[str, str | None]:
    return tried(Path(__file__))


@pytest.mark.parametrize("scene", SCENES)
def test_on_a_second_device(scene: str, outcomes: dict[str, str | None]) -> None:
    assert outcomes[scene] is None, outcomes[scene]

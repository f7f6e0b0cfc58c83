"""Our objectives in TRL's trainers: the same step where they agree, and the right one elsewhere."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import nn
from trl_helpers import (
    DistillationTrainer,
    GKDTrainer,
    gkd,
    llama,
    stable,
    texts,
    tokenizer,
    update,
    weights,
)

from distill_lib import CE, KD, Adversarial, Ensemble, LogRatio, Match, Teacher, distill, losses
from distill_lib.integrations.trl import needs

pytestmark = [
    pytest.mark.usefixtures("own_accelerate"),
    # TRL uses names that this release of Transformers will drop
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
BETAS: dict[float, Any] = {
    0.0: KD(losses.kl),
    0.5: KD(losses.jsd, beta=0.5),
    1.0: KD(losses.reverse_kl),
}


def same(one: Any, other: Any, rtol: float = 1e-6) -> None:
    assert one.norm() > 1e-4
    assert (one - other).norm() < rtol * one.norm()


@pytest.mark.parametrize("beta", BETAS)
def test_a_step_on_the_students_words_is_that_of_trl(tmp_path: Path, beta: float) -> None:
    from trl import DistillationTrainer as Theirs

    found = []
    for kind, k in ((Theirs, {}), (DistillationTrainer, {"objective": BETAS[beta]})):
        student = llama()
        found.append(
            update(stable(kind, tmp_path, student, llama(16, 2, 5), k, beta=beta), student)
        )
    same(*found)


@pytest.mark.parametrize("beta", BETAS)
def test_a_step_on_given_words_is_that_of_trl(tmp_path: Path, beta: float) -> None:
    from trl.experimental.gkd import GKDTrainer as Theirs

    found = []
    for kind, k in ((Theirs, {}), (GKDTrainer, {"objective": BETAS[beta]})):
        student, teacher = llama(), llama(16, 2, 5)
        made = gkd(kind, tmp_path, student, teacher, k, beta=beta, lmbda=0.0)
        found.append(update(made, student))
    same(*found)


class Spy(GKDTrainer):
    """Remembers the words of each micro-batch, and what they are divided by."""

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **k: Any) -> Any:
        self.seen = [*getattr(self, "seen", []), dict(inputs)]
        return super().compute_loss(model, inputs, *args, **k)


@pytest.mark.parametrize(("lmbda", "seq_kd"), [(1.0, False), (0.0, True)])
def test_words_that_were_written_are_the_words_that_count(
    tmp_path: Path, lmbda: float, seq_kd: bool
) -> None:
    student, teacher = llama(), llama(16, 2, 5)
    k = {"objective": KD(losses.jsd)}
    made = gkd(Spy, tmp_path, student, teacher, k, lmbda=lmbda, seq_kd=seq_kd)
    before = {n: p.detach().clone() for n, p in student.named_parameters()}
    found = update(made, student)
    student.load_state_dict(before, strict=False)
    total, count = torch.zeros(()), 0
    for batch in made.seen:
        assert (batch["labels"] != -100).sum(1).max() <= 3, "max_new_tokens"
        kept = batch["labels"][:, 1:] != -100
        said, taught = (
            m(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1][kept]
            for m in (student, teacher)
        )
        total = total + losses.jsd(student=said, teacher=taught.detach()).sum()
        count += int(kept.sum())
    gradient = torch.autograd.grad(total / count, list(student.parameters()))
    same(found, -0.1 * torch.cat([g.flatten() for g in gradient]))


def test_whose_words_is_decided_by_the_coin_of_trl(tmp_path: Path) -> None:
    made = gkd(Spy, tmp_path, llama(), llama(16, 2, 5), {"objective": KD()}, lmbda=0.5, max_steps=8)
    random.seed(0)
    made.train()
    own = [bool((batch["labels"] != -100).sum(1).max() <= 3) for batch in made.seen]
    assert len(own) == 16 and 2 < sum(own) < 14


def test_evaluation_works_in_both(tmp_path: Path) -> None:
    k = {"objective": KD()}
    made = gkd(GKDTrainer, tmp_path, llama(), llama(16, 2, 5), {**k, "eval_dataset": texts(8)})
    assert made.evaluate()["eval_loss"] > 0
    from trl_helpers import prompts

    made = stable(
        DistillationTrainer, tmp_path, llama(), llama(16, 2, 5), {**k, "eval_dataset": prompts(8)}
    )
    assert made.evaluate()["eval_loss"] > 0


@pytest.mark.parametrize("on_policy", [True, False])
def test_what_the_objective_learns_is_trained_along_and_kept(
    tmp_path: Path, on_policy: bool
) -> None:
    def objective() -> Any:
        torch.manual_seed(2)
        shapes = ((8, 16), (8, 16), (16, 1))
        one, two, judge = (nn.Linear(*shape).double() for shape in shapes)
        match = Match("hidden_states/1", "hidden_states/2", project=one)
        return KD() + match + 0.1 * Adversarial(judge, "hidden_states/-1", project=two)

    def run(steps: int, resume: bool = False) -> Any:
        student, teacher, chosen = llama(), llama(16, 2, 5), objective()
        make, kind = (stable, DistillationTrainer) if on_policy else (gkd, GKDTrainer)
        own = {} if on_policy else {"lmbda": 0.0}
        args = {"max_steps": steps, "save_strategy": "steps", "save_steps": 2, **own}
        made = make(kind, tmp_path / str(resume), student, teacher, {"objective": chosen}, **args)
        made.create_model_card = lambda *_, **__: None  # asks the hub
        before = weights(chosen)
        made.train(resume_from_checkpoint=resume or None)
        assert (weights(chosen) - before).norm() > 1e-4
        return weights(student, chosen)

    whole = run(4)
    if on_policy:  # what is sampled after a stop is sampled from another state
        return
    (tmp_path / "True").mkdir()
    (tmp_path / "False" / "checkpoint-2").rename(tmp_path / "True" / "checkpoint-2")
    torch.testing.assert_close(run(4, resume=True), whole)


def test_any_teacher_serves(tmp_path: Path) -> None:
    models = [llama(16, 2, 5), llama(16, 2, 6)]
    made = stable(
        DistillationTrainer, tmp_path, llama(), None,
        {"objective": KD(), "teacher": Ensemble([Teacher(m) for m in models])},
    )  # fmt: skip
    made.train()
    assert made.state.global_step == 1


def test_without_trl_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "find_spec", lambda _: None)
    with pytest.raises(ModuleNotFoundError, match=r"integrations\.trl needs trl: pip install"):
        needs.trainer("trl", "DistillationTrainer")


def test_a_release_without_the_trainer_is_named() -> None:
    with pytest.raises(ImportError, match=r"trl\.GKDTrainer is not in this release of TRL"):
        needs.trainer("trl", "GKDTrainer")
    with pytest.raises(ImportError, match="is not in this release of TRL"):
        needs.trainer("trl.experimental.nothing", "GKDTrainer")


def test_the_names_are_there_and_others_are_not() -> None:
    from distill_lib.integrations import trl

    assert dir(trl) == ["DistillationTrainer", "GKDTrainer", "check_templates"]
    with pytest.raises(AttributeError, match="it has DistillationTrainer, GKDTrainer, check"):
        _ = trl.Nothing


def heard(kind: Any) -> Any:
    """TRL's own trainer, which remembers what each micro-batch of a step was made of."""

    class Heard(kind):  # type: ignore[misc]
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **k: Any) -> Any:
            kept = {name: x.clone() for name, x in inputs.items() if isinstance(x, torch.Tensor)}
            self.heard = [*getattr(self, "heard", []), kept]
            return super().compute_loss(model, inputs, *args, **k)

    return Heard


def by_our_loop(objective: Any, batch: dict[str, Any]) -> Any:
    """The weights after one step of gradient descent of ``distill`` on one batch."""
    student, sgd = llama(), torch.optim.SGD
    distill(student, llama(16, 2, 5), [batch], objective, epochs=1, optimizer=sgd, lr=0.1)
    return weights(student)


@pytest.mark.parametrize("beta", BETAS)
def test_a_step_of_trl_on_given_words_is_that_of_our_loop(tmp_path: Path, beta: float) -> None:
    from trl.experimental.gkd import GKDTrainer as Theirs

    student, whole = llama(), {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}
    made = gkd(heard(Theirs), tmp_path, student, llama(16, 2, 5), beta=beta, lmbda=0.0, **whole)
    moved = update(made, student)
    (read,) = made.heard
    batch = {name: read[name] for name in ("input_ids", "attention_mask", "labels")}
    ours = by_our_loop(BETAS[beta], batch)
    assert moved.norm() > 1e-4
    torch.testing.assert_close(ours, weights(student), rtol=0, atol=1e-6)
    same(ours - weights(llama()), moved)


@pytest.mark.parametrize("beta", BETAS)
def test_a_step_of_trl_on_the_students_words_is_that_of_our_loop(
    tmp_path: Path, beta: float
) -> None:
    from trl import DistillationTrainer as Theirs

    student, whole = llama(), {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}
    made = stable(heard(Theirs), tmp_path, student, llama(16, 2, 5), beta=beta, **whole)
    moved = update(made, student)
    (read,) = made.heard
    both = ("prompt", "completion")
    ids, mask = (torch.cat([read[f"{part}_{key}"] for part in both], 1) for key in ("ids", "mask"))
    asked = torch.zeros_like(read["prompt_mask"])
    told = torch.cat([asked, read["completion_mask"]], 1) == 1
    labels = ids.masked_fill(~told, -100)
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    ours = by_our_loop(BETAS[beta], batch)
    assert moved.norm() > 1e-4
    torch.testing.assert_close(ours, weights(student), rtol=0, atol=1e-6)
    same(ours - weights(llama()), moved)


def rows(*lengths: int) -> Any:
    """Two words that ask, and an answer of so many; 0 is an answer that is empty."""
    found = []
    for i, said in enumerate(lengths):
        ids = [2 + (i // 2 + j) % 10 for j in range(2 + said)]
        found.append({"prompt": "a", "input_ids": ids, "completion_mask": [0, 0] + [1] * said})
    return Dataset.from_list(found)


def one_step(tmp_path: Path, data: Any, objective: Any, **args: Any) -> Any:
    student = llama()
    k = {"objective": objective, "train_dataset": data}
    return update(gkd(GKDTrainer, tmp_path, student, llama(16, 2, 5), k, **args), student)


@pytest.mark.parametrize("pieces", [1, 2, 4])
@pytest.mark.parametrize("objective", [KD(losses.jsd), CE() + KD()], ids=str)
def test_an_empty_completion_counts_as_nothing(tmp_path: Path, objective: Any, pieces: int) -> None:
    """Not in the sum and not in the number that divides it, however the step is cut."""
    step = {"lmbda": 0.0, "gradient_accumulation_steps": pieces}
    mixed, full = rows(4, 0, 3, 0, 2, 0, 5, 0), rows(4, 0, 3, 0, 2, 0, 5, 0).select([0, 2, 4, 6])
    one = one_step(tmp_path, mixed, objective, per_device_train_batch_size=8 // pieces, **step)
    other = one_step(tmp_path, full, objective, per_device_train_batch_size=4 // pieces, **step)
    same(one, other)


@pytest.mark.parametrize("objective", [KD(), CE(), CE() + KD()], ids=str)
def test_a_step_of_empty_completions_moves_nothing(tmp_path: Path, objective: Any) -> None:
    found = one_step(tmp_path, rows(*[0] * 8), objective, lmbda=0.0)
    assert not found.any(), "neither a step nor NaN"


def test_the_student_writes_where_the_data_have_no_answers(tmp_path: Path) -> None:
    """TRL divides by the number of the data's words, which is 0: see ``tests/peers``."""
    found = one_step(tmp_path, rows(*[0] * 8), KD(losses.jsd), lmbda=1.0)
    assert found.isfinite().all() and found.norm() > 1e-4


def spoiled(number: float) -> nn.Module:
    """A teacher of which one logit is no number that can be learned from."""
    teacher = llama(16, 2, 5)

    def spoil(module: Any, given: Any, output: Any) -> Any:
        output.logits[..., 3] = number
        return output

    teacher.register_forward_hook(spoil)
    found: nn.Module = teacher
    return found


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("on_policy", [True, False])
def test_a_loss_that_is_not_finite_ends_the_training(
    tmp_path: Path, on_policy: bool, number: float
) -> None:
    """The Trainer leaves it out of its logs, and destroys all weights."""
    make, kind = (stable, DistillationTrainer) if on_policy else (gkd, GKDTrainer)
    student, own = llama(), {} if on_policy else {"lmbda": 0.0}
    made = make(kind, tmp_path, student, spoiled(number), {"objective": KD()}, **own)
    with pytest.raises(FloatingPointError, match=r"not finite at step 0 \(.*kd=.*sanity"):
        made.train()
    assert torch.equal(weights(student), weights(llama()))


def test_a_word_that_the_teacher_excludes_ends_a_policy_gradient(tmp_path: Path) -> None:
    teacher = spoiled(-float("inf"))
    made = gkd(GKDTrainer, tmp_path, llama(), teacher, {"objective": LogRatio()}, lmbda=0.0)
    with pytest.raises(FloatingPointError, match=r"beyond 1e\+18.*log_ratio=.*excluded"):
        made.train()
    student = llama()
    k = {"objective": LogRatio(clip=5)}
    moved = update(gkd(GKDTrainer, tmp_path, student, teacher, k, lmbda=0.0), student)
    assert moved.isfinite().all() and moved.norm() > 1e-4


def test_what_trl_lets_pass_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected a teacher_model.*got None"):
        gkd(GKDTrainer, tmp_path, llama(), None, {"objective": KD()})
    with pytest.raises(ValueError, match=r"share of the batches, in \[0, 1\], got nan"):
        gkd(GKDTrainer, tmp_path, llama(), llama(16, 2, 5), {"objective": KD()}, lmbda=float("nan"))


@pytest.mark.parametrize("on_policy", [True, False])
def test_two_tokenizers_of_one_size_in_another_order_are_refused(
    tmp_path: Path, on_policy: bool
) -> None:
    make, kind = (stable, DistillationTrainer) if on_policy else (gkd, GKDTrainer)
    other = tokenizer([*"jabcdefghi"])
    assert len(other) == len(tokenizer())
    with pytest.raises(ValueError, match="token 2 is 'a' for the student and 'j' for the teacher"):
        make(kind, tmp_path, llama(), llama(16, 2, 5),
             {"objective": KD(), "teacher_tokenizer": other})  # fmt: skip

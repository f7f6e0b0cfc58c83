"""Our objectives in TRL's trainers: the same step where they agree, and the right one elsewhere."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from trl_helpers import DistillationTrainer, GKDTrainer, gkd, llama, stable, texts, update, weights

from distill_lib import KD, Adversarial, Ensemble, Match, Teacher, losses
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

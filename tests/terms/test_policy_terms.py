"""Terms of reinforcement: what they read, print, and refuse; the algebra with a teacher."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from distill_lib import KD, PPO, Consistency, distill, linear, losses, rl, zoo
from distill_lib.losses import policy
from distill_lib.terms.policy import Entropy, Surrogate, Value


def batch(continuous: bool = False) -> dict[str, Tensor]:
    actions = torch.randn(6, 2) if continuous else torch.randint(4, (6,))
    rest = {k: torch.randn(6) for k in ("log_prob", "advantages", "returns")}
    return {"actions": actions, **rest}


def said(continuous: bool = False) -> dict[str, Tensor]:
    name, width = ("gaussian", 4) if continuous else ("logits", 4)
    return {name: torch.randn(6, width, requires_grad=True), "value": torch.randn(6)}


@pytest.mark.parametrize("continuous", [False, True])
def test_the_objective_is_the_sum_of_the_paper(continuous: bool) -> None:
    on = "gaussian" if continuous else "logits"
    signals, given = said(continuous), batch(continuous)
    loss, parts = PPO(clip=0.1, value=0.7, entropy=0.02, on=on)(signals, None, given)
    of = policy.gaussian_log_prob if continuous else policy.log_prob
    now = of(signals[on], given["actions"])
    clipped = policy.surrogate(
        log_prob=now, old=given["log_prob"], advantages=given["advantages"], clip=0.1
    ).mean()
    error = (signals["value"] - given["returns"]).pow(2).mean()
    spread = (policy.gaussian_entropy if continuous else policy.entropy)(signals[on]).mean()
    torch.testing.assert_close(loss, clipped + 0.7 * error - 0.02 * spread)
    assert set(parts) == {"surrogate", "value", "entropy"}


def test_a_teacher_is_one_more_term() -> None:
    objective = PPO(entropy=0.01) + linear(2, 0) * KD()
    assert str(objective) == "clip(ε=0.2) + 0.5·value − 0.01·H + 2→0·KL"
    assert objective.needs_teacher(0.0) and not objective.needs_teacher(1.0)
    assert objective.reads("student") == ["logits", "value"]
    assert r"L^{\mathrm{clip}}" in objective._repr_latex_()
    signals, given = said(), batch()
    teacher = torch.randn(6, 4)
    start, parts = objective(signals, teacher, given, progress=0.0)
    end, _ = objective(signals, None, given, progress=1.0)
    torch.testing.assert_close(start - end, 2 * parts["kd"])


def test_weights_of_zero_leave_terms_out() -> None:
    assert str(PPO(value=0)) == "clip(ε=0.2)"
    assert PPO(value=0).reads("student") == ["logits"]


def test_what_a_batch_lacks_is_named() -> None:
    with pytest.raises(ValueError, match=r"Surrogate needs batch\['actions'\], which rl.OnPolicy"):
        Surrogate()(said(), None, {"inputs": torch.zeros(6, 2)})
    with pytest.raises(ValueError, match=r"Value needs batch\['returns'\]"):
        Value()(said(), None, {})
    with pytest.raises(KeyError, match="no signal 'value'"):
        Value()({"logits": torch.zeros(6, 4)}, None, batch())
    with pytest.raises(ValueError, match=r"clip lies in \(0, 1\), got 0"):
        PPO(clip=0)
    with pytest.raises(TypeError, match="keywords student and teacher"):
        Consistency(loss=torch.nn.functional.mse_loss)


def test_entropy_is_that_of_the_policy() -> None:
    loss, _ = Entropy()({"logits": torch.zeros(3, 4)})
    assert loss.item() == pytest.approx(1.3863, abs=1e-4)


def test_consistency_teaches_the_changed_view_alone() -> None:
    plain = torch.randn(3, 4, requires_grad=True)
    changed = torch.randn(3, 4, requires_grad=True)
    loss, _ = Consistency()({"logits": plain, "view": {"logits": changed}})
    torch.testing.assert_close(loss, losses.kl(student=changed, teacher=plain).mean())
    loss.backward()
    assert plain.grad is None and changed.grad is not None


def test_consistency_makes_a_policy_smooth() -> None:
    def wiggle(weight: float) -> float:
        torch.manual_seed(0)
        teacher, student = zoo.Policy(4, 2), zoo.Policy(4, 2)
        for layer in (teacher.net[4], student.net[4]):
            torch.nn.init.normal_(layer.weight)
        batches = [{"inputs": torch.randn(64, 4)} for _ in range(4)]
        objective = KD() + weight * Consistency()
        forward = rl.two_views(lambda o: o + 0.5 * torch.randn_like(o))
        distill(student, teacher, batches, objective, epochs=15, lr=1e-2, forward=forward)
        o = torch.randn(500, 4)
        moved = student(o + 0.5 * torch.randn_like(o))["logits"]
        return losses.kl(student=moved, teacher=student(o)["logits"]).mean().item()

    assert wiggle(5.0) < 0.7 * wiggle(0.0)

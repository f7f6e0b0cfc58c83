"""The checker accepts what is right and names the reason of every listed mistake."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from distill_lib.booktools import answers, check
from distill_lib.booktools.answers.mistakes import draw_logits, learns_like
from distill_lib.booktools.exercises import Exercise, verdict

EXERCISES = answers.load()
MISTAKES = [
    pytest.param(exercise, mistake, why, id=f"{exercise.id}-{number}")
    for exercise in EXERCISES.values()
    for number, (mistake, why) in enumerate(exercise.wrong.items())
]


def kd(*, student, teacher, temperature):
    loss = F.kl_div(
        F.log_softmax(student / temperature, -1),
        F.log_softmax(teacher / temperature, -1),
        reduction="none",
        log_target=True,
    )
    return temperature**2 * loss.sum(-1)


@pytest.mark.parametrize("exercise", EXERCISES.values(), ids=list(EXERCISES))
def test_the_right_answer_is_accepted(exercise, capsys):
    check(exercise.id, exercise.right)
    assert capsys.readouterr().out == f"✓ {exercise.id}: right.\n"


@pytest.mark.parametrize(("exercise", "mistake", "why"), MISTAKES)
def test_every_listed_mistake_is_refused_with_its_reason(exercise, mistake, why):
    with pytest.raises(AssertionError) as caught:
        check(exercise.id, mistake)
    assert str(caught.value) == f"{exercise.id}: {why}"


@pytest.mark.parametrize("exercise", EXERCISES.values(), ids=list(EXERCISES))
def test_an_exercise_has_listed_mistakes_and_a_hint(exercise):
    assert exercise.wrong
    assert exercise.hint


def test_an_independent_solution_is_accepted():
    check("ex-temperature_and_kl-2", kd)
    check("ex-temperature_and_kl-2", lambda student, teacher, temperature: kd(
        student=student, teacher=teacher, temperature=temperature))  # fmt: skip


def test_the_popular_snippets_are_named():
    def mean(student, teacher, temperature):
        p, q = teacher.div(temperature).softmax(-1), student.div(temperature).log_softmax(-1)
        return F.kl_div(q, p, reduction="mean") * temperature**2

    def swapped(student, teacher, temperature):
        return kd(student=teacher, teacher=student, temperature=temperature)

    for snippet, words in ((mean, 'reduction="mean"'), (swapped, "swapped")):
        with pytest.raises(AssertionError, match=words):
            check("ex-temperature_and_kl-2", snippet)


def test_a_cut_gradient_and_an_unstable_form_are_refused():
    with pytest.raises(AssertionError, match="no gradient with respect to the student"):
        check("ex-temperature_and_kl-2", lambda **arguments: kd(**arguments).detach())

    def naive(student, teacher, temperature):
        p, q = (teacher / temperature).softmax(-1), (student / temperature).softmax(-1)
        return temperature**2 * (p * (p / q).log()).sum(-1)

    with pytest.raises(AssertionError, match=r"a gap of 600 gives .*use log_softmax"):
        check("ex-temperature_and_kl-2", naive)


def test_a_gradient_that_is_not_finite_is_refused():
    def square_root_of_zero(student, teacher, temperature):
        return (
            kd(student=student, teacher=teacher, temperature=temperature)
            + (student - student.detach()).sum(-1).abs().sqrt()
        )

    with pytest.raises(AssertionError, match="the gradient is not finite"):
        check("ex-temperature_and_kl-2", square_root_of_zero)


@pytest.mark.parametrize("bend", [lambda p: (p + 1e-10).log(), lambda p: p.clamp_min(1e-8).log()])
def test_a_constant_inside_the_logarithm_is_refused(bend):
    """The patch that the museum condemns: right for mild logits, no gradient for far ones."""

    def patched(*, student, teacher, temperature):
        p, q = (teacher / temperature).softmax(-1), (student / temperature).softmax(-1)
        return temperature**2 * (p * (bend(p) - bend(q))).sum(-1)

    with pytest.raises(AssertionError, match="a small constant inside a logarithm"):
        check("ex-temperature_and_kl-2", patched)


@pytest.mark.parametrize("bend", [lambda p: (p + 1e-10).log(), lambda p: p.clamp_min(1e-8).log()])
def test_a_constant_inside_a_bounded_divergence_is_refused(bend):
    """Its value is right everywhere; its gradient is not where the two are far apart."""

    def patched(*, student, teacher, beta):
        p, q = teacher.softmax(-1), student.softmax(-1)
        m = beta * p + (1 - beta) * q
        return sum(
            weight * (one * (bend(one) - bend(m))).sum(-1)
            for weight, one in ((beta, p), (1 - beta, q))
        )

    with pytest.raises(AssertionError, match="a small constant or a clamp"):
        check("ex-divergences-2", patched)


def test_a_right_value_with_another_gradient_is_refused():
    def unscaled(*, student, teacher, temperature):
        right = kd(student=student, teacher=teacher, temperature=temperature)
        return right / 4 + (right - right / 4).detach()

    with pytest.raises(AssertionError, match="its gradient is not"):
        check("ex-temperature_and_kl-2", unscaled)


@pytest.mark.parametrize(
    ("exercise", "wrong", "words"),
    [
        ("ex-temperature_and_kl-2", lambda **a: kd(**a).tolist(), "no gradient with respect"),
        ("ex-temperature_and_kl-2", lambda **a: kd(**a).detach().numpy(), "no gradient"),
        ("ex-temperature_and_kl-2", lambda student, teacher, temperature: kd(
            student=student.clone().div_(1) if not student.requires_grad else student.div_(1),
            teacher=teacher, temperature=temperature), "raised RuntimeError for others"),
        ("ex-temperature_and_kl-2", lambda student, teacher, temperature: kd(
            student=student, teacher=teacher, temperature=4.0), r"temperature = 2\) gives"),
        ("ex-policy_distillation-2", lambda student, teacher, tau: (
            (teacher / tau).softmax(-1) * ((teacher / tau).softmax(-1).log()
            - student.softmax(-1).log())).sum(-1), "a gap of 600"),
        ("ex-policy_distillation-1", 12.6, "the factor|ratio|saved|left|middle layer"),
        ("ex-policy_distillation-1", 3.56, "ratio of the widths"),
        ("ex-policy_distillation-1", 8.6, "nearly"),
        ("ex-policy_distillation-3", lambda student, teacher: (
            student.mean() / teacher.mean()).clamp_max(1), "drawn input 3"),
    ],
)  # fmt: skip
def test_what_readers_tried_is_refused_with_a_word(exercise, wrong, words):
    with pytest.raises(AssertionError, match=words):
        check(exercise, wrong)


def test_an_unknown_exercise_lists_the_known_ones():
    with pytest.raises(
        KeyError,
        match=r"No exercise '.*-02'\. Did you mean .*There are: ex-bert_sentiment-1, ",
    ):
        check("ex-temperature_and_kl-02", 1)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (1.0, "expected a function, got float"),
        (lambda a, b: a, "must take the keyword arguments student, teacher, temperature"),
        (lambda student, teacher, temperature: 1 / 0, "raised ZeroDivisionError"),
        (lambda student, teacher, temperature: student, r"expected a value of shape \[8\]"),
        (lambda student, teacher, temperature: student[:, 0], "expected .* T² times the sum"),
        (lambda student, teacher, temperature: None, "expected a number or a tensor back"),
    ],
)
def test_a_function_that_is_none_of_the_listed_gets_a_general_word(answer, words):
    with pytest.raises(AssertionError, match=words):
        check("ex-temperature_and_kl-2", answer)


@pytest.mark.parametrize(
    ("identifiers", "words"),
    [
        (["ex-first_distillation-1"] * 2, "ex-first_distillation-1 is defined twice"),
        (["ex-fusion-1"], r"ex-fusion-1 stands in first_distillation\.py"),
    ],
)
def test_an_id_is_given_once_and_in_its_chapter(monkeypatch, identifiers, words):
    from distill_lib.booktools.answers import first_distillation as page

    monkeypatch.setattr(page, "EXERCISES", [Exercise(name, 1.0) for name in identifiers])
    with pytest.raises(ValueError, match=words):
        answers.load.__wrapped__()


NUMBER = Exercise("ex-0-1", 0.5, {2.0: "upside down"}, hint="halve it")
TENSOR = Exercise("ex-0-2", [1.0, 2.0], kind="tensor")
CHOICE = Exercise("ex-0-3", "forward", {"reverse": "that one seeks"}, kind="choice")


@pytest.mark.parametrize(
    ("exercise", "answer", "complaint"),
    [
        (NUMBER, 0.5, None),
        (NUMBER, torch.tensor(0.50001), None),
        (NUMBER, 2, "upside down"),
        (NUMBER, 0.6, "not yet. halve it"),
        (NUMBER, 0.495, "nearly: give more digits."),
        (NUMBER, -0.495, "not yet. halve it"),
        (NUMBER, "half", "expected a number, got str."),
        (NUMBER, None, "expected a number, got NoneType."),
        (NUMBER, [0.5, 0.5], "expected one number, got a value of shape [2]."),
        (NUMBER, float("nan"), "the answer is not finite: look for a logarithm of 0 or a "
         "division by 0."),
        (TENSOR, (1, 2), None),
        (TENSOR, [[1.0], [2.0]], "expected a value of shape [2], got a value of shape [2, 1]."),
        (TENSOR, [1.01, 1.99], "nearly: give more digits."),
        (TENSOR, "x", "expected a tensor of shape (2,), got str."),
        (CHOICE, " Forward ", None),
        (CHOICE, "reverse", "that one seeks"),
        (CHOICE, "both", "'both' is not among the options forward, reverse."),
        (CHOICE, ["forward"], "expected one word, got list."),
    ],
)  # fmt: skip
def test_numbers_tensors_and_words(exercise, answer, complaint):
    assert verdict(exercise, answer) == complaint


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"right": 1.0, "wrong": {1.00001: "close"}}, "listed wrong answer 1.00001 is accepted"),
        ({"right": 1.0, "wrong": {2.0: " "}}, "has no reason"),
        ({"right": 1.0, "kind": "essay"}, "kind must be one of"),
        ({"right": kd, "kind": "callable"}, "give inputs="),
        ({"right": lambda **_: torch.zeros(1), "kind": "callable", "inputs": draw_logits,
          "properties": (learns_like(kd, temperature=1.0),)}, "the right answer is refused"),
    ],
)  # fmt: skip
def test_an_exercise_that_contradicts_itself_cannot_be_built(arguments, words):
    with pytest.raises(ValueError, match=words):
        Exercise("ex-0-9", **arguments)


def test_a_division_by_zero_for_a_sure_student_is_refused():
    def divided(*, student, teacher, labels):
        q, p = student.softmax(-1), teacher.softmax(-1)
        hot = F.one_hot(labels, q.shape[-1]).to(q)
        q_y, p_y = (a.gather(-1, labels[:, None]) for a in (q, p))
        label = (p_y - q_y) / (1 - q_y) * (q - hot)
        return torch.stack([label, q - p - label])

    with pytest.raises(AssertionError, match="not for a sure student"):
        check("ex-why_it_works-4", divided)


@pytest.mark.parametrize("exercise", [e for e in EXERCISES.values() if e.kind == "callable"])
def test_a_right_function_may_count_in_single_precision(exercise: Exercise) -> None:
    def single(**inputs):
        found = exercise.right(**inputs)
        real = isinstance(found, torch.Tensor) and found.is_floating_point()
        return found.float() if real else found

    assert verdict(exercise, single) is None


@pytest.mark.parametrize(
    "exercise", [e for e in EXERCISES.values() if e.kind in ("number", "tensor")]
)
def test_a_right_value_may_be_written_otherwise(exercise: Exercise) -> None:
    right = torch.as_tensor(exercise.right, dtype=torch.float64)
    for written in (right.float(), right.numpy(), right.tolist(), right.clone().requires_grad_()):
        assert verdict(exercise, written) is None

"""Whether teacher and student are asked in the same way: what chat templates make of messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["check_templates"]

PROBE: Sequence[Mapping[str, str]] = (
    {"role": "user", "content": "Is it so?"},
    {"role": "assistant", "content": "Yes."},
)


def check_templates(
    student: Any, teacher: Any, messages: Sequence[Mapping[str, str]] = PROBE
) -> None:
    """Whether two tokenizers make the same tokens of the same messages.

    TRL renders messages with the student's chat template and shows the result to both. A teacher
    that was trained with another template then reads what it has never seen, and what it says of it
    is learned all the same, without an error.

    Args:
        student: The tokenizer that makes the data.
        teacher: The teacher's.
        messages: A conversation that ends with an answer.

    Raises:
        ValueError: a conversation of one message; a tokenizer without a template; prompts or
            answers that differ, with the first difference; tokens that end a text and differ.

    Example:
        >>> from distill_lib.sequences import reference_text, train_tokenizer
        >>> mine, theirs = (train_tokenizer(reference_text()[:1000], 258) for _ in range(2))
        >>> mine.chat_template = "{% for m in messages %}{{ m.content }}\\n{% endfor %}"
        >>> theirs.chat_template = "{% for m in messages %}Q: {{ m.content }}\\n{% endfor %}"
        >>> check_templates(mine, theirs)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: the prompt is rendered as 'Is it so?\\n' for the student and as 'Q: Is it so?...
    """
    if len(messages) < 2:
        raise ValueError(
            f"messages expected a question and an answer at least, got {len(messages)} of them"
        )
    for who, tokenizer in (("student", student), ("teacher", teacher)):
        if not getattr(tokenizer, "chat_template", None):
            raise ValueError(
                f"the {who}'s tokenizer has no chat_template, so that nothing says how it is asked "
                "in a conversation; give it the one that it was trained with"
            )
    for what, said, more in (("prompt", messages[:-1], True), ("conversation", messages, False)):
        texts, ids = zip(*(_rendered(t, said, more) for t in (student, teacher)), strict=True)
        if ids[0] != ids[1]:
            pairs = enumerate(zip(*ids, strict=False))
            at = next((i for i, (a, b) in pairs if a != b), min(map(len, ids)))
            raise ValueError(
                f"the {what} is rendered as {texts[0]!r} for the student and as {texts[1]!r} for "
                f"the teacher: they part at token {at}. Give both the teacher's chat_template, or "
                "let the teacher see its own: Teacher(model, forward=…)"
            )
    if student.eos_token_id != teacher.eos_token_id:
        raise ValueError(
            f"a text ends with {student.eos_token!r} for the student and with "
            f"{teacher.eos_token!r} for the teacher: it would never learn to stop"
        )


def _rendered(tokenizer: Any, messages: Any, more: bool) -> tuple[str, list[int]]:
    text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=more)
    return text, list(tokenizer(text, add_special_tokens=False)["input_ids"])

"""Chat templates that differ are found before a step is made."""

from __future__ import annotations

from typing import Any

import pytest
from trl_helpers import tokenizer

from distill_lib.integrations.trl import check_templates

PLAIN = "{% for m in messages %}{{ m.content }} a {% endfor %}"


def with_template(template: str | None, **k: Any) -> Any:
    made = tokenizer()
    made.chat_template = template
    for name, value in k.items():
        setattr(made, name, value)
    return made


MESSAGES = [{"role": "user", "content": "b c"}, {"role": "assistant", "content": "d"}]


def test_the_same_template_passes() -> None:
    check_templates(with_template(PLAIN), with_template(PLAIN), MESSAGES)
    check_templates(with_template(PLAIN), with_template(PLAIN.replace(" a ", "  a ")), MESSAGES)


@pytest.mark.parametrize(
    ("theirs", "match"),
    [
        ("e " + PLAIN, r"the prompt is .*'b c a '.* as 'e b c a '.* part at token 0"),
        (PLAIN + "{% if add_generation_prompt %}e{% endif %}", "the prompt .* part at token 3"),
        (PLAIN + "{% if not add_generation_prompt %}e{% endif %}", "the conversation .* token 5"),
    ],
)
def test_another_one_is_refused_with_the_first_difference(theirs: str, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        check_templates(with_template(PLAIN), with_template(theirs), MESSAGES)


def test_no_template_and_another_end_are_refused() -> None:
    with pytest.raises(ValueError, match="the teacher's tokenizer has no chat_template"):
        check_templates(with_template(PLAIN), with_template(None), MESSAGES)
    other = with_template(PLAIN, eos_token="j")
    with pytest.raises(ValueError, match="ends with '<eos>' for the student and with 'j'"):
        check_templates(with_template(PLAIN), other, MESSAGES)

"""A claim shows itself, then fails the build when it does not hold."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distill_lib.booktools import claim, claims, faster, measurement

finite = st.floats(allow_nan=False, allow_infinity=False, width=32)


@pytest.fixture
def shown(monkeypatch):
    """The entries of the list, outside a notebook."""
    entries = []
    keep = lambda bundle, before, after: entries.append(bundle)  # noqa: E731
    monkeypatch.setattr(claims, "show_list", keep)
    return entries


def test_a_claim_that_holds_prints_one_line(capsys):
    claim("KD is right on {value:.1%}.", 0.9531, at_least=0.93, seeds=5, source="Rusu et al. 2016")
    said = capsys.readouterr().out
    assert said == "✓ KD is right on 95.3%. (at least 0.93; 5 seeds; Rusu et al. 2016)\n"


@pytest.mark.parametrize(
    ("bound", "note"),
    [
        ({"at_least": 0.5}, "at least 0.5"),
        ({"at_most": 0.75}, "at most 0.75"),
        ({"equals": 0.7001, "tolerance": 0.01}, "about 0.7001 ± 0.01"),
    ],
)
def test_each_relation_has_its_words(capsys, bound, note):
    claim("It is {value}.", 0.7, **bound)
    assert capsys.readouterr().out.strip() == f"✓ It is 0.7. ({note})"


@pytest.mark.parametrize(
    ("value", "bound", "words"),
    [
        (0.91, {"at_least": 0.93}, "not at least 0.93: 0.91"),
        (0.95, {"at_most": 0.93}, "not at most 0.93: 0.95"),
        (1.5, {"equals": 1.0, "tolerance": 0.1}, "not about 1 ± 0.1: 1.5"),
        (3, {"equals": 4}, "not exactly 4: 3"),
        (False, {"equals": True}, "not exactly yes: no"),
        (0.9299999, {"at_least": 0.93}, "not at least 0.93: 0.9299999"),
        (-3.0, {"at_least": 1}, "not at least 1: \u22123"),
    ],
)
def test_a_claim_that_fails_is_shown_and_raises_in_a_program(shown, value, bound, words):
    with pytest.raises(AssertionError, match=r"✗ It is .*change one of them"):
        claim("It is {value}.", value, **bound)
    assert len(shown) == 1
    assert words in shown[0]["text/plain"]
    assert shown[0][claims.MIME]["holds"] is False
    assert "dl-claim-fails" in shown[0]["text/html"] and "<details open>" in shown[0]["text/html"]


def test_the_record_has_every_field_of_the_ledger(shown):
    text = "It is {value:.0f} < b & c."
    claim(text, torch.tensor(2.0), at_most=3, seeds=3, source="paper")
    record = shown[0][claims.MIME]
    assert record == {
        "id": claims.claim_id(text),
        "kind": "claim",
        "text": "It is 2 < b & c.",
        "value": 2.0,
        "relation": "<=",
        "bound": 3,
        "seeds": 3,
        "source": "paper",
        "holds": True,
    }
    assert json.loads(json.dumps(record)) == record
    assert "2 &lt; b &amp; c" in shown[0]["text/html"]


def test_a_measurement_names_its_machine_and_judges_nothing(shown):
    measurement("It took {value:,.0f} s, {words}.", 2000.0, words=faster(0.5, "float"))
    record = shown[0][claims.MIME]
    assert record["text"] == "It took 2,000 s, 2.0 times slower than float."
    assert (record["kind"], record["holds"], record["bound"]) == ("machine", None, None)
    assert f"torch {torch.__version__}" in record["machine"]
    assert "another machine says another number" in shown[0]["text/html"]


@given(st.floats(1e-6, 1e6))
def test_words_of_speed_follow_the_number(ratio):
    words, back = faster(ratio, "it"), faster(1 / ratio, "it")
    if "about" not in words and "about" not in back:
        assert ("faster" in words) == (ratio > 1) != ("faster" in back)
        number = float(words.split()[0].replace(",", ""))
        assert number == pytest.approx(max(ratio, 1 / ratio), rel=0.06)


@pytest.mark.parametrize("ratio", [0.0, -1.0, math.nan, math.inf])
def test_a_ratio_of_times_is_positive(ratio):
    with pytest.raises(ValueError, match="positive and finite"):
        faster(ratio, "it")


@pytest.mark.parametrize("number", [-1.5, -2e-9, 3])
def test_minus_signs_are_typographic(shown, number):
    measurement("It is {value:g} and {other:.1e}, not a-b.", number, other=-number)
    assert shown[0][claims.MIME]["text"].replace("a-b", "").count("-") == 0


def test_sentence_and_numbers_fit_each_other():
    with pytest.raises(ValueError, match=r"does not say \['value'\]: write \{value\}"):
        claim("It works.", 1.0, at_least=0)
    with pytest.raises(ValueError, match=r"does not say \['eror'\]"):
        claim("It is {value}.", 1.0, at_least=0, eror=2)
    with pytest.raises(ValueError, match=r"names \['error'\]: give them by keyword"):
        measurement("It is {value} ± {error}.", 1.0)


def test_ids_are_stable_readable_and_distinct():
    assert claims.claim_id("KD beats CE") == claims.claim_id("KD beats CE")
    assert claims.claim_id("KD beats CE").startswith("kd-beats-ce-")
    assert claims.claim_id("KD beats CE!") != claims.claim_id("KD beats CE")
    # the number and its format are not part of the readable name
    assert claims.claim_id("By {value:.1f} points.").startswith("by-points-")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, torch.tensor(math.nan)])
def test_nothing_is_claimed_of_a_number_that_is_none(value):
    with pytest.raises(ValueError, match="nothing can be claimed of it"):
        claim("It is {value}.", value, at_least=0)


def test_a_bound_must_be_finite():
    with pytest.raises(ValueError, match="the bound is inf"):
        claim("It is {value}.", 1.0, at_most=math.inf)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "exactly one of at_least, at_most and equals, got 0"),
        ({"at_least": 0, "at_most": 1}, "got 2"),
        ({"equals": 1.0}, "needs tolerance="),
        ({"equals": 1.0, "tolerance": 0.0}, "tolerance must be positive"),
        ({"equals": 1.0, "tolerance": math.nan}, "tolerance must be positive"),
        ({"at_least": 1.0, "tolerance": 0.1}, "an inequality carries its margin"),
        ({"at_least": 0.0, "seeds": 0}, "seeds is a count"),
        ({"at_least": 0.0, "seeds": True}, "seeds is a count"),
    ],
)
def test_what_is_no_claim_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        claim("It is {value}.", 1.0, **arguments)


def test_a_claim_has_words():
    with pytest.raises(ValueError, match="needs a text"):
        claim("  ", 1.0, at_least=0)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("0.9", None),
        (None, "must be a number, got NoneType"),
        (torch.zeros(3), r"must be one number, got shape \(3,\)"),
        (np.zeros(2), r"must be one number, got shape \(2,\)"),
        ("good", "must be a number, got str"),
    ],
)
def test_a_value_is_one_number(value, words):
    if words is None:
        claim("It is {value}.", value, at_least=0)
        return
    with pytest.raises(TypeError, match=words):
        claim("It is {value}.", value, at_least=0)


@pytest.mark.parametrize(("value", "bound"), [(True, {"at_least": 0}), (1.0, {"equals": True})])
def test_a_bool_goes_with_equals(value, bound):
    with pytest.raises(TypeError, match=r"a bool goes with equals|needs tolerance"):
        claim("It is {value}.", value, **bound)


def test_whole_numbers_and_bools_are_equal_without_tolerance(capsys):
    claim("Of {value:,}.", np.int64(1234), equals=1234)
    claim("It is frozen.", True, equals=True)
    said = capsys.readouterr().out
    assert "✓ Of 1,234. (exactly 1,234)" in said and "✓ It is frozen. (exactly yes)" in said


@given(value=finite, bound=finite)
def test_holds_exactly_when_the_inequality_does(value, bound):
    for arguments, truth in (
        ({"at_least": bound}, value >= bound),
        ({"at_most": bound}, value <= bound),
    ):
        try:
            claim("It is {value}.", value, **arguments)
            held = True
        except AssertionError:
            held = False
        assert held == truth

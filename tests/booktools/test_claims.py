"""A claim shows itself, then fails the build when it does not hold."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distill_lib.booktools import claim, claims

finite = st.floats(allow_nan=False, allow_infinity=False, width=32)


@pytest.fixture
def shown(monkeypatch):
    bundles = []
    monkeypatch.setattr(claims, "show", lambda bundle, metadata=None: bundles.append(bundle))
    return bundles


def test_a_claim_that_holds_prints_one_line(capsys):
    claim("KD beats CE", 0.9531, at_least=0.93, seeds=5, source="Rusu et al. 2016")
    assert capsys.readouterr().out == "✓ KD beats CE: 0.9531 ≥ 0.93 (5 seeds; Rusu et al. 2016)\n"


@pytest.mark.parametrize(
    ("bound", "line"),
    [
        ({"at_least": 0.5}, "✓ x: 0.7 ≥ 0.5"),
        ({"at_most": 0.75}, "✓ x: 0.7 ≤ 0.75"),
        ({"equals": 0.7001, "tolerance": 0.01}, "✓ x: 0.7 ≈ 0.7001 ± 0.01"),
    ],
)
def test_each_relation_has_its_line(capsys, bound, line):
    claim("x", 0.7, **bound)
    assert capsys.readouterr().out.strip() == line


@pytest.mark.parametrize(
    ("value", "bound", "words"),
    [
        (0.91, {"at_least": 0.93}, "0.91 not ≥ 0.93"),
        (0.95, {"at_most": 0.93}, "0.95 not ≤ 0.93"),
        (1.5, {"equals": 1.0, "tolerance": 0.1}, "1.5 not ≈ 1 ± 0.1"),
        (3, {"equals": 4}, "3 not 4"),
        (False, {"equals": True}, "no not yes"),
        (0.9299999, {"at_least": 0.93}, "0.9299999 not ≥ 0.93"),
    ],
)
def test_a_claim_that_fails_is_shown_and_raises(shown, value, bound, words):
    with pytest.raises(AssertionError, match=r"✗ it works: .*change one of them"):
        claim("it works", value, **bound)
    assert len(shown) == 1
    assert words in shown[0]["text/plain"]
    assert shown[0][claims.MIME]["holds"] is False
    assert "dl-claim-fails" in shown[0]["text/html"]


def test_the_record_has_every_field_of_the_ledger(shown):
    claim("a < b & c", torch.tensor(2.0), at_most=3, seeds=3, source="paper")
    record = shown[0][claims.MIME]
    assert record == {
        "id": claims.claim_id("a < b & c"),
        "text": "a < b & c",
        "value": 2.0,
        "relation": "<=",
        "bound": 3,
        "seeds": 3,
        "source": "paper",
        "holds": True,
    }
    assert json.loads(json.dumps(record)) == record
    assert "a &lt; b &amp; c" in shown[0]["text/html"]


def test_ids_are_stable_readable_and_distinct():
    assert claims.claim_id("KD beats CE") == claims.claim_id("KD beats CE")
    assert claims.claim_id("KD beats CE").startswith("kd-beats-ce-")
    assert claims.claim_id("KD beats CE!") != claims.claim_id("KD beats CE")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, torch.tensor(math.nan)])
def test_nothing_is_claimed_of_a_number_that_is_none(value):
    with pytest.raises(ValueError, match="nothing can be claimed of it"):
        claim("x", value, at_least=0)


def test_a_bound_must_be_finite():
    with pytest.raises(ValueError, match="the bound is inf"):
        claim("x", 1.0, at_most=math.inf)


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
        claim("x", 1.0, **arguments)


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
        claim("x", value, at_least=0)
        return
    with pytest.raises(TypeError, match=words):
        claim("x", value, at_least=0)


@pytest.mark.parametrize(("value", "bound"), [(True, {"at_least": 0}), (1.0, {"equals": True})])
def test_a_bool_goes_with_equals(value, bound):
    with pytest.raises(TypeError, match=r"a bool goes with equals|needs tolerance"):
        claim("x", value, **bound)


def test_whole_numbers_and_bools_are_equal_without_tolerance(capsys):
    claim("count", np.int64(1234), equals=1234)
    claim("frozen", True, equals=True)
    assert "1,234 = 1,234" in capsys.readouterr().out


@given(value=finite, bound=finite)
def test_holds_exactly_when_the_inequality_does(value, bound):
    for arguments, truth in (
        ({"at_least": bound}, value >= bound),
        ({"at_most": bound}, value <= bound),
    ):
        try:
            claim("x", value, **arguments)
            held = True
        except AssertionError:
            held = False
        assert held == truth

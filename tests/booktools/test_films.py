from __future__ import annotations

from types import SimpleNamespace

import pytest

from distill_lib.booktools import Films


def film(alt: str) -> SimpleNamespace:
    return SimpleNamespace(mp4=b"moving", poster=b"still", alt=alt)


def test_each_film_has_its_name_and_its_words():
    shown = Films({"teacher": film("It stands"), "student": film('It "falls"')})._repr_html_()
    assert shown.count("<video") == 2 and shown.count("<button") == 1
    assert "teacher</div>" in shown and "student</div>" in shown
    assert 'aria-label="It &quot;falls&quot;"' in shown
    assert "http" not in shown


def test_no_film_is_refused():
    with pytest.raises(ValueError, match="at least one film"):
        Films({})

"""The stress of pages, on the tiny book: kept as it goes, resumed, and told in a page."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import sysconfig
from pathlib import Path

import pytest
import robustness
import stress
from making import run_in

CHAPTER = "chapters/01_tiny.md"


@pytest.fixture
def tiny(built, tmp_path) -> Path:
    root = tmp_path / "book"
    shutil.copytree(built[0], root, ignore=shutil.ignore_patterns("_build"))
    return root


def stressed(root: Path, *words: str) -> str:
    done = run_in(root, "book/_tools/stress.py", "--root", str(root), "--jobs", "1", *words)
    assert done.returncode in {0, 1}, done.stdout
    return done.stdout


def kept(root: Path) -> dict[str, dict[str, object]]:
    return json.loads((root / "book/robustness/01_tiny.json").read_text())


@pytest.mark.slow
def test_what_has_run_is_kept_and_only_what_changed_runs_again(tiny):
    first = stressed(tiny, "--only", "as built", "avx2")
    assert "01_tiny | as built" in first and "01_tiny | arithmetic avx2" in first
    record = kept(tiny)
    assert set(record) == {"as built", "arithmetic avx2"}
    assert record["as built"]["claims"][0]["value"] == 42
    assert "distill_lib/__init__.py" in record["as built"]["files"]
    assert "|" not in stressed(tiny, "--only", "as built", "avx2")

    page = tiny / CHAPTER
    page.write_text(page.read_text().replace("is large", "is quite large"))
    words = stressed(tiny, "--only", "as built", "avx2")  # the words alone: as built, no more
    assert "| as built" in words and "avx2" not in words
    page.write_text(page.read_text().replace("at_least=40", "at_least=43"))
    flipped = stressed(tiny, "--only", "as built", "avx2")
    assert "✗ The answer is quite large" in flipped and "avx2 |" not in flipped
    assert "book/robustness.md: 2 flips" in flipped
    library = tiny / "distill_lib/__init__.py"
    library.write_text(library.read_text().replace("ANSWER = 42", "ANSWER = 44"))
    both = stressed(tiny, "--only", "as built", "avx2")
    assert "| as built" in both and "| arithmetic avx2" in both and ": 0 flips" in both
    library.write_text(library.read_text() + "\nUNUSED = 1\n")
    same = stressed(tiny, "--only", "as built", "avx2")  # every number where it was: it stands
    assert "| as built" in same and "avx2 |" not in same
    text = (tiny / "book/robustness.md").read_text()
    assert "| Temperature | 1 | 0 | arithmetic avx2 | all | 0 | 0 | inf |" in text
    assert "The answer is quite large" in text


def test_what_the_book_has_just_computed_is_not_run_again(changed):
    stressed(changed, "--only", "as built")
    costs = json.loads((changed / "_build/costs.json").read_text())
    assert kept(changed)["as built"]["seconds"] == costs[0]["seconds"]
    assert "distill_lib/__init__.py" in kept(changed)["as built"]["files"]


@pytest.mark.slow
def test_a_page_that_fails_is_kept_as_failed_and_tried_again(tiny):
    page = tiny / CHAPTER
    page.write_text(page.read_text() + "\n```{code-cell}\n1 / 0\n```\n")
    assert "ZeroDivisionError" in stressed(tiny, "--only", "as built")
    assert kept(tiny)["as built"]["error"]
    assert "ZeroDivisionError" in stressed(tiny, "--only", "as built")


def test_runs_of_other_code_say_nothing_about_a_page(tiny):
    """Their claims may be others, and as many."""
    page = tiny / CHAPTER
    run = {"error": None, "claims": [{"value": 1}]}
    names = ("as built", "seeds +1000", "seeds +2000")
    record = {name: {**run, "code": stress.digest_of_code(page, name)} for name in names}
    record["seeds +2000"]["code"] = "another"
    stress.save(tiny, page, record)
    assert list(robustness.standing(tiny, page)) == ["as built", "seeds +1000"]
    page.write_text(page.read_text() + "\n```{code-cell}\n1 + 1\n```\n")
    assert robustness.standing(tiny, page) == {}


@pytest.mark.parametrize(
    ("moved", "named", "stands"),
    [(1.0005, {}, True), (1.0, {"table.jsonl": "t"}, True), (1.1, {}, False)],
)
def test_variations_stand_while_the_page_as_built_has_not_moved(moved, named, stands):
    """With a new library, by no more than processors move it; what it merely names is no matter."""
    run = {"error": None, "claims": [{"value": 1.0, "bound": 0.5, "relation": ">="}]}
    record = {"as built": {**run, "files": {"one.py": "a", **named}}}
    record["seeds +1000"] = {**run, "files": {"one.py": "a"}}
    record["seeds +2000"] = {**run, "files": {"one.py": "a"}, "claims": [{"value": 0.4}]}  # a flip
    record["two threads"] = {**run, "files": {"one.py": "of an older library"}}
    claims = [{**run["claims"][0], "value": moved}]
    new = {"error": None, "claims": claims, "files": {"one.py": "b"}}
    stress.carry(record, new)
    assert (record["seeds +1000"]["files"] == new["files"]) is stands
    assert record["seeds +2000"]["files"] == {"one.py": "a"}
    assert record["two threads"]["files"] == {"one.py": "of an older library"}


def test_a_file_written_while_a_page_ran_is_unknown(tmp_path):
    (tmp_path / "one.py").write_text("a = 1")
    os.utime(tmp_path / "one.py", (100, 100))
    known = stress.digests(tmp_path, ["one.py", "gone.py"], began=101)
    assert known["one.py"] == stress.digest(tmp_path / "one.py") and known["gone.py"] is None
    assert stress.digests(tmp_path, ["one.py"], began=99) == {"one.py": None}


@pytest.mark.parametrize(("shift", "enough"), [(5, False), (6, True)])
def test_a_page_is_long_if_its_quietest_run_was(shift, enough):
    loud, quiet = ({"error": None, "seconds": seconds} for seconds in (900, 101))
    name = f"seeds +{shift}000"
    assert stress.is_enough({"as built": loud, "busy machine": quiet}, name) is enough
    assert not stress.is_enough({"as built": loud, "two threads": {**quiet, "seconds": 99}}, name)


def test_every_variation_that_the_page_promises():
    names = list(stress.variations())
    assert sum(name.startswith("seeds +") for name in names) == 10
    others = {"arithmetic default", "arithmetic avx2", "two threads"}
    others |= {"busy machine", "another torch"}
    assert others | {"another text"} < set(names)


def test_another_text_is_for_those_who_read_one(tmp_path):
    """It lacks an eighth of the articles of the reference, and changes none."""
    found: dict[str, dict[str, str]] = {}
    exec(stress.ANOTHER_TEXT, found)
    there = runpy.run_path(f"{sysconfig.get_path('stdlib')}/pydoc_data/topics.py")["topics"]
    assert found["topics"].items() < there.items()
    assert len(found["topics"]) == pytest.approx(len(there) * 7 / 8, abs=1)
    page = tmp_path / "page.md"
    page.write_text("no text")
    assert stress.applies(page, "two threads") and not stress.applies(page, "another text")
    page.write_text("train = reference_text()")
    assert stress.applies(page, "another text")


@pytest.mark.parametrize(
    ("relation", "values", "margin", "flips"),
    [
        (">=", [2.0, 3.0, 4.0], 3.0 / 1.0, 0),
        ("<=", [-2.0, -1.0, 0.0], 1.0, 0),
        (">=", [-1.0, 0.0, 2.0], (1 / 3) / 1.5275, 1),
        ("<=", [1.0, 1.0, 1.0], float("inf"), 3),
    ],
)
def test_margin_is_counted_in_standard_deviations(relation, values, margin, flips):
    names = ["as built", "seeds +1000", "seeds +2000"]
    record = {
        name: {"error": None, "claims": [{"value": v, "relation": relation, "bound": 0.0}]}
        for name, v in zip(names, values, strict=True)
    }
    built = {"relation": relation, "bound": 0.0, "text": "It is."}
    claim = robustness.Stressed(0, built, record)
    assert claim.margin == pytest.approx(margin, rel=1e-3)
    assert len(claim.flips) == flips


def test_of_a_ratio_the_margin_is_that_of_its_logarithm():
    """A ratio of 8 and one of 1/8 are as far from 1."""
    names = ["as built", "seeds +1000", "seeds +2000"]
    built = {"relation": ">=", "bound": 1.0, "text": "It is 4 times as large."}
    claims = ({"claims": [{"value": value}], "error": None} for value in (2.0, 4.0, 8.0))
    claim = robustness.Stressed(0, built, dict(zip(names, claims, strict=True)))
    assert claim.margin == pytest.approx(2.0)

"""Glue, profile and report: rich in a notebook, plain text outside."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from distill_lib.booktools import by_profile, claim, device, env_report, glue, measurement, profile
from distill_lib.booktools.claims import MIME as CLAIM
from distill_lib.booktools.profile import MIME as ENV

HIDDEN = "application/papermill.record/"


@pytest.fixture
def notebook():
    """A running IPython session whose published outputs are caught."""
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    publisher, outputs = shell.display_pub, []

    class Catch(type(publisher)):
        def publish(self, data, metadata=None, **rest):
            outputs.append((data, metadata))

    shell.display_pub = Catch(parent=shell)
    try:
        yield outputs
    finally:
        shell.display_pub = publisher
        InteractiveShell.clear_instance()


def test_importing_booktools_loads_neither_matplotlib_nor_ipython_nor_torch():
    code = (
        "import sys, distill_lib.booktools as b; b.claim('It is {value}.', 1, equals=1);"
        "print([m for m in ('matplotlib', 'IPython', 'torch') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=os.getcwd()
    )
    assert done.stdout.splitlines() == ["✓ It is 1. (exactly 1)", "[]"]


def test_a_claim_in_a_notebook_carries_text_html_and_record(notebook):
    claim("It is {value}.", 2, at_least=1)
    ((data, _),) = notebook
    assert set(data) == {"text/plain", "text/html", CLAIM}


def test_the_claims_of_a_cell_are_one_list_and_none_stops_the_page(notebook):
    from IPython import get_ipython

    shell = get_ipython()
    claim("It is {value}.", 1, at_least=2)  # false, and the page goes on
    claim("It is {value}.", 2, at_least=2)
    first, second = (data for data, _ in notebook)
    assert [len(data[CLAIM]["claims"]) for data in (first, second)] == [1, 2]
    assert second["text/html"].count("<li") == 2 and second["text/html"].count("<ul") == 1
    assert second["text/plain"].splitlines()[0].startswith("✗ It is 1.")
    shell.execution_count += 1  # another cell
    measurement("It is {value}.", 3)
    assert len(notebook[-1][0][CLAIM]["claims"]) == 1


@pytest.mark.parametrize(
    ("value", "fmt", "text"),
    [
        (0.93125, ".1%", "93.1%"),
        (torch.tensor(3.0), ".2f", "3.00"),
        (12, None, "12"),
        (20_000, ",", "20,000"),
        (-1.25, ".1f", "\u22121.2"),
        (0.1, ".2f", "0.10"),
        ("word", None, "word"),
    ],
)
def test_glue_hides_a_formatted_value_under_its_name(notebook, value, fmt, text):
    glue("name", value, fmt)
    ((data, metadata),) = notebook
    assert data == {HIDDEN + "text/plain": repr(text)}
    shown = pytest.importorskip("myst_nb.core.variables").format_plain_text
    assert shown(data[HIDDEN + "text/plain"], "") == text
    assert metadata == {"scrapbook": {"name": "name", "mime_prefix": HIDDEN}}


def test_glue_takes_whatever_a_notebook_displays(notebook):
    class Figure:
        def _repr_html_(self):
            return "<b>figure</b>"

    glue("figure", Figure())
    assert notebook[0][0][HIDDEN + "text/html"] == "<b>figure</b>"


def test_glue_writes_the_format_that_myst_nb_reads(notebook):
    glue_format = pytest.importorskip("myst_nb.ext.glue").GLUE_PREFIX
    glue("n", 1)
    assert all(mime.startswith(glue_format) for mime in notebook[0][0])


def test_glue_prints_outside_a_notebook(capsys):
    glue("accuracy", 0.5, ".1%")
    glue("thing", [1, 2])
    assert capsys.readouterr().out == "accuracy = 50.0%\nthing = [1, 2]\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((" ", 1), "needs a name"),
        (("n", float("nan")), "it cannot be quoted"),
        (("n", torch.tensor(float("inf"))), "it cannot be quoted"),
        (("n", [1], ".1f"), "fmt formats numbers, got list"),
    ],
)
def test_glue_refuses(arguments, words):
    with pytest.raises(ValueError, match=words):
        glue(*arguments)


@pytest.mark.parametrize(
    ("variable", "name"),
    [(None, "laptop"), ("", "laptop"), ("laptop", "laptop"), (" Full", "full")],
)
def test_the_profile_comes_from_the_environment(monkeypatch, variable, name):
    monkeypatch.delenv("DISTILL_PROFILE", raising=False)
    if variable is not None:
        monkeypatch.setenv("DISTILL_PROFILE", variable)
    assert profile() == name
    assert by_profile(laptop=1, full=2) == (1 if name == "laptop" else 2)


def test_an_unknown_profile_is_refused(monkeypatch):
    monkeypatch.setenv("DISTILL_PROFILE", "huge")
    with pytest.raises(ValueError, match=r"'huge' is not a profile\. Set it to one of laptop"):
        profile()


def test_the_report_says_what_it_runs_on_and_fixes_the_seeds(capsys, monkeypatch):
    monkeypatch.setenv("DISTILL_PROFILE", "laptop")
    draws = []
    for _ in range(2):
        env_report(minutes=1.5, seed=7)
        draws.append((random.random(), float(np.random.rand()), float(torch.rand(()))))
    assert draws[0] == draws[1]
    line = capsys.readouterr().out.splitlines()[0]
    for part in (f"torch {torch.__version__}", "profile laptop", "seed 7", "about 1.5 minutes"):
        assert part in line


def test_the_report_in_a_notebook_has_a_record(notebook):
    env_report()
    record = notebook[0][0][ENV]
    assert json.loads(json.dumps(record)) == record
    assert {"profile", "device", "threads", "python", "torch", "distill_lib"} <= set(record)
    assert record["minutes"] is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without CUDA does")
def test_without_cuda_one_thread_of_the_cpu_is_used(monkeypatch):
    """And no other accelerator, such as a Mac's, which Accelerate would choose by itself."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    for asked in ("is_available", "is_built"):
        monkeypatch.setattr(torch.backends.mps, asked, lambda: True)
    AcceleratorState._reset_state(reset_partial_state=True)
    env_report()
    assert device() == "cpu"
    assert torch.get_num_threads() == 1
    assert Accelerator().device == torch.device("cpu")
    AcceleratorState._reset_state(reset_partial_state=True)


def test_minutes_are_positive():
    with pytest.raises(ValueError, match="minutes must be positive"):
        env_report(minutes=0)

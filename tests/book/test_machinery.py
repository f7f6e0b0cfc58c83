"""The way from a chapter to the site, tried on a tiny book: what must fail, fails."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import bookcache
import ledger
import nbformat
import pytest
from conftest import make, run_in
from jupyter_cache.base import CacheBundleIn

CHAPTER = "chapters/01_tiny.md"


def add_cell(root: Path, source: str) -> None:
    path = root / CHAPTER
    path.write_text(path.read_text() + f"\n```{{code-cell}} ipython3\n{source}\n```\n")


def read_json(root: Path, name: str) -> list[dict[str, object]]:
    return json.loads((root / "_build" / name).read_text())


def test_the_book_builds_and_says_where(built):
    root, printed = built
    assert (root / "_build/html/index.html").as_uri() in printed
    assert "1 of 1 claims hold" in printed


def test_one_execution_feeds_the_site(built):
    _, printed = built
    assert "Using cached notebook" in printed
    assert "Executing notebook" not in printed


def test_ledgers_have_the_documented_fields(built):
    (claim,), (cost,) = (read_json(built[0], f"{name}.json") for name in ("claims", "costs"))
    assert claim == {
        "id": "the-answer-is-large",
        "chapter": "01_tiny",
        "text": "The answer is large",
        "value": 42,
        "relation": ">=",
        "bound": 40,
        "seeds": 3,
        "source": None,
        "holds": True,
    }
    assert set(cost) == {"chapter", "seconds", "peak_rss_mb", "device", "profile"}
    assert cost["seconds"] > 0
    assert cost["peak_rss_mb"] > 20


def test_pages_show_costs_claims_and_numbers(built):
    html = built[0] / "_build/html"
    chapter = (html / "chapters/01_tiny.html").read_text()
    assert "downloads: 31 MB (Fashion-MNIST)" in chapter
    assert "/blob/notebooks/01_tiny.ipynb" in chapter
    assert 'href="../notebooks/01_tiny.ipynb"' in chapter
    assert (html / "notebooks/01_tiny.ipynb").exists()
    reference = (html / "book/reference.html").read_text()
    assert "1 of 1 claims held" in reference
    assert "The answer is large" in reference
    assert "Chapters: 1." in reference


def test_launch_links_never_open_markdown(built):
    for page in (built[0] / "_build/html").rglob("*.html"):
        text = page.read_text()
        assert "colab.research.google.com/github" not in text or ".ipynb" in text
        assert "mybinder.org" not in text


def test_mathjax_is_in_the_site_with_its_license(built):
    folder = built[0] / "_build/html/_static/mathjax"
    assert (folder / "tex-mml-chtml.js").stat().st_size > 1e6
    assert list((folder / "output/chtml/fonts/woff-v2").glob("*.woff"))
    assert "Apache License" in (folder / "LICENSE").read_text()
    assert "cdn." not in (built[0] / "_build/html/chapters/01_tiny.html").read_text()


def test_nothing_runs_twice(changed):
    done = run_in(changed, "book/_tools/execute.py")
    assert done.returncode == 0, done.stdout
    assert "1 of 1 chapters are in the cache" in done.stdout
    assert "running" not in done.stdout


def test_a_changed_library_runs_the_chapter_again(changed):
    before = bookcache.fingerprint(changed)
    library = changed / "distill_lib/__init__.py"
    library.write_text(library.read_text().replace("ANSWER = 42", "ANSWER = 43"))
    assert bookcache.fingerprint(changed) != before
    stale = run_in(changed, "book/_tools/ledger.py")
    assert stale.returncode == 1
    assert "another library" in stale.stdout
    done = run_in(changed, "book/_tools/execute.py")
    assert "running 01_tiny" in done.stdout, done.stdout
    assert run_in(changed, "book/_tools/ledger.py").returncode == 0
    assert read_json(changed, "claims.json")[0]["value"] == 43


def test_weights_and_profile_are_part_of_the_fingerprint(changed, monkeypatch):
    before = bookcache.fingerprint(changed)
    (changed / "distill_lib/teacher.safetensors").write_bytes(b"weights")
    with_weights = bookcache.fingerprint(changed)
    monkeypatch.setenv("DISTILL_PROFILE", "full")
    assert len({before, with_weights, bookcache.fingerprint(changed)}) == 3


def test_a_raising_cell_fails_the_build(changed):
    add_cell(changed, "raise RuntimeError('planted')")
    done = make(changed, "book")
    assert done.returncode != 0
    assert "01_tiny FAILED" in done.stdout
    assert "RuntimeError: planted" in done.stdout


def test_a_raising_cell_fails_sphinx_too(changed):
    add_cell(changed, "raise RuntimeError('planted')")
    command = "import sys; from jupyter_book.cli.main import main; sys.exit(main())"
    done = run_in(changed, "-c", command, "build", ".", "--all", "-n", "-W", "--keep-going")
    assert done.returncode != 0
    assert "RuntimeError: planted" in bookcache.plain(done.stdout)


def test_one_failing_chapter_does_not_stop_the_others(changed):
    good = (changed / CHAPTER).read_text().replace("ch-tiny", "ch-second")
    (changed / "chapters/02_second.md").write_text(good + "\n```{code-cell}\nprint(2)\n```\n")
    toc = changed / "_toc.yml"
    toc.write_text(
        toc.read_text().replace("01_tiny.md", "01_tiny.md\n      - file: chapters/02_second.md")
    )
    add_cell(changed, "raise RuntimeError('planted')")
    done = run_in(changed, "book/_tools/execute.py")
    assert done.returncode == 1
    assert "01_tiny FAILED" in done.stdout
    assert "02_second" in done.stdout.split("FAILED")[1]
    assert "1 of 2 chapters failed: 01_tiny" in done.stdout


def test_an_image_without_alt_text_fails_the_build(changed):
    chapter = changed / CHAPTER
    text = chapter.read_text()
    line = next(line for line in text.splitlines() if line.startswith(":alt:"))
    chapter.write_text(text.replace(line + "\n", ""))
    done = make(changed, "book")
    assert done.returncode != 0
    assert "image without alt text" in done.stdout


@pytest.fixture
def stored(changed):
    """Put a notebook into the tiny book's cache as if it had been executed."""

    def store(seconds: float = 1.0, outputs: list[object] | None = None) -> None:
        cache = bookcache.open_cache(changed)
        notebook = bookcache.read(changed / CHAPTER)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs = [nbformat.from_dict(output) for output in outputs or []]
                outputs = []
        mark = bookcache.fingerprint(changed)
        data = {"execution_seconds": seconds, "peak_rss_mb": 1, "fingerprint": mark}
        bundle = CacheBundleIn(notebook, CHAPTER, data=data)
        cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)

    return SimpleNamespace(root=changed, store=store)


def displayed(mime: str, **record: object) -> dict[str, object]:
    return {"output_type": "display_data", "metadata": {}, "data": {mime: record}}


CLAIM = {"id": "c", "text": "It holds", "value": 1.0, "relation": "<=", "bound": 2.0, "holds": True}


def test_a_page_that_took_no_time_fails(stored):
    stored.store(seconds=0.0)
    assert ledger.harvest(stored.root)[2] == [
        "01_tiny ran for 0 seconds: nothing in it was computed."
    ]


def test_a_page_that_was_not_executed_fails(changed):
    add_cell(changed, "print('new')")
    claims, costs, (problem,) = ledger.harvest(changed)
    assert (claims, costs) == ([], [])
    assert "has not been executed" in problem


def test_a_false_claim_fails(stored):
    stored.store(outputs=[displayed(bookcache.CLAIM, **{**CLAIM, "holds": False})])
    assert ledger.harvest(stored.root)[2] == ["01_tiny: a claim does not hold: It holds"]


def test_claims_of_one_text_get_names_of_their_own(stored):
    stored.store(outputs=[displayed(bookcache.CLAIM, **CLAIM)] * 3)
    claims, _, problems = ledger.harvest(stored.root)
    assert [claim["id"] for claim in claims] == ["c", "c-2", "c-3"]
    assert not problems


def test_tolerance_is_kept_where_a_claim_has_one(stored):
    record = {**CLAIM, "relation": "==", "tolerance": 0.1}
    stored.store(outputs=[displayed(bookcache.CLAIM, **record)])
    assert ledger.harvest(stored.root)[0][0]["tolerance"] == 0.1


def test_costs_name_device_and_profile(stored):
    stored.store(outputs=[displayed(bookcache.ENV, device="NVIDIA H200", profile="full")])
    (cost,) = ledger.harvest(stored.root)[1]
    assert (cost["device"], cost["profile"]) == ("NVIDIA H200", "full")


def test_pages_come_in_reading_order(built):
    assert bookcache.pages(built[0]) == [
        "book/intro.md",
        "chapters/01_tiny.md",
        "book/reference.md",
        "book/bibliography.md",
    ]

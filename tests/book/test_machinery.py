"""The way from a chapter to the site, tried on a tiny book: what must fail, fails."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import bookcache
import ledger
import nbformat
import pytest
from fontTools.ttLib import TTFont
from jupyter_cache.base import CacheBundleIn
from making import ROOT, make, run_in
from PIL import Image

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
        "kind": "claim",
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
    assert 'href="../notebooks/01_tiny.ipynb"' in chapter
    assert (html / "notebooks/01_tiny.ipynb").exists()
    reference = (html / "book/reference.html").read_text()
    assert "1 of 1 claims held" in reference
    assert "The answer is large" in reference
    assert "Chapters: 1." in reference
    (cost,) = read_json(built[0], "costs.json")
    assert f"At 15 watts: {ledger.kwh(cost['seconds']):.4f} kWh." in reference
    assert f"<p>{ledger.kwh(cost['seconds']):.5f}</p>" in reference


def test_energy_is_seconds_times_the_watts_that_the_chapter_assumes():
    assert ledger.kwh(3_600) == pytest.approx(ledger.WATTS / 1_000)
    chapter = ROOT / "chapters/foundations/what_teaching_costs.md"
    assert f"JOULES = {ledger.WATTS} / 30e9" in chapter.read_text(encoding="utf-8")
    assert f"{ledger.WATTS} watts" in (ROOT / "book/status.md").read_text(encoding="utf-8")


def test_a_page_opens_with_its_question_and_folds_what_is_not_its_subject(built):
    """The question under the title, one fold with cost and set-up, code under its figure."""
    chapter = (built[0] / "_build/html/chapters/01_tiny.html").read_text()
    text = chapter[chapter.index("<h1>") :]
    assert '<p class="dl-question">What is the answer?</p>' in text
    opening = text[text.index('<details class="dl-before">') :]
    opening = opening[: opening.index("</details>")]
    for part in ("Before you start · CPU: under a minute", "31 MB", "will be able", "import"):
        assert part in opening, part
    assert text.index("dl-question") < text.index("dl-before") < text.index("sec-limit")
    figure, code = text.index("fig-answer"), text.index("Code of the figure")
    assert figure < code < text.index("subplots") and "Code of these statements" in text
    for fold in re.findall(r'<details class="dl-code">.*?</details>', text, re.DOTALL):
        assert "<summary>" in fold and "cell_input" in fold


HOST = re.compile(r"(?:href|src|content)=\"(https?://[^\"]+)")


def test_without_an_address_no_link_needs_one(built):
    """Nobody has said where the tiny book lives."""
    for page in (built[0] / "_build/html").rglob("*.html"):
        text = page.read_text()
        assert "Edit" not in re.findall(r'btn__text-container">([^<]*)', text)
        for link in HOST.findall(text):
            assert not re.search(r"github\.(com|io)/(?!executablebooks)|colab|mybinder", link), link
        assert 'rel="canonical"' not in text
    chapter = (built[0] / "_build/html/chapters/01_tiny.html").read_text()
    assert "open in Colab" not in chapter and "tell us what is wrong" in chapter.replace("\n", " ")


@pytest.fixture(scope="session")
def planted(built, tmp_path_factory) -> Path:
    """The tiny book where it lives at an address, with one more chapter before its own."""
    root = tmp_path_factory.mktemp("planted") / "book"
    shutil.copytree(built[0], root)
    page = (root / CHAPTER).read_text().replace("ch-tiny", "ch-new").split("## The limit")[0]
    page = page.replace("thm-", "new-").replace("def-", "newdef-").replace("eq-", "neweq-")
    page = page.replace("sec-limit", "newsec")
    (root / "chapters/planted.md").write_text(f"{page}\n## A section\n\n(newsec2)=\n### Below\n")
    toc, line = root / "_toc.yml", "      - file: chapters/01_tiny.md"
    toc.write_text(toc.read_text().replace(line, f"      - file: chapters/planted.md\n{line}"))
    done = make(root, "book", DISTILL_REPOSITORY="https://github.com/someone/their-copy")
    assert done.returncode == 0, done.stdout
    return root


@pytest.mark.slow
def test_a_planted_chapter_costs_one_line_of_the_table_of_contents(planted):
    """It takes its place and its number; the one behind it counts on, and nothing else changes."""
    html = planted / "_build/html/chapters"
    assert (html / "planted.html").exists()
    assert "Theorem 2.1" in (html / "01_tiny.html").read_text()
    assert "planted" in (html / "01_tiny.html").read_text()  # the link to the page before it


@pytest.mark.slow
def test_with_an_address_the_links_lead_there(planted):
    chapter = (planted / "_build/html/chapters/01_tiny.html").read_text()
    colab = (
        "https://colab.research.google.com/github/someone/their-copy/blob/notebooks/01_tiny.ipynb"
    )
    for link in (
        colab,
        "https://github.com/someone/their-copy/issues",
        "https://github.com/someone/their-copy/edit/main/chapters/01_tiny.md",
    ):
        assert f'href="{link}' in chapter, link
    assert 'rel="canonical" href="https://someone.github.io/their-copy/chapters' in chapter
    image = "https://someone.github.io/their-copy/_static/cards/01_tiny.png"
    assert f'property="og:image" content="{image}"' in chapter
    with Image.open(planted / "_build/html/_static/cards/01_tiny.png") as card:
        assert card.size == (1200, 630)
    notebook = (planted / "_build/notebooks/01_tiny.ipynb").read_text()
    assert "https://someone.github.io/their-copy/chapters/01_tiny.html" in notebook


def test_links_to_tests_lead_to_pages_of_the_site(built):
    html = built[0] / "_build/html"
    chapter = (html / "chapters/01_tiny.html").read_text()
    assert 'href="../sources/tests/test_tiny.py.html#test_answer"' in chapter
    assert 'href="../sources/tests/index.html"' in chapter
    page = (html / "sources/tests/test_tiny.py.html").read_text()
    assert 'id="test_answer"' in page and "assert" in page
    assert 'href="test_tiny.py.html"' in (html / "sources/tests/index.html").read_text()


@pytest.fixture(scope="session")
def warned(built, tmp_path_factory) -> list[str]:
    """What Sphinx warns of where links lead nowhere, an image says nothing and a cell raises."""
    root = tmp_path_factory.mktemp("warned") / "book"
    shutil.copytree(built[0], root)
    page, chapter = root / "book/intro.md", root / CHAPTER
    links = "{src}`tests/none.py` {src}`tests/test_tiny.py::none`"
    page.write_text(f"{page.read_text()}\n{links} $a \\nonesuch b$\n")
    text = chapter.read_text()
    line = next(line for line in text.splitlines() if line.startswith(":alt:"))
    chapter.write_text(text.replace(line + "\n", ""))
    add_cell(root, "raise RuntimeError('planted')")
    command = "import sys; from jupyter_book.cli.main import main; sys.exit(main())"
    done = run_in(root, "-c", command, "build", ".", "--all", "-n", "-W", "--keep-going")
    assert done.returncode != 0
    said = bookcache.plain(done.stdout)
    assert "RuntimeError: planted" in said
    return [line for line in said.splitlines() if re.search("WARNING|ERROR", line)]


@pytest.mark.parametrize(
    "words",
    [
        "there is no tests/none.py",
        "test_tiny.py has no none",
        "image without alt text",
        "no formula: a \\nonesuch b",
        "Executing notebook failed",
    ],
)
def test_what_a_build_must_not_pass_over_is_a_warning(warned, words):
    """With ``-W`` one of them is enough to fail it."""
    assert any(words in line for line in warned), warned


def test_formulas_need_no_script_and_their_font_is_in_the_site(built):
    site = built[0] / "_build/html"
    font = site / "_static/fonts/stix-two-math.woff"
    with TTFont(font) as opened:
        assert "MATH" in opened and ord("a") in opened.getBestCmap()
    assert font.stat().st_size < 120_000
    assert "SIL Open Font License" in font.with_suffix(".LICENSE.txt").read_text("utf-8")
    page = (site / "chapters/01_tiny.html").read_text("utf-8")
    assert "<math" in page and not re.search(r"cdn\.|MathJax|mathjax/", page)


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


@pytest.mark.slow
def test_what_a_chapter_does_not_import_does_not_run_it_again(changed):
    """A module of its own, comments and docstrings; but weights and processes always."""
    (changed / "distill_lib/unused.py").write_text("OTHER = 1\n")
    library = changed / "distill_lib/__init__.py"
    library.write_text(f"# a comment\n{library.read_text()}")
    assert "running" not in run_in(changed, "book/_tools/execute.py").stdout
    (changed / "distill_lib/data.json").write_text("{}")
    assert "running 01_tiny" in run_in(changed, "book/_tools/execute.py").stdout


def test_a_chapter_that_starts_processes_depends_on_the_whole_library(tmp_path):
    inside = [str(tmp_path / "distill_lib/a.py"), "/elsewhere/b.py"]
    (tmp_path / "distill_lib").mkdir()
    (tmp_path / "distill_lib/a.py").write_text("A = 1\n")
    assert bookcache.imported(tmp_path, "import torch", inside) == ["distill_lib/a.py"]
    assert bookcache.imported(tmp_path, "import subprocess", inside) is None
    served = str(tmp_path / "distill_lib/booktools/processes/c.py")
    assert bookcache.imported(tmp_path, "import torch", [served]) is None


def test_a_chapter_depends_on_the_tables_that_it_names(tmp_path):
    (tmp_path / "distill_lib").mkdir()
    for name in (
        *("a.py", "one_grid.jsonl", "two_grid.safetensors", "weights.safetensors"),
        *("live_pair.safetensors", "named.js", "one.js"),
    ):
        (tmp_path / "distill_lib" / name).write_text("A = 1\n")
    files = bookcache.imported(
        tmp_path, "read('one_grid', 'named.js')", [str(tmp_path / "distill_lib/a.py")]
    )
    assert files == ["distill_lib/a.py", "distill_lib/named.js", "distill_lib/one_grid.jsonl"]

    def changed(name: str) -> bool:
        before = bookcache.fingerprint(tmp_path, files)
        (tmp_path / "distill_lib" / name).write_text(f"A = {len(name) * 77}\n")
        return bookcache.fingerprint(tmp_path, files) != before

    assert changed("one_grid.jsonl") and changed("weights.safetensors") and changed("a.py")
    assert changed("named.js") and not changed("one.js")
    assert not changed("two_grid.safetensors") and not changed("live_pair.safetensors")


def test_weights_and_profile_are_part_of_the_fingerprint(changed, monkeypatch):
    before = bookcache.fingerprint(changed)
    (changed / "distill_lib/teacher.safetensors").write_bytes(b"weights")
    with_weights = bookcache.fingerprint(changed)
    monkeypatch.setenv("DISTILL_PROFILE", "full")
    assert len({before, with_weights, bookcache.fingerprint(changed)}) == 3


BROKEN = {
    "02_raises": "raise RuntimeError('planted')\n```\n\n```{code-cell} ipython3\nglue('late', 5)",
    "03_dies": "import os\nos.kill(os.getppid(), 9)\nos._exit(1)",
    "04_false": "claim('The answer is 3 more.', answer(), at_least=45)\n"
    "claim('The answer is positive.', answer(), at_least=0)",
    "05_slow": "from distill_lib import measurement\n"
    "measurement('One is 1,000 times slower here.', 1e-3)",
}


@pytest.fixture(scope="session")
def broken(built, tmp_path_factory) -> tuple[Path, str]:
    """The tiny book with four more chapters, after `make book`: three of them are at fault."""
    root = tmp_path_factory.mktemp("broken") / "book"
    shutil.copytree(built[0], root)
    head = (root / CHAPTER).read_text().partition("(ch-tiny)=")[0]
    good = f"{head}\n# A title\n\n```{{code-cell}}\nfrom distill_lib import answer, claim, glue\n"
    for name, source in BROKEN.items():
        late = "\nIt is {glue:text}`late`.\n" if "late" in source else ""
        (root / f"chapters/{name}.md").write_text(f"{good}{source}\n```\n{late}")
    toc = root / "_toc.yml"
    more = "".join(f"\n      - file: chapters/{name}.md" for name in BROKEN)
    toc.write_text(toc.read_text().replace("01_tiny.md", f"01_tiny.md{more}"))
    done = make(root, "book")
    assert done.returncode != 0, done.stdout
    return root, done.stdout


def test_a_build_names_all_that_is_wrong(broken):
    end = broken[1].split("It was built, and something in it is wrong:")[1].strip().splitlines()
    assert end == [
        "02_raises failed: RuntimeError: planted",
        "03_dies failed: its process ended",
        "04_false: a claim does not hold (>= 45): The answer is 3 more.",
    ]
    assert "02_raises FAILED" in broken[1]


def test_a_failing_page_says_where_and_holds_no_other_back(broken):
    html = broken[0] / "_build/html"
    for name in BROKEN:
        page = (html / f"chapters/{name}.html").read_text()
        noted = page.count("This cell failed when these pages were built")
        assert noted == (name in {"02_raises", "03_dies"}), name
        assert (broken[0] / f"_build/notebooks/{name}.ipynb").exists()
    assert "It is (not computed)." in (broken[0] / "_build/notebooks/02_raises.ipynb").read_text()


@pytest.mark.slow
def test_a_failing_page_is_run_again_and_no_other(broken):
    again = run_in(broken[0], "book/_tools/execute.py")
    assert again.returncode == 1
    assert "3 of 5 chapters are in the cache" in again.stdout
    assert "2 of 5 chapters failed: 02_raises, 03_dies" in again.stdout


def test_a_false_claim_is_shown_as_false(broken):
    reference = (broken[0] / "_build/html/book/reference.html").read_text()
    assert "does not hold:" in reference and "2 of 3 claims held" in reference
    assert "2 of 3 claims hold; 1 measurements of this machine" in broken[1]


def test_a_measurement_of_the_machine_is_never_wrong(broken):
    reference = (broken[0] / "_build/html/book/reference.html").read_text()
    assert "Measured on: ours." in reference and "1,000 times slower here" in reference
    machine = read_json(broken[0], "claims.json")[-1]
    assert (machine["kind"], machine["holds"], machine["machine"]) == ("machine", None, "ours")


PIECES = """
import sys
def print(text):
    sys.stdout.write(text)
    sys.stdout.flush()
    sys.stdout.write("\\n")
"""


@pytest.mark.slow
def test_output_that_comes_in_pieces_fails_no_page(changed):
    """What a kernel of a busy machine prints comes in several messages."""
    add_cell(changed, PIECES)
    done = run_in(changed, "book/_tools/execute.py")
    assert done.returncode == 0, done.stdout
    record, _ = bookcache.executed(bookcache.open_cache(changed), changed / CHAPTER)
    assert "distill_lib/__init__.py" in record.data["files"]


# The cell ends at once, and what it displays comes after six seconds: as on a machine that stands
# still for a moment. nbclient by itself waits for four, and goes on without it.
LATE = """
import sys
import time
from IPython import get_ipython
from distill_lib.booktools import claim
sys.stdout.flush_timeout = sys.stderr.flush_timeout = 0
get_ipython().kernel.iopub_thread.schedule(lambda: time.sleep(6))
claim("A late claim is {value}.", 1, at_least=2)
"""


@pytest.mark.slow
def test_output_that_comes_late_is_not_lost(changed):
    """A claim that nobody sees would hold; this one does not."""
    add_cell(changed, LATE)
    assert run_in(changed, "book/_tools/execute.py").returncode == 0
    _, notebook = bookcache.executed(bookcache.open_cache(changed), changed / CHAPTER)
    assert "A late claim is 1." in [claim["text"] for claim in bookcache.claims(notebook)]


THREADS = """
import gc, sys
from concurrent.futures import ThreadPoolExecutor
import bookcache
gc.set_threshold(5)
sys.setswitchinterval(1e-6)
class Kept:
    def __del__(self):
        pass
def parse(source):
    kept = Kept()
    kept.itself = kept  # garbage that ends in the middle of another's parsing
    del kept
    return bookcache.parse(source)
program = ("x = " + "[" * 40 + "1" + "]" * 40 + chr(10)) * 50
with ThreadPoolExecutor(4) as pool:
    print(len({len(tree.body) for tree in pool.map(parse, [program] * 100)}))
"""


def test_threads_may_ask_whether_a_page_has_changed():
    """Python 3.11 refuses nearly each of these programs, if they are parsed side by side."""
    tools = str(ROOT / "book/_tools")
    done = subprocess.run(
        [sys.executable, "-c", THREADS], cwd=tools, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "1", done.stderr


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


CLAIM = {
    **{"id": "c", "kind": "claim", "text": "It holds", "value": 1.0},
    **{"relation": "<=", "bound": 2.0, "holds": True},
}


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
    assert ledger.harvest(stored.root)[2] == ["01_tiny: a claim does not hold (<= 2): It holds"]


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

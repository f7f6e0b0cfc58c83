"""The clean notebooks: readable in a viewer that knows no MyST, runnable with the wheel alone."""

from __future__ import annotations

import ast
import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import bookcache
import nbformat
import notebooks
import plainmyst
import pytest
from making import ROOT

REFERENCES = {
    "ref|thm-limit|": {"text": "Theorem 1.1", "uri": "chapters/a.html#thm-limit"},
    "p|hinton2015|": {"text": "[HVD15]", "uri": "book/bibliography.html#id2"},
    "func|distill_lib.losses.kl|": {"text": "kl()", "uri": "book/api.html#kl"},
    "term|soft target|the targets": {"text": "the targets", "uri": ""},
}
NUMBERS = {
    "thm-limit": "Theorem 1.1",
    "ex-1-1": "Exercise 1.1",
    "eq-kl": "(1.2)",
    "fig-a": "Figure 1.1",
}


@pytest.fixture
def context(tmp_path: Path) -> plainmyst.Context:
    (tmp_path / "chapters").mkdir()
    site = "https://site.example/"
    glue = {"gain": "0.0312", "name": "ResNet", "loss": "\u22121,234.5"}
    (tmp_path / "tests").mkdir()
    return plainmyst.Context(
        tmp_path, "chapters/a", site, REFERENCES, NUMBERS, glue, "https://github.com/a/b", "Why?"
    )


CASES = {
    "theorem": (
        ":::{prf:theorem} Limit\n:label: thm-limit\n\nIt holds.\n:::",
        "**Theorem 1.1 (Limit).** It holds.",
    ),
    "proof": (":::{prf:proof}\nObvious.\n:::", "*Proof.* Obvious. ∎"),
    "exercise": ("```{exercise}\n:label: ex-1-1\n\nShow it.\n```", "**Exercise 1.1.** Show it."),
    "solution": (
        "```{solution} ex-1-1\n:class: dropdown\n\nSo.\n```",
        "<details>\n<summary>Solution to Exercise 1.1</summary>\n\nSo.\n\n</details>",
    ),
    "gated solution": (
        "```{solution-start} ex-1-1\n:class: dropdown\n```",
        "**Solution to Exercise 1.1.**",
    ),
    "end of a gated solution": ("```{solution-end}\n```", ""),
    "label": ("(sec-a)=\n## A", "## A"),
    "numbered equation": ("$$\na = b\n$$ (eq-kl)", "$$\na = b\n\\tag{1.2}\n$$"),
    "math directive": ("```{math}\n:label: eq-kl\na = b\n```", "$$\na = b\n\\tag{1.2}\n$$"),
    "reference": (
        "By {prf:ref}`thm-limit`.",
        "By [Theorem 1.1](https://site.example/chapters/a.html#thm-limit).",
    ),
    "citation": (
        "{cite:p}`hinton2015`",
        "[[HVD15]](https://site.example/book/bibliography.html#id2)",
    ),
    "function": (
        "{py:func}`~distill_lib.losses.kl`",
        "[`kl()`](https://site.example/book/api.html#kl)",
    ),
    "term over two lines": ("{term}`the\ntargets <soft\ntarget>`", "the targets"),
    "glued number": ("A gain of {glue:text}`gain:.1%`.", "A gain of 3.1%."),
    "glued number with signs": ("{glue:text}`loss:.0f`", "\u22121234"),
    "test": (
        "{src}`test_a.py <tests/test_a.py>`",
        "[`test_a.py`](https://site.example/sources/tests/test_a.py.html)",
    ),
    "function of a test": (
        "{src}`tests/test_a.py::test_b`",
        "[`test_a.py::test_b`](https://site.example/sources/tests/test_a.py.html#test_b)",
    ),
    "folder": ("{src}`tests`", "[`tests`](https://site.example/sources/tests/index.html)"),
    "repository": ("{repository}`tell us <issues>`", "[tell us](https://github.com/a/b/issues)"),
    "glued text": ("{glue:text}`name`", "ResNet"),
    "inline math": ("{math}`x^2`", "$x^2$"),
    "link to a page": (
        "[notation](../book/notation.md#signs)",
        "[notation](https://site.example/book/notation.html#signs)",
    ),
    "outer link": ("[a](https://x.example/y.md)", "[a](https://x.example/y.md)"),
    "note": (":::{note}\nMind it.\n:::", "**Note.** Mind it."),
    "admonition": (":::{admonition} Museum\nMind it.\n:::", "**Museum.** Mind it."),
    "dropdown": (
        ":::{dropdown} More\nText.\n:::",
        "<details>\n<summary>More</summary>\n\nText.\n\n</details>",
    ),
    "tabs": (
        "::::{tab-set}\n:::{tab-item} A\na\n:::\n:::{tab-item} B\nb\n:::\n::::",
        "**A**\n\na\n\n**B**\n\nb",
    ),
    "figure": (
        "```{figure} a.svg\n:name: fig-a\n:alt: A line.\n\nIt rises.\n```",
        "*[Figure 1.1](https://site.example/chapters/a.html#fig-a): It rises.*",
    ),
    "before": (
        "# A\n\n:::{before}\nYou need x.\n:::\n\nText.",
        "# A\n\n**Why?**\n\nYou need x.\n\nText.",
    ),
    "cost": ("# A\n\n```{cost}\n:downloads: 31 MB\n```\n\nText.", "# A\n\nText."),
    "plain code": ("```python\n{ref}`x`\n```", "```python\n{ref}`x`\n```"),
    "nested fences": (
        "````{note}\n```python\nx = 1\n```\n````",
        "**Note.** ```python\nx = 1\n```",
    ),
    "directive in a list": (
        "- item\n\n  ```{note}\n  Mind it.\n  ```",
        "- item\n\n  **Note.** Mind it.",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_becomes_plain(name, context):
    source, wanted = CASES[name]
    assert plainmyst.convert(source, context) == wanted


WITHOUT = {
    "reference": "By Theorem 1.1.",
    "figure": "*Figure 1.1: It rises.*",
    "test": "`test_a.py`",
    "repository": "tell us",
    "link to a page": "notation",
    "outer link": "[a](https://x.example/y.md)",
}


@pytest.mark.parametrize("name", WITHOUT)
def test_without_an_address_there_are_words(name, context):
    nowhere = replace(context, site="", repository="")
    assert plainmyst.convert(CASES[name][0], nowhere) == WITHOUT[name]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("```{surprise}\n```", "does not know the directive 'surprise'"),
        ("{ref}`nowhere`", r"\{ref\}`nowhere` is not in"),
        ("{glue:text}`nothing`", "no cell glues 'nothing'"),
        ("```{note}\nopen", "never closed"),
    ],
)
def test_what_it_does_not_know_it_refuses(source, message, context):
    with pytest.raises(ValueError, match=message):
        plainmyst.convert(source, context)


def test_quoted_code_is_copied_in(context):
    source = (
        "x = 1\n\n\n@cached\ndef f():\n    return 1\n\n\nclass A:\n    def g(self):\n        pass\n"
    )
    (context.root / "code.py").write_text(source)
    quote = "```{{literalinclude}} ../code.py\n:pyobject: {}\n```"
    f = plainmyst.convert(quote.format("f"), context)
    assert f == "```python\n@cached\ndef f():\n    return 1\n```"
    g = plainmyst.convert(quote.format("A.g"), context)
    assert g == "```python\ndef g(self):\n    pass\n```"
    with pytest.raises(ValueError, match="no 'h'"):
        plainmyst.convert(quote.format("h"), context)


def test_macros_of_the_site_are_written_out():
    macros = {"KL": "{\\operatorname{KL}}"}
    assert (
        notebooks.expand(r"$\KL(p)$ and $\KLM$", macros) == r"${\operatorname{KL}}(p)$ and $\KLM$"
    )


def read_tiny(root: Path) -> nbformat.NotebookNode:
    return nbformat.read(root / "_build/notebooks/01_tiny.ipynb", as_version=4)


def test_a_notebook_has_no_outputs_and_no_myst(built):
    notebook = read_tiny(built[0])
    assert not any(c.get("outputs") or c.get("execution_count") for c in notebook.cells)
    text = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    assert not re.search(r"\{[\w:-]+\}`|^(:::|```\{)|\)=$", text, re.MULTILINE)
    for piece in ("Theorem 1.1", "is 42, a third of it 14.0", "Exercise 1.1", "Figure 1.1"):
        assert piece in text


def test_the_same_notebook_twice_is_the_same_bytes(built):
    xrefs = json.loads((built[0] / "_build/xrefs.json").read_text())
    glue = {"answer": "42", "third": "14.0"}
    chapter = built[0] / "chapters/01_tiny.md"
    (wheel,) = (built[0] / "_build/notebooks").glob("*.whl")
    texts = {notebooks.notebook(built[0], chapter, xrefs, glue, wheel) for _ in range(2)}
    assert texts == {(built[0] / "_build/notebooks/01_tiny.ipynb").read_text()}


def set_up_cell(built: tuple[Path, str]) -> str:
    return read_tiny(built[0]).cells[1].source


def test_the_first_cell_leaves_an_installed_library_alone(built, monkeypatch):
    monkeypatch.setattr(subprocess, "check_call", lambda *_: pytest.fail("installs again"))
    exec(set_up_cell(built), {})


@pytest.fixture
def bare(built, monkeypatch, tmp_path):
    """The set-up cell in an empty folder, where no module is found; and what it would install."""
    calls = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DISTILL_SITE", raising=False)
    monkeypatch.setattr(subprocess, "check_call", calls.append)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (wheel,) = (built[0] / "_build/notebooks").glob("*.whl")
    return set_up_cell(built), wheel, calls


def test_the_first_cell_never_touches_torch_or_numpy(bare, tmp_path):
    cell, wheel, calls = bare
    shutil.copy(wheel, tmp_path)
    exec(cell, {})
    library, others = calls
    assert library[:3] == others[:3] == [sys.executable, "-m", "pip"]
    assert "--no-deps" in library and library[-1] == wheel.name
    assert {"scikit-learn", "accelerate"} <= set(others)
    assert not {"torch", "numpy"} & {*library, *others}


def test_another_wheel_is_refused(bare, tmp_path):
    cell, wheel, calls = bare
    (tmp_path / wheel.name).write_bytes(wheel.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match="is another one than this notebook was made with"):
        exec(cell, {})
    assert not calls


def test_without_a_wheel_and_a_site_the_cell_says_what_to_do(bare):
    with pytest.raises(FileNotFoundError, match=r"put learning_from_teachers.*whl beside this"):
        exec(bare[0], {})


def test_the_wheel_is_the_same_bytes_every_time(built, tmp_path):
    (first,) = (built[0] / "_build/notebooks").glob("*.whl")
    assert notebooks.wheel(built[0], tmp_path).read_bytes() == first.read_bytes()
    assert (built[0] / "_build/html/notebooks" / first.name).read_bytes() == first.read_bytes()


@pytest.mark.parametrize("path", bookcache.chapters(ROOT), ids=lambda path: path.stem)
def test_the_first_cell_installs_what_a_chapter_imports(path):
    cells = [cell.source for cell in bookcache.read(path).cells if cell.cell_type == "code"]
    used = set()
    for node in ast.walk(ast.parse("\n".join(cells))):
        if isinstance(node, ast.Import):
            used |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            used.add(str(node.module).split(".")[0])
    # Box2D comes with gymnasium, and what the others need comes with them
    there = {"distill_lib", "torch", "numpy", "gymnasium", "mujoco", "IPython", "PIL"}
    there |= {"packaging", "tokenizers"}
    assert used - there - set(sys.stdlib_module_names) <= set(notebooks.needs("\n".join(cells)))


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return notebooks.wheel(ROOT, tmp_path_factory.mktemp("wheel"))


def test_the_wheel_holds_weights_and_scripts(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    files = {p for p in (ROOT / "distill_lib").rglob("*") if p.is_file()}
    wanted = {
        p for p in files if p.suffix in {".py", ".js", ".json", ".safetensors", ".cache", ".typed"}
    }
    assert {p.relative_to(ROOT).as_posix() for p in wanted} <= held
    assert any(name.endswith(".safetensors") for name in held)
    assert any(name.endswith(".js") for name in held)


RUN = """
import sys, nbclient, nbformat
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
python, file = sys.argv[1:]
kernel = AsyncKernelManager()
kernel._kernel_spec = KernelSpec(
    argv=[python, "-m", "ipykernel_launcher", "-f", "{connection_file}"], language="python")
notebook = nbformat.read(file, as_version=4)
nbclient.NotebookClient(notebook, km=kernel, timeout=900).execute()
kind = "application/vnd.distill.claim+json"
claims = [claim for cell in notebook.cells for output in cell.get("outputs", [])
          for claim in output.get("data", {}).get(kind, {}).get("claims", [])]
false = [claim["text"] for claim in claims if claim["holds"] is False]
print(len(claims) - len(false), "claims hold;", "false:", false)
"""


@pytest.fixture(scope="session")
def served(site: Path) -> Iterator[str]:
    """The built site on the loopback address."""
    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.site
@pytest.mark.slow
def test_notebooks_run_where_there_is_torch_alone(served, fresh, tmp_path):
    """One that needs little, then one that needs most; the library comes from the site."""
    empty = tmp_path / "empty"
    empty.mkdir()
    kept = ("PATH", "HOME", "TMPDIR", "LANG", "XDG_CACHE_HOME", "DISTILL_DATA")
    env = {k: v for k, v in os.environ.items() if k in kept or k.startswith("PIP_")}
    env |= {"OMP_NUM_THREADS": "1", "DISTILL_SITE": served, "HF_HUB_OFFLINE": "1"}
    env |= {"PIP_NO_COMPILE": "1"}  # most of what it brings is not imported
    for name in ("errata_museum", "errata_language"):
        done = subprocess.run(
            [sys.executable, "-c", RUN, str(fresh), str(ROOT / f"_build/notebooks/{name}.ipynb")],
            cwd=empty,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert re.search(r"[1-9]\d* claims hold; false: \[\]", done.stdout), done.stdout


@pytest.mark.site
def test_every_notebook_is_plain(site):
    for path in (ROOT / "_build/notebooks").glob("*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "markdown":
                assert not re.search(r"\{[\w:-]+\}`|^(:::|`{3,}\{)", cell.source, re.MULTILINE)


def executed() -> Iterator[tuple[str, Any]]:
    """Every output of every page, with the page's name."""
    cache = bookcache.open_cache(ROOT)
    for chapter in bookcache.chapters(ROOT):
        for output in bookcache.outputs(bookcache.executed(cache, chapter)[1]):
            yield chapter.stem, output


@pytest.mark.site
def test_chapters_print_no_warning(site):
    for name, output in executed():
        if output.get("name") == "stderr":
            assert "Warning" not in output["text"], f"{name}: {output['text']}"
        # its script would come from the network
        assert not any("widget" in kind for kind in output.get("data", {})), name


PRINTED = 12  # lines


@pytest.mark.site
def test_what_a_page_prints_is_short_and_its_own(site):
    """Not the log of a library, and no path of the machine on which it was built."""
    for name, output in executed():
        if output.get("name") == "stdout":
            assert output["text"].count("\n") <= PRINTED, f"{name}: {output['text']}"
            assert "train_runtime" not in output["text"], name
    for page in (*site.rglob("*.html"), *site.rglob("*.md")):
        assert str(ROOT) not in page.read_text(encoding="utf-8"), page

"""The clean notebooks: readable in a viewer that knows no MyST, runnable with the wheel alone."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import bookcache
import nbformat
import notebooks
import plainmyst
import pytest
from conftest import ROOT

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
    glue = {"gain": "0.0312", "name": "ResNet"}
    return plainmyst.Context(tmp_path, "chapters/a", site, REFERENCES, NUMBERS, glue)


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
    texts = {notebooks.notebook(built[0], chapter, xrefs, glue) for _ in range(2)}
    assert texts == {(built[0] / "_build/notebooks/01_tiny.ipynb").read_text()}


def set_up_cell(built: tuple[Path, str]) -> str:
    return read_tiny(built[0]).cells[1].source


def test_the_first_cell_leaves_an_installed_library_alone(built, monkeypatch):
    monkeypatch.setattr(subprocess, "check_call", lambda *_: pytest.fail("installs again"))
    exec(set_up_cell(built), {})


def test_the_first_cell_never_touches_torch_or_numpy(built, monkeypatch):
    calls = []
    monkeypatch.setattr(subprocess, "check_call", calls.append)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    exec(set_up_cell(built), {})
    library, others = calls
    assert library[:3] == others[:3] == [sys.executable, "-m", "pip"]
    assert "--no-deps" in library
    assert any(part.startswith("distill-lib @ git+https://") for part in library)
    assert "scikit-learn" in others
    assert not {"torch", "numpy"} & {*library, *others}


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
    """Built from a copy: setuptools would leave a folder in the repository."""
    source = tmp_path_factory.mktemp("source") / "repository"
    shutil.copytree(ROOT / "distill_lib", source / "distill_lib")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    target = tmp_path_factory.mktemp("wheel")
    subprocess.run([*command, "-w", target, source], check=True)
    (path,) = target.glob("*.whl")
    return path


def test_the_wheel_holds_weights_and_scripts(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    files = {p for p in (ROOT / "distill_lib").rglob("*") if p.is_file()}
    wanted = {
        p for p in files if p.suffix in {".py", ".js", ".json", ".safetensors", ".cache", ".typed"}
    }
    assert {p.relative_to(ROOT).as_posix() for p in wanted} <= held
    assert any(name.endswith(".safetensors") for name in held)
    assert any(name.endswith(".js") for name in held)


@pytest.fixture
def fresh(wheel: Path, tmp_path: Path) -> Path:
    """The Python of an environment with the wheel and, as in Colab, torch and Jupyter.

    Those come from this environment by a line in a .pth file. Python does not read the .pth
    files that lie in a folder added so, and thus does not see our editable installation.
    """
    folder = tmp_path / "venv"
    venv.create(folder, symlinks=os.name != "nt")
    python = folder / "bin/python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps"]
    subprocess.run([*command, str(wheel)], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "base.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return python


RUN = """
import distill_lib, nbclient, nbformat, sys
assert distill_lib.__file__.startswith(sys.prefix), distill_lib.__file__
notebook = nbformat.read(sys.argv[1], as_version=4)
nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
claims = [o for c in notebook.cells for o in c.get("outputs", [])
          if "application/vnd.distill.claim+json" in o.get("data", {})]
print(len(claims), "claims hold")
"""


@pytest.mark.site
def test_a_notebook_runs_with_the_wheel_alone(site, fresh, tmp_path):
    costs = json.loads((ROOT / "_build/costs.json").read_text())
    real = [cost for cost in costs if (ROOT / f"chapters/{cost['chapter']}.md").exists()]
    quickest = min(real, key=lambda cost: cost["seconds"])["chapter"]
    notebook = ROOT / f"_build/notebooks/{quickest}.ipynb"
    empty = tmp_path / "empty"
    empty.mkdir()
    kept = ("PATH", "HOME", "TMPDIR", "LANG", "XDG_CACHE_HOME", "DISTILL_DATA")
    env = {k: v for k, v in os.environ.items() if k in kept} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [fresh, "-c", RUN, str(notebook)],
        cwd=empty,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r"[1-9]\d* claims hold", done.stdout)


@pytest.mark.site
def test_every_notebook_is_plain(site):
    for path in (ROOT / "_build/notebooks").glob("*.ipynb"):
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "markdown":
                assert not re.search(r"\{[\w:-]+\}`|^(:::|`{3,}\{)", cell.source, re.MULTILINE)


@pytest.mark.site
def test_chapters_print_no_warning(site):
    import bookcache

    cache = bookcache.open_cache(ROOT)
    for chapter in bookcache.chapters(ROOT):
        for output in bookcache.outputs(bookcache.executed(cache, chapter)[1]):
            if output.get("name") == "stderr":
                assert "Warning" not in output["text"], f"{chapter.stem}: {output['text']}"

"""Write _build/notebooks: each chapter as a clean notebook for Colab and for download.

Made from the Markdown source after the site was built, which knows the numbers of theorems and
figures (_build/xrefs.json), and from the execution, which knows the glued numbers. No outputs,
the same bytes every time. The library lies beside them as a wheel, whose SHA-256 each notebook
knows. A copy of all goes into the site, for the download link of each chapter. What programs read
is written with them: programs.py.

    python book/_tools/notebooks.py [--root FOLDER]
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import addresses
import bookcache
import nbformat
import plainmyst
import programs
from plainmyst import Context, convert
from programs import expand

SETUP = """\
# Installs the book's library and what this chapter uses, only where it is missing. PyTorch and
# NumPy stay as they are. The library is a file beside this notebook, or else comes from the site
# that the notebook comes from; it has to be the very file with which the notebook was made.
import hashlib
import importlib.util
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

WHEEL = Path("{wheel}")
SHA256 = "{digest}"
SITE = os.environ.get("DISTILL_SITE", "{site}")

pip = [sys.executable, "-m", "pip", "install", "-q"]
if importlib.util.find_spec("distill_lib") is None:
    if not WHEEL.exists():
        if not SITE:
            raise FileNotFoundError(f"put {{WHEEL}} beside this notebook: both are in one folder")
        urllib.request.urlretrieve(f"{{SITE}}notebooks/{{WHEEL}}", WHEEL)
    if hashlib.sha256(WHEEL.read_bytes()).hexdigest() != SHA256:
        raise ValueError(f"{{WHEEL}} is another one than this notebook was made with: remove it")
    subprocess.check_call([*pip, "--no-deps", str(WHEEL)])
needs = {needs}
missing = [name for module, name in needs.items() if importlib.util.find_spec(module) is None]
if missing:
    subprocess.check_call([*pip, *missing])
"""
# What a chapter imports itself, or by way of the library: a pattern in its code, and for it the
# modules with the names under which they are installed.
NEEDS = {
    "": {
        "accelerate": "accelerate",
        "matplotlib": "matplotlib",
        "safetensors": "safetensors",
        "sklearn": "scikit-learn",
        "tqdm": "tqdm",
    },
    r"\b(rl|gymnasium|Policy)\b": {
        "Box2D": "gymnasium[box2d,classic-control,mujoco]",
        "imageio": "imageio[ffmpeg]",
    },
    r"\brsl_rl\b": {"rsl_rl": "rsl-rl-lib", "tensordict": "tensordict"},
    r"\bstable_baselines3\b": {"stable_baselines3": "stable-baselines3"},
    r"transformers|minilm|movie_reviews|llama|tokenizer": {"transformers": "transformers"},
    r"\btrl\b": {"datasets": "datasets", "peft": "peft", "trl": "trl"},
    r"\b(compress|fusion|onnx)\b": {
        "onnx": "onnx",
        "onnxruntime": "onnxruntime",
        "onnxscript": "onnxscript",
        "scipy": "scipy",
        "torch_pruning": "torch-pruning",
        "torchao": "torchao",
    },
    r"\btensorboard\b": {"tensorboard": "tensorboard"},
    r"\boptuna\b": {"optuna": "optuna"},
    r"\bscipy\b": {"scipy": "scipy"},
    r"\bjax\b": {"flax": "flax", "jax": "jax", "ninjax": "ninjax", "optax": "optax"},
    r"\bpendulum\b": {"gymnasium": "gymnasium[classic-control]"},
}
HEAD = "*This notebook is made from the chapter {title} of {book}. Run its cells in order.*"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=bookcache.ROOT)
    root = parser.parse_args().root.resolve()
    xrefs = root / "_build/xrefs.json"
    if not xrefs.exists():
        raise SystemExit(f"{xrefs} is missing: build the site first (python make.py book).")
    written = write_all(root, json.loads(xrefs.read_text(encoding="utf-8")))
    print(f"{len(written)} notebooks in {root / '_build/notebooks'}", flush=True)
    return 0


def write_all(root: Path, xrefs: dict[str, Any]) -> list[Path]:
    target, site = root / "_build/notebooks", root / "_build/html/notebooks"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    cache, written, library = bookcache.open_cache(root), [], wheel(root, target)
    runs, pages = set(bookcache.chapters(root)), {}
    macros = bookcache.config(root)["sphinx"]["config"]["distill_macros"]
    for path in (root / page for page in bookcache.pages(root)):
        name = path.relative_to(root).with_suffix("").as_posix()
        if path not in runs:
            about = context_of(root, path, xrefs, {})
            pages[name] = programs.write_page(root, path, about, macros)
            continue
        record, executed = bookcache.executed(cache, path)
        glue = bookcache.glued(executed)
        if record.data.get("error"):  # what its cells would have computed is not known
            glue = collections.defaultdict(lambda: "(not computed)", glue)
        written.append(target / f"{path.stem}.ipynb")
        text = notebook(root, path, xrefs, glue, library)
        written[-1].write_text(text, encoding="utf-8", newline="\n")
        about = context_of(root, path, xrefs, glue, executed.metadata.get("description", ""))
        pages[name] = programs.write_page(root, path, about, macros, executed)
    if site.parent.exists():
        shutil.copytree(target, site, dirs_exist_ok=True)
        programs.write_lists(root, xrefs["pages"], pages)
    return written


def context_of(
    root: Path, path: Path, xrefs: dict[str, Any], glue: Mapping[str, str], question: str = ""
) -> Context:
    """What is known of a page."""
    address = addresses.find(root)
    page = path.relative_to(root).with_suffix("").as_posix()
    references, numbers = xrefs["references"], xrefs["numbers"]
    known = (references, numbers, glue, address.repository, question)
    return Context(root, page, address.site, *known)


def wheel(root: Path, target: Path) -> Path:
    """The library as a wheel, the same bytes every time, built from a copy: setuptools would
    leave a folder in the repository."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        leave = shutil.ignore_patterns("__pycache__")
        shutil.copytree(root / "distill_lib", source / "distill_lib", ignore=leave)
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            if (root / name).exists():
                shutil.copy(root / name, source)
        command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
        # 1980 is the first year that a zip file knows
        fixed = {**os.environ, "SOURCE_DATE_EPOCH": "315532800"}
        subprocess.run([*command, "-w", str(target), str(source)], check=True, env=fixed)
    (found,) = target.glob("*.whl")
    return found


def notebook(
    root: Path, path: Path, xrefs: dict[str, Any], glue: Mapping[str, str], library: Path
) -> str:
    """The chapter's notebook as text."""
    config = bookcache.config(root)
    source = bookcache.read(path)
    context = context_of(root, path, xrefs, glue, source.metadata.get("description", ""))
    page = context.page
    title = plainmyst.linked(xrefs["pages"][page], f"{page}.html", context)
    head = HEAD.format(title=title, book=plainmyst.linked(config["title"], "index.html", context))
    program = "\n".join(cell.source for cell in source.cells if cell.cell_type == "code")
    digest = hashlib.sha256(library.read_bytes()).hexdigest()
    wanted = listed(needs(program))
    setup = SETUP.format(wheel=library.name, digest=digest, site=context.site, needs=wanted)
    macros = config["sphinx"]["config"]["distill_macros"]
    cells = [markdown(head), code(setup)]
    for cell in source.cells:
        if cell.cell_type == "code":
            cells += [code(cell.source, cell.metadata.get("tags", [])), *caption(cell, context)]
        elif text := convert(cell.source, context):
            cells.append(markdown(expand(text, macros)))
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number:03d}"
    result = nbformat.v4.new_notebook(
        cells=cells,
        metadata={
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}
        },
    )
    nbformat.validate(result)
    return nbformat.writes(result) + "\n"


def needs(program: str) -> dict[str, str]:
    """Modules that a chapter's code uses, with the names under which they are installed."""
    used = (names for pattern, names in NEEDS.items() if re.search(pattern, program))
    return {module: name for names in used for module, name in names.items()}


def listed(names: dict[str, str]) -> str:
    """A dictionary as a program would write it, an entry a line."""
    return "{\n" + "".join(f"    {k!r}: {v!r},\n" for k, v in names.items()).replace("'", '"') + "}"


def markdown(text: str) -> Any:
    return nbformat.v4.new_markdown_cell(text)


def code(text: str, tags: list[str] | None = None) -> Any:
    """A cell; what the site folds is closed in JupyterLab, too, and opens with a click."""
    metadata: dict[str, Any] = {"tags": tags} if tags else {}
    if {"figure", "check"} & set(tags or ()):
        metadata["jupyter"] = {"source_hidden": True}
    return nbformat.v4.new_code_cell(text.rstrip(), metadata=metadata)


def caption(cell: Any, context: Context) -> list[Any]:
    """What the site writes under the figure that a cell draws."""
    figure = cell.metadata.get("mystnb", {}).get("figure", {})
    if "caption" not in figure:
        return []
    number = context.numbers.get(figure.get("name", ""), "Figure")
    return [markdown(f"*{number}.* {convert(figure['caption'], context)}")]


if __name__ == "__main__":
    raise SystemExit(main())

"""Write _build/notebooks: each chapter as a clean notebook for Colab and for download.

Made from the Markdown source after the site was built, which knows the numbers of theorems and
figures (_build/xrefs.json), and from the execution, which knows the glued numbers. No outputs,
the same bytes every time. A copy goes into the site, for the download link of each chapter.

    python book/_tools/notebooks.py [--root FOLDER]
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from pathlib import Path
from typing import Any

import bookcache
import nbformat
from plainmyst import Context, convert

SETUP = """\
# Installs the book's library and what this chapter uses, only where it is missing. PyTorch and
# NumPy stay as they are.
import importlib.util
import subprocess
import sys

pip = [sys.executable, "-m", "pip", "install", "-q"]
if importlib.util.find_spec("distill_lib") is None:
    subprocess.check_call([*pip, "--no-deps", "distill-lib @ git+{repository}"])
needs = {needs}
missing = [name for module, name in needs.items() if importlib.util.find_spec(module) is None]
if missing:
    subprocess.check_call([*pip, *missing])
"""
# What a chapter imports itself, or by way of the library: a pattern in its code, and for it the
# modules with the names under which they are installed.
NEEDS = {
    "": {
        "matplotlib": "matplotlib",
        "safetensors": "safetensors",
        "sklearn": "scikit-learn",
        "tqdm": "tqdm",
    },
    r"\b(accelerate|integrations)\b": {"accelerate": "accelerate"},
    r"\b(rl|gymnasium|Policy)\b": {
        "Box2D": "gymnasium[box2d,classic-control,mujoco]",
        "imageio": "imageio[ffmpeg]",
    },
    r"\brsl_rl\b": {"rsl_rl": "rsl-rl-lib", "tensordict": "tensordict"},
    r"\bstable_baselines3\b": {"stable_baselines3": "stable-baselines3"},
    r"transformers|minilm|movie_reviews": {"transformers": "transformers"},
    r"\b(compress|fusion|onnx)\b": {
        "onnx": "onnx",
        "onnxruntime": "onnxruntime",
        "onnxscript": "onnxscript",
        "scipy": "scipy",
        "torch_pruning": "torch-pruning",
        "torchao": "torchao",
    },
    r"\boptuna\b": {"optuna": "optuna"},
}
HEAD = (
    "*This notebook is made from the chapter "
    "[{title}]({site}{page}.html) of [{book}]({site}). Run the cells from top to bottom.*"
)


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
    cache, written = bookcache.open_cache(root), []
    for path in bookcache.chapters(root):
        _, executed = bookcache.executed(cache, path)
        written.append(target / f"{path.stem}.ipynb")
        text = notebook(root, path, xrefs, bookcache.glued(executed))
        written[-1].write_text(text, encoding="utf-8", newline="\n")
    if site.parent.exists():
        shutil.copytree(target, site, dirs_exist_ok=True)
    return written


def notebook(root: Path, path: Path, xrefs: dict[str, Any], glue: dict[str, str]) -> str:
    """The chapter's notebook as text."""
    config = bookcache.config(root)
    site = config["html"]["baseurl"].rstrip("/") + "/"
    page = path.relative_to(root).with_suffix("").as_posix()
    context = Context(root, page, site, xrefs["references"], xrefs["numbers"], glue)
    head = HEAD.format(title=xrefs["pages"][page], site=site, page=page, book=config["title"])
    source = bookcache.read(path)
    program = "\n".join(cell.source for cell in source.cells if cell.cell_type == "code")
    setup = SETUP.format(repository=config["repository"]["url"], needs=listed(needs(program)))
    macros = config["sphinx"]["config"]["mathjax3_config"]["tex"]["macros"]
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


def expand(text: str, macros: dict[str, str]) -> str:
    """Formulas without the macros that only the site defines."""
    for name, meaning in macros.items():
        text = re.sub(rf"\\{name}(?![A-Za-z])", lambda _, meaning=meaning: meaning, text)
    return text


def markdown(text: str) -> Any:
    return nbformat.v4.new_markdown_cell(text)


def code(text: str, tags: list[str] | None = None) -> Any:
    return nbformat.v4.new_code_cell(text.rstrip(), metadata={"tags": tags} if tags else {})


def caption(cell: Any, context: Context) -> list[Any]:
    """What the site writes under the figure that a cell draws."""
    figure = cell.metadata.get("mystnb", {}).get("figure", {})
    if "caption" not in figure:
        return []
    number = context.numbers.get(figure.get("name", ""), "Figure")
    return [markdown(f"*{number}.* {convert(figure['caption'], context)}")]


if __name__ == "__main__":
    raise SystemExit(main())

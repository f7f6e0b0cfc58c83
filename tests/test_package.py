"""The package: what it costs to import, its floors, its documentation."""

from __future__ import annotations

import ast
import doctest
import importlib
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import distill_lib

ROOT = Path(distill_lib.__file__).parent
MODULES = {
    ".".join(("distill_lib", *path.relative_to(ROOT).with_suffix("").parts)): path
    for path in sorted(ROOT.rglob("*.py"))
}
MODULES = {name.removesuffix(".__init__"): path for name, path in MODULES.items()}

# From the ground up; a file imports from floors below its own and from its own wing.
FLOORS = [
    ("arguments",),
    ("losses", "schedules", "progress", "extras", "ties"),
    ("signals", "checkpoints", "models"),
    ("stacked", "masks"),
    ("teachers",),
    ("objective",),
    ("terms",),
    ("training", "evaluation"),
    ("rl", "compress", "fusion", "sequences"),
    ("integrations",),
]
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}
SIDE = ("zoo", "data", "booktools")
HEAVY = ("accelerate", "transformers", "matplotlib", "sklearn", "pandas", "datasets", "IPython")


# ---- importing ----


def imported_by(code: str) -> set[str]:
    """What is in ``sys.modules`` after the code ran in a fresh process."""
    script = f"{code}\nimport sys; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT.parent,
        timeout=600,
    )
    return {name.split(".")[0] for name in done.stdout.split()}


def test_importing_the_package_imports_nothing_else() -> None:
    assert not {*HEAVY, "torch", "numpy"} & imported_by("import distill_lib")


def test_the_whole_core_needs_none_of_the_heavy_packages() -> None:
    code = "from distill_lib import *\nfrom distill_lib.checkpoints import load_checkpoint"
    found = imported_by(code)
    assert "torch" in found and not set(HEAVY) & found


# ---- names ----


@pytest.mark.parametrize("name", distill_lib.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    found = getattr(distill_lib, name)
    assert (found.__doc__ or "").strip(), f"{name} has no docstring"
    assert name in dir(distill_lib)


def test_the_list_of_public_names_is_complete() -> None:
    homes = {*distill_lib._MODULES, *distill_lib._HOMES}
    assert set(distill_lib.__all__) == homes
    assert len(distill_lib.__all__) == len(homes)


def wings() -> list[str]:
    return [name for name, path in MODULES.items() if path.name == "__init__.py"]


@pytest.mark.parametrize("name", wings())
def test_what_a_wing_shows_is_what_it_promises(name: str) -> None:
    """No inner modules, nothing that it imported: a reader who presses Tab sees public names."""
    module = importlib.import_module(name)
    extras = distill_lib._EXTRAS if name == "distill_lib" else ()
    assert dir(module) == sorted([*getattr(module, "__all__", ()), *extras])
    assert not [shown for shown in dir(module) if shown.startswith("_")]


def test_the_public_face_holds_what_is_promised() -> None:
    promised = """losses schedules checkpoints data zoo CE KD DKD Match Relation Objective Term
    linear cosine exp steps Teacher Ensemble Cache EMA Peers Stacked capture distill evaluate
    agreement sanity PPO Consistency BaseOf"""
    assert not set(promised.split()) - set(distill_lib.__all__)


def test_what_needs_an_extra_is_there_and_not_in_a_star() -> None:
    for name in distill_lib._EXTRAS:
        assert name not in distill_lib.__all__ and name in dir(distill_lib)
        assert (getattr(distill_lib, name).__doc__ or "").strip()


def test_without_gymnasium_the_error_says_what_to_install() -> None:
    code = (
        "import sys, importlib.util as u\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'gymnasium' else find(name, *a)\n"
        "import distill_lib\n"
        "try:\n    distill_lib.rl\nexcept ModuleNotFoundError as error:\n    import said_so\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code.replace("import said_so", "print(error)")],
        capture_output=True, text=True, check=True, cwd=ROOT.parent, timeout=600,
    )  # fmt: skip
    assert "distill_lib.rl needs gymnasium: pip install 'gymnasium[box2d," in done.stdout


def test_an_unknown_name_lists_those_there_are() -> None:
    with pytest.raises(AttributeError, match=r"distill_lib has no 'distil'; it has .*, distill, "):
        _ = distill_lib.distil
    assert not hasattr(distill_lib, "nothing")


def test_the_version_is_that_of_the_project() -> None:
    text = (ROOT.parent / "pyproject.toml").read_text()
    assert f'version = "{distill_lib.__version__}"' in text


@pytest.mark.parametrize("name", [m for m in MODULES if "._" not in m])
def test_what_a_module_lists_is_there(name: str) -> None:
    module = importlib.import_module(name)
    assert (module.__doc__ or "").strip(), f"{name} has no docstring"
    for public in getattr(module, "__all__", ()):
        assert hasattr(module, public), f"{name}.__all__ lists {public}"


# ---- floors ----


def imports_of(path: Path, name: str) -> set[str]:
    """The parts of the library that a file imports, also inside functions and for types only."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{start}.{alias.name}" for alias in node.names}
    return {full.split(".")[1] for full in found if full.startswith("distill_lib.")}


CORE = [n for n in MODULES if n != "distill_lib" and n.split(".")[1] not in SIDE]


def test_the_reader_of_imports_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text(
        "import distill_lib.teachers.cache\nfrom . import losses\nfrom .terms import KD\n"
        "from distill_lib import zoo\ndef f():\n    from .training.resume import Saver\n"
        "import torch\n"
    )
    found = imports_of(path, "distill_lib.x")
    assert found == {"teachers", "losses", "terms", "zoo", "training"}


@pytest.mark.parametrize("name", CORE)
def test_a_file_imports_from_no_higher_floor(name: str) -> None:
    own = name.split(".")[1]
    assert own in FLOOR, f"{own} has no floor: name it in FLOORS"
    for other in imports_of(MODULES[name], name) & FLOOR.keys() - {own}:
        assert FLOOR[other] < FLOOR[own], f"{own} imports {other}, which is no floor below it"
    assert not imports_of(MODULES[name], name) & set(SIDE), f"{own} imports from the side"


def test_the_house_has_few_loose_files() -> None:
    """The wings hold the others; a shim that only passes names on would be one more."""
    assert len(list(ROOT.glob("*.py"))) <= 10
    for path in ROOT.glob("*.py"):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        named = any(isinstance(n, ast.FunctionDef | ast.ClassDef) for n in body)
        assert named, f"{path.name} defines nothing of its own"


def test_answers_and_exercises_do_not_import_each_other() -> None:
    inside = {n: p for n, p in MODULES.items() if n.startswith("distill_lib.booktools.")}
    exercises = inside["distill_lib.booktools.exercises"].read_text(encoding="utf-8")
    assert "answers import" not in exercises and "import answers" not in exercises


@pytest.mark.parametrize("name", [n for n in MODULES if ".booktools" not in n])
def test_the_library_never_imports_booktools(name: str) -> None:
    assert "booktools" not in imports_of(MODULES[name], name)


@pytest.mark.parametrize("name", MODULES)
def test_a_file_fits_on_a_few_screens(name: str) -> None:
    assert len(MODULES[name].read_text(encoding="utf-8").splitlines()) <= 350


def test_files_of_tests_have_names_of_their_own() -> None:
    """pytest imports a test by its name alone: of two files with one name it collects the first."""
    names = Counter(path.name for path in (ROOT.parent / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []


# ---- documentation ----


class Examples(doctest.DocTestFinder):
    """Finds the examples of decorated functions too, which the class of doctest passes over."""

    def _from_module(self, module: object, found: object) -> bool:
        same = getattr(found, "__module__", None) == getattr(module, "__name__", "")
        return same or super()._from_module(module, found)  # type: ignore[misc]


@pytest.mark.parametrize("name", [n for n in MODULES if "._" not in n])
def test_examples_in_docstrings(name: str) -> None:
    module, runner = importlib.import_module(name), doctest.DocTestRunner()
    for example in Examples().find(module, name):
        runner.run(example)
    assert runner.summarize().failed == 0

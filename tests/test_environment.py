"""One set of needs and versions, said in several files: they agree."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import distributions, version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
LOCK = (ROOT / "constraints.txt").read_text(encoding="utf-8")
PINS = dict(line.split("==") for line in LOCK.splitlines() if not line.startswith("#"))


def installed_extras() -> list[str]:
    (extras,) = re.findall(r'^EXTRAS = "([\w,]+)"', (ROOT / "make.py").read_text(), re.MULTILINE)
    return extras.split(",")


def needs(extras: list[str]) -> list[Requirement]:
    lists = [PROJECT["dependencies"], *(EXTRAS[extra] for extra in extras)]
    return [Requirement(need) for group in lists for need in group]


def test_conda_installs_what_make_installs():
    python, pip, rest = CONDA["dependencies"]
    assert python == "python=3.11"
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains("3.11.0")
    assert pip.startswith("pip>=")
    assert rest["pip"] == ["-c constraints.txt", f"-e .[{','.join(installed_extras())}]"]


def test_versions_are_said_once():
    for need in CONDA["dependencies"][2]["pip"]:
        assert "=" not in need


def test_only_lower_bounds_but_one():
    bounded = []
    for need in needs([extra for extra in EXTRAS if extra != "all"]):
        operators = {spec.operator for spec in need.specifier}
        assert ">=" in operators, f"{need} has no lower bound"
        bounded += [need.name] if operators - {">="} else []
    assert bounded == ["jupyter-book"]


def test_all_is_all():
    (everything,) = [Requirement(need) for need in EXTRAS["all"]]
    assert everything.extras == set(EXTRAS) - {"all"}


@pytest.mark.parametrize("need", needs(installed_extras()), ids=lambda need: need.name)
def test_the_locked_version_meets_the_need(need):
    assert need.specifier.contains(PINS[canonicalize_name(need.name)])


def test_the_lock_serves_every_platform():
    assert PINS["torch"] == "2.13.0"
    for name, pin in PINS.items():
        assert "+" not in pin, f"{name} has a local label"
        assert not name.startswith(("nvidia-", "triton")), f"{name} is of one platform only"
    assert list(PINS) == sorted(PINS)
    assert "file:" not in LOCK


def test_the_tests_run_with_the_locked_versions():
    names = {canonicalize_name(need.name) for need in needs(["book"])}
    different = {n: version(n) for n in names if version(n).partition("+")[0] != PINS[n]}
    assert not different, "run book/_tools/lock.py, or install with -c constraints.txt"


def test_one_version_of_the_project():
    import distill_lib

    said = {
        PROJECT["version"],
        distill_lib.__version__,
        CITATION["version"],
        CONFIG["sphinx"]["config"]["release"],
    }
    assert said == {PROJECT["version"]}
    assert f"## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_no_file_says_where_the_book_lives():
    """One place asks for it, book/_tools/addresses.py."""
    for said in (str(PROJECT.get("urls", "")), str(CONFIG), str(CITATION)):
        assert "github" not in said


def test_a_readers_notebook_survives_a_build(tmp_path, monkeypatch):
    """`make lab` opens copies: what was changed stays, the rest follows the book."""
    import make

    monkeypatch.setattr(make, "BUILD", tmp_path / "_build")
    monkeypatch.setattr(make, "OWN", tmp_path / "lab")
    assert not make.own_notebooks()  # nothing was built: the sources are opened
    made, own = tmp_path / "_build/notebooks", tmp_path / "lab"
    made.mkdir(parents=True)
    names = ("a.ipynb", "b.ipynb", "library.whl")
    for name in names:
        (made / name).write_text("first")
    assert make.own_notebooks()
    (own / "a.ipynb").write_text("my answers")
    for name in names:
        (made / name).write_text("second")
    for _ in range(2):
        assert make.own_notebooks()
        assert [(own / name).read_text() for name in names] == ["my answers", "second", "second"]
    (own / "a.ipynb").unlink()
    assert make.own_notebooks()
    assert (own / "a.ipynb").read_text() == "second"


def test_each_pin_takes_the_oldest_python_that_is_promised():
    """A version that wants 3.11.5 is not there for pip on Debian 12, which has 3.11.2."""
    oldest = PROJECT["requires-python"].removeprefix(">=") + ".0"
    wanted = {
        canonicalize_name(d.name): d.metadata.get("Requires-Python", "") for d in distributions()
    }
    pinned = {name: SpecifierSet(wanted[name]) for name in PINS if name in wanted}
    assert len(pinned) > 100
    assert [name for name, python in pinned.items() if not python.contains(oldest)] == []

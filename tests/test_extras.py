"""What a message tells users to install is what the project needs, and never a stranger's."""

from __future__ import annotations

import re
import shlex
import sys
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from distill_lib import extras

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OPTIONAL = PROJECT["optional-dependencies"]
sys.path.insert(0, str(ROOT))
SKIPPED = {".git", ".venv", "_build", "node_modules"}
COMMAND = re.compile(r"(?:pip3? (?:install|download)|(?<=\[\*pip, )\"install\")([^\n`]*)")


def needs() -> list[str]:
    return [need for extra, group in OPTIONAL.items() if extra != "all" for need in group]


@pytest.mark.parametrize("need", sorted(set(needs())))
def test_a_command_names_the_need_of_the_metadata(need):
    name = Requirement(need).name
    said = extras.command(name)
    words = shlex.split(said.split(" (")[0])
    assert words[:2] == ["pip", "install"] and len(words) == 3
    wanted = [Requirement(n) for n in needs() if Requirement(n).name == name]
    assert str(Requirement(words[2])) in map(str, wanted)
    assert said.endswith("(or, in a clone of the book: python make.py setup)")


def test_the_error_names_who_needs_what():
    error = extras.missing("fusion.align", "scipy")
    assert isinstance(error, ModuleNotFoundError) and error.name == "scipy"
    assert str(error).startswith("fusion.align needs scipy: pip install 'scipy>=1.11' (or")
    assert extras.missing("x", "torch-pruning").name == "torch_pruning"


def test_without_metadata_the_name_is_said(monkeypatch):
    def nothing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(extras, "requires", nothing)
    assert extras.command("scipy").startswith("pip install scipy (or")


def files() -> list[Path]:
    wanted = {".md", ".py", ".yml", ".yaml", ".toml", ".txt", ".cff", ".sh", ""}
    found = [p for p in ROOT.rglob("*") if p.is_file() and p.suffix in wanted]
    return [p for p in found if not SKIPPED & set(p.relative_to(ROOT).parts)]


def install_commands() -> list[tuple[str, list[str]]]:
    """Each install command of the tree, with the words that name what it installs."""
    found = []
    for path in files():
        for match in COMMAND.finditer(path.read_text(encoding="utf-8", errors="replace")):
            words = re.sub(r"\(.*|(?<=\S)\".*|\\n.*", "", match[1].replace("\\", ""))
            try:
                parts = shlex.split(words, comments=True)
            except ValueError:  # a quotation mark of the sentence around it
                parts = words.split()
            found.append((str(path.relative_to(ROOT)), parts))
    return found


NAMED = {  # by files that say why
    "pyright": "make.py counts the public types with it where it is installed",
    "torchvision": "tests/zoo/test_published.py: its weights, where they are",
    "dreamerv3": "chapters/beyond/frozen_encoders.md: what one gets under this name is another",
}


def unknown(commands: list[tuple[str, list[str]]]) -> list[tuple[str, str]]:
    """What the commands install that the project neither needs nor speaks of."""
    import make

    known = {canonicalize_name(Requirement(n).name) for n in [*needs(), *PROJECT["dependencies"]]}
    peers = [peer for peers in make.PEERS.values() for peer in peers.split()]
    known |= {canonicalize_name(Requirement(peer).name) for peer in peers}
    # datasets brings the first two; pip itself
    known |= {"huggingface-hub", "pyarrow", "pip", *NAMED}
    found = []
    for file, words in commands:
        for word in words:
            name = word.strip("'\".,;:|)")
            try:
                plain = canonicalize_name(Requirement(name).name)
            except InvalidRequirement:  # an option, a path, a placeholder in braces
                continue
            # the rest of "`pip install`s", a file of constraints, a test's `... in done.stdout`
            if plain not in known | {"s", "constraints-txt", "in", "done-stdout"}:
                found.append((file, plain))
    return found


def test_every_install_command_names_known_packages():
    commands = install_commands()
    assert sum(bool(words) for _, words in commands) >= 20
    assert unknown(commands) == []


STRANGERS = ["distill" + "-lib", "learning-from-teachers[rl]", "scikit_lern", "s3"]


@pytest.mark.parametrize("name", STRANGERS, ids=["namesake", "ours", "misspelled", "unknown"])
def test_a_strangers_package_would_be_seen(name):
    assert unknown([("a message", ["-U", "scipy", name])])


def test_no_file_names_another_projects_distribution():
    """There is a stranger's package of that name on the index."""
    other = "distill" + "-lib"
    named = re.compile(rf"(?<!\w){other}(?![\w-])")
    texts = {path: path.read_text(encoding="utf-8", errors="replace") for path in files()}
    found = [path.name for path, text in texts.items() if named.search(text)]
    assert found == []


def test_torch_is_of_a_release_that_reads_weights_safely():
    (torch,) = [n for n in PROJECT["dependencies"] if Requirement(n).name == "torch"]
    assert not Requirement(torch).specifier.contains("2.9.1")
    assert Requirement(torch).specifier.contains("2.10.0")

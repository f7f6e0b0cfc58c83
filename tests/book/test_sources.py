"""Rules of the sources that can be read off the files, without running anything."""

from __future__ import annotations

import re
from pathlib import Path

import bookcache
import plainmyst
import pytest
import yaml
from making import ROOT

PAGES = [ROOT / page for page in bookcache.pages(ROOT)]
CHAPTERS = sorted((ROOT / "chapters").rglob("*.md"))
SKIPPED = {".git", ".venv", "_build", "__pycache__", "node_modules", "build", "dist"}
TEXT = {".md", ".py", ".yml", ".yaml", ".toml", ".txt", ".js", ".css", ".cff", ".bib", ".json", ""}
# Written in pieces, or this file would break its own rule.
HOSTS = [
    "py" + "pi.org",
    "pythonhosted" + ".org",
    "registry." + "npmjs",
    "deb." + "debian.org",
    "download." + "pytorch.org",
    "conda." + "anaconda.org",
]
BRITISH = re.compile(
    r"\b(\w*[Bb]ehaviour|\w*[Cc]olour\w*|[Ff]avour\w*|[Nn]eighbour\w*|[Cc]entre[ds]?|[Mm]odell\w+|"
    r"[Ll]abell\w+|[Aa]nalys(e|ed|es)\b|\w*(normal|general|regular|optim|minim|maxim|real|recogn|"
    r"quant|summar|initial|parameter|standard|memor)is(e|ed|es|ing|ation)\b)",
    re.IGNORECASE,
)
ids = pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
page_ids = pytest.mark.parametrize(
    "path",
    [path for path in sorted({*PAGES, *CHAPTERS}) if path.exists()],
    ids=lambda path: f"{path.parent.name}/{path.stem}",
)


def code_cells(path: Path) -> list[str]:
    return [cell.source for cell in bookcache.read(path).cells if cell.cell_type == "code"]


CODE = re.compile(r"`{3,}(\{(code\S*|eval-rst|literalinclude|math)\}.*|[^{]*)$")


def prose(path: Path) -> str:
    """The text without front matter, code, formulas, roles' targets, and HTML."""
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    kept: list[str] = []
    fences: list[tuple[str, bool]] = []  # open ones, and whether code is inside
    for line in text.splitlines():
        if fences and line.rstrip() == fences[-1][0]:
            fences.pop()
        elif (mark := re.match(r"`{3,}|:{3,}", line)) and not any(code for _, code in fences):
            fences.append((mark[0], bool(CODE.match(line))))
        elif not any(code for _, code in fences):
            kept.append(line)
    text = re.sub(r"\$\$.*?\$\$|\$[^$\n]+\$|`+[^`]+`+", " ", "\n".join(kept), flags=re.DOTALL)
    return re.sub(r"!\[|<!--.*?-->|<[^>\n]+>", " ", text, flags=re.DOTALL)


def test_prose_is_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.md"
    path.write_text(
        "---\na: b\n---\nOne\n```{cost}\n```\ntwo `no` $no$\n```{code-cell}\nno\n```\n"
        "````{figure} x\nthree\n```\nno\n```\n````\n:::{exercise}\nfour\n:::\nfive"
    )
    assert prose(path).split() == ["One", "two", "three", "four", "five"]


def all_files() -> list[Path]:
    found = []
    todo = [ROOT]
    while todo:
        for path in todo.pop().iterdir():
            if path.name in SKIPPED or path.name.endswith((".egg-info", "_cache")):
                continue
            if path.is_dir() and not path.is_symlink():
                todo.append(path)
            elif path.is_file() and path.suffix in TEXT and not path.name.startswith(".coverage"):
                found.append(path)
    return sorted(found)


def test_the_table_of_contents_names_every_chapter():
    listed = [page for page in bookcache.pages(ROOT) if page.startswith("chapters/")]
    assert sorted(listed) == [path.relative_to(ROOT).as_posix() for path in CHAPTERS]


def test_chapters_have_names_and_not_numbers():
    """What a reader sees as a number comes from the table of contents alone."""
    names = [path.stem for path in CHAPTERS]
    assert len(set(names)) == len(names)
    assert not [path for path in CHAPTERS if re.search(r"\d", str(path.relative_to(ROOT)))]
    for path in [*PAGES, ROOT / "README.md"]:
        typed = re.findall(r"\b[Cc]hapters? \d+", path.read_text(encoding="utf-8"))
        assert not typed, f"{path.name}: {typed}"


def test_every_listed_page_exists():
    assert [str(path.relative_to(ROOT)) for path in PAGES if not path.exists()] == []


def test_chapters_are_markdown_without_outputs():
    notebooks = list((ROOT / "chapters").rglob("*.ipynb"))
    assert not notebooks, "notebooks are made into _build/notebooks, not kept beside chapters"
    for path in CHAPTERS:
        assert bookcache.is_myst_markdown_notebook(path.read_text(encoding="utf-8"))


@ids
def test_opens_with_its_cost_and_its_set_up(path):
    cells = code_cells(path)
    opening = r"^# .+\n\n(`{3,}|:{3,})\{(cost|before)\}"
    assert re.search(opening, path.read_text(encoding="utf-8"), re.MULTILINE)
    assert "env_report(" in cells[0], "the first cell reports versions, device and profile"


@ids
def test_makes_claims(path):
    assert sum(cell.count("claim(") for cell in code_cells(path)) >= 3


@ids
def test_every_exercise_has_a_solution(path):
    text = path.read_text(encoding="utf-8")
    blocks = r"\{exercise(?:-start)?\}[^\n]*\n(?:[^\n]*\n)*?:label: ([\w-]+)"
    exercises = re.findall(blocks, text)
    solutions = re.findall(r"\{solution(?:-start)?\} ([\w-]+)", text)
    assert len(exercises) == len(set(exercises)) >= 4
    assert sorted(exercises) == sorted(solutions)


@ids
def test_theorems_name_tests_that_exist(path):
    text = path.read_text(encoding="utf-8")
    named = re.findall(r"(tests/[\w/]+\.py)(?:::(\w+))?", text)
    if "{prf:theorem}" in text:
        assert named, "a theorem names the test that checks it numerically"
    for file, test in named:
        assert (ROOT / file).exists(), file
        assert f"def {test}" in (ROOT / file).read_text(encoding="utf-8"), f"{file}::{test}"


@ids
def test_code_cells_fit_a_screen(path):
    for cell in code_cells(path):
        lines = cell.splitlines()
        assert len(lines) <= 40, lines[0]
        assert all(len(line) <= 100 for line in lines), lines[0]


@page_ids
def test_prose_rules(path):
    text = prose(path)
    assert not re.search(r"\w!", text), re.findall(r".{0,40}\w!.{0,10}", text)
    assert not re.search(r"\b[Ii]n this (chapter|section),? we will\b", text)
    british = {match.group(0) for match in BRITISH.finditer(text)}
    assert not british, f"American spelling: {sorted(british)}"


@page_ids
def test_nothing_is_left_to_do(path):
    assert not re.search(r"\b(TODO|FIXME|TBD|XXX|lorem)\b", path.read_text(encoding="utf-8"))


@page_ids
def test_quoted_code_exists(path):
    text = path.read_text(encoding="utf-8")
    fence = r"^(`{3,}|:{3,})\{literalinclude\} *(\S+)\n((?:.*\n)*?)\1"
    context = plainmyst.Context(ROOT, path.relative_to(ROOT).with_suffix("").as_posix(), "")
    for _, target, body in re.findall(fence, text, re.MULTILINE):
        options, _ = plainmyst.split_options(body.splitlines())
        lines = plainmyst.quoted(target, options, context).splitlines()
        assert 3 <= len(lines) <= 80, f"{target} {options}"


@page_ids
def test_internal_links_lead_somewhere(path):
    text = path.read_text(encoding="utf-8")
    links = re.findall(r"\]\(((?!\w+:)[^)#\s]+)[^)]*\)", prose(path))
    links += [f"{t}.md" for t in re.findall(r"\{doc\}`(?:[^`<]*<)?([^`>]+)>?`", text)]
    for link in links:
        folder = ROOT if link.startswith("/") else path.parent
        assert (folder / link.lstrip("/")).exists(), link


def test_no_registry_host_is_named():
    for path in all_files():
        text = path.read_text(encoding="utf-8", errors="replace")
        named = [host for host in HOSTS if host in text]
        assert not named, f"{path.relative_to(ROOT)} names {named}"


def test_no_file_is_longer_than_350_lines():
    python = [path for path in all_files() if path.suffix == ".py" and "tests" not in path.parts]
    long = [p for p in python if len(p.read_text(encoding="utf-8").splitlines()) > 350]
    assert not long


def test_workflows_use_the_same_commands():
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert [f"make.py {name}" in script for name in ("lint", "types", "book", "test")] == [True] * 4
    ci = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    assert "bash .ci/run" in ci


def test_workflows_are_pinned_and_have_least_rights():
    """Actions by commit, no kept credentials, and no right but the ones a job names."""
    for path in sorted((ROOT / ".github/workflows").glob("*.yml")):
        text = path.read_text(encoding="utf-8")
        used = re.findall(r"uses: (\S+)(.*)", text)
        assert used and all(re.search(r"@[0-9a-f]{40}$", name) for name, _ in used), path.name
        assert all(re.match(r" # v\d+\.\d+\.\d+$", comment) for _, comment in used), path.name
        assert text.count("actions/checkout@") == text.count("persist-credentials: false")
        workflow = yaml.safe_load(text)
        assert "permissions" in workflow, path.name
        assert "write-all" not in text
        if "schedule:" in text:
            assert "gh issue create" in text and "failure()" in text, path.name


def test_yaml_files_parse():
    for path in all_files():
        if path.suffix in {".yml", ".yaml", ".cff"}:
            assert yaml.safe_load(path.read_text(encoding="utf-8")), path


def test_every_work_of_the_bibliography_is_referred_to():
    works = re.findall(r"^@\w+\{([^,]+),", (ROOT / "book/references.bib").read_text("utf-8"), re.M)
    pages = "\n".join(path.read_text(encoding="utf-8") for path in {*PAGES, *CHAPTERS})
    asked = {
        key.strip()
        for keys in re.findall(r"\{cite:\w\}`([^`]+)`", pages)
        for key in keys.split(",")
    }
    assert sorted(set(works) - asked) == []

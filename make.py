#!/usr/bin/env python3
"""The commands of the book, on Linux, macOS and Windows, with nothing but Python 3.11+.

    python make.py book       run every chapter once, build the site into _build/html
    python make.py pages      only run the chapters; `book` then builds the site from that run
    python make.py test       run the tests
    python make.py chinese    bring the Chinese catalogs up to the built pages, write their pages
    python make.py lab        JupyterLab on notebooks of your own, in lab; before a book, on sources
    python make.py paper      PDF and EPUB of the built site, into _build/paper (needs Chromium)
    python make.py notebooks  the clean notebooks for Colab, in _build/notebooks
    python make.py assignments  the exercises for otter-grader, each known answer graded (2 min)
    python make.py slides     each chapter as slides, in _build/slides; both after a book
    python make.py bench      measure distill_lib beside its peers, into _build/bench.json
    python make.py fuzz       changed files, by the thousand, for all that opens one (resumable)
    python make.py score FILE the score of an entry of the challenge "Smallest student"
    python make.py stress     every page under other seeds, arithmetic and load (hours; resumable)
    python make.py teachers   train the shipped teachers again (hours)
    python make.py lint       ruff        python make.py types   mypy, pyright
    python make.py setup      only .venv  python make.py clean   remove _build

Each command first makes .venv and installs what it needs. Environment variables: DISTILL_VENV
(another place for .venv), DISTILL_JOBS (processes, 2), DISTILL_PROFILE (laptop or full),
DISTILL_REPOSITORY (where the book lives, if the clone's origin does not say it), DISTILL_COVERAGE
(1: the tests count which lines of distill_lib they run, and fail under 95 %), DISTILL_EVERYTHING
(1: the browser tests look at every page, not at every third, and the tests that take minutes run).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = Path(os.environ.get("DISTILL_VENV") or ROOT / ".venv")
BUILD = ROOT / "_build"
OWN = ROOT / "lab"  # a reader's notebooks
PINS, PROJECT = ROOT / "constraints.txt", ROOT / "pyproject.toml"
EXTRAS = "book,compress,dev,jax,language,rl,trl"
# Compared with in tests and benchmarks; each lies in a folder of its own, without dependencies. The
# metadata of the first asks for torchvision, which has no build for every torch and is not needed
# there; the second asks for packages that its losses do not need; the checkpoints of the others are
# read by the library. The last grades assignments; in a folder of its own it changes no environment
# in which chapters were run.
PEERS = {
    "": "torchdistill==1.1.5",
    "textbrewer": "textbrewer==0.2.1.post1",
    "rsl_rl-2": "rsl-rl-lib==2.3.3",
    "rsl_rl-3": "rsl-rl-lib==3.3.0",
    "rsl_rl-4": "rsl-rl-lib==4.0.1",
    "rsl_rl-5": "rsl-rl-lib==5.0.1",  # the one that Isaac Lab pins
    "rl_games-1": "rl-games==1.6.5",
    "skrl-1": "skrl==1.4.3",
    "skrl-2": "skrl==2.1.1",
    "otter": "otter-grader==7.0.0 fica==0.4.1 ipylab==1.1.0 python-frontmatter==1.3.0 "
    "python-on-whales==0.81.0 wrapt==1.17.3",
}
# With the one that came with Python 3.11 the set-up takes half as long again.
PIP = "pip==25.3"
JOBS = os.environ.get("DISTILL_JOBS", "2")
TOOLS = (ROOT / "book/_tools", ROOT / "book/_ext")
CHECKED = ["distill_lib", "tests", "book", "benchmarks", "challenge", "teachers", "make.py"]
# The same as the command jupyter-book, which has no `python -m`.
JUPYTER_BOOK = "import sys; from jupyter_book.cli.main import main; sys.exit(main())"
QUIET = {  # one thread per process: the nets are small, and JOBS processes run side by side
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "JUPYTER_PLATFORM_DIRS": "1",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
}


def in_conda() -> bool:
    conda = os.environ.get("CONDA_PREFIX")
    return bool(conda) and Path(conda).resolve() == Path(sys.prefix).resolve()


def prefix() -> Path:
    """The active conda environment, else .venv."""
    return Path(sys.prefix) if in_conda() else VENV


def python() -> str:
    if in_conda():
        return sys.executable
    return str(VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))


def run(*args: str) -> None:
    if code := attempt(*args):
        raise SystemExit(code)


def attempt(*args: str) -> int:
    print("+", *args, flush=True)
    return subprocess.call(args, cwd=ROOT, env={**QUIET, **os.environ})


def module(*args: str) -> None:
    run(python(), "-m", *args)


def setup() -> None:
    if sys.version_info < (3, 11):  # noqa: UP036  (an older Python can start this file)
        raise SystemExit(f"Python 3.11 or newer is needed; this is {sys.version.split()[0]}.")
    if not in_conda():
        make_venv()
    digest = hashlib.sha256(
        PINS.read_bytes() + PROJECT.read_bytes() + (EXTRAS + str(PEERS)).encode()
    ).hexdigest()
    stamp = prefix() / "distill-stamp.txt"
    if stamp.exists() and stamp.read_text() == digest:
        return
    print("Installing what the book needs; the first time this takes some minutes.", flush=True)
    if not in_conda():
        pip_install(PIP)
    # torch first and as pinned, so that no other package pulls in another build of it.
    torch = next(pin for pin in PINS.read_text().splitlines() if pin.startswith("torch=="))
    pip_install(torch)
    pip_install("-c", str(PINS), "-e", f".[{EXTRAS}]")
    module("pip", "check")
    with ThreadPoolExecutor(int(JOBS)) as pool:
        list(pool.map(install_peer, PEERS.items()))
    stamp.write_text(digest)


def pip_install(*what: str) -> None:
    # Half of pip's time is the compilation of 27,000 files. Few of them are imported, and a file is
    # compiled when it is.
    module("pip", "install", "-q", "--no-compile", *what)


def install_peer(peer: tuple[str, str]) -> None:
    folder, packages = peer
    target = str(prefix() / "peers" / folder)
    pip_install("--no-deps", "--upgrade", "--target", target, *packages.split())


def make_venv() -> None:
    if Path(python()).exists():
        return
    try:
        venv.create(VENV, with_pip=True)
    except subprocess.CalledProcessError:
        shutil.rmtree(VENV, ignore_errors=True)
        raise SystemExit(
            "This Python cannot make a virtual environment with pip. On Debian and Ubuntu: "
            "apt install python3-venv. Then run the same command again."
        ) from None


def pages() -> None:
    setup()
    run(python(), "book/_tools/execute.py", "--jobs", JOBS)


def book() -> None:
    setup()
    # A page or a claim that fails holds back no other: all is built, and the end is an error.
    failed = attempt(python(), "book/_tools/execute.py", "--jobs", JOBS)
    failed += attempt(python(), "book/_tools/ledger.py")
    # Sphinx does not repeat the warnings of pages that it has already read: start clean.
    for folder in ("html", ".doctrees"):
        shutil.rmtree(BUILD / folder, ignore_errors=True)
    failed += attempt(python(), "-c", JUPYTER_BOOK, "build", ".", "-n", "-W", "--keep-going")
    # Neither of these needs the other.
    with ThreadPoolExecutor() as pool:
        scripts = ("book/_tools/chinese.py", "book/_tools/notebooks.py")
        failed += sum(pool.map(lambda script: attempt(python(), script), scripts))
    print(f"\nThe book: {(BUILD / 'html/index.html').as_uri()}", flush=True)
    if failed:
        problems = BUILD / "problems.txt"
        print("It was built, and something in it is wrong:", flush=True)
        said = problems.read_text(encoding="utf-8") if problems.exists() else ""
        raise SystemExit(said or "see the warnings above.")


def chinese() -> None:
    setup()
    run(python(), "book/_tools/chinese.py", "--refresh")


def test() -> None:
    setup()
    # Counting lines adds a third to the time of the library's tests, so it is asked for.
    counted = ["--cov=distill_lib", "--cov-report=term", "--cov-fail-under=95"]
    coverage = counted if os.environ.get("DISTILL_COVERAGE") else []
    # One more than cores: many a test waits for a browser or for another process. Files keep their
    # order, so that the slow ones of the book, which hold few tests each, do not come last.
    spread = ["-n", str(int(JOBS) + 1), "--dist", "loadfile", "--no-loadscope-reorder"]
    module("pytest", *spread, "-q", *coverage, *sys.argv[2:])


def lab() -> None:
    setup()
    # Written into the environment, not into the reader's home: a double click on a .md opens
    # it as a notebook.
    overrides = prefix() / "share/jupyter/lab/settings/overrides.json"
    module("jupytext_config", "--settings-file", str(overrides), "set-default-viewer", "markdown")
    quiet(overrides)
    # In the sources, references and theorems are raw text; in the notebooks made from them not.
    if not own_notebooks():
        print("`make book` makes notebooks of the chapters; until then their sources are opened.")
    module("jupyter", "lab", *(sys.argv[2:] or [str(OWN) if OWN.exists() else "chapters"]))


def own_notebooks() -> bool:
    """Copies that no build touches: what a reader has changed stays as it is.

    A copy that nobody has changed since follows the book; one that was deleted comes anew.
    """
    made, noted = BUILD / "notebooks", OWN / ".made.json"
    before = json.loads(noted.read_text(encoding="utf-8")) if noted.exists() else {}
    for file in made.glob("*.*") if made.exists() else ():
        copy = OWN / file.name
        OWN.mkdir(exist_ok=True)
        if not copy.exists() or file.suffix == ".whl" or before.get(file.name) == digest(copy):
            shutil.copyfile(file, copy)
            before[file.name] = digest(copy)
    if OWN.exists():
        noted.write_text(json.dumps(before), encoding="utf-8")
    return OWN.exists()


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def quiet(overrides: Path) -> None:
    """JupyterLab does not ask a reader whether it may fetch news."""
    settings = json.loads(overrides.read_text(encoding="utf-8"))
    settings["@jupyterlab/apputils-extension:notification"] = {
        "fetchNews": "false",
        "checkForUpdates": False,
    }
    overrides.write_text(json.dumps(settings, indent=4), encoding="utf-8")


def notebooks() -> None:
    book()
    print(f"The notebooks: {BUILD / 'notebooks'}", flush=True)


def teachers() -> None:
    setup()
    for script in sorted((ROOT / "teachers").glob("[a-z]*.py")):
        run(python(), str(script.relative_to(ROOT)), *sys.argv[2:])


def lint() -> None:
    setup()
    there = [path for path in CHECKED if (ROOT / path).exists()]
    module("ruff", "check", *there)
    module("ruff", "format", "--check", *there)


def types() -> None:
    setup()
    module("mypy", "--strict", "distill_lib", "tests/typed_use.py")
    # Sphinx, nbformat and Babel are typed in part, so the tools are held to what can go wrong.
    os.environ["MYPYPATH"] = os.pathsep.join(map(str, TOOLS))
    loose = ["--disable-error-code=no-untyped-call", "--disable-error-code=no-any-return"]
    loose += ["--ignore-missing-imports", "--follow-imports=silent"]
    files = [str(file) for folder in TOOLS for file in sorted(folder.glob("*.py"))]
    module("mypy", "--strict", *loose, *files)
    # pyright reads the types of whatever python comes first
    places = os.pathsep.join([str(Path(python()).parent), os.environ["PATH"]])
    pyright = shutil.which("pyright", path=places)
    if pyright is None:
        print("pyright is not installed, so the public types were not counted: pip install pyright")
        return
    os.environ["PATH"] = places
    command = [pyright, "--verifytypes", "distill_lib", "--ignoreexternal", "--outputjson"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True).stdout)
    symbols = found["typeCompleteness"]["symbols"]
    unknown = [one["name"] for one in symbols if one["isExported"] and not one["isTypeKnown"]]
    # what derives from a class of RSL-RL or TRL, which have no types
    untyped = tuple(f"distill_lib.integrations.{name}." for name in ("rsl_rl", "trl"))
    unknown = [name for name in unknown if not name.startswith(untyped)]
    print(f"pyright: {len(symbols)} public symbols, {len(unknown)} without a known type", *unknown)
    if unknown:
        raise SystemExit(1)


def clean() -> None:
    shutil.rmtree(BUILD, ignore_errors=True)


COMMANDS = [book, pages, chinese, test, lab, notebooks, teachers, lint, types, setup, clean]
PROGRAMS = {  # which get the rest of the command line
    "assignments": ["book/_tools/assignments.py"],
    "bench": ["-m", "benchmarks"],
    "fuzz": ["tests/fuzz"],
    "paper": ["book/_tools/paper.py"],
    "score": ["-m", "challenge"],
    "slides": ["book/_tools/slides.py"],
    "stress": ["book/_tools/stress.py"],
}

if __name__ == "__main__":
    asked = sys.argv[1] if len(sys.argv) > 1 else ""
    commands = {command.__name__: command for command in COMMANDS}
    if asked in PROGRAMS:
        setup()
        run(python(), *PROGRAMS[asked], *sys.argv[2:])
    elif asked in commands:
        commands[asked]()
    else:
        raise SystemExit(__doc__)

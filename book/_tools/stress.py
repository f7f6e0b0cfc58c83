"""Run every page under other seeds, arithmetic, threads and load, and write book/robustness.md.

Hours of work, resumable: a page and a variation at a time, each kept in book/robustness/ as soon as
it has run. Run again, it goes on with what is missing, and with what has changed: the code of the
page (without the words and the bounds of its claims, which change no number and are taken from the
page as built) or a file of the library that the page imports. A change of the library that leaves
every number of the page as built where it was, up to a thousandth of it, leaves its variations
standing: with another processor the last digits of most numbers are others.

    python book/_tools/stress.py [--jobs 2] [--only WORD ...] [--pages PAGE ...] [--report]

Another torch is tried where DISTILL_STRESS_PYTHON names the Python of an environment that has one.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import hashlib
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import bookcache
from execute import KEEP_MEMORY, ONE_THREAD
from robustness import Stressed, report

SHIFTS, FEWER, LONG = 10, 5, 100.0  # seed shifts of a page; of one that takes so many seconds
STATED = {"claim", "measurement"}
BOUNDS = {"at_least", "at_most", "equals", "tolerance", "seeds", "source"}
AS_BUILT = "as built"
BUSY = "while True: pass"
# Each version of Python has its own reference; here is one that lacks every eighth article.
ANOTHER_TEXT = """
import runpy, sysconfig
found = runpy.run_path(sysconfig.get_path("stdlib") + "/pydoc_data/topics.py")["topics"]
topics = {name: found[name] for i, name in enumerate(sorted(found)) if i % 8 != 3}
"""


def variations() -> dict[str, dict[str, str]]:
    """Each variation by name, with the environment variables that make it."""
    found = {
        "arithmetic default": {"ATEN_CPU_CAPABILITY": "default"},
        # beside another page, threads that spin while they wait took ten times as long
        "two threads": {
            **dict.fromkeys(ONE_THREAD, "2"),
            "DISTILL_THREADS": "2",
            "OMP_WAIT_POLICY": "passive",
        },
        "busy machine": {},
        "arithmetic avx2": {"ATEN_CPU_CAPABILITY": "avx2"},
        "another text": {},
        "another torch": {},
    }
    shifts = {f"seeds +{i}000": {"DISTILL_SEED_SHIFT": f"{i}000"} for i in range(1, SHIFTS + 1)}
    first = dict(list(shifts.items())[:1])
    return {AS_BUILT: {}, **first, **found, **shifts}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", nargs="*", help="stems; default: all of the book")
    parser.add_argument("--only", nargs="*", default=[""], help="variations whose names have these")
    parser.add_argument("--root", type=Path, default=bookcache.ROOT)
    parser.add_argument("--jobs", type=int, default=int(os.environ.get("DISTILL_JOBS", "2")))
    parser.add_argument("--report", action="store_true", help="only write the page")
    parser.add_argument("--worker", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    root = options.root.resolve()
    if options.worker:
        return work(*options.worker)
    paths = bookcache.chapters(root)
    if unknown := set(options.pages or ()) - {path.stem for path in paths}:
        raise SystemExit(f"No page {sorted(unknown)}; there are {[p.stem for p in paths]}.")
    paths = [path for path in paths if not options.pages or path.stem in options.pages]
    names = [n for n in variations() if any(word in n for word in options.only)]
    if not options.report:
        stress(root, paths, names, options.jobs)
    flips = report(root)
    return 1 if flips else 0


def stress(root: Path, paths: list[Path], names: list[str], jobs: int) -> None:
    lock = threading.Lock()
    todo = [(path, name) for name in names for path in paths if applies(path, name)]

    def one(item: tuple[Path, str]) -> None:
        path, name = item
        with lock:
            record = load(root, path)
            if is_done(record, root, path, name) or is_enough(record, name):
                return
        found = (name == AS_BUILT and as_built(root, path)) or run(root, path, name)
        with lock:
            record = load(root, path)
            # words and bounds are those of the page as built; of the others the numbers suffice
            numbers = [{"value": claim["value"]} for claim in found["claims"]]
            if name == AS_BUILT:
                carry(record, found)
            record[name] = found if name == AS_BUILT else {**found, "claims": numbers}
            save(root, path, record)
        false = [c["text"] for c in found["claims"] if not c["holds"]]
        print(
            f"{path.stem} | {name} | {found['seconds']:.0f} s", *false, sep="\n    ✗ ", flush=True
        )
        if found["error"]:
            print(found["error"][-1500:], flush=True)

    with ThreadPoolExecutor(max(jobs, 1)) as pool:
        list(pool.map(one, todo))


def folder(root: Path) -> Path:
    return root / "book/robustness"


def load(root: Path, path: Path) -> dict[str, Any]:
    file = folder(root) / f"{path.stem}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def save(root: Path, path: Path, record: dict[str, Any]) -> None:
    folder(root).mkdir(exist_ok=True)
    file = folder(root) / f"{path.stem}.json"
    part = file.with_suffix(".part")
    lines = [f"{json.dumps(n)}: {json.dumps(r, ensure_ascii=False)}" for n, r in record.items()]
    part.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    part.replace(file)


def is_done(record: dict[str, Any], root: Path, path: Path, name: str) -> bool:
    found = record.get(name)
    if not found or found["error"] or found["code"] != digest_of_code(path, name):
        return False
    return all(found["files"][file] == digest(root / file) for file in found["files"])


def as_built(root: Path, path: Path) -> dict[str, Any] | None:
    """What `make book` has just computed needs no second run."""
    try:
        record, notebook = bookcache.executed(bookcache.open_cache(root), path)
    except KeyError:
        return None
    files = record.data.get("files")
    if record.data.get("error") or files is None or not bookcache.is_fresh(root, record):
        return None
    return {
        "code": digest_of_code(path, AS_BUILT),
        "error": None,
        "seconds": record.data["execution_seconds"],
        **this_torch(),
        "claims": kept(notebook),
        "files": digests(root, files),
    }


def this_torch() -> dict[str, str]:
    import torch  # takes longer than all the rest, and most calls need none

    capability = torch.backends.cpu.get_cpu_capability()
    return {"torch": torch.__version__, "capability": capability}


def kept(notebook: Any) -> list[dict[str, Any]]:
    names = ("text", "value", "relation", "bound", "tolerance", "holds")
    claims = [c for c in bookcache.claims(notebook) if c["kind"] == "claim"]
    return [{k: c[k] for k in names if k in c} for c in claims]


def digests(root: Path, files: list[str], began: float = math.inf) -> dict[str, str | None]:
    """None for a file that was written after the page began: nobody knows what the page read."""
    # how claims and figures are shown changes no number
    inside = [f for f in files if not f.startswith("distill_lib/booktools/")]
    late = {f for f in inside if (root / f).exists() and (root / f).stat().st_mtime > began}
    return {f: None if f in late else digest(root / f) for f in inside}


def carry(record: dict[str, Any], new: dict[str, Any]) -> None:
    """Runs beside the old page as built count with its new library, if no number has moved."""
    old = record.get(AS_BUILT)
    if not old or not alike(old["claims"], new["claims"]):
        return
    beside = {**record, AS_BUILT: new}
    flips = [name for i, c in enumerate(new["claims"]) for name in Stressed(i, c, beside).flips]
    for name, found in record.items():
        # a page as built may list more files, such as tables that it names and does not read
        same = found["files"].items() <= old["files"].items()
        if same and name not in {AS_BUILT, *flips}:  # the new library may be what mends a flip
            found["files"] = {**new["files"]}


def alike(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> bool:
    """Whether no number has moved by more than other processors move it: a thousandth of it."""
    return len(old) == len(new) and all(
        math.isclose(a["value"], b["value"], rel_tol=1e-3, abs_tol=1e-6)
        for a, b in zip(old, new, strict=True)
    )


def applies(path: Path, name: str) -> bool:
    """Another torch needs one; only a page that reads the reference of Python can read another."""
    if name == "another torch":
        return "DISTILL_STRESS_PYTHON" in os.environ
    return name != "another text" or "reference_text(" in path.read_text(encoding="utf-8")


def is_enough(record: dict[str, Any], name: str) -> bool:
    """Long pages are given fewer shifts of their seeds; the quietest run tells how long."""
    seconds = min((run["seconds"] for run in record.values() if not run["error"]), default=0.0)
    shift = name.startswith("seeds") and int(name.split("+")[1]) // 1000
    return bool(shift and shift > FEWER and seconds > LONG)


def digest_of_code(path: Path, name: str) -> str:
    """Of all code cells; but for the page as built, without words and bounds of claims."""
    hashed = hashlib.sha256()
    for cell in bookcache.read(path).cells:
        if cell.cell_type == "code":
            lines = [line for line in cell.source.splitlines() if line[:1] not in "%!"]
            tree = bookcache.parse("\n".join(lines))
            for node in ast.walk(tree):
                if name == AS_BUILT or not isinstance(node, ast.Call):
                    continue
                if getattr(node.func, "id", "") in STATED:
                    node.args = node.args[1:]
                    node.keywords = [k for k in node.keywords if k.arg not in BOUNDS]
            hashed.update(ast.dump(tree).encode())
    return hashed.hexdigest()[:16]


def digest(path: Path) -> str | None:
    return bookcache.digest(path) if path.exists() else None


def run(root: Path, path: Path, name: str) -> dict[str, Any]:
    """One page in a process of its own, under one variation."""
    code, began = digest_of_code(path, name), time.time()
    python = sys.executable
    if name == "another torch":
        python = os.environ["DISTILL_STRESS_PYTHON"]
    with tempfile.TemporaryDirectory() as temporary, busy(2 if name == "busy machine" else 0):
        target = Path(temporary) / "result.json"
        command = [python, __file__, "--root", str(root), "--worker", str(path), str(target)]
        paths = [str(root)]
        if name == "another text":
            (Path(temporary) / "pydoc_data").mkdir()
            text = Path(temporary) / "pydoc_data/topics.py"
            text.write_text(ANOTHER_TEXT, encoding="utf-8")
            (text.parent / "__init__.py").touch()
            paths.append(temporary)
        own = {
            "DISTILL_QUIET": "1",
            "DISTILL_CLAIMS": "record",
            "PYTHONPATH": os.pathsep.join(paths),
        }
        done = subprocess.run(
            command,
            env={**os.environ, **ONE_THREAD, **KEEP_MEMORY, **own, **variations()[name]},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
        )
        if not target.exists():
            error = f"the process ended with {done.returncode}\n{done.stderr[-3000:]}"
            return {"error": error, "seconds": 0.0, "claims": [], "code": "", "files": {}}
        result = json.loads(target.read_text(encoding="utf-8"))
    files = [Path(f) for f in result.pop("paths")]
    inside = [f.relative_to(root).as_posix() for f in files if f.is_relative_to(root)]
    return {"code": code, **result, "files": digests(root, inside, began)}


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """Beside so many processes that never rest."""
    loops = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def work(path: Path, target: Path) -> int:
    """In the page's own process: run it, and write down its claims."""
    result, answer = bookcache.run(path, timeout=3600)
    facts = answer or {"files": [], "torch": None, "capability": None}
    record = {
        "error": None if result.err is None else bookcache.plain(str(result.err)),
        "seconds": round(result.time, 1),
        "torch": facts["torch"],
        "capability": facts["capability"],
        "paths": facts["files"],
        "claims": kept(result.nb),
    }
    target.write_text(json.dumps(record), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Run every chapter once, in parallel, into the cache that the site is built from.

Each chapter gets a process of its own: its peak memory is then the operating system's number
for that kernel alone. A chapter that is in the cache with the same fingerprint is skipped, so an
interrupted run goes on where it was, and a change of the library runs the chapters that import it.
A chapter that fails holds back no other: it is kept as far as it came, with a note at the cell that
failed, reported at the end, and run again the next time.

    python book/_tools/execute.py [--jobs 2] [--root FOLDER] [CHAPTER ...]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from importlib.metadata import version
from pathlib import Path
from typing import Any

import bookcache
import nbformat
from jupyter_cache.base import CacheBundleIn

ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
)
# glibc gives the memory of a large array back at once and asks for it anew in the next step, when
# the system has to fill it with zeros: a fifth of the time of a convolution, half of it where
# nothing is learned. What has been asked for is kept instead. Other systems do not read these.
KEEP_MEMORY = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
    "MALLOC_TOP_PAD_": str(2**26),
}
# A page shows results, not the bars of those who waited for them; a bar that is a widget would have
# the page ask the network for a script.
NO_BARS = {"DISTILL_QUIET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
NOTE = (
    '<div class="dl-failed" role="note">'
    "<strong>This cell failed when these pages were built</strong> (%s). What follows it on this "
    "page was not computed. The other pages do not depend on it.</div>"
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("chapters", nargs="*", help="stems; default: all of the book")
    parser.add_argument("--root", type=Path, default=bookcache.ROOT)
    parser.add_argument("--jobs", type=int, default=int(os.environ.get("DISTILL_JOBS", "2")))
    parser.add_argument("--worker", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    root = options.root.resolve()
    if options.worker:
        path, target = options.worker
        return work(root, path, target, timeout=bookcache.config(root)["execute"]["timeout"])
    paths = bookcache.chapters(root)
    if unknown := set(options.chapters) - {path.stem for path in paths}:
        raise SystemExit(f"No chapter {sorted(unknown)}; there are {[p.stem for p in paths]}.")
    wanted = [path for path in paths if not options.chapters or path.stem in options.chapters]
    return 1 if execute(root, wanted, options.jobs) else 0


def execute(root: Path, paths: list[Path], jobs: int) -> list[str]:
    """Run what is not in the cache; returns the names of the chapters that failed."""
    cache, library = bookcache.open_cache(root), bookcache.library(root)
    forget_stale(root, cache, library)
    todo = [path for path in paths if not is_cached(cache, path)]
    print(f"{len(paths) - len(todo)} of {len(paths)} chapters are in the cache.", flush=True)
    failed = []
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(max(jobs, 1)) as pool:
        results = {
            pool.submit(run, root, path, Path(folder) / f"{i}.json"): path
            for i, path in enumerate(todo)
        }
        for done, future in enumerate(as_completed(results), start=1):
            path, result = results[future], future.result()
            where = f"[{done}/{len(todo)}] {path.stem}"
            if result["error"]:
                failed.append(path.stem)
                print(f"{where} FAILED\n{result['error']}", flush=True)
            store(root, cache, path, result, library)
            if result["error"]:
                continue
            print(f"{where} {result['seconds']:.1f} s, {result['peak_rss_mb']} MB", flush=True)
    if failed:
        print(f"{len(failed)} of {len(paths)} chapters failed: {', '.join(failed)}", flush=True)
    return failed


def forget_stale(root: Path, cache: Any, library: dict[str, str]) -> None:
    """Drop what was computed with another library, environment or profile."""
    for record in cache.list_cache_records():
        if not bookcache.is_fresh(root, record, library):
            cache.remove_cache(record.pk)


def is_cached(cache: Any, path: Path) -> bool:
    try:
        record = cache.match_cache_notebook(bookcache.read(path))
    except KeyError:
        return False
    return not record.data.get("error")


def run(root: Path, path: Path, target: Path) -> dict[str, Any]:
    """One chapter in a process of its own."""
    print(f"running {path.stem}", flush=True)
    command = [sys.executable, __file__, "--root", str(root), "--worker", str(path), str(target)]
    process = subprocess.run(
        command,
        env={**ONE_THREAD, **KEEP_MEMORY, **NO_BARS, **os.environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    if not target.exists():
        error = f"the process ended with {process.returncode}\n{process.stderr[-4000:]}"
        empty = nbformat.writes(bookcache.read(path), version=nbformat.NO_CONVERT)
        return {"error": error, "seconds": 0, "peak_rss_mb": None, "notebook": empty}
    return json.loads(target.read_text(encoding="utf-8"))


def store(
    root: Path, cache: Any, path: Path, result: dict[str, Any], library: dict[str, str]
) -> None:
    files = result.get("files")
    data = {
        "execution_seconds": result["seconds"],
        "peak_rss_mb": result["peak_rss_mb"],
        "files": files,
        "fingerprint": bookcache.fingerprint(root, files, library),
        "error": result["error"],
    }
    notebook = nbformat.reads(result["notebook"], as_version=nbformat.NO_CONVERT)
    if result["error"]:
        note_failure(notebook, result["error"])
    bundle = CacheBundleIn(notebook, str(path), data=data)
    cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)


def note_failure(notebook: Any, error: str) -> None:
    """Say at the cell that failed, or at the first, that the page ends there."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    failed = [c for c in cells if any(o.output_type == "error" for o in c.outputs)]
    cell = (failed or cells)[0]
    if not failed:  # the process died: there is no traceback to show
        cell.outputs.append(nbformat.v4.new_output("stream", name="stdout", text=error + "\n"))
    where = f"torch {version('torch')} on {platform.system()} ({platform.machine()})"
    cell.outputs.insert(0, nbformat.v4.new_output("display_data", {"text/html": NOTE % where}))


def work(root: Path, path: Path, target: Path, timeout: int) -> int:
    """In the chapter's own process: run it, and write down what came out."""
    cells = bookcache.read(path).cells
    program = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    result, loaded = bookcache.run(path, timeout)
    record = {
        "error": None if result.err is None else bookcache.plain(str(result.err)),
        "seconds": round(result.time, 2),
        "peak_rss_mb": peak_rss_mb(),
        "files": bookcache.imported(root, program, loaded["files"]) if loaded else None,
        "notebook": nbformat.writes(result.nb, version=nbformat.NO_CONVERT),
    }
    target.write_text(json.dumps(record), encoding="utf-8")
    return 0 if result.err is None else 1


def peak_rss_mb() -> int | None:
    """Peak memory of the kernel, which is this process's only child; None on Windows."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10))


if __name__ == "__main__":
    raise SystemExit(main())

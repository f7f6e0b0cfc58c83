"""``make fuzz``: thousands of changed files, read by every loader of the library.

    python tests/fuzz [--seed 0] [--count 400] [--jobs 2] [--only NAME] [--keep]

Each loader gets ``count`` mutants, then all loaders the files of ``crafted.py``. A mutant is named
by seed, loader and number, and is the same whenever it is made. What is done is written to
``_build/fuzz/SEED.jsonl``, and a run that was broken off goes on from there; files with a fault lie
beside it. ``--keep`` takes one small file of each kind of outcome into the corpus of the tests.

The end is an error if a file ran code, ended in an error that is not the library's, killed the
process, or took more memory than is stated.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("DISTILL_QUIET", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from attempts import Outcome, attempt, limit
from crafted import bombs, evil
from keep import keep
from loaders import LOADERS

OUT = Path(__file__).resolve().parents[2] / "_build" / "fuzz"
AT_ONCE = 40
ROOM = 5 << 30
Job = tuple[str, str]  # a loader, and the name of a file for it

CRAFTED: dict[str, tuple[str, bytes]] = {}


def content(job: Job) -> bytes:
    loader, name = job
    return CRAFTED[name][1] if name in CRAFTED else LOADERS[loader].mutant(name)


def chunks(seed: int, count: int, only: str) -> Iterator[list[Job]]:
    for loader in LOADERS:
        if only in loader:
            jobs = [(loader, f"{seed}/{loader}/{number}") for number in range(count)]
            yield from (jobs[at : at + AT_ONCE] for at in range(0, count, AT_ONCE))
    crafted = [(loader, name) for name, (loader, _) in CRAFTED.items() if only in loader]
    yield from (crafted[at : at + AT_ONCE] for at in range(0, len(crafted), AT_ONCE))


def read_all(jobs: list[Job], log: Path) -> None:
    """In a process of its own, as a file may end it."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    folder = Path(tempfile.mkdtemp())
    for loader in dict.fromkeys(loader for loader, _ in jobs):  # what is imported late, before
        attempt(LOADERS[loader], LOADERS[loader].whole, folder / "x")
    limit(ROOM)
    with log.open("w", buffering=1) as file:
        for loader, name in jobs:
            file.write(json.dumps({"loader": loader, "name": name}) + "\n")
            found = attempt(LOADERS[loader], content((loader, name)), folder / "x")
            record = {**vars(found), "fault": found.fault(), "loader": loader, "name": name}
            file.write(json.dumps(record) + "\n")
    shutil.rmtree(folder, ignore_errors=True)


def run(jobs: list[Job]) -> list[dict[str, Any]]:
    """The records of all; a file that ends the process gets one too, and the rest another one."""
    found: list[dict[str, Any]] = []
    while jobs:
        handle, name = tempfile.mkstemp()
        os.close(handle)
        pid = os.fork()
        if pid == 0:
            try:
                read_all(jobs, Path(name))
            finally:
                os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        lines = [json.loads(line) for line in Path(name).read_text().splitlines()]
        os.unlink(name)
        done = [line for line in lines if "end" in line]
        found += done
        jobs = jobs[len(done) :]
        if jobs:
            loader, one = jobs.pop(0)
            dead = vars(Outcome("dead", f"the process ended with {status}"))
            found.append({**dead, "fault": dead["where"], "loader": loader, "name": one})
    return found


def kind(record: dict[str, Any]) -> tuple[str, ...]:
    """What makes two outcomes alike."""
    said = re.sub(r"/\S+|'[^']*'|\d+|0x[0-9a-f]+|[^\x00-\x7f]+", "", record["where"])
    line = record["where"].rpartition("@")[2]
    return record["loader"], record["end"], said[:160], line


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, default in (("seed", 0), ("count", 400), ("jobs", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--only", default="")
    parser.add_argument("--keep", action="store_true")
    asked = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    CRAFTED.update({f"{what} ({who})": (who, data) for what, who, data in (*evil(), *bombs())})
    for loader in LOADERS.values():
        assert loader.whole
    path = OUT / f"{asked.seed}.jsonl"
    old = path.read_text().splitlines() if path.exists() else []
    records = [json.loads(line) for line in old if line.endswith("}")]
    done = {(record["loader"], record["name"]) for record in records}
    todo = [
        left
        for jobs in chunks(asked.seed, asked.count, asked.only)
        if (left := [job for job in jobs if job not in done])
    ]
    begun = time.time()
    with path.open("a") as file, ThreadPoolExecutor(asked.jobs) as pool:
        for found in pool.map(run, todo):
            for record in found:
                records.append(record)
                file.write(json.dumps(record) + "\n")
            file.flush()
    report(records, time.time() - begun)
    if asked.keep:
        keep(records, content)
    return any(record["fault"] for record in records)


def report(records: list[dict[str, Any]], seconds: float) -> None:
    for loader in LOADERS:
        mine = [r for r in records if r["loader"] == loader]
        ends = dict(collections.Counter(r["end"] for r in mine))
        most = max((r["memory"] for r in mine), default=0) >> 20
        print(f"{loader}: {len(mine)} files, {ends}, at most {most} MB")
    faults = collections.defaultdict(list)
    for record in records:
        if record["fault"]:
            faults[kind(record)].append(record)
    for alike in faults.values():
        first = alike[0]
        name = OUT / hashlib.sha256(first["name"].encode()).hexdigest()[:12]
        name.write_bytes(content((first["loader"], first["name"])))
        print(f"FAULT {len(alike)} x {first['name']}: {first['fault'][:400]}  [{name}]")
    wrong = sum(map(len, faults.values()))
    print(f"{len(records)} files, {wrong} with a fault, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())

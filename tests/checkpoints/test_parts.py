"""What a killed writer left is swept away by the next, and nothing of a living one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from distill_lib import compress
from distill_lib.checkpoints import parts
from distill_lib.checkpoints.files import whole_file
from distill_lib.teachers import Cache

pytestmark = pytest.mark.skipif(parts.fcntl is None, reason="locks of POSIX")

KILLED = """
import os, signal, sys
from pathlib import Path
from distill_lib.checkpoints.parts import part_of
with part_of(Path(sys.argv[1])) as (file, part):
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False, timeout=300)
    assert done.returncode == -signal.SIGKILL


def left(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name.endswith(".part"))


def write(path: Path) -> None:
    with whole_file(path) as file:
        file.write(b"whole")


def build(path: Path) -> None:
    Cache.build(path, nn.Linear(2, 2), [(torch.ones(2), 0)] * 3, progress=False)


WRITERS: dict[str, Callable[[Path], Any]] = {
    "whole_file": write,
    "Cache.build": build,
    "save_packed": lambda path: compress.save_packed(nn.Linear(2, 2), path),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_the_next_write_sweeps_what_a_kill_left(tmp_path: Path, writer: str) -> None:
    path = tmp_path / "c"
    killed(path)
    assert len(left(tmp_path)) == 1
    WRITERS[writer](path)
    assert not left(tmp_path) and path.is_file()


@pytest.mark.parametrize("name", ["x" * 255, "Ünï ☃", "a\nb", "-rf", "%s {} [a] *"])
def test_whatever_the_file_is_called(tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name[:40]}.{parts.HOST}-{'1' * 32}.part").write_bytes(b"half")
    write(tmp_path / name)
    assert os.listdir(tmp_path) == [name]


def test_the_parts_of_the_living_of_others_and_of_other_files_stay(tmp_path: Path) -> None:
    path, far = tmp_path / "c", f"c.{'0' * 8}-{'1' * 32}.part"
    strangers = [far, "c.part", f"other.{parts.HOST}-{'1' * 32}.part", f"c.{parts.HOST}-.txt"]
    for name in strangers:
        (tmp_path / name).write_bytes(b"")
    (tmp_path / f"c.{parts.HOST}-2.part").mkdir()
    os.mkfifo(tmp_path / f"c.{parts.HOST}-3.part")
    (tmp_path / f"c.{parts.HOST}-4.part").symlink_to(tmp_path / far)
    before = sorted(os.listdir(tmp_path))
    with whole_file(path) as file:
        file.write(b"first")
        mine = set(os.listdir(tmp_path)) - set(before)
        write(path)
        assert mine < set(os.listdir(tmp_path))
    assert sorted(os.listdir(tmp_path)) == sorted([*before, "c"])
    assert path.read_bytes() == b"first"


def test_many_writers_of_one_path_sweep_no_living_part(tmp_path: Path) -> None:
    """Processes, as the locks of one process are many: the file is whole at every moment."""
    code = """
import sys
from distill_lib.checkpoints.files import whole_file
for n in range(60):
    with whole_file(sys.argv[1]) as file:
        file.write(sys.argv[2].encode() * 5000)
"""
    path = tmp_path / "c"
    runs = [subprocess.Popen([sys.executable, "-c", code, str(path), n]) for n in "ab"]
    assert [one.wait(300) for one in runs] == [0, 0]
    assert set(path.read_bytes()) in ({ord("a")}, {ord("b")}) and path.stat().st_size == 5000
    assert not left(tmp_path)


def test_a_part_swept_before_it_was_locked_is_made_again(tmp_path: Path, monkeypatch: Any) -> None:
    lock, seen = parts._lock, []

    def late(file: Any, wait: bool) -> bool:
        if wait and not seen:  # another writer comes between
            seen.append(file.name)
            parts._sweep(tmp_path, "c.")
        return lock(file, wait)

    monkeypatch.setattr(parts, "_lock", late)
    write(tmp_path / "c")
    assert seen and (tmp_path / "c").read_bytes() == b"whole" and not left(tmp_path)


def test_a_disk_without_locks_and_a_folder_that_cannot_be_listed(
    tmp_path: Path, monkeypatch: Any
) -> None:
    (tmp_path / f"c.{parts.HOST}-{'1' * 32}.part").write_bytes(b"")

    def refuse(*_: Any) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(parts.fcntl, "flock", refuse)
    write(tmp_path / "c")
    assert len(left(tmp_path)) == 1
    monkeypatch.setattr(os, "scandir", refuse)
    write(tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == b"whole"


def test_threads_of_one_process_do_not_sweep_each_other(tmp_path: Path) -> None:
    failed: list[Exception] = []

    def run() -> None:
        try:
            for _ in range(30):
                write(tmp_path / "c")
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and not left(tmp_path)

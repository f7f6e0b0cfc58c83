"""One attempt to read a file: how it ended, what ran, and the memory that it took."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crafted import MARK
from loaders import Loader

EVENTS = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.spawn",
          "socket.connect", "socket.getaddrinfo", "ctypes.dlopen")  # fmt: skip
ASKED = re.compile(r"MemoryError|bad_alloc|[cC]an't allocate|malloc of size|not enough memory")
SECONDS = 60


@dataclass
class Outcome:
    """How an attempt ended.

    Attributes:
        end: ``read``, the name of the library's own error, or ``foreign``.
        where: The chain of errors and the last line of the library: what tells two ends apart.
        ran: What happened that no reading does.
        memory: Bytes taken at the peak, and
        bound: bytes that may be taken; both 0 where the system does not say.
    """

    end: str
    where: str = ""
    ran: list[str] = field(default_factory=list)
    memory: int = 0
    bound: int = 0

    def fault(self) -> str:
        """What is wrong, or nothing."""
        if self.ran:
            return f"ran {self.ran}"
        if self.end == "foreign":
            return f"foreign error {self.where}"
        if ASKED.search(self.where):
            return f"asked for memory without end: {self.where}"
        if self.memory > self.bound:
            return f"took {self.memory >> 20} MB where {self.bound >> 20} are stated"
        return ""


class _Watch:
    """What Python reports of itself, while it is on."""

    def __init__(self) -> None:
        self.on, self.seen = False, list[str]()
        sys.addaudithook(self)

    def __call__(self, event: str, given: Any) -> None:
        if self.on and event in EVENTS:
            self.seen.append(f"{event} {given!r:.80}")


WATCH = _Watch()


def attempt(loader: Loader, content: bytes, folder: Path) -> Outcome:
    """Read a file, in a folder of its own that is the current one meanwhile."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    found = Outcome("read", bound=loader.bound(content))
    before = _status("VmRSS") if _forget_peak() else 0
    WATCH.seen = []
    with contextlib.chdir(folder), _timed():
        WATCH.on = True
        try:
            loader.read(folder, content)
        except loader.own as error:
            found.end, found.where = type(error).__name__, _where(error)
        except BaseException as error:
            found.end, found.where = "foreign", _where(error)
        finally:
            WATCH.on = False
        found.ran = list(WATCH.seen)
        if list(folder.rglob(f"{MARK}*")):
            found.ran.append("a payload")
    found.memory = max(_status("VmHWM") - before, 0) if before else 0
    return found


def _where(error: BaseException) -> str:
    chain: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in chain and len(chain) < 6:
        chain.append(one)
        one = one.__cause__ or one.__context__
    said = " < ".join(f"{type(e).__name__} {str(e)[:200]}" for e in chain)
    frames = [f for e in chain for f in traceback.extract_tb(e.__traceback__)]
    ours = [f"{Path(f.filename).name}:{f.lineno}" for f in frames if "distill_lib" in f.filename]
    return f"{said} @ {ours[-1] if ours else '?'}"


@contextlib.contextmanager
def _timed() -> Iterator[None]:
    def late(*_: Any) -> None:
        raise TimeoutError(f"more than {SECONDS} s")

    if not hasattr(signal, "SIGALRM"):
        yield
        return
    old = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)


def _forget_peak() -> bool:
    """Whether the system counts the peak anew from here."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _status(key: str) -> int:
    """A number of bytes from Linux's account of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    return 0


def limit(room: int) -> None:
    """So much more memory than now: what asks for more gets an error."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        most = _status("VmSize") + room
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        os.nice(5)

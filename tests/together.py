"""Several at once."""

from __future__ import annotations

import multiprocessing
import socket
import threading
from collections.abc import Callable, Sequence


def at_once(run: Callable[[int], object], count: int) -> None:
    """``run(0)``, ``run(1)``, … in threads that begin together; all have to come to an end."""
    together = threading.Barrier(count)

    def one(number: int) -> None:
        together.wait(60)
        run(number)

    threads = [threading.Thread(target=one, args=(k,)) for k in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)


def free_ports(count: int = 1) -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for free in sockets:
        free.bind(("127.0.0.1", 0))
    ports: list[int] = [free.getsockname()[1] for free in sockets]
    for free in sockets:
        free.close()
    return ports


def in_processes(
    work: Callable[..., object], args: Sequence[Sequence[object]], limit: float
) -> None:
    """``work(*args[0])``, ``work(*args[1])``, … in processes that end after so many seconds."""
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=work, args=tuple(each)) for each in args]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=limit)
        process.kill()

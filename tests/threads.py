"""Several at once."""

from __future__ import annotations

import threading
from collections.abc import Callable


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

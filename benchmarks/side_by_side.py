"""Two ways to do one job, timed in turns, so that a busy machine slows both alike."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

LEDGER = Path(__file__).resolve().parents[1] / "_build" / "bench.json"


@dataclass
class Result:
    """One line of the ledger; ``ratio`` above 1 means that ours is better."""

    name: str
    ratio: float
    ours: float
    peer: float
    peer_version: str
    unit: str
    bound: float | None = None

    def line(self) -> str:
        """The result as it is printed."""
        bar = "" if self.bound is None else f"   wanted ≥ {self.bound:.2f}"
        miss = "" if self.bound is None or self.ratio >= self.bound else "   MISSED"
        return (
            f"{self.name:58s} {self.ratio:6.2f}×   ours {self.ours:.4g} {self.unit}, "
            f"peer {self.peer:.4g} {self.unit} ({self.peer_version}){bar}{miss}"
        )


def compare(
    name: str,
    ours: Callable[[], object],
    peer: Callable[[], object],
    *,
    version: str,
    rounds: int = 7,
    bound: float | None = None,
    scale: float = 1.0,
) -> Result:
    """Run both in turns and compare their fastest rounds in seconds of processor time.

    The fastest round is the one that other work on the machine disturbed least.

    Args:
        name: What is compared.
        ours: Our way; everything that is not to be timed is done before.
        peer: The other way.
        version: Of the peer.
        rounds: Timed turns, after one untimed.
        bound: The ratio that is wanted.
        scale: The peer's time counts this many times (five runs against one of five seeds).
    """
    times: dict[str, list[float]] = {"ours": [], "peer": []}
    for turn in range(rounds + 1):
        order = [("ours", ours), ("peer", peer)]
        for who, job in order if turn % 2 else reversed(order):
            begun = time.process_time()
            job()
            if turn:
                times[who].append(time.process_time() - begun)
    best_ours, best_peer = min(times["ours"]), scale * min(times["peer"])
    return Result(name, best_peer / best_ours, best_ours, best_peer, version, "s", bound)


def write(results: list[Result]) -> None:
    """The ledger, in the form that the status page reads."""
    LEDGER.parent.mkdir(parents=True, exist_ok=True)
    rows = [{k: v for k, v in asdict(r).items() if v is not None} for r in results]
    LEDGER.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

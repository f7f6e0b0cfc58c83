"""Two ways to do one job, timed in turns, so that a busy machine slows both alike."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

PAIRS = 7  # at least
LEDGER = Path(__file__).resolve().parents[1] / "_build" / "bench.json"


@dataclass
class Result:
    """One line of the ledger; ``ratio`` above 1 means that ours is better.

    ``spread`` are the quartiles of the ratios of single pairs, and their number.
    """

    name: str
    ratio: float
    ours: float
    peer: float
    peer_version: str
    unit: str
    bound: float | None = None
    spread: tuple[float, float, int] | None = None

    def line(self) -> str:
        """The result as it is printed."""
        bar = "" if self.bound is None else f"   wanted ≥ {self.bound:.2f}"
        if self.spread is not None:
            low, high, pairs = self.spread
            bar += f"   quartiles {low:.2f} to {high:.2f} of {pairs} pairs"
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
    """Run both in turns, in pairs, and compare them in seconds of processor time.

    The ratio is the median of those of the pairs: what disturbs the machine meets both of a pair.

    Args:
        name: What is compared.
        ours: Our way; everything that is not to be timed is done before.
        peer: The other way.
        version: Of the peer.
        rounds: Timed pairs, at least 7, after one untimed.
        bound: The ratio that is wanted.
        scale: The peer's time counts this many times (five runs against one of five seeds).
    """
    pairs: list[tuple[float, float]] = []
    for turn in range(max(rounds, PAIRS) + 1):
        found = {}
        order = [("ours", ours), ("peer", peer)]
        for who, job in order if turn % 2 else reversed(order):
            begun = time.process_time()
            job()
            found[who] = time.process_time() - begun
        if turn:  # the first warms up
            pairs.append((found["ours"], scale * found["peer"]))
    ratios = sorted(theirs / mine for mine, theirs in pairs)
    low, middle, high = statistics.quantiles(ratios, n=4)
    mine, theirs = (statistics.median(times) for times in zip(*pairs, strict=True))
    spread = (low, high, len(pairs))
    return Result(name, middle, mine, theirs, version, "s", bound, spread)


def write(results: list[Result]) -> None:
    """The ledger, in the form that the status page reads."""
    LEDGER.parent.mkdir(parents=True, exist_ok=True)
    rows = [{k: v for k, v in asdict(r).items() if v is not None} for r in results]
    LEDGER.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

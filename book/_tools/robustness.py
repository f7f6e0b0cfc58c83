"""The page book/robustness.md, from what stress.py has kept in book/robustness/.

A claim is the same in all variations of a page by its place in the page; its words and its bound
are those of the page as built.
"""

from __future__ import annotations

import math
import re
import statistics
from pathlib import Path
from typing import Any

SIGNS = {">=": "≥", "<=": "≤", "==": "="}
HEAD = """\
(robustness)=
# Robustness

Would the claims of this book hold with other random seeds, or on another machine? Each page with
code is run again and again, a page and a variation at a time: with all of its seeds shifted, with
the arithmetic of other processors (PyTorch without vector instructions, and with AVX2 only), on two
threads, and beside two processes that never rest; where a page reads the reference of the Python
that runs it, also with another text. This page is written by `make stress` from these
runs, which are kept in the repository; a page runs again when its code or the library has changed,
its variations if that has moved a number of the page as built. The first table says which of these
runs of the page's present code have been made so far, and of how many the library was what it is
now, too (*all as now*).

How to read the tables: *seeds* is the mean and the standard deviation of the number, over the page
as built and its shifts. *Margin* is the distance of that mean from the bound in such standard
deviations; of a number of *times* that has to be large it is that of the logarithms, since ratios
are compared by ratios; a dash means that the number does not vary. *Flips* names the
variations in which the claim did not hold.

"""


def report(root: Path) -> int:
    """Write the page; returns the number of flips."""
    import bookcache
    from stress import AS_BUILT, is_done, variations

    sections, rows, flips = [], [], 0
    for path in bookcache.chapters(root):
        record = standing(root, path)
        built = record.get(AS_BUILT)
        if not built:
            continue
        claims = [Stressed(i, claim, record) for i, claim in enumerate(built["claims"])]
        flips += sum(len(claim.flips) for claim in claims)
        done = [name for name in variations() if name in record and not record[name]["error"]]
        shifts = sum(name.startswith("seeds") for name in done)
        margins = [claim.margin for claim in claims if math.isfinite(claim.margin)]
        title = bookcache.title(path)
        current = sum(is_done(record, root, path, name) for name in done)
        others = [n for n in done if not n.startswith("seeds") and n != AS_BUILT]
        rows.append(
            f"| {title} | {len(claims)} | {shifts} | {', '.join(others) or 'none yet'} "
            f"| {'all' if current == len(done) else f'{current} of {len(done)}'} "
            f"| {sum(len(c.flips) for c in claims)} | {sum(c.margin < 3 for c in claims)} "
            f"| {f'{min(margins):.1f}' if margins else '–'} |"
        )
        sections += [f"::::{{dropdown}} {title}", *table(claims), "::::", ""]
    head = [
        "| page | claims | seed shifts | other variations | all as now | flips | under 3 "
        "| least margin |",
        "|---|--:|--:|---|---|--:|--:|--:|",
        *rows,
        "",
    ]
    text = HEAD + "\n".join([*head, "## Every claim", "", *sections])
    (root / "book/robustness.md").write_text(text.rstrip() + "\n", encoding="utf-8")
    print(f"book/robustness.md: {flips} flips", flush=True)
    return flips


def standing(root: Path, path: Path) -> dict[str, Any]:
    """Without the runs of other code than the page has now: their claims may be others."""
    from stress import AS_BUILT, digest_of_code, load

    record = load(root, path)
    codes = {name: digest_of_code(path, name) for name in record}
    now = {name: run for name, run in record.items() if run["code"] == codes[name]}
    return now if AS_BUILT in now else {}


class Stressed:
    """A claim with its values under all variations."""

    def __init__(self, place: int, built: dict[str, Any], record: dict[str, Any]) -> None:
        self.built = built
        count = len(record["as built"]["claims"])
        complete = {n: r for n, r in record.items() if not r["error"] and len(r["claims"]) == count}
        self.values = {name: run["claims"][place]["value"] for name, run in complete.items()}
        self.flips = [name for name, value in self.values.items() if not self.holds(value)]
        seeded = [float(v) for n, v in self.values.items() if n == "as built" or n[:5] == "seeds"]
        self.seeded = seeded
        self.mean = statistics.fmean(seeded)
        self.spread = statistics.stdev(seeded) if len(seeded) > 1 else 0.0

    def holds(self, value: float) -> bool:
        bound, relation = self.built["bound"], self.built["relation"]
        if relation == "==":
            return abs(value - bound) <= self.built.get("tolerance", 0.0)
        return value >= bound if relation == ">=" else value <= bound

    @property
    def margin(self) -> float:
        """Standard deviations between the mean over seeds and the bound; infinite if none."""
        if self.spread <= 1e-9 * max(abs(self.mean), 1e-9):
            return math.inf
        bound, relation = self.built["bound"], self.built["relation"]
        if relation == "==":
            return (self.built.get("tolerance", 0.0) - abs(self.mean - bound)) / self.spread
        seeded = self.seeded
        ratio = relation == ">=" and re.search(r"\d times\b", self.built["text"])
        if ratio and min(*seeded, bound) > 0:
            seeded, bound = [math.log(value) for value in seeded], math.log(bound)
        above = (statistics.fmean(seeded) - bound) / statistics.stdev(seeded)
        return above if relation == ">=" else -above


def table(claims: list[Stressed]) -> list[str]:
    lines = ["| claim, as built | bound | seeds | least, most | margin | flips |"]
    lines.append("|---|---|---|---|--:|---|")
    for claim in claims:
        values = list(claim.values.values())
        bound = f"{SIGNS[claim.built['relation']]} {number(claim.built['bound'])}"
        if claim.built.get("tolerance"):
            bound += f" ± {number(claim.built['tolerance'])}"
        margin = f"{claim.margin:.1f}" if math.isfinite(claim.margin) else "–"
        cells = [
            re.sub(r"([|$_<{`*])", r"\\\1", claim.built["text"]),
            bound,
            f"{number(claim.mean)} ± {number(claim.spread)}",
            f"{number(min(values))}, {number(max(values))}",
            margin,
            ", ".join(claim.flips) or "–",
        ]
        lines.append("| " + " | ".join(cells).replace("-", "\u2011") + " |")
    return lines


def number(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,.4g}".replace("-", "\u2212")

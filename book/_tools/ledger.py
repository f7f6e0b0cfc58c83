"""Write _build/claims.json, costs.json and live.json from the executed chapters.

Ends with an error when a chapter has not been run with the present library, failed, ran for 0
seconds, or holds a claim that does not hold. Measurements of the machine are listed, never judged.

    python book/_tools/ledger.py [--root FOLDER]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bookcache

CLAIM_FIELDS = (
    *("kind", "text", "value", "relation", "bound", "tolerance", "seeds", "source", "holds"),
    "machine",
)
OPTIONAL = ("tolerance", "machine")
BUDGET = 100  # seconds of a chapter, alone on a quiet core; see CONTRIBUTING.md
WATTS = 15  # of the core that a chapter keeps busy: an assumption, that of what_teaching_costs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=bookcache.ROOT)
    root = parser.parse_args().root.resolve()
    claims, costs, problems = harvest(root)
    for name, rows in (("claims", claims), ("costs", costs), ("live", list(live(root)))):
        target = root / "_build" / f"{name}.json"
        target.parent.mkdir(exist_ok=True)
        text = json.dumps(rows, indent=1, ensure_ascii=False)
        target.write_text(text + "\n", encoding="utf-8")
    text = "".join(f"{problem}\n" for problem in problems)
    (root / "_build/problems.txt").write_text(text, encoding="utf-8")
    over = [f"{c['chapter']} {c['seconds']:.0f} s" for c in costs if c["seconds"] > BUDGET]
    if over:  # told, never judged: this machine may be slow, or busy with something else
        print(f"ledger: over the budget of {BUDGET} s on this machine: {', '.join(over)}")
    for problem in problems:
        print(f"ledger: {problem}", flush=True)
    judged = [claim["holds"] for claim in claims if claim["kind"] == "claim"]
    print(
        f"{sum(judged)} of {len(judged)} claims hold; {len(claims) - len(judged)} measurements of "
        f"this machine; {len(costs)} chapters were run.",
        flush=True,
    )
    return 1 if problems else 0


def harvest(root: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[str]]:
    """Claims, costs, and what is wrong with them, over the chapters in reading order."""
    cache, library = bookcache.open_cache(root), bookcache.library(root)
    claims: list[dict[str, Any]] = []
    costs: list[dict[str, Any]] = []
    problems: list[str] = []
    for path in bookcache.chapters(root):
        try:
            record, notebook = bookcache.executed(cache, path)
        except KeyError:
            problems.append(f"{path.stem} has not been executed; run book/_tools/execute.py.")
            continue
        if not bookcache.is_fresh(root, record, library):
            problems.append(f"{path.stem} was executed with another library or environment.")
        cost = cost_of(path.stem, record, notebook)
        if record.data.get("error"):
            problems.append(f"{path.stem} failed: {failed_cell(notebook)}")
        elif not cost["seconds"] > 0:
            problems.append(f"{path.stem} ran for 0 seconds: nothing in it was computed.")
        costs.append(cost)
        for claim in claims_of(path.stem, notebook, {claim["id"] for claim in claims}):
            claims.append(claim)
            if claim["kind"] == "claim" and claim["holds"] is not True:
                bound = f"{claim['relation']} {claim['bound']:g}"
                problems.append(f"{path.stem}: a claim does not hold ({bound}): {claim['text']}")
    return claims, costs, problems


def live(root: Path) -> Iterator[dict[str, Any]]:
    """Figures of chapters that other pages show, too."""
    cache = bookcache.open_cache(root)
    for path in bookcache.chapters(root):
        try:
            _, notebook = bookcache.executed(cache, path)
        except KeyError:
            continue
        for output in bookcache.outputs(notebook):
            shown = "".join(output.get("data", {}).get("text/html", ""))
            if 'class="dl-live"' in shown:
                yield {"chapter": path.stem, "html": shown}


def cost_of(chapter: str, record: Any, notebook: Any) -> dict[str, Any]:
    env = next(bookcache.bundles(notebook, bookcache.ENV), {})
    return {
        "chapter": chapter,
        "seconds": record.data.get("execution_seconds") or 0,
        "peak_rss_mb": record.data.get("peak_rss_mb"),
        "device": env.get("device", "cpu"),
        "profile": env.get("profile", "laptop"),
    }


def kwh(seconds: float) -> float:
    """Energy of an execution, if one core worked all the time."""
    return seconds * WATTS / 3.6e6


def failed_cell(notebook: Any) -> str:
    errors = [o for o in bookcache.outputs(notebook) if o["output_type"] == "error"]
    return f"{errors[0]['ename']}: {errors[0]['evalue']}" if errors else "its process ended"


def claims_of(chapter: str, notebook: Any, taken: set[str]) -> list[dict[str, Any]]:
    rows = []
    for bundle in bookcache.claims(notebook):
        fields = [f for f in CLAIM_FIELDS if f in bundle or f not in OPTIONAL]
        name, number = bundle["id"], 2
        while name in taken:  # one text claimed in a loop
            name, number = f"{bundle['id']}-{number}", number + 1
        taken.add(name)
        rows.append({"id": name, "chapter": chapter, **{f: bundle.get(f) for f in fields}})
    return rows


if __name__ == "__main__":
    raise SystemExit(main())

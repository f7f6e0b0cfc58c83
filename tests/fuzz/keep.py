"""The kept corpus: small files, one of each kind of outcome, with an index of all outcomes."""

from __future__ import annotations

import gzip
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

from loaders import LOADERS

CORPUS = Path(__file__).parent / "corpus"
FILES, EACH, TOTAL = 200, 4096, 300_000


def stored(content: bytes) -> bytes:
    """A file of the corpus is kept packed."""
    return gzip.compress(content, 9, mtime=0)


def read_index() -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads((CORPUS / "index.json").read_text())
    return found


def content_of(entry: dict[str, str]) -> bytes:
    return gzip.decompress((CORPUS / entry["file"]).read_bytes())


def keep(records: list[dict[str, Any]], content: Callable[[tuple[str, str]], bytes]) -> None:
    """Write the corpus anew."""
    for old in CORPUS.iterdir():
        old.unlink()
    index, total = [], 0
    for record in _chosen(records):
        loader, name = record["loader"], record["name"]
        data = stored(LOADERS[loader].whole if name == "whole" else content((loader, name)))
        if len(data) > EACH or len(index) == FILES or total + len(data) > TOTAL * 0.8:
            continue
        slug = re.sub(r"[^a-z0-9]+", "-", loader.lower()).strip("-")
        file = f"{slug}-{sum(e['loader'] == loader for e in index):02d}.gz"
        (CORPUS / file).write_bytes(data)
        total += len(data)
        index.append({"file": file, "loader": loader, "end": record["end"], "what": name})
    text = ",\n".join(json.dumps(entry) for entry in index)
    (CORPUS / "index.json").write_text(f"[\n{text}\n]\n")
    print(f"kept {len(index)} files of {total} bytes")


def _chosen(records: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Whole files, crafted ones, then mutants: of each loader in turn one of a new kind."""
    yield from ({"loader": loader, "name": "whole", "end": "read"} for loader in LOADERS)
    sound = [record for record in records if not record["fault"]]
    crafted = [record for record in sound if not re.match(r"\d+/", record["name"])]
    yield from (r for r in crafted if re.match("mkdir|code", r["name"]))
    yield from (r for r in crafted if not re.match("[A-Za-z.]+, ", r["name"]))
    yield from (r for r in crafted if re.match("pickle,|archive,", r["name"]))
    kinds: dict[tuple[str, ...], dict[str, Any]] = {}
    for record in sound:
        if re.match(r"\d+/", record["name"]):
            said = re.sub(r"/\S+|'[^']*'|\d+|[^\x00-\x7f]+", "", record["where"])[:160]
            line = record["where"].rpartition("@")[2]
            kinds.setdefault((record["loader"], record["end"], said, line), record)
    by_loader = defaultdict(list)
    for record in kinds.values():
        by_loader[record["loader"]].append(record)
    for row in zip_longest(*by_loader.values()):
        yield from (record for record in row if record is not None)

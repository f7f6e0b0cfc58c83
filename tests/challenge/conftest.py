"""The challenge is a folder of the repository and no part of the library: it is put on the path."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# and the tools of the fuzzer, and the directives and tools of the book
sys.path += [str(ROOT / folder) for folder in (".", "tests/fuzz", "book/_ext", "book/_tools")]

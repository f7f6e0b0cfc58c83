"""Files that somebody changed: by a bit, by some bytes, in their structure. The seeds are fixed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

NUMBERS = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 2**63, 10**30, 1.5, "", "x", "float32", [], {}, [[]], {"a": 1}, [2**40],
    [-1], [0, 10**12], float("nan"),
)  # fmt: skip


def flips(data: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """One bit is another, at so many places."""
    rnd = random.Random(seed)
    for _ in range(count):
        at, bit = rnd.randrange(len(data)), rnd.randrange(8)
        yield data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :]


def mutants(data: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """Bytes changed, cut out, put in, cut off, doubled; numbers that are too large."""
    for number in range(count):
        rnd = random.Random(f"{seed}/{number}")
        found = bytearray(data)
        for _ in range(rnd.choice([1, 1, 1, 2, 4, 16])):
            if found:
                _change(found, rnd)
        yield bytes(found)


def _change(data: bytearray, rnd: random.Random) -> None:
    how, at, n = rnd.randrange(7), rnd.randrange(len(data)), rnd.choice([1, 2, 4, 8])
    if how == 0:
        data[at] ^= 1 << rnd.randrange(8)
    elif how == 1:
        data[at] = rnd.randrange(256)
    elif how == 2:
        del data[at : at + rnd.choice([1, 2, 8, 100])]
    elif how == 3:
        data[at:at] = rnd.randbytes(rnd.choice([1, 4, 30]))
    elif how == 4:
        del data[at:]
    elif how == 5:
        number = rnd.choice(NUMBERS) % 2 ** (8 * n)
        data[at : at + n] = number.to_bytes(n, rnd.choice(["little", "big"]))  # type: ignore[arg-type]
    else:
        other = rnd.randrange(len(data))
        data[at : at + 8 * n] = data[other : other + 8 * n]


def odd_json(value: Any, rnd: random.Random) -> Any:
    """The same JSON, with something else somewhere."""
    if rnd.random() < 0.2 or not isinstance(value, (dict, list)) or not value:
        return rnd.choice(ODD)
    if isinstance(value, list):
        at = rnd.randrange(len(value))
        return [*value[:at], odd_json(value[at], rnd), *value[at + 1 :]]
    key = rnd.choice(list(value))
    rest = {k: v for k, v in value.items() if k != key}
    if rnd.random() < 0.15:
        return rest
    if rnd.random() < 0.15:
        return {**rest, rnd.choice(["", "a", "../x", f"{key}x"]): value[key]}
    return {**value, key: odd_json(value[key], rnd)}

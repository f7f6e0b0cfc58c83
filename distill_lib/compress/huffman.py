"""Huffman codes: lengths, bits, and back. Only lengths are stored, since the code is canonical."""

from __future__ import annotations

import heapq
import itertools

import numpy as np
from numpy.typing import NDArray

from distill_lib.arguments import told

__all__ = ["decode", "encode", "huffman_bits", "lengths_of"]

LONGEST = 16  # bits of a code word, so that a table of all words stays small
BLOCK = 1 << 20

Ints = NDArray[np.int64]


def lengths_of(counts: Ints) -> Ints:
    r"""How many bits each symbol gets; the shortest prefix code for these counts.

    .. math:: H \le \sum_i p_i \ell_i < H + 1, \qquad \sum_i 2^{-\ell_i} \le 1

    Args:
        counts: [k] how often each symbol occurs; those that do not occur get 0 bits.

    Returns:
        [k] lengths, at most 16. A symbol that is alone needs no bits at all.

    Reference:
        Huffman, *A method for the construction of minimum-redundancy codes*, 1952.

    Example:
        >>> lengths_of(np.array([5, 1, 2, 0]))
        array([1, 2, 2, 0])
    """
    lengths = np.zeros(len(counts), dtype=np.int64)
    used = np.flatnonzero(counts)
    if len(used) < 2:
        return lengths
    if len(used) > 1 << LONGEST:
        raise ValueError(f"Huffman codes here have at most {1 << LONGEST} symbols, got {len(used)}")
    weights = counts[used].astype(np.int64)
    while True:
        found = _tree(weights)
        if found.max() <= LONGEST:
            break
        weights = (weights + 1) // 2  # flatter counts give a flatter tree
    lengths[used] = found
    return lengths


def _tree(weights: Ints) -> Ints:
    """The depth of each leaf of the Huffman tree."""
    n = len(weights)
    parent = np.zeros(2 * n - 1, dtype=np.int64)
    heap = [(int(w), i) for i, w in enumerate(weights)]
    heapq.heapify(heap)
    for node in range(n, 2 * n - 1):
        a, b = heapq.heappop(heap), heapq.heappop(heap)
        parent[a[1]] = parent[b[1]] = node
        heapq.heappush(heap, (a[0] + b[0], node))
    depth = np.zeros(2 * n - 1, dtype=np.int64)
    for node in range(2 * n - 3, -1, -1):
        depth[node] = depth[parent[node]] + 1
    return depth[:n]


def huffman_bits(codes: Ints) -> int:
    """The length of a sequence of small non-negative integers under its own Huffman code, in bits.

    Example:
        >>> huffman_bits(np.array([0, 0, 0, 0, 0, 1, 2, 2]))
        11
    """
    found = np.asarray(codes)
    if not found.size:
        return 0
    if found.dtype.kind not in "iub" or found.min() < 0:
        raise TypeError(f"codes expected an array of whole numbers from 0, got {told(codes)}")
    counts = np.bincount(found.reshape(-1))
    return int(counts @ lengths_of(counts))


def _words(lengths: Ints) -> Ints:
    """The canonical code word of each symbol: counted upwards in the order of (length, symbol)."""
    words = np.zeros(len(lengths), dtype=np.int64)
    used = np.flatnonzero(lengths)
    order = used[np.lexsort((used, lengths[used]))]
    word = 0
    for before, symbol in itertools.pairwise([None, *order.tolist()]):
        if before is not None:
            word = (word + 1) << int(lengths[symbol] - lengths[before])
        words[symbol] = word
    return words


def encode(codes: Ints, lengths: Ints) -> bytes:
    """The code words of a sequence, one after the other, in whole bytes."""
    words, parts = _words(lengths), []
    for start in range(0, len(codes), BLOCK):
        block = codes[start : start + BLOCK]
        size = lengths[block]
        ends = size.cumsum()
        place = np.arange(int(ends[-1])) - np.repeat(ends - size, size)
        shift = np.repeat(size, size) - 1 - place
        parts.append((np.repeat(words[block], size) >> shift & 1).astype(np.uint8))
    return np.packbits(np.concatenate(parts)).tobytes() if parts else b""


def decode(data: bytes, lengths: Ints, count: int) -> Ints:
    """The sequence again.

    Args:
        data: What :func:`encode` gave.
        lengths: [k] bits of each symbol.
        count: How many symbols to read.

    Raises:
        ValueError: lengths that are no code, bits that are no word of it, or data that ends too
            early.

    Example:
        >>> codes = np.array([2, 0, 0, 1])
        >>> lengths = lengths_of(np.bincount(codes))
        >>> decode(encode(codes, lengths), lengths, 4)
        array([2, 0, 0, 1])
    """
    used = np.flatnonzero(lengths)
    if not len(used):  # one symbol, without bits
        return np.zeros(count, dtype=np.int64)
    longest = int(lengths.max())
    if longest > LONGEST or lengths.min() < 0 or (0.5 ** lengths[used]).sum() > 1:
        raise ValueError("these lengths are not those of a Huffman code")
    symbol_at = np.zeros(1 << longest, dtype=np.int64)
    size_at = np.zeros(1 << longest, dtype=np.int64)
    for symbol, word in zip(used, _words(lengths)[used], strict=True):
        room = longest - int(lengths[symbol])
        symbol_at[word << room : (word + 1) << room] = symbol
        size_at[word << room : (word + 1) << room] = lengths[symbol]
    bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8))
    total = len(bits)
    bits = np.concatenate([bits, np.zeros(longest, dtype=np.uint8)])
    found: list[Ints] = []
    at, read = 0, 0
    while read < count:
        if at >= total:
            raise ValueError(f"the data ends after {read} of {count} symbols")
        # the word that would begin at each bit; the walk below tells where words do begin
        span = min(BLOCK, total - at)
        seen = np.zeros(span, dtype=np.int64)
        for j in range(longest):
            seen = seen << 1 | bits[at + j : at + j + span]
        sizes, p = size_at[seen].tolist(), 0
        starts: list[int] = []
        while p < span and read + len(starts) < count:
            if not sizes[p]:
                raise ValueError(f"the bits after {read + len(starts)} symbols are no code word")
            starts.append(p)
            p += sizes[p]
        found.append(symbol_at[seen[starts]])
        read += len(starts)
        at += p
    if at > total:
        raise ValueError(f"the data ends within the last of {count} symbols")
    return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)

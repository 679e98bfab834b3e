"""Whether a seal may have something of a name: a Bloom filter (Bloom, *Space/time trade-offs in hash coding*, 1970).

A question goes to all seals there are, and nearly all of them have nothing. Ten bits a name answer that without opening a file of
Parquet; one seal in a hundred is opened in vain. The bits are those of Kirsch and Mitzenmacher, *Less hashing, same performance*
(2006): two hashes make all of them. Pure.
"""

from __future__ import annotations

from collections.abc import Collection
from hashlib import blake2b
from mmap import mmap

MAGIC = b"crossfoot names 1\n"
BITS_A_NAME = 10
HASHES = 7


def filter_of(names: Collection[str]) -> bytes:
    """The file of a set of names."""
    size = max(64, BITS_A_NAME * len(names))
    bits = bytearray(-(-size // 8))
    for name in names:
        for place in _places(name, size):
            bits[place >> 3] |= 1 << (place & 7)
    return MAGIC + size.to_bytes(8, "big") + bytes(bits)


def may_have(data: bytes | mmap, name: str) -> bool:
    """Whether the name may be in it; never false where it is.

    Raises:
        ValueError: this is no such file.
    """
    head = len(MAGIC) + 8
    size = int.from_bytes(data[len(MAGIC) : head], "big")
    if data[: len(MAGIC)] != MAGIC or len(data) != head + -(-size // 8):
        raise ValueError("this is no file of names")
    return all(data[head + (place >> 3)] & (1 << (place & 7)) for place in _places(name, size))


def _places(name: str, size: int) -> list[int]:
    digest = blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    first, step = int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big") | 1
    return [(first + number * step) % size for number in range(HASHES)]

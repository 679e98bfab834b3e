"""Whether a seal may have something of a name: a Bloom filter (Bloom, *Space/time trade-offs in hash coding*, 1970).

A question goes to all seals there are, and nearly all of them have nothing. Ten bits a name answer that without opening a file of
Parquet; one seal in a hundred is opened in vain. The bits are those of Kirsch and Mitzenmacher, *Less hashing, same performance*
(2006): two hashes make all of them. Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
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
        first, step = hashes(name)
        for place in [(first + number * step) % size for number in range(HASHES)]:
            bits[place >> 3] |= 1 << (place & 7)
    return MAGIC + size.to_bytes(8, "big") + bytes(bits)


def may_have(data: bytes | mmap, name: str) -> bool:
    """Whether the name may be in it; never false where it is.

    Raises:
        ValueError: this is no such file.
    """
    return bool(among(data, {name: hashes(name)}))


def among(data: bytes | mmap, names: Mapping[str, tuple[int, int]]) -> list[str]:
    """Those of the names that may be in it, which is nearly none: most are known to be absent by one or two bits.

    Args:
        names: with their `hashes`, which are the same for all files.

    Raises:
        ValueError: this is no such file.
    """
    head = len(MAGIC) + 8
    size = int.from_bytes(data[len(MAGIC) : head], "big")
    if data[: len(MAGIC)] != MAGIC or len(data) != head + -(-size // 8):
        raise ValueError("this is no file of names")
    found = []
    for name, (first, step) in names.items():
        for number in range(HASHES):
            place = (first + number * step) % size
            if not data[head + (place >> 3)] & (1 << (place & 7)):
                break
        else:
            found.append(name)
    return found


def hashes(name: str) -> tuple[int, int]:
    """The two of which all places of a name are made."""
    digest = blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big") | 1

"""An order-free fingerprint of a set of messages, so that books are compared by identity and not by count.

One loss and one duplicate balance a count; they do not balance a sum of hashes. The digest of a set is the sum of its
members' hashes (Bellare and Micciancio, *A new paradigm for collision-free hashing*, 1997: AdHash), kept as two lanes
of 32 bits that are added in 64-bit integers: any SQL database can add and subtract them with plain SUM, two billion
messages per bucket fit without overflow, and two books are merged by adding their lanes. Two different sets agree by
chance once in 2^64.
"""

from __future__ import annotations

from hashlib import blake2b

import msgspec


def lanes(identity: str) -> tuple[int, int]:
    """The two 32-bit lanes of one message's identity (`source|id`)."""
    digest = blake2b(identity.encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "big"), int.from_bytes(digest[4:], "big")


class Tally(msgspec.Struct, frozen=True):
    """How many messages, and which: a count with a digest."""

    count: int = 0
    d0: int = 0
    d1: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.count + other.count, self.d0 + other.d0, self.d1 + other.d1)

    def __sub__(self, other: Tally) -> Tally:
        return Tally(self.count - other.count, self.d0 - other.d0, self.d1 - other.d1)

    def __bool__(self) -> bool:
        """False only for the tally of the empty set."""
        return bool(self.count or self.d0 or self.d1)

    @property
    def digest(self) -> str:
        """The digest as sixteen hexadecimal digits."""
        return f"{self.d0 % 2**32:08x}{self.d1 % 2**32:08x}"


EMPTY = Tally()


def tally_of(identity: str) -> Tally:
    return Tally(1, *lanes(identity))

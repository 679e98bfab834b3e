"""The embedded queue's statements by name, and the ones that ride in a caller's own transaction.

They are plain text because they run through whatever SQLite driver holds the transaction (`?` parameters). The hot ones
name their index: a plan made from statistics of an idle moment (the queue was empty when somebody ran ANALYZE) would
read the whole table later.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from crossfoot.clock import Micros, micros
from crossfoot.errors import MessageTooLarge, UsageError
from crossfoot.queues.queue import Outgoing, Refused

Value = str | bytes | int | None
Statement = tuple[str, tuple[Value, ...]]
"""SQL with `?` and its parameters."""

VOID = "--------------------"
"""The token of a row nobody leases. As wide as a real one, see `tables`."""

CENTURY = 3_200_000_000
"""Seconds. The longest delay or lease: beyond it is a mistake, not an intention."""


INSERT = """
INSERT INTO crossfoot_queue (state, attempts, enqueued_at, visible_at, changed_at, expires_at, token,
  queue, message, partition, attributes, body)
VALUES (CASE WHEN ? IS NULL THEN 0 ELSE EXISTS (
    SELECT 1 FROM crossfoot_queue INDEXED BY crossfoot_queue_line WHERE queue = ? AND partition = ? AND state < 2) END,
  0, ?, ?, ?, ?, '--------------------', ?, ?, ?, ?, ?)
"""

COUNT_ACCEPTED = """
INSERT INTO crossfoot_queue_counts (queue, accepted) VALUES (?, ?)
ON CONFLICT (queue) DO UPDATE SET accepted = accepted + excluded.accepted
"""

START_COUNTING = "INSERT INTO crossfoot_queue_counts (queue) VALUES (?) ON CONFLICT (queue) DO NOTHING"

READ_COUNTS = "SELECT accepted, acked, removed, dead, expired FROM crossfoot_queue_counts WHERE queue = ?"

LOOK = """
SELECT 1 FROM crossfoot_queue INDEXED BY crossfoot_queue_claim
WHERE queue = ? AND state = 0 AND visible_at <= ? LIMIT 1
"""

LOOK_FOR_EXPIRED = """
SELECT 1 FROM crossfoot_queue INDEXED BY crossfoot_queue_expiry
WHERE queue = ? AND state < 2 AND expires_at <= ? AND (token = '--------------------' OR visible_at <= ?) LIMIT 1
"""
"""What is to be set aside may make way for its successor, which a claim can then take at once."""

OLDEST = """
SELECT visible_at FROM crossfoot_queue INDEXED BY crossfoot_queue_claim
WHERE queue = ? AND state = 0 AND visible_at <= ? ORDER BY visible_at LIMIT 1
"""

CLAIM = """
UPDATE crossfoot_queue SET attempts = attempts + 1, token = ?, visible_at = ?, changed_at = ?
WHERE key IN (
  SELECT key FROM crossfoot_queue INDEXED BY crossfoot_queue_claim
  WHERE queue = ? AND state = 0 AND visible_at <= ? ORDER BY visible_at, key LIMIT ?)
RETURNING key, attempts, enqueued_at, attributes, body
"""

ACK = "DELETE FROM crossfoot_queue WHERE key = ? AND token = ?"

RELEASE_TO_ITS_PLACE = """
UPDATE crossfoot_queue SET visible_at = min(enqueued_at, ?), changed_at = ?, token = '--------------------'
WHERE key = ? AND token = ?
"""

RELEASE_LATER = """
UPDATE crossfoot_queue SET visible_at = ?, changed_at = ?, token = '--------------------' WHERE key = ? AND token = ?
"""

EXTEND = "UPDATE crossfoot_queue SET visible_at = ?, changed_at = ? WHERE key = ? AND token = ?"

BURY = """
UPDATE crossfoot_queue SET state = 2, expires_at = NULL, token = '--------------------', changed_at = ?, dead_reason = ?
WHERE key = ? AND token = ?
"""

BURY_WORN_OUT = """
UPDATE crossfoot_queue
SET state = 2, expires_at = NULL, token = '--------------------', changed_at = ?, dead_reason = ?, attempts = attempts - 1
WHERE key = ?
"""

EXPIRE = """
UPDATE crossfoot_queue SET state = 3, expires_at = NULL, token = '--------------------', changed_at = ?
WHERE key IN (
  SELECT key FROM crossfoot_queue INDEXED BY crossfoot_queue_expiry
  WHERE queue = ? AND state < 2 AND expires_at <= ? AND (token = '--------------------' OR visible_at <= ?)
  ORDER BY expires_at LIMIT ?)
"""

PURGE = "DELETE FROM crossfoot_queue WHERE key = ? AND state = 3"

FORGET_DEAD = "DELETE FROM crossfoot_queue WHERE key = ? AND queue = ? AND state = 2"

AHEAD_OF_TIME = """
SELECT 1 FROM crossfoot_queue INDEXED BY crossfoot_queue_claim
WHERE queue = ? AND state = 0 AND visible_at > ? AND changed_at > ? LIMIT 1
"""

BEGIN_WAITS_ANEW = """
UPDATE crossfoot_queue SET visible_at = ? + visible_at - changed_at, changed_at = ?
WHERE queue = ? AND state < 2 AND visible_at > ? AND changed_at > ?
"""

DEPTH = """
SELECT
  (SELECT count(*) FROM crossfoot_queue INDEXED BY crossfoot_queue_claim
    WHERE queue = :queue AND state = 0 AND visible_at <= :now),
  (SELECT coalesce(sum(others), 0) FROM (
    SELECT count(*) - 1 AS others FROM crossfoot_queue INDEXED BY crossfoot_queue_line
    WHERE queue = :queue AND partition IS NOT NULL AND state < 2 GROUP BY partition)),
  hidden.all_of_them, hidden.leased,
  (SELECT count(*) FROM crossfoot_queue INDEXED BY crossfoot_queue_dead
    WHERE queue = :queue AND state = 2),
  overdue.all_of_them, overdue.hidden
FROM (
    SELECT count(*) AS all_of_them, coalesce(sum(token <> '--------------------'), 0) AS leased
    FROM crossfoot_queue INDEXED BY crossfoot_queue_claim
    WHERE queue = :queue AND state = 0 AND visible_at > :now) AS hidden,
  (
    SELECT count(*) AS all_of_them, coalesce(sum(state = 0 AND visible_at > :now), 0) AS hidden
    FROM crossfoot_queue INDEXED BY crossfoot_queue_expiry
    WHERE queue = :queue AND state < 2 AND expires_at <= :now
      AND (token = '--------------------' OR visible_at <= :now)) AS overdue
"""

PAGE_OF_HELD = """
SELECT key, attempts, enqueued_at, attributes, body FROM crossfoot_queue NOT INDEXED
WHERE queue = ? AND state < 2 AND key > ?
  AND (expires_at IS NULL OR expires_at > ? OR (token <> '--------------------' AND visible_at > ?))
ORDER BY key LIMIT ?
"""

PAGE_OF_DEAD = """
SELECT key, attempts, enqueued_at, attributes, body FROM crossfoot_queue INDEXED BY crossfoot_queue_dead
WHERE queue = ? AND state = 2 AND key > ? ORDER BY key LIMIT ?
"""

PAGE_OF_EXPIRED = """
SELECT key, attempts, enqueued_at, attributes, body FROM crossfoot_queue INDEXED BY crossfoot_queue_expired
WHERE queue = ? AND state = 3 ORDER BY key LIMIT ?
"""


class Statements(msgspec.Struct, frozen=True, kw_only=True):
    """What one queue writes, as statements: pure, so they can be executed in any transaction on the queue's file.

    Of those that take a receipt, a row count of 1 means done, 0 means that the receipt is void: the message was
    delivered again, settled, or forgotten.
    """

    queue: str
    retention: float | None
    max_bytes: int
    ordered: bool

    def check(self, message: Outgoing) -> None:
        """Can this queue take `message`?

        Raises:
            MessageTooLarge: it is over `max_bytes`.
            UsageError: its delay or its text can never be stored.
        """
        size = _size(message)
        if size > self.max_bytes:
            raise MessageTooLarge(
                f"message {message.key} is {size} bytes with its attributes, and queue {self.queue} takes at most "
                f"{self.max_bytes}: store the data elsewhere and send where it is, or raise the queue's max_bytes"
            )
        longest = seconds(message.delay, f"the delay of message {message.key}")
        if self.retention is not None and longest > self.retention:
            raise UsageError(
                f"message {message.key} is delayed by {message.delay} s, and queue {self.queue} forgets after "
                f"{self.retention} s: it would be gone before its first delivery"
            )

    def refusal(self, message: Outgoing) -> Refused | None:
        """`check` as an answer: why this queue can never take `message`."""
        try:
            self.check(message)
        except (MessageTooLarge, UsageError) as error:
            return Refused(message.key, str(error), permanent=True)
        return None

    def row(self, message: Outgoing, now: Micros) -> tuple[Value, ...]:
        """The parameters of `INSERT`."""
        line = message.partition if self.ordered else None
        visible = now + micros(message.delay)
        expires = None if self.retention is None else now + micros(self.retention)
        attributes = msgspec.json.encode(message.attributes).decode() if message.attributes else None
        return (
            line, self.queue, line, now, visible, now, expires,
            self.queue, message.key, line, attributes, message.body,
        )  # fmt: skip

    def publish(self, messages: Sequence[Outgoing], now: Micros) -> list[Statement]:
        """Publish inside the caller's transaction: the messages are in the queue when it commits.

        Raises:
            MessageTooLarge: one of them is over `max_bytes`.
            UsageError: the delay or the text of one can never be stored.
        """
        for message in messages:
            self.check(message)
        inserts: list[Statement] = [(INSERT, self.row(message, now)) for message in messages]
        return [*inserts, (COUNT_ACCEPTED, (self.queue, len(messages)))] if inserts else []

    def ack(self, receipt: str) -> Statement:
        return ACK, split(receipt)

    def release(self, receipt: str, now: Micros, delay: float = 0.0) -> Statement:
        """Without a delay the message goes back to its old place, not behind those that came after it."""
        if seconds(delay, f"a delay in queue {self.queue}") == 0:
            return RELEASE_TO_ITS_PLACE, (now, now, *split(receipt))
        return RELEASE_LATER, (now + micros(delay), now, *split(receipt))

    def extend(self, receipt: str, now: Micros, lease: float) -> Statement:
        return EXTEND, (now + micros(seconds(lease, f"a lease in queue {self.queue}")), now, *split(receipt))

    def dead_letter(self, receipt: str, now: Micros, reason: str) -> Statement:
        return BURY, (now, reason.encode("utf-8", "replace").decode(), *split(receipt))


def receipt_of(key: int, token: str) -> str:
    return f"{key}.{token}"


def split(receipt: str) -> tuple[int, str]:
    """Key and token. What is no receipt of ours gives a pair no row has."""
    key, _, token = receipt.partition(".")
    if not (key.isascii() and key.isdecimal() and len(key) < 19) or token == VOID:
        return -1, ""
    return int(key), token


def seconds(duration: float, what: str) -> float:
    """`duration` itself, when it is one.

    Raises:
        UsageError: it is negative, no number, or longer than a century.
    """
    if not 0 <= duration <= CENTURY:
        raise UsageError(f"{what} must be between 0 and {CENTURY} seconds, not {duration}")
    return duration


def _size(message: Outgoing) -> int:
    """Bytes of the body and the attributes."""
    try:
        message.key.encode()
        (message.partition or "").encode()
        return len(message.body) + sum(len(k.encode()) + len(v.encode()) for k, v in message.attributes.items())
    except UnicodeEncodeError as error:
        raise UsageError(f"message {message.key!r} holds text that has no UTF-8 form: {error}") from error

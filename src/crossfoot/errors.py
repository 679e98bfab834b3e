"""Every error crossfoot raises, in one tree. Each says what happened, to what, and what to do next.

CrossfootError
├── UsageError                 wrong use: the program or its settings must change
│   ├── UnknownSetting
│   ├── HandlerConflict
│   ├── TransactionMisuse
│   ├── PublishRefused
│   └── ReplayRefused
├── Unavailable                a server, file or disk that cannot be used right now
│   ├── QueueUnavailable
│   │   └── QueueMissing
│   ├── DatabaseUnavailable
│   ├── Conflict
│   ├── DiskFull
│   ├── SchemaMismatch
│   └── ArchiveUnavailable
│       └── ArchiveBroken
├── MessageError               one message is the matter
│   ├── EnvelopeInvalid
│   ├── PayloadInvalid
│   ├── UnknownType
│   ├── MessageTooLarge
│   ├── MessageExpired
│   ├── NotDiscarded
│   └── NotFound
├── DeliveryError              one delivery did not end in an effect
│   ├── NoProof
│   ├── LeaseLost
│   ├── DeadlineExceeded
│   ├── HandlerBusy
│   ├── CommitInDoubt
│   ├── HandlerQuit
│   └── WornOut
└── FlowError                  bounded work: it was refused, or did not end within its bounds; has an HTTP status
    ├── Expired                504, and a TimeoutError
    ├── Rejected               429
    │   └── Overloaded         503
    ├── InDoubt                500
    └── WireInvalid            400
"""

from __future__ import annotations


class CrossfootError(Exception):
    """The root: catch it to catch all of ours."""


class UsageError(CrossfootError):
    """The program or its settings must change; trying again will not help."""


def missing_extra(what: str, extra: str) -> UsageError:
    """What to say where a client is not installed. Crossfoot is on no package index: extras come from where it came from."""
    return UsageError(
        f"{what} needs the extra `{extra}`: pip install '/path/to/crossfoot[{extra}]', from where crossfoot itself was installed; "
        "inside a clone, make setup brings all of them"
    )


class UnknownSetting(UsageError):
    """A setting nobody knows; the message names the nearest known one."""


class HandlerConflict(UsageError):
    """Two handlers claim the same message type on the same queue."""


class TransactionMisuse(UsageError):
    """A handler committed, rolled back or closed the transaction that crossfoot owns."""


class PublishRefused(UsageError):
    """The queue cannot be used as it is named or set. Nothing was sent, and the book says *refused* of the messages.

    Attributes:
        refused: ids of the messages that were refused.
    """

    refused: tuple[str, ...] = ()


class ReplayRefused(UsageError):
    """A replay that cannot be planned or run as it stands; nothing was moved."""


class Unavailable(CrossfootError):
    """Something outside this process cannot be used now; nothing was acked."""


class QueueUnavailable(Unavailable):
    """The queue did not answer, or refused us.

    Attributes:
        kept: ids of messages that were to be published and are in the book: they will be sent by whoever relays for the service.
    """

    kept: tuple[str, ...] = ()


class QueueMissing(QueueUnavailable):
    """Its server answers, and has no such queue: the name is wrong, or it was not made yet, or it was removed."""


class DatabaseUnavailable(Unavailable):
    """The book's database cannot be opened, read or written."""


class DiskFull(DatabaseUnavailable):
    """The disk is full; the worker stops before any further ack."""


class Conflict(DatabaseUnavailable):
    """The database undid a transaction of the book's for the sake of another one, or would not wait longer for that; nothing of it
    was kept."""


class SchemaMismatch(DatabaseUnavailable):
    """The book's tables are of another version of crossfoot than this one, or are not there.

    See `not_all_there` for what is told of the latter.
    """


class ArchiveUnavailable(Unavailable):
    """The folder with the archive cannot be read or written."""


class ArchiveBroken(ArchiveUnavailable):
    """A file of the archive is missing, or is not what was sealed."""


def not_all_there(where: str, text: str) -> SchemaMismatch:
    """What to say where a table of the book is missing.

    Args:
        where: the file or database, as people may see it.
        text: what the database said of it.
    """
    return SchemaMismatch(
        f"the book in {where} is not all there ({text}): its tables were removed, or this user is led to other ones (search_path). Stop "
        "the service's workers and restore them from a backup; where nothing is left of the book, `crossfoot worker MODULE:NAME` "
        "makes a new one, without what the old one knew"
    )


class MessageError(CrossfootError):
    """One message is the matter."""


class EnvelopeInvalid(MessageError):
    """The bytes are not a CloudEvents 1.0 event."""


class PayloadInvalid(MessageError):
    """The payload does not fit the type the handler declared.

    Attributes:
        path: where in the payload, as `$.items[3].price`.
        reason: what is wrong there, without the value.
    """

    def __init__(self, path: str, reason: str, *, of: str = "") -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"payload{' of ' + of if of else ''} is invalid at {path}: {reason}")


class IdentityTaken(MessageError):
    """Another message bears the same source and id (CloudEvents 1.0: together they name one event)."""


class UnknownType(MessageError):
    """No handler of this version takes the message's type."""


class MessageTooLarge(MessageError):
    """The encoded message is over the queue's limit."""


class MessageExpired(MessageError):
    """The message's own time is over; nobody wants it any more."""


class NotDiscarded(MessageError):
    """The message cannot be taken back: it has ended, its queue has it, or it is being sent just now."""


class NotFound(MessageError):
    """No message, subject, correlation id or operation of that name is in the book."""


class DeliveryError(CrossfootError):
    """One delivery did not end in an effect."""


class NoProof(DeliveryError):
    """The handler returned, but nothing shows that it did its work."""


class LeaseLost(DeliveryError):
    """Somebody else may hold the message by now; this delivery must not commit.

    Attributes:
        counts: whether it counts against the message; not where another one's handler is known to have cost it its lease.
    """

    counts: bool = True


class DeadlineExceeded(DeliveryError):
    """The handler ran longer than it was given."""


class HandlerBusy(DeliveryError):
    """The handler's limit had no permit in time: it was not begun, and the message is handed back.

    Attributes:
        retry_after: seconds after which there may be one.
    """

    def __init__(self, text: str, retry_after: float) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class CommitInDoubt(DeliveryError):
    """The commit's answer was lost; the operation key decides what happened."""


class HandlerQuit(DeliveryError):
    """The handler raised what would end its process or its task, and not only its delivery: that is not its to decide."""


class WornOut(DeliveryError):
    """Delivered again and again, and no delivery came to an end: worker after worker died with it."""


class FlowError(CrossfootError):
    """Bounded work was refused, or did not end within its bounds.

    Attributes:
        status: what it means to an HTTP client (RFC 9110, RFC 6585).
        retry_after: seconds after which the same request may be worth repeating; nothing where that is unknown.
    """

    status: int = 500
    retry_after: float | None = None


class Expired(FlowError, TimeoutError):
    """A deadline passed: the work was stopped, or not begun."""

    status = 504


class Rejected(FlowError):
    """Refused before it was begun: nothing happened, and it may be asked again."""

    status = 429

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Overloaded(Rejected):
    """Refused because this service has no room, whoever asks."""

    status = 503


class InDoubt(FlowError):
    """It was asked for, and no answer came: it may have happened. Look it up before it is asked for again."""


class WireInvalid(FlowError):
    """A deadline or a hint that came over the wire cannot be read."""

    status = 400

"""Log records as JSON objects, and which message they are about.

What a handler logs, by whatever logger, is about the message in its hands. That is known by a context variable: where the
handler starts threads of its own, they know it if they are given a copy of its context (`contextvars.copy_context()`).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from crossfoot.effects.work import Work, in_handler
from crossfoot.message import Message, valid_traceparent
from crossfoot.tracing.provider import current_ids

if TYPE_CHECKING:
    from crossfoot.worker.held import Held

ABOUT = "crossfoot"
"""The attribute of a record under which these facts lie."""

_ORDINARY = frozenset((*vars(logging.makeLogRecord({})), "message", "asctime", "taskName", ABOUT))
_KNOWN = frozenset(
    (
        "message_id",
        "source",
        "type",
        "subject",
        "queue",
        "operation",
        "handler",
        "attempt",
        "messages",
        "trace_id",
        "span_id",
        "worker",
    )
)
_json = msgspec.json.Encoder(enc_hook=str)


def about(held: Held) -> dict[str, Mapping[str, Any]]:
    """The `extra` of a record about a delivery."""
    if held.message is None or held.hold is None:
        return {ABOUT: {"message_id": held.delivery.broker_id, "attempt": held.attempt}}
    operation = held.work.operation if held.work is not None else None
    handler = held.handler.name if held.handler is not None else None
    return {ABOUT: _facts(held.message, held.hold.queue, held.attempt, operation, handler)}


def _about(work: Work) -> dict[str, Any]:
    hold = work.hold
    if work.beside:
        return {"queue": hold.queue, "handler": work.handler.name, "messages": work.beside + 1}
    return _facts(work.message, hold.queue, hold.attempt, work.operation, work.handler.name)


def _facts(message: Message, queue: str, attempt: int, operation: str | None, handler: str | None) -> dict[str, Any]:
    traceparent = message.traceparent
    return {
        "message_id": message.id, "source": message.source, "type": message.type, "subject": message.subject,
        "queue": queue, "operation": operation, "handler": handler, "attempt": attempt,
        "trace_id": traceparent[3:35] if traceparent is not None and valid_traceparent(traceparent) else None,
    }  # fmt: skip


class InHand(logging.Filter):
    """Gives each record the facts that are known of it, as its attribute `crossfoot`. Drops none.

    To be added to a handler (`logging.Handler.addFilter`): a logger's own filters do not see what loggers beneath it log.

    Args:
        worker: the name of the worker in this process.
    """

    def __init__(self, worker: str | None = None) -> None:
        super().__init__()
        self.worker = worker

    def filter(self, record: logging.LogRecord) -> bool:
        given = getattr(record, ABOUT, None)
        facts: dict[str, Any] = dict(given) if isinstance(given, dict) else {}
        work = in_handler.get()
        if work is not None and not facts:
            facts = _about(work)
        if (ids := current_ids()) is not None:
            facts |= {"trace_id": ids.trace, "span_id": ids.span}
        facts["worker"] = self.worker
        setattr(record, ABOUT, {name: value for name, value in facts.items() if value is not None})
        return True


class JsonLines(logging.Formatter):
    """One JSON object a record: `time` (RFC 3339, UTC), `level`, `logger`, `message`, the facts of `InHand`, and whatever the
    program gave as `extra`. What cannot be written is told, and never raises."""

    def format(self, record: logging.LogRecord) -> str:
        told: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC)
            .isoformat(timespec="microseconds")
            .replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": _text(record),
            **_facts_of(record),
        }
        extra = {name: value for name, value in vars(record).items() if name not in _ORDINARY}
        if extra:
            told["extra"] = extra
        if record.exc_info and record.exc_info[0] is not None:
            told["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            told["stack"] = record.stack_info
        return _line(told)


def _facts_of(record: logging.LogRecord) -> dict[str, Any]:
    """What `InHand` noted; anything else of that name is the program's own."""
    facts = getattr(record, ABOUT, None)
    return {name: facts[name] for name in facts if name in _KNOWN} if isinstance(facts, dict) else {}


def _text(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as error:  # noqa: BLE001 - arguments that do not fit, or that cannot be made text
        return f"{_bare(record.msg)} (its arguments do not fit: {type(error).__name__})"


def _line(told: dict[str, Any]) -> str:
    try:
        return _json.encode(told).decode()
    except Exception:  # noqa: BLE001 - half a character, a key that is no text, an object whose text cannot be had
        return _json.encode({name: _bare(value) for name, value in told.items()}).decode()


def _bare(value: Any) -> str | int | float | None:
    if value is None or isinstance(value, (int, float)):
        return value
    try:
        return str(value).encode(errors="backslashreplace").decode()
    except Exception as error:  # noqa: BLE001 - as above
        return f"(cannot be told: {type(error).__name__})"

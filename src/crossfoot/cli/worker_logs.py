"""What a worker says on standard error: lines for people, or JSON objects for machines, and then nothing but these."""

from __future__ import annotations

import io
import logging
import sys
import threading
from typing import Any

from crossfoot.cli import output
from crossfoot.settings import LogFormat
from crossfoot.worker.logs import InHand, JsonLines

_complaints = logging.getLogger("crossfoot.cli")
_uncaught = logging.getLogger("py.exceptions")
"""Of the program's own exceptions, with their texts; named like `py.warnings`, which Python itself captures."""

FOR_PEOPLE = "%(asctime)s %(levelname)s %(message)s"


class Log:
    """The root logger's handler.

    Args:
        level: the lowest that is told.
    """

    def __init__(self, level: int) -> None:
        self._in_hand = InHand()
        self._handler = logging.StreamHandler()
        self._handler.addFilter(self._in_hand)
        self._handler.setFormatter(logging.Formatter(FOR_PEOPLE))
        logging.basicConfig(level=level, handlers=[self._handler])
        logging.getLogger("alembic").setLevel(logging.WARNING)

    def use(self, format: LogFormat) -> None:
        """From now on, this format."""
        is_json = format is LogFormat.json
        if is_json and isinstance(sys.stderr, io.TextIOWrapper):
            sys.stderr.reconfigure(
                encoding="utf-8"
            )  # as JSON is: another locale's would escape what it lacks, as Python does
        threading.excepthook = _tell_thread if is_json else threading.__excepthook__
        sys.unraisablehook = _tell_unraisable if is_json else sys.__unraisablehook__
        self._handler.setFormatter(JsonLines() if is_json else logging.Formatter(FOR_PEOPLE))
        logging.captureWarnings(is_json)
        output.speak_with(_record if is_json else None)

    def name(self, worker: str) -> None:
        """The worker whose log this is."""
        self._in_hand.worker = worker


def _tell_thread(what: threading.ExceptHookArgs) -> None:
    """What a thread of the program's own died of."""
    if what.exc_type is not SystemExit:
        name = what.thread.name if what.thread is not None else "unknown"
        _uncaught.error("thread %s ended by an exception", name, exc_info=_of(what))


def _tell_unraisable(what: sys.UnraisableHookArgs) -> None:
    """What was raised where nobody can catch it, in a finalizer for instance."""
    _uncaught.error("%s: %r", what.err_msg or "exception ignored in", what.object, exc_info=_of(what))


def _of(what: threading.ExceptHookArgs | sys.UnraisableHookArgs) -> Any:
    value = what.exc_value if what.exc_value is not None else what.exc_type()
    return what.exc_type, value, what.exc_traceback


def _record(text: str, code: int) -> None:
    """What the command says beside its answer, as a record: told whatever the level is, as it would be in words."""
    level = logging.CRITICAL if code else logging.INFO
    error = sys.exc_info() if code == output.FAULT else None
    _complaints.handle(
        _complaints.makeRecord(_complaints.name, level, __file__, 0, text, (), error if error and error[0] else None)
    )

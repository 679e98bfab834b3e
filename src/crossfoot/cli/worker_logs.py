"""What a worker says on standard error: lines for people, or JSON objects for machines, and then nothing but these."""

from __future__ import annotations

import logging
import sys

from crossfoot.cli import output
from crossfoot.settings import LogFormat
from crossfoot.worker.logs import InHand, JsonLines

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
        self._handler.setFormatter(JsonLines() if is_json else logging.Formatter(FOR_PEOPLE))
        logging.captureWarnings(is_json)
        output.speak_with(_record if is_json else None)

    def name(self, worker: str) -> None:
        """The worker whose log this is."""
        self._in_hand.worker = worker


def _record(text: str, code: int) -> None:
    """What the command says beside its answer, as a record: told whatever the level is, as it would be in words."""
    logger = logging.getLogger("crossfoot.cli")
    level = logging.CRITICAL if code else logging.INFO
    error = sys.exc_info() if code == output.FAULT else None
    logger.handle(logger.makeRecord(logger.name, level, __file__, 0, text, (), error if error and error[0] else None))

"""What each class of the suite says of its engine, for the page that is made from what was proved: docs/engines.md."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import msgspec
import pytest

from crossfoot.testing.queues import QueueSuite

EVIDENCE = Path(__file__).parents[2] / "docs" / "engines.json"


class Engine(QueueSuite):
    """To be named beside `QueueConformance`."""

    engine: ClassVar[str]
    """The page's name of it: one for all classes of tests that are about the same kind of queue."""

    @abstractmethod
    def served_by(self) -> str:
        """The server and its version."""

    async def test_it_declares_what_the_page_of_engines_says(
        self, record_property: Callable[[str, object], None], pytestconfig: pytest.Config
    ) -> None:
        async with self.make_queue() as queue:
            declared = msgspec.to_builtins(queue.capabilities)
        if pytestconfig.getoption("evidence", None):
            record_property("declared", {"engine": self.engine, "server": self.served_by(), "capabilities": declared})
            return
        known = json.loads(EVIDENCE.read_text(encoding="utf-8"))["declared"][self.engine]
        assert declared in known, "docs/engines.md says otherwise: python docs/engines.py"

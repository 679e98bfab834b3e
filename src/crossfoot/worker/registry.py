"""Which handler takes which message."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from crossfoot.effects.handler import Handler, matcher
from crossfoot.errors import HandlerConflict, UsageError


class Registry:
    """The handlers of one service: an exact type wins over a pattern, a longer pattern over a shorter one."""

    def __init__(self) -> None:
        self._exact: dict[str, Handler] = {}
        self._patterns: list[tuple[re.Pattern[str], Handler]] = []
        self._found: dict[str, Handler | None] = {}
        self._workers: list[str] = []

    @contextmanager
    def in_use(self, worker: str) -> Iterator[None]:
        """Have no more handlers registered meanwhile: a worker is set up for those that there are when it begins. It starts lanes for
        their kinds, and keeps lines where one of them takes its events in order."""
        self._workers.append(worker)
        try:
            yield
        finally:
            self._workers.remove(worker)

    def add(self, handler: Handler) -> None:
        """Register.

        Raises:
            HandlerConflict: another handler has the same type, or the same name.
            UsageError: a worker is at work already.
        """
        if self._workers:
            raise UsageError(
                f"handler {handler.name} was registered while worker {self._workers[0]} is at work, which is set up for the handlers that "
                "it found: register all of them before it begins, where the module of the service is imported"
            )
        for other in self:
            if other.type == handler.type:
                raise HandlerConflict(
                    f"handlers {other.name} and {handler.name} both take {handler.type!r}: one message has one handler; "
                    "call the second from the first, or give it a queue of its own"
                )
            if other.name == handler.name:
                raise HandlerConflict(
                    f"two handlers are called {handler.name} (for {other.type!r} and {handler.type!r}): give one of them "
                    "name=..., because operation keys and sequences go by it; where several types share one order, register one "
                    "handler for all of them, as in 'case.*'"
                )
        if "*" in handler.type or "?" in handler.type or "[" in handler.type:
            self._patterns.append((re.compile(matcher(handler.type)), handler))
            self._patterns.sort(key=lambda item: len(item[1].type), reverse=True)
        else:
            self._exact[handler.type] = handler
        self._found.clear()

    def find(self, type_: str) -> Handler | None:
        """The handler of a message type, `None` when this version has none."""
        handler = self._exact.get(type_)
        if handler is not None or not self._patterns:
            return handler
        if type_ not in self._found:
            if len(self._found) > 10_000:  # types come from outside: a flood of them must not fill the memory
                self._found.clear()
            self._found[type_] = next((h for pattern, h in self._patterns if pattern.match(type_)), None)
        return self._found[type_]

    def __iter__(self) -> Iterator[Handler]:
        yield from self._exact.values()
        yield from (handler for _, handler in self._patterns)

    def __len__(self) -> int:
        return len(self._exact) + len(self._patterns)

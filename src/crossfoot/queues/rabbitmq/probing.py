"""The settings of a queue, which AMQP has no question for.

But the broker refuses to declare a queue that is there with other settings, and says with each refusal which setting differs and
what it is. So the queue is declared as one without settings, and again with what was learned, until nothing differs. It is seen
to be there before, so that nothing is made by this. A policy's settings are not among what is told, and who may not declare
queues learns nothing.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from crossfoot.queues.rabbitmq.answers import UNFIT, Rejected
from crossfoot.queues.rabbitmq.link import Link

MOST_QUESTIONS = 30

LIMITED_BY_DEFAULT, LIMIT = (4,), 20
"""The first version whose quorum queues give a message up after so many deliveries, and one more, unless they are told otherwise."""

_SAID = re.compile(
    r"inequivalent arg '(?P<name>[^']+)' for (?:queue|exchange) '.*' in vhost '.*': received .* but current is "
    r"(?:the value '(?P<value>.*)' of type '(?P<type>\w+)'|'?(?P<plain>\w+)'?)$",
    re.DOTALL,
)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What was learned of a queue."""

    arguments: dict[str, Any]
    durable: bool = True
    auto_delete: bool = False
    told: bool = True
    """Whether the broker told all of it."""
    version: tuple[int, ...] = ()
    """The broker's."""

    @property
    def kind(self) -> str:
        return str(self.arguments.get("x-queue-type", "classic" if self.told else "quorum"))

    def number(self, name: str) -> int | None:
        value = self.arguments.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    @property
    def delivery_limit(self) -> int | None:
        """How many deliveries that came to nothing it allows, as it was told or by default; `None` for any number."""
        limit = self.number("x-delivery-limit")
        if limit is None and self.told and self.kind == "quorum" and self.version >= LIMITED_BY_DEFAULT:
            return LIMIT
        return None if limit is None or limit < 0 else limit

    @property
    def full_is_refused(self) -> bool:
        bounded = self.number("x-max-length") is not None or self.number("x-max-length-bytes") is not None
        return bounded and str(self.arguments.get("x-overflow", "")).startswith("reject-publish")


async def settings_of(link: Link, queue: str, guess: Settings | None = None) -> Settings:
    """Ask. The queue must be there.

    Args:
        guess: what it is expected to be, which saves questions if it is.

    Raises:
        NoAnswer: there was none.
        QueueUnavailable: the connection was lost.
    """
    if guess is not None and await _declared(link, queue, guess) is None:
        return guess
    found = Settings(arguments={}, version=link.version)
    for _ in range(MOST_QUESTIONS):
        refusal = await _declared(link, queue, found)
        if refusal is None:
            return found
        learned = _learned(found, refusal)
        if learned is None:
            break
        found = learned
    return msgspec.structs.replace(found, told=False)


async def _declared(link: Link, queue: str, settings: Settings) -> Rejected | None:
    """Why the queue is another one than that; `None` when it is that one."""
    try:
        async with link.aside() as channel:
            await link.ask(
                lambda: channel.queue_declare(
                    queue, durable=settings.durable, auto_delete=settings.auto_delete, arguments=settings.arguments
                )
            )
    except Rejected as refusal:
        return refusal
    return None


def _learned(found: Settings, refusal: Rejected) -> Settings | None:
    """What is known with this refusal; `None` when it tells nothing new."""
    match = _SAID.search(refusal.text) if refusal.code == UNFIT else None
    if match is None:
        return None
    name, value, kind, plain = match.group("name", "value", "type", "plain")
    if name in ("durable", "auto_delete") and plain in ("true", "false"):
        return msgspec.structs.replace(found, **{name: plain == "true"})
    if kind is None or name in found.arguments:
        return None
    return msgspec.structs.replace(found, arguments={**found.arguments, name: _typed(value, kind)})


def _typed(value: str, kind: str) -> Any:
    if kind == "bool":
        return value == "true"
    return int(value) if re.fullmatch(r"-?[0-9]+", value) and kind != "longstr" else value

"""Whether a queue can be one of ours, and what its settings lose without a word. Pure."""

from __future__ import annotations

from crossfoot.queues.rabbitmq.probing import Settings
from crossfoot.queues.telling import Told

KINDS = ("quorum", "classic")


def unfit(settings: Settings) -> str:
    """Why it cannot be used, with the remedy; empty when it can."""
    if settings.kind not in KINDS:
        return f"it is a {settings.kind}, which keeps what is acked: make a quorum queue"
    return ""


def warnings(settings: Settings) -> list[str]:
    """What can be lost by these settings, and the broker would not say."""
    if not settings.told:
        return [
            "its settings could not be learned, because this user may not declare it (permission `configure`): whether it drops "
            "messages that are too many, too old or too often delivered is not known"
        ]
    arguments = settings.arguments
    buried = "x-dead-letter-exchange" in arguments
    bounded = [name for name in ("x-max-length", "x-max-length-bytes") if name in arguments]
    said = []
    if not settings.durable or settings.auto_delete or "x-expires" in arguments:
        said.append("it goes away by itself, with all it holds (durable, not auto-delete, and no x-expires, keeps it)")
    if bounded and not settings.full_is_refused:
        where = "to the dead letters" if buried else "away"
        said.append(
            f"when it is full ({', '.join(bounded)}) it confirms a message and moves its oldest {where} (x-overflow: reject-publish "
            "refuses instead)"
        )
    for name, what, so in (
        ("x-message-ttl", "too old", "x-message-ttl" in arguments),
        ("x-delivery-limit", "delivered too often", settings.delivery_limit is not None),
    ):
        if so and not buried:
            said.append(f"it drops what is {what} without a word ({name} without x-dead-letter-exchange)")
    if buried and settings.kind == "quorum" and arguments.get("x-dead-letter-strategy") != "at-least-once":
        said.append("what it moves to its dead letters may be lost on the way (x-dead-letter-strategy: at-least-once)")
    return said


def told(settings: Settings, dead: Settings | None = None) -> Told:
    """How it is set, for who audits it.

    Args:
        dead: the settings of the queue of its dead letters, which are as old as they are dead; `None` where there is none.
    """
    figures = {name: str(value) for name, value in settings.arguments.items()}
    return Told(
        figures={"type": settings.kind, **figures},
        warnings=tuple(warnings(settings)),
        buries=True,
        dead_retention=retention_of(dead) if dead is not None else None,
    )


def max_attempts_of(settings: Settings) -> int | None:
    """After how many deliveries it gives a message up by itself."""
    limit = settings.delivery_limit
    return limit + 1 if limit is not None else None


def wears_out(settings: Settings) -> str:
    """Why dead letters are lost there by being looked at, with the remedy; empty when they are not."""
    limit = settings.delivery_limit
    if limit is None:
        return ""
    return (
        f"whoever looks at dead letters takes them and hands them back, and it gives up what was delivered {limit + 1} times: "
        "make it with x-delivery-limit: -1"
    )


def strands(settings: Settings, queue: str) -> str:
    """Why what waits there does not come back, with the remedy; empty when it does."""
    where = settings.arguments.get("x-dead-letter-exchange"), settings.arguments.get("x-dead-letter-routing-key")
    if not settings.told or where == ("", queue):
        return ""
    return (
        f"what has waited there would not come back, but be dropped: make it with x-dead-letter-exchange: '' and "
        f"x-dead-letter-routing-key: {queue}"
    )


def retention_of(settings: Settings) -> float | None:
    """Seconds after which it gives up what nobody handled."""
    ttl = settings.number("x-message-ttl")
    return ttl / 1000 if ttl is not None else None

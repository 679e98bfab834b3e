"""How a queue of SQS is set, for who audits it. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from crossfoot.queues.telling import Told

NAMES = ("VisibilityTimeout", "MessageRetentionPeriod", "RedrivePolicy", "DelaySeconds", "MaximumMessageSize")


def told(attributes: Mapping[str, str], dead_retention: float | None, *, fifo: bool) -> Told:
    """What the service's attributes say.

    Args:
        dead_retention: seconds after which the dead-letter queue forgets; `None` where there is none.
    """
    visibility = attributes.get("VisibilityTimeout")
    return Told(
        figures={name: attributes[name] for name in NAMES if name in attributes},
        lease=float(visibility) if visibility else None,
        buries="RedrivePolicy" in attributes,
        dead_retention=dead_retention,
        since_origin=not fifo,
    )

"""What CloudWatch counted of a queue: messages sent, received and deleted, by anybody (AWS, *Available CloudWatch metrics for Amazon
SQS*)."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from crossfoot.clock import SECOND, Micros
from crossfoot.errors import CrossfootError, QueueUnavailable
from crossfoot.queues.sqs.client import NoAnswer, Rejected, default_session, read_error
from crossfoot.queues.telling import Counted

if TYPE_CHECKING:
    from boto3.session import Session

STRETCH = 300
"""Seconds of one sum. CloudWatch keeps those of five minutes for 63 days."""

METRICS = {
    "sent": "NumberOfMessagesSent",
    "received": "NumberOfMessagesReceived",
    "deleted": "NumberOfMessagesDeleted",
}


def read(
    queue: str, since: Micros, until: Micros, *, session: Session | None, region: str | None, timeout: float
) -> tuple[Counted, ...]:
    """Sums of five minutes each, the oldest first; stretches without any are left out. Blocks.

    Raises:
        QueueUnavailable: CloudWatch does not answer, or refuses us.
    """
    try:
        cloudwatch: Any = (session or default_session()).client(
            "cloudwatch", region_name=region, config=_patience(timeout)
        )
        pages = cloudwatch.get_paginator("get_metric_data").paginate(
            MetricDataQueries=[
                {
                    "Id": name,
                    "MetricStat": {
                        "Metric": {
                            "Namespace": "AWS/SQS",
                            "MetricName": metric,
                            "Dimensions": [{"Name": "QueueName", "Value": queue}],
                        },
                        "Period": STRETCH,
                        "Stat": "Sum",
                    },
                }
                for name, metric in METRICS.items()
            ],
            StartTime=_time(since),
            EndTime=_time(until),
        )
        return _counted([result for page in pages for result in page["MetricDataResults"]])
    except Exception as error:  # a garbled answer escapes the client as whatever its parser stumbled over
        told = read_error(error, queue)
        if isinstance(told, NoAnswer | Rejected | CrossfootError):
            raise QueueUnavailable(f"CloudWatch could not be asked about queue {queue}: {told}") from error
        raise told from error


def _counted(results: list[Any]) -> tuple[Counted, ...]:
    sums: dict[Micros, dict[str, int]] = defaultdict(lambda: dict.fromkeys(METRICS, 0))
    for result in results:
        for at, value in zip(result["Timestamps"], result["Values"], strict=True):
            start = int(at.timestamp()) // STRETCH * STRETCH * SECOND
            sums[start][result["Id"]] += round(value)
    return tuple(Counted(at=at, until=at + STRETCH * SECOND, **sums[at]) for at in sorted(sums))


def _time(at: Micros) -> datetime:
    return datetime.fromtimestamp(at // SECOND // STRETCH * STRETCH, UTC)


def _patience(timeout: float) -> Any:
    from botocore.config import Config

    return Config(retries={"total_max_attempts": 1}, read_timeout=timeout, connect_timeout=min(timeout, 5.0))

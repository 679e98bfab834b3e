"""The queue port over Amazon SQS.

Standard queues deliver at least once, in no order, and take an ack under an earlier receipt without saying whether it
worked. FIFO queues keep the order of a partition (as a message group: one receive may bring several of it, in order),
drop a second publish of the same key for five minutes, and void a receipt when its lease is over.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any, Self

import msgspec
from anyio import Lock, to_thread

from crossfoot.clock import Clock, Micros, SystemClock
from crossfoot.errors import QueueUnavailable, UsageError
from crossfoot.queues.queue import (
    Accepted,
    Capabilities,
    Delivery,
    Depth,
    DepthIs,
    Done,
    Held,
    NotDone,
    Order,
    Outgoing,
    PublishAnswer,
    ReceiptAnswer,
    Refused,
)
from crossfoot.queues.sqs import traffic
from crossfoot.queues.sqs.checks import told
from crossfoot.queues.sqs.client import Client, NoAnswer, Rejected, field, region_of
from crossfoot.queues.sqs.dead import DeadLetters
from crossfoot.queues.sqs.messages import (
    BATCH,
    DEDUP_WINDOW,
    MAX_DELAY,
    MAX_LEASE,
    REQUEST_BYTES,
    Entry,
    Rules,
    entry_of,
)
from crossfoot.queues.sqs.receiving import Receiver
from crossfoot.queues.sqs.sending import Sender
from crossfoot.queues.sqs.settling import Settler, unanswered
from crossfoot.queues.telling import Counted, Told

if TYPE_CHECKING:
    from boto3.session import Session

LONGEST_POLL = 20
"""Seconds the service holds a receive open at most."""

BEHIND = 120.0
"""Seconds that AWS's numbers may be behind: it says a minute, at least. Those of an emulator on this machine are not."""


class SqsQueue:
    """One SQS queue.

    Args:
        queue: its name or its URL. A name that ends in `.fifo` is a FIFO queue, as AWS has it.
        endpoint_url: where the service is; by default AWS, or what `AWS_ENDPOINT_URL` says.
        region: by default the one that the queue's URL names, or else what the client's own settings say.
        clock: reads the time for leases.
        timeout: seconds until a request without an answer is given up, and what it asked for is in doubt.
        poll: seconds one receive is held open, at most 20. Short, so that a process that stops need not wait long;
            a receive that waits longer asks again.
        session: a `boto3.Session` with other credentials than the environment's.

    Raises:
        UsageError: `poll` or `timeout` are out of range.
    """

    system = "aws_sqs"

    def __init__(
        self,
        queue: str,
        *,
        endpoint_url: str | None = None,
        region: str | None = None,
        clock: Clock | None = None,
        timeout: float = 10.0,
        poll: float = 5.0,
        session: Session | None = None,
    ) -> None:
        if not 0 < poll <= LONGEST_POLL or timeout <= 0:
            raise UsageError(f"queue {queue}: `poll` is {poll:g} s, of 1 to {LONGEST_POLL}; `timeout` is {timeout:g} s")
        self._name = queue.rsplit("/", 1)[-1]
        self._opening = Lock()
        self._address = queue
        self._clock = clock or SystemClock()
        self._poll = poll
        self._options: dict[str, Any] = {
            "endpoint_url": endpoint_url,
            "region": region or region_of(queue),
            "timeout": timeout,
            "longest_wait": poll,
            "session": session,
        }
        self._rules = Rules(queue=self._name, fifo=self._name.endswith(".fifo"), max_bytes=REQUEST_BYTES)
        self._capabilities = msgspec.structs.replace(_capabilities(self._rules), max_bytes=None)  # until it is asked
        self._client: Client | None = None
        self._url = ""
        self._attributes: dict[str, str] = {}
        self._dead: DeadLetters | None = None

    @property
    def name(self) -> str:
        return self._name

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def retention(self) -> float | None:
        period = self._attributes.get("MessageRetentionPeriod")
        return float(period) if period else None

    @property
    def max_attempts(self) -> int | None:
        """After how many deliveries the service itself moves a message to the dead letters; `None`: never."""
        policy = self._attributes.get("RedrivePolicy")
        return int(json.loads(policy)["maxReceiveCount"]) if policy else None

    async def open(self) -> None:
        """Find the queue and read its settings.

        Raises:
            QueueUnavailable: it does not exist, cannot be reached, or refuses us.
            UsageError: boto3, credentials or region are missing.
        """
        async with self._opening:
            if self._client is None:
                await self._open()

    async def _open(self) -> None:
        client = await to_thread.run_sync(lambda: Client(self._name, **self._options))
        try:
            url = self._address if "://" in self._address else await _url_of(client, self._name)
            attributes = await self._read_attributes(client, url)
        except (NoAnswer, Rejected) as error:
            client.close()
            raise QueueUnavailable(f"queue {self._name} could not be opened: {error}. Check its address") from error
        except BaseException:
            client.close()
            raise
        self._url, self._attributes, self._client = url, attributes, client
        limit = int(attributes.get("MaximumMessageSize", REQUEST_BYTES))
        self._rules = Rules(queue=self._name, fifo=self._rules.fifo, max_bytes=limit)
        self._capabilities = _capabilities(self._rules, behind=0.0 if client.is_local else BEHIND)

    async def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = self._dead = None

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def publish(self, messages: Sequence[Outgoing]) -> list[PublishAnswer]:
        """See `Queue.publish`. What SQS would never take is refused here, without a request."""
        client = self._open_client()
        checked = [entry_of(message, self._rules) for message in messages]
        entries = [one for one in checked if isinstance(one, Entry)]
        answers = iter(await Sender(client, self._url, self._rules).send(entries))
        return [one if isinstance(one, Refused) else next(answers) for one in checked]

    async def receive(self, limit: int, *, lease: float, wait: float = 0.0) -> list[Delivery]:
        """See `Queue.receive` and `Receiver.receive`. Leases are of whole seconds, rounded up; so are waits.

        Raises:
            QueueUnavailable: no answer, or a refusal. Should messages have been leased, they come again.
            UsageError: a lease over twelve hours.
        """
        seconds = self._whole(lease, "a lease")
        receiver = Receiver(self._open_client(), self._url, self._rules, clock=self._clock, poll=self._poll)
        return await receiver.receive(limit, lease=seconds, wait=wait)

    async def ack(self, receipts: Sequence[str]) -> list[ReceiptAnswer]:
        return await Settler(self._open_client(), self._url).delete(receipts)

    async def release(self, receipts: Sequence[str], *, delay: float = 0.0) -> list[ReceiptAnswer]:
        seconds = self._whole(delay, "a delay")
        return await Settler(self._open_client(), self._url).hide(receipts, seconds)

    async def extend(self, receipts: Sequence[str], *, lease: float) -> list[ReceiptAnswer]:
        """See `Queue.extend`. Twelve hours after its receive the service extends a lease no more."""
        seconds = self._whole(lease, "a lease")
        return await Settler(self._open_client(), self._url).hide(receipts, seconds)

    async def dead_letter(self, deliveries: Sequence[Delivery], *, reason: str) -> list[ReceiptAnswer]:
        """See `Queue.dead_letter`: sent to the dead-letter queue, and only if that is certain, deleted."""
        dead = await self._dead_letters() if deliveries else None
        if dead is None:
            return unanswered(
                [delivery.receipt for delivery in deliveries],
                f"queue {self._name} has no dead letters: set a RedrivePolicy that names a dead-letter queue",
            )
        sent = await dead.sender.send([dead.entry_of(delivery, reason) for delivery in deliveries])
        moved = [answer.key for answer in sent if isinstance(answer, Accepted)]
        try:
            deleted = iter(await self.ack(moved))
        except QueueUnavailable as error:
            deleted = iter(unanswered(moved, str(error)))
        return [
            _moved(next(deleted)) if isinstance(answer, Accepted) else NotDone(answer.key, answer.reason, lost=False)
            for answer in sent
        ]

    async def told(self) -> Told:
        """See `TellsSettings`. Of a standard queue's dead letters the age counts from when they were first sent (AWS, *Amazon SQS
        dead-letter queues*)."""
        dead = await self._dead_letters()
        return told(self._attributes, await dead.retention() if dead is not None else None, fifo=self._rules.fifo)

    async def traffic(self, since: Micros, until: Micros) -> tuple[Counted, ...] | None:
        """See `TellsTraffic`: CloudWatch's counts. An emulator has none, unless `AWS_ENDPOINT_URL_CLOUDWATCH` says where."""
        if not self._open_client().is_of_aws and not os.environ.get("AWS_ENDPOINT_URL_CLOUDWATCH"):
            return None
        options = {name: self._options[name] for name in ("session", "region", "timeout")}
        return await to_thread.run_sync(lambda: traffic.read(self._name, since, until, **options))

    async def depth(self) -> Depth:
        """See `Queue.depth`. AWS brings its counts up to date within about a minute."""
        client = self._open_client()
        as_of = self._clock.now()
        dead = await self._dead_letters()
        buried = await dead.count() if dead else 0
        try:
            counts = await self._read_attributes(client, self._url)
        except (NoAnswer, Rejected) as error:
            raise QueueUnavailable(f"queue {self._name} could not be counted: {error}. Try again") from error
        return Depth(
            ready=int(counts["ApproximateNumberOfMessages"]),
            in_flight=int(counts["ApproximateNumberOfMessagesNotVisible"]),
            delayed=int(counts["ApproximateNumberOfMessagesDelayed"]),
            dead=buried,
            as_of=as_of,
        )

    def browse(self) -> AsyncIterator[Held]:
        """SQS cannot show a message without delivering it.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"queue {self._name} is on SQS, which cannot be browsed; look at its depth or dead letters")

    async def dead_letters(self) -> AsyncIterator[Held]:
        """See `Queue.dead_letters` and `DeadLetters.browse`. Without a redrive policy there are none."""
        if (dead := await self._dead_letters()) is not None:
            async for held in dead.browse():
                yield held

    async def forget_dead(self, broker_ids: Sequence[str]) -> int:
        """See `ForgetsDead.forget_dead` and `DeadLetters.forget`."""
        dead = await self._dead_letters() if broker_ids else None
        return await dead.forget(frozenset(broker_ids)) if dead is not None else 0

    def _open_client(self) -> Client:
        if self._client is None:
            raise UsageError(f"queue {self._name} is not open: await its open() first, or use it in `async with`")
        return self._client

    def _whole(self, seconds: float, what: str) -> int:
        """Seconds as the service counts them: whole, rounded up."""
        if not 0 <= seconds <= MAX_LEASE:
            raise UsageError(f"{what} of {seconds:g} s on queue {self._name}: SQS grants {MAX_LEASE:g} s at most")
        return math.ceil(seconds)

    async def _read_attributes(self, client: Client, url: str) -> dict[str, str]:
        response = await client.read(lambda sqs: sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"]))
        return {str(name): value for name, value in field(response, "Attributes").items()}

    async def _dead_letters(self) -> DeadLetters | None:
        """The dead-letter queue, looked up when first needed: who only publishes may have no access to it."""
        client = self._open_client()
        if self._dead is None and (policy := self._attributes.get("RedrivePolicy")):
            *_, account, name = json.loads(policy)["deadLetterTargetArn"].split(":")
            try:
                url = await _url_of(client, name, account)
                attributes = await self._read_attributes(client, url)
            except (NoAnswer, Rejected, QueueUnavailable) as error:
                raise QueueUnavailable(f"queue {self._name} cannot use its dead letters, {name}: {error}") from error
            limit = int(attributes.get("MaximumMessageSize", REQUEST_BYTES))
            rules = Rules(queue=name, fifo=name.endswith(".fifo"), max_bytes=limit)
            self._dead = DeadLetters(client, url, rules, self.max_attempts)
        return self._dead


def _capabilities(rules: Rules, *, behind: float = BEHIND) -> Capabilities:
    return Capabilities(
        order=Order.KEY if rules.fifo else Order.NONE,
        depth=DepthIs.APPROXIMATE,
        hides=behind,
        receipts_fenced=rules.fifo,
        publish_dedup=DEDUP_WINDOW if rules.fifo else 0.0,
        max_delay=0.0 if rules.fifo else MAX_DELAY,
        max_release_delay=MAX_LEASE,
        max_lease=MAX_LEASE,
        max_receive=BATCH,
        max_publish=BATCH,
        max_bytes=rules.max_bytes,
    )


async def _url_of(client: Client, name: str, account: str | None = None) -> str:
    request: dict[str, Any] = {"QueueName": name}
    if account:
        request["QueueOwnerAWSAccountId"] = account
    response = await client.read(lambda sqs: sqs.get_queue_url(**request))
    return str(field(response, "QueueUrl"))


def _moved(answer: ReceiptAnswer) -> ReceiptAnswer:
    """The delete's answer, told as that of the move."""
    if isinstance(answer, Done):
        return answer
    return NotDone(answer.receipt, f"among the dead letters, but still in the queue: {answer.reason}", answer.lost)

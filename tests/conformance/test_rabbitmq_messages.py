"""What a message goes through on RabbitMQ: waiting, being counted, dying, and coming from somebody else."""

from __future__ import annotations

import datetime
import struct
from collections.abc import Sequence

import anyio
import pytest
from aiormq import spec
from hypothesis import given
from hypothesis import strategies as st
from pamqp.header import ContentHeader

from crossfoot.errors import UsageError
from crossfoot.queues.queue import Accepted, Delivery, Done, NotDone, Outgoing, ReceiptAnswer, Refused
from crossfoot.queues.rabbitmq import RabbitQueue, ensure
from crossfoot.queues.rabbitmq.address import address_of
from crossfoot.queues.rabbitmq.delays import LONGEST, SHORTEST, rung_for, rungs_of
from crossfoot.queues.rabbitmq.frames import readable
from crossfoot.queues.rabbitmq.holding import grouped
from crossfoot.testing.queues import outgoing
from tests.conformance.rabbitmq_scene import Told, by_hand, control, dead_of, made, opened, the_one
from tests.servers.rabbitmq import RabbitServer

pytest_plugins = ["tests.servers.rabbitmq_fixtures"]

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_blocking_calls"), pytest.mark.xdist_group("rabbitmq")]

KINDS = pytest.mark.parametrize("kind", ["quorum", "classic"])


async def lost_and_back(queue: RabbitQueue, server: RabbitServer) -> None:
    """Everything in hand becomes the broker's again."""
    told = Told(queue)
    await control(server, "close_all_connections", "tested")
    await told.within(3)


# ---- waiting ---------------------------------------------------------------------------------------------------------


@pytest.mark.server
@KINDS
async def test_a_short_delay_does_not_wait_behind_a_long_one(rabbit: RabbitServer, kind: str) -> None:
    name = await made(rabbit, kind=kind)
    async with opened(name, rabbit) as queue:
        await queue.publish([outgoing() for _ in range(4)])
        taken = await queue.receive(4, lease=30.0, wait=1.0)
        asked: dict[bytes, float] = {}
        for delivery, delay in zip(taken, (60.0, 3.0, 1.9, 0.3), strict=True):
            asked[delivery.body] = anyio.current_time()
            assert await queue.release([delivery.receipt], delay=delay) == [Done(delivery.receipt)]
        came: dict[bytes, tuple[float, int]] = {}
        while len(came) < 3:
            for one in await queue.receive(4, lease=30.0, wait=1.0):
                came[one.body] = (anyio.current_time() - asked[one.body], one.attempt)
        for delivery, delay in zip(taken[1:], (3.0, 1.9, 0.3), strict=True):
            after, attempt = came[delivery.body]
            assert delay <= after < delay + 2.5, f"asked for {delay}"
            assert attempt == 2
        assert (await queue.depth()).delayed == 1


@pytest.mark.server
async def test_behind_another_of_its_rung_it_is_late_by_less_than_its_own_delay(rabbit: RabbitServer) -> None:
    name = await made(rabbit)
    async with opened(name, rabbit) as queue:
        first, second = outgoing(delay=1.95), outgoing(delay=1.05)
        assert rung_for(name, 1.95) == rung_for(name, 1.05)
        began = anyio.current_time()
        await queue.publish([first])
        await queue.publish([second])
        await queue.receive(1, lease=30.0, wait=5.0)
        await queue.receive(1, lease=30.0, wait=5.0)
        assert 1.9 < anyio.current_time() - began < 2 * 1.05 + 0.3


@given(st.floats(min_value=0.001, max_value=LONGEST))
def test_every_delay_has_a_rung_that_is_long_enough_and_not_twice_too_long(delay: float) -> None:
    rung = rung_for("orders", delay)
    assert rung in rungs_of("orders")
    longest = float(rung.removeprefix("orders.wait."))
    assert delay <= longest < max(2 * delay, SHORTEST + 0.001)


@pytest.mark.server
async def test_a_worker_that_dies_between_the_two_steps_of_a_wait_leaves_two_of_it(rabbit: RabbitServer) -> None:
    """Which the operation key makes one effect of."""
    name = await made(rabbit)
    async with opened(name, rabbit) as queue:
        message = outgoing(attributes={"note": "grün"})
        await queue.publish([message])
        delivery = await the_one(queue)
        hold = queue._holding.get(delivery.receipt)
        assert hold is not None
        assert queue._parts is not None
        acks, queue._holding.ack = queue._holding.ack, _dies  # type: ignore[method-assign] # as if killed there
        with pytest.raises(ZeroDivisionError):
            await queue.release([delivery.receipt], delay=0.4)
        queue._holding.ack = acks  # type: ignore[method-assign] # alive again
        await lost_and_back(queue, rabbit)
        got: list[Delivery] = []
        while len(got) < 2:
            got += await queue.receive(2, lease=30.0, wait=1.0)
        assert [(one.body, one.attempt, one.attributes) for one in got] == [(message.body, 2, {"note": "grün"})] * 2
        assert got[0].broker_id == got[1].broker_id == delivery.broker_id


async def _dies(receipts: Sequence[str]) -> list[ReceiptAnswer]:
    raise ZeroDivisionError


@pytest.mark.server
async def test_longer_than_the_longest_is_wrong_use(rabbit: RabbitServer) -> None:
    async with opened(await made(rabbit), rabbit) as queue:
        await queue.publish([outgoing()])
        delivery = await the_one(queue)
        with pytest.raises(UsageError, match=queue.name):
            await queue.release([delivery.receipt], delay=LONGEST + 1)
        assert await queue.release([delivery.receipt], delay=LONGEST) == [Done(delivery.receipt)]


# ---- counting --------------------------------------------------------------------------------------------------------


@pytest.mark.server
@KINDS
async def test_it_is_counted_however_it_comes_back(rabbit: RabbitServer, kind: str) -> None:
    name = await made(rabbit, kind=kind)
    async with opened(name, rabbit) as queue:
        await queue.publish([outgoing()])
        attempts = []
        for way in ("back", "waits", "lost", "lapsed", "back", "lost", "lost", "end"):
            delivery = await the_one(queue, lease=0.2 if way == "lapsed" else 30.0)
            attempts.append(delivery.attempt)
            if way == "back":
                await queue.release([delivery.receipt])
            elif way == "waits":
                await queue.release([delivery.receipt], delay=0.25)
            elif way == "lost":
                await lost_and_back(queue, rabbit)
            elif way == "end":
                await queue.ack([delivery.receipt])
        assert attempts == [1, 2, 3, 4, 5, 6, 7, 8]
        assert (await queue.depth()).held == 0


@pytest.mark.server
async def test_one_delivered_too_often_between_waits_is_given_up_all_the_same(rabbit: RabbitServer) -> None:
    name = await made(rabbit, max_attempts=3)
    async with opened(name, rabbit) as queue:
        assert queue.max_attempts == 3
        message = outgoing()
        await queue.publish([message])
        for attempt in (1, 2, 3):
            delivery = await the_one(queue)
            assert delivery.attempt == attempt
            await queue.release([delivery.receipt], delay=0.25)
        assert await queue.receive(1, lease=30.0, wait=0.8) == []
        (dead,) = await dead_of(queue)
        assert (dead.body, dead.attempt) == (message.body, 3)
        assert dead.reason.startswith("delivered 3 times, which is the queue's limit")


# ---- dying -----------------------------------------------------------------------------------------------------------


@pytest.mark.server
async def test_a_dead_letter_says_why_in_the_words_of_whoever_buried_it(rabbit: RabbitServer) -> None:
    name = await made(rabbit, max_attempts=1, retention=1.5)
    async with opened(name, rabbit) as queue:
        buried, worn, old = (outgoing(attributes={"note": "grün"}) for _ in range(3))
        await queue.publish([buried])
        assert await queue.dead_letter([one := await the_one(queue)], reason="ValueError: 100 % wrong") == [
            Done(one.receipt)
        ]
        await queue.publish([worn])
        await queue.release([(await the_one(queue)).receipt])
        await queue.publish([old])
        await anyio.sleep(1.8)
        told = {held.body: (held.reason, held.attempt) for held in await dead_of(queue)}
        moved = f"the broker moved it out of queue {name}:"
        assert told == {
            buried.body: ("ValueError: 100 % wrong", 1),
            worn.body: (f"{moved} delivery_limit", 1),
            old.body: (f"{moved} expired", 0),
        }
        assert (await queue.depth()).dead == 3


@pytest.mark.server
async def test_while_somebody_reads_the_dead_letters_they_are_counted(rabbit: RabbitServer) -> None:
    name = await made(rabbit)
    async with opened(name, rabbit) as queue, by_hand(rabbit) as channel:
        await queue.publish([outgoing() for _ in range(3)])
        await queue.dead_letter(await queue.receive(3, lease=30.0, wait=1.0), reason="poison")

        async def keep(message: object) -> None:
            pass

        await channel.basic_consume(f"{name}.dead", keep)
        await anyio.sleep(0.2)
        seen = await dead_of(queue)
        assert len(seen) < (await queue.depth()).dead, "that some are hidden is told"


# ---- other people's --------------------------------------------------------------------------------------------------


@pytest.mark.server
async def test_a_message_of_somebody_else_s_comes_as_it_is_and_stays_so_while_it_waits(rabbit: RabbitServer) -> None:
    name = await made(rabbit)
    async with by_hand(rabbit) as channel, opened(name, rabbit) as queue:
        sent = datetime.datetime(2026, 11, 26, 12, tzinfo=datetime.UTC)
        properties = spec.Basic.Properties(
            message_id="order-1", user_id="guest", content_type="application/json", priority=3, timestamp=sent,
            correlation_id="c-1", headers={"tenant": "grün", "retries": 3, "nested": {"a": [1, None]}, "raw": bytearray(b"\xff")},
        )  # fmt: skip
        await channel.basic_publish(b'{"of": "theirs"}', routing_key=name, properties=properties)
        first = await the_one(queue)
        assert (first.broker_id, first.attributes, first.attempt) == ("order-1", {"tenant": "grün", "priority": "3"}, 1)
        assert first.enqueued_at == int(sent.timestamp()) * 1_000_000
        assert await queue.release([first.receipt], delay=0.25) == [Done(first.receipt)]
        second = await the_one(queue)
        assert (second.body, second.broker_id, second.attributes, second.attempt) == (
            first.body, "order-1", first.attributes, 2,
        )  # fmt: skip
        await queue.dead_letter([second], reason="not ours")
        dead = await channel.basic_get(f"{name}.dead")
        kept = dead.header.properties
        assert (kept.content_type, kept.correlation_id, kept.priority, kept.timestamp) == (
            "application/json",
            "c-1",
            3,
            sent,
        )
        assert kept.headers is not None
        assert (kept.headers["nested"], kept.headers["raw"]) == ({"a": [1, None]}, b"\xff")


class AsWritten(spec.Basic.Properties):
    """Properties of whatever bytes, which the client itself would not write."""

    def __init__(self, flags: int, *values: bytes) -> None:
        super().__init__()
        self._written = struct.pack(">H", flags) + b"".join(values)

    def marshal(self) -> bytes:
        return self._written


def short(text: bytes) -> bytes:
    return bytes([len(text)]) + text


def table(*fields: bytes) -> bytes:
    return struct.pack(">I", sum(map(len, fields))) + b"".join(fields)


FLAGS = spec.Basic.Properties.flags
NOTE = short(b"note") + b"S" + struct.pack(">I", 1) + b"x"
IN_MICROSECONDS = struct.pack(">Q", 1_700_000_000_000_000)


@pytest.mark.server
@KINDS
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("timestamp", IN_MICROSECONDS),
        ("message_id", short(b"\xff")),
        ("content_type", short(b"\xff")),
        ("headers", short(b"at") + b"T" + IN_MICROSECONDS),
        ("headers", short(b"\xff") + b"S" + table()),
    ],
    ids=[
        "time in microseconds",
        "id that is no text",
        "content type that is no text",
        "time in a header",
        "name of a header",
    ],
)
async def test_one_with_properties_that_the_client_cannot_read_stops_nobody(
    rabbit: RabbitServer, kind: str, name: str, value: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    queue_name = await made(rabbit, kind=kind)
    values = {
        "headers": table(NOTE),
        "delivery_mode": b"\x02",
        name: value if name != "headers" else table(NOTE, value),
    }
    properties = AsWritten(sum(FLAGS[one] for one in values), *(values[one] for one in FLAGS if one in values))
    async with by_hand(rabbit) as channel, opened(queue_name, rabbit) as queue:
        told = Told(queue)
        await channel.basic_publish(b"theirs", routing_key=queue_name, properties=properties)
        first = await the_one(queue)
        assert (first.body, first.attributes, first.attempt) == (b"theirs", {"note": "x"}, 1)
        assert f"queue {queue_name}: a message comes without what cannot be read of it" in caplog.text
        await queue.release([first.receipt])
        again = await the_one(queue)
        assert (again.body, again.attributes, again.attempt) == (b"theirs", {"note": "x"}, 2)
        await queue.dead_letter([again], reason="not ours")
        assert [(dead.body, dead.broker_id) for dead in await dead_of(queue)] == [(b"theirs", again.broker_id)]
        assert not told.receipts, "the connection was never lost"


@pytest.mark.server
@KINDS
async def test_one_whose_properties_fill_a_frame_can_wait_and_be_buried(rabbit: RabbitServer, kind: str) -> None:
    name = await made(rabbit, kind=kind)
    long = short(b"long") + b"S" + struct.pack(">I", 130_000) + b"x" * 130_000
    full = table(NOTE, long, short(b"more") + b"S" + struct.pack(">I", 950) + b"x" * 950)
    async with by_hand(rabbit) as channel, opened(name, rabbit) as queue:
        await channel.basic_publish(b"theirs", routing_key=name, properties=AsWritten(FLAGS["headers"], full))
        first = await the_one(queue)
        assert await queue.release([first.receipt], delay=0.25) == [Done(first.receipt)]
        second = await the_one(queue)
        assert (second.body, second.broker_id, second.attempt) == (b"theirs", first.broker_id, 2)
        assert await queue.dead_letter([second], reason="ü" * 500) == [Done(second.receipt)]
        kept = (await channel.basic_get(f"{name}.dead")).header.properties.headers
        assert kept is not None
        assert {"note", "more"} < kept.keys(), "what is short is kept"
        assert "long" not in kept


@given(flags=st.integers(0, 0xFFFF), rest=st.binary(max_size=60))
def test_whatever_the_properties_are_the_client_can_read_what_is_left_of_them(flags: int, rest: bytes) -> None:
    frame = struct.pack(">HHQH", 60, 0, 7, flags) + rest
    left, _ = readable(frame)
    assert (len(left), left[:12]) == (len(frame), frame[:12])
    ContentHeader().unmarshal(left)


@given(
    good=st.lists(st.sampled_from([NOTE, short(b"n") + b"I\0\0\0\1", short(b"deep") + b"F" + table(NOTE)])),
    at=st.integers(0, 5),
)
def test_of_its_headers_those_that_can_be_read_are_kept(good: list[bytes], at: int) -> None:
    frame = struct.pack(">HHQH", 60, 0, 7, FLAGS["headers"])
    bad = short(b"at") + b"T" + IN_MICROSECONDS
    left, without = readable(frame + table(*good[:at], bad, *good[at:]))
    assert left.startswith(frame + table(*good))
    assert without == ["1 of its headers"]


@pytest.mark.server
async def test_one_without_an_id_is_known_by_its_bytes(rabbit: RabbitServer) -> None:
    name = await made(rabbit)
    async with by_hand(rabbit) as channel, opened(name, rabbit) as queue:
        await channel.basic_publish(b"\xff", routing_key=name, properties=spec.Basic.Properties(message_id=""))
        first = await the_one(queue)
        assert first.broker_id
        await queue.release([first.receipt], delay=0.25)
        assert (await the_one(queue)).broker_id == first.broker_id


@pytest.mark.server
async def test_priority_is_kept_where_the_queue_has_it(rabbit: RabbitServer) -> None:
    name = await made(rabbit, kind="classic", arguments={"x-max-priority": 5})
    async with opened(name, rabbit) as queue:
        low, high = outgoing(attributes={"priority": "1"}), outgoing(attributes={"priority": "5"})
        await queue.publish([low])
        await queue.publish([high])
        first, second = await the_one(queue), await the_one(queue)
        assert [first.body, second.body] == [high.body, low.body]
        assert first.attributes == high.attributes


@pytest.mark.server
@pytest.mark.parametrize("name", ["x-death", "X-Mine", "CC", "BCC", "", "n" * 256])
async def test_headers_that_are_the_broker_s_are_refused(rabbit: RabbitServer, name: str) -> None:
    async with opened(await made(rabbit), rabbit) as queue:
        good = outgoing()
        answers = await queue.publish([Outgoing(key="a|1", body=b"{}", attributes={name: "v"}), good])
        assert isinstance(answers[0], Refused)
        assert answers[0].permanent
        assert isinstance(answers[1], Accepted)


@pytest.mark.server
async def test_attributes_that_do_not_fit_a_frame_are_refused_and_the_connection_lives(rabbit: RabbitServer) -> None:
    async with opened(await made(rabbit), rabbit) as queue:
        answers = await queue.publish(
            [outgoing(attributes={"a": "x" * 200_000}), outgoing(attributes={"a": "x" * 100_000})]
        )
        assert [type(answer) for answer in answers] == [Refused, Accepted]
        assert len((await the_one(queue)).attributes["a"]) == 100_000


# ---- leases ----------------------------------------------------------------------------------------------------------


@pytest.mark.server
async def test_nothing_is_held_longer_than_the_broker_allows(rabbit: RabbitServer) -> None:
    async with opened(f"{await made(rabbit)}?held=1", rabbit) as queue:
        await queue.publish([outgoing()])
        delivery = await the_one(queue, lease=0.5)
        assert await queue.extend([delivery.receipt], lease=0.6) == [Done(delivery.receipt)]
        (answer,) = await queue.extend([delivery.receipt], lease=1.0)
        assert isinstance(answer, NotDone)
        assert not answer.lost, "the lease it has goes on"
        assert "consumer_timeout" in answer.reason
        assert (await the_one(queue, lease=0.5)).attempt == 2, "and is over in its time"


@pytest.mark.server
async def test_a_cancelled_receive_keeps_nothing(rabbit: RabbitServer) -> None:
    name = await made(rabbit)
    async with opened(name, rabbit) as queue, opened(name, rabbit) as other:
        for _ in range(20):
            with anyio.move_on_after(0.02) as scope:
                await queue.receive(1, lease=30.0, wait=5.0)
            assert scope.cancelled_caught
        await other.publish([outgoing()])
        assert len(await other.receive(1, lease=30.0, wait=1.0)) == 1
        assert (await other.depth()).in_flight == 1


@given(st.sets(st.integers(1, 40)), st.data())
def test_an_ack_for_many_ends_exactly_those_that_are_meant(outstanding: set[int], data: st.DataObject) -> None:
    ours = set(data.draw(st.lists(st.sampled_from(sorted(outstanding))))) if outstanding else set()
    left = set(outstanding)
    for tag, multiple in grouped(sorted(outstanding), ours):
        assert tag in left, "the broker ends the channel of whoever names a number that is not outstanding"
        left -= {one for one in left if one <= tag} if multiple else {tag}
    assert left == outstanding - ours
    assert all(not multiple for _, multiple in grouped([], ours)), "where it is not known what else is outstanding"


# ---- addresses and making ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "url", "server", "queue"),
    [
        ("rabbitmq:billing", None, "amqp://127.0.0.1:5672", "billing"),
        ("billing", "amqp://host/prod", "amqp://host:5672/prod", "billing"),
        ("amqp://host/billing", None, "amqp://host:5672", "billing"),
        ("amqp://host:1234/%2F/billing", None, "amqp://host:1234", "billing"),
        ("amqps://me:pass@host/a%2Fb/billing%2Fnew?dead=d", None, "amqps://me:pass@host:5671/a%2Fb", "billing/new"),
    ],
)
def test_addresses(text: str, url: str | None, server: str, queue: str) -> None:
    place = address_of(text, url=url)
    assert (place.url, place.queue) == (server, queue)
    assert "pass" not in place.shown


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("amqp://me:swordfish@host", "cannot be a queue's name"),
        ("amqp://me:swordfish@host:x/billing", "cannot be read"),
        ("amqp://me:swordfish/x@host/billing", "%-escapes"),
        ("amqp://me:1/swordfish@host:5672/billing", "%-escapes"),
        ("amqp://me:swordfish#x@host/billing", "%-escapes"),
        ("amqp://me:a/b?swordfish@host/billing", "%-escapes"),
        ("amqp://me:swordfish@host/billing?prefetch=3", "no option"),
        ("amqp://me:swordfish@host/billing?heartbeat=0", "whole seconds"),
        ("rabbitmq:", "cannot be a queue's name"),
        ("rabbitmq:amq.billing", "does not begin with"),
    ],
)
def test_addresses_that_are_none(text: str, said: str) -> None:
    with pytest.raises(UsageError) as raised:
        address_of(text)
    assert said in str(raised.value)
    assert "swordfish" not in str(raised.value)


@pytest.mark.server
async def test_ensure_says_what_is_otherwise_and_changes_nothing(rabbit: RabbitServer) -> None:
    name = await made(rabbit, max_attempts=3)
    assert await made(rabbit) != name
    with pytest.raises(UsageError, match="x-delivery-limit"):
        await ensure(name, url=rabbit.url, max_attempts=4)
    assert await ensure(name, url=rabbit.url, max_attempts=3) == name
    with pytest.raises(UsageError, match="only a quorum queue counts"):
        await ensure(name, url=rabbit.url, kind="classic", max_attempts=3)

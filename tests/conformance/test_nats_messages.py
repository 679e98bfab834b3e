"""NATS without a server: addresses, receipts, headers, what is refused before anything is sent, and wrong use."""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfoot import Crossfoot
from crossfoot.errors import QueueUnavailable, UsageError
from crossfoot.queues.nats import NatsQueue, ensure, given_up
from crossfoot.queues.nats.address import address_of
from crossfoot.queues.nats.answers import Rejected
from crossfoot.queues.nats.checks import found, unfit, warnings
from crossfoot.queues.nats.given_up import GivenUp, Kept
from crossfoot.queues.nats.messages import Entry, Rules, dead_headers, encoded, entry_of, plain_id, size_of
from crossfoot.queues.nats.publishing import refused
from crossfoot.queues.nats.receipts import receipt_of
from crossfoot.queues.nats.stream import Standing, Stored
from crossfoot.queues.queue import Doubtful, Outgoing, Refused

RULES = Rules(queue="ORDERS/billing", stream="ORDERS", max_bytes=1_024)


# ---- addresses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "servers", "name"),
    [
        ("nats://host:4222/ORDERS/billing", ("nats://host:4222",), "ORDERS/billing"),
        ("nats://me:pass@a:1,b:2/ORDERS/billing", ("nats://me:pass@a:1", "nats://me:pass@b:2"), "ORDERS/billing"),
        ("tls://host/ORDERS/billing", ("tls://host",), "ORDERS/billing"),
        ("nats:ORDERS/billing", ("nats://127.0.0.1:4222",), "ORDERS/billing"),
        ("ORDERS/billing", ("nats://127.0.0.1:4222",), "ORDERS/billing"),
        ("nats://host:4222/ORDERS", ("nats://host:4222",), "ORDERS/service"),
    ],
)
def test_an_address_names_servers_stream_and_durable(text: str, servers: tuple[str, ...], name: str) -> None:
    address = address_of(text, durable="service")
    assert (address.servers, address.name) == (servers, name)


def test_an_address_without_servers_takes_the_setting_s_and_may_say_more() -> None:
    address = address_of("nats:ORDERS/billing?subject=orders.new&dead=DEAD&creds=me.creds", servers="nats://a:1, b:2")
    assert address.servers == ("nats://a:1", "nats://b:2")
    assert (address.subject, address.dead, address.creds) == ("orders.new", "DEAD", "me.creds")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nats://me:swordfish@host:4222", "'' cannot be a stream's name"),
        ("nats://me:swordfish@host:4222/ORDERS", "'' cannot be a durable's name"),
        ("nats://me:swordfish@host/ORDERS/a.b", "'a.b' cannot be a durable's name"),
        ("nats://me:swordfish@host/ORDERS/billing?subjct=x", r"\?subjct= is no option"),
        ("http://me:swordfish@host/ORDERS/billing", "no NATS addresses"),
        ("nats://me:swordfish@/ORDERS/billing", "no NATS addresses"),
    ],
)
def test_an_address_that_is_none_is_refused_without_its_password(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as error:
        address_of(text)
    assert "swordfish" not in str(error.value)


def test_servers_are_shown_without_anybody_s_credentials() -> None:
    assert address_of("nats://me:p@ss@a:1,token@b:2/ORDERS/billing").shown == "nats://a:1, nats://b:2"


def test_a_service_without_a_durable_in_its_address_has_one_of_its_own_name() -> None:
    assert Crossfoot("billing", queue="nats://127.0.0.1:9/ORDERS").queue.name == "ORDERS/billing"


# ---- receipts --------------------------------------------------------------------------------------------------------


def test_a_receipt_tells_all_there_is_to_know_of_a_delivery() -> None:
    short = receipt_of("$JS.ACK.ORDERS.billing.2.17.40.1795703670050587232.3")
    long = receipt_of("$JS.ACK.hub.ACC.ORDERS.billing.2.17.40.1795703670050587232.3.rnd")
    assert short == long
    assert short is not None
    assert (short.stream, short.durable, short.attempt, short.sequence) == ("ORDERS", "billing", 2, 17)
    assert short.enqueued_at == 1_795_703_670_050_587
    assert short.dead_id == "ORDERS|17|1795703670050587232"


@pytest.mark.parametrize("text", ["", "no such receipt", "$JS.ACK.", "$JS.ACK.a.b.c.d.e.f.g", "$JS.ACK.a.b.1.2.3"])
def test_anything_else_is_no_receipt(text: str) -> None:
    assert receipt_of(text) is None


# ---- messages --------------------------------------------------------------------------------------------------------


def entry(**message: Any) -> Entry:
    made = entry_of(Outgoing(**{"key": "shop|1", "body": b"{}"} | message), RULES)
    assert isinstance(made, Entry), made
    return made


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"body": b"x" * 1_025}, "1025 bytes.*takes 1024"),
        ({"body": b"x" * 1_020, "attributes": {"a": "b"}}, "1026 bytes, attributes included"),
        ({"attributes": {"Nats-TTL": "1"}}, "the NATS server's own"),
        ({"attributes": {"a b": "c"}}, "header named 'a b'"),
        ({"attributes": {"": "c"}}, "header named ''"),
        ({"delay": 1.0}, "cannot delay a publish"),
    ],
)
def test_what_jetstream_would_never_take_is_refused_with_its_reason(message: dict[str, Any], reason: str) -> None:
    answer = entry_of(Outgoing(**{"key": "shop|1", "body": b"{}"} | message), RULES)
    assert isinstance(answer, Refused)
    assert answer.permanent
    assert re.search(reason, answer.reason)


def test_the_deduplication_key_is_the_message_id_as_it_is_or_its_hash() -> None:
    assert entry().headers["Nats-Msg-Id"] == "shop|1"
    assert entry(deduplication="again|1").headers["Nats-Msg-Id"] == "again|1"
    for odd in ("grün", "a b", "x" * 201, "line\nbreak"):
        assert re.fullmatch("[0-9a-f]{64}", plain_id(odd))


@given(value=st.text(max_size=200))
def test_an_attribute_is_a_header_without_anything_a_header_could_trip_over(value: str) -> None:
    assume_utf8(value)
    text = encoded(value)
    assert re.fullmatch("[!-~]*", text)
    from urllib.parse import unquote

    assert unquote(text) == value


def assume_utf8(text: str) -> None:
    from hypothesis import assume

    assume(not re.search("[\ud800-\udfff]", text))


@given(room=st.integers(0, 600), reason=st.text("ä%x ", max_size=300))
def test_what_is_told_about_a_death_never_takes_more_room_than_there_is(room: int, reason: str) -> None:
    native = {"Nats-Msg-Id": "shop|1", "note": "x"}
    headers = dead_headers(native, {"crossfoot-reason": reason}, room=room)
    assert headers["note"] == "x", "what the message had stays"
    assert "Nats-Msg-Id" not in headers
    assert size_of(headers) <= max(room, size_of({"note": "x"}))


@pytest.mark.parametrize(
    ("code", "number", "text", "kind", "permanent"),
    [
        (400, 10054, "message size exceeds maximum allowed", Refused, True),
        (400, 10060, "expected stream does not match", Refused, False),
        (503, 10077, "maximum messages exceeded", Refused, False),
        (503, 10077, "write failed", Doubtful, None),
        (503, 10023, "insufficient resources", Doubtful, None),
        (500, 0, "", Doubtful, None),
    ],
)
def test_a_refusal_is_one_only_where_it_proves_that_nothing_was_stored(
    code: int, number: int, text: str, kind: type, permanent: bool | None
) -> None:
    answer = refused("shop|1", Rejected(code, number, text))
    assert type(answer) is kind
    assert getattr(answer, "permanent", None) is permanent


# ---- settings --------------------------------------------------------------------------------------------------------


def info(retention: str = "workqueue", consumers: int = 1, **config: Any) -> dict[str, Any]:
    return {
        "config": {"retention": retention, "subjects": ["orders"], **config},
        "state": {"consumer_count": consumers},
    }


def durable(**config: Any) -> dict[str, Any]:
    return {"config": {"ack_policy": "explicit", "ack_wait": 30_000_000_000, **config}}


@pytest.mark.parametrize(
    ("stream", "consumer", "subject"),
    [
        (info(), durable(), "orders"),
        (info(subjects=["orders.>"]), durable(), ""),
        (info(subjects=["a", "b"]), durable(), ""),
        (info(subjects=["orders.>"]), durable(filter_subject="orders.new"), "orders.new"),
        (info(), durable(filter_subjects=["a", "b"]), ""),
    ],
)
def test_what_is_published_to_is_the_one_subject_there_is(
    stream: dict[str, Any], consumer: dict[str, Any], subject: str
) -> None:
    assert found(stream, consumer, subject="", max_payload=1_000_000).subject == subject
    assert found(stream, consumer, subject="stated", max_payload=1_000_000).subject == "stated"


@pytest.mark.parametrize(
    ("retention", "kept"), [("workqueue", Kept.UNACKED), ("interest", Kept.MORE), ("limits", Kept.MORE)]
)
def test_only_a_work_queue_holds_exactly_what_is_not_acked(retention: str, kept: Kept) -> None:
    assert found(info(retention), durable(), subject="", max_payload=1).kept is kept


def test_a_consumer_s_own_limits_are_kept() -> None:
    limited = found(info(), durable(max_batch=7, max_expires=2_000_000_000), subject="", max_payload=1)
    assert (limited.max_receive, limited.longest_pull) == (7, 2.0)
    assert found(info(), durable(max_ack_pending=3), subject="", max_payload=1).max_receive == 3


def test_a_usual_queue_is_fit_and_warned_of_nothing() -> None:
    assert unfit(info(), durable()) == ""
    assert warnings(info(storage="file"), durable(max_deliver=-1)) == []


# ---- what was given up -----------------------------------------------------------------------------------------------


class Looks:
    """A reader that sees a stream change from look to look."""

    def __init__(self, walks: list[list[int]], standings: list[Standing]) -> None:
        self._walks, self._standings = walks, standings

    async def count(self) -> int:
        return len(self._walks[0])

    async def standing(self) -> Standing:
        return self._standings.pop(0)

    async def walk(self) -> AsyncIterator[Stored]:
        for sequence in self._walks.pop(0):
            yield Stored(sequence=sequence, body=b"", headers={}, at_nanos=0)


AT_REST = Standing(ready=0, in_flight=0, delivered=3)


@pytest.mark.parametrize(
    ("walks", "then", "found"),
    [
        ([[1, 2, 4], [1, 2, 4]], AT_REST, [1, 2]),
        ([[1, 2], [2]], AT_REST, [2]),
        ([[1, 2], [1, 2]], Standing(ready=0, in_flight=1, delivered=3), []),
        ([[1, 2], [1, 2]], Standing(ready=0, in_flight=0, delivered=4), []),
    ],
    ids=["both looks show it", "an ack removes it meanwhile", "it is delivered again", "the consumer goes on"],
)
async def test_given_up_is_what_two_looks_show_at_a_consumer_at_rest(
    monkeypatch: pytest.MonkeyPatch, walks: list[list[int]], then: Standing, found: list[int]
) -> None:
    monkeypatch.setattr(given_up, "LOOKS_APART", 0.0)
    reader: Any = Looks(walks, [then])
    nobody: Any = None
    watch = GivenUp(reader, nobody, "ORDERS", "billing", Kept.UNACKED)

    assert [stored.sequence for stored in await watch.sequences(AT_REST)] == found


# ---- wrong use -------------------------------------------------------------------------------------------------------


async def test_without_the_client_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nats.aio.client", None)
    with pytest.raises(UsageError, match=r"crossfoot\[nats\]"):
        await NatsQueue("ORDERS/billing").open()


async def test_a_server_nobody_runs_is_unavailable() -> None:
    with pytest.raises(QueueUnavailable, match=r"cannot be reached at nats://127\.0\.0\.1:9, and was asked nothing"):
        await ensure("ORDERS/billing", servers="nats://me:swordfish@127.0.0.1:9")


def test_poll_and_timeout_out_of_range_are_wrong_use() -> None:
    wrong: tuple[dict[str, Any], ...] = ({"poll": 31.0}, {"poll": 0.0}, {"timeout": 0.0})
    for options in wrong:
        with pytest.raises(UsageError, match="queue ORDERS/billing"):
            NatsQueue("ORDERS/billing", **options)

"""SQS without a server: what is refused before anything is sent, how lists are cut and answers read, and wrong use."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import boto3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfoot.errors import QueueUnavailable, UsageError
from crossfoot.queues.queue import Accepted, Done, Doubtful, NotDone, Outgoing, Refused
from crossfoot.queues.sqs import SqsQueue, ensure
from crossfoot.queues.sqs.messages import BATCH, Entry, Rules, batches, entry_of, not_done, published
from crossfoot.queues.sqs.settling import Settler

STANDARD = Rules(queue="orders", fifo=False, max_bytes=1_024)
FIFO = Rules(queue="orders.fifo", fifo=True, max_bytes=1_024)


def refusal(rules: Rules = STANDARD, **message: Any) -> str:
    """Why the message is refused for good."""
    refused = entry_of(Outgoing(**{"key": "shop|1", "body": b"{}"} | message), rules)
    assert isinstance(refused, Refused), refused
    assert refused.permanent
    assert refused.key == "shop|1"
    return refused.reason


def entry(rules: Rules = STANDARD, **message: Any) -> Entry:
    made = entry_of(Outgoing(**{"key": "shop|1", "body": b"{}"} | message), rules)
    assert isinstance(made, Entry), made
    return made


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"body": b""}, "no empty body"),
        ({"body": b'{"a": "\xff"}'}, "byte 7 of the body is not UTF-8"),
        ({"body": b"a\x00b"}, "U\\+0000, at 1 of the body"),
        ({"body": "\ufffe".encode()}, "U\\+FFFE"),
        ({"body": b"x" * 1_025}, "MessageTooLarge: 1025 bytes.*queue orders takes 1024"),
        ({"body": b"x" * 1_020, "attributes": {"a": "b"}}, "MessageTooLarge: 1028 bytes, attributes included"),
        ({"attributes": {f"a{number}": "b" for number in range(11)}}, "11 attributes; SQS takes 10"),
        ({"attributes": {"AWS.trace": "b"}}, "named 'AWS.trace'"),
        ({"attributes": {"a..b": "b"}}, "named 'a..b'"),
        ({"attributes": {"a b": "b"}}, "named 'a b'"),
        ({"attributes": {"a": ""}}, "no empty attribute, and 'a' is"),
        ({"attributes": {"a": "\x01"}}, "U\\+0001, in attribute 'a'"),
        ({"delay": 901.0}, "900 s at most"),
    ],
)
def test_what_sqs_would_never_take_is_refused_with_its_reason(message: dict[str, Any], reason: str) -> None:
    assert re.search(reason, refusal(**message))


def test_a_fifo_queue_refuses_to_delay_one_message() -> None:
    assert "cannot delay one message" in refusal(FIFO, delay=1.0)


def test_a_delay_is_rounded_up_to_whole_seconds() -> None:
    assert entry(delay=0.2).request["DelaySeconds"] == 1
    assert "DelaySeconds" not in entry(delay=0.0).request


def test_the_deduplication_id_of_a_message_never_changes() -> None:
    first, second = entry(FIFO, key="shop|1"), entry(FIFO, key="shop|1", body=b'{"other": 1}')
    other = entry(FIFO, key="shop|2")
    assert first.request["MessageDeduplicationId"] == second.request["MessageDeduplicationId"]
    assert first.request["MessageDeduplicationId"] != other.request["MessageDeduplicationId"]
    assert "MessageDeduplicationId" not in entry(STANDARD).request


def test_a_partition_is_its_own_group_and_messages_without_one_share_none() -> None:
    assert entry(FIFO, partition="case-1").group == "case-1"
    assert len(entry(FIFO, partition="Fall ä").group) == 64
    assert entry(FIFO, key="shop|1").group != entry(FIFO, key="shop|2").group


@given(sizes=st.lists(st.integers(1, 1_000)), limit=st.integers(1, 3_000))
def test_batches_keep_every_entry_in_order_and_both_limits(sizes: list[int], limit: int) -> None:
    entries = [Entry(key=str(number), request={}, size=size) for number, size in enumerate(sizes)]
    cut = list(batches(entries, limit))
    assert [one for batch in cut for one in batch] == entries
    assert all(1 <= len(batch) <= BATCH for batch in cut)
    assert all(len(batch) == 1 or sum(one.size for one in batch) <= limit for batch in cut)


@given(
    said=st.lists(st.sampled_from(["sent", "failed", "nothing"]), max_size=10),
    order=st.randoms(use_true_random=False),
)
def test_every_entry_gets_the_answer_that_was_given_to_it(said: list[str], order: Any) -> None:
    batch = [Entry(key=f"key-{number}", request={}, size=1) for number in range(len(said))]
    sent = [{"Id": str(number), "MessageId": f"id-{number}"} for number, one in enumerate(said) if one == "sent"]
    failed = [{"Id": str(number), "Code": "InternalError"} for number, one in enumerate(said) if one == "failed"]
    order.shuffle(sent)
    answers = published(batch, {"Successful": sent, "Failed": failed})
    kinds = {"sent": Accepted, "failed": Refused, "nothing": Doubtful}
    assert [(answer.key, type(answer)) for answer in answers] == [
        (f"key-{number}", kinds[one]) for number, one in enumerate(said)
    ]
    assert all(
        answer.broker_id == answer.key.replace("key", "id") for answer in answers if isinstance(answer, Accepted)
    )


@pytest.mark.parametrize(
    ("code", "text", "lost"),
    [
        ("ReceiptHandleIsInvalid", "The input receipt handle is invalid.", True),
        ("InvalidParameterValue", "Value rh-1 for parameter ReceiptHandle is invalid. Reason: expired.", True),
        ("AWS.SimpleQueueService.MessageNotInflight", "", True),
        ("InvalidParameterValue", "Total VisibilityTimeout for the message is beyond the limit", False),
        ("InternalError", "", False),
    ],
)
def test_a_receipt_is_lost_only_where_the_service_says_so(code: str, text: str, lost: bool) -> None:
    answer = not_done("rh-1", code, text)
    assert answer.lost is lost
    assert "rh-1" not in answer.reason, "handles are long and tell nobody anything"


async def test_without_the_client_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "botocore.config", None)
    with pytest.raises(UsageError, match=r"crossfoot\[sqs\]"):
        await SqsQueue("orders").open()


async def test_without_a_region_the_error_says_how_to_give_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    session = bare_session(monkeypatch, tmp_path)
    with pytest.raises(UsageError, match=r"no region for queue orders: set `region` .*or AWS_DEFAULT_REGION"):
        await SqsQueue("orders", session=session).open()


async def test_without_credentials_the_error_says_how_to_give_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    session = bare_session(monkeypatch, tmp_path)
    with pytest.raises(UsageError, match="no credentials for queue orders: set AWS_ACCESS_KEY_ID"):
        await SqsQueue("orders", region="eu-central-1", endpoint_url="http://127.0.0.1:9", session=session).open()


async def test_an_address_that_is_none_is_wrong_use() -> None:
    with pytest.raises(UsageError, match="no client for queue orders: Invalid endpoint"):
        await SqsQueue("orders", region="eu-central-1", endpoint_url="no address").open()


async def test_a_service_nobody_listens_at_is_unavailable() -> None:
    session = boto3.Session(aws_access_key_id="test", aws_secret_access_key="test", region_name="eu-central-1")
    with pytest.raises(QueueUnavailable, match="queue orders cannot be reached, and was asked nothing"):
        await ensure("orders", endpoint_url="http://127.0.0.1:9", session=session)


def test_poll_and_timeout_out_of_range_are_wrong_use() -> None:
    with pytest.raises(UsageError, match="queue orders"):
        SqsQueue("orders", poll=21)
    with pytest.raises(UsageError, match="queue orders"):
        SqsQueue("orders", timeout=0)


def test_a_queue_named_by_its_url_goes_by_its_name() -> None:
    assert SqsQueue("https://sqs.eu-central-1.amazonaws.com/123456789012/orders.fifo").name == "orders.fifo"


def bare_session(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> boto3.Session:
    """A session that finds nothing: no environment, no files, no machine role."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return boto3.Session()


@pytest.mark.parametrize("what", ["delete", "hide"])
async def test_of_a_batch_that_fails_in_part_each_receipt_is_told_its_own(what: str) -> None:
    answer = {
        "Successful": [{"Id": "0"}],
        "Failed": [
            {"Id": "1", "Code": "ReceiptHandleIsInvalid", "Message": "b is void", "SenderFault": True},
            {"Id": "2", "Code": "InternalError", "Message": "try again", "SenderFault": False},
        ],
    }

    class Service:
        async def change(self, call: Any) -> Any:
            return answer

    service: Any = Service()
    settler, receipts = Settler(service, "url"), ["a", "b", "c", "d"]
    first, void, later, unnamed = await (settler.delete(receipts) if what == "delete" else settler.hide(receipts, 0))

    assert first == Done("a")
    assert isinstance(void, NotDone)
    assert void.lost
    assert isinstance(later, NotDone)
    assert not later.lost
    assert "InternalError" in later.reason
    assert isinstance(unnamed, NotDone)
    assert not unnamed.lost
    assert [one.receipt for one in (void, later, unnamed)] == ["b", "c", "d"]

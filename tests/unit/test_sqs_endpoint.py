"""An endpoint that is not set is told as that: who means an emulator takes AWS for one that is down."""

from __future__ import annotations

import boto3
import botocore.exceptions
import pytest

from crossfoot.errors import QueueUnavailable
from crossfoot.queues.sqs.client import Client, read_error, region_of


def client(endpoint: str | None) -> Client:
    session = boto3.Session(aws_access_key_id="test", aws_secret_access_key="test", region_name="eu-central-1")
    return Client("billing", endpoint_url=endpoint, region=None, timeout=1.0, longest_wait=1.0, session=session)


def told(of: Client) -> str:
    unreachable = botocore.exceptions.EndpointConnectionError(endpoint_url="it")
    error = read_error(unreachable, of.label, where=of.whose)
    assert isinstance(error, QueueUnavailable)
    return str(error)


def test_without_an_endpoint_aws_itself_was_asked() -> None:
    asked = client(None)
    assert "No endpoint is set, so AWS itself was asked (sqs.eu-central-1.amazonaws.com)" in told(asked)
    asked.close()


def test_with_one_the_address_is_in_doubt_and_nothing_else() -> None:
    asked = client("http://127.0.0.1:4566")
    assert told(asked).endswith("Check the address")
    asked.close()


@pytest.mark.parametrize(
    ("address", "region"),
    [
        ("https://sqs.eu-west-1.amazonaws.com/1/q", "eu-west-1"),
        ("https://sqs-fips.us-east-2.amazonaws.com/1/q", "us-east-2"),
        ("https://sqs.cn-north-1.amazonaws.com.cn/1/q", "cn-north-1"),
        ("https://sqs.eu-central-1.api.aws/1/q", "eu-central-1"),
        ("https://vpce-0a-1b.sqs.us-west-2.vpce.amazonaws.com/1/q", "us-west-2"),
        ("https://eu-west-1.queue.amazonaws.com/1/q", "eu-west-1"),
        ("https://queue.amazonaws.com/1/q", None),
        ("http://127.0.0.1:4566/1/q", None),
        ("https://sqs.eu-west-1.amazonaws.com.example.org/1/q", None),
        ("billing", None),
    ],
)
def test_a_queues_url_names_its_region(address: str, region: str | None) -> None:
    assert region_of(address) == region

"""An endpoint that is not set is told as that: who means an emulator takes AWS for one that is down."""

from __future__ import annotations

import boto3
import botocore.exceptions

from crossfoot.errors import QueueUnavailable
from crossfoot.queues.sqs.client import Client, read_error


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

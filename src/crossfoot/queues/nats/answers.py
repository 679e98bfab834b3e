"""What an answer of the server's proves: done, refused, or nothing at all."""

from __future__ import annotations

from typing import Any

import msgspec


class NoAnswer(Exception):
    """The request was sent, or may have been, and nobody knows what became of it."""


class NobodyListens(Exception):
    """No stream, consumer or service takes requests on that subject: nothing was done."""


class Rejected(Exception):
    """The server refused the request: nothing was done."""

    def __init__(self, code: int, number: int, text: str) -> None:
        self.code = code
        """Like HTTP's; 5xx proves nothing."""
        self.number = number
        """The server's own number of the error."""
        self.text = text
        super().__init__(f"{text} ({number or code})")


def answer_of(data: bytes) -> dict[str, Any]:
    """JetStream's JSON.

    Raises:
        Rejected: it is a refusal.
        NoAnswer: it cannot be read.
    """
    try:
        answer = msgspec.json.decode(data, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise NoAnswer(f"the answer could not be read: {error}") from error
    if said := answer.get("error"):
        raise Rejected(int(said.get("code", 0)), int(said.get("err_code", 0)), str(said.get("description", "")))
    return answer

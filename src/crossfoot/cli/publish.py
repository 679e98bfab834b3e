"""`crossfoot publish`: send a message by hand, or many from a file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import anyio
import msgspec
import typer

from crossfoot.app import Crossfoot
from crossfoot.books import queries
from crossfoot.cli.answering import say
from crossfoot.cli.loading import load_app
from crossfoot.cli.output import clean, complain, note
from crossfoot.errors import EnvelopeInvalid, QueueUnavailable, UsageError
from crossfoot.message import Message, decode
from crossfoot.queues.queue import Accepted, PublishAnswer, Refused

GROUP = 500


def publish(
    target: Annotated[str, typer.Argument(help="the service: MODULE:NAME, as in billing:app", metavar="MODULE:NAME")],
    type_: Annotated[str | None, typer.Argument(help="the message's type, as in case.released", metavar="TYPE")] = None,
    data: Annotated[
        str, typer.Option("--data", "-d", help="the payload as JSON; - reads it from standard input")
    ] = "null",
    subject: Annotated[str | None, typer.Option("--subject", "-s", help="the entity it concerns")] = None,
    sequence: Annotated[int | None, typer.Option(help="its order within the subject")] = None,
    operation: Annotated[str | None, typer.Option(help="the operation key, if the handler does not make one")] = None,
    source: Annotated[str | None, typer.Option(help="who sends it; the service's name unless given")] = None,
    message_id: Annotated[str | None, typer.Option("--id", help="its id; a new one unless given")] = None,
    correlation: Annotated[str | None, typer.Option(help="the flow it belongs to")] = None,
    causation: Annotated[str | None, typer.Option(help="the id of what caused it")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="CloudEvents in JSON, one a line; - for standard input")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the answers as JSON")] = False,
) -> None:
    """Publish a message, durably: it is in the book before the queue is asked.

        crossfoot publish billing:app case.released -s case-4711 -d '{"amount": 120}'
        crossfoot publish billing:app --file events.jsonl

    Exits with 1 when the queue refused one, or gave no answer; with 2 when there is no such queue, or it is not set as it must
    be: then nothing was sent, and the book says that they were refused.
    """
    app = load_app(target)
    if type_ is not None and len(app.registry) and app.registry.find(type_) is None:
        near = get_close_matches(type_, [handler.type for handler in app.registry], 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        note(f"no handler of {app.name} takes {type_!r}{hint}")
    if (file is None) == (type_ is None):
        raise UsageError("publish needs either a TYPE or --file: name what to send, once")
    if file is not None:
        groups: Iterator[list[Message]] = _from_file(file)
    else:
        attributes = {
            "subject": subject, "sequence": sequence, "operation": operation, "correlationid": correlation,
            "causationid": causation, "source": source,
        }  # fmt: skip
        stated: dict[str, Any] = {name: value for name, value in attributes.items() if value is not None}
        if message_id is not None:
            stated["id"] = message_id
        message = app.message(str(type_), data=_payload(data), **stated)
        if message_id is not None:
            _say_where_it_is(app, message)
        groups = iter([[message]])
    try:
        answers = anyio.run(_publish, app, groups)
    except QueueUnavailable as error:
        raise typer.Exit(_say_kept(error, app)) from None
    _report(answers, as_json)
    if not all(isinstance(answer, Accepted) for answer in answers):
        raise typer.Exit(1)


def _say_where_it_is(app: Crossfoot, message: Message) -> None:
    """Whoever means to send a message again, and names the wrong service, would make it a second one."""
    app.book.open()
    with app.book.reading() as connection:
        queues = [row.queue for row in queries.named(connection, "message key", message.key, 10)]
    if queues and app.queue.name not in queues:
        note(
            f"the book knows message {message.id} on queue {' and '.join(queues)} only, and this one goes to queue {app.queue.name} as a "
            "message of its own: to send that one again, name the service that works its queue"
        )


def _say_kept(error: QueueUnavailable, app: Crossfoot) -> int:
    """Say that what could not be sent is kept; the exit code.

    Raises:
        QueueUnavailable: it is not.
    """
    if not error.kept:
        raise error
    first, more = error.kept[0], len(error.kept) - 1
    kept = f"message {first} and {more:,} more are" if more else f"message {first} is"
    return complain(
        f"{str(error).rstrip('.')}. But {kept} in the book, and a worker of {app.name} sends what is there when the queue answers: do "
        f"not publish it again. If the address is wrong, take it back: crossfoot discard {first} --reason '...'",
        code=1,
    )


async def _publish(app: Crossfoot, groups: Iterator[list[Message]]) -> list[PublishAnswer]:
    answers: list[PublishAnswer] = []
    try:
        for group in groups:
            answers.extend(await app.publish(*group))
    finally:
        await app.aclose()
    return answers


def _payload(text: str) -> Any:
    try:
        return msgspec.json.decode(sys.stdin.buffer.read() if text == "-" else text.encode())
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        hint = ": quote it for the shell, as in --data '{\"amount\": 120}'" if "malformed" in str(error) else ""
        if text.startswith("@"):
            hint = ": what a file holds is read from stdin, as in --data - < file.json"
        raise UsageError(f"--data is not JSON ({error}){hint}") from error


def _from_file(file: Path) -> Iterator[list[Message]]:
    """Groups of messages; the whole file is read and checked before the first is sent."""
    try:
        lines = sys.stdin.buffer.read().splitlines() if str(file) == "-" else file.read_bytes().splitlines()
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from error
    messages = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            messages.append(decode(line))
        except EnvelopeInvalid as error:
            raise UsageError(f"{file}, line {number}: {error}; nothing was sent") from error
    return iter([messages[start : start + GROUP] for start in range(0, len(messages), GROUP)])


def _report(answers: list[PublishAnswer], as_json: bool) -> None:
    rows = [
        {"message": answer.key, "answer": _word(answer), "reason": getattr(answer, "reason", None)}
        for answer in answers
    ]
    if as_json:
        say(msgspec.json.encode(rows).decode())
        return
    if len(rows) > 10:
        counts = {word: sum(row["answer"] == word for row in rows) for word in ("accepted", "refused", "in doubt")}
        say(", ".join(f"{count} {word}" for word, count in counts.items() if count))
    for row in rows if len(rows) <= 10 else [row for row in rows if row["answer"] != "accepted"]:
        say(
            clean(
                f"{row['answer']}  {str(row['message']).partition('|')[2]}"
                + (f"  ({row['reason']})" if row["reason"] else "")
            )
        )


def _word(answer: PublishAnswer) -> str:
    if isinstance(answer, Accepted):
        return "accepted"
    return "refused" if isinstance(answer, Refused) else "in doubt"

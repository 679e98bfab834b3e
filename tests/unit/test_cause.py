"""Causes: what failures have in common."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy.exc

from crossfoot.books.cause import MAX_TEXT, Cause, cause_of
from crossfoot.effects.proof import Evidence, judge
from crossfoot.errors import NoProof, PayloadInvalid


def run(function: Callable[[], object]) -> None:
    """Through asyncio, whose frames are nobody's code."""

    async def call() -> None:
        function()

    asyncio.run(call())


class OutOfStock(Exception):
    pass


def cause(function: Callable[..., object], *arguments: object) -> Cause:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever it raises is the subject
        function(*arguments)
    error = caught.value
    assert error.__traceback__ is not None
    error.__traceback__ = error.__traceback__.tb_next  # without this helper's own frame
    return cause_of(error)


def bill(number: int) -> None:
    reserve(number)


def reserve(number: int) -> None:
    if number % 2:
        raise OutOfStock(f"article {number} is out of stock")
    raise OutOfStock(f"no article {number}")


def store(number: int) -> None:
    raise OutOfStock(f"article {number} is out of stock")


def descend(depth: int) -> None:
    if depth == 0:
        raise OutOfStock("at the bottom")
    descend(depth - 1)


def test_failures_that_differ_in_values_and_lines_have_one_cause() -> None:
    assert cause(bill, 1).fingerprint == cause(bill, 3).fingerprint == cause(bill, 4).fingerprint


def test_another_place_is_another_cause() -> None:
    assert cause(bill, 1).fingerprint != cause(store, 1).fingerprint
    assert cause(bill, 1).fingerprint != cause(reserve, 1).fingerprint


def test_another_exception_is_another_cause() -> None:
    def divide(kind: type[Exception]) -> None:
        raise kind("no")

    assert cause(divide, ValueError).fingerprint != cause(divide, KeyError).fingerprint


def test_a_cause_names_the_type_and_the_place() -> None:
    found = cause(bill, 1)

    assert found.kind.endswith("test_cause.OutOfStock")
    assert found.title == f"OutOfStock at {__name__}:reserve"
    assert found.frames.splitlines() == [f"{__name__}:bill", f"{__name__}:reserve"]
    assert found.text == "article 1 is out of stock"
    assert len(found.fingerprint) == 12


def module(name: str, file: str, source: str, **given: object) -> Any:
    """The function `charge` of a module that is not on disk."""
    names: dict[str, object] = {"__name__": name, **given}
    exec(compile(source, file, "exec"), names)  # noqa: S102 - the only way to have code in a file of any name
    return names["charge"]


CHARGE = "def charge(number):\n    raise KeyError(number)\n"


def test_a_failure_tells_the_line_it_was_raised_in() -> None:
    assert cause(module("billing", "/srv/app/billing.py", CHARGE), 7).raised == "billing.py:2 charge()"
    assert cause(module("shop.cards", "/srv/shop/cards.py", CHARGE), 7).raised == "shop/cards.py:2 charge()"
    assert cause(module("shop", "/srv/shop/__init__.py", CHARGE), 7).raised == "shop/__init__.py:2 charge()"


def test_a_line_that_moves_is_told_and_is_the_same_cause() -> None:
    before = cause(module("billing", "billing.py", CHARGE), 7)
    after = cause(module("billing", "billing.py", "# a comment\n\n" + CHARGE), 7)

    assert (before.raised, after.raised) == ("billing.py:2 charge()", "billing.py:4 charge()")
    assert before.fingerprint == after.fingerprint


PARSE = "import json\n\ndef charge(text):\n    return json.loads(text)\n"
PASS_ON = "def charge(value):\n    return call(value)\n"


def test_the_line_is_one_of_the_users_own_code_and_not_of_a_library() -> None:
    client = module("client", "/venv/lib/site-packages/client.py", CHARGE)

    assert cause(module("billing", "billing.py", PARSE), "{").raised == "billing.py:4 charge()"
    assert cause(module("billing", "billing.py", PASS_ON, call=client), 7).raised == "billing.py:2 charge()"


def test_a_service_that_is_installed_is_no_library_to_itself() -> None:
    folder = "/venv/lib/site-packages"
    client = module("client", f"{folder}/client.py", CHARGE)
    cards = module("billing.cards", f"{folder}/billing/cards.py", PASS_ON, call=client)
    handler = module("billing.handlers", f"{folder}/billing/handlers.py", PASS_ON, call=cards)

    assert cause(handler, 7).raised == "billing/cards.py:2 charge()"


def test_of_what_crossfoot_found_itself_no_line_is_told_but_that_of_the_error_behind_it() -> None:
    with pytest.raises(NoProof) as caught:
        judge(None, Evidence(), (), what="order 7")
    caught.value.__traceback__ = caught.value.__traceback__ and caught.value.__traceback__.tb_next
    assert cause_of(caught.value).raised == ""

    try:
        reserve(1)
    except OutOfStock as error:
        caught.value.__cause__ = error
    assert cause_of(caught.value).raised.endswith(" reserve()")


def test_the_words_are_no_part_of_the_fingerprint_and_are_cut() -> None:
    def shout(words: str) -> None:
        raise OutOfStock(words)

    assert cause(shout, "a").fingerprint == cause(shout, "b" * 10_000).fingerprint
    assert len(cause(shout, "b" * 10_000).text) == MAX_TEXT


def test_a_recursion_is_one_cause_however_deep_it_went() -> None:
    shallow, deep = cause(descend, 3), cause(descend, 50)

    assert shallow == deep
    assert deep.frames.splitlines() == [f"{__name__}:descend"]


def test_a_payload_that_does_not_fit_is_told_by_the_place_in_it_and_not_by_the_index() -> None:
    def refuse(path: str) -> None:
        raise PayloadInvalid(path, "must be a number")

    assert cause(refuse, "$.items[3].price") == cause(refuse, "$.items[3].price")
    assert cause(refuse, "$.items[3].price").fingerprint == cause(refuse, "$.items[17].price").fingerprint
    assert cause(refuse, "$.items[3].price").fingerprint != cause(refuse, "$.items[3].name").fingerprint
    assert cause(refuse, "$.items[3].price").title == "PayloadInvalid at $.items[].price"


def test_frames_of_crossfoot_itself_are_left_out_where_there_are_others() -> None:
    def send(number: int) -> None:
        run(lambda: reserve(number))

    found = cause(send, 1)

    assert not [frame for frame in found.frames.splitlines() if frame.startswith(("asyncio.", "crossfoot."))]
    assert found.title == f"OutOfStock at {__name__}:reserve"


def test_what_crossfoot_found_itself_is_told_apart_by_the_handler() -> None:
    def prove() -> None:
        judge(None, Evidence(), (), what="order 7")

    with pytest.raises(NoProof) as caught:
        prove()

    bill, mail = cause_of(caught.value, "bill"), cause_of(caught.value, "mail")
    assert bill.fingerprint != mail.fingerprint
    assert (bill.title, bill.frames) == ("NoProof at handler bill", "")


def test_an_exception_that_was_never_raised_has_a_cause_too() -> None:
    found = cause_of(ValueError("made, not raised"))

    assert (found.title, found.frames, found.kind) == ("ValueError", "", "ValueError")


def test_an_exception_that_cannot_say_what_it_is_does_not_make_another_failure() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    assert cause_of(Mute()).text == "(its text cannot be had: RuntimeError)"


def test_what_no_database_keeps_is_written_out() -> None:
    assert cause_of(ValueError("name \ud800 and \0 end")).text == "name \\ud800 and \\x00 end"


SCRIPT = """
from crossfoot.books.cause import cause_of

def bill(number):
    raise KeyError(number)

try:
    bill(%d)
except KeyError as error:
    print(cause_of(error).fingerprint)
"""


def test_every_process_finds_the_same_fingerprint() -> None:
    prints = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT % seed],
            env={"PYTHONHASHSEED": str(seed)},
            text=True,
            check=True,
            capture_output=True,
        ).stdout
        for seed in (1, 2)
    }

    assert len(prints) == 1


class _Text(str):
    def encode(self, *_: Any, **__: Any) -> bytes:
        raise RuntimeError("this text is not to be had")


class _Strange(Exception):
    def __str__(self) -> str:
        return _Text("strange")


def _of_no_module() -> Exception:
    kind = type("Lost", (Exception,), {})
    kind.__module__ = None  # type: ignore[assignment] # what some generators of classes leave behind
    made: Exception = kind("nowhere")
    return made


def _raised_in(name: str, file: str) -> Exception:
    space: dict[str, Any] = {"__name__": name}
    exec(compile("def fail():\n    raise ValueError('made')", file, "exec"), space)  # noqa: S102 - as templates do
    try:
        space["fail"]()
    except ValueError as error:
        return error
    raise AssertionError


class _Hidden(type):
    def __getattribute__(cls, name: str) -> Any:
        if name in ("__qualname__", "__module__", "__name__"):
            raise RuntimeError("no name to be had")
        return super().__getattribute__(name)


class _Nameless(Exception, metaclass=_Hidden):
    pass


@pytest.mark.parametrize(
    "error", [_Strange(), _of_no_module(), _raised_in("m\ud800", "f.py"), _raised_in("m", "f\udce9.py"), _Nameless("x")]
)
def test_whatever_an_exception_is_its_cause_can_be_kept(error: Exception) -> None:
    found = cause_of(error, "bill")

    for text in (found.fingerprint, found.kind, found.title, found.frames, found.text, found.raised):
        assert text.encode().decode() == text
    assert found.title


def test_a_lock_that_never_opened_names_the_likely_holder_once() -> None:
    def write() -> None:
        raise sqlite3.OperationalError("database is locked")

    def write_by_session() -> None:
        raise sqlalchemy.exc.OperationalError("INSERT", {}, sqlite3.OperationalError("database is locked"))

    for found in (cause(write), cause(write_by_session)):
        assert found.text.startswith(
            "database is locked: another connection was writing. If that is the handler's own transaction"
        )
        assert "tx.session" in found.text


def test_placeholders_of_another_database_are_told_as_that() -> None:
    def write() -> None:
        raise RuntimeError("the query has 0 placeholders but 2 parameters were passed")

    assert cause(write).text.endswith("were passed: psycopg's are %s and %(name)s; `?` is SQLite's")


def test_what_a_driver_raised_is_named_where_its_wrapping_has_another_name() -> None:
    class UniqueViolation(Exception):
        pass

    def write() -> None:
        raise sqlalchemy.exc.IntegrityError("INSERT", {}, UniqueViolation("there is one"))

    assert cause(write).text == "UniqueViolation: there is one"


class Wrapped(Exception):
    """What a handler makes of everything that fails."""


def wrapped(inner: Callable[[], object], *, said: bool) -> Cause:
    try:
        try:
            inner()
        except Exception as error:
            if said:
                raise Wrapped(str(error)) from error
            raise Wrapped(str(error)) from None
    except Wrapped as error:
        return cause_of(error)
    raise AssertionError("it did not fail")


def test_what_is_wrapped_at_one_place_is_as_many_causes_as_it_was_before() -> None:
    causes = [
        wrapped(inner, said=True) for inner in (lambda: int("x"), lambda: int("y"), lambda: dict[str, int]()["amount"])
    ]

    assert causes[0].fingerprint != causes[2].fingerprint
    assert [cause.title.partition(", ")[2] for cause in causes] == ["because of ValueError"] * 2 + [
        "because of KeyError"
    ]
    assert (
        wrapped(lambda: int("x"), said=False).fingerprint
        == wrapped(lambda: dict[str, int]()["amount"], said=False).fingerprint
    ), "not said"


def test_exceptions_that_are_each_others_cause_have_one() -> None:
    one, other = ValueError("a"), KeyError("b")
    one.__cause__, other.__cause__ = other, one

    assert cause_of(one).title.endswith("because of KeyError")

"""A service in processes of its own on somebody's queue: killed at work again and again, and asked by its commands what became of it."""

from __future__ import annotations

import json
import random
import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path

import anyio

from crossfoot import Crossfoot
from tests.acceptance.shell import BIN, ENVIRONMENT, crossfoot, rows

SERVICE = """
import time
from crossfoot import Crossfoot

app = Crossfoot("billing")

@app.handler("case.released", operation="bill:{subject}")
def bill(message, tx):
    time.sleep(0.03)
    tx.execute("INSERT INTO effects (subject) VALUES (?)", (message.subject,))
    tx.send("invoice.issued", subject=message.subject)

@app.handler("invoice.issued", operation="letter:{subject}")
async def write_letter(message, tx):
    await tx.execute("INSERT INTO letters (subject) VALUES (?)", (message.subject,))

@app.handler("case.broken")
def broken(message, tx):
    raise RuntimeError("this case cannot be billed")
"""

KILLS = 3


def kill_and_ask(folder: Path, queue: str, *, cases: int = 120) -> None:
    """Every effect is there once in the end, nothing is unaccounted for, and the commands say so.

    Args:
        queue: its URL, with everything in it.
        cases: messages; more than workers can end before they are killed.
    """
    (folder / "billing.py").write_text(SERVICE)
    (folder / "crossfoot.toml").write_text(
        f'queue = "{queue}"\nlease = 1.0\nwait = 0.2\nbackoff = 0.01\nattempts = 2\nreconcile = 0.5\n'
    )
    book = folder / "crossfoot.db"
    with closing(sqlite3.connect(book)) as connection:
        connection.execute("CREATE TABLE effects (subject TEXT)")
        connection.execute("CREATE TABLE letters (subject TEXT)")
    crossfoot(folder, "publish", "billing:app", "case.released", "--subject", "case-0")
    _publish_the_rest(book, queue, cases)
    crossfoot(folder, "publish", "billing:app", "case.broken", "--subject", "case-broken")

    chance = random.Random(1)
    for _ in range(KILLS):
        _kill_at_work(folder, book, chance.uniform(0.0, 0.2))
    assert len(rows(book, "SELECT 1 FROM effects")) < cases, "nothing was left to be killed over"
    crossfoot(folder, "worker", "billing:app", "--until-idle")

    subjects = sorted(f"case-{number}" for number in range(cases))
    for table in ("effects", "letters"):
        assert sorted(subject for (subject,) in rows(book, f"SELECT subject FROM {table}")) == subjects
    balance = json.loads(crossfoot(folder, "balance", "--json").stdout)
    assert (balance["balanced"], balance["unaccounted"]) == (True, 0)
    assert {name: count for name, count in balance["fates"].items() if count} == {"settled": 2 * cases, "dead": 1}
    assert "case-broken" in crossfoot(folder, "dead", "list", code=1).stdout
    assert "RuntimeError" in crossfoot(folder, "why", "case-broken", code=1).stdout
    assert crossfoot(folder, "verify").returncode == 0


def _kill_at_work(folder: Path, book: Path, after: float) -> None:
    """A worker, so many seconds after the first effect that it was seen to have."""
    before = len(rows(book, "SELECT 1 FROM effects"))
    worker = subprocess.Popen(
        [BIN / "crossfoot", "worker", "billing:app"], cwd=folder, env=ENVIRONMENT, stderr=subprocess.DEVNULL
    )
    try:
        until = time.monotonic() + 20
        while len(rows(book, "SELECT 1 FROM effects")) == before:
            assert time.monotonic() < until, "a worker that is to be killed at work does no work"
            time.sleep(0.01)
        time.sleep(after)
    finally:
        worker.send_signal(signal.SIGKILL)
        worker.wait()


def _publish_the_rest(book: Path, queue: str, cases: int) -> None:
    app = Crossfoot("billing", database=book, queue=queue)

    async def publish() -> None:
        await app.publish(*[app.message("case.released", subject=f"case-{number}") for number in range(1, cases)])
        await app.aclose()

    anyio.run(publish)

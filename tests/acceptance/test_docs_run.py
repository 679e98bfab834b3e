"""What the README and the guides tell a reader to type works as they say. Warnings are errors."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from crossfoot.books.entry import Kind
from tests.acceptance.pages import EXECUTABLE, GUIDES, README, ROOT, Block, blocks, python_of
from tests.acceptance.shell import QUICKSTART, TYPED, crossfoot, fates, rows, run
from tests.servers.kafka import Tansu
from tests.servers.nats import NatsServer
from tests.servers.postgres import Postgres
from tests.servers.processes import Server
from tests.servers.rabbitmq import RabbitServer
from tests.servers.valkey import Valkey

pytest_plugins = [
    "tests.servers.fixtures",
    "tests.servers.kafka_fixtures",
    "tests.servers.nats_fixtures",
    "tests.servers.postgres_fixtures",
    "tests.servers.rabbitmq_fixtures",
    "tests.servers.valkey_fixtures",
]

PICTURES = sorted(path.stem for path in (ROOT / "docs" / "pictures").glob("*.svg"))

ANSI = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quickstart's folder after a reader has typed what the README says."""
    folder = Path(shutil.copytree(QUICKSTART, tmp_path_factory.mktemp("readme") / "quickstart", ignore=TYPED))
    (block,) = [one for one in blocks(README) if one.marker == "run"]
    done = run(["bash", "-euo", "pipefail", "-c", block.text], folder)
    assert done.returncode == 0, f"{block.place}: {done.stderr}"
    assert done.stdout.count("accepted") == 3
    return folder


# ---- snippets --------------------------------------------------------------------------------------------------------


def test_no_snippet_of_the_readme_and_the_guides_goes_unexecuted_but_for_a_few_fragments() -> None:
    snippets = [block for page in (README, *GUIDES) for block in blocks(page) if block.language in EXECUTABLE]
    unexecuted = [block.place for block in snippets if block.marker == "fragment"]
    shells = [block for block in snippets if block.language == "sh" and block.marker not in ("run", "fragment")]

    assert len(unexecuted) <= len(snippets) // 5, unexecuted
    assert not shells, "a shell block is run in a folder, or it is a fragment"


@pytest.mark.parametrize("page", [README, *GUIDES], ids=lambda page: page.name)
def test_every_block_says_what_it_is(page: Path) -> None:
    known = {"", "fragment", "run", "file", "server"}

    assert [block.place for block in blocks(page) if not block.language or block.marker not in known] == []


FILES = [block for page in (README, *GUIDES) for block in blocks(page) if block.marker == "file"]


@pytest.mark.parametrize("block", FILES, ids=lambda block: block.argument)
def test_a_listing_equals_the_file_it_shows(block: Block) -> None:
    assert block.text == (ROOT / block.argument).read_text(encoding="utf-8")


def test_the_guide_to_sizing_prints_what_it_shows(tmp_path: Path) -> None:
    (page,) = [guide for guide in GUIDES if guide.name == "sizing.md"]
    shown = "".join(block.text for block in blocks(page) if block.language == "text")
    done = run([sys.executable, "-c", python_of(page)], tmp_path)

    assert done.stdout == shown


def test_the_guide_of_batches_does_what_it_says(tmp_path: Path) -> None:
    (page,) = [guide for guide in GUIDES if guide.name == "batches.md"]
    (tmp_path / "billing.py").write_text(python_of(page), encoding="utf-8")
    for number in range(3):
        crossfoot(tmp_path, "publish", "billing:app", "case.released", "--subject", f"case-{number}")
    crossfoot(tmp_path, "worker", "billing:app", "--batch", "100", "--until-idle")
    assert sorted(rows(tmp_path / "billing.db", "SELECT case_id FROM invoices")) == [(f"case-{n}",) for n in range(3)]
    assert rows(tmp_path / "billing.db", "SELECT DISTINCT subject FROM crossfoot_outcomes ORDER BY 1") == [
        (f"case-{n}",) for n in range(3)
    ]


def test_the_guide_on_the_archive_keeps_what_it_says(tmp_path: Path) -> None:
    (page,) = [guide for guide in GUIDES if guide.name == "archive.md"]
    (tmp_path / "billing.py").write_text(python_of(page), encoding="utf-8")
    data = '{"patient": "Anna", "amount": 7}'
    crossfoot(tmp_path, "publish", "billing:app", "case.released", "--subject", "case-1", "--data", data)

    ((body,),) = rows(tmp_path / "crossfoot.db", "SELECT body FROM crossfoot_messages")
    assert json.loads(body)["data"] == {"amount": 7}


def test_the_first_guide_does_what_it_says(tmp_path: Path) -> None:
    (page,) = [guide for guide in GUIDES if guide.name == "first-queue.md"]
    (tmp_path / "guide.py").write_text(python_of(page), encoding="utf-8")
    (tmp_path / "reader.py").write_text(READER, encoding="utf-8")

    done = run([sys.executable, "reader.py"], tmp_path)

    assert done.returncode == 0, done.stderr
    assert "secret" not in done.stdout + done.stderr
    assert sorted(fates(tmp_path / "billing.db")) == [
        ("case.approved", "case-2", "settled"),
        ("case.approved", "case-3", "dead"),
        ("case.cancelled", "case-1", "settled"),
        ("case.changed", "case-4", "settled"),  # parked first
        ("case.changed", "case-4", "settled"),
        ("case.changed", "case-4", "superseded"),
        ("case.released", "case-1", "settled"),
        ("case.released", "case-4711", "settled"),  # sent from the script's own transaction
        ("case.released", "case-4712", "settled"),  # and from an event loop
        ("case.reopened", "case-1", "duplicate"),
        ("case.reopened", "case-1", "settled"),
    ]
    assert fates(tmp_path / "orders.db") == [("order.placed", "order-1", "settled")]
    titles = rows(tmp_path / "billing.db", "SELECT title FROM crossfoot_causes WHERE kind LIKE '%PayloadInvalid'")
    assert titles == [("PayloadInvalid at $.amount",)]
    assert rows(tmp_path / "billing.db", f"SELECT count(*) FROM crossfoot_entries WHERE kind = {Kind.PARKED}") == [(1,)]


READER = """
import anyio
from guide import app, orders

async def publish():
    await app.publish("case.released", subject="case-1", data={"amount": 5})
    await app.publish("case.reopened", subject="case-1", sequence=1)
    await app.publish("case.reopened", subject="case-1", sequence=1)
    await app.publish("case.cancelled", subject="case-1")
    await app.publish("case.approved", subject="case-2", data={"amount": 5})
    await app.publish("case.approved", subject="case-3", data={"amount": "secret"})
    await app.publish("case.changed", subject="case-4", sequence=2, predecessor=1)
    await orders.publish("order.placed", subject="order-1")

anyio.run(publish)
app.run(until_idle=True)
orders.run(until_idle=True)
for predecessor_then_stale in (1, 0):
    anyio.run(lambda: app.publish("case.changed", subject="case-4", sequence=predecessor_then_stale))
    app.run(until_idle=True)
orders.database.engine.dispose()
"""
"""What a reader of the first guide may do with it: each of its handlers gets a message."""


@pytest.mark.server
@pytest.mark.xdist_group("ministack")
def test_the_guide_on_sqs_does_what_it_says(ministack: Server, tmp_path: Path) -> None:
    (page,) = [guide for guide in GUIDES if guide.name == "sqs.md"]
    assert [block.argument for block in blocks(page) if block.language == "python"] == ["sqs"]
    (tmp_path / "guide.py").write_text(python_of(page), encoding="utf-8")
    given = f"import runpy; runpy.run_path('guide.py', {{'ENDPOINT': {ministack.url!r}}})"

    done = run([sys.executable, "-c", given], tmp_path, AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test")

    assert (done.returncode, done.stderr) == (0, "")
    assert fates(tmp_path / "sqs-billing.db") == [("case.released", "case-4711", "settled")]


@pytest.mark.server
@pytest.mark.xdist_group("valkey")
def test_the_guide_on_redis_does_what_it_says(valkey: Valkey, tmp_path: Path) -> None:
    (page,) = [guide for guide in GUIDES if guide.name == "redis.md"]
    assert [block.argument for block in blocks(page) if block.language == "python"] == ["redis"]
    (tmp_path / "guide.py").write_text(python_of(page), encoding="utf-8")
    given = f"import runpy; runpy.run_path('guide.py', {{'ENDPOINT': {valkey.url!r}}})"

    done = run([sys.executable, "-c", given], tmp_path)

    assert done.returncode == 0, done.stderr
    assert set(done.stderr.splitlines()) == {WARNED}, (
        "the server of the tests keeps nothing on disk, and is complained of"
    )
    assert fates(tmp_path / "redis-billing.db") == [("case.released", "case-4711", "settled")]


WARNED = "queue billing: the server keeps nothing on disk: a restart loses every message; set appendonly yes"


@pytest.mark.server
@pytest.mark.xdist_group("valkey")
def test_the_guide_on_postgres_does_what_it_says(
    valkey: Valkey, postgres: Postgres, postgres_url: str, tmp_path: Path
) -> None:
    (page,) = [guide for guide in GUIDES if guide.name == "postgres.md"]
    assert [block.argument for block in blocks(page) if block.language == "python"] == ["postgres", "postgres"]
    (tmp_path / "guide.py").write_text(python_of(page), encoding="utf-8")
    names = {"ENDPOINT": valkey.url, "DATABASE": postgres_url}

    done = run([sys.executable, "-c", f"import runpy; runpy.run_path('guide.py', {names!r})"], tmp_path)

    assert done.returncode == 0, done.stderr
    assert set(done.stderr.splitlines()) == {WARNED}
    assert postgres.run("SELECT * FROM invoices", database=postgres_url.rpartition("/")[2]) == [("case-4711", 120)]
    assert len(postgres.run("SELECT * FROM letters", database=postgres_url.rpartition("/")[2])) == 2


def test_the_guide_on_django_does_what_it_says(tmp_path: Path) -> None:
    (page,) = [guide for guide in GUIDES if guide.name == "django.md"]
    (tmp_path / "guide.py").write_text(python_of(page), encoding="utf-8")

    done = run([sys.executable, "guide.py"], tmp_path)

    assert (done.returncode, done.stderr, done.stdout) == (0, "", "issued case-4711\n")
    assert fates(tmp_path / "django-billing.db") == [("case.released", "case-4711", "settled")]
    found = rows(tmp_path / "django-billing.db", 'SELECT "case", amount FROM billing_invoice ORDER BY 1')
    assert found == [("case-4711", 120), ("case-4711-deposit", 10)]


@pytest.mark.xdist_group("nats")
def test_the_guide_on_nats_does_what_it_says(nats_server: NatsServer, tmp_path: Path) -> None:
    (page,) = [guide for guide in GUIDES if guide.name == "nats.md"]
    assert [block.argument for block in blocks(page) if block.language == "python"] == ["nats"]
    (tmp_path / "guide.py").write_text(python_of(page), encoding="utf-8")
    given = f"import runpy; runpy.run_path('guide.py', {{'ENDPOINT': {nats_server.url!r}}})"

    done = run([sys.executable, "-c", given], tmp_path)

    assert (done.returncode, done.stderr) == (0, "")
    assert fates(tmp_path / "nats-billing.db") == [("case.released", "case-4711", "settled")]


@pytest.mark.server
@pytest.mark.xdist_group("postgres")
def test_the_guide_on_a_queue_in_postgresql_does_what_it_says(postgres_url: str, tmp_path: Path) -> None:
    (page,) = [guide for guide in GUIDES if guide.name == "postgres-queue.md"]
    assert [block.argument for block in blocks(page) if block.language == "python"] == ["postgres"]
    (tmp_path / "guide.py").write_text(python_of(page), encoding="utf-8")
    given = f"import runpy; runpy.run_path('guide.py', {{'ENDPOINT': {postgres_url!r}}})"

    done = run([sys.executable, "-c", given], tmp_path)

    assert (done.returncode, done.stderr) == (0, "")
    assert fates(tmp_path / "postgres-billing.db") == [("case.released", "case-4711", "settled")]


@pytest.mark.server
@pytest.mark.xdist_group("rabbitmq")
def test_the_guide_on_rabbitmq_does_what_it_says(rabbit: RabbitServer, tmp_path: Path) -> None:
    (page,) = [guide for guide in GUIDES if guide.name == "rabbitmq.md"]
    assert [block.argument for block in blocks(page) if block.language == "python"] == ["rabbitmq"]
    (tmp_path / "guide.py").write_text(python_of(page), encoding="utf-8")
    given = f"import runpy; runpy.run_path('guide.py', {{'ENDPOINT': {rabbit.url!r}}})"

    done = run([sys.executable, "-c", given], tmp_path)

    assert (done.returncode, done.stderr) == (0, "")
    assert fates(tmp_path / "rabbitmq-billing.db") == [("case.released", "case-4711", "settled")]


@pytest.mark.server
@pytest.mark.xdist_group("kafka")
def test_the_guide_on_kafka_does_what_it_says(tansu: Tansu, tmp_path: Path) -> None:
    (page,) = [guide for guide in GUIDES if guide.name == "kafka.md"]
    assert [block.argument for block in blocks(page) if block.language == "python"] == ["kafka"]
    (tmp_path / "guide.py").write_text(python_of(page), encoding="utf-8")
    given = f"import runpy; runpy.run_path('guide.py', {{'ENDPOINT': {tansu.address!r}}})"

    done = run([sys.executable, "-c", given], tmp_path)

    assert (done.returncode, done.stderr) == (0, "")
    assert fates(tmp_path / "kafka-billing.db") == [("case.released", "case-4711", "settled")]


RUN = (
    *(
        "batches.md",
        "first-queue.md",
        "sizing.md",
        "sqs.md",
        "redis.md",
        "nats.md",
        "postgres.md",
        "django.md",
        "postgres-queue.md",
        "rabbitmq.md",
        "kafka.md",
    ),
    "archive.md",
    "observability.md",  # in `test_docs_observability.py`
    "deployment.md",  # in `test_deploy.py`
    "flow.md",  # in `tests/flow/test_guide.py`
    "outcomes.md",  # in `test_outcomes.py`
    "replaying.md",  # in `test_docs_replaying.py`
)


def test_other_guides_have_no_python_that_nobody_runs() -> None:
    others = [guide for guide in GUIDES if guide.name not in RUN]

    assert [guide.name for guide in others if python_of(guide).strip()] == []


# ---- the README's claims ---------------------------------------------------------------------------------------------


def test_the_quickstart_ends_with_five_messages_each_with_its_fate_and_one_of_them_dead(worked: Path) -> None:
    balance = json.loads(crossfoot(worked, "balance", "--json").stdout)

    assert (balance["published"], balance["unaccounted"]) == (5, 0)
    assert {name: count for name, count in balance["fates"].items() if count} == {"settled": 3, "noop": 1, "dead": 1}
    assert crossfoot(worked, "balance").stdout.startswith("5 published = 5 with a fate + 0 unaccounted")


def test_the_dead_letter_is_no_finding_to_balance_and_one_to_dead_list(worked: Path) -> None:
    assert crossfoot(worked, "dead", "list", code=1).stdout.startswith("DEAD LETTERS: 1 message")


def test_why_by_the_case_lists_both_messages_and_says_which_one_is_dead(worked: Path) -> None:
    page = crossfoot(worked, "why", "case-4713", code=1).stdout

    assert "1 dead, 1 settled" in page
    assert "NoProof at handler write_letter" in page


def test_why_by_the_operation_tells_which_proof_was_missing(worked: Path) -> None:
    page = " ".join(crossfoot(worked, "why", "letter:case-4713:1", code=1).stdout.split())

    assert page.startswith("DEAD")
    assert "returned without the outcome that proves it, letter.written" in page


@pytest.mark.parametrize("name", PICTURES)
def test_the_pictures_show_what_the_commands_print_today(name: str, worked: Path) -> None:
    picture = ElementTree.parse(ROOT / "docs" / "pictures" / f"{name}.svg")  # noqa: S314 - ours
    texts = ["".join(node.itertext()) for node in picture.iter("{http://www.w3.org/2000/svg}text")]
    title, shown = texts[0].replace("\N{NO-BREAK SPACE}", " "), " ".join(texts[1:])

    printed = crossfoot(worked, *title.split()[1:], "--color=always", code=None).stdout

    assert words(shown) == words(ANSI.sub("", printed)), "python docs/pictures/make.py draws it again"


def words(page: str) -> list[str]:
    """What is the same on every machine and on every day."""
    bare = page.replace("\N{NO-BREAK SPACE}", " ").translate(dict.fromkeys(map(ord, "╭╮╰╯│─"), " "))
    return [word for word in bare.split() if not re.search(r"\d", word) and word not in ("ms", "s", "min")]

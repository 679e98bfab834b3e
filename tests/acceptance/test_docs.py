"""What the documentation says is so: its tables are the code's, its lists are complete, its links lead somewhere."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
import typer

from crossfoot import cli
from crossfoot.books.entry import Kind
from crossfoot.books.fate import Fate
from crossfoot.books.store import Book
from crossfoot.queues.kafka import KafkaQueue
from crossfoot.queues.nats.checks import found
from crossfoot.queues.nats.opening import capabilities_of
from crossfoot.queues.postgres import PostgresQueue
from crossfoot.queues.queue import Capabilities
from crossfoot.queues.rabbitmq import probing
from crossfoot.queues.rabbitmq.address import address_of
from crossfoot.queues.rabbitmq.delays import rungs_of
from crossfoot.queues.rabbitmq.opening import capabilities_of as rabbitmq_capabilities
from crossfoot.queues.redis import RedisQueue
from crossfoot.queues.sqs import SqsQueue
from crossfoot.settings import Settings
from tests.acceptance.pages import DOCS, PAGES, README, ROOT, anchors, commands_named, links, prose, table
from tests.acceptance.shell import rows, run

GLOSSARY = DOCS / "glossary.md"
LIFECYCLE = DOCS / "lifecycle.md"
FIRST_QUEUE, SQS, REDIS, NATS, RABBITMQ, POSTGRES_QUEUE, KAFKA = (
    DOCS / "guides" / name
    for name in ("first-queue.md", "sqs.md", "redis.md", "nats.md", "rabbitmq.md", "postgres-queue.md", "kafka.md")
)

UNITS = {"days": 86_400.0, "s": 1.0, "MiB": 1024 * 1024}


# ---- pages that are made from the code -------------------------------------------------------------------------------


@pytest.mark.timeout(300)
@pytest.mark.parametrize("script", ["lifecycle.py", "commands.py", "engines.py"])
def test_a_page_made_from_the_code_is_up_to_date(script: str) -> None:
    done = run([sys.executable, str(DOCS / script), "--check"], ROOT, seconds=280.0)  # one collects all tests

    assert (done.returncode, done.stderr) == (0, ""), done.stderr


@pytest.fixture
def engines() -> dict[str, Any]:
    """What `docs/engines.py` has, and what it knows."""
    made = runpy.run_path(str(DOCS / "engines.py"))
    return {**made, "known": json.loads((DOCS / "engines.json").read_text(encoding="utf-8"))}


@pytest.mark.parametrize(
    ("engine", "subject"), [("SQS FIFO", "publish_dedup"), ("RabbitMQ classic", "hides"), ("asyncpg", "law 5")]
)
@pytest.mark.parametrize("lacking", ["claims", "passed"])
def test_what_is_declared_and_proved_by_no_test_does_not_come_into_the_page(
    engines: dict[str, Any], lacking: str, engine: str, subject: str
) -> None:
    del engines["known"][lacking][engine][subject]

    with pytest.raises(engines["NotProved"], match=f"{subject} of {engine}"):
        engines["page"](engines["known"])


@pytest.mark.parametrize("came", ["failed", "skipped", None])
def test_a_test_that_did_not_pass_proves_nothing(engines: dict[str, Any], came: str | None) -> None:
    test = {"claims": [["Kafka", "order"]], **({"came": came} if came else {})}

    with pytest.raises(engines["NotProved"], match="test_a"):
        engines["evidence"]({"declared": [], "tests": {"tests/conformance/test_x.py::test_a": test}})


@pytest.fixture
def page_of() -> Callable[[typer.Typer], str]:
    """The page of commands, as `docs/commands.py` writes it."""
    made: Callable[[typer.Typer], str] = runpy.run_path(str(DOCS / "commands.py"))["page"]
    return made


def add_command(monkeypatch: pytest.MonkeyPatch, function: Callable[..., None]) -> None:
    """Give crossfoot one more command, for this test."""
    module = ModuleType("crossfoot.cli.dummy")
    module.__spec__ = ModuleSpec(module.__name__, None)
    monkeypatch.setattr(module, "dummy", function, raising=False)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(cli, "COMMANDS", (*cli.COMMANDS, "dummy"))


def test_a_command_that_the_page_does_not_know_is_found(
    monkeypatch: pytest.MonkeyPatch, page_of: Callable[[typer.Typer], str]
) -> None:
    def dummy() -> None:
        """Do nothing."""

    assert page_of(cli.app) == (DOCS / "reference" / "commands.md").read_text(encoding="utf-8")

    add_command(monkeypatch, dummy)

    assert "## `crossfoot dummy`" in page_of(cli.app)


def test_a_command_or_an_option_without_a_text_is_found(
    monkeypatch: pytest.MonkeyPatch, page_of: Callable[[typer.Typer], str]
) -> None:
    def silent() -> None: ...

    def half_silent(option: bool = False) -> None:
        """Do nothing."""

    add_command(monkeypatch, silent)
    with pytest.raises(Exception, match="crossfoot dummy has no text"):
        page_of(cli.app)

    monkeypatch.setattr(sys.modules["crossfoot.cli.dummy"], "dummy", half_silent)
    with pytest.raises(Exception, match="crossfoot dummy: --option has no help"):
        page_of(cli.app)


def test_every_command_that_a_page_names_exists_with_its_options() -> None:
    unknown = [
        f"{page.relative_to(ROOT)}: {line}" for page in PAGES for line in commands_named(page) if not understood(line)
    ]

    assert not unknown


def understood(line: str) -> bool:
    """Whether crossfoot has the command and every option of the line."""
    words = [word for word in shlex.split(line) if word != "…"][1:]
    command: Any = typer.main.get_command(cli.app)
    while words and hasattr(command, "get_command") and not words[0].startswith("-"):
        if words[0] in ("...", "COMMAND"):
            return True
        command = command.get_command(typer.Context(command), words.pop(0))
        if command is None:
            return False
    known = {"--help"} | {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
    return all(word.partition("=")[0] in known for word in words if re.match(r"--?[a-z]", word))


# ---- links and lists -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page: Path) -> None:
    broken = []
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, fragment = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (fragment and fragment not in anchors(target)):
            broken.append(link)

    assert not broken


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, new = set[Path](), {README}
    while new:
        reached |= new
        new = {
            target
            for page in new
            for link in links(page)
            if (target := (page.parent / link.partition("#")[0]).resolve()) in PAGES
        } - reached

    assert [page.relative_to(ROOT).as_posix() for page in PAGES if page not in reached] == []


def test_the_index_of_decisions_lists_every_one_with_its_title() -> None:
    listed = re.findall(r"\| \[(\d{4})\]\((\S+)\) \| (.+) \|", (DOCS / "decisions" / "README.md").read_text())
    written = [
        (path.name[:4], path.name, path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# "))
        for path in sorted((DOCS / "decisions").glob("0*.md"))
    ]

    assert listed == written


@pytest.mark.parametrize("path", sorted((DOCS / "decisions").glob("0*.md")), ids=lambda path: path.stem)
def test_a_decision_says_what_was_to_be_decided_what_was_and_what_follows(path: Path) -> None:
    assert re.findall(r"^\*\*(.+?)\.\*\*", path.read_text(), re.MULTILINE) == ["To decide", "Decided", "What follows"]


def test_the_lifecycle_names_every_fate_and_every_kind_and_the_glossary_links_to_it() -> None:
    entries = [row[1] for row in table(LIFECYCLE, "Entries")]
    ends = [row[0].strip("*") for row in table(LIFECYCLE, "Fates")]

    assert entries == [kind.label for kind in Kind]
    assert ends == [fate.label for fate in Fate]
    assert "lifecycle.md" in links(GLOSSARY)


def test_no_fate_is_named_in_the_guides_that_does_not_exist() -> None:
    words = {fate.label for fate in Fate} | {kind.label for kind in Kind}
    emphasised = {
        word
        for page in (FIRST_QUEUE, SQS, REDIS, NATS, POSTGRES_QUEUE)
        for word in re.findall(r"(?<!\*)\*([a-z ]+)\*(?!\*)", prose(page))
    }

    assert emphasised <= words


def test_the_glossary_defines_a_term_once() -> None:
    terms = re.findall(r"^\| \*\*(.+?)\*\*", GLOSSARY.read_text(encoding="utf-8"), flags=re.MULTILINE)

    assert len(terms) == len(set(terms))


# ---- tables that are the code's --------------------------------------------------------------------------------------


def test_the_table_of_settings_names_every_one_with_its_default() -> None:
    stated: dict[str, Any] = {}
    for names, defaults, _ in table(FIRST_QUEUE, "Settings"):
        fields = re.findall(r"`(\w+)`", names)
        values = [value_of(text) for text in defaults.split(", ")] if defaults else [None] * len(fields)
        stated |= dict(zip(fields, values, strict=True))

    assert stated == {field.name: field.default for field in msgspec.structs.fields(Settings)}


def value_of(text: str) -> Any:
    """A default as the table writes it: `text`, `true`, 4, 30 s, 14 days."""
    if text.startswith("`"):
        return {"true": True, "false": False}.get(text.strip("`"), text.strip("`"))
    figure, _, unit = text.partition(" ")
    return float(figure) * UNITS[unit] if unit else int(figure)


ROWS: dict[str, Callable[[Capabilities], str]] = {
    "order": lambda c: c.order,
    "depth": lambda c: c.depth,
    "browsing": lambda c: yes(c.browsing),
    "redrive": lambda c: yes(c.redrive),
    "counts deliveries": lambda c: yes(c.counts),
    "transactional ack": lambda c: yes(c.transactional_ack),
    "receipts fenced": lambda c: yes(c.receipts_fenced),
    "publish dedup": lambda c: seconds(c.publish_dedup),
    "levels of priority": lambda c: str(c.priorities),
    "may go uncounted for": lambda c: seconds(c.hides),
    "longest delay of a publish": lambda c: seconds(c.max_delay),
    "longest delay of a release": lambda c: seconds(c.max_release_delay),
    "longest lease": lambda c: seconds(c.max_lease),
    "deliveries per receive": lambda c: str(c.max_receive),
    "messages per request": lambda c: str(c.max_publish),
}
"""What the table calls each capability; the largest message is each queue's own."""


def test_the_tables_of_capabilities_are_the_adapters() -> None:
    standard, fifo = SqsQueue("orders").capabilities, SqsQueue("orders.fifo").capabilities

    stream = RedisQueue("orders").capabilities

    assert table(SQS, "Capabilities") == [[name, told(standard), told(fifo)] for name, told in ROWS.items()]
    assert table(REDIS, "Capabilities") == [[name, told(stream)] for name, told in ROWS.items()]
    assert len(ROWS) == len(msgspec.structs.fields(Capabilities)) - 1


def test_the_table_of_capabilities_on_postgresql_is_the_adapter_s() -> None:
    columns = [PostgresQueue("orders", ordered=ordered).capabilities for ordered in (False, True)]

    assert table(POSTGRES_QUEUE, "Capabilities") == [[name, *map(told, columns)] for name, told in ROWS.items()]


def test_the_table_of_capabilities_on_nats_is_the_adapter_s() -> None:
    def opened(retention: str) -> Capabilities:
        stream = {"config": {"retention": retention, "duplicate_window": 120_000_000_000}}
        return capabilities_of(found(stream, {"config": {"max_ack_pending": 1_000}}, subject="", max_payload=1_048_576))

    columns = opened("workqueue"), opened("limits")

    assert table(NATS, "Capabilities") == [[name, *map(told, columns)] for name, told in ROWS.items()]


def test_the_table_of_capabilities_on_rabbitmq_is_the_adapter_s() -> None:
    def opened(kind: str) -> Capabilities:
        settings = probing.Settings(arguments={"x-queue-type": kind})
        return rabbitmq_capabilities(address_of("rabbitmq:billing"), settings, 1)

    columns = opened("quorum"), opened("classic")

    assert table(RABBITMQ, "Capabilities") == [[name, *map(told, columns)] for name, told in ROWS.items()]


def test_the_table_of_capabilities_on_kafka_is_the_adapter_s() -> None:
    column = KafkaQueue("billing?group=billing").capabilities

    assert table(KAFKA, "Capabilities") == [[name, told(column)] for name, told in ROWS.items()]


def test_the_queues_that_rabbitmq_needs_are_those_that_the_adapter_asks_for() -> None:
    place, rungs = address_of("rabbitmq:billing"), rungs_of("billing")
    named = {
        name for cells in table(RABBITMQ, "A queue for development") for name in re.findall(r"`([^`]+)`", cells[0])
    }

    assert named == {place.queue, place.dead, place.holders, rungs[0], rungs[1], rungs[-1]}


def test_the_permissions_for_nats_are_those_of_the_requests_that_are_made() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src/crossfoot/queues/nats").glob("*.py"))
    requests = set(re.findall(r"(?:STREAM|CONSUMER)(?:\.MSG)?\.(?:INFO|GET|NEXT|DELETE)\b", code))
    _, _, below = NATS.read_text(encoding="utf-8").partition("A user's permissions: ")
    named = re.findall(r"`\$JS\.API\.((?:[A-Z]+\.?)+?)\.\*", below.partition("\n\n")[0])

    assert set(named) == requests


def yes(value: bool) -> str:
    return "yes" if value else "no"


def seconds(value: float | None) -> str:
    return "any" if value is None else f"{value:g} s"


def test_the_permissions_for_sqs_are_those_of_the_requests_that_are_made() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src/crossfoot/queues/sqs").glob("*.py"))
    requests = {name.removesuffix("_batch") for name in re.findall(r"\bsqs\.(\w+)\(", code)}
    actions = {"".join(part.capitalize() for part in name.split("_")) for name in requests}
    _, _, below = SQS.read_text(encoding="utf-8").partition("The worker needs the actions ")

    assert set(re.findall(r"`([A-Z]\w+)`", below.partition("\n\n")[0])) == actions


def test_the_rights_for_redis_are_those_of_the_commands_that_are_sent() -> None:
    folder = ROOT / "src/crossfoot/queues/redis"
    scripts = "".join(path.read_text(encoding="utf-8") for path in folder.glob("scripts/*.lua"))
    code = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py") if path.stem != "ensure")
    called = re.findall(r"redis\.p?call\('(\w+)'(?:, '(GROUPS)')?", scripts)
    sent = re.findall(r'(?:ask\(|\[\(|return \(|= \()"([A-Z]+)"(?:, "(GET|GROUPS)")?', code)
    wanted = {"|".join(part for part in command if part).lower() for command in called + sent}
    _, _, rest = REDIS.read_text(encoding="utf-8").partition("ACL SETUSER")
    rights = set(re.findall(r"\+([a-z|]+)", rest.partition("```")[0]))

    assert rights == wanted | {"client|setname"}


def test_the_architecture_names_every_table_and_every_room(tmp_path: Path) -> None:
    page = DOCS / "architecture.md"
    Book(tmp_path / "book.db").open().close()
    tables = {name.removeprefix("crossfoot_") for (name,) in rows(tmp_path / "book.db", TABLES)}
    named = {
        name
        for cells in table(page, "Tables")
        if not cells[1].startswith("in PostgreSQL:")
        for name in re.findall(r"`(\w+)`", cells[0])
    }
    drawn = page.read_text(encoding="utf-8").partition("## A message's way")[0]
    rooms = {
        path.name + "/" * path.is_dir()
        for path in (ROOT / "src" / "crossfoot").iterdir()
        if not path.name.startswith("_") and path.suffix in ("", ".py")
    }

    assert named == tables
    assert set(re.findall(r"(?:^    | {2})([a-z]+(?:/|\.py))", drawn, re.MULTILINE)) == rooms


TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'crossfoot%'"


def test_the_readme_s_targets_are_those_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = re.findall(r"^    make (\w+)", prose(README), flags=re.MULTILINE)

    assert named == ["demo", "test"]
    assert all(re.search(rf"^{target}:.*## ", makefile, flags=re.MULTILINE) for target in named)

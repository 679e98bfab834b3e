"""Mistakes of the person at the command line: each is one message that says what to do, exit code 2, and no traceback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.abc import MetaPathFinder
from pathlib import Path

import pytest

from crossfoot.__main__ import main
from crossfoot.cli import run

BILLING = """\
from crossfoot import Crossfoot
app = Crossfoot("billing")
price = 120

@app.handler("case.released")
def bill(message, tx):
    tx.outcome("invoice.issued")
"""

MODULES = {
    "billing": BILLING,
    "prices": "price = 120\n",
    "raises": "def deeper():\n    raise RuntimeError('no printer')\n\ndeeper()\n",
    "leaves": "import sys\nsys.exit('not today')\n",
    "broken": "def bill(:\n",
    "needs": "import a_package_nobody_has\n",
    "misuse": BILLING.replace("billing", "misuse") + "app.handler('case.released')(bill)\n",
    "misset": "from crossfoot import Crossfoot\napp = Crossfoot('misset', btach=1)\n",
    "nameless": "from crossfoot import Crossfoot\napp = Crossfoot('nameless', queue='embedded:')\n",
    "empty": "from crossfoot import Crossfoot\napp = Crossfoot('empty')\n",
}

TARGETS = {
    "bilings:app": "there is no module 'bilings' here (",
    "shop.billing:app": "there is no module 'shop.billing' here (",
    "billing.orders:app": "there is no module 'billing.orders' here (",
    "billing": "'billing' does not name a service: write MODULE:NAME, as in billing:app",
    ":app": "':app' does not name a service",
    "billing.py:app": "there is no module 'billing.py' here (",
    "./billing:app": "'./billing' is no module's name: write it as in an import",
    "billing:ap": "module billing has no 'ap': it has app",
    "prices:app": "module prices has no 'app': it has no Crossfoot(...) at its top level",
    "billing:price": "billing:price is a int, not a Crossfoot: name the object made by Crossfoot('...')",
    "raises:app": "raises could not be imported: RuntimeError: no printer (",
    "leaves:app": "leaves could not be imported: SystemExit: not today (",
    "broken:app": "broken could not be imported: SyntaxError: ",
    "needs:app": "needs needs a_package_nobody_has, which is not installed: install it first",
    "misuse:app": "handlers bill and bill both take 'case.released'",
    "nameless:app": "queue = 'embedded:': name the queue behind the colon, or write 'embedded' for 'nameless'",
    "misset:app": "the program sets 'btach', which is no setting: did you mean 'batch'?",
}

BILLED = ["billing:app", "case.released"]

ARGUMENTS = [
    (["worker", "empty:app", "--until-idle"], "no handler to run"),
    (["worker", "billing:app", "--batch", "0"], "Invalid value for '--batch'"),
    (["worker", "billing:app", "--batch", "many"], "Invalid value for '--batch'"),
    (["worker", "billing:app", "--batch", "10001"], "batch must be from 1 to 10,000, not 10001"),
    (["worker", "billing:app", "--concurrency", "10001"], "concurrency must be from 1 to 10,000, not 10001"),
    (["worker", "billing:app", "--lease", "0"], "lease must be more than 0 seconds, and a year at most, not 0.0"),
    (["worker", "billing:app", "--lease", "nan"], "lease must be more than 0 seconds"),
    (["worker", "billing:app", "--lease", "soon"], "Invalid value for '--lease'"),
    (["worker"], "Missing argument 'MODULE:NAME'"),
    (
        ["worker", "--db", "a.db", "billing:app"],
        "There is no option --db: the service itself says where its book is. Write Crossfoot(..., database='a.db') in it; or, "
        "where it says nothing, CROSSFOOT_DATABASE=a.db crossfoot worker billing:app. See",
    ),
    (
        ["publish", *BILLED, "--db=my a.db"],
        "CROSSFOOT_DATABASE='my a.db' crossfoot publish billing:app case.released. See",
    ),
    (["worker", "billing:app", "--db"], "CROSSFOOT_DATABASE='PATH|URL' crossfoot worker billing:app. See"),
    (["worker", "billing:app", "--db", "postgresql://a:secret@h/b"], "CROSSFOOT_DATABASE='PATH|URL' crossfoot worker"),
    (["publish", *BILLED, "--data", "{amount: 120}"], "--data is not JSON ("),
    (["publish", *BILLED, "--sequence", "first"], "Invalid value for '--sequence'"),
    (["publish", "billing:app"], "publish needs either a TYPE or --file: name what to send, once"),
    (["publish", *BILLED, "--file", "events.jsonl"], "publish needs either a TYPE or --file: name what to send, once"),
    (["publish", "billing:app", "--file", "nowhere.jsonl"], "nowhere.jsonl cannot be read: No such file"),
    (["publish", "billing:app", "--file", "billing.py"], "billing.py, line 1: "),
]

FILTERS = [
    (["tail", "-F", "--kind", "nonsense"], "'nonsense' is no kind of entry: there are intended, put off,"),
    (["tail", "-F", "--kind", "comitted"], "'comitted' is no kind of entry: did you mean 'committed'?"),
    (["tail", "-F", "--queue", "biling"], "the book knows no queue 'biling': did you mean 'billing'?"),
    (["tail", "-F", "--fate", "nonsense"], "No such option: --fate"),
    (["balance", "--queue", "biling"], "the book knows no queue 'biling': did you mean 'billing'?"),
    (
        ["balance", "--type", "case.relased"],
        "the book knows no type 'case.relased': did you mean 'case.released'?",
    ),
    (["balance", "--since", "nonsense"], "'nonsense' is no time: write how long ago"),
    (["balance", "--since", "1h", "--until", "2h"], "--since 1h is not before --until 2h"),
    (["balance", "--color", "nonsense"], "Invalid value for '--color'"),
    (["dead", "list", "--queue", "biling"], "the book knows no queue 'biling': did you mean 'billing'?"),
    (["dead", "list", "--type", "case.relased"], "the book knows no type 'case.relased'"),
    (["dead", "list", "--limit", "0"], "Invalid value for '--limit'"),
    (["dead", "lst"], "There is no command 'lst'; did you mean 'list'? See crossfoot dead --help."),
    (["dead", "bury"], "No such command 'bury'. See crossfoot dead --help."),
    (["nonsense"], "No such command 'nonsense'. See crossfoot --help."),
]

SETTINGS = [
    ("BTACH", "1", "the environment sets 'btach', which is no setting: did you mean 'batch'?"),
    ("BATCH", "many", "the environment sets batch = 'many': expected `int`"),
    ("BATCH", "0", "batch must be from 1 to 10,000, not 0"),
    ("QUEUE", "pulsar:billing", "queue = 'pulsar:billing': crossfoot knows 'embedded', SQS"),
    ("DATABASE", "sqlite:///x.db", "database = 'sqlite://...': the name of a SQLite file is wanted"),
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with these modules in it, that was never imported from."""
    for name, content in MODULES.items():
        (tmp_path / f"{name}.py").write_text(content, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    for name in MODULES:
        sys.modules.pop(name, None)


class Terminal:
    """Types commands, in this process."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture

    def refused(self, *arguments: str) -> str:
        """What one message says that is all a command has to say."""
        self._capture.readouterr()
        code = run([*arguments])
        out, err = self._capture.readouterr()
        assert (code, out) == (2, ""), err
        assert err.startswith("crossfoot: ")
        assert err.count("\n") == 1, err
        assert "Traceback" not in err
        return err.removeprefix("crossfoot: ")


@pytest.fixture
def terminal(capfd: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(capfd)


@pytest.mark.parametrize("command", [["worker"], ["publish"]], ids=["worker", "publish"])
@pytest.mark.parametrize("target", TARGETS)
def test_a_service_that_cannot_be_had(terminal: Terminal, command: list[str], target: str, folder: Path) -> None:
    arguments = [*command, target, "case.released"] if command == ["publish"] else [*command, target, "--until-idle"]
    assert terminal.refused(*arguments).startswith(TARGETS[target])
    assert not (folder / "crossfoot.db").exists()


def test_a_module_that_fails_is_told_with_the_place(terminal: Terminal, folder: Path) -> None:
    assert f"({folder / 'raises.py'}:4)" in terminal.refused("worker", "raises:app")
    assert "broken.py, line 1" in terminal.refused("worker", "broken:app")


@pytest.mark.parametrize(("arguments", "message"), ARGUMENTS)
def test_what_a_command_cannot_do(terminal: Terminal, arguments: list[str], message: str) -> None:
    assert message in terminal.refused(*arguments)


@pytest.mark.parametrize(("name", "value", "message"), SETTINGS)
def test_a_setting_that_cannot_be(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(f"CROSSFOOT_{name}", value)
    assert terminal.refused("worker", "billing:app", "--until-idle").startswith(message)


@pytest.mark.parametrize(("arguments", "message"), FILTERS)
def test_a_filter_that_fits_nothing_there_is(terminal: Terminal, arguments: list[str], message: str) -> None:
    assert run(["publish", *BILLED]) == 0
    assert terminal.refused(*arguments).startswith(message)


def test_who_interrupts_it_while_it_is_being_loaded_is_shown_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    class Impatient(MetaPathFinder):
        def find_spec(self, fullname: str, *_: object) -> None:
            if fullname == "crossfoot.cli":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "crossfoot.cli")
    monkeypatch.setattr(sys, "meta_path", [Impatient(), *sys.meta_path])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 130

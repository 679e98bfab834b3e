"""Reading the documentation as the tests need it: fenced blocks with their markers, tables, links and headings.

A marker is an HTML comment on the line before a fenced block:

    <!-- fragment -->               not executed: it runs for ever, or reaches out of the machine
    <!-- run: FOLDER -->            run in a copy of that folder
    <!-- file: PATH -->             equals that file
    <!-- server: sqs | redis | nats | rabbitmq | kafka -->    needs such a server, whose address is ENDPOINT
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
GUIDES = sorted((DOCS / "guides").glob("*.md"))
PAGES = [README, ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]

EXECUTABLE = ("python", "sh")

_FENCE = re.compile(r"^```(\w*)$")
_MARKER = re.compile(r"^<!-- (\w+)(?:: (.+))? -->$")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_CODE = re.compile(r"`[^`]*`")


class Block(NamedTuple):
    """One fenced block.

    Attributes:
        line: the number of its first line of text.
        marker: `fragment`, `run`, `file`, `server`, or empty.
    """

    page: Path
    line: int
    language: str
    marker: str
    argument: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    return list(_blocks(page))


def _blocks(page: Path) -> Iterator[Block]:
    lines = page.read_text(encoding="utf-8").splitlines()
    number = 0
    while number < len(lines):
        opening = _FENCE.match(lines[number])
        number += 1
        if opening is None:
            continue
        end = lines.index("```", number)
        marker = _MARKER.match(lines[number - 2]) if number > 1 else None
        name, argument = (marker[1], marker[2] or "") if marker is not None else ("", "")
        yield Block(page, number + 1, opening[1], name, argument, "\n".join([*lines[number:end], ""]))
        number = end + 1


def python_of(page: Path) -> str:
    """The Python of a page as one module in which every line has the number it has on the page."""
    module: list[str] = []
    for block in blocks(page):
        if block.language == "python" and block.marker != "fragment":
            module += [""] * (block.line - 1 - len(module)) + block.text.splitlines()
    return "\n".join([*module, ""])


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    text = page.read_text(encoding="utf-8")
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def links(page: Path) -> list[str]:
    """What the page links to, and shows."""
    return _LINK.findall(_CODE.sub("", prose(page)))


def anchors(page: Path) -> set[str]:
    """The fragments under which the page's headings are found."""
    headings = re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def table(page: Path, heading: str) -> list[list[str]]:
    """The rows of the first table below a heading, without its own head."""
    _, _, below = page.read_text(encoding="utf-8").partition(f"\n## {heading}\n")
    assert below, f"{page.relative_to(ROOT)} has no section {heading!r}"
    found = re.search(r"(?:^\|.*\n)+", below, flags=re.MULTILINE)
    assert found, f"section {heading!r} of {page.relative_to(ROOT)} has no table"
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in found[0].splitlines()[2:]]


def commands_named(page: Path) -> list[str]:
    """Every `crossfoot ...` that the page tells a reader to type, in a block or in a sentence."""
    typed = [line for block in blocks(page) for line in block.text.splitlines() if block.language in ("sh", "text")]
    typed += re.findall(r"`([^`]+)`", prose(page)) + re.findall(r"^    (.+)$", prose(page), flags=re.MULTILINE)
    found = (re.match(r"(?:[A-Z_]+=\S+ )*(crossfoot .*?)(?:\s+#.*|\s{3,}.*)?$", line) for line in typed)
    return [match[1] for match in found if match is not None]

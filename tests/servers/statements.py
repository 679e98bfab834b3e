"""Every statement that crossfoot's modules hold, found in the modules themselves."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Self

import crossfoot

_BEGINS = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)\s")
_ELSEWHERE = re.compile(r"crossfoot\.(demo|queues\.embedded|books\.migrations|books\.triggers|__main__)\b")
"""Other databases' modules, and those that create tables."""

_SQLITE = re.compile(r"\btemp\.|sqlite_master|pragma_")


class Statement(str):
    """A statement, or the part of one that a module holds. `\\0` stands for what is put in when it runs."""

    where: str

    def __new__(cls, text: str, where: str) -> Self:
        self = super().__new__(cls, text)
        self.where = where
        return self

    @cache  # noqa: B019 - there are some two hundred, for as long as the tests run
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(".*".join(re.escape(part) for part in _plain(self).split("\0")), re.DOTALL)

    def is_in(self, text: str) -> bool:
        """Whether it is that statement, or a part of it."""
        return self._pattern().search(_plain(text)) is not None


def _plain(text: str) -> str:
    return " ".join(text.split())


def statements(tables: str) -> Iterator[Statement]:
    """Those that speak of one of the tables, given as a pattern: constants of modules, and what functions put together."""
    speaks = re.compile(rf"\bcrossfoot_({tables})\b")
    for name, file in modules():
        for found in (*_constants(name), *_literals(name, file)):
            if _BEGINS.match(found) and (speaks.search(found) or "\0" in found) and not _SQLITE.search(found):
                yield found


def modules() -> Iterator[tuple[str, Path]]:
    for info in pkgutil.walk_packages(crossfoot.__path__, "crossfoot."):
        if not _ELSEWHERE.match(info.name):
            origin = importlib.import_module(info.name).__file__
            assert origin is not None
            yield info.name, Path(origin)


def _constants(module: str) -> Iterator[Statement]:
    for name, value in vars(importlib.import_module(module)).items():
        text = value.decode(errors="replace") if isinstance(value, bytes) else value
        if isinstance(text, str) and name != "__doc__":
            yield Statement(re.sub(r"\{\w*\}", "\0", text), f"{module}.{name}")


def _literals(module: str, file: Path) -> Iterator[Statement]:
    for function in ast.walk(ast.parse(file.read_text())):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for text, line in _texts(function):
                yield Statement(text, f"{module}:{line}")


def _texts(node: ast.AST) -> Iterator[tuple[str, int]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.JoinedStr):
            parts = (str(v.value) if isinstance(v, ast.Constant) else "\0" for v in child.values)
            yield "".join(parts), child.lineno
        elif isinstance(child, ast.Constant) and isinstance(child.value, str):
            yield child.value, child.lineno
        elif not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _texts(child)

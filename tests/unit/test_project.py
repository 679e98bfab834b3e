"""The project keeps its own style: what no linter checks and a reader would mind."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FILE_LINES = 400
FUNCTION_LINES = 60

MADE_BY_TOOLS = {"__pycache__", "build", "dist", "node_modules"}
KEPT_HIDDEN = {".ci", ".github", ".gitignore"}
BINARY = {".gz", ".parquet", ".png", ".whl"}

MACHINE_PATH = re.compile(r"(?<![\w.~-])/(?:home|root|Users|work)/\w")
SILENCED = re.compile(r"#\s*(?:noqa|type: ignore|pragma: no cover)\S*(?:, ?[A-Z]+\d+)*(?P<reason>.*)")

# Spelled in parts, so that this file does not name them either.
OTHER_REGISTRIES = {
    ".".join(parts) for parts in (("registry", "npmjs", "org"), ("deb", "debian", "org"), ("crates", "io"))
}


def test_no_module_of_the_package_is_longer_than_a_reader_can_hold() -> None:
    too_long = {_name(path): lines for path in _modules() if (lines := len(_read(path).splitlines())) > FILE_LINES}

    assert not too_long, f"split these by policy, at most {FILE_LINES} lines each: {too_long}"


def test_no_function_of_the_package_is_longer_than_a_screen() -> None:
    too_long = {
        f"{_name(path)}:{node.lineno} {node.name}": lines
        for path in _modules()
        for node in ast.walk(ast.parse(_read(path)))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES
    }

    assert not too_long, f"split these, at most {FUNCTION_LINES} lines each: {too_long}"


def test_only_the_lock_names_a_package_registry() -> None:
    hosts = _hosts_of_the_lock() | OTHER_REGISTRIES
    found = [
        f"{_name(path)}:{number}"
        for path, number, line in _lines()
        if path.name != "uv.lock" and any(host in line for host in hosts)
    ]

    assert not found, f"a registry's host name, where none is needed: {found}"


def test_the_lock_names_one_public_registry_and_no_place_of_one_machine() -> None:
    lock = tomllib.loads(_read(ROOT / "uv.lock"))
    sources = [package["source"] for package in lock["package"] if package["name"] != "crossfoot"]

    assert len({source.get("registry") for source in sources}) == 1, "one registry, and nothing from elsewhere"
    assert not re.findall(r"file:|https?://[^/\"]*@|http://|registry = \"[^h]", _read(ROOT / "uv.lock"))


def test_no_file_names_a_path_of_one_machine() -> None:
    found = [
        f"{_name(path)}:{number} {line.strip()[:80]}" for path, number, line in _lines() if MACHINE_PATH.search(line)
    ]

    assert not found, f"paths that exist on one machine only: {found}"


def test_every_silenced_check_says_why() -> None:
    found = [
        f"{_name(path)}:{number}"
        for path, number, line in _lines()
        if path.suffix == ".py" and (silenced := SILENCED.search(line)) and not re.search(r"\w", silenced["reason"])
    ]

    assert not found, f"write the reason behind the code, as in `# noqa: X123 - because`: {found}"


def test_the_changelog_begins_with_the_version_that_is_installed() -> None:
    versions = re.findall(r"^## \[(\d[^\]]*)\]", _read(ROOT / "CHANGELOG.md"), flags=re.MULTILINE)

    assert versions[0] == _project()["version"] == metadata.version("crossfoot")


def test_the_extra_called_all_brings_every_extra() -> None:
    extras = _project()["optional-dependencies"]
    named = re.findall(r"\[(.*)\]", extras.pop("all")[0])[0].split(",")

    assert sorted(named) == sorted(extras)


def test_the_package_says_that_it_is_typed() -> None:
    assert (ROOT / "src/crossfoot/py.typed").is_file()


def _modules() -> list[Path]:
    return sorted((ROOT / "src").rglob("*.py"))


def _lines() -> Iterator[tuple[Path, int, str]]:
    for path in _files(ROOT):
        for number, line in enumerate(_read(path).splitlines(), start=1):
            yield path, number, line


def _files(folder: Path) -> Iterator[Path]:
    """The project's own text files, without asking git: a source archive has none."""
    for path in sorted(folder.iterdir()):
        if path.name in MADE_BY_TOOLS or (path.name.startswith(".") and path.name not in KEPT_HIDDEN):
            continue
        if path.is_dir():
            yield from _files(path)
        elif path.suffix not in BINARY and b"\0" not in path.read_bytes()[:8192]:
            yield path


def _hosts_of_the_lock() -> set[str]:
    return set(re.findall(r"https://([^/\"]+)/", _read(ROOT / "uv.lock")))


def _project() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads(_read(ROOT / "pyproject.toml"))["project"]
    return project


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()

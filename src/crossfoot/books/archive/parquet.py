"""Stories as files of Parquet, and back. The only module that knows pyarrow, which is imported when it is used.

One row a message; its entries, operations and outcomes are lists of structs beside it, so any tool that reads Parquet finds whole
stories. Payloads lie in a file of their own, by key, in row groups of the same messages.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, Self

from crossfoot.books.archive.folder import FULL
from crossfoot.books.archive.seal import Story
from crossfoot.errors import ArchiveBroken, missing_extra

ROW = {
    "key": "i", "queue": "d", "source": "d", "id": "s", "type": "d", "subject": "s", "operation": "s", "correlation": "s",
    "causation": "s", "sequence": "i", "at": "t", "bucket": "i", "marks": "i", "latest": "i", "due": "i", "fate": "i",
}  # fmt: skip
ENTRY = {
    "id": "i", "kind": "i", "attempt": "i", "delivery": "i", "at": "t", "due": "t", "worker": "i", "cause": "s", "details": "s",
}  # fmt: skip
OPERATION = {"number": "i", "key": "s", "kind": "i", "at": "t"}
OUTCOME = {"number": "i", "name": "s", "subject": "s", "at": "t", "facts": "s"}
LISTS = {"entries": ENTRY, "operations": OPERATION, "outcomes": OUTCOME}
"""Columns and their types: integers, text, text that repeats, times in microseconds."""

COMPRESSION = "zstd"


def arrow() -> Any:
    """pyarrow, with its Parquet.

    Raises:
        UsageError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("pyarrow"):
            raise
        raise missing_extra("the archive", "archive") from error
    return pyarrow


class Writer:
    """Writes the two files of a seal, a slice of stories at a time."""

    def __init__(self, facts: IO[bytes], payloads: IO[bytes], metadata: dict[str, str]) -> None:
        self._pa = pa = arrow()
        told = {f"crossfoot.{name}": value for name, value in metadata.items()}
        self._schema = pa.schema(
            [
                *(pa.field(name, _type(pa, kind)) for name, kind in ROW.items()),
                *(pa.field(name, pa.list_(_struct(pa, fields))) for name, fields in LISTS.items()),
            ],
            metadata=told,
        )
        self._bodies = pa.schema([pa.field("key", pa.int64()), pa.field("body", pa.binary())], metadata=told)
        self._facts = _writer(pa, facts, self._schema)
        self._payloads = _writer(pa, payloads, self._bodies)

    def write(self, stories: Sequence[Story]) -> None:
        """One row group of each."""
        pa = self._pa
        rows = list(zip(*(story.row for story in stories), strict=True))
        columns = [pa.array(values, _type(pa, kind)) for values, kind in zip(rows, ROW.values(), strict=True)]
        columns += [_lists(pa, fields, [getattr(story, name) for story in stories]) for name, fields in LISTS.items()]
        self._facts.write_table(pa.Table.from_arrays(columns, schema=self._schema), row_group_size=len(stories))
        write_bodies(pa, self._payloads, self._bodies, [(story.key, story.body) for story in stories])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for writer in (self._facts, self._payloads):
            if kind is None:
                writer.close()
            else:
                writer.is_open = False  # or it would write its end when it is collected, into a file that is gone


def write_bodies(pa: Any, writer: Any, schema: Any, bodies: Sequence[tuple[int, bytes | None]]) -> None:
    """One row group of payloads."""
    columns = [pa.array([key for key, _ in bodies], pa.int64()), pa.array([body for _, body in bodies], pa.binary())]
    writer.write_table(pa.Table.from_arrays(columns, schema=schema), row_group_size=max(1, len(bodies)))


def _writer(pa: Any, file: IO[bytes], schema: Any) -> Any:
    repeated = [name for name, kind in ROW.items() if kind == "d" and name in schema.names]
    return pa.parquet.ParquetWriter(
        file, schema, compression=COMPRESSION, use_dictionary=repeated, write_page_checksum=True
    )


def _type(pa: Any, kind: str) -> Any:
    return {"i": pa.int64(), "t": pa.timestamp("us", tz="UTC")}.get(kind, pa.string())


def _struct(pa: Any, fields: dict[str, str]) -> Any:
    return pa.struct([pa.field(name, _type(pa, kind)) for name, kind in fields.items()])


def _lists(pa: Any, fields: dict[str, str], of: Sequence[Sequence[tuple[Any, ...]]]) -> Any:
    """A column of lists of structs, made of flat columns: one by one would take ten times as long."""
    offsets = [0]
    for rows in of:
        offsets.append(offsets[-1] + len(rows))
    columns = list(zip(*(row for rows in of for row in rows), strict=True)) or [()] * len(fields)
    arrays = [pa.array(values, _type(pa, kind)) for values, kind in zip(columns, fields.values(), strict=True)]
    structs = pa.StructArray.from_arrays(arrays, fields=list(_struct(pa, fields)))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), structs)


# ---- back ------------------------------------------------------------------------------------------------------------


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A file of Parquet.

    Raises:
        ArchiveBroken: it is not there, or cannot be read.
    """
    pa = arrow()
    try:
        with pa.parquet.ParquetFile(path, page_checksum_verification=True) as file:
            yield file
    except FileNotFoundError as error:
        raise ArchiveBroken(f"{path} is not there: restore it from a backup of the archive") from error
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno in FULL:  # of what is written meanwhile
            raise
        raise ArchiveBroken(
            f"{path} cannot be read: {error}; crossfoot archive verify says what is damaged: restore it from a backup of the archive"
        ) from error


def all_stories(path: Path) -> Iterator[list[Story]]:
    """Everything in a file of facts, a row group at a time.

    Raises:
        ArchiveBroken: it cannot be read, or is no such file.
    """
    with opened(path) as file:
        _see_columns(file, path)
        for group in range(file.num_row_groups):
            yield _stories(file.read_row_group(group))


def keys_in(path: Path) -> Iterator[list[int]]:
    """The keys in a file of either kind, a row group at a time."""
    with opened(path) as file:
        for group in range(file.num_row_groups):
            yield file.read_row_group(group, columns=["key"]).column(0).to_pylist()


def find(path: Path, column: str, names: Collection[Any]) -> list[Story]:
    """The stories whose column is one of these, in the order of their keys; `operations` stands for the keys in that list.

    Raises:
        ArchiveBroken: the file cannot be read.
    """
    found: list[Story] = []
    with opened(path) as file:
        _see_columns(file, path)
        for group in range(file.num_row_groups):
            if column == "key" and not _may_hold(file, group, names):
                continue
            places = _places(file.read_row_group(group, columns=[column]), column, names)
            if places:
                found += _stories(file.read_row_group(group).take(places))
    return found


def bodies_of(path: Path, keys: Collection[int]) -> dict[int, bytes | None]:
    """What these messages carried, as far as it is there.

    Raises:
        ArchiveBroken: the file cannot be read.
    """
    found: dict[int, bytes | None] = {}
    with opened(path) as file:
        if file.schema_arrow.names != ["key", "body"]:
            raise ArchiveBroken(f"{path} is no file of payloads: its columns are others")
        for group in range(file.num_row_groups):
            if _may_hold(file, group, keys):
                table = file.read_row_group(group)
                pairs = zip(table.column("key").to_pylist(), table.column("body").to_pylist(), strict=True)
                found |= {key: body for key, body in pairs if key in keys}
    return found


def without_bodies(path: Path, target: IO[bytes], keys: Collection[int]) -> int:
    """Write a file of payloads anew, without those of these messages. Returns how many it had.

    Raises:
        ArchiveBroken: it cannot be read.
    """
    pa, count = arrow(), 0
    with opened(path) as file:
        writer = _writer(pa, target, file.schema_arrow)
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            pairs = list(zip(table.column("key").to_pylist(), table.column("body").to_pylist(), strict=True))
            count += sum(1 for key, body in pairs if body is not None and key in keys)
            write_bodies(pa, writer, file.schema_arrow, [(k, None if k in keys else body) for k, body in pairs])
        writer.close()
    return count


def _see_columns(file: Any, path: Path) -> None:
    if file.schema_arrow.names != [*ROW, *LISTS]:
        raise ArchiveBroken(f"{path} is no file of facts: its columns are others")


def _may_hold(file: Any, group: int, keys: Collection[int]) -> bool:
    """By the statistics of the first column, in whose order the file is."""
    about = file.metadata.row_group(group).column(0).statistics
    return about is None or not about.has_min_max or any(about.min <= key <= about.max for key in keys)


def _places(table: Any, column: str, names: Collection[Any]) -> list[int]:
    """The rows of a table whose one column is among the names."""
    if column == "operations":
        lists = table.column(0).to_pylist()
        return [place for place, rows in enumerate(lists) if any(row["key"] in names for row in rows)]
    pa = arrow()
    from pyarrow import compute

    values = table.column(0)
    hits = compute.is_in(values, value_set=pa.array(list(names), values.type))
    return list(compute.indices_nonzero(hits).to_pylist())


def _stories(table: Any) -> list[Story]:
    table = table.combine_chunks()
    rows = zip(*(_values(_one(table.column(name)), kind) for name, kind in ROW.items()), strict=True)
    lists = [_unfolded(_one(table.column(name)), fields) for name, fields in LISTS.items()]
    return [
        Story(tuple(row), entries, operations, outcomes)
        for row, entries, operations, outcomes in zip(rows, *lists, strict=True)
    ]


def _one(column: Any) -> Any:
    """A column that is in one piece."""
    return column.chunk(0) if column.num_chunks == 1 else arrow().concat_arrays(column.chunks)


def _values(array: Any, kind: str) -> list[Any]:
    return list((array.cast(arrow().int64()) if kind == "t" else array).to_pylist())


def _unfolded(lists: Any, fields: dict[str, str]) -> list[tuple[tuple[Any, ...], ...]]:
    offsets = lists.offsets.to_pylist()
    structs = lists.values
    columns = [_values(structs.field(place), kind) for place, kind in enumerate(fields.values())]
    rows = list(zip(*columns, strict=True))
    return [tuple(rows[a:b]) for a, b in pairwise(offsets)]

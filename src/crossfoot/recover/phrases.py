"""Times, spans and names in words, the same on every page."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from crossfoot.books.queries import WorkerRow
from crossfoot.clock import SECOND, Micros

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def stamp(at: Micros) -> str:
    """A time as RFC 3339 has it, to the microsecond: for machines."""
    return (_EPOCH + timedelta(microseconds=at)).isoformat(timespec="microseconds").replace("+00:00", "Z")


def moment(at: Micros) -> str:
    """A time for people: UTC, to the millisecond."""
    return (_EPOCH + timedelta(microseconds=at)).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + " UTC"


def clock_time(at: Micros, today: Micros) -> str:
    """The time of day, and the day only if it is not that of `today`."""
    text = moment(at)
    return text[11:] if text[:10] == moment(today)[:10] else text


def span(micros: Micros) -> str:
    """A duration with as many digits as a person wants."""
    micros = abs(micros)
    if micros < SECOND:
        return f"{micros / 1000:.3g} ms" if micros < 99_950 else f"{micros / 1000:.0f} ms"
    seconds = micros / SECOND
    if seconds < 59.95:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    whole = round(seconds)
    for unit, size, smaller, part in (("d", 86_400, "h", 3_600), ("h", 3_600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {unit} {rest} {smaller}" if rest else f"{whole // size} {unit}"
    return f"{whole} s"


def ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th."""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def plural(count: int, one: str, many: str = "") -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def listed(names: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join((", ".join(names[:-1]), names[-1])) if len(names) > 1 else "".join(names)


def worker_name(worker: WorkerRow | None) -> str:
    """Whom to look for, and where: the process, unless the name says it already."""
    if worker is None:
        return "a worker"
    where = [
        part
        for part, known in ((f"pid {worker.pid}", str(worker.pid)), (f"on {worker.host}", worker.host))
        if known not in worker.name
    ]
    return f"worker {worker.name}" + (f" ({' '.join(where)})" if where else "")

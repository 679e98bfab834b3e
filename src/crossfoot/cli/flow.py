"""`crossfoot flow`: what follows from limits and times, and what would have happened."""

from __future__ import annotations

import random
import tomllib
from pathlib import Path
from typing import Annotated

import typer

from crossfoot.cli.options import Color, Json
from crossfoot.cli.output import Cell, Output, When, print_json
from crossfoot.errors import UsageError
from crossfoot.flow import planning
from crossfoot.flow.fates import Fate
from crossfoot.flow.planning import Service, Weight
from crossfoot.flow.replaying import Outage, Replay, poisson, replay

app = typer.Typer(help="Bounded work: what a plan of limits and times comes to.", add_completion=False)

STYLES = {Weight.WRONG: "red", Weight.OUTAGE: "yellow", Weight.NOTE: ""}

Plan = Annotated[
    Path,
    typer.Argument(metavar="PLAN", help="a TOML file with the tables service and dependency, see docs/guides/flow.md"),
]

BAR = 30
"""Characters of the longest bar."""


@app.command("plan")
def plan(file: Plan, as_json: Json = False, color: Color = When.auto) -> None:
    """Say what follows from rates, times, limits and pools: which limit never binds, which pool starves, what an outage does.

        crossfoot flow plan page.toml

    Exits with 1 when something fails as it is planned, with all services well.
    """
    found = planning.check(_read(file))
    wrong = sum(one.weight is Weight.WRONG for one in found)
    if as_json:
        print_json({"findings": [{"weight": one.weight, "about": one.about, "text": one.text} for one in found]})
    else:
        out = Output(color)
        out.heading("PLAN FAILS" if wrong else "PLAN HOLDS", file.name, style="red" if wrong else "green")
        rows: list[list[Cell]] = [[(one.weight, STYLES[one.weight]), one.about, one.text] for one in found]
        out.table(["", "about", "what follows"], rows)
    if wrong:
        raise typer.Exit(1)


@app.command("replay")
def replay_(
    file: Plan,
    arrivals: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="seconds of arrival, one a line; otherwise they are drawn", show_default=False
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(min=1, max=3600, help="how long, where arrivals are drawn")] = 30.0,
    outage: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME:FROM:TO[:SHARE]",
            help="a dependency is ill meanwhile, or that share of its calls",
            show_default=False,
        ),
    ] = None,
    adaptive: Annotated[bool, typer.Option("--adaptive", help="limits find their size")] = False,
    seed: Annotated[int, typer.Option(help="of arrivals and service times")] = 0,
    as_json: Json = False,
    color: Color = When.auto,
) -> None:
    """Run arrivals through the real limits and deadlines in virtual time, and draw what would have happened.

        crossfoot flow replay page.toml --outage pricing:10:20
        crossfoot flow replay page.toml --arrivals yesterday.txt --adaptive

    Exits with 1 when a request had no answer.
    """
    service = _read(file)
    when = poisson(service.rps, seconds, random.Random(seed)) if arrivals is None else _arrivals(arrivals)
    found = replay(service, when, [_outage(text) for text in outage or ()], seed=seed, adaptive=adaptive)
    lost = sum(count for fate, count in found.fates.items() if fate not in (Fate.FULL, Fate.DEGRADED))
    if as_json:
        print_json(_document(found))
    else:
        _draw(Output(color), found)
    if lost:
        raise typer.Exit(1)


def _read(file: Path) -> Service:
    try:
        return planning.read(tomllib.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} is not TOML: {error}") from error


def _arrivals(file: Path) -> list[float]:
    try:
        return [float(line.partition(",")[0]) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{file}: {error}; a line begins with seconds") from error


def _outage(text: str) -> Outage:
    try:
        name, begins, ends, *share = text.split(":")
        return Outage(name, float(begins), float(ends), *(float(part) for part in share))
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"--outage {text}: NAME:FROM:TO in seconds, as pricing:10:20, or NAME:FROM:TO:SHARE"
        ) from error


def _document(found: Replay) -> dict[str, object]:
    return {
        "arrivals": sum(one.arrivals for one in found.seconds),
        "fates": dict(found.fates),
        "wasted": [
            {"cause": cause, "count": count, "seconds": round(seconds, 6)} for cause, (count, seconds) in found.wasted.items()
        ],
        "seconds": [
            {
                "arrivals": one.arrivals, "fates": dict(one.fates), "under_way": one.under_way,
                "p50": round(one.late(0.5), 6), "p99": round(one.late(0.99), 6),
            }
            for one in found.seconds
        ],
        "limits": found.limits,
    }  # fmt: skip


def _draw(out: Output, found: Replay) -> None:
    fates, most = found.fates, max((one.arrivals for one in found.seconds), default=1)
    told = ", ".join(f"{fates[fate]:,} {fate}" for fate in Fate if fates[fate])
    out.heading(f"{sum(fates.values()):,} REQUESTS", told or "nothing arrived")
    rows: list[list[Cell]] = []
    for number, one in enumerate(found.seconds):
        bars = {fate: round(BAR * one.fates[fate] / most) for fate in Fate}
        other = round(BAR * one.arrivals / most) - bars[Fate.FULL] - bars[Fate.DEGRADED]
        bar = "#" * bars[Fate.FULL] + "~" * bars[Fate.DEGRADED] + "!" * max(0, other)
        sizes = " ".join(f"{name} {sizes[number]}" for name, sizes in found.limits.items())
        rows.append(
            [str(number), bar, f"{one.late(0.5) * 1000:.0f}", f"{one.late(0.99) * 1000:.0f}", str(one.under_way), sizes]
        )
    out.table(["s", "# full ~ degraded ! none", "p50 ms", "p99 ms", "under way", "limits"], rows)
    for cause, (count, seconds) in found.wasted.items():
        out.line(f"wasted, because {cause}: {count:,} calls, {seconds:,.1f} s")

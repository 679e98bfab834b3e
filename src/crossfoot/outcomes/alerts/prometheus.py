"""The alerts as a file of rules for Prometheus, over the metrics of `crossfoot metrics`.

`for` is what sustains an alert there, and `keep_firing_for` (Prometheus 2.42 or newer) what keeps it from coming and going. Prometheus
does not know ids: the annotation says which command names them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from crossfoot.clock import Micros
from crossfoot.outcomes.alerts.rules import ALERTS, Alert, Arrivals, Burn, Level
from crossfoot.outcomes.durations import written

TEXTS = {
    "unaccounted": "Messages have no fate",
    "vanished": "Messages left queue {{ $labels.about }} and nothing proves that they were handled",
    "stranded": "Messages were published to queue {{ $labels.about }} and nobody receives them",
    "stalled": "Deliveries of queue {{ $labels.about }} have no end, and their lease is over",
    "dead letters": "Too much of what queue {{ $labels.about }} receives becomes a dead letter",
    "dead letter age": "Dead letters of queue {{ $labels.about }} wait for somebody",
    "time to loss": "Queue {{ $labels.about }} will forget messages before their turn comes",
    "dead letter loss": "Queue {{ $labels.about }} will forget dead letters that nobody has brought back",
    "expectation breach": "Messages are without what was expected of them: {{ $labels.about }}",
    "expectation late": "Too much of what was expected comes late: {{ $labels.about }}",
    "invariant broken": "Rows break an invariant: {{ $labels.about }}",
    "invariant not known": "Nobody can tell whether an invariant holds: {{ $labels.about }}",
    "retry explosion": "Too many deliveries of queue {{ $labels.about }} fail",
    "worker saturation": "Workers are at work, and messages wait in queue {{ $labels.about }}",
    "balance lag": "Entries cannot be posted: look for a transaction that stays open",
}
"""What Prometheus says of each."""


def rules_document(alerts: Iterable[Alert] = tuple(ALERTS.values())) -> dict[str, Any]:
    """What the file says, as objects and lists."""
    rules = [*map(_rule, alerts), _RULE_OF_NOTICES, _RULE_OF_THE_EXPORTER]
    return {"groups": [{"name": "crossfoot", "rules": rules}]}


def rules_file() -> str:
    """The file, in YAML."""
    lines = [
        "# Written by `crossfoot alerts rules`: for a Prometheus that scrapes `crossfoot metrics --listen`.",
        "groups:",
    ]
    for group in rules_document()["groups"]:
        lines += [f"- name: {group['name']}", "  rules:"]
        for rule in group["rules"]:
            lines += _in_yaml(rule)
    return "\n".join(lines) + "\n"


def _in_yaml(rule: Mapping[str, Any]) -> list[str]:
    """One rule. A string of JSON's is one of YAML's, too."""
    lines = []
    for name, value in rule.items():
        if name == "expr":
            lines += [f"{name}: |-", *(f"  {line}" for line in value.splitlines())]
        elif isinstance(value, dict):
            lines += [f"{name}:", *(f"  {key}: {msgspec.json.encode(text).decode()}" for key, text in value.items())]
        else:
            lines.append(f"{name}: {value}")
    return [f"  - {lines[0]}", *(f"    {line}" for line in lines[1:])]


def expression(alert: Alert) -> str:
    """When it fires, in PromQL."""
    rule, at = alert.rule, f'{{alert="{alert.name}"}}'
    if isinstance(rule, Level):
        return f"crossfoot_sign{at} {'<' if rule.below else '>'} {rule.fire:g}"
    if isinstance(rule, Arrivals):
        return f"increase(crossfoot_sign_bad_total{at}[{written(rule.calm)}]) > 0"
    return "\nor\n".join(_burning(rule, window.long, window.short, window.factor, at) for window in rule.windows)


def _burning(rule: Burn, long: Micros, short: Micros, factor: float, at: str) -> str:
    bound = min(1.0, factor * rule.allowed)
    shares = [
        f"increase(crossfoot_sign_bad_total{at}[{written(over)}]) >= {bound:g} * increase(crossfoot_sign_events_total{at}[{written(over)}])"
        for over in (long, short)
    ]
    least = f"increase(crossfoot_sign_bad_total{at}[{written(long)}]) >= {rule.least:g}"
    some = f"increase(crossfoot_sign_bad_total{at}[{written(short)}]) > 0"
    return "(" + "\nand ".join([*shares, least, some]) + ")"


def _rule(alert: Alert) -> dict[str, Any]:
    rule = alert.rule
    sustain = rule.sustain if isinstance(rule, Level) else 0
    calm = 0 if isinstance(rule, Arrivals) else rule.calm
    command = alert.step.replace("{queue}", "{{ $labels.about }}") if "{id}" not in alert.step else "crossfoot balance"
    return {
        "alert": "Crossfoot" + "".join(word.capitalize() for word in alert.name.split()),
        "expr": expression(alert),
        **({"for": written(sustain)} if sustain else {}),
        **({"keep_firing_for": written(calm)} if calm else {}),
        "labels": {"severity": alert.severity},
        "annotations": {"summary": TEXTS[alert.name], "next": f"{command} names the ids"},
    }


_RULE_OF_NOTICES = {
    "alert": "CrossfootNotHeard",
    "expr": "crossfoot_unheard_notices > 0",
    "for": "10m",
    "labels": {"severity": "page"},
    "annotations": {
        "summary": "Alerts do not reach {{ $labels.target }}",
        "next": "crossfoot alerts check names the notices",
    },
}
"""Whoever has two ways of being told hears by the one that the other is broken."""

_RULE_OF_THE_EXPORTER = {
    "alert": "CrossfootNotSeen",
    "expr": "absent(crossfoot_as_of_seconds) or time() - crossfoot_as_of_seconds > 300",
    "for": "5m",
    "labels": {"severity": "page"},
    "annotations": {
        "summary": "The exporter of the books says nothing, so no other alert can fire",
        "next": "look at crossfoot metrics --listen, and at the database",
    },
}
"""Nothing of all this fires while the exporter is silent."""

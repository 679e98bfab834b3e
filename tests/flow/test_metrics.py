"""The books of requests as figures: every figure that is told is one of the books', in both forms."""

from __future__ import annotations

import re
from typing import Any

import anyio
import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry, generate_latest

from crossfoot import flow
from crossfoot.flow import metrics
from tests.acceptance.pages import DOCS, table


@pytest.fixture
async def scene() -> dict[str, Any]:
    ledger, limit = flow.Ledger(), flow.Limit(1, name="pricing", waiting=0)
    async with flow.fan_out(deadline=0.3, name="page", ledger=ledger) as group:
        group.branch("stock", anyio.sleep, 0.1)
        group.branch("price", anyio.sleep, 5, limit=limit)
        await anyio.wait_all_tasks_blocked()
        group.branch("price", anyio.sleep, 5, limit=limit)
    return {"ledger": ledger, "limits": [limit], "threads": [flow.Threads(2, name="pool")]}


async def test_prometheus_is_told_the_books(scene: dict[str, Any]) -> None:
    registry = CollectorRegistry()
    metrics.prometheus(registry, **scene)

    lines = generate_latest(registry).decode().splitlines()

    assert {
        'crossfoot_flow_arrivals_total{kind="request",name="page"} 1.0',
        'crossfoot_flow_ended_total{fate="degraded",kind="request",name="page"} 1.0',
        'crossfoot_flow_ended_total{fate="expired",kind="branch",name="price"} 1.0',
        'crossfoot_flow_ended_total{fate="shed",kind="branch",name="price"} 1.0',
        'crossfoot_flow_under_way{kind="branch",name="price"} 0.0',
        'crossfoot_flow_wasted_total{cause="its deadline passed"} 1.0',
        'crossfoot_flow_limit_size{limit="pricing"} 1.0',
        'crossfoot_flow_limit_asked_total{answer="shed",limit="pricing"} 1.0',
        'crossfoot_flow_threads_abandoned{threads="pool"} 0.0',
    } <= set(lines)


async def test_opentelemetry_is_told_the_same(scene: dict[str, Any]) -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    metrics.opentelemetry(provider.get_meter("test"), **scene)

    data: Any = reader.get_metrics_data()
    told = {
        (metric.name, tuple(point.attributes.values()), point.value)
        for metric in data.resource_metrics[0].scope_metrics[0].metrics
        for point in metric.data.data_points
    }
    provider.shutdown()

    assert ("crossfoot.flow.arrivals", ("request", "page"), 1) in told
    expected = {(name, labels) for name, labels, _ in metrics.samples(**scene)}
    assert {(name.removeprefix("crossfoot.flow."), labels) for name, labels, _ in told} == expected


def test_the_page_lists_every_figure() -> None:
    listed = [re.sub(r"[`]", "", cells[0]) for cells in table(DOCS / "flow.md", "Figures")]

    assert listed == list(metrics.KINDS)
    assert [cells[2] for cells in table(DOCS / "flow.md", "Figures")] == [kind.text for kind in metrics.KINDS.values()]

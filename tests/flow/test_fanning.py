"""Asking several at once. Time is virtual, on asyncio and on trio."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfoot import flow
from crossfoot.errors import UsageError
from crossfoot.flow import Fate
from tests.flow.virtual import backend, block


@pytest.fixture
def ledger() -> flow.Ledger:
    return flow.Ledger()


async def answer(value: str = "answer", after: float = 0.1) -> str:
    await anyio.sleep(after)
    return value


async def fail(error: BaseException, after: float = 0.1) -> str:
    await anyio.sleep(after)
    raise error


def wasted(ledger: flow.Ledger) -> dict[flow.Waste, tuple[int, float]]:
    return {cause: (count, round(seconds, 6)) for cause, (count, seconds) in ledger.wasted.items()}


def sums(ledger: flow.Ledger) -> bool:
    return all(one.balances and not one.under_way for one in ledger.accounts)


async def test_every_answer_in_time_is_a_full_answer(ledger: flow.Ledger) -> None:
    began = anyio.current_time()
    async with flow.fan_out(deadline=0.3, name="page", ledger=ledger) as group:
        stock = group.branch("stock", answer, "12", required=True)
        price = group.branch("price", answer, "99")

    assert (stock.value, price.value, group.fate) == ("12", "99", Fate.FULL)
    assert anyio.current_time() - began == pytest.approx(0.1), "at once"
    assert {(one.kind, one.name): one.fates for one in ledger.accounts} == {
        ("request", "page"): {Fate.FULL: 1}, ("branch", "stock"): {Fate.FULL: 1}, ("branch", "price"): {Fate.FULL: 1},
    }  # fmt: skip


async def test_a_late_branch_costs_its_part_of_the_answer_and_not_the_answer(ledger: flow.Ledger) -> None:
    began = anyio.current_time()
    async with flow.fan_out(deadline=0.3, name="page", ledger=ledger) as group:
        stock = group.branch("stock", answer, "12", required=True)
        price = group.branch("price", answer, "99", 1.5, fallback=lambda: "last known")
        rating = group.branch("rating", answer, "5", 1.5)

    assert anyio.current_time() - began == pytest.approx(0.3)
    assert (stock.value, price.value, rating.get("none")) == ("12", "last known", "none")
    assert (price.fate, rating.fate, group.fate) == (Fate.DEGRADED, Fate.EXPIRED, Fate.DEGRADED)
    assert isinstance(price.error, flow.Expired)
    with pytest.raises(flow.Expired):
        _ = rating.value
    assert wasted(ledger) == {flow.Waste.EXPIRED: (2, 0.6)}
    assert sums(ledger)


async def test_a_required_branch_that_fails_cancels_the_rest(ledger: flow.Ledger) -> None:
    began = anyio.current_time()
    with pytest.raises(ExceptionGroup, match="no answer from stock") as caught:
        async with flow.fan_out(deadline=5, name="page", ledger=ledger) as group:
            stock = group.branch("stock", fail, ConnectionError("no route"), required=True)
            price = group.branch("price", answer, "99", 1)
            await anyio.sleep(4)

    assert anyio.current_time() - began == pytest.approx(0.1)
    assert caught.group_contains(ConnectionError)
    assert (stock.fate, price.fate, group.fate) == (Fate.FAILED, Fate.CANCELLED, Fate.FAILED)
    assert wasted(ledger) == {flow.Waste.REQUIRED: (1, 0.1)}
    assert sums(ledger)


async def test_a_required_branch_may_have_a_fallback(ledger: flow.Ledger) -> None:
    async with flow.fan_out(deadline=0.3, ledger=ledger) as group:
        stock = group.branch("stock", fail, ConnectionError("no route"), required=True, fallback=lambda: "some")

    assert (stock.value, stock.fate) == ("some", Fate.DEGRADED)


async def test_refused_in_a_group_is_still_429_and_leaves_no_orphan(ledger: flow.Ledger) -> None:
    limit = flow.Limit(1, waiting=0, name="pricing")
    ended: list[str] = []

    async def neighbour() -> None:
        try:
            await anyio.sleep(10)
        finally:
            ended.append("neighbour")

    async with limit.permit():
        with pytest.raises(ExceptionGroup) as caught:
            async with flow.fan_out(deadline=5, name="page", ledger=ledger) as group:
                group.branch("stock", neighbour)
                await anyio.wait_all_tasks_blocked()
                price = group.branch("price", answer, required=True, limit=limit)
                await anyio.sleep(4)

    assert flow.http_meaning(caught.value) == (429, 1.0)
    assert (price.fate, group.fate) == (Fate.SHED, Fate.SHED)
    assert ended == ["neighbour"], "ended before the block was left"
    assert sums(ledger)


async def test_a_branch_has_its_share_of_the_time_and_its_fallback_the_rest(ledger: flow.Ledger) -> None:
    began = anyio.current_time()
    async with flow.fan_out(deadline=1, ledger=ledger) as group:
        price = group.branch("price", answer, "99", 5, share=0.6, fallback=lambda: answer("cached", 0.2))

    assert (price.value, price.fate) == ("cached", Fate.DEGRADED)
    assert anyio.current_time() - began == pytest.approx(0.8)


async def test_a_fallback_that_fails_or_has_no_time_leaves_the_branch_as_it_was(ledger: flow.Ledger) -> None:
    async with flow.fan_out(deadline=1, ledger=ledger) as group:
        one = group.branch("one", fail, ConnectionError(), fallback=lambda: fail(ZeroDivisionError()))
        two = group.branch("two", answer, "99", 5, fallback=lambda: answer("cached", 0.2))
        three = group.branch("three", answer, "99", 5, share=0.5, fallback=lambda: answer("cached", 5))

    assert [branch.fate for branch in (one, two, three)] == [Fate.FAILED, Fate.EXPIRED, Fate.EXPIRED]
    assert isinstance(one.error, ConnectionError)
    assert one.error.__notes__ == ["and its fallback failed: ZeroDivisionError()"]


async def test_an_effect_that_had_begun_and_gave_no_answer_is_in_doubt(ledger: flow.Ledger) -> None:
    limit = flow.Limit(1, waiting=5)

    async with flow.fan_out(deadline=0.3, name="order", ledger=ledger) as group:
        begun = group.branch("charge", answer, "charged", 5, effect=True, limit=limit)
        await anyio.wait_all_tasks_blocked()
        waiting = group.branch("reserve", answer, "reserved", 5, effect=True, limit=limit)
        refused = group.branch("mail", fail, flow.Rejected("not now"), effect=True)
        broken = group.branch("log", fail, ConnectionResetError(), effect=True)

    assert [one.fate for one in (begun, waiting, refused, broken)] == [
        Fate.IN_DOUBT, Fate.EXPIRED, Fate.SHED, Fate.IN_DOUBT,
    ]  # fmt: skip
    assert group.fate is Fate.IN_DOUBT, "never rounded to success or failure"


async def test_an_effect_cancelled_for_another_s_failure_is_in_doubt(ledger: flow.Ledger) -> None:
    with pytest.raises(ExceptionGroup):
        async with flow.fan_out(deadline=5, name="order", ledger=ledger) as group:
            group.branch("stock", fail, ConnectionError(), required=True)
            charge = group.branch("charge", answer, "charged", 2, effect=True)

    assert (charge.fate, group.fate) == (Fate.IN_DOUBT, Fate.IN_DOUBT)


async def test_the_block_itself_is_stopped_at_the_deadline_and_the_branches_have_their_own_ends(
    ledger: flow.Ledger,
) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with flow.fan_out(deadline=0.3, name="page", ledger=ledger) as group:
            late = group.branch("late", answer, "x", 9, fallback=lambda: "last known")
            await anyio.sleep(10)

    assert caught.group_contains(flow.Expired)
    assert flow.http_meaning(caught.value) == (504, None)
    assert (late.fate, group.fate) == (Fate.DEGRADED, Fate.EXPIRED)


async def test_an_error_of_the_block_cancels_the_branches(ledger: flow.Ledger) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with flow.fan_out(deadline=3, name="page", ledger=ledger) as group:
            price = group.branch("price", answer)
            await anyio.wait_all_tasks_blocked()
            raise ZeroDivisionError

    assert caught.group_contains(ZeroDivisionError)
    assert flow.http_meaning(caught.value) == (500, None)
    assert (price.fate, group.fate) == (Fate.CANCELLED, Fate.FAILED)
    assert wasted(ledger) == {flow.Waste.LEFT: (1, 0)}


async def test_a_caller_that_leaves_cancels_everything(ledger: flow.Ledger) -> None:
    with anyio.move_on_after(0.05) as scope:
        async with flow.fan_out(deadline=3, name="page", ledger=ledger) as group:
            price = group.branch("price", answer, fallback=lambda: "last known")

    assert scope.cancelled_caught
    assert (price.fate, group.fate) == (Fate.CANCELLED, Fate.CANCELLED)
    assert sums(ledger)


async def test_an_expired_deadline_begins_no_branch(ledger: flow.Ledger) -> None:
    with pytest.raises(flow.Expired), flow.deadline(0.1):
        block(0.2)
        async with flow.fan_out(deadline=3, name="page", ledger=ledger):
            pytest.fail("nothing is begun")

    assert [(one.name, one.fates) for one in ledger.accounts] == [("page", {Fate.EXPIRED: 1})]


async def test_without_any_deadline_nothing_is_asked() -> None:
    with pytest.raises(UsageError, match="may never end"):
        flow.fan_out()


async def test_terms_that_contradict_each_other_are_refused() -> None:
    async with flow.fan_out(deadline=1) as group:
        with pytest.raises(UsageError, match="share of 0"):
            group.branch("x", answer, share=0)
        with pytest.raises(UsageError, match="what would it have changed"):
            group.branch("x", answer, effect=True, fallback=lambda: "y")
        with pytest.raises(UsageError, match="only if that does no harm"):
            group.branch("x", answer, retry=flow.Retry())
        with pytest.raises(UsageError, match="has not ended"):
            _ = group.branch("x", answer).value


@pytest.mark.parametrize("anyio_backend", [backend("asyncio")], ids=["asyncio"])
async def test_a_branch_that_swallows_its_cancellation_is_named(ledger: flow.Ledger) -> None:
    reports: list[flow.Report] = []

    async def deaf() -> str:
        try:
            await anyio.sleep(10)
        except BaseException:  # noqa: BLE001 - on purpose
            return "as if nothing had been"
        return "slept"

    with flow.listen(reports.append):
        async with flow.fan_out(deadline=0.3, ledger=ledger) as group:
            group.branch("deaf", deaf)
            group.branch("good", answer, "x", 10)

    (report,) = reports
    assert report.trouble is flow.Trouble.SWALLOWED
    assert report.place.endswith("deaf")


@pytest.mark.parametrize("anyio_backend", [backend("asyncio")], ids=["asyncio"])
async def test_an_answer_in_the_tick_of_the_deadline_is_full_and_nobody_is_accused(ledger: flow.Ledger) -> None:
    reports: list[flow.Report] = []
    loop = asyncio.get_running_loop()
    future: asyncio.Future[str] = loop.create_future()

    async def wait() -> str:
        return await future

    loop.call_at(loop.time() + 0.3, future.set_result, "just so")
    with flow.listen(reports.append):
        async with flow.fan_out(deadline=0.3, ledger=ledger) as group:
            branch = group.branch("price", wait)

    assert (branch.fate, reports) == (Fate.FULL, [])


async def test_one_call_is_guarded_without_a_task_of_its_own(ledger: flow.Ledger) -> None:
    assert await flow.call(answer, "here", deadline=1, name="a", ledger=ledger) == "here"
    with pytest.raises(flow.Expired):
        await flow.call(answer, "here", 5, deadline=1, name="b", ledger=ledger)
    assert (
        await flow.call(answer, "here", 5, deadline=1, share=0.5, name="c", fallback=lambda: "there", ledger=ledger)
        == "there"
    )
    with pytest.raises(ZeroDivisionError):
        await flow.call(fail, ZeroDivisionError(), name="d", ledger=ledger)
    with pytest.raises(flow.Expired):
        await flow.call(answer, deadline=0, name="e", ledger=ledger)

    assert {one.name: list(one.fates) for one in ledger.accounts} == {
        "a": [Fate.FULL], "b": [Fate.EXPIRED], "c": [Fate.DEGRADED], "d": [Fate.FAILED], "e": [Fate.EXPIRED],
    }  # fmt: skip


# ---- whatever happens -------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**32))
@pytest.mark.parametrize("name", ["asyncio", "trio"])
def test_every_branch_ends_in_exactly_one_fate_and_they_sum_to_the_arrivals(name: str, seed: int) -> None:
    kind, options = backend(name)
    anyio.run(_random_requests, seed, backend=kind, backend_options=options)


async def _random_requests(seed: int) -> None:
    chance, ledger = random.Random(seed), flow.Ledger()
    limit = flow.Limit(chance.randint(1, 3), waiting=chance.randrange(4), wait=chance.choice([0, 1, 2]))
    groups: list[flow.FanOut] = []
    errors = (
        ConnectionError,
        ZeroDivisionError,
        TimeoutError,
        lambda: flow.Rejected("no", retry_after=1),
        lambda: flow.InDoubt("?"),
    )

    async def work(seconds: float, how: int) -> int:
        await anyio.sleep(seconds)
        if how < len(errors):
            raise errors[how]()
        if how == len(errors):
            block(2)
        return how

    async def request(at: float) -> None:
        await anyio.sleep(at)
        try:
            with anyio.move_on_after(chance.randrange(1, 9)):
                async with flow.fan_out(deadline=float(chance.randrange(4)), name="request", ledger=ledger) as group:
                    groups.append(group)
                    for number in range(chance.randrange(4)):
                        effect = chance.random() < 0.2
                        group.branch(
                            f"branch {number}", work, float(chance.randrange(4)), chance.randrange(12),
                            required=chance.random() < 0.3, limit=limit if chance.random() < 0.5 else None,
                            share=chance.choice([0.5, 1.0]), effect=effect,
                            fallback=None if effect or chance.random() < 0.5 else (lambda: work(1, 9)),
                            retry=flow.Retry(base=1, chance=chance.random) if chance.random() < 0.3 else None, idempotent=True,
                        )  # fmt: skip
                    if chance.random() < 0.3:
                        await work(float(chance.randrange(3)), chance.randrange(9))
        except Exception:  # noqa: BLE001 - whatever it raises, what counts is in the ledger
            return

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(request, float(chance.randrange(4)))

    assert limit.in_use == limit.waiting == 0
    for account in ledger.accounts:
        assert account.balances
        assert account.under_way == 0, "whatever arrived has ended"
    ends = Counter(branch.fate for group in groups for branch in group.branches)
    booked = Counter[Fate | None]()
    for account in ledger.accounts:
        if account.kind == "branch":
            booked.update(account.fates)
    assert ends == booked
    assert None not in ends

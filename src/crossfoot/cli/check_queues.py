"""What is known of a service beside its book: its program where it is named, its settings, and what its queues tell of theirs."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import partial

import anyio
import msgspec

from crossfoot import settings
from crossfoot.app import Crossfoot
from crossfoot.cli.depths import ASK_SECONDS, queue_by_settings, quiet
from crossfoot.clock import Micros
from crossfoot.connection import is_postgres
from crossfoot.errors import QueueUnavailable, UsageError
from crossfoot.queues.queue import LocalQueue, Queue
from crossfoot.queues.telling import Counted, TellsSettings, TellsTraffic, Told
from crossfoot.recover.checklist.broker import WITHIN
from crossfoot.recover.checklist.survey import Attached, HandlerTold, Service


def service_of(
    path: str, queues: Iterable[str], app: Crossfoot | None, *, ask: bool, now: Micros | None = None
) -> Service:
    """Everything there is to know.

    Args:
        path: of the book.
        queues: the names of those that the book knows.
        app: the service's own program, where it was named: it knows its handlers, and queues that no setting leads to.
        ask: whether queues outside the book's file may be asked.
        now: up to when their brokers' own counts are asked for; `None`: they are not.
    """
    stated = settings.load(database=path)
    found: dict[str, Attached] = {}
    unasked, unreached = list[str](), list[str]()
    names = dict.fromkeys([*queues, *(app.queues if app is not None else ())])
    for name in names:
        queue = app.queues.get(name) if app is not None else None
        local = isinstance(queue, LocalQueue)
        if queue is None:
            queue = queue_by_settings(name, stated)
            local = stated.queue.partition(":")[0] == "embedded" and (queue is not None or not is_postgres(path))
            if queue is None and local:  # a table in the book's own file: its retention is the service's setting
                found[name] = Attached(name=name, retention=stated.retention, local=True)
                continue
        if queue is None or (not ask and not local):
            unasked.append(f"queue {name} ({'no setting leads to it' if queue is None else '--no-queue'})")
            continue
        try:
            with quiet(logging.getLogger("crossfoot.queues")):
                found[name] = anyio.run(partial(_asked, queue, local=local))
                if now is not None and isinstance(queue, TellsTraffic):
                    found[name] = msgspec.structs.replace(found[name], counted=anyio.run(_counted, queue, now) or ())
        except (QueueUnavailable, UsageError) as error:
            unasked.append(f"queue {name} ({error})")
            unreached.append(name)
    return Service(
        queue=app.queue.name if app is not None else None,
        sends_to=tuple(name for name in app.queues if name != app.queue.name) if app is not None else (),
        lease=app.pattern.lease if app is not None else stated.lease,
        payloads=app.settings.payloads if app is not None else stated.payloads,
        veiled=app is not None and not isinstance(app.book.payloads, bool),
        handlers=None if app is None else tuple(
            HandlerTold(one.name, one.type, one.proves, one.in_order is not None) for one in app.registry
        ),
        attached=found,
        unasked=tuple(unasked),
        unreached=tuple(unreached),
    )  # fmt: skip


async def _counted(queue: TellsTraffic, now: Micros) -> tuple[Counted, ...] | None:
    """On a connection of its own: those who may not ask this may know the queue's settings all the same."""
    try:
        with anyio.fail_after(ASK_SECONDS):
            await queue.open()
            return await queue.traffic(now - WITHIN, now)
    except TimeoutError:
        raise QueueUnavailable(f"its broker's counts did not come within {ASK_SECONDS:.0f} s") from None
    finally:
        with anyio.CancelScope(shield=True):
            await queue.close()


async def _asked(queue: Queue, *, local: bool) -> Attached:
    try:
        with anyio.fail_after(ASK_SECONDS):
            await queue.open()
            told = await queue.told() if isinstance(queue, TellsSettings) else Told()
            depth = await queue.depth()
    except TimeoutError:
        raise QueueUnavailable(f"it did not answer within {ASK_SECONDS:.0f} s") from None
    finally:
        with anyio.CancelScope(shield=True):
            await queue.close()
    return Attached(
        name=queue.name, told=told, retention=queue.retention, max_attempts=queue.max_attempts, held=depth.held,
        dead=depth.dead, local=local,
        publish_dedup=queue.capabilities.publish_dedup,
    )  # fmt: skip

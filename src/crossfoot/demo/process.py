"""One worker process of the demo: the example's handlers, with the planned faults around them.

    python -m crossfoot.demo.process SETTINGS

It says `ready NAME` when it works, stops in order on SIGTERM or when its standard input ends (so that none outlives the
demo), and may be killed at any moment.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import anyio.to_thread
import msgspec

from crossfoot.app import Crossfoot
from crossfoot.connection import is_postgres
from crossfoot.demo import log
from crossfoot.demo.hands import EmbeddedHands, Hands, OtherHands, SqsHands
from crossfoot.demo.hooks import Hooks
from crossfoot.demo.incoming import FaultyKeepingReceive, FaultyLocalReceive, FaultyReceive
from crossfoot.demo.messages import SOURCE
from crossfoot.demo.plan import Act
from crossfoot.demo.record import Record
from crossfoot.demo.shield import Shield
from crossfoot.errors import CrossfootError
from crossfoot.flow.fates import leaves
from crossfoot.queues.embedded import EmbeddedQueue
from crossfoot.queues.queue import KeepsExpired, LocalQueue
from crossfoot.worker.registry import Registry
from crossfoot.worker.worker import Worker

logger = logging.getLogger("crossfoot.demo")


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker process is told.

    Attributes:
        worker: its name in this demo.
        folder: where record and shields are.
        acts: the plan, by message id.
        settings: of the service, see `crossfoot.settings.Settings`.
    """

    worker: str
    folder: str
    acts: dict[str, Act]
    settings: dict[str, Any]


def example() -> ModuleType:
    """The example, `examples/hospital/app.py`."""
    path = log.folder() / "app.py"
    spec = importlib.util.spec_from_file_location("hospital_app", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["hospital_app"] = module
    spec.loader.exec_module(module)
    return module


def worker_of(orders: Orders) -> Worker:
    """The example's worker, with the faults built in."""
    os.environ.update({f"CROSSFOOT_{name.upper()}": str(value) for name, value in orders.settings.items()})
    hospital = example()
    app: Crossfoot = hospital.app
    folder = Path(orders.folder)
    acts = {f"{SOURCE}|{id_}": act for id_, act in orders.acts.items()}
    queue = faulty(app, acts, Record(folder / "injected.db"), Shield(folder, orders.worker))
    hooks = Hooks(acts, queue, made=hospital.TABLES if is_postgres(app.database.path) else ())
    registry = Registry()
    for handler in app.registry:
        registry.add(msgspec.structs.replace(handler, function=hooks.around(handler), wants_transaction=True))
    pattern = app.worker().pattern
    worker = Worker(app.name, app.book, queue, registry, app.database, pattern=pattern)
    worker.on_settled = lambda held: queue.forget(held.delivery.receipt)
    queue.on_first_receive = lambda: _say(f"ready {worker.name}")
    return worker


def faulty(app: Crossfoot, acts: Mapping[str, Act], record: Record, shield: Shield) -> FaultyReceive:
    """The service's queue, with the faults built in, and somebody's hands on it."""
    queue = app.queue
    if isinstance(queue, EmbeddedQueue):
        hands: Hands = EmbeddedHands(app.database.path)
    elif app.settings.queue.startswith("sqs:"):
        hands = SqsHands(queue.name, app.settings.endpoint, app.settings.region)
    else:
        hands = OtherHands(queue)
    if isinstance(queue, LocalQueue):
        return FaultyLocalReceive(queue, acts, record, shield, hands, database=app.database.path)
    if app.settings.queue.startswith("kafka:"):
        from crossfoot.demo.group import FaultyGroupReceive, Strangers
        from crossfoot.queues.kafka import KafkaQueue

        assert isinstance(queue, KafkaQueue)
        strangers = Strangers(app.settings.queue, app.settings.endpoint)
        return FaultyGroupReceive(queue, strangers, acts, record, shield, hands)
    kind = FaultyKeepingReceive if isinstance(queue, KeepsExpired) else FaultyReceive
    return kind(queue, acts, record, shield, hands)


async def work(orders: Orders) -> None:
    """Work until told to stop."""
    worker = worker_of(orders)
    async with anyio.create_task_group() as tasks:
        for reason in (_signalled, _left_alone):
            tasks.start_soon(_stop_when, reason, worker)
        await worker.run()
        tasks.cancel_scope.cancel()


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def _stop_when(reason: Any, worker: Worker) -> None:
    await reason()
    worker.stop()


async def _signalled() -> None:
    with anyio.open_signal_receiver(signal.SIGTERM) as signals:
        async for _ in signals:
            return


async def _left_alone() -> None:
    """Until standard input ends: whoever started this process has ended it, or is gone."""
    while await anyio.to_thread.run_sync(sys.stdin.buffer.read, 1, abandon_on_cancel=True):
        pass


def main() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    orders = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Orders)
    code = 0
    try:
        anyio.run(work, orders)
    except BaseException as error:
        causes = list(leaves(error))
        if all(isinstance(one, CrossfootError) for one in causes):  # which say what happened, and need no traceback
            logger.error("%s", "; ".join(map(str, causes)))
        else:
            logger.exception("the worker broke")
        code = 1
    finally:
        logging.shutdown()
        os._exit(code)  # a thread may still wait for standard input


if __name__ == "__main__":
    main()

"""Celery 5.  Broker by PEER_BROKER (redis | amqp), acknowledgement by PEER_ACKS_LATE (0 | 1)."""

import os
import time

from apps import common
from celery import Celery

AMQP = os.environ.get("PEER_BROKER") == "amqp"

app = Celery("peers", broker=common.AMQP_URL if AMQP else common.REDIS_URL)
app.conf.update(
    task_ignore_result=True,
    task_acks_late=os.environ.get("PEER_ACKS_LATE") == "1",
    worker_prefetch_multiplier=int(os.environ.get("PEER_PREFETCH", "64")),  # 4 by default; tiny tasks want more
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
)
if os.environ.get("PEER_VISIBILITY") and not AMQP:  # 3600 s by default
    app.conf.broker_transport_options = {"visibility_timeout": int(os.environ["PEER_VISIBILITY"])}

effect = common.SyncEffect()


@app.task
def handle(key, value):
    effect(key, value)


def channel(connection):
    return connection.default_channel


def enqueue(n):
    with app.connection_for_write() as c:
        if not common.FRESH:
            pass
        elif AMQP:
            channel(c).queue_delete("celery")
        else:
            channel(c).client.flushdb()
    keys = common.keys(n)
    start = time.perf_counter()
    with app.producer_pool.acquire(block=True) as producer:  # one producer for the whole loop
        for i, key in enumerate(keys):
            handle.apply_async((key, i), producer=producer)
    return time.perf_counter() - start


def pending():
    with app.connection_for_write() as c:
        if AMQP:
            return channel(c).queue_declare("celery", passive=True).message_count
        client = channel(c).client
        return client.llen("celery") + client.hlen("unacked")

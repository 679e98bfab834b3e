"""Dramatiq 2.  Broker by PEER_BROKER (redis | amqp); the default middleware is kept."""

import os
import time

import dramatiq
from apps import common

AMQP = os.environ.get("PEER_BROKER") == "amqp"

if AMQP:
    from dramatiq.brokers.rabbitmq import RabbitmqBroker

    broker = RabbitmqBroker(url=common.AMQP_URL.removesuffix("//") + "/%2F")
else:
    from dramatiq.brokers.redis import RedisBroker

    options = {}
    if os.environ.get("PEER_HEARTBEAT_MS"):  # 60,000 ms by default
        options["heartbeat_timeout"] = int(os.environ["PEER_HEARTBEAT_MS"])
    broker = RedisBroker(url=common.REDIS_URL, **options)
dramatiq.set_broker(broker)

effect = common.SyncEffect()


@dramatiq.actor(queue_name="peers")
def handle(key, value):
    effect(key, value)


def enqueue(n):
    if not common.FRESH:
        pass
    elif AMQP:
        broker.declare_queue("peers", ensure=True)
        broker.flush("peers")
    else:
        broker.client.flushdb()
    keys = common.keys(n)
    start = time.perf_counter()
    for i, key in enumerate(keys):
        handle.send(key, i)
    return time.perf_counter() - start


def pending():
    if AMQP:
        return sum(broker.get_queue_message_counts("peers")[:2])
    client = broker.client
    held = sum(client.scard(k) for k in client.keys("dramatiq:__acks__.*"))
    return client.llen("dramatiq:peers") + held

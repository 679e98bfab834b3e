"""Huey on a Redis list: BRPOP takes the message away before the handler runs."""

import time

from apps import common
from huey import RedisHuey

huey = RedisHuey("peers", url=common.REDIS_URL, results=False)
effect = common.SyncEffect()


@huey.task()
def handle(key, value):
    effect(key, value)


def enqueue(n):
    if common.FRESH:
        huey.storage.conn.flushdb()
    keys = common.keys(n)
    start = time.perf_counter()
    for i, key in enumerate(keys):
        handle(key, i)
    return time.perf_counter() - start


def pending():
    return huey.pending_count()

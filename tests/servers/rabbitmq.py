"""A real RabbitMQ server on free ports of 127.0.0.1, with a node, a folder and a port mapper of its own.

The virtual machine is started directly, without the shell scripts around it: it is then a child of this process, on a leash,
and can be killed like any other. No plugin is enabled.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.servers.processes import ATTEMPTS, free_port
from tests.servers.rabbitmq_packages import root
from tests.servers.run import HOST

LEASH = Path(__file__).with_name("leash.py")

STARTING_SECONDS = 60.0
NODE = "crossfoot@localhost"

CONFIGURATION = """\
listeners.tcp.1 = {host}:{port}
log.console.level = warning
disk_free_limit.absolute = 1MB
vm_memory_high_watermark.absolute = 2GB
"""


class RabbitServer:
    """A server that can be killed, frozen and started again on what it has stored."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = 0
        self._root = root()
        self._ports: tuple[int, int] = (0, 0)
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@{HOST}:{self.port}"

    def start(self) -> None:
        """Start it, on the port it had before if there was one. Takes three seconds or four.

        Raises:
            RuntimeError: it did not start. The message ends with what it said.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for _ in range(ATTEMPTS):
            port = self.port or free_port()
            self._ports = (free_port(), free_port())
            self._run(port)
            if self._answers(port):
                self.port = port
                return
            self.kill()
        raise RuntimeError(f"rabbitmq did not start:\n{(self.folder / 'log').read_text()[-3000:]}")

    def kill(self) -> None:
        """End it at once, as a crash would."""
        for process in reversed(self._processes):
            process.kill()
            process.wait()
        self._processes = []

    def restart(self) -> None:
        """Crash it, and start it again on what it has stored."""
        self.kill()
        self.start()

    def freeze(self) -> None:
        """Stop it in its tracks: connections are taken, requests are not answered. Blocks for a moment."""
        self._processes[-1].send_signal(signal.SIGSTOP)
        time.sleep(0.1)  # its threads stop one after the other

    def thaw(self) -> None:
        self._processes[-1].send_signal(signal.SIGCONT)

    def control(self, *words: str) -> str:
        """`rabbitmqctl`, which takes a second. What it says.

        Raises:
            RuntimeError: it failed.
        """
        script = self._home / "escript/rabbitmqctl"
        command = [
            *("+B", "-boot", str(self._erlang / "bin/start_clean"), "-noinput", "-noshell", "-hidden"),
            *("-kernel", "inet_dist_use_interface", "{127,0,0,1}"),
            *("-run", "escript", "start", "-escript", "main", "rabbitmqctl_escript", "-extra", str(script)),
            *("--quiet", "--node", NODE, *words),
        ]
        done = subprocess.run(
            [str(self._erlexec), *command], env=self._environment, cwd=self.folder, capture_output=True, text=True,
            timeout=STARTING_SECONDS, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(
                f"rabbitmqctl {' '.join(words)} ended with {done.returncode}: {done.stdout}{done.stderr}"
            )
        return done.stdout

    # ---- parts -----------------------------------------------------------------------------------------------------

    @property
    def _erlang(self) -> Path:
        return self._root / "usr/lib/erlang"

    @property
    def _home(self) -> Path:
        return next((self._root / "usr/lib/rabbitmq/lib").glob("rabbitmq_server-*"))

    @property
    def _erlexec(self) -> Path:
        return next(self._erlang.glob("erts-*/bin/erlexec"))

    @property
    def _environment(self) -> dict[str, str]:
        folder, binaries = self.folder, self._erlexec.parent
        mapper, distribution = self._ports
        return {
            "PATH": f"{binaries}:{self._erlang / 'bin'}:{os.environ.get('PATH', os.defpath)}",
            "HOME": str(folder), "LANG": "C.UTF-8", "TMPDIR": os.environ.get("TMPDIR", "/tmp"),  # noqa: S108 - passed on
            "ROOTDIR": str(self._erlang), "BINDIR": str(binaries), "EMU": "beam", "PROGNAME": "erl",
            "ERL_LIBS": str(self._home / "plugins"), "ERL_MAX_ETS_TABLES": "50000", "ERL_CRASH_DUMP_SECONDS": "0",
            "ERL_EPMD_PORT": str(mapper), "ERL_EPMD_ADDRESS": HOST,
            "SYS_PREFIX": str(folder), "RABBITMQ_HOME": str(self._home), "RABBITMQ_BASE": str(folder),
            "RABBITMQ_NODENAME": NODE, "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"), "RABBITMQ_MNESIA_DIR": str(folder / "data/node"),
            "RABBITMQ_LOG_BASE": str(folder / "logs"), "RABBITMQ_LOGS": "-",
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"), "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "none"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"), "RABBITMQ_CONF_ENV_FILE": str(folder / "none.conf"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
        }  # fmt: skip

    def _run(self, port: int) -> None:
        (self.folder / "plugins").write_text("[].\n")
        (self.folder / "rabbitmq.conf").write_text(CONFIGURATION.format(host=HOST, port=port))
        mapper = [str(self._erlexec.with_name("epmd")), "-address", HOST, "-port", str(self._ports[0])]
        machine = [
            *(str(self._erlexec), "-noinput", "-boot", str(self._erlang / "bin/start_sasl"), "-s", "rabbit", "boot"),
            *("+W", "w", "+B", "i", "+S", "2:2", "+sbwt", "none", "+sbwtdcpu", "none", "+sbwtdio", "none"),
            *("-kernel", "inet_dist_use_interface", "{127,0,0,1}"),
        ]
        with (self.folder / "log").open("ab") as log:
            for command in (mapper, machine):
                self._processes.append(
                    subprocess.Popen(
                        [sys.executable, str(LEASH), *command],
                        env=self._environment, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    )
                )  # fmt: skip

    def _answers(self, port: int) -> bool:
        until = time.monotonic() + STARTING_SECONDS
        while time.monotonic() < until and self._processes[-1].poll() is None:
            with suppress(OSError), socket.create_connection((HOST, port), timeout=2) as connection:
                connection.sendall(b"AMQP\x00\x00\x09\x01")
                if connection.recv(1) == b"\x01":
                    return True
            time.sleep(0.05)
        return False


@contextmanager
def running_rabbit(folder: Path) -> Iterator[RabbitServer]:
    """A server, ready; killed on leaving. Its data and its output are in `folder`.

    Raises:
        CannotBeHad: there is none on this machine.
    """
    server = RabbitServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()

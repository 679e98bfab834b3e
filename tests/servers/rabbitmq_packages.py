"""Where a RabbitMQ server comes from: the machine, `RABBITMQ_ROOT`, or Debian's packages (see `debian`)."""

from __future__ import annotations

from pathlib import Path

from tests.servers.debian import CannotBeHad, unpacked

__all__ = ["CannotBeHad", "root"]

PACKAGES = (
    "rabbitmq-server",
    *(
        f"erlang-{part}"
        for part in (
            "base", "asn1", "crypto", "eldap", "ftp", "inets", "mnesia", "os-mon", "parsetools", "public-key", "runtime-tools",
            "snmp", "ssl", "syntax-tools", "tftp", "tools", "xmerl",
        )
    ),
)  # fmt: skip


def root() -> Path:
    """The folder whose `usr/lib` has RabbitMQ and Erlang.

    Raises:
        CannotBeHad: says why.
    """
    return unpacked("rabbitmq", PACKAGES, _is_complete, what="usr/lib/rabbitmq and usr/lib/erlang")


def _is_complete(place: Path) -> bool:
    lib = place / "usr/lib"
    return any((lib / "rabbitmq/lib").glob("rabbitmq_server-*")) and any((lib / "erlang").glob("erts-*/bin/erlexec"))

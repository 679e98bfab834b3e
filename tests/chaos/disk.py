"""A small disk of the run's own, which can be filled up: a file system in memory that only this process and its children see."""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NEWNS, NEWUSER, REC, PRIVATE = 0x20000, 0x10000000, 1 << 14, 1 << 18


class Disk:
    """The file system at `folder`."""

    def __init__(self, folder: Path) -> None:
        self._ballast = folder / "ballast"
        self._folder = folder

    def fill(self) -> None:
        """Leave no room."""
        with suppress(OSError), self._ballast.open("wb", buffering=0) as ballast:
            left = shutil.disk_usage(self._folder).free
            os.posix_fallocate(ballast.fileno(), 0, max(0, left - 65_536))
            ballast.seek(0, os.SEEK_END)
            while True:
                ballast.write(b"\0" * 4096)

    def free(self) -> None:
        self._ballast.unlink(missing_ok=True)


def a_space_of_ones_own(*, servers: bool) -> str:
    """Have this process see mounts that nobody else does. Before it has threads. Why not, if it cannot be had; else nothing.

    Args:
        servers: whether servers of databases are to run in it, which refuse to run as root.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.getuid(), os.getgid()
    if uid != 0 and servers:
        return "whoever is not root would look like root in there, and PostgreSQL refuses that"
    if libc.unshare(NEWNS if uid == 0 else NEWNS | NEWUSER):
        return os.strerror(ctypes.get_errno())
    if uid != 0:
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
            Path(f"/proc/self/{name}").write_text(text)
    return os.strerror(ctypes.get_errno()) if libc.mount(b"none", b"/", None, REC | PRIVATE, None) else ""


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Disk]:
    """An empty one at `folder`, in a space of one's own."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", str(folder).encode(), b"tmpfs", 0, f"size={megabytes}m".encode()):
        raise OSError(ctypes.get_errno(), "no file system in memory can be mounted")
    try:
        yield Disk(folder)
    finally:
        libc.umount2(str(folder).encode(), 2)  # lazily: whoever still has a file open keeps it

"""Places in the program, as reports name them: `billing.views:42 in show`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from types import CodeType, FrameType, TracebackType
from typing import Any

import anyio

LIBRARIES = (os.path.dirname(os.__file__), os.path.dirname(os.path.dirname(anyio.__file__)))
"""Where code lives that is not the program's own."""

OURS = os.path.dirname(__file__) + os.sep


Taken = tuple[CodeType, int, str]
"""A place that is not in words yet: code, line, module."""


def caller() -> Taken:
    """Who called into this package: cheap to take, and made into words only when it is to be told."""
    frame: FrameType | None = sys._getframe(2)  # whoever calls this one is of this package itself
    while frame is not None and frame.f_code.co_filename.startswith(OURS):
        frame = frame.f_back
    assert frame is not None, "something called this package"
    return frame.f_code, frame.f_lineno, frame.f_globals.get("__name__", "?")


def told(taken: Taken) -> str:
    """A place that `caller` took, in words."""
    code, line, module = taken
    return f"{module}:{line} in {code.co_qualname}"


def awaited(coroutine: Any) -> str | None:
    """Where a suspended coroutine waits: its innermost line that is the program's own."""
    return _innermost(_suspended(coroutine))


def blocked(thread: int) -> str | None:
    """What a thread is doing now: its innermost line that is the program's own; nothing when it waits for its event loop."""
    frames: list[FrameType] = []
    frame = sys._current_frames().get(thread)
    while frame is not None:
        if frame.f_code.co_filename.startswith(LIBRARIES) and frame.f_code.co_name in (
            "run_once",
            "_run_once",
            "unrolled_run",
        ):
            break
        frames.append(frame)
        frame = frame.f_back
    return _innermost(reversed(frames))


def raised(trace: TracebackType | None) -> str | None:
    """The innermost line of the program's own through which an exception came."""
    frames = []
    while trace is not None:
        frames.append((trace.tb_frame, trace.tb_lineno))
        trace = trace.tb_next
    return next((_words(frame, line) for frame, line in reversed(frames) if _is_program(frame)), None)


def _suspended(coroutine: Any) -> Iterator[FrameType]:
    while coroutine is not None:
        frame = (
            getattr(coroutine, "cr_frame", None)
            or getattr(coroutine, "gi_frame", None)
            or getattr(coroutine, "ag_frame", None)
        )
        if frame is not None:
            yield frame
        coroutine = (
            getattr(coroutine, "cr_await", None)
            or getattr(coroutine, "gi_yieldfrom", None)
            or getattr(coroutine, "ag_await", None)
        )


def _innermost(frames: Iterator[FrameType]) -> str | None:
    own = [frame for frame in frames if _is_program(frame)]
    return _words(own[-1], own[-1].f_lineno) if own else None


def _words(frame: FrameType, line: int) -> str:
    return f"{frame.f_globals.get('__name__', '?')}:{line} in {frame.f_code.co_qualname}"


def _is_ours(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(OURS)


def _is_program(frame: FrameType) -> bool:
    return not _is_ours(frame) and not frame.f_code.co_filename.startswith((*LIBRARIES, "<frozen"))

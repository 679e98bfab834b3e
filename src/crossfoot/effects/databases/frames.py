"""What a failure keeps alive: the variables of the functions that it passed through, a handler's connection among them."""

from __future__ import annotations

import traceback


def forget_variables(error: BaseException | None) -> None:
    """Let go of all that an error's frames hold, and those of the errors behind it. Where it was raised stays known."""
    seen: set[int] = set()
    left = [error]
    while left:
        one = left.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        traceback.clear_frames(one.__traceback__)  # those that still run, in a thread for instance, keep theirs
        left += [one.__cause__, one.__context__, *(one.exceptions if isinstance(one, BaseExceptionGroup) else ())]

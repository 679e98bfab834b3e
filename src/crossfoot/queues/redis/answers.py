"""What an answer of the server proves, or that there was none.

Three things can be known after a request: it was done (an answer), it was not done (an error of the server's, or nothing
left this machine), or nobody knows (sent, and no answer). The client library repeats requests by itself, which would turn
the third into a second copy that nobody knows of; so its connections are used here, and not its commands.
"""

from __future__ import annotations

import re
from typing import Any

from crossfoot.errors import QueueMissing, QueueUnavailable, missing_extra


class NoAnswer(Exception):
    """The request was sent, or may have been, and nobody knows what became of it."""


class Rejected(Exception):
    """The server refused this one request: nothing was done."""

    def __init__(self, code: str, text: str) -> None:
        self.code = code
        self.text = text
        super().__init__(f"{code}: {text}")


class Unusable(QueueUnavailable):
    """A refusal that every request to this queue would meet. Nothing was done."""

    def __init__(self, code: str, text: str) -> None:
        self.code = code
        super().__init__(text)

    @property
    def elsewhere(self) -> bool:
        """Whether a new connection may lead to a server that thinks otherwise."""
        return self.code in ("MASTERDOWN", "READONLY")


class Absent(Unusable, QueueMissing):
    """There is no such stream, or no such group of it."""


class Moved(Unusable):
    """The queue's slot is on another node of the cluster."""

    def __init__(self, text: str, host: str, port: int) -> None:
        self.host = host
        self.port = port
        super().__init__("MOVED", text)


_REMEDIES = {
    "NOSTREAM": "does not exist: make it with `ensure`, or with XGROUP CREATE {stream} {group} 0 MKSTREAM",
    "NOGROUP": "has no group {group}: make it with `ensure`, or with XGROUP CREATE {stream} {group} 0",
    "MANYGROUPS": "has other groups beside {group} ({text}): what crossfoot acks is deleted, and they would miss it. Give each "
    "group a stream of its own, or remove theirs with XGROUP DESTROY",
    "WRONGTYPE": "cannot be used, one of its keys is something else ({text}): choose another name, or remove that key",
    "NOPERM": "refused us ({text}): see the guide on Redis for the commands and keys that crossfoot needs",
    "NOAUTH": "wants credentials: write them into the URL, as in redis://user:password@host:6379/0",
    "WRONGPASS": "refused our credentials: correct user and password in the URL",
    "READONLY": "is on a replica that takes no writes: name the primary, or wait until clients are led there",
    "MISCONF": "takes no writes because its server cannot save to disk ({text}): see to the server",
    "LOADING": "is on a server that is still reading its data from disk: wait",
    "MASTERDOWN": "is on a replica without a primary ({text}): wait, or name the primary",
    "CLUSTERDOWN": "is on a cluster that does not serve its slot ({text}): see to the cluster",
    "MOVED": "is on another node of the cluster ({text}): name that node as the endpoint",
    "ASK": "is moving to another node of the cluster ({text}): wait, then name that node as the endpoint",
    "TRYAGAIN": "is moving to another node of the cluster: wait, then name that node as the endpoint",
    "CROSSSLOT": "has keys in several slots of the cluster ({text}): choose a stream without braces in its name",
    "NOREPLICAS": "takes no writes because too few replicas follow ({text}): see to the replicas",
    "BUSY": "is on a server that is held up by somebody's script ({text}): wait, or end it with SCRIPT KILL",
    "MAXCLIENTS": "is on a server that takes no more clients ({text}): raise maxclients there",
}
"""Refusals that every request to this queue would meet, and what helps. None of them did anything."""

ABSENT = {"NOSTREAM", "NOGROUP"}
"""Those that say that the queue is not there."""

_BY_CLASS = {
    "AuthenticationError": "NOAUTH",
    "AskError": "ASK",
    "BusyLoadingError": "LOADING",
    "ClusterCrossSlotError": "CROSSSLOT",
    "ClusterDownError": "CLUSTERDOWN",
    "MasterDownError": "MASTERDOWN",
    "MovedError": "MOVED",
    "NoPermissionError": "NOPERM",
    "NoScriptError": "NOSCRIPT",
    "OutOfMemoryError": "OOM",
    "ReadOnlyError": "READONLY",
    "TryAgainError": "TRYAGAIN",
}
"""Codes that the client library took off the text, by the class it made of them."""

_CODE = re.compile(r"-?([A-Z]{2,}) (.*)", re.DOTALL)
_WHERE = re.compile(
    r"^(?:ERR )?Error running script [^@]*(?:@user_script: ?\d+: )+| script: (?:\w+, )?on @user_script:\d+\.?$"
)
"""Which line of a script it was: in front before version 7, behind since then."""
_CERTAIN = ("AuthenticationError", "AuthorizationError", "BusyLoadingError")
"""Errors the library calls connection errors, and which are the server's own answers."""


def is_answer(error: Exception) -> bool:
    """Whether the server said it."""
    redis = import_redis()
    return isinstance(error, redis.exceptions.ResponseError) or type(error).__name__ in _CERTAIN


def read_error(error: Exception, *, name: str, stream: str, group: str) -> Rejected | QueueUnavailable:
    """The server's error as what it proves.

    Returns:
        `Rejected` for this request alone; `QueueUnavailable` where every request would meet the same.
    """
    code, text = _code_of(error)
    if code not in _REMEDIES:
        return Rejected(code, text)
    told = unusable(code, text, name=name, stream=stream, group=group)
    if code == "MOVED":
        return Moved(told, getattr(error, "host", ""), getattr(error, "port", 0))
    return Absent(code, told) if code in ABSENT else Unusable(code, told)


def unusable(code: str, text: str = "", *, name: str, stream: str, group: str) -> str:
    """What is the matter with a queue, and what helps."""
    return f"queue {name} {_REMEDIES[code].format(stream=stream, group=group, text=text)}"


def _code_of(error: Exception) -> tuple[str, str]:
    text = _WHERE.sub("", str(error)).strip()
    kind = type(error).__name__
    if kind == "AuthenticationError" and "invalid" in text.lower():
        return "WRONGPASS", text
    if kind in _BY_CLASS:
        return _BY_CLASS[kind], text
    if "no such key" in text.lower() and "NOGROUP" not in text:
        return "NOSTREAM", text
    if "max number of clients" in text:
        return "MAXCLIENTS", text
    found = _CODE.fullmatch(text)
    return (found[1], found[2]) if found else ("ERR", text)


def import_redis() -> Any:
    """The client's package, or the remedy when it is not there."""
    try:
        import redis.asyncio
        import redis.exceptions
    except ImportError as error:
        raise missing_extra("a queue on Redis or Valkey", "redis") from error
    return redis

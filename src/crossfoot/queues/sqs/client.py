"""The official client, called from threads, and its errors read as what they prove.

Three things can be known after a request: it was done (an answer), it was not done (a refusal, or it never left this
machine), or nobody knows (sent, no answer). The client's own retries blur the last two: after "stored, answer lost"
they store a second copy the caller never learns of. So whatever changes the queue is sent exactly once, and only
reading and receiving, where a repeat does no harm, is retried.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import anyio
from anyio import CancelScope, CapacityLimiter, to_thread

from crossfoot.errors import CrossfootError, QueueMissing, QueueUnavailable, UsageError, missing_extra

if TYPE_CHECKING:
    from boto3.session import Session
    from types_boto3_sqs import SQSClient

T = TypeVar("T")

CONNECTIONS = 8
"""Requests under way at once per queue; long polls have as many of their own."""

_MISSING = {"NonExistentQueue", "QueueDoesNotExist"}

_FORBIDDEN = {
    "AccessDenied",
    "AccessDeniedException",
    "AuthFailure",
    "ExpiredToken",
    "ExpiredTokenException",
    "IncompleteSignature",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidSecurity",
    "InvalidSignatureException",
    "KmsAccessDenied",
    "KmsDisabled",
    "KmsInvalidState",
    "KmsNotFound",
    "KmsOptInRequired",
    "MissingAuthenticationToken",
    "OptInRequired",
    "RequestExpired",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}

_THROTTLED = {
    "KmsThrottled",
    "OverLimit",
    "RequestLimitExceeded",
    "RequestThrottled",
    "ThrottledException",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
}

_lock = threading.Lock()
"""Making a client is not thread-safe; using one is."""


_HOSTS = re.compile(
    r"https://(?:(?:[^/]+\.)?sqs(?:-fips)?\.(?P<new>[a-z0-9-]+)\.(?:vpce\.)?(?:amazonaws\.com(?:\.cn)?|api\.aws)"
    r"|(?P<old>[a-z0-9-]+)\.queue\.amazonaws\.com(?:\.cn)?)/"
)
"""Where AWS has queues, by its list of endpoints (AWS General Reference, *Amazon SQS endpoints and quotas*)."""


def region_of(address: str) -> str | None:
    """The region that a queue's URL names, where it is one of AWS itself."""
    found = _HOSTS.match(address)
    return (found["new"] or found["old"]) if found else None


class NoAnswer(Exception):
    """The request was sent, or may have been, and nobody knows what became of it."""


class Rejected(Exception):
    """The service refused the whole request: nothing was done."""

    def __init__(self, code: str, text: str) -> None:
        self.code = code
        self.text = text
        super().__init__(f"{code}: {text}")


class Client:
    """One queue's connection to the service. Made in a thread: it reads files and imports a large package.

    Args:
        label: the queue's name, for errors.
        timeout: seconds until a request without an answer is given up.
        longest_wait: seconds the service may hold a receive open; comes on top of `timeout`.
        session: a `boto3.Session`; by default the environment's.

    Raises:
        UsageError: no boto3, no region, no such profile, an endpoint that is no address.
    """

    def __init__(
        self,
        label: str,
        *,
        endpoint_url: str | None,
        region: str | None,
        timeout: float,
        longest_wait: float,
        session: Session | None,
    ) -> None:
        self.label = label
        config = import_botocore().config.Config
        make = partial(_make, label, session or default_session(), endpoint_url=endpoint_url, region_name=region)
        common: dict[str, Any] = {"connect_timeout": min(timeout, 5.0), "max_pool_connections": 2 * CONNECTIONS}
        self._once = make(config=config(retries={"total_max_attempts": 1}, read_timeout=timeout, **common))
        retries = {"mode": "standard", "total_max_attempts": 3}
        self._again = make(config=config(retries=retries, read_timeout=timeout + longest_wait, **common))
        self._requests = CapacityLimiter(CONNECTIONS)
        self._polls = CapacityLimiter(CONNECTIONS)

    async def change(self, call: Callable[[SQSClient], T]) -> T:
        """Send a request that changes the queue, exactly once; a cancellation waits for its answer.

        Raises:
            NoAnswer, Rejected: as their names say.
            QueueUnavailable: the request never left this machine, or no request to this queue can succeed.
            UsageError: there are no credentials.
        """
        return await to_thread.run_sync(self._ask, self._once, call, limiter=self._requests)

    async def read(self, call: Callable[[SQSClient], T]) -> T:
        """Send a request that changes nothing, three times if need be. Raises what `change` raises."""
        return await to_thread.run_sync(self._ask, self._again, call, limiter=self._requests)

    async def poll(self, call: Callable[[SQSClient], T], give_back: Callable[[SQSClient, T], object]) -> T:
        """A long poll, left alone when cancelled: what it then still brings is handed to `give_back`, in its thread."""
        lock, abandoned, brought = threading.Lock(), threading.Event(), list[T]()

        def work() -> T:
            result = self._ask(self._again, call)
            with lock:
                if not abandoned.is_set():
                    brought.append(result)
                    return result
            self._ask_quietly(self._again, lambda sqs: give_back(sqs, result))
            return result

        try:
            return await to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._polls)
        except anyio.get_cancelled_exc_class():
            with lock:
                abandoned.set()
            if brought:  # the answer and the cancellation came together
                with CancelScope(shield=True):
                    await to_thread.run_sync(
                        self._ask_quietly, self._again, lambda sqs: give_back(sqs, brought[0]), limiter=self._requests
                    )
            raise

    @property
    def is_local(self) -> bool:
        """Whether it leads to this machine, where AWS is not."""
        return self._host in ("127.0.0.1", "::1", "localhost")

    @property
    def is_of_aws(self) -> bool:
        """Whether it leads to AWS itself."""
        return self._host.endswith((".amazonaws.com", ".amazonaws.com.cn", ".api.aws"))

    @property
    def _host(self) -> str:
        return urlsplit(self._once.meta.endpoint_url).hostname or ""

    @property
    def whose(self) -> str:
        """That AWS itself was asked, because no endpoint is set: who means an emulator takes it for one that is down."""
        if not self.is_of_aws:
            return ""
        host = self._host
        return f". No endpoint is set, so AWS itself was asked ({host}): for an emulator set `endpoint` or AWS_ENDPOINT_URL"

    def close(self) -> None:
        self._once.close()
        self._again.close()

    def _ask(self, sqs: SQSClient, call: Callable[[SQSClient], T]) -> T:
        try:
            return call(sqs)
        except Exception as error:  # a garbled answer escapes the client as whatever its parser stumbled over
            raise read_error(error, self.label, where=self.whose) from error

    def _ask_quietly(self, sqs: SQSClient, call: Callable[[SQSClient], object]) -> None:
        """For giving back only: if that fails, the lease runs out by itself."""
        try:
            self._ask(sqs, call)
        except (CrossfootError, NoAnswer, Rejected):
            return


def read_error(error: Exception, label: str, *, where: str = "") -> Exception:
    """What the client's error proves about the request.

    Args:
        where: what to say of the place that was asked, for errors that may come of its being the wrong one.
    """
    errors = import_botocore().exceptions
    if isinstance(error, errors.ClientError):
        return _read_answer(error, label, where)
    if isinstance(error, errors.NoCredentialsError | errors.PartialCredentialsError | errors.CredentialRetrievalError):
        return UsageError(
            f"no credentials for queue {label}: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile or a role "
            "(an emulator takes any value)"
        )
    if isinstance(error, errors.EndpointConnectionError | errors.ConnectTimeoutError | errors.ProxyConnectionError):
        return QueueUnavailable(
            f"queue {label} cannot be reached, and was asked nothing: {error} Check the address{where}"
        )
    if isinstance(error, errors.ParamValidationError):  # its text quotes the parameters, bodies included
        return Rejected("ParamValidation", "the client refused the request's parameters before sending it")
    if isinstance(error, errors.BotoCoreError):
        return NoAnswer(f"{type(error).__name__}: {error}")
    return NoAnswer(f"the answer could not be read ({type(error).__name__})")


def _read_answer(error: Any, label: str, where: str) -> Exception:
    code = plain_code(error.response.get("Error", {}).get("Code", ""))
    text = str(error.response.get("Error", {}).get("Message", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in _MISSING:
        return QueueMissing(f"queue {label} does not exist: create it, or correct its name, region and account")
    if code in _FORBIDDEN:
        return QueueUnavailable(f"queue {label} refused us ({code}): {text} Check credentials and policy{where}")
    if code in _THROTTLED or 400 <= status < 500:
        return Rejected(code or str(status), text)
    return NoAnswer(f"{code} (HTTP {status})")


def plain_code(code: str) -> str:
    """An error code without the prefix the older protocol carries."""
    return code.removeprefix("AWS.SimpleQueueService.")


def field(response: Mapping[str, Any], name: str) -> Any:
    """A field no complete answer lacks. The client turns an answer cut short into one without fields.

    Raises:
        NoAnswer: it is not there.
    """
    if name not in response:
        raise NoAnswer(f"the answer has no {name}: it was cut short")
    return response[name]


def import_botocore() -> Any:
    """The client's package, or the remedy when it is not there."""
    try:
        import botocore.config
        import botocore.exceptions
    except ImportError as error:
        raise missing_extra("Amazon SQS", "sqs") from error
    return botocore


@cache
def _session() -> Session:
    import_botocore()
    import boto3

    return boto3.Session()


def default_session() -> Session:
    """One session per process: each would read the service's description from disk anew."""
    with _lock:
        return _session()


def _make(label: str, session: Session, **options: Any) -> SQSClient:
    errors = import_botocore().exceptions
    try:
        with _lock:
            client: SQSClient = session.client("sqs", **options)
    except errors.NoRegionError as error:
        raise UsageError(
            f"no region for queue {label}: set `region` (CROSSFOOT_REGION, crossfoot.toml or Crossfoot(..., region=...)) or "
            "AWS_DEFAULT_REGION, or name the queue by its URL"
        ) from error
    except (errors.BotoCoreError, ValueError) as error:
        raise UsageError(f"no client for queue {label}: {error}") from error
    return client

"""A queue, made if it is not there: for development, tests and deployment scripts.

In production queues belong to whoever owns the infrastructure; `RedisQueue.open` only checks.
"""

from __future__ import annotations

from crossfoot.errors import QueueUnavailable
from crossfoot.queues.redis.address import address_of
from crossfoot.queues.redis.answers import NoAnswer, Rejected
from crossfoot.queues.redis.client import Client


async def ensure(queue: str, *, url: str | None = None) -> str:
    """Make sure that the stream and its group exist. The group begins at the first entry the stream has.

    Args:
        queue: `STREAM`, `STREAM/GROUP`, or a URL that ends in either.
        url: where the server is, if `queue` does not say; this machine by default.

    Returns:
        The queue's name, as books and balances show it.

    Raises:
        UsageError: it is no address.
        QueueUnavailable: the server cannot be reached or refuses us.
    """
    client = Client(address_of(queue, url), timeout=5.0)
    address = client.address
    try:
        await client.ask("XGROUP", "CREATE", address.stream, address.group, "0", "MKSTREAM")
    except Rejected as error:
        if error.code != "BUSYGROUP":
            raise QueueUnavailable(f"queue {address.name} could not be made: {error}") from error
    except NoAnswer as error:
        raise QueueUnavailable(f"no answer while making queue {address.name}: {error}. Try again") from error
    finally:
        await client.close()
    return address.name

"""The conformance suite of the queue port: a class of async test functions, one behaviour each.

Every adapter passes it against the real server. Subclass it once per kind of queue and say three things:

    @pytest.mark.anyio
    class TestMyQueue(QueueConformance):
        @asynccontextmanager
        async def make_queue(self, **settings): ...     # a fresh, empty, opened queue, closed on leaving
        def twin(self, queue): ...                      # another client of the same queue, not yet opened
        def missing_queue(self): ...                    # a queue that is not there, not yet opened

The suite tests what `queue.capabilities` declares, and where a capability is absent it tests that its absence is
honest (a delay that cannot be kept is refused, not dropped). So no test is skipped.

For readable failures call `pytest.register_assert_rewrite("crossfoot.testing.queues")` before the import.
"""

from crossfoot.testing.queues.delivering import Delivering
from crossfoot.testing.queues.opening import Opening
from crossfoot.testing.queues.ordering import Ordering
from crossfoot.testing.queues.publishing import Publishing
from crossfoot.testing.queues.settling import Settling
from crossfoot.testing.queues.suite import QueueSettings, QueueSuite, outgoing, proves
from crossfoot.testing.queues.watching import Watching

__all__ = ["QueueConformance", "QueueSettings", "QueueSuite", "outgoing", "proves"]


class QueueConformance(Opening, Publishing, Delivering, Settling, Ordering, Watching):
    """The whole suite."""

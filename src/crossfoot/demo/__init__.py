"""`crossfoot demo`: a hospital's billing log through a real machine, with faults at every boundary, and the books after it.

log.py        the events as the hospital wrote them, and what the log itself says the cases end as
plan.py       which event suffers which fault: a pure function of events and seed
record.py     the injector's own record of what it did, outside the books
shield.py     no kill falls into the moment in which the injector writes its record
messages.py   events as messages, whole, damaged and corrected
outgoing.py   a queue that refuses, and loses answers
incoming.py   a queue that loses acks and messages, and delivers again while the first copy runs
hooks.py      handlers that raise, swallow and oversleep
process.py    one worker process: `python -m crossfoot.demo.process`
workers.py    the worker processes: start, kill, replace, stop
publisher.py  publishes the log
recovery.py   publishes again what the books name as dead
progress.py   what the books say while all this runs
found.py      which faults the books tell of
states.py     the final states of the cases, and their invoices
place.py      where the queues are: in the book, on a server started for the demo, or on one that is named
servers.py    servers that are started: MiniStack, Valkey, NATS, Tansu
group.py      the same for a consumer group: its partitions are taken away
run.py        one run, from the first event to the result
"""

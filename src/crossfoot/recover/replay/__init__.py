"""Bringing back what came to nothing: a plan, and then stages that stop themselves.

selection.py   which messages are meant
judging.py     what would become of each, from its contents and its handler: pure
planning.py    membership and classes, written to the book in parts
policy.py      how fast, how much at once, and when to stop: pure
moving.py      a group of members, moved in one transaction
watching.py    what became of those that were moved
expecting.py   what is expected of those that took effect
pacing.py      so many a second
running.py     stage after stage, until all is settled or something is wrong
halting.py     stopped from anywhere
report.py      what it came to, counted anew

A replay is a publication with provenance (see decision 0055). The message keeps its identity and its operation key, so what took
effect before does not again; which members there are never changes; and no stage begins before the last one has *settled*, and
what is expected of its members has come (see decision 0056).
"""

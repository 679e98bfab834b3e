"""Recovering certainty: what happened to a message, what is still open, and what to do.

lookup.py     from a name a person has (id, subject, correlation, operation) to messages
facts.py      everything the book knows of one message
why.py        the page about it: pure, from facts and a time
wording.py    the fate in a sentence, with its reason
advice.py     what to do next, as commands
timeline.py   what happened, in order, with what is missing
phrases.py    times, spans and names in words
"""

"""Recovering certainty: what happened to a message, what is still open, and what to do.

lookup.py     from a name a person has (id, subject, correlation, operation) to messages
records.py    the book and its archive as one
facts.py      everything the book knows of one message
why.py        the page about it: pure, from facts and a time
wording.py    the fate in a sentence, with its reason
advice.py     what to do next, as commands
story.py      its way through the boundaries, in sentences
chain.py      what caused it, and what it caused, to both ends
timeline.py   what happened, in order, with what is missing
phrases.py    times, spans and names in words
"""

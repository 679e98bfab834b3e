"""The checklist for "a message is missing": eight questions, each answered from the book with evidence and the next command.

findings.py      what a finding is; which of several is told first
looking.py       what is looked up of single messages
survey.py        everything that is asked of the book and the queues, read once
grouped.py       what failed, grouped by cause: also `crossfoot causes`
publishing.py    1  was it accepted, and under which id?
counting.py      2  sent, received, deleted: the same messages?
broker.py        2  ... and by the broker's own counts
burying.py       3  what lies in the dead letters, and what is on its way there?
timing.py        4  does the handling fit into the lease?
blocking.py      4  ... and does one that fails hold up others?
once.py          5  does anything take effect twice, or in the wrong order?
overtaken.py     5  ... which events took effect after later ones, and what proves that this was wrong
keeping.py       6  what will be forgotten, and when?
business.py      7  did the business happen, or only the handling?
replaying.py     8  what would go wrong if it were sent again?
attached.py      how the attached queues are set
reach.py         how far was looked, where that is not all there is
walk.py          the answers, the most telling first

All but `survey` and `looking` is pure: from a survey, which holds the time, to findings.
"""

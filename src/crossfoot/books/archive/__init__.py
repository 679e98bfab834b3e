"""The archive: what has ended lies in files of Parquet, sealed one to the next, and leaves the book.

seal.py       what a seal states, and the chain of seals: pure
names.py      the names in a seal, so that most files need not be opened: pure
stories.py    from the book: which messages may go, and everything the book knows of them
parquet.py    stories as files of Parquet, and back; the only module that knows pyarrow
folder.py     files that are there as a whole or not at all
close.py      the way of a bucket into the archive, step by step
prune.py      the transactions that take out of the book what lies in the archive
days.py       what the archive's messages come to in the tallies, by the day past the horizon
past.py       what is asked of the archive, by name
check.py      whether the archive is what was sealed
erase.py      one subject's payloads, taken out of book and archive
"""

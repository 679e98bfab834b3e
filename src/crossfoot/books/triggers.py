"""What the database itself sees to when rows are removed or changed that nobody should touch once they are posted.

Nothing of crossfoot does that, so these triggers cost the ordinary path next to nothing. They fire for whoever does it, from the SQL
prompt too, and keep two things true:

- *The journal tells what was taken out of it.* The numbers of entries, and the keys of messages, are given again when the
  newest are removed, and what was not posted yet is in no tally: without a note, a message that was removed with its entries
  would never have been. The cursor follows the journal back, so that new entries under old numbers are posted.
- *The tally of operations counts the operations there are.* Posting adds new ones by number; those that are removed or
  changed later are taken off at once, so that a balance need not read a million operations to miss one.

What goes into the archive is not removed: the transaction that prunes it says so in `pruning`, where nobody else ever sees it.
"""

from __future__ import annotations

from crossfoot.books.entry import Kind
from crossfoot.books.measures import OPERATION

_POSTED = "(SELECT CAST(value AS INTEGER) FROM crossfoot_facts WHERE name = 'posted operations')"

_TAKEN_OFF = f"""
  UPDATE crossfoot_tallies SET count = count - 1, d0 = crossfoot_tallies.d0 - m.d0, d1 = crossfoot_tallies.d1 - m.d1
  FROM crossfoot_messages m
  WHERE m.key = old.message AND old.kind = {Kind.COMMITTED.value} AND crossfoot_tallies.bucket = m.bucket
    AND crossfoot_tallies.queue = m.queue AND crossfoot_tallies.type = m.type AND measure = '{OPERATION}';"""

TRIGGERS = (
    """
CREATE TRIGGER crossfoot_message_removed AFTER DELETE ON crossfoot_messages
WHEN NOT EXISTS (SELECT 1 FROM crossfoot_pruning WHERE old.key BETWEEN lower AND upper) BEGIN
  INSERT INTO crossfoot_removed (message, id) VALUES (old.key, old.id);
END""",
    """
CREATE TRIGGER crossfoot_entry_removed AFTER DELETE ON crossfoot_entries
WHEN NOT EXISTS (SELECT 1 FROM crossfoot_pruning WHERE old.message BETWEEN lower AND upper) BEGIN
  INSERT INTO crossfoot_removed (message, id, entry, kind)
  VALUES (old.message, (SELECT id FROM crossfoot_messages WHERE key = old.message), old.id, old.kind);
  UPDATE crossfoot_facts SET value = (SELECT coalesce(max(id), 0) FROM crossfoot_entries)
  WHERE name = 'posted entries' AND CAST(value AS INTEGER) > (SELECT coalesce(max(id), 0) FROM crossfoot_entries);
END""",
    f"""
CREATE TRIGGER crossfoot_operation_removed AFTER DELETE ON crossfoot_operations
WHEN old.number <= {_POSTED} BEGIN{_TAKEN_OFF}
  UPDATE crossfoot_facts SET value = (SELECT coalesce(max(number), 0) FROM crossfoot_operations)
  WHERE name = 'posted operations' AND CAST(value AS INTEGER) > (SELECT coalesce(max(number), 0) FROM crossfoot_operations);
END""",
    f"""
CREATE TRIGGER crossfoot_operation_changed AFTER UPDATE OF message, kind ON crossfoot_operations
WHEN old.number <= {_POSTED} BEGIN{_TAKEN_OFF}
  INSERT INTO crossfoot_tallies (bucket, queue, type, measure, count, d0, d1)
  SELECT m.bucket, m.queue, m.type, '{OPERATION}', 1, m.d0, m.d1 FROM crossfoot_messages m
  WHERE m.key = new.message AND new.kind = {Kind.COMMITTED.value}
  ON CONFLICT (bucket, queue, type, measure)
  DO UPDATE SET count = count + 1, d0 = d0 + excluded.d0, d1 = d1 + excluded.d1;
END""",
)

"""What was removed from the journal is noted, and operations that are removed or changed are taken off their tally."""

from alembic import op

revision = "0002"
down_revision = "0001"

STATEMENTS = (
    """
CREATE TABLE crossfoot_removed (
  number INTEGER NOT NULL,
  message BIGINT NOT NULL,
  id TEXT,
  entry BIGINT,
  kind INTEGER,
  PRIMARY KEY (number)
)
""",
    """
CREATE TRIGGER crossfoot_message_removed AFTER DELETE ON crossfoot_messages BEGIN
  INSERT INTO crossfoot_removed (message, id) VALUES (old.key, old.id);
END
""",
    """
CREATE TRIGGER crossfoot_entry_removed AFTER DELETE ON crossfoot_entries BEGIN
  INSERT INTO crossfoot_removed (message, id, entry, kind)
  VALUES (old.message, (SELECT id FROM crossfoot_messages WHERE key = old.message), old.id, old.kind);
  UPDATE crossfoot_facts SET value = (SELECT coalesce(max(id), 0) FROM crossfoot_entries)
  WHERE name = 'posted entries' AND CAST(value AS INTEGER) > (SELECT coalesce(max(id), 0) FROM crossfoot_entries);
END
""",
    """
CREATE TRIGGER crossfoot_operation_removed AFTER DELETE ON crossfoot_operations
WHEN old.number <= (SELECT CAST(value AS INTEGER) FROM crossfoot_facts WHERE name = 'posted operations') BEGIN
  UPDATE crossfoot_tallies SET count = count - 1, d0 = crossfoot_tallies.d0 - m.d0, d1 = crossfoot_tallies.d1 - m.d1
  FROM crossfoot_messages m
  WHERE m.key = old.message AND old.kind = 23 AND crossfoot_tallies.bucket = m.bucket
    AND crossfoot_tallies.queue = m.queue AND crossfoot_tallies.type = m.type AND measure = 'operation';
  UPDATE crossfoot_facts SET value = (SELECT coalesce(max(number), 0) FROM crossfoot_operations)
  WHERE name = 'posted operations' AND CAST(value AS INTEGER) > (SELECT coalesce(max(number), 0) FROM crossfoot_operations);
END
""",
    """
CREATE TRIGGER crossfoot_operation_changed AFTER UPDATE OF message, kind ON crossfoot_operations
WHEN old.number <= (SELECT CAST(value AS INTEGER) FROM crossfoot_facts WHERE name = 'posted operations') BEGIN
  UPDATE crossfoot_tallies SET count = count - 1, d0 = crossfoot_tallies.d0 - m.d0, d1 = crossfoot_tallies.d1 - m.d1
  FROM crossfoot_messages m
  WHERE m.key = old.message AND old.kind = 23 AND crossfoot_tallies.bucket = m.bucket
    AND crossfoot_tallies.queue = m.queue AND crossfoot_tallies.type = m.type AND measure = 'operation';
  INSERT INTO crossfoot_tallies (bucket, queue, type, measure, count, d0, d1)
  SELECT m.bucket, m.queue, m.type, 'operation', 1, m.d0, m.d1 FROM crossfoot_messages m
  WHERE m.key = new.message AND new.kind = 23
  ON CONFLICT (bucket, queue, type, measure)
  DO UPDATE SET count = count + 1, d0 = d0 + excluded.d0, d1 = d1 + excluded.d1;
END
""",
)


def upgrade() -> None:
    connection = op.get_bind()
    for statement in STATEMENTS:
        connection.exec_driver_sql(statement)

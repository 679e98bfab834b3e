"""In PostgreSQL a message's row, what it carries and what is posted of it are tables of their own (see decision 0032)."""

from alembic import op

revision = "0004"
down_revision = "0003"

_COLUMNS = "queue, source, id, type, subject, operation, correlation, causation, sequence, at, bucket, d0, d1"
_OF_RECORD = ", ".join(f"r.{name}" for name in ("key", *_COLUMNS.split(", ")))

POSTGRES = (
    "ALTER TABLE crossfoot_messages RENAME TO crossfoot_records",
    "CREATE TABLE crossfoot_payloads (key BIGINT NOT NULL, body BYTEA)",
    "INSERT INTO crossfoot_payloads SELECT key, body FROM crossfoot_records WHERE body IS NOT NULL",
    "ALTER TABLE crossfoot_payloads ADD PRIMARY KEY (key)",
    "CREATE TABLE crossfoot_states (key BIGINT NOT NULL, marks BIGINT NOT NULL, latest BIGINT NOT NULL, due BIGINT NOT NULL, "
    "fate INTEGER NOT NULL)",
    "INSERT INTO crossfoot_states SELECT key, marks, latest, due, fate FROM crossfoot_records WHERE latest <> 0",
    "ALTER TABLE crossfoot_states ADD PRIMARY KEY (key)",
    "CREATE INDEX crossfoot_states_unsettled ON crossfoot_states (fate, due) WHERE fate <> 20",
    "DROP INDEX crossfoot_messages_unsettled",
    # The change of a type is none; it has the rows written anew, without what was dropped.
    "ALTER TABLE crossfoot_records DROP COLUMN body, DROP COLUMN marks, DROP COLUMN latest, DROP COLUMN due, DROP COLUMN fate, "
    "ALTER COLUMN d0 TYPE BIGINT USING d0 + 0",
    # What is counted once need not be counted again: nobody else is here.
    """
INSERT INTO crossfoot_facts (name, value) SELECT 'closed', max(key) || ':' || count(*) FROM crossfoot_records
HAVING count(*) > 0 AND count(*) = (SELECT count(*) FROM crossfoot_states)
""",
    f"""
CREATE VIEW crossfoot_messages AS
SELECT {_OF_RECORD}, p.body, coalesce(s.marks, 0) AS marks, coalesce(s.latest, 0) AS latest, coalesce(s.due, 0) AS due,
  coalesce(s.fate, 0) AS fate
FROM crossfoot_records r LEFT JOIN crossfoot_states s ON s.key = r.key LEFT JOIN crossfoot_payloads p ON p.key = r.key
""",
    f"""
CREATE VIEW crossfoot_unsettled AS SELECT {_OF_RECORD}, s.marks, s.latest, s.due, s.fate
FROM crossfoot_states s JOIN crossfoot_records r ON r.key = s.key WHERE s.fate <> 20
""",
    """
CREATE OR REPLACE FUNCTION crossfoot_message_removed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO crossfoot_removed (message, id) VALUES (old.key, old.id);
  DELETE FROM crossfoot_states WHERE key = old.key;
  DELETE FROM crossfoot_payloads WHERE key = old.key;
  RETURN NULL;
END $$
""",
    """
CREATE FUNCTION crossfoot_state_removed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  INSERT INTO crossfoot_removed (message, id) SELECT key, id FROM crossfoot_records WHERE key = old.key;
  RETURN NULL;
END $$
""",
    """
CREATE TRIGGER crossfoot_state_removed AFTER DELETE ON crossfoot_states
FOR EACH ROW EXECUTE FUNCTION crossfoot_state_removed()
""",
    *(
        f"""
CREATE TRIGGER {table}_not_emptied BEFORE TRUNCATE ON {table}
FOR EACH STATEMENT EXECUTE FUNCTION crossfoot_not_emptied()
"""
        for table in ("crossfoot_states", "crossfoot_payloads")
    ),
    # Whoever changes or removes a message by hand need not know of the three tables.
    f"""
CREATE FUNCTION crossfoot_message_by_hand() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  IF TG_OP = 'DELETE' THEN
    DELETE FROM crossfoot_records WHERE key = old.key;
    RETURN old;
  END IF;
  UPDATE crossfoot_records SET ({_COLUMNS}) = ({", ".join(f"new.{name}" for name in _COLUMNS.split(", "))}) WHERE key = old.key;
  IF new.body IS DISTINCT FROM old.body THEN
    INSERT INTO crossfoot_payloads (key, body) VALUES (old.key, new.body) ON CONFLICT (key) DO UPDATE SET body = excluded.body;
  END IF;
  IF (new.marks, new.latest, new.due, new.fate) IS DISTINCT FROM (old.marks, old.latest, old.due, old.fate) THEN
    PERFORM pg_advisory_xact_lock(hashtextextended('crossfoot posting', 0));
    INSERT INTO crossfoot_states (key, marks, latest, due, fate) VALUES (old.key, new.marks, new.latest, new.due, new.fate)
    ON CONFLICT (key) DO UPDATE SET marks = excluded.marks, latest = excluded.latest, due = excluded.due, fate = excluded.fate;
  END IF;
  RETURN new;
END $$
""",
    """
CREATE TRIGGER crossfoot_message_by_hand INSTEAD OF UPDATE OR DELETE ON crossfoot_messages
FOR EACH ROW EXECUTE FUNCTION crossfoot_message_by_hand()
""",
    # Nobody looks for an entry or an operation by its number alone: with the transaction before it one index does for both.
    "DROP INDEX crossfoot_entries_posting",
    "ALTER TABLE crossfoot_entries DROP CONSTRAINT crossfoot_entries_pkey, ADD PRIMARY KEY (xid, id)",
    "DROP INDEX crossfoot_operations_posting",
    "ALTER TABLE crossfoot_operations DROP CONSTRAINT crossfoot_operations_pkey, ADD PRIMARY KEY (xid, number)",
)


def upgrade() -> None:
    connection = op.get_bind()
    if connection.dialect.name == "postgresql":
        for statement in POSTGRES:
            connection.exec_driver_sql(statement)

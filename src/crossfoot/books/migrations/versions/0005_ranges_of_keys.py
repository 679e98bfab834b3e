"""In PostgreSQL entries and payloads are cut into ranges of messages' keys (see decision 0036)."""

from typing import Any

from alembic import op

revision = "0005"
down_revision = "0004"

AHEAD = 100_000
"""Keys that the first partition takes in beyond those given, and that the next one holds."""

CUT = {"crossfoot_payloads": "key", "crossfoot_entries": "message"}
"""In the order in which a publisher writes them, so that whoever publishes meanwhile is waited for, and waits."""

_BOUND = f"""
SELECT greatest(s.last_value, (SELECT max(message) FROM crossfoot_entries), (SELECT max(key) FROM crossfoot_payloads)) + {AHEAD}
FROM crossfoot_messages_key_seq s
"""

_NEXT_ENTRY = "SELECT last_value + CASE WHEN is_called THEN 1 ELSE 0 END FROM crossfoot_entries_id_seq"

_GRANTS = """
SELECT 'GRANT ' || p.privilege_type || ' ON TABLE {to} TO ' || CASE p.grantee WHEN 0 THEN 'PUBLIC' ELSE p.grantee::regrole::text END
  || CASE WHEN p.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) p WHERE c.oid = '{of}'::regclass AND p.grantee <> c.relowner
"""
"""Who was allowed what goes on being allowed it."""

_RECORD = "queue, source, id, type, subject, operation, correlation, causation, sequence, at, bucket, d0, d1"

# What is not asked for is left out of a subquery at any version; a join to ranges only since PostgreSQL 16.
VIEW = f"""
CREATE OR REPLACE VIEW crossfoot_messages AS
SELECT r.key, {", ".join(f"r.{name}" for name in _RECORD.split(", "))},
  (SELECT p.body FROM crossfoot_payloads p WHERE p.key = r.key) AS body,
  coalesce(s.marks, 0) AS marks, coalesce(s.latest, 0) AS latest, coalesce(s.due, 0) AS due, coalesce(s.fate, 0) AS fate
FROM crossfoot_records r LEFT JOIN crossfoot_states s ON s.key = r.key
"""

# Notes of entries that were added to a range that had become quiet. Whoever may write entries may leave one.
_LATE = (
    """
CREATE TABLE crossfoot_late (
  xid xid8 DEFAULT pg_current_xact_id() NOT NULL,
  lower BIGINT NOT NULL,
  PRIMARY KEY (xid, lower)
)
""",
    """
CREATE FUNCTION crossfoot_entry_late() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$ BEGIN
  INSERT INTO crossfoot_late (lower) VALUES (coalesce(TG_ARGV[0]::bigint, new.message)) ON CONFLICT DO NOTHING;
  RETURN NULL;
END $$
""",
)

# As in 0002, and all ranges are looked into until the numbers of this server's transactions tell otherwise.
_MOVED = """
CREATE OR REPLACE FUNCTION crossfoot_moved() RETURNS void LANGUAGE plpgsql AS $$
DECLARE entries text; operations text;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtextextended('crossfoot posting', 0));
  DELETE FROM crossfoot_facts WHERE name IN ('quiet', 'quieting');
  SELECT coalesce(max(value) FILTER (WHERE name = 'posted entries'), '0:0'),
    coalesce(max(value) FILTER (WHERE name = 'posted operations'), '0:0')
  INTO entries, operations FROM crossfoot_facts WHERE name IN ('posted entries', 'posted operations');
  UPDATE crossfoot_entries SET xid = CASE
    WHEN (xid, id) <= (split_part(entries, ':', 1)::xid8, split_part(entries, ':', 2)::bigint) THEN '3'::xid8
    ELSE pg_current_xact_id() END;
  UPDATE crossfoot_operations SET xid = CASE
    WHEN (xid, number) <= (split_part(operations, ':', 1)::xid8, split_part(operations, ':', 2)::bigint) THEN '3'::xid8
    ELSE pg_current_xact_id() END;
  UPDATE crossfoot_facts SET value = '3:' || (SELECT coalesce(max(id), 0) FROM crossfoot_entries WHERE xid = '3'::xid8)
  WHERE name = 'posted entries';
  UPDATE crossfoot_facts SET value = '3:' || (SELECT coalesce(max(number), 0) FROM crossfoot_operations WHERE xid = '3'::xid8)
  WHERE name = 'posted operations';
END $$
"""

# For a quiet hour, when the rest has become so large that it takes long to be read whenever a range is attached. Rows of other ranges'
# gaps stay in the rest; what is quiet is found anew, with a trigger on the new rest.
_REST_TO_RANGE = f"""
CREATE FUNCTION crossfoot_rest_to_range() RETURNS text LANGUAGE plpgsql AS $$
DECLARE first bigint; bound bigint; cut record; rest text; made text;
BEGIN
  LOCK TABLE crossfoot_payloads, crossfoot_entries IN ACCESS EXCLUSIVE MODE;
  DELETE FROM crossfoot_facts WHERE name IN ('quiet', 'quieting');
  SELECT max(substring(pg_get_expr(c.relpartbound, c.oid) from 'TO [(].?(-?[0-9]+)')::bigint) INTO first
  FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
  WHERE i.inhparent IN (to_regclass('crossfoot_payloads'), to_regclass('crossfoot_entries'));
  SELECT greatest(last_value, first) + {AHEAD} INTO bound FROM crossfoot_messages_key_seq;
  FOR cut IN SELECT * FROM (VALUES ('crossfoot_payloads', 'key'), ('crossfoot_entries', 'message')) AS t (whole, key) LOOP
    rest := cut.whole || '_rest';
    made := cut.whole || '_' || first;
    EXECUTE 'ALTER TABLE ' || cut.whole || ' DETACH PARTITION ' || rest;
    EXECUTE 'ALTER TABLE ' || rest || ' RENAME TO ' || made;
    EXECUTE 'ALTER INDEX ' || rest || '_pkey RENAME TO ' || made || '_pkey';
    EXECUTE 'DROP TRIGGER IF EXISTS crossfoot_entry_late ON ' || made;
    EXECUTE 'CREATE TABLE ' || rest || ' PARTITION OF ' || cut.whole || ' DEFAULT';
    EXECUTE 'CREATE TRIGGER ' || cut.whole || '_not_emptied BEFORE TRUNCATE ON ' || rest ||
      ' FOR EACH STATEMENT EXECUTE FUNCTION crossfoot_not_emptied()';
    IF cut.whole = 'crossfoot_entries' THEN
      EXECUTE 'ALTER TABLE ' || rest || ' ADD PRIMARY KEY (xid, id)';
    END IF;
    EXECUTE 'WITH outside AS (DELETE FROM ' || made || ' WHERE ' || cut.key || ' < $1 OR ' || cut.key || ' >= $2 RETURNING *) '
      || 'INSERT INTO ' || rest || ' SELECT * FROM outside' USING first, bound;
    EXECUTE 'ALTER TABLE ' || cut.whole || ' ATTACH PARTITION ' || made || ' FOR VALUES FROM (' || first || ') TO (' || bound || ')';
  END LOOP;
  RETURN 'keys from ' || first || ' until before ' || bound || ' are a range';
END $$
"""

_NOT_EMPTIED = (
    "CREATE TRIGGER {name} BEFORE TRUNCATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION crossfoot_not_emptied()"
)


def _entries(next_entry: int) -> tuple[str, ...]:
    return (
        "ALTER TABLE crossfoot_entries RENAME TO crossfoot_entries_0",
        "ALTER INDEX crossfoot_entries_pkey RENAME TO crossfoot_entries_0_pkey",
        "ALTER INDEX crossfoot_entries_message RENAME TO crossfoot_entries_0_message",
        "ALTER TABLE crossfoot_entries_0 ALTER id DROP IDENTITY",
        "DROP TRIGGER crossfoot_entry_removed ON crossfoot_entries_0",
        "CREATE TABLE crossfoot_entries (LIKE crossfoot_entries_0 INCLUDING DEFAULTS) PARTITION BY RANGE (message)",
        f"ALTER TABLE crossfoot_entries ALTER id ADD GENERATED BY DEFAULT AS IDENTITY (START WITH {next_entry})",
        "CREATE INDEX crossfoot_entries_message ON crossfoot_entries (message)",
        "CREATE TRIGGER crossfoot_entry_removed AFTER DELETE ON crossfoot_entries "
        "FOR EACH ROW EXECUTE FUNCTION crossfoot_entry_removed()",
    )


_PAYLOADS = (
    "ALTER TABLE crossfoot_payloads RENAME TO crossfoot_payloads_0",
    "ALTER INDEX crossfoot_payloads_pkey RENAME TO crossfoot_payloads_0_pkey",
    "CREATE TABLE crossfoot_payloads (LIKE crossfoot_payloads_0) PARTITION BY RANGE (key)",
    "ALTER TABLE crossfoot_payloads ADD PRIMARY KEY (key)",
)


def _attached(table: str, bound: int) -> tuple[str, ...]:
    """The rows there are, which are read and not written anew; the next range; and what is in none."""
    more = {f"{table}_{bound}": f"FOR VALUES FROM ({bound}) TO ({bound + AHEAD})", f"{table}_rest": "DEFAULT"}
    return (
        _NOT_EMPTIED.format(name=f"{table}_not_emptied", table=table),
        f"ALTER TABLE {table} ATTACH PARTITION {table}_0 FOR VALUES FROM (MINVALUE) TO ({bound})",
        *(f"CREATE TABLE {name} PARTITION OF {table} {values}" for name, values in more.items()),
        *(_NOT_EMPTIED.format(name=f"{table}_not_emptied", table=name) for name in more),
        # Not of the whole, whose unique keys must have the message in them, too.
        *(f"ALTER TABLE {name} ADD PRIMARY KEY (xid, id)" for name in more if table == "crossfoot_entries"),
    )


def upgrade() -> None:
    connection = op.get_bind()
    if connection.dialect.name != "postgresql":
        return
    connection.exec_driver_sql(f"LOCK TABLE {', '.join(CUT)} IN ACCESS EXCLUSIVE MODE")
    bound, next_entry = (_number(connection, query) for query in (_BOUND, _NEXT_ENTRY))
    for statement in (*_PAYLOADS, *_entries(next_entry)):
        connection.exec_driver_sql(statement)
    for table in CUT:
        _grant(connection, f"{table}_0", table)
        for statement in _attached(table, bound):
            connection.exec_driver_sql(statement)
    for statement in (VIEW, *_LATE, _MOVED, _REST_TO_RANGE):
        connection.exec_driver_sql(statement)
    _grant(connection, "crossfoot_facts", "crossfoot_late")


def _grant(connection: Any, of: str, to: str) -> None:
    for (grant,) in connection.exec_driver_sql(_GRANTS.format(of=of, to=to)).fetchall():
        connection.exec_driver_sql(grant)


def _number(connection: Any, query: str) -> int:
    return int(connection.exec_driver_sql(query).scalar_one())

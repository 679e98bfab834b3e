"""The table of the queues in a PostgreSQL database: what `ensure`, or a migration, creates.

One row per message held, for any number of queues. A row is in one of five states:

    0 READY    may be delivered; its turn is told by `rank` and `place`
    1 WAITING  may be delivered from `due_at` on: delayed, handed back for later, or leased, which is as long as somebody has it
    2 BEHIND   waits for an earlier message of its line (its partition, where the queue is ordered)
    3 DEAD     a dead letter, kept until somebody decides
    4 EXPIRED  past the retention: kept until the books have it, then purged

SQL says the numbers: a partial index serves only a statement that repeats its condition to the letter.

**Places.** `place` is the number of the transaction that made the row ready. A row can therefore become visible late, when
others with a higher place have long been delivered, and whoever reads in the order of places knows from a snapshot which
places can still be filled: those of transactions that were not through (see `places`). That is what lets a receive begin
where the last one ended, instead of stepping over everything that was delivered before and cannot be vacuumed yet.

**Lines.** Each line has one row that is READY or WAITING: its head. Triggers keep that true whoever removes a row, and by
whatever statement. They take a lock for the line, and look at what is committed by then; a transaction that sees an older
state cannot know who is next, and is refused.
"""

from __future__ import annotations

READY, WAITING, BEHIND, DEAD, EXPIRED = range(5)

PRIORITIES = 10
"""Of `Outgoing.priority`: 0 to 9."""

FRONT = 0
"""The rank of what was handed back: before everything else."""

VERSION = "queues of crossfoot, 1"
"""The table's comment: a table of another version is not used."""

TABLE = """
CREATE TABLE IF NOT EXISTS crossfoot_queue (
  key bigint NOT NULL DEFAULT nextval('crossfoot_queue_key'),
  place bigint NOT NULL,
  enqueued_at timestamptz NOT NULL,
  due_at timestamptz NOT NULL,
  token bigint,
  attempts integer NOT NULL,
  state smallint NOT NULL,
  rank smallint NOT NULL,
  priority smallint NOT NULL,
  queue text NOT NULL,
  message text NOT NULL,
  line text,
  dead_reason text,
  attributes text,
  body bytea NOT NULL,
  PRIMARY KEY (queue, key)
) WITH (
  autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_scale_factor = 0.02, vacuum_truncate = off
)"""
"""Vacuumed early. It is not truncated: that would need the whole table for itself."""

INDEXES = (
    "CREATE INDEX IF NOT EXISTS crossfoot_queue_ready ON crossfoot_queue (queue, rank, place, key) WHERE state = 0",
    "CREATE INDEX IF NOT EXISTS crossfoot_queue_waiting ON crossfoot_queue (queue, due_at, key) WHERE state = 1",
    "CREATE INDEX IF NOT EXISTS crossfoot_queue_line ON crossfoot_queue (queue, line, key) WHERE line IS NOT NULL AND state < 3",
    "CREATE INDEX IF NOT EXISTS crossfoot_queue_dead ON crossfoot_queue (queue, key) WHERE state = 3",
    "CREATE INDEX IF NOT EXISTS crossfoot_queue_expired ON crossfoot_queue (queue, key) WHERE state = 4",
)

FUNCTIONS = (
    """
CREATE OR REPLACE FUNCTION crossfoot_queue_lock(queue text, line text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
    RAISE EXCEPTION 'queue % is ordered, and a transaction that is % does not see who else stands in line',
      queue, current_setting('transaction_isolation')
      USING HINT = 'use READ COMMITTED, or a queue that is not ordered', ERRCODE = 'feature_not_supported';
  END IF;
  PERFORM pg_advisory_xact_lock(hashtextextended('crossfoot queue ' || queue || chr(31) || line, 0));
END $$""",
    """
CREATE OR REPLACE FUNCTION crossfoot_queue_stand_in_line() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  PERFORM crossfoot_queue_lock(new.queue, new.line);
  new.key := nextval('crossfoot_queue_key');
  IF EXISTS (SELECT 1 FROM crossfoot_queue q
              WHERE q.queue = new.queue AND q.line = new.line AND q.line IS NOT NULL AND q.state < 3) THEN
    new.state := 2;
  END IF;
  RETURN new;
END $$""",
    """
CREATE OR REPLACE FUNCTION crossfoot_queue_make_way() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
  PERFORM crossfoot_queue_lock(old.queue, old.line);
  UPDATE crossfoot_queue
     SET state = CASE WHEN due_at > clock_timestamp() THEN 1 ELSE 0 END, place = pg_current_xact_id()::text::bigint
   WHERE queue = old.queue AND key = (
     SELECT q.key FROM crossfoot_queue q
      WHERE q.queue = old.queue AND q.line = old.line AND q.line IS NOT NULL AND q.state < 3 AND q.key > old.key
      ORDER BY q.key LIMIT 1);
  RETURN NULL;
END $$""",
)
"""Keys of a line are given under its lock, and so in the order of commits: the next is the smallest that is bigger."""

TRIGGERS = (
    ("crossfoot_queue_comes", "BEFORE INSERT ON crossfoot_queue FOR EACH ROW WHEN (new.line IS NOT NULL) "
                              "EXECUTE FUNCTION crossfoot_queue_stand_in_line()"),
    ("crossfoot_queue_gone", "AFTER DELETE ON crossfoot_queue FOR EACH ROW WHEN (old.line IS NOT NULL AND old.state < 2) "
                             "EXECUTE FUNCTION crossfoot_queue_make_way()"),
    ("crossfoot_queue_put_aside", "AFTER UPDATE OF state ON crossfoot_queue FOR EACH ROW "
                                  "WHEN (old.line IS NOT NULL AND old.state < 2 AND new.state > 2) "
                                  "EXECUTE FUNCTION crossfoot_queue_make_way()"),
)  # fmt: skip


def creation() -> list[str]:
    """Every statement that creates what queues need where it is not there yet, in order. One transaction."""
    triggers = [
        statement
        for name, rest in TRIGGERS
        for statement in (f"DROP TRIGGER IF EXISTS {name} ON crossfoot_queue", f"CREATE TRIGGER {name} {rest}")
    ]
    sequence = "CREATE SEQUENCE IF NOT EXISTS crossfoot_queue_key"
    mark = f"COMMENT ON TABLE crossfoot_queue IS '{VERSION}'"
    return [sequence, TABLE.strip(), *INDEXES, *(function.strip() for function in FUNCTIONS), *triggers, mark]

"""The first tables: the book's own, and the embedded queue's in SQLite."""

from alembic import op

from crossfoot.books.migrations import first_tables_postgres

revision = "0001"
down_revision = None

BOOK = (
    """
CREATE TABLE crossfoot_causes (
  fingerprint TEXT NOT NULL,
  kind TEXT NOT NULL,
  title TEXT NOT NULL,
  frames TEXT NOT NULL,
  first_at BIGINT NOT NULL,
  PRIMARY KEY (fingerprint)
)
 WITHOUT ROWID
""",
    """
CREATE TABLE crossfoot_entries (
  id INTEGER NOT NULL,
  message BIGINT NOT NULL,
  kind INTEGER NOT NULL,
  attempt INTEGER NOT NULL,
  delivery BIGINT NOT NULL,
  at BIGINT NOT NULL,
  due BIGINT,
  worker INTEGER NOT NULL,
  cause TEXT,
  details TEXT,
  PRIMARY KEY (id)
)
""",
    """
CREATE INDEX crossfoot_entries_message ON crossfoot_entries (message)
""",
    """
CREATE TABLE crossfoot_facts (
  name TEXT NOT NULL,
  value TEXT NOT NULL,
  PRIMARY KEY (name)
)
 WITHOUT ROWID
""",
    """
CREATE TABLE crossfoot_messages (
  "key" INTEGER NOT NULL,
  queue TEXT NOT NULL,
  source TEXT NOT NULL,
  id TEXT NOT NULL,
  type TEXT NOT NULL,
  subject TEXT,
  operation TEXT,
  correlation TEXT,
  causation TEXT,
  sequence BIGINT,
  at BIGINT NOT NULL,
  bucket BIGINT NOT NULL,
  d0 BIGINT NOT NULL,
  d1 BIGINT NOT NULL,
  body BLOB,
  marks BIGINT DEFAULT 0 NOT NULL,
  latest BIGINT DEFAULT 0 NOT NULL,
  due BIGINT DEFAULT 0 NOT NULL,
  fate INTEGER DEFAULT 0 NOT NULL,
  PRIMARY KEY ("key"),
  CONSTRAINT crossfoot_messages_identity UNIQUE (id, source, queue)
)
""",
    """
CREATE INDEX crossfoot_messages_bucket ON crossfoot_messages (bucket)
""",
    """
CREATE INDEX crossfoot_messages_correlation ON crossfoot_messages (correlation) WHERE correlation IS NOT NULL
""",
    """
CREATE INDEX crossfoot_messages_operation ON crossfoot_messages (operation) WHERE operation IS NOT NULL
""",
    """
CREATE INDEX crossfoot_messages_subject ON crossfoot_messages (subject) WHERE subject IS NOT NULL
""",
    """
CREATE INDEX crossfoot_messages_unsettled ON crossfoot_messages (fate, due) WHERE fate <> 20
""",
    """
CREATE TABLE crossfoot_operations (
  number INTEGER NOT NULL,
  "key" TEXT NOT NULL,
  message BIGINT NOT NULL,
  kind INTEGER NOT NULL,
  at BIGINT NOT NULL,
  PRIMARY KEY (number),
  CONSTRAINT crossfoot_operations_once UNIQUE ("key")
)
""",
    """
CREATE INDEX crossfoot_operations_message ON crossfoot_operations (message)
""",
    """
CREATE TABLE crossfoot_outbox (
  number INTEGER NOT NULL,
  message BIGINT NOT NULL,
  queue TEXT NOT NULL,
  identity TEXT NOT NULL,
  body BLOB NOT NULL,
  partition TEXT,
  base INTEGER DEFAULT 0 NOT NULL,
  due BIGINT NOT NULL,
  tries INTEGER DEFAULT 0 NOT NULL,
  claim TEXT,
  PRIMARY KEY (number)
)
""",
    """
CREATE INDEX crossfoot_outbox_due ON crossfoot_outbox (queue, due)
""",
    """
CREATE TABLE crossfoot_outcomes (
  number INTEGER NOT NULL,
  message BIGINT NOT NULL,
  name TEXT NOT NULL,
  subject TEXT,
  at BIGINT NOT NULL,
  facts TEXT,
  PRIMARY KEY (number)
)
""",
    """
CREATE INDEX crossfoot_outcomes_message ON crossfoot_outcomes (message)
""",
    """
CREATE INDEX crossfoot_outcomes_name ON crossfoot_outcomes (name, at)
""",
    """
CREATE TABLE crossfoot_parked (
  handler TEXT NOT NULL,
  subject TEXT NOT NULL,
  sequence BIGINT NOT NULL,
  message BIGINT NOT NULL,
  predecessor BIGINT NOT NULL,
  attempt INTEGER NOT NULL,
  until BIGINT NOT NULL,
  body BLOB NOT NULL,
  partition TEXT,
  PRIMARY KEY (handler, subject, sequence, message)
)
 WITHOUT ROWID
""",
    """
CREATE INDEX crossfoot_parked_until ON crossfoot_parked (until)
""",
    """
CREATE TABLE crossfoot_sequences (
  handler TEXT NOT NULL,
  subject TEXT NOT NULL,
  last BIGINT NOT NULL,
  at BIGINT NOT NULL,
  PRIMARY KEY (handler, subject)
)
 WITHOUT ROWID
""",
    """
CREATE TABLE crossfoot_tallies (
  bucket BIGINT NOT NULL,
  queue TEXT NOT NULL,
  type TEXT NOT NULL,
  measure TEXT NOT NULL,
  count BIGINT NOT NULL,
  d0 BIGINT NOT NULL,
  d1 BIGINT NOT NULL,
  PRIMARY KEY (bucket, queue, type, measure)
)
 WITHOUT ROWID
""",
    """
CREATE TABLE crossfoot_workers (
  number INTEGER NOT NULL,
  name TEXT NOT NULL,
  service TEXT NOT NULL,
  host TEXT NOT NULL,
  pid INTEGER NOT NULL,
  version TEXT NOT NULL,
  started_at BIGINT NOT NULL,
  seen_at BIGINT NOT NULL,
  stopped_at BIGINT,
  PRIMARY KEY (number)
)
""",
)

QUEUE = (
    """
CREATE TABLE crossfoot_queue (
  "key" INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
  state INTEGER NOT NULL,
  attempts INTEGER NOT NULL,
  enqueued_at INTEGER NOT NULL,
  visible_at INTEGER NOT NULL,
  changed_at INTEGER NOT NULL,
  expires_at INTEGER,
  token TEXT NOT NULL,
  queue TEXT NOT NULL,
  message TEXT NOT NULL,
  partition TEXT,
  dead_reason TEXT,
  attributes TEXT,
  body BLOB NOT NULL
)
""",
    """
CREATE INDEX crossfoot_queue_claim ON crossfoot_queue (queue, state, visible_at) WHERE state = 0
""",
    """
CREATE INDEX crossfoot_queue_dead ON crossfoot_queue (queue, state) WHERE state = 2
""",
    """
CREATE INDEX crossfoot_queue_expired ON crossfoot_queue (queue, state) WHERE state = 3
""",
    """
CREATE INDEX crossfoot_queue_expiry ON crossfoot_queue (queue, expires_at) WHERE expires_at IS NOT NULL AND state < 2
""",
    """
CREATE INDEX crossfoot_queue_line ON crossfoot_queue (queue, partition, state) WHERE partition IS NOT NULL AND state < 2
""",
    """
CREATE TABLE crossfoot_queue_counts (
  queue TEXT NOT NULL,
  accepted INTEGER DEFAULT 0 NOT NULL,
  acked INTEGER DEFAULT 0 NOT NULL,
  removed INTEGER DEFAULT 0 NOT NULL,
  dead INTEGER DEFAULT 0 NOT NULL,
  expired INTEGER DEFAULT 0 NOT NULL,
  PRIMARY KEY (queue)
)
 WITHOUT ROWID
""",
    """
CREATE TRIGGER crossfoot_queue_gone AFTER DELETE ON crossfoot_queue WHEN old.state < 2 BEGIN
  UPDATE crossfoot_queue_counts
     SET acked = acked + (old.token <> '--------------------'),
         removed = removed + (old.token = '--------------------')
   WHERE queue = old.queue;
  UPDATE crossfoot_queue SET state = 0
   WHERE old.partition IS NOT NULL AND state = 1 AND key = (
     SELECT key FROM crossfoot_queue
      WHERE queue = old.queue AND partition = old.partition AND state < 2
      ORDER BY state, key LIMIT 1);
END
""",
    """
CREATE TRIGGER crossfoot_queue_put_aside AFTER UPDATE OF state ON crossfoot_queue
WHEN old.state < 2 AND new.state >= 2 BEGIN
  UPDATE crossfoot_queue_counts
     SET dead = dead + (new.state = 2), expired = expired + (new.state = 3)
   WHERE queue = old.queue;
  UPDATE crossfoot_queue SET state = 0
   WHERE old.partition IS NOT NULL AND state = 1 AND key = (
     SELECT key FROM crossfoot_queue
      WHERE queue = old.queue AND partition = old.partition AND state < 2
      ORDER BY state, key LIMIT 1);
END
""",
)


def upgrade() -> None:
    connection = op.get_bind()
    for statement in (*BOOK, *QUEUE) if connection.dialect.name == "sqlite" else first_tables_postgres.STATEMENTS:
        connection.exec_driver_sql(statement)

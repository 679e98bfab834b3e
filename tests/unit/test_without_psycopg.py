"""The base install has no client of PostgreSQL: nothing needs it until a database says so, and then it is named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

WITHOUT = """
import sys
sys.modules["psycopg"] = None  # as if it were not installed
from crossfoot import Crossfoot
from crossfoot.errors import UsageError

app = Crossfoot("billing", database="billing.db")

@app.handler("case.released")
def bill(message, tx):
    tx.outcome("invoice.issued")

import anyio
anyio.run(app.publish, app.message("case.released", subject="case-1"))
app.run(until_idle=True)
try:
    Crossfoot("billing", database="postgresql://localhost/billing", queue="redis:billing")
except UsageError as error:
    print(error)
"""


def test_a_service_on_a_file_works_and_one_on_postgres_says_what_to_install(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "pip install '/path/to/crossfoot[postgres]'" in done.stdout

"""Where everything is: below one folder, `PEERS_HOME` or else `build/peers` of this repository, which no commit sees."""

from __future__ import annotations

import os
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
HOME = Path(os.environ.get("PEERS_HOME") or ROOT / "build/peers").expanduser().resolve()
VENVS, LOGS, SERVICES = HOME / "venvs", HOME / "logs", HOME / "services"

"""crossfoot and other task queues, in one run on this machine: `make bench-peers ARGS='...'`.

    make bench-peers ARGS='list'
    make bench-peers ARGS='run'                                            a short list of rows, about half an hour
    make bench-peers ARGS='run --peers crossfoot-postgres,pgqueuer --limits none --workload effect --n 5000 --rounds 1'
    make bench-peers ARGS='run --peers all --limits all --json peers.json' more than an hour on two cores
    make bench-peers ARGS='crash --cases crossfoot'
    make bench-peers ARGS='table peers.json --base pgqueuer'               the tables of an earlier run

The environments of the peers are installed, their services started and stopped; nothing is left but what lies below
`build/peers`, or the folder that PEERS_HOME names.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path

from benchmarks.peers import catalog, crash, run


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="bench-peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="every row and every crash case")
    run.add_arguments(commands.add_parser("run", help="measure", description=run.__doc__))
    crash.add_arguments(commands.add_parser("crash", help="kill workers", description=crash.__doc__))
    again = commands.add_parser("table", help="print the tables of an earlier run")
    again.add_argument("file", help="what `run --json` has written")
    again.add_argument("--base", default="crossfoot-postgres")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that workers and services are stopped, too
    if asked.command == "list":
        for entry in catalog.EVERYTHING:
            guarantee = entry.guarantee if isinstance(entry, catalog.Peer) else "limit"
            print(f"{entry.name:28} {guarantee:20} {entry.settings}")
        print("\n".join(f"{case.name:45} {case.note}" for case in crash.CASES))
        return 0
    if asked.command == "table":
        run.print_tables(json.loads(Path(asked.file).read_text())["results"], asked.base)
        return 0
    return run.main(asked) if asked.command == "run" else crash.main(asked)


if __name__ == "__main__":
    sys.exit(main())

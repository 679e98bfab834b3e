"""One measurement in a process of its own: python -m benchmarks.kit.one VARIANT MESSAGES FOLDER prints one JSON object."""

from __future__ import annotations

import json
import sys
import tempfile

from benchmarks.kit import ours, peers
from benchmarks.kit.load import Meter, flush_micros
from benchmarks.kit.workload import by_name

ALL = by_name([*ours.VARIANTS, *peers.VARIANTS])


def main() -> None:
    name, messages, parent = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    variant = ALL[name]
    messages = max(100, round(messages * variant.share))
    meter = Meter()
    with tempfile.TemporaryDirectory(prefix="crossfoot-bench-", dir=parent) as folder:
        flush = flush_micros(folder)
        check = variant.run(folder, messages, meter)
    print(json.dumps({
        "variant": name, "messages": messages, "seconds": meter.seconds, "cpu": meter.cpu, "others": meter.others,
        "flush_micros": flush, "check": check,
    }))  # fmt: skip


if __name__ == "__main__":
    main()

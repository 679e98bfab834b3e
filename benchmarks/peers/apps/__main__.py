"""`python -m apps <module> enqueue N | pending | run NAME N`, inside the peer's own environment.

Imported as apps.<module>, exactly as the worker imports it, so that task names agree.
"""

import asyncio
import importlib
import inspect
import json
import os
import sys

module, command, *args = sys.argv[1:]
function = getattr(importlib.import_module(f"apps.{module}"), command)
result = function(*(int(a) if a.isdigit() else a for a in args))
if inspect.iscoroutine(result):
    result = asyncio.run(result)
print("RESULT " + json.dumps(result), flush=True)
os._exit(0)  # some libraries leave threads behind

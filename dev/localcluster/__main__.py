"""`python -m dev.localcluster`."""

import sys

from dev.localcluster.cli import app
from dev.localcluster.console import console

try:
    app(prog_name="python -m dev.localcluster")
except (RuntimeError, TimeoutError, KeyError) as error:  # ours: they say what to do, and a traceback would bury it
    console.print(f"[red]{type(error).__name__}:[/]", end=" ")
    console.print(str(error), markup=False, highlight=False)
    sys.exit(1)

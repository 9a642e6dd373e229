"""`python -m tests.localcluster`."""

import sys

from tests.localcluster.cli import app
from tests.localcluster.progress import console

try:
    app(prog_name="python -m tests.localcluster")
except (RuntimeError, TimeoutError, KeyError) as error:  # ours: they say what to do, and a traceback would bury it
    console.print(f"[red]{type(error).__name__}:[/]", end=" ")
    console.print(str(error), markup=False, highlight=False)
    sys.exit(1)

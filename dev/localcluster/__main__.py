"""`python -m dev.localcluster`."""

import subprocess
import sys

from dev.localcluster.cli import app
from dev.localcluster.console import console
from dev.localcluster.errors import CurableError

try:
    app(prog_name="python -m dev.localcluster")
except CurableError as error:
    console.print(f"✗ {error.what}", style="red", markup=False, highlight=False, soft_wrap=True)
    console.print(error.cure, markup=False, highlight=False, soft_wrap=True)
    sys.exit(1)
except (RuntimeError, OSError, KeyError, subprocess.TimeoutExpired) as error:  # a traceback would bury what they say
    console.print(f"✗ {type(error).__name__}: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
    console.print(
        "`python -m dev.localcluster status` shows what runs, `… logs DAEMON` why one does not.", markup=False
    )
    sys.exit(1)

"""Ends with code 1, and names who is at work, if anything runs in this folder or below build/.

Usage: idle.py COMMAND, which is about to delete.
"""

import contextlib
import sys
from pathlib import Path

sys.path.insert(0, "src")
try:
    from vanishing.engines import lock
    from vanishing.errors import UserError
except ImportError:  # an environment half made, which the command may be about to remove
    sys.exit(0)

for marked in [*Path().glob(".vanishing"), *Path("build").glob("**/.vanishing")]:
    with contextlib.chdir(marked.parent):
        try:
            lock.check_idle(sys.argv[1])
        except UserError as error:
            sys.exit(f"{sys.argv[1]}: {marked.parent}: {error}")

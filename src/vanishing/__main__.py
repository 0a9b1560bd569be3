"""`python -m vanishing` is the command `vanishing`."""

import sys

from vanishing.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""The command line on a system whose shared memory all has names; `python -m` runs it."""

import os
import sys

from pattlite_dist.cli import main

if __name__ == "__main__":
    del os.memfd_create
    sys.exit(main())

"""`python -m pattlite_dist` is `pattlite`, so that `torchrun -m pattlite_dist` works."""

import sys

from pattlite_dist.cli import main

if __name__ == "__main__":
    sys.exit(main())

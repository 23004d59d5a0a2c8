#!/usr/bin/env python
"""The SLURM submission script: python launch/slurm.py -c CONFIG --profile PROFILE [KEY=VALUE ...].

The same as `pattlite submit`, and returns at once. Profiles are in launch/profiles; --dry-run
prints what would be passed to sbatch.
"""

import sys

from pattlite_dist.cli import main

if __name__ == "__main__":
    sys.exit(main(["submit", *sys.argv[1:]]))

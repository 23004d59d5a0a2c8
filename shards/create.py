#!/usr/bin/env python
"""The shard creation script: python shards/create.py SOURCE OUT [--samples-per-shard N] [--force].

The same as `pattlite shards create`. SOURCE is a fer2013.csv, plain or .xz, .gz, .zip; by habit OUT
lies beside this script, such as shards/fer2013.
"""

import sys

from pattlite_dist.cli import main

if __name__ == "__main__":
    sys.exit(main(["shards", "create", *sys.argv[1:]]))

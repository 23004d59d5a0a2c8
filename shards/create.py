#!/usr/bin/env python
"""The shard creation script: python shards/create.py SOURCE OUT [--jobs N] [--blanks drop] ...

The same as `pattlite shards create`, whose --help lists the options; `pattlite shards sources`
lists what SOURCE can be. OUT is a folder, by convention next to this script, such as
shards/fer2013, or a URL such as s3://bucket/folder. README.md in this folder specifies the format.
"""

import sys

from pattlite_dist.cli import main

if __name__ == "__main__":
    sys.exit(main(["shards", "create", *sys.argv[1:]]))

"""The tests; nothing of what they start prints what PyTorch's compiler for GPUs has to say."""

import runpy
from pathlib import Path

# Not imported: `tests.warm` must not have the package, of which each job imports its own copy.
_IMPORTS = Path(__file__).parents[1] / "pattlite_dist" / "runtime" / "imports.py"
runpy.run_path(str(_IMPORTS))["leave_out_triton"]()

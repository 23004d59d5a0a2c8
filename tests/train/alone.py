"""The command line, where one rank raises an error of its own in one place.

`PLACE` is `step`, `validation`, `save` or `setup`, `RAISES` the rank.
"""

import os
import sys
from typing import Any

from pattlite_dist.cli import main
from pattlite_dist.data.module import FERData
from pattlite_dist.train import checkpoint, module

PLACES: dict[str, tuple[Any, str]] = {
    "setup": (FERData, "plan"),
    "step": (module.FERModule, "training_step"),
    "validation": (module.FERModule, "validation_step"),
    "save": (checkpoint.AtomicCheckpointIO, "save_checkpoint"),
}
if __name__ == "__main__":
    owner, name = PLACES[os.environ["PLACE"]]
    real = getattr(owner, name)

    def raising(*args: Any, **options: Any) -> Any:
        if os.environ["RANK"] == os.environ["RAISES"]:
            raise ArithmeticError("seven is\nnot eight")
        return real(*args, **options)

    setattr(owner, name, raising)
    sys.exit(main())

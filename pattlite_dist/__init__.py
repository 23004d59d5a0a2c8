"""Distributed training for facial-expression recognition with PAtt-Lite.

The names in `__all__` are public; everything else may change in any release. They are imported when
they are first used, so that importing the package takes no time.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pattlite_dist.errors import UserError
    from pattlite_dist.predict.load import load
    from pattlite_dist.predict.model import Model
    from pattlite_dist.predict.results import Box, Face, Prediction

__version__ = "0.1.0"
__all__ = ["Box", "Face", "Model", "Prediction", "UserError", "__version__", "load"]

_HOMES = {
    "Box": "predict.results",
    "Face": "predict.results",
    "Model": "predict.model",
    "Prediction": "predict.results",
    "UserError": "errors",
    "load": "predict.load",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

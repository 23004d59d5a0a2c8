import gc
import subprocess
import sys
from pathlib import Path

import pytest

from pattlite_dist.runtime.imports import quick_imports

FOUND = any((Path(folder) / "triton").is_dir() for folder in sys.path)


def test_garbage_is_looked_for_again_whatever_became_of_the_imports() -> None:
    with pytest.raises(ImportError), quick_imports():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled()


def test_who_looks_for_none_is_left_alone() -> None:
    gc.disable()
    try:
        with quick_imports():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_what_was_imported_is_not_searched_and_what_comes_later_is() -> None:
    code = """
import gc
from pattlite_dist.runtime.imports import quick_imports
with quick_imports():
    import pydantic
assert gc.get_freeze_count() > 10_000
assert not any(value is pydantic.__dict__ for value in gc.get_objects())
class Later: pass
ring = Later(); ring.me = ring; del ring
assert gc.collect() >= 1
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("gpu", [False, True])
def test_the_compiler_for_gpus_is_imported_only_where_there_is_one(gpu: bool) -> None:
    """And there the collector may free it: else it complains on standard error."""
    code = f"""
import sys
from pattlite_dist.runtime import imports
imports._DEVICES = ({"/dev/null" if gpu else "/dev/none"!r},)
with imports.quick_imports():
    import torch._dynamo
assert (sys.modules.get("triton") is None) != ({gpu} and bool({FOUND}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")

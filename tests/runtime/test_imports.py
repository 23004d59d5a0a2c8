import gc

import pytest

from pattlite_dist.runtime.imports import quick_imports


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

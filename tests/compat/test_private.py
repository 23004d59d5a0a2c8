"""No module outside `compat` uses what another library calls private."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "pattlite_dist"
# Public despite their names: namedtuples' methods, and the exit of a forked process.
PUBLIC = {"_replace", "_asdict", "_fields", "_exit"}
# A private module or variable of a library, in a string.
TEXT = re.compile(r"\b(submitit|torch|pytorch_lightning|wandb|jsonargparse)(\.\w+)*\._\w|\bWANDB__")


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in PUBLIC


def known_names(cls: ast.ClassDef, foreign: bool) -> set[str]:
    """What a class itself defines or assigns.

    Args:
        cls: the class.
        foreign: it has a base of another library. Then only what `__init__` or the class body
            assigns counts: elsewhere, a name of the base would be set.
    """
    methods = [n for n in cls.body if isinstance(n, ast.FunctionDef)]
    skipped = [n for n in methods if foreign and n.name != "__init__"]
    assigned = {
        n.attr if isinstance(n, ast.Attribute) else n.id
        for part in cls.body
        if part not in skipped
        for n in ast.walk(part)
        if isinstance(n, ast.Attribute | ast.Name) and isinstance(n.ctx, ast.Store)
    }
    return assigned | {method.name for method in methods}


def uses(source: str, ours: set[str]) -> Iterator[str]:
    """Private names of others in a module, each with its line.

    Args:
        source: of the module.
        ours: names of classes that the package defines.
    """
    tree = ast.parse(source)
    owner: dict[ast.AST, ast.ClassDef] = {}
    for cls in (n for n in ast.walk(tree) if isinstance(n, ast.ClassDef)):
        owner.update(dict.fromkeys(ast.walk(cls), cls))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("pattlite_dist"):
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            yield from (f"{node.lineno}: import of {name}" for name in names if private(name))
        elif isinstance(node, ast.Import):
            names = [part for alias in node.names for part in alias.name.split(".")]
            yield from (f"{node.lineno}: import of {name}" for name in names if private(name))
        elif isinstance(node, ast.Attribute) and private(node.attr):
            of_self = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            cls = owner.get(node)
            if not of_self or cls is None:
                yield f"{node.lineno}: .{node.attr}"
                continue
            bases = {base.id for base in cls.bases if isinstance(base, ast.Name)}
            foreign = bool(bases - ours - {"object", "ABC", "NamedTuple", "Exception"})
            if node.attr not in known_names(cls, foreign) and not bases & ours:
                yield f"{node.lineno}: self.{node.attr}"
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr"):
            names = [n.value for n in node.args[1:2] if isinstance(n, ast.Constant)]
            yield from (f"{node.lineno}: {name}" for name in names if private(str(name)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from (f"{node.lineno}: {m[0]!r}" for m in TEXT.finditer(node.value))


def modules() -> dict[Path, str]:
    found = {path: path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}
    return {path: text for path, text in found.items() if path.parent.name != "compat"}


def test_only_compat_uses_private_names() -> None:
    texts = modules()
    ours = {
        node.name
        for text in texts.values()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ClassDef)
    }
    assert len(texts) > 100
    found = {str(path): list(uses(text, ours)) for path, text in texts.items()}
    assert not {name: names for name, names in found.items() if names}


@pytest.mark.parametrize(
    "source",
    [
        "trainer._signal_connector.register = None",
        "from submitit.slurm.slurm import _make_sbatch_string",
        "import torch._dynamo",
        "getattr(trainer, '_signal_connector', None)",
        "from torch._dynamo import config",
        "command = 'python -m submitit.core._submit'",
        "variables = {'WANDB__GRAPHQL_RETRY_MAX': '3'}",
        "class A(DataLoader):\n    def close(self):\n        self._iterator = None",
        "class A(WeightAveraging):\n    def f(self):\n        return self._average_model",
    ],
)
def test_what_is_private_is_found(source: str) -> None:
    assert list(uses(source, {"Ours"}))


@pytest.mark.parametrize(
    "source",
    [
        "row._replace(a=1)",
        "os._exit(0)",
        "class A:\n    def f(self):\n        self._a = 1\n        return self._a",
        "class A(Logger):\n    def __init__(self):\n        self._a = 1\n"
        "    def f(self):\n        return self._a",
        "class A(Ours):\n    def f(self):\n        return self._a",
    ],
)
def test_what_is_ones_own_is_not(source: str) -> None:
    assert not list(uses(source, {"Ours"}))

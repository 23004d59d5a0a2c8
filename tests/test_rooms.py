"""How the package is laid out: which rooms there are, and which of them may use which."""

import ast
import graphlib
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

import pattlite_dist

PACKAGE = Path(pattlite_dist.__file__).parent
# From the ground up: a room uses itself and what lies below it. A part's `settings` lie below the
# configuration that they are put together to, and so do not count to their part here.
ROOMS = [
    "errors", "console", "files", "logins", "location", "stores", "settings", "shipped", "compat",
    "runtime",
    "config", "shards", "data", "model", "tracking", "train", "buckets", "evaluation", "predict",
    "export", "slurm", "render", "report", "commands", "cli",
]  # fmt: skip
CONFIG = {"config", "migrate", "renamed"}
FOLDERS = {
    "buckets", "commands", "compat", "data", "evaluation", "export", "model", "predict", "render",
    "report", "runtime", "shards", "shards/sources", "slurm", "tracking", "train",
}  # fmt: skip
MODULES = {
    "__init__", "__main__", "cli", "config", "console", "errors", "files", "location", "logins",
    "migrate", "renamed", "settings", "shipped", "stores",
}  # fmt: skip
# A job is a command, a sweep reads its configuration as `train` would, and what a job runs follows
# from a verb's options: all ask the command line, from inside a function. So does who begins with
# the weights of a run ask for that, if it is in a bucket.
UPWARD = {
    ("slurm.job", "cli"), ("commands.sweep", "cli"), ("commands.forward", "cli"),
    ("train.initial", "buckets.copies"),
}  # fmt: skip


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


SOURCES = {module_name(path): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}


def statements(node: ast.AST, everywhere: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """Imports that are run: as the module is imported, or `everywhere`, inside functions too."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from (s for part in child.orelse for s in statements(part, everywhere))
        elif everywhere or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from statements(child, everywhere)


def used(source: str, everywhere: bool = False) -> set[str]:
    """Modules of the package that a module imports."""
    names: set[str] = set()
    for statement in statements(ast.parse(source), everywhere):
        if isinstance(statement, ast.Import):
            names.update(alias.name for alias in statement.names)
        else:
            assert not statement.level, "imports are absolute"
            names.update(f"{statement.module}.{alias.name}" for alias in statement.names)
            names.add(f"{statement.module}")
    inside = {name.removeprefix("pattlite_dist.") for name in names}
    return inside & SOURCES.keys()


def room(module: str) -> str:
    if module in CONFIG:
        return "config"
    first, _, rest = module.partition(".")
    return "settings" if rest == "settings" else first


def upward(everywhere: bool) -> set[tuple[str, str]]:
    """Imports, as (from, of), of a higher room."""
    return {
        (module, other)
        for module, source in SOURCES.items()
        if module != "__main__" and room(module) in ROOMS
        for other in used(source, everywhere)
        if ROOMS.index(room(other)) > ROOMS.index(room(module))
    }


def test_the_folders_are_those_of_the_plan() -> None:
    folders = {
        path.parent.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("__init__.py")
    } - {"."}
    assert folders <= FOLDERS
    assert folders >= FOLDERS - {"compat"}


def test_little_lies_outside_of_a_room() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} == MODULES


def test_every_module_is_in_a_room() -> None:
    assert {room(module) for module in SOURCES} <= {*ROOMS, "__init__", "__main__"}


def test_the_imports_are_found() -> None:
    source = (
        "import os\nfrom typing import TYPE_CHECKING\nfrom pattlite_dist.model import build\n"
        "import pattlite_dist.errors\nif TYPE_CHECKING:\n    from pattlite_dist.cli import main\n"
        "try:\n    from pattlite_dist.files import write_text\nexcept ImportError:\n    pass\n"
        "class A:\n    def b(self):\n        from pattlite_dist.train.run import train\n"
    )
    above = {"model", "model.build", "errors", "files"}
    assert used(source) == above
    assert used(source, everywhere=True) == {*above, "train.run"}


@pytest.mark.parametrize("everywhere", [False, True], ids=["top", "everywhere"])
def test_no_imports_go_in_a_circle(everywhere: bool) -> None:
    graph = {module: used(source, everywhere) for module, source in SOURCES.items()}
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError


def test_a_room_uses_only_what_lies_below_it() -> None:
    assert upward(everywhere=False) == set()
    assert upward(everywhere=True) <= UPWARD


def test_the_modules_are_short() -> None:
    lines = {module: source.count("\n") for module, source in SOURCES.items()}
    assert statistics.median(lines.values()) <= 150
    assert {module: count for module, count in lines.items() if count > 300} == {}

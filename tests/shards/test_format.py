"""shards/README.md specifies the format: the package must do what it says."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pattlite_dist.cli import main
from pattlite_dist.shards.manifest import Manifest, load_manifest
from pattlite_dist.shards.tario import read_members
from tests.conftest import ROOT

SPECIFICATION = (ROOT / "shards" / "README.md").read_text()
SCHEMA = ROOT / "shards" / "manifest.schema.json"
TYPES = {"integer": int, "string": str, "boolean": bool}


def rows(header: str) -> list[list[str]]:
    """The cells of the table with this header line."""
    table = SPECIFICATION.split(header + "\n")[1].split("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()][
        1:
    ]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def fields(schema: dict[str, Any], root: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Every field by path; unnamed parts are called `*`."""
    found: dict[str, dict[str, Any]] = {}
    for option in [schema, *schema.get("anyOf", [])]:
        at = root["$defs"][option["$ref"].split("/")[-1]] if "$ref" in option else option
        parts = dict(at.get("properties", {}))
        for inner in (at.get("additionalProperties"), at.get("items")):
            if isinstance(inner, dict):
                below = fields(inner, root)
                found |= {(k if k.startswith("*") else f"*.{k}"): v for k, v in below.items()}
        for name, part in parts.items():
            found[name] = part
            found |= {f"{name}.{k}": v for k, v in fields(part, root).items()}
    return found


def test_the_schema_file_is_what_the_model_gives() -> None:
    assert json.loads(SCHEMA.read_text()) == Manifest.model_json_schema(), (
        "write it again: json.dumps(Manifest.model_json_schema(), indent=1)"
    )


def test_the_table_of_the_manifest_has_each_field_and_no_other() -> None:
    schema = Manifest.model_json_schema()
    told = [name for row in rows("| field | type | default | what |") for name in names(row[0])]
    assert sorted({*told, "image"}) == sorted(fields(schema, schema))  # image: by its parts


def test_the_table_of_the_manifest_has_its_defaults() -> None:
    for cell, _, default, _ in rows("| field | type | default | what |"):
        for name in names(cell):
            schema = Manifest.model_json_schema()
            field = fields(schema, schema)[name]
            told = default.strip("`")
            if told and "default" in field:
                expected = field["default"]
                assert told == (expected if isinstance(expected, str) else json.dumps(expected))
            elif not told:
                assert name == "options" or "default" not in field


def test_the_table_of_a_sample_has_the_keys_and_types_that_are_written(face_shards: Path) -> None:
    told = {names(row[0])[0]: row[1:] for row in rows("| key | type | when | what |")}
    shard = load_manifest(face_shards).shards["train"][0]
    samples = read_members((face_shards / shard.name).read_bytes())
    always = {key for key, row in told.items() if row[1] in ("always", "version 2")}
    for parts in samples.values():
        facts = json.loads(bytes(parts["json"]))
        assert set(facts) == always
        for key, value in facts.items():
            assert type(value) is TYPES[told[key][0].split(",")[0]]


def test_the_example_writes_a_set_that_verify_finds_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    example, *_ = re.findall(r"^```python\n(.*?)^```", SPECIFICATION, re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "shards/README.md", "exec"), {"__name__": "example"})
    assert main(["shards", "verify", "noise", "--jobs=1"]) == 0
    assert capsys.readouterr().out == "noise: 3 shards, 60 samples, all match the manifest\n"
    damaged = json.loads((tmp_path / "noise" / "manifest.json").read_text())
    damaged["findings"]["val"]["blank_rows"] = [40]
    (tmp_path / "noise" / "manifest.json").write_text(json.dumps(damaged))
    assert main(["shards", "verify", "noise", "--jobs=1"]) == 1

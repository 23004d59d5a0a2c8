from pathlib import Path

import pytest
import yaml

from pattlite_dist.cli import main
from pattlite_dist.commands.model import layer_rows, variant_rows
from pattlite_dist.model.settings import ModelConfig

ROOT = Path(__file__).resolve().parents[2]


def config(folder: Path, **model: object) -> str:
    path = folder / "c.yaml"
    path.write_text(yaml.safe_dump({"data": {"image_size": 48}, "model": model}))
    return str(path)


def test_the_command_prints_each_variant_and_on_request_each_layer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    path = config(tmp_path, name="pattlite")
    assert main(["model", "-c", path]) == 0
    short = capsys.readouterr().out
    assert short.count("1,102,664") == 2  # patches and batch
    assert "336,812,256" in short
    assert "stem" not in short
    assert main(["model", "-c", path, "--summary", "model.attention=none"]) == 0
    long = capsys.readouterr().out
    assert long.endswith(short)
    assert "backbone.stem.conv" in long
    assert "classifier.norm" in long
    assert caplog.records == []  # printing a table of all variants does not use one


def test_a_configurations_own_size_is_a_column_too() -> None:
    header = variant_rows(ModelConfig(), 64, 7)[0]
    assert header[4:] == [f"MACs at {side} px" for side in (48, 64, 96, 224)]
    assert variant_rows(ModelConfig(), 96, 7)[0][4:] == [f"MACs at {s} px" for s in (48, 96, 224)]


def test_every_row_is_as_wide_as_its_header() -> None:
    for rows in (variant_rows(ModelConfig(), 48, 7), layer_rows(ModelConfig(), 48, 7)):
        assert {len(row) for row in rows} == {len(rows[0])}


def test_an_unknown_variant_is_the_users_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["model", "-c", config(tmp_path, name="pattlite", attention="all")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["model", "-c", config(tmp_path, name="mobilenetv2-vit", attention="batch")]) == 2
    error = capsys.readouterr().err
    assert "attention batch requires name pattlite" in error
    assert error.count("\n") == 1


def test_the_documents_tables_are_what_the_command_prints() -> None:
    text = (ROOT / "docs" / "model.md").read_text()
    for name in ("pattlite", "mobilenetv2-vit"):
        for row in variant_rows(ModelConfig(name=name), 96, 7):  # type: ignore[arg-type]
            assert f"| {' | '.join(row)} |" in text

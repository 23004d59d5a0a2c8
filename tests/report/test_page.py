"""The page without a browser: what is in it, and how large it is."""

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pattlite_dist.cli import main
from pattlite_dist.report import page
from pattlite_dist.report.html import Cell, data, table
from pattlite_dist.report.record import RunRecord, read_records, short_names
from pattlite_dist.report.several import chosen, differing
from pattlite_dist.shards.manifest import load_manifest
from tests.conftest import ROOT
from tests.report.samples import BEGIN, evaluate, started, write_lines, write_run

EVIL = '</script><script>alert("&\u2028")</script>'
SWEEP = {"version": 1, "name": "lr", "points": [
    {"name": name, "values": {"optim.lr": value, "seed": "0"}}
    for name, value in (("a", "1e-3"), ("b", "1e-2"))
]}  # fmt: skip


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Vega is left out: the browser's tests have it."""
    pytest.importorskip("altair")
    pytest.importorskip("vl_convert")
    monkeypatch.setattr(page, "script", lambda: "0")


def content(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text)
    assert found
    read: dict[str, Any] = json.loads(found[1])
    return read


def test_a_run_is_described_by_what_it_has(tmp_path: Path) -> None:
    events = [started(0, 0), {"event": "failed", "time": BEGIN + 30, "error": EVIL},
              started(31, 30)]  # fmt: skip
    run = evaluate(write_run(tmp_path / "one", events=events))
    (run / "audit.json").write_bytes(
        (ROOT / "tests" / "fixtures" / "version0" / "audit.json").read_bytes()
    )
    [record] = read_records([run])
    text = page.build([record])
    assert record.notes == []
    for section in ("Curves", "Evaluation", "Audit", "Starts", "Configuration"):
        assert f"<h2>{section}</h2>" in text
    assert EVIL not in text and "&lt;/script&gt;&lt;script&gt;alert" in text
    found = content(text)
    assert found["tables"]["restarts"][0]["columns"]["reason"] == [f"failed: {EVIL}"]
    steps = [len(part["columns"]["step"]) for part in found["tables"]["loss"]]
    assert steps == [60, 3]
    assert "://" not in text.replace("https://vega.github.io/schema/", "")


def test_a_run_that_has_hardly_begun_has_a_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "new", epochs=0)
    (run / "history.jsonl").unlink()
    text = page.build(read_records([run]))
    assert "not started" in text and "<h2>Curves</h2>" not in text


def test_what_is_damaged_is_left_out_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = evaluate(write_run(tmp_path / "one"))
    (run / "predictions.npz").write_bytes(b"damaged")
    (run / "audit.json").write_text("{}")
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 7')
    assert main(["report", str(run)]) == 0
    done = capsys.readouterr()
    text = (run / "report.html").read_text()
    for name in ("predictions.npz", "audit.json"):
        assert name in done.err and name in text
    assert "<figcaption>Confusion" in text and "<figcaption>Reliability" not in text
    assert done.out.startswith(f"{run / 'report.html'}: 1 run, ")


def test_several_runs_differ_in_what_matters(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / "sweep" / "a", optim={"lr": 1e-3}, trainer={"log_every_steps": 5}),
        write_run(tmp_path / "sweep" / "b", optim={"lr": 1e-2}, model={"width": 64}),
    ]
    records = read_records(runs)
    assert differing(records) == ["model.width", "optim.lr", "trainer.log_every_steps"]
    assert chosen(records) == ["model.width", "optim.lr"]
    assert "Settings against val" not in page.build(records)  # which of the two was it?
    (tmp_path / "sweep" / "sweep.json").write_text(json.dumps(SWEEP))
    records = read_records(runs)
    assert chosen(records) == ["optim.lr"]
    found = content(page.build(records))
    [points] = found["tables"]["setting optim.lr"]
    assert points["columns"]["setting"] == [1e-3, 1e-2]


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    assert short_names([tmp_path / "a" / "x", tmp_path / "b" / "x"]) == ["a/x", "b/x"]
    assert short_names([tmp_path / "a" / "x", tmp_path / "a" / "y"]) == ["x", "y"]


def test_without_the_extra_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "one")
    monkeypatch.setitem(__import__("sys").modules, "altair", None)
    assert main(["report", str(run)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "pip install 'pattlite_dist[report]'" in line
    assert not (run / "report.html").exists()


def test_no_text_ends_the_data_or_a_cell() -> None:
    assert "</script" not in data("data", [EVIL]).removesuffix("</script>")
    assert "<script" not in table(["a"], [[Cell(EVIL)]], EVIL)


def test_pictures_are_asked_for_of_an_evaluated_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "one")
    assert main(["report", str(run), "--images"]) == 2
    assert "pattlite evaluate" in capsys.readouterr().err


def test_the_worst_mistakes_are_pictures_if_they_are_asked_for(
    tmp_path: Path, face_shards: Path
) -> None:
    made_up = 37, load_manifest(face_shards).fingerprint()
    run = evaluate(write_run(tmp_path / "one", data={"shards": str(face_shards)}), *made_up)
    assert main(["report", str(run)]) == 0
    assert "<img" not in (run / "report.html").read_text()
    assert main(["report", str(run), "--images"]) == 0
    text = (run / "report.html").read_text()
    [record] = read_records([run])
    test = record.predictions["test"]
    wrong = int((test.guesses() != test.labels).sum())
    shown = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    assert len(shown) == min(wrong, 32) > 0
    assert f"most confident of {wrong} mistakes" in text
    assert Image.open(io.BytesIO(base64.b64decode(shown[0]))).size == (48, 48)


def test_pictures_are_of_the_shards_that_were_evaluated(
    tmp_path: Path, face_shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = evaluate(write_run(tmp_path / "one", data={"shards": str(face_shards)}))
    assert main(["report", str(run), "--images"]) == 2
    assert "are not those that were evaluated" in capsys.readouterr().err


def test_a_damaged_configuration_is_said(tmp_path: Path) -> None:
    run = write_run(tmp_path / "one")
    (run / "config.yaml").write_text("optim: [")
    [record] = read_records([run])
    assert isinstance(record, RunRecord) and len(record.notes) == 1
    assert "config.yaml" in page.build([record])
    write_lines(run / "metrics.jsonl", [{"step": "x"}, {"no": 1}])
    assert read_records([run])[0].lines == []

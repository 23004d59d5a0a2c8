from pathlib import Path

import pytest
import yaml

from pattlite_dist.config import Config
from pattlite_dist.errors import UserError
from pattlite_dist.location import with_absolute_paths
from pattlite_dist.tracking.folder import (
    as_before,
    load_config,
    prepare_folder,
    run_folder,
    same_run,
)
from pattlite_dist.tracking.record import read_metrics


def config(runs: Path, **changes: object) -> Config:
    return Config.model_validate({"name": "one", "runs": str(runs), **changes})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    made = config(tmp_path)
    prepare_folder(made, run_folder(made), None)
    return run_folder(made)


def test_a_run_lies_under_its_name(tmp_path: Path) -> None:
    assert run_folder(config(tmp_path)) == tmp_path / "one"


def test_the_configuration_of_a_folder_is_the_one_it_was_made_with(
    run: Path, tmp_path: Path
) -> None:
    assert load_config(run) == with_absolute_paths(config(tmp_path))
    assert [path.name for path in run.iterdir()] == ["config.yaml"]
    special = config(tmp_path, optim={"lr": 1e-5}, wandb={"project": "2024", "group": "1.10"},
                     augment={"mean": (0.1, 0.2, 0.3)}, trainer={"precision": "32"})  # fmt: skip
    prepare_folder(special, run, None)
    assert load_config(run) == with_absolute_paths(special)


def test_paths_are_kept_as_they_are_from_any_folder_and_addresses_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = config(Path("runs"), data={"shards": "../shards"}, model={"weights": "w/v1.pt"})
    prepare_folder(given, run_folder(given), None)
    monkeypatch.chdir("/")
    found = load_config(tmp_path / "runs" / "one")
    assert found.data.shards == str(tmp_path.parent / "shards")
    assert found.model.weights == str(tmp_path / "w" / "v1.pt")
    assert run_folder(found) == tmp_path / "runs" / "one"
    for shards, weights in (
        ("s3://b/c", "imagenet"),
        ("https://a/b", "none"),
        ("pipe:cat x", None),
    ):
        kept = config(tmp_path, data={"shards": shards}, model={"weights": weights})
        prepare_folder(kept, tmp_path / "kept", None)
        assert load_config(tmp_path / "kept") == kept


def test_the_same_run_may_continue_with_what_changes_no_step(run: Path, tmp_path: Path) -> None:
    same_run(config(tmp_path), run)
    same_run(
        config(tmp_path, trainer={"epochs": 30, "timeout_minutes": 1}, data={"workers": 3}), run
    )


def test_a_folder_without_a_run_takes_any(tmp_path: Path) -> None:
    same_run(config(tmp_path), tmp_path / "one")
    (tmp_path / "one").mkdir()
    same_run(config(tmp_path), tmp_path / "one")


def test_another_configuration_is_refused_in_one_line_with_each_difference(
    run: Path, tmp_path: Path
) -> None:
    other = config(tmp_path, seed=3, optim={"lr": 0.5})
    with pytest.raises(UserError, match=r"seed: 0 -> 3; optim\.lr: 0\.001 -> 0\.5") as caught:
        same_run(other, run)
    assert "\n" not in str(caught.value)
    assert load_config(run) == with_absolute_paths(config(tmp_path)), "asking changes nothing"


@pytest.mark.parametrize("name", ["nowhere", "file", "empty"])
def test_what_is_no_run_folder_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=f"{name} is not a run folder: it has no config.yaml"):
        load_config(tmp_path / name)


@pytest.mark.parametrize(
    "content",
    [b"", b"- a\n", b"text", b"a: b: c", b"seed: -1\n", b"sead: 1\n", b"\xff\xfe\x00", b"a: \x00",
     b"seed: !!python/name:os.getcwd\n", b"seed: 2024-13-45\n"],
)  # fmt: skip
def test_a_damaged_configuration_is_one_line_with_its_path(run: Path, content: bytes) -> None:
    (run / "config.yaml").write_bytes(content)
    for ask in (lambda: load_config(run), lambda: same_run(Config(), run)):
        with pytest.raises(UserError, match=r"config\.yaml") as caught:
            ask()
        assert "\n" not in str(caught.value)


def test_a_start_from_a_step_forgets_the_metrics_from_there_on(run: Path, tmp_path: Path) -> None:
    path = run / "metrics.jsonl"
    lines = [f'{{"step": {step}, "train/loss": 0.5}}\n' for step in range(5)]
    path.write_text("".join(lines) + '{"step": 5, "tra')
    prepare_folder(config(tmp_path), run, 3)
    assert [line["step"] for line in read_metrics(path)] == [0, 1, 2]
    assert path.read_text() == "".join(lines[:3])


def test_a_submission_forgets_none(run: Path, tmp_path: Path) -> None:
    path = run / "metrics.jsonl"
    path.write_text('{"step": 5}\n{"ste')
    prepare_folder(config(tmp_path, trainer={"epochs": 2}), run, None)
    assert path.read_text() == '{"step": 5}\n{"ste'
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["epochs"] == 2


def test_a_folder_that_cannot_be_written_is_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("a file")
    with pytest.raises(UserError, match="cannot write"):
        prepare_folder(config(tmp_path), tmp_path / "one", 0)


def test_a_run_that_left_out_its_last_batches_still_does(tmp_path: Path) -> None:
    before = config(tmp_path, data={"tail": "drop"})
    run = run_folder(before)
    prepare_folder(before, run, None)
    assert same_run(config(tmp_path), run) == before
    padded = config(tmp_path, name="padded")
    prepare_folder(padded, run_folder(padded), None)
    with pytest.raises(UserError, match=r"data\.tail: pad -> drop"):
        same_run(config(tmp_path, name="padded", data={"tail": "drop"}), run_folder(padded))


def test_a_run_that_decayed_positions_still_does(tmp_path: Path) -> None:
    before = config(tmp_path, optim={"decay_positions": True})
    prepare_folder(before, run_folder(before), None)
    now = same_run(config(tmp_path), run_folder(before))
    assert now == before
    assert as_before(config(tmp_path), now) == [
        "decays position embeddings, as before: optim.decay_positions=true"
    ]
    new = config(tmp_path, name="new")
    prepare_folder(new, run_folder(new), None)
    with pytest.raises(UserError, match=r"optim\.decay_positions: False -> True"):
        same_run(config(tmp_path, name="new", optim={"decay_positions": True}), run_folder(new))

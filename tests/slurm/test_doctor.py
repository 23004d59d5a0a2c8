import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import ArgumentParser

from pattlite_dist.cli import main
from pattlite_dist.commands import doctor as verbs
from pattlite_dist.config import Config, parse_config, to_yaml
from pattlite_dist.data.fetch import Origin, fetch_manifest
from pattlite_dist.shards.manifest import Manifest
from pattlite_dist.slurm import doctor, queue
from pattlite_dist.slurm.checks import Report
from pattlite_dist.slurm.profile import Profile
from pattlite_dist.slurm.submit import train_plan
from pattlite_dist.tracking import history
from pattlite_dist.tracking.folder import run_folder
from tests.conftest import with_labels
from tests.slurm.conftest import Cluster
from tests.train.harness import until


def profile(**values: object) -> Profile:
    wanted = {"nodes": 2, "gpus_per_node": 0, "tasks_per_node": 2, "cpus_per_task": 1, **values}
    return Profile.model_validate(wanted)


def config(shards: Path | str, runs: Path, **values: Any) -> Config:
    tree: dict[str, Any] = {
        "name": "x", "runs": str(runs), "data": {"shards": str(shards)},
        "trainer": {"global_batch": 32}, "wandb": {"mode": "disabled"},
    }  # fmt: skip
    for key, value in values.items():
        section, _, name = key.partition("__")
        tree.setdefault(section, {})[name] = value
    return parse_config(tree, "test")


def look(shards: Path | str, runs: Path, wanted: Profile | None = None, **values: Any) -> Report:
    return check(config(shards, runs, **values), wanted or profile())


def check(run: Config, wanted: Profile, **circumstances: Any) -> Report:
    return doctor.check({run_folder(run): run}, train_plan(run, wanted), **circumstances)


@pytest.fixture
def no_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without SLURM: all but the cluster is checked."""
    monkeypatch.setenv("PATH", str(tmp_path / "nothing here"))


def problems(report: Report) -> list[str]:
    """Without the one that there is no SLURM."""
    silent = [line for line in report.problems if "SLURM does not answer" in line]
    assert len(silent) == 1
    return [line for line in report.problems if line not in silent]


@pytest.mark.usefixtures("no_slurm")
def test_without_slurm_that_is_the_only_problem_and_nothing_is_left_behind(
    face_shards: Path, tmp_path: Path
) -> None:
    assert problems(look(face_shards, tmp_path / "runs")) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_slurm")
def test_every_problem_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    wanted = profile(time="2", sbatch={"ntasks": 4}, environment={"RANK": "0"}, tasks_per_node=3)
    report = check(
        config(
            tmp_path / "no", tmp_path, trainer__accelerator="gpu", wandb__mode="online",
            model__weights=str(tmp_path / "w.pt"),
        ),
        wanted, live=["12"],
    )  # fmt: skip
    found = problems(report)
    for words in (
        "already has job 12", "cannot be shared by 6 ranks", "accelerator is gpu", "has 'ntasks'",
        "sets RANK", "profile.time is 2 min", "online without a login", "no manifest.json",
        "w.pt does not exist",
    ):  # fmt: skip
        assert sum(words in line for line in found) == 1, words
    assert len(found) == 9
    assert all(len(line.splitlines()) == 1 for line in found)


@pytest.mark.usefixtures("no_slurm")
def test_shards_that_are_not_the_manifests_are_all_named(face_shards: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(face_shards, tmp_path / "shards")
    (folder / "train-000000.tar").unlink()
    with (folder / "val-000000.tar").open("ab") as stream:
        stream.write(b"x")
    found = problems(look(folder, tmp_path))
    assert len(found) == 2
    assert "train-000000.tar is missing" in found[0] and "val-000000.tar has" in found[1]
    (line,) = problems(look(folder, tmp_path, data__bad_shards="skip"))
    assert "val-000000.tar has" in line


@pytest.mark.usefixtures("no_slurm")
@pytest.mark.parametrize(
    ("shards", "words"),
    [
        ("http://127.0.0.1:9/shards", "cannot fetch http://127.0.0.1:9/shards/manifest.json"),
        ("nosuch://bucket/shards", "nosuch://bucket/shards"),
        ("pipe:cat {name}", "data.allow_pipe=true"),
    ],
)
def test_shards_at_an_address_that_gives_none_are_told(
    tmp_path: Path, shards: str, words: str
) -> None:
    begin = time.monotonic()
    (line,) = problems(look(shards, tmp_path))
    assert words in line
    assert time.monotonic() - begin < 10


@pytest.mark.usefixtures("no_slurm")
def test_a_shard_set_without_val_is_told(face_shards: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(face_shards, tmp_path / "shards")
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["shards"]["val"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (line,) = problems(look(folder, tmp_path))
    assert "has no val split" in line


@pytest.mark.usefixtures("no_slurm")
def test_shards_that_another_job_makes_are_a_note(tmp_path: Path) -> None:
    wanted = config(tmp_path / "no", tmp_path)
    report = check(wanted, profile(), shards_pending=True)
    assert problems(report) == []
    assert "another job creates them" in report.notes[0]


@pytest.mark.usefixtures("no_slurm")
def test_runs_that_cannot_be_written_are_told(face_shards: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    (line,) = problems(look(face_shards, tmp_path / "runs"))
    assert f"cannot write into {tmp_path / 'runs'}: Not a directory" in line


@pytest.mark.usefixtures("no_slurm")
def test_what_a_run_has_saved_is_measured(face_shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "x"
    (run / "checkpoints").mkdir(parents=True)
    with (run / "checkpoints" / "epoch=0001-step=00000020.ckpt").open("wb") as stream:
        stream.truncate(shutil.disk_usage(run).free)  # a hole: it takes no room
    history.append(run, "stopped", save_seconds=200.5)
    history.append(run, "finished", save_seconds=1)
    found = problems(look(face_shards, tmp_path, model__weights=str(tmp_path / "gone.pt")))
    assert len(found) == 2  # the weights are not read again
    assert "took 200.5 s" in found[0] and "4 checkpoints" in found[1]
    more = look(face_shards, tmp_path, distill__teachers=[str(tmp_path / "teacher")])
    assert any("distill.teachers: " in line and "does not exist" in line for line in problems(more))
    away = {"model__weights": "s3://b/runs/a", "distill__teachers": ["s3://b/runs/a"]}
    assert (
        problems(look(face_shards, tmp_path / "new", **away)) == []
    )  # brought where they are read


@pytest.mark.usefixtures("no_slurm")
def test_a_recipe_that_makes_no_sense_is_told_of_a_new_run_only(
    face_shards: Path, tmp_path: Path
) -> None:
    wrong = {"finetune__start_epoch": 1, "optim__warmup_epochs": 3}
    frozen, warm = problems(look(face_shards, tmp_path, **wrong))
    assert "without model.weights it is random" in frozen
    assert "is not below finetune.start_epoch 1" in warm
    (tmp_path / "x" / "checkpoints").mkdir(parents=True)
    (tmp_path / "x" / "checkpoints" / "epoch=0001-step=00000020.ckpt").touch()
    assert problems(look(face_shards, tmp_path, **wrong)) == []


@pytest.mark.usefixtures("no_slurm")
def test_shards_that_have_changed_since_a_run_was_trained_on_them_are_told(
    face_shards: Path, tmp_path: Path
) -> None:
    run = tmp_path / "x"
    (run / "checkpoints").mkdir(parents=True)
    history.append(run, "started", shards=fetch_manifest(Origin(str(face_shards))).fingerprint())
    others = with_labels(face_shards, tmp_path / "others", "sad", "gloomy")
    assert problems(look(others, tmp_path)) == []  # nothing has been trained yet
    (run / "checkpoints" / "epoch=0001-step=00000020.ckpt").touch()
    assert problems(look(face_shards, tmp_path)) == []
    (line,) = problems(look(others, tmp_path))
    assert line.startswith(f"{run} was trained on other shards than those in {others}")


@pytest.mark.usefixtures("no_slurm")
def test_a_folder_with_another_configuration_is_told(face_shards: Path, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    old = config(face_shards, tmp_path, optim__lr=0.5)
    (tmp_path / "x" / "config.yaml").write_text(to_yaml(old))
    (line,) = problems(look(face_shards, tmp_path))
    assert "optim.lr: 0.5 -> 0.001" in line
    assert problems(look(face_shards, tmp_path, optim__lr=0.5)) == []


@pytest.mark.usefixtures("no_slurm")
def test_what_the_profile_exports_counts_for_wandb(
    face_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    online = profile(environment={"WANDB_MODE": "online"})
    (line,) = problems(look(face_shards, tmp_path, online, wandb__mode="auto"))
    assert "online without a login" in line
    login = profile(environment={"WANDB_MODE": "online", "WANDB_API_KEY": "secret"})
    report = look(face_shards, tmp_path, login, wandb__mode="auto")
    assert problems(report) == [] and "secret" not in str(report)


def test_a_slurm_that_is_silent_does_not_hang(
    face_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "bin" / "sinfo"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\nexec sleep 60\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:/usr/bin:/bin")
    monkeypatch.setattr(queue, "SECONDS", 1.0)
    begin = time.monotonic()
    assert problems(look(face_shards, tmp_path)) == []
    assert time.monotonic() - begin < 10


def test_torch_is_not_imported() -> None:
    program = "import sys, pattlite_dist.slurm.doctor; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def command(
    shards: Path, folder: Path, *arguments: str, **values: object
) -> tuple[list[str], list[str]]:
    """Words of the command line, and the profile's overrides as the command line hands them on."""
    path = folder / "config.yaml"
    path.write_text(to_yaml(config(shards, folder / "runs")))
    profile_path = folder / "profile.yaml"
    profile_path.write_text(yaml.safe_dump({"gpus_per_node": 0, "cpus_per_task": 1}))
    words = ["-c", str(path), "--profile", str(profile_path), *arguments]
    return words, [f"{key}={value}" for key, value in values.items()]


def run_verb(words: list[str], overrides: list[str]) -> int:
    parser = ArgumentParser(exit_on_error=False)
    verbs.add_options(parser)
    options = parser.parse_args(words)
    options.profile_overrides = overrides
    return verbs.work(options)


@pytest.mark.usefixtures("no_slurm")
def test_the_verb_prints_every_problem_and_ends_with_3(
    face_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = command(face_shards, tmp_path, "--trainer.global_batch=7", nodes=2, time="3")
    assert run_verb(*words) == 3
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert len(lines) == 3 and all(line.startswith("pattlite: error: ") for line in lines)
    assert "global_batch 7" in lines[0] and "profile.time is 3" in lines[1]


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with a line for each time that SLURM's commands were called."""
    log = tmp_path / "asked"
    (tmp_path / "bin").mkdir()
    for name in ("sinfo", "sbatch", "srun", "squeue"):
        path = tmp_path / "bin" / name
        path.write_text(f'#!/bin/sh\necho {name} "$*" | head -n 1 >> {log}\n')
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return log


def sweep(folder: Path, monkeypatch: pytest.MonkeyPatch, base: Config, *words: str) -> int:
    """The exit status of a sweep over a configuration, in its folder."""
    monkeypatch.chdir(folder)
    (folder / "config.yaml").write_text(to_yaml(base))
    (folder / "profile.yaml").write_text(yaml.safe_dump({"gpus_per_node": 0}))
    options = ["-c", "config.yaml", "--name", "grid", "--profile", "profile.yaml"]
    return main(["sweep", *options, *words])


def test_a_sweep_checks_every_run_and_names_those_that_have_a_problem(
    face_shards: Path,
    tmp_path: Path,
    asked: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["data.targets=votes,labels", "trainer.accelerator=cpu,gpu", "trainer.keep_best=1,2"]
    assert sweep(tmp_path, monkeypatch, config(face_shards, tmp_path), *words) == 3
    lines = [line for line in capsys.readouterr().err.splitlines() if "note: " not in line]
    votes, gpu = lines
    assert "but data.targets is votes; " in votes and votes.startswith(
        "pattlite: error: targets-votes_accelerator-cpu_keep_best-1, "
        "targets-votes_accelerator-cpu_keep_best-2, targets-votes_accelerator-gpu_keep_best-1, "
        "targets-votes_accelerator-gpu_keep_best-2: "
    )
    assert "targets-labels_accelerator-gpu_keep_best-2: trainer.accelerator is gpu" in gpu
    assert [line.split()[0] for line in asked.read_text().splitlines()] == [
        "sinfo", "sbatch", "srun",
    ]  # fmt: skip
    assert not (tmp_path / "runs").exists()


def test_a_hundred_runs_ask_slurm_once_and_the_shards_once(
    face_shards: Path,
    tmp_path: Path,
    asked: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    seeds = ",".join(map(str, range(50)))
    words = [
        f"seed={seeds}", "trainer.epochs=1,2", "trainer.global_batch=1000", "data.tail=drop",
        "optim.warmup_epochs=0",
    ]  # fmt: skip
    origins: list[Origin] = []

    def fetch(origin: Origin) -> Manifest:
        origins.append(origin)
        return fetch_manifest(origin)

    monkeypatch.setattr(doctor, "fetch_manifest", fetch)
    assert sweep(tmp_path, monkeypatch, config(face_shards, tmp_path), *words) == 3
    [line] = [line for line in capsys.readouterr().err.splitlines() if "note: " not in line]
    assert line.startswith("pattlite: error: 104 training samples in ")  # true of all
    assert len(origins) == 1
    commands = [line.split()[0] for line in asked.read_text().splitlines()]
    assert commands == ["sinfo", "sbatch", "srun"]


@pytest.mark.slurm
def test_a_good_job_passes_and_the_verb_says_so(
    cluster: Cluster, face_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_verb(*command(face_shards, tmp_path, nodes=2, gpus_per_node=2)) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert said.out.splitlines()[-1] == f"{tmp_path / 'runs' / 'x'}: ready to be submitted"
    assert "would start" in said.out and "not checked" not in said.out
    assert not until(cluster.queue)  # the steps have ended, and SLURM may still clear up
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "profile.yaml"]


@pytest.mark.slurm
def test_what_the_cluster_and_the_configuration_lack_is_told_together(
    cluster: Cluster, face_shards: Path, tmp_path: Path
) -> None:
    wanted = profile(tasks_per_node=3, gpus_per_node=3, python="/no/python")
    found = look(face_shards, tmp_path, wanted).problems
    assert len(found) == 3
    assert "6 ranks" in found[0] and "SLURM refuses" in found[1] and "/no/python" in found[2]


@pytest.mark.slurm
def test_a_partition_that_does_not_exist_is_one_problem(
    cluster: Cluster, face_shards: Path, tmp_path: Path
) -> None:
    (line,) = look(face_shards, tmp_path, profile(partition="nope")).problems
    assert "invalid partition specified: nope" in line


@pytest.mark.slurm
def test_a_full_cluster_is_no_problem(cluster: Cluster, face_shards: Path, tmp_path: Path) -> None:
    cluster.wait(cluster.fill(), "RUNNING")
    begin = time.monotonic()
    report = look(face_shards, tmp_path)
    assert time.monotonic() - begin < 30
    assert report.problems == []
    assert any("no node was free in 5 s" in note for note in report.notes)


@pytest.mark.slurm
def test_a_snapshots_package_is_found_on_the_node(
    cluster: Cluster, face_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    wanted = config(face_shards, tmp_path)
    report = check(wanted, profile(), snapshot=True)
    assert report.problems == []

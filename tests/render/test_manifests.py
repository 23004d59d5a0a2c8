"""Manifests as whole texts, valid for Kubernetes; `REGENERATE=1` writes them anew, for a look."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from textwrap import indent
from typing import Any

import pytest
import yaml

from pattlite_dist.cli import main
from pattlite_dist.config import Config, flat, parse_config, to_tree
from pattlite_dist.errors import UserError
from pattlite_dist.render import kubernetes, skypilot
from pattlite_dist.render.kubernetes import Access
from pattlite_dist.render.work import Work, check
from pattlite_dist.slurm.profile import Profile
from pattlite_dist.train.settings import TrainerConfig
from tests.conftest import TINY

GOLDEN = Path(__file__).with_name("golden")
PROFILE = """\
nodes: 2
gpus_per_node: 4
cpus_per_task: 6
memory_gb: 96.5
signal_seconds: 90
max_requeues: 7
partition: gpu
environment: {NCCL_DEBUG: WARN, PRICE: $(HOME) $5}
"""
COMMON = [
    "-c",
    str(TINY),
    "--image",
    "registry.example.org/faces:1",
    "--data.shards=s3://faces/set",
]
BUCKET = ["--runs", "s3://faces/runs", "--wandb.mode=online"]
CASES = {
    "job": ["kubernetes", *BUCKET],
    "one-cpu-volume": [
        "kubernetes", "--runs=/data/runs", "--volume=disk", "--secret=keys", "profile.nodes=1",
        "profile.gpus_per_node=0", "profile.memory_gb=null",
    ],
    "trainjob": ["kubernetes", "--kind=trainjob", *BUCKET],
    "skypilot": ["skypilot", "--gpu=A100", *BUCKET],
    "skypilot-cpu": ["skypilot", "--spot=false", "profile.gpus_per_node=0", *BUCKET],
}  # fmt: skip


@pytest.fixture
def profile(tmp_path: Path) -> list[str]:
    path = tmp_path / "profile.yaml"
    path.write_text(PROFILE)
    return ["--profile", str(path)]


def rendered(
    words: list[str], profile: list[str], capsys: pytest.CaptureFixture[str]
) -> tuple[str, str]:
    status = main(["render", *words[:1], *COMMON, *profile, *words[1:]])
    out, err = capsys.readouterr()
    assert status == 0, err
    return out, err


def split(name: str, out: str) -> tuple[str, Config]:
    """A manifest without its configuration, which has its own tests; and that, as it is read."""
    first = next(yaml.safe_load_all(out))
    if "run" in first:
        begin, end = "<<'CONFIGURATION'\n", "CONFIGURATION\nexec"
        text, depth = first["run"].partition(begin)[2].partition(end)[0], "  "
    else:
        text, depth = first["data"]["config.yaml"], "    "
    written = indent(text, depth)
    assert text.startswith("version: ") and out.count(written) == 1, name
    tree = yaml.safe_load(text)
    del tree["version"]
    return out.replace(written, f"{depth}(the configuration)\n"), parse_config(tree, name)


@pytest.mark.parametrize("name", CASES)
def test_a_manifest_is_as_it_was_and_has_the_whole_configuration(
    name: str, profile: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out, err = rendered(CASES[name], profile, capsys)
    text, config = split(name, out)
    runs = "/data/runs" if "volume" in name else "s3://faces/runs"
    changed = {key: value for key, value in flat(to_tree(config)).items()
               if value != flat(to_tree(Config())).get(key)}  # fmt: skip
    assert changed == {
        "data.shards": "s3://faces/set", "runs": runs,
        **({"wandb.mode": "online"} if "volume" not in name else {}),
        **({"trainer.spot_notice": "auto"} if name == "skypilot" else {}),
    }  # fmt: skip
    target = "SkyPilot" if "skypilot" in CASES[name] else "Kubernetes"
    assert err == f"pattlite: {target} has no use for these keys of the profile: partition\n"
    path = GOLDEN / f"{name}.yaml"
    if os.environ.get("REGENERATE"):
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("name", ["job", "one-cpu-volume", "trainjob"])
def test_kubernetes_knows_each_field(name: str) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    documents = list(yaml.safe_load_all((GOLDEN / f"{name}.yaml").read_text()))
    if name == "trainjob":  # of a runtime, the Job in it is Kubernetes's own
        config, runtime, _ = documents
        [inner] = runtime["spec"]["template"]["spec"]["replicatedJobs"]
        documents = [config, {"apiVersion": "batch/v1", "kind": "Job", **inner["template"]}]
    for document in documents:
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


def work(runs: str = "s3://faces/runs", batch: int = 64, **profile: Any) -> Work:
    config = Config(runs=runs, trainer=TrainerConfig(global_batch=batch))
    return Work(config, Profile(**profile), "image")


@pytest.mark.parametrize(
    ("render", "message"),
    [
        (lambda: check(work(nodes="1-4"), "Kubernetes"), "nodes is 1-4, but Kubernetes starts a"),
        (lambda: check(work(nodes="1-4"), "SkyPilot"), "nodes is 1-4, but SkyPilot starts a fixed"),
        (lambda: check(work(batch=9, nodes=2), "SkyPilot"), "global_batch"),
        (lambda: kubernetes.job(work("runs"), Access()), "is a folder, which is lost with its pod"),
        (lambda: skypilot.task(work("runs"), "A100", True), "is a folder, which is lost with its"),
        (lambda: kubernetes.job(work(), Access(volume="disk")), "--volume disk is for runs in a"),
        (lambda: skypilot.task(work(), None, True), "SkyPilot asks for which GPUs; give --gpu"),
        (lambda: skypilot.task(work(gpus_per_node=0), "A100", True), "--gpu A100 is given, but"),
    ],
)
def test_what_a_target_cannot_do_is_refused(render: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        render()


def test_a_secret_is_refused_in_one_line_that_does_not_show_it(
    profile: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    more = "profile.environment={WANDB_API_KEY: x1}"
    assert main(["render", "kubernetes", *COMMON, *BUCKET, *profile, more]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "has WANDB_API_KEY, and a manifest is no place for secrets; remove it from" in err
    assert "x1" not in err


def test_what_is_read_from_a_path_must_be_in_the_image_or_on_the_volume(
    profile: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["kubernetes", "--runs=/data/runs", "--volume=disk", "--model.weights=/data/runs/a"]
    _, err = rendered([*words, "--data.shards=/sets/faces"], profile, capsys)
    assert "data.shards=/sets/faces is a path: the image must have it" in err
    assert "model.weights" not in err


@pytest.mark.parametrize("name", ["fer2013", "Fer_2013", "fer.2013", "a" * 100, "a" * 101])
def test_each_run_has_a_name_of_its_own_that_dns_takes(name: str) -> None:
    made = Work(Config(name=name), Profile(), "image").name
    assert re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", made) and len(made) <= 50
    assert (made == f"pattlite-{name}") is (name == "fer2013")
    others = ["fer-2013", "a" * 102]
    assert made not in [Work(Config(name=one), Profile(), "image").name for one in others]


def test_a_configuration_cannot_end_the_script_that_has_it() -> None:
    text = "a: |\n  x\nCONFIGURATION\nCONFIGURATION_\n"
    script = skypilot._script(text)
    body = re.search(r"<<'(\w+)'\n(.*)^\1\n", script, re.S | re.M)
    assert body is not None and body[2] == text

import pytest

from pattlite_dist.slurm import extras
from pattlite_dist.slurm.profile import Profile


@pytest.mark.parametrize(
    ("name", "value", "instead"),
    [
        ("ntasks", 4, "profile.gpus_per_node"),
        ("ntasks-per-node", 4, "profile.gpus_per_node"),
        ("ntasks_per_node", 4, "profile.gpus_per_node"),
        ("n", 4, "profile.gpus_per_node"),
        ("gpus", 4, "one number"),
        ("gpus-per-task", 1, "one number"),
        ("gres", "gpu:a100:4", "one number"),
        ("nodes", 2, "profile.nodes"),
        ("--nodes", 2, "profile.nodes"),
        ("N", 2, "profile.nodes"),
        ("cpus-per-task", 2, "profile.cpus_per_task"),
        ("mem", "4G", "profile.memory_gb"),
        ("mem-per-cpu", "4G", "profile.memory_gb"),
        ("signal", "B:USR1@60", "profile.signal_seconds"),
        ("requeue", True, "profile.max_requeues"),
        ("no-requeue", True, "profile.max_requeues"),
        ("time", "1:00", "profile.time"),
        ("chdir", "/tmp", "run folder"),
        ("output", "x.log", "run folder"),
        ("open-mode", "truncate", "run folder"),
        ("array", "0-3", "submits"),
        ("wait", True, "submits"),
        ("partition", "x", "profile.partition"),
        ("exclusive", False, "does not accept"),
    ],
)
def test_an_option_of_sbatch_that_contradicts_the_profile_is_told(
    name: str, value: str | int | bool, instead: str
) -> None:
    (line,) = extras.options({name: value}, [], memory_gb=8)
    assert line.startswith("profile.sbatch has ") and instead in line and "remove it" in line


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["--ntasks=4"], "ntasks"),
        (["--ntasks", "4"], "ntasks"),
        (["-n4"], "ntasks"),
        (["-n", "4"], "ntasks"),
        (["--mpi=pmix", "-N", "2"], "nodes"),
        (["--gres", "gpu:2"], "gres"),
        (["--kill-on-bad-exit=0"], "kill-on-bad-exit"),
        (["-K0"], "kill-on-bad-exit"),
        (["--output=x"], "output"),
    ],
)
def test_an_option_of_srun_that_contradicts_the_profile_is_told(
    words: list[str], name: str
) -> None:
    (line,) = extras.options({}, words)
    assert line.startswith(f"profile.srun has {name!r}")


def test_what_a_site_may_want_is_let_through() -> None:
    sbatch = {
        "gres": "nvme:1", "mem-per-cpu": "4G", "reservation": "x", "exclusive": True,
        "mail-type": "END", "licenses": "a:1", "nice": 10,
    }  # fmt: skip
    srun = ["--mpi=pmix", "--cpu-bind=cores", "--container-image", "x.sqsh", "--gres", "nvme:1"]
    assert extras.options(sbatch, srun) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("1X", "not a variable name"),
        ("A B", "not a variable name"),
        ("", "not a variable name"),
        ("WORLD_SIZE", "SLURM sets itself"),
        ("SLURM_NTASKS", "SLURM sets itself"),
        ("CUDA_VISIBLE_DEVICES", "SLURM sets itself"),
        ("TORCHELASTIC_RUN_ID", "SLURM sets itself"),
    ],
)
def test_a_variable_that_cannot_be_set_or_is_the_launchers_is_told(name: str, words: str) -> None:
    (line,) = extras.environment({name: "1"})
    assert words in line and line.startswith("profile.environment")


def test_other_variables_are_let_through() -> None:
    names = ("NCCL_DEBUG", "SLURM_CPU_BIND", "_x1", "WANDB_MODE", "OMP_NUM_THREADS")
    assert extras.environment(dict.fromkeys(names, "1")) == []


def test_a_key_in_the_profile_is_told_and_one_in_the_setup_is_a_problem() -> None:
    held = Profile(environment={"WANDB_API_KEY": "1", "NCCL_DEBUG": "INFO"})
    problems, (note,) = extras.secrets(held, known=False)
    assert problems == []
    assert "profile.environment holds WANDB_API_KEY" in note
    assert "wandb login" in note
    for line in ("export HF_TOKEN=abc", "HF_TOKEN='a b' true", "cd /x; export HF_TOKEN=a"):
        (problem,), _ = extras.secrets(Profile(setup=[line]), known=False)
        assert "profile.setup sets HF_TOKEN" in problem
    fine = ["export HF_TOKEN=$(cat ~/token)", 'export HF_TOKEN="$MINE"', "export OMP_NUM_THREADS=1"]
    assert extras.secrets(Profile(setup=fine), known=False) == ([], [])


@pytest.mark.parametrize(
    ("export", "fine"),
    [(None, True), ("ALL", True), ("all,A=1", True), ("NONE", False), ("HF_TOKEN,HOME", False),
     ("HF_TOKEN,PATTLITE_SHARDS", True)],
)  # fmt: skip
def test_what_a_job_needs_of_the_environment_must_reach_it(export: str | None, fine: bool) -> None:
    sbatch = {} if export is None else {"export": export}
    profile = Profile(environment={"HF_TOKEN": "1"}, sbatch=sbatch)
    problems, _ = extras.secrets(profile, known=True)
    assert problems == [] if fine else "keeps" in problems[0]
    nothing = Profile(sbatch=sbatch)
    assert extras.secrets(nothing, known=False) == ([], [])

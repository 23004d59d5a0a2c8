import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from submitit.slurm.slurm import SlurmExecutor

from pattlite_dist.errors import UserError
from pattlite_dist.slurm.profile import Profile
from pattlite_dist.slurm.script import (
    first_lines,
    interpreter,
    parameters,
    script_text,
    setup_lines,
)
from pattlite_dist.slurm.submit import Plan
from tests.conftest import ROOT

GOLDEN = Path(__file__).with_name("golden")
PYTHON = "/opt/python/bin/python3"
HOME = Path("/home/ada/pattlite")
JOBS = HOME / "runs" / "my demo" / "slurm"

ONE_GPU = Profile(python=PYTHON, memory_gb=32, time="12:00:00")
EVERYTHING = Profile(
    partition="gpu",
    account="faces",
    qos="high",
    constraint="a100|h100",
    exclude="n[7-9],n12",
    nodes=2,
    gpus_per_node=4,
    cpus_per_task=8,
    memory_gb=127.5,
    time="1-12",
    signal_seconds=300,
    max_requeues=7,
    requeue_command="ssh login scontrol requeue {job}",
    modules=["cuda/12.4", "gcc/13 (new)"],
    environment={
        "PLAIN": "1",
        "SPACES": "two words",
        "QUOTES": 'it\'s "so"',
        "DOLLAR": "$HOME `id` \\n; exit",
        "OMP_NUM_THREADS": "4",
        "EMPTY": "",
    },
    setup=["ulimit -n 65536", 'echo "on $(hostname)"'],
    container="apptainer exec --nv 'my image.sif'",
    python="/opt/my python/bin/python3",
    srun=["--mpi=none", "--label", "--comment=two words"],
    sbatch={
        "mail-user": "ada@example.org",
        "mail_type": "END,FAIL",
        "exclusive": True,
        "requeue": False,
        "nice": "100",
        "comment": "a 'quoted' one",
    },
    array_parallelism=4,
)

# Name of the golden file: profile, name of the job, further arguments, size of the array.
Case = tuple[Profile, str, dict[str, Any], int | None]
COPY = HOME / "runs" / "big" / "code-0123"
CASES: dict[str, Case] = {
    "one-gpu": (ONE_GPU, "pattlite-base", {}, None),
    "two-nodes": (EVERYTHING, "pattlite-big run", {"code": COPY, "after": "41_2"}, None),
    "range": (ONE_GPU.model_copy(update={"nodes": "1-4"}), "pattlite-base", {}, None),
    "array": (ONE_GPU.model_copy(update={"array_parallelism": 2}), "pattlite-grid", {}, 6),
    "one-task": (
        Profile(python=PYTHON, nodes=2, gpus_per_node=4, cpus_per_task=2), "pattlite-shards",
        {"tasks": 1}, None,
    ),
}  # fmt: skip


def given_to_submitit(case: Case) -> dict[str, Any]:
    profile, name, further, _ = case
    return parameters(profile, name, further.get("code", HOME), **further, jobs=JOBS)


def text(case: Case) -> str:
    return script_text(given_to_submitit(case), interpreter(case[0]), JOBS, case[3])


def options(text: str, kind: str = "#SBATCH") -> dict[str, str]:
    """The options of a script, as SLURM reads them."""
    found = {}
    for line in text.splitlines():
        if line.startswith(kind):
            [word] = shlex.split(line.removeprefix(kind))
            name, _, value = word.partition("=")
            assert name not in found, "given twice"
            found[name] = value
    return found


def lint(script: str) -> str:
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    return done.stderr


@pytest.mark.parametrize("name", CASES)
def test_the_script_is_word_for_word(name: str) -> None:
    assert text(CASES[name]) == (GOLDEN / f"{name}.sh").read_text()


def test_each_golden_file_has_its_case_and_holds_nothing_of_this_machine() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == set(CASES)
    for path in GOLDEN.iterdir():
        for word in (str(ROOT), sys.executable):
            assert word not in path.read_text()


@pytest.mark.parametrize("name", CASES)
def test_bash_accepts_the_script(name: str) -> None:
    assert lint(text(CASES[name])) == ""


@pytest.mark.parametrize("name", CASES)
def test_the_script_is_what_submitit_hands_over(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that what `--dry-run` prints is no guess."""
    (tmp_path / "srun").write_text("#!/bin/sh\n")
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))  # submitit looks for it
    profile, _, _, array = CASES[name]
    given, folder = given_to_submitit(CASES[name]), tmp_path / "jobs here"
    executor = SlurmExecutor(folder, python=interpreter(profile))
    executor.update_parameters(**given)
    if array:
        executor.parameters["map_count"] = array
    expected = executor._make_submission_file_text(executor._submitit_command_str, "")
    assert script_text(given, interpreter(profile), folder, array) == expected


def run_setup(profile: Profile, names: list[str], code: Path | None = None) -> list[str]:
    """The values of variables after the lines before srun have run."""
    probe = " ".join(f'"${name}"' for name in names)
    lines = [*setup_lines(profile, code), f"printf '%s\\0' {probe}"]
    done = subprocess.run(
        ["bash", "-ec", "\n".join(lines)],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": "/site"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split("\0")[:-1]


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20))
def test_variables_reach_the_job_as_they_are_in_the_profile(value: str) -> None:
    line = setup_lines(Profile(environment={"X": value}))[-1]
    assert shlex.split(line) == ["export", f"X={value}"]


def test_bash_sets_the_variables_that_the_profile_names() -> None:
    variables = EVERYTHING.environment
    profile = EVERYTHING.model_copy(update={"modules": [], "setup": []})
    assert run_setup(profile, list(variables)) == list(variables.values())
    assert run_setup(Profile(cpus_per_task=5), ["OMP_NUM_THREADS"]) == ["5"]


def test_modules_come_first_and_the_profiles_own_lines_last() -> None:
    lines = setup_lines(EVERYTHING, Path("/code"))
    assert lines[:2] == ["module load cuda/12.4", "module load 'gcc/13 (new)'"]
    assert lines[-2:] == EVERYTHING.setup
    assert lines[-3].startswith("export PYTHONPATH=")


def test_copied_code_is_found_before_what_is_installed() -> None:
    code = Path("/runs/my run/code-0123")
    assert run_setup(Profile(), ["PYTHONPATH"], code) == [f"{code}:/site"]
    assert run_setup(Profile(), ["PYTHONPATH"]) == ["/site"]


def test_a_job_starts_in_the_copied_code_or_else_where_it_was_submitted() -> None:
    """Python puts the folder that it starts in before PYTHONPATH."""
    plan, code = Plan("x", HOME / "slurm", Profile()), Path("/runs/my run/code-0123")
    assert options(plan.text(code))["--chdir"] == str(code)
    assert f"\nexport PYTHONPATH='{code}'" in plan.text(code)
    assert options(plan.text())["--chdir"] == str(Path.cwd())
    assert "PYTHONPATH" not in plan.text()


def end_of_script(tmp_path: Path, srun: str, send: str = "") -> tuple[int, list[str]]:
    """The status of a script whose srun and Python are these, and how Python was called."""
    log = tmp_path / "calls"
    python = tmp_path / "my python"
    python.write_text(f'#!/bin/sh\necho "$*" >> "{log}"\nkill -TERM $PPID\nexit 7\n')
    python.chmod(0o755)
    lines = first_lines(Profile(python=str(python)), tmp_path / "jobs here")
    done = subprocess.run(
        ["bash", "-c", "\n".join([*lines, send, srun])], capture_output=True, text=True,
        check=False, env={"PATH": "/usr/bin:/bin", "SLURM_JOB_NODELIST": "n[1-2]"},
    )  # fmt: skip
    assert done.stdout.startswith("pattlite: begins on n[1-2]\n")
    assert done.stderr == ""
    return done.returncode, log.read_text().splitlines() if log.exists() else []


def test_a_script_asks_at_its_end_what_a_failure_means_and_no_signal_ends_it_before(
    tmp_path: Path,
) -> None:
    asked = f"-m pattlite_dist.slurm.aftermath {tmp_path}/jobs here 137"
    assert end_of_script(tmp_path, "(exit 137)", "kill -TERM $$; kill -USR2 $$") == (7, [asked])


def test_a_script_that_ends_well_asks_nothing(tmp_path: Path) -> None:
    assert end_of_script(tmp_path, "true", "kill -USR1 $$") == (0, [])


def test_one_task_has_one_node_and_no_gpu() -> None:
    profile = Profile(nodes=4, gpus_per_node=8)
    few = options(script_text(parameters(profile, "x", HOME, tasks=1), PYTHON, HOME))
    many = options(script_text(parameters(profile, "x", HOME), PYTHON, HOME))
    assert (few["--nodes"], few["--ntasks-per-node"]) == ("1", "1")
    assert "--gpus-per-node" not in few
    assert (many["--nodes"], many["--ntasks-per-node"]) == ("4", "8")
    assert many["--gpus-per-node"] == "8"


def test_without_gpus_the_ranks_are_those_of_the_profile_and_no_gpu_is_asked_for() -> None:
    profile = Profile(gpus_per_node=0, tasks_per_node=3)
    asked = options(script_text(parameters(profile, "x", HOME), PYTHON, HOME))
    assert asked["--ntasks-per-node"] == "3"
    assert "--gpus-per-node" not in asked


@pytest.mark.parametrize(
    ("gigabytes", "asked"),
    [(None, None), (1, "1024MB"), (0.5, "512MB"), (1.9999, "2048MB"), (1e-6, "1MB")],
)
def test_memory_is_asked_for_in_megabytes_and_never_0_which_means_all(
    gigabytes: float | None, asked: str | None
) -> None:
    given = parameters(Profile(memory_gb=gigabytes), "x", HOME)
    assert options(script_text(given, PYTHON, HOME)).get("--mem") == asked


def test_further_options_win_true_is_a_switch_and_false_leaves_one_out() -> None:
    profile = Profile(sbatch={"requeue": False, "chdir": "/else", "exclusive": True, "nice": 3})
    asked = options(script_text(parameters(profile, "x", HOME), PYTHON, HOME))
    assert "--requeue" not in asked
    assert (asked["--chdir"], asked["--exclusive"], asked["--nice"]) == ("/else", "", "3")


def test_a_rank_that_dies_ends_the_others_and_logs_are_appended_to() -> None:
    script = text(CASES["one-gpu"])
    [srun] = [line for line in script.splitlines() if line.startswith("srun ")]
    assert "--kill-on-bad-exit=1" in shlex.split(srun)
    assert "--cpus-per-task=8" in shlex.split(srun)
    asked = options(script)
    assert asked["--open-mode"] == "append"
    assert asked["--signal"] == "USR2@120"
    assert "--wckey" not in asked
    assert "--requeue" in asked


def test_the_interpreter_is_the_one_that_submits_unless_the_profile_names_another() -> None:
    assert shlex.split(interpreter(Profile())) == [sys.executable]
    assert shlex.split(interpreter(EVERYTHING)) == [
        "apptainer", "exec", "--nv", "my image.sif", "/opt/my python/bin/python3",
    ]  # fmt: skip


words = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]))


@given(
    name=words,
    profile=st.builds(
        Profile,
        partition=st.none() | words,
        modules=st.lists(words, max_size=2),
        environment=st.dictionaries(st.just("X"), words),
        srun=st.lists(words, max_size=2),
        sbatch=st.dictionaries(st.just("comment"), words | st.booleans()),
        python=words.filter(bool),
    ),
    folder=words,
    array=st.none() | st.integers(1, 1000),
)
def test_no_word_of_a_profile_breaks_the_script(
    name: str, profile: Profile, folder: str, array: int | None
) -> None:
    script = script_text(
        parameters(profile, name, Path("/", folder.replace("%", ""))),
        interpreter(profile),
        Path("/jobs"),
        array,
    )
    asked = options(script)
    assert asked["--job-name"] == name
    assert asked.get("--partition") == profile.partition
    last = script.splitlines()[-1]
    assert shlex.split(last)[-5:] == [profile.python, "-u", "-m", "submitit.core._submit", "/jobs"]


@given(st.text())
def test_a_job_may_be_called_after_anything(name: str) -> None:
    named, plain = (
        script_text(parameters(Profile(), text, HOME), PYTHON, HOME).split("\n")
        for text in (name, "x")
    )
    [line] = set(named) - set(plain) or {"#SBATCH --job-name=x"}
    assert len(named) == len(plain)
    assert line.startswith("#SBATCH --job-name=")
    line.encode()


@pytest.mark.parametrize("folder", ["a\nb", "a\rb"])
def test_a_line_break_in_a_path_or_a_word_is_refused(folder: str) -> None:
    for refused in (
        lambda: Plan("x", Path("/", folder), Profile()).text(),
        lambda: parameters(Profile(), "x", Path("/", folder)),
        lambda: parameters(Profile(partition=folder), "x", HOME),
        lambda: parameters(Profile(sbatch={"comment": folder}), "x", HOME),
        lambda: parameters(Profile(), "x", HOME, after=folder),
    ):
        with pytest.raises(UserError, match="has a line break, which sbatch cannot read"):
            refused()


def test_a_key_or_password_of_the_profile_is_not_in_the_script() -> None:
    profile = Profile(environment={"WANDB_API_KEY": "5ecret", "SHOWN": "1"})
    script = Plan("x", HOME / "slurm", profile).text()
    assert "5ecret" not in script
    assert "WANDB_API_KEY" not in script
    assert "export SHOWN=1" in script


@pytest.mark.parametrize("name", ["50%users", "%j", "a\\b"])
def test_a_folder_of_logs_that_sbatch_would_rename_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"folder of logs .* has a % or a backslash"):
        Plan("x", HOME / name / "slurm", Profile())

"""Python on a node: whether it starts there, what it has, and which folders it sees."""

import contextlib
import json
import os
import platform
import shlex
import subprocess
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from pattlite_dist import __version__
from pattlite_dist.slurm import script
from pattlite_dist.slurm.admission import essence
from pattlite_dist.slurm.checks import Report
from pattlite_dist.slurm.profile import Profile

PACKAGES = ("torch", "pytorch_lightning", "submitit")
_ANSWER_SECONDS = 60.0  # a cold file system reads slowly
_BEGIN, _FAILED, _FACTS = "pattlite-node ", "pattlite-failed ", "pattlite-facts "
# For any Python 3, so that one too old can say so; torch is looked up and not imported.
_PROGRAM = f"""
import importlib.util, json, os, sys
versions = dict()
try:
    from importlib import metadata
    for name in {PACKAGES}:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "unknown" if importlib.util.find_spec(name) else None
    try:
        from pattlite_dist import __version__
    except ImportError:
        __version__ = None
    versions["pattlite_dist"] = __version__
except ImportError:
    pass
missing = [path for path in sys.argv[1:] if not os.path.exists(path)]
python = "%d.%d.%d" % sys.version_info[:3]
print("\\n{_FACTS}" + json.dumps(dict(python=python, versions=versions, missing=missing)))
"""


class Answer(NamedTuple):
    """What came back from a node.

    Attributes:
        node: its name; None where no command ran on any.
        failed: shell lines of the set-up that failed, with their status.
        facts: of the program; None where Python did not start.
    """

    node: str | None
    failed: list[str]
    facts: dict[str, Any] | None


def parse_answer(text: str) -> Answer:
    """Read what a node printed; containers and modules may have printed as well."""
    node, failed, facts = None, [], None
    for line in text.splitlines():
        if line.startswith(_BEGIN):
            node = line.removeprefix(_BEGIN).strip()
        elif line.startswith(_FAILED):
            status, _, command = line.removeprefix(_FAILED).partition(" ")
            failed.append(f"`{command.strip()}` (exit status {status})")
        elif line.startswith(_FACTS):
            with contextlib.suppress(ValueError):  # cut off
                facts = json.loads(line.removeprefix(_FACTS))
    return Answer(node, failed, facts)


def judge(answer: Answer, status: int, stderr: str, waited: int, extras: bool) -> Report:
    """What an answer without facts means; the failures of the set-up in any case.

    Args:
        answer: of the node.
        status: of srun.
        stderr: of srun and of what it ran.
        waited: seconds that a free node was waited for.
        extras: whether the profile adds options for srun.
    """
    report = Report()
    said = essence(stderr) or f"exit status {status}"
    if answer.node is None:
        if "busy" in said or "mmediate execution" in said:
            said = f"no node was free in {waited} s"
        elif extras and "allocat" not in stderr:  # it did not get as far as asking for a node
            return Report([f"srun rejects profile.srun: {said}; fix it"])
        return Report(notes=[f"Python on a node: not checked, {said}"])
    for line in answer.failed:
        report.problems.append(f"{line} fails on {answer.node}; fix profile.modules or setup")
    if answer.facts is None:
        report.problems.append(
            f"Python does not start on {answer.node}: {said}; fix profile.python, container, "
            "modules or setup"
        )
    return report


def compare(node: str, facts: Mapping[str, Any], here: Mapping[str, str], gpus: int) -> Report:
    """Whether what is on a node matches what submits.

    Args:
        node: name.
        facts: `python`, `versions` and `missing` paths, as reported by the node.
        here: versions of Python and the packages in this process.
        gpus: of a node that the job asks for.
    """
    report = Report()
    python = str(facts["python"])
    if tuple(map(int, python.split(".")[:2])) < (3, 10):
        report.problems.append(
            f"Python on {node} is {python}, 3.10 or later is required; fix profile.python, "
            "container or modules"
        )
        return report
    differ = [] if python == here["python"] else [f"Python {python} (here {here['python']})"]
    for name, version in facts["versions"].items():
        if version is None:
            report.problems.append(
                f"{name} is not installed on {node} for that Python; install it there, or fix "
                "profile.python, container or modules"
            )
        elif name in ("pattlite_dist", "submitit") and version != here[name]:
            report.problems.append(
                f"{name} is {version} on {node} and {here[name]} here, where the job that "
                "it must read is written; install the same version"
            )
        elif version != here[name]:
            differ.append(f"{name} {version} (here {here[name]})")
    if gpus and str(facts["versions"].get("torch")).endswith("+cpu"):
        report.problems.append(
            f"torch on {node} is built without CUDA ({facts['versions']['torch']}), but "
            f"profile.gpus_per_node is {gpus}; install a build with CUDA, or set it to 0"
        )
    if differ:
        report.notes.append(f"{node} has {', '.join(differ)}")
    for path in facts["missing"]:
        report.problems.append(
            f"{path} does not exist on {node}: a job sees only file systems that the nodes share "
            "(and a container only what is bound); move it to one"
        )
    return report


def versions() -> dict[str, str]:
    """Of Python and the packages that matter, in this process."""
    here = {"python": platform.python_version(), "pattlite_dist": __version__}
    return {**here, **{name: metadata.version(name) for name in PACKAGES}}


def srun_command(
    profile: Profile, paths: Iterable[Path], immediate: int, code: Path | None = None
) -> list[str]:
    """A step of one task that starts the job's Python as the job does, set-up included.

    Args:
        profile: of the cluster.
        paths: that must exist.
        immediate: seconds to wait for a free node.
        code: folder of the package that the job will use, if not the installed one.
    """
    python = f"{script.interpreter(profile)} -c {shlex.quote(_PROGRAM)}"
    shell = [
        f'echo "{_BEGIN}${{SLURMD_NODENAME:-$HOSTNAME}}"',
        # The job's script continues after a line that fails, and so does this.
        f"trap 'echo \"{_FAILED}$? $BASH_COMMAND\"' ERR",
        *script.setup_lines(profile, code),
        "trap - ERR",
        f"{python} {shlex.join(map(str, paths))}",
    ]
    return step(profile, immediate, 1, shell)


def step(profile: Profile, immediate: int, nodes: int, shell: Iterable[str]) -> list[str]:
    """A step of one task a node, in an allocation of its own that is as the job's.

    Args:
        profile: of the cluster.
        immediate: seconds to wait for free nodes.
        nodes: number of them.
        shell: lines that each task runs.
    """
    wanted = {name: getattr(profile, name) for name in ("partition", "account", "qos")}
    wanted |= {"constraint": profile.constraint, "exclude": profile.exclude}
    wanted |= {name: profile.sbatch.get(name) for name in ("reservation", "clusters", "wckey")}
    return [
        "srun", f"--immediate={immediate}", "--job-name=pattlite-doctor", f"--nodes={nodes}",
        f"--ntasks={nodes}", "--cpus-per-task=1", "--mem=1G", "--time=2", f"--chdir={Path.cwd()}",
        *(f"--{name}={value}" for name, value in wanted.items() if value is not None),
        *profile.srun, "bash", "-c", "\n".join(shell),
    ]  # fmt: skip


def srun_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Environment for a separate allocation, in which sbatch's defaults apply as well."""
    # Inside a job, srun would only start a step of it.
    inside = "SLURM_JOB_ID" in env
    kept = {
        name: value
        for name, value in env.items()
        if name == "SLURM_CONF" or not (inside and name.startswith("SLURM_"))
    }
    for name in ("ACCOUNT", "PARTITION", "QOS", "CONSTRAINT"):
        if f"SBATCH_{name}" in env:
            kept.setdefault(f"SLURM_{name}", env[f"SBATCH_{name}"])
    return kept


def look(
    profile: Profile, paths: Iterable[Path], immediate: int, code: Path | None = None
) -> Report:
    """Briefly start the job's Python on a node; arguments as for `srun_command`."""
    command = srun_command(profile, paths, immediate, code)
    came = run(command, immediate)
    if isinstance(came, str):
        return Report(notes=[f"Python on a node: not checked, {came}"])
    status, stdout, stderr = came
    answer = parse_answer(stdout)
    report = judge(answer, status, stderr, immediate, bool(profile.srun))
    if answer.node is not None and answer.facts is not None:
        report.add(compare(answer.node, answer.facts, versions(), profile.gpus_per_node))
    return report


def run(command: list[str], immediate: int) -> tuple[int, str, str] | str:
    """Run srun; returns its status and output, or why there are none.

    Args:
        command: of srun.
        immediate: seconds that it waits for free nodes.
    """
    limit = immediate + _ANSWER_SECONDS
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, errors="replace", env=srun_environment(os.environ),
        )  # fmt: skip
    except OSError as error:
        return f"srun: {error.strerror}"
    with process:
        try:
            stdout, stderr = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            process.terminate()  # srun then ends what it started; if killed, it could not
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(15)
            process.kill()
            return f"no answer in {limit:.0f} s"
    return process.returncode, stdout, stderr

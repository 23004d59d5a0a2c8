"""A cluster profile: what a site requires of a job, kept out of the code in YAML files."""

import re
from collections.abc import Sequence
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pattlite_dist.errors import UserError, first_problem, on_one_line
from pattlite_dist.shipped import PROFILES, find

_TIME = re.compile(r"^(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?$", re.ASCII)
_KEPT = (":bool", ":null", ":merge")
_NODES = re.compile(r"([1-9]\d*)(?:-([1-9]\d*))?\Z", re.ASCII)
_VERBATIM = "environment"  # the key whose values are text, whatever they look like
_VARIABLE = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*\Z")
_OPTION = re.compile(r"^-{0,2}[A-Za-z][A-Za-z0-9_-]*\Z")
_SECRET = re.compile(
    r"(?:^|_)(?:API_?KEY|KEY|TOKEN|PASSWORD|PASSWD|SECRET|CREDENTIALS?|LOGIN)S?(?:_|$)",
    re.IGNORECASE,
)


class Profile(BaseModel):
    """One job's share of a cluster; one number sets devices, tasks and GPUs of a node."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, coerce_numbers_to_str=True, allow_inf_nan=False
    )

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = Field(None, description="Node features, such as `a100|h100`.")
    exclude: str | None = Field(None, description="Nodes never to use.")
    nodes: int | str = Field(
        1, description="A number, or a range such as 1-4: as many of them as SLURM has free."
    )
    gpus_per_node: int = Field(1, ge=0, description="Also the tasks of a node; 0: CPU only.")
    tasks_per_node: int | None = Field(None, ge=1, description="Only without GPUs.")
    cpus_per_task: int = Field(8, ge=1)
    memory_gb: float | None = Field(None, gt=0, description="Of a node; default: the cluster's.")
    time: str = Field("24:00:00", description="Limit, as sbatch reads it: minutes or D-HH:MM:SS.")
    signal_seconds: int = Field(
        120, ge=1, description="How long before the limit the job saves, requeues itself and exits."
    )
    max_requeues: int = Field(100, ge=0, description="After this many restarts the job ends.")
    requeue_command: str | None = Field(
        None,
        description="Shell command that requeues {job} where `scontrol` is not available to the "
        "ranks, as in a container.",
    )
    modules: list[str] = Field(default_factory=list, description="For `module load`.")
    environment: dict[str, str] = Field(default_factory=dict, description="Variables to export.")
    setup: list[str] = Field(default_factory=list, description="Shell lines run before srun.")
    container: str | None = Field(
        None, description="Command that runs the interpreter, such as `apptainer exec image.sif`."
    )
    python: str | None = Field(None, description="Interpreter; default: the one that submits.")
    srun: list[str] = Field(default_factory=list, description="Further options of srun.")
    sbatch: dict[str, str | int | bool] = Field(
        default_factory=dict, description="Further options of sbatch, without the dashes."
    )
    array_parallelism: int = Field(256, ge=1, description="Jobs of an array that run at once.")
    max_array: int | None = Field(
        None, ge=1, description="Jobs an array may have; default: the cluster's limit."
    )

    @field_validator("nodes", mode="before")
    @classmethod
    def _nodes(cls, nodes: Any) -> int | str:
        match = _NODES.match(str(nodes).strip())
        least, most = (int(part or 0) for part in match.groups()) if match else (0, 0)
        if match is None or (most and most < least):
            raise ValueError(f"{nodes!r} is neither a number from 1 nor a range such as 1-4")
        return f"{least}-{most}" if most > least else least

    @field_validator("time")
    @classmethod
    def _time(cls, text: str) -> str:
        if parse_minutes(text) is None:
            raise ValueError("not a time limit: minutes, HH:MM:SS or D-HH:MM:SS")
        return text

    @field_validator("environment", mode="before")
    @classmethod
    def _booleans(cls, variables: Any) -> Any:
        if not isinstance(variables, dict):
            return variables
        return {
            name: str(value).lower() if isinstance(value, bool) else value
            for name, value in variables.items()
        }

    @field_validator("environment")
    @classmethod
    def _names(cls, variables: dict[str, str]) -> dict[str, str]:
        for name in variables:
            if not _VARIABLE.match(name):
                raise ValueError(f"{name!r} is not a variable name: letters, digits, underscores")
        return variables

    @field_validator("sbatch")
    @classmethod
    def _options(cls, options: dict[str, str | int | bool]) -> dict[str, str | int | bool]:
        for name in options:
            if not _OPTION.match(name):
                raise ValueError(f"{name!r} is not an option: letters, digits, dashes")
        return options

    @model_validator(mode="after")
    def _one_number(self) -> "Profile":
        if self.gpus_per_node and self.tasks_per_node not in (None, self.gpus_per_node):
            raise ValueError(
                f"tasks_per_node {self.tasks_per_node} is not gpus_per_node {self.gpus_per_node}: "
                "leave it out, each task uses one GPU"
            )
        return self

    @property
    def secrets(self) -> dict[str, str]:
        """Variables of the environment that look like keys or passwords.

        Nothing writes them: they reach a job through the environment of the command that submits.
        """
        return {name: value for name, value in self.environment.items() if is_secret(name)}

    @property
    def local_size(self) -> int:
        """Ranks of a node."""
        return self.gpus_per_node or self.tasks_per_node or 1

    @property
    def node_range(self) -> range:
        """The numbers of nodes that a start of the job may get."""
        least, _, most = str(self.nodes).partition("-")
        return range(int(least), int(most or least) + 1)

    @property
    def world_size(self) -> int:
        """Ranks of the job, at most."""
        return self.node_range[-1] * self.local_size

    @property
    def minutes(self) -> int:
        """The time limit, rounded up."""
        minutes = parse_minutes(self.time)
        assert minutes is not None  # validated
        return minutes


def is_secret(name: str) -> bool:
    """Whether a variable's name says that it holds a key or a password."""
    return _SECRET.search(name) is not None


def parse_minutes(text: str) -> int | None:
    """Minutes of a time limit in sbatch's notation, rounded up; None if it is not one.

    `M`, `M:S`, `H:M:S`, `D-H`, `D-H:M` and `D-H:M:S`, as in sbatch's manual under --time.
    """
    match = _TIME.match(text.strip())
    if match is None:
        return None
    days, parts = match[1], [int(part) for part in match.groups()[1:] if part is not None]
    if days is not None or len(parts) == 3:
        hours, minutes, seconds = (*parts, 0, 0)[:3]
    else:
        hours, (minutes, seconds) = 0, (*parts, 0)[:2]
    total = ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds
    return -(-total // 60) or None


class _Loader(yaml.SafeLoader):
    """Leaves numbers and dates as text: YAML 1.1 reads 12:00:00 as 43,200 and 3.10 as 3.1."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith(_KEPT)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(text: str) -> Any:
    """YAML with numbers and dates left as text, for a pydantic model to convert as it needs.

    Raises:
        yaml.YAMLError: it is damaged.
    """
    return yaml.load(text, Loader=_Loader)


class _TextLoader(_Loader):
    """Leaves booleans as text too, as they were written: the shell has nothing else."""


_TextLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":bool")]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}


def load_profile(name: str, overrides: Sequence[str] = ()) -> Profile:
    """Read a profile: a YAML file, or the name of one in `launch/profiles` or of the package.

    Args:
        name: file, or name without its ending.
        overrides: `key=value` each; values are read as YAML.

    Raises:
        UserError: it does not exist, or is not a valid profile.
    """
    path = find(PROFILES, name)
    try:
        text = path.read_text(encoding="utf-8")
        content = read_yaml(text)
        verbatim = yaml.load(text, Loader=_TextLoader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"cannot read the profile {path}: {reason}; fix it") from error
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a profile: it has no `key: value` lines; fix it")
    if _VERBATIM in content:
        content[_VERBATIM] = verbatim[_VERBATIM]
    for text in overrides:
        key, _, value = text.partition("=")
        loader = _TextLoader if key == _VERBATIM else _Loader
        try:
            content[key] = yaml.load(value, Loader=loader)
        except yaml.YAMLError:
            raise UserError(f"profile.{on_one_line(text)}: not a value; put it in quotes") from None
    return parse_profile(content, str(path))


def parse_profile(content: dict[str, Any], where: str) -> Profile:
    """Check plain data against the model.

    Raises:
        UserError: a key is unknown or a value out of range; names it, and the known keys.
    """
    try:
        return Profile.model_validate(content)
    except ValidationError as error:
        place, first = first_problem(error)
        key = place or "profile"
        known = ", ".join(Profile.model_fields)
        raise UserError(f"{where}: {key}: {first['msg']}; a profile's keys are {known}") from error

"""Stored targets: a distribution for each sample of a split, bound to the shards that it is of."""

from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pattlite_dist.data.settings import DataConfig
from pattlite_dist.errors import UserError, is_passing, unreadable
from pattlite_dist.files import atomic_write, parse_json, sha256_file
from pattlite_dist.settings import Strict
from pattlite_dist.shards.manifest import Manifest, SplitName

SUFFIX = ".safetensors"
_KEY = "pattlite-targets"  # of the description in the file's header
_AGAIN = "make it with `pattlite targets`"


class SourceRun(Strict):
    """A checkpoint whose probabilities are in the targets; `run` is the name of its folder."""

    run: str
    checkpoint: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Facts(Strict):
    """What a file of targets says of itself.

    Attributes:
        manifest: fingerprint of the shards.
        split: of them.
        labels: class names, in the order of the columns.
        view: of each image.
        temperature: that the logits were divided by.
        runs: of which the probabilities are the mean.
    """

    format: Literal["pattlite-targets"] = "pattlite-targets"
    version: Literal[1] = 1
    created_by: str
    manifest: str
    split: SplitName
    labels: list[str] = Field(min_length=2)
    view: str
    temperature: float = Field(gt=0)
    runs: list[SourceRun] = Field(min_length=1)


class Targets(NamedTuple):
    """Targets of the samples of a split, in the order of its shards.

    Attributes:
        facts: what they are.
        shares: float [n, classes]; float32 with rows that sum to 1, once read from a file.
        runs: uint8 [n], how many runs each row is the mean of.
        sha256: of the file.
    """

    facts: Facts
    shares: NDArray[np.floating]
    runs: NDArray[np.uint8]
    sha256: str = ""

    def at(self, temperature: float | None) -> "Targets":
        """The same as if logits had been divided by another temperature; None: as they are.

        Exact for one run and view; the mean of several is converted as a whole.
        """
        if temperature in (None, self.facts.temperature):
            return self
        assert temperature is not None
        powers = self.shares.astype(np.float64) ** (self.facts.temperature / temperature)
        facts = self.facts.model_copy(update={"temperature": temperature})
        shares = (powers / powers.sum(1, keepdims=True)).astype(np.float32)
        return self._replace(facts=facts, shares=shares)


def save_targets(path: Path, targets: Targets) -> None:
    """Write targets in half precision, whole or not at all.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """
    from safetensors.numpy import save

    arrays: dict[str, NDArray[Any]] = {
        "shares": targets.shares.astype(np.float16),
        "runs": targets.runs,
    }
    content = save(arrays, {_KEY: targets.facts.model_dump_json()})
    with atomic_write(path) as stream:
        stream.write(content)


def load_targets(path: Path) -> Targets:
    """Read what `save_targets` wrote.

    Raises:
        UserError: it is missing, damaged, or another kind of file.
        Unreachable: its file system does not answer.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            text = (file.metadata() or {}).get(_KEY, "")
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        digest = sha256_file(path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; {_AGAIN}") from None
    except (OSError, SafetensorError) as error:
        if isinstance(error, OSError) and is_passing(error):
            raise unreadable(path, error, "use another one") from error
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is not a usable file of targets ({reason}); {_AGAIN}") from error
    if not text:
        raise UserError(f"{path} is not a file of targets; {_AGAIN}")
    facts = parse_json(text.encode(), Facts, str(path), _AGAIN)
    shares, runs = arrays.get("shares"), arrays.get("runs")
    columns = len(facts.labels)
    if (
        shares is None
        or runs is None
        or shares.dtype != np.float16
        or runs.dtype != np.uint8
        or shares.shape != (len(runs), columns)
    ):
        raise UserError(f"{path} does not have a row of {columns} shares for each sample; {_AGAIN}")
    wide = shares.astype(np.float32)
    total = wide.sum(1, keepdims=True)
    # Rounded to half precision, a row sums to 1 within a few thousandths.
    if not ((wide >= 0).all() and (np.abs(total - 1) < 0.01).all()):  # false for NaN, too
        raise UserError(f"{path} has a row that does not sum to 1; {_AGAIN}")
    return Targets(facts, wide / total, runs, digest)


def given_targets(data: DataConfig, manifest: Manifest) -> Targets | None:
    """The targets in the file that `data.targets` names; None if it names none.

    Raises:
        UserError: there is no such file, or it does not fit the shards.
        Unreachable: its file system does not answer.
    """
    path = data.targets_file
    if path is None:
        return None
    if not path.is_file():
        raise UserError(
            f"data.targets: {path} is not a file; give labels, votes, or a file of `pattlite "
            "targets`"
        )
    found = load_targets(path)
    check_fits(found, manifest, str(path))
    return found


def check_fits(targets: Targets, manifest: Manifest, where: str) -> None:
    """Check that targets are those of the training samples of a set.

    Args:
        targets: as read.
        manifest: of the set.
        where: the targets are, for messages.

    Raises:
        UserError: they are of other shards or another split, or have other classes.
    """
    facts, now = targets.facts, manifest.fingerprint()
    fix = "make them from these shards with `pattlite targets RUN OUT --shards DIR`"
    if facts.split != "train":
        raise UserError(f"{where} has targets of {facts.split}, not of train; {fix}")
    if facts.manifest != now or len(targets.shares) != manifest.samples("train"):
        raise UserError(
            f"{where} has targets of other shards (fingerprint {facts.manifest[:8]}, these "
            f"{now[:8]}); {fix}"
        )
    if facts.labels != manifest.labels:
        raise UserError(
            f"{where} has targets for {', '.join(facts.labels)}, the shards have the classes "
            f"{', '.join(manifest.labels)}; {fix}"
        )

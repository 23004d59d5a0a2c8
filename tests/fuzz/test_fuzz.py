"""Whatever is in a file, it is read or refused in one line: any other exception is a bug."""

import contextlib
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pattlite_dist.cli import parse
from pattlite_dist.commands.configfile import renewed
from pattlite_dist.commands.options import given_config
from pattlite_dist.commands.shard_checks import reading_of
from pattlite_dist.config import Config, conflicts, parse_written, to_tree, to_yaml
from pattlite_dist.data.cache import Cache
from pattlite_dist.data.fetch import Origin, check_sizes, fetch_manifest
from pattlite_dist.data.plan import TrainPlan
from pattlite_dist.data.reader import ShardReader
from pattlite_dist.errors import UserError
from pattlite_dist.evaluation.findings import flaws
from pattlite_dist.shards.create import create_shards
from pattlite_dist.shards.manifest import SPLIT_NAMES, Manifest, ShardInfo
from pattlite_dist.shards.png import decode_png, encode_pngs
from pattlite_dist.shards.stats import remarks, set_table
from pattlite_dist.shards.tario import decode_shard, has_targets, read_members
from pattlite_dist.shards.verify import check_shards
from pattlite_dist.slurm import checks, extras
from pattlite_dist.slurm.profile import Profile, load_profile
from pattlite_dist.slurm.submit import Plan
from pattlite_dist.tracking.folder import load_config
from tests.data.conftest import MemorySource
from tests.fuzz.oddities import ODD, TEXT, damaged, fuzzed, nearly

T = TypeVar("T")


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """Lets the user's mistakes pass, if they are told in one line."""
    try:
        yield
    except UserError as error:
        told = str(error)
        assert told
        assert "\n" not in told, told


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eleven train samples in three shards, and six of val in two; 3 x 5 x 7."""
    folder = tmp_path_factory.mktemp("fuzz") / "set"
    create_shards(MemorySource((3, 5, 7), {"train": 11, "val": 6}), folder, samples_per_shard=4)
    return folder


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for files that each example overwrites."""
    return tmp_path_factory.mktemp("scratch")


def use(manifest: Manifest, folder: Path, cache: Path) -> None:
    """All that commands do with a manifest before they compute."""
    text = "\n".join(cell for row in set_table(manifest) for cell in row)
    (text + "\n".join(remarks(manifest)) + manifest.fingerprint()).encode()
    for work in (
        lambda: reading_of(manifest.options.reading, None),
        lambda: check_sizes(Origin(str(folder)), manifest.all_shards()),
        lambda: check_shards(Origin(str(folder)), manifest),
        lambda: train_plan(manifest).batch(0, 0),
    ):
        with one_line():
            work()
    for split in SPLIT_NAMES:
        if manifest.samples(split):
            flaws(manifest, split)
        reader = ShardReader(Origin(str(folder)), manifest, split, Cache(cache))
        if len(reader):
            with one_line():
                reader.gather(np.array([0, len(reader) - 1]))


def train_plan(manifest: Manifest) -> TrainPlan:
    sizes = [shard.samples for shard in manifest.shards.get("train", [])]
    return TrainPlan(sizes[:1] if sum(sizes) > 10**6 else sizes, 0, 8, 4)


@fuzzed()
@given(st.data())
def test_a_manifest(shards: Path, scratch: Path, data: st.DataObject) -> None:
    good = (shards / "manifest.json").read_bytes()
    if data.draw(st.booleans()):
        text = json.dumps(data.draw(nearly(json.loads(good)))).encode("utf-8", "surrogatepass")
    else:
        text = data.draw(damaged(good))
    for path in shards.glob("*.tar"):
        with contextlib.suppress(FileExistsError):
            (scratch / path.name).symlink_to(path)
    (scratch / "manifest.json").write_bytes(text)
    with one_line():
        use(fetch_manifest(Origin(str(scratch))), scratch, scratch / "cache")


CONFIG, CONFIG_TEXT = to_tree(Config()), to_yaml(Config()).encode()


@fuzzed()
@given(st.data())
def test_a_configuration(scratch: Path, data: st.DataObject) -> None:
    tree = data.draw(nearly(CONFIG))
    with one_line():
        config = parse_written(tree, "config.yaml")
        if config != Config():
            assert parse_written(yaml.safe_load(to_yaml(config)), "again") == config
        conflicts(Config(), config)
        conflicts(config, Config())
    if data.draw(st.booleans()):
        try:
            text = yaml.safe_dump(tree, sort_keys=False).encode("utf-8", "surrogatepass")
        except yaml.YAMLError:
            return
    else:
        text = data.draw(damaged(CONFIG_TEXT))
    (scratch / "config.yaml").write_bytes(text)
    with one_line():
        load_config(scratch)
    with one_line():
        renewed(str(scratch / "config.yaml"))


KEYS = sorted(
    f"{part}.{name}" for part, inner in Config().model_dump().items() if isinstance(inner, dict)
    for name in inner
)  # fmt: skip


@fuzzed(0.05)
@given(st.lists(st.tuples(st.sampled_from(KEYS) | TEXT, ODD.map(str) | TEXT), max_size=2))
def test_words_of_the_command_line(words: list[tuple[str, str]]) -> None:
    with one_line():
        given_config(parse("train", [f"{key}={value}" for key, value in words if key]))


@fuzzed(0.05)
@given(st.data())
def test_a_configuration_given_with_c(scratch: Path, data: st.DataObject) -> None:
    path = scratch / "given.yaml"
    path.write_bytes(data.draw(damaged(CONFIG_TEXT)))
    with one_line():
        given_config(parse("train", ["-c", str(path)]))


PROFILE = {
    **Profile().model_dump(),
    "partition": "gpu",
    "environment": {"NCCL_DEBUG": "WARN"},
    "modules": ["cuda/12.4"],
    "sbatch": {"mail-type": "FAIL", "nice": 3, "exclusive": True},
    "srun": ["--mpi=none"],
    "setup": ["ulimit -n 65536"],
    "memory_gb": 32,
}


@fuzzed()
@given(st.data())
def test_a_profile(scratch: Path, data: st.DataObject) -> None:
    tree = data.draw(nearly(PROFILE))
    try:
        text = yaml.safe_dump(tree).encode("utf-8", "surrogatepass")
    except yaml.YAMLError:
        return
    if data.draw(st.booleans()):
        text = data.draw(damaged(text))
    path = scratch / "profile.yaml"
    path.write_bytes(text)
    changes = data.draw(st.lists(st.tuples(st.sampled_from(sorted(PROFILE)) | TEXT, TEXT)))
    with one_line():
        profile = load_profile(str(path), [f"{key}={value}" for key, value in changes])
        extras.options(profile.sbatch, profile.srun, profile.memory_gb)
        extras.environment(profile.environment)
        checks.batch(128, profile.node_range, profile.local_size)
        checks.times(profile.minutes, profile.signal_seconds, 10, 1.0)
        text_of_job = Plan("pattlite-x", scratch / "slurm", profile).text()
        head = text_of_job.split("\n# setup\n")[0].splitlines()
        asked = [line for line in head if line.startswith("#")]
        assert all(line.startswith(("#!/bin/bash", "# Parameters", "#SBATCH -")) for line in asked)
        assert len(asked) == sum(map(bool, head))


def described(data: bytes, like: ShardInfo) -> ShardInfo:
    """An entry that vouches for these bytes."""
    digest = hashlib.sha256(data).hexdigest()
    return like.model_copy(update={"bytes": max(len(data), 1), "sha256": digest})


@st.composite
def nearly_a_shard(draw: st.DrawFn, data: bytes) -> bytes:
    """A tar of which members or their headers are odd, with checksums that are right."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        members = [(one, tar.extractfile(one).read()) for one in tar]  # type: ignore[union-attr]
    stream = io.BytesIO()
    which = draw(st.sets(st.integers(0, len(members) - 1), min_size=1, max_size=3))
    for number, (member, content) in enumerate(members):
        if number in which:
            content = draw(odd_content(member.name, content))
            member.size = draw(st.just(len(content)) | st.integers(0, 2**33 - 1))
            member.name = draw(st.just(member.name) | TEXT | st.sampled_from(["a.png", "../b.cls"]))
            member.type = draw(
                st.just(member.type) | st.sampled_from([b"2", b"5", b"x", b"L", b"S"])
            )
        try:
            header = member.tobuf(tarfile.USTAR_FORMAT, "utf-8", "surrogatepass")
        except (ValueError, OverflowError):
            continue
        stream.write(header + content + bytes(-len(content) % 512))
    return stream.getvalue() + bytes(1024)


@st.composite
def odd_content(draw: st.DrawFn, name: str, content: bytes) -> bytes:
    if draw(st.booleans()):
        return draw(damaged(content))
    if name.endswith(".json"):
        tree = draw(nearly(json.loads(content)) | ODD)
        return json.dumps(tree).encode("utf-8", "surrogatepass")
    if name.endswith(".cls"):
        return str(draw(ODD)).encode("utf-8", "surrogatepass")
    shape = draw(st.tuples(st.sampled_from([1, 3]), st.integers(1, 8), st.integers(1, 8)))
    return encode_pngs(np.zeros((1, *shape), np.uint8))[0]


class Given:
    """A place whose shard is these bytes, whatever else the set has."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def read(self, name: str, parse: Callable[[bytes], T], most: int = -1) -> T:
        return parse(self.data)

    def shown(self, name: str) -> str:
        return name


@fuzzed()
@given(st.data())
def test_a_shard_that_the_manifest_vouches_for(shards: Path, data: st.DataObject) -> None:
    manifest = fetch_manifest(Origin(str(shards)))
    entry = manifest.shards["val"][1]  # of two samples
    good = (shards / entry.name).read_bytes()
    read = data.draw(st.sampled_from([damaged, nearly_a_shard]).flatmap(lambda kind: kind(good)))
    entry = described(read, entry)
    with contextlib.suppress(ValueError):
        read_members(read)
    for soft in (has_targets(manifest), True):
        with one_line():
            decode_shard(read, entry, manifest.image, entry.name, soft)
    other = manifest.model_copy(update={"shards": {"val": [entry]}})
    for problem in check_shards(Given(read), other):
        assert "\n" not in problem.line


@fuzzed()
@given(st.data())
def test_a_picture(shards: Path, data: st.DataObject) -> None:
    image: Any = fetch_manifest(Origin(str(shards))).image
    good = encode_pngs(np.arange(105, dtype=np.uint8).reshape(1, *image.shape))[0]
    with contextlib.suppress(ValueError):
        assert decode_png(data.draw(damaged(good)), image).shape == image.shape

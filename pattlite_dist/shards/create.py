"""Conversion of a source to a finished shard set, parallel and safe against kills and full disks.

The source is read once into a spool; then each shard is written to a temporary file, hashed and
moved into place; the manifest is written last. Intermediate results are kept in a working folder,
so that the same command resumes where a killed one stopped.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from pattlite_dist.console import Progress
from pattlite_dist.errors import UserError
from pattlite_dist.files import write_text
from pattlite_dist.shards import layout, reading
from pattlite_dist.shards.companions import COMPANION_NAMES, save_companions
from pattlite_dist.shards.manifest import MANIFEST_NAME, SPLIT_NAMES, Manifest, Options, ShardInfo
from pattlite_dist.shards.pool import parallel
from pattlite_dist.shards.reading import Read
from pattlite_dist.shards.sources.base import Source, notes_of
from pattlite_dist.shards.sources.spellings import shown
from pattlite_dist.shards.spool import Spool, first_lines
from pattlite_dist.shards.target import Folder, Target, open_target
from pattlite_dist.shards.working import PLAN_NAME, working, working_folder
from pattlite_dist.shards.writer import Sample, write_shard


@dataclass(frozen=True)
class _Job:
    """One shard to write, in any process."""

    spool: Spool
    plan: layout.ShardPlan
    labels: list[int]
    facts: list[dict[str, object]]
    classes: int
    work: Path
    target: Target
    expected: ShardInfo | None  # from the manifest, if there is one


def create_shards(
    source: Source,
    out: str | Path,
    *,
    samples_per_shard: int = 2048,
    options: Options | None = None,
    jobs: int = 1,
    force: bool = False,
    work: Path | None = None,
    progress: Progress = lambda what, done, total: None,
    say: Callable[[str], None] = lambda line: None,
) -> Manifest:
    """Convert a source into shards and return their manifest.

    The same source, options and package version give the same bytes, whatever `jobs` is and
    however often the conversion was killed and restarted.

    Args:
        source: see `sources.registry.open_source`.
        out: a folder, or a URL that fsspec writes to.
        samples_per_shard: in each shard but the last of a split.
        options: what is marked, what is left out, and how samples without a split are cut.
        jobs: number of processes.
        force: replace an existing set with other contents.
        work: folder for unfinished files; default: `.creating` in `out`, or a folder in the
            user's cache for a URL.
        progress: called as samples are read and shards are written.
        say: called with each line about what was concluded, passed over, converted or cut.

    Raises:
        UserError: the source is bad, `out` cannot be written, or it holds another set.
    """
    options = options or Options()
    if samples_per_shard < 1:
        raise UserError(f"--samples-per-shard is {samples_per_shard}; give 1 or more")
    target = open_target(out)
    target.check()
    folder = working_folder(target, work)
    with working(target, folder):
        strange = _strange(target)
        if strange and not force:
            raise UserError(f"{strange}; choose another folder, or move it elsewhere")
        there = None if force else target.manifest()
        key = reading.key(source, options, samples_per_shard)
        found = reading.resume(source, options, samples_per_shard, folder, key)
        kept = found is not None
        if found is None:
            if not force:
                _refuse_foreign(target, folder, there)
            found = reading.read(source, options, samples_per_shard, folder, jobs, progress)
        if there is not None:
            _compare(there, found.manifest, target)
        if not kept:  # only now, so that a refused set leaves nothing
            reading.keep(found, folder, key)
        if force:
            target.remove([MANIFEST_NAME])  # from here on the set is unfinished
        finished = _write(source, found, there, folder, target, jobs, progress)
        save_companions(target, finished)
        if finished != there:
            target.save_manifest(finished)
        named = {shard.name for shard in finished.all_shards()}
        target.remove(name for name in target.shard_names() if name not in named)
        target.remove(_litter(target))
        (folder / PLAN_NAME).unlink()  # so that the folder is removed
    for line in [*_remarks(source, found), *([f"{strange}: `verify` will say so"] * bool(strange))]:
        say(line)
    return finished


def _remarks(source: Source, found: Read) -> Iterator[str]:
    yield from notes_of(source)
    yield from (f"left out, damaged: {line}" for line in first_lines(found.damaged))
    options, manifest = found.manifest.options, found.manifest
    for split in found.cut:
        share = options.val_fraction if split == "val" else options.test_fraction
        yield (
            f"{split}: the source has none, so {share:.4g} of the samples was cut from train "
            f"(seed {options.seed})"
        )
    for split, findings in manifest.findings.items():
        if findings.converted:
            yield f"{split}: {findings.converted:,} images were converted to the set's size or mode"


def rewrite(
    source: Source,
    folder: Path,
    names: list[str],
    jobs: int,
    progress: Progress = lambda what, done, total: None,
) -> None:
    """Rewrite some shards of a set, byte for byte as its manifest requires.

    Raises:
        UserError: the source differs, or this version writes other bytes; nothing is changed.
    """
    target = Folder(folder)
    there = target.manifest()
    if there is None:
        raise UserError(f"{folder} has no {MANIFEST_NAME}; create the shards again")
    work = target.work()
    with working(target, work):
        found = reading.read(source, there.options, there.samples_per_shard, work, jobs, progress)
        try:
            _compare(there, found.manifest, target)
        except UserError as error:
            reason = str(error).rsplit("; ", 1)[0]
            raise UserError(f"{reason}; use the source and version that created it") from error
        _write(source, found, there, work, target, jobs, progress, set(names))


def _strange(target: Target) -> str:
    """Whether there are tars of other programs, which readers would take for shards of the set."""
    names = target.strange_tars()
    more = f" and {len(names) - 1:,} more tars" if len(names) > 1 else ""
    return f"{target.shown} contains {shown(names[0])}{more} of another program" if names else ""


def _refuse_foreign(target: Target, folder: Path, there: Manifest | None) -> None:
    names = target.shard_names()
    if there is not None or not names:
        return
    what = "an unfinished conversion of another source or with other options"
    if not (folder / PLAN_NAME).exists():
        what = f"{names[0]} but no manifest"
    raise UserError(
        f"{target.shown} contains {what}; choose another folder, or replace its contents with "
        "--force"
    )


def _litter(target: Target) -> list[str]:
    """Temporary files that a killed process left next to the set's own."""
    if not isinstance(target, Folder):
        return []
    names = (MANIFEST_NAME, *COMPANION_NAMES, *(f"{name}-*.tar" for name in SPLIT_NAMES))
    return [path.name for name in names for path in target.path.glob(f".{name}.*.tmp")]


def _compare(there: Manifest, manifest: Manifest, target: Target) -> None:
    """Refuse a set that was created from another source or with other options."""
    what = ("source", "options", "labels", "image", "samples_per_shard")
    differs = [name for name in what if getattr(there, name) != getattr(manifest, name)]
    if there.version != manifest.version or differs:
        raise UserError(
            f"{target.shown} contains another shard set (created from {there.source.name}, "
            f"{there.source.rows} rows{': other ' + ', '.join(differs) if differs else ''}); "
            "choose another folder or replace it with --force"
        )


def _write(
    source: Source,
    found: Read,
    there: Manifest | None,
    work: Path,
    target: Target,
    jobs: int,
    progress: Progress,
    only: set[str] | None = None,
) -> Manifest:
    """Write the shards that are not in place yet, and complete the manifest."""
    manifest = found.manifest
    known = {shard.name: shard for shard in there.all_shards()} if there else {}
    plans = layout.plan_shards(found.layout, manifest.samples_per_shard)
    if only is not None:
        plans = [plan for plan in plans if plan.name in only]
    total, done = sum(len(plan.samples) for plan in plans), 0
    labels = found.survey.labels

    def tasks() -> Iterator[_Job]:
        for plan in plans:
            samples = plan.samples.tolist()
            yield _Job(
                spool=found.spool,
                plan=plan,
                labels=labels[plan.samples].tolist(),
                facts=[found.layout.facts(i, found.survey, source.labels) for i in samples],
                classes=len(source.labels),
                work=work,
                target=target,
                expected=known.get(plan.name),
            )

    shards = {name: list(shards) for name, shards in manifest.shards.items()}
    for plan, shard in zip(plans, parallel(_write_one, tasks(), jobs), strict=True):
        shards[plan.split].append(shard)
        done += shard.samples
        progress("write", done, total)
    # Shards named in a manifest have the bytes it names, whichever version wrote them.
    created_by = (there or manifest).created_by
    return manifest.model_copy(update={"shards": shards, "created_by": created_by})


def _write_one(job: _Job) -> ShardInfo:
    """Write one shard and move it into place, unless it is there already."""
    record = job.work / f"{job.plan.name}.json"
    shard = job.expected or _recorded(record)
    if shard is not None and job.target.holds(shard):
        return shard
    images = job.spool.read(job.plan.samples)
    samples = [Sample(label, facts) for label, facts in zip(job.labels, job.facts, strict=True)]
    temporary = job.work / job.plan.name
    shard = write_shard(temporary, job.plan.name, images, samples, job.classes)
    if job.expected not in (None, shard):
        temporary.unlink()
        raise UserError(
            f"{job.target.shown}/{job.plan.name} cannot be reproduced: this version writes bytes "
            "that differ from the manifest; create the set again with --force"
        )
    job.target.place(temporary, shard)
    # Only now: a store reports only a size, which a shard of another set may share.
    write_text(record, shard.model_dump_json())
    return shard


def _recorded(path: Path) -> ShardInfo | None:
    try:
        return ShardInfo.model_validate_json(path.read_text())
    except (OSError, ValidationError):
        return None

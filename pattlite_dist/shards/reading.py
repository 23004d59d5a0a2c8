"""What is known about a source once it has been read, and how it is kept for the next run."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from pattlite_dist import __version__
from pattlite_dist.console import Progress
from pattlite_dist.errors import UserError
from pattlite_dist.files import write_text
from pattlite_dist.shards import layout
from pattlite_dist.shards.manifest import (
    SPLIT_NAMES,
    Manifest,
    Options,
    SourceInfo,
    SplitName,
)
from pattlite_dist.shards.sources.base import Source
from pattlite_dist.shards.spool import Spool, fill, load_survey, new_spool, save_survey
from pattlite_dist.shards.survey import Survey
from pattlite_dist.shards.working import PLAN_NAME, clear

CREATED_BY = f"pattlite_dist {__version__}"


@dataclass(frozen=True)
class Read:
    """A source that has been read, with its pixels in a spool, and the decisions about it.

    Attributes:
        manifest: the future manifest, still without shards.
        damaged: messages about the images that were left out, if it was read only now.
        cut: the splits that were cut from train.
    """

    spool: Spool
    survey: Survey
    layout: layout.Layout
    manifest: Manifest
    cut: tuple[SplitName, ...]
    damaged: tuple[str, ...] = ()


def read(
    source: Source,
    options: Options,
    samples_per_shard: int,
    folder: Path,
    jobs: int,
    progress: Progress,
) -> Read:
    """Read a whole source into an emptied working folder.

    Raises:
        UserError: the source is bad, or the folder's disk is full.
    """
    try:
        clear(folder)
    except OSError as error:
        raise UserError(
            f"cannot remove the files of an earlier run in {folder}: {error.strerror or error}; "
            "remove that folder"
        ) from error
    spool = new_spool(folder, source.image)
    skip = options.reading.get("damaged") == "skip"
    spool, survey, damaged = fill(source, spool, jobs, progress, skip_damaged=skip)
    info = SourceInfo(
        kind=source.kind,
        name=source.name,
        sha256=source.sha256,
        rows=len(survey),
        left_out={**source.left_out, **({"damaged": len(damaged)} if damaged else {})},
    )
    found = _decided(source, options, samples_per_shard, info, spool, survey)
    return replace(found, damaged=tuple(damaged))


def key(source: Source, options: Options, samples_per_shard: int) -> str:
    """What must be unchanged for a conversion to resume; compute it before reading the source."""
    return json.dumps(
        [CREATED_BY, source.kind, source.stamp(), options.model_dump(), samples_per_shard],
        sort_keys=True,
    )


def keep(found: Read, folder: Path, of: str) -> None:
    """Save what was read in the working folder under its `key`; the plan is written last."""
    save_survey(found.survey, folder)
    kept = {
        "key": of,
        "source": found.manifest.source.model_dump(),
        "spool": found.spool.path.name,
        "holes": found.spool.holes,
    }
    write_text(folder / PLAN_NAME, json.dumps(kept))


def resume(
    source: Source, options: Options, samples_per_shard: int, folder: Path, of: str
) -> Read | None:
    """What `keep` saved under this key, or None if that is missing or incomplete."""
    try:
        kept = json.loads((folder / PLAN_NAME).read_text())
        if kept["key"] != of:
            return None
        info = SourceInfo.model_validate(kept["source"])
        spool = Spool(folder / kept["spool"], source.image, tuple(kept["holes"]))
        survey = load_survey(folder)
        size = spool.path.stat().st_size
    except (OSError, ValueError, KeyError, TypeError):
        return None
    images = info.rows + len(spool.holes)
    if survey is None or len(survey) != info.rows or size != spool.size(images):
        return None
    return _decided(source, options, samples_per_shard, info, spool, survey)


def _decided(
    source: Source,
    options: Options,
    samples_per_shard: int,
    info: SourceInfo,
    spool: Spool,
    survey: Survey,
) -> Read:
    survey, cut = layout.loosened(survey, source.cut)
    decided = layout.decide(survey, options, cut)
    manifest = Manifest(
        created_by=CREATED_BY,
        source=info,
        options=options,
        labels=list(source.labels),
        image=source.image,
        samples_per_shard=samples_per_shard,
        shards={name: [] for name in SPLIT_NAMES},
        findings=layout.findings(survey, decided),
        identical=layout.identical(decided.copies),
        votes=list(source.votes),
    )
    return Read(spool, survey, decided, manifest, cut)

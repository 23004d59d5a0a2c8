"""Calibrate a run: predict val with its best checkpoint, and fit the temperature."""

from pathlib import Path

from pattlite_dist.compat.torch import check
from pattlite_dist.errors import UserError
from pattlite_dist.evaluation.calibration import calibrate
from pattlite_dist.evaluation.collect import collect
from pattlite_dist.evaluation.subject import Subject, read_subject
from pattlite_dist.logins import without_secrets
from pattlite_dist.model.build import refuse_batch_dependent
from pattlite_dist.runtime import world as worlds
from pattlite_dist.shards.manifest import Manifest
from pattlite_dist.train.temperature import Calibration, save_calibration
from pattlite_dist.train.trainer import quiet_libraries


def manifest_with_val(subject: Subject) -> Manifest:
    """The manifest of shards that a network can be calibrated and compared on.

    Raises:
        UserError: they cannot be read, have other classes, or no val split.
    """
    manifest = subject.find_manifest()
    where = without_secrets(subject.config.data.shards)
    if manifest.labels != subject.labels:
        raise UserError(
            f"{subject.path} has the classes {', '.join(subject.labels)}, but {where} has "
            f"{', '.join(manifest.labels)}; give shards with the same classes"
        )
    if not manifest.samples("val"):
        raise UserError(f"{where} has no val split to calibrate on; give shards that have one")
    return manifest


def calibrate_run(
    target: Path, shards: str | None = None, accelerator: str = "auto"
) -> tuple[Path, Calibration]:
    """Write `calibration.json` into the folder of a run, or beside a checkpoint. Collective.

    Args:
        target: run folder or checkpoint.
        shards: to use instead of the run's own.
        accelerator: auto, cpu or gpu.

    Raises:
        UserError: there is no checkpoint, or the shards have no val split or do not match.
    """
    quiet_libraries()
    check()
    subject = read_subject(target, shards)
    if subject.exported:
        raise UserError(
            f"{target} contains its temperature; calibrate the run, then export it again"
        )
    world = worlds.detect()
    with worlds.group(world, accelerator, subject.config.trainer.timeout_minutes):
        device = worlds.device(world, accelerator)
        manifest = manifest_with_val(subject)
        model = subject.build()
        refuse_batch_dependent(model, "calibrate")
        data = subject.stream(model, manifest, world)
        try:
            val = collect(subject.load(model, device), data, "val", device)
        finally:
            data.close()
        found = calibrate(subject, val, manifest.fingerprint())
        if world.main:
            save_calibration(subject.run, found)
        return subject.run, found

"""How an examined network is calibrated; `train.temperature` says how that is done."""

from collections.abc import Mapping

from pattlite_dist.evaluation.predictions import Predictions
from pattlite_dist.evaluation.schema import Calibrated, Part
from pattlite_dist.evaluation.subject import Subject
from pattlite_dist.files import parse_json
from pattlite_dist.train.temperature import (
    CALIBRATION_NAME,
    Calibration,
    calibration_error,
    measure,
    tempered,
)


def calibrate(subject: Subject, val: Predictions, manifest: str) -> Calibration:
    """Fit the temperature of a checkpoint; an exported file's is only measured.

    Args:
        subject: the checkpoint or file.
        val: its predictions of the val split, from one view.
        manifest: fingerprint of the shards.
    """
    fixed = subject.exported.temperature if subject.exported else None
    return measure(val.probabilities["one"], val.labels, subject.mark, manifest, fixed)


def calibrated_scores(temperature: float, found: Mapping[Part, Predictions]) -> Calibrated:
    """The calibration error of each part, from the view `one`, after calibration."""
    errors = {
        part: calibration_error(tempered(one.probabilities["one"], temperature), one.labels)
        for part, one in found.items()
    }
    return Calibrated(temperature=temperature, ece=errors)


def known_temperature(subject: Subject) -> Calibration | None:
    """The calibration of a checkpoint; None if this one has not been calibrated.

    Raises:
        UserError: the file is damaged.
    """
    path = subject.run / CALIBRATION_NAME
    if subject.exported or not path.is_file():
        return None
    again = f"run `pattlite calibrate {subject.run}`"
    found = parse_json(path.read_bytes(), Calibration, str(path), again)
    same = (found.checkpoint, found.step) == (subject.mark.checkpoint, subject.mark.step)
    return found if same else None

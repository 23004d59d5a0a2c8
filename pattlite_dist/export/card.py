"""The card beside an exported file: what it is, how good it is, how to use it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from pattlite_dist import __version__
from pattlite_dist.evaluation.schema import Evaluation, Part, PartScores
from pattlite_dist.export.check import Checked
from pattlite_dist.model.description import Description
from pattlite_dist.shards.manifest import Manifest
from pattlite_dist.train.temperature import Calibration

_PARTS: dict[Part, str] = {
    "val": "val",
    "test": "test",
    "test_clean": "test without copies of train",
}


def card(
    out: Path,
    form: str,
    size: int,
    description: Description,
    manifest: Manifest,
    calibration: Calibration,
    checked: Checked,
    evaluation: Evaluation | None,
    training: Sequence[str] = (),
) -> str:
    """The text, in the form of the Hugging Face Hub's model cards.

    Args:
        out: the exported file.
        form: its format.
        size: of the file, bytes.
        description: that it contains.
        manifest: of the shards that it was checked on.
        calibration: its temperature.
        checked: its agreement with the run.
        evaluation: of the same checkpoint; None if there is none.
        training: paragraphs about the run, and what else its maintainer says.
    """
    splits: Mapping[Part, PartScores] = evaluation.splits if evaluation is not None else {}
    image = description.image
    colour = "grey" if image.channels == 1 else "RGB"
    sections = [
        f"# {out.name}",
        f"Facial expressions: {', '.join(description.labels)}. Exported as {form} by pattlite_dist "
        f"{__version__} from `{description.checkpoint}` (epoch {description.epoch + 1}, step "
        f"{description.step:,}); {size:,} bytes.",
        "## Use",
        _use(out, form, image.shape),
        f"The input is a face, cut out as a square without margin and resized to {image.width} x "
        f"{image.height} pixels, {colour}, uint8 from 0 to 255. The output is a probability for "
        "each label, in the order above. Preprocessing is inside.",
        "## Accuracy",
        _scores(splits),
        f"This file itself, on all {checked.samples:,} images of val: top-1 "
        f"{100 * checked.top1:.2f} %; the run in PyTorch: {100 * checked.top1_run:.2f} % "
        f"({100 * (checked.top1 - checked.top1_run):+.2f} points). The largest difference of a "
        f"probability is {checked.difference:.1e}.",
        f"Probabilities are calibrated: logits are divided by the temperature "
        f"{calibration.temperature:.4f}, fitted on val, where it takes the expected calibration "
        f"error from {100 * calibration.ece[0]:.1f} % to {100 * calibration.ece[1]:.1f} %.",
        "## Data",
        f"{manifest.source.name} ({manifest.source.kind}): "
        f"{manifest.samples('train'):,} images to train on, {manifest.samples('val'):,} of val, on "
        f"which the checkpoint was chosen, {manifest.samples('test'):,} of test. Fingerprint of "
        f"the shards: `{manifest.fingerprint()}`.",
        "## Training",
        *training,
        "## Limits",
        "It names the expression that a face shows, as people have labelled pictures of faces; "
        "that is not what a person feels. Labels of such data sets are noisy and their people are "
        "not representative of any population. Do not use it to judge a person.",
    ]
    head = yaml.safe_dump(_front(manifest, splits, out.stem), sort_keys=False, allow_unicode=True)
    return f"---\n{head}---\n\n" + "\n\n".join(sections) + "\n"


def _front(manifest: Manifest, splits: Mapping[Part, PartScores], name: str) -> dict[str, object]:
    head: dict[str, object] = {
        "library_name": "pattlite_dist",
        "pipeline_tag": "image-classification",
        "tags": ["facial-expression-recognition", "pattlite"],
    }
    if "test" in splits:
        found = splits["test"]
        metrics = [
            {"type": kind, "value": round(value, 6)}
            for kind, value in (("accuracy", found.top1), ("f1", found.macro_f1))
        ]
        source = {"name": manifest.source.name, "type": manifest.source.kind, "split": "test"}
        task = {"type": "image-classification", "name": "Facial expression recognition"}
        head["model-index"] = [
            {"name": name, "results": [{"task": task, "dataset": source, "metrics": metrics}]}
        ]
    return head


def _use(out: Path, form: str, shape: Sequence[int]) -> str:
    if form == "pt2":
        code = (
            f'import torch\n\nnetwork = torch.export.load("{out.name}").module()\n'
            f"probabilities = network(images)  # uint8 [n, {', '.join(map(str, shape))}]"
        )
        return f"```python\n{code}\n```"
    return (
        f"```console\n$ pattlite predict {out.name} photo.jpg\n```\n\n```python\n"
        f'import pattlite_dist\n\nmodel = pattlite_dist.load("{out.name}")\n'
        'for face in model.predict("photo.jpg"):\n    print(face.box, face.label)\n```'
    )


def _scores(splits: Mapping[Part, PartScores]) -> str:
    if not splits:
        return "The run has not been evaluated (`pattlite evaluate`)."
    lines = ["| part | images | top-1 | 95 % interval | macro-F1 |", "|---|---|---|---|---|"]
    for part, found in splits.items():
        low, high = found.top1_interval
        lines.append(
            f"| {_PARTS[part]} | {found.samples:,} | {100 * found.top1:.1f} % | "
            f"{100 * low:.1f} to {100 * high:.1f} % | {100 * found.macro_f1:.1f} % |"
        )
    return "\n".join(lines)

"""`pattlite predict`: the expressions of the faces in pictures and videos."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def add_options(parser: "ArgumentParser") -> None:
    """Options of `predict`."""
    from jsonargparse.typing import ClosedUnitInterval, PositiveInt

    from pattlite_dist.location import Run

    parser.add_argument(
        "model", type=Run,
        help="run folder, checkpoint, exported .onnx or .safetensors file, or pretrained[:NAME]",
    )  # fmt: skip
    parser.add_argument(
        "sources", type=str, nargs="+", metavar="source",
        help="pictures, folders, patterns such as 'album/*.jpg', videos, the number of a camera, "
        "or - to read paths from standard input",
    )  # fmt: skip
    parser.add_argument(
        "--faces", choices=("auto", "largest", "whole"), default="auto",
        help="find all faces, keep the largest, or take each picture for a face that is cut out",
    )  # fmt: skip
    parser.add_argument(
        "--detector", type=Path, default=None, help="a YuNet model, .onnx; default: that of the "
        "extra `faces`",
    )  # fmt: skip
    parser.add_argument(
        "--every", type=PositiveInt, default=1, help="of a video: predict every n-th frame"
    )
    parser.add_argument(
        "--min-confidence", type=ClosedUnitInterval, default=0.0,
        help="0 to 1; a label with a lower probability is `unsure`",
    )  # fmt: skip
    parser.add_argument("--format", choices=("table", "jsonl", "csv"), default="table")
    parser.add_argument(
        "--draw", type=Path, default=None, metavar="DIR", help="write pictures with their faces "
        "framed and labelled into this folder",
    )  # fmt: skip
    parser.add_argument("--accelerator", choices=("auto", "cpu", "gpu"), default="auto")


def work(options: Any) -> int:
    """Predict; returns 1 if some of the sources could not be read."""
    from pattlite_dist.predict.run import predict
    from pattlite_dist.runtime.imports import quick_imports

    with quick_imports():
        from pattlite_dist.predict.load import load

        model = load(options.model, detector=options.detector, accelerator=options.accelerator)
    return predict(
        model,
        options.sources,
        faces=options.faces,
        every=options.every,
        min_confidence=options.min_confidence,
        form=options.format,
        drawn=options.draw,
    )

"""An exported ONNX file, run by onnxruntime: neither PyTorch nor Lightning is needed."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pattlite_dist.errors import UserError
from pattlite_dist.model.description import KEY, Description, parse_description
from pattlite_dist.runtime.limits import fewer_cores
from pattlite_dist.shards.sources.base import Pixels

INSTALL = "pip install 'pattlite_dist[onnx]'"


class OnnxNetwork:
    """See `network.Network`.

    Args:
        data: of the file, which `export` wrote.
        where: its name in messages.
        threads: to compute on; 0: as many as there are cores.

    Raises:
        UserError: onnxruntime is not installed, or the file is damaged or not ours.
    """

    description: Description

    def __init__(self, data: bytes, where: str, threads: int = 0) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise UserError(
                f"{where} is run by onnxruntime, which is not installed ({error}); get it with "
                f"{INSTALL}"
            ) from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or fewer_cores() or 0
        options.log_severity_level = 3
        try:
            self._session: Any = onnxruntime.InferenceSession(
                data, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its own classes have no common base
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"{where} is not a usable ONNX file ({reason}); export again"
            ) from error
        found = self._session.get_modelmeta().custom_metadata_map
        self.description = parse_description(found.get(KEY, ""), where)

    def probabilities(self, images: Pixels) -> NDArray[np.float64]:
        """Map uint8 [n, C, H, W], of the description's form, to probabilities [n, classes]."""
        table: NDArray[np.float32] = self._session.run(None, {"images": images})[0]
        return table.astype(np.float64)


def read_onnx(path: Path) -> OnnxNetwork:
    """Open an exported file.

    Raises:
        UserError: as `OnnxNetwork`, or it cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check the path") from error
    return OnnxNetwork(data, str(path))

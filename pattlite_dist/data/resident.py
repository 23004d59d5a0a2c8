"""A training set that lies on the device whole: batches of ids, gathered where they are used."""

import numpy as np
import torch
from torch.utils.data import Dataset

from pattlite_dist.data.batch import Batch, frame
from pattlite_dist.data.reader import ShardReader
from pattlite_dist.data.sampler import Place
from pattlite_dist.shards.manifest import Manifest

_CHUNK = 8192  # samples read at a time
_SHARE = 0.25  # largest share of a GPU's free memory for `auto`


def fits(manifest: Manifest, device: torch.device) -> bool:
    """Whether the training set is small compared with a GPU's free memory."""
    if device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    pixels = int(np.prod(manifest.image.shape))
    return manifest.samples("train") * pixels <= _SHARE * free


class Resident(Dataset[Batch]):
    """All samples of a split on a device; as a dataset, maps a place in the plan to its ids.

    Args:
        reader: of the split.
        device: where the samples lie.

    Raises:
        UserError: a shard cannot be read or is not what the manifest says.
    """

    def __init__(self, reader: ShardReader, device: torch.device) -> None:
        parts = []
        good = []
        for start in range(0, len(reader), _CHUNK):
            found = reader.gather(np.arange(start, min(start + _CHUNK, len(reader))))
            block = {"image": found.block.images, "label": found.block.labels}
            if found.block.targets is not None:
                block["target"] = found.block.targets
            parts.append({name: torch.from_numpy(v).to(device) for name, v in block.items()})
            good.append(found.good)
        self._samples = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        self._good = np.concatenate(good)

    def __getitem__(self, place: Place) -> Batch:
        """The batch without its samples, which `fill` adds."""
        return frame(place, self._good[place.ids])

    def fill(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """Images, labels and targets of samples; ids, int64 [n], on the same device."""
        return {name: values[ids] for name, values in self._samples.items()}

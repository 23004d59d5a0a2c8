"""A set as a `webdataset.WebDataset`, for the training loops of others."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pattlite_dist.errors import UserError

if TYPE_CHECKING:
    from pattlite_dist.shards.manifest import SplitName


def as_webdataset(shards: str | Path, split: "SplitName", *, shard_shuffle: int = 0) -> Any:
    """One split of a shard set as a `webdataset.WebDataset`, to which its stages can be added.

    A sample has `png`, `cls` and `json` as bytes; `.decode("pil")` decodes them. `len` is the
    number of samples in the manifest. Each process and each worker reads its own shards, so that
    with few shards some read nothing, which is no error. Unlike with this package's own loader,
    hashes are not checked, and processes may get different numbers of samples.

    Args:
        shards: a folder, or its http(s) address.
        split: `train`, `val` or `test`.
        shard_shuffle: number of shards that are shuffled at a time; 0 keeps the manifest's order.

    Raises:
        UserError: there is no readable manifest, or the split has no samples.
    """
    import inspect

    from webdataset import WebDataset, shardlists

    from pattlite_dist.data.fetch import Origin, fetch_manifest

    origin = Origin(str(shards))
    if not origin.local and not origin.root.startswith(("http://", "https://")):
        raise UserError(
            f"webdataset does not read {origin.root.partition(':')[0]}: addresses by itself; copy "
            "the set to a folder"
        )
    manifest = fetch_manifest(origin)
    names = [shard.name for shard in manifest.shards.get(split, [])]
    if not names:
        raise UserError(f"{origin.shown('')} has no samples of {split!r}; choose another split")
    options: dict[str, Any] = {
        "shardshuffle": shard_shuffle,
        "nodesplitter": shardlists.split_by_node,
    }
    if "empty_check" in inspect.signature(WebDataset).parameters:  # old versions do not check
        options["empty_check"] = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a length is unusual for a stream
        return WebDataset([origin.address(n) for n in names], **options).with_length(
            manifest.samples(split)
        )

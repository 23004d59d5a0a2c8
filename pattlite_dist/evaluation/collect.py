"""Run a network over a split: each sample once over all ranks, the same table on every rank."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from pattlite_dist.data.module import FERData
from pattlite_dist.errors import UserError
from pattlite_dist.evaluation.predictions import Predictions
from pattlite_dist.evaluation.schema import View
from pattlite_dist.evaluation.views import probabilities
from pattlite_dist.shards.manifest import SplitName
from pattlite_dist.train.metrics import Census


def collect(
    model: torch.nn.Module,
    data: FERData,
    split: SplitName,
    device: torch.device,
    views: Sequence[View] = ("one",),
    outputs: int | None = None,
    tell: Callable[[int], None] = lambda done: None,
) -> Predictions:
    """Predict every sample of a split. Collective.

    A batch holds the same samples whatever the number of ranks, so its probabilities are
    identical; and each rank fills in its own rows of a table of zeros, so the sum over ranks
    changes none of them.

    Args:
        model: in evaluation mode, on `device`.
        data: the shards.
        split: which of them.
        device: to compute on.
        views: to score; the first is `one`.
        outputs: of the network; by default, as many as the shards have classes.
        tell: called with the number of samples that all ranks have predicted, about.

    Raises:
        UserError: a sample's outputs are NaN or infinite; raised on all ranks.
        RuntimeError: a sample was lost or counted twice.
    """
    samples, classes = data.manifest.samples(split), outputs or len(data.manifest.labels)
    census = Census(samples).to(device)
    tables: dict[str, torch.Tensor] = {
        view: torch.zeros(samples, classes, dtype=torch.float64, device=device) for view in views
    }
    tables["label"] = torch.zeros(samples, dtype=torch.int64, device=device)
    tables["flags"] = torch.zeros(samples, dtype=torch.int64, device=device)
    with torch.inference_mode():
        done, ranks = 0, dist.get_world_size() if _several() else 1
        for batch in data.eval_dataloader(split):
            found: dict[str, Any] = {"label": batch["label"], "flags": batch["flags"].long()}
            if "target" in batch:
                found["target"] = target = batch["target"]
                if "target" not in tables:
                    tables["target"] = torch.zeros(
                        samples, target.shape[1], dtype=torch.float64, device=device
                    )
            seen = probabilities(model, data.preprocess, batch["image"].to(device), views)
            found.update((str(view), table) for view, table in seen.items())
            ids, counts = batch["id"].to(device), batch["counts"].to(device)
            census.update(ids, counts)
            for name, values in found.items():
                tables[name][ids[counts]] = values.to(device)[counts].to(tables[name].dtype)
            done += len(ids) * ranks
            tell(min(done, samples))
    census.compute()
    arrays = {name: _summed(table) for name, table in tables.items()}
    for view in views:
        bad = ~np.isfinite(arrays[view]).all(1)
        if bad.any():
            raise UserError(
                f"the network's outputs are NaN or infinite for {bad.sum():,} of {samples:,} "
                f"samples of {split}: training has diverged; train again with a lower optim.lr"
            )
    return Predictions(
        np.arange(samples),
        arrays["label"],
        arrays["flags"].astype(np.uint8),
        {view: arrays[view] for view in views},
        arrays.get("target"),
    )


def _summed(table: torch.Tensor) -> Any:
    if _several():
        dist.all_reduce(table)
    return table.cpu().numpy()


def _several() -> bool:
    return dist.is_available() and dist.is_initialized()

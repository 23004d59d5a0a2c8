"""The Lightning module: defines the training step and the validation step."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional as F

from pattlite_dist.config import Config, to_tree
from pattlite_dist.data.plan import DROPOUT, raw_stream
from pattlite_dist.train.checkpoint import check_fit, unwrapped
from pattlite_dist.train.metrics import Census, Scores
from pattlite_dist.train.optim import build_optimizer, lr_relative
from pattlite_dist.train.watch import LossWatch


def loss_of(logits: torch.Tensor, batch: dict[str, Any], config: Config) -> torch.Tensor:
    """Mean cross entropy of a batch against its labels, or against its vote shares.

    Placeholders for the samples of a skipped shard have weight zero; the sum is still divided by
    the full batch size, otherwise the weight of the other samples would depend on the ranks.

    Args:
        logits: float [n, classes].
        batch: see `data.loader.Batch`.
        config: of the run; label smoothing applies to both kinds of target.
    """
    goal: torch.Tensor = batch["target" if config.data.targets == "votes" else "label"]
    counts: torch.Tensor = batch["counts"]
    smoothing = config.optim.label_smoothing
    if config.data.bad_shards == "skip":
        losses = F.cross_entropy(logits, goal, label_smoothing=smoothing, reduction="none")
        return (losses * counts).sum() / len(goal)
    return F.cross_entropy(logits, goal, label_smoothing=smoothing)


class FERModule(pl.LightningModule):
    """Trains a network and scores it on val.

    Args:
        config: of the run.
        model: maps normalised images to logits.
        labels: class names.
        steps_per_epoch: the same on every rank.
        val_samples: number of samples that a validation must count.
    """

    def __init__(
        self,
        config: Config,
        model: nn.Module,
        labels: list[str],
        steps_per_epoch: int,
        val_samples: int,
    ) -> None:
        super().__init__()
        self.config, self.labels = config, labels
        self.steps_per_epoch, self.val_samples = steps_per_epoch, val_samples
        self.model = model
        self._right, self._seen = (
            torch.zeros((), dtype=torch.int64),
            0,
        )  # this epoch, since start-up
        self._before = (0, 0)  # the same over all ranks, from the epoch's earlier starts
        self.scores, self.census = Scores(len(labels)), Census(val_samples)
        self.watch = LossWatch()

    def on_train_batch_start(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Seed dropout by step, so that a resumed run draws what an uninterrupted one would."""
        stream = raw_stream(self.config.seed, self.global_rank, DROPOUT, self.global_step, 1)
        seed = int(stream[0]) >> 1
        # Not `torch.manual_seed`: without CUDA it formats and stores a stack trace at every call.
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        """Mean loss of this rank's share; shares are equal, so DDP's mean is the global mean."""
        logits = self.model(self._layout(batch["image"]))
        label = batch["label"]
        size = len(label)
        loss = loss_of(logits, batch, self.config)
        self.watch.see(loss, self.global_step + 1)
        if self.config.data.bad_shards == "skip":
            left_out = (~batch["counts"]).sum().float()
            self.log(
                "train/left_out", left_out, on_step=False, on_epoch=True, reduce_fx="sum",
                sync_dist=True, batch_size=size,
            )  # fmt: skip
        # A call to `log` takes as long as the rest of the step: the loss is logged only when it
        # is recorded, and in an epoch's first and last step for progress bars.
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        last = batch_idx + 1 == self.steps_per_epoch
        if not self._seen or last or (self.global_step + 1) % every == 0:
            self.log("train/loss", loss.detach(), prog_bar=True, batch_size=size)
            self.log("train/lr", self.optimizers().param_groups[-1]["lr"], batch_size=size)  # type: ignore[union-attr]
        self._right = self._right + (logits.detach().argmax(1) == label).sum()
        self._seen += size
        return loss

    def on_train_epoch_end(self) -> None:
        """Log the accuracy over the epoch, including its earlier starts."""
        right, seen = self._counted()
        self.log("train/top1", right / max(seen, 1), sync_dist=True)  # equal on all ranks
        self._right, self._seen = torch.zeros((), dtype=torch.int64), 0
        self._before = (0, 0)

    def _counted(self) -> tuple[int, int]:
        """Correct and total samples of the epoch, over all ranks. Collective."""
        here = torch.tensor([int(self._right), self._seen], device=self.device)
        right, seen = self.trainer.strategy.reduce(here, reduce_op="sum").tolist()
        return right + self._before[0], seen + self._before[1]

    def on_validation_epoch_start(self) -> None:
        """Broadcast rank 0's BatchNorm statistics, which are those in a checkpoint.

        Each rank's statistics come from its own batches, so val scores would depend on the ranks.
        """
        if self.trainer.world_size > 1:
            for buffer in self.model.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Accumulate predictions; padding does not count."""
        logits = self.model(self._layout(batch["image"]))
        self.scores.update(logits, batch["label"], batch["counts"])
        self.census.update(batch["id"], batch["counts"])

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the whole val split."""
        self.census.compute()
        result = self.scores.compute(self.val_samples)
        self.census.reset()
        self.scores.reset()
        for name in ("top1", "macro_f1", "nll"):
            self.log(f"val/{name}", getattr(result, name), prog_bar=name == "top1", sync_dist=True)

    def configure_optimizers(self) -> Any:
        """The optimiser and its schedule, updated every step."""
        optimizer = build_optimizer(self.model, self.config.optim)
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: lr_relative(step, self.config, self.steps_per_epoch)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add a description of the weights, as plain data, so that the file is self-contained."""
        checkpoint["pattlite"] = {
            "config": to_tree(self.config),
            "labels": list(self.labels),
            "counted": list(self._counted()),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the counts of an interrupted epoch.

        Raises:
            UserError: the weights belong to a different network.
        """
        for key in ("state_dict", "current_model_state"):
            if key in checkpoint:
                checkpoint[key] = unwrapped(checkpoint[key], "the run's checkpoint")
                check_fit(self, checkpoint[key], "the run's checkpoint")
        right, seen = checkpoint["pattlite"].get("counted", (0, 0))
        self._before = (right, seen)

    def _layout(self, images: torch.Tensor) -> torch.Tensor:
        if self.config.trainer.channels_last:
            return images.contiguous(memory_format=torch.channels_last)
        return images

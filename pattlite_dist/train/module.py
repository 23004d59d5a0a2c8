"""The Lightning module: defines the training step and the validation step."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import nn

from pattlite_dist.config import Config, to_tree
from pattlite_dist.data.batch import pieces
from pattlite_dist.data.loader import TrainLoader
from pattlite_dist.data.plan import DROPOUT, raw_stream
from pattlite_dist.location import with_absolute_paths
from pattlite_dist.runtime.arithmetic import plain_arithmetic
from pattlite_dist.runtime.devices import use_gpu
from pattlite_dist.shards.manifest import ImageInfo
from pattlite_dist.train.casting import forward
from pattlite_dist.train.checkpoint import check_fit, unwrapped
from pattlite_dist.train.clock import Clock
from pattlite_dist.train.loss import loss_of
from pattlite_dist.train.metrics import Census, Outputs, Scores
from pattlite_dist.train.optim import build_optimizer, group_names, noted
from pattlite_dist.train.pieces import pieces_of
from pattlite_dist.train.rates import lr_relative, lr_scale
from pattlite_dist.train.teachers import Lesson
from pattlite_dist.train.temperature import Calibration, Mark, measure
from pattlite_dist.train.watch import LossWatch


class FERModule(pl.LightningModule):
    """Trains a network and scores it on val.

    Args:
        config: of the run.
        model: maps normalised images to logits.
        labels: class names.
        steps_per_epoch: the same on every rank.
        val_samples: number of samples that a validation must count.
        shards: fingerprint of the shards that it is trained on.
        image: the form of the images, for those who predict with a checkpoint.
        class_weights: see `loss_of`.
        scheduled: maps a step to that whose learning rate it has.
        lesson: what it learns besides the labels.
    """

    class_weights: torch.Tensor | None

    def __init__(
        self,
        config: Config,
        model: nn.Module,
        labels: list[str],
        steps_per_epoch: int,
        val_samples: int,
        shards: str | None = None,
        image: ImageInfo | None = None,
        class_weights: list[float] | None = None,
        scheduled: Callable[[int], float] = lambda step: step,
        lesson: Lesson | None = None,
    ) -> None:
        super().__init__()
        self.config, self.labels, self.shards, self.image = config, labels, shards, image
        self.steps_per_epoch, self.val_samples = steps_per_epoch, val_samples
        self.model, self.scheduled, self.lesson = model, scheduled, lesson
        # Samples of this epoch, since start-up: correct ones, and all.
        self._right, self._seen = torch.zeros((), dtype=torch.int64), 0
        self._before = (0, 0)  # the same over all ranks, from the epoch's earlier starts
        self._begins = True
        self._forgotten = False  # the last step's gradients
        # In steps that are logged: this rank's loss, and the mean weight of its samples.
        self.logged: torch.Tensor | None = None
        self.clock = Clock(use_gpu(config.trainer.accelerator))
        self.group_names = group_names(model, config.optim)
        self.noted: dict[str, Any] = {}  # in those steps: rates, and the gradient's norm
        self.scores, self.census = Scores(len(labels)), Census(val_samples)
        self.outputs = Outputs(val_samples, len(labels))
        # Where both are scored: the network of weights that are not averaged, which while val is
        # scored are where the average was. In a list, as it is not part of this one.
        self.raw: list[nn.Module] = []
        self.raw_scores = Scores(len(labels))
        self.predicted: tuple[NDArray[np.float64], NDArray[np.int64]] | None = None
        self.watch = LossWatch()
        weights = None if class_weights is None else torch.tensor(class_weights)
        self.register_buffer("class_weights", weights, persistent=False)

    def on_train_batch_start(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Seed dropout by step, so that a resumed run draws what an uninterrupted one would."""
        loader = self.trainer.train_dataloader
        self.clock.prepared(loader.take_wait() if isinstance(loader, TrainLoader) else 0.0)
        stream = raw_stream(self.config.seed, self.global_rank, DROPOUT, self.global_step, 1)
        seed = int(stream[0]) >> 1
        # Not `torch.manual_seed`: without CUDA it formats and stores a stack trace at every call.
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        """Mean loss of this rank's share; shares are equal: the ranks' mean is the global mean.

        If it is computed in pieces (see `pieces_of`), all but the last have their backward pass
        here, and the loss of the last one is returned.
        """
        size = len(batch["label"])
        parts = pieces(batch, pieces_of(self.config.trainer, self.trainer.world_size))
        self._forgotten = len(parts) > 1
        if self._forgotten:
            self.optimizers(use_pl_optimizer=False).zero_grad()  # type: ignore[union-attr]
        total: torch.Tensor | None = None
        right = self._right
        for number, piece in enumerate(parts, 1):
            logits = self._logits(self._layout(piece["image"]))
            loss = loss_of(logits, piece, self.config, self.class_weights)
            if self.lesson is not None:
                loss = self.lesson.added(loss, logits, piece)
            if len(parts) > 1:
                loss = loss * (len(logits) / size)
            if number < len(parts):
                loss.backward()  # type: ignore[no-untyped-call]
            total = loss.detach() if total is None else total + loss.detach()
            hits = (logits.detach().argmax(1) == piece["label"]) & piece["counts"]
            right = right + hits.sum()
        assert total is not None
        self._right = right
        self._seen += batch["counted"]
        self.watch.see(total, self.global_step + 1)
        self._log_step(batch, batch_idx, total)
        return loss

    def optimizer_zero_grad(
        self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer
    ) -> None:
        """Forget the last step's gradients; of several pieces, the step itself does so first."""
        if not self._forgotten:
            optimizer.zero_grad()

    def _log_step(self, batch: dict[str, Any], batch_idx: int, loss: torch.Tensor) -> None:
        size = len(batch["label"])
        if self.config.data.bad_shards == "skip":
            self.log(
                "train/left_out", float(batch["left_out"]), on_step=False, on_epoch=True,
                reduce_fx="sum", sync_dist=True, batch_size=size,
            )  # fmt: skip
        # A call to `log` takes as long as the rest of the step: the loss is logged only when it
        # is recorded, and in an epoch's first and last step for progress bars.
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        last = batch_idx + 1 == self.steps_per_epoch
        due = self._begins or last or (self.global_step + 1) % every == 0
        self.logged = torch.stack([loss, batch["weight"].mean().to(loss.dtype)]) if due else None
        self._begins = False

    def on_after_backward(self) -> None:
        """Note the time, before gradients are averaged."""
        self.clock.mark("compute")

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log the loss, which `MeanGradients` has averaged over the ranks by now.

        Of a batch that is padded, or of which shards were skipped, it is the mean over the samples
        that count. The norm of the gradients is that before they are clipped.
        """
        self.clock.mark("reduce")
        if self.logged is not None:
            loss, weight = self.logged
            mean = loss / weight.clamp_min(1e-6)
            self.log("train/loss", mean, prog_bar=self._bar, batch_size=1)
            self.log("train/lr", optimizer.param_groups[-1]["lr"], batch_size=1)
            self.noted = noted(optimizer, self.group_names)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the global norm of the gradients.

        Lightning's own refuses fused optimisers under mixed precision, because they may unscale
        gradients themselves; bfloat16 needs no scaling (Lightning issue 21435).
        """
        if gradient_clip_val:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(parameters, gradient_clip_val)

    def on_train_epoch_end(self) -> None:
        """Log the accuracy over the epoch, including its earlier starts.

        Of a mixed image, it counts the label with the larger share.
        """
        right, seen = self._counted()
        self.log("train/top1", right / max(seen, 1), sync_dist=True)  # equal on all ranks
        self._right, self._seen = torch.zeros((), dtype=torch.int64), 0
        self._before, self._begins = (0, 0), True

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
            for network in (self.model, *self.raw):
                for buffer in network.buffers():
                    torch.distributed.broadcast(buffer, src=0)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Accumulate predictions as an evaluation would make them; padding does not count."""
        images = batch["image"].contiguous(memory_format=torch.channels_last)
        with plain_arithmetic(images.device.type):
            logits = self.model.forward(images)  # called, it might be compiled
            for network in self.raw:
                self.raw_scores.update(network.forward(images), batch["label"], batch["counts"])
        self.scores.update(logits, batch["label"], batch["counts"])
        self.census.update(batch["id"], batch["counts"])
        self.outputs.update(batch["id"], logits, batch["label"], batch["counts"])

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the whole val split, and keep what it is calibrated with."""
        self.census.compute()
        result = self.scores.compute(self.val_samples)
        self.predicted = self.outputs.compute()
        raw = self.raw_scores.compute(self.val_samples) if self.raw else None
        for metric in (self.census, self.scores, self.outputs, self.raw_scores):
            metric.reset()
        for name in ("top1", "macro_f1", "nll"):
            shown = self._bar and name == "top1"
            self.log(f"val/{name}", getattr(result, name), prog_bar=shown, sync_dist=True)
        if raw is not None:
            self.log("val/raw_top1", raw.top1, sync_dist=True)
            self.log("val/raw_nll", raw.nll, sync_dist=True)

    def calibration(self, mark: Mark) -> Calibration | None:
        """How a checkpoint that was just validated is calibrated; None if it cannot be."""
        dependent = getattr(self.model, "batch_dependent", False)
        if self.predicted is None or self.shards is None or dependent:
            return None
        return measure(*self.predicted, mark, self.shards)

    def configure_optimizers(self) -> Any:
        """The optimiser and its schedule, updated every step."""
        optim = self.config.optim
        scale = lr_scale(optim, self.config.trainer.global_batch)
        optimizer = build_optimizer(self.model, optim, scale)
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: lr_relative(self.scheduled(step), self.config, self.steps_per_epoch),
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add a description of the weights, as plain data, so that the file is self-contained."""
        checkpoint["pattlite"] = {
            "config": to_tree(with_absolute_paths(self.config)),
            "labels": list(self.labels),
            "shards": self.shards,
            "counted": list(self._counted()),
            **({"image": list(self.image.shape)} if self.image else {}),
            **({"learned_from": dict(self.lesson.sources)} if self.lesson else {}),
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

    def _logits(self, images: torch.Tensor) -> torch.Tensor:
        if self.config.trainer.compile:  # which merges the rounding with what follows it
            logits: torch.Tensor = self.model(images)
            return logits
        return forward(self.model, images)

    @property
    def _bar(self) -> bool:
        # Lightning reads what a progress bar shows at every step, and waits for the GPU to do so.
        return self.trainer.progress_bar_callback is not None

    def _layout(self, images: torch.Tensor) -> torch.Tensor:
        if self.config.trainer.channels_last:
            return images.contiguous(memory_format=torch.channels_last)
        return images

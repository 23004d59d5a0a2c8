"""What W&B gets beside numbers: confusion, mistakes, the manifest, the best checkpoint."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytorch_lightning as pl
from numpy.typing import NDArray
from pytorch_lightning.callbacks import Callback

from pattlite_dist.shards.manifest import MANIFEST_NAME
from pattlite_dist.tracking.record import RECORD_NAME, best_on_val, read_metrics
from pattlite_dist.tracking.settings import WandbConfig
from pattlite_dist.train.metrics import surest_mistakes
from pattlite_dist.train.names import chosen, listed

if TYPE_CHECKING:
    from pattlite_dist.tracking.wandb_logger import LenientWandbLogger


class WandbMedia(Callback):
    """Tells W&B of the best validation whenever there is one, and of the checkpoint at the end.

    Lives on the rank that logs; what goes wrong with W&B never ends the run.

    Args:
        logger: of the run.
        run: folder.
        config: of W&B.
    """

    def __init__(self, logger: "LenientWandbLogger", run: Path, config: WandbConfig) -> None:
        self.logger, self.run, self.config = logger, run, config
        self._best = -1.0

    def on_train_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Remember the best of earlier starts; name the shards, once."""
        best = best_on_val(read_metrics(self.run / RECORD_NAME))
        if best is not None:
            self._note(best["val/top1"], best.get("epoch", 0), best["step"] + 1)
        else:
            data: Any = trainer.datamodule  # type: ignore[attr-defined]
            self.logger.aside("the manifest", lambda: self._name_shards(data.manifest))

    def on_train_epoch_end(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Tell of the validation, if it is the best yet."""
        top1 = float(trainer.callback_metrics["val/top1"])
        if top1 <= self._best:
            return
        self._note(top1, trainer.current_epoch, trainer.global_step)
        if pl_module.predicted is not None:
            self.logger.aside("the confusion matrix", lambda: self._tell(trainer, pl_module))

    def on_train_end(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Name the best checkpoint, or upload it."""
        self.logger.aside("the best checkpoint", self._name_model)

    def _note(self, top1: float, epoch: int, step: int) -> None:
        self._best = top1
        best = {"best/val_top1": top1, "best/epoch": epoch + 1, "best/step": step}
        self.logger.attempt(lambda: self.logger.experiment.summary.update(best))

    def _tell(self, trainer: "pl.Trainer", module: Any) -> None:
        import wandb

        shares, labels = module.predicted
        found: dict[str, Any] = {
            "val/confusion": wandb.plot.confusion_matrix(
                y_true=labels.tolist(), preds=shares.argmax(1).tolist(), class_names=module.labels,
                title=f"val, epoch {trainer.current_epoch + 1}",
            )
        }  # fmt: skip
        if self.config.mistakes:
            reader = trainer.datamodule.reader("val")  # type: ignore[attr-defined]
            found["val/mistakes"] = self._mistakes(shares, labels, module.labels, reader)
        self.logger.experiment.log({**found, "trainer/global_step": trainer.global_step - 1})

    def _mistakes(
        self,
        shares: NDArray[np.float64],
        labels: NDArray[np.int64],
        classes: Sequence[str],
        reader: Any,
    ) -> Any:
        import wandb

        ids = surest_mistakes(shares, labels, self.config.mistakes)
        images = reader.gather(ids)[0].images
        table = wandb.Table(columns=["id", "image", "label", "predicted", "confidence"])
        for number, image in zip(ids.tolist(), images, strict=True):
            pixels = image.transpose(1, 2, 0)
            picture = wandb.Image(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
            guess = int(shares[number].argmax())
            table.add_data(number, picture, classes[labels[number]], classes[guess],
                           float(shares[number].max()))  # fmt: skip
        return table

    def _name_shards(self, manifest: Any) -> None:
        import wandb

        counts = {
            split: sum(shard.samples for shard in shards)
            for split, shards in manifest.shards.items()
        }
        digest = manifest.fingerprint()
        artifact = wandb.Artifact(
            f"shards-{digest[:12]}", "dataset",
            metadata={"fingerprint": digest, "samples": counts, "labels": list(manifest.labels)},
        )  # fmt: skip
        with artifact.new_file(MANIFEST_NAME, encoding="utf-8") as stream:
            stream.write(manifest.model_dump_json(indent=1))
        experiment = self.logger.experiment
        # Offline, an artifact can be logged but not used.
        if experiment.settings.mode == "online":
            experiment.use_artifact(artifact)
        else:
            experiment.log_artifact(artifact)

    def _name_model(self) -> None:
        import wandb

        best = chosen(listed(self.run / "checkpoints"))
        if best is None:
            return
        path = (self.run / "checkpoints" / best.name).resolve()
        known = {"epoch": best.epoch + 1, "step": best.step, "val_top1": best.top1}
        artifact = wandb.Artifact(f"model-{self.run.name}", "model", metadata=known)
        if self.config.upload_model:
            artifact.add_file(str(path))
        else:
            artifact.add_reference(path.as_uri())
        self.logger.experiment.log_artifact(artifact, aliases=["best"])

"""Two-stage training: the head on a frozen backbone, then also the backbone's last blocks.

Only parameters that require a gradient are trained. The others get none, so that no backward pass
runs through them and neither the optimiser nor weight decay changes them.
"""

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch import nn

from pattlite_dist.model.backbones import MobileNetV1, MobileNetV2
from pattlite_dist.model.build import MobileNetV2ViT, PattLite
from pattlite_dist.train.settings import FinetuneConfig

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
DROPOUTS = (
    nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout
)  # fmt: skip


def blocks(backbone: MobileNetV1 | MobileNetV2) -> list[nn.Module]:
    """The backbone's blocks from input to output; V1's stem counts as one."""
    if isinstance(backbone, MobileNetV1):
        return [backbone.stem, *backbone.blocks]
    return list(backbone.features)


def unfrozen(backbone: MobileNetV1 | MobileNetV2, last: int | None) -> list[nn.Parameter]:
    """Parameters that fine-tuning trains: the `last` blocks' (None: all), except BatchNorm."""
    parts = blocks(backbone)
    return [
        parameter
        for part in parts[0 if last is None else len(parts) - last :]
        for module in part.modules()
        if not isinstance(module, BATCH_NORMS)
        for parameter in module.parameters(recurse=False)
    ]


class Stages(Callback):
    """Sets the network to the stage of the current epoch.

    The stage depends only on the epoch, so that a resumed run continues in the right one.

    Args:
        start: first epoch of fine-tuning.
        config: of fine-tuning.
    """

    def __init__(self, start: int, config: FinetuneConfig) -> None:
        self.start, self.config = start, config

    def setup(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", stage: str) -> None:
        """Freeze the backbone before DDP collects the parameters that require a gradient."""
        network = pl_module.model
        assert isinstance(network, PattLite | MobileNetV2ViT)
        self.network = network
        network.backbone.requires_grad_(False)

    def on_train_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Enter the stage in which the run starts or continues."""
        self._enter(trainer)

    def on_train_epoch_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Switch to fine-tuning at its first epoch, with a fresh optimiser state."""
        if trainer.current_epoch == self.start:
            for optimizer in trainer.optimizers:
                optimizer.state.clear()
            self._enter(trainer)

    def _enter(self, trainer: "pl.Trainer") -> None:
        tuning = trainer.current_epoch >= self.start
        self.network.backbone.eval()  # its BatchNorm stays as loaded, in both stages
        if tuning:
            self._tune(trainer)
        if trainer.is_global_zero:
            sizes = [(p.numel(), p.requires_grad) for p in self.network.parameters()]
            print(
                f"{'fine-tuning' if tuning else 'head alone'} to epoch "
                f"{trainer.max_epochs if tuning else self.start}: trains "
                f"{sum(n for n, trained in sizes if trained):,} of {sum(n for n, _ in sizes):,} "
                "parameters",
                flush=True,
            )

    def _tune(self, trainer: "pl.Trainer") -> None:
        if self.config.dropout is not None:
            for module in self.network.modules():
                if isinstance(module, DROPOUTS):
                    module.p = self.config.dropout
        later = unfrozen(self.network.backbone, self.config.unfreeze)
        if later and not later[0].requires_grad:
            for parameter in later:
                parameter.requires_grad_(True)

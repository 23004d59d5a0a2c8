"""What of the backbone is trained: not its first blocks, or, in two stages, only its last ones.

Only parameters that require a gradient are trained. The others get none, so that no backward pass
runs through them and neither the optimiser nor weight decay changes them.
"""

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch import nn

from pattlite_dist.model.backbones import MobileNetV1, MobileNetV2, blocks, freeze
from pattlite_dist.model.build import MobileNetV2ViT, PattLite
from pattlite_dist.train.settings import FinetuneConfig

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
DROPOUTS = (
    nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout
)  # fmt: skip


def unfrozen(
    backbone: MobileNetV1 | MobileNetV2, last: int | None, first: int = 0
) -> list[nn.Parameter]:
    """Parameters that fine-tuning trains: those of some blocks, except BatchNorm.

    Args:
        backbone: to train.
        last: number of its last blocks that are trained; None: all.
        first: number of its first blocks that are not, even if they are among those.
    """
    parts = blocks(backbone)
    return [
        parameter
        for part in parts[first if last is None else max(len(parts) - last, first) :]
        for module in part.modules()
        if not isinstance(module, BATCH_NORMS)
        for parameter in module.parameters(recurse=False)
    ]


def _network(module: "pl.LightningModule") -> PattLite | MobileNetV2ViT:
    network = module.model
    assert isinstance(network, PattLite | MobileNetV2ViT)
    return network


def _say(stage: str, network: nn.Module) -> None:
    sizes = [(p.numel(), p.requires_grad) for p in network.parameters()]
    trained, every = sum(n for n, trained in sizes if trained), sum(n for n, _ in sizes)
    print(f"{stage}: trains {trained:,} of {every:,} parameters", flush=True)


class Frozen(Callback):
    """Keeps the backbone's first blocks as loaded, in a run without stages.

    Args:
        number: of blocks.
    """

    def __init__(self, number: int) -> None:
        self.number = number

    def setup(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", stage: str) -> None:
        """Freeze them before the first step."""
        freeze(_network(pl_module).backbone, self.number)

    def on_train_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Stop their statistics, and say so; earlier, Lightning would warn of it."""
        network = _network(pl_module)
        parts = blocks(network.backbone)
        for part in parts[: self.number]:
            part.eval()
        if trainer.is_global_zero:
            _say(f"first {self.number} of {len(parts)} backbone blocks frozen", network)


class Stages(Callback):
    """Sets the network to the stage of the current epoch.

    The stage depends only on the epoch, so that a resumed run continues in the right one.

    Args:
        start: first epoch of fine-tuning.
        config: of fine-tuning.
        frozen: number of the backbone's first blocks that fine-tuning does not train either.
    """

    def __init__(self, start: int, config: FinetuneConfig, frozen: int = 0) -> None:
        self.start, self.config, self.frozen = start, config, frozen
        self.tuning: bool | None = None  # the stage that was entered, if any

    def setup(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", stage: str) -> None:
        """Freeze the backbone before DDP collects the parameters that require a gradient."""
        self.network = _network(pl_module)
        self.network.backbone.requires_grad_(False)

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
        if tuning == self.tuning:  # a run that starts, or continues, where a stage does
            return
        self.tuning = tuning
        self.network.backbone.eval()  # its BatchNorm stays as loaded, in both stages
        if tuning:
            self._tune()
        if trainer.is_global_zero:
            but = f", first {self.frozen} backbone blocks frozen" if self.frozen else ""
            fine = f"fine-tuning to epoch {trainer.max_epochs}{but}"
            _say(fine if tuning else f"head alone to epoch {self.start}", self.network)

    def _tune(self) -> None:
        if self.config.dropout is not None:
            for module in self.network.modules():
                if isinstance(module, DROPOUTS):
                    module.p = self.config.dropout
        later = unfrozen(self.network.backbone, self.config.unfreeze, self.frozen)
        if later and not later[0].requires_grad:
            for parameter in later:
                parameter.requires_grad_(True)

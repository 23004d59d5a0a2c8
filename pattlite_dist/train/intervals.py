"""What a record's line says of the steps since the last one: rates, gradients, and time by rank.

The numbers of all ranks travel with a question that the ranks ask each other anyway, see
`Decisions`: each fills its own places and leaves 0 in the others', so that the largest is what its
rank has said. No step waits for them, and none has a collective more.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl

from pattlite_dist.runtime.world import World
from pattlite_dist.tracking.logs import JsonlLogger
from pattlite_dist.tracking.parts import PARTS, metrics_of


class Intervals:
    """Collects what is logged beside the loss, on all ranks, and logs it on rank 0.

    Args:
        world: which rank this is.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self._batch = 0
        self._trainer: pl.Trainer | None = None
        # Of the questions whose answers are not there yet: step, steps, and what rank 0 knows.
        self._asked: deque[tuple[int, int, dict[str, Any]]] = deque()

    def numbers(self, trainer: "pl.Trainer", module: Any) -> list[int]:
        """What this rank says at the end of a step that is logged, for all ranks to hear.

        Reads numbers from the device, so it is called after what waits for it.

        Args:
            trainer: of the run.
            module: a `FERModule`.
        """
        steps, parts = module.clock.take()
        found = [0] * (len(PARTS) * self.world.size)
        first = len(PARTS) * self.world.rank
        found[first : first + len(PARTS)] = parts
        self._trainer, self._batch = trainer, module.config.trainer.global_batch
        if self.world.main:
            noted = {name: float(value) for name, value in module.noted.items()}
            known = {"epoch": trainer.current_epoch, **noted}
            self._asked.append((trainer.global_step - 1, steps, known))
        return found

    def heard(self, numbers: Sequence[int]) -> None:
        """Log what all ranks have said, as of the step at whose end they said it."""
        if not self._asked or self._trainer is None:
            return
        step, steps, known = self._asked.popleft()
        table = [
            [number / 1e6 for number in numbers[first : first + len(PARTS)]]
            for first in range(0, len(numbers), len(PARTS))
        ]
        metrics = {**known, **metrics_of(table, steps, self._batch)}
        plain = {name: value for name, value in metrics.items() if not isinstance(value, list)}
        for logger in self._trainer.loggers:
            logger.log_metrics(metrics if isinstance(logger, JsonlLogger) else plain, step)

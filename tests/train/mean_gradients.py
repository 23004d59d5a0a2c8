"""Ranks that average gradients of their own; each prints in which steps they came out right."""

import torch
import torch.distributed as dist
from torch import nn

from pattlite_dist.runtime import world as worlds
from pattlite_dist.train.reduction import Flat


def gradients(rank: int, step: int, like: list[nn.Parameter]) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(100 * step + rank)
    return [torch.randn(p.shape, generator=random).contiguous() for p in like]


if __name__ == "__main__":
    world = worlds.detect()
    worlds.connect(world, "cpu", 1)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 5))
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    parameters = list(network.parameters())
    flat = Flat(parameters)
    found = []
    for step in (0, 1, 0):
        mine = gradients(world.rank, step, parameters)
        for parameter, gradient in zip(parameters, mine, strict=True):
            parameter.grad = gradient
        flat.spare.copy_(torch.tensor([float(world.rank), 2.0]))
        flat.average()
        mean = torch.tensor([(world.size - 1) / 2, 2.0])
        torch.testing.assert_close(flat.spare, mean)
        everyone = [gradients(rank, step, parameters) for rank in range(world.size)]
        for parameter, *parts in zip(parameters, *everyone, strict=True):
            assert parameter.grad is not None
            assert parameter.grad.stride() == parameter.stride()
            torch.testing.assert_close(parameter.grad, torch.stack(parts).mean(0))
        found.append(flat.buffer.clone())
    assert torch.equal(found[0], found[2]), "the first step's sums run in another order"
    same = [torch.empty_like(found[0]) for _ in range(world.size)]
    dist.all_gather(same, found[0])
    assert all(torch.equal(one, found[0]) for one in same)
    worlds.disconnect()
    print(f"rank {world.rank} of {world.size}: right")

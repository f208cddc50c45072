"""Ranges in a training of several processes: two of them, on the CPU."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import distributed, nn
from torch.multiprocessing import spawn

from yolov6core.quant.calibrate import collect, ranges
from yolov6core.quant.distributed import broadcast_ranges_
from yolov6core.quant.insert import freeze_weight_ranges_, get_ranges, insert_quantizers, set_ranges_
from yolov6core.quant.observers import Method

PROCESSES = 2


def small_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 1))


def calibrate_and_train(rank: int, folder: str) -> None:
    """What one process of a training does: its own shard, common ranges, gradients averaged by torch."""
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=PROCESSES)
    try:
        gm = insert_quantizers(small_net().eval())
        shard = torch.rand(4, 3, 12, 12, generator=torch.Generator().manual_seed(rank)) * (1 + rank)
        set_ranges_(gm, ranges(collect(gm, [shard], bins=256), Method("max")))
        own = get_ranges(gm)
        if rank == 0:
            freeze_weight_ranges_(gm)
        broadcast_ranges_(gm)
        common = get_ranges(gm)
        parallel = nn.parallel.DistributedDataParallel(gm.train())
        parallel(shard).square().mean().backward()
        result = {
            "own": own,
            "common": common,
            "scales": {name: module.scale for name, module in gm.ranges.items()},
            "amax": {name: buffer.clone() for name, buffer in gm.named_buffers() if name.endswith("weight_amax")},
            "frozen": gm.get_submodule("0").frozen,
            "gradient": gm.get_submodule("2").weight.grad.clone(),
        }
        torch.save(result, Path(folder) / f"{rank}.pt")
    finally:
        distributed.destroy_process_group()


def test_two_processes_have_one_set_of_ranges(tmp_path):
    spawn(calibrate_and_train, args=(str(tmp_path),), nprocs=PROCESSES)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(PROCESSES))
    assert first["own"] != second["own"], "different shards have to give different ranges, or this tests nothing"
    assert first["common"] == second["common"] == first["own"]
    assert first["scales"] == second["scales"]
    assert first["frozen"] and second["frozen"]
    assert all(torch.equal(first["amax"][name], second["amax"][name]) for name in first["amax"])
    assert torch.equal(first["gradient"], second["gradient"]) and first["gradient"].any()

"""Several processes, one training: started by torchrun, alike in every step, and with one that writes.

A batch is cut into equal shares. Every process computes the loss of its share, divided by what the whole batch has
in mind (see `DetectionLoss.normalise_over`), and DistributedDataParallel averages the gradients: the steps are those
of one process with the whole batch, but for batch norm, whose statistics are of a share unless they are synchronised.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

Item = TypeVar("Item")
STOP_FILE = "YOLOV6_STOP_FILE"
"""Environment variable with the path of a file whose existence asks the processes to stop after their step."""


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of a training, seen by one of them. Alone, all that it offers changes nothing."""

    rank: int = 0
    count: int = 1
    device: str = "cpu"
    """What this process computes on."""

    @property
    def main(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> list[Item]:
        """This process's part of `items`: equal parts, what does not divide is left out."""
        size = len(items) // self.count
        return list(items[self.rank * size : (self.rank + 1) * size])

    def sum(self, values: Tensor) -> Tensor:
        """Sum of a tensor over the processes, without gradient."""
        if self.count == 1:
            return values
        values = values.detach().clone()
        distributed.all_reduce(values)
        return values

    def mean(self, values: Tensor) -> Tensor:
        """Mean of a tensor over the processes, without gradient."""
        return values if self.count == 1 else self.sum(values) / self.count

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return flag if self.count == 1 else bool(self.sum(torch.tensor(float(flag), device=self.device)) > 0)

    def gather(self, item: Item) -> list[Item]:
        """The item of every process, by rank, in all of them."""
        if self.count == 1:
            return [item]
        items: list[Any] = [None] * self.count
        distributed.all_gather_object(items, item)
        return items

    @torch.no_grad()
    def follow_main_(self, model: nn.Module) -> None:
        """Give every process the tensors that the first one has, buffers included, in place."""
        if self.count > 1:
            for tensor in model.state_dict().values():
                distributed.broadcast(tensor, src=0)


def started_by_torchrun() -> bool:
    """Whether this process is one of several that torchrun started."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def join(device: str) -> ProcessGroup:
    """Meet the other processes that torchrun started; alone without it.

    `cuda` becomes the GPU of this process's local rank.
    """
    if not started_by_torchrun():
        return ProcessGroup(device=device)
    on_gpu = device.split(":")[0] == "cuda"
    if on_gpu:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    if not distributed.is_initialized():
        end_with_parent()
        distributed.init_process_group("nccl" if on_gpu else "gloo")
        atexit.register(distributed.destroy_process_group)
    return ProcessGroup(distributed.get_rank(), distributed.get_world_size(), device)


class _Losses(nn.Module):
    """A network and its loss as the one forward pass that DistributedDataParallel looks after."""

    def __init__(self, network: nn.Module, compute_losses: Callable[..., Mapping[str, Tensor]]) -> None:
        super().__init__()
        self.network = network
        self.compute_losses = compute_losses

    def forward(self, *arguments: Any) -> Mapping[str, Tensor]:
        return self.compute_losses(*arguments)


def with_averaged_gradients(
    network: nn.Module, compute_losses: Callable[..., Mapping[str, Tensor]], processes: ProcessGroup
) -> Callable[..., Mapping[str, Tensor]]:
    """`compute_losses`, whose backward pass leaves the mean gradient of all processes in the network's parameters."""
    if processes.count == 1:
        return compute_losses
    return nn.parallel.DistributedDataParallel(_Losses(network, compute_losses))


def device_count(devices: int | str, device: str) -> int:
    """Processes to start: as asked for; `auto` means one for each GPU, and one without."""
    if devices != "auto":
        return int(devices)
    return max(torch.cuda.device_count(), 1) if device.split(":")[0] == "cuda" else 1


def launch(arguments: Sequence[str], *, processes: int, threads: int) -> int:
    """Run `python ARGUMENTS` in so many processes on this machine; returns an exit code, 130 after Ctrl-C.

    The first Ctrl-C lets them finish their step and save, the second ends them at once. They end with this process,
    however it ends.
    """
    with tempfile.TemporaryDirectory() as folder:
        stop = Path(folder) / "stop"
        child = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "torch.distributed.run",
                "--standalone",
                f"--nproc-per-node={processes}",
                *arguments,
            ],
            env=os.environ | {"OMP_NUM_THREADS": str(max(threads, 1)), STOP_FILE: str(stop)},
            start_new_session=True,  # the terminal's Ctrl-C would make torchrun end everything before it is saved
            preexec_fn=end_with_parent,
        )

        def ask(*_: Any) -> None:
            if stop.exists():
                child.kill()
            stop.touch()

        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            code = child.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        return 130 if stop.exists() else code


def stop_asked() -> bool:
    """Whether the process that launched this one wants it to stop."""
    return STOP_FILE in os.environ and os.path.exists(os.environ[STOP_FILE])


def end_with_parent() -> None:
    """Be killed when the parent process ends (Linux): no orphan goes on computing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG

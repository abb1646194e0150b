"""Several processes that train as one: who is who, sums over all of them, and batch norms that see the whole batch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pgn_edge.errors import TrainingError
from pgn_edge.train.config import Execution, Precision

if TYPE_CHECKING:
    from accelerate import Accelerator


def make_accelerator(precision: Precision, execution: Execution) -> Accelerator:
    """What `accelerate launch` arranged: the device, the other processes and the precision.

    Args:
        precision: of the arithmetic.
        execution: its device is taken; with several processes it is theirs to choose, unless it is `cpu`.

    Raises:
        TrainingError: a device that is not there or belongs to another process, or a precision that it has not.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    device = _require_device(execution.device, alone)
    # Its state is kept between runs and refuses another precision; the processes, once they have met, stay together.
    AcceleratorState._reset_state(reset_partial_state=alone)
    on_cpu = device.type == "cpu" if device else not torch.accelerator.is_available()
    try:
        accelerator = Accelerator(mixed_precision="no" if precision == "fp32" else precision, cpu=on_cpu)
    except ValueError as exc:
        raise TrainingError("precision", expected="one that the device has", got=str(exc), do="choose another") from exc
    if device is not None:
        accelerator.state.device = device
    if precision == "fp16" and accelerator.device.type == "cpu":
        raise TrainingError("precision", expected="fp32 or bf16 on a CPU", got="fp16", do="choose another --precision")
    return accelerator


def is_first() -> bool:
    """Whether this process is the one that prints and writes."""
    return int(os.environ.get("RANK", "0")) == 0


def share_of(indices: Sequence[Any], accelerator: Accelerator) -> Sequence[Any]:
    """Every `num_processes`-th of `indices`, from this process's own number on."""
    return indices[accelerator.process_index :: accelerator.num_processes]


def add_gradients(parameters: Sequence[nn.Parameter], accelerator: Accelerator) -> None:
    """Sum gradients over all processes, in one message: a PGN's are small, and the frozen ViT has none."""
    if accelerator.num_processes == 1:
        return
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    total = accelerator.reduce(torch.cat([gradient.flatten() for gradient in gradients]), "sum")
    for gradient, part in zip(gradients, total.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


@contextmanager
def joint_batch_norm(model: nn.Module, accelerator: Accelerator) -> Iterator[None]:
    """Let the batch norms of `model` take their statistics over the batches of all processes.

    The modules change their class for as long as the context lasts: parameters, buffers and names stay where they are.
    """
    norms = [module for module in model.modules() if type(module) is nn.BatchNorm2d]
    if accelerator.num_processes == 1:
        norms = []
    try:
        for norm in norms:
            norm.__class__ = JointBatchNorm2d
        yield
    finally:
        for norm in norms:
            norm.__class__ = nn.BatchNorm2d


class JointBatchNorm2d(nn.BatchNorm2d):
    """Batch norm over all processes, on any device; torch's own needs a GPU. Scale, shift and momentum it must have."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, h, w) -> the same shape; in training by mean and variance of all processes' batches together."""
        if not self.training:
            return super().forward(input)
        x = input.float()
        channels = x.shape[1]
        own = torch.cat([x.sum(dim=(0, 2, 3)), x.new_tensor([x.numel() / channels])])
        summed = _sum(own)
        count = summed[-1].detach()
        mean = summed[:-1] / count
        centred = x - mean.view(1, -1, 1, 1)
        variance = _sum(centred.square().sum(dim=(0, 2, 3))) / count
        self._follow(mean.detach(), variance.detach(), count)
        out = centred * ((variance + self.eps).rsqrt() * self.weight).view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
        return out.to(input.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        assert self.momentum is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * count / (count - 1), self.momentum)


class _Sum(torch.autograd.Function):
    """Sum over processes; its gradient is one too, since every process's loss depends on every term."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        torch.distributed.all_reduce(total)
        return total


def _sum(tensor: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(tensor)
    return total


def _require_device(name: str | None, alone: bool) -> torch.device | None:
    if name is None:
        return None
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as exc:
        got = f"{name!r}: {exc}".split("\n")[0]
        raise TrainingError("device", expected="a device that is there", got=got, do="choose another --device") from exc
    if device.type != "cpu" and not alone:
        do = "leave --device out: each process takes a GPU of its own"
        raise TrainingError("device", expected="cpu, or none with several processes", got=name, do=do)
    return device

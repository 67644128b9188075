"""What a training loop needs beside its loss: a device, a learning rate for every update, memory that suffices."""

import contextlib
import math

import torch

from cleanmelee.cli import UserError
from cleanmelee.distributed import rank, world_size


def choose_device(name: str) -> torch.device:
    """"auto" (the card if there is one), "cpu" or "cuda". Several ranks share out the cards. Raises UserError for a
    card that is not there."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: no CUDA device that this torch can use; choose cpu, or auto to take what there "
                        "is")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", rank() % torch.cuda.device_count()) if world_size() > 1 else torch.device("cuda")


def learning_rate(schedule: str, peak: float, step: int, num_updates: int, warmup: int = 0) -> float:
    """Of update `step` of 0 .. num_updates - 1: up to `peak` in a straight line over `warmup` updates, then "constant",
    or down to 0 at the end in a straight line ("linear") or half a cosine ("cosine")."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = min(1., (step - warmup) / max(1, num_updates - warmup))
    return peak * {"constant": 1., "linear": 1 - progress, "cosine": .5 + .5 * math.cos(math.pi * progress)}[schedule]


@contextlib.contextmanager
def memory_for(batch_size: int, grad_accum: int):
    """Tells what would fit where a batch does not."""
    try:
        yield
    except RuntimeError as error:                                           # on a card: its OutOfMemoryError
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise UserError(f"--batch-size {batch_size} in {grad_accum} parts does not fit into memory: --grad-accum "
                        f"{2 * grad_accum} learns the same in parts half as large, or choose a smaller network"
                        ) from None

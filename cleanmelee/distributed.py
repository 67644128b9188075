"""One run on several processes, its ranks: `torchrun --nproc-per-node N ppo_selfplay.py ...`, or bc.py.

Every rank runs the whole script with games or windows of its own, and all of them go through the same updates: an
update's gradients are those of all ranks' rows together, so that weights, optimiser and whatever follows from results
are the same everywhere at any time. Rank 0 alone writes. Without torchrun there is one rank, and everything here hands
back what it was given.

Ranks meet in `all_gather` and `all_reduce_gradients`, which all must call in the same order. A rank that fails with a
UserError tells it in place of what it would have said next, one that has died or hangs is missed there: either way all
ranks end, with one line."""

import contextlib
import datetime
import functools
import os
import sys

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from cleanmelee.cli import UserError, as_flag, to_flags

LAUNCHED = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}            # what torchrun tells a process
PATIENCE = datetime.timedelta(minutes=30)                               # with a rank that lives and does not answer


class LostRank(UserError):
    """There is nobody to talk to any more."""


def rank() -> int:
    """Of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many ranks there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def launcher() -> str:
    """The command before the script's name that starts so many ranks."""
    return f"torchrun --nproc-per-node {world_size()}" if world_size() > 1 else "python"


def rank_seed(seed: int) -> int:
    """A seed for what must differ between the ranks, such as their games; rank 0's is `seed` itself."""
    return int(np.random.SeedSequence([seed, rank()]).generate_state(1, np.uint64)[0] >> 1) if rank() else seed


def all_gather(value=None) -> list:
    """[world size] what every rank has to say, by rank. Anything that can be pickled."""
    return _exchange(value) if world_size() > 1 else [value]


def broadcast(value):
    """What rank 0 has to say. `broadcast(f() if rank() == 0 else None)`: it does something while the others wait."""
    return all_gather(value)[0]


def all_rows(x: torch.Tensor) -> torch.Tensor:
    """The rows [N, ...] of all ranks, one rank's after the other's."""
    return torch.cat(all_gather(x.cpu())) if world_size() > 1 else x


def shard(x):
    """This rank's share of the rows of an array or a tensor that all ranks have; `all_rows` puts them together."""
    return (torch.tensor_split if isinstance(x, torch.Tensor) else np.array_split)(x, world_size())[rank()]


def all_reduce_gradients(parameters, stats: torch.Tensor) -> torch.Tensor:
    """Gradients, in place, and `stats` [n] become the sums over all ranks, in one message; -> stats. A rank's loss is
    to be its share of the whole one, so that the sum is the mean over all rows; one without rows need not have
    gradients. What has a gradient on no rank keeps none, as Adam moves what has one of 0."""
    if world_size() == 1:
        return stats
    parameters = list(parameters)
    learns = torch.tensor([float(p.grad is not None) for p in parameters], device=stats.device)
    gradients = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters]
    flat = torch.cat([learns, stats, *gradients])
    with _missing_nobody():
        dist.all_reduce(flat)
    learns, stats, *gradients = flat.split([len(learns), len(stats), *map(len, gradients)])
    for parameter, learnt, gradient in zip(parameters, learns.tolist(), gradients, strict=True):
        parameter.grad = gradient.view_as(parameter) if learnt else None
    return stats


def distributed(main):
    """main(flags) as one of the ranks that torchrun has started; without it, main as it is."""
    @functools.wraps(main)
    def on_each_rank(flags):
        if not LAUNCHED <= os.environ.keys() or os.environ["WORLD_SIZE"] == "1":
            return main(flags)
        try:
            store, number, count = next(iter(rendezvous("env://", timeout=PATIENCE)))
            dist.init_process_group("gloo", store=store, rank=number, world_size=count, timeout=PATIENCE)
        except (RuntimeError, ValueError) as error:                         # addresses, ports, numbers
            raise UserError(f"the ranks cannot meet ({error}); see the environment that torchrun has set") from None
        try:
            _check_same(all_gather(to_flags(flags)))
            main(flags)
        except LostRank:
            with contextlib.suppress(RuntimeError):                         # the store went with rank 0
                if store.add("told", 1) > 1:
                    sys.exit(2)                                             # another rank tells it
            raise
        except UserError as error:
            with contextlib.suppress(LostRank):                             # they have ended already
                _exchange(None, str(error))
            raise
        except KeyboardInterrupt:
            if number:
                sys.exit(130)
            raise
        finally:
            dist.destroy_process_group()
    return on_each_rank


def _exchange(value, mistake: str = "") -> list:
    """The values of all ranks. If one has a mistake to tell in its place, all end, and rank 0 tells it."""
    told = [("", None)] * world_size()
    with _missing_nobody():
        dist.all_gather_object(told, (mistake, value))
    for mistake, _ in told:
        if mistake:
            raise UserError(mistake) if rank() == 0 else SystemExit(2)
    return [value for _, value in told]


@contextlib.contextmanager
def _missing_nobody():
    try:
        yield
    except RuntimeError as error:                                           # gloo's: closed, reset, timed out ...
        late = "imed out" in str(error)
        what = f"has not answered for {PATIENCE.total_seconds() / 60:g} minutes" if late else "has ended"
        raise LostRank(f"a process of this run {what}; go on from its last checkpoint with --resume") from error


def _check_same(flags: list[dict]) -> None:
    for number, others in enumerate(flags):
        for name, value in flags[0].items():
            if others[name] != value:
                raise UserError(f"{as_flag(name)}: rank 0 was started with {value!r}, rank {number} with "
                                f"{others[name]!r}; give all ranks the same")

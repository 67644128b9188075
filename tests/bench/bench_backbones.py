"""What every backbone costs: parameters, learning, and a step of play.

    python tests/bench/bench_backbones.py                     # one thread: three minutes

All of them two layers of 256, then lstm and transformer at the sizes of slippi-ai's networks, 2.5 and 12.8 million
parameters. Learning: forward, backward and AdamW over windows of 16 frames, 64 side by side. A step: one forward of
play with sampling, for 1 and for 16 players. Both are the whole policy, embedding and heads included. Times are the
processor's, so that other work on the machine does not count.

The share of the peak: the products with weight matrices that learning needs, six operations a weight and frame, beside
what this thread does in products of matrices of 2048 x 2048. Tables of ids and attention's own products are not
counted."""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from helpers import random_actions, random_observation  # noqa: E402
from cleanmelee.controller import NUM_LOGITS
from cleanmelee.observation import Observation
from melee_common import BACKBONES, Policy, action_logprobs
from results import save

LARGE = 2.5e6, 12.8e6                                   # parameters


def learning(policy: Policy, frames: int, windows: int, seconds: float) -> float:
    """Frames learnt a second of processor time, best of the repeats."""
    obs = random_observation(0, frames, windows)
    actions = torch.from_numpy(random_actions(np.random.default_rng(0), frames, windows))
    resets = torch.zeros(frames, windows, dtype=torch.bool)
    resets[0] = True
    optimizer = torch.optim.AdamW(policy.parameters())
    times = []
    while sum(times) < seconds:
        tick = time.process_time()
        features, _ = policy.unroll(obs, policy.initial_state(windows), resets)
        loss = -action_logprobs(policy.logits(features, actions), actions)[0].sum(-1).mean()
        optimizer.zero_grad()
        (loss + policy.value(features).square().mean()).backward()
        optimizer.step()
        times.append(time.process_time() - tick)
    return frames * windows / np.min(times)


@torch.inference_mode()
def step(policy: Policy, rows: int, seconds: float) -> float:
    """Median microseconds of processor time."""
    obs, noise = random_observation(0, rows), torch.rand(rows, NUM_LOGITS)
    state = policy.initial_state(rows)
    times = []
    while sum(times) < seconds:
        tick = time.process_time()
        _, state = policy.step(Observation(*obs), state, noise)
        times.append(time.process_time() - tick)
    return float(np.median(times)) * 1e6


def peak(seconds: float) -> float:
    """Operations a second of processor time in products of large matrices, best of the repeats."""
    x, y, times = torch.rand(2048, 2048), torch.rand(2048, 2048), []
    while sum(times) < seconds:
        tick = time.process_time()
        x @ y
        times.append(time.process_time() - tick)
    return 2 * 2048 ** 3 / np.min(times)


def weights(policy: Policy) -> int:
    """Those that a frame is multiplied by."""
    tables = {id(module.weight) for module in policy.modules() if isinstance(module, torch.nn.Embedding)}
    return sum(p.numel() for p in policy.parameters() if p.dim() > 1 and id(p) not in tables)


def of_size(name: str, parameters: float, num_layers: int) -> int:
    """The width, a multiple of 32, at which a backbone's policy has nearest to so many parameters."""
    def missing(width):
        with torch.device("meta"):
            policy = Policy(name, (width,), num_layers=num_layers)
        return abs(sum(p.numel() for p in policy.parameters()) - parameters)
    return min(range(256, 2048, 32), key=missing)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--num-layers", type=int, default=2)
    parser.add_argument("--window", type=int, default=16)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--json", default="", help="file for the figures")
    args, began, rows = parser.parse_args(), time.time(), []
    table = Table("backbone", "width", "parameters", "learns frames/s", "of the peak", "step of 1, us",
                  "step of 16, us", title=f"{args.num_layers} layers, {torch.get_num_threads()} thread")
    sizes = [(name, args.size) for name in BACKBONES] + [
        (name, of_size(name, parameters, args.num_layers)) for parameters in LARGE for name in ("lstm", "transformer")]
    for name, width in sizes:
        torch.manual_seed(0)
        if name == "mlp":
            policy = Policy(name, (width,) * args.num_layers)
        else:
            policy = Policy(name, (width,), num_layers=args.num_layers)
        most = peak(args.seconds / 3)                                       # of this moment
        fps = learning(policy, args.window, args.batch, args.seconds)
        one, sixteen = (step(policy, players, args.seconds / 3) for players in (1, 16))
        rows.append({"backbone": name, "width": width, "parameters": sum(p.numel() for p in policy.parameters()),
                     "learns": fps, "share": 6 * weights(policy) * fps / most, "peak": most, "step_1": one,
                     "step_16": sixteen})
        table.add_row(name, str(width), f"{rows[-1]['parameters']:,}", f"{fps:,.0f}", f"{rows[-1]['share']:.0%}",
                      f"{one:.0f}", f"{sixteen:.0f}")
    Console(width=120).print(table)
    save(args.json, rows, began)


if __name__ == "__main__":
    main()

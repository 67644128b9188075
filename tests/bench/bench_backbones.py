"""What every backbone costs: parameters, learning, and a step of play.

    python tests/bench/bench_backbones.py                     # 256 wide, two layers, one thread: a minute

Learning: forward, backward and AdamW over windows of 16 frames, 64 side by side. A step: one forward of play with
sampling, for 1 and for 16 players. Both are the whole policy, embedding and heads included. Times are the processor's,
so that other work on the machine does not count."""

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--num-layers", type=int, default=2)
    parser.add_argument("--window", type=int, default=16)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--json", default="", help="file for the figures")
    args, began, rows = parser.parse_args(), time.time(), []
    table = Table("backbone", "parameters", "learns frames/s", "G parameters/s", "step of 1, us", "step of 16, us",
                  title=f"{args.size} wide, {args.num_layers} layers, {torch.get_num_threads()} thread")
    for name in BACKBONES:
        torch.manual_seed(0)
        if name == "mlp":
            policy = Policy(name, (args.size,) * args.num_layers)
        else:
            policy = Policy(name, (args.size,), num_layers=args.num_layers)
        parameters = sum(p.numel() for p in policy.parameters())
        fps = learning(policy, args.window, args.batch, args.seconds)
        one, sixteen = (step(policy, players, args.seconds / 3) for players in (1, 16))
        table.add_row(name, f"{parameters:,}", f"{fps:,.0f}", f"{parameters * fps / 1e9:.1f}", f"{one:.0f}",
                      f"{sixteen:.0f}")
        rows.append({"backbone": name, "parameters": parameters, "learns": fps, "giga": parameters * fps / 1e9,
                     "step_1": one, "step_16": sixteen})
    Console(width=120).print(table)
    save(args.json, rows, began)


if __name__ == "__main__":
    main()

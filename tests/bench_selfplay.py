"""How fast self-play learns on this machine: agent frames a second, where the time goes, and the ceiling of the parts.

    python tests/bench_selfplay.py                      # about four minutes on two cores
    python tests/bench_selfplay.py --games 8 --backbones mlp

An agent frame is one decision that the learner made and learned from; with action repeat 3 a game frame costs a third of
one. Each row is a run of ppo_selfplay.py at its defaults: the median of its iterations after a warm-up. `ceiling` is what
acting alone and learning alone would allow if collecting results, rewards and bookkeeping cost nothing.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

ROOT = Path(__file__).resolve().parents[1]
SIZES = {"mlp": "512,512", "gru": "256"}


@dataclass
class Args:
    games: tuple[int, ...] = (8, 64, 256)
    """numbers of games side by side"""
    backbones: tuple[str, ...] = ("mlp", "gru")
    """networks: mlp is 512,512, gru is 256"""
    iterations: int = 12
    """iterations a row, of which the first three are warm-up"""


def bench(games: int, backbone: str, iterations: int) -> dict:
    rollout = max(16, 128 * 8 // games)                                     # 1024 frames or more in an iteration
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "ppo_selfplay.py", f"--num-games={games}", f"--backbone={backbone}", f"--hidden={SIZES[backbone]}",
             f"--rollout-length={rollout}", f"--timesteps={games * rollout * 3 * iterations}", "--eval-interval=0",
             "--pool-interval=1", f"--runs-dir={folder}", "--run-name=bench"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        rows = [json.loads(line) for line in (Path(folder) / "bench" / "metrics.jsonl").read_text().splitlines()]
    agent = np.diff([0] + [row["charts/agent_frames"] for row in rows])[3:]
    env, policy, learn = (np.array([row[f"time/{name}"] for row in rows])[3:] for name in ("env", "policy", "learn"))
    return {"agent_fps": np.median(agent / (env + policy + learn)), "game_fps": np.median(games * rollout * 3 / (env + policy + learn)),
            "ceiling": np.median(agent / (policy + learn)),
            **{name: np.median(t / (env + policy + learn)) for name, t in (("env", env), ("policy", policy), ("learn", learn))}}


def main(args: Args) -> None:
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"{'network':10s}{'games':>6s}{'agent frames/s':>16s}{'game frames/s':>15s}{'ceiling':>9s}{'env':>7s}{'policy':>8s}{'learn':>7s}")
    for backbone in args.backbones:
        for games in args.games:
            r = bench(games, backbone, args.iterations)
            print(f"{backbone:10s}{games:6d}{r['agent_fps']:16,.0f}{r['game_fps']:15,.0f}{r['ceiling']:9,.0f}"
                  f"{r['env']:7.0%}{r['policy']:8.0%}{r['learn']:7.0%}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Args))

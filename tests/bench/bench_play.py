"""How play keeps up with a slow policy: the game waits for it, or goes on at 60 frames a second without its late
decisions.

    python tests/bench/bench_play.py                    # two policies learn for half a minute each, then three minutes

Both decide on every third frame (50 ms), one acts on the next, the other was trained to act three frames late. A
decision is made to take --milliseconds.
"""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import play
from melee_common import Policy
from results import ROOT, save


@dataclass
class Args:
    milliseconds: float = 40.
    """of a decision"""
    frames: int = 3600
    """of the game"""
    timesteps: int = 1_000_000
    """game frames of self-play that a policy learns from"""
    json: str = ""
    """file for the figures (off: empty)"""


def trained(folder: str, delay: int, timesteps: int) -> str:
    """-> the run of a policy that acts `delay` frames late."""
    subprocess.run(
        [sys.executable, "ppo_selfplay.py", "--num-games=8", f"--timesteps={timesteps}", f"--frame-delay={delay}",
         "--eval-interval=0", f"--runs-dir={folder}", f"--run-name=delay{delay}"],
        cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return f"{folder}/delay{delay}"


def main(args: Args) -> None:
    step, began, rows = Policy.step, time.time(), []

    def slow_step(*inputs):
        time.sleep(args.milliseconds / 1000)
        return step(*inputs)

    with tempfile.TemporaryDirectory() as folder:
        policies = {delay: trained(folder, delay, args.timesteps) for delay in (0, 3)}
        Policy.step = slow_step
        for delay, asynchronous in ((0, False), (0, True), (3, True)):
            name = ("beside the game" if asynchronous else "the game waits") + (
                f", trained for a delay of {delay} frames" if delay else "")
            print(f"\n{name}")
            results = Path(folder) / f"{len(rows)}.jsonl"
            play.main(play.Args(policies[delay], "level3", num_games=1, max_episode_frames=args.frames,
                                async_inference=asynchronous, results=str(results)))
            row = json.loads(results.read_text())
            rows.append({"play": name, "frames_per_second": row["frames_per_second"],
                         "frames_missed": row["frames_missed"]})
    save(args.json, rows, began, milliseconds=args.milliseconds, frames=args.frames)


if __name__ == "__main__":
    main(tyro.cli(Args))

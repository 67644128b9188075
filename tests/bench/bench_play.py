"""How play keeps up with a slow policy: the game waits for it, or goes on at 60 frames a second without its late
decisions.

    python tests/bench/bench_play.py
"""

import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import play
from melee_common import Policy, save_checkpoint
from results import save


@dataclass
class Args:
    milliseconds: float = 40.
    """of a decision"""
    frames: int = 600
    """of the game"""
    json: str = ""
    """file for the figures (off: empty)"""


def main(args: Args) -> None:
    step, began, rows = Policy.step, time.time(), []

    def slow_step(*inputs):
        time.sleep(args.milliseconds / 1000)
        return step(*inputs)

    Policy.step = slow_step
    with tempfile.TemporaryDirectory() as folder:
        for delay, asynchronous in ((0, False), (0, True), (4, True)):
            path = save_checkpoint(Path(folder) / f"delay{delay}.pt", Policy("mlp", (64,), frame_delay=delay))
            name = ("beside the game" if asynchronous else "the game waits") + (
                f", trained for a delay of {delay} frames" if delay else "")
            print(f"\n{name}")
            results = Path(folder) / f"{len(rows)}.jsonl"
            play.main(play.Args(str(path), "idle", num_games=1, max_episode_frames=args.frames,
                                async_inference=asynchronous, results=str(results)))
            row = json.loads(results.read_text())
            rows.append({"play": name, "frames_per_second": row["frames_per_second"],
                         "frames_missed": row["frames_missed"]})
    save(args.json, rows, began)


if __name__ == "__main__":
    main(tyro.cli(Args))

"""How play keeps up with a slow policy: the game waits for it, or goes on at 60 frames a second without its late
decisions.

    python tests/bench/bench_play.py [milliseconds of a decision, 40] [game frames, 600]
"""

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import play
from melee_common import Policy, save_checkpoint


def main(milliseconds: float = 40., frames: int = 600) -> None:
    step = Policy.step

    def slow_step(*args):
        time.sleep(milliseconds / 1000)
        return step(*args)

    Policy.step = slow_step
    with tempfile.TemporaryDirectory() as folder:
        for delay, asynchronous in ((0, False), (0, True), (4, True)):
            path = save_checkpoint(Path(folder) / f"delay{delay}.pt", Policy("mlp", (64,), frame_delay=delay))
            print(f"\nframe delay {delay}, " + ("inference beside the game" if asynchronous else "the game waits"))
            play.main(play.Args(str(path), "idle", num_games=1, max_episode_frames=int(frames),
                                async_inference=asynchronous, results=""))


if __name__ == "__main__":
    main(*map(float, sys.argv[1:]))

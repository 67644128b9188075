"""How fast and how robust games on Dolphin are, measured on the stand-in (whose game is the embedded one): no ISO
needed.

    python tests/bench/bench_dolphin.py [number of Dolphins]
"""

import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "tools")]
import fake_dolphin
import ppo_selfplay
from cleanmelee.dolphin import ISO_SIZE, DolphinArgs
from cleanmelee.frame import CHARACTERS, CONTROLLER, STAGES
from cleanmelee.games import VecEnv
from helpers import dolphin_of

NUM_FRAMES = 1000


class Alone(fake_dolphin.Dolphin):
    """The stand-in's own work, frame by frame, with nobody at the other end."""

    def __init__(self):
        self.games, self.cursor, self.pads, self.started = 0, 0, {}, time.perf_counter()

    def send(self, message):
        fake_dolphin.json.dumps(message).encode()
        if self.cursor == NUM_FRAMES:
            raise StopIteration

    def read_pads(self):
        pass

    def rate(self) -> float:
        try:
            self.game([CHARACTERS["fox"], CHARACTERS["marth"]], [0, 0], STAGES["final_destination"])
        except StopIteration:
            return NUM_FRAMES / (time.perf_counter() - self.started)


class Disturbed(VecEnv):
    """The games of a training run: its first 100 steps are timed, then a Dolphin is killed, later one hangs."""
    faults, steps, tick, hurt_at = [("killed", signal.SIGKILL), ("hung", signal.SIGSTOP)], 0, 0., 0

    def step(self, controllers):
        if self.steps == 0:
            self.tick = time.perf_counter()
        ends = super().step(controllers)
        self.steps += 1
        if self.steps == 100:
            Disturbed.each = 100 * self.action_repeat / (time.perf_counter() - self.tick)
        if self.hurt_at and not ends[2][0]:
            fault, _ = self.faults.pop(0)
            print(f"training, {fault}: its game was back after {time.perf_counter() - self.tick:.1f} s, "
                  f"in which the others played {self.steps - self.hurt_at} steps")
            self.hurt_at = 0
        elif self.steps >= 100 and self.faults and not ends[2].any():
            os.kill(dolphin_of(self._workers[0]), self.faults[0][1])
            self.tick, self.hurt_at = time.perf_counter(), self.steps
        return ends


def train(n: int, args: DolphinArgs, alone: float, folder: str) -> None:
    """ppo_selfplay.py itself."""
    ppo_selfplay.VecEnv = Disturbed
    ppo_selfplay.main(ppo_selfplay.Args(
        game_type="dolphin", live=args, num_games=n, character="fox", timesteps=n * 3 * 128 * 12, hidden="128",
        eval_interval=0, runs_dir=folder, run_name="bench"))
    print(f"training: {Disturbed.each:.0f} frames/s each, {n * Disturbed.each:.0f} in all, policy included; "
          f"the stand-in alone {alone:.0f} ({Disturbed.each / alone:.0%})")
    if Disturbed.faults:
        print("the run was over before the last game was back")


def main(n: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        executable, iso = Path(folder) / "dolphin", Path(folder) / "melee.iso"
        executable.write_text(f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT / 'tests/tools')!r})\n"
                              "import fake_dolphin\nfake_dolphin.main()\n")
        executable.chmod(0o755)
        iso.write_bytes(b"GALE01\0\2")
        os.truncate(iso, ISO_SIZE)
        args, nothing = DolphinArgs(dolphin=str(executable), iso=str(iso), step_timeout=2), np.zeros((n, 2), CONTROLLER)
        tick = time.perf_counter()
        with VecEnv(n, CHARACTERS["fox"], STAGES["final_destination"], dolphin=args, max_episode_frames=0) as envs:
            print(f"{n} Dolphins started and through the menus in {time.perf_counter() - tick:.1f} s")
            Alone().rate()
            alone, tick = Alone().rate(), time.perf_counter()
            for _ in range(NUM_FRAMES):
                envs.step(nothing)
            each = NUM_FRAMES / (time.perf_counter() - tick)
            print(f"{each:.0f} frames/s each, {n * each:.0f} in all; the stand-in alone {alone:.0f} "
                  f"({each / alone:.0%})")
            for name, number in (("killed", signal.SIGKILL), ("hung", signal.SIGSTOP)):
                os.kill(dolphin_of(envs._workers[0]), number)
                tick, steps, broken = time.perf_counter(), 0, True
                while broken or not steps:
                    broken = bool(envs.step(nothing)[2][0])
                    steps += 1
                print(f"{name}: its game was back after {time.perf_counter() - tick:.1f} s (step time-out "
                      f"{args.step_timeout:.0f} s), in which the others played {steps} frames")
        train(n, args, alone, folder)


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 4)

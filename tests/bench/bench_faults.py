"""What faults cost: each worker in turn is killed, hung and made to raise, then a whole run is killed and resumed.

    python tests/bench/bench_faults.py                # one and a half minutes

Eight games on four workers, played at random beside a twin without workers that nothing befalls. `back after` is the
time of the step in which it happened, at whose end the worker's games have begun anew; the other games wait for that
step, but lose nothing: `others lost` counts their frames that differ from the twin's.
"""

import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from cleanmelee.controller import decode_actions
from cleanmelee.frame import CHARACTERS, STAGES
from cleanmelee.games import Games, VecEnv
from helpers import random_actions

GAMES, WORKERS, SICK = 8, 4, 12345.


def worker_faults() -> None:
    step = Games.step

    def fails(self, *limits):
        if (self.frames["players"]["x"] == SICK).any():
            raise RuntimeError("made to fail")
        return step(self, *limits)

    Games.step = fails
    print(f"{'fault':8s}{'worker':>7s}{'back after':>12s}{'its games lost':>16s}{'others lost':>13s}   log")
    for fault in ("killed", "hung", "raising"):
        log, rng = [], np.random.default_rng(0)
        games = functools.partial(VecEnv, GAMES, CHARACTERS["fox"], STAGES["final_destination"], seed=1)
        with games(num_workers=WORKERS, log=log.append) as envs, games() as twin:
            healthy = np.ones(GAMES, bool)
            for k in range(WORKERS):
                mine = slice(k * GAMES // WORKERS, (k + 1) * GAMES // WORKERS)
                lost = 0
                for t in range(400):
                    controllers = decode_actions(random_actions(rng, GAMES, 2))
                    if t == 200:
                        played = int(envs.games.episode_frames[mine].sum())
                        if fault == "raising":
                            envs.frames["players"]["x"][mine.start, 0] = SICK
                        else:
                            os.kill(envs._workers[k].pid, signal.SIGKILL if fault == "killed" else signal.SIGSTOP)
                        healthy[mine] = False
                    began = time.perf_counter()
                    broken = envs.step(controllers)[2]
                    seconds = time.perf_counter() - began
                    twin.step(controllers)
                    if t == 200:
                        assert broken[mine].all() and broken.sum() == GAMES // WORKERS
                        back = seconds
                    assert t == 200 or not broken.any()
                    pairs = zip(envs.frames[healthy], twin.frames[healthy], strict=True)
                    lost += sum(a.tobytes() != b.tobytes() for a, b in pairs)
                print(f"{fault:8s}{k:7d}{back:10.3f} s{played:9d} frames{lost:6d} frames   {log[-1].splitlines()[0]}",
                      flush=True)
    Games.step = step


def run_killed(folder: str) -> None:
    """Kills a run and all that belongs to it at three moments, resumes it, and compares it with one that was left
    alone."""
    def start(name, *more):
        return subprocess.Popen([sys.executable, "ppo_selfplay.py", *(more or (
            f"--run-name={name}", f"--runs-dir={folder}", "--num-games=8", "--num-workers=4", "--timesteps=300000",
            "--hidden=64", "--rollout-length=64", "--save-interval=20", "--pool-interval=10",
            "--eval-interval=0"))], cwd=ROOT, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})

    def metrics(name):
        path = Path(folder) / name / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    curve = lambda rows: [{k: v for k, v in row.items() if "time/" not in k and k != "charts/SPS"} for row in rows]
    assert start("whole").wait() == 0
    run, kills = start("killed"), []
    for iterations in (25, 90, 150):
        while len(metrics("killed")) < iterations:
            assert run.poll() is None
            time.sleep(.01)
        run.kill(), run.wait()
        reached, began = metrics("killed")[-1]["iteration"], time.perf_counter()
        run = start("killed", f"--resume={folder}/killed")
        while not (rows := metrics("killed")) or rows[-1]["iteration"] <= reached:
            assert run.poll() is None
            time.sleep(.01)
        kills.append((reached, time.perf_counter() - began, reached % 20))
    assert run.wait() == 0
    for reached, seconds, lost in kills:
        print(
            f"run killed after iteration {reached}: past it again {seconds:.1f} s after --resume, {lost} "
            "iterations repeated"
        )
    same = curve(metrics("killed")) == curve(metrics("whole"))
    print(f"learning curve equal to that of a run that was left alone, {len(metrics('whole'))} iterations: {same}")
    assert same


if __name__ == "__main__":
    worker_faults()
    with tempfile.TemporaryDirectory() as folder:
        run_killed(folder)

"""Speed of the embedded game on one core, warm, combat on, both players acting: a line per number of games.

    python tests/bench/bench_game.py               # exits 1 under a floor and says under which
    python tests/bench/bench_game.py --json FILE   # also writes the figures there
    python tests/bench/bench_game.py --record      # records tests/bench/game.slp anew: level 9 twice, 20 s

Every game repeats the controllers of tests/bench/game.slp, each of them some frames later than the one before it, so
that only the game is measured: each thousand frames of it are played fifteen times and the least time counts, since
others may be at work beside it. Floors: 500,000 game frames a second at 8 and 1024 games, 150,000 for a single game
called from Python; a compilation within 65 s, a warm import within .65 s, 4 kB of state per game.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from cleanmelee import game
from results import save

TAPE = ROOT / "tests" / "bench" / "game.slp"
FLOORS, REPEATS, RECORDED = {1: 150_000, 8: 500_000, 1024: 500_000}, 5, 1200
RUNS, PART = 15, 1000                                  # of the same game; game frames that are timed together
COLD_SECONDS, IMPORT_SECONDS, STATE_BYTES = 65, .65, 4096


def start(characters):
    n = len(characters)
    frames, hidden = np.zeros(n, game.FRAME), np.zeros(n, game.HIDDEN)
    game.reset_games(frames, hidden, np.ones(n, bool), characters, np.full(n, 32), np.arange(n, dtype=np.uint64))
    return frames, hidden


def record():
    from cleanmelee.recording import SlpWriter
    frames, hidden = start([(game.FOX, game.MARTH)])
    bots, controllers = np.zeros((1, 2), game.BOT), np.zeros((1, 2), game.CONTROLLER)
    bots["kind"], bots["seed"] = game.BOTS["level9"], [1, 2]
    with SlpWriter(TAPE, started=0) as writer:
        for _ in range(RECORDED):
            game.bot_controllers(frames, bots, controllers)
            game.step_games(frames, hidden, controllers)
            writer.add(frames[0], controllers[0])


def game_frames_per_second(num_games, tape):
    everybody = np.array(list(game.CHARACTERS.values()))
    characters = everybody[(np.arange(2 * num_games) * 7 // 2 % len(everybody)).reshape(num_games, 2)]
    steps = min(len(tape), max(200, 400_000 // num_games))
    shifted = np.arange(len(tape) + steps)[:, None] + 37 * np.arange(num_games)
    inputs = tape[shifted[:steps] % len(tape)]         # [steps, N, 2]
    parts = np.array_split(np.arange(steps), max(num_games * steps // PART, 1))
    times = np.zeros((RUNS, len(parts)))
    for run in range(RUNS):
        frames, hidden = start(characters)
        for part, indices in enumerate(parts):
            begin = time.perf_counter()
            for index in indices.tolist():
                game.step_games(frames, hidden, inputs[index])
            times[run, part] = time.perf_counter() - begin
    return num_games * steps / float(times.min(0).sum())


def seconds(code, **environment):
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ | environment, check=True,
                   stderr=subprocess.DEVNULL)
    return time.perf_counter() - begin


def main():
    if "--record" in sys.argv:
        return record()
    from cleanmelee.replays import read_replay
    began = time.time()
    game.warm_up()
    tape, missed, rows = read_replay(TAPE).controllers[-RECORDED:], [], []

    def check(what, value, holds):
        print(what.format(value))
        if not holds:
            missed.append(what.format(value).strip())

    for num_games in (1, 8, 64, 1024):
        speed = game_frames_per_second(num_games, tape)
        rows.append({"games": num_games, "frames_per_second": speed})
        check(f"{num_games:5d} games: {{:12,.0f}} game frames/s", speed, speed >= FLOORS.get(num_games, 0))
    size = game.FRAME.itemsize + game.HIDDEN.itemsize
    check("{} bytes of state per game", size, size <= STATE_BYTES)
    with tempfile.TemporaryDirectory() as folder:
        cold = seconds("from cleanmelee import game; game.warm_up()", NUMBA_CACHE_DIR=folder)
    check("cold start with compilation: {:.1f} s", cold, cold <= COLD_SECONDS)
    seconds("from cleanmelee import game")
    warm = float(np.median([seconds("from cleanmelee import game") for _ in range(REPEATS)]))
    check("warm import, with Python's own start: {:.2f} s", warm, warm <= IMPORT_SECONDS)
    file = sys.argv[sys.argv.index("--json") + 1] if "--json" in sys.argv else ""
    save(file, rows, began, state_bytes=size, compile_seconds=cold, import_seconds=warm)
    for line in missed:
        print(f"UNDER THE FLOOR: {line}")
    return len(missed) > 0


if __name__ == "__main__":
    sys.exit(main())

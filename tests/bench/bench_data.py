"""Does memory stay flat however many games there are, and does the loader keep ahead of the learner?

    python tests/bench/bench_data.py                    # ten thousand games of ten seconds; exits 1 under a floor
    python tests/bench/bench_data.py --games 60         # does it work? Its numbers are no measurement

The games are played by scripted bots in the embedded game and go straight into a cache folder through its writer: ten
thousand .slp files would take an hour to write and to parse. Beside them lie empty files of the replays' names, so that
bc.py's own way finds them: names and times, index, filters, windows. A row is a process of its own with so many of the
games: seconds until the first batch (from the folder's name on, imports apart), frames a second of the loader alone, in
wall and in processor time, distinct games a batch, how many bytes a game the index takes at most while it is read, the
peak of resident memory, and what the rows would have taken in memory. The learner is bc.py's default network on one
batch over and over.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import tracemalloc
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import bc  # noqa: E402 (after the path is set)
from cleanmelee import replays
from cleanmelee.dataset import Windows, open_games, prefetch
from cleanmelee.features import NUM_FLOATS, NUM_INTS
from cleanmelee.frame import CHARACTERS, STAGES
from cleanmelee.game import BOTS
from cleanmelee.games import VecEnv
from cleanmelee.packed import Store, pack_game
from melee_common import Policy
from results import save

CONTROL_AFTER = 84                                      # frames of a game before anybody acts
SIDE_BY_SIDE = 250                                      # games that are played together
BATCHES = 100
MEMORY_FLOOR, SPEED_FLOOR = 2048, 10                    # MB at most; times as fast as the learner at least


@dataclass
class Args:
    games: int = 10_000
    """games to make; rows are measured for a hundredth, a tenth and all of them"""
    frames: int = 600
    """frames of each in which the players act"""
    json: str = ""
    """file for the figures (off: empty)"""
    listed: str = ""
    """measure one row: of the games that this file lists"""


def write_games(folder: Path, cache: Path, args: Args) -> tuple[float, float]:
    """-> seconds, bytes a frame"""
    began, length, made = time.perf_counter(), args.frames + CONTROL_AFTER, 0
    store = Store(cache, replays._parser_digest())
    names, stages = list(CHARACTERS), list(STAGES.values())
    while made < args.games:
        n = min(SIDE_BY_SIDE, args.games - made)
        rng = np.random.default_rng(made)
        characters = rng.choice([CHARACTERS[name] for name in names], (n, 2))
        with VecEnv(n, characters, rng.choice(stages, n), seed=made, bot_kinds=BOTS["level5"],
                    max_episode_frames=0) as envs:
            frames = np.empty((length, n), envs.frames.dtype)
            controllers = np.empty((length, n, 2), envs.controllers.dtype)
            for t in range(length):
                frames[t], controllers[t] = envs.frames, envs.controllers
                envs.step(envs.controllers)
        for k in range(n):
            digest = f"{(made + k) * 0x9E3779B97F4A7C15 % 2 ** 64:016x}" + 48 * "0"         # spread, for the split
            path = folder / f"{made + k:06d}.slp"
            path.touch()
            own_frames = np.ascontiguousarray(frames[:, k])
            meta = {"hash": digest, "game": digest, "version": (3, 18, 0), "frames": length, "ports": (0, 1),
                    "characters": tuple(characters[k].tolist()), "types": ("Human", "Human"), "names": ("", ""),
                    "codes": ("", ""), "tags": ("", ""), "warning": ""}
            facts = {"first_frame": int(own_frames["frame_id"][0]), "active": replays.activity(controllers[:, k])}
            store.add_game(str(path), replays._stamp(path), meta, facts, pack_game(own_frames, controllers[:, k]))
        made += n
    store.seal()
    size = sum(path.stat().st_size for path in cache.iterdir())
    return time.perf_counter() - began, size / (args.games * length)


def learner_speed(rows) -> float:
    """Frames a second of processor time."""
    torch.manual_seed(1)
    policy = Policy("gru", (256,))
    optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-3)
    for k in range(6):
        if k == 1:
            began = time.process_time()
        optimizer.zero_grad()
        nll, value, _ = bc.losses(policy, rows, policy.initial_state(rows.weights.shape[1]))
        ((nll + value) / rows.weights.sum()).backward()
        optimizer.step()
    return 5 * rows.weights.numel() / (time.process_time() - began)


def measure_row(files: list[str]) -> dict:
    torch.set_num_threads(1)
    defaults = bc.Args()
    began = time.perf_counter()
    train, _, _ = open_games(files, num_workers=0, min_active=defaults.min_active)
    opened = time.perf_counter() - began
    tracemalloc.start()
    open_games(files, num_workers=0, min_active=defaults.min_active)
    index = tracemalloc.get_traced_memory()[1] / len(files)
    tracemalloc.stop()
    began = time.perf_counter() - opened                                    # that was not on the way to a batch
    windows = Windows(train, defaults.window_size, defaults.window_size, defaults.batch_size, seed=1)
    ahead = prefetch(windows, windows.schedule(1))
    rows = next(ahead)
    first = time.perf_counter() - began
    ahead.close()
    learner = learner_speed(rows)
    keys = list(zip(range(BATCHES), windows.schedule(10), strict=False))
    wall, cpu = time.perf_counter(), time.process_time()
    for _, key in keys:
        windows[key]
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    frames = len(keys) * rows.weights.numel()
    distinct = np.mean([len(set(train.sides[windows.choose(*key)[0], 0].tolist())) for _, key in keys])
    return {"games": len(train), "rows": train.frames, "opened": opened, "first": first, "wall": frames / wall,
            "cpu": frames / cpu, "learner": learner, "distinct": distinct, "index": index,
            "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def main(args: Args) -> None:
    if args.listed:
        print(json.dumps(measure_row(Path(args.listed).read_text().splitlines())))
        return
    failed, rows, began = [], [], time.time()
    with tempfile.TemporaryDirectory() as place:
        folder, cache = Path(place) / "games", Path(place) / "cleanmelee" / "replays"
        folder.mkdir()
        cache.mkdir(parents=True)
        seconds, size = write_games(folder, cache, args)
        print(f"{args.games:,} games of {args.frames + CONTROL_AFTER} frames made in {seconds:.0f} s; {size:.0f} bytes "
              f"a frame\n\n{'games':>7s}{'rows':>13s}{'index s':>9s}{'first batch s':>15s}{'frames/s':>11s}"
              f"{'a CPU second':>14s}{'learner':>9s}{'times':>7s}{'distinct':>10s}{'index B':>9s}{'peak MB':>9s}"
              f"{'in memory MB':>14s}")
        for share in (100, 10, 1):
            count = max(2, args.games // share)
            part = Path(place) / f"{count}.txt"
            part.write_text("".join(f"{path}\n" for path in sorted(folder.iterdir())[:count]))
            done = subprocess.run([sys.executable, __file__, "--listed", str(part)], stdout=subprocess.PIPE, check=True,
                                  env=os.environ | {"XDG_CACHE_HOME": place, "OMP_NUM_THREADS": "1"}, text=True)
            row = json.loads(done.stdout)
            times = row["cpu"] / row["learner"]
            bytes_a_row = 4 * NUM_FLOATS + 2 * NUM_INTS + 13 + 4 + 1 + 4
            row["in_memory"] = row["rows"] * bytes_a_row / 2 ** 20
            rows.insert(0, row)
            print(f"{row['games']:7,d}{row['rows']:13,d}{row['opened']:9.2f}{row['first']:15.2f}{row['wall']:11,.0f}"
                  f"{row['cpu']:14,.0f}{row['learner']:9,.0f}{times:7.1f}{row['distinct']:10.1f}{row['index']:9,.0f}"
                  f"{row['peak']:9,.0f}{row['in_memory']:14,.0f}", flush=True)
            if row["peak"] > MEMORY_FLOOR:
                failed.append(f"{row['peak']:,.0f} MB, more than {MEMORY_FLOOR}")
            if times < SPEED_FLOOR:
                failed.append(f"the loader is {times:.1f} times as fast as the learner, not {SPEED_FLOOR}")
    save(args.json, rows, began, frames=args.frames)
    print("\n" + ("\n".join(f"UNDER THE FLOOR: {line}" for line in failed) or "all floors held"))
    sys.exit(bool(failed))


if __name__ == "__main__":
    main(tyro.cli(Args))

"""What becomes of cloning one way or another: networks, delays, memory, averaging, returns asked for, and a drill.

    python tests/bench/bench_imitation.py backbones --replays DIR           # every backbone, two seeds: half an hour
    python tests/bench/bench_imitation.py delay --replays DIR               # 0, 2, 4 and 18 frames
    python tests/bench/bench_imitation.py memory --replays DIR              # windows, truncated BPTT, a running average
    python tests/bench/bench_imitation.py returns --replays DIR             # one policy asked for three returns
    python tests/bench/bench_imitation.py drill --replays DIR/fox_multishine_closed.slp

Every policy learns for about --seconds of processor time on one thread: so many updates as bench_backbones.py's speed
allows. Then `bc.py --eval-only --eval-games` judges its best checkpoint: loss on held-out games (nats a frame, of all
and of those on which the input changes), games of a minute on the embedded game, and how far its style is from
people's.

The drill: a policy learns one game of a player who repeats one thing, and then plays on the embedded game against
somebody who stands. Counted are the entries into --action, a minute, in the replay and in play.
"""

import functools
import hashlib
import itertools
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np  # noqa: E402 (after the number of threads)
import torch
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from cleanmelee.cli import COUNT, PATH, POSITIVE, Range, UserError, run_script  # noqa: E402 (after the path is set)
from cleanmelee.files import read_json
from cleanmelee.fingerprint import FRAMES_PER_MINUTE, distance_to_people
from cleanmelee.frame import CHARACTERS, STAGES
from cleanmelee.game import BOTS
from cleanmelee.games import BOT_SLOT, VecEnv
from cleanmelee.recording import write_slp
from cleanmelee.replays import Replay, read_replay
from melee_common import Policy, load_policy, parse_hidden, play_games
from bench_backbones import learning, step
from results import ROOT, save

WINDOW, BATCH = 60, 64
SIZES = {"mlp": "512,512", "gru": "256,256", "lstm": "256", "transformer": "256", "hybrid": "256", "mamba": "256"}
# name of a row: flags of bc.py
SHOWS = {
    "backbones": {name: {"backbone": name, "hidden": hidden} for name, hidden in SIZES.items()},
    "delay": {str(delay): {"frame-delay": delay} for delay in (0, 2, 4, 18)},
    "memory": {"windows of 60": {}, "windows of 60, average .99": {"ema-decay": .99},
               "truncated BPTT of 60": {"truncate-bptt": WINDOW}, "truncated BPTT of 20": {"truncate-bptt": 20}},
    "returns": {"": {"return-conditioning": True}}}
TARGETS = -.5, .5, 1.5
DEFAULT = {"backbone": "gru", "hidden": SIZES["gru"]}


@dataclass
class Args:
    show: tyro.conf.Positional[Literal["backbones", "delay", "memory", "returns", "drill"]]
    """what to compare"""
    replays: Annotated[str, PATH]
    """folder of .slp files; of the drill the file"""
    seconds: Annotated[float, POSITIVE] = 60
    """processor time that a policy learns"""
    seeds: Annotated[int, COUNT] = 2
    """runs of each"""
    eval_games: Annotated[int, Range(0, 65536)] = 32
    """games against each opponent (off: 0, the loss alone; the drill needs some)"""
    held_out: Annotated[float, Range(0, 1)] = .25
    """share of the games to judge by"""
    action: Annotated[int, Range(0, 511)] = 365
    """action state that the drill repeats; 365: a shine in the air"""
    json: Annotated[str, PATH] = ""
    """file for the figures (off: empty)"""


def as_flags(words: dict) -> list[str]:
    return [f"--{name}" if value is True else f"--{name}={value}" for name, value in words.items()]


def run(words: dict) -> float:
    """bc.py with these flags -> its processor time in seconds. UserError if it fails."""
    command = [sys.executable, str(ROOT / "bc.py"), *as_flags(words)]
    log = Path(words.get("runs-dir", ".")) / "bc.log"
    pid = os.posix_spawn(sys.executable, command, os.environ, file_actions=[
        (os.POSIX_SPAWN_OPEN, fd, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644) for fd in (1, 2)])
    _, status, used = os.wait4(pid, 0)
    if status:
        raise UserError(f"{' '.join(command[1:])}: failed: {log.read_text(errors='replace')[-400:]}")
    return used.ru_utime + used.ru_stime


@functools.cache
def speed(backbone: str, hidden: str) -> tuple[float, float, int]:
    """-> frames learnt a second of processor time, microseconds of a step of one row, parameters."""
    torch.manual_seed(1)
    policy = Policy(backbone, parse_hidden(hidden))
    return (float(learning(policy, WINDOW, BATCH, 3)), step(policy, 1, 1),
            sum(p.numel() for p in policy.parameters()))


def learn(args: Args, folder: str, name: str, seed: int, flags: dict, fps: float) -> tuple[str, float]:
    """-> the best checkpoint, and the processor seconds of the run, with its start and its evaluations."""
    flags = {"batch-size": BATCH} | flags
    rows = flags.get("truncate-bptt", WINDOW) * flags["batch-size"]
    used = run({"replays": Path(args.replays).resolve(), "held-out": args.held_out, "seed": seed, "runs-dir": folder,
                "run-name": name, "num-workers": 0, "device": "cpu", "window-size": WINDOW,
                "epochs": 1000, "max-updates": max(1, round(args.seconds * fps / rows))} | flags)
    return f"{folder}/{name}/checkpoints/best.pt", used


def judge(args: Args, folder: str, checkpoint: str, **flags) -> dict:
    """Figures of a checkpoint by name."""
    report = f"{folder}/report.json"
    run({"eval-only": True, "checkpoint": checkpoint, "replays": Path(args.replays).resolve(), "num-workers": 0,
         "held-out": args.held_out, "eval-games": args.eval_games, "report": report, "device": "cpu",
         "runs-dir": folder} | flags)
    found = read_json(report)
    figures = {"nll": found["all"]["eval/nll"], "nll_changed": found["all"]["eval/nll_changed"]}
    if not args.eval_games:
        return figures
    row = found["games"]
    style = {name.removeprefix("style/"): value for name, value in row.items() if "style/" in name}
    wins = {name: [row[f"eval/winrate_{name}{end}"] for end in ("", "_low", "_high")]
            for name in ("level1", "level3", "level5", "initial")}
    return figures | {"distance": distance_to_people(style), "style": style, "winrates": wins}


def rate(action: np.ndarray, wanted: int) -> float:
    """Entries into an action state a minute, of a player's states frame by frame [T]."""
    return float(((action[1:] == wanted) & (action[:-1] != wanted)).sum() / len(action) * FRAMES_PER_MINUTE)


def drill(args: Args, folder: str, rows: list[dict]) -> None:
    replay = read_replay(args.replays)
    people = replay.frames["players"]["action"]
    port = int(np.argmax([rate(people[:, side], args.action) for side in (0, 1)]))
    own, other = replay.meta["characters"][port], replay.meta["characters"][1 - port]
    if not {own, other} <= set(CHARACTERS.values()) or replay.meta["stage"] not in STAGES.values():
        raise UserError(f"{args.replays}: the embedded game does not have its characters or its stage")
    manifest = learn_by_heart(Path(folder), replay)
    rows.append({"row": "the replay", "deterministic": None, "rate": rate(people[:, port], args.action)})
    flags = DEFAULT | {"player-port": port + 1, "manifest": manifest, "batch-size": 16}
    fps, _, _ = speed(DEFAULT["backbone"], DEFAULT["hidden"])
    for seed in range(1, args.seeds + 1):
        checkpoint, _ = learn(args, folder, f"drill{seed}", seed, flags, fps)
        policy = load_policy(checkpoint)[0]
        for deterministic in (False, True):
            rows.append({"row": f"seed {seed}", "deterministic": deterministic,
                         "rate": closed_drill(policy, own, other, replay.meta["stage"], args, deterministic)})
            print(rows[-1], flush=True)


def learn_by_heart(folder: Path, replay: Replay) -> Path:
    """A manifest of the whole game to learn from, and of its first half to judge by."""
    split = {}
    for side, end in (("train", len(replay.frames)), ("held_out", len(replay.frames) // 2)):
        path = folder / f"{side}.slp"
        write_slp(path, replay.frames[:end], replay.controllers[:end], seed=end, started=end)
        split[side] = {str(path): hashlib.sha256(path.read_bytes()).hexdigest()}
    (folder / "split.json").write_text(json.dumps(split))
    return folder / "split.json"


def closed_drill(policy: Policy, own: int, other: int, stage: int, args: Args, deterministic: bool) -> float:
    """Entries into the action a minute, over --eval-games games of a minute against one who stands."""
    n, actions = args.eval_games, []
    noise = None if deterministic else torch.Generator().manual_seed(1)
    with VecEnv(n, np.tile([own, other], (n, 1)), np.full(n, stage), seed=1, max_episode_frames=FRAMES_PER_MINUTE,
                bot_kinds=np.tile([0, BOTS["idle"]], (n, 1))) as envs:
        play_games([policy], envs, np.tile([0, BOT_SLOT], (n, 1)), noise,
                   lambda _, before, after, running: actions.append(after["players"]["action"][:, 0].copy()))
    return float(np.mean([rate(game, args.action) for game in np.stack(actions, 1)]))


def compare(args: Args, folder: str, rows: list[dict]) -> None:
    for seed, name in itertools.product(range(1, args.seeds + 1), SHOWS[args.show]):
        flags = DEFAULT | SHOWS[args.show][name]
        fps, latency, parameters = speed(flags["backbone"], flags["hidden"])
        checkpoint, used = learn(args, folder, f"{name or 'policy'}{seed}".replace(" ", "_"), seed, flags, fps)
        for target in TARGETS if args.show == "returns" else (None,):
            asked = {} if target is None else {"target-return": target}
            rows.append({"row": name if target is None else str(target), "seed": seed, "parameters": parameters,
                         "learns": fps, "step": latency, "used": used, **judge(args, folder, checkpoint, **asked)})
            print({name: value for name, value in rows[-1].items() if name != "style"}, flush=True)


def main(args: Args) -> None:
    began, rows = time.time(), []
    try:
        with tempfile.TemporaryDirectory() as folder:
            (drill if args.show == "drill" else compare)(args, folder, rows)
    finally:                                                                # also what was measured until Ctrl-C
        if rows:
            save(args.json, rows, began, seconds=args.seconds, games=args.eval_games)


if __name__ == "__main__":
    run_script(main, Args)

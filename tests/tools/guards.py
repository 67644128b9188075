"""Prints what must not change when code only moves: compare the output of two checkouts.

    python tests/tools/guards.py > before.txt        # about two minutes on one core
    python tests/tools/guards.py --only frames       # a few seconds

A line each: a digest of short seeded runs of ppo_selfplay.py (default; pfsp with a pool and a gru; a population of two
with worker processes), bc.py and distill.py, clocks apart; of the actions of exported policies; of 10,000 game frames
over all characters, stages and bots, and of what players see in them; the schema's hash; the flags of every script.
Replays are games that it plays itself.
"""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from cleanmelee.controller import NUM_BUTTONS, NUM_LOGITS, NUM_SHOULDER, NUM_STICK, decode_actions, mirrored
from cleanmelee.features import NUM_FLOATS, NUM_INTS
from cleanmelee.frame import CHARACTERS, STAGES
from cleanmelee.game import BOTS
from cleanmelee.games import VecEnv
from cleanmelee.observation import observe, schema_hash
from cleanmelee.onnx import onnx_session
from cleanmelee.recording import write_slp

STAGES_OF_THE_CHAIN = ("bc", "ppo_selfplay", "distill", "export_onnx", "play")
CLOCKS = ("time/", "charts/SPS", "frames_per_second")
SELFPLAY = {
    "default": "--num-games 4 --timesteps 30000 --rollout-length 64 --eval-interval 10 --eval-games 8 --seed 3",
    "pfsp": "--num-games 6 --timesteps 40000 --rollout-length 48 --batch-size 128 --ppo-epochs 2 --matchmaking pfsp "
    "--history-prob .5 --pool-interval 3 --backbone gru --hidden 64 --eval-interval 0 --max-episode-frames 1200 "
    "--character fox --opponent-bots level1 --bot-prob .2 --target-kl .05 --anneal-lr --reward-approach .1 --seed 5",
    "population": "--num-games 4 --num-workers 2 --population-size 2 --pbt --pbt-interval 4 --matchmaking population "
    "--timesteps 50000 --rollout-length 48 --pool-interval 4 --max-episode-frames 900 --hidden 64,64 "
    "--eval-interval 0 --seed 7",
}


def short(digest) -> str:
    return digest.hexdigest()[:16]


def run(script: str, *flags: str) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, ROOT / script, *map(str, flags)], capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(f"{script} {' '.join(map(str, flags))}: ended with {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout


def log_digest(run_folder: Path) -> str:
    """Of all .jsonl logs of a run, without what a clock says."""
    digest = hashlib.sha256()
    for path in sorted(run_folder.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            row = {key: value for key, value in json.loads(line).items() if not any(clock in key for clock in CLOCKS)}
            digest.update(json.dumps(row, sort_keys=True).encode())
    return short(digest)


def frame_digests(num_games: int = 60, num_steps: int = 170, seed: int = 11) -> tuple[int, str, str]:
    """-> how many game frames were played by bots and random controllers; digests of these frames and of what is seen
    in them."""
    names, rng, frames, seen = list(CHARACTERS), np.random.default_rng(seed), hashlib.sha256(), hashlib.sha256()
    pairs = [(CHARACTERS[a], CHARACTERS[b]) for a in names for b in names]
    slots = np.arange(num_games)
    bots = list(BOTS.values())
    kinds = np.array([[bots[k % len(bots)], bots[(k // 2 + 3) % len(bots)]] for k in slots])
    kinds[::3] = 0                                                          # every third game gets random controllers
    widths = np.array([2] * NUM_BUTTONS + [NUM_STICK] * 4 + [NUM_SHOULDER])
    with VecEnv(
        num_games, [pairs[k * 7 % len(pairs)] for k in slots], [list(STAGES.values())[k % len(STAGES)] for k in slots],
        seed=seed, bot_kinds=kinds, max_episode_frames=0) as envs:
        for _ in range(num_steps):
            actions = (rng.random((num_games, 2, len(widths))) * widths).astype(np.int8)
            actions[..., :NUM_BUTTONS] &= rng.random((num_games, 2, NUM_BUTTONS)) < .2
            envs.step(decode_actions(actions, mirrored(envs.frames)))
            obs = observe(envs.frames, envs.controllers)
            frames.update(envs.frames.tobytes() + envs.games.hidden.tobytes())
            seen.update(obs.floats.tobytes() + obs.ints.tobytes())
    return num_games * num_steps, short(frames), short(seen)


def record_games(folder: Path) -> None:
    """Four games of bots, a minute each, as .slp files."""
    names = ("fox", "marth", "falco", "mewtwo")
    kinds = [[BOTS["level5"], BOTS["attacker"]], [BOTS["level9"], BOTS["level1"]]] * 2
    with VecEnv(
        4, [[CHARACTERS[name], CHARACTERS["fox"]] for name in names], STAGES["battlefield"], seed=2, bot_kinds=kinds,
        max_episode_frames=0) as envs:
        frames, controllers = [envs.frames.tobytes()], [envs.controllers.tobytes()]
        for _ in range(3600):
            envs.step(envs.controllers.copy())
            frames.append(envs.frames.tobytes())
            controllers.append(envs.controllers.tobytes())
    frames = np.frombuffer(b"".join(frames), envs.frames.dtype).reshape(-1, 4)
    controllers = np.frombuffer(b"".join(controllers), envs.controllers.dtype).reshape(-1, 4, 2)
    for k, name in enumerate(names):
        last = int(np.argmax(np.diff(frames["frame_id"][:, k]) != 1)) or len(frames) - 1    # up to the first game's end
        write_slp(folder / f"{name}.slp", frames[:last + 1, k], controllers[:last + 1, k], started=0)


def exported_actions(file: Path) -> str:
    """Of 64 recurrent steps over random observations."""
    session, rng, digest = onnx_session(file.read_bytes()), np.random.default_rng(1), hashlib.sha256()
    state = {
        i.name: np.zeros((1, *i.shape[1:]), np.float32) for i in session.get_inputs() if i.name.startswith("state_")}
    for _ in range(64):
        feed = {
            "floats": rng.normal(size=(1, NUM_FLOATS)).astype(np.float32),
            "noise": rng.random((1, NUM_LOGITS), np.float32),
            "ints": rng.integers(0, 9, (1, NUM_INTS)).astype(np.int16)}
        actions, *new = session.run(None, feed | state)
        state = dict(zip(state, new, strict=True))
        digest.update(actions.tobytes())
    return short(digest)


def main(only: str) -> None:
    if only in ("", "frames"):
        print("schema", schema_hash())
        print("frames", *frame_digests())
    if only in ("", "flags"):
        for script in STAGES_OF_THE_CHAIN:
            flags = sorted(set(re.findall(r"--[a-z][a-z0-9-]+", run(f"{script}.py", "--help"))))
            print("flags", script, len(flags), short(hashlib.sha256(" ".join(flags).encode())))
    if only in ("", "runs"):
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            for name, flags in SELFPLAY.items():
                run("ppo_selfplay.py", *flags.split(), "--runs-dir", folder, "--run-name", name)
                print("ppo_selfplay", name, log_digest(folder / name))
            record_games(folder / "replays")
            common = ("--replays", folder / "replays", "--num-workers", 0, "--runs-dir", folder, "--seed", 2)
            run("bc.py", *common, "--epochs", 2, "--hidden", 64, "--held-out", .25, "--run-name", "bc")
            run(
                "distill.py", *common, "--teacher", folder / "bc/checkpoints/best.pt", "--epochs", 1, "--hidden",
                "32,32", "--run-name", "distill")
            for name in ("bc", "distill"):
                print(name, log_digest(folder / name))
                run(
                    "export_onnx.py", "--checkpoint", folder / name / "checkpoints/best.pt", "--output",
                    folder / f"{name}.onnx")
                print("export_onnx", name, exported_actions(folder / f"{name}.onnx"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("", "frames", "flags", "runs"), default="", help="a part (off: all)")
    main(parser.parse_args().only)

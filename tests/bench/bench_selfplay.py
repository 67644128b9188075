"""How fast self-play learns on this machine, how near it comes to what its parts allow, and what a game costs in
memory.

    python tests/bench/bench_selfplay.py                     # everything; exits 1 under a floor and says under which
    python tests/bench/bench_selfplay.py --rows mlp-8 async --quick   # does it work? Its numbers are no measurement

An agent frame is one decision of the learner that it has learnt from (charts/agent_frames). A decision lasts three game
frames (--action-repeat) and a game has two sides: 3 game frames bring 2 agent frames in a mirror match, where both
sides learn, and 1 in a game against history or a scripted opponent.

A row is a run of ppo_selfplay.py at its defaults, but for its network, without evaluations beside it, and with a pool
that fills in the warm-up, so that as many frozen networks play as later in a long run. Speed is the median of its warm
iterations, whose time env, policy and learn share; processor is how many cores were busy. The ceiling is measured
apart, with the networks, games and opponents that the run ended with: acting alone (networks and games; no rewards,
results or rollout) and learning alone (updates on one rollout, no acting). ranks: two processes (torchrun) with half of
the games each.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import tyro

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
import ppo_selfplay as ppo  # noqa: E402 (after the path is set)
from cleanmelee.controller import decode_actions, mirrored
from cleanmelee.frame import CHARACTERS, CONTROLLER, STAGES
from cleanmelee.games import VecEnv
from cleanmelee.observation import observe
from cleanmelee.pool import Pool, Ratings
from cleanmelee.population import make_learners
from melee_common import act, load_checkpoint, load_policy
from cleanmelee.selfplay import SelfPlay
from cleanmelee.cli import from_flags
from results import save

NETWORKS = {"mlp": ("mlp", "256,256"), "wide": ("mlp", "512,512"), "gru": ("gru", "256"), "ranks": ("mlp", "256,256")}
FLOORS = {"mlp-8": 5_000, "mlp-128": 10_000}                                # agent frames a second
SHARE_FLOOR, WORKER_MB, GAME_MB = .6, 80, 1
ITERATION = 24_576                                      # game frames, at the defaults, of 8 to 512 games
Row = Literal["mlp-8", "mlp-8-mirror", "mlp-128", "mlp-512", "ranks-128", "wide-128", "gru-128", "async", "memory"]


@dataclass
class Args:
    rows: tuple[Row, ...] = Row.__args__
    """what to measure: network and number of games; async: --async-learning over synchronous; memory: of workers and
    games"""
    quick: bool = False
    """few iterations, to see that it works (off: False)"""
    json: str = ""
    """file for the figures (off: empty)"""


def run_selfplay(run: Path, iterations: int, games: int, *flags: str, ranks: int = 1) -> tuple[list[dict], int]:
    """-> the rows of metrics.jsonl and the run's peak memory in MB"""
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    process = subprocess.Popen(
        [sys.executable, *launcher, "ppo_selfplay.py", f"--num-games={games}", f"--timesteps={iterations * ITERATION}",
         "--eval-interval=0", f"--runs-dir={run.parent}", f"--run-name={run.name}", *flags],
        cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(process.args)}: ended with {process.returncode}")
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()], usage.ru_maxrss // 1024


def alone(run: Path, repeats: int) -> tuple[float, float, int]:
    """-> seconds of acting alone, of learning alone, and agent frames, for one iteration as they were at the end of a
    run."""
    args = from_flags(ppo.Args, json.loads((run / "args.json").read_text()))
    torch.set_num_threads(args.num_threads)
    saved, mewtwo, stage = (
        load_checkpoint(run / "checkpoints" / "latest.pt"), CHARACTERS[args.character], STAGES[args.stage])
    envs = VecEnv(args.num_games, mewtwo, stage, seed=args.seed, action_repeat=args.action_repeat,
                  max_episode_frames=args.max_episode_frames, scattered=args.scattered)
    hyper = {"learning_rate": args.learning_rate, "entropy_coef": args.entropy_coef, "ppo_clip": args.ppo_clip}
    learner, = make_learners(load_policy(run / "checkpoints" / "initial.pt")[0], hyper, seed=args.seed)
    pool, ratings = Pool(run / "pool"), Ratings()
    selfplay = SelfPlay(envs, [learner], pool, ratings, seed=args.seed, reward_terms=ppo.active_terms(args.rewards))
    for name, part in {"envs": envs, "ratings": ratings, "learner_main": learner, "selfplay": selfplay}.items():
        part.load_state_dict(saved[name])
    learner.hyper["learning_rate"] = 0.                     # every repeat learns from the policy that has acted
    rollout = ppo.collect(selfplay, ppo.Matchmaker(args, ["main"], pool, ratings), args, {"env": 0.0, "policy": 0.0})[
        "main"]
    states, no_resets = [selfplay.states[name] for name in selfplay.policy_ids], np.zeros(args.num_games, bool)
    noise, seconds = torch.Generator(), []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        with torch.inference_mode():
            for _ in range(args.rollout_length):
                obs = observe(envs.frames, envs.controllers)
                actions = act(selfplay.policies, selfplay.assignment, obs, states, no_resets, noise)
                envs.step(decode_actions(actions, mirrored(envs.frames)))
        acted = time.perf_counter()
        ppo.update(learner, [ppo.prepare(learner, rollout, args, None)], args, 0)
        seconds.append((acted - start, time.perf_counter() - acted))
    return *np.median(seconds[1:], 0).tolist(), int(rollout["learns"].sum())


def measure_row(name: str, run: Path, quick: bool) -> dict:
    """Prints a line and returns it; speeds are of agent frames a second, but for game_frames."""
    called, games, *mirror = name.split("-")
    (network, hidden), ranks = NETWORKS[called], 2 if called == "ranks" else 1
    warm_up = 2 if quick else 12                                      # by then the first games, of 1200 steps, are over
    rows, peak = run_selfplay(
        run, warm_up + (2 if quick else 16), int(games), f"--backbone={network}", f"--hidden={hidden}",
        "--pool-interval=1", f"--matchmaking={'self' if mirror else 'simple_mix'}", ranks=ranks)
    frames = np.diff([row["charts/agent_frames"] for row in rows])[warm_up - 1:]
    split = np.array([[row[f"time/{part}"] for part in ("env", "policy", "learn")] for row in rows[warm_up:]])
    speed, (env, policy, learn) = float(np.median(frames / split.sum(1))), split.sum(0) / split.sum()
    game_frames = ITERATION / np.median(split.sum(1))
    cores = sum(row["time/processor"] for row in rows[warm_up:]) / split.sum()
    print(f"{name:13s}{speed:15,.0f}{game_frames:14,.0f}{env:6.0%}{policy:8.0%}{learn:7.0%}{cores:11.2f}", end="")
    ceiling = None
    if ranks == 1:
        acting, learning, one = alone(run, 1 if quick else 3)
        ceiling = one / (acting + learning)
        print(f"{one / acting:14,.0f}{one / learning:15,.0f}{ceiling:9,.0f}{speed / ceiling:7.0%}{peak:9,d}", end="")
    print(flush=True)
    about = f"{network} {hidden}, {games} games" + ", `--matchmaking self`" * bool(mirror) + ", two ranks" * (ranks > 1)
    return {"row": about, "decisions_per_second": speed, "frames_per_second": float(game_frames), "ceiling": ceiling,
            "cores": cores, "acting": float(env + policy), "learning": float(learn)}


def measure_async(folder: Path, quick: bool) -> None:
    """Both runs write a checkpoint every ten iterations: there --async-learning waits for its learner."""
    sync, overlapped = (
        run_selfplay(folder / name, 10 if quick else 40, 8, "--pool-interval=10", *flags)[0][-1]["charts/SPS"]
        for name, flags in (("sync", ()), ("async", ("--async-learning",))))
    acting, learning, _ = alone(folder / "sync", 3)
    best = (acting + learning) / max(acting, learning)
    print(f"\n--async-learning, mlp at 8 games: {overlapped:,} game frames/s over {sync:,}, {overlapped / sync:.2f} "
          "times as fast.\nAlone, one after the other, an iteration\n"
          f"acts for {acting:.2f} s and learns for {learning:.2f} s; side by side that is\nat best {best:.2f} times as "
          "fast, less waits for Python's lock and for memory")


def measure_memory() -> tuple[float, float]:
    """MB of a worker and of a further game in parent and workers, as proportional set sizes: shared pages count in
    parts."""
    def pss(pid: int | str) -> float:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("Pss:")).split()[1]) / 1024

    total = {}
    for games in (264, 8):
        with VecEnv(games, CHARACTERS["mewtwo"], STAGES["final_destination"], num_workers=2, action_repeat=3) as envs:
            for _ in range(300):
                envs.step(np.zeros((games, 2), CONTROLLER))
            workers = [pss(worker.pid) for worker in envs._workers]
            total[games] = pss("self") + sum(workers)
    further = (total[264] - total[8]) / 256
    print(f"{max(workers):.1f} MB a worker (of two, with four games each), {further:.3f} MB a further game")
    return max(workers), further


def main(args: Args) -> None:
    failed, speeds, found, began = [], {}, [], time.time()
    if "memory" in args.rows:                                               # first, while this process has no threads
        worker, game = measure_memory()
        failed += [f"a worker takes {worker:.1f} MB, not under {WORKER_MB}"] * (worker >= WORKER_MB)
        failed += [f"a further game takes {game:.2f} MB, not under {GAME_MB}"] * (game >= GAME_MB)
    print(f"\n{'':13s}{'agent frames/s':>15s}{'game frames/s':>14s}{'env':>6s}{'policy':>8s}{'learn':>7s}"
          f"{'processor':>11s}{'acting alone':>14s}{'learning alone':>15s}{'ceiling':>9s}{'share':>7s}{'peak MB':>9s}")
    with tempfile.TemporaryDirectory() as folder:
        for name in (row for row in args.rows if row not in ("async", "memory")):
            found.append(measure_row(name, Path(folder) / name, args.quick))
            speeds[name] = found[-1]["decisions_per_second"]
            share = speeds[name] / found[-1]["ceiling"] if found[-1]["ceiling"] else 1
            floor = FLOORS.get(name, 0)
            failed += [f"{name}: {speeds[name]:,.0f} agent frames/s, not {floor:,}"] * (speeds[name] < floor)
            failed += [f"{name}: {share:.0%} of its ceiling, not {SHARE_FLOOR:.0%}"] * (share < SHARE_FLOOR)
        if "async" in args.rows:
            measure_async(Path(folder), args.quick)
    save(args.json, found, began)
    print("\n" + ("\n".join(f"UNDER THE FLOOR: {line}" for line in failed) or "all floors held"))
    sys.exit(bool(failed))


if __name__ == "__main__":
    main(tyro.cli(Args))

"""What is left of a teacher in students of several sizes, with and without games of their own?

    python play.py --policy TEACHER --opponent level5 --num-games 20 --max-episode-frames 3600 --record GAMES
    python tests/bench/bench_distill.py --teacher TEACHER --replays GAMES       # teacher: plays Mewtwo, beats level 5
    python tests/bench/bench_distill.py --teacher TEACHER --games 4 --epochs 1 --students 8     # does it work?

Every student learns by distill.py from the teacher alone, once on --replays (left out without them) and once on games
of its own, for about as many seconds. Printed, and written to --json: parameters, the loss of what was played on
held-out replays, KL(teacher || student) in nats a decision on those and on fresh games of the student, the median of
one step of the exported file, seconds of processor time for learning, and win rates in one-minute games with Wilson's
95 % intervals.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import distill  # noqa: E402 (after the path is set)
from cleanmelee.cli import run_script
from cleanmelee.frame import outcomes
from cleanmelee.game import BOTS
from cleanmelee.games import BOT_SLOT, VecEnv, matchups
from cleanmelee.statistics import wilson_interval
from cleanmelee.terminal import Terminal
from export_onnx import cut, export, latencies, stepper
from melee_common import Policy, load_policy, play_games
from results import save

LEVELS = "level1", "level3", "level5"
CHECK_GAMES, MAX_FRAMES = 24, 3600                                          # own games of each, frames of a game


@dataclass
class Args:
    teacher: str
    """checkpoint of the teacher"""
    replays: str = ""
    """folder of .slp files, e.g. games of the teacher (off: empty)"""
    students: str = "32,32 64,64 128,64 gru:64"
    """sizes of the students, with their backbone if it is not an mlp"""
    epochs: int = 1
    """passes over --replays"""
    on_policy_epochs: int = 4
    """times that a student plays, and learns from it"""
    on_policy_games: int = 16
    """games that it plays then"""
    batch_size: int = 256
    """frames in one update"""
    games: int = 200
    """games against each level"""
    seed: int = 1
    """seed of learning and games"""
    json: str = ""
    """file for the figures (off: empty)"""


def win_rates(policy: Policy, games: int, seed: int) -> dict[str, list[float]]:
    """Against each of LEVELS win rate, low and high end; half the games from either port, a minute each."""
    number = np.arange(games * len(LEVELS))
    port, level = number % 2, number // games
    assignment, bot_kinds = np.zeros((2, len(number), 2), int)
    assignment[number, 1 - port] = BOT_SLOT
    bot_kinds[number, 1 - port] = np.array([BOTS[name] for name in LEVELS])[level]
    characters, stages = matchups([("mewtwo", "mewtwo", "final_destination")], number, port)
    with VecEnv(len(number), characters, stages, seed=seed, bot_kinds=bot_kinds, max_episode_frames=MAX_FRAMES,
                action_repeat=policy.action_repeat) as envs:
        final = play_games([policy], envs, assignment, torch.Generator().manual_seed(seed))
    scores = (outcomes(final) * (1 - 2 * port) + 1) / 2
    wins = {name: float(scores[level == k].sum()) for k, name in enumerate(LEVELS)}
    return {name: [won / games, *wilson_interval(won, games)] for name, won in wins.items()}


def learn(args: Args, size: str, own: bool) -> tuple[Policy, dict, float]:
    """A student by distill.py -> it, its best row of metrics.jsonl, seconds of processor time."""
    backbone, hidden = size.split(":") if ":" in size else ("mlp", size)
    began, name = time.process_time(), f"{backbone}_{hidden.replace(',', 'x')}_{time.time_ns()}"
    distill.main(distill.Args(
        args.teacher, "" if own else args.replays, epochs=args.on_policy_epochs if own else args.epochs,
        batch_size=args.batch_size, alpha=1., on_policy_games=args.on_policy_games * own, backbone=backbone,
        hidden=hidden, seed=args.seed, run_name=name, num_workers=0))
    policy, saved = load_policy(f"runs/{name}")
    return policy, saved["metrics"], time.process_time() - began


def main(args: Args) -> None:
    torch.set_num_threads(1)
    began, check = time.time(), distill.Args(
        args.teacher, on_policy_games=CHECK_GAMES, max_episode_frames=MAX_FRAMES)
    teacher, _ = load_policy(args.teacher)
    table = Table("student", "learned from", "parameters", "loss", "teacher's", "KL, held out", "KL, own games",
                  "step, us", "CPU s", *LEVELS)
    rows = []
    todo = [(size, own) for size in args.students.split() for own in (False, True) if own or args.replays]
    for size, own in [("the teacher", None), *todo]:
        policy, best, seconds = learn(args, size, own) if own is not None else (teacher, {}, 0.)
        lesson, _ = distill.student_plays(policy, [teacher], check, seed=args.seed + 10 ** 6)
        found = latencies({"": stepper(cut(export(policy), {}).SerializeToString())})
        rows.append({
            "student": size, "learned_from": {None: "", True: "its own games", False: "replays"}[own],
            "parameters": sum(p.numel() for p in policy.parameters()), "loss": best.get("eval/student_nll"),
            "teacher_loss": best.get("eval/teacher_nll"), "kl_held_out": best.get("eval/kl"),
            "kl_own_games": distill.measure(policy, [lesson], 1., 1., "own")["own/kl"],
            "step_us": found[""][0], "seconds": seconds, "winrates": win_rates(policy, args.games, args.seed)})
        *cells, rates = rows[-1].values()
        found = [f"{rate:.1%} [{low:.1%}, {high:.1%}]" for rate, low, high in rates.values()]
        table.add_row(*["" if x is None else f"{x:.3f}" if isinstance(x, float) else str(x) for x in cells], *found)
        save(args.json, rows, began, games=args.games)                      # it takes long, and may be cut off
    Terminal().print(table)


if __name__ == "__main__":
    run_script(main, Args)

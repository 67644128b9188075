"""Strength: what a policy can do against opponents that do not learn with it."""

import argparse
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cleanmelee.cli import parse_names
from cleanmelee.files import append_jsonl
from cleanmelee.frame import outcomes
from cleanmelee.game import BOTS
from cleanmelee.workers import end_with_parent
from melee_common import (
    ACTION_SIZE, BOT_SLOT, NUM_BUTTONS, NUM_STICK, STICK_NEUTRAL, Policy, VecEnv, load_policy, matchups,
    play_games, save_checkpoint,
)


def wilson_interval(wins: float, games: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a win rate; draws count half a win."""
    if games == 0:
        return 0., 1.
    p = wins / games
    centre = (p + z * z / (2 * games)) / (1 + z * z / games)
    half = z * (p * (1 - p) / games + z * z / (4 * games * games)) ** .5 / (1 + z * z / games)
    return max(0., centre - half), min(1., centre + half)


@dataclass
class StrengthArgs:
    """The flags of measure_strength."""
    eval_interval: int = 200
    """iterations between two evaluations of the strongest learner (by Elo), also before the first and after the last iteration
    (off: 0)"""
    eval_games: int = 32
    """games against each opponent in an evaluation, half of them from either port"""
    eval_opponents: str = "idle,random,attacker,level1,level3,level5"
    """scripted opponents of an evaluation, separated by commas, level1 to level9 among them; besides these the initial policy
    and, as a control, itself"""
    held_out: str = "attacker"
    """an opponent that training never meets, a bot or the file of a policy; part of every evaluation (off: empty)"""
    eval_in_background: bool = True
    """evaluate in a process of its own, at low priority (off: --no-eval-in-background, training waits for it)"""


def measure_strength(policy: Policy, initial: Policy, step: int, args) -> dict:
    """A row for eval.jsonl. Win rates with 95 % intervals against scripted opponents, the held-out opponent, the initial policy
    and itself (the control, which must come out even: whose score is counted changes so that neither the matchup nor the side of
    the stage tells); drift: how far its actions against itself are from those of the initial policy against itself; and what
    looks like a collapse, among it a policy that wins from one side of the stage only.
    All randomness is its own, keyed by seed and step. `args`: flags of ppo_selfplay.py."""
    n, policies = args.eval_games, [policy, initial]
    blocks = {name: (BOT_SLOT, BOTS[name]) for name in parse_names(args.eval_opponents, BOTS, "bot")}  # name: policy, bot
    blocks |= {"control": (0, 0), "initial": (1, 0), "reference": (1, 0)}
    if args.held_out in BOTS:
        blocks.setdefault(args.held_out, (BOT_SLOT, BOTS[args.held_out]))
    elif args.held_out:
        policies.append(load_policy(args.held_out)[0])
        blocks["heldout"] = (2, 0)
    assignment = np.zeros((len(blocks) * n, 2), np.int64)
    bot_kinds, games = np.zeros_like(assignment), np.arange(len(assignment))
    mine = games % 2                                                        # the policy's port in each game
    assignment[games, 1 - mine] = np.repeat([player for player, _ in blocks.values()], n)
    bot_kinds[games, 1 - mine] = np.repeat([bot for _, bot in blocks.values()], n)
    block = {name: slice(k * n, (k + 1) * n) for k, name in enumerate(blocks)}
    assignment[block["reference"]] = 1                                      # the initial policy on both sides
    characters, stages = matchups(args, games % n, mine)

    pressed = np.zeros((2, NUM_BUTTONS))                                    # of the policy and of the initial policy
    tilted, counted = np.zeros((2, ACTION_SIZE - NUM_BUTTONS, NUM_STICK)), np.zeros(2)

    def watch(actions, running):
        for k, name in enumerate(("control", "reference")):
            rows = actions[block[name]][running[block[name]]].reshape(-1, ACTION_SIZE)                      # [B, 13]
            counted[k] += len(rows)
            pressed[k] += rows[:, :NUM_BUTTONS].sum(0)
            for head in range(ACTION_SIZE - NUM_BUTTONS):
                tilted[k, head] += np.bincount(rows[:, NUM_BUTTONS + head], minlength=NUM_STICK)

    seed = args.seed + 1_000_003 * (step + 1)
    with VecEnv(len(assignment), characters, stages, seed=seed, bot_kinds=bot_kinds, max_episode_frames=args.max_episode_frames,
                action_repeat=args.action_repeat) as envs:
        stocks = envs.frames["players"]["stocks"].copy()
        final = play_games(policies, envs, assignment, torch.Generator().manual_seed(seed), watch)
    unhurt = ((final["players"]["percent"] == 0) & (final["players"]["stocks"] == stocks)).all(1)
    side = mine.copy()
    side[block["control"]] = games[:n] // 2 % 2                             # each character sits there as often as opposite
    scores = (outcomes(final) * np.where(side == 0, 1, -1) + 1) / 2         # 1 won, .5 draw, 0 lost
    row = {"global_step": step, "games": n}
    for name in [name for name in blocks if name != "reference"]:
        wins = float(scores[block[name]].sum())
        low, high = wilson_interval(wins, n)
        row |= {f"eval/winrate_{name}": wins / n, f"eval/winrate_{name}_low": low, f"eval/winrate_{name}_high": high}

    press, tilt = pressed / counted[:, None], tilted / counted[:, None, None]
    distance = np.concatenate([np.abs(press[0] - press[1]), np.abs(tilt[0] - tilt[1]).sum(-1) / 2])
    entropy = [-sum(float((p * np.log(np.maximum(p, 1e-12))).sum()) for p in (press[k], 1 - press[k], tilt[k])) for k in (0, 1)]
    def uneven(score):                                                      # one false alarm in a thousand
        low, high = wilson_interval(score * n, n, z=3.3)
        return not low <= .5 <= high

    port_1 = float((outcomes(final[block["control"]]) + 1).mean() / 2)
    collapse = {"control": uneven(row["eval/winrate_control"]), "one-sided": uneven(port_1),
                "entropy": entropy[0] < .25 * entropy[1], "mashing": bool((press[0] > .5).any()),
                "passive": bool(unhurt[block["control"]].mean() > .5 + .5 * unhurt[block["reference"]].mean()),
                "frozen": bool(press[0].sum() < .01 and (tilt[0, :, STICK_NEUTRAL][:-1] > .99).all())}
    return row | {"eval/drift": float(distance.mean()), "eval/action_entropy": entropy[0], "eval/port_1_score": port_1,
                  "eval/collapse": [name for name, flag in collapse.items() if flag]}


def describe_strength(row: dict) -> str:
    """A row of eval.jsonl in a line."""
    names = [key.removeprefix("eval/winrate_") for key in row if f"{key}_low" in row]
    rates = ("{} {:.0%} [{:.0%}, {:.0%}]".format(name, *(row[f"eval/winrate_{name}{end}"] for end in ("", "_low", "_high")))
             for name in names)
    flags = "".join(f"; collapse: {flag}" for flag in row["eval/collapse"])
    return f"{', '.join(rates)}; drift {row['eval/drift']:.2f}{flags}"


class Evaluator:
    """Measures strength in a process of its own, so that collection never waits for it. A policy to be measured lies in
    checkpoints/eval_<step>.pt until its row is written: what a kill interrupts is measured after --resume. A process that keeps
    dying costs the evaluations, not the training."""

    MAX_FAILURES = 3

    def __init__(self, run: Path, args, global_step: int, log=print):
        self.run, self.folder, self.args, self.log, self.process, self.failures = run, run / "checkpoints", args, log, None, 0
        self.jobs = sorted((int(path.stem.split("_")[1]), path) for path in self.folder.glob("eval_*.pt"))
        written = run / "eval.jsonl"
        done = {json.loads(line)["global_step"] for line in written.read_text().splitlines()} if written.exists() else set()
        for step, path in self.jobs:
            if step > global_step or step in done:                          # measured again when training is there; or already
                path.unlink()
        self.jobs = [job for job in self.jobs if job[1].exists()]

    def submit(self, policy: Policy, step: int) -> None:
        if self.failures < self.MAX_FAILURES:
            self.jobs.append((step, save_checkpoint(self.folder / f"eval_{step:012d}.pt", policy)))

    def report(self, wait: bool = False) -> None:
        """Writes and tells what is ready; with `wait` all of it."""
        for row in self.finished(wait):
            append_jsonl(self.run / "eval.jsonl", row)
            self.log(f"[green]eval[/] at {row['global_step']:,}: {describe_strength(row)}")
            if self.args.track:
                import wandb
                wandb.log(row)

    def finished(self, wait: bool = False):
        """Yields rows that are ready, in the order of submission; with `wait` all of them. The file of one goes as the next is
        asked for: by then its row is written."""
        while self.jobs:
            step, path = self.jobs[0]
            if not self.args.eval_in_background:
                row = measure_strength(load_policy(path)[0], load_policy(self.folder / "initial.pt")[0], step, self.args)
            else:
                row = self._ask(step, path, wait)
                if row is None:
                    return
            yield row
            self.jobs.pop(0)
            path.unlink(missing_ok=True)

    def _ask(self, step: int, path: Path, wait: bool) -> dict | None:
        """The row of the first job, if the process has it; starts the process, sends it the job, where that is to do."""
        if self.process is None:
            here = str(Path(__file__).parents[1])
            code = (f"import sys; sys.path.insert(0, {here!r}); from cleanmelee.evaluation import serve_evaluations; "
                    "serve_evaluations()")
            self.asked = None
            self.process = subprocess.Popen(
                [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                env=os.environ | {"OMP_NUM_THREADS": "1"})
            self.poll = select.poll()
            self.poll.register(self.process.stdout, select.POLLIN)
        if self.asked != step:
            job = {"policy": str(path), "initial": str(self.folder / "initial.pt"), "step": step, "args": vars(self.args)}
            with contextlib.suppress(BrokenPipeError):                      # its end shows below
                print(json.dumps(job), file=self.process.stdin, flush=True)
            self.asked = step
        if not self.poll.poll(None if wait else 0):
            return None
        line = self.process.stdout.readline()
        if line.endswith("\n"):
            self.failures = 0
            return json.loads(line)
        self.close()
        self.failures += 1
        if self.failures < self.MAX_FAILURES:
            self.log("the process that evaluates has died; it is started again")
            return self._ask(step, path, wait)
        self.log(f"warning: the process that evaluates died {self.failures} times; this run goes on without evaluations, and "
                 "after --resume with them; --no-eval-in-background shows what is wrong")
        self.jobs = []                                                      # their files stay, for --resume
        return None

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


def serve_evaluations() -> None:
    """The other side of Evaluator: a job in JSON on standard input, its row on standard output."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)                            # Ctrl-C is the main process's business
    os.nice(5)                                                              # training first, but not alone
    for line in sys.stdin:
        job = json.loads(line)
        row = measure_strength(load_policy(job["policy"])[0], load_policy(job["initial"])[0], job["step"],
                               argparse.Namespace(**job["args"]))
        print(json.dumps(row), flush=True)

"""Strength: what a policy can do against opponents that do not learn with it."""

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from cleanmelee import signals
from cleanmelee.cli import UserError
from cleanmelee.controller import ACTION_SIZE, NUM_BUTTONS, NUM_STICK, STICK_NEUTRAL, mirrored
from cleanmelee.files import append_jsonl, atomic_write, read_file, read_jsonl
from cleanmelee.fingerprint import Fingerprint, unlike_people
from cleanmelee.frame import BUTTONS, outcomes
from cleanmelee.game import BOTS
from cleanmelee.games import BOT_SLOT, VecEnv, matchups
from cleanmelee.inference import Hands, Pace
from cleanmelee.observation import observe
from cleanmelee.player import TorchPolicy
from cleanmelee.recording import write_slp
from cleanmelee.statistics import wilson_interval
from cleanmelee.terminal import warn
from cleanmelee.workers import end_with_parent
from melee_common import Policy, load_checkpoint, load_policy, play_games, save_checkpoint


def measure_strength(policy: Policy, initial: Policy, step: int, *, seed: int, games: int, opponents: list[str],
                     held_out: str, combinations: list[tuple[str, str, str]], max_episode_frames: int,
                     target: str = "", best: Policy | None = None, best_score: float = 0.) -> dict:
    """A row for eval.jsonl. Win rates with 95 % intervals against

    - scripted `opponents`, and the one that training never meets (held_out: a bot, the file of a policy, or empty);
    - the initial policy, and itself (the control, which must come out even: whose score is counted changes so that
      neither the matchup nor the side of the stage tells);
    - the frozen policy that a best response is trained against (target: its file);
    - the run's best so far, whose score was best_score. score: the mean win rate against scripted opponents, the
      held-out one apart, or that of a best response against its target. is_best: this one takes its place, since it
      leads in score and against it together.

    style: the fingerprint of its games against itself, and which figures are far from people's. press: the share of its
    decisions there in which each button is held. drift: how far its actions there are from those of the initial policy
    against itself. collapse: what looks like one, among it a policy that wins from one side of the stage only.

    games: against each opponent, half of them from either port. combinations: (own character, opponent's, stage), in
    turn. All randomness is its own, keyed by seed and step."""
    policies, control, reference = [policy, initial], "control", "reference"
    opponent_of = {name: (BOT_SLOT, BOTS[name]) for name in opponents}  # name of a block of games: policy, scripted bot
    opponent_of |= {control: (0, 0), "initial": (1, 0), reference: (1, 0)}
    if held_out in BOTS:
        opponent_of.setdefault(held_out, (BOT_SLOT, BOTS[held_out]))
    files = ("heldout", "" if held_out in BOTS else held_out, "--held-out"), ("opponent", target, "--opponent")
    for name, file, flag in files:
        if file:
            try:
                policies.append(load_policy(file)[0])
                opponent_of[name] = (len(policies) - 1, 0)
            except UserError as error:
                warn(f"{error}; evaluations go without {flag} until it is put back")
    if best is not None:
        policies.append(best)
        opponent_of["best"] = (len(policies) - 1, 0)
    block = {name: slice(k * games, (k + 1) * games) for k, name in enumerate(opponent_of)}

    N = len(block) * games
    number = np.arange(N)
    port = number % 2                                                       # the policy's in each game
    assignment, bot_kinds = np.zeros((N, 2), np.int64), np.zeros((N, 2), np.int64)
    assignment[number, 1 - port] = np.repeat([player for player, _ in opponent_of.values()], games)
    bot_kinds[number, 1 - port] = np.repeat([bot for _, bot in opponent_of.values()], games)
    assignment[block[reference]] = 1                                        # the initial policy on both sides
    characters, stages = matchups(combinations, number % games, port)

    presses, style = {control: ActionCounts(), reference: ActionCounts()}, Fingerprint(stages)

    def watch(actions, before, after, running):
        style.watch(before, after, running)
        for name, counts in presses.items():
            counts.add(actions[block[name]][running[block[name]]])

    seed = seed + 1_000_003 * (step + 1)
    with VecEnv(N, characters, stages, seed=seed, bot_kinds=bot_kinds, max_episode_frames=max_episode_frames,
                action_repeat=policy.action_repeat) as envs:
        stocks = envs.frames["players"]["stocks"].copy()
        final = play_games(policies, envs, assignment, torch.Generator().manual_seed(seed), watch)

    counted_port = port.copy()
    counted_port[block[control]] = number[:games] // 2 % 2              # each character sits there as often as opposite
    scores = (outcomes(final) * np.where(counted_port == 0, 1, -1) + 1) / 2  # 1 won, .5 draw, 0 lost
    row = {"global_step": step, "games": games}
    for name in [name for name in block if name != reference]:
        wins = float(scores[block[name]].sum())
        low, high = wilson_interval(wins, games)
        row |= {f"eval/winrate_{name}": wins / games, f"eval/winrate_{name}_low": low,
                f"eval/winrate_{name}_high": high}

    scripted = [row[f"eval/winrate_{name}"] for name in block if opponent_of[name][0] == BOT_SLOT and name != held_out]
    row["eval/score"] = row.get("eval/winrate_opponent", float(np.mean(scripted)) if scripted else 0.)
    lead = row["eval/score"] - best_score + row.get("eval/winrate_best", 1.) - .5
    row["eval/is_best"] = bool(lead >= 0)
    mirror = np.zeros((N, 2), bool)
    mirror[block[control]] = True
    figures = style.figures(mirror)
    everywhere = style.figures((assignment == 0) & (np.repeat(list(block), games) != reference)[:, None])
    figures["self_destructs"] = everywhere.get("self_destructs", 0.)         # in all of its games: rare, and it matters
    row |= {f"style/{name}": value for name, value in figures.items()} | {"style/unlike_people": unlike_people(figures)}

    port_1 = float((outcomes(final[block[control]]) + 1).mean() / 2)
    untouched = ((final["players"]["percent"] == 0) & (final["players"]["stocks"] == stocks)).all(1)
    flags = collapse_flags(presses[control], presses[reference], games, control_score=row["eval/winrate_control"],
                           port_1_score=port_1, untouched=untouched[block[control]].mean(),
                           untouched_before=untouched[block[reference]].mean())
    row |= {f"eval/press_{name}": float(share) for name, share in zip(BUTTONS, presses[control].press, strict=True)}
    return row | {"eval/drift": presses[control].distance(presses[reference]),
                  "eval/action_entropy": presses[control].entropy(), "eval/port_1_score": port_1,
                  "eval/collapse": flags}


def film(policy: Policy, path: Path, step: int, *, seed: int, combinations: list[tuple[str, str, str]],
         max_episode_frames: int) -> None:
    """A game of the policy against itself as a .slp file, to be watched. Others as in measure_strength."""
    characters, stages = matchups(combinations[:1], np.zeros(1, int), np.zeros(1, int))
    seed = seed + 1_000_003 * (step + 1)
    everyone, begins = np.zeros((1, 2), int), np.ones(1, bool)
    hands = Hands([TorchPolicy(policy)], everyone, np.random.default_rng(seed), Pace(), asynchronous=False)
    with VecEnv(1, characters, stages, seed=seed, max_episode_frames=max_episode_frames) as envs:
        frames, controllers, over = [envs.frames.copy()], [envs.controllers.copy()], begins
        while len(frames) == 1 or not over.any():
            hands.advance(begins)
            turn = hands.turn(np.ones(1, bool))
            if turn.any():
                hands.ask(observe(envs.frames, envs.controllers, hands.pending()), mirrored(envs.frames), turn, begins)
            terminated, truncated, _ = envs.step(hands.take(time.perf_counter()))
            over, begins = terminated | truncated, np.zeros(1, bool)
            frames.append(np.where(over, envs.final_frames, envs.frames))
            controllers.append(np.where(over[:, None], envs.final_controllers, envs.controllers))
    hands.close()
    path.parent.mkdir(exist_ok=True)
    write_slp(path, np.concatenate(frames), np.concatenate(controllers))


class ActionCounts:
    """How often each button was held, and each position of each axis chosen, in the actions that were added."""

    def __init__(self):
        self.actions = 0
        self.pressed = np.zeros(NUM_BUTTONS)
        self.chosen = np.zeros((ACTION_SIZE - NUM_BUTTONS, NUM_STICK))

    def add(self, actions: np.ndarray) -> None:
        """actions [..., 13]"""
        rows = actions.reshape(-1, ACTION_SIZE)
        self.actions += len(rows)
        self.pressed += rows[:, :NUM_BUTTONS].sum(0)
        for axis, choices in enumerate(rows[:, NUM_BUTTONS:].T):
            self.chosen[axis] += np.bincount(choices, minlength=NUM_STICK)

    @property
    def press(self) -> np.ndarray:
        """[8] share of the actions in which each button was held"""
        return self.pressed / self.actions

    @property
    def tilt(self) -> np.ndarray:
        """[5, 17] distribution of each axis"""
        return self.chosen / self.actions

    def distance(self, other: "ActionCounts") -> float:
        """Mean over buttons and axes of the total variation distance."""
        buttons, axes = np.abs(self.press - other.press), np.abs(self.tilt - other.tilt).sum(-1) / 2
        return float(np.concatenate([buttons, axes]).mean())

    def entropy(self) -> float:
        """In nats, of all buttons and axes as if each were chosen alone."""
        return -sum(float((p * np.log(np.maximum(p, 1e-12))).sum()) for p in (self.press, 1 - self.press, self.tilt))


def collapse_flags(now: ActionCounts, before: ActionCounts, games: int, *, control_score: float, port_1_score: float,
                   untouched: float, untouched_before: float) -> list[str]:
    """Names of what looks like a collapse in a policy's games against itself. before: the initial policy's. untouched:
    the share of games in which nobody was hurt."""
    def uneven(score):                                                      # one false alarm in a thousand
        low, high = wilson_interval(score * games, games, z=3.3)
        return not low <= .5 <= high

    still = now.press.sum() < .01 and (now.tilt[:, STICK_NEUTRAL][:-1] > .99).all()
    flags = {"control": uneven(control_score), "one-sided": uneven(port_1_score),
             "entropy": now.entropy() < .25 * before.entropy(), "mashing": (now.press > .5).any(),
             "passive": untouched > .5 + .5 * untouched_before, "frozen": still}
    return [name for name, raised in flags.items() if raised]


def describe_strength(row: dict) -> str:
    """A row of eval.jsonl in a line."""
    rates = (f"{key.removeprefix('eval/winrate_')} {row[key]:.0%} [{row[f'{key}_low']:.0%}, {row[f'{key}_high']:.0%}]"
             for key in row if f"{key}_low" in row)
    flags = "".join(f"; collapse: {flag}" for flag in row["eval/collapse"])
    strange = [f"{name} {row[f'style/{name}']:.2g}" for name in row.get("style/unlike_people", ())]
    flags += f"; unlike people: {', '.join(strange)}" if strange else ""
    flags += "; the best so far" if row.get("eval/is_best") else ""
    return f"{', '.join(rates)}; drift {row['eval/drift']:.2f}{flags}"


class Evaluator:
    """Measures strength in a process of its own, so that collection never waits for it. A policy to be measured lies in
    checkpoints/eval_<step>.pt until its row is written: what a kill interrupts is measured after --resume. A process
    that keeps dying costs the evaluations, not the training."""

    MAX_FAILURES = 3
    EARLIER = 4                                                             # best generations kept beside the best one

    def __init__(self, run: Path, settings: dict, global_step: int, *, in_background: bool = True, log=print,
                 on_row=lambda row: None, film_every: int = 0, keep_best: bool = True):
        """settings: the keyword arguments of measure_strength. on_row: also shown every row, e.g. wandb.log.
        film_every: of so many evaluations one leaves a game in games/ of the run (0: none). keep_best False: best.pt is
        somebody else's, who goes by something else."""
        self.run, self.folder, self.settings = run, run / "checkpoints", settings
        self.in_background, self.log, self.on_row, self.keep_best = in_background, log, on_row, keep_best
        self.process, self.failures = None, 0
        self.best = self.folder / "best.pt"
        if keep_best:
            self._forget_a_later_best(global_step)
        names = ((re.fullmatch(r"eval_(\d{12,18})\.pt", path.name), path) for path in self.folder.glob("eval_*.pt"))
        waiting = sorted((int(ours[1]), path) for ours, path in names if ours and path.is_file())
        done = {row["global_step"]: row for _, row in read_jsonl(run / "eval.jsonl")}
        self.film_every, self.measured = film_every, len(done)
        self.jobs = []
        for step, path in waiting:
            if step > global_step or step in done:                   # measured again when training is there; or already
                if step in done:
                    self._keep_if_best(path, done[step])
                path.unlink()
            else:
                self.jobs.append((step, path))

    def submit(self, policy: Policy, step: int) -> None:
        if self.failures < self.MAX_FAILURES:
            self.jobs.append((step, save_checkpoint(self.folder / f"eval_{step:012d}.pt", policy)))

    def report(self, wait: bool = False, stop=()) -> None:
        """Writes and tells what is ready; with `wait` all of it, until `stop` is filled: the rest is for --resume."""
        for row in self.finished(wait, stop):
            append_jsonl(self.run / "eval.jsonl", row)
            self.log(f"eval at {row['global_step']:,}: {describe_strength(row)}")
            self.on_row(row)

    def finished(self, wait: bool = False, stop=()):
        """Yields rows that are ready, in the order of submission; with `wait` all of them, until `stop` is filled. The
        file of one goes as the next is asked for: by then its row is written."""
        while self.jobs and not stop:
            step, path = self.jobs[0]
            if self.in_background:
                row = self._ask(step, path, wait, stop)
                if row is None:
                    return
            else:
                row = _measure(self._job(step, path))
            if not self.keep_best:
                del row["eval/is_best"]
            yield row
            self.measured += 1
            self._keep_if_best(path, row)
            self.jobs.pop(0)
            path.unlink(missing_ok=True)

    def _job(self, step: int, path: Path) -> dict:
        best = str(self.best) if self.keep_best and self.best.exists() else ""
        filmed = self.film_every and self.measured % self.film_every == 0
        return {"policy": str(path), "initial": str(self.folder / "initial.pt"), "best": best, "step": step,
                "film": str(self.run / "games" / f"step_{step:012d}.slp") if filmed else "", "settings": self.settings}

    def _keep_if_best(self, path: Path, row: dict) -> None:
        """best.pt, and beside it those before it, to go back to if training goes back."""
        before = self._step_of(self.best)
        if not row.get("eval/is_best") or not path.exists() or before == row["global_step"]:
            return
        policy, metrics = load_policy(path)[0], {"score": row["eval/score"]}
        if before >= 0:
            atomic_write(self.folder / f"best_{before:012d}.pt", read_file(self.best))
        save_checkpoint(self.best, policy, step=row["global_step"], metrics=metrics)
        for older in self._earlier()[:-self.EARLIER]:
            older.unlink()

    def _earlier(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("best_*.pt") if re.fullmatch(r"best_\d{12,18}", path.stem))

    def _forget_a_later_best(self, global_step: int) -> None:
        """Training goes on from before the best was found, and will find it again."""
        for path in [path for path in self._earlier() if int(path.stem.removeprefix("best_")) > global_step]:
            path.unlink()
        if self._step_of(self.best) > global_step:
            self.best.unlink()
            if earlier := self._earlier():
                earlier[-1].replace(self.best)

    @staticmethod
    def _step_of(path: Path) -> int:
        return load_checkpoint(path)["step"] if path.exists() else -1

    def _ask(self, step: int, path: Path, wait: bool, stop) -> dict | None:
        """The row of the first job, if the process has it; starts the process, sends it the job, where that is to
        do."""
        if self.process is None:
            self._start()
        if self.asked != step:
            job = self._job(step, path)
            with contextlib.suppress(BrokenPipeError):                      # its end shows below
                print(json.dumps(job), file=self.process.stdin, flush=True)
            self.asked = step
        while not self.poll.poll(500 if wait else 0):
            if not wait or stop:
                return None
            self.process.send_signal(signal.SIGCONT)                        # if it was stopped, it goes on
        line = self.process.stdout.readline()
        if line.endswith("\n"):
            self.failures = 0
            return json.loads(line)
        self.close()
        self.failures += 1
        if self.failures < self.MAX_FAILURES:
            self.log("the process that evaluates has died; it is started again")
            return self._ask(step, path, wait, stop)
        self.log(f"warning: the process that evaluates died {self.failures} times; this run goes on without "
                 "evaluations, and after --resume with them")
        self.jobs = []                                                      # their files stay, for --resume
        return None

    def _start(self) -> None:
        here = str(Path(__file__).parents[1])
        code = (f"import sys; sys.path.insert(0, {here!r}); from cleanmelee.evaluation import serve_evaluations; "
                f"serve_evaluations({os.getpid()})")
        with signals.held():
            self.process = subprocess.Popen(
                [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                env=os.environ | {"OMP_NUM_THREADS": "1"})
        self.poll = select.poll()
        self.poll.register(self.process.stdout, select.POLLIN)
        self.asked = None                                                   # the step of the job that it has

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            for pipe in (self.process.stdin, self.process.stdout):
                with contextlib.suppress(BrokenPipeError):                  # of a job that it did not live to read
                    pipe.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
            self.process = None


def serve_evaluations(parent: int) -> None:
    """The other side of Evaluator: a job in JSON on standard input, its row on standard output. parent: its process
    id."""
    signals.leave_to_parent()
    end_with_parent(parent)
    os.nice(5)                                                              # training first, but not alone
    for line in sys.stdin:
        print(json.dumps(_measure(json.loads(line))), flush=True)


def _measure(job: dict) -> dict:
    """measure_strength for policies in files."""
    policy, initial = (load_policy(job[name])[0] for name in ("policy", "initial"))
    if job["film"]:
        film(policy, Path(job["film"]), job["step"], **{
            name: job["settings"][name] for name in ("seed", "combinations", "max_episode_frames")})
    best = {}
    if job["best"]:
        best["best"], data = load_policy(job["best"])
        best["best_score"] = data["metrics"]["score"]
    return measure_strength(policy, initial, job["step"], **best, **job["settings"])

"""What self-play learns from scratch: N seeds, fixed frames, win rates of the last generation against fixed opponents.

    python tests/bench/bench_learning.py                                    # three seeds, 15 minutes of one core each
    python tests/bench/bench_learning.py --seeds 1 --flags="--num-games 8"  # another recipe
    python tests/bench/bench_learning.py --runs runs/a runs/b               # judge finished runs
    python tests/bench/bench_learning.py --runs runs/a runs/b --games 0     # as their own last evaluations did

Every run is judged anew in --games games against each opponent of its evaluations, half of them from either port, with
randomness of its own: the generation that it ended with, whatever that is, not the best one.
"""

import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import ppo_selfplay  # noqa: E402 (after the path is set)
from cleanmelee.cli import COUNT_OR_OFF, PATH, Range, UserError, from_flags, run_script
from cleanmelee.evaluation import describe_strength, measure_strength
from cleanmelee.files import read_json, read_jsonl
from melee_common import load_policy
from results import ROOT, save

NOT_FIXED = "control", "initial", "best"                # opponents that are each run's own
FRESH = 7919                                            # added to a run's seed: not the games of its own evaluations
WHERE = {"--run-name", "--runs-dir", "--seed", "--checkpoint", "--eval-games"}         # no part of a recipe


@dataclass
class Args:
    runs: tuple[str, ...] = ()
    """folders of finished runs to judge (off: none, train them)"""
    seeds: Annotated[int, Range(1, 100)] = 3
    """runs to train, with the seeds from 1 on"""
    flags: str = "--num-games 128 --timesteps 34000000"
    """of ppo_selfplay.py, for all runs"""
    games: Annotated[int, COUNT_OR_OFF] = 200
    """against each opponent (off: 0, what the run's own last evaluation found)"""
    json: Annotated[str, PATH] = ""
    """file for the figures (off: empty)"""


def train(folder: str, seed: int, flags: list[str]) -> Path:
    command = [sys.executable, "ppo_selfplay.py", *flags, f"--seed={seed}", f"--runs-dir={folder}",
               f"--run-name={seed}"]
    if subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL).returncode:
        raise UserError(f"--flags {shlex.join(flags)}: the run with seed {seed} ended early; see above")
    return Path(folder) / str(seed)


def judge(run: Path, games: int) -> dict:
    """A row of the table, with the number of games."""
    args = from_flags(ppo_selfplay.Args, read_json(run / "args.json"))
    if games:
        (policy, saved), (initial, _) = (load_policy(run / "checkpoints" / f"{name}.pt") for name in (
            "latest", "initial"))
        found = measure_strength(policy, initial, saved["step"], **ppo_selfplay.evaluation_settings(args) | {
            "seed": args.seed + FRESH, "games": games})
    else:
        rows = [row for _, row in read_jsonl(run / "eval.jsonl")]
        if not rows:
            raise UserError(f"{run}: no evaluation in its eval.jsonl; judge it with --games 200")
        found = max(rows, key=lambda row: row["global_step"])
    print(f"{run}: {describe_strength(found)}", flush=True)
    names = [key.removeprefix("eval/winrate_").removesuffix("_low") for key in found if key.endswith("_low")]
    winrates = {name: [found[f"eval/winrate_{name}{end}"] for end in ("", "_low", "_high")] for name in names
                if name not in NOT_FIXED}
    seconds = sum(row["time/processor"] for _, row in read_jsonl(run / "metrics.jsonl")
                  if row["global_step"] <= found["global_step"])
    return {"seed": args.seed, "frames": found["global_step"], "minutes": round(seconds / 60, 1),
            "games": found["games"], "winrates": winrates}


def recipe(run: Path) -> str:
    """The command that began a run, without what says where and with which seed."""
    words, kept = shlex.split((run / "command.txt").read_text())[2:], []
    while words:
        word = words.pop(0)
        value = [] if "=" in word or not words or words[0].startswith("--") else [words.pop(0)]
        kept += [word, *value] if word.split("=")[0] not in WHERE else []
    return shlex.join(["python", "ppo_selfplay.py", *kept])


def main(args: Args) -> None:
    began = time.time()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        runs = list(map(Path, args.runs)) or [
            train(folder, seed, shlex.split(args.flags)) for seed in range(1, args.seeds + 1)]
        recipes = {recipe(run) for run in runs}
        if len(recipes) > 1:
            raise UserError(f"--runs {' '.join(args.runs)}: not seeds of one recipe: {'; '.join(sorted(recipes))}")
        save(args.json, [judge(run, args.games) for run in runs], began, training=recipes.pop())


if __name__ == "__main__":
    run_script(main, Args)

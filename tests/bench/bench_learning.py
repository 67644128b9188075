"""What self-play learns: seeds from scratch, or finished runs, against scripted opponents, each other and their past.

    python tests/bench/bench_learning.py                                    # three seeds, 14 minutes of one core each
    python tests/bench/bench_learning.py --first-seed 4                     # three others
    python tests/bench/bench_learning.py --seeds 1 --flags="--num-games 8"  # another recipe
    python tests/bench/bench_learning.py runs/a runs/b runs/c               # last generations of finished runs
    python tests/bench/bench_learning.py runs/a teacher.pt --best           # a run's best generation; a checkpoint
    python tests/bench/bench_learning.py runs/a --character all --stage all --opponents level5,level9 --no-past
    python tests/bench/bench_learning.py runs/a --games 8 --opponents idle --no-past       # does it work?

A figure is the mean of --games games, half from either port, a draw half a win; [95 %, Wilson]. With several characters
the policy meets its own character (dittos), or --opponent-character, each in turn with every stage, and the figures are
given by character and by stage too. Of all games against scripted opponents: draws, and stocks that the policy lost
alone, a minute. Past: the smallest of its win rates against the checkpoints in the run's pool, which all play: under a
half, and it has forgotten something.
"""

import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import ppo_selfplay
from cleanmelee.cli import (
    PATH, SEEDS, Range, UserError, as_flag, check_ranges, parse_matchups, parse_names, run_script, to_flags,
)
from cleanmelee.files import check_writable, read_json, read_jsonl
from cleanmelee.fingerprint import FRAMES_PER_MINUTE, Fingerprint
from cleanmelee.frame import CHARACTERS, STAGES, outcomes
from cleanmelee.game import BOTS
from cleanmelee.games import BOT_SLOT, VecEnv, matchups
from cleanmelee.pool import Pool
from cleanmelee.statistics import wilson_interval
from cleanmelee.tracking import WandbArgs
from melee_common import Policy, load_policy, play_games
from results import ROOT, percent, place, save

NO_PART = {                                             # of a recipe: what changes nothing that is learnt
    "run_name", "runs_dir", "seed", "device", "save_interval", "checkpoint", "track_elo", "eval_interval", "eval_games",
    "eval_opponents", "eval_in_background", "watch_interval", "held_out", "keep_retired", "num_workers", "use_threads",
    "worker_timeout", "max_restarts", "resume", *to_flags(WandbArgs())}
DECIDES = "num_games", "pretrained", "opponent", "action_repeat", "backbone", "entropy_coef", "update_interval"


@dataclass
class Args:
    runs: tyro.conf.Positional[tuple[str, ...]] = ()
    """folders of finished runs, or checkpoints, to judge (off: none, train them)"""
    seeds: Annotated[int, Range(1, 100)] = 3
    """runs to train"""
    first_seed: Annotated[int, SEEDS] = 1
    """the seed of the first of them, the others count on from it"""
    flags: str = "--num-games 128 --timesteps 46000000"
    """of ppo_selfplay.py, for all runs that are trained"""
    best: bool = False
    """checkpoints/best.pt of each run (off: False, latest.pt)"""
    opponents: str = "idle,level1,level3,level5,level7,level9,level10,level11,level12,attacker"
    """scripted opponents, separated by commas (off: empty)"""
    past: bool = True
    """play each run's last generation against its own pool (off: --no-past)"""
    games: Annotated[int, Range(2, 65536)] = 200
    """a figure"""
    character: str = "mewtwo"
    """the policies' character; several, separated by commas, or all: in turn"""
    opponent_character: str = ""
    """the opponents' (off: empty, the same)"""
    stage: str = "final_destination"
    """stage, stages or all"""
    max_episode_frames: Annotated[int, Range(1)] = 3600
    """length of a game"""
    seed: Annotated[int, SEEDS] = 1001
    """seed of games and sampling, which no evaluation of a run has"""
    json: Annotated[str, PATH] = ""
    """file for the figures (off: empty)"""


# ---------------------------------------------------------------------------------------------------------------------
# Runs
# ---------------------------------------------------------------------------------------------------------------------

def train(folder: str, seed: int, flags: list[str]) -> Path:
    command = [sys.executable, "ppo_selfplay.py", *flags, f"--seed={seed}", f"--runs-dir={folder}",
               f"--run-name={seed}"]
    if subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL).returncode:
        raise UserError(f"--flags {shlex.join(flags)}: the run with seed {seed} ended early; see above")
    return Path(folder) / str(seed)


def recipe(run: Path) -> str:
    """The shortest command that begins such a run today: flags that are as they would be anyway are left out, and what
    changes nothing that it learns, and its seed. UserError: another version has begun it."""
    flags = read_json(run / "args.json")
    usual = ppo_selfplay.Args(**{name: flags[name] for name in DECIDES if name in flags})
    alone = ppo_selfplay.Args(pretrained=flags.get("pretrained", ""), opponent=flags.get("opponent", ""))
    if flags.keys() != to_flags(usual).keys():
        raise UserError(f"{run}: another version of ppo_selfplay.py, with other flags, has begun it; leave --json out")
    begun_from = load_policy(run / "checkpoints" / "initial.pt")[0] if flags["pretrained"] else None
    ppo_selfplay.fill_in(usual, begun_from or ppo_selfplay.from_scratch(usual))
    ppo_selfplay.fill_in(alone, begun_from or ppo_selfplay.from_scratch(alone))
    usual = to_flags(usual) | {name: to_flags(alone)[name] for name in DECIDES} | {"pretrained": "", "opponent": ""}
    words = [word for name, value in flags.items() if value != usual[name] and name not in NO_PART
             for word in ([as_flag(name) if value else as_flag(f"no_{name}")] if isinstance(value, bool)
                          else [as_flag(name), place(as_flag(name), str(value))])]
    return shlex.join(["python", "ppo_selfplay.py", *words])


def history(run: Path, frames: int) -> dict:
    """Of a run that has played so many game frames; nothing of a checkpoint alone."""
    if not run.is_dir():
        return {}
    seconds = sum(row["time/processor"] for _, row in read_jsonl(run / "metrics.jsonl")
                  if row["global_step"] <= frames)
    return {"seed": read_json(run / "args.json")["seed"], "frames": frames, "minutes": round(seconds / 60, 1)}


# ---------------------------------------------------------------------------------------------------------------------
# Games
# ---------------------------------------------------------------------------------------------------------------------

@torch.inference_mode()
def score(policy: Policy, others: dict[str, Policy | int], args: Args) -> dict[str, dict]:
    """One policy against each of `others` (a policy, or the number of a scripted bot): by name `wins` [games] of 0, .5
    or 1, `draws`, `self_destructs` and `minutes`."""
    games, names = args.games, list(others)
    policies = [policy, *(other for other in others.values() if isinstance(other, Policy))]
    seats = {name: policies.index(other) if isinstance(other, Policy) else BOT_SLOT for name, other in others.items()}
    number = np.arange(len(names) * games)
    port = number % 2
    assignment, bots = np.zeros((len(number), 2), int), np.zeros((len(number), 2), int)
    assignment[number, 1 - port] = np.repeat([seats[name] for name in names], games)
    bots[number, 1 - port] = np.repeat([0 if isinstance(other, Policy) else other for other in others.values()], games)
    combinations = parse_matchups(args.character, args.opponent_character, args.stage)
    characters, stages = matchups(combinations, number % games, port)
    style = Fingerprint(stages)
    with VecEnv(len(number), characters, stages, seed=args.seed, bot_kinds=bots, action_repeat=policy.action_repeat,
                max_episode_frames=args.max_episode_frames) as envs:
        final = play_games(policies, envs, assignment, torch.Generator().manual_seed(args.seed),
                           lambda actions, before, after, running: style.watch(before, after, running))
    wins = (outcomes(final) * (1 - 2 * port) + 1) / 2
    mine = number, port
    found = {}
    for k, name in enumerate(names):
        block = slice(k * games, (k + 1) * games)
        own = tuple(axis[block] for axis in mine)
        found[name] = {"wins": wins[block], "draws": float((wins[block] == .5).mean()),
                       "self_destructs": int(style.self_destructs[own].sum()),
                       "minutes": float(style.frames[own].sum() / FRAMES_PER_MINUTE),
                       "character": characters[own], "stage": stages[block]}
    return found


def rate(wins: np.ndarray) -> list[float]:
    """Win rate, and its 95 % interval."""
    return [float(wins.mean()), *wilson_interval(wins.sum(), len(wins))]


def shown(rates: dict[str, list[float]]) -> str:
    return ", ".join(f"{name} {percent(*of)}" for name, of in rates.items())


def judge(path: Path, args: Args) -> dict:
    """A row of figures, which it prints too."""
    file = path / "checkpoints" / ("best.pt" if args.best else "latest.pt") if path.is_dir() else path
    policy, saved = load_policy(file)
    row = {"run": str(path), **history(path, saved.get("step", 0)), "games": args.games}
    bots = parse_names(args.opponents, BOTS, "bot") if args.opponents else []
    found = score(policy, {bot: BOTS[bot] for bot in bots}, args) if bots else {}
    if found:
        row["winrates"] = {bot: rate(of["wins"]) for bot, of in found.items()}
        row["draws"] = float(np.mean([of["draws"] for of in found.values()]))
        row["self_destructs"] = (sum(of["self_destructs"] for of in found.values())
                                 / sum(of["minutes"] for of in found.values()))
        print(f"{path}: {shown(row['winrates'])}; draws {row['draws']:.1%}, stocks lost alone "
              f"{row['self_destructs']:.2f} a minute", flush=True)
    for kind, ids in (("character", CHARACTERS), ("stage", STAGES)):
        met = {label: number for label, number in ids.items()
               if any((of[kind] == number).any() for of in found.values())}
        if len(met) > 1:
            row[kind] = {label: {bot: rate(of["wins"][of[kind] == number]) for bot, of in found.items()}
                         for label, number in met.items()}
            for label, rates in row[kind].items():
                print(f"  {label}: {shown(rates)}", flush=True)

    others = {"itself": load_policy(file)[0]}
    if args.past and (path / "pool").is_dir():
        pool = Pool(path / "pool", action_repeat=policy.action_repeat, frame_delay=policy.frame_delay)
        others |= {past: pool.load(past) for past in pool.all_ids() if pool.path(past).is_file()}
    against = score(policy, others, args)
    row["draws_itself"] = against.pop("itself")["draws"]
    print(f"  draws against itself {row['draws_itself']:.1%}", flush=True)
    if against:
        rates = {past: rate(of["wins"]) for past, of in against.items()}
        least = min(rates, key=rates.get)
        row["past"] = {"checkpoints": len(rates), "median": float(np.median([of[0] for of in rates.values()])),
                       "least": rates[least], "against": least}
        print(f"  its past, {len(rates)} checkpoints: median {row['past']['median']:.0%}, least "
              f"{percent(*rates[least])} against {least}", flush=True)
    return row


def cross_play(paths: list[Path], args: Args) -> list[dict]:
    """Every pair of them: the first one's win rate."""
    name = "best.pt" if args.best else "latest.pt"
    policies = [load_policy(path / "checkpoints" / name if path.is_dir() else path)[0] for path in paths]
    pairs = []
    for k, policy in enumerate(policies[:-1]):
        for other, of in score(policy, dict(enumerate(policies[k + 1:], k + 1)), args).items():
            pairs.append({"first": str(paths[k]), "second": str(paths[other]), "rate": rate(of["wins"])})
            print(f"{paths[k]} against {paths[other]}: {percent(*pairs[-1]['rate'])}", flush=True)
    return pairs


def main(args: Args) -> None:
    began = time.time()
    check_ranges(args)
    if args.games % 2:
        raise UserError(f"--games {args.games}: must be even, half are played from either port")
    parse_matchups(args.character, args.opponent_character, args.stage)
    if args.opponents:
        parse_names(args.opponents, BOTS, "bot")
    if args.json:
        check_writable("--json", Path(args.json))
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        seeds = range(args.first_seed, args.first_seed + args.seeds)
        runs = list(map(Path, args.runs)) or [train(folder, seed, shlex.split(args.flags)) for seed in seeds]
        recipes = {recipe(run) for run in runs if run.is_dir()} if args.json else set()
        if args.json and (len(recipes) != 1 or not all(run.is_dir() for run in runs)):
            raise UserError(f"--json {args.json}: a table is of seeds of one recipe, and these are "
                            f"{'; '.join(sorted(recipes)) or 'checkpoints'}")
        rows = [judge(run, args) for run in runs]
        save(args.json, rows, began, training="; ".join(sorted(recipes)), cross_play=cross_play(runs, args))


if __name__ == "__main__":
    run_script(main, Args)

"""How strong finished runs are: against the scripted opponents, each other and their own past.

    python tests/bench/bench_strength.py runs/a runs/b runs/c              # last generations of three seeds
    python tests/bench/bench_strength.py runs/a --best                     # its best generation
    python tests/bench/bench_strength.py runs/a --character all --stage all --opponents level5,level9 --no-past
    python tests/bench/bench_strength.py runs/a --num-games 8 --opponents idle --no-past      # does it work?

A figure is the mean of --num-games games, half from either port, a draw half a win; [95 %, Wilson]. With several
characters the policy meets its own character (dittos), or --opponent-character, each in turn with every stage, and the
figures are given by character and by stage too. Of all games against scripted opponents: draws, and stocks that the
policy lost alone, a minute. Past: the smallest of its win rates against the checkpoints in the run's pool, which all
play: under a half, and it has forgotten something.
"""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from cleanmelee.cli import PATH, SEEDS, Range, UserError, check_ranges, parse_matchups, parse_names, run_script
from cleanmelee.files import atomic_write, check_writable
from cleanmelee.fingerprint import Fingerprint
from cleanmelee.frame import CHARACTERS, STAGES, outcomes
from cleanmelee.game import BOTS
from cleanmelee.games import BOT_SLOT, VecEnv, matchups
from cleanmelee.pool import Pool
from cleanmelee.statistics import wilson_interval
from cleanmelee.terminal import Terminal
from melee_common import Policy, load_policy, play_games

OPPONENTS = "idle,level1,level3,level5,level7,level9,level10,level11,level12,attacker"


@dataclass
class Args:
    runs: tyro.conf.Positional[tuple[str, ...]]
    """run folders, or checkpoints"""
    best: bool = False
    """checkpoints/best.pt of each run (off: False, latest.pt)"""
    opponents: str = OPPONENTS
    """scripted opponents, separated by commas (off: empty)"""
    past: bool = True
    """play each run's last generation against its own pool (off: --no-past)"""
    num_games: Annotated[int, Range(2, 65536)] = 200
    """games a figure"""
    character: str = "mewtwo"
    """the policies' character; several, separated by commas, or all: in turn"""
    opponent_character: str = ""
    """the opponents' (off: empty, the same)"""
    stage: str = "final_destination"
    """stage, stages or all"""
    max_episode_frames: Annotated[int, Range(1)] = 3600
    """length of a game"""
    seed: Annotated[int, SEEDS] = 1001
    """seed of games and sampling"""
    json: Annotated[str, PATH] = ""
    """file for the figures (off: empty)"""


@torch.inference_mode()
def score(policy: Policy, others: dict[str, Policy | int], args: Args) -> dict[str, dict]:
    """One policy against each of `others` (a policy, or the number of a scripted bot): by name `wins` [games] of 0, .5
    or 1, `draws`, `self_destructs` and `minutes`."""
    games, names = args.num_games, list(others)
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
                       "minutes": float(style.frames[own].sum() / 3600),
                       "character": characters[own], "stage": stages[block]}
    return found


def rate(wins: np.ndarray) -> str:
    """Win rate in percent with its 95 % interval."""
    low, high = wilson_interval(wins.sum(), len(wins))
    return f"{wins.mean():.0%} [{100 * low:.0f}, {100 * high:.0f}]".replace("%", "")


def main(args: Args) -> None:
    check_ranges(args)
    if args.num_games % 2:
        raise UserError(f"--num-games {args.num_games}: must be even, half are played from either port")
    parse_matchups(args.character, args.opponent_character, args.stage)
    bots = parse_names(args.opponents, BOTS, "bot") if args.opponents else []
    if args.json:
        check_writable("--json", Path(args.json))
    paths = [Path(run) for run in args.runs]
    files = [p / "checkpoints" / ("best.pt" if args.best else "latest.pt") if p.is_dir() else p for p in paths]
    policies = {str(path): load_policy(file)[0].requires_grad_(False) for path, file in zip(paths, files, strict=True)}
    console, rows, tick = Terminal(), {}, time.process_time()
    torch.set_num_threads(1)

    for (name, policy), path in zip(policies.items(), paths, strict=True):
        found = score(policy, {bot: BOTS[bot] for bot in bots}, args) if bots else {}
        console.print(f"{name}: " + ", ".join(f"{bot} {rate(of['wins'])}" for bot, of in found.items()))
        row = {bot: float(of["wins"].mean()) for bot, of in found.items()}
        if found:
            minutes = sum(of["minutes"] for of in found.values())
            row["draws"] = float(np.mean([of["draws"] for of in found.values()]))
            row["self_destructs"] = sum(of["self_destructs"] for of in found.values()) / minutes
            console.print(f"  draws {row['draws']:.1%}, self-destructs a minute {row['self_destructs']:.2f} (idle "
                          "apart: " + ", ".join(f"{bot} {of['self_destructs'] / of['minutes']:.2f}"
                                                for bot, of in found.items()) + ")")
        for kind, ids in (("character", CHARACTERS), ("stage", STAGES)):
            of_kind = {label: number for label, number in ids.items()
                       if any((of[kind] == number).any() for of in found.values())}
            for label, number in of_kind.items() if len(of_kind) > 1 else ():
                row[label] = {bot: float(of["wins"][of[kind] == number].mean()) for bot, of in found.items()}
                console.print(f"  {label}: " + ", ".join(
                    f"{bot} {rate(of['wins'][of[kind] == number])}" for bot, of in found.items()))
        others = {"itself": load_policy(files[paths.index(path)])[0]}
        pool = Pool(path / "pool", action_repeat=policy.action_repeat, frame_delay=policy.frame_delay) \
            if args.past and (path / "pool").is_dir() else None
        if pool:
            others |= {past: pool.load(past) for past in pool.all_ids() if pool.path(past).is_file()}
        against = score(policy, others, args)
        row["draws_itself"] = against["itself"]["draws"]
        console.print(f"  itself {rate(against['itself']['wins'])}, draws {row['draws_itself']:.1%}")
        if pool:
            past = {key: float(of["wins"].mean()) for key, of in against.items() if key != "itself"}
            worst = min(past, key=past.get)
            row["past"] = past
            console.print(f"  its past ({len(past)} checkpoints): median {np.median(list(past.values())):.0%}, least "
                          f"{rate(against[worst]['wins'])} against {worst}")
        rows[name] = row
    names = list(policies)
    for k, one in enumerate(names):                                         # cross-play
        others = {name: policies[name] for name in names[k + 1:]}
        for name, of in (score(policies[one], others, args) if others else {}).items():
            rows[one][name] = float(of["wins"].mean())
            console.print(f"{one} against {name}: {rate(of['wins'])}, draws {of['draws']:.1%}")
    console.print(f"{time.process_time() - tick:.0f} s of processor time")
    if args.json:
        atomic_write(Path(args.json), json.dumps(rows, indent=1).encode() + b"\n")


if __name__ == "__main__":
    run_script(main, Args)

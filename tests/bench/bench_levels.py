"""The scripted levels as yardsticks: who beats whom, and how they compare with people.

    python tests/bench/bench_levels.py --replays DIR                # Mewtwo on Final Destination, 200 games a pair
    python tests/bench/bench_levels.py --character fox --games 100

Ports are balanced, intervals are Wilson's at 95 %, draws count half. A game is four stocks or eight minutes. People are
those in a folder of replays who play against somebody that moves.
"""

import itertools
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from cleanmelee import game
from cleanmelee.cli import PATH, Range, UserError, check_ranges, lookup, run_script
from cleanmelee.frame import outcomes
from cleanmelee.replays import controlled, read_replay
from cleanmelee.statistics import wilson_interval
from results import percent, save

FRAMES_PER_MINUTE = 60 * 60
LADDER = ("level1", "level3", "level5", "level7", "level9", "level10", "level11", "level12")
OTHERS = ("idle", "random", "attacker")


@dataclass
class Args:
    replays: Annotated[str, PATH] = ""
    """folder of .slp files with people (off: empty)"""
    character: str = "mewtwo"
    """of both sides"""
    stage: str = "final_destination"
    """where they play"""
    games: Annotated[int, Range(4, 65536)] = 200
    """of a pair; of a level against itself a quarter"""
    json: Annotated[str, PATH] = ""
    """file for the figures (off: empty)"""


class Tally:
    """What happens to the players of games watched frame by frame; every array is [N, 2]."""

    def __init__(self, num_games, stages):
        self.edge = game.TABLES.stages["floor_right"][np.broadcast_to(stages, num_games), 0][:, None]
        shape = (num_games, 2)
        self.frames, self.damage = np.zeros(shape, int), np.zeros(shape)    # watched; percent taken
        self.lost, self.suicides = np.zeros(shape, int), np.zeros(shape, int)  # stocks; those lost without a blow
        self.trips, self.returns = np.zeros(shape, int), np.zeros(shape, int)  # knocked off the stage; came back
        self.away, self.struck = np.zeros(shape, bool), np.zeros(shape, bool)
        self.ko_percents = [[[], []] for _ in range(num_games)]

    def watch(self, before, now, rows):
        """before, now [M, 2] PLAYER of the M games in rows."""
        hurt = np.maximum(now["percent"] - before["percent"], 0)
        gone = now["stocks"] < before["stocks"]
        ledge = (now["action"] >= game.LEDGE_CATCH) & (now["action"] <= 263)
        alive, stunned = now["action"] > game.REBIRTH_WAIT, now["in_hitstun"] != 0
        safe = alive & (ledge | (now["airborne"] == 0)) & ~stunned
        out = alive & (now["airborne"] != 0) & (np.abs(now["x"]) > self.edge[rows]) & stunned
        away, struck = self.away[rows], self.struck[rows]
        self.frames[rows] += 1
        self.damage[rows] += hurt
        self.lost[rows] += gone
        self.suicides[rows] += gone & ~struck
        for index, player in zip(*np.nonzero(gone & struck), strict=True):
            self.ko_percents[rows[index]][player].append(float(before["percent"][index, player]))
        self.returns[rows] += away & safe
        self.trips[rows] += out & ~away
        self.struck[rows] = (struck & ~safe | stunned | (hurt > 0)) & ~gone
        self.away[rows] = (away | out) & ~safe & ~gone & alive


def figures(tally, chosen):
    """One row of the table for the players in chosen [N, 2]; damage is what they deal, the rest what they suffer."""
    minutes = tally.frames[chosen].sum() / FRAMES_PER_MINUTE
    percents = [p for index, player in zip(*np.nonzero(chosen), strict=True) for p in tally.ko_percents[index][player]]
    lost, trips = tally.lost[chosen].sum(), tally.trips[chosen].sum()
    return {"minutes": minutes, "damage": tally.damage[chosen[:, ::-1]].sum() / minutes,
            "ko_percent": float(np.median(percents)) if percents else np.nan, "stocks": int(lost),
            "trips": int(trips), "recovery": tally.returns[chosen].sum() / max(trips, 1),
            "suicides": tally.suicides[chosen].sum() / max(lost, 1)}


def play(first, second, characters, stages, num_games, seed=0, max_frames=game.TIME_LIMIT):
    """num_games games between two bots, the first on port 1 in half of them: final frames [N], Tally, side [N].

    first, second: a bot's name or names [N]; characters of both: each an id or ids [N]; stages: an id or ids [N]."""
    frames, hidden = np.zeros(num_games, game.FRAME), np.zeros(num_games, game.HIDDEN)
    bots, controllers = np.zeros((num_games, 2), game.BOT), np.zeros((num_games, 2), game.CONTROLLER)
    side = np.arange(num_games) % 2                    # the port index of the first
    rows = np.arange(num_games)
    for column, names in ((side, first), (1 - side, second)):
        bots["kind"][rows, column] = [game.BOTS[name] for name in np.broadcast_to(names, num_games)]
    bots["seed"] = np.random.default_rng(seed).integers(1, 2 ** 63, (num_games, 2), np.uint64)
    chosen = np.empty((num_games, 2), int)
    chosen[rows, side], chosen[rows, 1 - side] = characters
    stages = np.broadcast_to(stages, num_games)
    game.reset_games(frames, hidden, np.ones(num_games, bool), chosen, stages,
                     np.random.default_rng(seed + 1).integers(0, 2 ** 63, num_games, np.uint64))
    tally, final = Tally(num_games, stages), frames.copy()
    for _ in range(max_frames - game.FIRST_CONTROL_FRAME + 1):
        before = frames["players"].copy()
        game.bot_controllers(frames, bots, controllers)
        game.step_games(frames, hidden, controllers)
        tally.watch(before, frames["players"], rows)
        over = game.game_over(frames)
        if over.any():                                 # finished games leave the batch
            final[rows[over]] = frames[over]
            rows, frames, hidden, bots, controllers = (a[~over] for a in (rows, frames, hidden, bots, controllers))
            if not len(rows):
                break
    final[rows] = frames
    return final, tally, side


def beats(first, second, args):
    """A row: how often the first wins."""
    character = game.CHARACTERS[args.character]
    final, _, side = play(first, second, (character, character), game.STAGES[args.stage], args.games)
    row = {"level": first, "against": second, "rate": rate(outcomes(final) * (1 - 2 * side))}
    print(f"{first} beats {second}: {percent(*row['rate'])}", flush=True)
    return row


def rate(score):
    """Games won (1), drawn (0) and lost (-1) -> win rate, and its interval."""
    wins = float((score + 1).sum() / 2)
    return [wins / len(score), *wilson_interval(wins, len(score))]


def ports(level, args):
    """A row: how often port 1 wins when a level plays itself."""
    character = game.CHARACTERS[args.character]
    final, *_ = play(level, level, (character, character), game.STAGES[args.stage], args.games)
    return {"level": level, "port_1": rate(outcomes(final))}


def style(level, args):
    """A row: figures of a level against itself."""
    games, character = args.games // 4, game.CHARACTERS[args.character]
    _, tally, _ = play(level, level, (character, character), game.STAGES[args.stage], games)
    return {"player": level, **figures(tally, np.ones((games, 2), bool))}


def people(paths):
    """A row: figures of all the people in games of two. Replays that cannot be used are named and skipped."""
    tallies = []
    for path in paths:
        try:
            replay = controlled(read_replay(path))
        except UserError as error:
            print(f"skipped {error}", file=sys.stderr)
            continue
        players, stage = replay.frames["players"], replay.meta["stage"]
        moved = [(np.abs(replay.controllers["main_x"][:, index]) > .5).mean() > .1 for index in range(2)]
        chosen = np.array([[kind == "Human" for kind in replay.meta["types"]]]) & all(moved)
        if stage not in game.STAGES.values() or not chosen.any():
            print(f"skipped {path}: no person who plays against somebody that moves, or a stage the game does not have",
                  file=sys.stderr)
            continue
        tally = Tally(1, stage)
        for before, now in itertools.pairwise(players[:, None]):
            tally.watch(before, now, np.zeros(1, int))
        tallies.append((tally, chosen))
    if not tallies:
        raise UserError("--replays: no game in which people play against somebody that moves; give others, or leave it")
    whole = Tally(len(tallies), game.STAGES["final_destination"])
    for name in ("frames", "damage", "lost", "suicides", "trips", "returns"):
        setattr(whole, name, np.concatenate([getattr(tally, name) for tally, _ in tallies]))
    whole.ko_percents = [tally.ko_percents[0] for tally, _ in tallies]
    return {"player": f"people, {len(tallies)} games", **figures(whole, np.concatenate([c for _, c in tallies]))}


def main(args):
    began = time.time()
    check_ranges(args)
    lookup(game.CHARACTERS, args.character, "character"), lookup(game.STAGES, args.stage, "stage")
    if args.games % 4:
        raise UserError(f"--games {args.games}: must be a multiple of 4, for both ports and a quarter of them")
    files = sorted(Path(args.replays).glob("*.slp")) if args.replays else []
    if args.replays and not files:
        raise UserError(f"--replays {args.replays}: no .slp files in it; give a folder of replays")
    game.warm_up()
    rows = [beats(strong, weak, args) for weak, strong in itertools.combinations(LADDER, 2)]
    rows += [beats(level, other, args) for level in ("level1", "level9", "level12") for other in OTHERS]
    rows.append(ports("level9", args))
    for row in [*(style(level, args) for level in LADDER), *([people(files)] if files else [])]:
        print(f"{row['player']}: {row['damage']:.0f} % a minute, KO at {row['ko_percent']:.0f} %, came back "
              f"{row['recovery']:.0%} of {row['trips']}, fell without a blow {row['suicides']:.0%} of {row['stocks']}")
        rows.append(row)
    save(args.json, rows, began, character=args.character, stage=args.stage, games=args.games)


if __name__ == "__main__":
    run_script(main, Args)

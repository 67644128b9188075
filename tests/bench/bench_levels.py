"""The scripted levels as yardsticks: who beats whom, and how they compare with people.

    python tests/bench/bench_levels.py                              # Mewtwo on Final Destination, 200 games a pair
    python tests/bench/bench_levels.py --character fox --games 100
    python tests/bench/bench_levels.py --people REPLAYS/*.slp       # level 9 beside the people in these replays

Ports are balanced, intervals are Wilson's at 95 %, draws count half. A game is four stocks or eight minutes.
"""

import argparse
import itertools
import pathlib
import sys
import time

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
from cleanmelee import game
from cleanmelee.cli import UserError
from cleanmelee.statistics import wilson_interval
from cleanmelee.frame import outcomes
from cleanmelee.replays import controlled, read_replay

FRAMES_PER_MINUTE = 60 * 60
LADDER = ("level1", "level3", "level5", "level7", "level9")


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


def show(name, row):
    print(f"{name:>24} {row['minutes']:8.1f} {row['damage']:11.0f} {row['ko_percent']:13.0f} {row['stocks']:7d} "
          f"{row['trips']:6d} {row['recovery']:10.0%} {row['suicides']:12.1%}")


HEADER = (f"{'':>24} {'minutes':>8} {'damage/min':>11} {'KO % (median)':>13} {'stocks':>7} {'trips':>6} "
          f"{'came back':>10} {'own falls':>12}")


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


def match(first, second, character, stage, num_games, seed=0):
    """-> wins of the first (draws count half), final frames, Tally, side."""
    final, tally, side = play(first, second, (character, character), stage, num_games, seed)
    score = outcomes(final) * (1 - 2 * side)           # +1 the first won
    return float((score > 0).sum() + (score == 0).sum() / 2), final, tally, side


def interval(wins, games):
    low, high = wilson_interval(wins, games)
    return f"{wins / games:4.0%} [{low:.0%}, {high:.0%}]"


def round_robin(character, stage, num_games):
    """Every pair of the ladder; the row's win rate against the column's. -> {(strong, weak): (wins, games)}."""
    won = {}
    for weak, strong in itertools.combinations(LADDER, 2):
        wins, *_ = match(strong, weak, character, stage, num_games)
        won[strong, weak] = wins
        print(f"  {strong} beats {weak}: {interval(wins, num_games)}", flush=True)
    return won


def against_the_others(character, stage, num_games):
    for level, other in itertools.product(("level1", "level9"), ("idle", "random", "attacker")):
        wins, *_ = match(level, other, character, stage, num_games)
        print(f"  {level} beats {other}: {interval(wins, num_games)}", flush=True)


def port_symmetry(level, character, stage, num_games):
    final, *_ = play(level, level, (character, character), stage, num_games)
    score = outcomes(final)
    wins = float((score > 0).sum() + (score == 0).sum() / 2)
    print(f"  {level} against itself, port 1 wins {interval(wins, num_games)} of {num_games}", flush=True)


def own_figures(character, stage, num_games):
    """Every level against itself."""
    for number in range(1, game.knowledge.NUM_LEVELS + 1):
        _, tally, _ = play(f"level{number}", f"level{number}", (character, character), stage, num_games)
        show(f"level{number}", figures(tally, np.ones((num_games, 2), bool)))


def people(paths):
    """The people in games of two people: their figures together. Replays that cannot be used are named and skipped."""
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
        show(pathlib.Path(path).stem[:24], figures(tally, chosen))
        tallies.append((tally, chosen))
    if tallies:
        whole = Tally(len(tallies), game.STAGES["final_destination"])
        for name in ("frames", "damage", "lost", "suicides", "trips", "returns"):
            setattr(whole, name, np.concatenate([getattr(tally, name) for tally, _ in tallies]))
        whole.ko_percents = [tally.ko_percents[0] for tally, _ in tallies]
        show("people", figures(whole, np.concatenate([chosen for _, chosen in tallies])))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--character", default="mewtwo", choices=game.CHARACTERS)
    parser.add_argument("--stage", default="final_destination", choices=game.STAGES)
    parser.add_argument("--games", type=int, default=200, help="games a pair (the mirror match plays twice as many)")
    parser.add_argument("--people", nargs="*", default=None, metavar="SLP",
                        help="only compare level 9 with these replays")
    args = parser.parse_args()
    game.warm_up()
    character, stage, begin = game.CHARACTERS[args.character], game.STAGES[args.stage], time.perf_counter()
    if args.people is None:
        print(f"{args.character} dittos on {args.stage}, {args.games} games a pair")
        round_robin(character, stage, args.games)
        against_the_others(character, stage, args.games)
        port_symmetry("level9", character, stage, 2 * args.games)
    print(f"\n{HEADER}")
    own_figures(character, stage, max(args.games // 4, 1))
    if args.people:
        people(args.people)
    print(f"{time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()

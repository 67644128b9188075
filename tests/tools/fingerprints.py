"""The fingerprint of people: what is usual in their games, for evaluations to compare a policy's style with.

    python tests/tools/fingerprints.py REPLAYS/*.slp                        # a table
    python tests/tools/fingerprints.py REPLAYS/*.slp --write                # and cleanmelee/fingerprint.csv

Each player of a game is one observation; games under a minute, and players who hardly move their stick, are left out.
The band reaches from the 5th to the 95th percentile. Every third frame is looked at, as a policy's games are."""

import argparse
import csv
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
from cleanmelee.cli import UserError
from cleanmelee.fingerprint import FRAMES_PER_MINUTE, USUAL, Fingerprint
from cleanmelee.frame import STAGES
from cleanmelee.replays import controlled, read_replay

STRIDE = 3


def fingerprints(path):
    """The figures of each person in a replay."""
    replay = controlled(read_replay(path))
    if replay.meta["stage"] not in STAGES.values() or len(replay.frames) < FRAMES_PER_MINUTE:
        return []
    frames = replay.frames[::STRIDE]
    watch, every = Fingerprint(np.array([replay.meta["stage"]])), np.ones(1, bool)
    for t in range(len(frames) - 1):
        watch.watch(frames[t:t + 1], frames[t + 1:t + 2], every)
    moves = [(np.abs(replay.controllers["main_x"][:, port]) > .5).mean() > .1 for port in (0, 1)]
    people = [kind == "Human" and all(moves) for kind in replay.meta["types"]]
    return [watch.figures(np.arange(2) == np.array([[port]])) for port in (0, 1) if people[port]]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("replays", nargs="+")
    parser.add_argument("--write", action="store_true", help=f"write {USUAL.name}")
    args = parser.parse_args()
    rows = []
    for path in args.replays:
        try:
            rows += fingerprints(path)
        except UserError as error:
            print(f"skipped {error}", file=sys.stderr)
    table = []
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row[name] for row in rows if name in row]
        low, median, high = np.percentile(values, (5, 50, 95))
        table.append([name, *(f"{value:.3g}" for value in (low, median, high)), len(values)])
        print("{:20} {:>8} {:>8} {:>8} of {}".format(*table[-1]))
    if args.write:
        with open(USUAL, "w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([["figure", "low", "median", "high", "players"], *table])


if __name__ == "__main__":
    main()

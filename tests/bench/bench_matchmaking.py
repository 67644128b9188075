"""Whom each matchmaking strategy meets: a table of opponents drawn, out of the same pool and the same results.

    python tests/bench/bench_matchmaking.py          # seconds; --json FILE also writes the figures there

Learner agent1 has eight checkpoints and plays better with every one; agent2 and agent3 are there as learners and with
four checkpoints each. agent1 loses to agent3's, wins against agent2's.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from cleanmelee.pool import Pool, Ratings
from melee_common import Policy
from cleanmelee.selfplay import MIRROR
from ppo_selfplay import HISTORY_PROB, Args, Matchmaker
from results import save

LEARNERS = ["agent1", "agent2", "agent3"]


def league(folder: str | Path) -> tuple[Pool, Ratings]:
    """The pool and the results that every strategy is shown."""
    pool, ratings, rng = Pool(folder), Ratings(), np.random.default_rng(0)
    tiny = Policy("mlp", (4,))
    chances = {pool.add(tiny, "agent1", step): .9 - .05 * step for step in range(1, 9)}            # .85 down to .5
    chances |= {pool.add(tiny, "agent2", step): .95 for step in range(11, 15)}
    chances |= {pool.add(tiny, "agent3", step): .1 for step in range(21, 25)}
    for _ in range(40):
        for name, chance in chances.items():
            ratings.record("agent1", name, float(rng.random() < chance))
    for other in LEARNERS[1:]:
        ratings.record("agent1", other, .5)
    return pool, ratings


def draw(matchmaker: Matchmaker, me: str = "agent1", draws: int = 2000) -> Counter:
    rng = np.random.default_rng(1)
    return Counter(matchmaker.draw(me, rng) for _ in range(draws))


def group(name: str) -> str:
    if name == MIRROR:
        return "itself"
    return f"{Pool.agent(name)}'s past" if name[-1].isdigit() and "_0" in name else name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", default="", help="file for the figures")
    args, began, found = parser.parse_args(), time.time(), []
    with tempfile.TemporaryDirectory() as folder:
        pool, ratings = league(folder)
        rows = {name: draw(Matchmaker(Args(matchmaking=name), LEARNERS, pool, ratings)) for name in HISTORY_PROB}
        rows["pfsp, even"] = draw(Matchmaker(Args(matchmaking="pfsp", pfsp_weighting="even"), LEARNERS, pool, ratings))
        rows["self, bots mixed in"] = draw(Matchmaker(
            Args(matchmaking="self", opponent_bots="level1,level5", bot_prob=.2), LEARNERS, pool, ratings))
        matchmaker = Matchmaker(Args(league=True), LEARNERS, pool, ratings)
        rows |= {f"--league: {matchmaker.league.role[me]}": draw(matchmaker, me) for me in LEARNERS}
    columns = sorted({group(name) for row in rows.values() for name in row}, key=lambda name: (name != "itself", name))
    table = Table("strategy", *columns, title="opponents in 2000 games")
    for strategy, row in rows.items():
        counts = Counter()
        for name, n in row.items():
            counts[group(name)] += n
        table.add_row(strategy, *(str(counts[column]) for column in columns))
        found.append({"strategy": strategy, "met": {column: counts[column] for column in columns}})
    Console(width=140).print(table)
    save(args.json, found, began)


if __name__ == "__main__":
    main()

"""Tournaments: who meets whom, and what the results say about everybody's strength."""

import json
from itertools import combinations
from pathlib import Path

import numpy as np
from rich.table import Table

from cleanmelee.cli import UserError
from cleanmelee.files import atomic_write, check_writable
from cleanmelee.pictures import payoff_matrix, png
from cleanmelee.player import TorchPolicy, load_torch_policy
from cleanmelee.pool import Pool, Ratings, fit_elo
from cleanmelee.statistics import print_wide
from cleanmelee.terminal import warn


def draw_pairs(entrants: int, limit: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """At most `limit` of all pairs: a chain through everybody in random order, since strengths can be compared only
    where games connect them, then any others."""
    order = rng.permutation(entrants).tolist()
    chain = [(min(pair), max(pair)) for pair in zip(order, order[1:], strict=False)]
    others = sorted(set(combinations(range(entrants), 2)) - set(chain))
    return sorted(chain + [others[k] for k in rng.permutation(len(others))[:limit - len(chain)]])


def enter(folder: Path, bots: list[str], max_pairs: int, seed: int
          ) -> tuple[list[TorchPolicy], list[str], list[tuple[int, int]]]:
    """The active checkpoints of the pool in `folder`, then `bots` -> the policies, the names of all entrants, and pairs
    of them that meet. A checkpoint that cannot be read stays away, with a warning."""
    if len(set(bots)) < len(bots):
        raise UserError(f"--tournament-bots {','.join(bots)}: names a bot twice")
    if not folder.is_dir() or not any(folder.glob("*_*.pt")):
        raise UserError(f"--tournament {folder}: no pool with checkpoints; give the folder of one, e.g. runs/NAME/pool")
    check_writable("--tournament", folder / "tournament.json")
    pool = Pool(folder, read_only=True)
    policies = []
    names = []
    for name in pool.ids():
        try:
            policies.append(load_torch_policy(pool.path(name)))
            names.append(name)
        except UserError as error:
            warn(f"does not take part: {error}")
    names += bots
    if len(names) < 2:
        raise UserError(f"--tournament {folder}: {len(names)} entrants, and at least two are needed; train longer, or "
                        "let bots enter with --tournament-bots")
    if max_pairs < len(names) - 1:
        raise UserError(f"--max-pairs {max_pairs}: {len(names)} entrants are connected by {len(names) - 1} pairs "
                        "or more")
    return policies, names, draw_pairs(len(names), max_pairs, np.random.default_rng(seed))


def standings(ratings: Ratings) -> list[dict]:
    """A row for everybody who has played, the strongest first: Elo with its interval, games, wins, losses, draws."""
    rows = []
    for name, (elo, low, high) in fit_elo(ratings.payoff).items():
        _, wins, losses, draws = ratings.table[name]
        rows.append({"id": name, "elo": elo, "elo_low": low, "elo_high": high, "games": wins + losses + draws,
                     "wins": wins, "losses": losses, "draws": draws})
    return sorted(rows, key=lambda row: -row["elo"])


def print_standings(rows: list[dict], payoff: dict[str, dict[str, list]], title: str) -> None:
    """Strengths, and who scored how much against whom: the row's score against the column's number, in percent."""
    names = [row["id"] for row in rows]
    table = Table("#", "entrant", "Elo [95 %]", "games", "W/L/D", *map(str, range(1, len(names) + 1)), title=title)
    for rank, row in enumerate(rows, 1):
        scores = (payoff[row["id"]].get(other) for other in names)
        table.add_row(
            str(rank), row["id"], f"{row['elo']:.0f} [{row['elo_low']:.0f}, {row['elo_high']:.0f}]", str(row["games"]),
            f"{row['wins']}/{row['losses']}/{row['draws']}",
            *("" if cell is None else f"{100 * (cell[0] + cell[1] / 2) / sum(cell):.0f}" for cell in scores))
    print_wide(table)


def write_tournament(folder: Path, facts: dict, rows: list[dict], payoff: dict[str, dict[str, list]]) -> None:
    """tournament.json with facts, standings and payoff, and tournament.png, the payoff as a picture."""
    names = [row["id"] for row in rows]
    picture = payoff_matrix(names, names, payoff, "score in percent, strongest first")
    atomic_write(folder / "tournament.png", png(picture))
    result = {**facts, "standings": rows, "payoff": payoff}
    atomic_write(folder / "tournament.json", (json.dumps(result, indent=1) + "\n").encode())

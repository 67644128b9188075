"""What finished games say: rates with their 95 % intervals, and the row of results of a matchup."""

from dataclasses import dataclass

import numpy as np
from rich.table import Table

from cleanmelee.frame import outcomes
from cleanmelee.terminal import Terminal

FRAMES_PER_MINUTE = 3600


def wilson_interval(wins: float, games: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a win rate; draws count half a win."""
    if games == 0:
        return 0., 1.
    p = wins / games
    centre = (p + z * z / (2 * games)) / (1 + z * z / games)
    half = z * (p * (1 - p) / games + z * z / (4 * games * games)) ** .5 / (1 + z * z / games)
    return max(0., centre - half), min(1., centre + half)


def poisson_interval(events: int, minutes: float) -> tuple[float, float]:
    """95 % interval of a rate per minute. Byar's approximation (Breslow and Day 1987)."""
    low = events * (1 - 1 / (9 * events) - 1.96 / (3 * events ** .5)) ** 3 if events else 0.
    high = (events + 1) * (1 - 1 / (9 * (events + 1)) + 1.96 / (3 * (events + 1) ** .5)) ** 3
    return low / minutes, high / minutes


def ratio_interval(values: np.ndarray, sizes: np.ndarray) -> tuple[float, float] | tuple[None, None]:
    """95 % interval of sum(values) / sum(sizes), at least 0, from how games differ; one game says nothing of that."""
    n = len(values)
    if n < 2:
        return None, None
    ratio = values.sum() / sizes.sum()
    error = 1.96 * float(np.sqrt(((values - ratio * sizes) ** 2).sum() * n / (n - 1)) / sizes.sum())
    return max(0., float(ratio) - error), float(ratio) + error


@dataclass
class Game:
    """One game that came to its end."""
    slot: int
    final: np.ndarray                                                       # FRAME
    frames: int                                                             # its length
    damage: np.ndarray                                                      # [2] percent that each player took
    stocks: np.ndarray                                                      # [2] at the start


def summarise(games: list[Game], side: np.ndarray) -> dict:
    """The games of one matchup in a row. side [games]: one's own player index in each."""
    score = outcomes(np.stack([game.final for game in games])) * (1 - 2 * side)     # +1 win, 0 draw, -1 loss
    wins, losses, draws = (int((score == s).sum()) for s in (1, -1, 0))
    lost = np.stack([game.stocks - game.final["players"]["stocks"].astype(int) for game in games])  # [games, 2]
    damage = np.stack([game.damage for game in games])                              # [games, 2]
    lengths = np.array([game.frames for game in games])
    one = np.ones(len(games), int)
    minutes = lengths.sum() / FRAMES_PER_MINUTE
    mine = np.arange(len(games)), side
    theirs = np.arange(len(games)), 1 - side

    row = {"games": len(games), "wins": wins, "losses": losses, "draws": draws,
           "win_rate": (wins + draws / 2) / len(games)}
    row["win_rate_low"], row["win_rate_high"] = wilson_interval(wins + draws / 2, len(games))
    row |= {"stocks_taken": float(lost[theirs].mean()), "stocks_lost": float(lost[mine].mean()),
            "damage_dealt_per_minute": float(damage[theirs].sum() / minutes),
            "damage_taken_per_minute": float(damage[mine].sum() / minutes)}
    for name, values, sizes in (("stocks_taken", lost[theirs], one), ("stocks_lost", lost[mine], one),
                                ("damage_dealt_per_minute", damage[theirs], lengths / FRAMES_PER_MINUTE),
                                ("damage_taken_per_minute", damage[mine], lengths / FRAMES_PER_MINUTE)):
        row[f"{name}_low"], row[f"{name}_high"] = ratio_interval(values, sizes)
    for name, who in (("kos", theirs), ("deaths", mine)):
        row[f"{name}_per_minute"] = float(lost[who].sum() / minutes)
        row[f"{name}_per_minute_low"], row[f"{name}_per_minute_high"] = poisson_interval(int(lost[who].sum()), minutes)
    return row | {"seconds_per_game": float(lengths.mean() / 60)}


def print_matchups(title: str, rows: list[dict]) -> None:
    """Rows of `summarise`, each with the names of its characters and its stage, as a table."""
    table = Table("own", "opponent", "stage", "games", "W/L/D", "win rate [95 %]", "stocks +/-", "damage/min +/-",
                  "KOs/min [95 %]", "deaths/min [95 %]", "length", title=title)
    for row in rows:
        rates = (f"{row[rate]:.2f} [{row[f'{rate}_low']:.2f}, {row[f'{rate}_high']:.2f}]"
                 for rate in ("kos_per_minute", "deaths_per_minute"))
        table.add_row(
            row["character"], row["opponent_character"], row["stage"], str(row["games"]),
            f"{row['wins']}/{row['losses']}/{row['draws']}",
            f"{row['win_rate']:.0%} [{row['win_rate_low']:.0%}, {row['win_rate_high']:.0%}]",
            f"{row['stocks_taken']:.1f}/{row['stocks_lost']:.1f}",
            f"{row['damage_dealt_per_minute']:.0f}/{row['damage_taken_per_minute']:.0f}", *rates,
            f"{row['seconds_per_game']:.0f} s")
    print_wide(table)


def print_wide(table: Table) -> None:
    """Prints a table whole: in a terminal that is too narrow the cells get several lines, a file has no width."""
    for column in table.columns:
        column.overflow = "fold"
    Terminal(width=None if Terminal().is_terminal else 100_000).print(table)

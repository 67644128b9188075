"""Who plays: the names in a replay, and the ids by which a policy knows whom it imitates."""

from collections import Counter
from collections.abc import Sequence

from cleanmelee.cli import UserError
from cleanmelee.features import STRANGER
from cleanmelee.terminal import printable

MOST_NAMES = STRANGER - 1                                                   # 0 is not told
LONGEST = 64                                                                # a display name has 15 characters
SHOWN = 5                                                                   # names in a message


def names_of(meta: dict, player: int) -> list[str]:
    """What a replay's `meta` calls a player: connect code, in-game tag, display name, as far as it has them. The first
    is the one to know somebody by: a code is one person's, a display name may change and be another's too."""
    return [name for kind in ("codes", "tags", "names") if (name := meta[kind][player].strip()[:LONGEST])]


def called(name: str, names: Sequence[str]) -> bool:
    """Is it one of these, in capitals or not?"""
    return name.casefold() in map(str.casefold, names)


def choose_names(frames: Counter, wanted: Counter, player: str) -> list[str]:
    """The names that a policy tells apart: `player`, under the name that it is known by, then the commonest ones.

    frames: of everybody to learn from, by that name. wanted: of those of them who are called `player`. Raises UserError
    if there is none."""
    if not wanted:
        raise UserError(f"--player {printable(player, 60)}: {_nobody(list(dict(frames.most_common(SHOWN))), frames)}")
    first, = dict(wanted.most_common(1))
    return [first, *[name for name, _ in frames.most_common(MOST_NAMES) if name != first][:MOST_NAMES - 1]]


def number(player: str, players: Sequence[str]) -> int:
    """The id of a policy's player. Raises UserError if it knows none of that name."""
    for k, name in enumerate(players):
        if called(player, [name]):
            return k + 1
    raise UserError(f"--player {printable(player, 60)}: {_nobody(players[:SHOWN], players)}")


def _nobody(some, everybody):
    if not everybody:
        return "no names were learned; train with bc.py --player on replays that name their players"
    others = f" and {len(everybody) - len(some)} others" if len(everybody) > len(some) else ""
    return f"nobody of that name was learned from; there are {', '.join(printable(x, LONGEST) for x in some)}{others}"


def check_players(players, player) -> None:
    """Raises UserError unless these can be a policy's: names, and the id of one of them, 0 if there are none."""
    if not isinstance(players, list | tuple) or len(players) > MOST_NAMES or not all(
            isinstance(name, str) and 0 < len(name) <= LONGEST for name in players):
        raise UserError(f"players {printable(repr(players), 60)}: must be up to {MOST_NAMES} names")
    if type(player) is not int or not min(1, len(players)) <= player <= len(players):
        raise UserError(f"player {printable(repr(player), 60)}: must be the number of one of {len(players)} names")

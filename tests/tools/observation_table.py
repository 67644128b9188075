"""docs/observation.md: the table of what a policy sees, printed from cleanmelee/features.py.

    python tests/tools/observation_table.py                                 # writes it
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from cleanmelee.features import FLOATS, IDS, NUM_CONTROLLER_FLOATS, NUM_FLOATS, NUM_INTS, TABLE_ROWS

PAGE = ROOT / "docs" / "observation.md"


def markdown() -> str:
    ids = [(feature, f"row of `{feature.table}`, {TABLE_ROWS[feature.table]} rows") for feature in IDS]
    floats = [(feature, f"{feature.scale:.3g}") for feature in FLOATS]
    return f"""# What a policy sees

Printed from `cleanmelee/features.py` by `python tests/tools/observation_table.py`; a test fails when it is not up to
date. `observe` makes from a frame, for either player, {NUM_FLOATS} floats and {NUM_INTS} ids, and with
`--frame-delay N` {NUM_CONTROLLER_FLOATS} more floats for each of the N controllers that wait: theirs are the rows
`controller.*` again.

A policy has its opponent on its right: where it is not so, it sees the frame in a mirror. `sign`: such a number changes
its sign in a mirrored frame; `same`: it stays; another name: it changes places with that one.

What a character stores (`stored` of a frame: a charge, needles, the bucket, the last hammers) no single frame of Slippi
tells. `cleanmelee/game/stored.py` follows it from the game's begin over the actions and items of the frames, for files,
Dolphin and the embedded game alike, and a frame carries it along; so a window from the middle of a game knows it too.
Giant Punch and other stores that no replay at hand has shown are not followed. The clock, Randall and the edges follow
from the frame's id and the stage. Neither the opponent's controller nor anything that comes later is seen.

Columns count from 0. Where a row stands for several columns, they are all of that kind, in order.

## Floats

| columns | feature | scale | source | mirrored | what it is |
|---|---|---|---|---|---|
{rows(floats)}

## Ids

Each names a row of a learned table; what is larger than the table is its last row.

| columns | feature | table | source | mirrored | what it is |
|---|---|---|---|---|---|
{rows(ids)}
"""


def rows(features: list) -> str:
    """One line for a feature and its equals of other players, items and buttons."""
    groups: dict[tuple, list] = {}
    names = {feature.name for feature, _ in features}
    for column, (feature, scale) in enumerate(features):
        pattern = re.sub(r"item\d", "item*", feature.name)
        if f"{'opponent' if feature.name.startswith('player') else 'player'}.{feature.name.partition('.')[2]}" in names:
            pattern = re.sub(r"^(player|opponent)", "player, opponent ", pattern)
        pattern = re.sub(r"controller\.[A-Z].*", "controller.BUTTON", pattern)
        source = ".".join("*" if isinstance(step, int) else step for step in feature.source) or "computed"
        mirrored = feature.mirrored.rpartition(".")[2] if "." in feature.mirrored else feature.mirrored
        key = (pattern.replace(" .", "."), scale, source, mirrored, feature.meaning)
        groups.setdefault(key, []).append(column)
    return "\n".join(
        f"| {_ranges(where)} | `{name}` | {scale} | {source} | {mirrored} | {meaning} |"
        for (name, scale, source, mirrored, meaning), where in groups.items())


def _ranges(columns: list[int]) -> str:
    """[1, 2, 3, 7] -> "1-3, 7" """
    parts, first = [], columns[0]
    for column, following in zip(columns, [*columns[1:], None], strict=True):
        if following != column + 1:
            parts.append(f"{first}" if first == column else f"{first}-{column}")
            first = following
    return ", ".join(parts)


if __name__ == "__main__":
    PAGE.write_text(markdown())

"""The table of what a policy sees: every number's name, source, scale and meaning. docs/observation.md is its print.

`observation.py` reads a frame by it, the embedding and exported policies find their columns in it, and a change of it
is a change of schema: no checkpoint of before fits any more."""

from typing import NamedTuple

import numpy as np

from cleanmelee.frame import BUTTONS, FRAME, NUM_ITEMS

TABLE_ROWS = {"action": 512, "character": 64, "stage": 64, "item_type": 256}    # of the learned tables of ids


class Feature(NamedTuple):
    """A number that a policy sees. In a mirrored frame it is the `same`, has the other `sign`, or changes places with
    another one (`swap`): see `controller.mirrored`."""
    name: str                   # whose, and what: "opponent.percent"
    meaning: str                # with the unit, before scaling
    source: tuple = ()          # where it lies in a FRAME, to player 0: ("players", 1, "percent"); (): computed
    scale: float = 1.           # what it is multiplied by
    mirrored: str = "same"
    table: str = ""             # of an id: the learned table whose row it names


_PLAYER_FLOATS = [
    ("x", .03, "sign", "position to the right of the stage's middle, units"),
    ("y", .03, "same", "height, units"),
    ("self_vx_air", .5, "sign", "own horizontal velocity in the air, units a frame"),
    ("self_vy", .5, "same", "own vertical velocity, units a frame"),
    ("self_vx_ground", .5, "sign", "own velocity on the ground, units a frame"),
    ("kb_vx", .5, "sign", "horizontal velocity of knockback, units a frame"),
    ("kb_vy", .5, "same", "vertical velocity of knockback, units a frame"),
    ("facing", 1, "sign", "1 to the right, -1 to the left"),
    ("percent", .01, "same", "damage taken, 0 to 999"),
    ("shield", 1 / 60, "same", "strength of the shield, 0 to 60"),
    ("hitlag", .1, "same", "frames of hitlag left"),
    ("hitstun", .05, "same", "frames of hitstun left")]
_PLAYER_SMALL_INTS = [
    ("action_frame", .03, "same", "frames of the action so far"), ("stocks", .25, "same", "stocks left"),
    ("jumps", .5, "same", "jumps left"), ("airborne", 1, "same", "1 in the air"),
    ("in_hitstun", 1, "same", "1 in hitstun"), ("fastfall", 1, "same", "1 while falling fast"),
    ("hurtbox", .5, "same", "0 vulnerable, 1 invulnerable, 2 intangible")]
_ITEM_FLOATS = [
    ("x", .03, "sign", "position, units"), ("y", .03, "same", "height, units"),
    ("vx", .3, "sign", "horizontal velocity, units a frame"), ("vy", .3, "same", "vertical velocity, units a frame"),
    ("facing", 1, "sign", "1 to the right, -1 to the left")]
_ITEM_SMALL_INTS = [
    ("present", 1, "same", "1 if there is such an item; slots are filled from 0, oldest first"),
    ("charge", .1, "same", "Slippi's byte for charge, of the items that have one")]
_PLAYERS = (("player", 0), ("opponent", 1))
_ITEMS = tuple((f"item{slot}", slot) for slot in range(NUM_ITEMS))


def _read(who: tuple, records: str, fields: list) -> list[Feature]:
    """Features of these (name, index) that lie as they are in a FRAME's `records`."""
    return [Feature(f"{name}.{field}", meaning, (records, k, field), scale, mirrored)
            for name, k in who for field, scale, mirrored, meaning in fields]


FLOATS = [  # the columns of Observation.floats
    *_read(_PLAYERS, "players", _PLAYER_FLOATS),
    *(Feature(f"stage.{side}", f"height of Fountain of Dreams' {way} platform, units", (side,), .03, "swap")
      for side, way in (("platform_left", "left"), ("platform_right", "right"))),
    *_read(_ITEMS, "items", _ITEM_FLOATS),
    *_read(_PLAYERS, "players", _PLAYER_SMALL_INTS),
    *_read(_ITEMS, "items", _ITEM_SMALL_INTS),
    Feature("opponent.dx", "how far the opponent is to the right, units", (), .03, "sign"),
    Feature("opponent.dy", "how far the opponent is above, units", (), .03),
    *(Feature(f"{item}.mine", "1 if it belongs to the player") for item, _ in _ITEMS),
    *(Feature(f"controller.{axis}", "the own last controller's stick, -1 to 1",
              mirrored="sign" if axis.endswith("x") else "same") for axis in ("main_x", "main_y", "c_x", "c_y")),
    Feature("controller.shoulder", "its trigger that is pressed further, 0 to 1"),
    *(Feature(f"controller.{button}", "1 while the button is held") for button in BUTTONS)]
IDS = [  # the columns of Observation.ints
    *(Feature(f"{who}.{field}", meaning, ("players", k, field), table=field) for who, k in _PLAYERS
      for field, meaning in (("action", "Melee's action state"), ("character", "internal id of the character"))),
    Feature("stage.id", "Slippi's id of the stage", ("stage",), table="stage"),
    *(Feature(f"{item}.type", "Slippi's type of the item", ("items", k, "type"), table="item_type")
      for item, k in _ITEMS)]
FEATURES = [*FLOATS, *IDS]

FLOAT_NAMES, INT_NAMES = [feature.name for feature in FLOATS], [feature.name for feature in IDS]
NUM_FLOATS, NUM_INTS = len(FLOATS), len(IDS)
INT_LIMITS = np.array([TABLE_ROWS[feature.table] - 1 for feature in IDS], np.int16)
ITEM_FEATURES = [name.partition(".")[2] for name in FLOAT_NAMES if name.startswith("item0.")]    # of each slot


def columns(names: list[str], first: str, last: str) -> slice:
    """The columns from `first` to `last`, both included, of FLOAT_NAMES or INT_NAMES."""
    return slice(names.index(first), names.index(last) + 1)


def item_columns() -> np.ndarray:
    """[items, ITEM_FEATURES] columns of Observation.floats"""
    return np.array([[FLOAT_NAMES.index(f"item{slot}.{name}") for name in ITEM_FEATURES] for slot in range(NUM_ITEMS)])


def other_columns(frame_delay: int) -> np.ndarray:
    """Those that are no item's."""
    return np.setdiff1d(np.arange(num_floats(frame_delay)), item_columns())


def id_columns(table: str) -> slice:
    """The columns of Observation.ints that name rows of this learned table; they lie evenly apart."""
    places = [k for k, feature in enumerate(IDS) if feature.table == table]
    return slice(places[0], places[-1] + 1, places[1] - places[0] if len(places) > 1 else 1)


OWN_CONTROLLER = columns(FLOAT_NAMES, "controller.main_x", FLOAT_NAMES[-1])
NUM_CONTROLLER_FLOATS = OWN_CONTROLLER.stop - OWN_CONTROLLER.start                                  # 13


def num_floats(frame_delay: int) -> int:
    """How many floats a policy sees: those of FLOAT_NAMES, then of every controller that waits, the next one first,
    what FLOAT_NAMES has of the own controller."""
    return NUM_FLOATS + frame_delay * NUM_CONTROLLER_FLOATS


def _field(source: tuple, player: int) -> tuple[int, np.dtype]:
    place, dtype = 0, FRAME
    if player and source[0] == "players":
        source = (source[0], 1 - source[1], *source[2:])
    for step in source:
        if isinstance(step, int):
            dtype = dtype.base
            place += step * dtype.itemsize
        else:
            dtype, shift = dtype.fields[step][:2]
            place += shift
    return place, dtype


def offset(source: tuple, player: int = 0) -> int:
    """Byte offset in a FRAME of a feature's source as this player sees it, e.g. of ("players", 1, "x")."""
    return _field(source, player)[0]


def dtype_of(source: tuple) -> np.dtype:
    """Of the field that a feature is read from."""
    return _field(source, 0)[1]

"""The table of what a policy sees: every number's name, source, scale and meaning. docs/observation.md is its print.

`observation.py` reads a frame by it, the embedding and exported policies find their columns in it, and a change of it
is a change of schema: no checkpoint of before fits any more."""

import math
import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from cleanmelee.cli import UserError
from cleanmelee.frame import BUTTONS, FRAME, NUM_ITEMS, TIME_LIMIT
from cleanmelee.terminal import printable

TABLE_ROWS = {"action": 512, "nana_action": 512, "character": 64, "stage": 64, "item_type": 256, "name": 64}   # of ids
STRANGER = TABLE_ROWS["name"] - 1                                           # of player.name: nobody of a known name


class Feature(NamedTuple):
    """A number that a policy sees. In a mirrored frame it is the `same`, has the other `sign`, or changes places with
    another one, whose name is then given: see `controller.mirrored`."""
    name: str                   # whose, and what: "opponent.percent"
    meaning: str                # with the unit, before scaling
    source: tuple = ()          # where it lies in a FRAME, to player 0: ("players", 1, "percent"); (): computed
    scale: float = 1.           # what it is multiplied by
    mirrored: str = "same"
    limit: float = math.inf     # larger values, before scaling, count as this one
    table: str = ""             # of an id: the learned table whose row it names


_PLAYER = [
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
    ("hitstun", .05, "same", "frames of hitstun left"),
    ("action_frame", .03, "same", "frames of the action so far"), ("stocks", .25, "same", "stocks left"),
    ("jumps", .5, "same", "jumps left"), ("airborne", 1, "same", "1 in the air"),
    ("in_hitstun", 1, "same", "1 in hitstun"), ("fastfall", 1, "same", "1 while falling fast"),
    ("hurtbox", .5, "same", "0 vulnerable, 1 invulnerable, 2 intangible")]
_STORED = [  # cleanmelee/game/stored.py
    ("charge", 1, "same", "how full the store is, 0 to 1: Shadow Ball, Charge Shot, needles, the bow, the bucket"),
    ("hammer", 1 / 9, "same", "Game & Watch's last hammer of Judge, 1 to 9; 0 none yet"),
    ("hammer_before", 1 / 9, "same", "the hammer before that"),
    ("holding", 1, "same", "1 with a bomb or a turnip in the hand")]
_EDGES = [  # computed from the stage's table
    ("edge_left", .03, "edge_right", "how far the stage's left edge is to the left, units, below 0 beyond it"),
    ("edge_right", .03, "edge_left", "how far its right edge is to the right"),
    ("blast_left", .01, "blast_right", "how far the left blast zone is to the left, units"),
    ("blast_right", .01, "blast_left", "how far the right one is to the right"),
    ("blast_bottom", .01, "same", "how far the lower one is below"),
    ("blast_top", .01, "same", "how far the upper one is above")]
_NANA = [
    ("present", 1, "same", "1 while there is a Nana; else all of hers is 0"), *(
        row for row in _PLAYER if row[0] in ("x", "y", "facing", "percent", "hitstun", "action_frame", "airborne"))]
_ITEM = [
    ("present", 1, "same", "1 if there is such an item; slots are filled from 0, oldest first"),
    ("x", .03, "sign", "position, units"), ("y", .03, "same", "height, units"),
    ("vx", .3, "sign", "horizontal velocity, units a frame"), ("vy", .3, "same", "vertical velocity, units a frame"),
    ("facing", 1, "sign", "1 to the right, -1 to the left"),
    ("state", .2, "same", "the item's own state: 0 is in the hand or just made; 20 if more", 20),
    ("timer", .01, "same", "frames until it is gone, or bursts; 300 if more", 300)]
_STAGE = [
    ("platform_left", .03, "platform_right", "height of Fountain of Dreams' left platform, units"),
    ("platform_right", .03, "platform_left", "height of Fountain of Dreams' right platform, units")]
TRANSFORMATIONS = {3: "fire", 4: "grass", 6: "rock", 9: "water"}                # Slippi's ids of Stadium's
_ITEMS = [(f"item{slot}", slot) for slot in range(NUM_ITEMS)]


def _read(who: str, fields: list, *place) -> list[Feature]:
    """Features that lie as they are in a record at this place of a FRAME."""
    return [Feature(f"{who}.{field}", meaning, (*place, field), scale,
                    f"{who}.{mirrored}" if mirrored not in ("same", "sign") else mirrored, *limit)
            for field, scale, mirrored, meaning, *limit in fields]


def _fighter(who: str, player: int) -> list[Feature]:
    return [*_read(who, _PLAYER, "players", player), *_read(who, _STORED, "stored", player),
            *(feature._replace(source=()) for feature in _read(who, _EDGES))]


# The columns of Observation.floats. What the embedding takes apart comes first, so that the rest is one piece.
FLOATS = [
    *_read("player.nana", _NANA, "nanas", 0), *_read("opponent.nana", _NANA, "nanas", 1),
    *(feature for item, slot in _ITEMS for feature in (
        *_read(item, _ITEM, "items", slot), Feature(f"{item}.mine", "1 if it belongs to the player"),
        Feature(f"{item}.charge", "Slippi's byte for charge, of the items that have one", scale=.1))),
    *_fighter("player", 0), *_fighter("opponent", 1),
    Feature("opponent.dx", "how far the opponent is to the right, units", (), .03, "sign"),
    Feature("opponent.dy", "how far the opponent is above, units", (), .03),
    *_read("stage", _STAGE),
    Feature("stage.clock", "frames since the clock began to run, of eight minutes", ("frame_id",), 1 / TIME_LIMIT),
    Feature("stage.wind", "Dream Land's wind: 1 to the right, -1 to the left", (), 1, "sign"),
    Feature("stage.randall_x", "the middle of Randall, Yoshi's cloud, units; 0 on other stages", (), .03, "sign"),
    Feature("stage.randall_y", "his height", (), .03),
    *(Feature(f"stage.{kind}", f"1 while Pokemon Stadium is changed to {kind}") for kind in TRANSFORMATIONS.values()),
    *(Feature(f"controller.{axis}", "the own last controller's stick, -1 to 1",
              mirrored="sign" if axis.endswith("x") else "same") for axis in ("main_x", "main_y", "c_x", "c_y")),
    Feature("controller.shoulder", "its trigger that is pressed further, 0 to 1"),
    *(Feature(f"controller.{button}", "1 while the button is held") for button in BUTTONS)]
_WHOSE = (("player", 0), ("opponent", 1))
IDS = [  # the columns of Observation.ints
    *(Feature(f"{who}.action", "Melee's action state", ("players", k, "action"), table="action") for who, k in _WHOSE),
    *(Feature(f"{who}.character", "internal id of the character", ("players", k, "character"), table="character")
      for who, k in _WHOSE),
    *(Feature(f"{who}.nana.action", "Nana's action state", ("nanas", k, "action"), table="nana_action")
      for who, k in _WHOSE),
    Feature("stage.id", "Slippi's id of the stage", ("stage",), table="stage"),
    *(Feature(f"{item}.type", "Slippi's type of the item", ("items", k, "type"), table="item_type")
      for item, k in _ITEMS),
    Feature("player.name", f"who the player is: 0 not told, {STRANGER} nobody whose name the policy was told",
            table="name")]
FEATURES = [*FLOATS, *IDS]

FLOAT_NAMES, INT_NAMES = [feature.name for feature in FLOATS], [feature.name for feature in IDS]
NUM_FLOATS, NUM_INTS = len(FLOATS), len(IDS)
INT_LIMITS = np.array([TABLE_ROWS[feature.table] - 1 for feature in IDS], np.int16)


def columns(names: list[str], first: str, last: str) -> slice:
    """The columns from `first` to `last`, both included, of FLOAT_NAMES or INT_NAMES."""
    return slice(names.index(first), names.index(last) + 1)


def id_columns(table: str) -> slice:
    """The columns of Observation.ints that name rows of this learned table; they lie side by side."""
    places = [k for k, feature in enumerate(IDS) if feature.table == table]
    return slice(places[0], places[-1] + 1)


NANAS = columns(FLOAT_NAMES, "player.nana.present", "opponent.nana.airborne")
ITEMS = columns(FLOAT_NAMES, "item0.present", f"item{NUM_ITEMS - 1}.charge")
OWN_CONTROLLER = columns(FLOAT_NAMES, "controller.main_x", FLOAT_NAMES[-1])
NUM_CONTROLLER_FLOATS = OWN_CONTROLLER.stop - OWN_CONTROLLER.start                                  # 13


def num_floats(frame_delay: int) -> int:
    """How many floats a policy sees: those of FLOAT_NAMES, then of every controller that waits, the next one first,
    what FLOAT_NAMES has of the own controller."""
    return NUM_FLOATS + frame_delay * NUM_CONTROLLER_FLOATS


def field_of(source: tuple, player: int = 0) -> tuple[int, np.dtype]:
    """Byte offset in a FRAME, and type, of a feature's source as this player sees it, e.g. of ("players", 1, "x")."""
    offset, dtype = 0, FRAME
    if source[0] in ("players", "nanas", "stored"):
        source = (source[0], source[1] ^ player, *source[2:])
    for step in source:
        if isinstance(step, int):
            dtype = dtype.base
            offset += step * dtype.itemsize
        else:
            dtype, shift = dtype.fields[step][:2]
            offset += shift
    return offset, dtype


# ---------------------------------------------------------------------------------------------------------------------
# What of it a policy is shown
# ---------------------------------------------------------------------------------------------------------------------

class Lens(NamedTuple):
    """What a network is shown of an observation. Arrays, or tensors."""
    floats: np.ndarray      # [num_floats] float32: 1, or 0 for what is hidden from it
    ids: np.ndarray         # [NUM_INTS] int32: the same
    own: np.ndarray         # [NUM_INTS] int32: what stands in for an id of 0

    def show(self, floats, ids) -> tuple:
        """floats [.., F], ids [.., I] -> what is seen of them."""
        return floats * self.floats, ids * self.ids + (ids == 0) * self.own


def make_lens(frame_delay: int, ablate: Iterable[str], player: int) -> Lens | None:
    """ablate: see `ablated`. player: id of player.name where nobody is told. None: all is seen as it is."""
    if not ablate and not player:
        return None
    floats, ids = (np.array([not ablated(feature, ablate) for feature in some]) for some in (FLOATS, IDS))
    floats = np.concatenate([floats, np.tile(floats[OWN_CONTROLLER], frame_delay)])
    own = np.where(np.array(INT_NAMES) == "player.name", player, 0) * ids
    return Lens(floats.astype(np.float32), ids.astype(np.int32), own.astype(np.int32))


def ablated(feature: Feature, names: Iterable[str]) -> bool:
    """Is it one of those that the names stand for? A name is a feature's, or a part of it: "percent" stands for
    everybody's, "opponent.percent" for one, "opponent" for all about the opponent, "item" for all items."""
    return any(f".{name}." in f".{_kind(feature)}." for name in names)


def _kind(feature):
    return re.sub(r"^item\d", "item", feature.name)


def check_ablated(names: Iterable[str]) -> None:
    """Raises UserError unless every name stands for a feature."""
    for name in names:
        if not isinstance(name, str) or not any(ablated(feature, [name]) for feature in FEATURES):
            parts = sorted({part for feature in FEATURES for part in _kind(feature).split(".")})
            raise UserError(f"unknown feature {printable(repr(name), 60)}: choose a name of docs/observation.md, or of "
                            f"its parts {', '.join(parts)}")

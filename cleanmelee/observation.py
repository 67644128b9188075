"""What a policy sees: one pass over a frame, by the table of features.py, for both players. No torch."""

import functools
import hashlib
from typing import NamedTuple

import numpy as np

from cleanmelee import game
from cleanmelee.cli import UserError
from cleanmelee.controller import BUTTON_BITS, HEADS, SHOULDER_GRID, STICK_GRID
from cleanmelee.events import ITEM_CHARGE_BYTE
from cleanmelee.features import (
    FEATURES, FLOATS, FLOAT_NAMES, IDS, INT_LIMITS, NUM_INTS, OWN_CONTROLLER, TABLE_ROWS,
    TRANSFORMATIONS, Feature, field_of, num_floats,
)
from cleanmelee.frame import BUTTONS, CONTROLLER, FRAME, NUM_ITEMS, NUM_PLAYERS, STAGES
from cleanmelee.game.compiler import machine_code, policy_jit
from cleanmelee.game.ids import YOSHIS_STORY
from cleanmelee.game.stages import RANDALL_PERIOD, RANDALL_WIDTH
from cleanmelee.terminal import printable


class Observation(NamedTuple):
    """What a policy sees of one frame, from one player's side. Arrays, or tensors (`to_torch`); leading dimensions are
    free."""
    floats: np.ndarray  # [..., num_floats(frame_delay)] float32, scaled to about -3..3
    ints: np.ndarray    # [..., NUM_INTS] int16: indices into learned tables


# ---------------------------------------------------------------------------------------------------------------------
# The table as arrays. The compiled pass is given them, and has nothing of the table in its own code.
# ---------------------------------------------------------------------------------------------------------------------

class Reads(NamedTuple):
    """K features that lie in a FRAME as numbers of one type. A side is 0, or 1 for a mirrored player."""
    places: np.ndarray      # [2 players, 2 sides, K] int32: where in the frame, counted in such numbers
    columns: np.ndarray     # [K] int32: where in the observation
    scales: np.ndarray      # [2 sides, K] float32
    limits: np.ndarray      # [K] float32


def _reads(features: list[Feature], kind: str) -> Reads:
    chosen = [feature for feature in features if feature.source and field_of(feature.source)[1] == kind]
    seen_as = {feature.name: feature for feature in chosen}
    size = np.dtype(kind).itemsize
    places = [[[field_of(seen_as.get(f.mirrored if side else "", f).source, me)[0] // size for f in chosen]
               for side in (0, 1)] for me in (0, 1)]
    scales = [[-f.scale if side and f.mirrored == "sign" else f.scale for f in chosen] for side in (0, 1)]
    return Reads(np.array(places, np.int32), np.array([features.index(f) for f in chosen], np.int32),
                 np.array(scales, np.float32), np.array([f.limit for f in chosen], np.float32))


_FIGHTERS = ("player", "opponent")                                          # columns of the one, then the other's
_AT = np.dtype([                                                            # the columns of what is computed
    ("x", "i4", 2), ("y", "i4", 2), ("edges", "i4", 2), ("dx", "i4"), ("wind", "i4"), ("randall", "i4"),
    ("transformation", "i4"), ("mine", "i4", NUM_ITEMS), ("charge", "i4", NUM_ITEMS), ("controller", "i4")])


def _computed() -> np.ndarray:
    """[1] _AT. Of what lies side by side the first column."""
    def at(*names):
        return [FLOAT_NAMES.index(name) for name in names]

    row = (at(*(f"{who}.x" for who in _FIGHTERS)), at(*(f"{who}.y" for who in _FIGHTERS)),
           at(*(f"{who}.edge_left" for who in _FIGHTERS)), *at("opponent.dx", "stage.wind", "stage.randall_x"),
           *at(f"stage.{list(TRANSFORMATIONS.values())[0]}"),
           *(at(*(f"item{slot}.{name}" for slot in range(NUM_ITEMS))) for name in ("mine", "charge")),
           OWN_CONTROLLER.start)
    return np.array([row], _AT)


def _geometry() -> np.ndarray:
    """[stages, 6] left and right edge, left, right, lower and upper blast zone; NaN where the game does not know it."""
    table = np.full((TABLE_ROWS["stage"], 6), np.nan, np.float32)
    for stage in STAGES.values():
        s = game.TABLES.stages[stage]
        table[stage] = [s["floor_left"][0], s["floor_right"][0], *(s[f"blast_{side}"] for side in (
            "left", "right", "bottom", "top"))]
    return table


class Plan(NamedTuple):
    floats: Reads
    halves: Reads
    longs: Reads
    ids: Reads
    id_limits: np.ndarray           # [K of ids] int16
    at: np.ndarray                  # [1] _AT
    scales: np.ndarray              # [NUM_FLOATS] float32, of what is computed
    geometry: np.ndarray            # [stages, 6]
    randall: np.ndarray             # [RANDALL_PERIOD, 2] float32: his middle's x and his height, by frame
    transformations: np.ndarray     # [4] int16: Slippi's ids
    charged: np.ndarray             # [item types] bool: does Slippi log a charge of such an item?
    buttons: np.ndarray             # [8] int32: bits


_IDS = _reads(IDS, "i2")
PLAN = Plan(
    *(_reads(FLOATS, kind) for kind in ("f4", "i2", "i4")), _IDS, INT_LIMITS[_IDS.columns], _computed(),
    np.array([feature.scale for feature in FLOATS], np.float32), _geometry(),
    np.ascontiguousarray(game.TABLES.randall + np.float32((RANDALL_WIDTH / 2, 0))),
    np.array(list(TRANSFORMATIONS), np.int16), np.isin(np.arange(TABLE_ROWS["item_type"]), list(ITEM_CHARGE_BYTE)),
    BUTTON_BITS)


# ---------------------------------------------------------------------------------------------------------------------
# The pass
# ---------------------------------------------------------------------------------------------------------------------

@policy_jit
def read(values, reads, me, mirror, out):
    """What lies in the frame as it is: values [..] of one type, out [F]."""
    for k in range(len(reads.columns)):
        value = np.float32(values[reads.places[me, mirror, k]])
        out[reads.columns[k]] = min(max(value, -reads.limits[k]), reads.limits[k]) * reads.scales[mirror, k]


@policy_jit
def measure(stage, x, y, mirror, first, plan, out):
    """How far edges and blast zones are from a place. x is mirrored already."""
    for k in range(6):
        out[first + k] = 0
    if not 0 <= stage < len(plan.geometry) or np.isnan(plan.geometry[stage, 0]):
        return
    g = plan.geometry[stage]
    for k in range(0, 4, 2):                           # of edges and blast zones the left one and the right one
        left, right = (-g[k + 1], -g[k]) if mirror else (g[k], g[k + 1])
        out[first + k] = (x - left) * plan.scales[first + k]
        out[first + k + 1] = (right - x) * plan.scales[first + k + 1]
    out[first + 4] = (y - g[4]) * plan.scales[first + 4]
    out[first + 5] = (g[5] - y) * plan.scales[first + 5]


@policy_jit
def show_controller(controller, side, buttons, first, out):
    """13 numbers of a CONTROLLER, in the order of FLOAT_NAMES."""
    out[first], out[first + 1] = controller.main_x * side, controller.main_y
    out[first + 2], out[first + 3] = controller.c_x * side, controller.c_y
    out[first + 4] = max(controller.l, controller.r)
    for k in range(len(buttons)):
        out[first + 5 + k] = (controller.buttons & buttons[k]) != 0


@policy_jit
def see(frames, floats, halves, longs, controllers, pending, plan, seen, ids):
    """frames [N] FRAME, and the same bytes as numbers [N, ..]; for what comes of it see `observe`."""
    at = plan.at[0]
    for n in range(len(frames)):
        frame = frames[n]
        for me in range(NUM_PLAYERS):
            out = seen[n, me]
            mirror = 1 if frame.players[1 - me].x < frame.players[me].x else 0
            side = np.float32(1 - 2 * mirror)
            read(floats[n], plan.floats, me, mirror, out)
            read(halves[n], plan.halves, me, mirror, out)
            read(longs[n], plan.longs, me, mirror, out)
            out[at.dx] = out[at.x[1]] - out[at.x[0]]
            out[at.dx + 1] = out[at.y[1]] - out[at.y[0]]
            for who in range(2):
                p = frame.players[me if who == 0 else 1 - me]
                measure(frame.stage, p.x * side, p.y, mirror, at.edges[who], plan, out)
            for slot in range(NUM_ITEMS):
                item = frame.items[slot]
                out[at.mine[slot]] = item.present != 0 and item.owner == me
                charged = 0 <= item.type < len(plan.charged) and plan.charged[item.type]
                out[at.charge[slot]] = item.charge * plan.scales[at.charge[slot]] if charged else np.float32(0)
            out[at.wind] = -side if frame.wind == 1 else side if frame.wind == 2 else np.float32(0)
            out[at.randall] = out[at.randall + 1] = 0
            if frame.stage == YOSHIS_STORY:
                place = plan.randall[frame.frame_id % RANDALL_PERIOD]
                out[at.randall] = place[0] * side * plan.scales[at.randall]
                out[at.randall + 1] = place[1] * plan.scales[at.randall + 1]
            for k in range(len(plan.transformations)):
                out[at.transformation + k] = frame.transformation == plan.transformations[k]
            show_controller(controllers[n, me], side, plan.buttons, at.controller, out)
            first = len(plan.scales)
            for late in range(pending.shape[2]):
                show_controller(pending[n, me, late], side, plan.buttons, first, out)
                first += len(plan.buttons) + 5
            for k in range(len(plan.id_limits)):
                number = halves[n, plan.ids.places[me, mirror, k]]
                ids[n, me, plan.ids.columns[k]] = min(max(number, 0), plan.id_limits[k])


@functools.cache
def _see():
    """`see` for whole arrays."""
    frames, controllers = np.zeros(0, FRAME), np.zeros((0, 2), CONTROLLER)
    numbers = (np.zeros((0, 1), kind) for kind in (np.float32, np.int16, np.int32))
    return machine_code(see, frames, *numbers, controllers, np.zeros((0, 2, 0), CONTROLLER), PLAN,
                        np.zeros((0, 2, 0), np.float32), np.zeros((0, 2, 0), np.int16))


def observe(frames: np.ndarray, controllers: np.ndarray, pending: np.ndarray | None = None) -> Observation:
    """FRAME [N] and the CONTROLLER [N, 2] that made them -> Observation with floats [N, 2, F] and ints [N, 2, I].

    Row [n, p] is frame n as player p sees it: itself first, then the opponent, who is to its right (`mirrored`). The
    own last controller is part of it, because a button acts when it goes down: a policy must know what it holds. The
    opponent's is not. pending CONTROLLER [N, 2, D]: what each player has chosen already for the D frames that follow,
    of which it sees its own, turned as the frame is (none: it acts at once). Who the players are no frame tells: their
    names are 0."""
    n, depth = len(frames), 0 if pending is None else pending.shape[-1]
    frames = np.ascontiguousarray(frames, FRAME).reshape(n)
    controllers = np.ascontiguousarray(controllers, CONTROLLER).reshape(n, 2)
    pending = np.zeros((n, 2, 0), CONTROLLER) if pending is None else np.ascontiguousarray(pending, CONTROLLER)
    numbers = (frames.view(kind).reshape(n, FRAME.itemsize // np.dtype(kind).itemsize)
               for kind in (np.float32, np.int16, np.int32))
    seen = Observation(np.empty((n, 2, num_floats(depth)), np.float32), np.zeros((n, 2, NUM_INTS), np.int16))
    _see()(frames, *numbers, controllers, pending.reshape(n, 2, depth), PLAN, *seen)
    return seen


class Pending:
    """What the players of N games have chosen and what has not acted yet. They decide on every `action_repeat`-th frame
    and hold that; the delay counts frames, and must hold a whole number of decisions, as all controllers change
    together."""

    def __init__(self, num_games: int, frame_delay: int, action_repeat: int = 1):
        if frame_delay % action_repeat:
            raise UserError(f"a delay of {frame_delay} frames is no whole number of decisions, each held for "
                            f"{action_repeat}; make it a multiple")
        self.action_repeat = action_repeat
        self.queue = np.zeros((num_games, 2, frame_delay // action_repeat), CONTROLLER)             # the next one first

    @property
    def frames(self) -> np.ndarray:
        """[N, 2, frame_delay] for `observe`"""
        return self.queue.repeat(self.action_repeat, -1)

    def push(self, chosen: np.ndarray) -> np.ndarray:
        """[N, 2] what was decided now -> [N, 2] what acts now"""
        if not self.queue.size:
            return chosen
        waiting = np.concatenate([self.queue, chosen[..., None]], -1)
        self.queue = waiting[..., 1:]
        return waiting[..., 0]

    def reset(self, games: np.ndarray) -> None:
        """These games begin: until their first decisions act, controllers are neutral."""
        self.queue[games] = np.zeros((), CONTROLLER)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Nothing where there is no delay."""
        return {"pending": np.frombuffer(self.queue.tobytes(), np.uint8)} if self.queue.size else {}

    def load_state_dict(self, state: dict) -> None:
        """state: of `state_dict`, as arrays or tensors."""
        if not self.queue.size:
            return
        queue = np.frombuffer(np.asarray(state["pending"]).tobytes(), CONTROLLER).reshape(self.queue.shape).copy()
        if not all((np.abs(queue[axis]) <= 1).all() for axis in ("main_x", "main_y", "c_x", "c_y", "l", "r")):
            raise ValueError("pending is no controllers")
        self.queue = queue


def check_timing(action_repeat, frame_delay) -> None:
    """Raises UserError unless a policy can act on every `action_repeat`-th frame, `frame_delay` frames late."""
    for name, value, low in (("action_repeat", action_repeat, 1), ("frame_delay", frame_delay, 0)):
        if type(value) is not int or not low <= value <= 3600:
            raise UserError(f"{name} {printable(repr(value), 60)}: must be a whole number from {low} to 3600")


def schema_hash() -> str:
    """Changes whenever a checkpoint's inputs or outputs would mean something else."""
    parts = [FRAME.descr, CONTROLLER.descr, [feature._replace(meaning="") for feature in FEATURES], TABLE_ROWS,
             PLAN.geometry.tolist(), game.STORES, list(BUTTONS), STICK_GRID.tolist(), SHOULDER_GRID.tolist(), HEADS]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]

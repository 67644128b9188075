"""What a policy sees: one gather from the frame's bytes, for both players at once. Numpy only."""

import hashlib
from typing import NamedTuple

import numpy as np

from cleanmelee import features
from cleanmelee.cli import UserError
from cleanmelee.controller import BUTTON_BITS, HEADS, SHOULDER_GRID, STICK_GRID, mirrored
from cleanmelee.features import (
    FLOATS, FLOAT_NAMES, IDS, INT_LIMITS, NUM_CONTROLLER_FLOATS, NUM_FLOATS, NUM_INTS, OWN_CONTROLLER, Feature, columns,
    dtype_of, num_floats, offset,
)
from cleanmelee.frame import BUTTONS, CONTROLLER, FRAME, NUM_ITEMS
from cleanmelee.terminal import printable


class Observation(NamedTuple):
    """What a policy sees of one frame, from one player's side. Arrays, or tensors (`to_torch`); leading dimensions are
    free."""
    floats: np.ndarray  # [..., num_floats(frame_delay)] float32, scaled to about -3..3
    ints: np.ndarray    # [..., NUM_INTS] int16: indices into learned tables


_STICKS = ("main_x", "main_y", "c_x", "c_y")


def _gathered(kind: str) -> tuple[slice, list[Feature]]:
    """The features that are read from a FRAME as numbers of this type, and their columns, which lie side by side."""
    names = [feature.name for feature in FLOATS if feature.source and dtype_of(feature.source) == kind]
    part = columns(FLOAT_NAMES, names[0], names[-1])
    return part, FLOATS[part]


def _plan(features: list[Feature], width: int) -> np.ndarray:
    """[2 players, n] where they lie in a frame that is seen as numbers of `width` bytes."""
    return np.array([[offset(feature.source, me) // width for feature in features] for me in (0, 1)])


(_FRAME_FLOATS, _FLOATS), (_FRAME_SMALLS, _SMALLS) = _gathered("f4"), _gathered("i2")
_FLOAT_PLAN, _SMALL_PLAN, _INT_PLAN = _plan(_FLOATS, 4), _plan(_SMALLS, 2), _plan(IDS, 2)
_OWNER_PLAN, _PRESENT_PLAN = (
    np.array([offset(("items", slot, field)) // 2 for slot in range(NUM_ITEMS)]) for field in ("owner", "present"))
_FLOAT_SCALES = np.array([feature.scale for feature in _FLOATS], np.float32)
_FLIP = np.array([-1 if feature.mirrored == "sign" else 1 for feature in _FLOATS], np.float32)
_FLOAT_SCALES = np.stack([_FLOAT_SCALES, _FLIP * _FLOAT_SCALES])            # [2, F]: as it is, mirrored
_SMALL_SCALES = np.array([feature.scale for feature in _SMALLS], np.float32)
_PLACE = columns(FLOAT_NAMES, "player.x", "player.y")
_OPPONENT_PLACE = columns(FLOAT_NAMES, "opponent.x", "opponent.y")
_RELATIVE = columns(FLOAT_NAMES, "opponent.dx", "opponent.dy")
_PLATFORMS = columns(FLOAT_NAMES, "stage.platform_left", "stage.platform_right")
_MINE = columns(FLOAT_NAMES, "item0.mine", f"item{NUM_ITEMS - 1}.mine")


def observe(frames: np.ndarray, controllers: np.ndarray, pending: np.ndarray | None = None) -> Observation:
    """FRAME [N] and the CONTROLLER [N, 2] that made them -> Observation with floats [N, 2, F] and ints [N, 2, I].

    Row [n, p] is frame n as player p sees it: itself first, then the opponent, who is to its right (`mirrored`). The
    own last controller is part of it, because a button acts when it goes down: a policy must know what it holds. The
    opponent's is not. pending CONTROLLER [N, 2, D]: what each player has chosen already for the D frames that follow,
    of which it sees its own, turned as the frame is (none: it acts at once)."""
    n, depth = len(frames), 0 if pending is None else pending.shape[-1]
    frames = np.ascontiguousarray(frames)
    as_floats = frames.view(np.float32).reshape(n, -1)
    as_ints = frames.view(np.int16).reshape(n, -1)
    floats, mirror = np.empty((n, 2, num_floats(depth)), np.float32), mirrored(frames)
    side = np.where(mirror, np.float32(-1), np.float32(1))                  # 1: as it is, -1: left for right
    np.multiply(as_floats[:, _FLOAT_PLAN], _FLOAT_SCALES[mirror.view(np.int8)], out=floats[..., _FRAME_FLOATS])
    floats[mirror, _PLATFORMS] = floats[mirror, _PLATFORMS][:, ::-1]
    np.multiply(as_ints[:, _SMALL_PLAN], _SMALL_SCALES, out=floats[..., _FRAME_SMALLS])
    floats[..., _RELATIVE] = floats[..., _OPPONENT_PLACE] - floats[..., _PLACE]
    owner, present = as_ints[:, _OWNER_PLAN], as_ints[:, _PRESENT_PLAN] != 0                         # [N, items]
    for me in (0, 1):
        floats[:, me, _MINE] = present & (owner == me)
    _show_controllers(controllers, side, floats[..., OWN_CONTROLLER])
    if depth:
        waiting = np.empty((n, 2, depth, NUM_CONTROLLER_FLOATS), np.float32)
        _show_controllers(pending, side[..., None], waiting)
        floats[..., NUM_FLOATS:] = waiting.reshape(n, 2, -1)
    ints = np.clip(as_ints[:, _INT_PLAN], 0, INT_LIMITS)
    return Observation(floats, ints)


def _show_controllers(controllers: np.ndarray, side: np.ndarray, out: np.ndarray) -> None:
    """CONTROLLER [...] into out [..., 13], in the order of FLOAT_NAMES; side: -1 where left is right."""
    for k, axis in enumerate(_STICKS):
        out[..., k] = controllers[axis] * side if axis.endswith("x") else controllers[axis]
    out[..., 4] = np.maximum(controllers["l"], controllers["r"])
    out[..., 5:] = (controllers["buttons"][..., None] & BUTTON_BITS) != 0


def upcoming(controllers: np.ndarray, frame_delay: int) -> np.ndarray:
    """Controllers [T, 2] of a whole game -> [T - 1 - frame_delay, 2, frame_delay]: at every frame but the last ones
    what a player who is that late has chosen already, of the frames that follow; it now chooses the one after them."""
    T = len(controllers)
    following = np.arange(max(0, T - 1 - frame_delay))[:, None] + 1 + np.arange(frame_delay)        # [T - 1 - D, D]
    return np.moveaxis(controllers[following], 1, 2)


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
        if not all((np.abs(queue[axis]) <= 1).all() for axis in (*_STICKS, "l", "r")):
            raise ValueError("pending is no controllers")
        self.queue = queue


def check_timing(action_repeat, frame_delay) -> None:
    """Raises UserError unless a policy can act on every `action_repeat`-th frame, `frame_delay` frames late."""
    for name, value, low in (("action_repeat", action_repeat, 1), ("frame_delay", frame_delay, 0)):
        if type(value) is not int or not low <= value <= 3600:
            raise UserError(f"{name} {printable(repr(value), 60)}: must be a whole number from {low} to 3600")


def schema_hash() -> str:
    """Changes whenever a checkpoint's inputs or outputs would mean something else."""
    read = [[(field, scale) for field, scale, *_ in part] for part in (
        features._PLAYER_FLOATS, features._PLAYER_SMALL_INTS, features._ITEM_FLOATS, features._ITEM_SMALL_INTS)]
    sideways = sorted({feature.name.split(".")[1] for feature in _FLOATS if feature.mirrored == "sign"})
    parts = [FRAME.descr, CONTROLLER.descr, *read, sideways, "owners of items that are there", list(BUTTONS),
             STICK_GRID.tolist(), SHOULDER_GRID.tolist(), list(HEADS), NUM_FLOATS, NUM_INTS]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]

"""What every stage of CleanMelee shares: controller codec, observation, networks, vectorised games, checkpoints.

    one game frame                 FRAME record    (cleanmelee/frame.py), from a .slp file, the embedded game or Dolphin
    observe(frames, controllers,   Observation     (floats, ints), one row for each player, seen from that player's
            pending)                               side, with what it has chosen and what has not acted yet
    Policy.step / Policy.unroll    action indices  [..., 13]: eight buttons, main x/y, c x/y, shoulder
    decode_actions(actions, ..)    CONTROLLER record, which makes the next frame

Time: post[t-1] + pre[t] -> post[t]. A policy that has seen frames[t] chooses controllers[t + 1 + frame_delay], and what
it has chosen for the frames between is part of what it sees. Every stage keeps to that.

Sections, in the order of their arrows: controller codec, observation, policy, vectorised games, matches between
policies, checkpoints. The networks between embedding and heads are in cleanmelee/backbones.py."""

import copy
import functools
import hashlib
import io
import mmap
import operator
import os
import select
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from cleanmelee import game
from cleanmelee.archive import DEEPEST, MOST_OPCODES, open_archive
from cleanmelee.backbones import BACKBONES, OPTIONS, backbone_options, linear
from cleanmelee.cli import UserError, as_flag
from cleanmelee.dolphin import MAX_DEPARTURES, DolphinArgs, check_dolphin, dolphin_worker
from cleanmelee.files import atomic_write, read_file
from cleanmelee.frame import BUTTONS, CHARACTERS, CONTROLLER, FRAME, NUM_ITEMS, SHEIK, STAGES
from cleanmelee.runs import check_state, versions
from cleanmelee.terminal import printable
from cleanmelee.workers import ForkServer, Worker, worker_loop

# ---------------------------------------------------------------------------------------------------------------------
# Controller codec: CONTROLLER records <-> discrete heads. One object for labels, play, distillation and export.
# ---------------------------------------------------------------------------------------------------------------------

BUTTON_BITS = np.array(list(BUTTONS.values()), np.int32)

# Stick positions in 1/80, the game's own step: one for each stretch between the thresholds that decide what a stick
# does. Nearest-point bins would straddle them and turn one label in fourteen on the vertical axis into another move.
_HALF = np.array([23, 34, 44, 50, 54, 59, 70, 80])
_FROM = np.array([23, 29, 40, 49, 53, 56, 64, 76])  # 23 out of the dead zone, 49 crouch, 53 tap jump and platform drop,
                                                    # 56 spot dodge and roll, 64 dash and smash; 29, 40, 76 for
                                                    # precision
STICK_GRID = np.concatenate([-_HALF[::-1], [0], _HALF]).astype(np.float32) / np.float32(80)          # [17]
SHOULDER_GRID = np.array([0, 49, 77, 105, 140], np.float32) / np.float32(140)                       # [5], light to full
NUM_BUTTONS, NUM_STICK, NUM_SHOULDER = len(BUTTONS), len(STICK_GRID), len(SHOULDER_GRID)
STICK_NEUTRAL = NUM_STICK // 2

HEADS = {"buttons": NUM_BUTTONS, "main_x": NUM_STICK, "main_y": NUM_STICK, "c_x": NUM_STICK, "c_y": NUM_STICK,
         "shoulder": NUM_SHOULDER}                      # logits of each head, in the order of sampling
NUM_LOGITS = sum(HEADS.values())                        # 81
ACTION_SIZE = NUM_BUTTONS + len(HEADS) - 1              # 13 integers: eight bits, then one index a categorical head
_STICKS_X = [NUM_BUTTONS, NUM_BUTTONS + 2]              # both sticks' x among them
NEUTRAL_ACTION = np.array([0] * NUM_BUTTONS + [STICK_NEUTRAL] * 4 + [0], np.int8)


def _stick_table() -> np.ndarray:
    """[17, 17, 2] stick position of each pair of indices; outside the unit circle it is pulled in as the game does."""
    x, y = np.meshgrid(STICK_GRID, STICK_GRID, indexing="ij")
    pull = np.maximum(1.0, np.hypot(x, y))
    inside = np.trunc(np.stack([x / pull, y / pull], -1) * 80) / 80
    # not the dead zone
    inside = np.where((np.abs(inside) < 22.5 / 80) & (inside != 0), np.sign(inside) * 23 / 80, inside)
    return np.where((pull > 1)[..., None], inside, np.stack([x, y], -1)).astype(np.float32)


STICK_TABLE = _stick_table()
_STEPS = np.arange(-80, 81)
# [161]
_STICK_INDEX = (STICK_NEUTRAL + np.sign(_STEPS) * np.searchsorted(_FROM, np.abs(_STEPS), "right")).astype(np.int8)
_NEAREST_SHOULDER = np.abs(np.arange(0, 141)[:, None] / 140 - SHOULDER_GRID).argmin(1).astype(np.int8)


def mirrored(frames: np.ndarray) -> np.ndarray:
    """FRAME [...] -> bool [..., 2]: does this player see the frame with left and right exchanged? It does while the
    opponent is to its left. So a policy always has the opponent on its right, and what it learns on one side it can do
    on the other. Melee's moves and stages are symmetric, but for what no observation shows: Yoshi's cloud, Dream Land's
    wind."""
    x = frames["players"]["x"]
    return x[..., ::-1] < x


def encode_controllers(controllers: np.ndarray, mirror: np.ndarray | None = None) -> np.ndarray:
    """CONTROLLER [...] -> int8 [..., 13], the grid point of its stretch per axis. Exact for what `decode_actions` makes
    of grid points inside the unit circle. START and the other d-pad directions have no head. mirror [...]: seen by a
    `mirrored` player."""
    actions = np.empty(controllers.shape + (ACTION_SIZE,), np.int8)
    actions[..., :NUM_BUTTONS] = (controllers["buttons"][..., None] & BUTTON_BITS) != 0
    for k, axis in enumerate(("main_x", "main_y", "c_x", "c_y")):
        step = np.clip(np.rint(controllers[axis] * 80), -80, 80).astype(np.int64)
        actions[..., NUM_BUTTONS + k] = _STICK_INDEX[step + 80]
    if mirror is not None:
        actions[..., _STICKS_X] = _exchanged(actions, mirror)
    trigger = np.maximum(controllers["l"], controllers["r"])
    actions[..., -1] = _NEAREST_SHOULDER[np.clip(np.rint(trigger * 140), 0, 140).astype(np.int64)]
    return actions


def decode_actions(actions: np.ndarray, mirror: np.ndarray | None = None) -> np.ndarray:
    """Integers [..., 13] -> CONTROLLER [...]. Always a legal controller: sticks lie in the unit circle. mirror [...]:
    who chose these actions on a `mirrored` frame; whatever a policy chose goes back through it."""
    controllers = np.empty(actions.shape[:-1], CONTROLLER)
    main_x, c_x = np.moveaxis(actions[..., _STICKS_X] if mirror is None else _exchanged(actions, mirror), -1, 0)
    main, c = STICK_TABLE[main_x, actions[..., 9]], STICK_TABLE[c_x, actions[..., 11]]
    controllers["main_x"], controllers["main_y"] = main[..., 0], main[..., 1]
    controllers["c_x"], controllers["c_y"] = c[..., 0], c[..., 1]
    controllers["l"], controllers["r"] = SHOULDER_GRID[actions[..., 12]], 0
    controllers["buttons"] = actions[..., :NUM_BUTTONS].astype(np.int32) @ BUTTON_BITS
    return controllers


def _exchanged(actions, mirror):
    """[..., 2] the indices of both sticks' x, left for right where `mirror` [...] says so."""
    x = actions[..., _STICKS_X]
    return np.where(np.asarray(mirror)[..., None], NUM_STICK - 1 - x, x)


# ---------------------------------------------------------------------------------------------------------------------
# Observation: one gather from the frame's bytes, for both players at once
# ---------------------------------------------------------------------------------------------------------------------


class Observation(NamedTuple):
    """What a policy sees of one frame, from one player's side. Arrays or tensors; leading dimensions are free."""
    floats: np.ndarray | torch.Tensor  # [..., num_floats(frame_delay)] float32, scaled to about -3..3
    ints: np.ndarray | torch.Tensor    # [..., NUM_INTS] int16: indices into learned tables


# What is read of each player and item: (field, scale). Positions in tens of units, so that one stick-length of spacing
# is visible.
_PLAYER_FLOATS = [("x", .03), ("y", .03), ("self_vx_air", .5), ("self_vy", .5), ("self_vx_ground", .5), ("kb_vx", .5),
                  ("kb_vy", .5), ("facing", 1), ("percent", .01), ("shield", 1 / 60), ("hitlag", .1), ("hitstun", .05)]
_PLAYER_SMALL_INTS = [("action_frame", .03), ("stocks", .25), ("jumps", .5), ("airborne", 1), ("in_hitstun", 1),
                      ("fastfall", 1), ("hurtbox", .5)]
_ITEM_FLOATS = [("x", .03), ("y", .03), ("vx", .3), ("vy", .3), ("facing", 1)]
_ITEM_SMALL_INTS = [("present", 1), ("charge", .1)]
_PLATFORM_SCALE = .03
_SIDEWAYS = {"x", "vx", "self_vx_air", "self_vx_ground", "kb_vx", "facing"}     # these change sign in a mirrored frame
_STICKS = ("main_x", "main_y", "c_x", "c_y")
NUM_ACTIONS, NUM_CHARACTERS, NUM_STAGES, NUM_ITEM_TYPES = 512, 64, 64, 256      # sizes of the learned tables


def _gathered(me: int) -> tuple[list, list, list]:
    """What player `me` reads straight from a FRAME: floats and small integers as (name, path in the record, scale), ids
    as (name, path, size of their learned table)."""
    players = (("player", me), ("opponent", 1 - me))
    items = [(f"item{slot}", slot) for slot in range(NUM_ITEMS)]
    floats = [(f"{who}.{field}", ("players", k, field), scale) for who, k in players for field, scale in _PLAYER_FLOATS]
    floats += [(f"stage.{field}", (field,), _PLATFORM_SCALE) for field in ("platform_left", "platform_right")]
    floats += [(f"{item}.{field}", ("items", k, field), scale) for item, k in items for field, scale in _ITEM_FLOATS]
    smalls = [(f"{who}.{field}", ("players", k, field), scale)
              for who, k in players for field, scale in _PLAYER_SMALL_INTS]
    smalls += [(f"{item}.{field}", ("items", k, field), scale)
               for item, k in items for field, scale in _ITEM_SMALL_INTS]
    ids = [(f"{who}.{field}", ("players", k, field), size) for who, k in players
           for field, size in (("action", NUM_ACTIONS), ("character", NUM_CHARACTERS))]
    ids += [("stage.id", ("stage",), NUM_STAGES)]
    ids += [(f"{item}.type", ("items", k, "type"), NUM_ITEM_TYPES) for item, k in items]
    return floats, smalls, ids


# The one table of columns. What is computed (relative position, whose item, the own last controller) follows what is
# gathered.
_FLOATS, _SMALLS, _IDS = _gathered(0)
FLOAT_NAMES = [name for name, _, _ in _FLOATS + _SMALLS] + ["opponent.dx", "opponent.dy"]
FLOAT_NAMES += [f"item{slot}.mine" for slot in range(NUM_ITEMS)]
FLOAT_NAMES += [f"controller.{name}" for name in (*_STICKS, "shoulder", *BUTTONS)]
INT_NAMES = [name for name, _, _ in _IDS]
NUM_FLOATS, NUM_INTS = len(FLOAT_NAMES), len(INT_NAMES)
INT_LIMITS = np.array([size - 1 for _, _, size in _IDS], np.int16)


def columns(names: list[str], first: str, last: str) -> slice:
    """The columns from `first` to `last`, both included, of FLOAT_NAMES or INT_NAMES."""
    return slice(names.index(first), names.index(last) + 1)


OWN_CONTROLLER = columns(FLOAT_NAMES, "controller.main_x", FLOAT_NAMES[-1])
NUM_CONTROLLER_FLOATS = OWN_CONTROLLER.stop - OWN_CONTROLLER.start                                  # 13
_FRAME_FLOATS = columns(FLOAT_NAMES, _FLOATS[0][0], _FLOATS[-1][0])
_FRAME_SMALLS = columns(FLOAT_NAMES, _SMALLS[0][0], _SMALLS[-1][0])
_PLACE = columns(FLOAT_NAMES, "player.x", "player.y")
_OPPONENT_PLACE = columns(FLOAT_NAMES, "opponent.x", "opponent.y")
_RELATIVE = columns(FLOAT_NAMES, "opponent.dx", "opponent.dy")
_PLATFORMS = columns(FLOAT_NAMES, "stage.platform_left", "stage.platform_right")
_MINE = columns(FLOAT_NAMES, "item0.mine", f"item{NUM_ITEMS - 1}.mine")


def _offset(path: tuple) -> int:
    """Byte offset of a field inside FRAME, e.g. of ("players", 1, "x")."""
    offset, dtype = 0, FRAME
    for step in path:
        if isinstance(step, int):
            dtype = dtype.base
            offset += step * dtype.itemsize
        else:
            dtype, shift = dtype.fields[step][:2]
            offset += shift
    return offset


def _plan(kind: int, width: int) -> np.ndarray:
    """[2 players, n] where the `kind`-th of _gathered's lists lies in a frame that is seen as numbers of `width`
    bytes."""
    return np.array([[_offset(path) // width for _, path, _ in _gathered(me)[kind]] for me in (0, 1)])


_FLOAT_PLAN, _SMALL_PLAN, _INT_PLAN = _plan(0, 4), _plan(1, 2), _plan(2, 2)
_OWNER_PLAN, _PRESENT_PLAN = (
    np.array([_offset(("items", slot, field)) // 2 for slot in range(NUM_ITEMS)]) for field in ("owner", "present"))
_FLIP = np.array([-1 if path[-1] in _SIDEWAYS else 1 for _, path, _ in _FLOATS], np.float32)
_FLOAT_SCALES = np.array([scale for _, _, scale in _FLOATS], np.float32)
_FLOAT_SCALES = np.stack([_FLOAT_SCALES, _FLIP * _FLOAT_SCALES])            # [2, F]: as it is, mirrored
_SMALL_SCALES = np.array([scale for _, _, scale in _SMALLS], np.float32)


def num_floats(frame_delay: int) -> int:
    """How many floats a policy sees: those of FLOAT_NAMES, then of every controller that waits, the next one first,
    what FLOAT_NAMES has of the own controller."""
    return NUM_FLOATS + frame_delay * NUM_CONTROLLER_FLOATS


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

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Nothing where there is no delay."""
        content = np.frombuffer(self.queue.tobytes(), np.uint8).copy()
        return {"pending": torch.from_numpy(content)} if self.queue.size else {}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        if not self.queue.size:
            return
        queue = np.frombuffer(state["pending"].numpy().tobytes(), CONTROLLER).reshape(self.queue.shape).copy()
        if not all((np.abs(queue[axis]) <= 1).all() for axis in (*_STICKS, "l", "r")):
            raise ValueError("pending is no controllers")
        self.queue = queue


def schema_hash() -> str:
    """Changes whenever a checkpoint's inputs or outputs would mean something else."""
    parts = [FRAME.descr, CONTROLLER.descr, _PLAYER_FLOATS, _PLAYER_SMALL_INTS, _ITEM_FLOATS, _ITEM_SMALL_INTS,
             sorted(_SIDEWAYS), "owners of items that are there", list(BUTTONS), STICK_GRID.tolist(),
             SHOULDER_GRID.tolist(),
             list(HEADS), NUM_FLOATS, NUM_INTS]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


# ---------------------------------------------------------------------------------------------------------------------
# Policy: embedding -> backbone -> value, and controller heads sampled one after the other
# ---------------------------------------------------------------------------------------------------------------------

# Sampled at 60 Hz, Bernoulli(.5) buttons are mashing and uniform sticks tremble on the spot. A fresh policy therefore
# starts near how often people hold each button and where their sticks rest.
_INITIAL_PRESS = {"A": .06, "B": .05, "X": .05, "Y": .03, "Z": .01, "L": .03, "R": .03, "D_UP": .001}
_INITIAL_NEUTRAL = {"main_x": .35, "main_y": .6, "c_x": .96, "c_y": .96}  # the rest: half on full tilt, half between
_INITIAL_NO_SHOULDER = .92


def _initial_bias(head: str) -> torch.Tensor:
    if head == "buttons":
        return torch.logit(torch.tensor(list(_INITIAL_PRESS.values())))
    if head == "shoulder":
        p = [_INITIAL_NO_SHOULDER] + [(1 - _INITIAL_NO_SHOULDER) / (NUM_SHOULDER - 1)] * (NUM_SHOULDER - 1)
        return torch.tensor(p).log()
    rest = 1 - _INITIAL_NEUTRAL[head]
    p = torch.full((NUM_STICK,), rest / 2 / (NUM_STICK - 3))
    p[0] = p[-1] = rest / 4
    p[STICK_NEUTRAL] = _INITIAL_NEUTRAL[head]
    return p.log()


class Embedding(nn.Module):
    """Observation [..., ] -> [..., size]: learned tables for ids, items pooled so that slot order does not matter."""

    def __init__(self, frame_delay: int = 0, action_dim: int = 32, character_dim: int = 8, item_dim: int = 16):
        super().__init__()
        self.action = nn.Embedding(NUM_ACTIONS, action_dim)
        self.character = nn.Embedding(NUM_CHARACTERS, character_dim)
        self.stage = nn.Embedding(NUM_STAGES, character_dim)
        self.item_type = nn.Embedding(NUM_ITEM_TYPES, item_dim)
        for table in (self.action, self.character, self.stage, self.item_type):
            nn.init.normal_(table.weight, std=.3)
        features = [name for name, _ in _ITEM_FLOATS + _ITEM_SMALL_INTS] + ["mine"]
        self.item = linear(len(features), item_dim)
        item_columns = np.array([FLOAT_NAMES.index(f"item{slot}.{name}")
                                 for slot in range(NUM_ITEMS) for name in features])
        other = np.setdiff1d(np.arange(num_floats(frame_delay)), item_columns)
        self.register_buffer("item_columns", torch.from_numpy(item_columns), persistent=False)
        self.register_buffer("other_columns", torch.from_numpy(other), persistent=False)
        self.present = features.index("present")
        self.actions = slice(INT_NAMES.index("player.action"), INT_NAMES.index("opponent.action") + 1, 2)
        self.characters = slice(INT_NAMES.index("player.character"), INT_NAMES.index("opponent.character") + 1, 2)
        self.stages = INT_NAMES.index("stage.id")
        self.items = columns(INT_NAMES, "item0.type", f"item{NUM_ITEMS - 1}.type")
        self.size = len(other) + 2 * (action_dim + character_dim) + character_dim + item_dim

    def forward(self, obs: Observation) -> torch.Tensor:
        floats, ints = obs.floats, obs.ints.int()
        items = floats.index_select(-1, self.item_columns).unflatten(-1, (NUM_ITEMS, -1))       # [..., items, f]
        embedded = F.relu(self.item(items) + self.item_type(ints[..., self.items]))                    # [..., items, E]
        pooled = (embedded * items[..., self.present, None]).sum(-2)                            # [..., E]
        return torch.cat([
            floats.index_select(-1, self.other_columns),
            self.action(ints[..., self.actions]).flatten(-2), self.character(ints[..., self.characters]).flatten(-2),
            self.stage(ints[..., self.stages]), pooled], -1)


class ControllerHead(nn.Module):
    """Autoregressive controller: each head sees the features plus a zero-initialised residual of what was sampled
    before it. Independent heads cannot press B with a direction; the residual starts at nothing and learns that."""

    def __init__(self, n_in: int, width: int = 128):
        super().__init__()
        self.project = linear(n_in, width)
        self.logits = nn.ModuleDict({name: linear(width, n, .01) for name, n in HEADS.items()})
        self.seen_buttons = nn.Linear(NUM_BUTTONS, width, bias=False)
        self.seen = nn.ModuleDict({name: nn.Embedding(n, width) for name, n in list(HEADS.items())[1:-1]})
        nn.init.zeros_(self.seen_buttons.weight)
        for table in self.seen.values():
            nn.init.zeros_(table.weight)
        with torch.no_grad():
            for name, layer in self.logits.items():
                layer.bias.copy_(_initial_bias(name))

    def forward(self, features: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """Teacher-forced: features [..., H], the actions taken [..., 13] -> logits [..., 81]."""
        seen = self.project(features)
        logits = [self.logits["buttons"](F.relu(seen))]
        seen = seen + self.seen_buttons(actions[..., :NUM_BUTTONS].to(features.dtype))
        for k, name in enumerate(list(HEADS)[1:]):
            logits.append(self.logits[name](F.relu(seen)))
            if name in self.seen:
                seen = seen + self.seen[name](actions[..., NUM_BUTTONS + k].int())
        return torch.cat(logits, -1)

    def sample(self, features: torch.Tensor, noise: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """features [B, H], uniform noise [B, 81] in (0, 1) or None for the most likely -> actions [B, 13] int64 and the
        logits [B, 81] that they were drawn from.

        A frame of play is forty small operations, most of them here: calling a layer's function instead of the layer,
        and few slices, make this a fifth faster."""
        layers, tables, seen = self.logits, self.seen, self.project(features)
        logits = [F.linear(torch.relu(seen), layers["buttons"].weight, layers["buttons"].bias)]
        noisy = logits[0]
        if noise is not None:
            noise = noise.clamp(1e-6, 1 - 1e-6)                             # float32 cannot tell 1 - 1e-8 from 1
            noisy = noisy + torch.logit(noise[:, :NUM_BUTTONS])             # logistic noise: a Bernoulli sample
            gumbel = -torch.log(-torch.log(noise[:, NUM_BUTTONS:]))         # Gumbel noise: a categorical sample
            gumbel = dict(zip(list(HEADS)[1:], gumbel.split(list(HEADS.values())[1:], -1), strict=True))
        pressed, choices = noisy > 0, []
        seen = seen + F.linear(pressed.to(features.dtype), self.seen_buttons.weight)
        for name in list(HEADS)[1:]:
            logits.append(F.linear(torch.relu(seen), layers[name].weight, layers[name].bias))
            choices.append((logits[-1] if noise is None else logits[-1] + gumbel[name]).argmax(-1))
            if name in tables:
                seen = seen + F.embedding(choices[-1], tables[name].weight)
        return torch.cat([pressed.long(), torch.stack(choices, -1)], -1), torch.cat(logits, -1)


def split_logits(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """logits [..., 81] -> of the buttons [..., 8], of both sticks' axes [..., 4, 17], of the shoulder [..., 1, 5]."""
    buttons, sticks, shoulder = logits.split([NUM_BUTTONS, 4 * NUM_STICK, NUM_SHOULDER], -1)
    return buttons, sticks.unflatten(-1, (4, NUM_STICK)), shoulder[..., None, :]


def action_logprobs(logits: torch.Tensor, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """logits [..., 81], actions [..., 13] -> log-probability and entropy per head, [..., 6] each.

    The entropy of a later head is that of its distribution given the earlier heads' actual choice."""
    buttons, sticks, shoulder = split_logits(logits)
    pressed = actions[..., :NUM_BUTTONS].to(logits.dtype)
    softplus = F.softplus(buttons)
    logprobs = [(buttons * pressed - softplus).sum(-1, keepdim=True)]
    entropies = [(softplus - buttons * buttons.sigmoid()).sum(-1, keepdim=True)]
    index = actions[..., NUM_BUTTONS:].long()
    for block, choice in ((sticks, index[..., :4]), (shoulder, index[..., 4:])):
        log_p = block.log_softmax(-1)                                       # [..., heads, n]
        logprobs.append(log_p.gather(-1, choice[..., None])[..., 0])
        entropies.append(-(log_p.exp() * log_p).sum(-1))
    return torch.cat(logprobs, -1), torch.cat(entropies, -1)


def action_kl(logits: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """KL(logits || other) of two controllers that were shown the same actions: [..., 81] twice -> per head [..., 6].
    The eight buttons of the first head are eight coins."""
    def log_odds(logits):
        buttons, sticks, shoulder = split_logits(logits)
        coins = torch.stack([F.logsigmoid(buttons), F.logsigmoid(-buttons)], -1)                    # [..., 8, 2]
        return coins, sticks.log_softmax(-1), shoulder.log_softmax(-1)

    pairs = zip(log_odds(logits), log_odds(other), strict=True)
    coins, sticks, shoulder = ((p.exp() * (p - q)).sum(-1) for p, q in pairs)
    return torch.cat([coins.sum(-1, keepdim=True), sticks, shoulder], -1)


MAX_HIDDEN = 65536
STATE_SIZE = 2 ** 20                                                    # numbers that a policy may remember of a game


def check_timing(action_repeat, frame_delay) -> None:
    """Raises UserError unless a policy can act on every `action_repeat`-th frame, `frame_delay` frames late."""
    for name, value, low in (("action_repeat", action_repeat, 1), ("frame_delay", frame_delay, 0)):
        if type(value) is not int or not low <= value <= 3600:
            raise UserError(f"{name} {printable(repr(value), 60)}: must be a whole number from {low} to 3600")


class Policy(nn.Module):
    """Embedding -> backbone -> value and controller heads. `unroll` learns over time, `step` acts on one frame, and
    they agree.

    State is explicit: a flat tuple of tensors [B, ...], empty for the mlp. `config` rebuilds the policy, and says how
    it acts: it decides on every `action_repeat`-th game frame and holds that, and a decision takes effect `frame_delay`
    frames late. options: those of the backbone, in cleanmelee/backbones.py (None: its default)."""

    def __init__(self, backbone: str = "mlp", hidden: tuple[int, ...] = (512, 512), action_repeat: int = 1,
                 frame_delay: int = 0, **options: int | None):
        super().__init__()
        if not isinstance(backbone, str) or backbone not in BACKBONES:
            raise UserError(f"unknown backbone {printable(repr(backbone), 60)}: choose one of {', '.join(BACKBONES)}")
        if not isinstance(hidden, list | tuple) or not hidden or not all(
                type(n) is int and 1 <= n <= MAX_HIDDEN for n in hidden):
            raise UserError(f"hidden sizes must be whole numbers from 1 to {MAX_HIDDEN}, got {printable(hidden, 60)}")
        check_timing(action_repeat, frame_delay)
        options = backbone_options(backbone, **options)
        self.config = {"backbone": backbone, "hidden": list(hidden), "action_repeat": action_repeat,
                       "frame_delay": frame_delay, **options}
        self.embedding = Embedding(frame_delay)
        self.backbone = BACKBONES[backbone](self.embedding.size, tuple(hidden), **options)
        remembered = sum(part[0].numel() for part in self.backbone.initial_state(1, torch.device("meta")))
        if remembered > STATE_SIZE:
            raise UserError(f"{backbone} {list(hidden)} would remember {remembered:,} numbers of every game, and at "
                            f"most {STATE_SIZE:,} are possible; make it smaller")
        self.value_head = linear(self.backbone.size, 1, 1.)
        self.controller_head = ControllerHead(self.backbone.size)

    @property
    def action_repeat(self) -> int:
        return self.config["action_repeat"]

    @property
    def frame_delay(self) -> int:
        return self.config["frame_delay"]

    @property
    def num_floats(self) -> int:
        """Of the observations that it reads."""
        return num_floats(self.frame_delay)

    @property
    def device(self) -> torch.device:
        return self.value_head.weight.device

    def initial_state(self, batch: int) -> tuple[torch.Tensor, ...]:
        return self.backbone.initial_state(batch, self.device)

    def unroll(self, obs: Observation, state: tuple, resets: torch.Tensor) -> tuple[torch.Tensor, tuple]:
        """obs [T, B, ...], state at the start, resets [T, B] (True: obs[t] begins a game, the state before it is
        cleared) -> features [T, B, H], the state after the last frame."""
        return self.backbone.unroll(self.embedding(obs), state, resets)

    def features(self, obs: Observation, state: tuple) -> tuple[torch.Tensor, tuple]:
        """One frame: obs [B, ...] -> features [B, H], new state."""
        return self.backbone.step(self.embedding(obs), state)

    def step(self, obs: Observation, state: tuple, noise: torch.Tensor | None) -> tuple[torch.Tensor, tuple]:
        """obs [B, ...], uniform noise [B, 81] (None: the most likely action) -> actions [B, 13], new state."""
        features, state = self.features(obs, state)
        return self.controller_head.sample(features, noise)[0], state

    def act(self, obs: Observation, state: tuple, noise: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        """As `step`, with what a learner remembers of it: -> actions [B, 13], new state, log-probabilities [B] of the
        actions, values [B]."""
        features, state = self.features(obs, state)
        actions, logits = self.controller_head.sample(features, noise)
        return actions, state, action_logprobs(logits, actions)[0].sum(-1), self.value(features)

    forward = act                                                           # what torch.func calls

    def value(self, features: torch.Tensor) -> torch.Tensor:
        return self.value_head(features)[..., 0]

    def logits(self, features: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        return self.controller_head(features, actions)


@torch.no_grad()
def evaluate_actions(policy: Policy, obs: Observation, state: tuple, starts: torch.Tensor,
                     actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and log-probabilities [T, B] that `policy` gives to a rollout, which begins with memory `state`. Some
    columns at a time: a forward over all of a long rollout needs megabytes for each game."""
    parts, columns = [], max(1, 4096 // len(actions))
    for s in (slice(k, k + columns) for k in range(0, actions.shape[1], columns)):
        seen = Observation(obs.floats[:, s], obs.ints[:, s])
        features, _ = policy.unroll(seen, tuple(x[s] for x in state), starts[:, s])
        logprobs, _ = action_logprobs(policy.logits(features, actions[:, s]), actions[:, s])
        parts.append((policy.value(features), logprobs.sum(-1)))
    values, logprobs = (torch.cat(column, 1) for column in zip(*parts, strict=True))
    return values, logprobs


def reset_state(state: tuple, resets: torch.Tensor) -> tuple:
    """Clears the rows of a policy state where resets [B] is True."""
    return tuple(s * (~resets).to(s.dtype).view(-1, *[1] * (s.dim() - 1)) for s in state)


def to_torch(obs: Observation, device: torch.device | str = "cpu") -> Observation:
    return Observation(torch.from_numpy(obs.floats).to(device), torch.from_numpy(obs.ints).to(device))


def parse_hidden(text: str) -> tuple[int, ...]:
    """"512,512" -> (512, 512)"""
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1 or max(sizes) > MAX_HIDDEN:
        raise UserError(f"--hidden {text!r}: give layer sizes up to {MAX_HIDDEN}, separated by commas, e.g. 512,512")
    return sizes


def network_flags(policy: Policy, **given) -> dict:
    """backbone, hidden, its options (None: the backbone has no such option) and action_repeat of a policy as flags hold
    them. UserError for one that was `given` (None: it was not) and that the policy does not have."""
    own = {**dict.fromkeys(OPTIONS), **policy.config, "hidden": ",".join(map(str, policy.config["hidden"]))}
    for name, value in given.items():
        wish = ",".join(map(str, parse_hidden(value))) if name == "hidden" and value is not None else value
        if wish not in (None, own[name]):
            has = "none" if own[name] is None else own[name]
            raise UserError(f"{as_flag(name)} {value}: the policy to start from has {has}; leave this flag out, or "
                            "start from another one")
    return own


# ---------------------------------------------------------------------------------------------------------------------
# Vectorised games
# ---------------------------------------------------------------------------------------------------------------------


def _mix(*numbers: int) -> int:
    """A 64-bit hash of whole numbers: seeds for (run, game slot, episode) that do not depend on what happened
    before."""
    numbers = tuple(map(operator.index, numbers))                           # np.int64(3) is written otherwise than 3
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest(), "little")


class Games:
    """All that is needed to step `n` embedded games: arrays only, so that they can lie in shared memory and in
    checkpoints.

    The same code runs in the main process (`num_workers=0`) and in a worker, which gets the slice [low:high)."""

    LAYOUT = {
        "frames": FRAME, "final_frames": FRAME, "controllers": (CONTROLLER, 2), "final_controllers": (CONTROLLER, 2),
        "hidden": game.HIDDEN, "bots": (game.BOT, 2), "bot_kinds": ("i4", 2), "characters": ("i4", 2),
        "stages": "i4", "seed": "u8", "episode": "i8", "episode_frames": "i8", "terminated": "?", "truncated": "?"}

    def __init__(self, n: int, memory: mmap.mmap | None = None):
        offset = 0
        for name, layout in self.LAYOUT.items():
            kind, *width = layout if isinstance(layout, tuple) else (layout,)
            dtype, shape = np.dtype(kind), (n, *width)
            count = int(np.prod(shape))
            if memory is None:
                array = np.zeros(shape, dtype)
            else:
                array = np.frombuffer(memory, dtype, count, offset).reshape(shape)
            offset += -(-count * dtype.itemsize // 64) * 64                 # every array starts on a cache line
            setattr(self, name, array)
        self.num_bytes = offset

    def slice(self, low: int, high: int) -> "Games":
        part = object.__new__(Games)
        for name in self.LAYOUT:
            setattr(part, name, getattr(self, name)[low:high])
        return part

    def reset(self, mask: np.ndarray) -> None:
        """Begins the next episode of every game in mask [N]. Its seed depends on slot and episode number alone."""
        seeds = np.zeros(len(mask), np.uint64)
        for g in np.flatnonzero(mask):
            seeds[g] = self.begin_episode(g)
        self.controllers[mask] = np.zeros((), CONTROLLER)
        game.reset_games(self.frames, self.hidden, mask, self.characters, self.stages, seeds)

    def begin_episode(self, g: int) -> int:
        """Counters and bots of game g's next episode -> its seed."""
        seed = _mix(int(self.seed[g]), int(self.episode[g]))
        self.bots[g] = np.zeros(2, game.BOT)
        self.bots[g]["kind"] = self.bot_kinds[g]
        self.bots[g]["seed"] = [_mix(seed, player) for player in (1, 2)]
        self.episode[g] += 1
        self.episode_frames[g] = 0
        return seed

    def step(self, action_repeat: int, max_episode_frames: int) -> None:
        """Applies self.controllers for `action_repeat` frames. A game that ends within them keeps its last frame in
        final_frames and begins anew; self.frames then hold the new game's first frame."""
        for repeat in range(action_repeat):
            if self.bot_kinds.any():
                game.bot_controllers(self.frames, self.bots, self.controllers)
            game.step_games(self.frames, self.hidden, self.controllers)
            self.episode_frames += 1
            over = game.game_over(self.frames)
            late = (self.episode_frames >= max_episode_frames) & ~over if max_episode_frames else np.zeros_like(over)
            if repeat == 0:
                self.terminated[:], self.truncated[:] = over, late
                done = over | late
                self.final_frames[done], self.final_controllers[done] = self.frames[done], self.controllers[done]
            elif over.any() or late.any():
                first = (over | late) & ~(self.terminated | self.truncated)  # the frame on which a game ended counts
                self.terminated |= over & first
                self.truncated |= late & first
                self.final_frames[first], self.final_controllers[first] = self.frames[first], self.controllers[first]
        done = self.terminated | self.truncated
        if done.any():
            self.reset(done)


class VecEnv:
    """`num_games` games stepped together, in this process or in worker processes over shared memory.

        envs.frames [N] FRAME             the current frames; after `step` of finished games the next one's first
        envs.controllers [N, 2]           the input that made them (neutral at a game's start)
        envs.step(controllers [N, 2])     -> terminated [N], truncated [N], broken [N]
        envs.final_frames, envs.final_controllers       of the games that ended in this step, at their last frame

    A worker that dies, raises or hangs is replaced; its games come back truncated and marked broken, the others never
    notice, and the traceback goes to `log`. More than `max_restarts` failures within an hour end the run: UserError.
    The hand-off is one byte through a pipe: unlike a semaphore, a pipe says at once when the other side is gone, and
    needs no clean-up. With `use_threads` the workers are threads of this process instead: the games release Python's
    lock, nothing is copied, but what fails or hangs there cannot be replaced.

    With dolphin=DolphinArgs(dolphin=PATH, iso=PATH) the same games run on Slippi Dolphin, one for each, each in a
    worker of its own (num_workers does not count):

        with VecEnv(4, FOX, FD, dolphin=args, cpu_levels=[[0, CPU_LEVELS["cpu9"]]] * 4) as envs: ...

    cpu_levels [N, 2]: 1 to 9 for Melee's computer player, HUMAN for a person at that port, 0 for `controllers` or a
    bot. A Dolphin takes seconds to start, so after a fault, and sometimes between two games, its game reports a few
    steps that are truncated and broken, the one with its new first frame last, while the others play on.
    `max_episode_frames` truncates, but the game on Dolphin goes on. `envs.controllers` are the inputs that Melee says
    it saw."""

    def __init__(self, num_games: int, characters, stages, *, seed: int = 0, num_workers: int = 0, bot_kinds=0,
                 max_episode_frames: int = 3600, action_repeat: int = 1, timeout: float = 1., max_restarts: int = 100,
                 cpu_levels=0, dolphin: "DolphinArgs | None" = None, use_threads: bool = False,
                 log=lambda line: print(line, file=sys.stderr)):
        if num_games < 1:
            raise UserError(f"--num-games {num_games}: at least one game is needed")
        if not 0 <= num_workers <= num_games:
            raise UserError(f"--num-workers {num_workers}: must lie between 0 and --num-games ({num_games})")
        cpu_levels = np.broadcast_to(np.asarray(cpu_levels, int), (num_games, 2))
        if dolphin:
            check_dolphin(dolphin)
            # the worker itself notices first
            num_workers, timeout = num_games, dolphin.step_timeout * action_repeat + 5
        elif cpu_levels.any():
            raise UserError("Melee's own computer players need a live game (--game-type dolphin)")
        if num_workers and not hasattr(os, "fork"):
            raise UserError("--num-workers: this system cannot fork; use --num-workers 0")
        game.warm_up()                                                # compile once, before workers start
        self.num_games, self.num_workers, self.seed, self.dolphin = num_games, num_workers, seed, dolphin
        self.max_episode_frames, self.action_repeat = max_episode_frames, action_repeat
        self.timeout, self.max_restarts, self.restarts, self.log = timeout, max_restarts, 0, log
        self._failed_at, self._departures = [], np.zeros(num_games, int)    # in the last hour; of each game, in a row
        size = Games(num_games).num_bytes if num_workers else 0
        games = self.games = Games(num_games, mmap.mmap(-1, size) if num_workers else None)
        games.characters[:], games.stages[:], games.bot_kinds[:] = characters, stages, bot_kinds
        if dolphin and (games.characters[cpu_levels > 0] == SHEIK).any():
            raise UserError("a computer player cannot be made to choose sheik; take zelda, or another character")
        games.seed[:] = [_mix(seed, g) for g in range(num_games)]
        self.frames, self.controllers = games.frames, games.controllers
        self.final_frames, self.final_controllers = games.final_frames, games.final_controllers
        self.broken = np.zeros(num_games, bool)
        self._before = b""
        if not dolphin:
            games.reset(np.ones(num_games, bool))
        bounds = np.linspace(0, num_games, num_workers + 1).astype(int) if num_workers else []
        self._slices = list(zip(bounds[:-1], bounds[1:], strict=True))
        self._workers: list[Worker] = []
        self._boot_failures = np.zeros(num_workers, int)                    # of each worker, in a row
        self._resumed = False
        self._forks = None
        self._threads = ThreadPoolExecutor(num_workers) if num_workers and use_threads and not dolphin else None
        if not num_workers or self._threads:
            return

        def work(low: int, high: int, *pipes: int) -> None:
            part = games.slice(low, high)
            if not dolphin:
                worker_loop(part, lambda part: part.step(action_repeat, max_episode_frames), *pipes)
            else:
                port = dolphin.spectator_port and dolphin.spectator_port + low
                dolphin_worker(part, dolphin, cpu_levels[low], port, action_repeat, max_episode_frames, *pipes)

        self._forks = ForkServer(work)
        try:
            for low, high in self._slices:
                self._workers.append(self._forks.start(low, high, ready=not dolphin, boot_timeout=self._boot_timeout))
            while not all(worker.ready for worker in self._workers):
                self._await_boots(.1)
        except BaseException:
            self.close()
            raise

    @property
    def _boot_timeout(self) -> float:
        return self.dolphin.boot_timeout + 30 if self.dolphin else 0.       # the worker itself notices first

    def step(self, controllers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Applies controllers CONTROLLER [N, 2] (slots of bots are ignored) for `action_repeat` frames."""
        self.controllers[:] = controllers
        self.broken[:] = False
        if not self.num_workers:
            self.games.step(self.action_repeat, self.max_episode_frames)
            return self.games.terminated, self.games.truncated, self.broken
        if self._threads:
            parts = [self.games.slice(low, high) for low, high in self._slices]
            list(self._threads.map(lambda part: part.step(self.action_repeat, self.max_episode_frames), parts))
            return self.games.terminated, self.games.truncated, self.broken
        self._before = self.frames.tobytes()
        playing = [k for k, worker in enumerate(self._workers) if worker.ready]
        for k in range(self.num_workers):
            if k in playing:
                self._workers[k].send()
            else:
                self._mark_broken(k)
        deadline = time.monotonic() + self.timeout
        for k in playing:
            trouble = self._workers[k].wait(max(0., deadline - time.monotonic()))
            if trouble is not None:
                self._replace(k, trouble)
            elif self._workers[k].left:
                self._mark_broken(k)
                self._count_departure(k)
            elif self.games.terminated[k] or self.games.truncated[k]:
                self._departures[k] = 0
        if self.dolphin:
            # Between two games there are only menus and a countdown: worth a moment's wait, unlike the start of a
            # Dolphin.
            moment = time.monotonic() + 1
            while any(not self._workers[k].ready for k in playing) and time.monotonic() < moment:
                self._await_boots(.01)
            self._await_boots(0)
            while not any(worker.ready for worker in self._workers):
                self._await_boots(.1)
        if self._resumed:                                               # no Dolphin can go on where another one stopped
            for k in range(self.num_workers):
                self._mark_broken(k)
            self._resumed = False
        return self.games.terminated, self.games.truncated, self.broken

    def set_bot(self, game: int, player: int, kind: int) -> None:
        """Seats a scripted bot (of BOTS; 0: none) from now on. For a game that has just begun."""
        for bots in (self.games.bot_kinds, self.games.bots["kind"]):
            bots[game] = 0
            bots[game, player] = kind

    def set_matchup(self, games: np.ndarray, characters: np.ndarray, stages: np.ndarray) -> None:
        """Characters [n, 2] and stages [n] of these slots from their next games on; the games that run are not
        touched."""
        self.games.characters[games], self.games.stages[games] = characters, stages

    def _mark_broken(self, k: int) -> None:
        low, high = self._slices[k]
        part = self.games.slice(low, high)
        part.terminated[:], part.truncated[:] = False, True
        self.broken[low:high] = True
        part.final_frames[:] = np.frombuffer(self._before, FRAME)[low:high]  # what the worker left may be half written

    def _count_departure(self, k: int) -> None:
        """A game on Dolphin ended without a winner. Somebody who leaves them all would keep us waiting for ever."""
        self._departures[k] += 1
        if self._departures[k] == MAX_DEPARTURES:
            raise UserError(f"game {k} was left before its end {MAX_DEPARTURES} times in a row; nobody wants to play")
        self.log(f"game {k} was left before its end: no contest, the next one begins")

    def _await_boots(self, timeout: float) -> None:
        """Waits up to `timeout` seconds for games that are on their way; those that are there show their first
        frame."""
        waiting = {worker.reply: k for k, worker in enumerate(self._workers) if not worker.ready}
        poll = select.poll()
        for reply in waiting:
            poll.register(reply, select.POLLIN)
        arrived = {waiting[reply] for reply, _ in poll.poll(timeout * 1000)} if waiting else set()
        for k in waiting.values():
            worker = self._workers[k]
            trouble = None
            if k in arrived:
                trouble = worker.wait(0) or worker.publish(self.timeout)
            elif time.monotonic() > worker.boot_deadline:
                trouble = f"did not start within {self._boot_timeout:.0f} s"
            else:
                continue
            if trouble is None:
                self._boot_failures[k] = 0
                continue
            self._boot_failures[k] += 1
            if self._boot_failures[k] >= 3:
                raise UserError(f"worker {k} failed to start three times in a row; the last time it {trouble.strip()}")
            self._replace(k, trouble)

    def _replace(self, k: int, trouble: str) -> None:
        low, high = self._slices[k]
        self.restarts += 1
        self._workers[k].kill()
        self._failed_at = [at for at in self._failed_at if at > time.monotonic() - 3600] + [time.monotonic()]
        if len(self._failed_at) > self.max_restarts:
            raise UserError(f"workers failed more than {self.max_restarts} times within an hour (--max-restarts); the "
                            f"last one, worker {k}, {trouble.strip().splitlines()[-1]}")
        self.log(f"worker {k} (games {low} to {high - 1}) {trouble.strip()}; replaced, its games are truncated")
        if self._before:
            self._mark_broken(k)
        if not self.dolphin:
            self.games.slice(low, high).reset(np.ones(high - low, bool))
        self._workers[k] = self._forks.start(low, high, ready=not self.dolphin, boot_timeout=self._boot_timeout)

    def state_dict(self) -> dict:
        """Everything that decides how the games go on, as bytes; with a digest, since the compiled rules believe every
        byte. A game on Dolphin cannot be saved: its next one takes its place."""
        state = {name: torch.from_numpy(np.frombuffer(getattr(self.games, name).tobytes(), np.uint8).copy())
                 for name in Games.LAYOUT}
        return state | {"digest": self._digest(state)}

    @staticmethod
    def _digest(state: dict) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for name in Games.LAYOUT:
            digest.update(state[name].numpy())
        return digest.hexdigest()

    def load_state_dict(self, state: dict) -> None:
        check_state({"digest": "", **state}, self.state_dict(), "envs")     # an older one has none
        if state.get("digest", self._digest(state)) != self._digest(state):
            raise ValueError("envs are not what was saved")
        self._resumed = bool(self.dolphin)
        for name in ("seed", "episode") if self.dolphin else Games.LAYOUT:
            array, data = getattr(self.games, name), state[name].numpy().tobytes()
            array[:] = np.frombuffer(data, array.dtype).reshape(array.shape)

    def close(self) -> None:
        if self._threads is not None:
            self._threads.shutdown()
        for worker in self._workers:
            worker.kill()
        self._workers = []
        if self._forks is not None:
            self._forks.close()
            self._forks = None

    def __enter__(self) -> "VecEnv":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def matchups(combinations: list[tuple[str, str, str]], games: np.ndarray,
             port: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(own character, opponent's, stage) by name, e.g. of `parse_matchups` -> characters [N, 2] and stages [N] of the
    games numbered games [N], in which one's own port is port [N] (0 or 1). They take turns, each from either port."""
    chosen = [combinations[g // 2 % len(combinations)] for g in games]
    characters = np.array([(CHARACTERS[own], CHARACTERS[opponent]) for own, opponent, _ in chosen])
    stages = np.array([STAGES[stage] for _, _, stage in chosen])
    return np.where(port[:, None] == 0, characters, characters[:, ::-1]), stages


# ---------------------------------------------------------------------------------------------------------------------
# Matches between policies
# ---------------------------------------------------------------------------------------------------------------------

BOT_SLOT = -1                                                           # in `assignment`: the game's own bot plays here


class StackedPolicies:
    """Networks of one shape, side by side: a single batched forward acts for all of them. Their weights are copied
    here, so make a new one when they have learnt."""

    def __init__(self, policies: list[Policy]):
        columns = zip(*(policy.parameters() for policy in policies), strict=True)
        names = [name for name, _ in policies[0].named_parameters()]
        self.params = {name: torch.stack([p.detach() for p in column])
                       for name, column in zip(names, columns, strict=True)}
        # Buffers are columns of the observation, the same in all of them.
        skeleton, buffers = copy.deepcopy(policies[0]).to("meta"), dict(policies[0].named_buffers())
        self.forward = torch.vmap(lambda params, floats, ints, state, noise: torch.func.functional_call(
            skeleton, (params, buffers), (Observation(floats, ints), state, noise)))

    def act(self, obs: list[Observation], states: list[tuple], noise: list[torch.Tensor]) -> list[tuple]:
        """For each policy its observations [B_k, ...], state and noise [B_k, 81] -> for each what its own `act`
        gives."""
        sizes = [len(x) for x in noise]

        def pad(tensors):
            return torch.stack([F.pad(x, (0, 0) * (x.dim() - 1) + (0, max(sizes) - len(x))) for x in tensors])

        actions, new, logprobs, values = self.forward(
            self.params, pad([o.floats for o in obs]), pad([o.ints for o in obs]),
            tuple(pad(parts) for parts in zip(*states, strict=True)), pad(noise))
        return [(actions[k, :size], tuple(s[k, :size] for s in new), logprobs[k, :size], values[k, :size])
                for k, size in enumerate(sizes)]


def act(policies: list[Policy], assignment: np.ndarray, obs: Observation, states: list[tuple], resets: np.ndarray,
        generator: torch.Generator | None, stacked: StackedPolicies | None = None, learners: int = 0,
        told: np.ndarray | None = None) -> np.ndarray:
    """One frame of play for every slot: one forward per distinct policy, over all its games and ports.

    obs is as deep as the latest of them sees; each is shown as much as it was trained to see. assignment [N, 2] says
    which policy of `policies` plays a slot (BOT_SLOT: none). states[k] is the recurrent state of policy k for all 2N
    slots, updated in place of the list; resets [N] marks games that begin with this frame.
    generator None: the most likely action. `stacked` (of the same policies): one forward in all, with the same noise.
    The first `learners` policies write the log-probabilities of their actions and their values into told [2, N, 2].
    Returns actions int8 [N, 2, 13]."""
    n = len(assignment)
    flat = Observation(obs.floats.reshape(2 * n, -1), obs.ints.reshape(2 * n, -1))
    actions = np.tile(NEUTRAL_ACTION, (2 * n, 1))
    slot_resets = torch.from_numpy(np.repeat(resets, 2)) if resets.any() else None
    seats = []                                                         # policy, its rows, what it sees, state and noise
    for k in range(len(policies)):
        if slot_resets is not None:
            states[k] = reset_state(states[k], slot_resets)
        rows = np.flatnonzero(assignment.reshape(-1) == k)
        everyone = len(rows) == 2 * n
        mine = flat if everyone else Observation(flat.floats[rows], flat.ints[rows])
        if policies[k].num_floats < mine.floats.shape[1]:
            mine = Observation(np.ascontiguousarray(mine.floats[:, :policies[k].num_floats]), mine.ints)
        state = states[k] if everyone else tuple(s[torch.from_numpy(rows)] for s in states[k])
        noise = None if generator is None else torch.rand(len(rows), NUM_LOGITS, generator=generator)
        seats.append((k, rows, to_torch(mine), state, noise))
    if stacked is None:
        seats = [seat for seat in seats if len(seat[1])]
        chosen = [(policies[k].act if k < learners else policies[k].step)(mine, state, noise)
                  for k, _, mine, state, noise in seats]
    else:
        chosen = stacked.act(*(list(column) for column in list(zip(*seats, strict=True))[2:]))
    for (k, rows, *_), (choice, new, *judged) in zip(seats, chosen, strict=True):
        actions[rows] = choice.numpy()
        states[k] = new if len(rows) == 2 * n else tuple(
            old.index_copy(0, torch.from_numpy(rows), part) for old, part in zip(states[k], new, strict=True))
        if k < learners:
            told.reshape(2, 2 * n)[:, rows] = torch.stack(judged).numpy()
    return actions.reshape(n, 2, ACTION_SIZE)


def swap_policy(policies: list[Policy], assignment: np.ndarray, states: list[tuple], game: int, port: int,
                policy: Policy) -> None:
    """Hands a slot of a running game to another policy, such as `pool.load(id)`; all three of `act`'s arguments are
    updated in place. Only this slot's recurrent state begins anew: the policy may be playing other slots already, in
    mid-game."""
    known = [k for k, p in enumerate(policies) if p is policy]
    if not known:
        policies.append(policy)
        states.append(policy.initial_state(assignment.size))
    k = known[0] if known else len(policies) - 1
    resets = torch.zeros(assignment.size, dtype=torch.bool)
    resets[2 * game + port] = True
    states[k] = reset_state(states[k], resets)
    assignment[game, port] = k


def play_games(policies: list[Policy], envs: VecEnv, assignment: np.ndarray, generator: torch.Generator | None,
               watch=lambda actions, before, after, running: None) -> np.ndarray:
    """Every slot of `envs` plays one game to its end -> the final frames [N] (one game a slot: short games are not
    favoured). `watch` is shown every step's actions [N, 2, 13], frames [N] before and after it (of games that end in
    it their last) and which games still run [N]. All policies must act equally late."""
    n, delays = envs.num_games, {policy.frame_delay for policy in policies}
    if len(delays) > 1:
        raise UserError(f"policies that act {' and '.join(map(str, sorted(delays)))} frames late cannot be measured in "
                        "the same games; choose those of one delay")
    pending = Pending(n, *delays, envs.action_repeat)
    states = [p.initial_state(2 * n) for p in policies]
    final, running, resets = envs.frames.copy(), np.ones(n, bool), np.ones(n, bool)
    with torch.inference_mode():
        while running.any():
            obs = observe(envs.frames, envs.controllers, pending.frames)
            actions = act(policies, assignment, obs, states, resets, generator)
            before = np.frombuffer(envs.frames.tobytes(), FRAME)
            chosen = decode_actions(actions, mirrored(envs.frames))
            terminated, truncated, broken = envs.step(pending.push(chosen))
            resets = terminated | truncated
            after = np.where(resets, envs.final_frames, envs.frames) if resets.any() else envs.frames
            watch(actions, before, after, running)
            pending.reset(resets)
            ended = resets & running & ~broken
            final[ended] = envs.final_frames[ended]
            running &= ~ended
    return final


# ---------------------------------------------------------------------------------------------------------------------
# Checkpoints: one file that rebuilds everything, and that nothing is run from
# ---------------------------------------------------------------------------------------------------------------------

CHECKPOINT_FORMAT = 2
CHECKPOINT_FIELDS = {"format": int, "schema": str, "versions": dict, "config": dict, "policy": dict}
OPTIONAL_FIELDS = {"stage": str, "step": int, "iteration": int, "epoch": int, "args": dict, "metrics": dict}
_THREADS = torch.get_num_threads()                                          # before learners share them out


def machine() -> dict[str, str]:
    """What decides the last bit of a sum, and with it a learning curve: versions, torch's threads, instructions."""
    return versions() | {"torch threads": str(_THREADS), "instructions": torch.backends.cpu.get_cpu_capability()}


def save_checkpoint(path: str | Path, policy: Policy, **extra) -> Path:
    """One file that rebuilds everything: tensors, numbers, strings, lists and dicts only, so that `weights_only` loads
    it."""
    path = Path(path)
    if taken := extra.keys() & (CHECKPOINT_FIELDS.keys() | policy.config.keys()):
        raise ValueError(f"{', '.join(taken)}: a policy's own, or in its config")
    data = {"format": CHECKPOINT_FORMAT, "schema": schema_hash(), "versions": machine(), "config": policy.config,
            "policy": policy.state_dict(), **extra}
    _check_finite(data["policy"], f"{path}: not written: ")
    buffer = io.BytesIO()
    torch.save(data, buffer)
    atomic_write(path, buffer.getbuffer())
    return path


def _check_finite(weights: dict[str, torch.Tensor], what: str) -> None:
    if not all(torch.isfinite(x).all() for x in weights.values()):
        raise UserError(f"{what}the weights are no longer finite numbers; lower the learning rate or choose another "
                        "checkpoint")


def best_checkpoint(path: str | Path) -> Path:
    """Of a run folder its best checkpoint, else its latest; a file is taken as it is."""
    kept = [Path(path) / "checkpoints" / name for name in ("best.pt", "latest.pt")]
    return next((file for file in kept if file.is_file()), Path(path))


def load_checkpoint(path: str | Path) -> dict:
    """Reads a checkpoint without running anything in it -> plain values of which those in CHECKPOINT_FIELDS and
    OPTIONAL_FIELDS have their types, and of which `config` and `policy` make a policy. UserError says what is wrong and
    what to do. What else a script has put into it is plain values too, but unchecked."""
    path = best_checkpoint(path)
    if not os.path.lexists(path):
        raise UserError(f"{path}: no such checkpoint file; check the path")
    unreadable = (f"{path}: not a readable CleanMelee checkpoint (damaged, or of another program); choose another file "
                  "or train a new one")
    damaged = f"{path}: damaged, choose another file; its"
    try:
        archive = open_archive(read_file(path))
        size = len(archive.getbuffer())
        data = torch.load(archive, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception:  # zipfile, pickletools and torch raise a dozen types for a file that is not their own
        raise UserError(unreadable) from None
    _check_values(data, damaged)
    if type(data) is not dict or not CHECKPOINT_FIELDS.keys() <= data.keys():
        raise UserError(unreadable)
    made_with = data["versions"]
    revision = printable(made_with.get("git", "unknown") if type(made_with) is dict else "unknown", 100)
    if type(data["format"]) is int and data["format"] != CHECKPOINT_FORMAT:
        raise UserError(f"{path}: checkpoint format {data['format']}, this code reads {CHECKPOINT_FORMAT}; train it "
                        f"anew or check out the revision it was made with ({revision})")
    for name, kind in (CHECKPOINT_FIELDS | OPTIONAL_FIELDS).items():
        value = data.get(name, kind())
        if not isinstance(value, kind) or kind is int and (type(value) is bool or not 0 <= value < 2 ** 63):
            raise UserError(f"{damaged} {name} is not what this program writes")
    if data["schema"] != schema_hash():
        raise UserError(f"{path}: made for frame schema {printable(data['schema'], 40)}, this code has "
                        f"{schema_hash()}; train it anew or check out the revision it was made with ({revision})")
    _check_weights(data["policy"], data["config"], size, damaged)
    _check_finite(data["policy"], f"{path}: ")
    return data


def _check_values(data, damaged: str) -> None:
    """Raises UserError unless `data` is plain values in dicts, lists and tuples, not nested too deeply, also if what
    occurs several times is counted every time, and tensors that are as large as they say."""
    waiting = [(data, 0)]
    seen = 0
    while waiting:
        value, depth = waiting.pop()
        seen += 1
        if depth > DEEPEST or seen + len(waiting) > MOST_OPCODES:
            raise UserError(f"{damaged} values are nested too deeply or refer to each other")
        if isinstance(value, dict):                                         # also an OrderedDict
            waiting += [(x, depth + 1) for pair in value.items() for x in pair]
        elif type(value) in (list, tuple):
            waiting += [(x, depth + 1) for x in value]
        elif type(value) is torch.Tensor:
            if value.layout is not torch.strided or value.nbytes > value.untyped_storage().nbytes():
                raise UserError(f"{damaged} tensors are larger than what it holds")
        elif type(value) is int and not -2 ** 63 <= value < 2 ** 64:
            raise UserError(f"{damaged} values include a number of more than 64 bits")


@functools.lru_cache(maxsize=64)
def _layout(hidden: tuple[int, ...], **config) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Names, shapes and types of a policy's weights. It is not built for that: a file may ask for any size."""
    with torch.device("meta"):
        return {name: (x.shape, x.dtype) for name, x in Policy(hidden=hidden, **config).state_dict().items()}


def _check_weights(weights: dict, config: dict, size: int, damaged: str) -> None:
    """Raises UserError unless `weights` has the tensors of a Policy(**config). size: bytes of the whole file."""
    try:
        hidden, num_layers = config["hidden"], config.get("num_layers", 1)
        if type(hidden) is not list or not all(type(n) is int for n in [*hidden, num_layers]):
            raise ValueError
        options = config.keys() - {"backbone", "hidden", "action_repeat", "frame_delay"}
        if not options <= OPTIONS.keys() or max(len(hidden), num_layers) > len(weights):            # a weight a layer
            raise ValueError
        check_timing(config["action_repeat"], config["frame_delay"])
        expected = _layout(**config | {"hidden": tuple(hidden)})
    except UserError as error:
        raise UserError(f"{damaged} config makes no policy here: {error}") from None
    except (KeyError, TypeError, ValueError, RuntimeError):
        raise UserError(f"{damaged} config {printable(config, 200)} is none of this code's") from None
    for name in expected.keys() | weights.keys():
        theirs = weights.get(name)
        if type(theirs) is not torch.Tensor or expected.get(name) != (theirs.shape, theirs.dtype):
            raise UserError(f"{damaged} weights do not fit its own sizes ({printable(name, 100)})")
    if sum(x.nbytes for x in weights.values()) > size:
        raise UserError(f"{damaged} weights lie in each other")


@torch.no_grad()
def _check_plays(policy: Policy, what: str) -> None:
    """Raises UserError unless what the policy answers is finite wherever it looks: at every row of its tables, and at
    floats beyond those of a game."""
    rows = torch.arange(max(NUM_ACTIONS, NUM_CHARACTERS, NUM_STAGES, NUM_ITEM_TYPES))[:, None]
    for k in rows.split(64):                                                # of what a large policy remembers
        ints = torch.minimum(k, torch.from_numpy(INT_LIMITS)).short()                               # [rows, I]
        obs = Observation((10. * (k % 3 - 1)).repeat(1, policy.num_floats), ints)                   # -10, 0, 10
        actions = k % torch.tensor([2] * NUM_BUTTONS + [NUM_STICK] * 4 + [NUM_SHOULDER])            # [rows, 13]
        state = policy.initial_state(len(k))
        for _ in range(2):
            features, state = policy.features(obs, state)
            for x in (policy.value(features), policy.logits(features, actions), *state):
                if not torch.isfinite(x).all():
                    raise UserError(f"{what}its weights are so large that its answers are no finite numbers; choose "
                                    "another checkpoint")


def load_policy(path: str | Path) -> tuple[Policy, dict]:
    """-> the policy in eval mode, and the whole checkpoint."""
    data = load_checkpoint(path)
    policy = Policy(**data["config"]).eval()
    policy.load_state_dict(data["policy"])
    _check_plays(policy, f"{path}: ")
    return policy, data

"""What every stage of CleanMelee shares: frames, replays, the controller codec, observations, networks, games, checkpoints.

    one game frame                 FRAME record    (mock_melee.py; the same from a .slp file, the embedded game or Dolphin)
    observe(frames, controllers)   Observation     (floats, ints), one row for each player, seen from that player's side
    Policy.step / Policy.unroll    action indices  [.., 13]: eight buttons, main x/y, c x/y, shoulder
    decode_actions(actions)        CONTROLLER record, which makes the next frame

Time: post[t-1] + pre[t] -> post[t]. A policy that has seen frames[t] chooses controllers[t + 1]. Every stage keeps to that.
"""

import ctypes
import hashlib
import json
import mmap
import os
import platform
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

import mock_melee
from mock_melee import (  # re-exported: the frame language
    BOTS, BUTTON_A, BUTTON_B, BUTTON_D_UP, BUTTON_L, BUTTON_R, BUTTON_X, BUTTON_Y, BUTTON_Z, CHARACTERS, CONTROLLER,
    FIRST_CONTROL_FRAME, FIRST_FRAME, FRAME, ITEM, NUM_ITEMS, PLAYER, STAGES, TIME_LIMIT,
)


class UserError(ValueError):
    """A mistake of the user's, told in one line: what is wrong, with which file or value, and what to do."""


# ---------------------------------------------------------------------------------------------------------------------
# Controller codec: CONTROLLER records <-> discrete heads. One object for labels, play, distillation and export.
# ---------------------------------------------------------------------------------------------------------------------

BUTTONS = {"A": BUTTON_A, "B": BUTTON_B, "X": BUTTON_X, "Y": BUTTON_Y, "Z": BUTTON_Z, "L": BUTTON_L, "R": BUTTON_R,
           "D_UP": BUTTON_D_UP}
BUTTON_BITS = np.array(list(BUTTONS.values()), np.int32)

# Stick positions in 1/80, the game's own step. Uniform bins would waste four of seventeen on the dead zone (|x| < 23);
# these stand on either side of the thresholds that matter: 48 side special, 49 crouch, 53 tap jump and platform drop,
# 56 spot dodge and roll, 64 dash and smash.
_HALF = np.array([23, 32, 40, 48, 55, 64, 72, 80])
STICK_GRID = np.concatenate([-_HALF[::-1], [0], _HALF]).astype(np.float32) / np.float32(80)          # [17]
SHOULDER_GRID = np.array([0, 49, 77, 105, 140], np.float32) / np.float32(140)                         # [5], light to full
NUM_BUTTONS, NUM_STICK, NUM_SHOULDER = len(BUTTONS), len(STICK_GRID), len(SHOULDER_GRID)
STICK_NEUTRAL = NUM_STICK // 2

HEADS = {"buttons": NUM_BUTTONS, "main_x": NUM_STICK, "main_y": NUM_STICK, "c_x": NUM_STICK, "c_y": NUM_STICK,
         "shoulder": NUM_SHOULDER}                      # logits of each head, in the order of sampling
NUM_LOGITS = sum(HEADS.values())                        # 81
ACTION_SIZE = NUM_BUTTONS + len(HEADS) - 1              # 13 integers: eight bits, then one index a categorical head
NEUTRAL_ACTION = np.array([0] * NUM_BUTTONS + [STICK_NEUTRAL] * 4 + [0], np.int8)


def _stick_table() -> np.ndarray:
    """[17, 17, 2] stick position of each pair of indices; outside the unit circle it is pulled in as the game does."""
    x, y = np.meshgrid(STICK_GRID, STICK_GRID, indexing="ij")
    pull = np.maximum(1.0, np.hypot(x, y))
    inside = np.trunc(np.stack([x / pull, y / pull], -1) * 80) / 80
    return np.where((pull > 1)[..., None], inside, np.stack([x, y], -1)).astype(np.float32)


STICK_TABLE = _stick_table()
_NEAREST_STICK = np.abs(np.arange(-80, 81)[:, None] / 80 - STICK_GRID).argmin(1).astype(np.int8)      # [161], by 1/80
_NEAREST_SHOULDER = np.abs(np.arange(0, 141)[:, None] / 140 - SHOULDER_GRID).argmin(1).astype(np.int8)


def encode_controllers(controllers: np.ndarray) -> np.ndarray:
    """CONTROLLER [...] -> int8 [..., 13], the nearest grid point per axis. Exact for what `decode_actions` makes of grid
    points inside the unit circle. START and the other d-pad directions have no head."""
    actions = np.empty(controllers.shape + (ACTION_SIZE,), np.int8)
    actions[..., :NUM_BUTTONS] = (controllers["buttons"][..., None] & BUTTON_BITS) != 0
    for k, axis in enumerate(("main_x", "main_y", "c_x", "c_y")):
        step = np.clip(np.rint(controllers[axis] * 80), -80, 80).astype(np.int64)
        actions[..., NUM_BUTTONS + k] = _NEAREST_STICK[step + 80]
    trigger = np.maximum(controllers["l"], controllers["r"])
    actions[..., -1] = _NEAREST_SHOULDER[np.clip(np.rint(trigger * 140), 0, 140).astype(np.int64)]
    return actions


def decode_actions(actions: np.ndarray) -> np.ndarray:
    """Integers [..., 13] -> CONTROLLER [...]. Always a legal controller: sticks lie in the unit circle."""
    controllers = np.empty(actions.shape[:-1], CONTROLLER)
    main = STICK_TABLE[actions[..., 8], actions[..., 9]]
    c = STICK_TABLE[actions[..., 10], actions[..., 11]]
    controllers["main_x"], controllers["main_y"] = main[..., 0], main[..., 1]
    controllers["c_x"], controllers["c_y"] = c[..., 0], c[..., 1]
    controllers["l"], controllers["r"] = SHOULDER_GRID[actions[..., 12]], 0
    controllers["buttons"] = actions[..., :NUM_BUTTONS].astype(np.int32) @ BUTTON_BITS
    return controllers


# ---------------------------------------------------------------------------------------------------------------------
# Observation: one gather from the frame's bytes, for both players at once
# ---------------------------------------------------------------------------------------------------------------------

class Observation(NamedTuple):
    """What a policy sees of one frame, from one player's side. Arrays or tensors; leading dimensions are free."""
    floats: np.ndarray | torch.Tensor  # [..., NUM_FLOATS] float32, scaled to about -3..3
    ints: np.ndarray | torch.Tensor    # [..., NUM_INTS] int16: indices into learned tables


# What is read of each player: (field, scale). Positions in tens of units, so that one stick-length of spacing is visible.
_PLAYER_FLOATS = [("x", .03), ("y", .03), ("self_vx_air", .5), ("self_vy", .5), ("self_vx_ground", .5), ("kb_vx", .5),
                  ("kb_vy", .5), ("facing", 1), ("percent", .01), ("shield", 1 / 60), ("hitlag", .1), ("hitstun", .05)]
_PLAYER_SMALL_INTS = [("action_frame", .03), ("stocks", .25), ("jumps", .5), ("airborne", 1), ("in_hitstun", 1),
                      ("fastfall", 1), ("hurtbox", .5)]
_ITEM_FLOATS = [("x", .03), ("y", .03), ("vx", .3), ("vy", .3), ("facing", 1)]
_ITEM_SMALL_INTS = [("present", 1), ("charge", .1)]
_CONTROLLER_FLOATS = 5 + NUM_BUTTONS                    # the own last controller, as the game processed it
NUM_ACTIONS, NUM_CHARACTERS, NUM_STAGES, NUM_ITEM_TYPES = 512, 64, 64, 256  # sizes of the learned tables


def _field(*path: str | int) -> tuple[int, np.dtype]:
    """Byte offset and type of a field inside FRAME, e.g. _field("players", 1, "x")."""
    offset, dtype = 0, FRAME
    for step in path:
        if isinstance(step, int):
            base = dtype.base
            offset, dtype = offset + step * base.itemsize, base
        else:
            dtype, shift = dtype.fields[step][:2]
            offset += shift
    return offset, dtype


def _columns(fields, width, *prefix) -> tuple[list[int], list[float]]:
    return [_field(*prefix, name)[0] // width for name, _ in fields], [scale for _, scale in fields]


def _gather_plan():
    """Column numbers [2 players, n] into a frame seen as float32 and as int16, and their scales, from either side."""
    floats, smalls, ints = [], [], []
    for me in (0, 1):
        f, fs, s, ss, i = [], [], [], [], []
        for who in (me, 1 - me):
            c, k = _columns(_PLAYER_FLOATS, 4, "players", who)
            f, fs = f + c, fs + k
            c, k = _columns(_PLAYER_SMALL_INTS, 2, "players", who)
            s, ss = s + c, ss + k
            i += [_field("players", who, name)[0] // 2 for name in ("action", "character")]
        i.append(_field("stage")[0] // 2)
        f, fs = f + [_field(name)[0] // 4 for name in ("platform_left", "platform_right")], fs + [.03, .03]
        for slot in range(NUM_ITEMS):
            c, k = _columns(_ITEM_FLOATS, 4, "items", slot)
            f, fs = f + c, fs + k
            c, k = _columns(_ITEM_SMALL_INTS, 2, "items", slot)
            s, ss = s + c, ss + k
            i.append(_field("items", slot, "type")[0] // 2)
        floats.append(f), smalls.append(s), ints.append(i)
    return (np.array(floats), np.array(fs, np.float32), np.array(smalls), np.array(ss, np.float32), np.array(ints))


_FLOAT_COLUMNS, _FLOAT_SCALES, _SMALL_COLUMNS, _SMALL_SCALES, _INT_COLUMNS = _gather_plan()
_NUM_FRAME_FLOATS, _NUM_SMALL = _FLOAT_COLUMNS.shape[1], _SMALL_COLUMNS.shape[1]
_RELATIVE = _NUM_FRAME_FLOATS + _NUM_SMALL                  # opponent minus own position, then each item's owner
_OWNER_COLUMNS = np.array([_field("items", slot, "owner")[0] // 2 for slot in range(NUM_ITEMS)])
_OWNED = _RELATIVE + 2
_CONTROLLER = _OWNED + NUM_ITEMS
NUM_FLOATS = _CONTROLLER + _CONTROLLER_FLOATS
NUM_INTS = _INT_COLUMNS.shape[1]
_INT_LIMITS = np.array([NUM_ACTIONS, NUM_CHARACTERS] * 2 + [NUM_STAGES] + [NUM_ITEM_TYPES] * NUM_ITEMS, np.int16) - 1
_OPPONENT_X = len(_PLAYER_FLOATS)


def observe(frames: np.ndarray, controllers: np.ndarray) -> Observation:
    """FRAME [N] and the CONTROLLER [N, 2] that made them -> Observation with floats [N, 2, F] and ints [N, 2, I].

    Row [n, p] is frame n as player p sees it: itself first, then the opponent. The own last controller is part of it,
    because a button acts when it goes down: a policy must know what it holds. The opponent's controller is not."""
    n = len(frames)
    frames = np.ascontiguousarray(frames)
    as_floats = frames.view(np.float32).reshape(n, -1)
    as_ints = frames.view(np.int16).reshape(n, -1)
    floats = np.empty((n, 2, NUM_FLOATS), np.float32)
    np.multiply(as_floats[:, _FLOAT_COLUMNS], _FLOAT_SCALES, out=floats[..., :_NUM_FRAME_FLOATS])
    np.multiply(as_ints[:, _SMALL_COLUMNS], _SMALL_SCALES, out=floats[..., _NUM_FRAME_FLOATS:_RELATIVE])
    floats[..., _RELATIVE:_OWNED] = floats[..., _OPPONENT_X:_OPPONENT_X + 2] - floats[..., 0:2]
    owner = as_ints[:, _OWNER_COLUMNS]                                                               # [N, items]
    floats[:, 0, _OWNED:_CONTROLLER] = owner == 0
    floats[:, 1, _OWNED:_CONTROLLER] = owner == 1
    for k, axis in enumerate(("main_x", "main_y", "c_x", "c_y")):
        floats[..., _CONTROLLER + k] = controllers[axis]
    floats[..., _CONTROLLER + 4] = np.maximum(controllers["l"], controllers["r"])
    floats[..., _CONTROLLER + 5:] = (controllers["buttons"][..., None] & BUTTON_BITS) != 0
    ints = np.clip(as_ints[:, _INT_COLUMNS], 0, _INT_LIMITS)
    return Observation(floats, ints)


def schema_hash() -> str:
    """Changes whenever a checkpoint's inputs or outputs would mean something else."""
    parts = [FRAME.descr, CONTROLLER.descr, _PLAYER_FLOATS, _PLAYER_SMALL_INTS, _ITEM_FLOATS, _ITEM_SMALL_INTS,
             list(BUTTONS), STICK_GRID.tolist(), SHOULDER_GRID.tolist(), list(HEADS), NUM_FLOATS, NUM_INTS]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


# ---------------------------------------------------------------------------------------------------------------------
# Policy: embedding -> backbone -> value, and controller heads sampled one after the other
# ---------------------------------------------------------------------------------------------------------------------

# Sampled at 60 Hz, Bernoulli(.5) buttons are mashing and uniform sticks tremble on the spot. A fresh policy therefore
# starts near how often people hold each button and where their sticks rest.
_INITIAL_PRESS = {"A": .06, "B": .05, "X": .05, "Y": .03, "Z": .01, "L": .03, "R": .03, "D_UP": .001}
_INITIAL_NEUTRAL = {"main_x": .35, "main_y": .6, "c_x": .96, "c_y": .96}  # the rest: half on full tilt, half between
_INITIAL_NO_SHOULDER = .92
BACKBONES = ("mlp", "gru")


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


def _linear(n_in: int, n_out: int, gain: float = 2 ** .5, bias: bool = True) -> nn.Linear:
    layer = nn.Linear(n_in, n_out, bias=bias)
    nn.init.orthogonal_(layer.weight, gain)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


class Embedding(nn.Module):
    """Observation [..., ] -> [..., size]: learned tables for ids, items pooled so that slot order does not matter."""

    def __init__(self, action_dim: int = 32, character_dim: int = 8, item_dim: int = 16):
        super().__init__()
        self.action = nn.Embedding(NUM_ACTIONS, action_dim)
        self.character = nn.Embedding(NUM_CHARACTERS, character_dim)
        self.stage = nn.Embedding(NUM_STAGES, character_dim)
        self.item_type = nn.Embedding(NUM_ITEM_TYPES, item_dim)
        for table in (self.action, self.character, self.stage, self.item_type):
            nn.init.normal_(table.weight, std=.3)
        item, small = len(_ITEM_FLOATS), len(_ITEM_SMALL_INTS)
        self.item = _linear(item + small + 1, item_dim)
        n_player_floats = 2 * len(_PLAYER_FLOATS) + 2                       # then the items' floats
        n_player_small = 2 * len(_PLAYER_SMALL_INTS)                        # then the items' integers
        columns = np.arange(NUM_FLOATS)
        item_columns = np.concatenate([
            columns[n_player_floats:_NUM_FRAME_FLOATS].reshape(NUM_ITEMS, item),
            columns[_NUM_FRAME_FLOATS + n_player_small:_RELATIVE].reshape(NUM_ITEMS, small),
            columns[_OWNED:_CONTROLLER].reshape(NUM_ITEMS, 1)], 1)          # [items, features]
        other = np.setdiff1d(columns, item_columns.ravel())
        self.register_buffer("item_columns", torch.from_numpy(item_columns.ravel()), persistent=False)
        self.register_buffer("other_columns", torch.from_numpy(other), persistent=False)
        self.present = len(_ITEM_FLOATS)                                    # which item feature says "present"
        self.size = len(other) + 2 * (action_dim + character_dim) + character_dim + item_dim

    def forward(self, obs: Observation) -> torch.Tensor:
        floats, ints = obs.floats, obs.ints.int()
        items = floats.index_select(-1, self.item_columns).unflatten(-1, (NUM_ITEMS, -1))       # [..., items, f]
        embedded = F.relu(self.item(items) + self.item_type(ints[..., 5:]))                     # [..., items, E]
        pooled = (embedded * items[..., self.present, None]).sum(-2)                            # [..., E]
        return torch.cat([
            floats.index_select(-1, self.other_columns),
            self.action(ints[..., 0:4:2]).flatten(-2), self.character(ints[..., 1:4:2]).flatten(-2),
            self.stage(ints[..., 4]), pooled], -1)


class ControllerHead(nn.Module):
    """Autoregressive controller: each head sees the features plus a zero-initialised residual of what was sampled before
    it. Independent heads cannot press B with a direction; the residual starts at nothing and learns that."""

    def __init__(self, n_in: int, width: int = 128):
        super().__init__()
        self.project = _linear(n_in, width)
        self.logits = nn.ModuleDict({name: _linear(width, n, .01) for name, n in HEADS.items()})
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

    def sample(self, features: torch.Tensor, noise: torch.Tensor | None) -> torch.Tensor:
        """features [B, H], uniform noise [B, 81] in (0, 1) or None for the most likely -> actions [B, 13] int64."""
        seen = self.project(features)
        offset = NUM_BUTTONS
        logits = self.logits["buttons"](F.relu(seen))
        if noise is not None:
            noise = noise.clamp(1e-6, 1 - 1e-6)                             # float32 cannot tell 1 - 1e-8 from 1
            logits = logits + torch.logit(noise[:, :offset])                # logistic noise: a Bernoulli sample
            gumbel = -torch.log(-torch.log(noise[:, offset:]))              # Gumbel noise: a categorical sample
        pressed = logits > 0
        seen = seen + self.seen_buttons(pressed.to(features.dtype))
        actions = [pressed.long()]
        for name, size in list(HEADS.items())[1:]:
            logits = self.logits[name](F.relu(seen))
            if noise is not None:
                logits = logits + gumbel[:, offset - NUM_BUTTONS:offset - NUM_BUTTONS + size]
            offset += size
            choice = logits.argmax(-1)
            if name in self.seen:
                seen = seen + self.seen[name](choice)
            actions.append(choice[:, None])
        return torch.cat(actions, -1)


def action_logprobs(logits: torch.Tensor, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """logits [..., 81], actions [..., 13] -> log-probability and entropy per head, [..., 6] each.

    The entropy of a later head is that of its distribution given the earlier heads' actual choice."""
    buttons, sticks, shoulder = logits.split([NUM_BUTTONS, 4 * NUM_STICK, NUM_SHOULDER], -1)
    pressed = actions[..., :NUM_BUTTONS].to(logits.dtype)
    softplus = F.softplus(buttons)
    logprobs = [(buttons * pressed - softplus).sum(-1, keepdim=True)]
    entropies = [(softplus - buttons * buttons.sigmoid()).sum(-1, keepdim=True)]
    index = actions[..., NUM_BUTTONS:].long()
    for block, choice in ((sticks.unflatten(-1, (4, NUM_STICK)), index[..., :4]), (shoulder[..., None, :], index[..., 4:])):
        log_p = block.log_softmax(-1)                                       # [..., heads, n]
        logprobs.append(log_p.gather(-1, choice[..., None])[..., 0])
        entropies.append(-(log_p.exp() * log_p).sum(-1))
    return torch.cat(logprobs, -1), torch.cat(entropies, -1)


class Policy(nn.Module):
    """One interface for every backbone. `unroll` learns over time, `step` acts on one frame, and they agree.

    State is explicit: a flat tuple of tensors [B, ...], empty for the mlp. `config` rebuilds the policy."""

    def __init__(self, backbone: str = "mlp", hidden: tuple[int, ...] = (512, 512)):
        super().__init__()
        if backbone not in BACKBONES:
            raise UserError(f"unknown backbone {backbone!r}: choose one of {', '.join(BACKBONES)}")
        if not hidden or any(n < 1 for n in hidden):
            raise UserError(f"hidden sizes must be positive whole numbers, got {hidden}")
        self.config = {"backbone": backbone, "hidden": list(hidden)}
        self.embedding = Embedding()
        sizes = [self.embedding.size, *hidden]
        dense = sizes if backbone == "mlp" else sizes[:-1] if len(hidden) > 1 else [sizes[0], hidden[-1]]
        self.trunk = nn.Sequential(*[m for a, b in zip(dense[:-1], dense[1:], strict=True) for m in (_linear(a, b), nn.ReLU())])
        self.gru = nn.GRU(dense[-1], hidden[-1]) if backbone == "gru" else None
        if self.gru is not None:
            for name, p in self.gru.named_parameters():
                nn.init.orthogonal_(p) if "weight" in name else nn.init.zeros_(p)
        width = hidden[-1] + (dense[-1] if self.gru is not None else 0)     # a skip past the GRU
        self.value_head = _linear(width, 1, 1.)
        self.controller_head = ControllerHead(width)

    def initial_state(self, batch: int) -> tuple[torch.Tensor, ...]:
        return () if self.gru is None else (torch.zeros(batch, self.gru.hidden_size, device=self.device),)

    @property
    def device(self) -> torch.device:
        return self.value_head.weight.device

    def unroll(self, obs: Observation, state: tuple, resets: torch.Tensor) -> tuple[torch.Tensor, tuple]:
        """obs [T, B, ...], state at the start, resets [T, B] (True: obs[t] begins a game, the state before it is cleared)
        -> features [T, B, H], the state after the last frame."""
        x = self.trunk(self.embedding(obs))                                 # [T, B, D]
        if self.gru is None:
            return x, ()
        h = state[0]
        # One fused call for each stretch of frames in which no row resets: several times faster than a loop of cells.
        starts = sorted({0, *resets.any(1).nonzero().flatten().tolist()})
        outputs = []
        for a, b in zip(starts, starts[1:] + [len(x)], strict=True):
            h = h * (~resets[a]).to(x.dtype)[:, None]
            y, h = self.gru(x[a:b], h[None])
            h = h[0]
            outputs.append(y)
        return torch.cat([x, torch.cat(outputs)], -1), (h,)

    def features(self, obs: Observation, state: tuple) -> tuple[torch.Tensor, tuple]:
        """One frame: obs [B, ...] -> features [B, H], new state. Equals `unroll` over one frame without a reset."""
        x = self.trunk(self.embedding(obs))
        if self.gru is None:
            return x, ()
        h = torch.gru_cell(x, state[0], self.gru.weight_ih_l0, self.gru.weight_hh_l0, self.gru.bias_ih_l0, self.gru.bias_hh_l0)
        return torch.cat([x, h], -1), (h,)

    def step(self, obs: Observation, state: tuple, noise: torch.Tensor | None) -> tuple[torch.Tensor, tuple]:
        """obs [B, ...], uniform noise [B, 81] (None: the most likely action) -> actions [B, 13], new state."""
        features, state = self.features(obs, state)
        return self.controller_head.sample(features, noise), state

    def value(self, features: torch.Tensor) -> torch.Tensor:
        return self.value_head(features)[..., 0]

    def logits(self, features: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        return self.controller_head(features, actions)


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
    if not sizes or min(sizes) < 1:
        raise UserError(f"--hidden {text!r}: give layer sizes as whole numbers separated by commas, e.g. 512,512")
    return sizes


# ---------------------------------------------------------------------------------------------------------------------
# Rewards, advantages, outcomes, intervals
# ---------------------------------------------------------------------------------------------------------------------

def compute_rewards(before: np.ndarray, after: np.ndarray, stock: float, damage: float) -> np.ndarray:
    """FRAME [N] before and after a step -> rewards [N, 2] float32, zero-sum: `stock` for a stock taken, `damage` for each
    percent dealt. A percent that falls (a respawn) is no damage."""
    a, b = after["players"], before["players"]
    lost = (b["stocks"] - a["stocks"]).astype(np.float32) * np.float32(stock)
    lost += np.maximum(a["percent"] - b["percent"], 0) * np.float32(damage)                          # [N, 2]
    return lost[:, ::-1] - lost


def compute_gae(rewards, values, next_values, terminated, truncated, gamma: float, gae_lambda: float):
    """Generalised advantages. All arrays [T, ...]; next_values[t] is the value of the state that followed step t: where a
    game was truncated the value of its last frame, otherwise values[t + 1] or the bootstrap after the rollout.
    Termination has no next value; neither kind of ending lets advantage flow over into the next game."""
    advantages = np.zeros_like(rewards)
    running = np.zeros_like(rewards[0])
    alive = 1 - terminated.astype(np.float32)
    same_game = alive * (1 - truncated.astype(np.float32))
    deltas = rewards + gamma * next_values * alive - values
    for t in reversed(range(len(rewards))):
        running = deltas[t] + gamma * gae_lambda * same_game[t] * running
        advantages[t] = running
    return advantages


def outcomes(final_frames: np.ndarray) -> np.ndarray:
    """FRAME [N] at the end of games -> [N] +1, 0, -1 for player 0: by stocks, then by lower percent, else a draw."""
    stocks, percent = final_frames["players"]["stocks"], final_frames["players"]["percent"]
    by_stocks = np.sign(stocks[:, 0].astype(np.int64) - stocks[:, 1])
    by_percent = np.sign(percent[:, 1] - percent[:, 0]).astype(np.int64)
    return np.where(by_stocks != 0, by_stocks, by_percent)


def wilson_interval(wins: float, games: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a win rate; draws count half a win."""
    if games == 0:
        return 0., 1.
    p = wins / games
    centre = (p + z * z / (2 * games)) / (1 + z * z / games)
    half = z * (p * (1 - p) / games + z * z / (4 * games * games)) ** .5 / (1 + z * z / games)
    return max(0., centre - half), min(1., centre + half)


# ---------------------------------------------------------------------------------------------------------------------
# Vectorised games
# ---------------------------------------------------------------------------------------------------------------------

def _mix(*numbers: int) -> int:
    """A 64-bit hash of whole numbers: seeds for (run, game slot, episode) that do not depend on what happened before."""
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest(), "little")


def lookup(table: dict[str, int], name: str, what: str) -> int:
    if name not in table:
        raise UserError(f"unknown {what} {name!r}: choose one of {', '.join(sorted(table))}")
    return table[name]


class Games:
    """All that is needed to step `n` embedded games: arrays only, so that they can lie in shared memory and in checkpoints.

    The same code runs in the main process (`num_workers=0`) and in a worker, which gets the slice [low:high)."""

    LAYOUT = {"frames": FRAME, "final_frames": FRAME, "hidden": mock_melee.HIDDEN, "bots": (mock_melee.BOT, 2),
              "controllers": (CONTROLLER, 2), "characters": ("i4", 2), "bot_kinds": ("i4", 2), "stages": "i4", "episode": "i8",
              "episode_frames": "i8", "seed": "u8", "terminated": "?", "truncated": "?"}

    def __init__(self, n: int, memory: mmap.mmap | None = None):
        offset = 0
        for name, layout in self.LAYOUT.items():
            dtype, shape = (np.dtype(layout[0]), (n, layout[1])) if isinstance(layout, tuple) else (np.dtype(layout), (n,))
            count = int(np.prod(shape))
            array = np.zeros(shape, dtype) if memory is None else np.frombuffer(memory, dtype, count, offset).reshape(shape)
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
            seeds[g] = _mix(int(self.seed[g]), int(self.episode[g]))
            self.bots[g] = np.zeros(2, mock_melee.BOT)
            self.bots[g]["kind"] = self.bot_kinds[g]
            self.bots[g]["seed"] = [_mix(int(seeds[g]), player) for player in (1, 2)]
        self.episode[mask] += 1
        self.episode_frames[mask] = 0
        self.controllers[mask] = np.zeros((), CONTROLLER)
        mock_melee.reset_games(self.frames, self.hidden, mask, self.characters, self.stages, seeds)

    def step(self, action_repeat: int, max_episode_frames: int) -> None:
        """Applies self.controllers for `action_repeat` frames. A game that ends within them keeps its last frame in
        final_frames and begins anew; self.frames then hold the new game's first frame."""
        for repeat in range(action_repeat):
            if self.bot_kinds.any():
                mock_melee.bot_controllers(self.frames, self.bots, self.controllers)
            mock_melee.step_games(self.frames, self.hidden, self.controllers)
            self.episode_frames += 1
            over = mock_melee.game_over(self.frames)
            late = (self.episode_frames >= max_episode_frames) & ~over if max_episode_frames else np.zeros_like(over)
            if repeat == 0:
                self.terminated[:], self.truncated[:] = over, late
                done = over | late
                self.final_frames[done] = self.frames[done]
            elif over.any() or late.any():
                first = (over | late) & ~(self.terminated | self.truncated)  # the frame on which a game ended counts
                self.terminated |= over & first
                self.truncated |= late & first
                self.final_frames[first] = self.frames[first]
        done = self.terminated | self.truncated
        if done.any():
            self.reset(done)


class VecEnv:
    """`num_games` games stepped together, in this process or in worker processes over shared memory.

        envs.frames [N] FRAME             the current frames; after `step` of finished games: the first frame of the next
        envs.controllers [N, 2]           the input that made them (neutral at a game's start)
        envs.step(controllers [N, 2])     -> terminated [N], truncated [N], broken [N]
        envs.final_frames [N] FRAME       the last frame of the games that ended in this step

    A worker that dies, raises or hangs is replaced; its games come back truncated and marked broken, the others never
    notice, and the traceback goes to `log`. The hand-off is one byte through a pipe: unlike a semaphore, a pipe says at once
    when the other side is gone, and needs no clean-up."""

    def __init__(self, num_games: int, characters, stages, *, seed: int = 0, num_workers: int = 0, bot_kinds=0,
                 max_episode_frames: int = 3600, action_repeat: int = 1, timeout: float = 10., max_restarts: int = 100,
                 log=lambda line: print(line, file=sys.stderr)):
        if num_games < 1:
            raise UserError(f"--num-games {num_games}: at least one game is needed")
        if not 0 <= num_workers <= num_games:
            raise UserError(f"--num-workers {num_workers}: must lie between 0 and --num-games ({num_games})")
        if num_workers and not hasattr(os, "fork"):
            raise UserError("--num-workers: this system cannot fork; use --num-workers 0")
        mock_melee.warm_up()                                                # compile once, before workers start
        self.num_games, self.num_workers, self.seed = num_games, num_workers, seed
        self.max_episode_frames, self.action_repeat = max_episode_frames, action_repeat
        self.timeout, self.max_restarts, self.restarts, self.log = timeout, max_restarts, 0, log
        size = Games(num_games).num_bytes if num_workers else 0
        games = self.games = Games(num_games, mmap.mmap(-1, size) if num_workers else None)
        games.characters[:], games.stages[:], games.bot_kinds[:] = characters, stages, bot_kinds
        games.seed[:] = [_mix(seed, g) for g in range(num_games)]
        self.frames, self.final_frames, self.controllers = games.frames, games.final_frames, games.controllers
        self.broken = np.zeros(num_games, bool)
        self._before = self.frames.copy()
        games.reset(np.ones(num_games, bool))
        bounds = np.linspace(0, num_games, num_workers + 1).astype(int) if num_workers else []
        self._slices = list(zip(bounds[:-1], bounds[1:], strict=True))
        self._workers: list[_Worker] = []
        self._forks = None
        if num_workers:
            self._forks = _ForkServer(games, lambda part: part.step(action_repeat, max_episode_frames))
            self._workers = [self._forks.start(low, high) for low, high in self._slices]

    def step(self, controllers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Applies controllers CONTROLLER [N, 2] (slots of bots are ignored) for `action_repeat` frames."""
        self.controllers[:] = controllers
        self.broken[:] = False
        if not self.num_workers:
            self.games.step(self.action_repeat, self.max_episode_frames)
            return self.games.terminated, self.games.truncated, self.broken
        self._before[:] = self.frames
        for worker in self._workers:
            worker.send()
        deadline = time.monotonic() + self.timeout
        for k, worker in enumerate(self._workers):
            trouble = worker.wait(max(0., deadline - time.monotonic()))
            if trouble is not None:
                self._replace(k, trouble)
        return self.games.terminated, self.games.truncated, self.broken

    def _replace(self, k: int, trouble: str) -> None:
        low, high = self._slices[k]
        self.restarts += 1
        self._workers[k].kill()
        if self.restarts > self.max_restarts:
            raise RuntimeError(f"workers failed more than {self.max_restarts} times; last: worker {k}: {trouble}")
        self.log(f"worker {k} (games {low} to {high - 1}) {trouble.strip()}; replaced, its games are truncated")
        part = self.games.slice(low, high)
        part.terminated[:], part.truncated[:] = False, True
        self.broken[low:high] = True
        part.final_frames[:] = self._before[low:high]                       # what the worker left may be half written
        part.reset(np.ones(high - low, bool))
        self._workers[k] = self._forks.start(low, high)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Everything that decides how the games go on."""
        return {name: torch.from_numpy(np.frombuffer(getattr(self.games, name).tobytes(), np.uint8).copy())
                for name in Games.LAYOUT}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        for name in Games.LAYOUT:
            array, data = getattr(self.games, name), state[name].numpy().tobytes()
            if len(data) != array.nbytes:
                raise UserError(f"the checkpoint holds {name} of another number of games; resume with the same --num-games")
            array[:] = np.frombuffer(data, array.dtype).reshape(array.shape)

    def close(self) -> None:
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


class _Worker:
    """The main process's end of one worker: a command pipe, a reply pipe and a process id."""

    def __init__(self, pid: int, command: int, reply: int):
        self.pid, self.command, self.reply = pid, command, reply
        self.poll = select.poll()
        self.poll.register(reply, select.POLLIN)

    def send(self) -> None:
        try:
            os.write(self.command, b"s")
        except BrokenPipeError:
            pass                                                            # `wait` sees the end of file and says so

    def wait(self, timeout: float) -> str | None:
        """None when the step is done, else what went wrong."""
        if not self.poll.poll(timeout * 1000):
            return f"hung for {timeout:.0f} s"
        data = os.read(self.reply, 1)
        if data == b".":
            return None
        if not data:
            return "died"
        text = b""
        while chunk := os.read(self.reply, 65536):
            text += chunk
        return "raised\n" + text.decode(errors="replace")

    def kill(self) -> None:
        for fd in (self.command, self.reply):
            try:
                os.close(fd)
            except OSError:
                pass
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


class _ForkServer:
    """Starts workers, now and later, from a process forked before the main process got busy.

    A fresh interpreter per worker would import torch again (a second and 200 MB each); forking from a process whose threads
    run can deadlock. So one child is forked early, does nothing, and forks every worker, replacements too. It ends when the
    main process does, however that ends, and its workers end with it."""

    def __init__(self, games: Games, step):
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._pid = os.fork()
        if self._pid == 0:
            self._socket.close()
            _end_with_parent()
            _close_files_except(theirs.fileno())
            try:
                self._serve(theirs, games, step)
            finally:
                os._exit(0)
        theirs.close()

    @staticmethod
    def _serve(requests: socket.socket, games: Games, step) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)                        # Ctrl-C is the main process's business
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)                       # the kernel buries dead workers
        while True:
            message, files, _, _ = socket.recv_fds(requests, 64, 2)
            if not message:
                return
            low, high = map(int, message.split())
            pid = os.fork()
            if pid == 0:
                try:
                    _end_with_parent()
                    _close_files_except(*files)
                    _worker_loop(games.slice(low, high), step, *files)
                finally:
                    os._exit(0)
            for fd in files:
                os.close(fd)
            requests.send(str(pid).encode())

    def start(self, low: int, high: int) -> _Worker:
        command_read, command_write = os.pipe()
        reply_read, reply_write = os.pipe()
        socket.send_fds(self._socket, [f"{low} {high}".encode()], [command_read, reply_write])
        os.close(command_read), os.close(reply_write)
        pid = self._socket.recv(64)
        if not pid:
            raise RuntimeError("the process that starts workers is gone; start the run again with --resume")
        return _Worker(int(pid), command_write, reply_read)

    def close(self) -> None:
        self._socket.close()
        os.waitpid(self._pid, 0)


def _worker_loop(games: Games, step, command: int, reply: int) -> None:
    while os.read(command, 1):                                              # end of file: the main process is gone
        try:
            step(games)
        except Exception:
            os.write(reply, b"!" + traceback.format_exc().encode())
            return
        os.write(reply, b".")


def _end_with_parent() -> None:
    """Linux: the kernel kills this process when its parent dies, even while it hangs in a loop."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _close_files_except(*keep: int) -> None:
    """A forked child holds its parent's pipes open, and their readers would never see the end of file."""
    low = 3
    for fd in sorted(keep):
        os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, os.sysconf("SC_OPEN_MAX") if os.sysconf("SC_OPEN_MAX") < 65536 else 65536)


# ---------------------------------------------------------------------------------------------------------------------
# Matches between policies
# ---------------------------------------------------------------------------------------------------------------------

BOT_SLOT = -1                                                               # in `assignment`: the game's own bot plays here


def act(policies: list[Policy], assignment: np.ndarray, obs: Observation, states: list[tuple], resets: np.ndarray,
        generator: torch.Generator | None, temperature: float = 1.) -> np.ndarray:
    """One frame of play for every slot: one forward per distinct policy, over all its games and ports.

    assignment [N, 2] says which policy of `policies` plays a slot (BOT_SLOT: none). states[k] is the recurrent state of
    policy k for all 2N slots, updated in place of the list; resets [N] marks games that begin with this frame.
    generator None: the most likely action. Returns actions int8 [N, 2, 13]."""
    n = len(assignment)
    flat = Observation(obs.floats.reshape(2 * n, -1), obs.ints.reshape(2 * n, -1))
    actions = np.tile(NEUTRAL_ACTION, (2 * n, 1))
    slot_resets = torch.from_numpy(np.repeat(resets, 2)) if resets.any() else None
    for k, policy in enumerate(policies):
        rows = np.flatnonzero(assignment.reshape(-1) == k)
        if slot_resets is not None:
            states[k] = reset_state(states[k], slot_resets)
        if not len(rows):
            continue
        everyone = len(rows) == 2 * n
        mine = flat if everyone else Observation(flat.floats[rows], flat.ints[rows])
        index = torch.from_numpy(rows)
        state = states[k] if everyone else tuple(s[index] for s in states[k])
        noise = None if generator is None else torch.rand(len(rows), NUM_LOGITS, generator=generator)
        chosen, state = policy.step(to_torch(mine), state, noise)
        actions[rows] = chosen.numpy()
        states[k] = state if everyone else tuple(
            old.index_copy(0, index, new) for old, new in zip(states[k], state, strict=True))
    return actions.reshape(n, 2, ACTION_SIZE)


def play_games(policies: list[Policy], envs: VecEnv, assignment: np.ndarray, generator: torch.Generator | None,
               on_frame=None) -> np.ndarray:
    """Every slot of `envs` plays one game to its end -> the final frames [N] (one game a slot: short games are not favoured).

    on_frame(frames, controllers, running [N]) is called for the first frames and after every step."""
    n = envs.num_games
    states = [p.initial_state(2 * n) for p in policies]
    final, running, resets = envs.frames.copy(), np.ones(n, bool), np.ones(n, bool)
    if on_frame:
        on_frame(envs.frames, envs.controllers, running)
    with torch.inference_mode():
        while running.any():
            actions = act(policies, assignment, observe(envs.frames, envs.controllers), states, resets, generator)
            controllers = decode_actions(actions)
            terminated, truncated, broken = envs.step(controllers)
            resets = terminated | truncated
            ended = resets & running & ~broken
            final[ended] = envs.final_frames[ended]
            if on_frame:
                now = np.where(resets, envs.final_frames, envs.frames)
                on_frame(now, np.where(resets[:, None], controllers, envs.controllers), running & ~broken)
            running &= ~ended
    return final


# ---------------------------------------------------------------------------------------------------------------------
# What a run leaves behind: checkpoints, pool, ratings, logs
# ---------------------------------------------------------------------------------------------------------------------

CHECKPOINT_FORMAT = 1


def atomic_write(path: Path, write) -> None:
    """write(file) into a temporary file beside `path`, flush it to disk, rename it into place: whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def versions() -> dict[str, str]:
    """Git revision and package versions, for reproducing a run."""
    from importlib.metadata import PackageNotFoundError, version
    found = {"python": platform.python_version()}
    for package in ("torch", "numpy", "numba", "melee", "peppi-py", "onnxruntime"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    git = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent, capture_output=True, text=True)
    found["git"] = git.stdout.strip() if git.returncode == 0 else "no repository"
    return found


def save_checkpoint(path: str | Path, policy: Policy, **extra) -> Path:
    """One file that rebuilds everything: tensors, numbers, strings, lists and dicts only, so that `weights_only` loads it."""
    path = Path(path)
    data = {"format": CHECKPOINT_FORMAT, "schema": schema_hash(), "versions": versions(), "config": policy.config,
            "policy": policy.state_dict(), **extra}
    atomic_write(path, lambda file: torch.save(data, file))
    return path


def load_checkpoint(path: str | Path) -> dict:
    """Reads a checkpoint without running anything in it; UserError says what is wrong and what to do."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint file; check the path")
    try:
        data = torch.load(path, map_location="cpu", weights_only=True)
        assert isinstance(data, dict) and {"format", "schema", "config", "policy"} <= set(data)
    except Exception:  # torch raises half a dozen types for a file that is not its own
        raise UserError(f"{path}: not a readable CleanMelee checkpoint (damaged, or of another program); "
                        "choose another file or train a new one") from None
    if data["format"] != CHECKPOINT_FORMAT or data["schema"] != schema_hash():
        raise UserError(f"{path}: made for frame schema {data['schema']}, this code has {schema_hash()}; "
                        f"train it anew or check out the revision it was made with ({data['versions'].get('git', 'unknown')})")
    return data


def load_policy(path: str | Path) -> tuple[Policy, dict]:
    """-> the policy in eval mode, and the whole checkpoint."""
    data = load_checkpoint(path)
    try:
        policy = Policy(data["config"]["backbone"], tuple(data["config"]["hidden"]))
        policy.load_state_dict(data["policy"])
    except (KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{path}: its weights do not fit its own sizes {data['config']}; the file is damaged "
                        f"({str(error).splitlines()[0]})") from None
    return policy.eval(), data


class Pool:
    """A directory of frozen policies, `<agent>_<step>.pt`, newest last. A broken file is skipped with a warning."""

    def __init__(self, directory: str | Path, history_size: int = 20):
        self.directory, self.history_size = Path(directory), history_size
        self.directory.mkdir(parents=True, exist_ok=True)
        self._load = lru_cache(maxsize=8)(lambda name: load_policy(self.directory / f"{name}.pt")[0].requires_grad_(False))

    def ids(self) -> list[str]:
        """The active checkpoints, oldest first."""
        names = [p.stem for p in self.directory.glob("*_*.pt") if p.stem.rpartition("_")[2].isdigit()]
        return sorted(names, key=lambda name: int(name.rpartition("_")[2]))

    def add(self, policy: Policy, agent: str, step: int, in_use: set[str] = frozenset()) -> str:
        """Freezes a copy and prunes the oldest beyond `history_size`, never one that is still playing."""
        name = f"{agent}_{step:012d}"
        save_checkpoint(self.directory / f"{name}.pt", policy, step=step)
        for old in [i for i in self.ids()[:-self.history_size] if i not in in_use]:
            (self.directory / f"{old}.pt").unlink(missing_ok=True)
        return name

    def forget_after(self, step: int) -> None:
        """Drops what was added after `step`: a resumed run will add it again."""
        for name in self.ids():
            if int(name.rpartition("_")[2]) > step:
                (self.directory / f"{name}.pt").unlink()

    def load(self, name: str) -> Policy:
        return self._load(name)

    def sample(self, rng: np.random.Generator) -> str | None:
        """A uniformly drawn active id whose file can be read, None if there is none."""
        names = self.ids()
        for k in rng.permutation(len(names)):
            try:
                self.load(names[k])
                return names[k]
            except UserError as error:
                print(f"warning: pool: skipped {error}", file=sys.stderr)
        return None


class Ratings:
    """Elo (K 32, start 1500, a draw is half a win) with wins, losses and draws, by policy id."""

    K, START = 32., 1500.

    def __init__(self, table: dict[str, list[float]] | None = None):
        self.table = {name: list(row) for name, row in (table or {}).items()}    # id -> [elo, wins, losses, draws]

    def row(self, name: str) -> list[float]:
        return self.table.setdefault(name, [self.START, 0, 0, 0])

    def record(self, a: str, b: str, score: float) -> None:
        """score 1 if a won, .5 for a draw, 0 if b won. Credit goes to the ids that started the game."""
        row_a, row_b = self.row(a), self.row(b)
        expected = 1 / (1 + 10 ** ((row_b[0] - row_a[0]) / 400))
        row_a[0] += self.K * (score - expected)
        row_b[0] -= self.K * (score - expected)
        column = {1.: 1, 0.: 2, .5: 3}[score]
        row_a[column] += 1
        row_b[{1: 2, 2: 1, 3: 3}[column]] += 1

    def ranking(self) -> list[tuple[str, float, int, int, int]]:
        rows = sorted(self.table.items(), key=lambda item: -item[1][0])
        return [(name, elo, int(w), int(l), int(d)) for name, (elo, w, l, d) in rows]


def start_run(args, runs_dir: str, run_name: str, resume: bool = False) -> Path:
    """Makes runs/<name>/ with args.json, command.txt and versions.txt; refuses to write over another run."""
    run = Path(runs_dir) / run_name
    if not resume and run.exists() and any(run.iterdir()):
        raise UserError(f"{run}: this run exists already; choose another --run-name, or continue it where --resume is offered")
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{run}: cannot make this folder ({error.strerror}); choose another --runs-dir") from None
    if not resume:
        (run / "args.json").write_text(json.dumps(vars(args), indent=1) + "\n")
        (run / "command.txt").write_text(" ".join(sys.argv) + "\n")
        (run / "versions.txt").write_text("".join(f"{k} {v}\n" for k, v in versions().items()))
    return run


def append_jsonl(path: Path, row: dict) -> None:
    with open(path, "a") as file:
        file.write(json.dumps(row) + "\n")


def run_script(main, args_type) -> None:
    """Parses the command line and runs main(args); a user's mistake ends in one line and exit code 2."""
    import tyro
    args = tyro.cli(args_type, description=sys.modules[main.__module__].__doc__)
    try:
        main(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        os._exit(0)                                                         # `| head` closed our output

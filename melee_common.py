"""What every stage of CleanMelee shares: frames, replays, the controller codec, observations, networks, games, checkpoints.

    one game frame                 FRAME record    (mock_melee.py; the same from a .slp file, the embedded game or Dolphin)
    observe(frames, controllers)   Observation     (floats, ints), one row for each player, seen from that player's side
    Policy.step / Policy.unroll    action indices  [.., 13]: eight buttons, main x/y, c x/y, shoulder
    decode_actions(actions, ..)    CONTROLLER record, which makes the next frame

Time: post[t-1] + pre[t] -> post[t]. A policy that has seen frames[t] chooses controllers[t + 1]. Every stage keeps to that.

Sections, in this order: Slippi's ids and events, events to frames, replays in, folders of replays, replays out, a live game;
controller codec, observation, policy, rewards, advantages and intervals; replays as training data; vectorised games,
Slippi Dolphin, matches between policies, a single-agent environment; checkpoints, pool, ratings, logs, command line.
"""

import argparse
import collections
import contextlib
import copy
import ctypes
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import io
import json
import math
import mmap
import multiprocessing
import multiprocessing.connection
import operator
import os
import platform
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import rich.console
import rich.progress
import rich.table
import torch
import torch.nn as nn
import torch.nn.functional as F
import tyro

try:
    import gymnasium
except ImportError:                                                         # nothing here needs it
    gymnasium = None

import mock_melee
from mock_melee import (  # re-exported: the frame language
    BUTTON_A, BUTTON_B, BUTTON_D_UP, BUTTON_L, BUTTON_R, BUTTON_X, BUTTON_Y, BUTTON_Z, CHARACTERS, CONTROLLER,
    FIRST_CONTROL_FRAME, FIRST_FRAME, FRAME, ITEM, NUM_ITEMS, NUM_PLAYERS, PLATFORM_LEFT, PLATFORM_RIGHT, PLAYER, TIME_LIMIT,
)

BOTS, STAGES = mock_melee.BOTS, mock_melee.STAGES


class UserError(ValueError):
    """A mistake of the user's, told in one line: what is wrong, with which file or value, and what to do."""


# ---------------------------------------------------------------------------------------------------------------------
# Slippi's ids and events. Source: the Slippi replay specification, checked against real files.
# ---------------------------------------------------------------------------------------------------------------------

# Post-frames speak of internal character ids, the game start of external ones. Index: internal id, 10 Popo, 11 Nana.
EXTERNAL_CHARACTER = (8, 2, 0, 1, 4, 5, 6, 19, 11, 12, 14, 14, 13, 16, 17, 15, 10, 7, 9, 18, 21, 22, 20, 24, 3, 25, 23)
SHEIK, ZELDA = 7, 19  # internal ids; one fighter with two bodies
FIGHTERS = {  # name -> internal id: whom replays show. The embedded game plays those in CHARACTERS.
    "mario": 0, "donkey_kong": 3, "kirby": 4, "bowser": 5, "ness": 8, "peach": 9, "ice_climbers": 10, "pikachu": 12,
    "samus": 13, "yoshi": 14, "jigglypuff": 15, "luigi": 17, "young_link": 20, "dr_mario": 21, "pichu": 23, "roy": 26,
    "link": 6, "zelda": 19, "ganondorf": 25} | CHARACTERS

STAGE_FOUNTAIN, STAGE_STADIUM, STAGE_DREAM_LAND = 2, 3, 28
LIBMELEE_STAGE = {8: STAGE_FOUNTAIN, 18: STAGE_STADIUM, 6: 8, 26: STAGE_DREAM_LAND, 24: 31, 25: 32}  # its enum's values
NOT_VERSUS_STAGES = (*range(33, 59), 84)                  # Break the Targets, Home-Run Contest
STADIUM_NORMAL = 5                                        # Slippi's id of the plain Stadium, 0 in our frames

# Which misc byte of an item is its charge, by type: Samus's charge shot and Mewtwo's shadow ball: the charge; Samus's
# missile: is it a super missile; Peach's turnip: its face. In other items these bytes are leftovers.
ITEM_CHARGE_BYTE = {94: 3, 112: 3, 95: 0, 99: 1}
HITSTUN_FLAG, FASTFALL_FLAG = 0x02, 0x08                  # in state_flags[3] and state_flags[1]
END_METHODS = {"Unresolved": 0, "Time": 1, "Game": 2, "Resolved": 3, "NoContest": 7}
SLP_VERSION = (3, 18, 0)                                  # the layout below; the first with stage events
SLP_HEAD = b"{U\x03raw[$U#l"                              # a .slp file: this, the events' length in 4 bytes, events, metadata
EVENTS_AT = len(SLP_HEAD) + 4
METADATA = b"U\x08metadata"

_HEAD = [("command", "u1"), ("frame", ">i4")]
_WHO = [*_HEAD, ("port", "u1"), ("follower", "u1")]
FRAME_START_EVENT = np.dtype([*_HEAD, ("seed", ">u4"), ("scene_frame", ">u4")])
PRE_EVENT = np.dtype([
    *_WHO, ("seed", ">u4"), ("action", ">u2"), ("x", ">f4"), ("y", ">f4"), ("facing", ">f4"),
    ("main_x", ">f4"), ("main_y", ">f4"), ("c_x", ">f4"), ("c_y", ">f4"), ("trigger", ">f4"), ("buttons", ">u4"),
    ("physical_buttons", ">u2"), ("physical_l", ">f4"), ("physical_r", ">f4"), ("raw_x", "i1"), ("percent", ">f4"),
    ("raw_y", "i1"), ("raw_c_x", "i1"), ("raw_c_y", "i1"),
])
POST_EVENT = np.dtype([
    *_WHO, ("character", "u1"), ("action", ">u2"), ("x", ">f4"), ("y", ">f4"), ("facing", ">f4"), ("percent", ">f4"),
    ("shield", ">f4"), ("last_attack", "u1"), ("combo", "u1"), ("last_hit_by", "u1"), ("stocks", "u1"),
    ("state_age", ">f4"), ("flags_0", "u1"), ("flags_1", "u1"), ("flags_2", "u1"), ("flags_3", "u1"), ("flags_4", "u1"),
    ("hitstun", ">f4"), ("airborne", "u1"), ("ground", ">u2"), ("jumps", "u1"), ("l_cancel", "u1"), ("hurtbox", "u1"),
    ("self_vx_air", ">f4"), ("self_vy", ">f4"), ("kb_vx", ">f4"), ("kb_vy", ">f4"), ("self_vx_ground", ">f4"),
    ("hitlag", ">f4"), ("animation", ">u4"), ("last_hit_by_instance", ">u2"), ("instance", ">u2"),
])
ITEM_EVENT = np.dtype([
    *_HEAD, ("type", ">u2"), ("state", "u1"), ("facing", ">f4"), ("vx", ">f4"), ("vy", ">f4"), ("x", ">f4"),
    ("y", ">f4"), ("damage", ">u2"), ("timer", ">f4"), ("id", ">u4"), ("misc_0", "u1"), ("misc_1", "u1"),
    ("misc_2", "u1"), ("misc_3", "u1"), ("owner", "i1"), ("instance", ">u2"),
])
BOOKEND_EVENT = np.dtype([*_HEAD, ("latest_finalized", ">i4")])
GAME_START_SIZE = 761
EVENT_SIZES = {  # bytes, with the command byte
    0x36: GAME_START_SIZE, 0x37: PRE_EVENT.itemsize, 0x38: POST_EVENT.itemsize, 0x39: 7,
    0x3A: FRAME_START_EVENT.itemsize, 0x3B: ITEM_EVENT.itemsize, 0x3C: BOOKEND_EVENT.itemsize,
    0x3F: 10, 0x40: 6, 0x41: 9,  # Fountain of Dreams' platforms, Whispy, Stadium
}


class ReplayError(UserError):
    """A replay or a folder of replays that cannot be used; the message is one line: `<file>: <what is wrong>`."""


# ---------------------------------------------------------------------------------------------------------------------
# Events to frames. A file and a live game go through the same lines, so that they cannot disagree.
# ---------------------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def _zero_indexed_actions():
    """[32, 1024] bool: does Melee count this (internal character, action) from frame 0? From libmelee's own table."""
    spec = importlib.util.find_spec("melee")  # finds the package without importing it, which takes a second
    if spec is None:
        raise ImportError("libmelee is not installed: pip install melee==0.47.6")
    table = np.zeros((32, 1024), bool)
    with open(Path(spec.origin).parent / "actiondata.csv") as file:
        next(file)
        for line in file:
            character, action, zero_index = line.strip().replace('"', "").split(",")
            if int(action) < 1024:  # 65535 stands for "unknown"
                table[int(character), int(action)] = zero_index == "True"
    return table


def _no_nan(column):
    return np.where(np.isnan(column), 0, column)


def _players_from_post(post):
    """[N] PLAYER from the columns of N post-frame events (a POST_EVENT array or a dict of the same names)."""
    players = np.zeros(len(post["x"]), PLAYER)
    for name in ("x", "y", "self_vx_air", "self_vy", "self_vx_ground", "kb_vx", "kb_vy", "percent", "shield", "hitlag",
                 "state_age"):
        players[name] = _no_nan(post[name])
    for name in ("action", "character", "stocks", "jumps", "airborne", "hurtbox", "l_cancel", "last_attack",
                 "last_hit_by", "combo"):
        players[name] = post[name]
    players["ground"] = np.asarray(post["ground"]).astype(np.uint16).astype(np.int16)  # 0xFFFF, no ground, becomes -1
    players["facing"] = np.where(np.asarray(post["facing"]) > 0, 1, -1)
    players["in_hitstun"] = (np.asarray(post["flags_3"]) & HITSTUN_FLAG) != 0
    players["fastfall"] = (np.asarray(post["flags_1"]) & FASTFALL_FLAG) != 0
    # Outside hitstun Slippi's field holds whatever else Melee keeps at that address, NaN included.
    players["hitstun"] = np.where(players["in_hitstun"] != 0, _no_nan(post["hitstun"]), 0)
    first = _zero_indexed_actions()[players["character"] & 31, players["action"] & 1023]
    players["action_frame"] = np.clip(players["state_age"], -30000, 30000).astype(np.int16) + first
    players["present"] = 1
    return players


def _place_items(items, row, events, ports):
    """Write N item events (columns as ITEM_EVENT) into `items` [T, 8] ITEM; `row` [N] is each event's frame index.

    The slots of a frame are filled in the order of Slippi's item ids, oldest first; what does not fit is dropped.
    """
    order = np.lexsort((events["id"], row))
    row = row[order]
    slot = np.arange(len(row)) - np.searchsorted(row, row)
    events = {name: np.asarray(events[name])[order][slot < NUM_ITEMS] for name in ITEM_EVENT.names[2:]}
    records = np.zeros(len(events["id"]), ITEM)
    for name in ("x", "y", "vx", "vy", "facing", "timer"):
        records[name] = _no_nan(events[name])
    for name in ("type", "state", "damage"):
        records[name] = events[name]
    records["owner"] = -1
    for player, port in enumerate(ports):
        records["owner"][events["owner"] == port] = player
    for item_type, byte in ITEM_CHARGE_BYTE.items():
        records["charge"] += np.where(records["type"] == item_type, events[f"misc_{byte}"], 0).astype(np.int16)
    records["present"] = 1
    items[row[slot < NUM_ITEMS], slot[slot < NUM_ITEMS]] = records


def _controllers_from_pre(pre):
    """[N] CONTROLLER from the columns of N pre-frame events (a PRE_EVENT array or a dict of the same names)."""
    controllers = np.zeros(len(pre["main_x"]), CONTROLLER)
    for name in ("main_x", "main_y", "c_x", "c_y"):
        controllers[name] = _no_nan(pre[name])
    # The game merges both analog triggers into one value; it goes to the side that was pressed further.
    trigger = _no_nan(pre["trigger"])
    right = np.asarray(pre["physical_r"]) > np.asarray(pre["physical_l"])
    controllers["l"] = np.where(right, 0, trigger)
    controllers["r"] = np.where(right, trigger, 0)
    controllers["buttons"] = np.asarray(pre["buttons"]) & 0xFFFF  # above: stick directions as buttons
    return controllers


# ---------------------------------------------------------------------------------------------------------------------
# Replays in: .slp -> frames, controllers, meta
# ---------------------------------------------------------------------------------------------------------------------

MIN_VERSION = (3, 8, 0)       # velocities since 3.5, item owners since 3.6, hitlag since 3.8
OLDEST_VERSION = (2, 0, 0)    # before it no file says who is in the air
PARSER_VERSION = 1            # part of the cache's key: raise it when read_replay's result changes

# Where peppi-py keeps what the events call so.
_POST_PATHS = {
    "character": "character", "action": "state", "x": "position.x", "y": "position.y", "facing": "direction",
    "percent": "percent", "shield": "shield", "last_attack": "last_attack_landed", "combo": "combo_count",
    "last_hit_by": "last_hit_by", "stocks": "stocks", "state_age": "state_age", "flags_1": "state_flags.1",
    "flags_3": "state_flags.3", "hitstun": "misc_as", "airborne": "airborne", "ground": "ground", "jumps": "jumps",
    "l_cancel": "l_cancel", "hurtbox": "hurtbox_state", "self_vx_air": "velocities.self_x_air",
    "self_vy": "velocities.self_y", "kb_vx": "velocities.knockback_x", "kb_vy": "velocities.knockback_y",
    "self_vx_ground": "velocities.self_x_ground", "hitlag": "hitlag",
}
_PRE_PATHS = {
    "main_x": "joystick.x", "main_y": "joystick.y", "c_x": "cstick.x", "c_y": "cstick.y", "trigger": "triggers",
    "buttons": "buttons", "physical_l": "triggers_physical.l", "physical_r": "triggers_physical.r",
}
_ITEM_PATHS = {
    "type": "type", "state": "state", "facing": "direction", "vx": "velocity.x", "vy": "velocity.y", "x": "position.x",
    "y": "position.y", "damage": "damage", "timer": "timer", "id": "id", "misc_0": "misc.0", "misc_1": "misc.1",
    "misc_2": "misc.2", "misc_3": "misc.3", "owner": "owner", "instance": "instance_id",
}
_REPLAY_FLOAT_LIMITS = {
    "x": 1e3, "y": 1e3, "percent": 1e3, "shield": 100, "hitlag": 1e3, "hitstun": 1e3, "state_age": 1e4,
    "self_vx_air": 100, "self_vy": 100, "self_vx_ground": 100, "kb_vx": 100, "kb_vy": 100,
}
_REPLAY_INT_LIMITS = {
    "action": 1023, "character": 26, "stocks": 99, "jumps": 10, "airborne": 1, "hurtbox": 2, "l_cancel": 2,
}


@dataclass
class Replay:
    """One 1v1 game. `controllers[t]` is the input that *produced* `frames[t]`: post[t-1] + pre[t] -> post[t].

    So the label for a policy that has seen `frames[t]` is `controllers[t + 1]`; a policy trained on `controllers[t]`
    reads the answer from the frame, looks better in the loss and freezes in play.
    Player 0 sits at the lower port. `meta` holds plain values only, see `read_replay`.
    """

    frames: np.ndarray       # [T] FRAME
    controllers: np.ndarray  # [T, 2] CONTROLLER
    meta: dict

    def __len__(self):
        return len(self.frames)


def controlled(replay: Replay) -> Replay:
    """The part of a replay in which the players have control (frame id -39 on); arrays are views."""
    first = int(np.searchsorted(replay.frames["frame_id"], FIRST_CONTROL_FRAME))
    return Replay(replay.frames[first:], replay.controllers[first:], replay.meta)


def read_replay(path: str | Path, *, min_version: tuple = MIN_VERSION) -> Replay:
    """Read one .slp file of a 1v1 game.

    Returns a Replay: frames [T] FRAME from frame id -123 on (cut with `controlled`), controllers [T, 2] CONTROLLER.
    Rolled-back frames appear once, as the game finally played them. In `meta`, tuples are indexed by player:
    path, hash (sha256 of the file), game (key of the game: two players' files of one online game share it), version,
    stage (Slippi's external id), characters (internal ids at the start), ports (0..3), types ("Human" or "Cpu"),
    cpu_levels, names, codes, tags ("" if none), winner (player index, None if the game was quit, tied or has no
    clear end), end (Slippi's method, None if the file has no game end), lras (player index of who quit, or None),
    frames (their number), seed, started, played_on, frozen_stadium.

    A `min_version` below 3.8 admits files without hitlag (0 then) and below 3.5 without velocities (differences of
    positions then, all of it taken as the player's own). Below 2.0, and 3.0 to 3.6 (peppi-py cannot), always refused.
    Raises ReplayError with one line for whatever is wrong with the file.
    """
    return _read_hashed(path, _file_hash(path), min_version)


def _file_hash(path):
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise ReplayError(f"{path}: {(error.strerror or str(error)).lower()}") from None


def _read_hashed(path, digest, min_version):
    try:
        with _finished(path) as readable:
            replay = _parse_replay(readable, digest, tuple(min_version))
        replay.meta["path"] = str(path)
        return replay
    except ReplayError as error:
        raise ReplayError(f"{path}: {error}") from None
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:  # what peppi-py let pass
        raise ReplayError(f"{path}: a damaged .slp file ({type(error).__name__}: {_one_line(error)})") from None


@contextlib.contextmanager
def _finished(path):
    """The file itself, or a finished copy of a recording of ours whose writer was killed between two of its writes.

    A game that Slippi has not finished (its length of the events is 0, and there is no metadata) stays what it is: peppi-py
    refuses it.
    """
    with open(path, "rb") as file:
        data = file.read(EVENTS_AT)
        length = int.from_bytes(data[len(SLP_HEAD):], "big")
        file.seek(EVENTS_AT + length)
        follows = file.read(1)                                              # the metadata's key, or the object's end
        if data[:len(SLP_HEAD)] != SLP_HEAD or not length or follows in (b"U", b"}", b""):
            yield path
            return
        file.seek(0)
        data = file.read()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "game.slp"
        copy.write_bytes(finished_slp(data)[0])
        yield copy


def _one_line(error):
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 120 else text[:117] + "..."


@contextlib.contextmanager
def _silent_stderr():
    """peppi-py's Rust code prints a trace on file descriptor 2 before Python sees its panic."""
    sys.stderr.flush()
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


def _peppi(path, skip_frames):
    from peppi_py._peppi import read_slippi  # here: pyarrow is slow to import and most processes read no replay

    try:
        with _silent_stderr():
            return read_slippi(str(path), skip_frames)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # its PanicException is no Exception, and does not survive pickling
        text = _one_line(error).removeprefix("invalid data: ")
        if text.startswith("expected: [123, 85, 3"):
            raise ReplayError("not a .slp file") from None
        if text.startswith("invalid game end method"):
            raise ReplayError(f"not a versus game ({text})") from None
        if text.startswith("Cannot skip to game end"):
            text = "cut short or still being written"
        raise ReplayError(f"a damaged .slp file ({text})") from None


def _check_start(start, min_version):
    """Refuse what is not a 1v1 game of a version that we can read. Returns the version."""
    version = tuple(start["slippi"]["version"])
    text = ".".join(map(str, version))
    if version < OLDEST_VERSION:
        raise ReplayError(f"written by Slippi {text}, which lacks airborne and jumps; needs 2.0.0 or newer")
    if version < min_version:
        needs = f"needs {'.'.join(map(str, min_version))} or newer"
        if version < MIN_VERSION:
            needs = f"which lacks {'velocities and hitlag' if version < (3, 5, 0) else 'hitlag'}; {needs}"
        raise ReplayError(f"written by Slippi {text}, {needs}")
    if (3, 0, 0) <= version < (3, 7, 0):
        raise ReplayError(f"written by Slippi {text}; peppi-py cannot read 3.0 to 3.6")
    if start["stage"] in NOT_VERSUS_STAGES:
        raise ReplayError(f"not a versus game (stage {start['stage']})")
    if len(start["players"]) != NUM_PLAYERS:
        raise ReplayError(f"{len(start['players'])} players; only 1v1 games can be used")
    if start["is_teams"]:
        raise ReplayError("a team game; only 1v1 games can be used")
    if any(player["type"] not in ("Human", "Cpu") for player in start["players"]):
        raise ReplayError("a demo; only games of people and CPUs can be used")
    return version


def _arrow_leaf(array, path):
    """One column of a pyarrow StructArray as numpy without a copy, None if this version lacks it. Nulls hold junk."""
    for name in path.split("."):
        index = array.type.get_field_index(name)
        if index < 0:
            return None
        array = array.field(index)
    dtype = np.dtype("f4" if str(array.type) == "float" else str(array.type))
    if len(array) == 0:
        return np.zeros(0, dtype)
    return np.frombuffer(array.buffers()[1], dtype, len(array), array.offset * dtype.itemsize)


def _arrow_columns(array, paths):
    columns = {name: _arrow_leaf(array, path) for name, path in paths.items()}
    return {name: np.zeros(len(array), np.int32) if column is None else column for name, column in columns.items()}


def _arrow_events(frames, name):
    """A list column of the frames: (row of each event [N], StructArray of the N events), or (None, None) if absent."""
    index = frames.type.get_field_index(name)
    if index < 0 or len(frames.field(index).values) == 0:
        return None, None
    column = frames.field(index)
    offsets = column.offsets.to_numpy()
    return np.repeat(np.arange(len(column)), np.diff(offsets)), column.values


def _forward_fill(length, rows, values, initial):
    """[length] array: the last of `values` (which happened at `rows`) so far, `initial` before the first."""
    latest = np.zeros(length, np.int64)
    latest[rows] = np.arange(1, len(rows) + 1)
    return np.concatenate(([initial], values))[np.maximum.accumulate(latest)]


def _parse_replay(path, digest, min_version):
    # Some versions make peppi-py panic on their frames but never on their header, so that is read first.
    version = _check_start(_peppi(path, True).start, min_version)
    game = _peppi(path, False)
    start, table = game.start, game.frames
    rows = len(table)
    if rows == 0:
        raise ReplayError("no frames")

    frames = np.zeros(rows, FRAME)
    controllers = np.zeros((rows, NUM_PLAYERS), CONTROLLER)
    frames["frame_id"], frames["stage"] = _arrow_leaf(table, "id"), start["stage"]
    start_players = sorted(start["players"], key=lambda player: player["port"])
    ports = tuple(int(player["port"][1]) - 1 for player in start_players)
    port_columns = table.field("ports")
    for i, player in enumerate(start_players):
        port = port_columns.field(player["port"])
        for name, out in (("leader", frames["players"]), ("follower", frames["nanas"])):
            if port.type.get_field_index(name) < 0:
                continue
            character = port.field(name)
            records = _players_from_post(_arrow_columns(character.field("post"), _POST_PATHS))
            records["port"] = ports[i]
            if character.null_count:  # a dead Nana: zeros, not what the last Nana left in memory
                records[~character.is_valid().to_numpy(zero_copy_only=False)] = 0
            out[:, i] = records
            if name == "leader":
                controllers[:, i] = _controllers_from_pre(_arrow_columns(character.field("pre"), _PRE_PATHS))

    row, items = _arrow_events(table, "item")
    if row is not None:
        columns = _arrow_columns(items, _ITEM_PATHS)
        if version < (3, 6, 0):
            columns["owner"] = np.full(len(items), -1)
        _place_items(frames["items"], row, columns, ports)

    # Stage events are sparse and the game does not send them again after a rollback: fill before rows are dropped.
    if start["stage"] == STAGE_FOUNTAIN:
        row, events = _arrow_events(table, "fod_platform")
        frames["platform_left"], frames["platform_right"] = PLATFORM_LEFT, PLATFORM_RIGHT
        if row is not None:
            side, height = _arrow_leaf(events, "platform"), _arrow_leaf(events, "height")
            for name, number, initial in (("platform_right", 0, PLATFORM_RIGHT), ("platform_left", 1, PLATFORM_LEFT)):
                frames[name] = _forward_fill(rows, row[side == number], height[side == number], np.float32(initial))
    if start["stage"] == STAGE_DREAM_LAND:
        row, events = _arrow_events(table, "dreamland_whispy")
        if row is not None:
            frames["wind"] = _forward_fill(rows, row, _arrow_leaf(events, "direction").astype(np.int16), 0)
    if start["stage"] == STAGE_STADIUM:
        row, events = _arrow_events(table, "stadium_transformation")
        if row is not None:
            kind = _arrow_leaf(events, "type").astype(np.int16)
            frames["transformation"] = _forward_fill(rows, row, np.where(kind == STADIUM_NORMAL, 0, kind), 0)

    # Online, a frame may be played several times. The last row of an id is what finally happened.
    ids = frames["frame_id"]
    if rows > 1 and (np.diff(ids) != 1).any():
        ids, index = np.unique(ids[::-1], return_index=True)
        keep = rows - 1 - index
        if len(ids) > 1 and (np.diff(ids) != 1).any():
            raise ReplayError(f"frames are missing after frame {ids[:-1][np.diff(ids) != 1][0]}")
        frames, controllers = frames[keep], controllers[keep]
    if frames["frame_id"][0] < FIRST_FRAME:
        raise ReplayError(f"begins at frame {frames['frame_id'][0]}, before the first possible one, {FIRST_FRAME}")

    if version < (3, 5, 0):
        _estimate_velocities(frames["players"])
        _estimate_velocities(frames["nanas"])
    _check_values(frames, controllers)
    return Replay(frames, controllers, _replay_meta(path, digest, version, game, start_players, ports, frames))


def _estimate_velocities(players):
    """Old files have no velocities: fill them in from positions. Knockback cannot be told apart and stays 0."""
    both = (players["present"][1:] * players["present"][:-1] * (players["stocks"][1:] == players["stocks"][:-1])) != 0
    air = players["airborne"][1:] != 0
    dx, dy = np.diff(players["x"], axis=0), np.diff(players["y"], axis=0)
    players["self_vx_air"][1:] = np.where(both & air, dx, 0)
    players["self_vx_ground"][1:] = np.where(both & ~air, dx, 0)
    players["self_vy"][1:] = np.where(both & air, dy, 0)
    for name in ("self_vx_air", "self_vx_ground", "self_vy"):
        players[name][np.abs(players[name]) > 50] = 0  # a teleport, such as a revival, is not a velocity


def _check_values(frames, controllers):
    """A damaged file may parse. Refuse values that the game cannot produce. NaN has become 0, inf has not."""
    ids = frames["frame_id"]

    def refuse(bad, what, values):
        t = np.argwhere(bad)[0]
        raise ReplayError(f"frame {ids[t[0]]}: {what} is {values[tuple(t)]}, which the game cannot produce")

    for who in ("players", "nanas"):
        for limits, low in ((_REPLAY_FLOAT_LIMITS, None), (_REPLAY_INT_LIMITS, 0)):
            for name, high in limits.items():
                values = frames[who][name]
                if values.max() > high or values.min() < (-high if low is None else low):
                    refuse((values > high) | (values < (-high if low is None else low)), name, values)
    for name in ("x", "y", "vx", "vy", "facing", "timer"):
        values = frames["items"][name]
        if values.max() > 1e5 or values.min() < -1e5:
            refuse(np.abs(values) > 1e5, "an item's " + name, values)
    for name in ("main_x", "main_y", "c_x", "c_y", "l", "r"):
        values, low = controllers[name], -1.01 if "_" in name else -0.01
        if values.max() > 1.01 or values.min() < low:
            refuse((values > 1.01) | (values < low), "input " + name, values)
    for name, high in (("platform_left", 1e3), ("platform_right", 1e3), ("wind", 2), ("transformation", 9)):
        values = frames[name]
        if not (np.abs(values) <= high).all():
            refuse(~(np.abs(values) <= high), name, values)


def _winner(end, last):
    """Player index or None: the last one alive; when the time ran out, more stocks, then less percent."""
    stocks, percent = last["players"]["stocks"].tolist(), last["players"]["percent"].tolist()
    if (stocks[0] > 0) != (stocks[1] > 0):
        return int(stocks[1] > 0)
    if end == "Time" and (stocks[0], -percent[0]) != (stocks[1], -percent[1]):
        return int((stocks[1], -percent[1]) > (stocks[0], -percent[0]))
    return None


def _replay_meta(path, digest, version, game, players, ports, frames):
    start, end, info = game.start, game.end or {}, game.metadata or {}
    if not isinstance(info, dict):
        info = {}
    characters = tuple(frames["players"]["character"][0].tolist())
    for player, internal in zip(players, characters, strict=True):
        external = EXTERNAL_CHARACTER[internal]
        if external != player["character"] and {external, player["character"]} != {18, 19}:  # Zelda, Sheik
            raise ReplayError(f"character {player['character']} in the header is {external} in the first frame")
    netplay = [player.get("netplay") or {} for player in players]
    named = [((info.get("players") or {}).get(str(port)) or {}).get("names") or {} for port in ports]
    quitter = end.get("lras_initiator")
    match = start.get("match") or {}
    key = digest
    if match.get("id"):  # both players' files of one online game have the same match id
        key = hashlib.sha256(f"{match['id']} {match['game']} {match['tiebreaker']}".encode()).hexdigest()
    return {
        "path": str(path), "hash": digest, "game": key, "version": version, "stage": start["stage"],
        "characters": characters, "ports": ports,
        "types": tuple(player["type"] for player in players),
        "cpu_levels": tuple(player["cpu_level"] or 0 for player in players),
        "names": tuple(a.get("name") or b.get("netplay") or "" for a, b in zip(netplay, named, strict=True)),
        "codes": tuple((a.get("code") or b.get("code") or "").replace("＃", "#")
                       for a, b in zip(netplay, named, strict=True)),
        "tags": tuple(player.get("name_tag") or "" for player in players),
        "winner": _winner(end.get("method"), frames[-1]), "end": end.get("method"),
        "lras": ports.index(int(quitter[1]) - 1) if quitter and int(quitter[1]) - 1 in ports else None,
        "frames": len(frames), "seed": start.get("random_seed"), "started": info.get("startAt"),
        "played_on": info.get("playedOn"), "frozen_stadium": bool(start.get("is_frozen_ps")),
    }


# ---------------------------------------------------------------------------------------------------------------------
# Folders of replays: worker processes, a cache on disk
# ---------------------------------------------------------------------------------------------------------------------


def default_cache_dir() -> Path:
    """`$XDG_CACHE_HOME/cleanmelee/replays`, by default below ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cleanmelee" / "replays"


def load_replays(files: str | Path | list, *, num_workers: int | None = None, max_files: int | None = None,
                 character: int | None = None, min_frames: int = 60, min_version: tuple = MIN_VERSION,
                 cache_dir: str | Path | bool | None = None, progress: bool = True) -> tuple[list[Replay], dict]:
    """Read a folder (searched recursively for .slp), one file, or a list of files and folders.

    num_workers: reader processes, None for one per core, 0 to read in this process. max_files: the first so many in
    sorted order, None for all. character: internal id, keeps games with it on either side (Zelda and Sheik are one),
    None keeps all. min_frames: shorter games (frames with control) are skipped. cache_dir: parsed arrays are kept
    there and read back memory-mapped and read-only; None for `default_cache_dir()`, False for no cache.

    Returns (replays in sorted order of their files, summary dict: files, read, frames, cached, skipped (list of
    (file, reason)), seconds, frames_per_second). A bad file costs one line on stderr. Raises ReplayError if there is no
    such folder, no .slp file in it, or none that can be used. Frames before control (id < -39) are kept.
    """
    paths = _find_replays(files)[:max_files]
    if not paths:
        raise ReplayError("max_files is 0: nothing to read")
    cache_dir = None if cache_dir is False else Path(cache_dir or default_cache_dir())
    if num_workers is None:
        num_workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    num_workers = min(num_workers, len(paths))
    _zero_indexed_actions()  # once, not in every worker; so is this slow import
    importlib.import_module("peppi_py._peppi")

    began, results = time.perf_counter(), {}
    columns = ("[progress.description]{task.description}", rich.progress.BarColumn(),
               rich.progress.MofNCompleteColumn(), rich.progress.TimeRemainingColumn())
    # auto_refresh would start a thread, and forking beside threads is asking for a deadlock.
    with rich.progress.Progress(*columns, console=rich.console.Console(stderr=True), auto_refresh=False, transient=True,
                                disable=not progress) as bar:
        task = bar.add_task("reading replays", total=len(paths))
        if num_workers > 0:
            source = _read_in_workers(paths, num_workers, tuple(min_version), cache_dir)
        else:
            source = ((path, _read_one(path, tuple(min_version), cache_dir)) for path in paths)
        with contextlib.closing(source):
            for path, result in source:
                results[path] = result
                bar.advance(task)
                bar.refresh()

    replays, skipped, seen, cached = [], [], {}, 0
    for path in paths:
        reason = replay = results[path]
        if not isinstance(replay, str):
            frames, controllers, meta, hit = replay
            if frames is None:
                loaded = _load_cached(cache_dir, meta["hash"])
                frames, controllers = (None, None) if loaded is None else loaded[:2]
            have = 0 if frames is None else int((frames["frame_id"][-1] - FIRST_CONTROL_FRAME) + 1)
            if frames is None:
                reason = "its cache entry vanished while it was read"
            elif meta["hash"] in seen:
                reason = f"the same file as {seen[meta['hash']]}"
            elif have < min_frames:
                reason = f"{max(have, 0)} frames with control, fewer than {min_frames}"
            elif character is not None and not any(same_fighter(c, character) for c in meta["characters"]):
                reason = f"nobody plays character {character}"
            else:
                seen[meta["hash"]] = path
                meta = {key: tuple(value) if isinstance(value, list) else value for key, value in meta.items()}
                replays.append(Replay(frames, controllers, {**meta, "path": str(path)}))
                cached += hit
                continue
        skipped.append((str(path), reason.removeprefix(f"{path}: ")))
        print(f"skipped {path}: {skipped[-1][1]}", file=sys.stderr)

    frames, seconds = sum(map(len, replays)), time.perf_counter() - began
    summary = {"files": len(paths), "read": len(replays), "frames": frames, "cached": cached, "skipped": skipped,
               "seconds": seconds, "frames_per_second": frames / seconds}
    print(f"read {len(replays)} of {len(paths)} replays ({frames:,} frames, {frames / seconds:,.0f} frames/s), "
          f"skipped {len(skipped)}", file=sys.stderr)
    if not replays:
        raise ReplayError(f"{_describe(files)}: none of {len(paths)} replays can be used; the first: "
                          f"{Path(skipped[0][0]).name}: {skipped[0][1]}")
    return replays, summary


def _describe(files):
    return files if isinstance(files, str | os.PathLike) else ", ".join(map(str, files))


def _find_replays(files):
    found = []
    for entry in [files] if isinstance(files, str | os.PathLike) else files:
        path = Path(entry).expanduser()
        if path.is_dir():
            found += [p for p in path.rglob("*") if p.suffix.lower() == ".slp" and p.is_file()]
        elif path.exists():
            found.append(path)
        else:
            raise ReplayError(f"{entry}: no such file or folder")
    if not found:
        raise ReplayError(f"{_describe(files)}: no .slp files")
    return sorted(set(found))


def _read_one(path, min_version, cache_dir):
    """(frames, controllers, meta, cached) or a reason; the arrays are None if they can be had from the cache."""
    try:
        digest = _file_hash(path)
        if cache_dir is not None:
            cached = _load_cached(cache_dir, digest)
            if cached is not None and tuple(cached[2]["version"]) >= min_version:
                return None, None, cached[2], True
        replay = _read_hashed(path, digest, min_version)
        if cache_dir is not None and _save_cached(cache_dir, replay):
            return None, None, replay.meta, False
        return replay.frames, replay.controllers, replay.meta, False
    except ReplayError as error:
        return str(error)
    except Exception as error:  # one bad file must never end a long run
        return f"{type(error).__name__}: {_one_line(error)}"


@functools.lru_cache(maxsize=1)
def _cache_layout():
    """Changes when a record's fields or the parser do, so that old entries are no longer found."""
    return hashlib.sha256(repr((PARSER_VERSION, FRAME.descr, CONTROLLER.descr)).encode()).hexdigest()[:12]


def _save_cached(cache_dir, replay):
    """True if `replay` is in the cache now. The small .json is renamed into place last and makes the entry valid."""
    stem = Path(cache_dir) / f"{replay.meta['hash']}-{_cache_layout()}"
    temporary = stem.with_name(f".{stem.name}.{os.getpid()}.tmp")
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        for suffix, array in (("frames.npy", replay.frames), ("controllers.npy", replay.controllers)):
            with open(temporary, "wb") as file:
                np.save(file, array)
            os.replace(temporary, f"{stem}.{suffix}")
        temporary.write_text(json.dumps(replay.meta))
        os.replace(temporary, f"{stem}.json")
        return True
    except OSError:  # a full or read-only disk costs speed, not the run
        with contextlib.suppress(OSError):
            temporary.unlink()
        return False


def _load_cached(cache_dir, digest):
    """(frames, controllers, meta) memory-mapped from the cache, or None if there is no sound entry."""
    stem = Path(cache_dir) / f"{digest}-{_cache_layout()}"
    try:
        meta = json.loads(Path(f"{stem}.json").read_text())
        frames = np.asarray(np.load(f"{stem}.frames.npy", mmap_mode="r"))
        controllers = np.asarray(np.load(f"{stem}.controllers.npy", mmap_mode="r"))
        sound = (frames.dtype == FRAME and controllers.dtype == CONTROLLER and frames.shape == (meta["frames"],)
                 and controllers.shape == (meta["frames"], NUM_PLAYERS) and meta["hash"] == digest
                 and frames["frame_id"][-1] - frames["frame_id"][0] == len(frames) - 1)
        return (frames, controllers, meta) if sound else None
    except Exception:  # whatever a broken file makes json and numpy raise: read the replay again and overwrite it
        return None


def _reader(conn, parent, min_version, cache_dir):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    while True:
        while not conn.poll(1.0):
            if os.getppid() != parent:
                return
        path = conn.recv()
        if path is None:
            return
        conn.send(_read_one(path, min_version, cache_dir))


def _read_in_workers(paths, num_workers, min_version, cache_dir):
    """Yield (path, result of _read_one) as they come. A reader that dies costs its file, never the run.

    Own processes and pipes rather than an executor: an executor cannot say which file killed its worker.
    """
    # Forked readers import nothing: not torch, not even pyarrow.
    context = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn")
    todo, busy = list(reversed(paths)), {}  # busy: our end of the pipe -> (process, path)

    def give(process, conn):
        if not todo:
            with contextlib.suppress(OSError):
                conn.send(None)
            process.join(5)
            conn.close()
            return
        busy[conn] = process, todo.pop()
        with contextlib.suppress(OSError):  # already dead: the wait below finds out
            conn.send(busy[conn][1])

    def start():
        ours, theirs = context.Pipe()
        process = context.Process(target=_reader, args=(theirs, os.getpid(), min_version, cache_dir), daemon=True)
        process.start()
        theirs.close()
        give(process, ours)

    try:
        for _ in range(num_workers):
            start()
        while busy:
            for conn in multiprocessing.connection.wait(list(busy)):
                process, path = busy.pop(conn)
                try:
                    result = conn.recv()
                except (EOFError, OSError):
                    process.join(5)
                    result = f"the process that read it died (exit code {process.exitcode})"
                    conn.close()
                    if todo:
                        start()
                else:
                    give(process, conn)
                yield path, result
    finally:
        for process, _ in busy.values():
            process.terminate()
        for process, _ in busy.values():
            process.join(5)


def same_fighter(a: int, b: int) -> bool:
    """Are two internal character ids the same choice of fighter? Zelda and Sheik are."""
    return a == b or {int(a), int(b)} == {SHEIK, ZELDA}


def subjects(replays: list[Replay], character: int | None = None, player_port: int | None = None) -> list[tuple]:
    """Whose inputs to learn from: a list of (replay index, player index); both players by default.

    character: internal id, as played at the start (Zelda and Sheik are one). player_port: 1..4, as on the console.
    """
    chosen = [
        (index, player)
        for index, replay in enumerate(replays) for player in range(NUM_PLAYERS)
        if (character is None or same_fighter(replay.meta["characters"][player], character))
        and (player_port is None or replay.meta["ports"][player] == player_port - 1)
    ]
    if not chosen:
        raise ReplayError(f"no player with character={character}, player_port={player_port} in {len(replays)} replays")
    return chosen


def split_by_game(replays: list[Replay], fraction: float = 0.1) -> tuple[list[int], list[int]]:
    """(indices to train on, indices held out). By the game's hash, so a game never changes sides when files are added.

    With two games or more both lists hold at least one; that game, chosen for want of another, may change sides later.
    """
    draw = [int(replay.meta["game"][:8], 16) / 2**32 for replay in replays]
    held_out = {value for value in draw if value < fraction}
    if len(set(draw)) >= 2:
        held_out = held_out or {min(draw)}
        if len(held_out) == len(set(draw)):
            held_out.remove(max(draw))
    return ([i for i, value in enumerate(draw) if value not in held_out],
            [i for i, value in enumerate(draw) if value in held_out])


# ---------------------------------------------------------------------------------------------------------------------
# Replays out: frames -> .slp
# ---------------------------------------------------------------------------------------------------------------------


def write_slp(path: str | Path, frames: np.ndarray, controllers: np.ndarray, **options) -> None:
    """Write a whole game, frames [T] FRAME with consecutive ids and controllers [T, 2] CONTROLLER, to a .slp file.

    Reads back equal through `read_replay` where Slippi has the field: items packed from slot 0, `charge` only in the
    items that have one, one analog trigger at a time. Options as for SlpWriter.
    """
    with SlpWriter(path, **options) as writer:
        writer.add(frames, controllers)


class SlpWriter:
    """A .slp file that grows: `add` any number of times, then `close`. Until then the game lies in `<name>.part`.

    That file is whole after every `add`, but for the game's end: any parser reads it up to the last frame, also when its
    writer was killed, and `finish_recordings` gives it its name. It is locked while it grows.
    names, codes: one string a player, shown by viewers. cpu_levels: 0 is a person or a policy. seed: the game's.
    frozen_stadium: is Pokemon Stadium frozen in this game? started: seconds since 1970, None for now.
    As a context manager it closes on success and removes the unfinished file on an exception.
    Raises UserError if another process writes the same file, OSError where the disk fails: then `abort`.
    """

    def __init__(self, path, *, names=("", ""), codes=("", ""), cpu_levels=(0, 0), seed=0, frozen_stadium=True,
                 started=None):
        self.path = Path(path)
        self.part = self.path.with_name(self.path.name + ".part")
        self.names, self.codes, self.cpu_levels = names, codes, cpu_levels
        self.seed, self.frozen_stadium = seed, frozen_stadium
        self.started = time.time() if started is None else started
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = _open_locked(self.part)
        if self.file is None:
            raise UserError(f"{self.part}: another process is recording to this file; choose another folder")
        self.file.truncate(0)
        self._write(0, SLP_HEAD)
        self.length = 0                    # bytes of events so far
        self.last = None                   # the last frame written, FRAME [1]
        self.played = [{}, {}]             # frames played by each internal character, one dict a player

    def __enter__(self):
        return self

    def __exit__(self, kind, value, traceback):
        if kind is None:
            self.close()
        else:
            self.abort()

    def add(self, frames: np.ndarray, controllers: np.ndarray) -> None:
        """Append frames [T] (or one record) and their controllers [T, 2]: controllers[t] produced frames[t].

        Raises ValueError if the ids do not continue the game, or a record cannot be told in a .slp file.
        """
        frames = np.atleast_1d(np.asarray(frames, FRAME))
        controllers = np.asarray(controllers, CONTROLLER).reshape(-1, NUM_PLAYERS)
        if len(frames) != len(controllers):
            raise ValueError(f"{len(frames)} frames but controllers for {len(controllers)}")
        if len(frames) == 0:
            return
        if self.last is None:
            self._seat(frames[0])
            # Viewers expect a game to begin at -123: hold the first frame until it does.
            missing = int(frames["frame_id"][0]) - FIRST_FRAME
            frames = np.concatenate([np.repeat(frames[:1], max(missing, 0)), frames])
            controllers = np.concatenate([np.zeros((max(missing, 0), NUM_PLAYERS), CONTROLLER), controllers])
            frames["frame_id"][:max(missing, 0)] = np.arange(FIRST_FRAME, FIRST_FRAME + max(missing, 0))
            before = frames[:1]
        else:
            before = self.last
        expected = np.arange(len(frames)) + (FIRST_FRAME if self.last is None else int(before["frame_id"][0]) + 1)
        if (frames["frame_id"] != expected).any():
            t = int(np.argmax(frames["frame_id"] != expected))
            raise ValueError(f"frame ids must be consecutive: got {frames['frame_id'][t]} instead of {expected[t]}")
        before = np.concatenate([before, frames[:-1]])
        events = _encode_frames(frames, controllers, before, self.ports, self.last is None, self.seed)
        if self.last is None:
            events = self._game_start(frames[0]) + events
        for player in range(NUM_PLAYERS):
            ids, counts = np.unique(frames["players"]["character"][:, player], return_counts=True)
            for internal, count in zip(ids.tolist(), counts.tolist(), strict=True):
                self.played[player][internal] = self.played[player].get(internal, 0) + count
        self.last = frames[-1:].copy()
        self._append(events)

    def close(self, end: str | None = None, lras: int | None = None) -> None:
        """Write the game's end and move the file into place. end: "Game", "Time", "NoContest"; None to infer it from
        the last frame. lras: index of the player who quit, or None. Raises ValueError if nothing was added."""
        if self.last is None:
            self.abort()
            raise ValueError(f"{self.path}: no frames were added")
        last = self.last[0]
        stocks, percent = last["players"]["stocks"].tolist(), last["players"]["percent"].tolist()
        if end is None:
            end = "Game" if min(stocks) <= 0 else "Time" if last["frame_id"] >= TIME_LIMIT else "NoContest"
        rank = [(stocks[i], -percent[i]) for i in range(NUM_PLAYERS)]
        placements = [-1, -1, -1, -1]
        for i, port in enumerate(self.ports):
            placements[port] = int(rank[i] < rank[1 - i])  # 0 is first; a tie has two firsts
        quitter = -1 if lras is None else self.ports[lras]
        self._append(struct.pack(">BBb4b", 0x39, END_METHODS[end], quitter, *placements))
        os.fsync(self.file.fileno())
        if os.name == "nt":
            self.file.close()              # Windows renames no open file
        os.replace(self.part, self.path)   # elsewhere still locked: nobody may take the game for one left behind
        self.file.close()

    def abort(self) -> None:
        """Forget the game: remove the unfinished file."""
        self.file.close()
        with contextlib.suppress(FileNotFoundError):
            self.part.unlink()

    def _append(self, events):
        """Events in place of the old metadata, then metadata as of now, then the length. Between the two writes a parser
        may stumble; `finish_recordings` does not, for it trusts the events alone."""
        last = int(self.last["frame_id"][0])
        players = {str(port): {
            "names": {"netplay": self.names[i], "code": self.codes[i]} if self.names[i] else {},
            "characters": {str(internal): count for internal, count in self.played[i].items()},
        } for i, port in enumerate(self.ports)}
        started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.started))
        self._write(EVENTS_AT + self.length, events + _metadata(players, last, startAt=started))
        self.length += len(events)
        self._write(len(SLP_HEAD), struct.pack(">i", self.length))

    def _write(self, at, data):
        self.file.seek(at)
        while data:                        # an unbuffered write may write a part
            data = data[self.file.write(data):]

    def _seat(self, frame):
        players = frame["players"]
        self.ports = tuple(players["port"].tolist())
        if not 0 <= self.ports[0] < self.ports[1] <= 3:
            raise ValueError(f"players must sit at ports 0..3, the first at the lower one, not at {self.ports}")
        for internal in players["character"].tolist():
            if not 0 <= internal < len(EXTERNAL_CHARACTER):
                raise ValueError(f"character {internal} is no internal character id (0..{len(EXTERNAL_CHARACTER) - 1})")

    def _game_start(self, frame):
        """The table of event sizes and the game start event."""
        players = frame["players"]
        start = bytearray(GAME_START_SIZE)
        start[0:4] = 0x36, *SLP_VERSION
        start[5:9] = 0x32, 0x01, 0x86, 0x4C            # rules as in any tournament game: stocks, 8 minutes, no items
        start[0x10:0x12] = 0xFF, 0xFF                  # item frequency none, self-destructs count -1
        struct.pack_into(">HI", start, 0x13, int(frame["stage"]), TIME_LIMIT // 60)
        start[0x28:0x2D] = b"\xff" * 5                 # which items could appear if any did
        struct.pack_into(">f", start, 0x35, 1.0)       # damage ratio
        for port in range(6):
            at = 0x65 + 0x24 * port
            start[at + 1] = 3                          # empty
            struct.pack_into(">fff", start, at + 0x18, 1.0, 1.0, 1.0)  # offense, defense, model scale
        for i, port in enumerate(self.ports):
            at = 0x65 + 0x24 * port
            start[at] = EXTERNAL_CHARACTER[players["character"][i]]
            start[at + 1] = 1 if self.cpu_levels[i] else 0
            start[at + 2] = int(players["stocks"][i])
            start[at + 3] = i if players["character"][0] == players["character"][1] else 0  # costumes tell twins apart
            start[at + 8], start[at + 0xC], start[at + 0xF] = 9, 0xC0, self.cpu_levels[i]
            _put_text(start, 0x1A5 + 31 * port, 31, self.names[i])
            _put_text(start, 0x221 + 10 * port, 10, self.codes[i].replace("#", "＃"))
        struct.pack_into(">I", start, 0x13D, self.seed)
        for port in range(4):
            struct.pack_into(">II", start, 0x141 + 8 * port, 1, 1)     # UCF dash back and shield drop
        start[0x1A2], start[0x1A3], start[0x1A4] = int(self.frozen_stadium), 2, 2  # scene: versus, in game
        start[0x2BD] = 1                               # English
        table = b"".join(struct.pack(">BH", command, size - 1) for command, size in EVENT_SIZES.items())
        return bytes([0x35, 1 + len(table)]) + table + bytes(start)


def finish_recordings(folder: str | Path) -> list[tuple[Path, int]]:
    """Give the games that a killed SlpWriter left in `folder` their names -> [(path, last frame id)].

    They have no game end, as a game that was switched off. A file that holds no frame is removed; one that somebody is
    still writing, or whose name is taken, stays as it is.
    """
    finished = []
    for part in sorted(Path(folder).glob("*.slp.part")):
        path = part.with_suffix("")
        file = _open_locked(part)
        if file is None or path.exists():
            continue
        with file:
            try:
                whole, last = finished_slp(file.read())
            except ReplayError:
                part.unlink()
                continue
            atomic_write(path, whole)
            part.unlink()
        finished.append((path, last))
    return finished


def finished_slp(data: bytes) -> tuple[bytes, int]:
    """-> the bytes of a .slp file that was cut off, ended after its last whole frame, and that frame's id.

    What its head says of lengths does not count, only the events themselves. Raises ReplayError if there is no frame."""
    sizes, at, end, last, ports = {0x35: data[EVENTS_AT + 1] + 1 if len(data) > EVENTS_AT + 1 else 0}, EVENTS_AT, 0, 0, set()
    for command, size in struct.iter_unpack(">BH", data[at + 2: at + 2 + (sizes[0x35] - 2) // 3 * 3]):
        sizes[command] = size + 1
    while at < len(data) and data[at] in sizes and at + sizes[data[at]] <= len(data):
        event = data[at:at + sizes[data[at]]]
        at += len(event)
        if event[0] == 0x38:
            ports.add(event[5])
        elif event[0] == 0x3C:                                              # a frame is whole with its bookend
            end, last = at, struct.unpack_from(">i", event, 1)[0]
        elif event[0] == 0x39:
            end = at
    if not ports or not end:
        raise ReplayError("no whole frame")
    metadata = data[at:]
    if not (metadata.startswith(METADATA) and metadata.endswith(b"dolphin}}")):
        metadata = _metadata({str(port): {"names": {}, "characters": {}} for port in sorted(ports)}, last)
    return SLP_HEAD + struct.pack(">i", end - EVENTS_AT) + data[EVENTS_AT:end] + metadata, last


class Recorder:
    """The .slp files of the games that are on. A frame reaches the disk at once while games are no faster than a person
    plays, else within a hundredth of a second, or as soon as the disk allows. When the disk fails, recording ends."""

    def __init__(self, folder: str | Path, slots: int):
        """slots: games at a time. Finishes what a killed process left in the folder; older recordings stay as they are."""
        self.folder, self.names = Path(folder), [("", "")] * slots          # names: of the players of each slot
        self.cpu_levels = [(0, 0)] * slots                                  # 1 to 9: Melee's own computer player
        check_writable("--record", self.folder / "game.slp")
        if os.name != "nt":
            import resource                                                 # here: it is not there on Windows
            most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 64
            if slots > most:
                raise UserError(f"--record {folder}: {slots} games at a time need {slots} open files, and the limit is {most}; "
                                "play fewer at a time, or raise it with ulimit -n")
        for path, last in finish_recordings(folder):
            print(f"{path}: left behind by a process that was killed; kept up to frame {last}", file=sys.stderr)
        numbers = [path.name.split("_")[1] for path in self.folder.glob("game_*_*.slp*")]
        self.next_number = 1 + max((int(n) for n in numbers if n.isdigit()), default=0)
        self.writers: dict[int, SlpWriter] = {}                             # of each slot
        self.waiting: dict[int, list[tuple[bytes, bytes]]] = {}             # its frames and controllers, not yet written
        self.numbers: dict[int, int] = {}                                   # of its game, if that has to start over
        self.interval, self.flushed_at, self.recorded, self.failed = .01, 0., 0, False

    def begin(self, slots: np.ndarray, frames: np.ndarray, controllers: np.ndarray) -> None:
        if self.failed:
            return
        names = {internal: name for name, internal in FIGHTERS.items()}
        with self._disk():
            for g in slots:
                number = self.numbers.pop(g, self.next_number)
                self.next_number = max(self.next_number, number + 1)
                who = "_vs_".join(names[int(k)] for k in frames[g]["players"]["character"])
                path = self.folder / f"game_{number:03d}_{who}.slp"
                self.writers[g], self.waiting[g] = SlpWriter(path, names=self.names[g], cpu_levels=self.cpu_levels[g]), []
        self.add(slots, frames, controllers)

    def add(self, slots: np.ndarray, frames: np.ndarray, controllers: np.ndarray) -> None:
        if not self.failed:
            for g in slots:
                self.waiting[g].append((frames[g].tobytes(), controllers[g].tobytes()))
            if time.perf_counter() - self.flushed_at > self.interval:
                self._flush()

    def drop(self, slot: int) -> None:
        """This game starts over, under its number."""
        if slot in self.writers:
            self.numbers[slot] = int(self.writers[slot].path.name.split("_")[1])
            self.writers.pop(slot).abort()

    def end(self, slot: int, how: str | None = None) -> None:
        self._flush()
        with self._disk():
            if slot in self.writers:
                self.writers[slot].close(how)
                del self.writers[slot]
                self.recorded += 1

    def close(self) -> None:
        """What is still on was quit."""
        for g in list(self.writers):
            self.end(g, "NoContest")

    def _flush(self) -> None:
        start = time.perf_counter()
        with self._disk():
            for g, writer in self.writers.items():
                if self.waiting[g]:
                    frames, controllers = (b"".join(part) for part in zip(*self.waiting[g], strict=True))
                    writer.add(np.frombuffer(frames, FRAME), np.frombuffer(controllers, CONTROLLER))
                    self.waiting[g] = []
        self.flushed_at = time.perf_counter()
        self.interval = max(.01, self.flushed_at - start)                   # writing takes at most half of the time

    @contextlib.contextmanager
    def _disk(self):
        """A full disk costs the recordings that are on, and no game."""
        try:
            yield
        except OSError as error:
            self.failed = True
            print(f"warning: --record {self.folder}: cannot write ({error.strerror}); the games go on unrecorded; make room or "
                  "choose another folder", file=sys.stderr)
            for writer in self.writers.values():
                writer.abort()
            self.writers.clear()


def _open_locked(path):
    """The file, new or as it is, for reading and writing, and for us alone until it is closed; None if it is another's."""
    open(path, "ab").close()
    file = open(path, "rb+", buffering=0)
    if os.name == "nt":                                                     # no locks there
        return file
    import fcntl
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):        # not renamed by its owner meanwhile
            return file
    except OSError:
        pass
    file.close()
    return None


def _put_text(buffer, at, size, text):
    """Shift-JIS as Melee has it, cut to fit with a final zero and never within a character."""
    data = b""
    for letter in text:
        encoded = letter.encode("shift_jis", errors="replace")
        if len(data) + len(encoded) >= size:
            break
        data += encoded
    buffer[at:at + len(data)] = data


def _metadata(players, last, **more):
    return METADATA + _ubjson({**more, "lastFrame": last, "players": players, "playedOn": "dolphin"}) + b"}"


def _ubjson(value):
    """UBJSON as Slippi writes it: dicts, strings, int32."""
    if isinstance(value, dict):
        return b"{" + b"".join(_ubjson(key)[1:] + _ubjson(item) for key, item in value.items()) + b"}"
    if isinstance(value, str):
        data = value.encode()[:255]
        return b"SU" + bytes([len(data)]) + data
    return b"l" + struct.pack(">i", value)


def _encode_frames(frames, controllers, before, ports, first, seed):
    """Bytes of the events of T frames. before [T] FRAME: each frame's predecessor (the first frame's is itself)."""
    length = len(frames)
    ids = frames["frame_id"]
    starts, bookends = np.zeros(length, FRAME_START_EVENT), np.zeros(length, BOOKEND_EVENT)
    starts["command"], starts["frame"], starts["scene_frame"] = 0x3A, ids, ids - FIRST_FRAME
    starts["seed"] = seed + (ids - FIRST_FRAME)
    bookends["command"], bookends["frame"], bookends["latest_finalized"] = 0x3C, ids, ids

    def encode(kind):
        """[(events [T], present [T])] of all characters, Nana after her leader."""
        out = []
        for i in range(NUM_PLAYERS):
            for follower, who in enumerate(("players", "nanas")):
                player = frames[who][:, i]
                if follower and not player["present"].any():
                    continue
                event = _encode_pre(controllers[:, i], before[who][:, i]) if kind == "pre" else _encode_post(player)
                event["frame"], event["port"], event["follower"] = ids, ports[i], follower
                if kind == "pre":
                    event["seed"] = starts["seed"]
                out.append((event, player["present"] != 0))
        return out

    # Melee's own order, and it matters: slippi-js looks for the final post-frames right before the last bookend.
    pre, items, post = encode("pre"), [], encode("post")
    for slot in range(NUM_ITEMS):
        item = frames["items"][:, slot]
        if item["present"].any():
            event = _encode_item(item, slot, ports)
            event["frame"] = ids
            items.append((event, item["present"] != 0))

    encoded = []
    for t in range(length):
        encoded.append(starts[t].tobytes())
        encoded += [event[t].tobytes() for event, present in pre if present[t]]
        encoded += _stage_events(frames[t], None if first and t == 0 else before[t])
        encoded += [event[t].tobytes() for event, present in items + post if present[t]]
        encoded.append(bookends[t].tobytes())
    return b"".join(encoded)


def _encode_pre(controllers, before):
    """[T] PRE_EVENT: the inputs, and where the previous frame left the player."""
    pre = np.zeros(len(controllers), PRE_EVENT)
    pre["command"] = 0x37
    for name in ("action", "x", "y", "facing", "percent"):
        pre[name] = before[name]
    for name, raw in (("main_x", "raw_x"), ("main_y", "raw_y"), ("c_x", "raw_c_x"), ("c_y", "raw_c_y")):
        pre[name] = controllers[name]
        pre[raw] = np.rint(np.clip(controllers[name], -1, 1) * 80)
    pre["trigger"] = np.maximum(controllers["l"], controllers["r"])
    pre["physical_l"], pre["physical_r"] = controllers["l"], controllers["r"]
    buttons = controllers["buttons"].astype(np.uint32) & 0xFFFF
    pre["physical_buttons"] = buttons
    # Melee also keeps the sticks and the triggers as digital buttons, in the upper half of the word.
    bit = 16
    for stick in ("main", "c"):
        x, y = controllers[stick + "_x"], controllers[stick + "_y"]
        for value in (y, -y, -x, x):
            buttons |= (value > 0.25).astype(np.uint32) << np.uint32(bit)
            bit += 1
    pre["buttons"] = buttons | ((pre["trigger"] > 0).astype(np.uint32) << np.uint32(31))
    return pre


def _encode_post(players):
    """[T] POST_EVENT."""
    post = np.zeros(len(players), POST_EVENT)
    post["command"] = 0x38
    for name in PLAYER.names:
        if name in POST_EVENT.names and name not in ("port", "ground"):
            post[name] = players[name]
    post["ground"] = players["ground"].astype(np.uint16)
    post["flags_1"] = np.where(players["fastfall"] != 0, FASTFALL_FLAG, 0)
    post["flags_3"] = np.where(players["in_hitstun"] != 0, HITSTUN_FLAG, 0)
    return post


def _encode_item(items, slot, ports):
    """[T] ITEM_EVENT of one slot. Our frames have no item ids; the slot keeps the order."""
    event = np.zeros(len(items), ITEM_EVENT)
    event["command"], event["id"], event["owner"] = 0x3B, slot, -1
    for name in ("x", "y", "vx", "vy", "facing", "timer", "type", "state", "damage"):
        event[name] = items[name]
    for player, port in enumerate(ports):
        event["owner"][items["owner"] == player] = port
    for item_type, byte in ITEM_CHARGE_BYTE.items():
        event[f"misc_{byte}"] += np.where(items["type"] == item_type, items["charge"], 0).astype(np.uint8)
    return event


def _stage_events(frame, before):
    """Events of what the stage changed since the frame before (None: since the stage's initial state)."""
    stage, frame_id = int(frame["stage"]), int(frame["frame_id"])
    if stage == STAGE_FOUNTAIN:
        old = (PLATFORM_RIGHT, PLATFORM_LEFT) if before is None else (before["platform_right"], before["platform_left"])
        new = frame["platform_right"], frame["platform_left"]
        return [struct.pack(">BiBf", 0x3F, frame_id, side, new[side]) for side in (0, 1) if new[side] != old[side]]
    if stage == STAGE_DREAM_LAND and frame["wind"] != (0 if before is None else before["wind"]):
        return [struct.pack(">BiB", 0x40, frame_id, int(frame["wind"]))]
    if stage == STAGE_STADIUM and frame["transformation"] != (0 if before is None else before["transformation"]):
        return [struct.pack(">BiHH", 0x41, frame_id, 2, int(frame["transformation"]) or STADIUM_NORMAL)]
    return []


# ---------------------------------------------------------------------------------------------------------------------
# A live game: libmelee's GameState -> FRAME
# ---------------------------------------------------------------------------------------------------------------------


def keep_raw_events(console) -> None:
    """Make a libmelee Console keep each frame's Slippi events in `gamestate.custom`, so that nothing is lost.

    libmelee's PlayerState lacks state_flags (hitstun, fast fall), the fractions of the state's age and more. Hooks
    three private methods of melee 0.47.6; call once, before console.connect().
    """
    for key, method in (("pre", "pre_frame"), ("post", "post_frame"), ("items", "item_update")):
        method = "_Console__" + method

        def handler(gamestate, event_bytes, key=key, original=getattr(console, method)):
            original(gamestate, event_bytes)
            gamestate.custom.setdefault(key, []).append(bytes(event_bytes[:EVENT_SIZES[event_bytes[0]]]))

        setattr(console, method, handler)


def _raw_events(gamestate, key, dtype):
    events = gamestate.custom.get(key, [])
    return np.frombuffer(b"".join(event.ljust(dtype.itemsize, b"\0") for event in events), dtype)


def frame_from_gamestate(gamestate, ports) -> np.ndarray:
    """The FRAME record (shape ()) of one in-game libmelee GameState. ports: two of libmelee's port numbers, 1..4.

    After `keep_raw_events(console)`, equal to the frame that `read_replay` makes of the same game's file. Without it,
    PlayerState and Projectile are all there is: in_hitstun is a guess from the action, hurtbox from `invulnerable`;
    hitlag, hitstun, state_age and the items' timer are whole numbers, and fastfall, l_cancel, last_attack, last_hit_by,
    combo, ground, and the items' facing, damage and charge stay 0. Online, libmelee shows a rolled-back frame as it was
    first played, a file as it was last. The stage is 0 where libmelee does not know it (all but the six legal ones).
    """
    frame = np.zeros((), FRAME)
    frame["frame_id"] = gamestate.frame
    frame["stage"] = LIBMELEE_STAGE.get(int(gamestate.stage.value), 0)
    if frame["stage"] == STAGE_FOUNTAIN:
        platforms = gamestate.fod_platforms  # None before Slippi 3.18
        frame["platform_left"] = PLATFORM_LEFT if platforms is None else platforms.left
        frame["platform_right"] = PLATFORM_RIGHT if platforms is None else platforms.right
    if gamestate.whispy is not None:
        frame["wind"] = int(gamestate.whispy.value)
    if gamestate.stadium_transformation is not None:
        kind = int(gamestate.stadium_transformation.type.value)
        frame["transformation"] = 0 if kind == STADIUM_NORMAL else kind

    numbers = [port - 1 for port in ports]
    if "post" in gamestate.custom:
        post = _raw_events(gamestate, "post", POST_EVENT)
        records = _players_from_post(post)
        records["port"] = post["port"]
        for record, port, follower in zip(records, post["port"].tolist(), post["follower"].tolist(), strict=True):
            if port in numbers:
                frame["nanas" if follower else "players"][numbers.index(port)] = record
        items = _raw_events(gamestate, "items", ITEM_EVENT)
    else:
        for i, port in enumerate(ports):
            leader = gamestate.players.get(port)
            for who, state in (("players", leader), ("nanas", leader.nana if leader else None)):
                if state is not None:
                    frame[who][i] = _players_from_post(_post_from_state(state, who == "nanas"))[0]
                    frame[who][i]["port"] = port - 1
        items = np.zeros(len(gamestate.projectiles), ITEM_EVENT)
        for event, projectile in zip(items, gamestate.projectiles, strict=True):
            event["x"], event["y"] = projectile.position.x, projectile.position.y
            event["vx"], event["vy"] = projectile.speed.x, projectile.speed.y
            event["timer"], event["type"] = projectile.expiration_frames, projectile.type.value
            event["state"], event["id"], event["owner"] = projectile.subtype, projectile.spawn_id, projectile.owner - 1
    _place_items(frame["items"][None], np.zeros(len(items), np.int64), items, numbers)
    return frame


def controllers_from_gamestate(gamestate, ports) -> np.ndarray:
    """[2] CONTROLLER: the inputs that produced this GameState's frame. Needs `keep_raw_events(console)`."""
    if "pre" not in gamestate.custom:
        raise ValueError("libmelee rounds inputs: call keep_raw_events(console) before console.connect()")
    pre = _raw_events(gamestate, "pre", PRE_EVENT)
    controllers = np.zeros(NUM_PLAYERS, CONTROLLER)
    records = _controllers_from_pre(pre)
    for record, port, follower in zip(records, pre["port"].tolist(), pre["follower"].tolist(), strict=True):
        if port + 1 in ports and not follower:
            controllers[list(ports).index(port + 1)] = record
    return controllers


def _post_from_state(state, is_nana):
    """What libmelee's PlayerState shows, as POST_EVENT [1]."""
    post = np.zeros(1, POST_EVENT)
    post["x"], post["y"], post["facing"] = state.position.x, state.position.y, 1 if state.facing else -1
    post["character"], post["action"] = state.character.value, state.action.value
    post["percent"], post["shield"], post["stocks"] = state.percent, state.shield_strength, state.stock
    post["self_vx_air"], post["self_vy"] = state.speed_air_x_self, state.speed_y_self
    post["kb_vx"], post["kb_vy"] = state.speed_x_attack, state.speed_y_attack
    post["self_vx_ground"], post["hitlag"] = state.speed_ground_x_self, state.hitlag_left
    post["airborne"], post["jumps"] = not state.on_ground, state.jumps_left
    post["hurtbox"] = 2 * bool(state.invulnerable)
    # libmelee has already counted actions from 1, but not Nana's; _players_from_post will count both.
    counted = not is_nana and _zero_indexed_actions()[int(state.character.value) & 31, int(state.action.value) & 1023]
    post["state_age"] = state.action_frame - int(counted)
    # Outside hitstun its hitstun holds other things, so it counts only in the actions of being hit, lying down or not.
    action = int(state.action.value)
    struck = (75 <= action <= 91 or action in (185, 193)) and state.hitstun_frames_left > 0
    post["hitstun"], post["flags_3"] = state.hitstun_frames_left, HITSTUN_FLAG if struck else 0
    return post


# ---------------------------------------------------------------------------------------------------------------------
# Controller codec: CONTROLLER records <-> discrete heads. One object for labels, play, distillation and export.
# ---------------------------------------------------------------------------------------------------------------------

BUTTONS = {"A": BUTTON_A, "B": BUTTON_B, "X": BUTTON_X, "Y": BUTTON_Y, "Z": BUTTON_Z, "L": BUTTON_L, "R": BUTTON_R,
           "D_UP": BUTTON_D_UP}
BUTTON_BITS = np.array(list(BUTTONS.values()), np.int32)

# Stick positions in 1/80, the game's own step: one for each stretch between the thresholds that decide what a stick does.
# Nearest-point bins would straddle them and turn one label in fourteen on the vertical axis into another move.
_HALF = np.array([23, 34, 44, 50, 54, 59, 70, 80])
_FROM = np.array([23, 29, 40, 49, 53, 56, 64, 76])  # 23 out of the dead zone, 49 crouch, 53 tap jump and platform drop,
                                                    # 56 spot dodge and roll, 64 dash and smash; 29, 40, 76 for precision
STICK_GRID = np.concatenate([-_HALF[::-1], [0], _HALF]).astype(np.float32) / np.float32(80)          # [17]
SHOULDER_GRID = np.array([0, 49, 77, 105, 140], np.float32) / np.float32(140)                         # [5], light to full
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
    inside = np.where((np.abs(inside) < 22.5 / 80) & (inside != 0), np.sign(inside) * 23 / 80, inside)  # not the dead zone
    return np.where((pull > 1)[..., None], inside, np.stack([x, y], -1)).astype(np.float32)


STICK_TABLE = _stick_table()
_STEPS = np.arange(-80, 81)
_STICK_INDEX = (STICK_NEUTRAL + np.sign(_STEPS) * np.searchsorted(_FROM, np.abs(_STEPS), "right")).astype(np.int8)    # [161]
_NEAREST_SHOULDER = np.abs(np.arange(0, 141)[:, None] / 140 - SHOULDER_GRID).argmin(1).astype(np.int8)


def mirrored(frames: np.ndarray) -> np.ndarray:
    """FRAME [...] -> bool [..., 2]: does this player see the frame with left and right exchanged? It does while the opponent is
    to its left. So a policy always has the opponent on its right, and what it learns on one side it can do on the other.
    Melee's moves and stages are symmetric, but for what no observation shows: Yoshi's cloud, Dream Land's wind."""
    x = frames["players"]["x"]
    return x[..., ::-1] < x


def encode_controllers(controllers: np.ndarray, mirror: np.ndarray | None = None) -> np.ndarray:
    """CONTROLLER [...] -> int8 [..., 13], the grid point of its stretch per axis. Exact for what `decode_actions` makes of grid
    points inside the unit circle. START and the other d-pad directions have no head. mirror [...]: seen by a `mirrored` player."""
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
    """Integers [..., 13] -> CONTROLLER [...]. Always a legal controller: sticks lie in the unit circle. mirror [...]: who chose
    these actions on a `mirrored` frame; whatever a policy chose goes back through it."""
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
_OWNER_COLUMNS, _PRESENT_COLUMNS = (
    np.array([_field("items", slot, name)[0] // 2 for slot in range(NUM_ITEMS)]) for name in ("owner", "present"))
_OWNED = _RELATIVE + 2
_CONTROLLER = _OWNED + NUM_ITEMS
NUM_FLOATS = _CONTROLLER + _CONTROLLER_FLOATS
OWN_CONTROLLER = slice(_CONTROLLER, NUM_FLOATS)            # columns of the own last controller
NUM_INTS = _INT_COLUMNS.shape[1]
_INT_LIMITS = np.array([NUM_ACTIONS, NUM_CHARACTERS] * 2 + [NUM_STAGES] + [NUM_ITEM_TYPES] * NUM_ITEMS, np.int16) - 1
_OPPONENT_X = len(_PLAYER_FLOATS)
_PLATFORMS = slice(2 * len(_PLAYER_FLOATS), 2 * len(_PLAYER_FLOATS) + 2)
_SIDEWAYS = {"x", "vx", "self_vx_air", "self_vx_ground", "kb_vx", "facing"}
_FLOAT_NAMES = [name for name, _ in [*_PLAYER_FLOATS * 2, ("left", 1), ("right", 1), *_ITEM_FLOATS * NUM_ITEMS]]
_FLIP = np.where(np.isin(_FLOAT_NAMES, list(_SIDEWAYS)), np.float32(-1), np.float32(1))
_FLOAT_SCALES = np.stack([_FLOAT_SCALES, _FLIP * _FLOAT_SCALES])            # [2, F]: as it is, mirrored


def observe(frames: np.ndarray, controllers: np.ndarray) -> Observation:
    """FRAME [N] and the CONTROLLER [N, 2] that made them -> Observation with floats [N, 2, F] and ints [N, 2, I].

    Row [n, p] is frame n as player p sees it: itself first, then the opponent, who is to its right (`mirrored`). The own last
    controller is part of it, because a button acts when it goes down: a policy must know what it holds. The opponent's is not."""
    n = len(frames)
    frames = np.ascontiguousarray(frames)
    as_floats = frames.view(np.float32).reshape(n, -1)
    as_ints = frames.view(np.int16).reshape(n, -1)
    floats, mirror = np.empty((n, 2, NUM_FLOATS), np.float32), mirrored(frames)
    side = np.where(mirror, np.float32(-1), np.float32(1))                  # 1: as it is, -1: left for right
    np.multiply(as_floats[:, _FLOAT_COLUMNS], _FLOAT_SCALES[mirror.view(np.int8)], out=floats[..., :_NUM_FRAME_FLOATS])
    floats[mirror, _PLATFORMS] = floats[mirror, _PLATFORMS][:, ::-1]
    np.multiply(as_ints[:, _SMALL_COLUMNS], _SMALL_SCALES, out=floats[..., _NUM_FRAME_FLOATS:_RELATIVE])
    floats[..., _RELATIVE:_OWNED] = floats[..., _OPPONENT_X:_OPPONENT_X + 2] - floats[..., 0:2]
    owner, present = as_ints[:, _OWNER_COLUMNS], as_ints[:, _PRESENT_COLUMNS] != 0                   # [N, items]
    floats[:, 0, _OWNED:_CONTROLLER] = present & (owner == 0)
    floats[:, 1, _OWNED:_CONTROLLER] = present & (owner == 1)
    for k, axis in enumerate(("main_x", "main_y", "c_x", "c_y")):
        floats[..., _CONTROLLER + k] = controllers[axis] * side if axis.endswith("x") else controllers[axis]
    floats[..., _CONTROLLER + 4] = np.maximum(controllers["l"], controllers["r"])
    floats[..., _CONTROLLER + 5:] = (controllers["buttons"][..., None] & BUTTON_BITS) != 0
    ints = np.clip(as_ints[:, _INT_COLUMNS], 0, _INT_LIMITS)
    return Observation(floats, ints)


def schema_hash() -> str:
    """Changes whenever a checkpoint's inputs or outputs would mean something else."""
    parts = [FRAME.descr, CONTROLLER.descr, _PLAYER_FLOATS, _PLAYER_SMALL_INTS, _ITEM_FLOATS, _ITEM_SMALL_INTS,
             sorted(_SIDEWAYS), "owners of items that are there", list(BUTTONS), STICK_GRID.tolist(), SHOULDER_GRID.tolist(),
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
        """features [B, H], uniform noise [B, 81] in (0, 1) or None for the most likely -> actions [B, 13] int64.

        A frame of play is forty small operations, most of them here: calling a layer's function instead of the layer, and few
        slices, make this a fifth faster."""
        layers, tables, seen = self.logits, self.seen, self.project(features)
        logits = F.linear(torch.relu(seen), layers["buttons"].weight, layers["buttons"].bias)
        if noise is not None:
            noise = noise.clamp(1e-6, 1 - 1e-6)                             # float32 cannot tell 1 - 1e-8 from 1
            logits = logits + torch.logit(noise[:, :NUM_BUTTONS])           # logistic noise: a Bernoulli sample
            gumbel = -torch.log(-torch.log(noise[:, NUM_BUTTONS:]))         # Gumbel noise: a categorical sample
            gumbel = dict(zip(list(HEADS)[1:], gumbel.split(list(HEADS.values())[1:], -1), strict=True))
        pressed, choices = logits > 0, []
        seen = seen + F.linear(pressed.to(features.dtype), self.seen_buttons.weight)
        for name in list(HEADS)[1:]:
            logits = F.linear(torch.relu(seen), layers[name].weight, layers[name].bias)
            choices.append((logits if noise is None else logits + gumbel[name]).argmax(-1))
            if name in tables:
                seen = seen + F.embedding(choices[-1], tables[name].weight)
        return torch.cat([pressed.long(), torch.stack(choices, -1)], -1)


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


@torch.no_grad()
def evaluate_actions(policy: "Policy", obs: Observation, state: tuple, starts, actions) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and log-probabilities [T, B] that `policy` gives to a rollout, which begins with memory `state`. Some columns at a
    time: a forward over all of a long rollout needs megabytes for each game."""
    parts, columns = [], max(1, 4096 // len(actions))
    for s in (slice(k, k + columns) for k in range(0, actions.shape[1], columns)):
        seen = Observation(obs.floats[:, s], obs.ints[:, s])
        features, _ = policy.unroll(seen, tuple(x[s] for x in state), starts[:, s])
        logprobs, _ = action_logprobs(policy.logits(features, actions[:, s]), actions[:, s])
        parts.append((policy.value(features), logprobs.sum(-1)))
    values, logprobs = (torch.cat(column, 1) for column in zip(*parts, strict=True))
    return values, logprobs


def action_kl(logits: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """KL(logits || other) of two controllers that were shown the same actions: [..., 81] twice -> [...], summed over heads."""
    def parts(x):
        buttons, sticks, shoulder = x.split([NUM_BUTTONS, 4 * NUM_STICK, NUM_SHOULDER], -1)
        return buttons, sticks.unflatten(-1, (4, NUM_STICK)).log_softmax(-1), shoulder.log_softmax(-1)

    (buttons, sticks, shoulder), (other_buttons, other_sticks, other_shoulder) = parts(logits), parts(other)
    pressed = buttons.sigmoid()
    bernoulli = pressed * (buttons - other_buttons) + F.softplus(other_buttons) - F.softplus(buttons)
    return (bernoulli.sum(-1) + (sticks.exp() * (sticks - other_sticks)).sum((-1, -2))
            + (shoulder.exp() * (shoulder - other_shoulder)).sum(-1))


class Policy(nn.Module):
    """One interface for every backbone. `unroll` learns over time, `step` acts on one frame, and they agree.

    State is explicit: a flat tuple of tensors [B, ...], empty for the mlp. `config` rebuilds the policy."""

    action_repeat, frame_delay = 1, 0                                       # how it was trained to act: `load_policy` sets them

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
        # One GRU cell, by hand because torch.vmap has no rule for torch.gru_cell and would loop (StackedPolicies).
        reset_x, update_x, new_x = F.linear(x, self.gru.weight_ih_l0, self.gru.bias_ih_l0).chunk(3, -1)
        reset_h, update_h, new_h = F.linear(state[0], self.gru.weight_hh_l0, self.gru.bias_hh_l0).chunk(3, -1)
        new = torch.tanh(new_x + torch.sigmoid(reset_x + reset_h) * new_h)
        h = torch.lerp(new, state[0], torch.sigmoid(update_x + update_h))
        return torch.cat([x, h], -1), (h,)

    def step(self, obs: Observation, state: tuple, noise: torch.Tensor | None) -> tuple[torch.Tensor, tuple]:
        """obs [B, ...], uniform noise [B, 81] (None: the most likely action) -> actions [B, 13], new state."""
        features, state = self.features(obs, state)
        return self.controller_head.sample(features, noise), state

    forward = step                                                          # what torch.func calls

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
    if not sizes or min(sizes) < 1 or max(sizes) > 65536:
        raise UserError(f"--hidden {text!r}: give layer sizes up to 65536, separated by commas, e.g. 512,512")
    return sizes


# ---------------------------------------------------------------------------------------------------------------------
# Rewards
#
# A term must not pay for what can be repeated for nothing. There are three kinds, and each is safe in its own way:
#   earned by one, paid by the other   zero-sum: two copies of a policy gain nothing by agreeing, and each payment rests on
#                                      damage, a stock, a game or a spent projectile of the other side
#   potentials                         gamma * potential(after) - potential(before), the player's own; whatever returns to
#                                      where it began has gained nothing, and the best policy stays the best (Ng, Harada and
#                                      Russell 1999; for equilibria of several players Devlin and Kudenko 2011)
#   penalties                          never positive
# A character's term pays only the player who plays that character.
# ---------------------------------------------------------------------------------------------------------------------

@dataclass
class RewardArgs:
    """What a step pays, as flags. Zero-sum but for approach, recovery, teleport (potentials) and bomb (a penalty)."""
    reward_stock: float = 1.0
    """reward for taking a stock, and its negative for losing one (off: 0)"""
    reward_damage: float = 0.01
    """reward for each percent dealt, and its negative for each taken (off: 0)"""
    reward_win: float = 0.0
    """reward for winning a game at its end, and its negative for losing it; a truncated game has no winner (off: 0)"""
    reward_approach: float = 0.0
    """reward for closing a distance of 100 units, taken back when it opens; both players get it (off: 0)"""
    reward_combo: float = 0.0
    """further reward for each percent dealt to an opponent who is still in hitstun, zero-sum (off: 0)"""
    reward_edgeguard: float = 0.0
    """further reward for each percent dealt to an opponent who is off the stage, zero-sum (off: 0)"""
    reward_recovery: float = 0.0
    """reward for all the way from the blast zone back to the stage, taken back on the way out (off: 0)"""
    reward_confusion: float = 0.0
    """Mewtwo: reward for a hit with another move that follows Confusion, in combo or in the air, zero-sum (off: 0)"""
    reward_teleport: float = 0.0
    """Mewtwo: as the reward for recovery, but paid when the teleport begins and kept if it ends on stage or ledge (off: 0)"""
    reward_bucket: float = 0.0
    """Game & Watch: reward for each projectile caught with Oil Panic, zero-sum (off: 0)"""
    reward_hammer: float = 0.0
    """Game & Watch: further reward for each percent dealt with Judge, zero-sum (off: 0)"""
    reward_zoning: float = 0.0
    """Link: further reward for each percent dealt from afar by arrow, boomerang or bomb, zero-sum (off: 0)"""
    reward_bomb: float = 0.0
    """Link: penalty for each percent that his own bomb does to him (off: 0)"""
    reward_spacing: float = 0.0
    """Ganondorf: further reward for each percent dealt at the far end of his reach, zero-sum (off: 0)"""
    reward_stomp: float = 0.0
    """Ganondorf: reward for each hit that follows his down aerial in one combo, zero-sum (off: 0)"""
    reward_kick: float = 0.0
    """Zelda: reward for each Lightning Kick (forward or back aerial) that hits with its sweet spot, zero-sum (off: 0)"""
    reward_dins: float = 0.0
    """Zelda: further reward for each percent dealt from afar by Din's Fire, zero-sum (off: 0)"""


LINK, MEWTWO, GAMEANDWATCH, GANONDORF = 6, 16, 24, 25     # internal ids
LINK_BOMB, LINK_BOOMERANG, LINK_ARROW, DINS_FIRE, DINS_FIRE_BLAST = 0x3A, 0x3C, 0x40, 0x6C, 0x6D  # Slippi's item types
DOWN_AERIAL, SIDE_SPECIAL = 17, 19                        # Slippi's attack ids, as in last_attack
LAST_DEAD, LAST_REBIRTH = 11, 13                          # actions
LEDGE_ACTIONS, KICK_ACTIONS = (252, 259), (66, 67)        # first and last
TELEPORT_ACTIONS, JUDGE_ACTIONS = (353, 358), (355, 372)
OIL_PANIC_CATCHES = (376, 379)                            # on the ground, in the air
NEAR, FAR = 20, 40                                        # units between players: most blows fall short of NEAR, all of FAR
SOUR_SPOT = 10.5                                          # percent: a kick's sour spot does 10, its sweet spot at least 11
BELOW_STAGE = 5                                           # units under the floor; slopes and platforms reach less deep


def _stage_sides() -> np.ndarray:
    """[stages, 6] float32: the stage's left and right edge, its floor, and the left, right and lower blast zones."""
    stages = mock_melee.TABLES.stages
    sides = np.float32([[-1e9, 1e9, -1e9, -2e9, 2e9, -2e9]]).repeat(len(stages), 0)  # an unknown stage has no end
    known = stages[stages["num_floors"] > 0]
    sides[stages["num_floors"] > 0] = np.stack([known["floor_left"][:, 0], known["floor_right"][:, 0], known["floor_y"][:, 0],
                                                known["blast_left"], known["blast_right"], known["blast_bottom"]], 1)
    return sides


_STAGE_SIDES = _stage_sides()


def _between(values: np.ndarray, limits: tuple[int, int]) -> np.ndarray:
    return (limits[0] <= values) & (values <= limits[1])


def _distance(frames: np.ndarray) -> np.ndarray:
    """FRAME [N] -> [N, 1] units between the two players."""
    x, y = frames["players"]["x"], frames["players"]["y"]
    return np.hypot(x[:, :1] - x[:, 1:], y[:, :1] - y[:, 1:])


def _way_out(frames: np.ndarray) -> np.ndarray:
    """FRAME [N] -> [N, 2]: 0 on the stage, above it or on its ledge, 1 at the blast zones and while dead."""
    players, stage = frames["players"], frames["stage"]
    left, right, floor, blast_left, blast_right, blast_bottom = (
        _STAGE_SIDES[np.where(_between(stage, (0, len(_STAGE_SIDES) - 1)), stage, 0)].T[..., None])       # each [N, 1]
    x, y, action = players["x"], players["y"], players["action"]
    out = (np.maximum(left - x, 0) / (left - blast_left) + np.maximum(x - right, 0) / (blast_right - right)
           + np.maximum(floor - BELOW_STAGE - y, 0) / (floor - BELOW_STAGE - blast_bottom))
    out[(players["airborne"] == 0) | _between(action, LEDGE_ACTIONS) | _between(action, (LAST_DEAD + 1, LAST_REBIRTH))] = 0
    out[action <= LAST_DEAD] = 1
    return np.minimum(out, 1)


class Step(NamedTuple):
    """N games before and after a step. me and foe are the same players, [N, 2] PLAYER: in order, and the sides exchanged."""
    before: np.ndarray      # [N] FRAME
    after: np.ndarray       # [N] FRAME
    ended: np.ndarray       # [N] bool
    gamma: float
    me_before: np.ndarray
    me: np.ndarray
    foe_before: np.ndarray
    foe: np.ndarray
    hurt: np.ndarray        # [N, 2] float32, percent that I took, whoever did it; one that falls (a respawn) is no damage
    dealt: np.ndarray       # [N, 2] float32, percent that I dealt: the foe took it and the game says that I did it


def _make_step(before: np.ndarray, after: np.ndarray, ended: np.ndarray | None, gamma: float) -> Step:
    me_before, me = before["players"], after["players"]
    foe = me[:, ::-1]
    hurt = np.maximum(me["percent"] - me_before["percent"], 0)
    return Step(before, after, np.zeros(len(after), bool) if ended is None else ended, gamma, me_before, me,
                me_before[:, ::-1], foe, hurt, hurt[:, ::-1] * (foe["last_hit_by"] == me["port"]))


def _zero_sum(earned):
    """earned(step) -> [N, 2], what each player earns  =>  the term, in which the other pays it."""
    @functools.wraps(earned)
    def term(step: Step) -> np.ndarray:
        income = earned(step).astype(np.float32, copy=False)
        return income - income[:, ::-1]
    return term


def _potential(level):
    """level(frames) -> [N, 2] between -1 and 0  =>  the term that pays its rise. After the end of a game it is 0."""
    @functools.wraps(level)
    def term(step: Step) -> np.ndarray:
        return step.gamma * level(step.after) * ~step.ended[:, None] - level(step.before)
    return term


@_zero_sum
def stock_term(step: Step) -> np.ndarray:
    """Stocks that the foe lost, by whatever cause."""
    return (step.foe_before["stocks"] - step.foe["stocks"]).astype(np.float32)


@_zero_sum
def damage_term(step: Step) -> np.ndarray:
    """Percent that the foe took, by whatever cause."""
    return step.hurt[:, ::-1]


@_zero_sum
def win_term(step: Step) -> np.ndarray:
    """1 for the winner of a game that was decided, by stocks, then by lower percent; once a game."""
    sign = outcomes(step.after) * step.ended
    return np.stack([sign > 0, sign < 0], 1)


@_potential
def approach_term(frames: np.ndarray) -> np.ndarray:
    """0 in touch, -1 from a distance of 100 units on, and while somebody is dead or on the platform of light."""
    away = (frames["players"]["action"] <= LAST_REBIRTH).any(1, keepdims=True)
    return -np.where(away, 1, np.minimum(_distance(frames) / 100, 1)).repeat(NUM_PLAYERS, 1).astype(np.float32)


@_zero_sum
def combo_term(step: Step) -> np.ndarray:
    """Percent dealt to a foe who was still in hitstun. Real damage, which ends with the foe's stock."""
    return step.dealt * step.foe_before["in_hitstun"]


@_zero_sum
def edgeguard_term(step: Step) -> np.ndarray:
    """Percent dealt to a foe who was off the stage and not on its ledge. Real damage; going out alone pays nothing."""
    return step.dealt * (_way_out(step.before)[:, ::-1] > 0)


@_potential
def recovery_term(frames: np.ndarray) -> np.ndarray:
    """0 on the stage or ledge, -1 at the blast zone; a death leaves it there until the next stock comes down."""
    return -_way_out(frames)


def _follows(step: Step, attack: int) -> np.ndarray:
    """[N, 2] bool: a blow landed, and the one before it was `attack`."""
    return (step.me_before["last_attack"] == attack) & (step.dealt > 0)


def _in_combo(step: Step) -> np.ndarray:
    """[N, 2] bool: a blow landed that the game itself counts into the combo before it."""
    return (step.me_before["combo"] > 0) & (step.me["combo"] > step.me_before["combo"])


@_zero_sum
def confusion_term(step: Step) -> np.ndarray:
    """Mewtwo: 1 for the first hit with another move after Confusion, in its combo or before the foe has landed. Confusion
    after Confusion pays nothing: each payment needs a new opening and another blow."""
    in_time = _in_combo(step) | (step.foe_before["airborne"] == 1) | (step.foe_before["in_hitstun"] == 1)
    another = step.me["last_attack"] != SIDE_SPECIAL
    return _follows(step, SIDE_SPECIAL) & in_time & another & (step.me_before["character"] == MEWTWO)


@_potential
def teleport_term(frames: np.ndarray) -> np.ndarray:
    """Mewtwo's recovery, but at 0 while teleporting: the way back is paid when the teleport begins, and taken back if it
    ends in the air off the stage."""
    players = frames["players"]
    return -_way_out(frames) * (players["character"] == MEWTWO) * ~_between(players["action"], TELEPORT_ACTIONS)


@_zero_sum
def bucket_term(step: Step) -> np.ndarray:
    """Game & Watch: 1 when Oil Panic begins to swallow a projectile. It takes a shot of the foe's, who pays for it."""
    catching, caught_before = (np.logical_or(*(players["action"] == action for action in OIL_PANIC_CATCHES))
                               for players in (step.me, step.me_before))
    return catching & ~caught_before & (step.me_before["character"] == GAMEANDWATCH)


@_zero_sum
def hammer_term(step: Step) -> np.ndarray:
    """Game & Watch: percent dealt during Judge. Swinging it pays nothing, and a weak hammer little."""
    judges = _between(step.me_before["action"], JUDGE_ACTIONS) | _between(step.me["action"], JUDGE_ACTIONS)
    return step.dealt * judges * (step.me_before["character"] == GAMEANDWATCH)


def _has_out(frames: np.ndarray, *item_types: int) -> np.ndarray:
    """FRAME [N] -> [N, 2] bool: an item of one of these types and of this player's is in the game."""
    items = frames["items"]                                                                          # [N, slots]
    of_type = (items["present"] == 1) & np.logical_or.reduce([items["type"] == item_type for item_type in item_types])
    return np.stack([(of_type & (items["owner"] == player)).any(1) for player in range(NUM_PLAYERS)], 1)


def _dealt_from_afar(step: Step, *item_types: int) -> np.ndarray:
    """Percent dealt from beyond the reach of any blow while an item of mine of these types was out."""
    return step.dealt * _has_out(step.before, *item_types) * (_distance(step.before) > FAR)


@_zero_sum
def zoning_term(step: Step) -> np.ndarray:
    """Link: percent dealt from afar by arrow, boomerang or bomb. Shots that miss or are blocked pay nothing."""
    return _dealt_from_afar(step, LINK_ARROW, LINK_BOOMERANG, LINK_BOMB) * (step.me_before["character"] == LINK)


def bomb_term(step: Step) -> np.ndarray:
    """Link: minus the percent that he did to himself while he had a bomb out. Never positive, and nobody else earns it."""
    self_inflicted = (step.me["last_hit_by"] == step.me["port"]) & _has_out(step.before, LINK_BOMB)
    return -step.hurt * (self_inflicted & (step.me_before["character"] == LINK))


@_zero_sum
def spacing_term(step: Step) -> np.ndarray:
    """Ganondorf: percent dealt from NEAR or more, where his long blows still reach and most answers do not. Keeping the
    distance pays nothing; the blow must land."""
    return step.dealt * (_distance(step.before) >= NEAR) * (step.me_before["character"] == GANONDORF)


@_zero_sum
def stomp_term(step: Step) -> np.ndarray:
    """Ganondorf: 1 for a hit right after his down aerial in one combo, another stomp included."""
    return _follows(step, DOWN_AERIAL) & _in_combo(step) & (step.me_before["character"] == GANONDORF)


@_zero_sum
def kick_term(step: Step) -> np.ndarray:
    """Zelda, not Sheik: 1 for a forward or back aerial that did more than its sour spot can. A miss pays nothing."""
    kicks = _between(step.me_before["action"], KICK_ACTIONS) | _between(step.me["action"], KICK_ACTIONS)
    return (step.dealt > SOUR_SPOT) & kicks & (step.me_before["character"] == ZELDA)


@_zero_sum
def dins_term(step: Step) -> np.ndarray:
    """Zelda: percent dealt from afar by Din's Fire, also by one still burning when she has become Sheik."""
    body = step.me_before["character"]
    return _dealt_from_afar(step, DINS_FIRE, DINS_FIRE_BLAST) * ((body == ZELDA) | (body == SHEIK))


SHAPED_TERMS = {
    "win": win_term, "approach": approach_term, "combo": combo_term, "edgeguard": edgeguard_term, "recovery": recovery_term,
    "confusion": confusion_term, "teleport": teleport_term, "bucket": bucket_term, "hammer": hammer_term,
    "zoning": zoning_term, "bomb": bomb_term, "spacing": spacing_term, "stomp": stomp_term, "kick": kick_term,
    "dins": dins_term}  # name in the flag: Step -> [N, 2], without its coefficient
REWARD_TERMS = {"stock": stock_term, "damage": damage_term} | SHAPED_TERMS
_shaped_coefficients = operator.attrgetter(*(f"reward_{name}" for name in SHAPED_TERMS))


def compute_rewards(before: np.ndarray, after: np.ndarray, args: RewardArgs, ended: np.ndarray | None = None,
                    gamma: float = 1.) -> np.ndarray:
    """FRAME [N] before and after a step -> rewards [N, 2] float32: the sum of the terms whose coefficient is not 0.

    after: of a game that finished within the step its last frame. ended [N] bool: the game was decided (terminated; one that
    was truncated goes on in its bootstrap). gamma: the learner's discount of a step, for the potentials."""
    a, b = after["players"], before["players"]                              # stock_term and damage_term in one: they always run
    lost = np.subtract(b["stocks"], a["stocks"], dtype=np.float32)
    lost *= args.reward_stock
    hurt = a["percent"] - b["percent"]
    np.maximum(hurt, 0, out=hurt)
    hurt *= args.reward_damage
    lost += hurt                                                                                     # [N, 2]
    rewards = lost[:, ::-1] - lost
    coefficients = _shaped_coefficients(args)
    if any(coefficients):
        step = _make_step(before, after, ended, gamma)
        for coefficient, term in zip(coefficients, SHAPED_TERMS.values(), strict=True):
            if coefficient:
                rewards += coefficient * term(step)
    return rewards


def reward_terms(before: np.ndarray, after: np.ndarray, args: RewardArgs, ended: np.ndarray | None = None,
                 gamma: float = 1.) -> dict[str, np.ndarray]:
    """For logs: each active term's share of compute_rewards, [N, 2] with its coefficient, by name."""
    step = _make_step(before, after, ended, gamma)
    active = {name: coefficient for name in REWARD_TERMS if (coefficient := getattr(args, f"reward_{name}"))}
    return {name: coefficient * REWARD_TERMS[name](step) for name, coefficient in active.items()}


# ---------------------------------------------------------------------------------------------------------------------
# Advantages, outcomes, intervals
# ---------------------------------------------------------------------------------------------------------------------

def compute_gae(rewards, values, next_values, terminated, truncated, gamma: float, gae_lambda: float, rho=None):
    """Generalised advantages and value targets. All arrays [T, ...]; next_values[t] is the value of the state that followed
    step t: where a game was truncated the value of its last frame, otherwise values[t + 1] or the bootstrap after the rollout.
    Termination has no next value; neither kind of ending lets advantage flow over into the next game.

    rho [T, ...]: V-trace's truncated importance weights min(1, learner's probability / actor's) for rollouts of an older
    policy (Espeholt et al. 2018, with lambda; an action's own weight is left to the PPO ratio). None is weights of 1: GAE."""
    advantages, targets = np.zeros_like(rewards), np.zeros_like(rewards)
    running = np.zeros_like(rewards[0])
    rho = np.ones_like(rewards) if rho is None else rho
    alive = 1 - terminated.astype(np.float32)
    same_game = alive * (1 - truncated.astype(np.float32))
    deltas = rewards + gamma * next_values * alive - values
    for t in reversed(range(len(rewards))):
        advantages[t] = deltas[t] + gamma * gae_lambda * same_game[t] * running
        running = rho[t] * advantages[t]
        targets[t] = values[t] + running
    return advantages, targets


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
# Replays as training data: what a player saw, and what it did next
# ---------------------------------------------------------------------------------------------------------------------

@dataclass
class Sequences:
    """Games from the side of the players to learn from, laid end to end. N rows, one for each frame that was seen."""
    obs: Observation        # [N, ..] what the player saw: frames[t], and the controller that made it
    actions: torch.Tensor   # [N, 13] int8, what the player did next: controllers[t + 1]
    weights: torch.Tensor   # [N] 1 where the player had control then, else 0: such rows are seen but not learned
    changed: torch.Tensor   # [N] bool: the action is not the one held until then
    returns: torch.Tensor   # [N] discounted reward that followed
    starts: np.ndarray      # [S + 1] sequence s is rows starts[s] to starts[s + 1]

    def take(self, rows: torch.Tensor) -> tuple[Observation, torch.Tensor]:
        """rows [..] -> observations [.., F] and actions [.., 13]"""
        return Observation(self.obs.floats[rows], self.obs.ints[rows]), self.actions[rows]


def pack(replays: list[Replay], players: list[tuple[int, int]], gamma: float = .99) -> Sequences:
    """players: (replay index, player index) pairs, sorted. Rewards as in self-play: a stock 1, a percent of damage .01."""
    starts = np.cumsum([0] + [len(replays[i]) - 1 for i, _ in players])     # the last frame has no next controller
    n = int(starts[-1])
    data = Sequences(Observation(torch.empty(n, NUM_FLOATS), torch.empty(n, NUM_INTS, dtype=torch.int16)),
                     torch.empty(n, ACTION_SIZE, dtype=torch.int8), torch.empty(n), torch.empty(n, dtype=torch.bool),
                     torch.empty(n), starts)
    for k, (index, player) in enumerate(players):
        frames, controllers = replays[index].frames, replays[index].controllers
        if k == 0 or index != players[k - 1][0]:                            # once for both players of a game
            obs = observe(frames[:-1], controllers[:-1])                    # [T - 1, 2, ..]
            mirror = mirrored(frames[:-1])                                  # of what was seen, whenever the reply acts
            held, actions = (encode_controllers(x, mirror) for x in (controllers[:-1], controllers[1:]))     # [T - 1, 2, 13]
            returns = discount(compute_rewards(frames[:-1], frames[1:], RewardArgs()), gamma)
            has_control = (frames["frame_id"][1:] >= FIRST_CONTROL_FRAME).astype(np.float32)
        rows = slice(starts[k], starts[k + 1])
        data.obs.floats[rows] = torch.from_numpy(obs.floats[:, player])
        data.obs.ints[rows] = torch.from_numpy(obs.ints[:, player])
        data.actions[rows] = torch.from_numpy(actions[:, player])           # saw frames[t], chose controllers[t + 1]
        data.weights[rows] = torch.from_numpy(has_control)
        data.changed[rows] = torch.from_numpy((actions[:, player] != held[:, player]).any(-1))
        data.returns[rows] = torch.from_numpy(returns[:, player])
    return data


def discount(rewards: np.ndarray, gamma: float) -> np.ndarray:
    """rewards [T, ..] -> sum over k of gamma^k rewards[t + k], in log2(T) steps: each doubles the horizon."""
    returns, shift = rewards.copy(), 1
    while shift < len(returns):
        returns[:-shift] += gamma ** shift * returns[shift:].copy()
        shift *= 2
    return returns


def walk(starts: np.ndarray, stride: int = 1, lanes: int = 32, size: int = 256):
    """Every row of every sequence once, in the order of play, for policies that remember. Yields rows [T, B], real [T, B]
    (False: a stand-in after the end of a shorter game) and whether the games begin here. stride 3: as a policy sees a game
    that acts on every third frame, from each of its first three frames on."""
    begins = (starts[:-1, None] + np.arange(stride)).ravel()
    lengths = -(-(np.repeat(starts[1:], stride) - begins) // stride)
    by_length = np.argsort(lengths, kind="stable")
    for group in np.array_split(by_length, -(-len(by_length) // lanes)):
        longest = int(lengths[group].max())
        for t in range(0, longest, size):
            at = np.arange(t, min(t + size, longest))[:, None]                              # [T, 1]
            rows = begins[group] + stride * np.minimum(at, lengths[group] - 1)              # [T, B]
            yield torch.from_numpy(rows), torch.from_numpy(at < lengths[group]), t == 0


def load_sequences(folder: str, *, character: str = "", player_port: int = 0, cpu_players: bool = False, min_active: float = 0.,
                   held_out: float = .1, max_files: int = 0, num_workers: int = -1, min_frames: int = 60, gamma: float = .99
                   ) -> tuple[Sequences, Sequences, dict]:
    """A folder of replays -> training games, held-out games, and what was read, skipped and left out."""
    if not folder:
        raise UserError("--replays is empty: give a folder of .slp files")
    if not 0 <= player_port <= 4:
        raise UserError(f"--player-port {player_port}: a port is 1, 2, 3 or 4; 0 means both players")
    number = lookup(FIGHTERS, character, "character") if character else None
    replays, about = load_replays(folder, num_workers=None if num_workers < 0 else num_workers, max_files=max_files or None,
                                  character=number, min_frames=min_frames)
    chosen, idle, cpus = [], 0, 0
    for i, player in subjects(replays, number, player_port or None):
        actions = encode_controllers(replays[i].controllers[:, player])
        if replays[i].meta["types"][player] != "Human" and not cpu_players:
            cpus += 1
        elif (actions[1:] != actions[:-1]).any(-1).mean() < min_active:
            idle += 1
        else:
            chosen.append((i, player))
    used = sorted({i for i, _ in chosen})
    sides = split_by_game([replays[i] for i in used], held_out) if used else ([], [])
    if not all(sides):
        raise UserError(f"{folder}: {len(used)} games with a player to learn from, {idle} idle and {cpus} CPU players left "
                        "out; at least two games are needed, one of them held out")
    train, test = [[pair for pair in chosen if pair[0] in {used[k] for k in side}] for side in sides]
    about |= {"train_games": len(sides[0]), "train_players": len(train), "held_out_games": len(sides[1]),
              "held_out_players": len(test), "idle_players": idle, "cpu_players": cpus}
    return pack(replays, train, gamma), pack(replays, test, gamma), about


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

    LAYOUT = {
        "frames": FRAME, "final_frames": FRAME, "controllers": (CONTROLLER, 2), "final_controllers": (CONTROLLER, 2),
        "hidden": mock_melee.HIDDEN, "bots": (mock_melee.BOT, 2), "bot_kinds": ("i4", 2), "characters": ("i4", 2),
        "stages": "i4", "seed": "u8", "episode": "i8", "episode_frames": "i8", "terminated": "?", "truncated": "?"}

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
            seeds[g] = self.begin_episode(g)
        self.controllers[mask] = np.zeros((), CONTROLLER)
        mock_melee.reset_games(self.frames, self.hidden, mask, self.characters, self.stages, seeds)

    def begin_episode(self, g: int) -> int:
        """Counters and bots of game g's next episode -> its seed."""
        seed = _mix(int(self.seed[g]), int(self.episode[g]))
        self.bots[g] = np.zeros(2, mock_melee.BOT)
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
                mock_melee.bot_controllers(self.frames, self.bots, self.controllers)
            mock_melee.step_games(self.frames, self.hidden, self.controllers)
            self.episode_frames += 1
            over = mock_melee.game_over(self.frames)
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

        envs.frames [N] FRAME             the current frames; after `step` of finished games: the first frame of the next
        envs.controllers [N, 2]           the input that made them (neutral at a game's start)
        envs.step(controllers [N, 2])     -> terminated [N], truncated [N], broken [N]
        envs.final_frames, envs.final_controllers       the same of the games that ended in this step, at their last frame

    A worker that dies, raises or hangs is replaced; its games come back truncated and marked broken, the others never
    notice, and the traceback goes to `log`. More than `max_restarts` failures within an hour end the run: UserError. The
    hand-off is one byte through a pipe: unlike a semaphore, a pipe says at once when the other side is gone, and needs no
    clean-up. With `use_threads` the workers are threads of this process instead: the
    games release Python's lock, nothing is copied, but what fails or hangs there cannot be replaced.

    With dolphin=DolphinArgs(dolphin=PATH, iso=PATH) the same games run on Slippi Dolphin, one for each, each in a worker of
    its own (num_workers does not count):

        with VecEnv(4, FOX, FD, dolphin=args, cpu_levels=[[0, CPU_LEVELS["cpu9"]]] * 4) as envs: ...

    cpu_levels [N, 2]: 1 to 9 for Melee's computer player, HUMAN for a person at that port, 0 for `controllers` or a bot.
    A Dolphin takes seconds to start, so after a fault, and sometimes between two games, its game reports a few steps
    that are truncated and broken, the one with its new first frame last, while the others play on. `max_episode_frames`
    truncates, but the game on Dolphin goes on. `envs.controllers` are the inputs that Melee says it saw."""

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
            num_workers, timeout = num_games, dolphin.step_timeout * action_repeat + 5  # the worker itself notices first
        elif cpu_levels.any():
            raise UserError("Melee's own computer players need a live game (--game-type dolphin)")
        if num_workers and not hasattr(os, "fork"):
            raise UserError("--num-workers: this system cannot fork; use --num-workers 0")
        mock_melee.warm_up()                                                # compile once, before workers start
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
        self._workers: list[_Worker] = []
        self._boot_failures = np.zeros(num_workers, int)                    # of each worker, in a row
        self._resumed = False
        self._forks = None
        self._threads = ThreadPoolExecutor(num_workers) if num_workers and use_threads and not dolphin else None
        if not num_workers or self._threads:
            return

        def work(low: int, high: int, *pipes: int) -> None:
            part = games.slice(low, high)
            if not dolphin:
                _worker_loop(part, lambda part: part.step(action_repeat, max_episode_frames), *pipes)
            else:
                port = dolphin.spectator_port and dolphin.spectator_port + low
                _dolphin_worker(part, dolphin, cpu_levels[low], port, action_repeat, max_episode_frames, *pipes)

        self._forks = _ForkServer(work)
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
            # Between two games there are only menus and a countdown: worth a moment's wait, unlike the start of a Dolphin.
            moment = time.monotonic() + 1
            while any(not self._workers[k].ready for k in playing) and time.monotonic() < moment:
                self._await_boots(.01)
            self._await_boots(0)
            while not any(worker.ready for worker in self._workers):
                self._await_boots(.1)
        if self._resumed:                                                   # no Dolphin can go on where another one stopped
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
        """Characters [n, 2] and stages [n] of these slots from their next games on; the games that run are not touched."""
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
        """Waits up to `timeout` seconds for games that are on their way; those that are there show their first frame."""
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
            raise UserError(f"workers failed more than {self.max_restarts} times within an hour (--max-restarts); the last one, "
                            f"worker {k}, {trouble.strip().splitlines()[-1]}")
        self.log(f"worker {k} (games {low} to {high - 1}) {trouble.strip()}; replaced, its games are truncated")
        if self._before:
            self._mark_broken(k)
        if not self.dolphin:
            self.games.slice(low, high).reset(np.ones(high - low, bool))
        self._workers[k] = self._forks.start(low, high, ready=not self.dolphin, boot_timeout=self._boot_timeout)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Everything that decides how the games go on. A game on Dolphin cannot be saved: its next one takes its place."""
        return {name: torch.from_numpy(np.frombuffer(getattr(self.games, name).tobytes(), np.uint8).copy())
                for name in Games.LAYOUT}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self._resumed = bool(self.dolphin)
        for name in ("seed", "episode") if self.dolphin else Games.LAYOUT:
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
    """The main process's end of one worker: a command pipe, a reply pipe and a process id.

    ready: it can step. Otherwise its Dolphin is on the way to the next game, which it must reach before boot_deadline."""

    def __init__(self, pid: int, command: int, reply: int, ready: bool, boot_timeout: float):
        self.pid, self.command, self.reply, self.ready, self.left = pid, command, reply, ready, False
        self.boot_timeout, self.boot_deadline = boot_timeout, time.monotonic() + boot_timeout
        self.poll = select.poll()
        self.poll.register(reply, select.POLLIN)

    def send(self, order: bytes = b"s") -> None:
        try:
            os.write(self.command, order)
        except BrokenPipeError:
            pass                                                            # `wait` sees the end of file and says so

    def wait(self, timeout: float) -> str | None:
        """None when the step is done, else what went wrong."""
        if not self.poll.poll(timeout * 1000):
            return f"hung for {timeout:.1f} s"
        data = os.read(self.reply, 1)
        self.left = data == b"q"                                            # without a winner
        if data == b".":
            return None
        if data in (b"b", b"q"):                                            # done, and the game is over
            self.ready, self.boot_deadline = False, time.monotonic() + self.boot_timeout
            return None
        if not data:
            return "died"
        text = b""
        while chunk := os.read(self.reply, 65536):
            text += chunk
        text = text.decode(errors="replace")
        if data == b"u":
            raise UserError(text)                                           # another try would not help
        return f"failed: {text}" if data == b"?" else "raised\n" + text

    def publish(self, timeout: float) -> str | None:
        """Has a new game's first frame shown."""
        self.send(b"n")
        trouble = self.wait(timeout)
        self.ready = trouble is None
        return trouble

    def kill(self) -> None:
        """Ends the worker and waits until it is gone: it must not write into games that are being set up anew."""
        if not self.pid:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        while os.read(self.reply, 65536):                                   # the pipe ends when its only writer has
            pass
        os.close(self.command)
        os.close(self.reply)
        self.pid = 0


class _ForkServer:
    """Starts workers, now and later, from a process forked before the main process got busy.

    A fresh interpreter per worker would import torch again (a second and 200 MB each); forking from a process whose threads
    run can deadlock. So one child is forked early, does nothing, and forks every worker, replacements too. It ends when the
    main process does, however that ends, and its workers end with it."""

    def __init__(self, work):
        """work(low, high, command, reply) is a worker's life, for the games [low:high)."""
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._pid = os.fork()
        if self._pid == 0:
            self._socket.close()
            _end_with_parent()
            _close_files_except(theirs.fileno())
            try:
                self._serve(theirs, work)
            finally:
                os._exit(0)
        theirs.close()

    @staticmethod
    def _serve(requests: socket.socket, work) -> None:
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
                    work(low, high, *files)
                finally:
                    os._exit(0)
            for fd in files:
                os.close(fd)
            requests.send(str(pid).encode())

    def start(self, low: int, high: int, ready: bool, boot_timeout: float) -> _Worker:
        command_read, command_write = os.pipe()
        reply_read, reply_write = os.pipe()
        try:
            socket.send_fds(self._socket, [f"{low} {high}".encode()], [command_read, reply_write])
            pid = self._socket.recv(64)
        except OSError:
            pid = b""
        finally:
            os.close(command_read), os.close(reply_write)
        if not pid:
            raise UserError("the process that starts workers is gone; start the run again with --resume")
        return _Worker(int(pid), command_write, reply_read, ready, boot_timeout)

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
# Slippi Dolphin: a game played through libmelee, in a worker process of VecEnv
# ---------------------------------------------------------------------------------------------------------------------

ISO_SIZE, ISO_HEAD = 1_459_978_240, b"GALE01"                               # Melee NTSC; its revision byte is 2 for 1.02
CPU_LEVELS = {f"cpu{level}": level for level in range(1, 10)}               # Melee's own computer players
HUMAN = -1                                                                  # a level: a person with a controller of their own
MAX_DEPARTURES = 5                                                          # games in a row that somebody left, then no more
SPECTATOR_PORTS = range(20_000, 30_000)                                     # below those that systems hand out themselves


@dataclass(kw_only=True)
class DolphinArgs:
    """The flags of a live game. The scripts' Args inherit them."""
    dolphin: str = ""
    """Slippi Dolphin's executable: an ExiAI or mainline build; with --no-headless mainline or netplay (off: empty)"""
    iso: str = ""
    """Melee's disc image: NTSC 1.02 as a plain .iso file (off: empty)"""
    headless: bool = True
    """no window, no sound, as fast as it goes; --no-headless shows the game at 60 frames a second (no ExiAI build can)"""
    fast_forward: bool = True
    """ExiAI builds skip what only draws; ignored by other builds and with --no-headless"""
    instant_restart: bool = False
    """the next game begins at once, on a random legal stage (off: back through the menus, to the same stage)"""
    boot_timeout: float = 60.0
    """seconds that Dolphin may take from its start, or from a game's end, to the first frame of a game"""
    step_timeout: float = 10.0
    """seconds that a frame may take before Dolphin counts as hung and is replaced"""
    games_per_process: int = 50
    """games after which a Dolphin is started anew, since it leaks memory (off: 0)"""
    spectator_port: int = 0
    """UDP port of the first Dolphin's spectator server; each further one takes the next (off: 0, whatever is free)"""
    connect_code = user_json = ""                                           # a match online: flags of play.py alone


DOLPHIN_LIMITS = {"boot_timeout": (1, 3600), "step_timeout": (.1, 3600), "games_per_process": (0, 10 ** 9),  # for check_numbers
                  "spectator_port": (0, 65535)}


class DolphinError(UserError):
    """Dolphin died, hangs, or did not do what it was asked; another attempt may help."""


def check_dolphin(args: DolphinArgs) -> None:
    """Raises UserError unless --dolphin is a Slippi Dolphin that can do what is asked and --iso is Melee NTSC 1.02."""
    check_numbers(args, **DOLPHIN_LIMITS)
    if os.name == "nt":
        raise UserError("--dolphin: live games need Linux or macOS; on Windows use WSL")
    path = Path(args.dolphin).absolute()                                    # "./dolphin" would be looked for in PATH
    if not args.dolphin or not path.is_file():
        raise UserError(f"--dolphin {args.dolphin or '(empty)'}: no such file; give the path of Slippi Dolphin's executable")
    if not os.access(path, os.X_OK):
        raise UserError(f"--dolphin {path}: not executable; allow it with chmod +x")
    version = _dolphin_version(path)
    if not args.headless and version.build.name == "EXI_AI":
        raise UserError(f"--dolphin {path}: an ExiAI build shows no picture, and a window or a person at the other port needs "
                        "one; use a mainline or netplay build")
    if args.headless and not (version.mainline or version.build.name == "EXI_AI"):
        raise UserError(f"--dolphin {path}: {version.version} always opens a window; use an ExiAI or mainline build, or "
                        "--no-headless")
    iso = Path(args.iso)
    if not args.iso or not iso.is_file():
        raise UserError(f"--iso {args.iso or '(empty)'}: no such file; give the path of Melee's disc image")
    with open(iso, "rb") as file:
        head = file.read(8)
    if head[:6] != ISO_HEAD:
        raise UserError(f"--iso {iso}: not Melee NTSC (its head says {head[:6]!r}, not {ISO_HEAD!r}); give a plain .iso, not .ciso "
                        "or .rvz")
    if head[7] != 2:
        raise UserError(f"--iso {iso}: Melee 1.0{head[7]}; Slippi needs version 1.02")
    if iso.stat().st_size != ISO_SIZE:
        raise UserError(f"--iso {iso}: {iso.stat().st_size:,} bytes instead of {ISO_SIZE:,}; it is cut off or compressed, make "
                        "the .iso again")


def check_netplay(args: DolphinArgs) -> None:
    """Raises UserError unless --connect-code can be typed and --user-json says who we are. The code may be in small letters."""
    args.connect_code = args.connect_code.upper()
    if not re.fullmatch("[A-Z0-9]+#[0-9]+", args.connect_code) or len(args.connect_code) > 8:
        raise UserError(f"--connect-code {args.connect_code}: no code of a Slippi player; one looks like ABCD#123, 8 signs at "
                        "most")
    if not args.user_json or not Path(args.user_json).is_file():
        raise UserError(f"--user-json {args.user_json or '(empty)'}: no such file; give your own Slippi account's user.json, "
                        "from the folder Slippi of your Dolphin's user folder")
    if own_connect_code(args.user_json) == args.connect_code:
        raise UserError(f"--connect-code {args.connect_code}: your own code; give the other person's")


def own_connect_code(user_json: str) -> str:
    try:
        return str(json.loads(Path(user_json).read_text())["connectCode"])
    except (ValueError, TypeError, KeyError):
        raise UserError(f"--user-json {user_json}: no user.json of Slippi, since it names no connectCode") from None


@functools.lru_cache
def _dolphin_version(path: Path):
    """libmelee's DolphinVersion of an executable."""
    import melee.console
    not_one = f"--dolphin {path}: no Slippi Dolphin"
    try:
        result = subprocess.run([path, "--version"], capture_output=True, text=True, errors="replace", timeout=20,
                                stdin=subprocess.DEVNULL)
        says = (result.stdout + result.stderr).strip().splitlines()
        return melee.console.get_dolphin_version(str(path))
    except subprocess.TimeoutExpired:
        raise UserError(f"{not_one}: `--version` did not end within 20 s") from None
    except OSError as error:
        raise UserError(f"{not_one}: cannot run it ({error.strerror})") from None
    except (AssertionError, ValueError, RuntimeError, IndexError):
        raise UserError(f"{not_one}: `--version` says {says[0][:80] if says else 'nothing'!r}, exit code "
                        f"{result.returncode}") from None


def _reserve_port(wanted: int) -> tuple[socket.socket, int]:
    """A UDP port that no other Dolphin of ours will take while the returned socket lives: the TCP port of the same number is
    its lock, which dies with its process. wanted 0: any."""
    start = os.getpid() * 37 % len(SPECTATOR_PORTS)
    deadline = time.monotonic() + 2                                         # a Dolphin that we replace may still be dying
    for k in range(1000):
        port = wanted or SPECTATOR_PORTS[(start + k) % len(SPECTATOR_PORTS)]
        lock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            lock.bind(("127.0.0.1", port))
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.bind(("", port))
            return lock, port
        except (OSError, OverflowError):
            lock.close()
        if wanted and time.monotonic() > deadline:
            break
        time.sleep(.02 if wanted else 0)
    if wanted:
        raise UserError(f"--spectator-port {wanted}: taken by another program; choose another port, or 0 for whatever is free")
    raise DolphinError("no free UDP port for Dolphin's spectator server")


class DolphinEnv:
    """One game on one Slippi Dolphin, the controllers of both ports in our hands unless a computer or a person holds one.

        env = DolphinEnv(args, characters=(1, 18), stage=32)    # internal ids; a Slippi stage id
        env.begin()                                             # start Dolphin where needed, menus, countdown
        env.frame, env.controllers                              # FRAME [], CONTROLLER [2] as Melee reports them
        env.step(controllers)                                   # -> "on", "over", or "left" if it ended without a winner
        env.close()

    levels: per port 1 to 9 for Melee's computer player, HUMAN for a person, 0 for us. Raises DolphinError for whatever goes
    wrong with Dolphin, and within the time-outs. Meant for a process of its own: libmelee forks, and waits.

    With args.connect_code it meets that person online, in Slippi's Direct mode, at levels (0, HUMAN). Slippi seats us anew in
    every game, and draws or lets players choose the stage; we are player 0 of `frame` in any case."""

    def __init__(self, args: DolphinArgs, characters, stage: int, levels=(0, 0), spectator_port: int = 0):
        self.args, self.characters, self.stage = args, [int(c) for c in characters], int(stage)
        self.levels, self.wanted_port = [int(level) for level in levels], spectator_port
        self.console, self.games_played, self.deadline = None, 0, 0.
        self.frame, self.controllers = np.zeros((), FRAME), np.zeros(NUM_PLAYERS, CONTROLLER)
        self.ports = (1, 2)                                                 # in the game, libmelee's count

    def next_matchup(self, characters, stage: int) -> None:
        """Whom and where the next game is to be between."""
        if [int(c) for c in characters] != self.characters and self.args.instant_restart:
            self.close()                                                    # an instant restart passes by the character screen
        self.characters, self.stage = [int(c) for c in characters], int(stage)

    def begin(self) -> None:
        """On return the next game stands at the last frame before players have control, as a new embedded game does."""
        self.deadline = time.monotonic() + self.args.boot_timeout
        if self.args.games_per_process and self.games_played >= self.args.games_per_process:
            self.close()
        if self.console is None:
            self._start()
        self._release()
        self._through_menus()
        self.games_played += 1
        while self.frame["frame_id"] < FIRST_CONTROL_FRAME - 1:
            if self._next() is None:
                raise DolphinError("the game was left during the countdown")

    def step(self, controllers: np.ndarray) -> str:
        """Applies controllers CONTROLLER [2] for one frame."""
        for port, pad in self.pads.items():
            if self.levels[port - 1] == 0:
                self._press(pad, controllers[port - 1])
        self.deadline = time.monotonic() + self.args.step_timeout
        before = int(self.frame["frame_id"])
        if self._next() is None or self.frame["frame_id"] <= before:
            return "left"
        return "over" if mock_melee.game_over(self.frame[None])[0] else "on"

    def close(self) -> None:
        """Ends Dolphin and removes its home folder."""
        if self.console is not None:
            for pad in self.pads.values():
                with contextlib.suppress(OSError):
                    pad.disconnect()
            self.console.stop()
            self.console, self.games_played = None, 0
            self.lock.close()

    # ------------------------------------------------------------------------------------------------------ starting

    def _start(self) -> None:
        import melee
        self.melee, args = melee, self.args
        self.lock, port = _reserve_port(self.wanted_port)
        version = _dolphin_version(Path(args.dolphin).absolute())
        fast = args.headless and args.fast_forward and version.build.name == "EXI_AI"
        self.console = melee.Console(
            path=args.dolphin, tmp_home_directory=True, slippi_port=port, blocking_input=True, polling_mode=True,
            fullscreen=False, gfx_backend="Null" if args.headless else "", disable_audio=args.headless, save_replays=False,
            emulation_speed=0. if args.headless else 1., instant_match_restart=args.instant_restart,
            use_exi_inputs=fast, enable_ffw=fast, online_delay=2, user_json_path=args.user_json or None)  # 2 is Slippi's own
        keep_raw_events(self.console)
        kinds = melee.ControllerType
        self.pads = {seat + 1: melee.Controller(self.console, seat + 1, kinds.GCN_ADAPTER if level == HUMAN else kinds.STANDARD)
                     for seat, level in enumerate(self.levels) if seat == 0 or not args.connect_code}
        self.console.run(iso_path=args.iso, platform="headless" if args.headless and version.mainline else None)
        self._connect()
        for seat, pad in list(self.pads.items()):
            if self.levels[seat - 1] == HUMAN:
                del self.pads[seat]
                continue
            reader = self._wait_for_reader(pad.pipe_path)                   # or else `connect` could block for ever
            pad.connect()
            os.close(reader)
        self.menus = {port: melee.MenuHelper() for port in self.pads}       # for good: they know what they have toggled
        # A dispatch that notices a dead or hung Dolphin. `step` of a plain polling Console would flush again on every try.
        dispatch = self.console._slippstream.dispatch

        def watched(polling_mode, timeout):
            while (message := dispatch(True, .1)) is None:
                self._check_alive("no frame came")
            return message

        self.console._slippstream.dispatch = watched

    def _connect(self) -> None:
        """console.connect(), which would wait for ten seconds for a Dolphin that is dead, and give up on a slow one."""
        from melee.slippstream import SlippstreamClient
        while True:
            client = self.console._slippstream
            client._worker.start()
            while not client._buffer.poll(.1):
                self._check_alive("it opened no spectator server")
            if client._buffer.recv():
                client.running = True
                return
            client.shutdown()
            self.console._slippstream = SlippstreamClient(self.console.slippi_address, self.console.slippi_port)

    def _wait_for_reader(self, pipe: str) -> int:
        while True:
            try:
                return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)           # fails while nobody reads
            except OSError:
                self._check_alive("it does not read our controllers")
            time.sleep(.01)

    def _check_alive(self, trouble: str) -> None:
        code = self.console._process.poll()
        if code is not None:
            raise DolphinError(f"Dolphin ended with {f'signal {-code}' if code < 0 else f'exit code {code}'}")
        if time.monotonic() > self.deadline:
            raise DolphinError(f"Dolphin hangs: {trouble} in time")

    # --------------------------------------------------------------------------------------------------------- games

    def _through_menus(self) -> None:
        """From wherever Melee is to the first frame of a game, which must be the one that was asked for."""
        melee, frames = self.melee, 0
        characters = [melee.Character(c) for c in self.characters]
        stage = next(melee.Stage(value) for value, slippi in LIBMELEE_STAGE.items() if slippi == self.stage)
        starter = min(self.pads)
        if self.games_played and self.frame["frame_id"] == FIRST_FRAME:     # it has begun already
            return self._verify()
        while True:
            try:
                state = self._next()
            except DolphinError as error:
                if frames == 0 and self.games_played == 0 and self.console._process.poll() is None:
                    raise DolphinError("Dolphin is connected, but Melee sends no frames: do its gecko codes run? They need "
                                       "Melee NTSC 1.02 and a Slippi build") from error
                raise
            frames += 1
            if time.monotonic() > self.deadline:
                if self.args.connect_code:
                    raise UserError(f"no game with {self.args.connect_code} within {self.args.boot_timeout:.0f} s; agree on a "
                                    "time, let the other person enter your code, or wait longer with --boot-timeout")
                raise DolphinError("Melee is still in its menus after --boot-timeout")
            if state is not None:
                if state["frame_id"] == FIRST_FRAME:
                    return self._verify()
                continue                                                    # the last frames of a game that is over
            menu = self.menu
            if menu.menu_state is melee.Menu.UNKNOWN_MENU:                  # the scores, among others
                self.menus[starter].skip_postgame(self.pads[starter])
                continue
            # A start before the sliders stand would put a motionless human where a computer player was asked for.
            sliders = all(menu.players[port].cpu_level == level and not menu.players[port].is_holding_cpu_slider
                          for port, level in enumerate(self.levels, 1) if level > 0 and port in menu.players)
            ready = sliders or menu.menu_state is not melee.Menu.CHARACTER_SELECT
            for port, pad in self.pads.items():
                self.menus[port].menu_helper_simple(
                    menu, pad, characters[port - 1], stage, cpu_level=self.levels[port - 1],
                    autostart=port == starter and ready, connect_code=self.args.connect_code or None)

    def _verify(self) -> None:
        players, state = self.frame["players"], self.menu
        names = {internal: name for name, internal in FIGHTERS.items()}
        stages = {number: name for name, number in STAGES.items()}
        tell = lambda who, levels, stage: ", ".join(
            names.get(int(c), f"character {c}") + (f" (cpu{level})" if level > 0 else "") for c, level in zip(who, levels, strict=True)
        ) + " on " + stages.get(int(stage), f"stage {stage}")
        wanted, levels, stage = list(self.characters), list(self.levels), self.stage
        got = [int(c) if present else -1 for c, present in zip(players["character"], players["present"], strict=True)]
        got_levels = [int(state.players[port].cpu_level) if port in state.players else 0 for port in (1, 2)]
        for seat, level in enumerate(levels):
            if level == HUMAN:                                              # a person chooses for themselves
                wanted[seat], got_levels[seat] = got[seat], HUMAN
        if self.args.connect_code or self.args.instant_restart and self.games_played:
            stage = int(self.frame["stage"]) if int(self.frame["stage"]) in stages else stage
        if (got, got_levels, int(self.frame["stage"])) != (wanted, levels, stage):
            raise DolphinError(f"asked for {tell(wanted, levels, stage)}, but the game is {tell(got, got_levels, self.frame['stage'])}")

    def _next(self) -> np.ndarray | None:
        """One frame on: the FRAME if it is of a game, None in a menu. self.menu is libmelee's GameState in any case."""
        try:
            self.menu = self.console.step()
        except (OSError, self.melee.slippstream.EnetDisconnected):          # the pipe or the connection broke: why?
            for _ in range(10):
                self._check_alive("its connection broke")
                time.sleep(.05)
            raise DolphinError("Dolphin hangs: its connection broke, and it did not end") from None
        if self.menu.menu_state not in (self.melee.Menu.IN_GAME, self.melee.Menu.SUDDEN_DEATH):
            return None
        if self.args.connect_code and self.menu.frame == FIRST_FRAME:
            self.ports = self._online_ports()
        self.frame = frame_from_gamestate(self.menu, self.ports)
        self.controllers = controllers_from_gamestate(self.menu, self.ports)
        if self.args.connect_code:
            self.frame["players"]["port"] = 0, 1                            # recordings list players by port
        return self.frame

    def _online_ports(self) -> tuple[int, int]:
        """Our port and the other person's: by our connect code, which every game names."""
        own, players = own_connect_code(self.args.user_json), self.menu.players
        ours = [port for port in players if players[port].connectCode == own]
        if len(players) != 2 or len(ours) != 1:
            raise DolphinError(f"a game of {len(players)} in which {len(ours)} have our connect code {own}")
        return ours[0], next(port for port in players if port != ours[0])

    def _press(self, pad, controller) -> None:
        """Sends a CONTROLLER record. libmelee takes sticks from 0 to 1 and rounds to Melee's own 1/80, where ours already are.
        An analog trigger alone neither techs nor air dodges: the digital press is a button, and both are sent."""
        button = self.melee.Button
        for name, bit in BUTTONS.items():
            is_down, key = bool(controller["buttons"] & bit), button[f"BUTTON_{name}"]
            if is_down != pad.current.button[key]:
                (pad.press_button if is_down else pad.release_button)(key)
        pad.tilt_analog_unit(button.BUTTON_MAIN, float(controller["main_x"]), float(controller["main_y"]))
        pad.tilt_analog_unit(button.BUTTON_C, float(controller["c_x"]), float(controller["c_y"]))
        pad.press_shoulder(button.BUTTON_L, float(controller["l"]))
        pad.press_shoulder(button.BUTTON_R, float(controller["r"]))

    def _release(self) -> None:
        for pad in self.pads.values():
            pad.release_all()


def _dolphin_worker(part: Games, args: DolphinArgs, levels, spectator_port: int, action_repeat: int, max_episode_frames: int,
                    command: int, reply: int) -> None:
    """The life of a worker with a Dolphin. Commands: "n" publish the next game's first frame, "s" step. Replies: "." done,
    "b" done and the game is over, "q" it ended without a winner; after these two, and at the start, another "." says that the
    next game is ready."""
    os.setsid()                                                             # one group to kill, out of Ctrl-C's reach
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)                           # whose exit codes we want
    folder = tempfile.mkdtemp(prefix="cleanmelee_")
    tempfile.tempdir = folder                                               # libmelee makes Dolphin's home in it
    leash = _guard(folder)
    os.register_at_fork(after_in_child=lambda: [os.close(fd) for fd in (command, reply, leash)])
    if sys.platform == "linux":
        multiprocessing.set_start_method("fork", force=True)                # for libmelee's receiver
    log = os.open(f"{folder}/dolphin.log", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1), os.dup2(log, 2)                                        # Dolphin talks
    env = DolphinEnv(args, part.characters[0], part.stages[0], levels, spectator_port)
    try:
        while True:
            env.next_matchup(part.characters[0], part.stages[0])
            env.begin()
            os.write(reply, b".")
            status = "on"
            while status == "on":
                order = os.read(command, 1)
                if not order:                                               # the main process is gone
                    return
                if order == b"n":
                    part.frames[0], part.controllers[0] = env.frame, env.controllers
                    part.begin_episode(0)
                else:
                    status = _dolphin_step(part, env, action_repeat, max_episode_frames)
                os.write(reply, {"on": b".", "over": b"b", "left": b"q"}[status])
    except UserError as error:
        tail = Path(f"{folder}/dolphin.log").read_text(errors="replace").strip().splitlines()[-1:]
        text = str(error) + (f"; its last words: {tail[0][:200]}" if tail and isinstance(error, DolphinError) else "")
        os.write(reply, (b"?" if isinstance(error, DolphinError) else b"u") + text.encode())
    except Exception:
        os.write(reply, b"!" + traceback.format_exc().encode())


def _dolphin_step(part: Games, env: DolphinEnv, action_repeat: int, max_episode_frames: int) -> str:
    """Games.step for the one game of `part`. A truncated game goes on: Melee has no quick way out of one."""
    asked = part.controllers.copy()
    part.terminated[:] = part.truncated[:] = False
    for _ in range(action_repeat):
        if part.bot_kinds.any():
            mock_melee.bot_controllers(part.frames, part.bots, asked)
        status = env.step(asked[0])
        if status == "left":
            return status
        part.frames[0], part.controllers[0] = env.frame, env.controllers
        part.episode_frames += 1
        late = max_episode_frames and part.episode_frames[0] >= max_episode_frames
        if (status == "over" or late) and not part.truncated[0]:
            part.terminated[0], part.truncated[0] = status == "over", status != "over"
            part.final_frames[0], part.final_controllers[0] = part.frames[0], part.controllers[0]
        if status == "over":
            return status
    if part.truncated[0]:
        part.begin_episode(0)
    return "on"


def _guard(folder: str) -> int:
    """Forks a process that outlives this one by a moment: when it is gone, whatever killed it, the guard kills all of its
    process group (Dolphin, what Dolphin started, libmelee's receiver) and removes `folder`. Returns the leash: its other end
    falls when this process dies, if no child of ours holds it open."""
    group, (end, leash) = os.getpgrp(), os.pipe()
    if os.fork() == 0:
        try:
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            _close_files_except(end)
            os.read(end, 1)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
            for _ in range(20):                                             # the dying may still write
                shutil.rmtree(folder, ignore_errors=True)
                if not os.path.exists(folder):
                    break
                time.sleep(.05)
        finally:
            os._exit(0)
    os.close(end)
    return leash


# ---------------------------------------------------------------------------------------------------------------------
# Matches between policies
# ---------------------------------------------------------------------------------------------------------------------

BOT_SLOT = -1                                                               # in `assignment`: the game's own bot plays here


class StackedPolicies:
    """Networks of one shape, side by side: a single batched forward acts for all of them. Their weights are copied here, so
    make a new one when they have learnt."""

    def __init__(self, policies: list[Policy]):
        columns = zip(*(policy.parameters() for policy in policies), strict=True)
        names = [name for name, _ in policies[0].named_parameters()]
        self.params = {name: torch.stack([p.detach() for p in column]) for name, column in zip(names, columns, strict=True)}
        skeleton, buffers = copy.deepcopy(policies[0]).to("meta"), dict(policies[0].named_buffers())    # buffers: all the same
        self.forward = torch.vmap(lambda params, floats, ints, state, noise: torch.func.functional_call(
            skeleton, (params, buffers), (Observation(floats, ints), state, noise)))

    def step(self, obs: list[Observation], states: list[tuple], noise: list[torch.Tensor]) -> list[tuple[torch.Tensor, tuple]]:
        """For each policy its observations [B_k, ...], state and noise [B_k, 81] -> for each (actions [B_k, 13], new state)."""
        sizes = [len(x) for x in noise]
        pad = lambda tensors: torch.stack([F.pad(x, (0, 0) * (x.dim() - 1) + (0, max(sizes) - len(x))) for x in tensors])
        actions, new = self.forward(self.params, pad([o.floats for o in obs]), pad([o.ints for o in obs]),
                                    tuple(pad(parts) for parts in zip(*states, strict=True)), pad(noise))
        return [(actions[k, :size], tuple(s[k, :size] for s in new)) for k, size in enumerate(sizes)]


def act(policies: list[Policy], assignment: np.ndarray, obs: Observation, states: list[tuple], resets: np.ndarray,
        generator: torch.Generator | None, stacked: StackedPolicies | None = None) -> np.ndarray:
    """One frame of play for every slot: one forward per distinct policy, over all its games and ports.

    assignment [N, 2] says which policy of `policies` plays a slot (BOT_SLOT: none). states[k] is the recurrent state of
    policy k for all 2N slots, updated in place of the list; resets [N] marks games that begin with this frame.
    generator None: the most likely action. `stacked` (of the same policies): one forward in all, with the same noise.
    Returns actions int8 [N, 2, 13]."""
    n = len(assignment)
    flat = Observation(obs.floats.reshape(2 * n, -1), obs.ints.reshape(2 * n, -1))
    actions = np.tile(NEUTRAL_ACTION, (2 * n, 1))
    slot_resets = torch.from_numpy(np.repeat(resets, 2)) if resets.any() else None
    seats = []                                                              # policy, its rows, what it sees, state and noise
    for k in range(len(policies)):
        if slot_resets is not None:
            states[k] = reset_state(states[k], slot_resets)
        rows = np.flatnonzero(assignment.reshape(-1) == k)
        everyone = len(rows) == 2 * n
        mine = flat if everyone else Observation(flat.floats[rows], flat.ints[rows])
        state = states[k] if everyone else tuple(s[torch.from_numpy(rows)] for s in states[k])
        noise = None if generator is None else torch.rand(len(rows), NUM_LOGITS, generator=generator)
        seats.append((k, rows, to_torch(mine), state, noise))
    if stacked is None:
        seats = [seat for seat in seats if len(seat[1])]
        chosen = [policies[k].step(mine, state, noise) for k, _, mine, state, noise in seats]
    else:
        chosen = stacked.step(*(list(column) for column in list(zip(*seats, strict=True))[2:]))
    for (k, rows, *_), (choice, new) in zip(seats, chosen, strict=True):
        actions[rows] = choice.numpy()
        states[k] = new if len(rows) == 2 * n else tuple(
            old.index_copy(0, torch.from_numpy(rows), part) for old, part in zip(states[k], new, strict=True))
    return actions.reshape(n, 2, ACTION_SIZE)


def swap_policy(policies: list[Policy], assignment: np.ndarray, states: list[tuple], game: int, port: int,
                policy: Policy) -> None:
    """Hands a slot of a running game to another policy, such as `pool.load(id)`; all three of `act`'s arguments are updated in
    place. Only this slot's recurrent state begins anew: the policy may be playing other slots already, in mid-game."""
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
               watch=lambda actions, running: None) -> np.ndarray:
    """Every slot of `envs` plays one game to its end -> the final frames [N] (one game a slot: short games are not favoured).
    `watch` is shown every step's actions [N, 2, 13] and which games still run [N]."""
    n = envs.num_games
    states = [p.initial_state(2 * n) for p in policies]
    final, running, resets = envs.frames.copy(), np.ones(n, bool), np.ones(n, bool)
    with torch.inference_mode():
        while running.any():
            actions = act(policies, assignment, observe(envs.frames, envs.controllers), states, resets, generator)
            watch(actions, running)
            terminated, truncated, broken = envs.step(decode_actions(actions, mirrored(envs.frames)))
            resets = terminated | truncated
            ended = resets & running & ~broken
            final[ended] = envs.final_frames[ended]
            running &= ~ended
    return final


# ---------------------------------------------------------------------------------------------------------------------
# A single-agent environment, for learners from elsewhere
# ---------------------------------------------------------------------------------------------------------------------

if gymnasium:
    from gymnasium.spaces import Box, Dict, MultiDiscrete
else:
    class Box:
        """Arrays of one shape and type, with a lowest and a highest value for each number. As gymnasium.spaces.Box."""

        def __init__(self, low, high, shape: tuple[int, ...], dtype):
            self.low, self.high = (np.broadcast_to(np.asarray(bound, dtype), shape) for bound in (low, high))
            self.shape, self.dtype = shape, np.dtype(dtype)

        def contains(self, x) -> bool:
            return x.shape == self.shape and x.dtype == self.dtype and bool(((self.low <= x) & (x <= self.high)).all())

    class Dict(dict):
        """Spaces by name. As gymnasium.spaces.Dict."""

        def contains(self, x) -> bool:
            return x.keys() == self.keys() and all(space.contains(x[name]) for name, space in self.items())

    class MultiDiscrete:
        """[k] int64, number i below nvec[i]. As gymnasium.spaces.MultiDiscrete."""

        def __init__(self, nvec):
            self.nvec, self.dtype = np.asarray(nvec), np.dtype(np.int64)
            self.shape = self.nvec.shape
            self.seed()

        def seed(self, seed: int | None = None) -> None:
            self._rng = np.random.default_rng(seed)

        def sample(self) -> np.ndarray:
            return self._rng.integers(self.nvec)

        def contains(self, x) -> bool:
            x = np.asarray(x)
            return x.shape == self.shape and x.dtype.kind in "iu" and bool(((0 <= x) & (x < self.nvec)).all())


class MeleeEnv(gymnasium.Env if gymnasium else object):
    """One player of one embedded game, with Gymnasium's API; the opponent plays inside, and is drawn anew at every reset.

        env = MeleeEnv(["runs/ppo/pool", "attacker"])
        obs, info = env.reset(seed=1)
        obs, reward, terminated, truncated, info = env.step(env.action_space.sample())

    obs is a dict of `floats` [NUM_FLOATS] and `ints` [NUM_INTS]; `Observation(**obs)` is what a Policy reads. An action is 13
    integers (`decode_actions`), held for `action_repeat` frames; right is towards the opponent, in both (`mirrored`; the stick
    is turned as it lay when obs was made). The reward is that of `compute_rewards`. info names the `opponent` and the own
    `port` (1 or 2), and at a game's end its `outcome`: 1 won, 0 draw, -1 lost. With gymnasium installed it is a gymnasium.Env,
    which its wrappers and other libraries accept; without, it has the same methods and spaces."""

    metadata = {"render_modes": ["ansi"], "render_fps": 60}

    def __init__(self, opponent: "str | Path | Pool | Policy | list" = "attacker", *, character: str = "mewtwo",
                 opponent_character: str = "", stage: str = "final_destination", port: int = 0, action_repeat: int = 3,
                 max_episode_frames: int = 3600, render_mode: str | None = None, **rewards: float):
        """opponent: a bot's name, a checkpoint, a pool or its folder, or a list of those, of which each reset draws one.
        opponent_character: empty for the same. port: 1 or 2, or 0 to draw it at every reset. max_episode_frames: game frames
        after which a game is truncated (0: never). render_mode: "ansi", for `render` to return a line of text. rewards: reward_win=1. and the like, as in
        RewardArgs; the potentials among them are not discounted."""
        if port not in (0, 1, 2) or action_repeat < 1 or max_episode_frames < 0 or render_mode not in (None, "ansi"):
            raise UserError(f"MeleeEnv: port {port} must be 0, 1 or 2, action_repeat {action_repeat} at least 1, "
                            f"max_episode_frames {max_episode_frames} at least 0, render_mode {render_mode!r} None or 'ansi'")
        self._characters = [lookup(CHARACTERS, name, "character") for name in (character, opponent_character or character)]
        self._opponents = [self._source(o) for o in (opponent if isinstance(opponent, list | tuple) else [opponent])]
        if not self._opponents:
            raise UserError("MeleeEnv: the list of opponents is empty; name at least one")
        self._port, self._action_repeat, self.render_mode = port, action_repeat, render_mode
        unknown = rewards.keys() - vars(RewardArgs()).keys()
        if unknown:
            raise UserError(f"MeleeEnv: unknown {', '.join(sorted(unknown))}; rewards are {', '.join(vars(RewardArgs()))}")
        self._rewards = RewardArgs(**rewards)
        self._envs = VecEnv(1, self._characters, lookup(STAGES, stage, "stage"), max_episode_frames=max_episode_frames)
        self._me, self._over = 0, True
        limits = np.finfo(np.float32)
        self.observation_space = Dict({"floats": Box(limits.min, limits.max, (NUM_FLOATS,), np.float32),
                                       "ints": Box(0, _INT_LIMITS, (NUM_INTS,), np.int16)})
        self.action_space = MultiDiscrete([2] * NUM_BUTTONS + [NUM_STICK] * 4 + [NUM_SHOULDER])

    @staticmethod
    def _source(opponent):
        """-> a pool, or (name, policy or None): None for a bot, which plays inside the game."""
        if isinstance(opponent, Pool):
            return opponent
        if isinstance(opponent, Policy):
            return "policy", opponent
        if opponent in BOTS:
            return opponent, None
        if Path(opponent).is_dir():
            return Pool(opponent)
        if not Path(opponent).is_file():
            raise UserError(f"unknown opponent {str(opponent)!r}: name one of {', '.join(BOTS)}, a checkpoint or a pool")
        return Path(opponent).stem, load_policy(opponent)[0]

    def _draw(self, sources: list) -> tuple[str, Policy | None]:
        source = sources[self.np_random.integers(len(sources))]
        if not isinstance(source, Pool):
            return source
        name = source.sample(self.np_random)
        if name is None:
            raise UserError(f"{source.directory}: no checkpoint in this pool can be read; train one, or name another opponent")
        return name, source.load(name)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        """Begins a game. seed: of this and all later ones. options: {"opponent": ...} plays this game against that one."""
        if gymnasium:
            super().reset(seed=seed)
        elif seed is not None or not hasattr(self, "np_random"):
            self.np_random = np.random.default_rng(seed)
        games = self._envs.games
        game_seed, noise_seed = self.np_random.integers(2 ** 63, size=2).tolist()
        self._me = self._port - 1 if self._port else int(self.np_random.integers(2))
        only = (options or {}).get("opponent")
        self._name, self._policy = self._draw(self._opponents if only is None else [self._source(only)])
        games.characters[0], games.bot_kinds[0] = np.roll(self._characters, self._me), 0
        if self._policy is None:
            games.bot_kinds[0, 1 - self._me] = BOTS[self._name]
        else:
            self._state, self._noise = self._policy.initial_state(1), torch.Generator().manual_seed(noise_seed)
            self._choice = np.zeros((), CONTROLLER)                         # the opponent's, held until its next decision
            self._late = collections.deque([self._choice] * self._policy.frame_delay)
        games.seed[0], games.episode[0] = game_seed, 0
        games.reset(np.ones(1, bool))
        self._over = False
        return self._observe(), self._info()

    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict]:
        """-> observation, reward, terminated, truncated, info."""
        if self._over:
            raise RuntimeError("no game is on: call reset()")
        action = np.asarray(action)
        if not self.action_space.contains(action):
            raise UserError(f"not an action: {action!r}; give {ACTION_SIZE} integers, below {self.action_space.nvec.tolist()}")
        envs, before = self._envs, np.frombuffer(self._envs.frames.tobytes(), FRAME)
        controllers = np.zeros((1, 2), CONTROLLER)
        controllers[0, self._me] = decode_actions(action, mirrored(envs.frames)[0, self._me])
        for _ in range(self._action_repeat):
            if self._policy is not None:
                controllers[0, 1 - self._me] = self._opponent_controller()
            terminated, truncated, _ = envs.step(controllers)
            self._over = bool(terminated[0] | truncated[0])
            if self._over:
                break
        after = envs.final_frames if self._over else envs.frames
        reward = float(compute_rewards(before, after, self._rewards, terminated)[0, self._me])
        return self._observe(), reward, bool(terminated[0]), bool(truncated[0]), self._info()

    @torch.inference_mode()
    def _opponent_controller(self) -> np.ndarray:
        if int(self._envs.games.episode_frames[0]) % self._policy.action_repeat == 0:
            seen = to_torch(observe(self._envs.frames, self._envs.controllers))
            rows = Observation(seen.floats[:, 1 - self._me], seen.ints[:, 1 - self._me])            # [1, ...]
            actions, self._state = self._policy.step(rows, self._state, torch.rand(1, NUM_LOGITS, generator=self._noise))
            self._choice = decode_actions(actions.numpy(), mirrored(self._envs.frames)[:, 1 - self._me])[0]
        self._late.append(self._choice)
        return self._late.popleft()

    def _observe(self) -> dict[str, np.ndarray]:
        envs = self._envs
        obs = observe(envs.final_frames, envs.final_controllers) if self._over else observe(envs.frames, envs.controllers)
        return {"floats": obs.floats[0, self._me], "ints": obs.ints[0, self._me]}

    def _info(self) -> dict:
        info = {"opponent": self._name, "port": self._me + 1}
        if self._over:
            info["outcome"] = int(outcomes(self._envs.final_frames)[0]) * (1 - 2 * self._me)
        return info

    def render(self) -> str | None:
        """The game in one line: frame, and of both players name, stocks, percent and place."""
        if self.render_mode is None:
            return None
        frame = (self._envs.final_frames if self._over else self._envs.frames)[0]
        names = {int(k): name for name, k in FIGHTERS.items()}
        return f"frame {frame['frame_id']}" + "".join(
            f"  P{k + 1} {names.get(int(p['character']), 'nobody')} {p['stocks']} stocks {p['percent']:.0f} % "
            f"({p['x']:.0f}, {p['y']:.0f})" for k, p in enumerate(frame["players"]))

    def close(self) -> None:
        self._envs.close()


def onnx_session(model: bytes):
    """onnxruntime on one thread that sleeps while it waits: the game needs the other cores."""
    import onnxruntime                                                      # here: most runs need no second runtime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4                                          # its own lines about a bad file
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


# ---------------------------------------------------------------------------------------------------------------------
# What a run leaves behind: checkpoints, pool, ratings, logs
# ---------------------------------------------------------------------------------------------------------------------

CHECKPOINT_FORMAT = 1


def check_writable(flag: str, path: Path) -> None:
    """Now rather than after hours of training: can a file be written at `path`?"""
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{flag} {path}: not a regular file; choose another name")
        folder = next(parent for parent in path.absolute().parents if parent.exists())  # the rest can be made
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"{flag} {path}: cannot write there ({error.strerror}); choose another place") from None


def atomic_write(path: Path, content: bytes | memoryview) -> None:
    """Writes a temporary file beside `path`, flushes it to disk, renames it into place: whole or not at all."""
    check_writable("output", path)
    temporary = path.parent / f".{path.name[:100]}.{os.getpid()}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            raise UserError(f"{path}: cannot be written ({error.strerror}); make room or choose another place") from None
        raise


@functools.lru_cache(maxsize=1)                                             # of the code that runs, not of a later edit
def versions() -> dict[str, str]:
    """Git revision and package versions, for reproducing a run."""
    found = {"python": platform.python_version()}
    for package in ("torch", "numpy", "numba", "melee", "peppi-py", "onnx", "onnxscript", "onnxruntime"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "missing"
    try:
        git = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent, capture_output=True,
                             text=True)
        found["git"] = git.stdout.strip() if git.returncode == 0 else "no repository"
    except OSError:
        found["git"] = "git is not installed"
    return found


def save_checkpoint(path: str | Path, policy: Policy, **extra) -> Path:
    """One file that rebuilds everything: tensors, numbers, strings, lists and dicts only, so that `weights_only` loads it."""
    path = Path(path)
    data = {"format": CHECKPOINT_FORMAT, "schema": schema_hash(), "versions": versions(), "config": policy.config,
            "policy": policy.state_dict(), **extra}
    _check_finite(policy, f"{path}: not written: ")
    buffer = io.BytesIO()
    torch.save(data, buffer)
    atomic_write(path, buffer.getbuffer())
    return path


def _check_finite(policy: Policy, what: str) -> None:
    if not all(torch.isfinite(p).all() for p in policy.parameters()):
        raise UserError(f"{what}the weights are no longer finite numbers; lower the learning rate or choose another checkpoint")


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
    revision = (data.get("versions") or {}).get("git", "unknown")
    if data["format"] != CHECKPOINT_FORMAT:
        raise UserError(f"{path}: checkpoint format {data['format']}, this code reads {CHECKPOINT_FORMAT}; train it anew or "
                        f"check out the revision it was made with ({revision})")
    if data["schema"] != schema_hash():
        raise UserError(f"{path}: made for frame schema {data['schema']}, this code has {schema_hash()}; "
                        f"train it anew or check out the revision it was made with ({revision})")
    for name, default, low, high in (("action_repeat", 1, 1, 3600), ("frame_delay", 0, 0, 3600)):
        value = data.setdefault(name, default)
        if type(value) is not int or not low <= value <= high:
            raise UserError(f"{path}: its {name} is {value!r}, not a whole number from {low} to {high}; the file is damaged")
    return data


def load_policy(path: str | Path) -> tuple[Policy, dict]:
    """-> the policy in eval mode, and the whole checkpoint."""
    data = load_checkpoint(path)
    try:
        policy = Policy(data["config"]["backbone"], tuple(data["config"]["hidden"]))
        policy.load_state_dict(data["policy"])
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: its weights do not fit its own sizes {data['config']}; the file is damaged "
                        f"({str(error).splitlines()[0]})") from None
    _check_finite(policy, f"{path}: ")
    policy.action_repeat, policy.frame_delay = data["action_repeat"], data["frame_delay"]
    return policy.eval(), data


_POOL_ID = re.compile(r"[\w.-]+_\d{12,}")                                      # <agent>_<step>: the name of a pool's file


class Pool:
    """A directory of frozen policies, `<agent>_<step>.pt`, with two indexes: active (may be drawn) and all (every one ever).

    Any process may add, draw and prune. Files are renamed into place, and so is `index.json`, which holds both indexes, so that
    they never contradict each other:

        {"active": [ids, oldest first], "all": {id: step at which it left the active index, or null}, "in_use": {owner: [ids]}}

    Changes happen under a lock and start from what is on disk; readers need none. A lost or damaged index is rebuilt from the
    files, and files that no index knows (copied in by hand, left by a kill) join it when a pool is opened. An agent has at most
    `history_size` active ids; the surplus leaves by age (prune="oldest") or by Elo ("worst", never an agent's newest). That
    happens as a newer one joins, not when files are deleted: what is drawn must not depend on when a run was saved."""

    CACHE_BYTES = 2 ** 29                                                   # of policies held in memory; the last drawn stay

    def __init__(self, directory: str | Path, history_size: int = 20, prune: str = "oldest", keep_files: bool = False,
                 action_repeat: int = 0):
        """keep_files: `prune` deletes nothing, so that every id stays readable. action_repeat: of the games that its policies
        shall play; a file with another one, or with a frame delay, counts as broken (0: any)."""
        if prune not in ("oldest", "worst"):
            raise UserError(f"--prune {prune!r}: choose oldest or worst")
        self.directory, self.history_size = Path(directory), history_size
        self.by_elo, self.keep_files, self.action_repeat = prune == "worst", keep_files, action_repeat
        self._cache: collections.OrderedDict[str, tuple] = collections.OrderedDict()    # id -> (which file, policy, bytes)
        self._warned: set[str] = set()
        self._file, self._known = None, {}
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            if not self._files() <= set(self._index()["all"]):
                with self._change() as (index, _):
                    for name in self._files() - set(index["all"]):
                        self._join(index, name, None)
        except OSError as error:
            raise UserError(f"{self.directory}: cannot be used as a pool ({error.strerror}); choose another folder") from None

    # ---- reading

    @staticmethod
    def agent(name: str) -> str:
        return name.rpartition("_")[0]

    @staticmethod
    def step(name: str) -> int:
        return int(name.rpartition("_")[2])

    def path(self, name: str) -> Path:
        return self.directory / f"{name}.pt"

    def ids(self) -> list[str]:
        """Active ids, oldest first."""
        return list(self._index()["active"])

    def all_ids(self) -> list[str]:
        """Every id there has ever been, oldest first; the files of those that are not active may be gone."""
        return self._sorted(self._index()["all"])

    def current(self, agent: str) -> str | None:
        """The agent's newest active id."""
        return next((name for name in reversed(self.ids()) if self.agent(name) == agent), None)

    def best(self, agent: str, ratings: "Ratings") -> str | None:
        """The agent's active id with the highest Elo; of equals the newest."""
        names = [name for name in self.ids() if self.agent(name) == agent]
        return max(reversed(names), key=ratings.elo, default=None)

    def load(self, name: str) -> Policy:
        """The frozen policy of an id, from memory if its file is still the same or gone. UserError: it cannot be read."""
        try:
            stat = self.path(name).stat()
            version = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        except FileNotFoundError:                                           # pruned by another process in mid-game
            version = None
        if name not in self._cache or version not in (None, self._cache[name][0]):
            self._cache.pop(name, None)
            policy = load_policy(self.path(name))[0].requires_grad_(False)
            if self.action_repeat and (policy.action_repeat, policy.frame_delay) != (self.action_repeat, 0):
                raise UserError(f"{self.path(name)}: made for --action-repeat {policy.action_repeat} and a delay of "
                                f"{policy.frame_delay} frames, not for {self.action_repeat} and 0")
            self._cache[name] = version, policy, sum(t.nbytes for t in policy.state_dict().values())
            while len(self._cache) > 1 and sum(size for _, _, size in self._cache.values()) > self.CACHE_BYTES:
                self._cache.popitem(last=False)
        self._cache.move_to_end(name)
        return self._cache[name][1]

    def sample(self, rng: np.random.Generator, names: list[str] | None = None, weights=None) -> str | None:
        """Draws an id whose file can be read: among `names` (default: all active ones), in proportion to `weights` (default:
        uniformly). A broken file is skipped, with one warning, and the draw repeated. None: nothing is left with weight."""
        names = self.ids() if names is None else list(names)
        weights = np.ones(len(names)) if weights is None else np.array(weights, float)
        while weights.sum() > 0:
            k = rng.choice(len(names), p=weights / weights.sum())
            try:
                self.load(names[k])
                return names[k]
            except UserError as error:
                if names[k] not in self._warned and names[k] in self._index()["active"]:  # not if pruned a moment ago
                    self._warned.add(names[k])
                    print(f"warning: pool: skipped {error}", file=sys.stderr)
                weights[k] = 0
        return None

    # ---- changing

    def add(self, policy: Policy, agent: str, step: int, *, ratings: "Ratings | None" = None, **extra) -> str:
        """Freezes a copy, which joins both indexes; the agent's surplus leaves the active one (by Elo: needs `ratings`).
        `extra` is what a checkpoint needs to be played elsewhere, such as its action_repeat."""
        name = f"{agent}_{step:012d}"
        if not _POOL_ID.fullmatch(name):
            raise UserError(f"agent {agent!r}, step {step}: a pool's agents are named with letters, digits, '-', '_' and '.'")
        with self._change() as (index, _):
            save_checkpoint(self.path(name), policy, step=step, **extra)
            self._join(index, name, ratings)
        return name

    def prune(self, in_use: set[str], ratings: "Ratings | None" = None, *, agents: set[str] | None = None,
              owner: str = "") -> None:
        """Deletes the files of `agents` (default: all) that are neither active nor in use; the index of all keeps their ids.

        Only right after a checkpoint: until then a resumed run may go back to games against files that have since become old.
        `in_use` names what that checkpoint refers to. It is remembered under `owner` (the run, where several share a pool), and
        no process deletes what any owner uses."""
        with self._change() as (index, deleted):
            index["in_use"][owner] = sorted(in_use)
            agents = {self.agent(name) for name in index["all"]} if agents is None else agents
            for agent in agents:
                self._retire(index, agent, ratings)
            kept = set(index["active"]).union(*index["in_use"].values())
            if not self.keep_files:
                deleted += [name for name in self._files() - kept if self.agent(name) in agents]

    def forget_after(self, step: int, *, agents: set[str] | None = None) -> None:
        """Back to what the pool was at `step`, for `agents` (default: all), since a resumed run adds the rest again: what was
        added later goes, what left the active index later is active again."""
        with self._change() as (index, deleted):
            for name in [name for name in index["all"] if agents is None or self.agent(name) in agents]:
                if self.step(name) > step:
                    del index["all"][name]
                    deleted.append(name)
                elif index["all"][name] is not None and index["all"][name] > step and self.path(name).is_file():
                    index["all"][name] = None
            index["active"] = self._sorted(name for name, left in index["all"].items() if left is None)

    # ---- the indexes

    @classmethod
    def _sorted(cls, names) -> list[str]:
        return sorted(names, key=lambda name: (cls.step(name), name))

    def _files(self) -> set[str]:
        return {path.stem for path in self.directory.glob("*_*.pt") if _POOL_ID.fullmatch(path.stem) and path.is_file()}

    def _join(self, index: dict, name: str, ratings: "Ratings | None") -> None:
        index["all"][name] = None
        index["active"] = self._sorted({*index["active"], name})
        self._retire(index, self.agent(name), ratings)

    def _retire(self, index: dict, agent: str, ratings: "Ratings | None") -> None:
        mine = [name for name in index["active"] if self.agent(name) == agent]
        surplus = len(mine) - self.history_size
        if surplus <= 0 or self.by_elo and ratings is None:
            return
        leaving = sorted(mine[:-1], key=ratings.elo) if self.by_elo else mine           # sorted is stable: of equals the oldest
        for name in leaving[:surplus]:
            index["active"].remove(name)
            index["all"][name] = self.step(mine[-1])

    def _index(self) -> dict:
        """The indexes as they are on disk now; not to be changed."""
        try:
            # The file that was read stays open, so that its inode number cannot become that of a newer one.
            now = os.stat(self.directory / "index.json")
            if self._file is not None and os.path.samestat(now, os.fstat(self._file.fileno())):
                return self._known
        except FileNotFoundError:
            pass
        index = self._read()
        if index is None:
            with self._change() as (index, _):
                pass
        return index

    def _read(self) -> dict | None:
        """None: there is no index, or not one that can be used."""
        try:
            file = open(self.directory / "index.json", "rb")
        except FileNotFoundError:
            return None
        try:
            index = json.load(file)
            active, everyone = index["active"], index["all"]
            sound = set(active) <= set(everyone) and all(map(_POOL_ID.fullmatch, everyone)) and all(
                left is None or type(left) is int for left in everyone.values())
            sound = sound and all(isinstance(names, list) for names in (active, *index["in_use"].values()))
        except (ValueError, TypeError, KeyError, AttributeError):
            sound = False
        if not sound:
            file.close()
            return None
        if self._file is not None:
            self._file.close()
        self._file, self._known = file, index
        return index

    @contextlib.contextmanager
    def _change(self):
        """-> the indexes, to be changed, and an empty list for ids whose files shall go. Nobody else changes them meanwhile. At
        the end the indexes are written, and only then files deleted: no index ever names as active what is gone."""
        import fcntl                                                        # here: it is not there on Windows
        with open(self.directory / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            index = self._read() or self._rebuilt()
            before = json.dumps(index)
            index = json.loads(before)                                      # a change that fails changes nothing
            deleted: list[str] = []
            yield index, deleted
            if json.dumps(index) != before or self._file is None:
                atomic_write(self.directory / "index.json", json.dumps(index, indent=1).encode())
                self._read()
            for name in deleted:
                self.path(name).unlink(missing_ok=True)

    def _rebuilt(self) -> dict:
        """Indexes out of the files: of every agent the newest are active."""
        names = self._sorted(self._files())
        if names:
            print(f"warning: pool: {self.directory}/index.json is lost or damaged; rebuilt from {len(names)} files",
                  file=sys.stderr)
        if self._file is not None:
            self._file.close()
        self._file = None
        index = {"active": names, "all": dict.fromkeys(names), "in_use": {}}
        for agent in {self.agent(name) for name in names}:
            self._retire(index, agent, None)
        return index


class Ratings:
    """Elo (K 32, start 1500, a draw is half a win) with wins, losses and draws, by policy id, and who did how against whom.

    table[id]     [elo, wins, losses, draws]
    payoff[a][b]  [wins, draws, losses] of a against b, every game counted; payoff[b][a] says the same from the other side
    recent[a][b]  [score, games] of a against b, in which every further game between them weighs the older ones down by DECAY,
                  and every game of a against anybody by FADE: who was beaten long ago counts as unknown and is met again

    All of it is plain lists and dicts. Ids that a pool has pruned stay in it."""

    K, START = 32., 1500.
    DECAY, FADE = .98, .999                                                 # 34, or 693 games on, one counts half

    def __init__(self, table: dict[str, list[float]] | None = None, payoff: dict | None = None, recent: dict | None = None):
        self.table = {name: list(row) for name, row in (table or {}).items()}
        self.payoff, self.recent = ({a: {b: list(cell) for b, cell in row.items()} for a, row in (nested or {}).items()}
                                    for nested in (payoff, recent))

    def state_dict(self) -> dict:
        """Plain values for a checkpoint; `Ratings(**state)` goes on from there."""
        return {"table": self.table, "payoff": self.payoff, "recent": self.recent}

    def load_state_dict(self, state: dict) -> None:
        self.__init__(**state)

    def row(self, name: str) -> list[float]:
        return self.table.setdefault(name, [self.START, 0, 0, 0])

    def elo(self, name: str) -> float:
        return self.table[name][0] if name in self.table else self.START

    def record(self, a: str, b: str, score: float) -> None:
        """score 1 if a won, .5 for a draw, 0 if b won. Credit goes to the ids that started the game."""
        row_a, row_b = self.row(a), self.row(b)
        expected = 1 / (1 + 10 ** ((row_b[0] - row_a[0]) / 400))
        row_a[0] += self.K * (score - expected)
        row_b[0] -= self.K * (score - expected)
        column = {1.: 1, 0.: 2, .5: 3}[score]
        row_a[column] += 1
        row_b[{1: 2, 2: 1, 3: 3}[column]] += 1
        for x, y, s in ((a, b, score), (b, a, 1 - score)):
            self.payoff.setdefault(x, {}).setdefault(y, [0, 0, 0])[{1.: 0, .5: 1, 0.: 2}[s]] += 1
            recent = self.recent.setdefault(x, {})
            for cell in recent.values():
                cell[:] = cell[0] * self.FADE, cell[1] * self.FADE
            cell = recent.setdefault(y, [0., 0.])
            cell[:] = cell[0] * self.DECAY + s, cell[1] * self.DECAY + 1

    def forget(self, name: str) -> None:
        """Who goes by this name is somebody else from now on: Elo and recent results begin anew, what was counted stays."""
        self.row(name)[0] = self.START
        for row in (self.recent.pop(name, {}), *self.recent.values()):
            row.pop(name, None)

    def games(self, a: str, b: str) -> float:
        """How many games `winrate` rests on."""
        return self.recent.get(a, {}).get(b, (0., 0.))[1]

    def winrate(self, a: str, b: str) -> float:
        """Of late, a's score against b in [0, 1]: recent games and one imagined draw, so .5 if they never met."""
        score, games = self.recent.get(a, {}).get(b, (0., 0.))
        return (score + .5) / (games + 1)

    def ranking(self, names: list[str] | None = None) -> list[tuple[str, float, int, int, int]]:
        """(id, elo, wins, losses, draws), strongest first; of `names` (default: of all ids ever rated)."""
        rows = [(name, *row) for name, row in self.table.items() if names is None or name in names]
        return [(name, elo, int(w), int(l), int(d)) for name, elo, w, l, d in sorted(rows, key=lambda row: -row[1])]


def print_elo(console, ratings: Ratings, learners: list[str], others: list[str]) -> None:
    """The running Elo of those that have played, strongest first; beside it the payoff matrix: every game has a learner, so it
    has their columns alone, with the learner's wins-draws-losses against the row."""
    table = rich.table.Table("Rank", "Policy", "Elo", "W", "L", "D", *(f"{name} W-D-L" for name in learners),
                             title="Elo (start 1500)")
    for rank, (name, elo, *counts) in enumerate(ratings.ranking([*learners, *others]), 1):
        cells = ("-".join(map(str, ratings.payoff.get(learner, {}).get(name, ()))) for learner in learners)
        table.add_row(str(rank), name, f"{elo:.0f}", *map(str, counts), *cells)
    console.print(table)


def fit_elo(payoff: dict[str, dict[str, list]], prior: float = 1000.) -> dict[str, tuple[float, float, float]]:
    """Bradley-Terry strengths of everyone in payoff[a][b] = [wins, draws, losses] -> {id: (elo, low, high)}, 95 % intervals.

    Unlike a running Elo it does not depend on the order of the games. Maximum a posteriori under independent normal priors
    with a standard deviation of `prior` Elo, weak enough to matter only where games decide nothing (nobody lost, nobody met);
    the intervals come from the Hessian and are those of the distance to the field's mean, which is set to 1500. A draw is half
    a win for either, which makes the intervals of those who draw often a little too wide."""
    names = sorted({*payoff, *(b for row in payoff.values() for b in row)})
    if not names:
        return {}
    index = {name: k for k, name in enumerate(names)}
    wins = np.zeros((len(names), len(names)))                               # [a, b]: a's points against b
    for a, row in payoff.items():
        for b, (won, drawn, lost) in row.items():
            wins[index[a], index[b]] = won + drawn / 2
            wins[index[b], index[a]] = lost + drawn / 2
    unit = 400 / math.log(10)                                               # Elo in one unit of log-odds
    games, strength, precision = wins + wins.T, np.zeros(len(names)), (unit / prior) ** 2
    for _ in range(100):                                                    # Newton's method on a concave function
        expected = 1 / (1 + np.exp(strength[None] - strength[:, None]))
        gradient = (wins - games * expected).sum(1) - precision * strength
        information = games * expected * (1 - expected)
        hessian = np.diag(information.sum(1) + precision) - information
        step = np.linalg.solve(hessian, gradient)
        strength += step / max(1., np.abs(step).max())                      # never more than one unit at once
        if np.abs(step).max() < 1e-9:
            break
    centre = np.eye(len(names)) - 1 / len(names)
    deviation = 1.96 * unit * np.sqrt(np.diag(centre @ np.linalg.inv(hessian) @ centre))
    elo = Ratings.START + unit * (strength - strength.mean())
    return {name: (float(e), float(e - d), float(e + d)) for name, e, d in zip(names, elo, deviation, strict=True)}


# ---------------------------------------------------------------------------------------------------------------------
# Matchmaking: whom a learner meets
# ---------------------------------------------------------------------------------------------------------------------

MIRROR = ""                                                                 # the learner itself: both sides learn
OPPONENT = "opponent"                                                       # the frozen policy of --opponent
HISTORY_PROB = {"self": 0., "simple_mix": .25, "pfsp": .5, "league": .5, "historical": 1., "population": 1.}
ROLES = ("main", "main_exploiter", "league_exploiter")


@dataclass
class MatchArgs:
    """The flags of Matchmaker and of the pool."""
    character: str = "mewtwo"
    """the learner's character; several, separated by commas, or low_tiers, top_tiers, all are played in turn"""
    opponent_character: str = ""
    """the opponents' character or characters (off: empty, the same as the learner's)"""
    stage: str = "final_destination"
    """stage, stages or all"""
    matchmaking: Literal["simple_mix", "self", "historical", "population", "league", "pfsp"] = "simple_mix"
    """whom a learner meets: simple_mix its present self or a past checkpoint; self always itself; historical any checkpoint of
    the pool; population the other learners as they are now; league checkpoints near its own Elo; pfsp those it loses to"""
    history_prob: float | None = None
    """share of games against an opponent that --matchmaking draws, the others are against itself (default: .25 for simple_mix,
    .5 for pfsp and league, 1 for historical and population; off: 0)"""
    pfsp_weighting: Literal["hard", "even"] = "hard"
    """pfsp prefers opponents that win (hard: (1 - p)^2 at win rate p) or that are as strong (even: p (1 - p))"""
    league: bool = False
    """AlphaStar's roles in place of --matchmaking: learner 1 is the main agent, 2 its exploiter, 3 the league's exploiter, and
    so on (off: False; needs --population-size 3 or more)"""
    league_reset_frames: int = 4_000_000
    """game frames after which an exploiter that does not win starts anew from the initial weights (off: 1000000000000)"""
    opponents_per_iteration: int = 4
    """different frozen networks that may play against a learner at the same time, 2 or more: each costs a forward a step. When
    there are so many, the longest seated half gets no new games, and others are drawn as they leave (off: 1024)"""
    opponent_swap: Literal["reset", "rollout"] = "reset"
    """when a game slot draws a new opponent: reset at every new game, rollout at the first new game of a rollout"""
    opponent: str = ""
    """train against this frozen policy alone, to measure how far it can be exploited, or in Dolphin against Melee's own computer
    player, cpu1 to cpu9 (off: empty)"""
    opponent_bots: str = ""
    """scripted opponents to mix in, separated by commas, e.g. level1,level5 (off: empty)"""
    bot_prob: float = .1
    """share of games against one of --opponent-bots (off: 0)"""
    history_size: int = 20
    """active checkpoints of each learner in the pool (off: 1000000000, none is ever retired)"""
    prune: Literal["oldest", "worst"] = "oldest"
    """which checkpoint of an agent is retired when it has more than --history-size"""
    keep_retired: bool = True
    """keep the files of retired checkpoints, for tournaments (off: --no-keep-retired, only those that may be drawn stay)"""
    pool_interval: int = 25
    """iterations between two additions to the pool, which begins with the initial policy (off: more than the run has)"""
    track_elo: bool = False
    """print the Elo table and the payoff matrix with counts at the end (off: False)"""


class Matchmaker:
    """Draws opponents by name: MIRROR, another learner, a checkpoint of the pool, a scripted bot, or OPPONENT."""

    def __init__(self, args: MatchArgs, learners: list[str], pool: Pool, ratings: Ratings):
        self.args, self.learners, self.pool, self.ratings = args, learners, pool, ratings
        self.history_prob = HISTORY_PROB[args.matchmaking] if args.history_prob is None else args.history_prob
        self.bots = parse_names(args.opponent_bots, BOTS, "bot") if args.opponent_bots else []
        self.role = {name: ROLES[k % 3] if args.league else "main" for k, name in enumerate(learners)}

    def draw(self, me: str, rng: np.random.Generator) -> str:
        """The opponent of learner `me` in its next game, as the strategy wants it."""
        if self.args.opponent:
            return self.args.opponent if self.args.opponent in CPU_LEVELS else OPPONENT
        if self.bots and rng.random() < self.args.bot_prob:
            return self.bots[rng.integers(len(self.bots))]
        names, weights = self.league(me, rng) if self.args.league else self.candidates(me, rng)
        if not names:
            return MIRROR
        weights = weights / weights.sum() if weights.sum() > 0 else np.full(len(names), 1 / len(names))
        if names[0] in self.learners:
            return names[rng.choice(len(names), p=weights)]
        return self.pool.sample(rng, names, weights) or MIRROR              # a checkpoint that cannot be read is passed over

    def candidates(self, me: str, rng: np.random.Generator) -> tuple[list[str], np.ndarray]:
        """Names and weights of whom --matchmaking may draw; none for a mirror match."""
        if rng.random() >= self.history_prob:
            return [], np.zeros(0)
        if self.args.matchmaking == "population":
            others = [name for name in self.learners if name != me]
            return others, np.ones(len(others))
        names = self.pool.ids()
        if self.args.matchmaking == "pfsp":
            return names, self.pfsp(me, names, self.args.pfsp_weighting)
        if self.args.matchmaking == "league":
            return names, self.near(me, names)
        return names, np.ones(len(names))

    def pfsp(self, me: str, names: list[str], weighting: str) -> np.ndarray:
        """Prioritised fictitious self-play: weights from the decayed win rate against each, with a floor: a tenth of the games
        go to all of them alike, so that nobody is forgotten for having been beaten once."""
        p = np.array([self.ratings.winrate(me, name) for name in names])
        weights = (1 - p) ** 2 if weighting == "hard" else p * (1 - p)
        return .9 * weights / weights.sum() + .1 / len(names) if weights.sum() > 0 else np.ones(len(names))

    def near(self, me: str, names: list[str], tier: float = 200.) -> np.ndarray:
        """Weights by Elo: tiers of 200 points; one's own and the two beside it, the closer the likelier; else all."""
        mine, elo = self.ratings.elo(me), np.array([self.ratings.elo(name) for name in names])
        weights = np.exp(-((elo - mine) / tier) ** 2)
        return np.where(np.abs(elo // tier - mine // tier) <= 1, weights, 0)

    def league(self, me: str, rng: np.random.Generator) -> tuple[list[str], np.ndarray]:
        """The mixtures of AlphaStar's league (Vinyals et al. 2019, supplement), by the role of `me`."""
        active, draw = self.pool.ids(), rng.random()
        mains = [name for name in self.learners if self.role[name] == "main"]
        if self.role[me] == "main":
            if draw < .35:                                                  # itself
                return [], np.zeros(0)
            if draw < .85:                                                  # the whole league, hard ones first
                return active, self.pfsp(me, active, "hard")
            forgotten = [name for name in active if self.role.get(self.pool.agent(name)) != "league_exploiter"
                         and self.ratings.winrate(me, name) < .5]
            return forgotten, self.pfsp(me, forgotten, "hard")
        if self.role[me] == "main_exploiter":
            target = mains[rng.integers(len(mains))]
            if self.ratings.winrate(me, target) > .1:                       # it stands a chance: the present main agent
                return [target], np.ones(1)
            past = [name for name in active if self.pool.agent(name) == target]
            return (past, self.pfsp(me, past, "even")) if past else ([target], np.ones(1))
        return active, self.pfsp(me, active, "hard")

    def starts_anew(self, me: str, frames: int, rng: np.random.Generator) -> bool:
        """Has exploiter `me`, `frames` game frames after its last start, done what it can? It beats 70 % in 10 or more recent
        games each, or its time is up; the league's exploiter then starts anew once in four times."""
        if self.role[me] == "main" or not frames:
            return False
        mains = [name for name in self.learners if self.role[name] == "main"]
        targets = mains if self.role[me] == "main_exploiter" else self.pool.ids()
        done = bool(targets) and all(self.ratings.games(me, name) >= 10 and self.ratings.winrate(me, name) > .7
                                     for name in targets)
        return (done or frames >= self.args.league_reset_frames) and (self.role[me] == "main_exploiter" or rng.random() < .25)


def parse_names(text: str, table: dict[str, int], what: str, presets: dict[str, tuple[str, ...]] | None = None) -> list[str]:
    """"fox,marth" or the name of a preset -> the names, each of them in `table`."""
    names = [part.strip() for part in text.split(",") if part.strip()]
    names = [name for part in names for name in (presets or {}).get(part, (part,))]
    if not names:
        raise UserError(f"no {what} given: choose among {', '.join(sorted(table))}")
    for name in names:
        lookup(table, name, what)
    return names


# ---------------------------------------------------------------------------------------------------------------------
# Strength: what a policy can do against opponents that do not learn with it
# ---------------------------------------------------------------------------------------------------------------------

@dataclass
class StrengthArgs:
    """The flags of measure_strength."""
    eval_interval: int = 200
    """iterations between two evaluations of the strongest learner (by Elo), also before the first and after the last iteration
    (off: 0)"""
    eval_games: int = 32
    """games against each opponent in an evaluation, half of them from either port"""
    eval_opponents: str = "idle,random,attacker,level1,level3,level5"
    """scripted opponents of an evaluation, separated by commas, level1 to level9 among them; besides these the initial policy
    and, as a control, itself"""
    held_out: str = "attacker"
    """an opponent that training never meets, a bot or the file of a policy; part of every evaluation (off: empty)"""
    eval_in_background: bool = True
    """evaluate in a process of its own, at low priority (off: --no-eval-in-background, training waits for it)"""


def measure_strength(policy: Policy, initial: Policy, step: int, args) -> dict:
    """A row for eval.jsonl. Win rates with 95 % intervals against scripted opponents, the held-out opponent, the initial policy
    and itself (the control, which must come out even: whose score is counted changes so that neither the matchup nor the side of
    the stage tells); drift: how far its actions against itself are from those of the initial policy against itself; and what
    looks like a collapse, among it a policy that wins from one side of the stage only.
    All randomness is its own, keyed by seed and step. `args`: flags of ppo_selfplay.py."""
    n, policies = args.eval_games, [policy, initial]
    blocks = {name: (BOT_SLOT, BOTS[name]) for name in parse_names(args.eval_opponents, BOTS, "bot")}  # name: policy, bot
    blocks |= {"control": (0, 0), "initial": (1, 0), "reference": (1, 0)}
    if args.held_out in BOTS:
        blocks.setdefault(args.held_out, (BOT_SLOT, BOTS[args.held_out]))
    elif args.held_out:
        policies.append(load_policy(args.held_out)[0])
        blocks["heldout"] = (2, 0)
    assignment = np.zeros((len(blocks) * n, 2), np.int64)
    bot_kinds, games = np.zeros_like(assignment), np.arange(len(assignment))
    mine = games % 2                                                        # the policy's port in each game
    assignment[games, 1 - mine] = np.repeat([player for player, _ in blocks.values()], n)
    bot_kinds[games, 1 - mine] = np.repeat([bot for _, bot in blocks.values()], n)
    block = {name: slice(k * n, (k + 1) * n) for k, name in enumerate(blocks)}
    assignment[block["reference"]] = 1                                      # the initial policy on both sides
    characters, stages = matchups(args, games % n, mine)

    pressed = np.zeros((2, NUM_BUTTONS))                                    # of the policy and of the initial policy
    tilted, counted = np.zeros((2, ACTION_SIZE - NUM_BUTTONS, NUM_STICK)), np.zeros(2)

    def watch(actions, running):
        for k, name in enumerate(("control", "reference")):
            rows = actions[block[name]][running[block[name]]].reshape(-1, ACTION_SIZE)                      # [B, 13]
            counted[k] += len(rows)
            pressed[k] += rows[:, :NUM_BUTTONS].sum(0)
            for head in range(ACTION_SIZE - NUM_BUTTONS):
                tilted[k, head] += np.bincount(rows[:, NUM_BUTTONS + head], minlength=NUM_STICK)

    seed = args.seed + 1_000_003 * (step + 1)
    with VecEnv(len(assignment), characters, stages, seed=seed, bot_kinds=bot_kinds, max_episode_frames=args.max_episode_frames,
                action_repeat=args.action_repeat) as envs:
        stocks = envs.frames["players"]["stocks"].copy()
        final = play_games(policies, envs, assignment, torch.Generator().manual_seed(seed), watch)
    unhurt = ((final["players"]["percent"] == 0) & (final["players"]["stocks"] == stocks)).all(1)
    side = mine.copy()
    side[block["control"]] = games[:n] // 2 % 2                             # each character sits there as often as opposite
    scores = (outcomes(final) * np.where(side == 0, 1, -1) + 1) / 2         # 1 won, .5 draw, 0 lost
    row = {"global_step": step, "games": n}
    for name in [name for name in blocks if name != "reference"]:
        wins = float(scores[block[name]].sum())
        low, high = wilson_interval(wins, n)
        row |= {f"eval/winrate_{name}": wins / n, f"eval/winrate_{name}_low": low, f"eval/winrate_{name}_high": high}

    press, tilt = pressed / counted[:, None], tilted / counted[:, None, None]
    distance = np.concatenate([np.abs(press[0] - press[1]), np.abs(tilt[0] - tilt[1]).sum(-1) / 2])
    entropy = [-sum(float((p * np.log(np.maximum(p, 1e-12))).sum()) for p in (press[k], 1 - press[k], tilt[k])) for k in (0, 1)]
    def uneven(score):                                                      # one false alarm in a thousand
        low, high = wilson_interval(score * n, n, z=3.3)
        return not low <= .5 <= high

    port_1 = float((outcomes(final[block["control"]]) + 1).mean() / 2)
    collapse = {"control": uneven(row["eval/winrate_control"]), "one-sided": uneven(port_1),
                "entropy": entropy[0] < .25 * entropy[1], "mashing": bool((press[0] > .5).any()),
                "passive": bool(unhurt[block["control"]].mean() > .5 + .5 * unhurt[block["reference"]].mean()),
                "frozen": bool(press[0].sum() < .01 and (tilt[0, :, STICK_NEUTRAL][:-1] > .99).all())}
    return row | {"eval/drift": float(distance.mean()), "eval/action_entropy": entropy[0], "eval/port_1_score": port_1,
                  "eval/collapse": [name for name, flag in collapse.items() if flag]}


def describe_strength(row: dict) -> str:
    """A row of eval.jsonl in a line."""
    names = [key.removeprefix("eval/winrate_") for key in row if f"{key}_low" in row]
    rates = ("{} {:.0%} [{:.0%}, {:.0%}]".format(name, *(row[f"eval/winrate_{name}{end}"] for end in ("", "_low", "_high")))
             for name in names)
    flags = "".join(f"; collapse: {flag}" for flag in row["eval/collapse"])
    return f"{', '.join(rates)}; drift {row['eval/drift']:.2f}{flags}"


CHARACTER_PRESETS = {"low_tiers": ("mewtwo", "gameandwatch", "link", "ganondorf", "zelda"),
                     "top_tiers": ("fox", "falco", "marth", "sheik", "captain_falcon"), "all": tuple(CHARACTERS)}
STAGE_PRESETS = {"all": tuple(STAGES)}


def matchups(args, games: np.ndarray, mine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Characters [N, 2] and stages [N]: every combination of --character, --opponent-character and --stage in turn."""
    own, stages = (parse_names(text, table, what, presets) for text, table, what, presets in (
        (args.character, CHARACTERS, "character", CHARACTER_PRESETS), (args.stage, STAGES, "stage", STAGE_PRESETS)))
    theirs = [None]
    if args.opponent_character:
        theirs = parse_names(args.opponent_character, CHARACTERS, "character", CHARACTER_PRESETS)
    combinations = [(a, b or a, s) for a in own for b in theirs for s in stages]
    chosen = [combinations[g // 2 % len(combinations)] for g in games]      # g // 2: each of them from either port
    characters = np.array([(CHARACTERS[a], CHARACTERS[b]) for a, b, _ in chosen])
    return np.where(mine[:, None] == 0, characters, characters[:, ::-1]), np.array([STAGES[s] for _, _, s in chosen])


def computer_levels(args, num_games: int) -> np.ndarray:
    """[N, 2] for VecEnv: the computer player of --opponent sits at port g % 2 of game g, and stays there."""
    levels = np.zeros((num_games, 2), int)
    levels[np.arange(num_games), np.arange(num_games) % 2] = CPU_LEVELS.get(args.opponent, 0)
    return levels


class Evaluator:
    """Measures strength in a process of its own, so that collection never waits for it. A policy to be measured lies in
    checkpoints/eval_<step>.pt until its row is written: what a kill interrupts is measured after --resume. A process that keeps
    dying costs the evaluations, not the training."""

    MAX_FAILURES = 3

    def __init__(self, run: Path, args, global_step: int, log=print):
        self.run, self.folder, self.args, self.log, self.process, self.failures = run, run / "checkpoints", args, log, None, 0
        self.jobs = sorted((int(path.stem.split("_")[1]), path) for path in self.folder.glob("eval_*.pt"))
        written = run / "eval.jsonl"
        done = {json.loads(line)["global_step"] for line in written.read_text().splitlines()} if written.exists() else set()
        for step, path in self.jobs:
            if step > global_step or step in done:                          # measured again when training is there; or already
                path.unlink()
        self.jobs = [job for job in self.jobs if job[1].exists()]

    def submit(self, policy: Policy, step: int) -> None:
        if self.failures < self.MAX_FAILURES:
            self.jobs.append((step, save_checkpoint(self.folder / f"eval_{step:012d}.pt", policy)))

    def report(self, wait: bool = False) -> None:
        """Writes and tells what is ready; with `wait` all of it."""
        for row in self.finished(wait):
            append_jsonl(self.run / "eval.jsonl", row)
            self.log(f"[green]eval[/] at {row['global_step']:,}: {describe_strength(row)}")
            if self.args.track:
                import wandb
                wandb.log(row)

    def finished(self, wait: bool = False):
        """Yields rows that are ready, in the order of submission; with `wait` all of them. The file of one goes as the next is
        asked for: by then its row is written."""
        while self.jobs:
            step, path = self.jobs[0]
            if not self.args.eval_in_background:
                row = measure_strength(load_policy(path)[0], load_policy(self.folder / "initial.pt")[0], step, self.args)
            else:
                row = self._ask(step, path, wait)
                if row is None:
                    return
            yield row
            self.jobs.pop(0)
            path.unlink(missing_ok=True)

    def _ask(self, step: int, path: Path, wait: bool) -> dict | None:
        """The row of the first job, if the process has it; starts the process, sends it the job, where that is to do."""
        if self.process is None:
            here = str(Path(__file__).parent)
            code = f"import sys; sys.path.insert(0, {here!r}); import melee_common; melee_common.serve_evaluations()"
            self.asked = None
            self.process = subprocess.Popen(
                [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                env=os.environ | {"OMP_NUM_THREADS": "1"})
            self.poll = select.poll()
            self.poll.register(self.process.stdout, select.POLLIN)
        if self.asked != step:
            job = {"policy": str(path), "initial": str(self.folder / "initial.pt"), "step": step, "args": vars(self.args)}
            with contextlib.suppress(BrokenPipeError):                      # its end shows below
                print(json.dumps(job), file=self.process.stdin, flush=True)
            self.asked = step
        if not self.poll.poll(None if wait else 0):
            return None
        line = self.process.stdout.readline()
        if line.endswith("\n"):
            self.failures = 0
            return json.loads(line)
        self.close()
        self.failures += 1
        if self.failures < self.MAX_FAILURES:
            self.log("the process that evaluates has died; it is started again")
            return self._ask(step, path, wait)
        self.log(f"warning: the process that evaluates died {self.failures} times; this run goes on without evaluations, and "
                 "after --resume with them; --no-eval-in-background shows what is wrong")
        self.jobs = []                                                      # their files stay, for --resume
        return None

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


def serve_evaluations() -> None:
    """The other side of Evaluator: a job in JSON on standard input, its row on standard output."""
    _end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)                            # Ctrl-C is the main process's business
    os.nice(5)                                                              # training first, but not alone
    for line in sys.stdin:
        job = json.loads(line)
        row = measure_strength(load_policy(job["policy"])[0], load_policy(job["initial"])[0], job["step"],
                               argparse.Namespace(**job["args"]))
        print(json.dumps(row), flush=True)


# ---------------------------------------------------------------------------------------------------------------------
# Populations: who sits where, whose turn it is, who copies whom
# ---------------------------------------------------------------------------------------------------------------------

@dataclass
class PopulationArgs:
    """The flags of a population of learners."""
    population_size: int = 1
    """independent learners, e.g. 4, each with its own network, optimiser, games and hyperparameters (off: 1)"""
    pbt: bool = False
    """population-based training: the weakest fifth copies the strongest and varies its hyperparameters (off: False)"""
    pbt_interval: int = 100
    """iterations between two rounds of --pbt"""
    train_order: Literal["parallel", "round-robin"] = "parallel"
    """all learners learn at once, or one at a time while the others wait (off: parallel)"""
    turn_winrate: float = .7
    """round-robin: win rate against others, over --turn-games games or more, that ends a learner's turn (off: 1)"""
    turn_games: int = 20
    """round-robin: finished games against others that a win rate needs; it is taken at the next pool addition"""
    turn_patience: int = 5
    """round-robin: win rates in a row without a better one that end a turn; the learner keeps its best weights
    (off: 1000000000)"""
    turn_frames: int = 1_000_000
    """round-robin: game frames that end a turn (off: 1000000000000)"""


class Learner:
    """One agent of the population: network, optimiser, hyperparameters and random stream. It shares nothing with the others."""

    def __init__(self, name: str, policy: Policy, args, index: int):
        self.name, self.policy, self.asynchronous = name, policy.eval(), args.async_learning    # no network has a train mode
        self.rng = np.random.default_rng([args.seed, index])                # minibatches, hyperparameters
        self.hyper = {"learning_rate": args.learning_rate, "entropy_coef": args.entropy_coef, "ppo_clip": args.ppo_clip}
        if args.pbt:
            for key in self.hyper:
                self.hyper[key] *= math.exp(self.rng.uniform(-math.log(3), math.log(3)))
        self.optimizer = torch.optim.Adam(policy.parameters(), lr=args.learning_rate, eps=1e-5)
        self.updates, self.agent_frames, self.born = 0, 0, 0                # born: global_step of its last start
        self.teacher_state: tuple = ()
        self.publish()

    def publish(self) -> None:
        """From now on the present weights act: the policy itself, or a copy where it learns while games go on."""
        self.acting = copy.deepcopy(self.policy) if self.asynchronous else self.policy

    def become(self, policy: dict, optimizer: dict | None) -> None:
        """Copies weights; without an optimiser's state Adam starts anew."""
        self.policy.load_state_dict(policy)
        self.optimizer = torch.optim.Adam(self.policy.parameters(), lr=self.hyper["learning_rate"], eps=1e-5)
        if optimizer:
            self.optimizer.load_state_dict(copy.deepcopy(optimizer))
        self.publish()

    def state_dict(self) -> dict:
        return {"policy": self.policy.state_dict(), "optimizer": self.optimizer.state_dict(), "hyper": self.hyper,
                "rng": json.dumps(self.rng.bit_generator.state), "updates": self.updates, "agent_frames": self.agent_frames,
                "born": self.born, "teacher_state": list(self.teacher_state)}

    def load_state_dict(self, state: dict) -> None:
        self.hyper = dict(state["hyper"])
        self.become(state["policy"], state["optimizer"])
        self.rng.bit_generator.state = json.loads(state["rng"])
        self.updates, self.agent_frames, self.born = state["updates"], state["agent_frames"], state["born"]
        self.teacher_state = tuple(state["teacher_state"])


def make_learners(initial: Policy, args) -> list[Learner]:
    """--population-size learners. All start from --pretrained; without it the first is `initial`, the others start apart."""
    names = ["main"] if args.population_size == 1 else [f"agent{k + 1}" for k in range(args.population_size)]
    if args.league:
        names = [ROLES[k % 3] + (str(k // 3 + 1) if k > 2 else "") for k in range(args.population_size)]
    sizes = initial.config["backbone"], tuple(initial.config["hidden"])
    return [Learner(name, copy.deepcopy(initial) if k == 0 or args.pretrained else Policy(*sizes), args, k)
            for k, name in enumerate(names)]


class Arena:
    """All games of all learners: who sits where, what networks remember of their games, and who gets the credit for a result.

        arena.seat()                          games that begin draw their opponents
        arena.act(obs)                        -> actions [N, 2, 13] of everybody
        arena.settle(ended, final_frames)     results go to the ids that started the games

    `owner` [N] is the learner (its index) that learns from a game, on both ports in a mirror match. The learner sits at port
    (slot + episode) % 2, so that it plays as often from either side; character and stage go through their lists likewise.
    Against Melee's computer player, who keeps its port, it sits at (slot + 1) % 2."""

    def __init__(self, args, envs: VecEnv, learners: list[Learner], pool: Pool, ratings: Ratings):
        self.args, self.envs, self.learners, self.pool, self.ratings = args, envs, learners, pool, ratings
        self.names = [learner.name for learner in learners]
        self.matchmaker = Matchmaker(args, self.names, pool, ratings)
        n, self.changes_sides = envs.num_games, args.opponent not in CPU_LEVELS
        self.owner = np.arange(n) * len(learners) // n if args.train_order == "parallel" else np.zeros(n, np.int64)
        self.opponents = [MIRROR] * n
        self.due, self.credit, self.resets = np.ones((3, n), bool)          # draws an opponent, keeps its result, begins a game
        self.port = np.zeros(n, np.int64)                                   # of each game's learner
        self.networks: list[str] = []
        self.open: list[list[str]] = [[] for _ in learners]                 # frozen networks that may begin games, by seniority
        self.states = {name: learner.acting.initial_state(2 * n) for name, learner in zip(self.names, learners, strict=True)}
        self.rng = np.random.default_rng(args.seed)                         # opponents
        self.noise = torch.Generator().manual_seed(args.seed)               # action sampling
        self.begin_iteration()

    def begin_iteration(self) -> None:
        """Weights may have changed since the last one; results are counted anew. Where --opponents-per-iteration networks play,
        those seated longest get no new games from now on: otherwise the same few would play for ever."""
        active, bound = set(self.pool.ids()), self.args.opponents_per_iteration
        for k, crowd in enumerate(self._crowds()):
            still = [name for name in self.open[k] if name in crowd and name in active]
            self.open[k] = still if len(crowd) < bound or active <= crowd else still[-(bound // 2):]
        self.stacked = None
        self.due[:] = True
        self.scores = {name: [] for name in self.names}                     # against others
        self.finished = self.truncated = 0

    def seat(self) -> None:
        """Draws the opponents of games that begin with the next frame; they stay until their games end."""
        begun, episode = np.flatnonzero(self.resets), self.envs.games.episode
        self.port[begun] = (begun + (episode[begun] if self.changes_sides else 1)) % 2
        for g in begun[self.due[begun]]:
            self.opponents[g] = MIRROR                                      # the last one's game is over
        crowds = [crowd.union(open_) for crowd, open_ in zip(self._crowds(), self.open, strict=True)]
        for g in begun:
            if self.due[g]:
                self.opponents[g] = self._draw(self.owner[g], crowds[self.owner[g]])
                self.due[g] = self.args.opponent_swap == "reset"
            self.credit[g] = True
            self.envs.set_bot(g, 1 - self.port[g], BOTS.get(self.opponents[g], 0))
        if len(begun):                                                      # a game is set up as the one before it ends
            next_port = self.port[begun] ^ self.changes_sides
            self.envs.set_matchup(begun, *matchups(self.args, begun + 2 * (episode[begun] + 1), next_port))
        before = self.networks
        self.networks = [*self.names, *sorted(set(self.opponents) - {MIRROR, *self.names, *BOTS, *CPU_LEVELS})]
        self.policies = [learner.acting for learner in self.learners]
        self.policies += [self._frozen(name) for name in self.networks[len(self.names):]]
        self.states = {name: self.states[name] if name in self.states else policy.initial_state(2 * len(self.port))
                       for name, policy in zip(self.networks, self.policies, strict=True)}
        index = {name: k for k, name in enumerate(self.networks)} | dict.fromkeys((*BOTS, *CPU_LEVELS), BOT_SLOT)
        self.assignment = self.owner[:, None].repeat(2, 1)
        self.assignment[np.arange(len(self.port)), 1 - self.port] = [
            self.owner[g] if name == MIRROR else index[name] for g, name in enumerate(self.opponents)]
        self.stacked = self.stacked if self.networks == before else None

    def _crowds(self) -> list[set[str]]:
        """The frozen networks that play against each learner."""
        return [{self.opponents[g] for g in np.flatnonzero(self.owner == k)} - {MIRROR, *self.names, *BOTS, *CPU_LEVELS}
                for k in range(len(self.names))]

    def _draw(self, k: int, crowd: set[str]) -> str:
        """An opponent for learner k, beside the frozen ones that it meets now: as the strategy draws it while there is room,
        else one of those that it drew a short while ago."""
        name, open_ = self.matchmaker.draw(self.names[k], self.rng), self.open[k]
        if name in {MIRROR, OPPONENT, *self.names, *BOTS, *CPU_LEVELS, *open_}:
            return name
        if len(crowd) >= self.args.opponents_per_iteration:
            open_ = open_ or Pool._sorted(crowd)[-1:]                       # all retired: an old one rather than a mirror
            return open_[self.rng.integers(len(open_))]
        crowd.add(name)
        open_.append(name)
        return name

    def _frozen(self, name: str) -> Policy:
        return _load_frozen(self.args.opponent) if name == OPPONENT else self.pool.load(name)

    def act(self, obs: Observation) -> np.ndarray:
        """obs of all games -> actions [N, 2, 13]"""
        if self.args.parallel_actions and self.stacked is None and len({repr(p.config) for p in self.policies}) == 1:
            self.stacked = StackedPolicies(self.policies)
        states = [self.states[name] for name in self.networks]
        actions = act(self.policies, self.assignment, obs, states, self.resets, self.noise, self.stacked)
        self.states = dict(zip(self.networks, states, strict=True))
        return actions

    def settle(self, terminated: np.ndarray, truncated: np.ndarray, broken: np.ndarray, frames: np.ndarray) -> None:
        """After a step: [N] how games ended, FRAME [N] their last frames. A broken game has no result."""
        self.resets = terminated | truncated
        games = np.flatnonzero(self.resets & ~broken)
        if not len(games):
            return
        scores = (1 + outcomes(frames[games]) * (1 - 2 * self.port[games])) / 2
        for g, score in zip(games, scores.tolist(), strict=True):
            if self.opponents[g] != MIRROR and self.credit[g]:
                me = self.names[self.owner[g]]
                self.ratings.record(me, self.opponents[g], score)
                self.scores[me].append(score)
        self.finished, self.truncated = self.finished + len(games), self.truncated + int(truncated[games].sum())

    def hand_over(self, learner: int) -> None:
        """Round-robin: all games go on with this learner; results of games that another one began do not count."""
        self.owner[:], self.credit[:], self.due[:] = learner, False, True
        self.states = {each.name: each.acting.initial_state(2 * len(self.owner)) for each in self.learners}
        for each in self.learners:
            each.teacher_state = ()                                         # it followed other games than it will see next

    def state_dict(self) -> dict:
        arrays = {name: getattr(self, name).tolist() for name in ("owner", "port", "resets", "credit", "due")}
        states = {name: list(state) for name, state in self.states.items()}
        return {**arrays, "opponents": self.opponents, "open": self.open, "states": states,
                "rng": json.dumps(self.rng.bit_generator.state), "noise": self.noise.get_state()}

    def load_state_dict(self, state: dict) -> None:
        self.opponents, self.owner, self.port = list(state["opponents"]), np.array(state["owner"]), np.array(state["port"])
        self.open = [list(names) for names in state["open"]]
        self.resets, self.credit, self.due = (np.array(state[name], bool) for name in ("resets", "credit", "due"))
        self.states = {name: tuple(tensors) for name, tensors in state["states"].items()}
        self.rng.bit_generator.state = json.loads(state["rng"])
        self.noise.set_state(state["noise"])


@functools.lru_cache(maxsize=2)
def _load_frozen(path: str) -> Policy:
    return load_policy(path)[0].requires_grad_(False)


def pbt_round(learners: list[Learner], ratings: Ratings) -> list[dict]:
    """Population-based training (Jaderberg et al. 2017): by Elo, each of the bottom fifth copies weights, optimiser and
    hyperparameters of one of the top fifth, and multiplies each hyperparameter by .8 or 1.2. Returns what was done."""
    ranked = sorted(learners, key=lambda learner: ratings.row(learner.name)[0])
    fifth, events = max(1, len(ranked) // 5), []
    for loser in ranked[:fifth]:
        winner = ranked[-1 - loser.rng.integers(fifth)]
        loser.hyper = {key: value * float(loser.rng.choice([.8, 1.2])) for key, value in winner.hyper.items()}
        loser.become(winner.policy.state_dict(), winner.optimizer.state_dict())
        ratings.forget(loser.name)                                          # its results were those of other weights
        ratings.row(loser.name)[0] = ratings.row(winner.name)[0]
        events.append({"learner": loser.name, "copied": winner.name, **loser.hyper})
    return events


class Turn:
    """Round-robin: whose turn it is to learn, and the best weights of that turn with their optimiser."""

    def __init__(self, args: PopulationArgs):
        self.args, self.learner, self.start = args, 0, 0
        self._begin(0, 0)

    def _begin(self, learner: int, step: int) -> None:
        self.learner, self.start, self.best, self.without_better = learner, step, -1., 0
        self.weights: tuple | None = None
        self.scores: list[float] = []

    def over(self, learner: "Learner", step: int) -> bool:
        """Asked at every pool addition; `scores` gathers results against others until they are enough for a win rate."""
        late, rate = step - self.start >= self.args.turn_frames, -1.
        if len(self.scores) >= self.args.turn_games:
            rate, self.scores, self.without_better = float(np.mean(self.scores)), [], self.without_better + 1
            if rate > self.best:
                self.best, self.without_better = rate, 0
                self.weights = copy.deepcopy((learner.policy.state_dict(), learner.optimizer.state_dict()))
        return late or rate >= self.args.turn_winrate or self.without_better >= self.args.turn_patience

    def pass_on(self, learners: list[Learner], step: int) -> int:
        """The learner goes back to its best weights; -> the index of the next one."""
        if self.weights is not None:
            learners[self.learner].become(*self.weights)
        self._begin((self.learner + 1) % len(learners), step)
        return self.learner

    def state_dict(self) -> dict:
        return {name: value for name, value in vars(self).items() if name != "args"}

    def load_state_dict(self, state: dict) -> None:
        vars(self).update(state)


def check_matchmaking(args) -> None:
    """One line for each flag of MatchArgs, StrengthArgs and PopulationArgs that cannot work."""
    many = 10 ** 9
    check_numbers(args, history_prob=(0, 1), bot_prob=(0, 1), opponents_per_iteration=(2, 1024),
                  league_reset_frames=(1, math.inf), eval_interval=(0, many), eval_games=(2, 65536),
                  population_size=(1, 1024), pbt_interval=(1, many),
                  turn_winrate=(0, 1), turn_games=(1, many), turn_patience=(1, many), turn_frames=(1, math.inf),
                  history_size=(1, many), pool_interval=(1, many))
    if args.eval_games % 2:
        raise UserError(f"--eval-games {args.eval_games}: must be even, since half of the games are played from either port")
    matchups(args, np.zeros(1, int), np.zeros(1, int))                      # unknown characters and stages
    parse_names(args.eval_opponents, BOTS, "bot")
    if args.opponent_bots and args.held_out in parse_names(args.opponent_bots, BOTS, "bot"):
        raise UserError(f"--opponent-bots {args.opponent_bots}: {args.held_out} is --held-out, which training must not meet")
    if args.opponent in CPU_LEVELS:
        if args.game_type != "dolphin":
            raise UserError(f"--opponent {args.opponent}: needs Dolphin, with --game-type dolphin, --dolphin and --iso")
        if "sheik" in parse_names(args.opponent_character or args.character, CHARACTERS, "character", CHARACTER_PRESETS):
            raise UserError(f"--opponent {args.opponent}: a computer player cannot be made to choose sheik; give it another "
                            "--opponent-character")
    for flag in ("opponent", "held_out"):
        file = getattr(args, flag)
        if file and file not in (BOTS if flag == "held_out" else CPU_LEVELS):
            data = load_policy(file)[1]
            if data["action_repeat"] != args.action_repeat:
                raise UserError(f"--{flag.replace('_', '-')} {file}: its --action-repeat is not {args.action_repeat}")
            if data["frame_delay"]:
                raise UserError(f"--{flag.replace('_', '-')} {file}: trained for a delay of {data['frame_delay']} frames; this "
                                "game has none")
    files = [Path(file).read_bytes() for file in (args.opponent, args.held_out) if file and file not in {*BOTS, *CPU_LEVELS}]
    if len(files) == 2 and files[0] == files[1]:
        raise UserError(f"--held-out {args.held_out}: the same policy as --opponent, which training meets; choose another")
    if args.pbt and (args.league or args.train_order == "round-robin"):
        raise UserError("--pbt: not together with --league or --train-order round-robin, whose learners cannot be compared")
    share = HISTORY_PROB[args.matchmaking] if args.history_prob is None else args.history_prob
    if args.pbt and not (share or args.opponent or args.opponent_bots and args.bot_prob):
        raise UserError("--pbt: needs results against others, so not --matchmaking self or --history-prob 0")
    if args.league and args.population_size < 3:
        raise UserError("--league: needs --population-size 3 or more")
    if args.population_size < 2 and (args.pbt or args.matchmaking == "population"):
        raise UserError(f"{'--pbt' if args.pbt else '--matchmaking population'}: needs --population-size 2 or more")


# ---------------------------------------------------------------------------------------------------------------------
# Run folders, logs and the command line
# ---------------------------------------------------------------------------------------------------------------------

def start_run(args, runs_dir: str, run_name: str) -> Path:
    """Makes runs/<name>/ with args.json, command.txt and versions.txt; refuses to write over another run."""
    if not run_name or Path(run_name).name != run_name or not run_name.isprintable():
        raise UserError(f"--run-name {run_name!r}: a folder's name, without slashes; --runs-dir says where it lies")
    run = Path(runs_dir) / run_name
    try:
        if run.exists() and any(run.iterdir()):
            raise UserError(f"{run}: this run exists already; choose another --run-name, or --resume it where that is offered")
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{run}: cannot make this folder ({error.strerror}); choose another --runs-dir or --run-name") from None
    (run / "args.json").write_text(json.dumps(vars(args), indent=1) + "\n")
    (run / "command.txt").write_text(" ".join(sys.argv) + "\n")
    (run / "versions.txt").write_text("".join(f"{k} {v}\n" for k, v in versions().items()))
    return run


def keep_opponents(args, run: Path) -> None:
    """Copies the files of --opponent and --held-out, since they may change or go, and points the flags at the copies."""
    for flag in ("opponent", "held_out"):
        copied = run / "checkpoints" / f"{flag}.pt"
        if not copied.exists() and getattr(args, flag) and getattr(args, flag) not in {*BOTS, *CPU_LEVELS}:
            atomic_write(copied, Path(getattr(args, flag)).read_bytes())
        if copied.exists():
            setattr(args, flag, str(copied))


def resume_run(args, args_type) -> tuple:
    """--resume: -> run folder, the arguments it was started with, its lock (hold on to it) and its checkpoint."""
    run = Path(args.resume)
    args_file = run / "args.json"
    if not args_file.is_file():
        raise UserError(f"{run}: not a run folder (no args.json in it); give the folder of a run, e.g. runs/NAME")
    given = {name for name, value in vars(args).items() if value != getattr(args_type, name)} - {"resume", "timesteps"}
    if given:
        raise UserError(f"--resume goes on with the run's own arguments; only --timesteps may change, not "
                        f"{', '.join('--' + name.replace('_', '-') for name in sorted(given))}")
    timesteps = args.timesteps
    try:
        args = args_type(**json.loads(args_file.read_text()))
    except (ValueError, TypeError) as error:
        raise UserError(f"{args_file}: damaged ({error}); restore it") from None
    args.timesteps = args.timesteps if timesteps is None else timesteps
    lock = lock_run(run)
    keep_opponents(args, run)
    saved = load_checkpoint(args.checkpoint or run / "checkpoints" / "latest.pt")
    if saved.get("stage") != "ppo_selfplay" or saved["action_repeat"] != args.action_repeat:
        raise UserError(f"{run}: its checkpoint is not of this run; use --pretrained to start a run from a checkpoint")
    return run, args, lock, saved


def restore(run: Path, args, saved: dict, parts: dict, pool: Pool) -> tuple[int, int]:
    """Everything is again as it was at the checkpoint `saved` -> its iteration and step. What came later is forgotten."""
    try:
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        iteration, step = int(saved["iteration"]), int(saved["step"])
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        parts["envs"].close()
        raise UserError(f"{run}: its checkpoint cannot be resumed ({type(error).__name__}: {error})") from None
    for log in ("metrics.jsonl", "eval.jsonl", "pbt.jsonl"):
        keep_jsonl(run / log, step)
    pool.forget_after(step, agents={name.removeprefix("learner_") for name in parts if name.startswith("learner_")})
    atomic_write(run / "args.json", (json.dumps(vars(args), indent=1) + "\n").encode())
    return iteration, step


def stop_on_interrupt(say) -> list:
    """-> a list that a first Ctrl-C (or SIGTERM) fills, so that a loop can end in good order; a second one ends it at once."""
    stop = []

    def on_interrupt(signum, frame):
        if stop:
            raise KeyboardInterrupt
        stop.append(signum)
        say("stopping after this iteration; press Ctrl-C again to stop at once, back to the last checkpoint")

    signal.signal(signal.SIGINT, on_interrupt)
    signal.signal(signal.SIGTERM, on_interrupt)
    return stop


def lock_run(run: Path):
    """Two processes in one run folder would mix their logs. Hold on to what is returned: it is the lock."""
    import fcntl                                                            # here: it is not there on Windows
    file = open(run / ".lock", "w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise UserError(f"{run}: another process is training in this folder; wait for it or stop it") from None
    return file


def append_jsonl(path: Path, row: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        file.write(json.dumps(row) + "\n")


def keep_jsonl(path: Path, last_step: int) -> None:
    """Drops rows after `last_step`, and lines that a kill or somebody has damaged."""
    def sound(line: str) -> bool:
        try:
            return line.endswith("\n") and json.loads(line)["global_step"] <= last_step
        except (ValueError, KeyError, TypeError):
            return False

    if path.exists():
        lines = path.read_text(errors="replace").splitlines(keepends=True)
        atomic_write(path, "".join(filter(sound, lines)).encode())


def iteration_progress(console, total: int, completed: int):
    """-> a bar that has been started, and its task; silent where the console is no terminal."""
    progress = rich.progress.Progress(
        rich.progress.TextColumn("iteration"), rich.progress.MofNCompleteColumn(), rich.progress.BarColumn(),
        rich.progress.TimeRemainingColumn(), console=console, disable=not console.is_terminal)
    task = progress.add_task("train", total=total, completed=completed)
    progress.start()
    return progress, task


def plot_winrates(run: Path) -> Path | None:
    """eval.jsonl as a picture: win rate against each scripted opponent over game frames, with 95 % intervals."""
    rows = [json.loads(line) for line in (run / "eval.jsonl").read_text().splitlines()] if (run / "eval.jsonl").exists() else []
    if len(rows) < 2:
        return None
    from matplotlib.figure import Figure                                    # not pyplot: no display, no global state
    axes = (figure := Figure(figsize=(7, 4), layout="constrained")).subplots()
    steps = [row["global_step"] for row in rows]
    names = [key.removeprefix("eval/winrate_") for key in rows[0] if f"{key}_low" in rows[0] and key != "eval/winrate_control"]
    for name in names:
        low, rate, high = ([row[f"eval/winrate_{name}{end}"] for row in rows] for end in ("_low", "", "_high"))
        axes.fill_between(steps, low, high, alpha=.2)
        axes.plot(steps, rate, marker=".", label=name)
    axes.set(xlabel="game frames", ylabel=f"win rate in {rows[-1]['games']} games", ylim=(-.02, 1.02), title=run.name)
    if names:
        axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=120)
    atomic_write(run / "winrates.png", buffer.getbuffer())
    return run / "winrates.png"


def plot_payoff(path: Path, names: list[str], payoff: dict[str, dict[str, list]]) -> None:
    """payoff[a][b] = [wins, draws, losses] as a picture: the row's score against the column, grey where none was played."""
    from matplotlib.figure import Figure                                    # not pyplot: no display, no global state
    n = len(names)
    scores = np.full((n, n), np.nan)
    for i, a in enumerate(names):
        for j, b in enumerate(names):
            if b in payoff.get(a, {}):
                wins, draws, losses = payoff[a][b]
                scores[i, j] = (wins + draws / 2) / (wins + draws + losses)
    side = 3 + .32 * n
    axes = (figure := Figure(figsize=(side + 1, side), layout="constrained")).subplots()
    axes.set_facecolor("lightgrey")
    image = axes.imshow(scores, cmap="RdBu", vmin=0, vmax=1)
    for i, j in np.argwhere(~np.isnan(scores)):
        axes.text(j, i, f"{100 * scores[i, j]:.0f}", ha="center", va="center", fontsize=7,
                  color="white" if abs(scores[i, j] - .5) > .3 else "black")
    axes.set_xticks(range(n), names, rotation=90, fontsize=7)
    axes.set_yticks(range(n), names, fontsize=7)
    axes.set(xlabel="against", title="score in percent, strongest first")
    figure.colorbar(image, ax=axes, label="wins and half the draws, of all games", shrink=.8)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=120)
    atomic_write(path, buffer.getbuffer())


def check_numbers(args, **limits: tuple[float, float]) -> None:
    """limits: flag -> (lowest, highest). Every number among the arguments must be finite, and every seed a seed."""
    for name, value in vars(args).items():
        low, high = limits.get(name, (0, 2 ** 63 - 1) if name == "seed" else (-math.inf, math.inf))
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if not math.isfinite(value) or not low <= value <= high:
            rule = f"must be at least {low:g}" if high == math.inf else f"must lie between {low:g} and {high:g}"
            rule = rule if name in limits or name == "seed" else "must be finite"
            raise UserError(f"--{name.replace('_', '-')} {value}: {rule}")


def run_script(main, args_type) -> None:
    """Parses the command line and runs main(args); a user's mistake ends in one line and exit code 2."""
    args = tyro.cli(args_type, description=sys.modules[main.__module__].__doc__)
    try:
        main(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os._exit(1)                                                         # `| head` closed our output: nothing to say it to
    except OSError as error:
        print(f"error: {error.filename or 'output'}: {error.strerror or error}; make room or choose another place",
              file=sys.stderr)
        sys.exit(2)

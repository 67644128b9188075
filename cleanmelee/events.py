"""Slippi's events and how they become frames.

A file and a live game go through the same lines, so that they cannot disagree.
"""

import struct

import numpy as np

from cleanmelee.cli import UserError
from cleanmelee.frame import CONTROLLER, ITEM, NUM_ITEMS, PLAYER
from cleanmelee.libmelee import zero_indexed_actions

STAGE_FOUNTAIN, STAGE_STADIUM, STAGE_DREAM_LAND = 2, 3, 28
NOT_VERSUS_STAGES = (*range(33, 59), 84)                  # Break the Targets, Home-Run Contest
STADIUM_NORMAL = 5                                        # Slippi's id of the plain Stadium, 0 in our frames

# Which misc byte of an item is its charge, by type: Samus's charge shot and Mewtwo's shadow ball: the charge; Samus's
# missile: is it a super missile; Peach's turnip: its face. In other items these bytes are leftovers.
ITEM_CHARGE_BYTE = {94: 3, 112: 3, 95: 0, 99: 1}
HITSTUN_FLAG, FASTFALL_FLAG = 0x02, 0x08                  # in state_flags[3] and state_flags[1]
END_METHODS = {"Unresolved": 0, "Time": 1, "Game": 2, "Resolved": 3, "NoContest": 7}
SLP_VERSION = (3, 18, 0)                                  # the layout below; the first with stage events
SLP_HEAD = b"{U\x03raw[$U#l"                             # a file: this, the events' length in 4 bytes, events, metadata
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
PLATFORM_EVENT = np.dtype([*_HEAD, ("side", "u1"), ("height", ">f4")])  # Fountain of Dreams: 0 right, 1 left
WIND_EVENT = np.dtype([*_HEAD, ("direction", "u1")])  # Whispy
STADIUM_EVENT = np.dtype([*_HEAD, ("event", ">u2"), ("kind", ">u2")])
EVENTS = {0x37: PRE_EVENT, 0x38: POST_EVENT, 0x3A: FRAME_START_EVENT, 0x3B: ITEM_EVENT, 0x3C: BOOKEND_EVENT,
          0x3F: PLATFORM_EVENT, 0x40: WIND_EVENT, 0x41: STADIUM_EVENT}
GAME_START_SIZE = 761
EVENT_SIZES = dict(sorted([  # bytes, with the command byte
    (0x36, GAME_START_SIZE), (0x39, 7), *((command, kind.itemsize) for command, kind in EVENTS.items())]))


class ReplayError(UserError):
    """A replay or a folder of replays that cannot be used; the message is one line: `<file>: <what is wrong>`."""


def _no_nan(column):
    return np.where(np.isnan(column), 0, column)


def players_from_post(post):
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
    first = zero_indexed_actions()[players["character"] & 31, players["action"] & 1023]
    players["action_frame"] = np.clip(players["state_age"], -30000, 30000).astype(np.int16) + first
    players["present"] = 1
    return players


def place_items(items, row, events, ports):
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


def controllers_from_pre(pre):
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


def finished_slp(data: bytes) -> tuple[bytes, int]:
    """-> the bytes of a .slp file that was cut off, ended after its last whole frame, and that frame's id.

    What its head says of lengths does not count, only the events themselves. Raises ReplayError if there is no
    frame."""
    sizes = {0x35: data[EVENTS_AT + 1] + 1 if len(data) > EVENTS_AT + 1 else 0}
    at, end, last, ports = EVENTS_AT, 0, 0, set()

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
        metadata = slp_metadata({str(port): {"names": {}, "characters": {}} for port in sorted(ports)}, last)
    return SLP_HEAD + struct.pack(">i", end - EVENTS_AT) + data[EVENTS_AT:end] + metadata, last


def slp_metadata(players, last, **more):
    return METADATA + _ubjson({**more, "lastFrame": last, "players": players, "playedOn": "dolphin"}) + b"}"


def _ubjson(value):
    """UBJSON as Slippi writes it: dicts, strings, int32."""
    if isinstance(value, dict):
        return b"{" + b"".join(_ubjson(key)[1:] + _ubjson(item) for key, item in value.items()) + b"}"
    if isinstance(value, str):
        data = value.encode(errors="replace")[:255].decode(errors="ignore").encode()    # never cut within a character
        return b"SU" + bytes([len(data)]) + data
    return b"l" + struct.pack(">i", value)


_UBJSON_NUMBERS = {b"i": ">b", b"U": ">B", b"I": ">h", b"l": ">i", b"L": ">q", b"d": ">f", b"D": ">d"}
_UBJSON_WORDS = {b"T": True, b"F": False, b"Z": None}


def read_ubjson(data: bytes, at: int, depth: int = 0) -> tuple[object, int]:
    """-> the value that begins at data[at], and where it ends. Raises ValueError or struct.error if it is broken."""
    def text(at):
        length, at = read_ubjson(data, at, depth + 1)
        if not isinstance(length, int) or not 0 <= length <= len(data) - at:
            raise ValueError("a text of impossible length")
        return data[at:at + length].decode(errors="replace"), at + length

    kind, at = data[at:at + 1], at + 1
    if depth > 20:
        raise ValueError("nested too deeply")
    if kind in _UBJSON_NUMBERS:
        value, = struct.unpack_from(_UBJSON_NUMBERS[kind], data, at)
        return value, at + struct.calcsize(_UBJSON_NUMBERS[kind])
    if kind in _UBJSON_WORDS:
        return _UBJSON_WORDS[kind], at
    if kind == b"S":
        return text(at)
    if kind == b"{":
        items = {}
        while data[at:at + 1] != b"}":
            key, at = text(at)
            items[key], at = read_ubjson(data, at, depth + 1)
        return items, at + 1
    if kind == b"[":
        values = []
        while data[at:at + 1] != b"]":
            value, at = read_ubjson(data, at, depth + 1)
            values.append(value)
        return values, at + 1
    raise ValueError(f"{kind!r} begins no value")

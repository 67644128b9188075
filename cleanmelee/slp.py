"""Replays in: one .slp file becomes frames, controllers and facts. Its sections follow the file: start, frames, end."""

import hashlib
import os
import stat
import struct
from array import array
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cleanmelee.events import (
    END_METHODS, EVENTS, EVENTS_AT, METADATA, NOT_VERSUS_STAGES, SLP_HEAD, STADIUM_NORMAL, STAGE_DREAM_LAND,
    STAGE_FOUNTAIN, STAGE_STADIUM, ReplayError, controllers_from_pre, finished_slp, place_items, players_from_post,
    read_ubjson,
)
from cleanmelee.frame import (
    CONTROLLER, EXTERNAL_CHARACTER, FIRST_CONTROL_FRAME, FIRST_FRAME, FRAME, NUM_PLAYERS, PLATFORM_LEFT,
    PLATFORM_RIGHT, outcomes,
)
from cleanmelee.game.stored import follow

MIN_VERSION = (3, 8, 0)       # velocities since 3.5, item owners since 3.6, hitlag since 3.8
OLDEST_VERSION = (2, 0, 0)    # before it no file says who is in the air
MOST_INCOMPLETE = 10          # frames of a game that may lack an event; a game that lacks more is damaged
MOST_BYTES = 1 << 30          # of a file; eight minutes of two players take ten million
MOST_METADATA = 1 << 16       # bytes; real ones have a few hundred

PRE, POST, FRAME_START, ITEM, BOOKEND, PLATFORM, WIND, STADIUM = EVENTS
GAME_START, GAME_END = 0x36, 0x39
EVENT_NAMES = {PRE: "pre-frame", POST: "post-frame", ITEM: "item", FRAME_START: "frame start", BOOKEND: "bookend",
               PLATFORM: "platform", WIND: "wind", STADIUM: "stadium"}
_LAST_FIELD = {PRE: "physical_r", ITEM: "id", FRAME_START: "frame", BOOKEND: "frame", PLATFORM: "height",
               WIND: "direction", STADIUM: "kind"}  # the last one that is read
_ICE_CLIMBERS, _START_SIZE = 14, 0x141              # external id; bytes of the oldest start event that is read
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


def read_replay(path: str | Path, *, min_version: tuple = MIN_VERSION, content: tuple | None = None) -> Replay:
    """Read one .slp file of a 1v1 game. content: what `read_file(path)` returned, where that was done already.

    Returns a Replay: frames [T] FRAME from frame id -123 on (cut with `controlled`), controllers [T, 2] CONTROLLER.
    Rolled-back frames appear once, as the game finally played them. In `meta`, tuples are indexed by player:
    path, hash (sha256 of the file), game (key of the game: two players' files of one online game share it), version,
    stage (Slippi's external id), characters (internal ids at the start), ports (0..3), types ("Human" or "Cpu"),
    cpu_levels, names, codes, tags ("" if none), winner (player index, None if the game was quit, tied or has no
    clear end), end (Slippi's method, None if the file has no game end), lras (player index of who quit, or None),
    frames (their number), seed, started, played_on, frozen_stadium, incomplete (indices of frames for which the file
    lacks an event: what it would have said is carried on from the frame before, and is nothing to learn from), warning
    (one line about such a flaw, "" if there is none).

    A `min_version` below 3.8 admits files without hitlag (0 then) and below 3.5 without velocities (differences of
    positions then, all of it taken as the player's own). Below 2.0 always refused.
    Raises ReplayError with one line for whatever is wrong with the file.
    """
    data, digest = content or read_file(path)
    try:
        return _parse_replay(path, data, digest, tuple(min_version))
    except ReplayError as error:
        raise ReplayError(f"{path}: {error}") from None
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, struct.error) as error:
        raise ReplayError(f"{path}: a damaged .slp file ({type(error).__name__}: {one_line(error)})") from None


def read_file(path: str | Path) -> tuple[bytes, str]:
    """The file's content and its sha256 in hex. Raises ReplayError if it cannot be read, is no regular file (reading a
    pipe may never end), or does not begin as a .slp file does."""
    try:
        about = os.stat(path)
        if not stat.S_ISREG(about.st_mode) and not stat.S_ISDIR(about.st_mode):
            raise ReplayError(f"{path}: not a regular file")
        with open(path, "rb") as file:
            data = file.read(len(SLP_HEAD))
            if data != SLP_HEAD:
                raise ReplayError(f"{path}: not a .slp file")
            if about.st_size > MOST_BYTES:
                raise ReplayError(f"{path}: {about.st_size:,} bytes, more than any game has")
            data += file.read()
        return data, hashlib.sha256(data).hexdigest()
    except OSError as error:
        raise ReplayError(f"{path}: {(error.strerror or str(error)).lower()}") from None


def one_line(error: BaseException) -> str:
    """The error's message on one line of at most 120 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 120 else text[:117] + "..."


# ---------------------------------------------------------------------------------------------------------------------
# Events
# ---------------------------------------------------------------------------------------------------------------------


def _split(data):
    """-> the data, the size of each command's events in bytes, where they begin, where the metadata begins, and a
    warning ("" if there is none).

    A recording of ours whose writer was killed between two of its writes counts as far as its events are whole. A game
    that Slippi has not finished has no length yet, and is refused.
    """
    warning = ""
    length = int.from_bytes(data[len(SLP_HEAD):EVENTS_AT], "big")
    end = EVENTS_AT + length
    if not length or end >= len(data):
        raise ReplayError("a damaged .slp file (cut short or still being written)")
    if data[end:end + 1] not in (METADATA[:1], b"}"):
        data, last = finished_slp(data)
        warning = f"what it says of its length is wrong; read up to frame {last}"
        end = EVENTS_AT + int.from_bytes(data[len(SLP_HEAD):EVENTS_AT], "big")
    table = data[EVENTS_AT + 2:EVENTS_AT + 1 + data[EVENTS_AT + 1]]
    if data[EVENTS_AT] != 0x35 or len(table) % 3 or not table:
        raise ReplayError("a damaged .slp file (no table of event sizes)")
    sizes = {command: size + 1 for command, size in struct.iter_unpack(">BH", table)}
    if min(sizes.values()) < 2:
        raise ReplayError("a damaged .slp file (an event without content)")

    at, places = EVENTS_AT + 2 + len(table), array("I")
    add = places.append
    try:
        while at < end:
            add(at)
            at += sizes[data[at]]
    except KeyError:
        raise ReplayError(f"a damaged .slp file (unknown event {data[at]:#x} at byte {at})") from None
    if at > end:
        raise ReplayError(f"a damaged .slp file (its last event, {data[places[-1]]:#x}, is cut off)")
    places = np.frombuffer(places, np.uint32)
    commands = np.frombuffer(data, np.uint8)[places]
    ends = commands == GAME_END
    if (ends[:-1] & ~ends[1:]).any():                                       # some files have it twice
        raise ReplayError("a damaged .slp file (events after the game's end)")
    places = {command: places[commands == command] for command in (GAME_START, GAME_END, *EVENTS)}
    return data, sizes, places, end, warning


def _records(data, sizes, places, command, version):
    """[N] of EVENTS[command]. Fields that this version of Slippi did not have yet are 0."""
    kind, size, where = EVENTS[command], sizes.get(command, 0), places[command]
    records = np.zeros(len(where), kind)
    if len(where) == 0:
        return records
    ends = {name: offset + field.itemsize for name, (field, offset) in kind.fields.items()}
    last = _LAST_FIELD.get(command) or ("l_cancel" if version < (3, 5, 0) else "self_vx_ground" if version < MIN_VERSION
                                        else "hitlag")
    if size < ends[last]:
        raise ReplayError(f"a damaged .slp file ({EVENT_NAMES[command]} events of {size} bytes, too few for Slippi "
                          f"{_dotted(version)})")
    size = max(end for end in ends.values() if end <= size)
    windows = np.lib.stride_tricks.sliding_window_view(np.frombuffer(data, np.uint8), size)     # no copy
    records.view(np.uint8).reshape(len(where), kind.itemsize)[:, :size] = windows[where]
    return records


def _rows(records, places):
    """Which row each event belongs to, by command, and the frame id of each row: rows are frames in the order of the
    file, a frame that was rolled back and played again is a row of its own."""
    framed = [PRE, POST, FRAME_START, ITEM, BOOKEND]
    if not len(records[POST]):
        raise ReplayError("no frames")
    where = np.concatenate([places[command] for command in framed])
    ids = np.concatenate([records[command]["frame"] for command in framed])
    begins = np.concatenate([np.full(len(records[command]), command == FRAME_START) for command in framed])
    order = np.argsort(where)
    ids, begins = ids[order], begins[order]
    begins[1:] |= ids[1:] != ids[:-1]
    begins[0] = True
    row = np.zeros(len(order), np.int64)
    row[order] = np.cumsum(begins) - 1
    first = np.cumsum([0, *(len(records[command]) for command in framed)])
    rows = {command: row[begin:end] for command, begin, end in zip(framed, first[:-1], first[1:], strict=True)}
    for command in (PLATFORM, WIND, STADIUM):                               # they come within a frame
        at = np.searchsorted(where[order], places[command]) - 1
        rows[command] = np.maximum(np.cumsum(begins)[at] - 1, 0)
    return rows, ids[begins]


def _forward_fill(length, rows, values, initial):
    """[length] array: the last of `values` (which happened at `rows`) so far, `initial` before the first."""
    latest = np.zeros(length, np.int64)
    latest[rows] = np.arange(1, len(rows) + 1)
    return np.concatenate(([initial], values))[np.maximum.accumulate(latest)]


# ---------------------------------------------------------------------------------------------------------------------
# Start, frames, end
# ---------------------------------------------------------------------------------------------------------------------


def _dotted(version):
    return ".".join(map(str, version))


def _text(data):
    """Melee's and Slippi's own texts: Shift-JIS up to a zero."""
    return data.split(b"\0")[0].decode("cp932", errors="replace")


def _parse_start(start, min_version):
    """-> the facts of a game start event. Refuses what is not a 1v1 game of a version that we can read."""
    version = tuple(start[1:4])
    text = _dotted(version)
    if version < OLDEST_VERSION:
        raise ReplayError(f"written by Slippi {text}, which lacks airborne and jumps; needs 2.0.0 or newer")
    if version < min_version:
        needs = f"needs {_dotted(min_version)} or newer"
        if version < MIN_VERSION:
            needs = f"which lacks {'velocities and hitlag' if version < (3, 5, 0) else 'hitlag'}; {needs}"
        raise ReplayError(f"written by Slippi {text}, {needs}")
    stage, = struct.unpack_from(">H", start, 0x13)
    if stage in NOT_VERSUS_STAGES:
        raise ReplayError(f"not a versus game (stage {stage})")
    ports = tuple(port for port in range(4) if start[0x66 + 0x24 * port] in (0, 1, 2))
    if len(ports) != NUM_PLAYERS:
        raise ReplayError(f"{len(ports)} players; only 1v1 games can be used")
    if start[0x0D]:
        raise ReplayError("a team game; only 1v1 games can be used")
    blocks = [start[0x65 + 0x24 * port:][:0x24] for port in ports]
    if any(block[1] == 2 for block in blocks):
        raise ReplayError("a demo; only games of people and CPUs can be used")
    match = ""
    if len(start) >= 0x2F9 and start[0x2BE]:                                # since 3.14: a key of the online game
        game, tiebreaker = struct.unpack_from(">II", start, 0x2F1)
        match = f"{start[0x2BE:0x2F1].split(bytes(1))[0].decode(errors='replace')} {game} {tiebreaker}"
    return {
        "version": version, "stage": stage, "ports": ports, "match": match,
        "external": tuple(block[0] for block in blocks),
        "types": tuple(("Human", "Cpu")[block[1]] for block in blocks),
        "cpu_levels": tuple(block[0xF] if block[1] == 1 else 0 for block in blocks),
        "tags": tuple(_text(start[0x161 + 16 * port:][:16]) for port in ports),      # "" before they were told
        "names": tuple(_text(start[0x1A5 + 31 * port:][:31]) for port in ports),
        "codes": tuple(_text(start[0x221 + 10 * port:][:10]) for port in ports),
        "seed": struct.unpack_from(">I", start, 0x13D)[0], "frozen_stadium": start[0x1A2:0x1A3] not in (b"", bytes(1)),
    }


def _parse_replay(path, data, digest, min_version):
    data, sizes, places, metadata_at, warning = _split(data)
    if len(places[GAME_START]) != 1 or sizes[GAME_START] < _START_SIZE:
        raise ReplayError("a damaged .slp file (no game start)")
    at = int(places[GAME_START][0])
    start = _parse_start(data[at:at + sizes[GAME_START]], min_version)
    version, ports = start["version"], start["ports"]
    records = {command: _records(data, sizes, places, command, version) for command in EVENTS}
    rows, row_ids = _rows(records, places)
    count = len(row_ids)

    # Online, a frame may be played several times. The last row of an id is what finally happened.
    ids, last = np.unique(row_ids[::-1], return_index=True)
    keep = count - 1 - last
    if (np.diff(ids) != 1).any():
        raise ReplayError(f"frames are missing after frame {ids[:-1][np.diff(ids) != 1][0]}")
    if ids[0] < FIRST_FRAME:
        raise ReplayError(f"begins at frame {ids[0]}, before the first possible one, {FIRST_FRAME}")
    index = np.full(count, -1)
    index[keep] = np.arange(len(keep))                                      # of each row among the frames, -1: undone

    frames = np.zeros(len(ids), FRAME)
    controllers = np.zeros((len(ids), NUM_PLAYERS), CONTROLLER)
    incomplete, lacking = _place_players(frames, controllers, ids, start, records, rows, index)
    frames["frame_id"], frames["stage"] = ids, start["stage"]               # now: memory that is touched is taken

    items, at = records[ITEM], index[rows[ITEM]]
    if sizes.get(ITEM, 0) <= EVENTS[ITEM].fields["owner"][1]:               # before 3.6
        items["owner"] = -1
    place_items(frames["items"], at[at >= 0], items[at >= 0], ports)

    # Stage events are sparse and the game does not send them again after a rollback: fill before rows are dropped.
    if start["stage"] == STAGE_FOUNTAIN:
        for name, side, initial in (("platform_right", 0, PLATFORM_RIGHT), ("platform_left", 1, PLATFORM_LEFT)):
            own = records[PLATFORM]["side"] == side
            heights = records[PLATFORM]["height"][own]
            frames[name] = _forward_fill(count, rows[PLATFORM][own], heights, np.float32(initial))[keep]
    if start["stage"] == STAGE_DREAM_LAND:
        frames["wind"] = _forward_fill(count, rows[WIND], records[WIND]["direction"].astype(np.int16), 0)[keep]
    if start["stage"] == STAGE_STADIUM:
        kind = records[STADIUM]["kind"].astype(np.int16)
        kind = np.where(kind == STADIUM_NORMAL, 0, kind)
        frames["transformation"] = _forward_fill(count, rows[STADIUM], kind, 0)[keep]

    if version < (3, 5, 0):
        _estimate_velocities(frames["players"])
        _estimate_velocities(frames["nanas"])
    _check_values(frames, controllers)
    follow(frames)
    end = b"".join(data[at:at + sizes[GAME_END]] for at in places[GAME_END][:1].tolist())
    info = data[metadata_at:metadata_at + MOST_METADATA]
    try:
        info = read_ubjson(info, len(METADATA))[0] if info.startswith(METADATA) else {}
    except (ValueError, struct.error):
        raise ReplayError("a damaged .slp file (its metadata cannot be read)") from None
    meta = _replay_meta(path, digest, start, end, info, frames)
    if len(frames) - 1 in incomplete:                                       # its stocks and percents are not its own
        meta["winner"] = None
    return Replay(frames, controllers, meta | {"incomplete": incomplete, "warning": warning or lacking})


def _place_players(frames, controllers, ids, start, records, rows, index):
    """Write the players' events into `frames` and `controllers` -> (indices of frames that lack one, a line on them).

    Of a sound game's frame one event may be missing: what it would have said is carried on from the frame before."""
    missing, total = {}, 0                                                  # frame: [(command, player, follower)]
    strangers = len(records[PRE]) + len(records[POST])
    for i, port in enumerate(start["ports"]):
        for follower in range(1 + (start["external"][i] == _ICE_CLIMBERS)):
            told = {}                                                       # by command, [T] bool
            for command in (PRE, POST):
                own = (records[command]["port"] == port) & (records[command]["follower"] == follower)
                strangers -= int(own.sum())
                own &= index[rows[command]] >= 0
                at, kind = index[rows[command][own]], EVENTS[command]
                events = records[command].view(f"V{kind.itemsize}")[own].view(kind)     # faster than field by field
                times = np.bincount(at, minlength=len(frames))
                if (times > 1).any():
                    raise ReplayError(f"frame {ids[times > 1][0]}: two {EVENT_NAMES[command]} events of "
                                      f"port {port + 1}")
                told[command] = times > 0
                if command == POST:
                    players = players_from_post(events)
                    players["port"] = port
                    here = frames["nanas" if follower else "players"][:, i]
                    here[slice(None) if told[POST].all() else at] = players     # a slice is faster
                elif not follower:
                    controllers[at, i] = controllers_from_pre(events)
            lacks = {PRE: ~told[PRE], POST: ~told[POST]}
            if follower:                                                    # she may be dead
                lacks = {POST: told[PRE] & ~told[POST]}
            for command, lacking in lacks.items():
                total += int(lacking.sum())
                for t in np.flatnonzero(lacking)[:MOST_INCOMPLETE].tolist():
                    missing.setdefault(t, []).append((command, i, follower))
    if strangers:
        raise ReplayError("a damaged .slp file (events of a port where nobody plays)")
    if not missing:
        return (), ""

    first = min(missing)
    command, i, _ = missing[first][0]
    line = f"frame {ids[first]} lacks the {EVENT_NAMES[command]} event of port {start['ports'][i] + 1}"
    line += f", and {total - 1} more are missing" if total > 1 else ""
    if first == 0 or total > min(len(missing), MOST_INCOMPLETE):            # of some frame, or in all, too many
        raise ReplayError(line)
    for t, [(command, i, follower)] in sorted(missing.items()):
        if command == PRE:
            controllers[t, i] = controllers[t - 1, i]
        else:
            who = "nanas" if follower else "players"
            frames[who][t, i] = frames[who][t - 1, i]
    return tuple(sorted(missing)), f"{line}: carried on from the frame before, where nothing is learnt"


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


def _replay_meta(path, digest, start, end, info, frames):
    """end: the bytes of the game end event, empty if there is none. info: the metadata."""
    info = info if isinstance(info, dict) else {}
    characters = tuple(frames["players"]["character"][0].tolist())
    for external, internal in zip(start["external"], characters, strict=True):
        played = EXTERNAL_CHARACTER[internal]
        if played != external and {played, external} != {18, 19}:           # Zelda, Sheik
            raise ReplayError(f"character {external} in the header is {played} in the first frame")
    method = {number: name for name, number in END_METHODS.items()}.get(end[1]) if end else None
    if end and method is None:
        raise ReplayError(f"not a versus game (it ended by method {end[1]})")
    ports = start["ports"]
    named = [((info.get("players") or {}).get(str(port)) or {}).get("names") or {} for port in ports]
    stocks = frames["players"]["stocks"][-1] > 0
    decided = stocks[0] != stocks[1] or method == "Time"                    # the last one alive, or who leads then
    outcome = int(outcomes(frames[-1:])[0]) if decided else 0
    return {
        "path": str(path), "hash": digest,
        # Both players' files of one online game have the same match id.
        "game": hashlib.sha256(start["match"].encode()).hexdigest() if start["match"] else digest,
        "version": start["version"], "stage": start["stage"], "characters": characters, "ports": ports,
        "types": start["types"], "cpu_levels": start["cpu_levels"],
        "names": tuple(a or b.get("netplay") or "" for a, b in zip(start["names"], named, strict=True)),
        "codes": tuple((a or b.get("code") or "").replace("＃", "#")
                       for a, b in zip(start["codes"], named, strict=True)),
        "tags": start["tags"], "winner": {1: 0, -1: 1}.get(outcome), "end": method,
        "lras": ports.index(end[2]) if len(end) > 2 and end[2] in ports else None,
        "frames": len(frames), "seed": start["seed"], "started": info.get("startAt"),
        "played_on": info.get("playedOn"), "frozen_stadium": start["frozen_stadium"],
    }

"""Replays in: one .slp file becomes frames, controllers and facts. Its sections follow the file: start, frames, end."""

import contextlib
import hashlib
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cleanmelee.events import (
    EVENTS_AT, NOT_VERSUS_STAGES, SLP_HEAD, STADIUM_NORMAL, STAGE_DREAM_LAND, STAGE_FOUNTAIN, STAGE_STADIUM,
    ReplayError, controllers_from_pre, finished_slp, place_items, players_from_post,
)
from cleanmelee.frame import (
    CONTROLLER, EXTERNAL_CHARACTER, FIRST_CONTROL_FRAME, FIRST_FRAME, FRAME, NUM_PLAYERS, PLATFORM_LEFT,
    PLATFORM_RIGHT,
)

MIN_VERSION = (3, 8, 0)       # velocities since 3.5, item owners since 3.6, hitlag since 3.8
OLDEST_VERSION = (2, 0, 0)    # before it no file says who is in the air

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


def read_replay(path: str | Path, *, min_version: tuple = MIN_VERSION, digest: str | None = None) -> Replay:
    """Read one .slp file of a 1v1 game. digest: its `file_hash`, where that is known already.

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
    digest = digest or file_hash(path)
    try:
        with _finished(path) as readable:
            replay = _parse_replay(readable, digest, tuple(min_version))
    except ReplayError as error:
        raise ReplayError(f"{path}: {error}") from None
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:  # what peppi-py let pass
        raise ReplayError(f"{path}: a damaged .slp file ({type(error).__name__}: {one_line(error)})") from None
    replay.meta["path"] = str(path)
    return replay


def file_hash(path: str | Path) -> str:
    """sha256 of the file, in hex. Raises ReplayError if it cannot be read."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise ReplayError(f"{path}: {(error.strerror or str(error)).lower()}") from None


@contextlib.contextmanager
def _finished(path):
    """The file itself, or a finished copy of a recording of ours whose writer was killed between two of its writes.

    A game that Slippi has not finished (its length of the events is 0, and there is no metadata) stays what it is:
    peppi-py refuses it. """
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


def one_line(error: BaseException) -> str:
    """The error's message on one line of at most 120 characters."""
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
        text = one_line(error).removeprefix("invalid data: ")
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
            records = players_from_post(_arrow_columns(character.field("post"), _POST_PATHS))
            records["port"] = ports[i]
            if character.null_count:  # a dead Nana: zeros, not what the last Nana left in memory
                records[~character.is_valid().to_numpy(zero_copy_only=False)] = 0
            out[:, i] = records
            if name == "leader":
                controllers[:, i] = controllers_from_pre(_arrow_columns(character.field("pre"), _PRE_PATHS))

    row, items = _arrow_events(table, "item")
    if row is not None:
        columns = _arrow_columns(items, _ITEM_PATHS)
        if version < (3, 6, 0):
            columns["owner"] = np.full(len(items), -1)
        place_items(frames["items"], row, columns, ports)

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

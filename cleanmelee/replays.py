"""Replays in: .slp files and folders of them become frames, controllers and facts, by worker processes and a cache on disk."""

import contextlib
import functools
import hashlib
import importlib
import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rich.console
import rich.progress

from cleanmelee.events import (
    EVENTS_AT, NOT_VERSUS_STAGES, SLP_HEAD, STADIUM_NORMAL, STAGE_DREAM_LAND, STAGE_FOUNTAIN, STAGE_STADIUM,
    ReplayError, controllers_from_pre, finished_slp, place_items, players_from_post,
)
from cleanmelee.frame import (
    CONTROLLER, EXTERNAL_CHARACTER, FIRST_CONTROL_FRAME, FIRST_FRAME, FRAME, NUM_PLAYERS, PLATFORM_LEFT,
    PLATFORM_RIGHT, same_fighter,
)
from cleanmelee.libmelee import zero_indexed_actions

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
    zero_indexed_actions()  # once, not in every worker; so is this slow import
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

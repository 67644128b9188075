"""Parsed games, packed: any stretch of any game is read in place, so that their number costs disk and no memory.

A frame and the controllers that made it are 724 bytes, of which most never change within a game: who plays, Nana, items
that nobody throws. A packed game holds its first record whole and of every record only the bytes that do change, some
200 of people's games, without loss and whatever fields a FRAME has:

    head      MAGIC, sizes, a checksum of what follows up to the rows
              the first record [724], which bytes change [n], incomplete frames, scores, a checksum for every BLOCK rows
    rows      [T, n] bytes

A cache folder holds shards (`PARSER-xxxx.games`, packed games end to end) and beside each an index (`.jsonl`: a line a
replay with its own checksum). Both are renamed into place and never changed, so that any number of runs may read and
write one folder. What is damaged or foreign is not believed: its replays are parsed again."""

import contextlib
import json
import mmap
import os
import secrets
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cleanmelee.cli import UserError
from cleanmelee.files import atomic_write
from cleanmelee.frame import CONTROLLER, FRAME, NUM_PLAYERS

RECORD = np.dtype([("frame", FRAME), ("controllers", CONTROLLER, NUM_PLAYERS)])
SCORE = np.dtype([("frame", "u4"), ("players", [(name, FRAME["players"].base[name]) for name in (
    "percent", "stocks", "last_hit_by", "port")], NUM_PLAYERS)])
BLOCK = 256                                             # rows under one checksum
SHARD_BYTES = 128 << 20                                 # of a full shard; so much waits in memory while it is filled

_MAGIC = b"cmgame1\n"
_HEAD = struct.Struct("<8s6I")                          # magic, frames, columns, incomplete, scores, record bytes, crc
_FRAME_ID = slice(FRAME.fields["frame_id"][1], FRAME.fields["frame_id"][1] + 4)


class DamagedCache(UserError):
    """What a cache holds is not what was written there."""


def discard(shard: str) -> DamagedCache:
    """Removes a damaged shard with its index, if it is a file -> the error to raise."""
    for path in (Path(shard).with_suffix(".jsonl"), Path(shard)):
        with contextlib.suppress(OSError):
            path.unlink()
    return DamagedCache(f"{shard}: a damaged cache of parsed replays, now removed; start again, its replays are parsed "
                        "anew")


# ---------------------------------------------------------------------------------------------------------------------
# One game
# ---------------------------------------------------------------------------------------------------------------------

def pack_game(frames: np.ndarray, controllers: np.ndarray, incomplete=()) -> bytes:
    """FRAME [T] with consecutive frame ids and CONTROLLER [T, 2] -> the packed game. incomplete: indices of frames that
    are nothing to learn from, see `read_replay`."""
    records = np.empty(len(frames), RECORD)
    records["frame"] = frames
    records["controllers"] = controllers
    records["frame"]["frame_id"] -= np.arange(len(frames), dtype=np.int32)  # a constant, too
    raw = records.view(np.uint8).reshape(len(records), RECORD.itemsize)
    columns = np.flatnonzero((raw != raw[0]).any(0)).astype(np.uint16)
    rows = np.ascontiguousarray(raw[:, columns])
    parts = [raw[0], columns, np.array(incomplete, np.uint32), _scores(frames),
             np.array([zlib.crc32(rows[t:t + BLOCK]) for t in range(0, len(rows), BLOCK)], np.uint32)]
    head = b"".join(part.tobytes() for part in parts)
    sizes = len(frames), len(columns), len(incomplete), len(parts[3]), RECORD.itemsize, zlib.crc32(head)
    return _HEAD.pack(_MAGIC, *sizes) + head + rows.tobytes()


def _scores(frames):
    """SCORE of the first frame and of every one at which a percent or a stock has changed: all that a reward needs."""
    players = frames["players"]
    changed = np.ones(len(frames), bool)
    changed[1:] = ((np.diff(players["percent"], axis=0) != 0) | (np.diff(players["stocks"], axis=0) != 0)).any(1)
    scores = np.zeros(int(changed.sum()), SCORE)
    scores["frame"] = np.flatnonzero(changed)
    for name in SCORE["players"].base.names:
        scores["players"][name] = players[name][changed]
    return scores


class PackedGame:
    """A view of a packed game: frames are unpacked when they are read."""

    def __init__(self, content: memoryview, where: str):
        """content: what `pack_game` returned. where: the shard's file name. Raises DamagedCache."""
        self.where = where
        try:
            magic, self.frames, columns, incomplete, scores, record, crc = _HEAD.unpack_from(content)
            blocks = -(-self.frames // BLOCK)
            ends = np.cumsum([_HEAD.size, record, 2 * columns, 4 * incomplete, SCORE.itemsize * scores, 4 * blocks])
            ends = ends.tolist()
            sound = (magic == _MAGIC and record == RECORD.itemsize and self.frames > 0 and scores > 0
                     and len(content) == ends[-1] + self.frames * columns
                     and zlib.crc32(content[_HEAD.size:ends[-1]]) == crc)
        except struct.error:
            sound = False
        if not sound:
            raise discard(where)
        places = zip((np.uint8, np.uint16, np.uint32, SCORE, np.uint32), ends[:-1],
                     (record, columns, incomplete, scores, blocks), strict=True)
        self._first, self._columns, self.incomplete, self.scores, self._checks = (
            np.frombuffer(content, kind, count, at) for kind, at, count in places)
        self._rows = np.frombuffer(content, np.uint8, self.frames * columns, ends[-1]).reshape(self.frames, columns)

    def read(self, begin: int, end: int, out: np.ndarray, verified: np.ndarray | None = None) -> None:
        """Frames [begin:end) and their controllers into `out`, the bytes [end - begin, 724] of RECORDs. verified:
        [blocks] bool, those whose checksums were found right before; it is kept up. Raises DamagedCache."""
        for block in range(begin // BLOCK, -(-end // BLOCK)):
            if verified is not None and verified[block]:
                continue
            if zlib.crc32(self._rows[block * BLOCK:(block + 1) * BLOCK]) != self._checks[block]:
                raise discard(self.where)
            if verified is not None:
                verified[block] = True
        out[:] = self._first
        out[:, self._columns] = self._rows[begin:end]
        out[:, _FRAME_ID].view(np.int32)[:, 0] += np.arange(begin, end, dtype=np.int32)

    def whole(self) -> tuple[np.ndarray, np.ndarray]:
        """FRAME [T], CONTROLLER [T, 2]"""
        records = np.empty(self.frames, RECORD)
        self.read(0, self.frames, records.view(np.uint8).reshape(self.frames, RECORD.itemsize))
        return np.ascontiguousarray(records["frame"]), np.ascontiguousarray(records["controllers"])


# ---------------------------------------------------------------------------------------------------------------------
# A folder of them
# ---------------------------------------------------------------------------------------------------------------------

@dataclass
class Entry:
    """Where a packed game lies: in a shard, or, without a cache, in memory."""
    meta: dict                  # see read_replay, but for its path
    facts: dict                 # what a filter needs beside it: first_frame (its id), active (see replays.activity)
    source: str | bytes         # file name of the shard, or the packed game
    at: int
    size: int

    def open(self) -> PackedGame:
        return PackedGame(map_file(self.source)[self.at:self.at + self.size], name_of(self.source))


def map_file(source: str | bytes) -> memoryview:
    """The content of a shard, mapped into memory, or what is in memory already. Raises DamagedCache."""
    if isinstance(source, bytes):
        return memoryview(source)
    try:
        with open(source, "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:                                  # ValueError: an empty file
        raise DamagedCache(f"{source}: a cache of parsed replays that cannot be read any more "
                           f"({getattr(error, 'strerror', error)}); start again, they are parsed anew") from None
    return memoryview(mapped)


def name_of(source: str | bytes) -> str:
    return source if isinstance(source, str) else "a parsed replay"


class Store:
    """What a cache folder knows of replays, by path and by content, and what is learnt of more. folder None: it keeps
    all in memory.

    A path is believed to hold what it held while its size and its times are the same; else its content decides."""

    def __init__(self, folder: Path | None, parser: str):
        """parser: digest of the code that reads replays; what another one has read is not found."""
        self.folder, self.parser = folder, parser
        self.unkept = ""                                                    # why nothing more is written, once it is so
        self._paths: dict[str, tuple] = {}                          # path -> hash(stamp), sha256, reason, min_version
        self._games: dict[str, tuple] = {}              # sha256 of the content -> version, index, where in it, how long
        self._lines: dict[str, bytes] = {}                                  # sha256 -> line that is in no index
        self._open = None, None                                             # the index that was read last, and its file
        self._same: dict = {}                                               # what many games have in common, once
        self._loose: dict[str, bytes] = {}                                  # sha256 -> packed game that is in no shard
        self._new: list[bytes] = []
        self._begin_shard()
        for index in sorted(folder.glob(f"{parser}-*.jsonl")) if folder is not None else ():
            self._read_index(index)

    def _begin_shard(self) -> None:
        self._shard, self._parts, self._filled = f"{self.parser}-{secrets.token_hex(8)}", [], 0

    def _read_index(self, index: Path) -> None:
        at = 0
        try:
            lines = index.read_bytes().splitlines()
            head = json.loads(checked(lines[0])) if lines else None
            shard = index.with_suffix(".games")
            has_games = head is not None and head["size"] > 0 and shard.stat().st_size == head["size"]
        except (OSError, ValueError, TypeError, KeyError):
            return                                                          # a foreign or torn file: nothing is known
        for k, line in enumerate(lines):
            content = checked(line) if k else None
            if content is not None:
                row = json.loads(content)
                if "at" not in row or has_games and row["shard"] == index.stem:
                    self._know(row, index.stem, at, len(line))
            at += len(line) + 1

    def _know(self, row: dict, index: str = "", at: int = 0, size: int = 0) -> None:
        """index, at, size: where its line is; "" in none, but in memory."""
        self._paths[row["path"]] = (hash(tuple(row["stamp"])), row.get("hash", ""), row.get("reason", ""),
                                    self._once(tuple(row.get("min_version", ()))))
        if "at" in row:
            self._games[row["hash"]] = self._once(tuple(row["meta"]["version"])), self._once(index), at, size

    def _once(self, value):
        return self._same.setdefault(value, value)

    def _line(self, digest: str) -> bytes:
        """The line of a game. An index is not kept in memory: a million games are a gigabyte. Raises DamagedCache."""
        if digest in self._lines:
            return self._lines[digest]
        _, index, at, size = self._games[digest]
        path = self.folder / f"{index}.jsonl"
        try:
            if self._open[0] != index:
                self._open = index, path.open("rb")
            self._open[1].seek(at)
            content = checked(self._open[1].read(size))
        except OSError:
            content = None
        if content is None:
            raise discard(str(path.with_suffix(".games")))
        return content

    def knows(self, min_version: tuple) -> frozenset[str]:
        """Contents (sha256) that need not be parsed."""
        return frozenset(digest for digest, (version, *_) in self._games.items() if version >= min_version)

    def has(self, path: str, stamp: tuple | None, min_version: tuple) -> bool:
        """Would `find` find something? It asks less of the machine."""
        known, digest, reason, version = self._paths.get(path, (None, "", "", ()))
        if known is None or stamp is not None and hash(stamp) != known:
            return False
        return version == min_version if reason else self._games.get(digest, ((),))[0] >= min_version

    def find(self, path: str, stamp: tuple | None, min_version: tuple) -> Entry | str | None:
        """What was learnt of the file at `path` while it had this `stamp` (None: whichever it had last): a game, why
        it cannot be used, or None."""
        if not self.has(path, stamp, min_version):
            return None
        _, digest, reason, _ = self._paths[path]
        if reason:
            return reason
        row = json.loads(self._line(digest))
        meta = {name: tuple(value) if isinstance(value, list) else value for name, value in row["meta"].items()}
        meta |= {name: digest for name in ("hash", "game") if meta.get(name) == digest}     # one string, not three
        if digest in self._loose:
            return Entry(meta, row["facts"], self._loose[digest], 0, len(self._loose[digest]))
        shard = self._once(str(self.folder / f"{row['shard']}.games"))
        return Entry(meta, row["facts"], shard, row["at"], row["size"])

    def add(self, path: str, stamp: tuple, **facts) -> None:
        """facts: hash (its content is known), or reason and min_version."""
        self._write({"path": path, "stamp": stamp, **facts})

    def add_game(self, path: str, stamp: tuple, meta: dict, facts: dict, packed: bytes) -> None:
        digest = meta["hash"]
        self._loose[digest] = packed
        self._write({"path": path, "stamp": stamp, "hash": digest, "shard": self._shard, "at": self._filled,
                     "size": len(packed), "facts": facts, "meta": {k: v for k, v in meta.items() if k != "path"}})
        if self.folder is not None and not self.unkept:
            self._parts.append(packed)
            self._filled += len(packed)
            if self._filled >= SHARD_BYTES:
                self.seal()

    def _write(self, row: dict) -> None:
        line = json.dumps(row).encode()
        self._know(row)
        if "at" in row:
            self._lines[row["hash"]] = line
        self._new.append(line)

    def seal(self) -> None:
        """Writes what is new. A full or read-only disk costs speed, not the run: then it stays in memory."""
        new, self._new = self._new, []
        if not new or self.folder is None or self.unkept:
            return
        shard, index = (self.folder / f"{self._shard}.{kind}" for kind in ("games", "jsonl"))
        head = json.dumps({"size": self._filled}).encode()
        lines = [b"%08x %s\n" % (zlib.crc32(line), line) for line in (head, *new)]
        try:
            if self._parts:
                atomic_write(shard, b"".join(self._parts))
            atomic_write(index, b"".join(lines))
        except (UserError, OSError) as error:
            cause = error.__cause__ or error.__context__ if isinstance(error, UserError) else error
            self.unkept = getattr(cause, "strerror", None) or str(error)
            for path in (shard, index):
                with contextlib.suppress(OSError):
                    os.unlink(path)
        else:
            at = len(lines[0])
            for line, content in zip(lines[1:], new, strict=True):
                row = json.loads(content)
                self._know(row, index.stem, at, len(line) - 1)
                for kept in (self._loose, self._lines):
                    kept.pop(row.get("hash"), None)
                at += len(line)
        self._begin_shard()


def checked(line: bytes) -> bytes | None:
    """The content of a line of an index, or None if it is not as it was written."""
    try:
        return line[9:] if int(line[:8], 16) == zlib.crc32(line[9:]) and line[8:9] == b" " else None
    except ValueError:
        return None

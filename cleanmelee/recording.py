"""Replays out: frames and controllers become .slp files."""

import contextlib
import os
import struct
import sys
import time
from pathlib import Path

import numpy as np

from cleanmelee.cli import UserError
from cleanmelee.events import (
    BOOKEND_EVENT, END_METHODS, EVENTS_AT, EVENT_SIZES, FASTFALL_FLAG, FRAME_START_EVENT, GAME_START_SIZE,
    HITSTUN_FLAG, ITEM_CHARGE_BYTE, ITEM_EVENT, POST_EVENT, PRE_EVENT, SLP_HEAD, SLP_VERSION, STADIUM_NORMAL,
    STAGE_DREAM_LAND, STAGE_FOUNTAIN, STAGE_STADIUM, ReplayError, finished_slp, slp_metadata,
)
from cleanmelee.files import atomic_write, check_writable, open_locked
from cleanmelee.frame import (
    CONTROLLER, EXTERNAL_CHARACTER, FIGHTERS, FIRST_CONTROL_FRAME, FIRST_FRAME, FRAME, NUM_ITEMS, NUM_PLAYERS,
    PLATFORM_LEFT, PLATFORM_RIGHT, PLAYER, TIME_LIMIT, outcomes,
)


def write_slp(path: str | Path, frames: np.ndarray, controllers: np.ndarray, **options) -> None:
    """Write a whole game, frames [T] FRAME with consecutive ids and controllers [T, 2] CONTROLLER, to a .slp file.

    Reads back equal through `read_replay` where Slippi has the field: items packed from slot 0, `charge` only in the
    items that have one, one analog trigger at a time. Options as for SlpWriter.
    """
    with SlpWriter(path, **options) as writer:
        writer.add(frames, controllers)


class SlpWriter:
    """A .slp file that grows: `add` any number of times, then `close`. Until then the game lies in `<name>.part`.

    That file is whole after every `add`, but for the game's end: any parser reads it up to the last frame, also when
    its writer was killed, and `finish_recordings` gives it its name. It is locked while it grows. names, codes: one
    string a player, shown by viewers. cpu_levels: 0 is a person or a policy. seed: the game's. frozen_stadium: is
    Pokemon Stadium frozen in this game? started: seconds since 1970, None for now. As a context manager it closes on
    success and removes the unfinished file on an exception. replace: it takes the place of a file of that name; False:
    it gets a longer name beside it. Raises UserError if another process writes the same file, OSError where the disk
    fails: then `abort`. """

    def __init__(self, path, *, names=("", ""), codes=("", ""), cpu_levels=(0, 0), seed=0, frozen_stadium=True,
                 started=None, replace=True):
        self.path, self.replace = Path(path), replace
        self.part = self.path.with_name(self.path.name + ".part")
        self.names, self.codes, self.cpu_levels = names, codes, cpu_levels
        self.seed, self.frozen_stadium = seed, frozen_stadium
        self.started = time.time() if started is None else started
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = open_locked(self.part)
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

        Raises ValueError if the ids do not begin or continue a game, or a record cannot be told in a .slp file.
        """
        frames = np.atleast_1d(np.asarray(frames, FRAME))
        controllers = np.asarray(controllers, CONTROLLER).reshape(-1, NUM_PLAYERS)
        if len(frames) != len(controllers):
            raise ValueError(f"{len(frames)} frames but controllers for {len(controllers)}")
        if len(frames) == 0:
            return
        if self.last is None:
            self._seat(frames[0])
            # Viewers expect a game to begin at -123: hold the first frame until it does. Only while nobody may act, or
            # the frames held would be made up.
            missing = int(frames["frame_id"][0]) - FIRST_FRAME
            if frames["frame_id"][0] >= FIRST_CONTROL_FRAME:
                raise ValueError(f"a game begins before frame {FIRST_CONTROL_FRAME}, not at {frames['frame_id'][0]}")
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
        if end is None:
            dead = last["players"]["stocks"].min() <= 0
            end = "Game" if dead else "Time" if last["frame_id"] >= TIME_LIMIT else "NoContest"
        loser = {1: 1, -1: 0}.get(int(outcomes(self.last)[0]))
        placements = [-1, -1, -1, -1]
        for i, port in enumerate(self.ports):
            placements[port] = int(i == loser)             # 0 is first; a tie has two firsts
        quitter = -1 if lras is None else self.ports[lras]
        self._append(struct.pack(">BBb4b", 0x39, END_METHODS[end], quitter, *placements))
        os.fsync(self.file.fileno())
        if os.name == "nt":
            self.file.close()              # Windows renames no open file
        self._into_place()                 # elsewhere still locked: nobody may take the game for one left behind
        self.file.close()

    def _into_place(self):
        while not self.replace:
            try:
                os.link(self.part, self.path)
            except FileExistsError:        # another process was quicker
                self.path = self.path.with_stem(f"{self.path.stem}_2")
                continue
            except OSError:                # a disk without links
                break
            return self.part.unlink()
        os.replace(self.part, self.path)

    def abort(self) -> None:
        """Forget the game: remove the unfinished file."""
        self.file.close()
        with contextlib.suppress(FileNotFoundError):
            self.part.unlink()

    def _append(self, events):
        """Events in place of the old metadata, then metadata as of now, then the length. Between the two writes a
        parser may stumble; `finish_recordings` does not, for it trusts the events alone."""
        last = int(self.last["frame_id"][0])
        players = {str(port): {
            "names": {"netplay": self.names[i], "code": self.codes[i]} if self.names[i] else {},
            "characters": {str(internal): count for internal, count in self.played[i].items()},
        } for i, port in enumerate(self.ports)}
        started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.started))
        self._write(EVENTS_AT + self.length, events + slp_metadata(players, last, startAt=started))
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
        file = open_locked(part)
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


class Recorder:
    """The .slp files of the games that are on. A frame reaches the disk at once while games are no faster than a person
    plays, else within a hundredth of a second, or as soon as the disk allows. When the disk fails, recording ends."""

    def __init__(self, folder: str | Path, slots: int):
        """slots: games at a time. Finishes what a killed process left in the folder; older recordings stay."""
        self.folder, self.names = Path(folder), [("", "")] * slots          # names: of the players of each slot
        self.cpu_levels = [(0, 0)] * slots                                  # 1 to 9: Melee's own computer player
        check_writable("--record", self.folder / "game.slp")
        if os.name != "nt":
            import resource                                                 # here: it is not there on Windows
            most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 64
            if slots > most:
                raise UserError(f"--record {folder}: {slots} games at a time need {slots} open files, and the limit is "
                                f"{most}; play fewer at a time, or raise it with ulimit -n")
        for path, last in finish_recordings(folder):
            print(f"{path}: left behind by a process that was killed; kept up to frame {last}", file=sys.stderr)
        self.next_number = 1
        self.writers: dict[int, SlpWriter] = {}                             # of each slot
        self.waiting: dict[int, list[tuple[bytes, bytes]]] = {}            # its frames and controllers, not yet written
        self.numbers: dict[int, int] = {}                                   # of its game, if that has to start over
        self.interval, self.flushed_at, self.recorded, self.failed = .01, 0., 0, False

    def begin(self, slots: np.ndarray, frames: np.ndarray, controllers: np.ndarray) -> None:
        if self.failed:
            return
        names = {internal: name for name, internal in FIGHTERS.items()}
        with self._disk():
            taken = self._taken()
            for g in slots:
                number = self.numbers.pop(g, self.next_number)
                if number in taken:
                    number = max(self.next_number, 1 + max(taken))
                self.next_number = max(self.next_number, number + 1)
                who = "_vs_".join(names[int(k)] for k in frames[g]["players"]["character"])
                path = self.folder / f"game_{number:03d}_{who}.slp"
                self.writers[g] = SlpWriter(path, names=self.names[g], cpu_levels=self.cpu_levels[g], replace=False)
                self.waiting[g] = []
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

    def end(self, slot: int, how: str | None = None) -> Path | None:
        """-> the recording; None: there is none."""
        self._flush()
        with self._disk():
            if slot in self.writers:
                self.writers[slot].close(how)
                self.recorded += 1
                return self.writers.pop(slot).path
        return None

    def close(self) -> None:
        """What is still on was quit."""
        for g in list(self.writers):
            self.end(g, "NoContest")

    def _taken(self) -> set[int]:
        """Numbers that games in the folder have, those of other processes among them."""
        numbers = (path.name.split("_")[1] for path in self.folder.glob("game_*_*.slp*"))
        return {int(number) for number in numbers if number.isdigit()}

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
            print(f"warning: --record {self.folder}: cannot write ({error.strerror}); the games go on unrecorded; "
                  "make room or choose another folder", file=sys.stderr)
            for writer in self.writers.values():
                writer.abort()
            self.writers.clear()


def _put_text(buffer, at, size, text):
    """Shift-JIS as Melee has it, cut to fit with a final zero and never within a character."""
    data = b""
    for letter in text:
        encoded = letter.encode("shift_jis", errors="replace")
        if len(data) + len(encoded) >= size:
            break
        data += encoded
    buffer[at:at + len(data)] = data


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

"""The recordings of one folder, by name. A name that comes from outside is looked up among those, never opened."""

import functools
import json
import os
from pathlib import Path

import numpy as np

from cleanmelee.cli import UserError
from cleanmelee.events import ReplayError
from cleanmelee.frame import FIRST_CONTROL_FRAME
from cleanmelee.replays import Replay, read_replay
from cleanmelee.terminal import printable
from cleanmelee.web.picture import pictures, scene

GROWING = ".slp.part"                                                       # a game that is still being recorded
MOST_LISTED = 2000                                                          # recordings, the newest
MOST_FRAMES = 60 * 60 * 15                                                  # of a game; Melee's clock ends at 8 minutes
OLDEST_VERSION = (2, 0, 0)                                                  # what is missing before 3.8 is only drawn
LATEST = "latest"


class Library:
    """The .slp files in a folder and below it, or one file alone."""

    def __init__(self, place: str | Path):
        """UserError: there is no such file or folder."""
        self.place = Path(place)
        if not self.place.exists():
            raise UserError(f"--watch {place}: no such file or folder; name a .slp file, a folder of them, or {LATEST}")
        self.root = (self.place if self.place.is_dir() else self.place.parent).resolve()

    def files(self) -> dict[str, Path]:
        """Name within the folder -> path, the newest last. A link out of the folder is not followed."""
        if self.place.is_file():
            return {self.place.name: self.place}
        found = {}
        for folder, _, names in os.walk(self.root):
            for name in names:
                path = Path(folder, name)
                if name.endswith((".slp", GROWING)) and path.resolve().is_relative_to(self.root):
                    found[path.relative_to(self.root).as_posix()] = path
        def age(name):
            try:
                return found[name].stat().st_mtime_ns, name
            except OSError:                                                 # it was renamed meanwhile
                return 0, name
        return {name: found[name] for name in sorted(found, key=age)[-MOST_LISTED:]}

    def listing(self) -> list[dict]:
        rows = []
        for name, path in self.files().items():
            try:
                about = path.stat()
            except OSError:
                continue
            rows.append({"name": name, "bytes": about.st_size, "time": about.st_mtime,
                         "growing": name.endswith(GROWING)})
        return rows

    def path(self, name: str) -> Path:
        """UserError: the folder has no recording of that name."""
        path = self.files().get(name)
        if path is None:
            raise UserError(f"{printable(name, 200)}: no such recording in this folder; it may have been moved")
        return path

    def read(self, name: str) -> Replay:
        """The game from the frame on that players see before they act, or as much of it as there is. UserError as
        `path`, and for what is no recording of two players."""
        path = self.path(name)
        try:
            about = path.stat()
            return read_game(path, about.st_mtime_ns, about.st_size)
        except OSError as error:
            raise UserError(f"{printable(name, 200)}: cannot be read ({error.strerror}); choose another recording"
                            ) from None
        except ReplayError as error:
            reason = str(error).removeprefix(f"{path}: ")
            raise UserError(f"{printable(name, 200)}: {printable(reason, 300)}; choose another recording") from None


@functools.lru_cache(maxsize=4)
def read_game(path: Path, time: int, size: int) -> Replay:
    """time, size: of the file; another means that it has to be read anew."""
    replay = read_replay(path, min_version=OLDEST_VERSION)
    if len(replay) > MOST_FRAMES:
        raise ReplayError(f"{len(replay):,} frames, more than the page shows ({MOST_FRAMES:,})")
    first = int(np.searchsorted(replay.frames["frame_id"], FIRST_CONTROL_FRAME - 1))
    first = first if first < len(replay) else 0
    return Replay(replay.frames[first:], replay.controllers[first:], replay.meta)


def encode_recording(replay: Replay, start: int = 0) -> bytes:
    """What the page loads: the length of a JSON text in 4 bytes, that text, and PICTURE records from `start` on."""
    frames, controllers = replay.frames[start:], replay.controllers[start:]
    characters = np.unique(replay.frames["players"]["character"]).tolist()
    nanas = replay.frames["nanas"]
    characters += np.unique(nanas["character"][nanas["present"] != 0]).tolist()
    facts = {name: replay.meta[name] for name in ("names", "tags", "ports", "winner", "end", "started", "warning")}
    facts |= scene(int(replay.frames["stage"][0]), characters) | {"frames": len(frames), "start": start}
    text = json.dumps(facts).encode()
    records = pictures(frames, controllers).tobytes() if len(frames) else b""
    return len(text).to_bytes(4, "little") + text + records


def latest_folder(runs: Path) -> Path:
    """The run that was written to last. UserError: there is none."""
    folders = [path for path in runs.iterdir() if path.is_dir()] if runs.is_dir() else []
    if not folders:
        raise UserError(f"{LATEST}: there is no run in {runs}; name a file or a folder")
    return max(folders, key=lambda folder: max(
        (path.stat().st_mtime_ns for path in (folder, folder / "metrics.jsonl", folder / "checkpoints")
         if path.exists()), default=0))

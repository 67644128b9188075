"""Folders of replays: worker processes read them, a cache on disk remembers them. One file: see slp.py; the cache:
packed.py."""

import contextlib
import functools
import hashlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import rich.progress

from cleanmelee import events, frame, libmelee, packed, signals, slp
from cleanmelee.events import ReplayError
from cleanmelee.frame import FIRST_CONTROL_FRAME, same_fighter
from cleanmelee.game import ids, stored
from cleanmelee.libmelee import zero_indexed_actions
from cleanmelee.packed import DamagedCache, Entry, Store, pack_game
from cleanmelee.slp import MIN_VERSION, Replay, controlled, one_line, read_file, read_replay
from cleanmelee.terminal import Terminal, printable, warn
from cleanmelee.workers import end_with_parent

__all__ = ["Replay", "controlled", "default_cache_dir", "load_replays", "read_replay", "scan_replays"]

# the sources that decide what is read, and how it is kept
PARSER = [Path(module.__file__) for module in (slp, events, frame, libmelee, packed, stored, ids)]


def default_cache_dir() -> Path | None:
    """`$XDG_CACHE_HOME/cleanmelee/replays`, by default below ~/.cache; None for somebody who has no home."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "cleanmelee" / "replays" if os.path.isabs(base) else None


def load_replays(files: str | Path | list, **options) -> tuple[list[Replay], dict]:
    """Whole games in memory: of the options of `scan_replays`, which see -> (replays in sorted order of their files,
    its summary). For more games than memory holds see dataset.py."""
    replays, summary = [], {}
    for path, entry in scan_replays(files, summary=summary, **options):
        try:
            frames, controllers = entry.open().whole()
        except DamagedCache as error:
            warn(error)
            replay = read_replay(path, min_version=options.get("min_version", MIN_VERSION))
            frames, controllers = replay.frames, replay.controllers
        replays.append(Replay(frames, controllers, {**entry.meta, "path": str(path)}))
    return replays, summary


def scan_replays(files: str | Path | list, *, num_workers: int | None = None, max_files: int | None = None,
                 character: int | None = None, min_frames: int = 60, min_version: tuple = MIN_VERSION,
                 cache_dir: str | Path | bool | None = None, one_file_a_game: bool = False, progress: bool = True,
                 summary: dict | None = None) -> Iterator[tuple[Path, Entry]]:
    """Read a folder (searched recursively for .slp), one file, or a list of files and folders -> each file with the
    packed game that it holds, in sorted order of files.

    num_workers: reader processes, None for one per core, 0 to read in this process. max_files: the first so many in
    sorted order, None for all. character: internal id, keeps games with it on either side (Zelda and Sheik are one),
    None keeps all. min_frames: shorter games (frames with control) are skipped. one_file_a_game: of an online game that
    both players recorded, the first file alone. cache_dir: packed games are kept there; None for `default_cache_dir()`,
    False for no cache. summary: is filled with files, read, frames, cached, skipped (list of (file, reason)), seconds,
    frames_per_second.

    A bad file costs one line on stderr, so does a folder that may not be read. Raises ReplayError if there is no such
    folder, no .slp file in it, or none that can be used. Frames before control (id < -39) are kept.
    """
    paths = _find_replays(files)[:max_files]                                # as text: a Path is ten times as large
    if not paths:
        raise ReplayError("max_files is 0: nothing to read")
    summary = {} if summary is None else summary
    cache_dir = None if cache_dir is False else Path(cache_dir) if cache_dir else default_cache_dir()
    zero_indexed_actions()  # once, not in every worker
    stored.follow(np.zeros(0, frame.FRAME))
    began, min_version = time.perf_counter(), tuple(min_version)
    store = Store(cache_dir, _parser_digest())
    reasons, parsed = _read_new(paths, store, num_workers, min_version, progress)

    skipped, seen, frames, cached, read = [], {}, 0, 0, 0
    for path in paths:
        found = reasons.get(path) or store.find(path, None, min_version)
        if isinstance(found, Entry):
            meta = found.meta
            have = meta["frames"] + found.facts["first_frame"] - FIRST_CONTROL_FRAME
            key = meta["game"] if one_file_a_game else meta["hash"]
            if key in seen:
                found = f"the same {'game' if one_file_a_game else 'file'} as {seen[key]}"
            elif have < min_frames:
                found = f"{max(have, 0)} frames with control, fewer than {min_frames}"
            elif character is not None and not any(same_fighter(c, character) for c in meta["characters"]):
                found = f"nobody plays character {character}"
            else:
                seen[key] = path
                frames, read, cached = frames + meta["frames"], read + 1, cached + (meta["hash"] not in parsed)
                if meta["warning"]:
                    warn(f"{path}: {meta['warning']}")
                yield Path(path), found
                continue
        skipped.append((path, found.removeprefix(f"{path}: ")))
        print(f"skipped {printable(path, 200)}: {printable(skipped[-1][1])}", file=sys.stderr)
    if store.unkept:
        warn(f"{cache_dir}: parsed replays cannot be kept there ({store.unkept}); they are parsed again next time")

    seconds = time.perf_counter() - began
    summary |= {"files": len(paths), "read": read, "frames": frames, "cached": cached, "skipped": skipped,
                "seconds": seconds, "frames_per_second": frames / seconds}
    print(f"read {read} of {len(paths)} replays ({frames:,} frames, {frames / seconds:,.0f} frames/s), "
          f"skipped {len(skipped)}", file=sys.stderr)
    if not read:
        raise ReplayError(f"{printable(_describe(files), 200)}: none of {len(paths)} replays can be used; the first: "
                          f"{Path(skipped[0][0]).name}: {skipped[0][1]}")


def _describe(files):
    return files if isinstance(files, str | os.PathLike) else ", ".join(map(str, files))


def _find_replays(files):
    found = []

    def forbidden(error):
        warn(f"skipped the folder {error.filename}: {error.strerror.lower()}")

    for entry in [files] if isinstance(files, str | os.PathLike) else files:
        path = Path(os.path.expanduser(entry))
        try:
            if not stat.S_ISDIR(path.stat().st_mode):
                found.append(str(path))
                continue
            os.listdir(path)
        except FileNotFoundError:
            raise ReplayError(f"{entry}: no such file or folder") from None
        except OSError as error:
            raise ReplayError(f"{entry}: {error.strerror.lower()}") from None
        for folder, _, names in os.walk(path, onerror=forbidden):
            found += [os.path.join(folder, name) for name in names if name.lower().endswith(".slp")]
    if not found:
        raise ReplayError(f"{_describe(files)}: no .slp files")
    return sorted(set(found), key=lambda path: path.split(os.sep))


def _read_new(paths, store, num_workers, min_version, progress):
    """Reads what `store` does not know yet into it -> (reasons of files that cannot be used, by path, sha256 of the
    games that were parsed)."""
    reasons, parsed = {}, set()
    todo = [Path(path) for path in paths
            if (stamp := _stamp(path)) is None or not store.has(path, stamp, min_version)]
    if num_workers is None:
        num_workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    known = store.knows(min_version)
    columns = ("[progress.description]{task.description}", rich.progress.BarColumn(),
               rich.progress.MofNCompleteColumn(), rich.progress.TimeRemainingColumn())
    # auto_refresh would start a thread, and forking beside threads is asking for a deadlock.
    with rich.progress.Progress(*columns, console=Terminal(stderr=True), auto_refresh=False, transient=True,
                                disable=not progress) as bar:
        task = bar.add_task("reading replays", total=len(todo))
        if num_workers > 0 and todo:
            source = _read_in_workers(todo, min(num_workers, len(todo)), min_version, known)
        else:
            source = ((path, _read_one(path, min_version, known)) for path in todo)
        with contextlib.closing(source):
            for path, result in source:
                if isinstance(result, str):
                    reasons[str(path)] = result
                elif result.reason:
                    store.add(str(path), result.stamp, reason=result.reason, min_version=min_version)
                elif result.content is None or result.meta["hash"] in parsed:
                    store.add(str(path), result.stamp, hash=result.meta["hash"])
                else:
                    store.add_game(str(path), result.stamp, result.meta, result.facts, result.content)
                    parsed.add(result.meta["hash"])
                bar.advance(task)
                bar.refresh()
    store.seal()
    return reasons, parsed


class _Result(NamedTuple):
    """What came of reading a file."""
    stamp: tuple                # of the file, before it was read
    reason: str = ""            # why it cannot be used, or ""
    meta: dict = {}             # with its hash alone where the content is known
    facts: dict = {}
    content: bytes | None = None


def _stamp(path):
    """(bytes, times of the last change of content and of anything) or None if there is nothing to be asked."""
    try:
        about = os.stat(path)
    except OSError:
        return None
    return about.st_size, about.st_mtime_ns, about.st_ctime_ns


def _read_one(path, min_version, known):
    """A _Result, or a reason that may be another one next time. known: sha256 of contents that need no parsing."""
    try:
        stamp = _stamp(path)
        content = read_file(path)
        if content[1] in known:
            return _Result(stamp, meta={"hash": content[1]})
        try:
            replay = read_replay(path, min_version=min_version, content=content)
        except ReplayError as error:
            return _Result(stamp, reason=str(error))
        facts = {"first_frame": int(replay.frames["frame_id"][0]), "active": activity(replay.controllers)}
        packed_game = pack_game(replay.frames, replay.controllers, replay.meta["incomplete"])
        return _Result(stamp, "", replay.meta, facts, packed_game)
    except ReplayError as error:
        return str(error)
    except Exception as error:  # one bad file must never end a long run
        return f"{type(error).__name__}: {one_line(error)}"


def activity(controllers):
    """CONTROLLER [T, 2] -> for each player the share of frames on which its input changes."""
    return tuple((controllers[1:] != controllers[:-1]).mean(0).tolist()) if len(controllers) > 1 else (0., 0.)


@functools.lru_cache(maxsize=1)
def _parser_digest():
    """Part of a cache file's name: after an edit of the parser or of a record's fields, old files are not read."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in PARSER)).hexdigest()[:12]


def _reader(conn, parent, min_version, known):
    signals.leave_to_parent()
    end_with_parent(parent)                       # on Linux; elsewhere between two files
    while True:
        while not conn.poll(1.0):
            if os.getppid() != parent:
                return
        path = conn.recv()
        if path is None:
            return
        conn.send(_read_one(path, min_version, known))


def _read_in_workers(paths, num_workers, min_version, known):
    """Yield (path, result of _read_one) as they come. A reader that dies costs its file, never the run.

    Own processes and pipes rather than a pool: the standard library's cannot say which file killed its worker, and
    pebble, which can, forks beside its own threads.
    """
    # Forked readers import nothing, least of all torch.
    context = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn")
    todo, busy = list(reversed(paths)), {}  # busy: our end of the pipe -> (process, path)

    def give(process, conn):
        if not todo:
            with contextlib.suppress(OSError):
                conn.send(None)
            process.join(5)
            process.kill()
            conn.close()
            return
        busy[conn] = process, todo.pop()
        with contextlib.suppress(OSError):  # already dead: the wait below finds out
            conn.send(busy[conn][1])

    def start():
        ours, theirs = context.Pipe()
        process = context.Process(target=_reader, args=(theirs, os.getpid(), min_version, known), daemon=True)
        with signals.held():
            process.start()
        theirs.close()
        give(process, ours)

    try:
        for _ in range(num_workers):
            start()
        while busy:
            ready = multiprocessing.connection.wait(list(busy), timeout=10)
            if not ready and hasattr(signal, "SIGCONT"):  # a reader that was stopped goes on
                for process, _ in busy.values():
                    os.kill(process.pid, signal.SIGCONT)
            for conn in ready:
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
            process.kill()
        for process, _ in busy.values():
            process.join(5)

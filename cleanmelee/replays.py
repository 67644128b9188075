"""Folders of replays: worker processes read them, a cache on disk remembers them. One file: see slp.py."""

import contextlib
import functools
import hashlib
import io
import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import stat
import sys
import time
from pathlib import Path

import numpy as np
import rich.progress

from cleanmelee import events, frame, libmelee, signals, slp
from cleanmelee.events import ReplayError
from cleanmelee.frame import CONTROLLER, FIRST_CONTROL_FRAME, FRAME, NUM_PLAYERS, same_fighter
from cleanmelee.libmelee import zero_indexed_actions
from cleanmelee.slp import MIN_VERSION, Replay, controlled, one_line, read_file, read_replay
from cleanmelee.terminal import Terminal, printable, warn
from cleanmelee.workers import end_with_parent

__all__ = ["Replay", "controlled", "default_cache_dir", "load_replays", "read_replay"]

PARSER = [Path(module.__file__) for module in (slp, events, frame, libmelee)]  # the sources that decide what is read


def default_cache_dir() -> Path | None:
    """`$XDG_CACHE_HOME/cleanmelee/replays`, by default below ~/.cache; None for somebody who has no home."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "cleanmelee" / "replays" if os.path.isabs(base) else None


def load_replays(files: str | Path | list, *, num_workers: int | None = None, max_files: int | None = None,
                 character: int | None = None, min_frames: int = 60, min_version: tuple = MIN_VERSION,
                 cache_dir: str | Path | bool | None = None, progress: bool = True) -> tuple[list[Replay], dict]:
    """Read a folder (searched recursively for .slp), one file, or a list of files and folders.

    num_workers: reader processes, None for one per core, 0 to read in this process. max_files: the first so many in
    sorted order, None for all. character: internal id, keeps games with it on either side (Zelda and Sheik are one),
    None keeps all. min_frames: shorter games (frames with control) are skipped. cache_dir: parsed arrays are kept
    there and read back memory-mapped and read-only; None for `default_cache_dir()`, False for no cache.

    Returns (replays in sorted order of their files, summary dict: files, read, frames, cached, skipped (list of
    (file, reason)), seconds, frames_per_second). A bad file costs one line on stderr, so does a folder that may not be
    read. Raises ReplayError if there is no such folder, no .slp file in it, or none that can be used. Frames before
    control (id < -39) are kept.
    """
    paths = _find_replays(files)[:max_files]
    if not paths:
        raise ReplayError("max_files is 0: nothing to read")
    cache_dir = None if cache_dir is False else Path(cache_dir) if cache_dir else default_cache_dir()
    if num_workers is None:
        num_workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    num_workers = min(num_workers, len(paths))
    zero_indexed_actions()  # once, not in every worker

    began, results = time.perf_counter(), {}
    columns = ("[progress.description]{task.description}", rich.progress.BarColumn(),
               rich.progress.MofNCompleteColumn(), rich.progress.TimeRemainingColumn())
    # auto_refresh would start a thread, and forking beside threads is asking for a deadlock.
    with rich.progress.Progress(*columns, console=Terminal(stderr=True), auto_refresh=False, transient=True,
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

    replays, skipped, seen, cached, unkept = [], [], {}, 0, ""
    for path in paths:
        reason = replay = results[path]
        if not isinstance(replay, str):
            frames, controllers, meta, hit, failed = replay
            unkept = unkept or failed
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
                if meta["warning"]:
                    warn(f"{path}: {meta['warning']}")
                continue
        skipped.append((str(path), reason.removeprefix(f"{path}: ")))
        print(f"skipped {printable(path, 200)}: {printable(skipped[-1][1])}", file=sys.stderr)
    if unkept:
        warn(f"{cache_dir}: parsed replays cannot be kept there ({unkept}); they are parsed again next time")

    frames, seconds = sum(map(len, replays)), time.perf_counter() - began
    summary = {"files": len(paths), "read": len(replays), "frames": frames, "cached": cached, "skipped": skipped,
               "seconds": seconds, "frames_per_second": frames / seconds}
    print(f"read {len(replays)} of {len(paths)} replays ({frames:,} frames, {frames / seconds:,.0f} frames/s), "
          f"skipped {len(skipped)}", file=sys.stderr)
    if not replays:
        raise ReplayError(f"{printable(_describe(files), 200)}: none of {len(paths)} replays can be used; the first: "
                          f"{Path(skipped[0][0]).name}: {skipped[0][1]}")
    return replays, summary


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
                found.append(path)
                continue
            os.listdir(path)
        except FileNotFoundError:
            raise ReplayError(f"{entry}: no such file or folder") from None
        except OSError as error:
            raise ReplayError(f"{entry}: {error.strerror.lower()}") from None
        for folder, _, names in os.walk(path, onerror=forbidden):
            found += [Path(folder, name) for name in names if name.lower().endswith(".slp")]
    if not found:
        raise ReplayError(f"{_describe(files)}: no .slp files")
    return sorted(set(found))


def _read_one(path, min_version, cache_dir):
    """(frames, controllers, meta, were they in the cache, why they are not now) or a reason; the arrays are None if
    they can be had from the cache."""
    try:
        content = read_file(path)
        if cache_dir is not None:
            cached = _load_cached(cache_dir, content[1])
            if cached is not None and tuple(cached[2]["version"]) >= min_version:
                return None, None, cached[2], True, ""
        replay = read_replay(path, min_version=min_version, content=content)
        failed = "" if cache_dir is None else _save_cached(cache_dir, replay)
        kept = cache_dir is not None and not failed
        return *((None, None) if kept else (replay.frames, replay.controllers)), replay.meta, False, failed
    except ReplayError as error:
        return str(error)
    except Exception as error:  # one bad file must never end a long run
        return f"{type(error).__name__}: {one_line(error)}"


@functools.lru_cache(maxsize=1)
def _parser_digest():
    """Part of an entry's name: after an edit of the parser or of a record's fields, old entries are not found."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in PARSER)).hexdigest()[:12]


def _save_cached(cache_dir, replay):
    """"" if `replay` is in the cache now, else why it is not: a full or read-only disk costs speed, not the run. The
    small .json is renamed into place last and makes the entry valid."""
    stem = Path(cache_dir) / f"{replay.meta['hash']}-{_parser_digest()}"
    temporary = stem.with_name(f".{stem.name}.{os.getpid()}.tmp")
    contents = {"frames.npy": _as_npy(replay.frames), "controllers.npy": _as_npy(replay.controllers),
                "json": json.dumps(replay.meta).encode()}
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        for suffix, content in contents.items():
            temporary.write_bytes(content)
            os.replace(temporary, f"{stem}.{suffix}")
        return ""
    except OSError as error:
        for path in (temporary, *(Path(f"{stem}.{suffix}") for suffix in contents)):
            with contextlib.suppress(OSError):
                path.unlink()
        return error.strerror


def _as_npy(array):
    """In memory: np.save into a file does not say why it failed."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getbuffer()


def _load_cached(cache_dir, digest):
    """(frames, controllers, meta) memory-mapped from the cache, or None if there is no sound entry."""
    stem = Path(cache_dir) / f"{digest}-{_parser_digest()}"
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
    signals.leave_to_parent()
    end_with_parent(parent)                       # on Linux; elsewhere between two files
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
        process = context.Process(target=_reader, args=(theirs, os.getpid(), min_version, cache_dir), daemon=True)
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

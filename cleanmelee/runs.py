"""What a run leaves behind: its folder, lock and logs."""

import contextlib
import functools
import importlib
import importlib.metadata
import json
import math
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import filelock
import numpy as np
import rich.progress

from cleanmelee.cli import UserError
from cleanmelee.files import atomic_write, names_file, read_file
from cleanmelee.signals import interrupt, on_request

LOCK = ".lock"


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


STARTING = ".starting"                                  # lies in a run's folder until there is something to go on from


def start_run(runs_dir: str, run_name: str, default: str, flags: dict, script: str, launcher: str = "python"
              ) -> tuple[Path, filelock.FileLock]:
    """Makes runs/<name>/ with args.json (the flags), command.txt (quoted: it can be pasted), versions.txt and a copy of
    the script -> the folder and its lock: hold on to it.

    Refuses to write over another run: a `run_name` that was given must be free, of `default` the next free number is
    taken. A folder whose run never came to `has_begun`, for a kill or a full disk, is emptied and taken again."""
    if run_name and (Path(run_name).name != run_name or run_name == ".." or not run_name.isprintable()):
        raise UserError(f"--run-name {run_name!r}: a folder's name, without slashes; --runs-dir says where it lies")
    default = re.sub(r"[^\w.,+-]", "", default)[:120]
    run = Path(runs_dir) / (run_name or default)
    number = 1
    while not _make_folder(run):
        if run_name:
            break
        number += 1
        run = run.with_name(f"{default}-{number}")
    lock = lock_run(run)
    try:
        with names_file(run):
            if not _is_free(run):
                raise UserError(f"{run}: this run exists already; choose another --run-name, or --resume it where that "
                                "is offered")
            (run / STARTING).touch()
            for path in run.iterdir():
                if path.name not in (STARTING, LOCK):
                    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            flags = flags | {"run_name": run.name}
            (run / "args.json").write_text(json.dumps(flags, indent=1) + "\n")
            (run / "command.txt").write_bytes(os.fsencode(f"{launcher} {shlex.join(sys.argv)}\n"))
            (run / "versions.txt").write_text("".join(f"{k} {v}\n" for k, v in versions().items()))
            (run / Path(script).name).write_bytes(Path(script).read_bytes())
    except BaseException:
        lock.release()
        raise
    return run, lock


def _make_folder(run: Path) -> bool:
    """False if there is something of that name."""
    try:
        run.parent.mkdir(parents=True, exist_ok=True)
        run.mkdir()
    except FileExistsError:
        return False
    except OSError as error:
        raise UserError(f"{run}: cannot make this folder ({error.strerror}); choose another --runs-dir or --run-name"
                        ) from None
    return True


def _is_free(run: Path) -> bool:
    names = {path.name for path in run.iterdir()}
    return STARTING in names or names <= {LOCK}


def has_begun(run: Path) -> None:
    """There is a checkpoint now: this folder is a run's, and nobody starts another in it."""
    (run / STARTING).unlink(missing_ok=True)


def best_checkpoint(path: str | Path) -> Path:
    """Of a run folder its best checkpoint, else its latest; a file is taken as it is."""
    kept = [Path(path) / "checkpoints" / name for name in ("best.pt", "latest.pt")]
    return next((file for file in kept if file.is_file()), Path(path))


def keep_copy(file: str, copy: Path) -> str:
    """Copies `file` (empty, or gone: nothing) to `copy` unless that is there -> the path to read from from now on."""
    if file and not copy.exists() and Path(file).is_file():
        atomic_write(copy, read_file(file))
    return str(copy) if copy.exists() else file


def check_state(saved, like, where: str) -> None:
    """Raises ValueError unless `saved`, values out of a checkpoint, is built like `like`, what would be saved now: the
    same types, names, lengths, shapes and dtypes, and finite numbers. In `like`, {str: x} is a dict of any names and
    [x, ...] a list of any length."""
    kind, wanted = (dict if isinstance(x, dict) else type(x) for x in (saved, like))
    if kind is not wanted:
        raise ValueError(f"{where} is of type {kind.__name__}, not {wanted.__name__}")
    if kind is dict:
        if like.keys() == {str}:
            like = {name: like[str] for name in saved if isinstance(name, str)}
        if saved.keys() != like.keys():
            names = sorted(map(repr, saved.keys() ^ like.keys()))
            raise ValueError(f"{where} has other entries: {', '.join(names[:3])}")
        for name in like:
            check_state(saved[name], like[name], f"{where}.{name}")
    elif kind in (list, tuple):
        if len(like) == 2 and like[1] is ...:
            like = [like[0]] * len(saved)
        if len(saved) != len(like):
            raise ValueError(f"{where} has {len(saved)} entries, not {len(like)}")
        for k, pair in enumerate(zip(saved, like, strict=True)):
            check_state(*pair, f"{where}.{k}")
    elif hasattr(like, "dtype"):                                            # a tensor or an array
        if (saved.shape, saved.dtype) != (like.shape, like.dtype):
            raise ValueError(f"{where} is {saved.dtype} {list(saved.shape)}, not {like.dtype} {list(like.shape)}")
        if not (saved.isfinite() if hasattr(saved, "isfinite") else np.isfinite(saved)).all():
            raise ValueError(f"{where} is not finite")
    elif kind is float and not math.isfinite(saved) or kind is int and abs(saved) >= 2 ** 63:
        raise ValueError(f"{where} is {saved}")


def check_begun(run: Path) -> None:
    if (run / STARTING).exists():
        raise UserError(f"{run}: this run ended before its first checkpoint, there is nothing to go on from; start it "
                        "again, the same --run-name is free (its command.txt has the command)")


def stop_on_interrupt(say) -> list:
    """-> a list that a first Ctrl-C (or SIGTERM, SIGHUP) fills, so that a loop can end in good order; a second Ctrl-C
    ends it at once."""
    stop = []

    def on_interrupt(number, frame):
        stop.append(number)
        with contextlib.suppress(RuntimeError, OSError):                    # the signal struck in the middle of a print
            say("stopping after this iteration; press Ctrl-C again to stop at once, back to the last checkpoint")

    on_request(on_interrupt, interrupt)
    return stop


def lock_run(run: Path) -> filelock.FileLock:
    """Two processes in one run folder would mix their logs. Hold on to what is returned, and `release` it at the end; a
    process that is killed lets go of it."""
    lock = filelock.FileLock(run / LOCK)
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        raise UserError(f"{run}: another process is training in this folder; wait for it or stop it") from None
    except OSError as error:
        raise UserError(f"{run}: cannot be locked ({error.strerror}); choose another --run-name") from None
    return lock


def iteration_progress(console, total: int, completed: int):
    """-> a bar that has been started, and its task; silent where the console is no terminal."""
    progress = rich.progress.Progress(
        rich.progress.TextColumn("iteration"), rich.progress.MofNCompleteColumn(), rich.progress.BarColumn(),
        rich.progress.TimeRemainingColumn(), console=console, disable=not console.is_terminal)
    task = progress.add_task("train", total=total, completed=completed)
    progress.start()
    return progress, task

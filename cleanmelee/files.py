"""Files that are whole or not there, and logs that a kill cannot spoil."""

import contextlib
import json
import os
import tempfile
from pathlib import Path

from cleanmelee.cli import UserError


def open_locked(path):
    """The file, new or as it is, for reading and writing, ours alone until it is closed; None if it is another's."""
    open(path, "ab").close()
    file = open(path, "rb+", buffering=0)
    if os.name == "nt":                                                     # no locks there
        return file
    import fcntl
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):        # not renamed by its owner meanwhile
            return file
    except OSError:
        pass
    file.close()
    return None


def check_writable(flag: str, path: Path) -> None:
    """Now rather than after hours of training: can a file be written at `path`?"""
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{flag} {path}: not a regular file; choose another name")
        folder = next(parent for parent in path.absolute().parents if parent.exists())  # the rest can be made
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"{flag} {path}: cannot write there ({error.strerror}); choose another place") from None


def atomic_write(path: Path, content: bytes | memoryview) -> None:
    """Writes a temporary file beside `path`, flushes it to disk, renames it into place: whole or not at all."""
    check_writable("output", path)
    temporary = path.parent / f".{path.name[:100]}.{os.getpid()}.tmp"
    try:
        with names_file(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


@contextlib.contextmanager
def names_file(path: Path):
    """What fails while `path` is written is told with its name: a full disk's own error has none."""
    try:
        yield
    except OSError as error:
        reason = f"cannot be written ({error.strerror}); make room or choose another place"
        raise UserError(f"{path}: {reason}") from None


def append_jsonl(path: Path, row: dict) -> None:
    """Adds a line, whole or not at all; after one that a kill has cut short it begins anew."""
    with names_file(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab+", buffering=0) as file:
            before = file.seek(0, os.SEEK_END)
            file.seek(max(0, before - 1))
            line = b"\n" * (file.read(1) not in (b"", b"\n")) + json.dumps(row).encode() + b"\n"
            try:
                while line:
                    line = line[file.write(line):]
            except OSError:
                file.truncate(before)
                raise


def keep_jsonl(path: Path, last_step: int) -> None:
    """Drops rows after `last_step`, and lines that a kill or somebody has damaged."""
    def sound(line: str) -> bool:
        try:
            return line.endswith("\n") and json.loads(line)["global_step"] <= last_step
        except (ValueError, KeyError, TypeError):
            return False

    if path.exists():
        lines = path.read_text(errors="replace").splitlines(keepends=True)
        atomic_write(path, "".join(filter(sound, lines)).encode())

"""Files that are whole or not there, and logs that a kill cannot spoil."""

import contextlib
import json
import os
import stat
import tempfile
from pathlib import Path

from cleanmelee.cli import UserError


JSON_BYTES = 2 ** 24                                                        # more is no file of ours


def open_regular(path: str | Path):
    """A file to read bytes from. UserError: there is none, it cannot be read, or it is a pipe or a device, at which we
    might wait for ever."""
    try:
        file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0)))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check the path") from None
    except (OSError, ValueError) as error:                                  # ValueError: a name with a zero byte
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', error)}); choose another file") from None
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise UserError(f"{path}: not a regular file; choose another one")
    return file


def read_file(path: str | Path, most: int = 2 ** 33) -> bytes:
    """All of a regular file of at most `most` bytes. UserError as `open_regular`."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise UserError(f"{path}: {size:,} bytes, more than any file of ours ({most:,}); choose another one")
        try:
            return file.read(size)                                          # not what is appended meanwhile
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); choose another file") from None


def parse_json(text: str | bytes, path: str | Path):
    """What a JSON text of the file `path` says. UserError: it is none, or nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise UserError(f"{path}: nested too deeply; restore it") from None
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}); restore it") from None


def read_json(path: str | Path, most: int = JSON_BYTES):
    """What the JSON file `path` says. UserError as `read_file` and `parse_json`."""
    return parse_json(read_file(path, most), path)


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
    with atomic_file(path) as file:
        file.write(content)


@contextlib.contextmanager
def atomic_file(path: Path):
    """As `atomic_write`, for what is written piece by piece: a file to write bytes to, in place when the block ends."""
    check_writable("output", path)
    temporary = path.parent / f".{path.name[:100]}.{os.getpid()}.tmp"
    try:
        with names_file(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as file:
                yield file
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


def read_jsonl(path: Path, step: str = "global_step") -> list[tuple[str, dict]]:
    """Lines and rows of a log whose rows have a `step`; none if it is not there. What a kill or somebody has damaged is
    left out."""
    rows = []
    for line in read_file(path).decode(errors="replace").splitlines(keepends=True) if path.exists() else []:
        try:
            row = json.loads(line) if line.endswith("\n") else None
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and type(row.get(step)) is int:
            rows.append((line, row))
    return rows


def keep_jsonl(path: Path, last_step: int, step: str = "global_step") -> None:
    """Drops rows after `last_step`, and lines that are damaged."""
    if path.exists():
        lines = [line for line, row in read_jsonl(path, step) if row[step] <= last_step]
        atomic_write(path, "".join(lines).encode())

"""What teachers would do, frame by frame, for students to learn from: asked for, mixed into one, kept in a file.

    Lesson                      frames in the order of play, and what the teachers say to each
    ask(teachers, ..)           their answers to frames in memory
    write_labels(path, ..)      their answers to all rows of games, asked once
    LabelFile(path, ..).read    those of some sides again

A label is 82 numbers of float16, 164 bytes: the logits of every head, each given the true choice in the heads before
it, and the value. A file of them holds

    head      MAGIC, sizes, a checksum of what follows up to the rows
              the teachers' digests and the schema as JSON, and an ENTRY for every side, in the order of its rows
    rows      [N, 82] float16

It is renamed into place when it is whole, and mapped into memory to be read."""

import hashlib
import json
import os
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from cleanmelee.cli import UserError
from cleanmelee.controller import NUM_LOGITS
from cleanmelee.dataset import Games, load_sides, portions, walk
from cleanmelee.files import atomic_file, open_regular, read_file
from cleanmelee.observation import Observation, schema_hash
from melee_common import Policy, action_logprobs, best_checkpoint, load_policy, split_logits

LABEL_SIZE = NUM_LOGITS + 1                             # 82: logits, value
ENTRY = np.dtype([("game", "S64"), ("player", "u1"), ("rows", "<u4"), ("crc", "<u4")])     # sha256 of the replay

_MAGIC = b"cmlabel1"
_HEAD = struct.Struct("<8s3I")                          # magic, bytes of JSON, entries, crc
_LARGEST = float(np.finfo(np.float16).max)


class Lesson(NamedTuple):
    """N frames, sequence after sequence, each in the order of play."""
    obs: Observation            # [N, ..]
    actions: torch.Tensor       # [N, 13] what was done, which each head is shown of the heads before it
    weights: torch.Tensor       # [N] 1 where the teachers are to be learned from, else 0
    by_people: torch.Tensor     # [N] 1 where what was done is to be learned, too, else 0
    labels: torch.Tensor        # [N, 82] float16
    starts: np.ndarray          # [S + 1] sequence s is rows starts[s] to starts[s + 1]


def join(lessons: list[Lesson]) -> Lesson:
    if len(lessons) == 1:
        return lessons[0]
    obs, *columns, starts = zip(*lessons, strict=True)
    ends = np.concatenate([[0], *(np.diff(x) for x in starts)]).cumsum()
    return Lesson(Observation(*map(torch.cat, zip(*obs, strict=True))), *map(torch.cat, columns), ends)


# ---------------------------------------------------------------------------------------------------------------------
# Asking
# ---------------------------------------------------------------------------------------------------------------------

def load_teachers(files: str) -> tuple[list[Policy], list[str]]:
    """Paths of checkpoints or run folders, separated by commas -> policies that act equally often and late, and the
    sha256 of each file."""
    paths = [best_checkpoint(os.path.expanduser(path.strip())) for path in files.split(",") if path.strip()]
    if not paths:
        raise UserError("--teacher is empty: give the checkpoint of the policy to imitate, or several, by commas")
    teachers = [load_policy(path)[0] for path in paths]
    for path, teacher in zip(paths, teachers, strict=True):
        for name, unit in (("action_repeat", "act on every {}. frame"), ("frame_delay", "act {} frames late")):
            ours, first = teacher.config[name], teachers[0].config[name]
            if ours != first:
                raise UserError(f"--teacher {path}: would {unit.format(ours)}, {paths[0]} {first}; choose teachers "
                                "that agree in that, as a student can only be like one of them")
    return teachers, [hashlib.sha256(read_file(path)).hexdigest() for path in paths]


@torch.inference_mode()
def answers(policy: Policy, obs: Observation, actions: torch.Tensor, starts: np.ndarray) -> torch.Tensor:
    """[N, 82] float32: logits and values of a policy that plays along, its memory carried from the first row of each
    sequence to the last. obs [N, ..], actions [N, 13], starts as in Lesson."""
    found = torch.empty(len(actions), LABEL_SIZE)
    state = ()
    for rows, real, first in walk(starts):                                  # [T, B]
        state = policy.initial_state(rows.shape[1]) if first else state
        seen = Observation(obs.floats[rows], obs.ints[rows])
        features, state = policy.unroll(seen, state, torch.zeros(rows.shape, dtype=torch.bool))
        label = torch.cat([policy.logits(features, actions[rows]), policy.value(features)[..., None]], -1)
        found[rows[real]] = label[real]
    return found


def ask(teachers: list[Policy], obs: Observation, actions: torch.Tensor, starts: np.ndarray) -> torch.Tensor:
    """[N, 82] float16: labels. Several teachers answer as their mixture, with the mean of their values."""
    each = torch.stack([answers(teacher, obs, actions, starts) for teacher in teachers])           # [K, N, 82]
    label = torch.cat([mixture(each[..., :NUM_LOGITS], actions), each[..., NUM_LOGITS:].mean(0)], -1)
    return label.clamp(-_LARGEST, _LARGEST).half()


def mixture(logits: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
    """Logits [K, ..., 81] of K policies -> [..., 81] of one that lets a policy drawn at random make the whole decision:
    in later heads a policy counts as much as it made the choices of the heads before likely. (The buttons of the first
    head stay coins that are tossed apart.)"""
    if len(logits) == 1:
        return logits[0]
    logprobs, _ = action_logprobs(logits, actions.expand(len(logits), *actions.shape))             # [K, ..., 6]
    weights = (logprobs.cumsum(-1) - logprobs).log_softmax(0)
    buttons, sticks, shoulder = split_logits(logits)                        # [K, .., 8], [K, .., 4, 17], [K, .., 1, 5]

    def mixed(log_p, weight):
        return (log_p + weight[..., None]).logsumexp(0)

    pressed, released = (mixed(torch.nn.functional.logsigmoid(x), weights[..., 0]) for x in (buttons, -buttons))
    return torch.cat([pressed - released, mixed(sticks.log_softmax(-1), weights[..., 1:5]).flatten(-2),
                      mixed(shoulder.log_softmax(-1), weights[..., 5:]).flatten(-2)], -1)


# ---------------------------------------------------------------------------------------------------------------------
# On disk
# ---------------------------------------------------------------------------------------------------------------------

def write_labels(path: Path, teachers: list[Policy], digests: list[str], sets: tuple[Games, ...]) -> int:
    """Asks the teachers (and their files' `digests`) about every row of these games -> bytes of the file. Room on disk
    is taken before the first question."""
    about = json.dumps({"teachers": digests, "schema": schema_hash()}).encode()
    entries = np.concatenate([_entries(games) for games in sets])
    begin = _HEAD.size + len(about) + entries.nbytes
    size = begin + 2 * LABEL_SIZE * int(entries["rows"].sum(dtype=np.int64))
    with atomic_file(path) as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        file.seek(begin)
        done = 0
        for games, sides in ((games, sides) for games in sets for sides in portions(games)):
            data = load_sides(games, sides, teachers[0].action_repeat)
            labels = ask(teachers, data.obs, data.actions, data.starts).numpy()
            for part in np.split(labels, np.cumsum(games.rows[sides])[:-1]):
                file.write(part)
                entries["crc"][done] = zlib.crc32(part)
                done += 1
        file.seek(0)
        file.write(_HEAD.pack(_MAGIC, len(about), len(entries), zlib.crc32(about + entries.tobytes())))
        file.write(about + entries.tobytes())
    return size


def _entries(games: Games) -> np.ndarray:
    entries = np.zeros(len(games.sides), ENTRY)
    entries["game"] = [games.keys[game] for game in games.sides[:, 0]]
    entries["player"], entries["rows"] = games.sides[:, 1], games.rows
    return entries


class LabelFile:
    """What `write_labels` wrote, mapped into memory; more games than are asked for may be in it."""

    def __init__(self, path: str, digests: list[str], sets: tuple[Games, ...]):
        """digests: of the teachers. Raises UserError unless the file is whole and has what these teachers said to all
        rows of these games."""
        self.path = path
        about, self.entries, begin, size = self._head()
        for name, ours, what in (("schema", schema_hash(), "another frame schema"),
                                 ("teachers", digests, "another --teacher")):
            if about.get(name) != ours:
                raise UserError(f"{path}: soft labels of {what}; make new ones with --save-soft-labels")
        rows = self.entries["rows"].astype(np.int64)
        if size != begin + 2 * LABEL_SIZE * rows.sum():
            raise self._damaged()
        self.labels = np.memmap(path, "<f2", "r", begin, (int(rows.sum()), LABEL_SIZE))
        self.place = {(game, player): (at, count, crc) for game, player, at, count, crc in zip(
            self.entries["game"].tolist(), self.entries["player"].tolist(), (rows.cumsum() - rows).tolist(),
            rows.tolist(), self.entries["crc"].tolist(), strict=True)}
        for games in sets:
            wanted = _entries(games)
            missing = [side for side, entry in enumerate(wanted)
                       if self.place.get((entry["game"], entry["player"]), (0, -1))[1] != entry["rows"]]
            if missing:
                raise UserError(f"{path}: has no soft labels of {len(missing)} of {len(wanted)} players, the first in "
                                f"{games.paths[games.sides[missing[0], 0]]}; make new ones with --save-soft-labels")

    def _damaged(self) -> UserError:
        return UserError(f"{self.path}: no soft labels, or damaged; make new ones with --save-soft-labels")

    def _head(self) -> tuple[dict, np.ndarray, int, int]:
        """-> what is said of all, entries, where the rows begin, bytes of the file"""
        with open_regular(self.path) as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(_HEAD.size)
            if len(head) < _HEAD.size:
                raise self._damaged()
            magic, length, count, crc = _HEAD.unpack(head)
            begin = _HEAD.size + length + count * ENTRY.itemsize
            if magic != _MAGIC or begin > size:
                raise self._damaged()
            content = file.read(begin - _HEAD.size)
        try:
            about = json.loads(content[:length])
        except (ValueError, RecursionError):
            raise self._damaged() from None
        if zlib.crc32(content) != crc or not isinstance(about, dict):
            raise self._damaged()
        return about, np.frombuffer(content, ENTRY, count, length), begin, size

    def read(self, games: Games, sides: np.ndarray) -> torch.Tensor:
        """[N, 82] float16 for the rows of `load_sides(games, sides, ..)`. Raises UserError where a checksum is
        wrong."""
        parts = []
        for entry in _entries(games)[sides]:
            at, count, crc = self.place[entry["game"], entry["player"]]
            parts.append(np.array(self.labels[at:at + count]))
            if zlib.crc32(parts[-1]) != crc:
                raise self._damaged()
        return torch.from_numpy(np.concatenate(parts))

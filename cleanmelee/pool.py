"""The pool: a directory of frozen policies, and how strong they are."""

import collections
import contextlib
import itertools
import json
import math
import os
import re
from pathlib import Path

import filelock
import numpy as np
import rich.table

from cleanmelee.cli import UserError
from cleanmelee.files import JSON_BYTES, atomic_write, open_regular, parse_json
from cleanmelee.runs import check_state
from cleanmelee.statistics import print_wide
from cleanmelee.terminal import warn
from melee_common import Policy, load_policy, save_checkpoint

def load_opponent(path: str | Path, action_repeat: int = 0, flag: str = "", frame_delay: int = 0) -> Policy:
    """A frozen policy for games in which everybody acts on every `action_repeat`-th frame (0: any), `frame_delay`
    frames late. Raises UserError, which names `flag`, if it was not made for them or cannot be read."""
    policy = load_policy(path)[0].requires_grad_(False)
    if action_repeat and (policy.action_repeat, policy.frame_delay) != (action_repeat, frame_delay):
        raise UserError(f"{flag} {path}: made for --action-repeat {policy.action_repeat} and a delay of ".lstrip() +
                        f"{policy.frame_delay} frames, not for {action_repeat} and {frame_delay}")
    return policy


_POOL_ID = re.compile(r"[\w.-]{1,100}_\d{12,18}", re.ASCII)                  # <agent>_<step>: the name of a pool's file


class Pool:
    """A directory of frozen policies, `<agent>_<step>.pt`, with two indexes: active (may be drawn) and all (every one
    ever).

    Any process may add, draw and prune. Files are renamed into place, and so is `index.json`, which holds both indexes,
    so that they never contradict each other:

        {"active": [ids, oldest first], "all": {id: step at which it left the active index, or null}, "in_use": {owner:
        [ids]}}

    Changes happen under a lock and start from what is on disk; readers need none. A lost or damaged index is rebuilt
    from the files, and files that no index knows (copied in by hand, left by a kill) join it when a pool is opened. An
    agent has at most `history_size` active ids; the surplus leaves by age (prune="oldest") or by Elo ("worst", never an
    agent's newest). That happens as a newer one joins, not when files are deleted: what is drawn must not depend on
    when a run was saved."""

    CACHE_BYTES = 2 ** 29                                              # of policies held in memory; the last drawn stay

    def __init__(self, directory: str | Path, history_size: int = 20, prune: str = "oldest", keep_files: bool = False,
                 action_repeat: int = 0, frame_delay: int = 0, read_only: bool = False):
        """keep_files: `prune` deletes nothing, so that every id stays readable. action_repeat: of the games that its
        policies shall play, and frame_delay; a file with others counts as broken (action_repeat 0: any). read_only: for
        somebody who draws from another's pool; nothing is written, what no index knows is active for this reader."""
        if prune not in ("oldest", "worst"):
            raise UserError(f"--prune {prune!r}: choose oldest or worst")
        self.directory, self.read_only = Path(directory), read_only
        self.history_size = math.inf if read_only else history_size         # a reader retires nobody
        self.by_elo, self.keep_files, self.action_repeat = prune == "worst", keep_files, action_repeat
        self.frame_delay = frame_delay
        # id -> (which file, policy, bytes)
        self._cache: collections.OrderedDict[str, tuple] = collections.OrderedDict()
        self._warned: set[str] = set()
        self._file, self._known = None, {}
        if read_only:
            return
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            if not self._files() <= set(self._index()["all"]):
                with self._change() as (index, _):
                    for name in self._files() - set(index["all"]):
                        self._join(index, name, None)
        except OSError as error:
            raise UserError(f"{self.directory}: cannot be used as a pool ({error.strerror}); choose another folder"
                            ) from None

    # ---- reading

    @staticmethod
    def agent(name: str) -> str:
        return name.rpartition("_")[0]

    @staticmethod
    def step(name: str) -> int:
        return int(name.rpartition("_")[2])

    def path(self, name: str) -> Path:
        return self.directory / f"{name}.pt"

    def ids(self) -> list[str]:
        """Active ids, oldest first."""
        return list(self._index()["active"])

    def all_ids(self) -> list[str]:
        """Every id there has ever been, oldest first; the files of those that are not active may be gone."""
        return self.by_age(self._index()["all"])

    def current(self, agent: str) -> str | None:
        """The agent's newest active id."""
        return next((name for name in reversed(self.ids()) if self.agent(name) == agent), None)

    def best(self, agent: str, ratings: "Ratings") -> str | None:
        """The agent's active id with the highest Elo; of equals the newest."""
        names = [name for name in self.ids() if self.agent(name) == agent]
        return max(reversed(names), key=ratings.elo, default=None)

    def load(self, name: str) -> Policy:
        """The frozen policy of an id, from memory if its file is still the same or gone. UserError: it cannot be
        read."""
        try:
            stat = self.path(name).stat()
            version = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        except OSError:                                                     # pruned by another process in mid-game
            version = None
        if name not in self._cache or version not in (None, self._cache[name][0]):
            self._cache.pop(name, None)
            policy = load_opponent(self.path(name), self.action_repeat, frame_delay=self.frame_delay)
            self._cache[name] = version, policy, sum(t.nbytes for t in policy.state_dict().values())
            while len(self._cache) > 1 and sum(size for _, _, size in self._cache.values()) > self.CACHE_BYTES:
                self._cache.popitem(last=False)
        self._cache.move_to_end(name)
        return self._cache[name][1]

    def sample(self, rng: np.random.Generator, names: list[str] | None = None, weights=None) -> str | None:
        """Draws an id whose file can be read: among `names` (default: all active ones), in proportion to `weights`
        (default: uniformly). A broken file is skipped, with one warning, and the draw repeated. None: nothing is left
        with weight."""
        names = self.ids() if names is None else list(names)
        weights = np.ones(len(names)) if weights is None else np.array(weights, float)
        while weights.sum() > 0:
            k = rng.choice(len(names), p=weights / weights.sum())
            try:
                self.load(names[k])
                return names[k]
            except UserError as error:
                if names[k] not in self._warned and names[k] in self._index()["active"]:  # not if pruned a moment ago
                    self._warned.add(names[k])
                    warn(f"pool: skipped {error}")
                weights[k] = 0
        return None

    # ---- changing

    def add(self, policy: Policy, agent: str, step: int, *, ratings: "Ratings | None" = None, **extra) -> str:
        """Freezes a copy, which joins both indexes; the agent's surplus leaves the active one (by Elo: needs
        `ratings`). `extra` is what a checkpoint needs to be played elsewhere, such as its action_repeat."""
        name = f"{agent}_{step:012d}"
        if not _POOL_ID.fullmatch(name):
            raise UserError(f"agent {agent!r}, step {step}: a pool's agents are named with letters, digits, "
                            "'-', '_' and '.'")
        with self._change() as (index, _):
            save_checkpoint(self.path(name), policy, step=step, **extra)
            self._join(index, name, ratings)
        return name

    def prune(self, in_use: set[str], ratings: "Ratings | None" = None, *, agents: set[str] | None = None,
              owner: str = "") -> None:
        """Deletes the files of `agents` (default: all) that are neither active nor in use; the index of all keeps their
        ids.

        Only right after a checkpoint: until then a resumed run may go back to games against files that have since
        become old. `in_use` names what that checkpoint refers to; ids of others, such as bots, are passed over. It is
        remembered under `owner` (the run, where several share a pool), and no process deletes what any owner uses."""
        with self._change() as (index, deleted):
            index["in_use"][owner] = sorted(in_use & index["all"].keys())
            agents = {self.agent(name) for name in index["all"]} if agents is None else agents
            for agent in agents:
                self._retire(index, agent, ratings)
            kept = set(index["active"]).union(*index["in_use"].values())
            if not self.keep_files:
                deleted += [name for name in self._files() - kept if self.agent(name) in agents]

    def forget_after(self, step: int, *, agents: set[str] | None = None) -> None:
        """Back to what the pool was at `step`, for `agents` (default: all), since a resumed run adds the rest again:
        what was added later goes, what left the active index later is active again."""
        with self._change() as (index, deleted):
            for name in [name for name in index["all"] if agents is None or self.agent(name) in agents]:
                if self.step(name) > step:
                    del index["all"][name]
                    deleted.append(name)
                elif index["all"][name] is not None and index["all"][name] > step and self.path(name).is_file():
                    index["all"][name] = None
            index["active"] = self.by_age(name for name, left in index["all"].items() if left is None)

    # ---- the indexes

    @classmethod
    def by_age(cls, names) -> list[str]:
        return sorted(names, key=lambda name: (cls.step(name), name))

    def _files(self) -> set[str]:
        return {path.stem for path in self.directory.glob("*_*.pt") if _POOL_ID.fullmatch(path.stem) and path.is_file()}

    def _join(self, index: dict, name: str, ratings: "Ratings | None") -> None:
        index["all"][name] = None
        index["active"] = self.by_age({*index["active"], name})
        self._retire(index, self.agent(name), ratings)

    def _retire(self, index: dict, agent: str, ratings: "Ratings | None") -> None:
        mine = [name for name in index["active"] if self.agent(name) == agent]
        surplus = len(mine) - self.history_size
        if surplus <= 0 or self.by_elo and ratings is None:
            return
        leaving = sorted(mine[:-1], key=ratings.elo) if self.by_elo else mine   # sorted is stable: of equals the oldest
        for name in leaving[:surplus]:
            index["active"].remove(name)
            index["all"][name] = self.step(mine[-1])

    def _index(self) -> dict:
        """The indexes as they are on disk now; not to be changed."""
        try:
            # The file that was read stays open, so that its inode number cannot become that of a newer one.
            now = os.stat(self.directory / "index.json")
            if self._file is not None and os.path.samestat(now, os.fstat(self._file.fileno())):
                return self._known
        except OSError:
            pass
        index = self._read()
        if index is None and self.read_only:
            index = self._known = self._known or self._rebuilt()
        elif index is None:
            with self._change() as (index, _):
                pass
        return index

    def _read(self) -> dict | None:
        """None: there is no index, or not one that can be used."""
        path = self.directory / "index.json"
        if not os.path.lexists(path):
            return None
        file = None
        try:
            file = open_regular(path)
            index = parse_json(file.read(JSON_BYTES + 1), path)
            index = {key: index[key] for key in ("active", "all", "in_use")}
            active, everyone = index["active"], index["all"]
            names = [*everyone, *itertools.chain.from_iterable(index["in_use"].values())]
            sound = all(map(_POOL_ID.fullmatch, names)) and set(active) <= set(everyone)
            sound = sound and active == self.by_age(set(active)) and all(
                left is None or type(left) is int for left in everyone.values())
        except (ValueError, TypeError, KeyError, AttributeError, OSError):
            sound = False
        if not sound:
            if file:
                file.close()
            return None
        if self._file is not None:
            self._file.close()
        if self.read_only:
            for name in self._files() - set(everyone):
                self._join(index, name, None)
        self._file, self._known = file, index
        return index

    @contextlib.contextmanager
    def _change(self):
        """-> the indexes, to be changed, and an empty list for ids whose files shall go. Nobody else changes them
        meanwhile. At the end the indexes are written, and only then files deleted: no index ever names as active what
        is gone."""
        try:
            held = filelock.FileLock(self.directory / ".lock").acquire()
        except OSError as error:
            raise UserError(f"{self.directory}: cannot be used as a pool (.lock: {error.strerror}); choose another "
                            "folder") from None
        with held:
            index = self._read() or self._rebuilt()
            before = json.dumps(index)
            index = json.loads(before)                                      # a change that fails changes nothing
            deleted: list[str] = []
            yield index, deleted
            if json.dumps(index) != before or self._file is None:
                atomic_write(self.directory / "index.json", json.dumps(index, indent=1).encode())
                self._read()
            for name in deleted:
                try:
                    self.path(name).unlink(missing_ok=True)
                except OSError as error:                                    # a folder of that name
                    warn(f"pool: {self.path(name)} stays ({error.strerror})")

    def _rebuilt(self) -> dict:
        """Indexes out of the files: of every agent the newest are active."""
        names = self.by_age(self._files())
        if names:
            warn(f"pool: {self.directory}/index.json is lost or damaged; rebuilt from {len(names)} files")
        if self._file is not None:
            self._file.close()
        self._file = None
        index = {"active": names, "all": dict.fromkeys(names), "in_use": {}}
        for agent in {self.agent(name) for name in names}:
            self._retire(index, agent, None)
        return index


class Rotation:
    """At most `most` different frozen policies play against a learner at a time, since each costs a forward. When there
    are so many, the half that plays longest gets no new games, and others are drawn as they leave: otherwise the same
    few would play for ever."""

    def __init__(self, most: int):
        self.most = most
        self.recent: list[str] = []                                  # who may begin games, in the order they were drawn
        self.playing: set[str] = set()

    def refresh(self, playing: set[str], active: set[str]) -> None:
        """playing: who plays now; active: the ids that the pool has."""
        still = [name for name in self.recent if name in playing and name in active]
        self.recent = still if len(playing) < self.most or active <= playing else still[-(self.most // 2):]

    def begin(self, playing: set[str]) -> None:
        """Some games begin now, beside those in which `playing` go on."""
        self.playing = playing.union(self.recent)

    def pick(self, drawn: str, rng: np.random.Generator) -> str:
        """Who plays: the one that was drawn while there is room, else one of those that were drawn a short while
        ago."""
        if drawn in self.recent:
            return drawn
        if len(self.playing) >= self.most:
            recent = self.recent or Pool.by_age(self.playing)[-1:]        # all retired: an old one rather than a mirror
            return recent[rng.integers(len(recent))]
        self.playing.add(drawn)
        self.recent.append(drawn)
        return drawn


class Ratings:
    """Elo (K 32, start 1500, a draw is half a win) with wins, losses and draws, by policy id, and who did how against
    whom.

    table[id]     [elo, wins, losses, draws]
    payoff[a][b]  [wins, draws, losses] of a against b, every game counted; payoff[b][a] says the same from the other
    side recent[a][b]  [score, games] of a against b, in which every further game between them weighs the older ones
    down by DECAY,
                  and every game of a against anybody by FADE: who was beaten long ago counts as unknown and is met
                  again

    All of it is plain lists and dicts. Ids that a pool has pruned stay in it."""

    K, START = 32., 1500.
    DECAY, FADE = .98, .999                                                 # 34, or 693 games on, one counts half

    def __init__(self, table: dict[str, list[float]] | None = None, payoff: dict | None = None,
                 recent: dict | None = None):
        self.table = {name: list(row) for name, row in (table or {}).items()}
        self.payoff, self.recent = ({a: {b: list(cell) for b, cell in row.items()} for a, row in (nested or {}).items()}
                                    for nested in (payoff, recent))

    def state_dict(self) -> dict:
        """Plain values for a checkpoint; `Ratings(**state)` goes on from there."""
        return {"table": self.table, "payoff": self.payoff, "recent": self.recent}

    def load_state_dict(self, state: dict) -> None:
        check_state(state, {"table": {str: [0., 0, 0, 0]}, "payoff": {str: {str: [0, 0, 0]}},
                            "recent": {str: {str: [0., 0.]}}}, "ratings")
        self.__init__(**state)

    def row(self, name: str) -> list[float]:
        return self.table.setdefault(name, [self.START, 0, 0, 0])

    def elo(self, name: str) -> float:
        return self.table[name][0] if name in self.table else self.START

    def record(self, a: str, b: str, score: float) -> None:
        """score 1 if a won, .5 for a draw, 0 if b won. Credit goes to the ids that started the game."""
        row_a, row_b = self.row(a), self.row(b)
        expected = 1 / (1 + 10 ** ((row_b[0] - row_a[0]) / 400))
        row_a[0] += self.K * (score - expected)
        row_b[0] -= self.K * (score - expected)
        column = {1.: 1, 0.: 2, .5: 3}[score]
        row_a[column] += 1
        row_b[{1: 2, 2: 1, 3: 3}[column]] += 1
        for x, y, s in ((a, b, score), (b, a, 1 - score)):
            self.payoff.setdefault(x, {}).setdefault(y, [0, 0, 0])[{1.: 0, .5: 1, 0.: 2}[s]] += 1
            recent = self.recent.setdefault(x, {})
            for cell in recent.values():
                cell[:] = cell[0] * self.FADE, cell[1] * self.FADE
            cell = recent.setdefault(y, [0., 0.])
            cell[:] = cell[0] * self.DECAY + s, cell[1] * self.DECAY + 1

    def forget(self, name: str) -> None:
        """Who goes by this name is somebody else from now on: Elo and recent results begin anew, what was counted
        stays."""
        self.row(name)[0] = self.START
        for row in (self.recent.pop(name, {}), *self.recent.values()):
            row.pop(name, None)

    def games(self, a: str, b: str) -> float:
        """How many games `winrate` rests on."""
        return self.recent.get(a, {}).get(b, (0., 0.))[1]

    def winrate(self, a: str, b: str) -> float:
        """Of late, a's score against b in [0, 1]: recent games and one imagined draw, so .5 if they never met."""
        score, games = self.recent.get(a, {}).get(b, (0., 0.))
        return (score + .5) / (games + 1)

    def ranking(self, names: list[str] | None = None) -> list[tuple[str, float, int, int, int]]:
        """(id, elo, wins, losses, draws), strongest first; of `names` (default: of all ids ever rated)."""
        rows = [(name, *row) for name, row in self.table.items() if names is None or name in names]
        return [(name, elo, int(w), int(l), int(d)) for name, elo, w, l, d in sorted(rows, key=lambda row: -row[1])]


def print_elo(ratings: Ratings, learners: list[str], others: list[str]) -> None:
    """The running Elo of those that have played, strongest first; beside it the payoff matrix: every game has a
    learner, so it has their columns alone, with the learner's wins-draws-losses against the row."""
    table = rich.table.Table("Rank", "Policy", "Elo", "W", "L", "D", *(f"{name} W-D-L" for name in learners),
                             title="Elo (start 1500)")
    for rank, (name, elo, *counts) in enumerate(ratings.ranking([*learners, *others]), 1):
        cells = ("-".join(map(str, ratings.payoff.get(learner, {}).get(name, ()))) for learner in learners)
        table.add_row(str(rank), name, f"{elo:.0f}", *map(str, counts), *cells)
    print_wide(table)


def fit_elo(payoff: dict[str, dict[str, list]], prior: float = 1000.) -> dict[str, tuple[float, float, float]]:
    """Bradley-Terry strengths of everyone in payoff[a][b] = [wins, draws, losses] -> {id: (elo, low, high)}, 95 %
    intervals.

    Unlike a running Elo it does not depend on the order of the games. Maximum a posteriori under independent normal
    priors with a standard deviation of `prior` Elo, weak enough to matter only where games decide nothing (nobody lost,
    nobody met); the intervals come from the Hessian and are those of the distance to the field's mean, which is set to
    1500. A draw is half a win for either, which makes the intervals of those who draw often a little too wide."""
    names = sorted({*payoff, *(b for row in payoff.values() for b in row)})
    if not names:
        return {}
    index = {name: k for k, name in enumerate(names)}
    wins = np.zeros((len(names), len(names)))                               # [a, b]: a's points against b
    for a, row in payoff.items():
        for b, (won, drawn, lost) in row.items():
            wins[index[a], index[b]] = won + drawn / 2
            wins[index[b], index[a]] = lost + drawn / 2
    unit = 400 / math.log(10)                                               # Elo in one unit of log-odds
    games, strength, precision = wins + wins.T, np.zeros(len(names)), (unit / prior) ** 2
    for _ in range(100):                                                    # Newton's method on a concave function
        expected = 1 / (1 + np.exp(strength[None] - strength[:, None]))
        gradient = (wins - games * expected).sum(1) - precision * strength
        information = games * expected * (1 - expected)
        hessian = np.diag(information.sum(1) + precision) - information
        step = np.linalg.solve(hessian, gradient)
        strength += step / max(1., np.abs(step).max())                      # never more than one unit at once
        if np.abs(step).max() < 1e-9:
            break
    centre = np.eye(len(names)) - 1 / len(names)
    deviation = 1.96 * unit * np.sqrt(np.diag(centre @ np.linalg.inv(hessian) @ centre))
    elo = Ratings.START + unit * (strength - strength.mean())
    return {name: (float(e), float(e - d), float(e + d)) for name, e, d in zip(names, elo, deviation, strict=True)}

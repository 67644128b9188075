"""Replays as training data: what a player saw, and what it did next.

    open_games(folder, ..)      Games, Games       to learn from and held out: an index, the frames stay on disk
    Games.read(sides, begins)   Rows [T, B]        any windows of them, observed as they are read
    Windows[epoch, k]           Rows [T, B]        batch k of an epoch, a function of the seed and these two numbers
    Streams[epoch, k]           Rows [T, B]        the same over whole games, each going on where batch k - 1 ended
    prefetch(windows, keys)     Rows ..            batches in order, made ahead of the learner
    portions(games, seed)       sides, sides ..    some games at a time, for what needs each of them whole
    load_sides(games, sides)    Sequences          all their rows in memory

A policy that has seen frames[t] learns controllers[t + 1 + delay]; what it has chosen already and is not in effect yet,
controllers[t + 1] to controllers[t + delay], is part of what it sees."""

import json
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from cleanmelee import signals
from cleanmelee.cli import UserError, lookup
from cleanmelee.controller import encode_controllers, mirrored
from cleanmelee.distributed import rank, world_size
from cleanmelee.features import INT_NAMES, STRANGER
from cleanmelee.files import atomic_write, read_json
from cleanmelee.frame import CONTROLLER, FIGHTERS, FIRST_CONTROL_FRAME, FRAME, NUM_PLAYERS, same_fighter
from cleanmelee.names import called, choose_names, names_of
from cleanmelee.observation import Observation, observe
from cleanmelee.packed import BLOCK, RECORD, PackedGame, map_file, name_of
from cleanmelee.replays import scan_replays
from cleanmelee.rewards import RewardArgs, compute_rewards

RELEASE_BYTES = 512 << 20                               # of mapped files that were read, after which they are let go
NAME = INT_NAMES.index("player.name")
WINDOW_BYTES = 256 << 10                                # of them that the kernel maps for a short window


class Rows(NamedTuple):
    """Stretches of games from the side of the players to learn from, [T, B]: T frames of each of B."""
    obs: Observation            # [T, B, ..] what the player saw: frames[t], the controller that made it, and those on
    #                             their way, controllers[t + 1] .. [t + delay]
    actions: torch.Tensor       # [T, B, 13] int8, what the player did: controllers[t + 1 + delay]
    weights: torch.Tensor       # [T, B] 1 where the player had control then and nothing of it is missing from the file,
    #                             else 0: such rows, and those after a game's end, are seen but not learned
    changed: torch.Tensor       # [T, B] bool: the action is not the one held until then
    returns: torch.Tensor       # [T, B] discounted reward that followed frames[t]
    resets: torch.Tensor        # [T, B] bool: a policy sees this frame with an empty memory

    def map(self, change) -> "Rows":
        """Every tensor changed by change(tensor)."""
        return Rows(Observation(*map(change, self.obs)), *map(change, self[1:]))

    def to(self, device: torch.device) -> "Rows":
        return self.map(lambda x: x.to(device, non_blocking=True))

    def split(self, parts: int, memory: tuple) -> list[tuple["Rows", tuple]]:
        """Into so many parts of about as many windows each, at most as many as there are windows, each with its share
        of the memory [B, ..] before them."""
        cuts = np.linspace(0, self.weights.shape[1], min(parts, self.weights.shape[1]) + 1).astype(int)
        return [(self.map(lambda x: x[:, a:b]), tuple(x[a:b] for x in memory))
                for a, b in zip(cuts[:-1], cuts[1:], strict=True)]


# ---------------------------------------------------------------------------------------------------------------------
# Games on disk
# ---------------------------------------------------------------------------------------------------------------------

class Games:
    """G packed games and S sides of them to learn from: a side is a player of a game. Some hundred bytes a side are in
    memory, whatever the length of the games."""

    def __init__(self, *, gamma: float = .99, delay: int = 0):
        """gamma: discount a frame of `Rows.returns`, rewards as in self-play: a stock 1, a percent of damage .01.
        delay: frames between what a player sees and what it answers, beyond the first."""
        self.gamma, self.delay = gamma, delay
        self.paths: list[str] = []                                          # [G] the replay, for messages and manifests
        self.keys: list[str] = []                                           # [G] sha256 of the replay
        self.sources: list[str | bytes] = []
        self._source_ids: dict[str | bytes, int] = {}
        self._places: list[tuple] = []                                      # [G] source, at, size, frames
        self._sides: list[tuple] = []                                       # [S] game, player, character, opponent's
        self._labels: list[int] = []                                        # [S] of those whom `name` is told of
        self._maps: dict[int, memoryview] = {}
        self._touched = 0

    def add(self, path: str, key: str, source: str | bytes, at: int, size: int, frames: int, characters: tuple,
            players: Iterable[int], labels: Sequence[int] = (0, 0)) -> None:
        """A game, and those of its two players that are to be learned from. labels: for `name`, of both players."""
        if source not in self._source_ids:
            self._source_ids[source] = len(self.sources)
            self.sources.append(source)
        self._sides += [(len(self.paths), player, characters[player], characters[1 - player]) for player in players]
        self._labels += [labels[player] for player in players]
        self._places.append((self._source_ids[source], at, size, frames))
        self.paths.append(path)
        self.keys.append(key)

    def freeze(self) -> "Games":
        """After the last `add`."""
        self.places = np.array(self._places, np.int64).reshape(-1, 4)
        self.sides = np.array(self._sides, np.int32).reshape(-1, 4)
        self._labels = np.array(self._labels, np.int32)
        self._places, self._sides, self._source_ids = [], [], {}
        self.names = np.zeros(len(self.sides), np.int16)                    # [S] player.name of the observations
        frames = self.places[:, 3]
        self.rows = np.maximum(frames[self.sides[:, 0]] - 1 - self.delay, 0)                        # [S]
        self._blocks = np.cumsum([0, *-(-frames // BLOCK)])
        self._verified = np.zeros(self._blocks[-1], bool)
        return self

    def name(self, ids: np.ndarray) -> None:
        """ids [labels]: of who has this label."""
        self.names = ids[self._labels].astype(np.int16)

    def rows_by_label(self) -> Counter:
        return Counter(dict(enumerate(np.bincount(self._labels, self.rows).astype(int).tolist())))

    def __len__(self) -> int:
        """Games."""
        return len(self.places)

    def __getstate__(self):
        return self.__dict__ | {"_maps": {}}

    @property
    def frames(self) -> int:
        """Rows of all sides together."""
        return int(self.rows.sum())

    def open(self, game: int) -> PackedGame:
        source, at, size, _ = self.places[game].tolist()
        if source not in self._maps:
            self._maps[source] = map_file(self.sources[source])
        return PackedGame(self._maps[source][at:at + size], name_of(self.sources[source]))

    def _release(self, read: int) -> None:
        """Pages of a mapped file count as this process's memory until it lets go of them; the kernel keeps what it has
        room for."""
        self._touched += read
        if self._touched > RELEASE_BYTES:
            self._maps.clear()
            self._touched = 0

    def read(self, sides: np.ndarray, begins: np.ndarray, length: int) -> Rows:
        """Windows of `length` rows of the given sides [B], from the given rows [B] on. What lies beyond a game's end is
        its last frame again, with weight 0. Raises DamagedCache."""
        B, span = len(sides), length + 1 + self.delay
        games, players = self.sides[sides, 0], self.sides[sides, 1]
        records = np.empty((span, B, RECORD.itemsize), np.uint8)
        learned = np.zeros((length, B), np.float32)
        rewards = np.zeros((length + 1, B), np.float32)
        for b, (game, player, begin) in enumerate(zip(games.tolist(), players.tolist(), begins.tolist(), strict=True)):
            packed = self.open(game)
            have = min(span, packed.frames - begin)
            packed.read(begin, begin + have, records[:have, b], self._verified[self._blocks[game]:])
            records[have:, b] = records[have - 1, b]
            learned[:max(have - 1 - self.delay, 0), b] = 1
            for t in (packed.incomplete.astype(np.int64) - begin).tolist():     # not what was seen then, nor was done
                learned[max(t - 1 - self.delay, 0):max(t + 1, 0), b] = 0
            _place_rewards(packed.scores, player, begin, self.gamma, rewards[:, b])
        self._release(B * (WINDOW_BYTES + length * RECORD.itemsize))

        # bytes, not records: numpy copies those field by field
        frames = np.ascontiguousarray(records[..., :FRAME.itemsize]).view(FRAME)[..., 0]
        controllers = np.ascontiguousarray(records[..., FRAME.itemsize:]).view(CONTROLLER)
        controllers = controllers[:, np.arange(B), players]
        learned *= frames["frame_id"][1 + self.delay:] >= FIRST_CONTROL_FRAME
        labelled = _label(frames, controllers, players, length, self.delay)
        labelled["obs"].ints[..., NAME] = torch.from_numpy(self.names[sides])
        return Rows(**labelled, weights=torch.from_numpy(learned),
                    returns=torch.from_numpy(discount(rewards, self.gamma)[:-1]),
                    resets=torch.from_numpy((np.arange(length)[:, None] == 0) & (begins == 0)))

    def in_order(self, lanes: int = 32, size: int = 256) -> Iterator[tuple[np.ndarray, Rows, bool]]:
        """Every row of every side once, in the order of play, for policies that remember: sides [B], their next Rows
        [T, B] (weight 0 after the end of a shorter game) and whether these games begin here. Of several ranks each goes
        through some of the sides."""
        by_length = np.argsort(self.rows, kind="stable")[rank()::world_size()]
        for group in np.array_split(by_length, -(-len(by_length) // lanes)) if len(by_length) else ():
            longest = int(self.rows[group].max())
            for t in range(0, longest, size):
                begins = np.minimum(t, self.places[self.sides[group, 0], 3] - 1)
                yield group, self.read(group, begins, min(size, longest - t)), t == 0


def _label(frames, controllers, players, length, delay):
    """FRAME [T + 1 + delay, B], CONTROLLER of the players [B] -> what `length` = T of them saw and did."""
    B = len(players)
    own = np.zeros((length, B, NUM_PLAYERS), CONTROLLER)
    queue = np.zeros((length, B, NUM_PLAYERS, delay), CONTROLLER)
    place = np.arange(length)[:, None], np.arange(B), players
    own[place] = controllers[:length]
    for late in range(delay):
        queue[(*place, late)] = controllers[1 + late:1 + late + length]
    seen = frames[:length].reshape(-1)
    obs = observe(seen, own.reshape(-1, NUM_PLAYERS), queue.reshape(length * B, NUM_PLAYERS, delay))
    who = np.arange(length * B), np.tile(players, length)                   # of obs [T * B, 2, ..]
    mirror = mirrored(seen)[who].reshape(length, B)                         # of what was seen, whenever the reply acts

    def encoded(late):                                                      # [T, B, 13]
        return encode_controllers(controllers[late:late + length], mirror)

    actions, held = encoded(1 + delay), encoded(delay)
    floats, ints = (torch.from_numpy(x[who].reshape(length, B, x.shape[-1])) for x in obs)      # B may be 0
    return {"obs": Observation(floats, ints), "actions": torch.from_numpy(actions),
            "changed": torch.from_numpy((actions != held).any(-1))}


SCORED = RewardArgs(reward_fall=0)                                          # SCORE does not say who was in hitstun


def _place_rewards(scores, player, begin, gamma, out):
    """SCORE [E] of a game -> into out [T + 1] what each step from frame `begin` on pays `player`, and in the last place
    what all later ones pay, discounted."""
    after = max(int(np.searchsorted(scores["frame"], begin, "right")), 1)   # the first change that is not seen yet
    paid = compute_rewards(scores[after - 1:-1], scores[after:], SCORED)[:, player]
    steps = scores["frame"][after:].astype(np.int64) - 1 - begin            # the step that led there
    inside = steps < len(out) - 1
    out[steps[inside]] = paid[inside]
    out[-1] = (paid[~inside] * gamma ** (steps[~inside] - (len(out) - 1.))).sum()


def discount(rewards: np.ndarray, gamma: float) -> np.ndarray:
    """rewards [T, ..] -> sum over k of gamma^k rewards[t + k], in log2(T) steps: each doubles the horizon."""
    returns = rewards.copy()
    shift = 1
    while shift < len(returns):
        returns[:-shift] += gamma ** shift * returns[shift:].copy()
        shift *= 2
    return returns


# ---------------------------------------------------------------------------------------------------------------------
# Which games, and whose inputs
# ---------------------------------------------------------------------------------------------------------------------

def is_held_out(games: list[str], fraction: float = 0.1) -> np.ndarray:
    """Keys of games -> [G] bool. By the key alone, so a game never changes sides when files are added.

    With two games or more there is one on either side, unless the fraction is 1; that game, chosen for want of another,
    may change sides later."""
    draw = np.array([int(game[:8], 16) / 2**32 for game in games])
    held_out = draw < fraction
    if fraction == 1:
        return held_out
    if len(set(draw)) >= 2 and not held_out.any():
        held_out = draw == draw.min()
    if len(set(draw)) >= 2 and held_out.all():
        held_out = draw != draw.max()
    return held_out


def open_games(folder: str | list[str], *, character: str = "", player_port: int = 0, tag: str = "",
               cpu_players: bool = False, min_active: float = 0., held_out: float = .1, max_files: int = 0,
               num_workers: int = -1, min_frames: int = 60, manifest: str = "", gamma: float = .99, delay: int = 0,
               player: str = "", players: Sequence[str] = ()) -> tuple[Games, Games, dict]:
    """A folder of replays, or a list of files -> games to learn from, held-out games, and what was read, skipped and
    left out.

    character, player_port (1 to 4), tag (a name, a connect code or an in-game tag) choose players; min_active leaves
    out those whose input changes on fewer than that share of frames. held_out: share of the games, or, with `manifest`,
    what that file says; it names the files, too. An online game that both players recorded is read once.

    players: of whom player.name tells; none, but a `player`: of the commonest ones and of who is called so. The last
    value has them as "players"."""
    if not folder:
        raise UserError("--replays is empty: give a folder of .slp files")
    number = lookup(FIGHTERS, character, "character") if character else None
    split = read_manifest(manifest, folder) if manifest else None
    train, test = (Games(gamma=gamma, delay=delay) for _ in range(2))
    about, found, chosen = {}, [], []
    left_out = {"idle_players": 0, "cpu_players": 0}
    labels: dict[str, int] = {"": 0}                                        # by the name that somebody goes by
    wanted = set()                                                          # those of who is called `player`
    scan = scan_replays(list(split) if split else folder, num_workers=None if num_workers < 0 else num_workers,
                        max_files=max_files or None, character=number, min_frames=min_frames + delay,
                        one_file_a_game=True, summary=about)
    for path, entry in scan:
        meta, sides, own = entry.meta, [], (0, 0)                           # whose, and what they are called
        if split and split[str(path)][1] != meta["hash"]:
            raise UserError(f"{manifest}: {path} is not the replay that it names; restore that file, or make the "
                            "manifest anew")
        for port in range(NUM_PLAYERS):
            if (number is not None and not same_fighter(meta["characters"][port], number)
                    or player_port and meta["ports"][port] != player_port - 1
                    or tag and not called(tag, names_of(meta, port))):
                continue
            if meta["types"][port] != "Human" and not cpu_players:
                left_out["cpu_players"] += 1
            elif entry.facts["active"][port] < min_active:
                left_out["idle_players"] += 1
            else:
                sides.append(port)
                if (player or players) and (names := names_of(meta, port)):
                    label = labels.setdefault(names[0], len(labels))
                    own = (own[0], label) if port else (label, own[1])
                    wanted |= {label} if called(player, names) else set()
        if sides:
            chosen.append(meta["game"][:8])                                 # as much as is_held_out looks at
            found.append((str(path), meta["hash"], entry.source, entry.at, entry.size, meta["frames"],
                          meta["characters"], sides, own))
    on_test = [split[game[0]][0] == "held_out" for game in found] if split else is_held_out(chosen, held_out)
    for game, held in zip(found, on_test, strict=True):
        (test if held else train).add(*game)
    del found
    about |= left_out
    for side, games in (("train", train.freeze()), ("held_out", test.freeze())):
        about |= {f"{side}_games": len(games), f"{side}_players": len(games.sides)}
    if player and not players:
        players = _choose(train, list(labels), wanted, player)
    if players:
        numbers = {name: k + 1 for k, name in enumerate(players)}
        ids = np.array([numbers.get(name, STRANGER) for name in labels])
        train.name(ids)
        test.name(ids)
    return train, test, about | {"players": list(players)}


def _choose(train: Games, labels: list[str], wanted: set[int], player: str) -> list[str]:
    """As `choose_names`, of who is learned from."""
    frames = train.rows_by_label()
    by_name, meant = (Counter({labels[k]: frames[k] for k in some if k and frames[k]}) for some in (frames, wanted))
    return choose_names(by_name, meant, player)


def check_both(train: Games, held_out: Games, about: dict, folder: str) -> None:
    """Raises UserError unless there is a game to learn from and one to judge by."""
    if not (len(train) and len(held_out)):
        raise UserError(f"{folder}: {len(train)} games to learn from and {len(held_out)} to judge by with such a "
                        f"player (--character, --player-port, --tag), {about['idle_players']} idle and "
                        f"{about['cpu_players']} CPU players left out; at least two games are needed, one of them "
                        "held out")


def write_manifest(path: Path, train: Games, held_out: Games) -> None:
    """Which replays, by sha256 and path, are on which side: `read_manifest` makes the same split of them."""
    split = {name: dict(zip(map(str, map(Path.absolute, map(Path, games.paths))), games.keys, strict=True))
             for name, games in (("train", train), ("held_out", held_out))}
    atomic_write(path, (json.dumps(split, indent=0) + "\n").encode())


MANIFEST_BYTES = 2 ** 30


def read_manifest(manifest: str, folder: str) -> dict[str, tuple[str, str]]:
    """-> by path, "train" or "held_out" and sha256. Paths that are not absolute lie in `folder`. Raises UserError for a
    file that is none, and for replays that are missing."""
    split = read_json(manifest, MANIFEST_BYTES)
    if not isinstance(split, dict) or split.keys() != {"train", "held_out"} or not all(
            isinstance(files, dict) and all(isinstance(key, str) for key in files.values())
            for files in split.values()):
        raise UserError(f"{manifest}: no manifest; give one that bc.py has written (manifest.json in a run folder)")
    sides = {str(Path(folder) / path): (side, key) for side, files in split.items() for path, key in files.items()}
    both = set.intersection(*(set(files) | set(files.values()) for files in split.values()))
    if both:
        raise UserError(f"{manifest}: {min(both)} is both in train and in held_out; take one of them out")
    missing = [path for path in sides if not Path(path).is_file()]
    if missing or not sides:
        raise UserError(f"{manifest}: {len(missing)} of its {len(sides)} replays are missing"
                        + (f", the first: {missing[0]}; put them back, or make a manifest of what is there"
                           if missing else "; it names none"))
    return sides


# ---------------------------------------------------------------------------------------------------------------------
# Batches
# ---------------------------------------------------------------------------------------------------------------------

class Windows:
    """Windows of `size` rows out of `games`, in an order that is drawn anew for every epoch. A side is cut into windows
    every `stride` rows from a random row on; which of them meet in a batch is random, so most are of distinct games.

    Batch [epoch, k] depends on these numbers and the seed alone, not on what was drawn before: any process may make any
    batch, and a run that goes on needs no state. The order is computed, not stored."""

    def __init__(self, games: Games, size: int, stride: int, batch_size: int, seed: int):
        self.games, self.size, self.stride, self.batch_size, self.seed = games, size, stride, batch_size, seed
        self._cuts: dict[int, tuple] = {}                                   # what _cut made for the last two epochs
        self._rank, self._ranks = rank(), world_size()

    def _cut(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """-> of each side [S] the first window's first row, and how many windows there are up to this side."""
        if (cut := self._cuts.get(epoch)) is not None:
            return cut
        spare = self.games.rows - self.size                                 # [S] below 0: too short for any
        offsets = np.random.default_rng((self.seed, epoch)).integers(np.clip(spare + 1, 1, self.stride + 1))
        ends = np.cumsum(np.where(spare < 0, 0, (spare - offsets) // self.stride + 1))
        self._cuts = {**dict(list(self._cuts.items())[-1:]), epoch: (offsets, ends)}    # whole: a thread may ask, too
        return offsets, ends

    def num_windows(self, epoch: int) -> int:
        return int(self._cut(epoch)[1][-1])

    def num_batches(self, epoch: int) -> int:
        return -(-self.num_windows(epoch) // self.batch_size)

    def most_batches(self) -> int:
        """In any epoch: most have one or two fewer."""
        windows = np.where(self.games.rows < self.size, 0, (self.games.rows - self.size) // self.stride + 1)
        return -(-int(windows.sum()) // self.batch_size)

    def schedule(self, epochs: int, done: int = 0) -> Iterator[tuple[int, int]]:
        """The keys of epochs 1 to `epochs`, in order, after the first `done` of them."""
        for epoch in range(1, epochs + 1):
            count = self.num_batches(epoch)
            yield from ((epoch, k) for k in range(min(done, count), count))
            done -= min(done, count)

    def choose(self, epoch: int, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Sides and first rows [B] of batch k, or of this rank's share of it."""
        offsets, ends = self._cut(epoch)
        places = self.share(np.arange(k * self.batch_size, min((k + 1) * self.batch_size, int(ends[-1]))))
        windows = permuted(places, int(ends[-1]), (self.seed, epoch, 1))
        sides = np.searchsorted(ends, windows, "right")
        before = np.where(sides > 0, ends[sides - 1], 0)
        return sides, offsets[sides] + self.stride * (windows - before)

    def share(self, whole: np.ndarray) -> np.ndarray:
        """This rank's of a batch's windows [B]."""
        return np.array_split(whole, self._ranks)[self._rank]

    def __getitem__(self, key: tuple[int, int]) -> Rows:
        rows = self.games.read(*self.choose(*key), self.size)
        rows.resets[0] = True
        return rows


class Streams(Windows):
    """Whole games in `batch_size` lanes side by side, `size` rows at a time, so that a memory is carried from batch to
    batch. A lane whose game is over takes the next of an endless list, in which all sides come in a random order, then
    in another. The first game of a lane is entered at a random place, lest all lanes be equally far in theirs. An epoch
    is as many batches as hold every row once.

    Batch [epoch, k] depends on these numbers and the seed alone, but batches are made cheaply in their order only."""

    def __init__(self, games: Games, size: int, batch_size: int, seed: int):
        super().__init__(games, size, size, batch_size, seed)
        self._playable = np.flatnonzero(games.rows)
        self._lengths = -(-games.rows // size)                              # [S] batches that a side lasts
        self._restart()

    def num_windows(self, epoch: int) -> int:
        return int(self._lengths.sum())

    def most_batches(self) -> int:
        return self.num_batches(1)

    def _restart(self) -> None:
        self._at, self._drawn = 0, 0                                        # batch, games that were taken until then
        self._sides, self._begun, self._over = (np.zeros(self.batch_size, np.int64) for _ in range(3))  # of each lane

    def _go_on(self, at: int) -> None:
        """Lanes as they are in the batch numbered `at`, counted over all epochs."""
        if at < self._at:
            self._restart()
        while (now := self._over.min()) <= at:
            lane, (turn, place) = self._over.argmin(), divmod(self._drawn, len(self._playable))
            side = self._playable[permuted([place], len(self._playable), (self.seed, turn, 2))[0]]
            missed = 0
            if self._drawn < self.batch_size:
                missed = np.random.default_rng((self.seed, self._drawn, 3)).integers(self._lengths[side])
            self._sides[lane], self._begun[lane] = side, now - missed
            self._over[lane] = self._begun[lane] + self._lengths[side]
            self._drawn += 1
        self._at = at

    def choose(self, epoch: int, k: int) -> tuple[np.ndarray, np.ndarray]:
        self._go_on((epoch - 1) * self.num_batches(epoch) + k)
        return self.share(self._sides).copy(), (self._at - self.share(self._begun)) * self.size

    def __getitem__(self, key: tuple[int, int]) -> Rows:
        rows = self.games.read(*self.choose(*key), self.size)
        rows.resets[0] |= self._at == 0
        return rows


def permuted(places: np.ndarray, count: int, seed: tuple[int, ...]) -> np.ndarray:
    """Where a random permutation of range(count) takes `places`. It is computed for these alone (a Feistel network over
    the next power of four, walked until it is back inside), so it costs no memory however large `count` is."""
    half = max(1, (max(count - 1, 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << half) - 1)
    keys = np.random.default_rng(seed).integers(2 ** 63, size=4, dtype=np.uint64)
    result = np.asarray(places, np.uint64)
    outside = np.ones(len(result), bool)
    while outside.any():
        left, right = result[outside] >> np.uint64(half), result[outside] & mask
        for key in keys:
            mixed = (right + key) * np.uint64(0x9E3779B97F4A7C15)           # Fibonacci hashing; the high bits are good
            mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
            left, right = right, left ^ (mixed >> np.uint64(64 - half))
        result[outside] = left << np.uint64(half) | right
        outside[outside] = result[outside] >= count
    return result.astype(np.int64)


def prefetch(windows: Windows, keys: Iterable[tuple[int, int]], workers: int = 0, ahead: int = 4) -> Iterator[Rows]:
    """The batches of these keys, in their order, `ahead` of them made while the learner is at work: in a thread, or in
    `workers` processes. It changes nothing in what they are."""
    if workers:
        loader = torch.utils.data.DataLoader(
            windows, batch_size=None, sampler=keys, num_workers=workers, worker_init_fn=_leave_signals_to_parent,
            prefetch_factor=max(2, ahead // workers), generator=torch.Generator())      # not the learner's own noise
        batches = iter(loader)
        try:
            yield from batches
        finally:                                                            # now: an error's traceback would keep them,
            batches._shutdown_workers()                                     # and they ignore what ends others at exit
        return
    with ThreadPoolExecutor(1) as thread:
        waiting = deque()
        try:
            for key in keys:
                waiting.append(thread.submit(windows.__getitem__, key))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for batch in waiting:                                           # the learner has had enough
                batch.cancel()


def _leave_signals_to_parent(worker: int) -> None:
    signals.leave_to_parent()


# ---------------------------------------------------------------------------------------------------------------------
# Everything in memory
# ---------------------------------------------------------------------------------------------------------------------

@dataclass
class Sequences:
    """Games from the side of the players to learn from, laid end to end. N rows, one for each frame that was seen."""
    obs: Observation        # [N, ..]; see Rows
    actions: torch.Tensor   # [N, 13]
    weights: torch.Tensor   # [N]
    changed: torch.Tensor   # [N]
    returns: torch.Tensor   # [N]
    starts: np.ndarray      # [S + 1] sequence s is rows starts[s] to starts[s + 1]

    def take(self, rows: torch.Tensor) -> tuple[Observation, torch.Tensor]:
        """rows [..] -> observations [.., F] and actions [.., 13]"""
        return Observation(self.obs.floats[rows], self.obs.ints[rows]), self.actions[rows]


PORTION_ROWS = 2 ** 18                                  # rows of whole games in memory at once, some 770 bytes each


def portions(games: Games, seed: tuple[int, ...] | None = None) -> list[np.ndarray]:
    """Every side once, in parts of about PORTION_ROWS rows: in random order, or (seed None) in the order of `games`."""
    sides = np.arange(len(games.sides))
    if seed is not None:
        sides = np.random.default_rng(seed).permutation(sides)
    return np.array_split(sides, max(1, round(games.frames / PORTION_ROWS))) if len(sides) else []


def load_sides(games: Games, sides: Iterable[int], stride: int = 1) -> Sequences:
    """All rows of these sides. stride 3: as who acts on every third frame sees a game, which makes three sequences of
    it, from each of its first three frames on."""
    parts, lengths = [], []
    for side in sides:
        count = int(games.rows[side])
        rows = games.read(np.array([side]), np.array([0]), count)
        order = torch.cat([torch.arange(phase, count, stride) for phase in range(stride)])
        parts.append(rows.map(lambda x: x[order, 0]) if stride > 1 else rows.map(lambda x: x[:, 0]))
        lengths += [len(range(phase, count, stride)) for phase in range(stride)]
    obs = Observation(*(torch.cat([part.obs[k] for part in parts]) for k in range(2)))
    names = "actions", "weights", "changed", "returns"
    return Sequences(obs, *(torch.cat([getattr(part, name) for part in parts]) for name in names),
                     np.cumsum([0, *lengths]))


def walk(starts: np.ndarray, lanes: int = 16, size: int = 64):
    """Every row of every sequence once, in the order of play, for policies that remember. Yields rows [T, B], real [T,
    B] (False: a stand-in after the end of a shorter game, or for one that is missing) and whether the games begin here.
    T and B are always the same: what a policy computes of a row then does not depend, to the last bit, on what else is
    walked through."""
    lengths = starts[1:] - starts[:-1]
    by_length = np.argsort(lengths, kind="stable")
    for low in range(0, len(by_length), lanes):
        group = np.resize(by_length[low:low + lanes], lanes)                # the first ones again, if there are fewer
        once = np.arange(lanes) < len(by_length) - low
        for t in range(0, int(lengths[group].max()), size):
            at = np.arange(t, t + size)[:, None]                                                    # [T, 1]
            rows = starts[group] + np.minimum(at, lengths[group] - 1)                               # [T, B]
            yield torch.from_numpy(rows), torch.from_numpy((at < lengths[group]) & once), t == 0

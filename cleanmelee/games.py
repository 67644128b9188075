"""Vectorised games: the embedded game, or Slippi Dolphin, many at a time, here or in workers. Numpy only."""

import hashlib
import mmap
import operator
import os
import select
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from cleanmelee import game
from cleanmelee.cli import UserError
from cleanmelee.dolphin import MAX_DEPARTURES, DolphinArgs, check_dolphin, dolphin_worker
from cleanmelee.frame import CHARACTERS, CONTROLLER, FRAME, SHEIK, STAGES
from cleanmelee.runs import check_state
from cleanmelee.workers import ForkServer, Worker, worker_loop

BOT_SLOT = -1                                                           # in `assignment`: the game's own bot plays here


def _mix(*numbers: int) -> int:
    """A 64-bit hash of whole numbers: seeds for (run, game slot, episode) that do not depend on what happened
    before."""
    numbers = tuple(map(operator.index, numbers))                           # np.int64(3) is written otherwise than 3
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=8).digest(), "little")


class Games:
    """All that is needed to step `n` embedded games: arrays only, so that they can lie in shared memory and in
    checkpoints.

    The same code runs in the main process (`num_workers=0`) and in a worker, which gets the slice [low:high)."""

    LAYOUT = {
        "frames": FRAME, "final_frames": FRAME, "controllers": (CONTROLLER, 2), "final_controllers": (CONTROLLER, 2),
        "hidden": game.HIDDEN, "bots": (game.BOT, 2), "bot_kinds": ("i4", 2), "characters": ("i4", 2),
        "stages": "i4", "seed": "u8", "episode": "i8", "episode_frames": "i8", "terminated": "?", "truncated": "?"}

    def __init__(self, n: int, memory: mmap.mmap | None = None, scattered: float = 0.):
        self.scattered = scattered                                          # see VecEnv
        offset = 0
        for name, layout in self.LAYOUT.items():
            kind, *width = layout if isinstance(layout, tuple) else (layout,)
            dtype, shape = np.dtype(kind), (n, *width)
            count = int(np.prod(shape))
            if memory is None:
                array = np.zeros(shape, dtype)
            else:
                array = np.frombuffer(memory, dtype, count, offset).reshape(shape)
            offset += -(-count * dtype.itemsize // 64) * 64                 # every array starts on a cache line
            setattr(self, name, array)
        self.num_bytes = offset

    def slice(self, low: int, high: int) -> "Games":
        part = object.__new__(Games)
        part.scattered = self.scattered
        for name in self.LAYOUT:
            setattr(part, name, getattr(self, name)[low:high])
        return part

    def reset(self, mask: np.ndarray) -> None:
        """Begins the next episode of every game in mask [N]. Its seed depends on slot and episode number alone."""
        seeds = np.zeros(len(mask), np.uint64)
        for g in np.flatnonzero(mask):
            seeds[g] = self.begin_episode(g)
        self.controllers[mask] = np.zeros((), CONTROLLER)
        game.reset_games(self.frames, self.hidden, mask, self.characters, self.stages, seeds)
        for g in np.flatnonzero(mask) if self.scattered else ():
            rng = np.random.default_rng(int(seeds[g]))
            if rng.random() < self.scattered:
                scatter(self.frames[g], self.hidden[g], rng)

    def begin_episode(self, g: int) -> int:
        """Counters and bots of game g's next episode -> its seed."""
        seed = _mix(int(self.seed[g]), int(self.episode[g]))
        self.bots[g] = np.zeros(2, game.BOT)
        self.bots[g]["kind"] = self.bot_kinds[g]
        self.bots[g]["seed"] = [_mix(seed, player) for player in (1, 2)]
        self.episode[g] += 1
        self.episode_frames[g] = 0
        return seed

    def step(self, action_repeat: int, max_episode_frames: int) -> None:
        """Applies self.controllers for `action_repeat` frames. A game that ends within them keeps its last frame in
        final_frames and begins anew; self.frames then hold the new game's first frame."""
        for repeat in range(action_repeat):
            if self.bot_kinds.any():
                game.bot_controllers(self.frames, self.bots, self.controllers)
            game.step_games(self.frames, self.hidden, self.controllers)
            self.episode_frames += 1
            over = game.game_over(self.frames)
            late = (self.episode_frames >= max_episode_frames) & ~over if max_episode_frames else np.zeros_like(over)
            if repeat == 0:
                self.terminated[:], self.truncated[:] = over, late
                done = over | late
                self.final_frames[done], self.final_controllers[done] = self.frames[done], self.controllers[done]
            elif over.any() or late.any():
                first = (over | late) & ~(self.terminated | self.truncated)  # the frame on which a game ended counts
                self.terminated |= over & first
                self.truncated |= late & first
                self.final_frames[first], self.final_controllers[first] = self.frames[first], self.controllers[first]
        done = self.terminated | self.truncated
        if done.any():
            self.reset(done)


def scatter(frame: np.ndarray, hidden: np.ndarray, rng: np.random.Generator) -> None:
    """Both players of a game that begins, FRAME [] and HIDDEN [], fall from anywhere over and beside the stage, as a
    blow may have left them: hurt, with or without their second jump, facing either way."""
    edge = game.TABLES.stages["floor_right"][frame["stage"], 0]
    for player, own in zip(frame["players"], hidden["players"], strict=True):
        x = rng.uniform(-1.6 * edge, 1.6 * edge)
        y = rng.uniform(10 if abs(x) < edge else -50, 80)                   # from below, nobody returns
        player["x"], player["y"] = own["old_x"], own["old_y"] = x, y
        player["percent"], player["jumps"] = rng.uniform(0, 120), rng.integers(0, 2)
        player["facing"] = rng.choice((-1, 1))
        player["action"], player["airborne"], own["air_frames"] = game.FALL, 1, 1
        player["state_age"] = game.TABLES.characters["age_first"][player["character"], game.FALL]


class VecEnv:
    """`num_games` games stepped together, in this process or in worker processes over shared memory.

        envs.frames [N] FRAME             the current frames; after `step` of finished games the next one's first
        envs.controllers [N, 2]           the input that made them (neutral at a game's start)
        envs.step(controllers [N, 2])     -> terminated [N], truncated [N], broken [N]
        envs.final_frames, envs.final_controllers       of the games that ended in this step, at their last frame

    A worker that dies, raises or hangs is replaced; its games come back truncated and marked broken, the others never
    notice, and the traceback goes to `log`. More than `max_restarts` failures within an hour end the run: UserError.
    The hand-off is one byte through a pipe: unlike a semaphore, a pipe says at once when the other side is gone, and
    needs no clean-up. With `use_threads` the workers are threads of this process instead: the games release Python's
    lock, nothing is copied, but what fails or hangs there cannot be replaced.

    scattered: the share of games that begin with both players in the air, anywhere over and beside the stage
    (`scatter`; on the embedded game).

    With dolphin=DolphinArgs(dolphin=PATH, iso=PATH) the same games run on Slippi Dolphin, one for each, each in a
    worker of its own (num_workers does not count):

        with VecEnv(4, FOX, FD, dolphin=args, cpu_levels=[[0, CPU_LEVELS["cpu9"]]] * 4) as envs: ...

    cpu_levels [N, 2]: 1 to 9 for Melee's computer player, HUMAN for a person at that port, 0 for `controllers` or a
    bot. A Dolphin takes seconds to start, so after a fault, and sometimes between two games, its game reports a few
    steps that are truncated and broken, the one with its new first frame last, while the others play on.
    `max_episode_frames` truncates, but the game on Dolphin goes on. `envs.controllers` are the inputs that Melee says
    it saw."""

    def __init__(self, num_games: int, characters, stages, *, seed: int = 0, num_workers: int = 0, bot_kinds=0,
                 max_episode_frames: int = 3600, action_repeat: int = 1, timeout: float = 1., max_restarts: int = 100,
                 cpu_levels=0, dolphin: "DolphinArgs | None" = None, use_threads: bool = False, scattered: float = 0.,
                 log=lambda line: print(line, file=sys.stderr)):
        if num_games < 1:
            raise UserError(f"--num-games {num_games}: at least one game is needed")
        if not 0 <= num_workers <= num_games:
            raise UserError(f"--num-workers {num_workers}: must lie between 0 and --num-games ({num_games})")
        cpu_levels = np.broadcast_to(np.asarray(cpu_levels, int), (num_games, 2))
        if dolphin:
            check_dolphin(dolphin)
            # the worker itself notices first
            num_workers, timeout = num_games, dolphin.step_timeout * action_repeat + 5
        elif cpu_levels.any():
            raise UserError("Melee's own computer players need a live game (--game-type dolphin)")
        if num_workers and not hasattr(os, "fork"):
            raise UserError("--num-workers: this system cannot fork; use --num-workers 0")
        game.warm_up()                                                # compile once, before workers start
        self.num_games, self.num_workers, self.seed, self.dolphin = num_games, num_workers, seed, dolphin
        self.max_episode_frames, self.action_repeat = max_episode_frames, action_repeat
        self.timeout, self.max_restarts, self.restarts, self.log = timeout, max_restarts, 0, log
        self._failed_at, self._departures = [], np.zeros(num_games, int)    # in the last hour; of each game, in a row
        size = Games(num_games).num_bytes if num_workers else 0
        games = self.games = Games(num_games, mmap.mmap(-1, size) if num_workers else None, scattered)
        games.characters[:], games.stages[:], games.bot_kinds[:] = characters, stages, bot_kinds
        if dolphin and (games.characters[cpu_levels > 0] == SHEIK).any():
            raise UserError("a computer player cannot be made to choose sheik; take zelda, or another character")
        games.seed[:] = [_mix(seed, g) for g in range(num_games)]
        self.frames, self.controllers = games.frames, games.controllers
        self.final_frames, self.final_controllers = games.final_frames, games.final_controllers
        self.broken = np.zeros(num_games, bool)
        self._before = b""
        if not dolphin:
            games.reset(np.ones(num_games, bool))
        bounds = np.linspace(0, num_games, num_workers + 1).astype(int) if num_workers else []
        self._slices = list(zip(bounds[:-1], bounds[1:], strict=True))
        self._workers: list[Worker] = []
        self._boot_failures = np.zeros(num_workers, int)                    # of each worker, in a row
        self._resumed = False
        self._forks = None
        self._threads = ThreadPoolExecutor(num_workers) if num_workers and use_threads and not dolphin else None
        if not num_workers or self._threads:
            return

        def work(low: int, high: int, *pipes: int) -> None:
            part = games.slice(low, high)
            if not dolphin:
                worker_loop(part, lambda part: part.step(action_repeat, max_episode_frames), *pipes)
            else:
                port = dolphin.spectator_port and dolphin.spectator_port + low
                dolphin_worker(part, dolphin, cpu_levels[low], port, action_repeat, max_episode_frames, *pipes)

        self._forks = ForkServer(work)
        try:
            for low, high in self._slices:
                self._workers.append(self._forks.start(low, high, ready=not dolphin, boot_timeout=self._boot_timeout))
            while not all(worker.ready for worker in self._workers):
                self._await_boots(.1)
        except BaseException:
            self.close()
            raise

    @property
    def _boot_timeout(self) -> float:
        return self.dolphin.boot_timeout + 30 if self.dolphin else 0.       # the worker itself notices first

    def step(self, controllers: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Applies controllers CONTROLLER [N, 2] (slots of bots are ignored) for `action_repeat` frames."""
        self.controllers[:] = controllers
        self.broken[:] = False
        if not self.num_workers:
            self.games.step(self.action_repeat, self.max_episode_frames)
            return self.games.terminated, self.games.truncated, self.broken
        if self._threads:
            parts = [self.games.slice(low, high) for low, high in self._slices]
            list(self._threads.map(lambda part: part.step(self.action_repeat, self.max_episode_frames), parts))
            return self.games.terminated, self.games.truncated, self.broken
        self._before = self.frames.tobytes()
        playing = [k for k, worker in enumerate(self._workers) if worker.ready]
        for k in range(self.num_workers):
            if k in playing:
                self._workers[k].send()
            else:
                self._mark_broken(k)
        deadline = time.monotonic() + self.timeout
        for k in playing:
            trouble = self._workers[k].wait(max(0., deadline - time.monotonic()))
            if trouble is not None:
                self._replace(k, trouble)
            elif self._workers[k].left:
                self._mark_broken(k)
                self._count_departure(k)
            elif self.games.terminated[k] or self.games.truncated[k]:
                self._departures[k] = 0
        if self.dolphin:
            # Between two games there are only menus and a countdown: worth a moment's wait, unlike the start of a
            # Dolphin.
            moment = time.monotonic() + 1
            while any(not self._workers[k].ready for k in playing) and time.monotonic() < moment:
                self._await_boots(.01)
            self._await_boots(0)
            while not any(worker.ready for worker in self._workers):
                self._await_boots(.1)
        if self._resumed:                                               # no Dolphin can go on where another one stopped
            for k in range(self.num_workers):
                self._mark_broken(k)
            self._resumed = False
        return self.games.terminated, self.games.truncated, self.broken

    def set_bot(self, game: int, player: int, kind: int) -> None:
        """Seats a scripted bot (of BOTS; 0: none) from now on. For a game that has just begun."""
        for bots in (self.games.bot_kinds, self.games.bots["kind"]):
            bots[game] = 0
            bots[game, player] = kind

    def stagger(self) -> None:
        """Spreads the ends of games evenly: of the first ones each is cut short by another part of a game. Games that
        end by time would for ever end together, and a rollout would show all of them at the same age."""
        self.games.episode_frames[:] = np.arange(self.num_games) * self.max_episode_frames // self.num_games

    def set_matchup(self, games: np.ndarray, characters: np.ndarray, stages: np.ndarray) -> None:
        """Characters [n, 2] and stages [n] of these slots from their next games on; the games that run are not
        touched."""
        self.games.characters[games], self.games.stages[games] = characters, stages

    def _mark_broken(self, k: int) -> None:
        low, high = self._slices[k]
        part = self.games.slice(low, high)
        part.terminated[:], part.truncated[:] = False, True
        self.broken[low:high] = True
        part.final_frames[:] = np.frombuffer(self._before, FRAME)[low:high]  # what the worker left may be half written

    def _count_departure(self, k: int) -> None:
        """A game on Dolphin ended without a winner. Somebody who leaves them all would keep us waiting for ever."""
        self._departures[k] += 1
        if self._departures[k] == MAX_DEPARTURES:
            raise UserError(f"game {k} was left before its end {MAX_DEPARTURES} times in a row; nobody wants to play")
        self.log(f"game {k} was left before its end: no contest, the next one begins")

    def _await_boots(self, timeout: float) -> None:
        """Waits up to `timeout` seconds for games that are on their way; those that are there show their first
        frame."""
        waiting = {worker.reply: k for k, worker in enumerate(self._workers) if not worker.ready}
        poll = select.poll()
        for reply in waiting:
            poll.register(reply, select.POLLIN)
        arrived = {waiting[reply] for reply, _ in poll.poll(timeout * 1000)} if waiting else set()
        for k in waiting.values():
            worker = self._workers[k]
            trouble = None
            if k in arrived:
                trouble = worker.wait(0) or worker.publish(self.timeout)
            elif time.monotonic() > worker.boot_deadline:
                trouble = f"did not start within {self._boot_timeout:.0f} s"
            else:
                continue
            if trouble is None:
                self._boot_failures[k] = 0
                continue
            self._boot_failures[k] += 1
            if self._boot_failures[k] >= 3:
                raise UserError(f"worker {k} failed to start three times in a row; the last time it {trouble.strip()}")
            self._replace(k, trouble)

    def _replace(self, k: int, trouble: str) -> None:
        low, high = self._slices[k]
        self.restarts += 1
        self._workers[k].kill()
        self._failed_at = [at for at in self._failed_at if at > time.monotonic() - 3600] + [time.monotonic()]
        if len(self._failed_at) > self.max_restarts:
            raise UserError(f"workers failed more than {self.max_restarts} times within an hour (--max-restarts); the "
                            f"last one, worker {k}, {trouble.strip().splitlines()[-1]}")
        self.log(f"worker {k} (games {low} to {high - 1}) {trouble.strip()}; replaced, its games are truncated")
        if self._before:
            self._mark_broken(k)
        if not self.dolphin:
            self.games.slice(low, high).reset(np.ones(high - low, bool))
        self._workers[k] = self._forks.start(low, high, ready=not self.dolphin, boot_timeout=self._boot_timeout)

    def state_dict(self) -> dict:
        """Everything that decides how the games go on, as bytes; with a digest, since the compiled rules believe every
        byte. A game on Dolphin cannot be saved: its next one takes its place."""
        state = {name: np.frombuffer(getattr(self.games, name).tobytes(), np.uint8) for name in Games.LAYOUT}
        return state | {"digest": self._digest(state)}

    @staticmethod
    def _digest(state: dict) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for name in Games.LAYOUT:
            digest.update(state[name])
        return digest.hexdigest()

    def load_state_dict(self, state: dict) -> None:
        """state: of `state_dict`, as arrays or tensors."""
        state = {name: x if isinstance(x, str) else np.asarray(x) for name, x in state.items()}
        check_state({"digest": "", **state}, self.state_dict(), "envs")     # an older one has none
        if state.get("digest", self._digest(state)) != self._digest(state):
            raise ValueError("envs are not what was saved")
        self._resumed = bool(self.dolphin)
        for name in ("seed", "episode") if self.dolphin else Games.LAYOUT:
            array = getattr(self.games, name)
            array[:] = np.frombuffer(state[name].tobytes(), array.dtype).reshape(array.shape)

    def close(self) -> None:
        if self._threads is not None:
            self._threads.shutdown()
        for worker in self._workers:
            worker.kill()
        self._workers = []
        if self._forks is not None:
            self._forks.close()
            self._forks = None

    def __enter__(self) -> "VecEnv":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def matchups(combinations: list[tuple[str, str, str]], games: np.ndarray,
             port: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(own character, opponent's, stage) by name, e.g. of `parse_matchups` -> characters [N, 2] and stages [N] of the
    games numbered games [N], in which one's own port is port [N] (0 or 1). They take turns, each from either port."""
    chosen = [combinations[g // 2 % len(combinations)] for g in games]
    characters = np.array([(CHARACTERS[own], CHARACTERS[opponent]) for own, opponent, _ in chosen])
    stages = np.array([STAGES[stage] for _, _, stage in chosen])
    return np.where(port[:, None] == 0, characters, characters[:, ::-1]), stages

"""Games that pages play: a person, policies and bots in the embedded game, sixty frames a second.

A page sends what is pressed whenever that changes, and gets every frame as it comes; an input that is late acts when it
is there, and until then the last one holds. A page that cannot keep up slows its own game. Policies decide through the
same `Hands` as in every other match."""

import asyncio
import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from cleanmelee.cli import UserError, lookup
from cleanmelee.controller import mirrored
from cleanmelee.frame import BUTTONS, CHARACTERS, CONTROLLER, NUM_PLAYERS, SHEIK, STAGES, ZELDA, outcomes
from cleanmelee.game import BOTS
from cleanmelee.games import BOT_SLOT, VecEnv
from cleanmelee.inference import Hands, Pace, warm_up
from cleanmelee.observation import observe
from cleanmelee.onnx import OnnxPolicy, load_player
from cleanmelee.player import TorchPolicy
from cleanmelee.recording import Recorder
from cleanmelee.terminal import printable
from cleanmelee.web.picture import pictures, scene
from cleanmelee.web.thoughts import FACTS, THOUGHT, Thinker

FRAME_TIME = 1 / 60                                                         # seconds
READY = 1.                                                                  # seconds before a game's first frame
LATEST = .25                                                                # a game that is later than this goes on now
MOST_AHEAD = 30                                                             # pictures that a page has not seen yet
MOST_GAMES = 16                                                             # at a time
MOST_MESSAGES = 500                                                         # a second from one page; it needs 120
MOST_MISTAKES = 20                                                          # of one page, before it is shut out
MOST_OPPONENTS = 200                                                        # files offered of a run, the newest
STEPS = 80                                                                  # of a stick from its middle to its rim
STICK_REST, TRIGGER_REST = 23, .3                                           # steps, and a share: less is nothing
ME = "me"
# What a page sends when something changes, and now and then: numbers count inputs, seen the pictures of this game.
INPUT = np.dtype([("number", "<u4"), ("seen", "<u4"), ("controller", CONTROLLER)])
HEAD = np.dtype([("applied", "<u4"), ("reserved", "<u4")])                  # before a picture: the last input in it
POLICY_CLOSED = 1008                                                        # RFC 6455: the message breaks the rules
ALL_BUTTONS = functools.reduce(int.__or__, BUTTONS.values())


class Opponents:
    """Who may play: the bots, and the policies of one file, or of one run's folder."""

    def __init__(self, served: str | Path):
        """served: a bot, a policy's file, or a run's folder. UserError: it is none of these."""
        self.first = str(served)
        self.place = None
        if served in BOTS:
            return
        self.place = Path(served)
        files = self.files()
        if not files:
            raise UserError(f"--serve {served}: name a policy's file (.pt, .onnx), the folder of a run that has "
                            f"checkpoints, latest, or one of {', '.join(BOTS)}")
        self.first = next(iter(files))

    def files(self) -> dict[str, Path]:
        """Name -> path: the run's last policy, then the others, the newest first."""
        if self.place is None:
            return {}
        if self.place.is_file():
            return {self.place.name: self.place}
        found = [*self.place.glob("checkpoints/*.pt"), *self.place.glob("pool/*.pt")]
        ages = {}
        for path in found:
            with contextlib.suppress(OSError):                              # pruned meanwhile
                ages[path] = path.stem != "latest", -path.stat().st_mtime_ns
        return {path.relative_to(self.place).as_posix(): path for path in sorted(ages, key=ages.get)[:MOST_OPPONENTS]}

    def names(self) -> list[str]:
        return [*self.files(), *BOTS]

    def load(self, name: str) -> TorchPolicy | OnnxPolicy | None:
        """The policy of that name, None for a bot. UserError: there is none, or it cannot be read."""
        if name in BOTS:
            return None
        path = self.files().get(name)
        if path is None:
            raise UserError(f"unknown opponent {printable(name, 100)}: choose one of those on offer")
        try:
            return load_warm(path, path.stat().st_mtime_ns)
        except OSError as error:                                            # pruned meanwhile
            raise UserError(f"{name}: {error.strerror}; choose another opponent") from None


@functools.lru_cache(maxsize=8)
def load_warm(path: Path, time: int) -> TorchPolicy | OnnxPolicy:
    policy = load_player(path)
    warm_up([policy], 1)
    return policy


@dataclasses.dataclass(frozen=True)
class Order:
    """What a page asks for."""
    character: str
    opponent_character: str
    stage: str
    opponent: str
    player: str = ME                                                        # or who plays instead of the person
    port: int = 0                                                           # of the person, 0 or 1

    @classmethod
    def read(cls, message: dict) -> "Order":
        """UserError names what is wrong."""
        names = {field.name for field in dataclasses.fields(cls)}
        values = {name: value for name, value in message.items() if name in names}
        try:
            order = cls(**values)
        except TypeError:
            raise UserError("an order lacks something: reload the page") from None
        for what, name in (("character", order.character), ("character", order.opponent_character)):
            lookup(CHARACTERS, name, what)
        lookup(STAGES, order.stage, "stage")
        if type(order.port) is not int or order.port not in (0, 1):
            raise UserError(f"port {printable(order.port, 20)}: must be 0 or 1")
        if not isinstance(order.opponent, str) or not isinstance(order.player, str):
            raise UserError("opponents have names: reload the page")
        return order


class Match:
    """One game. `press` takes what a page sends, `step` makes the next frame and what to send back."""

    def __init__(self, order: Order, opponents: Opponents, seed: int, deterministic: bool, max_episode_frames: int,
                 thread: concurrent.futures.ThreadPoolExecutor | None = None):
        """thread: in which policies decide, None for one of this game's own. UserError: there is no such opponent, or
        it cannot be read."""
        self.order, self.seat = order, order.port
        who = [order.player, order.opponent][::1 - 2 * self.seat]           # by port
        self.names = ["player" if name == ME else name for name in who]
        characters = [CHARACTERS[order.character], CHARACTERS[order.opponent_character]][::1 - 2 * self.seat]
        self.human = self.seat if order.player == ME else None
        policies, assignment = [], np.full((1, NUM_PLAYERS), BOT_SLOT)
        bot_kinds = np.zeros((1, NUM_PLAYERS), int)
        self.thinkers: list[Thinker | None] = [None] * NUM_PLAYERS
        for side, name in enumerate(who):
            policy = None if side == self.human else opponents.load(name)
            if policy is None:
                bot_kinds[0, side] = BOTS.get(name, 0)
                continue
            if isinstance(policy, TorchPolicy):
                policy = self.thinkers[side] = Thinker(policy.policy, side)
            assignment[0, side] = len(policies)
            policies.append(policy)
        rng = None if deterministic else np.random.default_rng(seed)
        self.envs = VecEnv(1, characters, STAGES[order.stage], seed=seed, bot_kinds=bot_kinds,
                           max_episode_frames=max_episode_frames)
        self.hands = Hands(policies, assignment, rng, Pace(), True, thread)
        # Of either side: what it thinks stands beside the frame that it makes, as late as it acts.
        self.thoughts = [collections.deque([None] * delay) for delay in self.hands.delay[0]]
        for thinker in filter(None, self.thinkers):
            thinker.inference = self.hands.inference
        self.begins, self.over = np.ones(1, bool), False
        self.frame, self.controllers = self.envs.frames[0].copy(), self.envs.controllers[0].copy()
        self.held = np.zeros((), CONTROLLER)                                # the last input
        self.tapped = 0                                                     # buttons pressed since the last frame
        self.number = self.seen = 0                                         # of the last input, and told with it
        self.delay = None                                                   # the page's own measurement
        self.paused = False
        self.frames, self.seconds = 0, 0.                                   # played, without pauses
        self._ask()

    def scene(self) -> dict:
        """What the page needs before the first picture. Zelda and Sheik may change into each other."""
        characters = set(self.frame["players"]["character"].tolist())
        characters |= {SHEIK, ZELDA} if characters & {SHEIK, ZELDA} else set()
        facts = scene(int(self.frame["stage"]), sorted(characters))
        return facts | {"names": self.names, "thoughts": FACTS if any(self.thinkers) else None}

    def press(self, message: bytes) -> None:
        """An INPUT. UserError: it is none."""
        if len(message) != INPUT.itemsize:
            raise UserError(f"an input has {INPUT.itemsize} bytes, not {len(message)}: reload the page")
        sent = np.frombuffer(message, INPUT)[0]
        self.held = legal(sent["controller"])
        self.tapped |= int(self.held["buttons"])
        self.number, self.seen = int(sent["number"]), int(sent["seen"])

    def waits(self) -> bool:
        """Is it paused, or the page so far behind that nobody could play?"""
        return self.paused or self.frames + 1 - self.seen > MOST_AHEAD

    def step(self) -> bytes:
        """The next frame -> HEAD, PICTURE, and THOUGHT for either port where a policy's are known."""
        acting = self.hands.take(time.perf_counter())                       # what is there: the game does not wait
        for thoughts, thinker in zip(self.thoughts, self.thinkers, strict=True):
            thoughts.append(thinker and thinker.thought)
        if self.human is not None:
            acting[0, self.human] = self.held
            acting[0, self.human]["buttons"] |= self.tapped                 # also of a key that is up again already
        head = np.zeros((), HEAD)
        head["applied"], self.tapped = self.number, 0
        terminated, truncated, _ = self.envs.step(acting)
        self.begins = terminated | truncated
        self.over = bool(self.begins[0])
        envs = self.envs
        frames, controllers = (envs.final_frames, envs.final_controllers) if self.over else (
            envs.frames, envs.controllers)
        self.frame, self.controllers = frames[0].copy(), controllers[0].copy()
        if not self.over:
            self._ask()
        return head.tobytes() + self.picture() + self._told([thoughts.popleft() for thoughts in self.thoughts])

    def picture(self) -> bytes:
        return pictures(self.frame[None], self.controllers[None]).tobytes()

    def _ask(self) -> None:
        self.hands.advance(self.begins)
        turn = self.hands.turn(np.ones(1, bool))
        if turn.any():
            obs = observe(self.envs.frames, self.envs.controllers, self.hands.pending())
            self.hands.ask(obs, mirrored(self.envs.frames), turn, self.begins)

    def _told(self, thoughts: list) -> bytes:
        if not any(self.thinkers):
            return b""
        records = np.zeros(NUM_PLAYERS, THOUGHT)
        for side, thought in enumerate(thoughts):
            if thought is not None:
                records[side] = thought
        return records.tobytes()

    def result(self) -> str:
        """In a line, for the page and for the terminal."""
        stocks, percent = (self.frame["players"][name].astype(int).tolist() for name in ("stocks", "percent"))
        outcome = int(outcomes(self.frame[None])[0])
        winner = 1 if outcome < 0 else 0
        name = "You" if winner == self.human else self.names[winner]
        score, unit = (stocks, "stocks") if stocks[0] != stocks[1] else (percent, "percent")
        return f"{f'{name} won' if outcome else 'A draw'}, {score[winner]} to {score[1 - winner]} {unit}"

    def close(self) -> None:
        self.hands.close()
        self.envs.close()


def legal(controller: np.void) -> np.ndarray:
    """CONTROLLER of what a page sent: finite, in the unit circle, in the steps and with the dead zones of a real one,
    and with buttons that there are."""
    result = np.zeros((), CONTROLLER)
    for stick in ("main", "c"):
        x, y = (float(controller[f"{stick}_{axis}"]) for axis in "xy")
        x, y = (min(max(value, -1.), 1.) if math.isfinite(value) else 0. for value in (x, y))
        pull = max(1., math.hypot(x, y))
        for axis, value in (("x", x), ("y", y)):
            steps = int(value / pull * STEPS + math.copysign(1e-4, value))  # of a step that float32 falls short of
            result[f"{stick}_{axis}"] = steps / STEPS if abs(steps) >= STICK_REST else 0
    for name in ("l", "r"):
        value = float(controller[name])
        result[name] = min(value, 1.) if value >= TRIGGER_REST else 0       # also what is no number
    result["buttons"] = int(controller["buttons"]) & ALL_BUTTONS
    return result


class Games:
    """All games that are on, each in a task of its own; they share what is recorded, on a thread of its own."""

    def __init__(self, opponents: Opponents, folder: str | Path, defaults: dict[str, str], seed: int = 1,
                 deterministic: bool = False, max_episode_frames: int = 0):
        """folder: of the recordings. defaults: what a page offers first, of the fields of an Order."""
        self.opponents, self.defaults, self.seed = opponents, defaults, seed
        self.deterministic, self.max_episode_frames = deterministic, max_episode_frames
        self.recorder = Recorder(folder, MOST_GAMES)
        self.disk = concurrent.futures.ThreadPoolExecutor(1)                # a flush to disk takes longer than a frame
        self.mind = concurrent.futures.ThreadPoolExecutor(1)                # several would only wait for Python's lock
        self.free = set(range(MOST_GAMES))
        self.ending: set[asyncio.Task] = set()
        self.played = 0

    def choices(self) -> dict:
        return {"characters": list(CHARACTERS), "stages": list(STAGES), "opponents": self.opponents.names(),
                "defaults": {"opponent": self.opponents.first} | self.defaults}

    async def attend(self, connection: ServerConnection) -> None:
        """Reads what one page sends until it is closed. Its game ends with it."""
        match, task = None, None
        second, messages, mistakes = 0., 0, 0
        try:
            async for message in connection:
                now = time.monotonic()
                if now - second > 1:
                    second, messages = now, 0
                messages += 1
                if messages > MOST_MESSAGES or mistakes > MOST_MISTAKES:
                    await connection.close(POLICY_CLOSED, "too many messages: reload the page")
                    return
                try:
                    if isinstance(message, bytes):
                        if match is not None:
                            match.press(message)
                        continue
                    order = read_message(message)
                    if order["type"] == "start":
                        await stop(task)
                        match, task = None, None
                        slot, match = await self._begin(Order.read(order))
                        task = asyncio.create_task(self._play(connection, slot, match))
                        await asyncio.sleep(0)                      # it begins: only then does its end free the slot
                    elif match is not None:
                        obey(match, order)
                except UserError as error:
                    mistakes += 1
                    await send(connection, {"type": "error", "message": printable(error, 500)})
        finally:
            await stop(task)

    async def _begin(self, order: Order) -> tuple[int, Match]:
        """-> the slot that this game has taken, and the game. UserError: it cannot be."""
        if not self.free:
            raise UserError(f"{MOST_GAMES} games are on already: wait until one is over, or close another tab")
        slot = self.free.pop()
        self.played += 1
        try:
            return slot, await asyncio.to_thread(Match, order, self.opponents, self.seed + self.played,
                                                 self.deterministic, self.max_episode_frames, self.mind)
        except BaseException:
            self.free.add(slot)
            raise

    async def _play(self, connection: ServerConnection, slot: int, match: Match) -> None:
        """The game's clock."""
        try:
            await send(connection, {"type": "begin", "scene": match.scene()})
            await connection.send(np.zeros((), HEAD).tobytes() + match.picture())
            recorded = await self._record(self._open, slot, match.names, match.frame, match.controllers)
            deadline = before = time.perf_counter() + READY
            while not match.over:
                deadline = max(deadline + FRAME_TIME, time.perf_counter() - LATEST)
                await asyncio.sleep(deadline - time.perf_counter())
                if match.waits():
                    before = time.perf_counter()
                    continue
                told = match.step()
                if recorded:
                    self.disk.submit(self.recorder.add, [slot], {slot: match.frame}, {slot: match.controllers})
                await connection.send(told)
                now = time.perf_counter()
                match.frames, match.seconds, before = match.frames + 1, match.seconds + now - before, now
        except ConnectionClosed:
            pass
        except UserError as error:                                          # a policy that answers with no action
            await send(connection, {"type": "error", "message": printable(error, 500), "over": True})
        finally:
            ending = asyncio.create_task(self._end(connection, slot, match))
            self.ending.add(ending)                                         # it goes on, whoever is cancelled here
            ending.add_done_callback(self.ending.discard)
            await asyncio.shield(ending)

    async def _end(self, connection: ServerConnection, slot: int, match: Match) -> None:
        match.close()
        path = await self._record(self.recorder.end, slot, None if match.over else "NoContest")
        self.free.add(slot)
        who = f"{match.names[0]} against {match.names[1]} on {match.order.stage}"
        line = f"{who}: {match.result() if match.over else 'left'}, "
        line += f"{match.frames / max(match.seconds, 1e-9):.1f} frames/s"
        if match.delay:
            line += ", input to picture {:.1f} frames (99th percentile {:.1f}, {} inputs)".format(*match.delay)
        with contextlib.suppress(OSError):                                  # `| head` has seen enough: the game has not
            print(printable(f"{line}, {path or 'not recorded'}"), flush=True)
        if match.over:
            await send(connection, {"type": "over", "result": match.result(), "recording": path.name if path else ""})

    def close(self) -> None:
        """What is still on was quit."""
        self.mind.shutdown(cancel_futures=True)
        self.disk.submit(self.recorder.close)
        self.disk.shutdown()

    async def _record(self, job, *arguments):
        """Waits for the recorder; what it cannot do costs the recording, not the game."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self.disk, job, *arguments)
        except UserError as error:
            print(f"warning: {printable(error)}; the game goes on unrecorded", file=sys.stderr)

    def _open(self, slot: int, names: list[str], frame: np.ndarray, controllers: np.ndarray) -> bool:
        """Is this game recorded?"""
        self.recorder.names[slot] = tuple(names)
        self.recorder.begin([slot], {slot: frame}, {slot: controllers})
        return slot in self.recorder.writers


async def stop(task: asyncio.Task | None) -> None:
    """Ends a game's task and waits for what it still has to do."""
    if task is not None:
        task.cancel()
        await asyncio.wait([task])


async def send(connection: ServerConnection, message: dict) -> None:
    with contextlib.suppress(ConnectionClosed):
        await connection.send(json.dumps(message))


def read_message(text: str) -> dict:
    """UserError: a page of ours would not send this."""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict) or message.get("type") not in ("start", "pause", "delay"):
        raise UserError("a message that the server does not know: reload the page")
    return message


def obey(match: Match, message: dict) -> None:
    """UserError: what the message says is of the wrong kind."""
    if message["type"] == "pause":
        match.paused = message.get("on") is True
        return
    values = [message.get(name) for name in ("p50", "p99", "count")]
    if not all(type(value) in (int, float) and 0 <= value < 1e6 for value in values):
        raise UserError("a delay is a number of frames: reload the page")
    match.delay = values[0], values[1], int(values[2])

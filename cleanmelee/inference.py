"""Decisions in time: policies answer at once, or beside a game that does not wait, and a clock says how well they keep
up. Numpy only: an exported policy plays without torch.

A policy here has `initial_state(batch)`, `step(obs, state, noise)`, `action_repeat`, `frame_delay` and `num_floats`:
OnnxPolicy (cleanmelee/onnx.py), TorchPolicy (cleanmelee/player.py)."""

import collections
import concurrent.futures
import functools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from cleanmelee.controller import ACTION_SIZE, NEUTRAL_ACTION, NUM_LOGITS, decode_actions
from cleanmelee.frame import CONTROLLER
from cleanmelee.game.compiler import machine_code, policy_jit
from cleanmelee.games import BOT_SLOT
from cleanmelee.features import NUM_INTS
from cleanmelee.observation import Observation


@dataclass
class Pace:
    """How well decisions kept up with the game."""
    inference: collections.deque = field(                                   # seconds, the last ones
        default_factory=lambda: collections.deque(maxlen=100_000))
    frames: int = 0
    missed: int = 0                                                         # frames whose decision had not come in time
    seconds: float = 0.

    def add(self, other: "Pace") -> None:
        self.inference.extend(other.inference)
        self.frames += other.frames
        self.missed += other.missed
        self.seconds += other.seconds

    def row(self) -> dict:
        p50, p99 = np.percentile(self.inference, (50, 99)) * 1000 if self.inference else (0., 0.)
        return {"inference_ms_p50": float(p50), "inference_ms_p99": float(p99), "frames": self.frames,
                "frames_missed": self.missed, "frames_per_second": self.frames / max(self.seconds, 1e-9)}


def act(policies: list, seats: list[np.ndarray], turn: np.ndarray, obs: Observation, states: list[tuple],
        begins: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
    """One frame of play for N games: one step for each policy, over all its games and ports that have a turn [N, 2].

    seats[k]: which of the 2N slots policy k plays; states[k] is what it remembers of those, updated in place of the
    list. obs is as deep as the latest policy sees; each is shown as much as it was trained to see. begins [N]: games
    that begin with this frame. rng: of the noise, None for the most likely action. Returns actions int8 [N, 2, 13],
    neutral where nobody has a turn."""
    n = len(turn)
    floats, ints, turn = obs.floats.reshape(2 * n, -1), obs.ints.reshape(2 * n, -1), turn.reshape(-1)
    actions = np.empty((2 * n, ACTION_SIZE), np.int8)
    actions[:] = NEUTRAL_ACTION
    fresh = begins.repeat(2) if begins.any() else None
    for k, (policy, slots) in enumerate(zip(policies, seats, strict=True)):
        if fresh is not None:
            for part in states[k]:
                part[fresh[slots]] = 0
        decides = turn.take(slots)
        everyone = decides.all()
        rows = slots if everyone else slots[decides]
        if not len(rows):
            continue
        seen = Observation(floats.take(rows, 0), ints.take(rows, 0))
        if policy.num_floats < floats.shape[1]:
            seen = Observation(np.ascontiguousarray(seen.floats[:, :policy.num_floats]), seen.ints)
        state = states[k] if everyone else tuple(part[decides] for part in states[k])
        noise = None if rng is None else rng.random((len(rows), NUM_LOGITS), np.float32)
        actions[rows], state = policy.step(seen, state, noise)
        if everyone:
            states[k] = state
        else:
            for part, new in zip(states[k], state, strict=True):
                part[decides] = new
    return actions.reshape(n, 2, ACTION_SIZE)


class Inference:
    """The policies' decisions: made at once, or (asynchronous) in a thread of its own, which skips to the newest
    frame."""

    def __init__(self, policies: list, assignment: np.ndarray, rng: np.random.Generator | None, pace: Pace,
                 asynchronous: bool, thread: concurrent.futures.ThreadPoolExecutor | None = None):
        """thread: one that others share, in place of an own one, if asynchronous. Others as in `act`."""
        self.policies, self.rng, self.pace = policies, rng, pace
        self.seats = [np.flatnonzero(assignment == k) for k in range(len(policies))]
        self.states = [policy.initial_state(len(slots)) for policy, slots in zip(policies, self.seats, strict=True)]
        self.begins = np.zeros(len(assignment), bool)                       # games that began since the last decision
        self.turn = np.zeros(assignment.shape, bool)                        # who had a turn since then, in that game
        self.own = asynchronous and thread is None
        self.thread = concurrent.futures.ThreadPoolExecutor(1) if self.own else thread
        self.asked = -1                                                     # number of the last question
        self.mirror = np.zeros(assignment.shape, bool)                      # of the frame that is decided on
        self.futures = collections.deque()
        self.made = collections.deque()                                     # answers, where nobody waits for a thread

    def ask(self, tick: int, obs: Observation, mirror: np.ndarray, turn: np.ndarray, begins: np.ndarray) -> None:
        """tick: the question's number. mirror [N, 2]: who sees this frame `mirrored`. turn [N, 2]: who decides. begins
        [N]: games that begin with this frame."""
        self.asked = tick
        if self.thread:
            self.futures.append(self.thread.submit(self._decide, tick, obs, mirror, turn, begins))
        else:
            self.made.append(self._decide(tick, obs, mirror, turn, begins))

    def answers(self, until: float) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """(tick, turn [N, 2], controllers [N, 2]) of the decisions made since the last call. Waits for the last
        question's, but no longer than `until`, in time.perf_counter's seconds."""
        while self.made:
            yield self.made.popleft()
        if self.futures:
            concurrent.futures.wait([self.futures[-1]], max(0., until - time.perf_counter()))
        while self.futures and self.futures[0].done():
            answer = self.futures.popleft().result()
            if answer is not None:
                yield answer

    def close(self) -> None:
        if self.own:
            self.thread.shutdown(cancel_futures=True)
        for future in self.futures:                                         # others go on
            future.cancel()

    def _decide(self, tick, obs, mirror, turn, begins):
        self.begins |= begins
        self.turn[begins] = False
        self.turn |= turn                                                   # who decides seldom must not be passed over
        if tick < self.asked:                                               # a newer frame is waiting
            return None
        start = time.perf_counter()
        turn, self.turn, self.mirror = self.turn, np.zeros_like(self.turn), mirror
        actions = act(self.policies, self.seats, turn, obs, self.states, self.begins, self.rng)
        self.begins[:] = False
        self.pace.inference.append(time.perf_counter() - start)
        return tick, turn, decode_actions(actions, mirror)


class Hands:
    """What every slot of N games presses: policies decide as often, and act as late, as they were trained to.

    A decision from frame t makes frame t + 1 + delay; until the first has come, a game's controllers are neutral. One
    that is late acts when it comes, and the controller holds until then. For each frame: `advance` to it, `ask` whoever
    has a `turn`, `take` what acts.

        clock [N]       frames of the game that is on"""

    def __init__(self, policies: list, assignment: np.ndarray, rng: np.random.Generator | None, pace: Pace,
                 asynchronous: bool, thread: concurrent.futures.ThreadPoolExecutor | None = None):
        """assignment [N, 2]: which of `policies` plays a slot; BOT_SLOT: none of them. Others as `Inference`."""
        self.pace, self.asynchronous = pace, asynchronous
        N = len(assignment)
        assignment = np.ascontiguousarray(assignment)                       # as `compiled` takes what is made of it
        self.plays, self.judged = assignment != BOT_SLOT, assignment == 0
        repeat = [*(policy.action_repeat for policy in policies), 1]        # the last is BOT_SLOT's
        self.repeat = np.array(repeat)[assignment]                          # [N, 2]
        self.delay = np.array([*(policy.frame_delay for policy in policies), 0])[assignment]
        self.size = int(self.delay.max()) + 1
        self.queue = np.zeros((self.size, N, 2), CONTROLLER)                # what acts at clock c lies at c % size
        self.newest = np.zeros((N, 2), CONTROLLER)                          # the last decision, held until the next
        self.nothing = np.zeros((N, 2, 0), CONTROLLER)
        self.due = np.zeros((self.size, N, 2), bool)                        # is that clock's decision still to come?
        self.clock = np.full(N, -1)
        self.began_at = np.zeros(N, int)
        self.tick = -1
        self.inference = Inference(policies, assignment, rng, pace, asynchronous, thread)

    def advance(self, begins: np.ndarray) -> None:
        """To the next frame, of the games in begins [N] the first one."""
        self.tick += 1
        self.clock += 1
        if begins.any():
            self.queue[:, begins] = np.zeros((), CONTROLLER)
            self.newest[begins] = np.zeros((), CONTROLLER)
            self.due[:, begins] = False
            self.clock[begins] = 0
            self.began_at[begins] = self.tick

    def turn(self, live: np.ndarray) -> np.ndarray:
        """[N, 2] which policies decide now, in games that are still `live` [N]; everyone else holds the controller."""
        turn = np.empty(self.plays.shape, bool)
        compiled(whose_turn)(live, self.plays, self.repeat, self.delay, self.clock, self.newest, self.queue, self.due,
                             turn)
        return turn

    def pending(self) -> np.ndarray:
        """CONTROLLER [N, 2, D]: what is chosen already for the D frames that follow, as `observe` shows it; D is the
        longest delay."""
        if self.size == 1:
            return self.nothing
        coming = (self.clock[:, None] + np.arange(self.size - 1)) % self.size                       # [N, D]
        return self.queue[coming[:, None], np.arange(len(coming))[:, None, None], np.arange(2)[:, None]]

    def ask(self, obs: Observation, mirror: np.ndarray, turn: np.ndarray, begins: np.ndarray) -> None:
        """As `Inference.ask`, about this frame."""
        self.inference.ask(self.tick, obs, mirror, turn, begins)

    def take(self, until: float) -> np.ndarray:
        """CONTROLLER [N, 2] that make the next frame. until: as in `Inference.answers`."""
        for asked_at, who, controllers in self.inference.answers(until):
            compiled(settle)(controllers, who, asked_at, self.tick - asked_at, self.began_at, self.clock, self.delay,
                             self.newest, self.queue, self.due)
        acting = np.empty(self.plays.shape, CONTROLLER)
        late = compiled(press)(self.clock, self.queue, self.due, self.judged, acting)
        if self.asynchronous:                                               # who waits for every decision misses none
            self.pace.missed += late
        return acting

    def close(self) -> None:
        self.inference.close()


# ---------------------------------------------------------------------------------------------------------------------
# Of Hands what is done in every frame, compiled: in numpy it was a tenth of a millisecond. Arrays as Hands has them.
# ---------------------------------------------------------------------------------------------------------------------

@policy_jit
def whose_turn(live, plays, repeat, delay, clock, newest, queue, due, turn):
    """Until a decision of this frame is there, the last one is held."""
    for n in range(len(live)):
        for p in range(2):
            turn[n, p] = plays[n, p] and live[n] and clock[n] % repeat[n, p] == 0
            at = (clock[n] + delay[n, p]) % len(queue)
            queue[at, n, p] = newest[n, p]
            due[at, n, p] = turn[n, p]


@policy_jit
def settle(controllers, who, asked_at, age, began_at, clock, delay, newest, queue, due):
    """What `who` [N, 2] have decided `age` frames ago acts from its own time on, or from now if that is past."""
    for n in range(len(clock)):
        for p in range(2):
            if who[n, p] and asked_at >= began_at[n]:                       # nothing from a game that is over
                newest[n, p] = controllers[n, p]
                for held in range(min(age, delay[n, p]) + 1):
                    at = (clock[n] + delay[n, p] - held) % len(queue)
                    queue[at, n, p] = controllers[n, p]
                    if held == age:
                        due[at, n, p] = False


@policy_jit
def press(clock, queue, due, judged, acting):
    """-> in how many games a judged player's decision for this frame is not there."""
    games = 0
    for n in range(len(clock)):
        at, late = clock[n] % len(queue), False
        for p in range(2):
            acting[n, p] = queue[at, n, p]
            late |= due[at, n, p] and judged[n, p]
        games += late
    return games


@functools.cache
def compiled(function):
    """The machine code of one of these for whole arrays of Hands' types."""
    flags, clock, controllers = np.zeros((0, 2), bool), np.zeros(0, int), np.zeros((0, 2), CONTROLLER)
    numbers, queue, due = np.zeros((0, 2), int), np.zeros((0, 0, 2), CONTROLLER), np.zeros((0, 0, 2), bool)
    given = {whose_turn: (flags[:, 0].copy(), flags, numbers, numbers, clock, controllers, queue, due, flags),
             settle: (controllers, flags, 0, 0, clock, clock, numbers, controllers, queue, due),
             press: (clock, queue, due, flags, controllers)}
    return machine_code(function, *given[function])


def warm_up(policies: list, rows: int) -> None:
    """The first forwards take a hundred times longer than the others: not within a game."""
    for policy in policies:
        obs = Observation(np.zeros((rows, policy.num_floats), np.float32), np.zeros((rows, NUM_INTS), np.int16))
        for _ in range(10):
            policy.step(obs, policy.initial_state(rows), np.full((rows, NUM_LOGITS), .5, np.float32))

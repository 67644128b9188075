"""Decisions in time: policies answer at once, or beside a game that does not wait, and a clock says how well they keep
up."""

import collections
import concurrent.futures
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from cleanmelee.controller import NUM_LOGITS, decode_actions
from cleanmelee.features import NUM_INTS
from cleanmelee.frame import CONTROLLER
from cleanmelee.observation import Observation
from cleanmelee.onnx import OnnxPolicy
from melee_common import BOT_SLOT, Policy, act


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


class Inference:
    """The policies' decisions: made at once, or (asynchronous) in a thread of its own, which skips to the newest
    frame."""

    def __init__(self, policies: list[Policy | OnnxPolicy], assignment: np.ndarray, generator: torch.Generator | None,
                 pace: Pace, asynchronous: bool, thread: concurrent.futures.ThreadPoolExecutor | None = None):
        """thread: one that others share, in place of an own one, if asynchronous."""
        self.policies, self.assignment, self.generator, self.pace = policies, assignment, generator, pace
        self.states = [policy.initial_state(assignment.size) for policy in policies]
        self.begins = np.zeros(len(assignment), bool)                       # games that began since the last decision
        self.own = asynchronous and thread is None
        self.thread = concurrent.futures.ThreadPoolExecutor(1) if self.own else thread
        self.asked = -1                                                     # number of the last question
        self.futures = collections.deque()

    def ask(self, tick: int, obs: Observation, mirror: np.ndarray, turn: np.ndarray, begins: np.ndarray) -> None:
        """tick: the question's number. mirror [N, 2]: who sees this frame `mirrored`. turn [N, 2]: who decides. begins
        [N]: games that begin with this frame."""
        self.asked = tick
        if self.thread:
            self.futures.append(self.thread.submit(self._decide, tick, obs, mirror, turn, begins))
        else:
            self.futures.append(concurrent.futures.Future())
            self.futures[-1].set_result(self._decide(tick, obs, mirror, turn, begins))

    def answers(self, until: float) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """(tick, turn [N, 2], controllers [N, 2]) of the decisions made since the last call. Waits for the last
        question's, but no longer than `until`, in time.perf_counter's seconds."""
        concurrent.futures.wait(list(self.futures)[-1:], max(0., until - time.perf_counter()))
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
        if tick < self.asked:                                               # a newer frame is waiting
            return None
        start = time.perf_counter()
        with torch.inference_mode():                                        # a setting of each thread
            deciding = np.where(turn, self.assignment, BOT_SLOT)
            actions = act(self.policies, deciding, obs, self.states, self.begins, self.generator)
        self.begins[:] = False
        self.pace.inference.append(time.perf_counter() - start)
        return tick, turn, decode_actions(actions, mirror)


class Hands:
    """What every slot of N games presses: policies decide as often, and act as late, as they were trained to.

    A decision from frame t makes frame t + 1 + delay; until the first has come, a game's controllers are neutral. One
    that is late acts when it comes, and the controller holds until then. For each frame: `advance` to it, `ask` whoever
    has a `turn`, `take` what acts.

        clock [N]       frames of the game that is on"""

    def __init__(self, policies: list[Policy | OnnxPolicy], assignment: np.ndarray, generator: torch.Generator | None,
                 pace: Pace, asynchronous: bool, thread: concurrent.futures.ThreadPoolExecutor | None = None):
        """assignment [N, 2]: which of `policies` plays a slot; BOT_SLOT: none of them. Others as `Inference`."""
        self.assignment, self.pace = assignment, pace
        N = len(assignment)
        repeat = [*(policy.action_repeat for policy in policies), 1]        # the last is BOT_SLOT's
        self.repeat = np.array(repeat)[assignment]                          # [N, 2]
        self.delay = np.array([*(policy.frame_delay for policy in policies), 0])[assignment]
        self.size = int(self.delay.max()) + 1
        self.queue = np.zeros((self.size, N, 2), CONTROLLER)                # what acts at clock c lies at c % size
        self.newest = np.zeros((N, 2), CONTROLLER)                          # the last decision, held until the next
        self.due = np.zeros((self.size, N, 2), bool)                        # is that clock's decision still to come?
        self.clock = np.full(N, -1)
        self.began_at = np.zeros(N, int)
        self.tick = -1
        self.slots, self.sides = np.arange(N)[:, None], np.arange(2)
        self.inference = Inference(policies, assignment, generator, pace, asynchronous, thread)

    def advance(self, begins: np.ndarray) -> None:
        """To the next frame, of the games in begins [N] the first one."""
        self.tick += 1
        self.clock += 1
        self.queue[:, begins] = np.zeros((), CONTROLLER)
        self.newest[begins] = np.zeros((), CONTROLLER)
        self.due[:, begins] = False
        self.clock[begins] = 0
        self.began_at[begins] = self.tick

    def turn(self, live: np.ndarray) -> np.ndarray:
        """[N, 2] which policies decide now, in games that are still `live` [N]; everyone else holds the controller."""
        turn = (self.assignment != BOT_SLOT) & live[:, None] & (self.clock[:, None] % self.repeat == 0)
        latest = (self.clock[:, None] + self.delay) % self.size
        self.queue[latest, self.slots, self.sides] = self.newest
        self.due[latest, self.slots, self.sides] = turn
        return turn

    def pending(self) -> np.ndarray:
        """CONTROLLER [N, 2, D]: what is chosen already for the D frames that follow, as `observe` shows it; D is the
        longest delay."""
        coming = self.queue[(self.clock[:, None] + np.arange(self.size - 1)) % self.size, self.slots]   # [N, D, 2]
        return np.moveaxis(coming, 1, 2)

    def ask(self, obs: Observation, mirror: np.ndarray, turn: np.ndarray, begins: np.ndarray) -> None:
        """As `Inference.ask`, about this frame."""
        self.inference.ask(self.tick, obs, mirror, turn, begins)

    def take(self, until: float) -> np.ndarray:
        """CONTROLLER [N, 2] that make the next frame. until: as in `Inference.answers`."""
        for asked_at, who, controllers in self.inference.answers(until):
            age = self.tick - asked_at
            who = who & (asked_at >= self.began_at)[:, None]                # nothing from a game that is over
            self.newest[who] = controllers[who]
            for ahead in range(self.size):                                  # from its own time on, unless that is past
                rows = (who & (ahead >= self.delay - age) & (ahead <= self.delay)).nonzero()
                at = (self.clock[rows[0]] + ahead) % self.size
                self.queue[at, *rows] = controllers[rows]
                self.due[at, *rows] &= ahead != (self.delay - age)[rows]
        acting = self.clock[:, None] % self.size
        self.pace.missed += int((self.due[acting, self.slots, self.sides] & (self.assignment == 0)).any(1).sum())
        return self.queue[acting, self.slots, self.sides]

    def close(self) -> None:
        self.inference.close()


def warm_up(policies: list[Policy | OnnxPolicy], rows: int) -> None:
    """The first forwards take a hundred times longer than the others: not within a game."""
    for policy in policies:
        obs = Observation(torch.zeros(rows, policy.num_floats), torch.zeros(rows, NUM_INTS, dtype=torch.int16))
        for _ in range(10):
            policy.step(obs, policy.initial_state(rows), torch.full((rows, NUM_LOGITS), .5))

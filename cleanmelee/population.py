"""Populations: independent learners, how their updates run side by side, whose turn it is, who copies whom."""

import copy
import json
import math
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from cleanmelee.pool import Pool, Ratings
from cleanmelee.runs import check_state
from melee_common import Policy

ROLES = ("main", "main_exploiter", "league_exploiter")  # of AlphaStar's league, in turn
ADAM = {"eps": 1e-5, "fused": True}                     # fused: all weights in one pass


class Learner:
    """One agent of the population: network, optimiser, hyperparameters and random stream. It shares nothing with the
    others.

    hyper: learning_rate, entropy_coef, ppo_clip ..., which population-based training may vary. acting: the weights that
    play, the policy itself or a copy of it: where it learns on another device than `acts_on`, and (asynchronous) so
    that games can go on while it learns."""

    def __init__(self, name: str, policy: Policy, hyper: dict[str, float], seed: list[int], asynchronous: bool = False,
                 acts_on: torch.device | str = "cpu"):
        self.name, self.policy, self.hyper = name, policy, hyper
        self.acts_on = torch.device(acts_on)
        self.apart = asynchronous or self.acts_on != policy.device
        self.rng = np.random.default_rng(seed)                              # minibatches, hyperparameters
        self.optimizer = torch.optim.Adam(policy.parameters(), lr=hyper["learning_rate"], **ADAM)
        self.updates = self.agent_frames = 0
        self.born = 0                                                       # global_step of its last start
        self.teacher_state: tuple = ()
        self.publish()

    def publish(self) -> None:
        """From now on the present weights act."""
        self.acting = self.copy() if self.apart else self.policy

    def copy(self) -> Policy:
        """The present weights, to act."""
        return copy.deepcopy(self.policy).to(self.acts_on)

    def become(self, policy: dict, optimizer: dict | None) -> None:
        """Copies weights; without an optimiser's state Adam starts anew."""
        self.policy.load_state_dict(policy)
        self.optimizer = torch.optim.Adam(self.policy.parameters(), lr=self.hyper["learning_rate"], **ADAM)
        if optimizer:
            self.optimizer.load_state_dict(copy.deepcopy(optimizer))
        self.publish()

    def start_anew(self, policy: dict, hyper: dict[str, float], step: int) -> None:
        """With these weights and what a run begins with: its schedules begin anew too."""
        self.hyper, self.born, self.updates = dict(hyper), step, 0
        self.become(policy, None)

    def state_dict(self) -> dict:
        return {"policy": self.policy.state_dict(), "optimizer": self.optimizer.state_dict(), "hyper": self.hyper,
                "rng": json.dumps(self.rng.bit_generator.state), "updates": self.updates,
                "agent_frames": self.agent_frames, "born": self.born, "teacher_state": list(self.teacher_state)}

    def check_optimizer(self, state: dict, where: str) -> None:
        """Raises unless `state` is that of this learner's Adam: of parameters that have learnt, their moments."""
        def groups(state):
            return [{**group, "lr": 0.} for group in state["param_groups"]]

        if groups(state) != groups(self.optimizer.state_dict()):
            raise ValueError(f"{where} has other settings than Adam has here")
        parameters = dict(enumerate(self.policy.parameters()))
        for k, moments in state["state"].items():
            like = {"step": torch.zeros(()), "exp_avg": parameters[k], "exp_avg_sq": parameters[k]}
            check_state(moments, {name: x.detach().data for name, x in like.items()}, f"{where}.{k}")
            if moments["step"] < 0 or (moments["exp_avg_sq"] < 0).any():
                raise ValueError(f"{where}.{k} is below 0")

    def load_state_dict(self, state: dict) -> None:
        varies = {"optimizer": {}, "teacher_state": []}                     # in its size, and looked at apart
        check_state({**state, **varies}, {**self.state_dict(), **varies}, self.name)
        self.check_optimizer(state["optimizer"], f"{self.name}.optimizer")
        began = all(torch.equal(x.cpu(), state["policy"][name]) for name, x in self.policy.state_dict().items())
        if not state["optimizer"]["state"] and state["agent_frames"] and not state["born"] and not began:
            raise ValueError(f"{self.name}.optimizer is empty, though the weights have learnt")
        self.hyper = dict(state["hyper"])
        self.become(state["policy"], state["optimizer"])
        self.rng.bit_generator.state = json.loads(state["rng"])
        self.updates, self.agent_frames, self.born = state["updates"], state["agent_frames"], state["born"]
        self.teacher_state = tuple(part.to(self.policy.device) for part in state["teacher_state"])


def make_learners(initial: Policy, hyper: dict[str, float], *, seed: int, size: int = 1, league: bool = False,
                  same_start: bool = False, varied: Sequence[str] = (), asynchronous: bool = False,
                  device: torch.device | str = "cpu", acts_on: torch.device | str = "cpu") -> list[Learner]:
    """`size` learners, named by their roles in a league. The first starts as `initial`, and with same_start all of
    them; else the others start apart. varied: names of hyperparameters that each draws around those in `hyper`. They
    learn on `device` and act on `acts_on`."""
    names = ["main"] if size == 1 else [f"agent{k + 1}" for k in range(size)]
    if league:
        names = [ROLES[k % 3] + (str(k // 3 + 1) if k > 2 else "") for k in range(size)]
    learners = []
    for k, name in enumerate(names):
        policy = copy.deepcopy(initial) if k == 0 or same_start else Policy(**initial.config)
        learner = Learner(name, policy.to(device), dict(hyper), [seed, k], asynchronous, acts_on)
        for key in varied:
            learner.hyper[key] *= math.exp(learner.rng.uniform(-math.log(3), math.log(3)))
        learners.append(learner)
    return learners


class ParallelUpdates:
    """Runs an iteration's updates in threads: side by side for each learner, or in the background while games go on.

    update(learner, rollouts, step) -> its row of metrics. asynchronous: `run` hands back what is finished, and at most
    `buffered` iterations wait; else it waits for its own. An asynchronous update that raises is told to `log` and its
    rollouts are lost, while the games go on; the third of a learner in a row ends the run."""

    MAX_FAILURES = 3

    def __init__(self, update, learners: list[Learner], *, side_by_side: bool, asynchronous: bool, buffered: int = 1,
                 log=print):
        self.update, self.learners, self.log = update, {learner.name: learner for learner in learners}, log
        self.side_by_side, self.asynchronous, self.buffered = side_by_side, asynchronous, buffered
        self.failures = dict.fromkeys(self.learners, 0)
        self.threads, self.background = ThreadPoolExecutor(len(learners)), ThreadPoolExecutor(1)
        self.pending = []                                                   # (facts, future), oldest first

    def run(self, facts: tuple, rollouts: list[dict], step: int, wait: bool) -> list[tuple]:
        """rollouts: [{learner's name: rollout}] of this iteration. facts: what shall be logged with it. -> (*facts,
        metrics by learner) of every iteration that is learnt. wait: for all, since somebody will now keep or change
        weights."""
        if not self.asynchronous:
            return [(*facts, self._learn(rollouts, step)[0])]
        self.pending.append((facts, self.background.submit(self._learn, rollouts, step)))
        ready = max(0, len(self.pending) - (0 if wait else self.buffered))
        finished = [(facts, *future.result()) for facts, future in self.pending[:ready]]
        self.pending = self.pending[ready:]
        if finished:
            for name, policy in finished[-1][2].items():
                self.learners[name].acting = policy
        return [(*facts, metrics) for facts, metrics, _ in finished]

    def _learn(self, rollouts: list[dict], step: int) -> tuple[dict[str, dict], dict[str, Policy]]:
        """-> metrics by learner; (asynchronous) copies of all learners' policies as they are now."""
        def job(name: str) -> dict | None:
            try:
                row = self.update(self.learners[name], [rollout[name] for rollout in rollouts], step)
            except Exception:
                self.failures[name] += 1
                if not self.asynchronous or self.failures[name] == self.MAX_FAILURES:
                    raise
                self.log(f"warning: an update of {name} failed, its rollouts are lost\n{traceback.format_exc()}")
                return None
            self.failures[name] = 0
            return row

        names = list(rollouts[0])
        rows = zip(names, (self.threads.map if self.side_by_side else map)(job, names), strict=True)
        metrics = {name: row for name, row in rows if row is not None}
        if not self.asynchronous:
            return metrics, {}
        return metrics, {name: learner.copy() for name, learner in self.learners.items()}

    def close(self) -> None:
        self.background.shutdown(cancel_futures=True)
        self.threads.shutdown()


def pbt_round(learners: list[Learner], ratings: Ratings, varied: Sequence[str]) -> list[dict]:
    """Population-based training (Jaderberg et al. 2017): by Elo, each of the bottom fifth copies weights, optimiser and
    hyperparameters of one of the top fifth, and multiplies each of `varied` by .8 or 1.2. Returns what was done."""
    ranked = sorted(learners, key=lambda learner: ratings.row(learner.name)[0])
    fifth, events = max(1, len(ranked) // 5), []
    for loser in ranked[:fifth]:
        winner = ranked[-1 - loser.rng.integers(fifth)]
        loser.hyper = dict(winner.hyper)
        for key in varied:
            loser.hyper[key] *= float(loser.rng.choice([.8, 1.2]))
        loser.become(winner.policy.state_dict(), winner.optimizer.state_dict())
        ratings.forget(loser.name)                                          # its results were those of other weights
        ratings.row(loser.name)[0] = ratings.row(winner.name)[0]
        events.append({"learner": loser.name, "copied": winner.name, **loser.hyper})
    return events


class League:
    """AlphaStar's league (Vinyals et al. 2019, supplement): learners take the roles of ROLES in turn.

    pfsp(me, ids, weighting) -> weights of `ids`, by how hard ("hard") or how even ("even") they are for `me`."""

    def __init__(self, learners: list[str], pool: Pool, ratings: Ratings, pfsp, reset_frames: float):
        self.pool, self.ratings, self.pfsp, self.reset_frames = pool, ratings, pfsp, reset_frames
        self.role = {name: ROLES[k % 3] for k, name in enumerate(learners)}
        self.mains = [name for name in learners if self.role[name] == "main"]

    def candidates(self, me: str, rng: np.random.Generator) -> tuple[list[str], np.ndarray]:
        """Ids and weights of whom `me` may meet, by its role; none for a mirror match."""
        active, draw = self.pool.ids(), rng.random()
        if self.role[me] == "main":
            if draw < .35:                                                  # itself
                return [], np.zeros(0)
            if draw < .85:                                                  # the whole league, hard ones first
                return active, self.pfsp(me, active, "hard")
            forgotten = [name for name in active if self.role.get(self.pool.agent(name)) != "league_exploiter"
                         and self.ratings.winrate(me, name) < .5]
            return forgotten, self.pfsp(me, forgotten, "hard")
        if self.role[me] == "main_exploiter":
            target = self.mains[rng.integers(len(self.mains))]
            if self.ratings.winrate(me, target) > .1:                       # it stands a chance: the present main agent
                return [target], np.ones(1)
            past = [name for name in active if self.pool.agent(name) == target]
            return (past, self.pfsp(me, past, "even")) if past else ([target], np.ones(1))
        return active, self.pfsp(me, active, "hard")

    def starts_anew(self, me: str, frames: int, rng: np.random.Generator) -> bool:
        """Has exploiter `me`, `frames` game frames after its last start, done what it can? It beats 70 % in 10 or more
        recent games each, or its time is up; the league's exploiter then starts anew once in four times."""
        if self.role[me] == "main" or not frames:
            return False
        targets = self.mains if self.role[me] == "main_exploiter" else self.pool.ids()
        done = bool(targets) and all(self.ratings.games(me, name) >= 10 and self.ratings.winrate(me, name) > .7
                                     for name in targets)
        return (done or frames >= self.reset_frames) and (self.role[me] == "main_exploiter" or rng.random() < .25)


class Turn:
    """Round-robin: whose turn it is to learn, and the best weights of that turn with their optimiser.

    A turn ends at win rate `winrate` over `games` games or more, after `patience` win rates without a better one, or
    after `frames` game frames."""

    def __init__(self, *, winrate: float, games: int, patience: int, frames: float, learners: list[Learner] = ()):
        """learners: those who take turns, for `load_state_dict`."""
        self.learners = learners
        self.limits = {"winrate": winrate, "games": games, "patience": patience, "frames": frames}
        self._begin(0, 0)

    def _begin(self, learner: int, step: int) -> None:
        self.learner, self.start = learner, step
        self.best, self.without_better = -1., 0
        self.weights: tuple | None = None
        self.scores: list[float] = []

    def over(self, learner: Learner, step: int) -> bool:
        """Asked at every pool addition; `scores` gathers results against others until they are enough for a win
        rate."""
        late, rate = step - self.start >= self.limits["frames"], -1.
        if len(self.scores) >= self.limits["games"]:
            rate, self.scores = float(np.mean(self.scores)), []
            self.without_better += 1
            if rate > self.best:
                self.best, self.without_better = rate, 0
                self.weights = copy.deepcopy((learner.policy.state_dict(), learner.optimizer.state_dict()))
        return late or rate >= self.limits["winrate"] or self.without_better >= self.limits["patience"]

    def pass_on(self, learners: list[Learner], step: int) -> int:
        """The learner goes back to its best weights; -> the index of the next one."""
        if self.weights is not None:
            learners[self.learner].become(*self.weights)
        self._begin((self.learner + 1) % len(learners), step)
        return self.learner

    def state_dict(self) -> dict:
        return {name: value for name, value in vars(self).items() if name not in ("limits", "learners")}

    def load_state_dict(self, state: dict) -> None:
        varies = {"weights": None, "scores": [0., ...]}
        check_state({**state, "weights": None}, {**self.state_dict(), **varies}, "turn")
        if not 0 <= state["learner"] < len(self.learners):
            raise ValueError(f"turn.learner is {state['learner']}, of {len(self.learners)}")
        if state["weights"] is not None:
            (policy, optimizer), learner = state["weights"], self.learners[state["learner"]]
            check_state(policy, learner.policy.state_dict(), "turn.weights")
            learner.check_optimizer(optimizer, "turn.optimizer")
        vars(self).update(state)

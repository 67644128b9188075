"""Populations: independent learners, whose turn it is, who copies whom."""

import copy
import json
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from cleanmelee.pool import Ratings
from melee_common import Policy

# ---------------------------------------------------------------------------------------------------------------------
# Matchmaking: whom a learner meets
# ---------------------------------------------------------------------------------------------------------------------

ROLES = ("main", "main_exploiter", "league_exploiter")


# ---------------------------------------------------------------------------------------------------------------------
# Populations: who sits where, whose turn it is, who copies whom
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class PopulationArgs:
    """The flags of a population of learners."""
    population_size: int = 1
    """independent learners, e.g. 4, each with its own network, optimiser, games and hyperparameters (off: 1)"""
    pbt: bool = False
    """population-based training: the weakest fifth copies the strongest and varies its hyperparameters (off: False)"""
    pbt_interval: int = 100
    """iterations between two rounds of --pbt"""
    train_order: Literal["parallel", "round-robin"] = "parallel"
    """all learners learn at once, or one at a time while the others wait (off: parallel)"""
    turn_winrate: float = .7
    """round-robin: win rate against others, over --turn-games games or more, that ends a learner's turn (off: 1)"""
    turn_games: int = 20
    """round-robin: finished games against others that a win rate needs; it is taken at the next pool addition"""
    turn_patience: int = 5
    """round-robin: win rates in a row without a better one that end a turn; the learner keeps its best weights
    (off: 1000000000)"""
    turn_frames: int = 1_000_000
    """round-robin: game frames that end a turn (off: 1000000000000)"""


class Learner:
    """One agent of the population: network, optimiser, hyperparameters and random stream. It shares nothing with the others."""

    def __init__(self, name: str, policy: Policy, args, index: int):
        self.name, self.policy, self.asynchronous = name, policy.eval(), args.async_learning    # no network has a train mode
        self.rng = np.random.default_rng([args.seed, index])                # minibatches, hyperparameters
        self.hyper = {"learning_rate": args.learning_rate, "entropy_coef": args.entropy_coef, "ppo_clip": args.ppo_clip}
        if args.pbt:
            for key in self.hyper:
                self.hyper[key] *= math.exp(self.rng.uniform(-math.log(3), math.log(3)))
        self.optimizer = torch.optim.Adam(policy.parameters(), lr=args.learning_rate, eps=1e-5)
        self.updates, self.agent_frames, self.born = 0, 0, 0                # born: global_step of its last start
        self.teacher_state: tuple = ()
        self.publish()

    def publish(self) -> None:
        """From now on the present weights act: the policy itself, or a copy where it learns while games go on."""
        self.acting = copy.deepcopy(self.policy) if self.asynchronous else self.policy

    def become(self, policy: dict, optimizer: dict | None) -> None:
        """Copies weights; without an optimiser's state Adam starts anew."""
        self.policy.load_state_dict(policy)
        self.optimizer = torch.optim.Adam(self.policy.parameters(), lr=self.hyper["learning_rate"], eps=1e-5)
        if optimizer:
            self.optimizer.load_state_dict(copy.deepcopy(optimizer))
        self.publish()

    def state_dict(self) -> dict:
        return {"policy": self.policy.state_dict(), "optimizer": self.optimizer.state_dict(), "hyper": self.hyper,
                "rng": json.dumps(self.rng.bit_generator.state), "updates": self.updates, "agent_frames": self.agent_frames,
                "born": self.born, "teacher_state": list(self.teacher_state)}

    def load_state_dict(self, state: dict) -> None:
        self.hyper = dict(state["hyper"])
        self.become(state["policy"], state["optimizer"])
        self.rng.bit_generator.state = json.loads(state["rng"])
        self.updates, self.agent_frames, self.born = state["updates"], state["agent_frames"], state["born"]
        self.teacher_state = tuple(state["teacher_state"])


def make_learners(initial: Policy, args) -> list[Learner]:
    """--population-size learners. All start from --pretrained; without it the first is `initial`, the others start apart."""
    names = ["main"] if args.population_size == 1 else [f"agent{k + 1}" for k in range(args.population_size)]
    if args.league:
        names = [ROLES[k % 3] + (str(k // 3 + 1) if k > 2 else "") for k in range(args.population_size)]
    sizes = initial.config["backbone"], tuple(initial.config["hidden"])
    return [Learner(name, copy.deepcopy(initial) if k == 0 or args.pretrained else Policy(*sizes), args, k)
            for k, name in enumerate(names)]


def pbt_round(learners: list[Learner], ratings: Ratings) -> list[dict]:
    """Population-based training (Jaderberg et al. 2017): by Elo, each of the bottom fifth copies weights, optimiser and
    hyperparameters of one of the top fifth, and multiplies each hyperparameter by .8 or 1.2. Returns what was done."""
    ranked = sorted(learners, key=lambda learner: ratings.row(learner.name)[0])
    fifth, events = max(1, len(ranked) // 5), []
    for loser in ranked[:fifth]:
        winner = ranked[-1 - loser.rng.integers(fifth)]
        loser.hyper = {key: value * float(loser.rng.choice([.8, 1.2])) for key, value in winner.hyper.items()}
        loser.become(winner.policy.state_dict(), winner.optimizer.state_dict())
        ratings.forget(loser.name)                                          # its results were those of other weights
        ratings.row(loser.name)[0] = ratings.row(winner.name)[0]
        events.append({"learner": loser.name, "copied": winner.name, **loser.hyper})
    return events


class Turn:
    """Round-robin: whose turn it is to learn, and the best weights of that turn with their optimiser."""

    def __init__(self, args: PopulationArgs):
        self.args, self.learner, self.start = args, 0, 0
        self._begin(0, 0)

    def _begin(self, learner: int, step: int) -> None:
        self.learner, self.start, self.best, self.without_better = learner, step, -1., 0
        self.weights: tuple | None = None
        self.scores: list[float] = []

    def over(self, learner: "Learner", step: int) -> bool:
        """Asked at every pool addition; `scores` gathers results against others until they are enough for a win rate."""
        late, rate = step - self.start >= self.args.turn_frames, -1.
        if len(self.scores) >= self.args.turn_games:
            rate, self.scores, self.without_better = float(np.mean(self.scores)), [], self.without_better + 1
            if rate > self.best:
                self.best, self.without_better = rate, 0
                self.weights = copy.deepcopy((learner.policy.state_dict(), learner.optimizer.state_dict()))
        return late or rate >= self.args.turn_winrate or self.without_better >= self.args.turn_patience

    def pass_on(self, learners: list[Learner], step: int) -> int:
        """The learner goes back to its best weights; -> the index of the next one."""
        if self.weights is not None:
            learners[self.learner].become(*self.weights)
        self._begin((self.learner + 1) % len(learners), step)
        return self.learner

    def state_dict(self) -> dict:
        return {name: value for name, value in vars(self).items() if name != "args"}

    def load_state_dict(self, state: dict) -> None:
        vars(self).update(state)

"""All games of all learners: who plays which port, what networks remember of their games, who gets credit for a result.

Who shall meet whom is the script's decision; here is what must hold whatever it decides: an opponent stays to the end
of its game, its memory begins with the game, and a result goes to the ids that started it."""

import json

import numpy as np
import torch

from cleanmelee.cli import UserError
from cleanmelee.distributed import all_gather, world_size
from cleanmelee.dolphin import CPU_LEVELS
from cleanmelee.frame import outcomes
from cleanmelee.game import BOTS
from cleanmelee.games import BOT_SLOT, VecEnv
from cleanmelee.observation import Observation, Pending
from cleanmelee.pool import Pool, Ratings, Rotation
from cleanmelee.population import Learner
from cleanmelee.runs import check_state
from cleanmelee.terminal import warn
from melee_common import Policy, StackedPolicies, act

MIRROR = ""                                             # an opponent: the learner itself, both sides learn
ARRAYS = ("learner_of", "port", "dones", "rated", "may_change", "lengths", "paid")


class SelfPlay:
    """The state of self-play beside that of the games. N games; an opponent is an id: MIRROR, another learner, a
    checkpoint of the pool, a scripted bot, or one of `load_others`.

        learner_of [N]    the learner (its index) that learns from a game, on both ports in a mirror match
        port [N]          where that learner plays, 0 or 1
        opponents [N]     ids
        dones [N]         the next observation begins a game
        lengths [N]       game frames so far; paid [terms, N]: what they paid the learner (at `port`), by reward term
        pending           what everybody has chosen and what has not acted yet
        may_change [N]    a game that begins draws an opponent; set anew by every `begin_iteration`
        assignment [N, 2] index into `policies` of who plays a port (BOT_SLOT: nobody of ours)
        policy_ids        learners first, then frozen opponents; `policies` and `states` go with them"""

    def __init__(self, envs: VecEnv, learners: list[Learner], pool: Pool, ratings: Ratings, *, seed: int,
                 reward_terms=(), one_at_a_time: bool = False, most_opponents: int = 4, stack: bool = False,
                 load_others=None):
        """reward_terms: their names. one_at_a_time: all games are the first learner's until `hand_over`.
        most_opponents: frozen networks that may play against a learner at once. stack: one batched forward for all
        networks. load_others(id) -> a frozen policy that is not of the pool, or None."""
        self.envs, self.learners, self.pool, self.ratings = envs, learners, pool, ratings
        self.names = [learner.name for learner in learners]
        n = envs.num_games
        self.learner_of = np.zeros(n, np.int64) if one_at_a_time else np.arange(n) * len(learners) // n
        self.port, self.lengths = np.zeros((2, n), np.int64)
        self.reward_terms, self.paid = reward_terms, np.zeros((len(reward_terms), n))
        self.opponents = [MIRROR] * n
        self.dones, self.may_change, self.rated = np.ones((3, n), bool)
        self.pending = Pending(n, learners[0].policy.frame_delay, envs.action_repeat)
        self.rotations = [Rotation(most_opponents) for _ in learners]
        self.not_frozen = {MIRROR, *self.names, *BOTS, *CPU_LEVELS}
        self.load_others, self.stack = load_others or (lambda name: None), stack
        self.policy_ids: list[str] = []
        self.policies: list[Policy] = []
        self.states = {learner.name: learner.acting.initial_state(2 * n) for learner in learners}
        self.rng = np.random.default_rng(seed)                              # opponents
        self.noise = torch.Generator().manual_seed(seed)                    # action sampling
        self.begin_iteration()

    def begin_iteration(self) -> None:
        """Weights may have changed since the last one; results are counted anew."""
        active = set(self.pool.ids())
        for rotation, playing in zip(self.rotations, self._playing(), strict=True):
            rotation.refresh(playing, active)
        self.stacked = None
        self.may_change[:] = True
        self.scores = {name: {} for name in self.names}                     # against others: by whom a list
        self.episodes = {name: [] for name in self.names}                   # finished games: length, what they paid
        self.rated_later: list[tuple[str, str, float]] = []
        self.finished = self.truncated = 0

    def end_iteration(self) -> None:
        """Ratings and metrics are of all ranks' games: results move the ratings now, in the same order everywhere. (Of
        one rank they have done so as the games ended.)"""
        everyones = all_gather((self.rated_later, self.scores, self.episodes, self.finished, self.truncated))
        rated_later, scores, episodes, finished, truncated = zip(*everyones, strict=True)
        for result in sum(rated_later, []):
            self.ratings.record(*result)
        self.scores, self.episodes = {name: {} for name in self.names}, {name: [] for name in self.names}
        for name in self.names:
            self.episodes[name] = sum((of_rank[name] for of_rank in episodes), [])
            for of_rank in scores:
                for opponent, of_these in of_rank[name].items():
                    self.scores[name].setdefault(opponent, []).extend(of_these)
        self.finished, self.truncated = sum(finished), sum(truncated)

    def begin_games(self) -> np.ndarray:
        """The games that begin now, for which the caller sets ports and opponents; then `look_up_policies`."""
        begun = np.flatnonzero(self.dones)
        self.pending.reset(begun)
        for g in begun[self.may_change[begun]]:
            self.opponents[g] = MIRROR                                      # the last one's game is over
        for rotation, playing in zip(self.rotations, self._playing(), strict=True):
            rotation.begin(playing)
        return begun

    def set_opponent(self, game: int, drawn: str) -> None:
        """`drawn`, or in its place a frozen policy that plays already, if no more may play at once."""
        frozen = drawn not in self.not_frozen and self.load_others(drawn) is None
        self.opponents[game] = self.rotations[self.learner_of[game]].pick(drawn, self.rng) if frozen else drawn

    def look_up_policies(self, begun: np.ndarray) -> None:
        """Policies, memories and scripted bots for the opponents as they are set now."""
        for g in begun:
            self.rated[g] = True
            self.envs.set_bot(g, 1 - self.port[g], BOTS.get(self.opponents[g], 0))
        before, playing = self.policy_ids, dict(zip(self.policy_ids, self.policies, strict=True))
        # Who plays already stays as it is, whatever becomes of its file; who cannot be read begins no game.
        frozen = {name: playing.get(name) or self._readable(name)
                  for name in sorted(set(self.opponents) - self.not_frozen)}
        self.opponents = [MIRROR if frozen.get(name, name) is None else name for name in self.opponents]
        frozen = {name: policy for name, policy in frozen.items() if policy is not None}
        self.policy_ids = [*self.names, *frozen]
        self.policies = [learner.acting for learner in self.learners] + list(frozen.values())
        self.states = {name: self.states[name] if name in self.states else policy.initial_state(2 * len(self.port))
                       for name, policy in zip(self.policy_ids, self.policies, strict=True)}
        index = {name: k for k, name in enumerate(self.policy_ids)} | dict.fromkeys((*BOTS, *CPU_LEVELS), BOT_SLOT)
        self.assignment = self.learner_of[:, None].repeat(2, 1)
        self.assignment[np.arange(len(self.port)), 1 - self.port] = [
            self.learner_of[g] if name == MIRROR else index[name] for g, name in enumerate(self.opponents)]
        self.stacked = self.stacked if self.policy_ids == before else None

    def _playing(self) -> list[set[str]]:
        """The frozen networks that play against each learner."""
        return [{self.opponents[g] for g in np.flatnonzero(self.learner_of == k)} - self.not_frozen
                for k in range(len(self.names))]

    def act(self, obs: Observation, told: np.ndarray) -> np.ndarray:
        """obs of all games -> actions [N, 2, 13] of everybody; of learners' actions the log-probabilities, and the
        values of what they saw, are written into told [2, N, 2]."""
        if self.stack and self.stacked is None and len({repr(policy.config) for policy in self.policies}) == 1:
            self.stacked = StackedPolicies(self.policies)
        states = [self.states[name] for name in self.policy_ids]
        actions = act(self.policies, self.assignment, obs, states, self.dones, self.noise, self.stacked,
                      len(self.learners), told)
        self.states = dict(zip(self.policy_ids, states, strict=True))
        return actions

    def record(self, terminated: np.ndarray, truncated: np.ndarray, broken: np.ndarray, frames: np.ndarray,
               paid: np.ndarray) -> None:
        """After a step: [N] how games ended, FRAME [N] their last frames, what the step paid by reward term
        [terms, N, 2]. A broken game has no result."""
        self.dones = terminated | truncated
        self.lengths += self.envs.action_repeat
        self.paid += paid[:, np.arange(len(self.port)), self.port]
        games = np.flatnonzero(self.dones & ~broken)
        for g in games:
            self.episodes[self.names[self.learner_of[g]]].append((int(self.lengths[g]), *self.paid[:, g].tolist()))
        self.lengths[self.dones], self.paid[:, self.dones] = 0, 0
        if not len(games):
            return
        scores = (1 + outcomes(frames[games]) * (1 - 2 * self.port[games])) / 2
        for g, score in zip(games, scores.tolist(), strict=True):
            if self.opponents[g] != MIRROR and self.rated[g]:
                me = self.names[self.learner_of[g]]
                result = me, self.opponents[g], score
                self.ratings.record(*result) if world_size() == 1 else self.rated_later.append(result)
                named = self.opponents[g] in self.not_frozen or self.load_others(self.opponents[g]) is not None
                group = self.opponents[g] if named else "pool"
                self.scores[me].setdefault(group, []).append(score)
        self.finished += len(games)
        self.truncated += int(truncated[games].sum())

    def results(self, learner: str) -> dict[str, float]:
        """Metrics of the games that this learner has finished in the iteration: return and length as CleanRL names
        them, the return by reward term, and how it did against whom. Means; what nothing is known of is left out."""
        scores, episodes = self.scores[learner], self.episodes[learner]
        row = {"selfplay/history_games": sum(map(len, scores.values()))}
        row |= {f"selfplay/score_{opponent}": float(np.mean(of_these)) for opponent, of_these in sorted(scores.items())}
        if scores:
            row["selfplay/history_score"] = float(np.mean(sum(scores.values(), [])))
        if episodes:
            length, *paid = np.mean(episodes, 0).tolist()
            row |= {"charts/episodic_length": length, "charts/episodic_return": sum(paid),
                    **{f"rewards/{term}": value for term, value in zip(self.reward_terms, paid, strict=True)}}
        return row

    def forget(self, learner: str) -> None:
        """This learner's network is another one now, which has seen nothing of the running games."""
        self.states[learner] = tuple(torch.zeros_like(part) for part in self.states[learner])

    def hand_over(self, learner: int) -> None:
        """Round-robin: all games go on with this learner; results of games that another one began do not count."""
        self.learner_of[:], self.rated[:], self.may_change[:] = learner, False, True
        self.lengths[:], self.paid[:] = 0, 0
        self.states = {each.name: each.acting.initial_state(2 * len(self.port)) for each in self.learners}
        for each in self.learners:
            each.teacher_state = ()                                      # it followed other games than it will see next

    def state_dict(self) -> dict:
        pending = {name: torch.from_numpy(array.copy()) for name, array in self.pending.state_dict().items()}
        return {**{name: getattr(self, name).tolist() for name in ARRAYS}, "opponents": self.opponents,
                "recent": [rotation.recent for rotation in self.rotations], **pending,
                "states": {name: list(state) for name, state in self.states.items()},
                "rng": json.dumps(self.rng.bit_generator.state), "noise": self.noise.get_state()}

    def load_state_dict(self, state: dict) -> None:
        """Back to `state`; envs and learners are to be so already. A game whose frozen opponent cannot be read any more
        begins anew."""
        varies = {"recent": [["", ...]] * len(self.learners), "states": {}}
        check_state({**state, "states": {}}, {**self.state_dict(), **varies}, "selfplay")
        learner_of, slots = state["learner_of"], 2 * len(self.port)
        if learner_of != sorted(learner_of) or not set(learner_of) <= set(range(len(self.learners))):
            raise ValueError("selfplay.learner_of names learners that there are not")
        if not set(state["port"]) <= {0, 1}:
            raise ValueError("selfplay.port has others than 0 and 1")
        memories = {learner.name: learner.acting for learner in self.learners} | {
            name: policy for name in set(state["opponents"]) - self.not_frozen if (policy := self._readable(name))}
        for name, policy in memories.items():                               # hand_over keeps those of learners alone
            if name in state["states"] or name in self.names:
                check_state(state["states"][name], list(policy.initial_state(slots)), f"selfplay.states.{name}")
        for k, learner in enumerate(self.learners):
            if learner.teacher_state:                                       # a teacher is built like its pupil
                remembered = list(learner.policy.initial_state(2 * learner_of.count(k)))
                check_state(list(learner.teacher_state), remembered, f"{learner.name}.teacher_state")

        for name in ARRAYS:
            setattr(self, name, np.array(state[name], getattr(self, name).dtype).reshape(getattr(self, name).shape))
        self.opponents = list(state["opponents"])
        for rotation, recent in zip(self.rotations, state["recent"], strict=True):
            rotation.recent = list(recent)
        self.states = {name: tuple(part.to(memories[name].device if name in memories else "cpu") for part in tensors)
                       for name, tensors in state["states"].items()}
        self.pending.load_state_dict(state)
        self.rng.bit_generator.state = json.loads(state["rng"])
        self.noise.set_state(state["noise"])

        gone = np.array([name not in self.not_frozen and name not in memories for name in self.opponents])
        for g in np.flatnonzero(gone):
            self.opponents[g] = MIRROR
        if not self.envs.dolphin:                                           # there all games begin anew in any case
            self.envs.games.reset(gone & ~self.dones)
        self.dones |= gone
        self.lengths[gone], self.paid[:, gone] = 0, 0

    def _readable(self, name: str) -> Policy | None:
        """The frozen policy of an id; None, with a warning, if there is none that can be read."""
        try:
            return self.load_others(name) or self.pool.load(name)
        except (UserError, OSError, ValueError) as error:
            warn(f"{error}; its games go to others, and begin anew where they had begun")
            return None

"""Self-play PPO: a policy learns Melee against itself, its own past and others.

    python ppo_selfplay.py --num-games 8                                 # from scratch on the embedded game
    python ppo_selfplay.py --pretrained runs/bc/checkpoints/best.pt      # from a cloned policy
    python ppo_selfplay.py --population-size 4 --pbt --matchmaking population
    python ppo_selfplay.py --resume runs/NAME                            # go on as if never stopped

One iteration: every game is played for `--rollout-length` steps (collect), advantages are computed per game (prepare), and PPO
runs `--ppo-epochs` over what the learner itself did (update). In three of four games the learner plays both sides and learns
from both; in the others it meets a frozen checkpoint of the pool, whose rows never enter a batch. Results of those games move
the Elo table. Strength is measured apart (eval.jsonl). All else, from populations to asynchronous learning, is off by default.
"""

import copy
import functools
import json
import math
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from rich.console import Console

from cleanmelee.cli import CHARACTER_PRESETS, UserError, check_numbers, parse_names, run_script
from cleanmelee.dolphin import CPU_LEVELS, DOLPHIN_LIMITS, DolphinArgs, check_dolphin
from cleanmelee.evaluation import Evaluator, StrengthArgs
from cleanmelee.files import append_jsonl, atomic_write, check_writable, keep_jsonl
from cleanmelee.frame import CHARACTERS, FRAME, outcomes
from cleanmelee.game import BOTS
from cleanmelee.pool import Pool, Ratings, print_elo
from cleanmelee.population import ROLES, Learner, PopulationArgs, Turn, make_learners, pbt_round
from cleanmelee.rewards import RewardArgs, compute_rewards
from cleanmelee.runs import iteration_progress, lock_run, plot_winrates, start_run, stop_on_interrupt
from melee_common import (
    ACTION_SIZE, BOT_SLOT, NUM_FLOATS, NUM_INTS, Observation, Policy, StackedPolicies, VecEnv, act, action_kl,
    action_logprobs, decode_actions, evaluate_actions, load_checkpoint, load_policy, matchups, mirrored, observe,
    parse_hidden, save_checkpoint,
)


# ---------------------------------------------------------------------------------------------------------------------
# Advantages, outcomes, intervals
# ---------------------------------------------------------------------------------------------------------------------


def compute_gae(rewards, values, next_values, terminated, truncated, gamma: float, gae_lambda: float, rho=None):
    """Generalised advantages and value targets. All arrays [T, ...]; next_values[t] is the value of the state that followed
    step t: where a game was truncated the value of its last frame, otherwise values[t + 1] or the bootstrap after the rollout.
    Termination has no next value; neither kind of ending lets advantage flow over into the next game.

    rho [T, ...]: V-trace's truncated importance weights min(1, learner's probability / actor's) for rollouts of an older
    policy (Espeholt et al. 2018, with lambda; an action's own weight is left to the PPO ratio). None is weights of 1: GAE."""
    advantages, targets = np.zeros_like(rewards), np.zeros_like(rewards)
    running = np.zeros_like(rewards[0])
    rho = np.ones_like(rewards) if rho is None else rho
    alive = 1 - terminated.astype(np.float32)
    same_game = alive * (1 - truncated.astype(np.float32))
    deltas = rewards + gamma * next_values * alive - values
    for t in reversed(range(len(rewards))):
        advantages[t] = deltas[t] + gamma * gae_lambda * same_game[t] * running
        running = rho[t] * advantages[t]
        targets[t] = values[t] + running
    return advantages, targets


# ---------------------------------------------------------------------------------------------------------------------
# Matchmaking: whom a learner meets
# ---------------------------------------------------------------------------------------------------------------------

MIRROR = ""                                                                 # the learner itself: both sides learn
OPPONENT = "opponent"                                                       # the frozen policy of --opponent
HISTORY_PROB = {"self": 0., "simple_mix": .25, "pfsp": .5, "league": .5, "historical": 1., "population": 1.}


@dataclass
class MatchArgs:
    """The flags of Matchmaker and of the pool."""
    character: str = "mewtwo"
    """the learner's character; several, separated by commas, or low_tiers, top_tiers, all are played in turn"""
    opponent_character: str = ""
    """the opponents' character or characters (off: empty, the same as the learner's)"""
    stage: str = "final_destination"
    """stage, stages or all"""
    matchmaking: Literal["simple_mix", "self", "historical", "population", "league", "pfsp"] = "simple_mix"
    """whom a learner meets: simple_mix its present self or a past checkpoint; self always itself; historical any checkpoint of
    the pool; population the other learners as they are now; league checkpoints near its own Elo; pfsp those it loses to"""
    history_prob: float | None = None
    """share of games against an opponent that --matchmaking draws, the others are against itself (default: .25 for simple_mix,
    .5 for pfsp and league, 1 for historical and population; off: 0)"""
    pfsp_weighting: Literal["hard", "even"] = "hard"
    """pfsp prefers opponents that win (hard: (1 - p)^2 at win rate p) or that are as strong (even: p (1 - p))"""
    league: bool = False
    """AlphaStar's roles in place of --matchmaking: learner 1 is the main agent, 2 its exploiter, 3 the league's exploiter, and
    so on (off: False; needs --population-size 3 or more)"""
    league_reset_frames: int = 4_000_000
    """game frames after which an exploiter that does not win starts anew from the initial weights (off: 1000000000000)"""
    opponents_per_iteration: int = 4
    """different frozen networks that may play against a learner at the same time, 2 or more: each costs a forward a step. When
    there are so many, the longest seated half gets no new games, and others are drawn as they leave (off: 1024)"""
    opponent_swap: Literal["reset", "rollout"] = "reset"
    """when a game slot draws a new opponent: reset at every new game, rollout at the first new game of a rollout"""
    opponent: str = ""
    """train against this frozen policy alone, to measure how far it can be exploited, or in Dolphin against Melee's own computer
    player, cpu1 to cpu9 (off: empty)"""
    opponent_bots: str = ""
    """scripted opponents to mix in, separated by commas, e.g. level1,level5 (off: empty)"""
    bot_prob: float = .1
    """share of games against one of --opponent-bots (off: 0)"""
    history_size: int = 20
    """active checkpoints of each learner in the pool (off: 1000000000, none is ever retired)"""
    prune: Literal["oldest", "worst"] = "oldest"
    """which checkpoint of an agent is retired when it has more than --history-size"""
    keep_retired: bool = True
    """keep the files of retired checkpoints, for tournaments (off: --no-keep-retired, only those that may be drawn stay)"""
    pool_interval: int = 25
    """iterations between two additions to the pool, which begins with the initial policy (off: more than the run has)"""
    track_elo: bool = False
    """print the Elo table and the payoff matrix with counts at the end (off: False)"""


class Matchmaker:
    """Draws opponents by name: MIRROR, another learner, a checkpoint of the pool, a scripted bot, or OPPONENT."""

    def __init__(self, args: MatchArgs, learners: list[str], pool: Pool, ratings: Ratings):
        self.args, self.learners, self.pool, self.ratings = args, learners, pool, ratings
        self.history_prob = HISTORY_PROB[args.matchmaking] if args.history_prob is None else args.history_prob
        self.bots = parse_names(args.opponent_bots, BOTS, "bot") if args.opponent_bots else []
        self.role = {name: ROLES[k % 3] if args.league else "main" for k, name in enumerate(learners)}

    def draw(self, me: str, rng: np.random.Generator) -> str:
        """The opponent of learner `me` in its next game, as the strategy wants it."""
        if self.args.opponent:
            return self.args.opponent if self.args.opponent in CPU_LEVELS else OPPONENT
        if self.bots and rng.random() < self.args.bot_prob:
            return self.bots[rng.integers(len(self.bots))]
        names, weights = self.league(me, rng) if self.args.league else self.candidates(me, rng)
        if not names:
            return MIRROR
        weights = weights / weights.sum() if weights.sum() > 0 else np.full(len(names), 1 / len(names))
        if names[0] in self.learners:
            return names[rng.choice(len(names), p=weights)]
        return self.pool.sample(rng, names, weights) or MIRROR              # a checkpoint that cannot be read is passed over

    def candidates(self, me: str, rng: np.random.Generator) -> tuple[list[str], np.ndarray]:
        """Names and weights of whom --matchmaking may draw; none for a mirror match."""
        if rng.random() >= self.history_prob:
            return [], np.zeros(0)
        if self.args.matchmaking == "population":
            others = [name for name in self.learners if name != me]
            return others, np.ones(len(others))
        names = self.pool.ids()
        if self.args.matchmaking == "pfsp":
            return names, self.pfsp(me, names, self.args.pfsp_weighting)
        if self.args.matchmaking == "league":
            return names, self.near(me, names)
        return names, np.ones(len(names))

    def pfsp(self, me: str, names: list[str], weighting: str) -> np.ndarray:
        """Prioritised fictitious self-play: weights from the decayed win rate against each, with a floor: a tenth of the games
        go to all of them alike, so that nobody is forgotten for having been beaten once."""
        p = np.array([self.ratings.winrate(me, name) for name in names])
        weights = (1 - p) ** 2 if weighting == "hard" else p * (1 - p)
        return .9 * weights / weights.sum() + .1 / len(names) if weights.sum() > 0 else np.ones(len(names))

    def near(self, me: str, names: list[str], tier: float = 200.) -> np.ndarray:
        """Weights by Elo: tiers of 200 points; one's own and the two beside it, the closer the likelier; else all."""
        mine, elo = self.ratings.elo(me), np.array([self.ratings.elo(name) for name in names])
        weights = np.exp(-((elo - mine) / tier) ** 2)
        return np.where(np.abs(elo // tier - mine // tier) <= 1, weights, 0)

    def league(self, me: str, rng: np.random.Generator) -> tuple[list[str], np.ndarray]:
        """The mixtures of AlphaStar's league (Vinyals et al. 2019, supplement), by the role of `me`."""
        active, draw = self.pool.ids(), rng.random()
        mains = [name for name in self.learners if self.role[name] == "main"]
        if self.role[me] == "main":
            if draw < .35:                                                  # itself
                return [], np.zeros(0)
            if draw < .85:                                                  # the whole league, hard ones first
                return active, self.pfsp(me, active, "hard")
            forgotten = [name for name in active if self.role.get(self.pool.agent(name)) != "league_exploiter"
                         and self.ratings.winrate(me, name) < .5]
            return forgotten, self.pfsp(me, forgotten, "hard")
        if self.role[me] == "main_exploiter":
            target = mains[rng.integers(len(mains))]
            if self.ratings.winrate(me, target) > .1:                       # it stands a chance: the present main agent
                return [target], np.ones(1)
            past = [name for name in active if self.pool.agent(name) == target]
            return (past, self.pfsp(me, past, "even")) if past else ([target], np.ones(1))
        return active, self.pfsp(me, active, "hard")

    def starts_anew(self, me: str, frames: int, rng: np.random.Generator) -> bool:
        """Has exploiter `me`, `frames` game frames after its last start, done what it can? It beats 70 % in 10 or more recent
        games each, or its time is up; the league's exploiter then starts anew once in four times."""
        if self.role[me] == "main" or not frames:
            return False
        mains = [name for name in self.learners if self.role[name] == "main"]
        targets = mains if self.role[me] == "main_exploiter" else self.pool.ids()
        done = bool(targets) and all(self.ratings.games(me, name) >= 10 and self.ratings.winrate(me, name) > .7
                                     for name in targets)
        return (done or frames >= self.args.league_reset_frames) and (self.role[me] == "main_exploiter" or rng.random() < .25)


# ---------------------------------------------------------------------------------------------------------------------
# Strength: what a policy can do against opponents that do not learn with it
# ---------------------------------------------------------------------------------------------------------------------


def computer_levels(args, num_games: int) -> np.ndarray:
    """[N, 2] for VecEnv: the computer player of --opponent sits at port g % 2 of game g, and stays there."""
    levels = np.zeros((num_games, 2), int)
    levels[np.arange(num_games), np.arange(num_games) % 2] = CPU_LEVELS.get(args.opponent, 0)
    return levels


# ---------------------------------------------------------------------------------------------------------------------
# Populations: who sits where, whose turn it is, who copies whom
# ---------------------------------------------------------------------------------------------------------------------


class Arena:
    """All games of all learners: who sits where, what networks remember of their games, and who gets the credit for a result.

        arena.seat()                          games that begin draw their opponents
        arena.act(obs)                        -> actions [N, 2, 13] of everybody
        arena.settle(ended, final_frames)     results go to the ids that started the games

    `owner` [N] is the learner (its index) that learns from a game, on both ports in a mirror match. The learner sits at port
    (slot + episode) % 2, so that it plays as often from either side; character and stage go through their lists likewise.
    Against Melee's computer player, who keeps its port, it sits at (slot + 1) % 2."""

    def __init__(self, args, envs: VecEnv, learners: list[Learner], pool: Pool, ratings: Ratings):
        self.args, self.envs, self.learners, self.pool, self.ratings = args, envs, learners, pool, ratings
        self.names = [learner.name for learner in learners]
        self.matchmaker = Matchmaker(args, self.names, pool, ratings)
        n, self.changes_sides = envs.num_games, args.opponent not in CPU_LEVELS
        self.owner = np.arange(n) * len(learners) // n if args.train_order == "parallel" else np.zeros(n, np.int64)
        self.opponents = [MIRROR] * n
        self.due, self.credit, self.resets = np.ones((3, n), bool)          # draws an opponent, keeps its result, begins a game
        self.port = np.zeros(n, np.int64)                                   # of each game's learner
        self.networks: list[str] = []
        self.open: list[list[str]] = [[] for _ in learners]                 # frozen networks that may begin games, by seniority
        self.states = {name: learner.acting.initial_state(2 * n) for name, learner in zip(self.names, learners, strict=True)}
        self.rng = np.random.default_rng(args.seed)                         # opponents
        self.noise = torch.Generator().manual_seed(args.seed)               # action sampling
        self.begin_iteration()

    def begin_iteration(self) -> None:
        """Weights may have changed since the last one; results are counted anew. Where --opponents-per-iteration networks play,
        those seated longest get no new games from now on: otherwise the same few would play for ever."""
        active, bound = set(self.pool.ids()), self.args.opponents_per_iteration
        for k, crowd in enumerate(self._crowds()):
            still = [name for name in self.open[k] if name in crowd and name in active]
            self.open[k] = still if len(crowd) < bound or active <= crowd else still[-(bound // 2):]
        self.stacked = None
        self.due[:] = True
        self.scores = {name: [] for name in self.names}                     # against others
        self.finished = self.truncated = 0

    def seat(self) -> None:
        """Draws the opponents of games that begin with the next frame; they stay until their games end."""
        begun, episode = np.flatnonzero(self.resets), self.envs.games.episode
        self.port[begun] = (begun + (episode[begun] if self.changes_sides else 1)) % 2
        for g in begun[self.due[begun]]:
            self.opponents[g] = MIRROR                                      # the last one's game is over
        crowds = [crowd.union(open_) for crowd, open_ in zip(self._crowds(), self.open, strict=True)]
        for g in begun:
            if self.due[g]:
                self.opponents[g] = self._draw(self.owner[g], crowds[self.owner[g]])
                self.due[g] = self.args.opponent_swap == "reset"
            self.credit[g] = True
            self.envs.set_bot(g, 1 - self.port[g], BOTS.get(self.opponents[g], 0))
        if len(begun):                                                      # a game is set up as the one before it ends
            next_port = self.port[begun] ^ self.changes_sides
            self.envs.set_matchup(begun, *matchups(self.args, begun + 2 * (episode[begun] + 1), next_port))
        before = self.networks
        self.networks = [*self.names, *sorted(set(self.opponents) - {MIRROR, *self.names, *BOTS, *CPU_LEVELS})]
        self.policies = [learner.acting for learner in self.learners]
        self.policies += [self._frozen(name) for name in self.networks[len(self.names):]]
        self.states = {name: self.states[name] if name in self.states else policy.initial_state(2 * len(self.port))
                       for name, policy in zip(self.networks, self.policies, strict=True)}
        index = {name: k for k, name in enumerate(self.networks)} | dict.fromkeys((*BOTS, *CPU_LEVELS), BOT_SLOT)
        self.assignment = self.owner[:, None].repeat(2, 1)
        self.assignment[np.arange(len(self.port)), 1 - self.port] = [
            self.owner[g] if name == MIRROR else index[name] for g, name in enumerate(self.opponents)]
        self.stacked = self.stacked if self.networks == before else None

    def _crowds(self) -> list[set[str]]:
        """The frozen networks that play against each learner."""
        return [{self.opponents[g] for g in np.flatnonzero(self.owner == k)} - {MIRROR, *self.names, *BOTS, *CPU_LEVELS}
                for k in range(len(self.names))]

    def _draw(self, k: int, crowd: set[str]) -> str:
        """An opponent for learner k, beside the frozen ones that it meets now: as the strategy draws it while there is room,
        else one of those that it drew a short while ago."""
        name, open_ = self.matchmaker.draw(self.names[k], self.rng), self.open[k]
        if name in {MIRROR, OPPONENT, *self.names, *BOTS, *CPU_LEVELS, *open_}:
            return name
        if len(crowd) >= self.args.opponents_per_iteration:
            open_ = open_ or Pool._sorted(crowd)[-1:]                       # all retired: an old one rather than a mirror
            return open_[self.rng.integers(len(open_))]
        crowd.add(name)
        open_.append(name)
        return name

    def _frozen(self, name: str) -> Policy:
        return _load_frozen(self.args.opponent) if name == OPPONENT else self.pool.load(name)

    def act(self, obs: Observation) -> np.ndarray:
        """obs of all games -> actions [N, 2, 13]"""
        if self.args.parallel_actions and self.stacked is None and len({repr(p.config) for p in self.policies}) == 1:
            self.stacked = StackedPolicies(self.policies)
        states = [self.states[name] for name in self.networks]
        actions = act(self.policies, self.assignment, obs, states, self.resets, self.noise, self.stacked)
        self.states = dict(zip(self.networks, states, strict=True))
        return actions

    def settle(self, terminated: np.ndarray, truncated: np.ndarray, broken: np.ndarray, frames: np.ndarray) -> None:
        """After a step: [N] how games ended, FRAME [N] their last frames. A broken game has no result."""
        self.resets = terminated | truncated
        games = np.flatnonzero(self.resets & ~broken)
        if not len(games):
            return
        scores = (1 + outcomes(frames[games]) * (1 - 2 * self.port[games])) / 2
        for g, score in zip(games, scores.tolist(), strict=True):
            if self.opponents[g] != MIRROR and self.credit[g]:
                me = self.names[self.owner[g]]
                self.ratings.record(me, self.opponents[g], score)
                self.scores[me].append(score)
        self.finished, self.truncated = self.finished + len(games), self.truncated + int(truncated[games].sum())

    def hand_over(self, learner: int) -> None:
        """Round-robin: all games go on with this learner; results of games that another one began do not count."""
        self.owner[:], self.credit[:], self.due[:] = learner, False, True
        self.states = {each.name: each.acting.initial_state(2 * len(self.owner)) for each in self.learners}
        for each in self.learners:
            each.teacher_state = ()                                         # it followed other games than it will see next

    def state_dict(self) -> dict:
        arrays = {name: getattr(self, name).tolist() for name in ("owner", "port", "resets", "credit", "due")}
        states = {name: list(state) for name, state in self.states.items()}
        return {**arrays, "opponents": self.opponents, "open": self.open, "states": states,
                "rng": json.dumps(self.rng.bit_generator.state), "noise": self.noise.get_state()}

    def load_state_dict(self, state: dict) -> None:
        self.opponents, self.owner, self.port = list(state["opponents"]), np.array(state["owner"]), np.array(state["port"])
        self.open = [list(names) for names in state["open"]]
        self.resets, self.credit, self.due = (np.array(state[name], bool) for name in ("resets", "credit", "due"))
        self.states = {name: tuple(tensors) for name, tensors in state["states"].items()}
        self.rng.bit_generator.state = json.loads(state["rng"])
        self.noise.set_state(state["noise"])


@functools.lru_cache(maxsize=2)
def _load_frozen(path: str) -> Policy:
    return load_policy(path)[0].requires_grad_(False)


def check_matchmaking(args) -> None:
    """One line for each flag of MatchArgs, StrengthArgs and PopulationArgs that cannot work."""
    many = 10 ** 9
    check_numbers(args, history_prob=(0, 1), bot_prob=(0, 1), opponents_per_iteration=(2, 1024),
                  league_reset_frames=(1, math.inf), eval_interval=(0, many), eval_games=(2, 65536),
                  population_size=(1, 1024), pbt_interval=(1, many),
                  turn_winrate=(0, 1), turn_games=(1, many), turn_patience=(1, many), turn_frames=(1, math.inf),
                  history_size=(1, many), pool_interval=(1, many))
    if args.eval_games % 2:
        raise UserError(f"--eval-games {args.eval_games}: must be even, since half of the games are played from either port")
    matchups(args, np.zeros(1, int), np.zeros(1, int))                      # unknown characters and stages
    parse_names(args.eval_opponents, BOTS, "bot")
    if args.opponent_bots and args.held_out in parse_names(args.opponent_bots, BOTS, "bot"):
        raise UserError(f"--opponent-bots {args.opponent_bots}: {args.held_out} is --held-out, which training must not meet")
    if args.opponent in CPU_LEVELS:
        if args.game_type != "dolphin":
            raise UserError(f"--opponent {args.opponent}: needs Dolphin, with --game-type dolphin, --dolphin and --iso")
        if "sheik" in parse_names(args.opponent_character or args.character, CHARACTERS, "character", CHARACTER_PRESETS):
            raise UserError(f"--opponent {args.opponent}: a computer player cannot be made to choose sheik; give it another "
                            "--opponent-character")
    for flag in ("opponent", "held_out"):
        file = getattr(args, flag)
        if file and file not in (BOTS if flag == "held_out" else CPU_LEVELS):
            data = load_policy(file)[1]
            if data["action_repeat"] != args.action_repeat:
                raise UserError(f"--{flag.replace('_', '-')} {file}: its --action-repeat is not {args.action_repeat}")
            if data["frame_delay"]:
                raise UserError(f"--{flag.replace('_', '-')} {file}: trained for a delay of {data['frame_delay']} frames; this "
                                "game has none")
    files = [Path(file).read_bytes() for file in (args.opponent, args.held_out) if file and file not in {*BOTS, *CPU_LEVELS}]
    if len(files) == 2 and files[0] == files[1]:
        raise UserError(f"--held-out {args.held_out}: the same policy as --opponent, which training meets; choose another")
    if args.pbt and (args.league or args.train_order == "round-robin"):
        raise UserError("--pbt: not together with --league or --train-order round-robin, whose learners cannot be compared")
    share = HISTORY_PROB[args.matchmaking] if args.history_prob is None else args.history_prob
    if args.pbt and not (share or args.opponent or args.opponent_bots and args.bot_prob):
        raise UserError("--pbt: needs results against others, so not --matchmaking self or --history-prob 0")
    if args.league and args.population_size < 3:
        raise UserError("--league: needs --population-size 3 or more")
    if args.population_size < 2 and (args.pbt or args.matchmaking == "population"):
        raise UserError(f"{'--pbt' if args.pbt else '--matchmaking population'}: needs --population-size 2 or more")


# ---------------------------------------------------------------------------------------------------------------------
# Run folders, logs and the command line
# ---------------------------------------------------------------------------------------------------------------------


def keep_opponents(args, run: Path) -> None:
    """Copies the files of --opponent and --held-out, since they may change or go, and points the flags at the copies."""
    for flag in ("opponent", "held_out"):
        copied = run / "checkpoints" / f"{flag}.pt"
        if not copied.exists() and getattr(args, flag) and getattr(args, flag) not in {*BOTS, *CPU_LEVELS}:
            atomic_write(copied, Path(getattr(args, flag)).read_bytes())
        if copied.exists():
            setattr(args, flag, str(copied))


def resume_run(args, args_type) -> tuple:
    """--resume: -> run folder, the arguments it was started with, its lock (hold on to it) and its checkpoint."""
    run = Path(args.resume)
    args_file = run / "args.json"
    if not args_file.is_file():
        raise UserError(f"{run}: not a run folder (no args.json in it); give the folder of a run, e.g. runs/NAME")
    given = {name for name, value in vars(args).items() if value != getattr(args_type, name)} - {"resume", "timesteps"}
    if given:
        raise UserError(f"--resume goes on with the run's own arguments; only --timesteps may change, not "
                        f"{', '.join('--' + name.replace('_', '-') for name in sorted(given))}")
    timesteps = args.timesteps
    try:
        args = args_type(**json.loads(args_file.read_text()))
    except (ValueError, TypeError) as error:
        raise UserError(f"{args_file}: damaged ({error}); restore it") from None
    args.timesteps = args.timesteps if timesteps is None else timesteps
    lock = lock_run(run)
    keep_opponents(args, run)
    saved = load_checkpoint(args.checkpoint or run / "checkpoints" / "latest.pt")
    if saved.get("stage") != "ppo_selfplay" or saved["action_repeat"] != args.action_repeat:
        raise UserError(f"{run}: its checkpoint is not of this run; use --pretrained to start a run from a checkpoint")
    return run, args, lock, saved


def restore(run: Path, args, saved: dict, parts: dict, pool: Pool) -> tuple[int, int]:
    """Everything is again as it was at the checkpoint `saved` -> its iteration and step. What came later is forgotten."""
    try:
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        iteration, step = int(saved["iteration"]), int(saved["step"])
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        parts["envs"].close()
        raise UserError(f"{run}: its checkpoint cannot be resumed ({type(error).__name__}: {error})") from None
    for log in ("metrics.jsonl", "eval.jsonl", "pbt.jsonl"):
        keep_jsonl(run / log, step)
    pool.forget_after(step, agents={name.removeprefix("learner_") for name in parts if name.startswith("learner_")})
    atomic_write(run / "args.json", (json.dumps(vars(args), indent=1) + "\n").encode())
    return iteration, step


@dataclass
class Args(MatchArgs, PopulationArgs, StrengthArgs, RewardArgs, DolphinArgs):
    pretrained: str = ""
    """checkpoint to start from; its network sizes and action repeat are used (off: empty, start from scratch)"""
    resume: str = ""
    """run folder to continue, with the arguments it was started with; only --timesteps may change (off: empty)"""
    game_type: Literal["mock", "dolphin"] = "mock"
    """the embedded game, or Slippi Dolphin with --dolphin and --iso, one for each game; evaluations are on the embedded game"""
    num_games: int = 4
    """games played side by side, for each learner"""
    num_workers: int = 0
    """processes that step the games (off: 0, in this process, which is fastest for the embedded game)"""
    use_threads: bool = False
    """--num-workers threads instead of processes: no fault isolation (off: False)"""
    worker_timeout: float = 1.0
    """seconds that a worker may take for a step of embedded games before it is replaced; for Dolphin see --step-timeout"""
    max_restarts: int = 100
    """workers that may fail within an hour (off: 0, none); one more ends the run, to be continued with --resume"""
    max_episode_frames: int = 3600
    """game frames after which a game is truncated; 3600 is a minute (off: 0, games run to the last stock or 8:00)"""
    action_repeat: int = 3
    """game frames for which a chosen controller is held (off: 1, chosen anew on every frame)"""

    timesteps: int | None = None
    """game frames to play in total, frames x games (default: 100000; for a resumed run what it was started with)"""
    rollout_length: int = 128
    """steps of every game in an iteration"""
    update_interval: str = "batch_ready"
    """batch_ready: learn when --rollout-length steps are there (off); or after so many game frames of a learner, e.g. 10000"""
    train_interval: int = 1
    """iterations between two updates; each learns from all of them (off: 1)"""
    batch_size: int = 2048
    """agent frames in a minibatch; a smaller rollout is one minibatch (off: as large as the rollout)"""
    grad_accum: int = 1
    """parts of a minibatch whose gradients are summed before a step: less memory, the same result (off: 1)"""
    ppo_epochs: int = 4
    """passes over each rollout"""
    ppo_clip: float = 0.2
    """clip range of the probability ratio (off: 1e9)"""
    learning_rate: float = 3e-4
    """Adam's step size"""
    anneal_lr: bool = False
    """let it fall to 0 in a straight line, until --timesteps (off: False, constant)"""
    gamma: float | None = None
    """discount a step (default: .99 at --action-repeat 3, .9967 at 1, a half-life of 3.4 seconds of game time; off: 1)"""
    gae_lambda: float = 0.95
    """lambda of generalised advantage estimation (off: 1, whole returns)"""
    entropy_coef: float = 0.0007
    """weight of the entropy bonus (off: 0)"""
    value_coef: float = 0.5
    """weight of the value loss (off: 0)"""
    value_burn_in: int = 0
    """first updates that train the value head alone, after --pretrained (off: 0)"""
    max_grad_norm: float = 0.5
    """gradients are scaled down to this norm (off: 1e9)"""
    target_kl: float = 0.0
    """KL of the whole update, measured on all its rows after each epoch, past which that epoch is taken back, in Adam's state
    too, and the update ends; if losses/reverted stays at 1, lower --learning-rate (off: 0)"""
    teacher_kl: float = 0.0
    """weight of KL(pretrained policy || policy), which keeps a cloned policy from forgetting (off: 0)"""
    teacher_kl_half_life: float = 2_000_000
    """game frames after which --teacher-kl has halved (off: 1e18, it stays)"""

    backbone: Literal["mlp", "gru"] = "mlp"
    """network between embedding and heads; the gru remembers"""
    hidden: str = "512,512"
    """layer sizes, the last one is the gru's state"""

    parallel_actions: bool = False
    """one batched forward for all games, ports and networks instead of one forward a network (off: False)"""
    parallel_training: bool = False
    """the learners of a population learn side by side, in threads (off: False)"""
    async_learning: bool = False
    """collect the next rollout with a copy of the policy while it learns from the last one (off: False)"""
    vtrace: bool = False
    """correct --async-learning's rollouts for the policy having moved on since (off: False)"""
    max_buffer_size: int = 0
    """--async-learning: agent frames that may wait to be learnt from, whole rollouts (off: 0, one rollout)"""

    seed: int = 1
    """same seed, same machine: same learning curve"""
    save_interval: int = 10
    """iterations between two checkpoints"""
    checkpoint: str = ""
    """file of the checkpoint (default: checkpoints/latest.pt in the run folder)"""
    run_name: str = ""
    """folder inside --runs-dir (default: made of character, seed and time)"""
    runs_dir: str = "runs"
    """where runs are kept"""
    track: bool = False
    """log to Weights & Biases too; WANDB_MODE=offline works without an account (off: False)"""


def check(args: Args) -> None:
    """One line for each value that cannot work."""
    ever, many, together = math.inf, 10 ** 9, args.population_size if args.train_order == "parallel" else 1
    check_matchmaking(args)
    if args.game_type == "dolphin":
        check_dolphin(args)
    check_numbers(
        args, num_games=(1, 65536), num_workers=(0, args.num_games * together), max_episode_frames=(0, many),
        worker_timeout=(.05, 3600), max_restarts=(0, many), action_repeat=(1, 3600), timesteps=(1, ever),
        rollout_length=(1, 10 ** 6), train_interval=(1, many), batch_size=(1, many), grad_accum=(1, many), ppo_epochs=(1, many),
        ppo_clip=(1e-6, ever), learning_rate=(0, 1), gamma=(0, 1), gae_lambda=(0, 1), entropy_coef=(0, ever),
        value_coef=(0, ever), value_burn_in=(0, many), max_grad_norm=(1e-9, ever), target_kl=(0, ever), teacher_kl=(0, ever),
        teacher_kl_half_life=(1, ever), max_buffer_size=(0, many), save_interval=(1, many), **DOLPHIN_LIMITS)
    for flag, needs, there in (
            ("vtrace", "--async-learning", args.async_learning), ("max_buffer_size", "--async-learning", args.async_learning),
            ("teacher_kl", "--pretrained", args.pretrained),
            ("parallel_training", "--train-order parallel", args.train_order == "parallel")):
        if getattr(args, flag) and not there:
            raise UserError(f"--{flag.replace('_', '-')}: needs {needs}")
    if args.update_interval != "batch_ready":
        if not (args.update_interval.isdecimal() and int(args.update_interval) > 0):
            raise UserError(f"--update-interval {args.update_interval}: give batch_ready or game frames, e.g. 10000")
        args.rollout_length = max(1, round(int(args.update_interval) / (args.num_games * args.action_repeat)))
    if 0 < args.max_buffer_size < (rollout := 2 * args.num_games * args.rollout_length * args.train_interval):
        raise UserError(f"--max-buffer-size {args.max_buffer_size}: must hold at least one rollout, {rollout} agent frames")


@torch.inference_mode()
def collect(arena: Arena, args: Args, clock: dict[str, float]) -> dict[str, dict]:
    """Plays --rollout-length steps of all games -> by learner its rollout: arrays [T, N, 2, ..] or [T, N]."""
    T, M, envs = args.rollout_length, arena.envs.num_games, arena.envs
    obs_floats, obs_ints = np.empty((T, M, 2, NUM_FLOATS), np.float32), np.empty((T, M, 2, NUM_INTS), np.int16)
    actions, learns = np.empty((T, M, 2, ACTION_SIZE), np.int8), np.empty((T, M, 2), bool)
    rewards, bootstrap = np.zeros((2, T, M, 2), np.float32)
    starts, terminated, truncated = np.zeros((3, T, M), bool)               # starts: this observation begins a game
    states_at_start = arena.states

    def value_of(learner, obs):
        flat = Observation(*(torch.from_numpy(x).flatten(0, 1) for x in obs))
        return learner.acting.value(learner.acting.features(flat, arena.states[learner.name])[0]).view(M, 2).numpy()

    for t in range(T):
        tick = time.perf_counter()
        if t == 0 or arena.resets.any():
            arena.seat()
        obs = observe(envs.frames, envs.controllers)                        # floats [M, 2, F], ints [M, 2, I]
        obs_floats[t], obs_ints[t], starts[t] = obs.floats, obs.ints, arena.resets
        actions[t] = arena.act(obs)
        clock["policy"] += time.perf_counter() - tick
        tick = time.perf_counter()

        before = np.frombuffer(envs.frames.tobytes(), FRAME)                # .copy() goes field by field: 100 times slower
        controllers = decode_actions(actions[t], mirrored(envs.frames))
        terminated[t], truncated[t], broken = envs.step(controllers)
        ended = terminated[t] | truncated[t]
        after = np.where(ended, envs.final_frames, envs.frames) if ended.any() else envs.frames
        rewards[t] = compute_rewards(before, after, args, terminated[t], args.gamma)
        learns[t] = arena.assignment == arena.owner[:, None]
        for g in np.flatnonzero(broken):                                    # no row of that game, of those not yet learnt from
            learns[max(np.flatnonzero(starts[:t + 1, g]), default=0):t + 1, g] = False
        arena.settle(terminated[t], truncated[t], broken, after)
        if truncated[t].any():                                              # the value of the frame that was cut off
            last = observe(after, controllers)
            for k in set(arena.owner[truncated[t]].tolist()):
                cut = truncated[t] & (arena.owner == k)
                bootstrap[t, cut] = value_of(arena.learners[k], last)[cut]
        clock["env"] += time.perf_counter() - tick

    after_rollout, rollouts = observe(envs.frames, envs.controllers), {}
    for k in sorted(set(arena.owner.tolist())):                             # a learner's games lie side by side
        learner, mine = arena.learners[k], slice(*np.searchsorted(arena.owner, [k, k + 1]).tolist())
        rollouts[learner.name] = {
            "actor": learner.acting, "obs": Observation(obs_floats[:, mine], obs_ints[:, mine]), "actions": actions[:, mine],
            "rewards": rewards[:, mine], "bootstrap": bootstrap[:, mine], "starts": starts[:, mine], "learns": learns[:, mine],
            "terminated": terminated[:, mine], "truncated": truncated[:, mine],
            "last_value": value_of(learner, after_rollout)[mine],
            "state": tuple(s[2 * mine.start:2 * mine.stop] for s in states_at_start[learner.name])}
    return rollouts


@torch.no_grad()
def prepare(learner: Learner, rollout: dict, args: Args, teacher: Policy | None) -> dict[str, torch.Tensor]:
    """Values, log-probabilities and advantages: tensors [T, B, ..], B = games x ports. The first two come out of forwards
    over the whole rollout, with the numbers that learning starts from: the first minibatch's ratio is 1 but for rounding."""
    T, N = rollout["starts"].shape
    rows = lambda x: torch.from_numpy(np.ascontiguousarray(x).reshape(T, 2 * N, *x.shape[3:]))          # [T, 2N, ..]
    obs, actions = Observation(*map(rows, rollout["obs"])), rows(rollout["actions"])
    starts = torch.from_numpy(np.repeat(rollout["starts"], 2, 1))
    values, logprobs = evaluate_actions(learner.policy, obs, rollout["state"], starts, actions)         # [T, 2N]
    rho = None
    if rollout["actor"] is not learner.policy:                              # asynchronous: an older policy has acted
        now, logprobs = logprobs, evaluate_actions(rollout["actor"], obs, rollout["state"], starts, actions)[1]
        if args.vtrace:
            rho = (now - logprobs).exp().clamp(max=1).view(T, N, 2).numpy()
    teacher_logits = torch.empty(T, 2 * N, 0)
    if teacher is not None:
        features, learner.teacher_state = teacher.unroll(obs, learner.teacher_state or teacher.initial_state(2 * N), starts)
        teacher_logits = teacher.logits(features, actions)
    v, both = values.view(T, N, 2).numpy(), np.ones((1, 1, 2), bool)
    next_values = np.concatenate([v[1:], rollout["last_value"][None]])
    next_values = np.where(rollout["truncated"][..., None], rollout["bootstrap"], next_values)
    advantages, returns = compute_gae(rollout["rewards"], v, next_values, rollout["terminated"][..., None] & both,
                                      rollout["truncated"][..., None] & both, args.gamma, args.gae_lambda, rho)
    return {"floats": obs.floats, "ints": obs.ints, "actions": actions, "starts": starts, "learns": rows(rollout["learns"]),
            "logprobs": logprobs, "values": values, "advantages": rows(advantages), "returns": rows(returns),
            "teacher": teacher_logits, **{f"state_{k}": s[None] for k, s in enumerate(rollout["state"])}}       # at the start


def update(learner: Learner, rollouts: list[dict], args: Args, teacher: Policy | None, step: int) -> dict[str, float]:
    """PPO over all that the learner itself did in these rollouts -> a row of metrics."""
    began = time.perf_counter()
    batches = [prepare(learner, rollout, args, teacher) for rollout in rollouts]
    b = {key: torch.cat([batch[key] for batch in batches], 1) if len(batches) > 1 else x for key, x in batches[0].items()}
    policy, optimizer, hyper = learner.policy, learner.optimizer, learner.hyper
    optimizer.param_groups[0]["lr"] = lr = hyper["learning_rate"] * max(0., 1 - step / args.timesteps if args.anneal_lr else 1.)
    memory = tuple(b[key][0] for key in b if key.startswith("state_"))     # [B, H] each, at the start
    burning_in, recurrent = learner.updates < args.value_burn_in, bool(memory)
    teacher_coef = args.teacher_kl * .5 ** (step / args.teacher_kl_half_life)
    units = np.flatnonzero((b["learns"].any(0) if recurrent else b["learns"]).numpy())      # columns, or rows of T x B
    per_minibatch = max(1, args.batch_size // (len(b["actions"]) if recurrent else 1))

    def pick(key, mb):                                                      # [T, B, ..] -> the rows that the learner acted in
        return b[key][:, mb].flatten(0, 1)[b["learns"][:, mb].flatten()] if recurrent else b[key].flatten(0, 1)[mb]

    everything = Observation(b["floats"], b["ints"]), memory, b["starts"], b["actions"]
    all_logprobs = lambda: evaluate_actions(policy, *everything)[1][b["learns"]]
    stats, kls, before = [], [], all_logprobs() if args.target_kl else None
    for epoch in range(args.ppo_epochs if len(units) else 0):               # no units: every worker was broken
        undo = copy.deepcopy((policy.state_dict(), optimizer.state_dict())) if args.target_kl else None
        order = learner.rng.permutation(units)                              # recurrent: games are permuted, never time
        for part in np.array_split(order, -(-len(order) // per_minibatch)):  # equal parts: no tail of one row
            b_advantages = pick("advantages", torch.from_numpy(part))
            mean, std, n = b_advantages.mean(), b_advantages.std(correction=0) + 1e-8, len(b_advantages)
            optimizer.zero_grad()
            minibatch_stats = []
            for mb in map(torch.from_numpy, np.array_split(part, min(args.grad_accum, len(part)))):
                if recurrent:
                    state, starts = tuple(s[mb] for s in memory), b["starts"][:, mb]
                    features, _ = policy.unroll(Observation(b["floats"][:, mb], b["ints"][:, mb]), state, starts)
                    features = features.flatten(0, 1)[b["learns"][:, mb].flatten()]         # [B, H]
                else:
                    features, _ = policy.unroll(Observation(pick("floats", mb), pick("ints", mb)), (), None)
                if burning_in:
                    features = features.detach()                            # the value head alone learns
                mb_actions, mb_advantages = pick("actions", mb), (pick("advantages", mb) - mean) / std
                logits = policy.logits(features, mb_actions)
                logprob, entropy = action_logprobs(logits, mb_actions)
                logratio = logprob.sum(-1) - pick("logprobs", mb)           # [B]
                ratio = logratio.exp()
                clipped = ratio.clamp(1 - hyper["ppo_clip"], 1 + hyper["ppo_clip"])
                policy_loss = torch.max(-mb_advantages * ratio, -mb_advantages * clipped).mean()
                value_loss = 0.5 * ((policy.value(features) - pick("returns", mb)) ** 2).mean()
                entropy_loss = entropy.sum(-1).mean()
                teacher_loss = action_kl(pick("teacher", mb), logits).mean() if teacher_coef else torch.zeros(())
                loss = policy_loss - hyper["entropy_coef"] * entropy_loss + teacher_coef * teacher_loss
                loss = (0 if burning_in else loss) + args.value_coef * value_loss
                share = len(mb_actions) / n
                (loss * share).backward()
                with torch.no_grad():
                    approx_kl = ((ratio - 1) - logratio).mean()             # http://joschu.net/blog/kl-approx.html
                    clipfrac = ((ratio - 1).abs() > hyper["ppo_clip"]).float().mean()
                    minibatch_stats.append(share * torch.stack(
                        [policy_loss, value_loss, entropy_loss, teacher_loss, approx_kl, clipfrac, (ratio - 1).abs().max()]))
            grad_norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), args.max_grad_norm)
            stats.append(torch.cat([torch.stack(minibatch_stats).sum(0), grad_norm[None]]))
            optimizer.step()
        if args.target_kl:
            moved = all_logprobs() - before
            kls.append((moved.exp() - 1 - moved).mean().item())
            if not kls[-1] <= args.target_kl:                               # too far, or NaN: this epoch is taken back
                policy.load_state_dict(undo[0]), optimizer.load_state_dict(undo[1])
                break
    learner.updates += 1
    learner.agent_frames += int(b["learns"].sum())
    s = torch.stack(stats) if stats else torch.zeros(1, 8)
    if s[0, 6] > .01 and not args.async_learning:
        raise RuntimeError(f"the policy that learns is not the one that acted: probability ratio off by {s[0, 6]:.3f}")
    mean, learnt = s.mean(0).tolist(), b["returns"][b["learns"]]
    variance = learnt.var().item() if len(learnt) > 1 else 0.
    explained = 1 - (learnt - b["values"][b["learns"]]).var().item() / variance if variance else 0.
    return {
        "charts/agent_frames": learner.agent_frames, **{f"charts/{k}": v for k, v in hyper.items()}, "charts/learning_rate": lr,
        "losses/policy_loss": mean[0], "losses/value_loss": mean[1], "losses/entropy": mean[2], "losses/teacher_kl": mean[3],
        "losses/approx_kl": s[-1, 4].item(), "losses/clipfrac": mean[5], "losses/grad_norm": mean[7],
        **({"losses/update_kl": kls[-1], "losses/reverted": float(not kls[-1] <= args.target_kl)} if kls else {}),
        "losses/explained_variance": explained, "losses/first_ratio_error": s[0, 6].item(), "losses/minibatches": len(stats),
        "time/update": time.perf_counter() - began}


def main(args: Args) -> None:
    console = Console(highlight=False, soft_wrap=True)

    # ------------------------------------------------------------------------------------------------------- set-up
    saved = None
    if args.resume:
        run, args, lock, saved = resume_run(args, Args)
    args.timesteps = 100_000 if args.timesteps is None else args.timesteps
    torch.manual_seed(args.seed)
    if saved or args.pretrained:
        initial, source = load_policy(run / "checkpoints" / "initial.pt" if saved else args.pretrained)
    else:
        initial = Policy(args.backbone, parse_hidden(args.hidden))
        source = {"frame_delay": 0, "action_repeat": args.action_repeat}
    if source["frame_delay"]:
        raise UserError(f"{args.pretrained}: trained for a delay of {source['frame_delay']} frames; this game has none")
    args.action_repeat = source["action_repeat"]
    args.gamma = .99 ** (args.action_repeat / 3) if args.gamma is None else args.gamma
    args.backbone, args.hidden = initial.config["backbone"], ",".join(map(str, initial.config["hidden"]))
    check(args)
    if args.checkpoint:
        args.checkpoint = str(Path(args.checkpoint).resolve())              # a resumed run may start from another folder
        check_writable("--checkpoint", Path(args.checkpoint))
    if not saved:
        args.run_name = args.run_name or f"ppo_{args.character}_seed{args.seed}_{time.strftime('%Y%m%d_%H%M%S')}"
        run = start_run(args, args.runs_dir, args.run_name)
        lock = lock_run(run)                                                # held until the end
        keep_opponents(args, run)
        save_checkpoint(run / "checkpoints" / "initial.pt", initial, action_repeat=args.action_repeat)
    checkpoint_path = Path(args.checkpoint) if args.checkpoint else run / "checkpoints" / "latest.pt"

    # Worker processes are forked from this one: before torch starts threads, and before anything else does.
    P, T = args.population_size, args.rollout_length
    M = args.num_games * (P if args.train_order == "parallel" else 1)
    envs = VecEnv(M, *matchups(args, np.arange(M) + 2, np.arange(1, M + 1) % 2), seed=args.seed, num_workers=args.num_workers,
                  use_threads=args.use_threads, max_episode_frames=args.max_episode_frames, action_repeat=args.action_repeat,
                  timeout=args.worker_timeout, max_restarts=args.max_restarts, cpu_levels=computer_levels(args, M),
                  dolphin=args if args.game_type == "dolphin" else None, log=console.print)
    learners = make_learners(initial, args)
    names = [learner.name for learner in learners]
    teacher = initial if args.teacher_kl else None
    pool, ratings = Pool(run / "pool", args.history_size, args.prune, args.keep_retired, args.action_repeat), Ratings()
    arena, turn = Arena(args, envs, learners, pool, ratings), Turn(args)
    parts = {"envs": envs, "ratings": ratings, "arena": arena, "turn": turn, **{f"learner_{x.name}": x for x in learners}}
    iteration, global_step = restore(run, args, saved, parts, pool) if saved else (0, 0)

    strongest = lambda: max(learners, key=lambda learner: ratings.elo(learner.name)).policy  # whom play.py will see

    def freeze(learner: Learner) -> None:
        name = pool.add(learner.policy, learner.name, global_step, ratings=ratings, action_repeat=args.action_repeat)
        ratings.row(name)[0] = ratings.elo(learner.name)                    # a frozen copy is as strong as its original

    def save() -> None:
        save_checkpoint(checkpoint_path, strongest(), stage="ppo_selfplay", step=global_step, iteration=iteration,
                        args=vars(args), action_repeat=args.action_repeat,
                        **{name: part.state_dict() for name, part in parts.items()})

    if args.track:
        import wandb
        wandb.init(project="cleanmelee", name=args.run_name, config=vars(args), dir=str(run), resume="allow", id=args.run_name)
    stop = stop_on_interrupt(console.print)
    steps_per_iteration = T * M * args.action_repeat * args.train_interval
    num_iterations = -(-args.timesteps // steps_per_iteration)
    half_life = math.log(.5) / math.log(args.gamma) * args.action_repeat / 60 if 0 < args.gamma < 1 else math.inf
    console.print(f"[bold]CleanMelee[/] self-play PPO  {args.character} on {args.stage} ({args.game_type})  {args.backbone} "
                  f"{args.hidden} ({sum(p.numel() for p in initial.parameters()):,} parameters)\n{num_iterations} iterations "
                  f"of {steps_per_iteration} game frames ({M} games x {T * args.train_interval} steps x {args.action_repeat} "
                  f"frames); a reward's half-life is {half_life:.1f} s; run folder {run}")
    evaluator = Evaluator(run, args, global_step, console.print)
    if not saved:                                                           # somebody to meet, and something to resume
        if args.eval_interval:
            evaluator.submit(learners[0].policy, 0)
        for learner in learners:
            freeze(learner)
        save()

    # Updates run here, or in threads: one for each learner (parallel), or one that learns while games go on (asynchronous).
    pending, threads, background = [], ThreadPoolExecutor(P), ThreadPoolExecutor(1)
    if args.async_learning or args.parallel_training:
        torch.set_num_threads(max(1, torch.get_num_threads() // (P if args.parallel_training else 2)))
    buffered = max(1, args.max_buffer_size // (2 * T * args.num_games * args.train_interval))    # rollouts, asynchronous

    def train(rollouts: list[dict], step: int) -> tuple[dict[str, dict], list[Policy]]:
        job = lambda name: update(learners[names.index(name)], [part[name] for part in rollouts], args, teacher, step)
        rows = dict(zip(rollouts[0], (threads.map if args.parallel_training else map)(job, rollouts[0]), strict=True))
        return rows, [copy.deepcopy(learner.policy) for learner in learners] if args.async_learning else []

    started, first_step, stopping = None, 0, bool(stop)
    progress, task = iteration_progress(console, num_iterations, iteration)
    try:
        while iteration < num_iterations and not stopping:
            # --------------------------------------------------------------------------------------- rollout and update
            clock = {"env": 0., "policy": 0., "learn": 0.}
            arena.begin_iteration()
            rollouts = [collect(arena, args, clock) for _ in range(args.train_interval)]
            iteration, global_step, tick = iteration + 1, global_step + steps_per_iteration, time.perf_counter()
            every = lambda interval: interval and (iteration % interval == 0 or iteration == num_iterations)
            stopping = bool(stop)                                           # asked once, so that all below agree
            halt = stopping or any(map(every, (args.save_interval, args.pool_interval, args.eval_interval,
                                               args.pbt and args.pbt_interval)))
            row = {"global_step": global_step, "iteration": iteration, "charts/games_finished": arena.finished,
                   "charts/games_truncated": arena.truncated, "selfplay/opponents": len(arena.networks) - P}
            scores = {name: list(arena.scores[name]) for name in rollouts[0]}
            if not args.async_learning:
                done = [(row, scores, train(rollouts, global_step))]
            else:                                                           # they are learnt from while the next are collected
                pending.append((row, scores, background.submit(train, rollouts, global_step)))
                ready = len(pending) - (0 if halt else buffered)            # who keeps or changes weights waits for all
                done = [(row, scores, future.result()) for row, scores, future in pending[:max(0, ready)]]
                pending = pending[len(done):]
                if done:
                    for learner, policy in zip(learners, done[-1][2][1], strict=True):
                        learner.acting = policy
            clock["learn"] = time.perf_counter() - tick

            # ----------------------------------------------------------------------------------------------- logging
            now = time.perf_counter()
            if started is None:                                             # SPS counts from the end of the first iteration
                started, first_step, sps = now, global_step, steps_per_iteration / sum(clock.values())
            else:
                sps = (global_step - first_step) / (now - started)
            for row, scores, (learnt, _) in done:
                row |= {"charts/SPS": round(sps), **{f"time/{name}": seconds for name, seconds in clock.items()}}
                for name, metrics in learnt.items():
                    metrics |= {"selfplay/history_games": len(scores[name]), "selfplay/elo": ratings.elo(name),
                                **({"selfplay/history_score": float(np.mean(scores[name]))} if scores[name] else {})}
                    row |= {key if P == 1 else f"{name}/{key}": value for key, value in metrics.items()}
                    policy_loss, value_loss, entropy, kl = (
                        f"{metrics[f'losses/{key}']:.4f}" for key in ("policy_loss", "value_loss", "entropy", "approx_kl"))
                    console.print(f"{row['iteration']:5d}  {name if P > 1 else ''}  collected {steps_per_iteration}  steps "
                                  f"{row['global_step']:,}  SPS {sps:,.0f}  policy {policy_loss}  value {value_loss}  entropy "
                                  f"{entropy}  KL {kl}")
                append_jsonl(run / "metrics.jsonl", row)
                if args.track:
                    wandb.log(row, step=row["global_step"])
            progress.update(task, completed=iteration)

            # ------------------------------------------------------- population, history, checkpoints and evaluation
            active = learners if args.train_order == "parallel" else [learners[turn.learner]]
            turn.scores += arena.scores[names[turn.learner]]
            if args.pbt and iteration % args.pbt_interval == 0:
                for event in pbt_round(learners, ratings):
                    append_jsonl(run / "pbt.jsonl", {"global_step": global_step, **event})
            if iteration % args.pool_interval == 0:
                for learner in active:
                    freeze(learner)
                    if args.league and arena.matchmaker.starts_anew(learner.name, global_step - learner.born, arena.rng):
                        learner.become(initial.state_dict(), None)
                        learner.born = global_step
                        ratings.forget(learner.name)
                if args.train_order == "round-robin" and turn.over(active[0], global_step):
                    arena.hand_over(turn.pass_on(learners, global_step))
            if every(args.eval_interval):
                evaluator.submit(strongest(), global_step)
            evaluator.report()
            if every(args.save_interval):
                save()
                pool.prune({name for name in arena.opponents if name}, ratings)
        if stopping:
            save()
        else:
            evaluator.report(wait=True)
    finally:
        progress.stop()
        evaluator.close()
        envs.close()
        background.shutdown(cancel_futures=True), threads.shutdown()
        lock.close()
        if args.track:
            wandb.finish()

    if args.track_elo:
        print_elo(console, ratings, names, [*pool.ids(), OPPONENT, args.opponent, *BOTS])
    if stopping:
        console.print(f"stopped at step {global_step:,}; continue with: python ppo_selfplay.py --resume {run}")
        sys.exit(130)
    console.print(*filter(None, ("done:", checkpoint_path, plot_winrates(run))))


if __name__ == "__main__":
    run_script(main, Args)

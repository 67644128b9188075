"""Environments for learners from elsewhere: one player with Gymnasium's API, both with PettingZoo's."""

import numbers
import operator
import os
from pathlib import Path

import gymnasium
import numpy as np
import pettingzoo
import torch
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.spaces import Box, Dict, MultiDiscrete

from cleanmelee.cli import UserError, from_flags, lookup
from cleanmelee.controller import (
    ACTION_SIZE, NUM_BUTTONS, NUM_LOGITS, NUM_SHOULDER, NUM_STICK, decode_actions, mirrored,
)
from cleanmelee.features import INT_LIMITS, NUM_INTS, num_floats
from cleanmelee.frame import CHARACTERS, CONTROLLER, FIGHTERS, FRAME, STAGES, outcomes
from cleanmelee.game import BOTS
from cleanmelee.games import VecEnv
from cleanmelee.observation import Observation, Pending, observe
from cleanmelee.pool import Pool
from cleanmelee.rewards import RewardArgs, compute_rewards
from melee_common import Policy, load_policy, to_torch


def spaces(frame_delay: int) -> tuple[Dict, MultiDiscrete]:
    """Of an observation (`Observation(**obs)` is what a Policy of that delay reads), and of an action (see
    `decode_actions`)."""
    limits = np.finfo(np.float32)
    seen = {"floats": Box(limits.min, limits.max, (num_floats(frame_delay),), np.float32),
            "ints": Box(0, INT_LIMITS, (NUM_INTS,), np.int16)}
    return Dict(seen), MultiDiscrete([2] * NUM_BUTTONS + [NUM_STICK] * 4 + [NUM_SHOULDER])


def reward_args(given: dict[str, float]) -> RewardArgs:
    unknown = given.keys() - vars(RewardArgs()).keys()
    if unknown:
        raise UserError(f"MeleeEnv: unknown {', '.join(sorted(unknown))}; rewards are {', '.join(vars(RewardArgs()))}")
    return from_flags(RewardArgs, {name: float(value) if isinstance(value, numbers.Real) else value
                                   for name, value in given.items()})


def whole(name: str, value: int, low: int, high: int) -> int:
    """`value`, of any type of whole number, within these limits. UserError names it."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or not low <= number <= high:
        raise UserError(f"MeleeEnv: {name} {value!r} must be a whole number from {low} to {high}")
    return number


def an_action(action, space: MultiDiscrete) -> np.ndarray:
    """[13] integers of `space`, or UserError."""
    try:
        array = np.asarray(action)
    except ValueError:                                                      # ragged
        array = None
    if array is None or not space.contains(array):
        raise UserError(f"not an action: {action!r}; give {ACTION_SIZE} integers, below {space.nvec.tolist()}")
    return array


class MeleeEnv(gymnasium.Env):
    """One player of one embedded game, with Gymnasium's API; the opponent plays inside, and is drawn anew at every
    reset.

        env = MeleeEnv(["runs/ppo/pool", "attacker"])
        obs, info = env.reset(seed=1)
        obs, reward, terminated, truncated, info = env.step(env.action_space.sample())

    obs is a dict of `floats` [num_floats(frame_delay)] and `ints` [NUM_INTS]; `Observation(**obs)` is what a Policy
    reads. An action is 13 integers (`decode_actions`), held for `action_repeat` frames; right is towards the opponent,
    in both (`mirrored`; the stick is turned as it lay when obs was made). It acts `frame_delay` frames late, and obs
    shows what is on its way; an opponent acts as often and as late as it was trained to. The reward is that of
    `compute_rewards`. info names the `opponent` and the own `port` (1 or 2), and at a game's end its `outcome`: 1 won,
    0 draw, -1 lost."""

    metadata = {"render_modes": ["ansi"], "render_fps": 60}

    def __init__(self, opponent: "str | Path | Pool | Policy | list" = "attacker", *, character: str = "mewtwo",
                 opponent_character: str = "", stage: str = "final_destination", port: int = 0, action_repeat: int = 3,
                 frame_delay: int = 0, max_episode_frames: int = 3600, render_mode: str | None = None,
                 **rewards: float):
        """opponent: a bot's name, a checkpoint, a pool or its folder, or a list of those, of which each reset draws
        one. opponent_character: empty for the same. port: 1 or 2, or 0 to draw it at every reset. max_episode_frames:
        game frames after which a game is truncated (0: never). render_mode: "ansi", for `render` to return a line of
        text. rewards: reward_win=1. and the like, as in RewardArgs; the potentials among them are not discounted."""
        if render_mode not in (None, "ansi"):
            raise UserError(f"MeleeEnv: render_mode {render_mode!r} must be None or 'ansi'")
        both = character, opponent_character or character
        self._characters = [lookup(CHARACTERS, name, "character") for name in both]
        self._opponents = [self._source(o) for o in (opponent if isinstance(opponent, list | tuple) else [opponent])]
        if not self._opponents:
            raise UserError("MeleeEnv: the list of opponents is empty; name at least one")
        self._port, self._action_repeat = whole("port", port, 0, 2), whole("action_repeat", action_repeat, 1, 3600)
        max_episode_frames = whole("max_episode_frames", max_episode_frames, 0, 10 ** 9)
        self._pending = Pending(1, whole("frame_delay", frame_delay, 0, 3600))              # frame by frame
        self._rewards, self.render_mode = reward_args(rewards), render_mode
        self._envs = VecEnv(1, self._characters, lookup(STAGES, stage, "stage"), max_episode_frames=max_episode_frames)
        self._me, self._over, self._name = 0, True, None                    # no name: no game has begun
        self.observation_space, self.action_space = spaces(frame_delay)

    @staticmethod
    def _source(opponent):
        """-> a pool, or (name, policy or None): None for a bot, which plays inside the game."""
        if isinstance(opponent, Pool):
            return opponent
        if isinstance(opponent, Policy):
            return "policy", opponent
        path = opponent if isinstance(opponent, str | os.PathLike) else ""
        if path in BOTS:
            return path, None
        if path and os.path.isdir(path):                                    # an empty one would be the current folder
            return Pool(path, read_only=True)
        if not path or not os.path.isfile(path):
            raise UserError(f"unknown opponent {opponent!r}: name one of {', '.join(BOTS)}, a checkpoint or a pool")
        return Path(path).stem, load_policy(path)[0]

    def _draw(self, sources: list) -> tuple[str, Policy | None]:
        source = sources[self.np_random.integers(len(sources))]
        if not isinstance(source, Pool):
            return source
        name = source.sample(self.np_random)
        if name is None:
            raise UserError(f"{source.directory}: no checkpoint in this pool can be read; train one, or name another "
                            "opponent")
        return name, source.load(name)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        """Begins a game. seed: of this and all later ones. options: {"opponent": ...} is met in this game alone."""
        if self._envs is None:
            raise ClosedEnvironmentError("this environment is closed: make a new one")
        if not isinstance(options, dict | None):
            raise UserError(f"MeleeEnv: options {options!r} must be a dict, e.g. {{'opponent': 'attacker'}}")
        super().reset(seed=seed if seed is None or not hasattr(seed, "__index__") else operator.index(seed))
        games = self._envs.games
        game_seed, noise_seed = self.np_random.integers(2 ** 63, size=2).tolist()
        self._me = self._port - 1 if self._port else int(self.np_random.integers(2))
        only = (options or {}).get("opponent")
        self._name, self._policy = self._draw(self._opponents if only is None else [self._source(only)])
        games.characters[0], games.bot_kinds[0] = np.roll(self._characters, self._me), 0
        if self._policy is None:
            games.bot_kinds[0, 1 - self._me] = BOTS[self._name]
        else:
            self._state, self._noise = self._policy.initial_state(1), torch.Generator().manual_seed(noise_seed)
            self._choice = np.zeros((1, 2), CONTROLLER)                   # the opponent's, held until its next decision
            self._opponents_pending = Pending(1, self._policy.frame_delay)
        self._pending.reset([0])
        games.seed[0], games.episode[0] = game_seed, 0
        games.reset(np.ones(1, bool))
        self._over = False
        return self._observe(), self._info()

    def step(self, action: np.ndarray) -> tuple[dict, float, bool, bool, dict]:
        """-> observation, reward, terminated, truncated, info."""
        if self._over:
            raise ResetNeeded("no game is on: call reset()")
        action, envs = an_action(action, self.action_space), self._envs
        before = np.frombuffer(envs.frames.tobytes(), FRAME)
        chosen = np.zeros((1, 2), CONTROLLER)
        chosen[0, self._me] = decode_actions(action, mirrored(envs.frames)[0, self._me])
        for _ in range(self._action_repeat):
            controllers = self._pending.push(chosen)
            if self._policy is not None:
                controllers[0, 1 - self._me] = self._opponent_controller()
            terminated, truncated, _ = envs.step(controllers)
            self._over = bool(terminated[0] | truncated[0])
            if self._over:
                break
        after = envs.final_frames if self._over else envs.frames
        reward = float(compute_rewards(before, after, self._rewards, terminated)[0, self._me])
        return self._observe(), reward, bool(terminated[0]), bool(truncated[0]), self._info()

    @torch.inference_mode()
    def _opponent_controller(self) -> np.ndarray:
        pending = self._opponents_pending
        if int(self._envs.games.episode_frames[0]) % self._policy.action_repeat == 0:
            seen = to_torch(observe(self._envs.frames, self._envs.controllers, pending.frames))
            rows = Observation(seen.floats[:, 1 - self._me], seen.ints[:, 1 - self._me])            # [1, ...]
            noise = torch.rand(1, NUM_LOGITS, generator=self._noise)
            actions, self._state = self._policy.step(rows, self._state, noise)
            self._choice[:] = decode_actions(actions.numpy(), mirrored(self._envs.frames)[:, 1 - self._me])
        return pending.push(self._choice)[0, 1 - self._me]

    def _observe(self) -> dict[str, np.ndarray]:
        envs = self._envs
        final = envs.final_frames, envs.final_controllers
        obs = observe(*(final if self._over else (envs.frames, envs.controllers)), self._pending.frames)
        return {"floats": obs.floats[0, self._me], "ints": obs.ints[0, self._me]}

    def _info(self) -> dict:
        info = {"opponent": self._name, "port": self._me + 1}
        if self._over:
            info["outcome"] = int(outcomes(self._envs.final_frames)[0]) * (1 - 2 * self._me)
        return info

    def render(self) -> str | None:
        """The game in one line: frame, and of both players name, stocks, percent and place."""
        if self.render_mode is None:
            return None
        if self._name is None:
            raise ResetNeeded("no game has begun: call reset()")
        frame = (self._envs.final_frames if self._over else self._envs.frames)[0]
        names = {int(k): name for name, k in FIGHTERS.items()}
        return f"frame {frame['frame_id']}" + "".join(
            f"  P{k + 1} {names.get(int(p['character']), 'nobody')} {p['stocks']} stocks {p['percent']:.0f} % "
            f"({p['x']:.0f}, {p['y']:.0f})" for k, p in enumerate(frame["players"]))

    def close(self) -> None:
        if self._envs is not None:
            self._envs.close()
        self._envs, self._over, self._name = None, True, None


class MeleeParallelEnv(pettingzoo.ParallelEnv):
    """Both players of one embedded game, with PettingZoo's parallel API: for libraries that bring their own self-play.

    The agents are "player_1" and "player_2", by port; observations, actions and rewards are those of MeleeEnv."""

    metadata = {"name": "melee_v0", "render_modes": []}

    def __init__(self, characters: tuple[str, str] = ("mewtwo", "mewtwo"), *, stage: str = "final_destination",
                 action_repeat: int = 3, frame_delay: int = 0, max_episode_frames: int = 3600, **rewards: float):
        """characters: by port. frame_delay: a multiple of action_repeat. max_episode_frames: game frames after which a
        game is truncated (0: never)."""
        if not isinstance(characters, list | tuple) or len(characters) != 2:
            raise UserError(f"MeleeParallelEnv: characters {characters!r} must be two names, by port")
        self.render_mode = None
        self.possible_agents, self.agents = ["player_1", "player_2"], []
        self.observation_spaces, self.action_spaces = (
            dict.fromkeys(self.possible_agents, space)
            for space in spaces(whole("frame_delay", frame_delay, 0, 3600)))
        self._rewards, self._rng = reward_args(rewards), np.random.default_rng()
        self._envs = VecEnv(1, [lookup(CHARACTERS, name, "character") for name in characters],
                            lookup(STAGES, stage, "stage"),
                            action_repeat=whole("action_repeat", action_repeat, 1, 3600),
                            max_episode_frames=whole("max_episode_frames", max_episode_frames, 0, 10 ** 9))
        self._pending = Pending(1, frame_delay, action_repeat)

    def reset(self, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        """Begins a game. seed: of this and all later ones."""
        if self._envs is None:
            raise ClosedEnvironmentError("this environment is closed: make a new one")
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        games = self._envs.games
        games.seed[0], games.episode[0] = self._rng.integers(2 ** 63), 0
        games.reset(np.ones(1, bool))
        self._pending.reset([0])
        self.agents = list(self.possible_agents)
        return self._by_agent(self._envs.frames, self._envs.controllers), {name: {} for name in self.agents}

    def step(self, actions: dict[str, np.ndarray]) -> tuple[dict, dict, dict, dict, dict]:
        """{agent: [13] integers} -> observations, rewards, terminations, truncations, infos, by agent."""
        if not self.agents:
            raise ResetNeeded("no game is on: call reset()")
        if not isinstance(actions, dict) or not set(self.agents) <= actions.keys():
            raise UserError(f"not the actions of {' and '.join(self.agents)}: {actions!r}; give one for each, by name")
        envs, before = self._envs, np.frombuffer(self._envs.frames.tobytes(), FRAME)
        chosen = np.stack([an_action(actions[name], self.action_spaces[name]) for name in self.agents])[None]
        terminated, truncated, _ = envs.step(self._pending.push(decode_actions(chosen, mirrored(envs.frames))))
        over = bool(terminated[0] | truncated[0])
        after, controllers = (envs.final_frames, envs.final_controllers) if over else (envs.frames, envs.controllers)
        rewards = compute_rewards(before, after, self._rewards, terminated)[0]
        agents, self.agents = self.agents, [] if over else self.agents
        return (self._by_agent(after, controllers), dict(zip(agents, rewards.tolist(), strict=True)),
                dict.fromkeys(agents, bool(terminated[0])), dict.fromkeys(agents, bool(truncated[0])),
                {name: {} for name in agents})

    def _by_agent(self, frames: np.ndarray, controllers: np.ndarray) -> dict[str, dict]:
        obs = observe(frames, controllers, self._pending.frames)
        return {name: {"floats": obs.floats[0, port], "ints": obs.ints[0, port]}
                for port, name in enumerate(self.possible_agents)}

    def observation_space(self, agent: str) -> Dict:
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> MultiDiscrete:
        return self.action_spaces[agent]

    def close(self) -> None:
        if self._envs is not None:
            self._envs.close()
        self._envs, self.agents = None, []

"""The single-agent environment: what a learner from elsewhere relies on."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.error import ClosedEnvironmentError, Error, ResetNeeded
from gymnasium.utils.env_checker import check_env

from cleanmelee.cli import UserError
from cleanmelee.controller import ACTION_SIZE, NEUTRAL_ACTION, NUM_LOGITS, decode_actions, mirrored
from cleanmelee.environment import MeleeEnv, MeleeParallelEnv
from cleanmelee.features import NUM_FLOATS, NUM_INTS
from cleanmelee.frame import CONTROLLER
from cleanmelee.game import BOTS
from cleanmelee.games import VecEnv
from cleanmelee.observation import Observation, observe
from cleanmelee.pool import Pool
from helpers import FINAL_DESTINATION, FOX, random_actions
from melee_common import Policy, save_checkpoint, to_torch

ROOT = Path(__file__).resolve().parents[2]


def play(env, steps, seed=1, **reset):
    """Random play -> everything that came out, as bytes, and the infos of the games' beginnings."""
    obs, info = env.reset(seed=seed, **reset)
    env.action_space.seed(seed)
    seen, begins = [obs["floats"].tobytes(), obs["ints"].tobytes()], [info]
    for _ in range(steps):
        obs, reward, terminated, truncated, info = env.step(env.action_space.sample())
        assert env.observation_space.contains(obs)
        assert type(reward) is float and type(terminated) is type(truncated) is bool
        seen += [obs["floats"].tobytes(), obs["ints"].tobytes(), repr((reward, terminated, truncated, info))]
        if terminated or truncated:
            obs, info = env.reset()
            begins.append(info)
    return seen, begins


def test_spaces_and_types():
    env = MeleeEnv("random", character="fox", opponent_character="marth", port=2)
    obs, info = env.reset(seed=3)
    assert {name: (x.shape, x.dtype) for name, x in obs.items()} == {
        "floats": ((NUM_FLOATS,), np.float32), "ints": ((NUM_INTS,), np.int16)}
    assert info == {"opponent": "random", "port": 2} and env.observation_space.contains(obs)
    for _ in range(50):
        action = env.action_space.sample()
        assert action.shape == (ACTION_SIZE,) and env.action_space.contains(action)
    assert env.action_space.contains(NEUTRAL_ACTION) and not env.action_space.contains(np.full(ACTION_SIZE, 17))
    assert not env.observation_space.contains({**obs, "ints": obs["ints"] - 1})
    rows = to_torch(Observation(obs["floats"][None], obs["ints"][None]))
    features, _ = Policy("mlp", (8,)).features(rows, ())
    assert features.shape == (1, 8)
    env.close()


def test_same_seed_same_games_whoever_plays(tmp_path):
    """With every kind of opponent in the draw; another seed gives other games."""
    pool = Pool(tmp_path / "pool")
    names = [pool.add(Policy("gru", (16,), action_repeat=repeat), "main", step) for step, repeat in ((1, 1), (2, 3))]
    file = save_checkpoint(tmp_path / "file.pt", Policy("mlp", (8,), frame_delay=4))
    make = lambda: MeleeEnv([str(tmp_path / "pool"), file, "attacker", pool], max_episode_frames=30)
    runs = [play(make(), 240, seed) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] and runs[0] != runs[2]
    begins = runs[0][1]
    assert {info["opponent"] for info in begins} == {*names, "file", "attacker"}
    assert {info["port"] for info in begins} == {1, 2}
    assert len(begins) == 240 // 10 + 1


def test_an_opponent_stays_for_its_game(tmp_path, monkeypatch):
    pool, acted = Pool(tmp_path), []
    for step in (1, 2, 3):
        pool.add(Policy("mlp", (8,), action_repeat=2), "main", step)
    policies = {id(pool.load(name)): name for name in pool.ids()}
    step = Policy.step
    monkeypatch.setattr(Policy, "step", lambda self, *rest: acted.append(policies[id(self)]) or step(self, *rest))
    env = MeleeEnv(pool, max_episode_frames=60)
    met = set()
    for seed in range(6):
        _, info = env.reset(seed=seed)
        while "outcome" not in info:
            *_, info = env.step(NEUTRAL_ACTION)
        assert acted == [info["opponent"]] * 30                             # 60 frames, a decision every second one
        met.add(info["opponent"])
        acted.clear()
    assert len(met) > 1


def test_a_policy_inside_plays_as_it_would_outside():
    """The opponent sees its own side, keeps its memory in the game, holds its controller, acts as late as trained."""
    torch.manual_seed(0)
    policy = Policy("gru", (16,), action_repeat=2, frame_delay=3).eval()
    for layer in policy.controller_head.logits.values():                    # a fresh policy hardly minds what it sees
        layer.weight.data *= 300
    env = MeleeEnv(policy, port=1, action_repeat=1, max_episode_frames=40)
    env.reset(seed=5)
    state, chosen, noise = policy.initial_state(1), [], torch.Generator()
    noise.set_state(env._noise.get_state())
    for frame in range(40):
        if frame % 2 == 0:
            mirror = mirrored(env._envs.frames)[:, 1]
            waiting = np.zeros((1, 2, 3), CONTROLLER)
            waiting[0, 1] = ([np.zeros((), CONTROLLER)] * 3 + chosen)[-3:]
            obs = to_torch(observe(env._envs.frames, env._envs.controllers, waiting))
            seen = Observation(obs.floats[:, 1], obs.ints[:, 1])
            with torch.no_grad():
                actions, state = policy.step(seen, state, torch.rand(1, NUM_LOGITS, generator=noise))
            choice = decode_actions(actions.numpy(), mirror)[0]
        chosen.append(choice)
        env.step(NEUTRAL_ACTION)
        pressed = (env._envs.final_controllers if frame == 39 else env._envs.controllers)[0, 1]
        assert pressed == (chosen[frame - 3] if frame >= 3 else np.zeros((), CONTROLLER))
    assert len(np.unique(np.array(chosen))) > 5


def test_endings_rewards_and_outcomes():
    """Walking off the stage loses all four stocks: the game terminates, and every stock lost is -1 for who lost it, and
    half a stock more for falling."""
    walk = NEUTRAL_ACTION.copy()
    walk[8] = 0                                                             # main stick to the left
    for port in (1, 2):
        env = MeleeEnv("idle", port=port, max_episode_frames=0, reward_damage=0.)
        env.reset(seed=1)
        total, info = 0., {}
        while "outcome" not in info:
            obs, reward, terminated, truncated, info = env.step(walk)
            total += reward
        assert (terminated, truncated, total, info["outcome"]) == (True, False, -6., -1)
        stocks = env._envs.final_frames["players"]["stocks"][0]
        assert stocks[port - 1] == 0 and stocks[2 - port] == 4
        with pytest.raises(ResetNeeded):
            env.step(walk)
    env = MeleeEnv("idle", action_repeat=7, max_episode_frames=20)
    env.reset(seed=1)
    assert [env.step(NEUTRAL_ACTION)[2:4] for _ in range(3)] == [(False, False), (False, False), (False, True)]
    # the last action was cut short: 20 frames, not 21
    assert env._envs.final_frames["frame_id"][0] == env._envs.frames["frame_id"][0] + 20


def test_one_game_against_somebody_else():
    env = MeleeEnv("idle", max_episode_frames=30, render_mode="ansi")
    assert env.reset(seed=1, options={"opponent": "attacker"})[1]["opponent"] == "attacker"
    assert env._envs.games.bot_kinds[0].tolist().count(BOTS["attacker"]) == 1
    assert re.fullmatch(r"frame -?\d+  P1 mewtwo 4 stocks 0 % \(.*\)  P2 mewtwo 4 stocks 0 % \(.*\)", env.render())
    assert env.reset()[1]["opponent"] == "idle"
    assert MeleeEnv("idle").render() is None


def test_bad_input(tmp_path):
    (tmp_path / "empty").mkdir()
    for arguments, message in (
            ({"opponent": "nobody"}, "unknown opponent 'nobody'"), ({"opponent": ""}, "unknown opponent ''"),
            ({"opponent": None}, "unknown opponent None"), ({"opponent": "a" * 5000}, "unknown opponent"),
            ({"port": "1"}, "port '1'"), ({"action_repeat": 2.5}, "action_repeat 2.5"),
            ({"max_episode_frames": float("nan")}, "max_episode_frames nan"), ({"stage": ["moon"]}, "unknown stage"),
            ({"reward_win": float("nan")}, "reward-win nan"), ({"reward_win": float("inf")}, "reward-win inf"),
            ({"reward_win": "1"}, "reward-win '1'"), ({"character": "pikachu2"}, "unknown character"),
            ({"stage": "moon"}, "unknown stage"), ({"port": 3}, "port 3"), ({"action_repeat": 0}, "action_repeat 0"),
            ({"max_episode_frames": -1}, "max_episode_frames -1"), ({"render_mode": "human"}, "render_mode 'human'"),
            ({"opponent": []}, "list of opponents is empty"), 
            ({"reward_fun": 1.}, "unknown reward_fun; rewards are reward_stock")):
        with pytest.raises(UserError, match=message):
            MeleeEnv(**arguments)
    with pytest.raises(UserError, match="no checkpoint in this pool"):
        MeleeEnv(tmp_path / "empty").reset(seed=1)
    env = MeleeEnv("idle")
    with pytest.raises(ResetNeeded):
        env.step(NEUTRAL_ACTION)
    with pytest.raises(ResetNeeded):
        MeleeEnv("idle", render_mode="ansi").render()
    for seed in (-1, 1.5, "3"):
        with pytest.raises(Error, match="Seed must be"):
            env.reset(seed=seed)
    for options in (["opponent"], "attacker"):
        with pytest.raises(UserError, match="options .* must be a dict"):
            env.reset(seed=1, options=options)
    env.reset(seed=1)
    for action in (np.zeros(3, int), np.full(ACTION_SIZE, 5), NEUTRAL_ACTION.astype(float), [[1, 2], [3]], None):
        with pytest.raises(UserError, match="not an action"):
            env.step(action)
    for face in (env, MeleeParallelEnv()):
        face.reset(seed=1)
        face.close()
        face.close()
        with pytest.raises(ResetNeeded):
            face.step(NEUTRAL_ACTION)
        with pytest.raises(ClosedEnvironmentError):
            face.reset(seed=1)


def test_a_seed_is_a_number_of_whatever_type():
    one, both = MeleeEnv("random"), MeleeParallelEnv()
    for face in (one, both):
        seeds = [face.reset(seed=seed) and int(face._envs.games.seed[0]) for seed in (3, np.int64(3), np.uint8(3))]
        assert len(set(seeds)) == 1
    games = [VecEnv(2, FOX, FINAL_DESTINATION, seed=seed).games.seed.tolist()
             for seed in (3, np.int64(3), np.uint8(3), 4)]
    assert games[0] == games[1] == games[2] != games[3]


def test_the_loop_of_the_docs_runs(tmp_path, capsys):
    text = (ROOT / "docs" / "self-play.md").read_text()
    code = re.search(r"```python\n(from cleanmelee.environment import MeleeEnv\n.*?)```", text, re.S)[1]
    assert len(code.splitlines()) <= 10 and "runs/ppo/pool" in code
    pool = Pool(tmp_path)
    name = pool.add(Policy("mlp", (8,)), "main", 1)
    exec(code.replace("runs/ppo/pool", str(tmp_path)).replace("10_000", "1_300"), {})
    assert re.search(rf"{name} -?[01]\n", capsys.readouterr().out)


def test_gymnasium_accepts_it():
    check_env(MeleeEnv("attacker"), skip_render_check=True)
    check_env(MeleeEnv(Policy("gru", (16,))), skip_render_check=True)


# -------------------------------------------------------------------------------------------- both players, PettingZoo

def test_pettingzoos_own_checks():
    from pettingzoo.test import parallel_api_test, parallel_seed_test
    parallel_api_test(MeleeParallelEnv(max_episode_frames=300), num_cycles=300)
    parallel_seed_test(lambda: MeleeParallelEnv(max_episode_frames=300), num_cycles=100)


def test_both_players_see_and_earn_what_one_does():
    """The same game, played by both faces: player 1 of one is the agent of the other; the opponent idles."""
    both = MeleeParallelEnv(("fox", "marth"), max_episode_frames=600)
    one = MeleeEnv("idle", character="fox", opponent_character="marth", port=1, max_episode_frames=600)
    obs, _ = both.reset(seed=1)
    alone, _ = one.reset(seed=2)
    one._envs.games.seed[:] = both._envs.games.seed                         # the two faces draw their seeds apart
    one._envs.games.episode[:] = 0
    one._envs.games.reset(np.ones(1, bool))
    rng = np.random.default_rng(0)
    while both.agents:
        action = random_actions(rng, 1)[0]
        obs, rewards, terminated, truncated, _ = both.step({"player_1": action, "player_2": NEUTRAL_ACTION})
        alone, reward, *ends, _ = one.step(action)
        assert all(np.array_equal(obs["player_1"][name], alone[name]) for name in alone)
        fell = reward == -1.5                                               # a stock, and the half that nobody earns
        assert rewards["player_1"] == reward and rewards["player_2"] == (1. if fell else 0.)
        assert ends == [terminated["player_1"], truncated["player_1"]]
    assert ends == [False, True]
    for characters in (("fox",), "fo", 3):
        with pytest.raises(UserError, match="two names"):
            MeleeParallelEnv(characters)


def test_bad_actions_of_two():
    both = MeleeParallelEnv()
    with pytest.raises(ResetNeeded):
        both.step({name: NEUTRAL_ACTION for name in both.possible_agents})
    both.reset(seed=1)
    for actions in (None, {}, {"player_1": NEUTRAL_ACTION},
                    {"player_1": NEUTRAL_ACTION, "player_2": [1, 2]},
                    {"player_1": NEUTRAL_ACTION, "player_2": [17] * ACTION_SIZE}):
        with pytest.raises(UserError, match="not an action|not the actions of player_1 and player_2"):
            both.step(actions)

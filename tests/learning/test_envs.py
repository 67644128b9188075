"""Games, rewards, advantages and results: what would be silently wrong in reinforcement learning if it broke."""

import os
import signal
import time

import numpy as np
import pytest
import torch

from cleanmelee import game
from cleanmelee.cli import UserError
from cleanmelee.controller import NEUTRAL_ACTION, decode_actions
from cleanmelee.statistics import wilson_interval
from cleanmelee.frame import CHARACTERS, CONTROLLER, FRAME, STAGES, outcomes
from cleanmelee.game import BOTS
from cleanmelee.games import BOT_SLOT, Games, VecEnv
from cleanmelee.observation import observe
from cleanmelee.rewards import RewardArgs, compute_rewards
from cleanmelee.workers import ForkServer
from melee_common import Policy, act
from ppo_selfplay import compute_gae
from helpers import random_actions, slow_gae

FOX, FD = CHARACTERS["fox"], STAGES["final_destination"]


def make(n=4, **options):
    return VecEnv(n, FOX, FD, **{"seed": 3, "max_episode_frames": 300, **options})


def play(envs, steps, seed=0):
    """Random play -> the bytes of every frame and flag that came out."""
    rng, seen = np.random.default_rng(seed), []
    for _ in range(steps):
        ends = envs.step(decode_actions(random_actions(rng, envs.num_games, 2)))
        seen.append(envs.frames.tobytes() + b"".join(e.tobytes() for e in ends))
    return seen


# ----------------------------------------------------------------------------------------------------------- advantages


def test_gae_against_a_slow_loop():
    rng = np.random.default_rng(0)
    T, B = 50, 6
    rewards, values, next_values = rng.normal(size=(3, T, B)).astype(np.float32)
    terminated = rng.random((T, B)) < .08
    truncated = (rng.random((T, B)) < .08) & ~terminated
    fast, _ = compute_gae(rewards, values, next_values, terminated, truncated, .97, .9)
    for b in range(B):
        slow = slow_gae(rewards[:, b], values[:, b], next_values[:, b], terminated[:, b], truncated[:, b], .97, .9)
        assert np.allclose(fast[:, b], slow, atol=1e-4)


def test_truncation_bootstraps_and_termination_does_not():
    zero, one = np.zeros((1, 1), np.float32), np.ones((1, 1), np.float32)
    yes, no = np.ones((1, 1), bool), np.zeros((1, 1), bool)
    assert compute_gae(zero, zero, one, yes, no, .9, .95)[0][0, 0] == 0
    assert compute_gae(zero, zero, one, no, yes, .9, .95)[0][0, 0] == pytest.approx(.9)


# ---------------------------------------------------------------------------------------------------- rewards, outcomes

def test_rewards_credit_the_dealer():
    before, after = np.zeros(3, FRAME), np.zeros(3, FRAME)
    before["players"]["stocks"] = after["players"]["stocks"] = 4
    before["players"]["percent"] = 50
    after["players"]["percent"] = [[50, 62], [0, 50], [50, 50]]             # dealt 12; respawned; nothing
    after["players"]["stocks"][2] = [4, 3]                                  # took a stock
    rewards = compute_rewards(before, after, RewardArgs(reward_fall=0))
    assert np.allclose(rewards, [[.12, -.072], [0, 0], [1, -1]])
    assert np.allclose(compute_rewards(before, after, RewardArgs(reward_stock=0., reward_fall=0.))[2], 0)


def test_outcomes_by_stocks_then_percent():
    frames = np.zeros(4, FRAME)
    frames["players"]["stocks"] = [[2, 1], [1, 1], [1, 1], [0, 3]]
    frames["players"]["percent"] = [[90, 0], [30, 80], [40, 40], [0, 200]]
    assert outcomes(frames).tolist() == [1, 1, 0, -1]


def test_wilson_interval():
    low, high = wilson_interval(5, 10)
    assert low == pytest.approx(.2366, abs=1e-4) and high == pytest.approx(.7634, abs=1e-4)
    assert wilson_interval(0, 0) == (0, 1) and wilson_interval(20, 20)[1] == pytest.approx(1)


# ---------------------------------------------------------------------------------------------------------------- games

def test_same_seed_same_games_and_another_seed_differs():
    bots = [[BOTS["random"], BOTS["attacker"]]] * 4
    runs = [play(make(seed=seed, bot_kinds=bots), 400) for seed in (3, 3, 4)]
    assert runs[0] == runs[1] and runs[0] != runs[2]


def test_workers_play_the_same_games_as_one_process():
    bots = [[0, BOTS["random"]]] * 5
    with make(5, bot_kinds=bots) as alone, make(5, bot_kinds=bots, num_workers=2) as workers:
        assert play(alone, 400) == play(workers, 400)


def test_scattered_games_begin_in_the_air_and_a_share_of_them():
    """Beside the stage too, for workers alike, and none unless it is asked for."""
    with make(400, scattered=.25) as envs, make(400, scattered=.25, num_workers=2) as workers, make(400) as plain:
        players = envs.frames["players"]
        begun = players["airborne"].astype(bool)
        assert (begun.all(1) == begun.any(1)).all() and not plain.frames["players"]["airborne"].any()
        assert 70 <= begun.all(1).sum() <= 130                              # four standard deviations
        edge = game.TABLES.stages["floor_right"][FD, 0]
        for far in (players["x"] < -edge, players["x"] > edge, players["y"] < -20):
            assert .02 < far.sum() / begun.sum() < .3
        over = begun & (np.abs(players["x"]) < edge)                        # not in its body, nor below it
        assert over.sum() > 50 and players["y"][over].min() > 8
        same_way = (players["facing"][:, 0] == players["facing"][:, 1])[begun.all(1)]
        assert .3 < same_way.mean() < .7
        for k in range(40):                                                 # nobody acts, all goes on by Melee's rules
            envs.step(envs.controllers), workers.step(workers.controllers)
        assert envs.frames.tobytes() == workers.frames.tobytes()
        assert (players["stocks"][begun].mean() < 4) and (players["stocks"][~begun] == 4).all()
        assert np.isfinite(players["x"]).all()


def test_truncation_and_autoreset():
    with make(3, max_episode_frames=50) as envs:
        neutral = np.zeros((3, 2), CONTROLLER)
        for frame in range(1, 120):
            last = envs.frames.copy()
            terminated, truncated, broken = envs.step(neutral)
            assert truncated.all() == (frame % 50 == 0) and not terminated.any() and not broken.any()
            if truncated.all():
                assert (envs.final_frames["frame_id"] == last["frame_id"] + 1).all()
                assert (envs.frames["frame_id"] == game.FIRST_CONTROL_FRAME - 1).all()
                assert (envs.controllers["main_x"] == 0).all()


def test_a_won_game_terminates_and_keeps_its_last_frame():
    with make(2, max_episode_frames=0) as envs:
        envs.frames["players"]["stocks"][0, 1] = 1
        envs.frames["players"]["y"][0, 1], envs.frames["players"]["airborne"][0, 1] = -300, 1
        terminated, truncated, _ = envs.step(np.zeros((2, 2), CONTROLLER))
        assert terminated.tolist() == [True, False] and not truncated.any()
        assert outcomes(envs.final_frames[:1])[0] == 1 and envs.frames["players"]["stocks"][0, 1] == 4


def test_acting_forgets_where_a_game_begins_and_only_there():
    torch.manual_seed(0)
    policy = Policy("gru", (16,)).eval()
    with make(3) as envs, torch.inference_mode():
        play(envs, 30)
        obs, assignment = observe(envs.frames, envs.controllers), np.array([[0, 0], [0, BOT_SLOT], [0, 0]])
        remembered = torch.randn(6, 16)
        now = lambda state, resets: act_state(policy, assignment, obs, state, np.array(resets))
        kept, cleared = now(remembered, [False] * 3), now(remembered, [False, False, True])
        fresh = now(torch.zeros(6, 16), [False] * 3)
        assert torch.equal(cleared[4:], fresh[4:]) and torch.equal(cleared[:3], kept[:3])
        assert not torch.allclose(kept[4:], fresh[4:])
        assert torch.equal(kept[3], remembered[3])                          # a slot that the policy does not play stays


def act_state(policy, assignment, obs, state, resets):
    states = [(state,)]
    actions = act([policy], assignment, obs, states, resets, torch.Generator().manual_seed(0))
    assert actions[1, 1].tolist() == NEUTRAL_ACTION.tolist()
    return states[0][0]


def test_action_repeat_is_the_same_as_holding_the_controller():
    with make(3, action_repeat=4, max_episode_frames=0) as fast, make(3, max_episode_frames=0) as slow:
        rng = np.random.default_rng(0)
        for _ in range(50):
            controllers = decode_actions(random_actions(rng, 3, 2))
            fast.step(controllers)
            for _ in range(4):
                slow.step(controllers)
            assert fast.frames.tobytes() == slow.frames.tobytes()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_staggered_games_end_one_after_the_other(num_workers):
    """For good, not only the first time."""
    with make(8, action_repeat=2, max_episode_frames=80, num_workers=num_workers) as envs:
        envs.stagger()
        ended = [np.flatnonzero(envs.step(np.zeros((8, 2), CONTROLLER))[1]).tolist() for _ in range(120)]
    assert ended == [[7 - step // 5 % 8] if step % 5 == 4 else [] for step in range(120)]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_state_dict_continues_exactly(num_workers):
    bots = [[0, BOTS["attacker"]]] * 4
    with make(bot_kinds=bots, num_workers=num_workers) as a, make(bot_kinds=bots, seed=99) as b:
        play(a, 150)
        b.load_state_dict(a.state_dict())
        assert play(a, 400, seed=1) == play(b, 400, seed=1)


def test_a_killed_worker_is_replaced_and_the_others_never_notice():
    log = []
    with make(6, num_workers=3, log=log.append) as envs, make(6) as alone:
        play(envs, 20), play(alone, 20)
        os.kill(envs._workers[1].pid, signal.SIGKILL)
        controllers = decode_actions(random_actions(np.random.default_rng(5), 6, 2))
        started = time.monotonic()
        terminated, truncated, broken = (x.copy() for x in envs.step(controllers))
        assert time.monotonic() - started < 1
        alone.step(controllers)
        assert (
            broken.tolist() == truncated.tolist() == [False, False, True, True, False, False] and not terminated.any())
        healthy = [0, 1, 4, 5]
        assert envs.frames[healthy].tobytes() == alone.frames[healthy].tobytes()
        assert (envs.frames["frame_id"][2:4] == game.FIRST_CONTROL_FRAME - 1).all()
        for _ in range(30):
            _, _, broken = envs.step(controllers)
            assert not broken.any()
        assert len(log) == 1 and "worker 1 (games 2 to 3) died" in log[0]


def test_a_hung_worker_is_replaced():
    log = []
    with make(4, num_workers=2, log=log.append) as envs:
        os.kill(envs._workers[0].pid, signal.SIGSTOP)
        started = time.monotonic()
        _, truncated, broken = envs.step(np.zeros((4, 2), CONTROLLER))
        assert .9 < time.monotonic() - started < 2                          # a second or so
        assert broken.tolist() == [True, True, False, False] and "hung" in log[0]
        assert not envs.step(np.zeros((4, 2), CONTROLLER))[2].any()


def test_requests_to_end_are_not_for_workers():
    """`timeout`, Slurm and a closing terminal send theirs to all; the main process has a checkpoint to write."""
    log = []
    with make(4, num_workers=2, log=log.append) as envs:
        for pid in (envs._forks._pid, *(worker.pid for worker in envs._workers)):
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                os.kill(pid, number)
        assert not envs.step(np.zeros((4, 2), CONTROLLER))[2].any() and log == []
        os.kill(envs._workers[0].pid, signal.SIGKILL)                       # and replacements can be made
        assert envs.step(np.zeros((4, 2), CONTROLLER))[2].tolist() == [True, True, False, False]
        os.kill(envs._workers[0].pid, signal.SIGTERM)
        assert not envs.step(np.zeros((4, 2), CONTROLLER))[2].any()


def test_a_stopped_fork_server_goes_on_and_holds_nobody(monkeypatch):
    monkeypatch.setattr(ForkServer, "PATIENCE", (.2, 5))
    with make(4, num_workers=2, log=lambda line: None) as envs:
        os.kill(envs._forks._pid, signal.SIGSTOP)
        os.kill(envs._workers[0].pid, signal.SIGKILL)
        started = time.monotonic()
        assert envs.step(np.zeros((4, 2), CONTROLLER))[2].tolist() == [True, True, False, False]
        assert time.monotonic() - started < 4
        for pid in (envs._forks._pid, envs._workers[1].pid):
            os.kill(pid, signal.SIGSTOP)
        started = time.monotonic()
    assert time.monotonic() - started < 4                                   # closed


def test_a_raising_worker_tells_why(monkeypatch):
    log = []
    step = Games.step

    def fails(self, *limits):
        if self.frames["players"]["x"][0, 0] == 12345:
            raise RuntimeError("the stage fell over")
        return step(self, *limits)

    monkeypatch.setattr(Games, "step", fails)
    with make(4, num_workers=2, log=log.append) as envs:
        envs.frames["players"]["x"][2, 0] = 12345
        _, _, broken = envs.step(np.zeros((4, 2), CONTROLLER))
        assert broken.tolist() == [False, False, True, True] and "the stage fell over" in log[0]
        assert not envs.step(np.zeros((4, 2), CONTROLLER))[2].any()


def test_too_many_failures_within_an_hour_end_the_run(monkeypatch):
    real, later = time.monotonic, 0.
    monkeypatch.setattr(time, "monotonic", lambda: real() + later)
    with make(2, num_workers=1, max_restarts=1, log=lambda line: None) as envs:
        for later in (0., 3601., 3602.):
            os.kill(envs._workers[0].pid, signal.SIGKILL)
            if later < 3602:
                assert envs.step(np.zeros((2, 2), CONTROLLER))[2].all()
        with pytest.raises(UserError, match="more than 1 times within an hour .*the last one, worker 0, died") as error:
            envs.step(np.zeros((2, 2), CONTROLLER))
        assert envs.restarts == 3 and "\n" not in str(error.value)


def test_closing_leaves_no_process():
    envs = make(4, num_workers=2)
    pids = [w.pid for w in envs._workers] + [envs._forks._pid]
    envs.close()
    deadline = time.monotonic() + 3
    while any(os.path.exists(f"/proc/{pid}") for pid in pids) and time.monotonic() < deadline:
        time.sleep(.02)
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)


@pytest.mark.parametrize("options", [{"num_games": 0}, {"num_workers": 5}, {"num_workers": -1}])
def test_impossible_sizes(options):
    with pytest.raises(UserError):
        VecEnv(**{"num_games": 4, "characters": FOX, "stages": FD, **options})

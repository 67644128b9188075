"""Delay: what is chosen now acts later, and what is on its way is seen."""


import numpy as np
import pytest
import torch

import bc
import melee_common
import play
import ppo_selfplay
from cleanmelee import inference
from cleanmelee.cli import UserError
from cleanmelee.controller import NEUTRAL_ACTION, NUM_BUTTONS, decode_actions, encode_controllers, mirrored
from cleanmelee.environment import MeleeEnv, MeleeParallelEnv
from cleanmelee.features import NUM_CONTROLLER_FLOATS, NUM_FLOATS, OWN_CONTROLLER, num_floats
from cleanmelee.frame import CONTROLLER
from cleanmelee.games import BOT_SLOT, VecEnv
from cleanmelee.observation import Observation, Pending, observe
from cleanmelee.replays import Replay, load_replays
from helpers import (
    FRAMES, games_of, load_all, made_up_game, metrics, pack, random_actions, random_frames, tiny, upcoming, write_games,
)
from melee_common import Policy, act, load_policy, play_games, save_checkpoint

NEUTRAL = np.zeros((), CONTROLLER)


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)


def lively(**config):
    """Presses something else on every frame."""
    torch.manual_seed(3)
    policy = Policy("gru", (16,), **config).eval()
    for layer in policy.controller_head.logits.values():
        layer.weight.data *= 300
    return policy


# ---------------------------------------------------------------------------------------------------------- observation

def test_what_is_on_its_way_is_seen_by_who_chose_it():
    rng = np.random.default_rng(0)
    frames, now = random_frames(rng, 6), decode_actions(random_actions(rng, 6, 2))
    pending = decode_actions(random_actions(rng, 6, 2, 3))
    obs = observe(frames, now, pending)
    assert obs.floats.shape[-1] == num_floats(3) == NUM_FLOATS + 3 * NUM_CONTROLLER_FLOATS
    assert np.array_equal(obs.floats[..., :NUM_FLOATS], observe(frames, now).floats)
    assert mirrored(frames).any()                                           # and the sticks are turned with the frame
    for late in range(3):
        seen = obs.floats[..., NUM_FLOATS:].reshape(6, 2, 3, -1)[:, :, late]
        assert np.array_equal(seen, observe(frames, pending[..., late]).floats[..., OWN_CONTROLLER])
    other = pending.copy()
    other[:, 1] = decode_actions(random_actions(rng, 6, 3))
    assert np.array_equal(observe(frames, now, other).floats[:, 0], obs.floats[:, 0])


def test_without_delay_the_network_is_what_it_was():
    one, other = Policy("mlp", (8,)), Policy("mlp", (8,), frame_delay=2)
    assert one.num_floats == NUM_FLOATS
    assert other.embedding.size == one.embedding.size + 2 * NUM_CONTROLLER_FLOATS
    frames = random_frames(np.random.default_rng(0), 3)
    controllers = np.zeros((3, 2), CONTROLLER)
    empty = Pending(3, 0, 2)
    assert np.array_equal(observe(frames, controllers).floats, observe(frames, controllers, empty.frames).floats)
    chosen = decode_actions(random_actions(np.random.default_rng(1), 3, 2))
    assert np.array_equal(empty.push(chosen), chosen)


def test_a_queue_holds_decisions_for_as_many_frames_as_they_act():
    rng = np.random.default_rng(0)
    pending = Pending(2, 6, 3)
    decisions = decode_actions(random_actions(rng, 5, 2, 2))
    acting = []
    for t, chosen in enumerate(decisions):
        if t == 4:
            pending.reset(np.array([True, False]))
        acting.append(pending.push(chosen))
    assert (acting[0] == NEUTRAL).all() and (acting[1] == NEUTRAL).all()
    assert np.array_equal(acting[2:4], decisions[:2])
    assert (acting[4][0] == NEUTRAL).all() and np.array_equal(acting[4][1], decisions[2, 1])
    assert np.array_equal(pending.frames[1], np.repeat(decisions[3:, 1].T, 3, 1))
    again = Pending(2, 6, 3)
    again.load_state_dict(pending.state_dict())
    assert np.array_equal(again.frames, pending.frames)
    with pytest.raises(UserError, match="4 frames"):
        Pending(1, 4, 3)


# ------------------------------------------------------------------------------------------------------------ imitation

def packed(frames, controllers, delay):
    meta = {"incomplete": [], "path": "a", "hash": "00", "characters": (1, 18)}
    return pack([Replay(frames, controllers, meta)], delay=delay)


@pytest.mark.parametrize("delay", [0, 1, 4])
def test_labels_are_as_late_as_the_policy(delay):
    frames, controllers = made_up_game(1, length=200)
    data = packed(frames, controllers, delay)
    rows = 200 - 1 - delay
    assert data.starts.tolist() == [0, rows, 2 * rows]                      # what nobody answers any more is left out
    mirror = mirrored(frames)
    for player in (0, 1):
        side = slice(player * rows, (player + 1) * rows)
        answers = encode_controllers(controllers[1 + delay:, player], mirror[:rows, player])
        assert np.array_equal(data.actions[side], answers)
        seen = observe(frames[:rows], controllers[:rows], upcoming(controllers, delay)).floats[:, player]
        assert np.array_equal(data.obs.floats[side], seen)
        held = encode_controllers(controllers[delay:-1, player], mirror[:rows, player])
        assert np.array_equal(data.changed[side], (answers != held).any(-1))


@pytest.mark.parametrize("delay", [0, 4])
def test_nothing_later_is_seen(delay):
    """Neither a later frame, nor the input that is to be chosen, changes what was seen."""
    frames, controllers = made_up_game(2, length=200)
    other_frames, other_controllers = made_up_game(3, length=200)
    now = 120
    data = packed(frames, controllers, delay)
    frames[now + 1:], controllers[now + 1 + delay:] = other_frames[now + 1:], other_controllers[now + 1 + delay:]
    other = packed(frames, controllers, delay)
    for start in data.starts[:-1]:
        rows = slice(start, start + now + 1)
        assert torch.equal(data.obs.floats[rows], other.obs.floats[rows])
        assert torch.equal(data.obs.ints[rows], other.obs.ints[rows])
        assert not torch.equal(data.obs.floats[start + now + 1], other.obs.floats[start + now + 1])


def test_a_game_seen_live_is_the_game_read_from_its_file(monkeypatch):
    """What a late policy was shown in play, and what it chose, frame by frame; bit for bit."""
    save_checkpoint("late.pt", lively(frame_delay=4))
    shown, chosen, decide = [], [], inference.act

    def watched(policies, seats, turn, obs, *rest):
        actions = decide(policies, seats, turn, obs, *rest)
        shown.append(obs)
        chosen.append(actions[0, 0])
        return actions

    monkeypatch.setattr(inference, "act", watched)
    play.main(play.Args("late.pt", "random", num_games=1, port=1, max_episode_frames=300, record="games", results="",
                        character="fox"))
    replays, _ = load_replays("games", num_workers=0)
    data = load_all(games_of(replays, [(0, 0)], delay=4))
    first = len(replays[0]) - len(shown) - 1                                # play shows every frame but the last one
    live = Observation(*(np.concatenate(part)[:, 0] for part in zip(*shown, strict=True)))
    rows = slice(first, int(data.starts[1]))
    count = rows.stop - rows.start
    assert count == len(shown) - 4 and len(np.unique(np.array(chosen), axis=0)) > 20
    assert np.array_equal(data.obs.floats[rows], live.floats[:count])
    assert np.array_equal(data.obs.ints[rows], live.ints[:count])
    acted = encode_controllers(decode_actions(np.array(chosen)[:count]))    # a stick stays inside its circle
    assert np.array_equal(data.actions[rows], acted)                        # what it chose, exactly four frames later


# ------------------------------------------------------------------------------------------------------------ self-play

@pytest.fixture
def watched_env(monkeypatch):
    """Everything that acts in any VecEnv, [steps] of (controllers [N, 2], games that ended with it)."""
    steps, step = [], VecEnv.step

    def watched(envs, controllers):
        result = step(envs, controllers)
        steps.append((controllers.copy(), result[0] | result[1]))
        return result

    monkeypatch.setattr(VecEnv, "step", watched)
    return steps


def assert_late(steps, decisions, late, rows=slice(None)):
    """decisions [steps, N, 2]: each acts `late` steps later in its game; until the first one does, nothing."""
    began = np.zeros(len(steps[0][1]), int)
    acted = 0
    for t, (controllers, ended) in enumerate(steps):
        for g in range(len(ended)):
            expected = decisions[t - late][g] if t - late >= began[g] else np.full(2, NEUTRAL)
            assert np.array_equal(controllers[g][rows], expected[rows])
            acted += t - late >= began[g]
        began[ended] = t + 1
    assert acted


def watched_decisions(monkeypatch, module):
    decisions, decode = [], module.decode_actions
    monkeypatch.setattr(module, "decode_actions", lambda *given: decisions.append(decode(*given)) or decisions[-1])
    return decisions


def test_both_sides_of_self_play_act_late(tmp_path, monkeypatch, watched_env):
    decisions = watched_decisions(monkeypatch, ppo_selfplay)
    ppo_selfplay.main(tiny(tmp_path, "run", 3, frame_delay=4))              # every decision is held for two frames
    assert_late(watched_env, decisions, 2)
    assert load_policy(tmp_path / "run" / "checkpoints" / "latest.pt")[0].frame_delay == 4


def test_evaluation_is_late_and_scripted_bots_are_not(watched_env, monkeypatch):
    decisions = watched_decisions(monkeypatch, melee_common)
    assignment = np.array([[0, BOT_SLOT], [0, BOT_SLOT]])
    with VecEnv(2, 1, 32, bot_kinds=[[0, 2]] * 2, max_episode_frames=60, action_repeat=2) as envs:
        pressed = []
        seen = melee_common.act
        monkeypatch.setattr(melee_common, "act", lambda *given: pressed.append(envs.controllers.copy()) or seen(*given))
        play_games([lively(action_repeat=2, frame_delay=6)], envs, assignment, torch.Generator().manual_seed(1))
    assert_late(watched_env, decisions, 3, rows=slice(1))
    assert (pressed[2][:, 0] == NEUTRAL).all() and (pressed[2][:, 1] != NEUTRAL).any()


@pytest.mark.parametrize("options", [{}, {"backbone": "gru", "frame_delay": 6}])
def test_resume_knows_what_is_on_its_way(tmp_path, options):
    options = {"frame_delay": 2, **options}
    ppo_selfplay.main(tiny(tmp_path, "whole", 4, **options))
    ppo_selfplay.main(tiny(tmp_path, "parts", 2, **options))
    ppo_selfplay.main(ppo_selfplay.Args(resume=str(tmp_path / "parts"), timesteps=4 * FRAMES))
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "parts")


def test_what_never_acted_is_not_learnt():
    rng = np.random.default_rng(0)
    terminated = rng.random((60, 5)) < .08
    starts = np.concatenate([np.ones((1, 5), bool), terminated[:-1]])
    for late in (0, 1, 3):
        slow = np.ones((60, 5), bool)
        for t, g in np.argwhere(terminated):
            for k in range(late):
                slow[t - k, g] = False
                if starts[t - k, g]:
                    break
        assert np.array_equal(ppo_selfplay.acted(starts, terminated, late), slow)


# --------------------------------------------------------------------------------------------------------- environments

def test_an_environment_acts_late_and_shows_the_queue():
    rng = np.random.default_rng(0)
    env = MeleeEnv("idle", port=1, action_repeat=2, frame_delay=3, max_episode_frames=40)
    for _ in range(2):                                                      # a queue begins empty, also after a game
        obs, _ = env.reset(seed=1)
        assert env.observation_space.contains(obs) and not obs["floats"][NUM_FLOATS:][4::13].any()
        queue = [NEUTRAL] * 3
        for _ in range(19):
            action = random_actions(rng, 1)[0]
            chosen = decode_actions(action, mirrored(env._envs.frames)[0, 0])
            obs, *_ = env.step(action)
            queue += [chosen, chosen]
            assert env._envs.controllers[0, 0] == queue[-4]
            waiting = np.zeros((1, 2, 3), CONTROLLER)
            waiting[0, 0] = queue[-3:]
            expected = observe(env._envs.frames, env._envs.controllers, waiting).floats[0, 0]
            assert np.array_equal(obs["floats"], expected)
    both = MeleeParallelEnv(action_repeat=2, frame_delay=4)
    both.reset(seed=1)
    pressed, chosen = [], [NEUTRAL["main_y"]] * 2
    for k in range(6):
        action = NEUTRAL_ACTION.copy()
        action[NUM_BUTTONS + 1] = k                                         # the main stick's y
        obs, *_ = both.step({"player_1": action, "player_2": NEUTRAL_ACTION})
        pressed.append(both._envs.controllers[0, 0]["main_y"])
        chosen.append(decode_actions(action)["main_y"])
    assert both.observation_space("player_1").contains(obs["player_1"])
    assert pressed == chosen[:6] and len(set(pressed)) == 5
    with pytest.raises(UserError, match="3 frames"):
        MeleeParallelEnv(action_repeat=2, frame_delay=3)


# -------------------------------------------------------------------------------------------------------------- company

def test_policies_of_different_delays_meet_in_play():
    """Each is shown as much as it was trained to see."""
    policies = [lively(), lively(frame_delay=2)]
    rng = np.random.default_rng(0)
    frames, now = random_frames(rng, 3), np.zeros((3, 2), CONTROLLER)
    pending = decode_actions(random_actions(rng, 3, 2, 2))
    assignment, resets = np.array([[0, 1], [1, 0], [1, 1]]), np.zeros(3, bool)
    obs = observe(frames, now, pending)
    actions = act(policies, assignment, obs, [policy.initial_state(6) for policy in policies], resets, None)
    for k, depth in ((0, 0), (1, 2)):
        alone = observe(frames, now, pending[..., :depth])
        rows = np.flatnonzero(assignment.reshape(-1) == k)
        seen = Observation(*(torch.from_numpy(part.reshape(6, -1)[rows]) for part in alone))
        with torch.no_grad():
            assert np.array_equal(actions.reshape(6, -1)[rows], policies[k].step(seen, policies[k].initial_state(
                len(rows)), None)[0])


def test_another_delay_is_refused(tmp_path):
    save_checkpoint("late.pt", Policy("mlp", (8,), action_repeat=2, frame_delay=4))
    save_checkpoint("prompt.pt", Policy("mlp", (8,), action_repeat=2))
    games = write_games(tmp_path / "games", count=1)
    for main, args, rule in (
            (play.main, play.Args("late.pt", frame_delay=2), "--frame-delay 2"),
            (bc.main, bc.Args(games, pretrained="late.pt", frame_delay=3), "--frame-delay 3: .*has 4"),
            (ppo_selfplay.main, tiny(tmp_path, "a", 1, pretrained="late.pt", frame_delay=2), "-delay 2: .*has 4"),
            (ppo_selfplay.main, tiny(tmp_path, "b", 1, frame_delay=3), "--frame-delay 3: must be a multiple"),
            (ppo_selfplay.main, tiny(tmp_path, "c", 1, frame_delay=2, opponent="late.pt"), "4 frames, not for 2 and 2"),
            (ppo_selfplay.main, tiny(tmp_path, "d", 1, frame_delay=4, held_out="prompt.pt"), "not for 2 and 4")):
        with pytest.raises(UserError, match=rule) as error:
            main(args)
        assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("[abcd]"))

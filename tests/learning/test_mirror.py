"""Left and right: a policy has its opponent on its right, and every stage turns its stick back when it is not so."""

import numpy as np
import pytest
import torch

import play
import ppo_selfplay
from cleanmelee.controller import NEUTRAL_ACTION, NUM_BUTTONS, NUM_STICK, decode_actions, encode_controllers, mirrored
from cleanmelee.environment import MeleeEnv
from cleanmelee.features import FLOATS, FLOAT_NAMES, OWN_CONTROLLER
from cleanmelee.frame import CHARACTERS, CONTROLLER, STAGES
from cleanmelee.games import VecEnv
from cleanmelee.observation import observe
from cleanmelee.recording import write_slp
from cleanmelee.replays import load_replays, read_replay
from melee_common import play_games, save_checkpoint
from helpers import pack, random_actions, random_frames, stubborn

TOWARDS = NUM_STICK - 1


def towards(frames, controllers) -> bool:
    """frames [T, ..], controllers [T, .., 2] that made them: does everybody hold the stick to where the opponent
    was?"""
    where = np.where(mirrored(frames[:-1]), -1, 1)
    return bool((controllers["main_x"][1:] == where).all() and {-1, 1} == set(np.unique(where)))


def reflected(frames, controllers):
    """The same game on the other side of a mirror."""
    frames, controllers = frames.copy(), controllers.copy()
    sideways = ("x", "self_vx_air", "self_vx_ground", "kb_vx", "facing")
    for part, names in (("players", sideways), ("nanas", sideways), ("items", ("x", "vx", "facing"))):
        for name in names:
            frames[part][name] *= -1
    frames["platform_left"], frames["platform_right"] = frames["platform_right"].copy(), frames["platform_left"].copy()
    frames["wind"] = np.array([0, 2, 1])[frames["wind"]]
    for name in ("main_x", "c_x"):
        controllers[name] *= -1
    return frames, controllers


def test_a_policy_cannot_tell_a_game_from_its_mirror_image():
    """On stages that are their own image, which Yoshi's Story is not."""
    rng = np.random.default_rng(0)
    frames, controllers = random_frames(rng, 50), decode_actions(random_actions(rng, 50, 2))
    frames["stage"][frames["stage"] == STAGES["yoshis_story"]] = STAGES["battlefield"]
    obs, image = observe(frames, controllers), observe(*reflected(frames, controllers))
    assert np.array_equal(obs.floats, image.floats) and np.array_equal(obs.ints, image.ints)
    frames["players"]["x"] = 3                                              # nobody is on the right: as it is
    assert not mirrored(frames).any() and np.allclose(
        observe(frames, controllers).floats[..., FLOAT_NAMES.index("player.x")], .09)


def test_every_feature_is_mirrored_as_the_table_says():
    """In every frame one player sees what is there and the other its image, with the players' parts exchanged."""
    rng = np.random.default_rng(7)
    frames = random_frames(rng, 400)
    obs, n = observe(frames, np.zeros((400, 2), CONTROLLER)).floats, np.arange(400)
    image = mirrored(frames)[:, 1].astype(int)                              # which of the two is mirrored
    assert (mirrored(frames).sum(1) == 1).all() and 100 < image.sum() < 300
    plain, turned = obs[n, 1 - image], obs[n, image]
    exchanged = {"player": "opponent", "opponent": "player"}
    for column, feature in enumerate(FLOATS[:OWN_CONTROLLER.start]):
        partner = feature.name if feature.mirrored in ("same", "sign") else feature.mirrored
        who, _, what = partner.partition(".")
        seen = plain[:, FLOAT_NAMES.index(partner if what in ("dx", "dy") else f"{exchanged.get(who, who)}.{what}")]
        if what == "mine":
            item = frames["items"][:, int(who.removeprefix("item"))]
            seen = (item["present"] > 0) & (item["owner"] == image)
        sign = (-1 if feature.mirrored == "sign" else 1) * (-1 if what in ("dx", "dy") else 1)
        assert len(np.unique(turned[:, column])) > 1, feature.name
        np.testing.assert_allclose(turned[:, column], sign * seen, atol=1e-5, err_msg=feature.name)


def test_what_a_mirrored_player_chose_is_mirrored_back():
    rng = np.random.default_rng(1)
    actions, mirror = random_actions(rng, 300, 2), rng.random((300, 2)) < .5
    plain, controllers = decode_actions(actions), decode_actions(actions, mirror)
    for name in CONTROLLER.names:
        sign = np.where(mirror, -1, 1) if name in ("main_x", "c_x") else 1
        assert np.array_equal(controllers[name], sign * plain[name])
    assert np.array_equal(encode_controllers(controllers, mirror), encode_controllers(plain))
    assert np.array_equal(
        decode_actions(actions[0, 0], np.True_), decode_actions(actions[:1, :1], np.array([[True]]))[0, 0])


def test_both_sides_of_the_embedded_game_are_alike():
    """Who makes the same choices from the other port plays the same game, and sees the same of it, until somebody dies:
    where they come back is up to the port."""
    rng, n = np.random.default_rng(2), 32
    fighters, chosen = np.array([CHARACTERS["mewtwo"], CHARACTERS["fox"]]), random_actions(rng, 150, n, 2)
    seen, alive = [], []
    for order in (slice(None), slice(None, None, -1)):
        with VecEnv(
            n, fighters[order], STAGES["final_destination"], seed=3, max_episode_frames=0, action_repeat=3) as envs:
            for actions in chosen:
                envs.step(decode_actions(actions[:, order], mirrored(envs.frames)))
                seen.append(observe(envs.frames, envs.controllers).floats[:, order])
                alive.append(
                    (envs.frames["players"]["action"] > 13).all(1) & (envs.frames["players"]["stocks"] == 4).all(1))
    alive = np.array(alive[:150])
    assert alive.sum() > 2000
    assert np.allclose(np.array(seen[:150])[alive], np.array(seen[150:])[alive], atol=2e-3)


@pytest.fixture
def walker(tmp_path):
    """A checkpoint that walks to its opponent, and past it."""
    return str(save_checkpoint(tmp_path / "walker.pt", stubborn(TOWARDS)))


@pytest.fixture
def history(monkeypatch):
    """Frames and controllers after every step of all games, from the frame before the first."""
    seen, step = [], VecEnv.step

    def watched(self, controllers):
        if not seen:
            seen.append((self.frames.copy(), self.controllers.copy()))
        ends = step(self, controllers)
        seen.append((self.frames.copy(), self.controllers.copy()))
        return ends

    monkeypatch.setattr(VecEnv, "step", watched)
    return seen


def test_evaluations(history):
    with VecEnv(4, CHARACTERS["fox"], STAGES["battlefield"], max_episode_frames=100) as envs, torch.inference_mode():
        play_games([stubborn(TOWARDS)], envs, np.zeros((4, 2), int), None)
    assert towards(*map(np.stack, zip(*history[:-1], strict=True)))


@pytest.mark.parametrize("asynchronous", [False, True])
def test_matches(walker, tmp_path, asynchronous):
    play.main(
        play.Args(
            walker, walker, num_games=2, max_episode_frames=100, record=str(tmp_path),
            results=str(tmp_path / "r.jsonl"), async_inference=asynchronous, action_repeat=1)
    )
    replays = [read_replay(path) for path in tmp_path.glob("*.slp")]
    assert len(replays) == 2
    for replay in replays:
        frames, controllers = replay.frames[-100:], replay.controllers[-100:]
        if asynchronous:                                                    # a busy machine decides late: most, not all
            assert (controllers["main_x"][1:] == np.where(mirrored(frames[:-1]), -1, 1)).mean() > .7
        else:
            assert towards(frames, controllers)


@pytest.mark.parametrize("port", [1, 2])
def test_gymnasium(history, port):
    env = MeleeEnv(stubborn(TOWARDS), port=port, action_repeat=1, max_episode_frames=100)
    env.reset(seed=1)
    action = NEUTRAL_ACTION.copy()
    action[NUM_BUTTONS] = TOWARDS
    while not env.step(action)[3]:
        pass
    assert towards(*map(np.stack, zip(*history[:-1], strict=True)))


def test_self_play(history, tmp_path, monkeypatch):
    monkeypatch.setattr(ppo_selfplay, "Policy", lambda *_, **options: stubborn(TOWARDS))
    ppo_selfplay.main(
        ppo_selfplay.Args(
            num_games=2, rollout_length=90, timesteps=180, action_repeat=1, eval_interval=0, learning_rate=0,
            opponent_bots="", runs_dir=str(tmp_path))
    )
    assert towards(*map(np.stack, zip(*history, strict=True)))


def test_cloning(history, tmp_path):
    """Labels of a recorded walker are "towards" on both ports, and where nothing changes in its view nothing is new to
    learn."""
    test_evaluations(history)
    frames, controllers = map(np.stack, zip(*history[:-1], strict=True))
    write_slp(tmp_path / "game.slp", frames[:, 0], controllers[:, 0])
    replays, _ = load_replays(tmp_path, num_workers=0)
    data = pack(replays)
    sides, crossed = mirrored(frames[:-1, 0]), (np.diff(mirrored(frames[:, 0]), axis=0) != 0)[:-1]
    for player in (0, 1):
        end = data.starts[player + 1]                                  # a recording begins with frames of the countdown
        actions, changed = data.actions[end - len(sides):end], data.changed[end - len(sides):end].numpy()
        assert (actions[:, NUM_BUTTONS] == TOWARDS).all() and crossed[:, player].any()
        assert (changed[1:] == crossed[:, player]).all()

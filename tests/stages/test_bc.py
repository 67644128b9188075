"""Behavioural cloning: labels that do not leak, every frame counted once, a policy that learns, errors in one line."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import bc
import melee_common
from cleanmelee import dataset
from cleanmelee.frame import BUTTONS
from cleanmelee.rewards import RewardArgs, compute_rewards
from cleanmelee.cli import UserError
from cleanmelee.dataset import subjects
from cleanmelee.frame import BUTTON_X, CHARACTERS, CONTROLLER, FIRST_CONTROL_FRAME, STAGES
from cleanmelee.recording import write_slp
from cleanmelee.replays import load_replays
from melee_common import (
    ACTION_SIZE, HEADS, NEUTRAL_ACTION, NUM_FLOATS, Policy, VecEnv, action_logprobs, decode_actions, load_policy,
    observe, save_checkpoint,
)
from helpers import made_up_game, write_games

ROOT = Path(__file__).resolve().parents[2]
REAL = Path(__file__).resolve().parents[3] / "shared" / "replays"
KNEE_BEND = 24                                                              # action state: the crouch before a jump


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    """No test reads or fills the user's cache of parsed replays, and none keeps another process from working."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)


def small(folder, **changes):
    args = bc.Args(replays=str(folder), num_workers=0, hidden="24", epochs=2, batch_size=8, window_size=20,
                   run_name="run", min_active=0, held_out=.3)
    return dataclasses.replace(args, **changes)


# ---------------------------------------------------------------------------------------------------------------------
# Alignment. A label that leaks looks better in the loss and freezes in play.
# ---------------------------------------------------------------------------------------------------------------------

def jump_leak(data, shift=0):
    """Share of jump onsets (X or Y goes down in the label) at which the seen frame already crouches for the jump, and
    how many there are. shift=1 pairs a frame with the input that made it, the mistake that this test is for."""
    seen = leaked = 0
    for a, b in zip(data.starts[:-1], data.starts[1:], strict=True):
        jump = (data.actions[a:b, 2:4] > 0).any(1)
        onset = jump[1:] & ~jump[:-1] & (data.weights[a + 1:b] > 0)
        action = data.obs.ints[a:b, 0][1 + shift:]
        onset = onset[:len(action)]
        seen += int(onset.sum())
        leaked += int((onset & (action == KNEE_BEND)).sum())
    return leaked / seen, seen


def test_labels_do_not_leak(tmp_path):
    train, _, _ = dataset.load_sequences(write_games(tmp_path / "games"), num_workers=0)
    leak, onsets = jump_leak(train)
    assert onsets > 50 and leak < .03
    assert jump_leak(train, shift=1)[0] > .9


def test_labels_of_recorded_games_do_not_leak(tmp_path):
    """The same on the embedded game: players who jump now and then, recorded and read back."""
    (tmp_path / "games").mkdir()
    n = 4
    period = 25 + np.arange(2 * n).reshape(n, 2)                          # frames from jump to jump; X is held for five
    frames, controllers = [], []
    with VecEnv(n, CHARACTERS["fox"], STAGES["final_destination"], max_episode_frames=0) as envs:
        actions = np.tile(NEUTRAL_ACTION, (n, 2, 1))
        for t in range(600):
            frames.append(envs.frames.copy())
            controllers.append(envs.controllers.copy())
            actions[..., 2] = t % period < 5
            envs.step(decode_actions(actions))
    for g in range(n):
        write_slp(tmp_path / "games" / f"{g}.slp", np.stack(frames)[:, g], np.stack(controllers)[:, g], seed=g,
                  started=0)
    train, _, _ = dataset.load_sequences(str(tmp_path / "games"), num_workers=0)
    leak, onsets = jump_leak(train)
    assert onsets > 50 and leak < .05
    assert jump_leak(train, shift=1)[0] > .2                                # the rest are presses in mid-air


@pytest.mark.skipif(not REAL.is_dir(), reason="no real replays beside the repository")
def test_labels_of_real_games_do_not_leak():
    train, _, _ = dataset.load_sequences(str(REAL), num_workers=0)
    leak, onsets = jump_leak(train)
    assert onsets > 500 and leak < .05
    assert jump_leak(train, shift=1)[0] > .3


def test_pack_pairs_each_frame_with_the_next_input(tmp_path):
    replays, _ = load_replays(write_games(tmp_path / "games", 2), num_workers=0)
    data = dataset.pack(replays, subjects(replays), gamma=.9)
    assert len(data.starts) == 5
    for k, (index, player) in enumerate(subjects(replays)):
        frames, controllers = replays[index].frames, replays[index].controllers
        a, b = data.starts[k:k + 2]
        assert b - a == len(frames) - 1
        obs = observe(frames[:-1], controllers[:-1])
        np.testing.assert_array_equal(data.obs.floats[a:b], obs.floats[:, player])
        np.testing.assert_array_equal(data.obs.ints[a:b], obs.ints[:, player])
        pressed = (controllers["buttons"][1:, player] & BUTTON_X) != 0
        np.testing.assert_array_equal(data.actions[a:b, 2] > 0, pressed)
        np.testing.assert_array_equal(data.weights[a:b] > 0, frames["frame_id"][1:] >= FIRST_CONTROL_FRAME)
        held = (controllers["buttons"][:-1, player] & BUTTON_X) != 0
        assert data.changed[a:b][torch.from_numpy(pressed != held)].all()

        rewards = compute_rewards(frames[:-1], frames[1:], RewardArgs())[:, player]
        slow, total = np.zeros(b - a), 0.
        for t in reversed(range(b - a)):
            total = slow[t] = rewards[t] + .9 * total
        np.testing.assert_allclose(data.returns[a:b], slow, atol=1e-5)


def test_own_controller_columns():
    """The columns that --prev-controller-dropout hides are those that the own input changes, and no others."""
    frames, controllers = made_up_game(0, 2)
    other = controllers.copy()
    for name in ("main_x", "main_y", "c_x", "c_y", "l"):
        other[name][:, 0] = controllers[name][:, 0] + .5
    other["buttons"][:, 0] = ~controllers["buttons"][:, 0]
    a, b = observe(frames, controllers).floats[:, 0], observe(frames, other).floats[:, 0]
    own = np.zeros(NUM_FLOATS, bool)
    own[melee_common.OWN_CONTROLLER] = True
    np.testing.assert_array_equal((a != b).all(0), own)


# ---------------------------------------------------------------------------------------------------------------------
# Evaluation
# ---------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("stride", [1, 3])
def test_walk_sees_every_row_once(stride):
    starts = np.cumsum([0, 700, 3, 256, 257, 90])
    rows = [r[real] for r, real, _ in dataset.walk(starts, stride, lanes=2, size=256)]
    np.testing.assert_array_equal(np.sort(torch.cat(rows)), np.arange(starts[-1]))


@pytest.mark.parametrize("backbone", ["mlp", "gru"])
def test_evaluation_carries_the_memory(tmp_path, backbone):
    """Equal to one game after another, each unrolled whole."""
    replays, _ = load_replays(write_games(tmp_path / "games", 3), num_workers=0)
    data = dataset.pack([dataclasses.replace(r, frames=r.frames[:n], controllers=r.controllers[:n])
                 for r, n in zip(replays, (300, 390, 350), strict=True)], [(0, 0), (1, 0), (1, 1), (2, 0)])
    policy = Policy(backbone, (16,)).eval()
    nll, weight = torch.zeros(len(HEADS)), 0.
    with torch.no_grad():
        for layer in policy.controller_head.logits.values():
            layer.weight.normal_(std=.3)                                   # a fresh policy hardly looks at its features
        for a, b in zip(data.starts[:-1], data.starts[1:], strict=True):
            obs, actions = data.take(torch.arange(a, b)[:, None])
            features, _ = policy.unroll(obs, policy.initial_state(1), torch.zeros(b - a, 1, dtype=torch.bool))
            logprobs = action_logprobs(policy.logits(features, actions), actions)[0]
            nll -= (logprobs[:, 0] * data.weights[a:b, None]).sum(0)
            weight += data.weights[a:b].sum()
    row = bc.evaluate(policy, data)
    np.testing.assert_allclose([row[f"eval/nll_{name}"] for name in HEADS], nll / weight, rtol=1e-4)
    assert row["eval/nll"] == pytest.approx(float(nll.sum() / weight), rel=1e-4)
    learned = data.weights > 0
    assert row["eval/true_press_X"] == pytest.approx(float((data.actions[learned, 2] > 0).float().mean()), rel=1e-4)


def test_warnings_see_a_collapse():
    healthy = {f"eval/{kind}_{name}": .1 for kind in ("true_press", "press", "argmax_press") for name in BUTTONS}
    healthy |= {f"eval/{kind}_{name}": .5 for kind in ("true_neutral", "neutral") for name in list(HEADS)[1:5]}
    healthy |= {f"eval/{kind}_{name}": 1. for kind in ("nll", "entropy") for name in HEADS}
    assert bc.warnings(healthy) == []
    for key, value in (("press_A", .01), ("argmax_press_B", 0.), ("neutral_main_x", .9), ("entropy_c_x", .1)):
        assert len(bc.warnings(healthy | {f"eval/{key}": value})) == 1, key


# ---------------------------------------------------------------------------------------------------------------------
# Training
# ---------------------------------------------------------------------------------------------------------------------

def test_every_parameter_moves_and_the_loss_falls(tmp_path):
    args = small(write_games(tmp_path / "games"), epochs=12, weight_decay=0, anneal_lr=False)
    bc.main(args)
    torch.manual_seed(args.seed)
    fresh = Policy("gru", (24,)).state_dict()
    policy, data = load_policy("runs/run/checkpoints/last.pt")
    still = [name for name, value in policy.state_dict().items() if torch.equal(value, fresh[name])]
    assert not still
    rows = [json.loads(line) for line in Path("runs/run/metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == list(range(13))
    assert rows[-1]["eval/nll"] < .5 * rows[0]["eval/nll"]
    assert rows[-1]["eval/nll_buttons"] < .3                                # an unbiased coin for X alone would be .69
    assert (data["stage"], policy.action_repeat, policy.frame_delay, data["step"]) == ("bc", 1, 0, rows[-1]["step"])


def test_same_seed_same_run(tmp_path):
    games = write_games(tmp_path / "games", 3)
    for name in ("a", "b"):
        bc.main(small(games, run_name=name, epochs=1, backbone="mlp"))
    a, b = (load_policy(f"runs/{name}/checkpoints/best.pt")[0].state_dict() for name in "ab")
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_rows_without_control_teach_nothing(tmp_path, monkeypatch):
    """Before a game's first input, whatever the labels and the returns there: the same losses."""
    games, load = write_games(tmp_path / "games", 3), bc.load_sequences

    def otherwise(*given, **options):
        train, held_out, about = load(*given, **options)
        for data in (train, held_out):
            assert 0 < (data.weights == 0).sum() < len(data.weights)
            data.actions[data.weights == 0] = 1
            data.returns[data.weights == 0] = 1000.
        return train, held_out, about

    bc.main(small(games, run_name="a"))
    monkeypatch.setattr(bc, "load_sequences", otherwise)
    bc.main(small(games, run_name="b"))
    a, b = ([{k: v for k, v in json.loads(line).items() if k.startswith(("losses", "eval"))} for line in
             Path(f"runs/{name}/metrics.jsonl").read_text().splitlines()] for name in "ab")
    assert a == b


def test_pretrained_and_checkpoint_flags(tmp_path):
    games = write_games(tmp_path / "games", 3)
    save_checkpoint(tmp_path / "start.pt", Policy("mlp", (12, 8), action_repeat=3))
    bc.main(small(games, pretrained=str(tmp_path / "start.pt"), hidden=None, epochs=1,
                  checkpoint=str(tmp_path / "out" / "bc.pt"), learning_rate=1e-9, weight_decay=0))
    start, end = (load_policy(tmp_path / name)[0] for name in ("start.pt", "out/bc.pt"))
    assert end.config == Policy("mlp", (12, 8)).config                      # cloning learns from every frame
    for name, value in start.state_dict().items():
        torch.testing.assert_close(end.state_dict()[name], value, atol=1e-6, rtol=0)


def test_who_is_left_out(tmp_path):
    frames, controllers = made_up_game(0)
    controllers[:, 1] = np.zeros((), CONTROLLER)                            # player 2 put the controller down
    games = tmp_path / "games"
    games.mkdir()
    for seed in range(3):
        write_slp(games / f"{seed}.slp", frames, controllers, seed=seed, started=0)
    train, held_out, about = dataset.load_sequences(str(games), num_workers=0, min_active=.01)
    assert (about["idle_players"], about["train_players"] + about["held_out_players"]) == (3, 3)
    with pytest.raises(UserError, match="3 idle"):
        dataset.load_sequences(str(games), num_workers=0, min_active=.01, character="marth")
    write_slp(games / "cpu.slp", frames, controllers, seed=9, started=0, cpu_levels=(9, 0))
    assert dataset.load_sequences(str(games), num_workers=0)[2]["cpu_players"] == 1
    assert dataset.load_sequences(str(games), num_workers=0, cpu_players=True)[2]["cpu_players"] == 0


# ---------------------------------------------------------------------------------------------------------------------
# Through the command line
# ---------------------------------------------------------------------------------------------------------------------

def shell(*words):
    return subprocess.run([sys.executable, str(ROOT / "bc.py"), *map(str, words)], capture_output=True, text=True,
                          env=os.environ | {"WANDB_MODE": "offline"})


def test_command_line(tmp_path):
    games = write_games(tmp_path / "games", 3)
    (tmp_path / "games" / "broken.slp").write_bytes(b"no replay")
    done = shell("--replays", games, "--epochs", 1, "--hidden", "16,8", "--window-size", 20, "--run-name", "cli",
                 "--num-workers", 1, "--track")
    assert done.returncode == 0, done.stderr
    assert "broken.slp" in done.stderr and "epoch 1" in done.stdout and "main_x" in done.stdout
    assert list(Path("runs/cli").glob("wandb/offline-run-*/*.wandb"))
    policy, _ = load_policy("runs/cli/checkpoints/best.pt")
    assert policy.config == Policy("gru", (16, 8)).config
    obs = melee_common.to_torch(observe(*made_up_game(0, 1)))
    actions, _ = policy.step(melee_common.Observation(obs.floats[0], obs.ints[0]), policy.initial_state(2), None)
    assert actions.shape == (2, ACTION_SIZE)
    with pytest.raises(UserError, match="--run-name"):
        bc.main(small(games, run_name="cli"))


def test_ctrl_c_keeps_what_was_learned(tmp_path):
    games = write_games(tmp_path / "games", 3)
    run = subprocess.Popen([sys.executable, str(ROOT / "bc.py"), "--replays", games, "--epochs", "100000", "--hidden",
                            "8", "--run-name", "long", "--num-workers", "0"],
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    checkpoint, deadline = Path("runs/long/checkpoints/last.pt"), time.monotonic() + 120
    while not checkpoint.exists() and run.poll() is None and time.monotonic() < deadline:
        time.sleep(.05)
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=60)
    assert run.returncode == 130 and "--pretrained" in out, err
    assert load_policy(checkpoint)[1]["step"] > 0

"""Behavioural cloning: labels that do not leak, every frame counted once, a policy that learns, errors in one line."""

import dataclasses
import gc
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

import bc
from cleanmelee import cli, dataset, imitation, resume
from cleanmelee.cli import UserError, to_flags
from cleanmelee.controller import ACTION_SIZE, HEADS, NEUTRAL_ACTION, decode_actions
from cleanmelee.features import FLOAT_NAMES, NUM_FLOATS, NUM_INTS, OWN_CONTROLLER, STRANGER
from cleanmelee.fingerprint import distance_to_people, usual
from cleanmelee.frame import BUTTON_X, BUTTONS, CHARACTERS, CONTROLLER, FIRST_CONTROL_FRAME, STAGES
from cleanmelee.games import VecEnv
from cleanmelee.learning import choose_device, learning_rate
from cleanmelee.names import MOST_NAMES, choose_names, names_of
from cleanmelee.observation import Observation, observe
from cleanmelee.recording import write_slp
from cleanmelee.replays import load_replays, read_replay
from cleanmelee.resume import resumed_args
from cleanmelee.rewards import RewardArgs, compute_rewards
from melee_common import Policy, action_logprobs, load_policy, save_checkpoint, to_torch
from helpers import games_of, load_all, load_sequences, made_up_game, pack, read_wandb, write_games

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


def rows_of(name):
    return [json.loads(line) for line in Path(f"runs/{name}/metrics.jsonl").read_text().splitlines()]


def curve(name):
    """What a run's log says of its learning, not of its speed."""
    return [{k: v for k, v in row.items() if not k.startswith("time") and "second" not in k} for row in rows_of(name)]


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
    train, _, _ = load_sequences(write_games(tmp_path / "games"), num_workers=0)
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
    train, _, _ = load_sequences(str(tmp_path / "games"), num_workers=0)
    leak, onsets = jump_leak(train)
    assert onsets > 50 and leak < .05
    assert jump_leak(train, shift=1)[0] > .2                                # the rest are presses in mid-air


@pytest.mark.skipif(not REAL.is_dir(), reason="no real replays beside the repository")
def test_labels_of_real_games_do_not_leak():
    train, _, _ = load_sequences(str(REAL), num_workers=0)
    leak, onsets = jump_leak(train)
    assert onsets > 500 and leak < .05
    assert jump_leak(train, shift=1)[0] > .3


def test_pack_pairs_each_frame_with_the_next_input(tmp_path):
    replays, _ = load_replays(write_games(tmp_path / "games", 2), num_workers=0)
    data = pack(replays, gamma=.9)
    assert len(data.starts) == 5
    for k, (index, player) in enumerate(itertools.product(range(len(replays)), (0, 1))):
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

        rewards = compute_rewards(frames[:-1], frames[1:], RewardArgs(reward_fall=0))[:, player]
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
    own[OWN_CONTROLLER] = True
    np.testing.assert_array_equal((a != b).all(0), own)


# ---------------------------------------------------------------------------------------------------------------------
# Evaluation
# ---------------------------------------------------------------------------------------------------------------------

def test_walk_sees_every_row_once():
    starts = np.cumsum([0, 700, 3, 256, 257, 90])
    walked = list(dataset.walk(starts, lanes=2, size=256))
    np.testing.assert_array_equal(np.sort(torch.cat([rows[real] for rows, real, _ in walked])), np.arange(starts[-1]))
    assert {tuple(rows.shape) for rows, _, _ in walked} == {(256, 2)}


@pytest.mark.parametrize("backbone", ["mlp", "gru"])
def test_evaluation_carries_the_memory(tmp_path, backbone):
    """Equal to one game after another, each unrolled whole."""
    replays, _ = load_replays(write_games(tmp_path / "games", 3), num_workers=0)
    games = games_of([dataclasses.replace(r, frames=r.frames[:n], controllers=r.controllers[:n])
                              for r, n in zip(replays, (300, 390, 350), strict=True)],
                             [(0, 0), (1, 0), (1, 1), (2, 0)])
    data = load_all(games)
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
    sums = imitation.measure(policy, games)
    row = imitation.summary(sums)
    np.testing.assert_allclose([row[f"eval/nll_{name}"] for name in HEADS], nll / weight, rtol=1e-4)
    assert row["eval/nll"] == pytest.approx(float(nll.sum() / weight), rel=1e-4)
    learned = data.weights > 0
    assert row["eval/true_press_X"] == pytest.approx(float((data.actions[learned, 2] > 0).float().mean()), rel=1e-4)

    groups = imitation.by_matchup(sums, games)
    assert list(groups) == ["fox", "fox against marth", "marth", "marth against fox"]
    assert (groups["fox"]["players"], groups["marth"]["players"]) == (3, 1)
    assert sum(groups[name]["frames"] for name in ("fox", "marth")) == weight
    mean = sum(groups[name]["eval/nll"] * groups[name]["frames"] for name in ("fox", "marth")) / weight
    assert mean == pytest.approx(row["eval/nll"], rel=1e-5)


def test_top_3_of_the_buttons(monkeypatch):
    """Against all 256 combinations in order."""
    torch.manual_seed(1)
    logits, pressed = torch.randn(200, 8), torch.rand(200, 8) < .5
    pressed = torch.where(torch.rand(200, 8) < .8, logits > 0, pressed)
    combinations = (torch.arange(256)[:, None] >> torch.arange(8)) % 2 == 1                         # [256, 8]
    scores = (logits[:, None] * combinations).sum(-1)                                               # [200, 256]
    true = (pressed * 2 ** torch.arange(8)).sum(-1)
    best = scores.topk(3).indices
    right, among_3 = imitation._buttons_right(logits, pressed)
    assert torch.equal(right[:, 0], best[:, 0] == true) and torch.equal(among_3[:, 0], (best == true[:, None]).any(1))
    assert 0 < right.sum() < among_3.sum() < 200


def test_warnings_see_a_collapse():
    healthy = {f"eval/{kind}_{name}": .1 for kind in ("true_press", "press", "argmax_press") for name in BUTTONS}
    healthy |= {f"eval/{kind}_{name}": .5 for kind in ("true_neutral", "neutral") for name in list(HEADS)[1:5]}
    healthy |= {f"eval/{kind}_{name}": 1. for kind in ("nll", "entropy") for name in HEADS}
    assert imitation.warnings(healthy) == []
    for key, value in (("press_A", .01), ("argmax_press_B", 0.), ("neutral_main_x", .9), ("entropy_c_x", .1)):
        assert len(imitation.warnings(healthy | {f"eval/{key}": value})) == 1, key


# ---------------------------------------------------------------------------------------------------------------------
# Training
# ---------------------------------------------------------------------------------------------------------------------

def test_every_parameter_moves_and_the_loss_falls(tmp_path):
    args = small(write_games(tmp_path / "games"), epochs=12, weight_decay=0, lr_schedule="constant")
    bc.main(args)
    torch.manual_seed(args.seed)
    fresh = Policy("gru", (24,)).state_dict()
    policy, data = load_policy("runs/run/checkpoints/last.pt")
    still = [name for name, value in policy.state_dict().items() if torch.equal(value, fresh[name])]
    assert not [name for name in still if "nana" not in name]               # nobody was an Ice Climber
    rows = rows_of("run")
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
    games, read = write_games(tmp_path / "games", 3), dataset.Games.read
    hidden = []

    def otherwise(self, *window):
        rows = read(self, *window)
        hidden.append(int((rows.weights == 0).sum()))
        rows.actions[rows.weights == 0] = 1
        rows.returns[rows.weights == 0] = 1000.
        return rows

    bc.main(small(games, run_name="a"))
    monkeypatch.setattr(dataset.Games, "read", otherwise)
    bc.main(small(games, run_name="b"))
    assert sum(hidden) > 100 and curve("a") == curve("b")


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
    train, held_out, about = load_sequences(str(games), num_workers=0, min_active=.01)
    assert (about["idle_players"], about["train_players"] + about["held_out_players"]) == (3, 3)
    with pytest.raises(UserError, match="3 idle"):
        load_sequences(str(games), num_workers=0, min_active=.01, character="marth")
    write_slp(games / "cpu.slp", frames, controllers, seed=9, started=0, cpu_levels=(9, 0))
    assert load_sequences(str(games), num_workers=0)[2]["cpu_players"] == 1
    assert load_sequences(str(games), num_workers=0, cpu_players=True)[2]["cpu_players"] == 0


# ---------------------------------------------------------------------------------------------------------------------
# How it learns
# ---------------------------------------------------------------------------------------------------------------------

def test_learning_rates():
    def rates(schedule, warmup=0):
        return [learning_rate(schedule, 2., step, 10, warmup) for step in range(10)]
    np.testing.assert_allclose(rates("linear"), np.linspace(2, 0, 11)[:10])
    np.testing.assert_allclose(rates("cosine"), 1 + np.cos(np.pi * np.arange(10) / 10))
    assert rates("constant") == [2.] * 10
    np.testing.assert_allclose(rates("linear", 4), [.5, 1, 1.5, 2, 2, 10 / 6, 8 / 6, 1, 4 / 6, 2 / 6])


def test_schedule_flags_reach_the_optimiser(tmp_path):
    games = write_games(tmp_path / "games", 3)
    bc.main(small(games, lr_schedule="cosine", warmup_updates=3, eval_interval=1, epochs=1))
    rows = rows_of("run")[1:]
    steps = len(rows)
    assert [row["step"] for row in rows] == list(range(1, steps + 1)) and steps > 4
    assert [row["charts/learning_rate"] for row in rows] == [
        learning_rate("cosine", 3e-3, step, steps, 3) for step in range(steps)]


def weights_of(name, file="last"):
    return load_policy(f"runs/{name}/checkpoints/{file}.pt")[0].state_dict()


def assert_close(a, b, atol):
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=atol, rtol=0)


def test_parts_of_a_batch_learn_what_it_learns(tmp_path):
    games = write_games(tmp_path / "games", 3)
    for name, parts in (("whole", 1), ("parts", 3), ("singly", 1000)):
        bc.main(small(games, run_name=name, epochs=1, grad_accum=parts))
        assert_close(weights_of("whole"), weights_of(name), 1e-4)
    assert rows_of("parts")[-1]["losses/nll"] == pytest.approx(rows_of("whole")[-1]["losses/nll"], rel=1e-4)


def test_a_running_average_is_judged_and_kept(tmp_path):
    games = write_games(tmp_path / "games", 3)
    bc.main(small(games, run_name="plain", epochs=1))
    bc.main(small(games, run_name="average", epochs=1, ema_decay=.9, eval_interval=1))
    data = load_policy("runs/average/checkpoints/last.pt")[1]
    assert_close(data["learner"], weights_of("plain"), 1e-6)                # what learns is the same
    name = "controller_head.project.weight"
    assert not torch.allclose(data["policy"][name], data["learner"][name])
    assert rows_of("average")[-1]["eval/nll"] > rows_of("plain")[-1]["eval/nll"] + .01      # it lags behind


def test_precision(tmp_path):
    games = write_games(tmp_path / "games", 3)
    for name, precision in (("f32", "f32"), ("bf16", "bf16")):
        bc.main(small(games, run_name=name, epochs=1, precision=precision))
    a, b = (rows_of(name)[-1] for name in ("f32", "bf16"))
    assert a["losses/nll"] != b["losses/nll"] == pytest.approx(a["losses/nll"], rel=.05)
    assert b["eval/nll"] == pytest.approx(a["eval/nll"], rel=.05)


def test_positions_are_exact_in_bf16():
    """Late in a game, and where a learner goes through whole games: bfloat16 knows 256 of them apart."""
    policy = Policy("transformer", (16,), num_heads=2)
    (layer, *_) = [module for module in policy.modules() if hasattr(module, "speeds")]
    positions = torch.arange(4000, 4040)[:, None]
    with torch.autocast("cpu", torch.bfloat16):
        _, keys, _ = layer._asked(torch.arange(16.).bfloat16().expand(40, 1, 16), positions)
    assert len({tuple(key.flatten().tolist()) for key in keys.float()}) > 30


def test_a_policy_that_learns_is_in_training_mode(tmp_path, monkeypatch):
    """No network does otherwise in it, but on a card a gru learns only so."""
    modes, losses = [], bc.losses
    monkeypatch.setattr(bc, "losses", lambda policy, *rest: (modes.append(policy.training), losses(policy, *rest))[1])
    games = write_games(tmp_path / "games", 3)
    bc.main(small(games, epochs=1))
    bc.main(small(games, epochs=1, run_name="on", pretrained="runs/run", hidden=None, ema_decay=.9))
    assert len(modes) > 4 and all(modes)


def test_some_windows_hide_the_own_controller_and_what_was_chosen_since(tmp_path, monkeypatch):
    seen, losses = [], bc.losses
    monkeypatch.setattr(bc, "losses", lambda policy, rows, *rest: (
        seen.append(rows.obs.floats.clone()), losses(policy, rows, *rest))[1])
    games = write_games(tmp_path / "games", 3)
    for dropout, hides in ((.999999, True), (0., False)):
        seen.clear()
        bc.main(small(games, run_name=f"hides_{hides}", epochs=1, frame_delay=2, prev_controller_dropout=dropout))
        for columns in (OWN_CONTROLLER, slice(NUM_FLOATS, None)):
            assert all(floats[..., columns].any() != hides for floats in seen)
        assert all(floats[..., :NUM_FLOATS].any() for floats in seen)
        data = load_policy(f"runs/hides_{hides}/checkpoints/last.pt")[1]
        assert data["metrics"]["eval/nll"] > 0                              # which is of windows that hide nothing


def test_the_values_teach_the_value_head_alone(tmp_path):
    games = write_games(tmp_path / "games", 3)
    for name, coef in (("off", 0.), ("large", 50.)):
        bc.main(small(games, run_name=name, epochs=1, value_coef=coef, max_grad_norm=1e9, max_updates=3))
    off, large = (load_policy(f"runs/{name}/checkpoints/last.pt")[0].state_dict() for name in ("off", "large"))
    assert {name for name in off if not torch.equal(off[name], large[name])} == {"value_head.weight", "value_head.bias"}


def test_compile_is_asked_for_the_loss_alone(tmp_path, monkeypatch):
    compiled = []

    def compile(function):
        compiled.append(function)
        return torch_compile(function, backend="eager")                     # traced, but not handed to a C++ compiler

    torch_compile = torch.compile
    games = write_games(tmp_path / "games", 3)
    with monkeypatch.context() as patched:
        patched.setattr(torch, "compile", compile)
        bc.main(small(games, run_name="compiled", epochs=1, compile=True, backbone="mlp"))
    assert compiled == [bc.losses]
    bc.main(small(games, run_name="plain", epochs=1, backbone="mlp"))
    assert_close(weights_of("compiled"), weights_of("plain"), 1e-4)


def test_device(tmp_path, monkeypatch):
    assert choose_device("cpu").type == "cpu"
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="^--device cuda: no CUDA device"):
        bc.main(small(write_games(tmp_path / "games", 3), device="cuda"))


def test_a_batch_that_does_not_fit_says_what_would(tmp_path, monkeypatch):
    def full(*rest):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(bc, "losses", full)
    with pytest.raises(UserError, match="^--batch-size 8 in 2 parts does not fit into memory: --grad-accum 4 "):
        bc.main(small(write_games(tmp_path / "games", 3), grad_accum=2))


def test_patience(tmp_path, capsys):
    games = write_games(tmp_path / "games", 3)
    bc.main(small(games, epochs=50, patience=2, learning_rate=1e-12))       # it hardly moves: noise alone
    rows = [row["eval/nll"] for row in rows_of("run")[1:]]
    assert len(rows) < 50 and min(rows[-2:]) >= min(rows[:-2])
    assert "2 evaluations in a row" in capsys.readouterr().out
    best = load_policy("runs/run/checkpoints/best.pt")[1]["metrics"]
    assert best["eval/nll"] == min(rows)


def test_stride_makes_windows_overlap(tmp_path):
    games = write_games(tmp_path / "games", 3)
    for name, stride in (("apart", 0), ("overlapping", 5)):
        bc.main(small(games, run_name=name, epochs=1, stride=stride))
    a, b = (rows_of(name)[-1]["step"] for name in ("apart", "overlapping"))
    assert 3.5 * a < b < 4.5 * a                                            # --window-size is 20


@pytest.mark.parametrize("workers", [0, 2])
def test_who_makes_the_batches_changes_nothing(tmp_path, workers):
    games = write_games(tmp_path / "games", 3)
    bc.main(small(games, run_name="thread", epochs=1, backbone="mlp"))
    bc.main(small(games, run_name="other", epochs=1, backbone="mlp", loader_workers=workers))
    assert curve("thread") == curve("other")


def test_flags_that_choose_games(tmp_path, monkeypatch):
    """Each reaches the data; what it does there: test_dataset.py."""
    flags = {"character": "fox", "player_port": 1, "tag": "Ann", "cpu_players": True, "min_active": .02, "held_out": .5,
             "max_files": 5, "num_workers": 3, "manifest": "split.json", "gamma": .5}
    given = []

    def open_games(folder, **options):
        given.append(options)
        raise UserError("enough")

    monkeypatch.setattr(bc, "open_games", open_games)
    for min_frames, window_size, least in ((300, 20, 300), (0, 80, 81)):
        with pytest.raises(UserError, match="enough"):
            bc.main(small("games", min_frames=min_frames, window_size=window_size, **flags))
        assert flags.items() <= given[-1].items() and given[-1]["min_frames"] == least


def test_a_manifest_of_a_run_repeats_its_split(tmp_path):
    games = write_games(tmp_path / "games", 4)
    bc.main(small(games, run_name="first", epochs=1, backbone="mlp"))
    write_slp(Path(games) / "one_more.slp", *made_up_game(9), seed=9, started=0)
    bc.main(small(games, run_name="again", epochs=1, backbone="mlp", manifest="runs/first/manifest.json", held_out=.9))
    assert curve("first") == curve("again")
    a, b = (Path(f"runs/{name}/manifest.json").read_bytes() for name in ("first", "again"))
    assert a == b


@pytest.mark.parametrize("backbone, parts", [("gru", 1), ("transformer", 2)])
def test_truncated_bptt_carries_the_memory(tmp_path, monkeypatch, backbone, parts):
    """In the end a policy remembers what it would of all its rows in one piece: nothing of the games before."""
    seen, plain = [], bc.losses

    def losses(policy, rows, memory):
        seen.append(rows)
        return plain(policy, rows, memory)

    monkeypatch.setattr(bc, "losses", losses)
    bc.main(small(write_games(tmp_path / "games", 3), backbone=backbone, truncate_bptt=30, batch_size=2 * parts,
                  grad_accum=parts, max_updates=25, epochs=9, learning_rate=1e-12, weight_decay=0, window_size=40))
    policy, data = load_policy("runs/run/checkpoints/last.pt")
    assert len(seen) == 25 * parts and data["step"] == 25
    for part in range(parts):
        columns = [(*rows.obs, rows.resets) for rows in seen[part::parts]]
        floats, ints, resets = (torch.cat(column) for column in zip(*columns, strict=True))     # [25 * 30, 2, ..]
        assert resets.any(1).sum() > 2
        with torch.no_grad():
            _, memory = policy.unroll(Observation(floats, ints), policy.initial_state(2), resets)
        for ours, saved in zip(memory, data["state"]["memory"], strict=True):
            torch.testing.assert_close(ours, saved[2 * part:2 * part + 2], atol=1e-4, rtol=1e-4)


def test_max_updates_ends_the_run_and_the_schedule(tmp_path):
    bc.main(small(write_games(tmp_path / "games", 3), max_updates=5, eval_interval=2, epochs=9))
    assert [row["step"] for row in rows_of("run")] == [0, 2, 4, 5]
    assert rows_of("run")[-1]["charts/learning_rate"] == pytest.approx(3e-3 / 5)


def test_a_policy_does_what_its_target_return_asks_for(tmp_path, monkeypatch):
    """Where only the return tells what people did."""
    read = dataset.Games.read

    def otherwise(self, sides, begins, length):
        rows = read(self, sides, begins, length)
        won = torch.rand(len(sides)) < .5
        rows.returns[:] = won * 2. - 1
        rows.actions[..., 2] = won
        rows.obs.floats[..., OWN_CONTROLLER] = 0.                           # which would tell, too
        return rows

    monkeypatch.setattr(dataset.Games, "read", otherwise)
    games = write_games(tmp_path / "games", 6)
    bc.main(small(games, return_conditioning=True, target_return=1., epochs=12, prev_controller_dropout=0))
    policy, _ = load_policy("runs/run/checkpoints/best.pt")
    assert policy.target_return == 1. and rows_of("run")[-1]["eval/accuracy_buttons"] > .99
    obs = to_torch(observe(*made_up_game(0, 200)))
    obs.floats[..., OWN_CONTROLLER] = 0.
    resets = torch.zeros(200, 2, dtype=torch.bool)
    for target, presses in ((1., 1.), (-1., 0.)):
        policy.aim_for(target)
        state = policy.initial_state(2)
        played = []
        with torch.no_grad():
            for t in range(200):
                frame = Observation(obs.floats[t], obs.ints[t])
                plain, *_ = policy.act_plainly(frame, state, None)
                actions, state = policy.step(frame, state, None)
                assert (actions.numpy() == plain).all()
                played.append(actions[:, 2])
        assert torch.stack(played).float().mean() == presses
        told, _ = policy.unroll(obs, policy.initial_state(2), resets, torch.full((200, 2), target))
        asked, _ = policy.unroll(obs, policy.initial_state(2), resets)
        torch.testing.assert_close(told, asked)

    bc.main(small(games, pretrained="runs/run/checkpoints/best.pt", run_name="on", hidden=None, epochs=1))
    again = load_policy("runs/on/checkpoints/last.pt")[0]
    assert again.target_return == 1. and resumed_args(
        Path("runs/on"), bc.Args(resume="runs/on"), may_change=bc.MAY_CHANGE).return_conditioning


PEOPLE = ["AA#1", "BB#2", "CC#3"]                                           # their connect codes


WHO = {str(k): (PEOPLE[k % 3], PEOPLE[(k + 1) % 3]) for k in range(8)} | {"8": ("", "")}


def people_games(folder):
    """Games between them, each from either port; in the last one they have no names."""
    folder.mkdir()
    for k, codes in WHO.items():
        write_slp(folder / f"{k}.slp", *made_up_game(int(k)), seed=int(k), started=0, codes=codes,
                  names=[code and f"the one of {code}" for code in codes])
    return str(folder)


def pressing(policy, obs, player=None):
    """How often its likeliest choice is X, playing as `player`; torch and numpy agree on it."""
    if player:
        policy.play_as(player)
    plain = policy.act_plainly(obs, policy.initial_state(len(obs.ints)), None)[0]
    actions, _ = policy.step(obs, policy.initial_state(len(obs.ints)), None)
    assert (actions.numpy() == plain).all()
    return float(actions[:, 2].float().mean())


def test_a_policy_plays_as_the_person_it_is_told(tmp_path, monkeypatch):
    """Where only the name tells what people did: the first presses X, the others do not."""
    read = dataset.Games.read
    told = set()

    def otherwise(self, sides, begins, length):
        rows = read(self, sides, begins, length)
        code = [WHO[Path(self.paths[game]).stem][side] for game, side in self.sides[sides, :2].tolist()]
        told.update(zip(code, rows.obs.ints[0, :, dataset.NAME].tolist(), strict=True))
        rows.actions[..., 2] = torch.tensor([name == PEOPLE[0] for name in code])
        rows.obs.floats.zero_()                                             # from which one might tell the game
        rows.obs.ints[..., :dataset.NAME] = 0
        return rows

    monkeypatch.setattr(dataset.Games, "read", otherwise)
    games = people_games(tmp_path / "games")
    bc.main(small(games, player="THE one of bb#2", epochs=1, stride=5, backbone="mlp", held_out=.1, learning_rate=.02))
    policy, _ = load_policy("runs/run/checkpoints/best.pt")
    assert sorted(policy.players) == PEOPLE and policy.players[0] == PEOPLE[1] and policy.config["player"] == 1
    assert told == {("", STRANGER), *((name, policy.players.index(name) + 1) for name in PEOPLE)}
    obs = Observation(torch.zeros(1, NUM_FLOATS), torch.zeros(1, NUM_INTS, dtype=torch.int16))
    assert [pressing(policy, obs, who) for who in (None, *PEOPLE)] == [0, 1, 0, 0]

    bc.main(small(games, eval_only=True, checkpoint="runs/run/checkpoints/best.pt", player=PEOPLE[1], tag=PEOPLE[0],
                  held_out=1, report="report.json"))                        # who played is told, whomever it plays as
    assert json.loads(Path("report.json").read_text())["all"]["eval/accuracy_buttons"] > .99
    told.clear()                                                            # the names are the checkpoint's
    more = {"pretrained": "runs/run/checkpoints/best.pt", "hidden": None, "epochs": 1, "tag": PEOPLE[0]}
    bc.main(small(games, run_name="on", **more))
    assert {name for name, _ in told} == {PEOPLE[0]} and len(told) == 1
    again = load_policy("runs/on/checkpoints/last.pt")[0]
    assert again.players == policy.players and again.config["player"] == 1
    for change, said in (({}, "nobody of that name was learned from; there are "), (more, "there are BB#2, "),
                         ({"eval_only": True, "checkpoint": "runs/on/checkpoints/best.pt"}, "there are BB#2, ")):
        with pytest.raises(UserError, match=f"^--player mango: .*{said}.*AA#1"):
            bc.main(small(games, run_name="no", **change, player="mango") if change is not more else
                    small(games, run_name="no", **{**more, "tag": ""}, player="mango"))


def test_replays_without_names_have_nobody_to_imitate(tmp_path):
    with pytest.raises(UserError, match="^--player mango: no names were learned"):
        bc.main(small(write_games(tmp_path / "games", 3), player="mango"))
    assert not Path("runs").exists()


def test_the_commonest_names_are_told_apart():
    frames = Counter({f"P{k}": 100 - k for k in range(80)})
    chosen = choose_names(frames, Counter({"P70": 30, "P75": 25}), "both")
    assert chosen == ["P70", *(f"P{k}" for k in range(MOST_NAMES - 1))] and len(chosen) == MOST_NAMES
    assert names_of({"codes": ("", ""), "tags": (" DOC ", ""), "names": ("a", "")}, 0) == ["DOC", "a"]
    with pytest.raises(UserError, match="P0, P1, P2, P3, P4 and 75 others$"):
        choose_names(frames, Counter(), "mango")


def test_what_is_ablated_is_not_learned_from(tmp_path, monkeypatch):
    """Where all that can be seen is how high one is, and X is pressed high up."""
    read, height = dataset.Games.read, FLOAT_NAMES.index("player.y")

    def otherwise(self, *window):
        rows = read(self, *window)
        rows.obs.ints.zero_()
        rows.obs.floats[..., torch.arange(NUM_FLOATS) != height] = 0.
        rows.actions[..., 2] = rows.obs.floats[..., height] > 0
        return rows

    monkeypatch.setattr(dataset.Games, "read", otherwise)
    games = write_games(tmp_path / "games", 4)
    flags = {"backbone": "mlp", "epochs": 1, "stride": 3, "learning_rate": .02}
    for name, ablate in (("blind", " y, percent,"), ("seeing", "opponent.y")):
        bc.main(small(games, run_name=name, ablate=ablate, **flags))
    blind, seeing = (rows_of(name)[-1]["eval/accuracy_buttons"] for name in ("blind", "seeing"))
    assert blind < .7 < .9 < seeing
    policy = load_policy("runs/blind/checkpoints/best.pt")[0]
    assert policy.config["ablate"] == ["percent", "y"]
    bc.main(small(games, run_name="on", pretrained="runs/blind", hidden=None, epochs=1))
    assert load_policy("runs/on")[0].config == policy.config
    with pytest.raises(UserError, match="^--ablate y: the policy to start from has percent,y;"):
        bc.main(small(games, pretrained="runs/blind", hidden=None, ablate="y"))


def test_flags_that_do_not_fit_are_refused(tmp_path):
    games = write_games(tmp_path / "games", 3)
    save_checkpoint(tmp_path / "plain.pt", Policy("mlp", (8,)))
    for change, said in (
            ({"truncate_bptt": 20, "backbone": "mlp"}, "^--truncate-bptt: the mlp remembers nothing"),
            ({"truncate_bptt": 20, "stride": 5}, "^--truncate-bptt goes through whole games"),
            ({"target_return": 1.}, "^--target-return 1.0: the policy was not trained with"),
            ({"pretrained": "plain.pt", "return_conditioning": True, "hidden": None}, "was trained without it"),
            ({"eval_only": True, "checkpoint": "plain.pt", "target_return": 1.}, "^--target-return 1.0: the policy"),
            ({"report": "report.json"}, "^--report: is for --eval-only"),
            ({"eval_only": True, "checkpoint": "plain.pt", "resume": "x"}, "^--resume: not together with --eval-only"),
            ({"eval_only": True, "checkpoint": "plain.pt", "pretrained": "plain.pt"}, "^--pretrained: not together"),
            ({"ablate": "percents"}, "^unknown feature 'percents': choose a name of docs/observation.md"),
            ({"eval_games": 2, "player_port": 3}, "0 games to learn from")):
        with pytest.raises(UserError, match=said):
            bc.main(small(games, **change))
    assert not Path("runs").exists()
    for target in (True, "1", float("nan"), 101):
        with pytest.raises(UserError, match="must be a number from -100 to 100"):
            Policy("mlp", (8,), target_return=target)


# ---------------------------------------------------------------------------------------------------------------------
# Runs that go on
# ---------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("at, flags", [
    (3, {}), (10, {}), (9, {"ema_decay": .9, "eval_interval": 4, "grad_accum": 2}),
    (11, {"truncate_bptt": 30, "batch_size": 3, "grad_accum": 2, "backbone": "transformer", "num_layers": 1})])
def test_resume_is_exact(tmp_path, monkeypatch, flags, at):
    """Stopped in the middle of an epoch, or where it evaluates: the same log and the same weights in the end."""
    games = write_games(tmp_path / "games", 3)
    bc.main(small(games, run_name="whole", epochs=3, **flags))
    updates = rows_of("whole")[-1]["step"]
    assert updates % 3 == 0 and updates // 3 > 3
    stop, made = [], []

    def losses(*given):
        made.append(1)
        if len(made) == at * flags.get("grad_accum", 1):
            stop.append(1)
        return plain(*given)

    plain = bc.losses
    with monkeypatch.context() as patched:
        patched.setattr(bc, "losses", losses)
        patched.setattr(bc, "stop_on_interrupt", lambda say: stop)
        with pytest.raises(SystemExit):
            bc.main(small(games, run_name="halves", epochs=3, **flags))
    write_slp(Path(games) / "one_more.slp", *made_up_game(9), seed=9, started=0)    # not of this run
    bc.main(bc.Args(resume="runs/halves"))
    assert curve("whole") == curve("halves")
    for file in ("best", "last"):
        a, b = weights_of("whole", file), weights_of("halves", file)
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_flag_that_is_given_counts_though_it_is_the_default(tmp_path, monkeypatch):
    assert cli.flags_in(["--resume", "x", "--max-updates=0", "--no-compile", "--batch-size", "64", "epochs"],
                        to_flags(bc.Args())) == {"resume", "max_updates", "compile", "batch_size"}
    games = write_games(tmp_path / "games", 3)
    bc.main(small(games, epochs=1, max_updates=1, loader_workers=1))
    monkeypatch.setattr(resume, "named", {"max_updates", "loader_workers"})
    args = resumed_args(Path("runs/run"), bc.Args(resume="runs/run"), bc.MAY_CHANGE)
    assert (args.max_updates, args.loader_workers, args.batch_size) == (0, 0, 8)
    monkeypatch.setattr(resume, "named", {"batch_size"})
    with pytest.raises(UserError, match="may change, not --batch-size"):
        resumed_args(Path("runs/run"), bc.Args(resume="runs/run"), bc.MAY_CHANGE)


def test_what_cannot_be_resumed_is_told(tmp_path, capsys):
    games = write_games(tmp_path / "games", 3)
    bc.main(small(games, epochs=1))
    before = Path("runs/run/metrics.jsonl").read_bytes()
    for change, said in (({"resume": "nowhere"}, "nowhere: not a run folder"),
                         ({"batch_size": 9}, "only --device, --epochs, --loader-workers, --max-updates, --num-workers "
                                             "may change, not --batch-size"),
                         ({"stage": "ppo_selfplay"}, "is not of this run"), ({"state": {}}, "cannot be resumed"),
                         ({"state": {"worse": 0, "stats": torch.zeros(0, 3), "before": {}, "best": {},
                                     "memory": (torch.zeros(2, 2),)}}, "its memory is not of this policy"),
                         ({"optimizer": {}}, "cannot be resumed"), ({"noise": torch.zeros(3)}, "cannot be resumed")):
        flags = {k: v for k, v in change.items() if k in ("resume", "batch_size")}
        path = Path("runs/run/checkpoints/last.pt")
        whole = path.read_bytes()
        if not flags:
            torch.save(torch.load(path, weights_only=True) | change, path)
        with pytest.raises(UserError, match=said) as error:
            bc.main(dataclasses.replace(bc.Args(resume="runs/run"), **flags))
        del error
        gc.collect()                                                        # and with it the run's lock
        path.write_bytes(whole)
    (tmp_path / "games" / "game_1.slp").unlink()
    with pytest.raises(UserError, match="manifest.json: 1 of its 3 replays are missing, the first: .*game_1.slp"):
        bc.main(bc.Args(resume="runs/run"))
    assert Path("runs/run/metrics.jsonl").read_bytes() == before


# ---------------------------------------------------------------------------------------------------------------------
# Evaluation alone
# ---------------------------------------------------------------------------------------------------------------------

def test_eval_only(tmp_path, capsys):
    games = write_games(tmp_path / "games", 6)
    bc.main(small(games, epochs=1))
    judge = bc.Args(eval_only=True, checkpoint="runs/run/checkpoints/best.pt", replays=games, num_workers=0,
                    min_active=0, held_out=.3, report="report.json")
    capsys.readouterr()
    bc.main(judge)
    out = capsys.readouterr().out
    assert all(word in out for word in ("top 3", "fox against marth", "marth", "main_x at rest"))
    found = json.loads(Path("report.json").read_text())
    trained = load_policy("runs/run/checkpoints/best.pt")[1]["metrics"]
    assert {k: pytest.approx(v, rel=1e-4) for k, v in found["all"].items()} == trained      # the same held-out games
    assert found["groups"].keys() == {"fox", "marth", "fox against marth", "marth against fox"}
    for row in (found["all"], *found["groups"].values()):
        assert all(row[f"eval/accuracy_{head}"] <= row[f"eval/top3_{head}"] <= 1 for head in HEADS)
    bc.main(dataclasses.replace(judge, held_out=1, report=""))
    assert "12 players in 6 games" in capsys.readouterr().out and len(list(Path("runs").iterdir())) == 1
    for change, said in (({"checkpoint": ""}, "--eval-only: give the policy"), ({"replays": ""}, "--replays is empty"),
                         ({"character": "ness"}, "none of 6 replays can be used"),
                         ({"player_port": 4}, "no game to judge by")):
        with pytest.raises(ValueError, match=said):
            bc.main(dataclasses.replace(judge, **change))


def test_games_on_the_side(tmp_path, monkeypatch):
    """Every evaluation is played, in a process of its own, and best.pt stays the one with the lowest loss."""
    monkeypatch.setattr(bc, "EVAL_FRAMES", 40)
    bc.main(small(write_games(tmp_path / "games", 3), eval_games=2, epochs=2, backbone="mlp"))
    rows = [json.loads(line) for line in Path("runs/run/eval.jsonl").read_text().splitlines()]
    assert [row["global_step"] for row in rows] == [row["step"] for row in rows_of("run")[1:]]
    assert all({"eval/winrate_level1_low", "eval/winrate_level5", "style/hits"} <= row.keys() for row in rows)
    assert "eval/is_best" not in rows[0]
    games = sorted(Path("runs/run/games").glob("*.slp"))                    # to be watched, and sent to wandb
    assert [path.stem for path in games] == [f"step_{row['global_step']:012d}" for row in rows]
    assert {read_replay(path).frames["frame_id"][-1] for path in games} == {FIRST_CONTROL_FRAME + bc.EVAL_FRAMES - 1}
    best = load_policy("runs/run/checkpoints/best.pt")[1]
    assert best["stage"] == "bc" and not list(Path("runs/run/checkpoints").glob("eval_*"))


def test_returns_are_discounted_as_the_policy_knows_them(tmp_path):
    games = write_games(tmp_path / "games", 4)
    bc.main(small(games, epochs=1, gamma=.9, return_conditioning=True))
    judge = bc.Args(eval_only=True, checkpoint="runs/run", replays=games, num_workers=0, min_active=0, held_out=.3,
                    report="report.json")
    trained = load_policy("runs/run/checkpoints/best.pt")[1]["metrics"]["eval/value_loss"]
    for gamma, same in ((None, True), (.9, True), (.99, False)):
        bc.main(dataclasses.replace(judge, gamma=gamma))
        found = json.loads(Path("report.json").read_text())["all"]["eval/value_loss"]
        assert (found == pytest.approx(trained, rel=1e-4)) == same, gamma
    bc.main(small(games, run_name="on", pretrained="runs/run", hidden=None, epochs=1))
    assert json.loads(Path("runs/on/args.json").read_text())["gamma"] == .9


def test_eval_only_plays(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bc, "EVAL_FRAMES", 40)
    games = write_games(tmp_path / "games", 3)
    save_checkpoint(tmp_path / "late.pt", Policy("gru", (8,), frame_delay=2, target_return=.5))
    judge = bc.Args(eval_only=True, checkpoint="late.pt", replays=games, num_workers=0, min_active=0, held_out=1,
                    report="report.json", eval_games=2, target_return=2.)
    bc.main(judge)
    out = capsys.readouterr().out
    assert "nine of ten people" in out and "distance to people" in out
    found = json.loads(Path("report.json").read_text())["games"]
    assert found["games"] == 2 and {"eval/winrate_level3", "eval/winrate_control"} <= found.keys()


def test_distance_to_people():
    middle = {name: (low + high) / 2 for name, (low, high) in usual().items()}
    far = {name: high + 5 * (high - low) for name, (low, high) in usual().items()}
    assert distance_to_people(middle) == 0 and distance_to_people(far) == distance_to_people({}) == 1
    name, (low, high) = list(usual().items())[1]
    assert distance_to_people(middle | {name: low - .4 * (high - low)}) == pytest.approx(.4 / len(middle))


def test_matchups_that_the_embedded_game_has():
    games = dataset.Games()
    for rows, characters in ((900, (1, 18)), (500, (18, 8)), (800, (8, 1)), (700, (18, 18))):
        games.add("", "", b"", 0, 0, rows, characters, (0, 1))
    found = imitation.combinations(games.freeze())
    assert found[0] == ("marth", "marth", "final_destination")              # two sides of it, and one against ness
    assert set(found[1:]) == {("fox", "marth", found[0][2]), ("marth", "fox", found[0][2]), ("fox", "fox", found[0][2])}
    ness = dataset.Games()
    ness.add("", "", b"", 0, 0, 900, (8, 8), (0, 1))
    with pytest.raises(UserError, match="^--eval-games: the embedded game has none"):
        imitation.combinations(ness.freeze())


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
                 "--num-workers", 1, "--track", "--wandb-project", "mine", "--wandb-entity", "we", "--wandb-group",
                 "seeds", "--wandb-tags", "a, b")
    assert done.returncode == 0, done.stderr
    assert "broken.slp" in done.stderr and "epoch 1" in done.stdout and "main_x" in done.stdout
    sent = read_wandb(Path("runs/cli"))
    logged = [json.loads(line) for line in Path("runs/cli/metrics.jsonl").read_text().splitlines()]
    assert [row["eval/nll"] for row in sent.rows if "eval/nll" in row] == [row["eval/nll"] for row in logged]
    assert [row["global_step"] for row in sent.rows if "eval/nll" in row] == [row["step"] for row in logged]
    assert (sent.run.project, sent.run.entity, sent.run.run_group, list(sent.run.tags)) == (
        "mine", "we", "seeds", ["a", "b"])
    assert sent.artifacts == [("model", logged[-1]["step"])] and sent.pictures.keys() == {"pictures/press_rates"}
    policy, _ = load_policy("runs/cli/checkpoints/best.pt")
    assert policy.config == Policy("gru", (16, 8)).config
    obs = to_torch(observe(*made_up_game(0, 1)))
    actions, _ = policy.step(Observation(obs.floats[0], obs.ints[0]), policy.initial_state(2), None)
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
    assert run.returncode == 130 and "--resume runs/long" in out, err
    assert load_policy(checkpoint)[1]["stage"] == "bc"

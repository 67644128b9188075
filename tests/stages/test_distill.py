"""Distillation: a teacher that remembers, a student that learns and can be used."""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import distill
from cleanmelee.controller import ACTION_SIZE, NUM_LOGITS
from cleanmelee.frame import CONTROLLER, FRAME
from cleanmelee.recording import write_slp
from helpers import read_wandb
from melee_common import Policy, load_policy, save_checkpoint

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)


@pytest.fixture
def games(tmp_path):
    """Three games in which two players wander and press at random."""
    folder = tmp_path / "games"
    folder.mkdir()
    for seed in range(3):
        rng, length = np.random.default_rng(seed), 300
        frames, controllers = np.zeros(length, FRAME), np.zeros((length, 2), CONTROLLER)
        frames["frame_id"], frames["stage"] = np.arange(length) - 123, 32
        players = frames["players"]
        players["x"], players["y"] = np.clip(rng.normal(0, 2, (2, length, 2)).cumsum(1), -200, 200)
        players["facing"], players["character"], players["port"], players["present"] = 1, (1, 18), (0, 1), 1
        players["stocks"], players["shield"], players["action"] = 4, 60, rng.integers(14, 40, (length, 2))
        frames["items"]["present"][:, 0] = 1
        frames["items"]["type"][:, 0] = 54
        controllers["buttons"] = rng.choice([0, 0x100, 0x400], (length, 2))
        controllers["main_x"] = rng.choice([-1, 0, 1], (length, 2))
        write_slp(folder / f"{seed}.slp", frames, controllers, seed=seed, started=0)
    return str(folder)


def sharp_policy(**config):
    """Random, but with opinions: a fresh policy's heads hardly look at what they see."""
    torch.manual_seed(7)
    policy = Policy("gru", (24,), **config)
    with torch.no_grad():
        for layer in policy.controller_head.logits.values():
            layer.weight.normal_(std=.3)
        for table in [policy.controller_head.seen_buttons, *policy.controller_head.seen.values()]:
            table.weight.normal_(std=.3)
    return policy.eval()


@pytest.fixture
def teacher(tmp_path):
    return str(save_checkpoint(tmp_path / "teacher.pt", sharp_policy(), stage="bc"))


def small(teacher, games, /, **changes):
    args = distill.Args(teacher, games, num_workers=0, hidden="16,16", epochs=1, batch_size=256, run_name="run",
                        output="out/student.pt", held_out=.3)
    return dataclasses.replace(args, **changes)


@pytest.mark.parametrize("action_repeat", [1, 3])
def test_teacher_answers_as_if_it_played(games, action_repeat):
    """Its memory is carried from a game's first frame to its last, one action after the other."""
    policy = sharp_policy(action_repeat=action_repeat)
    data, _, _ = distill.load_sequences(games, num_workers=0, held_out=.3)
    logits, values = distill.answers(policy, data)
    with torch.no_grad():
        for a, b in zip(data.starts[:-1], data.starts[1:], strict=True):
            state = policy.initial_state(1)
            for row in range(a + 2 % action_repeat, b, action_repeat):
                obs, actions = data.take(torch.tensor([row]))
                features, state = policy.features(obs, state)
                if row % 7 == 0:
                    torch.testing.assert_close(logits[row], policy.logits(features, actions)[0], atol=1e-4, rtol=1e-4)
                    torch.testing.assert_close(values[row], policy.value(features)[0], atol=1e-4, rtol=1e-4)


def test_student_learns_from_the_teacher(teacher, games):
    args = small(teacher, games, epochs=15, alpha=1., learning_rate=3e-3, weight_decay=0., hidden="32")
    torch.manual_seed(args.seed)
    fresh = Policy("mlp", (32,))
    distill.main(args)
    rows = [json.loads(line) for line in Path("runs/run/metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["eval/kl"] < .6 * rows[0]["eval/kl"] and rows[-1]["eval/value_error"] < rows[0]["eval/value_error"]
    policy, data = load_policy("out/student.pt")
    assert policy.config == Policy("mlp", (32,)).config
    assert data["teacher"] == hashlib.sha256(Path(teacher).read_bytes()).hexdigest()
    assert data["stage"] == "distill"
    still = [name for name, value in policy.state_dict().items() if torch.equal(value, fresh.state_dict()[name])]
    assert not still


def test_alpha_weighs_teacher_and_players(teacher, games):
    for alpha in (0., 1.):
        distill.main(small(teacher, games, alpha=alpha, run_name=f"alpha{alpha}", epochs=6, learning_rate=3e-3))
    players, copy = (json.loads(Path(f"runs/alpha{alpha}/metrics.jsonl").read_text().splitlines()[-1])
                     for alpha in (0., 1.))
    assert copy["eval/kl"] < players["eval/kl"] and players["eval/student_nll"] < copy["eval/student_nll"]


def test_student_acts_as_often_as_its_teacher(tmp_path, games):
    save_checkpoint(tmp_path / "three.pt", sharp_policy(action_repeat=3))
    distill.main(small(str(tmp_path / "three.pt"), games))
    assert load_policy("out/student.pt")[0].action_repeat == 3


def test_command_line(teacher, games):
    done = subprocess.run([sys.executable, str(ROOT / "distill.py"), "--teacher", teacher, "--replays", games,
                           "--output", "s.pt", "--hidden", "8,8", "--epochs", "2", "--num-workers", "1",
                           "--run-name", "run", "--track"], capture_output=True, text=True, env=os.environ | {
                               "WANDB_MODE": "offline", "WANDB_PROJECT": "theirs"})
    assert done.returncode == 0, done.stderr
    sent = read_wandb(Path("runs/run"))
    logged = [json.loads(line) for line in Path("runs/run/metrics.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in logged]
    assert [row["global_step"] for row in sent.rows if "eval/kl" in row] == steps and sent.run.project == "theirs"
    assert sent.artifacts == [("model", steps[-1])] and sent.pictures.keys() == {"pictures/press_rates"}
    assert "parameters" in done.stdout and "one step, p50" in done.stdout
    policy, _ = load_policy("s.pt")
    obs, _ = distill.load_sequences(games, num_workers=0)[0].take(torch.arange(3))
    assert policy.step(obs, policy.initial_state(3), torch.rand(3, NUM_LOGITS))[0].shape == (3, ACTION_SIZE)

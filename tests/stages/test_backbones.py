"""Backbones, and a delay, go through all stages: cloned, trained in self-play, distilled, exported, played."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import bc
import distill
import export_onnx
import play
import ppo_selfplay
from cleanmelee.cli import UserError
from cleanmelee.dataset import load_sides, open_games
from cleanmelee.labels import Lesson
from cleanmelee.onnx import OnnxPolicy
from helpers import FRAMES, metrics, tiny, write_games
from melee_common import Policy, load_policy, network_flags, save_checkpoint

OPTIONS = {"mlp": {}, "gru": {"num_layers": 2}, "lstm": {"num_layers": 2}, "mamba": {"state_size": 4, "conv_size": 3},
           "transformer": {"num_heads": 2, "window_size": 9}, "hybrid": {"num_heads": 2, "window_size": 9}}


@pytest.fixture(scope="module")
def games(tmp_path_factory):
    return write_games(tmp_path_factory.mktemp("games") / "games", count=4)


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(export_onnx, "LATENCY_STEPS", 20)
    monkeypatch.setattr(export_onnx, "WARM_UP_STEPS", 5)
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)


@pytest.mark.parametrize("backbone, delay", [                           # a hybrid has all layers but those of a mamba
    ("gru", 0), ("hybrid", 4), pytest.param("mamba", 0, marks=pytest.mark.slow)])
def test_the_whole_chain(backbone, delay, games, tmp_path, monkeypatch):
    options = {"window_size": 12} | OPTIONS[backbone]
    network = {"backbone": backbone, "hidden": "16,8", **options}
    bc.main(bc.Args(games, num_workers=0, run_name="bc", epochs=2, batch_size=16, held_out=.3, frame_delay=delay,
                    **network))
    first, last = (json.loads(line) for line in Path("runs/bc/metrics.jsonl").read_text().splitlines()[::2])
    assert last["eval/nll"] < first["eval/nll"]
    cloned, _ = load_policy("runs/bc/checkpoints/best.pt")
    own = network_flags(cloned)
    assert {name: own[name] for name in OPTIONS[backbone]} == OPTIONS[backbone] and own["backbone"] == backbone

    ppo_selfplay.main(tiny(tmp_path, "ppo", 2, pretrained="runs/bc/checkpoints/best.pt", eval_interval=2))
    assert any(row["selfplay/history_games"] for row in metrics(Path("ppo")))    # its frozen past plays too
    trained, _ = load_policy("ppo/checkpoints/latest.pt")
    assert trained.config == cloned.config

    distill.main(distill.Args("ppo/checkpoints/latest.pt", games, num_workers=0, run_name="distill", output="small.pt",
                              epochs=1, batch_size=200, **network))
    found, parity = [], export_onnx.parity
    monkeypatch.setattr(export_onnx, "parity", lambda *given: found.append(parity(*given)) or found[-1])
    export_onnx.main(export_onnx.Args("small.pt", "small.onnx", steps=30))
    assert found[0]["actions"] == 0 and found[0]["states"] < 1e-5 and found[0]["logits"] < 1e-4
    play.main(play.Args("small.onnx", "ppo/checkpoints/latest.pt", num_games=2, max_episode_frames=60, port=1,
                        results="results.jsonl"))
    row = json.loads(Path("results.jsonl").read_text())
    assert row["games"] == 2 and row["frame_delay"] == delay
    assert OnnxPolicy(Path("small.onnx")).initial_state(3)[0].shape[0] == 3


@pytest.mark.parametrize("backbone", ["transformer", "mamba"])
def test_self_play_resumes_as_if_it_had_never_stopped(backbone, tmp_path):
    network = {"backbone": backbone, "hidden": "8", "num_layers": 1, "history_prob": .6, **OPTIONS[backbone]}
    ppo_selfplay.main(tiny(tmp_path, "whole", 4, **network))
    ppo_selfplay.main(tiny(tmp_path, "parts", 2, **network))
    ppo_selfplay.main(ppo_selfplay.Args(resume=str(tmp_path / "parts"), timesteps=4 * FRAMES))
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "parts")


def test_a_student_that_remembers_learns_windows_of_what_it_will_see(games):
    """Its teacher acts on every third frame; so does it, and sees every third."""
    torch.manual_seed(0)
    save_checkpoint("teacher.pt", Policy("lstm", (16,), action_repeat=3))
    args = distill.Args("teacher.pt", games, num_workers=0, run_name="run", output="s.pt", backbone="transformer",
                        hidden="16", num_heads=2, window_size=10, epochs=8, batch_size=200, alpha=1.)
    seen, unroll = [], Policy.unroll

    def watched(policy, obs, state, resets):
        if torch.is_grad_enabled():
            seen.append(obs.floats)
        return unroll(policy, obs, state, resets)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Policy, "unroll", watched)
        distill.main(args)
    rows = [json.loads(line) for line in Path("runs/run/metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["eval/kl"] < .7 * rows[0]["eval/kl"]
    assert load_policy("s.pt")[0].action_repeat == 3 and {len(floats) for floats in seen} == {10}
    data = load_sides(open_games(games, num_workers=0)[0], [0, 1], 3)
    lesson = Lesson(data.obs, data.actions, data.weights, data.weights, torch.empty(0), data.starts)
    first = distill.windows_of(lesson, 10, torch.Generator())
    rows = first + torch.arange(10)[:, None]
    sequence = np.searchsorted(data.starts, rows.numpy(), "right")
    assert (sequence == sequence[0]).all() and len(first) >= sum(n // 10 - 1 for n in np.diff(data.starts))
    np.testing.assert_array_equal(np.diff(first[sequence[0] == 1]), 10)


def test_flags_that_do_not_fit_the_network_are_told(games):
    for script, args in ((bc, bc.Args(games, backbone="mlp", num_layers=3)),
                         (distill, distill.Args("teacher.pt", games, num_heads=2))):
        save_checkpoint("teacher.pt", Policy("mlp", (8,)))
        with pytest.raises(UserError, match="not an option of mlp"):
            script.main(args)
    save_checkpoint("start.pt", Policy("lstm", (8,)))
    for changed, rule in (({"num_layers": 3}, "--num-layers 3: the policy to start from has 2"),
                          ({"state_size": 3}, "--state-size 3: the policy to start from has none")):
        with pytest.raises(UserError, match=rule):
            bc.main(dataclasses.replace(bc.Args(games, pretrained="start.pt"), **changed))
        with pytest.raises(UserError, match=rule):
            ppo_selfplay.main(ppo_selfplay.Args(pretrained="start.pt", **changed))

"""Matches: who sits where, how often a policy decides, what is counted, what is recorded, and what a user may get wrong."""

import json
import os
import signal
import sys

import numpy as np
import onnx
import pytest
import torch

import play
from export_onnx import Act, export
from melee_common import (
    BOTS, CHARACTERS, NUM_BUTTONS, NUM_FLOATS, NUM_INTS, NUM_LOGITS, STAGES, Observation, Policy, VecEnv, outcomes, play_games,
    read_replay, run_script, save_checkpoint, schema_hash,
)
from play import Args, OnnxPolicy

LENGTH = 240  # frames of a test game


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """mlp.pt decides on every frame, gru.pt on every third, gru.onnx is the same policy."""
    path = tmp_path_factory.mktemp("policies")
    torch.manual_seed(0)
    save_checkpoint(path / "mlp.pt", Policy("mlp", (16,)))
    gru = Policy("gru", (16,)).eval()
    with torch.no_grad():                                                   # a fresh policy's likeliest action never changes
        for p in gru.parameters():
            p.add_(torch.randn_like(p) * .1)
    save_checkpoint(path / "gru.pt", gru, action_repeat=3)
    model = export(Act(gru), torch.rand(2, NUM_LOGITS), ("noise", "actions"))
    onnx.save(model, path / "bare.onnx")
    facts = {"program": "CleanMelee", "schema": schema_hash(), "action_repeat": "3", "frame_delay": "0"}
    onnx.helper.set_model_props(model, facts)
    onnx.save(model, path / "gru.onnx")
    onnx.helper.set_model_props(model, facts | {"schema": "000000000000"})
    onnx.save(model, path / "other_schema.onnx")
    return path


def run(folder, tmp_path, policy="gru.pt", opponent="attacker", **options):
    """Plays and returns the row of results."""
    opponent = opponent if opponent in BOTS else str(folder / opponent)
    results = tmp_path / "results.jsonl"
    options = {"results": str(results), "max_episode_frames": LENGTH, "num_games": 2} | options
    play.main(Args(str(folder / policy), opponent, **options))
    return json.loads(results.read_text().splitlines()[-1])


def read(folder):
    """Every recording of a folder, without the frames before the game's own first one."""
    replays = [read_replay(path) for path in sorted(folder.glob("*.slp"))]
    return [(r.frames[-LENGTH - 1:], r.controllers[-LENGTH - 1:], r.meta) for r in replays]


# ------------------------------------------------------------------------------------------------------------ recordings

def test_a_recording_holds_the_game_bit_for_bit(folder, tmp_path, monkeypatch):
    seen = []

    class Watched(VecEnv):
        def step(self, controllers):
            result = super().step(controllers)
            done = result[0] | result[1]
            seen.append(np.where(done, self.final_frames, self.frames))
            return result

    monkeypatch.setattr(play, "VecEnv", Watched)
    run(folder, tmp_path, "gru.pt", "attacker", num_games=3, record=str(tmp_path), opponent_character="fox")
    assert sorted(p.name for p in tmp_path.glob("*.slp")) == [
        "game_001_mewtwo_vs_fox.slp", "game_002_fox_vs_mewtwo.slp", "game_003_mewtwo_vs_fox.slp"]
    seen = np.stack(seen)                                                   # [T, N]
    for g, (frames, _, meta) in enumerate(read(tmp_path)):
        assert len(frames) == LENGTH + 1
        for field in ("x", "y", "percent", "stocks", "action", "facing", "shield", "character"):
            assert np.array_equal(frames["players"][field][1:], seen["players"][field][:, g]), field
        assert meta["names"] == (("gru.pt", "attacker") if g % 2 == 0 else ("attacker", "gru.pt"))


def test_recorded_controllers_make_the_recorded_frames(folder, tmp_path):
    """post[t-1] + pre[t] -> post[t]: fed back into the game, a recording plays itself."""
    run(folder, tmp_path, "mlp.pt", "gru.pt", record=str(tmp_path), seed=4)
    replays = read(tmp_path)
    with VecEnv(2, CHARACTERS["mewtwo"], STAGES["final_destination"], seed=4, max_episode_frames=0) as envs:
        for t in range(1, LENGTH + 1):
            envs.step(np.stack([controllers[t] for _, controllers, _ in replays]))
            for g, (frames, _, _) in enumerate(replays):
                for field in ("x", "y", "percent", "action"):
                    assert np.array_equal(frames["players"][field][t], envs.frames["players"][field][g])


def test_a_game_of_a_dead_worker_starts_over(folder, tmp_path, monkeypatch):
    class Mortal(VecEnv):
        steps = 0

        def step(self, controllers):
            self.steps += 1
            if self.steps == 50:
                os.kill(self._workers[0].pid, signal.SIGKILL)
            return super().step(controllers)

    monkeypatch.setattr(play, "VecEnv", Mortal)
    row = run(folder, tmp_path, num_workers=2, record=str(tmp_path))
    assert row["games"] == 2 and row["seconds_per_game"] == LENGTH / 60
    for path in tmp_path.glob("*.slp"):
        ids = read_replay(path).frames["frame_id"]
        assert np.array_equal(ids, np.arange(ids[0], ids[0] + len(ids)))
    assert len({len(frames) for frames, _, _ in read(tmp_path)}) == 1


# ----------------------------------------------------------------------------------------------------------- who decides

def test_each_policy_decides_as_often_as_it_was_trained_to(folder, tmp_path):
    run(folder, tmp_path, "gru.pt", "mlp.pt", record=str(tmp_path))
    for g, (_, controllers, _) in enumerate(read(tmp_path)):
        gru, mlp = (controllers[1:, who].reshape(-1, 3) for who in (g % 2, 1 - g % 2))  # [T / 3, 3]; row 0 made no frame
        assert (gru[:, 0] == gru[:, 1]).all() and (gru[:, 0] == gru[:, 2]).all()
        assert (gru[1:, 0] != gru[:-1, 0]).any() and (mlp[:, 0] != mlp[:, 1]).any()


def test_play_is_what_training_plays(folder, tmp_path):
    """The same games as `play_games`, where the environment repeats the action."""
    run(folder, tmp_path, "gru.pt", "gru.pt", record=str(tmp_path), seed=7)
    policy, _ = play.load_player(str(folder / "gru.pt"))
    with VecEnv(2, CHARACTERS["mewtwo"], STAGES["final_destination"], seed=7, max_episode_frames=LENGTH,
                action_repeat=3) as envs:
        final = play_games([policy], envs, np.zeros((2, 2), int), torch.Generator().manual_seed(7))
    for g, (frames, _, _) in enumerate(read(tmp_path)):
        for field in ("x", "y", "percent", "stocks", "action"):
            assert np.array_equal(frames["players"][field][-1], final["players"][field][g])


def test_an_exported_policy_plays_like_its_checkpoint(folder, tmp_path):
    for deterministic in (False, True):
        rows = [run(folder, tmp_path, name, deterministic=deterministic, num_games=4) for name in ("gru.pt", "gru.onnx")]
        assert {k: v for k, v in rows[0].items() if k != "policy"} == {k: v for k, v in rows[1].items() if k != "policy"}
        assert rows[0]["action_repeat"] == 3


def test_most_likely_noise_shifts_nothing():
    assert (torch.logit(play.MOST_LIKELY[:NUM_BUTTONS]) == 0).all()
    assert (-torch.log(-torch.log(play.MOST_LIKELY[NUM_BUTTONS:]))).abs().max() < 1e-6


def test_onnx_policy_keeps_the_rows_of_a_batch_apart(folder):
    policy = OnnxPolicy(folder / "gru.onnx")
    obs, noise = Observation(torch.randn(5, NUM_FLOATS), torch.zeros(5, NUM_INTS, dtype=torch.int16)), torch.rand(5, NUM_LOGITS)
    state = tuple(torch.randn_like(s) for s in policy.initial_state(5))
    actions, after = policy.step(obs, state, noise)
    for row in range(5):
        one = slice(row, row + 1)
        alone, alone_after = policy.step(Observation(obs.floats[one], obs.ints[one]), tuple(s[one] for s in state), noise[one])
        assert torch.equal(alone[0], actions[row])
        torch.testing.assert_close(alone_after[0][0], after[0][row])


def test_seeds_and_workers(folder, tmp_path):
    """The seed alone decides the games; the policy's moves differ between seeds."""
    a, b, c = ((run(folder, tmp_path, record=str(tmp_path / name), **options), read(tmp_path / name))
               for name, options in (("a", {}), ("b", {"num_workers": 2}), ("c", {"seed": 2})))
    for (frames_a, controllers_a, _), (frames_b, controllers_b, _) in zip(a[1], b[1], strict=True):
        assert np.array_equal(frames_a, frames_b) and np.array_equal(controllers_a, controllers_b)
    assert a[0] == b[0] and any(not np.array_equal(x[1], y[1]) for x, y in zip(a[1], c[1], strict=True))


# --------------------------------------------------------------------------------------------------------------- results

def test_the_result_counts_the_recorded_games(folder, tmp_path, capsys):
    row = run(folder, tmp_path, "mlp.pt", "attacker", num_games=4, record=str(tmp_path), max_episode_frames=1200,
              character="fox", opponent_character="marth", stage="battlefield")
    replays = [read_replay(path) for path in sorted(tmp_path.glob("*.slp"))]
    assert len(replays) == 4 and all(r.meta["stage"] == STAGES["battlefield"] for r in replays)
    score, dealt, taken, lost = [], 0., 0., []
    for g, r in enumerate(replays):
        me, percent = g % 2, r.frames["players"]["percent"]
        assert r.meta["characters"][me] == CHARACTERS["fox"] and r.meta["characters"][1 - me] == CHARACTERS["marth"]
        score.append(int(outcomes(r.frames[-1:])[0]) * (1 - 2 * me))
        gained = np.maximum(np.diff(percent, axis=0), 0).sum(0)
        dealt, taken = dealt + gained[1 - me], taken + gained[me]
        lost.append(4 - r.frames["players"]["stocks"][-1, me])
    assert [row["wins"], row["losses"], row["draws"]] == [score.count(s) for s in (1, -1, 0)]
    minutes = 4 * 1200 / 3600
    assert row["damage_dealt_per_minute"] == pytest.approx(dealt / minutes, rel=1e-4)
    assert row["damage_taken_per_minute"] == pytest.approx(taken / minutes, rel=1e-4) and taken > 0
    assert row["stocks_lost"] == np.mean(lost) and row["seconds_per_game"] == 20
    out = capsys.readouterr().out
    assert f"{row['wins']}/{row['losses']}/{row['draws']}" in out and "recorded 4 games" in out


def test_full_games_end_by_stocks(folder, tmp_path):
    row = run(folder, tmp_path, "mlp.pt", "attacker", max_episode_frames=0)
    assert row["games"] == 2 and max(row["stocks_lost"], row["stocks_taken"]) >= 2


def test_recordings_of_two_matches_share_a_folder(folder, tmp_path):
    play.main(Args(str(folder / "mlp.pt"), "idle", num_games=1, max_episode_frames=30, record=str(tmp_path / "slp")))
    play.main(Args(str(folder / "mlp.pt"), "random", num_games=1, max_episode_frames=30, record=str(tmp_path / "slp")))
    rows = [json.loads(line) for line in (tmp_path / "slp" / "results.jsonl").read_text().splitlines()]
    assert [row["opponent"] for row in rows] == ["idle", "random"]
    assert [p.name[:8] for p in sorted((tmp_path / "slp").glob("*.slp"))] == ["game_001", "game_002"]


def test_ctrl_c_shows_the_finished_games(folder, tmp_path, monkeypatch, capsys):
    class Interrupted(VecEnv):
        steps = 0

        def step(self, controllers):
            terminated, truncated, broken = super().step(controllers)
            self.steps += 1
            if self.steps == 20:
                truncated[0], self.final_frames[0] = True, self.frames[0]
            if self.steps == stop:
                raise KeyboardInterrupt
            return terminated, truncated, broken

    monkeypatch.setattr(play, "VecEnv", Interrupted)
    for stop, said in ((30, "1 of 2 games did not end"), (10, "no result")):
        with pytest.raises(SystemExit) as end:
            run(folder, tmp_path, num_workers=1)
        captured = capsys.readouterr()
        assert end.value.code == 130 and said in captured.err and ("0/0/1" in captured.out) == (stop == 30)


# ----------------------------------------------------------------------------------------------------------- command line

def test_every_flag_through_the_command_line(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["play.py", *map(str, [
        "--policy", folder / "gru.onnx", "--opponent", folder / "mlp.pt", "--num-games", 3, "--character", "falco",
        "--opponent-character", "sheik", "--stage", "battlefield", "--max-episode-frames", 60, "--record", tmp_path / "slp",
        "--results", tmp_path / "new" / "results.jsonl", "--deterministic", "--seed", 9, "--num-workers", 1])])
    run_script(play.main, Args)
    captured = capsys.readouterr()
    assert "sampling usually plays better" in captured.err and "falco" in captured.out
    row = json.loads((tmp_path / "new" / "results.jsonl").read_text())
    assert row["deterministic"] and row["seed"] == 9 and row["games"] == 3 and row["seconds_per_game"] == 1
    assert len(list((tmp_path / "slp").glob("*.slp"))) == 3 and not (tmp_path / "slp" / "results.jsonl").exists()


def test_mistakes_end_in_one_line(folder, tmp_path, monkeypatch, capfd):
    torn, text = tmp_path / "torn.onnx", tmp_path / "policy.txt"
    torn.write_bytes((folder / "gru.onnx").read_bytes()[:5000])
    text.write_text("no policy")
    save_checkpoint(tmp_path / "delayed.pt", Policy("mlp", (16,)), frame_delay=18)
    good = {"--policy": folder / "gru.pt", "--opponent": "idle", "--max-episode-frames": 30, "--num-games": 2}
    for flag, value, said in (
            ("--policy", tmp_path / "nowhere.pt", "no such"), ("--policy", tmp_path / "nowhere.onnx", "no such"),
            ("--policy", torn, "not a readable ONNX"), ("--policy", text, "not a readable CleanMelee"),
            ("--policy", folder / "bare.onnx", "no CleanMelee policy"), ("--policy", folder / "other_schema.onnx", "schema"),
            ("--policy", tmp_path / "delayed.pt", "18 frames"), ("--opponent", "cpu10", "attacker"),
            ("--opponent", torn, "not a readable ONNX"), ("--character", "mew", "mewtwo"),
            ("--opponent-character", "mew", "mewtwo"), ("--stage", "moon", "battlefield"), ("--num-games", 0, "--num-games 0"),
            ("--num-games", -3, "--num-games -3"), ("--num-workers", 3, "--num-workers 3"),
            ("--num-workers", -1, "--num-workers -1"),
            ("--max-episode-frames", -1, "--max-episode-frames -1"), ("--seed", -1, "--seed -1"),
            ("--record", text / "slp", "cannot write"), ("--results", text / "results.jsonl", "cannot write"),
            ("--results", tmp_path, "not a regular file")):
        monkeypatch.setattr(sys, "argv", ["play.py", *(str(word) for pair in (good | {flag: value}).items() for word in pair)])
        with pytest.raises(SystemExit) as end:
            run_script(play.main, Args)
        err = capfd.readouterr().err
        assert end.value.code == 2 and len(err.strip().splitlines()) == 1 and said in err, (flag, value)

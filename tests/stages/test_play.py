"""Matches: who sits where, how often a policy decides, what is counted, what is recorded, and what a user may get
wrong."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import play
from export_onnx import cut, export
from cleanmelee import inference, statistics
from cleanmelee.cli import CHARACTER_PRESETS, UserError, from_flags, run_script
from cleanmelee.controller import NEUTRAL_ACTION, NUM_BUTTONS, NUM_LOGITS, decode_actions
from cleanmelee.dolphin import HUMAN
from cleanmelee.features import NUM_FLOATS, NUM_INTS
from cleanmelee.frame import CHARACTERS, STAGES, outcomes
from cleanmelee.games import VecEnv
from cleanmelee.observation import Observation, schema_hash
from cleanmelee.recording import Recorder
from cleanmelee.replays import read_replay
from melee_common import Policy, play_games, save_checkpoint
from cleanmelee.inference import Pace
from cleanmelee.onnx import MOST_LIKELY, OnnxPolicy
from play import Args
from helpers import PARSERS, assert_read_alike, stubborn

LENGTH = 240  # frames of a test game


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """mlp.pt decides on every frame, gru.pt on every third, gru.onnx is the same policy; late.pt acts four frames late;
    falls.pt runs off the stage."""
    path = tmp_path_factory.mktemp("policies")
    torch.manual_seed(0)
    save_checkpoint(path / "mlp.pt", Policy("mlp", (16,)))
    save_checkpoint(path / "late.pt", Policy("mlp", (16,), frame_delay=4))
    save_checkpoint(path / "falls.pt", stubborn(0))
    gru = Policy("gru", (16,), action_repeat=3, players=("AA#1", "BB#2"), player=1).eval()
    with torch.no_grad():                                              # a fresh policy's likeliest action never changes
        for p in gru.parameters():
            p.add_(torch.randn_like(p) * .1)
        gru.embedding.name.weight.mul_(10)
    save_checkpoint(path / "gru.pt", gru)
    model = cut(export(gru), {})
    onnx.save(model, path / "bare.onnx")
    facts = {"program": "CleanMelee", "schema": schema_hash(), "action_repeat": "3", "frame_delay": "0",
             "players": json.dumps(gru.players)}
    onnx.helper.set_model_props(model, facts)
    onnx.save(model, path / "gru.onnx")
    onnx.helper.set_model_props(model, facts | {"schema": "000000000000"})
    onnx.save(model, path / "other_schema.onnx")
    onnx.helper.set_model_props(model, facts | {"players": "[3]"})
    onnx.save(model, path / "no_names.onnx")
    return path


def run(folder, tmp_path, policy="gru.pt", opponent="attacker", **options):
    """Plays and returns the row of results."""
    opponent = str(folder / opponent) if (folder / opponent).exists() else opponent
    results = tmp_path / "results.jsonl"
    length = 0 if options.get("game_type") == "dolphin" else LENGTH
    options = {"results": str(results), "max_episode_frames": length, "num_games": 2} | options
    play.main(from_flags(Args, {"policy": str(folder / policy), "opponent": opponent, **options}))
    return json.loads(results.read_text().splitlines()[-1])


def without(row, *names):
    """The row but for some columns and for its clocks."""
    clocks = {"inference_ms_p50", "inference_ms_p99", "frames_per_second"}
    return {k: v for k, v in row.items() if k not in clocks | {*names}}


def read(folder):
    """Every recording of a folder, without the frames before the game's own first one."""
    replays = [read_replay(path) for path in sorted(folder.glob("*.slp"))]
    return [(r.frames[-LENGTH - 1:], r.controllers[-LENGTH - 1:], r.meta) for r in replays]


# ----------------------------------------------------------------------------------------------------------- recordings

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


@pytest.fixture(scope="module")
def recorded(folder, tmp_path_factory):
    """A folder with the recordings of two games of twenty seconds."""
    path = tmp_path_factory.mktemp("recorded")
    run(folder, path, "mlp.pt", "attacker", record=str(path), max_episode_frames=1200, character="fox",
        opponent_character="marth", stage="battlefield")
    return path


@pytest.mark.parametrize("parser", PARSERS)
def test_every_parser_reads_a_recording_alike(recorded, parser):
    games = [(path, read_replay(path).frames) for path in recorded.glob("*.slp")]
    assert len(games) == 2 and any(len(np.unique(frames["players"]["percent"])) > 3 for _, frames in games)
    for path, frames in games:
        assert_read_alike(path, frames, [parser])


KILLED = """
import os, signal, sys
import play
from melee_common import VecEnv

class Mortal(VecEnv):
    steps = 0
    def step(self, controllers):
        if self.steps == 100:
            os.kill(os.getpid(), signal.SIGKILL)
        self.steps += 1
        return super().step(controllers)

play.VecEnv = Mortal
play.main(play.Args(sys.argv[1], "attacker", num_games=1, async_inference=True, record=sys.argv[2], results=""))
"""


@pytest.fixture(scope="module")
def killed(folder, tmp_path_factory):
    """A folder in which play.py was killed in mid-game."""
    path = tmp_path_factory.mktemp("killed")
    process = subprocess.run([sys.executable, "-c", KILLED, str(folder / "mlp.pt"), str(path)], timeout=60,
                             cwd=Path(play.__file__).parent)
    assert process.returncode == -signal.SIGKILL
    return path


@pytest.mark.parametrize("parser", PARSERS)
def test_a_killed_game_is_readable_up_to_its_last_frame(killed, parser):
    part = killed / "game_001_mewtwo_vs_mewtwo.slp.part"
    frames = read_replay(part).frames
    assert frames["frame_id"][-1] == -40 + 100                              # frame -40, and a hundred more
    assert_read_alike(part, frames, [parser])


def test_the_next_recording_gives_a_killed_one_its_name(folder, killed, tmp_path, capsys):
    part = Path(shutil.copy(killed / "game_001_mewtwo_vs_mewtwo.slp.part", tmp_path))
    frames = read_replay(part).frames
    run(folder, tmp_path, record=str(tmp_path), num_games=1)
    assert "kept up to frame 60" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.glob("game*")) == [
        "game_001_mewtwo_vs_mewtwo.slp", "game_002_mewtwo_vs_mewtwo.slp"]
    assert np.array_equal(read_replay(tmp_path / "game_001_mewtwo_vs_mewtwo.slp").frames, frames)


def test_a_full_disk_costs_the_recordings_and_no_game(folder, tmp_path, capsys):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))          # bytes: the second game's file outgrows it
    try:
        with pytest.raises(SystemExit) as end:
            run(folder, tmp_path, "mlp.pt", record=str(tmp_path / "slp"), num_games=3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    captured = capsys.readouterr()
    assert end.value.code == 1 and len(captured.err.strip().splitlines()) == 1 and "File too large" in captured.err
    assert json.loads((tmp_path / "results.jsonl").read_text())["games"] == 3 and "recorded 0 games" in captured.out
    assert not list((tmp_path / "slp").iterdir())


def test_recordings_on_disk_not_in_memory(folder, tmp_path, monkeypatch):
    """While a game is on, its file holds all frames but those of the last hundredth of a second or so."""
    sizes = []

    class Watched(VecEnv):
        def step(self, controllers):
            sizes.extend(path.stat().st_size for path in tmp_path.glob("*.part"))
            return super().step(controllers)

    monkeypatch.setattr(play, "VecEnv", Watched)
    run(folder, tmp_path, "mlp.pt", "idle", num_games=1, record=str(tmp_path))
    assert len(set(sizes)) > 10 and sizes[-1] > .8 * next(tmp_path.glob("*.slp")).stat().st_size


# ---------------------------------------------------------------------------------------------------------- who decides

def test_each_policy_decides_as_often_as_it_was_trained_to(folder, tmp_path):
    run(folder, tmp_path, "gru.pt", "mlp.pt", record=str(tmp_path))
    for g, (_, controllers, _) in enumerate(read(tmp_path)):
        gru, mlp = (controllers[1:, who].reshape(-1, 3) for who in (g % 2, 1 - g % 2))  # [T / 3, 3], row 0 left out
        assert (gru[:, 0] == gru[:, 1]).all() and (gru[:, 0] == gru[:, 2]).all()
        assert (gru[1:, 0] != gru[:-1, 0]).any() and (mlp[:, 0] != mlp[:, 1]).any()


def test_play_is_what_training_plays(folder, tmp_path, monkeypatch):
    """The same games as `play_games`, where the environment repeats the action."""
    run(folder, tmp_path, "gru.pt", "gru.pt", record=str(tmp_path), seed=7)
    policy = play.load_player(folder / "gru.pt").policy
    noise = np.random.default_rng(7)                                        # that of play.py in the place of torch's
    monkeypatch.setattr(torch, "rand", lambda *shape, generator: torch.from_numpy(noise.random(shape, np.float32)))
    with VecEnv(2, CHARACTERS["mewtwo"], STAGES["final_destination"], seed=7, max_episode_frames=LENGTH,
                action_repeat=3) as envs:
        final = play_games([policy], envs, np.zeros((2, 2), int), torch.Generator())
    for g, (frames, _, _) in enumerate(read(tmp_path)):
        for field in ("x", "y", "percent", "stocks", "action"):
            assert np.array_equal(frames["players"][field][-1], final["players"][field][g])


def test_a_target_return_is_asked_for_where_there_is_one(folder, tmp_path):
    policy = Policy("mlp", (16,), target_return=.5)
    with torch.no_grad():
        policy.backbone.layers[0].weight[:, -1] = 3.                        # of the return
        for layer in policy.controller_head.logits.values():
            layer.weight.normal_()
    save_checkpoint(tmp_path / "asked.pt", policy)
    asked = str(tmp_path / "asked.pt")
    default, same, other = (read(Path(record)) for record in [
        run(folder, tmp_path, asked, record=str(tmp_path / name), **given) and tmp_path / name
        for name, given in (("a", {}), ("b", {"target_return": .5}), ("c", {"target_return": -2.}))])
    games = [[controllers.tobytes() for _, controllers, _ in games] for games in (default, same, other)]
    assert games[0] == games[1] != games[2]
    for policy, said in (("gru.pt", "was not trained with --return-conditioning"), ("gru.onnx", "is an export")):
        with pytest.raises(UserError, match=f"^--target-return 1.0: .*{said}"):
            run(folder, tmp_path, policy, target_return=1.)


@pytest.mark.parametrize("options", [{}, {"deterministic": True}, {"player": "bb#2"}])
def test_an_exported_policy_plays_its_checkpoints_games(folder, tmp_path, options):
    """Under one seed, every frame and input of every game."""
    rows, games = [], []
    for name in ("gru.pt", "gru.onnx"):
        rows.append(run(folder, tmp_path, name, record=str(tmp_path / name), num_games=4, **options))
        games.append(read(tmp_path / name))
    assert without(rows[0], "policy") == without(rows[1], "policy") and rows[0]["action_repeat"] == 3
    for (frames, controllers, _), (others, other_controllers, _) in zip(*games, strict=True):
        assert np.array_equal(controllers, other_controllers) and np.array_equal(frames, others)


@pytest.mark.parametrize("policy", ["gru.pt", "gru.onnx"])
def test_a_policy_plays_as_whom_it_is_asked_for(folder, tmp_path, policy):
    """By default as its file says, AA#1."""
    played = []
    for name, options in (("a", {}), ("b", {"player": "AA#1"}), ("c", {"player": "BB#2"})):
        run(folder, tmp_path, policy, record=str(tmp_path / name), **options)
        played.append([controllers.tobytes() for _, controllers, _ in read(tmp_path / name)])
    assert played[0] == played[1] != played[2]
    with pytest.raises(UserError, match="^--player nobody: nobody of that name .*; there are AA#1, BB#2$"):
        run(folder, tmp_path, policy, player="nobody")
    with pytest.raises(UserError, match="^--player AA#1: no names were learned; train with"):
        run(folder, tmp_path, "mlp.pt", player="AA#1")
    with pytest.raises(UserError, match="no_names.onnx: its players"):
        run(folder, tmp_path, "no_names.onnx")


WITHOUT_TORCH = """
import sys
import play
play.main(play.Args(sys.argv[1], "idle", num_games=1, max_episode_frames=5, results=""))
print("decided", {name.split(".")[0] for name in sys.modules} & {"torch", "matplotlib", "wandb", "melee", "websockets"})
"""


def test_an_exported_policy_plays_without_torch(folder):
    """Nor with anything else that takes long to import and has nothing to do."""
    ended = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, str(folder / "gru.onnx")], timeout=120, text=True,
                           cwd=Path(play.__file__).parent, capture_output=True)
    assert ended.stdout.splitlines()[-1] == "decided set()", ended.stderr


def test_most_likely_noise_shifts_nothing():
    likely = torch.from_numpy(MOST_LIKELY)
    assert (torch.logit(likely[:NUM_BUTTONS]) == 0).all()
    assert (-torch.log(-torch.log(likely[NUM_BUTTONS:]))).abs().max() < 1e-6


def test_onnx_policy_keeps_the_rows_of_a_batch_apart(folder):
    policy = OnnxPolicy(folder / "gru.onnx")
    rng = np.random.default_rng(0)
    obs = Observation(rng.standard_normal((5, NUM_FLOATS), np.float32), np.zeros((5, NUM_INTS), np.int16))
    noise = rng.random((5, NUM_LOGITS), np.float32)
    state = tuple(rng.standard_normal(s.shape, np.float32) for s in policy.initial_state(5))
    actions, after = policy.step(obs, state, noise)
    for row in range(5):
        one = slice(row, row + 1)
        seen = Observation(obs.floats[one], obs.ints[one])
        alone, alone_after = policy.step(seen, tuple(s[one] for s in state), noise[one])
        assert np.array_equal(alone[0], actions[row])
        np.testing.assert_allclose(alone_after[0][0], after[0][row], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["gru.pt", "gru.onnx"])
def test_a_policy_with_a_turn_leaves_the_others_memories_alone(folder, kind):
    """Rows that decide alone, or together with others, remember the same; a game that begins is forgotten."""
    policy, rng = play.load_player(folder / kind), np.random.default_rng(1)
    seats = [np.array([0, 3])]                                              # player 1 of game 0, player 2 of game 1
    obs = Observation(rng.standard_normal((2, 2, NUM_FLOATS), np.float32), np.zeros((2, 2, NUM_INTS), np.int16))
    no = np.zeros(2, bool)

    def states(*turns, begins=no):
        memory = [policy.initial_state(2)]
        for turn in turns:
            inference.act([policy], seats, np.array(turn), obs, memory, begins, None)
        return memory[0][0]

    first, second, both = [[1, 0], [0, 0]], [[0, 0], [0, 1]], [[1, 1], [1, 1]]
    first, second, both = (np.array(turn, bool) for turn in (first, second, both))
    together = states(both)
    np.testing.assert_allclose(states(first, second), together, rtol=1e-5, atol=1e-6)
    assert not states(first)[1].any() and states(first)[0].any()
    np.testing.assert_allclose(states(both, both, begins=np.array([True, False]))[0], together[0], rtol=1e-5, atol=1e-6)
    assert abs(states(both, both)[0] - together[0]).max() > 1e-3


def test_seeds_and_workers(folder, tmp_path):
    """The seed alone decides the games; the policy's moves differ between seeds."""
    a, b, c = ((run(folder, tmp_path, record=str(tmp_path / name), **options), read(tmp_path / name))
               for name, options in (("a", {}), ("b", {"num_workers": 2}), ("c", {"seed": 2})))
    for (frames_a, controllers_a, _), (frames_b, controllers_b, _) in zip(a[1], b[1], strict=True):
        assert np.array_equal(frames_a, frames_b) and np.array_equal(controllers_a, controllers_b)
    assert without(a[0]) == without(b[0])
    assert any(not np.array_equal(x[1], y[1]) for x, y in zip(a[1], c[1], strict=True))


# ----------------------------------------------------------------------------------------------------- delay, real time

def numbered(monkeypatch, seconds=0.):
    """Decisions that tell which they are: the k-th moves the main stick to its bin k % 17. Returns what they press."""
    decisions = []

    def act(policies, seats, turn, *_):
        time.sleep(seconds)
        actions = np.tile(NEUTRAL_ACTION, (*turn.shape, 1))
        actions[:, :, NUM_BUTTONS] = len(decisions) % 17                    # the main stick's x
        decisions.append(decode_actions(actions[:1, 0])[0])
        return actions

    monkeypatch.setattr(inference, "act", act)
    monkeypatch.setattr(play, "mirrored", lambda frames: np.zeros((len(frames), 2), bool))
    return decisions


@pytest.mark.parametrize("options", [{}, {"async_inference": True}, {"action_repeat": 3}])
def test_a_decision_acts_exactly_as_late_as_trained(folder, tmp_path, monkeypatch, options):
    """Chosen at t, it makes frame t + 1 + delay. A game begins with a neutral queue, also after another game."""
    class Clock:                                                            # a busy machine misses no frame
        now = 0.
        perf_counter = staticmethod(lambda: Clock.now)

        def sleep(self, seconds):
            Clock.now += seconds

    decisions = numbered(monkeypatch)
    for module in (play, inference):
        monkeypatch.setattr(module, "time", Clock())
    monkeypatch.setattr(play, "FRAME_TIME", 10)
    row = run(folder, tmp_path, "late.pt", "mlp.pt", port=1, max_episode_frames=60, record=str(tmp_path), **options)
    repeat = options.get("action_repeat", 1)
    replays = [read_replay(path) for path in sorted(tmp_path.glob("*.slp"))]
    assert row["frame_delay"] == 4 and row["frames_missed"] == 0 and len(replays) == 2
    first = 0                                                               # the number of each game's first decision
    for replay in replays:
        late, prompt = replay.controllers[-60:].T
        assert not late[:4].tobytes().strip(b"\0") and prompt[0] == decisions[first]
        for t in range(60):
            assert prompt[t] == decisions[first + t]
            if t >= 4:
                assert late[t] == decisions[first + (t - 4) // repeat * repeat]
        first += 60 if options.get("async_inference") else 0


def test_a_slow_policy_slows_the_game_or_misses_frames(folder, tmp_path, monkeypatch, capsys):
    """40 ms a decision: the game waits for each, or goes on at 60 frames a second and gets one in two to three frames,
    all of them late; a policy that was trained to act four frames late is in time for those."""
    decisions = numbered(monkeypatch, seconds=.04)
    options = {"num_games": 1, "max_episode_frames": 60}
    waiting = run(folder, tmp_path, "mlp.pt", "idle", **options)
    assert waiting["frames_missed"] == 0 and waiting["frames_per_second"] < 25 and len(decisions) == 60
    del decisions[:]
    going = run(folder, tmp_path, "mlp.pt", "idle", async_inference=True, record=str(tmp_path), **options)
    assert 40 < going["frames_per_second"] < 61 and going["inference_ms_p99"] >= going["inference_ms_p50"] >= 40
    assert going["frames_missed"] == 60 and 8 <= len(decisions) <= 25       # a busy machine makes fewer
    assert "of 60 frames missed" in capsys.readouterr().out
    stick = read_replay(next(tmp_path.glob("*.slp"))).controllers["main_x"][-60:, 0]
    moves = stick[np.flatnonzero(np.diff(stick, prepend=0))]
    chosen = [decision["main_x"].item() for decision in decisions]  # each acted in its turn, and was held till the next
    later = iter(chosen)                                                  # (or a busy machine had the next one by then)
    assert len(moves) >= len(chosen) - 5 and all(move in later for move in moves.tolist())
    del decisions[:]
    late = run(folder, tmp_path, "late.pt", "idle", async_inference=True, **options)
    assert 60 - len(decisions) - 4 <= late["frames_missed"] < 58


def test_an_error_of_the_inference_thread_is_not_lost(folder, tmp_path, monkeypatch):
    def act(*_):
        raise RuntimeError("broken weights")

    monkeypatch.setattr(inference, "act", act)
    with pytest.raises(RuntimeError, match="broken weights"):
        run(folder, tmp_path, async_inference=True)


def test_a_recurrent_policy_begins_each_game_without_memory(folder):
    """Also when the first question of a game came while the thread was busy and was never answered."""
    rng, pace = np.random.default_rng(0), Pace()
    player = play.load_player(folder / "gru.pt")
    obs = Observation(rng.standard_normal((1, 2, NUM_FLOATS), np.float32), np.zeros((1, 2, NUM_INTS), np.int16))
    decider = inference.Inference([player], np.zeros((1, 2), int), None, pace, True)
    turn, yes, no = np.ones((1, 2), bool), np.ones(1, bool), np.zeros(1, bool)
    states = []
    for begins in ((yes, no), (no, yes, no)):                            # as asked while the thread is busy, one by one
        decider.thread.submit(time.sleep, .1)
        for tick, begin in enumerate(begins):
            decider.ask(10 * len(states) + tick, obs, np.zeros((1, 2), bool), turn, begin)
        answers = list(decider.answers(time.perf_counter() + 10))
        assert [tick for tick, _, _ in answers] == [10 * len(states) + len(begins) - 1]
        states.append(decider.states[0][0].copy())
    decider.close()
    assert np.array_equal(*states) and states[0].any()


def test_a_turn_that_passed_while_the_thread_was_busy_is_made_up_for(folder):
    """Player 2 decides on every other frame only; what it was asked in a game that is over counts no more."""
    player = play.load_player(folder / "mlp.pt")
    obs = Observation(np.zeros((1, 2, NUM_FLOATS), np.float32), np.zeros((1, 2, NUM_INTS), np.int16))
    decider = inference.Inference([player, player], np.array([[0, 1]]), None, Pace(), True)
    seen = []
    for begins in (False, True):
        decider.thread.submit(time.sleep, .1)
        for tick, turn in enumerate(([[1, 1]], [[1, 0]]), start=2 * begins):
            decider.ask(tick, obs, np.zeros((1, 2), bool), np.array(turn, bool), np.array([begins and tick == 3]))
        seen += [(tick, turn.tolist()) for tick, turn, _ in decider.answers(time.perf_counter() + 10)]
    decider.close()
    assert seen == [(1, [[True, True]]), (3, [[True, False]])]


def test_policies_are_warm_before_the_first_frame(folder, tmp_path, monkeypatch):
    forwards = []
    step, start = Policy.step, VecEnv.__init__
    monkeypatch.setattr(Policy, "step", lambda *args: forwards.append(1) or step(*args))
    monkeypatch.setattr(VecEnv, "__init__", lambda *args, **more: forwards.append(0) or start(*args, **more))
    run(folder, tmp_path, "mlp.pt", "idle", max_episode_frames=5)
    assert forwards.index(0) >= 10


# -------------------------------------------------------------------------------------------------------------- results

def test_lists_of_characters_and_stages_make_a_table(folder, tmp_path, capsys):
    slp = tmp_path / "slp"
    run(folder, tmp_path, "mlp.pt", "attacker", character="fox,marth", opponent_character="falco, sheik", num_games=3,
        port=2, stage="battlefield,yoshis_story", record=str(slp), max_episode_frames=60)
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [(row["character"], row["opponent_character"], row["stage"]) for row in rows] == [
        (own, other, stage) for own in ("fox", "marth") for other in ("falco", "sheik")
        for stage in ("battlefield", "yoshis_story")]
    replays = [read_replay(path) for path in sorted(slp.glob("*.slp"))]
    assert all(row["games"] == 3 for row in rows) and len(replays) == 24
    for g, replay in enumerate(replays):
        row = rows[g // 3]
        assert replay.meta["characters"] == (CHARACTERS[row["opponent_character"]], CHARACTERS[row["character"]])
        assert replay.meta["stage"] == STAGES[row["stage"]]
    assert capsys.readouterr().out.count("yoshis_story") == 4


def test_names_of_presets_are_played_one_by_one(folder, tmp_path):
    """--character all, low_tiers and the like, in any mixture with names."""
    for character, names in (("all", list(CHARACTERS)), ("low_tiers,fox", [*CHARACTER_PRESETS["low_tiers"], "fox"])):
        (tmp_path / "results.jsonl").unlink(missing_ok=True)
        run(folder, tmp_path, "mlp.pt", "idle", character=character, num_games=1, max_episode_frames=5)
        rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
        assert [(row["character"], row["opponent_character"]) for row in rows] == [(name, name) for name in names]


def test_stopping_after_a_game(folder, tmp_path):
    assert run(folder, tmp_path, on_game_end="stop", num_games=5)["games"] == 1


def test_games_without_end(folder, tmp_path, monkeypatch):
    def act(policies, seats, turn, *_):
        ticks.append(1)
        if len(ticks) == 50:
            raise KeyboardInterrupt
        return np.tile(NEUTRAL_ACTION, (*turn.shape, 1))

    ticks = []
    monkeypatch.setattr(inference, "act", act)
    with pytest.raises(SystemExit):
        run(folder, tmp_path, "mlp.pt", num_games=0, max_episode_frames=20)
    row = json.loads((tmp_path / "results.jsonl").read_text())
    assert row["games"] == 2 and row["seconds_per_game"] == 20 / 60


def test_intervals_of_rates():
    """Against the exact (Garwood) limits of a Poisson rate."""
    for events, low, high in ((0, 0., 3.689), (1, .0253, 5.572), (10, 4.795, 18.390), (100, 81.36, 121.63)):
        assert statistics.poisson_interval(events, 2.) == pytest.approx((low / 2, high / 2), rel=.01, abs=.02)


def test_the_result_counts_the_recorded_games(folder, tmp_path, capsys):
    row = run(folder, tmp_path, "mlp.pt", "attacker", num_games=4, record=str(tmp_path), max_episode_frames=600,
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
    minutes = 4 * 600 / 3600
    assert row["damage_dealt_per_minute"] == pytest.approx(dealt / minutes, rel=1e-4)
    assert row["damage_taken_per_minute"] == pytest.approx(taken / minutes, rel=1e-4) and taken > 0
    assert row["damage_taken_per_minute_low"] < row["damage_taken_per_minute"] < row["damage_taken_per_minute_high"]
    assert row["stocks_lost"] == np.mean(lost) and row["seconds_per_game"] == 10
    assert row["deaths_per_minute"] == pytest.approx(sum(lost) / minutes)
    assert row["kos_per_minute"] == pytest.approx(row["stocks_taken"] * 4 / minutes)
    assert row["deaths_per_minute_low"] <= row["deaths_per_minute"] < row["deaths_per_minute_high"]
    out = capsys.readouterr().out
    assert f"{row['wins']}/{row['losses']}/{row['draws']}" in out and "recorded 4 games" in out


def test_intervals_of_ratios():
    """They hold the truth in 95 % of cases, and games that are all alike leave no doubt."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(1000):
        minutes = rng.uniform(1, 3, 40)
        low, high = statistics.ratio_interval(rng.poisson(50 * minutes) + rng.normal(0, 20, 40), minutes)
        held += low < 50 < high
    assert .92 < held / 1000 < .97
    assert statistics.ratio_interval(np.array([2., 4.]), np.array([1., 2.])) == (2, 2)
    assert statistics.ratio_interval(np.ones(1), np.ones(1)) == (None, None)


def test_the_pace_of_a_row_is_its_own(folder, tmp_path):
    """One after the other, matchups have a pace each; side by side none of them has one."""
    options = {"num_games": 1, "port": 1, "max_episode_frames": 10, "stage": "battlefield,dream_land"}
    run(folder, tmp_path, "mlp.pt", "idle", async_inference=True, **options)
    run(folder, tmp_path, "mlp.pt", "idle", **options)
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [row.get("frames") for row in rows] == [10, 10, None, None] and "inference_ms_p99" not in rows[2]


def test_full_games_end_by_stocks(folder, tmp_path):
    row = run(folder, tmp_path, "falls.pt", "idle", max_episode_frames=0)
    assert row["games"] == 2 and row["stocks_lost"] == 4 and row["stocks_taken"] == 0


def test_a_run_plays_by_its_best_checkpoint(folder, tmp_path):
    """On either side; rows of two runs can be told apart, and those of two ways to play one."""
    for run_name, policy in (("one", "mlp.pt"), ("two", "gru.pt")):
        (tmp_path / run_name / "checkpoints").mkdir(parents=True)
        shutil.copy(folder / policy, tmp_path / run_name / "checkpoints" / "best.pt")
    one, two = (str(tmp_path / name) for name in ("one", "two"))
    best = {name: f"{name}/checkpoints/best.pt" for name in (one, two)}
    row = run(folder, tmp_path, one, two, max_episode_frames=5)
    assert (row["policy"], row["opponent"], row["action_repeat"]) == (best[one], best[two], 1)
    row = run(folder, tmp_path, two, two, max_episode_frames=5, player="BB#2", opponent_port=1)
    assert (row["policy"], row["opponent"], row["action_repeat"]) == (best[two], "itself", 3)
    assert (row["player"], row["port"], row["target_return"]) == ("BB#2", 2, None)
    with pytest.raises(UserError, match="^unknown opponent .*nobody': "):
        run(folder, tmp_path, one, str(tmp_path / "nobody"))


def test_recordings_of_two_matches_share_a_folder(folder, tmp_path):
    for opponent in ("idle", "random"):
        run(folder, tmp_path, "mlp.pt", opponent, num_games=1, max_episode_frames=30, record=str(tmp_path / "slp"))
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [row["opponent"] for row in rows] == ["idle", "random"]
    assert [p.name[:8] for p in sorted((tmp_path / "slp").glob("*.slp"))] == ["game_001", "game_002"]


def test_two_processes_record_into_one_folder(tmp_path):
    """Neither takes the other's numbers, and where both had the same name at once both games stay."""
    with VecEnv(1, CHARACTERS["fox"], STAGES["final_destination"]) as envs:
        one, two = Recorder(tmp_path, 1), Recorder(tmp_path, 1)
        paths = []
        for recorder in (one, two, two, one):
            recorder.begin([0], envs.frames, envs.controllers)
            paths.append(recorder.end(0))
        assert [path.name[:8] for path in paths] == ["game_001", "game_002", "game_003", "game_004"]
        one.begin([0], envs.frames, envs.controllers)
        one.drop(0)                                                         # it starts over, and the other was quicker
        for recorder in (two, one):
            recorder.begin([0], envs.frames, envs.controllers)
            paths.append(recorder.end(0))
        one.begin([0], envs.frames, envs.controllers)
        taken = one.writers[0].path
        taken.write_text("a game of another process")
        paths.append(one.end(0))
        assert taken.read_text() == "a game of another process" and paths[-1].name == "game_007_fox_vs_fox_2.slp"
    assert sorted(tmp_path.iterdir()) == sorted({*paths, taken})


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
            run(folder, tmp_path, num_workers=1, record=str(tmp_path / f"slp{stop}"))
        replays = [read_replay(path) for path in sorted((tmp_path / f"slp{stop}").glob("*"))]
        assert [r.frames["frame_id"][-1] + 39 for r in replays] == ([19, 28] if stop == 30 else [8, 8])
        assert replays[1].meta["end"] == "NoContest"                        # as a game that was quit
        captured = capsys.readouterr()
        assert end.value.code == 130 and said in captured.err and ("0/0/1" in captured.out) == (stop == 30)


# -------------------------------------------------------------------------------------------------------------- Dolphin

def stand_in(tmp_path):
    """The flags of a live game on the stand-in: one stock, and as fast as it goes. Files in tmp_path/troubles are its
    faults."""
    dolphin, iso = tmp_path / "dolphin", tmp_path / "melee.iso"
    tools = str(Path(__file__).resolve().parents[1] / "tools")
    dolphin.write_text(f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {tools!r})\n"
                       "import fake_dolphin\nfake_dolphin.main()\n")
    dolphin.chmod(0o755)
    with open(iso, "wb") as file:
        file.write(b"GALE01\0\2")
        file.truncate(1_459_978_240)                                        # sparse
    (tmp_path / "fake_dolphin.txt").write_text(f"FAKE_STOCKS=1\nFAKE_TROUBLES={tmp_path / 'troubles'}\n")
    (tmp_path / "troubles").mkdir()
    return {"game_type": "dolphin", "dolphin": str(dolphin), "iso": str(iso)}


@pytest.fixture
def live(tmp_path):
    return stand_in(tmp_path)


@pytest.fixture(scope="module")
def two_games(folder, tmp_path_factory):
    """Two games on Dolphin against a computer player, the policy at port 2 -> the row of results, paths of the
    recordings."""
    path = tmp_path_factory.mktemp("live")
    row = run(folder, path, "mlp.pt", "cpu9", port=2, character="fox", opponent_character="marth", stage="battlefield",
              record=str(path / "slp"), boot_timeout=120., **stand_in(path))
    return row, sorted((path / "slp").glob("*"))


def test_games_on_dolphin(two_games):
    row, paths = two_games
    assert (row["game_type"], row["opponent"], row["games"], row["stage"]) == ("dolphin", "cpu9", 2, "battlefield")
    assert [path.name for path in paths] == ["game_001_marth_vs_fox.slp", "game_002_marth_vs_fox.slp"]
    replays = [read_replay(path) for path in paths]
    lost = np.sum([1 - replay.frames["players"]["stocks"][-1].astype(int) for replay in replays], 0)
    assert (row["stocks_lost"] * 2, row["stocks_taken"] * 2) == (lost[1], lost[0]) and lost.sum() == 2
    for replay in replays:
        assert replay.meta["end"] == "Game" and replay.meta["names"] == ("cpu9", "mlp.pt")
        assert replay.meta["cpu_levels"] == (9, 0) and replay.meta["types"] == ("Cpu", "Human")  # bc.py can tell
        assert replay.meta["characters"] == (CHARACTERS["marth"], CHARACTERS["fox"]) and replay.meta["stage"] == 31


@pytest.mark.parametrize("parser", PARSERS)
def test_every_parser_reads_a_recording_of_dolphin_alike(two_games, parser):
    for path in two_games[1]:
        assert_read_alike(path, read_replay(path).frames, [parser])


def test_a_person_gets_a_window_and_the_other_port(folder, tmp_path, live, monkeypatch):
    class Seen(Exception):
        pass

    def start(self, num_games, characters, stages, *, dolphin, cpu_levels, **_):
        raise Seen(num_games, dolphin.headless, cpu_levels.tolist())

    monkeypatch.setattr(VecEnv, "__init__", start)
    with pytest.raises(UserError, match="an ExiAI build shows no picture"):
        run(folder, tmp_path, "mlp.pt", "human", **live)
    (tmp_path / "netplay").mkdir()                                          # versions are asked once
    live["dolphin"] = shutil.copy(live["dolphin"], tmp_path / "netplay")
    (tmp_path / "netplay" / "fake_dolphin.txt").write_text("FAKE_VERSION=netplay\n")
    for options, levels in (({}, [[0, HUMAN]]), ({"port": 2}, [[HUMAN, 0]]), ({"opponent_port": 1}, [[HUMAN, 0]])):
        with pytest.raises(Seen) as seen:
            run(folder, tmp_path, "mlp.pt", "human", num_games=0, **options, **live)
        assert seen.value.args == (1, False, levels)
    for options, said in (({"opponent_port": 1}, "the policy sits there"),
                          ({"max_episode_frames": 60}, "goes on to its own end"),
                          ({"instant_restart": True}, "stages at random")):
        with pytest.raises(UserError, match=said):
            run(folder, tmp_path, "mlp.pt", "cpu1", **({"port": 1} | options), **live)


@pytest.fixture
def online(tmp_path, live):
    """The flags of a match online, against somebody whose code is FOE#42."""
    (tmp_path / "netplay").mkdir()                                          # versions are asked once
    live["dolphin"] = shutil.copy(live["dolphin"], tmp_path / "netplay")
    (tmp_path / "netplay" / "fake_dolphin.txt").write_text("FAKE_VERSION=netplay\n")
    (tmp_path / "fake_dolphin.txt").write_text("FAKE_CODE=FOE#42\nFAKE_STOCKS=1\n")
    (tmp_path / "user.json").write_text(
        '{"uid": "x", "playKey": "secret", "connectCode": "MINE#7", "displayName": "me"}')
    return live | {"connect_code": "foe#42", "user_json": str(tmp_path / "user.json"), "character": "sheik"}


def test_a_match_online(folder, tmp_path, online):
    """The code is typed, we are found at whichever port, and the person's character and the stages are told as they
    were."""
    row = run(folder, tmp_path, "mlp.pt", "human", record=str(tmp_path / "slp"), **online)
    assert (row["games"], row["character"], row["opponent_character"]) == (2, "sheik", "marth")
    assert row["stage"] == "final_destination, yoshis_story"
    replays = [read_replay(path) for path in sorted((tmp_path / "slp").glob("*"))]
    assert [replay.meta["characters"] for replay in replays] == 2 * [(CHARACTERS["sheik"], CHARACTERS["marth"])]
    assert [replay.meta["stage"] for replay in replays] == [STAGES["yoshis_story"], 32]
    assert all(replay.controllers[name][:, 0].any() for replay in replays for name in ("main_x", "buttons"))
    lost = np.sum([1 - replay.frames["players"]["stocks"][-1].astype(int) for replay in replays], 0)
    assert (row["stocks_lost"] * 2, row["stocks_taken"] * 2) == tuple(lost) and lost.sum() == 2


def test_nobody_there_and_other_mistakes_of_a_match_online(folder, tmp_path, online):
    for options, said in (
            ({"connect_code": "NOBODY#1", "boot_timeout": 7.}, "no game with NOBODY#1 within 7 s; agree on a time"),
            ({"connect_code": "FOE"}, "no code of a Slippi player"),
            ({"connect_code": "TOOLONG#1234"}, "8 signs at most"),
            ({"connect_code": "mine#7"}, "your own code"), ({"user_json": ""}, r"--user-json \(empty\): no such file"),
            ({"user_json": str(tmp_path / "melee.iso")}, "names no connectCode"),
            ({"connect_code": ""}, "needs --connect-code"), ({"port": 2}, "leave the ports out"),
            ({"character": "zelda"}, "cannot choose zelda"),
            ({"stage": "battlefield,dream_land"}, "one stage at a time"),
            ({"opponent": "cpu9"}, "needs --opponent human")):
        options = {"opponent": "human", **online} | options
        with pytest.raises(UserError, match=said) as error:
            run(folder, tmp_path, "mlp.pt", **options)
        assert "\n" not in str(error.value)


def test_a_crash_of_dolphin_costs_no_result(folder, tmp_path, live):
    """The game starts over; what was played of it stays as a game that was quit. Inference runs beside the game."""
    (tmp_path / "troubles" / "0").write_text("FAKE_CRASH_AT=20\n")
    row = run(folder, tmp_path, "falls.pt", "attacker", record=str(tmp_path / "slp"), num_games=1,
              async_inference=True, boot_timeout=120., **live)
    replays = [read_replay(path) for path in sorted((tmp_path / "slp").glob("*"))]
    assert row["games"] == 1 and len(replays) == 2 and row["frames_per_second"] < 61
    assert replays[0].meta["end"] == "NoContest" and 15 < replays[0].frames["frame_id"][-1] < 20
    assert replays[1].meta["end"] == "Game" and not replays[1].frames["players"]["stocks"][-1].all()


def test_a_slow_dolphin_misses_no_decision(folder, tmp_path, live):
    """50 ms a frame: inference beside the game is long done, and the game is as fast as Dolphin is."""
    (tmp_path / "fake_dolphin.txt").write_text("FAKE_FRAME_TIME=0.05\nFAKE_STOCKS=1\n")
    row = run(folder, tmp_path, "falls.pt", "idle", num_games=1, async_inference=True, boot_timeout=120., **live)
    assert row["games"] == 1 and row["frames_missed"] <= 5 and 5 < row["frames_per_second"] < 20.5


def test_a_dolphin_that_fails_again_and_again_costs_no_finished_game(folder, tmp_path, live, monkeypatch, capsys):
    """Every Dolphin crashes within its second game."""
    (tmp_path / "fake_dolphin.txt").write_text("FAKE_CRASH_AT=20\nFAKE_GAME=1\nFAKE_STOCKS=1\n")
    results = tmp_path / "results.jsonl"
    monkeypatch.setattr(sys, "argv", ["play.py", *map(str, [
        "--policy", folder / "falls.pt", "--num-games", 9, "--max-restarts", 1, "--results", results,
        "--boot-timeout", 120, "--game-type", "dolphin", "--dolphin", live["dolphin"],
        "--iso", live["iso"]])])
    with pytest.raises(SystemExit) as end:
        run_script(play.main, Args)
    captured = capsys.readouterr()
    *warnings, error = captured.err.strip().splitlines()
    assert end.value.code == 2 and len(warnings) == 1 and "failed more than 1 times within an hour" in error
    assert json.loads(results.read_text())["games"] == 2 and "falls.pt against attacker" in captured.out


# --------------------------------------------------------------------------------------------------------- command line

def test_every_flag_through_the_command_line(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["play.py", *map(str, [
        "--policy", folder / "gru.onnx", "--opponent", folder / "mlp.pt", "--num-games", 3, "--character", "falco",
        "--opponent-character", "sheik", "--stage", "battlefield", "--max-episode-frames", 60,
        "--record", tmp_path / "slp", "--results", tmp_path / "new" / "results.jsonl", "--deterministic", "--seed", 9,
        "--num-workers", 1, "--port", 2, "--opponent-port", 1, "--game-type", "mock",
        "--on-game-end", "restart", "--frame-delay", 0, "--action-repeat", 2, "--async-inference"])])
    run_script(play.main, Args)
    captured = capsys.readouterr()
    assert "sampling usually plays better" in captured.err and "falco" in captured.out
    row = json.loads((tmp_path / "new" / "results.jsonl").read_text())
    assert row["deterministic"] and row["seed"] == 9 and row["games"] == 3 and row["seconds_per_game"] == 1
    assert row["action_repeat"] == 2 and row["async_inference"]
    assert [read_replay(path).meta["names"][1] for path in (tmp_path / "slp").glob("*.slp")] == 3 * ["gru.onnx"]


def test_a_scripted_level_is_an_opponent_by_name(folder, tmp_path):
    row = run(folder, tmp_path, "mlp.pt", "level5", max_episode_frames=1800)
    assert row["opponent"] == "level5" and row["damage_taken_per_minute"] > 20

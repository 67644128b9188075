"""The fidelity tool really scores the embedded game: a game that it played itself must come out (nearly) perfect, and
what it has learned from a game must not score that game where the score is called honest."""

import subprocess
import sys
import types
from pathlib import Path

import fidelity
import fidelity_adapter
import numpy as np
import pytest
from cleanmelee import game
from cleanmelee.frame import CHARACTERS, STAGES
from cleanmelee.games import VecEnv
from cleanmelee.recording import write_slp
from helpers import Game

TOOLS = Path(__file__).resolve().parents[1] / "tools"
SPOT_DODGE = dict(main_y=-1.0, buttons=game.BUTTON_R, r=1.0)


def play_bots(path, characters, frames=1500):
    """A game of two attacking bots, until somebody has lost or so many frames are played, as a replay."""
    with VecEnv(1, [characters], STAGES["final_destination"], seed=1, max_episode_frames=0,
                bot_kinds=game.BOTS["attacker"]) as envs:
        rows, controllers = [envs.frames.copy()], [envs.controllers.copy()]
        for _ in range(frames):
            if (envs.step(envs.controllers.copy())[0]).any():
                break
            rows.append(envs.frames.copy())
            controllers.append(envs.controllers.copy())
    write_slp(path, np.concatenate(rows), np.concatenate(controllers).reshape(-1, 2))
    return path


def play_inputs(path, match, inputs, change=None):
    """A game of these inputs of the first player, each held for so many frames, as a replay. change(frames) [T] FRAME
    may falsify it."""
    rows, controllers = [match.frames.copy()], [np.zeros((1, 2), game.CONTROLLER)]
    for values, frames in inputs:
        pad = np.zeros((1, 2), game.CONTROLLER)
        for name, value in values.items():
            pad[name][0, 0] = value
        for _ in range(frames):
            match.step(values)
            rows.append(match.frames.copy())
            controllers.append(pad)
    rows = np.concatenate(rows)
    if change is not None:
        change(rows)
    write_slp(path, rows, np.concatenate(controllers))
    return path


def load(path):
    return fidelity.Game(str(path), *fidelity.load_replay(path))


def run_tool(*arguments):
    return subprocess.run([sys.executable, TOOLS / "fidelity.py", *arguments], capture_output=True, text=True)


@pytest.fixture(scope="module")
def bots_game(tmp_path_factory):
    return play_bots(tmp_path_factory.mktemp("bots") / "bots.slp", [CHARACTERS["fox"], CHARACTERS["marth"]])


def test_a_game_of_its_own_scores_a_hundred(bots_game, tmp_path):
    done = run_tool("--sim", TOOLS / "fidelity_adapter.py", "--no-free", "--json", tmp_path / "figures.json", bots_game)
    line = next(line for line in done.stdout.splitlines() if line.startswith("ALL but hit events"))
    assert min(map(float, line.split()[-4:])) > 99.5, done.stdout          # position, action, changes, animation
    found = fidelity.json.loads((tmp_path / "figures.json").read_text())["all"]
    assert found["hits"]["blows"]["true"] > 5
    assert found["hits"]["blows"]["recall"] == found["hits"]["blows"]["precision"] == 100


def test_animation_frames_are_those_of_peoples_games(tmp_path):
    """What policies read of an action's age: off by one, what was learnt from people does not work here."""
    replay = Path(__file__).resolve().parents[3] / "shared" / "replays" / "fox_multishine_closed.slp"
    if not replay.is_file():
        pytest.skip("no replays here")
    done = run_tool("--sim", TOOLS / "fidelity_adapter.py", "--no-free", "--json", tmp_path / "figures.json", replay)
    found = fidelity.json.loads((tmp_path / "figures.json").read_text())["all"]
    assert found["ALL"]["animation"] > 99, done.stdout


def test_a_simulator_sees_no_future(bots_game):
    whole = load(bots_game)
    part = whole._replace(states=whole.states[:900], inputs=whole.inputs[:900], ids=whole.ids[:900])
    (answers,), (memory,) = fidelity.one_step(fidelity_adapter, [whole])
    (beginning,), (first_memory,) = fidelity.one_step(fidelity_adapter, [part])
    assert answers[:899].tobytes() == beginning.tobytes()
    assert memory[:45].tobytes() == first_memory[:45].tobytes()


def test_an_older_tool_may_call_the_adapter(bots_game):
    states, inputs, stage, _ = fidelity.load_replay(bots_game)
    names = fidelity.STATE.names[:fidelity.STATE.names.index("t_hit")]
    older = np.zeros(states.shape, [(name, fidelity.STATE[name]) for name in names])
    for name in names:
        older[name] = states[name]
    after = fidelity_adapter.step(older[:-1], inputs[1:], stage)
    assert after.dtype == older.dtype
    assert np.mean(abs(after["x"] - states["x"][1:]) < .1) > .98


def test_the_release_of_a_throw_is_a_hit_of_its_own_kind(tmp_path):
    match = Game(CHARACTERS["marth"])
    match.place(0, 0, facing=1)
    match.place(1, 8, facing=-1)
    path = play_inputs(tmp_path / "throw.slp", match, [({}, 10), (dict(buttons=game.BUTTON_Z), 1), ({}, 40),
                                                       (dict(main_y=1.0), 2), ({}, 60)])
    whole = load(path)
    released = np.flatnonzero(np.diff(whole.states["percent"][:, 1]) > 1)
    assert len(released), "nobody was thrown"
    hits, = (score.hits for score in fidelity.score(fidelity_adapter, [whole], free=False))
    throws = hits[hits["kind"] == fidelity.HOLD]
    assert throws["true"].sum() == throws["predicted"].sum() == (throws["true"] & throws["predicted"]).sum() > 0
    assert not (hits["kind"] == fidelity.BLOW).any()
    assert whole.states["stale"][-1, 0].tolist()[:2] == [55, 0], "an up throw stands in the queue once"


def test_a_swing_that_was_wrong_for_long_is_wrong_once():
    hits = np.zeros(6, fidelity.HIT)
    hits["predicted"], hits["swing"] = True, [4, 4, 4, 4, 4, 9]
    hits["true"][5] = hits["found"][5] = hits["right"][5] = True
    found = fidelity.hit_figures(hits)
    assert found["precision"] == pytest.approx(100 / 6)
    assert found["swing_precision"] == 50 and found["predicted_swings"] == 2 and found["swing_recall"] == 100


@pytest.mark.parametrize("action", [4, 13, 184, 192])
def test_lying_waiting_and_falling_as_a_star_go_on_when_their_animation_begins_anew(action):
    state = np.zeros(200, fidelity.STATE)
    state["action"], state["age"] = action, np.arange(200) % 70
    fidelity.derive_action_timers(state)
    assert state["t_act"][-1] == 199


def test_strangers_are_in_the_way_and_do_nothing():
    """Samus, who is not in the game, presses A beside Fox: nobody is hit, and throws know her weight."""
    state, inputs = np.zeros((1, 2), fidelity.STATE), np.zeros((1, 2), fidelity.INPUT)
    state["char"], state["action"], state["stocks"], state["facing"] = [game.FOX, 13], game.WAIT, 4, [1, -1]
    state["x"], state["y"], state["shield"], state["percent"] = [0, 7], .0001, 60, 0
    inputs["btn"] = [0, game.BUTTON_A]
    for _ in range(20):
        state = fidelity_adapter.step(state, inputs, 32)
        inputs["btn"] = 0
    assert state["action"][0, 0] == game.WAIT and state["percent"][0, 0] == 0
    assert fidelity_adapter.Simulator(game.TABLES).tables.characters["weight"][13] == 110
    assert game.TABLES.characters["weight"][13] == 0


def test_a_first_frame_that_freezes_is_not_a_new_swing():
    """A blow on the first frame of its action: the action stands still at frame 0, and has hit."""
    own, other = np.zeros(6, fidelity.STATE), np.zeros(6, fidelity.STATE)
    own["action"][1:], own["hitlag"], own["attack"][1:] = 360, [0, 3, 2, 1, 0, 0], 21
    other["percent"][1:], other["hitlag"] = 5, [0, 3, 2, 1, 0, 0]
    fidelity.derive_action_timers(own)
    fidelity.derive_hits(own, other, 0)
    assert own["t_act"].tolist() == [0, 0, 0, 0, 1, 2]
    assert own["hit_done"].tolist() == [0, 1, 1, 1, 1, 1]
    assert own["stale"][-1].tolist() == [21] + [0] * 8


def test_cross_validation_leaves_the_group_out(tmp_path):
    """Somebody's game shows a spot dodge without a vulnerable frame: that must not score himself."""
    def never_vulnerable(frames):
        frames["players"]["hurtbox"][frames["players"]["action"] == game.SPOT_DODGE] = 2

    dodges = [({}, 5)] + 3 * [(dict(buttons=game.BUTTON_R, r=1.0), 10), (SPOT_DODGE, 2), ({}, 60)]
    own = play_inputs(tmp_path / "his_1.slp", Game(CHARACTERS["marth"]), dodges, never_vulnerable)
    second = play_inputs(tmp_path / "his_2.slp", Game(CHARACTERS["marth"]), dodges, never_vulnerable)
    others = play_bots(tmp_path / "theirs_1.slp", [CHARACTERS["fox"], CHARACTERS["falco"]], frames=600)
    seen = load(own).states
    assert (seen["action"] == game.SPOT_DODGE).sum() > 50

    scored = {}
    def learn(paths):
        simulator = fidelity_adapter.learn(paths)
        scored[tuple(sorted(Path(path).name for path in paths))] = simulator
        return simulator

    sim = types.SimpleNamespace(step=fidelity_adapter.step, CHARS=fidelity_adapter.CHARS,
                                MEMORY=fidelity_adapter.MEMORY, learn=learn)
    paths = [str(own), str(second), str(others)]
    scores = fidelity.cross_validate(sim, [load(path) for path in paths], paths, "dst", False)
    assert [score.path for score in scores] == paths
    assert set(scored) == {("theirs_1.slp",), ("his_1.slp", "his_2.slp")}
    last = {names[0]: int(simulator.tables.characters[CHARACTERS["marth"]]["dodge_last"][game.SPOT_DODGE])
            for names, simulator in scored.items()}
    length = seen["t_act"][seen["action"] == game.SPOT_DODGE].max() + 1
    assert last["his_1.slp"] == length, "the others are scored with what he shows"
    assert last["theirs_1.slp"] < length, "he is scored with what he alone shows"
    untouched = game.tables.DATA / "dodges.csv"
    assert not any(line.startswith(f"{CHARACTERS['marth']},{game.SPOT_DODGE},0,{length - 1}")
                   for line in untouched.read_text().splitlines())


def test_groups_are_people_and_sessions():
    assert fidelity.group_of("a/mewtwo_dtilt_uptilt_dense.slp") == fidelity.group_of("b/gnw_movement_ledge.slp")
    assert fidelity.group_of("froggi_direct_samus_falco.slp") != fidelity.group_of("froggi_ranked_falco_yoshis.slp")
    assert fidelity.group_of("Game_20240102T101112.slp") == fidelity.group_of("Game_20240102T235959.slp")
    assert fidelity.group_of("Game_20240102T101112.slp") != fidelity.group_of("Game_20240103T101112.slp")
    assert fidelity.group_of("somebody.slp") == "somebody"


@pytest.mark.parametrize("arguments, said", [
    (["--sim", "nowhere.py", "none.slp"], "no such file"),
    (["--sim", str(TOOLS / "draw_game.py"), "none.slp"], "has no function step"),
    (["none.slp"], "none of these files is a replay"),
    (["--cross-validate", "GAME"], "has no function learn"),
    (["--sim", str(TOOLS / "fidelity_adapter.py"), "--cross-validate", "GAME"], "two groups"),
])
def test_bad_input_is_told_in_one_line(arguments, said, tmp_path):
    own = play_bots(tmp_path / "own.slp", [CHARACTERS["fox"], CHARACTERS["marth"]], frames=100)
    done = run_tool(*(own if argument == "GAME" else argument for argument in arguments))
    assert done.returncode == 1
    assert said in done.stderr and len(done.stderr.strip().splitlines()) == 1 and "Traceback" not in done.stderr


def test_the_wind_is_taken_from_the_past():
    """Two tenths beside his velocity start it; standing there unmoved ends it; what follows says nothing."""
    states = np.zeros((9, 2), fidelity.STATE)
    states["action"] = 14
    states["x"][:, 0] = 30 + .2 * np.array([0, 0, 1, 2, 3, 3, 3, 3, 3])
    states["x"][:, 1] = -50 - .2 * np.array([0, 0, 0, 0, 0, 0, 0, 1, 2])
    fidelity.derive_wind(states)
    assert states["wind"][:, 0].tolist() == [0, 0, 2, 2, 2, 0, 0, 1, 1]
    shorter = states[:5].copy()
    fidelity.derive_wind(shorter)
    assert (shorter["wind"] == states["wind"][:5]).all()

"""Runs that go on: with what was edited, damaged or lost in their folder, on another machine."""

import gc
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import ppo_selfplay
from cleanmelee.cli import UserError
from cleanmelee.evaluation import Evaluator
from cleanmelee.pictures import plot_winrates
from cleanmelee.runs import check_state
from cleanmelee.selfplay import MIRROR
from helpers import FRAMES, metrics, tiny
from melee_common import Policy, load_checkpoint, save_checkpoint
from ppo_selfplay import Args, main


# ------------------------------------------------------------------------------------------- edited and damaged folders

@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A run of four iterations, a gru's against its past; copy it."""
    folder = tmp_path_factory.mktemp("resume")
    main(tiny(folder, "run", 4, backbone="gru", history_prob=.9, save_interval=2))
    gc.collect()
    gc.freeze()                                                             # or `refused` would go through it all
    yield folder / "run"
    gc.unfreeze()


@pytest.fixture
def run(source, tmp_path):
    return Path(shutil.copytree(source, tmp_path / "run"))


def contents(run: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"}


def refused(run: Path, said: str) -> None:
    """Resuming it is refused in a line that says so, and the folder stays as it is."""
    before = contents(run)
    with pytest.raises(UserError, match=said) as error:
        main(Args(resume=str(run), timesteps=5 * FRAMES))
    assert "\n" not in str(error.value) and contents(run) == before
    del error
    gc.collect()                                                            # and with it the run's lock


def edit(run: Path, change) -> None:
    """change(data) edits its checkpoint in place."""
    path = run / "checkpoints" / "latest.pt"
    data = torch.load(path, weights_only=True)
    change(data)
    torch.save(data, path)


def assign(path: str, value):
    """-> a change that puts `value` at "part.name.0" of a checkpoint; + is a dot in a name."""
    def change(data):
        *way, last = [int(key) if key.isdecimal() else key.replace("+", ".") for key in path.split(".")]
        for key in way:
            data = data[key]
        data[last] = value
    return change


@pytest.mark.parametrize("name, value, said", [
    ("seed", "1", "--seed '1': must be a whole number"), ("seed", 1.5, "--seed 1.5"), ("seed", 10 ** 30, "--seed 1000"),
    ("num_games", True, "--num-games True"), ("num_games", 5, "not of this run"), ("league", 1, "--league 1: must be"),
    ("matchmaking", "everybody", "--matchmaking 'everybody': must be 'simple_mix' or"), ("gamma", "x", "--gamma 'x'"),
    ("gamma", math.nan, "--gamma nan"), ("learning_rate", 7, "--learning-rate 7"),
    ("reward_win", {}, "--reward-win {}"), ("stage", None, "--stage None: must be text"), ("iso", "a\0b", "--iso"),
    ("no_such", 1, "--no-such"),
    ("pbt", ..., "lacks --pbt")])
def test_edited_flags_are_refused(run, name, value, said):
    flags = json.loads((run / "args.json").read_text())
    flags = {k: v for k, v in flags.items() if k != name} if value is ... else flags | {name: value}
    (run / "args.json").write_text(json.dumps(flags))
    refused(run, f"args.json.*{said}" if name != "num_games" or value is True else said)


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "1", "", "{", '{"seed": ' + "9" * 5000 + "}"])
def test_flags_that_are_none_are_refused(run, text):
    (run / "args.json").write_text(text)
    refused(run, "args.json")


@pytest.mark.parametrize("change", [
    ("learner_main.policy.value_head+bias", torch.zeros(3)), ("learner_main.policy.value_head+bias", [0.]),
    ("learner_main.policy.value_head+bias", torch.full((1,), torch.nan)), ("learner_main.optimizer.state", {}),
    ("learner_main.optimizer.state.0.exp_avg", torch.zeros(1)), ("learner_main.optimizer.state.0.step", "1"),
    ("learner_main.optimizer.param_groups.0.betas", (.1, .1)), ("learner_main.hyper.ppo_clip", math.inf),
    ("learner_main.hyper.gamma", .9), ("learner_main.rng", "[" * 100_000), ("learner_main.updates", 1.5),
    ("learner_main.teacher_state", [torch.zeros(1)]), ("selfplay.port", [0, 1]), ("selfplay.port.0", 7),
    ("selfplay.learner_of.0", 1), ("selfplay.dones.0", 1), ("selfplay.opponents.0", 3), ("selfplay.recent", [[1]]),
    ("selfplay.states.main", []), ("selfplay.states.main.0", torch.zeros(1, 16)), ("selfplay.noise", torch.zeros(3)),
    ("envs.frames", torch.zeros(3, dtype=torch.uint8)), ("envs.hidden.3", 255),
    ("envs.characters", torch.full((32,), 99, dtype=torch.uint8)),
    ("envs.seed", "1"), ("ratings.table.main", [1500.]), ("ratings.table.main.0", math.nan), ("ratings.payoff", []),
    ("ratings.recent.main", {"a": 1}), ("turn.learner", 3), ("turn.scores", ["a"]), ("turn.weights", (1, 2)),
    ("iteration", True), ("step", -512), ("step", 512.), ("iteration", 2)], ids=lambda change: change[0])
def test_an_edited_checkpoint_is_refused(run, change):
    edit(run, assign(*change))
    refused(run, "run")


def test_an_older_checkpoint_costs_nothing(run):
    """Once --save-interval iterations are behind, what lies after a checkpoint is no leftover of a kill."""
    def to_step_1(data):
        data.update(iteration=1, step=FRAMES)

    edit(run, to_step_1)
    refused(run, "of step 128, but .*metrics.jsonl of 512, so it is not this run's last")
    (run / "metrics.jsonl").unlink()
    refused(run, "of step 128, but .*main_000000000512.pt")
    for file in (run / "pool").glob("main_*.pt"):
        if int(file.stem[-12:]) > 3 * FRAMES:
            file.unlink()
    main(Args(resume=str(run)))


def test_damaged_rows_are_left_out(run):
    with open(run / "metrics.jsonl", "a") as file:
        file.write("[" * 100_000 + "\n" + '{"global_step": "1"}\n{"global_step": NaN}\n{"global_step": true}\n')
    row = {f"eval/winrate_idle{end}": .5 for end in ("", "_low", "_high")}
    lines = [json.dumps({"global_step": step, **row}) for step in (0, FRAMES)]
    (run / "eval.jsonl").write_text("\n".join([lines[0], "[]", '{"global_step": 1}', "{", lines[1]]) + "\n")
    assert plot_winrates(run)
    main(Args(resume=str(run), timesteps=5 * FRAMES))
    assert [row["global_step"] for row in metrics(run)] == [k * FRAMES for k in range(1, 6)]


def test_files_of_others_among_the_checkpoints(run):
    for name in ("eval_best.pt", "eval_1.pt", "eval_.pt"):
        (run / "checkpoints" / name).write_bytes(b"mine")
    (run / "checkpoints" / "eval_000000000001.pt").mkdir()
    assert Evaluator(run, {}, 10 ** 6).jobs == []
    assert (run / "checkpoints" / "eval_best.pt").read_bytes() == b"mine"


def test_check_state():
    like = {"a": [1., ...], "b": {str: (1, None)}, "c": torch.zeros(2)}
    check_state({"a": [], "b": {}, "c": torch.ones(2)}, like, "x")
    check_state({"a": [2., 3.], "b": {"n": (2, None)}, "c": torch.ones(2)}, like, "x")
    for key, value, said in (("a", [1], r"x\.a\.0 is of type int, not float"), ("b", {1: (1, None)}, "x.b has other"),
                             ("b", {"n": (1, 2)}, "NoneType"), ("c", torch.ones(2).double(), "float64"),
                             ("d", 1, "'d'"), ("a", [math.inf], "is inf"), ("b", {"n": (2 ** 63, None)}, "is 9"),
                             ("b", {"n": (1,)}, "1 e")):
        with pytest.raises(ValueError, match=said):
            check_state({"a": [], "b": {}, "c": torch.ones(2)} | {key: value}, like, "x")


# ---------------------------------------------------------------------------------------------- opponents that are gone

def opponents_in_mid_game(run: Path) -> list[str]:
    state = load_checkpoint(run / "checkpoints" / "latest.pt")["selfplay"]
    return sorted({name for name, done in zip(state["opponents"], state["dones"], strict=True) if name and not done})


@pytest.mark.parametrize("how", ["gone", "broken"])
def test_games_of_an_opponent_that_is_gone_begin_anew(run, monkeypatch, capsys, how):
    name, *_ = opponents_in_mid_game(run)
    path = run / "pool" / f"{name}.pt"
    path.unlink() if how == "gone" else path.write_bytes(b"broken")
    seen = []
    load = ppo_selfplay.SelfPlay.load_state_dict

    def loaded(self, state):
        load(self, state)
        games = [g for g, opponent in enumerate(state["opponents"]) if opponent == name]
        seen.extend((self.opponents[g], bool(self.dones[g]), int(self.envs.games.episode_frames[g])) for g in games)

    monkeypatch.setattr(ppo_selfplay.SelfPlay, "load_state_dict", loaded)
    main(Args(resume=str(run), timesteps=6 * FRAMES))
    assert seen and set(seen) == {(MIRROR, True, 0)} and len(metrics(run)) == 6
    assert f"{name}.pt" in capsys.readouterr().err


def test_an_opponent_whose_file_breaks_in_mid_game_plays_on(tmp_path, monkeypatch):
    collect, broken = ppo_selfplay.collect, []

    def breaking(selfplay, *rest):
        names = set(selfplay.opponents) - {MIRROR}
        if names and not broken:
            for name in names:
                selfplay.pool.path(name).write_bytes(b"broken")
            before = dict(zip(selfplay.policy_ids, selfplay.policies, strict=True))
            going_on = [g for g in range(4) if selfplay.opponents[g] and not selfplay.dones[g]]
            who = [before[selfplay.opponents[g]] for g in going_on]
            selfplay.look_up_policies(np.zeros(0, int))
            assert who == [selfplay.policies[selfplay.assignment[g, 1 - selfplay.port[g]]] for g in going_on]
            broken.extend(going_on)
        return collect(selfplay, *rest)

    monkeypatch.setattr(ppo_selfplay, "collect", breaking)
    main(tiny(tmp_path, "run", 5, history_prob=.9))
    assert broken and len(metrics(tmp_path / "run")) == 5


def test_opponents_of_flags_that_are_gone(tmp_path, capsys):
    save_checkpoint(tmp_path / "other.pt", Policy("mlp", (8,), action_repeat=2))
    save_checkpoint(tmp_path / "held.pt", Policy("mlp", (9,), action_repeat=2))
    main(tiny(tmp_path, "run", 1, opponent=str(tmp_path / "other.pt"), held_out=str(tmp_path / "held.pt"),
              eval_interval=1))
    run, kept = tmp_path / "run", tmp_path / "run" / "checkpoints" / "opponent.pt"
    (run / "checkpoints" / "held_out.pt").write_bytes(b"broken")
    main(Args(resume=str(run), timesteps=2 * FRAMES))
    rows = [json.loads(line) for line in (run / "eval.jsonl").read_text().splitlines()]
    assert ["eval/winrate_heldout" in row for row in rows] == [True, True, False]
    assert "held_out.pt" in capsys.readouterr().err and plot_winrates(run)
    kept.rename(tmp_path / "aside")
    (tmp_path / "other.pt").unlink()
    with pytest.raises(UserError, match="opponent.pt.*put it back"):
        main(Args(resume=str(run), timesteps=3 * FRAMES))
    (tmp_path / "aside").rename(kept)
    main(Args(resume=str(run), timesteps=3 * FRAMES))
    assert len(metrics(run)) == 3


# ------------------------------------------------------------------------------------------------------ another machine

def test_another_machine_is_told(run, capsys):
    def elsewhere(data):
        data["versions"] |= {"torch threads": "64", "torch": "1.0"}
        data["args"]["gamma"] = .5

    main(Args(resume=str(run), timesteps=5 * FRAMES))
    assert "never stopped" not in capsys.readouterr().err
    edit(run, elsewhere)
    main(Args(resume=str(run), timesteps=6 * FRAMES))
    said = capsys.readouterr().err
    assert "torch threads 64, now 1; torch 1.0, now" in said and "--gamma 0.5, now" in said


def test_a_run_takes_one_thread_or_what_it_is_told(tmp_path):
    """Not what torch would: two beside other work are slower than one."""
    torch.set_num_threads(3)
    for threads, given in {2: {"num_threads": 2}, 1: {}}.items():
        main(tiny(tmp_path, str(threads), 1, **given))
        saved = load_checkpoint(tmp_path / str(threads))
        assert torch.get_num_threads() == saved["args"]["num_threads"] == int(saved["versions"]["torch threads"])
        assert torch.get_num_threads() == threads

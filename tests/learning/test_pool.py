"""Pool, ratings, strengths: the files and indexes of past policies, and how strong they are."""

import contextlib
import math
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import bench_pool
from cleanmelee.cli import UserError
from cleanmelee.features import NUM_FLOATS, NUM_INTS
from cleanmelee.observation import Observation
from cleanmelee.pool import Pool, Ratings, fit_elo, print_elo
from melee_common import Policy, act, load_checkpoint, save_checkpoint, swap_policy


def tiny() -> Policy:
    return Policy("mlp", (8,))


def fill(pool, steps, agent="main", **options) -> list[str]:
    policy = tiny()
    return [pool.add(policy, agent, step, **options) for step in steps]


def steps_of(names) -> list[int]:
    return [Pool.step(name) for name in names]


def drawn(pool, *arguments, times=60) -> set:
    return {pool.sample(np.random.default_rng(k), *arguments) for k in range(times)}


# -------------------------------------------------------------------------------------------------------------- indexes

def test_ids_agents_and_steps(tmp_path):
    pool = Pool(tmp_path)
    first, second, other = (pool.add(tiny(), agent, step, note=3) for agent, step in
                            (("main", 5), ("main", 70), ("main_exploiter.1", 6)))
    assert (first, pool.agent(other), pool.step(other)) == ("main_000000000005", "main_exploiter.1", 6)
    assert load_checkpoint(pool.path(first))["note"] == 3
    assert pool.ids() == pool.all_ids() == [first, other, second]           # oldest first, whoever it is
    assert pool.current("main") == second and pool.current("main_exploiter.1") == other
    assert pool.current("main_exploiter") is None
    ratings = Ratings()
    assert pool.best("main", ratings) == second                             # of equals the newest
    ratings.row(first)[0] = 1501
    assert pool.best("main", ratings) == first and pool.best("nobody", ratings) is None
    for agent in ("a/b", "", "a b", "..//x"):
        with pytest.raises(UserError, match="agents are named"):
            pool.add(tiny(), agent, 1)
    assert len(list(tmp_path.glob("*.pt"))) == 3


def test_the_surplus_leaves_as_a_newer_one_joins_and_its_file_goes_later(tmp_path):
    pool = Pool(tmp_path, history_size=3)
    first = fill(pool, range(1, 7))[0]
    fill(pool, [1, 2], agent="other")                                       # every agent has its own history
    assert steps_of(n for n in pool.ids() if pool.agent(n) == "main") == [4, 5, 6] and len(pool.ids()) == 5
    assert len(pool.all_ids()) == len(list(tmp_path.glob("*.pt"))) == 8    # nothing goes before a checkpoint is written
    assert drawn(pool) == set(pool.ids())
    pool.prune(in_use={first})
    assert {path.stem for path in tmp_path.glob("*.pt")} == {*pool.ids(), first}
    assert len(pool.all_ids()) == 8 and first not in drawn(pool)    # kept for the game that is on, and for nothing else
    pool.prune(in_use=set())
    assert {path.stem for path in tmp_path.glob("*.pt")} == set(pool.ids())


def test_keeping_files(tmp_path):
    pool = Pool(tmp_path, history_size=1, keep_files=True)
    first, last = fill(pool, [1, 2])
    pool.prune(in_use=set())
    assert pool.ids() == [last] and isinstance(pool.load(first), Policy)


def test_bots_that_play_do_not_spoil_the_index(tmp_path, capsys):
    pool = Pool(tmp_path, history_size=1, keep_files=False)
    first, second = (pool.add(tiny(), "main", step) for step in (1, 2))
    pool.prune({first, "level3", "opponent"})
    assert Pool(tmp_path).ids() == [second] and pool.path(first).exists() and capsys.readouterr().err == ""


def test_pruning_the_worst_spares_the_newest(tmp_path):
    pool, ratings = Pool(tmp_path, history_size=3, prune="worst"), Ratings()
    for step, elo in ((1, 1700), (2, 1400), (3, 1600), (4, 1500), (5, 1000)):
        ratings.row(f"main_{step:012d}")[0] = elo
        pool.add(tiny(), "main", step, ratings=ratings)
    assert steps_of(pool.ids()) == [1, 3, 5]                                # 2 left when 4 came, 4 when 5 came
    pool.prune(set(), ratings)
    assert {path.stem for path in tmp_path.glob("*.pt")} == set(pool.ids())
    fill(pool, [6])                                                     # without ratings nobody can be called the worst
    assert steps_of(pool.ids()) == [1, 3, 5, 6]
    pool.prune(set(), ratings)
    assert steps_of(pool.ids()) == [1, 3, 6]
    with pytest.raises(UserError, match="oldest or worst"):
        Pool(tmp_path, prune="best")


def test_going_back_brings_back_what_left_later(tmp_path):
    """A run that is resumed from step 3 finds the pool of step 3, whatever happened before it was killed."""
    for prune in ("oldest", "worst"):
        pool, ratings = Pool(tmp_path / prune, history_size=2, prune=prune), Ratings()
        fill(pool, [1, 2, 3], ratings=ratings)
        pool.prune(set())
        then = pool.ids()
        fill(pool, [4, 5, 6], ratings=ratings)
        other = fill(pool, [9], agent="other")
        assert pool.ids() != then
        Pool(tmp_path / prune, history_size=2).forget_after(3, agents={"main"})
        assert pool.ids() == then + other and steps_of(pool.all_ids()) == [1, 2, 3, 9]
        fill(pool, [4], ratings=ratings)
        assert steps_of(pool.ids()) == [3, 4, 9]
        pool.forget_after(3)
        assert pool.ids() == then


def test_a_reader_changes_nothing(tmp_path, capsys):
    """Whatever the history_size of the run: its index stays as it is, and the reader sees also what is in no index."""
    pool = Pool(tmp_path, history_size=30)
    names = fill(pool, range(1, 26))
    save_checkpoint(tmp_path / "main_000000000030.pt", tiny())
    for damage in (lambda: None, lambda: (tmp_path / "index.json").write_text("{"), (tmp_path / "index.json").unlink):
        damage()
        before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
        reader = Pool(tmp_path, read_only=True)
        for _ in range(2):
            assert reader.ids() == reader.all_ids() == [*names, "main_000000000030"] and reader.sample(
                np.random.default_rng(0)) in reader.ids()
        assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    assert capsys.readouterr().err.count("rebuilt from 26 files") == 2
    assert Pool(tmp_path / "nowhere", read_only=True).ids() == [] and not (tmp_path / "nowhere").exists()
    fill(Pool(tmp_path / "new", history_size=30), [1])
    reader = Pool(tmp_path / "new", read_only=True)
    assert steps_of(reader.ids()) == [1]
    fill(Pool(tmp_path / "new", history_size=30), [2])
    assert steps_of(reader.ids()) == [1, 2]                                 # it sees what the run adds


def test_each_run_deletes_only_its_own_and_nothing_that_another_uses(tmp_path):
    one, two = (Pool(tmp_path, history_size=1) for _ in range(2))
    a1, a2, a3 = fill(one, [1, 2, 3], agent="a")
    b1, b2 = fill(two, [1, 2], agent="b")
    two.prune({a1}, agents={"b"}, owner="run_b")
    one.prune(set(), agents={"a"}, owner="run_a")
    assert {path.stem for path in tmp_path.glob("*.pt")} == {a1, a3, b2}    # b's checkpoint still plays a1
    assert Pool(tmp_path).load(a1) is not None


# -------------------------------------------------------------------------------------------- what can be wrong on disk

@pytest.mark.parametrize("damage", [
    lambda p: p.unlink(), lambda p: p.write_bytes(b""), lambda p: p.write_bytes(b"{"), lambda p: p.write_text("[1, 2]"),
    lambda p: p.write_text('{"active": ["main_000000000001"], "all": {}, "in_use": {}}'),
    lambda p: p.write_text('{"active": [], "all": {"../x": null}, "in_use": {}}'),
    lambda p: p.write_text("[" * 100_000), lambda p: p.write_text('{"x":' * 900 + "1" + "}" * 900),
    lambda p: p.write_text(f'{{"active": [], "all": {{"a_{"1" * 300}": null}}, "in_use": {{}}}}'),
    lambda p: p.write_text(f'{{"active": [], "all": {{"a_{"1" * 5000}": null}}, "in_use": {{}}}}'),
    lambda p: p.write_text('{"active": [], "all": {}, "in_use": {"a": [["b"]]}}'),
    lambda p: p.write_text('{"active": [["a"]], "all": {}, "in_use": {}}'),
    lambda p: p.write_text('{"active": [1], "all": {"main_000000000001": null}, "in_use": {}}')])
def test_a_lost_or_damaged_index_is_rebuilt_from_the_files(tmp_path, capsys, damage):
    pool = Pool(tmp_path, history_size=2)
    names = fill(pool, [1, 2, 3])
    damage(tmp_path / "index.json")
    assert Pool(tmp_path, history_size=2).ids() == pool.ids() == names[-2:] and pool.all_ids() == names
    assert capsys.readouterr().err.count("rebuilt from 3 files") == 1
    damage(tmp_path / "index.json")
    assert pool.add(tiny(), "main", 4) in pool.ids() and len(pool.ids()) == 2 and len(pool.all_ids()) == 4


@pytest.mark.parametrize("name", ["index.json", ".lock"])
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to(path)])
def test_what_is_no_file_is_told_or_does_not_matter(tmp_path, name, make):
    """Never a wait without an end, nor a traceback."""
    path = tmp_path / name
    make(path)
    with contextlib.suppress(UserError):
        fill(Pool(tmp_path), [1])
    assert not list(tmp_path.glob("*.tmp"))


def test_ids_that_are_folders_pipes_or_loops_are_skipped(tmp_path, capsys):
    pool = Pool(tmp_path)
    good, *broken = fill(pool, [1, 2, 3, 4])
    for name, make in zip(broken, (Path.mkdir, os.mkfifo, lambda path: path.symlink_to(path)), strict=True):
        pool.path(name).unlink()
        make(pool.path(name))
    assert drawn(pool, times=20) == {good} and len(capsys.readouterr().err.splitlines()) == 3


def test_names_in_the_table_of_elo_are_whole(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    ratings = Ratings()
    names = [f"main_exploiter.{k}_000000000001" for k in range(6)]
    for name in names:
        ratings.record(names[0], name, 1.)
    print_elo(ratings, names, [])
    assert all(f"{name} W-D-L" in capsys.readouterr().out for name in names[:1])


def test_files_that_no_index_knows_join(tmp_path):
    Pool(tmp_path)
    save_checkpoint(tmp_path / "guest_000000000009.pt", tiny())
    (tmp_path / ".guest_000000000010.pt.77.tmp").write_bytes(b"half")       # a kill in the middle of writing
    save_checkpoint(tmp_path / "notes.pt", tiny())
    assert Pool(tmp_path).ids() == ["guest_000000000009"]


def test_a_broken_file_is_skipped_with_one_warning(tmp_path, capsys):
    pool = Pool(tmp_path)
    good, broken, gone = fill(pool, [1, 2, 3])
    pool.path(broken).write_bytes(b"broken")
    pool.path(gone).unlink()
    assert drawn(pool) == {good}
    assert sorted(line.split(":")[2].split("/")[-1] for line in capsys.readouterr().err.splitlines()) == [
        f"{broken}.pt", f"{gone}.pt"]
    pool.path(good).write_bytes(b"broken")                                  # the copy in memory is of another file
    assert pool.sample(np.random.default_rng(0)) is None
    assert Pool(tmp_path / "empty").sample(np.random.default_rng(0)) is None


def test_weights(tmp_path):
    pool = Pool(tmp_path)
    a, b, c = fill(pool, [1, 2, 3])
    rng = np.random.default_rng(0)
    draws = [pool.sample(rng, [a, b, c], [1, 3, 0]) for _ in range(400)]
    assert draws.count(c) == 0 and abs(draws.count(b) / 400 - .75) < .07
    assert drawn(pool, [a, c]) == {a, c} and pool.sample(rng, []) is None and pool.sample(rng, [a], [0]) is None
    pool.path(b).write_bytes(b"broken")
    assert drawn(pool, [a, b, c], [1, 3, 0]) == {a}                         # drawing again among the rest


def test_two_processes_share_a_pool(tmp_path):
    """The benchmark's full size is `python tests/bench/bench_pool.py`."""
    result = bench_pool.stress(tmp_path, processes=2, operations=150)
    assert (
        result["problems"] == [] and result["wrong"] == 0 and min(result["add"], result["draw"], result["prune"]) > 15)


def test_a_kill_in_the_middle_of_a_change_leaves_a_sound_pool(tmp_path, capfd):
    rng = np.random.default_rng(0)
    for _ in range(3):
        process, _ = bench_pool.begin(tmp_path, "agent0", operations=100_000)
        while len(list(tmp_path.glob("*.pt"))) < bench_pool.HISTORY:        # it is at work
            assert process.is_alive()
            time.sleep(.02)
        time.sleep(rng.uniform(.05, .2))
        process.kill()
        process.join()
        pool = Pool(tmp_path, bench_pool.HISTORY)
        assert len(pool.ids()) == bench_pool.HISTORY and all(isinstance(pool.load(name), Policy) for name in pool.ids())
        pool.forget_after(0)                                                # the next one begins anew
        assert not list(tmp_path.glob("*.pt"))
    assert "lost or damaged" not in capfd.readouterr().err


# ------------------------------------------------------------------------------------------------------------- policies

def test_a_frozen_policy_does_not_follow_the_learner(tmp_path):
    pool, policy = Pool(tmp_path), tiny()
    name = pool.add(policy, "main", 1)
    frozen = pool.load(name)
    before = frozen.value_head.weight.clone()
    policy.value_head.weight.data += 1
    assert (pool.load(name).value_head.weight == before).all() and not frozen.value_head.weight.requires_grad
    assert pool.load(name) is frozen
    Pool(tmp_path).add(policy, "main", 1)                                 # the same id, written anew by another process
    assert (pool.load(name).value_head.weight == policy.value_head.weight).all()
    pool.path(name).unlink()                                                # pruned while a game against it is on
    assert (pool.load(name).value_head.weight == policy.value_head.weight).all()


def test_memory_is_bounded(tmp_path, monkeypatch):
    pool = Pool(tmp_path)
    names = fill(pool, range(1, 7))
    size = sum(t.nbytes for t in tiny().state_dict().values())
    monkeypatch.setattr(Pool, "CACHE_BYTES", 3 * size)
    for name in [*names, names[3], names[0]]:
        pool.load(name)
    assert list(pool._cache) == [names[5], names[3], names[0]]              # those used last
    monkeypatch.setattr(Pool, "CACHE_BYTES", 1)
    pool.load(names[1])
    assert list(pool._cache) == [names[1]]


@torch.inference_mode()
def test_a_swap_in_mid_game_clears_that_slot_alone(tmp_path):
    pool, torch_noise = Pool(tmp_path), lambda: torch.Generator().manual_seed(1)
    a, b, c = (pool.load(pool.add(Policy("gru", (16,)), "main", step)) for step in (1, 2, 3))
    rng = np.random.default_rng(0)
    obs = Observation(
        rng.normal(size=(3, 2, NUM_FLOATS)).astype(np.float32), rng.integers(0, 3, (3, 2, NUM_INTS), np.int16))
    policies, assignment = [a, b], np.array([[0, 1], [0, 1], [0, 0]])
    states, running = [p.initial_state(6) for p in policies], np.zeros(3, bool)
    for _ in range(3):
        act(policies, assignment, obs, states, running, torch_noise())
    before = [s[0].clone() for s in states]

    swap_policy(policies, assignment, states, 2, 1, b)                      # b plays slots 1 and 3, and now 5
    assert policies == [a, b] and assignment.tolist() == [[0, 1], [0, 1], [0, 1]]
    assert not states[1][0][5].any() and before[1][[1, 3]].abs().sum() > 0
    assert torch.equal(states[1][0][:5], before[1][:5]) and torch.equal(states[0][0], before[0])
    swap_policy(policies, assignment, states, 0, 0, c)                      # c joins
    assert policies[2] is c and assignment[0, 0] == 2 and not states[2][0].any() and len(states) == 3
    act(policies, assignment, obs, states, running, torch_noise())
    fresh = c.features(Observation(*(torch.from_numpy(x.reshape(6, -1)[:1]) for x in obs)), c.initial_state(1))[1][0]
    assert torch.allclose(states[2][0][0], fresh[0], atol=1e-6)             # it acts, from an empty memory

    act(policies, assignment, obs, states, running, torch_noise())
    states[0][0][4] += 1                                                # what a left behind in slot 5's neighbour stays
    swap_policy(policies, assignment, states, 2, 1, a)                      # and back: no memory of the first stay
    assert not states[0][0][5].any() and states[0][0][4].abs().sum() > 0


# -------------------------------------------------------------------------------------------------------------- ratings

def test_ratings():
    ratings = Ratings()
    ratings.record("a", "b", 1.)
    assert ratings.table["a"][0] == 1516 and ratings.table["b"][0] == 1484
    ratings.record("a", "b", .5)
    assert 1500 < ratings.table["a"][0] < 1516                              # the favourite loses by a draw
    assert [row[2:] for row in ratings.ranking()] == [(1, 0, 1), (0, 1, 1)]
    assert sum(row[0] for row in ratings.table.values()) == pytest.approx(3000)
    ratings.record("c", "a", 0.)
    assert ratings.payoff["a"] == {"b": [1, 1, 0], "c": [1, 0, 0]} and ratings.payoff["b"]["a"] == [0, 1, 1]
    assert [row[0] for row in ratings.ranking(["b", "a"])] == ["a", "b"] and "c" in ratings.table
    assert ratings.elo("nobody") == 1500 and "nobody" not in ratings.table


def test_ratings_survive_a_checkpoint(tmp_path):
    ratings = Ratings()
    for score in (1., 0., .5, 1.):
        ratings.record("latest", "main_000000000001", score)
    path = save_checkpoint(tmp_path / "x.pt", tiny(), ratings=ratings.state_dict())
    again = Ratings(**load_checkpoint(path)["ratings"])
    assert again.state_dict() == ratings.state_dict()
    again.record("latest", "main_000000000001", 1.)  # it goes on by itself
    assert (
        again.payoff["latest"] == {"main_000000000001": [3, 1, 1]}
        and ratings.payoff["latest"]["main_000000000001"][0] == 2
    )
    assert Ratings(ratings.table).payoff == {}                           # checkpoints of older runs have only the table


def test_win_rates_forget():
    ratings = Ratings()
    assert ratings.winrate("a", "b") == .5
    ratings.record("a", "b", 1.)
    assert ratings.winrate("a", "b") == .75 and ratings.winrate("b", "a") == .25
    for _ in range(300):
        ratings.record("a", "b", 0.)
    assert ratings.winrate("a", "b") < .02
    for _ in range(math.ceil(math.log(.5) / math.log(Ratings.DECAY))):      # half of what is remembered is new
        ratings.record("a", "b", 1.)
    assert ratings.winrate("a", "b") == pytest.approx(.5, abs=.03)
    assert ratings.winrate("a", "b") + ratings.winrate("b", "a") == pytest.approx(1)


# ------------------------------------------------------------------------------------------------------------ strengths

def results(strengths: dict[str, float], games: int, rng, draws: float = 0.) -> dict:
    payoff, names = {}, list(strengths)
    for i, a in enumerate(names):
        for b in names[i + 1:]:
            p = 1 / (1 + 10 ** ((strengths[b] - strengths[a]) / 400))
            drawn = rng.binomial(games, draws)
            won = rng.binomial(games - drawn, p)
            payoff.setdefault(a, {})[b] = [int(won), int(drawn), int(games - drawn - won)]
    return payoff


def test_fitted_strengths_are_the_known_ones():
    truth = {"a": 1800., "b": 1600., "c": 1500., "d": 1400., "e": 1200.}
    fitted = fit_elo(results(truth, 4000, np.random.default_rng(0)))
    for name, elo in truth.items():
        assert fitted[name][0] == pytest.approx(elo, abs=15)
    two = fit_elo({"a": {"b": [75, 0, 25]}})                                # 3 : 1 is 191 Elo
    assert two["a"][0] - two["b"][0] == pytest.approx(400 * math.log10(3), abs=2)


def test_intervals_cover_the_truth_as_often_as_they_say():
    truth = {name: 1500 + 400 * (k - 2) / 2 * .5 for k, name in enumerate("abcde")}
    rng, inside, total = np.random.default_rng(1), 0, 0
    for _ in range(200):
        for name, (_, low, high) in fit_elo(results(truth, 30, rng)).items():
            inside, total = inside + (low <= truth[name] <= high), total + 1
    assert .93 < inside / total < .98
    few, many = (fit_elo(results(truth, games, np.random.default_rng(2)))["c"] for games in (20, 2000))
    assert (few[2] - few[1]) / (many[2] - many[1]) == pytest.approx(10, rel=.3)


def test_strengths_without_evidence_stay_finite_and_say_so():
    fitted = fit_elo({"winner": {"loser": [10, 0, 0]}, "x": {"y": [5, 0, 5]}})
    assert 1600 < fitted["winner"][0] < 2200 and fitted["winner"][2] - fitted["winner"][1] > 500
    assert fitted["x"][0] == pytest.approx(fitted["y"][0])          # who never met the others is uncertain by the prior
    assert fitted["x"][2] - fitted["x"][1] > 1500
    both = Ratings()
    for score in (1., .5, 0., 1.):
        both.record("a", "b", score)
    assert fit_elo(both.payoff) == fit_elo({"a": {"b": [2, 1, 1]}}) and fit_elo({}) == {}

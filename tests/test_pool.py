"""The pool of past policies and the ratings: two indexes, several processes, broken files, going back."""

import json
import multiprocessing
import os

import numpy as np
import pytest

from melee_common import Policy, Pool, Ratings, load_checkpoint

TINY = Policy("mlp", (4,))


def filled(folder, steps=range(1, 7), agent="main", **options) -> Pool:
    pool = Pool(folder, **{"history_size": 3, **options})
    for step in steps:
        pool.add(TINY, agent, step, action_repeat=3)
        pool.prune(Ratings(), step)
    return pool


def steps(names) -> list[int]:
    return [Pool.step(name) for name in names]


def test_two_indexes(tmp_path):
    pool = filled(tmp_path)
    assert steps(pool.ids()) == [4, 5, 6] and steps(pool.all_ids()) == [1, 2, 3, 4, 5, 6]
    assert steps(json.loads((tmp_path / "active.json").read_text())) == [4, 5, 6]
    assert load_checkpoint(tmp_path / "main_000000000001.pt")["action_repeat"] == 3         # retired, but there
    pool.load("main_000000000001")
    assert {pool.sample(np.random.default_rng(k)) for k in range(40)} == set(pool.ids())
    assert Pool(tmp_path / "empty").sample(np.random.default_rng(0)) is None


def test_agents_have_a_history_each(tmp_path):
    pool = filled(tmp_path)
    filled(tmp_path, [10, 20], "other_agent")
    assert steps(pool.ids("main")) == [4, 5, 6] and steps(pool.ids("other_agent")) == [10, 20]
    assert pool.current("other_agent") == "other_agent_000000000020" and pool.current("nobody") is None
    ratings = Ratings({"main_000000000004": [1700., 0, 0, 0], "main_000000000005": [1700., 0, 0, 0]})
    assert pool.best("main", ratings) == "main_000000000005"                # the newest of equals


def test_the_worst_is_retired_but_never_the_newest(tmp_path):
    pool = Pool(tmp_path, history_size=3, prune="worst")
    ratings = Ratings({f"main_{step:012d}": [elo, 0, 0, 0] for step, elo in ((1, 1700.), (2, 1400.), (3, 1600.), (4, 1300.))})
    for step in (1, 2, 3, 4):
        pool.add(TINY, "main", step)
    pool.prune(ratings, 4)
    assert steps(pool.ids()) == [1, 3, 4]


def test_files_are_deleted_only_behind_a_checkpoint_and_out_of_use(tmp_path):
    pool = filled(tmp_path)
    files = lambda: sorted(Pool.step(path.stem) for path in tmp_path.glob("*.pt"))
    assert files() == [1, 2, 3, 4, 5, 6]
    pool.delete_retired(5, {"main_000000000001"})                           # 1 was retired at 4, 2 at 5, 3 at 6
    assert files() == [1, 3, 4, 5, 6]


def test_going_back_undoes_what_was_added_and_retired(tmp_path):
    pool = filled(tmp_path)
    filled(tmp_path, [9], "other")
    pool.forget_after(4, ["main"])
    assert steps(pool.ids("main")) == [2, 3, 4] and steps(pool.ids("other")) == [9]
    assert not (tmp_path / "main_000000000005.pt").exists()


@pytest.mark.parametrize("damage", [None, b"", b"{", b"[1]", b'{"main_000000000001": "x"}'])
def test_a_lost_index_is_made_anew_from_the_files(tmp_path, damage):
    pool = filled(tmp_path)
    (tmp_path / "main_x.pt").write_bytes(b"not of the pool")
    (tmp_path / "main_000000000099.pt").mkdir()
    if damage is None:
        os.unlink(tmp_path / "all.json")
    else:
        (tmp_path / "all.json").write_bytes(damage)
    for reader in (pool, Pool(tmp_path, history_size=3)):
        assert steps(reader.ids()) == [4, 5, 6] and steps(reader.all_ids()) == [1, 2, 3, 4, 5, 6]


def test_a_broken_file_is_skipped_with_one_warning(tmp_path, capsys):
    filled(tmp_path)
    (tmp_path / "main_000000000006.pt").write_bytes(b"broken")
    pool = Pool(tmp_path, history_size=3)
    assert {pool.sample(np.random.default_rng(k)) for k in range(40)} == {"main_000000000004", "main_000000000005"}
    assert capsys.readouterr().err.count("main_000000000006") == 1
    assert pool.sample(np.random.default_rng(0), ["main_000000000006"]) is None


def test_sampling_follows_the_weights(tmp_path):
    pool, rng = filled(tmp_path), np.random.default_rng(0)
    drawn = [pool.sample(rng, pool.ids(), np.array([1., 0., 3.])) for _ in range(400)]
    counts = [drawn.count(name) for name in pool.ids()]
    assert counts[1] == 0 and 60 < counts[0] < 140


def work(folder, agent, rounds, errors):
    """Another process: adds, prunes, samples and loads; every draw must be readable."""
    try:
        pool, rng = Pool(folder, history_size=5), np.random.default_rng(len(agent))
        for step in range(1, rounds + 1):
            pool.add(TINY, agent, step)
            pool.prune(Ratings(), step)
            for _ in range(3):
                name = pool.sample(rng)
                assert name is not None and load_checkpoint(pool.directory / f"{name}.pt")["step"] == Pool.step(name)
    except BaseException as error:  # noqa: BLE001 (told to the parent)
        errors.put(f"{agent}: {error!r}")
        raise


@pytest.mark.parametrize("rounds", [60, pytest.param(2000, marks=pytest.mark.slow)])
def test_two_processes_share_a_pool(tmp_path, rounds, capfd):
    context = multiprocessing.get_context("spawn")
    errors = context.Queue()
    processes = [context.Process(target=work, args=(tmp_path, agent, rounds, errors)) for agent in ("a", "bb")]
    for process in processes:
        process.start()
    for process in processes:
        process.join(540)
    assert [process.exitcode for process in processes] == [0, 0] and errors.empty()
    pool = Pool(tmp_path, history_size=5)
    assert len(pool.all_ids()) == 2 * rounds                                # nothing that one wrote was lost to the other
    assert steps(pool.ids("a")) == steps(pool.ids("bb")) == list(range(rounds - 4, rounds + 1))
    assert "skipped" not in capfd.readouterr().err


# --------------------------------------------------------------------------------------------------------------- ratings

def test_ratings():
    ratings = Ratings()
    ratings.record("a", "b", 1.)
    assert ratings.table["a"][0] == 1516 and ratings.table["b"][0] == 1484
    ratings.record("a", "b", .5)
    assert 1500 < ratings.table["a"][0] < 1516                              # the favourite loses by a draw
    assert [row[2:] for row in ratings.ranking()] == [(1, 0, 1), (0, 1, 1)]
    assert sum(row[0] for row in ratings.table.values()) == pytest.approx(3000)
    assert ratings.payoff["a"]["b"][:3] == [1, 1, 0] and ratings.payoff["b"]["a"][:3] == [0, 1, 1]


def test_win_rates_fade():
    ratings = Ratings()
    assert ratings.winrate("a", "b") == .5
    for _ in range(100):
        ratings.record("a", "b", 0.)
    assert ratings.winrate("a", "b") < .05 and ratings.winrate("b", "a") > .95
    for _ in range(100):
        ratings.record("a", "b", 1.)
    assert ratings.winrate("a", "b") > .8                                   # half of all games, but the last hundred count more
    again = Ratings()
    again.load_state_dict(json.loads(json.dumps(ratings.state_dict())))
    assert again.winrate("a", "b") == ratings.winrate("a", "b") and again.table == ratings.table

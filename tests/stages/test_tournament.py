"""Tournaments: who meets whom from which port, who is credited, what is written, and what a user may get wrong."""

import json
import subprocess
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

import play
from cleanmelee.cli import UserError
from cleanmelee.controller import NUM_STICK
from cleanmelee.environment import MeleeEnv
from cleanmelee.pool import Pool, Ratings, fit_elo
from melee_common import Policy
from cleanmelee.tournament import draw_pairs, enter
from play import Args
from helpers import stubborn

ROOT = Path(__file__).resolve().parents[2]
LENGTH = 900  # frames of a test game


@pytest.fixture
def pool(tmp_path):
    """Two that fall, one that stands and decides on every third frame."""
    pool = Pool(tmp_path / "pool")
    for step, (stick, repeat) in enumerate(((0, 1), (1, 2), (NUM_STICK // 2, 3)), 1):
        policy = stubborn(stick)
        policy.config["action_repeat"] = repeat
        pool.add(policy, "main", step)
    return pool


def hold(pool, **options) -> dict:
    play.main(Args(**{"tournament": str(pool.directory), "num_games": 4, "max_episode_frames": LENGTH} | options))
    return json.loads((pool.directory / "tournament.json").read_text())


def test_the_pool_of_a_run_is_only_read(pool):
    """Also where it holds more than a pool keeps by default."""
    for step in range(4, 24):
        (pool.directory / f"main_{step:012d}.pt").symlink_to(pool.path(pool.ids()[0]))
    index = (pool.directory / "index.json").read_bytes()
    policies, names, _ = enter(pool.directory, [], 100, 1)
    assert len(policies) == len(names) == 23 and (pool.directory / "index.json").read_bytes() == index
    assert len(MeleeEnv(str(pool.directory))._opponents[0].ids()) == 23
    assert (pool.directory / "index.json").read_bytes() == index


def test_pairs_are_few_and_connect_everybody():
    for n, limit in ((2, 1), (5, 4), (5, 7), (12, 11), (12, 30), (6, 100)):
        drawn = [draw_pairs(n, limit, np.random.default_rng(seed)) for seed in (1, 1, 2)]
        assert drawn[0] == drawn[1] and (drawn[0] != drawn[2] or limit >= n * (n - 1) / 2)
        for pairs in drawn:
            assert len(pairs) == len(set(pairs)) == min(limit, n * (n - 1) // 2)
            assert set(pairs) <= set(combinations(range(n), 2))
            reached = {0}
            for _ in range(n):
                reached |= {k for pair in pairs if reached & set(pair) for k in pair}
            assert reached == set(range(n))


def test_everyone_plays_from_both_ports_and_gets_its_own_results(pool, monkeypatch, capsys):
    recorded, record = [], Ratings.record
    monkeypatch.setattr(Ratings, "record", lambda self, *game: recorded.append(game) or record(self, *game))
    result = hold(pool, tournament_bots="idle,level5")
    left, right, stands = pool.ids()
    payoff = result["payoff"]
    assert {name: len(row) for name, row in payoff.items()} == dict.fromkeys([left, right, stands, "idle", "level5"], 4)
    for who in (left, right):
        assert payoff["level5"][who] == payoff[stands][who] == payoff["idle"][who] == [4, 0, 0]
    assert payoff["idle"][stands] == [0, 4, 0] and payoff["level5"]["idle"][0] >= 3
    ports = Counter((a, b) for a, b, _ in recorded)
    assert set(ports.values()) == {2} and len(ports) == 20                  # two games from either port, of ten pairs

    rows = {row["id"]: row for row in result["standings"]}
    assert [row["id"] for row in result["standings"]][0] == "level5"
    for name, (elo, low, high) in fit_elo(payoff).items():
        row = rows[name]
        assert (row["elo"], row["elo_low"], row["elo_high"]) == (elo, low, high) and low < elo < high
        assert [row["wins"], row["draws"], row["losses"]] == np.sum(list(payoff[name].values()), 0).tolist()
        assert row["games"] == 16
    picture = (pool.directory / "tournament.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 5000
    out = capsys.readouterr().out
    for row in rows.values():
        assert f"{row['elo']:.0f} [{row['elo_low']:.0f}, {row['elo_high']:.0f}]" in out
    assert not list(pool.directory.glob(".*.tmp")) and Pool(pool.directory).ids() == [left, right, stands]


def test_same_seed_same_tournament_and_a_bounded_sample_of_pairs(pool, tmp_path):
    for step in range(4, 7):
        pool.add(Policy("gru", (8,)), "main", step)
    results = [hold(pool, max_pairs=7, num_games=2, max_episode_frames=120, seed=seed) for seed in (1, 1, 2)]
    assert results[0] == results[1] and results[0]["payoff"] != results[2]["payoff"]
    assert sum(len(row) for row in results[0]["payoff"].values()) == 2 * 7 and len(results[0]["standings"]) == 6
    assert sum(row["games"] for row in results[0]["standings"]) == 2 * 7 * 2


def test_a_broken_checkpoint_stays_away(pool, capsys):
    pool.path(pool.ids()[1]).write_bytes(b"broken")
    result = hold(pool, num_games=2)
    assert {row["id"] for row in result["standings"]} == {pool.ids()[0], pool.ids()[2]}
    assert f"{pool.ids()[1]}.pt" in capsys.readouterr().err


def test_an_interrupted_tournament_prints_what_it_has_and_writes_nothing(pool, monkeypatch, capsys):
    games = play.play

    def interrupted(*arguments):
        for k, game in enumerate(games(*arguments)):
            if k == stop:
                raise KeyboardInterrupt
            yield game

    monkeypatch.setattr(play, "play", interrupted)
    for stop, message in ((5, "7 of 12 games did not end"), (0, "before the first game")):
        with pytest.raises(SystemExit) as exit:
            hold(pool)
        captured = capsys.readouterr()
        assert exit.value.code == 130 and message in captured.err and ("5 games" in captured.out) == (stop == 5)
    assert not list(pool.directory.glob("tournament*"))


def test_bad_input(pool, tmp_path):
    (tmp_path / "empty").mkdir()
    alone = Pool(tmp_path / "alone")
    alone.add(stubborn(0), "main", 1)
    for options, message in (
            ({"tournament": str(tmp_path / "nowhere")}, "no pool with checkpoints"),
            ({"tournament": str(tmp_path / "empty")}, "no pool with checkpoints"),
            ({"tournament": str(alone.directory)}, "1 entrants"), ({"num_games": 3}, "must be even"),
            ({"num_games": 0}, "--num-games 0"), ({"max_pairs": 1}, "connected by 2 pairs"),
            ({"tournament_bots": "idle,idle"}, "twice"), ({"tournament_bots": "cpu9"}, "unknown bot 'cpu9'"),
            ({"character": "nobody"}, "unknown character"), ({"stage": "moon"}, "unknown stage"),
            ({"policy": "x.pt"}, "--policy x.pt: means nothing"), ({"record": "r"}, "--record r: means nothing"),
            ({"num_games": 65536}, "at most 65536")):
        with pytest.raises(UserError, match=message):
            hold(pool, **options)
    assert not list(pool.directory.glob("tournament*")) and not (tmp_path / "nowhere").exists()
    assert not list((tmp_path / "empty").iterdir())
    with pytest.raises(UserError, match="--policy is missing"):
        play.main(Args())


def test_on_the_command_line(pool):
    flags = ["--tournament", pool.directory, "--tournament-bots", "attacker", "--max-pairs", 4, "--num-games", 2,
             "--max-episode-frames", 60, "--num-workers", 2]
    done = subprocess.run([sys.executable, "play.py", *map(str, flags)], cwd=ROOT, capture_output=True, text=True,
                          timeout=120)
    assert done.returncode == 0 and "4 entrants, 4 pairs, 8 games" in done.stdout, done.stderr

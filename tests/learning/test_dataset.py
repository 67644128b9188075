"""Games that stay on disk: packed without loss, observed as they are read, in an order that seed and number decide."""

import collections
import dataclasses
import json
import multiprocessing
import pickle
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from cleanmelee import dataset, replays as replays_room
from cleanmelee.cli import UserError
from cleanmelee.controller import encode_controllers, mirrored
from cleanmelee.dataset import Streams, Windows, open_games, permuted, prefetch
from cleanmelee.frame import FIRST_CONTROL_FRAME
from cleanmelee.observation import observe
from cleanmelee.packed import BLOCK, DamagedCache, PackedGame, Store, pack_game
from cleanmelee.recording import write_slp
from cleanmelee.replays import Replay, activity, load_replays, scan_replays
from cleanmelee.rewards import RewardArgs, compute_rewards
from helpers import games_of, load_all, made_up_game, upcoming, write_games


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    """No test reads or fills the user's cache of parsed replays."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def made_up_replay(seed, length=400, **meta):
    frames, controllers = made_up_game(seed, length)
    return Replay(frames, controllers, {"path": f"{seed}.slp", "hash": f"{seed:064x}", "characters": (1, 18),
                                        "incomplete": (), **meta})


# ---------------------------------------------------------------------------------------------------------------------
# Packed games
# ---------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("length", [1, 2, BLOCK, 3 * BLOCK + 7])
def test_a_packed_game_is_the_game(length):
    """Whatever is in it: here every byte of every field, but for the frame's number."""
    rng = np.random.default_rng(length)
    frames, controllers = made_up_game(1, length)
    for array, share in ((frames, .3), (controllers, .9)):
        raw = array.view(np.uint8).reshape(length, -1)
        columns = rng.random(raw.shape[1]) < share
        raw[:, columns] = rng.integers(256, size=(length, columns.sum()))
    frames["frame_id"] = np.arange(length) - 123
    content = pack_game(frames, controllers, (0, 1))
    for part in (content, memoryview(content)):
        game = PackedGame(part, "here")
        a, b = game.whole()
        assert (a.tobytes(), b.tobytes()) == (frames.tobytes(), controllers.tobytes())
        assert game.incomplete.tolist() == [0, 1]
        assert game.scores["frame"][0] == 0


def test_what_does_not_change_takes_no_room():
    frames, controllers = made_up_game(1, 2000)
    assert len(pack_game(frames, controllers)) < 45 * 2000                  # of 700 bytes a frame


def test_any_damage_is_found_and_the_shard_removed(tmp_path):
    content = pack_game(*made_up_game(1, 2 * BLOCK))
    rng = np.random.default_rng(1)
    shard, index = tmp_path / "x.games", tmp_path / "x.jsonl"
    for at in [*range(64), *rng.integers(len(content), size=200).tolist()]:
        damaged = bytearray(content)
        damaged[at] ^= 1 << rng.integers(8)
        shard.touch()
        index.touch()
        with pytest.raises(DamagedCache, match="x.games: a damaged cache of parsed replays, now removed; start again"):
            PackedGame(memoryview(damaged), str(shard)).whole()
        assert not shard.exists() and not index.exists()
    for size in (0, 7, 100, len(content) - 1):
        with pytest.raises(DamagedCache):
            PackedGame(content[:size], "here")
    with pytest.raises(DamagedCache):
        PackedGame(content + b"x", "here")


def test_shards_fill_up_and_are_found_again(tmp_path, monkeypatch):
    monkeypatch.setattr("cleanmelee.packed.SHARD_BYTES", 30_000)
    games = [made_up_game(seed) for seed in range(8)]
    store = Store(tmp_path / "cache", "parser")
    for k, game in enumerate(games):
        meta = {"hash": f"{k}", "version": (3, 18, 0), "frames": 400}
        store.add_game(f"/{k}.slp", (1, 2, 3), meta, {"first_frame": -123}, pack_game(*game))
    store.add("/bad.slp", (1, 2, 3), reason="no frames", min_version=(3, 8, 0))
    store.seal()
    assert 2 < len(list((tmp_path / "cache").glob("parser-*.games"))) < 8
    for again in (store, Store(tmp_path / "cache", "parser")):
        for k, game in enumerate(games):
            entry = again.find(f"/{k}.slp", (1, 2, 3), (3, 8, 0))
            assert entry.open().whole()[0].tobytes() == game[0].tobytes() and Path(entry.source).is_file()
            assert again.find(f"/{k}.slp", (1, 2, 4), (3, 8, 0)) is None    # the file has changed since
            assert again.find(f"/{k}.slp", (1, 2, 3), (3, 19, 0)) is None
        assert again.find("/bad.slp", (1, 2, 3), (3, 8, 0)) == "no frames"
        assert again.find("/bad.slp", (1, 2, 3), (2, 0, 0)) is None         # it may do for somebody who asks less
        assert len(again.knows((3, 8, 0))) == 8 and not again.knows((3, 19, 0))
    assert not Store(tmp_path / "cache", "another").knows((3, 8, 0))


def test_an_index_takes_little_memory_and_is_checked_when_it_is_read(tmp_path):
    """Per game two strings and a few numbers, whatever its line holds."""
    store, n = Store(tmp_path / "cache", "parser"), 2000
    for k in range(n):
        meta = {"hash": f"{k:064d}", "version": (3, 18, 0), "frames": 400, "names": ["x" * 2000] * 2}
        store.add_game(f"/{k}.slp", (1, 2, 3), meta, {}, b"a game")
    store.seal()
    assert store.find("/7.slp", None, (3, 8, 0)).meta["names"] == ("x" * 2000,) * 2 and not store._lines
    del store
    index, = (tmp_path / "cache").glob("*.jsonl")
    tracemalloc.start()
    store = Store(tmp_path / "cache", "parser")
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held / n < 800 and store.find("/9.slp", None, (3, 8, 0)).at == 9 * len(b"a game")
    whole = index.read_bytes()
    for damage in (lambda: index.write_bytes(whole.replace(b"x", b"y")), index.unlink):
        index.write_bytes(whole)
        index.with_suffix(".games").write_bytes(n * b"a game")
        store = Store(tmp_path / "cache", "parser")
        damage()
        with pytest.raises(DamagedCache, match="a damaged cache of parsed replays, now removed; start again"):
            store.find("/9.slp", None, (3, 8, 0))


def test_a_replay_that_was_moved_or_touched_is_not_parsed_again(tmp_path, monkeypatch):
    folder = Path(write_games(tmp_path / "games", 3))
    (folder / "bad.slp").write_bytes((folder / "game_0.slp").read_bytes()[:-300])
    parsed = []
    read = replays_room.read_replay
    monkeypatch.setattr(replays_room, "read_replay", lambda path, **kw: parsed.append(path.name) or read(path, **kw))

    def scan():
        parsed.clear()
        summary = {}
        found = [path.name for path, _ in scan_replays(folder, num_workers=0, progress=False, summary=summary)]
        return found, sorted(parsed), summary["cached"]

    names = ["game_0.slp", "game_1.slp", "game_2.slp"]
    assert scan() == (names, ["bad.slp", *names], 0)
    assert scan() == (names, [], 3)
    (folder / "game_0.slp").rename(folder / "game_3.slp")
    (folder / "game_1.slp").touch()
    assert scan() == (["game_1.slp", "game_2.slp", "game_3.slp"], [], 3)
    shutil.copy(folder / "game_2.slp", folder / "bad.slp")                  # what was bad is another file now
    assert scan() == (["bad.slp", "game_1.slp", "game_3.slp"], [], 3)       # the same file as game_2
    write_slp(folder / "game_1.slp", *made_up_game(9), seed=9, started=0)
    assert scan()[1] == ["game_1.slp"]
    (folder / "game_1.slp").unlink()
    (folder / "game_1.slp").symlink_to("nowhere")                           # what it held is known, but it is gone
    assert scan() == (["bad.slp", "game_3.slp"], [], 2)


# ---------------------------------------------------------------------------------------------------------------------
# Rows
# ---------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("delay", [0, 3])
def test_windows_are_what_was_seen_done_and_under_way(delay):
    """Against the definition, frame by frame: any window, from either side, over the end of a game."""
    replays = [made_up_replay(0), made_up_replay(1, 150, incomplete=(90,))]
    games = games_of(replays, gamma=.9, delay=delay)
    sides, begins = np.array([0, 3, 1, 2]), np.array([70, 80, 300, 100])
    rows = games.read(sides, begins, 100)
    for b, (side, begin) in enumerate(zip(sides.tolist(), begins.tolist(), strict=True)):
        replay, player = replays[side // 2], side % 2
        frames, controllers = replay.frames, replay.controllers
        whole = slice(len(frames) - 1 - delay)
        obs = observe(frames[whole], controllers[whole], upcoming(controllers, delay))
        mirror = mirrored(frames)[:, player]
        rewards = compute_rewards(frames[:-1], frames[1:], RewardArgs(reward_fall=0))[:, player]
        for t in range(100):
            at = begin + t
            if at >= len(frames) - 1 - delay:
                assert rows.weights[t, b] == 0
                continue

            def encoded(k):
                return encode_controllers(controllers[k, player], mirror[at]).tolist()

            np.testing.assert_array_equal(rows.obs.floats[t, b], obs.floats[at, player])
            np.testing.assert_array_equal(rows.obs.ints[t, b], obs.ints[at, player])
            assert rows.actions[t, b].tolist() == encoded(at + 1 + delay)
            assert bool(rows.changed[t, b]) == (encoded(at + 1 + delay) != encoded(at + delay))
            control = frames["frame_id"][at + 1 + delay] >= FIRST_CONTROL_FRAME
            complete = not any(at <= t <= at + 1 + delay for t in replay.meta["incomplete"])
            assert rows.weights[t, b] == (control and complete)
            expected = (rewards[at:] * .9 ** np.arange(len(rewards) - at)).sum()
            assert rows.returns[t, b] == pytest.approx(expected, abs=1e-5)
    assert 0 < (rows.weights == 0).sum() < 200


def test_in_order_is_every_row_once():
    replays = [made_up_replay(k, n) for k, n in enumerate((300, 70, 257, 3))]
    games = games_of(replays)
    whole = load_all(games)
    seen = collections.defaultdict(list)
    for sides, rows, first in games.in_order(lanes=3, size=64):
        for b, side in enumerate(sides.tolist()):
            assert first == (not seen[side])
            seen[side].append(rows.obs.floats[:, b])
    for side, parts in seen.items():
        a, b = whole.starts[side:side + 2]
        assert torch.equal(torch.cat(parts)[:b - a], whole.obs.floats[a:b])
    assert len(seen) == 8 and int(whole.weights.sum()) == sum(
        float(rows.weights.sum()) for _, rows, _ in games.in_order())


def test_memory_is_given_back(monkeypatch, tmp_path):
    """What was mapped is let go after a while, and read again where it is needed."""
    games, _, _ = open_games(write_games(tmp_path / "games", 3), num_workers=0)
    first = games.read(np.array([0, 1]), np.array([5, 6]), 50)
    assert games._maps
    monkeypatch.setattr(dataset, "RELEASE_BYTES", 0)
    again = games.read(np.array([0, 1]), np.array([5, 6]), 50)
    assert not games._maps and torch.equal(first.obs.floats, again.obs.floats)
    games.read(np.array([0]), np.array([0]), 10)
    assert not pickle.loads(pickle.dumps(games))._maps                      # another process maps for itself


def test_a_shard_that_breaks_under_a_run_is_told(tmp_path):
    folder = write_games(tmp_path / "games", 3)
    games, held_out, _ = open_games(folder, num_workers=0)
    shard, = Path(tmp_path / "cache").rglob("*.games")
    data = bytearray(shard.read_bytes())
    for at in range(100, len(data), 997):
        data[at] ^= 255
    shard.unlink()                                                          # not in place: it is mapped
    shard.write_bytes(data)
    with pytest.raises(UserError, match=f"^{shard}: a damaged cache of parsed replays, now removed; start again"):
        load_all(open_games(folder, num_workers=0)[0])
    assert torch.isfinite(load_all(open_games(folder, num_workers=0)[0]).obs.floats).all()      # it is


# ---------------------------------------------------------------------------------------------------------------------
# Order
# ---------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("count", [1, 2, 3, 64, 1000, 65_537])
def test_permuted_is_a_permutation_that_depends_on_the_seed(count):
    a, b, c = (permuted(np.arange(count), count, seed) for seed in ((1, 2), (1, 2), (1, 3)))
    np.testing.assert_array_equal(np.sort(a), np.arange(count))
    np.testing.assert_array_equal(a, b)
    some = np.array([count - 1, 0, count // 2])
    np.testing.assert_array_equal(permuted(some, count, (1, 2)), a[some])
    if count >= 1000:
        assert (a == c).mean() < .01
        assert abs(np.corrcoef(a, np.arange(count))[0, 1]) < .1 and abs(np.corrcoef(a[1:], a[:-1])[0, 1]) < .1
        assert 0 <= permuted(np.arange(5), 10 ** 15, (1,)).min() <= permuted(np.arange(5), 10 ** 15, (1,)).max() < 1e15


def test_an_epoch_is_every_window_once():
    lengths = (300, 70, 257, 20, 21)
    replays = [made_up_replay(k, n) for k, n in enumerate(lengths)]
    games = games_of(replays)
    windows = Windows(games, size=20, stride=20, batch_size=7, seed=1)
    cuts = []
    for epoch in (1, 2, 1):
        chosen = [windows.choose(epoch, k) for k in range(windows.num_batches(epoch))]
        assert all(len(sides) == 7 for sides, _ in chosen[:-1]) and 0 < len(chosen[-1][0]) <= 7
        rows = [(side, begin + t) for sides, begins in chosen
                for side, begin in zip(sides.tolist(), begins.tolist(), strict=True) for t in range(20)]
        assert len(rows) == len(set(rows)) and all(row < games.rows[side] for side, row in rows)
        missed = games.rows - np.bincount([side for side, _ in rows], minlength=10)
        assert (missed[[6, 7]] == 19).all() and (missed[[0, 1, 2, 3, 4, 5, 8, 9]] < 39).all()      # 19 rows: too short
        cuts.append(rows)
    assert cuts[0] == cuts[2] != cuts[1] and len(chosen) <= windows.most_batches()
    assert list(windows.schedule(2, done=3)) == list(windows.schedule(2))[3:]
    other = Windows(games, size=20, stride=20, batch_size=7, seed=2)
    assert not np.array_equal(other.choose(1, 0)[0], windows.choose(1, 0)[0])


def test_batches_mix_games():
    replays = [made_up_replay(k, 200) for k in range(40)]
    games = games_of(replays)
    windows = Windows(games, size=20, stride=20, batch_size=32, seed=1)
    distinct = [len(set(games.sides[windows.choose(1, k)[0], 0].tolist())) for k in range(10)]
    assert min(distinct) > 15 and np.mean(distinct) > 20                    # of 40; 22 are expected of a fair draw


def test_streams_go_through_whole_games():
    """Each lane from a game's first row to its last, then from the first of another; every side comes equally often."""
    replays = [made_up_replay(seed, length) for seed, length in enumerate((100, 230, 61, 400, 2))]
    games = games_of(replays)
    streams = Streams(games, 20, 3, seed=1)
    batches = streams.num_batches(1)
    assert batches == streams.most_batches() == -(-2 * (5 + 12 + 3 + 20 + 1) // 3)
    keys = list(streams.schedule(12))
    chosen = [streams.choose(*key) for key in keys]
    whole = collections.Counter()
    for lane in range(3):
        side, begin = ([int(pair[k][lane]) for pair in chosen] for k in (0, 1))
        for k in range(1, len(keys)):
            goes_on = begin[k - 1] + 20 < games.rows[side[k - 1]]
            assert (side[k], begin[k]) == (side[k - 1], begin[k - 1] + 20) if goes_on else begin[k] == 0
            whole[side[k]] += begin[k] == 0
    assert set(whole) == set(range(10)) and max(whole.values()) - min(whole.values()) <= 2
    assert chosen[0][1].any()                                               # not all lanes at their games' begins
    assert all((a == b).all() for key, pair in zip(keys[::-7], chosen[::-7], strict=True)
               for a, b in zip(streams.choose(*key), pair, strict=True))    # a function of the key alone

    first, second = streams[1, 0], streams[1, 1]
    assert first.resets[0].all() and not first.resets[1:].any()
    assert torch.equal(second.resets[0], torch.from_numpy(chosen[1][1] == 0)) and not second.resets[1:].any()
    for lane, (side, begin) in enumerate(zip(*chosen[1], strict=True)):
        alone = games.read(np.array([side]), np.array([begin]), 20)
        assert torch.equal(alone.actions[:, 0], second.actions[:, lane])


@pytest.mark.parametrize("workers", [0, 2])
def test_prefetch_makes_the_batches_in_order(workers):
    replays = [made_up_replay(k, 100) for k in range(4)]
    windows = Windows(games_of(replays), size=20, stride=20, batch_size=5, seed=1)
    keys = list(windows.schedule(2))
    before = torch.get_rng_state()
    made = list(prefetch(windows, keys, workers))
    assert torch.equal(torch.get_rng_state(), before)                       # the learner's noise is its own
    assert len(made) == len(keys) > 10
    for rows, key in zip(made, keys, strict=True):
        for a, b in zip((*rows.obs, *rows[1:]), (*windows[key].obs, *windows[key][1:]), strict=True):
            assert torch.equal(a, b)
    with_early_end = prefetch(windows, keys, workers)
    next(with_early_end)
    with_early_end.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_mistake_while_a_batch_is_made_reaches_the_learner(workers):
    replays = [made_up_replay(k, 100) for k in range(2)]
    games = games_of(replays)
    games.sources[0] = b"no packed game"
    windows = Windows(games, size=20, stride=20, batch_size=50, seed=1)
    with pytest.raises(UserError, match="damaged cache") as kept:              # with its traceback and all its frames
        list(prefetch(windows, windows.schedule(1), workers))
    assert kept.tb and not multiprocessing.active_children()                # who is left would be waited for at exit


# ---------------------------------------------------------------------------------------------------------------------
# Which games
# ---------------------------------------------------------------------------------------------------------------------

def test_filters(tmp_path):
    folder = tmp_path / "games"
    folder.mkdir()
    for seed, length in enumerate((400, 300, 200, 400)):
        write_slp(folder / f"{seed}.slp", *made_up_game(seed, length), seed=seed, started=0,
                  names=("Ann", "bob" if seed % 2 else "Cleo"))

    def sides(**options):
        train, held_out, about = open_games(str(folder), num_workers=0, **options)
        return sorted((Path(games.paths[game]).stem, player)
                      for games in (train, held_out) for game, player in games.sides[:, :2].tolist())

    everybody = [(f"{game}", player) for game in range(4) for player in (0, 1)]
    assert sides() == everybody
    assert sides(tag="ANN") == sides(character="fox") == sides(player_port=1) == everybody[::2]
    assert sides(tag="Bob") == [("1", 1), ("3", 1)]
    assert sides(tag="bob", player_port=1) == []
    assert sides(min_frames=250) == [side for side in everybody if side[0] in "03"]
    assert sides(max_files=1) == everybody[:2]
    assert sides(delay=250) == [side for side in everybody if side[0] in "03"]      # what is left must be long enough


def test_one_online_game_is_read_once(tmp_path, monkeypatch):
    folder = write_games(tmp_path / "games", 3)
    read = replays_room.read_replay

    def same_match(path, **options):
        replay = read(path, **options)
        return dataclasses.replace(replay, meta=replay.meta | {"game": f"{int(path.stem == 'game_2'):064x}"})

    monkeypatch.setattr(replays_room, "read_replay", same_match)
    train, held_out, about = open_games(folder, num_workers=0)
    assert sorted(Path(path).stem for path in train.paths + held_out.paths) == ["game_0", "game_2"]
    assert "the same game as" in about["skipped"][0][1]
    assert len(load_replays(folder, num_workers=0)[0]) == 3


def test_activity():
    _, controllers = made_up_game(0)
    still = controllers.copy()
    still[:, 1] = still[0, 1]
    assert activity(still)[1] == 0 < activity(still)[0] < .5


def test_a_batch_may_have_no_window_for_a_rank(tmp_path):
    games = open_games(write_games(tmp_path / "games", 2), num_workers=0, held_out=1)[1]
    rows = games.read(np.zeros(0, int), np.zeros(0, int), 20)
    assert rows.actions.shape[:2] == rows.weights.shape == (20, 0) and rows.obs.floats.shape[:2] == (20, 0)


def test_a_manifest_keeps_the_split(tmp_path):
    folder = write_games(tmp_path / "games", 6)
    train, held_out, _ = open_games(folder, num_workers=0, held_out=.4)
    dataset.write_manifest(tmp_path / "split.json", train, held_out)
    write_slp(tmp_path / "games" / "new.slp", *made_up_game(7), seed=7, started=0)
    again = open_games(folder, num_workers=0, held_out=.9, manifest="split.json")
    assert [games.paths for games in again[:2]] == [train.paths, held_out.paths]
    relative = {side: {Path(path).name: key for path, key in files.items()}
                for side, files in json.loads(Path("split.json").read_text()).items()}
    Path("relative.json").write_text(json.dumps(relative))
    assert open_games(folder, num_workers=0, manifest="relative.json")[0].paths == train.paths

    for change, said in (
            (lambda split: split["train"].update(gone="x"), "relative.json: 1 of its 7 replays are missing, the first: "
                                                            f"{folder}/gone; put them back"),
            (lambda split: split["train"].update({next(iter(split["train"])): "0"}), "is not the replay that it names"),
            (lambda split: split["train"].update(split["held_out"]), "both in train and in"),
            (lambda split: split["train"].update(other=next(iter(split["held_out"].values()))), "both in train and in"),
            (lambda split: split.pop("train"), "relative.json: no manifest"),
            (lambda split: split["train"].update(a=3), "relative.json: no manifest"),
            (lambda split: (split["train"].clear(), split["held_out"].clear()), "it names none")):
        split = json.loads(json.dumps(relative))
        change(split)
        Path("relative.json").write_text(json.dumps(split))
        with pytest.raises(UserError, match=said) as error:
            open_games(folder, num_workers=0, manifest="relative.json")
        assert "\n" not in str(error.value)
    Path("relative.json").write_text("[")
    with pytest.raises(UserError, match="relative.json: damaged"):
        open_games(folder, num_workers=0, manifest="relative.json")
    with pytest.raises(UserError, match="nowhere.json: no such file"):
        open_games(folder, num_workers=0, manifest="nowhere.json")

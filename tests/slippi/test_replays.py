"""Replays: .slp in, .slp out, folders of them, and the same game seen live.

Every file is written by the tests themselves; the last tests read real games if a folder of them lies beside the
repository. What is right is what peppi-py, libmelee and slippi-js say, not what our own reader says of our own writer.
"""

import contextlib
import errno
import functools
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import cleanmelee.replays as replays_room
from cleanmelee import packed
from cleanmelee.cli import UserError
from cleanmelee.dataset import is_held_out
from cleanmelee.dolphin import controllers_from_gamestate
from cleanmelee.events import EVENTS_AT, METADATA, SLP_HEAD, ReplayError, finished_slp
from cleanmelee.files import atomic_write
from cleanmelee.frame import CONTROLLER, FRAME, outcomes
from cleanmelee.game.stored import follow
from cleanmelee.libmelee import zero_indexed_actions
from cleanmelee.recording import SlpWriter, finish_recordings, write_slp
from cleanmelee.replays import Replay, controlled, load_replays, read_replay
from helpers import PARSERS, assert_read_alike, pack, play_through_libmelee

REAL = Path(__file__).resolve().parents[3] / "shared" / "replays"
CASES = REAL.parent / "cases"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="no real replays on this machine")

FOX, POPO, NANA, SHEIK, MARTH, ZELDA = 1, 10, 11, 7, 18, 19


# ---------------------------------------------------------------------------------------------------------------------
# Made-up games
# ---------------------------------------------------------------------------------------------------------------------


def make_players(rng, shape, character, port):
    """Random values within what the game can produce."""
    players = np.zeros(shape, FRAME["players"].base)
    for name, low, high in (("x", -200, 200), ("y", -100, 180), ("self_vx_air", -3, 3), ("self_vy", -4, 4),
                            ("self_vx_ground", -3, 3), ("kb_vx", -6, 6), ("kb_vy", -6, 6), ("percent", 0, 300),
                            ("shield", 0, 60), ("state_age", -1, 90)):
        players[name] = rng.uniform(low, high, shape)
    for name, high in (("action", 341), ("stocks", 4), ("jumps", 3), ("airborne", 2), ("in_hitstun", 2),
                       ("fastfall", 2), ("hurtbox", 3), ("l_cancel", 3), ("last_attack", 60), ("last_hit_by", 7),
                       ("combo", 20)):
        players[name] = rng.integers(0, high, shape)
    players["stocks"] += 1
    players["ground"] = rng.integers(-1, 30, shape)
    players["hitlag"] = rng.integers(0, 15, shape)
    players["hitstun"] = rng.integers(1, 60, shape) * players["in_hitstun"]
    players["facing"] = rng.choice([-1, 1], shape)
    players["character"], players["port"], players["present"] = character, port, 1
    zero_index = zero_indexed_actions()[players["character"], players["action"]]
    players["action_frame"] = players["state_age"].astype(np.int16) + zero_index
    return players


def make_game(length=150, seed=0, stage=31, characters=(FOX, MARTH), ports=(0, 1), first=-123):
    """(frames [T] FRAME, controllers [T, 2] CONTROLLER) with all that Slippi stores set to something."""
    rng = np.random.default_rng(seed)
    frames, controllers = np.zeros(length, FRAME), np.zeros((length, 2), CONTROLLER)
    frames["frame_id"], frames["stage"] = np.arange(first, first + length), stage
    for i in range(2):
        frames["players"][:, i] = make_players(rng, length, characters[i], ports[i])
        if characters[i] == POPO:
            frames["nanas"][: length // 2, i] = make_players(rng, length // 2, NANA, ports[i])  # dies half-way
    if characters[1] == ZELDA:
        frames["players"]["character"][length // 2:, 1] = SHEIK  # transforms
        zero_index = zero_indexed_actions()[frames["players"]["character"], frames["players"]["action"]]
        frames["players"]["action_frame"] = frames["players"]["state_age"].astype(np.int16) + zero_index
    for t in range(length):
        items = frames["items"][t, : rng.integers(0, 9)]  # packed from slot 0
        for name, low, high in (("x", -200, 200), ("y", -100, 180), ("vx", -5, 5), ("vy", -5, 5), ("timer", 0, 1400)):
            items[name] = rng.uniform(low, high, len(items))
        items["facing"], items["present"] = rng.choice([-1, 1], len(items)), 1
        items["type"] = rng.choice([54, 74, 94, 95, 99, 112, 210], len(items))
        items["state"] = rng.integers(0, 5, len(items))
        items["owner"], items["damage"] = rng.integers(-1, 2, len(items)), rng.integers(0, 30, len(items))
        items["charge"] = np.where(np.isin(items["type"], [94, 95, 99, 112]), rng.integers(0, 8, len(items)), 0)
    if stage == 2:
        frames["platform_left"], frames["platform_right"] = rng.uniform(15, 35, (2, length))
        frames["platform_left"][: length // 2] = 20  # as long as no platform moves there is no event
    if stage == 28:
        frames["wind"] = np.repeat(rng.integers(0, 3, length), 20)[:length]
    if stage == 3:
        frames["transformation"] = np.repeat(rng.choice([0, 3, 4, 6, 9], length), 30)[:length]
    for name in ("main_x", "main_y", "c_x", "c_y"):
        controllers[name] = (rng.integers(-80, 81, (length, 2)) / 80).astype(np.float32)
    trigger, side = rng.integers(0, 141, (length, 2)) / 140, rng.integers(0, 2, (length, 2))
    controllers["l"], controllers["r"] = trigger * (side == 0), trigger * (side == 1)
    controllers["buttons"] = rng.integers(0, 0x2000, (length, 2)) & 0x1F7F
    follow(frames)                                                          # what Slippi lets one know besides
    return frames, controllers


def same(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def raw_events(path):
    """The events of a .slp that we wrote: [(command, bytes)]. The file's own size table says where each one ends."""
    data = Path(path).read_bytes()
    at, end = 15, 15 + struct.unpack_from(">i", data, 11)[0]
    sizes = {0x35: data[at + 1] + 1}
    for command, size in struct.iter_unpack(">BH", data[at + 2: at + 1 + data[at + 1]]):
        sizes[command] = size + 1
    events = []
    while at < end:
        events.append((data[at], data[at: at + sizes[data[at]]]))
        at += sizes[data[at]]
    return events


def rewrite(path, events):
    """Put `events` into the .slp file in place of its own."""
    data = Path(path).read_bytes()
    old, body = struct.unpack_from(">i", data, 11)[0], b"".join(event for _, event in events)
    Path(path).write_bytes(data[:11] + struct.pack(">i", len(body)) + body + data[15 + old:])


def with_version(path, version):
    events = raw_events(path)
    index = [command for command, _ in events].index(0x36)
    events[index] = 0x36, events[index][1][:1] + bytes(version) + events[index][1][4:]
    rewrite(path, events)


# ---------------------------------------------------------------------------------------------------------------------
# Write, read
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage, characters, ports", [
    (31, (FOX, MARTH), (0, 1)), (2, (FOX, FOX), (1, 3)), (28, (POPO, FOX), (0, 2)), (3, (MARTH, ZELDA), (2, 3)),
])
def test_round_trip(tmp_path, stage, characters, ports):
    frames, controllers = make_game(200, 1, stage, characters, ports)
    write_slp(tmp_path / "game.slp", frames, controllers, names=("Ann", "Bob"), codes=("ANN#1", "BOB#22"), seed=7)
    replay = read_replay(tmp_path / "game.slp")
    assert same(replay.frames, frames) and same(replay.controllers, controllers)
    meta = replay.meta
    assert meta["characters"] == characters and meta["ports"] == ports and meta["stage"] == stage
    assert meta["names"] == ("Ann", "Bob") and meta["codes"] == ("ANN#1", "BOB#22") and meta["tags"] == ("", "")
    assert meta["version"] == (3, 18, 0) and meta["frames"] == 200 and meta["seed"] == 7
    assert meta["types"] == ("Human", "Human") and meta["end"] == "NoContest" and meta["winner"] is None
    assert os.listdir(tmp_path) == ["game.slp"]


def test_every_character(tmp_path):
    for character in set(range(27)) - {NANA}:
        frames, controllers = make_game(30, character, characters=(character, FOX))
        write_slp(tmp_path / "game.slp", frames, controllers)
        replay = read_replay(tmp_path / "game.slp")
        assert same(replay.frames, frames) and replay.meta["characters"][0] == character


def test_growing_in_pieces_and_padding(tmp_path):
    frames, controllers = make_game(100, 2, stage=2, first=-60)
    with SlpWriter(tmp_path / "game.slp") as writer:
        for t in range(10):
            writer.add(frames[t], controllers[t])
        writer.add(frames[10:], controllers[10:])
        assert not (tmp_path / "game.slp").exists()
    replay = read_replay(tmp_path / "game.slp")
    assert replay.frames["frame_id"][0] == -123 and len(replay) == 163
    assert same(replay.frames[63:], frames) and same(replay.controllers[63:], controllers)
    assert (replay.frames["players"][:63] == frames["players"][0]).all()
    assert not replay.controllers[:63]["buttons"].any()
    play = controlled(replay)
    assert play.frames["frame_id"][0] == -39 and len(play) == len(play.controllers) == 79


def test_writer_says_what_is_wrong(tmp_path):
    frames, controllers = make_game(20)
    with pytest.raises(ValueError, match="got -110 instead of -113"):
        write_slp(tmp_path / "a.slp", np.delete(frames, range(10, 13)), controllers[3:])
    with pytest.raises(ValueError, match="20 frames but controllers for 19"):
        write_slp(tmp_path / "a.slp", frames, controllers[1:])
    with pytest.raises(ValueError, match="no frames"):
        write_slp(tmp_path / "a.slp", frames[:0], controllers[:0])
    with pytest.raises(ValueError, match="lower one"):
        write_slp(tmp_path / "a.slp", *make_game(20, ports=(1, 0)))
    with pytest.raises(ValueError, match="a game begins before frame -39, not at -39"):
        write_slp(tmp_path / "a.slp", *make_game(20, first=-39))
    assert not os.listdir(tmp_path)  # neither a file nor the rest of one


@pytest.mark.parametrize("stocks, percent, last_id, end, winner", [
    ((2, 0), (50, 0), -24, "Game", 0), ((0, 1), (0, 90), -24, "Game", 1), ((2, 2), (50, 40), 28800, "Time", 1),
    ((4, 1), (0, 0), -24, "NoContest", None),
])
def test_winner(tmp_path, stocks, percent, last_id, end, winner):
    frames, controllers = make_game(100)
    frames["players"][-1]["stocks"], frames["players"][-1]["percent"] = stocks, percent
    if last_id > 0:  # a long quiet game
        frames = np.concatenate([np.repeat(frames[:1], last_id + 123), frames[-1:]])
        frames["frame_id"], frames["items"] = np.arange(-123, last_id + 1), 0
        controllers = np.zeros((len(frames), 2), CONTROLLER)
    write_slp(tmp_path / "game.slp", frames, controllers)
    meta = read_replay(tmp_path / "game.slp").meta
    assert (meta["end"], meta["winner"], meta["lras"]) == (end, winner, None)


@pytest.mark.parametrize("stocks, percent, winner", [
    ((2, 2), (40, 40), None), ((2, 2), (50.9, 50.1), None), ((2, 2), (50.9, 51), 0), ((1, 2), (9, 50), 1),
])
def test_when_the_time_is_up_whole_percents_count(tmp_path, stocks, percent, winner):
    """As in Melee, for every reader of a result: 50.9 % and 50.1 % are a tie."""
    frames, controllers = make_game(100)
    frames["players"][-1]["stocks"], frames["players"][-1]["percent"] = stocks, percent
    writer = SlpWriter(tmp_path / "game.slp")
    writer.add(frames, controllers)
    writer.close(end="Time")
    assert read_replay(tmp_path / "game.slp").meta["winner"] == winner
    assert outcomes(frames[-1:])[0] == {0: 1, 1: -1, None: 0}[winner]
    assert raw_events(tmp_path / "game.slp")[-1][1][3:5] == {0: b"\0\1", 1: b"\1\0", None: b"\0\0"}[winner]


def test_who_quit(tmp_path):
    frames, controllers = make_game(100, ports=(1, 3))
    writer = SlpWriter(tmp_path / "game.slp")
    writer.add(frames, controllers)
    writer.close(end="NoContest", lras=1)
    meta = read_replay(tmp_path / "game.slp").meta
    assert (meta["end"], meta["lras"], meta["winner"]) == ("NoContest", 1, None)


def test_alignment_as_peppi_reads_it(tmp_path):
    """pre[t] tells where post[t-1] left the player, and carries the input that leads to post[t]."""
    import peppi_py

    frames, controllers = make_game(120)
    write_slp(tmp_path / "game.slp", frames, controllers)
    game = peppi_py.read_slippi(str(tmp_path / "game.slp"))
    assert game.frames.id.to_numpy().tolist() == frames["frame_id"].tolist()
    for i in range(2):
        pre, post = game.frames.ports[i].leader.pre, game.frames.ports[i].leader.post
        assert (pre.position.x.to_numpy()[1:] == post.position.x.to_numpy()[:-1]).all()
        assert (pre.position.y.to_numpy()[1:] == post.position.y.to_numpy()[:-1]).all()
        assert (post.position.x.to_numpy() == frames["players"]["x"][:, i]).all()
        assert (pre.joystick.x.to_numpy() == controllers["main_x"][:, i]).all()
        assert (pre.buttons_physical.to_numpy() == controllers["buttons"][:, i]).all()
        assert (pre.raw_analog_x.to_numpy() == np.rint(controllers["main_x"][:, i] * 80)).all()
        assert (pre.triggers.to_numpy() == np.maximum(controllers["l"], controllers["r"])[:, i]).all()


@pytest.mark.parametrize("parser", PARSERS)
def test_a_growing_file_is_whole_after_every_frame(tmp_path, parser):
    frames, controllers = make_game(120)
    writer = SlpWriter(tmp_path / "game.slp")
    for start, stop in ((0, 1), (1, 2), (2, 119), (119, 120)):
        writer.add(frames[start:stop], controllers[start:stop])
        assert_read_alike(writer.part, frames[:stop], [parser])
        assert read_replay(writer.part).meta["end"] is None
    writer.close()
    assert_read_alike(tmp_path / "game.slp", frames, [parser])


def test_what_a_kill_leaves_behind_is_finished(tmp_path):
    frames, controllers = make_game(100)
    dead, alive = (SlpWriter(tmp_path / name, names=("Ann", "Bob")) for name in ("dead.slp", "alive.slp"))
    for writer in (dead, alive):
        writer.add(frames, controllers)
    dead.file.close()                                                       # as the system does when it kills a process
    (tmp_path / "taken.slp.part").write_bytes(dead.part.read_bytes())
    (tmp_path / "taken.slp").write_bytes(b"somebody's")
    (tmp_path / "empty.slp.part").write_bytes(b"{U")
    with pytest.raises(UserError, match=r"alive\.slp\.part: another process"):
        SlpWriter(tmp_path / "alive.slp")
    assert finish_recordings(tmp_path) == [(tmp_path / "dead.slp", -24)] and finish_recordings(tmp_path) == []
    assert sorted(os.listdir(tmp_path)) == ["alive.slp.part", "dead.slp", "taken.slp", "taken.slp.part"]
    replay = read_replay(tmp_path / "dead.slp")
    assert same(replay.frames, frames) and same(replay.controllers, controllers)
    assert (replay.meta["names"], replay.meta["end"], replay.meta["winner"]) == (("Ann", "Bob"), None, None)
    alive.close()
    assert same(read_replay(tmp_path / "alive.slp").frames, frames)


def test_a_kill_between_any_two_bytes_costs_at_most_that_frame(tmp_path):
    """The states of a file while a frame is added: new bytes over the old end, up to the k-th, then the new length."""
    frames, controllers = make_game(20)
    writer = SlpWriter(tmp_path / "game.slp", names=("Ann", "Bob"))
    writer.add(frames[:19], controllers[:19])
    before = writer.part.read_bytes()
    writer.add(frames[19:], controllers[19:])
    after = writer.part.read_bytes()
    at = EVENTS_AT + int.from_bytes(before[11:15], "big")
    frame_size = int.from_bytes(after[11:15], "big") - int.from_bytes(before[11:15], "big")
    for k in range(len(after) - at + 1):
        torn = after[:11] + before[11:15] + after[15:at + k] + before[at + k:]
        whole, last = finished_slp(torn)
        assert last == (-104 if k >= frame_size else -105)
        assert whole[11:15] == (after if k >= frame_size else before)[11:15]
        if k % 97 == 0 or k == len(after) - at:
            (tmp_path / "torn.slp").write_bytes(torn)
            replay = read_replay(tmp_path / "torn.slp")
            assert same(replay.frames, frames[:last + 124])
            if k == 97:
                assert replay.meta["warning"] == "what it says of its length is wrong; read up to frame -105"
    assert whole == after
    writer.abort()


def test_a_game_that_slippi_has_not_finished_is_refused(tmp_path):
    """No length, no metadata, and perhaps half an event at the end: still being written, or its Dolphin died."""
    frames, controllers = make_game(50)
    write_slp(tmp_path / "game.slp", frames, controllers)
    events = b"".join(event for command, event in raw_events(tmp_path / "game.slp") if command != 0x39)
    for rest in (events, events[:-5], events[:-2000], b"", events[:1], events[:2], events[:700]):
        (tmp_path / "live.slp").write_bytes(SLP_HEAD + bytes(4) + rest)
        with pytest.raises(ReplayError, match="live.slp: "):
            read_replay(tmp_path / "live.slp")


def test_slippi_js_reads_it(tmp_path):
    script = """
        const { SlippiGame } = require("@slippi/slippi-js/node");
        const game = new SlippiGame(process.argv[1]), frames = game.getFrames(), ids = Object.keys(frames).map(Number);
        console.log(JSON.stringify([Math.min(...ids), ids.length, frames[-30].players[1].post.positionX,
            game.getSettings().players.map(p => [p.characterId, p.displayName, p.connectCode]),
            game.getMetadata().lastFrame, game.getWinners().map(w => w.playerIndex), frames[-30].items.length]));"""
    node = functools.partial(subprocess.run, capture_output=True, text=True, timeout=60)
    if shutil.which("node") is None or node(["node", "-e", 'require("@slippi/slippi-js/node")']).returncode != 0:
        pytest.skip("needs node and @slippi/slippi-js (NODE_PATH)")
    frames, controllers = make_game(120)
    frames["players"]["stocks"][-1] = 0, 2
    write_slp(tmp_path / "game.slp", frames, controllers, names=("Ann", "Bob"), codes=("ANN#1", "BOB#22"))
    result = node(["node", "-e", script, str(tmp_path / "game.slp")])
    assert result.returncode == 0, result.stderr
    first, count, x, players, last, winners, items = json.loads(result.stdout)
    assert (first, count, last, winners) == (-123, 120, -4, [1])
    assert np.float32(x) == frames["players"]["x"][93, 1] and items == frames["items"]["present"][93].sum()
    assert players == [[2, "Ann", "ANN#1"], [9, "Bob", "BOB#22"]]


# ---------------------------------------------------------------------------------------------------------------------
# The same game, seen live
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage, characters, ports", [
    (2, (FOX, MARTH), (0, 1)), (28, (POPO, FOX), (1, 3)), (3, (FOX, ZELDA), (0, 3)),
])
def test_live_equals_file(tmp_path, stage, characters, ports):
    frames, controllers = make_game(150, 3, stage, characters, ports)
    write_slp(tmp_path / "game.slp", frames, controllers)
    seen = play_through_libmelee(tmp_path / "game.slp", [port + 1 for port in ports], raw=True)
    live = np.array([frame for _, frame, _ in seen])
    follow(live)                                                            # as dolphin.py does from frame to frame
    assert same(live, read_replay(tmp_path / "game.slp").frames)
    assert same(np.array([inputs for _, _, inputs in seen]), controllers)


def test_libmelee_shows_the_same_player(tmp_path):
    """PlayerState, decoded by libmelee's own code, against the file."""
    frames, controllers = make_game(150, 4)
    write_slp(tmp_path / "game.slp", frames, controllers)
    replay = read_replay(tmp_path / "game.slp")
    seen = play_through_libmelee(tmp_path / "game.slp", (1, 2), raw=False)
    assert len(seen) == len(replay)
    for frame, (gamestate, _, _) in zip(replay.frames, seen, strict=True):
        assert gamestate.frame == frame["frame_id"]
        for i in range(2):
            ours, theirs = frame["players"][i], gamestate.players[i + 1]
            assert (ours["x"], ours["y"]) == (theirs.position.x, theirs.position.y)
            assert (ours["percent"], ours["shield"]) == (theirs.percent, theirs.shield_strength)
            assert (ours["action"], ours["action_frame"]) == (theirs.action.value, theirs.action_frame)
            assert (ours["character"], ours["stocks"]) == (theirs.character.value, theirs.stock)
            assert (ours["facing"] > 0, ours["jumps"]) == (theirs.facing, theirs.jumps_left)
            assert (ours["hitlag"], ours["hitstun"]) == (theirs.hitlag_left, theirs.hitstun_frames_left)
            assert (ours["airborne"] == 0, ours["hurtbox"] != 0) == (theirs.on_ground, theirs.invulnerable)
            assert (ours["self_vx_air"], ours["self_vy"]) == (theirs.speed_air_x_self, theirs.speed_y_self)
            assert (ours["kb_vx"], ours["kb_vy"]) == (theirs.speed_x_attack, theirs.speed_y_attack)
            assert ours["self_vx_ground"] == theirs.speed_ground_x_self


HIDDEN_FROM_LIBMELEE = {"hitstun", "state_age", "in_hitstun", "fastfall", "hurtbox", "l_cancel", "last_attack",
                        "last_hit_by", "combo", "ground"}


def test_what_plain_libmelee_hides(tmp_path):
    frames, controllers = make_game(150, 5, 28, (POPO, MARTH))
    write_slp(tmp_path / "game.slp", frames, controllers)
    plain = np.array([frame for _, frame, _ in play_through_libmelee(tmp_path / "game.slp", (1, 2), raw=False)])
    for who in ("players", "nanas"):
        differ = {name for name in plain[who].dtype.names if (plain[who][name] != frames[who][name]).any()}
        assert differ <= HIDDEN_FROM_LIBMELEE
    differ = {name for name in plain["items"].dtype.names if (plain["items"][name] != frames["items"][name]).any()}
    assert differ <= {"facing", "timer", "damage", "charge"}
    for name in ("frame_id", "stage", "wind", "platform_left", "platform_right", "transformation"):
        assert (plain[name] == frames[name]).all()
    with pytest.raises(ValueError, match="keep_raw_events"):
        gamestate = play_through_libmelee(tmp_path / "game.slp", (1, 2), raw=False)[0][0]
        controllers_from_gamestate(gamestate, (1, 2))


# ---------------------------------------------------------------------------------------------------------------------
# Traps of real files
# ---------------------------------------------------------------------------------------------------------------------


def test_rolled_back_frames_keep_the_last_row(tmp_path):
    good, controllers = make_game(60, 6)
    wrong, wrong_controllers = make_game(60, 7)
    write_slp(tmp_path / "game.slp", good, controllers)
    write_slp(tmp_path / "wrong.slp", wrong, wrong_controllers)
    events, wrong_events = raw_events(tmp_path / "game.slp"), raw_events(tmp_path / "wrong.slp")

    def of_frames(events, low, high):
        return [(command, event) for command, event in events
                if command >= 0x37 and command != 0x39 and low <= struct.unpack_from(">i", event, 1)[0] < high]

    head, end = events[:2], events[-1:]
    rewrite(tmp_path / "game.slp", head + of_frames(events, -123, -100) + of_frames(wrong_events, -100, -90)
            + of_frames(events, -100, -63) + end)
    replay = read_replay(tmp_path / "game.slp")
    assert same(replay.frames, good) and same(replay.controllers, controllers)

    rewrite(tmp_path / "game.slp", head + of_frames(events, -123, -100) + of_frames(events, -99, -63) + end)
    with pytest.raises(ReplayError, match="missing after frame -101"):
        read_replay(tmp_path / "game.slp")


def test_no_game_end_is_fine(tmp_path):
    frames, controllers = make_game(60)
    write_slp(tmp_path / "game.slp", frames, controllers)
    rewrite(tmp_path / "game.slp", raw_events(tmp_path / "game.slp")[:-1])
    replay = read_replay(tmp_path / "game.slp")
    assert same(replay.frames, frames) and replay.meta["end"] is None and replay.meta["winner"] is None


def frame_of(event):
    return struct.unpack_from(">i", event, 1)[0]


def without(path, *lost):
    """Rewrite the file without these events: (command, frame id, port index, follower), None for any."""
    def is_lost(command, event):
        return command not in (0x35, 0x36, 0x39) and any(
            command == kind and frame_of(event) == frame and port in (None, event[5]) and follower in (None, event[6])
            for kind, frame, port, follower in lost)

    rewrite(path, [event for event in raw_events(path) if not is_lost(*event)])


@pytest.mark.parametrize("command, follower, said", [
    (0x38, 0, "frame -80 lacks the post-frame event of port 2: "), (0x37, 0, "lacks the pre-frame event of port 2: "),
    (0x38, 1, "lacks the post-frame event of port 2: "),
])
def test_a_game_that_lacks_an_event_is_read_and_nothing_is_learnt_from_it(tmp_path, command, follower, said, capfd):
    path, t = tmp_path / "games" / "game.slp", 43                           # frame -80
    frames, controllers = make_game(200, characters=(FOX, POPO))
    write_slp(path, frames, controllers)
    whole = pack([read_replay(path)])
    without(path, (command, -80, 1, follower))
    if command == 0x38:
        who = "nanas" if follower else "players"
        frames[who][t, 1] = frames[who][t - 1, 1]
    else:
        controllers[t, 1] = controllers[t - 1, 1]
    for _ in range(2):                                                      # parsed, then from the cache
        [replay], _ = load_replays(path.parent, num_workers=0, cache_dir=tmp_path / "cache", progress=False)
        assert same(replay.frames, frames) and same(replay.controllers, controllers)
        assert replay.meta["incomplete"] == (t,) and said in replay.meta["warning"]
        assert f"warning: {path}: {replay.meta['warning']}\n" in capfd.readouterr().err
    data = pack([replay])
    changed = (whole.weights != data.weights).nonzero().ravel().tolist()
    assert changed == []                                                    # nobody has control at frame -80
    shifted = frames.copy()
    shifted["frame_id"] += 100                                              # now they have
    data = pack([Replay(shifted, controllers, replay.meta)])
    assert (data.weights == 0).nonzero().ravel().tolist() == [t - 1, t, 198 + t, 199 + t]


def test_brothers_of_a_missing_event(tmp_path):
    """What marks a frame may be missing too. Many, or two of one frame, or one that nothing precedes, may not."""
    path = tmp_path / "game.slp"
    frames, controllers = make_game(100)
    write_slp(path, frames, controllers)
    whole = path.read_bytes()
    without(path, (0x3A, -80, None, None), (0x3C, -60, None, None))
    replay = read_replay(path)
    assert same(replay.frames, frames) and same(replay.controllers, controllers) and not replay.meta["warning"]

    path.write_bytes(whole)
    without(path, (0x38, -24, 0, 0))                                        # of the last frame: who won is not known
    replay = read_replay(path)
    assert replay.meta["incomplete"] == (99,) and replay.meta["winner"] is None

    path.write_bytes(whole)
    without(path, *((0x38, frame, 0, 0) for frame in range(-80, -70)))
    assert read_replay(path).meta["warning"].startswith(
        "frame -80 lacks the post-frame event of port 1, and 9 more are missing: ")

    for lost, said in (
        ([(0x38, -80, None, 0)], "frame -80 lacks the post-frame event of port 1, and 1 more are missing"),
        ([(0x37, frame, 1, 0) for frame in range(-50, -30)], "frame -50 lacks the pre-frame event of port 2, and 19 "),
        ([(0x37, -123, 1, 0)], "frame -123 lacks the pre-frame event of port 2"),
    ):
        path.write_bytes(whole)
        without(path, *lost)
        with pytest.raises(ReplayError, match=f"^{path}: {said}"):
            read_replay(path)


@pytest.mark.parametrize("port, follower, said", [
    (0, 0, "frame -80: two post-frame events of port 1"), (3, 0, "port where nobody plays"),
    (1, 1, "port where nobody plays"),
])
def test_an_event_of_somebody_else(tmp_path, port, follower, said):
    path = tmp_path / "game.slp"
    write_slp(path, *make_game(100))
    rewrite(path, [(command, event[:5] + bytes([port, follower]) + event[7:])
                   if command == 0x38 and frame_of(event) == -80 and event[5] == 1 else (command, event)
                   for command, event in raw_events(path)])
    with pytest.raises(ReplayError, match=said):
        read_replay(path)


def with_size(path, command, size):
    """Shorten the events of a kind, and say so in the table of sizes."""
    events = [(kind, event[:size] if kind == command else event) for kind, event in raw_events(path)]
    old, new = (struct.pack(">BH", command, length - 1) for length in (
        next(len(event) for kind, event in raw_events(path) if kind == command), size))
    events[0] = 0x35, events[0][1].replace(old, new)
    rewrite(path, events)


def test_events_are_as_long_as_their_table_says(tmp_path):
    """There are files of 3.17 that have the stage events of 3.18 but not yet the raw C-stick of 3.17."""
    path = tmp_path / "game.slp"
    frames, controllers = make_game(150, stage=28)
    write_slp(path, frames, controllers)
    with_version(path, (3, 17, 0))
    with_size(path, 0x37, 65)
    replay = read_replay(path)
    assert same(replay.frames, frames) and same(replay.controllers, controllers) and frames["wind"].any()
    with_size(path, 0x38, 0x4C)
    with pytest.raises(ReplayError, match="post-frame events of 76 bytes, too few for Slippi 3.17.0"):
        read_replay(path)


def peppi_columns(path):
    """What peppi-py reads, by our names: [(post, pre) of each player], and start, end and metadata."""
    game = pytest.importorskip("peppi_py").read_slippi(str(path))
    post = {"x": "position.x", "y": "position.y", "facing": "direction", "percent": "percent", "shield": "shield",
            "stocks": "stocks", "action": "state", "character": "character", "state_age": "state_age", "jumps": "jumps",
            "airborne": "airborne", "l_cancel": "l_cancel", "hurtbox": "hurtbox_state", "hitlag": "hitlag",
            "self_vx_air": "velocities.self_x_air", "self_vy": "velocities.self_y", "kb_vx": "velocities.knockback_x",
            "kb_vy": "velocities.knockback_y", "self_vx_ground": "velocities.self_x_ground", "combo": "combo_count",
            "last_attack": "last_attack_landed", "last_hit_by": "last_hit_by"}
    pre = {"main_x": "joystick.x", "main_y": "joystick.y", "c_x": "cstick.x", "c_y": "cstick.y", "buttons": "buttons"}

    def column(record, name):
        return functools.reduce(getattr, name.split("."), record).to_numpy()

    keep = np.unique(game.frames.id.to_numpy()[::-1], return_index=True)[1]     # the last of each id
    return [({name: column(port.leader.post, where)[::-1][keep] for name, where in post.items()},
             {name: column(port.leader.pre, where)[::-1][keep] for name, where in pre.items()})
            for port in game.frames.ports], game


def assert_as_peppi_reads(path):
    replay = read_replay(path)
    columns, game = peppi_columns(path)
    for i, (post, pre) in enumerate(columns):
        for name, values in post.items():
            ours = replay.frames["players"][name][:, i]
            assert (ours == np.nan_to_num(np.where(values > 0, 1, -1) if name == "facing" else values)).all(), name
        for name, values in pre.items():
            ours = replay.controllers[name][:, i]
            assert (ours == (values & 0xFFFF if name == "buttons" else values)).all(), name
    meta, players = replay.meta, game.start.players
    assert meta["version"] == tuple(game.start.slippi.version) and meta["seed"] == game.start.random_seed
    assert meta["frozen_stadium"] == game.start.is_frozen_ps and meta["stage"] == game.start.stage
    assert meta["ports"] == tuple(player.port.value for player in players)
    if players[0].netplay.name:                                             # else they are in the metadata
        assert meta["names"] == tuple(player.netplay.name for player in players)
        assert meta["codes"] == tuple(player.netplay.code.replace("＃", "#") for player in players)
    assert meta["started"] == game.metadata["startAt"] and meta["tags"] == tuple(p.name_tag for p in players)


@pytest.mark.parametrize("stage, characters, ports", [(31, (FOX, MARTH), (0, 1)), (3, (POPO, FOX), (1, 3))])
def test_it_reads_what_peppi_reads(tmp_path, stage, characters, ports):
    write_slp(tmp_path / "game.slp", *make_game(150, 9, stage, characters, ports), names=("アン", "Bob"),
              codes=("ANN#1", "BOB#22"), seed=77)
    assert_as_peppi_reads(tmp_path / "game.slp")


@needs_real
@pytest.mark.parametrize("name", ["peppi_ics2", "slippijs_rollbackFrameTest", "froggi_ranked_falco_yoshis"])
def test_it_reads_of_real_games_what_peppi_reads(name):
    assert_as_peppi_reads(REAL / f"{name}.slp")


def test_a_game_ends_once_or_twice_but_at_its_end(tmp_path):
    path = tmp_path / "game.slp"
    write_slp(path, *make_game(60))
    events = raw_events(path)
    rewrite(path, [*events, events[-1]])
    assert len(read_replay(path)) == 60 and read_replay(path).meta["end"] == "NoContest"
    rewrite(path, [*events[:100], events[-1], *events[100:]])
    with pytest.raises(ReplayError, match="events after the game's end"):
        read_replay(path)


def test_nan_is_zero_and_infinity_refused(tmp_path):
    frames, controllers = make_game(60)
    frames["players"]["kb_vx"][5, 0] = frames["items"]["vx"][5, 0] = controllers["c_x"][5, 0] = np.nan
    with np.errstate(invalid="ignore"):
        write_slp(tmp_path / "game.slp", frames, controllers)
    replay = read_replay(tmp_path / "game.slp")
    assert replay.frames["players"]["kb_vx"][5, 0] == replay.controllers["c_x"][5, 0] == 0
    controllers["c_x"][5, 0] = 0
    for value in (np.inf, 1e20, -2e3):
        frames["players"]["y"][7, 1] = value
        write_slp(tmp_path / "game.slp", frames, controllers)
        with pytest.raises(ReplayError, match="frame -116: y is"):
            read_replay(tmp_path / "game.slp")


def test_hitstun_only_in_hitstun(tmp_path):
    """Outside hitstun the file's number means something else."""
    frames, controllers = make_game(60)
    frames["players"]["in_hitstun"], frames["players"]["hitstun"] = 0, 17
    frames["players"]["hitstun"][3] = np.nan
    write_slp(tmp_path / "game.slp", frames, controllers)
    assert not read_replay(tmp_path / "game.slp").frames["players"]["hitstun"].any()


@pytest.mark.parametrize("version, default, older", [
    ((1, 7, 1), "lacks airborne", "lacks airborne"), ((2, 0, 1), "velocities and hitlag; needs 3.8.0", None),
    ((3, 3, 0), "velocities and hitlag", None), ((3, 6, 1), "lacks hitlag", None),
    ((3, 7, 0), "lacks hitlag; needs 3.8.0", None), ((3, 8, 0), None, None), ((3, 19, 1), None, None),
])
def test_versions(tmp_path, version, default, older):
    """Refused by default, and with the oldest allowed. The layout stays ours: real old files are read below."""
    write_slp(tmp_path / "game.slp", *make_game(60))
    with_version(tmp_path / "game.slp", version)
    for minimum, reason in (((3, 8, 0), default), ((0, 0, 0), older)):
        if reason is not None:
            with pytest.raises(ReplayError, match=reason) as caught:
                read_replay(tmp_path / "game.slp", min_version=minimum)
            assert str(caught.value).startswith(f"{tmp_path / 'game.slp'}: ") and "\n" not in str(caught.value)
        else:
            assert len(read_replay(tmp_path / "game.slp", min_version=minimum)) == 60


@pytest.mark.parametrize("at, value, said", [                                # a byte of the game start event
    (0x65 + 0x24 * 2 + 1, 0, "3 players; only 1v1"), (0x65 + 0x24 + 1, 3, "1 players; only 1v1"),
    (0x0D, 1, "team game"), (0x14, 84, "not a versus game"), (0x65, 20, "character 20 in the header is 2"),
])
def test_not_one_against_one(tmp_path, at, value, said):
    path = tmp_path / "game.slp"
    write_slp(path, *make_game(60))
    events = raw_events(path)
    start = bytearray(events[1][1])
    start[at] = value
    rewrite(path, [events[0], (0x36, bytes(start)), *events[2:]])
    with pytest.raises(ReplayError, match=said):
        read_replay(path)


def test_broken_files(tmp_path, capfd):
    write_slp(tmp_path / "good.slp", *make_game(60))
    data = (tmp_path / "good.slp").read_bytes()
    for name, content in {"empty": b"", "text": b"This is no replay.", "noise": os.urandom(5000), "cut": data[:-3000],
                          "head": data[:200], "tail": data[300:]}.items():
        (tmp_path / "bad.slp").write_bytes(content)
        with pytest.raises(ReplayError) as caught:
            read_replay(tmp_path / "bad.slp")
        assert str(caught.value).startswith(f"{tmp_path / 'bad.slp'}: ") and "\n" not in str(caught.value), name
    with pytest.raises(ReplayError, match="no such file"):
        read_replay(tmp_path / "missing.slp")
    with pytest.raises(ReplayError, match="is a directory"):
        read_replay(tmp_path)
    assert capfd.readouterr().err == ""  # peppi-py's own traces never show


@pytest.mark.parametrize("metadata, read", [
    (b"", True), (b"U\x04nameZU\x01aTU\x01bFU\x01cd" + bytes(4) + b"U\x01dL" + bytes(8), True),
    (2000 * b"U\x01a{", False), (b"U\x01a" + 2000 * b"[", False), (b"U\x01aSl\x7f\xff\xff\xff", False),
    (b"l\xff\xff\xff\xffa", False), (b"U\x01a[$U#l\x7f\xff\xff\xff", False), (b"U\x01aS", False),
    (b"U\x07playersU\x05", False), (b"U\x07playersSU\x03abc", False),
    (b"U\x01aSl" + struct.pack(">i", 1 << 20), False),
])
def test_hostile_metadata(tmp_path, metadata, read):
    """Nests, lengths beyond the file, values of other kinds: read, or refused in one line."""
    path = tmp_path / "game.slp"
    write_slp(path, *make_game(60))
    data = path.read_bytes()
    end = EVENTS_AT + int.from_bytes(data[len(SLP_HEAD):EVENTS_AT], "big")
    path.write_bytes(data[:end] + METADATA + b"{" + metadata + b"}}")
    if read:
        assert len(read_replay(path)) == 60
        return
    with pytest.raises(ReplayError) as caught:
        read_replay(path)
    assert "\n" not in str(caught.value)


def test_what_a_file_says_of_its_size_takes_no_memory(tmp_path):
    """Events of two bytes, and more bytes than a game has."""
    path = tmp_path / "game.slp"
    write_slp(path, *make_game(20))
    events = raw_events(path)
    table = bytes([0x35, events[0][1][1] + 3]) + events[0][1][2:] + struct.pack(">BH", 0x99, 1)
    rewrite(path, [(0x35, table), events[1], (0x99, 200_000 * b"\x99\0")])
    tracemalloc.start()
    with pytest.raises(ReplayError, match="no frames"):
        read_replay(path)
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert taken < 4e6
    os.truncate(path, 2 << 30)                                              # sparse
    with pytest.raises(ReplayError, match="2,147,483,648 bytes, more than any game has"):
        read_replay(path)


def test_flipped_bytes(tmp_path, capfd):
    """Damage either is refused in one line, or leaves a replay of sane values; no panic gets through."""
    rng = np.random.default_rng(0)
    write_slp(tmp_path / "good.slp", *make_game(40, 8, 28, (POPO, FOX)))
    data = (tmp_path / "good.slp").read_bytes()
    outcome = {"read": 0, "refused": 0}
    for trial in range(300):
        damaged = bytearray(data)
        limit = 900 if trial % 3 == 0 else len(data)  # a third of the trials in the head
        for at in rng.integers(0, limit, rng.integers(1, 6)):
            damaged[at] = rng.integers(0, 256)
        (tmp_path / "bad.slp").write_bytes(damaged)
        try:
            replay = read_replay(tmp_path / "bad.slp")
        except ReplayError as error:
            assert "\n" not in str(error)
            outcome["refused"] += 1
            continue
        outcome["read"] += 1
        assert (np.diff(replay.frames["frame_id"]) == 1).all() and len(replay.controllers) == len(replay.frames)
        for name in ("x", "y", "percent", "self_vy"):
            assert np.isfinite(replay.frames["players"][name]).all()
    assert outcome["read"] > 20 and outcome["refused"] > 20, outcome
    assert capfd.readouterr().err == ""


# ---------------------------------------------------------------------------------------------------------------------
# Folders
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """Five games, one of them twice, and three bad files."""
    (tmp_path / "games" / "more").mkdir(parents=True)
    games = {"a": (FOX, MARTH), "b": (MARTH, ZELDA), "more/c": (FOX, FOX), "more/d": (POPO, FOX), "e": (FOX, SHEIK)}
    for seed, (name, characters) in enumerate(games.items()):
        game = make_game(200, seed, characters=characters, ports=(0, 1 + seed % 3))
        write_slp(tmp_path / "games" / f"{name}.slp", *game)
    shutil.copy(tmp_path / "games" / "a.slp", tmp_path / "games" / "more" / "a_again.slp")
    (tmp_path / "games" / "broken.slp").write_bytes(b"{U\x03raw[$U#l" + bytes(100))
    (tmp_path / "games" / "notes.txt").write_text("not a replay")
    write_slp(tmp_path / "games" / "old.slp", *make_game(60))
    with_version(tmp_path / "games" / "old.slp", (2, 0, 1))
    write_slp(tmp_path / "games" / "short.slp", *make_game(100))
    return tmp_path / "games"


def names(replays):
    return [Path(replay.meta["path"]).stem for replay in replays]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_load_folder(folder, num_workers, capfd):
    replays, summary = load_replays(folder, num_workers=num_workers, cache_dir=folder.parent / "cache", progress=False)
    assert names(replays) == ["a", "b", "e", "c", "d"]
    assert summary["files"] == 9 and summary["read"] == 5 and summary["cached"] == 0 and summary["frames"] == 1000
    reasons = {Path(path).stem: reason for path, reason in summary["skipped"]}
    assert reasons.keys() == {"a_again", "broken", "old", "short"}
    assert reasons["a_again"] == f"the same file as {folder / 'a.slp'}"
    assert reasons["short"] == "16 frames with control, fewer than 60" and "needs 3.8.0" in reasons["old"]
    err = capfd.readouterr().err.splitlines()
    assert sum(line.startswith(f"skipped {folder}") for line in err) == 4 and len(err) == 5
    assert err[-1].startswith("read 5 of 9 replays (1,000 frames, ") and err[-1].endswith("skipped 4")

    again, summary = load_replays(folder, num_workers=num_workers, cache_dir=folder.parent / "cache", progress=False)
    assert summary["cached"] == 5
    for a, b in zip(replays, again, strict=True):
        assert same(a.frames, b.frames) and same(a.controllers, b.controllers) and a.meta == b.meta
        direct = read_replay(a.meta["path"])
        assert same(a.frames, direct.frames) and same(a.controllers, direct.controllers) and a.meta == direct.meta

    uncached, summary = load_replays(folder, num_workers=num_workers, cache_dir=False, progress=False)
    assert summary["cached"] == 0 and all(same(a.frames, b.frames) for a, b in zip(replays, uncached, strict=True))


@pytest.mark.parametrize("kind", ["games", "jsonl"])
@pytest.mark.parametrize("damage", ["empty", "half", "rubbish", "noise", "one bit", "gone"])
def test_broken_cache_is_rewritten(folder, kind, damage, capfd):
    load = functools.partial(load_replays, folder, num_workers=0, cache_dir=folder.parent / "cache", progress=False)
    wanted = [replay.frames.tobytes() for replay in load()[0]]
    file, = (folder.parent / "cache").glob(f"*.{kind}")
    data = bytearray(file.read_bytes())
    data[-20] ^= 1                                                          # in the last row, or in the last line
    file.write_bytes({"empty": b"", "half": data[:len(data) // 2], "rubbish": b"rubbish",
                      "noise": os.urandom(len(data)), "one bit": data, "gone": b""}[damage])
    if damage == "gone":
        file.unlink()
    capfd.readouterr()
    for again in range(3):                                                  # found out, parsed anew, kept again
        replays, summary = load()
        assert [replay.frames.tobytes() for replay in replays] == wanted
        err = capfd.readouterr().err
        assert err.count("Traceback") == 0 and err.count("damaged cache of parsed replays, now removed") <= 1
    assert summary["cached"] == 5 and err.count("warning") == 0


def test_an_edit_of_the_parser_makes_old_entries_void(folder, monkeypatch):
    load = functools.partial(load_replays, folder, num_workers=0, cache_dir=folder.parent / "cache", progress=False)
    load()
    assert load()[1]["cached"] == 5
    for k, source in enumerate(replays_room.PARSER):
        edited = folder.parent / source.name
        edited.write_text(source.read_text() + "\n")
        monkeypatch.setattr(replays_room, "PARSER", replays_room.PARSER[:k] + [edited] + replays_room.PARSER[k + 1:])
        replays_room._parser_digest.cache_clear()
        assert load()[1]["cached"] == 0 and load()[1]["cached"] == 5
        monkeypatch.undo()
    replays_room._parser_digest.cache_clear()
    assert load()[1]["cached"] == 5


def test_unwritable_cache_is_no_obstacle(folder):
    (folder.parent / "file").write_text("where the cache should be")
    replays, summary = load_replays(folder, num_workers=1, cache_dir=folder.parent / "file" / "cache", progress=False)
    assert len(replays) == 5 and summary["cached"] == 0


def test_a_full_disk_for_the_cache_is_told_once(folder, monkeypatch, capfd):
    def write(path, content):
        written.append(path)
        if len(written) > 1:                                                # the index, after its shard
            error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            raise UserError(f"{path}: cannot be written") from error
        atomic_write(path, content)

    written, cache = [], folder.parent / "cache"
    monkeypatch.setattr(packed, "atomic_write", write)
    replays, summary = load_replays(folder, num_workers=0, cache_dir=cache, progress=False)
    assert len(replays) == 5 and summary["cached"] == 0 and len(written) == 2 and not list(cache.iterdir())
    said = f"warning: {cache}: parsed replays cannot be kept there (No space left on device); "
    assert capfd.readouterr().err.count(said) == 1


def test_without_a_home_there_is_no_cache(folder, monkeypatch):
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: (_ for _ in ()).throw(KeyError(uid)))
    assert replays_room.default_cache_dir() is None
    assert load_replays(folder / "a.slp", num_workers=0, progress=False)[1]["read"] == 1
    with pytest.raises(ReplayError, match="~/games: no such file or folder"):
        load_replays("~/games", progress=False)


NASTY = (b"\x83Q\x81[\x83\x80\xff",                                     # Shift-JIS, which is no UTF-8
         "\x1b]0;owned\x07\x1b[31m\nerror: all lost \u202e[red]".encode(), b"long" * 50)


@pytest.mark.parametrize("name", NASTY)
@pytest.mark.parametrize("num_workers", [0, 1])
def test_any_name_is_read_and_printed_in_one_line(tmp_path, name, num_workers, capfd):
    games = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    write_slp(games / os.fsdecode(name + b".slp"), *make_game(200))
    shutil.copy(games / os.fsdecode(name + b".slp"), games / os.fsdecode(name + b"2.slp"))
    for cached in (0, 1):
        replays, summary = load_replays(games, num_workers=num_workers, cache_dir=tmp_path / "cache", progress=False)
        assert summary["read"] == 1 and summary["cached"] == cached
        assert Path(replays[0].meta["path"]).name == os.fsdecode(name + b".slp")
    captured = capfd.readouterr().err
    assert captured.count("\n") == 4 and captured.count("skipped ") == 4 and captured.count("the same file as") == 2
    assert all(c.isprintable() or c == "\n" for c in captured)


@pytest.fixture
def nobody():
    """A folder that everybody may enter, and the rights of somebody who is not root."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        root = os.geteuid() == 0
        try:
            yield Path(folder)
        finally:
            if root:
                os.seteuid(0)
            for path in Path(folder).rglob("*"):
                path.chmod(0o755)


def test_what_may_not_be_read_is_named(nobody, capfd):
    for name in ("shut/a", "open/b", "open/c"):
        write_slp(nobody / f"{name}.slp", *make_game(200, len(name)))
    (nobody / "open" / "b.slp").chmod(0)
    (nobody / "shut").chmod(0)
    if os.geteuid() == 0:
        os.seteuid(65534)
    load = functools.partial(load_replays, num_workers=0, cache_dir=False, progress=False)
    assert names(load(nobody)[0]) == ["c"]
    err = capfd.readouterr().err
    assert f"warning: skipped the folder {nobody / 'shut'}: permission denied\n" in err
    assert f"skipped {nobody / 'open' / 'b.slp'}: permission denied\n" in err
    for path in (nobody / "shut", nobody / "shut" / "a.slp"):
        with pytest.raises(ReplayError, match=f"^{path}: permission denied$"):
            load(path)


def test_what_is_no_file_is_named(tmp_path, capfd):
    """A pipe would hold its reader for ever."""
    write_slp(tmp_path / "games" / "game.slp", *make_game(200))
    os.mkfifo(tmp_path / "games" / "pipe.slp")
    (tmp_path / "games" / "loop.slp").symlink_to(tmp_path / "games" / "loop.slp")
    (tmp_path / "games" / "gone.slp").symlink_to(tmp_path / "nowhere.slp")
    (tmp_path / "games" / "round").symlink_to(tmp_path / "games")
    (tmp_path / "games" / "folder.slp").mkdir()
    load = functools.partial(load_replays, cache_dir=False, progress=False)
    replays, summary = load(tmp_path / "games", num_workers=1)
    assert len(replays) == 1 and {Path(path).stem: reason for path, reason in summary["skipped"]} == {
        "pipe": "not a regular file", "loop": "too many levels of symbolic links", "gone": "no such file or directory"}
    for name, said in (("pipe.slp", "none of 1 replays can be used; the first: pipe.slp: not a regular file"),
                       ("loop.slp", "too many levels of symbolic links"), (300 * "x", "file name too long")):
        with pytest.raises(ReplayError, match=said):
            load(tmp_path / "games" / name, num_workers=0)


def test_a_closed_stderr_changes_nothing(tmp_path, monkeypatch):
    write_slp(tmp_path / "game.slp", *make_game(60))
    saved = os.dup(2)
    monkeypatch.setattr(sys, "stderr", None)                                # as Python has it under `2>&-`
    os.close(2)
    try:
        assert len(read_replay(tmp_path / "game.slp")) == 60
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def test_cache_goes_where_xdg_says(folder, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder.parent / "xdg"))
    load_replays(folder / "a.slp", num_workers=0, progress=False)
    assert len(list((folder.parent / "xdg" / "cleanmelee" / "replays").iterdir())) == 2


def test_filters(folder):
    load = functools.partial(load_replays, cache_dir=folder.parent / "cache", num_workers=0, progress=False)
    assert names(load(folder, character=SHEIK)[0]) == names(load(folder, character=ZELDA)[0]) == ["b", "e"]
    assert names(load(folder, max_files=2)[0]) == ["a", "b"]
    assert names(load([folder / "e.slp", folder / "more"])[0]) == ["e", "a_again", "c", "d"]
    assert names(load(folder, min_frames=0)[0]) == ["a", "b", "e", "c", "d", "short"]


@pytest.mark.parametrize("files, said", [
    ("nowhere", "nowhere: no such file or folder"), ("void", "void: no .slp files"),
    ("games/old.slp", "none of 1 replays can be used; the first: old.slp: written by"),
])
def test_nothing_to_read(tmp_path, folder, files, said):
    (tmp_path / "void").mkdir()
    with pytest.raises(ReplayError, match=said):
        load_replays(tmp_path / files, cache_dir=False, progress=False)


def test_a_reader_that_dies_costs_one_file(folder, monkeypatch):
    read = replays_room._read_one

    def deadly(path, *rest):
        if path.stem == "b":
            os._exit(9)
        if path.stem == "e":
            raise SystemExit  # leaves the loop as a panic would
        return read(path, *rest)

    monkeypatch.setattr(replays_room, "_read_one", deadly)  # forked readers see it
    replays, summary = load_replays(folder, num_workers=2, cache_dir=False, progress=False)
    assert names(replays) == ["a", "c", "d"]
    reasons = {Path(path).stem: reason for path, reason in summary["skipped"]}
    assert "died (exit code 9)" in reasons["b"] and "died" in reasons["e"]


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_readers_end_with_their_parent(folder, end):
    """Ctrl-C, which a terminal sends to the whole process group, or a kill, while every reader is busy."""
    script = f"""
import os, sys, time
sys.path.insert(0, {str(Path(replays_room.__file__).parents[1])!r})
import cleanmelee.replays as replays_room
def slow(path, *rest):
    os.write(1, b"reading\\n")            # in one piece: three readers write
    time.sleep(60)
replays_room._read_one = slow
replays_room.load_replays({str(folder)!r}, num_workers=3, cache_dir=False)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True, start_new_session=True)
    try:
        for _ in range(3):
            assert process.stdout.readline() == "reading\n"
        if end == signal.SIGINT:
            os.killpg(process.pid, end)
        else:
            process.kill()
        _, err = process.communicate(timeout=20)  # returns once nobody holds the pipes any more
        assert process.returncode != 0
        if end == signal.SIGINT:
            assert err.count("Traceback") == 1 and "KeyboardInterrupt" in err
            with pytest.raises(ProcessLookupError):
                os.killpg(process.pid, 0)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def split(hashes, fraction=.1):
    held_out = is_held_out([f"{h:08x}" + 56 * "0" for h in hashes], fraction)
    return np.flatnonzero(~held_out).tolist(), np.flatnonzero(held_out).tolist()


def test_split_by_game():
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**32, 400).tolist()
    train, held_out = split(hashes)
    assert sorted(train + held_out) == list(range(400)) and 20 < len(held_out) < 60
    assert (train, held_out) == split(hashes)
    more_train, more_held_out = split(rng.integers(0, 2**32, 300).tolist() + hashes)
    assert {i + 300 for i in held_out} <= set(more_held_out) and {i + 300 for i in train} <= set(more_train)
    for pair in ([1, 2], [2**32 - 1, 2**32 - 2]):
        train, held_out = split(pair)
        assert len(train) == len(held_out) == 1
    train, held_out = split([5, 5, 9])                                      # one game, recorded by both players
    assert sorted([train, held_out]) == [[0, 1], [2]]
    assert split([2**31]) == ([0], []) and split([2**31, 7], 1) == ([], [0, 1])


# ---------------------------------------------------------------------------------------------------------------------
# Real games, where there are any
# ---------------------------------------------------------------------------------------------------------------------

OLDER = {"peppi_console_name", "peppi_game", "peppi_old_ver_thegang", "peppi_transform", "peppi_v0.1"}  # before 2.0
OLD = OLDER | {"peppi_items", "peppi_netplay", "peppi_v2.0", "slippijs_GanonVDK", "slippijs_MewTwoVDK",
               "slippijs_itemExport", "slippijs_lCancel", "slprealtime_falcon_v_zelda"}  # before 3.8


@needs_real
def test_real_folder(tmp_path, capfd):
    replays, summary = load_replays(REAL, num_workers=2, cache_dir=tmp_path, min_frames=0, progress=False)
    files = {path.stem for path in REAL.glob("*.slp")}
    bad = {path.stem for path in (REAL / "bad").glob("*.slp")}
    assert set(names(replays)) == files - OLD
    assert {Path(path).stem for path, _ in summary["skipped"]} == bad | OLD
    assert "panicked" not in capfd.readouterr().err
    replays, _ = load_replays(REAL, num_workers=2, cache_dir=tmp_path, min_frames=0, min_version=(2, 0, 0),
                              progress=False)
    assert set(names(replays)) == files - OLDER | {"panics_slp3.3.0", "panics_slp3.6.1"}  # only peppi-py cannot


@needs_real
def test_games_that_a_strict_parser_refuses():
    for path, incomplete, wind in ((CASES / "one_post_event_missing" / "game.slp", (623,), 0),
                                   (CASES / "stage_events_v317" / "Whispy.slp", (), 3)):
        replay = read_replay(path)
        assert replay.meta["incomplete"] == incomplete and (replay.meta["end"], replay.meta["winner"]) == ("Game", 0)
        assert not wind or len(np.unique(replay.frames["wind"])) == wind


@needs_real
def test_real_round_trip(tmp_path):
    for name in ("peppi_ics2", "pyslippi_v3.14.0", "peppi_v3.18", "mewtwo_approach_fair"):
        replay = read_replay(REAL / f"{name}.slp")
        write_slp(tmp_path / "game.slp", replay.frames, replay.controllers)
        again = read_replay(tmp_path / "game.slp")
        assert same(again.frames, replay.frames) and same(again.controllers, replay.controllers), name


@needs_real
@pytest.mark.parametrize("name", ["peppi_v3.18", "fox_multishine", "slippistats_falcon_throws"])
def test_real_game_live_equals_file(name):
    replay = read_replay(REAL / f"{name}.slp")
    seen = play_through_libmelee(REAL / f"{name}.slp", [port + 1 for port in replay.meta["ports"]], raw=True)
    assert same(np.array([frame for _, frame, _ in seen]), replay.frames)
    assert same(np.array([inputs for _, _, inputs in seen]), replay.controllers)


@needs_real
def test_real_inputs_produce_their_frames():
    """A jump button pressed in controllers[t] is a jump squat in frames[t], not a frame later."""
    replay = read_replay(REAL / "pyslippi_v3.14.0.slp")
    squat = replay.frames["players"]["action"] == 24
    begins = np.argwhere(squat[1:] & ~squat[:-1]) + [1, 0]
    pressed = (replay.controllers["buttons"] & 0xC00) != 0
    at, before = (np.mean([pressed[t - lag, i] and not pressed[t - lag - 1, i] for t, i in begins]) for lag in (0, 1))
    assert len(begins) > 50 and at > 0.5 and before < 0.1, (at, before)

"""The page: what it is told is what the game did, a person plays through it, and nobody breaks it or looks around."""

import asyncio
import concurrent.futures
import contextlib
import gzip
import http.client
import json
import os
import shutil
from socket import create_connection
import threading
import time

import chromium
import numpy as np
import pytest
import torch
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

import play
from cleanmelee import game, inference
from cleanmelee.cli import UserError, from_flags
from cleanmelee.controller import NEUTRAL_ACTION, NUM_BUTTONS, NUM_LOGITS, NUM_STICK
from cleanmelee.frame import BUTTON_A, BUTTON_X, CHARACTERS, CONTROLLER, FRAME, STAGES
from cleanmelee.game.terrain import place_platforms
from cleanmelee.games import VecEnv
from cleanmelee.inference import Pace
from cleanmelee.recording import Recorder, write_slp
from cleanmelee.replays import controlled, read_replay
from cleanmelee.web import match as matches, server
from cleanmelee.web.library import Library, encode_recording
from cleanmelee.web.match import HEAD, INPUT, Games, Match, Opponents, Order, legal
from cleanmelee.web.picture import PICTURE, fighter_shape, layout, pictures
from cleanmelee.web.server import Site, listening
from cleanmelee.web.thoughts import EVERY, THOUGHT, recorded_thoughts, think
from helpers import batch, random_observation, stubborn
from melee_common import Policy, save_checkpoint, split_logits

ORDER = {"type": "start", "character": "fox", "opponent": "idle", "opponent_character": "marth", "stage": "battlefield"}
needs_chromium = pytest.mark.skipif(chromium.PROGRAM is None, reason="chromium is not installed")


def record(path, kinds=("level9", "level9"), length=1500, characters=("fox", "marth"), stage="battlefield", **options):
    """A game of bots as a .slp file -> its frames."""
    frames, hidden, bots = batch(1, kinds, np.array([CHARACTERS[name] for name in characters]), STAGES[stage])
    controllers = np.zeros((1, 2), CONTROLLER)
    history, inputs = [frames[0].copy()], [controllers[0].copy()]
    while len(history) < length and not game.game_over(frames)[0]:
        game.bot_controllers(frames, bots, controllers)
        game.step_games(frames, hidden, controllers)
        history.append(frames[0].copy())
        inputs.append(controllers[0].copy())
    write_slp(path, np.array(history), np.array(inputs), started=0, **{"names": kinds} | options)
    return np.array(history)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """bots.slp is a game in which somebody dies, script.slp one whose players' names are markup; foreign.slp is none;
    secret.slp lies outside, and link.slp leads there."""
    place = tmp_path_factory.mktemp("page")
    path = place / "games"
    (path / "run").mkdir(parents=True)
    record(path / "run" / "script.slp", length=60, names=("<img src=x onerror='document.title=1'>", "<b>bold</b>"))
    record(place / "secret.slp", length=60)
    os.symlink(place / "secret.slp", path / "link.slp")
    (path / "foreign.slp").write_bytes(b"not a game")
    os.utime(path / "foreign.slp", (1, 1))
    record(path / "bots.slp", ("level1", "level9"))
    return path


@pytest.fixture(scope="module")
def policies(tmp_path_factory):
    """A run's folder."""
    path = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    gru = Policy("gru", (16,), action_repeat=2).eval()
    with torch.no_grad():                                              # a fresh policy thinks the same of everything
        for p in gru.parameters():
            p.add_(torch.randn_like(p) * .1)
    save_checkpoint(path / "checkpoints" / "latest.pt", gru)
    late = Policy("gru", (16,), action_repeat=2, frame_delay=4).eval()
    with torch.no_grad():
        for p in late.parameters():
            p.add_(torch.randn_like(p) * .1)
    save_checkpoint(path / "pool" / "late_000000000030.pt", late)
    save_checkpoint(path / "pool" / "runner_000000000010.pt", stubborn(0))
    data = torch.load(path / "checkpoints" / "latest.pt", weights_only=True)
    torch.save(data | {"schema": "000000000000"}, path / "pool" / "other_000000000020.pt")
    return path


@contextlib.contextmanager
def served(site_of, host="127.0.0.1"):
    """A server in a thread. site_of(): makes the site, in the thread's loop. Yields its address and the site."""
    ready = concurrent.futures.Future()

    async def main():
        site, over = site_of(), asyncio.Event()
        async with listening(site, host, 0) as address:
            ready.set_result((asyncio.get_running_loop(), over, address, site))
            await over.wait()

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    loop, over, address, site = ready.result(20)
    try:
        yield address, site
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(20)
        assert not thread.is_alive()


def get(address, path, **headers):
    """-> status, headers and body."""
    host = address.split("/")[2]
    connection = http.client.HTTPConnection(*host.split(":"), timeout=20)
    try:
        connection.request("GET", path, headers={"Host": host} | {k.replace("_", "-"): v for k, v in headers.items()})
        answer = connection.getresponse()
        return answer.status, dict(answer.headers), answer.read()
    finally:
        connection.close()


def divide(content, dtype):
    """JSON facts and records of what a page loads."""
    length = int.from_bytes(content[:4], "little")
    return json.loads(content[4:4 + length]), np.frombuffer(content[4 + length:], dtype)


def as_told(where, data, at=0):
    """What a page reads at these bytes, by the layout it was told."""
    if isinstance(where, list):
        kind = np.dtype(where[1]).newbyteorder("<")
        return np.frombuffer(data, kind, 1, at + where[0])[0].item()
    at += where["at"]
    if "fields" in where:
        return {name: as_told(field, data, at) for name, field in where["fields"].items()}
    return [as_told(where["of"], data, at + k * where["each"]) for k in range(where["count"])]


def plain(value):
    """A numpy record as dicts and lists."""
    if value.dtype.names:
        return [plain(x) for x in value] if value.shape else {name: plain(value[name]) for name in value.dtype.names}
    return value.tolist()


# ------------------------------------------------------------------------------------------------------------- pictures

@pytest.mark.parametrize("dtype", [PICTURE, THOUGHT], ids=("picture", "thought"))
def test_the_layout_says_where_everything_lies(dtype):
    data = np.random.default_rng(0).integers(0, 120, dtype.itemsize, dtype=np.uint8).tobytes()
    assert as_told(json.loads(json.dumps(layout(dtype))), data) == plain(np.frombuffer(data, dtype)[0])


def test_shapes_are_those_that_hits_are_tested_against():
    """Wherever the game finds a hitbox, the page draws that one, by what a frame shows alone; and so with bodies."""
    frames, hidden, bots = batch(8, ("level5", "level5"))
    controllers, found = np.zeros((8, 2), CONTROLLER), 0
    for _ in range(500):
        game.bot_controllers(frames, bots, controllers)
        game.step_games(frames, hidden, controllers)
        for p, h in zip(frames["players"].ravel(), hidden["players"].ravel(), strict=True):
            row = game.TABLES.characters[p["character"]]
            at = int(h["action_frames"]) + 1
            boxes = game.TABLES.hitboxes[row["hit_row"][p["action"], at]] if p["action"] < 400 and at < 80 else None
            if boxes is None or not boxes["size"].any():
                continue
            shape = fighter_shape(int(p["character"]))
            drawn = shape["hitboxes"][int(p["action"])][int(p["action_frame"])]
            assert [box[2] for box in drawn] == pytest.approx(boxes["size"][boxes["size"] > 0].tolist(), abs=.006)
            usual = "ground" if not p["airborne"] else "special" if p["action"] >= game.FIRST_OWN_ACTION else "air"
            body = shape["bodies"].get(int(p["action"]), shape["bodies"][usual])
            assert body == pytest.approx(game.combat.body(p, row), abs=.006)
            found += 1
    assert found > 100


@pytest.mark.parametrize("stage", ["yoshis_story", "fountain_of_dreams", "dream_land"])
def test_floors_are_where_players_stand(stage, tmp_path):
    frames = record(tmp_path / "game.slp", length=1200, stage=stage)
    floors = pictures(frames, np.zeros((len(frames), 2), CONTROLLER))["floors"]
    start, slope, long = (float(game.TABLES.stages[STAGES[stage]][name]) for name in (
        "slope_start", "slope", "slope_length"))
    standing = 0
    for frame, floor in zip(frames, floors, strict=True):
        for p in frame["players"]:
            if p["action"] == game.WAIT and p["ground"] < 5:
                own = floor[p["ground"]]
                drop = slope * min(max(abs(p["x"]) - start, 0), long) if p["ground"] == 0 and np.isfinite(start) else 0
                assert own["left"] - 1 <= p["x"] <= own["right"] + 1 and abs(own["y"] - drop - p["y"]) < .2
                standing += 1
    assert standing > 20


@pytest.mark.parametrize("stage", ["yoshis_story", "fountain_of_dreams"])
def test_floors_that_move_are_where_the_game_has_them(stage):
    frames = np.zeros(5, FRAME)
    frames["stage"], frames["frame_id"] = STAGES[stage], (-39, 0, 430, 1100, 9999)
    frames["platform_left"], frames["platform_right"] = np.linspace(0, 30, 5), np.linspace(28, 10, 5)
    drawn = pictures(frames, np.zeros((5, 2), CONTROLLER))["floors"]
    for frame, floors in zip(frames, drawn, strict=True):
        row = game.TABLES.stages[STAGES[stage]].copy()
        place_platforms(frame, int(frame["frame_id"]), row, game.TABLES)
        for name in ("y", "left", "right"):
            assert floors[name] == pytest.approx(row["floor_" + name], abs=1e-4)
    assert len(np.unique(drawn[:, 1 if stage == "fountain_of_dreams" else 4])) > 2


def test_a_shield_is_drawn_as_the_game_has_it():
    match = batch(1, ("idle", "idle"), np.array([game.FOX, game.FOX]))
    frames, hidden, _ = match
    controllers = np.zeros((1, 2), CONTROLLER)
    controllers["r"][0, 0], controllers["main_y"][0, 0] = 1, .4
    for _ in range(20):
        game.step_games(frames, hidden, controllers)
    p, row = frames["players"][0, 0], game.TABLES.characters[game.FOX]
    radius, bottom, top, forward = game.combat.shield_bubble(p, hidden["players"][0, 0], row)
    drawn = pictures(frames, controllers)["shields"][0]
    assert drawn[0].tolist() == pytest.approx([radius, p["x"] + forward * p["facing"], p["y"] + (bottom + top) / 2])
    assert 0 < radius < 15 and drawn[1]["radius"] == 0


# ------------------------------------------------------------------------------------------------------------- thoughts

def test_probabilities_are_the_policys():
    torch.manual_seed(0)
    policy = Policy("mlp", (16,)).eval()
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(torch.randn_like(p) * .1)
    obs = random_observation(0, 3)
    features, _ = policy.features(obs, ())
    actions, _ = policy.controller_head.sample(features, torch.rand(3, NUM_LOGITS))
    thought = think(policy, features, actions)
    buttons, sticks, shoulder = split_logits(policy.logits(features, actions).detach())
    assert np.abs(thought["buttons"] / 255 - buttons.sigmoid().numpy()).max() < .003
    assert np.abs(thought["shoulder"] / 255 - shoulder[:, 0].softmax(-1).numpy()).max() < .003
    assert thought["value"] == pytest.approx(policy.value(features).detach().numpy())
    for k, stick in enumerate(("main", "c")):
        joint = np.zeros((3, NUM_STICK, NUM_STICK))
        for x in range(NUM_STICK):                                     # the definition: y after each x, one by one
            other = actions.clone()
            other[:, NUM_BUTTONS + 2 * k] = x
            logits = split_logits(policy.logits(features, other).detach())[1]
            joint[:, x] = sticks[:, 2 * k].softmax(-1)[:, x, None] * logits[:, 2 * k + 1].softmax(-1)
        assert np.abs(thought[stick] / 255 - joint / joint.max((1, 2), keepdims=True)).max() < .003


@pytest.mark.parametrize("name, delay", [("checkpoints/latest.pt", 0), ("pool/late_000000000030.pt", 4)])
def test_a_thinker_plays_like_its_policy_and_a_recording_shows_what_it_thought(policies, tmp_path, name, delay):
    """What was thought at play is what is thought of the recording: values, and the heat under the stick, beside the
    frame that the decision made."""
    one = play_out(policies, tmp_path, 120, name, "level3")
    replay = Library(tmp_path).read(one.path.name)
    again = recorded_thoughts(play.load_player(policies / name).policy, replay)[-120:, 1]
    assert not one.thoughts[:delay, 1]["known"].any() and not again[:delay]["known"].any()
    again, live = again[delay:], one.thoughts[delay::2 * EVERY, 1]          # two frames each; every third of them
    assert again["known"].all() and len(np.unique(again["value"])) > 20
    assert live["value"] == pytest.approx(again["value"][::2 * EVERY], abs=1e-4)
    assert np.abs(live["main"].astype(int) - again["main"][::2 * EVERY]).max() <= 1
    assert np.array_equal(again["value"][::2], again["value"][1::2])        # it decides on every other frame


class Played:
    def __init__(self, frames, thoughts, path):
        self.frames, self.thoughts, self.path = frames, thoughts, path


def play_out(policies, tmp_path, length, opponent, player="me", port=0, seed=1):
    """A Match without a server or a clock, in which every decision is in time."""
    order = Order("fox", "marth", "battlefield", opponent, player, port)
    match = Match(order, Opponents(policies), seed, False, length)
    recorder = Recorder(tmp_path, 1)
    recorder.begin([0], {0: match.frame}, {0: match.controllers})
    path, frames, thoughts = recorder.writers[0].path, [], []
    while not match.over:
        concurrent.futures.wait(match.hands.inference.futures)
        told = match.step()
        recorder.add([0], {0: match.frame}, {0: match.controllers})
        frames.append(match.frame)
        thoughts.append(told[HEAD.itemsize + PICTURE.itemsize:])
        assert told[HEAD.itemsize:HEAD.itemsize + FRAME.itemsize] == match.frame.tobytes()
    recorder.end(0)
    match.close()
    return Played(np.array(frames), np.frombuffer(b"".join(thoughts), THOUGHT).reshape(-1, 2), path)


def test_heat_is_where_the_stick_goes_on_the_stage(policies, tmp_path):
    """This policy runs from its opponent, who is to the left: it sees left and right exchanged."""
    one = play_out(policies, tmp_path, 10, "pool/runner_000000000010.pt")
    replay = read_replay(one.path)
    assert replay.controllers["main_x"][-1, 1] == 1
    for thought in (one.thoughts[-1, 1], recorded_thoughts(stubborn(0), replay)[-1, 1]):
        assert np.argmax(thought["main"].max(1)) == NUM_STICK - 1


def test_heat_stays_where_it_was_decided_when_players_cross(policies):
    """What was thought is shown for three decisions, the players change sides after the first."""
    match = Match(Order("fox", "marth", "final_destination", "pool/runner_000000000010.pt"), Opponents(policies), 1,
                  False, 0)
    heat = []
    for t in range(4):
        concurrent.futures.wait(match.hands.inference.futures)
        told = match.step()
        thought = np.frombuffer(told, THOUGHT, 2, HEAD.itemsize + PICTURE.itemsize)[1]
        heat.append(int(np.argmax(thought["main"].max(1))))
        if t == 0:
            x = match.envs.frames["players"]["x"]
            x[:] = x[:, ::-1].copy()
    match.close()
    assert heat == [NUM_STICK - 1] * EVERY + [0]


def test_a_policy_plays_the_page_as_it_plays_a_match(policies, tmp_path):
    """Frame by frame the game that play.py plays with the same seeds."""
    page = play_out(policies, tmp_path, 200, "checkpoints/latest.pt", "level3")
    policy = play.load_player(policies / "checkpoints" / "latest.pt")
    seen = []

    class Watched(VecEnv):
        def step(self, controllers):
            result = super().step(controllers)
            seen.append((self.final_frames if result[1][0] else self.frames)[0].copy())
            return result

    with Watched(1, [CHARACTERS["fox"], CHARACTERS["marth"]], STAGES["battlefield"], seed=1, max_episode_frames=200,
                 bot_kinds=[[game.BOTS["level3"], 0]]) as envs:
        games = list(play.play(envs, [policy], np.array([[-1, 0]]), 1, np.random.default_rng(1), Pace()))
    assert len(games) == 1 and games[0].frames == 200 and np.array_equal(np.array(seen), page.frames)


# --------------------------------------------------------------------------------------------------------------- inputs

def an_input(number=1, seen=0, **fields):
    sent = np.zeros((), INPUT)
    sent["number"], sent["seen"] = number, seen
    for name, value in fields.items():
        sent["controller"][name] = value
    return sent.tobytes()


def a_match(**order):
    values = {"character": "fox", "opponent_character": "fox", "stage": "final_destination", "opponent": "idle"}
    return Match(Order(**values | order), Opponents("idle"), 1, False, 0)


def test_late_inputs_hold_and_quick_ones_count():
    match = a_match()
    for _ in range(10):
        match.step()
    start = match.frame["players"]["x"][0]
    match.press(an_input(1, main_x=1.))
    for _ in range(30):
        told = match.step()
    assert match.frame["players"]["x"][0] > start + 30                      # it was sent once
    assert np.frombuffer(told, HEAD, 1)["applied"] == 1
    match.press(an_input(2, buttons=BUTTON_X))
    match.press(an_input(3))                                                # up again before the next frame
    match.step()
    assert match.controllers["buttons"][0] == BUTTON_X and match.frame["players"]["action"][0] == game.JUMPSQUAT
    match.step()
    assert match.controllers["buttons"][0] == 0
    match.close()


def test_either_port_is_the_persons():
    match = a_match(port=1)
    match.press(an_input(1, main_x=-1.))
    match.step()
    assert match.controllers["main_x"].tolist() == [0, -1] and match.names == ["idle", "player"]
    match.close()


def test_what_a_page_sends_becomes_a_legal_controller():
    def of(**fields):
        return legal(np.frombuffer(an_input(**fields), INPUT)[0]["controller"])

    assert of(main_x=np.nan, c_y=np.inf, l=np.nan, r=9., buttons=-1)[["main_x", "c_y", "l", "r"]].item() == (0, 0, 0, 1)
    pressed = int(of(buttons=-1)["buttons"])
    assert pressed == sum(game.BUTTONS.values()) and pressed > 0
    diagonal = of(main_x=1., main_y=1.)
    assert .97 < np.hypot(diagonal["main_x"], diagonal["main_y"]) <= 1.0001
    assert of(main_x=.2875)["main_x"] == np.float32(23 / 80) == -of(main_x=-.2875)["main_x"]
    assert of(main_x=.28)["main_x"] == 0 and of(main_x=.2876)["main_x"] == np.float32(23 / 80)
    assert of(l=.29)["l"] == 0 and (of(main_x=-3e38)["main_x"], of(main_x=.5)["main_x"]) == (-1, .5)


# ----------------------------------------------------------------------------------------------------------- the server

@pytest.fixture(scope="module")
def watching(folder, policies):
    policy = play.load_player(policies / "checkpoints" / "latest.pt").policy
    with served(lambda: Site(Library(folder), policy, "latest.pt")) as (address, _):
        yield address


def test_a_recording_reaches_the_page_bit_for_bit(watching, folder):
    status, headers, body = get(watching, "/recording?name=bots.slp", Accept_Encoding="gzip")
    assert status == 200 and headers["Content-Encoding"] == "gzip"
    facts, told = divide(gzip.decompress(body), PICTURE)
    replay = read_replay(folder / "bots.slp")
    frames, controllers = replay.frames[-len(told):], replay.controllers[-len(told):]
    assert np.array_equal(told["frame"], frames) and np.array_equal(told["controllers"], controllers)
    assert len(told) == 1500 and told["frame"]["frame_id"][0] == -40        # where everybody stands, before he may act
    assert facts["frames"] == len(told) and facts["names"] == ["level1", "level9"]
    assert facts["stage"]["name"] == "battlefield" and facts["fighters"]["1"]["name"] == "fox"
    facts, rest = divide(get(watching, "/recording?name=bots.slp&from=1000")[2], PICTURE)
    assert np.array_equal(rest, told[1000:]) and facts["start"] == 1000
    facts, thoughts = divide(get(watching, "/thoughts?name=bots.slp")[2], THOUGHT)
    assert len(thoughts) == 2 * len(told) and thoughts["known"].mean() > .99
    status, headers, body = get(watching, "/slp?name=bots.slp")
    assert body == (folder / "bots.slp").read_bytes() and "bots.slp" in headers["Content-Disposition"]


def test_names_lead_nowhere_else(watching, folder):
    names = [row["name"] for row in json.loads(get(watching, "/state")[2])["recordings"]]
    assert names == ["foreign.slp", "run/script.slp", "bots.slp"]           # the newest last; no link leads outside
    for name in ("../secret.slp", "link.slp", str(folder.parent / "secret.slp"), "run/../../secret.slp", "", "run",
                 "%2e%2e/secret.slp", "bots.slp%00", "/etc/passwd"):
        for path in ("recording", "slp", "thoughts"):
            status, _, body = get(watching, f"/{path}?name={name}")
            assert status == 404 and b"no such recording" in body and b"\n" not in body
    for path in ("/../games/bots.slp", "/bots.slp", "/play", "//etc/passwd", "/page.html"):
        assert get(watching, path)[0] == 404


def test_a_foreign_recording_is_one_line(watching):
    status, _, body = get(watching, "/recording?name=foreign.slp")
    assert (status, body) == (404, b"foreign.slp: not a .slp file; choose another recording")


def test_the_page_is_one_file_that_loads_nothing(watching):
    status, headers, body = get(watching, "/")
    assert status == 200 and "default-src 'none'" in headers["Content-Security-Policy"]
    text = body.decode()
    assert "http://" not in text and "https://" not in text and "innerHTML" not in text


def test_only_our_own_page_is_answered(watching):
    """A site that a browser here has open may call this machine by a name of its own; with the wrong port, too."""
    port = watching.split(":")[2].strip("/")
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", f"127.0.0.1:{int(port) + 1}"):
        assert get(watching, "/state", Host=host)[0] == 403
    assert get(watching, "/state", Origin="http://evil.example")[0] == 403
    assert get(watching, "/state", Origin=watching.rstrip("/"), Host=f"127.0.0.1:{port}")[0] == 200


def test_elsewhere_a_token_is_needed(folder):
    with served(lambda: Site(Library(folder), token="abc")) as (address, _):
        assert address.endswith("/?token=abc")
        assert get(address, "/?token=abc")[0] == get(address, "/state?token=abc", Host="other:1")[0] == 200
        for path in ("/", "/state", "/state?token=", "/state?token=abd", "/recording?name=bots.slp&token=%C3%A9"):
            assert get(address, path)[0] == 403


def test_elsewhere_a_token_is_needed_to_play(tmp_path):
    with served(lambda: Site(Library(tmp_path), games=Games(Opponents("idle"), tmp_path, {}), token="abc")) as (at, _):
        with Tab(at) as tab:
            assert order(tab)
        for address in (at.replace("abc", "abd"), at.partition("?")[0]):
            with pytest.raises(InvalidStatus, match="403"), Tab(address):
                pass


def test_requests_that_make_no_sense_end_with_themselves(watching):
    host, port = watching.split("/")[2].split(":")
    for content in (b"\0" * 5000, b"GET\r\n\r\n", b"POST / HTTP/1.1\r\nHost: x\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n",
                    b"GET /?" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n", b"GET http://[ HTTP/1.1\r\nHost: x\r\n\r\n"):
        with contextlib.suppress(OSError), create_connection((host, int(port)), timeout=.5) as raw:
            raw.sendall(content)
            assert b"200" not in raw.recv(1000)
    assert get(watching, "/state")[0] == 200


def test_a_game_that_is_being_recorded_is_followed(tmp_path):
    frames = record(tmp_path / "other.slp", length=100)
    recorder = Recorder(tmp_path, 1)
    controllers = np.zeros(2, CONTROLLER)
    recorder.begin([0], {0: frames[0]}, {0: controllers})
    library, known = Library(tmp_path), 0
    for until in (40, 99):
        for frame in frames[known + 1:until + 1]:
            recorder.add([0], {0: frame}, {0: controllers})
        recorder._flush()
        known = until
        name = library.listing()[-1]["name"]
        assert name.endswith(".part")
        _, told = divide(encode_recording(library.read(name), 1), PICTURE)
        assert told["frame"]["frame_id"][-1] == frames[until]["frame_id"]
    recorder.close()


# -------------------------------------------------------------------------------------------------------------- playing

@pytest.fixture
def quick(monkeypatch):
    """A clock that does not wait."""
    monkeypatch.setattr(matches, "READY", 0.)
    monkeypatch.setattr(matches, "FRAME_TIME", 1e-4)


@contextlib.contextmanager
def playing(tmp_path, opponents="level1", **options):
    with served(lambda: Site(Library(tmp_path), games=Games(Opponents(opponents), tmp_path, {}, **options))) as both:
        yield both


class Tab:
    """A client that plays as the page does: it tells what it has seen, and what is pressed."""

    def __init__(self, address):
        at, _, query = address.replace("http", "ws", 1).partition("?")
        self.socket = connect(f"{at}play?{query}", max_size=None, proxy=None, close_timeout=.5)
        self.seen, self.fields = 0, {}

    def __enter__(self):
        self.open = contextlib.ExitStack()
        self.socket = self.open.enter_context(self.socket)
        return self

    def __exit__(self, *_):
        self.open.close()

    def send(self, message):
        self.socket.send(message)

    def press(self, **fields):
        self.fields = fields
        self.send(an_input(self.seen + 1, self.seen, **fields))

    def recv(self, timeout=20):
        message = self.socket.recv(timeout=timeout)
        if isinstance(message, bytes):
            self.seen += 1
            if self.seen % 10 == 0:
                self.press(**self.fields)
        elif json.loads(message)["type"] == "begin":
            self.seen = 0
        return message

    def picture(self):
        return np.frombuffer(self.recv(), PICTURE, 1, HEAD.itemsize)[0]


def next_of(tab, kind, seconds=20):
    """The next message of this type; frames are skipped."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        message = tab.recv(seconds)
        if isinstance(message, str) and json.loads(message)["type"] == kind:
            return json.loads(message)
    pytest.fail(f"no {kind}")


def order(tab, **values):
    tab.send(json.dumps(ORDER | values))
    return next_of(tab, "begin")["scene"]


def test_a_whole_game_is_played_recorded_and_saved(tmp_path, quick, capsys):
    """Against level 1, by somebody who runs off the stage, jumps at times, and loses."""
    with playing(tmp_path) as (address, _), Tab(address) as tab:
        scene = order(tab, opponent="level1")
        assert scene["names"] == ["player", "level1"] and scene["thoughts"] is None
        told = []
        while isinstance(message := tab.recv(), bytes):
            told.append(np.frombuffer(message, PICTURE, 1, HEAD.itemsize)[0])
            if len(told) % 25 == 0:
                tab.press(main_x=-1., buttons=BUTTON_X if len(told) % 50 == 0 else 0)
        over = json.loads(message)
        told = np.array(told)
        assert told["frame"]["players"]["stocks"][-1, 0] == 0
        left = told["frame"]["players"]["stocks"][-1, 1]
        assert over["type"] == "over" and over["result"] == f"level1 won, {left} to 0 stocks"
        body = get(address, f"/slp?name={over['recording']}")[2]
        replay = read_replay(tmp_path / over["recording"])
        assert body == (tmp_path / over["recording"]).read_bytes()
        assert np.array_equal(replay.frames[-len(told):], told["frame"]) and replay.meta["end"] == "Game"
        assert replay.controllers["main_x"][-1, 0] == -1 and (replay.controllers["buttons"][:, 0] == BUTTON_X).any()
        assert replay.meta["names"] == ("player", "level1") and replay.meta["winner"] == 1
        order(tab)                                                       # a rematch, on the same connection
        assert isinstance(tab.recv(), bytes)
    assert f"player against level1 on battlefield: {over['result']}" in capsys.readouterr().out


def test_an_order_chooses_everything(tmp_path, policies, quick):
    with playing(tmp_path, policies, max_episode_frames=30) as (address, _), Tab(address) as tab:
        choices = json.loads(get(address, "/state")[2])["play"]
        assert choices["opponents"][0] == choices["defaults"]["opponent"] == "checkpoints/latest.pt"
        assert {"pool/runner_000000000010.pt", "level1", "level9"} <= set(choices["opponents"])
        scene = order(tab, character="mewtwo", opponent_character="sheik", stage="yoshis_story", port=1,
                      opponent="pool/runner_000000000010.pt")
        assert scene["stage"]["name"] == "yoshis_story" and scene["names"] == ["pool/runner_000000000010.pt", "player"]
        assert scene["fighters"].keys() == {"7", "16", "19"} and scene["thoughts"]
        message = [tab.recv() for _ in range(20)][-1]
        picture = np.frombuffer(message, PICTURE, 1, HEAD.itemsize)[0]
        assert picture["frame"]["players"]["character"].tolist() == [CHARACTERS["sheik"], CHARACTERS["mewtwo"]]
        thoughts = np.frombuffer(message, THOUGHT, 2, HEAD.itemsize + PICTURE.itemsize)
        assert thoughts["known"].tolist() == [1, 0]
        assert np.argmax(thoughts["main"][0].max(1)) == 0                   # left, away from whom it meets
        over = next_of(tab, "over")
        assert "A draw" in over["result"]


def test_bad_orders_are_told_and_nothing_ends(tmp_path, policies, quick):
    with playing(tmp_path, policies) as (address, _), Tab(address) as tab:
        for values, said in (
                ({"opponent": "pool/other_000000000020.pt"}, "made for frame schema 000000000000"),
                ({"opponent": "../checkpoints/latest.pt"}, "unknown opponent"), ({"character": "waluigi"}, "waluigi"),
                ({"stage": 3}, "unknown stage"), ({"port": 2}, "must be 0 or 1"), ({"opponent": None}, "have names"),
                ({"type": "stop"}, "does not know"), ({"opponent": "/etc/passwd"}, "unknown opponent")):
            tab.send(json.dumps(ORDER | values))
            message = next_of(tab, "error")["message"]
            assert said in message and "\n" not in message
        for text in ("", "[]", "{", '"start"', '{"type": "start"}', "[" * 3000):
            tab.send(text)
            assert next_of(tab, "error")
        assert order(tab)
        for content in (b"", b"\0" * 35, b"\xff" * 500):
            tab.send(content)
            assert "an input has 36 bytes" in next_of(tab, "error")["message"]
        tab.send('{"type": "delay", "p50": "x", "p99": NaN, "count": 1}')
        assert "a delay is" in next_of(tab, "error")["message"]
        assert isinstance(tab.recv(), bytes)                   # the game went on


def test_a_policy_that_fails_in_mid_game_is_told(tmp_path, policies, quick, monkeypatch, capsys):
    answers = []

    def act(*_):
        answers.append(1)
        if len(answers) > 20:
            raise UserError("small.onnx: answers with what is no action")
        return np.tile(NEUTRAL_ACTION, (1, 2, 1))

    with playing(tmp_path, policies) as (address, _), Tab(address) as tab:
        monkeypatch.setattr(inference, "act", act)
        order(tab, opponent="checkpoints/latest.pt")
        message = next_of(tab, "error")
        assert message["over"] and "answers with what is no action" in message["message"]
        order(tab)                                                          # and another game can begin
        assert isinstance(tab.recv(), bytes)
    assert capsys.readouterr().err == ""


def test_who_floods_is_shut_out_and_the_others_play_on(tmp_path):
    with playing(tmp_path) as (address, site), Tab(address) as victim:
        order(victim)
        for flood in (lambda s: [s.send(an_input()) for _ in range(5000)], lambda s: s.send("x" * 10_000),
                      lambda s: [s.send("garbage") for _ in range(100)]):
            with Tab(address) as tab:
                order(tab)
                with pytest.raises(ConnectionClosed):
                    flood(tab)
                    next_of(tab, "never")
                assert tab.socket.close_code in (1008, 1009)
        while isinstance(victim.recv(0), str):
            pass
        assert isinstance(victim.recv(5), bytes)
        wait_for(lambda: len(site.games.free) == matches.MOST_GAMES - 1)


def wait_for(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not come true"
        time.sleep(.01)


def test_several_tabs_are_several_games_up_to_a_bound(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(matches, "MOST_GAMES", 2)
    monkeypatch.setattr(matches, "READY", 0.)
    monkeypatch.setattr(matches, "FRAME_TIME", 1 / 240)
    before = threading.active_count()
    with playing(tmp_path) as (address, site):
        with Tab(address) as one:
            order(one)
            with Tab(address) as two, Tab(address) as three:
                assert order(two, character="link")["fighters"].keys() == {"6", "18"}
                three.send(json.dumps(ORDER))
                assert "2 games are on already" in next_of(three, "error")["message"]
                one.press(main_x=1.)
                x = [[tab.picture()["frame"]["players"]["x"][0] for _ in range(120)] for tab in (one, two)]
                assert max(x[0]) > max(x[1]) + 10
            wait_for(lambda: len(site.games.free) == 1)                     # their tabs are closed
            with Tab(address) as four:
                order(four)
        wait_for(lambda: len(site.games.free) == 2)
        left = [path for path in tmp_path.iterdir() if path.suffix == ".part"]
        assert not left and all(read_replay(path).meta["end"] == "NoContest" for path in tmp_path.glob("*.slp"))
        assert len(list(tmp_path.glob("*.slp"))) == 3
    wait_for(lambda: threading.active_count() <= before)
    assert capsys.readouterr().out.count("left") == 3


def test_starts_in_a_row_leave_one_game(tmp_path, quick):
    with playing(tmp_path) as (address, site):
        with Tab(address) as tab:
            for _ in range(5):
                tab.send(json.dumps(ORDER))
            for _ in range(5):
                next_of(tab, "begin")
            assert len(site.games.free) == matches.MOST_GAMES - 1
        wait_for(lambda: len(site.games.free) == matches.MOST_GAMES)


def test_a_pause_stops_the_clock(tmp_path, monkeypatch):
    monkeypatch.setattr(matches, "READY", 0.)
    with playing(tmp_path) as (address, _), Tab(address) as tab:
        order(tab)
        last = [tab.recv() for _ in range(3)][-1]
        tab.send('{"type": "pause", "on": true}')
        with pytest.raises(TimeoutError):
            for _ in range(60):
                last = tab.recv(.5)
        tab.send('{"type": "pause", "on": false}')
        ids = [np.frombuffer(message, PICTURE, 1, HEAD.itemsize)["frame"]["frame_id"][0]
               for message in (last, tab.recv())]
        assert ids[1] == ids[0] + 1


def test_a_page_that_falls_behind_slows_its_own_game(tmp_path, quick):
    with playing(tmp_path) as (address, _), Tab(address) as slow, Tab(address) as other:
        order(slow)
        slow.recv = lambda timeout: slow.socket.recv(timeout=timeout)       # says nothing of what it has seen
        order(other)
        with pytest.raises(TimeoutError):
            came = [slow.recv(1)]
            while True:
                came.append(slow.recv(1))
        assert len(came) == matches.MOST_AHEAD + 1
        assert len([other.picture() for _ in range(300)]) == 300
        slow.send(an_input(1, len(came)))
        assert isinstance(slow.recv(20), bytes)


def test_a_full_disk_costs_the_recording_and_no_game(tmp_path, monkeypatch, quick, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    with playing(tmp_path, max_episode_frames=60) as (address, _), Tab(address) as tab:
        monkeypatch.setattr("cleanmelee.recording.SlpWriter.add", full)
        order(tab)
        assert next_of(tab, "over")["recording"] == ""
    assert "No space left on device" in capsys.readouterr().err


def test_a_game_whose_recording_cannot_begin_goes_on(tmp_path, monkeypatch, quick, capsys):
    def taken(*_):
        raise UserError("game.slp.part: another process is recording to this file")

    added = []
    monkeypatch.setattr(Recorder, "begin", taken)
    monkeypatch.setattr(Recorder, "add", lambda *_: added.append(1))
    with playing(tmp_path, max_episode_frames=60) as (address, _), Tab(address) as tab:
        order(tab)
        assert next_of(tab, "over")["recording"] == "" and not added
    assert "the game goes on unrecorded" in capsys.readouterr().err


def test_the_server_stops_with_games_on(tmp_path):
    with contextlib.ExitStack() as later:
        with playing(tmp_path) as (address, _):
            tab = later.enter_context(Tab(address))
            order(tab)
            tab.recv()
        with pytest.raises(ConnectionClosed):
            next_of(tab, "never")
    assert [path.suffix for path in tmp_path.iterdir()] == [".slp"]


# ----------------------------------------------------------------------------------------------------- the command line

@pytest.mark.parametrize("flags, said", [
    ({"watch": "nowhere"}, "no such file or folder"), ({"watch": ".", "serve": "level1"}, "one of them"),
    ({"watch": ".", "opponent": "idle"}, "--opponent idle: means nothing for the page"),
    ({"serve": "level1", "num_games": 3}, "--num-games 3: means nothing"),
    ({"serve": "nowhere"}, "name a policy's file"),
    ({"serve": "level1", "character": "fox,marth"}, "unknown character"), ({"watch": "latest"}, "there is no run"),
    ({"serve": "latest"}, "there is no run"), ({"watch": ".", "policy": "nowhere.pt"}, "no such checkpoint"),
    ({"watch": ".", "policy": "small.onnx"}, "an export tells no values")])
def test_mistakes_are_one_line(flags, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(server, "run", lambda *_: pytest.fail("it has started"))
    with pytest.raises(UserError, match=said) as error:
        play.main(from_flags(play.Args, flags))
    assert "\n" not in str(error.value)


def test_a_port_in_use_is_one_line(folder, watching):
    port = int(watching.split(":")[2].strip("/"))
    with pytest.raises(UserError, match=f"--web-port {port}: the port is in use"):
        play.main(from_flags(play.Args, {"watch": str(folder), "web_port": port}))
    for host in ("no.such.host.invalid", "a..b", "192.0.2.1"):
        with pytest.raises(UserError, match=f"^--host {host}: no address of this machine; "):
            play.main(from_flags(play.Args, {"watch": str(folder), "web_port": 0, "host": host}))


def test_the_flags_reach_the_page(policies, folder, tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(server, "run", lambda *given: started.append(given))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(policies, tmp_path / "runs" / "mine")
    play.main(from_flags(play.Args, {"serve": "latest", "character": "fox", "stage": "dream_land", "web_port": 1,
                                     "record": "here", "seed": 7, "max_episode_frames": 9, "deterministic": True}))
    site, host, port = started.pop()
    games = site.games
    assert (host, port, site.token) == ("", 1, "") and games.opponents.first == "checkpoints/latest.pt"
    assert games.defaults == {"character": "fox", "opponent_character": "fox", "stage": "dream_land"}
    assert (games.seed, games.max_episode_frames, games.deterministic) == (7, 9, True)
    assert games.recorder.folder == site.library.place and site.library.place.name == "here"
    games.close()
    play.main(from_flags(play.Args, {"watch": "latest", "host": "0.0.0.0",
                                     "policy": str(policies / "checkpoints" / "latest.pt")}))
    site, host, port = started.pop()
    assert host == "0.0.0.0" and len(site.token) > 20 and site.policy and site.library.place.name == "mine"


# ------------------------------------------------------------------------------------------------------------ a browser

@pytest.fixture(scope="module")
def browser():
    with chromium.Page(width=800, height=900) as page:
        yield page


PIXELS = """(() => {
  const {data} = $("stage").getContext("2d").getImageData(0, 0, $("stage").width, $("stage").height)
  let sum = 0
  for (let k = 0; k < data.length; k += 4) sum = (sum * 31 + data[k] * 7 + data[k + 1] * 3 + data[k + 2]) % 1000003
  return sum
})()"""


@needs_chromium
def test_a_browser_draws_a_recorded_game(watching, folder, browser):
    browser.go(watching + "#bots.slp")
    browser.wait("view.tape && view.tape.length > 1000 && view.tape.minds.length === view.tape.length")
    browser.run("view.playing = false; 1")
    seen = [browser.run(f"view.at = {k}; show(); {PIXELS}") for k in (0, 100, 200, 100)]
    assert seen[1] == seen[3] and len(set(seen)) == 3
    assert browser.run(f"toggle('hurtboxes'); {PIXELS}") != seen[1]
    browser.key("End", True)
    replay = read_replay(folder / "bots.slp")
    stocks = browser.run("[0, 1].map(k => Number(document.querySelector(`.hud[data-player='${k}']`).dataset.stocks))")
    assert stocks == replay.frames["players"]["stocks"][-1].tolist() and min(stocks) < 4
    text = browser.run("[...document.querySelectorAll('.percent')].map(x => x.textContent)")
    assert text == [f"{int(p)}%" for p in replay.frames["players"]["percent"][-1]]
    before = browser.run("view.at")
    browser.key("ArrowLeft", True)
    assert browser.run("view.at") == before - 1
    browser.key("KeyH", True)
    assert browser.run("view.hitboxes && document.querySelector('.facts').textContent.includes('value')")
    light = browser.run(PIXELS)
    assert browser.run(f"$('theme').click(); {PIXELS}") != light
    assert browser.run("document.documentElement.scrollWidth") <= 800
    browser.go(watching + "#run/script.slp")
    browser.run("location.reload(); 1")
    browser.wait("typeof view !== 'undefined' && view.tape && view.tape.length === 60")
    assert browser.run("document.querySelector('.hud .name').textContent").startswith("<img src=x")
    assert browser.run("document.title") == "CleanMelee" and not browser.errors


@needs_chromium
def test_a_browser_shows_what_is_wrong(watching, browser):
    browser.go(watching)
    browser.wait("typeof site !== 'undefined' && site.recordings.length")
    browser.run("watch('foreign.slp')")
    assert browser.run("$('message').textContent") == "foreign.slp: not a .slp file; choose another recording"
    browser.run("watch('gone.slp')")
    assert "no such recording" in browser.run("$('message').textContent") and not browser.errors


SCRIPT = {90: ("keydown", "KeyL"), 93: ("keyup", "KeyL"), 100: ("keydown", "KeyJ"), 103: ("keyup", "KeyJ"),
          120: ("keydown", "KeyI"), 130: ("keyup", "KeyI"), 140: ("keydown", "ArrowUp"), 145: ("keyup", "ArrowUp")}
FOLLOW_SCRIPT = """
const before = received
received = data => {
  before(data)
  const [kind, code] = script[view.tape.length] || []
  if (kind) dispatchEvent(new KeyboardEvent(kind, {code}))
}
1"""


@needs_chromium
def test_keys_move_the_character_and_a_game_is_played_in_a_browser(tmp_path, browser, monkeypatch, capsys):
    """A whole game against level 1, by keys that a script presses; what they did is in the recording."""
    monkeypatch.setattr(matches, "READY", .2)
    with playing(tmp_path, max_episode_frames=240) as (address, _):
        browser.go(address)
        browser.wait("typeof site !== 'undefined' && site.play && $('opponent').options.length")
        browser.run(f"window.script = {json.dumps(SCRIPT)}; {FOLLOW_SCRIPT}")
        browser.run("$('character').value = 'fox'; $('opponent').value = 'level1'; $('start').click(); 1")
        browser.wait("game.on && view.tape.length > 3")
        browser.key("KeyD", True)                                           # this one goes through the browser
        browser.wait("game.over || view.tape.length > 80")
        browser.key("KeyD", False)
        browser.wait("game.over", 30)
        assert "input to picture" in browser.run("$('pace').textContent")
        name, result = browser.run("game.name"), browser.run("$('result').textContent")
        assert "won" in result or "draw" in result
        assert browser.run("$('start').textContent") == "Rematch" and not browser.errors
        replay = controlled(read_replay(tmp_path / name))
        mine, x = replay.controllers[:, 0], replay.frames["players"]["x"][:, 0]
        assert len(replay) == 240 and replay.meta["names"] == ("player", "level1")
        held = np.flatnonzero(mine["main_x"] == 1)
        assert len(held) >= 20 and x[held[0] + 20] > x[held[0]] + 10        # it ran to the right
        for button in (BUTTON_A, BUTTON_X):
            assert (mine["buttons"] & button).any()
        assert (mine["r"] == 1).any() and (mine["c_y"] == 1).any()
        assert browser.run("view.tape.length") == 241                       # and all of it has been shown
        browser.run("$('start').click(); 1")
        browser.wait("game.on && view.tape.length > 5")
        browser.go("about:blank")                                           # the tab is closed
        said = []
        wait_for(lambda: said.append(capsys.readouterr().out) or "left" in "".join(said))

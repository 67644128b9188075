"""The table of features, and what `observe` makes of a frame by it: nothing of the future, nothing of the opponent's
hand, and the same of a file as of the game itself."""

import numpy as np
import pytest

import observation_table
from cleanmelee.controller import decode_actions
from cleanmelee.features import FEATURES, FLOAT_NAMES, NUM_FLOATS, OWN_CONTROLLER, num_floats
from cleanmelee.frame import BUTTON_B, BUTTON_L, CONTROLLER, FRAME, GAMEANDWATCH, LINK, MEWTWO, SHEIK, STAGES
from cleanmelee.game import STORES, TABLES
from cleanmelee.game.characters import FILLED_BUCKET
from cleanmelee.game.ids import FIRST_OWN_ACTION, YOSHIS_STORY
from cleanmelee.games import VecEnv
from cleanmelee.observation import PLAN, observe
from cleanmelee.recording import write_slp
from cleanmelee.replays import read_replay
from helpers import games_of, random_actions, random_frames

STORING = [(MEWTWO, SHEIK), (LINK, GAMEANDWATCH), (SHEIK, MEWTWO), (GAMEANDWATCH, LINK)]


def special_inputs(rng, steps: int, n: int) -> np.ndarray:
    """[T, N, 2] CONTROLLER of players who begin a special every second, mostly neutral or down, hold B for a while and
    perhaps a shield at the end of it, and now and then press anything."""
    moves = steps // 60 + 1
    frame = np.arange(moves * 60).reshape(moves, 60, 1, 1)
    way = np.array([(0, 0), (0, 0), (0, -1), (0, -1), (1, 0)])[rng.integers(0, 5, (moves, 1, n, 2))]   # x, y
    length = rng.integers(2, 58, (moves, 1, n, 2))
    pressed, shield = frame % 60 < length, (frame % 60 >= length - 2) & (rng.random((moves, 1, n, 2)) < .5)
    chosen = np.zeros((moves, 60, n, 2), CONTROLLER)
    chosen["main_x"], chosen["main_y"] = way[..., 0] * (frame % 60 < 3), way[..., 1] * (frame % 60 < 3)
    chosen["buttons"] = np.where(pressed, BUTTON_B, 0) | np.where(shield, BUTTON_L, 0)
    chosen = chosen.reshape(-1, n, 2)[:steps]
    wild = rng.random(chosen.shape) < .02
    chosen[wild] = decode_actions(random_actions(rng, int(wild.sum())))
    return chosen


def play(chosen: np.ndarray, stage: str = "dream_land") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Games of characters that store something -> frames [T + 1, N], controllers [T + 1, N, 2], hidden [T + 1, N]."""
    steps, n = chosen.shape[:2]
    with VecEnv(n, [STORING[k % len(STORING)] for k in range(n)], STAGES[stage], seed=4, max_episode_frames=0) as envs:
        seen = [(envs.frames.copy(), envs.controllers.copy(), envs.games.hidden.copy())]
        for controllers in chosen:
            ends = envs.step(controllers)
            assert not ends[0].any()
            seen.append((envs.frames.copy(), envs.controllers.copy(), envs.games.hidden.copy()))
    return tuple(np.stack(part) for part in zip(*seen, strict=True))


@pytest.fixture(scope="module")
def games():
    chosen = special_inputs(np.random.default_rng(5), 1200, 8)
    sheik = [[who == SHEIK for who in STORING[g % len(STORING)]] for g in range(8)]
    chosen["main_y"][:, sheik] = 0                                          # she would become Zelda
    chosen["main_x"][:, sheik] = 0                                          # and throw her chain
    return play(chosen)


def from_file(path, frames, controllers):
    """A game, written and read back, from its first frame on."""
    write_slp(path, frames, controllers)
    replay = read_replay(path)
    first = len(replay) - len(frames)
    return replay, first


def test_the_page_is_the_table():
    assert observation_table.PAGE.read_text() == observation_table.markdown(), (
        "run python tests/tools/observation_table.py")
    assert len({feature.name for feature in FEATURES}) == len(FEATURES)


def test_a_file_shows_what_the_game_showed(games, tmp_path):
    frames, controllers, _ = games
    shown = set()
    for g in range(frames.shape[1]):
        replay, first = from_file(tmp_path / f"{g}.slp", frames[:, g], controllers[:, g])
        live = observe(frames[:, g], controllers[:, g])
        read = observe(replay.frames[first:], replay.controllers[first:])
        for ours, theirs in zip(live, read, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        shown |= {FLOAT_NAMES[k] for k in np.flatnonzero((live.floats != live.floats[0]).any((0, 1)))}
    whose = ("player", "opponent")
    assert shown >= {f"{who}.{what}" for who in whose for what in ("charge", "hammer", "hammer_before", "holding")}
    assert shown >= {"stage.clock", "stage.wind", "item0.timer", "item0.state", "player.edge_left"}


def test_no_observation_knows_what_comes_later(tmp_path):
    """Games that part after a while are the same until then to both players, whether live or in a file, and so is what
    a learner is given of that time but for its last answers."""
    part, rng = 240, np.random.default_rng(6)                               # a second begins, and with it other moves
    one = special_inputs(rng, 400, 4)
    other = one.copy()
    other[part:] = special_inputs(rng, len(one) - part, 4)
    one, other = play(one), play(other)
    at_once = 0
    for g in range(4):
        seen = []
        for k, (frames, controllers, _) in enumerate((one, other)):
            replay, first = from_file(tmp_path / f"{k}.slp", frames[:, g], controllers[:, g])
            rows = games_of([replay], delay=2).read(np.arange(2), np.full(2, first), 380)
            known = [*observe(frames[:, g], controllers[:, g]),
                     *observe(replay.frames[first:], replay.controllers[first:]),
                     rows.obs.floats[..., :NUM_FLOATS].numpy(), rows.obs.ints.numpy()]
            known.append(rows.obs.floats[:-2].numpy())                     # with what waits: two frames of the own hand
            seen.append(known)
        for k, (ours, theirs) in enumerate(zip(*seen, strict=True)):
            same = part + 1 - 2 * (k == len(seen[0]) - 1)
            np.testing.assert_array_equal(ours[:same], theirs[:same])
        assert not np.array_equal(seen[0][0][part + 1:], seen[1][0][part + 1:])
        at_once += not np.array_equal(*(floats[part + 1, :, :OWN_CONTROLLER.start] for floats, *_ in seen))
    assert at_once                                                          # a frame too early would have shown


def test_the_opponents_controller_stays_in_its_hand():
    rng = np.random.default_rng(7)
    frames, now = random_frames(rng, 50), decode_actions(random_actions(rng, 50, 2))
    waiting = decode_actions(random_actions(rng, 50, 2, 3))
    for player in (0, 1):
        changed, later = now.copy(), waiting.copy()
        changed[:, 1 - player] = decode_actions(random_actions(rng, 50))
        later[:, 1 - player] = decode_actions(random_actions(rng, 50, 3))
        a, b = observe(frames, now, waiting), observe(frames, changed, later)
        np.testing.assert_array_equal(a.floats[:, player], b.floats[:, player])
        differs = (a.floats != b.floats).any(0)[1 - player]                 # to the other it is the own hand
        assert differs[OWN_CONTROLLER.start:].all() and not differs[:OWN_CONTROLLER.start].any()
    assert a.floats.shape[-1] == num_floats(3)


def test_the_store_is_what_the_game_hides(games):
    """As a shot begins, and while Mewtwo keeps a ball that it has not thrown. The game's own steps are shorter than
    those that people's files show, so between two of them they differ a little."""
    frames, _, hidden = games
    stored, secret, players = frames["stored"], hidden["players"], frames["players"]
    alive, character, action = players["action"] > 13, players["character"], players["action"]
    for who, full in ((SHEIK, 90), (MEWTWO, 98), (LINK, 60)):
        charges, leaves, _ = STORES[who]
        begun = (character == who) & np.isin(action, leaves)
        begun[1:] &= np.isin(action[:-1], charges)
        assert (stored["charge"][begun] > .2).sum() > 2, who
        np.testing.assert_allclose(stored["charge"][begun], np.minimum(secret["charge"][begun] / full, 1), atol=.08)
    kept = alive & (character == MEWTWO) & (action < FIRST_OWN_ACTION)
    assert (stored["charge"][kept] > .2).sum() > 100
    np.testing.assert_allclose(stored["charge"][kept], secret["charge"][kept] / 98, atol=.08)
    link, watch = alive & (character == LINK), alive & (character == GAMEANDWATCH)
    assert (stored["holding"] == secret["holding"])[link].mean() > .99 and stored["holding"][link].sum() > 100
    known = watch & (stored["hammer"] > 0)
    assert (stored["hammer"] == secret["last_judge"] + 1)[known].all() and len(np.unique(stored["hammer"][known])) > 4
    known &= stored["hammer_before"] > 0
    assert (stored["hammer_before"] == secret["judge_before"] + 1)[known].all() and known.sum() > 100
    assert not stored["charge"][~alive].any()


def test_the_bucket_counts_what_it_swallows():
    """Needles until it is full, then a rest, then it is poured out."""
    with VecEnv(1, [(SHEIK, GAMEANDWATCH)], STAGES["final_destination"], seed=1, max_episode_frames=0) as envs:
        seen = []
        for t in range(500):
            controllers = np.zeros((1, 2), CONTROLLER)
            controllers["buttons"][:, 0] = BUTTON_B if t < 180 and t % 60 < 5 else 0
            controllers["buttons"][:, 1] = BUTTON_B if t < 180 or t > 350 else 0
            controllers["main_y"][:, 1] = -1 if t < 180 or t > 349 else 0
            envs.step(controllers)
            seen.append((envs.frames["stored"]["charge"][0, 1], envs.games.hidden["players"]["bucket"][0, 1]))
    shown, true = np.array(seen).T
    poured = int(np.flatnonzero(np.diff(true) < 0)[0])                      # the shot's action has just begun
    assert set(true[:poured + 1]) == {0, 1, 2, FILLED_BUCKET} and poured > 349
    np.testing.assert_allclose(shown[:poured], true[:poured] / FILLED_BUCKET, atol=1e-6)
    assert shown[-1] == true[-1] == 0


def test_places_are_measured_from_the_stage():
    """Distances add up to the stage, Randall goes round by the clock, and an unknown stage has no edges."""
    frames = random_frames(np.random.default_rng(8), 200)
    floats = observe(frames, np.zeros((200, 2), CONTROLLER)).floats
    value = {name: floats[..., k] / PLAN.scales[k] for k, name in enumerate(FLOAT_NAMES)}
    stage = TABLES.stages[frames["stage"]]
    for low, high, size in (("edge_left", "edge_right", stage["floor_right"][:, 0] - stage["floor_left"][:, 0]),
                            ("blast_left", "blast_right", stage["blast_right"] - stage["blast_left"]),
                            ("blast_bottom", "blast_top", stage["blast_top"] - stage["blast_bottom"])):
        for who in ("player", "opponent"):
            for side in (0, 1):
                np.testing.assert_allclose((value[f"{who}.{low}"] + value[f"{who}.{high}"])[:, side], size, atol=1e-2)
    cloud = frames["stage"] == YOSHIS_STORY
    left, height = TABLES.randall[frames["frame_id"][cloud] % 1200].T
    np.testing.assert_allclose(np.abs(value["stage.randall_x"][cloud, 0]), np.abs(left + 11.9 / 2), atol=1e-3)
    np.testing.assert_allclose(value["stage.randall_y"][cloud, 0], height, atol=1e-3)
    assert not value["stage.randall_y"][~cloud].any()
    frames["stage"] = 40
    names = [k for k, name in enumerate(FLOAT_NAMES) if ".edge_" in name or ".blast_" in name]
    assert len(names) == 12 and not observe(frames, np.zeros((200, 2), CONTROLLER)).floats[..., names].any()


def test_a_timer_without_end_is_as_good_as_a_long_one():
    frames = np.zeros(1, FRAME)
    frames["items"]["timer"][0, :3] = 50, 1e5, -1e5
    floats = observe(frames, np.zeros((1, 2), CONTROLLER)).floats[0, 0]
    timers = [floats[FLOAT_NAMES.index(f"item{slot}.timer")] for slot in range(3)]
    np.testing.assert_allclose(timers, [.5, 3, -3], atol=1e-6)

"""The scripted levels: order of strength, delay, what they may see, and every character on every stage."""

import inspect

import numpy as np
import pytest

import bench_levels
from cleanmelee import game

TEN, STAGES = list(game.CHARACTERS.values()), list(game.STAGES.values())
MEWTWO, FOX = game.CHARACTERS["mewtwo"], game.CHARACTERS["fox"]
MINUTE = 60 * 60                                       # frames; who has more stocks then, or less percent, has won
DELAYS = game.knowledge.KNOWLEDGE.levels["delay"].astype(int)


@pytest.fixture(scope="module")
def film():
    """FRAME [600, 4]: four games of level 6 against itself."""
    frames, hidden, bots = games(4, ("level6", "level6"), seed=3)
    controllers, shots = np.zeros((4, 2), game.CONTROLLER), []
    for _ in range(600):
        shots.append(frames.copy())
        game.bot_controllers(frames, bots, controllers)
        game.step_games(frames, hidden, controllers)
    return np.array(shots)


def games(num_games, kinds, characters=(MEWTWO, FOX), stages=32, seed=0):
    frames, hidden = np.zeros(num_games, game.FRAME), np.zeros(num_games, game.HIDDEN)
    game.reset_games(frames, hidden, np.ones(num_games, bool), np.broadcast_to(characters, (num_games, 2)),
                     np.broadcast_to(stages, num_games), np.arange(num_games, dtype=np.uint64) + 100 * seed)
    return frames, hidden, new_bots(num_games, kinds, seed)


def new_bots(num_games, kinds, seed=0):
    bots = np.zeros((num_games, 2), game.BOT)
    bots["kind"] = [game.BOTS[kind] for kind in kinds]
    bots["seed"] = np.random.default_rng(seed).integers(1, 2 ** 63, (num_games, 2), np.uint64)
    return bots


def answers(film, level, changed=None):
    """CONTROLLER [T, N, 2] of bots that watch a film; they do not act in it."""
    bots, given = new_bots(film.shape[1], (f"level{level}",) * 2), np.zeros((*film.shape, 2), game.CONTROLLER)
    for index, frames in enumerate(film):
        shown = frames.copy()
        if changed is not None:
            changed(index, shown["players"])
        before = shown.tobytes()
        game.bot_controllers(shown, bots, given[index])
        assert shown.tobytes() == before
    return given


def test_a_stronger_level_beats_a_weaker_one():
    steps = (12, 9), (9, 5), (5, 1), (3, 1)
    pairs = [(strong, weak, character) for strong, weak in steps for character in (MEWTWO, FOX)]
    strong, weak, characters = np.repeat(pairs, 20, axis=0).T
    final, _, side = bench_levels.play([f"level{n}" for n in strong], [f"level{n}" for n in weak],
                                       (characters, characters), 32, len(characters), max_frames=2 * MINUTE)
    wins = (bench_levels.outcomes(final) * (1 - 2 * side) > 0).reshape(len(pairs), 20).sum(1)
    assert (wins >= 14).all(), dict(zip(pairs, wins, strict=True))


def test_delays_shorten_from_level_to_level():
    assert (np.diff(DELAYS[1:]) < 0).all() and DELAYS.max() <= game.knowledge.MAX_DELAY and DELAYS[-1] == 0
    assert [game.BOTS[f"level{n}"] for n in range(1, 13)] == [game.knowledge.FIRST_LEVEL + n for n in range(12)]


@pytest.mark.parametrize("level", [1, 5, 9, 12])
def test_a_change_of_the_other_is_answered_after_the_delay_and_not_before(film, level):
    plain, answered = answers(film, level), []
    for start in range(60, 500, 40):
        def changed(index, players, start=start):
            if index >= start:                         # the one on port 1 is suddenly elsewhere, doing something else
                players["x"][:, 0] = np.clip(-players["x"][:, 0], -60, 60)
                players["y"][:, 0], players["airborne"][:, 0], players["action"][:, 0] = 0, 0, game.DASH_ATTACK
                players["action_frame"][:, 0], players["hurtbox"][:, 0] = 3, 0
        other = answers(film, level, changed)[..., 1]
        differs = (other != plain[..., 1]).any(1).nonzero()[0]
        assert len(differs) and differs[0] >= start + DELAYS[level], (start, differs[:1])
        answered.append(differs[0] - start)
    assert min(answered) == DELAYS[level]              # and then it does see it


@pytest.mark.parametrize("level", [1, 5, 9, 11])
def test_a_blow_is_felt_after_the_delay(film, level):
    sticks, start = ("main_x", "main_y"), 100
    def changed(index, players):
        if index >= start:
            for name, value in (("action", game.DAMAGE_FLY), ("airborne", 1), ("y", 30),
                                ("hitlag", max(0, start + 60 - index)),
                                ("hitstun", 40), ("in_hitstun", 1), ("kb_vx", 3), ("kb_vy", 2)):
                players[name][:, 1] = value
    given = answers(film, level, changed)[:, :, 1]
    for name in sticks:
        held = given[name][start:start + DELAYS[level]]
        assert (held == held[0]).all()
    felt = given[start + DELAYS[level]]
    assert any((felt[name] != given[name][start]).any() for name in sticks)


def test_levels_read_frames_and_nothing_else(film):
    """No hidden state comes in, and both ports judge alike: with the players swapped they answer swapped."""
    assert list(inspect.signature(game.bot_controllers).parameters) == ["frames", "bots", "controllers"]
    plain = answers(film, 9)
    mirror = film.copy()
    mirror["players"] = film["players"][..., ::-1]
    mirror["items"]["owner"] = np.where(film["items"]["present"], 1 - film["items"]["owner"], 0)
    bots, given = new_bots(film.shape[1], ("level9", "level9"))[:, ::-1].copy(), np.zeros_like(plain)
    for index, frames in enumerate(mirror):
        game.bot_controllers(frames, bots, given[index])
    assert (given[..., ::-1] == plain).all()
    assert len(np.unique(plain["buttons"])) > 3        # they did something


def test_same_seed_same_game_and_another_seed_another():
    def run(seed):
        frames, hidden, bots = games(4, ("level9", "level4"))
        bots["seed"] = new_bots(4, ("level9", "level4"), seed)["seed"]
        controllers = np.zeros((4, 2), game.CONTROLLER)
        for _ in range(900):
            game.bot_controllers(frames, bots, controllers)
            game.step_games(frames, hidden, controllers)
        return frames.tobytes(), bots.tobytes()
    assert run(1) == run(1) != run(2)


def test_a_mirror_match_does_not_depend_on_the_port():
    final, *_ = bench_levels.play("level7", "level7", (MEWTWO, MEWTWO), 32, 100, max_frames=MINUTE)
    wins = (bench_levels.outcomes(final) > 0).mean()
    low, high = bench_levels.wilson_interval(100 * wins, 100)
    assert low < .5 < high


MATCHES = [(9, 5, 21), (4, 1, 21), (1, 1, 0), (5, 5, 0), (9, 9, 0)]  # levels; how far on the second's character is


@pytest.fixture(scope="module")
def grid():
    """Every character on every stage in all MATCHES at once: final FRAME [matches, N], Tally, characters, stages."""
    characters, stages = np.repeat(TEN, len(STAGES)), np.tile(STAGES, len(TEN))
    first, second = ([f"level{levels[who]}" for levels in MATCHES for _ in stages] for who in (0, 1))
    others = np.concatenate([np.roll(characters, shift) for _, _, shift in MATCHES])
    times = len(MATCHES)
    final, tally, _ = bench_levels.play(first, second, (np.tile(characters, times), others), np.tile(stages, times),
                                        times * len(stages))
    return final.reshape(times, -1), tally, characters, stages


def test_every_character_fights_to_the_end_on_every_stage(grid):
    final, _, characters, stages = grid
    players = final["players"]
    for name in ("x", "y", "percent", "self_vx_air", "self_vy", "kb_vx", "kb_vy"):
        assert np.isfinite(players[name]).all()
    unfinished = np.argwhere((players["stocks"][:2] > 0).all(-1))  # two of the first level may run into the clock
    assert game.game_over(final.ravel()).all()
    assert not len(unfinished), [(MATCHES[m], characters[g], stages[g]) for m, g in unfinished]


def test_few_stocks_are_thrown_away(grid):
    final, tally, *_ = grid
    for index, match in enumerate(MATCHES):
        games = slice(index * final.shape[1], (index + 1) * final.shape[1])
        lost, fell = tally.lost[games].sum(), tally.suicides[games].sum()
        assert lost > 200 and fell <= .06 * lost, f"{match}: {fell} of {lost} stocks lost without a blow"


@pytest.mark.parametrize("character", TEN)
def test_level_nine_finds_back_to_the_stage(character):
    frames, hidden, bots = games(16, ("level9", "idle"), (character, FOX))
    side = np.where(np.arange(16) % 2, 1, -1)
    players, secrets = frames["players"], hidden["players"]
    players["x"][:, 0] = side * (85.6 + np.repeat([12, 20, 28, 36, 12, 20, 28, 36], 2))
    players["y"][:, 0], players["airborne"][:, 0], players["action"][:, 0] = np.repeat([10, -15], 8), 1, game.FALL
    players["jumps"][:, 0], players["facing"][:, 0], secrets["air_frames"][:, 0] = 1, -side, 20
    controllers = np.zeros((16, 2), game.CONTROLLER)
    for _ in range(240):
        game.bot_controllers(frames, bots, controllers)
        game.step_games(frames, hidden, controllers)
    assert (players["stocks"][:, 0] == 4).mean() >= .8


def test_every_swing_of_every_character_is_known():
    swings = game.knowledge.KNOWLEDGE.swings[TEN][:, :game.knowledge.SWING_SPECIAL]
    unknown = np.argwhere(swings["first"] == 0)        # Ganondorf's up tilt strikes after the last frame of the tables
    assert unknown.tolist() == [[TEN.index(game.CHARACTERS["ganondorf"]), game.knowledge.SWING_UTILT]]
    swings = swings[swings["first"] > 0]
    assert (swings["frames"] >= swings["last"]).mean() > .95
    assert (swings["front"] > swings["back"]).all() and (swings["high"] > swings["low"]).all()

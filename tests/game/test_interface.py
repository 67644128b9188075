"""What the rest of the program may rely on: frames, controllers, the same game from the same seed, bots."""

import numpy as np
import pytest

from cleanmelee import game
from helpers import SEVEN, Game, batch, play

FOX, MARTH = game.FOX, game.MARTH
BATTLEFIELD, FINAL_DESTINATION = game.BATTLEFIELD, game.FINAL_DESTINATION


def test_reset_clears_everything_and_places_both_players():
    match = Game(FOX, MARTH)
    match.step(dict(main_x=1.0), dict(buttons=game.BUTTON_X), 30)
    match.frames["items"]["present"] = 1
    match.hidden["players"]["stale"] = 7
    game.reset_games(match.frames, match.hidden, np.ones(1, bool), np.array([[FOX, MARTH]]), np.array([32]),
                     np.array([1], np.uint64))
    fresh = Game(FOX, MARTH)
    assert match.frames.tobytes() == fresh.frames.tobytes() and match.hidden.tobytes() == fresh.hidden.tobytes()
    players = fresh.players
    assert fresh.frames["frame_id"][0] == game.FIRST_CONTROL_FRAME - 1
    assert list(players["x"]) == [-60, 60] and list(players["facing"]) == [1, -1]
    assert list(players["stocks"]) == [4, 4] and not players["airborne"].any() and players["present"].all()
    assert not fresh.frames["nanas"]["present"].any() and not fresh.frames["items"]["present"].any()


def test_reset_leaves_unmasked_games_alone():
    frames, hidden, bots = batch(4, ("random", "random"))
    play(frames, hidden, bots, 100)
    before = frames.copy(), hidden.copy()
    mask = np.array([False, True, False, True])
    game.reset_games(frames, hidden, mask, np.full((4, 2), FOX), np.full(4, 31), np.zeros(4, np.uint64))
    assert frames[~mask].tobytes() == before[0][~mask].tobytes()
    assert hidden[~mask].tobytes() == before[1][~mask].tobytes()
    assert (frames["stage"][mask] == 31).all() and (frames["frame_id"][mask] == -40).all()


def test_unknown_character_and_stage_name_what_exists():
    with pytest.raises(ValueError, match="fox"):
        Game(first=99)
    with pytest.raises(ValueError, match="battlefield"):
        Game(stage=77)


def test_same_seed_same_game():
    runs = []
    for _ in range(2):
        frames, hidden, bots = batch(8, ("attacker", "random"))
        play(frames, hidden, bots, 900)
        runs.append((frames.tobytes(), hidden.tobytes(), bots.tobytes()))
    assert runs[0] == runs[1]
    frames, hidden, bots = batch(8, ("attacker", "random"), seed=1)
    play(frames, hidden, bots, 900)
    assert frames.tobytes() != runs[0][0]


def test_a_copy_of_the_state_resumes_identically():
    frames, hidden, bots = batch(8, ("attacker", "attacker"))
    play(frames, hidden, bots, 700)
    copies = frames.copy(), hidden.copy(), bots.copy()
    play(frames, hidden, bots, 500)
    other = batch(3, ("random", "random"))             # something else in between
    play(*other, 50)
    play(*copies, 500)
    assert copies[0].tobytes() == frames.tobytes() and copies[1].tobytes() == hidden.tobytes()


def test_batch_of_one_equals_batch_of_many():
    frames, hidden, bots = batch(6, ("attacker", "attacker"))
    singles = [(frames[g:g + 1].copy(), hidden[g:g + 1].copy(), bots[g:g + 1].copy()) for g in range(6)]
    play(frames, hidden, bots, 800)
    for index, single in enumerate(singles):
        play(*single, 800)
        assert single[0].tobytes() == frames[index:index + 1].tobytes()
        assert single[1].tobytes() == hidden[index:index + 1].tobytes()


def test_arrays_that_lie_apart_play_the_same():
    """Whole arrays take a shorter way into the game than views of larger ones."""
    frames, hidden, bots = batch(4, ("random", "random"))
    wide_frames, wide_hidden = np.repeat(frames, 2), np.repeat(hidden, 2)
    wide_frames[1::2], wide_hidden[1::2] = 0, 0
    untouched = wide_frames[1::2].tobytes()
    controllers = np.zeros((4, 2), game.CONTROLLER)
    for _ in range(60):
        game.bot_controllers(frames, bots, controllers)
        game.step_games(frames, hidden, controllers)
        game.step_games(wide_frames[::2], wide_hidden[::2], controllers)
    assert wide_frames[::2].tobytes() == frames.tobytes() and wide_frames[1::2].tobytes() == untouched


def test_state_fits_four_kilobytes():
    assert game.FRAME.itemsize + game.HIDDEN.itemsize < 4096


def test_no_counter_overflows_in_the_longest_game():
    """Two who stand still for eight minutes: nothing counts further than the frames of one action, in two bytes."""
    frames, hidden, _ = batch(1, ("idle", "idle"))
    nobody = np.zeros((1, 2), game.CONTROLLER)
    before = 0
    while not game.game_over(frames)[0]:
        game.step_games(frames, hidden, nobody)
        now = int(hidden["players"]["action_frames"].min())
        assert now == before + 1 or now < 2                                 # the count of a new action
        before = now
    assert before > game.TIME_LIMIT and frames["players"]["stocks"].min() == 4


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, -5.0])
def test_wild_controllers_are_made_legal(value):
    frames, hidden, _ = batch(7, ("idle", "idle"))
    controllers = np.zeros((7, 2), game.CONTROLLER)
    for name in ("main_x", "main_y", "c_x", "c_y", "l", "r"):
        controllers[name] = value
    for step in range(300):
        controllers["buttons"] = -1 if step % 2 else 0
        game.step_games(frames, hidden, controllers)
    secret = hidden["players"]
    assert (np.hypot(secret["stick_x"], secret["stick_y"]) <= 1.011).all()
    assert ((secret["trigger"] >= 0) & (secret["trigger"] <= 1)).all()
    assert all(np.isfinite(frames["players"][name]).all() for name in game.PLAYER.names)


def test_random_play_stays_sane_and_games_end():
    """Half a minute of mashing on both stages, then on until every game is over; nothing breaks or freezes."""
    for stage in (FINAL_DESTINATION, BATTLEFIELD):
        frames, hidden, bots = batch(56, ("attacker", "random"), stage=stage)
        over = np.zeros(56, bool)
        for _ in range(12000 // 200):
            play(frames, hidden, bots, 200)
            action, since = frames["players"]["action"], hidden["players"]["action_frames"]
            resting = np.isin(action, (game.WAIT, game.SLEEP, game.TEETER_WAIT))
            assert (since[~resting] < 1500).all(), f"stuck in {np.unique(action[~resting & (since > 1500)])}"
            for name in game.PLAYER.names:
                assert np.isfinite(frames["players"][name]).all(), name
            over |= game.game_over(frames)
        assert over.mean() > .95
        frames["frame_id"] = game.TIME_LIMIT
        assert game.game_over(frames).all()


def test_actions_exist_and_action_frames_follow_libmelee():
    frames, hidden, bots = batch(28, ("attacker", "random"))
    zero_indexed = game.TABLES.characters["zero_indexed"]
    for _ in range(60):
        play(frames, hidden, bots, 7)
        players = frames["players"]
        shift = zero_indexed[players["character"], players["action"]]
        assert (players["action_frame"] == players["state_age"].astype(int) + shift).all()
        assert (players["hitstun"][players["in_hitstun"] == 0] == 0).all()
        assert (players["percent"] >= 0).all() and (players["shield"] <= 60).all()


@pytest.mark.parametrize("seed", [3, 4])
def test_ports_are_equal(seed):
    """Mirrored inputs give a mirrored game, hits included."""
    random, most_damage = np.random.default_rng(seed), 0
    match = Game(MARTH, MARTH)
    for index, x in enumerate((-10, 10)):
        match.place(index, x)
    for _ in range(400):
        x, button = random.choice([-1, -.5, 0, .5, 1, 1]), int(random.choice([0, 0, game.BUTTON_A, game.BUTTON_X]))
        match.step(dict(main_x=x, buttons=button), dict(main_x=-x, buttons=button), 4)
        first, second = match.players
        if first["stocks"] < 4:                        # where ports come back to is not mirrored, in Melee neither
            break
        for name in ("y", "percent", "action", "self_vy", "kb_vy", "stocks", "hitlag"):
            assert first[name] == second[name], name
        assert np.isclose(first["x"], -second["x"], atol=1e-3) and first["facing"] == -second["facing"]
        most_damage = max(most_damage, first["percent"])
    assert most_damage >= 10


def test_last_stock_ends_the_game():
    match = Game()
    match.players["stocks"][0] = 1
    match.place(0, -200, -100, airborne=True)
    assert not game.game_over(match.frames)[0]
    match.step(frames=30)
    assert game.game_over(match.frames)[0]
    match.step(dict(main_x=1.0, buttons=game.BUTTON_X), frames=300)
    assert match.players["action"][0] == game.SLEEP and match.players["stocks"][0] == 0


def test_random_numbers_are_even_and_repeat():
    draws = np.array([game.random_uniform(np.uint64(5), frame, 1) for frame in range(2000)])
    assert 0 <= draws.min() and draws.max() < 1 and abs(draws.mean() - .5) < .03
    assert game.random_uniform(np.uint64(5), 7, 1) == draws[7]
    assert game.random_uniform(np.uint64(5), 7, 2) != draws[7] != game.random_uniform(np.uint64(6), 7, 1)


def damage_done(first, second, character, num_games=24):
    frames, hidden, bots = batch(num_games, (first, second), np.array([character, character]))
    controllers, last = np.zeros((num_games, 2), game.CONTROLLER), frames["players"]["percent"].copy()
    taken = np.zeros((num_games, 2))
    for _ in range(3600):
        game.bot_controllers(frames, bots, controllers)
        game.step_games(frames, hidden, controllers)
        taken += np.maximum(frames["players"]["percent"] - last, 0)
        last = frames["players"]["percent"].copy()
    return taken[:, ::-1]


@pytest.mark.parametrize("character", SEVEN)
@pytest.mark.parametrize("opponent", ["idle", "random"])
def test_the_attacker_outdamages_the_others(character, opponent):
    damage = damage_done("attacker", opponent, character)
    wins = (damage[:, 0] > damage[:, 1]).mean()
    assert wins >= .9, f"{wins:.0%} of games, mean damage {damage.mean(0)}"


def test_slots_without_a_bot_are_left_alone():
    frames, hidden, bots = batch(2, ("random", "random"))
    bots["kind"][:, 1] = 0
    controllers = np.zeros((2, 2), game.CONTROLLER)
    controllers["main_x"] = .5
    game.bot_controllers(frames, bots, controllers)
    assert (controllers["main_x"][:, 1] == .5).all()

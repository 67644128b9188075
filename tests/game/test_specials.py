"""Combat and specials of the embedded game: one test per mechanic, named after it."""

import numpy as np
import pytest
from cleanmelee import game
from helpers import Game, present_items

BATTLEFIELD = game.STAGES["battlefield"]
FINAL_DESTINATION = game.STAGES["final_destination"]


FOX, FALCON, LINK, SHEIK, MEWTWO, MARTH, ZELDA, FALCO, GAMEANDWATCH, GANONDORF = (
    game.FOX, game.CAPTAIN_FALCON, game.LINK, game.SHEIK, game.MEWTWO, game.MARTH, game.ZELDA, game.FALCO,
    game.GAMEANDWATCH, game.GANONDORF)
A, B, X, R, Z = game.BUTTON_A, game.BUTTON_B, game.BUTTON_X, game.BUTTON_R, game.BUTTON_Z
ALL = sorted(game.CHARACTERS.values())


def duel(first, second=FOX, distance=100., **options):
    """Two players facing each other, `distance` apart around the middle."""
    match = Game(first=first, second=second, **options)
    match.place(0, -distance / 2, facing=1)
    match.place(1, distance / 2, facing=-1)
    return match


def special(match, index=0, **stick):
    pad = dict(buttons=B, **stick)
    match.step(**{f"p{index + 1}": pad})
    return int(match.players["action"][index])


def wait(match, frames, until=None, **controllers):
    """Steps until `until(match)`; -> frames taken, or -1 if it never came true."""
    for frame in range(frames):
        match.step(**controllers)
        if until is not None and until(match):
            return frame + 1
    return -1 if until is not None else frames


def hurt(index):
    return lambda match: match.players["percent"][index] > 0


# ---------------------------------------------------------------------------------------------------------------------
# Hits
# ---------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("distance, damage", [(20, 13), (12, 10)])
def test_the_tip_of_marths_forward_air_is_the_sweet_spot(distance, damage):
    match = duel(MARTH, distance=distance)
    match.place(0, -distance / 2, y=6, airborne=True, facing=1)
    match.step(p1=dict(c_x=1.))
    wait(match, 12, hurt(1))
    assert match.players["percent"][1] == pytest.approx(damage)


def test_the_first_hitbox_that_touches_wins():
    """Several boxes of a move touch: the lowest id counts, not the strongest nor the nearest."""
    t = game.TABLES
    match = duel(MARTH, distance=4)
    match.place(0, -2, y=6, airborne=True, facing=1)
    match.step(p1=dict(c_x=1.))
    wait(match, 12, hurt(1))
    row = t.characters[MARTH]["hit_row"][game.FAIR, match.hidden["players"]["action_frames"][0, 0] + 1]
    assert match.players["percent"][1] == t.hitboxes[row]["damage"][0] < t.hitboxes[row]["damage"].max()


def test_a_swings_further_hits_are_staler_by_its_first():
    match = duel(MEWTWO, GANONDORF, distance=4)
    match.step(p1=dict(c_y=1.))
    seen = [0.]
    for _ in range(80):
        match.step()
        percent = float(match.players["percent"][1])
        if percent > seen[-1]:
            seen.append(percent)
    assert np.diff(seen)[0] == pytest.approx(1) and np.diff(seen)[1] == pytest.approx(.91)
    assert (match.hidden["players"]["stale"][0, 0] > 0).sum() == 1  # one swing is one entry


@pytest.mark.parametrize("old, expected", [(3., 3.), (-1., "sum"), (.1, "new")])
def test_knockback_upon_knockback_takes_the_stronger_or_adds_against_each_other(old, expected):
    launched = []
    for before in (0., old):
        match = duel(FOX, FOX, distance=8)
        match.place(1, 4, y=8, airborne=True, facing=-1)
        match.step(p1=dict(buttons=A, main_y=.5))      # up tilt
        match.players["kb_vy"][1] = 0
        for _ in range(12):
            match.players["kb_vy"][1], match.players["y"][1] = before, 8
            match.step()
            if match.players["percent"][1] > 0:
                break
        launched.append(float(match.players["kb_vy"][1]))
    fresh = launched[0]
    old -= .051 * np.sign(old)                         # the frame's decay comes before the hit
    assert fresh > .1
    assert launched[1] == pytest.approx(max(fresh, old) if expected != "sum" else fresh + old, abs=.01)


def test_counter_turns_a_blow_into_one_of_his_own():
    match = duel(FOX, MARTH, distance=9)
    special(match, 1, main_y=-1.)
    match.step(frames=5)
    match.step(p1=dict(buttons=A))
    wait(match, 40, hurt(0))
    assert match.players["percent"][1] == 0 and match.players["percent"][0] == pytest.approx(7)


@pytest.mark.parametrize("character, blows, throw, frames, height", [
    (FALCON, [5], 12, 16 + 3, 40), (GANONDORF, [1, .91, .91, .91], 15, 16 + 4 * 2, 44.5)])
def test_falcon_dive_holds_strikes_throws_off_and_rises_again(character, blows, throw, frames, height):
    match = duel(character, FOX, distance=6)
    special(match, main_y=1.)
    assert wait(match, 40, lambda m: m.players["action"][0] == game.characters.DIVE_HOLD) > 0
    assert match.players["action"][1] == game.CAUGHT_IN_DIVE and match.players["percent"][1] == 0
    seen = [0.]
    held = 0
    while match.players["action"][0] == game.characters.DIVE_HOLD:
        assert held == 0 or match.players["x"][1] == match.players["x"][0]
        match.step()
        held += 1
        if match.players["percent"][1] > seen[-1]:
            seen.append(float(match.players["percent"][1]))
    assert held == pytest.approx(frames, abs=1)
    assert np.diff(seen) == pytest.approx(blows + [throw * .91], abs=.01)
    assert match.players["action"][0] == game.characters.DIVE_HIT and match.players["kb_vx"][1] > 0
    tops = [float(match.players["y"][0])]
    while match.players["action"][0] == game.characters.DIVE_HIT:
        match.step()
        tops.append(float(match.players["y"][0]))
    assert len(tops) == pytest.approx(60, abs=2) and max(tops) == pytest.approx(height, abs=1)
    assert match.players["action"][0] in (game.FALL, game.LANDING) and match.players["jumps"][0] == 0


@pytest.mark.parametrize("character, damage", [(FALCON, 7), (GANONDORF, 17)])
def test_raptor_boost_and_gerudo_dragon_strike_when_they_touch(character, damage):
    match = duel(character, MARTH, distance=40)
    assert special(match, main_x=1.) == 349
    assert wait(match, 60, lambda m: m.players["action"][0] == 350) > 0
    assert match.players["percent"][1] == 0            # the run itself does not hurt
    wait(match, 20, hurt(1))
    assert match.players["percent"][1] == pytest.approx(damage)
    match = duel(character, MARTH, distance=160)       # without anyone to touch there is no blow
    special(match, main_x=1.)
    assert wait(match, 100, lambda m: m.players["action"][0] == 350) == -1


@pytest.mark.parametrize("character", ALL)
@pytest.mark.parametrize("airborne", [False, True])
def test_side_specials_turn_to_where_the_stick_points(character, airborne):
    for side in (1., -1.):
        match = duel(character)
        if airborne:
            match.place(0, 0, y=60, airborne=True, facing=1)
        special(match, main_x=side)
        assert match.players["facing"][0] == side


@pytest.mark.parametrize("since, facing", [(10, -1), (30, 1)])
def test_a_tilt_back_shortly_before_turns_a_neutral_special_in_the_air(since, facing):
    match = duel(FALCO)
    match.place(0, 0, y=150, airborne=True, facing=1)
    match.step(p1=dict(main_x=-1.))
    match.step(frames=since)
    assert special(match) == 344 and match.players["facing"][0] == facing


@pytest.mark.parametrize("stick, dash, run, turn", [
    (dict(main_x=1.), True, True, True), ({}, False, False, True), (dict(main_y=-1.), False, False, True)])
def test_a_dash_and_a_run_let_only_side_specials_out_and_a_turn_all(stick, dash, run, turn):
    for frames, comes_out in ((5, dash), (30, run)):
        match = duel(FOX)
        match.place(0, -70, facing=1)
        match.step(p1=dict(main_x=1.), frames=frames)
        assert match.players["action"][0] == (game.DASH if frames == 5 else game.RUN)
        assert (special(match, **stick) >= 341) == comes_out
    match = duel(FOX)
    match.step(p1=dict(main_x=-.5))
    assert match.players["action"][0] == game.TURN
    assert (special(match, **stick) >= 341) == turn and match.players["facing"][0] == (1 if "main_x" in stick else -1)


# ---------------------------------------------------------------------------------------------------------------------
# Jabs, smashes, tilts
# ---------------------------------------------------------------------------------------------------------------------

def mashed(character, button=A, frames=50, every=3):
    """The actions one goes through who presses a button again and again."""
    match, seen = duel(character), []
    for frame in range(frames):
        action = int(match.step(p1=dict(buttons=button * (frame % every == 0)))["action"][0])
        if not seen or action != seen[-1]:
            seen.append(action)
    return match, seen


def test_sheik_and_zelda_transform_into_each_other():
    match = Game(first=SHEIK)
    seen = [SHEIK]
    for index in range(300):
        down_b = dict(main_y=-1, buttons=game.BUTTON_B) if index in (0, 150) else None
        match.step(p1=down_b)
        if match.players["character"][0] != seen[-1]:
            seen.append(int(match.players["character"][0]))
    assert seen == [SHEIK, ZELDA, SHEIK] and match.players["action"][0] == game.WAIT


@pytest.mark.parametrize("character, chain", [
    (FOX, [44, 45, 47, 48]), (FALCO, [44, 45, 47, 48]), (SHEIK, [44, 45, 47, 48]), (FALCON, [44, 45, 46, 47, 48]),
    (MEWTWO, [44, 47, 48]), (LINK, [44, 45, 46]), (MARTH, [44, 45]), (GAMEANDWATCH, [341, 342, 343])])
def test_jabs_follow_each_other_and_rapid_ones_go_on_while_a_is_pressed(character, chain):
    match, seen = mashed(character)
    assert seen[:len(chain)] == chain
    if chain[-1] in (48, 343):
        assert seen[-1] == chain[-1]
        assert wait(match, 80, lambda m: m.players["action"][0] == chain[-1] + 1) > 0  # asks once a round
        assert wait(match, 30, lambda m: m.players["action"][0] == game.WAIT) > 0


def test_rapid_jabs_hit_again_and_again():
    match = duel(MEWTWO, GANONDORF, distance=12)
    for frame in range(60):
        match.place(1, 6)
        match.step(p1=dict(buttons=A * (frame % 3 == 0)))
    assert match.players["percent"][1] > 6 + 2 * 2


@pytest.mark.parametrize("pad", [dict(main_x=1.), dict(main_y=1.), dict(main_y=-1.)], ids=["forward", "up", "down"])
def test_a_smash_held_for_a_second_does_a_third_more(pad):
    done = []
    for held in (1, 90):
        match = duel(FALCON, GANONDORF, distance=14)
        match.step(p1=dict(pad, buttons=A))
        for frame in range(130):
            match.step(p1=dict(buttons=A * (frame < held - 1)))
            if match.players["percent"][1] > 0:
                break
        done.append((float(match.players["percent"][1]), frame))
    assert done[1][0] == pytest.approx(done[0][0] * 1.3671, rel=1e-3)
    assert done[1][1] - done[0][1] == game.combat.SMASH_FRAMES


def test_who_winds_up_a_smash_flies_farther():
    speeds = []
    for hold in (False, True):
        match = duel(FOX, FALCON, distance=12)
        if hold:
            match.step(p2=dict(main_y=1., buttons=A))
            match.step(p2=dict(buttons=A), frames=6)
        match.step(p1=dict(main_y=-.5, buttons=A), p2=dict(buttons=A * hold))
        wait(match, 15, hurt(1), p2=dict(buttons=A * hold))
        speeds.append(np.hypot(match.players["kb_vx"][1], match.players["kb_vy"][1]))
    assert speeds[1] == pytest.approx(1.2 * speeds[0], rel=.01)


@pytest.mark.parametrize("character, stick, action", [
    (FOX, (.6, .4), 51), (FOX, (.6, 0.), 53), (FOX, (.6, -.4), 55), (MARTH, (.6, .4), 53)])
def test_forward_tilts_are_aimed_by_who_can(character, stick, action):
    match = duel(character)
    match.step(p1=dict(main_x=stick[0], main_y=stick[1], buttons=A))
    assert match.players["action"][0] == action


# ---------------------------------------------------------------------------------------------------------------------
# Projectiles against floors and blows
# ---------------------------------------------------------------------------------------------------------------------

def test_needles_stick_in_platforms_and_slopes():
    for stage, x, low in ((BATTLEFIELD, -50, 27), (8, 30, -4)):
        match = Game(first=SHEIK, stage=stage)
        match.place(0, x, y=low + 18, airborne=True, facing=1)
        special(match)
        stuck = lambda m: (present_items(m, game.NEEDLE)["state"] == game.items.STUCK).any()
        assert wait(match, 60, stuck) > 0
        needle = present_items(match, game.NEEDLE)[0]
        s = game.TABLES.stages[stage]
        floor = 27.2 if stage == BATTLEFIELD else game.floor_height(s, 0, needle["x"])
        assert needle["y"] == pytest.approx(floor, abs=.1)


def test_a_blow_puts_out_a_projectile_and_a_weak_one_does_not_stop_a_strong_one():
    for charge, goes_on in ((0, False), (game.TABLES.characters[MEWTWO]["charge_frames"] * 7, True)):
        match = duel(MEWTWO, MARTH, distance=80)
        special(match)
        match.step(frames=20)
        match.hidden["players"]["charge"][0, 0] = charge
        match.step(p1=dict(buttons=B))
        ball = lambda m: present_items(m, game.SHADOW_BALL)
        near = lambda m: len(ball(m)) and m.players["x"][1] - ball(m)["x"][0] < 26
        assert wait(match, 60, near) > 0
        match.step(p2=dict(main_y=-.5, buttons=A))
        wait(match, 25, lambda m: m.players["percent"][1] > 0 or not len(ball(m)))
        assert (match.players["percent"][1] > 0) == goes_on


# ---------------------------------------------------------------------------------------------------------------------
# Captain Falcon, Zelda's kicks, Marth's flight
# ---------------------------------------------------------------------------------------------------------------------

def test_falcon_punch_takes_its_time():
    match = duel(FALCON, GANONDORF, distance=16)
    special(match)
    frames = wait(match, 100, hurt(1))
    assert 50 <= frames <= 56 and match.players["percent"][1] in (23, 25, 27)


def test_falcon_kick_runs_along_the_floor_and_hits():
    match = duel(FALCON, GANONDORF, distance=40)
    assert special(match, main_y=-1.) == 357
    assert wait(match, 40, hurt(1)) > 10 and match.players["percent"][1] >= 11 and not match.players["airborne"][0]


@pytest.mark.parametrize("place, damage", [("tip", 20), ("near", 10)])
def test_lightning_kicks_are_strong_at_the_tip(place, damage):
    t = game.TABLES
    row = t.characters[ZELDA]["hit_row"][game.FAIR]
    boxes = t.hitboxes[row[row > 0][0]]
    reach = float((boxes["x"] + boxes["size"]).max())
    match = duel(ZELDA, GANONDORF)
    match.place(0, 0, y=8, airborne=True, facing=1)
    match.place(1, reach + 2.5 if place == "tip" else 3)
    match.step(p1=dict(c_x=1.))
    wait(match, 14, hurt(1))
    assert match.players["percent"][1] == pytest.approx(damage)


def test_vanish_bursts_before_it_leaves():
    match = duel(SHEIK, FOX, distance=6)
    assert special(match, main_y=1.) == 355
    assert wait(match, 45, hurt(1)) > 0 and match.players["action"][0] in (355, 356)


def test_dolphin_slash_rises_strikes_and_leaves_helpless():
    match = duel(MARTH, FOX, distance=8)
    assert special(match, main_y=1.) == 367
    assert wait(match, 10, hurt(1)) > 0
    top = max(float(match.step()["y"][0]) for _ in range(30))
    assert top > 30
    assert wait(match, 40, lambda m: m.players["action"][0] in (game.FALL_SPECIAL, game.LANDING_SPECIAL)) > 0


# ---------------------------------------------------------------------------------------------------------------------
# Ganondorf
# ---------------------------------------------------------------------------------------------------------------------

def test_warlock_punch_takes_seventy_frames_and_thirty_percent():
    match = duel(GANONDORF, MARTH, distance=14)
    special(match)
    frames = wait(match, 100, hurt(1))
    assert 68 <= frames <= 73 and match.players["percent"][1] >= 30


@pytest.mark.parametrize("airborne, action", [(False, 357), (True, 359)])
def test_wizards_foot_on_the_ground_and_in_the_air(airborne, action):
    match = duel(GANONDORF, MARTH, distance=30)
    if airborne:
        match.place(0, -6, y=18, airborne=True, facing=1)
        match.place(1, 0)
    assert special(match, main_y=-1.) == action
    assert wait(match, 60, hurt(1)) > 0 and match.players["percent"][1] >= 12


# ---------------------------------------------------------------------------------------------------------------------
# Link
# ---------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("held, damage, distance, hits", [(1, 5, 30, True), (1, 5, 90, False), (95, 18, 90, True)])
def test_arrows_fly_farther_and_hurt_more_when_drawn(held, damage, distance, hits):
    match = duel(LINK, MARTH, distance=distance)
    for _ in range(held):
        match.step(p1=dict(buttons=B))
    assert (wait(match, 120, hurt(1)) > 0) == hits and not len(present_items(match, game.ARROW))
    if hits:
        assert match.players["percent"][1] == pytest.approx(damage, abs=.1)
        assert match.players["last_attack"][0] == game.NEUTRAL_SPECIAL


def test_the_boomerang_flies_out_and_back_into_the_hand():
    match = duel(LINK, FOX, distance=150)
    special(match, main_x=1.)
    assert wait(match, 40, lambda m: len(present_items(m, game.BOOMERANG))) > 0
    path = []
    for _ in range(200):
        match.step()
        flying = present_items(match, game.BOOMERANG)
        if not len(flying):
            break
        path.append(float(flying["x"][0]))
    far = int(np.argmax(path))
    assert path[far] > path[0] + 30 and 5 < far < len(path) - 5
    assert abs(path[-1] - match.players["x"][0]) < game.characters.BOOMERANG_CATCH + 3 and len(path) < 150


@pytest.mark.parametrize("distance, damage", [(50, 6), (22, 15)])
def test_the_boomerang_turns_back_where_it_hits_and_strikes_once(distance, damage):
    match = duel(LINK, FOX, distance=distance)
    special(match, main_x=.7)
    far = -100.
    for _ in range(160):
        match.place(1, distance / 2)
        match.step(p1=dict(main_x=1., buttons=B * (int(match.frames["frame_id"][0]) % 2)))
        flying = present_items(match, game.BOOMERANG)
        assert len(flying) <= 1                        # one at a time
        far = max(far, float(flying["x"][0]) if len(flying) else far)
        if not len(flying) and far > -100:
            break
    assert far < distance / 2 + 5 and match.players["percent"][1] == pytest.approx(damage)


def test_a_missed_boomerang_strikes_weakly_coming_back():
    match = duel(LINK, FOX, distance=150)
    special(match, main_x=.7)
    assert wait(match, 120, lambda m: (present_items(m, game.BOOMERANG)["state"] == 2).any()) > 0
    match.place(1, -40)
    assert wait(match, 100, hurt(1)) > 0 and match.players["percent"][1] == pytest.approx(3)


def pull_bomb(match):
    special(match, main_y=-1.)
    assert wait(match, 45, lambda m: m.players["action"][0] == game.WAIT) > 0
    bomb = present_items(match, game.BOMB)
    assert len(bomb) == 1 and bomb["state"][0] == game.BOMB_HELD
    return match


def test_a_bomb_is_pulled_and_thrown():
    match = pull_bomb(duel(LINK, FOX, distance=50))
    assert special(match, main_y=-1.) != 358           # one at a time
    wait(match, 60, lambda m: m.players["action"][0] == game.WAIT)
    match.step(p1=dict(buttons=A))
    assert match.players["action"][0] == game.ITEM_THROW
    assert wait(match, 60, hurt(1)) > 0 and match.players["percent"][0] == 0
    assert match.players["percent"][1] == pytest.approx(6)
    match.step(frames=game.characters.BOMB_BLAST_FRAMES + 12)
    assert not len(present_items(match, game.BOMB))


def test_a_bombs_fuse_hurts_its_owner():
    match = pull_bomb(duel(LINK, FOX, distance=100))
    born = int(present_items(match, game.BOMB)["timer"][0])
    frames = wait(match, 320, hurt(0))
    assert frames == pytest.approx(born, abs=2) and match.players["percent"][1] == 0
    assert match.players["percent"][0] == pytest.approx(game.characters.BOMB_BLAST_DAMAGE)


@pytest.mark.parametrize("airborne, action", [(False, 356), (True, 357)])
def test_the_spin_attack_on_the_ground_stays_and_in_the_air_rises(airborne, action):
    match = duel(LINK, MARTH, distance=14)
    if airborne:
        match.place(0, -7, y=20, airborne=True, facing=1)
        match.place(1, 60)
    assert special(match, main_y=1.) == action
    top = 0.
    for _ in range(60):
        match.step()
        top = max(top, float(match.players["y"][0]))
    assert top > 45 if airborne else top < 1
    assert airborne or match.players["percent"][1] == pytest.approx(15)


def test_the_hookshot_reaches_the_ledge():
    for pad, caught in ((dict(buttons=Z), True), ({}, False)):
        match = duel(LINK)
        match.place(0, 108, y=-28, airborne=True, facing=-1)
        match.players["self_vy"][0] = 1
        match.step(p1=pad)
        ledge = lambda m: m.players["action"][0] in (game.LEDGE_CATCH, game.LEDGE_HANG)
        assert (wait(match, 20, ledge) > 0) == caught


# ---------------------------------------------------------------------------------------------------------------------
# Zelda and Sheik
# ---------------------------------------------------------------------------------------------------------------------

def test_dins_fire_is_steered_and_explodes_after_letting_go():
    heights = []
    for stick in (.7, -.0):
        match = duel(ZELDA, FOX, distance=160)
        for _ in range(45):
            match.step(p1=dict(buttons=B, main_x=1. if match.players["action"][0] < 341 else 0,
                               main_y=stick if match.players["action"][0] == 344 else 0))
        heights.append(float(present_items(match, game.DINS_FIRE)["y"][0]))
    assert heights[0] > heights[1] + 4
    frames = wait(match, 60, lambda m: len(present_items(m, game.DINS_EXPLOSION)))
    assert frames == pytest.approx(game.characters.DINS_DELAY, abs=2)
    fire = present_items(match, game.DINS_EXPLOSION)[0]
    match.place(1, float(fire["x"]), y=float(fire["y"]))
    match.step()
    assert match.players["percent"][1] == pytest.approx(8) and match.players["percent"][0] == 0
    match.step(frames=game.characters.DINS_DELAY)
    assert match.players["percent"][1] == pytest.approx(8) and not match.frames["items"]["present"].any()


@pytest.mark.parametrize("character, stick, delay", [
    (ZELDA, {}, 6), (MEWTWO, dict(main_x=1.), 12), (FOX, dict(main_y=-1.), 3)])
def test_nayru_confusion_and_shine_reflect(character, stick, delay):
    match = duel(FALCO, character, distance=130)
    special(match)
    assert wait(match, 60, lambda m: len(present_items(m, game.FALCO_LASER))) > 0
    wait(match, 40, lambda m: m.players["x"][1] - present_items(m, game.FALCO_LASER)["x"][0] < 22 + 5 * delay)
    special(match, 1, **{name: -value if name == "main_x" else value for name, value in stick.items()})
    assert wait(match, 80, hurt(0), p2=dict(buttons=B)) > 0
    assert match.players["percent"][1] == 0


def test_farores_wind_and_vanish_cannot_be_touched_on_the_way():
    for character in (ZELDA, SHEIK, MEWTWO):
        match = duel(character)
        match.place(0, 0, y=40, airborne=True)
        special(match, main_y=1.)
        flight = int(game.TABLES.characters[character]["launch_actions"][2])
        assert wait(match, 80, lambda m: m.players["action"][0] == flight, p1=dict(main_x=1.)) > 0
        match.step(p1=dict(main_x=1.))
        assert match.players["hurtbox"][0] == 2
        before = float(match.players["x"][0])
        match.step(frames=4)
        assert match.players["x"][0] > before + 5      # where the stick pointed
        wait(match, 150, lambda m: m.players["action"][0] in (game.FALL_SPECIAL, game.LANDING, game.LANDING_SPECIAL))
        assert match.players["hurtbox"][0] == 0


def test_the_chain_is_out_while_b_is_held():
    match = duel(SHEIK, FOX, distance=150)
    special(match, main_x=1.)
    match.step(p1=dict(buttons=B), frames=60)
    assert match.players["action"][0] == 350 and len(present_items(match, game.CHAIN))
    match.step()
    assert match.players["action"][0] == 351
    assert wait(match, 60, lambda m: m.players["action"][0] == game.WAIT) > 0
    assert not match.frames["items"]["present"].any()


# ---------------------------------------------------------------------------------------------------------------------
# Mewtwo
# ---------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("facing, stunned", [(-1, True), (1, False)])
def test_disable_stuns_who_looks_at_it(facing, stunned):
    match = duel(MEWTWO, FOX, distance=18)
    match.players["facing"][1] = facing
    special(match, main_y=-1.)
    wait(match, 30, hurt(1))
    assert (match.players["action"][1] == game.FURAFURA) == stunned
    assert wait(match, 120, lambda m: m.players["action"][1] == game.WAIT) > 0


def test_disable_does_not_stun_twice_in_a_row():
    match = duel(MEWTWO, distance=12)
    match.players["action"][1], match.hidden["players"]["grab_timer"][0, 1] = game.FURAFURA, 50
    special(match, main_y=-1.)
    wait(match, 45)
    assert match.players["percent"][1] > 0 and match.hidden["players"]["grab_timer"][0, 1] < 20


def test_a_blow_while_charging_loses_the_charge():
    match = duel(MEWTWO, FOX, distance=90)
    special(match)
    match.step(frames=60)
    assert match.hidden["players"]["charge"][0, 0] > 20
    match.place(1, -38, facing=-1)
    match.step(p2=dict(buttons=A, main_y=-.5))
    wait(match, 20, hurt(0))
    assert match.players["percent"][0] > 0 and match.hidden["players"]["charge"][0, 0] == 0


# ---------------------------------------------------------------------------------------------------------------------
# Game & Watch
# ---------------------------------------------------------------------------------------------------------------------

def test_judge_draws_all_nine_hammers_but_never_the_last_two():
    drawn, firsts = [], set()
    for seed in range(30):
        match = Game(first=GAMEANDWATCH, seed=seed)
        for number in range(6):
            action = special(match, main_x=1.)
            drawn.append(action - game.characters.JUDGE_FIRST)
            if number == 0:
                firsts.add(drawn[-1])
            else:
                assert drawn[-1] not in drawn[-1 - min(number, 2):-1]
            match.step(frames=60)
            match.place(0, -60)
    assert set(drawn) == set(range(9)) and firsts.isdisjoint({0, 1})


def swing_hammer(number, distance=15):
    """The blow of one of the hammers 1 to 9 -> the match after it."""
    match = duel(GAMEANDWATCH, GANONDORF, distance=distance)
    special(match, main_x=1.)
    match.players["action"][0] = game.characters.JUDGE_FIRST + number - 1
    wait(match, 30, hurt(1))
    return match


@pytest.mark.parametrize("number, damage", list(enumerate((2, 4, 6, 8, 3, 12, 14, 4, 32), 1)))
def test_judges_hammers_do_their_damage(number, damage):
    match = swing_hammer(number)
    assert match.players["percent"][1] == pytest.approx(damage)
    assert match.players["percent"][0] == (12 if number == 1 else 0)  # the first hurts its user
    assert (match.players["action"][1] == game.FROZEN) == (number == 8)


def test_who_is_frozen_thaws_sooner_when_he_mashes():
    times = []
    for mash in (False, True):
        match = swing_hammer(8)
        frames = 0
        while match.players["action"][1] == game.FROZEN:
            match.step(p2=dict(buttons=A * (mash and frames % 2)))
            frames += 1
        times.append(frames)
    assert times[1] < .8 * times[0] and times[0] >= game.combat.FREEZE_FRAMES


def test_chef_throws_sausages_in_an_arc():
    match = duel(GAMEANDWATCH, FOX, distance=150)
    assert special(match) == 353
    assert wait(match, 30, lambda m: len(present_items(m, game.SAUSAGE))) > 0
    heights = []
    while len(present_items(match, game.SAUSAGE)):
        heights.append(float(present_items(match, game.SAUSAGE)["y"][0]))
        match.step()
    assert max(heights) > heights[0] + 5 and heights[-1] < heights[0]


def test_fire_lifts_game_and_watch_and_what_he_meets():
    match = duel(GAMEANDWATCH, FOX, distance=4)
    assert special(match, main_y=1.) == 373
    top = 0.
    for _ in range(40):
        top = max(top, float(match.step()["y"][0]))
    assert top > 40 and match.players["percent"][1] == pytest.approx(6)


@pytest.mark.parametrize("stick, degrees", [(0, 0), (.5, 10.8), (1, 25.8), (-1, -25.8)])
def test_the_stick_turns_game_and_watchs_rise(stick, degrees):
    match = duel(GAMEANDWATCH)
    match.place(0, 0, y=20, airborne=True, facing=1)
    special(match, main_y=1.)
    match.step(p1=dict(main_x=float(stick)), frames=2)
    way = np.arctan2(match.players["self_vx_air"][0], match.players["self_vy"][0])
    assert np.degrees(way) == pytest.approx(degrees, abs=.1)
    heights = [match.players["y"][0]]
    for _ in range(25):
        match.step(p1=dict(main_x=-float(stick)))      # too late to matter
        heights.append(match.players["y"][0])
    assert (np.diff(heights) > 0).all() and np.sign(match.players["x"][0]) == (np.sign(stick) or 1)
    match.step(frames=11)                              # the turn lasts to the end of the rise
    turned = np.radians(abs(degrees))
    assert match.players["self_vy"][0] == pytest.approx(-2.2034 * np.cos(turned) - .4382 * np.sin(turned), abs=1e-3)


def test_oil_panic_catches_three_shots_and_pours_them_out():
    match = duel(FALCO, GAMEANDWATCH, distance=60)
    while match.hidden["players"]["bucket"][0, 1] < game.characters.FILLED_BUCKET:
        match.step(p1=dict(buttons=B * (int(match.frames["frame_id"][0]) % 4 == 0)), p2=dict(buttons=B, main_y=-1.))
        assert match.frames["frame_id"][0] < 600, "the bucket never filled"
    assert match.players["percent"][1] == 0
    for _ in range(120):                               # a full one takes no more
        match.step(p1=dict(buttons=B * (int(match.frames["frame_id"][0]) % 4 == 0)), p2=dict(buttons=B, main_y=-1.))
    assert match.players["percent"][1] > 0
    match.step(frames=120)
    match.place(0, 0)
    match.place(1, 12, facing=-1)
    match.step(frames=60)
    match.players["percent"] = 0
    assert special(match, 1, main_y=-1.) == 377
    wait(match, 20, hurt(0))
    assert match.players["percent"][0] == pytest.approx(np.floor(1.5 * 9 + 5))
    assert match.hidden["players"]["bucket"][0, 1] == 0


# ---------------------------------------------------------------------------------------------------------------------
# Marth, Fox and Falco
# ---------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("held, damage", [(1, 7), (200, 28)])
def test_shield_breaker_grows_with_charge(held, damage):
    match = duel(MARTH, GANONDORF, distance=16)
    for _ in range(held):
        match.step(p1=dict(buttons=B))
        if match.players["percent"][1] > 0:
            break
    wait(match, 40, hurt(1))
    assert match.players["percent"][1] == pytest.approx(damage)


def test_the_sword_dance_has_four_parts():
    match = duel(MARTH, FOX, distance=150)
    parts = [special(match, main_x=1.)]
    for stick in (0., 1., -1.):
        for _ in range(30):
            match.step()
            match.step(p1=dict(buttons=B, main_y=stick))
            if match.players["action"][0] != parts[-1]:
                break
        parts.append(int(match.players["action"][0]))
    assert parts == [349, 351, 352, 357]
    assert wait(match, 70, lambda m: m.players["action"][0] == game.WAIT) > 0


@pytest.mark.parametrize("character, item_type", [(FOX, game.FOX_LASER), (FALCO, game.FALCO_LASER)])
def test_lasers_fly_during_the_up_throw(character, item_type):
    match = duel(character, FALCON, distance=8)
    match.step(p1=dict(buttons=Z))
    assert wait(match, 30, lambda m: m.players["action"][0] == game.HOLD) > 0
    match.step(p1=dict(main_y=1.))
    shots = 0
    for _ in range(40):
        match.step()
        flying = present_items(match, item_type)
        shots += int((flying["timer"] == game.TABLES.projectiles[item_type]["life"]).sum())
        assert (flying["vy"] > 0).all()
    assert shots == 3


# ---------------------------------------------------------------------------------------------------------------------
# Motion of specials
# ---------------------------------------------------------------------------------------------------------------------

def in_the_air(character, y=60., x=0., vx=0., vy=0., facing=1, **stick):
    """Has just begun the special of this stick in the air, at this speed; and the first frame is over."""
    match = duel(character)
    match.place(0, x, y=y, airborne=True, facing=facing)
    match.players["self_vx_air"][0], match.players["self_vy"][0] = vx, vy
    special(match, **stick)
    return match


def velocity(match):
    return match.players["self_vx_air"][0], match.players["self_vy"][0]


def near(vx, vy):
    return pytest.approx((vx, vy), abs=2e-3)


@pytest.mark.parametrize("stick, degrees", [(0, 3.005), (.6875, 10.505), (1, 23.005)])
def test_the_widest_tilt_before_dolphin_slash_turns_it(stick, degrees):
    match = in_the_air(MARTH, vx=.608, main_y=1.)
    assert velocity(match) == near(.608 * 2 / 3 - .005, -.085)
    match.step(p1=dict(main_x=float(stick)), frames=2)
    match.step(frames=3)
    assert np.hypot(*velocity(match)) == pytest.approx(14.435, abs=2e-3)
    assert np.degrees(np.arctan2(*velocity(match))) == pytest.approx(degrees, abs=.01)


def test_dolphin_slash_falls_slowly_and_is_steered_little_after_its_rise():
    match = in_the_air(MARTH, y=10, main_y=1.)
    match.step(frames=21)
    vx, vy = velocity(match)
    match.step(p1=dict(main_x=1.))
    assert velocity(match) == near(vx + .012, vy - .06)
    match.step(p1=dict(main_x=1.), frames=15)
    assert velocity(match)[0] == pytest.approx(.36)


def test_dolphin_slash_faces_the_stick_as_it_rises():
    match = in_the_air(MARTH, main_y=1.)
    match.step(p1=dict(main_x=-1.), frames=4)
    assert match.players["facing"][0] == 1
    match.step(p1=dict(main_x=-1.))
    assert match.players["facing"][0] == -1 and velocity(match)[0] < 0


def test_falcon_dive_has_its_own_motion_and_the_stick_adds_to_it():
    match = in_the_air(FALCON, vx=1., vy=-2.9, main_y=1.)
    assert velocity(match) == near(0, 0)
    match.step(frames=13)
    assert velocity(match) == near(.3478, 2.5555)
    match.step(p1=dict(main_x=1.))
    assert velocity(match)[0] == pytest.approx(.3513 + .044, abs=1e-3)
    match.step(p1=dict(main_x=1.), frames=25)
    assert velocity(match)[0] == pytest.approx(.4019 + .85 * 1.12, abs=1e-3)
    match.step()
    assert velocity(match)[0] == pytest.approx(.4024, abs=1e-3)


@pytest.mark.parametrize("stick, facing", [(-.5, -1), (.5, 1), (0, 1)])
def test_falcon_dive_faces_the_stick_before_it_rises(stick, facing):
    match = in_the_air(FALCON, main_y=1.)
    match.step(p1=dict(main_x=float(stick)), frames=12)
    assert match.players["facing"][0] == facing


def test_teleport_halves_the_speed_then_goes_by_the_stick_of_the_frame_before():
    match = in_the_air(MEWTWO, y=120, vx=.86, vy=.62, main_y=1.)
    assert velocity(match) == near(.86 / 2 - .016, .62 / 2 - .04)
    match.step(p1=dict(main_x=.6, main_y=.8), frames=6)
    assert velocity(match) == near(.86 / 2 - 7 * .016, .62 / 2 - 7 * .04)
    match.step(p1=dict(main_x=-1.))
    assert velocity(match) == near(3., 4.)
    match.step(frames=9)
    assert match.players["action"][0] == 357
    match.step()
    assert velocity(match) == near(.6 - .016, .8 * .9)
    match.step(p1=dict(main_x=-1.), frames=7)
    assert velocity(match) == near(.6 - 8 * .016, .8 * .9 ** 8)
    match.step(p1=dict(main_x=-1.))                    # falls from here on, and cannot be steered
    assert velocity(match) == near(.6 - 8 * .016, .8 * .9 ** 8 - .082)


@pytest.mark.parametrize("length, speed", [(0, 5.), (.5, 4.), (1, 5.)])
def test_teleport_is_faster_the_further_the_stick_is_out(length, speed):
    match = in_the_air(MEWTWO, y=120, main_y=1.)
    match.step(p1=dict(main_x=float(length)), frames=7)
    assert np.hypot(*velocity(match)) == pytest.approx(speed, abs=1e-3)


def test_teleports_start_never_falls_fast():
    match = in_the_air(MEWTWO, y=120, vy=-1.5, main_y=1.)
    match.step(frames=5)
    assert velocity(match)[1] == pytest.approx(-.75)


@pytest.mark.parametrize("character, y", [(MEWTWO, -10), (SHEIK, -10), (ZELDA, -10), (MEWTWO, 10)])
def test_a_warp_ends_at_the_stages_wall(character, y):
    """Above the floor there is none: it flies on to its end."""
    match = duel(character)
    _, _, flight = game.TABLES.characters[character]["launch_actions"]
    match.place(0, 91., y=y, airborne=True, facing=-1)
    match.players["action"][0], match.players["self_vx_air"][0] = flight, -4.0
    match.step(frames=2)
    ended = match.players["action"][0] == game.TABLES.characters[character]["warp_end"]
    assert ended == (y < 0) and (match.players["x"][0] > 85.5) == (y < 0)


@pytest.mark.parametrize("action, caught", [(356, False), (357, True), (358, True)])
def test_teleports_flight_and_end_catch_the_ledge_and_its_start_does_not(action, caught):
    match = duel(MEWTWO)
    match.place(0, -90., y=-7.5, airborne=True, facing=1)
    match.players["action"][0], match.players["self_vy"][0] = action, -.7
    match.hidden["players"]["air_frames"][0, 0], match.hidden["players"]["action_frames"][0, 0] = 20, 1
    match.step()
    match.step()
    assert (match.players["action"][0] == game.LEDGE_CATCH) == caught


def test_vanish_rises_a_little_then_flies_for_twenty_frames():
    match = in_the_air(SHEIK, y=120, vy=-2.13, main_y=1.)
    assert velocity(match)[1] == pytest.approx(3.31)
    match.step(frames=18)
    assert velocity(match)[1] == pytest.approx(-.11, abs=1e-3)
    match.step(p1=dict(main_x=1.), frames=16)
    assert velocity(match) == near(.8, -.25)
    match.step(p1=dict(main_x=1.))
    for _ in range(20):
        assert match.players["action"][0] == 359 and velocity(match) == near(2., 0)
        match.step()
    assert match.players["action"][0] == 360 and velocity(match) == near(.6 - .04, 0)
    match.step(frames=8)
    assert velocity(match) == near(.6 - 8 * .04, -.12)


@pytest.mark.parametrize("character, speed, frames, slow_from, slower", [
    (FOX, 3.8, 30, 5, .1), (FALCO, 4.2, 22, 3, .17)])
def test_fire_fox_goes_by_the_stick_of_the_frame_before_and_slows_down(character, speed, frames, slow_from, slower):
    match = in_the_air(character, y=20, main_y=1.)
    match.step(p1=dict(main_x=.6, main_y=.8), frames=41)
    match.step(p1=dict(main_x=-1.))
    assert match.players["action"][0] == 356
    for frame in range(frames):
        now = speed - max(0, frame - slow_from + 1) * slower
        assert velocity(match) == near(.6 * now, .8 * now)
        match.step()
    assert match.players["action"][0] == 358
    assert wait(match, 25, lambda m: m.players["action"][0] == game.FALL_SPECIAL) == 20


def test_fire_fox_along_the_floor_ends_on_the_floor():
    match = duel(FOX)
    special(match, main_y=1.)
    match.step(p1=dict(main_x=1.), frames=42)
    assert match.players["action"][0] == 355 and match.players["self_vx_ground"][0] == pytest.approx(3.8)
    match.step(frames=29)
    assert match.players["self_vx_ground"][0] == pytest.approx(1.3, abs=1e-3)
    match.step()
    assert match.players["action"][0] == 357
    assert wait(match, 30, lambda m: m.players["action"][0] == game.WAIT) == 20


@pytest.mark.parametrize("character", [FOX, FALCO])
def test_after_fire_fox_one_lands_for_six_frames(character):
    match = in_the_air(character, y=60, main_y=1.)
    assert wait(match, 80, lambda m: m.players["action"][0] == 358) > 0
    drop(match)
    match.step()
    assert match.players["action"][0] == 357 and not match.players["airborne"][0]
    assert wait(match, 20, lambda m: m.players["action"][0] == game.WAIT) == 6


@pytest.mark.parametrize("character, wait_frames, speed", [(FOX, 19, 18.72), (FALCO, 15, 16.5)])
def test_illusion_in_the_air(character, wait_frames, speed):
    match = in_the_air(character, y=100, x=-60, main_x=1.)
    match.step(frames=wait_frames)
    assert match.players["action"][0] == 351 and velocity(match) == near(0, 0)
    for _ in range(3):
        match.step()
        assert velocity(match) == near(speed, 0)
    match.step()
    assert match.players["action"][0] == 352 and velocity(match) == near(1.93, 0)
    assert wait(match, 60, lambda m: m.players["action"][0] == game.FALL_SPECIAL) == 40


def test_who_slides_off_an_edge_after_illusion_is_free():
    match = duel(FOX)
    special(match, main_x=1.)
    assert wait(match, 30, lambda m: m.players["action"][0] == 349) > 0
    match.place(0, 85.)
    assert wait(match, 5, lambda m: m.players["airborne"][0]) > 0 and match.players["action"][0] == game.FALL


def test_raptor_boost_in_the_air_hangs_then_falls_slowly():
    match = in_the_air(FALCON, y=100, x=-40, vy=-1., main_x=1.)
    match.step(frames=14)
    assert velocity(match) == near(0, 0)
    match.step()
    assert velocity(match) == near(2.2794, 0)
    match.step(frames=15)
    assert velocity(match) == near(1.661, -.1)


def test_falcon_kick_in_the_air_gives_the_double_jump_back():
    match = in_the_air(FALCON, y=150, main_y=-1.)
    match.players["jumps"][0] = 0
    assert velocity(match) == near(-.3158, .2018)
    match.step(frames=16)
    assert velocity(match) == near(1.225, -3.8172)
    assert wait(match, 20, lambda m: m.players["action"][0] == 361) == 13 and match.players["jumps"][0] == 1


@pytest.mark.parametrize("airborne", [False, True])
def test_a_shine_lasts_twenty_one_frames_however_soon_b_is_let_go(airborne):
    match = in_the_air(FOX, main_y=-1.) if airborne else duel(FOX)
    if not airborne:
        special(match, main_y=-1.)
    end = 368 if airborne else 363
    match.step(frames=4)
    assert wait(match, 30, lambda m: m.players["action"][0] == end, p1=dict(buttons=B)) == 17
    assert wait(match, 30, lambda m: m.players["action"][0] < 341) == 18


def test_a_shine_can_be_jumped_out_of_once_it_has_begun():
    match = duel(FOX)
    special(match, main_y=-1.)
    match.step(p1=dict(buttons=X), frames=2)
    assert match.players["action"][0] == 360
    match.step()
    assert match.players["action"][0] == 361
    match.step(p1=dict(buttons=X))
    assert match.players["action"][0] == game.JUMPSQUAT


def test_a_tilt_back_turns_a_shine_for_three_frames():
    match = duel(FOX)
    special(match, main_y=-1.)
    match.step(p1=dict(buttons=B), frames=3)
    match.step(p1=dict(buttons=B, main_x=-.5))
    assert match.players["action"][0] == 364 and match.players["facing"][0] == -1
    match.step(p1=dict(buttons=B), frames=3)
    assert match.players["action"][0] == 361
    assert wait(match, 30, lambda m: m.players["action"][0] == 363) == 14


@pytest.mark.parametrize("character, airborne", [(FOX, False), (FOX, True), (FALCO, False), (FALCO, True)])
def test_a_shine_cannot_be_touched_on_its_first_frame(character, airborne):
    match = duel(character)
    if airborne:
        match.place(0, 0, y=60, airborne=True)
    special(match, main_y=-1.)
    assert match.players["action"][0] == (365 if airborne else 360) and match.players["hurtbox"][0] == 2
    match.step()
    assert match.players["hurtbox"][0] == 0


@pytest.mark.parametrize("airborne", [False, True])
def test_dolphin_slash_cannot_be_touched_on_its_fifth_frame(airborne):
    match = duel(MARTH)
    if airborne:
        match.place(0, 0, y=60, airborne=True)
    special(match, main_y=1.)
    seen = [int(match.players["hurtbox"][0])]
    for _ in range(9):
        match.step()
        seen.append(int(match.players["hurtbox"][0]))
    assert seen == [0, 0, 0, 0, 2, 0, 0, 0, 0, 0]


def test_a_shine_reflects_neither_as_it_starts_nor_as_it_ends():
    for character in (FOX, FALCO):
        kinds = game.TABLES.characters[character]["guard_kind"][360:370]
        reflects = [361, 362, 364, 366, 367, 369]
        assert list(np.flatnonzero(kinds == game.GUARD_REFLECT) + 360) == reflects


def drop(match):
    """The first player is on the floor by the next frame, whatever his special does."""
    match.players["y"][0], match.players["kb_vy"][0] = .1, -20.
    match.hidden["players"]["air_frames"][0, 0] = 0


@pytest.mark.parametrize("character, start, landed", [
    (MARTH, 347, 343), (MARTH, 358, 349), (MARTH, 371, 369), (FALCON, 348, 347), (FALCON, 351, 43), (SHEIK, 346, 342),
    (SHEIK, 352, 349), (MEWTWO, 347, 342), (FOX, 350, 347), (FALCO, 354, 353), (FOX, 366, 361),
    (GAMEANDWATCH, 374, 43)])
def test_a_special_that_lands_goes_on_or_has_a_landing_of_its_own(character, start, landed):
    match = duel(character)
    match.place(0, 0, y=60, airborne=True, facing=1)
    match.players["action"][0] = start
    match.hidden["players"]["action_frames"][0, 0] = 5
    drop(match)
    match.hidden["players"]["buttons"][0, 0] = B
    match.step(p1=dict(buttons=B))
    assert match.players["action"][0] == landed and not match.players["airborne"][0]
    assert match.hidden["players"]["action_frames"][0, 0] == (0 if landed == 43 else 6)


def test_a_special_that_loses_the_floor_goes_on_in_the_air():
    match = duel(FALCON)
    special(match)
    match.step(frames=10)
    match.place(0, 85.5)
    match.players["kb_vx"][0] = 2.
    match.step()
    assert match.players["action"][0] == 348 and match.players["airborne"][0]
    assert match.secret_record(0)["action_frames"] == 11


@pytest.mark.parametrize("character, action, fast", [
    (FALCO, 345, True), (FOX, 358, True), (SHEIK, 346, False), (MARTH, 347, False), (MEWTWO, 347, False)])
def test_few_specials_fall_fast(character, action, fast):
    match = duel(character)
    match.place(0, 0, y=60, airborne=True)
    match.players["action"][0], match.players["self_vy"][0] = action, -1.
    match.step(p1=dict(main_y=-1., buttons=B))
    assert match.players["fastfall"][0] == fast


def test_a_shine_slides_along_the_floor():
    match = duel(FOX)
    match.players["self_vx_ground"][0] = 1.5
    special(match, main_y=-1.)
    match.step(frames=4)
    assert match.players["self_vx_ground"][0] == pytest.approx(1.5 - 5 * .08)


def test_the_next_shot_begins_to_fall_anew():
    match = duel(FOX)
    match.place(0, 0, y=90, airborne=True)
    match.players["action"][0], match.players["self_vy"][0], match.players["fastfall"][0] = 345, -3.4, 1
    match.hidden["players"]["action_frames"][0, 0], match.hidden["players"]["tilt_y_age"][0, 0] = 9, 50
    match.hidden["players"]["stick_y"][0, 0] = -1.     # held down for long
    match.step(p1=dict(main_y=-1.))
    assert match.players["action"][0] == 346 and match.players["self_vy"][0] == pytest.approx(-2.8)


def test_mewtwos_double_jump_takes_the_stick_then_drifts():
    match = duel(MEWTWO)
    match.place(0, 0, y=60, airborne=True, facing=1)
    match.step(p1=dict(main_x=.875, buttons=X))
    assert velocity(match) == near(.93 * .875 + .02, 0)


# ---------------------------------------------------------------------------------------------------------------------
# Everybody
# ---------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("character", ALL)
@pytest.mark.parametrize("side", [-1, 1])
def test_the_up_special_returns_from_off_stage(character, side):
    match = duel(character)
    match.place(0, 100 * side, y=-30, airborne=True, facing=-side)
    match.players["jumps"][0] = 0
    special(match, main_y=1.)
    def back(m):
        action = m.players["action"][0]
        return action >= game.WAIT and (not m.players["airborne"][0] or action == game.LEDGE_CATCH)

    for _ in range(150):
        below = match.players["y"][0] < 0
        stick = -.6 if not below else -.3 if abs(match.players["x"][0]) > 95 else 0.  # not into the underside
        match.step(p1=dict(main_x=stick * side, main_y=.8 if below else 0.))
        if back(match):
            break
    assert back(match) and match.players["stocks"][0] == 4


@pytest.mark.parametrize("character", ALL)
@pytest.mark.parametrize("airborne", [False, True])
@pytest.mark.parametrize("stick", [{}, dict(main_x=1.), dict(main_y=1.), dict(main_y=-1.)],
                         ids=["B", "side", "up", "down"])
def test_every_special_ends(character, airborne, stick):
    match = duel(character)
    if airborne:
        match.place(0, 0, y=60 if character != MEWTWO else 150, airborne=True, facing=1)
    assert special(match, **stick) >= 341
    free = lambda m: m.players["action"][0] < 341 and m.players["action"][0] != game.FURAFURA
    if character == MEWTWO and not stick:              # the ball charges on; B lets it go
        match.step(frames=60)
        special(match)
    assert wait(match, 250, free) > 0


def random_games(characters, num_frames, seed, stages=(FINAL_DESTINATION, BATTLEFIELD)):
    """Random controllers, held for a few frames, games restarted when over; -> (longest stay by action, games over)."""
    num_games, random = len(characters), np.random.default_rng(seed)
    frames, hidden = np.zeros(num_games, game.FRAME), np.zeros(num_games, game.HIDDEN)
    stage = np.array(stages)[np.arange(num_games) % len(stages)]
    seeds = np.arange(num_games, dtype=np.uint64) + np.uint64(seed)
    game.reset_games(frames, hidden, np.ones(num_games, bool), characters, stage, seeds)
    controllers = np.zeros((num_games, 2), game.CONTROLLER)
    buttons = np.array([0, 0, 0, A, A, B, B, B, X, game.BUTTON_Y, game.BUTTON_L, R, Z])
    last, stay = frames["players"]["action"].copy(), np.zeros((num_games, 2), int)
    longest, ended = np.zeros(game.characters.NUM_ACTIONS, int), 0
    for frame in range(num_frames):
        change = random.random((num_games, 2)) < .15
        sticks = random.integers(-80, 81, (4, num_games, 2)) / 80
        sticks = np.where(random.random((4, num_games, 2)) < .4, np.sign(sticks), sticks)
        for name, value in zip(("main_x", "main_y", "c_x", "c_y"), sticks, strict=True):
            quiet = random.random((num_games, 2)) < (.3 if name.startswith("main") else .9)
            controllers[name][change] = np.where(quiet, 0, value)[change]
        controllers["buttons"][change] = random.choice(buttons, (num_games, 2))[change]
        controllers["r"][change] = (random.random((num_games, 2)) < .1)[change]
        game.step_games(frames, hidden, controllers)
        players, items = frames["players"], frames["items"]
        action = players["action"]
        stay = np.where((action == last) & (players["state_age"] > 1), stay + 1, 0)
        last = action.copy()
        np.maximum.at(longest, action.ravel(), stay.ravel())
        assert (action >= 0).all() and (action < game.characters.NUM_ACTIONS).all()
        if frame % 60 == 0:
            for name in game.PLAYER.names:
                assert np.isfinite(players[name]).all(), name
            assert np.isfinite(items["x"]).all() and np.isfinite(items["y"]).all()
            present = items["present"]
            assert ((present == 0) | (present == 1)).all()
            assert (np.diff(present, axis=1) <= 0).all()  # packed, never past the end
            assert np.isin(items["owner"][present == 1], (0, 1)).all()
        over = game.game_over(frames)
        if over.any():
            ended += int(over.sum())
            seeds = seeds + np.uint64(num_games)
            game.reset_games(frames, hidden, over, characters, stage, seeds)
            stay[over] = 0
    return longest, ended


# Actions that inputs end, or that last as long as somebody wants: standing, hanging, holding a shield, being dead.
OPEN_ENDED = {game.SLEEP, game.WAIT, game.LEDGE_HANG, game.SHIELD, game.CROUCH, game.TEETER_WAIT, game.RUN,
              game.WALK_SLOW, game.WALK_MIDDLE, game.WALK_FAST, game.FALL, game.FALL_AERIAL,
              game.FALL_SPECIAL, game.TUMBLE}


def check_random_games(num_games, num_frames, seed):
    pairs = np.array([(a, b) for a in ALL for b in ALL])
    characters = pairs[np.arange(num_games) % len(pairs)]
    longest, ended = random_games(characters, num_frames, seed, tuple(game.STAGES.values()))
    order = np.argsort(-longest)[:40]
    print(f"\n{num_games} places, {num_frames} frames each, {ended} games ended; longest stay by action: "
          + ", ".join(f"{action}: {longest[action]}" for action in order if longest[action]))
    stuck = {int(action): int(longest[action]) for action in np.flatnonzero(longest > 700)} if num_frames > 700 else {}
    assert not set(stuck) - OPEN_ENDED, stuck
    return ended


def test_random_games_stay_sane():
    check_random_games(100, 1500, seed=5)


@pytest.mark.slow
def test_a_thousand_random_games_of_ten_minutes():
    assert check_random_games(1000, 36_000, seed=6) >= 1000


# ---------------------------------------------------------------------------------------------------------------------
# Public figures
# ---------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("drawn, speed, damage", [(0, 1.3, 5), (60, 5.0, 18)])
def test_an_arrows_speed_damage_and_life(drawn, speed, damage):
    match = duel(LINK, FOX, distance=170)
    special(match)
    wait(match, 20, lambda m: m.players["action"][0] == 345, p1=dict(buttons=B))
    assert wait(match, 90, lambda m: len(present_items(m, game.ARROW)), p1=dict(buttons=B if drawn else 0)) > 0
    arrow = present_items(match, game.ARROW)[0]
    assert arrow["vx"] == pytest.approx(speed, abs=.15) and arrow["damage"] == pytest.approx(damage, abs=1)
    assert arrow["timer"] == 60
    low = float(arrow["vy"])
    match.step()
    assert present_items(match, game.ARROW)["vy"][0] == pytest.approx(low - .053, abs=1e-3)


@pytest.mark.parametrize("stick, speed, life", [(.7, 2.4, 140), (1., 3.1, 170)])
def test_the_boomerang_flung_by_a_smash_is_faster_and_lasts_longer(stick, speed, life):
    match = duel(LINK, FOX, distance=170)
    special(match, main_x=stick)
    assert wait(match, 40, lambda m: len(present_items(m, game.BOOMERANG))) > 0
    thrown = present_items(match, game.BOOMERANG)[0].copy()
    assert thrown["vx"] == pytest.approx(speed, abs=.05) and thrown["timer"] == pytest.approx(life, abs=1)
    match.step()
    assert present_items(match, game.BOOMERANG)["vx"][0] == pytest.approx(float(thrown["vx"]) - .047, abs=1e-3)


def test_dins_fire_gains_speed_and_its_blast_grows():
    match = duel(ZELDA, FOX, distance=160)
    special(match, main_x=1.)
    held = dict(buttons=B)
    assert wait(match, 30, lambda m: m.players["action"][0] == 344, p1=held) > 0
    match.step(p1=held)
    first = float(present_items(match, game.DINS_FIRE)["vx"][0])
    match.step(p1=held, frames=10)
    fire = present_items(match, game.DINS_FIRE)[0]
    assert fire["vx"] == pytest.approx(first + 10 * .06, abs=.01)
    damages = [game.items.item_damage(at_charge(fire, charge), game.TABLES.projectiles[game.DINS_EXPLOSION])
               for charge in (0, 30, 60)]
    assert damages == [3, 8, 13]


def at_charge(fire, charge):
    blast = np.zeros(1, fire.dtype).view(np.recarray)
    blast["type"], blast["charge"] = game.DINS_EXPLOSION, charge
    return blast[0]


def test_nayrus_love_cannot_be_touched_and_delays_the_fall():
    match = duel(ZELDA, FOX)
    match.place(0, -50, y=60, airborne=True)
    match.players["self_vy"][0] = -1
    special(match)
    untouchable = []
    for _ in range(12):
        untouchable.append(int(match.players["hurtbox"][0] == 2))
        match.step()
    assert sum(untouchable) == 8 and match.players["self_vy"][0] > -.3


@pytest.mark.parametrize("length, speed", [(1., 4.2), (.5, 3.1)])
def test_farores_wind_goes_as_fast_as_the_stick_is_far(length, speed):
    match = duel(ZELDA)
    match.place(0, -40, y=40, airborne=True)
    special(match, main_y=1.)
    assert wait(match, 80, lambda m: m.players["action"][0] == 353, p1=dict(main_x=length)) > 0
    match.step()
    assert match.players["self_vx_air"][0] == pytest.approx(speed, abs=.15)
    assert wait(match, 40, lambda m: m.players["action"][0] == 354) == pytest.approx(19, abs=1)
    before = float(match.players["self_vx_air"][0])
    assert 0 < before < .25 * speed                    # a fifth is left, and fades


def test_the_bombs_damage_depends_on_how_it_is_thrown():
    assert game.characters.BOMB_THROWS.tolist() == [6, 6, 7, 8, 1]
    for action, damage in ((game.ITEM_THROW + 2, 7), (game.ITEM_THROW + 3, 8), (game.ITEM_DROP, 1)):
        match = duel(LINK)
        match.players["action"][0] = action
        game.items.release_bomb(match.frames[0]["items"][0], match.players_record(0))
        assert match.frames["items"]["damage"][0, 0] == damage


@pytest.mark.parametrize("held, damage", [(1, 7), (29, 12), (57, 17), (84, 22)])
def test_shield_breaker_gains_by_loops_of_its_charge(held, damage):
    match = duel(MARTH, FOX, distance=22)
    special(match)
    assert wait(match, 40, lambda m: m.players["action"][0] == 342, p1=dict(buttons=B)) > 0
    match.step(p1=dict(buttons=B), frames=held)
    assert wait(match, 60, hurt(1)) > 0 and match.players["percent"][1] == pytest.approx(damage)


def test_only_the_first_sword_dance_of_an_airtime_lifts():
    match = duel(MARTH)
    match.place(0, -50, y=70, airborne=True)
    match.players["self_vy"][0] = -1
    special(match, main_x=1.)
    assert match.players["self_vy"][0] > .8
    wait(match, 70, lambda m: m.players["action"][0] == game.FALL)
    special(match, main_x=1.)
    assert match.players["action"][0] == 358 and match.players["self_vy"][0] <= 0


def test_only_the_first_confusion_of_an_airtime_lifts():
    """By .35, whatever speed he has; the fall goes on, and the stick does not steer it."""
    match = in_the_air(MEWTWO, y=120, vx=.633, vy=1.152, main_x=1.)
    assert match.players["action"][0] == 352 and velocity(match) == near(.617, 1.42)
    match.step(p1=dict(main_x=-1.), frames=4)
    assert velocity(match) == near(.617 - 4 * .016, 1.42 - 4 * .082)
    wait(match, 90, lambda m: m.players["action"][0] == game.FALL)
    before = float(match.players["self_vy"][0])
    special(match, main_x=1.)
    assert match.players["action"][0] == 352 and match.players["self_vy"][0] <= before


@pytest.mark.parametrize("character, jump, drift, double", [(LINK, 2.5, 1.0, .88), (ZELDA, 2.1, .7, .86),
                                                           (GANONDORF, 2.6, .9, .95)])
def test_jumps_of_link_zelda_and_ganondorf(character, jump, drift, double):
    match = duel(character)
    match.step(p1=dict(buttons=X))
    assert wait(match, 12, lambda m: m.players["airborne"][0], p1=dict(buttons=X)) > 0
    row = game.TABLES.characters[character]
    assert match.players["self_vy"][0] == pytest.approx(jump, abs=.12)
    assert row["jump_drift"] == pytest.approx(drift) and row["double_jump"] == pytest.approx(double)


def test_a_shield_shrinks_with_health_and_with_the_press():
    match = Game(FOX, FOX)
    c = game.TABLES.characters[FOX]
    radii = []
    for health, trigger in ((60, .3), (60, 1.), (0, 1.)):
        match.players["shield"][0] = health
        match.hidden["players"]["trigger"][0, 0] = trigger
        radii.append(game.combat.shield_bubble(match.players_record(0), match.secret_record(0), c)[0])
    assert radii == pytest.approx([13.8, 13.8 * (.15 + .85 * .5), 13.8 * .15], abs=.02)


@pytest.mark.parametrize("character, speed", [(FOX, 3.3), (FALCON, 2.7), (GANONDORF, 3.4), (ZELDA, 2.4)])
def test_a_broken_shield_throws_each_at_a_speed_of_his_own(character, speed):
    match = Game(character, FOX)
    game.combat.break_shield(match.players_record(0), match.secret_record(0))
    assert match.players["self_vy"][0] == pytest.approx(speed)


@pytest.mark.parametrize("character, across, up", [(FOX, 1.1, 4.0), (FALCON, 1.0, 3.3), (FALCO, 1.0, 3.9)])
def test_jumps_from_the_ledge(character, across, up):
    row = game.TABLES.characters[character]
    assert row["ledge_jump"].tolist() == pytest.approx([across, up])


def test_sausages_fly_in_five_ways():
    speeds = set()
    for seed in range(24):
        match = duel(GAMEANDWATCH, FOX, distance=170)
        match.hidden["seed"] = seed
        special(match)
        assert wait(match, 40, lambda m: len(present_items(m, game.SAUSAGE))) > 0
        sausage = present_items(match, game.SAUSAGE)[0]
        speeds.add((round(float(sausage["vx"]), 2), round(float(sausage["vy"]), 2)))
    assert speeds <= {(round(1 - .2 * way, 2), round(1 + .1 * way, 2)) for way in range(5)} and len(speeds) > 2

"""Melee's mechanics in the embedded game, one test each, named after the mechanic. Numbers come from the game's own
attribute tables where they differ by character, and stand here where Melee has one for everybody."""

import numpy as np
import pytest
from cleanmelee import game
from helpers import SEVEN, Game, hit, on_the_ledge

BATTLEFIELD = game.STAGES["battlefield"]
FOX = game.FOX
MARTH = game.MARTH
MEWTWO = game.MEWTWO
FALCO = game.FALCO
SHEIK = game.SHEIK
ALL = list(game.CHARACTERS.values())
FALCON = game.CHARACTERS["captain_falcon"]
YOSHIS_STORY, FOUNTAIN = 8, 2
SHIELD = dict(buttons=game.BUTTON_R, r=1.0)
MARTH_DTILT = dict(buttons=game.BUTTON_A, main_y=-.5)
ROW = game.TABLES.characters


def settled(character=FOX, stage=32, x=0.0):
    """A game whose first player stands still at x; the other is far away."""
    match = Game(character, stage=stage)
    match.place(0, x, facing=1)
    match.step()
    return match


def flying(character=FOX, x=0.0, y=60.0, **fields):
    match = Game(character)
    match.place(0, x, y, airborne=True)
    for name, value in fields.items():
        match.players[name][0] = value
    return match


def press_for_a_tech(match, frames):
    """L went down so many frames before the next one."""
    match.hidden["players"]["tech_lockout"][0, 0] = max(game.TECH_LOCKOUT + 1 - frames, 0)


def falling_on_the_floor(pressed_before):
    """Tumbling, one frame above the floor; L was pressed so many frames before that."""
    match = flying(y=1, action=game.TUMBLE, self_vy=-2.0, facing=1)
    press_for_a_tech(match, pressed_before)
    match.hidden["players"]["air_frames"][0, 0] = 2
    return match


def launched(kb, hitlag=0, hitstun=60, action=game.DAMAGE_FLY, y=60.0):
    """The first player in the air, hurt, with this knockback."""
    match = flying(y=y, action=action, in_hitstun=1, hitstun=hitstun, hitlag=hitlag)
    match.players["kb_vx"][0], match.players["kb_vy"][0] = kb
    return match


# ---------------------------------------------------------------------------------------------------------------------
# On the ground
# ---------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("character", ALL)
def test_wavedash_slides_as_far_as_friction_lets_it(character):
    row = ROW[character]
    match = settled(character, x=-20)
    match.step(dict(buttons=game.BUTTON_X), frames=int(row["jumpsquat"]))
    start = match.players["x"][0]
    match.step(dict(main_x=.95, main_y=-.2875, buttons=game.BUTTON_R, r=1.0))
    match.step(frames=120)
    speed = .9 * 3.1 * .95 / np.hypot(.95, .2875)
    length = speed * (.5 if row["lands_halfway"] else 1)
    while speed > 0:                                   # friction counts double above walking speed
        speed = max(speed - row["friction"] * (2 if speed > row["walk_max"] else 1), 0)
        length += speed
    assert match.players["x"][0] - start == pytest.approx(length, abs=.05)


@pytest.mark.parametrize("character", ALL)
def test_dash_starts_at_its_speed_and_the_run_ends_at_its_own(character):
    row = ROW[character]
    match = settled(character, x=-80)
    match.step(dict(main_x=1.0))
    assert match.players["action"][0] == game.DASH
    assert match.players["self_vx_ground"][0] == pytest.approx(row["dash_speed"], abs=1e-4)
    match.step(dict(main_x=1.0), frames=45)
    assert match.players["action"][0] == game.RUN
    assert match.players["self_vx_ground"][0] == pytest.approx(row["run_max"], abs=.15)


@pytest.mark.parametrize("character", ALL)
def test_walk_ends_at_its_speed(character):
    match = settled(character, x=-80)
    match.step(dict(main_x=.5), frames=3)
    match.step(dict(main_x=1.0), frames=60)
    assert match.players["action"][0] == game.WALK_FAST
    assert match.players["self_vx_ground"][0] == pytest.approx(ROW[character]["walk_max"], abs=.1)


def test_dash_back_keeps_a_quarter_of_the_speed_and_dashes_the_other_way():
    match = settled()
    match.step(dict(main_x=1.0), frames=6)
    before = float(match.players["self_vx_ground"][0])
    match.step(dict(main_x=-1.0))
    assert match.players["action"][0] == game.TURN
    expected = .25 * before - 2 * ROW[FOX]["friction"] if .25 * before > ROW[FOX]["walk_max"] else .25 * before - .08
    assert match.players["self_vx_ground"][0] == pytest.approx(expected, abs=1e-3)
    match.step(dict(main_x=-1.0))
    assert match.players["action"][0] == game.DASH and match.players["facing"][0] == -1


def test_moonwalk_dashes_backward():
    """A stick rolled back too slowly for a dash back turns the speed round, and not the dasher."""
    match = settled(FALCON)
    match.step(dict(main_x=1.0), frames=2)
    for x in (0.0, -.4, -.6):
        match.step(dict(main_x=x))
    match.step(dict(main_x=-1.0), frames=14)
    assert match.players["action"][0] == game.DASH and match.players["facing"][0] == 1
    assert match.players["self_vx_ground"][0] < -.2


def test_shield_out_of_a_dash_keeps_a_quarter_of_the_speed():
    match = settled()
    match.step(dict(main_x=1.0), frames=4)
    before = float(match.players["self_vx_ground"][0])
    match.step(dict(main_x=1.0, **SHIELD))
    assert match.players["action"][0] == game.SHIELD_REFLECT
    assert match.players["self_vx_ground"][0] == pytest.approx(.25 * before - ROW[FOX]["friction"], abs=1e-4)


@pytest.mark.parametrize("character", [FOX, FALCON])
def test_dash_begun_while_moving_forward_has_the_dash_speed(character):
    match = settled(character)
    match.players["self_vx_ground"][0] = .6
    match.step(dict(main_x=1.0))
    assert match.players["self_vx_ground"][0] == pytest.approx(ROW[character]["dash_speed"], abs=1e-4)


@pytest.mark.parametrize("pad, action", [(dict(main_x=-1.0, buttons=game.BUTTON_X), game.TURN),
                                         (dict(main_x=1.0, buttons=game.BUTTON_X | game.BUTTON_Z), game.GRAB_DASH)])
def test_dash_back_and_grab_go_before_a_jump_of_the_same_frame(pad, action):
    match = settled()
    match.step(dict(main_x=1.0), frames=6)
    assert match.step(pad)["action"][0] == action


def test_dash_from_a_stand_turns_back_from_its_fifth_frame_on():
    match = settled()
    match.step(dict(main_x=1.0), frames=3)
    assert match.step(dict(main_x=-1.0))["action"][0] == game.DASH and match.players["facing"][0] == 1
    assert match.step(dict(main_x=-1.0))["action"][0] == game.TURN


def test_dash_out_of_a_turn_turns_back_at_once():
    match = settled()
    match.step(dict(main_x=-1.0), frames=2)
    assert match.players["action"][0] == game.DASH and match.players["facing"][0] == -1
    assert match.step(dict(main_x=1.0))["action"][0] == game.TURN


@pytest.mark.parametrize("character", [FOX, FALCO])
def test_a_roll_stands_still_at_its_end_also_on_the_edge(character):
    match = settled(character, x=-60)
    match.step(SHIELD, frames=8)
    match.step(dict(main_x=-1.0, **SHIELD))
    assert match.players["action"][0] == game.ROLL_BACKWARD
    match.players["x"][0] = -80
    while match.players["action"][0] == game.ROLL_BACKWARD:
        before = match.players["x"][0]
        match.step()
    assert match.players["action"][0] == game.WAIT and match.players["x"][0] == before
    assert before == pytest.approx(-85.5657, abs=.01)


@pytest.mark.parametrize("character, action, first", [(FALCON, game.JAB_1, 16), (FOX, game.JAB_1, 16), (MARTH, 44, 26),
                                                      (MEWTWO, game.DASH_ATTACK, 38)])
def test_attacks_are_interruptible_from_the_public_frame(character, action, first):
    """Not from where a jab may go on, which libmelee marks alike."""
    match = settled(character)
    match.players["action"][0] = action
    match.hidden["players"]["action_frames"][0, 0] = first - 3
    assert match.step(dict(main_y=-1.0))["action"][0] == action
    assert match.step(dict(main_y=-1.0))["action"][0] == game.CROUCH_START


@pytest.mark.parametrize("character, action, length", [(FALCON, 46, 31), (FOX, game.USMASH, 41), (MEWTWO, 50, 49)])
def test_attacks_last_as_long_as_public_frame_data_say(character, action, length):
    match = settled(character)
    match.players["action"][0], match.hidden["players"]["action_frames"][0, 0] = action, 2
    frames = 3
    while match.step()["action"][0] == action:
        frames += 1
    assert frames == length


def test_captain_falcons_dash_lasts_28_frames():
    match = settled(FALCON)
    match.step(dict(main_x=1.0))
    frames = 1
    while match.step()["action"][0] == game.DASH:
        frames += 1
    assert frames == 28


@pytest.mark.parametrize("character, waits_on, length", [(MARTH, 9, 30), (MEWTWO, 20, 36), (FOX, 9, 20), (FALCO, 9, 20),
                                                         (FALCON, 9, 22)])
def test_running_turn_waits_until_the_speed_has_changed_its_sign(character, waits_on, length):
    match = settled(character, x=-40)
    match.step(dict(main_x=1.0), frames=40)
    match.step(dict(main_x=-1.0))
    assert match.players["action"][0] == game.TURN_RUN
    match.players["self_vx_ground"][0] = 3.0           # far from standing still
    match.step(frames=waits_on + 5)
    assert match.players["state_age"][0] == waits_on and match.players["facing"][0] == 1
    match.players["self_vx_ground"][0] = 0
    match.step()
    assert match.players["state_age"][0] == waits_on and match.players["facing"][0] == -1
    frames = 0
    while match.step()["action"][0] == game.TURN_RUN:
        frames += 1
    assert frames == length - 1 - waits_on


@pytest.mark.parametrize("pad, action", [({}, game.RUN_BRAKE), (dict(main_x=1.0), game.TURN_RUN),
                                         (dict(buttons=game.BUTTON_X), game.JUMPSQUAT)])
def test_a_run_out_of_a_running_turn_goes_on_for_nine_frames_whatever_the_stick_does(pad, action):
    match = settled(FOX, x=-40)
    match.step(dict(main_x=1.0), frames=20)
    match.step(dict(main_x=-1.0))
    assert match.players["action"][0] == game.TURN_RUN
    for _ in range(40):
        if match.step(dict(main_x=-1.0))["action"][0] == game.RUN:
            break
    assert match.players["facing"][0] == -1
    for frame in range(1, 9):
        match.step(pad)
        if "buttons" in pad:
            break                                      # a jump is free
        assert match.players["action"][0] == game.RUN and match.hidden["players"]["action_frames"][0, 0] == frame
    if "buttons" not in pad:
        match.step(pad)
    assert match.players["action"][0] == action


@pytest.mark.parametrize("late, dashes", [(0, True), (1, False), (3, False)])
def test_a_slow_turn_dashes_on_the_frame_on_which_the_facing_changes_and_on_no_later_one(late, dashes):
    match = settled(MARTH)
    match.step(dict(main_x=-.4))
    match.step(frames=int(ROW[MARTH]["turn_frames"]) - 1 + late)
    match.step(dict(main_x=-1.0))
    assert (match.players["action"][0] == game.DASH) == dashes


def test_crouch_end_can_walk_and_cannot_turn():
    for x, action in ((.5, game.WALK_SLOW), (-.5, game.CROUCH_END)):
        match = settled()
        match.step(dict(main_y=-1.0), frames=12)
        assert match.step()["action"][0] == game.CROUCH_END
        assert match.step(dict(main_x=x))["action"][0] == action


def test_flick_that_drops_through_a_platform_does_not_fast_fall():
    match = settled(stage=BATTLEFIELD, x=-39)
    match.place(0, -39, 27.2001)
    match.step(SHIELD, frames=8)
    match.step(dict(main_x=.7, main_y=-.7, **SHIELD))
    assert match.players["action"][0] == game.PLATFORM_DROP
    match.step(dict(main_x=.7, main_y=-.7), frames=2)
    assert not match.players["fastfall"][0]
    match.step()
    assert match.step(dict(main_y=-1.0))["fastfall"][0] == 1


@pytest.mark.parametrize("action, in_hitstun, falls_fast", [
    (game.TUMBLE, 0, True), (game.DAMAGE_AIR, 0, True), (game.DAMAGE_AIR, 1, False)])
def test_fast_fall_after_a_hit(action, in_hitstun, falls_fast):
    match = flying(action=action, in_hitstun=in_hitstun, hitstun=20 * in_hitstun, self_vy=-1.0)
    assert match.step(dict(main_y=-1.0))["fastfall"][0] == falls_fast


@pytest.mark.parametrize("touches", [True, False])
def test_wall_jump_wants_a_wall_that_is_touched(touches):
    match = flying(FALCON, x=88, y=-12, self_vx_air=-1.0 * touches, self_vy=-1.0, facing=-1)
    match.hidden["players"]["ledge_cooldown"][0, 0] = 30
    match.step(dict(main_x=1.0))
    assert (match.players["action"][0] == game.WALL_TECH_JUMP) == touches
    match.step(frames=5)
    assert (match.players["self_vy"][0] > 2.9) == touches


def test_each_wall_jump_is_weaker_until_landing():
    heights = []
    match = flying(FALCO, x=88, y=-12, facing=-1)
    for _ in range(2):
        match.step()                                   # the stick's flick must be a fresh one
        match.place(0, 88, -12, airborne=True, facing=-1)
        match.players["self_vx_air"][0], match.players["self_vy"][0] = -1, -1
        match.hidden["players"]["ledge_cooldown"][0, 0] = 30
        match.step(dict(main_x=1.0))
        assert match.players["action"][0] == game.WALL_TECH_JUMP
        match.step(frames=5)
        heights.append(float(match.players["self_vy"][0]) + ROW[FALCO]["gravity"])
    assert heights[0] == pytest.approx(3.6, abs=1e-3) and heights[1] == pytest.approx(.9 * 3.6, abs=1e-3)
    match.place(0, 0, 5, airborne=True)
    match.players["self_vy"][0] = 0
    match.step(frames=30)
    assert match.secret_record(0)["wall_jumps"] == 0


@pytest.mark.parametrize("character, lag, free_from", [(MEWTWO, -30, 4), (game.GAMEANDWATCH, -40, 6), (FOX, -18, 3),
                                                       (MARTH, 34, 34)])
def test_landing_from_a_helpless_fall_takes_each_characters_own_time(character, lag, free_from):
    lengths = []
    for pad in ({}, dict(main_x=1.0)):
        match = Game(character)
        match.place(0, 0, 1, airborne=True, facing=1)
        match.players["action"][0], match.players["self_vy"][0] = game.FALL_SPECIAL, -2
        match.hidden["players"]["landing_lag"][0, 0], match.hidden["players"]["air_frames"][0, 0] = lag, 2
        assert match.step()["action"][0] == game.LANDING_SPECIAL
        frames = 1
        while match.step(pad)["action"][0] == game.LANDING_SPECIAL:
            frames += 1
        lengths.append(frames)
    assert lengths == [abs(lag), free_from]


def test_falco_lands_out_of_his_side_special_for_20_frames():
    match = flying(FALCO, y=1, action=352, self_vy=-2.0)
    match.hidden["players"]["action_frames"][0, 0], match.hidden["players"]["air_frames"][0, 0] = 20, 2
    assert match.step()["action"][0] == game.LANDING_SPECIAL
    frames = 1
    while match.step()["action"][0] == game.LANDING_SPECIAL:
        frames += 1
    assert frames == 20


def test_fountains_floor_rises_toward_its_ends():
    match = settled(stage=FOUNTAIN, x=45)
    match.step(dict(main_x=1.0), frames=2)
    x = float(match.players["x"][0])
    while x < 52.5:
        x = float(match.step(dict(main_x=1.0))["x"][0])
    assert match.players["y"][0] == pytest.approx(.003 + .2671 * (x - 51.261), abs=.005)
    match.step(dict(main_x=1.0), frames=2)
    assert match.players["y"][0] == pytest.approx(.624, abs=.005)


def test_stick_held_since_before_hanging_does_not_leave_the_ledge():
    match = on_the_ledge()
    match.step(dict(main_x=1.0), frames=20)
    match.step(dict(main_x=.7, main_y=-.7))            # a flick of one axis, the other still held
    assert match.players["action"][0] == game.LEDGE_HANG
    for pad in (dict(main_x=1.0), dict(main_y=-1.0)):  # toward, down
        match = on_the_ledge()
        match.step(pad, frames=20)
        assert match.players["action"][0] == game.LEDGE_HANG
        match.step()
        assert match.step(pad)["action"][0] != game.LEDGE_HANG


def test_hanging_acts_on_its_first_frame():
    match = on_the_ledge()
    match.step(frames=6)
    assert match.players["action"][0] == game.LEDGE_CATCH
    assert match.step(dict(buttons=game.BUTTON_X))["action"][0] == game.LEDGE_JUMP


@pytest.mark.parametrize("character", ALL)
def test_the_box_that_catches_the_ledge_has_the_characters_own_size(character):
    """From just above its highest point one falls past; a fall through the whole box in one frame is caught."""
    corner, (width, top, height) = 85.5657, game.characters.LEDGE_BOX[character]

    def falls_from(x, y, speed):
        match = flying(character, -corner - x, y, facing=1, self_vy=-speed, fastfall=1)
        return match.step()["action"][0] == game.LEDGE_CATCH

    fall = float(ROW[character]["fast_fall"])
    for y, caught in ((top + .1, False), (top - .1, True), (top - height - .1, False)):
        after = y + (0 if y > top - height else -fall)
        assert falls_from(1, after + fall, fall) == caught
    assert falls_from(1, top - height + .1, fall)      # it was in the box, and is below by now
    for x, caught in ((width - .1, True), (width + .1, False)):
        assert falls_from(x, top - .1 + fall, fall) == caught


def test_level_flight_does_not_catch_the_ledge():
    match = flying(x=-90, y=-14, action=game.FALL, facing=1, self_vy=float(ROW[FOX]["gravity"]))
    assert match.step()["action"][0] == game.FALL
    assert match.step()["action"][0] == game.LEDGE_CATCH


@pytest.mark.parametrize("pad, leaves", [(dict(main_y=-.66), False), (dict(main_y=.5), False), (dict(main_y=-.7), True),
                                         (dict(main_x=.3), True), (dict(buttons=game.BUTTON_A), True)])
def test_platform_of_light_is_left_sideways_or_far_down(pad, leaves):
    match = flying(action=game.REBIRTH_WAIT)
    assert (match.step(pad)["action"][0] == game.FALL) == leaves


def test_platform_of_light_is_left_when_the_way_down_ends():
    match = flying(y=46, action=game.REBIRTH, self_vy=-1.15)
    match.hidden["players"]["action_frames"][0, 0] = 59
    match.step(dict(main_x=1.0))
    assert match.players["action"][0] == game.FALL
    assert match.players["y"][0] == pytest.approx(46 - ROW[FOX]["gravity"], abs=1e-4)


def test_a_in_a_dash_with_a_resting_stick_is_the_dash_attack():
    match = settled()
    match.step(dict(main_x=1.0), frames=4)
    assert match.step(dict(buttons=game.BUTTON_A))["action"][0] == game.DASH_ATTACK


def test_tilt_turn_takes_its_frames():
    match = settled(MARTH)
    turned_at = None
    for frame in range(12):
        match.step(dict(main_x=-.4))
        if match.players["facing"][0] == -1 and turned_at is None:
            turned_at = frame
    assert turned_at == ROW[MARTH]["turn_frames"]


@pytest.mark.parametrize("pad, action", [
    (dict(main_y=-.7), game.CROUCH_START), (dict(main_y=-.6875), game.WAIT), (dict(main_x=-.7, main_y=-.7),
                                                                           game.CROUCH_START),
    (dict(main_x=-.72, main_y=-.6875), game.TURN), (dict(main_x=.7, main_y=-.7), game.CROUCH_START)])
def test_crouch_needs_the_stick_further_down_than_public_and_goes_before_a_turn(pad, action):
    """44 of 44 walks and stands in replays that saw the stick between -.6125 and -.6875 did not crouch."""
    match = settled()
    match.step(dict(main_x=.4 if action == game.WAIT else 0, main_y=-.4))
    match.players["action"][0] = game.WAIT
    assert match.step(pad)["action"][0] == action


@pytest.mark.parametrize("stick, stays", [(-.625, True), (-.6125, False)])
def test_who_crouches_stays_down_longer_than_it_took_to_go_down(stick, stays):
    match = settled()
    match.step(dict(main_y=-1.0), frames=12)
    assert (match.step(dict(main_y=stick))["action"][0] == game.CROUCH) == stays


def test_a_landing_that_ends_with_the_stick_down_and_back_crouches():
    match = flying(y=1.0, facing=1)
    while match.step()["action"][0] != game.LANDING:
        assert match.players["airborne"][0]
    while match.players["action"][0] == game.LANDING:
        match.step(dict(main_x=-.7, main_y=-.7))
    assert match.players["action"][0] == game.CROUCH and match.players["facing"][0] == 1


def test_crouch_from_a_stick_held_down():
    match = settled()
    match.step(dict(main_y=-1.0), frames=12)
    assert match.players["action"][0] == game.CROUCH
    match.step(frames=12)
    assert match.players["action"][0] == game.WAIT


def test_two_players_push_each_other_three_tenths_a_frame():
    match = Game(FOX, FALCON)
    for distance, moved in ((6.75, .3), (6.85, 0)):    # Fox reaches 3.3, Captain Falcon 3.5
        match.place(0, 0)
        match.place(1, distance)
        match.step()
        assert match.players["x"][1] - distance == pytest.approx(moved, abs=1e-3)
        assert match.players["x"][0] == pytest.approx(-moved, abs=1e-3)


@pytest.mark.parametrize("action", [game.LEDGE_CLIMB, game.LEDGE_ATTACK, game.LEDGE_ROLL, game.ROLL_FORWARD])
def test_who_gets_up_from_the_ledge_or_rolls_pushes_the_other_and_is_not_pushed(action):
    match = Game(FOX, FALCON)
    match.place(0, -70, facing=1)
    match.players["action"][0], match.hidden["players"]["action_frames"][0, 0] = action, 20
    match.step()
    alone = float(match.players["x"][0]) + 70          # the animation moves him
    match = Game(FOX, FALCON)
    match.place(0, -70, facing=1)
    match.place(1, -68)
    match.players["action"][0], match.hidden["players"]["action_frames"][0, 0] = action, 20
    match.step()
    assert match.players["x"][0] + 70 == pytest.approx(alone, abs=1e-3)
    assert match.players["x"][1] + 68 == pytest.approx(.3, abs=1e-3)


def test_a_slow_walk_teeters_and_a_dash_runs_off():
    match = settled(x=83)
    match.step(dict(main_x=.4), frames=40)
    assert match.players["action"][0] in (game.TEETER, game.TEETER_WAIT) and not match.players["airborne"][0]
    match = settled(x=70)
    match.step(dict(main_x=1.0), frames=20)
    assert match.players["airborne"][0]


def test_running_off_the_edge_leaves_only_air_speed():
    match = settled(x=76)
    for _ in range(20):
        match.step(dict(main_x=1.0))
        if match.players["airborne"][0]:
            break
    assert match.players["action"][0] == game.FALL
    assert match.players["self_vx_air"][0] == pytest.approx(ROW[FOX]["air_max"], abs=1e-4)
    assert match.players["jumps"][0] == 1


def test_edge_cancel_ends_landing_lag():
    match = settled(x=83)
    match.players["action"][0], match.players["self_vx_ground"][0] = game.LANDING_SPECIAL, 2.5
    match.step(frames=3)
    assert match.players["action"][0] == game.FALL and match.players["airborne"][0]


# ---------------------------------------------------------------------------------------------------------------------
# Jumps and the air
# ---------------------------------------------------------------------------------------------------------------------

def apex(match, button_frames, frames=90):
    match.step(dict(buttons=game.BUTTON_X), frames=button_frames)
    return max(float(match.step()["y"][0]) for _ in range(frames))


@pytest.mark.parametrize("character", ALL)
@pytest.mark.parametrize("hop, button_frames", [("short_hop", 1), ("full_hop", 12)])
def test_hops_rise_as_speed_and_gravity_say(character, hop, button_frames):
    row, speed, height = ROW[character], ROW[character][hop], 0.0
    while speed > 0:                                   # no gravity on the first frame
        height += speed
        speed -= row["gravity"]
    assert apex(settled(character), button_frames) == pytest.approx(height, abs=.05)


@pytest.mark.parametrize("character", ALL)
def test_jumpsquat_lasts_its_frames(character):
    match, frames = settled(character), 0
    while not match.step(dict(buttons=game.BUTTON_X))["airborne"][0]:
        frames += 1
    assert frames == ROW[character]["jumpsquat"]


@pytest.mark.parametrize("character", ALL)
def test_drift_ends_at_air_speed_and_fades_by_air_friction(character):
    row, match = ROW[character], flying(character, y=150)
    match.step(dict(main_x=1.0), frames=40)
    assert match.players["self_vx_air"][0] == pytest.approx(row["air_max"], abs=1e-4)
    match.step()
    assert match.players["self_vx_air"][0] == pytest.approx(row["air_max"] - row["air_friction"], abs=1e-4)


def test_fast_fall_waits_for_the_way_down():
    match = settled()
    match.step(dict(buttons=game.BUTTON_X), frames=6)
    match.step(dict(main_y=-1.0))
    assert match.players["self_vy"][0] > 0 and not match.players["fastfall"][0]
    match = flying()
    match.step(frames=3)
    match.step(dict(main_y=-1.0))
    assert match.players["fastfall"][0] and match.players["self_vy"][0] == -ROW[FOX]["fast_fall"]


def test_air_dodge_flies_at_nine_tenths_a_frame_and_leaves_helpless():
    match = flying(y=150)
    match.step()
    match.step(dict(main_x=1.0, buttons=game.BUTTON_R, r=1.0))
    assert match.players["self_vx_air"][0] == pytest.approx(3.1 * .9, abs=1e-4)
    match.step()
    assert match.players["self_vx_air"][0] == pytest.approx(3.1 * .81, abs=1e-4)
    match.step(frames=27)
    assert match.players["self_vy"][0] == pytest.approx(0, abs=1e-4)
    match.step()
    assert match.players["self_vy"][0] == pytest.approx(-ROW[FOX]["gravity"], abs=1e-4)  # falls from frame 29 on
    match.step(frames=20)
    assert match.players["action"][0] == game.FALL_SPECIAL
    match.step(dict(buttons=game.BUTTON_X))
    assert match.players["action"][0] == game.FALL_SPECIAL


def test_waveland_takes_ten_frames():
    match = settled()
    match.step(dict(buttons=game.BUTTON_X), frames=3)
    match.step(dict(main_x=.7, main_y=-.7, buttons=game.BUTTON_R, r=1.0))
    frames = 0
    while match.players["action"][0] == game.LANDING_SPECIAL:
        match.step()
        frames += 1
    assert frames == 10 and match.players["action"][0] == game.WAIT


def land_aerial(frame, character=FOX, aerial=game.BAIR, button_at=None):
    """Touch the floor on this frame of the aerial; -> the match. L is pressed button_at frames before."""
    match = flying(character, y=40, action=aerial)
    secret = match.hidden["players"]
    if button_at is not None:
        secret["trigger_age"][0, 0] = button_at - 1
    secret["action_frames"][0, 0] = frame - 2          # two frames more: this one falls, action_frames counts from 0
    match.players["y"][0], match.players["self_vy"][0] = .5, -2.5
    secret["air_frames"][0, 0] = 2                     # the feet are at the position in the first frames of the air
    match.step()
    return match


@pytest.mark.parametrize("character", ALL)
@pytest.mark.parametrize("index", range(5))
def test_auto_cancel_lands_without_lag(character, index):
    row, aerial = ROW[character], int(ROW[character]["own_action"][game.NAIR + index])
    lag = int(row["own_action"][70 + index])
    before, after = int(row["autocancel_before"][index]), int(row["autocancel_after"][index])
    for frame, action in ((before - 1, game.LANDING), (before, lag), (after, lag), (after + 1, game.LANDING)):
        if 1 < frame < row["frames"][aerial]:
            assert land_aerial(frame, character, aerial).players["action"][0] == action, f"frame {frame}"


def test_l_cancel_window_is_seven_frames():
    for pressed_before, result in ((6, 1), (7, 2)):
        assert land_aerial(10, button_at=pressed_before).players["l_cancel"][0] == result


@pytest.mark.parametrize("character", ALL)
def test_l_cancel_halves_every_landing_lag(character):
    row = ROW[character]
    for index in range(5):
        aerial = int(row["own_action"][game.NAIR + index])
        lags = []
        for button in (0, 200):
            match = land_aerial(int(row["autocancel_before"][index]) + 2, character, aerial, button_at=button)
            frames = 0
            while match.players["action"][0] == row["own_action"][70 + index]:
                match.step()
                frames += 1
            lags.append(frames)
        own = row["own_action"][70 + index] != 70 + index  # Game & Watch's neutral, back and up aerial know none
        assert lags == [row["landing_lag"][index] // (1 if own else 2), row["landing_lag"][index]]


def test_platforms_let_jumps_through_and_hold_those_who_fall():
    match = settled(stage=BATTLEFIELD, x=-40)
    assert apex(match, 12) > 27.3
    match.step(frames=60)
    assert match.players["y"][0] == pytest.approx(27.2, abs=.01)
    match = settled(stage=BATTLEFIELD, x=-40)
    match.place(0, -40, 45, airborne=True)
    match.step(dict(main_y=-1.0), frames=40)           # down held: through
    assert match.players["y"][0] < 1


def test_double_jump_only_once():
    match = Game(FALCO)
    match.place(0, 0, 60, airborne=True)
    match.step()
    match.step(dict(buttons=game.BUTTON_X))
    assert match.players["action"][0] in (game.DOUBLE_FORWARD, game.DOUBLE_BACKWARD) and not match.players["jumps"][0]
    match.step(frames=3)
    match.step(dict(buttons=game.BUTTON_X))
    assert match.players["self_vy"][0] < 3.8 and match.players["jumps"][0] == 0


@pytest.mark.parametrize("character", SEVEN)
def test_fast_fall_and_terminal_speed(character):
    row = game.TABLES.characters[character]
    for stick, speed in ((0, row["fall_max"]), (-1.0, row["fast_fall"])):
        match = Game(character)
        match.place(0, 0, 180, airborne=True)
        match.step(frames=4)
        match.step(dict(main_y=stick), frames=36)
        assert np.isclose(match.players["self_vy"][0], -speed, atol=1e-4)


def test_platforms_are_landed_on_and_dropped_through():
    match = Game(stage=BATTLEFIELD)
    match.step(dict(main_y=-1.0), frames=8)
    assert match.players["action"][0] == game.PLATFORM_DROP and match.players["airborne"][0]
    match.step(frames=60)
    assert abs(match.players["y"][0]) < .01 and not match.players["airborne"][0]


# ---------------------------------------------------------------------------------------------------------------------
# Ledge, techs, dodges
# ---------------------------------------------------------------------------------------------------------------------

def test_ledge_cannot_be_caught_again_for_thirty_frames():
    match = on_the_ledge()
    match.step(frames=10)
    match.step(dict(main_y=-1.0))
    assert match.players["action"][0] == game.FALL
    for frame in range(1, 60):
        match.place(0, -88, -10, facing=1)
        match.players["self_vy"][0] = -.5
        if match.step()["action"][0] == game.LEDGE_CATCH:
            break
    assert frame == 30


def test_ledge_is_caught_facing_it_and_not_with_the_stick_down():
    for facing, stick, caught in ((1, 0, True), (-1, 0, False), (1, -1.0, False)):
        match = flying(x=-88, y=-6, facing=facing, self_vy=-1.0)
        match.step(dict(main_y=stick), frames=3)
        assert (match.players["action"][0] in (game.LEDGE_CATCH, game.LEDGE_HANG)) == caught


@pytest.mark.parametrize("stick, quick, slow", [
    (dict(main_y=.5), 255, 254), (dict(buttons=game.BUTTON_A), 257, 256), (SHIELD, 259, 258),
    (dict(buttons=game.BUTTON_X), 262, 260), (dict(main_y=1.0), 262, 260)])  # a flick up jumps, as everywhere
def test_ledge_options_slow_down_at_a_hundred_percent(stick, quick, slow):
    for percent, action in ((99, quick), (100, slow)):
        match = on_the_ledge()
        match.players["percent"][0] = percent
        match.step(frames=12)
        assert match.step(stick)["action"][0] == action


@pytest.mark.parametrize("percent, longest", [(0, 640), (100, 480)])
def test_ledge_lets_go_in_the_end(percent, longest):
    match, frames = on_the_ledge(), 0
    match.players["percent"][0] = percent
    match.step(frames=8)
    while match.players["action"][0] == game.LEDGE_HANG and frames < 900:
        match.step()
        frames += 1
    assert abs(frames - longest) <= 2 and match.players["action"][0] == game.FALL


def both_at_the_ledge(hanging, seed=1):
    """The second player falls past the left ledge; the first hangs there, or falls beside him."""
    match = on_the_ledge() if hanging else Game(seed=seed)
    for index in (1,) if hanging else (0, 1):
        match.place(index, -88, -6, airborne=True, facing=1)
        match.players["self_vy"][index] = -1.0
    match.step(frames=3)
    return [int(action) in (game.LEDGE_CATCH, game.LEDGE_HANG) for action in match.players["action"]]


def test_a_ledge_that_one_holds_cannot_be_caught_by_the_other():
    assert both_at_the_ledge(hanging=True) == [True, False]


def test_of_two_at_the_ledge_on_the_same_frame_one_gets_it_whatever_his_port():
    caught = [both_at_the_ledge(hanging=False, seed=seed) for seed in range(20)]
    assert all(sum(pair) == 1 for pair in caught) and 4 < sum(pair[0] for pair in caught) < 16


@pytest.mark.parametrize("character, action, caught", [
    (FOX, 366, False), (FOX, 356, True), (game.GAMEANDWATCH, 378, False), (game.FALCO, 358, True),
    (MEWTWO, 360, False), (game.SHEIK, 360, True)])
def test_only_some_specials_catch_the_ledge(character, action, caught):
    match = flying(character, x=-88, y=-6, facing=1, self_vy=-1.0)
    match.players["action"][0], match.hidden["players"]["action_frames"][0, 0] = action, 5
    seen = {int(match.step(dict(buttons=game.BUTTON_B))["action"][0]) for _ in range(6)}
    assert (game.LEDGE_CATCH in seen) == caught


@pytest.mark.parametrize("character, frames", [(FALCON, 32), (FALCO, 43), (MARTH, 39), (game.GAMEANDWATCH, 25)])
def test_the_jump_from_the_ledge_lasts_as_long_as_each_ones_own(character, frames):
    match = flying(character, y=150, action=game.LEDGE_JUMP + 1)
    for _ in range(frames - 1):
        match.step()
    assert match.players["action"][0] == game.LEDGE_JUMP + 1
    assert match.step()["action"][0] == game.FALL


def test_ledge_gives_the_double_jump_back():
    match = flying(x=-88, y=-6, facing=1, self_vy=-1.0, jumps=0)
    match.step(frames=3)
    assert match.players["action"][0] == game.LEDGE_CATCH and match.players["jumps"][0] == 1


@pytest.mark.parametrize("pressed_before, action", [(1, game.TECH), (19, game.TECH), (20, game.DOWN_BOUND_UP)])
def test_tech_window_is_twenty_frames(pressed_before, action):
    assert falling_on_the_floor(pressed_before).step()["action"][0] == action


@pytest.mark.parametrize("stick, action", [(0, game.TECH), (1.0, game.TECH_FORWARD), (-1.0, game.TECH_BACKWARD)])
def test_tech_rolls_follow_the_stick(stick, action):
    match = falling_on_the_floor(3)
    match.hidden["players"]["stick_x"][0, 0], match.hidden["players"]["tilt_x_age"][0, 0] = stick, 9  # held, no flick
    assert match.step(dict(main_x=stick))["action"][0] == action


def test_missed_tech_lies_down_and_gets_up():
    match, frames = falling_on_the_floor(100), {}
    for _ in range(40):
        action = int(match.step()["action"][0])
        frames[action] = frames.get(action, 0) + 1
    assert frames[game.DOWN_BOUND_UP] == 26 and match.players["action"][0] == game.DOWN_WAIT_UP
    match.step(dict(main_y=1.0))
    assert match.players["action"][0] == 186


@pytest.mark.parametrize("character", ALL)
@pytest.mark.parametrize("action, pad", [(game.SPOT_DODGE, dict(main_y=-1.0)), (game.ROLL_FORWARD, dict(main_x=1.0)),
                                         (game.ROLL_BACKWARD, dict(main_x=-1.0))])
def test_dodges_are_untouchable_on_their_frames(character, action, pad):
    row, match, frames = ROW[character], settled(character), []
    match.step(SHIELD, frames=12)
    match.step(dict(SHIELD, **pad))
    assert match.players["action"][0] == action
    while match.players["action"][0] == action:
        if match.players["hurtbox"][0] == 2:
            frames.append(int(match.hidden["players"]["action_frames"][0, 0]))
        match.step()
    assert frames == list(range(row["dodge_first"][action], row["dodge_last"][action])) and len(frames) > 8


def test_ledge_intangibility_lasts_37_frames():
    match = on_the_ledge()
    frames = 0
    while match.players["hurtbox"][0] == 2:
        frames += 1
        match.step()
    assert frames == 37 and match.players["action"][0] == game.LEDGE_HANG


def test_ledge_getup_stands_on_the_stage():
    match = on_the_ledge()
    match.step(frames=10)
    match.step(dict(main_y=1.0), frames=60)
    match.step(frames=20)
    assert match.players["action"][0] == game.WAIT and not match.players["airborne"][0]
    assert abs(match.players["x"][0]) < 85.6


@pytest.mark.parametrize("pads, techs", [
    ([dict(buttons=game.BUTTON_L)], True), ([dict(l=.5), dict(buttons=game.BUTTON_L, l=1.0)], True),
    ([dict(l=.5)], False), ([dict(buttons=game.BUTTON_Z)], False)])
def test_only_a_hard_press_techs_and_a_light_one_before_it_does_no_harm(pads, techs):
    """In replays 107 of 112 first hard presses teched, whatever the trigger did before them."""
    match = launched((0.0, 0.0), y=15)
    for pad in pads:
        match.step(pad)
    while match.players["airborne"][0]:
        match.step()
    assert match.players["action"][0] == (game.TECH if techs else game.DOWN_BOUND_UP)


def test_tech_lockout_lasts_forty_frames():
    for early_press, action in ((False, game.TECH), (True, game.DOWN_BOUND_UP)):
        match = Game()
        match.place(0, 0, 20, airborne=True)
        match.players["action"][0], match.players["jumps"][0] = game.TUMBLE, 0
        match.players["self_vy"][0] = -1
        if early_press:
            match.step(p1=dict(buttons=game.BUTTON_L), frames=1)
            match.place(0, 0, 20)
            match.players["action"][0], match.players["self_vy"][0] = game.TUMBLE, -1
            match.players["self_vx_air"][0] = 0
        match.step(frames=2)
        match.step(p1=dict(buttons=game.BUTTON_R))
        match.players["action"][0] = game.TUMBLE
        for _ in range(30):
            if match.players["airborne"][0]:
                match.step()
        assert match.players["action"][0] == action


# ---------------------------------------------------------------------------------------------------------------------
# Shield
# ---------------------------------------------------------------------------------------------------------------------

def test_shield_loses_028_a_frame_and_a_light_one_less():
    for press, drain in ((1.0, .28), (.5, .14 * (.1 + 1.9 * .5))):
        match = settled()
        match.step(dict(r=press), frames=12)
        before = float(match.players["shield"][0])
        match.step(dict(r=press), frames=10)
        assert before - match.players["shield"][0] == pytest.approx(10 * drain, abs=1e-3)


def test_shield_regains_007_a_frame():
    match = settled()
    match.players["shield"][0] = 30
    match.step(frames=10)
    assert match.players["shield"][0] == pytest.approx(30.7, abs=1e-3)


def test_a_digital_press_shields_in_the_power_shields_action():
    match = settled()
    assert match.step(SHIELD)["action"][0] == game.SHIELD_REFLECT
    match.step(SHIELD, frames=8)
    assert match.players["action"][0] == game.SHIELD
    match = settled()
    match.step(dict(r=.6))
    assert match.players["action"][0] == game.SHIELD_START
    match.step(dict(r=.6), frames=8)
    assert match.players["action"][0] == game.SHIELD


def test_power_shield_takes_no_harm_for_four_frames():
    lost = []
    for frames in (0, 3, 4):
        match = Game(MARTH, FOX)
        match.players["action"][1] = game.SHIELD_REFLECT
        match.hidden["players"]["action_frames"][0, 1] = frames
        game.combat.block(match.players_record(1), match.secret_record(1), 10.0, 1.0)
        lost.append(60 - float(match.players["shield"][1]))
    assert lost[0] == lost[1] == 0 and lost[2] > 5


@pytest.mark.parametrize("damage", [3.0, 10.0, 20.0])
@pytest.mark.parametrize("press", [1.0, .5])
def test_shield_damage_and_stun_follow_the_pressure(damage, press):
    match = Game(MARTH, FOX)
    match.players["action"][1] = game.SHIELD
    match.hidden["players"]["trigger"][0, 1] = press
    game.combat.block(match.players_record(1), match.secret_record(1), damage, 1.0)
    assert 60 - match.players["shield"][1] == pytest.approx(damage * (1 - (.1 + .2 * press)), abs=1e-3)
    stun = (damage * (1 - (.05 + .65 * press)) / .3 + 4.45) / 2.235
    lag, frames = int(match.players["hitlag"][1]), 0
    while match.players["action"][1] == game.SHIELD_STUN:
        match.step(p2=dict(r=press))
        frames += 1
    assert frames - (lag - 1) == np.ceil(stun)         # the last frame of hitlag moves
    assert match.players["action"][1] == game.SHIELD


def low_attack_on_a_shield(health):
    match = Game(MARTH, MEWTWO)
    match.place(0, 0, facing=1)
    match.place(1, 17, facing=-1)
    pad = dict(r=1.0)
    match.step(p2=pad, frames=12)
    match.players["shield"][1] = health
    match.step(dict(buttons=game.BUTTON_A, main_y=-.5), pad)
    for _ in range(30):
        match.step(p2=pad)
        if match.players["hitlag"][0] > 0:
            return match
    pytest.fail("no hit")


def test_a_worn_shield_is_poked_and_a_whole_one_is_not():
    """The tip of a low sword meets the feet below a small shield."""
    whole = low_attack_on_a_shield(60).players
    assert whole["percent"][1] == 0 and whole["action"][1] == game.SHIELD_STUN
    poked = low_attack_on_a_shield(6).players
    assert poked["percent"][1] > 0 and poked["action"][1] != game.SHIELD_STUN


def test_a_shield_leans_with_the_stick_and_a_light_one_is_larger():
    match = Game(MARTH, MEWTWO)
    secret, sizes = match.secret_record(1), {}
    for name, stick, press in (("straight", 0.0, 1.0), ("low", -.6, 1.0), ("light", 0.0, .4)):
        secret["stick_y"], secret["trigger"] = stick, press
        radius, bottom, top, _ = game.combat.shield_bubble(match.players_record(1), secret, ROW[MEWTWO])
        sizes[name] = radius, .5 * (bottom + top)
    assert sizes["low"][1] < sizes["straight"][1] - 1 and sizes["low"][0] == sizes["straight"][0]
    assert sizes["light"][0] > 1.1 * sizes["straight"][0]


@pytest.mark.parametrize("pad, action", [
    (dict(buttons=game.BUTTON_X), game.JUMPSQUAT), (dict(main_x=1.0), game.ROLL_FORWARD),
    (dict(main_x=-1.0), game.ROLL_BACKWARD), (dict(main_y=-1.0), game.SPOT_DODGE),
    (dict(buttons=game.BUTTON_Z), game.GRAB), (dict(), game.SHIELD_RELEASE)])
def test_options_out_of_shield(pad, action):
    match = settled()
    match.step(dict(r=1.0), frames=12)
    held = dict(r=1.0) if pad else {}
    assert match.step({**held, **pad})["action"][0] == action


def test_shield_drop_through_a_platform():
    match = settled(stage=BATTLEFIELD, x=-40)
    match.place(0, -40, 27.2001)
    match.step(dict(r=1.0), frames=12)
    match.step(dict(r=1.0, main_x=.7, main_y=-.7))
    assert match.players["action"][0] == game.PLATFORM_DROP
    match = settled(stage=BATTLEFIELD, x=0)
    match.step(dict(r=1.0), frames=12)
    match.step(dict(r=1.0, main_x=.7, main_y=-.71))
    assert match.players["action"][0] in (game.SPOT_DODGE, game.ROLL_FORWARD)


def test_held_shield_breaks():
    match = Game()
    match.step(dict(buttons=game.BUTTON_R, r=1.0), frames=230)
    assert match.players["action"][0] >= game.SHIELD_BREAK_FLY and match.players["shield"][0] > 0


# ---------------------------------------------------------------------------------------------------------------------
# Hurt
# ---------------------------------------------------------------------------------------------------------------------

def test_knockback_fades_by_051_along_its_direction():
    match = launched((1.5, 2.0))
    match.step()
    kb = match.players["kb_vx"][0], match.players["kb_vy"][0]
    assert np.hypot(*kb) == pytest.approx(2.5 - .051, abs=1e-4) and kb[1] / kb[0] == pytest.approx(2 / 1.5, abs=1e-4)


def test_di_across_the_launch_turns_it_eighteen_degrees():
    for stick, turn in ((1.0, -18), (.5, -18 * .25), (-1.0, 18)):
        match = launched((0.0, 3.0), hitlag=2)
        match.step(dict(main_x=stick))                 # it reads the last frame of hitlag
        match.step()
        angle = np.degrees(np.arctan2(match.players["kb_vy"][0], match.players["kb_vx"][0]))
        assert angle - 90 == pytest.approx(turn, abs=.05)


def test_di_along_the_launch_does_nothing():
    match = launched((0.0, 3.0), hitlag=2)
    match.step(dict(main_y=1.0), frames=2)
    assert match.players["kb_vx"][0] == pytest.approx(0, abs=1e-5)


def test_smash_di_shifts_six_units_and_the_automatic_one_three():
    match = launched((0.0, 3.0), hitlag=5)
    match.step(dict(main_x=1.0))
    assert match.players["x"][0] == pytest.approx(6, abs=1e-3)
    match.step(dict(main_x=1.0), frames=2)             # held, not tilted anew
    assert match.players["x"][0] == pytest.approx(6, abs=1e-3)
    for stick, shift in ((1.0, 3), (.7, 2.1), (.6, 0)):
        match = launched((0.0, 0.0), hitlag=1)
        match.hidden["players"]["stick_x"][0, 0] = stick  # the last frame's in hitlag; this one's does not count
        match.step(dict(main_x=-1.0))
        assert match.players["x"][0] == pytest.approx(shift, abs=.1)
    match = launched((0.0, 0.0), hitlag=1)
    match.hidden["players"]["stick_x"][0, 0], match.hidden["players"]["c_x"][0, 0] = 1.0, -1.0
    match.step()                                       # the c-stick comes first
    assert match.players["x"][0] == pytest.approx(-3, abs=.1)


def test_smash_di_of_a_shield_goes_along_the_floor_and_two_thirds_as_far():
    for stick, moved in ((dict(main_x=1.0), .66 * 6), (dict(main_y=1.0), 0), (dict(main_x=.6), 0)):
        match = Game()
        match.step(SHIELD, frames=10)
        match.players["action"][0], match.players["hitlag"][0], start = game.SHIELD_STUN, 5, match.players["x"][0]
        match.step({**SHIELD, **stick})
        assert match.players["x"][0] - start == pytest.approx(moved, abs=1e-3) and not match.players["airborne"][0]
        match.step({**SHIELD, **stick}, frames=2)
        assert match.players["x"][0] - start == pytest.approx(moved, abs=1e-3)


def test_a_jump_held_in_hitstun_comes_out_at_its_end():
    match = launched((0.0, 0.0), hitstun=3, y=100)
    match.players["state_age"][0] = 40
    match.step(dict(buttons=game.BUTTON_X), frames=3)
    assert match.players["action"][0] == game.DOUBLE_FORWARD and match.players["jumps"][0] == 0


def test_tumble_ends_with_a_flick():
    for frames, action in ((1, game.TUMBLE), (0, game.FALL)):
        match = flying(y=100, action=game.TUMBLE)
        match.step(dict(main_x=.5 if frames else 1.0), frames=2)
        assert match.players["action"][0] == action


@pytest.mark.parametrize("pads, moved", [
    ([.3, .5, .8, .8, .8], 6 * .8), ([.8, .8, .8, .8, .8], 6 * .8), ([.3, .3, .3, .3, .3, .8], 0)])
def test_smash_di_is_a_tilt_of_four_frames_and_counts_once(pads, moved):
    match = launched((0.0, 0.0), hitlag=20)
    for x in pads:
        match.step(dict(main_x=x))
    assert match.players["x"][0] == pytest.approx(moved, abs=1e-3)


@pytest.mark.parametrize("pad", [dict(c_y=-1.0), dict(main_y=-1.0)])
def test_a_weak_launch_and_a_stick_down_land_when_the_hitlag_ends(pad):
    match = Game(FOX, FOX)
    match.place(0, 0, facing=1)
    match.place(1, 8, facing=-1)
    match.players["percent"][1] = 25
    match.players["airborne"][1], match.players["action"][1] = 1, game.FALL
    match.step(dict(buttons=game.BUTTON_A))
    while not match.players["hitlag"][1]:
        match.step()
    while match.players["hitlag"][1] > 1:
        match.step(p2=pad)
    match.step()                                       # it is the last frame of hitlag that counts
    assert match.players["action"][1] == game.LANDING and match.players["y"][1] == pytest.approx(.0001, abs=1e-4)


def test_smash_di_stops_at_the_floor_and_at_the_stages_side():
    match = launched((0.0, 2.0), hitlag=9, y=3)
    match.step(dict(main_y=-1.0))
    assert match.players["y"][0] == pytest.approx(0, abs=1e-3) and match.players["airborne"][0]
    match = launched((0.0, 2.0), hitlag=9, y=-6)
    match.players["x"][0] = 87
    match.step(dict(main_x=-1.0))
    assert match.players["x"][0] >= 85.5


def test_the_feet_follow_the_animation_after_ten_frames_in_the_air_hitlag_included():
    """A blow has just lifted him; then he sinks into the floor, by less than his feet are up."""
    def height_after(hitlag, frames):
        match = launched((0.0, 0.0), hitlag=hitlag, y=.1)
        match.hidden["players"]["air_frames"][0, 0] = 1
        match.step(frames=frames)
        return match.players["y"][0]

    assert height_after(11, 11) < 0
    assert height_after(10, 10) < 0
    assert height_after(9, 9) == pytest.approx(0, abs=.001)


def test_feet_that_sink_while_he_rises_meet_the_stage():
    """Mewtwo's double jump begins with hardly any rise; an aerial's feet are lower than its."""
    match = flying(MEWTWO, y=-.85, action=game.DOUBLE_FORWARD, self_vy=.11)
    secret = match.secret_record(0)
    secret["action_frames"], secret["air_frames"], secret["feet"] = 1, 79, 1.21
    match.step(dict(buttons=game.BUTTON_A, main_y=-1.0))
    assert not match.players["airborne"][0] and match.players["y"][0] == pytest.approx(0, abs=1e-3)


def test_a_shift_into_the_wall_can_be_teched_wherever_the_blow_sends():
    for pressed_before, action in ((5, game.WALL_TECH), (60, game.DAMAGE_FLY)):
        match = launched((1.0, .5), hitlag=1, y=-8)
        match.players["x"][0], match.players["facing"][0] = 86.5, 1
        match.hidden["players"]["stick_x"][0, 0] = -1.0
        press_for_a_tech(match, pressed_before)
        match.step()
        assert match.players["action"][0] == action


def test_tumble_knows_no_air_dodge():
    for action in (game.TUMBLE, game.DAMAGE_FLY):
        match = flying(y=100, action=action)
        match.step(SHIELD, frames=2)
        assert match.players["action"][0] == action
    match.step(dict(main_x=1.0))                       # the flick first, and then
    assert match.players["action"][0] == game.FALL
    match.step()
    assert match.step(SHIELD)["action"][0] == game.AIR_DODGE


def test_flung_and_out_of_hitstun_is_free_though_the_animation_goes_on():
    for pad, actions in ((dict(buttons=game.BUTTON_X), (game.DOUBLE_FORWARD, game.DOUBLE_BACKWARD)),
                         (dict(buttons=game.BUTTON_A), (game.NAIR,)), (dict(main_x=1.0), (game.FALL,))):
        match = flying(y=100, action=game.DAMAGE_FLY_TOP)
        match.step()
        assert match.step(pad)["action"][0] in actions


@pytest.mark.parametrize("before, jumps", [(9, True), (10, False)])
def test_a_jump_pressed_in_the_last_ten_frames_of_hitstun_comes_out(before, jumps):
    match = launched((0.0, 0.0), hitstun=before + 1, y=150)
    match.players["state_age"][0] = 40
    match.step(dict(buttons=game.BUTTON_X))
    match.step(frames=before)
    assert (match.players["jumps"][0] == 0) == jumps


JUMP, RISE = dict(buttons=game.BUTTON_X), dict(buttons=game.BUTTON_B, main_y=1.0)


@pytest.mark.parametrize("pads, stops", [
    ({7: JUMP}, True), ({6: JUMP}, False), ({3: JUMP, 12: JUMP}, False), ({3: JUMP, 50: JUMP}, True),
    ({7: RISE}, True), ({3: RISE, 12: RISE}, False), ({3: dict(buttons=game.BUTTON_X), 12: RISE}, True),
    ({-20: JUMP, 12: JUMP}, False), ({-30: JUMP, 12: JUMP}, True)])
def test_a_meteor_is_cancelled_from_the_eighth_frame_by_a_press_that_no_other_went_before(pads, stops):
    """Forty frames spoil a second press of the same kind, even if the first came before the blow."""
    match = launched((0.0, -.5), y=150)
    match.players["jumps"][0] = 0
    for frame in range(-40, 0):
        match.step(pads.get(frame))
    match.players["jumps"][0], match.players["action"][0], match.players["in_hitstun"][0] = 1, game.DAMAGE_FLY, 1
    match.players["hitstun"][0], match.players["kb_vy"][0], match.players["y"][0] = 90, -.5, 150
    match.hidden["players"]["meteor"][0, 0], match.hidden["players"]["action_frames"][0, 0] = 1, 0
    for frame in range(60):
        match.players["kb_vy"][0], match.players["y"][0] = -.5, 100  # neither fades away nor lands meanwhile
        match.step(pads.get(frame))
        if not match.players["in_hitstun"][0]:
            break
    assert (frame < 59) == stops and (frame < 59) == (match.players["kb_vy"][0] == 0)


def test_fast_fall_once_hitstun_is_over():
    match = flying(y=100, action=game.DAMAGE_AIR, self_vy=-1.0)
    match.step()
    assert match.step(dict(main_y=-1.0))["fastfall"][0] == 1


def test_stale_queue_holds_nine_and_forgets_the_oldest():
    secret = Game().secret_record(0)
    for attack in (7, 8, 7):
        game.combat.remember_hit(secret, attack)
    assert game.combat.stale_factor(secret, 7) == pytest.approx(1 - .09 - .07)
    for attack in range(20, 27):
        game.combat.remember_hit(secret, attack)
    assert game.combat.stale_factor(secret, 7) == pytest.approx(1 - .02)
    assert game.combat.stale_factor(secret, 8) == pytest.approx(1 - .01)
    game.combat.remember_hit(secret, 30)
    assert game.combat.stale_factor(secret, 8) == 1


def test_death_clears_the_stale_queue_and_the_percent():
    match = Game()
    match.hidden["players"]["stale"][0, 0] = 5
    match.players["percent"][0] = 90
    match.place(0, 0, -150, airborne=True)
    match.step(frames=70)
    assert not match.hidden["players"]["stale"][0, 0].any() and match.players["percent"][0] == 0


@pytest.mark.parametrize("victim", SEVEN)
@pytest.mark.parametrize("percent", [0.0, 40.75, 110.0])
def test_knockback_follows_the_formula(victim, percent):
    match = hit(MARTH, victim, percent, MARTH_DTILT)
    attacker, hurt = match.players
    boxes = game.TABLES.hitboxes[game.TABLES.characters[MARTH]["hit_row"][game.DTILT]]
    damage = hurt["percent"] - percent
    row = next(row for row in boxes if damage in row["damage"])
    box = list(row["damage"]).index(damage)
    weight = game.TABLES.characters[victim]["weight"]
    p = int(percent) + damage                          # the percent before the hit counts without its fraction
    scaled = 1.4 * (200 / (weight + 100)) * (.1 * p + .05 * damage * p) + 18
    force = row["growth"][box] / 100 * scaled + row["base"][box]
    assert np.isclose(np.hypot(hurt["kb_vx"], hurt["kb_vy"]), .03 * force, rtol=1e-3)
    assert hurt["hitstun"] == int(.4 * force) and hurt["in_hitstun"]
    assert hurt["hitlag"] == attacker["hitlag"] == int(damage / 3 + 3)
    assert hurt["facing"] == -1 and (hurt["action"] >= game.DAMAGE_FLY_HIGH) == (force >= 80)


def test_sakurai_angle():
    assert game.combat.launch_angle(361, 31.0, False) == 0 and game.combat.launch_angle(361, 40.0, False) == 44
    assert game.combat.launch_angle(361, 10.0, True) == 45 and game.combat.launch_angle(90, 10.0, False) == 90


def test_set_knockback_ignores_percent():
    assert game.combat.knockback(0.0, 5, 5, 75, 100, 80, 0) == game.combat.knockback(150.0, 5, 5, 75, 100, 80, 0)


def test_staling_reduces_repeated_moves():
    fresh = hit(MARTH, MEWTWO, 0.0, MARTH_DTILT)
    first = float(fresh.players["percent"][1])
    stale = Game(MARTH, MEWTWO)
    damages = []
    for _ in range(3):
        stale.place(0, 0, facing=1)
        stale.place(1, 10, facing=-1)
        for name, value in dict(action=game.WAIT, airborne=0, hitlag=0, hitstun=0, in_hitstun=0, kb_vx=0, kb_vy=0,
                                percent=0).items():
            stale.players[name][:] = value
        stale.step(MARTH_DTILT)
        stale.step(frames=12)
        damages.append(float(stale.players["percent"][1]))
    assert np.allclose(damages, [first, first * .91, first * (1 - .09 - .08)], atol=.01)


def test_crouching_takes_two_thirds():
    standing = hit(MARTH, MEWTWO, 30.0, MARTH_DTILT)
    crouching = hit(MARTH, MEWTWO, 30.0, MARTH_DTILT, before=dict(main_y=-.7))
    speed = [np.hypot(match.players["kb_vx"][1], match.players["kb_vy"][1]) for match in (standing, crouching)]
    assert standing.players["percent"][1] == crouching.players["percent"][1]
    assert np.isclose(speed[1], speed[0] * 2 / 3, rtol=1e-3)


def test_one_swing_hits_once():
    match = hit(MARTH, MEWTWO, 0.0, MARTH_DTILT)
    percent = float(match.players["percent"][1])
    match.place(1, 10)
    match.step(frames=20)
    assert match.players["percent"][1] == percent


def test_equal_ground_attacks_clank():
    match = Game(first=MARTH, second=MARTH)
    match.place(0, -15, facing=1)
    match.place(1, 15, facing=-1)
    down_tilt = dict(main_y=-.5, buttons=game.BUTTON_A)
    match.step(p1=down_tilt, p2=down_tilt)
    match.step(frames=9)
    assert (match.players["action"] == game.REBOUND_STOP).all() and (match.players["percent"] == 0).all()
    match.step(frames=40)
    assert (match.players["action"] == game.WAIT).all()


def test_a_clank_takes_as_long_as_a_recorded_one():
    """Sheik's down smash, of 10 percent, and Falco's jab, of 4, as a replay has them: 6 and 4 frames of standing still;
    then the harder blow takes 12 frames, and both slide off with some half a unit a frame."""
    match = Game(first=SHEIK, second=FALCO)
    match.place(0, 0, facing=-1)
    match.place(1, -60, facing=1)
    match.step(dict(c_y=-1.0))
    match.step(frames=16)
    match.place(1, -20.65, facing=1)
    match.step(p2=dict(buttons=game.BUTTON_A))
    seen = [match.players.copy()]
    for _ in range(30):
        seen.append(match.step().copy())
    seen = np.stack(seen)
    stops, rebounds = (seen["action"] == game.REBOUND_STOP).sum(0), (seen["action"] == game.REBOUND).sum(0)
    assert stops.tolist() == [6, 4] and rebounds.tolist() == [12, 8], (seen["action"].T, stops, rebounds)
    first = (seen["action"] == game.REBOUND).argmax(0)
    slide = seen["self_vx_ground"]
    np.testing.assert_allclose([slide[first[0], 0], slide[first[1], 1]], [.542, -.5294], atol=.002)
    assert seen["action_frame"][first[0]:first[0] + 12, 0].tolist() == [0, 2, 5, 8, 10, 13, 16, 18, 21, 24, 26, 29]
    np.testing.assert_allclose(np.diff(seen["x"][first[0]:first[0] + 7, 0]), [.462, .382, .302, .222, .142, .062],
                               atol=.003)


def test_animation_frames_are_melees():
    """As replays have them: where actions begin, start over and stand still, and how fast they go."""
    ages = lambda match, frames, **inputs: [float(match.step(**inputs)["state_age"][0]) for _ in range(frames)]
    match = Game(FOX, FOX)
    match.place(1, 60)
    assert match.players["state_age"][0] == 0
    assert ages(match, 121)[-3:] == [119, 0, 1]                             # Fox stands for 120 frames
    assert ages(match, 1, p1=dict(buttons=game.BUTTON_A)) == [1] and match.players["action_frame"][0] == 1
    assert ages(match, 2) == [2, 3]                                         # a jab
    match = Game(FOX, FOX)
    match.place(1, 60)
    assert set(ages(match, 5, p1=SHIELD)) == {-1}
    match.place(0, 0, 60, airborne=True)
    match.step()
    assert match.players["action"][0] == game.FALL
    assert ages(match, 9) == [(match.players["state_age"][0] - 8 + k) % 8 for k in range(9)]
    match = Game(FOX, FOX)
    match.place(1, 60)
    match.step(dict(main_x=.5), frames=12)
    before = match.players.copy()
    after = match.step(dict(main_x=.5))
    assert game.WALK_SLOW <= before["action"][0] == after["action"][0] <= game.WALK_FAST
    gain = (after["state_age"] - before["state_age"])[0] / before["self_vx_ground"][0]
    assert np.isclose(gain, {15: 4.35, 16: 1.75, 17: 1.09}[int(after["action"][0])], rtol=1e-3)


def test_an_aerial_landing_plays_its_animation_within_its_lag():
    match = Game(FOX, FOX)
    match.place(1, 60)
    match.place(0, 0, 15, airborne=True)
    match.step(dict(buttons=game.BUTTON_A))
    landing = 70                                                            # of the neutral aerial
    assert any(match.step()["action"][0] == landing for _ in range(60)) and match.players["state_age"][0] == 0
    assert np.isclose(float(match.step()["state_age"][0]), 30.1 / ROW[FOX]["landing_lag"][0], rtol=1e-4)


def test_grab_and_throw():
    match = Game(MARTH, FOX)
    match.place(0, 0, facing=1)
    match.place(1, 9, facing=-1)
    match.step(dict(buttons=game.BUTTON_Z))
    match.step(frames=12)
    assert match.players["action"][0] == game.HOLD and match.players["action"][1] == game.HELD
    heights = [float(match.step(dict(main_y=1.0))["y"][1]) for _ in range(40)]
    assert match.players["percent"][1] == 4 and max(heights) > 15


def test_a_c_stick_held_through_the_pummel_throws_at_its_end():
    match = Game(FALCON, FALCON)
    match.place(0, 0, facing=1)
    match.place(1, 9, facing=-1)
    match.step(dict(buttons=game.BUTTON_Z))
    while match.players["action"][0] != game.HOLD:
        match.step()
    match.step(dict(buttons=game.BUTTON_A))
    assert match.players["action"][0] == game.PUMMEL
    while match.players["action"][0] == game.PUMMEL:
        match.step(dict(c_y=-1.0))
    assert match.players["action"][0] == game.THROW_DOWN


@pytest.mark.parametrize("frames, action", [(43, game.DOWN_BOUND_UP), (44, game.DOWN_BOUND_DOWN)])
def test_who_flies_straight_up_has_rolled_over_after_44_frames(frames, action):
    match = flying(y=1, action=game.DAMAGE_FLY_TOP, self_vy=-2.0, in_hitstun=1, hitstun=60)
    match.hidden["players"]["action_frames"][0, 0] = frames - 1
    match.hidden["players"]["air_frames"][0, 0] = 2
    assert match.step()["action"][0] == action


@pytest.mark.parametrize("action, frame, hit", [(game.WAIT, 0, True), (game.LANDING, 4, False),
                                                (game.LANDING, 12, True)])
def test_who_has_just_landed_is_as_low_as_who_crouches(action, frame, hit):
    """Blows at head height pass over him; fitted to the 12 hits and 15 misses of replays there."""
    match = Game(FOX, FALCON)
    match.players["action"][1], match.players["state_age"][1] = action, frame
    match.place(1, 0)
    victim, row = match.players_record(1), ROW[FALCON]
    radius, _, top, _ = game.combat.body(victim, row)
    assert (top >= row["height"]) == hit and radius < top


def test_legs_are_drawn_up_in_aerials_and_specials():
    bottoms = {}
    for action in (game.FALL, game.NAIR, 354):
        match = flying(FALCON, action=action)
        bottoms[action] = game.combat.body(match.players_record(0), ROW[FALCON])[1]
    assert bottoms == {game.FALL: 0, game.NAIR: 1.5, 354: 1.5}


def test_nobody_hits_a_thrower_in_his_first_eight_frames():
    match = Game(MARTH, FOX)
    match.place(0, 0, facing=1)
    match.place(1, 9, facing=-1)
    match.step(dict(buttons=game.BUTTON_Z))
    match.step(frames=12)
    match.step(dict(main_y=1.0))
    shielded = [int(match.players["hurtbox"][0])] + [int(match.step()["hurtbox"][0]) for _ in range(12)]
    assert shielded == [1] * 8 + [0] * 5


def test_the_shield_pushes_the_attacker_by_its_own_speed():
    """Floor of the damage times .07 and .02, less 1.1 times his friction a frame, through root motion too."""
    match = Game(FALCO, MEWTWO)
    match.place(0, 0, facing=1)
    match.place(1, 14, facing=-1)
    match.step(p2=SHIELD, frames=10)
    match.step(dict(main_x=.5, buttons=game.BUTTON_A), SHIELD)
    while not match.players["hitlag"][0]:
        match.step(p2=SHIELD)
    damage = int(game.TABLES.hitboxes[ROW[FALCO]["hit_row"][game.FTILT].max()]["damage"].max())
    assert match.hidden["players"]["shield_push"][0, 0] == pytest.approx(-(damage * .07 + .02), abs=1e-4)
    while match.players["hitlag"][0] > 1:
        match.step(p2=SHIELD)
    for frame in (1, 2, 3):
        before = float(match.players["x"][0])
        match.step(p2=SHIELD)
        moved = match.players["x"][0] - before - match.players["self_vx_ground"][0]
        assert moved == pytest.approx(-(damage * .07 + .02) + frame * 1.1 * ROW[FALCO]["friction"], abs=1e-3)


@pytest.mark.parametrize("shielding", [False, True])
def test_confusion_takes_hold_turns_round_and_lets_fall(shielding):
    match = Game(MEWTWO, FOX)
    match.place(0, 0, facing=1)
    match.place(1, 16, facing=-1)
    match.step(p2=SHIELD if shielding else None, frames=10)
    match.step(dict(buttons=game.BUTTON_B, main_x=1.0), SHIELD if shielding else None)
    for _ in range(20):
        if match.players["action"][1] >= game.CONFUSED:
            break
        match.step(p2=SHIELD if shielding else None)
    held = 0
    while match.players["action"][1] == game.CONFUSED and held < 60:
        assert match.players["percent"][1] == 0 and not match.players["hitlag"].any()
        match.step()
        held += 1
    assert held == 27 and match.players["percent"][1] == 10 and match.players["facing"][1] == 1
    assert match.players["action"][1] == game.FALL and not match.players["in_hitstun"][1]
    match.step(frames=20)
    assert match.players["percent"][1] == 10           # not twice in the same use


@pytest.mark.parametrize("damage_action, facing, expected", [
    (game.DAMAGE_FIRST, -1, game.MISS_FOOT), (game.SHIELD_STUN, -1, game.MISS_FOOT), (game.SHIELD_STUN, 1, game.FALL),
    (game.DOWN_BOUND_UP, -1, game.FALL), (game.TECH, -1, game.FALL)])
def test_who_slides_off_the_edge_misses_his_foot(damage_action, facing, expected):
    """Hurt, or backward in a shield; lying, or turned to the edge, he just falls."""
    match = settled(x=85.0)
    for name, value in dict(action=damage_action, facing=facing, kb_vx=2.0, in_hitstun=1, hitstun=20).items():
        match.players[name][0] = value
    match.hidden["players"]["guard_frames"][0, 0] = 20
    match.step()
    assert match.players["action"][0] == expected and match.players["airborne"][0]
    if expected == game.MISS_FOOT:
        match.place(0, 0, 150)
        match.step(dict(buttons=game.BUTTON_X), frames=29)
        assert match.players["action"][0] == game.MISS_FOOT  # helpless so long
        assert match.step(frames=1)["action"][0] == game.TUMBLE


@pytest.mark.parametrize("hitstun, following", [(9, game.DOWN_STAND + 8), (30, game.DOWN_WAIT_DOWN)])
def test_a_weak_blow_on_who_lies_makes_him_stand_up(hitstun, following):
    """Thirteen frames, then up if the stun is over, else he lies on."""
    match = settled()
    for name, value in dict(action=game.DOWN_DAMAGE_DOWN, in_hitstun=1, hitstun=hitstun).items():
        match.players[name][0] = value
    match.hidden["players"]["action_frames"][0, 0] = 0
    match.step(frames=12)
    assert match.players["action"][0] == game.DOWN_DAMAGE_DOWN
    assert match.step()["action"][0] == following


def test_less_than_seven_percent_do_not_lift_who_lies():
    for attacker, pad, weak in ((FOX, dict(buttons=game.BUTTON_A), True), (MARTH, dict(c_y=-1.0), False)):
        match = Game(attacker, FALCON)
        match.place(0, 0, facing=1)
        match.place(1, 7, facing=-1)
        match.players["percent"][1] = 60
        match.players["action"][1] = game.DOWN_WAIT_UP
        match.step(pad)
        for _ in range(20):
            if match.players["percent"][1] > 60:
                break
            match.step()
        assert match.players["percent"][1] > 60
        assert (match.players["action"][1] == game.DOWN_DAMAGE_DOWN) == weak


@pytest.mark.parametrize("pad, action", [
    (dict(main_y=.4), game.DOWN_STAND), (dict(main_x=.3), game.DOWN_ROLL_FORWARD),
    (dict(main_x=-.3), game.DOWN_ROLL_BACKWARD), (dict(main_x=.62, main_y=.64), game.DOWN_ROLL_FORWARD),
    (dict(main_x=.31, main_y=.38), game.DOWN_STAND), (dict(c_x=-1.0), game.DOWN_ROLL_BACKWARD),
    (dict(main_y=-1.0), game.DOWN_WAIT_UP), (dict(buttons=game.BUTTON_A), game.DOWN_ATTACK)])
def test_get_up_options(pad, action):
    match = settled()
    match.players["action"][0], match.players["facing"][0] = game.DOWN_WAIT_UP, 1
    assert match.step(pad)["action"][0] == action


def test_a_pressed_while_bouncing_attacks_when_that_is_over():
    match = settled()
    match.players["action"][0], match.hidden["players"]["action_frames"][0, 0] = game.DOWN_BOUND_UP, 0
    match.step(frames=5)
    match.step(dict(buttons=game.BUTTON_A))
    match.step(frames=19)
    assert match.players["action"][0] == game.DOWN_BOUND_UP
    assert match.step()["action"][0] == game.DOWN_ATTACK


def test_the_up_special_comes_out_of_the_jumpsquat():
    match = settled(MARTH)
    match.step(SHIELD, frames=10)
    match.step({**SHIELD, "main_y": 1.0})
    assert match.players["action"][0] == game.JUMPSQUAT
    assert match.step(dict(buttons=game.BUTTON_B, main_y=1.0))["action"][0] == ROW[MARTH]["special_start"][0, 3]


def test_held_player_breaks_free():
    match = Game(MARTH, FOX)
    match.place(0, 0, facing=1)
    match.place(1, 9, facing=-1)
    match.step(dict(buttons=game.BUTTON_Z))
    match.step(frames=130)
    assert match.players["action"][0] == game.WAIT and match.players["action"][1] == game.WAIT


# ---------------------------------------------------------------------------------------------------------------------
# Stages and rules
# ---------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("stage", game.STAGES.values())
def test_blast_zones_kill_on_four_sides_and_above_only_those_sent_up(stage):
    s = game.TABLES.stages[stage]
    left, right, top, bottom = (s["blast_" + side] for side in ("left", "right", "top", "bottom"))
    for x, y, kb, action in (
            (left - 1, 50, 0, game.DEAD_LEFT), (right + 1, 50, 0, game.DEAD_RIGHT),
            (0, bottom - 1, 0, game.DEAD_DOWN), (0, top + 3, 1.0, game.DEAD_UP), (0, top + 3, 0, None)):
        match = Game(stage=stage)
        match.place(0, x, y, airborne=True)
        match.players["kb_vy"][0] = kb
        match.step()
        assert match.players["stocks"][0] == (4 if action is None else 3)
        assert action is None or match.players["action"][0] == action


@pytest.mark.parametrize("stage", game.STAGES.values())
def test_every_floor_of_every_stage_holds(stage):
    match, s = Game(stage=stage), game.TABLES.stages[stage]
    for floor in range(s["num_floors"]):
        left, right, y = (float(s[name][floor]) for name in ("floor_left", "floor_right", "floor_y"))
        if stage == YOSHIS_STORY and floor == game.stages.RANDALL_FLOOR:
            match.frames["frame_id"], (left, y) = 300, game.TABLES.randall[310]
            right = left + game.stages.RANDALL_WIDTH
        match.place(0, .5 * (left + right), y + 12, airborne=True)
        match.players["self_vx_air"][0] = match.players["self_vy"][0] = 0
        for _ in range(40):
            match.step()
            if not match.players["airborne"][0]:
                break
        assert not match.players["airborne"][0] and match.players["y"][0] == pytest.approx(y, abs=3)


def test_yoshis_floor_slopes_down_to_the_ledge():
    match = settled(stage=YOSHIS_STORY, x=30)
    for x, y in ((30, 0), (-50, -(50 - 39.2) * .2088)):
        match.place(0, x, y + .0001)
        match.step(frames=2)
        assert match.players["y"][0] == pytest.approx(y, abs=.01) and not match.players["airborne"][0]
    match.place(0, 30)
    match.step(dict(main_x=.5), frames=30)
    assert match.players["x"][0] > 42 and not match.players["airborne"][0]
    assert match.players["y"][0] == pytest.approx(-(match.players["x"][0] - 39.2) * .2088, abs=.01)


def test_randall_goes_round_in_1200_frames_and_carries():
    match = Game(stage=YOSHIS_STORY)
    match.frames["frame_id"] = 1100
    left, y = game.TABLES.randall[1100]
    match.place(0, left + 6, y + .0001)
    before = float(match.players["x"][0])
    match.step(frames=20)
    assert match.players["x"][0] - before == pytest.approx(20 * .35484, abs=.02) and not match.players["airborne"][0]
    match.frames["frame_id"] = 440                     # up the right side
    left, y = game.TABLES.randall[440]
    match.place(0, left + 6, y + .0001)
    before = float(match.players["y"][0])
    match.step(frames=10)
    assert match.players["y"][0] - before == pytest.approx(10 * .354839, abs=.02) and not match.players["airborne"][0]
    speeds = np.abs(np.diff(game.TABLES.randall, axis=0)).max(1)
    assert len(game.TABLES.randall) == 1200 and speeds.max() < .6


def test_fountains_platforms_move_at_their_speeds_and_carry():
    match = Game(stage=FOUNTAIN, seed=3)
    assert match.frames["platform_left"][0] == 20 and match.frames["platform_right"][0] == 28
    match.place(0, -35, 16.1251)
    match.frames["frame_id"] = 690
    speeds = set()
    for _ in range(300):
        before = float(match.frames["platform_left"][0])
        match.step()
        height = float(match.frames["platform_left"][0])
        speeds.add(round(abs(height - before), 3))
        assert match.players["y"][0] == pytest.approx(.75 * height + 1.125, abs=.01)
        assert not match.players["airborne"][0]
        assert 10 <= height <= 35
    assert speeds & {.1, .15} and max(speeds) <= .15


@pytest.mark.parametrize("stage, frame_ids", [(FOUNTAIN, (690, 1390)), (YOSHIS_STORY, (1100, 300))])
def test_games_side_by_side_keep_their_own_platforms(stage, frame_ids):
    """Games share the stage's row; nobody may stand on another game's platform."""
    frames, hidden = np.zeros(2, game.FRAME), np.zeros(2, game.HIDDEN)
    game.reset_games(frames, hidden, np.ones(2, bool), np.full((2, 2), FOX), np.full(2, stage),
                     np.array([3, 4], np.uint64))
    frames["frame_id"] = frame_ids
    if stage == YOSHIS_STORY:
        left, y = game.TABLES.randall[list(frame_ids)].T
        frames["players"]["x"][:, 0], frames["players"]["y"][:, 0] = left + 6, y + .0001
    start = frames["players"]["x"].copy()
    alone = [(frames[g:g + 1].copy(), hidden[g:g + 1].copy()) for g in range(2)]
    pads = np.zeros((2, 2), game.CONTROLLER)
    for _ in range(30):
        game.step_games(frames, hidden, pads)
    for g in range(2):
        for _ in range(30):
            game.step_games(*alone[g], pads[:1])
        assert alone[g][0].tobytes() == frames[g:g + 1].tobytes()
    carried = frames["players"]["x"] - start
    assert stage == FOUNTAIN or np.allclose(carried[:, 0], 30 * .35484, atol=.03)
    assert not frames["players"]["airborne"].any()


def test_the_stage_has_walls():
    match = flying(x=90, y=-8, facing=1)
    for _ in range(30):
        match.players["y"][0], match.players["self_vy"][0] = -8, 0
        match.step(dict(main_x=-1.0))
        assert match.players["x"][0] >= 85.5657


@pytest.mark.parametrize("stage", game.STAGES.values())
def test_the_stage_has_an_underside(stage):
    match, s = Game(stage=stage), game.TABLES.stages[stage]
    start = float(game.terrain.underside(s, s["floor_right"][0] - 3)) - 10
    match.place(0, s["floor_right"][0] - 3, start, airborne=True)
    match.players["self_vy"][0] = 4.0
    for _ in range(20):
        match.step()
        x, y = float(match.players["x"][0]), float(match.players["y"][0])
        assert x >= s["floor_right"][0] - .01 or y <= game.terrain.underside(s, x) + .01 or y > 20, (x, y)


def test_a_blow_from_below_bounces_off_the_underside():
    match = launched((0.0, 3.0), y=-40)
    match.place(0, 60, -40)
    for _ in range(8):
        match.step()
    assert match.players["action"][0] == game.BOUNCE_CEILING and match.players["kb_vy"][0] < -2


def flung_at_the_wall(pressed_before=None, **pad):
    match = launched((2.0, 0.0), y=-8)
    match.place(0, -90, -8)
    match.hidden["players"]["air_frames"][0, 0] = 20
    if pressed_before is not None:
        press_for_a_tech(match, pressed_before)
    for _ in range(4):
        match.step(pad)
        if match.players["action"][0] != game.DAMAGE_FLY:
            return match
    pytest.fail("no wall")


def test_a_wall_throws_back_who_is_flung_at_it():
    players = flung_at_the_wall().players
    assert players["action"][0] == game.BOUNCE_WALL and players["in_hitstun"][0] and players["x"][0] < -85
    assert players["kb_vx"][0] == pytest.approx(-.8 * (2 - .051 * 2), abs=.06)


@pytest.mark.parametrize("pad, action", [({}, game.WALL_TECH), (dict(main_y=1.0), game.WALL_TECH_JUMP)])
def test_a_wall_can_be_teched_and_jumped_off(pad, action):
    match = flung_at_the_wall(3, **pad)
    assert match.players["action"][0] == action and match.players["hurtbox"][0] == 2
    assert not match.players["in_hitstun"][0] and match.players["kb_vx"][0] == 0
    match.step(frames=game.WALL_HOLD)
    assert (match.players["self_vy"][0] > 3) == (action == game.WALL_TECH_JUMP)
    match.step(frames=60)
    assert match.players["action"][0] != action


@pytest.mark.parametrize("character, jumps", [(FOX, True), (MARTH, False)])
def test_some_jump_off_walls(character, jumps):
    match = flying(character, x=-87, y=-8, facing=1, jumps=0)
    match.hidden["players"]["ledge_cooldown"][0, 0] = 60
    for stick in (1.0, 1.0, 1.0, -1.0):
        match.players["y"][0], match.players["self_vy"][0] = -8, -.5
        match.step(dict(main_x=stick))
    assert (match.players["action"][0] == game.WALL_TECH_JUMP) == jumps
    match.step(frames=game.WALL_HOLD)
    assert (match.players["self_vy"][0] > 3) == jumps and (match.players["self_vx_air"][0] < -1) == jumps


@pytest.mark.parametrize("stage", [FOUNTAIN, YOSHIS_STORY])
def test_threads_leave_each_others_platforms_alone(stage):
    """Two batches step at once; each is what it is alone."""
    import concurrent.futures

    def run(seed):
        frames, hidden = np.zeros(64, game.FRAME), np.zeros(64, game.HIDDEN)
        game.reset_games(frames, hidden, np.ones(64, bool), np.full((64, 2), FOX), np.full(64, stage),
                         np.arange(64, dtype=np.uint64) + np.uint64(seed))
        frames["frame_id"] = 690 + np.arange(64) * 17 + seed
        frames["players"]["x"][:, 0] = -35
        frames["players"]["y"][:, 0] = 16.1251 if stage == FOUNTAIN else 23.4501
        for _ in range(300):
            game.step_games(frames, hidden, np.zeros((64, 2), game.CONTROLLER))
        return frames.tobytes()

    stages = game.TABLES.stages.tobytes()
    alone = [run(seed) for seed in (0, 500)]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        assert list(pool.map(run, (0, 500))) == alone
    assert game.TABLES.stages.tobytes() == stages


@pytest.mark.parametrize("kb, frames", [(1.0, 176), (0.0, 60)])
def test_a_star_takes_176_frames_and_another_death_60(kb, frames):
    match = Game()
    match.place(0, 0, 195 if kb else -150, airborne=True)
    match.players["kb_vy"][0] = kb
    match.step()
    assert match.players["stocks"][0] == 3
    match.step(frames=frames - 1)
    assert match.players["action"][0] < game.REBIRTH
    match.step()
    assert match.players["action"][0] == game.REBIRTH


def test_of_two_grabs_on_the_same_frame_one_holds_whatever_his_port():
    winners = set()
    for seed in range(12):
        match = Game(MARTH, MARTH, seed=seed)
        match.place(0, -4, facing=1), match.place(1, 4, facing=-1)
        match.step(dict(buttons=game.BUTTON_Z), dict(buttons=game.BUTTON_Z))
        match.step(frames=12)
        holding = match.players["action"] == game.HOLD
        assert holding.sum() == 1
        winners.add(int(holding[1]))
    assert winners == {0, 1}


def test_marths_slow_ledge_attack_climbs_up():
    match = flying(MARTH, x=-90, y=-10, facing=1, self_vy=-1.0, percent=120)
    match.step(frames=14)
    assert match.players["action"][0] == game.LEDGE_HANG
    assert match.step(dict(buttons=game.BUTTON_A))["action"][0] == game.LEDGE_ATTACK_SLOW
    match.step(frames=75)
    assert match.players["action"][0] == game.WAIT and not match.players["airborne"][0]


def test_respawn_stands_invulnerable_and_then_120_frames_more():
    match = Game()
    match.place(0, -200, -150, airborne=True)
    match.step(frames=61)
    assert match.players["action"][0] == game.REBIRTH and match.players["stocks"][0] == 3
    match.step(frames=60)
    assert match.players["action"][0] == game.REBIRTH_WAIT and match.players["hurtbox"][0] == 0
    match.step(dict(main_x=1.0))
    left = 0
    while match.players["hurtbox"][0] == 1:
        left += 1
        match.step()
    assert match.players["action"][0] != game.REBIRTH_WAIT and 118 <= left <= 120


def test_nobody_hits_the_untouchable():
    match = Game(MARTH, FOX)
    match.place(0, 0, facing=1)
    match.place(1, 10)
    match.hidden["players"]["hurt_kind"][0, 1], match.hidden["players"]["hurt_timer"][0, 1] = 1, 200
    match.step()
    match.step(dict(buttons=game.BUTTON_A, main_y=-.5))
    match.step(frames=30)
    assert match.players["percent"][1] == 0
    assert hit(MARTH, FOX, 0.0, dict(buttons=game.BUTTON_A, main_y=-.5)).players["percent"][1] > 0


def test_a_blow_meets_the_body_of_this_very_frame():
    """The first frame after a spot dodge's window is hit, and its first frame is not."""
    row = ROW[FOX]
    first, last = int(row["dodge_first"][game.SPOT_DODGE]), int(row["dodge_last"][game.SPOT_DODGE])
    for frame in range(first - 1, last + 2):
        match = Game(MARTH, FOX)
        match.place(0, 0, facing=1)
        match.place(1, 10, facing=-1)
        match.players["action"][:] = game.DTILT, game.SPOT_DODGE
        active = int((ROW[MARTH]["hit_row"][game.DTILT] > 0).argmax()) - 1  # counts from 0
        match.hidden["players"]["action_frames"][0] = active - 1, frame - 1
        match.step()
        assert (match.players["percent"][1] > 0) == (not first <= frame < last), frame


def test_time_runs_out_after_eight_minutes():
    match = Game()
    match.frames["frame_id"] = 8 * 60 * 60 - 2
    match.step()
    assert not game.game_over(match.frames)[0]
    match.step()
    assert game.game_over(match.frames)[0] and (match.players["stocks"] == 4).all()


def test_spawns_stand_on_battlefields_platforms():
    match = Game(stage=BATTLEFIELD)
    assert np.allclose(match.players["y"], 27.2, atol=.01)
    match.step(frames=30)
    assert np.allclose(match.players["y"], 27.2, atol=.01) and not match.players["airborne"].any()


def test_dream_lands_wind_pushes_two_tenths_a_frame():
    match = Game(stage=28)
    match.place(0, 40)
    match.place(1, -40)
    pushed = set()
    for _ in range(3 * game.terrain.WIND_PERIOD):
        before = match.players["x"].copy()
        match.step()
        moved = np.round(match.players["x"] - before, 3)
        wind = int(match.frames["wind"][0])
        if wind:
            pushed.add(wind)
            assert moved[0 if wind == 2 else 1] == pytest.approx(.2 if wind == 2 else -.2, abs=.001) or \
                not game.terrain.WIND_LEFT < match.players["x"][0 if wind == 2 else 1] < game.terrain.WIND_RIGHT
        else:
            assert (moved == 0).all()
        match.place(0, 40)
        match.place(1, -40)
    assert pushed


def blown(**fields):
    """How far one frame of the wind on his side moves a player who stands where these fields say."""
    match = Game(stage=28)
    player = match.players_record(0)
    for name, value in fields.items():
        player[name] = value
    before = float(player["x"])
    game.terrain.blow(player, game.TABLES.stages[28], 1 if before < game.terrain.WIND_SPLIT else 2)
    return float(player["x"]) - before


@pytest.mark.parametrize("x, by", [(-74.1, 0), (-73.9, -.2), (75.9, .2), (76.1, 0)])
def test_dream_lands_wind_ends_at_74_on_the_left_and_76_on_the_right(x, by):
    assert blown(x=x, y=.0089) == pytest.approx(by, abs=1e-4)


@pytest.mark.parametrize("action", [game.LEDGE_CLIMB, game.LEDGE_ATTACK, game.LEDGE_ROLL_SLOW])
def test_the_wind_blows_who_gets_up_from_the_ledge_once_he_is_on_the_stage(action):
    assert blown(x=75.0, y=.0089, action=action) == pytest.approx(.2, abs=1e-4)
    assert blown(x=75.0, y=-2.0, action=action, airborne=1) == 0


def test_the_wind_blows_nobody_off_a_platform_who_cannot_leave_it():
    edge = float(game.TABLES.stages[28]["floor_right"][2])
    assert blown(x=edge, y=30.2426, action=game.TECH_BACKWARD) == pytest.approx(0, abs=1e-4)
    assert blown(x=edge, y=30.2426, action=game.WAIT) == pytest.approx(.2, abs=1e-4)


# ---------------------------------------------------------------------------------------------------------------------
# Controllers
# ---------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("value, meant", [(np.nan, 0), (np.inf, 1), (-np.inf, -1), (7.0, 1), (.27, 0)])
def test_a_stick_out_of_range_is_the_rim_and_no_number_is_neutral(value, meant):
    match = settled()
    match.step(dict(main_x=value))
    assert match.hidden["players"]["stick_x"][0, 0] == pytest.approx(meant)
    other = settled()
    other.step(dict(main_x=meant))
    assert match.players.tobytes() == other.players.tobytes()


def test_triggers_below_their_dead_zone_do_nothing_and_above_one_are_full():
    for value, action in ((.29, game.WAIT), (np.nan, game.WAIT), (.31, game.SHIELD_START), (9.0, game.SHIELD_START)):
        match = settled()
        assert match.step(dict(l=value))["action"][0] == action
        assert 0 <= match.hidden["players"]["trigger"][0, 0] <= 1


def test_the_picture_of_a_game_is_drawn(tmp_path):
    import draw_game
    draw_game.draw(draw_game.record(400), tmp_path / "game.png")
    assert 10_000 < (tmp_path / "game.png").stat().st_size < 150_000

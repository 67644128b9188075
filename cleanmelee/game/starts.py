"""What inputs start: dashes, jumps, attacks, specials, shields. controls.py says in which action they may."""

import numpy as np

from cleanmelee.frame import BUTTON_A, BUTTON_Z, GAMEANDWATCH, LINK
from cleanmelee.game.actions import is_flying, leave_ground, set_action
from cleanmelee.game.characters import FILLED_BUCKET
from cleanmelee.game.compiler import jit
from cleanmelee.game.ids import *  # noqa: F403
from cleanmelee.game.inputs import c_stick_up, dash_flick, jump_pressed, pressed, shield_held, special_direction


TILT_STEEP, TILT_ANGLED = 1.19, .31                    # tangents of 50 and 17 degrees
TURNAROUND_FRAMES = 20                                 # for so long a tilt back turns a neutral special in the air


@jit
def start_dash(p, h):
    from_turn = p.action == TURN
    set_action(p, h, DASH)
    h.flag = 0 if from_turn else DASH_FROM_STAND


@jit
def start_walk(p, h, c):
    set_action(p, h, walk_action(p, c))


@jit
def walk_action(p, c):
    speed = abs(p.self_vx_ground)
    return WALK_SLOW + (speed > .4 * c.walk_max) + (speed > .8 * c.walk_max)


@jit
def start_platform_drop(p, h):
    set_action(p, h, PLATFORM_DROP)
    leave_ground(p, h)


@jit
def start_double_jump(p, h, c):
    set_action(p, h, DOUBLE_BACKWARD if h.stick_x * p.facing < -.3 else DOUBLE_FORWARD)
    p.self_vy, p.self_vx_air = c.full_hop * c.double_jump, h.stick_x * c.double_drift
    p.jumps, p.fastfall = 0, 0


@jit
def start_air_dodge(p, h):
    set_action(p, h, AIR_DODGE)
    length = np.sqrt(h.stick_x ** 2 + h.stick_y ** 2)
    p.self_vx_air = 3.1 * h.stick_x / length if length > 0 else 0.0
    p.self_vy = 3.1 * h.stick_y / length if length > 0 else 0.0
    p.fastfall = 0


@jit
def ground_attack(p, h, facing):
    """The common action id of the ground attack these inputs ask for, 0 none; smashes turn the character."""
    if abs(h.c_x) >= DASH_X and abs(h.last_c_x) < DASH_X:
        p.facing = 1 if h.c_x > 0 else -1
        return FSMASH
    if c_stick_up(h):
        return USMASH
    if h.c_y <= -SMASH and h.last_c_y > -SMASH:
        return DSMASH
    if not pressed(h, BUTTON_A):
        return 0
    if abs(h.stick_x) >= DASH_X and h.tilt_x_age < 3:
        p.facing = 1 if h.stick_x > 0 else -1
        return FSMASH
    if h.stick_y >= SMASH and h.tilt_y_age < 3:
        return USMASH
    if h.stick_y <= -SMASH and h.tilt_y_age < 3:
        return DSMASH
    if h.stick_x * facing >= TILT and abs(h.stick_y) < TILT_STEEP * abs(h.stick_x):
        return FTILT
    if h.stick_y <= -TILT:
        return DTILT
    return UTILT if h.stick_y >= TILT else JAB_1


@jit
def start_ground_attack(p, h, c, attack):
    """Forward tilts come straight, or up or down with the stick."""
    action = c.own_action[attack]
    if attack == FTILT and abs(h.stick_y) > TILT_ANGLED * abs(h.stick_x):
        action = c.tilt_high if h.stick_y > 0 else c.tilt_low
    set_action(p, h, action)


@jit
def air_attack(p, h):
    x, y = h.stick_x, h.stick_y
    if max(abs(h.c_x), abs(h.c_y)) >= .3 and max(abs(h.last_c_x), abs(h.last_c_y)) < .3:
        x, y = h.c_x, h.c_y
    elif not pressed(h, BUTTON_A | BUTTON_Z):
        return 0
    if abs(x) < .28 and abs(y) < .28:
        return NAIR
    if abs(x) >= abs(y):
        return FAIR if x * p.facing > 0 else BAIR
    return UAIR if y > 0 else DAIR


@jit
def draw_judge(h):
    """One of the hammers 0 to 8 that were neither the last nor the one before."""
    low, high = min(h.last_judge, h.judge_before), max(h.last_judge, h.judge_before)
    choices = 8 if low == high else 7
    number = int(choices * h.luck)
    number += number >= low
    number += low != high and number >= high
    h.judge_before, h.last_judge = h.last_judge, number
    return number


@jit
def start_special(p, h, c, direction):
    """Side specials go where the stick points, and neutral ones in the air where it pointed last."""
    if p.character == LINK and direction == 4 and h.holding:
        return                                         # one bomb at a time
    back = h.stick_x * p.facing < 0
    if direction == 1:                                 # in the air a stick that was back a moment ago is enough
        back = p.airborne and h.tilt_side * p.facing < 0 and h.tilt_side_age < TURNAROUND_FRAMES
    if back and direction <= 2:
        p.facing = -p.facing
    set_action(p, h, c.special_start[p.airborne, direction])
    if p.character == LINK and direction == 2 and abs(h.stick_x) >= DASH_X and h.tilt_x_age < 4:
        h.flag = 1                                     # flings the boomerang
    if p.character == GAMEANDWATCH and direction == 4 and h.bucket >= FILLED_BUCKET:
        pour_bucket(p, h)
    if p.character == GAMEANDWATCH and direction == 2:  # Judge: one of nine hammers
        p.action += draw_judge(h)


@jit
def start_shield(p, h):
    """A digital press makes the shield a power shield for its first frames."""
    set_action(p, h, SHIELD_REFLECT if pressed(h, BUTTON_LR) else SHIELD_START)


@jit
def pour_bucket(p, h):
    """A full bucket hits with one and a half times what it caught, and a little more."""
    damage = h.bucket_damage
    set_action(p, h, 380 if p.airborne else 377)
    h.boost = np.floor(1.5 * damage + 5) - 1           # the move's own damage is 1
    h.bucket, h.bucket_damage = 0, 0


@jit
def throw_item(p, h):
    """A bomb in hand goes before attacks: A or Z throws it along the stick, Z drops it in the air."""
    if h.holding == 0 or not pressed(h, BUTTON_A | BUTTON_Z):
        return False
    x, y = h.stick_x * p.facing, h.stick_y
    if p.airborne and not pressed(h, BUTTON_A):
        action = ITEM_DROP
    elif max(abs(x), abs(y)) < TILT or (x >= 0 and abs(x) >= abs(y)):
        action = ITEM_THROW
    elif abs(y) > abs(x):
        action = ITEM_THROW + (2 if y > 0 else 3)
    else:
        action = ITEM_THROW + 1
    set_action(p, h, action + ITEM_THROW_AIR if p.airborne and action != ITEM_DROP else action)
    return True


@jit
def start_from_stand(p, h, c, may_turn, may_move):
    """Everything a free, standing character can start; True if something did."""
    if throw_item(p, h):
        return True
    direction = special_direction(h)
    if direction:
        if c.special_start[0, direction]:
            start_special(p, h, c, direction)
        return c.special_start[0, direction] > 0
    if pressed(h, BUTTON_Z) or (pressed(h, BUTTON_A) and shield_held(h)):
        set_action(p, h, GRAB)
        return True
    attack = ground_attack(p, h, p.facing)
    if attack:
        start_ground_attack(p, h, c, attack)
    elif shield_held(h):
        start_shield(p, h)
    elif jump_pressed(h):
        set_action(p, h, JUMPSQUAT)
    elif may_turn and dash_flick(h) and h.stick_x * p.facing > 0:
        start_dash(p, h)
    elif may_move and h.stick_y <= CROUCH_Y:
        set_action(p, h, CROUCH_START)
    elif may_turn and h.stick_x * p.facing <= -TILT and h.stick_y > CROUCH_Y:
        set_action(p, h, TURN)
    elif may_move and h.stick_x * p.facing >= WALK_X:
        start_walk(p, h, c)
    else:
        return False
    return True


@jit
def start_from_air(p, h, c, may_jump):
    if throw_item(p, h):
        return
    direction = special_direction(h)
    if direction:
        if c.special_start[1, direction]:
            start_special(p, h, c, direction)
            p.fastfall = 0
        return
    attack = air_attack(p, h)
    if attack and p.character == LINK and pressed(h, BUTTON_Z):
        set_action(p, h, HOOKSHOT)
    elif attack:
        set_action(p, h, c.own_action[attack])
    elif pressed(h, BUTTON_LR) and p.action != TUMBLE and not is_flying(p.action):  # there it is for the tech
        start_air_dodge(p, h)
    elif may_jump and p.jumps > 0 and jump_pressed(h):
        start_double_jump(p, h, c)

"""Controls: what the inputs make of the action that is on, a function for each kind of action. Before the velocity."""

import numpy as np

from cleanmelee.frame import BUTTON_A, BUTTON_B, BUTTON_Z, LINK, MARTH
from cleanmelee.game.actions import in_damage, in_shine, is_flying, leave_ground, set_action
from cleanmelee.game.compiler import jit
from cleanmelee.game.ids import *  # noqa: F403
from cleanmelee.game.inputs import (
    c_stick_up, dash_flick, jump_begins, jump_pressed, pressed, shield_held, special_direction,
)
from cleanmelee.game.starts import (
    ground_attack, start_dash, start_double_jump, start_from_air, start_from_stand, start_ground_attack,
    start_platform_drop, start_shield, start_special, throw_item, TILT_STEEP, walk_action,
)


ROLL_X = .695                                          # how far the stick must be out, to roll
DASH_BACK_FROM, RUN_ON_FRAMES = 4, 8                   # frames until a dash can turn; in which a run goes on
SHIELD_KEEPS = .25                                     # of a dash's speed
TURN_DASH_X = .93                                      # how far a slow turn's stick must get in two frames to dash: UCF
SHINE_FRAMES = 18                                      # the shortest shine
SHIELD_BREAKER_LOOPS, SHIELD_BREAKER_GAIN = 4, 5       # of its charge; damage that each adds; public
HANG_FRESH, HANG_TIRED = 640, 480                      # frames one can hang on the ledge, below and above 100 %


@jit
def air_inputs(p, h, c):
    action = p.action
    if p.character == MARTH and sword_dance(p, h, c):
        return
    if in_shine(p):
        shine_inputs(p, h, c)
        return
    if in_damage(action) and p.in_hitstun and h.meteor:
        meteor_cancel(p, h, c)
        return
    jumping = JUMP_FORWARD <= action <= DOUBLE_BACKWARD
    free = jumping or FALL <= action <= 34 or action == PLATFORM_DROP
    hurt = action == TUMBLE or in_damage(action)
    free = free or (hurt and not p.in_hitstun)
    if c.aerial[action] >= 0:
        free = 0 < c.interruptible[action] <= h.action_frames + 1
    elif action == WALL_TECH or action == WALL_TECH_JUMP:
        free = h.action_frames > WALL_HOLD
    if not free:
        return
    if hurt and h.jump_buffer > 0 and p.jumps > 0:     # pressed in the last frames of hitstun, or now
        start_double_jump(p, h, c)
        return
    first_jump_frame = jumping and h.flag == FIRST_JUMP_FRAME
    if h.action_frames > 0 or first_jump_frame or action == JUMP_FORWARD or action == JUMP_BACKWARD:
        start_from_air(p, h, c, h.action_frames > 0 or pressed(h, BUTTON_XY))
    elif not jumping:
        start_from_air(p, h, c, True)
    if (action == TUMBLE or is_flying(action)) and p.action == action and dash_flick(h):
        set_action(p, h, FALL)


@jit
def meteor_cancel(p, h, c):
    """Blown straight down: a jump or an up special stops it, if it was not pressed a little before, even before the
    blow. The two do not spoil each other."""
    jumps = jump_begins(h) and h.jump_lockout > 0 and p.jumps > 0
    rises = special_direction(h) == 3 and h.rise_lockout > 0 and c.special_start[1, 3] > 0
    if h.action_frames < METEOR_WAIT or not (jumps or rises):
        return
    h.meteor, h.jump_buffer = 0, 0
    p.in_hitstun, p.hitstun, p.kb_vx, p.kb_vy = 0, 0, 0, 0
    if rises:
        start_special(p, h, c, 3)
    else:
        start_double_jump(p, h, c)


@jit
def ground_inputs(p, h, c, on_platform):
    action, frames = p.action, h.action_frames
    if p.character == MARTH and sword_dance(p, h, c):
        return
    if action == CROUCH_END:
        start_from_stand(p, h, c, False, True)
    elif action == WAIT or action == TEETER or action == TEETER_WAIT:
        start_from_stand(p, h, c, True, True)
    elif action == LANDING:
        if frames >= c.landing:
            started = start_from_stand(p, h, c, True, frames != c.landing or h.stick_y > CROUCH_Y)
            if not started and h.stick_y <= CROUCH_Y:
                set_action(p, h, CROUCH)
    elif action == LANDING_SPECIAL:
        if h.flag == FREE_LANDING and p.state_age >= c.landing:
            if not start_from_stand(p, h, c, True, h.stick_y > CROUCH_Y) and h.stick_y <= CROUCH_Y:
                set_action(p, h, CROUCH)
    elif WALK_SLOW <= action <= WALK_FAST:
        walk_inputs(p, h, c)
    elif action == TURN:
        turn_inputs(p, h, c)
    elif action == DASH:
        dash_inputs(p, h, c)
    elif action == RUN or action == RUN_BRAKE or action == TURN_RUN:
        run_inputs(p, h, c)
    elif action == JUMPSQUAT:
        jumpsquat_inputs(p, h, c)
    elif action == CROUCH_START or action == CROUCH:
        crouch_inputs(p, h, c, on_platform)
    elif SHIELD_START <= action <= SHIELD_RELEASE or action == SHIELD_REFLECT:
        shield_inputs(p, h, on_platform)
    elif in_shine(p):
        shine_inputs(p, h, c)
    elif action == HOLD or ((action == GRAB_PULL or action == GRAB_DASH_PULL) and frames >= 2):
        hold_inputs(p, h)
    elif JAB_1 <= action <= DSMASH or c.aerial_landing[action] >= 0 or c.attack_id[action] > 0:
        if c.jab_next[action] and jab_again(p, h, c):
            return
        if 0 < c.interruptible[action] <= frames + 1:
            start_from_stand(p, h, c, True, True)
        elif action == FSMASH and p.character == LINK and frames > 15 and pressed(h, BUTTON_A):
            set_action(p, h, SECOND_FSMASH)
    elif action == DOWN_BOUND_UP or action == DOWN_BOUND_DOWN:
        if pressed(h, BUTTON_A | BUTTON_B):
            h.flag = 1                                 # the attack comes when the bounce is over
    elif action == DOWN_WAIT_UP or action == DOWN_WAIT_DOWN:
        floor_inputs(p, h)
    elif in_damage(action) and not p.in_hitstun:
        start_from_stand(p, h, c, True, True)


@jit
def shine_inputs(p, h, c):
    """Once it has begun, a shine can be jumped out of or turned; it ends when its time is over and B was let go."""
    if not p.airborne and p.action > SHINE_TURN:       # it began in the air
        p.action -= SHINE_IN_AIR
    place = SHINE_IN_AIR if p.airborne else 0
    part = p.action - place
    if part == SHINE_FIRST:
        h.charge = 0
    if p.action < SHINE_FIRST + place or part != SHINE and part != SHINE_TURN:
        return
    h.charge += 1
    let_go = h.flag == 1 or (h.buttons & BUTTON_B) == 0
    if part == SHINE and jump_pressed(h) and not (p.airborne and p.jumps == 0):
        if p.airborne:
            start_double_jump(p, h, c)
        else:
            set_action(p, h, JUMPSQUAT)
        return
    if part == SHINE and let_go and max(h.charge - 1, h.action_frames,
                                        int(p.state_age - c.age_first[p.action])) >= SHINE_FRAMES:
        set_action(p, h, SHINE_END + place)
    elif part == SHINE and h.stick_x * p.facing <= -TILT:
        p.facing = -p.facing
        set_action(p, h, SHINE_TURN + place)
    h.flag = let_go


@jit
def jab_again(p, h, c):
    """A during a jab leads to the next one as soon as it may come; True if it does."""
    if pressed(h, BUTTON_A):
        h.flag = 1
    if h.flag == 0 or h.action_frames < c.jab_from[p.action]:
        return False
    set_action(p, h, c.jab_next[p.action])
    return True


@jit
def walk_inputs(p, h, c):
    if start_from_stand(p, h, c, True, False):
        return
    if h.stick_y <= CROUCH_Y:
        set_action(p, h, CROUCH_START)
    elif abs(h.stick_x) < WALK_X:
        set_action(p, h, WAIT)
    else:
        faster = walk_action(p, c)                     # goes on at the same part of its animation, and the timers go on
        if faster != p.action and c.age_loop[p.action] > 0:
            p.state_age = np.floor(p.state_age * c.age_loop[faster] / c.age_loop[p.action])
        p.action = faster


@jit
def turn_inputs(p, h, c):
    """The first frames of a turn can still become a dash back."""
    frames = h.action_frames
    waited = h.flag == TURN_DASH and abs(h.stick_x) >= DASH_X
    if h.flag != 1 and frames >= c.turn_frames:
        p.facing, h.flag = -p.facing, 1
    direction = special_direction(h)
    if direction and c.special_start[0, direction]:    # what begins now begins turned
        p.facing = -p.facing if h.flag == 0 else p.facing
        start_special(p, h, c, direction)
        return
    if jump_pressed(h):
        set_action(p, h, JUMPSQUAT)
        return
    far = abs(h.stick_x) >= TURN_DASH_X or abs(h.last_stick_x) >= DASH_X
    back = h.flag == 0 and abs(h.stick_x) >= DASH_X and h.stick_x * p.facing < 0
    if frames <= 1 and far and back and h.tilt_x_age < 3:
        p.facing = -p.facing
        start_dash(p, h)
        return
    if frames == 1 and back and h.tilt_x_age == 1:
        h.flag = TURN_DASH                             # too slow for that: a dash once the turn is done
    if pressed(h, BUTTON_Z) or (pressed(h, BUTTON_A) and shield_held(h)):
        set_action(p, h, GRAB)
        return
    if shield_held(h):
        start_shield(p, h)
        return
    facing_after = -p.facing if h.flag != 1 else p.facing
    attack = ground_attack(p, h, facing_after)
    if attack:
        p.facing = facing_after
        start_ground_attack(p, h, c, attack)
    elif h.flag == 1 and frames == c.turn_frames and (waited or dash_flick(h)) and h.stick_x * p.facing > 0:
        start_dash(p, h)


@jit
def side_special(p, h, c):
    """The only special that a dash or a run lets out; True if it did."""
    if special_direction(h) != 2 or c.special_start[0, 2] == 0:
        return False
    start_special(p, h, c, 2)
    return True


@jit
def dash_inputs(p, h, c):
    frames = h.action_frames
    back = dash_flick(h) and h.stick_x * p.facing < 0
    if throw_item(p, h) or side_special(p, h, c):
        return
    if pressed(h, BUTTON_Z) or (pressed(h, BUTTON_A) and shield_held(h)):
        set_action(p, h, GRAB_DASH)
    elif back and (h.flag != DASH_FROM_STAND or frames >= DASH_BACK_FROM):
        set_action(p, h, TURN)
        p.self_vx_ground *= .25
    elif jump_pressed(h):
        set_action(p, h, JUMPSQUAT)
    elif shield_held(h):
        start_shield(p, h)
        p.self_vx_ground *= SHIELD_KEEPS
    elif abs(h.c_x) >= DASH_X and abs(h.last_c_x) < DASH_X:
        set_action(p, h, c.own_action[FSMASH])
    elif pressed(h, BUTTON_A):
        smash = frames < 4 and h.stick_x * p.facing >= DASH_X
        set_action(p, h, c.own_action[FSMASH] if smash else DASH_ATTACK)
    elif frames >= c.dash_to_run and h.stick_x * p.facing >= RUN_X:
        set_action(p, h, RUN)
    elif frames > c.dash_to_run and dash_flick(h) and h.stick_x * p.facing > 0:
        start_dash(p, h)


@jit
def run_inputs(p, h, c):
    if p.action == RUN and side_special(p, h, c):
        return
    if jump_pressed(h):
        set_action(p, h, JUMPSQUAT)
    elif p.action == RUN:
        if pressed(h, BUTTON_Z) or (pressed(h, BUTTON_A) and shield_held(h)):
            set_action(p, h, GRAB_DASH)
        elif shield_held(h):
            start_shield(p, h)
        elif pressed(h, BUTTON_A) or (abs(h.c_x) >= DASH_X and abs(h.last_c_x) < DASH_X):
            set_action(p, h, DASH_ATTACK)
        elif h.flag == RUN_FROM_TURN and h.action_frames <= RUN_ON_FRAMES:
            return
        elif h.stick_x * p.facing <= -TILT:
            set_action(p, h, TURN_RUN)
            p.state_age = 1
        elif h.stick_x * p.facing < RUN_X:
            set_action(p, h, RUN_BRAKE)
    elif p.action == RUN_BRAKE:
        if h.stick_x * p.facing <= -TILT:
            age = p.state_age                          # the animation goes on where the brake's was
            set_action(p, h, TURN_RUN)
            p.state_age = age
        elif h.stick_y <= CROUCH_Y:
            set_action(p, h, CROUCH_START)


@jit
def jumpsquat_inputs(p, h, c):
    if (h.buttons & BUTTON_XY) == 0 and h.stick_y < JUMP_Y and h.action_frames > 0:
        h.flag = 1                                     # let go: short hop
    if special_direction(h) == 3 and c.special_start[0, 3]:
        start_special(p, h, c, 3)                      # from the ground, also out of a shield
    elif c_stick_up(h) or (pressed(h, BUTTON_A) and h.stick_y >= SMASH):
        set_action(p, h, c.own_action[USMASH])
    elif pressed(h, BUTTON_Z):
        set_action(p, h, GRAB)


@jit
def crouch_inputs(p, h, c, on_platform):
    if p.action == CROUCH_START and on_platform and h.stick_y <= DROP_Y and h.action_frames >= 3 and h.tilt_y_age < 8:
        start_platform_drop(p, h)
        return
    settled = p.action == CROUCH
    if start_from_stand(p, h, c, False, False):
        return
    if settled and dash_flick(h):
        if h.stick_x * p.facing > 0:
            start_dash(p, h)
        else:
            set_action(p, h, TURN)
    elif settled and h.stick_y > STAY_DOWN_Y:
        set_action(p, h, CROUCH_END)


@jit
def shield_inputs(p, h, on_platform):
    if jump_pressed(h):
        set_action(p, h, JUMPSQUAT)
    elif p.action == SHIELD_RELEASE:
        return
    elif c_stick_up(h):
        set_action(p, h, JUMPSQUAT)
    elif pressed(h, BUTTON_A | BUTTON_Z):
        set_action(p, h, GRAB)
    elif on_platform and h.stick_y <= DROP_Y and h.tilt_y_age < 6 and (h.stick_y > -ROLL_X or abs(h.stick_x) >= .6):
        start_platform_drop(p, h)
    elif (abs(h.stick_x) >= ROLL_X and h.tilt_x_age < 4) or (abs(h.c_x) >= ROLL_X and abs(h.last_c_x) < ROLL_X):
        x = h.stick_x if abs(h.stick_x) >= ROLL_X else h.c_x
        set_action(p, h, ROLL_FORWARD if x * p.facing > 0 else ROLL_BACKWARD)
    elif (h.stick_y <= -ROLL_X and h.tilt_y_age < 4) or (h.c_y <= -ROLL_X and h.last_c_y > -ROLL_X):
        set_action(p, h, SPOT_DODGE)
    elif p.action == SHIELD and not shield_held(h):
        set_action(p, h, SHIELD_RELEASE)
    elif p.action == SHIELD_START and h.action_frames == 1 and pressed(h, BUTTON_LR):
        set_action(p, h, SHIELD_REFLECT)


@jit
def hold_inputs(p, h):
    """Holding somebody: A pummels, a new tilt of the stick throws, and so does the c-stick, also if it is held."""
    x, y = h.stick_x, h.stick_y
    fresh = h.tilt_x_age < 1 if abs(x) > abs(y) else h.tilt_y_age < 1
    if max(abs(h.c_x), abs(h.c_y)) >= TILT:
        x, y, fresh = h.c_x, h.c_y, True
    if pressed(h, BUTTON_A | BUTTON_Z):
        set_action(p, h, PUMMEL)
    elif fresh and max(abs(x), abs(y)) >= .25:
        if abs(x) > abs(y):
            set_action(p, h, THROW_FORWARD if x * p.facing > 0 else THROW_BACK)
        else:
            set_action(p, h, THROW_UP if y > 0 else THROW_DOWN)


@jit
def shot_inputs(p, h, c):
    """Shadow Ball leaves at the next B, needles when B is let go; a shield keeps the charge. Lasers: B for one more."""
    place = p.airborne
    if p.action == c.shot_action[place]:
        if c.charge_steps == 0 and h.action_frames > 0 and pressed(h, BUTTON_B):
            h.flag = 1
        return
    if p.action != c.charge_action[place]:
        return
    h.charge = min(h.charge + 1, c.charge_frames * c.charge_steps)
    lets_go = (h.buttons & BUTTON_B) == 0 if c.shot_type == NEEDLE else pressed(h, BUTTON_B)
    if pressed(h, BUTTON_LR):
        set_action(p, h, c.charge_stop[place])
    elif lets_go:
        set_action(p, h, c.shot_action[place])


@jit
def shot_due(p, h, c):
    """Does a projectile leave on this frame? 1 from the ground, 2 from the air, 0 no."""
    place = p.airborne
    if c.shot_type == 0 or p.action != c.shot_action[place]:
        return 0
    frame, first = h.action_frames, c.shot_frame[place]
    if c.shot_type == NEEDLE:                          # one every three frames, as many as were charged
        needles = 1 + h.charge // c.charge_frames
        if frame % first != 0 or not 0 < frame // first <= needles:
            return 0
        if frame // first == needles:
            h.charge = 0
        return 1 + place
    return 1 + place if frame == first else 0


@jit
def hold_special(p, h, c):
    """Bow, Shield Breaker, Din's Fire, chain, Oil Panic: on and on while B is held, and on to the end without it."""
    place = p.airborne
    if p.action != c.hold_action[place]:
        if p.action == c.hold_action[1 - place]:       # landed, or left the ground
            p.action = c.hold_action[place]
        return
    h.charge = min(h.action_frames, c.hold_frames)
    full = h.action_frames >= c.hold_frames
    if not full and (h.buttons & BUTTON_B or h.action_frames < c.hold_least):
        return
    if c.hold_end[place] < 0:
        set_action(p, h, FALL if place else WAIT)
        return
    set_action(p, h, c.hold_end[place] + (c.hold_full if full else 0))
    if p.character == MARTH and not full:
        h.boost = SHIELD_BREAKER_GAIN * np.floor(SHIELD_BREAKER_LOOPS * h.charge / c.hold_frames)


@jit
def sword_dance(p, h, c):
    """Marth's side special goes on, three times: B in its window, upward or downward with the stick."""
    first = c.follow_from[p.action]
    if first == 0 or h.action_frames + 1 < first or not pressed(h, BUTTON_B):
        return False
    air = 9 if p.action >= 358 else 0
    part = p.action - air
    if part == 349:
        following = 350 if h.stick_y >= UP_SPECIAL else 351
    elif part <= 351:
        following = 352 if h.stick_y >= UP_SPECIAL else 354 if h.stick_y <= -UP_SPECIAL else 353
    elif part <= 354:
        following = 355 if h.stick_y >= UP_SPECIAL else 357 if h.stick_y <= -UP_SPECIAL else 356
    else:
        return False
    set_action(p, h, following + air)
    return True


@jit
def floor_inputs(p, h):
    """Lying on the floor: get-up attack, stand, roll. The ids come in two sets, face up and face down."""
    base, x, y = p.action - DOWN_WAIT_UP, h.stick_x, h.stick_y
    if max(abs(h.c_x), abs(h.c_y)) >= ROLL_X and max(abs(h.last_c_x), abs(h.last_c_y)) < ROLL_X:
        x, y = h.c_x, h.c_y
    if h.flag == 1 or pressed(h, BUTTON_A | BUTTON_B):
        set_action(p, h, base + DOWN_ATTACK)
    elif (y >= TILT and y > TILT_STEEP * abs(x)) or pressed(h, BUTTON_LR):
        set_action(p, h, base + DOWN_STAND)
    elif abs(x) >= TILT and abs(y) <= TILT_STEEP * abs(x):
        set_action(p, h, base + (DOWN_ROLL_FORWARD if x * p.facing > 0 else DOWN_ROLL_BACKWARD))


@jit
def ledge_inputs(p, h):
    """Hanging: down or away lets go, up or toward climbs, and jump, roll, attack; slower versions at 100 %. The stick
    counts once it has been in the middle while hanging: a stick held from before does nothing."""
    centred = abs(h.stick_x) < .25 or h.tilt_x_age < h.action_frames
    centred = centred and (abs(h.stick_y) < .25 or h.tilt_y_age < h.action_frames)
    toward = h.stick_x * p.facing
    slow = p.percent >= 100
    if pressed(h, BUTTON_LR):
        set_action(p, h, LEDGE_ROLL_SLOW if slow else LEDGE_ROLL)
    elif jump_pressed(h):
        set_action(p, h, LEDGE_JUMP_SLOW if slow else LEDGE_JUMP)
    elif pressed(h, BUTTON_A | BUTTON_B):
        set_action(p, h, LEDGE_ATTACK_SLOW if slow else LEDGE_ATTACK)
    elif (centred and (h.stick_y <= -TILT or toward <= -TILT)) or (
            h.action_frames >= (HANG_TIRED if slow else HANG_FRESH)):
        set_action(p, h, FALL)
        leave_ground(p, h)
        p.self_vx_air, h.ledge_cooldown, h.air_frames = 0, LEDGE_COOLDOWN, 12
    elif centred and (h.stick_y >= TILT or toward >= TILT):
        set_action(p, h, LEDGE_CLIMB_SLOW if slow else LEDGE_CLIMB)

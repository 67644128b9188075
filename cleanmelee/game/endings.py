"""Endings: how long an action lasts and what follows it. Before the inputs, so that these meet the new action."""

import numpy as np

from cleanmelee.frame import BUTTON_A
from cleanmelee.game.actions import (
    in_damage, in_shine, is_down_damage, is_held, leave_ground, on_ledge, set_action,
)
from cleanmelee.game.characters import MAX_FRAMES
from cleanmelee.game.combat import rebound_frames
from cleanmelee.game.compiler import jit
from cleanmelee.game.ids import *  # noqa: F403
from cleanmelee.game.inputs import pressed, shield_held

LANDING_ANIMATION = 30.1  # frames of the animation that fills a landing's lag, measured
GUARD_ANIMATION = 20  # frames of the animation that fills a shield's stun, measured
UNKNOWN_LENGTH = 40  # of an action that neither libmelee's table nor any replay shows
WALL_TECH_FRAMES, WALL_JUMP_FRAMES = 31, 40            # public
MISS_FOOT_FRAMES, DOWN_DAMAGE_FRAMES = 30, 13          # measured: the first with Sheik


@jit
def action_length(p, h, c):
    """Frames this action lasts; 0 if it has no end of its own."""
    action, frames = p.action, h.action_frames
    if action == c.launch_actions[2] or action == c.launch_along:
        return int(c.launch_frames)
    if action == GRAB_PULL or action == GRAB_DASH_PULL:
        return 2
    if action == PUMMEL:
        return 24
    if action == MISS_FOOT:
        return MISS_FOOT_FRAMES
    if THROW_FORWARD <= action <= THROW_DOWN:
        return h.throw_frames
    if action == DOWN_WAIT_UP or action == DOWN_WAIT_DOWN:
        return 220
    if WALL_TECH <= action <= CEILING_TECH:
        return WALL_JUMP_FRAMES if action == WALL_TECH_JUMP else WALL_TECH_FRAMES
    if action == LANDING:
        return 30                                      # control returns after c.landing frames
    if action == LANDING_SPECIAL:                      # plays its 30 frames at the speed it started with
        return int(np.ceil(30 / (p.state_age / frames) - .01)) if frames > 1 and p.state_age > 0 else 10
    if c.aerial_landing[action] >= 0:
        lag = int(c.landing_lag[c.aerial_landing[action]])
        return lag // 2 if h.landed_cancel == 1 else lag
    if action == DASH:
        return int(c.dash_frames)
    if action == REBOUND:
        return int(np.ceil(rebound_frames(h)))
    if action == TURN_RUN:
        return c.run_turn[1]
    if action == TURN:
        return max(c.frames[action], 11) if c.frames[action] <= 5 else c.frames[action]
    return c.frames[action] if c.frames[action] > 0 else UNKNOWN_LENGTH


@jit
def damage_frames(action):
    """Length of the damage animations: small, middle, large; the flying ones."""
    if action == DAMAGE_LAST:
        return 0
    if action == DAMAGE_FLY_TOP:
        return 60
    if action >= DAMAGE_FLY_HIGH or action % 3 == 2:
        return 30
    return 12 if action % 3 == 0 else 24


@jit
def leave_jumpsquat(p, h, c):
    """The jump reads the stick of the frame before: animations run before inputs."""
    short = h.flag == 1
    drift = p.self_vx_ground * c.jump_keep + h.last_stick_x * c.jump_drift
    set_action(p, h, JUMP_BACKWARD if h.last_stick_x * p.facing < -TILT else JUMP_FORWARD)
    leave_ground(p, h)
    p.self_vx_air = min(max(drift, -c.jump_max), c.jump_max)
    p.self_vy = c.short_hop if short else c.full_hop
    h.flag = FIRST_JUMP_FRAME


@jit
def end_of_action(p, h, c):
    action, frames = p.action, h.action_frames
    if action == JUMPSQUAT:
        if frames >= c.jumpsquat:
            leave_jumpsquat(p, h, c)
        return
    if action in (WAIT, WALK_SLOW, WALK_MIDDLE, WALK_FAST, RUN, FALL, FALL_AERIAL, FALL_SPECIAL, TUMBLE, CROUCH, SHIELD,
                  LEDGE_HANG, HOLD, TEETER_WAIT, SLEEP):
        return
    if is_down_damage(action):
        end_of_down_damage(p, h)
        return
    if in_damage(action):                              # lasts until hitstun and animation are both over
        if p.in_hitstun:
            p.hitstun = max(0, p.hitstun - 1)
            p.in_hitstun = p.hitstun > 0
        if not p.in_hitstun and p.state_age >= damage_frames(action):
            if action == DAMAGE_LAST:                  # who rolls through the air forgets what he pressed; measured
                h.jump_buffer = 0
            set_action(p, h, TUMBLE if action >= DAMAGE_FLY_HIGH else FALL if p.airborne else WAIT)
            h.flag = 1 if p.action == TUMBLE and action != DAMAGE_FLY and action != DAMAGE_FLY_LOW else 0
        return
    if action == SHIELD_STUN:                          # plays its frames at the speed that the blow gave it
        if p.state_age >= GUARD_ANIMATION - .01:
            set_action(p, h, SHIELD)
        return
    if in_shine(p) and (action == SHINE or action == SHINE_AIR):
        return                                         # until B is let go
    if action == c.hold_action[p.airborne]:
        return                                         # until B is let go, see hold_special
    if action == FURAFURA or action == FROZEN:
        h.grab_timer -= 3 if pressed(h, 0xFFF) else 1  # mashing wakes up
        if h.grab_timer <= 0:
            set_action(p, h, FALL if p.airborne else WAIT)
        return
    if action == c.charge_action[p.airborne]:
        if frames >= c.charge_loop:
            set_action(p, h, action)
        return
    if action == c.rapid_jab[0]:
        rapid_jab(p, h, c)
        return
    if action == c.shot_action[p.airborne] and h.flag == 1 and 0 < c.frames[action] <= frames:
        set_action(p, h, action)                       # another shot
        p.fastfall = 0
        return
    length = action_length(p, h, c)
    if action == TURN_RUN or (in_shine(p) and action == SHINE_END):  # stood still for a while; began in the air
        frames = int(p.state_age)
    if length <= 0 or frames < length:
        return
    following = c.next_action[action]
    if action == JUMP_FORWARD or action == JUMP_BACKWARD:
        following = FALL
    elif action == DOUBLE_FORWARD or action == DOUBLE_BACKWARD:
        following = FALL_AERIAL
    elif action == SHIELD_START or action == SHIELD_REFLECT:
        following = SHIELD if shield_held(h) or action == SHIELD_START else SHIELD_RELEASE
    elif action == AIR_DODGE:
        following = FALL_SPECIAL
    elif action == LEDGE_CATCH:
        following = LEDGE_HANG
    elif action == TURN_RUN and h.stick_x * p.facing >= RUN_X:
        set_action(p, h, RUN)
        h.flag = RUN_FROM_TURN
        return
    elif action == LANDING:
        following = WAIT
    elif action == CROUCH_START or action == c.own_action[DTILT]:
        following = CROUCH
    elif action == GRAB_PULL or action == GRAB_DASH_PULL or action == PUMMEL:
        following = HOLD
    elif is_held(action):                              # goes by what the other does
        return
    elif action == DOWN_BOUND_UP or action == DOWN_BOUND_DOWN:
        asked = h.flag
        set_action(p, h, action + 1)
        h.flag = asked                                 # for the attack
        return
    elif action == MISS_FOOT:
        following = TUMBLE
    elif action == LEDGE_JUMP_SLOW or action == LEDGE_JUMP:
        following = action + 1
    elif action == DOWN_WAIT_UP or action == DOWN_WAIT_DOWN:
        following = action + 2
    if action == c.launch_actions[0] or action == c.launch_actions[1]:
        start_launch(p, h, c)
        return
    if action == c.launch_actions[2]:
        p.self_vx_air, p.self_vy = p.self_vx_air * c.launch_kept, p.self_vy * c.launch_kept
    if action == c.restores_jump:
        p.jumps = 1
    if action == c.transform_action[p.airborne]:
        p.character, following = c.transforms_into, c.transform_end[p.airborne]
    if action == ROLL_FORWARD or action == ROLL_BACKWARD:
        p.self_vx_ground = 0
    asked = action == AIR_DODGE or following == c.rapid_jab[0]
    if following < 0 or (following == WAIT and p.airborne) or (following == FALL_SPECIAL and not p.airborne):
        following = FALL if p.airborne else WAIT
    if on_ledge(action):                               # and has got up
        h.ledge_cooldown = LEDGE_COOLDOWN
    if following >= FIRST_OWN_ACTION:                   # the next part of a special begins to fall anew
        p.fastfall = 0
    set_action(p, h, following)
    h.flag = 1 if asked else 0                         # a fall that can be steered, a first round of blows
    h.landing_lag = c.landing_lag_special[action, 1]


@jit
def end_of_down_damage(p, h):
    """Struck weakly while lying: stands up, willy-nilly, if the stun is over with the animation, else lies on."""
    if p.in_hitstun:
        p.hitstun = max(0, p.hitstun - 1)
        p.in_hitstun = p.hitstun > 0
    if h.action_frames < DOWN_DAMAGE_FRAMES:
        return
    following = FALL if p.airborne else p.action - 1 if p.in_hitstun else p.action + 1
    p.in_hitstun, p.hitstun = 0, 0
    set_action(p, h, following)


@jit
def rapid_jab(p, h, c):
    """Blow upon blow, as long as A is pressed once a round: asked for when the first blow of a round has ended."""
    frame, row = min(h.action_frames, MAX_FRAMES - 1), c.hit_row[p.action]
    if pressed(h, BUTTON_A):
        h.flag = 1
    if row[frame] == 0 and row[frame - 1] > 0 and is_first_blow(row, frame):
        if h.flag == 0:
            set_action(p, h, c.rapid_jab[1])
        h.flag = 0
    elif frame >= c.frames[p.action]:
        asked = h.flag
        set_action(p, h, p.action)
        h.flag = asked


@jit
def is_first_blow(row, frame):
    """Has no other blow ended before this frame?"""
    for earlier in range(1, frame):
        if row[earlier] == 0 and row[earlier - 1] > 0:
            return False
    return True


@jit
def start_launch(p, h, c):
    """Fire Fox, Teleport and the like: off along the stick of the frame before, straight up without one."""
    length = np.sqrt(h.last_stick_x ** 2 + h.last_stick_y ** 2)
    x, y = (h.last_stick_x / length, h.last_stick_y / length) if length > 0 else (0.0, 1.0)
    speed = c.launch_speed + c.launch_by_stick * (min(length, 1.0) if length > 0 else 1.0)
    if x != 0:
        p.facing = 1 if x > 0 else -1
    if not p.airborne and c.launch_along > 0 and y <= 0 and x != 0:
        set_action(p, h, c.launch_along)
        p.self_vx_ground = speed * p.facing
        return
    if not p.airborne:
        leave_ground(p, h)
        p.jumps = 0
    set_action(p, h, c.launch_actions[2])
    p.self_vx_air, p.self_vy = speed * x, speed * y

"""Motion: velocity by gravity, drift, friction, and the specials that have their own. After the inputs."""

import numpy as np

from cleanmelee.frame import GAMEANDWATCH, MARTH
from cleanmelee.game.actions import in_damage, is_helpless
from cleanmelee.game.characters import (
    MAX_FRAMES, RISE_DEAD_ZONE, RISE_TURN, TURNED_RISE, WARP_CALM, WARP_DRIFT, WARP_SLOWS,
)
from cleanmelee.game.compiler import jit
from cleanmelee.game.ids import *  # noqa: F403


AIR_DODGE_DRIFT = 29                                   # the frame from which an air dodge falls


@jit
def slowed(speed, by):
    return max(speed - by, 0.0) if speed > 0 else min(speed + by, 0.0)


@jit
def approach(speed, acceleration, target, friction):
    """Accelerate toward the target speed; above it, or without a target, friction takes over."""
    if target == 0 or ((speed > 0) == (target > 0) and abs(speed) > abs(target)):
        after = slowed(speed, friction)
        if target != 0 and (after > 0) == (target > 0) and abs(after) < abs(target):
            return target
        return after
    after = speed + acceleration
    return target if (after > 0) == (target > 0) and abs(after) > abs(target) else after


@jit
def drift(p, h, c):
    x = h.stick_x
    acceleration = x * c.air_slope + np.sign(x) * c.air_base
    p.self_vx_air = approach(p.self_vx_air, acceleration, x * c.air_max, c.air_friction)


@jit
def drift_or_slow(p, h, c):
    """Most specials cannot be steered in the air; after Marth's up special the fall hardly can."""
    if not c.steered[p.action]:
        p.self_vx_air = slowed(p.self_vx_air, c.air_friction)
    elif is_helpless(p, h, c):
        drift(p, h, c)
        limit = c.helpless_drift * c.air_max
        p.self_vx_air = min(max(p.self_vx_air, -limit), limit)
    else:
        drift(p, h, c)


@jit
def fall(p, h, c):
    if p.fastfall:
        p.self_vy = -c.fast_fall
    else:
        p.self_vy = max(p.self_vy - c.gravity, -c.helpless_fall if is_helpless(p, h, c) else -c.fall_max)


@jit
def hover(p, h, c):
    """Illusion's and Fire Fox's start, the shine, Sheik's chain: they stop the fall for a while. Others fall at a speed
    of their own; the spin attack and the first sword dance of an airtime lift."""
    action, frame = p.action, h.action_frames
    keep = c.hover_keep[action]
    if frame == 0 and keep >= 0:
        p.self_vx_air = keep * p.facing if keep > 1 else keep * p.self_vx_air
        p.self_vy = c.hover_keep_y[action] * p.self_vy
        if h.lifted == 0 or p.character != MARTH:
            p.self_vy += c.hover_lift[action]
        h.lifted |= c.hover_lift[action] > 0
    if c.hover_drift[action] > 0:
        p.self_vx_air = approach(p.self_vx_air, h.stick_x * c.air_slope,
                                 h.stick_x * c.hover_drift[action] * c.air_max, c.air_friction)
    else:
        p.self_vx_air = slowed(p.self_vx_air, c.hover_loss[action])
    if frame >= c.hover_frames[action] or (p.self_vy < 0 and c.hover_keep_y[action] == 0):
        p.self_vy = max(p.self_vy - c.hover_gravity[action], -c.hover_fall[action])


@jit
def end_warp(p, h, c):
    """Back from a warp: the rest of its speed fades, then a fall that can be steered a little."""
    if h.action_frames < WARP_CALM:
        p.self_vx_air, p.self_vy = slowed(p.self_vx_air, c.air_friction), WARP_SLOWS * p.self_vy
        return
    p.self_vy = max(p.self_vy - c.gravity, -c.fall_max)
    drift(p, h, c)
    p.self_vx_air = min(max(p.self_vx_air, -WARP_DRIFT * c.air_max), WARP_DRIFT * c.air_max)


@jit
def turned_rise(p, h, curve):
    """Game & Watch's up special: the stick as it was a frame before the rise turns all of it; its velocities
    tell by how much. The curve is that of an upright rise, its x to the side that he turns to."""
    frame = h.action_frames
    if frame == TURNED_RISE[1]:
        turn = max(RISE_TURN * (abs(h.last_stick_x) - RISE_DEAD_ZONE), 0.0) * np.pi / 180
        side = np.sign(h.last_stick_x)
    else:
        turn = np.arctan2(abs(p.self_vx_air), p.self_vy) - np.arctan2(curve[frame - 1, 1], curve[frame - 1, 2])
        side = np.sign(p.self_vx_air)
    x, y = (curve[frame, 1], curve[frame, 2]) if side != 0 else (0.0, curve[frame, 2])
    turn = turn if side != 0 else 0.0
    p.self_vx_air = side * (x * np.cos(turn) + y * np.sin(turn))
    p.self_vy = y * np.cos(turn) - x * np.sin(turn)


@jit
def air_velocity(p, h, c, t):
    action, frame = p.action, h.action_frames
    if h.flag == FIRST_JUMP_FRAME and (action == JUMP_FORWARD or action == JUMP_BACKWARD):
        h.flag = 0
        return
    if action == c.launch_actions[2]:
        if frame >= c.launch_slow_from:
            speed = np.sqrt(p.self_vx_air ** 2 + p.self_vy ** 2)
            keep = max(0.0, speed - c.launch_slower) / max(speed, .001)
            p.self_vx_air, p.self_vy = p.self_vx_air * keep, p.self_vy * keep
        return
    if c.hover_loss[action] > 0:
        hover(p, h, c)
        return
    if action == c.warp_end:
        end_warp(p, h, c)
        return
    row = c.velocity_row[action]
    if p.character == GAMEANDWATCH and action == TURNED_RISE[0] and TURNED_RISE[1] <= frame <= TURNED_RISE[2]:
        turned_rise(p, h, t.velocities[row])
        return
    if row and frame < MAX_FRAMES and not np.isnan(t.velocities[row, frame, 2]):  # specials, Mewtwo's double jump
        p.self_vy = t.velocities[row, frame, 2]
        vx = t.velocities[row, frame, 1]
        if action == c.launch_actions[1]:
            p.self_vx_air = slowed(p.self_vx_air, c.air_friction)
        elif np.isnan(vx):
            drift_or_slow(p, h, c)
        else:
            p.self_vx_air = vx * p.facing
        return
    if c.rises[action] and frame + 1 < MAX_FRAMES:     # carried up by the animation, steered a little
        p.self_vy = t.root_motion[c.root_row[action], frame + 1, 1]
        drift(p, h, c)
        return
    if action == AIR_DODGE:
        if frame < AIR_DODGE_DRIFT:
            p.self_vx_air *= .9
            p.self_vy *= .9
            return
    if WALL_TECH <= action <= CEILING_TECH:            # holds on, then falls or jumps off
        if frame < WALL_HOLD:
            return
        if frame == WALL_HOLD and action == WALL_TECH_JUMP:
            p.self_vx_air, p.self_vy = c.wall_jump[0] * p.facing, c.wall_jump[1]
    if c.double_jump == 0 and frame == 0 and (action == DOUBLE_FORWARD or action == DOUBLE_BACKWARD):
        return                                         # Mewtwo's double jump follows a curve from its second frame
    if p.self_vy < 0 and h.stick_y <= DROP_Y and h.tilt_y_age < 4 and not in_damage(action) and action != TUMBLE:
        p.fastfall = 1
    fall(p, h, c)
    if not (in_damage(action) and p.in_hitstun) and action != FROZEN:
        drift_or_slow(p, h, c)


@jit
def ground_velocity(p, h, c, t):
    action, speed, frame = p.action, p.self_vx_ground, h.action_frames
    run_acceleration = h.stick_x * c.run_slope + np.sign(h.stick_x) * c.run_base
    run_target = h.stick_x * c.run_max
    root, learned = c.root_row[action], c.velocity_row[action]
    if action == DASH:
        if frame > 0:
            speed = approach(speed, run_acceleration, run_target, c.friction)
    elif action == JUMPSQUAT and frame == 0:           # a dash faster than the run loses the difference at once
        speed = slowed(min(max(speed, -c.run_max), c.run_max), c.friction * (2 if abs(speed) > c.walk_max else 1))
    elif action == RUN:
        if run_target != 0 and 0 < speed / run_target < 1:
            run_acceleration *= (1 - speed / run_target) * .4
        speed = approach(speed, run_acceleration, run_target, c.friction)
    elif WALK_SLOW <= action <= WALK_FAST:
        acceleration = h.stick_x * c.walk_slope + np.sign(h.stick_x) * c.walk_base
        target = h.stick_x * c.walk_max
        if target != 0 and 0 < speed / target < 1:
            acceleration *= (1 - speed / target) * .5
        speed = approach(speed, acceleration, target, c.friction)
    elif action == TURN_RUN:
        back = h.stick_x * p.facing * (1 if h.flag else -1)
        if back > 0:
            speed = approach(speed, run_acceleration, run_target, c.friction)
        else:
            speed = slowed(speed, c.friction)
    elif h.smash_charge > 0 and frame == c.smash_hold[action]:  # winding up
        speed = slowed(speed, c.friction)
    elif (action == DOWN_BOUND_UP or action == DOWN_BOUND_DOWN) and frame == 4:
        speed = 0.0                                    # the bounce is over
    elif root and frame + 1 < MAX_FRAMES:              # the animation moves the character
        frame += 0 if action == TECH_FORWARD or action == TECH_BACKWARD else 1  # techs begin a frame late
        turned = t.root_motion[root, frame, 2] != 0
        if turned and t.root_motion[root, frame - 1, 2] == 0:
            p.facing = -p.facing
            h.flag = 1
        backward = action in (ROLL_BACKWARD, DOWN_ROLL_BACKWARD, DOWN_ROLL_BACKWARD + 8, TECH_BACKWARD)
        speed = t.root_motion[root, frame, 0] * (-p.facing if backward != turned else p.facing)
    elif learned and frame < MAX_FRAMES and not np.isnan(t.velocities[learned, frame, 0]):
        speed = t.velocities[learned, frame, 0] * p.facing
    else:
        too_fast = abs(speed) > c.walk_max and action != RUN_BRAKE and action != GRAB_DASH
        speed = slowed(speed, c.friction * (2 if too_fast else 1))
    p.self_vx_ground = speed


@jit
def knockback_decay(p, c):
    """Knockback fades by .051 a frame along its direction in the air, by friction on the ground."""
    speed = np.sqrt(p.kb_vx * p.kb_vx + p.kb_vy * p.kb_vy)
    if speed == 0:
        return
    if p.airborne:
        keep = max(0.0, speed - .051) / speed
        p.kb_vx *= keep
        p.kb_vy *= keep
    else:
        p.kb_vx, p.kb_vy = slowed(p.kb_vx, c.friction), 0

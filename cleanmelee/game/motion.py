"""Motion: velocity by gravity, drift, friction, and the specials that have their own. After the inputs."""

import numpy as np

from cleanmelee.frame import LINK
from cleanmelee.game.actions import in_damage, is_helpless
from cleanmelee.game.characters import (
    DIVE_FACES, DIVE_SLOPE, DIVE_SPEED, MAX_FRAMES, WARP_CALM, WARP_DRIFT, WARP_SLOWS,
)
from cleanmelee.game.compiler import jit
from cleanmelee.game.ids import *  # noqa: F403


AIR_DODGE_DRIFT = 29                                   # the frame from which an air dodge falls
WALL_JUMP_KEEPS = .9                                   # of the rise, with each further wall jump; a guess


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
    of their own; the spin attack lifts, and so do the first sword dance and the first Confusion of an airtime."""
    action, frame = p.action, h.action_frames
    keep = c.hover_keep[action]
    if frame == 0 and keep >= 0:
        p.self_vx_air = keep * p.facing if keep > 1 else keep * p.self_vx_air
        p.self_vy = c.hover_keep_y[action] * p.self_vy
        if h.lifted == 0 or p.character == LINK:
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
def start_launch_in_air(p, h, c):
    """Teleport's and Vanish's start in the air: some of the speed is kept, or a rise is given; then a slow fall."""
    if h.action_frames == 0:
        p.self_vx_air *= c.start_keep_x
        p.self_vy = c.start_keep_y * p.self_vy + c.start_lift
    p.self_vy = max(p.self_vy - c.start_gravity, -c.start_fall)
    if c.start_steered:
        drift(p, h, c)
    else:
        p.self_vx_air = slowed(p.self_vx_air, c.air_friction)


@jit
def end_warp(p, h, c):
    """Back from a warp: the rest of its speed fades, then a fall that the stick does not steer."""
    if h.action_frames < WARP_CALM:
        p.self_vx_air, p.self_vy = slowed(p.self_vx_air, c.air_friction), WARP_SLOWS * p.self_vy
        return
    p.self_vy = max(p.self_vy - c.gravity, -c.fall_max)
    p.self_vx_air = min(max(p.self_vx_air, -WARP_DRIFT * c.air_max), WARP_DRIFT * c.air_max)


@jit
def slow_launch(p, h, c, x, y):
    """How much of its speed Fire Fox keeps on this frame."""
    speed = np.sqrt(x * x + y * y)
    return max(speed - c.launch_slower, 0.0) / max(speed, .001) if h.action_frames >= c.launch_slow_from else 1.0


@jit
def aim_rise(p, h, c):
    """Before Game & Watch's and Marth's up specials rise, the stick sets how far they lean and to which side."""
    frame, first = h.action_frames, c.rise_first[p.action]
    if first == 0 or frame > first:
        return
    if frame == 0:
        h.rise_turn = 0
    if c.rise_widest:
        h.rise_turn = max(h.rise_turn, c.rise_slope * (abs(h.stick_x) - c.rise_dead_zone))
    elif frame == first:
        h.rise_turn = max(c.rise_slope * (abs(h.last_stick_x) - c.rise_dead_zone), 0.0)
    if frame == c.rise_faces and h.stick_x * p.facing < 0:
        p.facing = -p.facing


@jit
def turned_rise(p, h, c, curve):
    """The stick turns the whole rise; later on its velocities tell by how much. The curve is that of an upright one."""
    frame = h.action_frames
    if frame == c.rise_first[p.action]:
        turn = h.rise_turn * np.pi / 180
    else:
        turn = np.arctan2(p.self_vx_air * p.facing, p.self_vy) - np.arctan2(curve[frame - 1, 0], curve[frame - 1, 1])
    forward, up = curve[frame, 0], curve[frame, 1]
    p.self_vx_air = p.facing * (forward * np.cos(turn) + up * np.sin(turn))
    p.self_vy = up * np.cos(turn) - forward * np.sin(turn)


@jit
def end_rise(p, h, c):
    p.self_vy = max(p.self_vy - c.rise_gravity, -c.fall_max)
    x = h.stick_x * c.rise_drift
    p.self_vx_air = approach(p.self_vx_air, x * c.air_slope, x * c.air_max, c.air_friction)


@jit
def dive(p, h, c, curve):
    """Falcon Dive: its own motion, and beside it what the stick adds, which has a limit but no friction."""
    frame = h.action_frames
    steered = p.self_vx_air - p.facing * curve[frame - 1, 0] if frame > 0 else 0.0
    if frame == DIVE_FACES and h.stick_x * p.facing < 0:
        p.facing = -p.facing
    limit = DIVE_SPEED * h.stick_x * c.air_max
    steered += DIVE_SLOPE * h.stick_x * c.air_slope
    if limit >= 0:
        steered = min(steered, limit)
    if limit <= 0:
        steered = max(steered, limit)
    p.self_vx_air, p.self_vy = p.facing * curve[frame, 0] + steered, curve[frame, 1]


@jit
def special_velocity(p, h, c, t):
    """Specials in the air that follow rules of their own or a curve; True if this is one."""
    action, frame, row = p.action, h.action_frames, c.motion_row[p.action]
    if action == c.launch_actions[1] and c.start_gravity > 0:
        start_launch_in_air(p, h, c)
    elif action == c.warp_end:
        end_warp(p, h, c)
    elif row and frame < MAX_FRAMES and not np.isnan(t.special_motion[row, frame, 1]):
        curve = t.special_motion[row]
        if 0 < c.rise_first[action] <= frame:
            turned_rise(p, h, c, curve)
        elif c.dives[action]:
            dive(p, h, c, curve)
        else:
            p.self_vx_air, p.self_vy = curve[frame, 0] * p.facing, curve[frame, 1]
    elif c.rise_gravity > 0 and frame > c.rise_first[action] > 0:
        end_rise(p, h, c)
    else:
        return False
    return True


@jit
def air_velocity(p, h, c, t):
    action, frame = p.action, h.action_frames
    if h.flag == FIRST_JUMP_FRAME and (action == JUMP_FORWARD or action == JUMP_BACKWARD):
        h.flag = 0
        return
    if action == c.launch_actions[2]:
        keep = slow_launch(p, h, c, p.self_vx_air, p.self_vy)
        p.self_vx_air, p.self_vy = p.self_vx_air * keep, p.self_vy * keep
        return
    aim_rise(p, h, c)
    if special_velocity(p, h, c, t):
        return
    if c.hover_loss[action] > 0:
        hover(p, h, c)
        return
    row = c.velocity_row[action]
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
    if not c.fast_falls[action]:
        fall(p, h, c)
        drift_or_slow(p, h, c)
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
            p.self_vx_air, p.self_vy = c.wall_jump[0] * p.facing, c.wall_jump[1] * WALL_JUMP_KEEPS ** h.wall_jumps
            h.wall_jumps += 1
    may_fast_fall = not (in_damage(action) and p.in_hitstun)
    used_up = action == PLATFORM_DROP and h.tilt_y_age >= frame  # by the flick that dropped him
    if p.self_vy < 0 and h.stick_y <= DROP_Y and h.tilt_y_age < 4 and may_fast_fall and not used_up:
        p.fastfall = 1
    fall(p, h, c)
    if not (in_damage(action) and p.in_hitstun) and action != FROZEN:
        drift_or_slow(p, h, c)


@jit
def ground_velocity(p, h, c, t):
    action, speed, frame = p.action, p.self_vx_ground, h.action_frames
    p.self_vy = 0
    run_acceleration = h.stick_x * c.run_slope + np.sign(h.stick_x) * c.run_base
    run_target = h.stick_x * c.run_max
    root, learned, special = c.root_row[action], c.velocity_row[action], c.motion_row[action]
    aim_rise(p, h, c)
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
    elif action == c.launch_along:
        speed *= slow_launch(p, h, c, speed, 0.0)
    elif special and frame < MAX_FRAMES and not np.isnan(t.special_motion[special, frame, 0]):
        speed = t.special_motion[special, frame, 0] * p.facing
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
    square = p.kb_vx * p.kb_vx + p.kb_vy * p.kb_vy
    if square == 0:
        return
    speed = np.sqrt(square)
    if p.airborne:
        keep = max(0.0, speed - .051) / speed
        p.kb_vx *= keep
        p.kb_vy *= keep
    else:
        p.kb_vx, p.kb_vy = slowed(p.kb_vx, c.friction), 0

"""Terrain: floors and platforms, walls, ledges, wind, blast zones. They meet where the velocity leads to."""

import numpy as np

from cleanmelee.frame import LINK, PLATFORM_UNIT, PLATFORM_ZERO
from cleanmelee.game.actions import (
    in_damage, is_down_damage, is_flying, is_held, leave_ground, on_ledge, set_action,
)
from cleanmelee.game.characters import MAX_FRAMES, SPECIAL_REACH
from cleanmelee.game.compiler import jit
from cleanmelee.game.ids import *  # noqa: F403
from cleanmelee.game.inputs import jump_held
from cleanmelee.game.randomness import random_uniform
from cleanmelee.game.stages import (
    PLATFORM_HIGH, PLATFORM_LOW, PLATFORM_REST, PLATFORM_SPEEDS, RANDALL_FLOOR, RANDALL_PERIOD, RANDALL_WIDTH,
)


TECH_WINDOW, TECH_INTANGIBLE = 20, 14                  # frames; the second after a tech at a wall; public
FEET_LOCKED = 10                                       # frames in the air until the feet follow the animation; measured
BOUNCE_KEEPS = .8                                      # share of the knockback that a bounce leaves; public
WALL_JUMP_WINDOW = 3                                   # how fresh the flick off a wall must be; seen up to 1
WIND_PERIOD, WIND_FRAMES, WIND_SPEED = 1100, 270, .2   # frames; units a frame
WIND_SPLIT, WIND_LEFT, WIND_RIGHT = -17.5, -74, 76     # it blows outward from Whispy, up to there; measured
WIND_LOW, WIND_HIGH = -7, 40
TETHER_REACH = 26                                      # of Link's hookshot beyond the arms; public, 40.5 in all


@jit
def floor_height(s, floor, x):
    y = s.floor_y[floor]
    return y - min(max(0.0, abs(x) - s.slope_start), s.slope_length) * s.slope if floor == 0 else y


@jit
def floor_under(p, s):
    for floor in range(s.num_floors):
        on_line = s.floor_left[floor] - .5 <= p.x <= s.floor_right[floor] + .5
        if on_line and abs(p.y - floor_height(s, floor, p.x)) < .3:
            return floor
    return -1


@jit
def place_floor(s, floor, left, right, y):
    s.floor_left[floor], s.floor_right[floor], s.floor_y[floor] = left, right, y


@jit
def place_platforms(frame, frame_id, s, t):
    """Put this game's moving floors into its own copy of the stage's row: threads share the tables."""
    if frame.stage == FOUNTAIN:
        s.floor_y[1] = frame.platform_left * PLATFORM_UNIT + PLATFORM_ZERO
        s.floor_y[2] = frame.platform_right * PLATFORM_UNIT + PLATFORM_ZERO
    elif frame.stage == YOSHIS_STORY:
        left, y = t.randall[frame_id % RANDALL_PERIOD]
        place_floor(s, RANDALL_FLOOR, left, left + RANDALL_WIDTH, y)


@jit
def next_height(height, side, seed, frame_id):
    """Where a platform of the Fountain goes: every now and then to a height drawn at random, at one of two speeds."""
    move = frame_id // PLATFORM_REST
    if move < 1:
        return height
    target = PLATFORM_LOW + (PLATFORM_HIGH - PLATFORM_LOW) * random_uniform(seed, move, 72 + side)
    speed = PLATFORM_SPEEDS[int(2 * random_uniform(seed, move, 74 + side))]
    return height + min(max(target - height, -speed), speed)


@jit
def move_platforms(frame, secret, s, t):
    """The floors move on and carry whoever stands on them."""
    p, q = frame.players[0], frame.players[1]
    place_platforms(frame, frame.frame_id - 1, s, t)
    first, second = floor_carrying(p, s), floor_carrying(q, s)
    old_left, old_y, old_other_y = s.floor_left[RANDALL_FLOOR], s.floor_y[1], s.floor_y[2]
    old_randall_y = s.floor_y[RANDALL_FLOOR]
    frame.platform_left = next_height(frame.platform_left, 0, secret.seed, frame.frame_id)
    frame.platform_right = next_height(frame.platform_right, 1, secret.seed, frame.frame_id)
    place_platforms(frame, frame.frame_id, s, t)
    for index in range(2):
        player, floor = frame.players[index], first if index == 0 else second
        if floor == RANDALL_FLOOR:
            player.x += s.floor_left[RANDALL_FLOOR] - old_left
            player.y += s.floor_y[RANDALL_FLOOR] - old_randall_y
        elif floor == 1:
            player.y += s.floor_y[1] - old_y
        elif floor == 2:
            player.y += s.floor_y[2] - old_other_y


@jit
def floor_carrying(p, s):
    return -1 if p.airborne or p.action <= REBIRTH_WAIT else floor_under(p, s)


@jit
def lands_face_down(action, h):
    """The flying animations roll over with time; from which side a character tumbles is remembered in `flag`."""
    if action == TUMBLE:
        return h.flag == 1
    if action == DAMAGE_FLY_TOP:
        return h.action_frames >= 44
    return action == DAMAGE_LAST or (action <= DAMAGE_FLY and h.action_frames >= 20)


@jit
def auto_cancels(h, c, aerial):
    """Early and late in an aerial the landing is the ordinary one."""
    frame = h.action_frames + 1
    return frame < c.autocancel_before[aerial] or frame > c.autocancel_after[aerial]


@jit
def get_dizzy(p, h):
    """A broken shield: the more hurt, the shorter; mashing shortens it."""
    set_action(p, h, FURAFURA)
    h.grab_timer = int(max(DIZZY_FRAMES - p.percent, 60))


@jit
def land(p, h, c, y):
    action, falling = p.action, p.self_vy
    p.y, p.airborne, p.self_vx_ground, p.self_vy = y + .0001, 0, p.self_vx_air, 0
    p.jumps, p.fastfall, h.air_frames, h.feet, h.wall_jumps = 2, 0, 0, 0, 0
    aerial, lag = c.aerial[action], c.landing_lag_special[action, 0]
    if action == FALL_SPECIAL:
        lag = h.landing_lag
    if c.lands_as[action] > 0 and c.lands_as[action] != LANDING_SPECIAL:
        land_special(p, h, c)
    elif action == AIR_DODGE or FALL_SPECIAL <= action <= 37 or lag != 0 or c.lands_as[action] > 0:
        set_action(p, h, LANDING_SPECIAL)
        h.landing_lag, h.flag = abs(lag), FREE_LANDING if lag < 0 else 0
    elif action == SHIELD_BREAK_FLY or action == SHIELD_BREAK_FALL:
        get_dizzy(p, h)
    elif aerial >= 0 and not auto_cancels(h, c, aerial):
        own = c.own_action[70 + aerial]
        if own == 70 + aerial:
            h.landed_cancel = p.l_cancel = 1 if h.trigger_age < 7 else 2
        else:                                          # Game & Watch's own landings know no L-cancel
            h.landed_cancel = p.l_cancel = 0
        set_action(p, h, own)
    elif is_flying(action) or action == TUMBLE:
        p.in_hitstun, p.hitstun = 0, 0
        if tech_ready(h):
            toward = h.stick_x * p.facing
            set_action(p, h, TECH_FORWARD if toward > .2 else TECH_BACKWARD if toward < -.2 else TECH)
        else:
            set_action(p, h, DOWN_BOUND_DOWN if lands_face_down(action, h) else DOWN_BOUND_UP)
    elif not is_down_damage(action) and action != FROZEN:
        p.in_hitstun, p.hitstun = 0, 0
        set_action(p, h, LANDING)
    if p.action == LANDING or p.action == LANDING_SPECIAL or c.aerial_landing[p.action] >= 0:
        p.self_vy = falling                            # is shown once more


@jit
def land_special(p, h, c):
    """Many specials go on where they were, on the ground; others have a landing of their own."""
    following, frame = c.lands_as[p.action], c.lands_at[p.action]
    if frame < 0:
        p.action = following
        return
    set_action(p, h, following)
    p.state_age, h.action_frames = frame, frame


@jit
def passes_platform(p, h):
    """Platforms let a character through who holds down, unless he dodges or is hurt."""
    if p.action == PLATFORM_DROP and h.action_frames < 3:
        return True
    return h.stick_y <= DROP_Y and p.action != AIR_DODGE and not in_damage(p.action)


@jit
def stop_at_wall(p, h, c, s, feet, old_x):
    """The body is a diamond on its feet: wider where it meets the wall the deeper it hangs."""
    width, depth = c.wall_width[p.action], min(max((-p.y - feet) / 4, 0.0), 1.0)
    for side in (-1, 1):
        wall = s.floor_right[0] * side
        if (old_x - wall) * side >= 0 and (p.x - wall) * side < width * depth:
            p.x = wall + width * depth * side
            if c.warp_end > 0 and p.action == c.launch_actions[2]:  # a warp ends at the wall, as Teleport is seen to
                p.self_vx_air, p.self_vy = p.self_vx_air * c.launch_kept, p.self_vy * c.launch_kept
                set_action(p, h, c.warp_end)
                return
            if is_flying(p.action) and p.in_hitstun and (p.kb_vx * side < 0 or tech_ready(h)):
                meet_wall(p, h, side)                  # who shifts himself into it can tech, wherever he flies
                return
            flick = h.stick_x * side >= DASH_X and h.tilt_x_age < WALL_JUMP_WINDOW
            if flick and c.wall_jumps and JUMP_FORWARD <= p.action <= FALL_AERIAL + 2:
                p.self_vx_air, p.self_vy, p.fastfall, p.facing = 0, 0, 0, side
                set_action(p, h, WALL_TECH_JUMP)       # Melee has no id of its own for it


@jit
def underside(s, x):
    """Height of the stage's underside: from the end of the wall it slants down toward the middle."""
    return s.wall_bottom - s.hull * (s.floor_right[0] - abs(x))


@jit
def stop_below_stage(p, h, s, old_x, old_y):
    """A body that rises into the underside slides along it: down where it is flat, outward where it is steep."""
    limit = underside(s, p.x)
    if p.y >= 0 or p.y <= limit or abs(p.x) >= s.floor_right[0] or old_y > underside(s, old_x) + .01:
        return
    if s.hull < 1:
        p.y = limit
    else:
        p.x = (s.floor_right[0] - max(s.wall_bottom - p.y, 0.0) / s.hull) * (1 if p.x > 0 else -1)
    if not is_flying(p.action) or not p.in_hitstun or p.kb_vy <= 0:
        return
    if tech_ready(h):
        stop_flying(p, h, CEILING_TECH)
    else:
        bounce(p, h, BOUNCE_CEILING)
        p.kb_vy = -BOUNCE_KEEPS * p.kb_vy


@jit
def meet_wall(p, h, side):
    """Flung into a wall: a press in the tech window holds on to it, or jumps off with the stick up; else he bounces."""
    if not tech_ready(h):
        bounce(p, h, BOUNCE_WALL)
        p.facing, p.kb_vx = side, -BOUNCE_KEEPS * p.kb_vx
        return
    stop_flying(p, h, WALL_TECH_JUMP if jump_held(h) else WALL_TECH)
    p.facing = side


@jit
def tech_ready(h):
    return h.tech_lockout > TECH_LOCKOUT - TECH_WINDOW and not h.tech_void


@jit
def bounce(p, h, action):
    """Off a wall or the underside of the stage; the stun goes on."""
    set_action(p, h, action)
    p.self_vx_air, p.self_vy = 0, 0


@jit
def stop_flying(p, h, action):
    set_action(p, h, action)
    p.self_vx_air, p.self_vy, p.kb_vx, p.kb_vy, p.in_hitstun, p.hitstun = 0, 0, 0, 0, 0, 0
    h.hurt_kind, h.hurt_timer = 2, TECH_INTANGIBLE


@jit
def collide_in_air(p, h, c, s, old_x, old_y):
    feet = 0.0 if h.air_frames <= FEET_LOCKED else c.feet[p.action, min(h.action_frames, MAX_FRAMES - 1)]
    old_feet = max(h.feet, feet)                       # another action's feet are lower: who was above, meets the floor
    h.feet = feet
    if s.wall_bottom < p.y < 0 and old_y <= .001:
        stop_at_wall(p, h, c, s, feet, old_x)
    if p.y < 0 and abs(p.x) < s.floor_right[0]:
        stop_below_stage(p, h, s, old_x, old_y)
    rises, falling = p.y > old_y, p.y < old_y
    if rises and p.y + feet >= old_y + old_feet:
        return
    for floor in range(1 if rises else s.num_floors):  # lower feet land him on the stage, rising or not
        y = floor_height(s, floor, p.x)
        crossed = old_y + old_feet >= y - .001 and p.y + feet < y
        if crossed and s.floor_left[floor] <= p.x <= s.floor_right[floor]:
            if floor == 0 or not passes_platform(p, h):
                p.ground = floor
                if c.lands_halfway and p.action == AIR_DODGE and h.air_frames == 1:
                    p.x = .5 * (old_x + p.x)
                land(p, h, c, y)
                return
    if falling:
        catch_ledge(p, h, c, s, old_x, old_y)


@jit
def catch_ledge(p, h, c, s, old_x, old_y):
    """The corner lies inside the box in front of a falling character, swept along the frame's way. He does not hold
    down, and nobody hangs there."""
    action = p.action
    able = JUMP_FORWARD <= action <= 37 or action == TUMBLE or action == PLATFORM_DROP or action == MISS_FOOT
    able = able or c.catches[action]
    height = floor_height(s, 0, s.floor_right[0])
    below = p.y - height
    if not able or h.ledge_cooldown > 0 or h.stick_y <= -.6 or below >= -2 or h.air_frames <= 2:
        return
    reach = TETHER_REACH if action == HOOKSHOT and p.character == LINK and 10 <= h.action_frames <= 24 else 0
    width = c.ledge_width + reach + (SPECIAL_REACH if c.catches[action] else 0)
    lowest = c.ledge_top - c.ledge_height - reach
    for side in (-1, 1):
        corner = s.floor_right[0] * side
        outside, before = (p.x - corner) * side, (old_x - corner) * side
        if outside > 0 and min(outside, before) < width and p.facing == -side and h.ledge_taken != side and \
                below < c.ledge_top and old_y - height > lowest:
            set_action(p, h, LEDGE_CATCH)
            p.x, p.y = corner + side * c.ledge_pose[0, 0], height + c.ledge_pose[0, 1]
            p.self_vx_air, p.self_vy, p.jumps, p.fastfall = 0, 0, 1, 0
            p.kb_vx, p.kb_vy = 0, 0
            h.hurt_kind, h.hurt_timer = 2, 38          # 37 frames from this one on
            return


@jit
def held_ledge(p):
    """Side of the ledge that this player keeps from the other, 0 none: until his feet are on the stage."""
    return int(-p.facing) if p.airborne and on_ledge(p.action) else 0


@jit
def settle_ledge_tie(p, h, q, hq, luck):
    """Both have caught the same ledge on the same frame: one of them, drawn at random, keeps it."""
    caught = p.action == LEDGE_CATCH and q.action == LEDGE_CATCH and h.action_frames == 0 and hq.action_frames == 0
    if caught and p.facing == q.facing:
        if luck < .5:
            miss_ledge(p, h)
        else:
            miss_ledge(q, hq)


@jit
def miss_ledge(p, h):
    set_action(p, h, FALL)
    p.x, p.y, h.hurt_timer = h.old_x, h.old_y, 0


@jit
def walk_off(p, h, c, s, floor):
    """A grounded character at the end of his floor: stop, teeter or fall."""
    if s.floor_left[floor] - .1 <= p.x <= s.floor_right[floor] + .1:
        p.y = floor_height(s, floor, p.x) + .0001
        return
    action = p.action
    side = 1 if p.x > .5 * (s.floor_left[floor] + s.floor_right[floor]) else -1
    slow_walk = WALK_SLOW <= action <= WALK_FAST and abs(h.stick_x) < .6
    may_teeter = action == WAIT or slow_walk or action == CROUCH_START or action == CROUCH
    if stops_at_edge(action) or (p.facing == side and may_teeter):
        p.x = s.floor_right[floor] if side > 0 else s.floor_left[floor]
        p.self_vx_ground = 0
        if action < JAB_1 and p.facing == side:
            set_action(p, h, TEETER)
        return
    leave_ground(p, h)
    p.self_vx_air = p.self_vx_ground
    shielding = SHIELD_START <= action <= SHIELD_REFLECT
    following = c.walks_off_as[action]
    if in_damage(action) or (shielding and side * p.facing < 0):
        p.in_hitstun, p.hitstun = 0, 0
        set_action(p, h, MISS_FOOT)
    elif following == FALL or following == FALL_SPECIAL:
        set_action(p, h, following)
    elif following > 0:
        p.action = following                           # goes on in the air
    elif action < DAMAGE_FIRST or shielding or slides_off(action) or action == FURAFURA or action == GRAB_BREAK or \
            action == BREAK_FREE or action == REBOUND:
        p.self_vx_air = min(max(p.self_vx_ground, -c.air_max), c.air_max)  # a run does not carry on into the air
        set_action(p, h, FALL)


@jit
def stops_at_edge(action):
    """Ground attacks, grabs, throws, rolls and those who get up do not leave their floor."""
    return JAB_1 <= action <= DSMASH or GRAB <= action < GRAB_BREAK or THROW_FORWARD <= action <= THROW_DOWN or \
        (DOWN_BOUND_UP <= action <= TECH_BACKWARD and not slides_off(action)) or action == ROLL_FORWARD or \
        action == ROLL_BACKWARD


@jit
def slides_off(action):
    """Lying, and techs on the spot, do not stop at an edge; rolls and those who get up do."""
    return DOWN_BOUND_UP <= action <= DOWN_DAMAGE_UP or DOWN_BOUND_DOWN <= action <= DOWN_DAMAGE_DOWN or action == TECH


@jit
def shift(p, h, s, x, y):
    """Smash DI: the stage stops it. The frozen do not land; who stands does not leave his floor."""
    old_x, old_y = p.x, p.y
    floor = -1 if p.airborne else floor_under(p, s)
    p.x += x
    if not p.airborne:
        if floor >= 0:
            p.x = min(max(p.x, s.floor_left[floor]), s.floor_right[floor])
        return
    p.y += y
    for floor in range(s.num_floors):
        height = floor_height(s, floor, p.x)
        if old_y >= height - .001 and p.y < height and s.floor_left[floor] <= p.x <= s.floor_right[floor]:
            p.y = height + .0001
    if abs(p.x) < s.floor_right[0] and underside(s, p.x) < p.y < floor_height(s, 0, p.x):  # into the stage's side
        p.x, p.y = old_x, old_y


@jit
def ledge_motion(p, h, c, s, t):
    """Hanging: the pose is fixed to the corner. Getting up: the animation moves the character."""
    side = -p.facing
    corner = s.floor_right[0] * side
    height = floor_height(s, 0, corner)
    if p.action == LEDGE_CATCH or p.action == LEDGE_HANG:
        pose = 7 if p.action == LEDGE_HANG else min(h.action_frames, 6)
        p.x, p.y = corner + side * c.ledge_pose[pose, 0], height + c.ledge_pose[pose, 1]
    elif LEDGE_CLIMB_SLOW <= p.action <= LEDGE_JUMP and h.action_frames + 1 < MAX_FRAMES:
        row, learned = c.root_row[p.action], c.velocity_row[p.action]
        dx, dy = t.root_motion[row, h.action_frames + 1, 0], t.root_motion[row, h.action_frames + 1, 1]
        learned_x, learned_y = t.velocities[learned, h.action_frames, 1], t.velocities[learned, h.action_frames, 2]
        if learned and not np.isnan(learned_x + learned_y):
            dx, dy = learned_x, learned_y
        p.x += dx * p.facing
        p.y = p.y + dy if p.airborne else floor_height(s, 0, p.x) + .0001  # once on the stage, he stays on it
        if p.y > height - .05 and p.airborne and p.x * side < s.floor_right[0] and p.action < LEDGE_JUMP_SLOW:
            p.y, p.airborne, p.jumps = floor_height(s, 0, p.x) + .0001, 0, 2


@jit
def wind_direction(seed, frame_id):
    """Whispy blows now and then, to the left (1) or to the right (2) at random; 0 he does not."""
    period = frame_id // WIND_PERIOD
    start = period * WIND_PERIOD + 400 * random_uniform(seed, period, 70)
    if frame_id < 0 or not start <= frame_id < start + WIND_FRAMES:
        return 0
    return 1 if random_uniform(seed, period, 71) < .5 else 2


@jit
def blow(p, s, wind):
    """The wind pushes whoever stands or flies on its side of Whispy, outward, also who gets up from the ledge once he
    is on the stage; off his floor only who can leave it."""
    side = -1.0 if wind == 1 else 1.0
    free = p.hitlag <= 0 and p.action > REBIRTH_WAIT and not is_held(p.action)
    free = free and not (p.airborne and on_ledge(p.action))
    if free and (p.x - WIND_SPLIT) * side > 0 and WIND_LEFT < p.x < WIND_RIGHT and WIND_LOW < p.y < WIND_HIGH:
        floor = -1 if p.airborne else floor_under(p, s)
        p.x += WIND_SPEED * side
        if floor >= 0 and stops_at_edge(p.action):
            p.x = min(max(p.x, s.floor_left[floor]), s.floor_right[floor])


@jit
def past_blast_zone(p, s):
    """The death action, or -1."""
    if p.y < s.blast_bottom:
        return DEAD_DOWN
    if p.x < s.blast_left:
        return DEAD_LEFT
    if p.x > s.blast_right:
        return DEAD_RIGHT
    return DEAD_UP if p.y > s.blast_top and p.kb_vy > 0 else -1

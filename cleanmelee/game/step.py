"""One frame of whole games, from the parts of it to the whole, then a game's start and end.

The order is Melee's (step_player, act, move): hitlag, the end of the action, inputs, velocity, position,
stage, blast zone. Then, for both players at once (step_all): grabs, clanks, hits, items, hurtboxes.
"""

import functools

import numpy as np

from cleanmelee.frame import (
    BUTTON_A, BUTTON_B, CHARACTERS, CONTROLLER, FIRST_CONTROL_FRAME, FRAME, GAMEANDWATCH, NUM_PLAYERS, PLATFORM_LEFT,
    PLATFORM_RIGHT, STAGES, TIME_LIMIT,
)
from cleanmelee.game.actions import is_down_damage, is_grab, is_held, leave_ground, leaves_ledge, on_ledge, set_action
from cleanmelee.game.characters import MAX_FRAMES, NUM_ACTIONS, NUM_CHARACTERS
from cleanmelee.game.combat import (
    SHIELD_HEALTH, SHIELD_REGEN, SMASH_FRAMES, break_shield, clank, hit_test, press, push_back, rebound_frames,
)
from cleanmelee.game.compiler import jit, machine_code
from cleanmelee.game.controls import air_inputs, ground_inputs, hold_special, ledge_inputs, shot_due, shot_inputs
from cleanmelee.game.endings import GUARD_ANIMATION, LANDING_ANIMATION, action_length, end_of_action
from cleanmelee.game.grabs import connect, end_of_hitlag, smash_influence, step_grab
from cleanmelee.game.ids import *  # noqa: F403
from cleanmelee.game.inputs import read_controller
from cleanmelee.game.items import step_items
from cleanmelee.game.motion import air_velocity, ground_velocity, knockback_decay, slowed
from cleanmelee.game.randomness import random_uniform
from cleanmelee.game.stages import MOVING
from cleanmelee.game.state import HIDDEN
from cleanmelee.game.stored import update_stored
from cleanmelee.game.tables import TABLES
from cleanmelee.game.terrain import (
    blow, collide_in_air, floor_height, floor_under, held_ledge, ledge_motion, move_platforms, past_blast_zone,
    place_platforms, settle_ledge_tie, walk_off, wind_direction,
)


DEATH_FRAMES, STAR_FRAMES = 60, 176
THROW_GUARD = 8                                        # frames for which nobody can hit a thrower; measured, all throws
LEDGE_JUMP_FROM = .5, -2.0                             # a ledge jump's second half, from the corner; measured, +- 1
BOUNCE_FRAMES = 18                                     # measured, +- 2
REBOUND_ANIMATION = 30                                 # frames of the animation that fills a rebound, measured
PUSH_FADES = 1.1                                       # times the friction a frame: the push from a shield; public
REBIRTH_FRAMES = 60                                    # of the platform of light's way down
DODGE_LAG = 10                                         # frames of a landing from an air dodge
EMPTY_FRAME, EMPTY_HIDDEN = np.zeros(1, FRAME), np.zeros(1, HIDDEN)


@jit
def is_solid(p):
    """Stands in the other's way, also as he gets up from the ledge."""
    return not (p.airborne or p.hitlag > 1 or p.action <= REBIRTH_WAIT or is_held(p.action))


@jit
def is_pushed(p):
    """Who rolls, dodges or gets up from the ledge pushes, but is not pushed."""
    return not ROLL_FORWARD <= p.action <= SPOT_DODGE and not on_ledge(p.action)


@jit
def push_apart(a, b, reach):
    """Two grounded players closer than reach push each other .3 units a frame: the share of the first."""
    distance = a.x - b.x
    if abs(distance) >= reach or abs(a.y - b.y) > 1 or not is_solid(a) or not is_solid(b):
        return 0.0
    return .3 if distance > 0 else -.3


@jit
def step_dead(p, h, c, s, index):
    """Dying, longer as a star, then down on the platform of light, waiting there, and falling from it."""
    h.action_frames += 1
    p.state_age += c.age_rate[p.action]
    if p.action == SLEEP:
        return
    if p.action < REBIRTH:
        if p.action == DEAD_UP and h.action_frames > 1:
            p.y += p.self_vy
        if h.action_frames >= (STAR_FRAMES if p.action == DEAD_UP else DEATH_FRAMES):
            if p.stocks <= 0:
                set_action(p, h, SLEEP)
                return
            set_action(p, h, REBIRTH)
            p.x, p.y, p.airborne, p.percent = s.revive_x[index], s.revive_y, 1, 0
            p.facing = -1 if p.x >= 0 else 1
            p.kb_vx, p.kb_vy, p.self_vx_air, p.self_vy, p.self_vx_ground = 0, 0, 0, s.revive_vy, 0
            p.jumps, p.shield, p.fastfall = 1, SHIELD_HEALTH, 0
        return
    if p.action == REBIRTH:
        if h.action_frames < REBIRTH_FRAMES:
            p.y += p.self_vy
            return
        set_action(p, h, REBIRTH_WAIT)
        p.self_vy = 0
    if p.action == REBIRTH_WAIT:
        moved = h.stick_x != 0 or h.stick_y <= CROUCH_Y or h.stick_y >= JUMP_Y
        moved = moved or (h.buttons & (BUTTON_A | BUTTON_B | BUTTON_XY | BUTTON_LRZ)) != 0
        if moved or h.action_frames >= 240:
            set_action(p, h, FALL)
            h.hurt_kind, h.hurt_timer = 1, 120


@jit
def die(p, h, action):
    set_action(p, h, action)
    p.stocks = max(p.stocks - 1, 0)
    p.in_hitstun, p.hitstun, p.hitlag, p.fastfall = 0, 0, 0, 0
    p.self_vx_air, p.self_vy, p.self_vx_ground, p.kb_vx, p.kb_vy = 0, 0, 0, 0, 0
    h.stale[:] = 0
    h.hurt_timer, h.charge, h.bucket, h.bucket_damage = 0, 0, 0, 0


@jit
def shield_health(p, h):
    """Holding a shield costs .28 a frame at full press; otherwise it grows back."""
    raised = p.action == SHIELD_START or p.action == SHIELD_REFLECT
    if p.action == SHIELD or (raised and h.action_frames > 0):
        p.shield -= .14 * (.1 + 1.9 * press(h))
        if p.shield <= 0:
            break_shield(p, h)
    elif p.action != SHIELD_STUN and not raised:
        p.shield = min(p.shield + SHIELD_REGEN, SHIELD_HEALTH)


@jit
def update_hurtbox(p, h, c):
    """Invulnerable after respawn and when a throw begins; intangible on the ledge, in dodges, rolls and techs. On the
    platform of light nobody can be hit, and Slippi shows nothing of it."""
    p.hurtbox = h.hurt_kind if h.hurt_timer > 0 else 0
    action = p.action
    if THROW_FORWARD <= action <= THROW_DOWN and h.action_frames < THROW_GUARD:
        p.hurtbox = 1
    elif c.dodge_first[action] <= h.action_frames < c.dodge_last[action]:
        p.hurtbox = 2


@jit
def settle(p, h, c):
    """What else a frame shows of an action as Melee does: who bounces on the floor is in the air between, nobody has a
    ground speed there, and the animation frame where it begins, starts over, or stands still (animations.csv)."""
    action = p.action
    if action == DOWN_BOUND_UP or action == DOWN_BOUND_DOWN:
        p.airborne = 0 < h.action_frames <= BOUNCE_FRAMES
        p.jumps = 2 - p.airborne
    if p.airborne:
        p.self_vx_ground = 0
    if h.action_frames == 0 and p.state_age == 0:
        p.state_age = c.age_first[action]
    elif c.age_loop[action] > 0 and p.state_age >= c.age_loop[action]:
        p.state_age -= c.age_loop[action]
    elif c.age_last[action] > 0:
        p.state_age = min(p.state_age, c.age_last[action])


@jit
def step_player(p, h, c, s, t, index):
    h.old_x, h.old_y = p.x, p.y
    h.ledge_cooldown = max(0, h.ledge_cooldown - 1)
    h.combo_timer = max(0, h.combo_timer - 1)
    p.l_cancel, h.shot = 0, 0
    if p.action == DOWN_BOUND_UP or p.action == DOWN_BOUND_DOWN:
        p.airborne, p.jumps = 0, 2                     # the rules know of no bounce, see settle
    if p.airborne:
        h.air_frames += 1
    if p.action <= REBIRTH_WAIT:
        step_dead(p, h, c, s, index)
        if p.action == FALL:                           # he falls at once
            move(p, h, c, s, t, -1)
        return
    if p.hitlag > 0:
        p.hitlag = max(0, p.hitlag - 1)
        if p.hitlag > 0:
            smash_influence(p, h, s)
            return
        end_of_hitlag(p, h, s)
        if p.action == REBOUND_STOP:
            push_back(p, h)
            return
    if 322 <= p.action <= 324:                         # entry animations of recorded games
        return
    act(p, h, c, s, t)
    shield_health(p, h)
    death = past_blast_zone(p, s)
    if death >= 0:
        die(p, h, death)


@jit
def holds_smash(p, h, c):
    """A held on the right frame of a smash winds it up, for a second at most."""
    hold = c.smash_hold[p.action]
    return hold > 0 and h.action_frames == hold + 1 and h.smash_charge < SMASH_FRAMES and (h.buttons & BUTTON_A) != 0


@jit
def advance_animation(p, h, c):
    """The animation frame goes on: by one, or as fast as a lag, a weight or the feet have it."""
    action = p.action
    if action == LANDING_SPECIAL:                      # keeps the speed it has
        started = h.action_frames > 0
        p.state_age += p.state_age / h.action_frames if started else LANDING_ANIMATION / (h.landing_lag or DODGE_LAG)
    elif action == TURN_RUN and h.flag == 0 and p.state_age >= c.run_turn[0]:
        if p.self_vx_ground * p.facing <= 0:           # the animation waits until the speed has changed its sign
            p.facing, h.flag = -p.facing, 1
    elif action == SHIELD_STUN:
        started = h.action_frames > 0
        p.state_age += p.state_age / h.action_frames if started else GUARD_ANIMATION / max(h.guard_frames, 1)
    elif action == REBOUND:
        p.state_age += REBOUND_ANIMATION / rebound_frames(h)
    elif c.aerial_landing[action] >= 0:
        p.state_age += LANDING_ANIMATION / max(action_length(p, h, c), 1)
    elif THROW_FORWARD <= action <= THROW_DOWN and c.throw_by_weight[action - THROW_FORWARD]:
        p.state_age += p.state_age / (h.action_frames + 1)
    elif c.age_stride[action] > 0:                     # walks and runs, as fast as the feet
        p.state_age += c.age_stride[action] * abs(p.self_vx_ground) if h.action_frames > 0 else 1.0
    else:
        p.state_age += c.age_rate[action]


@jit
def act(p, h, c, s, t):
    before = p.action
    advance_animation(p, h, c)
    h.action_frames += 1
    if holds_smash(p, h, c):                           # the animation stands still
        p.state_age -= c.age_rate[before]
        h.action_frames -= 1
        h.smash_charge += 1
    end_of_action(p, h, c)
    floor = -1 if p.airborne else floor_under(p, s)
    if p.action == LEDGE_HANG:
        ledge_inputs(p, h)
    elif before != LEDGE_HANG and before != LEDGE_CATCH:
        if p.airborne:
            air_inputs(p, h, c)
        else:
            ground_inputs(p, h, c, floor > 0)
    if c.shot_type:
        shot_inputs(p, h, c)
        h.shot = shot_due(p, h, c)
    if c.hold_frames:
        hold_special(p, h, c)
    if is_held(p.action):
        return
    if on_ledge(p.action):
        ledge_motion(p, h, c, s, t)
        return
    if leaves_ledge(p.action) and h.action_frames == 0:
        p.airborne, p.self_vx_air, p.self_vy = 1, c.ledge_jump[0] * p.facing, c.ledge_jump[1]
        h.ledge_cooldown = LEDGE_COOLDOWN
        if c.root_row[p.action - 1] == 0 and c.velocity_row[p.action - 1] == 0:  # the way up to the corner is unknown
            corner = -s.floor_right[0] * p.facing
            p.x, p.y = corner - LEDGE_JUMP_FROM[0] * p.facing, floor_height(s, 0, corner) + LEDGE_JUMP_FROM[1]
            h.old_x, h.old_y = p.x, p.y
    move(p, h, c, s, t, floor)


@jit
def move(p, h, c, s, t, floor):
    old_x, old_y = h.old_x, h.old_y                    # before the shift at the end of hitlag: one way, one collision
    if p.action == DOWN_BOUND_UP or p.action == DOWN_BOUND_DOWN:
        p.airborne = 1 < h.action_frames <= BOUNCE_FRAMES + 1  # as the last frame shows: the slide fades as in the air
    knockback_decay(p, c)
    if c.rises[p.action] and not p.airborne and h.action_frames + 1 < MAX_FRAMES and \
            t.root_motion[c.root_row[p.action], h.action_frames + 1, 1] > .5:
        leave_ground(p, h)                             # an up special takes off
    if DOWN_BOUND_UP <= p.action <= TECH_BACKWARD and not is_down_damage(p.action):
        p.airborne = 0
    if p.airborne:
        h.shield_push = 0
        air_velocity(p, h, c, t)
        p.x += p.self_vx_air + p.kb_vx
        p.y += p.self_vy + p.kb_vy
        collide_in_air(p, h, c, s, old_x, old_y)
        return
    ground_velocity(p, h, c, t)
    on_slope = floor == 0 and s.slope_start < abs(p.x) < s.slope_start + s.slope_length
    along_slope = s.slope_cosine if on_slope else 1.0
    h.shield_push = slowed(h.shield_push, PUSH_FADES * c.friction)
    p.x += (p.self_vx_ground + p.kb_vx + h.shield_push) * along_slope
    p.self_vx_air, p.self_vy = p.self_vx_ground, 0
    if p.action == DASH and h.action_frames == 0:      # the dash's speed comes after this frame's move
        p.self_vx_ground += c.dash_speed * p.facing
        if p.self_vx_ground * p.facing > c.dash_speed: # he was moving that way: nothing is added
            p.self_vx_ground = c.dash_speed * p.facing
    if floor >= 0:
        p.ground = floor
        walk_off(p, h, c, s, floor)
    elif p.ground < 0:                                 # let go where no floor is
        leave_ground(p, h)
        set_action(p, h, FALL)


@jit
def step_all(frames, hidden, controllers, tables, moving):
    """tables [1] WHOLE; moving [1] STAGE: room for the row of a stage whose floors move."""
    t = tables[0]
    for game in range(len(frames)):
        frame, secret = frames[game], hidden[game]
        s = t.stages[frame.stage if 0 <= frame.stage < NUM_STAGES else 32]
        p, q, hp, hq = frame.players[0], frame.players[1], secret.players[0], secret.players[1]
        c = t.characters[p.character if 0 <= p.character < NUM_CHARACTERS else 1]
        d = t.characters[q.character if 0 <= q.character < NUM_CHARACTERS else 1]
        frame.frame_id += 1
        action, action_frame, other_action, other_action_frame = p.action, p.action_frame, q.action, q.action_frame
        if frame.stage == FOUNTAIN or frame.stage == YOSHIS_STORY:
            moving[0] = s
            s = moving[0]
            move_platforms(frame, secret, s, t)
        frame.wind = wind_direction(secret.seed, frame.frame_id) if frame.stage == DREAM_LAND else 0
        push = push_apart(p, q, c.push_width + d.push_width)
        read_controller(hp, controllers[game, 0])
        read_controller(hq, controllers[game, 1])
        if p.character == GAMEANDWATCH or q.character == GAMEANDWATCH:
            hp.luck = random_uniform(secret.seed, frame.frame_id, 60)
            hq.luck = random_uniform(secret.seed, frame.frame_id, 61)
        hp.ledge_taken, hq.ledge_taken = held_ledge(q), held_ledge(p)
        step_player(p, hp, c, s, t, 0)
        step_player(q, hq, d, s, t, 1)
        if p.action == LEDGE_CATCH and q.action == LEDGE_CATCH:
            settle_ledge_tie(p, hp, q, hq, random_uniform(secret.seed, frame.frame_id, 62))
        if not p.airborne and not q.airborne:
            p.x += push if is_pushed(p) else 0
            q.x -= push if is_pushed(q) else 0
        if frame.wind:
            blow(p, s, frame.wind)
            blow(q, s, frame.wind)
        step_grab(p, hp, c, q, hq, d)
        step_grab(q, hq, d, p, hp, c)
        hp.hurt_timer, hq.hurt_timer = max(0, hp.hurt_timer - 1), max(0, hq.hurt_timer - 1)
        update_hurtbox(p, hp, c)                       # blows meet what this very frame's action is
        update_hurtbox(q, hq, d)
        clank(p, hp, c, q, hq, d, t)
        row, box = hit_test(p, hp, c, q, hq, d, t)         # both are looked up before either lands: ports are equal
        row_back, box_back = hit_test(q, hq, d, p, hp, c, t)
        if box >= 0 and box_back >= 0 and is_grab(p.action) and is_grab(q.action):  # only one gets hold of the other
            if random_uniform(secret.seed, frame.frame_id, 63) < .5:
                box = -1
            else:
                box_back = -1
        attack_id, attack_id_back = c.attack_id[p.action], d.attack_id[q.action]
        connect(p, hp, c, q, hq, d, t.hitboxes[row], box, attack_id)
        connect(q, hq, d, p, hp, c, t.hitboxes[row_back], box_back, attack_id_back)
        step_items(frame, secret, c, d, s, t)
        for index in range(2):
            player, secrets = frame.players[index], secret.players[index]
            own = c if index == 0 else d
            update_hurtbox(player, secrets, own)
            if 0 <= player.action < NUM_ACTIONS:
                settle(player, secrets, own)
                player.action_frame = int(player.state_age) + own.zero_indexed[player.action]
        update_stored(frame.stored[0], p, action, action_frame, frame.items, 0)
        update_stored(frame.stored[1], q, other_action, other_action_frame, frame.items, 1)


def step_games(frames, hidden, controllers, tables=TABLES):
    """One frame for all games, in place. frames [N] FRAME, hidden [N] HIDDEN, controllers [N, 2] CONTROLLER."""
    plain = frames.dtype is FRAME and hidden.dtype is HIDDEN and controllers.dtype is CONTROLLER and \
        frames.ndim == 1 and hidden.ndim == 1 and controllers.ndim == 2 and \
        frames.flags.c_contiguous and hidden.flags.c_contiguous and controllers.flags.c_contiguous
    step = step_plain() if plain else step_all
    step(frames, hidden, controllers, tables.whole, MOVING.row)


@functools.cache
def step_plain():
    """step_all for what it is mostly given: whole arrays, as numpy makes them."""
    controllers = np.zeros((0, NUM_PLAYERS), CONTROLLER)
    return machine_code(step_all, np.zeros(0, FRAME), np.zeros(0, HIDDEN), controllers, TABLES.whole, MOVING.row)


def reset_games(frames, hidden, mask, characters, stages, seeds):
    """Start a new game wherever mask is set. characters [N, 2] internal ids, stages [N] Slippi ids, seeds [N] u64."""
    wanted = np.asarray(characters)[mask]
    unknown = set(np.unique(wanted)) - set(CHARACTERS.values())
    if unknown:
        raise ValueError(f"unknown character ids {sorted(map(int, unknown))}; the game knows {CHARACTERS}")
    unknown = set(np.unique(np.asarray(stages)[mask])) - set(STAGES.values())
    if unknown:
        raise ValueError(f"unknown stage ids {sorted(map(int, unknown))}; the game knows {STAGES}")
    reset_all(frames, hidden, np.asarray(mask, np.bool_), np.asarray(characters, np.int64),
              np.asarray(stages, np.int64), np.asarray(seeds, np.uint64), EMPTY_FRAME, EMPTY_HIDDEN,
              TABLES.whole, MOVING.row)


@jit
def reset_all(frames, hidden, mask, characters, stages, seeds, empty_frame, empty_hidden, tables, moving):
    t = tables[0]
    for game in range(len(frames)):
        if not mask[game]:
            continue
        frames[game], hidden[game] = empty_frame[0], empty_hidden[0]
        moving[0] = t.stages[stages[game]]
        frame, s = frames[game], moving[0]
        frame.frame_id, frame.stage, hidden[game].seed = FIRST_CONTROL_FRAME - 1, stages[game], seeds[game]
        if frame.stage == FOUNTAIN:
            frame.platform_left, frame.platform_right = PLATFORM_LEFT, PLATFORM_RIGHT
        place_platforms(frame, frame.frame_id, s, t)
        for index in range(2):
            p, h = frame.players[index], hidden[game].players[index]
            p.x, p.ground, p.y = s.spawn_x[index], 0, floor_height(s, 0, s.spawn_x[index])
            for floor in range(s.num_floors):          # down to the floor below the spawn
                below = p.y < s.floor_y[floor] <= s.spawn_y[index]
                if below and s.floor_left[floor] <= p.x <= s.floor_right[floor]:
                    p.y, p.ground = s.floor_y[floor], floor
            p.y += .0001
            p.facing = 1 if p.x < 0 else -1
            p.character, p.port, p.present, p.stocks, p.jumps = characters[game, index], index, 1, 4, 2
            p.shield, p.action, p.last_hit_by = SHIELD_HEALTH, WAIT, 6
            p.state_age = t.characters[p.character].age_first[WAIT]
            p.action_frame = int(p.state_age) + t.characters[p.character].zero_indexed[WAIT]
            h.tilt_x_age, h.tilt_y_age, h.trigger_age = MAX_TIMER, MAX_TIMER, MAX_TIMER
            h.judge_before = 1                         # neither 1 nor 2 comes first


def game_over(frames):
    """[N] bool: somebody has no stocks left, or the clock ran out."""
    return (frames["players"]["stocks"] <= 0).any(1) | (frames["frame_id"] >= TIME_LIMIT)

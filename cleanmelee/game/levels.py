"""Scripted levels 1 to 9: fixed opponents of rising strength, who see the other some frames late."""

import numpy as np

from cleanmelee.frame import BUTTON_A, BUTTON_B, BUTTON_L, BUTTON_R, BUTTON_X, BUTTON_Z, NUM_ITEMS
from cleanmelee.game.actions import in_damage, is_held, on_ledge
from cleanmelee.game.characters import NUM_ACTIONS
from cleanmelee.game.combat import is_shielding, knockback
from cleanmelee.game.compiler import bot_jit
from cleanmelee.game.endings import LANDING_ANIMATION
from cleanmelee.game.ids import *  # noqa: F403
from cleanmelee.game.inputs import clear_controller
from cleanmelee.game.knowledge import (
    FAR_RISE, FIRST_LEVEL, MAX_DELAY, NUM_SWINGS, SWING_AIR_SPECIAL, SWING_BAIR, SWING_DAIR, SWING_DASH,
    SWING_DASH_GRAB, SWING_DSMASH, SWING_DTILT, SWING_FAIR, SWING_FSMASH, SWING_FTILT, SWING_GRAB, SWING_JAB,
    SWING_NAIR, SWING_SPECIAL, SWING_UAIR, SWING_USMASH, SWING_UTILT,
)
from cleanmelee.game.randomness import random_uniform

# ---------------------------------------------------------------------------------------------------------------------
# Eyes. Its own character a player knows at once; the other, and what is done to him, he sees `delay` frames late.
# ---------------------------------------------------------------------------------------------------------------------

FREE, CAPTIVE, FLUNG, GUARDING = 0, 1, 2, 3            # what the other has done to me


@bot_jit
def see(bot, frame, index, delay):
    """Takes the other's state into memory; -> the slot of the one that is `delay` frames old."""
    foe, slot = frame.players[1 - index], bot.looks % (MAX_DELAY + 1)
    seen = bot.seen[slot]
    seen.x, seen.y, seen.facing, seen.percent = foe.x, foe.y, foe.facing, foe.percent
    seen.vx = foe.self_vx_air if foe.airborne else foe.self_vx_ground
    seen.vy, seen.kb_vx, seen.kb_vy = foe.self_vy if foe.airborne else 0, foe.kb_vx, foe.kb_vy
    seen.action, seen.action_frame, seen.airborne = foe.action, foe.action_frame, foe.airborne
    seen.stun, seen.hurtbox, seen.character = foe.hitstun + foe.hitlag, foe.hurtbox, foe.character
    seen.shot_vx, nearest = 0, 90.0
    for item in range(NUM_ITEMS):
        shot, me = frame.items[item], frame.players[index]
        away = shot.x - me.x
        if shot.present and shot.owner == 1 - index and shot.vx * away < 0 and abs(away) < nearest and \
                -4 < shot.y - me.y < 20:
            nearest, seen.shot_x, seen.shot_vx = abs(away), shot.x, shot.vx
    bot.looks += 1
    return (bot.looks - 1 - min(delay, bot.looks - 1)) % (MAX_DELAY + 1)


@bot_jit
def condition(p):
    if is_held(p.action):
        return CAPTIVE
    if in_damage(p.action) or p.action == TUMBLE:
        return FLUNG
    return GUARDING if p.action == SHIELD_STUN else FREE


@bot_jit
def feel(bot, me):
    """Counts the frames since the other last did something to me."""
    now = condition(me)
    struck = now != FREE and (now != bot.condition or me.hitlag > bot.hitlag)
    bot.since_struck = 0 if struck else min(bot.since_struck + 1, MAX_TIMER)
    bot.condition, bot.hitlag = now, me.hitlag


@bot_jit
def foresee(seen, c, frames, floor, edge):
    """Where the other will be in so many frames, if he does nothing new: (x, y)."""
    x, y = seen.x, seen.y
    if seen.airborne == 0:
        slide = min(frames, 12.0) if WALK_SLOW <= seen.action <= RUN else min(frames, 6.0) * .6
        return min(max(x + seen.vx * slide, -edge), edge) if abs(x) <= edge else x, y
    speed = np.sqrt(seen.kb_vx ** 2 + seen.kb_vy ** 2)
    pushed = min(frames, speed / .051)
    share = pushed - .0255 * pushed * pushed / max(speed, .051)  # frames at the first speed that go as far
    x += seen.vx * frames + seen.kb_vx * share
    falling = min(frames, max(0.0, (seen.vy + c.fall_max) / c.gravity))
    y += seen.vy * falling - .5 * c.gravity * falling * falling - c.fall_max * (frames - falling) + seen.kb_vy * share
    return x, max(y, floor) if abs(x) < edge and seen.y > floor - 3 else y


@bot_jit
def swing_of(swings, character, action):
    for index in range(NUM_SWINGS):
        if swings[character, index].first and swings[character, index].action == action:
            return index
    return -1


@bot_jit
def busy_frames(seen, c, swings, delay):
    """For how long the other cannot answer, as far as can be told."""
    if seen.action <= REBIRTH_WAIT:
        return 0.0
    if seen.stun > 0 and in_damage(seen.action):
        return seen.stun - delay
    if DOWN_BOUND_UP <= seen.action < SPOT_DODGE or SHIELD_BREAK_FLY <= seen.action <= FURAFURA:
        return 12.0
    swing = swing_of(swings, seen.character, seen.action)
    if swing >= 0:
        return swings[seen.character, swing].frames - seen.action_frame - delay
    landing = c.aerial_landing[seen.action] if 0 <= seen.action < NUM_ACTIONS else -1
    left = 1 - min(seen.action_frame / LANDING_ANIMATION, 1.0)
    return c.landing_lag[landing] * .5 * left - delay if landing >= 0 else 0.0


@bot_jit
def threat(me, mine, seen, c, swings, delay, error, floor, edge):
    """Frames until the swing that the other is seen to make reaches me, -1 if it does not: (frames, last, a grab)."""
    index = swing_of(swings, seen.character, seen.action)
    if index < 0:
        return -1.0, 0.0, False
    swing, now = swings[seen.character, index], seen.action_frame + delay
    if now > swing.last:
        return -1.0, 0.0, False
    wait = max(swing.first - now, 0.0)
    x, y = foresee(seen, c, delay + wait, floor, edge)
    rel, up = (me.x - x) * seen.facing, me.y - y
    hits = swing.back - 7 - error < rel < swing.front + 7 + error and swing.low - mine.height < up < swing.high + 3
    return (wait if hits else -1.0), swing.last - now, index == SWING_GRAB or index == SWING_DASH_GRAB


# ---------------------------------------------------------------------------------------------------------------------
# Striking
# ---------------------------------------------------------------------------------------------------------------------


@bot_jit
def kills(swing, percent, c, x, y, side, s):
    """Does the blow carry over a blast zone? Launch speed falls by .051 a frame."""
    damage, angle = swing.damage, 44.0 if swing.angle == 361 else swing.angle
    force = knockback(percent, damage, damage, c.weight, swing.growth, 0, swing.base)
    way = (.03 * force) ** 2 / .102
    across, up = way * np.cos(angle * np.pi / 180), way * np.sin(angle * np.pi / 180)
    room = s.blast_right - x if side * across > 0 else x - s.blast_left
    return abs(across) > room or .6 * up > s.blast_top - y


@bot_jit
def swing_usable(index, action, airborne):
    if airborne:
        return SWING_NAIR <= index <= SWING_DAIR or index == SWING_AIR_SPECIAL
    if action == DASH or action == RUN:
        return index == SWING_DASH or index == SWING_DASH_GRAB or (action == DASH and index == SWING_FSMASH)
    return index < SWING_DASH or index == SWING_SPECIAL


@bot_jit
def best_swing(bot, me, seen, level, k, t, s, frame_id, guarding, busy):
    """The swing with the best prospect of reaching the other where he will be: (index, worth), -1 none does."""
    c, d = t.characters[me.character], t.characters[seen.character]
    floor, edge = s.floor_y[0], s.floor_right[0]
    best, worth = -1, 0.0
    shielding = is_shielding(seen.action)
    miss = level.error * (2 * random_uniform(bot.seed, frame_id, 11) - 1)
    for index in range(NUM_SWINGS):
        swing = k.swings[me.character, index]
        if swing.first == 0 or not swing_usable(index, me.action, me.airborne == 1):
            continue
        grabs = index == SWING_GRAB or index == SWING_DASH_GRAB
        if guarding and index != SWING_GRAB:
            continue
        wait = swing.first + 1.0
        x, y = foresee(seen, d, level.delay * level.foresight + wait, floor, edge)
        if me.airborne:
            own_x = me.x + me.self_vx_air * wait
            own_y = me.y + max(me.self_vy * wait - .5 * c.gravity * wait * wait, -c.fall_max * wait)
            if own_y < floor - 1 and abs(me.x) < edge:
                continue                               # lands before it comes out
        else:
            own_x, own_y = me.x + me.self_vx_ground * min(wait, 8.0) * (1.0 if index == SWING_DASH else .5), me.y
        side = 1.0 if x > me.x else -1.0
        facing = side if index == SWING_FSMASH else me.facing
        ahead, up = (x - own_x) * facing, y - own_y
        margin = 1 if grabs else 3.5                   # half a body
        reaches = swing.back - margin < ahead + miss < swing.front + margin and \
            swing.low - d.height * .9 < up < swing.high - 1
        if not reaches or (grabs and (seen.airborne or 75 <= seen.action <= 200)):
            continue
        value = swing.damage
        if grabs:
            value = 16.0 if shielding else 9.0 if random_uniform(bot.seed, frame_id // 16, 12) < level.grab else 0.0
        elif shielding:
            value *= .3
        elif random_uniform(bot.seed, frame_id // 64, 13) < level.combo and kills(
                swing, seen.percent, d, x, y, side if swing.angle < 90 or swing.angle == 361 else -side, s):
            value += 14
        if wait <= busy:
            value += 5
        else:
            value -= level.combo * (.25 * wait + .15 * (swing.frames - swing.last))  # slow ones are seen coming
        if index == bot.last_swing:
            value *= .6                                # moves grow stale, and habits are read
        value += (2 + level.error) * random_uniform(bot.seed, frame_id, 20 + index)
        if value > worth:
            best, worth = index, value
    return best, worth


@bot_jit
def press_swing(pad, index, me, side, style):
    """The inputs of a swing; the stick stays as it is where the swing does not need it."""
    pad.c_x, pad.c_y = 0, 0
    if index == SWING_JAB or index == SWING_NAIR:
        pad.main_x, pad.main_y, pad.buttons = 0, 0, BUTTON_A
    elif index == SWING_FTILT:
        pad.main_x, pad.main_y, pad.buttons = .5 * me.facing, 0, BUTTON_A
    elif index == SWING_UTILT or index == SWING_DTILT:
        pad.main_x, pad.main_y, pad.buttons = 0, .5 if index == SWING_UTILT else -.5, BUTTON_A
    elif index == SWING_DASH:
        pad.main_x, pad.main_y, pad.buttons = .6 * me.facing, 0, BUTTON_A
    elif index == SWING_GRAB or index == SWING_DASH_GRAB:
        pad.main_y, pad.buttons = 0, BUTTON_Z
    elif index == SWING_FSMASH:
        pad.c_x = side
    elif index == SWING_FAIR:
        pad.c_x = me.facing
    elif index == SWING_BAIR:
        pad.c_x = -me.facing
    elif index == SWING_USMASH or index == SWING_UAIR:
        pad.c_y = 1
    elif index == SWING_DSMASH or index == SWING_DAIR:
        pad.c_y = -1
    else:
        press_special(pad, int(style.strike), side)


@bot_jit
def press_special(pad, direction, side):
    pad.main_x, pad.main_y, pad.buttons = 0, 0, BUTTON_B
    if direction == 2:
        pad.main_x = side
    elif direction >= 3:
        pad.main_y = 1 if direction == 3 else -1


# ---------------------------------------------------------------------------------------------------------------------
# In trouble
# ---------------------------------------------------------------------------------------------------------------------


@bot_jit
def chance(bot, probability, key, purpose):
    """The same draw for as long as the key stays: a decision once made is kept."""
    return random_uniform(bot.seed, key, purpose) < probability


@bot_jit
def hurt_inputs(bot, pad, me, level, frame_id, floor):
    """In hitlag and hitstun: DI across the launch, smash DI toward the stage's middle, a press before landing."""
    hit = frame_id - bot.since_struck
    speed = np.sqrt(me.kb_vx ** 2 + me.kb_vy ** 2)
    inward = -1.0 if me.x > 0 else 1.0
    pad.main_x = inward
    if speed > 0 and chance(bot, level.di, hit, 30):   # flat launches are bent up, steep ones toward the side
        x, y = -me.kb_vy / speed, me.kb_vx / speed
        turn = 1.0 if (y > 0) == (abs(me.kb_vx) > .6 * me.kb_vy) else -1.0
        pad.main_x, pad.main_y = turn * x, turn * y
    if me.hitlag > 1 and chance(bot, level.sdi, hit, 31):
        pad.main_x, pad.main_y = (inward, 0) if frame_id % 2 else (0, 0)
    landing = (me.y - floor) / max(-me.self_vy - me.kb_vy, .01)
    if me.hitlag == 0 and 0 < landing < 12 and bot.since_tech > TECH_LOCKOUT + 10 and chance(bot, level.tech, hit, 32):
        pad.buttons, pad.r, bot.since_tech = BUTTON_R, 1, 0
        pad.main_x, pad.main_y = np.floor(3 * random_uniform(bot.seed, hit, 33)) - 1, 0


@bot_jit
def captive_inputs(bot, pad, level, frame_id):
    """Mash: a button and a tilt, then nothing."""
    period = int(level.mash)
    if frame_id % period == 0:
        pad.buttons = BUTTON_A
    elif frame_id % period == period // 2:
        pad.main_x = 1 if frame_id // period % 2 else -1


@bot_jit
def floor_choice(bot, pad, me, level, frame_id):
    """Lying: after a moment one of stand, roll, attack."""
    if bot.wait > 0 or me.action_frame < 4 + level.think:
        return
    choice = random_uniform(bot.seed, frame_id, 34)
    bot.wait = 3
    if choice < .35:
        pad.main_y = 1
    elif choice < .55:
        pad.buttons = BUTTON_A
    else:
        pad.main_x = 1 if choice < .78 else -1


@bot_jit
def ledge_choice(bot, pad, me, level, frame_id):
    """Hanging: climb, roll, jump, attack, or let go and jump back."""
    if bot.wait > 0 or me.action_frame < 2 + .5 * level.delay * random_uniform(bot.seed, frame_id // 32, 35):
        return
    choice, inward = random_uniform(bot.seed, frame_id, 36), me.facing
    bot.wait = 3
    if choice < .35:
        pad.main_x = .5 * inward
    elif choice < .55:
        pad.buttons, pad.r = BUTTON_R, 1
    elif choice < .75:
        pad.buttons = BUTTON_X
    elif choice < .88:
        pad.buttons = BUTTON_A
    else:
        pad.main_x = -.5 * inward


@bot_jit
def recover(bot, pad, me, c, style, level, frame_id, s):
    """Back to the stage: drift, double jump once it is low, the side special that travels, at last the up special."""
    edge, floor = s.floor_right[0], s.floor_y[0]
    inward = -1.0 if me.x > 0 else 1.0
    out, height = abs(me.x) - edge, me.y - floor
    trip = frame_id - bot.off_stage
    skilled = chance(bot, level.recover, trip, 40)
    late = 0.0 if skilled else 60 * random_uniform(bot.seed, trip, 41) - 10  # units lower than would be wise
    blind = me.facing != inward                        # only who faces the ledge can catch it
    pad.main_x = inward
    if out < 4 and height < -6:                        # close to the wall or under the stage
        pad.main_x = -inward if out < 2 else 0
    if me.action == c.launch_actions[0] or me.action == c.launch_actions[1]:
        aim_x, aim_y = max(out + 8, 0.0), 10 - height
        length = max(np.sqrt(aim_x ** 2 + aim_y ** 2), 1.0)
        pad.main_x, pad.main_y = inward * aim_x / length, aim_y / length
        return
    if not can_act_in_air(me, c) or bot.wait > 0:
        return
    falling = me.self_vy + me.kb_vy < 0
    if me.jumps > 0:
        if falling and (height < (4 if blind else -8) - late or (out > 50 and height < 20) or not skilled):
            pad.buttons, bot.wait = BUTTON_X, 4
    elif c.special_start[1, 3] == 0:                   # nothing that rises: an air dodge is the last hope
        if falling and height < -4 and out < 25:
            pad.main_x, pad.main_y, pad.buttons, pad.r, bot.wait = .7 * inward, .7, BUTTON_L, 1, 10
    elif falling and style.side_reach > 0 and 3 < height < 45 and 12 < out < style.side_reach:
        press_special(pad, 2, inward)
        bot.wait = 10
    elif falling and (height < (-.1 if blind else -.45) * style.up_rise - late or
                      (out > .7 * style.up_reach and height < .5 * style.up_rise)):
        press_special(pad, 3, inward)
        bot.wait = 10


@bot_jit
def can_return(me, c, floor, edge):
    """From an edge-guard: the double jump still leads back above the stage."""
    speed = c.full_hop * c.double_jump if c.double_jump > 0 else 2.3
    rise, width = speed * speed / (2 * c.gravity), c.air_max * 2 * speed / c.gravity
    return me.jumps > 0 and me.y + 6 * me.self_vy > floor + 10 - .8 * rise and \
        abs(me.x + 6 * me.self_vx_air) < edge + .5 * width


@bot_jit
def can_act_in_air(me, c):
    action = me.action
    if c.aerial[action] >= 0:
        return 0 < c.interruptible[action] <= me.action_frame + 1
    return JUMP_FORWARD <= action <= 34 or action == PLATFORM_DROP or \
        (action == TUMBLE or DAMAGE_FIRST <= action < DAMAGE_FLY_HIGH) and me.in_hitstun == 0


# ---------------------------------------------------------------------------------------------------------------------
# In control
# ---------------------------------------------------------------------------------------------------------------------


@bot_jit
def air_choice(bot, pad, me, seen, c, style, level, k, t, s, frame_id, goal):
    """In the air above the stage, or out for an edge-guard: drift, strike, fall fast, L-cancel."""
    floor, edge = s.floor_y[0], s.floor_right[0]
    pad.main_x = 1.0 if goal > me.x + 2 else -1.0 if goal < me.x - 2 else 0
    if abs(me.x + 12 * me.self_vx_air) > edge and pad.main_x * me.x > 0 and not bot.chasing:
        pad.main_x = -pad.main_x                       # not over the edge
    swinging, jump = c.aerial[me.action] >= 0, frame_id - me.action_frame
    drop = (me.y - floor) / max(-me.self_vy, .01)
    if swinging and 1 < drop < 6 and bot.since_tech > 12 and chance(bot, level.l_cancel, jump // 4, 50):
        pad.l, bot.since_tech = .5, 0                  # not a digital press: that would be an air dodge
    falling = me.self_vy < 0 and me.fastfall == 0 and me.in_hitstun == 0
    if falling and drop > 4 and abs(me.x) < edge - 5 and me.y < floor + 45 and bot.wait == 0 and (
            swinging or seen.y < me.y - 10) and chance(bot, level.fast_fall, frame_id // 20, 51):
        pad.main_x, pad.main_y, bot.wait = 0, -1, 2
    if not can_act_in_air(me, c) or bot.wait > 0 or seen.hurtbox:
        return
    if chance(bot, 1 / (1 + .5 * level.think), frame_id, 52):
        swing, _ = best_swing(bot, me, seen, level, k, t, s, frame_id, False, busy_frames(
            seen, t.characters[seen.character], k.swings, level.delay))
        if swing >= 0:
            press_swing(pad, swing, me, me.facing, style)
            bot.last_swing = swing
            bot.wait = 2
            return
    if me.jumps > 0 and seen.y > me.y + 12 and abs(seen.x - me.x) < 30 and me.self_vy < .3 and \
            chance(bot, .15 * level.combo, frame_id, 53):
        pad.buttons, bot.wait = BUTTON_X, 6


@bot_jit
def is_ready(me, c):
    """Stands, walks or has just come out of something: everything may start."""
    action = me.action
    if action == LANDING:
        return me.action_frame >= c.landing
    if JAB_1 <= action <= DSMASH or c.aerial_landing[action] >= 0 or c.attack_id[action] > 0:
        return 0 < c.interruptible[action] <= me.action_frame + 1
    return WAIT <= action <= RUN or CROUCH_START <= action <= CROUCH_END or TEETER <= action <= TEETER_WAIT


@bot_jit
def guard_choice(bot, pad, me, seen, level, k, t, s, frame_id):
    """Behind the shield: wait for the blow, then grab, jump, roll or let go."""
    if bot.guard > 0:
        bot.guard -= 1
        pad.buttons, pad.r = BUTTON_R, 1
        return
    busy = busy_frames(seen, t.characters[seen.character], k.swings, level.delay)
    swing, _ = best_swing(bot, me, seen, level, k, t, s, frame_id, True, busy)
    choice = random_uniform(bot.seed, frame_id, 60)
    if me.action == SHIELD_STUN or bot.wait > 0:
        pad.buttons, pad.r = BUTTON_R, 1
    elif swing >= 0 and (busy > 6 or choice < level.grab):
        pad.buttons, pad.r, bot.wait = BUTTON_Z | BUTTON_R, 1, 3
    elif abs(seen.x - me.x) < 25 and choice < .25:
        pad.buttons, pad.r, bot.wait = BUTTON_X | BUTTON_R, 1, 3
    elif abs(seen.x - me.x) < 25 and choice < .35:
        pad.buttons, pad.r, pad.main_x, bot.wait = BUTTON_R, 1, 1 if me.x < 0 else -1, 6
    else:
        bot.wait = 4


@bot_jit
def hold_choice(bot, pad, me, seen, level, t, s, frame_id):
    """Holding the other, once it is noticed: pummel a little, then the throw that kills or does most."""
    if not is_held(seen.action) or bot.wait > 0 or me.action != HOLD:
        return
    if chance(bot, min(.6, seen.percent / 200), frame_id, 61):
        pad.buttons, bot.wait = BUTTON_A, 6
        return
    c, d = t.characters[me.character], t.characters[seen.character]
    best, worth = 0, -1.0
    for way in range(4):
        side = -me.facing if way == 1 else me.facing
        damage, angle = c.throw_damage[way], c.throw_angle[way]
        force = knockback(seen.percent, damage, damage, 100, c.throw_growth[way], 0, c.throw_base[way])
        travel = (.03 * force) ** 2 / .102
        out = me.x * side + travel * np.cos(angle * np.pi / 180)
        value = damage + c.throw_strike[way] + (8 if out > s.floor_right[0] + 10 else 0)
        value += 20 if out > s.blast_right or .6 * travel * np.sin(angle * np.pi / 180) > s.blast_top else 0
        value += (4 + level.error) * random_uniform(bot.seed, frame_id, 62 + way)
        if value > worth and d.weight > 0:
            best, worth = way, value
    bot.wait = 3
    if best < 2:
        pad.main_x = me.facing if best == 0 else -me.facing
    else:
        pad.main_y = 1 if best == 2 else -1


@bot_jit
def go(bot, pad, me, c, s, goal, run):
    """One step along the floor toward the goal: dash if it is far and the edge is not near, else walk."""
    way = goal - me.x
    side = 1.0 if way > 0 else -1.0
    under = me.ground if 0 < me.ground < s.num_floors else 0
    left, right = s.floor_left[under], s.floor_right[under]
    room = right - me.x if side > 0 else me.x - left
    speed = me.self_vx_ground * side
    brake = speed * speed / (2 * c.friction) if speed > 0 else 0.0
    if abs(way) < 3 or room < 4 + min(brake, 25.0):
        if (me.action == DASH or me.action == RUN) and room < 8 + brake and speed > 0:
            pad.main_x = -side                         # turn before the edge
        return
    dashing = me.action == DASH or me.action == RUN or me.action == TURN_RUN
    if run and abs(way) > 14 and room > 25:
        fresh = abs(bot.stick_x) < TILT or bot.stick_x * side < 0
        pad.main_x = side if dashing or fresh or me.action == TURN else 0.0
    elif not dashing:
        pad.main_x = .6 * side if room > 8 else .4 * side


@bot_jit
def defend(bot, pad, me, seen, c, level, k, t, s, frame_id):
    """Answers the blow or the shot that is seen coming; True if it does."""
    d = t.characters[seen.character]
    wait, last, grabs = threat(me, c, seen, d, k.swings, level.delay, level.error * .5, s.floor_y[0], s.floor_right[0])
    begun = frame_id - int(level.delay) - seen.action_frame
    if wait >= 0 and chance(bot, level.defend, begun, 70):
        if grabs or chance(bot, .15, begun, 71):
            pad.buttons, bot.wait = BUTTON_X, 3        # jump away
        else:
            pad.buttons, pad.r, bot.guard = BUTTON_R, 1, int(min(last + 2, 20.0))
        return True
    if seen.shot_vx != 0:
        arrives = abs(seen.shot_x - me.x) / abs(seen.shot_vx) - level.delay
        if -2 < arrives < 6 and chance(bot, level.defend * .8, frame_id // 24, 72):
            pad.buttons, pad.r, bot.guard = BUTTON_R, 1, 10
            return True
    x, y = foresee(seen, d, level.delay * level.foresight + 6, s.floor_y[0], s.floor_right[0])
    if seen.airborne and seen.vy < 0 and abs(x - me.x) < 16 and y < me.y + 18 and seen.stun <= 0 and \
            chance(bot, .35 * level.defend, frame_id // 30, 73):
        pad.buttons, pad.r, bot.guard = BUTTON_R, 1, 12
        return True
    return False


@bot_jit
def ground_choice(bot, pad, me, seen, c, style, level, k, t, s, frame_id, goal, busy):
    """On the floor and free: defend, strike, shoot, jump at the other, or move."""
    d = t.characters[seen.character]
    edge, far = s.floor_right[0], abs(seen.x - me.x)
    safe = seen.action <= REBIRTH_WAIT or seen.hurtbox == 1
    if bot.wait == 0 and not safe:
        if defend(bot, pad, me, seen, c, level, k, t, s, frame_id):
            return
        if chance(bot, 1 / (1 + .5 * level.think), frame_id, 80):
            swing, worth = best_swing(bot, me, seen, level, k, t, s, frame_id, False, busy)
            if swing >= 0 and not chance(bot, level.idle, frame_id // 32, 81):
                side = 1.0 if seen.x > me.x else -1.0
                press_swing(pad, swing, me, side, style)
                bot.last_swing = swing
                bot.wait = 3 + int(level.think)
                return
        x, y = foresee(seen, d, level.delay * level.foresight + 15, s.floor_y[0], edge)
        recovering = seen.airborne and edge < abs(x) < edge + 45 and -30 < y - me.y < 40
        if bot.plan == 5 and style.up_rise >= FAR_RISE and recovering and \
                abs(me.x) > edge - 25 and me.x * x > 0 and chance(bot, .2 * level.edge_guard, frame_id, 86):
            pad.buttons, bot.wait, bot.full_hop, bot.chasing = BUTTON_X, 2, y > me.y, 1
            return
        above = 14 < y - me.y < 75 and abs(x - me.x) < 30
        hop = .02 + .10 * level.short_hop if 18 < abs(x - me.x) < 55 and bot.plan == 1 else .004
        if chance(bot, .4 * level.combo if above else hop, frame_id, 82) and abs(me.x) < edge - 6:
            pad.buttons, bot.wait = BUTTON_X, 2
            bot.full_hop = y - me.y > 25 or not chance(bot, level.short_hop, frame_id, 83)
            return
        if style.shot and far > style.shot_from and abs(seen.y - me.y) < 20 and me.action < DASH and \
                chance(bot, level.shoot * .2, frame_id, 84):
            if me.facing * (seen.x - me.x) < 0:
                pad.main_x = -.5 * me.facing
            else:
                press_special(pad, int(style.shot), me.facing)
                bot.wait = 10
            return
    if me.ground > 0 and seen.y < me.y - 15 and far < 40 and me.action != DASH:
        pad.main_y = -1.0 if me.action == CROUCH_START or abs(bot.stick_y) < TILT else 0.0  # drop through
        return
    near = abs(goal - me.x) < 12
    if near and me.facing * (seen.x - me.x) < 0 and me.action <= WALK_FAST:
        pad.main_x = -.5 * me.facing                   # face him
        return
    go(bot, pad, me, c, s, goal, level.idle < .35 or chance(bot, .3, frame_id // 40, 85))


@bot_jit
def choose_goal(bot, me, seen, level, s, frame_id, x, busy):
    """Where it wants to be. plan: 1 at the other, 2 just out of his reach, 3 where it is, 4 the middle, 5 the ledge."""
    edge = s.floor_right[0]
    if bot.plan_frames > 0:
        bot.plan_frames -= 1
    else:
        draw = random_uniform(bot.seed, frame_id, 90)
        bot.plan_frames = 8 + int(3 * level.think * random_uniform(bot.seed, frame_id, 91)) + 10
        bot.plan = 3 if chance(bot, level.idle, frame_id, 92) else 1 if draw < level.approach else 2
    plan = bot.plan
    if busy > 6 and level.combo > 0 and plan != 3:
        plan = 1
    if seen.action <= REBIRTH_WAIT or seen.hurtbox == 1:
        plan = 4 if seen.action <= REBIRTH_WAIT else 2
    if abs(x) > edge + 3 and plan < 3:
        plan = 5 if chance(bot, level.edge_guard, frame_id // 90, 93) else 4
    bot.plan = plan if plan == 5 else min(bot.plan, 3)
    side = 1.0 if x > me.x else -1.0
    if plan == 1:
        return x - 6 * side
    if plan == 2:                                      # dash in and out of his reach
        sway = 14.0 if frame_id // 13 % 2 else -14.0
        return min(max(x - side * (38 + sway * (1 - level.idle)), -edge * .8), edge * .8)
    if plan == 5:
        return (edge - 9) * (1 if x > 0 else -1)
    return me.x if plan == 3 else min(max(x * .3, -20.0), 20.0)


@bot_jit
def decide(bot, pad, me, seen, c, style, level, k, t, s, frame_id, away):
    """What the state of the own character asks for."""
    action, d = me.action, t.characters[seen.character]
    busy = busy_frames(seen, d, k.swings, level.delay)
    x, _ = foresee(seen, d, level.delay * level.foresight, s.floor_y[0], s.floor_right[0])
    inward = -1.0 if me.x > 0 else 1.0
    if action <= REBIRTH_WAIT:
        if action == REBIRTH_WAIT and me.action_frame > 20 + 60 * random_uniform(bot.seed, frame_id // 512, 1):
            pad.main_x = inward
    elif bot.condition == CAPTIVE:
        captive_inputs(bot, pad, level, frame_id)
    elif in_damage(action) and (me.hitlag > 0 or me.in_hitstun):
        hurt_inputs(bot, pad, me, level, frame_id, s.floor_y[0])
    elif action == LEDGE_CATCH:
        return                                         # the stick goes back, to be tilted anew
    elif action == LEDGE_HANG:
        ledge_choice(bot, pad, me, level, frame_id)
    elif action == DOWN_WAIT_UP or action == DOWN_WAIT_DOWN:
        floor_choice(bot, pad, me, level, frame_id)
    elif GRAB <= action <= PUMMEL:
        hold_choice(bot, pad, me, seen, level, t, s, frame_id)
    elif action == c.charge_action[me.airborne]:       # shoots when it is charged, or when the other comes
        if c.shot_type == SHADOW_BALL and (abs(seen.x - me.x) < 45 or me.action_frame % 64 == 0 or
                                           chance(bot, .01, frame_id, 2)):
            pad.buttons = BUTTON_B
    elif action == JUMPSQUAT:
        pad.main_x = 1.0 if x > me.x else -1.0
        pad.buttons = BUTTON_X if bot.full_hop else 0
    elif SHIELD_START <= action <= SHIELD_STUN and action != SHIELD_RELEASE:
        guard_choice(bot, pad, me, seen, level, k, t, s, frame_id)
    elif away and not bot.chasing:
        recover(bot, pad, me, c, style, level, frame_id, s)
    elif me.airborne:
        goal = x if bot.plan != 2 or bot.chasing else choose_goal(bot, me, seen, level, s, frame_id, x, busy)
        air_choice(bot, pad, me, seen, c, style, level, k, t, s, frame_id, goal)
    elif is_ready(me, c):
        goal = choose_goal(bot, me, seen, level, s, frame_id, x, busy)
        ground_choice(bot, pad, me, seen, c, style, level, k, t, s, frame_id, goal, busy)
    elif JAB_1 <= action <= DSMASH and chance(bot, level.di, frame_id // 32, 3):
        pad.main_x, pad.main_y = .7 * inward, .7       # cannot act, may be punished: a stick held for the blow to come


@bot_jit
def level_bot(bot, frame, index, k, t, s):
    """One frame of a scripted level: look, feel, decide."""
    level = k.levels[bot.kind - FIRST_LEVEL + 1]
    me, pad = frame.players[index], bot.held
    seen = bot.seen[see(bot, frame, index, int(level.delay))]
    feel(bot, me)
    bot.wait, bot.since_tech = max(bot.wait - 1, 0), min(bot.since_tech + 1, MAX_TIMER)
    if bot.since_struck < level.delay:                 # not noticed yet: the stick stays, presses end
        pad.c_x, pad.c_y, pad.l, pad.buttons = 0, 0, 0, pad.buttons & BUTTON_R
        return
    c, edge, floor = t.characters[me.character], s.floor_right[0], s.floor_y[0]
    away = me.airborne == 1 and (abs(me.x) > edge or me.y < floor - 6) and not on_ledge(me.action)
    bot.off_stage = bot.off_stage + 1 if away else 0
    lost_track = seen.airborne == 0 or abs(seen.x) < edge
    if bot.chasing and (lost_track or me.action == WAIT or (me.airborne and not can_return(me, c, floor, edge))):
        bot.chasing = 0
    bot.stick_x, bot.stick_y = pad.main_x, pad.main_y
    clear_controller(pad)
    decide(bot, pad, me, seen, c, k.styles[me.character], level, k, t, s, frame.frame_id, away)

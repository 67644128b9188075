"""Bots: fixed opponents. They read the game only through frames and act only through controllers.

The beginner who presses at random, the attacker, and the way in for all of them; the levels have a file of their own.
"""

import numpy as np

from cleanmelee.frame import BUTTON_A, BUTTON_B, BUTTON_L, BUTTON_R, BUTTON_X, BUTTON_Y, BUTTON_Z
from cleanmelee.game.compiler import bot_jit
from cleanmelee.game.ids import *  # noqa: F403
from cleanmelee.game.inputs import clear_controller, copy_controller
from cleanmelee.game.knowledge import FIRST_LEVEL, KNOWLEDGE
from cleanmelee.game.levels import level_bot
from cleanmelee.game.randomness import random_uniform
from cleanmelee.game.stages import MOVING
from cleanmelee.game.tables import TABLES
from cleanmelee.game.terrain import place_platforms

RANDOM_BUTTONS = np.array([
    0, 0, 0, 0, 0, BUTTON_A, BUTTON_A, BUTTON_B, BUTTON_X, BUTTON_Y, BUTTON_L, BUTTON_R, BUTTON_Z])


@bot_jit
def random_bot(bot, frame_id):
    """Holds a random stick and button for two to fifteen frames, like a beginner."""
    if bot.wait > 0:
        bot.wait -= 1
        return
    seed = bot.seed
    clear_controller(bot.held)
    bot.wait = 2 + int(14 * random_uniform(seed, frame_id, 1))
    if random_uniform(seed, frame_id, 2) < .7:
        angle = 2 * np.pi * np.floor(8 * random_uniform(seed, frame_id, 3)) / 8
        tilt = 1.0 if random_uniform(seed, frame_id, 4) < .7 else .5
        bot.held.main_x, bot.held.main_y = tilt * np.cos(angle), tilt * np.sin(angle)
    choice = int(len(RANDOM_BUTTONS) * random_uniform(seed, frame_id, 5))
    bot.held.buttons = RANDOM_BUTTONS[choice]
    if bot.held.buttons & BUTTON_LR:
        bot.held.r = 1.0


@bot_jit
def attacker_bot(bot, me, foe, frame_id, edge):
    """Comes close, hits when the other is in reach, and finds back to the stage. Decides every few frames."""
    if bot.wait > 0:
        bot.wait -= 1
        if bot.wait % 4 == 1:                          # let buttons go, so that they can be pressed again
            bot.held.buttons = bot.held.buttons & BUTTON_XY
            bot.held.c_x, bot.held.c_y = 0, 0
        return
    seed, pad = bot.seed, bot.held
    clear_controller(pad)
    bot.wait = 4 + int(6 * random_uniform(seed, frame_id, 1))
    chance = random_uniform(seed, frame_id, 2)
    dx, dy = foe.x - me.x, foe.y - me.y
    side = 1.0 if dx > 0 else -1.0
    if abs(me.x) > edge - 1 and me.airborne:           # off the stage: toward it, jump, special upward
        pad.main_x = -1.0 if me.x > 0 else 1.0
        bot.wait = 2
        if me.action == LEDGE_HANG:
            pad.main_x, pad.buttons, bot.wait = 0, BUTTON_X, 12
        elif me.y < 0 and me.self_vy < 0 and me.jumps > 0:
            pad.buttons, bot.wait = BUTTON_X, 3
        elif me.y < -20 and me.jumps == 0 and me.action < 341:
            pad.main_y, pad.main_x, pad.buttons, bot.wait = 1.0, 0, BUTTON_B, 6
        return
    if me.action == 184 or me.action == 192:           # on the floor: get up, one way or another
        pad.main_y, bot.wait = 1.0, 4
        return
    if foe.action <= REBIRTH_WAIT or foe.hurtbox == 1:
        pad.main_x = -.5 if me.x > 10 else .5 if me.x < -10 else 0
        return
    outside = abs(foe.x) > edge - 3                    # do not follow over the edge
    if abs(dx) < 16 and -8 < dy < 12:
        if me.airborne:
            pad.c_x, bot.wait = side, 8
        elif me.facing != side and chance < .6:        # turn round
            pad.main_x, bot.wait = .5 * side, 2
        elif chance < .35:
            pad.buttons, bot.wait = BUTTON_A, 8
            pad.main_x = .5 * side if chance < .2 else 0
        elif chance < .65:
            pad.buttons, pad.main_y, bot.wait = BUTTON_A, -.5, 8
        elif chance < .78:
            pad.c_y, bot.wait = -1.0 if dy < 5 else 1.0, 10
        elif chance < .88:
            pad.c_x, bot.wait = side, 12
        elif chance < .94:
            pad.r, pad.buttons, bot.wait = 1.0, BUTTON_R, 10
        else:
            pad.main_x = .5 * side
    elif abs(dx) < 20 and dy >= 12:
        if me.airborne:
            pad.c_y, bot.wait = 1.0, 8
        elif chance < .6:
            pad.buttons, bot.wait = BUTTON_X, 8
        else:
            pad.c_y = 1.0
    elif me.airborne:
        pad.main_x = side
        if dy < -12 and abs(dx) < 12:
            pad.main_y = -1.0
    elif outside and abs(me.x) > edge - 20 and me.x * foe.x > 0:
        pad.main_x = -.5 if me.x > 0 else .5
    else:
        near_edge = me.x * side > edge - 18
        pad.main_x = 0 if me.x * side > edge - 5 else side * (.5 if near_edge or chance < .2 else 1.0)
        if chance > .93 and not near_edge:
            pad.buttons = BUTTON_X


@bot_jit
def run_bots(frames, bots, controllers, tables, k, moving):
    t = tables[0]
    for game in range(len(frames)):
        frame = frames[game]
        moving[0] = t.stages[frame.stage if 0 <= frame.stage < NUM_STAGES else 32]
        s = moving[0]
        place_platforms(frame, frame.frame_id, s, t)
        for index in range(2):
            bot = bots[game, index]
            if bot.kind <= 0:
                continue
            if bot.kind == 2:
                random_bot(bot, frame.frame_id)
            elif bot.kind == 3:
                attacker_bot(bot, frame.players[index], frame.players[1 - index], frame.frame_id,
                             s.floor_right[0])
            elif bot.kind >= FIRST_LEVEL:
                level_bot(bot, frame, index, k, t, s)
            else:
                clear_controller(bot.held)
            copy_controller(bot.held, controllers[game, index])


def bot_controllers(frames, bots, controllers):
    """Write the next controller of every slot with a bot. bots, controllers [N, 2]."""
    run_bots(frames, bots, controllers, TABLES.whole, KNOWLEDGE, MOVING.row)

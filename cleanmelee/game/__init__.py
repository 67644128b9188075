"""The embedded game: Melee's rules as scalar numba code over arrays of frames. No ISO needed.

Where to find what, each file above those that it uses:

    ids          the vocabulary: actions, items, stages, where the stick begins to count
    state        HIDDEN: what Slippi does not show, and the rules need
    characters   a row per character: attributes, specials, projectiles
    stages       a row per stage: floors, blast zones, spawns
    tables       TABLES: those rows, data/ and libmelee's frame data as arrays
    compiler     how functions are compiled, and where machine code and tables are kept
    randomness   a random number for a seed, a frame and a purpose
    actions      how an action begins, and what kind of action an id is

and the rules, in the order in which a frame meets them:

    inputs       the controller: dead zones, fresh presses, how long the stick has been out
    endings      an action runs out: how long it lasts, what follows
    starts       what inputs start: attacks, specials, jumps, shields
    controls     what inputs make of the action that is on (a dash back: dash_inputs and turn_inputs)
    motion       velocity: gravity, drift, friction, specials of their own
    terrain      position: floors, walls, ledges, platforms that move, wind, blast zones
    combat       hits: hitboxes and bodies, damage, knockback, shields
    grabs        grabs and throws, and what the victim can do about a blow
    items        projectiles and what is held in the hand
    stored       what a character keeps in store, as frames of any source tell
    step         the whole frame; a game's start and end

and beside them the bots, who see frames and press buttons:

    knowledge    who they are, what they remember, how good each level is
    levels       levels 1 to 9
    bots         the random one, the attacker, and the way in for all
"""

import numpy as np

from cleanmelee.frame import *  # noqa: F403
from cleanmelee.game.bots import bot_controllers
from cleanmelee.game.combat import STALE_STEPS
from cleanmelee.game.ids import *  # noqa: F403
from cleanmelee.game.knowledge import BOT, BOTS
from cleanmelee.game.randomness import random_uniform
from cleanmelee.game.state import HIDDEN
from cleanmelee.game.step import game_over, reset_games, step_games
from cleanmelee.game.stored import STORES, follow
from cleanmelee.game.tables import TABLES
from cleanmelee.game.terrain import floor_height


def warm_up():
    """Compile everything now, or load what an earlier start has kept; says on stderr if it has to compile."""
    frames, hidden = np.zeros(1, FRAME), np.zeros(1, HIDDEN)
    bots, controllers = np.zeros((1, 2), BOT), np.zeros((1, 2), CONTROLLER)
    bots["kind"] = BOTS["random"]
    reset_games(frames, hidden, np.ones(1, bool), np.full((1, 2), FOX), np.full(1, FINAL_DESTINATION),
                np.zeros(1, np.uint64))
    bot_controllers(frames, bots, controllers)
    step_games(frames, hidden, controllers)
    follow(frames)
    random_uniform(np.uint64(0), 0, 0)

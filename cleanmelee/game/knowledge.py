"""Bots: who they are, what they remember and know. The tables are public; a game's state comes through frames."""

import collections

import numpy as np

from cleanmelee.frame import (
    CAPTAIN_FALCON, CONTROLLER, FALCO, FOX, GAMEANDWATCH, GANONDORF, LINK, MARTH, MEWTWO, SHEIK, ZELDA,
)
from cleanmelee.game.characters import NUM_CHARACTERS
from cleanmelee.game.endings import UNKNOWN_LENGTH
from cleanmelee.game.ids import *  # noqa: F403
from cleanmelee.game.tables import TABLES

# ---------------------------------------------------------------------------------------------------------------------
# The bots by name, and what one of them remembers
# ---------------------------------------------------------------------------------------------------------------------

FIRST_LEVEL, NUM_LEVELS, MAX_DELAY = 4, 12, 40
BOTS = {"idle": 1, "random": 2, "attacker": 3} | {f"level{n + 1}": FIRST_LEVEL + n for n in range(NUM_LEVELS)}
SEEN = np.dtype([(name, "f4") for name in "x y vx vy kb_vx kb_vy facing percent stun shot_x shot_vx".split()] +
                [(name, "i2") for name in "action action_frame airborne hurtbox character".split()])
BOT = np.dtype([
    ("kind", "i4"), ("wait", "i4"),                    # frames until the next decision
    ("seed", "u8"), ("held", CONTROLLER),
    # the rest is the memory of the levels
    ("looks", "i4"), ("seen", SEEN, MAX_DELAY + 1),    # what the other did lately, a ring
    ("condition", "i4"), ("hitlag", "f4"), ("since_struck", "i4"),
    ("stick_x", "f4"), ("stick_y", "f4"),              # of the frame before
    ("plan", "i4"), ("plan_frames", "i4"), ("guard", "i4"), ("full_hop", "i4"), ("chasing", "i4"),
    ("off_stage", "i4"), ("since_tech", "i4"), ("last_swing", "i4")])

# ---------------------------------------------------------------------------------------------------------------------
# Levels: how good each is, and how each character is played. 1 to 9 are as late as people; 10 to 12 are not
# ---------------------------------------------------------------------------------------------------------------------

LEVEL_FIELDS = """
delay error foresight think idle
approach defend grab combo shoot edge_guard
short_hop fast_fall l_cancel di sdi tech recover mash
""".split()
LEVEL = np.dtype([(name, "f4") for name in LEVEL_FIELDS])
LEVEL_ROWS = [
    # delay: frames between what the other does and an answer to it; error: units by which it misjudges reach;
    # foresight: part of the delay it makes up for by reckoning ahead; think: frames between decisions; mash: frames
    # between presses when held; the others are probabilities
    # delay err fore think idle  appr  def grab combo shoot edge  hop  fast  l-c   di  sdi tech  rec mash
    (38, 12, .0, 24, .60, .30, .05, .05, .00, .05, .00, .10, .00, .00, .00, .0, .05, .55, 24),
    (34, 10, .1, 20, .50, .35, .10, .10, .05, .08, .00, .15, .05, .05, .05, .0, .10, .65, 18),
    (30, 8, .3, 16, .40, .40, .20, .15, .15, .10, .10, .25, .15, .15, .10, .0, .20, .72, 14),
    (26, 7, .5, 13, .30, .45, .30, .20, .25, .12, .15, .35, .25, .30, .20, .0, .30, .80, 12),
    (23, 6, .7, 10, .22, .48, .40, .30, .40, .14, .25, .45, .40, .45, .35, .0, .45, .85, 10),
    (20, 5, .8, 8, .15, .50, .55, .35, .55, .16, .40, .55, .50, .60, .50, .1, .60, .90, 8),
    (17, 3, .9, 6, .09, .55, .65, .45, .70, .18, .55, .65, .65, .75, .65, .2, .70, .94, 6),
    (14, 2, 1., 5, .06, .55, .75, .55, .85, .18, .70, .75, .80, .85, .80, .4, .80, .97, 4),
    (12, 1, 1., 4, .03, .55, .90, .60, 1.0, .20, .90, .80, .90, .95, .90, .6, .90, 1., 2),
    (8, 0, 1., 3, .02, .55, .95, .60, 1.0, .20, .95, .80, .95, 1.0, .95, .8, .95, 1., 2),
    (4, 0, 1., 2, .01, .55, 1.0, .60, 1.0, .20, 1.0, .80, 1.0, 1.0, 1.0, 1., 1.0, 1., 1),
    (0, 0, 1., 1, .00, .55, 1.0, .60, 1.0, .20, 1.0, .80, 1.0, 1.0, 1.0, 1., 1.0, 1., 1),
]

STYLE = np.dtype([(name, "f4") for name in "up_rise up_reach up_aimed side_reach shot shot_from strike".split()])
STYLE_ROWS = {  # the up special's height and width, is it aimed by the stick; width of a side special that travels;
    # direction of the special that shoots (0 none) and from how far; direction of one that strikes (0 none)
    FOX: (70, 80, 1, 49, 1, 55, 4), CAPTAIN_FALCON: (25, 40, 0, 0, 0, 0, 0), LINK: (35, 30, 0, 0, 1, 50, 0),
    SHEIK: (60, 50, 1, 0, 1, 50, 0), MEWTWO: (50, 50, 1, 0, 1, 70, 0), MARTH: (49, 16, 0, 0, 0, 0, 2),
    ZELDA: (50, 90, 1, 0, 2, 60, 0), FALCO: (45, 57, 1, 80, 1, 55, 4), GAMEANDWATCH: (70, 19, 0, 0, 1, 40, 0),
    GANONDORF: (35, 35, 0, 0, 0, 0, 0)}

# The ways to strike: on the ground, running, in the air, with a special. What each reaches is read off its hitboxes.
SWING_ACTIONS = [
    JAB_1, FTILT, UTILT, DTILT, FSMASH, USMASH, DSMASH, GRAB, DASH_ATTACK, GRAB_DASH, NAIR, FAIR, BAIR, UAIR, DAIR]
(SWING_JAB, SWING_FTILT, SWING_UTILT, SWING_DTILT, SWING_FSMASH, SWING_USMASH, SWING_DSMASH, SWING_GRAB, SWING_DASH,
 SWING_DASH_GRAB, SWING_NAIR, SWING_FAIR, SWING_BAIR, SWING_UAIR, SWING_DAIR, SWING_SPECIAL,
 SWING_AIR_SPECIAL) = range(17)
NUM_SWINGS = 17
FAR_RISE = 40  # whose up special rises less stays on the stage to guard the edge
SWING = np.dtype([("action", "i4"), ("first", "i4"), ("last", "i4"), ("frames", "i4")] + [(name, "f4") for name in (
    "back front low high damage angle growth base".split())])  # frames count from 1; first 0: there is no such swing


def build_swings(tables):
    """[characters, NUM_SWINGS] SWING: when each attack hits, how long it lasts and the box around all its hitboxes."""
    swings = np.zeros((NUM_CHARACTERS, NUM_SWINGS), SWING)
    for character, style in STYLE_ROWS.items():
        c, special = tables.characters[character], int(style[-1])
        specials = [c["special_start"][place, special] if special else 0 for place in (0, 1)]
        own = [c["own_action"][action] if action < len(c["own_action"]) else action for action in SWING_ACTIONS]
        for row, action in zip(swings[character], own + specials, strict=True):
            frames = np.flatnonzero(c["hit_row"][action]) if action else []
            if len(frames) == 0:
                continue
            boxes = tables.hitboxes[c["hit_row"][action, frames]]
            on = boxes["size"] > 0
            row["action"], row["first"], row["last"] = action, frames[0], frames[-1]
            row["frames"] = c["interruptible"][action] or c["frames"][action] or UNKNOWN_LENGTH
            for axis, least, most in (("x", "back", "front"), ("y", "low", "high")):
                row[least] = (boxes[axis] - boxes["size"])[on].min()
                row[most] = (boxes[axis] + boxes["size"])[on].max()
            strongest = np.flatnonzero(on)[np.argmax(boxes["damage"][on])]
            for name in ("damage", "angle", "growth", "base"):
                row[name] = boxes[name].flat[strongest]
    return swings


Knowledge = collections.namedtuple("Knowledge", "levels styles swings")


def build_knowledge(tables):
    levels = np.zeros(len(LEVEL_ROWS) + 1, LEVEL)      # row 0 is unused: levels count from 1
    styles = np.zeros(NUM_CHARACTERS, STYLE)
    for level, values in enumerate(LEVEL_ROWS, 1):
        levels[level] = values
    for character, values in STYLE_ROWS.items():
        styles[character] = values
    return Knowledge(levels, styles, build_swings(tables))


KNOWLEDGE = build_knowledge(TABLES)

"""The embedded game: Melee's rules as scalar numba code over arrays. No ISO needed.

This module also defines the one language that every part of CleanMelee speaks: the frame.
A frame holds what Slippi can show of one game after one frame, in Slippi's own fields, units and ids, whether it
came from a .slp file, from this game or from Dolphin. What Slippi cannot show (timers) lives in `HIDDEN`.
"""

import collections
import csv
import hashlib
import importlib.util
import os
import pathlib
import sys
import tempfile
import zipfile

import numba
import numpy as np

# ---------------------------------------------------------------------------------------------------------------------
# The frame language. Floats stand before integers in every record, so that a reader can view either block as a matrix.
# ---------------------------------------------------------------------------------------------------------------------

NUM_PLAYERS, NUM_ITEMS = 2, 8

PLAYER = np.dtype([  # Slippi's post-frame update of one character
    ("x", "f4"), ("y", "f4"),                          # position, game units, y up
    ("self_vx_air", "f4"), ("self_vy", "f4"), ("self_vx_ground", "f4"),  # self-induced velocity, units a frame
    ("kb_vx", "f4"), ("kb_vy", "f4"),                  # knockback velocity, added to the self-induced one
    ("facing", "f4"),                                  # -1 left, +1 right
    ("percent", "f4"), ("shield", "f4"),               # 0..999, 0..60
    ("hitlag", "f4"), ("hitstun", "f4"),               # frames left; hitstun is 0 unless in_hitstun
    ("state_age", "f4"),                               # animation frame of the action, speeds vary
    ("action", "i2"),                                  # Melee action-state id
    ("action_frame", "i2"),                            # int(state_age) + 1 where libmelee counts from zero
    ("character", "i2"),                               # internal id; may change in mid-game (Zelda, Sheik)
    ("stocks", "i2"), ("jumps", "i2"),                 # left
    ("airborne", "i2"), ("in_hitstun", "i2"), ("fastfall", "i2"),  # 0 or 1
    ("hurtbox", "i2"),                                 # 0 vulnerable, 1 invulnerable, 2 intangible
    ("l_cancel", "i2"),                                # 0 none, 1 success, 2 failure; on the landing frame
    ("last_attack", "i2"), ("last_hit_by", "i2"), ("combo", "i2"),  # attack id landed, port index or 6 = nobody, hits
    ("ground", "i2"),                                  # id of the last ground touched
    ("port", "i2"),                                    # 0..3
    ("present", "i2"),                                 # 1 if this record is real (Nana may be absent)
])

ITEM = np.dtype([
    ("x", "f4"), ("y", "f4"), ("vx", "f4"), ("vy", "f4"), ("facing", "f4"), ("timer", "f4"),
    ("type", "i2"), ("state", "i2"),                   # Slippi's item type id and its state
    ("owner", "i2"),                                   # 0 or 1: index into the frame's players; -1 nobody
    ("damage", "i2"), ("charge", "i2"),                # damage taken; Slippi's byte for charge (shots, turnip face)
    ("present", "i2"),                                 # 1 if this slot is in use
])

FRAME = np.dtype([
    ("players", PLAYER, NUM_PLAYERS), ("nanas", PLAYER, NUM_PLAYERS), ("items", ITEM, NUM_ITEMS),
    ("platform_left", "f4"), ("platform_right", "f4"),  # heights of Fountain of Dreams' moving platforms, 0 elsewhere
    ("frame_id", "i4"),                                # Slippi's: -123 first, -39 players act, 0 the clock starts
    ("stage", "i2"),                                   # Slippi's external stage id
    ("wind", "i2"),                                    # Dream Land's Whispy: 0 none, 1 left, 2 right
    ("transformation", "i2"), ("reserved", "i2"),      # Pokemon Stadium
])

CONTROLLER = np.dtype([  # one port's input in the game's processed units (Slippi's pre-frame update)
    ("main_x", "f4"), ("main_y", "f4"), ("c_x", "f4"), ("c_y", "f4"),  # -1..1 after dead zone, in steps of 1/80
    ("l", "f4"), ("r", "f4"),                          # analog triggers, 0..1
    ("buttons", "i4"),                                 # bits below
])

BUTTON_A, BUTTON_B, BUTTON_X, BUTTON_Y, BUTTON_START = 0x100, 0x200, 0x400, 0x800, 0x1000
BUTTON_L, BUTTON_R, BUTTON_Z = 0x40, 0x20, 0x10
BUTTON_D_LEFT, BUTTON_D_RIGHT, BUTTON_D_DOWN, BUTTON_D_UP = 0x1, 0x2, 0x4, 0x8

FIRST_FRAME, FIRST_CONTROL_FRAME, TIME_LIMIT = -123, -39, 8 * 60 * 60  # frame ids; the clock runs out at TIME_LIMIT

# ---------------------------------------------------------------------------------------------------------------------
# What Slippi does not show: timers, the last controller, random streams. A frame plus this is a whole game.
# ---------------------------------------------------------------------------------------------------------------------

HIDDEN_PLAYER = np.dtype([
    ("stick_x", "f4"), ("stick_y", "f4"), ("c_x", "f4"), ("c_y", "f4"), ("trigger", "f4"),  # this frame's controller
    ("last_stick_x", "f4"), ("last_stick_y", "f4"), ("last_c_x", "f4"), ("last_c_y", "f4"), ("last_trigger", "f4"),
    ("old_x", "f4"), ("old_y", "f4"),                  # the position a frame ago
    ("buttons", "i4"), ("last_buttons", "i4"),
    ("tilt_x_age", "i4"), ("tilt_y_age", "i4"),        # frames since the stick passed +-.25 on this side, 254 at rest
    ("trigger_age", "i4"),                             # frames since L, R or Z went down
    ("tilt_side", "i4"), ("tilt_side_age", "i4"),      # to which side the stick last went, -1 or 1, and how long ago
    ("tech_lockout", "i4"), ("tech_void", "i4"),       # frames in which a further press cannot tech; it cannot
    ("air_frames", "i4"), ("ledge_cooldown", "i4"), ("action_frames", "i4"),  # action_frames stand still in hitlag
    ("flag", "i4"),                                    # of the action: short hop chosen, turn done, first jump frame
    ("landed_cancel", "i4"),                           # the l_cancel of this aerial landing
    ("has_hit", "i4"),                                 # this swing has connected and may not connect again
    ("queued", "i4"),                                  # this swing stands in the staling queue: it enters once
    ("hurt_timer", "i4"), ("hurt_kind", "i4"),         # frames of PLAYER.hurtbox from outside the action
    ("guard_frames", "i4"), ("poked", "i4"),           # shield stun left; this frame's hit reaches past the shield
    ("grab_timer", "i4"),                              # frames until the held player breaks free
    ("combo_timer", "i4"), ("throw_frames", "i4"),     # length of the throw in progress
    ("luck", "f4"),                                    # this frame's random number
    ("charge", "i4"),                                  # frames that Shadow Ball, needles, an arrow have been charged
    ("smash_charge", "i4"),                            # frames that this smash has been held
    ("boost", "f4"),                                   # damage that charging has added to this action's hits
    ("bucket", "i4"), ("bucket_damage", "f4"),         # Game & Watch: shots caught and their damage
    ("last_judge", "i4"), ("judge_before", "i4"),      # his last hammers, 0 to 8
    ("holding", "i4"),                                 # Link: a bomb is in his hand
    ("shot", "i4"),                                    # lets go of a projectile this frame: 1 ground, 2 air
    ("ledge_taken", "i4"),                             # side of the ledge that the other holds, 0 neither
    ("stale", "i4", 9),                                # attack ids of the last hits that landed, newest first
])

HIDDEN = np.dtype([("players", HIDDEN_PLAYER, NUM_PLAYERS), ("seed", "u8"), ("reserved", "u8")])

# ---------------------------------------------------------------------------------------------------------------------
# Characters: attributes in Melee's units (Fox falls .23 units faster each frame, up to 2.8). A character is a row here,
# in LEDGE_BOX and in the tables of data/.
# ---------------------------------------------------------------------------------------------------------------------

CHARACTERS = {"fox": 1, "captain_falcon": 2, "sheik": 7, "mewtwo": 16, "marth": 18, "falco": 22, "gameandwatch": 24,
              "link": 6, "zelda": 19, "ganondorf": 25}
FOX, CAPTAIN_FALCON, LINK, SHEIK, MEWTWO, MARTH, ZELDA, FALCO, GAMEANDWATCH, GANONDORF = (
    1, 2, 6, 7, 16, 18, 19, 22, 24, 25)
NUM_CHARACTERS, NUM_ACTIONS, MAX_FRAMES = 26, 400, 80

ATTRIBUTES = """
walk_base walk_slope walk_max friction
dash_speed run_slope run_base run_max dash_to_run dash_frames turn_frames jumpsquat
jump_drift jump_keep jump_max full_hop short_hop double_jump double_drift
gravity fall_max fast_fall air_slope air_base air_max air_friction weight landing height
""".split()  # one line of names per block of columns below

ATTRIBUTE_ROWS = {
    # walk             dash and run                           jumps                                 air
    1: ((.1, .2, 1.6, .08), (1.9, .1, .02, 2.2, 11, 21, 5, 3), (.72, .83, 1.7, 3.68, 2.1, 1.2, .9),
        (.23, 2.8, 3.4, .06, .02, .83, .02, 75, 4, 11)),
    2: ((.1, .15, .85, .08), (2.0, .15, .01, 2.3, 15, 21, 7, 4), (.95, .75, 2.1, 3.1, 1.9, .9, .9),
        (.13, 2.9, 3.5, .04, .02, 1.12, .01, 104, 4, 16)),
    6: ((.1, .1, 1.2, .1), (1.3, .1, .02, 1.3, 12, 27, 5, 6), (.8, .8, 1.4, 2.2, 1.5, 1.0, 1.0),
        (.11, 2.13, 3.0, .04, .02, 1.0, .005, 104, 4, 14)),
    7: ((.1, .2, 1.2, .08), (1.7, .1, .02, 1.8, 7, 21, 5, 3), (.8, .8, 1.4, 2.8, 2.14, 1.1, 1.0),
        (.12, 2.13, 3.0, .04, .02, .8, .04, 90, 4, 12)),
    16: ((.1, .3, 1.0, .04), (1.4, 0, .1, 1.4, 18, 29, 5, 5), (.9, .7, 1.4, 2.3, 1.4, 0, .95),
         (.082, 1.5, 2.3, .03, .02, 1.2, .016, 85, 4, 17)),
    18: ((0, .15, 1.6, .06), (1.5, .06, 0, 1.8, 15, 27, 5, 4), (1.0, .8, 1.2, 2.4, 1.5, .88, 1.0),
         (.085, 2.2, 2.5, .03, .02, .9, .005, 87, 4, 15)),
    19: ((.1, .1, .7, .1), (1.1, .06, .02, 1.1, 11, 21, 5, 6), (.8, .8, 1.4, 2.1, 1.6, .86, .95),
         (.073, 1.4, 1.85, .03, .018, .95, .005, 90, 4, 15)),
    22: ((.1, .2, 1.4, .08), (1.9, .1, .02, 1.5, 11, 21, 5, 5), (.7, 1.0, 1.7, 4.1, 1.9, .94, .94),
         (.17, 3.1, 3.5, .05, .02, .83, .02, 80, 4, 14)),
    24: ((.1, .1, 1.1, .06), (1.5, .06, .02, 1.5, 8, 25, 5, 4), (1.0, .8, 1.5, 2.3, 1.4, 1.0, .95),
         (.095, 1.7, 2.3, .03, .02, 1.0, .016, 60, 4, 12)),
    25: ((0, .08, .73, .07), (1.3, .08, .03, 1.35, 14, 27, 8, 6), (.9, .6, 1.5, 2.6, 2.0, .95, .9),
         (.13, 2.0, 2.6, .04, .02, .78, .02, 109, 5, 17)),
}

LEDGE_BOX = {  # top of the box that reaches for the ledge, and the upward speed of a jump from the ledge
    1: (-8.8, 3.68), 7: (-9.0, 2.8), 16: (-8.8, 2.3), 18: (-11.3, 2.4), 22: (-8.4, 3.9), 24: (-9.5, 2.8)}
UP_LAUNCH = {  # up specials aimed by the stick, measured but for Zelda's:
    # (wait on the ground, wait in the air, flight), frames, speed, first slower frame, slower by, speed kept at the end
    1: ((353, 354, 356), 30, 3.8, 6, .1, 1.0), 22: ((353, 354, 356), 22, 4.2, 3, .17, 1.0),
    16: ((353, 356, 357), 10, 5.0, 99, 0, .2), 7: ((355, 358, 359), 10, 4.5, 99, 0, .12),
    19: ((349, 352, 353), 20, 4.5, 99, 0, .12)}
GUESSED_SPECIALS = {  # (airborne, direction, action), where no replay shows them
    6: [(0, 1, 344), (1, 1, 347), (0, 2, 350), (1, 2, 353), (0, 3, 356), (1, 3, 357), (0, 4, 358), (1, 4, 359)],
    7: [(0, 4, 361), (1, 4, 363)],
    19: [(0, 1, 341), (1, 1, 342), (0, 2, 343), (1, 2, 346), (0, 3, 349), (1, 3, 352), (0, 4, 355), (1, 4, 357)],
    25: [(0, 1, 347), (1, 1, 348), (0, 2, 349), (1, 2, 351), (0, 3, 353), (1, 3, 354), (0, 4, 357), (1, 4, 359)]}
TRANSFORMS = {  # Sheik and Zelda change on the ground and in the air: into whom, what begins it, what follows
    7: (19, (361, 363), (356, 358)), 19: (7, (355, 357), (362, 364))}

HOLD_ROWS = {  # go on while B is held: (ground, air), what letting go leads to, frames at most, further id when full
    LINK: ((345, 348), (346, 349), 60, 0), MARTH: ((342, 346), (343, 347), 110, 1),
    ZELDA: ((344, 347), (345, 348), 38, 0), SHEIK: ((350, 353), (351, 354), 120, 0),
    GAMEANDWATCH: ((375, 378), (-1, -1), 600, 0)}
GUARD_REFLECT, GUARD_ABSORB, GUARD_COUNTER, GUARD_DODGE = 1, 2, 3, 4
GUARD_ROWS = {  # (first action, last action, what it does, first frame, last frame); public but for Teleport
    FOX: [(360, 369, GUARD_REFLECT, 0, 999)], FALCO: [(360, 369, GUARD_REFLECT, 0, 999)],
    MEWTWO: [(351, 352, GUARD_REFLECT, 11, 26), (354, 354, GUARD_DODGE, 0, 10), (357, 357, GUARD_DODGE, 0, 10)],
    ZELDA: [(341, 342, GUARD_REFLECT, 3, 40), (353, 353, GUARD_DODGE, 0, 20)],
    SHEIK: [(355, 355, GUARD_DODGE, 17, 35), (358, 358, GUARD_DODGE, 17, 35), (359, 359, GUARD_DODGE, 0, 20)],
    MARTH: [(369, 369, GUARD_COUNTER, 4, 28), (371, 371, GUARD_COUNTER, 4, 28)],
    GAMEANDWATCH: [(375, 375, GUARD_ABSORB, 4, 600), (378, 378, GUARD_ABSORB, 4, 600)]}
JAB_ROWS = {  # A again: (action, what follows, from which frame); measured but for Marth's, Link's and Game & Watch's
    FOX: ((44, 45, 5), (45, 47, 7)), FALCO: ((44, 45, 5), (45, 47, 7)), SHEIK: ((44, 45, 9), (45, 47, 9)),
    CAPTAIN_FALCON: ((44, 45, 8), (45, 46, 8), (46, 47, 11)), MEWTWO: ((44, 47, 11),), MARTH: ((44, 45, 15),),
    LINK: ((44, 45, 9), (45, 46, 9)), GAMEANDWATCH: ((341, 342, 8),)}
RAPID_JABS = {GAMEANDWATCH: (343, 344)}                # the blows that go on while A is pressed, and their end
SMASH_HOLD = {MEWTWO: (14, 2, 2)}                      # frame on which A holds forward, up and down smash; measured
HOVER_ROWS = {  # specials that hang in the air: (first action, last action, share of the speed kept when it begins, or
    # beyond 1 the speed itself, or -1 if it goes on; loss of speed, frames without gravity, gravity); all measured
    FOX: [(350, 350, 2 / 3, .05, 15, .0167), (352, 352, 2, .07, 5, .08), (354, 354, .8, .02, 15, .015),
          (365, 365, .5, .02, 999, 0), (366, 369, -1, .02, 1, .0267)],
    FALCO: [(350, 350, 2 / 3, .05, 15, .0167), (352, 352, 2, .07, 5, .08), (354, 354, .8, .02, 15, .016),
            (365, 365, .5, .02, 999, 0), (366, 369, -1, .02, 1, .0267)],
    SHEIK: [(352, 352, 1, .04, 21, .12)]}
STEERED_ROWS = {  # the specials in whose fall the stick counts; the others only lose speed
    FOX: [(344, 346), (358, 359)], FALCO: [(344, 346), (358, 359)], SHEIK: [(357, 360)],
    GAMEANDWATCH: [(341, 353), (374, 374)], LINK: [(360, 360)], ZELDA: [(351, 354)]}
TURNED_RISE = (374, 2, 27)                             # Game & Watch's up special: action, first and last frame of the rise
RISE_TURN, RISE_DEAD_ZONE = 30.0, .14                  # degrees that a full stick turns it by, less what is not felt; measured
HELPLESS_FALL = {MARTH: (.4, 2.5)}                     # after the up special: share of the drift, speed; 1, fall_max for others
HIT_ROWS = {  # what the attacker goes over to when he touches: Raptor Boost, Falcon Dive and their dark twins
    CAPTAIN_FALCON: {349: 350, 351: 352, 353: 356, 354: 356}, GANONDORF: {349: 350, 351: 352, 353: 356, 354: 356}}
JUDGE_AIR, JUDGE_ONE_COST = 9, 12                      # ids further in the air; percent that hammer 1 costs its user
DIVE_BOUNCE, JUDGE_FIRST, DIVE_HIT = 2.0, 355, 356     # the speed off a caught victim is a guess
FILLED_BUCKET = 3                                      # shots that Oil Panic takes before it can be poured
GRAB_REACH = {  # how far in front the caught victim stands while pulled in, and while held
    1: (5.74, 8.28), 2: (8.19, 7.87), 7: (7.4, 7.35), 16: (11.0, 11.98), 18: (16.41, 9.1), 22: (6.57, 9.49)}
WALL_JUMPERS = (FOX, CAPTAIN_FALCON, SHEIK, FALCO)
LANDS_HALFWAY = (7, 18)                                # an air dodge out of the jumpsquat moves them half a frame
PUSH_WIDTH = {2: 3.5}                                  # half of how close two may stand; 3.3 for the others
WALL_WIDTH = {24: {29: 1.67, 27: 2.42, 28: 2.42, 66: 2.68, 69: 4.11, 263: 4.08, 347: 2.65, 373: 4.03, 374: 4.03}}  # 2
LEDGE_BOX_WIDTH, LEDGE_BOX_HEIGHT = 14.5, 11.5
LEDGE_SPECIALS = {  # that can catch a ledge; seen in replays for Falco, Sheik and Game & Watch, public for the others
    FOX: (352, 354, 356, 358, 359), FALCO: (352, 354, 356, 358, 359), CAPTAIN_FALCON: (353, 354), GANONDORF: (353, 354),
    LINK: (357, 360), SHEIK: (358, 360), ZELDA: (352, 354), MEWTWO: (356, 358), MARTH: (367, 368),
    GAMEANDWATCH: (373, 374)}

# Items, by Slippi's type ids.
FOX_LASER, FALCO_LASER, FOX_BLASTER, FALCO_BLASTER, NEEDLE, NEEDLES_HELD, SHADOW_BALL, SAUSAGE = (
    0x36, 0x37, 0x4A, 0x4B, 0x4F, 0x50, 0x70, 0x7A)
BOMB, BOOMERANG, ARROW, BOW, CHAIN, DINS_FIRE, DINS_EXPLOSION = 0x3A, 0x3C, 0x40, 0x4C, 0x61, 0x6C, 0x6D
NUM_ITEM_TYPES, NEUTRAL_SPECIAL = 0x80, 18             # the second is Slippi's attack id
PROJECTILE = np.dtype([(name, "f4") for name in (
    "life radius damage angle growth set_knockback base gravity attack_id".split())])
PROJECTILE_ROWS = {  # blows: lasers and needles measured, the others public; lives, speeds and radii as data/README.md says
    FOX_LASER: (34, 1.5, 3, 0, 0, 0, 0, 0, NEUTRAL_SPECIAL),
    FALCO_LASER: (99, 1.5, 3, 361, 100, 5, 0, 0, NEUTRAL_SPECIAL),
    NEEDLE: (30, 1.5, 3, 361, 34, 0, 24, 0, NEUTRAL_SPECIAL),
    SHADOW_BALL: (69, 2.5, 3, 361, 35, 0, 15, 0, NEUTRAL_SPECIAL),
    SAUSAGE: (80, 2, 4, 70, 50, 0, 20, .06, NEUTRAL_SPECIAL),
    ARROW: (70, 1.5, 5, 70, 50, 0, 8, .04, NEUTRAL_SPECIAL),
    BOOMERANG: (141, 3, 6, 65, 30, 0, 55, 0, 19), BOMB: (277, 2.5, 6, 70, 30, 0, 60, .07, 21),
    DINS_FIRE: (98, 2, 0, 0, 0, 0, 0, 0, 19), DINS_EXPLOSION: (4, 5, 8, 70, 60, 0, 40, 0, 19)}
SHADOW_BALL_DAMAGE = np.array([3, 5, 8, 11, 14, 17, 20, 25])  # by charge; growth and base gain 5 a step; public
FULL_ARROW, FULL_ARROW_DAMAGE, ARROW_SPEED = 60, 18, (2.0, 4.5)  # frames of drawing; public; the speeds are a guess
BOOMERANG_CALM, BOOMERANG_DRAG, BOOMERANG_CATCH = 1.6, .06, 9  # fastest way back, slowing on the way out, reach; guesses
BOMB_HELD, BOMB_THROWN, BOMB_EXPLODING = 0, 1, 2       # states of a bomb
BOMB_RADIUS, BOMB_BLAST_FRAMES, BOMB_BLAST_DAMAGE = 8, 4, 4  # of the explosion; the damage is public
DINS_DELAY, DINS_SPEED, DINS_STEERING = 22, 1.7, 1.4   # frames from letting go to the blast (public); guesses
EXTRA_SHOT_ROWS = {  # further shots: action, frame, type, offset from where the shooter was, velocity
    FOX: [(220, frame, FOX_LASER, 13.2, 14.8, 5.83, 3.88) for frame in (16, 19, 21)] +
         [(221, frame, FOX_LASER, 1.0, 26.6, .1, 7) for frame in (18, 21, 24)] +
         [(222, frame, FOX_LASER, 2.4, 9, .5, -6.9) for frame in (23, 25, 28, 31)],
    FALCO: [(220, frame, FALCO_LASER, 12.3, 14.5, 4.1, 2.8) for frame in (16, 19, 21)] +
           [(221, frame, FALCO_LASER, 1.0, 26.2, .2, 5) for frame in (19, 21, 25)] +
           [(222, frame, FALCO_LASER, 2.4, 9, .3, -5) for frame in (23, 25, 28, 31)],
    LINK: [(346, 1, ARROW, 8, 8, 1, 0), (349, 1, ARROW, 8, 8, 1, 0), (350, 26, BOOMERANG, 8, 9, 2.6, 0),
           (353, 26, BOOMERANG, 8, 9, 2.6, 0), (358, 15, BOMB, 4, 6, 0, 0), (359, 15, BOMB, 4, 6, 0, 0)],
    ZELDA: [(343, 12, DINS_FIRE, 10, 10, DINS_SPEED, 0), (346, 12, DINS_FIRE, 10, 10, DINS_SPEED, 0)]}
EXTRA_SHOT = np.dtype([("action", "i2"), ("frame", "i2"), ("type", "i2"), ("x", "f4"), ("y", "f4"), ("vx", "f4"),
                       ("vy", "f4")])
MAX_EXTRA_SHOTS = 12
SHOT_ROWS = {  # type; then on the ground and in the air: action, frame, offset from where the shooter was, velocity
    1: (FOX_LASER, (342, 5, 16.47, 7.68, 7, 0), (345, 5, 16.41, 9.59, 7, 0)),
    22: (FALCO_LASER, (342, 16, 10.58, 8.13, 5, 0), (345, 8, 14.64, 9.31, 5, 0)),
    7: (NEEDLE, (344, 3, 8, 8.75, 4, 0), (348, 3, 7, 4.875, 2.83, -2.83)),
    16: (SHADOW_BALL, (345, 8, 13.73, 11.72, .8, 0), (350, 8, 10.05, 9.99, .8, 0)),
    24: (SAUSAGE, (353, 18, 8, 9, 1, 1.6), (354, 18, 8, 9, 1, 1.6))}
CHARGE_ROWS = {  # charging on the ground and in the air, what a shield press makes of it, frames a step, steps, loop
    7: ((342, 346), (343, 347), 18, 5, 18), 16: ((342, 347), (344, 349), 14, 7, 8)}
HELD_ROWS = {  # actions with an item in hand: (first, last, type, offset); it is logged where it appeared
    1: [(341, 346, FOX_BLASTER, 0, 0)], 22: [(341, 346, FALCO_BLASTER, 0, 0)],
    16: [(342, 342, SHADOW_BALL, -7.65, 8.94), (347, 347, SHADOW_BALL, -6.7, 8.1)],
    LINK: [(344, 349, BOW, 5, 8)], SHEIK: [(342, 344, NEEDLES_HELD, 0, 0), (346, 348, NEEDLES_HELD, 0, 0),
                                           (349, 354, CHAIN, 6, 8)],
    24: [(341, 344, 0x72, 5.39, 5.16), (345, 345, 0x73, 12.4, 1.5), (346, 346, 0x74, 4.8, 14.83),
         (347, 347, 0x75, -.65, 6.96), (350, 350, 0x75, -.65, 6.96), (348, 348, 0x76, 5.59, 7.99),
         (351, 351, 0x76, 5.59, 7.99), (349, 349, 0x77, -.45, 13.51), (352, 352, 0x77, -.45, 13.51),
         (374, 374, 0x7C, 0, -2.55)]}

# Game & Watch's own ids for moves that everyone else does with the common ones, and his aerials' landings.
GAMEANDWATCH_ACTIONS = {44: 341, 48: 343, 57: 345, 60: 346, 65: 347, 67: 348, 68: 349, 70: 350, 72: 351, 73: 352}

CHARACTER = np.dtype([(name, "f4") for name in ATTRIBUTES] + [
    ("launch_actions", "i2", 3), ("launch_frames", "f4"), ("launch_speed", "f4"), ("launch_slow_from", "f4"),
    ("launch_slower", "f4"), ("launch_kept", "f4"),
    ("transforms_into", "i2"), ("transform_action", "i2", 2), ("transform_end", "i2", 2),
    ("shot_type", "i2"), ("shot_action", "i2", 2), ("shot_frame", "i2", 2), ("shot_x", "f4", 2), ("shot_y", "f4", 2),
    ("shot_vx", "f4", 2), ("shot_vy", "f4", 2), ("charge_action", "i2", 2), ("charge_stop", "i2", 2),
    ("charge_frames", "i2"), ("charge_steps", "i2"), ("charge_loop", "i2"),
    ("hold_action", "i2", 2), ("hold_end", "i2", 2), ("hold_frames", "i2"), ("hold_full", "i2"),
    ("guard_kind", "i2", NUM_ACTIONS), ("guard_first", "i2", NUM_ACTIONS), ("guard_last", "i2", NUM_ACTIONS),
    ("jab_next", "i2", NUM_ACTIONS), ("jab_from", "i2", NUM_ACTIONS), ("rapid_jab", "i2", 2),
    ("smash_hold", "i2", NUM_ACTIONS),                 # frame on which A held charges this smash, 0 never
    ("tilt_high", "i2"), ("tilt_low", "i2"),           # forward tilts aimed up and down
    ("hover_keep", "f4", NUM_ACTIONS), ("hover_loss", "f4", NUM_ACTIONS), ("hover_frames", "i2", NUM_ACTIONS),
    ("hover_gravity", "f4", NUM_ACTIONS), ("steered", "i2", NUM_ACTIONS), ("helpless_drift", "f4"), ("helpless_fall", "f4"),
    ("hit_action", "i2", NUM_ACTIONS),                 # what touching somebody leads to, 0 nothing
    ("follow_from", "i2", NUM_ACTIONS),                # B from this frame on goes on with the sword dance, 0 never
    ("rises", "i2", NUM_ACTIONS),                      # an up special that its animation lifts
    ("num_extra_shots", "i2"), ("extra_shots", EXTRA_SHOT, MAX_EXTRA_SHOTS), ("has_items", "i2"),
    ("held_type", "i2", NUM_ACTIONS), ("held_x", "f4", NUM_ACTIONS), ("held_y", "f4", NUM_ACTIONS),
    ("catches", "i2", NUM_ACTIONS),                    # a special that can catch a ledge
    ("ledge_top", "f4"), ("ledge_jump", "f4"), ("pull_reach", "f4"), ("hold_reach", "f4"), ("push_width", "f4"),
    ("wall_width", "f4", NUM_ACTIONS), ("wall_jumps", "i2"),
    ("lands_halfway", "i2"),
    ("frames", "i2", NUM_ACTIONS),                     # length of an action, 0 unknown
    ("next_action", "i2", NUM_ACTIONS),                # what follows when it runs out, -1 the standing or falling state
    ("interruptible", "i2", NUM_ACTIONS),              # IASA frame, 0 never
    ("ecb_bottom", "f4", NUM_ACTIONS),                 # the feet above the position, while airborne
    ("root_row", "i2", NUM_ACTIONS),                   # row of ROOT_MOTION, 0 none
    ("velocity_row", "i2", NUM_ACTIONS),               # row of VELOCITIES, 0 none
    ("hit_row", "i2", (NUM_ACTIONS, MAX_FRAMES)),      # row of HITBOXES, 0 none
    ("dodge_first", "i2", NUM_ACTIONS), ("dodge_last", "i2", NUM_ACTIONS),  # untouchable from one to before the other
    ("zero_indexed", "i2", NUM_ACTIONS),               # libmelee adds one to the frame of these
    ("attack_id", "i2", NUM_ACTIONS),                  # Slippi's, 0 no attack
    ("special_start", "i2", (2, 5)),                   # [airborne, direction]: neutral 1, side 2, up 3, down 4
    ("ledge_pose", "f4", (8, 2)),                      # seven frames of catching the ledge and one of hanging
    ("throw_strike_frame", "i2", 4), ("throw_strike", "f4", 4),  # forward, back, up, down: a blow before the release
    ("throw_frame", "f4", 4), ("throw_length", "f4", 4), ("throw_by_weight", "f4", 4),
    ("throw_damage", "f4", 4), ("throw_angle", "f4", 4), ("throw_growth", "f4", 4),
    ("throw_base", "f4", 4), ("thrown_path", "f4", (4, MAX_FRAMES, 2)), ("pummel_path", "f4", (MAX_FRAMES, 2)),
    ("pummel_frame", "i2"), ("pummel_damage", "f4"),
    ("own_action", "i2", 80),                          # common id to own id
    ("aerial", "i2", NUM_ACTIONS), ("aerial_landing", "i2", NUM_ACTIONS),  # 0 neutral .. 4 down, -1 neither
    ("landing_lag", "f4", 5), ("autocancel_before", "f4", 5), ("autocancel_after", "f4", 5),
])

HITBOXES = np.dtype([  # four boxes of one frame of one action; size 0 is off
    ("x", "f4", 4), ("y", "f4", 4), ("size", "f4", 4), ("damage", "f4", 4), ("angle", "f4", 4), ("growth", "f4", 4),
    ("set_knockback", "f4", 4), ("base", "f4", 4), ("effect", "i2", 4)])
MIRRORED = {(GANONDORF, 350)}                          # libmelee shows these boxes behind him
EFFECT_NORMAL, EFFECT_ELECTRIC, EFFECT_GRAB, EFFECT_INERT, EFFECT_STUN, EFFECT_FREEZE = 0, 1, 2, 3, 4, 5
EFFECTS = {"electric": EFFECT_ELECTRIC, "grab": EFFECT_GRAB, "inert": EFFECT_INERT, "stun": EFFECT_STUN,
           "freezing": EFFECT_FREEZE}

# ---------------------------------------------------------------------------------------------------------------------
# Stages. Row 0 of the floors is the main one; the others are platforms to drop through.
# ---------------------------------------------------------------------------------------------------------------------

STAGES = {"final_destination": 32, "battlefield": 31, "dream_land": 28, "yoshis_story": 8, "pokemon_stadium": 3,
          "fountain_of_dreams": 2}
FOUNTAIN, YOSHIS_STORY, DREAM_LAND, NUM_STAGES, MAX_FLOORS, NO_SLOPE = 2, 8, 28, 33, 5, 1e9

STAGE = np.dtype([
    ("floor_y", "f4", MAX_FLOORS), ("floor_left", "f4", MAX_FLOORS), ("floor_right", "f4", MAX_FLOORS),
    ("num_floors", "i4"), ("wall_bottom", "f4"), ("hull", "f4"),  # hull: how steeply the underside slants
    ("slope_start", "f4"), ("slope", "f4"),            # the main floor falls off beyond |x| = slope_start
    ("blast_left", "f4"), ("blast_right", "f4"), ("blast_top", "f4"), ("blast_bottom", "f4"),
    ("spawn_x", "f4", 2), ("spawn_y", "f4", 2), ("revive_x", "f4", 2), ("revive_y", "f4")])

STAGE_ROWS = {  # floors (y, left, right); blast zones (left, right, top, bottom); neutral spawns of ports 1 and 2
    32: ([(0, -85.5657, 85.5657)], (-246, 246, 188, -140), [(-60, 10), (60, 10)]),
    31: ([(0, -68.4, 68.4), (27.2, -57.6, -20), (27.2, 20, 57.6), (54.4, -18.8, 18.8)],
         (-224, 224, 200, -108.8), [(-38.8, 35.2), (38.8, 35.2)]),
    28: ([(.0089, -77.2713, 77.2713), (30.1422, -61.3929, -31.7254), (30.2426, 31.7036, 63.0745),
          (51.4254, -19.0181, 19.0171)], (-255, 255, 250, -123), [(-46.6, 37.2), (47.4, 37.3)]),
    8: ([(0, -56, 56), (23.45, -59.5, -28), (23.45, 28, 59.5), (42, -15.75, 15.75), (-33.2489, 0, 11.9)],  # last: Randall
        (-175.7, 173.6, 168, -91), [(-42, 26.6), (42, 28)]),
    3: ([(0, -87.75, 87.75), (25, -55, -25), (25, 25, 55)], (-230, 230, 180, -111), [(-40, 32), (40, 32)]),
    2: ([(.0029, -63.3475, 63.3475), (16.125, -49.5, -21), (22.125, 21, 49.5), (42.75, -14.25, 14.25)],
        (-198.75, 198.75, 202.5, -146.25),
        [(-41.25, 21), (41.25, 27)]),
}
REVIVE = {32: ((16, -50), 112.85)}  # where the platform of light appears, per port; measured on Final Destination only
WALL_BOTTOM = {32: -16}                                # a body lower than this passes below the stage; -30 elsewhere
HULL = {32: .51, 28: 2, 8: 20}  # how steeply the underside slants: measured; 2 elsewhere, a guess
SLOPES = {8: (39.2, .2088)}  # Yoshi's Story falls off beyond x = 39.2

# Fountain of Dreams' side platforms: the heights that Slippi logs (and FRAME holds) are in the stage's own units.
PLATFORM_LEFT, PLATFORM_RIGHT, PLATFORM_UNIT, PLATFORM_ZERO = 20.0, 28.0, .75, 1.125  # measured, like the speeds
PLATFORM_SPEEDS, PLATFORM_REST = (.1, .15), 700        # a move begins every PLATFORM_REST frames; to where is a guess:
PLATFORM_LOW, PLATFORM_HIGH = 10.0, 35.0

# Randall, the cloud of Yoshi's Story, runs round the stage in 1,200 frames: (frame, left end, height) where he turns.
RANDALL_FLOOR, RANDALL_PERIOD, RANDALL_WIDTH = 4, 1200, 11.9
RANDALL_PATH = np.array([
    (424, 91.35, -31.1602), (468, 91.35, -15.5473), (477, 89.3354, -13.6499), (1015, -101.5685, -13.6499),
    (1023, -103.6, -15.2779), (1068, -103.6, -31.2457), (1076, -101.85, -33.2489), (1615, 89.7636, -33.2489)])

# ---------------------------------------------------------------------------------------------------------------------
# Building the tables. Reading 65,000 lines of CSV takes seconds, so the result is kept beside numba's cache.
# ---------------------------------------------------------------------------------------------------------------------

GRAB, GRAB_PULL, GRAB_DASH, GRAB_DASH_PULL, HOLD, PUMMEL, GRAB_BREAK = 212, 213, 214, 215, 216, 217, 218
THROW_FORWARD, THROW_BACK, THROW_UP, THROW_DOWN = 219, 220, 221, 222
CAUGHT_AIR, HELD_AIR, PUMMELED_AIR, CAUGHT, HELD, PUMMELED, BREAK_FREE, THROWN_FORWARD, THROWN_DOWN = (
    223, 224, 225, 226, 227, 228, 229, 239, 242)
ANYONE = -1                                            # in the tables of data/: a row for whoever has none of his own
Tables = collections.namedtuple("Tables", "characters stages hitboxes root_motion velocities projectiles randall")
DATA = pathlib.Path(__file__).resolve().parent / "data"


def read_rows(name):
    with open(DATA / name, newline="") as file:
        return list(csv.DictReader(file))


def melee_folder():
    """Where libmelee lies; importing it would load half a second of code for two data files."""
    spec = importlib.util.find_spec("melee")
    if spec is None:
        raise SystemExit("mock_melee needs libmelee's frame data: pip install melee")
    return pathlib.Path(spec.submodule_search_locations[0])


def build_tables():
    """Derive every table from the rows above, data/ and libmelee's framedata.csv."""
    characters = np.zeros(NUM_CHARACTERS, CHARACTER)
    for character, blocks in ATTRIBUTE_ROWS.items():
        row = characters[character]
        for name, value in zip(ATTRIBUTES, (value for block in blocks for value in block), strict=True):
            row[name] = value
        row["ledge_top"], row["ledge_jump"] = LEDGE_BOX.get(character, (-9.0, row["full_hop"]))
        row["lands_halfway"] = character in LANDS_HALFWAY
        row["catches"][list(LEDGE_SPECIALS.get(character, ()))] = 1
        row["wall_width"], row["wall_jumps"] = 2, character in WALL_JUMPERS
        for action, width in WALL_WIDTH.get(character, {}).items():
            row["wall_width"][action] = width
        row["push_width"] = PUSH_WIDTH.get(character, 3.3)
        row["pull_reach"], row["hold_reach"] = GRAB_REACH.get(character, (8, 9))
        (row["launch_actions"], row["launch_frames"], row["launch_speed"], row["launch_slow_from"],
         row["launch_slower"], row["launch_kept"]) = UP_LAUNCH.get(character, (-1, 0, 0, 0, 0, 0))
        row["transforms_into"], row["transform_action"], row["transform_end"] = TRANSFORMS.get(
            character, (character, -1, -1))
        row["shot_type"], *shots = SHOT_ROWS.get(character, (0, (-1, 0, 0, 0, 0, 0), (-1, 0, 0, 0, 0, 0)))
        for index, shot in enumerate(shots):
            for name, value in zip(("action", "frame", "x", "y", "vx", "vy"), shot, strict=True):
                row["shot_" + name][index] = value
        (row["charge_action"], row["charge_stop"], row["charge_frames"], row["charge_steps"],
         row["charge_loop"]) = CHARGE_ROWS.get(character, (-1, -1, 1, 0, 0))
        for first, last, item_type, x, y in HELD_ROWS.get(character, []):
            for name, value in (("type", item_type), ("x", x), ("y", y)):
                row["held_" + name][first:last + 1] = value
        row["hold_action"], row["hold_end"], row["hold_frames"], row["hold_full"] = HOLD_ROWS.get(
            character, (-1, -1, 0, 0))
        for first, last, kind, first_frame, last_frame in GUARD_ROWS.get(character, []):
            row["guard_kind"][first:last + 1], row["guard_first"][first:last + 1] = kind, first_frame
            row["guard_last"][first:last + 1] = last_frame
        for action, following, first in JAB_ROWS.get(character, ()):
            row["jab_next"][action], row["jab_from"][action] = following, first
        row["rapid_jab"] = RAPID_JABS.get(character, (48, 49))
        for first, last, *values in HOVER_ROWS.get(character, []):
            for name, value in zip(("keep", "loss", "frames", "gravity"), values, strict=True):
                row["hover_" + name][first:last + 1] = value
        row["helpless_drift"], row["helpless_fall"] = HELPLESS_FALL.get(character, (1, row["fall_max"]))
        row["steered"][:341] = 1
        for first, last in STEERED_ROWS.get(character, []):
            row["steered"][first:last + 1] = 1
        for action, following in HIT_ROWS.get(character, {}).items():
            row["hit_action"][action] = following
        extra_shots = EXTRA_SHOT_ROWS.get(character, [])
        row["num_extra_shots"] = len(extra_shots)
        row["has_items"] = row["shot_type"] > 0 or len(extra_shots) > 0
        for index, shot in enumerate(extra_shots):
            row["extra_shots"][index] = shot
        row["next_action"], row["aerial"], row["aerial_landing"] = -1, -1, -1
        row["own_action"] = np.arange(80)
        if character == GAMEANDWATCH:
            for common, own in GAMEANDWATCH_ACTIONS.items():
                row["own_action"][common] = own
        for index in range(5):
            row["aerial"][row["own_action"][65 + index]] = index
            row["aerial_landing"][row["own_action"][70 + index]] = index

    windows = collections.defaultdict(list)
    for move in read_rows("moves.csv"):
        character, action, box = int(move["character"]), int(move["action"]), int(move["hitbox"])
        if action == PUMMEL:
            characters[character]["pummel_frame"] = int(move["first_frame"])
            characters[character]["pummel_damage"] = float(move["damage"])
        if character == GAMEANDWATCH and action < 80:
            action = GAMEANDWATCH_ACTIONS.get(action, action)
        characters[character]["attack_id"][action] = int(move["attack_id"])
        windows[character, action, box].append((int(move["first_frame"]), int(move["last_frame"]), move))

    hitboxes, root_motion = [np.zeros((), HITBOXES)], [np.zeros((MAX_FRAMES, 3), "f4")]
    motion = collections.defaultdict(lambda: np.zeros((MAX_FRAMES, 3), "f4"))
    with open(melee_folder() / "framedata.csv", newline="") as file:
        for line in csv.DictReader(file):
            character, action, frame = int(line["character"]), int(line["action"]), int(line["frame"])
            if character not in ATTRIBUTE_ROWS or action >= NUM_ACTIONS:
                continue
            row = characters[character]
            row["frames"][action] = max(row["frames"][action], frame)
            if line["iasa"] == "True" and not row["interruptible"][action]:
                row["interruptible"][action] = frame
            if frame >= MAX_FRAMES:
                continue
            motion[character, action][frame] = (
                float(line["locomotion_x"]), float(line["locomotion_y"]), line["facing_changed"] == "True")
            record = np.zeros((), HITBOXES)
            for box in range(4):
                if line[f"hitbox_{box + 1}_status"] == "True":
                    move = nearest_window(windows, character, action, box, frame)
                    if move is None:
                        continue
                    fill_hitbox(record, box, move, *(line[f"hitbox_{box + 1}_{name}"] for name in ("size", "x", "y")))
                    if (character, action) in MIRRORED:
                        record["x"][box] *= -1
            if record["size"].any():
                late = 1 if (record["effect"] == EFFECT_GRAB).any() else 0  # grabs come a frame later than listed
                row["hit_row"][action, frame + late] = len(hitboxes)
                hitboxes.append(record)
    with open(melee_folder() / "actiondata.csv", newline="") as file:
        for line in csv.DictReader(file):
            character, action = int(line["character"]), int(line["action"])
            if character in ATTRIBUTE_ROWS and action < NUM_ACTIONS:
                characters[character]["zero_indexed"][action] = line["zeroindex"] == "True"
    characters["frames"] += characters["zero_indexed"] & (characters["frames"] > 0)  # their last frame is not listed
    for (character, action), rows in motion.items():
        if (character, action) == (MEWTWO, 345):       # the recoil of a charged ball, see shoot
            continue
        if action == 200:                              # TECH_FORWARD: the landing's step is none of the roll's
            rows[1] = 0
        if (character, action) == (FALCO, 200):        # somebody pushed him while it was recorded
            rows[24:37, 0] += .3
        friction, least = characters[character]["friction"], 2 if 44 <= action <= 64 else 4  # ground attacks
        if np.abs(rows[:, :2]).sum() > .5 and not slides(rows[1:, 0], friction, least):
            characters[character]["root_row"][action] = len(root_motion)
            root_motion.append(rows)

    for character in ATTRIBUTE_ROWS:
        row = characters[character]
        for index, smash in enumerate((60, 63, 64)):   # unmeasured: forward smashes four frames before they strike
            action = row["own_action"][smash]
            strike = (row["hit_row"][action] > 0).argmax()
            row["smash_hold"][action] = SMASH_HOLD.get(character, (max(strike - 4, 2), 2, 2))[index]
        for name, action in (("tilt_high", 51), ("tilt_low", 55)):
            row[name] = action if row["hit_row"][action].any() else 53
        if not row["frames"][256]:                     # no slow ledge attack: the quick one stands for it
            for name in ("frames", "hit_row", "root_row", "interruptible", "attack_id"):
                row[name][256] = row[name][257]
    velocities = [np.full((MAX_FRAMES, 3), np.nan, "f4")]
    for line in read_rows("velocities.csv"):
        row, action = characters[int(line["character"])], int(line["action"])
        if not row["velocity_row"][action]:
            row["velocity_row"][action] = len(velocities)
            velocities.append(np.full((MAX_FRAMES, 3), np.nan, "f4"))
        velocities[row["velocity_row"][action]][int(line["frame"])] = [
            float(line[name] or "nan") for name in ("ground_vx", "air_vx", "vy")]

    for line in read_rows("hitbox_shapes.csv"):        # of actions that libmelee does not show
        row, action, box = characters[int(line["character"])], int(line["action"]), int(line["hitbox"])
        for frame in range(int(line["first_frame"]), int(line["last_frame"]) + 1):
            move = nearest_window(windows, int(line["character"]), action, box, frame)
            if move is None:
                continue
            if not row["hit_row"][action, frame]:
                row["hit_row"][action, frame] = len(hitboxes)
                hitboxes.append(np.zeros((), HITBOXES))
            fill_hitbox(hitboxes[row["hit_row"][action, frame]], box, move, line["size"], line["x"], line["y"])
    for line in read_rows("actions.csv"):              # sorted: what anyone does comes before what one does
        character, action = int(line["character"]), int(line["action"])
        if character == ANYONE:
            unknown = characters["frames"][:, action] == 0
            characters["frames"][unknown, action] = int(line["frames"])
            characters["next_action"][:, action] = int(line["next_action"])
            continue
        row = characters[character]
        if action < 0:                                 # the character's usual value
            row["ecb_bottom"][:] = float(line["ecb_bottom"])
            continue
        for name, kind in (("frames", int), ("next_action", int), ("ecb_bottom", float)):
            if line[name]:
                row[name][action] = kind(line[name])
    for line in read_rows("special_chains.csv"):
        row, action = characters[int(line["character"])], int(line["action"])
        row["next_action"][action] = int(line["next_action"])
        if line["frames"]:
            row["frames"][action] = int(line["frames"])
    for line in read_rows("aerials.csv"):
        row, index = characters[int(line["character"])], int(line["action"]) - 65
        for name in ("landing_lag", "autocancel_before", "autocancel_after"):
            row[name][index] = float(line[name] or 0)
    for line in read_rows("throws.csv"):
        row, index = characters[int(line["character"])], int(line["action"]) - THROW_FORWARD
        row["throw_strike_frame"][index], row["throw_strike"][index] = line["strike_frame"], line["strike_damage"]
        row["throw_frame"][index], row["throw_length"][index] = float(line["release_frame"]), float(line["frames"])
        row["throw_by_weight"][index] = float(line["by_weight"])
        for name in ("damage", "angle", "growth", "base"):
            row["throw_" + name][index] = float(line[name])
    for row in characters:                             # straight to where throws usually let go, if never seen
        for index, release in enumerate(((10, 3), (-9, 6), (3, 20), (3, 2))):
            share = np.minimum(np.arange(MAX_FRAMES) / max(row["throw_frame"][index], 1), 1)[:, None]
            row["thrown_path"][index] = (row["hold_reach"], 0) * (1 - share) + np.array(release) * share
        row["pummel_path"] = row["hold_reach"], 0
    for line in read_rows("thrown.csv"):
        row, way = characters[int(line["character"])], int(line["action"]) - THROW_FORWARD
        path = row["thrown_path"][way] if way >= 0 else row["pummel_path"]
        path[int(line["frame"]):] = float(line["dx"]), float(line["dy"])
    for line in read_rows("ledge_poses.csv"):
        characters[int(line["character"])]["ledge_pose"][int(line["frame"])] = float(line["dx"]), float(line["dy"])
    for line in read_rows("dodges.csv"):
        character, action = int(line["character"]), int(line["action"])
        rows = characters if character == ANYONE else characters[character:character + 1]
        rows["dodge_first"][:, action], rows["dodge_last"][:, action] = line["first_frame"], int(line["last_frame"]) + 1
    for character, starts in GUESSED_SPECIALS.items():
        for airborne, direction, action in starts:
            characters[character]["special_start"][airborne, direction] = action
    for line in read_rows("specials.csv"):
        start = characters[int(line["character"])]["special_start"]
        start[int(line["airborne"]), int(line["direction"])] = int(line["action"])
    for row in characters:
        row["dodge_last"][row["guard_kind"] == GUARD_DODGE] = row["guard_last"][row["guard_kind"] == GUARD_DODGE] + 1
        row["dodge_first"][row["guard_kind"] == GUARD_DODGE] = row["guard_first"][row["guard_kind"] == GUARD_DODGE]
        for action in set(row["special_start"][:, 3]) - {0, *row["launch_actions"][:2]}:
            row["rises"][action] = root_motion[row["root_row"][action]][:, 1].sum() > 20
    marth = characters[MARTH]                          # libmelee's IASA flags of the sword dance open the next part
    marth["follow_from"][349:367], marth["interruptible"][349:367] = marth["interruptible"][349:367], 0

    stages = np.zeros(NUM_STAGES, STAGE)
    for stage, (floors, blast, spawns) in STAGE_ROWS.items():
        row = stages[stage]
        row["num_floors"] = len(floors)
        for index, (y, left, right) in enumerate(floors):
            row["floor_y"][index], row["floor_left"][index], row["floor_right"][index] = y, left, right
        row["blast_left"], row["blast_right"], row["blast_top"], row["blast_bottom"] = blast
        row["spawn_x"], row["spawn_y"] = np.transpose(spawns)
        row["wall_bottom"], row["hull"] = WALL_BOTTOM.get(stage, -30), HULL.get(stage, 2)
        row["slope_start"], row["slope"] = SLOPES.get(stage, (NO_SLOPE, 0))
        row["revive_x"], row["revive_y"] = REVIVE.get(stage, ((16, -16), 112.85))
    projectiles = np.zeros(NUM_ITEM_TYPES, PROJECTILE)
    for item_type, values in PROJECTILE_ROWS.items():
        projectiles[item_type] = values
    frames, left, height = RANDALL_PATH.T
    randall = np.stack([np.interp(np.arange(RANDALL_PERIOD), frames, values, period=RANDALL_PERIOD)
                        for values in (left, height)], axis=1)
    return Tables(characters, stages, np.array(hitboxes), np.array(root_motion), np.array(velocities), projectiles,
                  randall)


def slides(motion, friction, least):
    """Does a recorded motion along the floor only lose its friction each frame? Then it is not the animation's."""
    moving = np.flatnonzero(motion[1:] > 0) + 1
    losses = motion[moving - 1] - motion[moving]
    slowing = np.minimum(abs(losses - friction), abs(losses - 2 * friction)) < .011
    return len(moving) > least and motion[0] > 0 and slowing.all()


def fill_hitbox(record, box, move, size, x, y):
    """Shape from libmelee or hitbox_shapes.csv, blow from a row of moves.csv."""
    record["size"][box], record["x"][box], record["y"][box] = float(size), float(x), float(y)
    for name in ("damage", "angle", "growth", "set_knockback", "base"):
        record[name][box] = float(move[name])
    record["effect"][box] = EFFECTS.get(move["effect"], EFFECT_NORMAL)


def nearest_window(windows, character, action, box, frame):
    """The row of moves.csv for this hitbox on this frame; public frame data and libmelee differ by a frame at times."""
    rows = windows.get((character, action, box)) or [
        row for other in range(4) for row in windows.get((character, action, other), [])]
    def distance(row):
        first, last, _ = row
        return 0 if last == 0 else max(first - frame, frame - last, 0)
    return min(rows, key=distance)[2] if rows else None


def load_tables():
    """The tables, from the cache file if this very source, data and libmelee made it."""
    import importlib.metadata
    digest = hashlib.sha256(importlib.metadata.version("melee").encode())
    for path in [pathlib.Path(__file__), *sorted(DATA.glob("*.csv"))]:
        digest.update(path.read_bytes())
    name = f"mock_melee.{digest.hexdigest()[:16]}.npz"
    folders = [pathlib.Path(__file__).resolve().parent / "__pycache__",
               pathlib.Path(tempfile.gettempdir()) / f"mock_melee_{os.getuid() if hasattr(os, 'getuid') else 0}"]
    for folder in folders:
        try:
            with np.load(folder / name) as file:
                return Tables(*(file[field] for field in Tables._fields))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            continue
    tables = build_tables()
    for folder in folders:
        try:
            folder.mkdir(exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=folder, suffix=".npz", delete=False) as file:
                np.savez(file, **tables._asdict())
            os.replace(file.name, folder / name)       # whole or not at all: several processes may start together
            break
        except OSError:
            continue
    return tables


TABLES = load_tables()
jit = numba.njit(cache=True, nogil=True, error_model="numpy")  # numpy's error model: a division by zero is no exception

# ---------------------------------------------------------------------------------------------------------------------
# Actions, by Melee's ids
# ---------------------------------------------------------------------------------------------------------------------

DEAD_DOWN, DEAD_LEFT, DEAD_RIGHT, DEAD_UP, SLEEP, REBIRTH, REBIRTH_WAIT = 0, 1, 2, 4, 11, 12, 13
WAIT, WALK_SLOW, WALK_MIDDLE, WALK_FAST, TURN, TURN_RUN, DASH, RUN, RUN_BRAKE = 14, 15, 16, 17, 18, 19, 20, 21, 23
JUMPSQUAT, JUMP_FORWARD, JUMP_BACKWARD, DOUBLE_FORWARD, DOUBLE_BACKWARD = 24, 25, 26, 27, 28
FALL, FALL_AERIAL, FALL_SPECIAL, TUMBLE, CROUCH_START, CROUCH, CROUCH_END = 29, 32, 35, 38, 39, 40, 41
LANDING, LANDING_SPECIAL = 42, 43
JAB_1, JAB_2, DASH_ATTACK, FTILT_HIGH, FTILT, UTILT, DTILT, FSMASH, USMASH, DSMASH = (
    44, 45, 50, 51, 53, 56, 57, 60, 63, 64)
NAIR, FAIR, BAIR, UAIR, DAIR = 65, 66, 67, 68, 69
DAMAGE_FIRST, DAMAGE_AIR, DAMAGE_FLY_HIGH, DAMAGE_FLY, DAMAGE_FLY_LOW, DAMAGE_FLY_TOP, DAMAGE_LAST = (
    75, 84, 87, 88, 89, 90, 91)
SHIELD_START, SHIELD, SHIELD_RELEASE, SHIELD_STUN, SHIELD_REFLECT = 178, 179, 180, 181, 182
DOWN_BOUND_UP, DOWN_WAIT_UP, DOWN_BOUND_DOWN, DOWN_WAIT_DOWN, TECH, TECH_FORWARD, TECH_BACKWARD = (
    183, 184, 191, 192, 199, 200, 201)
WALL_TECH, WALL_TECH_JUMP, CEILING_TECH, BOUNCE_WALL, BOUNCE_CEILING = 202, 203, 204, 247, 248
SHIELD_BREAK_FLY, SHIELD_BREAK_FALL, FURAFURA, FROZEN = 205, 206, 211, 325
ROLL_FORWARD, ROLL_BACKWARD, SPOT_DODGE, AIR_DODGE, PLATFORM_DROP, TEETER, TEETER_WAIT = (
    233, 234, 235, 236, 244, 245, 246)
DOWN_DAMAGE_UP, DOWN_DAMAGE_DOWN = 185, 193
DOWN_STAND, DOWN_ATTACK, DOWN_ROLL_FORWARD, DOWN_ROLL_BACKWARD = 186, 187, 188, 189  # face up; face down eight further
REBOUND, LEDGE_CATCH, LEDGE_HANG = 238, 252, 253
LEDGE_CLIMB_SLOW, LEDGE_CLIMB, LEDGE_ATTACK_SLOW, LEDGE_ATTACK, LEDGE_ROLL_SLOW, LEDGE_ROLL, LEDGE_JUMP_SLOW, LEDGE_JUMP = (
    254, 255, 256, 257, 258, 259, 260, 262)            # a jump's second half is the next id
SHINE_FIRST, SHINE, SHINE_END, SHINE_AIR, SHINE_LAST, SHINE_IN_AIR, SHINE_FRAMES = 360, 361, 363, 366, 369, 5, 18
SECOND_FSMASH = 341                                    # Link's
HOOKSHOT, TETHER_REACH = 360, 18                       # Link's, in the air: its reach beyond the arms is a guess
ITEM_THROW, ITEM_DROP, ITEM_THROW_AIR = 94, 99, 6      # forward, back, up, down from 94 on; in the air six ids further
BUTTON_XY, BUTTON_LR, BUTTON_LRZ = BUTTON_X | BUTTON_Y, BUTTON_L | BUTTON_R, BUTTON_L | BUTTON_R | BUTTON_Z

# Stick thresholds in processed units. The stick moves in steps of 1/80; between two steps there is room for rounding.
TILT, JUMP_Y, SMASH, DASH_X, WALK_X, CROUCH_Y, RUN_X, DROP_Y, ROLL_X, SIDE_SPECIAL, UP_SPECIAL = (
    .28, .66, .66, .8, .275, -.6125, .62, -.66, .695, .6, .55)
TURN_DASH_X = .93                                      # a slow turn's stick must travel this far in two frames to dash: UCF
MAX_TIMER, TECH_WINDOW, TECH_LOCKOUT, AIR_DODGE_DRIFT = 254, 20, 40, 29
OIL_PANIC_FRAMES, SHIELD_BREAKER_GAIN, DIZZY_FRAMES = 49, 21, 490  # a bucket's shortest time; damage of full charge
TILT_STEEP, TILT_ANGLED = 1.19, .31                    # tangents of 50 and 17 degrees
TURNAROUND_FRAMES = 20                                 # for so long a tilt back turns a neutral special in the air
HANG_FRESH, HANG_TIRED = 640, 480                      # frames one can hang on the ledge, below and above 100 %
WALL_HOLD, WALL_TECH_FRAMES, WALL_JUMP_FRAMES, TECH_INTANGIBLE = 5, 26, 40, 15  # the first is measured; guesses
WALL_JUMP, BOUNCE_KEEPS = (1.3, 3.6), .8               # measured with Falco; public
WALL_TOUCH, WALL_JUMP_WINDOW = 2.0, 3                  # how near and how fresh a flick off the wall must be; guesses
TURN_DASH = 2  # value of `flag`: this turn ends in a dash
FIRST_JUMP_FRAME = 7  # value of `flag`: this frame the ground jump has neither gravity nor drift


@jit
def set_action(p, h, action):
    p.action, p.state_age = action, 0
    if action == DASH or action == TURN or ROLL_FORWARD <= action <= SPOT_DODGE:
        p.state_age = 1
    h.action_frames, h.flag, h.has_hit, h.queued, h.boost, h.smash_charge = 0, 0, 0, 0, 0, 0


@jit
def leave_ground(p, h):
    p.airborne, p.jumps, h.air_frames, p.fastfall = 1, 1, 0, 0
    p.self_vy = 0


# ---------------------------------------------------------------------------------------------------------------------
# Random numbers: a hash of seed, frame and purpose, so that no stream has to be carried along (splitmix64)
# ---------------------------------------------------------------------------------------------------------------------

@jit
def random_uniform(seed, frame, purpose):
    z = np.uint64(seed) + np.uint64(frame + 1000) * np.uint64(0x9E3779B97F4A7C15)
    z += np.uint64(purpose) * np.uint64(0xD1B54A32D192ED03)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.float64((z ^ (z >> np.uint64(31))) >> np.uint64(11)) * 2.0 ** -53


# ---------------------------------------------------------------------------------------------------------------------
# 1. The controller
# ---------------------------------------------------------------------------------------------------------------------

@jit
def legal_axis(value):
    if not abs(value) <= 10:                           # also NaN
        return 0.0 if value != value else np.sign(value)
    return value


@jit
def legal_stick(x, y):
    """Dead zone on each axis, then the rim of the unit circle."""
    x, y = legal_axis(x), legal_axis(y)
    if abs(x) < .28:
        x = 0.0
    if abs(y) < .28:
        y = 0.0
    length = np.sqrt(x * x + y * y)
    if length > 1.01:                                  # the game's own rounding leaves real sticks up to 1.006 long
        x, y = x / length, y / length
    return x, y


@jit
def read_controller(h, pad):
    """Takes this frame's controller over, the former one becoming the last, and updates the input timers."""
    h.last_stick_x, h.last_stick_y, h.last_c_x, h.last_c_y = h.stick_x, h.stick_y, h.c_x, h.c_y
    h.last_trigger, h.last_buttons = h.trigger, h.buttons
    h.stick_x, h.stick_y = legal_stick(pad.main_x, pad.main_y)
    h.c_x, h.c_y = legal_stick(pad.c_x, pad.c_y)
    trigger = min(max(legal_axis(pad.l), legal_axis(pad.r), 0.0), 1.0)
    h.trigger = trigger if trigger >= .3 else 0.0
    h.buttons = pad.buttons
    h.tilt_x_age = tilt_age(h.tilt_x_age, h.stick_x, h.last_stick_x)
    h.tilt_y_age = tilt_age(h.tilt_y_age, h.stick_y, h.last_stick_y)
    fresh = pressed(h, BUTTON_LRZ) or (h.trigger > 0 and h.last_trigger == 0)
    h.trigger_age = 0 if fresh else min(h.trigger_age + 1, MAX_TIMER)
    h.tilt_side_age = min(h.tilt_side_age + 1, MAX_TIMER)
    if h.tilt_x_age == 0:
        h.tilt_side, h.tilt_side_age = 1 if h.stick_x > 0 else -1, 0
    h.tech_lockout = max(h.tech_lockout - 1, 0)
    if fresh:                                          # pressing again and again does not help
        h.tech_void = h.tech_lockout > 0
        if not h.tech_void:
            h.tech_lockout = TECH_LOCKOUT


@jit
def tilt_age(age, now, last):
    if now >= .25:
        return min(age + 1, MAX_TIMER) if last >= .25 else 0
    if now <= -.25:
        return min(age + 1, MAX_TIMER) if last <= -.25 else 0
    return MAX_TIMER


@jit
def pressed(h, mask):
    return (h.buttons & ~h.last_buttons & mask) != 0


@jit
def jump_pressed(h):
    return pressed(h, BUTTON_XY) or (h.stick_y >= JUMP_Y and h.tilt_y_age < 4)


@jit
def jump_held(h):
    return (h.buttons & BUTTON_XY) != 0 or h.stick_y >= JUMP_Y


@jit
def shield_held(h):
    return (h.buttons & BUTTON_LR) != 0 or h.trigger >= .3


@jit
def dash_flick(h):
    return abs(h.stick_x) >= DASH_X and h.tilt_x_age < 2


@jit
def c_stick_up(h):
    return h.c_y >= SMASH and h.last_c_y < SMASH


@jit
def special_direction(h):
    """B: 0 none, 1 neutral, 2 side, 3 up, 4 down."""
    if not pressed(h, BUTTON_B):
        return 0
    if h.stick_y >= UP_SPECIAL:
        return 3
    if h.stick_y <= -UP_SPECIAL:
        return 4
    return 2 if abs(h.stick_x) >= SIDE_SPECIAL else 1


# ---------------------------------------------------------------------------------------------------------------------
# 2. What inputs start
# ---------------------------------------------------------------------------------------------------------------------

@jit
def start_dash(p, h):
    set_action(p, h, DASH)


@jit
def start_walk(p, h, c):
    set_action(p, h, walk_action(p, c))


@jit
def walk_action(p, c):
    speed = abs(p.self_vx_ground)
    return WALK_SLOW + (speed > .4 * c.walk_max) + (speed > .8 * c.walk_max)


@jit
def start_platform_drop(p, h):
    set_action(p, h, PLATFORM_DROP)
    leave_ground(p, h)


@jit
def start_double_jump(p, h, c):
    set_action(p, h, DOUBLE_BACKWARD if h.stick_x * p.facing < -.3 else DOUBLE_FORWARD)
    p.self_vy, p.self_vx_air = c.full_hop * c.double_jump, h.stick_x * c.double_drift
    p.jumps, p.fastfall = 0, 0


@jit
def start_air_dodge(p, h):
    set_action(p, h, AIR_DODGE)
    length = np.sqrt(h.stick_x ** 2 + h.stick_y ** 2)
    p.self_vx_air = 3.1 * h.stick_x / length if length > 0 else 0.0
    p.self_vy = 3.1 * h.stick_y / length if length > 0 else 0.0
    p.fastfall = 0


@jit
def ground_attack(p, h, facing):
    """The common action id of the ground attack these inputs ask for, 0 none; smashes turn the character."""
    if abs(h.c_x) >= DASH_X and abs(h.last_c_x) < DASH_X:
        p.facing = 1 if h.c_x > 0 else -1
        return FSMASH
    if c_stick_up(h):
        return USMASH
    if h.c_y <= -SMASH and h.last_c_y > -SMASH:
        return DSMASH
    if not pressed(h, BUTTON_A):
        return 0
    if abs(h.stick_x) >= DASH_X and h.tilt_x_age < 3:
        p.facing = 1 if h.stick_x > 0 else -1
        return FSMASH
    if h.stick_y >= SMASH and h.tilt_y_age < 3:
        return USMASH
    if h.stick_y <= -SMASH and h.tilt_y_age < 3:
        return DSMASH
    if h.stick_x * facing >= TILT and abs(h.stick_y) < TILT_STEEP * abs(h.stick_x):
        return FTILT
    if h.stick_y <= -TILT:
        return DTILT
    return UTILT if h.stick_y >= TILT else JAB_1


@jit
def start_ground_attack(p, h, c, attack):
    """Forward tilts come straight, or up or down with the stick."""
    action = c.own_action[attack]
    if attack == FTILT and abs(h.stick_y) > TILT_ANGLED * abs(h.stick_x):
        action = c.tilt_high if h.stick_y > 0 else c.tilt_low
    set_action(p, h, action)


@jit
def air_attack(p, h):
    x, y = h.stick_x, h.stick_y
    if max(abs(h.c_x), abs(h.c_y)) >= .3 and max(abs(h.last_c_x), abs(h.last_c_y)) < .3:
        x, y = h.c_x, h.c_y
    elif not pressed(h, BUTTON_A | BUTTON_Z):
        return 0
    if abs(x) < .28 and abs(y) < .28:
        return NAIR
    if abs(x) >= abs(y):
        return FAIR if x * p.facing > 0 else BAIR
    return UAIR if y > 0 else DAIR


@jit
def draw_judge(h):
    """One of the hammers 0 to 8 that were neither the last nor the one before."""
    low, high = min(h.last_judge, h.judge_before), max(h.last_judge, h.judge_before)
    choices = 8 if low == high else 7
    number = int(choices * h.luck)
    number += number >= low
    number += low != high and number >= high
    h.judge_before, h.last_judge = h.last_judge, number
    return number


@jit
def start_special(p, h, c, direction):
    """Side specials go where the stick points, and neutral ones in the air where it pointed last."""
    if p.character == LINK and direction == 4 and h.holding:
        return                                         # one bomb at a time
    back = h.stick_x * p.facing < 0
    if direction == 1:                                 # in the air a stick that was back a moment ago is enough
        back = p.airborne and h.tilt_side * p.facing < 0 and h.tilt_side_age < TURNAROUND_FRAMES
    if back and direction <= 2:
        p.facing = -p.facing
    set_action(p, h, c.special_start[p.airborne, direction])
    if p.character == GAMEANDWATCH and direction == 4 and h.bucket >= FILLED_BUCKET:
        pour_bucket(p, h)
    if p.character == GAMEANDWATCH and direction == 2:  # Judge: one of nine hammers
        p.action += draw_judge(h)


@jit
def start_shield(p, h):
    """A digital press makes the shield a power shield for its first frames."""
    set_action(p, h, SHIELD_REFLECT if pressed(h, BUTTON_LR) else SHIELD_START)


@jit
def pour_bucket(p, h):
    """A full bucket hits with one and a half times what it caught, and a little more."""
    damage = h.bucket_damage
    set_action(p, h, 380 if p.airborne else 377)
    h.boost = np.floor(1.5 * damage + 5) - 1           # the move's own damage is 1
    h.bucket, h.bucket_damage = 0, 0


@jit
def throw_item(p, h):
    """A bomb in hand goes before attacks: A or Z throws it along the stick, Z drops it in the air."""
    if h.holding == 0 or not pressed(h, BUTTON_A | BUTTON_Z):
        return False
    x, y = h.stick_x * p.facing, h.stick_y
    if p.airborne and not pressed(h, BUTTON_A):
        action = ITEM_DROP
    elif max(abs(x), abs(y)) < TILT or (x >= 0 and abs(x) >= abs(y)):
        action = ITEM_THROW
    elif abs(y) > abs(x):
        action = ITEM_THROW + (2 if y > 0 else 3)
    else:
        action = ITEM_THROW + 1
    set_action(p, h, action + ITEM_THROW_AIR if p.airborne and action != ITEM_DROP else action)
    return True


@jit
def start_from_stand(p, h, c, may_turn, may_move):
    """Everything a free, standing character can start; True if something did."""
    if throw_item(p, h):
        return True
    direction = special_direction(h)
    if direction:
        if c.special_start[0, direction]:
            start_special(p, h, c, direction)
        return c.special_start[0, direction] > 0
    if pressed(h, BUTTON_Z) or (pressed(h, BUTTON_A) and shield_held(h)):
        set_action(p, h, GRAB)
        return True
    attack = ground_attack(p, h, p.facing)
    if attack:
        start_ground_attack(p, h, c, attack)
    elif shield_held(h):
        start_shield(p, h)
    elif jump_pressed(h):
        set_action(p, h, JUMPSQUAT)
    elif may_turn and dash_flick(h) and h.stick_x * p.facing > 0:
        start_dash(p, h)
    elif may_turn and h.stick_x * p.facing <= -TILT:
        set_action(p, h, TURN)
    elif may_move and h.stick_y <= CROUCH_Y and -h.stick_y > abs(h.stick_x):
        set_action(p, h, CROUCH_START)
    elif may_move and abs(h.stick_x) >= WALK_X:
        start_walk(p, h, c)
    else:
        return False
    return True


@jit
def start_from_air(p, h, c, may_jump):
    if throw_item(p, h):
        return
    direction = special_direction(h)
    if direction:
        if c.special_start[1, direction]:
            start_special(p, h, c, direction)
            p.fastfall = 0
        return
    attack = air_attack(p, h)
    if attack and p.character == LINK and pressed(h, BUTTON_Z):
        set_action(p, h, HOOKSHOT)
    elif attack:
        set_action(p, h, c.own_action[attack])
    elif pressed(h, BUTTON_LR):
        start_air_dodge(p, h)
    elif may_jump and p.jumps > 0 and jump_pressed(h):
        start_double_jump(p, h, c)


# ---------------------------------------------------------------------------------------------------------------------
# 3. The action runs out
# ---------------------------------------------------------------------------------------------------------------------

@jit
def in_damage(action):
    return DAMAGE_FIRST <= action <= DAMAGE_LAST or action == BOUNCE_WALL or action == BOUNCE_CEILING


@jit
def is_flying(action):
    """Flung by a strong blow, also after a bounce."""
    return DAMAGE_FLY_HIGH <= action <= DAMAGE_LAST or action == BOUNCE_WALL or action == BOUNCE_CEILING


GUARD_ANIMATION = 20  # frames of the animation that fills a shield's stun, measured
UNKNOWN_LENGTH = 40  # of an action that neither libmelee's table nor any replay shows


@jit
def is_held(action):
    """Caught, held or being thrown: the other decides what happens."""
    return CAUGHT_AIR <= action <= PUMMELED or THROWN_FORWARD <= action <= THROWN_DOWN


@jit
def action_length(p, h, c):
    """Frames this action lasts; 0 if it has no end of its own."""
    action, frames = p.action, h.action_frames
    if action == c.launch_actions[2]:
        return int(c.launch_frames)
    if action == GRAB_PULL or action == GRAB_DASH_PULL:
        return 2
    if action == PUMMEL:
        return 24
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
    if leaves_ledge(action):
        return 45
    if action == DASH:
        return int(c.dash_frames)
    if action == REBOUND:
        return REBOUND_FRAMES
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
    if is_down_damage(action) and p.in_hitstun:
        p.hitstun = max(0, p.hitstun - 1)
        p.in_hitstun = p.hitstun > 0
    if in_damage(action):                              # lasts until hitstun and animation are both over
        if p.in_hitstun:
            p.hitstun = max(0, p.hitstun - 1)
            p.in_hitstun = p.hitstun > 0
        if not p.in_hitstun and p.state_age >= damage_frames(action):
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
        return
    length = action_length(p, h, c)
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
    elif action == LANDING:
        following = WAIT
    elif action == CROUCH_START or action == c.own_action[DTILT]:
        following = CROUCH
    elif action == GRAB_PULL or action == GRAB_DASH_PULL or action == PUMMEL:
        following = HOLD
    elif is_held(action):                              # goes by what the other does
        return
    elif action == DOWN_BOUND_UP or action == DOWN_BOUND_DOWN:
        following = action + 1
    elif action == DOWN_WAIT_UP or action == DOWN_WAIT_DOWN:
        following = action + 2
    if action == c.launch_actions[0] or action == c.launch_actions[1]:
        start_launch(p, h, c)
        return
    if action == c.launch_actions[2]:
        p.self_vx_air, p.self_vy = p.self_vx_air * c.launch_kept, p.self_vy * c.launch_kept
    if action == c.transform_action[p.airborne]:
        p.character, following = c.transforms_into, c.transform_end[p.airborne]
    if following < 0 or (following == WAIT and p.airborne) or (following == FALL_SPECIAL and not p.airborne):
        following = FALL if p.airborne else WAIT
    set_action(p, h, following)
    h.flag = 1 if action == AIR_DODGE else 0           # its fall can be steered


@jit
def rapid_jab(p, h, c):
    """Blow upon blow, as long as A is pressed between two of them."""
    frame, row = min(h.action_frames, MAX_FRAMES - 1), c.hit_row[p.action]
    if pressed(h, BUTTON_A):
        h.flag = 1
    if row[frame] == 0 and row[frame - 1] > 0:         # a blow has just ended
        if h.flag == 0:
            set_action(p, h, c.rapid_jab[1])
        h.flag = 0
    elif frame >= c.frames[p.action]:
        asked = h.flag
        set_action(p, h, p.action)
        h.flag = asked


@jit
def start_launch(p, h, c):
    """Fire Fox, Teleport and the like: off along the stick, straight up without one."""
    length = np.sqrt(h.stick_x ** 2 + h.stick_y ** 2)
    x, y = (h.stick_x / length, h.stick_y / length) if length > 0 else (0.0, 1.0)
    if not p.airborne:
        leave_ground(p, h)
        p.jumps = 0
    set_action(p, h, c.launch_actions[2])
    p.self_vx_air, p.self_vy = c.launch_speed * x, c.launch_speed * y
    if x != 0:
        p.facing = 1 if x > 0 else -1


# ---------------------------------------------------------------------------------------------------------------------
# 4. Inputs change the action
# ---------------------------------------------------------------------------------------------------------------------

@jit
def in_shine(p):
    return (p.character == FOX or p.character == FALCO) and SHINE_FIRST <= p.action <= SHINE_LAST


@jit
def is_down_damage(action):
    """Hit while lying on the floor, too weakly to fly."""
    return action == DOWN_DAMAGE_UP or action == DOWN_DAMAGE_DOWN


@jit
def air_inputs(p, h, c):
    action = p.action
    if p.character == MARTH and sword_dance(p, h, c):
        return
    if in_shine(p):
        if action <= SHINE_AIR and p.jumps > 0 and jump_pressed(h):
            start_double_jump(p, h, c)
        elif action == SHINE_AIR and h.action_frames >= SHINE_FRAMES and (h.buttons & BUTTON_B) == 0:
            set_action(p, h, SHINE_END + SHINE_IN_AIR)
        return
    jumping = JUMP_FORWARD <= action <= DOUBLE_BACKWARD
    free = jumping or FALL <= action <= 34 or action == PLATFORM_DROP
    free = free or (action == TUMBLE or DAMAGE_AIR <= action < DAMAGE_FLY_HIGH) and not p.in_hitstun
    if c.aerial[action] >= 0:
        free = 0 < c.interruptible[action] <= h.action_frames + 1
    elif action == WALL_TECH_JUMP:
        free = h.action_frames > WALL_HOLD
    if not free:
        return
    if action == TUMBLE and h.action_frames == 0 and jump_held(h) and p.jumps > 0:  # pressed during hitstun
        start_double_jump(p, h, c)
        return
    first_jump_frame = jumping and h.flag == FIRST_JUMP_FRAME
    if h.action_frames > 0 or first_jump_frame or action == JUMP_FORWARD or action == JUMP_BACKWARD:
        start_from_air(p, h, c, h.action_frames > 0 or pressed(h, BUTTON_XY))
    elif not jumping:
        start_from_air(p, h, c, True)
    if action == TUMBLE and p.action == TUMBLE and dash_flick(h):
        set_action(p, h, FALL)


@jit
def ground_inputs(p, h, c, on_platform):
    action, frames = p.action, h.action_frames
    if p.character == MARTH and sword_dance(p, h, c):
        return
    if action == CROUCH_END:
        start_from_stand(p, h, c, False, False)
    elif action == WAIT or action == TEETER or action == TEETER_WAIT:
        start_from_stand(p, h, c, True, True)
    elif action == LANDING:
        if frames >= c.landing:
            started = start_from_stand(p, h, c, True, frames != c.landing or h.stick_y > CROUCH_Y)
            if not started and h.stick_y <= CROUCH_Y:
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
        if action >= SHINE_FIRST + SHINE_IN_AIR:       # it began in the air
            p.action = action - SHINE_IN_AIR
        elif action <= SHINE and jump_pressed(h):
            set_action(p, h, JUMPSQUAT)
        elif action == SHINE and frames >= SHINE_FRAMES and (h.buttons & BUTTON_B) == 0:
            set_action(p, h, SHINE_END)
    elif action == HOLD or ((action == GRAB_PULL or action == GRAB_DASH_PULL) and frames >= 2):
        hold_inputs(p, h)
    elif JAB_1 <= action <= DSMASH or c.aerial_landing[action] >= 0 or c.attack_id[action] > 0:
        if c.jab_next[action] and jab_again(p, h, c):
            return
        if 0 < c.interruptible[action] <= frames + 1:
            start_from_stand(p, h, c, True, True)
        elif action == FSMASH and p.character == LINK and frames > 15 and pressed(h, BUTTON_A):
            set_action(p, h, SECOND_FSMASH)
    elif action == DOWN_WAIT_UP or action == DOWN_WAIT_DOWN:
        floor_inputs(p, h)
    elif in_damage(action) and not p.in_hitstun:
        start_from_stand(p, h, c, True, True)


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
    if h.stick_y <= CROUCH_Y and -h.stick_y > abs(h.stick_x):
        set_action(p, h, CROUCH_START)
    elif abs(h.stick_x) < WALK_X:
        set_action(p, h, WAIT)
    else:
        p.action = walk_action(p, c)                   # speeding up changes the animation, not the timers


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
    if frames <= 1 and h.flag == 0 and far and abs(h.stick_x) >= DASH_X and h.stick_x * p.facing < 0 and h.tilt_x_age < 3:
        p.facing = -p.facing
        start_dash(p, h)
        return
    if frames == 1 and h.flag == 0 and abs(h.stick_x) >= DASH_X and h.stick_x * p.facing < 0 and h.tilt_x_age == 1:
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
    if throw_item(p, h) or side_special(p, h, c):
        return
    if jump_pressed(h):
        set_action(p, h, JUMPSQUAT)
    elif pressed(h, BUTTON_Z) or (pressed(h, BUTTON_A) and shield_held(h)):
        set_action(p, h, GRAB_DASH)
    elif shield_held(h):
        start_shield(p, h)
    elif abs(h.c_x) >= DASH_X and abs(h.last_c_x) < DASH_X:
        set_action(p, h, c.own_action[FSMASH])
    elif pressed(h, BUTTON_A):
        smash = frames < 4 and h.stick_x * p.facing >= DASH_X
        set_action(p, h, c.own_action[FSMASH] if smash else DASH_ATTACK)
    elif dash_flick(h) and h.stick_x * p.facing < 0:   # dash back
        set_action(p, h, TURN)
        p.self_vx_ground *= .25
    elif frames >= c.dash_to_run and h.stick_x * p.facing >= RUN_X:
        set_action(p, h, RUN)
    elif frames > c.dash_to_run and dash_flick(h) and h.stick_x * p.facing > 0:
        start_dash(p, h)


@jit
def run_inputs(p, h, c):
    if p.action == TURN_RUN and h.flag == 0 and p.self_vx_ground * p.facing <= 0:
        p.facing, h.flag = -p.facing, 1                # turns round once it has stopped
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
        elif h.stick_x * p.facing <= -TILT:
            set_action(p, h, TURN_RUN)
        elif h.stick_x * p.facing < RUN_X:
            set_action(p, h, RUN_BRAKE)
    elif p.action == RUN_BRAKE:
        if h.stick_x * p.facing <= -TILT:
            set_action(p, h, TURN_RUN)
        elif h.stick_y <= CROUCH_Y:
            set_action(p, h, CROUCH_START)


@jit
def jumpsquat_inputs(p, h, c):
    if (h.buttons & BUTTON_XY) == 0 and h.stick_y < JUMP_Y and h.action_frames > 0:
        h.flag = 1                                     # let go: short hop
    if c_stick_up(h) or (pressed(h, BUTTON_A) and h.stick_y >= SMASH):
        set_action(p, h, USMASH)
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
    elif settled and h.stick_y > CROUCH_Y:
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
    """Holding somebody: A pummels, a new tilt of the stick throws."""
    x, y = h.stick_x, h.stick_y
    fresh = h.tilt_x_age < 1 if abs(x) > abs(y) else h.tilt_y_age < 1
    if max(abs(h.c_x), abs(h.c_y)) >= TILT:
        x, y, fresh = h.c_x, h.c_y, max(abs(h.last_c_x), abs(h.last_c_y)) < TILT
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
    if not full and (h.buttons & BUTTON_B or (p.character == GAMEANDWATCH and h.action_frames < OIL_PANIC_FRAMES)):
        return
    if c.hold_end[place] < 0:
        set_action(p, h, FALL if place else WAIT)
        return
    set_action(p, h, c.hold_end[place] + (c.hold_full if full else 0))
    if p.character == MARTH and not full:
        h.boost = np.floor(SHIELD_BREAKER_GAIN * h.charge / c.hold_frames)


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
def extra_shots(items, index, p, h, c, t):
    """Arrows, boomerang, bombs, Din's Fire, and the lasers in Fox's and Falco's throws."""
    for number in range(c.num_extra_shots):
        shot = c.extra_shots[number]
        if shot.action != p.action or shot.frame != h.action_frames:
            continue
        if (shot.type == BOOMERANG or shot.type == BOMB) and owned(items, index, shot.type):
            continue
        slot = spawn_item(items, shot.type, index, p, h, shot.x, shot.y, t.projectiles[shot.type].life)
        if slot < 0:
            continue
        item = items[slot]
        item.vx, item.vy = shot.vx * p.facing, shot.vy
        if shot.type == ARROW:
            drawn = min(h.charge, FULL_ARROW) / FULL_ARROW
            item.vx = (ARROW_SPEED[0] + (ARROW_SPEED[1] - ARROW_SPEED[0]) * drawn) * p.facing
            item.damage, h.charge = FULL_ARROW_DAMAGE if drawn == 1 else 5 + int(10 * drawn), 0
        elif shot.type == BOOMERANG:                   # the stick aims it, and throws it harder
            item.vy = 1.2 * h.stick_y
            item.vx *= 1.3 if abs(h.stick_x) >= DASH_X else 1.0


@jit
def floor_inputs(p, h):
    """Lying on the floor: get-up attack, stand, roll. The ids come in two sets, face up and face down."""
    base = p.action - DOWN_WAIT_UP
    if pressed(h, BUTTON_A | BUTTON_B):
        set_action(p, h, base + DOWN_ATTACK)
    elif h.stick_y >= .6 or pressed(h, BUTTON_LR):
        set_action(p, h, base + DOWN_STAND)
    elif abs(h.stick_x) >= .6:
        set_action(p, h, base + (DOWN_ROLL_FORWARD if h.stick_x * p.facing > 0 else DOWN_ROLL_BACKWARD))


@jit
def ledge_inputs(p, h):
    """Hanging: down or away lets go, up or toward climbs, and jump, roll, attack; slower versions at 100 %."""
    if h.action_frames < 1:
        return
    toward = h.stick_x * p.facing
    slow = p.percent >= 100
    if pressed(h, BUTTON_LR):
        set_action(p, h, LEDGE_ROLL_SLOW if slow else LEDGE_ROLL)
    elif jump_pressed(h):
        set_action(p, h, LEDGE_JUMP_SLOW if slow else LEDGE_JUMP)
    elif pressed(h, BUTTON_A | BUTTON_B):
        set_action(p, h, LEDGE_ATTACK_SLOW if slow else LEDGE_ATTACK)
    elif (h.stick_y <= -TILT and h.tilt_y_age == 0) or (toward <= -TILT and h.tilt_x_age == 0) or (
            h.action_frames >= (HANG_TIRED if slow else HANG_FRESH)):
        set_action(p, h, FALL)
        leave_ground(p, h)
        p.self_vx_air, h.ledge_cooldown, h.air_frames = 0, 30, 12
    elif (h.stick_y >= TILT and h.tilt_y_age == 0) or (toward >= TILT and h.tilt_x_age == 0):
        set_action(p, h, LEDGE_CLIMB_SLOW if slow else LEDGE_CLIMB)


# ---------------------------------------------------------------------------------------------------------------------
# 5. Velocity
# ---------------------------------------------------------------------------------------------------------------------

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
def is_helpless(p, h, c):
    """Falls after an up special, not after an air dodge; one who is faster than it allows must have dodged."""
    return p.action == FALL_SPECIAL and h.flag == 0 and abs(p.self_vx_air) <= c.helpless_drift * c.air_max + .001


@jit
def fall(p, h, c):
    if p.fastfall:
        p.self_vy = -c.fast_fall
    else:
        p.self_vy = max(p.self_vy - c.gravity, -c.helpless_fall if is_helpless(p, h, c) else -c.fall_max)


@jit
def hover(p, h, c):
    """Illusion's and Fire Fox's start, the shine, Sheik's chain: they stop the fall for a while."""
    action, frame = p.action, h.action_frames
    keep = c.hover_keep[action]
    if frame == 0 and keep >= 0:
        p.self_vx_air = keep * p.facing if keep > 1 else keep * p.self_vx_air
        p.self_vy = 0
    p.self_vx_air = slowed(p.self_vx_air, c.hover_loss[action])
    if frame >= c.hover_frames[action] or p.self_vy < 0:
        p.self_vy = max(p.self_vy - c.hover_gravity[action], -c.fall_max)


@jit
def turned_rise(p, h, curve):
    """Game & Watch's up special: the stick as it was a frame before the rise turns all of it; its velocities tell by how much.
    The curve is that of an upright rise, its x to the side that he turns to."""
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
            p.self_vx_air, p.self_vy = WALL_JUMP[0] * p.facing, WALL_JUMP[1]
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


# ---------------------------------------------------------------------------------------------------------------------
# 6. The stage
# ---------------------------------------------------------------------------------------------------------------------

@jit
def floor_height(s, floor, x):
    y = s.floor_y[floor]
    return y - max(0.0, abs(x) - s.slope_start) * s.slope if floor == 0 else y


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
        return h.action_frames >= 40
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
    action = p.action
    p.y, p.airborne, p.self_vx_ground, p.self_vy = y + .0001, 0, p.self_vx_air, 0
    p.jumps, p.fastfall, h.air_frames = 2, 0, 0
    aerial = c.aerial[action]
    if in_shine(p):                                    # goes on, on the ground
        p.action = action - SHINE_IN_AIR
    elif action == AIR_DODGE or FALL_SPECIAL <= action <= 37:
        set_action(p, h, LANDING_SPECIAL)
    elif action == SHIELD_BREAK_FLY or action == SHIELD_BREAK_FALL:
        get_dizzy(p, h)
    elif aerial >= 0 and not auto_cancels(h, c, aerial):
        h.landed_cancel = p.l_cancel = 1 if h.trigger_age < 7 else 2
        set_action(p, h, c.own_action[70 + aerial])
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
            if is_flying(p.action) and p.in_hitstun and p.kb_vx * side < 0:
                meet_wall(p, h, side)
                return
        touching = -.01 <= (p.x - wall) * side - width * depth < WALL_TOUCH
        if touching and c.wall_jumps and JUMP_FORWARD <= p.action <= FALL_AERIAL + 2 and h.stick_x * side >= DASH_X and \
                h.tilt_x_age < WALL_JUMP_WINDOW:
            p.self_vx_air, p.self_vy, p.fastfall, p.facing = 0, 0, 0, side
            set_action(p, h, WALL_TECH_JUMP)           # Melee has no id of its own for it


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
    return h.trigger_age < TECH_WINDOW and not h.tech_void


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
    feet = 0.0 if h.air_frames < 10 else c.ecb_bottom[p.action]
    if s.wall_bottom < p.y < 0 and old_y <= .001:
        stop_at_wall(p, h, c, s, feet, old_x)
    if p.y < 0 and abs(p.x) < s.floor_right[0]:
        stop_below_stage(p, h, s, old_x, old_y)
    if p.y > old_y:
        return
    for floor in range(s.num_floors):
        y = floor_height(s, floor, p.x)
        crossed = old_y + feet >= y - .001 and p.y + feet < y
        if crossed and s.floor_left[floor] <= p.x <= s.floor_right[floor]:
            if floor == 0 or not passes_platform(p, h):
                p.ground = floor
                if c.lands_halfway and p.action == AIR_DODGE and h.air_frames == 0:
                    p.x = .5 * (old_x + p.x)
                land(p, h, c, y)
                return
    catch_ledge(p, h, c, s)


@jit
def catch_ledge(p, h, c, s):
    """The corner lies inside the box in front of a falling character who does not hold down, and nobody hangs there."""
    action = p.action
    able = JUMP_FORWARD <= action <= 37 or action == TUMBLE or action == PLATFORM_DROP or c.catches[action]
    height = floor_height(s, 0, s.floor_right[0])
    below = p.y - height
    if not able or h.ledge_cooldown > 0 or h.stick_y <= -.6 or below >= -2 or h.air_frames <= 1:
        return
    reach = TETHER_REACH if action == HOOKSHOT and p.character == LINK and 10 <= h.action_frames <= 17 else 0
    for side in (-1, 1):
        corner = s.floor_right[0] * side
        outside = (p.x - corner) * side
        if 0 < outside < LEDGE_BOX_WIDTH + reach and p.facing == -side and h.ledge_taken != side and \
                c.ledge_top - LEDGE_BOX_HEIGHT - reach < below < c.ledge_top:
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
    stops = JAB_1 <= action <= DSMASH or 183 <= action <= 201 or action == ROLL_FORWARD or action == ROLL_BACKWARD
    if stops or (p.facing == side and (action == WAIT or slow_walk or action == CROUCH_START or action == CROUCH)):
        p.x = s.floor_right[floor] if side > 0 else s.floor_left[floor]
        p.self_vx_ground = 0
        if action < JAB_1 and p.facing == side:
            set_action(p, h, TEETER)
        return
    leave_ground(p, h)
    p.self_vx_air = p.self_vx_ground
    if action < DAMAGE_FIRST or SHIELD_START <= action <= SHIELD_REFLECT:
        p.self_vx_air = min(max(p.self_vx_ground, -c.air_max), c.air_max)  # a run does not carry on into the air
        set_action(p, h, FALL)


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
        if learned and not np.isnan(t.velocities[learned, h.action_frames, 1]):
            dx, dy = t.velocities[learned, h.action_frames, 1], t.velocities[learned, h.action_frames, 2]
        p.x += dx * p.facing
        p.y += dy
        if p.y > height and p.airborne and p.x * side < s.floor_right[0] and p.action < LEDGE_JUMP_SLOW:
            p.y, p.airborne, p.jumps = floor_height(s, 0, p.x) + .0001, 0, 2


@jit
def on_ledge(action):
    return LEDGE_CATCH <= action <= LEDGE_JUMP_SLOW or action == LEDGE_JUMP


@jit
def leaves_ledge(action):
    """The second half of a jump from the ledge."""
    return action == LEDGE_JUMP_SLOW + 1 or action == LEDGE_JUMP + 1


WIND_PERIOD, WIND_FRAMES, WIND_SPEED, WIND_EDGE, WIND_LOW, WIND_HIGH = 1100, 270, .2, 76.2, -7, 40


@jit
def wind_direction(seed, frame_id):
    """Whispy blows now and then, to the left (1) or to the right (2) at random; 0 he does not."""
    period = frame_id // WIND_PERIOD
    start = period * WIND_PERIOD + 400 * random_uniform(seed, period, 70)
    if frame_id < 0 or not start <= frame_id < start + WIND_FRAMES:
        return 0
    return 1 if random_uniform(seed, period, 71) < .5 else 2


@jit
def blow(p, wind):
    """The wind pushes whoever stands or flies on its half of the stage, outward."""
    side = -1.0 if wind == 1 else 1.0
    free = p.hitlag <= 0 and p.action > REBIRTH_WAIT and not on_ledge(p.action) and not is_held(p.action)
    if free and 0 < p.x * side < WIND_EDGE and WIND_LOW < p.y < WIND_HIGH:
        p.x += WIND_SPEED * side


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


# ---------------------------------------------------------------------------------------------------------------------
# 7. Hits
# ---------------------------------------------------------------------------------------------------------------------

CLANK_LEAD, REBOUND_FRAMES = 9, 20                     # the frames are a guess
REPLACING_FRAMES = 10                                  # so soon after a hit the next one's knockback replaces the last
STALE_STEPS = np.array([.09, .08, .07, .06, .05, .04, .03, .02, .01])
SHIELD_SIZE, SHIELD_LIGHT, SHIELD_LEAN = .55, .25, 3.0  # guesses: radius by height, more when held lightly, by the stick
SMASH_FRAMES, SMASH_GAIN = 60, .3671                   # a smash held so long does so much more
FREEZE_FRAMES = 90                                     # a guess
GUARD_PUSH = .1207                                     # a blow's push by the frames of the stun, measured
SHIELD_HEALTH, SHIELD_REGEN, TUMBLE_KNOCKBACK, MAX_KNOCKBACK = 60.0, .07, 80.0, 2500.0


@jit
def stale_factor(h, attack):
    """Each equal entry among the last nine hits takes its share off, the newest .09."""
    factor = 1.0
    for place in range(9):
        if h.stale[place] == attack:
            factor -= STALE_STEPS[place]
    return factor


@jit
def remember_hit(h, attack):
    for place in range(8, 0, -1):
        h.stale[place] = h.stale[place - 1]
    h.stale[0] = attack


@jit
def knockback(percent, damage, staled, weight, growth, set_knockback, base):
    """Melee's formula; percent is the victim's before the hit. A set knockback stands for damage and percent."""
    if set_knockback > 0:
        p, d = 10.0, set_knockback
    else:
        p, d = np.floor(percent) + staled, damage
    value = growth / 100 * (1.4 * (200 / (weight + 100)) * (.1 * p + .05 * d * p) + 18) + base
    return min(value, MAX_KNOCKBACK)


@jit
def launch_angle(angle, force, airborne):
    """Angle 361 means 45 degrees in the air, and on the ground flat until the knockback is strong."""
    if angle != 361:
        return angle
    if airborne:
        return 45.0
    return min(max((force - 32) / .1, 0.0), 1.0) * 44


@jit
def hitlag_frames(damage, electric, crouching):
    frames = np.floor(damage / 3 + 3)
    if electric:
        frames = np.floor(frames * 1.5)
    return np.floor(frames * 2 / 3) if crouching else frames


@jit
def is_shielding(action):
    return SHIELD_START <= action <= 182 and action != SHIELD_RELEASE


@jit
def is_vulnerable(p):
    return p.hurtbox == 0 and p.action > REBIRTH_WAIT and p.stocks > 0


@jit
def body(p, c):
    """The hurtboxes as one upright capsule: (radius, bottom, top, forward). Fitted to who hit whom in real games."""
    action = p.action
    if CROUCH_START <= action <= CROUCH_END or action == DTILT:
        return 4.0, 0.0, c.height * .75, 2.0
    if action == DOWN_BOUND_UP or action == DOWN_BOUND_DOWN:
        return 4.0, 1.5, c.height * .6, 0.0
    if DOWN_WAIT_UP <= action < TECH:                  # lying
        return 3.0, 0.0, c.height * .6, 2.0
    if p.airborne:
        return 5.0, 0.0, c.height * 1.1, 0.0
    return 4.5, 0.0, c.height * 1.1, 1.0


@jit
def shield_bubble(v, vh, c):
    """The shield as a capsule without length: it shrinks with its health, grows when held lightly, leans with the stick."""
    scale = .15 + .85 * max(v.shield, 0.0) / SHIELD_HEALTH
    radius = (SHIELD_SIZE * c.height + 1) * scale * (1 + SHIELD_LIGHT * (1 - press(vh)))
    middle = .5 * c.height + SHIELD_LEAN * vh.stick_y
    return radius, middle - radius, middle + radius, SHIELD_LEAN * vh.stick_x * v.facing


@jit
def touching_box(a, ah, attack, before, v, target, grabbing):
    """First of the four boxes that touches the target, a body or a shield, -1 none. A box sweeps from where it was a
    frame before."""
    radius, bottom, top, forward = target
    if grabbing:                                       # grabs reach for the middle of the body
        radius *= .6
    body_x = v.x + forward * v.facing
    low, high = v.y + bottom + radius, v.y + max(top - radius, bottom + radius)
    for box in range(4):
        if attack.size[box] == 0 or (attack.effect[box] == EFFECT_GRAB) != grabbing:
            continue
        x, y = a.x + attack.x[box] * a.facing, a.y + attack.y[box]
        old_x, old_y = x, y
        if before.size[box] > 0:
            old_x, old_y = ah.old_x + before.x[box] * a.facing, ah.old_y + before.y[box]
        for step in range(4):
            now_x, now_y = x + (old_x - x) * step / 4, y + (old_y - y) * step / 4
            away_x, away_y = now_x - body_x, now_y - min(max(now_y, low), high)
            if away_x * away_x + away_y * away_y < (attack.size[box] + radius) ** 2:
                return box
    return -1


@jit
def attack_row(a, ah, ac):
    """This frame's row of HITBOXES, 0 none. A swing that comes back after a gap can hit again."""
    frame = ah.action_frames + 1
    if a.action >= NUM_ACTIONS or a.action < 0 or frame >= MAX_FRAMES:
        return 0
    row = ac.hit_row[a.action, frame]
    if row and frame > 1 and ac.hit_row[a.action, frame - 1] == 0 and a.hitlag == 0:
        ah.has_hit = 0
    return row if ah.has_hit == 0 and a.hitlag == 0 else 0


@jit
def hit_test(a, ah, ac, v, vh, vc, t):
    """-> (row, box) of the hit that lands this frame, box -1 if none. Nothing changes but the re-arming of a swing, and
    that a victim behind a shield is noted as poked when a box reaches past it."""
    if a.present == 0 or v.present == 0 or a.action <= REBIRTH_WAIT:
        return 0, -1
    row = attack_row(a, ah, ac)
    if row == 0 or not is_vulnerable(v):
        return 0, -1
    before = ac.hit_row[a.action, ah.action_frames] if ah.action_frames > 0 else 0
    grabbing = a.action == GRAB or a.action == GRAB_DASH
    vh.poked = 0
    if is_shielding(v.action) and not grabbing:
        box = touching_box(a, ah, t.hitboxes[row], t.hitboxes[before], v, shield_bubble(v, vh, vc), False)
        if box >= 0:
            return row, box
        vh.poked = 1
    return row, touching_box(a, ah, t.hitboxes[row], t.hitboxes[before], v, body(v, vc), grabbing)


@jit
def clashing_box(a, first, b, second):
    """The first box of a's swing that overlaps one of b's, -1 if none does; grabs do not clash."""
    for box in range(4):
        if first.size[box] == 0 or first.effect[box] == EFFECT_GRAB:
            continue
        for other in range(4):
            if second.size[other] == 0 or second.effect[other] == EFFECT_GRAB:
                continue
            dx = a.x + first.x[box] * a.facing - b.x - second.x[other] * b.facing
            dy = a.y + first.y[box] - b.y - second.y[other]
            if dx * dx + dy * dy < (first.size[box] + second.size[other]) ** 2:
                return box
    return -1


@jit
def clank(a, ah, ac, b, bh, bc, t):
    """Two grounded swings that meet: both rebound, or only the one that is weaker by nine percent or more."""
    if a.airborne or b.airborne or a.stocks <= 0 or b.stocks <= 0:
        return
    row, other_row = attack_row(a, ah, ac), attack_row(b, bh, bc)
    if row == 0 or other_row == 0:
        return
    first, second = t.hitboxes[row], t.hitboxes[other_row]
    box, other = clashing_box(a, first, b, second), clashing_box(b, second, a, first)
    if box < 0:
        return
    lead = first.damage[box] - second.damage[other]
    if lead < CLANK_LEAD:
        rebound(a, ah, first.damage[box])
    if -lead < CLANK_LEAD:
        rebound(b, bh, second.damage[other])


@jit
def rebound(p, h, damage):
    set_action(p, h, REBOUND)
    p.hitlag = hitlag_frames(damage, False, False)
    p.self_vx_ground = -p.facing * min(.06 * damage, 1.0)


@jit
def connect(a, ah, ac, v, vh, vc, attack, box, attack_id):
    if box < 0:
        return
    if attack.effect[box] == EFFECT_INERT:             # only feels for somebody
        set_action(a, ah, ac.hit_action[a.action])
    elif attack.effect[box] != EFFECT_GRAB:
        land_hit(a, ah, ac, v, vh, vc, attack, box, attack_id)
    elif (a.action == GRAB or a.action == GRAB_DASH) and not is_held(v.action):  # not if he was hit or grabbed first
        start_grab(a, ah, v, vh)


@jit
def land_hit(a, ah, ac, v, vh, vc, attack, box, attack_id):
    damage = attack.damage[box] * (1 + SMASH_GAIN * ah.smash_charge / SMASH_FRAMES) + ah.boost
    staled = damage * stale_factor(ah, attack_id)
    electric = attack.effect[box] == EFFECT_ELECTRIC
    ah.has_hit = 1
    side = 1.0 if v.x > a.x or (v.x == a.x and a.facing > 0) else -1.0
    if is_shielding(v.action) and not vh.poked:
        hit_shield(a, v, vh, staled, side)
        return
    if guard(v, vh, vc) == GUARD_COUNTER:
        counter(a, v, vh, staled)
        return
    crouching = CROUCH_START <= v.action <= CROUCH_END
    force = knockback(v.percent, damage, staled, vc.weight, attack.growth[box], attack.set_knockback[box],
                      attack.base[box])
    force *= toughness(v, vh, vc)
    a.hitlag = max(a.hitlag, hitlag_frames(staled, electric, False))
    v.hitlag = max(v.hitlag, hitlag_frames(staled, electric, crouching))
    v.percent = min(v.percent + staled, 999)
    if ah.queued == 0:                                 # a swing enters once; its further hits are the staler for it
        remember_hit(ah, attack_id)
        ah.queued = 1
    a.last_attack, v.last_hit_by = attack_id, a.port
    a.combo = a.combo + 1 if ah.combo_timer > 0 else 1
    ah.combo_timer = 45
    lose_charge(v, vh, vc)
    if attack.effect[box] == EFFECT_STUN:
        stun(a, v, vh)
    elif force > 0:
        contact = (a.y + attack.y[box] - v.y) / vc.height
        launch(v, vh, launch_angle(attack.angle[box], force, v.airborne), force, side, contact)
        if attack.effect[box] == EFFECT_FREEZE:
            freeze(v, vh)
    if a.character == GAMEANDWATCH and (a.action == JUDGE_FIRST or a.action == JUDGE_FIRST + JUDGE_AIR):
        a.percent = min(a.percent + JUDGE_ONE_COST, 999)
    if 0 <= a.action < NUM_ACTIONS and ac.hit_action[a.action] == DIVE_HIT:
        bounce_off(a, ah, DIVE_HIT)


@jit
def toughness(v, vh, vc):
    """What the victim's own doing makes of the knockback: crouching, frozen, winding up a smash."""
    if CROUCH_START <= v.action <= CROUCH_END:
        return 2 / 3
    if v.action == FROZEN:
        return .25
    return 1.2 if vh.smash_charge > 0 and vh.action_frames == vc.smash_hold[v.action] else 1.0


@jit
def guard(p, h, c):
    """What this frame of a special does to blows and shots: GUARD_REFLECT, _ABSORB, _COUNTER, 0 nothing."""
    action = p.action
    if action < 0 or action >= NUM_ACTIONS or not c.guard_first[action] <= h.action_frames <= c.guard_last[action]:
        return 0
    return c.guard_kind[action]


@jit
def counter(a, v, vh, staled):
    """Marth's Counter: the blow hurts nobody, and he strikes back."""
    v.facing = 1 if a.x > v.x else -1
    set_action(v, vh, v.action + 1)
    a.hitlag = v.hitlag = hitlag_frames(staled, False, False)
    vh.hurt_kind, vh.hurt_timer = 2, int(v.hitlag) + 8


@jit
def lose_charge(v, vh, vc):
    """Hit while charging: it is gone."""
    if v.action == vc.charge_action[0] or v.action == vc.charge_action[1] or (
            v.action == vc.hold_action[0] or v.action == vc.hold_action[1]):
        vh.charge = 0


@jit
def stun(a, v, vh):
    """Disable: who stands and looks at Mewtwo is dizzy for a while; nobody else is moved by it."""
    if v.airborne or v.facing * (a.x - v.x) <= 0 or is_held(v.action):
        return
    set_action(v, vh, FURAFURA)
    vh.grab_timer = int(min(60 + v.percent, DIZZY_FRAMES))


@jit
def freeze(v, vh):
    """In a block of ice: flies and falls as launched, and cannot act before it thaws; mashing helps."""
    set_action(v, vh, FROZEN)
    v.in_hitstun, v.hitstun = 0, 0
    vh.grab_timer = FREEZE_FRAMES


@jit
def combined(old, new):
    """Knockback upon knockback, per axis: the stronger of two the same way, the sum of two against each other."""
    if old * new < 0:
        return old + new
    return old if abs(old) > abs(new) else new


@jit
def bounce_off(a, ah, following):
    """Falcon Dive and Dark Dive: away from the caught victim, free again afterwards."""
    set_action(a, ah, following)
    leave_ground(a, ah)
    a.self_vx_air, a.self_vy = -.5 * a.facing, DIVE_BOUNCE


@jit
def launch(v, vh, angle, force, side, contact):
    """Knockback velocity, hitstun and the damage action."""
    radians = angle * np.pi / 180
    speed = .03 * force
    vx, vy = side * speed * np.cos(radians), speed * np.sin(radians)
    if v.airborne and not (in_damage(v.action) and vh.action_frames < REPLACING_FRAMES):
        vx, vy = combined(v.kb_vx, vx), combined(v.kb_vy, vy)
    v.kb_vx, v.kb_vy = vx, vy
    v.self_vx_air, v.self_vy, v.self_vx_ground = 0, 0, 0
    v.facing, v.fastfall = -side, 0
    hitstun = max(np.floor(.4 * force), 1)
    flying = force >= TUMBLE_KNOCKBACK
    part = 0 if contact > 1.2 else 1 if contact > .05 else 2  # hit high, in the middle, low
    was_airborne = v.airborne
    if not v.airborne and v.kb_vy < 0:
        v.kb_vy = -.8 * v.kb_vy if flying else 0       # bounces off the floor, or stays on it
    if not v.airborne and (flying or v.kb_vy > 0):
        leave_ground(v, vh)
    if not flying and DOWN_BOUND_UP <= v.action < TECH:
        action = DOWN_DAMAGE_UP if v.action < DOWN_BOUND_DOWN else DOWN_DAMAGE_DOWN
    elif flying:
        action = DAMAGE_FLY_TOP if 75 < angle < 105 else DAMAGE_FLY_HIGH + part
    else:
        level = 0 if hitstun < 10 else 1 if hitstun < 21 else 2
        action = (DAMAGE_AIR if was_airborne else DAMAGE_FIRST + 3 * part) + level
    set_action(v, vh, action)
    v.state_age = 1
    v.hitstun, v.in_hitstun = hitstun, 1


@jit
def hit_shield(a, v, vh, staled, side):
    a.hitlag = hitlag_frames(staled, False, False)
    if not a.airborne:
        a.self_vx_ground -= side * min(2.0, staled * .06)
    block(v, vh, staled, side)


@jit
def press(h):
    """How hard the shield is held: the lighter, the larger it is, and the more it gives way."""
    return 1.0 if h.buttons & BUTTON_LR else h.trigger


@jit
def is_power_shield(v, vh, frames):
    """A digital press just before the blow: the shield takes no harm."""
    return v.action == SHIELD_REFLECT and vh.action_frames < frames


@jit
def block(v, vh, staled, side):
    if not is_power_shield(v, vh, 4):
        v.shield = v.shield - staled * (.9 - .2 * press(vh))
    v.hitlag = hitlag_frames(staled, False, False)
    stun = (np.floor(staled) * (.95 - .65 * press(vh)) / .3 + 4.45) / 2.235
    vh.guard_frames = int(np.ceil(stun))
    set_action(v, vh, SHIELD_STUN)
    v.self_vx_ground = side * min(2.0, stun * GUARD_PUSH)
    if v.shield <= 0:
        break_shield(v, vh)


@jit
def break_shield(v, vh):
    v.shield = 30
    set_action(v, vh, SHIELD_BREAK_FLY)
    leave_ground(v, vh)
    v.self_vy, v.self_vx_air = 2.5, 0
    v.hitlag = 0
    vh.hurt_kind, vh.hurt_timer = 1, 40


# ---------------------------------------------------------------------------------------------------------------------
# 8. Grabs and throws
# ---------------------------------------------------------------------------------------------------------------------

@jit
def is_grab(action):
    return action == GRAB or action == GRAB_DASH


@jit
def is_holding(action):
    return action == GRAB_PULL or GRAB_DASH_PULL <= action <= PUMMEL or THROW_FORWARD <= action <= THROW_DOWN


@jit
def start_grab(a, ah, v, vh):
    set_action(a, ah, GRAB_PULL if a.action == GRAB else GRAB_DASH_PULL)
    set_action(v, vh, CAUGHT_AIR if v.airborne else CAUGHT)
    v.facing = -a.facing
    v.self_vx_air, v.self_vy, v.self_vx_ground, v.kb_vx, v.kb_vy, v.fastfall = 0, 0, 0, 0, 0, 0
    v.in_hitstun, v.hitstun = 0, 0
    a.self_vx_ground = 0
    vh.grab_timer = int(90 + 1.7 * v.percent)


@jit
def step_grab(a, ah, ac, v, vh, vc):
    """The holder's action moves the one he holds; runs after both players' own frame."""
    if not is_held(v.action):
        return
    if not is_holding(a.action):                       # lost his grip: was hit, or the hold broke
        let_go(a, ah, v, vh)
        return
    frame = ah.action_frames + 1
    if a.action == GRAB_PULL or a.action == GRAB_DASH_PULL:
        if frame > 1:
            v.x = a.x + ac.pull_reach * a.facing
    elif a.action <= PUMMEL:
        hold = HELD_AIR if v.action <= PUMMELED_AIR else HELD
        if a.action == PUMMEL and a.hitlag == 0 and frame < MAX_FRAMES:  # shaken by the pummel
            v.x = a.x + ac.pummel_path[frame - 1, 0] * a.facing
            if v.airborne and frame > 1:
                v.y += ac.pummel_path[frame - 1, 1] - ac.pummel_path[frame - 2, 1]
        elif a.action == HOLD:
            v.x = a.x + ac.hold_reach * a.facing
        if v.action < hold or (v.action > hold and vh.action_frames >= 20):
            set_action(v, vh, hold)
        if a.action == PUMMEL and frame == ac.pummel_frame + 1 and a.hitlag == 0:
            pummel(a, ah, ac, v, vh)
        mash(a, ah, v, vh)
    else:
        throw(a, ah, ac, v, vh, vc, frame)


@jit
def pummel(a, ah, ac, v, vh):
    staled = ac.pummel_damage * stale_factor(ah, 52)
    remember_hit(ah, 52)
    v.percent = min(v.percent + staled, 999)
    set_action(v, vh, PUMMELED_AIR if v.action <= PUMMELED_AIR else PUMMELED)
    a.hitlag = v.hitlag = hitlag_frames(staled, False, False)
    a.last_attack, v.last_hit_by = 52, a.port


@jit
def mash(a, ah, v, vh):
    """Every new press takes six frames off the hold."""
    vh.grab_timer -= 7 if pressed(vh, 0xFFF) or vh.tilt_x_age == 0 or vh.tilt_y_age == 0 else 1
    if vh.grab_timer <= 0 and a.action == HOLD:
        let_go(a, ah, v, vh)


@jit
def let_go(a, ah, v, vh):
    set_action(v, vh, BREAK_FREE if not v.airborne else FALL)
    v.self_vx_ground = -.96 * v.facing
    if is_holding(a.action):
        set_action(a, ah, GRAB_BREAK)
        a.self_vx_ground = .96 * v.facing


@jit
def throw(a, ah, ac, v, vh, vc, frame):
    """Some throws are as slow as the victim is heavy; all launch as if everybody weighed 100."""
    way = a.action - THROW_FORWARD
    slow = vc.weight / 100 if ac.throw_by_weight[way] else 1.0
    ah.throw_frames = int(ac.throw_length[way] * slow)
    if not THROWN_FORWARD <= v.action <= THROWN_DOWN:
        set_action(v, vh, THROWN_FORWARD + way)
    attack_id = 53 + way
    factor = stale_factor(ah, attack_id)
    if frame == ac.throw_strike_frame[way]:
        v.percent = min(v.percent + ac.throw_strike[way] * factor, 999)
    start_facing = -a.facing if ah.flag == 1 else a.facing
    v.state_age = frame / slow                         # the animation carries him along, the faster the lighter he is
    before = int(min(v.state_age, MAX_FRAMES - 2))
    part = min(v.state_age - before, 1.0)
    path = ac.thrown_path[way]
    v.x = a.x + (path[before, 0] * (1 - part) + path[before + 1, 0] * part) * start_facing
    v.y = a.y + path[before, 1] * (1 - part) + path[before + 1, 1] * part
    if frame < np.round(ac.throw_frame[way] * slow):
        return
    damage = ac.throw_damage[way]
    force = knockback(v.percent, damage, damage * factor, 100, ac.throw_growth[way], 0, ac.throw_base[way])
    v.percent = min(v.percent + damage * factor, 999)
    remember_hit(ah, attack_id)
    a.last_attack, v.last_hit_by = attack_id, a.port
    launch(v, vh, ac.throw_angle[way], force, start_facing, .5)
    v.facing = -1 if v.kb_vx > 0 else 1
    knockback_decay(v, vc)                             # the flight has begun


@jit
def directional_influence(p, h):
    """On leaving hitlag the stick turns the launch by up to 18 degrees, by its part across the launch, squared."""
    speed = np.sqrt(p.kb_vx ** 2 + p.kb_vy ** 2)
    if speed == 0 or not p.airborne:
        return
    across = (p.kb_vx * h.stick_y - p.kb_vy * h.stick_x) / speed
    turn = np.sign(across) * across * across * 18 * np.pi / 180
    cosine, sine = np.cos(turn), np.sin(turn)
    p.kb_vx, p.kb_vy = p.kb_vx * cosine - p.kb_vy * sine, p.kb_vx * sine + p.kb_vy * cosine


@jit
def end_of_hitlag(p, h):
    """Automatic smash DI: three units along the c-stick, or else the stick; then DI."""
    if not in_damage(p.action) or not p.in_hitstun:
        return
    x, y = (h.c_x, h.c_y) if h.c_x != 0 or h.c_y != 0 else (h.stick_x, h.stick_y)
    p.x += 3 * x
    if p.airborne:
        p.y += 3 * y
    directional_influence(p, h)


@jit
def smash_influence(p, h):
    """A new tilt of the stick during hitlag shifts the victim by six units along it."""
    if not in_damage(p.action) or not p.in_hitstun:
        return
    tilted = np.sqrt(h.stick_x ** 2 + h.stick_y ** 2) >= .7
    if tilted and min(h.tilt_x_age, h.tilt_y_age) < 1:
        p.x += 6 * h.stick_x
        if p.airborne:
            p.y += 6 * h.stick_y


# ---------------------------------------------------------------------------------------------------------------------
# 9. Items. Slots are packed from 0, oldest first; a ninth is not made.
# ---------------------------------------------------------------------------------------------------------------------

HELD_TIMER, STUCK, BOMB_RELEASE = 1400, 2, 8           # timer of an item in hand; state of a needle; frame of a throw
SHADOW_BALL_RECOIL = 1.32                              # of a full one, measured, the others by their charge
SHADOW_BALL_SPEED = 1.6                                # measured uncharged; it leaves the hand at half of it


@jit
def clear_item(item):
    item.x, item.y, item.vx, item.vy, item.facing, item.timer = 0, 0, 0, 0, 0, 0
    item.type, item.state, item.owner, item.damage, item.charge, item.present = 0, 0, 0, 0, 0, 0


@jit
def copy_item(source, target):
    target.x, target.y, target.vx, target.vy = source.x, source.y, source.vx, source.vy
    target.facing, target.timer, target.type, target.state = source.facing, source.timer, source.type, source.state
    target.owner, target.damage, target.charge, target.present = source.owner, source.damage, source.charge, 1


@jit
def free_slot(items):
    for slot in range(NUM_ITEMS):
        if items[slot].present == 0:
            return slot
    return -1


@jit
def spawn_item(items, item_type, index, p, h, x, y, timer):
    """-> the slot, -1 if all are taken. Items appear where their owner was before he moved."""
    slot = free_slot(items)
    if slot >= 0:
        item = items[slot]
        clear_item(item)
        item.x, item.y, item.facing, item.timer = h.old_x + x * p.facing, h.old_y + y, p.facing, timer
        item.type, item.owner, item.present = item_type, index, 1
    return slot


@jit
def shoot(items, index, p, h, c, t, seed, frame_id):
    place = h.shot - 1
    slot = spawn_item(items, c.shot_type, index, p, h, c.shot_x[place], c.shot_y[place],
                      t.projectiles[c.shot_type].life)
    if slot >= 0:
        item = items[slot]
        item.vx, item.vy = c.shot_vx[place] * p.facing, c.shot_vy[place]
        if c.shot_type == SHADOW_BALL:
            item.state, item.charge = 1, h.charge // c.charge_frames
        elif c.shot_type == SAUSAGE:                   # thrown near and far
            item.vx *= .4 + random_uniform(seed, frame_id, 50 + index)
    if c.shot_type == SHADOW_BALL:
        if h.shot == 1:
            p.self_vx_ground = -SHADOW_BALL_RECOIL * h.charge / (c.charge_frames * c.charge_steps) * p.facing
        h.charge = 0


@jit
def hold_item(items, index, p, h, c):
    """A gun, a charging ball, Game & Watch's gadgets."""
    item_type = c.held_type[p.action] if 0 <= p.action < NUM_ACTIONS else 0
    if item_type == 0:
        return
    for slot in range(NUM_ITEMS):
        item = items[slot]
        if item.present and item.owner == index and item.type == item_type and item.timer == HELD_TIMER:
            return
    spawn_item(items, item_type, index, p, h, c.held_x[p.action], c.held_y[p.action], HELD_TIMER)


@jit
def is_still_held(item, p, h, c):
    if p.action < 0 or p.action >= NUM_ACTIONS or c.held_type[p.action] != item.type:
        return False
    if item.type == FOX_BLASTER or item.type == FALCO_BLASTER or item.type == 0x72:
        item.state = p.action - 341
    elif item.type == SHADOW_BALL or item.type == NEEDLES_HELD:
        item.charge = h.charge // c.charge_frames if item.type == SHADOW_BALL else 0
    return True


@jit
def owned(items, index, item_type):
    for slot in range(NUM_ITEMS):
        if items[slot].present and items[slot].owner == index and items[slot].type == item_type:
            return True
    return False


@jit
def turn_back(item, t, index):
    """Reflected: belongs to the other now."""
    item.vx, item.vy, item.facing, item.owner = -item.vx, -item.vy, -item.facing, index
    item.timer = t.projectiles[item.type].life
    if item.type == BOOMERANG:
        item.state = 0


@jit
def step_bomb(item, s, t, a, ah, v, vh, ac, vc):
    """Link's bomb: in the hand, thrown, bursting; its fuse burns all the time. False when it is gone."""
    item.timer -= 1
    if item.state == BOMB_EXPLODING:
        return item.timer > 0
    if item.state == BOMB_HELD:
        item.x, item.y, item.facing = a.x + 4 * a.facing, a.y + 8, a.facing
        throwing = ITEM_THROW <= a.action <= ITEM_DROP + 4
        if throwing and ah.action_frames >= BOMB_RELEASE:
            release_bomb(item, a)
        elif DAMAGE_FLY_HIGH <= a.action <= DAMAGE_LAST or a.action <= REBIRTH_WAIT:
            item.state, item.vx, item.vy = BOMB_THROWN, 0, 0  # lets go of it
    else:
        old_x, old_y = item.x, item.y
        item.vy -= t.projectiles[BOMB].gravity
        item.x += item.vx
        item.y += item.vy
        if not in_bounds(item, s):
            return False
        kind = t.projectiles[BOMB]
        if can_be_hit(v) and reaches(item, old_x, old_y, kind.radius, v, vc):
            if guard(v, vh, vc) == GUARD_REFLECT:
                turn_back(item, t, 1 if item.owner == 0 else 0)
                return True
            item_hit(item, kind, a, ah, v, vh, vc)
            explode(item, a, ah, v, vh, ac, vc)
            return True
        if ground_met(item, s, old_y) >= 0 or item.timer <= 0:
            explode(item, a, ah, v, vh, ac, vc)
            return True
        return True
    if item.timer <= 0:
        explode(item, a, ah, v, vh, ac, vc)
    return True


@jit
def release_bomb(item, a):
    """The throw's action says where it goes; the speeds are a guess."""
    way = a.action - ITEM_THROW
    if way >= ITEM_THROW_AIR:
        way -= ITEM_THROW_AIR
    item.state, item.vx, item.vy = BOMB_THROWN, 0, 0
    if way == 0:
        item.vx, item.vy = 2.2 * a.facing, .6
    elif way == 1:
        item.vx, item.vy = -2.2 * a.facing, .6
    elif way == 2:
        item.vy = 2.6
    elif way == 3:
        item.vy = -2.4


@jit
def explode(item, a, ah, v, vh, ac, vc):
    """The blast hurts whoever is near: its owner too."""
    item.state, item.timer, item.vx, item.vy = BOMB_EXPLODING, BOMB_BLAST_FRAMES, 0, 0
    blast(item, a, ah, a, ah, ac)
    blast(item, a, ah, v, vh, vc)


@jit
def blast(item, a, ah, v, vh, vc):
    if not can_be_hit(v) or v.hurtbox == 1 or v.hitlag > 0 or not reaches(item, item.x, item.y, BOMB_RADIUS, v, vc):
        return
    side = 1.0 if v.x >= item.x else -1.0
    if is_shielding(v.action):
        block(v, vh, BOMB_BLAST_DAMAGE, side)
        return
    force = knockback(v.percent, BOMB_BLAST_DAMAGE, BOMB_BLAST_DAMAGE, vc.weight, 60, 0, 60)
    v.percent = min(v.percent + BOMB_BLAST_DAMAGE, 999)
    v.last_hit_by = a.port
    v.hitlag = hitlag_frames(BOMB_BLAST_DAMAGE, False, False)
    lose_charge(v, vh, vc)
    if not is_held(v.action):
        launch(v, vh, launch_angle(70, force, v.airborne), force, side, .5)


@jit
def steer_boomerang(item, a, ah):
    """Out, slower and slower, then back to the hand; its state tells 0 out, 1 out and hit, 2 back, 3 back and hit.
    True if it is caught."""
    if item.state < 2:
        item.vx -= BOOMERANG_DRAG * item.facing
        item.vy *= .97
        if item.vx * item.facing <= 0:
            item.state = 2
        return False
    x, y = a.x - item.x, a.y + 8 - item.y
    distance = np.sqrt(x * x + y * y)
    if distance < BOOMERANG_CATCH and a.action > REBIRTH_WAIT:
        if a.action == WAIT:
            set_action(a, ah, 351)
        return True
    if item.timer > 30:                                # flies on where it aimed at last
        item.vx = BOOMERANG_CALM * x / max(distance, 1)
        item.vy = BOOMERANG_CALM * y / max(distance, 1)
    return False


@jit
def steer_dins_fire(item, a):
    """Din's Fire follows the stick up and down while B is held, then takes its time to burst."""
    if (a.action == 344 or a.action == 347) and item.state == 0:
        return
    if a.action != 343 and a.action != 346 and item.state == 0:
        item.state, item.timer = 1, DINS_DELAY


@jit
def in_bounds(item, s):
    return s.blast_left <= item.x <= s.blast_right and s.blast_bottom <= item.y <= s.blast_top


@jit
def can_be_hit(v):
    return v.present != 0 and v.action > REBIRTH_WAIT and v.hurtbox != 2 and v.stocks > 0


@jit
def ground_met(item, s, old_y):
    """The floor that an item has run into, -1 none: the stage from anywhere, platforms from above."""
    height = floor_height(s, 0, item.x)
    if abs(item.x) < s.floor_right[0] and height - 20 < item.y < height:
        return 0
    for floor in range(1, s.num_floors):
        if s.floor_left[floor] < item.x < s.floor_right[floor] and item.y < s.floor_y[floor] <= old_y:
            return floor
    return -1


@jit
def is_struck(item, kind, v, vh, vc, t):
    """A swing meets the projectile: it goes out, unless it is stronger by nine percent or more."""
    row = attack_row(v, vh, vc)
    if row == 0:
        return False
    attack = t.hitboxes[row]
    for box in range(4):
        if attack.size[box] == 0 or attack.effect[box] == EFFECT_GRAB or attack.effect[box] == EFFECT_INERT:
            continue
        dx, dy = v.x + attack.x[box] * v.facing - item.x, v.y + attack.y[box] - item.y
        reach = attack.size[box] + kind.radius
        if dx * dx + dy * dy < reach * reach and item_damage(item, kind) - attack.damage[box] < CLANK_LEAD:
            v.hitlag = hitlag_frames(attack.damage[box], False, False)
            return True
    return False


@jit
def fly(item, s, t, a, ah, v, vh, vc, victim):
    """A projectile moves on and hits; False when it is gone."""
    item.timer -= 1
    if item.timer <= 0:
        if item.type != DINS_FIRE:
            return False
        item.type, item.state, item.timer = DINS_EXPLOSION, 0, t.projectiles[DINS_EXPLOSION].life
        item.vx, item.vy = 0, 0
    if item.type == NEEDLE and item.state == STUCK:
        return True
    kind = t.projectiles[item.type]
    if item.type == BOOMERANG and steer_boomerang(item, a, ah):
        return False
    if item.type == DINS_FIRE:
        steer_dins_fire(item, a)
        item.vy = DINS_STEERING * ah.stick_y if item.state == 0 else 0
    if item.type == SHADOW_BALL:
        item.vx = SHADOW_BALL_SPEED * (1 if item.vx > 0 else -1)
    old_x, old_y = item.x, item.y
    item.vy -= kind.gravity
    item.x += item.vx
    item.y += item.vy
    floor = -1 if item.type == DINS_EXPLOSION else ground_met(item, s, old_y)
    if floor > 0 and (item.type == DINS_FIRE or item.type == BOOMERANG):
        floor = -1                                     # pass through platforms
    if floor >= 0:
        height = floor_height(s, floor, item.x)
        if item.type == DINS_FIRE:
            item.y, item.timer = height, min(item.timer, 1)
            return True
        if item.type == BOOMERANG and item.state < 2:
            item.state = 2
            return True
        if item.type != NEEDLE:
            return False
        item.y, item.vx, item.vy, item.state, item.timer = height, 0, 0, STUCK, 120
        return True
    if not in_bounds(item, s):
        return False
    if item.type == DINS_FIRE or (item.type == BOOMERANG and item.state & 1) or (
            item.type == DINS_EXPLOSION and item.state == 1):
        return True                                    # does not hit (again)
    if item.type != DINS_EXPLOSION and can_be_hit(v) and guard(v, vh, vc) == 0 and is_struck(item, kind, v, vh, vc, t):
        if item.type == BOOMERANG:
            item.state = 2
        return item.type == BOOMERANG
    if not can_be_hit(v) or not reaches(item, old_x, old_y, kind.radius, v, vc):
        return True
    stays = item.type == BOOMERANG or item.type == DINS_EXPLOSION
    item.state |= stays
    if v.hurtbox == 1:
        return stays
    guarding = guard(v, vh, vc)
    if guarding == GUARD_ABSORB and item.type != BOOMERANG:
        vh.bucket, vh.bucket_damage = min(vh.bucket + 1, FILLED_BUCKET), vh.bucket_damage + item_damage(item, kind)
        return False
    if guarding == GUARD_REFLECT or is_power_shield(v, vh, 2):
        turn_back(item, t, victim)
        return True
    item_hit(item, kind, a, ah, v, vh, vc)
    return stays


@jit
def reaches(item, old_x, old_y, size, v, vc):
    radius, bottom, top, forward = body(v, vc)
    body_x, low, high = v.x + forward * v.facing, v.y + bottom + radius, v.y + max(top - radius, bottom + radius)
    for step in range(4):
        x, y = item.x + (old_x - item.x) * step / 4, item.y + (old_y - item.y) * step / 4
        away_x, away_y = x - body_x, y - min(max(y, low), high)
        if away_x * away_x + away_y * away_y < (radius + size) ** 2:
            return True
    return False


@jit
def item_damage(item, kind):
    if item.type == SHADOW_BALL:
        return float(SHADOW_BALL_DAMAGE[min(item.charge, 7)])
    if item.type == ARROW:
        return float(item.damage)
    if item.type == BOOMERANG and item.state >= 2:
        return 3.0
    if is_laser(item) and item.vy != 0:                # of a throw
        return 2.0 if item.vy > 0 else 1.0
    return kind.damage


@jit
def is_laser(item):
    return item.type == FOX_LASER or item.type == FALCO_LASER


@jit
def item_hit(item, kind, a, ah, v, vh, vc):
    """Like a blow, but the owner feels nothing. Fox's laser only hurts, and so do all lasers of throws."""
    damage, growth, base, set_knockback = item_damage(item, kind), kind.growth, kind.base, kind.set_knockback
    attack_id = int(kind.attack_id)
    if item.type == SHADOW_BALL:
        growth, base = growth + 5 * item.charge, base + 5 * item.charge
    elif is_laser(item) and item.vy != 0:
        growth, set_knockback = 0, 0
        if THROW_FORWARD <= a.action <= THROW_DOWN:
            attack_id = 53 + a.action - THROW_FORWARD
    staled = damage * stale_factor(ah, attack_id)
    side = 1.0 if item.vx > 0 else -1.0
    if is_shielding(v.action):
        block(v, vh, staled, side)
        return
    force = knockback(v.percent, damage, staled, vc.weight, growth, set_knockback, base)
    v.percent = min(v.percent + staled, 999)
    lose_charge(v, vh, vc)
    remember_hit(ah, attack_id)
    a.last_attack, v.last_hit_by = attack_id, a.port
    a.combo = a.combo + 1 if ah.combo_timer > 0 else 1
    ah.combo_timer = 45
    if force <= 0:
        return
    crouching = CROUCH_START <= v.action <= CROUCH_END
    force = force * 2 / 3 if crouching else force
    v.hitlag = max(v.hitlag, hitlag_frames(staled, False, crouching))
    if not is_held(v.action):
        launch(v, vh, launch_angle(kind.angle, force, v.airborne), force, side, (item.y - v.y) / vc.height)


@jit
def bomb_in_hand(items, index):
    for slot in range(NUM_ITEMS):
        item = items[slot]
        if item.present and item.type == BOMB and item.owner == index and item.state == BOMB_HELD:
            return 1
    return 0


@jit
def step_items(frame, secret, c, d, s, t):
    items, kept = frame.items, 0
    for slot in range(NUM_ITEMS):
        item = items[slot]
        if item.present == 0:
            break
        owner = 1 if item.owner == 1 else 0
        a, ah = frame.players[owner], secret.players[owner]
        v, vh = frame.players[1 - owner], secret.players[1 - owner]
        if item.type == BOMB:
            mine, other = (c, d) if owner == 0 else (d, c)
            stays = step_bomb(item, s, t, a, ah, v, vh, mine, other)
        elif item.timer == HELD_TIMER:
            stays = is_still_held(item, a, ah, c if owner == 0 else d)
        else:
            stays = fly(item, s, t, a, ah, v, vh, d if owner == 0 else c, 1 - owner)
        if not stays:
            continue
        if kept != slot:
            copy_item(item, items[kept])
        kept += 1
    for slot in range(kept, NUM_ITEMS):
        if items[slot].present:
            clear_item(items[slot])
    for index in range(2):
        p, h, own = frame.players[index], secret.players[index], c if index == 0 else d
        if own.has_items:
            hold_item(items, index, p, h, own)
            if h.shot:
                shoot(items, index, p, h, own, t, secret.seed, frame.frame_id)
            if own.num_extra_shots and p.hitlag == 0:
                extra_shots(items, index, p, h, own, t)
            if p.character == LINK:
                h.holding = bomb_in_hand(items, index)


# ---------------------------------------------------------------------------------------------------------------------
# 10. One player, one frame, in Melee's order: hitlag, action end, inputs, velocity, position, stage
# ---------------------------------------------------------------------------------------------------------------------

@jit
def is_solid(p):
    """Stands in the other's way."""
    away = p.airborne or p.hitlag > 1 or p.action <= REBIRTH_WAIT
    return not away and not is_held(p.action) and not on_ledge(p.action)


@jit
def push_apart(a, b, reach):
    """Two grounded players closer than reach push each other .3 units a frame: the share of the first."""
    distance = a.x - b.x
    if abs(distance) >= reach or abs(a.y - b.y) > 1 or not is_solid(a) or not is_solid(b):
        return 0.0
    return .3 if distance > 0 else -.3


DEATH_FRAMES, STAR_FRAMES = 60, 176


@jit
def step_dead(p, h, s, index):
    """Dying, longer as a star, then down on the platform of light, waiting there, and falling from it."""
    h.action_frames += 1
    p.state_age += 1
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
            p.facing = -1 if p.x > 0 else 1
            p.kb_vx, p.kb_vy, p.self_vx_air, p.self_vy, p.self_vx_ground = 0, 0, 0, -1.15, 0
            p.jumps, p.shield, p.fastfall = 1, SHIELD_HEALTH, 0
    elif p.action == REBIRTH:
        p.y += p.self_vy
        if h.action_frames >= 60:
            set_action(p, h, REBIRTH_WAIT)
            p.self_vy = 0
    else:
        moved = h.stick_x != 0 or h.stick_y != 0 or pressed(h, BUTTON_A | BUTTON_B | BUTTON_XY | BUTTON_LRZ)
        if h.action_frames >= 240 or (moved and h.action_frames > 1):
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
    """Invulnerable after respawn, intangible on the ledge, in dodges, rolls and techs."""
    h.hurt_timer = max(0, h.hurt_timer - 1)
    p.hurtbox = h.hurt_kind if h.hurt_timer > 0 else 0
    action = p.action
    if REBIRTH <= action <= REBIRTH_WAIT:
        p.hurtbox = 1
    elif c.dodge_first[action] <= h.action_frames < c.dodge_last[action]:
        p.hurtbox = 2


@jit
def step_player(p, h, c, s, t, index):
    h.old_x, h.old_y = p.x, p.y
    h.ledge_cooldown = max(0, h.ledge_cooldown - 1)
    h.combo_timer = max(0, h.combo_timer - 1)
    p.l_cancel, h.shot = 0, 0
    if p.action <= REBIRTH_WAIT:
        step_dead(p, h, s, index)
        return
    if p.hitlag > 0:
        p.hitlag = max(0, p.hitlag - 1)
        if p.hitlag > 0:
            smash_influence(p, h)
            return
        end_of_hitlag(p, h)
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
def act(p, h, c, s, t):
    before = p.action
    if before == LANDING_SPECIAL and h.action_frames > 0:
        p.state_age += p.state_age / h.action_frames   # keeps the speed it has
    elif before == SHIELD_STUN:
        p.state_age += p.state_age / h.action_frames if h.action_frames > 0 else GUARD_ANIMATION / max(h.guard_frames, 1)
    else:
        p.state_age += 3 if before == LANDING_SPECIAL else 1
    h.action_frames += 1
    if holds_smash(p, h, c):                           # the animation stands still
        p.state_age -= 1
        h.action_frames -= 1
        h.smash_charge += 1
    if p.airborne:
        h.air_frames += 1
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
        p.airborne, p.self_vx_air, p.self_vy = 1, p.facing, c.ledge_jump
    move(p, h, c, s, t, floor)


@jit
def move(p, h, c, s, t, floor):
    old_x, old_y = p.x, p.y
    knockback_decay(p, c)
    if c.rises[p.action] and not p.airborne and h.action_frames + 1 < MAX_FRAMES and \
            t.root_motion[c.root_row[p.action], h.action_frames + 1, 1] > .5:
        leave_ground(p, h)                             # an up special takes off
    if DOWN_BOUND_UP <= p.action <= TECH_BACKWARD and not is_down_damage(p.action):
        p.airborne = 0
    if p.airborne:
        air_velocity(p, h, c, t)
        p.x += p.self_vx_air + p.kb_vx
        p.y += p.self_vy + p.kb_vy
        collide_in_air(p, h, c, s, old_x, old_y)
        return
    ground_velocity(p, h, c, t)
    along_slope = .9789 if floor == 0 and abs(p.x) > s.slope_start else 1.0
    p.x += (p.self_vx_ground + p.kb_vx) * along_slope
    p.self_vx_air, p.self_vy = p.self_vx_ground, 0
    if p.action == DASH and h.action_frames == 0:      # the dash's speed comes after this frame's move
        p.self_vx_ground += c.dash_speed * p.facing
        speed = abs(p.self_vx_ground)
        if speed > c.dash_speed:
            p.self_vx_ground = max(c.dash_speed, min(speed, c.run_max)) * np.sign(p.self_vx_ground)
    if floor >= 0:
        p.ground = floor
        walk_off(p, h, c, s, floor)


@jit
def step_all(frames, hidden, controllers, t):
    moving = np.empty(1, t.stages.dtype)
    for game in range(len(frames)):
        frame, secret = frames[game], hidden[game]
        s = t.stages[frame.stage if 0 <= frame.stage < NUM_STAGES else 32]
        p, q, hp, hq = frame.players[0], frame.players[1], secret.players[0], secret.players[1]
        c = t.characters[p.character if 0 <= p.character < NUM_CHARACTERS else 1]
        d = t.characters[q.character if 0 <= q.character < NUM_CHARACTERS else 1]
        frame.frame_id += 1
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
        if not p.airborne and not q.airborne:          # who rolls or dodges pushes, but is not pushed
            p.x += push if not ROLL_FORWARD <= p.action <= SPOT_DODGE else 0
            q.x -= push if not ROLL_FORWARD <= q.action <= SPOT_DODGE else 0
        if frame.wind:
            blow(p, frame.wind)
            blow(q, frame.wind)
        step_grab(p, hp, c, q, hq, d)
        step_grab(q, hq, d, p, hp, c)
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
                player.action_frame = int(player.state_age) + own.zero_indexed[player.action]


def step_games(frames, hidden, controllers):
    """One frame for all games, in place. frames [N] FRAME, hidden [N] HIDDEN, controllers [N, 2] CONTROLLER."""
    step_all(frames, hidden, controllers, TABLES)


# ---------------------------------------------------------------------------------------------------------------------
# Starting and ending games
# ---------------------------------------------------------------------------------------------------------------------

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
              np.asarray(stages, np.int64), np.asarray(seeds, np.uint64), EMPTY_FRAME, EMPTY_HIDDEN, TABLES)


EMPTY_FRAME, EMPTY_HIDDEN = np.zeros(1, FRAME), np.zeros(1, HIDDEN)


@jit
def reset_all(frames, hidden, mask, characters, stages, seeds, empty_frame, empty_hidden, t):
    moving = np.empty(1, t.stages.dtype)
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
            p.action_frame = t.characters[p.character].zero_indexed[WAIT]
            h.tilt_x_age, h.tilt_y_age, h.trigger_age = MAX_TIMER, MAX_TIMER, MAX_TIMER
            h.judge_before = 1                         # neither 1 nor 2 comes first


def game_over(frames):
    """[N] bool: somebody has no stocks left, or the clock ran out."""
    return (frames["players"]["stocks"] <= 0).any(1) | (frames["frame_id"] >= TIME_LIMIT)


# ---------------------------------------------------------------------------------------------------------------------
# Bots: fixed opponents. They read the game only through frames and act only through controllers.
# ---------------------------------------------------------------------------------------------------------------------

FIRST_LEVEL, NUM_LEVELS, MAX_DELAY = 4, 9, 40
BOTS = {"idle": 1, "random": 2, "attacker": 3} | {f"level{n + 1}": FIRST_LEVEL + n for n in range(NUM_LEVELS)}
SEEN = np.dtype([(name, "f4") for name in "x y vx vy kb_vx kb_vy facing percent stun shot_x shot_vx".split()] +
                [(name, "i2") for name in "action action_frame airborne hurtbox character".split()])
BOT = np.dtype([
    ("kind", "i4"), ("wait", "i4"),                    # frames until the next decision
    ("seed", "u8"), ("held", CONTROLLER),
    # the rest is the memory of the levels, see below
    ("looks", "i4"), ("seen", SEEN, MAX_DELAY + 1),    # what the other did lately, a ring
    ("condition", "i4"), ("hitlag", "f4"), ("since_struck", "i4"),
    ("stick_x", "f4"), ("stick_y", "f4"),              # of the frame before
    ("plan", "i4"), ("plan_frames", "i4"), ("guard", "i4"), ("full_hop", "i4"), ("chasing", "i4"),
    ("off_stage", "i4"), ("since_tech", "i4"), ("last_swing", "i4")])
RANDOM_BUTTONS = np.array([
    0, 0, 0, 0, 0, BUTTON_A, BUTTON_A, BUTTON_B, BUTTON_X, BUTTON_Y, BUTTON_L, BUTTON_R, BUTTON_Z])


@jit
def clear_controller(pad):
    pad.main_x, pad.main_y, pad.c_x, pad.c_y, pad.l, pad.r, pad.buttons = 0, 0, 0, 0, 0, 0, 0


@jit
def copy_controller(source, target):
    target.main_x, target.main_y, target.c_x, target.c_y = source.main_x, source.main_y, source.c_x, source.c_y
    target.l, target.r, target.buttons = source.l, source.r, source.buttons


@jit
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


@jit
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


# ---------------------------------------------------------------------------------------------------------------------
# Scripted levels 1 to 9: what they know. The tables of the game are public knowledge; its state comes through frames.
# ---------------------------------------------------------------------------------------------------------------------

LEVEL_FIELDS = """
delay error foresight think idle
approach defend grab combo shoot edge_guard
short_hop fast_fall l_cancel di sdi tech recover mash
""".split()
LEVEL = np.dtype([(name, "f4") for name in LEVEL_FIELDS])
LEVEL_ROWS = [  # delay: frames between what the other does and an answer to it; error: units by which it misjudges reach;
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
]

STYLE = np.dtype([(name, "f4") for name in "up_rise up_reach up_aimed side_reach shot shot_from strike".split()])
STYLE_ROWS = {  # the up special's height and width, is it aimed by the stick; width of a side special that travels;
    # direction of the special that shoots (0 none) and from how far; direction of one that strikes (0 none)
    1: (70, 80, 1, 49, 1, 55, 4), 2: (25, 40, 0, 0, 0, 0, 0), 6: (35, 30, 0, 0, 1, 50, 0),
    7: (60, 50, 1, 0, 1, 50, 0), 16: (50, 50, 1, 0, 1, 70, 0), 18: (49, 16, 0, 0, 0, 0, 2),
    19: (50, 90, 1, 0, 2, 60, 0), 22: (45, 57, 1, 80, 1, 55, 4), 24: (70, 19, 0, 0, 1, 40, 0),
    25: (35, 35, 0, 0, 0, 0, 0)}

# The ways to strike: on the ground, running, in the air, with a special. What each reaches is read off its hitboxes.
SWING_ACTIONS = [JAB_1, FTILT, UTILT, DTILT, FSMASH, USMASH, DSMASH, GRAB, DASH_ATTACK, GRAB_DASH, NAIR, FAIR, BAIR, UAIR, DAIR]
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
            for name, sign, values in (("back", -1, boxes["x"] - boxes["size"]), ("front", 1, boxes["x"] + boxes["size"]),
                                       ("low", -1, boxes["y"] - boxes["size"]), ("high", 1, boxes["y"] + boxes["size"])):
                row[name] = sign * (sign * values[on]).max()
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

# ---------------------------------------------------------------------------------------------------------------------
# Levels: eyes. Its own character a player knows at once; the other, and what is done to him, he sees `delay` frames late.
# ---------------------------------------------------------------------------------------------------------------------

FREE, CAPTIVE, FLUNG, GUARDING = 0, 1, 2, 3            # what the other has done to me


@jit
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


@jit
def condition(p):
    if is_held(p.action):
        return CAPTIVE
    if in_damage(p.action) or p.action == TUMBLE:
        return FLUNG
    return GUARDING if p.action == SHIELD_STUN else FREE


@jit
def feel(bot, me):
    """Counts the frames since the other last did something to me."""
    now = condition(me)
    struck = now != FREE and (now != bot.condition or me.hitlag > bot.hitlag)
    bot.since_struck = 0 if struck else min(bot.since_struck + 1, MAX_TIMER)
    bot.condition, bot.hitlag = now, me.hitlag


@jit
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


@jit
def swing_of(swings, character, action):
    for index in range(NUM_SWINGS):
        if swings[character, index].first and swings[character, index].action == action:
            return index
    return -1


@jit
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
    return c.landing_lag[landing] * .5 - seen.action_frame - delay if landing >= 0 else 0.0


@jit
def threat(me, mine, seen, c, swings, delay, error, floor, edge):
    """Frames until the swing that the other is seen to make reaches me, -1 if it does not: (frames, last, is a grab)."""
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
# Levels: striking
# ---------------------------------------------------------------------------------------------------------------------

@jit
def kills(swing, percent, c, x, y, side, s):
    """Does the blow carry over a blast zone? Launch speed falls by .051 a frame."""
    damage, angle = swing.damage, 44.0 if swing.angle == 361 else swing.angle
    force = knockback(percent, damage, damage, c.weight, swing.growth, 0, swing.base)
    way = (.03 * force) ** 2 / .102
    across, up = way * np.cos(angle * np.pi / 180), way * np.sin(angle * np.pi / 180)
    room = s.blast_right - x if side * across > 0 else x - s.blast_left
    return abs(across) > room or .6 * up > s.blast_top - y


@jit
def swing_usable(index, action, airborne):
    if airborne:
        return SWING_NAIR <= index <= SWING_DAIR or index == SWING_AIR_SPECIAL
    if action == DASH or action == RUN:
        return index == SWING_DASH or index == SWING_DASH_GRAB or (action == DASH and index == SWING_FSMASH)
    return index < SWING_DASH or index == SWING_SPECIAL


@jit
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


@jit
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


@jit
def press_special(pad, direction, side):
    pad.main_x, pad.main_y, pad.buttons = 0, 0, BUTTON_B
    if direction == 2:
        pad.main_x = side
    elif direction >= 3:
        pad.main_y = 1 if direction == 3 else -1


# ---------------------------------------------------------------------------------------------------------------------
# Levels: in trouble
# ---------------------------------------------------------------------------------------------------------------------

@jit
def chance(bot, probability, key, purpose):
    """The same draw for as long as the key stays: a decision once made is kept."""
    return random_uniform(bot.seed, key, purpose) < probability


@jit
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


@jit
def captive_inputs(bot, pad, level, frame_id):
    """Mash: a button and a tilt, then nothing."""
    period = int(level.mash)
    if frame_id % period == 0:
        pad.buttons = BUTTON_A
    elif frame_id % period == period // 2:
        pad.main_x = 1 if frame_id // period % 2 else -1


@jit
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


@jit
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


@jit
def recover(bot, pad, me, c, style, level, frame_id, s):
    """Back to the stage: drift, double jump once it is low, the side special that travels, the up special at the last."""
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


@jit
def can_return(me, c, floor, edge):
    """From an edge-guard: the double jump still leads back above the stage."""
    speed = c.full_hop * c.double_jump if c.double_jump > 0 else 2.3
    rise, width = speed * speed / (2 * c.gravity), c.air_max * 2 * speed / c.gravity
    return me.jumps > 0 and me.y + 6 * me.self_vy > floor + 10 - .8 * rise and \
        abs(me.x + 6 * me.self_vx_air) < edge + .5 * width


@jit
def can_act_in_air(me, c):
    action = me.action
    if c.aerial[action] >= 0:
        return 0 < c.interruptible[action] <= me.action_frame + 1
    return JUMP_FORWARD <= action <= 34 or action == PLATFORM_DROP or \
        (action == TUMBLE or DAMAGE_FIRST <= action < DAMAGE_FLY_HIGH) and me.in_hitstun == 0


# ---------------------------------------------------------------------------------------------------------------------
# Levels: in control
# ---------------------------------------------------------------------------------------------------------------------

@jit
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


@jit
def is_ready(me, c):
    """Stands, walks or has just come out of something: everything may start."""
    action = me.action
    if action == LANDING:
        return me.action_frame >= c.landing
    if JAB_1 <= action <= DSMASH or c.aerial_landing[action] >= 0 or c.attack_id[action] > 0:
        return 0 < c.interruptible[action] <= me.action_frame + 1
    return WAIT <= action <= RUN or CROUCH_START <= action <= CROUCH_END or TEETER <= action <= TEETER_WAIT


@jit
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


@jit
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


@jit
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


@jit
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


@jit
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
        if bot.plan == 5 and style.up_rise >= FAR_RISE and edge < abs(x) < edge + 45 and -30 < y - me.y < 40 and seen.airborne and \
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


@jit
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


@jit
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


@jit
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


@jit
def run_bots(frames, bots, controllers, t, k):
    moving = np.empty(1, t.stages.dtype)
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
    run_bots(frames, bots, controllers, TABLES, KNOWLEDGE)


# ---------------------------------------------------------------------------------------------------------------------
# Compilation
# ---------------------------------------------------------------------------------------------------------------------

COLD_COMPILE_SECONDS = 40


def warm_up():
    """Compile everything now, or load it from numba's cache."""
    index_files = pathlib.Path(step_all.stats.cache_path).glob("mock_melee.step_all*.nbi")
    if not any(index_files):
        print(f"compiling the embedded game (about {COLD_COMPILE_SECONDS} s, once per machine)", file=sys.stderr)
    frames, hidden = np.zeros(1, FRAME), np.zeros(1, HIDDEN)
    bots, controllers = np.zeros((1, 2), BOT), np.zeros((1, 2), CONTROLLER)
    bots["kind"] = BOTS["random"]
    reset_games(frames, hidden, np.ones(1, bool), np.full((1, 2), FOX), np.full(1, 32), np.zeros(1, np.uint64))
    bot_controllers(frames, bots, controllers)
    step_games(frames, hidden, controllers)
    random_uniform(np.uint64(0), 0, 0)

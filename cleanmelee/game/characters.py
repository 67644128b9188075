"""Characters: attributes in Melee's units (Fox falls .23 units faster each frame, up to 2.8), specials, projectiles."""

import numpy as np

from cleanmelee.frame import CAPTAIN_FALCON, FALCO, FOX, GAMEANDWATCH, GANONDORF, LINK, MARTH, MEWTWO, SHEIK, ZELDA
from cleanmelee.game.ids import *  # noqa: F403

NUM_CHARACTERS, NUM_ACTIONS, MAX_FRAMES = 26, 400, 80

ATTRIBUTES = """
walk_base walk_slope walk_max friction
dash_speed run_slope run_base run_max dash_to_run dash_frames turn_frames jumpsquat
jump_drift jump_keep jump_max full_hop short_hop double_jump double_drift
gravity fall_max fast_fall air_slope air_base air_max air_friction weight landing height
""".split()  # one line of names per block of columns below

ATTRIBUTE_ROWS = {
    # walk             dash and run                           jumps                                 air
    FOX: ((.1, .2, 1.6, .08), (1.9, .1, .02, 2.2, 11, 21, 5, 3), (.72, .83, 1.7, 3.68, 2.1, 1.2, .9),
        (.23, 2.8, 3.4, .06, .02, .83, .02, 75, 4, 11)),
    CAPTAIN_FALCON: ((.1, .15, .85, .08), (2.0, .15, .01, 2.3, 15, 28, 7, 4), (.95, .75, 2.1, 3.1, 1.9, .9, .9),
        (.13, 2.9, 3.5, .04, .02, 1.12, .01, 104, 4, 16)),
    LINK: ((.1, .2, 1.2, .1), (1.3, .1, .02, 1.3, 12, 27, 7, 6), (1.0, .8, 1.2, 2.5, 1.5, .88, 1.0),
        (.11, 2.13, 3.0, .04, .02, 1.0, .005, 104, 4, 14)),
    SHEIK: ((.1, .2, 1.2, .08), (1.7, .1, .02, 1.8, 7, 21, 5, 3), (.8, .8, 1.4, 2.8, 2.14, 1.1, 1.0),
        (.12, 2.13, 3.0, .04, .02, .8, .04, 90, 4, 12)),
    MEWTWO: ((.1, .3, 1.0, .04), (1.4, 0, .1, 1.4, 18, 29, 5, 5), (.9, .7, 1.4, 2.3, 1.4, 0, .9),
        (.082, 1.5, 2.3, .03, .02, 1.2, .016, 85, 4, 17)),
    MARTH: ((0, .15, 1.6, .06), (1.5, .06, 0, 1.8, 15, 27, 7, 4), (1.0, .8, 1.2, 2.4, 1.5, .88, 1.0),
        (.085, 2.2, 2.5, .03, .02, .9, .005, 87, 4, 15)),
    ZELDA: ((.1, .2, .7, .1), (1.1, .1, .02, 1.1, 15, 22, 7, 6), (.7, .7, 1.1, 2.1, 1.6, .86, .9),
        (.073, 1.4, 1.85, .038, .01, .95, .005, 90, 4, 15)),
    FALCO: ((.1, .2, 1.4, .08), (1.9, .1, .02, 1.5, 11, 21, 5, 5), (.7, 1.0, 1.7, 4.1, 1.9, .94, .94),
        (.17, 3.1, 3.5, .05, .02, .83, .02, 80, 4, 14)),
    GAMEANDWATCH: ((.1, .1, 1.1, .06), (1.5, .06, .02, 1.5, 8, 25, 5, 4), (1.0, .8, 1.5, 2.3, 1.4, 1.0, .9),
        (.095, 1.7, 2.3, .03, .02, 1.0, .016, 60, 4, 12)),
    GANONDORF: ((0, .08, .73, .07), (1.3, .08, .01, 1.35, 15, 28, 8, 6), (.9, .75, 1.8, 2.6, 2.0, .95, 1.0),
        (.13, 2.0, 2.6, .04, .02, .78, .02, 109, 5, 17)),
}

LEDGE_BOX = {  # reaches for the ledge: width and highest position that still catches, from the corner; height. Public
    # for Fox, Falco, Captain Falcon and Marth, where replays agree; Sheik, Mewtwo and Game & Watch within .5 by catches
    # and misses in replays, their heights guessed; the others as who is built alike
    FOX: (13.7, -8.5, 9), FALCO: (13.7, -8.5, 9), CAPTAIN_FALCON: (12.0, -11.5, 11), MARTH: (14.7, -11.5, 11),
    SHEIK: (14.8, -9.5, 11), MEWTWO: (12.6, -8.0, 11), GAMEANDWATCH: (14.5, -10.0, 11), LINK: (14.7, -11.5, 11),
    ZELDA: (14.8, -9.5, 11), GANONDORF: (12.0, -11.5, 11)}
SPECIAL_REACH = 1.2                                    # how much wider the box is in specials, which stretch the body
BODY_ROWS = {  # shield's radius held lightly, speed of a broken shield, jump off a wall, jump from the ledge; public
    FOX: (13.8, 3.3, (1.4, 3.3), (1.1, 4.0)), CAPTAIN_FALCON: (14.55, 2.7, (1.4, 3.1), (1.0, 3.3)),
    LINK: (14.18, 2.7, (1.3, 2.6), (1.0, 2.6)), SHEIK: (16.28, 3.0, (1.4, 2.8), (1.0, 2.8)),
    MEWTWO: (16.25, 2.35, (1.3, 2.3), (1.0, 2.3)), MARTH: (13.51, 2.5, (1.3, 2.4), (1.0, 2.4)),
    ZELDA: (14.96, 2.4, (1.3, 2.1), (1.0, 2.1)), FALCO: (13.75, 3.3, (1.3, 3.6), (1.0, 3.9)),
    GAMEANDWATCH: (10.97, 2.6, (1.3, 2.3), (1.0, 2.8)), GANONDORF: (16.2, 3.4, (1.3, 2.6), (1.0, 3.5))}
SHIELD_BREAK_SPEED = np.array([BODY_ROWS.get(character, (0, 0))[1] for character in range(NUM_CHARACTERS)])
UP_LAUNCH = {  # up specials aimed by the stick, measured:
    # (wait on the ground, wait in the air, flight), frames, speed, first slower frame, slower by, speed kept at the end
    FOX: ((353, 354, 356), 30, 3.8, 5, .1, 1.0), FALCO: ((353, 354, 356), 22, 4.2, 3, .17, 1.0),
    MEWTWO: ((353, 356, 357), 10, 3.0, 99, 0, .2), SHEIK: ((355, 358, 359), 20, 1.0, 99, 0, .3),
    ZELDA: ((349, 352, 353), 20, 2.0, 99, 0, .2)}
LAUNCH_BY_STICK = {MEWTWO: 2.0, SHEIK: 1.0, ZELDA: 2.2}  # what a full stick adds to that speed; Zelda's is public
LAUNCH_ALONG = {FOX: 355, FALCO: 355}                  # the flight along the floor, if the stick does not point up
LAUNCH_STARTS = {  # the start in the air: share of the speed kept across and upward, rise given, gravity, fall at most,
    MEWTWO: (.5, .5, 0, .04, .75, 0), SHEIK: (1, 0, 3.5, .19, .25, 1)}  # whether the stick steers it; measured
WARP_ENDS = {MEWTWO: 358, SHEIK: 360, ZELDA: 354}      # reappears: eight frames of slowing down, then falls
WARP_CALM, WARP_SLOWS, WARP_DRIFT = 8, .9, .6          # those frames; what they leave of the rise; share of air_max
GUESSED_SPECIALS = {  # (airborne, direction, action), where no replay shows them
    LINK: [(0, 1, 344), (1, 1, 347), (0, 2, 350), (1, 2, 353), (0, 3, 356), (1, 3, 357), (0, 4, 358), (1, 4, 359)],
    SHEIK: [(0, 4, 361), (1, 4, 363)],
    ZELDA: [(0, 1, 341), (1, 1, 342), (0, 2, 343), (1, 2, 346), (0, 3, 349), (1, 3, 352), (0, 4, 355), (1, 4, 357)],
    GANONDORF: [(0, 1, 347), (1, 1, 348), (0, 2, 349), (1, 2, 351), (0, 3, 353), (1, 3, 354), (0, 4, 357), (1, 4, 359)]}
TRANSFORMS = {  # Sheik and Zelda change on the ground and in the air: into whom, what begins it, what follows
    SHEIK: (ZELDA, (361, 363), (356, 358)), ZELDA: (SHEIK, (355, 357), (362, 364))}

HOLD_ROWS = {  # go on while B is held: (ground, air), what letting go leads to, frames at most, further id when full
    LINK: ((345, 348), (346, 349), 60, 0), MARTH: ((342, 346), (343, 347), 110, 1),
    ZELDA: ((344, 347), (345, 348), 54, 0), SHEIK: ((350, 353), (351, 354), 120, 0),
    GAMEANDWATCH: ((375, 378), (-1, -1), 600, 0)}
HOLD_LEAST = {GAMEANDWATCH: 49, ZELDA: 14, SHEIK: 11}  # frames that they last even without B; public
SHINES = (361, 362), (364, 364), (366, 367), (369, 369)  # of Fox and Falco: neither their start nor their end reflects
GUARD_ROWS = {  # (first action, last action, what it does, first frame, last frame); public but for Teleport
    FOX: [(first, last, GUARD_REFLECT, 0, 999) for first, last in SHINES], FALCO: [
        (first, last, GUARD_REFLECT, 0, 999) for first, last in SHINES],
    MEWTWO: [(351, 352, GUARD_REFLECT, 11, 26), (354, 354, GUARD_DODGE, 0, 10), (357, 357, GUARD_DODGE, 0, 10)],
    ZELDA: [(341, 342, GUARD_REFLECT, 3, 40), (353, 353, GUARD_DODGE, 0, 20)],
    SHEIK: [(355, 355, GUARD_DODGE, 17, 35), (358, 358, GUARD_DODGE, 17, 35), (359, 359, GUARD_DODGE, 0, 20)],
    MARTH: [(369, 369, GUARD_COUNTER, 4, 28), (371, 371, GUARD_COUNTER, 4, 28)],
    GAMEANDWATCH: [(375, 375, GUARD_ABSORB, 4, 600), (378, 378, GUARD_ABSORB, 4, 600),
                   *((action, action, GUARD_ABSORB, 0, 600) for action in BUCKET_CATCHES)]}
INTANGIBLE_ROWS = {  # further untouchable frames of specials: (first action, last action, first frame, last); measured
    # for Fox and Falco (931 of 931 first frames of a shine) and Marth (10 of 10), the others public
    FOX: [(360, 360, 0, 0), (365, 365, 0, 0)], FALCO: [(360, 360, 0, 0), (365, 365, 0, 0)], MARTH: [(367, 368, 4, 4)],
    ZELDA: [(341, 342, 3, 10), (355, 355, 33, 42), (357, 357, 33, 42)], SHEIK: [(361, 361, 26, 35), (363, 363, 26, 35)]}
JAB_ROWS = {  # A again: (action, what follows, from which frame); measured but for Marth's, Link's and Game & Watch's
    FOX: ((44, 45, 5), (45, 47, 7)), FALCO: ((44, 45, 5), (45, 47, 7)), SHEIK: ((44, 45, 9), (45, 47, 9)),
    CAPTAIN_FALCON: ((44, 45, 8), (45, 46, 8), (46, 47, 11)), MEWTWO: ((44, 47, 11),), MARTH: ((44, 45, 15),),
    LINK: ((44, 45, 9), (45, 46, 9)), GAMEANDWATCH: ((341, 342, 8),)}
RAPID_JABS = {GAMEANDWATCH: (343, 344)}                # the blows that go on while A is pressed, and their end
SMASH_HOLD = {MEWTWO: (14, 2, 2)}                      # frame on which A holds forward, up and down smash; measured
SPACE_LANDINGS = {  # Fox's and Falco's, see LANDS_AS
    350: (347, -1), 351: (348, -1), 352: (43, 0), 354: (353, -1), 356: (357, 0), 358: (357, 14),
    **{action: (action - 5, -1) for action in range(365, 370)}}
HOVER_ROWS = {  # specials that hang in the air: (first action, last action, share of the speed kept when it begins, or
    # beyond 1 the speed itself, or -1 if it goes on; loss of speed, frames without gravity, gravity), measured; and for
    # some, public: share of the rise or fall kept, speed upward given, fall at most, share of air_max the stick reaches
    FOX: [(350, 350, 2 / 3, .05, 15, .0167), (352, 352, 2, .07, 5, .08), (354, 354, .8, .02, 15, .015),
          (365, 365, .5, .02, 999, 0), (366, 369, -1, .02, 1, .0267)],
    FALCO: [(350, 350, 2 / 3, .05, 15, .0167), (352, 352, 2, .07, 5, .08), (354, 354, .8, .02, 15, .016),
            (365, 365, .5, .02, 999, 0), (366, 369, -1, .02, 1, .0267)],
    SHEIK: [(352, 352, 1, .04, 21, .12)], MEWTWO: [(352, 352, 1, .016, 0, .082, 1, .35)],
    CAPTAIN_FALCON: [(355, 355, 0, .01, 999, 0)], GANONDORF: [(355, 355, 0, .02, 999, 0)],
    LINK: [(357, 357, .5, .005, 0, .055, 0, 2.3, 2.13, .6)],
    ZELDA: [(342, 342, .5, .005, 4, .0267), (346, 346, 1, .005, 10, .019), (347, 348, -1, .005, 0, .019),
            (352, 352, 2 / 3, .005, 0, .03, 1 / 3, 0, .75)],
    MARTH: [(358, 358, .8, .0025, 0, .06, 0, 1.0, 1.5), (359, 366, -1, .0025, 0, .06, 0, 0, 1.5),
            (368, 368, 2 / 3, .005, 0, .085)]}
STEERED_ROWS = {  # the specials in whose fall the stick counts; the others only lose speed
    FOX: [(344, 346), (358, 359)], FALCO: [(344, 346), (358, 359)], SHEIK: [(357, 360)],
    GAMEANDWATCH: [(341, 353), (374, 374)], LINK: [(360, 360)], ZELDA: [(354, 354)],
    CAPTAIN_FALCON: [(356, 356)], GANONDORF: [(356, 356)]}
RISE_ROWS = {  # up specials that the stick turns: actions, first frame of the rise, frame on which he faces the stick,
    # degrees a unit of the stick beyond the dead zone, that zone, 1 if the widest tilt counts, not the last; measured
    GAMEANDWATCH: ((373, 374), 2, 1, 30.0, .14, 0), MARTH: ((367, 368), 5, 5, 40.0, .5, 1)}
RISE_FALLS = {MARTH: (.06, .4)}                        # after the rise: gravity, share of drift; measured
DIVES = {CAPTAIN_FALCON: (353, 354)}                   # up specials that the stick steers beside their own motion;
DIVE_SLOPE, DIVE_SPEED, DIVE_FACES = 1.1, .85, 12      # shares of air_slope and air_max, frame of facing it; measured
LANDS_AS = {  # specials that meet the floor: what they go on as, from which frame, -1 from the same one; measured for
    # Fox's, Falco's, Falcon's 348 to 354, Sheik's 346, 352, 360, Mewtwo's 347, Marth's 347 and 371, Game & Watch's 374
    FOX: SPACE_LANDINGS, FALCO: SPACE_LANDINGS,
    CAPTAIN_FALCON: {348: (347, -1), 351: (43, 0), 352: (43, 0), 353: (43, 0), 354: (43, 0), 359: (360, 0)},
    SHEIK: {345: (341, -1), 346: (342, -1), 347: (343, -1), 352: (349, -1), 353: (350, -1), 354: (351, -1),
            358: (355, -1), 359: (357, 0), 360: (43, 0)},
    MEWTWO: {346: (341, -1), 347: (342, -1), 349: (344, -1), 350: (345, -1), 352: (351, -1), 354: (353, -1),
             356: (353, -1), 357: (355, 0), 358: (43, 0)},
    MARTH: {345: (341, -1), 346: (342, -1), 347: (343, -1), 348: (344, -1), 367: (43, 0), 368: (43, 0), 371: (369, -1),
            372: (370, -1), **{action: (action - 9, -1) for action in range(358, 367)}},
    GAMEANDWATCH: {354: (353, -1), 373: (43, 0), 374: (43, 0), 378: (375, -1), 379: (376, -1), 380: (377, -1),
                   **{action: (action - 9, -1) for action in range(364, 373)}}}
WALKS_OFF_AS = {  # specials on the ground that lose the floor: in the air as LANDS_AS backward, and these
    FOX: {349: 29, 357: 35}, FALCO: {349: 29, 357: 35}}
FAST_FALLS = {  # specials that can fast-fall; measured
    FOX: (344, 345, 346, 358, 359), FALCO: (344, 345, 346, 358, 359), GAMEANDWATCH: (347, 348, 349, 350, 351, 352)}
RESTORES_JUMP = {CAPTAIN_FALCON: 359, GANONDORF: 359}  # whose end gives the double jump back; measured with Falcon
HELPLESS_FALL = {  # after the up special: share of drift, speed; else 1, fall_max
    MARTH: (.4, 2.5), ZELDA: (.6, 1.4), GANONDORF: (.72, 2.0)}
HIT_ROWS = {  # what the attacker goes over to when he touches: Raptor Boost, Falcon Dive and their dark twins
    CAPTAIN_FALCON: {349: 350, 351: 352, 353: 356, 354: 356}, GANONDORF: {349: 350, 351: 352, 353: 356, 354: 356}}
JUDGE_AIR, JUDGE_ONE_COST = 9, 12                      # ids further in the air; percent that hammer 1 costs its user
JUDGE_FIRST, DIVE_HOLD, DIVE_HIT = 355, 355, 356       # a dive holds its victim, then throws him off
DIVE_STRIKES = {CAPTAIN_FALCON: ((1,), 5, 12), GANONDORF: ((2, 6, 10, 14), 1, 15)}  # frames and damage of the blows of
# a dive, damage of its throw; measured
DIVE_GROWTH, DIVE_BASE, DIVE_ANGLE = 82, 40, 361      # of its throw; public
FILLED_BUCKET = 3                                      # shots that Oil Panic takes before it can be poured
GRAB_REACH = {  # how far in front the caught victim stands while pulled in, and while held
    FOX: (5.74, 8.28), CAPTAIN_FALCON: (8.19, 7.87), SHEIK: (7.4, 7.35), MEWTWO: (11.0, 11.98), MARTH: (16.41, 9.1),
    FALCO: (6.57, 9.49)}
WALL_JUMPERS = FOX, CAPTAIN_FALCON, SHEIK, FALCO       # who jump off walls without a tech; public
BRAKE_FRAMES = {FOX: 18, CAPTAIN_FALCON: 28, MEWTWO: 30, MARTH: 26, FALCO: 18, GAMEANDWATCH: 30}  # of a run; measured
RUN_TURNS = {  # frame on which a running turn waits for the speed to change its sign, and its length; measured for
    MEWTWO: (20, 36), FOX: (9, 20), FALCO: (9, 20), CAPTAIN_FALCON: (9, 22)}  # Mewtwo, public for the other three
RUN_TURN = 9, 30                                       # public and measured for Marth, a guess for the others
LANDING_LAG_ROWS = {  # frames that a special's landing takes: (first action, last action, straight out of it, after the
    # helpless fall); 0 is the ordinary landing, below 0 he may act once the animation is as far as an ordinary landing.
    # Measured but for Falco's up special and all of Sheik's, Link's, Zelda's and Ganondorf's
    FOX: [(350, 352, 20, 20), (356, 359, 0, -18)], FALCO: [(350, 352, 20, 20), (356, 359, 0, -18)],
    CAPTAIN_FALCON: [(350, 351, 20, 20), (352, 352, 40, 40), (353, 354, 30, 30)],
    GANONDORF: [(350, 351, 20, 20), (352, 352, 40, 40), (353, 354, 30, 30)],
    MEWTWO: [(357, 358, 30, -30)], MARTH: [(367, 368, 34, 34)], GAMEANDWATCH: [(373, 374, 40, -40)],
    SHEIK: [(358, 360, 0, 30)], LINK: [(357, 357, 30, 30)], ZELDA: [(352, 354, 0, 30)]}
LANDS_HALFWAY = SHEIK, MARTH                           # an air dodge out of the jumpsquat moves them half a frame
PUSH_WIDTH = {CAPTAIN_FALCON: 3.5}                     # half of how close two may stand; 3.3 for the others
WALL_WIDTH = {  # by action; 2 elsewhere
    GAMEANDWATCH: {29: 1.67, 27: 2.42, 28: 2.42, 66: 2.68, 69: 4.11, 263: 4.08, 347: 2.65, 373: 4.03, 374: 4.03}}
LEDGE_SPECIALS = {  # that can catch a ledge; seen in replays for Falco, Sheik and Game & Watch, public for the others
    FOX: (352, 354, 356, 358, 359), FALCO: (352, 354, 356, 358, 359), CAPTAIN_FALCON: (353, 354), GANONDORF: (353, 354),
    LINK: (357, 360), SHEIK: (358, 360), ZELDA: (352, 354), MEWTWO: (357, 358), MARTH: (367, 368),
    GAMEANDWATCH: (373, 374)}
PROJECTILE = np.dtype([(name, "f4") for name in (
    "life radius damage angle growth set_knockback base gravity attack_id".split())])
PROJECTILE_ROWS = {  # blows: lasers and needles measured, others public; lives, speeds and radii: data/README.md
    FOX_LASER: (34, 1.5, 3, 0, 0, 0, 0, 0, NEUTRAL_SPECIAL),
    FALCO_LASER: (99, 1.5, 3, 361, 100, 5, 0, 0, NEUTRAL_SPECIAL),
    NEEDLE: (30, 1.5, 3, 361, 34, 0, 24, 0, NEUTRAL_SPECIAL),
    SHADOW_BALL: (69, 2.5, 3, 361, 35, 0, 15, 0, NEUTRAL_SPECIAL),
    SAUSAGE: (80, 2, 4, 70, 50, 0, 20, .04, NEUTRAL_SPECIAL),
    ARROW: (60, 1.5, 5, 70, 50, 0, 8, .053, NEUTRAL_SPECIAL),
    BOOMERANG: (140, 3, 6, 65, 30, 0, 55, 0, 19), BOMB: (300, 2.5, 6, 70, 30, 0, 60, .07, 21),
    DINS_FIRE: (65, 2, 0, 0, 0, 0, 0, 0, 19), DINS_EXPLOSION: (4, 5, 3, 70, 60, 0, 40, 0, 19)}
SHADOW_BALL_DAMAGE = np.array([3, 5, 8, 11, 14, 17, 20, 25])  # by charge; growth and base gain 5 a step; public
FULL_ARROW, ARROW_SPEED, ARROW_DAMAGE = 60, (1.3, 5.0), (5, 18)  # frames of drawing; not drawn, fully drawn; public
BOOMERANG_SPEED, BOOMERANG_LIFE = (2.4, 3.1), (140, 170)  # thrown by a tilt and by a smash; public, as all of this:
BOOMERANG_ANGLE, BOOMERANG_DRAG, BOOMERANG_LEAST, BOOMERANG_MOST = .4538, .047, .3, 3.0  # steepest throw; slower each
BOOMERANG_TURN = np.radians([.75, 1.5])                # frame down to least, then faster; turns home so much a frame,
BOOMERANG_CATCH, BOOMERANG_HAND = 6, 8                 # more after a blow; caught so near; the hand's height, a guess
BOOMERANG_STRONG, BOOMERANG_STRONG_FRAMES, BOOMERANG_BACK = (15, 17), 3, 3  # damage near the hand, and coming back
BOMB_RADIUS, BOMB_BLAST_FRAMES, BOMB_BLAST_DAMAGE = 8, 4, 4  # of the explosion; the damage is public
BOMB_BURSTS, BOMB_BURSTS_Y = .8, 1.5                   # a softer fall than that, across (public) and down, is none
BOMB_THROWS = np.array([6, 6, 7, 8, 1])                # damage thrown forward, back, up, down, dropped; public
DINS_DELAY, DINS_SPEED, DINS_FASTER, DINS_MOST = 22, .5, .06, 7.0  # frames to the blast; speed, its gain; all public
DINS_STEERING, DINS_STEEPEST, DINS_GROWS = .0244, 1.3963, 60  # radians a frame and at most; frames in which it grows
DINS_DAMAGE, DINS_SIZE = (3, .17), (.3, 1.7)           # damage and its gain a frame; size of the blast, first and last
REFLECTED, POWER_SHIELDED = 1.5, (.5, .7)              # damage of what is sent back; by a shield, and its speed; public
SAUSAGES, SAUSAGE_STEP = 5, (-.2, .1)                  # as many ways to throw, each slower and higher; public
EXTRA_SHOT_ROWS = {  # further shots: action, frame, type, offset from where the shooter was, velocity
    FOX: [(220, frame, FOX_LASER, 13.2, 14.8, 5.83, 3.88) for frame in (16, 19, 21)] +
         [(221, frame, FOX_LASER, 1.0, 26.6, .1, 7) for frame in (18, 21, 24)] +
         [(222, frame, FOX_LASER, 2.4, 9, .5, -6.9) for frame in (23, 25, 28, 31)],
    FALCO: [(220, frame, FALCO_LASER, 12.3, 14.5, 4.1, 2.8) for frame in (16, 19, 21)] +
           [(221, frame, FALCO_LASER, 1.0, 26.2, .2, 5) for frame in (19, 21, 25)] +
           [(222, frame, FALCO_LASER, 2.4, 9, .3, -5) for frame in (23, 25, 28, 31)],
    LINK: [(346, 1, ARROW, 8, 8, 1, 0), (349, 1, ARROW, 8, 8, 1, 0), (350, 26, BOOMERANG, 8, 9, 1, 0),
           (353, 26, BOOMERANG, 8, 9, 1, 0), (358, 15, BOMB, 4, 6, 0, 0), (359, 15, BOMB, 4, 6, 0, 0)],
    ZELDA: [(343, 12, DINS_FIRE, 10, 10, DINS_SPEED, 0), (346, 12, DINS_FIRE, 10, 10, DINS_SPEED, 0)]}
EXTRA_SHOT = np.dtype([("action", "i2"), ("frame", "i2"), ("type", "i2"), ("x", "f4"), ("y", "f4"), ("vx", "f4"),
                       ("vy", "f4")])
MAX_EXTRA_SHOTS = 12
SHOT_ROWS = {  # type; then on the ground and in the air: action, frame, offset from where the shooter was, velocity
    FOX: (FOX_LASER, (342, 5, 16.47, 7.68, 7, 0), (345, 5, 16.41, 9.59, 7, 0)),
    FALCO: (FALCO_LASER, (342, 16, 10.58, 8.13, 5, 0), (345, 8, 14.64, 9.31, 5, 0)),
    SHEIK: (NEEDLE, (344, 3, 8, 8.75, 4, 0), (348, 3, 7, 4.875, 2.83, -2.83)),
    MEWTWO: (SHADOW_BALL, (345, 8, 13.73, 11.72, .8, 0), (350, 8, 10.05, 9.99, .8, 0)),
    GAMEANDWATCH: (SAUSAGE, (353, 18, 8, 9, 1, 1), (354, 18, 8, 9, 1, 1))}
CHARGE_ROWS = {  # charging on the ground and in the air, what a shield press makes of it, frames a step, steps, loop
    SHEIK: ((342, 346), (343, 347), 18, 5, 18), MEWTWO: ((342, 347), (344, 349), 14, 7, 8)}
HELD_ROWS = {  # actions with an item in hand: (first, last, type, offset); it is logged where it appeared
    FOX: [(341, 346, FOX_BLASTER, 0, 0)], FALCO: [(341, 346, FALCO_BLASTER, 0, 0)],
    MEWTWO: [(342, 342, SHADOW_BALL, -7.65, 8.94), (347, 347, SHADOW_BALL, -6.7, 8.1)],
    LINK: [(344, 349, BOW, 5, 8)], SHEIK: [(342, 344, NEEDLES_HELD, 0, 0), (346, 348, NEEDLES_HELD, 0, 0),
                                           (349, 354, CHAIN, 6, 8)],
    GAMEANDWATCH: [(341, 344, 0x72, 5.39, 5.16), (345, 345, 0x73, 12.4, 1.5), (346, 346, 0x74, 4.8, 14.83),
         (347, 347, 0x75, -.65, 6.96), (350, 350, 0x75, -.65, 6.96), (348, 348, 0x76, 5.59, 7.99),
         (351, 351, 0x76, 5.59, 7.99), (349, 349, 0x77, -.45, 13.51), (352, 352, 0x77, -.45, 13.51),
         (374, 374, PARACHUTE, 0, -2.55)]}

# Game & Watch's own ids for moves that everyone else does with the common ones, and his aerials' landings.
GAMEANDWATCH_ACTIONS = {44: 341, 48: 343, 57: 345, 60: 346, 65: 347, 67: 348, 68: 349, 70: 350, 72: 351, 73: 352}

CHARACTER = np.dtype([(name, "f4") for name in ATTRIBUTES] + [
    ("launch_actions", "i2", 3), ("launch_frames", "f4"), ("launch_speed", "f4"), ("launch_slow_from", "f4"),
    ("launch_slower", "f4"), ("launch_kept", "f4"), ("launch_by_stick", "f4"), ("warp_end", "i2"),
    ("launch_along", "i2"), ("start_keep_x", "f4"), ("start_keep_y", "f4"), ("start_lift", "f4"),
    ("start_gravity", "f4"), ("start_fall", "f4"), ("start_steered", "i2"),
    ("transforms_into", "i2"), ("transform_action", "i2", 2), ("transform_end", "i2", 2),
    ("shot_type", "i2"), ("shot_action", "i2", 2), ("shot_frame", "i2", 2), ("shot_x", "f4", 2), ("shot_y", "f4", 2),
    ("shot_vx", "f4", 2), ("shot_vy", "f4", 2), ("charge_action", "i2", 2), ("charge_stop", "i2", 2),
    ("charge_frames", "i2"), ("charge_steps", "i2"), ("charge_loop", "i2"),
    ("hold_action", "i2", 2), ("hold_end", "i2", 2), ("hold_frames", "i2"), ("hold_full", "i2"), ("hold_least", "i2"),
    ("guard_kind", "i2", NUM_ACTIONS), ("guard_first", "i2", NUM_ACTIONS), ("guard_last", "i2", NUM_ACTIONS),
    ("jab_next", "i2", NUM_ACTIONS), ("jab_from", "i2", NUM_ACTIONS), ("rapid_jab", "i2", 2),
    ("smash_hold", "i2", NUM_ACTIONS),                 # frame on which A held charges this smash, 0 never
    ("tilt_high", "i2"), ("tilt_low", "i2"),           # forward tilts aimed up and down
    ("hover_keep", "f4", NUM_ACTIONS), ("hover_loss", "f4", NUM_ACTIONS), ("hover_frames", "i2", NUM_ACTIONS),
    ("hover_gravity", "f4", NUM_ACTIONS), ("hover_keep_y", "f4", NUM_ACTIONS), ("hover_lift", "f4", NUM_ACTIONS),
    ("hover_fall", "f4", NUM_ACTIONS), ("hover_drift", "f4", NUM_ACTIONS), ("steered", "i2", NUM_ACTIONS),
    ("helpless_drift", "f4"), ("helpless_fall", "f4"),
    ("hit_action", "i2", NUM_ACTIONS),                 # what touching somebody leads to, 0 nothing
    ("follow_from", "i2", NUM_ACTIONS),                # B from this frame on goes on with the sword dance, 0 never
    ("rises", "i2", NUM_ACTIONS),                      # an up special that its animation lifts
    ("motion_row", "i2", NUM_ACTIONS),                 # row of SPECIAL_MOTION, 0 none
    ("rise_first", "i2", NUM_ACTIONS), ("rise_faces", "i2"), ("rise_slope", "f4"), ("rise_dead_zone", "f4"),
    ("rise_widest", "i2"), ("rise_gravity", "f4"), ("rise_drift", "f4"), ("dives", "i2", NUM_ACTIONS),
    ("lands_as", "i2", NUM_ACTIONS), ("lands_at", "i2", NUM_ACTIONS), ("walks_off_as", "i2", NUM_ACTIONS),
    ("fast_falls", "i2", NUM_ACTIONS), ("restores_jump", "i2"),
    ("num_extra_shots", "i2"), ("extra_shots", EXTRA_SHOT, MAX_EXTRA_SHOTS), ("has_items", "i2"),
    ("held_type", "i2", NUM_ACTIONS), ("held_x", "f4", NUM_ACTIONS), ("held_y", "f4", NUM_ACTIONS),
    ("catches", "i2", NUM_ACTIONS),                    # a special that can catch a ledge
    ("ledge_width", "f4"), ("ledge_top", "f4"), ("ledge_height", "f4"), ("ledge_jump", "f4", 2),
    ("pull_reach", "f4"), ("dash_pull_reach", "f4"), ("hold_reach", "f4"),
    ("push_width", "f4"), ("shield_size", "f4"),
    ("dive_damage", "f4"), ("dive_throw", "f4"), ("dive_strikes", "i2", MAX_FRAMES),
    ("wall_width", "f4", NUM_ACTIONS), ("wall_jump", "f4", 2), ("wall_jumps", "i2"),  # speeds, who can
    ("run_turn", "i2", 2), ("landing_lag_special", "i2", (NUM_ACTIONS, 2)),  # straight out of it, after helpless fall
    ("lands_halfway", "i2"),
    ("frames", "i2", NUM_ACTIONS),                     # length of an action, 0 unknown
    ("next_action", "i2", NUM_ACTIONS),                # what follows when it runs out, -1 the standing or falling state
    ("interruptible", "i2", NUM_ACTIONS),              # IASA frame, 0 never
    ("feet", "f4", (NUM_ACTIONS, MAX_FRAMES)),         # their height above the position, by frame, while airborne
    ("root_row", "i2", NUM_ACTIONS),                   # row of ROOT_MOTION, 0 none
    ("velocity_row", "i2", NUM_ACTIONS),               # row of VELOCITIES, 0 none
    ("hit_row", "i2", (NUM_ACTIONS, MAX_FRAMES)),      # row of HITBOXES, 0 none
    ("dodge_first", "i2", NUM_ACTIONS), ("dodge_last", "i2", NUM_ACTIONS),  # untouchable from one to before the other
    ("zero_indexed", "i2", NUM_ACTIONS),               # libmelee adds one to the frame of these
    ("age_first", "f4", NUM_ACTIONS), ("age_rate", "f4", NUM_ACTIONS),  # animation frame: its first, its gain
    ("age_loop", "f4", NUM_ACTIONS), ("age_last", "f4", NUM_ACTIONS),  # where it starts over or stands still, 0 nowhere
    ("age_stride", "f4", NUM_ACTIONS),                 # what it gains by a unit of ground, 0 nothing
    ("attack_id", "i2", NUM_ACTIONS),                  # Slippi's, 0 no attack
    ("special_start", "i2", (2, 5)),                   # [airborne, direction]: neutral 1, side 2, up 3, down 4
    ("ledge_pose", "f4", (8, 2)),                      # seven frames of catching the ledge and one of hanging
    ("throw_strike_frame", "i2", 4), ("throw_strike", "f4", 4),  # forward, back, up, down: a blow before the release
    ("throw_frame", "f4", 4), ("throw_length", "f4", 4), ("throw_by_weight", "f4", 4),
    ("throw_damage", "f4", 4), ("throw_angle", "f4", 4), ("throw_growth", "f4", 4),
    ("throw_base", "f4", 4), ("thrown_path", "f4", (4, MAX_FRAMES, 2)),
    ("let_go", "f4", (4, 2)), ("hang_x", "f4"), ("hang_y", "f4"),  # where throws let go; how he hangs from a hand
    ("pummel_path", "f4", (MAX_FRAMES, 2)),
    ("pummel_frame", "i2"), ("pummel_damage", "f4"),
    ("own_action", "i2", 80),                          # common id to own id
    ("aerial", "i2", NUM_ACTIONS), ("aerial_landing", "i2", NUM_ACTIONS),  # 0 neutral .. 4 down, -1 neither
    ("landing_lag", "f4", 5), ("autocancel_before", "f4", 5), ("autocancel_after", "f4", 5),
])

HITBOXES = np.dtype([  # four boxes of one frame of one action; size 0 is off
    ("x", "f4", 4), ("y", "f4", 4), ("size", "f4", 4), ("damage", "f4", 4), ("angle", "f4", 4), ("growth", "f4", 4),
    ("set_knockback", "f4", 4), ("base", "f4", 4), ("effect", "i2", 4)])
CONFUSION = (351, 352)                                 # Mewtwo's: a grab, by the first of the two boxes listed
MIRRORED = {(GANONDORF, 350)}                          # libmelee shows these boxes behind him
EFFECTS = {"electric": EFFECT_ELECTRIC, "grab": EFFECT_GRAB, "inert": EFFECT_INERT, "stun": EFFECT_STUN,
           "freezing": EFFECT_FREEZE}

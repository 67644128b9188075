"""The game's vocabulary: actions by Melee's ids, items and stages by Slippi's, marks that rules leave for each
other, and where the stick begins to count. Numbers of a single rule stand beside that rule."""

from cleanmelee.frame import BUTTON_L, BUTTON_R, BUTTON_X, BUTTON_Y, BUTTON_Z

# ---------------------------------------------------------------------------------------------------------------------
# Actions, in the order of their ids
# ---------------------------------------------------------------------------------------------------------------------

DEAD_DOWN, DEAD_LEFT, DEAD_RIGHT, DEAD_UP, SLEEP, REBIRTH, REBIRTH_WAIT = 0, 1, 2, 4, 11, 12, 13
WAIT, WALK_SLOW, WALK_MIDDLE, WALK_FAST, TURN, TURN_RUN, DASH, RUN, RUN_BRAKE = 14, 15, 16, 17, 18, 19, 20, 21, 23
JUMPSQUAT, JUMP_FORWARD, JUMP_BACKWARD, DOUBLE_FORWARD, DOUBLE_BACKWARD = 24, 25, 26, 27, 28
FALL, FALL_AERIAL, FALL_SPECIAL, TUMBLE, CROUCH_START, CROUCH, CROUCH_END = 29, 32, 35, 38, 39, 40, 41
LANDING, LANDING_SPECIAL = 42, 43
JAB_1, DASH_ATTACK, FTILT, UTILT, DTILT, FSMASH, USMASH, DSMASH = 44, 50, 53, 56, 57, 60, 63, 64
NAIR, FAIR, BAIR, UAIR, DAIR = 65, 66, 67, 68, 69      # their landings are five ids further
DAMAGE_FIRST, DAMAGE_AIR, DAMAGE_FLY_HIGH, DAMAGE_FLY, DAMAGE_FLY_LOW, DAMAGE_FLY_TOP, DAMAGE_LAST = (
    75, 84, 87, 88, 89, 90, 91)
ITEM_THROW, ITEM_DROP, ITEM_THROW_AIR = 94, 99, 6      # forward, back, up, down from 94 on; in the air six ids further
SHIELD_START, SHIELD, SHIELD_RELEASE, SHIELD_STUN, SHIELD_REFLECT = 178, 179, 180, 181, 182
DOWN_BOUND_UP, DOWN_WAIT_UP, DOWN_DAMAGE_UP = 183, 184, 185  # on the back
DOWN_BOUND_DOWN, DOWN_WAIT_DOWN, DOWN_DAMAGE_DOWN = 191, 192, 193  # on the belly
DOWN_STAND, DOWN_ATTACK, DOWN_ROLL_FORWARD, DOWN_ROLL_BACKWARD = 186, 187, 188, 189  # face up; face down eight further
TECH, TECH_FORWARD, TECH_BACKWARD, WALL_TECH, WALL_TECH_JUMP, CEILING_TECH = 199, 200, 201, 202, 203, 204
SHIELD_BREAK_FLY, SHIELD_BREAK_FALL, FURAFURA = 205, 206, 211
GRAB, GRAB_PULL, GRAB_DASH, GRAB_DASH_PULL, HOLD, PUMMEL, GRAB_BREAK = 212, 213, 214, 215, 216, 217, 218
THROW_FORWARD, THROW_BACK, THROW_UP, THROW_DOWN = 219, 220, 221, 222
CAUGHT_AIR, HELD_AIR, PUMMELED_AIR, CAUGHT, HELD, PUMMELED, BREAK_FREE, THROWN_FORWARD, THROWN_DOWN = (
    223, 224, 225, 226, 227, 228, 229, 239, 242)
ROLL_FORWARD, ROLL_BACKWARD, SPOT_DODGE, AIR_DODGE = 233, 234, 235, 236
REBOUND_STOP, REBOUND, PLATFORM_DROP, TEETER, TEETER_WAIT = 237, 238, 244, 245, 246
BOUNCE_WALL, BOUNCE_CEILING = 247, 248
LEDGE_CATCH, LEDGE_HANG, LEDGE_CLIMB_SLOW, LEDGE_CLIMB, LEDGE_ATTACK_SLOW, LEDGE_ATTACK, LEDGE_ROLL_SLOW, LEDGE_ROLL = (
    252, 253, 254, 255, 256, 257, 258, 259)
LEDGE_JUMP_SLOW, LEDGE_JUMP = 260, 262                 # a jump's second half is the next id
LEDGE_COOLDOWN = 30                                    # frames before the ledge can be caught again
MISS_FOOT = 251                                        # slides backward off the edge, hurt or in a shield
CONFUSED, CONFUSED_LAST = 301, 304                     # held by Mewtwo's Confusion; the second is in the air: 302
CAUGHT_IN_DIVE, FROZEN = 275, 325
BUCKET_CATCHES = 376, 379                              # Game & Watch's bucket takes a shot: on the ground, in the air
FIRST_OWN_ACTION, SECOND_FSMASH, HOOKSHOT = 341, 341, 360  # from here on every character has his own; Link's
SHINE_FIRST, SHINE, SHINE_END, SHINE_TURN, SHINE_AIR, SHINE_LAST, SHINE_IN_AIR = 360, 361, 363, 364, 366, 369, 5

# ---------------------------------------------------------------------------------------------------------------------
# Items and stages
# ---------------------------------------------------------------------------------------------------------------------

FOX_LASER, FALCO_LASER, FOX_BLASTER, FALCO_BLASTER, NEEDLE, NEEDLES_HELD, SHADOW_BALL, SAUSAGE = (
    0x36, 0x37, 0x4A, 0x4B, 0x4F, 0x50, 0x70, 0x7A)
PARACHUTE = 0x7C                                       # Game & Watch's, of his up special
BOMB, BOOMERANG, ARROW, BOW, CHAIN, DINS_FIRE, DINS_EXPLOSION = 0x3A, 0x3C, 0x40, 0x4C, 0x61, 0x6C, 0x6D
NUM_ITEM_TYPES, NEUTRAL_SPECIAL = 0x80, 18             # the second is Slippi's attack id
BOMB_HELD, BOMB_THROWN, BOMB_EXPLODING = 0, 1, 2       # states of a bomb

FOUNTAIN, POKEMON_STADIUM, YOSHIS_STORY, DREAM_LAND, BATTLEFIELD, FINAL_DESTINATION = 2, 3, 8, 28, 31, 32
NUM_STAGES, MAX_FLOORS = 33, 5

# ---------------------------------------------------------------------------------------------------------------------
# Marks: what a hit does, what a special does to it, values of `flag`
# ---------------------------------------------------------------------------------------------------------------------

EFFECT_NORMAL, EFFECT_ELECTRIC, EFFECT_GRAB, EFFECT_INERT, EFFECT_STUN, EFFECT_FREEZE = 0, 1, 2, 3, 4, 5
GUARD_REFLECT, GUARD_ABSORB, GUARD_COUNTER, GUARD_DODGE = 1, 2, 3, 4
TURN_DASH, FIRST_JUMP_FRAME = 2, 7                     # the turn ends in a dash; no gravity nor drift yet
DASH_FROM_STAND, RUN_FROM_TURN = 3, 4                  # no dash back yet; the run goes on whatever the stick does
FREE_LANDING = 1                                       # this landing from a helpless fall lets him act early

# ---------------------------------------------------------------------------------------------------------------------
# Buttons and stick, in processed units. The stick moves in steps of 1/80; between two steps there is room for rounding.
# ---------------------------------------------------------------------------------------------------------------------

BUTTON_XY, BUTTON_LR, BUTTON_LRZ = BUTTON_X | BUTTON_Y, BUTTON_L | BUTTON_R, BUTTON_L | BUTTON_R | BUTTON_Z
TILT, JUMP_Y, SMASH, DASH_X, WALK_X, DROP_Y, UP_SPECIAL = .28, .66, .66, .8, .275, -.66, .55
CROUCH_Y, STAY_DOWN_Y = -.69, -.62                     # to crouch, to go on crouching; measured
RUN_X = .62                                            # to go on running
MAX_TIMER = 254                                        # where the timers of the stick and the triggers stop
TECH_LOCKOUT, DIZZY_FRAMES = 40, 490                   # frames
JUMP_BUFFER = 10                                       # frames in which a jump pressed in hitstun waits; measured
METEOR_LOW, METEOR_HIGH, METEOR_WAIT = 260, 280, 8      # degrees; frames after hitlag before a jump ends it; public
METEOR_LOCKOUT = 40                                    # frames in which a second press does not cancel it; public
SHIFT_STICK = .7                                       # how far the stick must be out for SDI, automatic or not; public
WALL_HOLD = 5                                          # frames that a tech holds on to a wall; measured

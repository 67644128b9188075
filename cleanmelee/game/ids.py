"""The game's vocabulary: actions by Melee's ids, items by Slippi's, thresholds of the stick, small questions about them."""

import numpy as np

from cleanmelee.frame import BUTTON_L, BUTTON_R, BUTTON_X, BUTTON_Y, BUTTON_Z, FALCO, FOX
from cleanmelee.game.compiler import jit

GUARD_REFLECT, GUARD_ABSORB, GUARD_COUNTER, GUARD_DODGE = 1, 2, 3, 4
# Items, by Slippi's type ids.
FOX_LASER, FALCO_LASER, FOX_BLASTER, FALCO_BLASTER, NEEDLE, NEEDLES_HELD, SHADOW_BALL, SAUSAGE = (
    0x36, 0x37, 0x4A, 0x4B, 0x4F, 0x50, 0x70, 0x7A)
BOMB, BOOMERANG, ARROW, BOW, CHAIN, DINS_FIRE, DINS_EXPLOSION = 0x3A, 0x3C, 0x40, 0x4C, 0x61, 0x6C, 0x6D
NUM_ITEM_TYPES, NEUTRAL_SPECIAL = 0x80, 18             # the second is Slippi's attack id
BOMB_HELD, BOMB_THROWN, BOMB_EXPLODING = 0, 1, 2       # states of a bomb
EFFECT_NORMAL, EFFECT_ELECTRIC, EFFECT_GRAB, EFFECT_INERT, EFFECT_STUN, EFFECT_FREEZE = 0, 1, 2, 3, 4, 5

FOUNTAIN, YOSHIS_STORY, DREAM_LAND, NUM_STAGES, MAX_FLOORS, NO_SLOPE = 2, 8, 28, 33, 5, 1e9

GRAB, GRAB_PULL, GRAB_DASH, GRAB_DASH_PULL, HOLD, PUMMEL, GRAB_BREAK = 212, 213, 214, 215, 216, 217, 218
THROW_FORWARD, THROW_BACK, THROW_UP, THROW_DOWN = 219, 220, 221, 222
CAUGHT_AIR, HELD_AIR, PUMMELED_AIR, CAUGHT, HELD, PUMMELED, BREAK_FREE, THROWN_FORWARD, THROWN_DOWN = (
    223, 224, 225, 226, 227, 228, 229, 239, 242)

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


@jit
def random_uniform(seed, frame, purpose):
    z = np.uint64(seed) + np.uint64(frame + 1000) * np.uint64(0x9E3779B97F4A7C15)
    z += np.uint64(purpose) * np.uint64(0xD1B54A32D192ED03)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.float64((z ^ (z >> np.uint64(31))) >> np.uint64(11)) * 2.0 ** -53


@jit
def in_damage(action):
    return DAMAGE_FIRST <= action <= DAMAGE_LAST or action == BOUNCE_WALL or action == BOUNCE_CEILING


@jit
def is_flying(action):
    """Flung by a strong blow, also after a bounce."""
    return DAMAGE_FLY_HIGH <= action <= DAMAGE_LAST or action == BOUNCE_WALL or action == BOUNCE_CEILING


@jit
def is_held(action):
    """Caught, held or being thrown: the other decides what happens."""
    return CAUGHT_AIR <= action <= PUMMELED or THROWN_FORWARD <= action <= THROWN_DOWN


@jit
def in_shine(p):
    return (p.character == FOX or p.character == FALCO) and SHINE_FIRST <= p.action <= SHINE_LAST


@jit
def is_down_damage(action):
    """Hit while lying on the floor, too weakly to fly."""
    return action == DOWN_DAMAGE_UP or action == DOWN_DAMAGE_DOWN


@jit
def is_helpless(p, h, c):
    """Falls after an up special, not after an air dodge; one who is faster than it allows must have dodged."""
    return p.action == FALL_SPECIAL and h.flag == 0 and abs(p.self_vx_air) <= c.helpless_drift * c.air_max + .001


@jit
def on_ledge(action):
    return LEDGE_CATCH <= action <= LEDGE_JUMP_SLOW or action == LEDGE_JUMP


@jit
def leaves_ledge(action):
    """The second half of a jump from the ledge."""
    return action == LEDGE_JUMP_SLOW + 1 or action == LEDGE_JUMP + 1


@jit
def is_grab(action):
    return action == GRAB or action == GRAB_DASH


@jit
def is_holding(action):
    return action == GRAB_PULL or GRAB_DASH_PULL <= action <= PUMMEL or THROW_FORWARD <= action <= THROW_DOWN

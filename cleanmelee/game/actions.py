"""Actions: how one begins, and what kind of action an id is. Every rule asks these."""

from cleanmelee.frame import FALCO, FOX
from cleanmelee.game.compiler import jit
from cleanmelee.game.ids import *  # noqa: F403


@jit
def set_action(p, h, action):
    p.action, p.state_age = action, 0                  # settle finds out where its animation begins
    h.action_frames, h.flag, h.has_hit, h.queued, h.boost, h.smash_charge = 0, 0, 0, 0, 0, 0


@jit
def leave_ground(p, h):
    p.airborne, p.jumps, h.air_frames, p.fastfall = 1, 1, 1, 0
    p.self_vy, h.lifted = 0, 0


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
    held = CAUGHT_AIR <= action <= PUMMELED or THROWN_FORWARD <= action <= THROWN_DOWN
    return held or action == CAUGHT_IN_DIVE or is_confused(action)


@jit
def is_confused(action):
    """Whirled round by Mewtwo's Confusion, which is a grab."""
    return CONFUSED <= action <= CONFUSED_LAST


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

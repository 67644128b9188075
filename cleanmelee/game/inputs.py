"""Inputs: what the game reads from sticks, triggers and buttons. Every frame begins with it."""

import numpy as np

from cleanmelee.frame import BUTTON_B
from cleanmelee.game.compiler import jit
from cleanmelee.game.ids import *  # noqa: F403


SIDE_SPECIAL = .6                                      # how far the stick must be out for a special to the side


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
    square = x * x + y * y
    if square > 1:
        length = np.sqrt(square)
        if length > 1.01:                              # the game's own rounding leaves real sticks up to 1.006 long
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
    h.jump_buffer = JUMP_BUFFER if jump_begins(h) else max(h.jump_buffer - 1, 0)
    h.jump_lockout = locked_out(h.jump_lockout, jump_begins(h))
    h.rise_lockout = locked_out(h.rise_lockout, special_direction(h) == 3)
    if h.tilt_x_age == 0:
        h.tilt_side, h.tilt_side_age = 1 if h.stick_x > 0 else -1, 0
    h.tech_lockout = max(h.tech_lockout - 1, 0)
    if pressed(h, BUTTON_LR):                          # a light press is none, and pressing again does not help
        h.tech_void = h.tech_lockout > 0
        if not h.tech_void:
            h.tech_lockout = TECH_LOCKOUT


@jit
def locked_out(frames, fresh):
    """Frames until the next press counts as the first again; below zero if this one came too soon after another."""
    if fresh:
        return METEOR_LOCKOUT if frames == 0 else -METEOR_LOCKOUT
    return max(abs(frames) - 1, 0) * (1 if frames > 0 else -1)


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
def jump_begins(h):
    """Pressed or flicked on this very frame."""
    return pressed(h, BUTTON_XY) or (h.stick_y >= JUMP_Y > h.last_stick_y and h.tilt_y_age < 4)


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


@jit
def clear_controller(pad):
    pad.main_x, pad.main_y, pad.c_x, pad.c_y, pad.l, pad.r, pad.buttons = 0, 0, 0, 0, 0, 0, 0


@jit
def copy_controller(source, target):
    target.main_x, target.main_y, target.c_x, target.c_y = source.main_x, source.main_y, source.c_x, source.c_y
    target.l, target.r, target.buttons = source.l, source.r, source.buttons

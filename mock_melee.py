"""The embedded game: Melee's rules as scalar numba code over arrays. No ISO needed.

This module also defines the one language that every part of CleanMelee speaks: the frame.
A frame holds what Slippi can show of one game after one frame, in Slippi's own fields, units and ids, whether it
came from a .slp file, from this game or from Dolphin. What Slippi cannot show (timers) lives in `HIDDEN`.
"""

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
    ("present", "i2"),                                 # 1 if this record is real (Nana and the dead of doubles may be absent)
])

ITEM = np.dtype([
    ("x", "f4"), ("y", "f4"), ("vx", "f4"), ("vy", "f4"), ("facing", "f4"), ("timer", "f4"),
    ("type", "i2"), ("state", "i2"),                   # Slippi's item type id and its state
    ("owner", "i2"),                                   # 0 or 1: index into the frame's players; -1 nobody
    ("damage", "i2"), ("charge", "i2"),                # damage taken; Slippi's misc byte for charge (shots, turnip face)
    ("present", "i2"),                                 # 1 if this slot is in use
])

FRAME = np.dtype([
    ("players", PLAYER, NUM_PLAYERS), ("nanas", PLAYER, NUM_PLAYERS), ("items", ITEM, NUM_ITEMS),
    ("platform_left", "f4"), ("platform_right", "f4"),  # heights of Fountain of Dreams' moving platforms, 0 elsewhere
    ("frame_id", "i4"),                                # Slippi's: -123 first, -39 players have control, 0 the clock starts
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

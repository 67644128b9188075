"""The one language that every part of CleanMelee speaks: the frame.

A frame holds what Slippi can show of one game after one frame, in Slippi's own fields, units and ids, whether it came
from a .slp file, from the embedded game or from Dolphin. Here are its records, a controller's, and the ids they speak
in; numpy only.
"""

import numpy as np

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

STORED = np.dtype([  # what a player's character keeps in store, followed over the frames: see game/stored.py
    ("charge", "f4"),                                  # how full it is, 0..1: Shadow Ball, needles, bow, bucket ..
    ("hammer", "i2"), ("hammer_before", "i2"),         # Game & Watch's last ones of Judge, 1..9; 0 none yet
    ("holding", "i2"), ("reserved", "i2"),             # 1 with a bomb or a turnip in the hand
])

FRAME = np.dtype([
    ("players", PLAYER, NUM_PLAYERS), ("nanas", PLAYER, NUM_PLAYERS), ("stored", STORED, NUM_PLAYERS),
    ("items", ITEM, NUM_ITEMS),
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

CHARACTERS = {"fox": 1, "captain_falcon": 2, "sheik": 7, "mewtwo": 16, "marth": 18, "falco": 22, "gameandwatch": 24,
              "link": 6, "zelda": 19, "ganondorf": 25}
FOX, CAPTAIN_FALCON, LINK, SHEIK, MEWTWO, MARTH, ZELDA, FALCO, GAMEANDWATCH, GANONDORF = (
    1, 2, 6, 7, 16, 18, 19, 22, 24, 25)

STAGES = {"final_destination": 32, "battlefield": 31, "dream_land": 28, "yoshis_story": 8, "pokemon_stadium": 3,
          "fountain_of_dreams": 2}
# Fountain of Dreams' side platforms: the heights that Slippi logs (and FRAME holds) are in the stage's own units.
PLATFORM_LEFT, PLATFORM_RIGHT, PLATFORM_UNIT, PLATFORM_ZERO = 20.0, 28.0, .75, 1.125  # measured, like the speeds

# Post-frames speak of internal character ids, the game start of external ones. Index: internal id, 10 Popo, 11 Nana.
EXTERNAL_CHARACTER = (8, 2, 0, 1, 4, 5, 6, 19, 11, 12, 14, 14, 13, 16, 17, 15, 10, 7, 9, 18, 21, 22, 20, 24, 3, 25, 23)
FIGHTERS = {  # name -> internal id: whom replays show. The embedded game plays those in CHARACTERS.
    "mario": 0, "donkey_kong": 3, "kirby": 4, "bowser": 5, "ness": 8, "peach": 9, "ice_climbers": 10, "pikachu": 12,
    "samus": 13, "yoshi": 14, "jigglypuff": 15, "luigi": 17, "young_link": 20, "dr_mario": 21, "pichu": 23, "roy": 26,
    "link": 6, "zelda": 19, "ganondorf": 25} | CHARACTERS


def same_fighter(a: int, b: int) -> bool:
    """Are two internal character ids the same choice of fighter? Zelda and Sheik are."""
    return a == b or {int(a), int(b)} == {SHEIK, ZELDA}


BUTTONS = {"A": BUTTON_A, "B": BUTTON_B, "X": BUTTON_X, "Y": BUTTON_Y, "Z": BUTTON_Z, "L": BUTTON_L, "R": BUTTON_R,
           "D_UP": BUTTON_D_UP}


def outcomes(final_frames: np.ndarray) -> np.ndarray:
    """FRAME [N] at the end of games -> [N] +1, 0, -1 for player 0: by stocks, then by lower percent, else a draw. As in
    Melee by whole percents, those that the screen shows: 50.9 and 50.1 are equal."""
    stocks, percent = final_frames["players"]["stocks"], np.floor(final_frames["players"]["percent"])
    by_stocks = np.sign(stocks[:, 0].astype(np.int64) - stocks[:, 1])
    by_percent = np.sign(percent[:, 1] - percent[:, 0]).astype(np.int64)
    return np.where(by_stocks != 0, by_stocks, by_percent)

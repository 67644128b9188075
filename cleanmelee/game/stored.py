"""What a character keeps in store, as far as Slippi's frames tell: followed over the frames since the game's begin.

Not a rule of the game: `follow` reads what any source shows, so a file, a live game and the embedded game come to the
same. Actions and lengths are measured on replays; Link's, Game & Watch's and the item types of the young Link are
public. What no replay has shown, such as Giant Punch, is not followed.
"""

import numpy as np

from cleanmelee.frame import FIGHTERS, GAMEANDWATCH, LINK, MEWTWO, NUM_ITEMS, NUM_PLAYERS, SHEIK
from cleanmelee.game.characters import FILLED_BUCKET, JUDGE_AIR, JUDGE_FIRST
from cleanmelee.game.compiler import jit
from cleanmelee.game.ids import BOMB, BUCKET_CATCHES, FIRST_OWN_ACTION, REBIRTH_WAIT, SHADOW_BALL

SAMUS, YOUNG_LINK = FIGHTERS["samus"], FIGHTERS["young_link"]
CHARGE_SHOT, YOUNG_LINK_BOMB, TURNIP = 94, 59, 99
CHARGES, LEAVES, CATCHES, HAMMER = 1, 2, 3, 10         # what an action does to the store; hammer 1 is HAMMER + 1
STORES = {  # actions that charge it, those with which it is gone, frames or catches until it is full
    MEWTWO: ((342, 343, 347, 348), (345, 350), 119), SAMUS: ((344,), (346, 348), 119),
    SHEIK: ((342, 346), (344, 348), 90), LINK: ((345, 348), (346, 349), 60), YOUNG_LINK: ((345, 348), (346, 349), 60),
    GAMEANDWATCH: ((), (377, 380), FILLED_BUCKET)}
CHARGE_STEPS = 7                                       # of the byte that Slippi logs for a ball in the hand


def _tables():
    """[32, 512] what an action does, [32] what a frame or a catch adds."""
    effect, gain = np.zeros((32, 512), np.int16), np.zeros(32, np.float32)
    for character, (charges, leaves, full) in STORES.items():
        effect[character, list(charges)], effect[character, list(leaves)] = CHARGES, LEAVES
        gain[character] = 1 / full
    effect[GAMEANDWATCH, list(BUCKET_CATCHES)] = CATCHES
    for k in range(JUDGE_AIR):
        effect[GAMEANDWATCH, [JUDGE_FIRST + k, JUDGE_FIRST + JUDGE_AIR + k]] = HAMMER + 1 + k
    return effect, gain


EFFECT, GAIN = _tables()


@jit
def effect_of(character, action):
    return EFFECT[character, action] if 0 <= character < 32 and 0 <= action < 512 else 0


@jit
def ball_in_hand(items, index):
    """The charge byte of the ball that a player is charging, -1 if there is none."""
    for slot in range(NUM_ITEMS):
        item = items[slot]
        if item.present and item.owner == index and item.state == 0 and (
                item.type == SHADOW_BALL or item.type == CHARGE_SHOT):
            return item.charge
    return -1


@jit
def holds_item(items, index):
    """Link's bombs and Peach's turnips: state 0 is in the hand."""
    for slot in range(NUM_ITEMS):
        item = items[slot]
        if item.present and item.owner == index and item.state == 0 and (
                item.type == BOMB or item.type == YOUNG_LINK_BOMB or item.type == TURNIP):
            return 1
    return 0


@jit
def update_stored(stored, p, action, action_frame, items, index):
    """One frame on. stored: STORED of the frame before, changed in place. p: the player's record of this frame; action
    and action_frame: those of the frame before."""
    if p.action <= REBIRTH_WAIT:                       # dead, or coming back: nothing is left but what Judge remembers
        stored.charge, stored.holding = 0, 0
        return
    stored.holding = holds_item(items, index)
    before, now = effect_of(p.character, action), effect_of(p.character, p.action)
    if before == CHARGES:
        if p.action < FIRST_OWN_ACTION:                       # hit, grabbed: it is lost
            stored.charge = 0
        elif p.hitlag <= 0:
            stored.charge = min(stored.charge + GAIN[p.character], 1)
    elif before == LEAVES and now != LEAVES:
        stored.charge = 0
    if now == CHARGES and before == CHARGES:           # on its first frame the embedded game's ball has no byte
        byte = ball_in_hand(items, index)
        if byte >= 0:                                  # as exactly as the game tells
            stored.charge = min(max(stored.charge, byte / CHARGE_STEPS), (byte + 1) / CHARGE_STEPS, 1)
    elif now == CATCHES and (before != CATCHES or p.action_frame < action_frame):
        stored.charge = min(stored.charge + GAIN[p.character], 1)
    elif now > HAMMER and now - HAMMER != stored.hammer:  # never the same twice in a row
        stored.hammer_before, stored.hammer = stored.hammer, now - HAMMER


@jit
def follow_all(frames):
    """The store of every frame but the first, whose own is kept. frames [T] FRAME of one game, in order."""
    for t in range(1, len(frames)):
        before, frame = frames[t - 1], frames[t]
        for index in range(NUM_PLAYERS):
            stored, last, p = frame.stored[index], before.stored[index], before.players[index]
            stored.charge, stored.holding = last.charge, last.holding
            stored.hammer, stored.hammer_before = last.hammer, last.hammer_before
            update_stored(stored, frame.players[index], p.action, p.action_frame, frame.items, index)


def follow(frames):
    """Fills in `stored` of frames [T] FRAME of one game but of the first, whose own is kept: zeros, where a game
    begins, or, for a live game, what was known a frame ago."""
    follow_all(frames)

"""The controller codec: CONTROLLER records <-> discrete heads. One object for labels, play, distillation and export.

No torch. A policy chooses 13 numbers: eight buttons, an index for each axis of both sticks, one for the shoulder."""

import functools

import numpy as np

from cleanmelee.frame import BUTTONS, CONTROLLER
from cleanmelee.game.compiler import machine_code, policy_jit

BUTTON_BITS = np.array(list(BUTTONS.values()), np.int32)

# Stick positions in 1/80, the game's own step: one for each stretch between the thresholds that decide what a stick
# does. Nearest-point bins would straddle them and turn one label in fourteen on the vertical axis into another move.
_HALF = np.array([23, 34, 44, 50, 54, 59, 70, 80])
_FROM = np.array([23, 29, 40, 49, 53, 56, 64, 76])  # 23 out of the dead zone, 49 crouch, 53 tap jump and platform drop,
                                                    # 56 spot dodge and roll, 64 dash and smash; 29, 40, 76 for
                                                    # precision
STICK_GRID = np.concatenate([-_HALF[::-1], [0], _HALF]).astype(np.float32) / np.float32(80)          # [17]
SHOULDER_GRID = np.array([0, 49, 77, 105, 140], np.float32) / np.float32(140)                       # [5], light to full
NUM_BUTTONS, NUM_STICK, NUM_SHOULDER = len(BUTTONS), len(STICK_GRID), len(SHOULDER_GRID)
STICK_NEUTRAL = NUM_STICK // 2

HEADS = {"buttons": NUM_BUTTONS, "main_x": NUM_STICK, "main_y": NUM_STICK, "c_x": NUM_STICK, "c_y": NUM_STICK,
         "shoulder": NUM_SHOULDER}                      # logits of each head, in the order of sampling
NUM_LOGITS = sum(HEADS.values())                        # 81
ACTION_SIZE = NUM_BUTTONS + len(HEADS) - 1              # 13 integers: eight bits, then one index a categorical head
_STICKS_X = slice(NUM_BUTTONS, NUM_BUTTONS + 4, 2)      # both sticks' x among them
_STICKS_Y = slice(NUM_BUTTONS + 1, NUM_BUTTONS + 4, 2)
NEUTRAL_ACTION = np.array([0] * NUM_BUTTONS + [STICK_NEUTRAL] * 4 + [0], np.int8)


def _stick_table() -> np.ndarray:
    """[17, 17, 2] stick position of each pair of indices; outside the unit circle it is pulled in as the game does."""
    x, y = np.meshgrid(STICK_GRID, STICK_GRID, indexing="ij")
    pull = np.maximum(1.0, np.hypot(x, y))
    inside = np.trunc(np.stack([x / pull, y / pull], -1) * 80) / 80
    # not the dead zone
    inside = np.where((np.abs(inside) < 22.5 / 80) & (inside != 0), np.sign(inside) * 23 / 80, inside)
    return np.where((pull > 1)[..., None], inside, np.stack([x, y], -1)).astype(np.float32)


STICK_TABLE = _stick_table()
_STEPS = np.arange(-80, 81)
# [161]
_STICK_INDEX = (STICK_NEUTRAL + np.sign(_STEPS) * np.searchsorted(_FROM, np.abs(_STEPS), "right")).astype(np.int8)
_NEAREST_SHOULDER = np.abs(np.arange(0, 141)[:, None] / 140 - SHOULDER_GRID).argmin(1).astype(np.int8)


def mirrored(frames: np.ndarray) -> np.ndarray:
    """FRAME [...] -> bool [..., 2]: does this player see the frame with left and right exchanged? It does while the
    opponent is to its left. So a policy always has the opponent on its right, and what it learns on one side it can do
    on the other. Melee's moves and stages are symmetric, and what is not, as Yoshi's cloud and Dream Land's wind, is
    seen turned like the rest."""
    x = frames["players"]["x"]
    return x[..., ::-1] < x


def encode_controllers(controllers: np.ndarray, mirror: np.ndarray | None = None) -> np.ndarray:
    """CONTROLLER [...] -> int8 [..., 13], the grid point of its stretch per axis. Exact for what `decode_actions` makes
    of grid points inside the unit circle. START and the other d-pad directions have no head. mirror [...]: seen by a
    `mirrored` player."""
    actions = np.empty(controllers.shape + (ACTION_SIZE,), np.int8)
    actions[..., :NUM_BUTTONS] = (controllers["buttons"][..., None] & BUTTON_BITS) != 0
    for k, axis in enumerate(("main_x", "main_y", "c_x", "c_y")):
        step = np.clip(np.rint(controllers[axis] * 80), -80, 80).astype(np.int64)
        actions[..., NUM_BUTTONS + k] = _STICK_INDEX[step + 80]
    if mirror is not None:
        actions[..., _STICKS_X] = _exchanged(actions, mirror)
    trigger = np.maximum(controllers["l"], controllers["r"])
    actions[..., -1] = _NEAREST_SHOULDER[np.clip(np.rint(trigger * 140), 0, 140).astype(np.int64)]
    return actions


def decode_actions(actions: np.ndarray, mirror: np.ndarray | None = None) -> np.ndarray:
    """Integers [..., 13] -> CONTROLLER [...]. Always a legal controller: sticks lie in the unit circle, and an index
    beyond a grid is its end. mirror [...]: who chose these actions on a `mirrored` frame; whatever a policy chose goes
    back through it."""
    shape = actions.shape[:-1]
    chosen = np.ascontiguousarray(actions, np.int64).reshape(-1, ACTION_SIZE)
    turned = np.zeros(len(chosen), bool)
    if mirror is not None:
        turned.reshape(shape)[...] = mirror
    pressed = np.empty(len(chosen), CONTROLLER)
    _decode()(chosen, turned, STICK_TABLE, SHOULDER_GRID, BUTTON_BITS, pressed)
    return pressed.reshape(shape)


@policy_jit
def decode(chosen, turned, sticks, shoulders, bits, pressed):
    """chosen [n, 13], turned [n], pressed CONTROLLER [n]"""
    end = len(sticks) - 1
    for n in range(len(chosen)):
        action, controller = chosen[n], pressed[n]
        main_x, main_y = min(max(action[8], 0), end), min(max(action[9], 0), end)
        c_x, c_y = min(max(action[10], 0), end), min(max(action[11], 0), end)
        if turned[n]:
            main_x, c_x = end - main_x, end - c_x
        controller.main_x, controller.main_y = sticks[main_x, main_y, 0], sticks[main_x, main_y, 1]
        controller.c_x, controller.c_y = sticks[c_x, c_y, 0], sticks[c_x, c_y, 1]
        controller.l = shoulders[min(max(action[12], 0), len(shoulders) - 1)]
        controller.r = 0
        controller.buttons = 0
        for k in range(len(bits)):
            controller.buttons |= bits[k] * (action[k] != 0)


@functools.cache
def _decode():
    """`decode` for whole arrays."""
    return machine_code(decode, np.zeros((0, ACTION_SIZE), int), np.zeros(0, bool), STICK_TABLE, SHOULDER_GRID,
                        BUTTON_BITS, np.zeros(0, CONTROLLER))


def _exchanged(actions, mirror):
    """[..., 2] the indices of both sticks' x, left for right where `mirror` [...] says so."""
    x = actions[..., _STICKS_X]
    return np.where(np.asarray(mirror)[..., None], NUM_STICK - 1 - x, x)

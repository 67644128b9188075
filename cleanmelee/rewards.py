"""Rewards: what a step pays."""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cleanmelee import game
from cleanmelee.frame import GAMEANDWATCH, GANONDORF, LINK, MEWTWO, NUM_PLAYERS, SHEIK, ZELDA, outcomes


@dataclass
class RewardArgs:
    """What a step pays, as flags. Zero-sum but for hit (a gift), approach, recovery, teleport (potentials), fall, bomb
    (penalties)."""
    reward_stock: float = 1.0
    """reward for taking a stock, and its negative for losing one (off: 0)"""
    reward_damage: float = 0.006
    """reward for each percent that the other takes, and its negative for each taken (off: 0)"""
    reward_hit: float = 0.004
    """further reward for each percent dealt, which nobody pays: or two who keep away from each other lose nothing
    (off: 0)"""
    reward_fall: float = 0.5
    """penalty for each stock lost out of hitstun, by going after somebody or by not coming back, which nobody earns: or
    two who fall together lose nothing (off: 0)"""
    reward_win: float = 0.0
    """reward for winning a game at its end, and its negative for losing it; a truncated game has no winner (off: 0)"""
    reward_approach: float = 0.0
    """reward for closing a distance of 100 units, taken back when it opens; both players get it (off: 0)"""
    reward_combo: float = 0.0
    """further reward for each percent dealt to an opponent who is still in hitstun, zero-sum (off: 0)"""
    reward_edgeguard: float = 0.0
    """further reward for each percent dealt to an opponent who is off the stage, zero-sum (off: 0)"""
    reward_recovery: float = 0.0
    """reward for all the way from the blast zone back to the stage, taken back on the way out (off: 0)"""
    reward_confusion: float = 0.0
    """Mewtwo: reward for a hit with another move that follows Confusion, in combo or in the air, zero-sum (off: 0)"""
    reward_teleport: float = 0.0
    """Mewtwo: as for recovery, but paid when the teleport begins and kept if it ends on stage or ledge (off: 0)"""
    reward_bucket: float = 0.0
    """Game & Watch: reward for each projectile caught with Oil Panic, zero-sum (off: 0)"""
    reward_hammer: float = 0.0
    """Game & Watch: further reward for each percent dealt with Judge, zero-sum (off: 0)"""
    reward_zoning: float = 0.0
    """Link: further reward for each percent dealt from afar by arrow, boomerang or bomb, zero-sum (off: 0)"""
    reward_bomb: float = 0.0
    """Link: penalty for each percent that his own bomb does to him (off: 0)"""
    reward_spacing: float = 0.0
    """Ganondorf: further reward for each percent dealt at the far end of his reach, zero-sum (off: 0)"""
    reward_stomp: float = 0.0
    """Ganondorf: reward for each hit that follows his down aerial in one combo, zero-sum (off: 0)"""
    reward_kick: float = 0.0
    """Zelda: reward for each Lightning Kick (forward or back aerial) that hits sweetly, zero-sum (off: 0)"""
    reward_dins: float = 0.0
    """Zelda: further reward for each percent dealt from afar by Din's Fire, zero-sum (off: 0)"""


LINK_BOMB, LINK_BOOMERANG, LINK_ARROW, DINS_FIRE, DINS_FIRE_BLAST = 0x3A, 0x3C, 0x40, 0x6C, 0x6D  # Slippi's item types
DOWN_AERIAL, SIDE_SPECIAL = 17, 19                        # Slippi's attack ids, as in last_attack
LAST_DEAD, LAST_REBIRTH = 11, 13                          # actions
LEDGE_ACTIONS, KICK_ACTIONS = (252, 259), (66, 67)        # first and last
TELEPORT_ACTIONS, JUDGE_ACTIONS = (353, 358), (355, 372)
OIL_PANIC_CATCHES = (376, 379)                            # on the ground, in the air
NEAR, FAR = 20, 40                                    # units between players: most blows fall short of NEAR, all of FAR
SOUR_SPOT = 10.5                                       # percent: a kick's sour spot does 10, its sweet spot at least 11
BELOW_STAGE = 5                                           # units under the floor; slopes and platforms reach less deep


def _stage_sides() -> np.ndarray:
    """[stages, 6] float32: the stage's left and right edge, its floor, and the left, right and lower blast zones."""
    stages = game.TABLES.stages
    sides = np.float32([[-1e9, 1e9, -1e9, -2e9, 2e9, -2e9]]).repeat(len(stages), 0)  # an unknown stage has no end
    known = stages[stages["num_floors"] > 0]
    sides[stages["num_floors"] > 0] = np.stack([
        known["floor_left"][:, 0], known["floor_right"][:, 0], known["floor_y"][:, 0],
        known["blast_left"], known["blast_right"], known["blast_bottom"]], 1)
    return sides


_STAGE_SIDES = _stage_sides()


def _between(values: np.ndarray, limits: tuple[int, int]) -> np.ndarray:
    return (limits[0] <= values) & (values <= limits[1])


def _distance(frames: np.ndarray) -> np.ndarray:
    """FRAME [N] -> [N, 1] units between the two players."""
    x, y = frames["players"]["x"], frames["players"]["y"]
    return np.hypot(x[:, :1] - x[:, 1:], y[:, :1] - y[:, 1:])


def _way_out(frames: np.ndarray) -> np.ndarray:
    """FRAME [N] -> [N, 2]: 0 on the stage, above it or on its ledge, 1 at the blast zones and while dead."""
    players, stage = frames["players"], frames["stage"]
    left, right, floor, blast_left, blast_right, blast_bottom = (
        _STAGE_SIDES[np.where(_between(stage, (0, len(_STAGE_SIDES) - 1)), stage, 0)].T[..., None])       # each [N, 1]
    x, y, action = players["x"], players["y"], players["action"]
    out = (np.maximum(left - x, 0) / (left - blast_left) + np.maximum(x - right, 0) / (blast_right - right)
           + np.maximum(floor - BELOW_STAGE - y, 0) / (floor - BELOW_STAGE - blast_bottom))
    coming_back = _between(action, LEDGE_ACTIONS) | _between(action, (LAST_DEAD + 1, LAST_REBIRTH))
    out[(players["airborne"] == 0) | coming_back] = 0
    out[action <= LAST_DEAD] = 1
    return np.minimum(out, 1)


class Step(NamedTuple):
    """N games before and after a step. me and foe are the same players, [N, 2] PLAYER: in order, and the sides
    exchanged."""
    before: np.ndarray      # [N] FRAME
    after: np.ndarray       # [N] FRAME
    ended: np.ndarray       # [N] bool
    gamma: float
    me_before: np.ndarray
    me: np.ndarray
    foe_before: np.ndarray
    foe: np.ndarray
    hurt: np.ndarray      # [N, 2] float32, percent that I took, whoever did it; one that falls (a respawn) is no damage
    dealt: np.ndarray       # [N, 2] float32, percent that I dealt: the foe took it and the game says that I did it


def _make_step(before: np.ndarray, after: np.ndarray, ended: np.ndarray | None, gamma: float) -> Step:
    me_before, me = before["players"], after["players"]
    foe = me[:, ::-1]
    hurt = np.maximum(me["percent"] - me_before["percent"], 0)
    return Step(before, after, np.zeros(len(after), bool) if ended is None else ended, gamma, me_before, me,
                me_before[:, ::-1], foe, hurt, hurt[:, ::-1] * (foe["last_hit_by"] == me["port"]))


def _zero_sum(earned):
    """earned(step) -> [N, 2], what each player earns  =>  the term, in which the other pays it."""
    @functools.wraps(earned)
    def term(step: Step) -> np.ndarray:
        income = earned(step).astype(np.float32, copy=False)
        return income - income[:, ::-1]
    return term


def _potential(level):
    """level(frames) -> [N, 2] between -1 and 0  =>  the term that pays its rise. After the end of a game it is 0."""
    @functools.wraps(level)
    def term(step: Step) -> np.ndarray:
        return step.gamma * level(step.after) * ~step.ended[:, None] - level(step.before)
    return term


@_zero_sum
def stock_term(step: Step) -> np.ndarray:
    """Stocks that the foe lost, by whatever cause."""
    return (step.foe_before["stocks"] - step.foe["stocks"]).astype(np.float32)


@_zero_sum
def damage_term(step: Step) -> np.ndarray:
    """Percent that the foe took, by whatever cause."""
    return step.hurt[:, ::-1]


def hit_term(step: Step) -> np.ndarray:
    """Percent dealt, not zero-sum on purpose: what I deal counts more than what I take. Where both count alike, a
    policy that meets itself may learn to keep away from itself."""
    return step.dealt


def fall_term(step: Step) -> np.ndarray:
    """-1 for a stock lost by who was not in hitstun, not zero-sum on purpose: where a stock is worth the same to both
    sides, following somebody over the edge costs nothing if he falls too. Never positive, so nothing can be farmed."""
    lost = step.me_before["stocks"] > step.me["stocks"]
    return -(lost & (step.me_before["in_hitstun"] == 0)).astype(np.float32)


@_zero_sum
def win_term(step: Step) -> np.ndarray:
    """1 for the winner of a game that was decided, by stocks, then by lower percent; once a game."""
    sign = outcomes(step.after) * step.ended
    return np.stack([sign > 0, sign < 0], 1)


@_potential
def approach_term(frames: np.ndarray) -> np.ndarray:
    """0 in touch, -1 from a distance of 100 units on, and while somebody is dead or on the platform of light."""
    away = (frames["players"]["action"] <= LAST_REBIRTH).any(1, keepdims=True)
    return -np.where(away, 1, np.minimum(_distance(frames) / 100, 1)).repeat(NUM_PLAYERS, 1).astype(np.float32)


@_zero_sum
def combo_term(step: Step) -> np.ndarray:
    """Percent dealt to a foe who was still in hitstun. Real damage, which ends with the foe's stock."""
    return step.dealt * step.foe_before["in_hitstun"]


@_zero_sum
def edgeguard_term(step: Step) -> np.ndarray:
    """Percent dealt to a foe who was off the stage and not on its ledge. Real damage; going out alone pays nothing."""
    return step.dealt * (_way_out(step.before)[:, ::-1] > 0)


@_potential
def recovery_term(frames: np.ndarray) -> np.ndarray:
    """0 on the stage or ledge, -1 at the blast zone; a death leaves it there until the next stock comes down."""
    return -_way_out(frames)


def _follows(step: Step, attack: int) -> np.ndarray:
    """[N, 2] bool: a blow landed, and the one before it was `attack`."""
    return (step.me_before["last_attack"] == attack) & (step.dealt > 0)


def _in_combo(step: Step) -> np.ndarray:
    """[N, 2] bool: a blow landed that the game itself counts into the combo before it."""
    return (step.me_before["combo"] > 0) & (step.me["combo"] > step.me_before["combo"])


@_zero_sum
def confusion_term(step: Step) -> np.ndarray:
    """Mewtwo: 1 for the first hit with another move after Confusion, in its combo or before the foe has landed.
    Confusion after Confusion pays nothing: each payment needs a new opening and another blow."""
    in_time = _in_combo(step) | (step.foe_before["airborne"] == 1) | (step.foe_before["in_hitstun"] == 1)
    another = step.me["last_attack"] != SIDE_SPECIAL
    return _follows(step, SIDE_SPECIAL) & in_time & another & (step.me_before["character"] == MEWTWO)


@_potential
def teleport_term(frames: np.ndarray) -> np.ndarray:
    """Mewtwo's recovery, but at 0 while teleporting: the way back is paid when the teleport begins, and taken back if
    it ends in the air off the stage."""
    players = frames["players"]
    return -_way_out(frames) * (players["character"] == MEWTWO) * ~_between(players["action"], TELEPORT_ACTIONS)


@_zero_sum
def bucket_term(step: Step) -> np.ndarray:
    """Game & Watch: 1 when Oil Panic begins to swallow a projectile. It takes a shot of the foe's, who pays for it."""
    catching, caught_before = (np.logical_or(*(players["action"] == action for action in OIL_PANIC_CATCHES))
                               for players in (step.me, step.me_before))
    return catching & ~caught_before & (step.me_before["character"] == GAMEANDWATCH)


@_zero_sum
def hammer_term(step: Step) -> np.ndarray:
    """Game & Watch: percent dealt during Judge. Swinging it pays nothing, and a weak hammer little."""
    judges = _between(step.me_before["action"], JUDGE_ACTIONS) | _between(step.me["action"], JUDGE_ACTIONS)
    return step.dealt * judges * (step.me_before["character"] == GAMEANDWATCH)


def _has_out(frames: np.ndarray, *item_types: int) -> np.ndarray:
    """FRAME [N] -> [N, 2] bool: an item of one of these types and of this player's is in the game."""
    items = frames["items"]                                                                          # [N, slots]
    of_type = (items["present"] == 1) & np.logical_or.reduce([items["type"] == item_type for item_type in item_types])
    return np.stack([(of_type & (items["owner"] == player)).any(1) for player in range(NUM_PLAYERS)], 1)


def _dealt_from_afar(step: Step, *item_types: int) -> np.ndarray:
    """Percent dealt from beyond the reach of any blow while an item of mine of these types was out."""
    return step.dealt * _has_out(step.before, *item_types) * (_distance(step.before) > FAR)


@_zero_sum
def zoning_term(step: Step) -> np.ndarray:
    """Link: percent dealt from afar by arrow, boomerang or bomb. Shots that miss or are blocked pay nothing."""
    return _dealt_from_afar(step, LINK_ARROW, LINK_BOOMERANG, LINK_BOMB) * (step.me_before["character"] == LINK)


def bomb_term(step: Step) -> np.ndarray:
    """Link: minus the percent that he did to himself while he had a bomb out. Never positive, and nobody else earns
    it."""
    self_inflicted = (step.me["last_hit_by"] == step.me["port"]) & _has_out(step.before, LINK_BOMB)
    return -step.hurt * (self_inflicted & (step.me_before["character"] == LINK))


@_zero_sum
def spacing_term(step: Step) -> np.ndarray:
    """Ganondorf: percent dealt from NEAR or more, where his long blows still reach and most answers do not. Keeping the
    distance pays nothing; the blow must land."""
    return step.dealt * (_distance(step.before) >= NEAR) * (step.me_before["character"] == GANONDORF)


@_zero_sum
def stomp_term(step: Step) -> np.ndarray:
    """Ganondorf: 1 for a hit right after his down aerial in one combo, another stomp included."""
    return _follows(step, DOWN_AERIAL) & _in_combo(step) & (step.me_before["character"] == GANONDORF)


@_zero_sum
def kick_term(step: Step) -> np.ndarray:
    """Zelda, not Sheik: 1 for a forward or back aerial that did more than its sour spot can. A miss pays nothing."""
    kicks = _between(step.me_before["action"], KICK_ACTIONS) | _between(step.me["action"], KICK_ACTIONS)
    return (step.dealt > SOUR_SPOT) & kicks & (step.me_before["character"] == ZELDA)


@_zero_sum
def dins_term(step: Step) -> np.ndarray:
    """Zelda: percent dealt from afar by Din's Fire, also by one still burning when she has become Sheik."""
    body = step.me_before["character"]
    return _dealt_from_afar(step, DINS_FIRE, DINS_FIRE_BLAST) * ((body == ZELDA) | (body == SHEIK))


REWARD_TERMS = {                                          # name in the flag: Step -> [N, 2], without its coefficient
    "stock": stock_term, "damage": damage_term, "hit": hit_term, "fall": fall_term, "win": win_term,
    "approach": approach_term, "combo": combo_term, "edgeguard": edgeguard_term, "recovery": recovery_term,
    "confusion": confusion_term, "teleport": teleport_term, "bucket": bucket_term, "hammer": hammer_term,
    "zoning": zoning_term, "bomb": bomb_term, "spacing": spacing_term, "stomp": stomp_term, "kick": kick_term,
    "dins": dins_term}


def active_terms(args: RewardArgs) -> list[str]:
    """Names of the terms whose coefficient is not 0."""
    return [name for name in REWARD_TERMS if getattr(args, f"reward_{name}")]


def reward_terms(before: np.ndarray, after: np.ndarray, args: RewardArgs, ended: np.ndarray | None = None,
                 gamma: float = 1.) -> dict[str, np.ndarray]:
    """FRAME [N] before and after a step -> by name what each term whose coefficient is not 0 gives both players,
    [N, 2] float32.

    after: of a game that finished within the step its last frame. ended [N] bool: the game was decided (terminated; one
    that was truncated goes on in its bootstrap). gamma: the learner's discount of a step, for the potentials."""
    step = _make_step(before, after, ended, gamma)
    return {name: np.float32(getattr(args, f"reward_{name}")) * REWARD_TERMS[name](step) for name in active_terms(args)}


def compute_rewards(before: np.ndarray, after: np.ndarray, args: RewardArgs, ended: np.ndarray | None = None,
                    gamma: float = 1.) -> np.ndarray:
    """The sum of `reward_terms`: rewards [N, 2] float32."""
    nothing = np.zeros((len(after), NUM_PLAYERS), np.float32)
    return sum(reward_terms(before, after, args, ended, gamma).values(), nothing)

"""Reward terms: what each pays, to whom, and that nothing is paid for nothing."""

import dataclasses
import json
import sys
from pathlib import Path

import melee.enums
import numpy as np
import pytest

import ppo_selfplay
from cleanmelee import rewards as common
from cleanmelee import game
from cleanmelee.cli import run_script
from cleanmelee.frame import CHARACTERS, CONTROLLER, FRAME
from cleanmelee.games import VecEnv
from cleanmelee.replays import load_replays
from cleanmelee.rewards import REWARD_TERMS, RewardArgs, compute_rewards, reward_terms
from helpers import Game

POTENTIALS, PENALTIES, GIFTS = ("approach", "recovery", "teleport"), ("bomb", "fall"), ("hit",)
ZERO_SUM = [name for name in REWARD_TERMS if name not in (*POTENTIALS, *PENALTIES, *GIFTS)]
FOX, LINK, SHEIK, MEWTWO, ZELDA, GAMEANDWATCH, GANONDORF = (CHARACTERS[name] for name in (
    "fox", "link", "sheik", "mewtwo", "zelda", "gameandwatch", "ganondorf"))
NOTHING = {"reward_stock": 0., "reward_damage": 0., "reward_hit": 0., "reward_fall": 0.}
EVERYTHING = RewardArgs(**{f"reward_{name}": .5 for name in REWARD_TERMS})


def only(name: str, coefficient=1.) -> RewardArgs:
    return RewardArgs(**{**NOTHING, f"reward_{name}": coefficient})


def pay(name: str, before, after, **options) -> list:
    return compute_rewards(before, after, only(name), **options)[0].tolist()


def frame(first=FOX, second=FOX, x=(-10, 10), y=(0, 0), stage=32) -> np.ndarray:
    """FRAME [1]: both stand on the stage, unhurt; ports 2 and 4, so that nothing mistakes a port for an index."""
    one = np.zeros(1, FRAME)
    one["stage"] = stage
    players = one["players"]
    players["character"], players["x"], players["y"], players["port"] = [first, second], x, y, [1, 3]
    players["stocks"], players["action"], players["last_hit_by"], players["present"] = 4, game.WAIT, 6, 1
    return one


def struck(before, percent, dealer=0, action=None, attack=None) -> np.ndarray:
    """The frame after: `dealer` has hit the other."""
    after, victim = before.copy(), 1 - dealer
    after["players"]["percent"][:, victim] += percent
    after["players"]["last_hit_by"][:, victim] = before["players"]["port"][:, dealer]
    after["players"]["combo"][:, dealer] += 1
    if action is not None:
        after["players"]["action"][:, dealer] = action
    if attack is not None:
        after["players"]["last_attack"][:, dealer] = attack
    return after


def mirrored(frames) -> np.ndarray:
    """The same games with the players in the other order; each keeps its port."""
    other = frames.copy()
    other["players"] = frames["players"][:, ::-1]
    owner = frames["items"]["owner"]
    other["items"]["owner"] = np.where(owner >= 0, 1 - owner, owner)
    return other


def put_item(frames, item_type, owner) -> None:
    for name, value in (("present", 1), ("type", item_type), ("owner", owner)):
        frames["items"][name][:, 0] = value


# ---------------------------------------------------------------------------------------------------- all terms at once

@pytest.fixture(scope="module")
def played():
    """Steps of three game frames in 60 games between bots, all ten characters: [(before, after, ended [N])]."""
    n, ids = 60, np.array(list(CHARACTERS.values()))
    characters = ids[np.stack([np.arange(n) % 10, (np.arange(n) // 6) % 10], 1)]
    kinds = np.array([[game.BOTS["attacker"], game.BOTS["random"]], [game.BOTS["attacker"]] * 2])[np.arange(n) % 2]
    steps = []
    with VecEnv(
        n, characters, [31, 32] * (n // 2), seed=3, bot_kinds=kinds, max_episode_frames=0, action_repeat=3) as envs:
        for _ in range(1500):
            before = envs.frames.copy()
            terminated, truncated, _ = envs.step(np.zeros((n, 2), CONTROLLER))
            after = np.where(terminated, envs.final_frames, envs.frames)
            steps.append((before, after, terminated.copy()))
    return steps


def test_every_term_in_real_play_is_finite_and_keeps_its_promise(played):
    seen = dict.fromkeys(REWARD_TERMS, 0)
    for before, after, ended in played:
        terms = reward_terms(before, after, EVERYTHING, ended, .97)
        assert list(terms) == list(REWARD_TERMS)
        for name, paid in terms.items():
            assert paid.shape == (len(before), 2) and np.isfinite(paid).all(), name
            if name in ZERO_SUM:
                assert (paid.sum(1) == 0).all(), name
            if name in PENALTIES:
                assert (paid <= 0).all(), name
            if name in GIFTS:
                assert (paid >= 0).all(), name
            seen[name] += int((paid != 0).sum())
        rewards = compute_rewards(before, after, EVERYTHING, ended, .97)
        assert rewards.dtype == np.float32
        np.testing.assert_allclose(rewards, sum(terms.values()), atol=1e-4)
    general = "stock", "damage", "hit", "fall", "win", "approach", "combo", "edgeguard", "recovery"
    assert all(seen[name] for name in general), seen


def test_both_ports_are_treated_alike(played):
    for before, after, ended in played[::10]:
        for name in REWARD_TERMS:
            args = only(name)
            np.testing.assert_array_equal(compute_rewards(mirrored(before), mirrored(after), args, ended, .97),
                                          compute_rewards(before, after, args, ended, .97)[:, ::-1], err_msg=name)


def test_off_is_exactly_nothing_and_is_not_computed(played, monkeypatch):
    def fail(step):
        raise AssertionError("computed")
    stomp = REWARD_TERMS["stomp"]
    for name in set(REWARD_TERMS) - {"stock", "damage"}:
        monkeypatch.setitem(REWARD_TERMS, name, fail)
    even = RewardArgs(reward_damage=.01, reward_hit=0, reward_fall=0)
    nothing = RewardArgs(**NOTHING)
    for before, after, ended in played[::10]:
        stocks = (before["players"]["stocks"] - after["players"]["stocks"]).astype(np.float32)
        hurt = np.maximum(after["players"]["percent"] - before["players"]["percent"], 0) * np.float32(.01)
        np.testing.assert_allclose(compute_rewards(before, after, even, ended, .97),
                                   (stocks + hurt)[:, ::-1] - (stocks + hurt), atol=1e-6)
        assert (compute_rewards(before, after, nothing, ended, .97) == 0).all()
    with pytest.raises(AssertionError, match="computed"):
        compute_rewards(before, after, only("stomp"))
    monkeypatch.setitem(REWARD_TERMS, "stomp", stomp)
    compute_rewards(before, after, only("stomp"))                           # one that is on does not wake the others


def test_a_coefficient_scales_its_term(played):
    for name in REWARD_TERMS:
        before, after, ended = max(
            played[:400], key=lambda step: np.abs(compute_rewards(*step[:2], only(name), step[2])).sum())
        np.testing.assert_allclose(compute_rewards(before, after, only(name, -.25), ended),
                                   compute_rewards(before, after, only(name), ended) * np.float32(-.25), rtol=1e-6)


def test_real_replays_give_finite_rewards():
    folder = Path(__file__).resolve().parents[3] / "shared" / "replays"     # other people's, where they are at hand
    if not folder.is_dir():
        pytest.skip("no replays here")
    replays, _ = load_replays(
        [path for path in sorted(folder.glob("*.slp")) if path.stat().st_size < 2_000_000][:12], num_workers=0)
    assert replays
    for replay in replays:
        for name, paid in reward_terms(replay.frames[:-3:3], replay.frames[3::3], EVERYTHING).items():
            assert np.isfinite(paid).all() and (name not in ZERO_SUM or (paid.sum(1) == 0).all()), (replay.path, name)


# ----------------------------------------------------------------------------------------------------------- potentials

@pytest.mark.parametrize("name", POTENTIALS)
@pytest.mark.parametrize("gamma", [1., .97])
def test_a_potential_pays_nothing_but_where_one_began_and_stands(played, name, gamma):
    """The discounted sum over any stretch of a game is gamma^T potential(last) - potential(first), 0 after the end of
    the game: no way round in between pays more than another."""
    level = REWARD_TERMS[name].__wrapped__
    n = len(played[0][0])
    total, weight, first = np.zeros((n, 2)), np.ones((n, 1)), level(played[0][0]).astype(float)
    checked = 0
    for before, after, ended in played:
        total += weight * compute_rewards(before, after, only(name), ended, gamma)
        weight *= gamma
        np.testing.assert_allclose(total, weight * level(after) * ~ended[:, None] - first, atol=1e-4)
        assert (level(after) <= 0).all() and (level(after) >= -1).all()
        begins = ended[:, None]                                             # the next step is the first of a new game
        checked += int(begins.sum())
        total, weight = np.where(begins, 0, total), np.where(begins, 1, weight)
        first = np.where(begins, 0, first)
        if begins.any():
            following = played[[step is before for step, *_ in played].index(True) + 1:][:1]
            if following:
                first = np.where(begins, level(following[0][0]), first)
    assert checked > 10


@pytest.mark.parametrize("name", POTENTIALS)
def test_a_loop_of_states_returns_nothing(name):
    """Out over the edge, teleporting, dying, reborn, and back to where it began: as a whole it pays 0 to both
    players."""
    loop = np.concatenate(
        [
            frame(MEWTWO, MEWTWO, x, y)
            for x, y in (
                ((-10, 10), (0, 0)), ((-90, 10), (-20, 5)), ((-150, 60), (-60, 20)), ((-95, 40), (-5, 0)),
                ((-200, 0), (-139, 0)), ((-16, 0), (112, 0)), ((-10, 10), (0, 0)))
        ]
    )
    loop["players"]["airborne"][1:5] = [[1, 1], [1, 1], [1, 0], [1, 0]]
    loop["players"]["action"][:, 0] = [14, 29, 357, 35, 0, 12, 14]
    paid = compute_rewards(loop[:-1], loop[1:], only(name))
    assert (paid[:, 0] > 0).any() and (paid[:, 0] < 0).any()
    np.testing.assert_allclose(paid.sum(0), 0, atol=1e-6)


def test_approach():
    near, far, out = frame(x=(-10, 10)), frame(x=(-60, 10), y=(0, 0)), frame(x=(-100, 120))
    np.testing.assert_allclose(pay("approach", far, near), [.5, .5], atol=1e-6)       # 70 apart, then 20
    np.testing.assert_allclose(pay("approach", near, far), [-.5, -.5], atol=1e-6)
    np.testing.assert_allclose(pay("approach", out, far), [.3, .3], atol=1e-6)        # farther than 100 is no farther
    dead = near.copy()
    dead["players"]["action"][0, 1] = game.DEAD_UP
    dead["players"]["x"][0, 1] = -10                                        # on top of him, and yet out of reach
    np.testing.assert_allclose(pay("approach", far, dead), [-.3, -.3], atol=1e-6)


def test_recovery():
    stage, half = frame(), frame(x=(-85.5657 - 80.2172, 10))                # half of the way from edge to blast zone
    half["players"]["airborne"][0, 0] = 1
    np.testing.assert_allclose(pay("recovery", half, stage), [.5, 0], atol=1e-4)
    np.testing.assert_allclose(pay("recovery", stage, half), [-.5, 0], atol=1e-4)
    below = frame(y=(-5 - 135 / 2, 0))                                      # under the stage, half of the way down
    below["players"]["airborne"][0, 0] = 1
    np.testing.assert_allclose(pay("recovery", below, stage), [.5, 0], atol=1e-4)
    hanging = half.copy()
    hanging["players"]["action"][0, 0] = game.LEDGE_HANG
    np.testing.assert_allclose(pay("recovery", half, hanging), [.5, 0], atol=1e-4)
    dead = half.copy()
    dead["players"]["action"][0, 0] = game.DEAD_LEFT
    np.testing.assert_allclose(pay("recovery", half, dead), [-.5, 0], atol=1e-4)
    high = frame(y=(150, 0))
    high["players"]["airborne"][0, 0] = 1
    assert pay("recovery", high, stage) == [0, 0]                           # above the stage nobody is off it
    platform = frame(x=(-58, 0), y=(23.45, 0), stage=8)                     # Yoshi's platforms hang out over the edge
    assert pay("recovery", platform, frame(stage=8)) == [0, 0]
    unknown = frame(x=(-1e4, 1e4), y=(-1e4, 0), stage=20)                   # a stage without sides
    unknown["players"]["airborne"] = 1
    assert pay("recovery", unknown, frame(stage=20)) == [0, 0]


@pytest.mark.parametrize("stage", game.STAGES.values())
def test_walking_a_stage_is_never_off_it(stage):
    sides = common._STAGE_SIDES[stage]
    match = Game(FOX, FOX, stage)
    for x in np.linspace(sides[0], sides[1], 30):
        y = game.floor_height(game.TABLES.stages[stage], 0, x)
        match.place(0, x, y, airborne=True)                            # airborne at floor level: the lowest that counts
        assert common._way_out(match.frames)[0, 0] == 0


def test_teleport():
    out, stage = frame(MEWTWO, MEWTWO, x=(-85.5657 - 80.2172, 10)), frame(MEWTWO, MEWTWO)
    out["players"]["airborne"][0, 0], out["players"]["action"][0, 0] = 1, game.FALL
    flying = out.copy()
    flying["players"]["action"][0, 0] = 357
    np.testing.assert_allclose(pay("teleport", out, flying), [.5, 0], atol=1e-4)      # paid when it begins
    np.testing.assert_allclose(pay("teleport", flying, stage), [0, 0], atol=1e-4)     # kept if it ends on the stage
    np.testing.assert_allclose(pay("teleport", flying, out), [-.5, 0], atol=1e-4)     # taken back if it does not
    for frames in (out, flying):
        frames["players"]["character"][0, 0] = FOX                          # Fox's 357 is something else
    assert pay("teleport", out, flying) == [0, 0]


def test_teleport_in_the_game():
    """Mewtwo falls beside the stage of Final Destination and teleports up and in."""
    match = Game(MEWTWO, FOX)
    match.place(0, -112, -22, airborne=True, facing=1)
    before, total = match.frames.copy(), 0.
    for press in range(80):
        match.step(dict(main_x=.8 if press else 0, main_y=.6, buttons=0 if press else game.BUTTON_B))
        total += pay("teleport", before, match.frames)[0]
        if press == 0:
            assert 353 <= match.players["action"][0] <= 358 and total > .1  # at once
        before = match.frames.copy()
    assert not match.players["airborne"][0] and total == pytest.approx(-common.recovery_term.__wrapped__(
        placed(MEWTWO, -112, -22))[0, 0], abs=1e-5)


def placed(character, x, y):
    match = Game(character, FOX)
    match.place(0, x, y, airborne=True)
    return match.frames


# ------------------------------------------------------------------------------------------------------- zero-sum terms

def test_win_is_paid_once_by_stocks_then_percent_and_only_when_the_game_is_decided():
    before = np.concatenate([frame(), frame(), frame()])
    after = before.copy()
    after["players"]["stocks"][0], after["players"]["stocks"][1] = [2, 0], [1, 1]
    after["players"]["percent"][1] = [80, 30]
    paid = compute_rewards(before, after, only("win"), np.ones(3, bool))
    assert paid.tolist() == [[1, -1], [-1, 1], [0, 0]]                      # a draw pays nobody
    assert (compute_rewards(before, after, only("win"), np.zeros(3, bool)) == 0).all()
    assert (compute_rewards(before, after, only("win")) == 0).all()


def test_a_respawn_is_no_damage_and_no_hit():
    before = frame(MEWTWO, MEWTWO)
    before["players"]["percent"], before["players"]["last_hit_by"] = 120, [[3, 1]]
    after = before.copy()
    after["players"]["percent"][0, 0], after["players"]["action"][0, 0] = 0, game.REBIRTH
    terms = reward_terms(before, after, EVERYTHING)
    assert all((paid == 0).all() for name, paid in terms.items() if name not in POTENTIALS)


def test_a_hit_pays_who_dealt_it_and_nobody_pays_for_it():
    before = frame()
    assert pay("hit", before, struck(before, 12)) == [12, 0]
    assert pay("hit", before, struck(before, 12, dealer=1)) == [0, 12]
    alone = struck(before, 12)
    alone["players"]["last_hit_by"][:, 1] = alone["players"]["port"][:, 1]               # his own bomb
    assert pay("hit", before, alone) == [0, 0]
    both = compute_rewards(before, struck(before, 10), RewardArgs())[0]
    np.testing.assert_allclose(both, [.1, -.06], atol=1e-7)            # what is taken counts .6 of what is dealt


def test_a_fall_costs_who_falls_and_nobody_earns_it():
    before = frame(x=(80, 100), y=(-90, -100))
    before["players"]["airborne"] = 1
    after = before.copy()
    after["players"]["stocks"][0] = 3
    assert pay("fall", before, after) == [-1, -1]                           # both: no stock is the price of another
    assert compute_rewards(before, after, RewardArgs())[0].tolist() == [-.5, -.5]
    before["players"]["in_hitstun"][0, 1] = 1                               # this one was sent there
    assert pay("fall", before, after) == [-1, 0]
    assert pay("fall", before, before) == pay("fall", after, after) == [0, 0]
    assert pay("fall", after, before) == [0, 0]                             # a stock that comes back pays nothing


def test_a_stock_lost_below_the_stage_is_a_fall_and_not_every_stock_is_one(played):
    alone = Game(MEWTWO, FOX)
    alone.place(0, 120, y=-100, airborne=True)
    before, paid = alone.frames.copy(), []
    for _ in range(120):
        alone.step()
        after = alone.frames.copy()
        paid.append(pay("fall", before, after))
        before = after
    assert np.sum(paid, 0).tolist() == [-1, 0]
    lost, fell = 0, 0
    for before, after, _ in played:
        lost += int((before["players"]["stocks"] > after["players"]["stocks"]).sum())
        fell -= int(compute_rewards(before, after, only("fall")).sum())
    assert 0 < fell < lost


def test_combo_pays_damage_to_who_is_in_hitstun():
    before = frame()
    assert pay("combo", before, struck(before, 12)) == [0, 0]
    before["players"]["in_hitstun"][0, 1] = 1
    assert pay("combo", before, struck(before, 12)) == [12, -12]
    assert pay("combo", before, before) == [0, 0]
    hurt_itself = struck(before, 12)
    hurt_itself["players"]["last_hit_by"][0, 1] = 3                         # its own port: nobody dealt that
    assert pay("combo", before, hurt_itself) == [0, 0]


def test_edgeguard_pays_damage_off_the_stage():
    before = frame(x=(80, 110), y=(0, -10))
    before["players"]["airborne"][0, 1] = 1
    assert pay("edgeguard", before, struck(before, 9)) == [9, -9]
    before["players"]["action"][0, 1] = game.LEDGE_HANG
    assert pay("edgeguard", before, struck(before, 9)) == [0, 0]
    assert pay("edgeguard", frame(), struck(frame(), 9)) == [0, 0]


def test_confusion_pays_the_next_other_hit_of_the_combo():
    before = struck(frame(MEWTWO, FOX), 10, attack=19)
    follow_up = struck(before, 14, attack=14)
    assert pay("confusion", before, follow_up) == [1, -1]
    assert pay("confusion", follow_up, struck(follow_up, 14, attack=14)) == [0, 0]    # no longer right after it
    assert pay("confusion", before, struck(before, 10, attack=19)) == [0, 0]          # Confusion again
    assert pay("confusion", frame(MEWTWO, FOX), before) == [0, 0]                     # Confusion itself
    new_combo = struck(before, 14, attack=14)
    new_combo["players"]["combo"][0, 0] = 1                               # too late, unless the foe is still in the air
    assert pay("confusion", before, new_combo) == [0, 0]
    before["players"]["airborne"][0, 1] = 1
    assert pay("confusion", before, new_combo) == [1, -1]
    for frames in (before, follow_up):
        frames["players"]["character"][0, 0] = FOX
    assert pay("confusion", before, follow_up) == [0, 0]


def test_confusion_in_the_game():
    """Side special beside the foe; once Mewtwo is free again an up tilt, while the foe is in the air or on the
    ground."""
    for airborne in (True, False):
        match = Game(MEWTWO, FOX)
        match.place(0, 0, facing=1), match.place(1, 12)
        before, total, free = match.frames.copy(), np.zeros(2), False
        for t in range(120):
            if t > 20 and not free and match.players["action"][0] == game.WAIT:
                free = True
                match.place(1, 6, 9 if airborne else .0001, airborne=airborne)
                before = match.frames.copy()
                match.step(dict(main_y=.5, buttons=game.BUTTON_A))
            else:
                match.step(dict(main_x=1., buttons=game.BUTTON_B) if t == 1 else None)
            total += pay("confusion", before, match.frames)
            before = match.frames.copy()
        assert match.players["percent"][1] > 10 and match.players["last_attack"][0] == 8      # both have hit
        assert total.tolist() == ([1, -1] if airborne else [0, 0])


def test_bucket_pays_a_caught_projectile_once():
    before = frame(GAMEANDWATCH, FOX)
    for action in common.OIL_PANIC_CATCHES:
        after = before.copy()
        after["players"]["action"][0, 0] = action
        assert pay("bucket", before, after) == [1, -1]
        assert pay("bucket", after, after) == [0, 0] and pay("bucket", after, before) == [0, 0]
    opened = before.copy()
    opened["players"]["action"][0, 0] = 375                                 # holding it out pays nothing
    assert pay("bucket", before, opened) == [0, 0]
    before["players"]["character"][0, 0] = after["players"]["character"][0, 0] = MEWTWO
    assert pay("bucket", before, after) == [0, 0]


def test_hammer_in_the_game():
    """Judge beside the foe, with many seeds: pays what it deals. The same side special of Mewtwo pays nothing."""
    dealt = set()
    for character in (GAMEANDWATCH, MEWTWO):
        for seed in range(12):
            match = Game(character, FOX, seed=seed)
            match.place(0, 0, facing=1), match.place(1, 12)
            before, total = match.frames.copy(), np.zeros(2)
            for t in range(40):
                match.step(dict(main_x=1., buttons=game.BUTTON_B) if t == 1 else None)
                total += pay("hammer", before, match.frames)
                before = match.frames.copy()
            damage = match.players["percent"][1]
            assert damage > 0 or character == GAMEANDWATCH
            np.testing.assert_allclose(total, [damage, -damage] if character == GAMEANDWATCH else 0, atol=1e-4)
            if character == GAMEANDWATCH:
                dealt.add(float(damage))
    assert len(dealt) > 3                                                   # nine hammers


@pytest.mark.parametrize(
    "name, character, items",
    [
        ("zoning", LINK, ("ARROW", "LINK_BOOMERANG", "LINK_BOMB")),
        ("dins", ZELDA, ("ZELDA_FIRE", "ZELDA_FIRE_EXPLOSION"))],
)
def test_zoning_pays_damage_by_own_items_from_afar(name, character, items):
    for item in items:                                                      # ids from libmelee, not from our table
        item_type = melee.enums.ProjectileType[item].value
        far, near = frame(character, FOX, x=(-40, 40)), frame(character, FOX, x=(-10, 10))
        assert pay(name, far, struck(far, 8)) == [0, 0]                     # without an item
        put_item(far, item_type, 0), put_item(near, item_type, 0)
        assert pay(name, far, struck(far, 8)) == [8, -8]
        assert pay(name, near, struck(near, 8)) == [0, 0]
        assert pay(name, far, far) == [0, 0]                                # a miss
        put_item(far, item_type, 1)
        assert pay(name, far, struck(far, 8)) == [0, 0]                     # the item is the foe's
        put_item(far, 0x36, 0)
        assert pay(name, far, struck(far, 8)) == [0, 0]                     # another kind of item
        put_item(far, item_type, 0)
        far["players"]["character"] = FOX
        assert pay(name, far, struck(far, 8)) == [0, 0]


def test_zelda_and_sheik_are_one_fighter_with_two_bodies():
    far = frame(SHEIK, FOX, x=(-40, 40))
    put_item(far, 0x6C, 0)
    assert pay("dins", far, struck(far, 8)) == [8, -8]                      # set alight before she changed
    kick = frame(SHEIK, FOX)
    assert pay("kick", kick, struck(kick, 20, action=66)) == [0, 0]         # Sheik's forward aerial is another move


def test_bomb_is_a_penalty_for_what_link_does_to_himself():
    before = frame(LINK, FOX)
    put_item(before, melee.enums.ProjectileType.LINK_BOMB.value, 0)
    own = before.copy()
    own["players"]["percent"][0, 0], own["players"]["last_hit_by"][0, 0] = 7, 1
    assert pay("bomb", before, own) == [-7, 0]
    assert pay("bomb", before, struck(before, 7, dealer=1)) == [0, 0]       # the foe did it
    assert pay("bomb", before, struck(before, 7)) == [0, 0]                 # he did it to the foe
    put_item(before, melee.enums.ProjectileType.LINK_BOMB.value, 1)
    assert pay("bomb", before, own) == [0, 0]                               # the bomb was the foe's


@pytest.mark.parametrize("distance, expected", [(12, 0), (21, 1)])
def test_spacing_in_the_game(distance, expected):
    """Ganondorf's forward tilt from close up and from afar."""
    match = Game(GANONDORF, FOX)
    match.place(0, 0, facing=1), match.place(1, distance)
    before, total = match.frames.copy(), 0.
    for t in range(30):
        match.step(dict(main_x=.5, buttons=game.BUTTON_A) if t == 1 else dict(main_x=.5) if t == 0 else None)
        total += pay("spacing", before, match.frames)[0]
        before = match.frames.copy()
    assert match.players["percent"][1] > 0
    assert total == pytest.approx(expected * match.players["percent"][1])


def test_spacing_is_ganondorfs():
    far = frame(FOX, GANONDORF)
    assert pay("spacing", far, struck(far, 9)) == [0, 0]
    assert pay("spacing", far, struck(far, 9, dealer=1)) == [-9, 9]


def test_stomp_pays_every_next_hit_of_the_chain():
    first = struck(frame(GANONDORF, FOX), 22, attack=17)
    second = struck(first, 22, attack=17)
    third = struck(second, 17, attack=14)
    assert pay("stomp", frame(GANONDORF, FOX), first) == [0, 0]
    assert pay("stomp", first, second) == [1, -1] and pay("stomp", second, third) == [1, -1]
    assert pay("stomp", third, struck(third, 17, attack=14)) == [0, 0]
    blocked = first.copy()
    blocked["players"]["combo"][0, 0] += 1
    assert pay("stomp", first, blocked) == [0, 0]                           # no damage, no pay
    first["players"]["character"][0, 0] = FOX
    assert pay("stomp", first, second) == [0, 0]


def test_stomp_in_the_game():
    """Ganondorf falls on Fox with his down aerial, and again while the game counts it into the combo."""
    match = Game(GANONDORF, FOX)
    total, landed = 0., 0
    for _ in range(2):
        match.place(0, 0, 30, airborne=True), match.place(1, 0)
        match.players["action"][1], match.players["airborne"][1] = game.WAIT, 0
        match.players["hitlag"], match.players["self_vy"] = 0, 0
        before = match.frames.copy()
        for t in range(26):
            match.step(dict(c_y=-1.) if t == 1 else None)
            landed += int(match.players["percent"][1] > before["players"]["percent"][0, 1])
            total += pay("stomp", before, match.frames)[0]
            before = match.frames.copy()
    assert landed == 2 and total == 1


def test_kick_in_the_game():
    """Zelda's forward aerial: only the tip of the foot pays, however stale, and only to Zelda."""
    spots = set()
    for distance in np.arange(4, 24, 1.):
        match = Game(ZELDA, FOX)
        match.place(0, 0, 3, airborne=True, facing=1), match.place(1, distance)
        before, total = match.frames.copy(), 0.
        for t in range(25):
            match.step(dict(c_x=1.) if t == 1 else None)
            total += pay("kick", before, match.frames)[0]
            before = match.frames.copy()
        damage = float(match.players["percent"][1])
        assert total == (damage > common.SOUR_SPOT)
        spots.add(damage)
    assert min(spots) == 0 and max(spots) == 20 and len(spots) > 2          # missed, sour, sweet
    sour, sweet = 10, 20 * (1 - game.STALE_STEPS.sum())
    assert sour < common.SOUR_SPOT < sweet


# -------------------------------------------------------------------------------------------------- facts, command line

def test_near_and_far_against_the_reach_of_blows():
    """A body is about 4 units wide. No ground or aerial attack of anybody reaches FAR; most of Ganondorf's victims'
    jabs and tilts do not reach NEAR, his forward tilt does."""
    def reach(character, action):
        rows = game.TABLES.characters[character]["hit_row"][action]
        boxes = game.TABLES.hitboxes[rows[rows > 0]]
        return float(np.where(boxes["size"] > 0, np.abs(boxes["x"]) + boxes["size"], 0).max(initial=0))

    everyone = [c for c in CHARACTERS.values()]
    assert max(reach(c, action) for c in everyone for action in range(44, 70)) + 4 < common.FAR
    short = [reach(c, action) + 4 < common.NEAR for c in everyone for action in (44, 45, 56, 57, 65, 66, 67, 68, 69)]
    assert np.mean(short) > .5
    assert reach(GANONDORF, 53) > common.NEAR


def test_help_names_every_flag_with_its_off_value_and_a_run_takes_them_all(tmp_path, monkeypatch, capsys):
    flags = [field.name for field in dataclasses.fields(RewardArgs)]
    assert {f"reward_{name}" for name in REWARD_TERMS} == set(flags)
    on = {"reward_stock": 1., "reward_damage": .006, "reward_hit": .004, "reward_fall": .5}
    assert vars(RewardArgs()) == dict.fromkeys(flags, 0.) | on
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setattr(sys, "argv", ["ppo_selfplay.py", "--help"])
    with pytest.raises(SystemExit):
        run_script(ppo_selfplay.main, ppo_selfplay.Args)
    text = capsys.readouterr().out
    for flag in flags:
        line = text[text.index("--" + flag.replace("_", "-")):]
        assert "(off: 0)" in line[:line.index("--reward", 2) if flag != flags[-1] else 300 * 4], flag
    given = [part for flag in flags for part in ("--" + flag.replace("_", "-"), ".125")]
    monkeypatch.setattr(sys, "argv", [
        "ppo_selfplay.py", "--timesteps", "96", "--num-games", "2", "--rollout-length", "16", "--hidden", "8,8",
        "--eval-interval", "0", "--max-episode-frames", "30", "--runs-dir", str(tmp_path), "--run-name", "run", *given])
    run_script(ppo_selfplay.main, ppo_selfplay.Args)
    args = json.loads((tmp_path / "run" / "args.json").read_text())
    assert all(args[flag] == .125 for flag in flags)

"""Lasers, needles, Shadow Ball: what flies, what stops it, what it does. test_specials.py has the others."""

import numpy as np
import pytest

from cleanmelee import game
from helpers import Game, batch, present_items

FOX, MARTH, FALCO, MEWTWO = game.FOX, game.MARTH, game.FALCO, game.MEWTWO


def shoot(match, item_type, held=0, frames=120):
    """B, held for some frames; -> the frames of the first item of that type."""
    seen = []
    for index in range(frames):
        button = game.BUTTON_B if index <= held else 0
        match.step(p1=dict(buttons=button))
        flying = present_items(match, item_type)
        flying = flying[flying["timer"] != game.items.HELD_TIMER]
        if len(flying):
            seen.append(flying[0].copy())
    return seen


@pytest.mark.parametrize("character, item_type, speed, life", [(FOX, game.FOX_LASER, 7, 34),
                                                               (FALCO, game.FALCO_LASER, 5, 99)])
def test_lasers_fly_straight_hit_and_expire(character, item_type, speed, life):
    match = Game(first=character, second=MARTH)
    match.place(0, -80, facing=1)
    match.place(1, 60, facing=-1)
    seen = shoot(match, item_type, frames=60)
    assert len(seen) > 10 and seen[0]["timer"] == life and seen[0]["owner"] == 0
    assert np.allclose(np.diff([item["x"] for item in seen]), speed)
    assert len({float(item["y"]) for item in seen}) == 1
    assert match.players[1]["percent"] == 3 and not len(present_items(match, item_type))
    assert match.players[0]["hitlag"] == 0 and match.players[0]["last_attack"] == game.NEUTRAL_SPECIAL


def test_fox_laser_does_not_flinch_and_falcos_does():
    for character, item_type, actions in ((FOX, game.FOX_LASER, {game.WAIT}), (FALCO, game.FALCO_LASER, {75, 78, 81})):
        match = Game(first=character, second=MARTH)
        match.place(0, -20, facing=1)
        match.place(1, 30, facing=-1)
        match.step(p1=dict(buttons=game.BUTTON_B))
        while match.players[1]["percent"] == 0:
            match.step()
        assert int(match.players[1]["action"]) in actions


def test_lasers_are_shielded_and_reflected_by_shine():
    match = Game(first=FOX, second=FOX)
    match.place(0, -20, facing=1)
    match.place(1, 40, facing=-1)
    match.step(p2=dict(buttons=game.BUTTON_R, r=1), frames=10)
    stunned = False
    for index in range(50):
        match.step(p1=dict(buttons=game.BUTTON_B if index == 0 else 0), p2=dict(buttons=game.BUTTON_R, r=1))
        stunned |= match.players[1]["action"] == game.SHIELD_STUN
    assert stunned and match.players[1]["percent"] == 0
    match = Game(first=FOX, second=FOX)
    match.place(0, -20, facing=1)
    match.place(1, 40, facing=-1)
    match.step(p2=dict(main_y=-1))
    for index in range(60):
        match.step(p1=dict(buttons=game.BUTTON_B if index == 0 else 0), p2=dict(main_y=-1, buttons=game.BUTTON_B))
    assert match.players[1]["percent"] == 0 and match.players[0]["percent"] == 4.5


def test_a_late_digital_shield_is_a_power_shield():
    match = Game(first=FALCO, second=MARTH)
    match.place(0, -10, facing=1)
    match.place(1, 40, facing=-1)
    match.step(p1=dict(buttons=game.BUTTON_B))
    while not (len(present_items(match, game.FALCO_LASER)) and present_items(match, game.FALCO_LASER)["x"][0] > 25):
        match.step()
    match.step(p2=dict(buttons=game.BUTTON_R, r=1), frames=3)
    match.step(frames=40)
    assert match.players["percent"].tolist() == [1.5, 0]  # sent back, half as strong


def test_shadow_ball_grows_with_charge():
    damages = []
    for wait in (0, 110):
        match = Game(first=MEWTWO, second=MARTH)
        match.place(0, -30, facing=1)
        match.place(1, 20, facing=-1)
        match.step(p1=dict(buttons=game.BUTTON_B))
        match.step(frames=20 + wait)
        assert present_items(match, game.SHADOW_BALL)["timer"] == game.items.HELD_TIMER
        match.step(p1=dict(buttons=game.BUTTON_B))
        match.step(frames=60)
        damages.append(float(match.players[1]["percent"]))
    assert damages[0] == pytest.approx(3, abs=.01) and damages[1] == pytest.approx(25, abs=.01)


def test_a_shield_press_keeps_the_shadow_balls_charge():
    match = Game(first=MEWTWO)
    match.step(p1=dict(buttons=game.BUTTON_B))
    match.step(frames=80)
    match.step(p1=dict(buttons=game.BUTTON_R, r=1))
    charge = int(match.hidden["players"]["charge"][0, 0])
    assert charge > 50 and not len(present_items(match, game.SHADOW_BALL))
    match.step(frames=30)
    assert match.players[0]["action"] == game.WAIT and match.hidden["players"]["charge"][0, 0] == charge


def test_needles_are_as_many_as_charged():
    counts = []
    for held in (8, 45):
        match = Game(first=game.CHARACTERS["sheik"])
        match.place(0, -80, facing=1)
        match.place(1, 80)
        most = 0
        for index in range(held + 25):
            match.step(p1=dict(buttons=game.BUTTON_B if index < held else 0))
            most = max(most, len(present_items(match, game.NEEDLE)))
        counts.append(most)
    assert counts == [1, 3]


def test_item_slots_are_packed_and_never_overflow():
    frames, hidden, bots = batch(28, ("random", "random"))
    controllers = np.zeros((28, 2), game.CONTROLLER)
    most, buttons = 0, np.random.default_rng(1)
    for index in range(3000):
        game.bot_controllers(frames, bots, controllers)
        controllers["buttons"] |= game.BUTTON_B * (buttons.random((28, 2)) < .3)
        game.step_games(frames, hidden, controllers)
        present = frames["items"]["present"]
        assert (np.diff(present, axis=1) <= 0).all()   # no gaps
        most = max(most, int(present.sum(1).max()))
    assert most >= 3 and np.isfinite(frames["items"]["x"]).all()

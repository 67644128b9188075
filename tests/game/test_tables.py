"""What is measured from replays: tests/tools/build_tables.py on arrays made up here, and the tables it has left."""

import collections
import csv

import build_tables
import numpy as np
import pytest
from cleanmelee import game
from helpers import Game

FOX, FALCON = game.FOX, game.CHARACTERS["captain_falcon"]
FALL_MAX = float(game.TABLES.characters[FOX]["fall_max"])
THROWN_UP = 241
NAMES = ("x y air_vx vy ground_vx kb_vx kb_vy age hitlag action airborne character hurtbox stick_x stick_y buttons "
         "fastfall contact frame").split()


def read_rows(name):
    with open(game.tables.DATA / name, newline="") as file:
        return list(csv.DictReader(file))


def player(frames, character=FOX, **fields):
    """What load_players makes of a player: so many frames, zero but for the fields."""
    arrays = {name: np.zeros(frames, float if name in ("x", "y", "vy", "age") else int) for name in NAMES}
    arrays.update(facing=np.ones(frames, int), frame=np.arange(frames), air_vx=np.zeros(frames),
                  ground_vx=np.zeros(frames), kb_vx=np.zeros(frames), kb_vy=np.zeros(frames))
    arrays["character"][:] = character
    for name, value in fields.items():
        arrays[name] = np.broadcast_to(value, frames).copy()
    arrays["contact"] = arrays["contact"] > 0
    return arrays


def curves_of(*players):
    curves = collections.defaultdict(list)
    for each in players:
        build_tables.measure_velocities(game.FINAL_DESTINATION, each, curves)
    return {tuple(map(int, row[:3])): row[3:] for row in build_tables.velocity_rows(curves)}


def test_a_fast_fall_is_no_curve():
    special = dict(action=358, airborne=1, vy=-2.0)
    assert curves_of(*[player(4, **special)] * 3)[FOX, 358, 2][2] == "-2.0000"
    assert (FOX, 358, 2) not in curves_of(*[player(4, **special, fastfall=1)] * 3)


@pytest.mark.parametrize("field", ["hitlag", "contact", "kb_vx"])
def test_what_hitlag_walls_and_knockback_do_is_no_curve(field):
    special = dict(action=358, airborne=1, vy=-2.0)
    struck = player(6, **special)
    struck[field] = struck[field].copy()
    struck[field][2] = 1
    rows = curves_of(*[struck] * 3)
    assert (FOX, 358, 1) in rows and (FOX, 358, 2) not in rows and (FOX, 358, 4) in rows
    assert ((FOX, 358, 3) in rows) == (field != "hitlag")  # the frame after hitlag neither


def test_aerials_have_no_curve():
    common = player(4, character=game.GAMEANDWATCH, action=347, airborne=1, vy=-2.3)  # his own neutral aerial
    assert curves_of(common, common, common) == {}
    for line in read_rows("velocities.csv"):
        assert game.TABLES.characters[int(line["character"])]["aerial"][int(line["action"])] < 0


def test_a_way_on_the_ledge_has_both_its_parts():
    for line in read_rows("velocities.csv"):
        if int(line["action"]) in build_tables.LEDGE_ACTIONS:
            assert line["air_vx"] and line["vy"]


def test_values_say_how_often_they_were_seen():
    special = player(4, action=358, airborne=1, vy=-2.0)
    assert curves_of(*[special] * 5)[FOX, 358, 2][-1] == 5


def test_what_was_seen_once_stays_behind_libmelee():
    characters, seen_once = game.TABLES.characters, collections.Counter()
    for line in read_rows("velocities.csv"):
        row, action, frame = characters[int(line["character"])], int(line["action"]), int(line["frame"])
        if int(line["seen"]) > 1 or not row["root_row"][action]:
            continue
        learned = game.TABLES.velocities[row["velocity_row"][action], frame] if row["velocity_row"][action] else np.nan
        seen_once[bool(np.isnan(learned).all())] += 1
    assert seen_once[False] == 0


def landing(height, speed=2.0, frame=20, action=66):
    """Falls at an even speed and lands on the frame after, with the feet at this height: the floor lies at 0."""
    above = np.linspace(speed * frame - height + speed / 2, -height + speed / 2, frame + 1)
    return player(frame + 2, y=np.append(above, 0), vy=np.append(np.full(frame + 1, -speed), -speed),
                  airborne=np.append(np.ones(frame + 1, int), 0), action=action)


def test_landings_give_the_feet():
    falls = landing(5.0, speed=FALL_MAX)
    feet = collections.defaultdict(list)
    build_tables.measure_feet(falls, feet)
    (frame, low, high), = feet[FOX, 66]
    assert frame == 21 and low < 5.0 < high and high - low == pytest.approx(FALL_MAX, abs=.01)


def test_landings_within_ten_frames_say_nothing_of_the_feet():
    feet = collections.defaultdict(list)
    build_tables.measure_feet(landing(0.0, speed=FALL_MAX, frame=5), feet)
    assert not feet


def test_feet_change_with_the_frame():
    """Landings early and late in an action tell two heights; between them lies a slope."""
    intervals = [(10, 5.5, 7.0)] * 3 + [(40, 2.0, 3.5)] * 3
    heights = build_tables.height_curve(intervals, np.full(game.characters.MAX_FRAMES, 4.0))
    assert 5.5 <= heights[10] <= 7 and 2 <= heights[40] <= 3.5 and np.all(np.diff(heights[10:40]) <= 0)
    stretches = build_tables.stretches(heights)
    assert len(stretches) > 3 and stretches[0][0] == 0


def test_feet_of_an_action_nobody_landed_in_are_those_of_others():
    feet = collections.defaultdict(list)
    feet[FOX, 29] = [(5, 3.0, 5.0)] * 6
    feet[FOX, 66] = [(20, 7.0, 9.0)] * 6
    feet[FALCON, 29] = [(5, 1.0, 3.0)] * 6
    rows = {(row[0], row[1]): float(row[3]) for row in build_tables.feet_rows(feet)}
    assert rows[FALCON, 66] > rows[FALCON, 29] + 1


def thrown_players(victim, offset, weight=1.0, frames=12):
    """A throw that carries along a straight path, at this offset from it; let go on its last frame but one."""
    held = np.arange(frames + 2)
    age = (held - 1) / weight
    action = np.where((held >= 2) & (held < frames), 241, 0)
    action[frames] = 90
    throwing = np.where((held >= 2) & (held <= frames), 221, 0)
    thrower = player(frames + 2, character=FALCON, action=throwing, age=age, frame=np.maximum(held - 2, 0))
    thrown = player(frames + 2, character=victim, action=action, age=age, frame=np.maximum(held - 2, 0),
                    x=8 - .5 * age + offset[0], y=2 + age + offset[1])
    return thrower, thrown


def test_each_victim_hangs_from_a_throw_by_one_offset():
    paths = collections.defaultdict(list)
    build_tables.measure_throws(thrown_players(FALCON, (0, 0)), paths)
    build_tables.measure_throws(thrown_players(FOX, (-.5, 5.5)), paths)
    rows, held = build_tables.thrown_rows(paths)
    held = [list(map(float, row[1:3])) for row in held if row[0] == FOX]
    assert np.allclose(held, [[-.5, 5.5]], atol=.05)
    path = {row[2]: (float(row[3]), float(row[4])) for row in rows}
    assert path[5] == pytest.approx((5.5, 7.0), abs=.05)


@pytest.mark.parametrize("victim", [FOX, FALCON])
def test_thrown_players_hang_by_their_own_offset(victim):
    """Captain Falcon's up throw: Fox hangs 5.55 higher from the same hand than another Falcon does."""
    match = held_by_falcon(victim)
    match.step(dict(main_y=1.0))
    row = game.TABLES.characters[victim]
    path = game.TABLES.characters[FALCON]["thrown_path"][2, 1]
    thrower, thrown = match.players
    assert thrown["action"] == THROWN_UP
    assert thrown["x"] - thrower["x"] == pytest.approx(path[0] + row["hang_x"], abs=.01)
    assert thrown["y"] - thrower["y"] == pytest.approx(path[1] + row["hang_y"], abs=.01)


def held_by_falcon(victim):
    match = Game(FALCON, victim)
    match.place(0, 0.0, facing=1)
    match.place(1, 8.0, facing=-1)
    match.step()
    match.step(dict(buttons=game.BUTTON_Z))
    for _ in range(30):
        if match.players["action"][0] == game.HOLD:
            break
        match.step()
    assert match.players["action"][0] == game.HOLD
    match.step(frames=2)
    return match


def test_the_blow_of_a_throw_freezes_both():
    """Captain Falcon's up throw strikes with 4 % on its frame 11: four frames of hitlag, then it goes on."""
    match = held_by_falcon(FALCON)
    match.step(dict(main_y=1.0))
    frames = 1
    while match.players["hitlag"].max() == 0 and frames < 30:
        match.step()
        frames += 1
    assert frames == 11 and match.players["hitlag"].tolist() == [4, 4]
    while match.players["action"][1] == THROWN_UP:
        match.step()
        frames += 1
    assert frames == 18                                # 15 without the hitlag's three


def released_by_falcon(stick_x):
    match = held_by_falcon(FALCON)
    match.step(dict(main_y=1.0))
    for _ in range(30):
        match.step(None, dict(main_x=stick_x))
        if match.players["action"][1] != THROWN_UP:
            return match.players
    raise AssertionError("never let go")


def test_a_throw_can_be_turned_by_the_stick():
    """Up to 18 degrees, as other blows; the flight begins on the frame of the release."""
    straight, turned = released_by_falcon(0.0)[1].copy(), released_by_falcon(1.0)[1].copy()
    angle = [np.degrees(np.arctan2(each["kb_vy"], each["kb_vx"])) for each in (straight, turned)]
    assert 15 < angle[0] - angle[1] <= 18
    assert straight["self_vy"] == pytest.approx(-game.TABLES.characters[FALCON]["gravity"])


def test_the_ledge_holds_at_the_measured_height():
    """Captain Falcon hangs with his position 23.1 below the corner; the tables say how often that was seen."""
    rows = {(int(line["character"]), int(line["frame"])): line for line in read_rows("ledge_poses.csv")}
    assert float(rows[FALCON, 7]["dy"]) == pytest.approx(-23.1, abs=.1) and int(rows[FALCON, 7]["seen"]) > 100


@pytest.mark.parametrize("stage,height", [("final_destination", 0), ("yoshis_story", -3.51),
                                          ("fountain_of_dreams", .624), ("dream_land", .009)])
def test_poses_on_the_ledge_are_measured_from_its_corner(stage, height):
    """Yoshi's floor falls off toward its ends, the Fountain's rises."""
    assert build_tables.corner_height(game.STAGES[stage]) == pytest.approx(height, abs=.01)


def test_what_the_stick_ends_is_no_length():
    """Walking, and a landing that ends in a crouch, end by the stick: no row has its length from them."""
    for line in read_rows("actions.csv"):
        assert int(line["action"]) not in build_tables.WALKING
        assert not (int(line["action"]) == 42 and int(line["next_action"]) == 40)


@pytest.mark.parametrize("name", ["velocities", "actions", "thrown", "held", "ledge_poses", "feet"])
def test_tables_say_how_often_their_values_were_seen(name):
    rows = read_rows(f"{name}.csv")
    assert rows and all(int(line["seen"]) >= 0 for line in rows)

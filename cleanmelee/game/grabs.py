"""Grabs and throws, how blows and grabs connect, and what the victim can do about them. After combat's tests."""

import numpy as np

from cleanmelee.game.actions import in_damage, is_confused, is_grab, is_held, is_holding, leave_ground, set_action
from cleanmelee.game.characters import (
    CONFUSION, DIVE_ANGLE, DIVE_BASE, DIVE_GROWTH, DIVE_HIT, DIVE_HOLD, MAX_FRAMES,
)
from cleanmelee.game.combat import (
    hitlag_frames, knockback, land_hit, launch, launch_angle, remember_hit, stale_factor,
)
from cleanmelee.game.compiler import jit
from cleanmelee.game.ids import *  # noqa: F403
from cleanmelee.game.inputs import pressed
from cleanmelee.game.motion import knockback_decay
from cleanmelee.game.terrain import shift


CONFUSION_FRAMES, CONFUSION_DAMAGE = 27, 10            # measured
NEAR_FLOOR = 1                                         # a guess
SDI_STEP, ASDI_STEP, SDI_WINDOW = 6, 3, 4              # units, units, frames; public
SHIELD_SDI = .66                                       # share of it that a shield leaves, sideways; public
DIVE_ATTACK = 20                                       # Slippi's attack id of up specials


@jit
def connect(a, ah, ac, v, vh, vc, attack, box, attack_id):
    if box < 0:
        return
    if attack.effect[box] == EFFECT_INERT:             # only feels for somebody
        set_action(a, ah, ac.hit_action[a.action])
    elif ac.hit_action[a.action] == DIVE_HIT:
        if not is_held(v.action):
            catch_in_dive(a, ah, v, vh)
    elif attack.effect[box] != EFFECT_GRAB:
        land_hit(a, ah, ac, v, vh, vc, attack, box, attack_id)
    elif is_held(v.action):                            # grabbed first by the other
        return
    elif is_grab(a.action):
        start_grab(a, ah, v, vh)
    else:
        confuse(a, ah, v, vh)


@jit
def stop(p):
    p.self_vx_air, p.self_vy, p.self_vx_ground, p.kb_vx, p.kb_vy, p.fastfall = 0, 0, 0, 0, 0, 0
    p.in_hitstun, p.hitstun = 0, 0


@jit
def confuse(a, ah, v, vh):
    """Mewtwo's Confusion takes hold, once in each use, also of a shield: see step_confusion."""
    ah.has_hit = 1
    set_action(v, vh, CONFUSED + (1 if v.airborne else 0))
    stop(v)


@jit
def step_confusion(a, ah, v, vh, attack_id):
    """The victim is whirled round where he is, then hurt and let fall, turned round, without any knockback."""
    if not (a.action in CONFUSION or vh.action_frames >= CONFUSION_FRAMES):  # Mewtwo was struck
        drop(v, vh)
    elif vh.action_frames >= CONFUSION_FRAMES:
        v.percent = min(v.percent + CONFUSION_DAMAGE * stale_factor(ah, attack_id), 999)
        v.facing = -v.facing
        remember_hit(ah, attack_id)
        a.last_attack, v.last_hit_by = attack_id, a.port
        drop(v, vh)


@jit
def drop(p, h):
    set_action(p, h, FALL)
    if not p.airborne:
        leave_ground(p, h)


@jit
def start_grab(a, ah, v, vh):
    set_action(a, ah, GRAB_PULL if a.action == GRAB else GRAB_DASH_PULL)
    set_action(v, vh, CAUGHT_AIR if v.airborne else CAUGHT)
    v.facing, v.ground = -a.facing, -1                 # the holder may carry him off his floor, see move
    stop(v)
    a.self_vx_ground = 0
    vh.grab_timer = int(90 + 1.7 * v.percent)


@jit
def catch_in_dive(a, ah, v, vh):
    """Falcon Dive and Dark Dive take hold of whom they touch."""
    set_action(a, ah, DIVE_HOLD)
    set_action(v, vh, CAUGHT_IN_DIVE)
    if not v.airborne:
        leave_ground(v, vh)                            # he hangs on, wherever the diver is
    v.facing = -a.facing
    v.self_vx_air, v.self_vy, v.self_vx_ground, v.kb_vx, v.kb_vy, v.fastfall = 0, 0, 0, 0, 0, 0
    v.in_hitstun, v.hitstun, v.hitlag = 0, 0, 0
    a.self_vx_air, a.self_vy, a.self_vx_ground = 0, 0, 0


@jit
def hold_in_dive(a, ah, ac, v, vh, attack_id):
    """The victim hangs on to the diver, is struck, and thrown off as soon as the diver leaps from him."""
    factor = stale_factor(ah, attack_id)
    if a.action == DIVE_HOLD:
        v.x, v.y = a.x, a.y
        if a.hitlag == 0 and ac.dive_strikes[min(ah.action_frames, MAX_FRAMES - 1)]:
            v.percent = min(v.percent + ac.dive_damage * factor, 999)
            a.hitlag = v.hitlag = hitlag_frames(ac.dive_damage, False, False)
            a.last_attack, v.last_hit_by = attack_id, a.port
            if ah.queued == 0:
                remember_hit(ah, attack_id)
                ah.queued = 1
        return
    if a.action != DIVE_HIT:                           # hit himself, or gone
        set_action(v, vh, FALL if v.airborne else WAIT)
        return
    leave_ground(a, ah)
    a.jumps = 0
    damage = ac.dive_throw
    force = knockback(v.percent, damage, damage * factor, 100, DIVE_GROWTH, 0, DIVE_BASE)
    v.percent = min(v.percent + damage * factor, 999)
    a.last_attack, v.last_hit_by = attack_id, a.port
    launch(v, vh, launch_angle(DIVE_ANGLE, force, v.airborne), force, a.facing, .5, damage)


@jit
def step_grab(a, ah, ac, v, vh, vc):
    """The holder's action moves the one he holds; runs after both players' own frame."""
    if not is_held(v.action):
        return
    if v.action == CAUGHT_IN_DIVE:
        hold_in_dive(a, ah, ac, v, vh, DIVE_ATTACK)
        return
    if is_confused(v.action):
        step_confusion(a, ah, v, vh, ac.attack_id[CONFUSION[0]])
        return
    if not is_holding(a.action):                       # lost his grip: was hit, or the hold broke
        let_go(a, ah, v, vh)
        return
    frame = ah.action_frames + 1
    if a.action == GRAB_PULL or a.action == GRAB_DASH_PULL:
        if frame > 1:
            v.x = a.x + (ac.pull_reach if a.action == GRAB_PULL else ac.dash_pull_reach) * a.facing
    elif a.action <= PUMMEL:
        hold = HELD_AIR if v.action <= PUMMELED_AIR else HELD
        if a.action == PUMMEL and a.hitlag == 0 and frame < MAX_FRAMES:  # shaken by the pummel
            v.x = a.x + ac.pummel_path[frame - 1, 0] * a.facing
            if v.airborne and frame > 1:
                v.y += ac.pummel_path[frame - 1, 1] - ac.pummel_path[frame - 2, 1]
        elif a.action == HOLD:
            v.x = a.x + ac.hold_reach * a.facing
        waited = v.action == hold and vh.action_frames > 0
        if v.action < hold or (v.action > hold and vh.action_frames >= 20):
            set_action(v, vh, hold)
        if a.action == PUMMEL and frame == ac.pummel_frame + 1 and a.hitlag == 0:
            pummel(a, ah, ac, v, vh)
        mash(a, ah, v, vh, waited)
    else:
        throw(a, ah, ac, v, vh, vc, frame)


@jit
def pummel(a, ah, ac, v, vh):
    staled = ac.pummel_damage * stale_factor(ah, 52)
    remember_hit(ah, 52)
    v.percent = min(v.percent + staled, 999)
    set_action(v, vh, PUMMELED_AIR if v.action <= PUMMELED_AIR else PUMMELED)
    a.hitlag = v.hitlag = hitlag_frames(staled, False, False)
    a.last_attack, v.last_hit_by = 52, a.port


@jit
def mash(a, ah, v, vh, waited):
    """Every new press takes six frames off the hold. Once it has run out, the victim breaks free as soon as he is not
    shaken by a blow, whatever the holder has begun by then; measured."""
    vh.grab_timer -= 7 if pressed(vh, 0xFFF) or vh.tilt_x_age == 0 or vh.tilt_y_age == 0 else 1
    if vh.grab_timer <= 0 and waited and (v.action == HELD or v.action == HELD_AIR):
        let_go(a, ah, v, vh)


@jit
def let_go(a, ah, v, vh):
    if v.airborne and abs(v.y - a.y) < NEAR_FLOOR and is_holding(a.action):  # held a little above the holder's floor
        v.y, v.airborne, v.jumps = a.y, 0, 2
    set_action(v, vh, BREAK_FREE if not v.airborne else FALL)
    v.self_vx_ground = -.96 * v.facing
    if is_holding(a.action):
        set_action(a, ah, GRAB_BREAK)
        a.self_vx_ground = .96 * v.facing


@jit
def throw(a, ah, ac, v, vh, vc, frame):
    """Some throws are as slow as the victim is heavy; all launch as if everybody weighed 100. The hand takes all along
    the same path, each hangs from it by his own offset; measured."""
    if a.hitlag > 0:                                   # the blow before the release freezes both
        return
    way = a.action - THROW_FORWARD
    slow = vc.weight / 100 if ac.throw_by_weight[way] else 1.0
    ah.throw_frames = int(ac.throw_length[way] * slow)
    if not THROWN_FORWARD <= v.action <= THROWN_DOWN:
        set_action(v, vh, THROWN_FORWARD + way)
    attack_id = 53 + way
    factor = stale_factor(ah, attack_id)
    if frame == np.ceil(ac.throw_strike_frame[way] * slow - .001):
        strike = ac.throw_strike[way] * factor
        v.percent = min(v.percent + strike, 999)
        a.hitlag = v.hitlag = hitlag_frames(strike, False, False)
    start_facing = -a.facing if ah.flag == 1 else a.facing
    if ah.action_frames == 0:
        a.state_age = 1 / slow
    v.state_age = frame / slow                         # the animation carries him along, the faster the lighter he is
    before = int(min(v.state_age, MAX_FRAMES - 2))
    part = min(v.state_age - before, 1.0)
    path = ac.thrown_path[way]
    v.x = a.x + (path[before, 0] * (1 - part) + path[before + 1, 0] * part + vc.hang_x) * start_facing
    v.y = a.y + path[before, 1] * (1 - part) + path[before + 1, 1] * part + vc.hang_y
    if frame < np.ceil(ac.throw_frame[way] * slow - .001):
        return
    v.x = a.x + (ac.let_go[way, 0] + vc.hang_x) * start_facing
    v.y = a.y + ac.let_go[way, 1] + vc.hang_y
    damage = ac.throw_damage[way]
    force = knockback(v.percent, damage, damage * factor, 100, ac.throw_growth[way], 0, ac.throw_base[way])
    v.percent = min(v.percent + damage * factor, 999)
    remember_hit(ah, attack_id)
    a.last_attack, v.last_hit_by = attack_id, a.port
    v.y = max(v.y, a.y)                                # the floor that the thrower stands on is under him too
    launch(v, vh, ac.throw_angle[way], force, start_facing, .5, damage)
    v.facing = -1 if v.kb_vx > 0 else 1
    directional_influence(v, vh.last_stick_x, vh.last_stick_y)  # of the frame before: 112 of 119 releases
    knockback_decay(v, vc)                             # the flight has begun
    if v.airborne:
        v.self_vy = -vc.gravity
        if v.kb_vy > 0 and v.y + v.kb_vy + v.self_vy < a.y - .3:  # from below the floor nobody flies off
            v.y = a.y
        v.x += v.kb_vx
        v.y += v.kb_vy + v.self_vy


@jit
def directional_influence(p, x, y):
    """On leaving hitlag the stick turns the launch by up to 18 degrees, by its part across the launch, squared."""
    speed = np.sqrt(p.kb_vx ** 2 + p.kb_vy ** 2)
    if speed == 0 or not p.airborne:
        return
    across = (p.kb_vx * y - p.kb_vy * x) / speed
    turn = np.sign(across) * across * across * 18 * np.pi / 180
    cosine, sine = np.cos(turn), np.sin(turn)
    p.kb_vx, p.kb_vy = p.kb_vx * cosine - p.kb_vy * sine, p.kb_vx * sine + p.kb_vy * cosine


@jit
def end_of_hitlag(p, h, s):
    """Automatic smash DI: three units along the c-stick, or else the stick, then DI. Both read the last frame of the
    hitlag. The shift is part of this frame's way: who is shifted into the floor lands, however he was launched."""
    if not in_damage(p.action) or not p.in_hitstun:
        return
    x, y = h.last_c_x, h.last_c_y
    if not is_far_out(x, y):
        x, y = h.last_stick_x, h.last_stick_y
    if is_far_out(x, y) and p.airborne:
        p.x += ASDI_STEP * x
        p.y += ASDI_STEP * y
    elif is_far_out(x, y):
        shift(p, h, s, ASDI_STEP * x, 0.0)
    directional_influence(p, h.last_stick_x, h.last_stick_y)


@jit
def is_far_out(x, y):
    return np.sqrt(x * x + y * y) >= SHIFT_STICK - .001


@jit
def smash_influence(p, h, s):
    """A tilt of the stick during hitlag shifts the victim by six units along it, once; who shields, along the floor."""
    hurt = in_damage(p.action) and p.in_hitstun
    if not (hurt or p.action == SHIELD_STUN) or not is_far_out(h.stick_x, h.stick_y):
        return
    age = min(h.tilt_x_age, h.tilt_y_age)
    if age < 1 or (age < SDI_WINDOW and not is_far_out(h.last_stick_x, h.last_stick_y)):
        if hurt:
            shift(p, h, s, SDI_STEP * h.stick_x, SDI_STEP * h.stick_y)
        else:
            shift(p, h, s, SHIELD_SDI * SDI_STEP * h.stick_x, 0.0)
        h.tilt_x_age, h.tilt_y_age = MAX_TIMER, MAX_TIMER

"""Combat: hitboxes and bodies, damage, knockback, shields. After both players have moved."""

import numpy as np

from cleanmelee.frame import GAMEANDWATCH, MEWTWO
from cleanmelee.game.actions import in_damage, is_grab, is_held, leave_ground, set_action
from cleanmelee.game.characters import (
    CONFUSION, JUDGE_AIR, JUDGE_FIRST, JUDGE_ONE_COST, MAX_FRAMES, NUM_ACTIONS, SHIELD_BREAK_SPEED,
)
from cleanmelee.game.compiler import jit
from cleanmelee.game.ids import *  # noqa: F403

CLANK_LEAD = 9                                         # percent; public
REBOUND_SPEED, REBOUND_GAIN = .5205, .0022             # and a percent; of a clank's two bodies, measured
REPLACING_FRAMES = 10                                  # so soon after a hit the next one's knockback replaces the last
STALE_STEPS = np.array([.09, .08, .07, .06, .05, .04, .03, .02, .01])
SHIELD_LEAST, SHIELD_PRESSED, SHIELD_LEAN = .15, .5, 3.0  # size left without health; at full press; moved by the stick
SHIELD_MIDDLE, SHIELD_FORWARD = .65, 1.5               # where it is: share of the height, units in front; all public
SMASH_FRAMES, SMASH_GAIN = 60, .3671                   # a smash held so long does so much more
FREEZE_FRAMES = 90                                     # a guess
GUARD_PUSH = .1207                                     # a blow's push by the frames of the stun, measured
LOW_LANDING = 8                                        # frames for which a landing is as low as a crouch; fitted
RESET_DAMAGE = 7                                       # less than that does not lift who lies; measured
SHIELD_HEALTH, SHIELD_REGEN, TUMBLE_KNOCKBACK, MAX_KNOCKBACK = 60.0, .07, 80.0, 2500.0


@jit
def stale_factor(h, attack):
    """Each equal entry among the last nine hits takes its share off, the newest .09."""
    factor = 1.0
    for place in range(9):
        if h.stale[place] == attack:
            factor -= STALE_STEPS[place]
    return factor


@jit
def remember_hit(h, attack):
    for place in range(8, 0, -1):
        h.stale[place] = h.stale[place - 1]
    h.stale[0] = attack


@jit
def knockback(percent, damage, staled, weight, growth, set_knockback, base):
    """Melee's formula; percent is the victim's before the hit. A set knockback stands for damage and percent."""
    if set_knockback > 0:
        p, d = 10.0, set_knockback
    else:
        p, d = np.floor(percent) + staled, damage
    value = growth / 100 * (1.4 * (200 / (weight + 100)) * (.1 * p + .05 * d * p) + 18) + base
    return min(value, MAX_KNOCKBACK)


@jit
def launch_angle(angle, force, airborne):
    """Angle 361 means 45 degrees in the air, and on the ground flat until the knockback is strong."""
    if angle != 361:
        return angle
    if airborne:
        return 45.0
    return min(max((force - 32) / .1, 0.0), 1.0) * 44


@jit
def hitlag_frames(damage, electric, crouching):
    frames = np.floor(damage / 3 + 3)
    if electric:
        frames = np.floor(frames * 1.5)
    return np.floor(frames * 2 / 3) if crouching else frames


@jit
def is_shielding(action):
    return SHIELD_START <= action <= 182 and action != SHIELD_RELEASE


@jit
def is_vulnerable(p):
    return p.hurtbox == 0 and p.action > REBIRTH_WAIT and p.stocks > 0


@jit
def body(p, c):
    """The hurtboxes as one upright capsule: (radius, bottom, top, forward). Fitted to who hit whom in real games."""
    action = p.action
    lands = action == LANDING and 0 < p.state_age <= LOW_LANDING
    if CROUCH_START <= action <= CROUCH_END or action == DTILT or lands:
        return 4.0, 0.0, c.height * .75, 2.0
    if action == DOWN_BOUND_UP or action == DOWN_BOUND_DOWN:
        return 4.0, 1.5, c.height * .6, 0.0
    if DOWN_WAIT_UP <= action < TECH:                  # lying
        return 3.0, 0.0, c.height * .6, 2.0
    if p.airborne and c.aerial[action] >= 0:           # legs drawn up, bent forward
        return 5.0, 1.5, c.height * .95, 1.0
    if p.airborne and action >= FIRST_OWN_ACTION:
        return 5.0, 1.5, c.height * 1.1, 1.0
    if p.airborne:
        return 5.0, 0.0, c.height * 1.1, 0.0
    return 4.5, 0.0, c.height * 1.1, 1.0


@jit
def shield_bubble(v, vh, c):
    """The shield as a capsule without length: less with less health, more held lightly, leaning with the stick."""
    pressed = 1 - SHIELD_PRESSED * max(press(vh) - .3, 0.0) / .7
    radius = c.shield_size * (SHIELD_LEAST + (1 - SHIELD_LEAST) * max(v.shield, 0.0) / SHIELD_HEALTH * pressed)
    middle = SHIELD_MIDDLE * c.height + SHIELD_LEAN * vh.stick_y
    return radius, middle - radius, middle + radius, SHIELD_FORWARD + SHIELD_LEAN * vh.stick_x * v.facing


@jit
def touching_box(a, ah, attack, before, v, target, grabbing):
    """First of the four boxes that touches the target, a body or a shield, -1 none. A box sweeps from where it was a
    frame before."""
    radius, bottom, top, forward = target
    if grabbing:                                       # grabs reach for the middle of the body
        radius *= .6
    body_x = v.x + forward * v.facing
    low, high = v.y + bottom + radius, v.y + max(top - radius, bottom + radius)
    for box in range(4):
        if attack.size[box] == 0 or (attack.effect[box] == EFFECT_GRAB) != grabbing:
            continue
        x, y = a.x + attack.x[box] * a.facing, a.y + attack.y[box]
        old_x, old_y = x, y
        if before.size[box] > 0:
            old_x, old_y = ah.old_x + before.x[box] * a.facing, ah.old_y + before.y[box]
        for step in range(4):
            now_x, now_y = x + (old_x - x) * step / 4, y + (old_y - y) * step / 4
            away_x, away_y = now_x - body_x, now_y - min(max(now_y, low), high)
            if away_x * away_x + away_y * away_y < (attack.size[box] + radius) ** 2:
                return box
    return -1


@jit
def attack_row(a, ah, ac):
    """This frame's row of HITBOXES, 0 none. A swing that comes back after a gap can hit again."""
    frame = ah.action_frames + 1
    if a.action >= NUM_ACTIONS or a.action < 0 or frame >= MAX_FRAMES:
        return 0
    row = ac.hit_row[a.action, frame]
    if row and frame > 1 and ac.hit_row[a.action, frame - 1] == 0 and a.hitlag == 0:
        ah.has_hit = 0
    return row if ah.has_hit == 0 and a.hitlag == 0 else 0


@jit
def hit_test(a, ah, ac, v, vh, vc, t):
    """-> (row, box) of the hit that lands this frame, box -1 if none. Nothing changes but the re-arming of a swing, and
    that a victim behind a shield is noted as poked when a box reaches past it."""
    if a.present == 0 or v.present == 0 or a.action <= REBIRTH_WAIT:
        return 0, -1
    row = attack_row(a, ah, ac)
    if row == 0 or not is_vulnerable(v):
        return 0, -1
    before = ac.hit_row[a.action, ah.action_frames] if ah.action_frames > 0 else 0
    grabbing = is_grab(a.action) or (a.character == MEWTWO and a.action in CONFUSION)
    vh.poked = 0
    if is_shielding(v.action) and not grabbing:
        box = touching_box(a, ah, t.hitboxes[row], t.hitboxes[before], v, shield_bubble(v, vh, vc), False)
        if box >= 0:
            return row, box
        vh.poked = 1
    return row, touching_box(a, ah, t.hitboxes[row], t.hitboxes[before], v, body(v, vc), grabbing)


@jit
def clashing_box(a, first, b, second):
    """The first box of a's swing that overlaps one of b's, -1 if none does; grabs do not clash."""
    for box in range(4):
        if first.size[box] == 0 or first.effect[box] == EFFECT_GRAB:
            continue
        for other in range(4):
            if second.size[other] == 0 or second.effect[other] == EFFECT_GRAB:
                continue
            dx = a.x + first.x[box] * a.facing - b.x - second.x[other] * b.facing
            dy = a.y + first.y[box] - b.y - second.y[other]
            if dx * dx + dy * dy < (first.size[box] + second.size[other]) ** 2:
                return box
    return -1


@jit
def clank(a, ah, ac, b, bh, bc, t):
    """Two grounded swings that meet: both rebound, or only the one that is weaker by nine percent or more."""
    if a.airborne or b.airborne or a.stocks <= 0 or b.stocks <= 0:
        return
    row, other_row = attack_row(a, ah, ac), attack_row(b, bh, bc)
    if row == 0 or other_row == 0:
        return
    first, second = t.hitboxes[row], t.hitboxes[other_row]
    box, other = clashing_box(a, first, b, second), clashing_box(b, second, a, first)
    if box < 0:
        return
    lead = first.damage[box] - second.damage[other]
    if lead < CLANK_LEAD:
        rebound(a, ah, first.damage[box])
    if -lead < CLANK_LEAD:
        rebound(b, bh, second.damage[other])


@jit
def rebound(p, h, damage):
    """He stands still for the hitlag of his own blow; `step_player` goes on with `push_back`."""
    set_action(p, h, REBOUND_STOP)
    p.state_age, p.self_vx_ground, h.flag = -1, 0, int(damage)
    p.hitlag = hitlag_frames(damage, False, False)


@jit
def push_back(p, h):
    """Away from the clank, the longer the harder the blow; see `rebound_frames`."""
    damage = h.flag
    set_action(p, h, REBOUND)
    p.self_vx_ground, h.flag = -p.facing * (REBOUND_SPEED + REBOUND_GAIN * damage), damage


@jit
def rebound_frames(h):
    """Frames, with a part, that a rebound takes; public, and as measured with a blow of 10 percent."""
    return .559 * (10 + h.flag)


@jit
def land_hit(a, ah, ac, v, vh, vc, attack, box, attack_id):
    damage = attack.damage[box] * (1 + SMASH_GAIN * ah.smash_charge / SMASH_FRAMES) + ah.boost
    staled = damage * stale_factor(ah, attack_id)
    electric = attack.effect[box] == EFFECT_ELECTRIC
    ah.has_hit = 1
    side = 1.0 if v.x > a.x or (v.x == a.x and a.facing > 0) else -1.0
    if is_shielding(v.action) and not vh.poked:
        hit_shield(a, ah, v, vh, staled, side)
        return
    if guard(v, vh, vc) == GUARD_COUNTER:
        counter(a, v, vh, staled)
        return
    crouching = CROUCH_START <= v.action <= CROUCH_END
    force = knockback(v.percent, damage, staled, vc.weight, attack.growth[box], attack.set_knockback[box],
                      attack.base[box])
    force *= toughness(v, vh, vc)
    a.hitlag = max(a.hitlag, hitlag_frames(staled, electric, False))
    v.hitlag = max(v.hitlag, hitlag_frames(staled, electric, crouching))
    v.percent = min(v.percent + staled, 999)
    if ah.queued == 0:                                 # a swing enters once; its further hits are the staler for it
        remember_hit(ah, attack_id)
        ah.queued = 1
    a.last_attack, v.last_hit_by = attack_id, a.port
    a.combo = a.combo + 1 if ah.combo_timer > 0 else 1
    ah.combo_timer = 45
    lose_charge(v, vh, vc)
    if attack.effect[box] == EFFECT_STUN:
        stun(a, v, vh)
    elif force > 0:
        contact = (a.y + attack.y[box] - v.y) / vc.height
        launch(v, vh, launch_angle(attack.angle[box], force, v.airborne), force, side, contact, staled)
        if attack.effect[box] == EFFECT_FREEZE:
            freeze(v, vh)
    if a.character == GAMEANDWATCH and (a.action == JUDGE_FIRST or a.action == JUDGE_FIRST + JUDGE_AIR):
        a.percent = min(a.percent + JUDGE_ONE_COST, 999)


@jit
def toughness(v, vh, vc):
    """What the victim's own doing makes of the knockback: crouching, frozen, winding up a smash."""
    if CROUCH_START <= v.action <= CROUCH_END:
        return 2 / 3
    if v.action == FROZEN:
        return .25
    return 1.2 if vh.smash_charge > 0 and vh.action_frames == vc.smash_hold[v.action] else 1.0


@jit
def guard(p, h, c):
    """What this frame of a special does to blows and shots: GUARD_REFLECT, _ABSORB, _COUNTER, 0 nothing."""
    action = p.action
    if action < 0 or action >= NUM_ACTIONS or not c.guard_first[action] <= h.action_frames <= c.guard_last[action]:
        return 0
    return c.guard_kind[action]


@jit
def counter(a, v, vh, staled):
    """Marth's Counter: the blow hurts nobody, and he strikes back."""
    v.facing = 1 if a.x > v.x else -1
    set_action(v, vh, v.action + 1)
    a.hitlag = v.hitlag = hitlag_frames(staled, False, False)
    vh.hurt_kind, vh.hurt_timer = 2, int(v.hitlag) + 8


@jit
def lose_charge(v, vh, vc):
    """Hit while charging: it is gone."""
    if v.action == vc.charge_action[0] or v.action == vc.charge_action[1] or (
            v.action == vc.hold_action[0] or v.action == vc.hold_action[1]):
        vh.charge = 0


@jit
def stun(a, v, vh):
    """Disable: who stands and looks at Mewtwo is dizzy for a while; nobody else is moved by it."""
    if v.airborne or v.facing * (a.x - v.x) <= 0 or is_held(v.action) or v.action == FURAFURA:
        return                                         # not twice in a row
    set_action(v, vh, FURAFURA)
    vh.grab_timer = int(min(60 + v.percent, DIZZY_FRAMES))


@jit
def freeze(v, vh):
    """In a block of ice: flies and falls as launched, and cannot act before it thaws; mashing helps."""
    set_action(v, vh, FROZEN)
    v.in_hitstun, v.hitstun = 0, 0
    vh.grab_timer = FREEZE_FRAMES


@jit
def combined(old, new):
    """Knockback upon knockback, per axis: the stronger of two the same way, the sum of two against each other."""
    if old * new < 0:
        return old + new
    return old if abs(old) > abs(new) else new


@jit
def launch(v, vh, angle, force, side, contact, damage):
    """Knockback velocity, hitstun and the damage action."""
    radians = angle * np.pi / 180
    speed = .03 * force
    vx, vy = side * speed * np.cos(radians), speed * np.sin(radians)
    if v.airborne and not (in_damage(v.action) and vh.action_frames < REPLACING_FRAMES):
        vx, vy = combined(v.kb_vx, vx), combined(v.kb_vy, vy)
    v.kb_vx, v.kb_vy = vx, vy
    v.self_vx_air, v.self_vy, v.self_vx_ground = 0, 0, 0
    v.facing, v.fastfall = -side, 0
    vh.meteor = 1 if v.airborne and METEOR_LOW <= angle <= METEOR_HIGH else 0
    hitstun = max(np.floor(.4 * force), 1)
    flying = force >= TUMBLE_KNOCKBACK
    part = 0 if contact > 1.2 else 1 if contact > .05 else 2  # hit high, in the middle, low
    was_airborne = v.airborne
    if not v.airborne and v.kb_vy < 0:
        v.kb_vy = -.8 * v.kb_vy if flying else 0       # bounces off the floor, or stays on it
    if not v.airborne and (flying or v.kb_vy > 0):
        leave_ground(v, vh)
    if damage < RESET_DAMAGE and is_lying(v.action):
        action = DOWN_DAMAGE_DOWN                      # face down from either side, and off the floor for a moment
        if not v.airborne:
            leave_ground(v, vh)
    elif flying:
        action = DAMAGE_FLY_TOP if 75 < angle < 105 else DAMAGE_FLY_HIGH + part
    else:
        level = 0 if hitstun < 10 else 1 if hitstun < 21 else 2
        action = (DAMAGE_AIR if was_airborne else DAMAGE_FIRST + 3 * part) + level
    set_action(v, vh, action)
    v.state_age = 1
    v.hitstun, v.in_hitstun = hitstun, 1


@jit
def is_lying(action):
    return DOWN_BOUND_UP <= action <= DOWN_DAMAGE_UP or DOWN_BOUND_DOWN <= action <= DOWN_DAMAGE_DOWN


@jit
def hit_shield(a, ah, v, vh, staled, side):
    """The shield throws the attacker back too, at a speed of its own, which fades by his friction."""
    a.hitlag = hitlag_frames(staled, False, False)
    if not a.airborne:
        ah.shield_push = -side * (np.floor(staled) * max(press(vh) - .3, 0.0) * .1 + .02)
    block(v, vh, staled, side)


@jit
def press(h):
    """How hard the shield is held: the lighter, the larger it is, and the more it gives way."""
    return 1.0 if h.buttons & BUTTON_LR else h.trigger


@jit
def is_power_shield(v, vh, frames):
    """A digital press just before the blow: the shield takes no harm."""
    return v.action == SHIELD_REFLECT and vh.action_frames < frames


@jit
def block(v, vh, staled, side):
    if not is_power_shield(v, vh, 4):
        v.shield = v.shield - staled * (.9 - .2 * press(vh))
    v.hitlag = hitlag_frames(staled, False, False)
    stun = (np.floor(staled) * (.95 - .65 * press(vh)) / .3 + 4.45) / 2.235
    vh.guard_frames = int(np.ceil(stun))
    set_action(v, vh, SHIELD_STUN)
    v.self_vx_ground = side * min(2.0, stun * GUARD_PUSH)
    if v.shield <= 0:
        break_shield(v, vh)


@jit
def break_shield(v, vh):
    v.shield = 30
    set_action(v, vh, SHIELD_BREAK_FLY)
    leave_ground(v, vh)
    v.self_vy, v.self_vx_air = SHIELD_BREAK_SPEED[v.character], 0
    v.hitlag = 0
    vh.hurt_kind, vh.hurt_timer = 1, 40

"""Items, the last of a frame. Slots are packed from 0, oldest first; a ninth is not made."""

import numpy as np

from cleanmelee.frame import LINK, NUM_ITEMS
from cleanmelee.game.actions import is_held, set_action
from cleanmelee.game.characters import (
    ARROW_DAMAGE, ARROW_SPEED, BOMB_BLAST_DAMAGE, BOMB_BLAST_FRAMES, BOMB_BURSTS, BOMB_BURSTS_Y, BOMB_RADIUS,
    BOMB_THROWS, BOOMERANG_ANGLE, BOOMERANG_BACK, BOOMERANG_CATCH, BOOMERANG_DRAG, BOOMERANG_HAND, BOOMERANG_LEAST,
    BOOMERANG_LIFE, BOOMERANG_MOST, BOOMERANG_SPEED, BOOMERANG_STRONG, BOOMERANG_STRONG_FRAMES, BOOMERANG_TURN,
    DINS_DAMAGE, DINS_DELAY, DINS_FASTER, DINS_GROWS, DINS_MOST, DINS_SIZE, DINS_STEEPEST, DINS_STEERING,
    FILLED_BUCKET, FULL_ARROW, NUM_ACTIONS, POWER_SHIELDED, REFLECTED, SAUSAGES, SAUSAGE_STEP, SHADOW_BALL_DAMAGE,
)
from cleanmelee.game.combat import (
    CLANK_LEAD, attack_row, block, body, guard, hitlag_frames, is_power_shield, is_shielding, knockback, launch,
    launch_angle, lose_charge, remember_hit, stale_factor,
)
from cleanmelee.game.compiler import jit
from cleanmelee.game.ids import *  # noqa: F403
from cleanmelee.game.randomness import random_uniform
from cleanmelee.game.terrain import floor_height


@jit
def extra_shots(items, index, p, h, c, t):
    """Arrows, boomerang, bombs, Din's Fire, and the lasers in Fox's and Falco's throws."""
    for number in range(c.num_extra_shots):
        shot = c.extra_shots[number]
        if shot.action != p.action or shot.frame != h.action_frames:
            continue
        if (shot.type == BOOMERANG or shot.type == BOMB) and owned(items, index, shot.type):
            continue
        slot = spawn_item(items, shot.type, index, p, h, shot.x, shot.y, t.projectiles[shot.type].life)
        if slot < 0:
            continue
        item = items[slot]
        item.vx, item.vy = shot.vx * p.facing, shot.vy
        if is_laser(item):                             # of a throw
            item.state = 1
        elif shot.type == ARROW:
            drawn = min(h.charge, FULL_ARROW) / FULL_ARROW
            item.vx = (ARROW_SPEED[0] + (ARROW_SPEED[1] - ARROW_SPEED[0]) * drawn) * p.facing
            item.damage = int(ARROW_DAMAGE[0] + (ARROW_DAMAGE[1] - ARROW_DAMAGE[0]) * drawn)
            h.charge = 0
        elif shot.type == BOOMERANG:                   # the stick aims it; begun as with a smash it flies faster
            flung = 1 if h.flag == 1 else 0
            item.charge, angle = flung, 0.0
            if abs(h.stick_y) >= TILT:
                angle = min(max(np.arctan2(h.stick_y, abs(h.stick_x)), -BOOMERANG_ANGLE), BOOMERANG_ANGLE)
            item.vx = BOOMERANG_SPEED[flung] * np.cos(angle) * p.facing
            item.vy = BOOMERANG_SPEED[flung] * np.sin(angle)
            item.timer = BOOMERANG_LIFE[flung]


HELD_TIMER, STUCK, BOMB_RELEASE = 1400, 2, 8           # timer of an item in hand; state of a needle; frame of a throw
SHADOW_BALL_RECOIL = 1.32                              # of a full one, measured, the others by their charge
SHADOW_BALL_SPEED = 1.6                                # measured uncharged; it leaves the hand at half of it


@jit
def clear_item(item):
    item.x, item.y, item.vx, item.vy, item.facing, item.timer = 0, 0, 0, 0, 0, 0
    item.type, item.state, item.owner, item.damage, item.charge, item.present = 0, 0, 0, 0, 0, 0


@jit
def copy_item(source, target):
    target.x, target.y, target.vx, target.vy = source.x, source.y, source.vx, source.vy
    target.facing, target.timer, target.type, target.state = source.facing, source.timer, source.type, source.state
    target.owner, target.damage, target.charge, target.present = source.owner, source.damage, source.charge, 1


@jit
def free_slot(items):
    for slot in range(NUM_ITEMS):
        if items[slot].present == 0:
            return slot
    return -1


@jit
def spawn_item(items, item_type, index, p, h, x, y, timer):
    """-> the slot, -1 if all are taken. Items appear where their owner was before he moved."""
    slot = free_slot(items)
    if slot >= 0:
        item = items[slot]
        clear_item(item)
        item.x, item.y, item.facing, item.timer = h.old_x + x * p.facing, h.old_y + y, p.facing, timer
        item.type, item.owner, item.present = item_type, index, 1
    return slot


@jit
def shoot(items, index, p, h, c, t, seed, frame_id):
    place = h.shot - 1
    slot = spawn_item(items, c.shot_type, index, p, h, c.shot_x[place], c.shot_y[place],
                      t.projectiles[c.shot_type].life)
    if slot >= 0:
        item = items[slot]
        item.vx, item.vy = c.shot_vx[place] * p.facing, c.shot_vy[place]
        if c.shot_type == SHADOW_BALL:
            item.state, item.charge = 1, h.charge // c.charge_frames
        elif c.shot_type == SAUSAGE:                   # thrown near and far
            way = int(SAUSAGES * random_uniform(seed, frame_id, 50 + index))
            item.vx += SAUSAGE_STEP[0] * way * p.facing
            item.vy += SAUSAGE_STEP[1] * way
    if c.shot_type == SHADOW_BALL:
        if h.shot == 1:
            p.self_vx_ground = -SHADOW_BALL_RECOIL * h.charge / (c.charge_frames * c.charge_steps) * p.facing
        h.charge = 0


@jit
def hold_item(items, index, p, h, c):
    """A gun, a charging ball, Game & Watch's gadgets."""
    item_type = c.held_type[p.action] if 0 <= p.action < NUM_ACTIONS else 0
    if item_type == 0:
        return
    for slot in range(NUM_ITEMS):
        item = items[slot]
        if item.present and item.owner == index and item.type == item_type and item.timer == HELD_TIMER:
            return
    spawn_item(items, item_type, index, p, h, c.held_x[p.action], c.held_y[p.action], HELD_TIMER)


@jit
def is_still_held(item, p, h, c):
    if p.action < 0 or p.action >= NUM_ACTIONS or c.held_type[p.action] != item.type:
        return False
    if item.type == FOX_BLASTER or item.type == FALCO_BLASTER or item.type == 0x72:
        item.state = p.action - 341
    elif item.type == PARACHUTE:
        item.state = 1
    elif item.type == SHADOW_BALL or item.type == NEEDLES_HELD:
        item.charge = h.charge // c.charge_frames if item.type == SHADOW_BALL else 0
    return True


@jit
def owned(items, index, item_type):
    for slot in range(NUM_ITEMS):
        if items[slot].present and items[slot].owner == index and items[slot].type == item_type:
            return True
    return False


@jit
def turn_back(item, t, index, gain, speed):
    """Reflected: belongs to the other now. `damage` keeps what that makes of a shot's damage, in percent; an arrow's
    and a bomb's is the damage itself."""
    item.vx, item.vy, item.facing, item.owner = -item.vx * speed, -item.vy * speed, -item.facing, index
    item.timer = t.projectiles[item.type].life
    if item.type == BOOMERANG:
        item.state = 0
    elif item.type == ARROW or item.type == BOMB:
        item.damage = int(item.damage * gain)
    else:
        item.damage = int((item.damage if item.damage > 0 else 100) * gain)


@jit
def step_bomb(item, s, t, a, ah, v, vh, ac, vc):
    """Link's bomb: in the hand, thrown, bursting; its fuse burns all the time. False when it is gone."""
    item.timer -= 1
    if item.state == BOMB_EXPLODING:
        return item.timer > 0
    if item.state == BOMB_HELD:
        item.x, item.y, item.facing = a.x + 4 * a.facing, a.y + 8, a.facing
        throwing = ITEM_THROW <= a.action <= ITEM_DROP + 4
        if throwing and ah.action_frames >= BOMB_RELEASE:
            release_bomb(item, a)
        elif DAMAGE_FLY_HIGH <= a.action <= DAMAGE_LAST or a.action <= REBIRTH_WAIT:
            item.state, item.vx, item.vy, item.damage = BOMB_THROWN, 0, 0, BOMB_THROWS[4]  # lets go of it
    elif item.vx != 0 or item.vy != 0 or ground_met(item, s, item.y + 1) < 0:
        old_x, old_y = item.x, item.y
        item.vy -= t.projectiles[BOMB].gravity
        item.x += item.vx
        item.y += item.vy
        if not in_bounds(item, s):
            return False
        kind = t.projectiles[BOMB]
        if can_be_hit(v) and reaches(item, old_x, old_y, kind.radius, v, vc):
            if guard(v, vh, vc) == GUARD_REFLECT:
                turn_back(item, t, 1 if item.owner == 0 else 0, REFLECTED, 1.0)
                return True
            item_hit(item, kind, a, ah, v, vh, vc)
            explode(item, a, ah, v, vh, ac, vc)
            return True
        floor = ground_met(item, s, old_y)
        if floor >= 0 and abs(item.vx) <= BOMB_BURSTS and abs(item.vy) <= BOMB_BURSTS_Y:
            item.y, item.vx, item.vy = floor_height(s, floor, item.x) - .01, 0, 0  # lies there
        elif floor >= 0 or item.timer <= 0:
            explode(item, a, ah, v, vh, ac, vc)
            return True
        return True
    if item.timer <= 0:
        explode(item, a, ah, v, vh, ac, vc)
    return True


@jit
def release_bomb(item, a):
    """The throw's action says where it goes; the speeds are a guess."""
    way = a.action - ITEM_THROW
    if way >= ITEM_THROW_AIR:
        way -= ITEM_THROW_AIR
    item.state, item.vx, item.vy = BOMB_THROWN, 0, 0
    item.damage = BOMB_THROWS[min(way, 4)]
    if way == 0:
        item.vx, item.vy = 2.2 * a.facing, .6
    elif way == 1:
        item.vx, item.vy = -2.2 * a.facing, .6
    elif way == 2:
        item.vy = 2.6
    elif way == 3:
        item.vy = -2.4


@jit
def explode(item, a, ah, v, vh, ac, vc):
    """The blast hurts whoever is near: its owner too."""
    item.state, item.timer, item.vx, item.vy = BOMB_EXPLODING, BOMB_BLAST_FRAMES, 0, 0
    blast(item, a, ah, a, ah, ac)
    blast(item, a, ah, v, vh, vc)


@jit
def blast(item, a, ah, v, vh, vc):
    if not can_be_hit(v) or v.hurtbox == 1 or v.hitlag > 0 or not reaches(item, item.x, item.y, BOMB_RADIUS, v, vc):
        return
    side = 1.0 if v.x >= item.x else -1.0
    if is_shielding(v.action):
        block(v, vh, BOMB_BLAST_DAMAGE, side)
        return
    force = knockback(v.percent, BOMB_BLAST_DAMAGE, BOMB_BLAST_DAMAGE, vc.weight, 60, 0, 60)
    v.percent = min(v.percent + BOMB_BLAST_DAMAGE, 999)
    v.last_hit_by = a.port
    v.hitlag = hitlag_frames(BOMB_BLAST_DAMAGE, False, False)
    lose_charge(v, vh, vc)
    if not is_held(v.action):
        launch(v, vh, launch_angle(70, force, v.airborne), force, side, .5, BOMB_BLAST_DAMAGE)


@jit
def turn_boomerang(item, state):
    """Home again; after a blow (state 3) it turns faster, and strikes nobody twice."""
    item.state, item.vx, item.vy = state, -item.vx, -item.vy


@jit
def steer_boomerang(item, a, ah):
    """Out, slower and slower, then back to the hand; its state tells 0 out, 1 out and hit, 2 back, 3 back and hit.
    True if it is caught."""
    speed = np.sqrt(item.vx * item.vx + item.vy * item.vy)
    if item.state < 2:
        after = max(speed - BOOMERANG_DRAG, BOOMERANG_LEAST)
        item.vx, item.vy = item.vx * after / speed, item.vy * after / speed
        if after <= BOOMERANG_LEAST:
            turn_boomerang(item, item.state + 2)
        return False
    x, y = a.x - item.x, a.y + BOOMERANG_HAND - item.y
    if x * x + y * y < BOOMERANG_CATCH * BOOMERANG_CATCH and a.action > REBIRTH_WAIT:
        if a.action == WAIT:
            set_action(a, ah, 351)
        return True
    most = BOOMERANG_TURN[item.state - 2]
    angle = np.arctan2(item.vy, item.vx)
    turn = (np.arctan2(y, x) - angle + np.pi) % (2 * np.pi) - np.pi
    angle += min(max(turn, -most), most)
    speed = min(speed + BOOMERANG_DRAG, BOOMERANG_MOST)
    item.vx, item.vy = speed * np.cos(angle), speed * np.sin(angle)
    return False


@jit
def steer_dins_fire(item, a, ah):
    """Din's Fire grows as it flies, gains speed and turns up or down with the stick while B is held; let go, it stops
    and takes its time to burst."""
    if item.state == 1:
        return
    item.charge = min(item.charge + 1, DINS_GROWS)
    if a.action == 344 or a.action == 347:
        speed = min(np.sqrt(item.vx * item.vx + item.vy * item.vy) + DINS_FASTER, DINS_MOST)
        angle = np.arctan2(item.vy, item.vx * item.facing) + DINS_STEERING * ah.stick_y
        angle = min(max(angle, -DINS_STEEPEST), DINS_STEEPEST)
        item.vx, item.vy = speed * np.cos(angle) * item.facing, speed * np.sin(angle)
    elif a.action != 343 and a.action != 346:
        stop_dins_fire(item)


@jit
def stop_dins_fire(item):
    item.state, item.timer, item.vx, item.vy = 1, DINS_DELAY, 0, 0


@jit
def in_bounds(item, s):
    return s.blast_left <= item.x <= s.blast_right and s.blast_bottom <= item.y <= s.blast_top


@jit
def can_be_hit(v):
    return v.present != 0 and v.action > REBIRTH_WAIT and v.hurtbox != 2 and v.stocks > 0


@jit
def ground_met(item, s, old_y):
    """The floor that an item has run into, -1 none: the stage from anywhere, platforms from above."""
    height = floor_height(s, 0, item.x)
    if abs(item.x) < s.floor_right[0] and height - 20 < item.y < height:
        return 0
    for floor in range(1, s.num_floors):
        if s.floor_left[floor] < item.x < s.floor_right[floor] and item.y < s.floor_y[floor] <= old_y:
            return floor
    return -1


@jit
def is_struck(item, kind, v, vh, vc, t):
    """A swing meets the projectile: it goes out, unless it is stronger by nine percent or more."""
    row = attack_row(v, vh, vc)
    if row == 0:
        return False
    attack = t.hitboxes[row]
    for box in range(4):
        if attack.size[box] == 0 or attack.effect[box] == EFFECT_GRAB or attack.effect[box] == EFFECT_INERT:
            continue
        dx, dy = v.x + attack.x[box] * v.facing - item.x, v.y + attack.y[box] - item.y
        reach = attack.size[box] + kind.radius
        if dx * dx + dy * dy < reach * reach and item_damage(item, kind) - attack.damage[box] < CLANK_LEAD:
            v.hitlag = hitlag_frames(attack.damage[box], False, False)
            return True
    return False


@jit
def fly(item, s, t, a, ah, v, vh, vc, victim):
    """A projectile moves on and hits; False when it is gone."""
    item.timer -= 1
    if item.timer <= 0:
        if item.type != DINS_FIRE:
            return False
        if item.state == 0:
            stop_dins_fire(item)
            return True
        item.type, item.state, item.timer = DINS_EXPLOSION, 0, t.projectiles[DINS_EXPLOSION].life
    if item.type == NEEDLE and item.state == STUCK:
        return True
    kind = t.projectiles[item.type]
    if item.type == BOOMERANG and steer_boomerang(item, a, ah):
        return False
    if item.type == DINS_FIRE:
        steer_dins_fire(item, a, ah)
    if item.type == SHADOW_BALL:
        item.vx = SHADOW_BALL_SPEED * (1 if item.vx > 0 else -1)
    old_x, old_y = item.x, item.y
    item.vy -= kind.gravity
    item.x += item.vx
    item.y += item.vy
    floor = -1 if item.type == DINS_EXPLOSION else ground_met(item, s, old_y)
    if floor > 0 and (item.type == DINS_FIRE or item.type == BOOMERANG):
        floor = -1                                     # pass through platforms
    if floor >= 0:
        height = floor_height(s, floor, item.x)
        if item.type == DINS_FIRE:
            item.y = height
            if item.state == 0:
                stop_dins_fire(item)
            return True
        if item.type == BOOMERANG:
            item.y = max(item.y, height)
            if item.state < 2:
                turn_boomerang(item, item.state + 2)
            return True
        if item.type != NEEDLE:
            return False
        item.y, item.vx, item.vy, item.state, item.timer = height, 0, 0, STUCK, 120
        return True
    if not in_bounds(item, s):
        return False
    if item.type == DINS_FIRE or (item.type == BOOMERANG and item.state & 1) or (
            item.type == DINS_EXPLOSION and item.state == 1):
        return True                                    # does not hit (again)
    if item.type != DINS_EXPLOSION and can_be_hit(v) and guard(v, vh, vc) == 0 and is_struck(item, kind, v, vh, vc, t):
        if item.type == BOOMERANG and item.state < 2:
            turn_boomerang(item, 3)
        return item.type == BOOMERANG
    radius = kind.radius
    if item.type == DINS_EXPLOSION:
        radius *= DINS_SIZE[0] + (DINS_SIZE[1] - DINS_SIZE[0]) * item.charge / DINS_GROWS
    guarding = guard(v, vh, vc)                        # a reflector works even while nobody can be hit
    if not (can_be_hit(v) or guarding == GUARD_REFLECT) or not reaches(item, old_x, old_y, radius, v, vc):
        return True
    stays = item.type == BOOMERANG or item.type == DINS_EXPLOSION
    if item.type == DINS_EXPLOSION:
        item.state = 1
    if v.hurtbox == 1 and guarding != GUARD_REFLECT:
        return stays
    if guarding == GUARD_ABSORB and vh.bucket < FILLED_BUCKET and item.type != BOOMERANG:
        vh.bucket, vh.bucket_damage = vh.bucket + 1, vh.bucket_damage + item_damage(item, kind)
        set_action(v, vh, BUCKET_CATCHES[v.airborne])
        return False
    if guarding == GUARD_REFLECT:
        turn_back(item, t, victim, REFLECTED, 1.0)
        return True
    if is_power_shield(v, vh, 2):
        turn_back(item, t, victim, POWER_SHIELDED[0], POWER_SHIELDED[1])
        return True
    item_hit(item, kind, a, ah, v, vh, vc)
    if item.type == BOOMERANG:
        if item.state < 2:
            turn_boomerang(item, 3)
        else:
            item.state = 3
    return stays


@jit
def reaches(item, old_x, old_y, size, v, vc):
    radius, bottom, top, forward = body(v, vc)
    body_x, low, high = v.x + forward * v.facing, v.y + bottom + radius, v.y + max(top - radius, bottom + radius)
    for step in range(4):
        x, y = item.x + (old_x - item.x) * step / 4, item.y + (old_y - item.y) * step / 4
        away_x, away_y = x - body_x, y - min(max(y, low), high)
        if away_x * away_x + away_y * away_y < (radius + size) ** 2:
            return True
    return False


@jit
def item_damage(item, kind):
    if item.type == ARROW or item.type == BOMB:
        return float(item.damage)
    if item.type == BOOMERANG:                         # strong while it has just left the hand
        age = BOOMERANG_LIFE[item.charge] - item.timer
        if item.state >= 2:
            return float(BOOMERANG_BACK)
        return float(BOOMERANG_STRONG[item.charge]) if age <= BOOMERANG_STRONG_FRAMES else float(kind.damage)
    if item.type == DINS_EXPLOSION:
        return np.floor(DINS_DAMAGE[0] + DINS_DAMAGE[1] * item.charge)
    damage = float(kind.damage)
    if item.type == SHADOW_BALL:
        damage = float(SHADOW_BALL_DAMAGE[min(item.charge, 7)])
    elif is_laser(item) and item.vy != 0:              # of a throw
        damage = 2.0 if item.vy > 0 else 1.0
    return damage * item.damage / 100 if item.damage > 0 else damage


@jit
def is_laser(item):
    return item.type == FOX_LASER or item.type == FALCO_LASER


@jit
def item_hit(item, kind, a, ah, v, vh, vc):
    """Like a blow, but the owner feels nothing. Fox's laser only hurts, and so do all lasers of throws."""
    damage, growth, base, set_knockback = item_damage(item, kind), kind.growth, kind.base, kind.set_knockback
    attack_id = int(kind.attack_id)
    if item.type == SHADOW_BALL:
        growth, base = growth + 5 * item.charge, base + 5 * item.charge
    elif is_laser(item) and item.vy != 0:
        growth, set_knockback = 0, 0
        if THROW_FORWARD <= a.action <= THROW_DOWN:
            attack_id = 53 + a.action - THROW_FORWARD
    staled = damage * stale_factor(ah, attack_id)
    side = 1.0 if item.vx > 0 else -1.0
    if is_shielding(v.action):
        block(v, vh, staled, side)
        return
    force = knockback(v.percent, damage, staled, vc.weight, growth, set_knockback, base)
    v.percent = min(v.percent + staled, 999)
    lose_charge(v, vh, vc)
    remember_hit(ah, attack_id)
    a.last_attack, v.last_hit_by = attack_id, a.port
    a.combo = a.combo + 1 if ah.combo_timer > 0 else 1
    ah.combo_timer = 45
    if force <= 0:
        return
    crouching = CROUCH_START <= v.action <= CROUCH_END
    force = force * 2 / 3 if crouching else force
    v.hitlag = max(v.hitlag, hitlag_frames(staled, False, crouching))
    if not is_held(v.action):
        angle, contact = launch_angle(kind.angle, force, v.airborne), (item.y - v.y) / vc.height
        launch(v, vh, angle, force, side, contact, staled)


@jit
def bomb_in_hand(items, index):
    for slot in range(NUM_ITEMS):
        item = items[slot]
        if item.present and item.type == BOMB and item.owner == index and item.state == BOMB_HELD:
            return 1
    return 0


@jit
def step_items(frame, secret, c, d, s, t):
    items, kept = frame.items, 0
    for slot in range(NUM_ITEMS):
        item = items[slot]
        if item.present == 0:
            break
        owner = 1 if item.owner == 1 else 0
        a, ah = frame.players[owner], secret.players[owner]
        v, vh = frame.players[1 - owner], secret.players[1 - owner]
        if item.type == BOMB:
            mine, other = (c, d) if owner == 0 else (d, c)
            stays = step_bomb(item, s, t, a, ah, v, vh, mine, other)
        elif item.timer == HELD_TIMER:
            stays = is_still_held(item, a, ah, c if owner == 0 else d)
        else:
            stays = fly(item, s, t, a, ah, v, vh, d if owner == 0 else c, 1 - owner)
        if not stays:
            continue
        if kept != slot:
            copy_item(item, items[kept])
        kept += 1
    for slot in range(kept, NUM_ITEMS):
        if items[slot].present:
            clear_item(items[slot])
    for index in range(2):
        p, h, own = frame.players[index], secret.players[index], c if index == 0 else d
        if own.has_items:
            hold_item(items, index, p, h, own)
            if h.shot:
                shoot(items, index, p, h, own, t, secret.seed, frame.frame_id)
            if own.num_extra_shots and p.hitlag == 0:
                extra_shots(items, index, p, h, own, t)
            if p.character == LINK:
                h.holding = bomb_in_hand(items, index)

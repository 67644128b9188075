#!/usr/bin/env python
"""fidelity.py - how close is a mock Melee to real Melee?  (acceptance tool)

Compares a simulator's one-frame `step` with real Slippi replays, frame by frame.

    python fidelity.py --sim tests/tools/fidelity_adapter.py replay.slp [replay2.slp ...]
    python fidelity.py --sim hold    replay.slp          # built-in baseline: keep velocity, keep action
    python fidelity.py --sim tests/tools/fidelity_adapter.py --by src --worst 20 replay.slp

The simulator is a Python module with ONE required function

    step(state, inputs, stage) -> next_state

    state      np.ndarray, dtype STATE, shape [N, 2]   (N independent games, 2 players)
    inputs     np.ndarray, dtype INPUT, shape [N, 2]
    stage      int, Slippi stage id (2 FoD, 3 Pokemon Stadium, 8 Yoshi's, 28 Dream Land, 31 Battlefield, 32 FD)
    next_state new np.ndarray, dtype STATE, shape [N, 2]; `state` must not be modified.
    optional   CHARS: set of internal character ids it supports (other players' rows are not scored).

TIMING (checked by `check_convention` on every replay)
    Slippi logs, for each frame t and port: `pre` (controller as the game sees it, before the
    frame is simulated) and `post` (the character after the frame).   post[t-1] + pre[t] -> post[t].
    So   state[t] = post[t],   inputs[t] = pre[t+1],   target[t] = post[t+1].
    Replays start at frame id -123; players have control from id -39 on; earlier frames are skipped.

UNITS
    position in game units (FD's ledge is at x = 85.57), y up, velocity in units/frame, 60 frames/s.
    facing -1 left / +1 right.  percent 0..999.  shield 0..60.  angles never appear.
    sticks -1..1 AFTER the game's own dead zone and scaling (steps of 1/80), trigger 0..1 likewise.

Everything in STATE down to `char` is read from the replay's post frame.  The fields after it are NOT in
the replay's post frame: `derive_hidden` computes them from the past inputs and states, because the game
itself depends on them (a dash needs to know how long ago the stick left the centre).  In free-running
mode the simulator has to keep them up to date itself.
"""
import argparse, collections, importlib, os, sys, warnings
import numpy as np

STATE = np.dtype([
    # --- read from the replay (post frame) -----------------------------------------------------------
    ("x", "f4"), ("y", "f4"),
    ("air_vx", "f4"), ("vy", "f4"),      # self-induced velocity (air_vx is the x speed while airborne)
    ("ground_vx", "f4"),                 # self-induced x speed while grounded
    ("kb_vx", "f4"), ("kb_vy", "f4"),    # knockback velocity, added to the self-induced one
    ("age", "f4"),                       # animation frame of the action (0 on its first frame, float: speeds vary)
    ("percent", "f4"), ("shield", "f4"),
    ("hitlag", "f4"),                    # frames of freeze left (0 = moving)
    ("hitstun", "f4"),                   # frames left, only meaningful while `in_hitstun`
    ("action", "i4"),                    # Melee action state id (melee.enums.Action)
    ("misc", "i4"),                      # raw bits of the action's own variable (24 jumpsquat: 1 = short hop)
    ("ground", "i4"),                    # id of the last touched ground line
    ("facing", "i4"), ("airborne", "i4"),
    ("jumps", "i4"),                     # jumps left: 2 grounded, 1 after the ground jump, 0 after the air jump
    ("stocks", "i4"), ("in_hitstun", "i4"), ("fastfall", "i4"), ("lcancel", "i4"), ("hurtbox", "i4"),
                                         # lcancel: 1 success 2 missed, kept through the whole aerial landing
    ("char", "i4"),                      # internal character id (melee.enums.Character)
    # --- hidden: derived from the past, see derive_hidden ---------------------------------------------
    ("p_sx", "f4"), ("p_sy", "f4"), ("p_cx", "f4"), ("p_cy", "f4"), ("p_trig", "f4"), ("p_btn", "i4"),
                                         # the inputs that produced this state (previous frame's controller)
    ("t_sx", "i4"), ("t_sy", "i4"),      # frames since the stick passed +-.25 there (0 = that frame, 254 = centre)
    ("t_lr", "i4"),                      # frames since L, R or Z went down or the analog trigger left 0 (max 254)
    ("t_air", "i4"),                     # frames airborne (0 on the ground)
    ("t_ledge", "i4"),                   # frames until the ledge can be grabbed again
    ("t_act", "i4"),                     # frames since the action began (0 on its first frame; frozen during hitlag)
    ("hit_done", "i4"),                  # 1: since this action began it has hit the opponent (or the opponent's shield)
    ("attack", "i4"),                    # Slippi's id of the last attack of this player that landed
    ("stale", "i4", (9,)),               # attack ids of the last nine landed hits, newest first, 0 = empty
], align=True)

INPUT = np.dtype([
    ("sx", "f4"), ("sy", "f4"), ("cx", "f4"), ("cy", "f4"),   # main stick, c-stick
    ("trig", "f4"),                                           # analog shoulder, the larger of L and R
    ("btn", "i4"),   # bits: A 0x100 B 0x200 X 0x400 Y 0x800 L 0x40 R 0x20 Z 0x10 start 0x1000 d-pad 0x1..0x8
], align=True)

A, B, X, Y, L, R, Z = 0x100, 0x200, 0x400, 0x800, 0x40, 0x20, 0x10
TRUTH_FIELDS = STATE.names[:STATE.names.index("p_sx")]
SHUFFLE = np.random.default_rng(0)   # rows come in random order: a step function sees one frame, never its future
def step_rows(sim, S, I, stage):
    order = SHUFFLE.permutation(len(S)); out = np.empty_like(S)
    out[order] = sim.step(S[order].copy(), I[order].copy(), stage)
    return out


# ---------------------------------------------------------------------------- action families
def build_families():
    fam = np.full(512, -1, np.int32)
    names = ["stand/walk/turn/crouch", "dash/run", "jumpsquat", "jump/fall", "fastfall", "airdodge/wavedash",
             "ground attack", "aerial attack", "landing", "shield/dodge/roll", "grab/throw/grabbed", "special move",
             "hitstun/tumble", "down/tech", "ledge", "dead/respawn/entry", "other", "hit event"]
    def put(name, *ids):
        for i in ids:
            for j in (i if hasattr(i, "__iter__") else [i]): fam[j] = names.index(name)
    put("dead/respawn/entry", range(0, 14), range(322, 325))
    put("stand/walk/turn/crouch", range(14, 19), range(39, 42), 244, 245, 246)
    put("dash/run", range(19, 24)); put("jumpsquat", 24)
    put("jump/fall", range(25, 35)); put("airdodge/wavedash", range(35, 38), 43, 236)
    put("landing", 42, range(70, 75)); put("ground attack", range(44, 65)); put("aerial attack", range(65, 70))
    put("hitstun/tumble", 38, range(75, 92), 251); put("shield/dodge/roll", range(178, 183), range(233, 236))
    put("down/tech", range(183, 205), 237, 238, 247, 248, 249, 250, range(205, 212))
    put("grab/throw/grabbed", range(212, 233), range(239, 244), range(266, 293), range(301, 305))
    put("ledge", range(252, 264)); put("special move", range(341, 512))
    fam[fam < 0] = names.index("other"); fam[244] = names.index("jump/fall")
    return fam, names
FAMILY, FAMILY_NAMES = build_families()


# ---------------------------------------------------------------------------- replay -> arrays
def load_replay(path):
    """-> (state [T,2] STATE, inputs [T,2] INPUT, stage, frame ids [T]); inputs[t] is the controller of frame t,
    the one that PRODUCED state[t].  Raises ValueError for replays that are not 1v1 or older than Slippi 3.8."""
    import peppi_py
    game = peppi_py.read_slippi(path)
    if tuple(game.start.slippi.version) < (3, 8, 0): raise ValueError("needs Slippi >= 3.8 (velocities, hitlag)")
    if len(game.frames.ports) != 2: raise ValueError("not 1v1")
    arr = lambda a: np.asarray(a.to_numpy(zero_copy_only=False))
    ids = arr(game.frames.id)
    # rollback netplay logs a frame again when it was re-simulated: the last record is the real one
    last = len(ids) - 1 - np.unique(ids[::-1], return_index=True)[1]
    ids = ids[last]
    S, I = np.zeros((len(ids), 2), STATE), np.zeros((len(ids), 2), INPUT)
    for p, port in enumerate(game.frames.ports):
        if port.follower is not None: raise ValueError("Ice Climbers are not supported")
        pre, post = port.leader.pre, port.leader.post
        get = lambda a: np.nan_to_num(arr(a)[last].astype(np.float64))
        s, i = S[:, p], I[:, p]
        v, flags = post.velocities, [get(f).astype(int) for f in post.state_flags]
        s["x"], s["y"] = get(post.position.x), get(post.position.y)
        s["air_vx"], s["vy"], s["ground_vx"] = get(v.self_x_air), get(v.self_y), get(v.self_x_ground)
        s["kb_vx"], s["kb_vy"] = get(v.knockback_x), get(v.knockback_y)
        s["age"], s["percent"], s["shield"] = get(post.state_age), get(post.percent), get(post.shield)
        s["hitlag"], s["in_hitstun"] = get(post.hitlag), (flags[3] >> 1) & 1
        misc = arr(post.misc_as)[last].astype(np.float32)
        s["misc"] = misc.view(np.int32)
        s["hitstun"] = np.where(s["in_hitstun"] == 1, np.nan_to_num(misc), 0)
        s["fastfall"] = (flags[1] >> 3) & 1
        s["action"], s["ground"], s["airborne"] = get(post.state), get(post.ground), get(post.airborne)
        s["facing"] = np.where(get(post.direction) < 0, -1, 1)
        s["jumps"], s["stocks"], s["char"] = get(post.jumps), get(post.stocks), get(post.character)
        s["lcancel"], s["hurtbox"] = get(post.l_cancel), get(post.hurtbox_state)
        s["attack"] = get(post.last_attack_landed)
        i["sx"], i["sy"] = get(pre.joystick.x), get(pre.joystick.y)
        i["cx"], i["cy"] = get(pre.cstick.x), get(pre.cstick.y)
        i["trig"], i["btn"] = get(pre.triggers), get(pre.buttons).astype(np.int64) & 0xFFFF
    derive_hidden(S, I)
    check_convention(game, last, arr)
    return S, I, int(game.start.stage), ids


def derive_hidden(S, I):
    """Fill the fields of STATE that Slippi does not record; a plain loop, to be read as their definition."""
    for p in range(2):
        s, i = S[:, p], I[:, p]
        for f in ("sx", "sy", "cx", "cy", "trig", "btn"): s["p_" + f] = i[f]
        tsx = tsy = tlr = 254; tair = tledge = tact = 0
        for t in range(len(s)):
            a, b = i[t], i[t - 1] if t else i[t]
            tsx = stick_timer(tsx, a["sx"], b["sx"]); tsy = stick_timer(tsy, a["sy"], b["sy"])
            down = a["btn"] & ~b["btn"]
            tlr = 0 if (down & (L | R | Z)) or (a["trig"] > 0 and b["trig"] == 0) else min(tlr + 1, 254)
            tair = tair + 1 if s["airborne"][t] else 0
            act, old = s["action"][t], s["action"][t - 1] if t else -1
            if 252 <= old <= 263 and not 252 <= act <= 263: tledge = 29
            else: tledge = max(0, tledge - 1)
            again = t and act == old and s["age"][t] >= s["age"][t - 1]
            if not again or s["hitlag"][t - 1] <= 1:                       # else frozen
                looped = t and act == old and act in (14, 15, 16, 17, 21, 29, 32, 35, 38, 40)
                tact = tact + 1 if again or looped else 0
            if t and 70 <= act <= 74 and act == old:                       # logged on the landing frame only
                s["lcancel"][t] = s["lcancel"][t - 1]
            s["t_sx"][t], s["t_sy"][t], s["t_lr"][t], s["t_air"][t] = tsx, tsy, tlr, tair
            s["t_ledge"][t], s["t_act"][t] = tledge, tact
    for p in range(2):
        s, o = S[:, p], S[:, 1 - p]
        done, queue = 0, np.zeros(9, np.int32)
        for t in range(1, len(s)):
            if s["stocks"][t] < s["stocks"][t - 1]: queue[:] = 0
            if s["t_act"][t] == 0: done = 0
            struck = o["percent"][t] > o["percent"][t - 1] + .1 and o["hitlag"][t] > o["hitlag"][t - 1]
            shielded = o["action"][t] == 181 and o["hitlag"][t] > o["hitlag"][t - 1]
            if s["hitlag"][t] > 0 or struck:
                if struck or shielded: done = 1
            if struck and s["attack"][t]: queue = np.concatenate([[s["attack"][t]], queue[:-1]])
            s["hit_done"][t], s["stale"][t] = done, queue


def stick_timer(timer, now, before):
    if now >= 0.25: return min(timer + 1, 254) if before >= 0.25 else 0
    if now <= -0.25: return min(timer + 1, 254) if before <= -0.25 else 0
    return 254


def check_convention(game, last, arr):
    """pre[t] must carry the position of post[t-1]: then pre[t] is what turns post[t-1] into post[t]."""
    for port in game.frames.ports:
        a, b = arr(port.leader.pre.position.x)[last], arr(port.leader.post.position.x)[last]
        ok = np.mean(np.isclose(a[1:], b[:-1], atol=1e-4, equal_nan=True))
        if ok < 0.97: warnings.warn(f"pre[t] position equals post[t-1] on only {ok:.1%} of frames")


# ---------------------------------------------------------------------------- scoring
def hit_event(now, nxt):
    """frames on which something outside the player's own movement struck (damage, new hitlag, a grab)"""
    return ((nxt["percent"] > now["percent"] + 1e-4) | (nxt["hitlag"] > np.maximum(now["hitlag"], 0))
            | ((nxt["action"] >= 223) & (nxt["action"] <= 232) & ((now["action"] < 223) | (now["action"] > 232))))


def frame_ok(S, ids, chars):
    """pairs (t, t+1) that are scored: players in control, both alive in the match, character supported"""
    ok = (ids[:-1] >= -39) & (np.diff(ids) == 1)
    ok = ok[:, None] & (S["stocks"][:-1] > 0)
    if chars is not None: ok &= np.isin(S["char"][:-1], list(chars))
    return ok


def teacher_forced(sim, replays, by):
    rows = []
    for name, S, I, stage, ids in replays:
        P = step_rows(sim, S[:-1], I[1:], stage)
        T, N, ok = S[1:], S[:-1], frame_ok(S, ids, getattr(sim, "CHARS", None))
        ev = hit_event(N, T)
        fam = FAMILY[np.minimum((T if by == "dst" else N)["action"], 511)].copy()
        air = np.isin(fam, [FAMILY_NAMES.index("jump/fall")]) & (T["fastfall"] == 1)
        fam[air] = FAMILY_NAMES.index("fastfall"); fam[ev] = FAMILY_NAMES.index("hit event")
        frame = np.repeat(ids[1:, None], 2, 1); port = np.tile([0, 1], (len(T), 1))
        vx = np.where(T["airborne"] == 1, T["air_vx"] - P["air_vx"], T["ground_vx"] - P["ground_vx"])
        for m in [ok]:
            rows.append(np.stack([fam[m], np.abs(P["x"] - T["x"])[m], np.abs(P["y"] - T["y"])[m],
                                  (P["action"] == T["action"])[m], (N["action"] != T["action"])[m],
                                  (P["action"] != N["action"])[m], N["action"][m], T["action"][m], P["action"][m],
                                  frame[m], port[m], N["char"][m], np.abs(vx)[m], np.abs(P["vy"] - T["vy"])[m],
                                  (P["facing"] == T["facing"])[m], (P["airborne"] == T["airborne"])[m],
                                  N["t_act"][m]]))
    return np.concatenate(rows, 1)


def report_families(R, title):
    fam, dx, dy, right, changed = R[0].astype(int), R[1], R[2], R[3].astype(bool), R[4].astype(bool)
    print(f"\n{title}\n{'family':24s}{'share':>7s}{'dx<.01':>8s}{'dx<.1':>8s}{'dy<.01':>8s}{'dy<.1':>8s}"
          f"{'xy<.1':>8s}{'action':>8s}{'act@chg':>8s}")
    def line(name, m):
        if not m.any(): return
        q = lambda v: f"{100 * v.mean():8.1f}" if len(v) else "       -"
        print(f"{name:24s}{100 * m.mean():7.1f}" + q(dx[m] < .01) + q(dx[m] < .1) + q(dy[m] < .01) + q(dy[m] < .1)
              + q((dx[m] < .1) & (dy[m] < .1)) + q(right[m]) + q(right[m & changed]))
    for k, name in enumerate(FAMILY_NAMES): line(name, fam == k)
    line("ALL", fam >= 0); line("ALL but hit events", fam != FAMILY_NAMES.index("hit event"))


def report_combat(sim, replays):
    """One step from the true state: are the right hits predicted, and with the right numbers?
    A true hit: percent rises by more than .5 and hitlag starts, the victim not being thrown nor pummelled (223-243).
    Recall and precision allow one frame of slack (hurtboxes are not public, so a mock's are approximate);
    damage, launch speed, hitlag and hitstun are read where both say 'hit' on the same frame."""
    true = pred = hit = right = both = thrown = 0; dmg, kb, lag, stun = [], [], [], []
    near = lambda m: m | np.roll(m, 1, 0) | np.roll(m, -1, 0)
    for name, S, I, stage, ids in replays:
        N, T, ok = S[:-1], S[1:], frame_ok(S, ids, getattr(sim, "CHARS", None)).all(1)[:, None]
        P = step_rows(sim, N, I[1:], stage)
        free = ok & ((T["action"] < 223) | (T["action"] > 243)) & (T["action"] > 13)
        t = free & (T["percent"] > N["percent"] + .5) & (T["hitlag"] > 0)
        q = free & (P["percent"] > N["percent"] + .5)
        m = t & q
        true, pred, both = true + t.sum(), pred + q.sum(), both + m.sum()
        hit, right = hit + (t & near(q)).sum(), right + (q & near(t)).sum()
        release = (N["action"] >= 239) & (N["action"] <= 242) & (T["percent"] > N["percent"] + .5)
        thrown += (q & release & ~near(t)).sum()
        dmg.append(np.abs(P["percent"] - T["percent"])[m])
        speed = lambda z: np.hypot(z["kb_vx"], z["kb_vy"])[m]
        moving = speed(T) > 1e-3
        kb.append((np.abs(speed(P) - speed(T)) / np.maximum(speed(T), 1e-3))[moving])
        lag.append(np.abs(P["hitlag"] - T["hitlag"])[m]); stun.append(np.abs(P["hitstun"] - T["hitstun"])[m])
    if not true: return print("\ncombat: no hits in these replays")
    dmg, kb, lag, stun = (np.concatenate(v) for v in (dmg, kb, lag, stun))
    q = lambda c: f"{100 * c.mean():.1f}%" if len(c) else "-"
    print(f"\ncombat, one step: {true} true hits, {pred} predicted, {both} on the same frame; within one frame: "
          f"recall {100 * hit / true:.1f}%, precision {100 * right / max(pred, 1):.1f}%\n"
          f"  {thrown} of the predicted are releases of throws that happened, which cause no hitlag: no true hits; "
          f"precision without them {100 * right / max(pred - thrown, 1):.1f}%\n"
          f"  on the same frame: damage within .1 {q(dmg < .1)}, launch speed within 5% {q(kb < .05)}, "
          f"hitlag exact {q(lag < .5)}, hitstun within 1 {q(stun <= 1)}")


def action_name(a):
    from melee.enums import Action
    try: return Action(int(a)).name
    except ValueError: return str(int(a))


def report_worst(R, n):
    nm, c, e = action_name, collections.Counter(), collections.Counter()
    ev = FAMILY_NAMES.index("hit event")
    bad = ((R[1] > .1) | (R[2] > .1)) & (R[0] != ev)
    for j in np.where(bad)[0]: c[(R[6, j], R[7, j], R[8, j])] += 1
    for j in np.where((R[3] == 0) & (R[0] != ev))[0]: e[(R[6, j], R[7, j], R[8, j])] += 1
    print(f"\nposition wrong by > 0.1: {bad.mean():.2%} of frames; largest groups (from -> true next | predicted next)")
    for (a, b, p), k in c.most_common(n): print(f"  {k:6d}  {nm(a):>26s} -> {nm(b):<26s} | {nm(p)}")
    print("action wrong; largest groups")
    for (a, b, p), k in e.most_common(n): print(f"  {k:6d}  {nm(a):>26s} -> {nm(b):<26s} | {nm(p)}")


def free_running(sim, replays, ks=(10, 30, 60), stride=20, far=1., show=0):
    """Roll from the true state at t with the true inputs of both players; error of the position at t+k.
    'clean' windows: nobody is hit, grabbed or dies before t+k (a movement-only mock can only be judged there);
    'moving': clean, and the player's true path over the window is at least .3 units a frame (idlers are free points).
    Also counts which family a clean window was in when its error first passed `far` units."""
    out, first, cause = {k: [] for k in ks}, np.zeros(len(FAMILY_NAMES), int), collections.Counter()
    for name, S, I, stage, ids in replays:
        alive, scored = frame_ok(S, ids, None).all(1), frame_ok(S, ids, getattr(sim, "CHARS", None))
        ev, kmax = hit_event(S[:-1], S[1:]), max(ks)
        t0 = np.arange(0, len(S) - kmax - 1, stride); t0 = t0[alive[t0]]
        if not len(t0): continue
        s, m = S[t0].copy(), scored[t0]
        dirty, path, gone = np.zeros((len(t0), 2), bool), np.zeros((len(t0), 2)), np.zeros((len(t0), 2), bool)
        miss = np.full((len(t0), 2, 3), -1)  # first action mismatch: action before, true, simulated
        for k in range(1, kmax + 1):
            s = sim.step(s, I[t0 + k].copy(), stage)
            T, before = S[t0 + k], S[t0 + k - 1]
            dirty |= ev[t0 + k - 1].any(1, keepdims=True) | (T["action"] <= 13) | (T["stocks"] < 1)
            path += np.hypot(T["x"] - before["x"], T["y"] - before["y"])
            err = np.hypot(s["x"] - T["x"], s["y"] - T["y"])
            wrong = (s["action"] != T["action"]) & (miss[:, :, 0] < 0)
            miss[wrong] = np.stack([before["action"], T["action"], s["action"]], -1)[wrong]
            new = (err > far) & ~gone & ~dirty & m
            np.add.at(first, FAMILY[np.minimum(T["action"][new], 511)], 1)
            for w in miss[new]: cause[tuple(w)] += 1
            gone |= err > far
            if k in out: out[k].append(np.stack([err[m], dirty[m], (s["action"] == T["action"])[m], path[m] / k]))
    print(f"\nfree running from every {stride}th frame with the true inputs of both: position error after k frames")
    print(f"{'k':>4s}  {'windows':16s}{'number':>8s}{'median':>9s}{'p75':>9s}{'p90':>9s}{'<1 unit':>9s}{'action':>9s}")
    for k in ks:
        e, d, a, v = np.concatenate(out[k], 1)
        for name, c in (("all", d >= 0), ("clean", d == 0), ("clean, moving", (d == 0) & (v >= .3))):
            if c.any(): print(f"{k:4d}  {name:16s}{c.sum():8d}{np.median(e[c]):9.3f}{np.percentile(e[c], 75):9.2f}"
                              f"{np.percentile(e[c], 90):9.2f}{100 * np.mean(e[c] < 1):9.1f}{100 * a[c].mean():9.1f}")
    n = max(first.sum(), 1)
    print("first divergence of clean windows by family: "
          + ", ".join(f"{FAMILY_NAMES[k]} {100 * first[k] / n:.0f}%" for k in np.argsort(-first)[:9] if first[k]))
    if show:
        print("... and by the first action mismatch before it (from -> true | simulated; none: motion only)")
        for (a, b, p), k in cause.most_common(show):
            what = "none" if a < 0 else f"{action_name(a)} -> {action_name(b)} | {action_name(p)}"
            print(f"  {100 * k / n:5.1f}%  {what}")


class hold:
    """baseline: keep action and velocity"""
    CHARS = None
    @staticmethod
    def step(state, inputs, stage):
        s = state.copy()
        air = s["airborne"] == 1
        move = s["hitlag"] <= 1
        s["x"] += move * (np.where(air, s["air_vx"], s["ground_vx"]) + s["kb_vx"])
        s["y"] += move * np.where(air, s["vy"] + s["kb_vy"], 0)
        return s


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("replays", nargs="+"); ap.add_argument("--sim", default="hold")
    ap.add_argument("--by", choices=["dst", "src"], default="dst", help="family of the true next / current action")
    ap.add_argument("--worst", type=int, default=0); ap.add_argument("--no-free", action="store_true")
    a = ap.parse_args()
    if a.sim == "hold": sim = hold
    else:
        # import by its own name: numba's on-disk cache refuses a module that changes names
        sys.path.insert(0, os.path.dirname(os.path.abspath(a.sim)))
        sim = importlib.import_module(os.path.splitext(os.path.basename(a.sim))[0])
    replays = []
    for path in a.replays:
        try: replays.append((path, *load_replay(path)))
        except (ValueError, OSError) as e: print(f"skipped {path}: {e}")
    n = sum(len(r[1]) for r in replays)
    print(f"{len(replays)} replays, {n} frames; stages {sorted({r[3] for r in replays})}, "
          f"characters {sorted({int(c) for r in replays for c in np.unique(r[1]['char'])})}")
    R = teacher_forced(sim, replays, a.by)
    report_families(R, f"one step from the true state ({R.shape[1]} player-frames), family of the true "
                       + ("next action" if a.by == "dst" else "current action"))
    report_combat(sim, replays)
    if a.worst: report_worst(R, a.worst)
    if not a.no_free: free_running(sim, replays, show=a.worst)


if __name__ == "__main__": main()

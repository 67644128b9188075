"""Codec, observation and networks: what would be silently wrong if it broke."""

import copy
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from cleanmelee.cli import UserError
from cleanmelee.controller import (
    ACTION_SIZE, HEADS, NUM_LOGITS, STICK_GRID, STICK_NEUTRAL, STICK_TABLE, decode_actions, encode_controllers,
    mirrored,
)
from cleanmelee.features import FEATURES, FLOAT_NAMES, FLOATS, IDS, NUM_FLOATS, NUM_INTS, OWN_CONTROLLER
from cleanmelee.frame import CONTROLLER, FRAME, NUM_ITEMS
from cleanmelee.observation import Observation, observe
from melee_common import (
    BACKBONES, Policy, StackedPolicies, action_logprobs, load_checkpoint, load_policy, parse_hidden, reset_state,
    save_checkpoint, to_torch,
)
from helpers import random_actions, random_frames, random_observation


# ---------------------------------------------------------------------------------------------------------------- codec

def test_codec_round_trip_is_exact_on_its_grid():
    inside = [(x, y) for x in range(17) for y in range(17) if np.hypot(STICK_GRID[x], STICK_GRID[y]) <= 1]
    actions = np.zeros((len(inside), ACTION_SIZE), np.int8)
    actions[:, 8:10] = inside
    actions[:, 10:12] = inside[::-1]
    actions[:, 12] = np.arange(len(inside)) % 5
    actions[:, :8] = (np.arange(len(inside))[:, None] >> np.arange(8)) & 1
    assert np.array_equal(encode_controllers(decode_actions(actions)), actions)


def test_decoded_sticks_are_legal_controllers():
    assert (np.hypot(STICK_TABLE[..., 0], STICK_TABLE[..., 1]) <= 1).all()
    steps = STICK_TABLE * 80
    assert np.abs(steps - np.rint(steps)).max() < 1e-4                      # the game's own steps of 1/80
    moved = np.abs(STICK_TABLE) > 0
    assert (np.abs(STICK_TABLE[moved]) >= 22.9 / 80).all()                  # never in the dead zone


def test_codec_error_is_bounded_for_every_legal_stick():
    axis = np.concatenate([np.arange(-80, -22), [0], np.arange(23, 81)]) / np.float32(80)  # |x| < 23 is the dead zone
    x, y = np.meshgrid(axis, axis)
    legal = np.hypot(x, y) <= 1
    controllers = np.zeros(legal.sum(), CONTROLLER)
    controllers["main_x"], controllers["main_y"] = x[legal], y[legal]
    decoded = decode_actions(encode_controllers(controllers))
    error = np.hypot(decoded["main_x"] - controllers["main_x"], decoded["main_y"] - controllers["main_y"])
    assert error.max() < .1


@pytest.mark.parametrize("threshold", [23, 49, 53, 56, 64])                 # dead zone, crouch, tap jump, roll, dash
def test_no_stick_position_crosses_a_threshold(threshold):
    """On either axis, whatever the other one does, as long as both fit into the circle."""
    axis = np.concatenate([np.arange(-80, -22), [0], np.arange(23, 81)])
    x, y = np.meshgrid(axis, axis)
    controllers = np.zeros((np.hypot(x, y) <= 80).sum(), CONTROLLER)
    inside = np.hypot(x, y) <= 80
    controllers["main_x"], controllers["main_y"] = x[inside] / 80, y[inside] / 80
    decoded = decode_actions(encode_controllers(controllers))
    for axis_name, true in (("main_x", x[inside]), ("main_y", y[inside])):
        crossed = (np.abs(decoded[axis_name] * 80) > threshold - .5) != (np.abs(true) >= threshold)
        assert crossed.mean() < .002, axis_name                             # only where the grid leaves the circle


def test_codec_neutral():
    neutral = encode_controllers(np.zeros((), CONTROLLER))
    assert neutral[:8].sum() == 0 and (neutral[8:12] == STICK_NEUTRAL).all() and neutral[12] == 0


# ---------------------------------------------------------------------------------------------------------- observation

def test_observation_shows_each_player_itself_first():
    rng = np.random.default_rng(0)
    frames, controllers = random_frames(rng, 5), decode_actions(random_actions(rng, 5, 2))
    obs = observe(frames, controllers)
    assert obs.floats.shape == (5, 2, NUM_FLOATS) and obs.ints.shape == (5, 2, NUM_INTS)
    swapped = frames.copy()
    for who in ("players", "nanas", "stored"):
        swapped[who] = frames[who][:, ::-1]
    owner = frames["items"]["owner"]
    swapped["items"]["owner"] = np.where(owner < 0, owner, 1 - owner)
    other = observe(swapped, controllers[:, ::-1])
    assert np.array_equal(other.floats, obs.floats[:, ::-1]) and np.array_equal(other.ints, obs.ints[:, ::-1])
    side = np.where(mirrored(frames), -1, 1)                                # [N, 2]
    assert len(np.unique(side)) == 2
    assert np.allclose(obs.floats[..., FLOAT_NAMES.index("player.x")], side * frames["players"]["x"] * .03)
    assert (obs.ints[:, 1, 0] == frames["players"]["action"][:, 1]).all()
    for player in (0, 1):
        mine = [FLOAT_NAMES.index(f"item{slot}.mine") for slot in range(8)]
        assert np.array_equal(obs.floats[:, player, mine], (owner == player) & (frames["items"]["present"] > 0))
        opponent = frames["players"]["x"][:, 1 - player] - frames["players"]["x"][:, player]
        assert np.allclose(
            obs.floats[:, player, FLOAT_NAMES.index("opponent.dx")], np.abs(opponent) * .03, atol=1e-4)
        assert np.array_equal(
            obs.floats[:, player, OWN_CONTROLLER][:, 0], side[:, player] * controllers["main_x"][:, player])


def test_observation_hides_the_opponents_controller():
    rng = np.random.default_rng(1)
    frames, controllers = random_frames(rng, 5), decode_actions(random_actions(rng, 5, 2))
    changed = controllers.copy()
    changed[:, 1] = decode_actions(random_actions(rng, 5))
    a, b = observe(frames, controllers), observe(frames, changed)
    assert np.array_equal(a.floats[:, 0], b.floats[:, 0]) and not np.array_equal(a.floats[:, 1], b.floats[:, 1])


def test_observation_survives_ids_out_of_range():
    frames = np.zeros(1, FRAME)
    frames["players"]["action"] = [-1, 32000]
    frames["items"]["type"] = 9999
    obs = to_torch(observe(frames, np.zeros((1, 2), CONTROLLER)))
    policy = Policy("mlp", (8,))
    assert torch.isfinite(policy.embedding(obs)).all()


def test_empty_item_slots_are_left_out_and_no_other(monkeypatch):
    """What learns looks at as many slots as the fullest of its frames uses, and sees what it would see in all."""
    policy, obs = Policy("mlp", (8,)), random_observation(0, 6)
    present = [FLOAT_NAMES.index(f"item{slot}.present") for slot in range(NUM_ITEMS)]
    looked_at = []
    forward = policy.embedding.item.forward
    monkeypatch.setattr(policy.embedding.item, "forward", lambda x: looked_at.append(x.shape[-2]) or forward(x))
    for counts, most in (([0, 2, 1, 0, 0, 0], 2), ([0] * 6, 0), ([0, 0, 0, 0, 0, NUM_ITEMS], NUM_ITEMS)):
        obs.floats[:, present] = (torch.arange(NUM_ITEMS) < torch.tensor(counts)[:, None]).float()
        whole = policy.features(obs, ())[0]
        frames = Observation(obs.floats[:, None], obs.ints[:, None])
        assert torch.allclose(policy.unroll(frames, (), torch.zeros(6, 1))[0][:, 0], whole, atol=1e-6)
        assert looked_at == [NUM_ITEMS, most]
        looked_at.clear()


# --------------------------------------------------------------------------------------------------------------- policy

OPTIONS = {"mlp": {}, "gru": {"num_layers": 2}, "lstm": {}, "transformer": {"num_heads": 2, "window_size": 5},
           "hybrid": {"num_layers": 3, "num_heads": 2, "window_size": 5}, "mamba": {"conv_size": 3}}


def loud(backbone, **config):
    """Random weights in every layer: none is at its start, where it might do nothing."""
    torch.manual_seed(0)
    policy = Policy(backbone, (24, 16), **OPTIONS[backbone] | config).eval()
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(torch.randn_like(p) * .1)
    return policy


@pytest.mark.parametrize("late, shown", [(0, {}), (6, {"players": ["A", "B"], "player": 2, "ablate": ["item", "x"]})])
@pytest.mark.parametrize("backbone", ["mlp", "gru", "transformer"])
def test_a_decision_in_numpy_is_that_of_torch(backbone, late, shown):
    """Actions, memory, log-probabilities and values; also after the weights have changed, and of a copy."""
    torch.manual_seed(1)
    policy = Policy(backbone, (24, 32), frame_delay=late, **shown).requires_grad_(False)
    state = other = policy.initial_state(40)
    for seed in range(3):
        obs, queue = random_observation(seed, 40), torch.randn(40, policy.num_floats - NUM_FLOATS)
        obs = Observation(torch.cat([obs.floats, queue], 1), obs.ints)
        for p in policy.parameters():
            p += .1 * torch.randn_like(p)
        for noise in (torch.rand(40, NUM_LOGITS), None):
            actions, after, *judged = policy.act(obs, state, noise)
            plain, also_after, *also_judged = policy.act_plainly(obs, other, noise)
            assert (actions.numpy() == plain).all() and plain.dtype == np.int8
            assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(after, also_after, strict=True))
            for mine, theirs in zip(judged, also_judged, strict=True):
                assert np.allclose(mine.numpy(), theirs, atol=1e-4)
        state, other, policy = after, also_after, copy.deepcopy(policy)


def test_what_is_ablated_is_not_seen(tmp_path):
    """Whole groups, one feature, ids too, and of the controller also what waits; and none but these."""
    policy = loud("mlp", ablate=["controller", "item", "opponent.action", "percent"], frame_delay=2)
    save_checkpoint(tmp_path / "blind.pt", policy)
    again = load_policy(tmp_path / "blind.pt")[0]
    assert again.config == policy.config
    rows = Observation(torch.randn(50, policy.num_floats), random_observation(2, 50).ints)
    hidden = {f.name: any(word in f.name for word in ("controller.", "item", "opponent.action", "percent"))
              for f in FEATURES} | {"opponent.action_frame": False}
    places = [*((f.name, 0, k) for k, f in enumerate(FLOATS)), *((f.name, 1, k) for k, f in enumerate(IDS)),
              *(("controller.main_x", 0, k) for k in range(NUM_FLOATS, policy.num_floats))]
    for name, part, column in places:
        seen = Observation(*(x.clone() for x in rows))
        seen[part][:, column] += 1
        one, two = (again.features(x, ())[0] for x in (rows, seen))
        assert torch.equal(one, two) == hidden[name], name
    for wrong in ("percents", "", "per", 3):
        with pytest.raises(UserError, match="^unknown feature .*: choose a name of docs/observation.md"):
            Policy("mlp", (8,), ablate=[wrong])
    with pytest.raises(UserError, match="^ablate 'percent': must be names"):
        Policy("mlp", (8,), ablate="percent")


@pytest.mark.parametrize("backbone", BACKBONES)
def test_step_equals_unroll_across_resets(backbone):
    """Also where a stretch begins in the middle of a game, and is longer than a window, a conv or a chunk of a scan."""
    policy = loud(backbone)
    T, B = 60, 5
    obs = random_observation(2, T, B)
    resets = torch.rand(T, B) < .08
    resets[:, 0] = False                                                    # one long game
    state = carried = policy.initial_state(B)
    with torch.no_grad():
        for a, b in ((0, 7), (7, 9), (9, 50), (50, T)):
            seen = Observation(obs.floats[a:b], obs.ints[a:b])
            unrolled, carried = policy.unroll(seen, carried, resets[a:b])
            for t in range(a, b):
                state = reset_state(state, resets[t])
                features, state = policy.features(Observation(obs.floats[t], obs.ints[t]), state)
                torch.testing.assert_close(features, unrolled[t - a], atol=1e-5, rtol=1e-5)
            for one, other in zip(state, carried, strict=True):
                torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_nothing_is_seen_before_it_happens_nor_across_a_reset(backbone):
    policy = loud(backbone)
    obs = random_observation(3, 40, 2)
    resets = torch.zeros(40, 2, dtype=torch.bool)
    resets[21] = True

    def changed_by(frame):
        """[40] does what is seen at `frame` change the features of each frame?"""
        other = Observation(obs.floats.clone(), obs.ints)
        other.floats[frame] += 1
        with torch.no_grad():
            one, two = (policy.unroll(seen, policy.initial_state(2), resets)[0] for seen in (obs, other))
        return ((one - two).abs() > 1e-5).any(-1).all(-1).numpy()           # a scan sums up otherwise, to a rounding

    for frame in (3, 20, 21, 30):
        changed = changed_by(frame)
        assert changed[frame] and not changed[:frame].any()
        if frame < 21:
            assert not changed[21:].any()
    assert changed_by(3)[4] == (backbone != "mlp")                          # what remembers does
    if backbone == "transformer":
        assert np.flatnonzero(changed_by(3)).tolist() == list(range(3, 3 + 2 * 5 - 1))  # two windows, of two layers


@pytest.mark.parametrize("backbone", BACKBONES)
def test_stacked_policies_act_as_each_does_alone(backbone):
    policies = [loud(backbone), Policy(backbone, (24, 16), **OPTIONS[backbone])]
    obs, noise = [random_observation(k, rows) for k, rows in enumerate((3, 5))], [torch.rand(3, 81), torch.rand(5, 81)]
    alone = together = [policy.initial_state(rows) for policy, rows in zip(policies, (3, 5), strict=True)]
    stacked = StackedPolicies(policies)
    with torch.no_grad():
        for _ in range(7):
            actions, alone, *judged = zip(*map(lambda p, *rest: p.act(*rest), policies, obs, alone, noise), strict=True)
            others, together, *also = zip(*stacked.act(obs, together, noise), strict=True)
            assert all(map(torch.equal, actions, others))
            for one, other in zip(sum((*alone, *judged), ()), sum((*together, *also), ()), strict=True):
                torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backbone, given, rule", [
    ("mlp", {"num_layers": 2}, "--num-layers: not an option of mlp"),
    ("transformer", {"num_heads": 3}, "--num-heads 3"), ("gru", {"num_layers": 0}, "between 1 and 64"),
    ("mamba", {"conv_size": 1}, "--conv-size 1"),
    ("lstm", {"num_layers": True}, "whole number"), ("hybrid", {"window_size": 65536}, "numbers of every game")])
def test_impossible_options_are_told(backbone, given, rule):
    with pytest.raises(UserError, match=rule):
        Policy(backbone, (24, 16), **given)


def test_gru_remembers_and_forgets_at_a_reset():
    torch.manual_seed(0)
    policy = Policy("gru", (16,)).eval()
    obs = random_observation(3, 4, 1)
    past = Observation(obs.floats.clone(), obs.ints)
    past.floats[0] += 1
    none = torch.zeros(4, 1, dtype=torch.bool)
    reset = none.clone()
    reset[2] = True
    run = lambda o, r: policy.unroll(o, policy.initial_state(1), r)[0]
    assert not torch.allclose(run(obs, none)[3], run(past, none)[3])
    assert torch.equal(run(obs, reset)[3], run(past, reset)[3])


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_parameter_learns(backbone):
    torch.manual_seed(0)
    policy = Policy(backbone, (16, 16), **OPTIONS[backbone])
    optimizer = torch.optim.Adam(policy.parameters(), 1e-2)
    before = {name: p.detach().clone() for name, p in policy.named_parameters()}
    for seed in range(3):                                                # zero-initialised residuals need a second step
        obs = random_observation(seed, 6, 8)
        actions = torch.from_numpy(random_actions(np.random.default_rng(seed), 6, 8))
        features, _ = policy.unroll(obs, policy.initial_state(8), torch.zeros(6, 8, dtype=torch.bool))
        logprob, _ = action_logprobs(policy.logits(features, actions), actions)
        loss = -logprob.sum(-1).mean() + (policy.value(features) - 1).square().mean()
        optimizer.zero_grad(), loss.backward(), optimizer.step()
    still = [name for name, p in policy.named_parameters() if torch.equal(p, before[name])]
    assert not still


def test_sampling_follows_the_heads_probabilities():
    """Frequencies of sampled actions against the teacher-forced log-probabilities of the very same actions."""
    torch.manual_seed(0)
    policy = Policy("mlp", (16,))
    for p in policy.controller_head.parameters():
        torch.nn.init.normal_(p, std=.3)                                    # residuals that matter
    obs = random_observation(4, 1)
    B = 40_000
    many = Observation(obs.floats.expand(B, -1), obs.ints.expand(B, -1))
    with torch.no_grad():
        actions, _ = policy.step(many, (), torch.rand(B, NUM_LOGITS))
        features = policy.features(many, ())[0]
        logits = policy.logits(features, actions)
        logprobs, entropy = action_logprobs(logits, actions)
    # E[-log p] under the samples is the entropy, for each head, residuals included
    assert torch.allclose(-logprobs.mean(0), entropy.mean(0), atol=.03)
    pressed = actions[:, :8].float().mean(0)
    assert torch.allclose(pressed, logits[0, :8].sigmoid(), atol=.015)
    # main_x given the first button: the residual changes it, and the samples follow
    for a in (0, 1):
        rows = actions[:, 0] == a
        expected = logits[rows][:, 8:25].softmax(-1).mean(0)
        found = torch.bincount(actions[rows, 8], minlength=17) / rows.sum()
        assert torch.allclose(found, expected, atol=.03)


def test_same_noise_same_action_and_none_is_the_mode():
    torch.manual_seed(0)
    policy = Policy("mlp", (16,)).eval()
    obs, noise = random_observation(5, 32), torch.rand(32, NUM_LOGITS)
    with torch.no_grad():
        assert torch.equal(policy.step(obs, (), noise)[0], policy.step(obs, (), noise)[0])
        mode = policy.step(obs, (), None)[0]
    assert (mode[:, 8:12] == STICK_NEUTRAL).all()                           # a fresh policy mostly rests
    for extreme in (torch.zeros(32, NUM_LOGITS), torch.ones(32, NUM_LOGITS)):
        policy.step(obs, (), extreme)                                       # clamped, never nan


def test_fresh_policy_presses_about_as_often_as_people():
    torch.manual_seed(0)
    policy = Policy("mlp", (64, 64))
    with torch.no_grad():
        actions, _ = policy.step(random_observation(6, 20_000), (), torch.rand(20_000, NUM_LOGITS))
    rates = actions[:, :8].float().mean(0)
    assert (rates < .15).all() and rates[0] > .02
    assert .25 < (actions[:, 8] == STICK_NEUTRAL).float().mean() < .45


def test_logits_cover_the_heads():
    assert NUM_LOGITS == sum(HEADS.values()) == 81


# ---------------------------------------------------------------------------------------------------------- checkpoints

@pytest.mark.parametrize("backbone", BACKBONES)
def test_checkpoint_rebuilds_the_policy(tmp_path, backbone):
    policy = loud(backbone)
    save_checkpoint(tmp_path / "a" / "p.pt", policy, step=7)
    loaded, data = load_policy(tmp_path / "a" / "p.pt")
    obs = random_observation(7, 4)
    with torch.no_grad():
        assert torch.equal(
            policy.features(obs, policy.initial_state(4))[0], loaded.features(obs, loaded.initial_state(4))[0])
    assert data["step"] == 7 and list((tmp_path / "a").iterdir()) == [tmp_path / "a" / "p.pt"]
    assert data["config"].items() >= OPTIONS[backbone].items()


def test_a_gru_from_before_it_had_layers_still_plays(tmp_path):
    path = save_checkpoint(tmp_path / "p.pt", Policy("gru", (24, 16)))
    data = torch.load(path, weights_only=True)
    assert data["config"].pop("num_layers") == 1
    torch.save(data, path)
    assert load_policy(path)[0].config["num_layers"] == 1


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = save_checkpoint(tmp_path / "p.pt", Policy("mlp", (8,)), step=1)

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        save_checkpoint(path, Policy("mlp", (8,)), step=2)
    monkeypatch.undo()
    assert load_checkpoint(path)["step"] == 1 and len(list(tmp_path.iterdir())) == 1


def test_what_is_no_file_is_never_replaced(tmp_path):
    for path in (Path("/dev/null"), tmp_path):
        with pytest.raises(UserError, match="not a regular file"):
            save_checkpoint(path, Policy("mlp", (8,)))


def test_weights_that_are_no_numbers_are_neither_saved_nor_loaded(tmp_path):
    policy = Policy("mlp", (8,))
    path = save_checkpoint(tmp_path / "p.pt", policy)
    data = torch.load(path, weights_only=True)
    policy.value_head.weight.data[0, 0] = torch.nan
    with pytest.raises(UserError, match="finite"):
        save_checkpoint(path, policy)
    torch.save(data | {"policy": policy.state_dict()}, tmp_path / "nan.pt")
    with pytest.raises(UserError, match="finite"):
        load_policy(tmp_path / "nan.pt")
    assert load_checkpoint(path)


def test_bad_checkpoints_are_told_in_one_line(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    path = save_checkpoint(tmp_path / "p.pt", Policy("mlp", (8,)))
    data = torch.load(path, weights_only=True)
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "half.pt").write_bytes(path.read_bytes()[:2000])
    torch.save(data | {"schema": "other"}, tmp_path / "schema.pt")
    torch.save(data | {"config": data["config"] | {"hidden": [9]}}, tmp_path / "sizes.pt")
    torch.save(data | {"evil": Evil()}, tmp_path / "evil.pt")
    torch.save(data | {"policy": {3: 3}}, tmp_path / "types.pt")
    torch.save(data | {"config": data["config"] | {"action_repeat": "abc"}}, tmp_path / "repeat.pt")
    torch.save(data | {"format": 99, "versions": None}, tmp_path / "format.pt")
    for name in ("missing", "empty", "half", "schema", "sizes", "evil", "types", "repeat", "format"):
        with pytest.raises(UserError) as error:
            load_policy(tmp_path / f"{name}.pt")
        assert name in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "owned").exists()


def repacked(path, other, edit):
    """A copy of an archive whose entries went through edit(name, content) -> (content, compression)."""
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(other, "w") as copy:
        for name in archive.namelist():
            copy.writestr(name, *edit(name, archive.read(name)))
    return other


def test_no_checkpoint_costs_more_than_its_size_or_ends_the_process(tmp_path):
    path = save_checkpoint(tmp_path / "p.pt", Policy("mlp", (8,)))
    pickles = {
        "deep": b"}K\x01" + b"\x85" * 1_000_000 + b"K\x01s.",               # hashed recursively: a crash
        "buffer": b"c__builtin__\nbytearray\n\x8a\x05\0\0\0\0\x04\x85R.",   # 16 GiB
        "tensor": b"ctorch\nTensor\n\x8a\x05\0\0\0\0\x04\x85R.",
        "nest": b"](K\x01K\x01e" + b"".join(b"q%c](h%ch%ce" % (k, k, k) for k in range(40)) + b"."}
    for name, pickle in pickles.items():
        repacked(path, tmp_path / f"{name}.pt", lambda entry, content: (
            b"\x80\x02" + pickle if entry.endswith("data.pkl") else content, zipfile.ZIP_STORED))
    repacked(path, tmp_path / "zeros.pt", lambda entry, content: (bytes(10 ** 7), zipfile.ZIP_DEFLATED))
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "loop.pt").symlink_to(tmp_path / "loop.pt")
    for name in (*pickles, "zeros", "pipe", "loop"):
        with pytest.raises(UserError, match=name):
            load_policy(tmp_path / f"{name}.pt")
    with pytest.raises(UserError, match="not a regular file"):
        load_policy("/dev/zero")


def test_every_field_of_a_checkpoint_has_its_type(tmp_path):
    path = save_checkpoint(tmp_path / "p.pt", Policy("mlp", (8,)), step=3)
    data = torch.load(path, weights_only=True)
    config, weights = data["config"], data["policy"]
    name = "value_head.weight"
    one = weights[name]
    large = {name: value for name, value in config.items() if name != "backbone"} | {"hidden": [512]}
    for changed in (
            {"versions": 3}, {"versions": [1]}, {"format": torch.ones(2)}, {"schema": torch.ones(2)}, {"step": -1},
            {"step": 2 ** 70}, {"step": 1.5}, {"stage": 3}, {"args": []}, {"extra": torch.zeros(1).expand(10 ** 10)},
            {"config": config | {"hidden": [30_000, 30_000]}}, {"config": config | {"hidden": [1] * 100_000}},
            {"config": config | {"hidden": [True]}}, {"config": config | {"backbone": ["mlp"]}},
            {"config": config | {"action_repeat": 0}}, {"config": config | {"frame_delay": 10 ** 9}},
            {"config": config | {"more": 1}}, {"config": config | {"num_layers": 2}},
            {"config": {"backbone": "mamba", **large, "num_layers": 10 ** 9}},
            {"config": {"backbone": "hybrid", **large, "window_size": 2 ** 16}},
            {"policy": weights | {name: one.double()}}, {"policy": weights | {name: one.to_sparse()}},
            {"policy": weights | {name: one.to("meta")}},
            {"policy": weights | {name: one[..., :-1]}}, {"policy": weights | {name: 3}},
            {"policy": weights | {name: torch.nn.Parameter(one)}}, {"policy": weights | {"more": one}},
            {"policy": weights | {name: one * torch.inf}}, {"policy": {k: x * 1e37 for k, x in weights.items()}}):
        torch.save(data | changed, tmp_path / "changed.pt")
        with pytest.raises(UserError, match="changed.pt") as error:
            load_policy(tmp_path / "changed.pt")
        assert "\n" not in str(error.value) and len(str(error.value)) < 600
    with pytest.raises(ValueError, match="own"):
        save_checkpoint(path, Policy("mlp", (8,)), action_repeat=3)


@pytest.mark.parametrize("text", ["", "a", "64,", "0", "-4,8", "64;64"])
def test_bad_hidden_sizes(text):
    with pytest.raises(UserError, match="--hidden"):
        parse_hidden(text)

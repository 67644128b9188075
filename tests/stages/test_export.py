"""The exported policy is the policy: the same actions from the same noise, the same state, and a file that says what it
is."""

import copy
import hashlib
import json
import re
import resource
import shutil
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import bench_distill
import bench_export
import export_onnx
import results
from export_onnx import Args, cut, export, parity
from cleanmelee import quantisation
from cleanmelee.backbones import BACKBONES
from cleanmelee.cli import UserError, run_script
from cleanmelee.controller import NUM_LOGITS, decode_actions, mirrored
from cleanmelee.features import FLOATS, IDS, NUM_FLOATS, NUM_INTS
from cleanmelee.files import read_json
from cleanmelee.frame import CHARACTERS, CONTROLLER
from cleanmelee.observation import Observation, observe, schema_hash
from cleanmelee.onnx import load_player, onnx_session
from cleanmelee.player import TorchPolicy
from cleanmelee.quantisation import (
    Quantiser, Result, agreement, choose_layers, game_frames, layers, measure, replay_frames,
)
from cleanmelee.reference import ReferencePolicy, pack_weights
from helpers import ROOT, random_frames, write_games
from melee_common import Policy, save_checkpoint

OPTIONS = {"gru": {"num_layers": 2}, "transformer": {"num_heads": 2, "window_size": 9},
           "hybrid": {"num_heads": 2, "window_size": 9, "num_layers": 3}, "mamba": {"state_size": 4, "conv_size": 3}}
STEPS = 40


def make_policy(backbone, hidden, scale=.1, **config):
    """Random weights in every layer: a fresh policy's zero residuals and small heads would hide mistakes."""
    torch.manual_seed(0)
    policy = Policy(backbone, hidden, **config).eval()
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(torch.randn_like(p) * scale)
    return policy


@pytest.fixture(scope="module", params=["mlp", "gru"])
def exported(request):
    shown = {"players": ("A", "B"), "player": 2, "ablate": ("nana", "percent")} if request.param == "mlp" else {}
    policy = make_policy(request.param, (24, 16), **shown)
    return policy, export(policy)


@pytest.fixture(scope="module")
def frames():
    """Of a policy against itself: to calibrate by, to measure by."""
    return game_frames(make_policy("gru", (16,)), STEPS, CHARACTERS["mewtwo"], seed=1)


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(export_onnx, "export", small_export)
    monkeypatch.setattr(export_onnx, "LATENCY_STEPS", 20)
    policy = make_policy("gru", (16,), action_repeat=3)
    return save_checkpoint(tmp_path / "policy.pt", policy, args={"character": "fox"})


SMALL = []                                                                  # the export of its policy


def small_export(policy):
    """`export`, for seconds, and after that what it gave for the same weights."""
    if not SMALL:
        SMALL.append(export(policy))
    return copy.deepcopy(SMALL[0])


def ready(model):
    return onnx_session(model.SerializeToString())


def feed(obs, noise, deterministic, state):
    B = len(noise)
    return {"floats": obs.floats, "ints": obs.ints, "noise": noise, "deterministic": np.full(B, deterministic),
            **{f"state_{k}": part for k, part in enumerate(state)}}


def noise_for(rows):
    return np.random.default_rng(2).random((rows, NUM_LOGITS), np.float32)


def random_obs(rng, rows):
    return Observation(rng.normal(size=(rows, NUM_FLOATS)).astype(np.float32),
                       rng.integers(0, 60, (rows, NUM_INTS)).astype(np.int16))


# ------------------------------------------------------------------------------------------------------------ the step

def test_same_noise_same_actions_and_state(exported, frames):
    policy, model = exported
    error = parity(policy, model, frames[1])
    assert error["actions"] == 0 and error["states"] < 1e-5 and error["logits"] < 1e-4


def test_a_step_is_few_operations(exported):
    """What a small network's step takes is mostly their number; as torch exports it an mlp of two layers has 98, and
    this one has a lens too."""
    policy, model = exported
    assert len(cut(model, {}).graph.node) <= {"mlp": 80, "gru": 93}[policy.config["backbone"]]


def test_parity_sees_a_wrong_export(exported, frames):
    policy, model = exported
    error = parity(make_policy(policy.config["backbone"], policy.config["hidden"], scale=.12), model, frames[1])
    assert error["actions"] > 0 and error["logits"] > 1e-3


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_any_batch_size_and_the_most_likely_action(exported, rows):
    policy, model = exported
    player, session, rng = TorchPolicy(policy), ready(cut(model, {})), np.random.default_rng(rows)
    obs, noise = random_obs(rng, rows), noise_for(rows)
    state = tuple(rng.standard_normal(s.shape, np.float32) for s in player.initial_state(rows))
    for given, deterministic in ((noise, False), (None, True)):
        actions, after = player.step(obs, state, given)
        got, *got_after = session.run(None, feed(obs, noise, deterministic, state))
        assert got.dtype == np.int64 and np.array_equal(got, actions)
        for a, b in zip(after, got_after, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


def test_each_row_is_deterministic_or_not(exported):
    policy, model = exported
    player, session = TorchPolicy(policy), ready(cut(model, {}))
    obs, noise, state = random_obs(np.random.default_rng(0), 4), noise_for(4), player.initial_state(4)
    mixed = feed(obs, noise, False, state) | {"deterministic": np.array([False, True, False, True])}
    got = session.run(None, mixed)[0]
    likely, sampled = player.step(obs, state, None)[0], player.step(obs, state, noise)[0]
    assert np.array_equal(got[1::2], likely[1::2]) and np.array_equal(got[::2], sampled[::2])
    assert not np.array_equal(likely, sampled)


def test_extreme_noise_is_clamped(exported):
    """Uniform numbers of exactly 0 and 1 happen, and must not become infinities of unlike signs."""
    policy, model = exported
    player, session = TorchPolicy(policy), ready(cut(model, {}))
    obs, state = random_obs(np.random.default_rng(0), 1), player.initial_state(1)
    for value in (0., 1.):
        noise = np.full((1, NUM_LOGITS), value, np.float32)
        got = session.run(None, feed(obs, noise, False, state))[0]
        assert np.array_equal(got, player.step(obs, state, noise)[0])


@pytest.mark.parametrize("backbone", BACKBONES)
def test_plain_numpy_agrees(backbone, tmp_path):
    """A third opinion, of torch-free code that was written from the weights alone: over forty steps, past the window of
    the attention, with noise and without."""
    shown = {"players": ("A", "B"), "player": 2, "ablate": ("controller",)} if backbone == "mlp" else {}
    policy = make_policy(backbone, (24, 16), frame_delay=2, **shown, **OPTIONS.get(backbone, {}))
    np.savez(tmp_path / "p.npz", **pack_weights(policy.config, {k: v.numpy() for k, v in policy.state_dict().items()}))
    player, reference, rng = TorchPolicy(policy), ReferencePolicy(tmp_path / "p.npz"), np.random.default_rng(3)
    state, other = player.initial_state(3), reference.initial_state(3)
    for t in range(STEPS):
        obs = random_obs(rng, 3)
        obs = Observation(np.concatenate([obs.floats, obs.floats[:, -26:]], 1), obs.ints)
        noise = None if t % 8 == 7 else rng.random((3, NUM_LOGITS), np.float32)
        actions, state = player.step(obs, state, noise)
        said, other = reference.step(obs, other, noise)
        assert np.array_equal(said, actions), t
        for mine, theirs in zip(state, other, strict=True):
            np.testing.assert_allclose(theirs, mine, atol=2e-5, rtol=1e-4)


def test_no_other_file_is_taken_for_weights(tmp_path):
    (tmp_path / "junk.npz").write_bytes(b"junk")
    np.savez(tmp_path / "foreign.npz", a=np.zeros(3))
    for name in ("junk.npz", "foreign.npz", "nowhere.npz"):
        with pytest.raises(UserError, match=name):
            ReferencePolicy(tmp_path / name)
    weights = {"layer": np.arange(100.)}
    np.savez(tmp_path / "flipped.npz", **pack_weights({}, weights))
    data = bytearray((tmp_path / "flipped.npz").read_bytes())
    data[data.index(np.float64(7).tobytes())] ^= 1                          # within the weights
    (tmp_path / "flipped.npz").write_bytes(data)
    np.savez(tmp_path / "text.npz", **weights, about=np.frombuffer(b"no JSON", np.uint8))
    np.savez(tmp_path / "list.npz", **weights, about=np.frombuffer(b"[]", np.uint8))
    np.savez(tmp_path / "other.npz", **weights, about=np.frombuffer(b'{"config": {}}', np.uint8))
    for name in ("flipped.npz", "text.npz", "list.npz", "other.npz"):
        with pytest.raises(UserError, match=f"{name}: damaged; write it again with"):
            ReferencePolicy(tmp_path / name)


# ---------------------------------------------------------------------------------------------------------- eight bits

@pytest.mark.parametrize("mode, operator", [("dynamic", "MatMulInteger"), ("static", "DequantizeLinear")])
def test_int8_is_close_and_multiplies_integers(exported, frames, mode, operator):
    policy, model = exported
    quantiser = Quantiser(model, mode, frames[0])
    small = quantiser(list(quantiser.layers))
    exact, found = measure(model, frames[1]), measure(small, frames[1])
    assert operator in {node.op_type for node in small.graph.node} and layers(small) == {}
    assert agreement(exact, found) > .9 and 0 < abs(found.loss / exact.loss - 1) < .02
    eight_bits = [tensor for tensor in small.graph.initializer if tensor.data_type == onnx.TensorProto.INT8
                  and len(tensor.dims) == 2]
    assert len(eight_bits) == len(quantiser.layers)
    scales = {tensor.name: tensor.dims for tensor in small.graph.initializer if tensor.name.endswith("_scale")}
    assert sum(len(dims) == 1 and dims[0] > 1 for dims in scales.values()) >= len(quantiser.layers) - 1    # per channel


def test_layers_that_lose_accuracy_stay_float(monkeypatch):
    """b and d cost too much; of the others all are taken."""
    cost = {"a": 0, "b": .3, "c": .005, "d": .1, "e": .001}

    class Fake:
        model, layers = [], dict.fromkeys(cost)

        def __call__(self, names):
            return names

    def fake(names, frames):
        actions = np.zeros((1000, 1, 13))
        actions[:int(1000 * sum(cost[name] for name in names))] = 1
        return Result(actions, 5. + sum(cost[name] for name in names))

    monkeypatch.setattr(quantisation, "measure", fake)
    part = type("Frames", (), {"part": lambda self, *_: self})()
    assert sorted(choose_layers(Fake(), part, .98, .01)) == ["a", "c", "e"]
    assert choose_layers(Fake(), part, .5, .2) == list("abcde")
    assert choose_layers(Fake(), part, 1.1, .01) == []


def test_frames_of_replays_are_other_games_than_those_that_calibrate(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    policy = make_policy("gru", (16,), action_repeat=3, frame_delay=2)
    calibration, frames = replay_frames(policy, write_games(tmp_path / "games", 4), 50, seed=1)
    for part in (calibration, frames):
        T, B = part.begins.shape
        assert T == 50 and part.obs.floats.shape == (T, B, policy.num_floats) and part.actions.shape == (T, B, 13)
        assert part.begins[0].all() and not part.begins[1:].any() and part.weights.mean() > .9
    seen = [{row.tobytes() for row in part.obs.floats.reshape(-1, policy.num_floats)} for part in (calibration, frames)]
    assert not seen[0] & seen[1]


def test_what_stands_past_a_games_end_does_not_count(exported, frames):
    """Neither in what is the same, nor in the ranges that a static export keeps."""
    policy, model = exported
    half = np.ones_like(frames[1].weights)
    half[STEPS // 2:] = 0
    actions = np.zeros((*half.shape, 13))
    other = actions.copy()
    other[STEPS // 2:] = 1
    assert agreement(Result(actions, 1., half), Result(other, 1., half)) == 1
    assert agreement(Result(actions, 1., 1 - half), Result(other, 1., 1 - half)) == 0
    wild = Observation(frames[1].obs.floats * (1 + 1e4 * (1 - half[..., None])), frames[1].obs.ints)
    spoiled = frames[1]._replace(obs=wild, weights=half, actions=np.where(half[..., None] > 0, frames[1].actions, 0))
    both = [Quantiser(model, "static", part) for part in (spoiled, frames[1].part(slice(STEPS // 2)))]
    files = [quantiser(list(quantiser.layers)).SerializeToString() for quantiser in both]
    assert files[0] == files[1]
    wrong = make_policy(policy.config["backbone"], policy.config["hidden"], scale=.12)
    differ = parity(wrong, model, frames[1]._replace(weights=half))["actions"]
    assert differ == parity(wrong, model, frames[1].part(slice(STEPS // 2)))["actions"] > 0


def test_replays_in_which_nobody_decides_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    games = write_games(tmp_path / "games", 4)
    monkeypatch.setattr("cleanmelee.dataset.FIRST_CONTROL_FRAME", 10 ** 6)
    with pytest.raises(UserError, match="nobody decides anything"):
        replay_frames(make_policy("mlp", (16,)), games, 50, seed=1)


def test_the_most_likely_action_of_an_export_is_checked(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(export_onnx, "MOST_LIKELY", np.full_like(export_onnx.MOST_LIKELY, .999))
    monkeypatch.setattr(export_onnx, "export", export)                      # not the one that was made before
    with pytest.raises(RuntimeError, match="most likely actions are others; nothing was written"):
        export_onnx.main(Args(str(checkpoint), str(tmp_path / "policy.onnx"), steps=8))
    assert not (tmp_path / "policy.onnx").exists()


# -------------------------------------------------------------------------------------------------------- command line

def run(monkeypatch, *flags):
    monkeypatch.setattr(sys, "argv", ["export_onnx.py", *map(str, flags)])
    run_script(export_onnx.main, Args)


@pytest.mark.parametrize("int8", ["none", "dynamic", "static"])
def test_command_line_writes_a_file_that_says_what_it_is(checkpoint, tmp_path, int8, monkeypatch, capfd):
    output = tmp_path / "new" / "folder" / "policy.onnx"
    run(monkeypatch, "--checkpoint", checkpoint, "--output", output, "--int8", int8, "--int8-gain", "smaller",
        "--steps", 8, "--character", "fox", "--seed", 5, "--npz", output.with_suffix(".npz"))
    out, err = capfd.readouterr()
    assert "of 64" in out and str(output) in out.replace("\n", "")
    assert ("of the decisions stay the same" in out) == (int8 != "none")
    assert [line for line in err.splitlines() if "compiling the embedded game" not in line] == []
    assert sorted(p.name for p in output.parent.iterdir()) == ["policy.npz", "policy.onnx"]  # no temporary file is left
    onnx.checker.check_model(str(output))
    written = onnxruntime.InferenceSession(output, providers=["CPUExecutionProvider"])
    assert [(i.name, i.type, i.shape[1:]) for i in written.get_inputs()] == [
        ("floats", "tensor(float)", [NUM_FLOATS]), ("ints", "tensor(int16)", [NUM_INTS]),
        ("noise", "tensor(float)", [NUM_LOGITS]), ("deterministic", "tensor(bool)", []),
        ("state_0", "tensor(float)", [16])]
    assert [o.name for o in written.get_outputs()] == ["actions", "next_state_0"]
    said = written.get_modelmeta().custom_metadata_map
    assert said["schema"] == schema_hash() and said["action_repeat"] == "3" and said["frame_delay"] == "0"
    assert json.loads(said["config"]) == Policy("gru", (16,), action_repeat=3).config and said["character"] == "fox"
    assert (said["players"], said["player"]) == ("[]", "0")
    assert said["checkpoint_sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert said["int8"] == int8 and "torch" in json.loads(said["versions"]) and said["opset"] == str(export_onnx.OPSET)

    obs = random_obs(np.random.default_rng(0), 5)
    chosen, others = (policy.step(obs, policy.initial_state(5), None)[0]
                      for policy in (load_player(output), ReferencePolicy(output.with_suffix(".npz"))))
    same = chosen == others
    assert same.mean() > .95 and (same.all() or int8 != "none")
    assert b".py" not in output.read_bytes()                          # nor where on whose machine it was made


@pytest.mark.parametrize("gain, us, written", [("faster", 50, "none"), ("faster", 5, "static"),
                                               ("either", 50, "static"), ("smaller", 50, "static")])
def test_int8_is_written_only_where_it_gains(checkpoint, tmp_path, gain, us, written, monkeypatch, capfd):
    monkeypatch.setattr(export_onnx, "latencies", lambda steps: {name: (us if "int8" in name else 10., 99.)
                                                                for name in steps})
    run(monkeypatch, "--checkpoint", checkpoint, "--output", tmp_path / "p.onnx", "--int8", "static", "--int8-gain",
        gain, "--steps", 8)
    err = capfd.readouterr().err
    assert load_player(tmp_path / "p.onnx").said["int8"] == written
    assert ("no gain here" in err and "50 us against 10" in err) == (written == "none")


def test_a_file_is_timed(checkpoint, tmp_path, monkeypatch, capfd):
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    checkpoint.rename(folder / "best.pt")                                   # a run's folder means its best checkpoint
    run(monkeypatch, "--checkpoint", tmp_path / "run", "--output", tmp_path / "p.onnx", "--steps", 4)
    (folder / "best.pt").unlink()
    before = capfd.readouterr().out
    run(monkeypatch, "--benchmark", tmp_path / "p.onnx")
    out = capfd.readouterr().out
    assert "parity" in before and "parity" not in out and "p50 us" in out and '"backbone": "gru"' in out


def test_nothing_is_written_when_the_export_is_wrong(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(export_onnx, "MAX_LOGIT_ERROR", 0)
    output = tmp_path / "policy.onnx"
    with pytest.raises(RuntimeError, match="nothing was written"):
        export_onnx.main(Args(str(checkpoint), str(output), steps=4))
    assert not output.exists()


def test_a_full_disk_leaves_nothing_half_written(checkpoint, tmp_path, monkeypatch, capfd):
    (tmp_path / "out").mkdir()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))          # bytes
    try:
        with pytest.raises(SystemExit) as end:
            run(monkeypatch, "--checkpoint", checkpoint, "--output", tmp_path / "out" / "p.onnx", "--steps", 4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert end.value.code == 2 and error.startswith("error: ") and "p.onnx" in error
    assert list((tmp_path / "out").iterdir()) == []


def test_what_the_exporter_lacks_is_told_in_one_line(monkeypatch):
    policy = make_policy("mlp", (8,))
    layers = policy.backbone.layers
    monkeypatch.setattr(policy.backbone, "step", lambda x, state: (torch.special.bessel_j0(layers(x)), ()))
    with pytest.raises(UserError, match="cannot turn this network into ONNX.*bessel") as error:
        export(policy)
    assert "\n" not in str(error.value)


def test_exports_are_measured_into_a_table(exported, tmp_path, monkeypatch):
    policy, model = exported
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    for name, value in (("cloned", lambda *_: policy), ("export", lambda _: model), ("STARTS", 1)):
        monkeypatch.setattr(bench_export, name, value)
    monkeypatch.chdir(tmp_path)
    backbone = policy.config["backbone"]
    bench_export.main(bench_export.Args(backbones=backbone, steps=4, frames=3, json="export.json"))
    row, = (about := read_json(tmp_path / "export.json"))["rows"]
    assert row["parity"]["actions"] == 0 and row["agreement"] > .9 and row["int8"]["bytes"] < row["float32"]["bytes"]
    assert 0 < about["start"]["imported"] < about["start"]["first_action"] and row["float32"]["step"][0] > 0
    assert f"| {backbone} 24,16 | " in results.export() and " | 0 of 32 | " in results.export()
    with pytest.raises(UserError, match="--backbones rnn: choose among mlp"):
        bench_export.main(bench_export.Args(backbones="rnn"))


def test_students_are_measured_into_a_table(exported, tmp_path, monkeypatch):
    """What they have learned apart, which test_distill.py has."""
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    monkeypatch.setattr(export_onnx, "LATENCY_STEPS", 20)
    teacher, model = exported
    students = [{"eval/student_nll": 2., "eval/teacher_nll": 1.5, "eval/kl": .25}, {}]
    for name, value in (("CHECK_GAMES", 6), ("MAX_FRAMES", 60), ("export", lambda _: model),
                        ("learn", lambda args, size, own: (Policy("mlp", (8,)), students[own], 3.))):
        monkeypatch.setattr(bench_distill, name, value)
    path = save_checkpoint(tmp_path / "teacher.pt", teacher)
    bench_distill.main(bench_distill.Args(str(path), "games", "8", games=2, json=str(tmp_path / "distill.json")))
    rows = read_json(tmp_path / "distill.json")["rows"]
    assert [row["learned_from"] for row in rows] == ["", "replays", "its own games"]
    assert rows[0]["kl_own_games"] < .01 < rows[1]["kl_own_games"] and rows[1]["step_us"] > 0
    assert set(rows[0]["winrates"]) == {"level1", "level3", "level5"}
    assert "| 8 | replays | " in results.distill() and " | 2.000 | 1.500 | 0.250 | " in results.distill()


# ------------------------------------------------------------------------------------------------------ other programs

def program(language):
    """The one in docs/export.md."""
    return re.search(rf"```{language}\n(.*?)```", (ROOT / "docs" / "export.md").read_text(), re.S)[1]


@pytest.fixture
def frame_file(checkpoint, tmp_path, monkeypatch):
    """policy.onnx; frame.json, a frame as another program has it, of player 2, who sees it mirrored; and what this
    project's own code does on it."""
    run(monkeypatch, "--checkpoint", checkpoint, "--output", tmp_path / "policy.onnx", "--steps", 4)
    rng = np.random.default_rng(5)
    frames, controllers = random_frames(rng, 1), np.zeros((1, 2), CONTROLLER)
    frames["players"]["x"][0] = -20, 30
    controllers["main_x"], controllers["buttons"] = .5, 0x100
    seen, me = observe(frames, controllers), 1
    noise, policy = noise_for(1), load_player(tmp_path / "policy.onnx")
    actions, _ = policy.step(Observation(seen.floats[:, me], seen.ints[:, me]), policy.initial_state(1), noise)
    computed = {f.name: float(seen.floats[0, me, k]) for k, f in enumerate(FLOATS) if not f.source}
    computed |= {f.name: int(seen.ints[0, me, k]) for k, f in enumerate(IDS) if not f.source}
    (tmp_path / "frame.json").write_text(json.dumps({
        "frame": plain(frames[0]), "player": me, "mirrored": bool(mirrored(frames)[0, me]), "computed": computed,
        "noise": noise[0].tolist()}))
    return tmp_path, actions[0], decode_actions(actions, mirrored(frames)[:, me])[0]


def plain(record):
    """A numpy record in dicts, lists and numbers."""
    if record.dtype.names:
        return {name: plain(record[name]) for name in record.dtype.names} if record.shape == () else list(
            map(plain, record))
    return record.tolist()


def test_a_program_with_onnxruntime_alone_plays_by_the_metadata(frame_file):
    folder, actions, controller = frame_file
    (folder / "program.py").write_text(program("python"))
    ended = subprocess.run([sys.executable, "-I", "program.py", "policy.onnx", "frame.json", "row.json"], cwd=folder,
                           capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    said = json.loads(ended.stdout)
    assert said["actions"] == actions.tolist()
    for name, value in said["controller"].items():
        assert value == pytest.approx(controller[name].item(), abs=1e-6), name
    assert "cleanmelee" not in program("python") and controller["buttons"] == said["controller"]["buttons"]


def test_a_program_in_javascript_chooses_the_same(frame_file):
    folder, actions, _ = frame_file
    node = shutil.which("node")
    if node is None or subprocess.run([node, "-e", 'require("onnxruntime-node")'], capture_output=True).returncode:
        pytest.skip("needs node and onnxruntime-node (NODE_PATH)")
    (folder / "program.py").write_text(program("python"))
    command = [sys.executable, "-I", "program.py", "policy.onnx", "frame.json", "row.json"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    (folder / "program.js").write_text(program("javascript"))
    ended = subprocess.run([node, "program.js", "policy.onnx", "row.json"], cwd=folder, capture_output=True, text=True,
                           timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == actions.tolist()


# ------------------------------------------------------------------------------------------------------- hostile files

def constant(name, values):
    return onnx.numpy_helper.from_array(np.array(values), name)


def attacked(model, change):
    """A copy of an export, changed."""
    other = onnx.ModelProto()
    other.CopyFrom(model)
    onnx.helper.set_model_props(other, {"program": "CleanMelee", "schema": schema_hash(), "action_repeat": "2",
                                        "frame_delay": "0"})
    change(other)
    return other


def said(**metadata):
    return lambda model: onnx.helper.set_model_props(
        model, {entry.key: entry.value for entry in model.metadata_props} | metadata)


def ask_for_memory(model):
    """As much as 100 GB, in a step."""
    model.graph.initializer.extend([constant("much", [10 ** 5, 10 ** 5])])
    model.graph.node.insert(0, onnx.helper.make_node("ConstantOfShape", ["much"], ["zeros"]))
    model.graph.node.insert(1, onnx.helper.make_node("ReduceSum", ["zeros"], ["zero"], keepdims=0))
    model.graph.node.insert(2, onnx.helper.make_node("Add", ["zero", "noise"], ["noisy"]))
    for node in list(model.graph.node)[3:]:
        node.input[:] = ["noisy" if name == "noise" else name for name in node.input]


def wrong_actions(model):
    model.graph.initializer.extend([constant("far", 10 ** 6)])
    last = next(node for node in model.graph.node if "actions" in node.output)
    last.output[:] = ["near"]
    model.graph.node.append(onnx.helper.make_node("Add", ["near", "far"], ["actions"]))


def outside(model):
    tensor = model.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")


def huge_state(model):
    for value in (model.graph.input[4], model.graph.output[1]):
        value.type.tensor_type.shape.dim[1].dim_value = 40 * 10 ** 9


def loop(model):
    body = onnx.helper.make_graph([], "body", [], [])
    model.graph.node.append(onnx.helper.make_node("Loop", ["", ""], [], body=body))


ATTACKS = {
    "repeat none": said(action_repeat=""), "repeat 0": said(action_repeat="0"),
    "repeat 1e20": said(action_repeat="1e20"),
    "delay -5": said(frame_delay="-5"), "delay a billion": said(frame_delay="1000000000"),
    "no metadata": lambda model: onnx.helper.set_model_props(model, {"program": "CleanMelee"}),
    "memory": ask_for_memory, "actions": wrong_actions, "another file": outside, "huge state": huge_state, "loop": loop,
    "domain": lambda model: model.opset_import.add(domain="com.somebody", version=1),
    "wide input": lambda model: setattr(model.graph.input[2].type.tensor_type.shape.dim[1], "dim_value", 10 ** 9),
    "other input": lambda model: setattr(model.graph.input[0], "name", "other"),
    "many nodes": lambda model: [model.graph.node.add() for _ in range(70_000)]}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_hostile_export_is_told_in_one_line(attack, tmp_path, hostile_base):
    path = tmp_path / "hostile.onnx"
    onnx.save(attacked(hostile_base, ATTACKS[attack]), path)
    with pytest.raises(UserError, match="hostile.onnx") as error:
        load_player(path)
    assert "\n" not in str(error.value)
    onnx.save(attacked(hostile_base, lambda model: None), path)
    assert load_player(path).action_repeat == 2


@pytest.fixture(scope="module")
def hostile_base():
    return cut(small_export(make_policy("gru", (16,), action_repeat=3)), {})

"""The exported policy is the policy: the same actions from the same noise, the same state, and a file that says what it
is."""

import copy
import hashlib
import json
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import export_onnx
from export_onnx import Act, Args, Score, export, game_frames, parity, quantise
from cleanmelee.cli import UserError, run_script
from cleanmelee.controller import ACTION_SIZE, NUM_BUTTONS, NUM_LOGITS
from cleanmelee.features import NUM_FLOATS, NUM_INTS
from cleanmelee.observation import Observation, schema_hash
from cleanmelee.onnx import load_player, onnx_session
from melee_common import Policy, save_checkpoint, to_torch

BACKBONES = [("mlp", (24, 16)), ("gru", (24, 16))]


def make_policy(backbone, hidden, scale=.1, **config):
    """Random weights in every layer: a fresh policy's zero residuals and small heads would hide mistakes."""
    torch.manual_seed(0)
    policy = Policy(backbone, hidden, **config).eval()
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(torch.randn_like(p) * scale)
    return policy


@pytest.fixture(scope="module", params=BACKBONES, ids=lambda p: f"{p[0]}-{'-'.join(map(str, p[1]))}")
def exported(request):
    policy = make_policy(*request.param)
    acting = export(Act(policy), torch.rand(2, NUM_LOGITS), ("noise", "actions"))
    scoring = export(Score(policy), torch.zeros(2, ACTION_SIZE, dtype=torch.long), ("actions", "logits"))
    return policy, acting, scoring


@pytest.fixture(scope="module")
def obs():
    return game_frames(40, "mewtwo", seed=1)


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(export_onnx, "export", small_export)
    return save_checkpoint(tmp_path / "policy.pt", make_policy("gru", (16,), action_repeat=3))


SMALL = {}                                                                  # exports of its policy: Act's and Score's


def small_export(module, third, names):
    """`export`, for seconds, and after that what it gave for the same weights."""
    if type(module) not in SMALL:
        SMALL[type(module)] = export(module, third, names)
    return copy.deepcopy(SMALL[type(module)])


def ready(model):
    return onnx_session(model.SerializeToString())


def noise_for(steps, rows=1):
    return torch.rand(steps, rows, NUM_LOGITS, generator=torch.Generator().manual_seed(2))


@torch.inference_mode()
def test_same_noise_same_actions_and_state(exported, obs):
    policy, acting, scoring = exported
    error = parity(policy, ready(acting), ready(scoring), obs, noise_for(40))
    assert error["actions"] == 0 and error["states"] < 1e-5 and error["logits"] < 1e-4


@torch.inference_mode()
def test_parity_sees_a_wrong_export(exported, obs):
    policy, acting, scoring = exported
    other = make_policy(policy.config["backbone"], policy.config["hidden"], scale=.12)
    error = parity(other, ready(acting), ready(scoring), obs, noise_for(40))
    assert error["actions"] > 0 and error["logits"] > 1e-3


@torch.inference_mode()
@pytest.mark.parametrize("rows", [1, 2, 7])
def test_any_batch_size_and_the_most_likely_action(exported, rows):
    policy, acting, _ = exported
    generator = np.random.default_rng(rows)
    obs = Observation(generator.normal(size=(rows, NUM_FLOATS)).astype(np.float32),
                      generator.integers(0, 60, (rows, NUM_INTS)).astype(np.int16))
    state = tuple(torch.randn(s.shape) for s in policy.initial_state(rows))
    likely = torch.full((rows, NUM_LOGITS), 1 / np.e)
    likely[:, :NUM_BUTTONS] = .5
    for noise, for_onnx in ((noise_for(1, rows)[0],) * 2, (None, likely)):
        actions, after = policy.step(to_torch(obs), state, noise)
        feed = {"floats": obs.floats, "ints": obs.ints, "noise": for_onnx.numpy()}
        got, *got_after = ready(acting).run(None, feed | {f"state_{k}": s.numpy() for k, s in enumerate(state)})
        assert got.dtype == np.int64 and np.array_equal(got, actions.numpy())
        for a, b in zip(after, got_after, strict=True):
            np.testing.assert_allclose(a.numpy(), b, atol=1e-5)


@torch.inference_mode()
def test_extreme_noise_is_clamped(exported):
    """Uniform numbers of exactly 0 and 1 happen, and must not become infinities of unlike signs."""
    policy, acting, _ = exported
    obs = Observation(np.zeros((1, NUM_FLOATS), np.float32), np.zeros((1, NUM_INTS), np.int16))
    state = policy.initial_state(1)
    for value in (0., 1.):
        noise = torch.full((1, NUM_LOGITS), value)
        feed = {"floats": obs.floats, "ints": obs.ints, "noise": noise.numpy()}
        got = ready(acting).run(None, feed | {f"state_{k}": s.numpy() for k, s in enumerate(state)})[0]
        assert np.array_equal(got, policy.step(to_torch(obs), state, noise)[0].numpy())


@torch.inference_mode()
def test_int8_is_close_and_uses_integer_products(exported, obs):
    policy, acting, scoring = exported
    small, small_scoring = quantise(acting), quantise(scoring)
    products = [node.op_type for node in small.graph.node if node.op_type in ("Gemm", "MatMul", "MatMulInteger")]
    assert set(products) == {"MatMulInteger"}
    error = parity(policy, ready(small), ready(small_scoring), obs, noise_for(40))
    assert 0 < error["logits"] < 1 and error["actions"] <= 20


@pytest.mark.parametrize("int8", ["none", "dynamic"])
def test_command_line_writes_a_file_that_says_what_it_is(checkpoint, tmp_path, int8, monkeypatch, capfd):
    monkeypatch.setattr(export_onnx, "LATENCY_STEPS", 20)
    output = tmp_path / "new" / "folder" / "policy.onnx"
    command = ["export_onnx.py", "--checkpoint", str(checkpoint), "--output", str(output), "--int8", int8,
               "--steps", "8", "--character", "fox", "--seed", "5"]
    monkeypatch.setattr(sys, "argv", command)
    run_script(export_onnx.main, Args)

    out, err = capfd.readouterr()
    assert "of 8" in out and str(output) in out.replace("\n", "")
    assert ("int8" in out) == (int8 == "dynamic")
    assert [line for line in err.splitlines() if "compiling the embedded game" not in line] == []
    assert [p.name for p in output.parent.iterdir()] == ["policy.onnx"]     # no temporary file is left
    onnx.checker.check_model(str(output))
    written = onnxruntime.InferenceSession(output, providers=["CPUExecutionProvider"])
    assert [(i.name, i.type, i.shape[1:]) for i in written.get_inputs()] == [
        ("floats", "tensor(float)", [NUM_FLOATS]), ("ints", "tensor(int16)", [NUM_INTS]),
        ("noise", "tensor(float)", [NUM_LOGITS]), ("state_0", "tensor(float)", [16])]
    assert [o.name for o in written.get_outputs()] == ["actions", "next_state_0"]
    said = written.get_modelmeta().custom_metadata_map
    assert said["schema"] == schema_hash() and said["action_repeat"] == "3" and said["frame_delay"] == "0"
    assert json.loads(said["config"]) == Policy("gru", (16,), action_repeat=3).config
    assert said["checkpoint_sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert said["int8"] == int8 and "torch" in json.loads(said["versions"]) and said["opset"] == str(export_onnx.OPSET)


def test_nothing_is_written_when_the_export_is_wrong(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(export_onnx, "MAX_LOGIT_ERROR", 0)
    monkeypatch.setattr(export_onnx, "LATENCY_STEPS", 20)
    output = tmp_path / "policy.onnx"
    with pytest.raises(RuntimeError, match="nothing was written"):
        export_onnx.main(Args(str(checkpoint), str(output), steps=4))
    assert not output.exists()


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
    for value in (model.graph.input[3], model.graph.output[1]):
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
    return small_export(Act(make_policy("gru", (16,))), torch.rand(2, NUM_LOGITS), ("noise", "actions"))

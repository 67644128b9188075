"""A whole policy in plain numpy: what its step computes, from the weights that `export_onnx.py --npz` writes.

A third opinion beside torch and ONNX, and what to read before writing the step in another language. One frame at a
time, for any number of players.

    weights     named as in the checkpoint: "backbone.gru.weight_ih_l0"
    x           [B, n], B players side by side"""

import io
import json
import zipfile
from pathlib import Path

import numpy as np

from cleanmelee.cli import UserError
from cleanmelee.controller import HEADS
from cleanmelee.features import ITEMS, NANAS, id_columns, make_lens
from cleanmelee.files import read_file
from cleanmelee.frame import NUM_ITEMS, NUM_PLAYERS
from cleanmelee.observation import Observation, schema_hash


def pack_weights(config: dict, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of an .npz file: the weights, and as bytes of JSON the config and the schema."""
    about = json.dumps({"config": config, "schema": schema_hash()}).encode()
    return {**weights, "about": np.frombuffer(about, np.uint8)}


def sigmoid(x):
    return np.where(x >= 0, 1, np.exp(-np.abs(x))) / (1 + np.exp(-np.abs(x)))


def softplus(x):
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


class ReferencePolicy:
    """`initial_state` and `step` as OnnxPolicy has them."""

    def __init__(self, path: str | Path):
        """UserError: the file is none of ours."""
        content = open_npz(path)
        try:
            with np.load(content, allow_pickle=False) as file:
                self.w = {name: file[name] for name in file.files}
            about = json.loads(self.w.pop("about").tobytes())
            self.config, schema = about["config"], about["schema"]
        except (ValueError, KeyError, TypeError, EOFError, NotImplementedError, zipfile.BadZipFile):
            raise UserError(f"{path}: damaged; write it again with export_onnx.py --npz") from None
        if schema != schema_hash():
            raise UserError(f"{path}: made for frame schema {schema}, this code has {schema_hash()}; export the "
                            "checkpoint again")
        self.backbone = self.config["backbone"]
        shown = (self.config.get(name, default) for name, default in (("ablate", ()), ("player", 0)))
        self.lens = make_lens(self.config["frame_delay"], *shown)

    # ----------------------------------------------------------------------------------------------------- small parts

    def linear(self, name, x):
        y = x @ self.w[f"{name}.weight"].T
        return y + self.w[f"{name}.bias"] if f"{name}.bias" in self.w else y

    def norm(self, name, x):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def dense(self, name, x):
        """Layers 0, 2, 4 ... of this name; the odd ones are ReLUs."""
        k = 0
        while f"{name}.{k}.weight" in self.w:
            x = np.maximum(self.linear(f"{name}.{k}", x), 0)
            k += 2
        return x

    # ------------------------------------------------------------------------------------------------------- embedding

    def embed(self, floats, ints):
        """floats [B, F], ints [B, I] -> [B, n]"""
        if self.lens:
            floats, ints = self.lens.show(floats, ints)
        ids = [self.rows(name, ints).reshape(len(ints), -1) for name in ("action", "character", "stage", "name")]
        items = self.things("item", "item_type", floats[:, ITEMS].reshape(len(ints), NUM_ITEMS, -1), ints)
        nanas = self.things("nana", "nana_action", floats[:, NANAS].reshape(len(ints), NUM_PLAYERS, -1), ints)
        return np.concatenate([floats[:, ITEMS.stop:], *ids, items.sum(1), nanas.reshape(len(ints), -1)], 1)

    def rows(self, name, ints):
        """Of a learned table those that the ids name: [B, k, n]."""
        return self.w[f"embedding.{name}.weight"][ints[:, id_columns(name)]]

    def things(self, name, kind, floats, ints):
        """floats [B, k, f], of which the first says whether there is such a thing -> [B, k, n], zeros where not."""
        return np.maximum(self.linear(f"embedding.{name}", floats) + self.rows(kind, ints), 0) * floats[..., :1]

    # ------------------------------------------------------------------------------------------------------- backbones

    def initial_state(self, batch: int) -> tuple[np.ndarray, ...]:
        hidden, layers = self.config["hidden"][-1], range(self.config.get("num_layers", 0))
        if self.backbone == "gru":
            return tuple(np.zeros((batch, hidden), np.float32) for _ in layers)
        shapes = []
        for k in layers:
            kind = self.kind(k)
            if kind == "attention":
                heads = self.config["num_heads"]
                shapes += [(), *2 * [(heads, self.config["window_size"], hidden // heads)]]
            elif kind == "lstm":
                shapes += 2 * [(hidden,)]
            else:
                heads, inner = self.w[f"backbone.layers.{k}.skip"].size, self.config["expand_factor"] * hidden
                N = self.config["state_size"]
                shapes += [(self.config["conv_size"] - 1, inner + 2 * N), (heads, inner // heads, N)]
        return tuple(np.zeros((batch, *shape), np.int64 if shape == () else np.float32) for shape in shapes)

    def kind(self, k):
        """Of layer k of a stack: attention, lstm or mamba."""
        if self.backbone == "hybrid":
            return "attention" if k % 2 else "lstm"
        return {"transformer": "attention"}.get(self.backbone, self.backbone)

    def features(self, x, state):
        if self.backbone == "mlp":
            return self.dense("backbone.layers", x), ()
        if self.backbone == "gru":
            return self.gru(x, state)
        x = self.linear("backbone.project", self.dense("backbone.dense", x))
        new = ()
        for k in range(self.config["num_layers"]):
            kind = self.kind(k)
            parts = 3 if kind == "attention" else 2
            x, now = getattr(self, kind)(f"backbone.layers.{k}", x, state[len(new):len(new) + parts])
            new += now
        return self.norm("backbone.norm", x), new

    def gru(self, x, state):
        x = y = self.dense("backbone.layers", x)
        new = []
        for k, h in enumerate(state):
            a, b = (np.split(v @ self.w[f"backbone.gru.weight_{way}_l{k}"].T + self.w[f"backbone.gru.bias_{way}_l{k}"],
                             3, -1) for way, v in (("ih", y), ("hh", h)))
            reset, update = sigmoid(a[0] + b[0]), sigmoid(a[1] + b[1])
            y = (1 - update) * np.tanh(a[2] + reset * b[2]) + update * h
            new.append(y)
        return np.concatenate([x, y], -1), tuple(new)

    def lstm(self, name, x, state):
        h, c = state
        gates = sum(v @ self.w[f"{name}.lstm.weight_{side}_l0"].T + self.w[f"{name}.lstm.bias_{side}_l0"]
                    for side, v in (("ih", self.norm(f"{name}.norm", x)), ("hh", h)))
        i, f, g, o = np.split(gates, 4, -1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        return x + h, (h, c)

    def attention(self, name, x, state):
        """A ring of the last frames' keys and values; frame n lies in slot n % window."""
        count, keys, values = state[0], state[1].copy(), state[2].copy()
        B, heads, window, d = keys.shape
        asked = self.linear(f"{name}.ask", self.norm(f"{name}.norm", x)).reshape(B, 3 * heads, d)
        speeds = 10_000. ** -np.linspace(0, 1, d // 2 + 1)[:-1]
        angle = (count[:, None] * speeds.astype(np.float32)).astype(np.float32)[:, None]            # [B, 1, d / 2]
        a, b = np.split(asked[:, :2 * heads], 2, -1)
        turned = np.concatenate([a * np.cos(angle) - b * np.sin(angle), a * np.sin(angle) + b * np.cos(angle)], -1)
        query, rows = turned[:, :heads], np.arange(B)
        keys[rows, :, count % window], values[rows, :, count % window] = turned[:, heads:], asked[:, 2 * heads:]
        scores = np.einsum("bhwd,bhd->bhw", keys, query) * d ** -.5
        scores = np.where((np.arange(window) > count[:, None])[:, None], -np.inf, scores)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        x = x + self.linear(f"{name}.answer", np.einsum("bhw,bhwd->bhd", weights, values).reshape(B, -1))
        mixed = np.maximum(self.linear(f"{name}.mix.1", self.norm(f"{name}.mix.0", x)), 0)
        return x + self.linear(f"{name}.mix.3", mixed), (count + 1, keys, values)

    def mamba(self, name, x, state):
        last, h = state                                                     # [B, K - 1, channels], [B, heads, P, N]
        B, heads, P, N = h.shape
        inner = heads * P
        z, u, dt = np.split(self.linear(f"{name}.project_in", self.norm(f"{name}.norm", x)),
                            [inner, inner + last.shape[2]], -1)
        inputs = np.concatenate([last, u[:, None]], 1)                      # [B, K, channels]
        u = (inputs * self.w[f"{name}.conv"]).sum(1) + self.w[f"{name}.conv_bias"]
        v, b, c = np.split(u * sigmoid(u), [inner, inner + N], -1)
        v, dt = v.reshape(B, heads, P), softplus(dt + self.w[f"{name}.dt_bias"])                    # [B, heads]
        decay = np.exp(-dt * np.exp(self.w[f"{name}.log_a"]))
        h = decay[..., None, None] * h + (v * dt[..., None])[..., None] * b[:, None, None]
        y = (h @ c[:, None, :, None])[..., 0] + self.w[f"{name}.skip"][:, None] * v                 # [B, heads, P]
        y = self.norm(f"{name}.gate_norm", y.reshape(B, -1) * (z * sigmoid(z)))
        return x + self.linear(f"{name}.project_out", y), (inputs[:, 1:], h)

    # ------------------------------------------------------------------------------------------------------ controller

    def sample(self, features, noise):
        """Head by head, each of which sees what was chosen before it. Uniform noise [B, 81] in (0, 1) becomes logistic
        noise for the buttons and Gumbel's for the others: whatever is above 0, or the largest, is then a sample."""
        actions, seen, at = [], self.linear("controller_head.project", features), 0
        for name, size in HEADS.items():
            logits = self.linear(f"controller_head.logits.{name}", np.maximum(seen, 0))
            u = .5 if noise is None else np.clip(noise[:, at:at + size], np.float32(1e-6), 1 - np.float32(1e-6))
            at += size
            if name == "buttons":
                actions.append(logits + np.log(u) - np.log1p(-u) > 0)
                seen = seen + self.linear("controller_head.seen_buttons", actions[-1].astype(np.float32))
            else:
                actions.append((logits - np.log(-np.log(u))).argmax(1)[:, None])
                if f"controller_head.seen.{name}.weight" in self.w:
                    seen = seen + self.w[f"controller_head.seen.{name}.weight"][actions[-1][:, 0]]
        return np.concatenate(actions, 1).astype(np.int8)

    def step(self, obs: Observation, state: tuple, noise: np.ndarray | None) -> tuple[np.ndarray, tuple]:
        """obs [B, ...], uniform noise [B, 81] (None: the most likely action) -> actions [B, 13], new state."""
        x = self.embed(*obs)
        if self.config.get("target_return") is not None:
            x = np.concatenate([x, np.full((len(x), 1), self.config["target_return"], np.float32)], 1)
        features, state = self.features(x, state)
        return self.sample(features, noise), state


def open_npz(path):
    """The file, in memory. UserError: there is none, or it is no .npz file with what `pack_weights` writes."""
    content = io.BytesIO(read_file(path, 2 ** 31))
    try:
        names = zipfile.ZipFile(content).namelist()
    except zipfile.BadZipFile:
        names = []
    if "about.npy" not in names:
        raise UserError(f"{path}: no weights of a policy; write them with export_onnx.py --npz")
    content.seek(0)
    return content

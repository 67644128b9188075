"""Networks over time: what stands between a policy's embedding and its heads. Each is a class with

    Backbone(n_in, hidden, **options)               options: whole numbers with a default, flags of the same names
    size                                            how many features it makes of n_in
    initial_state(batch, device)                    a flat tuple of tensors [B, ...], all zeros
    unroll(x [T, B, n_in], state, resets [T, B])    -> features [T, B, size], the state after the last frame
    step(x [B, n_in], state)                        -> features [B, size], new state

`unroll` is for learning: resets[t] True says that frame t begins a game, before which the state is cleared. `step` is
for play, one frame without a reset, and both agree to float tolerance. `step` must also run under torch.vmap
(StackedPolicies) and export to ONNX; buffers must not differ between networks of one shape; what makes its sizes
impossible is a UserError.

`hidden` reads alike in all of them: every size but the last is a dense layer, the last one is the width of what
remembers, of which there are `num_layers` layers; in the mlp nothing does.

To add one: write such a class, or a layer for a Stack, and name it in BACKBONES and in the scripts' --backbone; an
option that is new is a flag of the scripts, and has its range in OPTIONS."""

import inspect
import math

import torch
import torch.nn as nn
import torch.nn.functional as F

from cleanmelee.cli import Range, UserError, as_flag, check_number
from cleanmelee.terminal import printable


def linear(n_in: int, n_out: int, gain: float = 2 ** .5, bias: bool = True) -> nn.Linear:
    layer = nn.Linear(n_in, n_out, bias=bias)
    nn.init.orthogonal_(layer.weight, gain)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def dense(n_in: int, sizes: tuple[int, ...]) -> nn.Sequential:
    layers = []
    for a, b in zip((n_in, *sizes)[:len(sizes)], sizes, strict=True):
        layers += [linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers)


class MLP(nn.Module):
    """Layers of the sizes `hidden`, a ReLU after each. It remembers nothing."""

    def __init__(self, n_in: int, hidden: tuple[int, ...]):
        super().__init__()
        self.layers = dense(n_in, hidden)
        self.size = hidden[-1]

    def initial_state(self, batch: int, device: torch.device) -> tuple[torch.Tensor, ...]:
        return ()

    def unroll(self, x: torch.Tensor, state: tuple, resets: torch.Tensor) -> tuple[torch.Tensor, tuple]:
        return self.layers(x), ()

    def step(self, x: torch.Tensor, state: tuple) -> tuple[torch.Tensor, tuple]:
        return self.layers(x), ()


# ---------------------------------------------------------------------------------------------------------------------
# Recurrent
# ---------------------------------------------------------------------------------------------------------------------

def between_resets(cells, x: torch.Tensor, state: torch.Tensor | tuple, resets: torch.Tensor) -> tuple:
    """cells(x [t, B, n], state) of a torch RNN, over all of x [T, B, n] -> its output [T, B, H] and last state. One
    fused call for each stretch of frames in which no row resets: several times faster than a loop of cells."""
    starts = sorted({0, *resets.any(1).nonzero().flatten().tolist()})
    outputs = []
    for a, b in zip(starts, starts[1:] + [len(x)], strict=True):
        keep = (~resets[a]).to(x.dtype)[:, None]
        state = state * keep if torch.is_tensor(state) else tuple(s * keep for s in state)       # [layers, B, H] each
        y, state = cells(x[a:b], state)
        outputs.append(y)
    return torch.cat(outputs), state


def orthogonal(cells: nn.RNNBase) -> None:
    for name, p in cells.named_parameters():
        if "weight" in name:
            nn.init.orthogonal_(p)
        else:
            nn.init.zeros_(p)


class GRU(nn.Module):
    """Dense layers (of one size there is one), then gated recurrent units in layers of the last size, and a skip past
    them."""

    def __init__(self, n_in: int, hidden: tuple[int, ...], num_layers: int = 1):
        super().__init__()
        sizes = hidden[:-1] or hidden
        self.layers = dense(n_in, sizes)
        self.gru = nn.GRU(sizes[-1], hidden[-1], num_layers)
        orthogonal(self.gru)
        self.size = sizes[-1] + hidden[-1]

    def initial_state(self, batch: int, device: torch.device) -> tuple[torch.Tensor, ...]:
        return tuple(torch.zeros(batch, self.gru.hidden_size, device=device) for _ in range(self.gru.num_layers))

    def unroll(self, x: torch.Tensor, state: tuple, resets: torch.Tensor) -> tuple[torch.Tensor, tuple]:
        x = self.layers(x)
        y, state = between_resets(self.gru, x, torch.stack(state), resets)
        return torch.cat([x, y], -1), tuple(state)

    def step(self, x: torch.Tensor, state: tuple) -> tuple[torch.Tensor, tuple]:
        x = y = self.layers(x)
        new = []
        for h, (from_x, from_h, bias_x, bias_h) in zip(state, self.gru.all_weights, strict=True):
            # One GRU cell, by hand because torch.vmap has no rule for torch.gru_cell and would loop (StackedPolicies).
            reset_x, update_x, new_x = F.linear(y, from_x, bias_x).chunk(3, -1)
            reset_h, update_h, new_h = F.linear(h, from_h, bias_h).chunk(3, -1)
            candidate = torch.tanh(new_x + torch.sigmoid(reset_x + reset_h) * new_h)
            y = torch.lerp(candidate, h, torch.sigmoid(update_x + update_h))
            new.append(y)
        return torch.cat([x, y], -1), tuple(new)


class Stack(nn.Module):
    """Dense layers of all sizes but the last, then layers of the last size that each add to what they are given, and a
    layer norm. A layer has what a backbone has, and `parts`, how many tensors its state is."""

    def __init__(self, n_in: int, hidden: tuple[int, ...], layers: list[nn.Module]):
        super().__init__()
        *sizes, self.size = hidden
        self.dense = dense(n_in, sizes)
        self.project = linear((n_in, *sizes)[-1], self.size, 1.)
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(self.size)

    def initial_state(self, batch: int, device: torch.device) -> tuple[torch.Tensor, ...]:
        return tuple(part for layer in self.layers for part in layer.initial_state(batch, device))

    def unroll(self, x: torch.Tensor, state: tuple, resets: torch.Tensor) -> tuple[torch.Tensor, tuple]:
        return self._through(x, state, lambda layer, x, parts: layer.unroll(x, parts, resets))

    def step(self, x: torch.Tensor, state: tuple) -> tuple[torch.Tensor, tuple]:
        return self._through(x, state, lambda layer, x, parts: layer.step(x, parts))

    def _through(self, x, state, call):
        x, new = self.project(self.dense(x)), ()
        for layer in self.layers:
            x, parts = call(layer, x, state[len(new):len(new) + layer.parts])
            new += parts
        return self.norm(x), new


class LSTMLayer(nn.Module):
    """x + lstm(norm(x)). State: what it puts out, and its cells, [B, size] each."""

    parts = 2

    def __init__(self, size: int):
        super().__init__()
        self.norm = nn.LayerNorm(size)
        self.lstm = nn.LSTM(size, size)
        orthogonal(self.lstm)
        with torch.no_grad():
            self.lstm.bias_ih_l0[size:2 * size] = 1.                        # the forget gate: remember at first

    def initial_state(self, batch: int, device: torch.device) -> tuple[torch.Tensor, ...]:
        return tuple(torch.zeros(batch, self.lstm.hidden_size, device=device) for _ in range(self.parts))

    def unroll(self, x: torch.Tensor, state: tuple, resets: torch.Tensor) -> tuple[torch.Tensor, tuple]:
        y, (h, c) = between_resets(self.lstm, self.norm(x), tuple(s[None] for s in state), resets)
        return x + y, (h[0], c[0])

    def step(self, x: torch.Tensor, state: tuple) -> tuple[torch.Tensor, tuple]:
        h, c = state
        from_x, from_h, bias_x, bias_h = self.lstm.all_weights[0]
        i, f, g, o = (F.linear(self.norm(x), from_x, bias_x) + F.linear(h, from_h, bias_h)).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return x + h, (h, c)


class LSTM(Stack):
    """Long short-term memories, each with a layer norm before it and a way past it."""

    def __init__(self, n_in: int, hidden: tuple[int, ...], num_layers: int = 2):
        super().__init__(n_in, hidden, [LSTMLayer(hidden[-1]) for _ in range(num_layers)])


# ---------------------------------------------------------------------------------------------------------------------
# Attention
# ---------------------------------------------------------------------------------------------------------------------

class AttentionLayer(nn.Module):
    """Attention over the last `window_size` frames of a game, this one included, then two dense layers; each adds to
    what it is given and has a layer norm before it. Positions are rotations of queries and keys (Su et al. 2021).

    State: a game's frames so far, count [B]; their keys, already rotated, and values, [B, heads, window, d] each. They
    are ring buffers: frame n of a game lies in slot n % window until frame n + window takes its place. Whatever lies in
    slots that the game has not reached yet is not looked at."""

    parts = 3
    WIDER = 4                                                               # the dense layers' inner size
    BASE = 10_000                                                           # the slowest rotation's, as is usual

    def __init__(self, size: int, num_heads: int, window_size: int):
        super().__init__()
        if size % (2 * num_heads):
            raise UserError(f"--num-heads {num_heads}: the last size of --hidden, {size}, must be a multiple of "
                            f"{2 * num_heads}, as every head has an even share of it")
        self.heads, self.window, self.d = num_heads, window_size, size // num_heads
        self.norm = nn.LayerNorm(size)
        self.ask = linear(size, 3 * size, 1.)                               # queries, keys, values
        self.answer = linear(size, size, 1.)
        self.mix = nn.Sequential(nn.LayerNorm(size), linear(size, self.WIDER * size), nn.ReLU(),
                                 linear(self.WIDER * size, size, 1.))
        speeds = self.BASE ** -torch.linspace(0, 1, self.d // 2 + 1)[:-1]   # radians a frame
        self.register_buffer("speeds", speeds, persistent=False)
        self.register_buffer("slots", torch.arange(window_size), persistent=False)

    def initial_state(self, batch: int, device: torch.device) -> tuple[torch.Tensor, ...]:
        empty = torch.zeros(batch, self.heads, self.window, self.d, device=device)
        return torch.zeros(batch, dtype=torch.long, device=device), empty, empty.clone()

    def _asked(self, x, position):
        """x [..., size], position [...] of its frames in their games -> queries, keys, values [..., heads, d]"""
        asked = self.ask(self.norm(x)).unflatten(-1, (3 * self.heads, self.d))
        turned, values = asked.split([2 * self.heads, self.heads], -2)
        angle = (position[..., None].to(self.speeds.dtype) * self.speeds)[..., None, :]            # [..., 1, d / 2]
        cos, sin = angle.cos(), angle.sin()
        a, b = turned.chunk(2, -1)
        turned = torch.cat([a * cos - b * sin, a * sin + b * cos], -1)
        return *turned.chunk(2, -2), values

    def unroll(self, x: torch.Tensor, state: tuple, resets: torch.Tensor) -> tuple[torch.Tensor, tuple]:
        (count, *rings), T, W = state, len(x), self.window
        time = torch.arange(T, device=x.device)[:, None]                    # [T, 1]
        game = resets.long().cumsum(0)                                      # [T, B], 0: the one that was on
        begun = (time * resets).cummax(0).values                            # [T, B] the frame of its reset
        position = torch.where(game > 0, time - begun, count + time)        # [T, B] of a frame in its game
        queries, *new = (part.permute(1, 2, 0, 3) for part in self._asked(x, position))             # [B, heads, T, d]

        last = count[:, None] - 1                                           # [B, 1]
        held = last - (last - self.slots) % W                               # [B, W] positions in the rings; < 0: none
        past = (game == 0)[..., None] & (held >= 0) & (position[..., None] - held < W)              # [T, B, W]
        age = time - time.T                                                 # [T, T]
        now = (game[:, None] == game) & ((age >= 0) & (age < W))[..., None]                         # [T, T, B]
        seen = torch.cat([past.transpose(0, 1), now.permute(2, 0, 1)], -1)[:, None]                 # [B, 1, T, W + T]
        keys, values = (torch.cat(pair, 2) for pair in zip(rings, new, strict=True))          # [B, heads, W + T, d]
        y = F.scaled_dot_product_attention(queries, keys, values, seen).permute(2, 0, 1, 3).flatten(-2)
        x = x + self.answer(y)                                              # [T, B, size]

        last = position[-1][:, None]
        age = (last - self.slots) % W                                       # [B, W] of what shall lie in a slot
        row = (T - 1 - age)[:, None, :, None]                               # where it comes from; < 0: it lies there
        ours = (age <= last)[:, None, :, None]                              # and is not of another game
        rings = tuple(torch.where(row >= 0, part.gather(2, row.clamp(min=0).expand(-1, *ring.shape[1:2], -1, self.d)),
                                  ring) * ours for part, ring in zip(new, rings, strict=True))
        return x + self.mix(x), (position[-1] + 1, *rings)

    def step(self, x: torch.Tensor, state: tuple) -> tuple[torch.Tensor, tuple]:
        count, keys, values = state
        query, key, value = self._asked(x, count)                           # [B, heads, d]
        slot = (count % self.window)[:, None, None, None].expand(-1, self.heads, 1, self.d)         # [B, heads, 1, d]
        keys, values = keys.scatter(2, slot, key[:, :, None]), values.scatter(2, slot, value[:, :, None])
        scores = (keys @ query[..., None])[..., 0] * self.d ** -.5          # [B, heads, W]
        scores = scores.masked_fill((self.slots > count[:, None])[:, None], -math.inf)
        x = x + self.answer((scores.softmax(-1)[:, :, None] @ values).flatten(1))
        return x + self.mix(x), (count + 1, keys, values)


class Transformer(Stack):
    """Layers of causal attention over a sliding window."""

    def __init__(self, n_in: int, hidden: tuple[int, ...], num_layers: int = 2, num_heads: int = 4,
                 window_size: int = 60):
        super().__init__(n_in, hidden, [AttentionLayer(hidden[-1], num_heads, window_size) for _ in range(num_layers)])


class Hybrid(Stack):
    """An LSTM, which remembers all of a game, and attention, which looks closely at its last frames, in turn."""

    def __init__(self, n_in: int, hidden: tuple[int, ...], num_layers: int = 2, num_heads: int = 4,
                 window_size: int = 60):
        super().__init__(n_in, hidden, [
            AttentionLayer(hidden[-1], num_heads, window_size) if k % 2 else LSTMLayer(hidden[-1])
            for k in range(num_layers)])


# ---------------------------------------------------------------------------------------------------------------------
# State spaces
# ---------------------------------------------------------------------------------------------------------------------

class MambaLayer(nn.Module):
    """x + a selective state space of norm(x) (Gu and Dao 2023), with one rate of decay for each head (Dao and Gu 2024):

        u = silu(conv(in))                      each channel's last `conv_size` frames; it holds values v, and b, c [N]
        h_t = exp(-dt_t a) h_{t-1} + dt_t v_t b_t            [heads, P, N]; dt_t > 0 of the input, a > 0 of the head
        out = h_t c_t + skip v_t, gated by silu(z), normed

    State: the conv's last inputs [B, conv_size - 1, channels], and h."""

    parts = 2
    HEAD = 16                                                               # P, where the width can be cut so
    CHUNK = 16                                                              # frames that `unroll` takes at once

    def __init__(self, size: int, state_size: int, expand_factor: int, conv_size: int):
        super().__init__()
        inner = expand_factor * size
        self.P = math.gcd(inner, self.HEAD)
        self.heads, self.N, self.inner, self.K = inner // self.P, state_size, inner, conv_size
        self.channels = inner + 2 * state_size                              # v, b, c
        self.norm = nn.LayerNorm(size)
        self.project_in = linear(size, inner + self.channels + self.heads, 1.)
        self.conv = nn.Parameter(torch.empty(conv_size, self.channels).uniform_(-1, 1) * conv_size ** -.5)
        self.conv_bias = nn.Parameter(torch.zeros(self.channels))
        dt = torch.logspace(-3, -1, self.heads)                             # frames: some forget slowly, some at once
        self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))      # softplus of which is dt
        self.log_a = nn.Parameter(torch.linspace(1, 16, self.heads).log())
        self.skip = nn.Parameter(torch.ones(self.heads))
        self.gate_norm = nn.LayerNorm(inner)
        self.project_out = linear(inner, size, 1.)

    def initial_state(self, batch: int, device: torch.device) -> tuple[torch.Tensor, ...]:
        return (torch.zeros(batch, self.K - 1, self.channels, device=device),
                torch.zeros(batch, self.heads, self.P, self.N, device=device))

    def _selected(self, u, dt):
        """u [..., channels], dt [..., heads] -> v [..., heads, P], dt v, b, c [..., N], the log of the decay [...,
        heads]"""
        v, b, c = u.split([self.inner, self.N, self.N], -1)
        v, dt = v.unflatten(-1, (self.heads, self.P)), F.softplus(dt + self.dt_bias)
        return v, v * dt[..., None], b, c, -dt * self.log_a.exp()

    def _out(self, x, y, v, z):
        y = (y + self.skip[:, None] * v).flatten(-2)
        return x + self.project_out(self.gate_norm(y * F.silu(z)))

    def unroll(self, x: torch.Tensor, state: tuple, resets: torch.Tensor) -> tuple[torch.Tensor, tuple]:
        (last, h), T, K = state, len(x), self.K
        z, u, dt = self.project_in(self.norm(x)).split([self.inner, self.channels, self.heads], -1)
        game = resets.long().cumsum(0)                                      # [T, B], 0: the one that was on
        games = F.pad(game, (0, 0, K - 1, 0))                               # [K - 1 + T, B]
        inputs = torch.cat([last.transpose(0, 1), u])                       # [K - 1 + T, B, channels]
        u = self.conv_bias
        for k in range(K):
            u = u + inputs[k:k + T] * ((games[k:k + T] == game)[..., None] * self.conv[k])
        last = inputs[T:] * (games[T:] == game[-1])[..., None]              # [K - 1, B, channels]

        v, *selected = self._selected(F.silu(u), dt)
        outputs, before = [], torch.zeros_like(game[0])                     # before: the game that h is of
        for a in range(0, T, self.CHUNK):
            chunk = slice(a, a + self.CHUNK)
            y, h = self._chunk(*(part[chunk] for part in selected), game[chunk], before, h)
            before = game[chunk][-1]
            outputs.append(y)
        return self._out(x, torch.cat(outputs), v, z), (last.transpose(0, 1), h)

    @staticmethod
    def _chunk(v, b, c, decay, game, before, h):
        """t frames at once: v [t, B, heads, P], b and c [t, B, N], decay [t, B, heads], game [t, B]; before [B], h the
        game and the state before them -> [t, B, heads, P], h. No frame reaches over into another game."""
        decay = decay.cumsum(0).permute(1, 2, 0)                            # [B, heads, t]
        order = torch.ones(len(v), len(v), dtype=torch.bool, device=v.device).tril()
        near = order & (game.T[:, :, None] == game.T[:, None])              # [B, t, s]
        weight = (decay[..., None] - decay[..., None, :]).masked_fill(~near[:, None], -math.inf).exp()
        v, b, c = v.permute(1, 2, 0, 3), b.transpose(0, 1), c.transpose(0, 1)       # [B, heads, t, P], [B, t, N]
        kept = decay.exp() * (game == before).T[:, None]                    # [B, heads, t] how much of h is left
        y = (weight * (c @ b.mT)[:, None]) @ v                              # [B, heads, t, P]
        y = y + kept[..., None] * (c[:, None] @ h.mT)
        h = kept[..., -1, None, None] * h + (v * weight[:, :, -1, :, None]).mT @ b[:, None]
        return y.permute(2, 0, 1, 3), h

    def step(self, x: torch.Tensor, state: tuple) -> tuple[torch.Tensor, tuple]:
        last, h = state
        z, u, dt = self.project_in(self.norm(x)).split([self.inner, self.channels, self.heads], -1)
        inputs = torch.cat([last, u[:, None]], 1)                           # [B, K, channels]
        v, new, b, c, decay = self._selected(F.silu((inputs * self.conv).sum(1) + self.conv_bias), dt)
        h = decay.exp()[..., None, None] * h + new[..., None] * b[:, None, None]
        y = (h @ c[:, None, :, None])[..., 0]                               # [B, heads, P]
        return self._out(x, y, v, z), (inputs[:, 1:], h)


class Mamba(Stack):
    """Selective state spaces: they learn over many frames at once, and play at the same cost however long a game is."""

    def __init__(self, n_in: int, hidden: tuple[int, ...], num_layers: int = 2, state_size: int = 16,
                 expand_factor: int = 2, conv_size: int = 4):
        super().__init__(n_in, hidden, [
            MambaLayer(hidden[-1], state_size, expand_factor, conv_size) for _ in range(num_layers)])


# name of the flag -> its class; the scripts list them as a Literal
BACKBONES = {"mlp": MLP, "gru": GRU, "lstm": LSTM, "transformer": Transformer, "hybrid": Hybrid, "mamba": Mamba}
OPTIONS = {"num_layers": Range(1, 64), "num_heads": Range(1, 1024), "window_size": Range(1, 65536),
           "state_size": Range(1, 65536), "expand_factor": Range(1, 64), "conv_size": Range(2, 1024)}


def backbone_options(backbone: str, **given: int | None) -> dict[str, int]:
    """All options of a backbone: those `given` (None: not given), and the defaults of the others. UserError for one
    that it does not have, or that is no whole number in its range."""
    options = {name: parameter.default for name, parameter in inspect.signature(BACKBONES[backbone]).parameters.items()
               if name in OPTIONS}
    for name, value in given.items():
        if value is None:
            continue
        if name not in options:
            has = ", ".join(map(as_flag, options)) or "none"
            raise UserError(f"{as_flag(name)}: not an option of {backbone}, which has {has}; leave it out")
        if type(value) is not int:
            raise UserError(f"{as_flag(name)} {printable(repr(value), 60)}: must be a whole number")
        check_number(name, value, OPTIONS[name])
        options[name] = value
    return options

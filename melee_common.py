"""What every stage of CleanMelee shares: networks, matches between them, checkpoints.

    one game frame                 FRAME record    (cleanmelee/frame.py), from a .slp file, the embedded game or Dolphin
    observe(frames, controllers,   Observation     (cleanmelee/observation.py): floats and ints, one row for each
            pending)                               player, seen from that player's side, with what it has chosen and
                                                   what has not acted yet
    Policy.step / Policy.unroll    action indices  [..., 13]: eight buttons, main x/y, c x/y, shoulder
    decode_actions(actions, ..)    CONTROLLER record (cleanmelee/controller.py), which makes the next frame

Time: post[t-1] + pre[t] -> post[t]. A policy that has seen frames[t] chooses controllers[t + 1 + frame_delay], and what
it has chosen for the frames between is part of what it sees. Every stage keeps to that.

Sections, in the order of their arrows: policy, matches between policies, checkpoints. The networks between embedding
and heads are in cleanmelee/backbones.py; what needs no torch, such as the vectorised games (cleanmelee/games.py), is
in rooms of its own, so that an exported policy plays without it."""

import copy
import functools
import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from cleanmelee.archive import DEEPEST, MOST_OPCODES, open_archive
from cleanmelee.backbones import BACKBONES, OPTIONS, backbone_options, linear
from cleanmelee.cli import UserError, as_flag
from cleanmelee.controller import (
    ACTION_SIZE, HEADS, NEUTRAL_ACTION, NUM_BUTTONS, NUM_LOGITS, NUM_SHOULDER, NUM_STICK, STICK_NEUTRAL, decode_actions,
    mirrored,
)
from cleanmelee.features import (
    INT_LIMITS, ITEMS, NANAS, TABLE_ROWS, Lens, check_ablated, id_columns, make_lens, num_floats,
)
from cleanmelee.files import atomic_write, read_file
from cleanmelee.frame import FRAME, NUM_ITEMS, NUM_PLAYERS
from cleanmelee.games import VecEnv
from cleanmelee.names import check_players, number
from cleanmelee.observation import Observation, Pending, check_timing, observe, schema_hash
from cleanmelee.plain import Plain
from cleanmelee.runs import best_checkpoint, versions
from cleanmelee.terminal import printable

# ---------------------------------------------------------------------------------------------------------------------
# Policy: embedding -> backbone -> value, and controller heads sampled one after the other
# ---------------------------------------------------------------------------------------------------------------------

# Sampled at 60 Hz, Bernoulli(.5) buttons are mashing and uniform sticks tremble on the spot. A fresh policy therefore
# starts near how often people hold each button and where their sticks rest.
_INITIAL_PRESS = {"A": .06, "B": .05, "X": .05, "Y": .03, "Z": .01, "L": .03, "R": .03, "D_UP": .001}
_INITIAL_NEUTRAL = {"main_x": .35, "main_y": .6, "c_x": .96, "c_y": .96}  # the rest: half on full tilt, half between
_INITIAL_NO_SHOULDER = .92


def _initial_bias(head: str) -> torch.Tensor:
    if head == "buttons":
        return torch.logit(torch.tensor(list(_INITIAL_PRESS.values())))
    if head == "shoulder":
        p = [_INITIAL_NO_SHOULDER] + [(1 - _INITIAL_NO_SHOULDER) / (NUM_SHOULDER - 1)] * (NUM_SHOULDER - 1)
        return torch.tensor(p).log()
    rest = 1 - _INITIAL_NEUTRAL[head]
    p = torch.full((NUM_STICK,), rest / 2 / (NUM_STICK - 3))
    p[0] = p[-1] = rest / 4
    p[STICK_NEUTRAL] = _INITIAL_NEUTRAL[head]
    return p.log()


class Embedding(nn.Module):
    """Observation [..., ] -> [..., size]: learned tables for ids, items pooled so that slot order does not matter,
    Nanas, who are mostly absent, in a few numbers."""

    def __init__(self, frame_delay: int = 0, action_dim: int = 32, character_dim: int = 8, item_dim: int = 16,
                 nana_dim: int = 8, name_dim: int = 8):
        super().__init__()
        self.action = nn.Embedding(TABLE_ROWS["action"], action_dim)
        self.character = nn.Embedding(TABLE_ROWS["character"], character_dim)
        self.stage = nn.Embedding(TABLE_ROWS["stage"], character_dim)
        self.item_type = nn.Embedding(TABLE_ROWS["item_type"], item_dim)
        self.nana_action = nn.Embedding(TABLE_ROWS["nana_action"], nana_dim)
        for table in (self.action, self.character, self.stage, self.item_type, self.nana_action):
            nn.init.normal_(table.weight, std=.3)
        self.name = nn.Embedding(TABLE_ROWS["name"], name_dim)
        nn.init.zeros_(self.name.weight)                                    # nobody in particular
        self.item = linear((ITEMS.stop - ITEMS.start) // NUM_ITEMS, item_dim)
        self.nana = linear((NANAS.stop - NANAS.start) // NUM_PLAYERS, nana_dim)
        self.actions, self.characters, self.stages, self.items, self.nanas, self.names = (
            id_columns(table) for table in ("action", "character", "stage", "item_type", "nana_action", "name"))
        others = num_floats(frame_delay) - ITEMS.stop                       # nanas, items, then what is left as it is
        self.size = others + 2 * (action_dim + character_dim + nana_dim) + character_dim + item_dim + name_dim
        self.has_lens = False

    def look_through(self, lens: Lens | None) -> None:
        self.has_lens = lens is not None
        for name, part in lens._asdict().items() if lens else ():           # buffers, to go where the weights go
            part = torch.from_numpy(part).to(self.action.weight.device)
            self.register_buffer(f"lens_{name}", part, persistent=False)

    def forward(self, obs: Observation, most_items: int = NUM_ITEMS) -> torch.Tensor:
        """most_items: no frame of these has more; empty slots are added up for nothing."""
        floats, ints = obs.floats, obs.ints.int()
        if self.has_lens:
            floats, ints = Lens(self.lens_floats, self.lens_ids, self.lens_own).show(floats, ints)
        items = floats[..., ITEMS].unflatten(-1, (NUM_ITEMS, -1))[..., :most_items, :]              # [..., items, f]
        types = self.item_type(ints[..., self.items][..., :most_items])
        embedded = F.relu(self.item(items) + types)                                                 # [..., items, E]
        pooled = (embedded * items[..., :1]).sum(-2)                        # [..., E] of those that are present
        nanas = floats[..., NANAS].unflatten(-1, (NUM_PLAYERS, -1))                                 # [..., 2, f]
        climbing = F.relu(self.nana(nanas) + self.nana_action(ints[..., self.nanas])) * nanas[..., :1]
        return torch.cat([
            floats[..., ITEMS.stop:],
            self.action(ints[..., self.actions]).flatten(-2), self.character(ints[..., self.characters]).flatten(-2),
            self.stage(ints[..., self.stages]).flatten(-2), self.name(ints[..., self.names]).flatten(-2),
            pooled, climbing.flatten(-2)], -1)


def most_items(floats: torch.Tensor) -> int:
    """How many item slots, filled from the first on, are in use in floats [..., F]; all that there are, where torch
    compiles for any frame."""
    if torch.compiler.is_compiling():
        return NUM_ITEMS
    present = floats[..., ITEMS].unflatten(-1, (NUM_ITEMS, -1))[..., 0].flatten(0, -2).any(0)       # [items]
    return int(present.nonzero().max()) + 1 if present.any() else 0


class ControllerHead(nn.Module):
    """Autoregressive controller: each head sees the features plus a zero-initialised residual of what was sampled
    before it. Independent heads cannot press B with a direction; the residual starts at nothing and learns that."""

    def __init__(self, n_in: int, width: int = 128):
        super().__init__()
        self.project = linear(n_in, width)
        self.logits = nn.ModuleDict({name: linear(width, n, .01) for name, n in HEADS.items()})
        self.seen_buttons = nn.Linear(NUM_BUTTONS, width, bias=False)
        self.seen = nn.ModuleDict({name: nn.Embedding(n, width) for name, n in list(HEADS.items())[1:-1]})
        nn.init.zeros_(self.seen_buttons.weight)
        for table in self.seen.values():
            nn.init.zeros_(table.weight)
        with torch.no_grad():
            for name, layer in self.logits.items():
                layer.bias.copy_(_initial_bias(name))

    def forward(self, features: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """Teacher-forced: features [..., H], the actions taken [..., 13] -> logits [..., 81]."""
        seen = self.project(features)
        logits = [self.logits["buttons"](F.relu(seen))]
        seen = seen + self.seen_buttons(actions[..., :NUM_BUTTONS].to(features.dtype))
        for k, name in enumerate(list(HEADS)[1:]):
            logits.append(self.logits[name](F.relu(seen)))
            if name in self.seen:
                seen = seen + self.seen[name](actions[..., NUM_BUTTONS + k].int())
        return torch.cat(logits, -1)

    def sample(self, features: torch.Tensor, noise: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """features [B, H], uniform noise [B, 81] in (0, 1) or None for the most likely -> actions [B, 13] int64 and the
        logits [B, 81] that they were drawn from.

        A frame of play is forty small operations, most of them here: calling a layer's function instead of the layer,
        and few slices, make this a fifth faster."""
        layers, tables, seen = self.logits, self.seen, self.project(features)
        logits = [F.linear(torch.relu(seen), layers["buttons"].weight, layers["buttons"].bias)]
        noisy = logits[0]
        if noise is not None:
            noise = noise.clamp(1e-6, 1 - 1e-6)                             # float32 cannot tell 1 - 1e-8 from 1
            noisy = noisy + torch.logit(noise[:, :NUM_BUTTONS])             # logistic noise: a Bernoulli sample
            gumbel = -torch.log(-torch.log(noise[:, NUM_BUTTONS:]))         # Gumbel noise: a categorical sample
            gumbel = dict(zip(list(HEADS)[1:], gumbel.split(list(HEADS.values())[1:], -1), strict=True))
        pressed, choices = noisy > 0, []
        seen = seen + F.linear(pressed.to(features.dtype), self.seen_buttons.weight)
        for name in list(HEADS)[1:]:
            logits.append(F.linear(torch.relu(seen), layers[name].weight, layers[name].bias))
            choices.append((logits[-1] if noise is None else logits[-1] + gumbel[name]).argmax(-1))
            if name in tables:
                seen = seen + F.embedding(choices[-1], tables[name].weight)
        return torch.cat([pressed.long(), torch.stack(choices, -1)], -1), torch.cat(logits, -1)


def split_logits(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """logits [..., 81] -> of the buttons [..., 8], of both sticks' axes [..., 4, 17], of the shoulder [..., 1, 5]."""
    buttons, sticks, shoulder = logits.split([NUM_BUTTONS, 4 * NUM_STICK, NUM_SHOULDER], -1)
    return buttons, sticks.unflatten(-1, (4, NUM_STICK)), shoulder[..., None, :]


def action_logprobs(logits: torch.Tensor, actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """logits [..., 81], actions [..., 13] -> log-probability and entropy per head, [..., 6] each.

    The entropy of a later head is that of its distribution given the earlier heads' actual choice."""
    buttons, sticks, shoulder = split_logits(logits)
    pressed = actions[..., :NUM_BUTTONS].to(logits.dtype)
    softplus = F.softplus(buttons)
    logprobs = [(buttons * pressed - softplus).sum(-1, keepdim=True)]
    entropies = [(softplus - buttons * buttons.sigmoid()).sum(-1, keepdim=True)]
    index = actions[..., NUM_BUTTONS:].long()
    for block, choice in ((sticks, index[..., :4]), (shoulder, index[..., 4:])):
        log_p = block.log_softmax(-1)                                       # [..., heads, n]
        logprobs.append(log_p.gather(-1, choice[..., None])[..., 0])
        entropies.append(-(log_p.exp() * log_p).sum(-1))
    return torch.cat(logprobs, -1), torch.cat(entropies, -1)


def action_kl(logits: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """KL(logits || other) of two controllers that were shown the same actions: [..., 81] twice -> per head [..., 6].
    The eight buttons of the first head are eight coins."""
    def log_odds(logits):
        buttons, sticks, shoulder = split_logits(logits)
        coins = torch.stack([F.logsigmoid(buttons), F.logsigmoid(-buttons)], -1)                    # [..., 8, 2]
        return coins, sticks.log_softmax(-1), shoulder.log_softmax(-1)

    pairs = zip(log_odds(logits), log_odds(other), strict=True)
    coins, sticks, shoulder = ((p.exp() * (p - q)).sum(-1) for p, q in pairs)
    return torch.cat([coins.sum(-1, keepdim=True), sticks, shoulder], -1)


MAX_HIDDEN = 65536
STATE_SIZE = 2 ** 20                                                    # numbers that a policy may remember of a game


def check_target(target_return) -> None:
    """Raises UserError unless a policy can play for this return, in stocks."""
    if type(target_return) not in (int, float) or not abs(target_return) <= 100:
        raise UserError(f"target_return {printable(repr(target_return), 60)}: must be a number from -100 to 100")


class Policy(nn.Module):
    """Embedding -> backbone -> value and controller heads. `unroll` learns over time, `step` acts on one frame, and
    they agree.

    State is explicit: a flat tuple of tensors [B, ...], empty for the mlp. `config` rebuilds the policy, and says how
    it acts: it decides on every `action_repeat`-th game frame and holds that, and a decision takes effect `frame_delay`
    frames late. With a `target_return` the backbone is also given the return that is to follow (Chen et al. 2021): this
    one, unless `unroll` is told which one did follow. `players` are people whom it tells apart, by player.name of the
    observation: k + 1 for players[k]; where nobody is told it plays as `player`, which is such a number. `ablate` names
    features that it never sees. options: those of the backbone, in cleanmelee/backbones.py (None: its default)."""

    def __init__(self, backbone: str = "mlp", hidden: tuple[int, ...] = (512, 512), action_repeat: int = 1,
                 frame_delay: int = 0, target_return: float | None = None, players: Sequence[str] = (),
                 player: int = 0, ablate: Sequence[str] = (), **options: int | None):
        super().__init__()
        if not isinstance(backbone, str) or backbone not in BACKBONES:
            raise UserError(f"unknown backbone {printable(repr(backbone), 60)}: choose one of {', '.join(BACKBONES)}")
        if not isinstance(hidden, list | tuple) or not hidden or not all(
                type(n) is int and 1 <= n <= MAX_HIDDEN for n in hidden):
            raise UserError(f"hidden sizes must be whole numbers from 1 to {MAX_HIDDEN}, got {printable(hidden, 60)}")
        check_timing(action_repeat, frame_delay)
        options = backbone_options(backbone, **options)
        self.config = {"backbone": backbone, "hidden": list(hidden), "action_repeat": action_repeat,
                       "frame_delay": frame_delay, **options}
        if target_return is not None:
            check_target(target_return)
            self.config["target_return"] = target_return
        if not isinstance(ablate, list | tuple):
            raise UserError(f"ablate {printable(repr(ablate), 60)}: must be names of features")
        check_ablated(ablate)
        if ablate:
            self.config["ablate"] = list(ablate)
        self.embedding = Embedding(frame_delay)
        self.imitate(players, player)
        n_in = self.embedding.size + (target_return is not None)
        self.backbone = BACKBONES[backbone](n_in, tuple(hidden), **options)
        remembered = sum(part[0].numel() for part in self.backbone.initial_state(1, torch.device("meta")))
        if remembered > STATE_SIZE:
            raise UserError(f"{backbone} {list(hidden)} would remember {remembered:,} numbers of every game, and at "
                            f"most {STATE_SIZE:,} are possible; make it smaller")
        self.value_head = linear(self.backbone.size, 1, 1.)
        self.controller_head = ControllerHead(self.backbone.size)

    @property
    def action_repeat(self) -> int:
        return self.config["action_repeat"]

    @property
    def frame_delay(self) -> int:
        return self.config["frame_delay"]

    @property
    def target_return(self) -> float | None:
        return self.config.get("target_return")

    def aim_for(self, target_return: float) -> None:
        """This is the return that it plays for. UserError unless it was trained with --return-conditioning."""
        check_target(target_return)
        if self.target_return is None:
            raise UserError(f"--target-return {target_return}: the policy was not trained with --return-conditioning; "
                            "leave it out, or choose one that was")
        self.config["target_return"] = target_return

    @property
    def players(self) -> list[str]:
        return self.config.get("players", [])

    def imitate(self, players: Sequence[str], player: int) -> None:
        """These are the people whom it tells apart, and this one it plays as."""
        check_players(players, player)
        if players:
            self.config |= {"players": list(players), "player": player}
        self.embedding.look_through(self._lens())
        self._plain = None                                                  # its weights as arrays, once asked for

    def _lens(self) -> Lens | None:
        return make_lens(self.frame_delay, self.config.get("ablate", ()), self.config.get("player", 0))

    def play_as(self, player: str) -> None:
        """UserError unless it was told this name in training."""
        self.imitate(self.players, number(player, self.players))

    @property
    def num_floats(self) -> int:
        """Of the observations that it reads."""
        return num_floats(self.frame_delay)

    @property
    def device(self) -> torch.device:
        return self.value_head.weight.device

    def initial_state(self, batch: int) -> tuple[torch.Tensor, ...]:
        return self.backbone.initial_state(batch, self.device)

    def _aimed(self, x: torch.Tensor, returns: torch.Tensor | None) -> torch.Tensor:
        """x [..., n] embedded, returns [...] or None -> what the backbone is given [..., n or n + 1]."""
        if self.target_return is None:
            return x
        aim = x[..., :1] * 0 + self.target_return if returns is None else returns[..., None]
        return torch.cat([x, aim], -1)

    def unroll(self, obs: Observation, state: tuple, resets: torch.Tensor,
               returns: torch.Tensor | None = None) -> tuple[torch.Tensor, tuple]:
        """obs [T, B, ...], state at the start, resets [T, B] (True: obs[t] begins a game, the state before it is
        cleared), returns [T, B] that followed (None: target_return) -> features [T, B, H], the state after the last
        frame."""
        x = self.embedding(obs, most_items(obs.floats))
        return self.backbone.unroll(self._aimed(x, returns), state, resets)

    def features(self, obs: Observation, state: tuple) -> tuple[torch.Tensor, tuple]:
        """One frame: obs [B, ...] -> features [B, H], new state."""
        return self.backbone.step(self._aimed(self.embedding(obs), None), state)

    def step(self, obs: Observation, state: tuple, noise: torch.Tensor | None) -> tuple[torch.Tensor, tuple]:
        """obs [B, ...], uniform noise [B, 81] (None: the most likely action) -> actions [B, 13], new state."""
        features, state = self.features(obs, state)
        return self.controller_head.sample(features, noise)[0], state

    def act(self, obs: Observation, state: tuple, noise: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        """As `step`, with what a learner remembers of it: -> actions [B, 13], new state, log-probabilities [B] of the
        actions, values [B]."""
        features, state = self.features(obs, state)
        actions, logits = self.controller_head.sample(features, noise)
        return actions, state, action_logprobs(logits, actions)[0].sum(-1), self.value(features)

    forward = act                                                           # what torch.func calls

    def act_plainly(self, obs: Observation, state: tuple, noise: torch.Tensor | None) -> tuple:
        """`act` for few rows on the CPU, several times faster: all arrays but the state."""
        if self._plain is None:
            layers = len(self.config["hidden"]) if self.config["backbone"] == "mlp" else 0
            weights = {name: p.detach().numpy() for name, p in self.named_parameters()}
            self._plain = Plain(weights, layers, self._lens())
        x = self._plain.embed(obs.floats.numpy(), obs.ints.numpy())
        if self.target_return is not None:
            x = np.concatenate([x, np.full((len(x), 1), self.target_return, np.float32)], 1)
        if not self._plain.layers:
            features, state = self.backbone.step(torch.from_numpy(x), state)
            x = features.detach().numpy()
        actions, *judged = self._plain.decide(x, None if noise is None else noise.numpy())
        return actions, state, *judged

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_plain": None}                             # a copy has weights of its own

    def value(self, features: torch.Tensor) -> torch.Tensor:
        return self.value_head(features)[..., 0]

    def logits(self, features: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        return self.controller_head(features, actions)


@torch.no_grad()
def evaluate_actions(policy: Policy, obs: Observation, state: tuple, starts: torch.Tensor,
                     actions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and log-probabilities [T, B] that `policy` gives to a rollout, which begins with memory `state`. Some
    columns at a time: a forward over all of a long rollout needs megabytes for each game."""
    parts, columns = [], max(1, 4096 // len(actions))
    for s in (slice(k, k + columns) for k in range(0, actions.shape[1], columns)):
        seen = Observation(obs.floats[:, s], obs.ints[:, s])
        features, _ = policy.unroll(seen, tuple(x[s] for x in state), starts[:, s])
        logprobs, _ = action_logprobs(policy.logits(features, actions[:, s]), actions[:, s])
        parts.append((policy.value(features), logprobs.sum(-1)))
    values, logprobs = (torch.cat(column, 1) for column in zip(*parts, strict=True))
    return values, logprobs


def reset_state(state: tuple, resets: torch.Tensor) -> tuple:
    """Clears the rows of a policy state where resets [B] is True."""
    return tuple(s * (~resets).to(s.dtype).view(-1, *[1] * (s.dim() - 1)) for s in state)


def to_torch(obs: Observation, device: torch.device | str = "cpu") -> Observation:
    return Observation(torch.from_numpy(obs.floats).to(device), torch.from_numpy(obs.ints).to(device))


def as_array(x: torch.Tensor | np.ndarray) -> np.ndarray:
    return x if isinstance(x, np.ndarray) else x.cpu().numpy()


def parse_hidden(text: str) -> tuple[int, ...]:
    """"512,512" -> (512, 512)"""
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1 or max(sizes) > MAX_HIDDEN:
        raise UserError(f"--hidden {text!r}: give layer sizes up to {MAX_HIDDEN}, separated by commas, e.g. 512,512")
    return sizes


def network_flags(policy: Policy, **given) -> dict:
    """backbone, hidden, its options (None: the backbone has no such option) and action_repeat of a policy as flags hold
    them. UserError for one that was `given` (None: it was not) and that the policy does not have."""
    own = {**dict.fromkeys(OPTIONS), **policy.config, "hidden": ",".join(map(str, policy.config["hidden"])),
           "ablate": ",".join(policy.config.get("ablate", []))}
    for name, value in given.items():
        wish = ",".join(map(str, parse_hidden(value))) if name == "hidden" and value is not None else value
        if wish not in (None, own[name]):
            has = "none" if own[name] is None else own[name]
            raise UserError(f"{as_flag(name)} {value}: the policy to start from has {has}; leave this flag out, or "
                            "start from another one")
    return own


# ---------------------------------------------------------------------------------------------------------------------
# Matches between policies
# ---------------------------------------------------------------------------------------------------------------------

FEW_ROWS = 1024                                                         # up to which numpy decides no slower than torch


class StackedPolicies:
    """Networks of one shape, side by side: a single batched forward acts for all of them. Their weights are copied
    here, so make a new one when they have learnt."""

    def __init__(self, policies: list[Policy]):
        columns = zip(*(policy.parameters() for policy in policies), strict=True)
        names = [name for name, _ in policies[0].named_parameters()]
        self.params = {name: torch.stack([p.detach() for p in column])
                       for name, column in zip(names, columns, strict=True)}
        # Buffers are columns of the observation, the same in all of them.
        skeleton, buffers = copy.deepcopy(policies[0]).to("meta"), dict(policies[0].named_buffers())
        self.forward = torch.vmap(lambda params, floats, ints, state, noise: torch.func.functional_call(
            skeleton, (params, buffers), (Observation(floats, ints), state, noise)))

    def act(self, obs: list[Observation], states: list[tuple], noise: list[torch.Tensor]) -> list[tuple]:
        """For each policy its observations [B_k, ...], state and noise [B_k, 81] -> for each what its own `act`
        gives."""
        sizes = [len(x) for x in noise]

        def pad(tensors):
            return torch.stack([F.pad(x, (0, 0) * (x.dim() - 1) + (0, max(sizes) - len(x))) for x in tensors])

        actions, new, logprobs, values = self.forward(
            self.params, pad([o.floats for o in obs]), pad([o.ints for o in obs]),
            tuple(pad(parts) for parts in zip(*states, strict=True)), pad(noise))
        return [(actions[k, :size], tuple(s[k, :size] for s in new), logprobs[k, :size], values[k, :size])
                for k, size in enumerate(sizes)]


def act(policies: list[Policy], assignment: np.ndarray, obs: Observation, states: list[tuple], resets: np.ndarray,
        generator: torch.Generator | None, stacked: StackedPolicies | None = None, learners: int = 0,
        told: np.ndarray | None = None) -> np.ndarray:
    """One frame of play for every slot: one forward per distinct policy, over all its games and ports.

    obs is as deep as the latest of them sees; each is shown as much as it was trained to see. assignment [N, 2] says
    which policy of `policies` plays a slot (BOT_SLOT: none). states[k] is the recurrent state of policy k for all 2N
    slots, updated in place of the list; resets [N] marks games that begin with this frame.
    generator None: the most likely action. `stacked` (of the same policies): one forward in all, with the same noise.
    The first `learners` policies write the log-probabilities of their actions and their values into told [2, N, 2].
    Returns actions int8 [N, 2, 13]."""
    n = len(assignment)
    flat = Observation(obs.floats.reshape(2 * n, -1), obs.ints.reshape(2 * n, -1))
    actions = np.empty((2 * n, ACTION_SIZE), np.int8)
    actions[:] = NEUTRAL_ACTION
    slot_resets = torch.from_numpy(np.repeat(resets, 2)) if resets.any() else None
    seats = []                                                         # policy, its rows, what it sees, state and noise
    for k, device in enumerate([policy.device for policy in policies]):
        if slot_resets is not None:
            states[k] = reset_state(states[k], slot_resets.to(device))
        rows = np.flatnonzero(assignment.reshape(-1) == k)
        everyone = len(rows) == 2 * n
        mine = flat if everyone else Observation(flat.floats[rows], flat.ints[rows])
        if policies[k].num_floats < mine.floats.shape[1]:
            mine = Observation(np.ascontiguousarray(mine.floats[:, :policies[k].num_floats]), mine.ints)
        state = states[k] if everyone else tuple(s[torch.from_numpy(rows)] for s in states[k])
        noise = None if generator is None else torch.rand(len(rows), NUM_LOGITS, generator=generator).to(device)
        seats.append((k, rows, to_torch(mine, device), state, noise))
    if stacked is None:
        seats = [seat for seat in seats if len(seat[1])]
        plainly = [policies[k].device.type == "cpu" and len(rows) <= FEW_ROWS for k, rows, *_ in seats]
        chosen = [(policies[k].act_plainly if plain else policies[k].act)(mine, state, noise)
                  for plain, (k, _, mine, state, noise) in zip(plainly, seats, strict=True)]
    else:
        chosen = stacked.act(*(list(column) for column in list(zip(*seats, strict=True))[2:]))
    for (k, rows, *_), (choice, new, *judged) in zip(seats, chosen, strict=True):
        actions[rows] = as_array(choice)
        states[k] = new if len(rows) == 2 * n else tuple(
            old.index_copy(0, torch.from_numpy(rows).to(old.device), part)
            for old, part in zip(states[k], new, strict=True))
        if k < learners:
            for column, of_mine in zip(told.reshape(2, 2 * n), judged, strict=True):
                column[rows] = as_array(of_mine)
    return actions.reshape(n, 2, ACTION_SIZE)


def swap_policy(policies: list[Policy], assignment: np.ndarray, states: list[tuple], game: int, port: int,
                policy: Policy) -> None:
    """Hands a slot of a running game to another policy, such as `pool.load(id)`; all three of `act`'s arguments are
    updated in place. Only this slot's recurrent state begins anew: the policy may be playing other slots already, in
    mid-game."""
    known = [k for k, p in enumerate(policies) if p is policy]
    if not known:
        policies.append(policy)
        states.append(policy.initial_state(assignment.size))
    k = known[0] if known else len(policies) - 1
    resets = torch.zeros(assignment.size, dtype=torch.bool)
    resets[2 * game + port] = True
    states[k] = reset_state(states[k], resets)
    assignment[game, port] = k


def play_games(policies: list[Policy], envs: VecEnv, assignment: np.ndarray, generator: torch.Generator | None,
               watch=lambda actions, before, after, running: None) -> np.ndarray:
    """Every slot of `envs` plays one game to its end -> the final frames [N] (one game a slot: short games are not
    favoured). `watch` is shown every step's actions [N, 2, 13], frames [N] before and after it (of games that end in
    it their last) and which games still run [N]. All policies must act equally late."""
    n, delays = envs.num_games, {policy.frame_delay for policy in policies}
    if len(delays) > 1:
        raise UserError(f"policies that act {' and '.join(map(str, sorted(delays)))} frames late cannot be measured in "
                        "the same games; choose those of one delay")
    pending = Pending(n, *delays, envs.action_repeat)
    states = [p.initial_state(2 * n) for p in policies]
    final, running, resets = envs.frames.copy(), np.ones(n, bool), np.ones(n, bool)
    with torch.inference_mode():
        while running.any():
            obs = observe(envs.frames, envs.controllers, pending.frames)
            actions = act(policies, assignment, obs, states, resets, generator)
            before = np.frombuffer(envs.frames.tobytes(), FRAME)
            chosen = decode_actions(actions, mirrored(envs.frames))
            terminated, truncated, broken = envs.step(pending.push(chosen))
            resets = terminated | truncated
            after = np.where(resets, envs.final_frames, envs.frames) if resets.any() else envs.frames
            watch(actions, before, after, running)
            pending.reset(resets)
            ended = resets & running & ~broken
            final[ended] = envs.final_frames[ended]
            running &= ~ended
    return final


# ---------------------------------------------------------------------------------------------------------------------
# Checkpoints: one file that rebuilds everything, and that nothing is run from
# ---------------------------------------------------------------------------------------------------------------------

CHECKPOINT_FORMAT = 2
CHECKPOINT_FIELDS = {"format": int, "schema": str, "versions": dict, "config": dict, "policy": dict}
OPTIONAL_FIELDS = {"stage": str, "step": int, "iteration": int, "epoch": int, "args": dict, "metrics": dict}


def machine() -> dict[str, str]:
    """What decides the last bit of a sum, and with it a learning curve: versions, torch's threads, instructions."""
    return versions() | {"torch threads": str(torch.get_num_threads()),
                         "instructions": torch.backends.cpu.get_cpu_capability()}


def save_checkpoint(path: str | Path, policy: Policy, **extra) -> Path:
    """One file that rebuilds everything: tensors, numbers, strings, lists and dicts only, so that `weights_only` loads
    it. Arrays become tensors, and those of a card come from it."""
    path = Path(path)
    if taken := extra.keys() & (CHECKPOINT_FIELDS.keys() | policy.config.keys()):
        raise ValueError(f"{', '.join(taken)}: a policy's own, or in its config")
    data = {"format": CHECKPOINT_FORMAT, "schema": schema_hash(), "versions": machine(), "config": policy.config,
            **_tensors({"policy": policy.state_dict(), **extra})}
    _check_finite(data["policy"], f"{path}: not written: ")
    buffer = io.BytesIO()
    torch.save(data, buffer)
    atomic_write(path, buffer.getbuffer())
    return path


def _tensors(x):
    """Arrays and tensors in dicts, lists and tuples, as tensors of the CPU."""
    if isinstance(x, dict):
        return {name: _tensors(value) for name, value in x.items()}
    if isinstance(x, list | tuple):
        return type(x)(map(_tensors, x))
    return torch.from_numpy(x.copy()) if isinstance(x, np.ndarray) else x.cpu() if isinstance(x, torch.Tensor) else x


def _check_finite(weights: dict[str, torch.Tensor], what: str) -> None:
    if not all(torch.isfinite(x).all() for x in weights.values()):
        raise UserError(f"{what}the weights are no longer finite numbers; lower the learning rate or choose another "
                        "checkpoint")


def load_checkpoint(path: str | Path) -> dict:
    """Reads a checkpoint without running anything in it -> plain values of which those in CHECKPOINT_FIELDS and
    OPTIONAL_FIELDS have their types, and of which `config` and `policy` make a policy. UserError says what is wrong and
    what to do. What else a script has put into it is plain values too, but unchecked."""
    path = best_checkpoint(path)
    if not os.path.lexists(path):
        raise UserError(f"{path}: no such checkpoint file; check the path")
    unreadable = (f"{path}: not a readable CleanMelee checkpoint (damaged, or of another program); choose another file "
                  "or train a new one")
    damaged = f"{path}: damaged, choose another file; its"
    try:
        archive = open_archive(read_file(path))
        size = len(archive.getbuffer())
        data = torch.load(archive, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception:  # zipfile, pickletools and torch raise a dozen types for a file that is not their own
        raise UserError(unreadable) from None
    _check_values(data, damaged)
    if type(data) is not dict or not CHECKPOINT_FIELDS.keys() <= data.keys():
        raise UserError(unreadable)
    made_with = data["versions"]
    revision = printable(made_with.get("git", "unknown") if type(made_with) is dict else "unknown", 100)
    if type(data["format"]) is int and data["format"] != CHECKPOINT_FORMAT:
        raise UserError(f"{path}: checkpoint format {data['format']}, this code reads {CHECKPOINT_FORMAT}; train it "
                        f"anew or check out the revision it was made with ({revision})")
    for name, kind in (CHECKPOINT_FIELDS | OPTIONAL_FIELDS).items():
        value = data.get(name, kind())
        if not isinstance(value, kind) or kind is int and (type(value) is bool or not 0 <= value < 2 ** 63):
            raise UserError(f"{damaged} {name} is not what this program writes")
    if data["schema"] != schema_hash():
        raise UserError(f"{path}: made for frame schema {printable(data['schema'], 40)}, this code has "
                        f"{schema_hash()}; train it anew or check out the revision it was made with ({revision})")
    _check_weights(data["policy"], data["config"], size, damaged)
    _check_finite(data["policy"], f"{path}: ")
    return data


def _check_values(data, damaged: str) -> None:
    """Raises UserError unless `data` is plain values in dicts, lists and tuples, not nested too deeply, also if what
    occurs several times is counted every time, and tensors that are as large as they say."""
    waiting = [(data, 0)]
    seen = 0
    while waiting:
        value, depth = waiting.pop()
        seen += 1
        if depth > DEEPEST or seen + len(waiting) > MOST_OPCODES:
            raise UserError(f"{damaged} values are nested too deeply or refer to each other")
        if isinstance(value, dict):                                         # also an OrderedDict
            waiting += [(x, depth + 1) for pair in value.items() for x in pair]
        elif type(value) in (list, tuple):
            waiting += [(x, depth + 1) for x in value]
        elif type(value) is torch.Tensor:
            if value.layout is not torch.strided or value.nbytes > value.untyped_storage().nbytes():
                raise UserError(f"{damaged} tensors are larger than what it holds")
        elif type(value) is int and not -2 ** 63 <= value < 2 ** 64:
            raise UserError(f"{damaged} values include a number of more than 64 bits")


@functools.lru_cache(maxsize=64)
def _layout(hidden: tuple[int, ...], **config) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Names, shapes and types of a policy's weights. It is not built for that: a file may ask for any size."""
    with torch.device("meta"):
        return {name: (x.shape, x.dtype) for name, x in Policy(hidden=hidden, **config).state_dict().items()}


def _check_weights(weights: dict, config: dict, size: int, damaged: str) -> None:
    """Raises UserError unless `weights` has the tensors of a Policy(**config). size: bytes of the whole file."""
    try:
        hidden, num_layers = config["hidden"], config.get("num_layers", 1)
        if type(hidden) is not list or not all(type(n) is int for n in [*hidden, num_layers]):
            raise ValueError
        options = config.keys() - {"backbone", "hidden", "action_repeat", "frame_delay", "target_return", "players",
                                   "player", "ablate"}
        if not options <= OPTIONS.keys() or max(len(hidden), num_layers) > len(weights):            # a weight a layer
            raise ValueError
        check_timing(config["action_repeat"], config["frame_delay"])
        expected = _layout(**{name: tuple(x) if type(x) is list else x for name, x in config.items()})
    except UserError as error:
        raise UserError(f"{damaged} config makes no policy here: {error}") from None
    except (KeyError, TypeError, ValueError, RuntimeError):
        raise UserError(f"{damaged} config {printable(config, 200)} is none of this code's") from None
    for name in expected.keys() | weights.keys():
        theirs = weights.get(name)
        if type(theirs) is not torch.Tensor or expected.get(name) != (theirs.shape, theirs.dtype):
            raise UserError(f"{damaged} weights do not fit its own sizes ({printable(name, 100)})")
    if sum(x.nbytes for x in weights.values()) > size:
        raise UserError(f"{damaged} weights lie in each other")


@torch.no_grad()
def _check_plays(policy: Policy, what: str) -> None:
    """Raises UserError unless what the policy answers is finite wherever it looks: at every row of its tables, and at
    floats beyond those of a game."""
    rows = torch.arange(max(TABLE_ROWS.values()))[:, None]
    for k in rows.split(64):                                                # of what a large policy remembers
        ints = torch.minimum(k, torch.from_numpy(INT_LIMITS)).short()                               # [rows, I]
        obs = Observation((10. * (k % 3 - 1)).repeat(1, policy.num_floats), ints)                   # -10, 0, 10
        actions = k % torch.tensor([2] * NUM_BUTTONS + [NUM_STICK] * 4 + [NUM_SHOULDER])            # [rows, 13]
        state = policy.initial_state(len(k))
        for _ in range(2):
            features, state = policy.features(obs, state)
            for x in (policy.value(features), policy.logits(features, actions), *state):
                if not torch.isfinite(x).all():
                    raise UserError(f"{what}its weights are so large that its answers are no finite numbers; choose "
                                    "another checkpoint")


def load_policy(path: str | Path) -> tuple[Policy, dict]:
    """-> the policy in eval mode, and the whole checkpoint."""
    data = load_checkpoint(path)
    policy = Policy(**data["config"])
    policy.load_state_dict(data["policy"])
    _check_plays(policy, f"{path}: ")
    return policy, data

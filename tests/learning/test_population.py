"""Opponents, populations, and the ways of learning that a plain run leaves off: each test fails if its promise is
broken."""

import argparse
import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from cleanmelee import evaluation
from cleanmelee import selfplay as selfplay_room
from cleanmelee.cli import parse_matchups
import ppo_selfplay
from bench_matchmaking import LEARNERS, draw, league
from cleanmelee.cli import UserError
from cleanmelee.controller import HEADS, NEUTRAL_ACTION, NUM_BUTTONS, NUM_LOGITS
from cleanmelee.evaluation import Evaluator
from cleanmelee.frame import CHARACTERS, STAGES
from cleanmelee.game import BOTS
from cleanmelee.games import BOT_SLOT, VecEnv, matchups
from cleanmelee.observation import Observation
from cleanmelee.pool import Pool, Ratings
from cleanmelee.population import Turn, make_learners, pbt_round
from melee_common import Policy, action_kl, action_logprobs, load_checkpoint, load_policy, save_checkpoint
from cleanmelee.selfplay import MIRROR, SelfPlay
from ppo_selfplay import OPPONENT, Matchmaker, assign_opponents, compute_gae, evaluation_settings
from ppo_selfplay import Args, main
from helpers import FRAMES, metrics, random_actions, random_observation, slow_gae, tiny

HYPER = {"learning_rate": 3e-4, "entropy_coef": 7e-4, "ppo_clip": .2}


def learning_curve(run: Path) -> dict[str, np.ndarray]:
    rows = metrics(run)
    return {key: np.array([row.get(key, 0) for row in rows]) for key in rows[-1] if isinstance(rows[-1][key], float)}


def assert_same_curve(a: Path, b: Path, atol: float) -> None:
    """Float tolerance: a row's result moves in the last bits with the batch it is computed in."""
    a, b = learning_curve(a), learning_curve(b)
    assert set(a) == set(b) and len(a) > 5
    for key in a:
        assert np.allclose(a[key], b[key], atol=atol, rtol=1e-3), key


# ---------------------------------------------------------------------------------------------------------- matchmaking

@pytest.fixture(scope="module")
def history(tmp_path_factory):
    return league(tmp_path_factory.mktemp("pool"))


def share(counts, test) -> float:
    return sum(n for name, n in counts.items() if test(name)) / sum(counts.values())


def drawn(history, me="agent1", **options):
    return draw(Matchmaker(Args(**{"opponent_bots": "", **options}), LEARNERS, *history), me)


def test_each_strategy_meets_whom_it_says(history):
    pool, ratings = history
    assert drawn(history, matchmaking="self") == {MIRROR: 2000}
    assert .15 < share(drawn(history, matchmaking="simple_mix"), lambda name: name != MIRROR) < .25
    assert set(drawn(history, matchmaking="historical")) == set(pool.ids())
    assert set(drawn(history, matchmaking="population")) == {"agent2", "agent3"}
    assert set(drawn(history, matchmaking="historical", history_prob=0.)) == {MIRROR}
    near = drawn(history, matchmaking="league")
    distance = lambda name: abs(ratings.elo(name) - ratings.elo("agent1"))
    assert share(near, lambda name: name != MIRROR and distance(name) > 400) == 0


def test_pfsp_prefers_hard_ones_or_even_ones(history):
    _, ratings = history
    hard, even = drawn(history, matchmaking="pfsp"), drawn(history, matchmaking="pfsp", pfsp_weighting="even")
    strong = lambda name: name != MIRROR and ratings.winrate("agent1", name) < .3
    equal = lambda name: name != MIRROR and .3 <= ratings.winrate("agent1", name) <= .7
    assert share(hard, strong) > 2 * share(hard, equal) and share(even, equal) > share(even, strong)


def test_pfsp_forgets_nobody(history):
    """Even one that always loses is met now and then, and more often once its defeats are long past."""
    pool, _ = history
    ratings, names = Ratings(), pool.ids()
    matchmaker = Matchmaker(Args(matchmaking="pfsp", history_prob=1., opponent_bots=""), LEARNERS, pool, ratings)
    for _ in range(200):
        for k, name in enumerate(names):
            ratings.record("agent1", name, float(k == 0))
    before = ratings.winrate("agent1", names[0])
    assert before > .95 and matchmaker.pfsp("agent1", names, "hard")[0] > .09 / len(names)
    assert draw(matchmaker, "agent1", 4000)[names[0]] > 10
    for _ in range(3000):
        ratings.record("agent1", names[1], 0.)
    assert ratings.winrate("agent1", names[0]) < .8 and ratings.winrate("agent1", names[1]) < .05
    everyone = Ratings()
    for _ in range(2000):
        for name in names:
            everyone.record("agent1", name, 1.)
    assert (Matchmaker(Args(), LEARNERS, pool, everyone).pfsp("agent1", names, "even") > 0).all()


def test_history_begins_with_the_initial_policy(tmp_path):
    for strategy in ("historical", "pfsp", "league"):
        run = tmp_path / strategy
        main(tiny(tmp_path, strategy, 6, matchmaking=strategy, pool_interval=100, history_prob=None))
        ratings = load_checkpoint(run / "checkpoints" / "latest.pt")["ratings"]
        assert set(ratings["payoff"]["main"]) == {"main_000000000000"} == set(Pool(run / "pool").ids())
        agent_frames = metrics(run)[0]["charts/agent_frames"]
        assert agent_frames == 4 * 16 if strategy == "historical" else 4 * 16 < agent_frames < 2 * 4 * 16
        initial = load_checkpoint(run / "checkpoints" / "initial.pt")["policy"]
        assert all(
            torch.equal(initial[k], v) for k, v in Pool(run / "pool").load("main_000000000000").state_dict().items())


def test_bots_and_a_fixed_opponent(history):
    mixed = drawn(history, matchmaking="self", opponent_bots="random,level5", bot_prob=.3)
    assert .25 < share(mixed, lambda name: name in BOTS) < .35 and {"random", "level5", MIRROR} == set(mixed)
    assert set(drawn(history, opponent="frozen.pt")) == {OPPONENT}


def test_roles_of_the_league(history):
    pool, ratings = history
    main_role = drawn(history, league=True)
    assert .3 < share(main_role, lambda name: name == MIRROR) < .6          # and what is left of the forgotten ones
    assert set(drawn(history, "agent2", league=True)) == {"agent1"}         # a chance against the present main agent
    assert set(drawn(history, "agent3", league=True)) <= set(pool.ids())
    hopeless = Ratings()
    for _ in range(60):
        hopeless.record("agent2", "agent1", 0.)
    exploiter = draw(Matchmaker(Args(league=True, opponent_bots=""), LEARNERS, pool, hopeless), "agent2")
    assert {Pool.agent(name) for name in exploiter} == {"agent1"} and len(exploiter) == 8      # its past instead

    matchmaker = Matchmaker(Args(league=True, league_reset_frames=100), LEARNERS, pool, hopeless)
    rng = np.random.default_rng(0)
    assert not matchmaker.league.starts_anew("agent2", 99, rng) and matchmaker.league.starts_anew("agent2", 100, rng)
    assert not any(matchmaker.league.starts_anew("agent1", 10 ** 9, rng) for _ in range(20))
    again = [matchmaker.league.starts_anew("agent3", 100, rng) for _ in range(400)]
    assert 60 < sum(again) < 140
    lucky = Ratings()
    for _ in range(9):
        lucky.record("agent2", "agent1", 1.)
    matchmaker.league.ratings = lucky
    assert not matchmaker.league.starts_anew("agent2", 1, rng)                     # a few games prove nothing
    for _ in range(5):
        lucky.record("agent2", "agent1", 1.)
    assert matchmaker.league.starts_anew("agent2", 1, rng)                         # it has done what it was for
    lucky.forget("agent2")
    assert not matchmaker.league.starts_anew("agent2", 1, rng) and lucky.elo("agent2") == 1500
    assert lucky.winrate("agent2", "agent1") == lucky.winrate("agent1", "agent2") == .5
    assert lucky.payoff["agent2"]["agent1"] == [14, 0, 0]                   # what was counted stays


def test_the_number_of_networks_at_a_time_is_bounded(tmp_path, monkeypatch):
    most = []

    def watched(selfplay, *rest):
        assign_opponents(selfplay, *rest)
        most.append(len(selfplay.policy_ids) - 1)

    monkeypatch.setattr(ppo_selfplay, "assign_opponents", watched)
    for bound in (2, 3):
        most.clear()
        main(tiny(tmp_path, f"run{bound}", 12, matchmaking="historical", opponents_per_iteration=bound, num_games=8))
        assert max(most) == bound


@pytest.mark.parametrize("games, most", [(8, 4), (64, 4), (64, 1000)])
def test_bounded_opponents_stay_fresh(tmp_path, games, most):
    """A quarter of the games, each ten iterations long, against history, which grows by one checkpoint every 25
    iterations."""
    args = Args(num_games=games, opponents_per_iteration=most, hidden="4", seed=3, opponent_bots="", history_prob=.25)
    pool, tiny_policy = Pool(tmp_path, history_size=20), Policy("mlp", (4,))
    pool.add(tiny_policy, "main", 0)
    met, ages = set(), []
    with VecEnv(games, CHARACTERS["fox"], 32) as envs:
        ratings = Ratings()
        selfplay = SelfPlay(envs, make_learners(tiny_policy, HYPER, seed=3), pool, ratings, seed=3, most_opponents=most)
        matchmaker = Matchmaker(args, ["main"], pool, ratings)
        for iteration in range(1, 601):
            selfplay.begin_iteration()
            selfplay.dones = (iteration + np.arange(games)) % 10 == 0       # games that begin: not all at the same time
            assign_opponents(selfplay, matchmaker, args)
            frozen = [name for name in selfplay.opponents if name != MIRROR]
            assert len(set(frozen)) == len(selfplay.policy_ids) - 1 <= most
            if iteration > 200:
                met.update(frozen)
                ages += [len(pool.all_ids()) - 1 - pool.all_ids().index(name) for name in frozen]
            if iteration % 25 == 0:
                pool.add(tiny_policy, "main", iteration)
    assert len(met) >= 15 and 7 < np.mean(ages) < 12, (len(met), np.mean(ages))


@pytest.mark.parametrize("swap", ["reset", "rollout"])
def test_when_opponents_change(tmp_path, monkeypatch, swap):
    """Games end twice in a rollout: with `rollout` the second one keeps the first one's opponent."""
    draws, begun, matchmaker_draw = [], [], Matchmaker.draw
    monkeypatch.setattr(Matchmaker, "draw", lambda self, *a: (draws.append(1), matchmaker_draw(self, *a))[1])
    monkeypatch.setattr(ppo_selfplay, "assign_opponents", lambda selfplay, *rest: (
        begun.append(int(selfplay.dones.sum())), assign_opponents(selfplay, *rest)))
    main(tiny(tmp_path, "run", 6, opponent_swap=swap, max_episode_frames=10))
    assert len(draws) == sum(begun) if swap == "reset" else len(draws) <= 4 * 6 < sum(begun)


def test_characters_stages_and_ports_take_turns(tmp_path, monkeypatch):
    seen, act = set(), selfplay_room.act

    def watched(policies, assignment, obs, states, resets, *rest):
        for g in np.flatnonzero(resets):
            frame = envs[0].frames[g]
            port = players[0].port[g]
            mine, theirs = frame["players"]["character"][[port, 1 - port]]
            seen.add((int(port), int(mine), int(theirs), int(frame["stage"])))
        return act(policies, assignment, obs, states, resets, *rest)

    envs, players, vec_init, init = [], [], VecEnv.__init__, SelfPlay.__init__
    monkeypatch.setattr(VecEnv, "__init__", lambda self, *a, **k: (envs.append(self), vec_init(self, *a, **k))[1])
    monkeypatch.setattr(SelfPlay, "__init__", lambda self, *a, **k: (players.append(self), init(self, *a, **k))[1])
    monkeypatch.setattr(selfplay_room, "act", watched)
    main(
        tiny(
            tmp_path, "run", 12, character="fox,link", opponent_character="marth",
            stage="battlefield,final_destination", max_episode_frames=8, num_workers=2)
    )
    expected = {
        (port, CHARACTERS[mine], CHARACTERS["marth"], STAGES[stage])
        for port in (0, 1)
        for mine in ("fox", "link")
        for stage in ("battlefield", "final_destination")
    }
    assert seen == expected
    characters, _ = matchups(parse_matchups("low_tiers", "", "all"), np.arange(60), np.zeros(60, int))
    assert len(set(map(tuple, characters.tolist()))) == 5 and (characters[:, 0] == characters[:, 1]).all()


# ----------------------------------------------------------------------------------------------------------- population

def storages(learner):
    moments = [x for state in learner.optimizer.state.values() for x in state.values()]
    tensors = [*learner.policy.state_dict().values(), *moments]
    return {tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.numel()}


def test_learners_share_nothing(tmp_path, monkeypatch):
    kept, pbt = [], ppo_selfplay.pbt_round
    monkeypatch.setattr(
        ppo_selfplay, "pbt_round", lambda learners, *rest: (kept.append(learners), pbt(learners, *rest))[1])
    main(tiny(tmp_path, "run", 16, population_size=4, pbt=True, pbt_interval=1, matchmaking="population"))
    learners = kept[-1]
    for k, a in enumerate(learners):
        assert len(storages(a)) > 20
        for b in learners[k + 1:]:
            assert not storages(a) & storages(b) and a.rng is not b.rng and a.hyper is not b.hyper
    rows = [json.loads(line) for line in (tmp_path / "run" / "pbt.jsonl").read_text().splitlines()]
    assert len(rows) >= 4 and all(row["learner"] != row["copied"] for row in rows)


def test_a_round_of_pbt():
    learners, ratings = make_learners(Policy("mlp", (8,)), HYPER, seed=1, size=5, varied=HYPER), Ratings()
    rates = [learner.hyper["learning_rate"] / HYPER["learning_rate"] for learner in learners]
    assert len(set(rates)) == 5 and all(1 / 3.01 < rate < 3.01 for rate in rates)
    for k, learner in enumerate(learners):
        ratings.row(learner.name)[0] = 1500 + 10. * k
    ratings.recent = {"agent1": {"agent2": [0., 9.]}, "agent2": {"agent1": [9., 9.]}}
    before = [learner.policy.value_head.weight.clone() for learner in learners]
    events = pbt_round(learners, ratings, HYPER)
    assert [(event["learner"], event["copied"]) for event in events] == [("agent1", "agent5")]
    assert torch.equal(learners[0].policy.value_head.weight, before[4])
    assert all(torch.equal(x.policy.value_head.weight, old) for x, old in zip(learners[1:], before[1:], strict=True))
    assert {round(learners[0].hyper[key] / learners[4].hyper[key], 6) for key in learners[0].hyper} <= {.8, 1.2}
    assert ratings.elo("agent1") == ratings.elo("agent5")
    assert ratings.winrate("agent1", "agent2") == ratings.winrate("agent2", "agent1") == .5   # those were other weights


def test_hyperparameters_that_a_controller_moves_are_not_varied(tmp_path):
    for line, varies in ("", True), ("6:.2", False):
        name = f"varies_{varies}"
        main(tiny(tmp_path, name, 2, population_size=2, pbt=True, pbt_interval=1000, target_entropy=line))
        saved = load_checkpoint(tmp_path / name / "checkpoints" / "latest.pt")
        first, second = (saved[f"learner_agent{k}"]["hyper"] for k in (1, 2))
        assert first["learning_rate"] != second["learning_rate"]
        assert (abs(first["entropy_coef"] / second["entropy_coef"] - 1) > .05) == varies
    winner, loser = make_learners(Policy("mlp", (8,)), HYPER, seed=1, size=2)
    ratings = Ratings()
    ratings.row(winner.name)[0] = 1600
    winner.hyper["entropy_coef"] = .123
    pbt_round([winner, loser], ratings, ["learning_rate"])
    assert loser.hyper["entropy_coef"] == .123 and loser.hyper["learning_rate"] != winner.hyper["learning_rate"]


def test_entropy_goes_by_a_learners_own_frames(tmp_path, monkeypatch):
    """As many as if it were alone; who starts anew in the league begins the line anew."""
    ages, hold = [], ppo_selfplay.hold_entropy
    monkeypatch.setattr(ppo_selfplay, "hold_entropy", lambda hyper, logprobs, args, age: (
        ages.append((age, hyper["entropy_coef"])), hold(hyper, logprobs, args, age))[1])
    args = tiny(tmp_path, "two", 6, population_size=2, target_entropy="6:.2")
    main(args)
    frames = ppo_selfplay.frames_per_update(args)
    assert [age for age, _ in ages] == [frames * (k // 2) for k in range(6)] and len({weight for _, weight in ages}) > 3
    ages.clear()
    monkeypatch.setattr(ppo_selfplay.League, "starts_anew", lambda self, me, *rest: me == "main_exploiter")
    main(tiny(tmp_path, "league", 9, population_size=3, league=True, pool_interval=1, target_entropy="6:.2"))
    begins = 0, ppo_selfplay.DEFAULTS["scratch"]["entropy_coef"]
    assert ages[1::3] == [begins] * 3 and ages[0] == begins and ages[3][0] == frames and ages[6][0] == 2 * frames


def test_a_turn_ends_by_win_rate_patience_or_frames_and_keeps_its_best():
    learners = make_learners(Policy("mlp", (8,)), HYPER, seed=1, size=2)
    turn, weight = Turn(winrate=.8, games=4, patience=2, frames=1000), learners[0].policy.value_head.weight

    def played(score, mark, step, games=4):
        turn.scores += [score] * games
        weight.data.fill_(mark)
        weight.grad = torch.ones_like(weight)
        learners[0].optimizer.step()
        weight.data.fill_(mark)
        return turn.over(learners[0], step)

    assert not played(.5, 1., 10) and not played(.6, 2., 20) and not played(.4, 3., 30)
    assert not played(1., 9., 35, games=2)                                  # too few games to say so
    assert played(0., 4., 40, games=2)                                      # twice without a better one
    assert turn.pass_on(learners, 40) == 1 and (weight == 2).all() and turn.best == -1
    index = next(k for k, p in enumerate(learners[0].policy.parameters()) if p is weight)
    assert learners[0].optimizer.state_dict()["state"][index]["step"] == 2  # the optimiser is the one of then, too
    assert played(.9, 5., 50)                                               # good enough
    assert turn.pass_on(learners, 50) == 0
    assert not played(.1, 6., 1049) and played(.2, 7., 1050)                # out of time


OPTIONS = {
    "population": {"population_size": 3, "matchmaking": "population"},
    "pbt": {"population_size": 3, "pbt": True, "pbt_interval": 2},
    "round-robin": {
        "population_size": 2, "train_order": "round-robin", "matchmaking": "population", "turn_patience": 1,
        "turn_games": 1},
    "league": {"population_size": 3, "league": True, "league_reset_frames": 400},
    "pfsp": {"matchmaking": "pfsp", "prune": "worst"},
    "bots": {"opponent_bots": "random,level3", "bot_prob": 0.5, "opponent_swap": "rollout"},
    "characters": {"character": "fox,marth", "stage": "all", "train_interval": 2},
    "near": {"matchmaking": "league"},
    "no files kept": {"keep_retired": False, "history_size": 2},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_resume_equals_never_having_stopped(tmp_path, options):
    games = 4 * options.get("population_size", 1) * options.get("train_interval", 1)
    frames = FRAMES * games // 4 if options.get("train_order") != "round-robin" else FRAMES
    main(tiny(tmp_path, "whole", timesteps=6 * frames, **options))
    main(tiny(tmp_path, "parts", timesteps=4 * frames, **options))
    main(Args(resume=str(tmp_path / "parts"), timesteps=6 * frames))
    assert len(metrics(tmp_path / "whole")) == 6 and metrics(tmp_path / "whole") == metrics(tmp_path / "parts")
    a, b = (load_checkpoint(tmp_path / name / "checkpoints" / "latest.pt") for name in ("whole", "parts"))
    assert a["ratings"] == b["ratings"] and all(torch.equal(a["policy"][k], b["policy"][k]) for k in a["policy"])


@pytest.mark.parametrize("options", [{"teacher_kl": .3, "value_burn_in": 2, "target_kl": .01},
                                     {"population_size": 2, "parallel_actions": True, "parallel_training": True}],
                         ids=["teacher", "parallel"])
def test_resume_with_memory(tmp_path, options):
    """What a recurrent policy and its teacher remember of games that a checkpoint cuts in two goes on as well."""
    torch.manual_seed(2)
    save_checkpoint(tmp_path / "bc.pt", Policy("gru", (12, 12), action_repeat=2))
    frames = FRAMES * options.get("population_size", 1)
    for name, iterations in (("whole", 7), ("parts", 4)):
        main(tiny(tmp_path, name, timesteps=iterations * frames, pretrained=str(tmp_path / "bc.pt"), **options))
    main(Args(resume=str(tmp_path / "parts"), timesteps=7 * frames))
    assert len(metrics(tmp_path / "whole")) == 7 and metrics(tmp_path / "whole") == metrics(tmp_path / "parts")


# ------------------------------------------------------------------------------------------------- the parallel paths

@pytest.mark.parametrize("backbone", ["mlp", "gru"])
def test_one_update_on_fixed_rollouts(tmp_path, monkeypatch, backbone):
    """The same rollouts, learnt from one learner after the other, side by side, and with stacked networks acting: the
    weights after the update are equal to 1e-5."""
    collect, update, kept, weights = ppo_selfplay.collect, ppo_selfplay.update, [], {}

    def same_rollouts(*given):
        rollouts = collect(*given)
        kept.append(rollouts)
        for name, rollout in rollouts.items():                        # every way of acting has sampled the same actions
            assert (rollout["actions"] == kept[0][name]["actions"]).all()
        return kept[0]

    def watched(learner, *rest):
        row = update(learner, *rest)
        weights[run, learner.name] = {k: v.clone() for k, v in learner.policy.state_dict().items()}
        return row

    monkeypatch.setattr(ppo_selfplay, "collect", same_rollouts)
    monkeypatch.setattr(ppo_selfplay, "update", watched)
    flags = {"sequential": {}, "actions": {"parallel_actions": True}, "training": {"parallel_training": True}}
    for run, options in flags.items():
        main(
            tiny(
                tmp_path, run, 1, timesteps=2 * FRAMES, population_size=2, backbone=backbone, learning_rate=1e-2,
                **options)
        )
    for name in ("agent1", "agent2"):
        for run in ("actions", "training"):
            expected = weights["sequential", name]
            assert all(torch.allclose(v, expected[k], atol=1e-5, rtol=0) for k, v in weights[run, name].items())

@pytest.mark.parametrize("backbone", ["mlp", "gru"])
def test_parallel_paths_learn_as_the_sequential_one(tmp_path, backbone):
    """Same seed, same learning curve, to 1e-4: one batched forward for stacked networks, and learners in threads."""
    options = {"population_size": 3, "matchmaking": "pfsp", "backbone": backbone, "iterations": 3}
    for name, flags in {
        "sequential": {}, "actions": {"parallel_actions": True}, "training": {"parallel_training": True},
        "both": {"parallel_actions": True, "parallel_training": True}}.items():
        main(tiny(tmp_path, name, **options, **flags))
    for name in ("actions", "training", "both"):
        assert_same_curve(tmp_path / "sequential", tmp_path / name, 1e-4)


def test_threads_play_the_same_games_as_processes(tmp_path):
    for name, options in {"alone": {}, "processes": {"num_workers": 2},
                          "threads": {"num_workers": 2, "use_threads": True}}.items():
        main(tiny(tmp_path, name, **options))
    assert metrics(tmp_path / "alone") == metrics(tmp_path / "processes") == metrics(tmp_path / "threads")


def test_asynchronous_learning_lags_by_one(tmp_path, monkeypatch):
    """A rollout is collected with the weights of one update ago, but with the present ones right after a checkpoint."""
    lags, learnt = [], [0]
    prepare, update, deepcopy = ppo_selfplay.prepare, ppo_selfplay.update, ppo_selfplay.copy.deepcopy
    collect = ppo_selfplay.collect

    def watched_collect(selfplay, *rest):
        rollouts, learner = collect(selfplay, *rest), selfplay.learners[0]
        assert learner.acting is not learner.policy
        rollouts[learner.name]["of"] = learner.acting
        return rollouts

    def watched_copy(thing, *rest):
        new = deepcopy(thing, *rest)
        if isinstance(thing, Policy):
            new.updates = learnt[0]                                         # how much it had learnt when it was copied
        return new

    def watched_prepare(learner, rollout, *rest):
        lags.append(learner.updates - rollout["of"].updates)
        return prepare(learner, rollout, *rest)

    def watched_update(learner, *rest):
        row = update(learner, *rest)
        learnt[0] = learner.updates
        return row

    monkeypatch.setattr(ppo_selfplay.copy, "deepcopy", watched_copy)
    monkeypatch.setattr(ppo_selfplay, "collect", watched_collect)
    monkeypatch.setattr(ppo_selfplay, "prepare", watched_prepare)
    monkeypatch.setattr(ppo_selfplay, "update", watched_update)
    main(tiny(tmp_path, "run", 9, async_learning=True, save_interval=4, pool_interval=100))
    assert lags == [0, 1, 1, 1, 0, 1, 1, 1, 0]
    errors = [row["losses/first_ratio_error"] for row in metrics(tmp_path / "run")]
    assert [error > 1e-4 for error in errors] == [lag > 0 for lag in lags]


def test_asynchronous_runs_are_repeatable_and_can_run_ahead(tmp_path):
    rollout = 2 * 4 * 16
    for name, options in {
        "a": {}, "b": {}, "ahead": {"max_buffer_size": 3 * rollout, "vtrace": True}, "sync": {}}.items():
        main(tiny(tmp_path, name, 5, async_learning=name != "sync", pool_interval=100, save_interval=100, **options))
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")
    assert len(metrics(tmp_path / "ahead")) == 5 and metrics(tmp_path / "a") != metrics(tmp_path / "sync")


def test_vtrace_against_a_slow_sum():
    rng = np.random.default_rng(0)
    T, gamma, lam = 30, .97, .9
    rewards, values, next_values, logratio = rng.normal(size=(4, T)).astype(np.float32)
    terminated, truncated = rng.random((2, T)) < .1
    truncated &= ~terminated
    rho = np.minimum(1, np.exp(logratio)).astype(np.float32)
    advantages, targets = compute_gae(rewards, values, next_values, terminated, truncated, gamma, lam, rho)
    for t in range(T):                                                      # v_s of Espeholt et al., equation 1
        target, weight = values[t], 1.
        for k in range(t, T):
            delta = rewards[k] + gamma * (0 if terminated[k] else next_values[k]) - values[k]
            target += weight * rho[k] * delta
            weight *= gamma * lam * rho[k]
            if terminated[k] or truncated[k]:
                break
        assert targets[t] == pytest.approx(target, abs=1e-4)
    plain = compute_gae(rewards, values, next_values, terminated, truncated, gamma, lam)
    ones = compute_gae(rewards, values, next_values, terminated, truncated, gamma, lam, np.ones_like(rho))
    assert np.array_equal(plain[0], ones[0]) and np.allclose(plain[1], plain[0] + values, atol=1e-5)
    assert not np.allclose(advantages, plain[0])


# ----------------------------------------------------------------------------------------------------------- the update

def one_update(tmp_path, name, **options):
    """-> the learner before, after and what the update said, from the same rollout for every caller."""
    kept, prepare, update = {"rollouts": []}, ppo_selfplay.prepare, ppo_selfplay.update
    args = tiny(tmp_path, name, 1, history_prob=0., **options)
    with pytest.MonkeyPatch.context() as patch:
        def watched_prepare(learner, rollout, *rest):
            kept["rollouts"].append(rollout)
            return prepare(learner, rollout, *rest)

        def watched(learner, *rest):
            kept.update(learner=learner, before={k: v.clone() for k, v in learner.policy.state_dict().items()})
            kept["row"] = update(learner, *rest)
            return kept["row"]

        patch.setattr(ppo_selfplay, "prepare", watched_prepare)
        patch.setattr(ppo_selfplay, "update", watched)
        main(args)
    return kept


def filled(**options) -> Args:
    args = Args(**options)
    ppo_selfplay.fill_in(args, Policy("mlp", (16, 16)))
    return args


def plain_gradient(kept, args) -> dict[str, torch.Tensor]:
    """PPO's first step over a whole rollout, spelt out: slow sums, the distributions of torch.distributions."""
    rollout, policy = kept["rollouts"][0], Policy("mlp", (16, 16))
    policy.load_state_dict(kept["before"])
    T, N = rollout["starts"].shape
    obs = Observation(*(torch.from_numpy(np.ascontiguousarray(x)) for x in rollout["obs"]))
    actions = torch.from_numpy(np.ascontiguousarray(rollout["actions"])).long()                 # [T, N, 2, 13]
    features, _ = policy.unroll(obs, (), None)
    values, logits = policy.value(features), policy.logits(features, actions)
    v = values.detach().numpy()
    next_values = np.concatenate([v[1:], rollout["last_value"][None]])
    next_values[rollout["truncated"]] = rollout["bootstrap"][rollout["truncated"]]
    advantages = torch.zeros(T, N, 2)
    for n in range(N):
        for port in (0, 1):
            advantages[:, n, port] = torch.from_numpy(slow_gae(
                rollout["rewards"][:, n, port], v[:, n, port], next_values[:, n, port], rollout["terminated"][:, n],
                rollout["truncated"][:, n], args.gamma, args.gae_lambda))
    heads = [torch.distributions.Independent(torch.distributions.Bernoulli(logits=logits[..., :NUM_BUTTONS]), 1)]
    taken, offset = [actions[..., :NUM_BUTTONS].float(), *actions[..., NUM_BUTTONS:].unbind(-1)], NUM_BUTTONS
    for size in list(HEADS.values())[1:]:
        heads.append(torch.distributions.Categorical(logits=logits[..., offset:offset + size]))
        offset += size
    logprob = sum(head.log_prob(action) for head, action in zip(heads, taken, strict=True))
    normalised = (advantages - advantages.mean()) / advantages.std(correction=0)
    loss = (-(normalised * (logprob - logprob.detach()).exp()).mean()
            + args.value_coef * .5 * ((values - (advantages + values.detach())) ** 2).mean()
            - args.entropy_coef * sum(head.entropy() for head in heads).mean())
    loss.backward()
    norm = sum((p.grad ** 2).sum() for p in policy.parameters()).sqrt()
    return {name: p.grad * min(1., args.max_grad_norm / norm) for name, p in policy.named_parameters()}


@pytest.mark.parametrize(
    "options",
    [
        {}, {"entropy_coef": 0.5}, {"entropy_coef": 0.0}, {"value_coef": 4.0}, {"value_coef": 0.0}, {"gae_lambda": 0.3},
        {"gamma": 0.8}, {"max_grad_norm": 0.01}, {"max_grad_norm": 1e9}],
)
def test_a_step_is_the_one_that_the_coefficients_ask_for(tmp_path, options):
    """Adam's first moment after one step is a tenth of the gradient. Every coefficient here changes it by more than the
    tolerance: a wrong sign, or one that is ignored, shows."""
    options = {"gamma": .99, "gae_lambda": .95, "target_entropy": "", **options}
    common = {"ppo_epochs": 1, "batch_size": 10 ** 6, "learning_rate": 1e-3, "reward_approach": 1.}
    kept = one_update(tmp_path, "run", **common, **options)
    args = filled(**options)
    expected, learner = plain_gradient(kept, args), kept["learner"]
    others = [
        filled(**{key: value, **{k: v for k, v in options.items() if k != key}})
        for key, value in (
            ("entropy_coef", -args.entropy_coef - 0.1), ("value_coef", args.value_coef + 1), ("gae_lambda", 0.6),
            ("gamma", 0.9))
    ]
    far = lambda a, b: max((a[name] - b[name]).abs().max().item() for name in a)
    got = {name: learner.optimizer.state[p]["exp_avg"] / .1 for name, p in learner.policy.named_parameters()}
    scale = max(g.abs().max().item() for g in expected.values())
    assert far(got, expected) < 1e-3 * scale < min(far(expected, plain_gradient(kept, other)) for other in others)
    for name, p in learner.policy.named_parameters():                       # and Adam's step is made of it
        step = 1e-3 * got[name] / (got[name].abs() + 1e-5)
        assert torch.allclose(p, kept["before"][name] - step, atol=1e-6)


def test_the_learning_rate_falls_and_the_last_update_learns(tmp_path):
    used, step = [], torch.optim.Adam.step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", lambda self: used.append(self.param_groups[0]["lr"]) or step(self))
        main(tiny(tmp_path, "run", 4, anneal_lr=True, learning_rate=3e-4, batch_size=10 ** 6))
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert used == [row["charts/learning_rate"] for row in rows] == pytest.approx([3e-4 * f for f in (1, .75, .5, .25)])


@pytest.mark.parametrize("backbone", ["mlp", "gru"])
def test_accumulated_gradients_are_those_of_the_minibatch(tmp_path, backbone):
    whole = one_update(tmp_path, "whole", backbone=backbone, batch_size=10 ** 6)
    parts = one_update(tmp_path, "parts", backbone=backbone, batch_size=10 ** 6, grad_accum=3)
    a, b = (x["learner"].policy.state_dict() for x in (whole, parts))
    assert all(torch.allclose(a[k], b[k], atol=1e-5) for k in a)
    assert whole["row"]["losses/grad_norm"] == pytest.approx(parts["row"]["losses/grad_norm"], rel=1e-3)


def kl_of_update(kept):
    rollout, learner = kept["rollouts"][0], kept["learner"]
    old = Policy(**learner.policy.config)
    old.load_state_dict(kept["before"])
    T, N = rollout["starts"].shape
    obs = Observation(*(torch.from_numpy(np.ascontiguousarray(x)).flatten(1, 2) for x in rollout["obs"]))
    actions = torch.from_numpy(np.ascontiguousarray(rollout["actions"])).flatten(1, 2)
    starts = torch.from_numpy(np.repeat(rollout["starts"], 2, 1))
    with torch.no_grad():
        a, b = (action_logprobs(p.logits(p.unroll(obs, rollout["state"], starts)[0], actions), actions)[0].sum(-1)
                for p in (learner.policy, old))
    return ((a - b).exp() - 1 - (a - b)).mean().item()


@pytest.mark.parametrize("backbone", ["mlp", "gru"])
def test_an_epoch_that_goes_too_far_is_taken_back(tmp_path, backbone):
    """Whatever the step size, an update moves the policy by --target-kl at most, its last step included."""
    for k, (rate, epochs, batch) in enumerate([(.003, 6, 64), (.3, 1, 10 ** 6), (.3, 3, 64), (1., 2, 16)]):
        options = {"learning_rate": rate, "ppo_epochs": epochs, "batch_size": batch, "backbone": backbone}
        free = one_update(tmp_path, f"free{k}", **options)
        held = one_update(tmp_path, f"held{k}", target_kl=.02, **options)
        assert kl_of_update(free) > .02 >= kl_of_update(held) and held["row"]["losses/reverted"] == 1
        assert not held["row"]["losses/update_kl"] <= .02                   # of the epoch that was taken back
        assert held["row"]["losses/minibatches"] <= free["row"]["losses/minibatches"]
    steps = lambda kept: max(
        (x["step"].item() for x in kept["learner"].optimizer.state_dict()["state"].values()), default=0)
    assert steps(held) == 0 < steps(free)                                   # Adam's state as well
    calm = one_update(tmp_path, "calm", learning_rate=1e-5, target_kl=.02)
    assert calm["row"]["losses/reverted"] == 0 and 0 < calm["row"]["losses/update_kl"] < .02


@pytest.mark.parametrize("league", [False, True])
def test_a_network_that_is_replaced_remembers_nothing(tmp_path, monkeypatch, league):
    """Copied by population-based training, or started anew in the league, in the middle of all games."""
    memories, prepare = [], ppo_selfplay.prepare
    monkeypatch.setattr(ppo_selfplay, "prepare", lambda learner, rollout, *rest: (
        memories.append((learner.name, rollout["state"][0].any().item())) or prepare(learner, rollout, *rest)))
    monkeypatch.setattr(ppo_selfplay.League, "starts_anew", lambda self, me, *rest: me == "main_exploiter")
    options = {"league": True, "pool_interval": 1} if league else {"pbt": True, "pbt_interval": 1}
    size = 3 if league else 2
    main(tiny(tmp_path, "run", 2 * size, backbone="gru", population_size=size, max_episode_frames=0, **options))
    replaced = {"main_exploiter"} if league else {
        json.loads(line)["learner"] for line in (tmp_path / "run" / "pbt.jsonl").read_text().splitlines()[:1]}
    assert [remembers for _, remembers in memories[:size]] == [False] * size    # all games begin
    assert dict(memories[size:]) == {name: name not in replaced for name, _ in memories[:size]}


def test_an_asynchronous_update_that_fails_costs_its_rollouts(tmp_path, monkeypatch, capsys):
    """The games go on; the third failure in a row ends the run."""
    calls, update = [], ppo_selfplay.update

    def failing(*given):
        calls.append(given[-1])
        if len(calls) in (2, 3, 6, 7, 8):
            raise ArithmeticError("singular")
        return update(*given)

    monkeypatch.setattr(ppo_selfplay, "update", failing)
    main(tiny(tmp_path, "run", 5, async_learning=True))
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert ["losses/entropy" in row for row in rows] == [True, False, False, True, True]
    assert [row["iteration"] for row in rows] == [1, 2, 3, 4, 5]
    assert capsys.readouterr().out.count("ArithmeticError: singular") == 2
    with pytest.raises(ArithmeticError):
        main(tiny(tmp_path, "other", 5, async_learning=True))


def test_the_teacher_forgets_games_that_are_handed_over():
    learners = make_learners(Policy("mlp", (8,)), HYPER, seed=1, size=2)
    with VecEnv(4, CHARACTERS["fox"], 32) as envs:
        selfplay = SelfPlay(envs, learners, argparse.Namespace(ids=list), Ratings(), seed=1, one_at_a_time=True)
        learners[1].teacher_state = (torch.ones(8, 8),)
        selfplay.hand_over(1)
    assert learners[1].teacher_state == ()


def test_burning_in_the_value_head_leaves_the_policy_alone(tmp_path):
    kept = one_update(tmp_path, "run", value_burn_in=1)
    after = kept["learner"].policy.state_dict()
    changed = {name for name in after if not torch.equal(after[name], kept["before"][name])}
    assert changed == {"value_head.weight", "value_head.bias"}
    kept = one_update(tmp_path, "off")
    name = "controller_head.project.weight"
    assert not torch.equal(kept["learner"].policy.state_dict()[name], kept["before"][name])


def test_the_teacher_holds_the_policy(tmp_path):
    """How far the actions have moved from the teacher's, on the same observations."""
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "bc.pt", Policy("gru", (12, 12), action_repeat=2))
    seen, actions = random_observation(0, 8, 64), torch.from_numpy(random_actions(np.random.default_rng(0), 8, 64))
    drift = {}
    for name, options in {"free": {}, "held": {"teacher_kl": 30.},
                          "forgotten": {"teacher_kl": 30., "teacher_kl_half_life": 1.}}.items():
        main(tiny(tmp_path, name, 8, pretrained=str(tmp_path / "bc.pt"), learning_rate=3e-3, value_burn_in=0,
                  **{"teacher_kl": 0., **options}))
        new, old = (load_policy(tmp_path / name / "checkpoints" / f"{which}.pt")[0] for which in ("latest", "initial"))
        with torch.no_grad():
            logits = [
                policy.logits(
                    policy.unroll(seen, policy.initial_state(64), torch.zeros(8, 64, dtype=torch.bool))[0], actions)
                for policy in (old, new)
            ]
            drift[name] = action_kl(*logits).sum(-1).mean().item()
    assert drift["held"] < .1 * drift["free"] and drift["forgotten"] > .25 * drift["free"], drift
    assert metrics(tmp_path / "held")[-1]["losses/teacher_kl"] > 0


def test_action_kl_is_that_of_the_distributions():
    torch.manual_seed(0)
    p, q = torch.randn(2, 40, NUM_LOGITS).unbind()
    expected = [torch.distributions.kl_divergence(
        *(torch.distributions.Bernoulli(logits=x[:, :NUM_BUTTONS]) for x in (p, q))).sum(-1)]
    offset = NUM_BUTTONS
    for size in list(HEADS.values())[1:]:
        expected.append(torch.distributions.kl_divergence(
            *(torch.distributions.Categorical(logits=x[:, offset:offset + size]) for x in (p, q))))
        offset += size
    assert torch.allclose(action_kl(p, q), torch.stack(expected, -1), atol=1e-4) and action_kl(p, p).abs().max() < 1e-5


def test_a_policy_that_did_not_act_is_noticed(tmp_path, monkeypatch):
    """The first minibatch's ratio must be 1: here the weights change between acting and learning."""
    logprobs = ppo_selfplay.action_logprobs

    def shifted(logits, actions):
        return logprobs(logits + (.1 * torch.randn_like(logits) if torch.is_grad_enabled() else 0), actions)

    monkeypatch.setattr(ppo_selfplay, "action_logprobs", shifted)
    with pytest.raises(RuntimeError, match="not the one that acted"):
        main(tiny(tmp_path, "run", 1))


def test_intervals_of_updates(tmp_path):
    main(tiny(tmp_path, "frames", timesteps=800, update_interval="100"))    # 4 games x 2 frames: 12 steps
    assert metrics(tmp_path / "frames")[0]["global_step"] == 12 * 4 * 2
    main(tiny(tmp_path, "two", timesteps=2 * 2 * FRAMES, train_interval=2, history_prob=0.))
    rows = metrics(tmp_path / "two")
    assert len(rows) == 2 and rows[0]["charts/agent_frames"] == 2 * 2 * 4 * 16


# ------------------------------------------------------------------------------------------------------------- strength

def strength(**options) -> dict:
    """Keyword arguments of measure_strength."""
    return evaluation_settings(Args(**{
        "eval_games": 4, "eval_opponents": "idle,level1", "max_episode_frames": 60, **options}))


def test_strength_in_the_background_is_the_same(tmp_path):
    rows = {}
    for background in (False, True):
        run = tmp_path / str(background)
        save_checkpoint(run / "checkpoints" / "initial.pt", Policy("mlp", (8,), action_repeat=3))
        torch.manual_seed(3)
        evaluator = Evaluator(run, strength(), 0, in_background=background)
        policies = [Policy("mlp", (8,)) for _ in range(2)]
        for step, policy in enumerate(policies):
            evaluator.submit(policy, step)
        if not rows:
            initial = (run / "checkpoints" / "initial.pt").read_bytes()
        else:
            (run / "checkpoints" / "initial.pt").write_bytes(initial)
            list(evaluator.finished())                                      # starts the process
            os.kill(evaluator.process.pid, signal.SIGKILL)                  # it is started again, nothing is lost
        rows[background] = list(evaluator.finished(wait=True))
        evaluator.close()
        assert not list(run.glob("checkpoints/eval_*"))
    assert [row["global_step"] for row in rows[True]] == [0, 1]
    assert all(a["eval/winrate_level1"] == b["eval/winrate_level1"] for a, b in zip(*rows.values(), strict=True))


def test_what_a_kill_leaves_unmeasured_is_measured_later(tmp_path):
    run = tmp_path / "run"
    policy = Policy("mlp", (8,))
    save_checkpoint(run / "checkpoints" / "initial.pt", policy)
    killed = Evaluator(run, strength(), 0, in_background=False)
    killed.submit(policy, 100)
    killed.submit(policy, 200)
    assert [row["global_step"] for row in Evaluator(run, strength(), 150, in_background=False).finished()] == [100]
    assert not list(run.glob("checkpoints/eval_*"))                         # 200 will be reached and measured again


def test_strength_knows_a_collapse_and_a_held_out_policy(tmp_path):
    torch.manual_seed(0)
    initial, mashing, frozen = Policy("mlp", (8,)), Policy("mlp", (8,)), Policy("mlp", (8,))
    save_checkpoint(tmp_path / "held.pt", initial)
    with torch.no_grad():
        mashing.controller_head.logits["buttons"].bias.fill_(3.)
        for name, layer in frozen.controller_head.logits.items():
            layer.bias.fill_(-20.)
            if name != "buttons":
                layer.bias[len(layer.bias) // 2 if name != "shoulder" else 0] = 20.
    args = strength(held_out=str(tmp_path / "held.pt"))
    sound = evaluation.measure_strength(initial, initial, 0, **args)
    assert sound["eval/collapse"] == [] and sound["eval/drift"] < .05 and 0 <= sound["eval/winrate_heldout"] <= 1
    broken = evaluation.measure_strength(mashing, initial, 0, **args)
    assert "mashing" in broken["eval/collapse"] and broken["eval/drift"] > .2
    still = evaluation.measure_strength(frozen, initial, 0, **args)
    assert {"frozen", "entropy"} == set(still["eval/collapse"])            # in games of a second, nobody is hurt anyway
    still = evaluation.measure_strength(frozen, initial, 0, **strength(max_episode_frames=1800, eval_opponents="idle"))
    assert {"frozen", "entropy", "passive"} == set(still["eval/collapse"])


def test_training_does_not_wait_for_its_evaluation(tmp_path):
    main(tiny(tmp_path, "run", 6, eval_interval=2, eval_in_background=True))
    steps = [json.loads(line)["global_step"] for line in (tmp_path / "run" / "eval.jsonl").read_text().splitlines()]
    assert steps == [0, 2 * FRAMES, 4 * FRAMES, 6 * FRAMES]


# ----------------------------------------------------------------------------------------------------------- bad values

def test_an_opponent_with_another_action_repeat_is_refused(tmp_path):
    save_checkpoint(tmp_path / "other.pt", Policy("mlp", (8,), action_repeat=1))
    with pytest.raises(UserError, match="action-repeat"):
        main(tiny(tmp_path, "run", 1, opponent=str(tmp_path / "other.pt")))


def test_a_best_response_meets_nobody_else(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    save_checkpoint(tmp_path / "frozen.pt", Policy("gru", (8, 8), action_repeat=2))
    main(tiny(tmp_path, "run", 6, opponent=str(tmp_path / "frozen.pt"), max_episode_frames=10, track_elo=True))
    rows = metrics(tmp_path / "run")
    # one side learns
    assert rows[-1]["charts/agent_frames"] == sum(row["charts/agent_frames"] > 0 for row in rows) * 4 * 16
    payoff = load_checkpoint(tmp_path / "run" / "checkpoints" / "latest.pt")["ratings"]["payoff"]
    assert set(payoff["main"]) == {OPPONENT}
    table = capsys.readouterr().out.partition("Elo (start 1500)")[2]
    cell = "-".join(map(str, payoff["main"][OPPONENT]))
    assert OPPONENT in table and cell in table and "main W-D-L" in table


def test_opponents_are_kept_with_the_run(tmp_path, monkeypatch):
    """The files of --opponent and --held-out may change or go, and the run may be resumed from another folder."""
    torch.manual_seed(1)
    for name in ("frozen", "held"):
        save_checkpoint(tmp_path / f"{name}.pt", Policy("mlp", (8,), action_repeat=2))
    options = {"opponent": "frozen.pt", "held_out": "held.pt", "eval_interval": 3, "runs_dir": "."}
    monkeypatch.chdir(tmp_path)
    main(tiny(tmp_path, "whole", 6, **options))
    main(tiny(tmp_path, "parts", 3, **options))
    for name in ("frozen", "held"):
        (tmp_path / f"{name}.pt").unlink()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    main(Args(resume="../parts", timesteps=6 * FRAMES))
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "parts")
    rows = [json.loads(line) for line in (tmp_path / "parts" / "eval.jsonl").read_text().splitlines()]
    assert [row["global_step"] for row in rows] == [0, 3 * FRAMES, 6 * FRAMES] and "eval/winrate_heldout" in rows[-1]


def test_opponents_that_must_not_be(tmp_path):
    a, b, slow = (str(tmp_path / f"{name}.pt") for name in ("a", "b", "slow"))
    save_checkpoint(a, Policy("mlp", (8,), action_repeat=2))
    save_checkpoint(slow, Policy("mlp", (8,), action_repeat=2, frame_delay=3))
    Path(b).write_bytes(Path(a).read_bytes())
    for options, words in (({"opponent": a, "held_out": b}, "held-out"), ({"opponent": slow}, "opponent.*3 frames"),
                           ({"held_out": slow}, "held-out.*3 frames")):
        with pytest.raises(UserError, match=words):
            main(tiny(tmp_path, "run", 1, **options))
    assert not (tmp_path / "run").exists()


def test_pool_files_for_other_games_are_passed_over(tmp_path, capsys):
    main(tiny(tmp_path, "run", 1))
    for name, about in {"fast": {"action_repeat": 1}, "slow": {"action_repeat": 2, "frame_delay": 3}}.items():
        save_checkpoint(tmp_path / "run" / "pool" / f"{name}_000000000000.pt", Policy("mlp", (8,), **about))
    main(Args(resume=str(tmp_path / "run"), timesteps=8 * FRAMES))
    payoff = load_checkpoint(tmp_path / "run" / "checkpoints" / "latest.pt")["ratings"]["payoff"]
    assert payoff["main"] and not {name for name in payoff if "fast" in name or "slow" in name}
    assert capsys.readouterr().err.count("not for 2 and 0") == 2


def test_an_evaluator_that_cannot_live_does_not_end_the_training(tmp_path, monkeypatch):
    popen = evaluation.subprocess.Popen
    monkeypatch.setattr(evaluation.subprocess, "Popen", lambda command, **options: popen(["/bin/false"], **options))
    started = time.monotonic()
    main(tiny(tmp_path, "run", 6, eval_interval=1, eval_in_background=True))
    assert len(metrics(tmp_path / "run")) == 6 and time.monotonic() - started < 20
    assert not (tmp_path / "run" / "eval.jsonl").exists()
    log = []
    evaluator = Evaluator(tmp_path / "run", strength(), 0, log=log.append)
    assert [step for step, _ in evaluator.jobs] == [0]                      # kept: what was wrong may be put right
    for step in range(10):
        evaluator.submit(Policy("mlp", (8,)), step)
        evaluator.report(wait=True)
    assert (
        len(log) == 3 and "without evaluations" in log[-1] and len(list(tmp_path.glob("run/checkpoints/eval_*"))) == 1)


def test_a_kill_between_a_row_and_its_file_loses_and_repeats_nothing(tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "checkpoints" / "initial.pt", Policy("mlp", (8,), action_repeat=3))
    options, rows = {"in_background": False, "log": lambda line: None}, tmp_path / "eval.jsonl"
    evaluator = Evaluator(tmp_path, strength(), 0, **options)
    evaluator.submit(Policy("mlp", (8,)), 0)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            evaluator.report()
    assert rows.read_text().count("\n") == 1 and list(tmp_path.glob("checkpoints/eval_*"))
    Evaluator(tmp_path, strength(), 0, **options).report()
    assert rows.read_text().count("\n") == 1 and not list(tmp_path.glob("checkpoints/eval_*"))


def test_a_policy_that_wins_from_one_side_only_is_flagged_and_the_control_stays_even(monkeypatch):
    monkeypatch.setattr(evaluation, "outcomes", lambda frames: np.ones(len(frames)))                # port 1 always wins
    policy = Policy("mlp", (8,), action_repeat=3)
    row = evaluation.measure_strength(policy, policy, 0, **strength(eval_games=32, eval_opponents="idle"))
    assert (row["eval/winrate_control"], row["eval/port_1_score"], row["eval/collapse"]) == (.5, 1, ["one-sided"])


def test_the_control_and_the_drift_are_fair_where_the_matchup_is_not(tmp_path, monkeypatch):
    """The game is decided by the character: Fox always wins. The control is even all the same, and without learning
    there is no drift, though both characters are played differently by whoever plays them."""
    monkeypatch.setattr(evaluation, "outcomes", lambda frames: np.where(
        frames["players"]["character"][:, 0] == CHARACTERS["fox"], 1, -1))
    policy = Policy("mlp", (8,), action_repeat=3)
    row = evaluation.measure_strength(policy, policy, 0, **strength(
        character="fox", opponent_character="gameandwatch", eval_games=32, eval_opponents="idle"))
    assert row["eval/winrate_control"] == .5 and row["eval/winrate_initial"] == 1 and row["eval/collapse"] == []
    assert row["eval/drift"] < .03 and "eval/winrate_reference" not in row


def test_drift_compares_the_same_games(monkeypatch):
    """A policy that acts otherwise against bots than against itself has not drifted from one that does the same."""
    def fake(policies, envs, assignment, generator, watch):
        actions = np.tile(NEUTRAL_ACTION, (*assignment.shape, 1))
        actions[(assignment == BOT_SLOT).any(1), :, 0] = 1     # against bots: A on every frame
        watch(actions, envs.frames, envs.frames, np.ones(len(assignment), bool))
        return envs.frames.copy()

    monkeypatch.setattr(evaluation, "play_games", fake)
    assert evaluation.measure_strength(Policy("mlp", (8,)), Policy("mlp", (8,)), 0, **strength())["eval/drift"] == 0

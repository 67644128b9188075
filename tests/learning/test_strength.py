"""Which generation is kept, what its style is, and the schedules that keep a run learning."""

import dataclasses
import inspect
import itertools
import json
import re

import numpy as np
import pytest
import torch

import ppo_selfplay
from cleanmelee import evaluation, fingerprint, game
from cleanmelee.evaluation import Evaluator, measure_strength
from cleanmelee.fingerprint import Fingerprint, unlike_people, usual
from cleanmelee.frame import FRAME
from cleanmelee.games import VecEnv
from cleanmelee.pool import Pool, Ratings
from cleanmelee.replays import read_replay
from cleanmelee.runs import best_checkpoint
from helpers import FRAMES, metrics, tiny
from melee_common import Policy, load_checkpoint, load_policy, save_checkpoint

SETTINGS = {"seed": 1, "games": 2, "opponents": ["idle"], "held_out": "", "max_episode_frames": 40,
            "combinations": [("mewtwo", "mewtwo", "final_destination")]}


# --------------------------------------------------------------------------------------------------------- the best one

def scripted(scores):
    """measure_strength for policies whose score is scores[step]."""
    def measure(policy, initial, step, *, best=None, best_score=0., **settings):
        return {"global_step": step, "games": 2, "eval/drift": 0., "eval/collapse": [], "eval/score": scores[step],
                "eval/is_best": best is None or scores[step] >= best_score}
    return measure


@pytest.fixture
def run(tmp_path):
    save_checkpoint(tmp_path / "checkpoints" / "initial.pt", Policy("mlp", (8,)))
    return tmp_path


def evaluate(run, *steps, begin=0):
    evaluator = Evaluator(run, SETTINGS, begin, in_background=False, log=lambda line: None)
    for step in steps:
        evaluator.submit(Policy("mlp", (8,)), step)
        evaluator.report()


def best_step(run):
    return load_checkpoint(run / "checkpoints" / "best.pt")["step"]


def test_the_best_generation_is_kept_and_found_by_its_folder(run, monkeypatch):
    monkeypatch.setattr(evaluation, "measure_strength", scripted({10: .3, 20: .6, 30: .5}))
    assert best_checkpoint(run) == run                                      # nothing yet: a folder is no checkpoint
    evaluate(run, 10, 20, 30)
    assert best_step(run) == 20 and best_checkpoint(run) == run / "checkpoints" / "best.pt"
    assert load_policy(run)[1]["step"] == 20 and not list(run.glob("checkpoints/eval_*"))


def test_training_that_goes_back_before_the_best_has_the_one_before(run, monkeypatch):
    monkeypatch.setattr(evaluation, "measure_strength", scripted({10: .3, 20: .6}))
    evaluate(run, 10, 20)
    evaluate(run, begin=15)
    assert best_step(run) == 10
    evaluate(run, begin=5)
    assert not (run / "checkpoints" / "best.pt").exists()
    monkeypatch.setattr(evaluation, "measure_strength", scripted({step: step / 100 for step in range(100)}))
    evaluate(run, *range(10, 90, 10))
    assert len(list(run.glob("checkpoints/best_*.pt"))) == Evaluator.EARLIER
    evaluate(run, begin=55)                                                 # two steps back
    assert best_step(run) == 50


def test_a_kill_between_a_row_and_the_best_keeps_it(run, monkeypatch):
    monkeypatch.setattr(evaluation, "measure_strength", scripted({10: .3}))
    evaluator = Evaluator(run, SETTINGS, 0, in_background=False)
    evaluator.submit(Policy("mlp", (8,)), 10)
    row = next(evaluator.finished())                                        # the row is there, its file not yet gone
    (run / "eval.jsonl").write_text(json.dumps(row) + "\n")
    Evaluator(run, SETTINGS, 10)
    assert best_step(run) == 10 and not list(run.glob("checkpoints/eval_*"))


def test_strength_beside_the_best_and_the_target(tmp_path):
    policy, other = Policy("mlp", (8,)), Policy("mlp", (8,))
    save_checkpoint(tmp_path / "target.pt", other)
    row = measure_strength(policy, other, 0, **SETTINGS, target=str(tmp_path / "target.pt"), best=other, best_score=.2)
    assert {"eval/winrate_opponent", "eval/winrate_best"} <= row.keys()
    lead = row["eval/winrate_idle"] - .2 + row["eval/winrate_best"] - .5
    assert row["eval/score"] == row["eval/winrate_idle"] and row["eval/is_best"] == (lead >= 0)
    assert "style/self_destructs" in row and set(row["style/unlike_people"]) <= usual().keys()
    blind = measure_strength(policy, other, 0, **SETTINGS | {"opponents": ["idle", "random"], "held_out": "random"})
    assert blind["eval/score"] == blind["eval/winrate_idle"]                # who is held out does not choose


def test_a_run_can_be_watched(tmp_path):
    """Every second evaluation leaves a game, played as the policy plays, which reads like any other recording."""
    ppo_selfplay.main(tiny(tmp_path, "run", 4, eval_interval=1, watch_interval=2))
    films = sorted((tmp_path / "run" / "games").glob("*.slp"))
    assert [int(film.stem.split("_")[1]) for film in films] == [0, 2 * FRAMES, 4 * FRAMES]
    replay = read_replay(films[-1])
    held = [len(list(same)) for _, same in itertools.groupby(replay.controllers["main_x"][:, 0].tolist())]
    assert len(replay.frames) >= 40 and min(held[1:-1]) >= 2                # a decision holds for two frames


# ------------------------------------------------------------------------------------------------------------ the style

def frames(*rows):
    """[T, 1] FRAME: dicts of port 0's fields, and of port 1's after `foe`."""
    out = np.zeros((len(rows), 1), FRAME)
    players = out["players"]
    players["action"], players["stocks"], players["port"] = game.WAIT, 4, [0, 1]
    players["last_hit_by"] = 6
    for t, row in enumerate(rows):
        out["frame_id"][t] = 3 * t
        for port, fields in enumerate((row, row.get("foe", {}))):
            for name, value in fields.items():
                if name != "foe":
                    players[name][t, 0, port] = value
    return out


def watched(*rows):
    style, films = Fingerprint(np.array([game.STAGES["final_destination"]])), frames(*rows)
    for before, after in zip(films, films[1:]):
        style.watch(before, after, np.ones(1, bool))
    return style.figures(np.array([[True, False]]))


def test_a_fall_is_a_self_destruct_and_a_kill_is_not():
    per_minute = 3600 / 6
    falls = watched({}, {"airborne": 1, "x": 120}, {"stocks": 3, "action": 0})
    assert falls["self_destructs"] == per_minute and falls["off_stage"] == .5
    killed = watched({}, {"airborne": 1, "percent": 9, "in_hitstun": 1}, {"stocks": 3, "action": 0})
    assert killed["self_destructs"] == 0 and killed["in_hitstun"] == .5


def test_hits_openings_and_kills_are_the_attackers():
    hit = {"percent": 12, "last_hit_by": 0, "in_hitstun": 1}
    blow = {"last_attack": 14}
    row = watched(blow, blow | {"foe": hit}, blow | {"foe": hit | {"percent": 20}},
                  blow | {"foe": {"stocks": 3, "action": 0}})
    assert row["hits"] == 2 * 3600 / 9 and row["damage_per_opening"] == 20 and row["commonest_move"] == 1
    assert row["ko_percent"] == 20 and row["first_hit"] == 0
    selfmade = watched({}, {"foe": {"percent": 12, "last_hit_by": 1}})
    assert selfmade["hits"] == 0 and "commonest_move" not in selfmade


def test_who_walks_in_approaches():
    row = watched({"x": 50}, {"x": 45}, {"x": 15}, {"x": 10})
    assert row["approaches"] == 3600 / 9 and row["distance"] == pytest.approx(15, abs=1)
    assert watched({"foe": {"x": 50}}, {"foe": {"x": 45}}, {"foe": {"x": 15}})["approaches"] == 0


def test_what_is_far_from_people_is_named():
    low, high = usual()["approaches"]
    assert unlike_people({"approaches": (low + high) / 2, "hits": 0.}) == []
    assert unlike_people({"approaches": 2 * high - low + 1, "no_such": 1.}) == ["approaches"]
    assert set(usual()) >= set(watched({}, {"airborne": 1})) - {"first_hit"}
    assert fingerprint.USUAL.exists()


# ----------------------------------------------------------------------------------------------------------- schedules

def test_an_update_sees_as_many_decisions_however_many_games(tmp_path):
    for games, length in ((8, 1024), (128, 64), (1, 1024), (4096, 16)):
        args = dataclasses.replace(tiny(tmp_path, "run"), num_games=games, rollout_length=None)
        ppo_selfplay.fill_in(args, Policy("mlp", (16, 16), 2))
        assert args.rollout_length == length
    args = dataclasses.replace(args, rollout_length=7)
    ppo_selfplay.fill_in(args, Policy("mlp", (16, 16), 2))
    assert args.rollout_length == 7                                         # what a person sets stays


def test_how_a_run_begins_decides_what_was_not_given(tmp_path):
    def filled(**given):
        args = dataclasses.replace(tiny(tmp_path, "run"), **given)
        ppo_selfplay.fill_in(args, Policy("mlp", (16, 16), 2))
        return {flag: getattr(args, flag) for flag in ppo_selfplay.DEFAULTS["scratch"]}
    for name, given in (("scratch", {}), ("pretrained", {"pretrained": "a.pt"}),
                        ("best response", {"pretrained": "a.pt", "opponent": "a.pt"})):
        assert filled(**given) == ppo_selfplay.DEFAULTS[name]
    source = inspect.getsource(ppo_selfplay.Args)
    told = dict(re.findall(r'^    (\w+): .*\n    """[^"]*\(default: ([^"]*)\)', source, re.M))
    for flag in ppo_selfplay.DEFAULTS["scratch"]:                           # as --help says
        values = [default[flag] for default in ppo_selfplay.DEFAULTS.values()]
        words = {value if isinstance(value, str) else f"{value:g}".removeprefix("0") or "0" for value in values}
        assert {word or "none" for word in words} <= set(re.findall(r"[\w.:]+", told[flag].replace(";", " "))), flag
    assert filled(pretrained="a.pt", teacher_kl=0.)["teacher_kl"] == 0
    assert filled(entropy_coef=.002)["entropy_coef"] == .002
    assert filled(entropy_coef=0.)["target_entropy"] == "" and filled(target_entropy="")["target_entropy"] == ""


def test_the_ladder_prefers_even_bots_and_forgets_nobody(tmp_path):
    args, ratings = tiny(tmp_path, "run", opponent_bots="idle,level1,level5", bot_prob=.5, bot_weighting="even",
                         history_prob=0.), Ratings()
    for _ in range(60):
        ratings.record("main", "idle", 1.)
        ratings.record("main", "level5", 0.)
    matchmaker = ppo_selfplay.Matchmaker(args, ["main"], Pool(tmp_path / "pool"), ratings)
    weights = dict(zip(matchmaker.bots, matchmaker.bot_weights("main"), strict=True))
    assert weights["level1"] == 1 and weights["idle"] == weights["level5"] == ppo_selfplay.BOT_FLOOR
    rng = np.random.default_rng(0)
    drawn = [matchmaker.draw("main", rng) for _ in range(3000)]
    share = .5 / (1 + 2 * ppo_selfplay.BOT_FLOOR)
    assert drawn.count("level1") / 3000 == pytest.approx(share, abs=.04) and drawn.count("idle") > 100
    for _ in range(60):
        ratings.record("main", "level1", 1.)
    drawn = [matchmaker.draw("main", rng) for _ in range(3000)]             # all beaten: fewer of these games
    assert drawn.count(ppo_selfplay.MIRROR) / 3000 == pytest.approx(1 - .5 * ppo_selfplay.BOT_FLOOR, abs=.03)


def test_entropy_is_pulled_to_its_line(tmp_path):
    """The bonus weighs more while entropy is missing, and less while there is too much, by how many times it is."""
    assert [ppo_selfplay.line_at("4:1", halvings) for halvings in (0, .5, 1, 2, 9)] == [4, 8 ** .5, 2, 1, 1]
    for name, line in (("high", "19:19"), ("low", ".5:.5"), ("fast", "19:.5")):
        ppo_selfplay.main(tiny(tmp_path, name, 4, target_entropy=line, entropy_half_life=1.))
    high, low, fast = ([row["charts/entropy_coef"] for row in metrics(tmp_path / name)]
                       for name in ("high", "low", "fast"))
    given = ppo_selfplay.DEFAULTS["scratch"]["entropy_coef"]
    assert min(high) > given * 2.5 and max(low) < given / 8                 # it has some 5.8 nats
    assert fast[0] == high[0] and max(fast[1:]) < given / 8
    rests = [load_checkpoint(tmp_path / name / "checkpoints" / "latest.pt")["learner_main"]["hyper"]["entropy_coef"]
             for name in ("high", "low")]
    assert rests[0] > 1.01 * given and rests[1] < .99 * given               # and slowly for good
    ppo_selfplay.main(tiny(tmp_path, "back", 2, target_entropy="19:19", target_kl=1e-9))
    assert all(row["losses/reverted"] for row in metrics(tmp_path / "back"))        # nothing moved, nor does this
    rest = load_checkpoint(tmp_path / "back" / "checkpoints" / "latest.pt")["learner_main"]["hyper"]["entropy_coef"]
    assert rest == given
    for text in ("4", "a:b", "-1:2", "nan:1", "800:1", "1:2", "1:0"):
        with pytest.raises(ppo_selfplay.UserError, match="--target-entropy"):
            ppo_selfplay.check(tiny(tmp_path, "run", target_entropy=text))


def test_the_log_has_returns_lengths_and_who_was_met(tmp_path):
    ppo_selfplay.main(tiny(tmp_path, "run", 4, opponent_bots="idle", bot_prob=.5, max_episode_frames=20,
                           reward_approach=.5))
    rows = metrics(tmp_path / "run")
    row = [row for row in rows if "selfplay/score_idle" in row][-1]         # the first games are cut short
    assert row["charts/episodic_length"] == 20 and {"rewards/stock", "rewards/damage", "rewards/approach"} <= row.keys()
    assert row["charts/episodic_return"] == pytest.approx(
        sum(value for name, value in row.items() if name.startswith("rewards/")))
    groups = [value for name, value in row.items() if name.startswith("losses/entropy_")]
    assert len(groups) == 4 and sum(groups) == pytest.approx(row["losses/entropy"])


def test_games_begin_in_the_air_in_training_alone(tmp_path, monkeypatch):
    given = {}
    for room in (ppo_selfplay, evaluation):
        monkeypatch.setattr(room, "VecEnv", lambda *words, room=room, **options: (
            given.setdefault(room, []).append(options.get("scattered", 0.)), VecEnv(*words, **options))[1])
    ppo_selfplay.main(tiny(tmp_path, "run", 1, scattered=.75, eval_interval=1, watch_interval=1))
    assert given[ppo_selfplay] == [.75] and len(given[evaluation]) > 1 and not any(given[evaluation])


def test_weights_move_by_no_more_than_one_epoch(tmp_path):
    """--num-games 8 of the default recipe really learns once from each rollout."""
    ppo_selfplay.main(tiny(tmp_path, "run", 1, batch_size=10 ** 6))
    assert [row["losses/minibatches"] for row in metrics(tmp_path / "run")] == [1]
    assert torch.isfinite(load_policy(tmp_path / "run")[0].value_head.weight).all()

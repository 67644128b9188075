"""A user's mistake ends in one line that names the flag or the file, with exit code 2, and leaves nothing behind."""

import re
import shlex
import sys
from pathlib import Path

import onnx
import pytest
import torch
import tyro

import bc
import distill
import export_onnx
import play
import ppo_selfplay
from cleanmelee.cli import UserError, run_script
from export_onnx import cut, export
from helpers import ROOT, tiny, write_games
from melee_common import Policy, save_checkpoint

SCRIPTS = {"bc": bc, "distill": distill, "export_onnx": export_onnx, "play": play, "ppo_selfplay": ppo_selfplay}
GOOD = {
    "bc": {"replays": "games", "num-workers": 0, "run-name": "run", "min-active": 0, "window-size": 20},
    "distill": {"teacher": "good.pt", "replays": "games", "num-workers": 0, "run-name": "run",
                "output": "out/student.pt", "min-active": 0},
    "export_onnx": {"checkpoint": "good.pt", "output": "out/policy.onnx"},
    "play": {"policy": "good.pt", "opponent": "idle", "max-episode-frames": 30, "num-games": 2, "results": ""},
    "ppo_selfplay": {"num-games": 2, "rollout-length": 8, "timesteps": 48, "eval-interval": 0, "run-name": "run"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Replays, policies, and files that only look like them."""
    path = tmp_path_factory.mktemp("mistakes")
    write_games(path / "games", 2)
    write_games(path / "single", 1)
    for name in ("empty", "junk", "folder.onnx"):
        (path / name).mkdir()
    (path / "junk" / "a.slp").write_bytes(b"junk")
    (path / "text.txt").write_text("no policy")
    policy = Policy("mlp", (8,)).eval()
    save_checkpoint(path / "good.pt", policy)
    save_checkpoint(path / "late.pt", Policy("mlp", (8,), frame_delay=18))
    (path / "torn.pt").write_bytes((path / "good.pt").read_bytes()[:1000])
    torch.save({"weights": torch.zeros(3)}, path / "foreign.pt")
    torch.save(torch.load(path / "good.pt", weights_only=True) | {"schema": "000000000000"}, path / "schema.pt")
    model = cut(export(policy), {})
    onnx.save(model, path / "bare.onnx")
    (path / "torn.onnx").write_bytes((path / "bare.onnx").read_bytes()[:5000])
    onnx.helper.set_model_props(model, {"program": "CleanMelee", "schema": "000000000000"})
    onnx.save(model, path / "schema.onnx")
    return path


MISTAKES = [                                                                # script, flag, value, what the line says
    ("bc", "replays", "nowhere", "no such file or folder"), ("bc", "replays", "empty", "no .slp files"),
    ("bc", "replays", "junk", "none of 1 replays"), ("bc", "replays", "single", "at least two games"),
    ("bc", "hidden", "12,x", "--hidden"), ("bc", "hidden", "0", "--hidden"),
    ("bc", "player-port", 5, "--player-port 5"), ("bc", "player-port", 4, "port"),
    ("bc", "character", "waluigi", "unknown character"), ("bc", "character", "falco", "none of 2 replays"),
    ("bc", "window-size", 5000, "none of 2 replays"), ("bc", "window-size", 1, "--window-size 1"),
    ("bc", "epochs", 0, "--epochs 0"), ("bc", "prev-controller-dropout", 1.5, "--prev-controller-dropout 1.5"),
    ("bc", "learning-rate", 0.0, "--learning-rate"), ("bc", "pretrained", "missing.pt", "no such checkpoint"),
    ("bc", "checkpoint", "text.txt/a.pt", "cannot write"), ("bc", "seed", -1, "--seed -1"),
    ("bc", "run-name", "a/b", "--run-name"), ("bc", "pretrained", "good.pt --backbone=gru", "--backbone gru"),
    ("bc", "pretrained", "good.pt --hidden=9", "--hidden 9"), ("bc", "gamma", 1, "--gamma 1"),

    ("distill", "teacher", "missing.pt", "no such checkpoint"), ("distill", "teacher", "text.txt", "not a readable"),
    ("distill", "num-layers", 2, "--num-layers: not an option of mlp"),
    ("distill", "conv-size", 1, "--conv-size 1"), ("ppo_selfplay", "num-heads", "3 --backbone=hybrid", "--num-heads 3"),
    ("ppo_selfplay", "frame-delay", 4, "--frame-delay 4: must be a multiple"),
    ("ppo_selfplay", "pretrained", "late.pt --frame-delay=2", "--frame-delay 2: "),
    ("distill", "replays", "nowhere", "no such file or folder"), ("distill", "temperature", 0.0, "--temperature"),
    ("distill", "alpha", 1.5, "--alpha 1.5"), ("distill", "hidden", "64,,64", "--hidden"),
    ("distill", "epochs", 0, "--epochs 0"), ("distill", "batch-size", 0, "--batch-size 0"),
    ("distill", "character", "falco", "none of 2 replays"), ("distill", "output", "text.txt/a.pt", "cannot write"),
    ("distill", "seed", -1, "--seed -1"), ("distill", "teacher", "", "--teacher is empty"),
    ("distill", "teacher", "good.pt,late.pt", "--teacher late.pt: would act 18 frames late"),
    ("distill", "replays", "", "--replays: give a folder"), ("distill", "soft-labels", "text.txt", "no soft labels"),
    ("distill", "on-policy-opponents", "self,level99", "unknown opponent 'level99'"),
    ("distill", "play-character", "waluigi", "unknown character"), ("distill", "stage", "moon", "unknown stage"),

    ("export_onnx", "checkpoint", "nowhere.pt", "no such checkpoint"),
    ("export_onnx", "checkpoint", "torn.pt", "not a readable"),
    ("export_onnx", "checkpoint", "foreign.pt", "not a readable"),
    ("export_onnx", "checkpoint", "schema.pt", "schema"), ("export_onnx", "output", "out.pt", ".onnx"),
    ("export_onnx", "output", "good.pt/out.onnx", "cannot write"),
    ("export_onnx", "output", "folder.onnx", "not a regular file"), ("export_onnx", "steps", 0, "--steps 0"),
    ("export_onnx", "checkpoint", "", "--checkpoint is missing"), ("export_onnx", "output", "", "--output"),
    ("export_onnx", "npz", "out.txt", "must end in .npz"), ("export_onnx", "npz", "good.pt/out.npz", "cannot write"),
    ("export_onnx", "calibration-replays", "empty", "no .slp files"),
    ("export_onnx", "calibration-replays", "junk", "none of 1 replays"),
    ("export_onnx", "calibration-replays", "single", "two are needed"),
    ("export_onnx", "benchmark", "torn.onnx", "not a readable ONNX"),
    ("export_onnx", "benchmark", "bare.onnx", "no CleanMelee policy"),
    ("export_onnx", "benchmark", "schema.onnx", "schema"), ("export_onnx", "character", "mew", "mewtwo"),
    ("export_onnx", "seed", -1, "--seed -1"),

    ("play", "policy", "", "--policy is missing"), ("play", "policy", "nowhere.pt", "no such"),
    ("play", "policy", "nowhere.onnx", "no such"), ("play", "policy", "torn.onnx", "not a readable ONNX"),
    ("play", "policy", "text.txt", "not a readable CleanMelee"),
    ("play", "policy", "bare.onnx", "no CleanMelee policy"), ("play", "policy", "schema.onnx", "schema"),
    ("play", "opponent", "cpu10", "attacker"), ("play", "opponent", "torn.onnx", "not a readable ONNX"),
    ("play", "opponent", "human", "human: needs Dolphin"), ("play", "opponent", "cpu9", "cpu9: needs Dolphin"),
    ("play", "character", "mew", "mewtwo"), ("play", "character", ",", "no character given"),
    ("play", "opponent-character", "mew", "mewtwo"), ("play", "stage", "moon", "battlefield"),
    ("play", "stage", "battlefield,moon", "'moon'"), ("play", "num-games", -3, "--num-games -3"),
    ("play", "num-games", 65537, "--num-games 65537"), ("play", "max-restarts", -1, "--max-restarts -1"),
    ("play", "num-workers", -1, "--num-workers -1"), ("play", "port", 3, "--port 3"),
    ("play", "opponent-port", 3, "--opponent-port 3"),
    ("play", "game-type", "dolphin --max-episode-frames=0", "--dolphin (empty)"),
    ("play", "frame-delay", 2, "--frame-delay 2: "), ("play", "action-repeat", -1, "--action-repeat -1"),
    ("play", "max-episode-frames", -1, "--max-episode-frames -1"), ("play", "seed", -1, "--seed -1"),
    *(("play", flag, value, f"--{flag} {value}: means nothing in a match on the embedded game") for flag, value in (
        ("dolphin", "dolphin"), ("iso", "melee.iso"), ("tournament-bots", "idle"), ("max-pairs", 5), ("host", "::"),
        ("web-port", 1), ("boot-timeout", 9.0))),
    ("play", "game-type", "dolphin --max-episode-frames=0 --num-workers=1",
     "--num-workers 1: means nothing in Dolphin"),
    ("play", "record", "text.txt/slp", "cannot write"), ("play", "results", "text.txt/results.jsonl", "cannot write"),
    ("play", "results", "empty", "not a regular file"), ("play", "user-json", "user.json", "needs --connect-code"),

    ("ppo_selfplay", "character", "pikachu", "mewtwo"), ("ppo_selfplay", "stage", "hyrule", "final_destination"),
    ("ppo_selfplay", "num-games", 0, "--num-games"), ("ppo_selfplay", "num-games", 10 ** 12, "--num-games"),
    ("ppo_selfplay", "num-workers", 9, "--num-workers"), ("ppo_selfplay", "hidden", "64,x", "--hidden"),
    ("ppo_selfplay", "hidden", "99999999999", "--hidden"), ("ppo_selfplay", "batch-size", -1, "--batch-size"),
    ("ppo_selfplay", "gamma", 1.5, "--gamma"), ("ppo_selfplay", "eval-games", 3, "--eval-games"),
    ("ppo_selfplay", "pretrained", "nowhere.pt", "nowhere.pt"), ("ppo_selfplay", "resume", "nowhere", "nowhere"),
    ("ppo_selfplay", "game-type", "dolphin", "--dolphin"), ("ppo_selfplay", "learning-rate", "nan", "--learning-rate"),
    ("ppo_selfplay", "ppo-clip", "nan", "--ppo-clip"), ("ppo_selfplay", "reward-stock", "inf", "--reward-stock"),
    ("ppo_selfplay", "seed", -1, "--seed"), ("ppo_selfplay", "action-repeat", 10 ** 20, "--action-repeat"),
    ("ppo_selfplay", "run-name", "../elsewhere", "--run-name"), ("ppo_selfplay", "seed", 10 ** 30, "--seed 1000"),
    ("ppo_selfplay", "seed", 10 ** 400, "--seed 1000"), ("play", "seed", 10 ** 400, "--seed 1000"),
    ("ppo_selfplay", "pretrained", "good.pt --backbone=gru", "--backbone gru"),
    ("ppo_selfplay", "pretrained", "good.pt --hidden=8,8", "--hidden 8,8"),
    ("ppo_selfplay", "pretrained", "good.pt --action-repeat=3", "--action-repeat 3"),
    ("ppo_selfplay", "checkpoint", "/dev/null", "--checkpoint"), ("ppo_selfplay", "num-threads", 0, "--num-threads"),
]


@pytest.mark.parametrize("script, flag, value, said", MISTAKES)
def test_a_mistake_ends_in_one_line(folder, tmp_path, monkeypatch, capfd, script, flag, value, said):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))                     # no test fills the user's cache
    flags = GOOD[script] | {flag: value}
    monkeypatch.setattr(sys, "argv", [f"{script}.py", *(
        part for name, value in flags.items() for part in f"--{name}={value}".split(" "))])
    with pytest.raises(SystemExit) as end:
        run_script(SCRIPTS[script].main, SCRIPTS[script].Args)
    line = capfd.readouterr().err.strip().splitlines()[-1]
    assert end.value.code == 2 and line.startswith("error: ") and said in line
    assert not Path("runs").exists() and not Path("out/policy.onnx").exists() and not Path("out/student.pt").exists()


@pytest.mark.parametrize("options, said", [
    ({"matchmaking": "population"}, "population-size"), ({"pbt": True}, "population-size"),
    ({"league": True}, "population-size"), ({"population_size": 0}, "population-size"),
    ({"vtrace": True}, "async-learning"), ({"max_buffer_size": 500}, "async-learning"),
    ({"teacher_kl": 1.0}, "pretrained"), ({"async_learning": True, "max_buffer_size": 10}, "at least one rollout"),
    ({"update_interval": "often"}, "batch_ready"), ({"opponent_bots": "pikachu"}, "level1"),
    ({"opponent_bots": "attacker"}, "held-out"), ({"held_out": "nowhere.pt"}, "nowhere"),
    ({"eval_opponents": ""}, "idle"), ({"opponent": "nowhere.pt"}, "nowhere"),
    ({"opponent": "cpu9"}, "cpu9: needs Dolphin"),
    ({"opponent": "cpu9", "game_type": "dolphin", "character": "fox,sheik"}, "choose sheik"),
    ({"character": "fox,pikachu"}, "pikachu"), ({"stage": "hyrule"}, "final_destination"),
    ({"history_prob": 1.5}, "history-prob"), ({"turn_winrate": 2.0}, "turn-winrate"),
    ({"train_order": "round-robin", "parallel_training": True}, "train-order"),
    ({"population_size": 2, "pbt": True, "matchmaking": "self", "history_prob": None}, "needs results"),
    ({"population_size": 2, "pbt": True, "history_prob": 0.0}, "needs results"),
    ({"population_size": 3, "pbt": True, "league": True}, "league"),
    ({"population_size": 2, "pbt": True, "train_order": "round-robin"}, "round-robin"),
    ({"async_learning": True, "train_interval": 2, "max_buffer_size": 200}, "at least one rollout, 256"),
    ({"population_size": 2, "train_order": "round-robin", "num_workers": 5}, "num-workers"),
    ({"opponents_per_iteration": 1}, "opponents-per-iteration"), ({"worker_timeout": 0.0}, "worker-timeout")
])
def test_flags_of_self_play_that_do_not_go_together(tmp_path, options, said):
    with pytest.raises(UserError, match=said):
        ppo_selfplay.main(tiny(tmp_path, "run", 1, **options))
    assert not (tmp_path / "run").exists()


def commands_of_texts() -> list[list[str]]:
    """The words of every command in README and docs that runs one of the scripts, from the script's name on. The log
    has those of its day."""
    found = []
    for text in [ROOT / "README.md", *sorted(set((ROOT / "docs").glob("*.md")) - {ROOT / "docs" / "log.md"})]:
        for block in re.findall(r"```bash\n(.*?)```", text.read_text(), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                start = next((k for k, word in enumerate(words) if word.removesuffix(".py") in SCRIPTS), None)
                if start is not None:
                    found.append(words[start:])
    return found


@pytest.mark.parametrize("words", commands_of_texts(), ids=" ".join)
def test_every_command_in_the_texts_is_understood(words):
    tyro.cli(SCRIPTS[words[0].removesuffix(".py")].Args, args=words[1:])    # SystemExit where a flag is not


def test_commands_are_found_in_the_texts():
    assert {words[0].removesuffix(".py") for words in commands_of_texts()} == set(SCRIPTS)

"""Numbers that anyone can repeat: tables are what their files say, commands write the files, a run makes a report."""

import functools
import json
import re
import runpy
import shlex
import shutil
import time

import bench_backbones
import bench_imitation
import bench_learning
import bench_levels
import bench_matchmaking
import bench_play
import pytest
import report
import results
import tyro

import bc
import ppo_selfplay
from cleanmelee.cli import UserError, to_flags
from cleanmelee.files import read_json
from cleanmelee.frame import STAGES
from cleanmelee.onnx import load_player
from helpers import tiny
from melee_common import Policy, save_checkpoint
from ppo_selfplay import main


COMMANDS = [path for folder in ("bench", "tools") for path in sorted((results.ROOT / "tests" / folder).glob("*.py"))]


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.stem)
def test_a_command_finds_all_that_it_imports(path):
    runpy.run_path(str(path), run_name="loaded")


def outside_of_tables(text: str) -> str:
    return results.MARKED.sub("", text)


@pytest.mark.parametrize("path", results.TEXTS, ids=lambda path: path.name)
def test_tables_are_what_their_files_say(path):
    text = path.read_text()
    assert results.regenerated(text) == text, f"{path.name}: run python tests/bench/results.py"


def test_one_digit_that_differs_is_found():
    text = (results.ROOT / "docs" / "results.md").read_text()
    places = [table.start() + digit.start() for table in results.MARKED.finditer(text)
              for digit in re.finditer(r"\d", table[0])]
    assert len(places) > 50
    for at in places[::7]:
        digit = str((int(text[at]) + 1) % 10)
        changed = text[:at] + digit + text[at + 1:]
        assert results.regenerated(changed) == text != changed


def test_results_have_no_table_that_was_typed():
    text = outside_of_tables((results.ROOT / "docs" / "results.md").read_text())
    assert not [line for line in text.splitlines() if line.startswith("|")]
    assert set(re.findall(r"<!-- ([a-z-]+) -->", "".join(path.read_text() for path in results.TEXTS))) <= set(
        results.TABLES)


def test_every_file_says_what_made_it():
    for file in results.FOLDER.glob("*.json"):
        about = read_json(file)
        assert about.keys() >= {"command", "date", "minutes", "machine", "versions", "rows"} and about["rows"], file
        assert about["command"].startswith("python tests/bench/bench_") and "git" in about["versions"], file
        assert about["machine"]["cores"] >= 1 and about["machine"]["load"] >= 0, file


def test_levels_are_measured_and_tabled(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    monkeypatch.setattr(bench_levels, "LADDER", ("level1", "level9"))
    monkeypatch.setattr(bench_levels, "OTHERS", ("idle",))
    bench_levels.main(bench_levels.Args(games=4, json=str(tmp_path / "levels.json")))
    table = results.levels()
    assert "| level9 | 100 % [51, 100] |" in table and "Port 1 of level9 against itself wins" in table
    with pytest.raises(UserError, match="multiple of 4"):
        bench_levels.main(bench_levels.Args(games=6))
    with pytest.raises(UserError, match="unknown character 'pichu'"):
        bench_levels.main(bench_levels.Args(character="pichu"))


def test_a_measurement_is_kept_whole(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [f"{results.ROOT}/tests/bench/bench_game.py", "--teacher", "/home/me/x.pt",
                                     "--replays", "/home/me/games", "--json", "out.json"])
    results.save(str(tmp_path / "out.json"), [{"games": 8}], time.time() - 90, state_bytes=7)
    about = read_json(tmp_path / "out.json")
    assert (about["command"], about["minutes"], about["state_bytes"], about["rows"]) == (
        "python tests/bench/bench_game.py --teacher TEACHER --replays REPLAYS --json out.json", 1.5, 7, [{"games": 8}])
    assert f"{about['machine']['cores']} cores" in capsys.readouterr().out
    assert results.place("--replays", "../mine/drill.slp") == "REPLAYS/drill.slp"
    assert results.main(["nothing"]) == 2 and "no such measurement" in capsys.readouterr().err


def test_the_reference_policy_can_be_played_against():
    """It is refused when what a policy sees has changed: then train and export it anew."""
    file = results.ROOT / "docs" / "reference.onnx"
    assert file.stat().st_size <= 600_000 and load_player(file).action_repeat == 3


def test_measurements_write_what_their_tables_read(tmp_path, monkeypatch):
    """Each in little, and its table."""
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    little = functools.partial(bench_matchmaking.draw, draws=20)
    monkeypatch.setattr(bench_matchmaking, "draw", little)
    monkeypatch.setattr(bench_backbones, "LARGE", (3e5,))
    for bench, name, flags in ((bench_matchmaking, "matchmaking", ""),
                               (bench_backbones, "backbones", "--size 16 --num-layers 1 --window 2 --seconds .001")):
        monkeypatch.setattr("sys.argv", [f"bench_{name}.py", *flags.split(), "--json", str(tmp_path / f"{name}.json")])
        bench.main()
        assert results.TABLES[name]().count("\n|") >= 6
    bench_play.main(bench_play.Args(1, 60, 1000, str(tmp_path / "play.json")))
    assert [row["play"] for row in read_json(tmp_path / "play.json")["rows"]] == [
        "the game waits", "beside the game", "beside the game, trained for a delay of 3 frames"]
    assert "| the game waits | " in results.play()


@pytest.mark.parametrize("show", bench_imitation.SHOWS)
def test_what_is_compared_are_flags_of_cloning(show):
    for flags in bench_imitation.SHOWS[show].values():
        tyro.cli(bc.Args, args=bench_imitation.as_flags({"replays": "games"} | bench_imitation.DEFAULT | flags))


# ---------------------------------------------------------------------------------------------------------------------
# Of runs
# ---------------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """Three runs: one, and two copies that say they had other seeds."""
    folder = tmp_path_factory.mktemp("seeds")
    main(tiny(folder, "1", 3, seed=1, eval_interval=1, watch_interval=1, track_elo=True))
    for seed in ("2", "3"):
        shutil.copytree(folder / "1", folder / seed)
        flags = read_json(folder / "1" / "args.json")
        (folder / seed / "args.json").write_text(json.dumps(flags | {"seed": int(seed)}))
    return [folder / seed for seed in ("1", "2", "3")]


def test_learning_is_judged_from_finished_runs(seeds, tmp_path, monkeypatch, capsys):
    flags = {"games": 4, "opponents": "idle,attacker", "max_episode_frames": 60}
    bench_learning.main(bench_learning.Args(tuple(map(str, seeds)), json=str(tmp_path / "learning.json"), **flags))
    about = read_json(tmp_path / "learning.json")
    assert about["training"].startswith("python ppo_selfplay.py ") and "--hidden 16,16 " in about["training"] + " "
    assert not re.search("--(seed|run-name|eval-interval|stage|entropy-coef) ", about["training"])     # as usual
    assert [row["seed"] for row in about["rows"]] == [1, 2, 3] and about["rows"][0]["frames"] == 384
    assert all(set(row["winrates"]) == {"idle", "attacker"} for row in about["rows"])
    assert all(row["past"]["checkpoints"] > 1 for row in about["rows"])
    assert [pair["rate"][0] for pair in about["cross_play"]] == [.5] * 3    # they are copies, and a minute is a draw
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    assert "| worst | 50 % | 50 % |" in results.learning() and results.learning().count("50 % [15, 85], 50 %") == 3

    changed = read_json(seeds[2] / "args.json") | {"entropy_coef": .25, "pfsp_weighting": "even"}
    (seeds[2] / "args.json").write_text(json.dumps(changed))
    of_one = [seeds[0] / "checkpoints" / "latest.pt"]
    for runs, said in (seeds, "--entropy-coef 0.25 .*--pfsp-weighting even"), (of_one, "checkpoints"):
        with pytest.raises(UserError, match=f"a table is of seeds of one recipe, and these are .*{said}"):
            bench_learning.main(bench_learning.Args(tuple(map(str, runs)), json=str(tmp_path / "l.json"), **flags))
    (seeds[2] / "args.json").write_text(json.dumps({key: changed[key] for key in changed if key != "scattered"}))
    with pytest.raises(UserError, match="3: another version of ppo_selfplay.py"):
        bench_learning.recipe(seeds[2])
    (seeds[2] / "args.json").write_text(json.dumps(changed))
    capsys.readouterr()
    bench_learning.main(bench_learning.Args((str(seeds[0]), str(seeds[2] / "checkpoints" / "initial.pt")), best=True,
                                            past=False, character="fox,marth", stage="all", **flags | {"games": 24}))
    said = capsys.readouterr().out
    assert all(said.count(f"  {name}: idle ") == 2 for name in ("fox", "marth", "battlefield", "yoshis_story"))
    bench_learning.main(bench_learning.Args((str(seeds[0]),), json=str(tmp_path / "everybody.json"), past=False,
                                            character="fox,marth", stage="all", **flags | {"games": 24}))
    told = results.everybody()
    assert [line.split(" | ")[0] for line in told.splitlines() if line.startswith("| ")] == [
        "|", *(f"| {name}" for name in ("all", "fox", "marth", *STAGES))]


@pytest.mark.parametrize("words", [
    "", "--num-games 8", "--num-games 128 --timesteps 46000000", "--entropy-coef 0.0", "--update-interval 300",
    "--backbone gru", "--hidden 64,64 --entropy-coef 0.002", "--no-anneal-lr --frame-delay 3", "--action-repeat 1",
    "--target-entropy ''"])
def test_a_recipe_is_the_shortest_command(tmp_path, words):
    args = tyro.cli(ppo_selfplay.Args, args=shlex.split(words))
    policy = ppo_selfplay.from_scratch(args)
    ppo_selfplay.fill_in(args, policy)
    save_checkpoint(tmp_path / "checkpoints" / "initial.pt", policy)
    args.num_workers, args.seed, args.wandb.wandb_tags = 4, 3, "mine"
    (tmp_path / "args.json").write_text(json.dumps(to_flags(args)))
    assert sorted(shlex.split(bench_learning.recipe(tmp_path))) == sorted(
        ["python", "ppo_selfplay.py", *shlex.split(words)])


def test_a_recipe_names_no_place_of_this_machine(tmp_path):
    for folder in (tmp_path / "cloned", tmp_path / "checkpoints"):
        save_checkpoint(folder / "initial.pt", Policy("mlp", (8,), 2))
    args = ppo_selfplay.Args(pretrained=str(tmp_path / "cloned" / "initial.pt"))
    ppo_selfplay.fill_in(args, Policy("mlp", (8,), 2))
    (tmp_path / "args.json").write_text(json.dumps(to_flags(args)))
    assert bench_learning.recipe(tmp_path) == "python ppo_selfplay.py --pretrained POLICY"


def test_report_of_three_seeds(seeds, tmp_path):
    report.main(report.Args(tuple(map(str, seeds)), str(tmp_path / "report.html")))
    page = (tmp_path / "report.html").read_text()
    for heading in ("Strength", "Learning", "Style"):
        assert f"<h2>{heading}</h2>" in page
    assert page.count("data:image/png;base64,") >= 3 * 2 + 8 + 3 * 2 + 1    # win rates and payoff; curves; style
    assert not re.search(r"(src|href)=.?(http|/)", page) and "<td>3</td>" in page


@pytest.mark.parametrize("script", ["bc", "distill"])
def test_report_of_runs_that_learn_from_games(tmp_path, script):
    run = tmp_path / script
    run.mkdir()
    (run / "args.json").write_text("{}")
    (run / f"{script}.py").touch()
    rows = [{"step": step, "losses/nll": 1 / (1 + step), "eval/nll": 2, "eval/press_A": .1, "eval/true_press_A": .2}
            for step in range(3)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report.main(report.Args((str(run),)))
    assert (run / "report.html").read_text().count("data:image/png") == 3                   # two curves, press rates


def test_what_is_no_run_is_told(seeds, tmp_path):
    def told(*runs, **flags):
        with pytest.raises(UserError) as error:
            report.main(report.Args(tuple(map(str, runs)), str(tmp_path / "page.html"), **flags))
        return str(error.value)

    (tmp_path / "bc").mkdir()
    (tmp_path / "bc" / "args.json").write_text("{}")
    assert "no run given" in told() and "not a run folder" in told(tmp_path)
    assert "no row in its metrics.jsonl yet" in told(tmp_path / "bc")
    (tmp_path / "bc" / "metrics.jsonl").write_text('{"step": 1, "losses/nll": 2}\n')
    assert "not runs of one stage" in told(seeds[0], tmp_path / "bc")
    assert not (tmp_path / "page.html").exists()
    assert "wandb" in told(seeds[0], wandb=True)

from __future__ import annotations

import json
import re
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import perturbed
from PIL import Image

from envs.decoding.settings import DecodingSettings
from envs.models.toy import ToyDenoiser
from policies import LearnedPolicy, NetworkConfig, UnmaskingPolicy, decode, load, make_rule, save
from train.command.config import ROOT, parse, to_yaml
from train.command.errors import UserError
from train.command.model_config import ModelConfig
from train.watch import main
from train.watching.gif import draw_gif
from train.watching.page import embed, page
from train.watching.recording import Frame, Recording, commit_order, record
from train.watching.show import Player, Show, WatchConfig, choose_players, choose_problems, rehearse
from train.watching.terminal import ansi_frames

PROMPTS = ["copy . . : a b c . . . . . . . . . . . . . =", "sort . . : d a =", "reverse q w e =", "add 1 2 : 3 4 5 6 ="]
NASTY = ["</script>", "<!--", "<img>", "&amp;", "{{title}}", "\u2028", '"', "\\", "\x1b[31m", "''", "a" * 50]


def learned(decision: Any = "deterministic") -> LearnedPolicy:
    return LearnedPolicy(perturbed(NetworkConfig(hidden_size=16, features=("is_eos",)), 0.2), decision)


def policy_of(name: str) -> UnmaskingPolicy:
    return learned(name.removeprefix("learned:")) if name.startswith("learned") else make_rule(name)


POLICIES = [
    "threshold:0.9",
    "learned:deterministic",
    "learned:sample",
    "wino:0.3",
    "freedave:4",
    "rho_eos",
    "info_gain",
    "punt",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(learned(), tmp_path_factory.mktemp("run") / "policy")


# Recordings.


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize(("block", "end_of_text_prediction"), [(None, False), (4, False), (4, True)])
def test_a_recording_equals_decode(
    toy: ToyDenoiser, name: str, block: int | None, end_of_text_prediction: bool
) -> None:
    policy = policy_of(name)
    settings = DecodingSettings(12, block, 0.0, policy.features, end_of_text_prediction)
    done = decode(toy, PROMPTS, policy, settings, seed=3)
    for batch_size in (3, 64):
        recordings = record(toy, PROMPTS, policy, settings, batch_size=batch_size, seed=3)
        assert [(r.text, r.tokens, r.nfe, r.token_positions) for r in recordings] == [
            (g.text, g.tokens, g.nfe, g.token_positions) for g in done
        ]


@pytest.mark.parametrize("name", POLICIES)
def test_frames_tell_one_story(toy: ToyDenoiser, name: str) -> None:
    policy = policy_of(name)
    taken_back = 0
    for run in record(toy, PROMPTS, policy, DecodingSettings(12)):
        assert [frame.nfe for frame in run.frames] == list(range(run.nfe + 1))
        assert run.frames[-1].tokens == run.tokens
        assert run.frames[-1].token_positions == run.token_positions
        assert not any(run.frames[-1].masked)
        for before, frame in zip(run.frames, run.frames[1:], strict=False):
            assert before.token_positions < frame.token_positions
            assert [token == toy.mask_id for token in frame.tokens] == frame.masked
            for i in frame.committed:
                assert before.masked[i]
                assert frame.commit_confidence[i] == pytest.approx(frame.confidence[i])
                assert frame.prediction[i] == frame.tokens[i]
            if not frame.committed:
                assert name in ("freedave:4", "info_gain", "punt")  # the last drafts left nothing to do
            for i in range(12):
                if frame.remasked[i]:
                    taken_back += 1
                    assert frame.masked[i]
                    assert before.commit_step[i] > 0
                if before.commit_step[i] and frame.masked[i]:
                    assert frame.remasked[i]
            assert (frame.probability is not None) == name.startswith("learned")
            if frame.probability is not None and name == "learned:deterministic":
                wanted = [i for i, p in enumerate(frame.probability) if p >= 0.5]
                assert wanted in ([], frame.committed)
    assert (taken_back > 0) == name.startswith("wino")


def test_frames_by_hand(toy: ToyDenoiser) -> None:
    """The first step of low_confidence:2 commits the two best of four, the second the rest."""
    (run,) = record(toy, ["copy . . : a b c d ="], make_rule("low_confidence:2"), DecodingSettings(4))
    start, first, second = run.frames
    assert (start.nfe, start.token_positions, start.masked, start.eligible) == (0, 0, [True] * 4, [True] * 4)
    assert (first.token_positions, second.token_positions) == (9 + 4, 2 * (9 + 4))
    best = sorted(sorted(range(4), key=lambda i: -first.confidence[i])[:2])
    assert first.committed == best
    assert second.committed == [i for i in range(4) if i not in best]
    assert toy.token_strings(second.tokens) == ["a", "b", "c", "d"]
    assert toy.token_strings(first.prediction) == ["a", "b", "c", "d"]
    assert [first.tokens[i] for i in second.committed] == [toy.mask_id] * 2
    assert second.eligible == first.masked


@pytest.mark.parametrize("batch_size", [0, -2])
def test_impossible_batch_size_is_named(toy: ToyDenoiser, batch_size: int) -> None:
    with pytest.raises(ValueError, match="batch_size"):
        record(toy, PROMPTS, make_rule("threshold"), DecodingSettings(8), batch_size=batch_size)


def ended(commit_step: list[int]) -> Recording:
    blank = [0] * len(commit_step)
    frame = Frame(9, 9, blank, [], commit_step, [], [], [], [], [], [], None)
    return Recording([frame], "", blank, 9, 9)


def test_commit_order_by_hand() -> None:
    order = commit_order([ended([1, 3, 0]), ended([1, 1, 0]), ended([3, 1, 1])])
    assert order.counts.tolist() == [[2, 2, 1], [0, 0, 0], [1, 1, 0]]
    assert order.filled.tolist() == [0, 0, 2]
    assert order.problems == 3


def test_commit_order_adds_up(toy: ToyDenoiser) -> None:
    runs = record(toy, PROMPTS, make_rule("threshold:0.9"), DecodingSettings(24, 8))
    order = commit_order(runs)
    assert np.array_equal(order.counts.sum(0) + order.filled, np.full(24, len(PROMPTS)))
    assert len(order.counts) == max(run.nfe for run in runs)
    assert order.filled.any()


# The configuration.


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"problems": 0}, "problems is 0"),
        ({"first": -1}, "first is -1"),
        ({"heatmap_problems": -1}, "heatmap_problems is -1"),
        ({"policy": []}, "policy names 0"),
        ({"policy": [f"threshold:{i / 10}" for i in range(7)]}, "policy names 7"),
        ({"block_length": 5}, "block_length is 5"),
    ],
)
def test_impossible_configurations_are_named(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        WatchConfig(**change)


def test_the_configuration_survives_its_own_yaml(tmp_path: Path) -> None:
    words = ["--policy", "threshold:0.5", "--policy=klass:0.8,history=3", "--format", "gif", "--block_length", "16"]
    config = parse(WatchConfig, None, words)
    assert (config.policy, config.format) == (["threshold:0.5", "klass:0.8,history=3"], "gif")
    (tmp_path / "given.yaml").write_text(to_yaml(config))
    assert parse(WatchConfig, None, ["--config", str(tmp_path / "given.yaml")]) == config


def test_players(folder: Path) -> None:
    players = choose_players(["threshold:0.9", str(folder), f"{folder}@0.7"], 8)
    assert [player.name for player in players] == ["threshold:0.9", "learned", "learned@0.7"]
    assert [player.describe()["kind"] for player in players] == ["rule", *["learned, deterministic"] * 2]
    assert [player.describe()["threshold"] for player in players] == [None, 0.5, 0.7]


def test_a_dial_is_watched_at_its_place_for_the_block() -> None:
    policies = [choose_players(["tiny@speed=0.5"], block)[0].policy for block in (64, 16)]
    places = [load("tiny").tuned(block, speed=0.5).speed for block in (64, 16)]
    assert [policy.speed for policy in policies if isinstance(policy, LearnedPolicy)] == places


def test_a_plain_folder_decides_as_saved(tmp_path: Path) -> None:
    (player,) = choose_players([str(save(learned("sample"), tmp_path / "policy"))], 8)
    assert player.policy.decision == "sample"
    assert player.describe() == {"name": "learned", "kind": "learned, sample", "threshold": None}


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        ({"task": "chess"}, ValueError, "chess.*choose from.*replace"),
        ({"policy": ["treshold:0.9"]}, ValueError, "treshold"),
        ({"policy": ["runs/nowhere"]}, FileNotFoundError, "runs/nowhere"),
        ({"policy": ["all"]}, ValueError, "all"),
        ({"model": ModelConfig("nowhere")}, FileNotFoundError, "nowhere"),
    ],
)
def test_a_mistake_is_named_and_leaves_nothing_behind(
    tmp_path: Path, change: dict[str, Any], error: type[Exception], named: str
) -> None:
    config = replace(WatchConfig(out=tmp_path / "watch", model=ModelConfig("toy"), task="copy"), **change)
    with pytest.raises(error, match=named):
        main(config)
    assert not (tmp_path / "watch").exists()


def test_a_used_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("mine")
    with pytest.raises(UserError, match=r"is not empty: choose another folder, as in --out \S+-2$"):
        main(WatchConfig(out=tmp_path, model=ModelConfig("toy"), task="copy"))


def test_what_a_killed_start_left_does_not_block_the_next_one(tmp_path: Path) -> None:
    for name in (".lock", "command.txt", "config.yaml", "versions.json"):
        (tmp_path / name).write_text("{}")
    main(WatchConfig(out=tmp_path, model=ModelConfig("toy"), task="copy", policy=["threshold:0.9"]))
    assert (tmp_path / "watch.html").is_file()


def test_suite_takes_tasks_in_turn() -> None:
    problems = choose_problems("suite", "validation", 2, 11)
    assert [problem.task for problem in problems[:3]] == ["copy", "reverse", "sort"]
    assert [(problem.task, problem.index) for problem in problems[::9]] == [("copy", 2), ("copy", 3)]
    assert {problem.split for problem in problems} == {"validation"}


# The page.


@pytest.fixture(scope="module")
def show(folder: Path) -> Show:
    policy = ["threshold:0.9", "wino:0.3", str(folder)]
    about: dict[str, Any] = {"buffer_length": 24, "block_length": 12, "problems": 3, "heatmap_problems": 6}
    return rehearse(WatchConfig(policy=policy, task="copy", model=ModelConfig("toy"), **about))


def data_of(text: str) -> Any:
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(data)


def test_the_page_holds_the_recordings(show: Show) -> None:
    data = data_of(page(show))
    assert [player["name"] for player in data["players"]] == ["threshold:0.9", "wino:0.3", "learned"]
    assert [problem["prompt"] for problem in data["problems"]] == [p.prompt for p in show.problems[:3]]
    assert [len(problem["runs"]) for problem in data["problems"]] == [3, 3, 3]
    for number, problem in enumerate(data["problems"]):
        for shown, runs, scores in zip(problem["runs"], show.recordings, show.scores, strict=True):
            run = runs[number]
            assert (shown["text"], shown["nfe"], shown["score"]) == (run.text, run.nfe, scores[number])
            assert [frame["token"] for frame in shown["frames"]] == [frame.tokens for frame in run.frames]
            assert [frame["step"] for frame in shown["frames"]] == [frame.commit_step for frame in run.frames]
            last = shown["frames"][-1]
            assert last["sure"] == [round(c * data["scale"]) for c in run.frames[-1].commit_confidence]
    assert [order["problems"] for order in data["orders"]] == [6, 6, 6]
    order = commit_order(show.recordings[1])
    assert data["orders"][1]["counts"] == order.counts.tolist()
    assert data["orders"][1]["nfe"] == sum(run.nfe for run in show.recordings[1]) / 6


def test_an_engine_s_decoding_can_be_watched(folder: Path) -> None:
    """Blocks counted from the prompt's start, nothing after them shown: what is not shown has no prediction."""
    about: dict[str, Any] = {"buffer_length": 12, "block_length": 8, "problems": 2, "heatmap_problems": 0}
    about |= {"window": "truncated", "block_origin": "absolute"}
    shown = rehearse(WatchConfig(["threshold:0.9", str(folder)], task="copy", model=ModelConfig("toy"), **about))
    settings = DecodingSettings(12, 8, 0.0, frozenset({"is_eos"}), window="truncated", block_origin="absolute")
    prompts = [problem.prompt for problem in shown.problems]
    for player, runs in zip(shown.players, shown.recordings, strict=True):
        assert [run.tokens for run in runs] == [
            one.tokens for one in decode(shown.denoiser, prompts, player.policy, settings)
        ]
    data = data_of(page(shown))
    for prompt, problem in zip(prompts, data["problems"], strict=True):
        first = problem["runs"][0]["frames"][1]
        end = 8 - len(shown.denoiser.encode_prompt(prompt)) % 8
        assert first["eligible"] == "1" * end + "0" * (12 - end)
        assert [guess == data["mask"] for guess in first["guess"]] == [False] * end + [True] * (12 - end)


@pytest.fixture(scope="module")
def cached() -> Show:
    about: dict[str, Any] = {"buffer_length": 12, "block_length": 4, "problems": 1, "heatmap_problems": 0}
    return rehearse(WatchConfig(["low_confidence:1"], task="copy", cache="dual", **about))


def test_what_each_forward_computed_can_be_watched(cached: Show, toy: ToyDenoiser) -> None:
    """Under dual everything at a block's start, then the block: the marks and the counts say the same."""
    [[run]] = cached.recordings
    prompt = len(cached.denoiser.encode_prompt(cached.problems[0].prompt))
    before = 0
    for frame in run.frames[1:]:
        block, step = divmod(frame.nfe - 1, 4)
        expected = [True] * 12 if step == 0 else [i // 4 == block for i in range(12)]
        assert frame.computed == expected
        assert frame.token_positions - before == sum(expected) + (prompt if step == 0 else 0)
        before = frame.token_positions
    assert run.frames[0].computed == [False] * 12
    data = data_of(page(cached))
    assert data["cache"] == "dual"
    assert data["problems"][0]["runs"][0]["frames"][2]["computed"] == "1" * 4 + "0" * 8
    assert "cache dual" in cached.title
    assert f"positions {prompt + 12 + 4:>6} (+4)" in list(ansi_frames(cached, 0))[2]
    # Without a cache all that is shown is computed.
    whole, truncated = (
        record(toy, PROMPTS[:1], make_rule("low_confidence:2"), DecodingSettings(8, 4, window=window))[0]
        for window in ("full", "truncated")
    )
    assert [frame.computed for frame in whole.frames[1:]] == [[True] * 8] * whole.nfe
    assert truncated.frames[1].computed == [True] * 4 + [False] * 4


def test_what_a_cache_cannot_show_is_refused() -> None:
    with pytest.raises(ValueError, match="cache is 'dual', but freedave:4 drafts"):
        rehearse(WatchConfig(["freedave:4"], cache="dual", problems=1))
    with pytest.raises(ValueError, match="cache is 'duel'"):
        WatchConfig(cache="duel")


def test_another_dllm_is_watched_only_if_told(tmp_path: Path) -> None:
    config = WatchConfig(["tiny"], task="copy", model=ModelConfig("toy"), buffer_length=8, problems=1)
    config = replace(config, format="ansi")
    with pytest.raises(ValueError, match="set any_dllm"):
        rehearse(config)
    assert rehearse(replace(config, any_dllm=True)).recordings


def test_the_heat_map_can_be_left_out(show: Show) -> None:
    assert data_of(page(replace(show, config=replace(show.config, heatmap_problems=0))))["orders"] == []


def test_the_page_needs_nothing_but_itself(show: Show) -> None:
    text = page(show)
    assert not re.findall(r"https?:|//\w|\bsrc\s*=|@import|url\(|<link|fetch\(|XMLHttp|WebSocket|import\(", text)
    assert "default-src 'none'" in text
    assert "{{" not in text
    assert text.isascii()


class NastyDenoiser(ToyDenoiser):
    """The toy with tokens that would break a careless page."""

    def token_strings(self, tokens: list[int]) -> list[str]:
        return [NASTY[i % len(NASTY)] for i in tokens]


@pytest.fixture(scope="module")
def nasty(show: Show) -> Show:
    problems = [replace(problem, prompt="".join(NASTY), answer="</script><script>") for problem in show.problems]
    recordings = [[replace(run, text="".join(NASTY)) for run in runs] for runs in show.recordings]
    players = [Player("</title><b>&", show.players[0].policy), *show.players[1:]]
    return replace(show, denoiser=NastyDenoiser(), problems=problems, recordings=recordings, players=players)


def test_nasty_tokens_stay_data(nasty: Show) -> None:
    text = page(nasty)
    assert text.count("<script") == text.count("</script>") == 2
    assert text.count("</title>") == 1
    assert "<img" not in text
    data = data_of(text)
    assert set(data["words"].values()) <= set(NASTY)
    assert data["problems"][0]["prompt"] == "".join(NASTY)
    assert data["players"][0]["name"] == "</title><b>&"


def test_embedded_json_is_the_same_json() -> None:
    assert json.loads(embed({"a": NASTY})) == {"a": NASTY}


# Whole runs.


@pytest.mark.slow
def test_html_run(tmp_path: Path, folder: Path, python: str) -> None:
    command = ["--model", "toy", "--task", "sort", "--problems", "2", "--heatmap_problems", "3", "--buffer_length", "8"]
    command += ["--policy", "threshold:0.9", "--policy", str(folder), "--out", str(tmp_path / "watch")]
    program = [python, str(ROOT / "train" / "watch.py"), *command]
    done = subprocess.run(program, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].split() == ["page", str(tmp_path / "watch" / "watch.html")]
    assert "threshold:0.9 vs learned" in (tmp_path / "watch" / "watch.html").read_text()
    assert {file.name for file in (tmp_path / "watch").iterdir()} == {
        "watch.html",
        "config.yaml",
        "command.txt",
        "versions.json",
    }


def test_gif_has_the_empty_buffer_and_one_frame_a_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = ["threshold:0.9", "low_confidence:2"]
    main(
        WatchConfig(
            policy=policy,
            task="copy",
            format="gif",
            model=ModelConfig("toy"),
            problems=2,
            buffer_length=6,
            out=tmp_path / "watch",
        )
    )
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()] == [
        str(tmp_path / "watch" / f"copy_{i}.gif") for i in (0, 1)
    ]
    prompts = [problem.prompt for problem in choose_problems("copy", "test", 0, 2)]
    runs = [record(ToyDenoiser(), prompts, make_rule(rule), DecodingSettings(6)) for rule in policy]
    for i in (0, 1):
        with Image.open(tmp_path / "watch" / f"copy_{i}.gif") as image:
            assert image.n_frames == 1 + max(run[i].nfe for run in runs) >= 3  # type: ignore[attr-defined]
            assert image.info["loop"] == 0


def test_gif_of_nasty_tokens(nasty: Show, tmp_path: Path) -> None:
    draw_gif(nasty, 0, tmp_path / "nasty.gif")
    with Image.open(tmp_path / "nasty.gif") as image:
        assert image.n_frames == 1 + max(runs[0].nfe for runs in nasty.recordings)  # type: ignore[attr-defined]


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@pytest.mark.parametrize("is_terminal", [False, True])
def test_ansi_prints_every_step_and_writes_nothing(
    is_terminal: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    if is_terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    config = WatchConfig(
        policy=["low_confidence:2", "wino:0.3"],
        task="copy",
        format="ansi",
        model=ModelConfig("toy"),
        problems=1,
        buffer_length=6,
    )
    main(replace(config, out=tmp_path / "watch"))
    assert not (tmp_path / "watch").exists()
    printed = capsys.readouterr().out
    assert ("\x1b[" in printed) == is_terminal
    (problem,) = choose_problems("copy", "test", 0, 1)
    steps = re.findall(r"^step (\d+) of (\d+)$", plain(printed), re.MULTILINE)
    (run,), (other,) = (
        record(ToyDenoiser(), [problem.prompt], make_rule(rule), DecodingSettings(6)) for rule in config.policy
    )
    last = max(run.nfe, other.nfe)
    assert steps == [(str(i), str(last)) for i in range(1, last + 1)]
    assert problem.prompt in printed
    first = next(line for line in plain(printed).splitlines() if line.strip().startswith("low_confidence:2"))
    assert first.count("·") == 4
    assert plain(printed).rstrip().splitlines()[-2].endswith(run.text)


def test_ansi_of_nasty_tokens_moves_no_cursor(nasty: Show) -> None:
    names = [Player("\x1b[2Jrule\r", player.policy) for player in nasty.players]
    text = "\n".join(ansi_frames(replace(nasty, players=names), 0))
    # What the terminal itself draws is colour; nothing else of the control characters may be left.
    assert {c for c in re.sub(r"\x1b\[(?!31)[0-9;]*m", "", text) if not c.isprintable()} == {"\n"}
    assert "a right answer  </script><script>" in plain(text)


def test_list_prints_the_rules(capsys: pytest.CaptureFixture[str]) -> None:
    main(WatchConfig(policy=["list"]))
    assert "freedave" in capsys.readouterr().out.split()


# In a real browser.

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium that can reach nothing: every host is unknown to it."""
    if CHROMIUM is None or CHROMEDRIVER is None:
        pytest.skip("no chromium and chromedriver here: apt-get install chromium chromium-driver")
    pytest.importorskip("selenium", reason="selenium is not installed: pip install -e '.[dev]'")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "window-size=1280,900"):
        options.add_argument(f"--{flag}")
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        driver = webdriver.Chrome(options=options, service=Service(CHROMEDRIVER))
    yield driver
    driver.quit()


def opened(browser: Any, show: Show, folder: Path, fragment: str = "") -> None:
    (folder / "watch.html").write_text(page(show))
    browser.get((folder / "watch.html").as_uri() + fragment)


def cells(browser: Any, panel: int) -> list[tuple[str, str]]:
    """State and text of a panel's cells."""
    script = """return [...document.querySelectorAll('.panel')[arguments[0]].querySelectorAll('.cell')]
        .map((cell) => [cell.dataset.state, cell.querySelector('.word').textContent])"""
    return [(state, text) for state, text in browser.execute_script(script, panel)]


def counter(browser: Any, panel: int, name: str) -> str:
    text: str = browser.find_elements("css selector", f"[data-counter={name}]")[panel].text
    return text


def requested(browser: Any) -> list[str]:
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]


def test_page_in_a_browser(browser: Any, show: Show, tmp_path: Path) -> None:
    opened(browser, show, tmp_path)
    runs = [recordings[0] for recordings in show.recordings]
    last = max(run.nfe for run in runs)
    slider = browser.find_element("id", "slider")
    assert (slider.get_attribute("value"), slider.get_attribute("max")) == ("1", str(last))
    seen = []
    for step in (1, 2):
        assert browser.find_element("id", "step").text == f"step {step} of {last}"
        for i, run in enumerate(runs):
            frame, shown = run.frames[min(step, run.nfe)], cells(browser, i)
            assert counter(browser, i, "nfe") == str(frame.nfe)
            assert counter(browser, i, "positions") == str(frame.token_positions)
            words = show.denoiser.token_strings(frame.tokens)
            for p, (state, text) in enumerate(shown):
                if frame.remasked[p]:
                    assert state == "remasked"
                elif frame.masked[p]:
                    assert state == ("open" if frame.eligible[p] else "closed")
                else:
                    assert state == ("committed" if frame.commit_step[p] else "filled")
                    assert text == ("eos" if frame.tokens[p] == show.denoiser.eos_id else words[p])
        seen.append(cells(browser, 0))
        slider.send_keys("\ue014")  # the right arrow
    assert seen[0] != seen[1]
    # Dragging fires the same event as this.
    drag = "const s = arguments[0]; s.value = 0; s.dispatchEvent(new Event('input', {bubbles: true}))"
    browser.execute_script(drag, slider)
    assert browser.find_element("id", "step").text == f"step 0 of {last}"
    assert {state for state, _ in cells(browser, 0)} == {"open", "closed"}
    body = browser.find_element("tag name", "body")
    body.send_keys("\ue010")  # End
    assert [box.text for box in browser.find_elements("css selector", ".text .now")] == [run.text for run in runs]
    assert {state for state, _ in cells(browser, 1)} <= {"committed", "filled"}
    assert not [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert all(url.startswith("file://") for url in requested(browser))


@pytest.mark.slow
def test_controls_in_a_browser(browser: Any, show: Show, tmp_path: Path) -> None:
    opened(browser, show, tmp_path, "#problem=2&step=2&color=confidence")
    assert browser.find_element("id", "prompt").text == show.problems[1].prompt
    assert browser.find_element("id", "step").text.startswith("step 2 of ")
    assert browser.find_element("css selector", "input[value=confidence]").is_selected()

    def colors() -> list[str]:
        found = browser.find_elements("css selector", ".panel .cell[data-state=committed]")
        return [cell.value_of_css_property("background-color") for cell in found]

    before = colors()
    body = browser.find_element("tag name", "body")
    body.send_keys("c")
    assert colors() != before
    body.send_keys("3")
    assert browser.find_element("id", "prompt").text == show.problems[2].prompt
    browser.find_element("css selector", "#results button").click()
    assert browser.find_element("id", "prompt").text == show.problems[0].prompt
    browser.find_element("id", "play").click()
    assert "Pause" in browser.find_element("id", "play").text
    body.send_keys(" ")
    assert "Play" in browser.find_element("id", "play").text
    # The heat maps are drawn: more than one colour.
    script = """return [...document.querySelectorAll('canvas')].map((canvas) => new Set(new Uint32Array(
        canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.buffer)).size)"""
    assert all(count > 5 for count in browser.execute_script(script))
    assert len(browser.find_elements("css selector", "canvas")) == 3
    assert not [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


@pytest.mark.slow
def test_what_was_computed_in_a_browser(browser: Any, cached: Show, tmp_path: Path) -> None:
    opened(browser, cached, tmp_path, "#problem=1&step=2")
    marked = browser.find_elements("css selector", ".panel .cell.computed")
    assert [cell.get_attribute("data-position") for cell in marked] == ["0", "1", "2", "3"]
    assert all(cell.find_element("css selector", ".calc").is_displayed() for cell in marked)
    assert "4 positions computed" in browser.find_element("css selector", ".caption").text
    tip = "return about(runs()[0], arguments[0])"
    assert "kept as computed at step 1" in browser.execute_script(tip, 9)
    assert "computed in this step" in browser.execute_script(tip, 0)
    assert "thick upper edge" in browser.find_element("id", "legend").text


@pytest.mark.slow
def test_nasty_tokens_in_a_browser(browser: Any, nasty: Show, tmp_path: Path) -> None:
    opened(browser, nasty, tmp_path)
    assert browser.find_elements("css selector", "main img, main b > *, h3 b") == []
    assert browser.find_element("css selector", ".panel h3").get_attribute("textContent") == "</title><b>&"
    assert browser.find_element("id", "prompt").get_attribute("textContent") == "".join(NASTY)
    assert {text for _, text in cells(browser, 0)} <= {*NASTY, "eos", "·"}
    assert len(browser.find_elements("css selector", "script")) == 2
    assert not [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]

"""What a report tells beside the trials."""

import shlex
from dataclasses import replace
from pathlib import Path

from searches.lora_rank import SEARCH
from searches.options import Options, parse
from searches.question import IN_PYTHON
from searches.running.ledger import Ledger
from searches.showing.facts import cluster, commands, machine
from searches.showing.summary import summarise
from searches.showing.texts import examples


def options(*flags: str) -> Options:
    return parse(SEARCH, list(flags))


def test_commands_repeat_under_another_name_and_go_on_under_the_same() -> None:
    flags = ("--smoke", "--name", "mine", "--resume", "never", "--storage", "/two words", "--trials", "4")
    found = commands(options(*flags))
    assert found == {
        "repeat it": "python searches/lora_rank.py --smoke --storage '/two words' --trials 4 --name mine-again",
        "go on with it": "python searches/lora_rank.py --smoke --name mine --storage '/two words' --trials 4",
        "promote the chosen trial": "gpt2-search promote mine --storage '/two words'",
    }
    for key in ("repeat it", "go on with it"):
        script, *flags = shlex.split(found[key])[1:]
        assert script == "searches/lora_rank.py"
        assert parse(SEARCH, flags).plan == options("--smoke", "--trials", "4").plan


def test_commands_without_flags_are_the_bare_script() -> None:
    found = commands(options())
    assert found["go on with it"] == "python searches/lora_rank.py"
    assert found["promote the chosen trial"] == "gpt2-search promote lora_rank-quick"


def test_a_search_from_python_has_no_command_that_repeats_it() -> None:
    options = parse(replace(SEARCH, file=IN_PYTHON), [])
    assert list(commands(options)) == ["promote the chosen trial"]


def test_a_password_is_not_handed_around() -> None:
    found = commands(options("--tracking-uri", "http://me:secret@host:5000"))
    assert "secret" not in str(found)
    assert "http://...@host:5000" in found["go on with it"]


def test_texts_of_the_finalists_are_kept_and_long_ones_are_cut(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.record({"event": "started", "argv": [], "environment": {"Python": "3"}})
    trial = {"name": "0000", "point": {"rank": 8}, "run": {"epochs": 1}, "origin": "reference", "of": None, "optuna": 0}
    ledger.record({"event": "proposed", "trial": trial})
    texts = [{"id": str(number), "generated": "rose " * 1000} for number in range(9)]
    report = {"event": "report", "trial": "0000", "epoch": 1, "samples": texts}
    ledger.record({**report, "metrics": {"dev_loss": 1.0}, "statistics": None})
    ledger.close()
    found = summarise(options("--smoke"), ledger.state, tmp_path).model_dump(exclude_defaults=True)
    assert found["environment"] == {"Python": "3"}
    assert [sample["id"] for sample in found["samples"]["0000"]] == ["0", "2", "5", "8"]
    assert all(len(sample["generated"]) < 1600 for sample in found["samples"]["0000"])
    assert found["smoke"]
    assert found["space"]["lr"] == {
        "text": "1e-05 to 0.03, log-uniform", "kind": "log-uniform", "low": 1e-5, "high": 0.03,
        "role": "nuisance",
    }  # fmt: skip
    assert found["space"]["rank"]["values"] == [4, 8, 16, 32]


def test_the_best_the_median_and_the_worst_text_of_the_chosen_trial_are_kept_with_their_scores(tmp_path: Path) -> None:
    ledger, gold = Ledger(tmp_path / "ledger.jsonl"), "a rose is a rose"
    trial = {"name": "0000", "point": {"rank": 8}, "run": {"epochs": 1}, "origin": "reference", "of": None, "optuna": 0}
    texts = enumerate((gold, "zzz", "a rose is", "a"))
    samples = [{"id": str(number), "generated": text, "gold": gold} for number, text in texts]
    report = {"event": "report", "trial": "0000", "epoch": 1, "samples": samples, "statistics": None}
    ledger.record({"event": "started", "argv": []})
    ledger.record({"event": "proposed", "trial": trial})
    ledger.record({**report, "metrics": {"dev_loss": 1.0}})
    ledger.record({"event": "ended", "trial": "0000", "status": "completed", "reason": None})
    ledger.close()
    found = summarise(options("--smoke"), ledger.state, tmp_path)
    kept = found.samples["0000"]
    assert [(sample["id"], sample["place"]) for sample in kept] == [("0", "best"), ("3", "median"), ("1", "worst")]
    scores = [float(sample["chrF"]) for sample in kept]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == 100
    title = f"Example 3: median text of trial 0000 (best score, reference), chrF {scores[1]:.2f}"
    assert examples(found)[1].title == title


def test_the_machine_and_the_cluster_are_named() -> None:
    assert {"Python", "platform", "processor"} == machine().keys()
    resources = {
        "CPU": 16.0, "GPU": 2.0, "node:10.0.0.1": 1.0, "node:__internal_head__": 1.0,
        "accelerator_type:H100": 1.0,
    }  # fmt: skip
    assert cluster(resources) == {"cluster": "1 node, 16 CPUs, 2 GPUs (H100)"}
    assert cluster({}) == {"cluster": "0 nodes, 0 CPUs, 0 GPUs"}

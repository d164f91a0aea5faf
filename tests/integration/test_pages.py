"""The commands of README, tutorial, how-tos and the list of searches, typed page by page, with small searches."""

import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
from ray.cluster_utils import Cluster

from gpt2core import __main__ as core
from gpt2core.checkpoints.layout import BEST, CHECKPOINT_FILES, RUN_FILES
from gpt2core.model_folder import FILES as MODEL_FILES
from gpt2core.weights import EMBEDDED
from searches import __main__ as searches
from searches.entry_point import MODULES
from searches.result_files import FILES as SEARCH_FILES
from searches.result_files import PROMOTED, SEARCHES, TRIALS
from tests import course, own, plugins
from tests.documentation import examples, parts
from tests.runs import ROOT, python, status
from trainables.candidates.folder import FILES as PAIR_FILES
from trainables.tracking import FILES as MLFLOW_FILES

pytestmark = pytest.mark.slow

PAGES = [
    ROOT / "README.md",
    ROOT / "docs" / "tutorial.md",
    ROOT / "docs" / "searches.md",
    *sorted((ROOT / "docs" / "how-to").glob("*.md")),
]
FIRST = ["python", "searches/lora_rank.py"]
#: The searches with which several pages go on. Each is run once.
ENDED = [FIRST, ["python", "-m", "searches", "run", "examples/weight_decay.toml"]]
MAINS: dict[str, Callable[..., object]] = {"searches": searches.main, "gpt2core": core.main}
#: How commands begin that are not typed here, and why. All are parsed in tests/unit/test_docs.py.
NOT_TYPED = {
    "cd gpt2-search": "each page is typed in a folder of its own",
    "make setup": "made this environment",
    "source .venv": "made this environment",
    "make ui": "a server; tests/browser/test_mlflow_pages.py looks at it",
    "make job": "tests/integration/test_job.py submits a search to a local head",
    "ray job submit": "tests/integration/test_job.py submits one to a local head, test_distribution.py stores one in a bucket",
    "python -m searches control": "tests/integration/test_control.py controls a running search",
    "python -m searches report lora_rank-quick --watch": "tests/unit/test_live_report.py follows a search",
    "pip install": "tests/integration/test_plugin.py installs it",
    "python searches/lora_rank.py --search adapter=bitfit,top": "tests/integration/test_plugin.py runs such a search",
    "python searches/study.py": "needs a GPU; tests/integration/test_study.py runs the study on tiny data",
    "python searches/distillation.py": "tests/integration/test_distillation.py runs it on tiny data",
    "python -m gpt2core convert": "tests/unit/test_convert.py has weights that torch.save wrote",
    'make search ARGS="--model gpt2': "README has such a search",
    'make search ARGS="--until decided': "tests/unit/test_verdict.py derives such answers",
    'make search ARGS="--notify': "a stranger's address; tests/unit/test_notify.py has a server",
}
TINY = ("train_examples=16", "dev_examples=32")
TINY_TEXTS = ("max_new_tokens=8", "decode_seeds=1")  # of tasks that write
COLUMNS = 80  # of the terminal on which pages show outputs
LENIENT = ("tau=0.2", "min_length_ratio=0.2", "max_length_ratio=5")  # few pairs of a small model are paraphrases


@dataclass(frozen=True)
class Typed:
    """A command of a page, as words, and the lines of its output that the page shows."""

    page: Path
    words: list[str]
    shown: list[str]

    def __str__(self) -> str:
        return f"{self.page.stem}: {shlex.join(self.words)}"


def not_typed(command: str) -> list[str]:
    """The entries of NOT_TYPED that a command begins with."""
    return [start for start in NOT_TYPED if with_module(command).startswith(start)]


def with_module(command: str) -> str:
    """A command of `gpt2-search` with the module that it runs; another command as it is."""
    program, name, *_ = [*command.split(), ""]
    if program != "gpt2-search":
        return command
    if name in MODULES:
        return command.replace(f"{program} {name}", f"python -m {MODULES[name][0].removesuffix('.__main__')}")
    return command.replace(program, f"python -m {'searches' if name in searches.COMMANDS else 'gpt2core'}")


def typed(page: Path) -> Iterator[Typed]:
    for command, lines in examples(page):
        if not not_typed(command):
            (words,) = parts(with_module(command))
            if words[:2] == ["make", "search"]:
                words = [*FIRST, *shlex.split(words[2].removeprefix("ARGS=") if words[2:] else "")]
            yield Typed(page, [word.replace("-quick", "-smoke") for word in words if word != "--smoke"], lines)


TYPED = [command for page in PAGES if page.stem != "machines" for command in typed(page)]


def is_compared(command: Typed) -> bool:
    """Whether a page shows the answer of a search, or goes on with a search of ENDED."""
    goes_on = command.words[:2] == FIRST and not {"--name", "--train"} & {*command.words}
    return goes_on or any(line.startswith("Answer: ") for line in command.shown)


def small(words: Sequence[str], *, compared: bool) -> list[str]:
    """The words of a command with flags that make it take seconds; `compared` searches have fresh seeds."""
    if "--plan" in words or "parts" in words:
        return [*words]
    if "trainables.candidates" in words:
        return [*words, "--contexts", "24", "--candidates", "6", *(f"--set={pair}" for pair in LENIENT)]
    size = ("--trials", "3", "--replicates", "3") if compared else ("--trials", "2", "--replicates", "0")
    if "searches/command.py" in words:
        return [*words, *size]
    epochs = () if any(word.startswith("epochs=") for word in words) else ("--set", "epochs=1")
    return [*words, "--smoke", *size, *epochs]


def tiny(words: Sequence[str]) -> list[str]:
    """The words of a command of `gpt2core`, with few rows if it trains."""
    if words[0] != "train":
        return [*words]
    texts = () if {"sst", "paraphrase", "--label"}.intersection(words) else TINY_TEXTS
    more = LENIENT if "pretrain=rewriting" in words else ()
    return [*words, *(f"--set={pair}" for pair in (*TINY, *texts, *more))]


def is_separate(words: Sequence[str]) -> bool:
    """Whether a command needs a process of its own, since it starts Ray or imports own parts."""
    return words[1].startswith("searches/") or words[2] == "trainables.candidates" or words[3] in ("run", "parts")


def in_process(folder: Path, words: Sequence[str], *, compared: bool) -> str:
    """Run a command in a process of its own; return what it printed."""
    done = python(*small(words, compared=compared)[1:], cwd=folder, PYTHONPATH=f"{ROOT}:{folder / 'site'}")
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray that all searches of this file join, so that none takes seconds to start its own."""
    head = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", head.address)
        yield
    head.shutdown()


@pytest.fixture(scope="module")
def ended(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder with the searches that have ended, a checkout and stand-ins for models of the hub; and what they printed."""
    folder = tmp_path_factory.mktemp("ended")
    for name in ("searches", "examples"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "gpt2").symlink_to(ROOT / "gpt2core" / "assets" / EMBEDDED[0])
    return folder, {shlex.join(words): in_process(folder, words, compared=True) for words in ENDED}


@pytest.fixture(scope="module")
def folder(ended: tuple[Path, dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """Return the folder in which a page is typed, with what the page names."""
    pages = tmp_path_factory.mktemp("pages")

    def of(page: Path) -> Path:
        place = pages / page.stem
        if not place.exists():
            shutil.copytree(ended[0], place, symlinks=True)
            INPUTS.get(page.stem, lambda _: None)(place)
        return place

    return of


def tables(folder: Path) -> None:
    """Own data: reviews with stars, chats, a play, pairs, and new pairs."""
    rows = own.records()
    pd.DataFrame(rows, columns=["review", "label", "answer"]).rename(columns={"label": "stars"}).to_csv(
        folder / "reviews.csv", index=False
    )
    questions = [{"question": review, "answer": title} for review, _, title in rows]
    (folder / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    (folder / "plays.txt").write_text("\n\n".join(review for review, *_ in rows))
    pairs = pd.DataFrame({"first": [row[0] for row in rows], "second": [row[2] for row in rows]})
    pairs.to_csv(folder / "new.csv", index=False)
    pairs.assign(same=[row[1] for row in rows]).to_parquet(folder / "pairs.parquet")


def runs_of_the_course(folder: Path) -> None:
    """Runs on the course's data, of each task that it asks predictions for."""
    data = course.release(folder / "data")
    for name, task in (("sst", "sst"), ("para", "paraphrase"), ("sonnets", "sonnet")):
        words = [
            "train",
            "--task",
            task,
            "--data-dir",
            str(data),
            "--out",
            str(folder / "runs" / name),
            "--epochs",
            "1",
        ]
        assert status(core.main, tiny(words)) == 0


def parts_of_ones_own(folder: Path) -> None:
    (folder / "my_parts.py").write_text(f'{plugins.TOP}\nADAPTERS["top"] = TOP\n')
    flags = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--target", str(folder / "site")]
    source = shutil.copytree(ROOT / "examples" / "bitfit-plugin", folder / "source")
    done = python("-m", "pip", "install", *flags, str(source))
    assert done.returncode == 0, done.stderr


def decay(folder: Path) -> None:
    """A file that states a search, and its search that has ended."""
    text = (ROOT / "examples" / "weight_decay.toml").read_text(encoding="utf-8")
    (folder / "decay.toml").write_text(text.replace('name = "weight_decay"', 'name = "decay"'), encoding="utf-8")
    shutil.copytree(folder / "runs" / SEARCHES / "weight_decay-smoke", folder / "runs" / SEARCHES / "decay-smoke")


def trainer(folder: Path) -> None:
    shutil.copy(ROOT / "tests" / "toy_trainer.py", folder / "train.py")


def readme(folder: Path) -> None:
    tables(folder)
    trainer(folder)


#: What a page names, made in its folder.
INPUTS: dict[str, Callable[[Path], object]] = {
    "README": readme,
    "searches": lambda folder: course.release(folder / "data"),
    "distillation": lambda folder: course.release(folder / "data"),
    "form": lambda folder: course.release(folder / "data"),
    "decoding": lambda folder: course.release(folder / "data"),
    "one-run": runs_of_the_course,
    "own-data": tables,
    "own-keys": decay,
    "own-parts": parts_of_ones_own,
    "own-program": trainer,
}


@pytest.mark.parametrize("command", TYPED, ids=str)
def test_a_command_of_a_page_works_and_prints_what_the_page_shows(
    command: Typed,
    ended: tuple[Path, dict[str, str]],
    folder: Callable[[Path], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place, words, done = folder(command.page), command.words, ended[1]
    capsys.readouterr()
    if is_separate(words):
        line = shlex.join(words)
        if line not in done:  # a page may repeat what another one has
            done[line] = in_process(place, words, compared=is_compared(command))
        printed = done[line]
    else:
        monkeypatch.chdir(place)
        code = status(MAINS[words[2]], tiny(words[3:]))
        printed = "".join(capsys.readouterr())
        assert code == 0, printed
    assert printed
    lines = {shape(line) for line in printed.splitlines()}
    missing = [line for line in starts(command.shown) if not any(known.startswith(line) for known in lines)]
    assert not missing, printed


def starts(shown: Sequence[str]) -> Iterator[str]:
    """How the lines of output begin that a page shows, wrapped at words as on a terminal of 80 columns."""
    for above, line in pairwise(["", *shown]):
        word, *_ = [*line.split(), ""]
        is_wrapped = len(above) <= COLUMNS < len(f"{above} {word}")
        if not is_wrapped and word not in ("", "...") and not word.startswith("#"):
            yield re.split(r": | \(", shape(line.replace("-quick", "-smoke")))[0]


def shape(line: str) -> str:
    """A line of output without its numbers and the widths of its columns."""
    return " ".join(re.sub(r"\d[\d.,e+-]*", "#", line).split())


def test_each_command_that_is_not_typed_is_on_a_page() -> None:
    begun = {start for page in PAGES for command, _ in examples(page) for start in not_typed(command)}
    assert begun == NOT_TYPED.keys()


def test_the_promoted_model_lies_where_the_tutorial_says(folder: Callable[[Path], Path]) -> None:
    tutorial = ROOT / "docs" / "tutorial.md"
    (path,) = re.findall(r"--checkpoint (\S+/promoted)", tutorial.read_text(encoding="utf-8"))
    assert (folder(tutorial) / path.replace("-quick", "-smoke") / "README.md").is_file()


def test_the_reference_of_files_lacks_none_that_these_commands_left(folder: Callable[[Path], Path]) -> None:
    how_to = ROOT / "docs" / "how-to"
    storage, single = folder(ROOT / "docs" / "tutorial.md") / "runs", folder(how_to / "one-run.md") / "runs"
    search = storage / SEARCHES / "lora_rank-smoke"
    runs = [*(search / TRIALS).iterdir(), single / "one"]
    tables = {
        storage: {f"{SEARCHES}/": "", **MLFLOW_FILES},
        search: SEARCH_FILES,
        **dict.fromkeys(runs, RUN_FILES),
        **dict.fromkeys((run / BEST for run in runs), CHECKPOINT_FILES),
        **dict.fromkeys((search / BEST, search / PROMOTED, single / "model", single / "adapter"), MODEL_FILES),
        folder(how_to / "distillation.md") / "runs" / "pairs": PAIR_FILES,
    }
    assert {place: unlisted(place, table) for place, table in tables.items()} == {place: set() for place in tables}


def unlisted(folder: Path, table: Mapping[str, str]) -> set[str]:
    """The names in a folder, with a slash if they are folders, that no pattern of a table matches."""
    names = {path.name + "/" * path.is_dir() for path in folder.iterdir()}
    assert names, folder
    return {name for name in names if not any(fnmatch(name, pattern) for pattern in table)}

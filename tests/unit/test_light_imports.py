"""What is to start fast imports no heavy library."""

import pytest

from tests.runs import python

GPT2CORE = "from gpt2core.__main__ import main; "
COUNTS = "from gpt2core import describe; from gpt2core.config import RunConfig; describe.describe(RunConfig(), 'plain')"
CRITIC = "from gpt2core.distill.critics import CRITICS; CRITICS['overlap'].of({}).entailment(['a rose'], ['rose'])"
SCRIPT = "import runpy; sys.argv[1:] = ['--help']; runpy.run_path('searches/lora_rank.py', run_name='__main__')"


@pytest.mark.parametrize(("code", "heavy"), [
    (f"{GPT2CORE}main(['train', '--help'])", {"torch", "transformers", "peft"}),
    (f"{GPT2CORE}main(['describe', '--adapter', 'lora', '--json'])", {"transformers"}),
    (COUNTS, {"transformers", "torch._dynamo"}),  # which the prediction of memory imports
    (SCRIPT, {"torch", "ray", "mlflow", "optuna", "transformers", "peft"}),
    (
        "from searches.__main__ import main; main(['promote', '--help'])",
        {"torch", "transformers", "mlflow", "ray", "optuna", "huggingface_hub"},
    ),
    ("import gpt2core.tasks", {"datasets"}),
    (CRITIC, {"torch", "transformers", "sentence_transformers", "datasketch", "scipy"}),
], ids=["train", "describe", "counts", "script", "promote", "tasks", "critics"])  # fmt: skip
def test_what_starts_fast_imports_nothing_heavy(code: str, heavy: set[str]) -> None:
    check = f"heavy = {heavy} & set(sys.modules)\nassert not heavy, heavy"
    done = python("-c", f"import sys\ntry: {code}\nexcept SystemExit as stop: assert not stop.code\n{check}")
    assert done.returncode == 0, done.stderr

"""Does full tuning beat tuning only the last linear layer for sentiment? (Table 2)"""

from searches.domains import Choice, LogUniform
from searches.question import Case, Profile, Search
from searches.runner import main

LAST_LINEAR, FULL = {"adapter": "last-linear", "lr": 1e-3}, {"adapter": "full", "lr": 1e-5}

SEARCH = Search(
    name="sentiment",
    question="Does full tuning beat tuning only the last linear layer for sentiment?",
    own_question="Does full tuning beat tuning only the last linear layer for {data}?",
    own_tasks=["classify"],
    tasks={
        "sst": Case(study=[{**point, "batch_size": 64} for point in (LAST_LINEAR, FULL)]),
        "cfimdb": Case(study=[{**point, "batch_size": 8} for point in (LAST_LINEAR, FULL)]),
    },
    factor=["adapter"],
    scientific={"adapter": Choice("last-linear", "full")},
    nuisance={"lr": LogUniform(1e-6, 3e-2), "batch_size": Choice(8, 16, 32, 64)},
    fixed={"head_dropout": 0.3},
    reference={"adapter": "full", "lr": 5e-5, "batch_size": 16},
    profiles={
        "quick": Profile(model="gpt2-nano", trials=4, replicates=3, run={"epochs": 2, "train_examples": 300}),
        "study": Profile(model="gpt2", trials=40, replicates=5, run={"epochs": 10}),
    },
)

if __name__ == "__main__":
    main(SEARCH)

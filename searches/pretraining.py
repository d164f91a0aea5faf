"""Does training on poems first improve sonnets? (Table 4)"""

from searches.domains import Choice, LogUniform
from searches.question import Case, Profile, Search
from searches.runner import main

SEARCH = Search(
    name="pretraining",
    question="Does training on poems first improve sonnets?",
    tasks={
        "sonnet": Case(
            study=[
                {"attention": attention, "pretrain": first, "lr": 1e-5, "pretrain_lr": 1e-5}
                for first in (None, "poems")
                for attention in ("dense", "logsparse")
            ]
        )
    },
    factor=["attention", "pretrain"],
    scientific={"attention": Choice("dense", "logsparse"), "pretrain": Choice(None, "poems")},
    nuisance={"lr": LogUniform(1e-6, 3e-3), "pretrain_lr": Choice(1e-5, 1e-4, 1e-3)},
    fixed={"adapter": "full", "batch_size": 8, "pretrain_batch_size": 4},
    reference={"attention": "dense", "pretrain": None, "lr": 5e-5, "pretrain_lr": 1e-4},
    profiles={
        "quick": Profile(
            model="gpt2-nano",
            trials=7,
            replicates=3,
            folds=2,
            run={"epochs": 2, "pretrain_epochs": 1, "pretrain_examples": 400, "decode_seeds": 1},
        ),
        "study": Profile(
            model="gpt2", trials=24, replicates=5, run={"epochs": 50, "pretrain_epochs": 10, "decode_seeds": 5}
        ),
    },
)

if __name__ == "__main__":
    main(SEARCH)

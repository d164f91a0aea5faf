"""Do preferences improve sonnets? All trials start from one model, which learnt sonnets before."""

from searches.domains import Choice, LogUniform
from searches.question import Case, Profile, Search
from searches.runner import main

SEARCH = Search(
    name="preferences",
    question="Does direct preference optimisation improve sonnets more than further training on them?",
    tasks={"sonnet": Case(study=[])},
    factor=["loss"],
    scientific={"loss": Choice("likelihood", "dpo")},
    nuisance={"lr": LogUniform(1e-6, 1e-3), "dpo_beta": LogUniform(0.01, 1.0)},
    fixed={
        "objective": "chrf_continuation",
        "adapter": "full",
        "batch_size": 8,
        "pretrain": "sonnet",
        "pretrain_batch_size": 8,
    },
    reference={"loss": "likelihood", "lr": 1e-5, "dpo_beta": 0.1},
    profiles={
        "quick": Profile(
            model="gpt2-nano",
            trials=10,
            replicates=3,
            folds=2,
            run={"epochs": 2, "pretrain_lr": 1e-3, "pretrain_epochs": 3, "decode_seeds": 3},
        ),
        "study": Profile(
            model="gpt2",
            trials=40,
            replicates=5,
            run={"epochs": 5, "pretrain_lr": 1e-5, "pretrain_epochs": 10, "decode_seeds": 10},
        ),
    },
)

if __name__ == "__main__":
    main(SEARCH)

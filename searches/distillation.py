"""Do generated paraphrases help to detect paraphrases, and with which settings of Impossible Distillation? (Table 3)"""

from searches.domains import Choice, LogUniform, Uniform
from searches.question import Case, Profile, Search
from searches.runner import main

ACCEPTED = {"tau_rule": "fixed", "tau": 0.75, "pairs_temperature": 0.7, "pairs_critic": "overlap", "pairs_round": 1}
SHARED = {"added_pairs": "generated", "kl_weight": 0.1, "kl_on": "pairs", "negatives": 0.5, "r_drop": 0.0, "lr": 1.5e-5}
APPROACH_1 = {**ACCEPTED, **SHARED, "filters": "basic", "clean_text": True, "contrastive_weight": 0.1, "batch_size": 8}
APPROACH_2 = {**ACCEPTED, **SHARED, "filters": "all", "clean_text": False, "contrastive_weight": 0.0, "batch_size": 16}
PAIRS_OF_NANO = {"pairs_examples": 200, "pairs_temperature": 0.4, "pairs_critic": "overlap", "pairs_round": 1}
SMALL = {"epochs": 3, "train_examples": 800, "dev_examples": 2000, "lr": 3e-4, "batch_size": 16}
LARGE = {"epochs": 8, "train_examples": 250_000, "pairs_examples": 1000}

SEARCH = Search(
    name="distillation",
    question="Do generated paraphrases help to detect paraphrases?",
    tasks={"paraphrase": Case(study=[APPROACH_1, APPROACH_2, {"lr": 1e-5}])},
    factor=["added_pairs"],
    upper_reference={"added_pairs": "real"},
    scientific={
        "added_pairs": Choice(None, "generated", "real"),
        "tau_rule": Choice("fixed", "adaptive", "curriculum"),
        "tau": Uniform(0.5, 0.95),
        "kl_weight": LogUniform(0.01, 1.0),
        "kl_on": Choice("pairs", "own"),
        "pairs_temperature": Choice(0.5, 0.6, 0.7),
        "pairs_critic": Choice("overlap", "nli"),
        "pairs_round": Choice(1, 2),
        "negatives": Choice(0.0, 0.5, 1.0),
        "filters": Choice("basic", "all"),
        "contrastive_weight": Choice(0.0, 0.1, 0.3),
        "r_drop": Choice(0.0, 1.0, 5.0),
        "clean_text": Choice(False, True),
    },
    nuisance={"lr": LogUniform(1e-6, 1e-3), "batch_size": Choice(8, 16, 32)},
    fixed={"adapter": "full", "pretrain": "rewriting", "growth": 2.0},  # early stopping compares small sets first
    reference={**APPROACH_2, "added_pairs": None, "lr": 5e-5},
    learns_from_pairs=True,
    profiles={
        "quick": Profile(
            model="gpt2-nano",
            trials=9,
            replicates=3,
            run={**SMALL, **PAIRS_OF_NANO, "pretrain_epochs": 1, "pretrain_lr": 3e-4},
            candidates={"contexts": 800, "candidates": 20},
        ),
        "study": Profile(
            model="gpt2",
            trials=40,
            replicates=5,
            run={**LARGE, "pretrain_epochs": 4, "pretrain_lr": 1.5e-5, "pretrain_batch_size": 8},
            candidates={"contexts": 5_000, "candidates": 20, "samples": 100},
        ),
    },
)

if __name__ == "__main__":
    main(SEARCH)

"""Does the rank of LoRA matter for sonnets, if each rank has its own best learning rate? (Table 7)"""

from searches.domains import Choice, LogUniform
from searches.question import Case, Profile, Search
from searches.runner import main

SEARCH = Search(
    name="lora_rank",
    question="Does the rank of LoRA matter for sonnets?",
    own_question="Does the rank of LoRA matter for {data}?",
    tasks={
        "sonnet": Case(study=[{"rank": rank, "lr": 1e-5, "alpha": 32.0, "batch_size": 8} for rank in (4, 8, 16, 32)])
    },
    factor=["rank"],
    scientific={"rank": Choice(4, 8, 16, 32)},
    nuisance={
        "lr": LogUniform(1e-5, 3e-2),
        "alpha": Choice(32.0, "r", "2r"),  # the study's, or a constant alpha / rank
        "batch_size": Choice(4, 8, 16),
    },
    fixed={"adapter": "lora", "targets": "qkv", "lora_dropout": 0.1},
    reference={"rank": 8, "lr": 1e-3, "alpha": "2r", "batch_size": 8},
    profiles={
        "quick": Profile(
            model="gpt2-nano",
            trials=12,
            replicates=3,
            folds=2,
            run={"epochs": 2, "train_examples": 32, "decode_seeds": 1},
        ),
        "study": Profile(
            model="gpt2-large", trials=40, replicates=5, run={"epochs": 10, "decode_seeds": 5, "blocks": "0-11"}
        ),
    },
)

if __name__ == "__main__":
    main(SEARCH)

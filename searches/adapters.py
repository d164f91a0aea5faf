"""How much of the model must be tuned for sonnets, and at what cost? (Tables 6 and 7)"""

from searches.domains import Choice, LogUniform
from searches.question import Case, Profile, Search
from searches.runner import main

LORA = [{"adapter": "lora", "rank": rank, "lr": 1e-5} for rank in (4, 8, 16, 32)]

SEARCH = Search(
    name="adapters",
    question="How much of the model must be tuned for sonnets, and at what cost?",
    own_question="How much of the model must be tuned for {data}, and at what cost?",
    tasks={"sonnet": Case(study=[{"adapter": "full", "lr": 1e-5}, {"adapter": "freeze", "lr": 1e-5}, *LORA])},
    factor=["adapter", "rank"],
    scientific={"adapter": Choice("full", "freeze", "lora"), "rank": Choice(4, 8, 16, 32)},
    nuisance={"lr": LogUniform(1e-6, 3e-2)},
    fixed={"batch_size": 8, "alpha": 32.0, "lora_dropout": 0.1},
    reference={"adapter": "full", "rank": 8, "lr": 5e-5},
    costs=["trainable_parameters", "predicted_gpu_memory_gb", "train_seconds"],
    profiles={
        "quick": Profile(model="gpt2-nano", trials=10, replicates=3, folds=2, run={"epochs": 2, "decode_seeds": 1}),
        "study": Profile(
            model="gpt2-large", trials=40, replicates=5, run={"epochs": 10, "decode_seeds": 5, "blocks": "study"}
        ),
    },
)

if __name__ == "__main__":
    main(SEARCH)

"""The search that `search.py` times, as a script: the rank and learning rate of LoRA on the narrative poems, every point once."""

from searches.domains import Choice
from searches.question import Case, Profile, Search
from searches.runner import main

RANKS, RATES = (4, 8, 16, 32), (1e-4, 3e-4, 1e-3, 3e-3)
ALPHA = 2  # in units of the rank
DEV, BATCH = 8, 4  # examples of 256 tokens

SEARCH = Search(
    name="poems",
    question="Which rank and learning rate of LoRA suit the poems?",
    tasks={"poems": Case()},
    scientific={"rank": Choice(*RANKS)},
    nuisance={"lr": Choice(*RATES)},
    fixed={
        **{"adapter": "lora", "targets": "qkv", "alpha": f"{ALPHA}r", "lora_dropout": 0.0, "dropout": 0.0},
        **{"batch_size": BATCH, "dev_examples": DEV, "cross_documents": True},
    },
    reference={"rank": 8, "lr": 1e-3},
    profiles={"quick": Profile(model="gpt2-nano", trials=len(RANKS) * len(RATES), replicates=0)},
)

if __name__ == "__main__":
    main(SEARCH)

"""Should some blocks have a larger LoRA rank than others, at an equal number of parameters? (Table 7 has one rank for all)"""

from searches.domains import Choice, LogUniform
from searches.question import Case, Profile, Search
from searches.runner import main

SEARCH = Search(
    name="layer_rank",
    question="Should some blocks have a larger LoRA rank than others for sonnets, at an equal number of parameters?",
    own_question="Should some blocks have a larger LoRA rank than others for {data}, at an equal number of parameters?",
    tasks={"sonnet": Case()},
    factor=["adapter", "ranks"],
    scientific={
        "adapter": Choice("lora", "adalora"),  # AdaLoRA finds ranks while it trains
        "ranks": Choice("uniform", "rising", "falling", "lower-half", "upper-half"),
    },
    nuisance={"lr": LogUniform(1e-4, 3e-2)},
    fixed={"rank": 8, "alpha": "2r", "targets": "qkv", "lora_dropout": 0.1, "batch_size": 8},
    reference={"adapter": "lora", "ranks": "uniform", "lr": 1e-3},
    equal_parameters=True,
    costs=["trainable_parameters"],
    profiles={
        "quick": Profile(
            model="gpt2-nano",
            trials=18,
            replicates=3,
            folds=2,
            run={"epochs": 2, "train_examples": 32, "decode_seeds": 1},
        ),
        "study": Profile(model="gpt2-large", trials=40, replicates=5, run={"epochs": 10, "decode_seeds": 5}),
    },
)

if __name__ == "__main__":
    main(SEARCH)

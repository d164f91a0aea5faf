"""Does training several tasks at once improve on a model for each?"""

from searches.domains import Choice, LogUniform
from searches.question import Case, Profile, Search
from searches.runner import main

SEARCH = Search(
    name="multi_task",
    question="Does training several tasks at once improve on a model for each?",
    tasks={"multi": Case()},
    factor=["combination"],
    scientific={"combination": Choice("separate", "sum", "sampling", "pcgrad", "famo")},
    nuisance={
        "lr": LogUniform(1e-4, 1e-2),
        "sampling_temperature": LogUniform(1.0, 10.0),
        "task_adapters": Choice("shared", "both"),
    },
    fixed={"adapter": "lora", "rank": 8, "alpha": "2r", "targets": "all", "batch_size": 8},
    reference={"combination": "separate", "lr": 1e-3, "sampling_temperature": 1.0, "task_adapters": "shared"},
    profiles={
        "quick": Profile(
            model="gpt2-nano",
            trials=10,
            replicates=3,
            folds=2,
            run={
                "tasks": "sonnet+cfimdb",
                "epochs": 2,
                "train_examples": 48,
                "dev_examples": 60,
                "decode_seeds": 0,
            },
        ),
        "study": Profile(
            model="gpt2",
            trials=60,
            replicates=5,
            run={
                "tasks": "sst+paraphrase+sonnet",
                "epochs": 5,
                "train_examples": 10_000,  # of each task: an epoch is as long as the largest task
                "dev_examples": 2000,
                "decode_seeds": 3,
            },
        ),
    },
)

if __name__ == "__main__":
    main(SEARCH)

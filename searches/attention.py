"""Does LogSparse attention, in all blocks or every other one, reduce quality? (Figure 1, and Table 4 without poems)"""

from searches.domains import Choice, LogUniform
from searches.question import Case, Profile, Search
from searches.runner import main

STUDY = [{"attention": "dense", "lr": 1e-5}, {"attention": "logsparse", "lr": 1e-5}]

SEARCH = Search(
    name="attention",
    question="Does LogSparse attention reduce quality?",
    own_question="Does LogSparse attention reduce quality on {data}?",
    tasks={
        "sonnet": Case(fixed={"batch_size": 8, "epochs": 50}, study=STUDY),  # Table 4
        "paraphrase": Case(fixed={"batch_size": 16, "epochs": 10}, study=STUDY),  # Figure 1
    },
    factor=["attention"],
    scientific={"attention": Choice("dense", "logsparse", "dense,logsparse")},
    nuisance={"lr": LogUniform(1e-6, 3e-3)},
    fixed={"adapter": "full"},
    reference={"attention": "dense", "lr": 5e-5},
    profiles={
        "quick": Profile(
            model="gpt2-nano",
            trials=6,
            replicates=3,
            folds=2,
            run={"epochs": 2, "train_examples": 1000, "dev_examples": 1000, "decode_seeds": 1},
        ),
        "study": Profile(model="gpt2", trials=24, replicates=5, run={"decode_seeds": 5}),
    },
)

if __name__ == "__main__":
    main(SEARCH)

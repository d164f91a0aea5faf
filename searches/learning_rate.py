"""Which learning rate is best for full tuning, with the study's batch size and epochs? (Table 1, any of its tasks)"""

from searches.domains import LogUniform
from searches.question import Case, Profile, Search
from searches.runner import main

STUDY = [{"lr": 1e-5}]

SEARCH = Search(
    name="learning_rate",
    question="Which learning rate is best for full tuning?",
    own_question="Which learning rate is best for full tuning on {data}?",
    tasks={
        "sonnet": Case(fixed={"batch_size": 8, "epochs": 50}, study=STUDY),
        "sst": Case(fixed={"batch_size": 64, "epochs": 10}, study=STUDY),
        "cfimdb": Case(fixed={"batch_size": 8, "epochs": 10}, study=STUDY),
        "paraphrase": Case(fixed={"batch_size": 16, "epochs": 10}, study=STUDY),
        "poems": Case(fixed={"batch_size": 4, "epochs": 10}, study=STUDY),
    },
    scientific={"lr": LogUniform(1e-6, 1e-2)},
    nuisance={},
    fixed={"adapter": "full"},
    reference={"lr": 5e-5},  # the default of transformers
    profiles={
        "quick": Profile(
            model="gpt2-nano",
            trials=6,
            replicates=3,
            folds=2,
            run={"epochs": 2, "train_examples": 1000, "dev_examples": 1000, "decode_seeds": 1},
        ),
        "study": Profile(model="gpt2", trials=20, replicates=5, run={"decode_seeds": 5}),
    },
)

if __name__ == "__main__":
    main(SEARCH)

"""Which decoding gives sonnets their form? All trials decode with one model, which is tuned once.

Best of n samples `best_of` texts for one; the others sample one text.
"""

from searches.domains import Choice, Uniform
from searches.question import Case, Profile, Search
from searches.runner import main

STUDY = {"decoder": "top-p", "temperature": 1.2, "top_p": 0.9}

SEARCH = Search(
    name="form",
    question="Which decoding gives sonnets their rhymes?",
    tasks={"sonnet": Case(study=[{**STUDY, "temperature": 1.0}])},
    factor=["decoder"],
    scientific={"decoder": Choice("top-p", "edt", "best-likelihood", "best-form", "form")},
    nuisance={"temperature": Uniform(0.7, 1.3), "top_p": Uniform(0.6, 0.95)},
    # A text that copies training lines or repeats itself may rhyme as well.
    constraints=["distinct_2>=0.5", "copied_lines<=0.1"],
    costs=["text_perplexity"],
    fixed={
        "objective": "form_rhyme",
        "adapter": "frozen",
        "epochs": 1,
        "best_of": 4,
        "pretrain": "sonnet",
        "pretrain_batch_size": 8,
    },
    reference=STUDY,
    profiles={
        "quick": Profile(
            model="gpt2-nano",
            trials=10,
            replicates=3,
            folds=2,
            run={"pretrain_lr": 1e-3, "pretrain_epochs": 3, "decode_seeds": 1},
        ),
        "study": Profile(
            model="gpt2", trials=40, replicates=5, run={"pretrain_lr": 1e-5, "pretrain_epochs": 10, "decode_seeds": 10}
        ),
    },
)

if __name__ == "__main__":
    main(SEARCH)

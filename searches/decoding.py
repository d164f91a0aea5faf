"""Which decoder writes the best sonnets? All trials decode with one model, which is tuned once. (Table 5)"""

from searches.domains import Choice, Uniform
from searches.question import Case, Profile, Search
from searches.runner import main

STUDY = {"temperature": 1.2, "top_k": 50, "top_p": 0.9}

SEARCH = Search(
    name="decoding",
    question="Which decoder writes the best sonnets?",
    tasks={
        "sonnet": Case(
            study=[{"decoder": name, **STUDY} for name in ("greedy", "top-k", "top-p", "top-k-p-study", "beam")]
        )
    },
    scientific={
        "decoder": Choice(
            *("greedy", "top-k", "top-p", "top-k-p", "top-k-p-study", "min-p", "typical", "eta", "edt", "beam"),
            *("best-likelihood", "best-form", "form"),
        )
    },
    nuisance={
        "temperature": Uniform(0.5, 1.5),
        "top_k": Choice(10, 20, 50, 100, 200),
        "top_p": Uniform(0.5, 1.0),
        "repetition_penalty": Uniform(1.0, 1.3),
    },
    # The loss ignores decoding; chrF penalizes neither repetition nor copying.
    constraints=["distinct_2>=0.5", "copied_lines<=0.1"],
    fixed={
        "objective": "chrf_continuation",
        "adapter": "frozen",
        "epochs": 1,
        "num_beams": 5,
        "pretrain": "sonnet",
        "pretrain_batch_size": 8,
    },
    reference={"decoder": "top-p", "temperature": 1.0, "top_k": 50, "top_p": 0.9, "repetition_penalty": 1.0},
    profiles={
        "quick": Profile(
            model="gpt2-nano",
            trials=14,
            replicates=3,
            folds=2,
            run={"pretrain_lr": 1e-3, "pretrain_epochs": 3, "decode_seeds": 3},
        ),
        "study": Profile(
            model="gpt2", trials=60, replicates=5, run={"pretrain_lr": 1e-5, "pretrain_epochs": 10, "decode_seeds": 10}
        ),
    },
)

if __name__ == "__main__":
    main(SEARCH)

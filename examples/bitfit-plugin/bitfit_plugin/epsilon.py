"""Epsilon sampling (Hewitt et al. 2022, arXiv 2210.15191): without tokens of small probability."""

from torch import Tensor

from gpt2core.config import EtaKeys
from gpt2core.decoding import Decoder
from gpt2core.decoding.filters import Columns


def epsilon(probabilities: Tensor, columns: Columns) -> Tensor:
    """Keep the likeliest token and all with a probability of at least `epsilon`."""
    likely = probabilities >= columns["epsilon"]
    return probabilities.where(likely | (probabilities == probabilities.amax(-1, keepdim=True)), 0.0)


EPSILON = Decoder(keep=epsilon, keys=EtaKeys)  # `epsilon` is a key of the decoder `eta` too

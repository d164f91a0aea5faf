"""The contracts of the package's parts."""

from typing import ClassVar

from bitfit_plugin.bitfit import BITFIT

from gpt2core.config import RunConfig
from gpt2core.testing import AdapterContract, DecoderContract, toys


class TestBitfit(AdapterContract):
    cases: ClassVar = {biases: {"adapter": "bitfit", "biases": biases} for biases in ("all", "query+middle")}


class TestEpsilon(DecoderContract):
    cases: ClassVar = {"epsilon": {"decoder": "epsilon", "epsilon": 0.002}}


def test_only_the_named_biases_train() -> None:
    model = toys.model()
    BITFIT.apply(model, RunConfig.of({"adapter": "bitfit", "biases": "query+middle"}))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {f"blocks.{block}.{part}.bias" for block in (0, 1) for part in ("attention.query", "mlp_in")}

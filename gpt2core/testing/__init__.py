"""The contracts of components, for the tests of own parts; they need pytest.

A subclass runs a contract for some settings of runs that name the component::

    from gpt2core.testing import AdapterContract

    class TestBitfit(AdapterContract):
        cases = {"all biases": {"adapter": "bitfit"}, "no query": {"adapter": "bitfit", "bias_query": False}}

The project's own components pass the same tests. `toys` has small models, texts and tokenizers to write further ones. The
contract of samplers is `searches.testing.SamplerContract`.
"""

import pytest

pytest.register_assert_rewrite(
    *(f"{__name__}.{name}" for name in ("adapters", "attention", "contract", "critics", "decoders", "tasks"))
)

from gpt2core.testing.adapters import AdapterContract  # noqa: E402 (after their asserts are told to explain themselves)
from gpt2core.testing.attention import AttentionContract  # noqa: E402
from gpt2core.testing.critics import CriticContract  # noqa: E402
from gpt2core.testing.decoders import DecoderContract  # noqa: E402
from gpt2core.testing.tasks import TaskContract  # noqa: E402

__all__ = ["AdapterContract", "AttentionContract", "CriticContract", "DecoderContract", "TaskContract"]

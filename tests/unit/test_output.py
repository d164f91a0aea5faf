"""Streams that outlive the command that made them steady."""

import io

from gpt2core.output import SteadyStream


def test_a_stream_that_is_detached_is_no_terminal() -> None:
    stream = SteadyStream(io.TextIOWrapper(io.BytesIO(), "utf-8"), "output")
    stream.detach()
    assert not stream.isatty()

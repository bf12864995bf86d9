# SPDX-License-Identifier: AGPL-3.0-or-later
"""Every fuzzing target for some seconds, by coverage (atheris) and by property (hypothesis); faults it has found."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rdmp.frames import FrameError, parse
from rdmp.messages import MessageError
from rdmp.messages import parse as parse_message
from tests.fuzz.__main__ import fuzz
from tests.fuzz.targets import TARGETS, seeds


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris has no wheel for this Python")
@pytest.mark.parametrize("target", list(TARGETS))
def test_by_coverage(target: str, tmp_path: Path) -> None:
    report = fuzz(target, 2, tmp_path)
    assert report["found"] == [] and report["executions"] > 0


@pytest.mark.parametrize("target", list(TARGETS))
def test_by_property(target: str) -> None:
    known = seeds(target)

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.sampled_from(known), st.integers(0, 4000), st.binary(max_size=30))
    def run(seed: bytes, at: int, patch: bytes) -> None:
        at %= len(seed) + 1
        TARGETS[target](seed[:at] + patch + seed[at + len(patch) :])

    for seed in known:
        TARGETS[target](seed)
    run()


def test_the_last_of_many_keys_is_a_duplicate() -> None:
    """The search for it was quadratic: hours for 4 MiB."""
    body = "{" + ",".join(f'"{key}":1' for key in range(300_000)) + ',"last":1,"last":2}'
    with pytest.raises(FrameError, match="duplicate key 'last'"):
        parse(body.encode())


def test_too_many_containers() -> None:
    """1.3 million empty lists took 300 MiB and seconds."""
    with pytest.raises(FrameError, match="objects and arrays"):
        parse(b'{"a":[' + b"[]," * 1_300_000 + b"[]]}")


@pytest.mark.parametrize(
    "message",
    [{"type": [0] * 1_000_000}, {"type": "subscribe", "id": "1", "topics": ["!"] * 400_000}, {"type": "x" * 4_000_000}],
)
def test_a_message_full_of_faults_is_refused_in_few_words(message: dict[str, object]) -> None:
    """Its faults took gigabytes and a minute."""
    with pytest.raises(MessageError) as caught:
        parse_message(message)
    assert 0 < len(caught.value.faults) < 1000 and len(str(caught.value)) < 100_000

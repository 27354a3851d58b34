"""A small share of benchmarks/fuzz.py: damaged input of every kind is used, or refused in one line."""

import logging
import os

import pytest

from benchmarks.fuzzing.cases import KINDS, ending_of
from fastmask_jax.data import large_image

CASES = {"images": 150, "json": 150, "weights": 80, "configs": 80, "command_lines": 80}


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_input_of_every_kind_ends_well(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(large_image, "DECODED_PIXELS", large_image.DECODED_PIXELS)  # which the cases change
    case = KINDS[kind](tmp_path)
    try:
        endings = {number: ending_of(case, number) for number in range(CASES[kind])}
    finally:
        logging.disable(logging.NOTSET)
    bad = {number: ending for number, ending in endings.items() if ending.how not in ("fine", "one line")}
    assert not bad
    assert any(ending.how == "one line" for ending in endings.values())  # else the cases miss their aim


def test_endings_are_told_apart():
    def several_lines(rng):
        raise large_image.InvalidInput("a\nb")

    assert ending_of(lambda rng: None, 0).how == "fine"
    assert ending_of(several_lines, 0).how == "traceback"
    assert "printed" in ending_of(lambda rng: os.write(2, b"libtiff: a message"), 0).why
    assert "ZeroDivisionError" in ending_of(lambda rng: 1 // 0, 0).why

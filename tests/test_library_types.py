"""Arguments of wrong types, without the run-time type checks of the other tests."""

import dataclasses
import subprocess
import sys
import typing
from pathlib import Path

import pytest

from fastmask_jax.inference.generator import ProposalGenerator
from fastmask_jax.inference.options import OptionsByName, ProposeOptions

BEGIN = """
import jax, numpy as np
from fastmask_jax.inference.generator import ProposalGenerator
from fastmask_jax.inference.image_input import read_image
from fastmask_jax.inference.options import ProposeOptions
generator = object.__new__(ProposalGenerator)  # errors are raised before the network is used

def said(call, *values, **named):
    try:
        call(*values, **named)
    except ValueError as error:
        print(error)
    else:
        print("nothing")
"""
CASES = [
    ("ProposeOptions, count='5'", "count='5': expected an integer"),
    ("ProposeOptions, count=2.5", "count=2.5: expected an integer"),
    ("ProposeOptions, count=None", "count=None: expected an integer"),
    ("ProposeOptions, candidates=3.0", "candidates=3.0: expected an integer"),
    ("ProposeOptions, nms_iou='0.5'", "nms_iou='0.5': expected a number"),
    ("ProposeOptions, exif=1", "exif=1: expected 'ignore' or 'apply'"),
    ("ProposeOptions, exif='turn'", "exif='turn': expected 'ignore'"),
    ("ProposeOptions, min_part=-1", "min_part=-1: expected a number of pixels, or a share below 1"),
    ("ProposeOptions, tile=100.0", "tile=100.0: expected a number of pixels, 'off' or 'auto'"),
    ("ProposeOptions, flip='no'", "flip='no': expected True or False"),
    ("ProposeOptions, long_edges=None, candidates=None, mask_threshold=None", "nothing"),
    ("ProposeOptions, np.int64(7), np.float32(0.5), min_area=np.int32(3), flip=np.bool_(True)", "nothing"),
    ("generator.propose, ['a.jpg'], 5", "options=5: expected ProposeOptions; pass options by name"),
    ("generator.propose, 'a.jpg', 'b.jpg'", "options='b.jpg': expected ProposeOptions; pass options by name"),
    ("generator.propose, None", "NoneType is not an image: expected a path, a PIL image or a NumPy array"),
    ("generator.propose, 3", "int is not an image: expected a path, a PIL image or a NumPy array"),
    ("read_image, jax.numpy.zeros((2, 2))", "ArrayImpl is not an image: expected a path, a PIL image or a NumPy array"),
]


def test_options_by_name_are_those_of_the_class():
    """Names and types agree, so that editors complete the arguments of `propose` correctly."""
    of_class = {field.name: field.type for field in dataclasses.fields(ProposeOptions)}
    assert typing.get_type_hints(OptionsByName) == of_class
    assert typing.get_type_hints(ProposalGenerator.propose)["changes"] == typing.Unpack[OptionsByName]


@pytest.fixture(scope="module")
def lines():
    code = BEGIN + "\n".join(f"said({case})" for case, _ in CASES)
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True, timeout=300
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize(("number", "case", "line"), [(n, *case) for n, case in enumerate(CASES)])
def test_values_of_another_type_are_named_in_a_line(lines, number, case, line):
    assert len(lines) == len(CASES)
    assert lines[number].startswith(line)

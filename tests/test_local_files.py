"""etils, the file library of tfds and orbax: owners without names, and folders whose names look like patterns."""

import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from etils import epath
from hypothesis import given, settings
from hypothesis import strategies as st

from fastmask_jax.local_files import correct_local_files
from fastmask_jax.weights.checkpoints import Checkpoints


@pytest.fixture(autouse=True)
def corrected():
    correct_local_files()


def test_checkpoints_in_folders_named_like_patterns(tmp_path):
    """orbax finds and merges the pieces that it writes to such a folder, so that they can be read."""
    workdir = tmp_path / "a[0-9]b" / "run[c]*?"
    saved = {"params": {"kernel": jnp.arange(6.0).reshape(2, 3)}}
    manager = ocp.CheckpointManager(workdir.absolute())
    manager.save(3, args=ocp.args.StandardSave(saved))
    manager.wait_until_finished()
    restored = manager.restore(3, args=ocp.args.StandardRestore())
    manager.close()
    np.testing.assert_array_equal(restored["params"]["kernel"], saved["params"]["kernel"])
    assert Checkpoints(workdir).latest is None  # those of this project are in a folder of their own


NAMES = st.text("ab[]*?!-", min_size=1, max_size=6).filter(lambda name: "**" not in name)


@settings(max_examples=25, deadline=None)
@given(names=st.lists(NAMES, min_size=1, max_size=4, unique=True))
def test_globs_take_their_folder_literally(tmp_path_factory, names):
    folder = tmp_path_factory.mktemp("globs") / names[0]
    folder.mkdir()
    for name in names:
        (folder / f"part_{name}").touch()
        (folder / f"other_{name}").touch()
    found = epath.Path(folder).glob("part_*")
    assert {path.name for path in found} == {f"part_{name}" for name in names}
    assert not list(epath.Path(folder / "missing").glob("*"))


def test_patterns_of_folders_still_work(tmp_path):
    for name in ("a1", "a2", "b1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    assert {path.parent.name for path in epath.Path(tmp_path).glob("a*/file")} == {"a1", "a2"}


def test_owners_without_names_are_numbers(tmp_path, monkeypatch):
    import pwd

    def unknown(number):
        raise KeyError(f"uid not found: {number}")

    path = Path(tmp_path / "file")
    path.write_text("four")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    found = epath.Path(path).stat()
    assert (found.length, found.owner) == (4, str(os.stat(path).st_uid))


def test_a_folder_that_orbax_cannot_use_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a\*\*b: orbax cannot save below a folder with \*\* in its name"):
        Checkpoints(tmp_path / "a**b", {})

"""Expansion of command-line inputs into files."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastmask_jax.apps.predict.input_files import _distinct, find_files, image_ids


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (
        "b.jpg", "a.PNG", "film.mp4", "notes.txt", "day/a.jpg", "day/.hidden.jpg", "day/deep/c.jpeg", ".git/x.jpg",
        "day/raw.CR2", "odd[1].jpg",
    ):  # fmt: skip
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"")
    return tmp_path


def found(*words):
    files = find_files(words)
    return [str(file.path) for file in files.images], [str(file.path) for file in files.videos]


def test_a_folder_stands_for_all_images_and_videos_below_it(tree):
    assert found(".") == (["a.PNG", "b.jpg", "day/a.jpg", "day/deep/c.jpeg", "odd[1].jpg"], ["film.mp4"])
    assert find_files(["."]).passed_over == {".txt": 1, ".CR2": 1}


def test_a_link_to_nothing_is_left_to_who_reads_it(tree):
    (tree / "day" / "lost.jpg").symlink_to(tree / "nowhere.jpg")
    (tree / "day" / "folder.jpg").mkdir()
    assert found("day")[0] == ["day/a.jpg", "day/deep/c.jpeg", "day/lost.jpg"]


@pytest.mark.parametrize(
    ("words", "images"),
    [
        (["b.jpg", "notes.txt"], ["b.jpg", "notes.txt"]),  # what is named is tried
        (["*.jpg"], ["b.jpg", "odd[1].jpg"]),
        (["odd[1].jpg"], ["odd[1].jpg"]),
        (["**/*.jp*g"], ["b.jpg", "day/a.jpg", "day/deep/c.jpeg", "odd[1].jpg"]),
        (["day/*"], ["day/a.jpg", "day/deep/c.jpeg"]),  # a folder that a pattern gives is searched, too
        (["day", "b.jpg", "day/a.jpg", "./b.jpg"], ["day/a.jpg", "day/deep/c.jpeg", "b.jpg"]),  # nothing twice
        (["b.jpg", "*"], ["b.jpg", "a.PNG", "day/a.jpg", "day/deep/c.jpeg", "odd[1].jpg"]),
    ],
)
def test_words(tree, words, images):
    assert found(*words)[0] == images


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_list_may_have_a_byte_order_mark(tree, encoding):
    (tree / "list.txt").write_text("b.jpg\r\nday/a.jpg\r\n", encoding)
    assert found("@list.txt")[0] == ["b.jpg", "day/a.jpg"]


def test_a_list_holds_words_and_may_name_what_is_gone(tree):
    (tree / "list.txt").write_text("b.jpg\n\n  day/deep\ngone.jpg\n")
    assert found("@list.txt")[0] == ["b.jpg", "day/deep/c.jpeg", "gone.jpg"]


def test_names_of_what_is_written_are_those_below_the_folder_and_distinct(tree):
    (tree / "day" / "b.png").write_bytes(b"")
    names = {str(file.path): file.name for file in find_files([".", "day/b.png"]).images}
    assert names["day/deep/c.jpeg"] == "day/deep/c" and names["a.PNG"] == "a"
    assert [file.name for file in find_files(["b.jpg", "day/b.png", "day/a.jpg"]).images] == ["b", "b_2", "a"]


@given(st.lists(st.sampled_from(["a", "A", "b", "a_2", "b_2_2"])))
def test_distinct_names(names):
    distinct = _distinct(names)
    assert len({name.lower() for name in distinct}) == len(names)
    assert all(new.startswith(old) for old, new in zip(names, distinct, strict=True))
    for place, name in enumerate(names):
        if name.lower() not in {other.lower() for other in [*names[:place], *distinct[:place]]}:
            assert distinct[place] == name


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nowhere.jpg", "b.jpg"], r"nowhere\.jpg: no such image or folder \(1 of 2"),
        (["*.bmp"], r"\*\.bmp: no file of that pattern \(1 of 1"),
        (["@gone.txt"], r"@gone\.txt: no such list"),
        (["empty"], "empty: no images or videos there, but 1 .txt"),
    ],
)
def test_what_is_not_there_is_named(tree, words, says):
    (tree / "empty").mkdir()
    (tree / "empty" / "x.txt").write_text("")
    with pytest.raises(FileNotFoundError, match=says):
        find_files(words)


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["COCO_val2014_000000000042.jpg", "000000000007.png"], [42, 7]),
        (["a.jpg", "b.jpg"], [1, 2]),
        (["a1.jpg", "b.jpg"], [1, 2]),
        (["a3.jpg", "b3.jpg"], [1, 2]),
        ([f"{2**63}.jpg", "5.jpg"], [1, 2]),
    ],
)
def test_image_ids(tmp_path, names, ids):
    assert image_ids([tmp_path / name for name in names]) == ids

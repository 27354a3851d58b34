"""Inputs of fastmask propose-dataset: every kind gives the same images, at local and remote addresses."""

import io
import json
import tarfile
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("ray", reason="needs requirements-bulk.txt")
pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
fsspec = pytest.importorskip("fsspec")

from fastmask_jax.bulk.inputs import FoundInput, find_inputs, kind_by_suffix  # noqa: E402
from fastmask_jax.bulk.plan import read_shard, write_plan  # noqa: E402
from fastmask_jax.bulk.reading import Columns, images_of  # noqa: E402
from fastmask_jax.bulk.storage import OutputFolder  # noqa: E402
from fastmask_jax.errors import InvalidInput, MissingFile  # noqa: E402


def contents(folder, words, shard_images=3, columns=None):
    """Returns {image id: bytes or problem} of all shards, in order; checks that ids are unique."""
    skipped = Counter()
    out = OutputFolder(str(folder))
    planned = write_plan(find_inputs([str(word) for word in words], skipped), out, shard_images)
    images = [image for n in range(planned.shards) for image in images_of(read_shard(out, n), columns or Columns())]
    assert planned.images in (None, len(images))
    assert len({image.image_id for image in images}) == len(images)
    return {image.image_id: image.data or image.problem for image in images}, skipped


@pytest.fixture
def files(tmp_path):
    """Seven files in a folder with subfolders."""
    names = ["b.jpg", "a.png", "sub/c.jpg", "sub/d.JPG", "sub/deep/e.webp", "z.jpeg", "m.tif"]
    data = {name: f"content of {name}".encode() for name in names}
    for name, content in data.items():
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return data


def write_tar(path, data, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name, content in data.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def test_a_folder_gives_its_images_and_counts_what_else_it_holds(tmp_path, files):
    (tmp_path / "in" / "notes.txt").write_text("no image")
    (tmp_path / "in" / ".hidden.jpg").write_text("hidden")
    found, skipped = contents(tmp_path / "out", [tmp_path / "in"])
    assert found == files and skipped == {".txt": 1}


def test_a_list_gives_its_lines_and_a_missing_file_is_a_row(tmp_path, files, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = [f"in/{name}" for name in files] + ["in/nowhere.jpg"]
    (tmp_path / "list").write_text("\n".join(lines) + "\n\n")
    found, _ = contents(tmp_path / "out", ["@list"])
    assert found == {f"in/{name}": data for name, data in files.items()} | {"in/nowhere.jpg": "no such file"}


@pytest.mark.parametrize("what", ["bytes", "paths", "struct"])
@pytest.mark.parametrize("ids", [False, True])
def test_parquet_gives_its_rows(tmp_path, files, what, ids):
    names, data = list(files), list(files.values())
    column = {
        "bytes": data,
        "paths": [f"../in/{name}" for name in names],
        "struct": [{"bytes": each, "path": None} for each in data],
    }[what]
    (tmp_path / "parquet").mkdir()
    table = pa.table({"image": column, "number": list(range(100, 107))})
    pq.write_table(table, tmp_path / "parquet" / "p.parquet", row_group_size=2)
    columns = Columns(image_id="number" if ids else None)
    found, _ = contents(tmp_path / "out", [tmp_path / "parquet"], columns=columns)
    assert list(found) == ([str(n) for n in range(100, 107)] if ids else [f"p.parquet:{n}" for n in range(7)])
    assert list(found.values()) == data


def test_parquet_without_the_column_is_one_line(tmp_path):
    pq.write_table(pa.table({"picture": [b"x"], "number": [1]}), tmp_path / "p.parquet")
    with pytest.raises(InvalidInput, match=r"no column 'image'; it has picture, number"):
        contents(tmp_path / "out", [tmp_path / "p.parquet"])
    with pytest.raises(InvalidInput, match=r"column 'number' is int64"):
        contents(tmp_path / "out", [tmp_path / "p.parquet"], columns=Columns("number"))
    (tmp_path / "q.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(InvalidInput, match=r"q\.parquet: not a readable Parquet file"):
        contents(tmp_path / "out", [tmp_path / "q.parquet"])


@pytest.mark.parametrize(("suffix", "mode"), [("tar", "w"), ("tar.gz", "w:gz")])
def test_a_tar_gives_its_images(tmp_path, files, suffix, mode):
    labels = {f"{name}.json": json.dumps({"label": 1}).encode() for name in files}  # WebDataset's other members
    write_tar(tmp_path / f"t.{suffix}", files | labels, mode)
    found, _ = contents(tmp_path / "out", [tmp_path / f"t.{suffix}"])
    assert found == {f"t.{suffix}/{name}": data for name, data in files.items()}


@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
def test_a_tar_cut_off_anywhere_says_so(tmp_path, suffix):
    """Images are never lost without a row that reports the missing rest."""
    data = {f"{n}.jpg": np.random.default_rng(n).bytes(700) for n in range(3)}
    write_tar(tmp_path / f"whole.{suffix}", data, "w" if suffix == "tar" else "w:gz")
    whole = (tmp_path / f"whole.{suffix}").read_bytes()
    end = 3 * (512 + 1024) if suffix == "tar" else len(whole)
    for size in [0, 100, 512, 600, 1536, 1537, 2048, end - 1, end]:
        if size >= len(whole):
            continue
        (tmp_path / f"t.{suffix}").write_bytes(whole[:size])
        found, _ = contents(tmp_path / "out", [tmp_path / f"t.{suffix}"])
        said = found.pop(f"t.{suffix}")
        assert b"tar" in said.encode(), (size, said)
        assert all(found[name] == data[name.partition("/")[2]] for name in found)


def test_mistakes_are_one_line(tmp_path, files):
    with pytest.raises(MissingFile, match="nowhere: no such file or folder"):
        contents(tmp_path / "out", [tmp_path / "nowhere"])
    with pytest.raises(InvalidInput, match="is there twice"):
        contents(tmp_path / "out", [tmp_path / "in", tmp_path / "in" / "b.jpg"])
    with pytest.raises(InvalidInput, match="bogus"):
        contents(tmp_path / "out", ["bogus://bucket/photos"])


def test_another_file_system(tmp_path, files):
    """Uses fsspec's file system in memory as an example of a remote one."""
    memory = fsspec.filesystem("memory")
    for name, data in files.items():
        memory.pipe_file(f"/bucket/in/{name}", data)
    found, _ = contents("memory://bucket/out", ["memory://bucket/in"])
    assert found == files
    assert memory.exists("/bucket/out/plan/000000.parquet")


@settings(max_examples=40)
@given(
    kinds=st.lists(st.sampled_from(["a.jpg", "b.tar", "c.JPEG", "d.tgz"]), max_size=40),
    shard_images=st.integers(1, 7),
)
def test_a_plan_has_every_input_once_and_in_order(kinds, shard_images):
    found = [FoundInput(kind_by_suffix(name), f"{n}/{name}", f"/{n}/{name}") for n, name in enumerate(kinds)]
    out = OutputFolder("memory://planned")
    planned = write_plan(found, out, shard_images)
    shards = [read_shard(out, number) for number in range(planned.shards)]
    by_kind = {kind: [one.name for one in found if one.kind == kind] for kind in ("image", "tar")}
    for kind, names in by_kind.items():
        assert [name for shard in shards if shard.kind == kind for name in shard.names] == names
    assert all(len(shard.names) <= shard_images for shard in shards)
    assert planned.images == (None if by_kind["tar"] else len(found))


def test_an_object_store(tmp_path, files, monkeypatch):
    """S3, served by moto on this machine: input, list and output. Refused access does not become a row per image."""
    moto_server = pytest.importorskip("moto.server", reason="needs moto and flask")
    pytest.importorskip("s3fs")
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {"KEY": "key", "SECRET": "secret", "ENDPOINT_URL": f"http://{host}:{port}"}.items():
        monkeypatch.setitem(fsspec.config.conf, "s3", fsspec.config.conf.get("s3", {}) | {name.lower(): value})
    try:
        bucket = fsspec.filesystem("s3")
        bucket.mkdir("photos")
        for name, data in files.items():
            bucket.pipe_file(f"photos/in/{name}", data)
        found, _ = contents("s3://photos/out", ["s3://photos/in"])
        assert found == files
        bucket.pipe_file("photos/list", b"s3://photos/in/a.png\ns3://photos/in/nowhere.png\n")
        found, _ = contents("s3://photos/other", ["@s3://photos/list"])
        assert list(found.values()) == [files["a.png"], "no such file"]
        assert OutputFolder("s3://photos/out").names("plan") == ["000000.parquet"]
    finally:
        server.stop()
        fsspec.filesystem("s3").clear_instance_cache()

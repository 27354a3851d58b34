"""The Colab notebook: runs from an empty folder to its last cell, as on Colab, with small data; and its stored form."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version

import pytest

from tests import tiny

WANTED = "the notebook is run with {}: pip install -r requirements-test.txt"
for name in ("ipykernel", "matplotlib", "skimage"):
    pytest.importorskip(name, reason=WANTED.format(name))
nbclient = pytest.importorskip("nbclient", reason=WANTED.format("nbclient"))
nbformat = pytest.importorskip("nbformat", reason=WANTED.format("nbformat"))
inputtransformer2 = pytest.importorskip("IPython.core.inputtransformer2", reason=WANTED.format("ipykernel"))

NOTEBOOK = tiny.ROOT / "notebooks" / "fastmask_colab.ipynb"
DEVICES = 2
YEAR = 2014
ELSEWHERE = ("data.records", "evaluation.annotations", "evaluation.images", "train.batch_size")  # set by the notebook


@pytest.fixture(scope="module")
def book():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_is_stored_without_outputs(book):
    nbformat.validate(book)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert [cell.id for cell in code if "parameters" in cell.metadata.get("tags", [])] == [code[0].id]
    assert "accelerator" not in book.metadata  # the machine is the reader's choice
    assert json.dumps(json.loads(NOTEBOOK.read_text()), indent=1, ensure_ascii=False) + "\n" == NOTEBOOK.read_text()


def test_coco_waits_to_be_asked(book):
    """*Run all* skips the last part: it only imports, defines functions, and checks RUN_COCO, which is false."""
    parameters = {}
    exec(book.cells[1].source, parameters)
    assert parameters["RUN_COCO"] is False
    sources = [cell.source for cell in book.cells if "coco" in cell.metadata.get("tags", [])]
    assert sources
    for source in sources:
        for statement in ast.parse(inputtransformer2.TransformerManager().transform_cell(source)).body:
            if not isinstance(statement, ast.Import | ast.ImportFrom | ast.FunctionDef):
                assert isinstance(statement, ast.If) and ast.unparse(statement.test) == "RUN_COCO"
                assert not statement.orelse


def repository(folder, requirements=None):
    """Creates a repository to clone: the parts of the working tree that the notebook needs, in one commit."""
    for name in ("fastmask_jax", "configs"):
        shutil.copytree(tiny.ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for path in [*tiny.ROOT.glob("*.py"), tiny.ROOT / "requirements.txt"]:
        shutil.copy(path, folder)
    if requirements:
        (folder / "requirements.txt").write_text(requirements)
    author = "-c", "user.name=A", "-c", "user.email=a@example.org"
    for words in (("init", "--quiet"), ("add", "--all"), (*author, "commit", "--quiet", "--message", "All")):
        subprocess.run(["git", *words], cwd=folder, check=True)
    return str(folder)


def downloads(folder, data):
    """Packs the drawn shapes as COCO's archives; returns the download address."""
    (folder / "annotations").mkdir(parents=True)
    (folder / "zips").mkdir()
    with zipfile.ZipFile(folder / f"annotations/annotations_trainval{YEAR}.zip", "w") as both:
        for split in ("train", "val"):
            annotations = data / "annotations" / f"instances_{split}.json"
            both.write(annotations, f"annotations/instances_{split}{YEAR}.json")
            with zipfile.ZipFile(folder / f"zips/{split}{YEAR}.zip", "w") as images:
                for image in json.loads(annotations.read_text())["images"]:
                    images.write(data / "images" / image["file_name"], f"{split}{YEAR}/{image['file_name']}")
    return folder.as_uri()


def environment(folder):
    """Returns the kernel's environment, in which nothing can be installed and only the clone contains the package."""
    ours = {"PIP_NO_INDEX": "1", "IPYTHONDIR": str(folder / "ipython"), "JUPYTER_PLATFORM_DIRS": "1"}
    kept = tiny.environment(folder / "compiled", DEVICES) | ours
    return {name: value for name, value in kept.items() if name not in ("PYTHONPATH", "MPLBACKEND")}


def small(data, **changed):
    settings = tiny.settings(data, **changed)
    return [f"--config.{key}={value}" for key, value in settings.items() if key not in ELSEWHERE]


def execute(book, tmp_path_factory):
    """(cell id → what the cell printed, cell id → number of pictures it showed, the folder it began in)."""
    data = tiny.dataset(tmp_path_factory.getbasetemp())
    folder = tmp_path_factory.mktemp("colab")
    parameters = {
        "SOURCE": repository(tmp_path_factory.mktemp("repository")),
        "SHAPES_IMAGES": (6, 4),
        "SHAPES_SETTINGS": small(data, train__images=8, train__log_every=1, train__picture_every=2, data__workers=1),
        "RUN_COCO": True,
        "COCO_DOWNLOADS": downloads(tmp_path_factory.mktemp("downloads"), data),
        "COCO_CONFIG": "coco",
        "COCO_WEIGHTS": "runs/shapes",
        "COCO_EVALUATED": 3,
        "COCO_SETTINGS": small(data, model__body__middle_stride=1, train__images=8, train__log_every=1),
    }
    source = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    cells = [*book.cells[:2], nbformat.v4.new_code_cell(source), *book.cells[2:]]
    ours = nbformat.v4.new_notebook(cells=cells, metadata=book.metadata)
    place = {"metadata": {"path": str(folder)}}
    client = nbclient.NotebookClient(ours, timeout=600, kernel_name="python3", resources=place)
    client.execute(env=environment(folder))
    printed, shown = {}, {}
    for cell in ours.cells:
        outputs = cell.get("outputs", [])
        printed[cell.id] = "".join(output.text for output in outputs if output.output_type == "stream")
        shown[cell.id] = sum("image/png" in output.get("data", {}) for output in outputs)
        assert not any(output.output_type == "error" for output in outputs), printed[cell.id]
    return printed, shown, folder


def test_runs_from_the_first_cell_to_the_last(book, tmp_path_factory):
    """A single test, because one kernel runs all cells."""
    printed, shown, folder = execute(book, tmp_path_factory)
    clone = folder / "fastmask_jax"
    check_installed(printed, folder)
    check_shapes(printed, shown, clone / "runs/shapes")
    check_coco(printed, shown, clone / "runs/coco", clone / "datasets/coco")


def check_installed(printed, folder):
    kept = [f"{name}=={version(name)}" for name in ("jax", "jaxlib")]
    assert printed["install"].startswith(f"left as it is: {', '.join(kept)}")
    assert (folder / "kept.txt").read_text().splitlines()[:2] == kept
    assert f"jax {version('jax')}, cpu: {DEVICES} x " in printed["devices"]


def check_shapes(printed, shown, run):
    assert "6 training images" in printed["shapes_train"]
    assert json.loads((run / "config.json").read_text())["train"]["batch_size"] == 4
    assert "step 2/2" in printed["shapes_train"] and "100%" in printed["shapes_train"]  # progress, too
    assert "AR@100" in printed["shapes_evaluate"]
    assert json.loads((run / "metrics.json").read_text())["images"] == 4
    assert (shown["shapes_curves"], shown["shapes_pictures"], shown["shapes_evaluate"]) == (1, 3, 3)
    assert "proposals of a 303 x 384 image" in printed["propose"]
    assert (shown["propose"], shown["attention"]) == (1, 1)


def check_coco(printed, shown, run, coco):
    there = {path.name for path in coco.iterdir()}
    assert there == {"annotations", f"train{YEAR}", f"val{YEAR}", f"records{YEAR}"}  # and no archive
    assert "Warning" not in printed["coco_download"]
    assert f"train: {tiny.TRAIN_IMAGES} images" in printed["coco_prepare"]
    config = json.loads((run / "config.json").read_text())
    assert (config["train"]["batch_size"], config["model"]["dtype"]) == (2 * DEVICES, "float32")
    assert "step 2/2" in printed["coco_train"] and "weights from runs/shapes" in printed["coco_train"]
    assert json.loads((run / "metrics.json").read_text())["images"] == 3
    assert (shown["coco_train"], shown["coco_evaluate"], shown["coco_propose"]) == (1, 3, 2)


def install(book, folder, source):
    """Runs only the install cell in a folder, without a package index; returns (exit code, last line of stderr)."""
    cell = next(cell.source for cell in book.cells if cell.id == "install")
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", f"SOURCE = {source!r}\n{cell}\nprint(ROOT)"],
        cwd=folder,
        env=os.environ | {"PIP_NO_INDEX": "1"},
        capture_output=True,
        text=True,
    )
    return done.returncode, (done.stderr or done.stdout).splitlines()[-1]


@pytest.mark.parametrize(
    ("requirements", "says"),
    [
        (None, "SOURCE, above, is the address to clone from"),
        ("jax>=999\n", f"requirements.txt names the versions of jax .*jax=={version('jax')}"),
    ],
)
def test_what_cannot_be_installed_is_said(book, tmp_path, requirements, says):
    source = repository(tmp_path / "origin", requirements) if requirements else "nowhere"
    code, line = install(book, tmp_path / "work", source)
    assert code == 1
    assert re.search(says, line), line


def test_without_source_and_upload_the_cell_asks_for_one(book, tmp_path):
    code, line = install(book, tmp_path, "")
    assert code == 1
    assert "SOURCE, above, is empty, and no fastmask_jax-*.whl or .zip was uploaded" in line


@pytest.mark.skipif(shutil.which("unzip") is None, reason="unzip is not installed")
def test_an_uploaded_zip_is_unpacked(book, tmp_path):
    """A zip like those of repository hosts: with one top-level folder, and links kept as links; SOURCE is empty."""
    repository(tmp_path / "origin")
    archive = tmp_path / "work" / "fastmask_jax-main.zip"
    archive.parent.mkdir()
    words = "git", "archive", "--prefix=fastmask_jax-main/", f"--output={archive}", "HEAD"
    subprocess.run(words, cwd=tmp_path / "origin", check=True)
    code, line = install(book, tmp_path / "work", "")
    root = tmp_path / "work" / "fastmask_jax" / "fastmask_jax-main"
    assert (code, line) == (0, str(root))
    assert (root / "fastmask_jax" / "configs" / "shapes.py").is_file()


@pytest.mark.parametrize(("protobuf", "replaced"), [("5.29.6", True), ("7.35.1", False)])
def test_metadata_is_replaced_where_protobuf_cannot_load_it(book, tmp_path, protobuf, replaced):
    """Runs the install cell with another version of protobuf installed; pip itself does not run."""
    record = tmp_path / "installed" / f"protobuf-{protobuf}.dist-info"
    record.mkdir(parents=True)
    (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: protobuf\nVersion: {protobuf}\n")
    source = repository(tmp_path / "origin", "numpy\n")
    cell = next(cell.source for cell in book.cells if cell.id == "install")
    listed = f"""
import sys
sys.path.insert(0, {str(record.parent)!r})
SOURCE = {source!r}
import subprocess
run = subprocess.run
subprocess.run = lambda command, **options: run([sys.executable, "-c", ""] if "pip" in command else command, **options)
"""
    commands = cell.replace("call(*pip, *needed", "print(*needed); call(*pip, *needed")
    (tmp_path / "work").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", f"{listed}\n{commands}"], cwd=tmp_path / "work", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert ("tensorflow-metadata<1.18" in done.stdout) == replaced

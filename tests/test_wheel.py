"""The package as people get it: built, installed, and used in a folder that is not the clone."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from pattlite_dist.model.weights import names
from tests.conftest import ROOT, environment
from tests.ready import PHOTOGRAPH, write_run

# From the source distribution, as `python -m build` does it.
BUILD = """
import os, sys, tarfile
from setuptools import build_meta
out = sys.argv[1]
name = build_meta.build_sdist(out)
tarfile.open(os.path.join(out, name)).extractall(out, filter="data")
os.chdir(os.path.join(out, name.removesuffix(".tar.gz")))
build_meta.build_wheel(out)
"""
# Runs examples, a line or a block each, in one process: importing PyTorch takes seconds.
USE = """
import glob, json, shlex, sys, time
begin = time.process_time()
import pattlite_dist
assert time.process_time() - begin < 0.2
assert pattlite_dist.__file__.startswith(sys.prefix), pattlite_dist.__file__
from pattlite_dist.cli import main
for kind, text in json.load(open("examples.json")):
    if kind == "python":
        exec(text, {})
    else:
        words = [part for word in shlex.split(text)[1:] for part in glob.glob(word) or [word]]
        assert main(words) == 0, text
"""
Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the files that git knows or would."""
    folder = tmp_path_factory.mktemp("build")
    tree = folder / "tree"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split("\0")  # fmt: skip
    for name in filter(None, listed):
        if not name.startswith(("tests/", "docs/")) and (ROOT / name).exists():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(folder)], cwd=tree, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    [found] = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def fresh(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, which borrows what the package requires."""
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps",
         "--no-index", "--no-compile", str(wheel)], check=True,
    )  # fmt: skip
    [packages] = folder.glob("lib/python3*/site-packages")
    # A path, whose own .pth files are not read: the editable installation is not found there.
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, face_shards: Path) -> Path:
    """What the examples use: pictures, a clip, a run and shards."""
    folder = tmp_path_factory.mktemp("elsewhere")
    write_run(folder / "runs" / "fer2013", face_shards)
    (folder / "shards").mkdir()
    (folder / "shards" / "fer2013").symlink_to(face_shards)
    (folder / "demo").symlink_to(folder)
    (folder / "tests" / "parity").mkdir(parents=True)
    with Image.open(PHOTOGRAPH) as opened:
        picture = opened.convert("RGB")
    for name in ("photo.jpg", "a.jpg", "b.png", "album/coffee.png", "party/x.jpg",
                 "tests/parity/photograph.png"):  # fmt: skip
        (folder / name).parent.mkdir(exist_ok=True)
        picture.save(folder / name)
    writer = cv2.VideoWriter(
        str(folder / "clip.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 24, picture.size
    )
    for _ in range(3):
        writer.write(np.ascontiguousarray(np.asarray(picture)[..., ::-1]))
    writer.release()
    return folder


def run(fresh: Path, place: Path, *words: str) -> Done:
    env = environment()
    del env["PYTHONPATH"]
    path = f"{fresh / 'bin'}{os.pathsep}{env['PATH']}"
    return subprocess.run(
        words, cwd=place, env={**env, "PATH": path}, capture_output=True, text=True, check=False
    )


def examples(page: str, part: str) -> list[tuple[str, str]]:
    """The commands and the Python code of a part of a page, in their order."""
    text = (ROOT / page).read_text()
    text = text[text.index(part) :]
    found = []
    for kind, block in re.findall(r"^```(console|python)\n(.*?)^```", text, re.DOTALL | re.M):
        if kind == "python":
            found.append((kind, block))
            continue
        lines = [line[2:] for line in block.splitlines() if line.startswith("$ pattlite ")]
        found += [(kind, line) for line in lines]
    return found


def test_the_wheel_contains_what_is_looked_up_and_no_tests(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        found = archive.namelist()
    weights = [f"weights/{name}.safetensors" for name in names()]
    for name in ("py.typed", "configs/fer2013.yaml", "profiles/one-gpu.yaml", "weights/default",
                 *weights, *(f"{name}.md" for name in weights)):  # fmt: skip
        assert f"pattlite_dist/{name}" in found
    assert weights
    assert {name.split("/")[0].split("-")[0] for name in found} == {"pattlite_dist"}


def test_configurations_and_profiles_are_found(fresh: Path, place: Path) -> None:
    done = run(fresh, place, "pattlite", "configs")
    assert done.returncode == 0, done.stderr
    assert str(fresh) in done.stdout
    names = {line.split(" ")[0] for line in done.stdout.splitlines()}
    assert names >= {path.stem for path in (ROOT / "configs").glob("*.yaml")}
    profiles = run(fresh, place, "pattlite", "profiles").stdout
    assert "one-gpu" in profiles and str(fresh) in profiles


@pytest.mark.slow
def test_the_examples_run(fresh: Path, place: Path) -> None:
    readme = examples("README.md", "## Use it on a photograph")
    kept = [one for one in readme if " predict " in one[1] or ".predict(" in one[1]]
    use = examples("docs/use.md", "# Using a network")
    assert len(kept) == 2 and len(use) >= 9
    # Exporting to ONNX takes seven seconds, and `tests/export` does it.
    use = [(kind, text) for kind, text in use if ".onnx" not in text]
    every_option = (
        "pattlite predict pretrained clip.mp4 album photo.jpg --faces largest --every 2 "
        "--min-confidence 0.5 --format jsonl --draw drawn"
    )
    predicts = [
        *(("console", f"pattlite predict pretrained:{name} photo.jpg") for name in names()),
        ("console", every_option),
        *(("console", line.replace("evaluate ", "evaluate --pictures=false "))
          if kind == "console" else (kind, line) for kind, line in [*kept, *use]),
    ]  # fmt: skip
    (place / "examples.json").write_text(json.dumps(predicts))
    done = run(fresh, place, "python", "-c", USE)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("photo.jpg") >= 2
    drawn = sorted(path.name for path in (place / "drawn").iterdir())
    assert drawn == ["clip-000000.jpg", "clip-000002.jpg", "coffee.jpg", "photo.jpg"]
    [told] = [line for line in done.stdout.splitlines() if '"source": "photo.jpg"' in line]
    [face] = json.loads(told)["faces"]
    assert face["label"] == "neutral" and face["confidence"] > 0.5  # Rear Admiral Hopper
    assert [*(place / f"{names()[0]}-evaluation").rglob("evaluation.json")]

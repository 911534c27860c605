"""What the tests share: the command `dsconv`, networks that it wrote, and comparisons.

`DSCONV` names the command; by default it is the one in target/release.
"""

import os
import pickle
import select
import signal
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest

import dsconv

ROOT = Path(__file__).resolve().parents[3]
PICTURES = ROOT / "crates/images/tests/golden/images"
NAMES = ["420.jpg", "progressive.jpg", "rgb.png", "rgba.png", "gray16.png", "palette.png", "rgb.bmp", "lossless.webp"]
COMMAND = Path(os.environ.get("DSCONV", Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/dsconv"))


def ran(*arguments):
    """Runs the command, and returns what became of it."""
    if not COMMAND.exists():
        pytest.skip(f"no {COMMAND}: `cargo build --release -p dsconv-cli`")
    return subprocess.run([COMMAND, *map(str, arguments)], capture_output=True, text=True)


def command(*arguments):
    """Runs the command, which must succeed, and returns its stdout."""
    done = ran(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    network = "resnet50-embedded"
    command("quantize", network, "--images", "none", "-o", folder / "model.dsc")
    command("export", network, "-o", folder / "float.safetensors")
    command("export", network, "-o", folder / "float.onnx")
    return folder


@pytest.fixture(scope="session")
def model(folder):
    return dsconv.load(folder / "model.dsc", threads=1)


def in_a_fork(work, seconds=120):
    """Does work in a forked process, which must end in time, and returns its result."""
    if not hasattr(os, "fork"):
        pytest.skip("no fork")
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        # From 3.12 on Python warns of every fork beside threads.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        status = 1
        try:
            os.write(writer, pickle.dumps(work()))
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    ended = select.select([reader], [], [], seconds)[0]
    if not ended:
        os.kill(child, signal.SIGKILL)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read()
    assert os.waitpid(child, 0)[1] == 0, "it fails" if ended else "it hangs"
    return pickle.loads(said)


def bits(values):
    return np.asarray(values, np.float32).view(np.uint32).tolist()

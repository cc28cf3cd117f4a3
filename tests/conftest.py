"""Fixtures shared by all tests: the backends that are built, and the two element types."""

import os

import pytest
from program import BACKEND, BINARY, ROOT
from shards import random_text, write_text_shards
from slurm_cluster import CannotStart, Cluster

import llmc
from llmc.cpus import before_torch, usable_cpus

# Several workers (pytest -n) share the CPUs, perhaps with other work: no more threads and compilers than CPUs.
# before_torch also makes spinning short, in this process and in all programs that the tests start.
before_torch()
os.environ["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS") or str(
    max(1, usable_cpus() // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1)))
)
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", os.environ["OMP_NUM_THREADS"].split(",")[0])


def unbuilt():
    """Modules and programs that the tests need and that are not built: without them most tests would be skipped."""
    needed = {BACKEND} if BACKEND != "cpu" else {"cpu", "emulated"}
    programs = [BINARY] if BACKEND != "cpu" else [BINARY, ROOT / "train_gpt2emu"]
    return [f"the {name} backend" for name in sorted(needed - set(llmc.backends()))] + [
        str(path.relative_to(ROOT)) for path in programs if not path.exists()
    ]


def pytest_sessionstart(session):
    if "PYTEST_XDIST_WORKER" in os.environ or os.environ.get("LLMC_TEST_UNBUILT"):
        return
    missing = unbuilt()
    if missing:
        pytest.exit(
            f"not built: {', '.join(missing)}. Run `make test`, or build with `make train_gpt2 train_gpt2emu module "
            "module-emu`; LLMC_TEST_UNBUILT=1 runs what can run without",
            returncode=4,
        )


@pytest.fixture(
    params=llmc.backends() or [pytest.param(None, marks=pytest.mark.skip(reason="no backend is built: run make"))]
)
def backend(request):
    """Module of one built backend: llmc.cpu, llmc.emulated, llmc.cuda."""
    return llmc.backend(request.param)


@pytest.fixture(params=["fp32", "bf16"])
def dtype(request):
    return request.param


# All tests of a file run in one worker: start the longest files first, so that they do not run alone at the end.
LONGEST = [
    f"test_{name}.py"
    for name in ("planted_bugs", "sanitizers", "emulated_training", "mutations", "parity", "gpu_check")
]


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture
def one_thread():
    """PyTorch on one thread: more threads do not help tiny models, and slow them down if cores are shared."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """--train-data and --val-data of small shards of text. Files that need other data define their own `data`."""
    folder = tmp_path_factory.mktemp("shards")
    write_text_shards(folder, random_text(3000, 1), 1, "val")
    train = write_text_shards(folder, random_text(9000), 3, "train")
    return ["--train-data", train, "--val-data", str(folder / "val_*.bin")]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A SLURM of one node."""
    try:
        cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    except CannotStart as reason:
        pytest.skip(f"no SLURM on this machine: {reason}")
    yield cluster
    cluster.close()

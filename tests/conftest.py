"""Before any test imports PyTorch: one thread, threads that wait by sleeping, and checks of all annotations.

The tests' networks are so small that a second thread gains nothing; a second process of tests does. OpenMP's
threads spin while they wait for each other; where anything else runs on the machine that makes small tests
ten times slower (measured in docs/experiments/training-on-cpus.md).

Shapes and types in annotations are checked at every call (jaxtyping with beartype) of the packages below.
"""

import os
import signal
from collections.abc import Iterator

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import pytest
import torch
from jaxtyping import install_import_hook

import tests.typechecker
from tests.tools import lacking

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # Triton's kernels run on the CPU, slowly; read once, at its import

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a shell
    signal.signal(signal.SIGINT, signal.default_int_handler)

CHECKED = tests.typechecker.modules("models", "renderers", "evaluation", "guidance", "systems")
install_import_hook(CHECKED, "tests.typechecker.check")


@pytest.fixture(scope="session")
def validator(tmp_path_factory):
    """Khronos' glTF validator."""
    from evaluation.gltf_validator import GltfValidator

    try:
        return GltfValidator(tmp_path_factory.mktemp("validator"))
    except OSError as error:
        lacking(str(error))


@pytest.fixture(scope="session")
def triton_device():
    """Where Triton's kernels run: on a GPU, else on the CPU under Triton's interpreter."""
    from models.backends import triton_obstacle

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if (obstacle := triton_obstacle(device)) is not None:
        pytest.skip(obstacle)
    return device


@pytest.fixture(scope="session")
def prior_folder(tmp_path_factory):
    """A tiny random Stable Diffusion, as a folder."""
    from tests.tiny_priors import save_tiny_stable_diffusion

    return save_tiny_stable_diffusion(tmp_path_factory.mktemp("prior"))


@pytest.fixture
def config(prior_folder):
    """A run of seconds with that prior."""
    from tests.systems.tiny_runs import tiny_config

    return tiny_config(prior_folder)


@pytest.fixture
def prior(prior_folder):
    """That prior, loaded."""
    from guidance.loading import load_prior

    return load_prior(prior_folder)


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """A browser with WebGL."""
    from tests.renderers.browser import NAMES, Browser, find_browser

    program = find_browser()
    if program is None:
        lacking(f"no browser: none of {', '.join(NAMES)} is installed")
    browser = Browser(program, tmp_path_factory.mktemp("browser") / "profile")
    yield browser
    browser.close()


@pytest.fixture
def hearing_hangups() -> Iterator[None]:
    """SIGHUP isn't ignored, as it is where the tests run under ``nohup``."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)

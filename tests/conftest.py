"""Before any test imports PyTorch: one thread, threads that wait by sleeping, and checks of all annotations.

The tests' networks are so small that a second thread gains nothing; a second process of tests does. OpenMP's
threads spin while they wait for each other; where anything else runs on the machine that makes small tests
ten times slower (measured in docs/experiments.md).

Shapes and types in annotations are checked at every call (jaxtyping with beartype) of the packages below.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import pytest
from jaxtyping import install_import_hook

import tests.typechecker
from tests.tools import lacking

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

"""The hash grid against hand-computed indices, its oracle, and finite differences."""

import importlib.util
import logging
import subprocess
import sys

import numpy as np
import pytest
import torch

from models.config import HashGridConfig
from models.hash_grid import HashGrid, encode_reference, hash_grid_layout, vertex_entry

SMALL = HashGridConfig(levels=5, log2_hashmap_size=10, base_resolution=4, finest_resolution=40)
HAS_TINYCUDANN = importlib.util.find_spec("tinycudann") is not None


def make_grid(config=SMALL, backend="numba", scale=1.0):
    """A grid whose features are of order ``scale``, so that mistakes are not hidden by tiny values."""
    config = HashGridConfig(**{**vars(config), "backend": backend})
    grid = HashGrid(config, torch.Generator().manual_seed(0))
    with torch.no_grad():
        grid.table.mul_(scale * 1e4)
    return grid


def positions(count=3000, seed=1):
    return torch.rand(count, 3, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("finest", "parameters"), [(2048, 12_196_240), (4096, 12_599_920)])
def test_layout_has_tinycudanns_parameter_counts(finest, parameters):
    layout = hash_grid_layout(HashGridConfig(finest_resolution=finest))
    assert layout.entries * layout.features == parameters
    assert (~layout.hashed).sum() == 5
    assert layout.resolutions[0] == 16
    assert (layout.offsets % 8 == 0).all()


def test_vertex_entries_computed_by_hand():
    vertex = torch.tensor([1, 2, 3])
    assert vertex_entry(vertex, resolution=16, size=4096, hashed=False) == 1 + 2 * 16 + 3 * 256
    # 2 * 2654435761 mod 2^32 = 1013904226, 3 * 805459861 mod 2^32 = 2416379583
    assert 1 ^ 1013904226 ^ 2416379583 == 2892625372
    assert vertex_entry(vertex, resolution=200, size=2**19, hashed=True) == 2892625372 % 2**19 == 128476
    # The vertex beyond the last one of a dense level wraps around.
    assert vertex_entry(torch.tensor([16, 15, 15]), resolution=16, size=4096, hashed=False) == 0


@pytest.mark.parametrize("backend", ["torch", "numba"])
@pytest.mark.parametrize("level", [0, 1, 4])
def test_a_point_on_a_vertex_reads_that_vertex_alone(backend, level):
    grid = make_grid(backend=backend)
    layout = grid.layout
    with torch.no_grad():
        grid.table.copy_(torch.arange(layout.entries, dtype=torch.float32).repeat_interleave(2))
    vertex = torch.tensor([2, 1, 3])
    point = (vertex - 0.5) / float(layout.scales[level])  # position = x * scale + 0.5
    entry = vertex_entry(vertex, int(layout.resolutions[level]), int(layout.sizes[level]), bool(layout.hashed[level]))
    value = grid(point[None].float())[0, 2 * level]
    assert value.item() == pytest.approx(entry.item() + layout.offsets[level], abs=0.02)


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_a_linear_table_is_interpolated_exactly(backend):
    config = HashGridConfig(levels=1, features=1, base_resolution=8, finest_resolution=8, backend=backend)
    grid = HashGrid(config, torch.Generator())
    axis = torch.arange(8.0)
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    with torch.no_grad():
        grid.table.copy_((x + 10 * y - 3 * z).permute(2, 1, 0).reshape(-1))  # x varies fastest
    points = positions(200) * 0.9 + 0.02  # the outermost half cell wraps around
    expected = (points * 7 + 0.5) @ torch.tensor([1.0, 10.0, -3.0])
    torch.testing.assert_close(grid(points)[:, 0], expected, atol=1e-4, rtol=1e-5)


def test_reference_gradients_against_finite_differences():
    layout = hash_grid_layout(HashGridConfig(levels=2, log2_hashmap_size=6, base_resolution=3, finest_resolution=9))
    assert layout.hashed.tolist() == [False, True]
    generator = torch.Generator().manual_seed(0)
    table = torch.rand(layout.entries, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    points = torch.rand(4, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda p, t: encode_reference(p, t, layout), (points, table))


@pytest.mark.parametrize("features", [1, 2, 4])
def test_numba_equals_the_reference(features):
    config = HashGridConfig(**{**vars(SMALL), "features": features})
    results = []
    upstream = torch.randn(3000, config.levels * features, generator=torch.Generator().manual_seed(2))
    for backend in ("torch", "numba"):
        grid, points = make_grid(config, backend), positions().requires_grad_()
        output = grid(points)
        output.backward(upstream)
        results.append((output, grid.table.grad, points.grad))
    for got, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(got, expected, atol=2e-4, rtol=1e-4)
    assert results[0][2].abs().max() > 1  # there is something to compare


def test_numba_equals_the_reference_at_the_borders():
    corners = torch.tensor([[0.0, 0, 0], [1, 1, 1], [1, 0, 0.5], [0, 1, 1]])
    torch.testing.assert_close(make_grid()(corners), make_grid(backend="torch")(corners))


def test_numba_survives_nan_and_no_points():
    grid = make_grid()
    assert grid(torch.full((2, 3), float("nan"))).isnan().all()
    empty = grid(torch.zeros(0, 3))
    empty.sum().backward()
    assert empty.shape == (0, 10) and (grid.table.grad == 0).all()


def test_results_do_not_depend_on_the_number_of_threads():
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            grid, points = make_grid(), positions(20000).requires_grad_()
            output = grid(points)
            output.square().sum().backward()
            results.append((output, grid.table.grad, points.grad))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_starting_numba_keeps_torchs_thread_count():
    # A fresh process, because it is the first kernel of a process that starts numba's threads.
    program = (
        "import torch; torch.set_num_threads(1)\n"
        "from models.numba_threads import match_torch_threads\n"
        "match_torch_threads(); assert torch.get_num_threads() == 1, torch.get_num_threads()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_numba_refuses_a_second_derivative():
    points = positions(5).requires_grad_()
    (gradient,) = torch.autograd.grad(make_grid()(points).square().sum(), points, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_initialisation_is_small_and_the_callers_randomness():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first, second = (HashGrid(SMALL, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first.table, second.table)
    assert 0.99e-4 < first.table.abs().max() <= 1e-4


def test_state_dict_round_trip_holds_the_table_alone():
    grid, other = make_grid(), HashGrid(SMALL, torch.Generator().manual_seed(9))
    assert set(grid.state_dict()) == {"table"}
    other.load_state_dict(grid.state_dict())
    assert torch.equal(other(positions(5)), grid(positions(5)))


def test_auto_announces_its_choice_once(caplog):
    grid = make_grid(backend="auto")
    with caplog.at_level(logging.INFO, logger="models.backends"):
        grid(positions(2))
        grid(positions(2))
    assert [record.getMessage() for record in caplog.records] == ["hash grid: backend numba on cpu (configured: auto)"]


def test_a_backend_on_the_wrong_device_is_an_error():
    with pytest.raises(ValueError, match="'numba' runs on cpu, not on cuda"):
        make_grid().backend_on(torch.device("cuda"))


@pytest.mark.skipif(HAS_TINYCUDANN, reason="tinycudann is installed")
def test_missing_tinycudann_fails_at_construction_and_says_what_to_do():
    with pytest.raises(ImportError, match=r"docs/install.md says how .* or set the backend to 'torch'"):
        make_grid(backend="tinycudann")


@pytest.mark.skipif(not (HAS_TINYCUDANN and torch.cuda.is_available()), reason="needs tinycudann and a CUDA device")
def test_tinycudann_equals_the_reference():
    reference, fast = make_grid(backend="torch").cuda(), make_grid(backend="tinycudann").cuda()
    points = positions().cuda()
    torch.testing.assert_close(fast(points), reference(points), atol=5e-3, rtol=5e-3)  # half precision inside
    for grid in (reference, fast):
        grid(points).square().sum().backward()
    difference = (fast.table.grad - reference.table.grad).norm() / reference.table.grad.norm()
    assert difference < 1e-2


def test_layout_scales_are_float32_as_in_tinycudann():
    assert hash_grid_layout(SMALL).scales.dtype == np.float32

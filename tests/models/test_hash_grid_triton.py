"""The hash grid's Triton kernels against the reference, on a GPU or under Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

from models.config import HashGridConfig
from models.hash_grid import HashGrid, HashGridLayout, encode_reference, hash_grid_layout

pytest.importorskip("triton")
from models.hash_grid_triton import BLOCK, TritonEncode

# Levels of 4^3, 8^3, 13^3 and 23^3 vertices of which the last two are hashed; the first two sizes are padded or not.
SMALL = HashGridConfig(levels=4, log2_hashmap_size=10, base_resolution=3, finest_resolution=40)


def layout_of(**fields) -> HashGridLayout:
    return hash_grid_layout(HashGridConfig(**{**vars(SMALL), **fields}))


def inputs(layout, count, device, dtype=torch.float32):
    """Points, a table and upstream gradients, all of order one."""
    generator = torch.Generator().manual_seed(count)
    points = torch.rand(count, 3, generator=generator)
    table = torch.randn(layout.entries, layout.features, generator=generator).to(dtype)
    upstream = torch.randn(count, len(layout.scales) * layout.features, generator=generator)
    return points.to(device).requires_grad_(), table.to(device).requires_grad_(), upstream.to(device)


def results(encode, points, table, upstream):
    features = encode(points, table)
    return features, *torch.autograd.grad(features, (points, table), upstream)


def assert_equal(layout, points, table, upstream):
    """Features, and gradients of positions and table; the reference runs in float64 on the same float32 points."""
    got = results(lambda *args: TritonEncode.apply(*args, layout), points, table, upstream)
    expected = results(lambda p, t: encode_reference(p, t, layout), points, table, upstream)
    scale = float(layout.scales.max())
    # A sum of 8 products of order one; slopes are larger by the level's scale; an entry of a table sums over points.
    for value, wanted, tolerance in zip(got, expected, (2e-6, 2e-5 * scale, 1e-4), strict=True):
        assert value.dtype == wanted.dtype
        torch.testing.assert_close(value, wanted, atol=tolerance, rtol=1e-5)


@pytest.mark.parametrize("features", [1, 2, 4, 8])
def test_values_and_gradients_equal_the_reference(features, triton_device):
    layout = layout_of(features=features)
    assert layout.hashed.any() and not layout.hashed.all()
    assert_equal(layout, *inputs(layout, BLOCK + 37, triton_device))


@pytest.mark.parametrize("count", [1, BLOCK])
def test_odd_sizes(count, triton_device):
    layout = layout_of()
    assert_equal(layout, *inputs(layout, count, triton_device))


def test_the_layout_of_prolificdreamer(triton_device):
    """5 dense levels and 11 hashed ones, up to 2048 vertices a side, where uint32 overflows."""
    layout = hash_grid_layout(HashGridConfig())
    assert_equal(layout, *inputs(layout, 50, triton_device))


def test_corners_and_points_outside(triton_device):
    layout = layout_of()
    _, table, upstream = inputs(layout, 6, triton_device)
    ends = torch.tensor([[0.0, 0, 0], [1, 1, 1], [1, 0, 0.5], [0, 1, 1], [1.5, 0.5, 0.5], [-0.5, 0.5, 2]])
    assert_equal(layout, ends.to(triton_device).requires_grad_(), table, upstream)


def test_no_points(triton_device):
    layout = layout_of()
    points, table, upstream = inputs(layout, 0, triton_device)
    features, grad_points, grad_table = results(
        lambda *args: TritonEncode.apply(*args, layout), points, table, upstream
    )
    assert features.shape == (0, 8) and grad_points.shape == (0, 3)
    assert grad_table.shape == table.shape and (grad_table == 0).all()


def test_nan_stays_in_its_point(triton_device):
    layout = layout_of()
    points, table, _ = inputs(layout, 3, triton_device)
    points = points.detach().clone()
    points[1] = float("nan")
    features = TritonEncode.apply(points, table, layout)
    assert features[1].isnan().all() and features[[0, 2]].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_tables_in_half_precision(dtype, triton_device):
    layout = layout_of()
    points, table, upstream = inputs(layout, 100, triton_device, dtype)
    got = results(lambda *args: TritonEncode.apply(*args, layout), points, table, upstream)
    expected = results(
        lambda p, t: encode_reference(p, t, layout), points, table.detach().float().requires_grad_(), upstream
    )
    assert got[0].dtype == torch.float32 and got[2].dtype == dtype
    torch.testing.assert_close(got[0], expected[0], atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(got[2].float(), expected[2], atol=1e-4, rtol=torch.finfo(dtype).eps)


def test_gradients_that_are_not_asked_for_are_not_computed(triton_device):
    layout = layout_of()
    points, table, upstream = inputs(layout, 5, triton_device)
    TritonEncode.apply(points.detach(), table, layout).backward(upstream)
    assert points.grad is None and table.grad is not None


def test_upstream_gradients_of_any_strides(triton_device):
    layout = layout_of()
    points, table, upstream = inputs(layout, 9, triton_device)
    transposed = upstream.t().contiguous().t()
    assert not transposed.is_contiguous()
    assert_equal(layout, points, table, transposed)
    assert_equal(layout, points, table, torch.ones(1, 1, device=triton_device).expand_as(upstream))


def test_a_second_derivative_is_refused(triton_device):
    layout = layout_of()
    points, table, _ = inputs(layout, 5, triton_device)
    total = TritonEncode.apply(points, table, layout).square().sum()
    (gradient,) = torch.autograd.grad(total, points, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_the_setting_names_it(triton_device):
    grids = [
        HashGrid(HashGridConfig(**{**vars(SMALL), "backend": name}), torch.Generator().manual_seed(0)).to(triton_device)
        for name in ("triton", "torch")
    ]
    assert [grid.backend_on(triton_device) for grid in grids] == ["triton", "torch"]
    points = torch.rand(20, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(triton_device)
    torch.testing.assert_close(*(grid(points) for grid in grids), atol=1e-9, rtol=1e-5)

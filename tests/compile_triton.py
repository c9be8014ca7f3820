"""Compiles all Triton kernels for GPUs that needn't be there: ``python -m tests.compile_triton 75 90``.

Prints each kernel, the compute capability and the number of fused multiply-adds. It is a process of its own, without
TRITON_INTERPRET, because the interpreter takes Python that the compiler refuses.
"""

from __future__ import annotations

import sys

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from models import hash_grid_triton as grid
from models.triton_trial import add_up
from renderers import compositing_triton as compositing
from renderers import rasterizer_triton as rasterizing
from renderers import ray_marching_triton as marching

P, F, N, L = "*fp32", "fp32", "i32", "*i64"
HASH = {"WIDTH": 2, "BLOCK": grid.BLOCK}
RAYS = {"rays_o": P, "rays_d": P, "t_near": P, "t_far": P, "first_step": P, "binary": "*u8"}
NUMBERS = {"cells_per_unit": F, "resolution": N, "step": F, "slots": N}
SAMPLES = {"sigmas": P, "t_starts": P, "t_ends": P, "firsts": L, "weights": P, "transmittances": P}
WAVE = {"num_warps": 1}
EXACT = {"enable_fp_fusion": False}

# Kernel, types of its arguments, constants, options of the launch.
KERNELS = [
    (add_up, {"values": P, "total": P}, {"SIZE": 8}, {}),
    *(
        (
            grid._encode,
            {"positions": P, "table": table, "scales": P, "levels": L, "features": P, "n": N},
            {"WIDTH": width, "BLOCK": grid.BLOCK},
            EXACT,
        )
        for width, table in ((1, P), (2, P), (8, P), (2, "*fp16"))
    ),
    (
        grid._table_gradient,
        {
            "positions": P, "grad": P, "grad_point": N, "grad_channel": N, "scales": P, "levels": L, "grad_table": P,
            "n": N,
        },
        HASH,
        EXACT,
    ),
    (
        grid._position_gradient,
        {
            "positions": P, "table": P, "grad": P, "grad_point": N, "grad_channel": N, "scales": P, "levels": L,
            "grad_positions": P, "n": N,
        },
        {"LEVELS": 16, **HASH},
        EXACT,
    ),
    (marching._count, {**RAYS, "counts": "*i32", **NUMBERS}, {"BLOCK": marching.BLOCK}, WAVE | EXACT),
    (
        marching._write,
        {**RAYS, "ends_of_rays": L, "t_starts": P, "t_ends": P, "ray_indices": L, **NUMBERS},
        {"BLOCK": marching.BLOCK},
        WAVE | EXACT,
    ),
    (
        rasterizing._fill,
        {"xy": P, "depth": P, "faces": L, "keys": L, "height": N, "width": N},
        {"BLOCK": rasterizing.BLOCK},
        WAVE | EXACT,
    ),
    (compositing._weights, SAMPLES, {"BLOCK": compositing.BLOCK}, WAVE),
    (
        compositing._weights_gradient,
        {**SAMPLES, "grad": P, "grad_transmittance": P, "grad_sigmas": P},
        {"BLOCK": compositing.BLOCK},
        WAVE,
    ),
    *(
        (
            compositing._accumulate,
            {"weights": P, "values": values, "firsts": L, "sums": P},
            {"HAS_VALUES": channels > 1, "CHANNELS": channels, "WIDTH": width, "BLOCK": compositing.BLOCK},
            WAVE,
        )
        for channels, width, values in ((1, 1, P), (3, 4, P), (3, 4, "*fp16"))
    ),
]  # fmt: skip


def main(capabilities: list[int]) -> None:
    for kernel, types, constants, options in KERNELS:
        # In the order of the kernel's arguments, constants included.
        signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
        source = ASTSource(kernel, signature, constants)
        for capability in capabilities:
            compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
            fused = compiled.asm["ptx"].count("fma.rn.f32") + compiled.asm["ptx"].count("fma.rn.f64")
            print(kernel.__name__, capability, f"fma {fused}", flush=True)


if __name__ == "__main__":
    main([int(argument) for argument in sys.argv[1:]])

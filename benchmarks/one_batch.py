"""Where both scores of VSD are faster in one call of the network: ``guidance.one_batch`` on and off, timed.

    python -m benchmarks.one_batch --threads 1                              # the bundled prior in float32
    python -m benchmarks.one_batch --precision bf16 --device cuda --prior FOLDER

Times the scene's gradient, which is where the two differ, without renders and training passes: random latents,
random adapters, the two settings in turns. On a CPU it is the process's own time, which other work on the machine
changes less than the clock.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch

from guidance.building import build_guidance
from guidance.config import EstimatorConfig, GuidanceConfig
from guidance.loading import load_prior
from guidance.prompts import embed_prompt
from renderers.cameras import orbit_cameras

BUNDLED = Path(__file__).parents[1] / "priors/mini"
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
T_RANGE = (0.02, 0.98)


def main() -> None:
    """Print best and median seconds of either setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prior", default=BUNDLED, help="folder or hub id")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    prior = load_prior(args.prior, args.device, PRECISIONS[args.precision])
    prompts = embed_prompt(prior, "a red mug")
    angles = torch.linspace(0, 300, args.views)
    cameras = orbit_cameras(
        angles, torch.zeros(args.views), torch.full_like(angles, 3.0), torch.full_like(angles, 40.0)
    )
    latents = torch.randn(args.views, *prior.latent_shape, device=prior.device)

    settings = {}
    for one_batch in (False, True):
        config = GuidanceConfig(one_batch=one_batch)
        guidance = build_guidance(prior, config, EstimatorConfig(rank=args.rank), torch.Generator().manual_seed(0))
        for parameter in guidance.parameters():
            torch.nn.init.normal_(parameter, std=0.01)
        settings[one_batch] = guidance

    def gradient_seconds(one_batch: bool) -> float:
        guidance = settings[one_batch]
        start = _now(prior.device)
        guidance.scene_gradient(latents, prompts, cameras, T_RANGE, torch.Generator().manual_seed(0))
        return _now(prior.device) - start

    seconds = {one_batch: [] for one_batch in settings}
    for _ in range(args.repeats + 1):
        for one_batch, measured in seconds.items():
            measured.append(gradient_seconds(one_batch))
    print("| one_batch | best, s | median, s |")
    print("|---|---|---|")
    for one_batch, measured in seconds.items():
        print(f"| {str(one_batch).lower()} | {min(measured[1:]):.4f} | {statistics.median(measured[1:]):.4f} |")


def _now(device: torch.device) -> float:
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


if __name__ == "__main__":
    main()

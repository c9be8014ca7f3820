"""How fast the estimator eps_phi learns a scene that stands still, and what it needs for that.

    python -m benchmarks.estimator_ratio                                   # the default estimator on a world object
    python -m benchmarks.estimator_ratio rank=8,lr=1e-3 rank=32,lr=1e-3    # settings side by side
    python -m benchmarks.estimator_ratio --run outputs/vsd-nerf/RUN        # a finished stage 1: its own estimator
    python -m benchmarks.estimator_ratio --run outputs/vsd-nerf/RUN steps=300    # and fresh ones on its scene

VSD differs from CSD only as far as eps_phi differs from the frozen network. The measure is the ratio

    mean || eps_phi(x_t, t, c, y) - eps ||^2 / mean || eps_pretrain(x_t, t, y) - eps ||^2

on views from cameras that training has not seen, with the same noise for all settings. 1: nothing was learnt.
The latents of the views are computed once, so that a setting costs its network calls alone. A setting is a
comma-separated list of fields of ``Setting``; what is not stated has its default.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from configs.load import load_config, read_saved
from configs.sources import CONFIG_FOLDER
from guidance.config import EstimatorConfig
from guidance.estimator import LoraEstimator
from guidance.loading import load_prior
from guidance.prior import DiffusionPrior
from guidance.prompts import PromptEmbeddings, embed_prompt
from guidance.schedule import Latents, Prediction
from priors.world.appearance import render, sample_background
from priors.world.dataset import draw_instance
from renderers.cameras import Cameras, sample_cameras
from renderers.config import CameraSampling

LEVELS = (50, 200, 400, 600, 800, 950)
EVALUATED = 16  # fresh views
BUNDLED = Path(__file__).parents[1] / "priors/mini"


@dataclass(frozen=True)
class Setting:
    """One way to train the estimator."""

    steps: int = 150
    batch: int = 4  # views a step
    lr: float = 1e-4
    warmup: int = 20  # steps
    decay: float = 1.0  # share of the rate that is left at the last step, on a cosine
    beta1: float = 0.9
    beta2: float = 0.99
    clip: float = 1.0  # norm of the gradient; 0: no clipping
    rank: int = 8  # 0: no adapters, all weights of a copy of the network are trained
    scale: float = 1.0
    init: str = "uniform"  # of the adapters' first matrix: uniform (kaiming), or normal (N(0, 1 / rank^2))
    where: str = "attention"  # attention, convolutions (with the attention's), linear or decoder
    b_rate: float = 1.0  # factor on the rate of the adapters' second matrix (LoRA+)
    camera: str = "raw"  # raw, normalised, angles (of azimuth and elevation), fourier or none
    camera_rate: float = 1.0  # factor on the rate of the camera's layers
    loss: str = "velocity"  # velocity, epsilon, or relative: each level's error over the frozen network's there
    text: str = "plain"  # of the estimator: plain, or view
    t_max: float = 1.0
    t_strata: int = 0  # 1: levels stratified over the batch
    dropout: float = 0.1
    views: int = 100000  # distinct training views
    repeat: int = 1  # steps on the same views, each at noise of its own (K)
    optimizer: str = "adam"  # adam or muon
    seed: int = 0

    @classmethod
    def parse(cls, text: str) -> Setting:
        """From ``name=value,name=value``; the empty text is the default."""
        types = {field.name: type(field.default) for field in dataclasses.fields(cls)}
        given = dict(part.split("=", 1) for part in text.split(",") if part)
        unknown = given.keys() - types.keys()
        if unknown:
            raise SystemExit(f"setting: {', '.join(sorted(unknown))} is unknown; use {', '.join(types)}")
        return cls(**{name: types[name](value) for name, value in given.items()})


TARGETS = {
    "attention": ("to_q", "to_k", "to_v", "to_out.0"),
    "convolutions": ("to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2"),
    "convonly": ("conv1", "conv2"),
    "linear": ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "time_emb_proj"),
    "all": (
        *("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "time_emb_proj"),
        *("conv1", "conv2", "conv_in", "conv_out", "conv", "conv_shortcut"),
    ),
}


@dataclass(frozen=True)
class Views:
    """Latents of a scene's views, and the cameras that they were seen by."""

    latents: Latents
    cameras: Cameras

    def __getitem__(self, index: slice | Tensor) -> Views:
        return Views(self.latents[index], self.cameras[index])


def world_views(prior: DiffusionPrior, class_name: str, color: str, count: int, sampling: CameraSampling) -> Views:
    """Views of one true object of the world, each before a background of its own."""
    rng = np.random.default_rng(7)
    instance = draw_instance(rng, class_name, color, "plain", held_out=None)
    cameras = _cameras(count, sampling)
    latents = []
    for index in range(count):
        appearance = dataclasses.replace(instance.appearance, background=sample_background(rng))
        rgb = render(instance.solid, appearance, cameras[index : index + 1], prior.image_size, 2)
        with torch.no_grad():
            latents.append(prior.encode_images(torch.from_numpy(rgb).float().permute(0, 3, 1, 2)).float())
    return Views(torch.cat(latents), cameras)


def run_views(folder: Path, count: int) -> tuple[DiffusionPrior, PromptEmbeddings, Views, LoraEstimator]:
    """Training views of a finished run's scene, and the estimator as the run left it."""
    from runs import frozen_model as run
    from systems.checkpoints import read_checkpoint
    from systems.stages import system_class

    config = read_saved(folder / "config.yaml")
    prior = run.build_prior(config, torch.device("cpu"))
    prompts = run.build_prompts(config, prior)
    system = system_class(config)(config, prior, prompts)
    system.load_state_dict(read_checkpoint(folder / "checkpoints/last.ckpt")["state_dict"])
    cameras = _cameras(count, config.cameras)
    system.prepare(config.iterations - config.iterations % config.render.occupancy_every)
    latents = []
    for start in range(0, count, 4):
        batch = cameras[start : start + 4]
        with torch.no_grad():
            views = system.render_training_views(config.iterations + start, 0, batch)
            latents.append(system.encode(views.rgb).float())
    return prior, prompts, Views(torch.cat(latents), cameras), system.guidance.estimator


def _cameras(count: int, sampling: CameraSampling) -> Cameras:
    """Stratified four at a time, as an iteration draws them."""
    generator = torch.Generator().manual_seed(3)
    parts = [sample_cameras(4, sampling, generator) for _ in range(math.ceil(count / 4))]
    fields = dataclasses.fields(Cameras)
    return Cameras(**{f.name: torch.cat([getattr(part, f.name) for part in parts])[:count] for f in fields})


def camera_features(kind: str, cameras: Cameras) -> Float[Tensor, "batch features"]:
    """What the camera's layers read."""
    if kind == "raw":
        return cameras.c2w.flatten(1)
    if kind == "normalised":  # each entry about as large as a standard normal one; constants become 0
        c2w = cameras.c2w.clone()
        c2w[:, :3, 3] /= c2w[:, :3, 3].norm(dim=1, keepdim=True)
        c2w[:, 3, 3] = 0.0
        return c2w.flatten(1) * 3**0.5
    azimuth, elevation = torch.deg2rad(cameras.azimuth_deg), torch.deg2rad(cameras.elevation_deg)
    orders = (1,) if kind == "angles" else (1, 2, 3, 4)
    waves = [f(order * angle) for angle in (azimuth, elevation) for order in orders for f in (torch.sin, torch.cos)]
    return torch.stack([*waves, cameras.distance - 2.9, (cameras.fovy_deg - 41) / 3], dim=1) * 2**0.5


class Estimator(nn.Module):
    """The network of a setting, with its camera condition."""

    def __init__(self, prior: DiffusionPrior, setting: Setting, cameras: Cameras) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(setting.seed)
        if setting.rank:
            traits = dataclasses.replace(prior.traits, lora_targets=TARGETS[setting.where])
            config = EstimatorConfig(rank=setting.rank, scale=setting.scale)
            self.lora = LoraEstimator(_with_traits(prior, traits), config, generator)
            self.network = self.lora.twin.module
            self.adapters = [p for p in self.lora.lora.values()]
            if setting.init == "normal":
                with torch.no_grad():
                    for name, parameter in self.lora.lora.items():
                        if "lora_A" in name:
                            parameter.normal_(0.0, 1 / setting.rank, generator=generator)
            self.second = [p for name, p in self.lora.lora.items() if "lora_B" in name]
        else:
            self.network = copy.deepcopy(prior.network).float().requires_grad_(True)
            self.adapters, self.second = list(self.network.parameters()), []
        self.kind = setting.camera
        width = prior.traits.condition_width
        self.hidden = nn.Linear(camera_features("raw" if self.kind == "none" else self.kind, cameras).shape[1], width)
        self.out = nn.Linear(width, width)
        with torch.no_grad():
            bound = 1 / math.sqrt(self.hidden.in_features)
            self.hidden.weight.uniform_(-bound, bound, generator=generator)
            for zero in (self.hidden.bias, self.out.weight, self.out.bias):
                zero.zero_()
        self.prior, self.setting = prior, setting

    def groups(self) -> list[dict]:
        """Parameters with the factor on their rate."""
        second = {id(p) for p in self.second}
        first = [p for p in self.adapters if id(p) not in second]
        camera = [] if self.kind == "none" else [*self.hidden.parameters(), *self.out.parameters()]
        found = [(first, 1.0), (self.second, self.setting.b_rate), (camera, self.setting.camera_rate)]
        return [{"params": params, "factor": factor} for params, factor in found if params]

    def predict(self, x_t: Latents, t: Tensor, prompts: PromptEmbeddings, cameras: Cameras, keep: Tensor | None = None):
        batch = prompts.for_cameras(cameras)
        text = batch.plain if self.setting.text == "plain" else batch.conditional
        if self.kind == "none":
            return self._predict(x_t, t, text)
        condition = self.out(F.silu(self.hidden(camera_features(self.kind, cameras))))
        if keep is not None:
            condition = condition * keep[:, None]
        module = self.network.get_submodule(self.prior.traits.condition_module)
        handle = module.register_forward_hook(lambda _m, _a, output: output + condition.to(output.dtype))
        try:
            return self._predict(x_t, t, text)
        finally:
            handle.remove()

    def _predict(self, x_t: Latents, t: Tensor, text) -> Prediction:
        if self.setting.rank or self.prior.network.dtype == torch.float32:
            return self.prior.predict(x_t, t, text, self.network)
        with torch.autocast("cpu", torch.bfloat16):  # a copy whose float32 weights are all trained
            output = self.network(x_t, t, text.tokens.float()).sample.float()
        return self.prior.as_prediction(output, x_t, t)


def _with_traits(prior: DiffusionPrior, traits) -> DiffusionPrior:
    other = copy.copy(prior)
    other.traits = traits
    return other


class Muon(torch.optim.Optimizer):
    """Momentum whose matrices are made orthogonal: every direction of a matrix moves at the same rate."""

    def __init__(self, groups, lr: float, momentum: float = 0.9) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                state.setdefault("m", torch.zeros_like(p)).mul_(group["momentum"]).add_(p.grad)
                g = p.grad + group["momentum"] * state["m"]
                if p.ndim < 2:
                    p.add_(g.sign(), alpha=-group["lr"])
                    continue
                g = g.flatten(1)
                x = g / (g.norm() + 1e-20)
                tall = x.shape[0] > x.shape[1]
                x = x.T if tall else x
                for _ in range(5):
                    a = x @ x.T
                    x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
                x = x.T if tall else x
                scale = math.sqrt(max(x.shape))  # root mean square of an entry about 1, as of Adam's steps
                p.add_(x.view_as(p), alpha=-group["lr"] * scale)


@torch.no_grad()
def errors(predict, prior: DiffusionPrior, views: Views, levels=LEVELS, draws: int = 1) -> dict[int, float]:
    """Mean squared error of the predicted noise at each level."""
    found = {}
    for level in levels:
        generator = torch.Generator().manual_seed(1000 + level)
        total = 0.0
        for _ in range(draws):
            noise = torch.randn(views.latents.shape, generator=generator)
            t = torch.full((len(noise),), level)
            x_t = prior.schedule.add_noise(views.latents, noise, t)
            total += (predict(x_t, t, views.cameras).epsilon - noise).square().mean().item()
        found[level] = total / draws
    return found


def train(
    prior: DiffusionPrior,
    prompts: PromptEmbeddings,
    views: Views,
    fresh: Views,
    frozen: dict[int, float],
    setting: Setting,
    report: tuple[int, ...],
    levels: tuple[int, ...],
) -> None:
    """Train one setting, and print its ratios after the steps of ``report`` and the last."""
    estimator = Estimator(prior, setting, views.cameras)
    groups = estimator.groups()
    if setting.optimizer == "muon":
        optimizer = Muon(groups, lr=setting.lr)
    else:
        optimizer = torch.optim.AdamW(
            groups, lr=setting.lr, betas=(setting.beta1, setting.beta2), weight_decay=0.01, fused=True
        )
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    generator = torch.Generator().manual_seed(100 + setting.seed)
    usable = min(setting.views, len(views.latents))
    table = relative_weights(frozen, len(prior.schedule))
    used, clipped, norms, flops, order = 0.0, 0, [], 0, []
    for step in range(setting.steps):
        start = time.process_time()
        if step % setting.repeat == 0:
            if len(order) < setting.batch:
                order = torch.randperm(usable, generator=generator).tolist()
            index, order = torch.tensor(order[: setting.batch]), order[setting.batch :]
        batch = views[index]
        x_0 = batch.latents
        if setting.t_strata:
            strata = torch.randperm(len(x_0), generator=generator)
            fraction = (strata + torch.rand(len(x_0), generator=generator)) / len(x_0)
        else:
            fraction = torch.rand(len(x_0), generator=generator)
        t = (fraction * setting.t_max * len(prior.schedule)).long().clamp(max=len(prior.schedule) - 1)
        noise = torch.randn(x_0.shape, generator=generator)
        keep = torch.rand(len(x_0), generator=generator) >= setting.dropout
        x_t = prior.schedule.add_noise(x_0, noise, t)
        counter = FlopCounterMode(display=False) if step == 0 else None
        if counter:
            counter.__enter__()
        prediction = estimator.predict(x_t, t, prompts, batch.cameras, keep)
        error = (prediction.epsilon - noise).square().mean(dim=(1, 2, 3))
        alpha = prior.schedule.alpha(t).flatten()
        weight = {
            "velocity": 1 / alpha.square(),
            "epsilon": torch.ones_like(alpha),
            "alpha": 1 / alpha,
            "relative": table[t],
        }
        (error * weight[setting.loss]).mean().backward()
        if counter:
            counter.__exit__(None, None, None)
            flops = counter.get_total_flops()
        norm = torch.nn.utils.clip_grad_norm_(parameters, setting.clip or math.inf)
        norms.append(norm.item())
        clipped += bool(setting.clip) and norm.item() > setting.clip
        rate = setting.lr * min(1.0, (step + 1) / max(setting.warmup, 1))
        rate *= setting.decay + (1 - setting.decay) * 0.5 * (1 + math.cos(math.pi * step / setting.steps))
        for group in optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        optimizer.step()
        optimizer.zero_grad()
        used += time.process_time() - start
        if step + 1 in report or step + 1 == setting.steps:
            own = errors(lambda x, t, c: estimator.predict(x, t, prompts, c), prior, fresh, levels)
            ratios = " | ".join(f"{own[level] / frozen[level]:.3f}" for level in levels)
            middle = sum(own[k] / frozen[k] for k in (200, 400, 600)) / 3
            print(
                f"| {describe(setting)} | {step + 1} | {(step + 1) * flops / 1e9:.0f} | {used:.0f} | "
                f"{sorted(norms)[len(norms) // 2]:.2f} | {clipped / (step + 1):.0%} | {ratios} | **{middle:.3f}** |",
                flush=True,
            )


def relative_weights(frozen: dict[int, float], count: int) -> Float[Tensor, "levels"]:
    """1 over the frozen network's error, at every level, interpolated on a logarithmic scale."""
    known = sorted(frozen)
    values = np.interp(np.arange(count), known, [math.log(frozen[k]) for k in known])
    return torch.from_numpy(np.exp(-values)).float()


def describe(setting: Setting) -> str:
    """What differs from the defaults."""
    fields = dataclasses.fields(Setting)
    told = [f"{f.name}={getattr(setting, f.name)}" for f in fields if getattr(setting, f.name) != f.default]
    return ",".join(told) or "defaults"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", help="default: the default setting, or none with --run")
    parser.add_argument("--object", nargs=2, default=("mug", "red"), metavar=("CLASS", "COLOUR"))
    parser.add_argument("--run", type=Path, help="folder of a finished stage 1, instead of a world object")
    parser.add_argument("--prior", default=BUNDLED)
    parser.add_argument("--views", type=int, default=600)
    parser.add_argument("--report", type=int, nargs="*", default=[])
    parser.add_argument("--levels", type=int, nargs="*", default=[200, 400, 600])
    parser.add_argument("--bf16", action="store_true", help="networks in bfloat16: faster where a CPU has AMX")
    parser.add_argument("--cache", type=Path, help="file that keeps the views' latents between calls")
    args = parser.parse_args()
    settings = [Setting.parse(text) for text in args.settings or ([] if args.run else [""])]
    torch.set_num_threads(1)

    count = args.views * bool(settings) + EVALUATED
    own = None
    if args.cache and args.cache.exists():
        saved = torch.load(args.cache, weights_only=True)
        views = Views(saved["latents"], Cameras(**saved["cameras"]))
        prior = load_prior(args.prior, "cpu", torch.float32)
        config = load_config(CONFIG_FOLDER / "vsd-nerf.yaml", {"trainer.accelerator": "cpu"}).config
        prompts = embed_prompt(prior, saved["prompt"], config.text)
    else:
        if args.run:
            prior, prompts, views, own = run_views(args.run, count)
            prompt = read_saved(args.run / "config.yaml").prompt
        else:
            prior = load_prior(args.prior, "cpu", torch.float32)
            config = load_config(CONFIG_FOLDER / "vsd-nerf.yaml", {"trainer.accelerator": "cpu"}).config
            article = "an" if args.object[1][0] in "aeiou" else "a"
            prompt = f"{article} {args.object[1]} {args.object[0]}"
            prompts = embed_prompt(prior, prompt, config.text)
            views = world_views(prior, *args.object, count, config.cameras)
        if args.cache:
            torch.save({"latents": views.latents, "cameras": vars(views.cameras), "prompt": prompt}, args.cache)
    fresh, views = views[:EVALUATED], views[EVALUATED:]
    if args.bf16:
        prior = load_prior(args.prior, "cpu", torch.bfloat16)

    plain = errors(lambda x, t, c: prior.predict(x, t, prompts.for_cameras(c).plain), prior, fresh)
    view = errors(lambda x, t, c: prior.predict(x, t, prompts.for_cameras(c).conditional), prior, fresh, args.levels)
    print("frozen, plain prompt: " + ", ".join(f"{k}: {v:.4f}" for k, v in plain.items()))
    print("ratio of the prompt with the view word: " + ", ".join(f"{k}: {view[k] / plain[k]:.3f}" for k in args.levels))
    if own is not None:
        learnt = errors(lambda x, t, c: own.predict(prior, x, t, prompts.for_cameras(c).plain, c.c2w), prior, fresh)
        print("ratio of the run's own estimator: " + ", ".join(f"{k}: {learnt[k] / plain[k]:.3f}" for k in learnt))
    if not settings:
        return
    print(
        "| setting | steps | GFLOP | CPU s | gradient | clipped | " + " | ".join(map(str, args.levels)) + " | middle |"
    )
    print("|---" * (7 + len(args.levels)) + "|", flush=True)
    for setting in settings:
        train(prior, prompts, views, fresh, plain, setting, tuple(args.report), tuple(args.levels))


if __name__ == "__main__":
    main()

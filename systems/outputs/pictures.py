"""Pictures and films of renders, written whole or not at all.

Images are BHWC in [0, 1], as the renderers give them.
"""

from __future__ import annotations

import contextlib
import errno
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from files.whole_files import whole_file
from renderers.output import RenderOutput

FRAMES_PER_SECOND = 20

Picture = Float[Tensor, "height width 3"]


def render_strip(views: RenderOutput) -> Picture:
    """All views side by side, each as colour, opacity and normals (grey where there is no surface)."""
    kinds = [views.rgb, views.opacity.expand(-1, -1, -1, 3)]
    if views.normal is not None:
        kinds.append(views.normal * 0.5 + 0.5)
    return row([image for images in zip(*kinds, strict=True) for image in images])


def row(images: list[Float[Tensor, "height _ 3"]]) -> Float[Tensor, "height total_width 3"]:
    """Pictures of one height side by side, on the CPU."""
    return torch.cat([image.detach().float().cpu() for image in images], dim=1)


def column(images: list[Float[Tensor, "_ _ 3"]]) -> Float[Tensor, "total_height total_width 3"]:
    """Pictures below each other, padded with black to the widest."""
    width = max(image.shape[1] for image in images)
    padded = [torch.nn.functional.pad(image.float().cpu(), (0, 0, 0, width - image.shape[1])) for image in images]
    return torch.cat(padded, dim=0)


def as_bytes(image: Float[Tensor, "*n"]) -> np.ndarray:
    """Rounded to 8 bits."""
    return (image.detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def write_png(path: Path, image: Picture) -> None:
    with whole_file(path) as unfinished:
        Image.fromarray(as_bytes(image)).save(unfinished, format="PNG")


def read_png(source: Path | io.BytesIO) -> Picture:
    return torch.from_numpy(np.array(Image.open(source).convert("RGB"))).float() / 255


def write_video(path: Path, frames: Float[Tensor, "frames height width 3"]) -> None:
    """An mp4 that browsers play: H.264, yuv420p.

    Raises:
        ValueError: an odd height or width, which yuv420p cannot hold.
        OSError: the disk is full.
    """
    import imageio.v2 as imageio

    height, width = frames.shape[1:3]
    if height % 2 or width % 2:
        raise ValueError(f"frames: {width}x{height} pixels must be even for H.264; render at an even size")
    with whole_file(path) as unfinished:
        settings: dict[str, Any] = {"codec": "libx264", "pixelformat": "yuv420p", "quality": 8, "macro_block_size": 2}
        # The unfinished name does not say that it is an mp4.
        as_mp4: dict[str, Any] = {"format": ".mp4", "output_params": ["-f", "mp4"]}
        # Where ffmpeg runs out of space it says so on stderr only, or closes the pipe.
        film = imageio.get_writer(unfinished, fps=FRAMES_PER_SECOND, **settings, **as_mp4)
        with contextlib.suppress(OSError), film as writer:
            for frame in frames:
                writer.append_data(as_bytes(frame))  # type: ignore[attr-defined]  # of ffmpeg's writer
        if frame_count(unfinished) != len(frames):
            raise OSError(errno.ENOSPC, "ffmpeg could not write the whole film, as on a full disk")


def frame_count(path: Path) -> int:
    """How many frames a film has; 0 of one that cannot be read."""
    from imageio_ffmpeg import count_frames_and_secs

    try:
        return count_frames_and_secs(str(path))[0]
    except (OSError, RuntimeError):  # no such file; not a film
        return 0

"""The option of docs/architecture.md: previews show as many views, and a resumed run may change it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from configs.fields import run_policies
from configs.schema import OutputConfig, RunConfig
from systems.nerf import NeRFParticles


@pytest.mark.parametrize("views", [1, 3])
def test_a_preview_shows_that_many_views(config: RunConfig, views: int) -> None:
    config = replace(config, output=OutputConfig(preview_views=views))
    height, width, _ = NeRFParticles(config).preview().shape
    assert (height, width) == (config.render.size, 3 * views * config.render.size)  # colour, opacity, normals


def test_no_view_is_refused() -> None:
    with pytest.raises(ValueError, match="preview_views"):
        OutputConfig(preview_views=0)


def test_a_resumed_run_may_change_it() -> None:
    assert run_policies()["output.preview_views"].may_change("resume")

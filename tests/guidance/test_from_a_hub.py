"""Hub ids, fetched from a hub on this machine by a program of its own, since the libraries read its address once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from peft import LoraConfig, get_peft_model_state_dict

from tests.hub_server import serve
from tests.repository import REPOSITORY
from tests.tiny_priors import save_tiny_stable_diffusion

PROGRAM = """
import json, sys, warnings
import torch
from guidance.loading import load_prior, outline_prior
from guidance.model_files import Lora, ModelFiles

def sums(prior):
    networks = [prior.network, prior.frozen_autoencoder.module, *prior.text_encoders]
    return [sum(value.double().abs().sum().item() for value in network.parameters()) for network in networks]

for given in json.loads(sys.argv[1]):
    loras = tuple(Lora(*each) for each in given.get("loras", []))
    files = ModelFiles(given["id"], given.get("revision"), given.get("config"), loras)
    try:
        outline_prior(files)
        print(json.dumps(sums(load_prior(files))), flush=True)
    except (OSError, ValueError) as error:
        print(json.dumps(str(error)), flush=True)
"""


def ask(endpoint: str, cache: Path, *models: dict, **environment: str) -> list:
    """For each model the sums of its networks' weights, or the error."""
    variables = {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    variables |= {"OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-c", PROGRAM, json.dumps(models)]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=os.environ | variables, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith(("[", '"'))]


def sums(pipeline: DiffusionPipeline) -> list[float]:
    names = ("unet", "transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")
    networks = [getattr(pipeline, name) for name in names if getattr(pipeline, name, None) is not None]
    return [sum(value.double().abs().sum().item() for value in each.parameters()) for each in networks]


def test_hub_ids(folders, tmp_path) -> None:
    """Every family, plain and as fp16 files alone; revisions; what is missing; and all again from the cache."""
    families = [family for family in folders if family != "v"]
    models = {(f"maker/{family}", "main"): folders[family] for family in families}
    for family in families:
        folder = tmp_path / f"{family}-half"
        pipeline = DiffusionPipeline.from_pretrained(folders[family], torch_dtype=torch.float16)
        pipeline.save_pretrained(folder, variant="fp16")
        models[f"maker/{family}-half", "main"] = folder
    models["maker/epsilon", "v2"] = save_tiny_stable_diffusion(tmp_path / "v2", seed=1)
    asked = [{"id": hub_id} for hub_id, revision in models if revision == "main"]
    asked.append({"id": "maker/epsilon", "revision": "v2"})
    expected = [sums(DiffusionPipeline.from_pretrained(folders[family])) for family in families]
    for family in families:
        half = DiffusionPipeline.from_pretrained(tmp_path / f"{family}-half", variant="fp16", torch_dtype=torch.float16)
        expected.append(sums(half))
    expected.append(sums(DiffusionPipeline.from_pretrained(tmp_path / "v2")))
    wrong = [{"id": "maker/epsilon", "revision": "v3"}, {"id": "maker/nothing"}]
    with serve(models) as endpoint:
        *found, no_revision, no_model = ask(endpoint, tmp_path / "cache", *asked, *wrong)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-9)
    assert (
        "'maker/epsilon' has no revision 'v3'; give a branch, a tag or a commit of it as prior.revision" in no_revision
    )
    assert "'maker/nothing' does not exist on the hub" in no_model
    some = slice(-2, None)  # a model of fp16 files alone, and another revision
    # The hub is gone now.
    *again, absent = ask(endpoint, tmp_path / "cache", *asked[some], {"id": "maker/other"})
    assert again == found[some]
    assert "'maker/other' is not in the local cache, and the hub cannot be reached" in absent


def test_a_lora_on_the_hub(folders, tmp_path) -> None:
    """The same as its file."""
    pipeline = DiffusionPipeline.from_pretrained(folders["epsilon"])
    torch.manual_seed(0)
    pipeline.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False))
    pipeline.save_lora_weights(tmp_path / "lora", get_peft_model_state_dict(pipeline.unet))
    base = {"id": str(folders["epsilon"])}
    file = str(tmp_path / "lora" / "pytorch_lora_weights.safetensors")
    with serve({("maker/lora", "main"): tmp_path / "lora"}) as endpoint:
        plain, *changed = ask(
            endpoint,
            tmp_path / "cache",
            base,
            *(base | {"loras": [[path, 0.5]]} for path in ("maker/lora", file, str(tmp_path / "lora"))),
        )
    assert changed == changed[:1] * 3 and changed[0] != plain

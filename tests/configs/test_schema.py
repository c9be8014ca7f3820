"""What each field of the schema declares: a comment, a policy; and what the schema doesn't import."""

import dataclasses
import subprocess
import sys
from typing import get_type_hints

import pytest

from configs.fields import flatten, kind_name, run_policies, type_of
from configs.help import help_on
from configs.schema import STAGES, RunConfig, earlier_stages
from configs.sources import CONFIG_FOLDER
from settings.comments import comments


def sections(section=RunConfig):
    """A section and all below it."""
    yield section
    for kind in get_type_hints(section).values():
        if dataclasses.is_dataclass(kind):
            yield from sections(kind)


SECTIONS = sorted(set(sections()), key=lambda section: section.__name__)


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_every_field_has_a_comment(section):
    found = comments(section)
    names = [field.name for field in dataclasses.fields(section)]
    assert [name for name in names if not found[name]] == [] and list(found) == names


def test_comments_beside_and_above_a_field_are_found():
    found = comments(RunConfig)
    assert found["iterations"] == "for one particle; 0: only what a run begins with"
    assert found["scene"] == "Of the stage nerf; later stages keep it."


def test_the_schema_imports_no_pytorch():
    """In a process of its own: a mistake in a key is answered before the seconds that such an import takes."""
    slow = ("torch", "diffusers", "transformers", "peft", "lightning")
    check = f"import sys, configs.schema, runs.plan; print([name for name in {slow} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], cwd=CONFIG_FOLDER.parent, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_every_field_is_described():
    said = help_on("all")
    for key, value in flatten(RunConfig()).items():
        assert f"\n{key} = " in said and kind_name(type_of(key, "")), value


def test_what_runs_elsewhere_is_neither_inherited_nor_a_part_of_the_state():
    for key, policy in run_policies().items():
        assert policy.change != "anywhere" or (policy.inherit, policy.state) == ("no", False), key
    assert run_policies()["scene.field.grid.backend"].change == "anywhere"  # inside of a section that is inherited


def test_all_weights_and_all_rates_may_change_on_resume():
    policies = run_policies()
    weights = [key for key in policies if key.startswith("regularizers.")]
    rates = [key for key in policies if key.startswith(("optimizer.lr_", "estimator_optimizer.lr"))]
    assert len(weights) > 5 and len(rates) > 4
    assert all(policies[key].may_change("resume") for key in [*weights, *rates])


def test_words_of_change_include_each_other():
    policies = run_policies()
    assert policies["render.size"].may_change("test") and not policies["render.size"].may_change("resume")
    assert policies["iterations"].may_change("test") and not policies["iterations"].may_change("anywhere")
    assert all(policies["trainer.devices"].may_change(by) for by in ("test", "resume", "anywhere"))
    assert not policies["seed"].may_change("test")


def test_what_is_inherited_is_settled_by_an_earlier_stage():
    """A stage's own section is not taken from the run before it."""
    for key, policy in run_policies().items():
        if policy.inherit != "no":
            assert policy.stage is None or any(policy.stage in earlier_stages(stage) for stage in STAGES), key
    assert run_policies()["surface.field.cells"].stage == "geometry"

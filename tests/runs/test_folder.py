"""Names, creation and contents of run folders."""

import os
import random
import re
import string
import zipfile

import pytest

from configs.errors import ConfigError
from configs.load import load_saved
from configs.schema import OutputConfig, RunConfig
from runs.checkpoint_files import find_checkpoint
from runs.folder import SLUG_LENGTH, create_run_folder, discard_if_unused, slug, write_config
from runs.processes import RUN_FOLDER_VARIABLE
from runs.resume import find_last


def config(tmp_path, prompt="a red mug", run=None):
    return RunConfig(prompt=prompt, output=OutputConfig(folder=str(tmp_path / "outputs"), run=run))


def test_a_plain_prompt_is_its_own_slug():
    assert slug("a red mug") == "a-red-mug"


def test_slugs_are_safe_short_and_never_shared():
    generator = random.Random(0)
    letters = string.ascii_letters[:28] + "  --__..//\\:*?\"'\nñßé日🍵"
    prompts = {"".join(generator.choices(letters, k=generator.randint(1, 9))) for _ in range(5000)}
    prompts |= {"A red mug", "a red mug", "a-red-mug", "a  red mug", "a red mug ", "a red mug!", "a-red mug"}
    prompts |= {slug("A red mug"), slug("A red mug").replace("_", " "), "x" * 60, "x" * 61, "x" * 500, "../..", "日本"}
    slugs = [slug(prompt) for prompt in prompts]
    assert len(set(slugs)) == len(prompts)
    for name in slugs:
        assert re.fullmatch(r"[a-z0-9][a-z0-9-]*(_[0-9a-f]{8})?", name)
        assert len(name.split("_")[0]) <= SLUG_LENGTH


def test_folders_of_the_same_second_differ(tmp_path):
    folders = {create_run_folder(config(tmp_path)) for _ in range(3)}
    assert len(folders) == 3
    assert {folder.parent for folder in folders} == {tmp_path / "outputs" / "vsd-nerf" / "a-red-mug"}


def test_an_existing_run_is_not_touched(tmp_path):
    folder = create_run_folder(config(tmp_path, run="mine"))
    (folder / "result").write_text("precious")
    with pytest.raises(ConfigError, match=r"output\.run: 'mine' exists already in .*another name.*--resume "):
        create_run_folder(config(tmp_path, run="mine"))
    assert [path.name for path in folder.iterdir()] == ["result"]


@pytest.mark.parametrize("place", ["outputs", "outputs/vsd-nerf", "outputs/vsd-nerf/a-red-mug"])
@pytest.mark.parametrize("run", [None, "mine"])
def test_a_file_in_the_way(tmp_path, place, run):
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).write_text("a file")
    with pytest.raises(ConfigError, match=r"output\.folder: cannot write to .*choose another: output\.folder=PATH"):
        create_run_folder(config(tmp_path, run=run))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path):
    (tmp_path / "outputs").mkdir(mode=0o500)
    with pytest.raises(ConfigError, match=r"output\.folder: cannot write to .*Permission denied"):
        create_run_folder(config(tmp_path))


def test_further_processes_join_the_first_ones_folder(tmp_path, monkeypatch):
    first = create_run_folder(config(tmp_path))
    monkeypatch.setenv("LOCAL_RANK", "1")  # as Lightning starts it: the first one's environment, and a rank
    assert create_run_folder(config(tmp_path)) == first
    monkeypatch.delenv(RUN_FOLDER_VARIABLE)  # as torchrun starts it
    assert create_run_folder(config(tmp_path, run="mine")) == first.parent / "mine"
    with pytest.raises(ConfigError, match=r"output\.run: .*name the run"):
        create_run_folder(config(tmp_path))


def test_the_configuration_is_written_whole_with_its_command_and_versions(tmp_path):
    saved = config(tmp_path, prompt="two\nlines: ${x}\x07\u2028", run="mine")
    folder = create_run_folder(saved)
    write_config(saved, folder, [f"prompt={saved.prompt}"])
    text = (folder / "config.yaml").read_text(encoding="utf-8")
    assert "python launch.py 'prompt=two\\nlines: ${x}\\x07" in text
    assert re.search(r"prolificdreamer-lightning [\d.]+, torch [\d.]+.*, lightning [\d.]+.*, python 3", text)
    assert load_saved(folder / "config.yaml", {})[0] == saved
    assert [path.name for path in folder.iterdir()] == ["config.yaml"]  # no temporary file stays


def test_every_start_stays_recorded(tmp_path):
    folder = create_run_folder(config(tmp_path))
    for argument in ("first", "second"):
        write_config(config(tmp_path), folder, [argument])
    comments = [line for line in (folder / "config.yaml").read_text().splitlines() if line.startswith("#")]
    assert len(comments) == 4 and comments[0].endswith("first") and comments[2].endswith("second")


def test_only_a_folder_without_results_is_discarded(tmp_path):
    used, unused = create_run_folder(config(tmp_path)), create_run_folder(config(tmp_path, prompt="a chair"))
    for folder in (used, unused):
        write_config(config(tmp_path), folder, [])
    (used / "metrics.csv").write_text("1")
    for folder in (used, unused):
        discard_if_unused(folder)
    assert (used / "config.yaml").exists() and not unused.parent.exists()


def save_checkpoint(folder, name, age=0):
    """An empty archive in the format of torch.save, written ``age`` seconds ago."""
    path = folder / "checkpoints" / name
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", "x" * 100)
    os.utime(path, (path.stat().st_mtime - age,) * 2)
    return path


@pytest.fixture
def run_folder(tmp_path):
    folder = create_run_folder(config(tmp_path))
    write_config(config(tmp_path), folder, [])
    return folder


def newest(folder):
    found, checkpoint = find_checkpoint("--resume", folder)
    assert found == folder
    return checkpoint.name


@pytest.mark.parametrize("touched", ["000500.ckpt", "001000.ckpt", "last.ckpt"])
@pytest.mark.parametrize("age", [-1e6, 1e6])
def test_the_newest_checkpoint_does_not_depend_on_the_times_of_files(run_folder, touched, age):
    for name in ("000500.ckpt", "001000.ckpt", "last.ckpt"):
        save_checkpoint(run_folder, name, age if name == touched else 0)
    (run_folder / "checkpoints" / "001600.ckpt.part").write_text("unfinished")
    assert newest(run_folder) == "last.ckpt"
    (run_folder / "checkpoints" / "last.ckpt").unlink()
    assert newest(run_folder) == "001000.ckpt"
    chosen = run_folder / "checkpoints" / "000500.ckpt"
    assert find_checkpoint("--resume", chosen) == (run_folder, chosen)


def test_after_a_resume_from_an_earlier_checkpoint_its_own_are_newer(run_folder):
    """Iteration 500 of the second attempt, which ``last.ckpt`` is too; 1000 is of the first."""
    save_checkpoint(run_folder, "001000.ckpt")
    written = save_checkpoint(run_folder, "000500.ckpt")
    os.link(written, written.with_name("last.ckpt"))
    assert find_checkpoint("--resume", run_folder)[1].samefile(written)


def test_a_run_killed_before_the_second_name_follows_goes_on_from_a_whole_file(run_folder):
    first = save_checkpoint(run_folder, "000000.ckpt")
    assert newest(run_folder) == "000000.ckpt"  # in the first save
    os.link(first, first.with_name("last.ckpt"))
    save_checkpoint(run_folder, "000500.ckpt")
    assert newest(run_folder) == "last.ckpt"  # in a later one


@pytest.mark.parametrize("length", [0, 50, -1])
def test_what_is_cut_off_is_passed_over_while_there_is_a_whole_one(run_folder, length):
    for name in ("000500.ckpt", "001000.ckpt", "copy.ckpt", "last.ckpt"):
        save_checkpoint(run_folder, name)
    for cut, left in (("last", "001000"), ("001000", "000500"), ("000500", "copy")):
        path = run_folder / "checkpoints" / f"{cut}.ckpt"
        path.write_bytes(path.read_bytes()[:length])
        assert newest(run_folder) == f"{left}.ckpt"
    (run_folder / "checkpoints" / "copy.ckpt").write_bytes(b"PK")
    with pytest.raises(ConfigError, match=r"last\.ckpt is no whole checkpoint"):
        newest(run_folder)


def test_the_last_run_is_the_one_that_was_started_last(tmp_path):
    """Or resumed; by its ``config.yaml``, in whatever order the files were copied."""
    first, second, third, empty = (create_run_folder(config(tmp_path)) for _ in range(4))
    for day, folder in enumerate((first, second, third, empty), 1):
        (folder / "config.yaml").write_text(f"# 2025-01-0{day}T12:00:00 python launch.py prompt='# 2031-01-01T'\n")
    for folder, age in ((first, 0), (second, 50), (third, 100)):
        save_checkpoint(folder, "last.ckpt", age)
    assert find_last(config(tmp_path)) == third
    with (first / "config.yaml").open("a") as stream:
        stream.write("# 2025-01-09T12:00:00 python launch.py --resume\n")
    assert find_last(config(tmp_path)) == first
    with pytest.raises(ConfigError, match=r"--resume last: no run in .*another-prompt"):
        find_last(config(tmp_path, prompt="another prompt"))

"""What is said of a plan before it is carried out."""

from configs.load import load_config
from configs.sources import CONFIG_FOLDER
from runs.plan import beyond_the_end

VSD = CONFIG_FOLDER / "vsd-nerf.yaml"


def test_noise_that_would_change_after_the_end_is_told():
    assert beyond_the_end(load_config(VSD, {}).config) == []
    short = beyond_the_end(load_config(VSD, {"iterations": "260"}).config)
    assert len(short) == 1 and "noise.t_max comes to 0.5 at iteration 260, beyond this run's 260" in short[0]
    assert beyond_the_end(load_config(VSD, {"iterations": "261"}).config) == []

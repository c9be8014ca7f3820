"""What pulls the scene: a frozen model, the LoRA estimator and the distillation losses.

Images here are BCHW in [0, 1]; latents are what the prior's network sees (already scaled). Noise
levels are integer indices ``t`` into the prior's noise schedule, 0 the cleanest.

To read a step from the top: ``interface.py`` (what training sees), ``vsd.py`` (score distillation), ``losses.py`` (the
baselines), ``prior.py`` (the frozen model).
"""

from guidance import losses  # noqa: F401  # declares the losses before a configuration is checked

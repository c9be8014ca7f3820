"""One file a family of diffusion models; ``registry.FAMILIES`` lists them by pipeline.

What several of them need: ``latent_diffusion`` (autoencoder, text encoders), ``unet`` and ``flow`` (networks and their
noise schedules), ``attention`` (where LoRA attaches), ``text`` (tokens), ``components`` (loading).
"""

"""What the project does on one GPU: do the kernels compute the right thing, how fast are they, what does a run cost."""

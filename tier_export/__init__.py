"""Export: ckpt.pt → bundle/. Every graph is held against PyTorch before the bundle appears."""

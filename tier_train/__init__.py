"""Training: images + impressions → ckpt.pt. Owns the network and the loss, in PyTorch."""

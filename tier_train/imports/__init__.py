"""Published weights as checkpoints of ours (`tier-train import`) and as starts of training."""

from tier_train.imports.starts import image_start, text_start

__all__ = ["image_start", "text_start"]

"""The PyTorch side of the evaluation: what scores there, and the paper's tables and figures."""

"""The paper's figures of what the penalties do: a regularized checkpoint beside its twin."""

"""Export: ckpt.pt → bundle/. Every graph is held against PyTorch before the bundle appears."""

OPSET = (
    18  # of every graph, unless asked otherwise; onnxruntime on CUDA lacks kernels of later ones
)
LAST_OPSET = 22

"""TensorRT: a graph of the bundle → a plan for this machine's GPU → embeddings.

library → which TensorRT there is · build → graph to plan · precision → what the plan computes in ·
sidecar → what a plan was made for · store → where plans lie, and which may be loaded · buffers,
run → a plan at work · provider → TensorRT inside onnxruntime.
"""

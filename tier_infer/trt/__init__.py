"""TensorRT: a graph of the bundle → a plan for this machine's GPU → embeddings.

library → which TensorRT there is · build → graph to plan: network, progress · precision → what the
plan computes in · sidecar → what a plan was made for · store → which plans may be loaded, from the
shelves where they lie · run → a plan at work: loading, lane, buffers · provider → TensorRT inside
onnxruntime.
"""

"""Score images in bulk.

Rooms: `engines` (PyTorch, ONNX Runtime, OpenVINO, int8), `folded` (batch norm folded into convolutions).
`trials` (which engine is fastest and agrees), `scores` (predictions as rows), `feature_files` (features as files).
`single` (some images at once).
Private: `_cuda` (the CUDA engine), `_calls` (threads and batches of an engine).
Door: every room.
"""

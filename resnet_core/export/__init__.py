"""Write a classifier as a file of another framework.

Rooms: `formats` (names, packages, the agreement check), `graph` (the network as it scores), `onnx_file`,
`litert_file`, `torch_file`, `quiet` (silence libraries that print).
Door: every room.
A file appears only after its outputs agree with PyTorch's.
"""

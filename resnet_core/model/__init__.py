"""Define the network, and the classifier that is made of it.

resnet        the network: stem, residual blocks, heads
sized         batch norm statistics by input size
pretrained    weights to begin with
inputs        gray levels to tensors, resizing
classifier    a network with its preprocessing and classes
calibration   temperature, decisions, prediction sets
features      outputs of inner layers

Door: every room.
"""

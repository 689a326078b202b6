"""Define the network and the classifier that is made of it.

Rooms: `resnet` (blocks, heads, the family), `sized` (batch norm by input size), `pretrained` (weights of others),
`inputs` (gray levels to tensors, resizing, flips), `classifier` (a network with its preprocessing and classes),
`calibration` (temperature and decisions), `features` (outputs of inner layers).
Door: every room.
"""

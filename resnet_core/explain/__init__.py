"""Explain a prediction to a person.

Rooms: `grad_cam` (heat maps), `neighbours` (nearest training images), `gallery` (which images to show).
Door: every room.
Nothing here draws; `resnet_core.plotting` does.
"""

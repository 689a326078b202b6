"""Explain a prediction to a person.

Rooms: `heat` (heat maps), `neighbours` (nearest training images), `gallery` (which images to show), `queue` (which
images to label).
Door: every room.
Nothing here draws; `resnet_core.plotting` does.
"""

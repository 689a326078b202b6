"""Tell whether the data has changed, from night to night and from training to a batch.

Rooms: `summary` (counts and histograms), `checks` (a night against the last accepted one).
For versions: `reference` (the training data, kept with a version), `drift` (a batch against it).
`unknown` counts a batch's images that are unlike all of the training data.
Door: every room.
Summaries of parts add up; the images themselves are not needed.
"""

"""Tell whether the data has changed, from night to night and from training to a batch.

Rooms: `summary` (counts and histograms of a night or a batch), `checks` (tonight against the last accepted night),
`drift` (a batch against the training data), `reference` (the training data's summary, kept with a version).
Door: every room.
Summaries of parts add up; the images themselves are not needed.
"""

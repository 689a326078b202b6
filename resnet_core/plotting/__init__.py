"""Draw every chart, sheet and picture.

Rooms: `canvas` (pictures with text), `sheets` (PNG sheets of many images), `thumbnails` (small pictures).
`plots` (charts of an evaluation), `drift_plots` (data over time), `svg` (charts in a report's page).
Door: every room.
No other wing of resnet_core imports this one.
"""

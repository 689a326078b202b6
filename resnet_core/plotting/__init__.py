"""Draw every chart, contact sheet and picture.

Rooms: `canvas` (pages and colours), `plots` (evaluation), `data_plots` and `drift_plots` (data over time),
`contact_sheet`, `gallery_sheet`, `label_sheet` (images in rows), `svg` (charts of the report), `thumbnails`.
Door: every room.
No other wing of resnet_core imports this one.
"""

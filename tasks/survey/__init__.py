"""Use the stages of ingest without a flow, and look at a source before its first night.

Rooms: `alone` (ingest and preprocess without a flow), `survey` (what a source holds, and settings that fit it).
Door: both rooms.
"""

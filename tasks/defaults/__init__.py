"""Defaults: values for the keys of a data set file that are `auto`, chosen once and kept.

Rooms: `rules` (values and reasons, by pure functions), `settle` (the facts behind them, and what earlier nights chose).
Door: both rooms.
"""

"""Grayline's speed, as ratios against peers that are measured in the same run on the same cores."""

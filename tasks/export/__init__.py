"""Write a version's files for other frameworks, and measure other frameworks.

Rooms: `export` (a version as one file), `features` (a layer's outputs for every image),
`backends` (accuracy by another runtime).
Door: every room.
"""

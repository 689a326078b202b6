"""Review: the images of batches that a person should label next, for people and their tools, and the labels back.

Rooms: `queue` (which images), `files` (the page, the list and the files of tools), `answers` (accuracy, corrections).
Door: every room.
"""

"""Look after the installation: what is there, whether the store agrees with itself, and how a command ends.

Rooms: `doctor` (checks before a flow and of the machine), `audit` (`doctor --deep`, with its `findings`), `interrupt`
(Ctrl-C, SIGTERM).
Door: every room.
"""

"""Who gets in: the passwords of the local stack, and which files others may read.

Room passwords makes, reads and hands on the passwords.
"""

"""Who gets in: the passwords of the local stack, and which files others may read.

Room passwords makes, reads and hands on the passwords. Room modes says what others may do with files.
Room prefect_key takes the key of Prefect's Secret blocks out of its database.
Room environment sets the libraries' own variables.
Room upkeep says how long Prefect remembers, and what outlives its server.
"""

"""Write the pages for people.

Rooms: `night_page` (Prefect's page of a night), `version_page` (the report of a version), `gallery_page`
(a batch to look through and correct).
They are made of `parts` (what is read), `story`, `sections`, `charts`, `words`; `pages` fills `templates/`.
Door: the three pages.
"""

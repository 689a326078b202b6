"""Write pages for people.

Rooms: `night_page` (Prefect's page of a night), `version_page` (the report of a version), `gallery_page` (a batch
to look through and correct). `sorted_files`: a batch's files as folders.
A version's report is made by `parts` (read everything from MLflow), `story` (headline, lineage, history), `sections`
(measurements) and `charts`. `words` formats numbers, names and dates; `pages` fills `templates/` and writes files.
Door: the three pages and `sorted_files`.
"""

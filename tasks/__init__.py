"""Hold the stages of the pipeline: Prefect tasks with files in and files out.

A stage hands a small frozen value of `tasks.values` to the next; the flow passes it on.
Wings: ingest, training, evaluation, release for the night; batch and sinks for scoring.
`registry` talks with MLflow, `report` writes pages, `export` writes files for other frameworks.
"""

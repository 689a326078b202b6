"""List the images of any source: folder, glob, archive, table, IDX pair, manifest, shards, URL.

Rooms: `source` (list a source), `listing` (columns, ignored names), `folders`, `manifest`, `shard_files`.
More rooms: `fetch` (open the rows of a listing), `locate` (find files by URI).
Private: `_archives`, `_tar`, `_zip`, `_idx`, `_image_tables`: a file per container format.
Door: `source.list_source`, `manifest.list_manifest`, `fetch.open_files`, `locate.locate`.
"""

"""Read images in processes that may crash or hang without harm.

Rooms: `image` (read one image; the columns of a result), `pool` (read many);
`shard_rows` (read the rows of shards), `worker` (the program of a reader process).
Private: `_process` (the parent's side of a reader process).
Door: `pool.read_files`, `image.read_image`.
"""

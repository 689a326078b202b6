"""Turn the bytes of an image file into a gray square of pixels.

Rooms: `decode` (bytes to gray levels), `levels` (which value is white; `BadImageError`),
`decision` (the same for a data set), `limits` (of an image);
`preprocessing` (gray levels to the model's square);
`statistics` (brightness, contrast, sharpness, perceptual hash).
Private: `_png`, `_tiff`, `_dicom`, `_codecs` (JPEG, JPEG 2000), `_foreign` (names of other files).
Door: `decode.decode`, `preprocessing.Preprocessing`, `statistics.measure`.
The imports are light: a reader process starts with them.
"""

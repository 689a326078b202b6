"""Turn the bytes of an image file into a gray square of pixels.

Rooms: `decode` (bytes to gray levels), `preprocessing` (gray levels to the model's square),
`statistics` (brightness, contrast, sharpness, perceptual hash).
Private: `_codecs` (PNG, JPEG), `_dicom`, `_levels` (which value is white).
Door: `decode.decode`, `preprocessing.Preprocessing`, `statistics.measure`.
The imports are light: a reader process starts with them.
"""

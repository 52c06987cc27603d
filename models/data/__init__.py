"""From an image file to batches of films with their targets.

In: PNG, JPEG or DICOM bytes; a DATASET's `images.u8`; a target's `targets.npz`. Out: letterboxed uint8 films, the
mapped cache, normalised batches on the device. From elsewhere are imported `images` (`try_load_image`, `decode`),
`intensity`, `dicom` (tags), `cache`, `targets` and `loading` (`Pixels`, `epoch_order`, `film_size`, `normalise`,
`send`). Read `images`, `intensity`, `dicom`, with `dicom_codecs` and `decode_guard` below them; then `cache`,
`targets`, `loading`.
"""

__all__ = ["cache", "dicom", "images", "intensity", "loading", "targets"]

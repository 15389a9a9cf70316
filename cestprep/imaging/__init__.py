"""Registration, motion, resampling and segmentation of images, on arrays."""

"""Clips and captions: annotation files, video decoding, frame cache, batches."""

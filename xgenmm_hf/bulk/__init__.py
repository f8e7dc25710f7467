"""Answers about millions of images: rows in, one JSON line per row out, in batches, resumable and in shards."""

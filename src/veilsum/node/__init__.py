"""The composition root: files, keys, links and stores become a running party."""

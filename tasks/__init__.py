"""The ten stages, one file each, and the machinery that caches, resumes and commits them."""

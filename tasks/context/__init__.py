"""The context of a stage: its artifact, shards, progress, scratch folder and digests."""

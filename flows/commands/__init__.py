"""What the verbs of the command line do that the pipeline itself does not need."""

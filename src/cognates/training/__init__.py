"""Training: the loop, its run directory, checkpoints and monitors; import the module you need."""

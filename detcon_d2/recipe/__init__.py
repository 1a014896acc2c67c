"""From a user's images, annotations and budget to configs and commands that are ready to run, each choice with its reason."""

"""From a model and a target to a library the target's runtime can load."""

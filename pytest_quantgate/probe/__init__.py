"""What runs in the child process that loads a model, and the protocol its parent speaks with it."""

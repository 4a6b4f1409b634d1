"""The servers: in each module SERVER says how one is set up and asked; as a program, in an environment of its own, it serves."""

"""The work on a claimed chunk: a module for each kind of chunk, named after the kind."""

"""What is done with a claimed chunk: a module for each kind of chunk, named as the kind."""

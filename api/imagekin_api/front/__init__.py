"""The front: it receives requests without a thread for each, and passes them to the app when they are complete."""

"""The front: takes requests in without a thread for each, and hands them to the app when they are whole."""

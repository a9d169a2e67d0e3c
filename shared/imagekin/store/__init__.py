"""What a collection holds: images, segments of vectors, thumbnails, ledgers, and files of all of it."""

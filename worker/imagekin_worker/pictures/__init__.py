"""Pictures: from the bytes of a file to RGB pixels, within limits."""

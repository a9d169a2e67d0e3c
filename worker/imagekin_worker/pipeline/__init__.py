"""Files in, vectors out: reading ahead, decoding and forward passes, all at once and in bounded memory."""

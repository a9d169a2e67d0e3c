"""From files to vectors: reading ahead, decoding and forward passes, all at once and in bounded memory."""

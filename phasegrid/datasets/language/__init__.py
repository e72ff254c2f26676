"""Running text: one long sequence of words, read window by window."""

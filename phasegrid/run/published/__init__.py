"""Published results, stored as rows like our own."""

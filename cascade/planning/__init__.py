"""What a recipe will do and need, in sentences, without doing it."""

"""One file an environment: rows in, prompt messages, a score with named parts. No torch."""

"""Stock vLLM servers: started, supervised, spoken to over HTTP, and handed weights."""

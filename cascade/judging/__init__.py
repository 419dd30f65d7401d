"""Questions to judge models over any OpenAI-compatible endpoint. No torch."""

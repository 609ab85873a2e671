"""What a sentence encoder answers: embeddings and reranking."""

"""Models and their text for other programs: transformers, llama.cpp."""

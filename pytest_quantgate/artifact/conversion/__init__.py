"""GGUF files from Hugging Face folders: the folder, the converter, and the proof of its result."""

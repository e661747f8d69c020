"""What a run keeps and reads: files, wherever they lie."""

"""What tasks are made of: vocabulary, sources, transformations, and batches for the model."""

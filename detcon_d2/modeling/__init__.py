"""Parts of the networks that methods share: backbone, heads, mask pooling, target network, metrics."""

"""Public checkpoints by name: detcon://NAME."""

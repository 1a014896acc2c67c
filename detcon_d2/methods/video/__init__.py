"""Methods that learn from several frames of a clip; they need data sets ``video:/path``."""

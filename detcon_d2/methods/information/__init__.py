"""Methods that maximise the mutual information of parts or views of an image; they are registered as those of :mod:`detcon_d2.methods`."""

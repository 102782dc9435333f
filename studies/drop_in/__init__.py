"""A Caffe with a user's own files, really built: several minutes."""

"""What a real Caffe computed, recorded: for ports on machines where no Caffe can be installed."""

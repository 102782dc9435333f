"""`python -m caffe_parity` is the command `parity`."""

from caffe_parity.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())

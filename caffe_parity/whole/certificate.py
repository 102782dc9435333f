"""stub"""
def may_be_written(output): pass
def certify(options, port, report): pass

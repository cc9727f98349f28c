def write(name, trials): pass

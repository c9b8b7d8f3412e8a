def run(part): pass

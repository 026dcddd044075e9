"""The parts of scripts.reproduce, in the order in which it uses them.

data_folders.py finds and reads the data, choice.py says which methods are made, command_lines.py makes the command of
each run, plan.py says which runs are still to be made and why, runner.py makes them, cluster.py makes them as jobs of
a cluster, progress.py says how far they are.
"""

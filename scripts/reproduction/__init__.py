"""The parts of scripts.reproduce, in the order in which it uses them.

communities.py finds and reads the data, choice.py says which methods are made, commands.py makes the command of each
run, plan.py says which runs are still to be made and why, runner.py makes them, progress.py says how far they are.
"""

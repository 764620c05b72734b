"""Coverage-guided fuzzing of everything that takes bytes from the outside.

target      what one is: a name, a callable, and the errors that it may end with
codecs, papers, hosts, machines    the targets: wire formats, signed papers, what hosts say, whole machines
table       all of them, and which public decoder each one covers
replay      one input against one target, as a test does it
run         atheris on each target in a process of its own, and corpora made small
"""

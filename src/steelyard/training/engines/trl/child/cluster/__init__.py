"""One training on several machines of a Ray cluster: `child JOB.json FD PARENT` with `ray` in the job.

The driver (this process) tells and stores; on each machine an actor keeps files and starts the same child
that trains alone, once or once a device. They meet at a TCP address that is new at each attempt. When a
process or a machine is lost the attempt is ended, and another begins on the machines that answer, from the
last checkpoint that the driver has; a machine that comes is taken in at the end of a step. As the sum of a
step does not depend on how many share it out (group), neither do the weights.

driver (attempts, losses) -> nodes (all that knows Ray) -> host (on a machine) -> files (by hash, in pieces)
"""

# SPDX-License-Identifier: Apache-2.0
"""Small things that know no subject, which every package may use.

::

    counters --> shared_records --> shared_memory   numbers by name, for several processes
             --> per_process                        a value that each process makes for itself

    process      the parts of modules for this process; which are called at its end, and at forks
    checks       arguments, refused in the same words everywhere
    pickling     whether what a user gives can be sent to a worker
    error_notes  what an error of other people's code is about
    timeout      calls that must end in time
    machine      how much memory there is
"""

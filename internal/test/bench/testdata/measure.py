# Runs a program and tells on the last line of stdout how it went: code, when it started and ended (seconds since 1970), CPU seconds, peak KiB resident.
# (The AWS CLI, which is measured, too, brings Python along.)
import json
import os
import sys
import time

start = time.time()
pid = os.fork()
if pid == 0:
    os.execvp(sys.argv[1], sys.argv[1:])
_, status, usage = os.wait4(pid, 0)
print("\n" + json.dumps({
    "code": os.waitstatus_to_exitcode(status), "start": start, "end": time.time(),
    "cpu": usage.ru_utime + usage.ru_stime, "peak": usage.ru_maxrss,
}))

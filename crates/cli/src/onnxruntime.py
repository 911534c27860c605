import signal
import struct
import sys
import time

# Ctrl-C is for the command that asks: it closes stdin.
signal.signal(signal.SIGINT, signal.SIG_IGN)

import numpy as np
import onnxruntime as ort

file, shape = sys.argv[1], [int(size) for size in sys.argv[2:]]
options = ort.SessionOptions()
options.intra_op_num_threads = 1
options.log_severity_level = 3
session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
(name,) = [value.name for value in session.get_inputs()]
asked, answered = sys.stdin.buffer, sys.stdout.buffer
while count := asked.read(4):
    (count,) = struct.unpack("<I", count)
    images = np.frombuffer(asked.read(4 * count * int(np.prod(shape))), "<f4").reshape(count, *shape)
    start = time.perf_counter()
    (outputs,) = session.run(None, {name: images})
    milliseconds = 1e3 * (time.perf_counter() - start)
    answered.write(struct.pack("<d", milliseconds) + outputs.astype("<f4").tobytes())
    answered.flush()

#!/usr/bin/env bash
# tbparse 0.0.9 with TensorBoard 2.21.0: after a restart it also returns the values that TensorBoard has discarded, and
# a pivoted column then holds lists.
#
# Expected: a run that was resumed at step 3 writes SessionLog.START for step 3 (SummaryWriter's purge_step does), and
#           every reader drops the values of steps 3 and later that were written before.
# Happens:  TensorBoard's EventAccumulator drops them. tbparse's SummaryReader returns both; with pivot=True the cells of
#           repeated steps are lists, so that the column is no longer numeric.
# Matters:  a loss curve read by tbparse is not the one that TensorBoard shows. A test of an exporter that compares the
#           two must not have repeated steps; exporting from the log, which has none, is the way to get such a file.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check tbparse==0.0.9 tensorboard==2.21.0 'setuptools<81' 2>/dev/null
echo "TensorBoard 2.21.0 and tbparse 0.0.9 on a run with the steps 0 to 5, resumed at step 3. Expected: the same values."
"$folder/venv/bin/python" - "$folder/run" <<'PY' 2>/dev/null
import sys, time
from tbparse import SummaryReader
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter


def write(steps, offset, resumed):
    writer = EventFileWriter(sys.argv[1], filename_suffix=f".{offset}")
    if resumed:
        writer.add_event(Event(step=steps[0], wall_time=offset, session_log=SessionLog(status=SessionLog.START)))
    for step in steps:
        value = Summary.Value(tag="loss", simple_value=offset + step)
        writer.add_event(Event(step=step, wall_time=offset + step, summary=Summary(value=[value])))
    writer.close()


write(range(6), 0, resumed=False)
time.sleep(1.1)  # files are read in the order of the seconds in their names
write(range(3, 8), 100, resumed=True)
accumulator = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0})
accumulator.Reload()
shown = [(event.step, event.value) for event in accumulator.Scalars("loss")]
table = SummaryReader(sys.argv[1]).scalars
pivoted = SummaryReader(sys.argv[1], pivot=True).scalars.set_index("step")["loss"]
print("TensorBoard:    ", *(f"{step}: {value:g}" for step, value in shown))
print("tbparse:        ", *(f"{step}: {value:g}" for step, value in zip(table.step, table.value)))
print("tbparse, pivot: ", *(f"{step}: {value}" for step, value in pivoted.items()))
same = len(shown) == len(table) or not isinstance(pivoted[3], list)
sys.exit("changed: tbparse no longer returns what TensorBoard has purged" if same else 0)
PY

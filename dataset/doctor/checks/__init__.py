"""One file for each kind of fault. A check takes what is examined and gives a finding, or None where all is well.
It becomes part of the report by its entry in :data:`dataset.doctor.report.CHECKS`."""

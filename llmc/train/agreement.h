// Whether all processes of a run are about to do the same: options, model, data, checkpoint.
#pragma once
#include "llmc/comm/group.h"
#include "llmc/train/setup.h"

namespace llmc {

// Error on all of them that names the rank, its host and what differs. All processes call it.
void check_agreement(const Setup& setup, Group& group);

}  // namespace llmc

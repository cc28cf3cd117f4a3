// The command line wins over the options of a file.
#pragma once
#include <string>
#include <vector>

#include "llmc/train/options/settings.h"

namespace llmc {

// Removes from the settings of a file those that cannot stand beside the ones given on the command line: what they
// exclude or replace, what needs an option that is off, and what has no meaning under their --parametrization. Returns a
// sentence for each reason, which starts with `file`: "--config a.toml: steps = 5 left out: --tokens is given".
// What remains and does not fit is refused later: numbers (a --batch-size that does not divide the file's
// total-batch-size), and an option of the command line that has no meaning under the file's parametrization, which is
// not exchanged in passing.
std::vector<std::string> leave_out(std::vector<Setting>& of_file, const std::vector<Setting>& given,
                                   const std::string& file);

}  // namespace llmc

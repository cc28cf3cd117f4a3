#include "llmc/cpu/parallel.h"

namespace llmc::cpu {

constinit thread_local const Member* member = nullptr;

}  // namespace llmc::cpu

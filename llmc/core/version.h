// Version and build of the program; the Makefile generates the definitions (build/version.cpp).
#pragma once

namespace llmc {

extern const char* const kVersion;
extern const char* const kGitCommit;  // with "-dirty" if the tree had changes
extern const char* const kCompiler;   // and its flags

}  // namespace llmc

// Errors that end the program. The message says what is wrong, with which value, and what to do; the code is the exit
// code.
#pragma once
#include <sstream>
#include <stdexcept>
#include <string>

namespace llmc {

// Process exit codes, the same for train_gpt2, train_gpt2.py and the scripts (README, "Exit codes").
enum ExitCode {
    kExitOk = 0,
    kExitFailure = 1,
    kExitUsage = 2,
    kExitData = 3,
    kExitDiverged = 4,
    kExitNoGpu = 5,
    kExitSignal = 128
};

struct Error : std::runtime_error {
    Error(ExitCode code, const std::string& message) : std::runtime_error(message), exit_code(code) {}
    ExitCode exit_code;
};

// A file of a checkpoint that is missing, damaged or incomplete: another checkpoint of the run may do.
struct DamageError : Error {
    explicit DamageError(const std::string& message) : Error(kExitData, message) {}
};

// An error of another process of the run, which reports it.
struct ElsewhereError : Error {
    explicit ElsewhereError(const std::string& message) : Error(kExitFailure, message) {}
};

// Joins its arguments with operator<<: str("T is ", T, ", at most ", max).
template <class... Args>
std::string str(const Args&... args) {
    std::ostringstream out;
    (out << ... << args);
    return out.str();
}

template <class... Args>
[[noreturn]] void fail(const Args&... args) {
    throw Error(kExitFailure, str(args...));
}
template <class... Args>
[[noreturn]] void fail_usage(const Args&... args) {
    throw Error(kExitUsage, str(args...));
}
template <class... Args>
[[noreturn]] void fail_data(const Args&... args) {
    throw Error(kExitData, str(args...));
}
template <class... Args>
[[noreturn]] void fail_damaged(const Args&... args) {
    throw DamageError(str(args...));
}

}  // namespace llmc

// TCP connections that carry short messages: [length, 4 bytes][kind, 1 byte][text].
#pragma once
#include <chrono>
#include <cstdint>
#include <string>
#include <utility>

namespace llmc {

using Deadline = std::chrono::steady_clock::time_point;

struct Message {
    char kind;
    std::string text;
};

// An open socket. Functions that wait throw an Error at the deadline.
class Socket {
public:
    Socket() = default;
    explicit Socket(int fd) : fd_(fd) {}
    Socket(Socket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    Socket& operator=(Socket&& other) noexcept {
        std::swap(fd_, other.fd_);
        return *this;
    }
    ~Socket();

    int fd() const { return fd_; }
    explicit operator bool() const { return fd_ >= 0; }
    // False if the connection is lost, or the other side does not take it within `seconds`.
    bool send(const Message& message, double seconds = 10) const;
    // Error for a connection that ends, for more than `longest` bytes, and at the deadline.
    Message receive(size_t longest, Deadline deadline) const;

    // Listens at this address only; port 0: any free one. Error that says why it cannot.
    static Socket listen(const std::string& host, int port);
    int port() const;  // of a listening socket
    Socket accept(Deadline deadline) const;
    // Tries again until the deadline, because the other side may start later.
    static Socket connect(const std::string& host, int port, Deadline deadline);

private:
    int fd_ = -1;
};

// Collects the bytes of messages as they arrive.
class MessageReader {
public:
    // Reads what has arrived, without waiting. False if the connection is closed or lost.
    bool read(int fd);
    // The next whole message; false if there is none yet. Error for one of more than `longest` bytes.
    bool next(Message& message, size_t longest);

private:
    std::string bytes_;
};

std::string host_name();
// An address of this host that others reach: the first one that is not loopback; 127.0.0.1 if there is none.
std::string outside_address();

}  // namespace llmc

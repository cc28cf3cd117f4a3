#include "llmc/comm/socket.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <thread>

#include "llmc/core/error.h"

namespace llmc {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kHead = 5;  // bytes of length and kind

int milliseconds_to(Deadline deadline) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
    return int(std::max<int64_t>(0, std::min<int64_t>(left, 1 << 30)));
}

// Whether the socket is ready for `events` before the deadline.
bool ready(int fd, short events, Deadline deadline) {
    for (;;) {
        pollfd p{fd, events, 0};
        const int n = poll(&p, 1, milliseconds_to(deadline));
        if (n > 0) return true;
        if (n == 0) return false;
        if (errno != EINTR) return false;
    }
}

std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> resolve(const std::string& host, int port, int flags) {
    addrinfo hints{}, *found = nullptr;
    hints.ai_family = AF_UNSPEC;
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = flags;
    const int problem = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found);
    if (problem) fail("cannot find the host ", host, ": ", gai_strerror(problem), ": check --master, or MASTER_ADDR");
    return {found, freeaddrinfo};
}

void set_options(int fd) {
    const int yes = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

}  // namespace

Socket::~Socket() {
    if (fd_ >= 0) close(fd_);
}

bool Socket::send(const Message& message, double seconds) const {
    const Deadline deadline = Clock::now() + std::chrono::milliseconds(int64_t(1e3 * seconds));
    const uint32_t length = htonl(uint32_t(message.text.size()));
    std::string bytes(reinterpret_cast<const char*>(&length), 4);
    bytes += message.kind + message.text;
    for (size_t sent = 0; sent < bytes.size();) {
        const ssize_t n = ::send(fd_, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
        if (n > 0) {
            sent += size_t(n);
            continue;
        }
        if (errno == EINTR) continue;
        if (errno != EAGAIN || !ready(fd_, POLLOUT, deadline)) return false;
    }
    return true;
}

Message Socket::receive(size_t longest, Deadline deadline) const {
    MessageReader reader;
    for (Message message;;) {
        if (reader.next(message, longest)) return message;
        if (!ready(fd_, POLLIN, deadline)) fail("no answer in time");
        if (!reader.read(fd_)) fail("the connection was closed");
    }
}

Socket Socket::listen(const std::string& host, int port) {
    const auto addresses = resolve(host, port, AI_PASSIVE);
    int problem = 0;
    for (const addrinfo* a = addresses.get(); a; a = a->ai_next) {
        Socket s(socket(a->ai_family, a->ai_socktype, a->ai_protocol));
        if (!s) continue;
        const int yes = 1;
        setsockopt(s.fd_, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
        set_options(s.fd_);
        if (bind(s.fd_, a->ai_addr, a->ai_addrlen) == 0 && ::listen(s.fd_, 128) == 0) return s;
        problem = errno;
    }
    fail("rank 0 cannot listen at ", host, ":", port, ": ", std::strerror(problem),
         problem == EADDRNOTAVAIL ? ", which is no address of this host: rank 0 must run there"
                                  : ": choose another port with --master");
}

int Socket::port() const {
    sockaddr_storage address{};
    socklen_t length = sizeof address;
    getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &length);
    return ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&address)->sin6_port
                                               : reinterpret_cast<sockaddr_in*>(&address)->sin_port);
}

Socket Socket::accept(Deadline deadline) const {
    for (;;) {
        if (!ready(fd_, POLLIN, deadline)) fail("nobody came in time");
        Socket s(::accept(fd_, nullptr, nullptr));
        if (!s) continue;
        set_options(s.fd_);
        return s;
    }
}

Socket Socket::connect(const std::string& host, int port, Deadline deadline) {
    for (int problem = 0;;) {
        const auto addresses = resolve(host, port, 0);
        for (const addrinfo* a = addresses.get(); a; a = a->ai_next) {
            Socket s(socket(a->ai_family, a->ai_socktype, a->ai_protocol));
            if (!s) continue;
            set_options(s.fd_);
            if (::connect(s.fd_, a->ai_addr, a->ai_addrlen) != 0 && errno != EINPROGRESS) {
                problem = errno;
                continue;
            }
            if (!ready(s.fd_, POLLOUT, deadline)) continue;
            socklen_t length = sizeof problem;
            getsockopt(s.fd_, SOL_SOCKET, SO_ERROR, &problem, &length);
            if (problem == 0) return s;
        }
        if (Clock::now() + std::chrono::milliseconds(200) > deadline)
            fail("rank 0 does not answer at ", host, ":", port, ": ",
                 problem ? std::strerror(problem) : "no connection in time",
                 "; did it start, and is this its address?");
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
}

bool MessageReader::read(int fd) {
    for (char buffer[65536];;) {
        const ssize_t n = recv(fd, buffer, sizeof buffer, MSG_DONTWAIT);
        if (n > 0) {
            bytes_.append(buffer, size_t(n));
            return true;  // the rest later: the limit on the length is checked in between
        }
        if (n < 0 && errno == EINTR) continue;
        return n < 0 && errno == EAGAIN;
    }
}

bool MessageReader::next(Message& message, size_t longest) {
    if (bytes_.size() < kHead) return false;
    uint32_t length;
    std::memcpy(&length, bytes_.data(), 4);
    length = ntohl(length);
    if (length > longest) fail("a message of ", length, " bytes came, at most ", longest, " are allowed");
    if (bytes_.size() < kHead + length) return false;
    message = {bytes_[4], bytes_.substr(kHead, length)};
    bytes_.erase(0, kHead + length);
    return true;
}

std::string host_name() {
    char name[256] = "unknown";
    gethostname(name, sizeof name - 1);
    return name;
}

std::string outside_address() {
    ifaddrs* all = nullptr;
    if (getifaddrs(&all) != 0) return "127.0.0.1";
    std::string found = "127.0.0.1";
    for (const ifaddrs* a = all; a; a = a->ifa_next) {
        if (!a->ifa_addr || a->ifa_addr->sa_family != AF_INET) continue;
        if ((a->ifa_flags & IFF_LOOPBACK) || !(a->ifa_flags & IFF_UP)) continue;
        char text[INET_ADDRSTRLEN];
        inet_ntop(AF_INET, &reinterpret_cast<sockaddr_in*>(a->ifa_addr)->sin_addr, text, sizeof text);
        found = text;
        break;
    }
    freeifaddrs(all);
    return found;
}

}  // namespace llmc

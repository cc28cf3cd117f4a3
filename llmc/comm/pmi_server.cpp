#include "llmc/comm/pmi_server.h"

#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace llmc {
namespace {

constexpr const char* kSpace = "llmc";  // the name of the key-value space

// The value of a field of a line: "cmd=get kvsname=llmc key=a", "key" -> "a".
std::string field(const std::string& line, const std::string& name) {
    for (size_t at = line.find(name + "="); at != std::string::npos; at = line.find(name + "=", at + 1)) {
        if (at > 0 && line[at - 1] != ' ') continue;
        const size_t begin = at + name.size() + 1;
        // a value is the last field and may have spaces
        return line.substr(begin, name == "value" ? std::string::npos : line.find(' ', begin) - begin);
    }
    return "";
}

// Which ranks share a host: "(vector,(0,0,2),(0,1,2))" are blocks of (first host, hosts, ranks on each).
std::string mapping(const std::vector<std::string>& hosts) {
    std::map<std::string, int> numbers;
    std::string out = "(vector";
    for (size_t i = 0; i < hosts.size();) {
        size_t end = i;
        while (end < hosts.size() && hosts[end] == hosts[i]) ++end;
        const int number = numbers.insert({hosts[i], int(numbers.size())}).first->second;
        out += str(",(", number, ",1,", end - i, ")");
        i = end;
    }
    return out + ")";
}

}  // namespace

PmiServer::PmiServer(const World& world, Control& control) : world_(world), control_(control) {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0) llmc::fail("cannot make a socket: ", std::strerror(errno));
    fd_ = ends[0];
    values_["PMI_process_mapping"] = mapping(control.hosts());
    setenv("PMI_FD", std::to_string(ends[1]).c_str(), 1);
    setenv("PMI_RANK", std::to_string(world.rank).c_str(), 1);
    setenv("PMI_SIZE", std::to_string(world.size).c_str(), 1);
    thread_ = std::thread([this] { serve(); });
}

PmiServer::~PmiServer() {
    shutdown(fd_, SHUT_RDWR);
    thread_.join();
    close(fd_);
}

void PmiServer::serve() {
    std::string text;
    for (char buffer[4096];;) {
        const ssize_t n = read(fd_, buffer, sizeof buffer);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return;
        text.append(buffer, size_t(n));
        for (size_t end; (end = text.find('\n')) != std::string::npos; text.erase(0, end + 1)) {
            const std::string reply = answer(text.substr(0, end)) + "\n";
            if (write(fd_, reply.data(), reply.size()) < 0) return;
        }
    }
}

std::string PmiServer::answer(const std::string& line) {
    const std::string command = field(line, "cmd");
    if (command == "init") return "cmd=response_to_init pmi_version=1 pmi_subversion=1 rc=0";
    if (command == "get_maxes") return "cmd=maxes kvsname_max=256 keylen_max=256 vallen_max=16384";
    if (command == "get_appnum") return "cmd=appnum appnum=0";
    if (command == "get_my_kvsname") return str("cmd=my_kvsname kvsname=", kSpace);
    if (command == "get_universe_size") return str("cmd=universe_size size=", world_.size);
    if (command == "put") {
        news_[field(line, "key")] = field(line, "value");
        return "cmd=put_result rc=0 msg=success";
    }
    if (command == "get") return get(line);
    if (command == "barrier_in") {
        share();
        return "cmd=barrier_out rc=0";
    }
    if (command == "finalize") return "cmd=finalize_ack";
    if (command == "abort") control_.fail(kExitFailure, "MPI gave up: " + line);
    return str("cmd=", command, " rc=-1 msg=unknown_command");
}

std::string PmiServer::get(const std::string& line) {
    const std::string key = field(line, "key");
    const auto found = values_.find(key), own = news_.find(key);
    if (found == values_.end() && own == news_.end()) return "cmd=get_result rc=-1 msg=key_not_found value=unknown";
    return "cmd=get_result rc=0 msg=success value=" + (found != values_.end() ? found->second : own->second);
}

// A barrier makes what was put known to all.
void PmiServer::share() {
    std::vector<std::string> own;
    for (const auto& [key, value] : news_) own.insert(own.end(), {key, value});
    news_.clear();
    for (const std::string& packed : control_.all_gather(pack(own))) {
        const std::vector<std::string> theirs = unpack(packed);
        for (size_t i = 0; i + 1 < theirs.size(); i += 2) values_[theirs[i]] = theirs[i + 1];
    }
}

}  // namespace llmc

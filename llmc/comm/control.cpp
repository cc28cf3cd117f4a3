#include "llmc/comm/control.h"

#include <poll.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "llmc/core/sha256.h"

namespace llmc {
namespace {

using Clock = std::chrono::steady_clock;

// Kinds of messages.
constexpr char kChallenge = 'c', kHello = 'h', kWelcome = 'w', kRefuse = 'r', kGather = 'g', kAlive = 'a',
               kFailed = 'f', kStop = 's', kBye = 'b';
constexpr size_t kLongestHello = 4096, kLongest = size_t{1} << 20, kLongestOfAll = size_t{64} << 20;
constexpr double kBetweenSigns = 2;  // seconds

std::chrono::milliseconds seconds(double s) { return std::chrono::milliseconds(int64_t(1e3 * s)); }

// What proves that a process knows the token, without sending it.
std::string proof(const std::string& challenge, const std::string& token) {
    Sha256 inner, outer;
    inner.add(token.data(), token.size());
    const std::string text = challenge + inner.hex();
    outer.add(text.data(), text.size());
    return outer.hex();
}

}  // namespace

std::string random_token() {
    unsigned char bytes[16];
    if (getrandom(bytes, sizeof bytes, 0) != sizeof bytes) fail("the system gives no random numbers");
    std::string text;
    for (unsigned char b : bytes) text += "0123456789abcdef"[b >> 4], text += "0123456789abcdef"[b & 15];
    return text;
}

std::string pack(const std::vector<std::string>& texts) {
    std::string out;
    for (const std::string& text : texts) out += std::to_string(text.size()) + ":" + text;
    return out;
}

std::vector<std::string> unpack(const std::string& packed) {
    std::vector<std::string> out;
    for (size_t i = 0; i < packed.size();) {
        const size_t colon = packed.find(':', i);
        const size_t length = colon == std::string::npos ? packed.size() : size_t(std::atoll(packed.c_str() + i));
        if (colon == std::string::npos || length > packed.size() - colon - 1)
            fail("a message of another rank is broken");
        out.push_back(packed.substr(colon + 1, length));
        i = colon + 1 + length;
    }
    return out;
}

Control::Control(const World& world, MeetingPoint point, const std::string& build, const std::string& program)
    : world_(world), program_(program), hosts_(size_t(world.size)), arrived_(size_t(world.size)) {
    hosts_[size_t(world.rank)] = host_name();
    world.rank == 0 ? meet(std::move(point), build) : come(point, build);
    if (pipe(wake_) != 0) llmc::fail("cannot make a pipe: ", std::strerror(errno));
    for (auto& [rank, peer] : peers_) peer.heard = Clock::now();
    thread_ = std::thread([this] { watch(); });
}

// Rank 0 waits for the others. Who does not know the token, or is no rank of this run, is refused and does no harm. If
// one does not fit, all others are waited for, too: they are told why the run ends.
void Control::meet(MeetingPoint point, const std::string& build) {
    const Deadline deadline = Clock::now() + seconds(world_.timeout);
    Refused refused;
    try {
        while (int(peers_.size()) + 1 < world_.size) admit(point.listening.accept(deadline), build, refused);
    } catch (const Error& error) {
        if (refused.misfit.empty()) refused.misfit = Clock::now() < deadline ? error.what() : missing(refused);
    }
    if (refused.misfit.empty()) return to_all({kWelcome, pack(hosts_)});
    to_all({kRefuse, refused.misfit});
    llmc::fail(refused.misfit);
}

std::string Control::missing(const Refused& refused) const {
    std::string list;
    int count = 0;
    for (int r = 1; r < world_.size; ++r)
        if (!peers_.contains(r) && ++count <= 8) list += (list.empty() ? "" : ", ") + std::to_string(r);
    std::string reason = str(count == 1 ? "rank " : "ranks ", list, count > 8 ? ", ..." : "", " of ", world_.size,
                             " did not come to ", hosts_[0], " within ", world_.timeout,
                             " s: were they started, and do they reach it? (--rank-timeout)");
    if (refused.without_token > 0)
        reason += str("; connections without the job's token that were refused: ", refused.without_token);
    return reason;
}

// A stranger may connect and say nothing: two seconds are enough for a hello.
void Control::admit(Socket socket, const std::string& build, Refused& refused) {
    const std::string challenge = random_token();
    const auto refuse = [&](const std::string& reason) { socket.send({kRefuse, reason}, 1); };
    std::vector<std::string> hello;
    try {
        if (!socket.send({kChallenge, challenge}, 2)) return;
        const Message message = socket.receive(kLongestHello, Clock::now() + seconds(2));
        if (message.kind != kHello) return;
        hello = unpack(message.text);
    } catch (const Error&) {
        return;
    }
    if (hello.size() != 5 || hello[0] != proof(challenge, world_.token)) {
        ++refused.without_token;
        return refuse("this process does not have the job's token: give all of them the same LLMC_JOB_TOKEN");
    }
    const int rank = std::atoi(hello[1].c_str());
    if (hello[2] != std::to_string(world_.size))
        return refuse(str("rank ", rank, " is of ", hello[2], " processes, rank 0 of ", world_.size));
    if (rank < 1 || rank >= world_.size || peers_.contains(rank))
        return refuse(str("there is a rank ", rank, " already, on ", hosts_[size_t(rank) % hosts_.size()]));
    hosts_[size_t(rank)] = hello[3];
    if (hello[4] != build && refused.misfit.empty())
        refused.misfit = str("rank ", rank, " on ", hello[3], " is another build, ", hello[4], ", rank 0 on ",
                             hosts_[0], " is ", build, ": start the same program on all hosts");
    peers_[rank].socket = std::move(socket);
}

void Control::come(const MeetingPoint& point, const std::string& build) {
    // Rank 0 waits as long from its own start on, and then says who is missing.
    const Deadline deadline = Clock::now() + seconds(world_.timeout), verdict = deadline + seconds(3);
    Socket socket = Socket::connect(point.host, point.port, deadline);
    Message message;
    try {
        message = socket.receive(kLongestHello, deadline);
        const std::string self = std::to_string(world_.rank), size = std::to_string(world_.size);
        socket.send(
            {kHello, pack({proof(message.text, world_.token), self, size, hosts_[size_t(world_.rank)], build})});
        message = socket.receive(kLongestOfAll, verdict);
    } catch (const Error& error) {
        llmc::fail("rank 0 at ", point.host, ":", point.port, " does not let rank ", world_.rank,
                   " in: ", error.what());
    }
    if (message.kind == kRefuse) llmc::fail(message.text);
    hosts_ = unpack(message.text);
    if (message.kind != kWelcome || int(hosts_.size()) != world_.size)
        llmc::fail(point.host, ":", point.port, " is no rank 0 of this program");
    peers_[0].socket = std::move(socket);
}

std::string Control::who(int rank) const { return str("rank ", rank, " on ", hosts_[size_t(rank)]); }

void Control::to_all(const Message& message) {
    for (auto& [rank, peer] : peers_) peer.socket.send(message, 2);
}

void Control::wake() {
    if (write(wake_[1], "", 1) < 0) return;  // the pipe is full: the thread is awake anyway
}

std::vector<std::string> Control::all_gather(const std::string& own) {
    if (own.size() > kLongest) llmc::fail("a message of ", own.size(), " bytes is too long");
    std::unique_lock lock(mutex_);
    if (world_.rank == 0)
        collect(0, own);
    else
        outgoing_.push_back({kGather, own});
    wake();
    changed_.wait(lock, [this] { return result_.has_value(); });
    std::vector<std::string> all = *std::move(result_);
    result_.reset();
    return all;
}

// With the lock held, on rank 0.
void Control::collect(int rank, const std::string& text) {
    arrived_[size_t(rank)] = text;
    std::vector<std::string> all;
    for (const auto& one : arrived_)
        if (one) all.push_back(*one);
    if (int(all.size()) < world_.size) return;
    for (auto& one : arrived_) one.reset();
    outgoing_.push_back({kGather, pack(all)});
    result_ = std::move(all);
    changed_.notify_all();
}

void Control::fail(int exit_code, const std::string& reason) {
    {
        const std::lock_guard lock(mutex_);
        failure_ = {exit_code, reason};
    }
    wake();
    for (;;) pause();  // the thread ends the process
}

void Control::end_with_the_others(const std::string& reason) {
    std::this_thread::sleep_for(std::chrono::seconds(5));
    fail(kExitFailure, reason);
}

// Ends this process, and tells the others first if this is rank 0. from: the rank that failed.
void Control::stop(int exit_code, const std::string& reason, int from) {
    if (world_.rank == 0) to_all({kStop, pack({std::to_string(exit_code), std::to_string(from), reason})});
    const std::string line = str(program_, ": ", who(from), ": ", reason,
                                 from == world_.rank ? "" : str(" (this is ", who(world_.rank), ")"), "\n");
    if (isatty(STDOUT_FILENO) && write(STDOUT_FILENO, "\n", 1) < 0) {}
    if (write(STDERR_FILENO, line.data(), line.size()) < 0) {}
    _exit(exit_code);
}

void Control::handle(int rank, const Message& message) {
    const auto after = [&] { return unpack(message.text); };
    switch (message.kind) {
        case kGather: {
            const std::lock_guard lock(mutex_);
            if (world_.rank == 0) return collect(rank, message.text);
            result_ = after();
            changed_.notify_all();
            return;
        }
        case kFailed:
            return stop(std::atoi(after().at(0).c_str()), after().at(1), rank);
        case kStop:
            return stop(std::atoi(after().at(0).c_str()), after().at(2), std::atoi(after().at(1).c_str()));
        case kBye: {
            const std::lock_guard lock(mutex_);
            peers_[rank].gone = true;
            changed_.notify_all();
            return;
        }
        default:
            return;  // a sign of life
    }
}

void Control::read_from(int rank) {
    Peer& peer = peers_[rank];
    const bool open = peer.reader.read(peer.socket.fd());
    try {
        for (Message message; peer.reader.next(message, world_.rank == 0 ? kLongest : kLongestOfAll);) {
            peer.heard = Clock::now();
            handle(rank, message);
        }
    } catch (const std::exception& error) {
        stop(kExitFailure, error.what(), rank);
    }
    if (open || peer.gone) return;
    {
        const std::lock_guard lock(mutex_);
        if (ended_) {  // all work is done: launchers end processes that linger
            peer.gone = true;
            changed_.notify_all();
            return;
        }
    }
    stop(kExitFailure, "ended without a word: it was killed, or it crashed", rank);
}

void Control::watch() {
    auto signed_at = Clock::now();
    for (;;) {
        std::vector<pollfd> waiting = {{wake_[0], POLLIN, 0}};
        std::vector<int> ranks = {-1};
        for (auto& [rank, peer] : peers_)
            if (!peer.gone) waiting.push_back({peer.socket.fd(), POLLIN, 0}), ranks.push_back(rank);
        poll(waiting.data(), waiting.size(), 500);
        char ignored[64];
        if (waiting[0].revents && read(wake_[0], ignored, sizeof ignored) < 0) return;
        std::vector<Message> outgoing;
        std::optional<std::pair<int, std::string>> failure;
        {
            const std::lock_guard lock(mutex_);
            outgoing.swap(outgoing_);
            failure = failure_;
            if (leaving_) return;
        }
        if (failure) {
            to_all({kFailed, pack({std::to_string(failure->first), failure->second})});
            if (world_.rank == 0) stop(failure->first, failure->second, 0);
            // rank 0's answer ends this process, in the words that all print
            const std::lock_guard lock(mutex_);
            failure_.reset();
            std::thread([this, f = *failure] {
                std::this_thread::sleep_for(std::chrono::seconds(5));
                stop(f.first, f.second, world_.rank);
            }).detach();
        }
        for (const Message& message : outgoing) to_all(message);
        for (size_t i = 1; i < waiting.size(); ++i)
            if (waiting[i].revents) read_from(ranks[i]);
        const auto now = Clock::now();
        if (now - signed_at > seconds(kBetweenSigns)) {
            signed_at = now;
            to_all({kAlive, ""});
        }
        for (auto& [rank, peer] : peers_)
            if (!peer.gone && now - peer.heard > seconds(world_.timeout))
                stop(kExitFailure, str("gave no sign of life for ", world_.timeout, " s"), rank);
    }
}

Control::~Control() {
    if (!thread_.joinable()) return;
    {
        std::unique_lock lock(mutex_);
        ended_ = true;
        if (world_.rank != 0) outgoing_.push_back({kBye, ""});
        wake();
        // rank 0 hears everybody's goodbye, then says its own
        changed_.wait_for(lock, seconds(world_.timeout), [this] {
            return std::all_of(peers_.begin(), peers_.end(), [](const auto& p) { return p.second.gone; });
        });
        leaving_ = true;
    }
    wake();
    thread_.join();
    if (world_.rank == 0) to_all({kBye, ""});
    for (int fd : wake_) close(fd);
}

}  // namespace llmc

// The control connections of a run: every rank has one to rank 0. They carry short texts (who takes part, what must be
// equal, NCCL's id), signs of life, and the reason when one process fails. Gradients never go this way.
//
// A thread watches the connections. When a process fails, or is killed, or gives no sign of life for `timeout` seconds,
// every other process prints one line that names its rank, host and reason, and ends, wherever it is.
#pragma once
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "llmc/comm/socket.h"
#include "llmc/comm/world.h"
#include "llmc/core/error.h"

namespace llmc {

// Where rank 0 waits for the others.
struct MeetingPoint {
    Socket listening;  // of rank 0 only
    std::string host;
    int port = 0;
};

class Control {
public:
    // Returns when all ranks have come. `build` must be equal on all of them. `program`: for messages. Error that names
    // the ranks that did not come, or why this one was refused.
    Control(const World& world, MeetingPoint point, const std::string& build, const std::string& program);
    ~Control();  // at the end of a run: waits until all ranks are here
    Control(const Control&) = delete;
    Control& operator=(const Control&) = delete;

    int rank() const { return world_.rank; }
    int size() const { return world_.size; }
    const std::vector<std::string>& hosts() const { return hosts_; }  // of all ranks
    // The texts of all ranks. All ranks call it, in the same order.
    std::vector<std::string> all_gather(const std::string& own);
    // Ends all processes of the run because of an error of this one; all print it, with rank and host.
    [[noreturn]] void fail(int exit_code, const std::string& reason);
    // The same because of an error that another process reports: waits for that.
    [[noreturn]] void end_with_the_others(const std::string& reason);

private:
    struct Peer {
        Socket socket;
        MessageReader reader;
        std::chrono::steady_clock::time_point heard;
        bool gone = false;  // said goodbye
    };
    void meet(MeetingPoint point, const std::string& build);
    struct Refused {
        std::string misfit;  // why the run cannot be; empty: it can
        int without_token = 0;
    };
    void admit(Socket socket, const std::string& build, Refused& refused);
    std::string missing(const Refused& refused) const;
    void come(const MeetingPoint& point, const std::string& build);
    void watch();
    void read_from(int rank);
    void handle(int rank, const Message& message);
    void gathered(const std::string& list);
    void collect(int rank, const std::string& text);
    [[noreturn]] void stop(int exit_code, const std::string& reason, int from);
    std::string who(int rank) const;
    void to_all(const Message& message);
    void wake();

    World world_;
    std::string program_;
    std::vector<std::string> hosts_;
    std::map<int, Peer> peers_;  // rank 0: all others; other ranks: 0
    std::thread thread_;
    int wake_[2] = {-1, -1};  // a pipe
    std::mutex mutex_;
    std::condition_variable changed_;
    std::vector<Message> outgoing_;                    // to rank 0, or from it to all
    std::vector<std::optional<std::string>> arrived_;  // rank 0: of the all_gather that runs
    std::optional<std::vector<std::string>> result_;
    std::optional<std::pair<int, std::string>> failure_;  // of this process
    bool ended_ = false, leaving_ = false;
};

std::string random_token();

// Joins and splits texts that may contain anything.
std::string pack(const std::vector<std::string>& texts);
std::vector<std::string> unpack(const std::string& packed);

}  // namespace llmc

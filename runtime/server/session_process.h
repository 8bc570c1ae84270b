// The body of a session: what runs in the process forked for one client.
#ifndef EDGEVIT_SERVER_SESSION_PROCESS_H_
#define EDGEVIT_SERVER_SESSION_PROCESS_H_

#include <string>

namespace edgevit {

// How a session process ends. Above 63, so that exit codes of other origin are told apart.
enum class SessionEnd : int {
  kDone = 0,         // the client closed the session
  kClientLost = 64,  // the connection broke, or ended during a call
  kIdle = 65,        // the client was silent for too long
  kServerGone = 66,  // the parent died
  kFailed = 67,      // the client broke the protocol
};

// Serves the client on `socket` until either is done; never returns. `lifeline` is the read end of
// a pipe whose other end only the parent holds. Leaves no file behind, not even when a call hangs.
[[noreturn]] void RunSession(int socket, int lifeline, const std::string& folder,
                             double idle_timeout);

}  // namespace edgevit

#endif  // EDGEVIT_SERVER_SESSION_PROCESS_H_

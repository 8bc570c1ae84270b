#include "session_process.h"

#include <poll.h>
#include <sys/socket.h>
#include <tvm/ffi/error.h>

#include <cerrno>
#include <cstdlib>
#include <exception>
#include <memory>
#include <string>
#include <thread>

#include "device_info.h"
#include "functions.h"
#include "log.h"
#include "protocol.h"
#include "rpc/rpc_endpoint.h"
#include "session_channel.h"
#include "work_folder.h"

namespace edgevit {
namespace {

// How long a session may take to notice by itself that its client has left.
constexpr int kGoodbyeMilliseconds = 250;

[[noreturn]] void End(SessionEnd end, const std::string& folder) {
  RemoveTree(folder);
  // No destructors: another thread may be in the middle of a call.
  _exit(static_cast<int>(end));
}

// Runs beside the session's calls, which may take long or hang: ends the process when nobody waits
// for their result any more.
void Watch(int socket, int lifeline, const std::string& folder) {
  pollfd entries[2] = {{lifeline, POLLIN, 0}, {socket, POLLRDHUP, 0}};
  while (poll(entries, 2, -1) < 0 && errno == EINTR) {
  }
  if (entries[0].revents == 0) {
    // The client left. When no call is running the main thread sees that too, and how it ended;
    // give it the time.
    poll(entries, 1, kGoodbyeMilliseconds);
  }
  End(entries[0].revents != 0 ? SessionEnd::kServerGone : SessionEnd::kClientLost, folder);
}

SessionEnd Serve(int socket, double idle_timeout) {
  try {
    tvm::runtime::RPCEndpoint::Create(std::make_unique<SessionChannel>(socket, idle_timeout),
                                      "edgevit-server", "")
        ->ServerLoop();
    return SessionEnd::kDone;
  } catch (const IdleError&) {
    return SessionEnd::kIdle;
  } catch (const tvm::ffi::Error& error) {
    Log("session_error", JsonObject().Add("message", error.message()));
  } catch (const std::exception& error) {
    Log("session_error", JsonObject().Add("message", error.what()));
  }
  char byte;
  const ssize_t left = recv(socket, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  const bool lost = left == 0 || (left < 0 && errno != EAGAIN);
  return lost ? SessionEnd::kClientLost : SessionEnd::kFailed;
}

}  // namespace

void RunSession(int socket, int lifeline, const std::string& folder, double idle_timeout) {
  if (chdir(folder.c_str()) != 0) End(SessionEnd::kFailed, folder);
  // TVM's thread pool takes half the cores of an x86 for hyper-threads and then cannot be told to
  // use more. Let it have all, so that the client decides.
  setenv("TVM_NUM_THREADS", std::to_string(CoreCount()).c_str(), /*overwrite=*/0);
  RegisterFunctions(folder, /*own_threads=*/1);
  std::thread(Watch, socket, lifeline, folder).detach();
  End(Serve(socket, idle_timeout), folder);
}

}  // namespace edgevit

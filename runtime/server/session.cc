#include "session.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>

#include "log.h"
#include "protocol.h"
#include "session_process.h"

namespace edgevit {
namespace {

std::string SecondsText(double value) {
  std::string text = std::to_string(value);
  text.erase(text.find_last_not_of('0') + 1);
  if (text.back() == '.') text.pop_back();
  return text + " s";
}

// What the log and, where it still listens, the client is told; empty when all went well.
std::string Explain(int status, double idle_timeout) {
  if (WIFSIGNALED(status)) {
    return std::string("the session's process crashed: ") + strsignal(WTERMSIG(status));
  }
  switch (static_cast<SessionEnd>(WEXITSTATUS(status))) {
    case SessionEnd::kDone:
      return "";
    case SessionEnd::kClientLost:
      return "the client left without closing the session";
    case SessionEnd::kIdle:
      return "the session was ended because its client was silent for " + SecondsText(idle_timeout);
    case SessionEnd::kServerGone:
      return "the server ended";
    case SessionEnd::kFailed:
      return "the client did not keep to the protocol";
  }
  return "the session's process exited with status " + std::to_string(WEXITSTATUS(status));
}

// The new process keeps only what it needs of the parent's.
void BecomeSession() {
  setpgid(0, 0);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGCHLD}) ::signal(signal, SIG_DFL);
  const Descriptor null(open("/dev/null", O_RDONLY));
  if (null) dup2(null.get(), STDIN_FILENO);
}

// Every descriptor but the standard three and those given.
void CloseOthers(std::initializer_list<int> kept) {
  const int limit = static_cast<int>(sysconf(_SC_OPEN_MAX));
  for (int descriptor = 3; descriptor < limit && descriptor < 256; ++descriptor) {
    bool keep = false;
    for (const int one : kept) keep = keep || one == descriptor;
    if (!keep) close(descriptor);
  }
}

}  // namespace

Session::Session(Descriptor client, const std::string& work_parent, double timeout,
                 double idle_timeout)
    : client_(std::move(client)),
      folder_(work_parent),
      idle_timeout_(idle_timeout),
      start_(Now()),
      deadline_(timeout > 0 ? start_ + timeout : kForever) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) throw std::runtime_error("no pipe for a session");
  Descriptor read_end(ends[0]);
  lifeline_ = Descriptor(ends[1]);
  pid_ = fork();
  if (pid_ < 0) throw std::runtime_error(std::string("no process: ") + std::strerror(errno));
  if (pid_ == 0) {
    BecomeSession();
    CloseOthers({client_.get(), read_end.get(), folder_.lock()});
    RunSession(client_.get(), read_end.get(), folder_.path(), idle_timeout);
  }
  setpgid(pid_, pid_);
}

Session::~Session() { Kill("the server ended", false); }

bool Session::Reap() {
  if (ended_) return true;
  int status = 0;
  if (waitpid(pid_, &status, WNOHANG) != pid_) return false;
  ended_ = true;
  // Whatever the session's code may have started.
  kill(-pid_, SIGKILL);
  const std::string reason = Explain(status, idle_timeout_);
  const bool idle = WIFEXITED(status) && WEXITSTATUS(status) == static_cast<int>(SessionEnd::kIdle);
  if (!reason.empty()) Tell(reason, idle);
  Log("session_end", JsonObject()
                         .Add("pid", static_cast<int64_t>(pid_))
                         .Add("seconds", Now() - start_)
                         .Add("reason", reason.empty() ? "closed" : reason));
  return true;
}

void Session::Kill(const std::string& reason, bool timeout) {
  if (ended_) return;
  ended_ = true;
  kill(-pid_, SIGKILL);
  // In case the process was too young to have its group.
  kill(pid_, SIGKILL);
  while (waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
  Tell(reason, timeout);
  Log("session_end", JsonObject()
                         .Add("pid", static_cast<int64_t>(pid_))
                         .Add("seconds", Now() - start_)
                         .Add("reason", reason));
}

bool Session::ClientLeft() const {
  pollfd entry = {client_.get(), POLLRDHUP, 0};
  return poll(&entry, 1, 0) > 0;
}

void Session::Tell(const std::string& message, bool timeout) {
  const std::string packet = ErrorPacket(message, timeout);
  // The socket does not block: a client that does not listen is not waited for.
  (void)send(client_.get(), packet.data(), packet.size(), MSG_NOSIGNAL);
}

}  // namespace edgevit

#include "server.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cmath>
#include <cstdio>
#include <stdexcept>

#include "device_info.h"
#include "log.h"

namespace edgevit {
namespace {

constexpr size_t kMaxHandshakes = 32;
// A client that closes one session and opens the next may arrive before the first has ended: how
// long it waits for its turn before it hears that the server is busy.
constexpr double kBusyGraceSeconds = 0.3;
constexpr double kEndingGraceSeconds = 5;

int signal_pipe = -1;

void OnSignal(int number) {
  const int saved = errno;
  const char byte = static_cast<char>(number);
  [[maybe_unused]] const ssize_t written = write(signal_pipe, &byte, 1);
  errno = saved;
}

Descriptor CatchSignals() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) throw std::runtime_error("no pipe for signals");
  signal_pipe = ends[1];
  struct sigaction action{};
  action.sa_handler = OnSignal;
  action.sa_flags = SA_RESTART;
  for (const int number : {SIGTERM, SIGINT, SIGHUP, SIGCHLD}) sigaction(number, &action, nullptr);
  signal(SIGPIPE, SIG_IGN);
  return Descriptor(ends[0]);
}

}  // namespace

Server::Server(const Options& options)
    : options_(options),
      work_parent_(WorkFolderParent(options.work_dir)),
      listener_(Listen(options.host, options.port, options.port_end)),
      port_(LocalPort(listener_.get())),
      signals_(CatchSignals()) {
  RemoveStaleWorkFolders(work_parent_);
  if (options.tracker_port != 0) tracker_.emplace(options, port_);
}

int Server::Run() {
  Announce();
  while (!stop_) {
    WaitForEvents();
    AdvanceSession();
    AdvanceHandshakes();
    if (tracker_) {
      tracker_->SetFree(session_ == nullptr);
      tracker_->Advance();
    }
  }
  Log("stopped");
  return 0;
}

void Server::Announce() const {
  const std::string line = JsonObject()
                               .Add("event", "listening")
                               .Add("host", options_.host)
                               .Add("port", port_)
                               .Add("version", EDGEVIT_VERSION)
                               .str();
  std::printf("%s\n", line.c_str());
  std::fflush(stdout);
}

void Server::WaitForEvents() {
  std::vector<pollfd> entries = {{signals_.get(), POLLIN, 0}};
  // A negative descriptor keeps its place and is ignored by poll.
  entries.push_back({options_.exit_with_stdin ? STDIN_FILENO : -1, POLLIN, 0});
  entries.push_back({handshakes_.size() < kMaxHandshakes ? listener_.get() : -1, POLLIN, 0});
  if (tracker_) entries.push_back({tracker_->descriptor(), tracker_->events(), 0});
  for (const Handshake& handshake : handshakes_) {
    // A complete one waits for its turn, not for more bytes.
    const bool reading = handshake.state() == Handshake::State::kReading;
    entries.push_back({reading ? handshake.socket() : -1, POLLIN, 0});
  }
  const double left = NextDeadline() - Now();
  const int milliseconds =
      left > INT_MAX / 2000 ? -1 : static_cast<int>(std::ceil(std::max(0.0, left) * 1000));
  if (poll(entries.data(), entries.size(), milliseconds) <= 0) return;
  if (entries[0].revents != 0) ReadSignals();
  if (entries[1].revents != 0) ReadStdin();
  if (entries[2].revents != 0) Accept();
}

double Server::NextDeadline() const {
  double next = session_ ? session_->deadline() : kForever;
  if (tracker_) next = std::min(next, tracker_->deadline());
  for (const Handshake& handshake : handshakes_) next = std::min(next, handshake.deadline());
  return next;
}

void Server::ReadSignals() {
  char numbers[64];
  ssize_t count;
  while ((count = read(signals_.get(), numbers, sizeof(numbers))) > 0) {
    // A SIGCHLD only wakes the loop.
    for (ssize_t i = 0; i < count; ++i) stop_ = stop_ || numbers[i] != SIGCHLD;
  }
}

void Server::ReadStdin() {
  char ignored[256];
  const ssize_t size = read(STDIN_FILENO, ignored, sizeof(ignored));
  if (size == 0 || (size < 0 && errno != EAGAIN && errno != EINTR)) stop_ = true;
}

void Server::Accept() {
  while (handshakes_.size() < kMaxHandshakes) {
    Descriptor client(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!client) return;
    ConfigureConnection(client.get());
    handshakes_.emplace_back(std::move(client), Now() + options_.handshake_timeout);
  }
}

void Server::AdvanceHandshakes() {
  std::vector<Handshake> remaining;
  for (Handshake& handshake : handshakes_) {
    if (Advance(&handshake)) remaining.push_back(std::move(handshake));
  }
  handshakes_ = std::move(remaining);
}

// True while the connection stays a handshake.
bool Server::Advance(Handshake* handshake) {
  const bool was_reading = handshake->state() == Handshake::State::kReading;
  switch (handshake->Read()) {
    case Handshake::State::kBroken:
      return false;
    case Handshake::State::kReading:
      return Now() < handshake->deadline();
    case Handshake::State::kComplete:
      break;
  }
  if (was_reading) handshake->set_deadline(Now() + kBusyGraceSeconds);
  if (session_ != nullptr) return WaitForTurn(handshake);
  const bool offered = !tracker_ || !tracker_->match_key().empty();
  const std::string expected = "client:" + (tracker_ ? tracker_->match_key() : options_.key);
  if (!offered || handshake->name() != expected) {
    Log("wrong_key", JsonObject().Add("peer", handshake->peer()));
    handshake->Reply(Answer::kWrongKey, "");
  } else {
    StartSession(handshake);
  }
  return false;
}

bool Server::WaitForTurn(Handshake* handshake) {
  if (Now() < handshake->deadline()) return true;
  if (session_->ClientLeft() && !handshake->extended()) {
    handshake->Extend(kEndingGraceSeconds);
    return true;
  }
  Log("busy", JsonObject().Add("peer", handshake->peer()));
  handshake->Reply(Answer::kBusy, "");
  return false;
}

void Server::StartSession(Handshake* handshake) {
  const double asked = handshake->asked_timeout();
  const double timeout = asked > 0 ? asked : options_.session_timeout;
  handshake->Reply(Answer::kWelcome, options_.key);
  try {
    session_ = std::make_unique<Session>(handshake->TakeSocket(), work_parent_, timeout,
                                         options_.idle_timeout);
    Log("session_start", JsonObject()
                             .Add("peer", handshake->peer())
                             .Add("pid", static_cast<int64_t>(session_->pid()))
                             .Add("timeout", timeout));
  } catch (const std::runtime_error& error) {
    Log("session_failed", JsonObject().Add("reason", error.what()));
  }
}

void Server::AdvanceSession() {
  if (session_ == nullptr) return;
  if (!session_->Reap()) {
    if (Now() < session_->deadline()) return;
    session_->Kill("the session's time limit has passed; ask for a larger session_timeout", true);
  }
  session_.reset();
  if (options_.once) stop_ = true;
}

}  // namespace edgevit

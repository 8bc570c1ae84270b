#include "session_channel.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>
#include <string>

#include "net.h"

namespace edgevit {
namespace {

bool WouldBlock() { return errno == EAGAIN || errno == EWOULDBLOCK; }

}  // namespace

size_t SessionChannel::Send(const void* data, size_t size) {
  while (!broken_) {
    const ssize_t sent = send(socket_, data, size, MSG_NOSIGNAL);
    if (sent >= 0) return static_cast<size_t>(sent);
    if (WouldBlock()) {
      Wait(POLLOUT);
    } else if (errno != EINTR) {
      Break("sending to");
    }
  }
  return size;
}

size_t SessionChannel::Recv(void* data, size_t size) {
  for (;;) {
    const ssize_t received = recv(socket_, data, size, 0);
    if (received >= 0) return static_cast<size_t>(received);
    if (WouldBlock()) {
      Wait(POLLIN);
    } else if (errno != EINTR) {
      Break("receiving from");
    }
  }
}

void SessionChannel::Wait(short events) {
  const double deadline = Now() + idle_timeout_;
  for (;;) {
    const double left_ms = idle_timeout_ == 0 ? -1 : std::max(0.0, (deadline - Now()) * 1000);
    pollfd entry = {socket_, events, 0};
    const int ready = poll(&entry, 1, static_cast<int>(std::min<double>(left_ms, INT_MAX)));
    if (ready > 0) return;
    if (ready == 0 && left_ms < 1) {
      broken_ = true;
      throw IdleError("the client was silent for " +
                      std::to_string(static_cast<long>(idle_timeout_)) + " seconds");
    }
    if (ready < 0 && errno != EINTR) Break("waiting for");
  }
}

void SessionChannel::Break(const char* doing) {
  broken_ = true;
  throw std::runtime_error(std::string(doing) + " the client failed: " + std::strerror(errno));
}

}  // namespace edgevit

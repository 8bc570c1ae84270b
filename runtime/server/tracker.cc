#include "tracker.h"

#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <tvm/ffi/error.h>
#include <tvm/ffi/extra/json.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "log.h"
#include "protocol.h"

namespace edgevit {
namespace {

// tvm/rpc/base.py: TrackerCode.
constexpr int kPutCode = 3;
constexpr int kUpdateInfoCode = 5;
constexpr int kPendingCode = 7;

constexpr double kAnswerSeconds = 10;
constexpr double kFirstBackoff = 0.5;
constexpr double kMaxBackoff = 10;
constexpr double kPingSeconds = 2;
// A client that got the key has this long to connect before the device is offered again, as with
// TVM's own server.
constexpr double kUnusedKeySeconds = 4;
constexpr size_t kMaxReply = 1 << 20;

// The tracker takes the part before the last colon for the device's key.
std::string NewMatchKey(const std::string& key) {
  unsigned long long number = 0;
  if (getrandom(&number, sizeof(number), 0) != sizeof(number)) {
    number = static_cast<unsigned long long>(Now() * 1e9);
  }
  char text[24];
  std::snprintf(text, sizeof(text), ":%016llx", number);
  return key + text;
}

std::string Nullable(const std::string& text) { return text.empty() ? "null" : JsonQuote(text); }

}  // namespace

Tracker::Tracker(const Options& options, int port)
    : options_(options), port_(port), backoff_(kFirstBackoff) {}

short Tracker::events() const {
  return static_cast<short>(connecting_ || !out_.empty() ? POLLIN | POLLOUT : POLLIN);
}

void Tracker::SetFree(bool is_free) {
  if (free_ == is_free) return;
  free_ = is_free;
  match_key_.clear();
  if (free_) deadline_ = Now();
}

void Tracker::Advance() {
  const double now = Now();
  if (!socket_) {
    if (now >= deadline_) Connect();
    return;
  }
  if (connecting_) {
    pollfd entry = {socket_.get(), POLLOUT, 0};
    if (poll(&entry, 1, 0) == 0) {
      if (now >= deadline_) Disconnect("no connection in time");
      return;
    }
    if (const int error = ConnectError(socket_.get())) return Disconnect(std::strerror(error));
    connecting_ = false;
    // The one exchange that is not JSON.
    asked_ = Request::kHello;
    out_ = Word(kTrackerMagic);
    deadline_ = now + kAnswerSeconds;
  }
  Flush();
  if (socket_) Receive();
  if (!socket_ || now < deadline_) return;
  if (asked_ != Request::kNone) return Disconnect("no answer in time");
  AskNext();
}

void Tracker::Connect() {
  in_.clear();
  out_.clear();
  socket_ = StartConnect(options_.tracker_host, options_.tracker_port);
  if (!socket_) return Disconnect("no connection");
  connecting_ = true;
  deadline_ = Now() + kAnswerSeconds;
}

void Tracker::Disconnect(const std::string& reason) {
  // Once for each loss, not for each attempt to come back.
  if (known_ || backoff_ == kFirstBackoff) {
    Log("tracker_lost", JsonObject().Add("reason", reason));
  }
  socket_.Reset();
  connecting_ = known_ = false;
  asked_ = Request::kNone;
  match_key_.clear();
  deadline_ = Now() + backoff_;
  backoff_ = std::min(backoff_ * 2, kMaxBackoff);
}

void Tracker::Ask(Request request, const std::string& message) {
  asked_ = request;
  out_ += Framed(message);
  deadline_ = Now() + kAnswerSeconds;
  Flush();
}

void Tracker::Flush() {
  while (!out_.empty()) {
    const ssize_t sent = send(socket_.get(), out_.data(), out_.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && errno == EAGAIN) return;
    if (sent < 0) return Disconnect(std::strerror(errno));
    out_.erase(0, static_cast<size_t>(sent));
  }
}

void Tracker::Receive() {
  char block[4096];
  for (;;) {
    const ssize_t size = recv(socket_.get(), block, sizeof(block), 0);
    if (size > 0) {
      in_.append(block, static_cast<size_t>(size));
      if (in_.size() > kMaxReply) return Disconnect("an answer too long");
    } else if (size == 0) {
      return Disconnect("it closed the connection");
    } else if (errno == EAGAIN) {
      break;
    } else if (errno != EINTR) {
      return Disconnect(std::strerror(errno));
    }
  }
  for (std::string reply; socket_ && TakeReply(&reply);) Handle(reply);
}

bool Tracker::TakeReply(std::string* reply) {
  int32_t word;
  if (in_.size() < sizeof(word)) return false;
  std::memcpy(&word, in_.data(), sizeof(word));
  if (asked_ == Request::kHello) {
    *reply = in_.substr(0, sizeof(word));
    in_.erase(0, sizeof(word));
    return true;
  }
  if (word < 0 || static_cast<size_t>(word) > kMaxReply) {
    Disconnect("an answer of impossible length");
    return false;
  }
  const size_t length = static_cast<size_t>(word);
  if (in_.size() - sizeof(word) < length) return false;
  *reply = in_.substr(sizeof(word), length);
  in_.erase(0, sizeof(word) + length);
  return true;
}

void Tracker::Handle(const std::string& reply) {
  const Request request = asked_;
  asked_ = Request::kNone;
  switch (request) {
    case Request::kNone:
      return Disconnect("an answer to no question");
    case Request::kHello:
      if (reply != Word(kTrackerMagic)) return Disconnect("it is no tracker");
      return Ask(Request::kInfo, "[" + std::to_string(kUpdateInfoCode) +
                                     ", {\"key\": " + JsonQuote("server:" + options_.key) +
                                     ", \"addr\": [" + Nullable(options_.custom_addr) + ", " +
                                     std::to_string(port_) + "]}]");
    case Request::kInfo:
      if (reply != "0") return Disconnect("it refused the registration");
      known_ = true;
      backoff_ = kFirstBackoff;
      Log("tracker_connected", JsonObject().Add("key", options_.key));
      return AskNext();
    case Request::kPut:
      if (reply != "0") return Disconnect("it refused the offer");
      deadline_ = Now() + kPingSeconds;
      return;
    case Request::kPending:
      return HandlePending(reply);
  }
}

// The tracker lists the keys no client has taken. A key that is gone but never shown up here was
// taken by a client that died: offer the device under a new one.
void Tracker::HandlePending(const std::string& reply) {
  const double now = Now();
  deadline_ = now + kPingSeconds;
  if (match_key_.empty()) return AskNext();
  bool waiting = false;
  try {
    for (const tvm::ffi::Any& key : tvm::ffi::json::Parse(reply).cast<tvm::ffi::json::Array>()) {
      waiting = waiting || key.cast<std::string>() == match_key_;
    }
  } catch (const tvm::ffi::Error&) {
    return Disconnect("an answer that is not a list of keys");
  }
  if (waiting) {
    key_missing_since_ = 0;
  } else if (key_missing_since_ == 0) {
    key_missing_since_ = now;
  } else if (now - key_missing_since_ > kUnusedKeySeconds) {
    Put();
  }
}

void Tracker::AskNext() {
  if (!free_) {
    // Nothing to say until the session ends; a lost connection is noticed without asking.
    deadline_ = kForever;
  } else if (match_key_.empty()) {
    Put();
  } else {
    Ask(Request::kPending, "[" + std::to_string(kPendingCode) + "]");
  }
}

void Tracker::Put() {
  match_key_ = NewMatchKey(options_.key);
  key_missing_since_ = 0;
  Ask(Request::kPut, "[" + std::to_string(kPutCode) + ", " + JsonQuote(options_.key) + ", [" +
                         std::to_string(port_) + ", " + JsonQuote(match_key_) + "], " +
                         Nullable(options_.custom_addr) + "]");
}

}  // namespace edgevit

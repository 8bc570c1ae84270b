#include "handshake.h"

#include <sys/socket.h>

#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>

namespace edgevit {
namespace {

// A key and its options; nobody needs more.
constexpr int32_t kMaxKey = 4096;
constexpr size_t kHeader = 2 * sizeof(int32_t);  // magic number and length of the key

int32_t WordAt(const std::string& bytes, size_t offset) {
  int32_t value;
  std::memcpy(&value, bytes.data() + offset, sizeof(value));
  return value;
}

}  // namespace

Handshake::State Handshake::Read() {
  while (state_ == State::kReading) {
    size_t wanted = kHeader;
    if (received_.size() >= kHeader) {
      const int32_t length = WordAt(received_, sizeof(int32_t));
      if (WordAt(received_, 0) != kRpcMagic || length < 0 || length > kMaxKey) {
        return state_ = State::kBroken;
      }
      wanted += static_cast<size_t>(length);
    }
    if (received_.size() == wanted) {
      key_ = received_.substr(kHeader);
      return state_ = State::kComplete;
    }
    char block[kHeader + kMaxKey];
    const ssize_t size = recv(socket_.get(), block, wanted - received_.size(), 0);
    if (size > 0) {
      received_.append(block, static_cast<size_t>(size));
    } else if (size < 0 && errno == EAGAIN) {
      break;
    } else if (size == 0 || errno != EINTR) {
      state_ = State::kBroken;
    }
  }
  return state_;
}

void Handshake::Reply(Answer answer, const std::string& server_key) {
  std::string reply = Word(static_cast<int32_t>(answer));
  if (answer == Answer::kWelcome) reply += Framed("server:" + server_key);
  (void)send(socket_.get(), reply.data(), reply.size(), MSG_NOSIGNAL);
}

double Handshake::asked_timeout() const {
  constexpr char kOption[] = " -timeout=";
  const size_t found = key_.find(kOption);
  if (found == std::string::npos) return 0;
  const double seconds = std::strtod(key_.c_str() + found + sizeof(kOption) - 1, nullptr);
  return std::isfinite(seconds) && seconds > 0 ? seconds : 0;
}

}  // namespace edgevit

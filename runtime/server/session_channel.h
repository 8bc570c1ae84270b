// The byte channel under a session's RPC endpoint, with a limit on every wait.
#ifndef EDGEVIT_SERVER_SESSION_CHANNEL_H_
#define EDGEVIT_SERVER_SESSION_CHANNEL_H_

#include <stdexcept>

#include "rpc/rpc_channel.h"

namespace edgevit {

// The client asked nothing, or took no answer, for too long.
class IdleError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class SessionChannel final : public tvm::runtime::RPCChannel {
 public:
  // `socket` is non-blocking and stays the caller's. `idle_timeout` in seconds, 0 for none; the
  // time a call runs does not count.
  SessionChannel(int socket, double idle_timeout) : socket_(socket), idle_timeout_(idle_timeout) {}

  // Both throw IdleError, or std::runtime_error when the connection broke. After that, Send
  // discards: the endpoint says goodbye in its destructor, where nobody can handle an error.
  size_t Send(const void* data, size_t size) final;
  size_t Recv(void* data, size_t size) final;

 private:
  void Wait(short events);
  [[noreturn]] void Break(const char* doing);

  int socket_;
  double idle_timeout_;
  bool broken_ = false;
};

}  // namespace edgevit

#endif  // EDGEVIT_SERVER_SESSION_CHANNEL_H_
